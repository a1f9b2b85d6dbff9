//! Every preset, and every variant its page offers, read through configuration and observer from a real Prometheus that scrapes an
//! exposition in that system's shape.
//!
//! `tests/presets/*.prom` hold what such systems expose, with all their other labels and metrics, and before each page the labels that
//! a scrape in Kubernetes puts on it. In each of them are two colors and what must not be counted: a Deployment or Service whose
//! name begins like a color's, the same names in another namespace, what callers report of the same requests, answers in the 400s.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, http::Uri};
use flipback::{
    config::{self, Config, Sources},
    metrics::Metrics,
    model::{Color, Counter, GuardSpec, Preset, Reading, RuleName, View},
    observe::Observer,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

/// One page of a file.
#[derive(Debug)]
struct Target {
    /// What the scrape puts on its series.
    labels: BTreeMap<String, String>,
    text: String,
}

/// The targets of a file, each begun by `# target label=value ...`.
fn targets(file: &str) -> Vec<Target> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/presets").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let pages = text.split("\n# target ").skip(1);
    pages
        .map(|page| {
            let (labels, text) = page.split_once('\n').expect("a page below its labels");
            let label = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            Target {
                labels: labels.split(' ').filter_map(label).collect(),
                text: text.to_owned(),
            }
        })
        .collect()
}

/// The page with every counter and histogram grown to `times` what it was.
fn grown(page: &str, times: u64) -> String {
    let mut out = String::with_capacity(page.len());
    let mut grows = false;
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            grows = declared.ends_with(" counter") || declared.ends_with(" histogram");
        }
        match line.rsplit_once(' ').filter(|_| grows && !line.starts_with('#')) {
            Some((series, value)) => {
                let value: f64 = value.parse().expect("a number");
                // Counts in these files are far below 2^53.
                out += &format!("{series} {}\n", value * times as f64);
            }
            None => out += &format!("{line}\n"),
        }
    }
    out
}

#[derive(Clone)]
struct Pages {
    texts: Arc<Vec<String>>,
    times: Arc<AtomicU64>,
}

async fn page(State(pages): State<Pages>, uri: Uri) -> (StatusCode, String) {
    let at: Option<usize> = uri.path().trim_start_matches('/').parse().ok();
    match at.and_then(|at| pages.texts.get(at)) {
        Some(text) => (StatusCode::OK, grown(text, pages.times.load(Ordering::SeqCst))),
        None => (StatusCode::NOT_FOUND, String::new()),
    }
}

/// A real Prometheus that scrapes a file's targets every second.
struct World {
    prometheus: Child,
    url: String,
    times: Arc<AtomicU64>,
    count: usize,
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

/// What a scrape does with labels that the metric and the target both have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collision {
    /// The metric's are renamed to `exported_...`, as a scrape does unless told otherwise.
    Renames,
    /// The metric's stay: `honor_labels: true`.
    Honors,
}

