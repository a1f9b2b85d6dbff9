//! What a live Prometheus says of a configuration at start: to the room, and to the program.

use std::process::Output;

use flipback::observe::Start;

use crate::*;

fn histogram(les: &[&str]) -> String {
    let bucket = |le: &&str| format!("http_request_duration_seconds_bucket{{le=\"{le}\"}} 5\n");
    let page: String = les.iter().chain(&["+Inf"]).map(bucket).collect();
    format!("http_requests_total 5\n{page}")
}

const GREEN: &str = "web-green-5d4f-aaaaa";

/// The words of all refusals.
fn refusals(start: &Start) -> Vec<String> {
    let words = |unfit: &flipback::observe::Unfit| format!("{}: {} not {}", unfit.rule, unfit.threshold, unfit.allowed.join(" or "));
    start.unfit.iter().map(words).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_is_refused_where_no_color_can_judge_it() {
    let Some(binary) = prometheus("start_refusal") else { return };
    let world = World::start(&binary, &[A, GREEN]).await;
    let guard = guard("web");
    let (observer, _) = world.observer(std::slice::from_ref(&guard));
    let vet = || observer.vet(Duration::from_secs(10));
    world.until("count(up)", "2").await;
    assert_eq!(vet().await, Start::default(), "a color that was never deployed is no reason");
    world.expose(A, &histogram(&["0.5", "2.5", "5"]));
    world.until("count(http_requests_total)", "1").await;
    assert_eq!(refusals(&vet().await), ["p95: 1 s not 500ms or 2s 500ms"]);
    world.expose(A, &histogram(&["0.5", "2.5"]));
    world.until("count(http_request_duration_seconds_bucket)", "3").await;
    let highest = vet().await;
    assert_eq!(refusals(&highest), ["p95: 1 s not 500ms"]);
    let why = &highest.unfit[0].why;
    assert!(why.contains("0.5 s and 2.5 s, which is the highest finite one"), "{why}");
    world.expose(A, &histogram(&["0.5", "1"]));
    world.until("count(http_request_duration_seconds_bucket{le='1'})", "1").await;
    world.until("count(http_request_duration_seconds_bucket)", "3").await;
    let equal = vet().await;
    assert_eq!(refusals(&equal), ["p95: 1 s not 500ms"]);
    assert!(equal.unfit[0].why.contains("1 s is the highest finite bucket"), "{equal:?}");
    // The share above the highest finite bucket is exact, so a daemon that runs goes on judging it.
    let readings = look(&observer, std::slice::from_ref(&guard)).await;
    assert!(matches!(pick(&readings, &guard, "p95"), Reading::Counters { .. }));
    // The other color can: only this side is blind.
    world.expose(GREEN, &histogram(&["0.5", "1", "2.5"]));
    world.until("count(http_requests_total)", "2").await;
    let one_side = vet().await;
    assert_eq!(refusals(&one_side), Vec::<String>::new());
    assert!(one_side.warnings[0].1.contains("p95 on blue is blind"), "{one_side:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_selector_hides_no_refusal() {
    let Some(binary) = prometheus("start_isolation") else { return };
    let world = World::start(&binary, &[A]).await;
    world.expose(A, &histogram(&["0.5", "2.5", "5"]));
    world.until("count(http_requests_total)", "1").await;
    let mut guards: Vec<GuardSpec> = (0..20).map(|n| guard(&format!("other-{n}"))).collect();
    guards.push(guard("web"));
    let RuleKind::ErrorRate(rule) = &mut guards[3].rules[0].kind else {
        panic!("not the rule");
    };
    rule.total = "http_requests_total{status=~\"(\"}".to_owned();
    let (observer, _) = world.observer(&guards);
    assert_eq!(refusals(&observer.vet(Duration::from_secs(10)).await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_guards_are_vetted_in_a_few_requests() {
    let Some(binary) = prometheus("start_500") else { return };
    let world = World::start(&binary, &[A]).await;
    world.expose(A, &histogram(&["0.5", "2.5", "5"]));
    world.until("count(http_requests_total)", "1").await;
    let mut guards: Vec<GuardSpec> = (0..499).map(|n| guard(&format!("other-{n}"))).collect();
    guards.push(guard("web"));
    let (observer, metrics) = world.observer(&guards);
    let began = Instant::now();
    let start = observer.vet(Duration::from_secs(10)).await;
    let took = began.elapsed();
    assert_eq!(refusals(&start).len(), 1);
    let exposed = metrics.expose().expect("metrics");
    let ok = exposed
        .lines()
        .find(|line| line.starts_with("flipback_prometheus_requests_total") && line.contains("\"ok\""));
    let requests: u32 = ok
        .and_then(|line| line.rsplit(' ').next())
        .and_then(|count| count.parse().ok())
        .expect("counted");
    let _ = writeln!(std::io::stderr(), "500 guards vetted: {requests} requests, {took:?}");
    assert!(requests <= 12, "{requests}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// A configuration file of one guard, whose cluster cannot be reached.
fn configured(folder: &Path, prometheus: &str) -> PathBuf {
    let file = folder.join("flipback.toml");
    let kubeconfig = folder.join("kubeconfig");
    let text = format!(
        r#"
data_dir = "{}"
poll = "1s"

[serve]
listen = "127.0.0.1:0"

[prometheus]
url = "{prometheus}"

[clusters.only]
kubeconfig = "{}"

[[guards]]
name = "web"
namespace = "shop"

[guards.route]
service = "web"
selector_key = "color"

[guards.colors.blue]
value = "blue"
deployment = "web-blue"

[guards.colors.green]
value = "green"
deployment = "web-green"
"#,
        folder.join("data").display(),
        kubeconfig.display()
    );
    std::fs::write(&file, text).expect("written");
    file
}

/// Runs the daemon for at most so long; `None`: it was still at work, and was stopped.
async fn run(file: &Path, at_most: Duration) -> Option<Output> {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_flipback"))
        .args(["run", "--config"])
        .arg(file)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    match tokio::time::timeout(at_most, child.wait()).await {
        Ok(_) => Some(child.wait_with_output().await.expect("its output")),
        Err(_) => {
            child.kill().await.expect("stopped");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_ends_with_64_and_both_neighbours() {
    let Some(binary) = prometheus("run_refused") else { return };
    let world = World::start(&binary, &[A]).await;
    world.expose(A, &histogram(&["0.5", "2", "2.5", "5"]));
    world.until("count(http_requests_total)", "1").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = configured(folder.path(), &world.url);
    let output = run(&file, Duration::from_secs(20)).await.expect("it ends by itself");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for part in [
        &format!("{}: guards[web].rules.latency_p95.threshold", file.display()),
        "found:   1 s",
        "allowed: 500ms or 2s",
        "1 s lies between the buckets 0.5 s and 2 s",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("latency_p99"), "2 s is a bound: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_its_prometheus_starts_and_stays() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    // Accepts and never answers: the worst way to be away.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}", listener.local_addr().expect("bound"));
    let gone = format!("http://127.0.0.1:{}", free_port());
    for prometheus in [silent, gone] {
        let file = configured(folder.path(), &prometheus);
        let ended = run(&file, Duration::from_secs(13)).await;
        assert!(ended.is_none(), "{ended:?}");
    }
}
