//! What fuzzers throw at flipback, and the contract that holds for whatever it is: nothing panics, every rejection names
//! its place, and what is accepted can be judged. One function per way in; `fuzz/` feeds them from libFuzzer and
//! `tests/fuzz.rs` from a stored corpus. No part of the public interface.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    config::{self, ConfigErrors, Origin, Sources},
    decide::trace,
    model::{Color, Command, Counter, GuardSpec, Histogram, LatencyRule, Reading, RuleKind, RuleName, RuleSpec, ScalarRule, TimeUnit},
    observe,
    serve::{self, Fuzzed},
};

/// Splits an input of [`configuration`]: the file before it, variables as `NAME=value` lines after it.
pub const ENVIRONMENT: &str = "\n--- environment ---\n";

/// A configuration file, read from `file`, and the variables of an environment.
///
/// # Panics
/// When the contract is broken.
pub fn configuration(input: &[u8], file: &Path) {
    let marker = ENVIRONMENT.as_bytes();
    let at = input.windows(marker.len()).position(|window| window == marker);
    let (text, variables) = at.map_or((input, &[][..]), |at| (&input[..at], &input[at + marker.len()..]));
    let variables = String::from_utf8_lossy(variables);
    let environment = variables.lines().filter_map(|line| line.split_once('='));
    std::fs::write(file, text).expect("the file for inputs can be written");
    let loaded = config::load(&Sources {
        file: Some(file.to_owned()),
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        flags: config::Flags::default(),
    });
    match loaded {
        Ok(config) => config.guards.iter().for_each(|spec| judgeable(spec)),
        Err(errors) => names_its_places(&errors),
    }
}

fn names_its_places(errors: &ConfigErrors) {
    assert!(!errors.problems.is_empty(), "refused without a reason");
    for problem in &errors.problems {
        let placed = !problem.key.is_empty() || problem.origin != Origin::Nowhere;
        assert!(placed, "a problem without a place: {problem}");
        assert!(
            !problem.found.is_empty() && !problem.allowed.is_empty(),
            "a problem without words: {problem:?}"
        );
    }
    let told = errors.to_string();
    assert!(errors.problems.iter().all(|problem| told.contains(&problem.key)), "{told}");
}

/// What a judgement takes for granted.
fn judgeable(spec: &GuardSpec) {
    let policy = &spec.policy;
    assert!(spec.colors.len() >= 2, "{} has {} colors", spec.id, spec.colors.len());
    assert!(!spec.namespace.is_empty() && !spec.config_hash.is_empty());
    assert!(policy.poll > Duration::ZERO && policy.consecutive >= 1 && policy.min_bad >= 1);
    assert!(policy.confidence >= 0.5 && policy.confidence < 1.0);
    let names: std::collections::BTreeSet<&RuleName> = spec.rules.iter().map(|rule| &rule.name).collect();
    assert_eq!(names.len(), spec.rules.len(), "two rules of {} share a name", spec.id);
    for rule in &spec.rules {
        let share = match &rule.kind {
            RuleKind::ErrorRate(counters) | RuleKind::Availability(counters) => counters.threshold,
            RuleKind::Latency(latency) => latency.share(),
            RuleKind::Probe(probe) => probe.threshold,
            RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) | RuleKind::Endpoints(_) => continue,
        };
        assert!((0.0..1.0).contains(&share), "{}: threshold {share}", rule.name);
    }
}

/// The guard whose answers [`answer`] is made of: errors, p95 and p99, a number and a native histogram, of blue and green.
#[must_use]
pub fn guard(file: &Path) -> Arc<GuardSpec> {
    const TEXT: &str = r#"
        [prometheus]
        url = "http://localhost:9090"
        [[guards]]
        name = "web"
        namespace = "shop"
        [guards.route]
        service = "web"
        selector_key = "color"
        [guards.colors]
        blue = { value = "blue", deployment = "web-blue" }
        green = { value = "green", deployment = "web-green" }
    "#;
    std::fs::write(file, TEXT).expect("the file for inputs can be written");
    let sources = Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    };
    let config = config::load(&sources).expect("a configuration that is right");
    let mut spec = config.guards.first().expect("one guard").as_ref().clone();
    let rule = |name: &str, kind| RuleSpec::new(RuleName::new(name).expect("a name"), kind);
    let number = ScalarRule {
        expr: r#"queue_length{pod=~"{deployment}-.+"}"#.to_owned(),
        max: Some(10.0),
        ..ScalarRule::default()
    };
    let native = LatencyRule {
        quantile: 0.95,
        threshold: Duration::from_millis(500),
        unit: TimeUnit::Seconds,
        buckets: r#"http_request_duration_seconds{pod=~"{deployment}-.+"}"#.to_owned(),
        histogram: Histogram::Native,
    };
    spec.rules.push(rule("queue", RuleKind::Promql(number)));
    spec.rules.push(rule("native", RuleKind::Latency(native)));
    Arc::new(spec)
}

/// The body of a Prometheus's answer to all that is asked about `spec`.
///
/// # Panics
/// When the contract is broken.
pub fn answer(input: &[u8], spec: &GuardSpec) {
    for (color, rule, reading) in observe::understand(spec, input) {
        usable(&color, &rule, &reading);
    }
}

