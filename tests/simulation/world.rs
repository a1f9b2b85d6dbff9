//! Everything outside the daemons: the cluster and its pods, users, Prometheus, chats, the roads between them, and time.
//!
//! One beat of 250 ms moves it: controllers and the node take a step where something changed; every second users send
//! requests, meddlers meddle and the invariants are looked at. Whatever the daemons do comes in through `api`, `measure`
//! and `chats`, and is told to the judge of the invariants at the moment it happens.

use std::{
    collections::BTreeMap,
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use flipback::{config::Config, model::Clock, sandbox::ControlPlane};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    actors::Meddlers,
    api::{Road, Signpost, Trouble},
    chance::Chance,
    chats::{Heard, Mood},
    daemon::Daemon,
    faults::{Fault, Weather},
    invariants::{Accepted, Judge},
    measure::{Lie, Scrape},
    script::Setup,
    story::Story,
    truth::{self, COLORS, Truth},
};

/// The guarded Service.
pub const SERVICE: &str = "/api/v1/namespaces/shop/services/web";
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
/// Who leads.
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/flipback/leases/flipback-shard-0";
/// A Lease of 15 s outlasts a patch of 5 s and half a second for so long after it was written.
const LEASED: Duration = Duration::from_millis(9500);
/// How often the world takes a step.
const BEAT: Duration = Duration::from_millis(250);
/// How long a pod takes to get Ready.
const READY_AFTER: Duration = Duration::from_secs(2);
/// When every story begins.
const EPOCH: &str = "2026-11-21T04:00:00Z";

/// The world. Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Inner>);

pub struct Inner {
    pub setup: Setup,
    pub config: Config,
    pub folder: PathBuf,
    pub story: Story,
    pub plane: ControlPlane,
    pub server: axum::Router,
    begun: Instant,
    epoch: Timestamp,
    /// How far each daemon's clock is off, in microseconds.
    off: Vec<Arc<AtomicI64>>,
    roads: Vec<Arc<Signpost>>,
    state: Mutex<State>,
    pub daemons: Mutex<Vec<Daemon>>,
}

pub struct State {
    pub chance: Chance,
    pub truth: Truth,
    pub weather: Weather,
    pub meddlers: Meddlers,
    pub judge: Judge,
    pods: Vec<(String, String, bool)>,
    born: BTreeMap<String, Duration>,
    version: u64,
    unsettled: bool,
    addresses: u32,
    /// Somebody will be quicker than the next patch.
    pub hurry: bool,
    /// When the Lease was last written.
    leased: Duration,
    kinds: std::collections::BTreeSet<String>,
}

impl Deref for World {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl World {
    /// A world with both colors deployed and blue active.
    pub fn new(setup: Setup, config: Config, folder: PathBuf) -> Self {
        let begun = Instant::now();
        let epoch: Timestamp = EPOCH.parse().expect("a constant");
        let clock = Clock::new(move || later(epoch, begun.elapsed()));
        let plane = ControlPlane::new("shop", &["web", "web-preview"], clock);
        let pipeline = "deploy-pipeline";
        let make = |path: &str, object: Value| drop(plane.create(pipeline, path, object).expect("a new cluster takes it"));
        for namespace in ["shop", "flipback"] {
            make("/api/v1/namespaces", json!({ "metadata": { "name": namespace } }));
        }
        let mut sides = BTreeMap::new();
        for (release, color) in (1..).zip(COLORS) {
            make(DEPLOYMENTS, truth::deployment(color, release, setup.pods));
            let side = truth::Side {
                release,
                share: 0.002,
                ..truth::Side::default()
            };
            sides.insert(color, side);
        }
        make(SERVICES, truth::service("web", "blue"));
        make(SERVICES, truth::service("web-preview", "green"));
        let replicas = setup.replicas;
        let state = State {
            chance: Chance::new(setup.seed, 2),
            truth: Truth {
                sides,
                rate: setup.rate,
                leftover: setup.leftover,
                ..Truth::default()
            },
            weather: Weather::default(),
            meddlers: Meddlers::default(),
            judge: Judge::new(&setup, replicas),
            pods: Vec::new(),
            born: BTreeMap::new(),
            version: 0,
            unsettled: true,
            addresses: 0,
            hurry: false,
            leased: Duration::ZERO,
            kinds: std::collections::BTreeSet::new(),
        };
        let server = plane.service();
        Self(Arc::new(Inner {
            story: Story::new(),
            off: (0..replicas).map(|_| Arc::default()).collect(),
            roads: (0..replicas).map(|_| Arc::default()).collect(),
            daemons: Mutex::new((0..replicas).map(|_| Daemon::default()).collect()),
            state: Mutex::new(state),
            setup,
            config,
            folder,
            plane,
            server,
            begun,
            epoch,
        }))
    }

