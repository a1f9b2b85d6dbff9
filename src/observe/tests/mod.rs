//! The room as a whole, against a server of the test's own on loopback.

mod answers;
mod credentials;
mod probes;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use regex::Regex;

use super::*;
use crate::model::settings::PrometheusSettings;

/// What a stub was asked.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    headers: HeaderMap,
    form: BTreeMap<String, String>,
}

type Answerer = dyn Fn(&Asked) -> Response + Send + Sync;

/// A server that answers as the test says and remembers what it was asked.
struct Stub {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    async fn start(answer: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = (asked.clone(), Arc::new(answer) as Arc<Answerer>);
        let app = Router::new().fallback(handle).with_state(state);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { address, asked, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }

    fn count(&self) -> usize {
        self.asked().len()
    }
}

#[expect(clippy::type_complexity, reason = "one stub's state")]
async fn handle(
    State((log, answer)): State<(Arc<Mutex<Vec<Asked>>>, Arc<Answerer>)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = Asked {
        path: uri.path().to_owned(),
        headers,
        form: url::form_urlencoded::parse(&body).into_owned().collect(),
    };
    log.lock().expect("not poisoned").push(asked.clone());
    answer(&asked)
}

fn json(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn refusal(status: u16, kind: &str, error: &str) -> Response {
    json(status, format!(r#"{{"status":"error","errorType":"{kind}","error":"{error}"}}"#))
}

/// When the stub's Prometheus evaluates.
const EVALUATED: f64 = 1_800_000_000.5;

/// Further labels and the value of one sample.
type Said = (Vec<(&'static str, String)>, String);

/// Answers every tagged expression of a query with what `say` gives for it.
fn vector(asked: &Asked, say: impl Fn(&str) -> Vec<Said>) -> String {
    let tagged = Regex::new(r#"label_replace\((.+?), "flipback", "(\d+)", "", ""\)"#).expect("a regular expression");
    let query = asked.form.get("query").map_or("", String::as_str);
    let mut samples = Vec::new();
    for found in tagged.captures_iter(query) {
        for (labels, value) in say(&found[1]) {
            let mut metric = serde_json::json!({ "flipback": &found[2] });
            for (label, text) in labels {
                metric[label] = text.into();
            }
            samples.push(serde_json::json!({ "metric": metric, "value": [EVALUATED, value] }));
        }
    }
    serde_json::json!({ "status": "success", "data": { "resultType": "vector", "result": samples } }).to_string()
}

/// One target's sample.
fn on(pod: &str, value: impl ToString) -> Said {
    let labels = [("job", "web"), ("instance", "10.0.0.1:80"), ("pod", pod)];
    (labels.map(|(label, text)| (label, text.to_owned())).to_vec(), value.to_string())
}

/// One bucket of a target.
fn bucket(pod: &str, le: &str, value: impl ToString) -> Said {
    let (mut labels, value) = on(pod, value);
    labels.push(("le", le.to_owned()));
    (labels, value)
}

/// What an ordinary Prometheus says about an ordinary color.
fn healthy(expression: &str) -> Vec<Said> {
    if expression.contains("timestamp(") {
        vec![on("a", EVALUATED - 2.0)]
    } else if expression.contains("process_start_time_seconds") {
        vec![on("a", 1_799_990_000)]
    } else if expression.starts_with("count by (le)") {
        let bound = |le: &str| (vec![("le", le.to_owned())], "1".to_owned());
        vec![bound("0.5"), bound("1.0"), bound("2.5"), bound("+Inf")]
    } else if expression.starts_with("sum by (job, instance, pod, le)") {
        let le = if expression.contains("2[.]50*") { "2.5" } else { "1.0" };
        vec![bucket("a", le, 90), bucket("a", "+Inf", 100)]
    } else if expression.contains("5..") {
        vec![on("a", 7)]
    } else {
        vec![on("a", 1000)]
    }
}

fn settings(url: &str) -> PrometheusSettings {
    PrometheusSettings {
        url: url.parse().expect("a URL"),
        timeout: Duration::from_secs(5),
        bearer: None,
        basic: None,
        ca_file: None,
        client_certificate: None,
        headers: BTreeMap::new(),
    }
}

fn observer(guards: &[GuardSpec], prometheus: PrometheusSettings) -> Observer {
    let cluster = ClusterSettings {
        prometheus: Some(prometheus),
        ..ClusterSettings::default()
    };
    let guards: Vec<Arc<GuardSpec>> = guards.iter().cloned().map(Arc::new).collect();
    Observer::new(&guards, &[cluster], BTreeMap::new(), Metrics::new().expect("metrics")).expect("an observer")
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a time")
}

/// One look at guards whose route cannot be read: what Prometheus says does not depend on it.
async fn look(observer: &Observer) -> Readings {
    let views = observer.guards.keys().map(|id| (id.clone(), View::Unreadable("a test".to_owned())));
    observer.observe(&views.collect(), now()).await
}

fn pick<'a>(readings: &'a Readings, guard: &GuardSpec, color: &str, rule: &str) -> &'a Reading {
    let color = Color::new(color).expect("a name");
    let rule = RuleName::new(rule).expect("a name");
    &readings[&guard.id][&color][&rule]
}

/// The error rate of blue of the only guard.
async fn error_rate(answer: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Reading {
    let stub = Stub::start(answer).await;
    // What an answer is taken for is asked here, not how long it took: megabytes take seconds on a busy machine.
    let mut guard = plan::tests::guard("web");
    guard.policy.poll = Duration::from_secs(60);
    let patient = PrometheusSettings {
        timeout: Duration::from_secs(30),
        ..settings(&stub.url())
    };
    let readings = look(&observer(std::slice::from_ref(&guard), patient)).await;
    pick(&readings, &guard, "blue", "error_rate").clone()
}

/// Names come and go with configurations, and a Prometheus whose settings stay is kept for ever.
#[tokio::test]
async fn what_was_learned_of_expressions_that_nobody_asks_for_any_more_is_forgotten() {
    let stub = Stub::start(|asked| json(200, vector(asked, |e| if e.contains("native") { Vec::new() } else { healthy(e) }))).await;
    let cluster = ClusterSettings {
        prometheus: Some(settings(&stub.url())),
        ..ClusterSettings::default()
    };
    let next = |former: &Observer, names: &[&str]| {
        let guards: Vec<Arc<GuardSpec>> = names.iter().map(|name| Arc::new(plan::tests::guard(name))).collect();
        let metrics = Metrics::new().expect("metrics");
        former
            .successor(&guards, std::slice::from_ref(&cluster), BTreeMap::new(), metrics)
            .expect("an observer")
    };
    let mut observer = observer(&[plan::tests::guard("web")], settings(&stub.url()));
    look(&observer).await;
    let known = observer.sources[0].0.learned();
    assert!(known > 0);
    for n in 0..5 {
        observer = next(&observer, &["web", &format!("pr-{n}")]);
        assert_eq!(observer.sources[0].0.learned(), known, "of the guard that stays, and of no other");
        look(&observer).await;
        assert_eq!(observer.sources[0].0.learned(), 2 * known);
    }
}
