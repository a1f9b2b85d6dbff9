//! The header: what is judged, by which rules, from where on.
//!
//! The keys of rules and knobs are those that the model's own types write, taken from a sample of each: a knob that is
//! new there is known here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    decide::{Baseline, Engine, nobody},
    model::{
        Color, ColorSpec, CounterRule, EndpointsRule, GuardId, GuardSpec, Histogram, LatencyRule, Ledger, Policy, ProbeRule, RouteSpec,
        RuleKind, RuleName, RuleSpec, ScalarRule, Seen, ServiceRoute, Side, TimeUnit, Traffic,
    },
};

use super::{
    Fault, TRACE_VERSION,
    node::{At, Node, Table, meant},
};

const KEYS: [&str; 13] = [
    "flipback_trace",
    "rules",
    "policy",
    "baseline",
    "guard",
    "active",
    "standby",
    "colors",
    "selector_key",
    "config_hash",
    "epoch",
    "flipback",
    "state",
];

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
const NAME: &str = "1 to 63 lower-case letters, digits, '-', '_' or '.', starting and ending with a letter or digit";

/// Keys of every rule, whatever its kind.
const RULE_KEYS: [&str; 5] = ["name", "kind", "action", "critical", "windows"];

/// Every key of a header, those of rules by kind included.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = String> {
    let of_kinds = KINDS.into_iter().flat_map(|kind| match json!(sample(kind, "p95").all) {
        Value::Object(keys) => keys.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    });
    let ours = KEYS.into_iter().chain(RULE_KEYS).chain(KINDS);
    ours.map(ToOwned::to_owned).chain(of_kinds)
}

/// What the first line of a trace says.
#[derive(Clone, Debug)]
pub struct Header {
    /// The guard; one that is nobody's where the trace names none.
    pub guard: Option<GuardId>,
    /// What `t = 0` is, where the trace tells.
    pub epoch: Option<Timestamp>,
    /// flipback's version that wrote it.
    pub flipback: Option<String>,
    /// The color that serves at first.
    pub active: Color,
    /// The color that stands by at first.
    pub standby: Color,
    /// What is judged and how.
    spec: Arc<GuardSpec>,
    /// What the previous color showed in the minutes before the switch.
    baseline: BTreeMap<RuleName, Baseline>,
    /// The engine as it stood before the first look.
    state: Option<Engine>,
}

impl Header {
    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[RuleSpec] {
        &self.spec.rules
    }

    /// The knobs.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.spec.policy
    }

    /// Whether the trace begins in the middle of a judgement, as the record of a decision does.
    #[must_use]
    pub fn is_record(&self) -> bool {
        self.state.is_some()
    }

    /// The instant that is `t = 0`.
    #[must_use]
    pub fn zero(&self) -> Timestamp {
        self.epoch.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The engine that judges the trace from its first look on.
    #[must_use]
    pub fn engine(&self) -> Engine {
        if let Some(state) = &self.state {
            return state.clone();
        }
        let mut engine = Engine::switched(Arc::clone(&self.spec), self.active.clone(), self.zero());
        for (rule, baseline) in &self.baseline {
            engine.assume(rule.clone(), *baseline);
        }
        engine
    }

    /// What is live until a look says otherwise.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            active: self.active.clone(),
            standby: self.standby.clone(),
            sides: self.spec.colors.keys().map(|color| (color.clone(), Side::default())).collect(),
            seen: Seen::default(),
            ledger: Ledger::default(),
            paused: None,
            switched_at: None,
            switched_by: None,
        }
    }
}

/// Reads the header.
pub(super) fn read(node: &Node) -> Result<Header, Fault> {
    let line = At::line(node);
    let table = line.table()?;
    version(&table)?;
    table.only(&KEYS)?;
    let epoch = table.get("epoch").map(|at| date(&at)).transpose()?;
    let flipback = table.get("flipback").map(|at| at.text().map(ToOwned::to_owned)).transpose()?;
    let rules = rules(&table.need("rules", "a list of rules, each with \"name\", \"kind\" and \"threshold\"")?)?;
    let (colors, active, standby) = colors(&table)?;
    let guard = table.get("guard").map(|at| guard(&at)).transpose()?;
    let spec = GuardSpec {
        route: RouteSpec::Service(ServiceRoute {
            active: guard.as_ref().map_or("", GuardId::name).to_owned(),
            preview: None,
            selector_key: table.get("selector_key").map_or(Ok("color"), |at| at.text())?.to_owned(),
        }),
        colors,
        policy: table.get("policy").map_or_else(|| Ok(Policy::default()), |at| policy(&at))?,
        config_hash: table.get("config_hash").map_or(Ok(""), |at| at.text())?.to_owned(),
        rules,
        ..GuardSpec::clone(&nobody::spec())
    };
    let id = guard.clone().unwrap_or_else(|| spec.id.clone());
    let spec = Arc::new(GuardSpec { id, ..spec });
    let baseline = table
        .get("baseline")
        .map_or_else(|| Ok(BTreeMap::new()), |at| baseline(&at, &spec))?;
    let state = table.get("state").map(|at| state(&at, &spec, flipback.as_deref())).transpose()?;
    if let (Some(_), Some(at)) = (&state, table.get("baseline")) {
        return Err(at.wrong("no baseline beside a state, which holds its own"));
    }
    Ok(Header {
        guard,
        epoch,
        flipback,
        active,
        standby,
        spec,
        baseline,
        state,
    })
}

