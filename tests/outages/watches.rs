//! The watches break, fall silent, or want to go on from what etcd has forgotten.

use std::time::Duration;

use super::{
    apiserver::{LONG_STREAK, green_fails, never_anew},
    scene::{DOWN, LIMIT, Recorded, Scene, Witness, check_one_flip, told, wait_log, wait_told},
};
use crate::support::{Cluster, Daemon, Ground, Held, Relay, Stage, Toll, real_parts, toll::Asked};

/// Watches of one namespace: Services, EndpointSlices, pods, Deployments.
const WATCHES: usize = 4;
/// Every list and watch of these goes to etcd itself, and so does what has been compacted.
const NO_WATCH_CACHE: &str = "--watch-cache-sizes=services#0,pods#0,endpointslices.discovery.k8s.io#0,deployments.apps#0";

/// Waits until the daemon says that it cannot see the endpoints.
async fn wait_lost(daemon: &mut Daemon) {
    daemon
        .wait_for("the loss to be shown", |guard| {
            guard["rules"].to_string().contains("the watch of the cluster is lost")
        })
        .await;
}

/// Green goes down, and a daemon that means to flip would have done it by the end.
async fn goes_down_and_stays(ground: &Ground) {
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.cluster.wait_ready(&ground.namespace, "shop-green", false).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ground.flips().len(), 0, "{:#?}", ground.flips());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_again_and_again_hold_a_flip_up_only_while_no_watch_can_be_trusted() {
    let name = "connections_that_are_reset_again_and_again_hold_a_flip_up_only_while_no_watch_can_be_trusted";
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let relay = Relay::before(&ground).await;
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    let witness = Witness::of(&ground).await;
    let reset_every = async |pause: Duration| -> () {
        loop {
            relay.reset();
            tokio::time::sleep(pause).await;
        }
    };
    // None lives long enough to be trusted.
    let untrusted = async {
        wait_lost(&mut daemon).await;
        goes_down_and_stays(&ground).await;
    };
    tokio::select! {
        never = reset_every(Duration::from_millis(200)) => never,
        () = untrusted => {}
    }
    tokio::select! {
        never = reset_every(Duration::from_secs(5)) => never,
        () = ground.wait_selected("blue", LIMIT) => {}
    }
    check_one_flip(&ground, &mut daemon, &witness, Recorded::Once).await;
    daemon.terminate().await;
}

/// What stands before the API server ends every watch at once: its caches are told nothing, and are not believed.
#[tokio::test(flavor = "multi_thread")]
async fn watches_that_end_at_once_are_none_and_are_not_asked_for_without_a_pause() {
    let name = "watches_that_end_at_once_are_none_and_are_not_asked_for_without_a_pause";
    let Some(scene) = Scene::open(name).await else { return };
    let ground = &scene.ground;
    let (mut daemon, witness) = scene.released().await;
    scene.toll.set_brief_watches(true);
    wait_lost(&mut daemon).await;
    wait_log(ground, &["Watch lost", "ended at once"]).await;
    let before = scene.toll.watches();
    goes_down_and_stays(ground).await;
    let asked = scene.toll.watches() - before;
    assert!((1..200).contains(&asked), "{asked} watches in some seconds");
    scene.toll.set_brief_watches(false);
    check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    daemon.terminate().await;
}

/// The connections of all watches die without a word, the standby goes down unseen, and then the release turns bad.
#[tokio::test(flavor = "multi_thread")]
async fn watches_that_fall_silent_are_found_out_and_nothing_is_flipped_to_what_went_down_unseen() {
    let name = "watches_that_fall_silent_are_found_out_and_nothing_is_flipped_to_what_went_down_unseen";
    let Some(stage) = Stage::open(name, "follow_up = \"0s\"\n").await else {
        return;
    };
    let toll = Toll::before(&stage).await;
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let witness = Witness::of(&stage).await;
    toll.silence_watches();
    stage.cluster.set_ready(&stage.namespace, "shop-blue", false);
    stage.cluster.wait_ready(&stage.namespace, "shop-blue", false).await;
    stage.shop.set_errors("green", 0.3);
    wait_told(&stage, "rollback_failed", &["no pod of blue is Ready"]).await;
    // It does not wait for the silence to be too long.
    wait_log(&stage, &["Watch tells what is not so"]).await;
    wait_told(&stage, "rollback_blocked", &["0 Ready endpoints"]).await;
    assert_eq!((witness.colors(), stage.flips().len()), (vec!["green".to_owned()], 0));
    stage.cluster.set_ready(&stage.namespace, "shop-blue", true);
    check_one_flip(&stage, &mut daemon, &witness, Recorded::Once).await;
    daemon.terminate().await;
}

/// All watches end as they always do, and before they go on etcd is compacted: they are told that their version is gone. Meanwhile
/// the standby went down.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_compaction_the_watches_begin_anew_and_no_streak_does() {
    let name = "after_a_compaction_the_watches_begin_anew_and_no_streak_does";
    let Some(assets) = real_parts(name, &["etcd", "prometheus"]) else {
        return;
    };
    let cluster = Cluster::start_with(&assets, &[NO_WATCH_CACHE]).await;
    let stage = Stage::within(&cluster, LONG_STREAK).await;
    let toll = Toll::before(&stage).await;
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let witness = Witness::of(&stage).await;

    let mut resumed = toll.hold(Held::Before, Asked::is_watch);
    toll.end_watches();
    for _ in 0..WATCHES {
        resumed.caught(LIMIT).await;
    }
    let held = green_fails(&stage, &mut daemon).await;
    stage.cluster.set_ready(&stage.namespace, "shop-blue", false);
    stage.cluster.wait_ready(&stage.namespace, "shop-blue", false).await;
    cluster.compact().await;
    resumed.lift();
    never_anew(&daemon, held, async || !told(&stage, "rollback_blocked").is_empty()).await;
    assert!(toll.gone() >= 1, "no watch was told that its version is gone");
    wait_log(&stage, &["Watch starts over"]).await;
    wait_told(&stage, "rollback_blocked", &["0 Ready endpoints"]).await;
    assert_eq!((witness.colors(), stage.flips().len()), (vec!["green".to_owned()], 0));
    stage.cluster.set_ready(&stage.namespace, "shop-blue", true);
    check_one_flip(&stage, &mut daemon, &witness, Recorded::Once).await;
    daemon.terminate().await;
}