impl World {
    async fn start(binary: &Path, file: &str, collision: Collision) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let targets = targets(file);
        assert!(!targets.is_empty(), "{file} has no target");
        let pages = Pages {
            texts: Arc::new(targets.iter().map(|target| target.text.clone()).collect()),
            times: Arc::new(AtomicU64::new(1)),
        };
        let times = pages.times.clone();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let app = Router::new().fallback(page).with_state(pages);
        tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        let groups: Vec<Value> = targets
            .iter()
            .enumerate()
            .map(|(at, target)| {
                let mut labels = target.labels.clone();
                labels.insert("__metrics_path__".to_owned(), format!("/{at}"));
                serde_json::json!({"targets": [address], "labels": labels})
            })
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        // JSON is YAML.
        let configuration = serde_json::json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "kubernetes", "honor_labels": collision == Collision::Honors, "static_configs": groups}],
        });
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, configuration.to_string()).expect("written");
        let port = free_port();
        let prometheus = Command::new(binary)
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        let world = Self {
            prometheus,
            url: format!("http://127.0.0.1:{port}"),
            times,
            count: targets.len(),
            _folder: folder,
        };
        world.scraped().await;
        world
    }

    /// Waits for a scrape of every target that began after this call.
    async fn scraped(&self) {
        let asked = now().as_millisecond() as f64 / 1000.0;
        let began = Instant::now();
        // The time of a sample is the time its scrape began.
        let query = format!("count((timestamp(up) > {asked}) and (up == 1))");
        while self.values(&query).await != [self.count as f64] {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "waited 60 s for a scrape of every target"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits for so many scrapes of every target that one more or less hardly changes what a rate extrapolates to.
    async fn settle(&self) {
        for _ in 0..6 {
            self.scraped().await;
        }
    }

    /// Lets every counter grow, and waits until that was scraped.
    async fn grow_to(&self, times: u64) {
        self.times.store(times, Ordering::SeqCst);
        self.scraped().await;
    }

    /// The values a query returns.
    async fn values(&self, query: &str) -> Vec<f64> {
        self.values_at(query, now()).await
    }

    /// The values a query returns of one moment: two that are compared must look at the same scrapes.
    async fn values_at(&self, query: &str, at: Timestamp) -> Vec<f64> {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let at = at.as_duration().as_secs_f64().to_string();
        let sent = client
            .post(format!("{}/api/v1/query", self.url))
            .form(&[("query", query), ("time", &at)])
            .send()
            .await;
        let Ok(response) = sent else { return Vec::new() };
        let body: Value = response.json().await.unwrap_or(Value::Null);
        let result = body["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |sample: &Value| sample["value"][1].as_str().and_then(|text| text.parse().ok());
        result.iter().filter_map(value).collect()
    }

    /// The configuration of a guard of two colors with more lines in the guard.
    fn configuration(&self, guard: &str, rules: &str) -> Config {
        let text = format!(
            "poll = \"30s\"\n[prometheus]\nurl = \"{}\"\ntimeout = \"10s\"\n[[guards]]\nname = \"web\"\nnamespace = \"shop\"\n{guard}\n\
             [guards.route]\nservice = \"web\"\nselector_key = \"version\"\n[guards.colors]\n\
             blue = {{ deployment = \"web-blue\", service = \"web-blue\" }}\n\
             green = {{ deployment = \"web-green\", service = \"web-green\" }}\n[guards.rules]\n{rules}",
            self.url
        );
        let file = self._folder.path().join("flipback.toml");
        fs::write(&file, text).expect("written");
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
    }
}

/// What a color's targets hold: `(bad, all)` of a rule, how many targets there are, and of how many the age is known.
#[derive(Debug, PartialEq)]
struct Held {
    bad: f64,
    total: f64,
    targets: usize,
    aged: usize,
}

async fn look(observer: &Observer, guard: &GuardSpec) -> BTreeMap<(String, String), Reading> {
    let views = BTreeMap::from([(guard.id.clone(), View::Unreadable("a test".to_owned()))]);
    let mut readings = observer.observe(&views, now()).await;
    let colors: BTreeMap<Color, BTreeMap<RuleName, Reading>> = readings.remove(&guard.id).expect("the guard is read");
    colors
        .into_iter()
        .flat_map(|(color, rules)| {
            rules
                .into_iter()
                .map(move |(rule, reading)| ((color.to_string(), rule.to_string()), reading))
        })
        .collect()
}

fn held(readings: &BTreeMap<(String, String), Reading>, color: &str, rule: &str) -> Held {
    let reading = &readings[&(color.to_owned(), rule.to_owned())];
    let Reading::Counters { targets, .. } = reading else {
        panic!("{color} {rule}: {reading:?}");
    };
    let sum = |of: fn(&Counter) -> f64| targets.values().map(of).sum();
    Held {
        bad: sum(|counter| counter.bad.unwrap_or(0.0)),
        total: sum(|counter| counter.total),
        targets: targets.len(),
        aged: targets.values().filter(|counter| counter.started.is_some()).count(),
    }
}

/// What a file holds of a color: bad answers, all requests, slow ones, targets.
type Truth = (u32, u32, u32, usize);

/// Pods of the color itself: two of blue, one of green.
const PODS: [Truth; 2] = [(37, 1497, 44, 2), (1, 326, 5, 1)];
/// OpenTelemetry counts the requests that got no answer too: three per pod.
const PODS_AND_UNANSWERED: [Truth; 2] = [(37, 1503, 44, 2), (1, 329, 5, 1)];
/// One proxy before both colors.
const PROXY: [Truth; 2] = [(30, 1000, 33, 1), (1, 326, 5, 1)];

/// Whether the targets of a file expose when their process started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Known,
    Unknown,
}

struct Case {
    preset: Preset,
    /// Which of the variants; `None`: the preset itself.
    variant: Option<usize>,
    file: &'static str,
    collision: Collision,
    /// A bound of the histogram.
    threshold: &'static str,
    truth: [Truth; 2],
    age: Age,
}

impl Case {
    fn new(preset: Preset, file: &'static str, threshold: &'static str, truth: [Truth; 2]) -> Self {
        Self {
            preset,
            variant: None,
            file,
            collision: Collision::Renames,
            threshold,
            truth,
            age: Age::Known,
        }
    }

    async fn read_exactly(self) {
        let Some(binary) = prometheus(self.file) else { return };
        let world = World::start(&binary, self.file, self.collision).await;
        let facts = self.preset.facts();
        let [errors, latency] = match self.variant.map(|at| facts.variants[at]) {
            Some(variant) => [
                format!("total = '{}'\nbad = '{}'", variant.total, variant.bad),
                format!("buckets = '{}'", variant.buckets),
            ],
            None => [String::new(), String::new()],
        };
        let rules = format!(
            "[guards.rules.error_rate]\n{errors}\n[guards.rules.latency_p95]\n{latency}\nthreshold = \"{0}\"\n\
             [guards.rules.latency_p99]\n{latency}\nthreshold = \"{0}\"",
            self.threshold
        );
        let config = world.configuration(&format!("preset = \"{}\"", facts.name), &rules);
        assert_eq!(config.warnings, Vec::<String>::new(), "the threshold is a usual bound");
        let observer =
            Observer::new(&config.guards, &config.clusters, BTreeMap::new(), Metrics::new().expect("metrics")).expect("an observer");
        for times in [1, 2] {
            world.grow_to(times).await;
            let readings = look(&observer, &config.guards[0]).await;
            for (color, (bad, total, slow, targets)) in ["blue", "green"].into_iter().zip(self.truth) {
                let expected = |bad: u32| Held {
                    bad: f64::from(bad) * times as f64,
                    total: f64::from(total) * times as f64,
                    targets,
                    aged: if self.age == Age::Known { targets } else { 0 },
                };
                assert_eq!(held(&readings, color, "error_rate"), expected(bad), "{color}, {times} times");
                for latency in ["latency_p95", "latency_p99"] {
                    assert_eq!(held(&readings, color, latency), expected(slow), "{color} {latency}, {times} times");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_http_is_read_exactly() {
    Case::new(Preset::PrometheusHttp, "prometheus-http.prom", "1s", PODS)
        .read_exactly()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_http_with_code_is_read_exactly() {
    let mut case = Case::new(Preset::PrometheusHttp, "prometheus-http-code.prom", "1s", PODS);
    case.variant = Some(0);
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_ms_is_read_exactly() {
    Case::new(Preset::HttpMs, "http-ms.prom", "500ms", PODS).read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otel_is_read_exactly() {
    Case::new(Preset::Otel, "otel.prom", "750ms", PODS_AND_UNANSWERED)
        .read_exactly()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otel_pushed_is_read_exactly() {
    let mut case = Case::new(Preset::Otel, "otel-pushed.prom", "750ms", PODS_AND_UNANSWERED);
    case.variant = Some(0);
    case.age = Age::Unknown;
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istio_is_read_exactly() {
    let mut case = Case::new(Preset::Istio, "istio.prom", "1s", PODS);
    case.age = Age::Unknown;
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istio_ambient_is_read_exactly() {
    let mut case = Case::new(Preset::Istio, "istio-ambient.prom", "1s", PROXY);
    case.variant = Some(0);
    case.age = Age::Unknown;
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linkerd_is_read_exactly() {
    Case::new(Preset::Linkerd, "linkerd.prom", "500ms", PODS).read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_ingress_is_read_exactly() {
    Case::new(Preset::NginxIngress, "nginx-ingress.prom", "2500ms", PROXY)
        .read_exactly()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_ingress_with_honored_labels_is_read_exactly() {
    let mut case = Case::new(Preset::NginxIngress, "nginx-ingress.prom", "2500ms", PROXY);
    case.variant = Some(0);
    case.collision = Collision::Honors;
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_is_read_exactly() {
    let mut case = Case::new(Preset::Envoy, "envoy.prom", "250ms", PROXY);
    case.age = Age::Unknown;
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_with_clusters_of_ones_own_is_read_exactly() {
    let mut case = Case::new(Preset::Envoy, "envoy-static.prom", "250ms", PROXY);
    case.variant = Some(0);
    case.age = Age::Unknown;
    case.read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_is_read_exactly() {
    Case::new(Preset::Traefik, "traefik.prom", "1200ms", PROXY).read_exactly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_by_a_service_monitor_is_read_exactly() {
    let mut case = Case::new(Preset::Traefik, "traefik-service-monitor.prom", "1200ms", PROXY);
    case.variant = Some(0);
    case.read_exactly().await;
}

/// A rule's expression with its placeholders filled for a color.
fn filled(guard: &GuardSpec, rule: &str, color: &str) -> String {
    let found = guard.rules.iter().find(|one| one.name.as_str() == rule).expect("the rule is there");
    let expr = found.kind.scalar().expect("a number").expr.clone();
    expr.replace("{namespace}", "shop")
        .replace("{deployment}", &format!("web-{color}"))
        .replace("{window}", "1m")
}

#[tokio::test(flavor = "multi_thread")]
async fn saturation_is_one_number_per_color_that_the_real_prometheus_computes() {
    let Some(binary) = prometheus("saturation") else { return };
    // kube-state-metrics is scraped with honor_labels, or its `pod` would be its own.
    let world = World::start(&binary, "saturation.prom", Collision::Honors).await;
    let windows = "windows = { short = \"1m\", long = \"5m\" }";
    let rules = format!(
        "[guards.rules.saturation_memory]\n[guards.rules.saturation_cpu]\n\
         [guards.rules.memory_twice]\nkind = \"saturation\"\nresource = \"memory\"\n{windows}\n\
         [guards.rules.cpu_twice]\nkind = \"saturation\"\nresource = \"cpu\"\n{windows}"
    );
    let guard = world.configuration("", &rules).guards[0].clone();
    let value = async |rule: &str, color: &str| world.values(&filled(&guard, rule, color)).await;
    for rule in ["saturation_memory", "memory_twice"] {
        assert_eq!(value(rule, "blue").await, [0.75], "{rule}");
        assert_eq!(value(rule, "green").await, [0.25], "{rule}");
    }
    world.grow_to(2).await;
    world.settle().await;
    for rule in ["saturation_cpu", "cpu_twice"] {
        let moment = now();
        let at = async |color: &str| world.values_at(&filled(&guard, rule, color), moment).await;
        let (blue, green) = (at("blue").await, at("green").await);
        let ([blue], [green]) = (&blue[..], &green[..]) else {
            panic!("{rule}: {blue:?} {green:?}");
        };
        // 90 to 10 core-seconds of the fullest container, scraped at different moments, from which a rate extrapolates.
        assert!((7.0..11.0).contains(&(blue / green)), "{rule}: {blue} {green}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_is_the_rate_of_the_presets_requests() {
    let Some(binary) = prometheus("throughput") else { return };
    let world = World::start(&binary, "linkerd.prom", Collision::Renames).await;
    let guard = world
        .configuration("preset = \"linkerd\"", "[guards.rules.throughput]\nmin = 1")
        .guards[0]
        .clone();
    world.grow_to(2).await;
    world.settle().await;
    let moment = now();
    let value = async |color: &str| world.values_at(&filled(&guard, "throughput", color), moment).await;
    let (blue, green) = (value("blue").await, value("green").await);
    let ([blue], [green]) = (&blue[..], &green[..]) else {
        panic!("{blue:?} {green:?}");
    };
    // 1497 to 326 requests, scraped at different moments, from which a rate extrapolates.
    assert!((3.6..5.6).contains(&(blue / green)), "{blue} {green}");
}

#[test]
fn every_preset_and_variant_has_its_case() {
    let text = include_str!("presets.rs");
    for preset in Preset::ALL.into_iter().filter(|preset| *preset != Preset::Custom) {
        let cases = text.matches(&format!("Case::new(Preset::{preset:?},")).count();
        assert_eq!(cases, 1 + preset.facts().variants.len(), "{preset:?}");
    }
}