/// Looked at first: what else a newer trace holds would only give a confusing error.
fn version(table: &Table<'_>) -> Result<(), Fault> {
    let at = table.need("flipback_trace", "the header begins with \"flipback_trace\":1")?;
    if at.count().is_ok_and(|version| version == TRACE_VERSION) {
        return Ok(());
    }
    Err(Fault::Version { found: at.node.shown() })
}

fn date(at: &At<'_>) -> Result<Timestamp, Fault> {
    let date = at.text().ok().and_then(|text| text.parse().ok());
    date.ok_or_else(|| at.wrong("a date as in RFC 3339, such as \"2026-11-21T05:00:00Z\""))
}

fn guard(at: &At<'_>) -> Result<GuardId, Fault> {
    let allowed = "\"<namespace>/<name>\" or \"<cluster>/<namespace>/<name>\"";
    let parts: Vec<&str> = at.text()?.split('/').collect();
    let made = match parts[..] {
        [namespace, name] => GuardId::new("", namespace, name),
        [cluster, namespace, name] if !cluster.is_empty() => GuardId::new(cluster, namespace, name),
        _ => return Err(at.wrong(allowed)),
    };
    made.map_err(|_| at.wrong(allowed))
}

/// A color.
pub(super) fn named(at: &At<'_>) -> Result<Color, Fault> {
    Color::new(at.text()?).map_err(|_| at.wrong(NAME))
}

/// The colors, and which of them serves and stands by at first. In a trace that names none, positions are colors.
fn colors(table: &Table<'_>) -> Result<(BTreeMap<Color, ColorSpec>, Color, Color), Fault> {
    let mut colors = match table.get("colors") {
        Some(at) => at.list()?.iter().map(named).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let listed = colors.clone();
    if let (Some(at), None, None) = (table.get("colors"), table.get("active"), table.get("state")) {
        return Err(Fault::Missing {
            place: table.place("active"),
            allowed: format!("which of the {} serves from the switch on", at.place),
        });
    }
    let mut at_first = |index: usize, position: &str| {
        let color = match (table.get(position), listed.get(index)) {
            (Some(at), _) => named(&at)?,
            (None, Some(listed)) => listed.clone(),
            (None, None) => Color::new(position).expect("a position is a valid name"),
        };
        colors.push(color.clone());
        Ok::<_, Fault>(color)
    };
    let (active, standby) = (at_first(0, "active")?, at_first(1, "standby")?);
    if active == standby {
        let place = table.place("standby");
        return Err(Fault::wrong(
            &place,
            format!("{:?}", standby.as_str()),
            "another color than the active one",
        ));
    }
    let spec = |color: Color| {
        let value = color.as_str().to_owned();
        let spec = ColorSpec {
            value,
            deployment: None,
            service: None,
        };
        (color, spec)
    };
    Ok((colors.into_iter().map(spec).collect(), active, standby))
}

fn state(at: &At<'_>, spec: &Arc<GuardSpec>, by: Option<&str>) -> Result<Engine, Fault> {
    let fault = |why: String| Fault::State {
        by: by.map(ToOwned::to_owned),
        why,
    };
    let engine: Engine = serde_json::from_value(at.node.value()).map_err(|error| fault(error.to_string()))?;
    Engine::resume(Arc::clone(spec), engine).ok_or_else(|| fault("it is of other rules than the header's".to_owned()))
}

fn baseline(at: &At<'_>, spec: &GuardSpec) -> Result<BTreeMap<RuleName, Baseline>, Fault> {
    let mut found = BTreeMap::new();
    for (name, at) in at.table()?.each() {
        let rule = ruled(name, &at, &spec.rules)?;
        let table = at.table()?;
        if rule.kind.scalar().is_some() {
            table.only(&["value"])?;
            let value = table
                .need("value", "the number of the color before, just before the switch")?
                .number()?;
            found.insert(rule.name.clone(), Baseline::Number(value));
            continue;
        }
        table.only(&["total", "bad"])?;
        let total = table.need("total", "all requests of the minutes before the switch")?;
        let bad = table.get("bad").map_or(Ok(0.0), |at| amount(&at))?;
        let total = amount(&total)?;
        if bad > total {
            let place = table.place("bad");
            return Err(Fault::wrong(
                &place,
                bad.to_string(),
                format!("at most the total, which is {total}"),
            ));
        }
        found.insert(rule.name.clone(), Baseline::Counted { bad, total });
    }
    Ok(found)
}

fn amount(at: &At<'_>) -> Result<f64, Fault> {
    let number = at.number()?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(at.wrong("a number of requests"))
    }
}

