//! The API server is killed, hangs, or is slow.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::scene::{DOWN, LIMIT, Recorded, Scene, Witness, check_one_flip, told, wait_log, wait_told};
use crate::support::{
    Cluster, Daemon, Ground, Held, Late, Stage, eventually, real_parts,
    stage::{SOON, VERDICT_LIMIT},
};

/// Breaches enough that a streak can be met on its way, and time enough to harm something before it is over.
pub const LONG_STREAK: &str = "follow_up = \"0s\"\n[guards.policy]\nconsecutive = 5\n";
/// Late enough for a test to hang the API server between the first bad look and the decision.
const DOWN_LATER: &str = "follow_up = \"0s\"\n[guards.rules.endpoints]\ndown_for = \"4s\"\n";

/// The streak of the error rate.
pub fn streak(guard: &Value) -> u64 {
    let mut rules = guard["rules"].as_array().into_iter().flatten();
    let rule = rules.find(|rule| rule["rule"] == "error_rate");
    rule.and_then(|rule| rule["streak"].as_u64()).unwrap_or_default()
}

/// Green fails from now on; returns the streak once it is one.
pub async fn green_fails(stage: &Stage, daemon: &mut Daemon) -> u64 {
    stage.shop.set_errors("green", 0.3);
    streak(&daemon.wait_for("a streak", |guard| streak(guard) >= 2).await)
}

/// Looks on until something happens; the streak, once begun, never begins anew meanwhile.
pub async fn never_anew(daemon: &Daemon, least: u64, happens: impl AsyncFn() -> bool) {
    let least = AtomicU64::new(least);
    eventually("it to happen without a streak that begins anew", LIMIT, async || {
        let guard = daemon.guard().await?;
        if guard["active"] == "green" {
            let before = least.swap(streak(&guard), Ordering::Relaxed);
            assert!(streak(&guard) >= before, "a streak of {before} fell: {guard:#}");
        }
        happens().await.then_some(())
    })
    .await;
}

/// Three guards of one cluster whose API server is killed: one in mid-streak, one that has decided and whose patch is on its way,
/// one whose patch was carried out and whose answer is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_api_server_costs_no_streak_and_traffic_is_moved_once() {
    let name = "a_killed_api_server_costs_no_streak_and_traffic_is_moved_once";
    let Some(assets) = real_parts(name, &["etcd", "prometheus"]) else {
        return;
    };
    let cluster = Cluster::start(&assets).await;
    let (stage, decided, unseen) = tokio::join!(
        Stage::within(&cluster, LONG_STREAK),
        async { Scene::over(Ground::within(&cluster, DOWN).await).await },
        async { Scene::over(Ground::within(&cluster, DOWN).await).await },
    );
    // The world stands still until the kill, however long a busy machine takes for that.
    decided.set("flip_timeout = \"30s\"");
    unseen.set("flip_timeout = \"30s\"");
    let mut of_stage = stage.start(&[]).await;
    stage.release_green(&mut of_stage).await;
    let by_stage = Witness::of(&stage).await;
    let ((mut of_decided, by_decided), (mut of_unseen, by_unseen)) = tokio::join!(decided.released(), unseen.released());

    let mut before = decided.toll.hold(Held::Before, decided.about_active("PATCH"));
    let mut after = unseen.toll.hold(Held::After, unseen.about_active("PATCH"));
    let lost = unseen.toll.refuse(Held::After, 502, 1, unseen.about_active("PATCH"));
    decided.green_goes_down();
    unseen.green_goes_down();
    before.caught(LIMIT).await;
    after.caught(LIMIT).await;
    eventually("the patch to be carried out", SOON, async || {
        (unseen.ground.flips().len() == 1).then_some(())
    })
    .await;
    let held = green_fails(&stage, &mut of_stage).await;
    cluster.stop_apiserver().await;
    before.lift();
    after.lift();
    lost.wait(1, SOON).await;

    // Two of them cannot know what became of their patches; the third counts on, and may not flip to what it cannot see.
    tokio::join!(
        wait_told(&decided.ground, "rollback_failed", &["the answer was lost"]),
        never_anew(&of_stage, held, async || !told(&stage, "rollback_blocked").is_empty()),
    );
    wait_told(&stage, "rollback_blocked", &["cannot be seen"]).await;
    assert_eq!((stage.flips().len(), decided.ground.flips().len()), (0, 0));
    cluster.start_apiserver().await;
    let (incident, ..) = tokio::join!(
        check_one_flip(&stage, &mut of_stage, &by_stage, Recorded::Once),
        check_one_flip(&decided.ground, &mut of_decided, &by_decided, Recorded::Once),
        check_one_flip(&unseen.ground, &mut of_unseen, &by_unseen, Recorded::Once),
    );
    let rules = incident["case"]["rules"].as_array().expect("rules");
    let error_rate = rules.iter().find(|rule| rule["rule"] == "error_rate").expect("the rule");
    assert!(error_rate["streak"].as_u64() >= Some(5), "{error_rate:#}");
    for daemon in [&mut of_stage, &mut of_decided, &mut of_unseen] {
        daemon.terminate().await;
    }
}