    /// Looks at, or changes, the state.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the judge something.
    pub fn judge<T>(&self, tell: impl FnOnce(&mut Judge) -> T) -> T {
        self.with(|state| tell(&mut state.judge))
    }

    // === time ===

    /// The true time.
    pub fn now(&self) -> Timestamp {
        later(self.epoch, self.begun.elapsed())
    }

    /// A daemon's clock.
    pub fn clock(&self, daemon: usize) -> Clock {
        let (epoch, begun, off) = (self.epoch, self.begun, Arc::clone(&self.off[daemon]));
        Clock::new(move || {
            let off = SignedDuration::from_micros(off.load(Ordering::Relaxed));
            let now = later(epoch, begun.elapsed());
            now.saturating_add(off).unwrap_or(now)
        })
    }

    /// Steps a daemon's clock.
    pub fn step(&self, daemon: usize, seconds: i64) {
        self.off[daemon].fetch_add(seconds * 1_000_000, Ordering::Relaxed);
        self.story.tell(self.name(daemon), format!("its clock is stepped by {seconds} s"));
        let age = self.story.age();
        self.judge(|judge| {
            judge.disturbed(daemon, age, true);
            judge.daemons[daemon].ahead += seconds;
            judge.daemons[daemon].back += u64::try_from(-seconds).unwrap_or_default();
        });
    }

    pub fn name(&self, daemon: usize) -> String {
        format!("daemon {daemon}")
    }

    // === the cluster ===

    /// The color that users reach; `None`: something that is no color.
    pub fn active(&self) -> Option<&'static str> {
        let service = self.plane.get(SERVICE)?;
        let found = service.pointer("/spec/selector/color").and_then(Value::as_str)?;
        COLORS.into_iter().find(|color| *color == found)
    }

    /// The color that the preview Service shows.
    pub fn shown_by_preview(&self) -> Option<String> {
        let preview = self.plane.get(&SERVICE.replace("/web", "/web-preview"))?;
        preview.pointer("/spec/selector/color").and_then(Value::as_str).map(str::to_owned)
    }

    /// Edits the guarded Service as somebody outside.
    pub fn edit(&self, manager: &str, change: impl FnOnce(&mut Value)) {
        self.plane.edit(manager, SERVICE, change).expect("the Service is there");
    }

    /// Points the Service (and the preview the other way) at a color, as somebody outside.
    pub fn switch(&self, manager: &str, to: &str) {
        let from = self.active();
        self.edit(manager, |service| service["spec"]["selector"]["color"] = json!(to));
        let preview = SERVICE.replace("/web", "/web-preview");
        let away = truth::other(to);
        let _ = self
            .plane
            .edit(manager, &preview, |service| service["spec"]["selector"]["color"] = json!(away));
        let age = self.story.age();
        self.with(|state| {
            let was_bad = from.is_some_and(|from| {
                state
                    .truth
                    .side(from)
                    .last_bad
                    .is_some_and(|then| age.saturating_sub(then) < EXCUSE)
            });
            let released = state.truth.sides.get(to).map_or(age, |side| side.released);
            state.judge.switched(to, age, was_bad, from.is_none(), released);
        });
    }

    /// Deploys a release on a color.
    pub fn deploy(&self, color: &'static str, release: u32, share: f64, from: Duration) {
        let pods = self.setup.pods;
        let path = format!("{DEPLOYMENTS}/web-{color}");
        let wanted = truth::deployment(color, release, pods);
        let _ = self
            .plane
            .edit("deploy-pipeline", &path, |object| object["spec"] = wanted["spec"].clone());
        let age = self.story.age();
        self.with(|state| {
            let side = state.truth.side_mut(color);
            side.release = release;
            side.released = age;
            side.share = share;
            side.share_from = from;
            state.unsettled = true;
        });
    }