/// The rule of that name.
pub(super) fn ruled<'r>(name: &str, at: &At<'_>, rules: &'r [RuleSpec]) -> Result<&'r RuleSpec, Fault> {
    let known = || rules.iter().map(|rule| rule.name.as_str());
    rules.iter().find(|rule| rule.name.as_str() == name).ok_or_else(|| {
        let allowed = format!("the rules of the header: {}", known().collect::<Vec<_>>().join(", "));
        Fault::wrong(&at.place, "no rule", allowed).hint(meant(name, known()))
    })
}

// === policy ===

/// Reads the knobs, one after the other so that an error names its own.
fn policy(at: &At<'_>) -> Result<Policy, Fault> {
    let defaults = Policy::default();
    let Value::Object(mut knobs) = json!(defaults) else {
        return Ok(defaults);
    };
    let table = at.table()?;
    table.only(&knobs.keys().cloned().collect::<Vec<_>>())?;
    let mut policy = defaults;
    for (key, at) in table.each() {
        let default = knobs.get(key).cloned().unwrap_or_default();
        if *at.node == Node::Null {
            continue;
        }
        knobs.insert(key.to_owned(), knob(&at, &default)?);
        policy = serde_json::from_value(Value::Object(knobs.clone())).map_err(|error| at.wrong(expected(&error)))?;
    }
    Ok(policy)
}

/// A knob is what its default is: a time, a fraction, a count or a word.
fn knob(at: &At<'_>, default: &Value) -> Result<Value, Fault> {
    match default {
        Value::String(text) if humantime::parse_duration(text).is_ok() => human(at),
        Value::Number(number) if number.is_f64() => fraction(at),
        Value::Number(_) | Value::Null => at.count().map(Value::from),
        _ => Ok(at.node.value()),
    }
}

fn fraction(at: &At<'_>) -> Result<Value, Fault> {
    let number = at.number()?;
    if (0.0..=1.0).contains(&number) {
        Ok(Value::from(number))
    } else {
        Err(at
            .wrong("a fraction from 0 to 1")
            .hint((number > 1.0 && number <= 100.0).then(|| format!("{number} % is {}", number / 100.0))))
    }
}

/// A duration as people write it; a number alone has no unit, and `5M` is five months to the parser.
fn human(at: &At<'_>) -> Result<Value, Fault> {
    let allowed = "a duration with its unit, such as \"30s\" or \"5m\"";
    let text = match at.node {
        Node::Text(text) => text.trim(),
        Node::Number(number) => return Err(at.wrong(allowed).hint(Some(format!("did you mean \"{number}s\"?")))),
        _ => return Err(at.wrong(allowed)),
    };
    if text.parse::<f64>().is_ok() {
        return Err(at.wrong(allowed).hint(Some(format!("did you mean \"{text}s\"?"))));
    }
    let in_months = |part: &str| {
        part.strip_suffix('M')
            .is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
    };
    if text.split_whitespace().any(in_months) {
        let meant = text.replace('M', "m");
        return Err(at.wrong(allowed).hint(Some(format!("\"M\" means months; minutes are {meant:?}"))));
    }
    match humantime::parse_duration(text) {
        Ok(_) => Ok(Value::from(text)),
        Err(_) => Err(at.wrong(allowed)),
    }
}

/// What serde expected.
fn expected(error: &serde_json::Error) -> String {
    let said = error.to_string();
    match said.rsplit_once("expected ").map_or(said.as_str(), |(_, expected)| expected) {
        "f64" => "a number".to_owned(),
        "u16" | "u32" => "a whole number".to_owned(),
        other => other.to_owned(),
    }
}

// === rules ===

fn rules(at: &At<'_>) -> Result<Vec<RuleSpec>, Fault> {
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
            (0.0..1.0).contains(threshold),
            "a fraction from 0 to under 1: 5 % is 0.05",
        ),
        RuleKind::Availability(CounterRule { threshold, .. }) => share(
            "threshold",
            *threshold > 0.0 && *threshold <= 1.0,
            "the good fraction, over 0 and up to 1: 99.9 % is 0.999",
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

/// The header of a guard's record, its state left to be added.
pub(super) fn written(spec: &GuardSpec, active: Option<(&Color, &Color)>, epoch: Timestamp) -> Map<String, Value> {
    let RouteSpec::Service(route) = &spec.route;
    let mut header = Map::new();
    let mut put = |key: &str, value: Value| {
        header.insert(key.to_owned(), value);
    };
    put("flipback_trace", json!(TRACE_VERSION));
    put("flipback", json!(env!("CARGO_PKG_VERSION")));
    put("guard", json!(spec.id));
    put("config_hash", json!(spec.config_hash));
    put("epoch", json!(epoch));
    if let Some((active, standby)) = active {
        put("active", json!(active));
        put("standby", json!(standby));
    }
    put("colors", json!(spec.colors.keys().collect::<Vec<_>>()));
    put("selector_key", json!(route.selector_key));
    put("rules", json!(spec.rules));
    put("policy", json!(spec.policy));
    header
}
