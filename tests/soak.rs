//! The soak's own judgement, and that its Prometheus answers as a real one does; the soak itself is `make soak` (`docs/soak.md`).

#[path = "../benches/soak/fit.rs"]
pub mod fit;
#[path = "../benches/soak/model.rs"]
pub mod model;
#[path = "../benches/soak/prometheus.rs"]
pub mod prometheus;
#[path = "../benches/soak/script.rs"]
pub mod script;
pub mod support;
#[path = "soak/fit.rs"]
mod the_fit;
#[path = "soak/model.rs"]
mod the_model;
#[path = "soak/script.rs"]
mod the_script;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::get};
use prometheus::{BOUNDS, Manner, PODS};
use script::Script;
use serde_json::Value;
use support::{Target, eventually, real_parts};

/// An application that counts, as the script's do.
async fn application() -> SocketAddr {
    let mut text =
        "http_requests_total{status=\"200\"} 90\nhttp_requests_total{status=\"500\"} 10\nprocess_start_time_seconds 1700000000\n"
            .to_owned();
    for le in BOUNDS {
        text += &format!("http_request_duration_seconds_bucket{{le=\"{le}\"}} 100\n");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let app = Router::new().route("/metrics", get(|| async move { text }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// What the daemon asks about one color: the queries of its own planning.
fn batch(color: &str) -> String {
    let on = format!(r#"namespace="town-0",pod=~"shop-003-{color}{PODS}"#);
    let le = "[+]?[Ii]nf|[+]?(0*1([.]0*)?|1([.]0*)?[eE][+-]?0*0)";
    let expressions = [
        format!("sum by (job, instance, pod) (http_requests_total{{{on}}})"),
        format!(r#"sum by (job, instance, pod) (http_requests_total{{{on},status=~"5.."}})"#),
        format!("max by (job, instance, pod) (timestamp(http_requests_total{{{on}}}))"),
        format!("min by (job, instance, pod) (process_start_time_seconds{{{on}}})"),
        format!(r#"sum by (job, instance, pod, le) (http_request_duration_seconds_bucket{{{on},le=~"{le}"}})"#),
        format!("count by (le) (http_request_duration_seconds_bucket{{{on}}})"),
        format!("max(count_over_time(http_requests_total{{{on}}}[300s]))"),
    ];
    let tagged = expressions
        .iter()
        .enumerate()
        .map(|(key, expression)| format!(r#"label_replace({expression}, "flipback", "{key}", "", "")"#));
    format!("({})", tagged.collect::<Vec<_>>().join(" or "))
}

async fn ask(base: &str, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = http.post(format!("{base}{path}")).form(form).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// The labels of every series of an instant vector.
fn labels((code, body): &(u16, Value)) -> BTreeSet<BTreeMap<String, String>> {
    assert_eq!((*code, &body["data"]["resultType"]), (200, &Value::from("vector")), "{body}");
    let series = body["data"]["result"].as_array().expect("a list");
    let read = |one: &Value| {
        assert!(
            one["value"][0].is_number() && one["value"][1].as_str().is_some_and(|text| text.parse::<f64>().is_ok()),
            "{one}"
        );
        serde_json::from_value(one["metric"].clone()).expect("labels")
    };
    series.iter().map(read).collect()
}

/// The keys of a JSON object.
fn keys(value: &Value) -> Vec<&String> {
    let mut keys: Vec<&String> = value.as_object().into_iter().flatten().map(|(key, _)| key).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn the_scripted_prometheus_answers_as_a_real_one_does() {
    if real_parts("soak::the_scripted_prometheus_answers_as_a_real_one_does", &["prometheus"]).is_none() {
        return;
    }
    support::install_tls();
    let address = application().await;
    let target = |color: &str| {
        let pod = format!("shop-003-{color}-6d4b75cb6d-x7k2p");
        Target::new(
            address,
            &[
                ("namespace", "town-0"),
                ("pod", &pod),
                ("job", "shop-003"),
                ("instance", "10.0.0.3:8080"),
            ],
        )
    };
    let real = support::Prometheus::start(&[target("blue"), target("green")]).await;
    let begun = u64::try_from(support::now().as_second()).expect("after 1970") - 60;
    let scripted = prometheus::Prometheus::start(Arc::new(Script::new(4, begun))).await;
    for color in ["blue", "green"] {
        let query = batch(color);
        eventually("the same series", Duration::from_secs(30), async || {
            let (ours, theirs) = (
                ask(&scripted.url(), "/api/v1/query", &[("query", &query)]).await,
                ask(&real.url(), "/api/v1/query", &[("query", &query)]).await,
            );
            assert_eq!((keys(&ours.1), keys(&ours.1["data"])), (keys(&theirs.1), keys(&theirs.1["data"])));
            (labels(&ours) == labels(&theirs)).then_some(())
        })
        .await;
    }
    let query = r#"sum(rate(http_requests_total{namespace="town-0",pod=~"shop-003-blue-[a-z0-9]+-[a-z0-9]+"}[8s]))"#;
    eventually("the same range", Duration::from_secs(30), async || {
        let now = support::now().as_second();
        let (from, to) = ((now - 5).to_string(), now.to_string());
        let form = [("query", query), ("start", &from), ("end", &to), ("step", "1")];
        let (ours, theirs) = (
            ask(&scripted.url(), "/api/v1/query_range", &form).await,
            ask(&real.url(), "/api/v1/query_range", &form).await,
        );
        for (code, body) in [&ours, &theirs] {
            assert_eq!((*code, &body["data"]["resultType"]), (200, &Value::from("matrix")), "{body}");
        }
        let [ours, theirs] = [ours, theirs].map(|(_, body)| body["data"]["result"][0].clone());
        assert_eq!(keys(&ours), ["metric", "values"]);
        // A rate takes two scrapes.
        (keys(&ours) == keys(&theirs) && ours["metric"] == theirs["metric"]).then_some(())
    })
    .await;
    let nonsense = [("query", "sum(")];
    let (ours, theirs) = (
        ask(&scripted.url(), "/api/v1/query", &nonsense).await,
        ask(&real.url(), "/api/v1/query", &nonsense).await,
    );
    assert_eq!(
        (ours.0, &ours.1["status"], &ours.1["errorType"]),
        (theirs.0, &theirs.1["status"], &theirs.1["errorType"])
    );
    assert_eq!(keys(&ours.1), keys(&theirs.1));
    scripted.set(Manner::Broken);
    let (code, body) = ask(&scripted.url(), "/api/v1/query", &[("query", &batch("blue"))]).await;
    assert_eq!((code, keys(&body)), (500, keys(&theirs.1)));
}