    /// One step of the controllers and of the node, where something changed.
    fn settle(&self) {
        let version = self.plane.version();
        if self.with(|state| state.version == version && !state.unsettled) {
            return;
        }
        self.plane.reconcile();
        let (now, at) = (self.story.age(), self.now());
        let found: Vec<Arc<Value>> = self.plane.list(PODS);
        let mut unsettled = false;
        let mut pods = Vec::new();
        for pod in &found {
            let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (name, color) = (text("/metadata/name"), text("/metadata/labels/color"));
            let (ready, waits, address) = self.with(|state| {
                let born = *state.born.entry(name.clone()).or_insert(now);
                let down = state.truth.sides.get(color.as_str()).is_none_or(|side| side.down);
                let mut address = text("/status/podIP");
                if address.is_empty() {
                    state.addresses += 1;
                    address = format!("10.244.{}.{}", state.addresses / 250, state.addresses % 250 + 1);
                }
                let grown = now.saturating_sub(born) >= READY_AFTER;
                (grown && !down, !grown, address)
            });
            unsettled |= waits;
            let status = status(pod, &address, ready, at);
            if pod.get("status") != Some(&status) {
                unsettled = true;
                let path = format!("{PODS}/{name}");
                let _ = self.plane.edit("kubelet", &path, |pod| pod["status"] = status);
            }
            pods.push((name, color, ready));
        }
        let mut ready: BTreeMap<String, u32> = BTreeMap::new();
        for (_, color, _) in pods.iter().filter(|(.., ready)| *ready) {
            *ready.entry(color.clone()).or_default() += 1;
        }
        self.with(|state| {
            state.version = version;
            state.unsettled = unsettled || self.plane.version() != version;
            state.born.retain(|name, _| pods.iter().any(|(pod, ..)| pod == name));
            state.truth.count_ready(&ready, now);
            state.pods = pods;
        });
    }

    /// Moves the world, for ever.
    pub async fn turn(self) {
        let mut beats = tokio::time::interval(BEAT);
        for beat in 0_u64.. {
            beats.tick().await;
            self.settle();
            if beat % 4 == 0 {
                self.second();
            }
            if beat % (self.setup.scrape.as_millis() as u64 / 250) == 3 {
                let at = self.now();
                self.with(|state| {
                    let pods = std::mem::take(&mut state.pods);
                    state.truth.scrape(&pods, at);
                    state.pods = pods;
                });
            }
        }
    }

    fn second(&self) {
        let (active, at, now) = (self.active(), self.now(), self.story.age());
        self.with(|state| {
            let pods = std::mem::take(&mut state.pods);
            state.truth.serve(active, &pods, at, now, &mut state.chance);
            state.pods = pods;
        });
        self.meddle();
        let up: Vec<bool> = self
            .daemons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(Daemon::is_up)
            .collect();
        let service = self.plane.get(SERVICE);
        self.with(|state| {
            let State { truth, weather, judge, .. } = state;
            judge.second(now, active, service.as_deref(), truth, weather, &up);
        });
    }

    /// The processes of a color restart.
    pub fn restart_pods(&self, color: &str) {
        let at = self.now();
        self.with(|state| {
            let pods = std::mem::take(&mut state.pods);
            state.truth.restart(&pods, color, at);
            state.pods = pods;
        });
    }

    /// The pods of a color go down, or come back.
    pub fn outage(&self, color: &str, down: bool) {
        self.with(|state| {
            state.truth.side_mut(color).down = down;
            state.unsettled = true;
        });
    }

    // === faults ===

    /// Something goes wrong; returns its number.
    pub fn begin(&self, fault: Fault) -> u64 {
        self.story.tell("trouble", format!("begins: {fault}"));
        let cuts = matches!(fault, Fault::CutOff { silent: false, .. });
        let number = self.with(|state| {
            state.kinds.insert(fault.kind());
            state.weather.begin(fault.clone())
        });
        self.weathered(&fault, cuts);
        number
    }

