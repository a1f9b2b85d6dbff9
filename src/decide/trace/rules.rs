//! The rules of a header. Their keys are those that the model's own types write, taken from a sample of each kind.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{CounterRule, EndpointsRule, Histogram, LatencyRule, ProbeRule, RuleKind, RuleName, RuleSpec, ScalarRule, TimeUnit};

use super::{
    Fault,
    node::{At, Node, Table, meant},
    policy::{expected, human},
};

const KINDS: [&str; 8] = [
    "error_rate",
    "availability",
    "latency",
    "promql",
    "throughput",
    "saturation",
    "probe",
    "endpoints",
];

/// What names are.
pub(super) const NAME: &str = "1 to 63 lower-case letters, digits, '-', '_' or '.', starting and ending with a letter or digit";

/// Keys of every rule, whatever its kind.
const RULE_KEYS: [&str; 5] = ["name", "kind", "action", "critical", "windows"];

/// Every key of a rule, and every kind.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = String> {
    let of_kinds = KINDS.into_iter().flat_map(|kind| match json!(sample(kind, "p95").all) {
        Value::Object(keys) => keys.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    });
    RULE_KEYS.into_iter().chain(KINDS).map(ToOwned::to_owned).chain(of_kinds)
}

/// The rule of that name.
pub(super) fn ruled<'r>(name: &str, at: &At<'_>, rules: &'r [RuleSpec]) -> Result<&'r RuleSpec, Fault> {
    let known = || rules.iter().map(|rule| rule.name.as_str());
    rules.iter().find(|rule| rule.name.as_str() == name).ok_or_else(|| {
        let allowed = format!("the rules of the header: {}", known().collect::<Vec<_>>().join(", "));
        Fault::wrong(&at.place, "no rule", allowed).hint(meant(name, known()))
    })
}

pub(super) fn rules(at: &At<'_>) -> Result<Vec<RuleSpec>, Fault> {
    let mut rules: Vec<RuleSpec> = Vec::new();
    for at in at.list()? {
        let read = rule(&at)?;
        if rules.iter().any(|known| known.name == read.name) {
            let name = at.table()?.need("name", "a name")?;
            return Err(name.wrong("a name that no other rule has"));
        }
        rules.push(read);
    }
    if rules.is_empty() {
        return Err(Fault::wrong(&at.place, "an empty list", "at least one rule"));
    }
    Ok(rules)
}

fn rule(at: &At<'_>) -> Result<RuleSpec, Fault> {
    let table = at.table()?;
    let name_at = table.need("name", "the rule's name, by which each look tells what it measured")?;
    let name = RuleName::new(name_at.text()?).map_err(|_| name_at.wrong(NAME))?;
    let kind_at = table.need("kind", &format!("one of {}", KINDS.join(", ")))?;
    let kind = kind_at.text()?;
    if !KINDS.contains(&kind) {
        return Err(kind_at.wrong(KINDS.join(", ")).hint(meant(kind, KINDS.into_iter())));
    }
    let sample = sample(kind, name.as_str());
    let kind_keys: Vec<String> = match json!(sample.all) {
        Value::Object(keys) => keys.into_iter().map(|(key, _)| key).filter(|key| key != "kind").collect(),
        _ => Vec::new(),
    };
    let allowed: Vec<&str> = RULE_KEYS.into_iter().chain(kind_keys.iter().map(String::as_str)).collect();
    table.only(&allowed)?;
    for (key, what) in &sample.needed {
        table.need(key, what)?;
    }
    let Value::Object(mut keys) = json!(RuleSpec::new(name, sample.defaults)) else {
        return Err(at.wrong("a rule"));
    };
    let mut read = None;
    for (key, at) in table.each().filter(|(_, at)| *at.node != Node::Null) {
        keys.insert(key.to_owned(), rule_value(key, &at, kind)?);
        let rule: RuleSpec = serde_json::from_value(Value::Object(keys.clone())).map_err(|error| at.wrong(expected(&error)))?;
        read = Some(rule);
    }
    let read = read.ok_or_else(|| at.wrong("a rule"))?;
    sound(&read, &table, at)?;
    Ok(read)
}

/// A rule's times may also be numbers, which are seconds as everywhere in a trace.
fn rule_value(key: &str, at: &At<'_>, kind: &str) -> Result<Value, Fault> {
    let time = matches!((kind, key), ("latency", "threshold")) || matches!(key, "down_for" | "timeout" | "window");
    match at.node {
        Node::Number(_) if time => {
            let span = at.number().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let span = span.ok_or_else(|| at.wrong("a duration, such as \"500ms\""))?;
            Ok(Value::from(humantime::format_duration(span).to_string()))
        }
        _ if time => human(at),
        Node::Map(_) if key == "windows" => {
            let table = at.table()?;
            table.only(&["short", "long"])?;
            let span = |key: &str| table.need(key, "a duration, such as \"5m\"").and_then(|at| human(&at));
            Ok(json!({ "short": span("short")?, "long": span("long")? }))
        }
        _ => Ok(at.node.value()),
    }
}

