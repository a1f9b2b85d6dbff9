//! The API server answers, and not what was hoped for.

use futures::{StreamExt as _, stream};

use super::scene::{DOWN, LIMIT, Recorded, Scene, check_one_flip, told, wait_log, wait_told};
use crate::support::{Ground, Held};

/// Stories that are told at the same time: they mostly wait.
const AT_ONCE: usize = 4;
/// More patches than any single attempt sends.
const ALWAYS: usize = usize::MAX;

/// What the patch is answered with, and how often.
#[derive(Clone, Copy, Debug)]
struct Answer {
    held: Held,
    status: u16,
    times: usize,
    /// What people are told has failed meanwhile; `None`: nothing has.
    failed: Option<&'static str>,
}

impl Answer {
    const fn new(held: Held, status: u16, times: usize, failed: Option<&'static str>) -> Self {
        Self {
            held,
            status,
            times,
            failed,
        }
    }
}

const ANSWERS: [Answer; 10] = [
    Answer::new(Held::Before, 403, ALWAYS, Some("HTTP 403")),
    Answer::new(Held::Before, 409, 2, None),
    Answer::new(Held::Before, 409, ALWAYS, Some("HTTP 409")),
    Answer::new(Held::Before, 422, 2, None),
    Answer::new(Held::Before, 429, 2, None),
    Answer::new(Held::Before, 429, ALWAYS, Some("HTTP 429")),
    // Nobody can know from the answer that nothing was done.
    Answer::new(Held::Before, 500, 1, Some("HTTP 500")),
    Answer::new(Held::Before, 503, ALWAYS, Some("HTTP 503")),
    // Nor that it was.
    Answer::new(Held::After, 500, 1, None),
    Answer::new(Held::After, 504, 1, None),
];

async fn answered_so(answer: Answer) -> Option<()> {
    let scene = Scene::open("whatever_the_patch_is_answered_with_traffic_is_moved_once_and_the_truth_is_told").await?;
    let ground = &scene.ground;
    let (mut daemon, witness) = scene.released().await;
    let refusing = scene
        .toll
        .refuse(answer.held, answer.status, answer.times, scene.about_active("PATCH"));
    scene.green_goes_down();
    let lasts = answer.times == ALWAYS;
    refusing.wait(if lasts { 1 } else { answer.times }, LIMIT).await;
    if let Some(words) = answer.failed {
        wait_told(ground, "rollback_failed", &[words]).await;
        if lasts {
            daemon
                .wait_for("the failure to be shown", |guard| {
                    let shown = &guard["last_incident"];
                    guard["active"] == "green" && shown["result"] == "failed" && guard["events"].to_string().contains(words)
                })
                .await;
            assert_eq!(
                (ground.flips().len(), witness.colors().as_slice()),
                (0, ["green".to_owned()].as_slice()),
                "{answer:?}"
            );
        }
    }
    refusing.stop();
    check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    assert_eq!(told(ground, "rollback_failed").is_empty(), answer.failed.is_none(), "{answer:?}");
    daemon.terminate().await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_patch_is_answered_with_traffic_is_moved_once_and_the_truth_is_told() {
    stream::iter(ANSWERS)
        .map(answered_so)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
}

/// The answer is lost, and so is that to every question whether it was carried out.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_whose_outcome_nobody_tells_is_known_in_the_end() {
    let Some(scene) = Scene::open("a_patch_whose_outcome_nobody_tells_is_known_in_the_end").await else {
        return;
    };
    let ground = &scene.ground;
    let (mut daemon, witness) = scene.released().await;
    let patches = scene.toll.refuse(Held::After, 504, ALWAYS, scene.about_active("PATCH"));
    let reads = scene.toll.refuse(Held::Before, 500, ALWAYS, scene.about_active("GET"));
    scene.green_goes_down();
    patches.wait(1, LIMIT).await;
    reads.wait(4, LIMIT).await;
    reads.stop();
    patches.stop();
    check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    daemon.terminate().await;
}

