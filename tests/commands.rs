//! The commands as a person on call gives them, on real parts: to a running daemon, and alone where none runs. The way
//! must not matter: same refusals, same patch, same evidence, same messages.

pub mod support;

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::{Value, json};
use support::{
    Ground, Said, Stage, eventually,
    stage::{SOON, VERDICT_LIMIT},
};

/// A rule that needs nothing but the API server, and is quick.
const DOWN: &str = "[guards.rules.endpoints]\ndown_for = \"2s\"\n";

/// Expects an exit code and, on standard output, words.
#[track_caller]
fn expect(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{said:#?}");
    for word in words {
        assert!(said.out.contains(word), "no {word:?} in {said:#?}");
    }
}

/// The names of the files in a folder of evidence.
fn files(folder: &Path) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(folder.join("MANIFEST.sha256")).expect("a manifest");
    let names = manifest.lines().filter_map(|line| line.split_once("  "));
    names.map(|(_, name)| name.to_owned()).collect()
}

fn incident(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
    serde_json::from_str(&text).expect("JSON")
}

/// The folder of evidence of an incident.
async fn evidence_of(ground: &Ground, id: &str) -> std::path::PathBuf {
    let folder = ground.folder.path().join("data/incidents").join(id);
    eventually(&format!("evidence of {id}"), SOON, async || {
        folder.join("MANIFEST.sha256").exists().then_some(())
    })
    .await;
    folder
}