/// Refuses what no judgement can be made by.
fn sound(rule: &RuleSpec, table: &Table<'_>, at: &At<'_>) -> Result<(), Fault> {
    let share = |key: &str, sound: bool, allowed: &str| match table.get(key) {
        Some(at) if !sound => Err(at.wrong(allowed)),
        _ => Ok(()),
    };
    match &rule.kind {
        RuleKind::ErrorRate(CounterRule { threshold, .. }) | RuleKind::Probe(ProbeRule { threshold, .. }) => share(
            "threshold",
            *threshold > 0.0 && *threshold < 1.0,
            "a fraction over 0 and under 1: 5 % is 0.05",
        ),
        RuleKind::Availability(CounterRule { threshold, .. }) => share(
            "threshold",
            *threshold > 0.0 && *threshold < 1.0,
            "the good fraction, over 0 and under 1: 99.9 % is 0.999",
        ),
        RuleKind::Latency(LatencyRule { quantile, .. }) => share(
            "quantile",
            *quantile > 0.0 && *quantile < 1.0,
            "a fraction over 0 and under 1: p95 is 0.95",
        ),
        RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => {
            let limits = [scalar.max, scalar.min, scalar.max_ratio_to_standby, scalar.max_ratio_to_before];
            if limits.iter().any(Option::is_some) {
                Ok(())
            } else {
                Err(Fault::Missing {
                    place: format!("{}.max", at.place),
                    allowed: "a limit: max, min, max_ratio_to_standby or max_ratio_to_before".to_owned(),
                })
            }
        }
        RuleKind::Endpoints(_) => Ok(()),
    }
}

/// What a kind is when nothing is said of it.
struct Sample {
    defaults: RuleKind,
    /// With every key that may be said.
    all: RuleKind,
    /// What must be said.
    needed: Vec<(&'static str, &'static str)>,
}

fn sample(kind: &str, name: &str) -> Sample {
    let one = |kind: RuleKind, needed| Sample {
        all: kind.clone(),
        defaults: kind,
        needed,
    };
    let counters = CounterRule {
        threshold: 0.0,
        total: String::new(),
        bad: String::new(),
    };
    let (bad_share, good_share) = (
        ("threshold", "the bad fraction over which a look breaches, such as 0.05"),
        ("threshold", "the good fraction under which a look breaches, such as 0.999"),
    );
    match kind {
        "error_rate" => one(RuleKind::ErrorRate(counters), vec![bad_share]),
        "availability" => one(RuleKind::Availability(counters), vec![good_share]),
        "latency" => latency(name),
        "probe" => one(RuleKind::Probe(probe()), vec![]),
        "endpoints" => one(RuleKind::Endpoints(EndpointsRule { down_for: DOWN_FOR }), vec![]),
        other => {
            let wrap = match other {
                "throughput" => RuleKind::Throughput,
                "saturation" => RuleKind::Saturation,
                _ => RuleKind::Promql,
            };
            let all = ScalarRule {
                expr: String::new(),
                max: Some(0.0),
                min: Some(0.0),
                max_ratio_to_standby: Some(0.0),
                max_ratio_to_before: Some(0.0),
                window: Some(Duration::ZERO),
                unit: Some(String::new()),
            };
            Sample {
                defaults: wrap(ScalarRule::default()),
                all: wrap(all),
                needed: vec![],
            }
        }
    }
}

/// As configuration has them by default.
const DOWN_FOR: Duration = Duration::from_secs(10);
const P95_THRESHOLD: Duration = Duration::from_secs(1);
const P99_THRESHOLD: Duration = Duration::from_secs(2);

/// A name that ends in `p95` says the quantile.
fn latency(name: &str) -> Sample {
    let digits = name.rsplit_once('p').map(|(_, digits)| digits);
    let digits = digits.filter(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()));
    let quantile = digits.and_then(|digits| format!("0.{digits}").parse::<f64>().ok());
    let threshold = match digits {
        Some("95") => Some(P95_THRESHOLD),
        Some("99") => Some(P99_THRESHOLD),
        _ => None,
    };
    let kind = RuleKind::Latency(LatencyRule {
        quantile: quantile.unwrap_or_default(),
        threshold: threshold.unwrap_or_default(),
        unit: TimeUnit::Seconds,
        buckets: String::new(),
        histogram: Histogram::Classic,
    });
    let mut needed = Vec::new();
    if quantile.is_none() {
        needed.push(("quantile", "the objective's quantile, such as 0.95"));
    }
    if threshold.is_none() {
        needed.push(("threshold", "the time over which a request is slow, such as \"500ms\""));
    }
    Sample {
        defaults: kind.clone(),
        all: kind,
        needed,
    }
}

fn probe() -> ProbeRule {
    ProbeRule {
        threshold: 0.5,
        path: "/health".to_owned(),
        port: None,
        status: (200, 399),
        body_contains: None,
        timeout: Duration::from_secs(2),
        retries: 1,
        endpoints_max: 10,
    }
}
