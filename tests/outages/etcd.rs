//! etcd hangs beneath the API server, which goes on to answer what it knows and can write nothing.

use super::scene::{LIMIT, Recorded, Witness, check_one_flip, wait_told};
use crate::support::Ground;

/// Late enough for a test to hang etcd between the first bad look and the decision.
const DOWN_LATER: &str = "follow_up = \"0s\"\n[guards.rules.endpoints]\ndown_for = \"4s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_hangs_nothing_is_known_and_in_the_end_traffic_was_moved_once() {
    let name = "while_etcd_hangs_nothing_is_known_and_in_the_end_traffic_was_moved_once";
    let Some(ground) = Ground::apart(name, DOWN_LATER).await else {
        return;
    };
    ground.edit("[clusters.testbed]\n", "[clusters.testbed]\nflip_timeout = \"2s\"\n");
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    let witness = Witness::of(&ground).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    daemon
        .wait_for("green to be seen down", |guard| guard["phase"] == "breaching")
        .await;
    ground.cluster.signal_etcd("STOP");
    wait_told(&ground, "rollback_failed", &["the answer was lost"]).await;
    assert_eq!(witness.colors(), ["green"]);
    // More than one attempt is on its way by then.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    ground.cluster.signal_etcd("CONT");
    ground.wait_selected("blue", LIMIT).await;
    check_one_flip(&ground, &mut daemon, &witness, Recorded::AtMostOnce).await;
    daemon.terminate().await;
}
