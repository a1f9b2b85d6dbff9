//! A Prometheus that knows the script: it answers the daemon's own queries, and nothing else, with what was counted by then.
//!
//! A real one cannot be told beforehand what it will have scraped, and the streaks that follow could not be worked out. What it answers has
//! the shape that `tests/contract/prometheus.rs` holds the sandbox and a real server to (the batch of tagged sums, sample times, start
//! times, ranges, the envelope of errors); an expression that it does not know is refused as `bad_data`, never guessed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use regex::Regex;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use super::{
    script::{Script, Side},
    support,
};

/// Between the tagged expression and its key.
const TAG: &str = r#", "flipback", ""#;
/// What a selector of the default preset reads.
const REQUESTS: &str = "http_requests_total{";
/// How the default preset matches the pods of a Deployment, behind its name.
pub const PODS: &str = r#"-[a-z0-9]+-[a-z0-9]+""#;
/// The buckets of every histogram.
pub const BOUNDS: [&str; 6] = ["0.1", "0.5", "1", "2", "5", "+Inf"];
/// What the one hand-written expression reads.
pub const QUEUE: &str = "soak_queue";

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Well,
    /// 503.
    Unavailable,
    /// 500.
    Broken,
    /// It takes requests and never answers.
    Hangs,
    /// It answers too late.
    Slow,
    /// HTML in the place of JSON.
    Page,
    /// Half of the answer.
    Truncates,
    /// The answer, with a warning that it is not all.
    Partial,
    /// Every number is NaN.
    NotANumber,
    /// Queries that ask for one guard are refused.
    Refuses(usize),
}

/// A running server.
#[derive(Debug)]
pub struct Prometheus {
    inner: Arc<Inner>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    script: Arc<Script>,
    manner: Mutex<(Manner, Option<Instant>)>,
    requests: AtomicU64,
    looks: Mutex<Looks>,
}

/// When the daemon asked for the first guard.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    count: u64,
    gap: Duration,
}