/// What the chat heard after so many messages, without those that come later: when the evidence is complete, and, where a daemon goes on
/// watching, that the restored color is well.
fn topics_since(ground: &Ground, count: usize) -> Vec<String> {
    let mut topics = ground.topics().split_off(count);
    topics.retain(|topic| topic != "evidence_ready" && topic != "recovered");
    topics
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_by_hand_is_the_same_with_and_without_a_daemon() {
    let Some(stage) = Stage::open("a_rollback_by_hand_is_the_same_with_and_without_a_daemon", "").await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.wait_topic("switched", SOON).await;

    // Asked of the daemon.
    let heard = stage.topics().len();
    expect(
        &stage
            .run(&["rollback", "shop", "--reason", "checkout is broken", "--dry-run"])
            .await,
        0,
        &["would move", "nothing was changed"],
    );
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("green", 0));
    let said = stage
        .run(&["rollback", "shop", "--reason", "checkout is broken", "--output", "json"])
        .await;
    expect(&said, 0, &[]);
    let asked = said.json()["incident"].clone();
    assert_eq!(asked["outcome"]["result"], "rolled_back", "{asked}");
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 1));
    let with = evidence_of(&stage, asked["id"].as_str().expect("an id")).await;
    stage.wait_topic("rollback_completed", SOON).await;
    let heard_with: Vec<String> = topics_since(&stage, heard);
    daemon.wait_phase(&["rolled_back", "watching"]).await;

    // Again by mistake: refused, with the command for who means it.
    let said = stage.run(&["rollback", "shop", "--reason", "again"]).await;
    expect(&said, 1, &["rolled back from", "flipback switch"]);
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 1));
    daemon.terminate().await;

    // Alone, from the same situation.
    let said = stage.run(&["rollback", "shop", "--reason", "again"]).await;
    expect(&said, 1, &["rolled back from", "flipback switch"]);
    assert!(said.err.contains("No daemon runs here"), "{said:#?}");
    expect(
        &stage.run(&["switch", "shop", "blue", "--reason", "x"]).await,
        1,
        &["already active"],
    );
    expect(
        &stage.run(&["switch", "shop", "pink", "--reason", "x"]).await,
        64,
        &["no color \"pink\"", "blue, green"],
    );
    let heard = stage.topics().len();
    expect(
        &stage.run(&["switch", "shop", "green", "--reason", "fixed"]).await,
        0,
        &["from blue to green"],
    );
    // A switch is no rollback, and nobody is woken as if it were one.
    let said = topics_since(&stage, heard);
    assert!(
        said.contains(&"switched".to_owned()) && !said.contains(&"rollback_initiated".to_owned()),
        "{said:?}"
    );
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("green", 2));
    stage.shop.wait_endpoints("green", 2).await;
    let heard = stage.topics().len();
    expect(
        &stage
            .run(&["rollback", "shop", "--reason", "checkout is broken", "--dry-run"])
            .await,
        0,
        &["would move", "nothing was changed"],
    );
    assert_eq!(stage.flips().len(), 2);
    let said = stage
        .run(&["rollback", "shop", "--reason", "checkout is broken", "--output", "json"])
        .await;
    expect(&said, 0, &[]);
    let alone = said.json()["incident"].clone();
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 3));

    // The same evidence, the same messages, the same patch.
    let without = evidence_of(&stage, alone["id"].as_str().expect("an id")).await;
    assert_eq!(files(&with), files(&without));
    assert_eq!(topics_since(&stage, heard), heard_with);
    for folder in [&with, &without] {
        let incident = incident(folder);
        assert_eq!(
            incident["case"]["trigger"],
            json!({"kind": "manual", "by": "ann@bastion", "reason": "checkout is broken"})
        );
        assert_eq!(
            (&incident["outcome"]["result"], &incident["capture_errors"]),
            (&json!("rolled_back"), &json!([])),
            "{incident:#}"
        );
    }
    let flips = stage.flips();
    let touched = |index: usize| {
        let operations = flips[index].request.as_array().cloned().unwrap_or_default();
        let path = |operation: &Value| operation["path"].as_str().unwrap_or_default().to_owned();
        operations.iter().map(path).collect::<BTreeSet<_>>()
    };
    assert_eq!(touched(0), touched(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_by_hand_never_leads_back_to_the_bad_color_even_where_releases_are_not_known() {
    let name = "a_rollback_by_hand_never_leads_back";
    let alone = format!("{DOWN}[defaults]\ninherit_rules = false\n");
    let Some(ground) = Ground::open(name, &alone).await else { return };
    // Plain values: nobody can tell what a color runs.
    ground.edit(", deployment = \"shop-blue\"", "");
    ground.edit(", deployment = \"shop-green\"", "");
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    ground.wait_topic("rollback_completed", SOON).await;

    // The one on call is a second later; green could serve by now.
    ground.cluster.set_ready(&ground.namespace, "shop-green", true);
    daemon
        .wait_for("green to be seen Ready", |guard| {
            guard["active"] == "blue"
                && guard["colors"]
                    .as_array()
                    .is_some_and(|colors| colors.iter().all(|color| color["ready"] == 1))
        })
        .await;
    let said = ground.run(&["rollback", "shop", "--reason", "checkout is broken"]).await;
    expect(&said, 1, &["rolled back from", "flipback switch"]);
    assert_eq!((ground.shop.selected().await.as_str(), ground.flips().len()), ("blue", 1));
    daemon.terminate().await;
    let said = ground.run(&["rollback", "shop", "--reason", "checkout is broken"]).await;
    expect(&said, 1, &["rolled back from", "flipback switch"]);
    assert_eq!((ground.shop.selected().await.as_str(), ground.flips().len()), ("blue", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_the_same_with_and_without_a_daemon_and_exits_by_it() {
    let Some(stage) = Stage::open("status_says_the_same_with_and_without_a_daemon_and_exits_by_it", "").await else {
        return;
    };
    // Alone.
    let said = eventually("scrapes enough for one look", VERDICT_LIMIT, async || {
        let said = stage.run(&["status"]).await;
        (said.code == 0).then_some(said)
    })
    .await;
    expect(&said, 0, &["shop", "blue", "2/2", "error_rate"]);
    assert!(said.err.contains("No daemon was asked"), "{said:#?}");
    let said = stage.run(&["status", "--output", "json"]).await;
    expect(&said, 0, &[]);
    assert_eq!(
        (&said.json()["guards"][0]["active"], &said.json()["guards"][0]["standby"]),
        (&json!("blue"), &json!("green"))
    );

    // Of a daemon.
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let said = stage.run(&["status", "shop"]).await;
    expect(&said, 0, &["watching", "green", "2/2", "error_rate"]);
    assert_eq!(said.err, "", "nothing to remark");

    // Bad: both know.
    stage.shop.set_errors("green", 0.3);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.wait_phase(&["rolled_back"]).await;
    let said = stage.run(&["status"]).await;
    expect(&said, 1, &["rolled back", "blue"]);
    let json = stage.run(&["status", "-o", "json"]).await;
    expect(&json, 1, &[]);
    assert_eq!(json.json()["guards"][0]["phase"], "rolled_back");
    assert!(json.json()["guards"][0]["last_incident"]["id"].is_string());
    daemon.terminate().await;

    // Bad and nobody there to flip: one look from here tells.
    stage.shop.switch_to("green").await;
    eventually("the look to see the errors", VERDICT_LIMIT, async || {
        let said = stage.run(&["status"]).await;
        (said.code == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_exits_with_2_when_it_cannot_be_told() {
    let Some(ground) = Ground::open(
        "status_exits_with_2_when_it_cannot_be_told",
        "[guards.policy]\nblind_after = \"2s\"\n",
    )
    .await
    else {
        return;
    };
    let said = ground.run(&["status"]).await;
    expect(&said, 2, &["refused"]);
    let mut daemon = ground.start(&[]).await;
    daemon.wait_phase(&["blind"]).await;
    let said = ground.run(&["status"]).await;
    expect(
        &said,
        2,
        &["blind", "cannot be reached: Connection refused", "check that Prometheus runs"],
    );
    daemon.terminate().await;
    let kubeconfig = ground.kubeconfig().display().to_string();
    ground.edit(&kubeconfig, "/nonexistent/kubeconfig");
    let said = ground.run(&["status"]).await;
    expect(&said, 2, &["/nonexistent/kubeconfig"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_across_restarts_until_it_is_resumed() {
    let Some(ground) = Ground::open("a_pause_holds_across_restarts_until_it_is_resumed", DOWN).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    expect(&ground.run(&["pause", "shop", "--reason", "migration"]).await, 0, &["paused"]);
    daemon.wait_for("the pause", |guard| guard["paused_by"] == "ann@bastion").await;
    ground.wait_topic("paused", SOON).await;
    daemon.terminate().await;

    // Another daemon reads it from the Service, and what is bad waits.
    let mut daemon = ground.start(&[]).await;
    daemon.wait_for("the pause", |guard| guard["paused_by"] == "ann@bastion").await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.wait_topic("rollback_blocked", VERDICT_LIMIT).await;
    let said = ground.run(&["status"]).await;
    expect(&said, 1, &["paused"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ground.shop.selected().await, "green");

    expect(&ground.run(&["resume", "shop"]).await, 0, &["resumed"]);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.wait_phase(&["rolled_back"]).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_written_without_a_daemon_is_obeyed_by_one_and_resumed_beside_it() {
    let name = "a_pause_written_without_a_daemon_is_obeyed_by_one_and_resumed_beside_it";
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let said = ground.run(&["pause", "shop", "--reason", "migration"]).await;
    expect(&said, 0, &["paused"]);
    assert!(said.err.contains("No daemon runs here"), "{said:#?}");
    // Said again, it stays what it is.
    expect(&ground.run(&["pause", "shop"]).await, 0, &["paused"]);
    let mut daemon = ground.start(&[]).await;
    daemon.wait_for("the pause", |guard| guard["paused_by"] == "ann@bastion").await;
    ground.release_green(&mut daemon).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.wait_topic("rollback_blocked", VERDICT_LIMIT).await;
    assert_eq!(ground.shop.selected().await, "green");
    expect(&ground.run(&["resume", "shop", "--alone"]).await, 0, &["resumed"]);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_a_sound_setup_sound_and_says_what_each_query_returns() {
    let Some(stage) = Stage::open("check_finds_a_sound_setup_sound_and_says_what_each_query_returns", "").await else {
        return;
    };
    // Two scrapes and requests of both colors are what it wants to see.
    stage.shop.switch_to("green").await;
    stage.traffic.wait_for("green", 120, SOON).await;
    stage.shop.switch_to("blue").await;
    stage.traffic.wait_for("blue", 200, SOON).await;
    let alone = stage.run(&["check"]).await;
    expect(
        &alone,
        0,
        &[
            "every right",
            "serves blue (2 Ready)",
            "error_rate on blue",
            "scraped every 1s",
            "decided in about",
        ],
    );
    assert!(stage.stored().is_empty(), "it changed nothing");
    let mut daemon = stage.start(&[]).await;
    let beside = stage.run(&["check", "shop"]).await;
    expect(&beside, 0, &["every right", "serves blue (2 Ready)", "error_rate on blue"]);
    daemon.terminate().await;
    assert!(stage.chat.deliveries().is_empty(), "it told nobody");
    let _ = stage.run(&["check", "--send-test"]).await;
    assert_eq!(stage.topics(), ["test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_everything_that_is_wrong_with_what_to_do() {
    let Some(ground) = Ground::open("check_names_everything_that_is_wrong_with_what_to_do", "").await else {
        return;
    };
    ground.edit("deployment = \"shop-green\"", "deployment = \"shop-gone\"");
    let namespace = &ground.namespace;
    let role = ground
        .cluster
        .kubectl(&["-n", namespace, "get", "role", "flipback", "-o", "json"], "")
        .await;
    let role: Value = serde_json::from_str(&role.expect("kubectl")).expect("JSON");
    let rules = role["rules"].as_array().expect("rules");
    let patching = rules
        .iter()
        .position(|rule| rule["resources"] == json!(["services"]) && rule["verbs"] == json!(["patch"]));
    let path = format!("/rules/{}/resourceNames", patching.expect("a right to patch the Services"));
    let patch = json!([{"op": "replace", "path": path, "value": ["other"]}]).to_string();
    let arguments = ["-n", namespace, "patch", "role", "flipback", "--type", "json", "-p", &patch];
    ground.cluster.kubectl(&arguments, "").await.expect("kubectl");
    std::fs::remove_file(ground.folder.path().join("slack-url")).expect("ours");
    let said = ground.run(&["check"]).await;
    let words = [
        "patch services shop-active",
        "deploy/monitor.yaml",
        "shop-gone",
        "refused",
        "slack-url",
    ];
    expect(&said, 1, &words);
    let json = ground.run(&["check", "-o", "json"]).await;
    expect(&json, 1, &[]);
    let findings = json.json();
    let wrong = findings
        .as_array()
        .expect("a list")
        .iter()
        .filter(|finding| finding["level"] == "wrong");
    assert!(wrong.count() >= 4, "{findings:#}");

    for (part, by, words) in [
        (
            "service = \"shop-active\"",
            "service = \"shop-missing\"",
            ["shop-missing", "does not exist"],
        ),
        (
            "selector_key = \"color\"",
            "selector_key = \"colour\"",
            ["no \"colour\"", "route.selector_key"],
        ),
    ] {
        ground.edit(part, by);
        expect(&ground.run(&["check"]).await, 1, &words);
        ground.edit(by, part);
    }
    let kubeconfig = ground.kubeconfig().display().to_string();
    ground.edit(&kubeconfig, "/nonexistent/kubeconfig");
    expect(&ground.run(&["check"]).await, 1, &["/nonexistent/kubeconfig"]);
    assert!(ground.stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_in_progress_is_finished_before_the_end() {
    let Some(ground) = Ground::apart("a_flip_in_progress_is_finished_before_the_end", DOWN).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    daemon.wait_phase(&["breaching"]).await;
    // From here on nothing is answered; the flip is decided within 2 s and waits.
    ground.cluster.signal_apiserver("STOP").await;
    let process = &daemon.process;
    eventually("the flip to be on its way", VERDICT_LIMIT, async || {
        process.output().contains("Flipping").then_some(())
    })
    .await;
    daemon.process.signal("TERM");
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.process.must_live();
    ground.cluster.signal_apiserver("CONT").await;
    let status = daemon.process.wait(Duration::from_secs(5)).await;
    let status = status.unwrap_or_else(|| panic!("it still runs:\n{}", daemon.process.output()));
    assert!(status.success(), "{status}");
    assert_eq!(
        (ground.shop.selected().await.as_str(), ground.flips().len()),
        ("blue", 1),
        "{}",
        daemon.process.output()
    );
    assert!(daemon.process.output().contains("Traffic moved"), "{}", daemon.process.output());

    // The next daemon tells and keeps what this one had no time for.
    let mut daemon = ground.start(&[]).await;
    ground.wait_topic("rollback_completed", SOON).await;
    ground.evidence().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ground.flips().len(), 1);
    daemon.terminate().await;
}

/// The ids of the messages that wait for a chat on disk.
fn pending(ground: &Ground, chat: &str) -> Vec<String> {
    let folder = ground.folder.path().join("data/outbox/pending").join(chat);
    let files = std::fs::read_dir(folder).expect("an outbox");
    let names = files.map(|file| file.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect()
}

/// A flip that nobody answers, evidence under way, chats that hang and a page that stays open: each may take its time, and all of them
/// after each other took eight seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_waits_neither_for_an_api_server_nor_for_chats_that_never_answer_and_loses_nothing() {
    let name = "an_end_waits_neither_for_an_api_server_nor_for_chats_that_never_answer_and_loses_nothing";
    let Some(ground) = Ground::apart(name, DOWN).await else { return };
    ground.chat.set_silent(true);
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    let page = reqwest::get(format!("{}/api/v1/events", daemon.url)).await.expect("a stream");
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    daemon.wait_phase(&["breaching"]).await;
    ground.cluster.signal_apiserver("STOP").await;
    let process = &daemon.process;
    eventually("the flip to be on its way", VERDICT_LIMIT, async || {
        process.output().contains("Flipping").then_some(())
    })
    .await;
    let told = support::now();
    daemon.terminate().await;
    let (took, log) = (support::now().duration_since(told), daemon.process.output());
    assert!(took.as_secs_f64() < 5.0, "5 s are promised, it took {took}:\n{log}");
    for cut in ["A flip was still unanswered", "Left messages in the outbox"] {
        assert!(log.contains(cut), "no {cut:?} in\n{log}");
    }
    drop(page);
    let waiting = pending(&ground, "webhook");
    assert!(waiting.iter().any(|id| id.contains("rollback_initiated")), "{waiting:?}");

    // The next run tells what this one could not, and there is one flip of both.
    ground.cluster.signal_apiserver("CONT").await;
    ground.chat.set_silent(false);
    let mut daemon = ground.start(&[]).await;
    ground.wait_topic("rollback_completed", VERDICT_LIMIT).await;
    eventually("what was left to arrive", SOON, async || {
        let told: Vec<String> = ground
            .chat
            .deliveries()
            .iter()
            .filter(|one| one.path == "/webhook")
            .map(|one| one.body["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        waiting.iter().all(|id| told.contains(id)).then_some(())
    })
    .await;
    assert_eq!(
        (ground.shop.selected().await.as_str(), ground.flips().len()),
        ("blue", 1),
        "{}",
        daemon.process.output()
    );
    daemon.terminate().await;
}