/// What the engine takes for granted of a reading that is no absence.
fn usable(color: &Color, rule: &RuleName, reading: &Reading) {
    let place = format!("{rule} on {color}: {reading:?}");
    match reading {
        Reading::Absent(why) => assert!(!why.to_string().trim().is_empty(), "an absence without a reason: {place}"),
        Reading::Counters { targets, .. } => {
            assert!(!targets.is_empty(), "no target: {place}");
            assert!(targets.values().all(counts), "{place}");
        }
        Reading::Scalar {
            value,
            long,
            before,
            requests,
            ..
        } => {
            let numbers = [Some(*value), *long, *before, *requests];
            assert!(numbers.iter().flatten().all(|number| number.is_finite()), "{place}");
        }
        Reading::Probes { .. } | Reading::Ready { .. } => {}
    }
}

fn counts(counter: &Counter) -> bool {
    let bad = counter.bad.unwrap_or(0.0);
    counter.total.is_finite() && bad.is_finite() && bad >= 0.0 && bad <= counter.total
}

/// A trace, as `flipback replay` reads it. What is accepted is judged.
///
/// # Panics
/// When the contract is broken.
pub fn trace(input: &[u8]) {
    match trace::read(input) {
        Ok((header, looks)) => {
            let mut engine = header.engine();
            for look in &looks {
                let decision = engine.step(look);
                assert!(!decision.why.is_empty(), "a decision without a sentence");
            }
        }
        Err(error) => {
            let lines = input.split(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "line {} of {lines}: {error}", error.line);
            assert!(error.to_string().len() > "line 1: ".len(), "a rejection without words");
        }
    }
}

/// The body of a command that came over HTTP.
///
/// # Panics
/// When the contract is broken.
pub fn command(input: &[u8]) {
    match serde_json::from_slice::<Command>(input) {
        Ok(command) => {
            let written = serde_json::to_vec(&command).expect("a command can be written");
            let again: Command = serde_json::from_slice(&written).expect("what was written can be read");
            assert_eq!(command, again);
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a rejection without words"),
    }
}

/// The server that [`http`] and [`socket`] ask.
#[must_use]
pub fn server() -> Fuzzed {
    Fuzzed::open()
}

/// A request to the API and the page: method, target, headers, body.
///
/// # Panics
/// When the contract is broken.
pub fn http(input: &[u8], server: &Fuzzed) {
    let Some(request) = serve::request(input) else { return };
    let credentials: Vec<&str> = request
        .headers()
        .get_all("authorization")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let entitled = credentials.first().is_some_and(|credentials| bears_the_token(credentials));
    let told = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    let is_command = request.method() == "POST" && request.uri().path() == "/api/v1/commands";
    let answer = server.ask(request);
    let told = format!("{told} was answered with {}", answer.status);
    assert!(!answer.acted || (entitled && is_command), "it acted: {told}");
    assert!(!answer.acted || answer.status == 200, "it acted and did not say so: {told}");
    // The one trouble that this monitor has: it was never seen to look.
    let meant = !answer.status.is_server_error() || answer.status == 503;
    assert!(meant, "{told}");
    sound(&answer, &told);
}

/// Whether these are the credentials that commands need, by the letter of RFC 6750 and a little leniency about spaces.
fn bears_the_token(credentials: &str) -> bool {
    let mut words = credentials.split_whitespace();
    let scheme = words.next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("bearer") && words.next() == Some(serve::TOKEN) && words.next().is_none()
}

fn sound(answer: &serve::Answer, told: &str) {
    assert!(answer.body.len() <= serve::ANSWER_BYTES_MAX, "{told}");
    for header in ["content-security-policy", "x-content-type-options", "cache-control"] {
        assert!(answer.headers.contains_key(header), "without {header}: {told}");
    }
    let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    if kind == Some("application/json") && !answer.body.is_empty() {
        let read: Result<serde_json::Value, _> = serde_json::from_slice(&answer.body);
        assert!(read.is_ok(), "JSON that is none: {told}");
    }
    let text = String::from_utf8_lossy(&answer.body);
    assert!(!text.contains(serve::BEHIND), "it let somebody look behind the door: {told}");
}

/// Bytes that come over a connection: a request, several, or none at all.
///
/// # Panics
/// When the contract is broken.
pub fn socket(input: &[u8], server: &Fuzzed) {
    let before = server.acted();
    let answer = server.send(input);
    let text = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || text.starts_with("HTTP/1."), "no HTTP: {text:.200}");
    assert!(!text.contains(serve::BEHIND), "it let somebody look behind the door");
    let lines = text.lines().filter(|line| line.starts_with("HTTP/1."));
    for line in lines {
        let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        assert!(status.is_some_and(|code| code < 500 || code == 503), "{line}");
    }
    let named = input.windows(serve::TOKEN.len()).any(|window| window == serve::TOKEN.as_bytes());
    assert!(named || server.acted() == before, "it acted for somebody without the token");
    // Whatever it was, the next one is served.
    assert!(server.serves(), "it serves nobody any more");
}
