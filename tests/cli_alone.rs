//! The built binary against a whole (sandbox) world: standing alone, and beside a running daemon.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use flipback::sandbox::{Fault, Sandbox, SandboxOptions};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A sandbox with users, and a folder with a configuration for it.
struct World {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    share: Share,
}

/// A share of bad requests that the Prometheus stand-in reports: it counts for real, and cannot compute rates, which a look asks for.
type Share = Arc<std::sync::Mutex<f64>>;

/// Passes everything on, and answers questions for rates with `share`.
async fn with_rates(prometheus: String, share: Share) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let client = reqwest::Client::new();
    let answer = move |request: axum::extract::Request| async move {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        let path = head.uri.path_and_query().expect("a path").to_string();
        let asked = format!("{path} {}", text(&body));
        if asked.contains("rate%28") || asked.contains("rate(") {
            let share = *share.lock().expect("not poisoned");
            let said = serde_json::json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.0, share.to_string()]}]}});
            return said.to_string();
        }
        let passed = client
            .request(head.method, format!("{prometheus}{path}"))
            .headers(head.headers)
            .body(body);
        match passed.send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    format!("http://{address}")
}

impl World {
    async fn open() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sandbox = Sandbox::start(SandboxOptions::default()).await.expect("a sandbox");
        sandbox.open();
        let folder = tempfile::tempdir().expect("a folder");
        let share = Share::default();
        let config = format!(
            r#"
poll = "1s"
data_dir = "data"
[serve]
listen = "127.0.0.1:{port}"
token_file = "token"
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
[guards.rules.latency_p95]
threshold = "500ms"
[guards.rules.latency_p99]
threshold = "1s"
"#,
            port = free_port(),
            kubeconfig = sandbox.kubeconfig().display(),
            prometheus = with_rates(sandbox.prometheus_url(), Arc::clone(&share)).await,
        );
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
        write("flipback.toml", &config);
        write("token", "sesame");
        write("slack", &sandbox.chat_url("slack"));
        Self { sandbox, folder, share }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(self.folder.path(), arguments)
    }

    async fn flipback(&self, arguments: &[&str]) -> Output {
        let run = self.command(arguments).output();
        tokio::time::timeout(Duration::from_secs(60), run)
            .await
            .expect("it ends")
            .expect("the binary runs")
    }

    async fn daemon(&self) -> Child {
        let mut daemon = self
            .command(&["run"])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(daemon.stderr.take().expect("piped")).lines();
        tokio::time::timeout(Duration::from_secs(20), async {
            while let Ok(Some(line)) = log.next_line().await {
                if line.contains("Watching") {
                    break;
                }
            }
        })
        .await
        .expect("it starts");
        // The pipe is kept empty, or the daemon would stop at a full one.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        daemon
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("USER", "ann");
    command.env("HOSTNAME", "bastion");
    command
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

/// Both streams, for the message of a failed test.
fn all(output: &Output) -> String {
    format!("stdout:\n{}\nstderr:\n{}", text(&output.stdout), text(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all(output)))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..100 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{what}: not within 30 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_it_checks_looks_and_moves_traffic() {
    let world = World::open().await;
    let start = world.sandbox.active();
    let (live, other) = if start == "blue" { ("blue", "green") } else { ("green", "blue") };

    let output = world.flipback(&["check", "-o", "json"]).await;
    let wrong: Vec<Value> = json(&output)
        .as_array()
        .expect("a list")
        .iter()
        .filter(|found| found["level"] == "wrong")
        .cloned()
        .collect();
    assert_eq!(wrong, Vec::<Value>::new(), "{}", all(&output));
    assert_eq!(output.status.code(), Some(0));

    eventually("the look finds it well", async || {
        let output = world.flipback(&["status", "web"]).await;
        output.status.code() == Some(0) && text(&output.stdout).contains("steady")
    })
    .await;
    let output = world.flipback(&["status"]).await;
    assert!(text(&output.stderr).contains("No daemon was asked"), "{}", all(&output));

    let output = world.flipback(&["rollback", "web", "--reason", "drill", "--dry-run"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert_eq!(world.sandbox.active(), live, "a dry run moves nothing");

    let output = world.flipback(&["rollback", "web", "--reason", "drill"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert_eq!(world.sandbox.active(), other);
    assert!(text(&output.stdout).contains("traffic moved"), "{}", all(&output));

    let output = world.flipback(&["switch", "shop/web", "mauve", "--reason", "x"]).await;
    assert_ne!(output.status.code(), Some(0), "{}", all(&output));
    assert_eq!(world.sandbox.active(), other);

    let output = world.flipback(&["pause", "web", "--reason", "noon"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    let status = json(&world.flipback(&["status", "-o", "json"]).await);
    assert_eq!(status["guards"][0]["paused_by"], "ann@bastion");
    let output = world.flipback(&["resume", "web"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    let status = json(&world.flipback(&["status", "-o", "json"]).await);
    assert_eq!(status["guards"][0]["paused_by"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_sees_a_bad_release() {
    let world = World::open().await;
    *world.share.lock().expect("not poisoned") = 0.5;
    eventually("the look finds it bad", async || {
        let output = world.flipback(&["status", "web"]).await;
        output.status.code() == Some(1) && text(&output.stdout).contains("50 %")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_sees_a_release_that_is_down_and_one_that_cannot_be_measured() {
    let mut world = World::open().await;
    let active = world.sandbox.active();
    world.sandbox.hurt(
        &active,
        Fault {
            crashed: true,
            ..Fault::default()
        },
    );
    eventually("the look finds it down", async || {
        world.flipback(&["status", "web"]).await.status.code() == Some(1)
    })
    .await;
    world.sandbox.hurt(&active, Fault::default());
    world.sandbox.stop_prometheus().await;
    eventually("the look is blind", async || {
        let output = world.flipback(&["status", "web"]).await;
        output.status.code() == Some(2) && text(&output.stdout).contains("blind")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_daemon_commands_go_to_it() {
    let world = World::open().await;
    let start = world.sandbox.active();
    let mut daemon = world.daemon().await;
    eventually("the daemon finds it well", async || {
        let output = world.flipback(&["status"]).await;
        output.status.code() == Some(0) && output.stderr.is_empty()
    })
    .await;
    let output = world.flipback(&["pause", "web", "--reason", "noon"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert!(output.stderr.is_empty(), "{}", all(&output));
    eventually("the daemon shows the pause", async || {
        json(&world.flipback(&["status", "-o", "json"]).await)["guards"][0]["paused_by"] == "ann@bastion"
    })
    .await;
    let output = world.flipback(&["rollback", "web", "--reason", "drill", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    let reply = json(&output);
    assert_eq!(reply["incident"]["case"]["trigger"]["by"], "ann@bastion", "{reply}");
    assert_ne!(world.sandbox.active(), start);
    let pid = i32::try_from(daemon.id().expect("running")).expect("a pid");
    let ended = Command::new("kill")
        .arg("-TERM")
        .arg(pid.to_string())
        .status()
        .await
        .expect("kill runs");
    assert!(ended.success());
    let ended = tokio::time::timeout(Duration::from_secs(5), daemon.wait())
        .await
        .expect("within 5 s")
        .expect("waited");
    assert_eq!(ended.code(), Some(0));
}
