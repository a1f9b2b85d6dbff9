//! What may be wrong around the daemon, on real parts: each fault is named with what to do, ends nothing and moves no
//! traffic; and where it does not stand in the way of a rollback, the rollback happens all the same.
//!
//! Each test also takes the fault away again: the daemon goes on by itself, without a restart.

pub mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    Daemon, Ground, eventually,
    stage::{SOON, TOKEN, VERDICT_LIMIT},
};

/// A rule that needs nothing but the API server, and is quick.
const DOWN: &str = "[guards.rules.endpoints]\ndown_for = \"2s\"\n";

/// Waits until the guard's status says all of these.
async fn says(daemon: &mut Daemon, phase: &str, words: &[&str]) -> Value {
    daemon
        .wait_for(&format!("{phase}, and {words:?}"), |guard| {
            let why = guard["why"].as_str().unwrap_or_default();
            guard["phase"] == phase && words.iter().all(|word| why.contains(word))
        })
        .await
}

/// Waits until the log has a line with all of these; returns it.
async fn logs(daemon: &mut Daemon, words: &[&str]) -> String {
    let process = &daemon.process;
    eventually(&format!("a log line with {words:?}"), VERDICT_LIMIT, async || {
        let log = process.output();
        let mut lines = log.lines();
        lines.find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
    })
    .await
}

/// Green is live, has a bad moment after a good one, and is rolled back.
async fn green_goes_down_and_blue_serves(ground: &Ground, daemon: &mut Daemon) {
    ground.release_green(daemon).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    // Without a Prometheus it is blind for the color that it restored, as for any other.
    daemon.wait_phase(&["rolled_back", "blind"]).await;
    assert_eq!(ground.flips().len(), 1, "{:#?}", ground.flips());
}

/// Time in which a daemon that means to do something wrong would have done it: five looks.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// Our account changed nothing at all.
fn assert_untouched(ground: &Ground) {
    assert!(ground.stored().is_empty(), "{:#?}", ground.stored());
}

