//! What a rollback leaves behind, end to end on real parts: the daemon tells an incident to its end in one thread, completes
//! the evidence, writes its journal, says what was lost, and knows after kill -9 what it has not told the end of yet.

pub mod support;

use std::{path::Path, time::Duration};

use serde_json::Value;
use support::{Ground, Stage, eventually, stage::VERDICT_LIMIT};

/// Short times: the second pass, and how long calm must last until a bad time is over.
const SHORT: &str = "follow_up = \"10s\"\n[guards.policy]\nstretch = \"5s\"\nwarm_up_latency = \"1s\"\n";
/// A busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(90);

/// What the receiver of events was told about one thread, in order.
/// What was told in a thread, each message once: one whose answer a kill has cut off comes again, with its key.
fn told(stage: &Ground, thread: &str) -> Vec<String> {
    let deliveries = stage.chat.deliveries();
    let mut known = std::collections::BTreeSet::new();
    let own = deliveries
        .iter()
        .filter(|one| one.path == "/webhook" && one.body["data"]["thread"] == thread)
        .filter(|one| known.insert(one.body["id"].to_string()));
    own.map(|one| one.body["data"]["topic"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn incident(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
    serde_json::from_str(&text).expect("JSON")
}

fn moments(incident: &Value) -> Vec<&str> {
    let timeline = incident["timeline"].as_array().into_iter().flatten();
    timeline.filter_map(|entry| entry["moment"].as_str()).collect()
}

/// The actions of the journal about an incident.
async fn journal(stage: &Ground, incident: &str) -> Vec<String> {
    let said = stage.run(&["audit", "show", "--incident", incident, "--output", "json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let entries = said.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    entries
        .map(|entry| entry["action"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_told_and_proven_to_its_end() {
    let Some(stage) = Stage::open("an_incident_is_told_and_proven_to_its_end", SHORT).await else {
        return;
    };
    // One of the chats refuses everything for good.
    stage.chat.set_status_of("/teams", 404);
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", 0.5);
    stage.wait_topic("rollback_initiated", VERDICT_LIMIT).await;
    stage.wait_topic("recovered", LIMIT).await;
    stage.wait_topic("resolved", LIMIT).await;
    let folder = stage.evidence().await;
    let id = folder.file_name().expect("a name").to_string_lossy().into_owned();

    let mut topics = told(&stage, &id);
    let ready = topics
        .iter()
        .position(|topic| topic == "evidence_ready")
        .expect("the report was announced");
    topics.remove(ready);
    assert_eq!(topics, ["rollback_initiated", "rollback_completed", "recovered", "resolved"]);

    let kept = incident(&folder);
    assert!(kept["followed_up_at"].is_string(), "{kept:#}");
    let moments = moments(&kept);
    for moment in ["decided", "patched", "arrived", "recovered", "followed_up"] {
        assert!(moments.contains(&moment), "no {moment} in {moments:?}");
    }
    for file in [
        "report.html",
        "report.md",
        "timeline.json",
        "plot.png",
        "after/manifests/service.shop-active.json",
    ] {
        assert!(folder.join(file).exists(), "no {file}");
    }
    let verified = stage.run(&["evidence", "verify", "last"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");

    // What that chat will never hear is told where people look: in the bundle, on the page, in the journal.
    let not_told = eventually("the bundle to say who was not told", LIMIT, async || {
        let kept = incident(&folder);
        let timeline = kept["timeline"].as_array().cloned().unwrap_or_default();
        timeline.into_iter().find(|entry| entry["moment"] == "not_told")
    })
    .await;
    let what = not_told["what"].as_str().unwrap_or_default();
    assert!(
        what.starts_with("The chat teams was not told") && what.contains("the webhook URL is no longer valid"),
        "{what}"
    );
    let shown = daemon.guard().await.expect("it answers");
    assert!(shown["events"].to_string().contains("The chat teams was not told"), "{shown:#}");

    let actions = journal(&stage, &id).await;
    for action in ["message_lost", "decided", "rolled_back", "evidence_kept", "recovered"] {
        assert!(actions.iter().any(|noted| noted == action), "no {action} in {actions:?}");
    }
    daemon.terminate().await;
    let verified = stage.run(&["audit", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_time_without_a_flip_is_closed_in_its_thread_after_a_restart_too() {
    let Some(stage) = Stage::open("a_bad_time_without_a_flip_is_closed_in_its_thread_after_a_restart_too", SHORT).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.cluster.set_ready(&stage.namespace, "shop-blue", false);
    stage.cluster.wait_ready(&stage.namespace, "shop-blue", false).await;
    stage.shop.set_errors("green", 0.5);
    let blocked = stage.wait_topic("rollback_blocked", VERDICT_LIMIT).await;
    let thread = blocked["thread"].as_str().expect("a thread").to_owned();
    let folder = stage.evidence().await;
    daemon.process.kill();

    stage.shop.set_errors("green", 0.0);
    let mut daemon = stage.start(&[]).await;
    eventually("the bad time to be over", LIMIT, async || {
        told(&stage, &thread).contains(&"resolved".to_owned()).then_some(())
    })
    .await;
    eventually("the bundle to say so", LIMIT, async || {
        moments(&incident(&folder)).contains(&"resolved").then_some(())
    })
    .await;
    let told = incident(&folder)["timeline"].as_array().expect("a story").last().expect("a line")["what"].clone();
    // Its first sentence: what follows may hold signs that a page writes otherwise.
    let told = told
        .as_str()
        .and_then(|told| told.split('.').next())
        .expect("a sentence")
        .to_owned();
    let says = |file: &str| std::fs::read_to_string(folder.join(file)).is_ok_and(|text| text.contains(&told));
    eventually("the report to say so too", LIMIT, async || {
        (says("timeline.json") && says("report.html")).then_some(())
    })
    .await;
    let verified = stage.run(&["evidence", "verify", "last"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(stage.flips().len(), 0, "nothing was moved");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_could_not_see_or_read_is_told_as_over_by_the_next() {
    let policy = "[guards.policy]\nblind_after = \"3s\"\n";
    let Some(stage) = Stage::open("what_an_earlier_run_could_not_see_or_read_is_told_as_over_by_the_next", policy).await else {
        return;
    };
    let (url, nowhere) = (stage.prometheus.url(), "http://127.0.0.1:9");
    stage.edit(&url, nowhere);
    let mut daemon = stage.start(&[]).await;
    let blind = stage.wait_topic("blind", VERDICT_LIMIT).await["thread"]
        .as_str()
        .expect("a thread")
        .to_owned();
    stage.shop.select("purple").await;
    let unknown = stage.wait_topic("unknown_color", VERDICT_LIMIT).await["thread"]
        .as_str()
        .expect("a thread")
        .to_owned();
    daemon.process.kill();

    stage.edit(nowhere, &url);
    stage.shop.select("blue").await;
    let mut daemon = stage.start(&[]).await;
    stage.wait_topic("sighted", LIMIT).await;
    stage.wait_topic("readable", LIMIT).await;
    assert_eq!(told(&stage, &unknown), ["unknown_color", "readable"]);
    let about_sight = told(&stage, &blind);
    assert_eq!(about_sight.last().map(String::as_str), Some("sighted"));
    assert_eq!(about_sight.iter().filter(|topic| *topic == "sighted").count(), 1, "{about_sight:?}");
    daemon.process.kill();

    // What was ended is not ended again.
    let mut daemon = stage.start(&[]).await;
    daemon.wait_phase(&["watching", "steady"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((told(&stage, &unknown).len(), told(&stage, &blind)), (2, about_sight));
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_evidence_is_told_and_its_thread_is_closed_by_what_comes_after_and_by_the_next_run() {
    let name = "lost_evidence_is_told_and_its_thread_is_closed_by_what_comes_after_and_by_the_next_run";
    let Some(stage) = Ground::open(name, SHORT).await else {
        return;
    };
    // A file where the folder of the incidents should be: nothing can be written below it, by root neither.
    let incidents = stage.folder.path().join("data/incidents");
    std::fs::create_dir_all(stage.folder.path().join("data")).expect("the folder is ours");
    let mut threads: Vec<String> = Vec::new();
    for color in ["green", "blue"] {
        std::fs::write(&incidents, "in the way").expect("writes");
        let mut daemon = stage.start(&[]).await;
        let guard = daemon.guard.clone();
        let said = stage.run(&["switch", &guard, color, "--reason", "to see"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        let lost = eventually("the loss to be told", LIMIT, async || {
            let deliveries = stage.chat.deliveries();
            let lost = |topic: &Value| topic == "evidence_lost";
            let mut own = deliveries
                .iter()
                .filter(|one| one.path == "/webhook" && lost(&one.body["data"]["topic"]));
            own.find_map(|one| Some(one.body["data"]["thread"].as_str()?.to_owned()).filter(|thread| !threads.contains(thread)))
        })
        .await;
        assert_eq!(stage.shop.selected().await, color, "traffic does not depend on the disk");
        threads.push(lost.clone());
        let closed = async || {
            eventually("its thread to be closed", LIMIT, async || {
                told(&stage, &lost).contains(&"resolved".to_owned()).then_some(())
            })
            .await;
        };
        if color == "green" {
            // The disk takes it again: it is kept after all.
            std::fs::remove_file(&incidents).expect("ours");
            closed().await;
            // The guard's own calm closes the thread too, and may do so before the disk is tried again.
            let bundle = incidents.join(&lost).join("incident.json");
            eventually("the bundle to be kept after all", LIMIT, async || bundle.exists().then_some(())).await;
            daemon.terminate().await;
            std::fs::remove_dir_all(&incidents).expect("ours");
        } else {
            daemon.process.kill();
            std::fs::remove_file(&incidents).expect("ours");
            let mut daemon = stage.start(&[]).await;
            closed().await;
            daemon.terminate().await;
        }
        let topics = told(&stage, &lost);
        assert_eq!(topics.iter().filter(|topic| *topic == "resolved").count(), 1, "{topics:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_look_that_a_killed_run_owed_is_taken_by_the_next() {
    let Some(stage) = Stage::open("the_second_look_that_a_killed_run_owed_is_taken_by_the_next", SHORT).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", 0.5);
    stage.wait_topic("evidence_ready", LIMIT).await;
    let folder = stage.evidence().await;
    daemon.process.kill();
    assert!(incident(&folder)["followed_up_at"].is_null(), "it was killed before");

    let mut daemon = stage.start(&[]).await;
    eventually("the second look", LIMIT, async || {
        incident(&folder)["followed_up_at"].as_str().map(str::to_owned)
    })
    .await;
    let id = folder.file_name().expect("a name").to_string_lossy().into_owned();
    eventually("the end to be told", LIMIT, async || {
        told(&stage, &id).contains(&"resolved".to_owned()).then_some(())
    })
    .await;
    let topics = told(&stage, &id);
    for topic in [
        "rollback_initiated",
        "rollback_completed",
        "evidence_ready",
        "recovered",
        "resolved",
    ] {
        assert_eq!(topics.iter().filter(|told| *told == topic).count(), 1, "{topic} in {topics:?}");
    }
    assert_eq!(stage.flips().len(), 1, "one flip");
    let verified = stage.run(&["evidence", "verify", "last"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    daemon.terminate().await;
}
