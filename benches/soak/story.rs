//! What happens to the town: releases good and bad, hands, pauses, faults and other configurations, one after another by their own beats.

#[path = "story/change.rs"]
mod change;
#[path = "story/deeds.rs"]
mod deeds;
#[path = "story/faults.rs"]
mod faults;
#[path = "story/look.rs"]
mod look;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    daemon::Guard,
    gauge::{Gauge, Reading},
    house::{self, CHATS, Entry, House, Plan},
    link::Link,
    model::Model,
    prometheus::{Manner, Prometheus},
    script::{Script, Side},
    support::{self, Chat, Cluster},
};

/// Shops that get releases; behind them those that are moved by hand, behind them those whose configuration changes.
pub const RELEASED: usize = 300;
/// See above.
pub const BY_HAND: usize = 400;
/// Where a Service's ledger is.
const LEDGER: &str = "flipback.dev/ledger";
/// Seconds that a shop is left alone after traffic was moved.
const REST: u64 = 35;
/// A bad release that is still active so long after it turned bad was not flipped: faults, pauses and a busy machine included.
const FLIP_LIMIT: u64 = 180;
/// Statuses further apart may have let values pass unseen.
const SEEN_APART_MAX: Duration = Duration::from_secs(45);
/// Other configurations are taken within this: two looks at the file, a check that asks Prometheus, a flip that ends.
const TAKEN_LIMIT: Duration = Duration::from_secs(120);
/// Things that are wrong are told so often; more say nothing more.
const WRONG_MAX: usize = 40;

/// How a shop fares, as far as the script knows.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Something may happen to it.
    Idle,
    /// Traffic was moved a moment ago.
    Resting { until: u64 },
    /// What is active turns bad in this second, and is to be flipped; `seen`: the daemon has seen it serve.
    Bad { from: u64, seen: bool },
    /// A command was not answered: whether traffic was moved shows later.
    Unsure { until: u64 },
}

#[derive(Clone, Debug)]
struct Affair {
    active: Side,
    stage: Stage,
}

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Releases, and those of them that were bad.
    pub releases: u64,
    /// See above.
    pub bad: u64,
    /// Bad ones that were flipped, by shop.
    pub flipped: BTreeMap<usize, u64>,
    /// Seconds from the first bad request to the moved Service, as statuses showed it.
    pub took: Vec<f64>,
    /// Commands to move a shop by hand: by shop given, and answered well.
    pub asked: BTreeMap<usize, u64>,
    /// See above.
    pub moved: BTreeMap<usize, u64>,
    /// Pauses.
    pub pauses: u64,
    /// Configurations that were taken, and refused.
    pub reloads: u64,
    /// See above.
    pub refusals: u64,
    /// Names that guards have had.
    pub names: BTreeSet<String>,
    /// Times of trouble: with Prometheus, on the road to the API server, of the server itself, with chats; renewed credentials.
    pub prometheus_faults: u64,
    /// See above.
    pub cuts: u64,
    /// See above.
    pub restarts: u64,
    /// See above.
    pub chat_faults: u64,
    /// See above.
    pub rotations: u64,
    /// Statuses that were compared, and how often comparing had to begin anew.
    pub statuses: u64,
    /// See above.
    pub resyncs: u64,
    /// Series that belonged to no guard.
    pub strays: u64,
}

/// Something that is done now and then.
struct Beat {
    every: Duration,
    due: Instant,
}

impl Beat {
    fn new(every: Duration, first: Duration) -> Self {
        Self {
            every,
            due: Instant::now() + first,
        }
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.due;
        if due {
            self.due = (self.due + self.every).max(now);
        }
        due
    }
}

/// A change of the configuration that is on its way.
struct Change {
    written: Instant,
    /// The hash in force when it was written.
    before: String,
    refused: bool,
    anew: Vec<usize>,
}

/// Something to be done later.
enum Later {
    Resume(usize),
    Heal,
    Reopen,
}

