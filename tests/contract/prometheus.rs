//! What flipback relies on of Prometheus: the sandbox's stand-in and a real one scrape the same applications at the same
//! time, and are asked the same.

use std::{collections::BTreeMap, time::Duration};

use flipback::sandbox::{Fault, Sandbox, SandboxOptions};
use serde_json::Value;

use crate::support::{Prometheus, Target, eventually, install_tls, real_parts};

/// Two scrapes and some.
const SETTLE: Duration = Duration::from_millis(2500);
/// How long the worlds may take to agree.
const LIMIT: Duration = Duration::from_secs(30);

struct Both {
    sandbox: Sandbox,
    real: Prometheus,
    http: reqwest::Client,
}

type Series = BTreeMap<String, f64>;

impl Both {
    async fn start(test: &str) -> Option<Self> {
        real_parts(test, &["prometheus"])?;
        install_tls();
        let sandbox = Sandbox::start(SandboxOptions::default()).await.expect("the sandbox starts");
        let targets: Vec<Target> = sandbox
            .scrape_targets()
            .into_iter()
            .map(|(labels, address)| {
                let labels: Vec<(&str, &str)> = labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
                Target::new(address, &labels)
            })
            .collect();
        assert_eq!(targets.len(), 4);
        let real = Prometheus::start(&targets).await;
        Some(Self {
            sandbox,
            real,
            http: reqwest::Client::new(),
        })
    }

    /// The whole answer of each: code and body.
    async fn answers(&self, path: &str, parameters: &[(&str, &str)]) -> [(u16, Value); 2] {
        let ask = async |base: String| {
            let answer = self
                .http
                .post(format!("{base}{path}"))
                .form(parameters)
                .send()
                .await
                .expect("an answer");
            (answer.status().as_u16(), answer.json().await.expect("JSON"))
        };
        [ask(self.sandbox.prometheus_url()).await, ask(self.real.url()).await]
    }

    /// An instant vector of each, labels as text.
    async fn vectors(&self, query: &str) -> [Series; 2] {
        let [ours, theirs] = self.answers("/api/v1/query", &[("query", query)]).await;
        [ours, theirs].map(|(code, body)| {
            assert_eq!(
                (code, &body["data"]["resultType"]),
                (200, &Value::from("vector")),
                "{query}: {body}"
            );
            let result = body["data"]["result"].as_array().expect("a list");
            result
                .iter()
                .map(|one| {
                    let labels: BTreeMap<String, Value> = serde_json::from_value(one["metric"].clone()).expect("labels");
                    let value = one["value"][1].as_str().expect("a text").parse().expect("a number");
                    (format!("{labels:?}"), value)
                })
                .collect()
        })
    }

    /// Waits until both give the same series with values no further apart than `within`.
    async fn agree(&self, query: &str, series: usize, within: f64) {
        eventually(&format!("both to agree on {query}"), LIMIT, async || {
            let [ours, theirs] = self.vectors(query).await;
            let same = ours.len() == series && ours.keys().eq(theirs.keys());
            let near = ours
                .values()
                .zip(theirs.values())
                .all(|(ours, theirs)| (ours - theirs).abs() <= within);
            (same && near).then_some(())
        })
        .await;
    }
}

