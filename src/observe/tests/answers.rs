//! What Prometheus may say, and what becomes of it.

use super::*;
use crate::model::{Counter, RuleKind, RuleSpec, ScalarRule};
use crate::observe::plan::tests::guard;

/// The error rate when the expressions that contain `part` say something else.
async fn with(part: &'static str, said: fn() -> Vec<Said>) -> Reading {
    error_rate(move |asked| json(200, vector(asked, |e| if e.contains(part) { said() } else { healthy(e) }))).await
}

fn total(expression: &str) -> bool {
    expression.starts_with("sum by") && expression.contains("http_requests_total") && !expression.contains("5..")
}

#[tokio::test]
async fn a_healthy_answer_is_raw_counters_with_the_servers_times() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let guard = guard("web");
    let readings = look(&observer(std::slice::from_ref(&guard), settings(&stub.url()))).await;
    insta::assert_json_snapshot!(readings);
}

#[tokio::test]
async fn a_look_sends_one_form_post_without_a_time_and_a_timeout_of_its_own() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let observer = observer(&[guard("web")], settings(&stub.url()));
    look(&observer).await;
    look(&observer).await;
    let asked = stub.asked();
    // The first look also learns the buckets.
    assert_eq!(asked.len(), 3);
    for one in &asked {
        assert_eq!(one.path, "/api/v1/query");
        assert!(!one.form.contains_key("time"), "{one:?}");
        assert!(one.form["timeout"].ends_with("ms"), "{one:?}");
    }
}

#[tokio::test]
async fn by_how_much_the_servers_clock_differs_from_ours_is_shown() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let (guard, metrics) = (Arc::new(guard("web")), Metrics::new().expect("metrics"));
    let cluster = ClusterSettings {
        prometheus: Some(settings(&stub.url())),
        ..ClusterSettings::default()
    };
    let observer = Observer::new(&[Arc::clone(&guard)], &[cluster], BTreeMap::new(), metrics.clone()).expect("an observer");
    let views = BTreeMap::from([(guard.id.clone(), View::Unreadable("a test".to_owned()))]);
    let shown = || metrics.prometheus_clock_offset.with_label_values(&[""]).get();
    for ahead in [0.0, 300.0, -300.0, 0.0] {
        let ours = Timestamp::from_second((EVALUATED - ahead) as i64).expect("a time");
        observer.observe(&views, ours).await;
        assert!((shown() - ahead).abs() < 5.0, "{ahead} s ahead, {} s shown", shown());
    }
    let is_shown = || {
        metrics
            .expose()
            .expect("encodes")
            .contains("flipback_prometheus_clock_offset_seconds{")
    };
    assert!(is_shown());
    observer.observe(&BTreeMap::new(), now()).await;
    assert!(!is_shown(), "nothing is asked, so nothing is known");
}

#[tokio::test]
async fn missing_errors_are_no_errors_and_a_missing_total_is_empty() {
    let Reading::Counters { targets, .. } = with("5..", Vec::new).await else {
        panic!("no counters");
    };
    let counter = targets["web/10.0.0.1:80/a"];
    assert_eq!((counter.total, counter.bad), (1000.0, None));
    let empty = error_rate(|asked| json(200, vector(asked, |e| if total(e) { Vec::new() } else { healthy(e) }))).await;
    assert_eq!(empty, Reading::Absent(Absence::Empty));
    let nothing = error_rate(|asked| json(200, vector(asked, |_| Vec::new()))).await;
    assert_eq!(nothing, Reading::Absent(Absence::Empty));
}

#[tokio::test]
async fn what_is_no_count_is_a_named_absence() {
    for (said, absence) in [
        ("NaN", Absence::Nan),
        ("+Inf", Absence::Infinite),
        ("-Inf", Absence::Infinite),
        ("-1", Absence::Negative),
        ("1001", Absence::Impossible),
        ("rubbish", Absence::Nan),
    ] {
        let bad = error_rate(move |asked| {
            json(
                200,
                vector(asked, |e| if e.contains("5..") { vec![on("a", said)] } else { healthy(e) }),
            )
        })
        .await;
        assert_eq!(bad, Reading::Absent(absence), "{said} bad requests");
    }
    let stranger = with("5..", || vec![on("another", 1)]).await;
    assert_eq!(stranger, Reading::Absent(Absence::Impossible));
}

#[tokio::test]
async fn numbers_come_in_every_notation() {
    let Reading::Counters { targets, .. } = with("5..", || vec![on("a", "5e-07")]).await else {
        panic!("no counters");
    };
    assert_eq!(targets["web/10.0.0.1:80/a"].bad, Some(5e-7));
}