    /// It ends.
    pub fn end(&self, number: u64) {
        if let Some(fault) = self.with(|state| state.weather.end(number)) {
            self.story.tell("trouble", format!("is over: {fault}"));
            self.weathered(&fault, false);
        }
    }

    /// Everything ends.
    pub fn calm(&self) {
        for fault in self.with(|state| state.weather.clear()) {
            self.weathered(&fault, false);
        }
        self.with(|state| {
            state.meddlers.rest();
            state.hurry = false;
        });
        self.story.tell("world", "every trouble is over, nobody meddles any more");
    }

    /// Lets roads and disks feel what changed.
    fn weathered(&self, fault: &Fault, cuts: bool) {
        let age = self.story.age();
        for (daemon, road) in self.roads.iter().enumerate() {
            let (mut now, api) = self.with(|state| (state.weather.road(daemon), state.weather.api(daemon)));
            now.cuts = road.road().cuts + u64::from(cuts);
            road.set(now);
            if api
                || matches!(
                    fault,
                    Fault::Api { .. } | Fault::CutOff { .. } | Fault::Stall { .. } | Fault::Lag { .. }
                )
            {
                self.judge(|judge| judge.disturbed(daemon, age, false));
            }
        }
        if let Fault::Disk { who } = fault {
            let refuses = self.with(|state| state.weather.disk(*who));
            crate::daemon::refuse_writes(&self.data(*who), refuses);
        }
    }

    /// Every open connection of a daemon is closed.
    pub fn cut(&self, daemon: usize) {
        let road = self.roads[daemon].road();
        self.roads[daemon].set(Road {
            cuts: road.cuts + 1,
            ..road
        });
    }

    /// The kinds of faults that were on.
    pub fn kinds(&self) -> Vec<String> {
        self.with(|state| state.kinds.iter().cloned().collect())
    }

    pub fn data(&self, daemon: usize) -> PathBuf {
        self.folder.join(format!("daemon-{daemon}"))
    }

    // === what daemons meet ===

    pub fn signpost(&self, daemon: usize) -> Arc<Signpost> {
        Arc::clone(&self.roads[daemon])
    }

    pub fn cut_off(&self, daemon: usize) -> Option<bool> {
        self.with(|state| state.weather.cut_off(daemon))
    }

    /// The lots of what this daemon does now.
    fn lots(&self, daemon: usize, what: &str) -> Chance {
        Chance::of(self.setup.seed, &(daemon, what), self.story.age())
    }

    /// Makes the jitter that is drawn next a matter of this daemon, of this and of now: see [`Chance::of`].
    pub fn shuffle(&self, daemon: usize, what: &str) {
        fastrand::seed(self.lots(daemon, what).number());
    }

    /// What a request of a daemon meets.
    pub fn fate(&self, daemon: usize, read: bool, what: &str) -> Option<Trouble> {
        let mut lots = self.lots(daemon, what);
        self.with(|state| {
            let troubles = state.weather.troubles(daemon, read);
            let (met, _) = troubles.into_iter().find(|(_, share)| lots.happens(*share))?;
            Some(match met {
                // Reads that are refused with these are asked again after a wait that no seed decides.
                Trouble::Refuse(429 | 503 | 504) if read => Trouble::Refuse(500),
                Trouble::LoseAnswer | Trouble::Late(_) | Trouble::Deny(_) if read => Trouble::Swallow,
                Trouble::BreakAnswer if read => Trouble::Break,
                other => other,
            })
        })
    }

    /// What a look of a daemon meets.
    pub fn lie(&self, daemon: usize) -> Option<Lie> {
        let mut lots = self.lots(daemon, "prometheus");
        let lies = self.with(|state| state.weather.lies(daemon));
        lies.into_iter().find(|(_, share)| lots.happens(*share)).map(|(lie, _)| lie)
    }

    pub fn mood(&self, chat: &str) -> Option<Mood> {
        self.with(|state| state.weather.mood(chat))
    }

    pub fn scrape(&self, stale: bool) -> Option<Scrape> {
        self.with(|state| state.truth.scraped(stale))
    }

