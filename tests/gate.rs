//! `flipback gate` as a pipeline runs it: the built binary, first in a sandbox, then on a real API server and a real Prometheus.

pub mod support;

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use flipback::sandbox::{Fault, Sandbox, SandboxOptions};
use quick_junit::{Report as Suites, TestCaseStatus};
use serde_json::{Value, json};
use support::{Stage, Traffic, stage::SOON, stage::VERDICT_LIMIT};
use tokio::{process::Command, time::Instant};

/// Longer than any gate here.
const ENDS: Duration = Duration::from_secs(60);

// === in a sandbox ===

struct World {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    live: String,
    other: String,
}

impl World {
    async fn open(more: &str) -> Self {
        support::install_tls();
        let sandbox = Sandbox::start(SandboxOptions::default()).await.expect("a sandbox");
        sandbox.open();
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            r#"
poll = "1s"
data_dir = "data"
[serve]
listen = "127.0.0.1:{port}"
[clusters.sandbox]
kubeconfig = "{kubeconfig}"
[prometheus]
url = "{prometheus}"
[chats.slack]
url_file = "slack"
[[guards]]
name = "web"
namespace = "shop"
[guards.route]
service = "web"
preview = "web-preview"
selector_key = "color"
[guards.colors]
blue = {{ deployment = "web-blue" }}
green = {{ deployment = "web-green" }}
[guards.evidence]
after = "1s"
[guards.rules.latency_p95]
threshold = "500ms"
[guards.rules.latency_p99]
threshold = "1s"
{more}
"#,
            port = free_port(),
            kubeconfig = sandbox.kubeconfig().display(),
            prometheus = sandbox.prometheus_url(),
        );
        std::fs::write(folder.path().join("flipback.toml"), config).expect("writable");
        std::fs::write(folder.path().join("slack"), sandbox.chat_url("slack")).expect("writable");
        let live = sandbox.active();
        let other = if live == "blue" { "green" } else { "blue" }.to_owned();
        Self {
            sandbox,
            folder,
            live,
            other,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("USER", "ann")
            .env("HOSTNAME", "bastion");
        command
    }