// === the road to the API server ===

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_is_missing_is_named_and_picked_up_when_it_comes() {
    let Some(ground) = Ground::open("a_kubeconfig_that_is_missing_is_named_and_picked_up_when_it_comes", "").await else {
        return;
    };
    let later = ground.folder.path().join("later.yaml");
    ground.edit(&ground.kubeconfig().display().to_string(), &later.display().to_string());
    let mut daemon = ground.launch(&[]);
    says(&mut daemon, "unreadable", &["later.yaml", "put it there"]).await;
    std::fs::copy(ground.kubeconfig(), &later).expect("copied");
    daemon.wait_for("blue to be known", |guard| guard["active"] == "blue").await;
    assert_untouched(&ground);
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_context_is_named_with_those_there_are() {
    let Some(ground) = Ground::open("a_wrong_context_is_named_with_those_there_are", "").await else {
        return;
    };
    ground.edit("[clusters.testbed]\n", "[clusters.testbed]\ncontext = \"prodution\"\n");
    let mut daemon = ground.launch(&[]);
    says(&mut daemon, "unreadable", &["prodution", "testbed"]).await;
    assert_untouched(&ground);
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_told_and_a_new_one_is_picked_up() {
    let Some(ground) = Ground::open("a_refused_token_is_told_and_a_new_one_is_picked_up", "").await else {
        return;
    };
    let good = std::fs::read_to_string(ground.kubeconfig()).expect("there");
    let user = format!("{}-flipback", ground.namespace);
    let rewritten = ground.cluster.kubeconfig(&user, &ground.namespace, "wrong-hunter2");
    assert_eq!(rewritten, ground.kubeconfig());
    let mut daemon = ground.launch(&[]);
    says(&mut daemon, "unreadable", &["credentials", "401"]).await;
    std::fs::write(ground.kubeconfig(), good).expect("written");
    daemon.wait_for("blue to be known", |guard| guard["active"] == "blue").await;
    assert_untouched(&ground);
    daemon.terminate().await;
    assert!(!daemon.process.output().contains("hunter2"), "the token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_rights_is_told_which_and_goes_on_when_it_gets_them() {
    let Some(ground) = Ground::open("an_account_without_rights_is_told_which_and_goes_on_when_it_gets_them", DOWN).await else {
        return;
    };
    let role = |verb: &str| {
        let namespace = ground.namespace.clone();
        let verb = verb.to_owned();
        async move { ground_role(&namespace, &verb) }
    };
    let kubectl = async |arguments: &[&str], input: &str| ground.cluster.kubectl(arguments, input).await.expect("kubectl");
    kubectl(&["-n", &ground.namespace, "delete", "role", "flipback"], "").await;
    let mut daemon = ground.launch(&[]);
    says(&mut daemon, "unreadable", &["may not", "services", "deploy/monitor.yaml"]).await;

    // It may look, and not patch: the rollback fails, loudly, and is done once it may.
    ground.cluster.apply_yaml(&role("get").await).await;
    daemon.wait_for("blue to be known", |guard| guard["active"] == "blue").await;
    ground.release_green(&mut daemon).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    let told = ground.wait_topic("rollback_failed", VERDICT_LIMIT).await;
    assert!(
        told["why"].as_str().is_some_and(|why| why.contains("patch") && why.contains("403")),
        "{told}"
    );
    assert_eq!(ground.shop.selected().await, "green");
    assert!(ground.flips().is_empty());
    ground.cluster.apply_yaml(&role("patch").await).await;
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.terminate().await;
}

/// A role that may look, and `verb` Services.
fn ground_role(namespace: &str, verb: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: flipback, namespace: {namespace}}}\nrules:\n\
         - {{apiGroups: ['', apps, discovery.k8s.io], resources: [services, pods, events, endpointslices, deployments, replicasets], verbs: [get, list, watch]}}\n\
         - {{apiGroups: [''], resources: [services], verbs: [{verb}]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_goes_away_and_comes_back_is_waited_for() {
    let Some(ground) = Ground::apart("an_api_server_that_goes_away_and_comes_back_is_waited_for", DOWN).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    ground.cluster.stop_apiserver().await;
    logs(&mut daemon, &["Watch lost", "refused"]).await;
    // Green goes down meanwhile; nobody can know.
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
    a_while().await;
    daemon.process.must_live();
    ground.cluster.start_apiserver().await;
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.wait_phase(&["rolled_back"]).await;
    assert_eq!(ground.flips().len(), 1);
    daemon.terminate().await;
}

// === the guarded objects ===

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_missing_is_named_and_guarded_once_it_is_there() {
    let Some(ground) = Ground::open("a_service_that_is_missing_is_named_and_guarded_once_it_is_there", DOWN).await else {
        return;
    };
    let kubectl = async |arguments: &[&str], input: &str| ground.cluster.kubectl(arguments, input).await.expect("kubectl");
    let kept = kubectl(&["-n", &ground.namespace, "get", "service", "shop-active", "-o", "json"], "").await;
    kubectl(&["-n", &ground.namespace, "delete", "service", "shop-active"], "").await;
    let mut daemon = ground.launch(&[]);
    says(&mut daemon, "unreadable", &["shop-active"]).await;
    ground.wait_topic("unreadable", SOON).await;
    assert_untouched(&ground);

    let mut object: Value = serde_json::from_str(&kept).expect("JSON");
    let spec = object["spec"].as_object_mut().expect("a spec");
    spec.remove("clusterIP");
    spec.remove("clusterIPs");
    let labels = json!({"name": "shop-active", "namespace": ground.namespace});
    object["metadata"] = labels;
    kubectl(&["create", "-f", "-"], &object.to_string()).await;
    daemon.wait_for("blue to be known", |guard| guard["active"] == "blue").await;
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_without_the_key_is_told_with_the_setting_to_correct() {
    let Some(ground) = Ground::open("a_selector_without_the_key_is_told_with_the_setting_to_correct", DOWN).await else {
        return;
    };
    ground.edit("selector_key = \"color\"", "selector_key = \"colour\"");
    let mut daemon = ground.launch(&[]);
    says(&mut daemon, "unknown_color", &["colour", "selector_key"]).await;
    ground.cluster.set_ready(&ground.namespace, "shop-blue", false);
    a_while().await;
    assert_untouched(&ground);
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_selector_value_is_told_and_left_alone() {
    let Some(ground) = Ground::open("an_unknown_selector_value_is_told_and_left_alone", DOWN).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    let patch = json!({"spec": {"selector": {"color": "purple"}}}).to_string();
    let arguments = ["-n", &ground.namespace, "patch", "service", "shop-active", "-p", &patch];
    ground.cluster.kubectl(&arguments, "").await.expect("kubectl");
    says(&mut daemon, "unknown_color", &["purple", "blue", "green"]).await;
    let told = ground.wait_topic("unknown_color", SOON).await;
    assert!(told["why"].as_str().is_some_and(|why| why.contains("purple")), "{told}");
    // The Service has no endpoint at all now, which is down by any rule.
    a_while().await;
    assert_untouched(&ground);
    assert_eq!(ground.shop.selected().await, "purple");
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_missing_does_not_hold_up_a_rollback() {
    let Some(ground) = Ground::open("a_deployment_that_is_missing_does_not_hold_up_a_rollback", DOWN).await else {
        return;
    };
    ground.edit("deployment = \"shop-green\"", "deployment = \"shop-gone\"");
    let mut daemon = ground.start(&[]).await;
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    // What could not be had is named in the evidence, and the rest is there.
    let folder = ground.evidence().await;
    let incident = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
    assert!(incident.contains("shop-gone"), "{incident}");
    assert!(folder.join("manifests/service.shop-active.json").exists());
    daemon.terminate().await;
}

// === the measurements ===

/// With one of these at its URL the guard is blind, says so with what to do, and still rolls back by a rule that needs no Prometheus.
async fn a_bad_prometheus(name: &str, url: impl AsyncFnOnce(&Ground) -> String, words: &[&str]) {
    let guard = format!("[guards.policy]\nblind_after = \"2s\"\n{DOWN}");
    let Some(ground) = Ground::open(name, &guard).await else { return };
    ground.edit("http://127.0.0.1:9", &url(&ground).await);
    let mut daemon = ground.start(&[]).await;
    says(&mut daemon, "blind", words).await;
    let told = ground.wait_topic("blind", SOON).await;
    assert!(
        words.iter().all(|word| told["why"].as_str().is_some_and(|why| why.contains(word))),
        "{told}"
    );
    assert_untouched(&ground);
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_is_not_there_is_told_and_does_not_hold_up_other_rules() {
    let name = "a_prometheus_that_is_not_there_is_told_and_does_not_hold_up_other_rules";
    a_bad_prometheus(name, async |_| "http://127.0.0.1:9".to_owned(), &["Prometheus", "refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_in_the_place_of_a_prometheus_is_told() {
    let page = axum::Router::new().fallback(|| async { axum::response::Html("<html><title>Welcome</title></html>") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, page).await });
    let name = "a_web_page_in_the_place_of_a_prometheus_is_told";
    a_bad_prometheus(name, async |_| url, &["text/html", "check the URL"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_with_an_unknown_authority_is_told_with_the_setting_to_correct() {
    let name = "a_prometheus_with_an_unknown_authority_is_told_with_the_setting_to_correct";
    // The API server's certificate is signed by an authority that this machine does not know.
    a_bad_prometheus(name, async |ground| ground.cluster.url().to_owned(), &["certificate", "ca_file"]).await;
}

// === the chats ===

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_gone_is_told_and_does_not_hold_up_a_rollback() {
    let Some(ground) = Ground::open("a_webhook_that_is_gone_is_told_and_does_not_hold_up_a_rollback", DOWN).await else {
        return;
    };
    ground.chat.set_status(404);
    let mut daemon = ground.start(&[]).await;
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    logs(&mut daemon, &["slack", "404", "create a new one"]).await;
    daemon.terminate().await;
    let log = daemon.process.output();
    for chat in ["/slack", "/teams", "/webhook"] {
        assert!(!log.contains(&ground.chat.url(chat)), "the log shows the URL of {chat}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_never_answers_holds_up_neither_a_rollback_nor_the_end() {
    let Some(ground) = Ground::open("a_webhook_that_never_answers_holds_up_neither_a_rollback_nor_the_end", DOWN).await else {
        return;
    };
    ground.chat.set_silent(true);
    let mut daemon = ground.start(&[]).await;
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    // At most 5 s, with every message still undelivered.
    daemon.terminate().await;
    ground.chat.set_silent(false);
    let mut daemon = ground.start(&[]).await;
    ground.wait_topic("rollback_initiated", VERDICT_LIMIT).await;
    ground.wait_topic("rollback_completed", VERDICT_LIMIT).await;
    assert_eq!(ground.flips().len(), 1);
    daemon.terminate().await;
}

// === the disk ===

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_cannot_be_made_is_told_and_does_not_hold_up_a_rollback() {
    let Some(ground) = Ground::open("a_data_folder_that_cannot_be_made_is_told_and_does_not_hold_up_a_rollback", DOWN).await else {
        return;
    };
    // A file stands where the folder should be: not even root can write below it.
    let file = ground.folder.write("data", "in the way");
    let mut daemon = ground.start(&[]).await;
    logs(&mut daemon, &["ERROR", "data", "set data_dir"]).await;
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    ground.wait_topic("rollback_completed", SOON).await;
    logs(&mut daemon, &["ERROR", "Failed to keep the evidence"]).await;

    // Once there is room, the next incident is kept without a restart.
    std::fs::remove_file(file).expect("ours");
    ground.cluster.set_ready(&ground.namespace, "shop-green", true);
    ground.cluster.wait_ready(&ground.namespace, "shop-green", true).await;
    let (status, answer) = daemon
        .command(
            TOKEN,
            &json!({"command": "switch", "guard": daemon.guard, "to": "green", "by": "ann", "reason": "again", "dry_run": false}),
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    ground.evidence().await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_later_does_not_hold_up_a_rollback() {
    let Some(ground) = Ground::open("a_disk_that_fails_later_does_not_hold_up_a_rollback", DOWN).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    let data: PathBuf = ground.folder.path().join("data");
    std::fs::rename(&data, ground.folder.path().join("gone")).expect("ours");
    std::fs::write(&data, "in the way").expect("ours");
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    ground.wait_topic("rollback_completed", SOON).await;
    logs(&mut daemon, &["ERROR", "Failed to keep the evidence", "data_dir"]).await;
    logs(&mut daemon, &["Outbox cannot be written"]).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_does_not_hold_up_a_rollback() {
    let Some(ground) = Ground::open("a_log_that_cannot_be_written_does_not_hold_up_a_rollback", DOWN).await else {
        return;
    };
    // Every write answers "no space left on device".
    let mut command = Command::new("sh");
    let flipback = ground.binary(&["run"]);
    command
        .env_clear()
        .envs(flipback.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
        .args(["-c", "exec \"$@\" >/dev/full 2>/dev/full", "sh"])
        .arg(flipback.get_program())
        .args(flipback.get_args());
    command.stdout(Stdio::null());
    let mut daemon = ground.daemon(command);
    daemon
        .wait_for("blue to be known", |guard| {
            guard["active"] == "blue" && guard["phase"] != "starting"
        })
        .await;
    green_goes_down_and_blue_serves(&ground, &mut daemon).await;
    ground.evidence().await;
    daemon.terminate().await;
}
