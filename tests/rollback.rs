//! The job, end to end, on real parts: a kube-apiserver, a Prometheus that scrapes real applications, users who send
//! requests, chats that write down what they hear, and the daemon as a process of its own under the ServiceAccount and
//! Role of `deploy/monitor.yaml`.
//!
//! Witnesses are the API server's audit log, the users' records, the chats' and the files on disk, not the daemon.

pub mod support;

use std::{collections::BTreeSet, io::Write, path::Path, process::Command, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use support::{
    AuditEvent, Stage, now,
    stage::{SOON, TOKEN, VERDICT_LIMIT},
};

/// Seconds from one time to another.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Figures that a reader of the test's output wants to see.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The patch touches the selector's key and our annotation, tests before it writes, and leaves the rest as it was.
fn assert_minimal(flip: &AuditEvent, before: &Value) {
    assert_eq!((flip.verb.as_str(), flip.code), ("patch", 200));
    let operations = flip.request.as_array().expect("a JSON patch");
    let writes: BTreeSet<&str> = operations
        .iter()
        .filter(|operation| operation["op"] != "test")
        .filter_map(|operation| operation["path"].as_str())
        .collect();
    assert!(writes.contains("/spec/selector/color"), "{operations:?}");
    for path in &writes {
        let ours = *path == "/spec/selector/color" || *path == "/metadata/annotations/flipback.dev~1ledger";
        assert!(ours, "{path} is none of our business");
    }
    let tested = operations.iter().filter(|operation| operation["op"] == "test");
    let tested: BTreeSet<&str> = tested.filter_map(|operation| operation["path"].as_str()).collect();
    assert!(
        tested.contains("/spec/selector/color") && tested.contains("/metadata/resourceVersion"),
        "{tested:?}"
    );
    let mut after = flip.response.clone();
    let mut before = before.clone();
    for object in [&mut before, &mut after] {
        object["spec"]["selector"]["color"] = Value::Null;
        let metadata = object["metadata"].as_object_mut().expect("an object");
        for moving in ["resourceVersion", "managedFields"] {
            metadata.remove(moving);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("flipback.dev/ledger");
        }
    }
    assert_eq!(before["spec"], after["spec"]);
    assert_eq!(before["metadata"], after["metadata"]);
}

/// A Service as JSON, the way the API server writes it.
async fn service(stage: &Stage, name: &str) -> Value {
    let said = stage
        .cluster
        .kubectl(&["-n", &stage.namespace, "get", "service", name, "-o", "json"], "")
        .await;
    serde_json::from_str(&said.expect("the Service is there")).expect("JSON")
}

/// Every file the manifest names is there, byte for byte, and every file that is there is named.
fn assert_complete(folder: &Path) -> Value {
    let manifest = std::fs::read_to_string(folder.join("MANIFEST.sha256")).expect("a manifest");
    let done = Command::new("sha256sum")
        .args(["--check", "--quiet", "MANIFEST.sha256"])
        .current_dir(folder)
        .output();
    let done = done.expect("sha256sum runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for part in [
        "incident.json",
        "events.json",
        "manifests/service.shop-active.json",
        "manifests/deployment.shop-green.json",
        "manifests/replicasets.green.json",
        "manifests/pods.green.json",
        "manifests/pods.blue.json",
        "manifests/endpointslices.shop-active.json",
        "metrics/error_rate.green.json",
    ] {
        assert!(manifest.contains(part), "no {part} among\n{manifest}");
    }
    assert!(
        manifest
            .lines()
            .any(|line| line.contains("logs/green/shop-green-") && line.ends_with("app.log")),
        "{manifest}"
    );
    let incident = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
    let incident: Value = serde_json::from_str(&incident).expect("JSON");
    assert_eq!(incident["capture_errors"], json!([]), "{incident:#}");
    if incident["case"]["trigger"]["kind"] == "rule" {
        assert_replays(folder, &incident);
    }
    incident
}

/// The record gives the same verdict for the same reason, to the bit.
fn assert_replays(folder: &Path, incident: &Value) {
    let replayed = Command::new(env!("CARGO_BIN_EXE_flipback")).arg("replay").arg(folder).output();
    let replayed = replayed.expect("replay runs");
    let (said, error) = (String::from_utf8_lossy(&replayed.stdout), String::from_utf8_lossy(&replayed.stderr));
    assert_eq!(replayed.status.code(), Some(10), "{said}\n{error}");
    let last: Value = serde_json::from_str(said.lines().last().expect("a look")).expect("JSON");
    assert_eq!((&last["decision"], &last["why"]), (&json!("rollback"), &incident["case"]["why"]));
    for rule in incident["case"]["rules"].as_array().expect("rules") {
        let again = &last["rules"][rule["rule"].as_str().expect("a name")];
        for key in ["outcome", "streak", "bad", "total"] {
            let number = |value: &Value| value.as_f64().map(f64::to_bits);
            assert_eq!(number(&again[key]), number(&rule[key]), "{key} of {rule} and {again}");
            assert!(again[key].is_number() || again[key] == rule[key], "{key} of {rule} and {again}");
        }
    }
    let manifest = std::fs::read_to_string(folder.join("MANIFEST.sha256")).expect("a manifest");
    assert!(manifest.contains("  decision.jsonl"), "{manifest}");
    let record = std::fs::read_to_string(folder.join("decision.jsonl")).expect("a record");
    let header: Value = serde_json::from_str(record.lines().next().expect("a header")).expect("JSON");
    assert_eq!(header["config_hash"], incident["case"]["config_hash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_release_is_rolled_back_once_and_everybody_hears_of_it() {
    let Some(stage) = Stage::open("a_failing_release_is_rolled_back_once_and_everybody_hears_of_it", "").await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let before = service(&stage, &stage.shop.active()).await;
    let preview_before = service(&stage, &stage.shop.preview()).await;

    let broken = now();
    stage.shop.set_errors("green", 0.3);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    stage.wait_topic("recovered", VERDICT_LIMIT).await;
    daemon.wait_phase(&["rolled_back"]).await;
    let folder = stage.evidence().await;
    let shown = daemon.guard().await.expect("the guard's status");
    daemon.terminate().await;
    stage.traffic.stop().await;

    // The API server: one patch of each Service, and nothing else but Events.
    let flips = stage.flips();
    assert_eq!(flips.len(), 1, "{flips:#?}");
    let flip = &flips[0];
    assert_minimal(flip, &before);
    assert_eq!(flip.response["spec"]["selector"], json!({"app": "shop", "color": "blue"}));
    let ledger = flip.response["metadata"]["annotations"]["flipback.dev/ledger"]
        .as_str()
        .expect("a ledger");
    let ledger: Value = serde_json::from_str(ledger).expect("JSON");
    assert_eq!(
        (&ledger["flips"][0]["from"], &ledger["flips"][0]["trigger"]),
        (&json!("green"), &json!("error_rate"))
    );
    let others: Vec<AuditEvent> = stage.stored().into_iter().filter(|event| event.resource != "events").collect();
    assert_eq!(others.len(), 2, "{others:#?}");
    assert!(others[1].is_on("services", &stage.namespace, &stage.shop.preview()));
    assert_eq!(others[1].response["spec"]["selector"], json!({"app": "shop", "color": "green"}));
    assert_eq!(others[1].response["spec"]["ports"], preview_before["spec"]["ports"]);

    // The users: from the flip on nobody suffers, but for requests that were under way.
    let first_bad = stage.traffic.first_bad(broken).expect("a failed request");
    let settled = flip.answered + Duration::from_secs(1);
    let (served, late) = (
        stage.traffic.bad_between(broken, settled),
        stage.traffic.bad_between(settled, now()),
    );
    assert!(late.is_empty(), "{} requests failed after the flip: {:?}", late.len(), late.first());
    assert!(stage.traffic.good_of("blue", settled) > 100);
    let took = seconds(first_bad.sent, flip.answered);
    tell(&format!(
        "errors: first bad request to accepted patch {took:.1} s, {} bad requests served",
        served.len()
    ));
    assert!(took < 20.0, "took {took} s");

    // The chats, in order.
    stage.wait_topic("evidence_ready", SOON).await;
    let told = stage.topics();
    assert_eq!(told.iter().filter(|topic| *topic == "evidence_ready").count(), 1, "{told:?}");
    // When the evidence is complete depends on the disk.
    let by_itself = |topic: &String| matches!(topic.as_str(), "degraded" | "evidence_ready");
    let topics: Vec<String> = told.into_iter().filter(|topic| !by_itself(topic)).collect();
    assert_eq!(topics, ["switched", "rollback_initiated", "rollback_completed", "recovered"]);
    for chat in ["/slack", "/teams"] {
        let heard = stage.chat.deliveries().iter().filter(|delivery| delivery.path == chat).count();
        assert!(heard >= 3, "{chat} heard {heard} messages");
    }

    // The disk.
    let incident = assert_complete(&folder);
    assert_eq!(incident["outcome"]["result"], "rolled_back");
    assert_eq!(
        (&incident["case"]["from"], &incident["case"]["to"]),
        (&json!("green"), &json!("blue"))
    );
    assert_eq!(incident["id"], ledger["flips"][0]["incident"]);
    assert_eq!(folder.file_name().and_then(|name| name.to_str()), incident["id"].as_str());

    // `kubectl describe service`.
    let events: Api<Event> = Api::namespaced(stage.cluster.admin().await, &stage.namespace);
    let about = events
        .list(&ListParams::default().fields("involvedObject.name=shop-active"))
        .await
        .expect("a list")
        .items;
    assert!(
        !about.is_empty()
            && about
                .iter()
                .all(|event| event.involved_object.uid.as_deref() == before["metadata"]["uid"].as_str())
    );

    // One sentence with numbers, and the same everywhere a person may look.
    let log = daemon.process.output();
    let why = incident["case"]["why"].as_str().expect("a sentence");
    assert!(why.contains("error rate ") && why.contains(" sure above 5 %"), "{why}");
    assert_eq!(ledger["flips"][0]["why"], why, "the ledger");
    assert_eq!(shown["last_incident"]["why"], why, "the page and the API");
    assert!(log.contains(why), "the log lacks {why:?}");
    assert!(
        about
            .iter()
            .any(|event| event.message.as_deref().is_some_and(|text| text.contains(why))),
        "no Event carries {why:?}"
    );
    // For people it begins as a sentence does.
    let (first, rest) = why.split_at(1);
    let sentence = format!("{}{rest}", first.to_uppercase());
    for (chat, words) in [("/slack", sentence.as_str()), ("/teams", sentence.as_str()), ("/webhook", why)] {
        let told = stage
            .chat
            .deliveries()
            .iter()
            .any(|delivery| delivery.path == chat && delivery.body.to_string().contains(words));
        assert!(told, "{chat} never said {words:?}");
    }

    // Secrets stay secret.
    for secret in [TOKEN, "/slack", "/teams", "/webhook"] {
        assert!(!log.contains(secret), "the log shows {secret:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_release_is_rolled_back() {
    let guard = "[guards.policy]\nwarm_up_latency = \"0s\"\n[guards.rules.latency_p95]\nthreshold = \"500ms\"\n";
    let Some(stage) = Stage::open("a_slow_release_is_rolled_back", guard).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let broken = now();
    stage.shop.set_latency("green", 0.3, Duration::from_millis(700));
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    let told = stage.wait_topic("rollback_completed", SOON).await;
    assert_eq!(told["trigger"], "latency_p95", "{told}");
    let flips = stage.flips();
    assert_eq!(flips.len(), 1);
    let took = seconds(broken, flips[0].answered);
    tell(&format!("latency: slowness to accepted patch {took:.1} s"));
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_crashes_is_rolled_back_with_the_previous_containers_words() {
    let guard = "[guards.rules.endpoints]\ndown_for = \"3s\"\n";
    let Some(stage) = Stage::open("a_release_that_crashes_is_rolled_back_with_the_previous_containers_words", guard).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let broken = now();
    stage
        .cluster
        .set_logs(&stage.namespace, "shop-green", "starting\n", Some("panic: no such table\n"));
    stage.cluster.crash(&stage.namespace, "shop-green");
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    let told = stage.wait_topic("rollback_completed", SOON).await;
    assert_eq!(told["trigger"], "endpoints", "{told}");
    let took = seconds(broken, stage.flips()[0].answered);
    tell(&format!("crash: crash to accepted patch {took:.1} s, of which 3 s are asked for"));
    stage.traffic.wait_for("blue", 60, SOON).await;

    let folder = stage.evidence().await;
    let logs = folder.join("logs/green");
    let previous: Vec<String> = std::fs::read_dir(&logs)
        .expect("logs of green")
        .filter_map(|pod| std::fs::read_to_string(pod.ok()?.path().join("app.previous.log")).ok())
        .collect();
    assert_eq!(previous, ["panic: no such table\n", "panic: no such table\n"]);
    let events = std::fs::read_to_string(folder.join("events.json")).expect("events");
    assert!(events.contains("BackOff"), "{events}");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_prometheus_moves_nothing_and_is_loud() {
    let guard = "[guards.policy]\nblind_after = \"5s\"\n";
    let Some(mut stage) = Stage::open("a_dead_prometheus_moves_nothing_and_is_loud", guard).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    // Bad for one breach at most, then nobody can tell.
    stage.shop.set_errors("green", 0.3);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stage.prometheus.kill();
    stage.shop.set_errors("green", 0.0);
    daemon.wait_phase(&["blind"]).await;
    stage.wait_topic("blind", SOON).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.shop.selected().await, "green");
    assert_eq!(stage.flips().len(), 0);

    stage.prometheus.restart().await;
    stage.wait_topic("sighted", VERDICT_LIMIT).await;
    daemon.wait_phase(&["watching"]).await;
    assert_eq!(stage.flips().len(), 0);
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_not_ready_gets_no_traffic_until_it_is() {
    let Some(stage) = Stage::open("a_standby_that_is_not_ready_gets_no_traffic_until_it_is", "").await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.cluster.set_ready(&stage.namespace, "shop-blue", false);
    stage.cluster.wait_ready(&stage.namespace, "shop-blue", false).await;
    stage.shop.set_errors("green", 0.3);
    stage.wait_topic("rollback_blocked", VERDICT_LIMIT).await;
    daemon.wait_phase(&["blocked"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stage.shop.selected().await, "green");
    assert_eq!(stage.flips().len(), 0);

    // Still breaching: the flip comes as soon as it may.
    stage.cluster.set_ready(&stage.namespace, "shop-blue", true);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    assert_eq!(stage.flips().len(), 1);
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_only_tells_and_writes_nothing() {
    let Some(stage) = Stage::open("monitor_only_tells_and_writes_nothing", "").await else {
        return;
    };
    let mut daemon = stage.start(&["--monitor-only"]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", 0.3);
    let told = stage.wait_topic("rollback_withheld", VERDICT_LIMIT).await;
    assert_eq!((&told["from"], &told["to"]), (&json!("green"), &json!("blue")));
    let incident = assert_complete(&stage.evidence().await);
    assert_eq!(
        (&incident["mode"], &incident["outcome"]["result"]),
        (&json!("monitor"), &json!("withheld"))
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    daemon.terminate().await;
    let asked = stage.cluster.audit_of(&stage.namespace, "flipback");
    assert!(asked.iter().any(|event| event.verb == "watch"), "it did look");
    let writes: Vec<&AuditEvent> = asked.iter().filter(|event| event.is_write()).collect();
    assert!(writes.is_empty(), "{writes:#?}");
    assert_eq!(stage.shop.selected().await, "green");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_rolls_back_by_hand_on_the_same_road() {
    let Some(stage) = Stage::open("a_person_rolls_back_by_hand_on_the_same_road", "").await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let guard = &daemon.guard;
    let rollback =
        |dry_run: bool| json!({"command": "rollback", "guard": guard, "by": "ann", "reason": "checkout is broken", "dry_run": dry_run});

    let (status, _) = daemon.command("wrong", &rollback(false)).await;
    assert_eq!(status, 401);
    let (status, answer) = daemon.command(TOKEN, &rollback(true)).await;
    assert_eq!(
        (status, &answer["incident"]["outcome"]["result"]),
        (200, &json!("dry_run")),
        "{answer}"
    );
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("green", 0));

    let (status, answer) = daemon.command(TOKEN, &rollback(false)).await;
    assert_eq!(
        (status, &answer["incident"]["outcome"]["result"]),
        (200, &json!("rolled_back")),
        "{answer}"
    );
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 1));
    stage.wait_topic("rollback_completed", SOON).await;
    let incident = assert_complete(&stage.evidence().await);
    assert_eq!(
        incident["case"]["trigger"],
        json!({"kind": "manual", "by": "ann", "reason": "checkout is broken"})
    );

    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_mid_streak_loses_time_and_nothing_else() {
    let Some(stage) = Stage::open("a_restart_in_mid_streak_loses_time_and_nothing_else", "").await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", 0.3);
    daemon.wait_phase(&["breaching"]).await;
    // As the kernel ends what used too much memory: no farewell.
    daemon.process.kill();
    assert_eq!(stage.flips().len(), 0, "it was quicker than the test: the streak was over");
    let again = now();
    let mut daemon = stage.start(&[]).await;
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    stage.wait_topic("rollback_completed", SOON).await;
    tell(&format!(
        "restart: start to accepted patch {:.1} s",
        seconds(again, stage.flips()[0].answered)
    ));
    daemon.wait_phase(&["rolled_back"]).await;

    // A third daemon reads from the Service what the second did: no second flip, cooldown and bad release known.
    daemon.terminate().await;
    let mut daemon = stage.start(&[]).await;
    let guard = daemon.wait_for("the cooldown", |guard| guard["cooldown_until"].is_string()).await;
    let bad = |color: &Value| color["color"] == "green" && color["known_bad"] == true;
    assert!(guard["colors"].as_array().is_some_and(|colors| colors.iter().any(bad)), "{guard:#}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 1));
    daemon.terminate().await;
}