/// The patch is accepted, and the API server answers nothing that would show where traffic goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_flip_whose_arrival_nobody_can_look_at_is_told_as_that_and_as_completed_once_it_is_seen() {
    let Some(scene) = Scene::open("a_flip_whose_arrival_nobody_can_look_at_is_told_as_that_and_as_completed_once_it_is_seen").await else {
        return;
    };
    let ground = &scene.ground;
    let (mut daemon, witness) = scene.released().await;
    // Neither the watches nor their lists ask for one Service's.
    let looks = scene.toll.refuse(Held::Before, 503, ALWAYS, |asked| {
        asked.uri.contains("/endpointslices?") && asked.uri.contains("labelSelector=")
    });
    scene.green_goes_down();
    let unseen = wait_told(
        ground,
        "arrival_unseen",
        &["The API server has accepted the patch", "could not be looked at", "HTTP 503"],
    )
    .await;
    assert_eq!(
        (unseen["severity"].as_str(), unseen["to"].as_str()),
        (Some("warning"), Some("blue")),
        "{unseen:#}"
    );
    daemon
        .wait_for("the flip to be shown, and the doubt", |guard| {
            let shown = &guard["last_incident"];
            guard["active"] == "blue" && shown["result"] == "rolled_back" && guard["events"].to_string().contains("could not be looked at")
        })
        .await;
    // It is looked at again, and told neither twice nor as what nobody knows.
    looks.wait(looks.count() + 3, LIMIT).await;
    assert_eq!(told(ground, "arrival_unseen").len(), 1, "{:#?}", told(ground, "arrival_unseen"));
    assert!(told(ground, "rollback_completed").is_empty() && told(ground, "rollback_failed").is_empty());

    looks.stop();
    let incident = check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    let completed = wait_told(
        ground,
        "rollback_completed",
        &["Traffic was seen to have arrived", "after it was moved"],
    )
    .await;
    assert_eq!(completed["thread"], unseen["thread"], "{completed:#}");
    assert!(told(ground, "rollback_failed").is_empty(), "{:#?}", told(ground, "rollback_failed"));
    let timeline = incident["timeline"].as_array().expect("a story");
    let place = |fits: &dyn Fn(&serde_json::Value) -> bool| timeline.iter().position(fits).unwrap_or_else(|| panic!("{incident:#}"));
    let doubted = place(&|entry| entry["what"].as_str().is_some_and(|what| what.contains("could not be looked at")));
    assert!(doubted < place(&|entry| entry["moment"] == "arrived"), "{incident:#}");
    daemon.terminate().await;
}

// === what is read ===

/// The reading before the patch is refused: the patch goes by the cache, and compares.
async fn read_so(status: u16) -> Option<()> {
    let scene = Scene::open("a_refused_reading_before_the_patch_holds_nothing_up").await?;
    let ground = &scene.ground;
    let (mut daemon, witness) = scene.released().await;
    let refusing = scene.toll.refuse(Held::Before, status, ALWAYS, scene.about_active("GET"));
    scene.green_goes_down();
    ground.wait_selected("blue", LIMIT).await;
    assert!(refusing.count() >= 1, "it was never read");
    refusing.stop();
    let incident = check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    assert!(
        daemon
            .process
            .output()
            .contains("Service not read before the flip: going by the cache")
    );
    assert!(incident["case"]["why"].is_string(), "{incident:#}");
    daemon.terminate().await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_reading_before_the_patch_holds_nothing_up() {
    let statuses = [403, 409, 422, 429, 500];
    stream::iter(statuses)
        .map(read_so)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
}

/// An API server that has just been started refuses everybody for a moment: that is no missing right.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_passes_is_not_told_as_a_missing_right() {
    let Some(scene) = Scene::open("a_refusal_that_passes_is_not_told_as_a_missing_right").await else {
        return;
    };
    let (mut daemon, _witness) = scene.released().await;
    let refusing = scene.toll.refuse(Held::Before, 403, ALWAYS, scene.about_lists());
    scene.toll.cut_watches();
    wait_log(&scene.ground, &["Watch lost", "does not let the account list", "HTTP 403"]).await;
    refusing.stop();
    wait_log(&scene.ground, &["Watch is back"]).await;
    let log = daemon.process.output();
    assert!(!log.contains("deploy/monitor.yaml"), "{log}");
    daemon.terminate().await;
}

/// Watches break, and neither lists nor watches are answered for a while in which green goes down and so does blue.
async fn listed_so((status, words): (u16, &'static str)) -> Option<()> {
    let ground = Ground::open("while_lists_and_watches_are_refused_nothing_is_flipped_on_what_is_stale", DOWN).await?;
    let scene = Scene::over(ground).await;
    let ground = &scene.ground;
    let (mut daemon, witness) = scene.released().await;
    let refusing = scene.toll.refuse(Held::Before, status, ALWAYS, scene.about_lists());
    scene.toll.cut_watches();
    refusing.wait(4, LIMIT).await;
    ground.cluster.set_ready(&ground.namespace, "shop-blue", false);
    scene.green_goes_down();
    for color in ["shop-blue", "shop-green"] {
        ground.cluster.wait_ready(&ground.namespace, color, false).await;
    }
    daemon
        .wait_for("the loss to be shown", |guard| {
            guard["rules"].to_string().contains("the watch of the cluster is lost")
        })
        .await;
    // A right that was there counts as missing once that has lasted.
    wait_log(ground, &["Watch lost", words]).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(
        ground.stored().iter().all(|event| event.resource == "events"),
        "{:#?}",
        ground.stored()
    );

    // Well again: green is down, and so is blue; when blue is back it is flipped to.
    refusing.stop();
    wait_told(ground, "rollback_blocked", &["Ready"]).await;
    assert_eq!(ground.flips().len(), 0, "{:#?}", ground.flips());
    ground.cluster.set_ready(&ground.namespace, "shop-blue", true);
    check_one_flip(ground, &mut daemon, &witness, Recorded::Once).await;
    daemon.terminate().await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_lists_and_watches_are_refused_nothing_is_flipped_on_what_is_stale() {
    let refusals = [(403, "the account may not list"), (429, "HTTP 429"), (500, "HTTP 500")];
    stream::iter(refusals)
        .map(listed_so)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
}