#[tokio::test]
async fn a_stale_target_is_left_out_and_all_stale_is_stale() {
    let Reading::Counters { sample_at, targets } = error_rate(|asked| {
        json(
            200,
            vector(asked, |e| {
                if e.contains("timestamp(") {
                    vec![on("a", EVALUATED - 200.0), on("b", EVALUATED - 100.0)]
                } else if total(e) {
                    vec![on("a", 10), on("b", 20)]
                } else {
                    Vec::new()
                }
            }),
        )
    })
    .await
    else {
        panic!("no counters");
    };
    let counter = Counter {
        started: None,
        sample_at: Some(sample_at),
        total: 20.0,
        bad: None,
    };
    assert_eq!(targets, BTreeMap::from([("web/10.0.0.1:80/b".to_owned(), counter)]));
    assert_eq!(sample_at.as_millisecond(), 1_799_999_900_500);
    let stale = with("timestamp(", || vec![on("a", EVALUATED - 200.0)]).await;
    assert_eq!(stale, Reading::Absent(Absence::Stale));
}

#[tokio::test]
async fn a_known_scrape_spacing_makes_staleness_strict() {
    let (looks, newest) = (Arc::new(Mutex::new(0.0)), EVALUATED - 40.0);
    let shared = looks.clone();
    let stub = Stub::start(move |asked| {
        let at = newest + *shared.lock().expect("not poisoned");
        json(
            200,
            vector(asked, |e| if e.contains("timestamp(") { vec![on("a", at)] } else { healthy(e) }),
        )
    })
    .await;
    let guard = guard("web");
    let observer = observer(std::slice::from_ref(&guard), settings(&stub.url()));
    let first = look(&observer).await;
    assert!(
        matches!(pick(&first, &guard, "blue", "error_rate"), Reading::Counters { .. }),
        "60 s assumed"
    );
    *looks.lock().expect("not poisoned") = 5.0;
    let second = look(&observer).await;
    let expected = Reading::Absent(Absence::Stale);
    assert_eq!(
        pick(&second, &guard, "blue", "error_rate"),
        &expected,
        "scraped every 5 s, 35 s is stale"
    );
}