    async fn gate(&self, arguments: &[&str]) -> Output {
        let mut words = vec!["gate"];
        words.extend(arguments);
        let run = self.command(&words).output();
        tokio::time::timeout(ENDS, run).await.expect("it ends").expect("the binary runs")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn errors(&self, color: &str, share: f64) {
        let fault = Fault {
            errors: share,
            ..Fault::default()
        };
        self.sandbox.hurt(color, fault);
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all(output: &Output) -> String {
    format!(
        "exit {:?}\nstdout:\n{}\nstderr:\n{}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    )
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all(output)))
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", all(output));
}

/// The document, parsed by another than who wrote it.
fn suites(file: &Path) -> Suites {
    let xml = std::fs::read_to_string(file).expect("written");
    Suites::deserialize_from_str(&xml).unwrap_or_else(|error| panic!("{error}:\n{xml}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_color_holds_for_the_whole_time() {
    let world = World::open("[guards.policy]\nwarm_up_latency = \"0s\"\nmin_requests = 30").await;
    let began = Instant::now();
    let output = world
        .gate(&["web", "--for", "12s", "--junit", "gate.xml", "--json", "gate.json"])
        .await;
    assert_code(&output, 0);
    assert!(began.elapsed() >= Duration::from_secs(12), "{:?}", began.elapsed());
    let said = text(&output.stdout);
    assert!(said.starts_with(&format!("GOOD  {} of shop/web (active)", world.live)), "{said}");
    let result: Value = serde_json::from_str(&std::fs::read_to_string(world.file("gate.json")).expect("written")).expect("JSON");
    assert_eq!((&result["result"], &result["exit_code"]), (&json!("good"), &json!(0)), "{result:#}");
    let rules = result["rules"].as_array().expect("rules");
    assert!(rules.iter().all(|rule| rule["result"] == "good"), "{result:#}");
    let suites = suites(&world.file("gate.xml"));
    assert_eq!((suites.tests, suites.failures, suites.errors), (rules.len(), 0, 0));
    // A log, not a film: what changed and a line now and then.
    let lines = text(&output.stderr).lines().count();
    assert!((2..=10).contains(&lines), "{}", all(&output));
    assert!(!text(&output.stderr).contains('\u{1b}'), "{}", all(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_color_ends_it_early_and_moves_nothing_unasked() {
    let world = World::open("").await;
    world.errors(&world.live, 0.4);
    let began = Instant::now();
    // A guard that is alone needs no name.
    let output = world.gate(&["--for", "50s", "--output", "json", "--junit", "gate.xml"]).await;
    assert_code(&output, 10);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    let result = parsed(&output);
    assert_eq!(
        (&result["cause"], &result["rule"]),
        (&json!("breach"), &json!("error_rate")),
        "{result:#}"
    );
    assert_eq!(result["rollback"], Value::Null);
    assert_eq!(world.sandbox.active(), world.live);
    let suites = suites(&world.file("gate.xml"));
    assert_eq!((suites.failures, suites.errors), (1, 0));
    let cases = &suites.test_suites[0].test_cases;
    let errors = cases.iter().find(|case| case.name.as_str() == "error_rate").expect("a case");
    match &errors.status {
        TestCaseStatus::NonSuccess { message, .. } => {
            let message = message.as_ref().expect("a message").as_str();
            assert!(message.contains("error rate") && message.contains("over 5 %"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_it_rolls_back_on_the_usual_road() {
    let world = World::open("").await;
    world.errors(&world.live, 0.4);
    let output = world.gate(&["web", "--for", "50s", "--rollback", "-o", "json"]).await;
    assert_code(&output, 10);
    let result = parsed(&output);
    assert_eq!(result["rollback"]["result"], "rolled_back", "{result:#}\n{}", all(&output));
    assert_eq!(world.sandbox.active(), world.other);
    let incident = result["rollback"]["incident"].as_str().expect("an incident");
    let kept = world.file("data/incidents").join(incident).join("incident.json");
    let incident: Value = serde_json::from_str(&std::fs::read_to_string(kept).expect("evidence")).expect("JSON");
    assert_eq!(incident["case"]["trigger"]["by"], "ann@bastion (flipback gate)");
    assert_eq!(incident["case"]["trigger"]["reason"], result["why"]);
    assert!(world.sandbox.messages().iter().any(|message| message.chat == "slack"));

    // The color that was left is marked: coming back to it is refused.
    let output = world
        .command(&["rollback", "web", "--reason", "again"])
        .output()
        .await
        .expect("runs");
    assert_code(&output, 1);
    assert_eq!(world.sandbox.active(), world.other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_that_is_refused_is_said_to_be() {
    let world = World::open("").await;
    let paused = world.command(&["pause", "web", "--reason", "noon"]).output().await.expect("runs");
    assert_code(&paused, 0);
    world.errors(&world.live, 0.4);
    let output = world.gate(&["web", "--for", "50s", "--rollback"]).await;
    assert_code(&output, 10);
    let said = text(&output.stdout);
    assert!(said.contains("NOT rolled back") && said.contains("paused by ann@bastion"), "{said}");
    assert_eq!(world.sandbox.active(), world.live);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_monitor_mode_it_only_would_have() {
    let world = World::open("").await;
    let config = world.file("flipback.toml");
    let text_before = std::fs::read_to_string(&config).expect("there");
    std::fs::write(&config, text_before.replace("name = \"web\"", "name = \"web\"\nmode = \"monitor\"")).expect("writable");
    world.errors(&world.live, 0.4);
    let output = world.gate(&["web", "--for", "50s", "--rollback"]).await;
    assert_code(&output, 10);
    let said = text(&output.stdout);
    assert!(
        said.contains("NOT rolled back: the guard is in monitor mode; it would have gone"),
        "{said}"
    );
    assert_eq!(world.sandbox.active(), world.live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_nobody_visits_cannot_be_told_and_one_that_fails_can() {
    let world = World::open("[guards.policy]\nwarm_up_latency = \"0s\"\nstretch = \"5s\"").await;
    let output = world.gate(&["web", "--color", "standby", "--for", "8s", "-o", "json"]).await;
    assert_code(&output, 11);
    let result = parsed(&output);
    assert_eq!(
        (&result["color"], &result["position"], &result["cause"]),
        (&json!(world.other), &json!("standby"), &json!("not_enough")),
        "{result:#}"
    );

    // Smoke tests before the switch.
    world.errors(&world.other, 0.5);
    let visits = async {
        loop {
            futures::future::join_all((0..10).map(|_| world.sandbox.visit(&world.other))).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let arguments = ["web", "--color", world.other.as_str(), "--for", "50s"];
    let output = tokio::select! {
        output = world.gate(&arguments) => output,
        () = visits => unreachable!("visitors come for ever"),
    };
    assert_code(&output, 10);
    assert!(text(&output.stdout).contains("(standby)"), "{}", all(&output));
    assert_eq!(world.sandbox.active(), world.live);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_prometheus_it_is_undecided() {
    let mut world = World::open("").await;
    world.sandbox.stop_prometheus().await;
    let output = world.gate(&["web", "--for", "6s"]).await;
    assert_code(&output, 11);
    let said = text(&output.stdout);
    assert!(
        said.starts_with("UNDECIDED") && said.contains("error_rate: no passing verdict"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_cluster_it_is_undecided() {
    let mut world = World::open("").await;
    world.sandbox.stop_api().await;
    let began = Instant::now();
    let output = world.gate(&["web", "--for", "5s", "--junit", "gate.xml"]).await;
    assert_code(&output, 11);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let suites = suites(&world.file("gate.xml"));
    assert!(suites.tests > 0 && suites.errors == suites.tests, "{suites:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_by_hand_in_the_middle_is_not_judged() {
    let world = World::open("").await;
    let gate = world.gate(&["web", "--for", "40s", "-o", "json"]);
    let switch = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.sandbox.switch(&world.other, "kubectl-patch").expect("switched");
        std::future::pending::<()>().await;
    };
    let output = tokio::select! { output = gate => output, () = switch => unreachable!() };
    assert_code(&output, 11);
    assert_eq!(parsed(&output)["cause"], "changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_judgement_begins_so_long_after_the_switch() {
    let world = World::open("").await;
    world.sandbox.switch(&world.other, "kubectl-patch").expect("switched");
    // What is wrong in the first seconds is none of its business.
    world.errors(&world.other, 1.0);
    let mend = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        world.errors(&world.other, 0.0);
        std::future::pending::<()>().await;
    };
    let began = Instant::now();
    let gate = world.gate(&["web", "--for", "5s", "--delay", "8s", "-o", "json"]);
    let output = tokio::select! { output = gate => output, () = mend => unreachable!() };
    let took = began.elapsed();
    let result = parsed(&output);
    assert_eq!(result["rules"][0]["breaches"], 0, "{result:#}");
    assert!(took >= Duration::from_secs(11) && took < Duration::from_secs(25), "{took:?}");
    // A delay that is over is not waited for again.
    let began = Instant::now();
    world.gate(&["web", "--for", "3s", "--delay", "8s"]).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_what_it_has() {
    let world = World::open("").await;
    for signal in ["-INT", "-TERM"] {
        let mut command = world.command(&["gate", "web", "--for", "50s", "-o", "json"]);
        let child = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("runs");
        tokio::time::sleep(Duration::from_secs(4)).await;
        let pid = child.id().expect("running").to_string();
        let sent = Instant::now();
        let kill = Command::new("kill").args([signal, &pid]).status().await.expect("kill runs");
        assert!(kill.success());
        let output = tokio::time::timeout(Duration::from_secs(5), child.wait_with_output())
            .await
            .expect("soon")
            .expect("waited");
        assert_code(&output, 11);
        assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
        let result = parsed(&output);
        assert_eq!(result["cause"], "interrupted");
        assert!(result["looks"].as_u64().is_some_and(|looks| looks > 0), "{result:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_is_judged() {
    let world = World::open("").await;
    for (arguments, said) in [
        (vec!["web", "--color", "standby", "--rollback"], "serves no users"),
        (vec!["web", "--color", world.other.as_str(), "--rollback"], "serves no users"),
        (vec!["web", "--color", "mauve"], "has no color \"mauve\""),
        (vec!["shop"], "no guard is called \"shop\""),
        (vec!["web", "--for", "5M"], "months"),
        (vec!["web", "--junit", "none/gate.xml"], "is no folder"),
    ] {
        let output = world.gate(&arguments).await;
        assert_code(&output, 64);
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", all(&output));
        assert!(output.stdout.is_empty(), "{}", all(&output));
    }
}

// === on real parts ===

/// Verdicts that come within a second or two, so that a gate of seconds can decide.
const QUICK: &str = "[guards.policy]\nwarm_up_latency = \"0s\"\nmin_requests = 60\n";

#[tokio::test(flavor = "multi_thread")]
async fn really_a_good_release_is_good_and_silence_is_not() {
    let Some(mut stage) = Stage::open("really_a_good_release_is_good_and_silence_is_not", QUICK).await else {
        return;
    };
    stage.shop.switch_to("green").await;
    stage.traffic.wait_for("green", 60, SOON).await;
    let said = stage.run(&["gate", "--for", "15s", "-o", "json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let result = said.json();
    assert_eq!(
        (&result["color"], &result["result"]),
        (&json!("green"), &json!("good")),
        "{result:#}"
    );
    let errors = &result["rules"][0];
    assert_eq!(errors["rule"], "error_rate");
    assert!(errors["total"].as_f64().is_some_and(|total| total > 500.0), "{errors:#}");

    // The same color, and a Prometheus that dies on the way.
    let gate = stage.run(&["gate", "--for", "20s"]);
    let kill = async {
        // By then it has passed, on a busy machine too.
        tokio::time::sleep(Duration::from_secs(12)).await;
        stage.prometheus.signal("KILL");
        std::future::pending::<()>().await;
    };
    let said = tokio::select! { said = gate => said, () = kill => unreachable!() };
    assert_eq!(said.code, 11, "{said:?}");
    assert!(said.out.contains("no verdict in the last"), "{said:?}");

    stage.prometheus.restart().await;
    stage.traffic.stop().await;
    // What users sent until now is scraped, and counted by no later gate.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let said = stage.run(&["gate", "--for", "8s"]).await;
    assert_eq!(said.code, 11, "{said:?}");
    assert!(said.out.contains("error_rate: no passing verdict"), "{said:?}");
    assert!(stage.stored().is_empty(), "a gate writes nothing: {:#?}", stage.stored());
}

#[tokio::test(flavor = "multi_thread")]
async fn really_a_failing_release_is_bad_and_rolled_back_when_asked() {
    let Some(stage) = Stage::open("really_a_failing_release_is_bad_and_rolled_back_when_asked", QUICK).await else {
        return;
    };
    // Before anybody sees it: smoke tests go to the preview Service.
    stage.shop.set_errors("green", 0.3);
    let smoke = Traffic::start(&stage.cluster, &stage.namespace, &stage.shop.preview(), 40).await;
    let said = stage.run(&["gate", "--color", "standby", "--for", "40s", "-o", "json"]).await;
    assert_eq!(said.code, 10, "{said:?}");
    let result = said.json();
    assert_eq!(
        (&result["color"], &result["position"], &result["rule"]),
        (&json!("green"), &json!("standby"), &json!("error_rate")),
        "{result:#}"
    );
    smoke.stop().await;

    // Released all the same.
    stage.shop.switch_to("green").await;
    let began = Instant::now();
    let said = stage.run(&["gate", "--for", "40s"]).await;
    assert_eq!(said.code, 10, "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(35), "{:?}", began.elapsed());
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("green", 0));

    let said = stage.run(&["gate", "--for", "40s", "--rollback", "-o", "json"]).await;
    assert_eq!(said.code, 10, "{said:?}");
    let result = said.json();
    assert_eq!(result["rollback"]["result"], "rolled_back", "{result:#}");
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 1));
    let folder = stage.evidence().await;
    assert_eq!(
        folder.file_name().and_then(|name| name.to_str()),
        result["rollback"]["incident"].as_str()
    );
    let incident = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
    assert!(incident.contains(result["why"].as_str().expect("a sentence")), "{incident}");
    let told = stage.wait_topic("rollback_completed", SOON).await;
    assert_eq!((&told["from"], &told["to"]), (&json!("green"), &json!("blue")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn really_beside_a_daemon_traffic_moves_once() {
    let Some(stage) = Stage::open("really_beside_a_daemon_traffic_moves_once", QUICK).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", 0.3);
    // Both see the same and decide within a second of each other: whoever is late must not lead users back.
    let said = stage.run(&["gate", "--for", "40s", "--rollback", "-o", "json"]).await;
    assert_eq!(said.code, 10, "{said:?}");
    let result = said.json();
    let what = result["rollback"]["result"].as_str().expect("a word");
    assert!(matches!(what, "rolled_back" | "rolled_back_already" | "refused"), "{result:#}");
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        (stage.shop.selected().await.as_str(), stage.flips().len()),
        ("blue", 1),
        "{result:#}"
    );
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn really_a_daemon_is_asked_to_roll_back_and_keeps_the_evidence() {
    // The daemon alone would not act: after its watch it only alerts.
    let alerts = "[guards.policy]\nwarm_up_latency = \"0s\"\nmin_requests = 60\nwatch = \"1s\"\nafter_watch = \"alert\"\n";
    let name = "really_a_daemon_is_asked_to_roll_back_and_keeps_the_evidence";
    let Some(stage) = Stage::open(name, alerts).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.shop.switch_to("green").await;
    daemon.wait_for("green", |guard| guard["active"] == "green").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.shop.set_errors("green", 0.3);
    let said = stage.run(&["gate", "--for", "40s", "--rollback", "-o", "json"]).await;
    assert_eq!(said.code, 10, "{said:?}");
    let result = said.json();
    assert_eq!(result["rollback"]["result"], "rolled_back", "{result:#}\n{}", said.err);
    assert!(!said.err.contains("from here"), "the daemon does it: {said:?}");
    assert_eq!((stage.shop.selected().await.as_str(), stage.flips().len()), ("blue", 1));
    let incident = result["rollback"]["incident"].as_str().expect("an incident");
    assert!(daemon.process.output().contains(incident), "the daemon's incident");
    daemon.terminate().await;
}
