//! What a rollback leaves behind, end to end on real parts: the daemon tells an incident to its end in one thread, completes
//! the evidence, writes its journal, and knows after a restart what it has not closed yet.

pub mod support;

use std::{path::Path, time::Duration};

use serde_json::Value;
use support::{Stage, eventually, stage::VERDICT_LIMIT};

/// Short times: the second pass, and how long calm must last until a bad time is over.
const SHORT: &str = "follow_up = \"10s\"\n[guards.policy]\nstretch = \"5s\"\nwarm_up_latency = \"1s\"\n";
/// A busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(90);

/// What the receiver of events was told about one thread, in order.
fn told(stage: &Stage, thread: &str) -> Vec<String> {
    let deliveries = stage.chat.deliveries();
    let own = deliveries
        .iter()
        .filter(|one| one.path == "/webhook" && one.body["data"]["thread"] == thread);
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
async fn journal(stage: &Stage, incident: &str) -> Vec<String> {
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

    let actions = journal(&stage, &id).await;
    for action in ["decided", "rolled_back", "evidence_kept", "recovered"] {
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
    assert_eq!(stage.flips().len(), 0, "nothing was moved");
    daemon.terminate().await;
}
