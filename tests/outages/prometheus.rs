//! Prometheus hangs for longer than a sample counts.

use std::time::Duration;

use super::{
    apiserver::{green_fails, never_anew, streak},
    scene::{Recorded, Witness, check_one_flip, told, wait_told},
};
use crate::support::{Stage, stage::SOON};

/// Breaches enough that the streak is met on its way.
const LONG_STREAK: &str = "follow_up = \"0s\"\n[guards.policy]\nconsecutive = 8\nblind_after = \"3s\"\n";
/// A sample counts for 30 s where it is scraped every second.
const STALE: Duration = Duration::from_secs(32);

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_hangs_in_mid_streak_moves_nothing_and_the_streak_goes_on_when_it_answers() {
    let name = "a_prometheus_that_hangs_in_mid_streak_moves_nothing_and_the_streak_goes_on_when_it_answers";
    let Some(stage) = Stage::open(name, LONG_STREAK).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let witness = Witness::of(&stage).await;
    green_fails(&stage, &mut daemon).await;
    stage.prometheus.signal("STOP");
    wait_told(&stage, "blind", &["no answer in time"]).await;
    let held = streak(&daemon.guard().await.expect("the daemon answers"));
    assert!((2..8).contains(&held), "met at {held}");
    tokio::time::sleep(STALE).await;
    let guard = daemon.guard().await.expect("the daemon answers");
    assert_eq!((streak(&guard), guard["phase"].as_str()), (held, Some("blind")), "{guard:#}");
    assert_eq!((witness.colors(), stage.flips().len()), (vec!["green".to_owned()], 0));

    stage.prometheus.signal("CONT");
    never_anew(&daemon, held, async || !stage.flips().is_empty()).await;
    check_one_flip(&stage, &mut daemon, &witness, Recorded::Once).await;
    assert_eq!(told(&stage, "blind").len(), 1);
    stage.wait_topic("sighted", SOON).await;
    daemon.terminate().await;
}