/// The town and its daemon.
pub struct Story {
    /// The shops, by number.
    pub shops: Vec<Guard>,
    /// What they count.
    pub script: Arc<Script>,
    /// Who tells the daemon.
    pub prometheus: Prometheus,
    /// Whom the daemon tells.
    pub chat: Chat,
    /// The road to the API server.
    pub link: Link,
    /// Where the shops are.
    pub cluster: Arc<Cluster>,
    /// The daemon.
    pub house: House,
    /// Reads what it holds.
    pub gauge: Gauge,
    /// What it is configured with.
    pub plan: Plan,
    /// What was done.
    pub tally: Tally,
    /// What is wrong.
    pub wrong: Vec<String>,
    /// What it held.
    pub readings: Vec<Reading>,
    /// What its streaks have to be, by shop.
    pub models: Vec<Model>,
    /// Flips that the ledgers on the Services tell of, by shop, in the end.
    pub ledgers: BTreeMap<String, u64>,
    admin: Client,
    affairs: Vec<Affair>,
    hash: String,
    change: Option<Change>,
    later: Vec<(Instant, Later)>,
    /// When the last configuration was taken.
    changed: Instant,
    seen: Instant,
    next: [usize; 8],
    out: Vec<Entry>,
}

/// Seconds since 1970.
fn second() -> u64 {
    u64::try_from(support::now().as_second()).unwrap_or_default()
}

/// Says what is going on.
fn say(what: &str) {
    super::say(what);
}

impl Story {
    /// Puts everything together; nothing happens yet.
    #[expect(clippy::too_many_arguments, reason = "all that the town is made of, once")]
    pub async fn new(
        shops: Vec<Guard>,
        script: Arc<Script>,
        prometheus: Prometheus,
        chat: Chat,
        link: Link,
        cluster: Arc<Cluster>,
        house: House,
        plan: Plan,
    ) -> Self {
        let admin = cluster.admin().await;
        let gauge = Gauge::new(house.process.id(), house::data(&house));
        let affair = Affair {
            active: Side::Blue,
            stage: Stage::Idle,
        };
        Self {
            models: (0..shops.len()).map(Model::new).collect(),
            affairs: vec![affair; shops.len()],
            tally: Tally {
                names: plan.guards.iter().map(|entry| entry.name.clone()).collect(),
                ..Tally::default()
            },
            shops,
            script,
            prometheus,
            chat,
            link,
            cluster,
            house,
            gauge,
            plan,
            wrong: Vec::new(),
            ledgers: BTreeMap::new(),
            readings: Vec::new(),
            admin,
            hash: String::new(),
            change: None,
            later: Vec::new(),
            changed: Instant::now(),
            seen: Instant::now(),
            next: [0; 8],
            out: Vec::new(),
        }
    }

    fn complain(&mut self, what: String) {
        if self.wrong.len() < WRONG_MAX {
            say(&format!("WRONG: {what}"));
            self.wrong.push(what);
        }
    }

    /// A number that grows with each call, for who takes turns.
    fn turn(&mut self, of: usize) -> usize {
        let turn = self.next[of];
        self.next[of] += 1;
        turn
    }

    /// Looks and measures, and nothing happens.
    pub async fn rest(&mut self, lasts: Duration) {
        let until = Instant::now() + lasts;
        let (mut looks, mut readings) = (Beat::new(LOOK, Duration::ZERO), Beat::new(READ, Duration::ZERO));
        while Instant::now() < until {
            if looks.is_due() {
                self.look().await;
            }
            if readings.is_due() {
                self.read().await;
            }
            self.catch_up().await;
            tokio::time::sleep(STEP).await;
        }
    }