#[tokio::test]
async fn a_warning_makes_the_answer_partial_and_a_note_on_style_does_not() {
    let answer = |warning: &'static str| {
        move |asked: &Asked| {
            let body = vector(asked, healthy);
            json(200, body.replacen('{', &format!(r#"{{"warnings":["{warning}"],"#), 1))
        }
    };
    let partial = error_rate(answer("No StoreAPIs matched for this query")).await;
    assert_eq!(
        partial,
        Reading::Absent(Absence::Partial("No StoreAPIs matched for this query".to_owned()))
    );
    let style = error_rate(answer("PromQL info: metric might not be a counter")).await;
    assert!(matches!(style, Reading::Counters { .. }), "{style:?}");
}

#[tokio::test]
async fn a_threshold_between_buckets_names_both_neighbours() {
    let stub = Stub::start(|asked| {
        json(
            200,
            vector(asked, |e| match e {
                e if e.starts_with("sum by (job, instance, pod, le)") => vec![bucket("a", "+Inf", 100)],
                e if e.starts_with("count by (le)") => ["0.5", "2", "5e+00", "+Inf"]
                    .map(|le| (vec![("le", le.to_owned())], "1".to_owned()))
                    .to_vec(),
                e => healthy(e),
            }),
        )
    })
    .await;
    let guard = guard("web");
    let readings = look(&observer(std::slice::from_ref(&guard), settings(&stub.url()))).await;
    let expected = "1 s lies between the buckets 0.5 s and 2 s; set the threshold to one of them".to_owned();
    assert_eq!(
        pick(&readings, &guard, "blue", "p95"),
        &Reading::Absent(Absence::NoBucket(expected))
    );
    assert!(matches!(pick(&readings, &guard, "blue", "error_rate"), Reading::Counters { .. }));
}

#[tokio::test]
async fn histograms_of_different_bounds_are_not_judged_together() {
    let stub = Stub::start(|asked| {
        json(
            200,
            vector(asked, |e| match e {
                e if e.starts_with("count by (le)") => [("1.0", 3), ("2.5", 4), ("+Inf", 4)]
                    .map(|(le, count)| (vec![("le", le.to_owned())], count.to_string()))
                    .to_vec(),
                e => healthy(e),
            }),
        )
    })
    .await;
    let guard = guard("web");
    let readings = look(&observer(std::slice::from_ref(&guard), settings(&stub.url()))).await;
    let Reading::Absent(Absence::NoBucket(why)) = pick(&readings, &guard, "blue", "p95") else {
        panic!("{readings:?}");
    };
    assert_eq!(why, "only 3 of 4 histograms have a bucket at 1 s; narrow the selector to those");
    assert!(matches!(pick(&readings, &guard, "blue", "p99"), Reading::Counters { .. }));
}

#[tokio::test]
async fn every_failure_says_what_to_do() {
    let html = |status: u16| {
        move |_: &Asked| {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, [(CONTENT_TYPE, "text/html")], "<html>log in</html>").into_response()
        }
    };
    let redirect = |_: &Asked| (StatusCode::FOUND, [("location", "http://127.0.0.1:1/?token=hunter2")]).into_response();
    let said = [
        error_rate(html(200)).await,
        error_rate(html(401)).await,
        error_rate(html(403)).await,
        error_rate(html(404)).await,
        error_rate(html(405)).await,
        error_rate(html(429)).await,
        error_rate(html(502)).await,
        error_rate(redirect).await,
        error_rate(|_| json(200, r#"{"status":"success","data":{"resultType":"vec"#.to_owned())).await,
        error_rate(|_| json(200, r#"{"hello":"world"}"#.to_owned())).await,
        error_rate(|_| refusal(400, "bad_data", "parse error")).await,
        error_rate(|_| refusal(422, "execution", "too many samples")).await,
        error_rate(|_| json(200, " ".repeat(33 * 1024 * 1024))).await,
    ];
    let port = Regex::new(r"127\.0\.0\.1:\d+").expect("a regular expression");
    let said: Vec<String> = said
        .iter()
        .map(|reading| match reading {
            Reading::Absent(Absence::Error(why)) => port.replace_all(why, "HOST").into_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[tokio::test]
async fn a_server_that_hangs_and_one_that_gives_up_are_timeouts() {
    let late = error_rate(|_| refusal(503, "timeout", "query timed out in expression evaluation")).await;
    assert_eq!(late, Reading::Absent(Absence::Timeout));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let guard = guard("web");
    let slow = PrometheusSettings {
        timeout: Duration::from_millis(200),
        ..settings(&url)
    };
    let readings = look(&observer(std::slice::from_ref(&guard), slow)).await;
    assert_eq!(pick(&readings, &guard, "blue", "error_rate"), &Reading::Absent(Absence::Timeout));
}

#[tokio::test]
async fn a_look_ends_at_eighty_percent_of_the_poll_however_patient_the_server_may_be() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let mut guard = guard("web");
    guard.policy.poll = Duration::from_millis(500);
    let began = Instant::now();
    let readings = look(&observer(std::slice::from_ref(&guard), settings(&url))).await;
    assert!(began.elapsed() < Duration::from_millis(2000), "{:?}", began.elapsed());
    assert_eq!(pick(&readings, &guard, "green", "p99"), &Reading::Absent(Absence::Timeout));
}

#[tokio::test]
async fn a_server_in_trouble_is_left_alone_from_the_second_failure_on() {
    let stub = Stub::start(|_| refusal(503, "unavailable", "starting up")).await;
    let guard = guard("web");
    let observer = observer(std::slice::from_ref(&guard), settings(&stub.url()));
    for _ in 0..5 {
        look(&observer).await;
    }
    assert_eq!(stub.count(), 2);
    let Reading::Absent(Absence::Error(why)) = pick(&look(&observer).await, &guard, "blue", "p95").clone() else {
        panic!("no error");
    };
    assert!(why.contains("starting up") && why.contains("asked again in"), "{why}");
}

#[tokio::test]
async fn one_broken_selector_blinds_its_own_rule_only_and_is_remembered() {
    let stub = Stub::start(|asked| match asked.form["query"].contains("nonsense") {
        true => refusal(400, "bad_data", "parse error"),
        false => json(200, vector(asked, healthy)),
    })
    .await;
    let mut guards: Vec<GuardSpec> = (0..16).map(|n| guard(&format!("web-{n}"))).collect();
    let RuleKind::ErrorRate(rule) = &mut guards[5].rules[0].kind else {
        panic!("not the rule");
    };
    rule.bad = "nonsense(".to_owned();
    let observer = observer(&guards, settings(&stub.url()));
    let first = look(&observer).await;
    let asked = stub.count();
    assert!(asked <= 1 + 2 * 2 * 7 + 1, "{asked} requests");
    let second = look(&observer).await;
    assert_eq!(stub.count(), asked + 1, "the culprit is kept out of the batch");
    for readings in [first, second] {
        for (index, guard) in guards.iter().enumerate() {
            for rule in ["error_rate", "p95", "p99"] {
                let is_blind = matches!(pick(&readings, guard, "blue", rule), Reading::Absent(_));
                assert_eq!(is_blind, index == 5 && rule == "error_rate", "{index} {rule}");
            }
        }
        let Reading::Absent(Absence::Error(why)) = pick(&readings, &guards[5], "blue", "error_rate") else {
            panic!("no error");
        };
        assert!(why.contains("parse error"), "{why}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_everything_is_not_asked_rule_by_rule() {
    let stub = Stub::start(|_| refusal(400, "bad_data", "no")).await;
    let guards: Vec<GuardSpec> = (0..100).map(|n| guard(&format!("web-{n}"))).collect();
    let observer = observer(&guards, settings(&stub.url()));
    let readings = look(&observer).await;
    assert!(stub.count() <= 60, "{} requests for 600 rules", stub.count());
    for guard in &guards {
        assert!(matches!(pick(&readings, guard, "green", "p99"), Reading::Absent(Absence::Error(_))));
    }
    look(&observer).await;
    let asked = stub.count();
    look(&observer).await;
    assert_eq!(stub.count(), asked, "it is left alone");
}

#[tokio::test]
async fn everything_can_run_as_a_task_of_its_own() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let guard = guard("web");
    let observer = Arc::new(observer(std::slice::from_ref(&guard), settings(&stub.url())));
    let id = guard.id.clone();
    let task = tokio::spawn(async move {
        let readings = look(&observer).await;
        let reports = observer.inspect(&id, now()).await;
        let series = observer.range(&id, now(), now(), Duration::from_secs(5)).await;
        (readings, reports, series)
    });
    let (readings, reports, series) = task.await.expect("no panic");
    assert!(matches!(pick(&readings, &guard, "blue", "p95"), Reading::Counters { .. }));
    assert_eq!(reports.len(), 6);
    assert_eq!(series.expect("answered").len(), 22);
}

#[tokio::test]
async fn a_server_that_refuses_long_queries_is_sent_shorter_ones() {
    let refused = Arc::new(Mutex::new(0));
    let counted = refused.clone();
    let stub = Stub::start(move |asked| match asked.form["query"].len() > 16 * 1024 {
        true => {
            *counted.lock().expect("not poisoned") += 1;
            refusal(422, "422", "too long query")
        }
        false => json(200, vector(asked, healthy)),
    })
    .await;
    let guards: Vec<GuardSpec> = (0..20).map(|n| guard(&format!("web-{n}"))).collect();
    let observer = observer(&guards, settings(&stub.url()));
    for _ in 0..3 {
        let readings = look(&observer).await;
        for guard in &guards {
            assert!(matches!(pick(&readings, guard, "green", "p99"), Reading::Counters { .. }));
        }
        let before = *refused.lock().expect("not poisoned");
        assert!(before > 0);
    }
    let learned = *refused.lock().expect("not poisoned");
    look(&observer).await;
    assert_eq!(*refused.lock().expect("not poisoned"), learned, "no further query is too long");
}

#[tokio::test]
async fn two_hundred_guards_cost_a_few_requests() {
    let stub = Stub::start(|asked| json(200, vector(asked, healthy))).await;
    let guards: Vec<GuardSpec> = (0..200).map(|n| guard(&format!("web-{n}"))).collect();
    let observer = observer(&guards, settings(&stub.url()));
    let mut counts = Vec::new();
    for _ in 0..9 {
        let before = stub.count();
        let readings = look(&observer).await;
        assert!(matches!(pick(&readings, &guards[199], "green", "p99"), Reading::Counters { .. }));
        counts.push(stub.count() - before);
    }
    insta::assert_debug_snapshot!(counts);
}

#[tokio::test]
async fn a_cluster_without_a_prometheus_says_so() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let guard = guard("web");
    let observer = Observer::new(
        &[Arc::new(guard.clone())],
        &[ClusterSettings::default()],
        BTreeMap::new(),
        Metrics::new().expect("metrics"),
    )
    .expect("an observer");
    let readings = look(&observer).await;
    assert!(pick(&readings, &guard, "blue", "p95") == &Reading::Absent(Absence::Error(NO_PROMETHEUS.to_owned())));
}

/// A guard with so many numbers beside the preset's rules; each expression names its rule.
fn numbers(names: &[String]) -> GuardSpec {
    let mut spec = guard("web");
    spec.rules.extend(names.iter().map(|name| {
        let scalar = ScalarRule {
            expr: format!("sum({name}_metric)"),
            max: Some(1.0),
            ..ScalarRule::default()
        };
        RuleSpec::new(RuleName::new(name).expect("a name"), RuleKind::Promql(scalar))
    }));
    spec
}

fn number(expression: &str) -> Vec<Said> {
    match expression.contains("_metric") {
        true => vec![(Vec::new(), "0.5".to_owned())],
        false => healthy(expression),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn an_expression_that_is_too_slow_delays_no_counter_and_ends_up_alone() {
    let names: Vec<String> = (0..6).map(|n| format!("n{n}")).chain(["slow".to_owned()]).collect();
    let guard = numbers(&names);
    let stub = Stub::start(|asked| {
        let query = asked.form.get("query").map_or("", String::as_str);
        if query.contains("slow_metric") {
            // The room waits for its own deadline; this only must be longer.
            std::thread::sleep(Duration::from_millis(1600));
        }
        json(200, vector(asked, number))
    })
    .await;
    let mut impatient = settings(&stub.url());
    impatient.timeout = Duration::from_millis(1200);
    let observer = observer(std::slice::from_ref(&guard), impatient);
    let is_number = |reading: &Reading| matches!(reading, Reading::Scalar { .. });
    for look_number in 0..6 {
        let readings = look(&observer).await;
        assert!(
            matches!(pick(&readings, &guard, "blue", "error_rate"), Reading::Counters { .. }),
            "look {look_number}"
        );
        let slow = pick(&readings, &guard, "blue", "slow");
        assert!(matches!(slow, Reading::Absent(_)), "{slow:?}");
        if look_number == 5 {
            assert!(slow == &Reading::Absent(Absence::Error(source::TOO_SLOW.to_owned())), "{slow:?}");
            for name in &names[..6] {
                let reading = pick(&readings, &guard, "blue", name);
                assert!(is_number(reading), "{name}: {reading:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_doubtful_expression_casts_no_doubt_on_those_beside_it() {
    let names: Vec<String> = ["odd", "even", "plain"].map(str::to_owned).to_vec();
    let guard = numbers(&names);
    let stub = Stub::start(|asked| {
        let body = vector(asked, number);
        let query = asked.form.get("query").map_or("", String::as_str);
        let warning = r#"{"warnings":["PromQL warning: encountered a mix of histograms and floats"],"#;
        match query.contains("odd_metric") {
            true => json(200, body.replacen('{', warning, 1)),
            false => json(200, body),
        }
    })
    .await;
    let observer = observer(std::slice::from_ref(&guard), settings(&stub.url()));
    for _ in 0..2 {
        let readings = look(&observer).await;
        for name in ["even", "plain"] {
            let reading = pick(&readings, &guard, "blue", name);
            assert!(matches!(reading, Reading::Scalar { .. }), "{name}: {reading:?}");
        }
        let odd = pick(&readings, &guard, "blue", "odd");
        assert!(
            matches!(odd, Reading::Absent(Absence::Error(why)) if why.contains("a mix of histograms")),
            "{odd:?}"
        );
        assert!(matches!(pick(&readings, &guard, "blue", "error_rate"), Reading::Counters { .. }));
    }
}

#[tokio::test]
async fn a_server_without_native_histograms_is_told_what_it_needs() {
    let mut guard = guard("web");
    if let RuleKind::Latency(latency) = &mut guard.rules[1].kind {
        latency.histogram = crate::model::Histogram::Native;
        latency.buckets = "http_request_duration_seconds".to_owned();
    }
    let stub = Stub::start(|asked| {
        let query = asked.form.get("query").map_or("", String::as_str);
        match query.contains("histogram_count") {
            true => refusal(400, "bad_data", "parse error: unknown function with name \\\"histogram_count\\\""),
            false => json(200, vector(asked, healthy)),
        }
    })
    .await;
    let observer = observer(std::slice::from_ref(&guard), settings(&stub.url()));
    let readings = look(&observer).await;
    let reading = pick(&readings, &guard, "blue", "p95");
    assert!(
        matches!(reading, Reading::Absent(Absence::Error(why)) if why.contains("--enable-feature=native-histograms")),
        "{reading:?}"
    );
    assert!(matches!(pick(&readings, &guard, "blue", "p99"), Reading::Counters { .. }));
}
