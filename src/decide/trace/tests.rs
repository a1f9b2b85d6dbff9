use super::*;

const HEADER: &str = r#"{"flipback_trace":1,"rules":[{"name":"error_rate","kind":"error_rate","threshold":0.05}]}"#;

fn header(text: &str) -> Header {
    read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}")).0
}

/// What is said of a trace that cannot be read.
fn refused(trace: &[u8]) -> String {
    match read(trace) {
        Ok(_) => panic!("read: {}", String::from_utf8_lossy(trace)),
        Err(error) => error.to_string(),
    }
}

/// A header with more in it.
fn with(more: &str) -> String {
    HEADER.replacen("{", &format!("{{{more},"), 1)
}

/// A header of these rules.
fn ruled(rules: &str) -> String {
    format!(r#"{{"flipback_trace":1,"rules":[{rules}]}}"#)
}

/// A look after the header.
fn look(fields: &str) -> String {
    format!("{HEADER}\n{{{fields}}}\n")
}

#[test]
fn what_is_left_out_has_its_default() {
    let header = header(&ruled(
        r#"{"name":"latency_p95","kind":"latency"},{"name":"p999","kind":"latency","threshold":0.25},{"name":"up","kind":"endpoints"},{"name":"probe","kind":"probe","path":"/ready"}"#,
    ));
    assert_eq!(*header.policy(), crate::model::Policy::default());
    let rules = serde_json::to_value(header.rules()).expect("serializes");
    assert_eq!((&rules[0]["quantile"], &rules[0]["threshold"]), (&0.95.into(), &"1s".into()));
    assert_eq!((&rules[1]["quantile"], &rules[1]["threshold"]), (&0.999.into(), &"250ms".into()));
    assert_eq!(rules[2]["down_for"], "10s");
    assert_eq!((&rules[3]["path"], &rules[3]["timeout"]), (&"/ready".into(), &"2s".into()));
}

#[test]
fn every_knob_is_read_under_its_name() {
    let policy = r#""policy":{"mode":"classic","poll":"30s","consecutive":4,"min_bad":5,"min_requests":50,"stretch":"2m","confidence":0.95,"severe_share":0.9,"severe_bad":20,"slow_window":"10m","slow_hold":"3m","slow_bad":7,"warm_up":"10s","warm_up_latency":"40s","watch":"1h","after_watch":"full","expire":"5m","blind_after":"90s","blind_repeat":"10m","cooldown":"20m","flips_per_day":2,"reassert":{"times":2,"pause":"5s","managers":["argocd-*"]},"standby_share":1,"degradation":1,"window":"90s","window_latency":"3m"}"#;
    let header = header(&with(policy));
    let read = serde_json::to_value(header.policy()).expect("serializes");
    let defaults = serde_json::to_value(crate::model::Policy::default()).expect("serializes");
    for (knob, default) in defaults.as_object().expect("an object") {
        assert_ne!(read[knob], *default, "{knob} kept its default");
    }
}

#[test]
fn every_refusal_names_line_place_and_remedy() {
    let mut said = Vec::new();
    let mut add = |trace: &str| said.push(refused(trace.as_bytes()));
    add("");
    add("\n\n");
    add("[1]");
    add("{");
    add(r#"{"t":1}"#);
    add(r#"{"flipback_trace":2,"rules":[],"new":1}"#);
    add(r#"{"flipback_trace":"1","rules":[]}"#);
    add(r#"{"flipback_trace":1}"#);
    add(&ruled(""));
    add(&with(r#""polcy":{}"#));
    add(&with(r#""policy":{"consecutve":3}"#));
    add(&with(r#""policy":{"watch":"5M"}"#));
    add(&with(r#""policy":{"watch":300}"#));
    add(&with(r#""policy":{"watch":"soon"}"#));
    add(&with(r#""policy":{"confidence":99}"#));
    add(&with(r#""policy":{"consecutive":-1}"#));
    add(&with(r#""policy":{"consecutive":2.5}"#));
    add(&with(r#""policy":{"after_watch":"slwo"}"#));
    add(&with(r#""policy":{"confidence":1}"#));
    add(&with(r#""policy":{"consecutive":0}"#));
    add(&with(r#""policy":{"expire":"0s"}"#));
    add(&with(r#""policy":{"watch":"5m","watch":"6m"}"#));
    add(&with(r#""baseline":{"error":{"total":1}}"#));
    add(&with(r#""baseline":{"error_rate":{"total":1,"bad":2}}"#));
    add(&with(r#""guard":"web""#));
    add(&with(r#""active":"Green""#));
    add(&with(r#""active":"green","standby":"green""#));
    add(&with(r#""colors":["blue","green"]"#));
    add(&with(r#""epoch":"yesterday""#));
    add(&with(r#""state":{},"flipback":"9.9.9""#));
    add(&ruled(r#"{"name":"e","kind":"error_rat","threshold":0.05}"#));
    add(&ruled(r#"{"name":"e","kind":"error_rate"}"#));
    add(&ruled(r#"{"name":"e","kind":"error_rate","treshold":0.05}"#));
    add(&ruled(r#"{"name":"e","kind":"error_rate","threshold":5}"#));
    add(&ruled(r#"{"name":"e","kind":"error_rate","threshold":0}"#));
    add(&ruled(r#"{"name":"e","kind":"availability","threshold":1}"#));
    add(&ruled(r#"{"name":"e","kind":"error_rate","threshold":"5 %"}"#));
    add(&ruled(r#"{"name":"e","kind":"endpoints","threshold":1}"#));
    add(&ruled(r#"{"name":"e","kind":"endpoints","action":"rolback"}"#));
    add(&ruled(r#"{"name":"slow","kind":"latency","threshold":"1s"}"#));
    add(&ruled(r#"{"name":"slow","kind":"latency","quantile":95,"threshold":"1s"}"#));
    add(&ruled(r#"{"name":"q","kind":"promql","expr":"x"}"#));
    add(&ruled(r#"{"name":"e","kind":"endpoints"},{"name":"e","kind":"probe"}"#));
    add(&ruled(
        r#"{"name":"e","kind":"error_rate","threshold":0.05,"windows":{"short":"5m"}}"#,
    ));
    add(&look(r#""t":1"#));
    add(&look(r#""ready":{"active":1,"standby":1},"rules":{}"#));
    add(&look(r#""t":1,"ready":{"active":1},"rules":{}"#));
    add(&look(r#""t":1,"ready":{"active":-1,"standby":1},"rules":{}"#));
    add(&look(r#""t":1,"ready":{"active":1,"standby":1}"#));
    add(&look(r#""t":1e400,"ready":{"active":1,"standby":1},"rules":{}"#));
    add(&look(r#""t":1e300,"ready":{"active":1,"standby":1},"rules":{}"#));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"unusable":"timout"}}"#,
    ));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"targets":{}}}"#,
    ));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"sample_at":1}}"#,
    ));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"sample_at":1,"target":{}}}"#,
    ));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"sample_at":1,"targets":{"pod-a":{"bad":1}}}}"#,
    ));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"sample_at":1,"targets":{"pod-a":{"total":"many"}}}}"#,
    ));
    add(&look(r#""t":1,"ready":{"active":1,"standby":1},"rules":{},"colors":{"active":{}}"#));
    add(&look(
        r#""t":1,"ready":{"active":1,"standby":1},"rules":{},"traffic":{"active":"green"}"#,
    ));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn bytes_that_are_no_trace_are_named_by_their_line() {
    let mut bytes = format!("{HEADER}\n").into_bytes();
    bytes.extend(b"{\"t\":\xff}");
    assert_eq!(refused(&bytes), "line 2: not UTF-8 after byte 5");

    let long = format!("{HEADER}\n\n{}", " ".repeat(LINE_BYTES_MAX + 1));
    assert_eq!(refused(long.as_bytes()), "line 3: the line is longer than 1048576 bytes");
    let long = " ".repeat(HEADER_BYTES_MAX + 1);
    assert_eq!(
        refused(long.as_bytes()),
        "line 1: the line is longer than 8388608 bytes, more than any header has"
    );

    let deep = format!("{HEADER}\n{}", "[".repeat(100_000));
    assert!(refused(deep.as_bytes()).starts_with("line 2: not JSON: recursion limit exceeded"));
    let word = "x".repeat(100_000);
    let wordy = refused(look(&format!(r#""{word}":1"#)).as_bytes());
    assert!(wordy.starts_with("line 2: unknown key \"xxx") && wordy.len() < 400, "{wordy}");
}

#[test]
fn numbers_that_json_has_none_for_are_words() {
    let (_, looks) = read(
        look(
            r#""t":1,"ready":{"active":1,"standby":1},"rules":{"error_rate":{"sample_at":1,"targets":{"a":{"total":"NaN","bad":"+Inf"}}}}"#,
        )
        .as_bytes(),
    )
    .expect("reads");
    let readings = looks[0].readings.values().next().expect("the active color's");
    let crate::model::Reading::Counters { targets, .. } = readings.values().next().expect("a reading") else {
        panic!("{readings:?}");
    };
    assert!(targets["a"].total.is_nan() && targets["a"].bad == Some(f64::INFINITY));
}

#[test]
fn times_read_back_to_the_nanosecond() {
    let epoch: Timestamp = "2026-11-21T05:00:00.5Z".parse().expect("a time");
    for nanos in [
        0_i128,
        1_000,
        -1_000,
        123_456_789_000,
        999_999_999_999_999_000,
        -999_999_999_999_999_000,
        1,
        -1_500,
        1_000_000_001_000_000_000,
        -1_780_000_000_000_000_000,
    ] {
        let at = Timestamp::from_nanosecond(epoch.as_nanosecond() + nanos).expect("in range");
        let text = serde_json::to_string(&verdict::Time { at, epoch }).expect("serializes");
        let node = node::parse(&text).expect("JSON");
        assert_eq!(node::At::line(&node).time(epoch), Ok(at), "{nanos} was written as {text}");
    }
}

#[test]
fn the_documentation_names_every_key() {
    let page = include_str!("../../../docs/trace-format.md");
    let policy = serde_json::to_value(crate::model::Policy::default()).expect("serializes");
    let knobs = policy.as_object().expect("an object").keys().cloned();
    for key in knobs.chain(header::keys()).chain(poll::keys()) {
        assert!(page.contains(&format!("`{key}`")), "docs/trace-format.md says nothing of `{key}`");
    }
}
