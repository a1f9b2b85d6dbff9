//! From the first request that failed a user to the Service that is patched.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;

use super::{
    daemon::{Account, Daemon, Setup, guard_of},
    support::{Cluster, Shop, Traffic, now},
};

/// Releases that are broken per poll.
pub const SHOPS_PER_POLL: usize = 5;
/// Users' requests per second and shop.
const RATE: u32 = 60;
/// Of the bad release's requests: far over the threshold, and below what the rule calls severe and flips sooner for.
const ERRORS: f64 = 0.3;
/// Breaches in a row, by default.
const CONSECUTIVE: u32 = 3;
/// Between two releases that break. Not a multiple of a poll: each meets another moment of it.
const STAGGER: Duration = Duration::from_millis(1_100);
/// Until the guard has rolled back.
const LIMIT: Duration = Duration::from_secs(60);

/// One rollback.
#[derive(Clone, Copy, Debug)]
pub struct Reaction {
    /// From the first bad request to the accepted patch.
    pub seconds: f64,
    /// From the decision to the accepted patch, in the daemon's words.
    pub took_ms: f64,
}

/// The rule's own median in seconds: DECISIONS' "half a scrape + (N-1) x max(scrape, poll) + half a poll".
pub fn rule_median(scrape: Duration, poll: Duration) -> f64 {
    (scrape / 2 + (CONSECUTIVE - 1) * scrape.max(poll) + poll / 2).as_secs_f64()
}

/// Releases green on every shop and breaks it, one shop after another, all under one daemon.
pub async fn measure(cluster: &Cluster, setup: &Setup, shops: &[Shop], poll: Duration) -> Vec<Reaction> {
    let users = join_all(
        shops
            .iter()
            .map(async |shop| Traffic::start(cluster, &shop.namespace, &shop.active(), RATE).await),
    )
    .await;
    let guards: Vec<_> = shops.iter().map(guard_of).collect();
    let daemon = Daemon::start(setup, &guards, Some(poll)).await;
    join_all(shops.iter().map(|shop| shop.switch_to("green"))).await;
    for shop in shops {
        let watched = |guard: &serde_json::Value| guard["active"] == "green" && guard["phase"] == "watching";
        daemon.wait_for(&id(shop), "a watched release", LIMIT, watched).await;
    }
    // Two looks more, so that the release is seen to be good first.
    tokio::time::sleep(2 * poll + Duration::from_secs(2)).await;
    let broken: Vec<Timestamp> = join_all(shops.iter().zip(0..).map(async |(shop, n)| {
        tokio::time::sleep(STAGGER * n).await;
        shop.set_errors("green", ERRORS);
        now()
    }))
    .await;
    let mut took = Vec::new();
    for shop in shops {
        let guard = daemon
            .wait_for(&id(shop), "a rollback", LIMIT, |guard| {
                guard["last_incident"]["result"] == "rolled_back"
            })
            .await;
        took.push(
            guard["last_incident"]["took_ms"]
                .as_f64()
                .expect("a flip that moved traffic took time"),
        );
    }
    daemon.end().await;
    let audit = cluster.audit();
    let mut reactions = Vec::new();
    for (n, shop) in shops.iter().enumerate() {
        let patched = audit
            .iter()
            .find(|event| event.user == Account::USER && event.is_stored() && event.is_on("services", &shop.namespace, &shop.active()));
        let patched = patched.expect("the rollback is on record").answered;
        // Set a moment before the clock was read: the request may have come in between.
        let since = broken[n] - Duration::from_millis(50);
        let failed = users[n].first_bad(since).expect("a request failed").sent;
        reactions.push(Reaction {
            seconds: patched.duration_since(failed).as_secs_f64(),
            took_ms: took[n],
        });
    }
    reactions
}

fn id(shop: &Shop) -> String {
    format!("{}/{}", shop.namespace, shop.name)
}
