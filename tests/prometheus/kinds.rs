//! Numbers: hand-written expressions, what they were before a switch, and the windows of classic mode.

use std::time::Duration;

use flipback::model::{Judging, Ledger, ScalarRule, Seen, Traffic, Windows};

use crate::*;

fn name(text: &str) -> RuleName {
    RuleName::new(text).expect("a name")
}

fn number(rule: &str, expr: &str) -> RuleSpec {
    let scalar = ScalarRule {
        expr: expr.to_owned(),
        max: Some(1.0),
        ..ScalarRule::default()
    };
    RuleSpec::new(name(rule), RuleKind::Promql(scalar))
}

/// A guard with rules of its own instead of the preset's.
fn with(rules: Vec<RuleSpec>) -> GuardSpec {
    GuardSpec { rules, ..guard("web") }
}

/// Value and long value.
fn value(reading: &Reading) -> (f64, Option<f64>) {
    match reading {
        Reading::Scalar { value, long, .. } => (*value, *long),
        other => panic!("a number expected, got {other:?}"),
    }
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_gives_one_number_or_a_named_reason() {
    let Some(binary) = prometheus("an_expression") else { return };
    let world = World::start(&binary, &[A, B]).await;
    world.expose(A, "temp -3.5\nzero 0\none 1");
    world.expose(B, "temp 4");
    world.until("count(temp)", "2").await;
    let pods = r#"{pod=~"{deployment}-.+"}"#;
    let guard = with(vec![
        number("sum", &format!("sum(temp{pods})")),
        number("negative", r#"temp{pod=~"{deployment}-5d4f-aaaaa"}"#),
        number("scalar", &format!("scalar(sum(temp{pods})) * 2")),
        number("literal", "1 + 1"),
        number("vector", "vector(7)"),
        number("comment", &format!("max(temp{pods}) # the warmest")),
        number("many", &format!("temp{pods}")),
        number("none", "nothing_of_this_name"),
        number("nan", "sum(zero) / sum(zero)"),
        number("infinite", "- sum(one) / sum(zero)"),
        number("unfilled", "sum(rate(temp[{window}]))"),
        number("scalar_nan", "scalar(nothing_of_this_name)"),
    ]);
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    // Twice: what was learned of types in the first look is used in the second.
    for _ in 0..2 {
        let readings = look(&observer, guards).await;
        let of = |rule: &str| pick(&readings, &guard, rule);
        for (rule, expected) in [
            ("sum", 0.5),
            ("negative", -3.5),
            ("scalar", 1.0),
            ("literal", 2.0),
            ("vector", 7.0),
            ("comment", 4.0),
        ] {
            assert!(close(value(&of(rule)).0, expected), "{rule}: {:?}", of(rule));
        }
        let Reading::Absent(Absence::Ambiguous(why)) = of("many") else {
            panic!("{:?}", of("many"));
        };
        assert!(why.starts_with("2 series where one is needed") && why.contains("sum(..)"), "{why}");
        assert!(why.contains(&format!("pod={A:?}")), "{why}");
        assert_eq!(of("none"), Reading::Absent(Absence::Empty));
        assert_eq!(of("nan"), Reading::Absent(Absence::Nan));
        assert_eq!(of("scalar_nan"), Reading::Absent(Absence::Nan));
        assert_eq!(of("infinite"), Reading::Absent(Absence::Infinite));
        let Reading::Absent(Absence::Error(why)) = of("unfilled") else {
            panic!("{:?}", of("unfilled"));
        };
        assert!(why.contains("`windows`"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_broken_expression_blinds_its_rule_and_nobody_else() {
    let Some(binary) = prometheus("broken_expression") else { return };
    let world = World::start(&binary, &[A, B]).await;
    let page = "http_requests_total 10\nx{a=\"1\"} 1\nx{a=\"2\"} 2\ny{a=\"1\"} 1\ny{a=\"2\"} 1";
    world.expose(A, page);
    world.expose(B, "http_requests_total 5");
    world.until("count(http_requests_total)", "2").await;
    let broken = [
        ("syntax", "sum(", "parse error"),
        ("type", "rate(x)", "expected type range vector"),
        ("function", "frobnicate(x)", "unknown function"),
        ("range", "x[5m]", "range of samples"),
        ("text", "\"five\"", "a text and no number"),
        ("match", "x * on (job) y", "found duplicate series"),
        ("group", "x * on (job) group_left y", "found duplicate series"),
        ("quote", "sum(x{a=\"1})", "never closed"),
    ];
    let mut rules = vec![number("before", "sum(x)")];
    rules.extend(broken.iter().map(|(rule, expr, _)| number(rule, expr)));
    rules.push(number("after", "sum(y)"));
    let mut guards: Vec<GuardSpec> = (0..6).map(|n| guard(&format!("other-{n}"))).collect();
    guards.push(guard("web"));
    guards.push(GuardSpec {
        id: GuardId::new("", "shop", "numbers").expect("a name"),
        ..with(rules)
    });
    let (observer, _) = world.observer(&guards);
    for _ in 0..2 {
        let readings = look(&observer, &guards).await;
        for (rule, expr, part) in broken {
            let reading = pick(&readings, &guards[7], rule);
            let Reading::Absent(Absence::Error(why)) = &reading else {
                panic!("{expr}: {reading:?}");
            };
            assert!(why.contains(part), "{expr}: {why}");
        }
        for (rule, expected) in [("before", 3.0), ("after", 2.0)] {
            let reading = pick(&readings, &guards[7], rule);
            assert!(close(value(&reading).0, expected), "{reading:?}");
        }
        assert_eq!(counters(&pick(&readings, &guards[6], "error_rate"))[A], requests(10));
        assert_eq!(pick(&readings, &guards[0], "error_rate"), Reading::Absent(Absence::Empty));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_windows_are_two_numbers_and_a_range_of_each_is_evidence() {
    let Some(binary) = prometheus("two_windows") else { return };
    let world = World::start(&binary, &[A]).await;
    let windowed = |windows| RuleSpec {
        windows,
        ..number("busy", r#"sum(max_over_time(load{pod=~"{deployment}-.+"}[{window}]))"#)
    };
    let guard = with(vec![windowed(Some(Windows {
        short: Duration::from_secs(3),
        long: Duration::from_secs(600),
    }))]);
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let began = now();
    world.expose(A, "load 9");
    world.until("load", "9").await;
    world.expose(A, "load 2");
    world.until("max_over_time(load[3s])", "2").await;
    let reading = pick(&look(&observer, guards).await, &guard, "busy");
    let (short, long) = value(&reading);
    assert!(close(short, 2.0) && long.is_some_and(|long| close(long, 9.0)), "{reading:?}");
    let Reading::Scalar { sample_at, .. } = reading else {
        panic!("no number")
    };
    assert!(now().duration_since(sample_at).as_secs_f64() < 10.0, "the time of evaluation");

    // The range ends at a whole second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let series = observer
        .range(&guard.id, began, now(), Duration::from_secs(1))
        .await
        .expect("answered");
    let of = |what: &str| {
        let found = series.iter().find(|one| one.color.as_str() == "blue" && one.name == what);
        found.and_then(|one| one.points.last().copied()).expect("points").1
    };
    assert!(close(of("value"), 2.0) && close(of("long"), 9.0));
}

/// A route on which blue took over from green.
fn switched(guard: &GuardSpec, at: Timestamp) -> BTreeMap<GuardId, View> {
    let color = |name: &str| Color::new(name).expect("a name");
    let traffic = Traffic {
        active: color("blue"),
        standby: color("green"),
        sides: BTreeMap::new(),
        seen: Seen::default(),
        ledger: Ledger::default(),
        paused: None,
        switched_at: Some(at),
        switched_by: None,
        owner: None,
    };
    BTreeMap::from([(guard.id.clone(), View::Known(Box::new(traffic)))])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_before_the_switch_is_read_from_the_past_and_survives_a_restart() {
    let Some(binary) = prometheus("before_the_switch") else { return };
    const GREEN: &str = "web-green-5d4f-aaaaa";
    let world = World::start(&binary, &[A, GREEN]).await;
    world.expose(A, "tokens 50");
    world.expose(GREEN, "tokens 10");
    world.until("count(tokens)", "2").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let at = now();
    world.expose(GREEN, "tokens 999");
    world.until("max(tokens)", "999").await;
    let compared = |rule: &str, expr: &str| {
        let mut spec = number(rule, expr);
        if let RuleKind::Promql(scalar) = &mut spec.kind {
            scalar.max_ratio_to_before = Some(1.2);
        }
        spec
    };
    let tokens = r#"sum(tokens{pod=~"{deployment}-.+"})"#;
    let guard = with(vec![
        compared("tokens", tokens),
        compared("typed", &format!("scalar({tokens})")),
        compared("broken", "tokens * on (job) group_left tokens"),
        number("other", tokens),
    ]);
    for restart in 0..2 {
        let (observer, _) = world.observer(std::slice::from_ref(&guard));
        let before = |readings: &Readings, rule: &str| match pick(readings, &guard, rule) {
            Reading::Scalar { before, value, .. } => {
                assert!(close(value, 50.0));
                before
            }
            other => panic!("{other:?}"),
        };
        let first = observer.observe(&switched(&guard, at), now()).await;
        assert_eq!(before(&first, "other"), None, "nobody asked");
        eventually("the past is known", || async {
            let readings = observer.observe(&switched(&guard, at), now()).await;
            before(&readings, "tokens").is_some()
        })
        .await;
        let readings = observer.observe(&switched(&guard, at), now()).await;
        for rule in ["tokens", "typed"] {
            let found = before(&readings, rule);
            assert!(
                found.is_some_and(|found| close(found, 10.0)),
                "restart {restart}, {rule}: {found:?}"
            );
        }
        // Another switch is another question.
        let long_ago = at.checked_sub(jiff::SignedDuration::from_hours(3)).expect("in range");
        let readings = observer.observe(&switched(&guard, long_ago), now()).await;
        assert_eq!(before(&readings, "tokens"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classic_mode_reads_the_scripts_windows_and_tells_no_errors_from_no_data() {
    let Some(binary) = prometheus("classic_mode") else { return };
    const IDLE: &str = "idle-blue-5d4f-aaaaa";
    const CLEAN: &str = "clean-blue-5d4f-aaaaa";
    let world = World::start(&binary, &[A, IDLE, CLEAN]).await;
    let classic = |name: &str| {
        let mut spec = guard(name);
        spec.policy.mode = Judging::Classic;
        spec.policy.window = Duration::from_secs(20);
        spec.policy.window_latency = Duration::from_secs(30);
        let RuleKind::Latency(latency) = &mut spec.rules[1].kind else {
            panic!("not the rule");
        };
        latency.unit = TimeUnit::Milliseconds;
        latency.buckets = Preset::HttpMs.buckets().to_owned();
        spec
    };
    let guards = [classic("web"), classic("idle"), classic("clean"), classic("absent")];
    let (observer, _) = world.observer(&guards);
    let bucket = |le: &str, count: u32| format!("http_request_duration_ms_bucket{{le=\"{le}\"}} {count}\n");
    let began = now();
    for n in 1..=8_u32 {
        let slow: String = [("100", 0), ("400", 10), ("800", 10), ("2000", 10), ("+Inf", 10)]
            .iter()
            .map(|(le, count)| bucket(le, n * count))
            .collect();
        let ok = |count: u32| format!("http_requests_total{{status=\"200\"}} {count}\n");
        let bad = |count: u32| format!("http_requests_total{{status=\"500\"}} {count}\n");
        world.expose(A, &format!("{}{}{slow}", ok(n * 30), bad(n * 10)));
        world.expose(IDLE, &format!("{}{}", ok(7), bad(3)));
        world.expose(CLEAN, &ok(n * 10));
        world
            .until("http_requests_total{status='500',pod=~'web.*'}", &(n * 10).to_string())
            .await;
    }
    let readings = look(&observer, &guards).await;
    let of = |index: usize, rule: &str| pick(&readings, &guards[index], rule);
    let Reading::Scalar { value, requests, .. } = of(0, "error_rate") else {
        panic!("{:?}", of(0, "error_rate"));
    };
    assert!((value - 0.25).abs() < 0.01, "{value}");
    assert!(requests.is_some_and(|requests| (100.0..800.0).contains(&requests)), "{requests:?}");
    // Every request took 100 to 400 ms: p95 by the scripts' formula is 385 ms, in seconds.
    let Reading::Scalar { value, requests, .. } = of(0, "p95") else {
        panic!("{:?}", of(0, "p95"));
    };
    assert!((value - 0.385).abs() < 1e-6, "{value}");
    assert!(requests.is_some_and(|requests| requests > 20.0), "{requests:?}");
    let Reading::Scalar { value, .. } = of(2, "error_rate") else {
        panic!("{:?}", of(2, "error_rate"));
    };
    assert!(close(value, 0.0), "requests and no errors is a zero");
    assert_eq!(of(1, "error_rate"), Reading::Absent(Absence::Nan), "no requests in the window");
    assert_eq!(of(3, "error_rate"), Reading::Absent(Absence::Empty), "no data is no zero");
    assert_eq!(of(3, "p95"), Reading::Absent(Absence::Empty));

    let series = observer
        .range(&guards[0].id, began, now(), Duration::from_secs(1))
        .await
        .expect("answered");
    let last = |rule: &str, what: &str| {
        let found = series
            .iter()
            .find(|one| one.color.as_str() == "blue" && one.rule.as_str() == rule && one.name == what);
        found.and_then(|one| one.points.last().copied()).expect("points").1
    };
    assert!((last("error_rate", "share") - 0.25).abs() < 0.01);
    assert!(last("error_rate", "requests") > 100.0 && (last("p95", "p95") - 0.385).abs() < 1e-6);

    let reports = observer.inspect(&guards[0].id, now()).await;
    let blue = |kind: &str| {
        let found = reports.iter().find(|report| report.kind == kind && report.color.as_str() == "blue");
        found.expect("a report")
    };
    assert!(blue("error_rate").number.is_some_and(|share| (share - 0.25).abs() < 0.01));
    assert!(
        blue("latency").value.as_ref().is_some_and(|value| value.starts_with("0.385 s")),
        "{:?}",
        blue("latency")
    );
    assert!(blue("latency").buckets.as_ref().is_some_and(|buckets| buckets.refusal.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_quantile_that_no_bucket_can_show_is_refused() {
    let Some(binary) = prometheus("classic_ceiling") else { return };
    let world = World::start(&binary, &[A]).await;
    for n in 1..=4 {
        world.expose(A, &buckets("1", n * 90, n * 100));
        world
            .until("http_request_duration_seconds_bucket{le='+Inf'}", &(n * 100).to_string())
            .await;
    }
    let mut guard = guard("web");
    guard.policy.mode = Judging::Classic;
    let guards = std::slice::from_ref(&guard);
    let (observer, _) = world.observer(guards);
    let reading = pick(&look(&observer, guards).await, &guard, "p95");
    let Reading::Absent(Absence::Error(why)) = &reading else {
        panic!("{reading:?}");
    };
    assert!(why.contains("cannot exceed the highest finite bucket, 1 s"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_numbers_limits_and_what_is_no_number() {
    let Some(binary) = prometheus("check_numbers") else { return };
    let world = World::start(&binary, &[A]).await;
    world.expose(A, "load 0.9\nrequests_total 5");
    world.until("load", "0.9").await;
    let mut near = number("near", "load");
    let mut over = number("over", "load");
    let mut narrow = number("narrow", "sum(rate(requests_total[2s])) or vector(0)");
    for (spec, max, window) in [(&mut near, 1.0, None), (&mut over, 0.5, None), (&mut narrow, 9.0, Some(2))] {
        if let RuleKind::Promql(scalar) = &mut spec.kind {
            scalar.max = Some(max);
            scalar.unit = Some("of 1".to_owned());
            scalar.window = window.map(Duration::from_secs);
        }
    }
    let guard = with(vec![
        near,
        over,
        narrow,
        number("broken", "sum("),
        number("ranged", "load[5m]"),
        number("typed", "scalar(load)"),
    ]);
    let (observer, _) = world.observer(std::slice::from_ref(&guard));
    world.until("count(count_over_time(requests_total[1m]) >= 6)", "1").await;
    let reports = observer.inspect(&guard.id, now()).await;
    let blue = |rule: &str| {
        let found = reports
            .iter()
            .find(|report| report.rule.as_str() == rule && report.color.as_str() == "blue");
        found.expect("a report")
    };
    assert_eq!(blue("typed").value.as_deref(), Some("0.9"));
    assert_eq!(blue("near").value.as_deref(), Some("0.9 of 1"));
    assert!(
        blue("near").warnings[0].contains("close to the maximum of 1 of 1"),
        "{:?}",
        blue("near")
    );
    assert!(
        blue("over").warnings[0].contains("over the maximum of 0.5 of 1 right now"),
        "{:?}",
        blue("over")
    );
    assert!(
        blue("narrow")
            .warnings
            .iter()
            .any(|warning| warning.contains("the window of 2s is shorter than 4 scrapes (4 s)")),
        "{:?}",
        blue("narrow")
    );
    assert!(matches!(&blue("broken").absent, Some(Absence::Error(why)) if why.contains("parse error")));
    assert!(matches!(&blue("ranged").absent, Some(Absence::Error(why)) if why.contains("range of samples")));
}
