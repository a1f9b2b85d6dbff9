//! The observe room against a real Prometheus that scrapes a small server of the test's own every second.

mod prometheus {
    pub mod kinds;
    pub mod native;
    pub mod start;
}

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use flipback::{
    metrics::Metrics,
    model::{
        Absence, Action, Color, ColorSpec, Counter, CounterRule, EvidenceSpec, GuardId, GuardSpec, Histogram, LatencyRule, Mode, Policy,
        Preset, Reading, RouteSpec, RuleKind, RuleName, RuleSpec, ServiceRoute, TimeUnit, View,
        settings::{ClusterSettings, PrometheusSettings},
    },
    observe::Observer,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

/// What each target exposes by path; none: it answers 503.
type Pages = Arc<Mutex<BTreeMap<String, Page>>>;

/// One target's answer to a scrape.
#[derive(Clone)]
enum Page {
    Text(String),
    /// Delimited messages, the only form that carries native histograms.
    Protobuf(Vec<u8>),
}

const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A real Prometheus and the targets it scrapes.
struct World {
    prometheus: Child,
    url: String,
    pages: Pages,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.prometheus.kill();
        let _ = self.prometheus.wait();
    }
}

/// The real Prometheus, or a note that the test is skipped; a panic where real parts are demanded.
fn prometheus(test: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .map(|folder| folder.join("prometheus"))
        .find(|path| path.is_file());
    if found.is_none() {
        let strict = std::env::var("FLIPBACK_REQUIRE_REAL_PARTS").is_ok_and(|value| value == "1");
        assert!(!strict, "{test}: no prometheus on PATH");
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no prometheus on PATH; run make test");
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "a test is an edge: the real Prometheus reads the same clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

async fn page(State(pages): State<Pages>, uri: Uri) -> Response {
    match pages.lock().expect("not poisoned").get(uri.path().trim_start_matches('/')) {
        Some(Page::Text(text)) => text.clone().into_response(),
        Some(Page::Protobuf(bytes)) => ([(CONTENT_TYPE, PROTOBUF)], bytes.clone()).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

impl World {
    /// Starts everything, one target per pod name, each scraped at `/<pod>` in the namespace `shop`.
    async fn start(binary: &Path, pods: &[&str]) -> Self {
        Self::start_with(binary, pods, &[]).await
    }

    /// The same with further flags of the server.
    async fn start_with(binary: &Path, pods: &[&str], flags: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pages = Pages::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let targets = listener.local_addr().expect("bound");
        let app = Router::new().fallback(page).with_state(pages.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("prometheus.yml"), configuration(targets, pods)).expect("written");
        let port = free_port();
        let prometheus = Command::new(binary)
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        let world = Self {
            prometheus,
            url: format!("http://127.0.0.1:{port}"),
            pages,
            _folder: folder,
        };
        let ready = || async { world.get("up").await.0 == 200 };
        eventually("prometheus answers", ready).await;
        world
    }

    fn expose(&self, pod: &str, text: &str) {
        let page = Page::Text(format!("{text}\n"));
        self.pages.lock().expect("not poisoned").insert(pod.to_owned(), page);
    }

    fn expose_protobuf(&self, pod: &str, families: Vec<u8>) {
        let page = Page::Protobuf(families);
        self.pages.lock().expect("not poisoned").insert(pod.to_owned(), page);
    }

    fn kill(&self, pod: &str) {
        self.pages.lock().expect("not poisoned").remove(pod);
    }

    /// Status and body of a query of our own, sent as the observer sends its.
    async fn get(&self, query: &str) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let sent = client
            .post(format!("{}/api/v1/query", self.url))
            .form(&[("query", query)])
            .send()
            .await;
        let Ok(response) = sent else { return (0, Value::Null) };
        (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
    }

    /// The values a query returns.
    async fn values(&self, query: &str) -> Vec<String> {
        let (_, body) = self.get(query).await;
        let result = body["data"]["result"].as_array().cloned().unwrap_or_default();
        result
            .iter()
            .map(|sample| sample["value"][1].as_str().unwrap_or("").to_owned())
            .collect()
    }

    async fn until(&self, query: &str, expected: &str) {
        eventually(&format!("{query} is {expected}"), || async {
            self.values(query).await == [expected]
        })
        .await;
    }

    fn observer(&self, guards: &[GuardSpec]) -> (Observer, Metrics) {
        let metrics = Metrics::new().expect("metrics");
        let cluster = ClusterSettings {
            prometheus: Some(PrometheusSettings {
                url: self.url.parse().expect("a URL"),
                timeout: Duration::from_secs(10),
                bearer: None,
                basic: None,
                ca_file: None,
                client_certificate: None,
                headers: BTreeMap::new(),
            }),
            ..ClusterSettings::default()
        };
        let guards: Vec<Arc<GuardSpec>> = guards.iter().cloned().map(Arc::new).collect();
        let observer = Observer::new(&guards, &[cluster], BTreeMap::new(), metrics.clone()).expect("an observer");
        (observer, metrics)
    }
}

fn configuration(targets: SocketAddr, pods: &[&str]) -> String {
    let mut text = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: web\n  static_configs:\n".to_owned();
    for pod in pods {
        text += &format!("  - targets: ['{targets}']\n    labels: {{namespace: shop, pod: {pod}, __metrics_path__: /{pod}}}\n");
    }
    text
}

async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "waited 60 s until {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A guard of one color, blue, with the preset's error rate and p95 over 1 s, polled so slowly that a loaded machine is no failure.
fn guard(name: &str) -> GuardSpec {
    let rule = |name: &str, kind| RuleSpec {
        name: RuleName::new(name).expect("a name"),
        kind,
        action: Action::Rollback,
        critical: false,
        windows: None,
    };
    let side = |color: &str| {
        let side = ColorSpec {
            value: color.to_owned(),
            deployment: Some(format!("{name}-{color}")),
            service: None,
        };
        (Color::new(color).expect("a name"), side)
    };
    GuardSpec {
        id: GuardId::new("", "shop", name).expect("a name"),
        cluster: String::new(),
        namespace: "shop".to_owned(),
        route: RouteSpec::Service(ServiceRoute {
            active: name.to_owned(),
            preview: None,
            selector_key: "color".to_owned(),
        }),
        colors: BTreeMap::from([side("blue"), side("green")]),
        rules: vec![
            rule(
                "error_rate",
                RuleKind::ErrorRate(CounterRule {
                    threshold: 0.05,
                    total: Preset::PrometheusHttp.total().to_owned(),
                    bad: Preset::PrometheusHttp.bad().to_owned(),
                }),
            ),
            rule(
                "p95",
                RuleKind::Latency(LatencyRule {
                    quantile: 0.95,
                    threshold: Duration::from_secs(1),
                    unit: TimeUnit::Seconds,
                    buckets: Preset::PrometheusHttp.buckets().to_owned(),
                    histogram: Histogram::Classic,
                }),
            ),
        ],
        policy: Policy {
            poll: Duration::from_secs(30),
            ..Policy::default()
        },
        mode: Mode::Monitor,
        scale_up: None,
        connections: flipback::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: Vec::new(),
        config_hash: String::new(),
    }
}

type Readings = BTreeMap<GuardId, BTreeMap<Color, BTreeMap<RuleName, Reading>>>;

async fn look(observer: &Observer, guards: &[GuardSpec]) -> Readings {
    let views = guards.iter().map(|guard| (guard.id.clone(), View::Unreadable("a test".to_owned())));
    observer.observe(&views.collect(), now()).await
}

fn pick(readings: &Readings, guard: &GuardSpec, rule: &str) -> Reading {
    let blue = Color::new("blue").expect("a name");
    readings[&guard.id][&blue][&RuleName::new(rule).expect("a name")].clone()
}

/// The counters of a reading by pod. When each was sampled, no two runs agree on: only that it is told.
fn counters(reading: &Reading) -> BTreeMap<String, Counter> {
    let Reading::Counters { targets, .. } = reading else {
        panic!("{reading:?}");
    };
    targets
        .iter()
        .map(|(target, counter)| {
            assert!(counter.sample_at.is_some(), "{target}: {counter:?}");
            let timeless = Counter {
                sample_at: None,
                ..*counter
            };
            (target.rsplit('/').next().unwrap_or("").to_owned(), timeless)
        })
        .collect()
}

/// A counter without bad requests, of a process of unknown age.
fn requests(total: u32) -> Counter {
    Counter {
        started: None,
        sample_at: None,
        total: f64::from(total),
        bad: None,
    }
}

const A: &str = "web-blue-5d4f-aaaaa";
const B: &str = "web-blue-5d4f-bbbbb";
const C: &str = "web-blue-5d4f-ccccc";

fn buckets(le: &str, fast: u32, all: u32) -> String {
    let bucket = |le: &str, count: u32| format!("http_request_duration_seconds_bucket{{le=\"{le}\"}} {count}\n");
    format!("{}{}{}", bucket("0.5", 1), bucket(le, fast), bucket("+Inf", all))
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_exact_and_the_first_errors_of_a_fresh_color_are_seen() {
    let Some(binary) = prometheus("counters_are_exact") else { return };
    let world = World::start(&binary, &[A, B]).await;
    let guard = guard("web");
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    assert_eq!(
        pick(&look(&observer, guards).await, &guard, "error_rate"),
        Reading::Absent(Absence::Empty)
    );
    world.expose(
        A,
        "process_start_time_seconds 1795000000.25\nhttp_requests_total{status=\"200\",path=\"/\"} 9007199254740991",
    );
    world.expose(B, "http_requests_total{status=\"404\"} 5\nhttp_requests_total{status=\"200\"} 100");
    world.until("count(http_requests_total)", "3").await;
    let first = look(&observer, guards).await;
    let seen = counters(&pick(&first, &guard, "error_rate"));
    let started = Some(Timestamp::from_millisecond(1_795_000_000_250).expect("a time"));
    assert_eq!(
        seen[A],
        Counter {
            started,
            sample_at: None,
            total: 9_007_199_254_740_991.0,
            bad: None
        }
    );
    assert_eq!(
        seen[B],
        Counter {
            started: None,
            sample_at: None,
            total: 105.0,
            bad: None
        }
    );

    world.expose(
        B,
        "http_requests_total{status=\"404\"} 5\nhttp_requests_total{status=\"200\"} 100\nhttp_requests_total{status=\"503\"} 37",
    );
    world.until("http_requests_total{status='503'}", "37").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let second = look(&observer, guards).await;
    assert_eq!(
        counters(&pick(&second, &guard, "error_rate"))[B],
        Counter {
            started: None,
            sample_at: None,
            total: 142.0,
            bad: Some(37.0)
        }
    );
    // Why counters are read raw: to `rate`, a series born at 37 has never risen.
    assert_eq!(world.values("sum(rate(http_requests_total{status='503'}[1m]))").await, ["0"]);

    let age = |readings: &Readings| match pick(readings, &guard, "error_rate") {
        Reading::Counters { sample_at, .. } => sample_at,
        other => panic!("{other:?}"),
    };
    assert!(age(&second) > age(&first), "the sample times move on");
    let behind = now().duration_since(age(&second));
    assert!(behind.as_secs_f64() < 10.0, "{behind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_a_bucket_is_the_same_bucket() {
    let Some(binary) = prometheus("every_spelling") else { return };
    let world = World::start(&binary, &[A, B, C]).await;
    for (pod, le) in [(A, "1"), (B, "1.0"), (C, "1e+00")] {
        world.expose(pod, &buckets(le, 90, 100));
    }
    world.until("count(http_request_duration_seconds_bucket{le='+Inf'})", "3").await;
    let guard = guard("web");
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let seen = counters(&pick(&look(&observer, guards).await, &guard, "p95"));
    let slow = Counter {
        started: None,
        sample_at: None,
        total: 100.0,
        bad: Some(10.0),
    };
    assert_eq!(seen, [A, B, C].map(|pod| (pod.to_owned(), slow)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_that_is_no_bucket_is_refused_with_its_neighbours() {
    let Some(binary) = prometheus("no_bucket") else { return };
    let world = World::start(&binary, &[A]).await;
    let more = "http_request_duration_seconds_bucket{le=\"5\"} 95";
    world.expose(A, &format!("{}{more}\nhttp_requests_total 1", buckets("2.5", 90, 100)));
    world.until("count(http_request_duration_seconds_bucket)", "4").await;
    let guard = guard("web");
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let why = "1 s lies between the buckets 0.5 s and 2.5 s; set the threshold to one of them".to_owned();
    let readings = look(&observer, guards).await;
    assert_eq!(pick(&readings, &guard, "p95"), Reading::Absent(Absence::NoBucket(why.clone())));
    assert!(matches!(pick(&readings, &guard, "error_rate"), Reading::Counters { .. }));
    let reports = observer.inspect(&guard.id, now()).await;
    let p95 = reports.iter().find(|report| report.kind == "latency").expect("a report");
    assert_eq!(p95.absent, Some(Absence::NoBucket(why)));
    let buckets = p95.buckets.as_ref().expect("buckets");
    assert_eq!((buckets.below, buckets.above, buckets.is_bound), (Some(0.5), Some(2.5), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_targets_vanish_or_grow_stale_and_are_never_fresh() {
    let Some(binary) = prometheus("dead_targets") else { return };
    let world = World::start(&binary, &[A, B, C]).await;
    // Samples with their own time get no stale marker: Prometheus goes on answering them for five minutes.
    let old = now().as_millisecond() - 200_000;
    world.expose(A, "http_requests_total 10");
    world.expose(B, &format!("http_requests_total 20 {old}"));
    world.expose(C, "http_requests_total 30");
    world.until("count(http_requests_total)", "3").await;
    world.until("count(count_over_time(http_requests_total[1m]) >= 2)", "2").await;
    let guard = guard("web");
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let pods = |reading: &Reading| counters(reading).into_keys().collect::<Vec<_>>();
    assert_eq!(pods(&pick(&look(&observer, guards).await, &guard, "error_rate")), [A, C]);
    world.kill(C);
    world.until("count(http_requests_total)", "2").await;
    assert_eq!(pods(&pick(&look(&observer, guards).await, &guard, "error_rate")), [A]);
    world.kill(A);
    world.until("count(http_requests_total)", "1").await;
    assert_eq!(
        pick(&look(&observer, guards).await, &guard, "error_rate"),
        Reading::Absent(Absence::Stale)
    );
    // And why raw samples are read: a rate over a window goes on answering for the dead.
    assert_eq!(world.values("count(rate(http_requests_total[1m]))").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_selector_blinds_its_rule_and_nobody_else() {
    let Some(binary) = prometheus("broken_selector") else { return };
    let world = World::start(&binary, &[A]).await;
    world.expose(A, &format!("http_requests_total 10\n{}", buckets("1", 90, 100)));
    world.until("count(http_request_duration_seconds_bucket{le='+Inf'})", "1").await;
    let mut guards: Vec<GuardSpec> = (0..8).map(|n| guard(&format!("other-{n}"))).collect();
    guards.push(guard("web"));
    for (index, broken) in [(1, r#"http_requests_total{status=~"(""#), (6, "sum(")] {
        let RuleKind::ErrorRate(rule) = &mut guards[index].rules[0].kind else {
            panic!("not the rule");
        };
        rule.bad = broken.to_owned();
    }
    let (observer, _) = world.observer(&guards);
    for _ in 0..2 {
        let readings = look(&observer, &guards).await;
        for index in [1, 6] {
            let reading = pick(&readings, &guards[index], "error_rate");
            let Reading::Absent(Absence::Error(why)) = &reading else {
                panic!("{reading:?}");
            };
            assert!(why.contains("400") && why.contains("parse error"), "{why}");
            assert_eq!(pick(&readings, &guards[index], "p95"), Reading::Absent(Absence::Empty));
        }
        assert_eq!(pick(&readings, &guards[0], "error_rate"), Reading::Absent(Absence::Empty));
        assert_eq!(counters(&pick(&readings, &guards[8], "error_rate"))[A], requests(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_guards_are_a_few_requests() {
    let Some(binary) = prometheus("two_hundred_guards") else { return };
    let pods: Vec<String> = (0..200)
        .flat_map(|n| ["blue", "green"].map(|color| format!("web-{n}-{color}-5d4f-aaaaa")))
        .collect();
    let names: Vec<&str> = pods.iter().map(String::as_str).collect();
    let world = World::start(&binary, &names).await;
    for (index, pod) in pods.iter().enumerate() {
        world.expose(
            pod,
            &format!("http_requests_total{{status=\"200\"}} {index}\n{}", buckets("1", 90, 100)),
        );
    }
    world.until("count(http_requests_total)", "400").await;
    let guards: Vec<GuardSpec> = (0..200).map(|n| guard(&format!("web-{n}"))).collect();
    let (observer, metrics) = world.observer(&guards);
    let began = Instant::now();
    let readings = look(&observer, &guards).await;
    let first = began.elapsed();
    for (index, guard) in guards.iter().enumerate() {
        let seen = counters(&pick(&readings, guard, "error_rate"));
        assert_eq!(seen[&pods[index * 2]], requests(u32::try_from(index * 2).expect("small")));
        assert_eq!(counters(&pick(&readings, guard, "p95")).len(), 1);
    }
    let exposed = metrics.expose().expect("metrics");
    let ok = exposed
        .lines()
        .find(|line| line.starts_with("flipback_prometheus_requests_total") && line.contains("\"ok\""));
    let requests: u32 = ok
        .and_then(|line| line.rsplit(' ').next())
        .and_then(|count| count.parse().ok())
        .expect("counted");
    let began = Instant::now();
    look(&observer, &guards).await;
    let _ = writeln!(
        std::io::stderr(),
        "200 guards: {requests} requests, first look {first:?}, second {:?}",
        began.elapsed()
    );
    assert!(requests <= 9, "{requests} requests");
    assert!(!exposed.contains("result=\"error\""), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_evidence_read_the_same_rules() {
    let Some(binary) = prometheus("check_and_evidence") else { return };
    let world = World::start(&binary, &[A]).await;
    let guard = guard("web");
    let (observer, _) = world.observer(std::slice::from_ref(&guard));
    let began = now();
    for n in 1..=8_u32 {
        let requests = format!(
            "http_requests_total{{status=\"200\"}} {}\nhttp_requests_total{{status=\"500\"}} {}",
            n * 30,
            n * 10
        );
        world.expose(
            A,
            &format!(
                "process_start_time_seconds 1795000000\n{requests}\n{}",
                buckets("1", n * 30, n * 40)
            ),
        );
        world.until("http_requests_total{status='500'}", &(n * 10).to_string()).await;
    }
    let reports = observer.inspect(&guard.id, now()).await;
    let blue = |kind: &str| {
        reports
            .iter()
            .find(|report| report.kind == kind && report.color.as_str() == "blue")
            .expect("a report")
    };
    let errors = blue("error_rate");
    assert_eq!(errors.value.as_deref(), Some("320 requests, 80 bad, on 1 target"));
    assert_eq!(errors.scrape_spacing.map(|spacing| spacing.as_secs_f64().round()), Some(1.0));
    // 0.5 s + 2 x 30 s + 15 s, from a poll of 30 s.
    assert!(
        errors
            .time_to_detect
            .is_some_and(|detect| (75.0..76.0).contains(&detect.as_secs_f64())),
        "{errors:?}"
    );
    assert!(errors.bad_share.is_some_and(|share| (0.2..0.3).contains(&share)), "{errors:?}");
    assert!(
        errors.warnings.iter().any(|warning| warning.contains("leave more room")),
        "{errors:?}"
    );
    let bounds = blue("latency").buckets.as_ref().expect("buckets");
    assert!(
        bounds.is_bound
            && bounds
                .refusal
                .as_ref()
                .is_some_and(|why| why.contains("1 s is the highest finite bucket"))
    );
    let green = reports.iter().find(|report| report.color.as_str() == "green").expect("a report");
    assert_eq!(green.absent, Some(Absence::Empty));

    let series = observer
        .range(&guard.id, began, now(), Duration::from_secs(1))
        .await
        .expect("answered");
    let of = |rule: &str, name: &str| {
        let found = series
            .iter()
            .find(|one| one.color.as_str() == "blue" && one.rule.as_str() == rule && one.name == name);
        found.map(|one| one.points.clone()).expect("the series")
    };
    for (rule, name) in [("error_rate", "share"), ("p95", "share")] {
        let (_, last) = *of(rule, name).last().expect("points");
        assert!((last - 0.25).abs() < 0.01, "{rule} {name}: {last}");
    }
    assert!(!of("error_rate", "total").is_empty() && !of("p95", "p95").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_facts_we_rely_on_hold() {
    let Some(binary) = prometheus("the_facts") else { return };
    let world = World::start(&binary, &[A]).await;
    world.expose(A, "x_total 0\ny_total 1\nz{a=\"1\"} 1\nz{a=\"2\"} 1");
    world.until("y_total", "1").await;
    for (query, value) in [
        ("x_total / x_total", "NaN"),
        ("y_total / x_total", "+Inf"),
        ("y_total * 0.0000005", "5e-07"),
        ("y_total * 1e21", "1e+21"),
    ] {
        assert_eq!(world.values(query).await, [value], "{query}");
    }
    let (status, body) = world.get("nothing_of_this_name").await;
    assert_eq!((status, body["data"]["result"].as_array().map(Vec::len)), (200, Some(0)));
    let (status, body) = world.get("sum(").await;
    assert_eq!((status, body["errorType"].as_str()), (400, Some("bad_data")));
    let (status, body) = world.get("z * on (job) z").await;
    assert_eq!((status, body["errorType"].as_str()), (422, Some("execution")));
    let raw = world.get("y_total[1m]").await.1;
    assert!(
        raw["data"]["result"][0]["values"]
            .as_array()
            .is_some_and(|values| !values.is_empty()),
        "{raw}"
    );
}