/// Two guards of one cluster whose API server hangs, connections and all: one decides while nobody can know that it does, and what it
/// sends may lie before the API server's door; the release of the other turns bad when the watches are known to be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_api_server_is_not_believed_and_moves_traffic_once_when_it_goes_on() {
    let name = "a_hanging_api_server_is_not_believed_and_moves_traffic_once_when_it_goes_on";
    let Some(assets) = real_parts(name, &["etcd", "prometheus"]) else {
        return;
    };
    let cluster = Cluster::start(&assets).await;
    let (stage, early) = tokio::join!(Stage::within(&cluster, LONG_STREAK), Ground::within(&cluster, DOWN_LATER));
    early.edit("[clusters.testbed]\n", "[clusters.testbed]\nflip_timeout = \"2s\"\n");
    let (mut of_stage, mut of_early) = tokio::join!(stage.start(&[]), early.start(&[]));
    tokio::join!(stage.release_green(&mut of_stage), early.release_green(&mut of_early));
    let (by_stage, by_early) = tokio::join!(Witness::of(&stage), Witness::of(&early));

    early.cluster.set_ready(&early.namespace, "shop-green", false);
    of_early
        .wait_for("green to be seen down", |guard| guard["phase"] == "breaching")
        .await;
    cluster.signal_apiserver("STOP").await;
    // Whether it gets as far as to send something depends on the connections it has.
    wait_told(&early, "rollback_failed", &["shop-active"]).await;
    wait_log(&stage, &["Watch lost"]).await;
    stage.shop.set_errors("green", 0.3);
    wait_told(&stage, "rollback_blocked", &["cannot be seen"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.signal_apiserver("CONT").await;
    tokio::join!(
        check_one_flip(&stage, &mut of_stage, &by_stage, Recorded::Once),
        check_one_flip(&early, &mut of_early, &by_early, Recorded::AtMostOnce),
    );
    // What it could not see it did not even try.
    let mut asked = cluster.audit_of(&stage.namespace, "flipback");
    asked.retain(|event| event.verb == "patch" && event.is_on("services", &stage.namespace, &stage.shop.active()));
    assert_eq!(asked.len(), 1, "{asked:#?}");
    of_stage.terminate().await;
    of_early.terminate().await;
}

/// How slow it is, and whether a flip is told to have failed meanwhile.
async fn slow_by((asked, answered, fails): (u64, u64, bool)) -> Option<()> {
    let scene = Scene::open("a_slow_api_server_moves_traffic_once_and_is_told_of_where_it_is_too_slow").await?;
    let ground = &scene.ground;
    if fails {
        scene.set("flip_timeout = \"2s\"");
    }
    let (mut daemon, witness) = scene.released().await;
    scene.toll.set_late(Late {
        asked: Duration::from_millis(asked),
        answered: Duration::from_millis(answered),
    });
    scene.green_goes_down();
    if fails {
        wait_told(ground, "rollback_failed", &["the answer was lost"]).await;
    }
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    if fails {
        // Nor can anybody look whether traffic has arrived, until it answers in time again.
        wait_told(ground, "arrival_unseen", &["could not be looked at"]).await;
        assert!(told(ground, "rollback_completed").is_empty());
        scene.toll.set_late(Late::default());
    }
    check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    let gave_up = |data: &&Value| data["why"].as_str().is_some_and(|why| why.contains("the answer was lost"));
    assert_eq!(
        told(ground, "rollback_failed").iter().any(|data| gave_up(&data)),
        fails,
        "{asked} {answered}"
    );
    // At rest again, before it is told to end.
    scene.toll.set_late(Late::default());
    daemon.terminate().await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_api_server_moves_traffic_once_and_is_told_of_where_it_is_too_slow() {
    // Milliseconds on the way in and on the way back. The last is carried out when its sender has given it up, and said so.
    let slow = [(500, 500, false), (0, 3000, false), (1500, 1500, false), (9000, 0, true)];
    stream::iter(slow)
        .map(slow_by)
        .buffer_unordered(slow.len())
        .collect::<Vec<_>>()
        .await;
}