impl Prometheus {
    /// Starts one.
    pub async fn start(script: Arc<Script>) -> Self {
        let inner = Arc::new(Inner {
            script,
            manner: Mutex::new((Manner::Well, None)),
            requests: AtomicU64::new(0),
            looks: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let app = Router::new()
            .route("/api/v1/query", post(instant))
            .route("/api/v1/query_range", post(range))
            .with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { inner, address, task }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how it behaves.
    pub fn set(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap_or_else(PoisonError::into_inner) = (manner, Some(Instant::now()));
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Ordering::Relaxed)
    }

    /// Looks that asked it so far, and the longest time between two of them while it and the way to it were well.
    #[must_use]
    pub fn looks(&self) -> (u64, Duration) {
        let looks = self.inner.looks.lock().unwrap_or_else(PoisonError::into_inner);
        (looks.count, looks.gap)
    }

    /// The next gap between two looks says nothing of the daemon: it was told to look elsewhere.
    pub fn excuse(&self) {
        self.inner.looks.lock().unwrap_or_else(PoisonError::into_inner).last = None;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server in trouble is left alone for up to 20 s and their jitter, so that a gap soon after it is none of the daemon's making.
const FORGIVEN: Duration = Duration::from_secs(45);

impl Inner {
    fn looked(&self) {
        let (manner, since) = *self.manner.lock().unwrap_or_else(PoisonError::into_inner);
        let well = manner == Manner::Well && since.is_none_or(|since| since.elapsed() > FORGIVEN);
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        looks.count += 1;
        if let Some(last) = looks.last.replace(now).filter(|_| well) {
            looks.gap = looks.gap.max(now - last);
        }
    }
}

/// Now, in seconds since 1970: whole, and exact.
fn now() -> (u64, f64) {
    let millis = support::now().as_millisecond();
    (u64::try_from(millis / 1000).unwrap_or_default(), millis as f64 / 1000.0)
}

async fn instant(State(inner): State<Arc<Inner>>, form: Bytes) -> Response {
    inner.requests.fetch_add(1, Ordering::Relaxed);
    let Some(query) = parameter(&form, "query") else {
        return bad_data("no query");
    };
    if query.contains(r#"pod=~"shop-000-blue-[a-z0-9]+-[a-z0-9]+",status"#) {
        inner.looked();
    }
    let (second, exact) = now();
    let (manner, _) = *inner.manner.lock().unwrap_or_else(PoisonError::into_inner);
    if let Manner::Refuses(guard) = manner
        && query.contains(&format!("shop-{guard:03}-"))
    {
        return refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "execution",
            "found duplicate series for the match group",
        );
    }
    match answer(&inner.script, &query, second, exact, manner == Manner::NotANumber) {
        Ok(result) => spoiled(manner, "vector", &result).await,
        Err(why) => bad_data(&why),
    }
}

async fn range(State(inner): State<Arc<Inner>>, form: Bytes) -> Response {
    inner.requests.fetch_add(1, Ordering::Relaxed);
    let number = |name: &str| parameter(&form, name).and_then(|text| text.parse::<f64>().ok());
    let (Some(query), Some(from), Some(to), Some(step)) = (parameter(&form, "query"), number("start"), number("end"), number("step"))
    else {
        return bad_data("a range needs query, start, end and step");
    };
    let (manner, _) = *inner.manner.lock().unwrap_or_else(PoisonError::into_inner);
    let whose = target(&query);
    let mut values = String::new();
    let mut at = from;
    while at <= to && step > 0.0 {
        // Whole seconds in the past.
        let second = at.max(0.0) as u64;
        let value = match whose {
            Some((guard, side)) if query.contains(REQUESTS) && second > inner.script.begun() => {
                let before = second.saturating_sub(60).max(inner.script.begun());
                let span = (second - before).max(1) as f64;
                let share = inner.script.share(guard, side, before, second.max(before + 1));
                let requests = Script::requests(guard, side) as f64;
                if query.contains("status=~") {
                    share * requests
                } else {
                    requests * span / span
                }
            }
            _ => 0.1,
        };
        if second > inner.script.begun() {
            let comma = if values.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(values, r#"{comma}[{at},"{value}"]"#);
        }
        at += step;
    }
    let result = if values.is_empty() {
        String::new()
    } else {
        format!(r#"{{"metric":{{}},"values":[{values}]}}"#)
    };
    spoiled(manner, "matrix", &result).await
}

/// Answers a batch: the series of each of its tagged expressions.
fn answer(script: &Script, query: &str, second: u64, exact: f64, nan: bool) -> Result<String, String> {
    let mut result = String::with_capacity(query.len());
    let mut rest = query;
    let mut expressions = 0;
    while let Some((_, after)) = rest.split_once("label_replace(") {
        let (expression, tagged) = after.split_once(TAG).ok_or("an expression without its tag")?;
        let (key, left) = tagged.split_once('"').ok_or("a tag without its end")?;
        series(script, expression, key, second, exact, nan, &mut result)?;
        rest = left;
        expressions += 1;
    }
    if expressions == 0 {
        return Err(format!("not one of the daemon's batches: {query:?}"));
    }
    Ok(result)
}

/// The series of one expression.
fn series(script: &Script, expression: &str, key: &str, second: u64, exact: f64, nan: bool, out: &mut String) -> Result<(), String> {
    let unknown = || format!("not one of the daemon's expressions: {expression:?}");
    let (guard, side) = target(expression).ok_or_else(unknown)?;
    let mut add = |labels: &str, value: f64| {
        let comma = if out.is_empty() { "" } else { "," };
        let value = if nan { f64::NAN } else { value };
        let _ = write!(
            out,
            r#"{comma}{{"metric":{{"flipback":"{key}"{labels}}},"value":[{exact},"{value}"]}}"#
        );
    };
    let name = side.name();
    let of_target = format!(
        r#","instance":"10.0.0.{}:8080","job":"shop-{guard:03}","pod":"shop-{guard:03}-{name}-6d4b75cb6d-x7k2p""#,
        guard % 250
    );
    // Exact: far below 2^53.
    let total = script.total(guard, side, second) as f64;
    if expression.starts_with("sum by (job, instance, pod) (http_requests_total{") {
        let bad = expression.contains(r#"status=~"5..""#);
        add(&of_target, if bad { script.bad(guard, side, second) as f64 } else { total });
    } else if expression.starts_with("max by (job, instance, pod) (timestamp(") {
        add(&of_target, second as f64);
    } else if expression.starts_with("min by (job, instance, pod) (process_start_time_seconds{") {
        add(&of_target, (script.begun() - 3600) as f64);
    } else if expression.starts_with("sum by (job, instance, pod, le) (http_request_duration_seconds_bucket{") {
        for le in bounds(expression).ok_or_else(unknown)? {
            add(&format!(r#"{of_target},"le":"{le}""#), total);
        }
    } else if expression.starts_with("count by (le) (http_request_duration_seconds_bucket{") {
        for le in BOUNDS {
            add(&format!(r#","le":"{le}""#), 1.0);
        }
    } else if expression.starts_with("max(count_over_time(") {
        add("", if expression.contains("[300s]") { 300.0 } else { 150.0 });
    } else if expression.contains(QUEUE) {
        add("", (second % 40) as f64);
    } else {
        return Err(unknown());
    }
    Ok(())
}

/// The bounds that a selector of buckets matches.
fn bounds(expression: &str) -> Option<Vec<&'static str>> {
    // A few spellings of a few thresholds, each asked for in every look.
    static KNOWN: Mutex<BTreeMap<String, Vec<&'static str>>> = Mutex::new(BTreeMap::new());
    let (_, pattern) = expression.split_once(r#"le=~""#)?;
    let (pattern, _) = pattern.split_once('"')?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bounds) = known.get(pattern) {
        return Some(bounds.clone());
    }
    let matches = Regex::new(&format!("^(?:{pattern})$")).ok()?;
    let bounds: Vec<&str> = BOUNDS.into_iter().filter(|le| matches.is_match(le)).collect();
    known.insert(pattern.to_owned(), bounds.clone());
    Some(bounds)
}

/// Whose series a selector of the default preset asks for: the number in the name, and the color.
fn target(expression: &str) -> Option<(usize, Side)> {
    let (_, deployment) = expression.split_once(r#"pod=~"shop-"#)?;
    let (deployment, _) = deployment.split_once(PODS)?;
    let (number, color) = deployment.split_once('-')?;
    Some((number.parse().ok()?, Side::named(color)?))
}

async fn spoiled(manner: Manner, kind: &str, result: &str) -> Response {
    let warnings = if manner == Manner::Partial {
        r#","warnings":["some stores could not be reached"]"#
    } else {
        ""
    };
    let whole = format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":[{result}]}}{warnings}}}"#);
    let json = [(header::CONTENT_TYPE, "application/json")];
    match manner {
        Manner::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "later\n").into_response(),
        Manner::Broken => refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "out of order"),
        Manner::Hangs => std::future::pending().await,
        Manner::Page => ([(header::CONTENT_TYPE, "text/html")], "<html><title>Sign in</title></html>").into_response(),
        Manner::Truncates => {
            let half = whole.len() / 2;
            (json, Body::from(whole.get(..half).unwrap_or_default().to_owned())).into_response()
        }
        Manner::Slow => {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            (json, whole).into_response()
        }
        Manner::Well | Manner::Partial | Manner::NotANumber | Manner::Refuses(_) => (json, whole).into_response(),
    }
}

fn bad_data(why: &str) -> Response {
    refusal(StatusCode::BAD_REQUEST, "bad_data", why)
}

fn refusal(status: StatusCode, kind: &str, why: &str) -> Response {
    let body = json!({"status": "error", "errorType": kind, "error": why}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn parameter(form: &[u8], name: &str) -> Option<String> {
    url::form_urlencoded::parse(form)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