/// The shape of flipback's queries: tagged sums per target, joined.
fn batch() -> String {
    let pods = |color: &str| format!(r#"namespace="shop",pod=~"web-{color}-.+""#);
    let tagged = |key: usize, expression: &str| format!(r#"label_replace({expression}, "flipback", "{key}", "", "")"#);
    let parts: Vec<String> = ["blue", "green"]
        .iter()
        .flat_map(|color| {
            let on = pods(color);
            [
                format!("sum by (job, instance, pod) (http_requests_total{{{on}}})"),
                format!(r#"sum by (job, instance, pod) (http_requests_total{{{on},status=~"5.."}})"#),
                format!(r#"sum by (job, instance, pod, le) (http_request_duration_seconds_bucket{{{on},le=~"[+]?[Ii]nf|0*0[.]50*"}})"#),
                format!("min by (job, instance, pod) (process_start_time_seconds{{{on}}})"),
            ]
        })
        .enumerate()
        .map(|(key, expression)| tagged(key, &expression))
        .collect();
    let (left, right) = parts.split_at(4);
    format!("(({}) or ({}))", left.join(" or "), right.join(" or "))
}

#[tokio::test]
async fn a_batch_has_the_same_series_and_values() {
    let Some(both) = Both::start("contract::a_batch_has_the_same_series_and_values").await else {
        return;
    };
    // Per color and pod: a total, two buckets, a start time; no error series before the first error.
    both.agree(&batch(), 2 * 2 * 4, 0.0).await;
    both.sandbox.hurt(
        "blue",
        Fault {
            errors: 1.0,
            ..Fault::default()
        },
    );
    for _ in 0..7 {
        both.sandbox.visit("blue").await;
    }
    // Now blue has its errors as well, and nobody visits any more: the values are equal, not merely near.
    both.agree(&batch(), 2 * 2 * 4 + 2, 0.0).await;
    let [ours, _] = both.vectors(r#"sum(http_requests_total{pod=~"web-blue-.+",status=~"5.."})"#).await;
    assert_eq!(ours.values().copied().collect::<Vec<_>>(), [14.0]);
}

#[tokio::test]
async fn sample_times_are_those_of_the_scrapes() {
    let Some(both) = Both::start("contract::sample_times_are_those_of_the_scrapes").await else {
        return;
    };
    let times = r#"max by (job, instance, pod) (timestamp(http_requests_total{namespace="shop"}))"#;
    both.agree(times, 4, 1.5).await;
    let [before, _] = both.vectors(times).await;
    tokio::time::sleep(SETTLE).await;
    let [after, _] = both.vectors(times).await;
    for (before, after) in before.values().zip(after.values()) {
        assert!(after - before >= 1.0 && after - before <= 4.0, "{before} {after}");
    }
    both.agree("timestamp(sum(up))", 1, 1.0).await;
}

#[tokio::test]
async fn set_operators_and_functions_have_the_same_labels() {
    let Some(both) = Both::start("contract::set_operators_and_functions_have_the_same_labels").await else {
        return;
    };
    both.sandbox.visit("blue").await;
    for (query, series) in [
        (
            r#"process_start_time_seconds and on (job, instance) (http_requests_total{pod=~"web-blue-.+"})"#,
            2,
        ),
        (r#"up unless on (pod) http_requests_total{pod=~"web-blue-.+"}"#, 2),
        ("count by (le) (http_request_duration_seconds_bucket)", 12),
        ("sum(http_requests_total) by (namespace)", 1),
        ("sum by (pod) (http_request_duration_seconds_count) / on (pod) sum by (pod) (up)", 4),
        ("http_requests_total + 1", 4),
        ("{__name__=\"up\",none=\"\"}", 4),
        ("nothing_of_the_kind", 0),
        ("sum(nothing_of_the_kind)", 0),
        ("sum(http_requests_total{pod=~\"web-blue\"})", 0),
    ] {
        both.agree(query, series, 0.0).await;
    }
    let [ours, theirs] = both
        .vectors("sum(http_requests_total{pod=~\"web-green-.+\"}) / sum(http_requests_total{pod=~\"web-green-.+\"})")
        .await;
    assert!(ours.values().all(|value| value.is_nan()) && ours.len() == 1);
    assert!(theirs.values().all(|value| value.is_nan()) && theirs.len() == 1);
}

#[tokio::test]
async fn a_dead_target_vanishes_within_a_scrape() {
    let Some(both) = Both::start("contract::a_dead_target_vanishes_within_a_scrape").await else {
        return;
    };
    both.agree("http_requests_total", 4, 0.0).await;
    both.sandbox.hurt(
        "green",
        Fault {
            crashed: true,
            ..Fault::default()
        },
    );
    both.agree("http_requests_total", 2, 0.0).await;
    both.agree("up", 4, 0.0).await;
    both.agree("sum(up)", 1, 0.0).await;
    let [ours, _] = both.vectors("sum(up)").await;
    assert_eq!(ours.values().copied().collect::<Vec<_>>(), [2.0]);
    both.sandbox.hurt("green", Fault::default());
    both.agree("http_requests_total", 4, 0.0).await;
}

#[tokio::test]
async fn ranges_have_the_same_shape() {
    let Some(both) = Both::start("contract::ranges_have_the_same_shape").await else {
        return;
    };
    // Long enough that either has seen every target three times before the range begins.
    for _ in 0..8 {
        both.sandbox.visit("blue").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let end = crate::support::now().as_second();
    let (start, end) = ((end - 4).to_string(), (end - 1).to_string());
    for query in [
        "sum by (pod) (http_requests_total)",
        "sum by (pod) (rate(http_requests_total[3s]))",
        "1",
    ] {
        let asked = [("query", query), ("start", &start), ("end", &end), ("step", "1")];
        let [(code, ours), (_, theirs)] = both.answers("/api/v1/query_range", &asked).await;
        assert_eq!((code, &ours["data"]["resultType"]), (200, &Value::from("matrix")), "{ours}");
        let shape = |answer: &Value| -> BTreeMap<String, Vec<Value>> {
            let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
            let times = |one: &Value| {
                one["values"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|point| point[0].clone())
                    .collect()
            };
            result.iter().map(|one| (one["metric"].to_string(), times(one))).collect()
        };
        let seconds = |shape: BTreeMap<String, Vec<Value>>| -> BTreeMap<String, Vec<i64>> {
            #[expect(clippy::cast_possible_truncation, reason = "whole seconds of this century")]
            let whole = |time: &Value| time.as_f64().unwrap_or_default() as i64;
            shape
                .into_iter()
                .map(|(labels, times)| (labels, times.iter().map(whole).collect()))
                .collect()
        };
        assert_eq!(seconds(shape(&ours)), seconds(shape(&theirs)), "{query}");
    }
}

#[tokio::test]
async fn nonsense_is_refused_alike() {
    let Some(both) = Both::start("contract::nonsense_is_refused_alike").await else {
        return;
    };
    let range = |step: &'static str| [("query", "up"), ("start", "1000"), ("end", "2000"), ("step", step)];
    for (path, parameters) in [
        ("/api/v1/query", &[("query", "sum(")][..]),
        ("/api/v1/query", &[("query", "")]),
        ("/api/v1/query", &[("query", "up{a=1}")]),
        ("/api/v1/query", &[("query", "no_such_function(up)")]),
        ("/api/v1/query", &[("query", "up"), ("time", "yesterday")]),
        ("/api/v1/query_range", &range("0")),
        ("/api/v1/query_range", &range("0.01")),
        ("/api/v1/query_range", &[("query", "up")]),
    ] {
        let [ours, theirs] = both.answers(path, parameters).await;
        assert_eq!(
            (theirs.0, &theirs.1["errorType"]),
            (400, &Value::from("bad_data")),
            "{parameters:?}"
        );
        assert_eq!(
            (ours.0, &ours.1["errorType"], &ours.1["status"]),
            (400, &theirs.1["errorType"], &theirs.1["status"]),
            "{parameters:?}"
        );
    }
    let many = "up / on (namespace) up";
    let [ours, theirs] = both.answers("/api/v1/query", &[("query", many)]).await;
    assert_eq!((ours.0, &ours.1["errorType"]), (theirs.0, &theirs.1["errorType"]));
    assert_eq!(ours.0, 422);
}