    /// A chat got a message.
    pub fn heard(&self, daemon: usize, heard: Heard, why: &str) {
        self.story.tell(
            format!("chat {}", heard.chat),
            format!("hears {} of daemon {daemon}: {why} [{}]", heard.topic.as_str(), heard.id),
        );
        self.judge(|judge| judge.heard(heard));
        self.burn(daemon, crate::daemon::Moment::Told);
    }

    /// A daemon's patch of the Service sets out. Where several share the guards, only the holder of the Lease may send one.
    pub fn patch_sent(&self, daemon: usize) {
        self.story.tell(self.name(daemon), "sends a patch of the Service");
        let lease = self.plane.get(LEASE);
        let holder = lease
            .as_ref()
            .and_then(|lease| lease.pointer("/spec/holderIdentity")?.as_str())
            .unwrap_or("nobody");
        let age = self.story.age();
        let since = age.saturating_sub(self.with(|state| state.leased));
        if self.setup.replicas > 1 && !holder.starts_with(&crate::daemon::identity(daemon)) {
            let told = format!("NEVER TWO WRITERS: daemon {daemon} sends a patch, and the Lease is held by {holder}");
            self.judge(|judge| judge.violated(age, told));
        } else if self.setup.replicas > 1 && since > LEASED {
            let told = format!(
                "NEVER TWO WRITERS: daemon {daemon} sends a patch that may outlast its Lease, which was renewed {:.1} s ago",
                since.as_secs_f64()
            );
            self.judge(|judge| judge.violated(age, told));
        }
        self.burn(daemon, crate::daemon::Moment::Sent);
        if self.with(|state| std::mem::take(&mut state.hurry))
            && let Some(active) = self.active()
        {
            let to = truth::other(active);
            self.story
                .tell("a person", format!("is quicker, and switches the Service to {to} with kubectl"));
            self.switch("kubectl-patch", to);
        }
    }

    /// The Lease was written.
    pub fn leased(&self) {
        let age = self.story.age();
        self.with(|state| state.leased = age);
    }

    /// A daemon's patch of the Service was carried out. Whether it lives to hear of it.
    pub fn patch_applied(&self, daemon: usize) -> bool {
        match self.burn(daemon, crate::daemon::Moment::Applied) {
            Some(down) => {
                // Beside what is being polled, which is the daemon's own.
                let world = self.clone();
                tokio::spawn(async move { world.crash(daemon, down) });
                false
            }
            None => true,
        }
    }

    /// A daemon's write was carried out: what it changed of the Service is judged.
    pub fn written(&self, daemon: usize, sent: Instant, before: Option<&Value>, after: Option<&Value>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        if before == after {
            return;
        }
        let accepted = Accepted {
            daemon,
            at: self.story.age(),
            sent: sent.duration_since(self.begun),
            before,
            after,
        };
        let lines = self.with(|state| {
            let State { truth, judge, .. } = state;
            judge.accepted(&accepted, truth)
        });
        for line in lines {
            self.story.tell("API server", line);
        }
    }
}

/// How long a color's badness excuses what comes after it: the engine looks back 5 min.
const EXCUSE: Duration = Duration::from_secs(6 * 60);

fn later(epoch: Timestamp, by: Duration) -> Timestamp {
    epoch.saturating_add(by).expect("within the range of time")
}

fn status(pod: &Value, address: &str, ready: bool, at: Timestamp) -> Value {
    let word = if ready { "True" } else { "False" };
    let before = pod.pointer("/status/conditions/0");
    let same = before.is_some_and(|condition| condition["status"] == word);
    let since = match before {
        Some(condition) if same => condition["lastTransitionTime"].clone(),
        _ => json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    };
    json!({
        "phase": "Running",
        "podIP": address,
        "conditions": [{ "type": "Ready", "status": word, "lastTransitionTime": since }],
        "containerStatuses": [{
            "name": "app", "image": pod.pointer("/spec/containers/0/image"), "imageID": "", "ready": ready, "started": true,
            "restartCount": 0, "state": { "running": { "startedAt": since } }, "lastState": {},
        }],
    })
}