    /// Lets everything happen.
    pub async fn happen(&mut self, lasts: Duration, said_every: Duration) {
        let until = Instant::now() + lasts;
        let beat = |every: u64, first: u64| Beat::new(Duration::from_millis(every), Duration::from_millis(first));
        let (mut looks, mut readings, mut said) = (beat(3000, 0), beat(2000, 500), Beat::new(said_every, said_every));
        let (mut releases, mut hands) = (beat(1000, 2000), beat(9000, 4000));
        let (mut reloads, mut rotations) = (beat(10_000, 5000), beat(55_000, 20_000));
        let (mut measures, mut roads, mut chats) = (beat(42_000, 15_000), beat(23_000, 9000), beat(17_000, 3000));
        let mut restarts = Beat::new(lasts / 4, lasts / 5);
        while Instant::now() < until {
            if looks.is_due() {
                self.look().await;
            }
            if readings.is_due() {
                self.read().await;
            }
            if releases.is_due() {
                self.release().await;
            }
            if hands.is_due() {
                self.move_by_hand().await;
            }
            if reloads.is_due() && self.change.is_none() {
                self.reload();
            }
            if rotations.is_due() {
                self.rotate().await;
            }
            if measures.is_due() {
                self.hurt_prometheus();
            }
            if roads.is_due() {
                self.hurt_road();
            }
            if chats.is_due() {
                self.hurt_chats();
            }
            if restarts.is_due() {
                self.restart_apiserver().await;
            }
            if said.is_due() {
                self.tell();
            }
            self.catch_up().await;
            tokio::time::sleep(STEP).await;
        }
    }

    /// Ends every fault; what is bad is still flipped.
    pub async fn calm_down(&mut self) {
        self.prometheus.set(Manner::Well);
        self.link.close(false);
        self.chat.set_silent(false);
        self.chat.set_status(200);
        for (_, later) in std::mem::take(&mut self.later) {
            if let Later::Resume(shop) = later {
                self.pause(shop, false).await;
            }
        }
        self.plan.guards.append(&mut self.out);
        let deadline = Instant::now() + Duration::from_secs(FLIP_LIMIT);
        while self.affairs.iter().any(|affair| matches!(affair.stage, Stage::Bad { .. })) && Instant::now() < deadline {
            self.rest(Duration::from_secs(3)).await;
        }
        self.plan.chats = CHATS[..4].iter().map(|&name| name.to_owned()).collect();
        if self.change.is_none() {
            // A file that says what the one before said is no change, and nothing that could be taken.
            self.plan.quiet = if self.plan.quiet == 300 { 240 } else { 300 };
            self.write(false, Vec::new());
        }
    }

    /// Reads the ledgers: those of rules' flips where releases are made, all of them elsewhere.
    pub async fn read_ledgers(&mut self) {
        let services: Api<Service> = Api::all(self.admin.clone());
        let list = services.list(&ListParams::default()).await.expect("Services can be listed").items;
        let by_hand: BTreeSet<&str> = self.shops.iter().skip(RELEASED).map(|shop| shop.name.as_str()).collect();
        self.ledgers = list
            .iter()
            .filter_map(|service| {
                let shop = service.metadata.name.as_deref()?.strip_suffix("-active")?;
                let ledger: Value = serde_json::from_str(service.metadata.annotations.as_ref()?.get(LEDGER)?).ok()?;
                let flips = ledger["flips"].as_array()?.iter();
                let counted = flips.filter(|flip| flip["automatic"] == true || by_hand.contains(shop)).count();
                Some((shop.to_owned(), counted as u64))
            })
            .collect();
    }

    fn tell(&self) {
        let Some(last) = self.readings.last() else { return };
        say(&format!(
            "{:.0} s: {:.0} looks, {} releases ({} bad, {} flipped), {} reloads, rss {:.1} MiB, {:.0} descriptors, {:.0} series, {} wrong",
            last.at,
            last.looks,
            self.tally.releases,
            self.tally.bad,
            self.tally.flipped.values().sum::<u64>(),
            self.tally.reloads,
            last.rss,
            last.descriptors(),
            last.series,
            self.wrong.len()
        ));
    }
}

/// Between two looks, two readings, two glances at the clock.
const LOOK: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(100);

/// A kubeconfig with a token of its own whose road to the API server is `link`.
pub async fn kubeconfig(cluster: &Cluster, link: &Link) -> String {
    let path = cluster.kubeconfig_for_service_account("flipback", "flipback").await;
    let text = std::fs::read_to_string(path).expect("our own kubeconfig");
    text.replace(cluster.url(), &link.url())
}
