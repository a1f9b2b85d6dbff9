//! Rules and policies: what is judged, and when a judgement becomes a flip.
//!
//! A rule is read from three layers by its name: the built-in one (if there is one of that name), `[defaults.rules.<name>]`,
//! `[guards.rules.<name>]`; so `[guards.rules.error_rate] threshold = "2 %"` changes one number and loses nothing.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{
    Action, AfterWatch, CounterRule, EndpointsRule, EvidenceSpec, LatencyRule, Policy, Preset, ProbeRule, RuleKind, RuleName, RuleSpec,
    TimeUnit,
};

use super::{
    environment::Scripts,
    error::{Origin, Problems},
    raw::{Node, NodeKind, Share, Table},
};

/// The rules that a guard has without saying a word.
pub(super) const BUILT_IN: [&str; 4] = ["error_rate", "latency_p95", "latency_p99", "endpoints"];

/// Bad share over which a poll breaches.
const ERROR_THRESHOLD: f64 = 0.05;
const P95_THRESHOLD: Duration = Duration::from_secs(1);
const P99_THRESHOLD: Duration = Duration::from_secs(2);
/// How long there must be no Ready endpoint: longer than a rolling restart's gap.
const DOWN_FOR: Duration = Duration::from_secs(10);
/// More than half of the endpoints must fail: one bad node is no bad release.
const PROBE_THRESHOLD: f64 = 0.5;
const PROBE_PATH: &str = "/health";
/// What the kubelet accepts.
const PROBE_STATUS: (u16, u16) = (200, 399);
/// Two attempts end within the default poll.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PROBE_RETRIES: u32 = 1;
const PROBE_ENDPOINTS: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ErrorRate,
    Latency,
    Probe,
    Endpoints,
}

const KINDS: &[(&str, Kind)] = &[
    ("error_rate", Kind::ErrorRate),
    ("latency", Kind::Latency),
    ("probe", Kind::Probe),
    ("endpoints", Kind::Endpoints),
];

/// The words of `preset`.
pub(super) const PRESETS: &[(&str, Preset)] = &[
    ("prometheus-http", Preset::PrometheusHttp),
    ("http-ms", Preset::HttpMs),
    ("custom", Preset::Custom),
];

/// The quantile that a rule's name speaks of.
fn quantile_of(name: &str) -> Option<f64> {
    match name {
        "latency_p50" => Some(0.5),
        "latency_p90" => Some(0.9),
        "latency_p95" => Some(0.95),
        "latency_p99" => Some(0.99),
        "latency_p999" => Some(0.999),
        _ => None,
    }
}

fn kind_of(name: &str) -> Option<Kind> {
    match name {
        "error_rate" => Some(Kind::ErrorRate),
        "endpoints" => Some(Kind::Endpoints),
        "probe" => Some(Kind::Probe),
        _ => quantile_of(name).map(|_| Kind::Latency),
    }
}

/// All rules by name, `over` laid over `below`; a rule that changes its kind starts anew.
pub(super) fn overlaid(below: &BTreeMap<String, Node>, over: &BTreeMap<String, Node>) -> BTreeMap<String, Node> {
    let mut rules = below.clone();
    for (name, node) in over {
        let merged = match rules.get(name) {
            Some(old) if kind_word(name, old) == kind_word(name, node) || !names_kind(node) => old.overlaid(node),
            _ => node.clone(),
        };
        rules.insert(name.clone(), merged);
    }
    rules
}

fn names_kind(node: &Node) -> bool {
    matches!(&node.kind, NodeKind::Table(entries) if entries.contains_key("kind"))
}

fn kind_word(name: &str, node: &Node) -> Option<String> {
    if let NodeKind::Table(entries) = &node.kind
        && let Some(NodeKind::Text(word)) = entries.get("kind").map(|node| &node.kind)
    {
        return Some(word.clone());
    }
    let kind = kind_of(name)?;
    KINDS.iter().find(|(_, other)| *other == kind).map(|(word, _)| (*word).to_owned())
}

/// The built-in rules as tables without entries: their values are this file's defaults.
pub(super) fn built_in() -> BTreeMap<String, Node> {
    BUILT_IN
        .iter()
        .map(|name| ((*name).to_owned(), Node::empty(format!("rules.{name}"), Origin::Nowhere)))
        .collect()
}

/// Reads each rule; those with `enabled = false` are left out. In the order people read them: errors, latency, probes, endpoints.
pub(super) fn rules(nodes: &BTreeMap<String, Node>, preset: Preset, scripts: &Scripts, problems: &Problems) -> Vec<RuleSpec> {
    let mut rules: Vec<RuleSpec> = nodes
        .iter()
        .filter_map(|(name, node)| rule(name, node.table(problems)?, preset, scripts))
        .collect();
    let order = |rule: &RuleSpec| KINDS.iter().position(|(word, _)| *word == rule.kind.as_str());
    rules.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)));
    rules
}

fn rule(name: &str, mut table: Table<'_>, preset: Preset, scripts: &Scripts) -> Option<RuleSpec> {
    let checked = RuleName::new(name);
    if checked.is_err() {
        let found = format!("a rule called {name:?}");
        let problem = table.node().problem(super::guard::NAME);
        table.problems.add(super::Problem { found, ..problem });
    }
    let kind = match table.choice("kind", KINDS) {
        Some(kind) => kind,
        None if table.get("kind").is_some() => return None,
        None => match kind_of(name) {
            Some(kind) => kind,
            None => {
                table
                    .problems
                    .add(table.missing("kind", "\"error_rate\", \"latency\", \"probe\", \"endpoints\""));
                return None;
            }
        },
    };
    let enabled = table.flag("enabled").unwrap_or(true);
    let action = table
        .choice("action", &[("rollback", Action::Rollback), ("alert", Action::Alert)])
        .unwrap_or_default();
    if table.flag("critical") == Some(true) {
        table.problems.add(
            table
                .problem("critical", "false")
                .hint("a single breach may act only for counters where any violation counts; this kind judges a share or a state"),
        );
    }
    let kind = match kind {
        Kind::ErrorRate => error_rate(&mut table, preset, scripts).map(RuleKind::ErrorRate),
        Kind::Latency => latency(name, &mut table, preset, scripts).map(RuleKind::Latency),
        Kind::Probe => Some(RuleKind::Probe(probe(&mut table, scripts))),
        Kind::Endpoints => Some(RuleKind::Endpoints(EndpointsRule {
            down_for: table.duration("down_for", SECOND..=HOUR).unwrap_or(DOWN_FOR),
        })),
    };
    table.close();
    Some(RuleSpec {
        name: checked.ok()?,
        kind: kind?,
        action,
        critical: false,
    })
    .filter(|_| enabled)
}

fn error_rate(table: &mut Table<'_>, preset: Preset, scripts: &Scripts) -> Option<CounterRule> {
    if let Some(threshold) = &scripts.error_rate {
        table.force("threshold", threshold.clone());
    }
    let preset = table.choice("preset", PRESETS).unwrap_or(preset);
    let (total, bad) = (selector(table, "total"), selector(table, "bad"));
    let given = (table.get("total").is_some(), table.get("bad").is_some());
    if given.0 != given.1 {
        let lacking = if given.0 { "bad" } else { "total" };
        table.problems.add(
            table
                .missing(lacking, "total and bad together: the preset's would count another metric")
                .hint("bad is the same selector narrowed down, such as status=~\"5..\""),
        );
        return None;
    }
    let total = selector_or(table, "total", total, preset.total());
    let bad = selector_or(table, "bad", bad, preset.bad());
    Some(CounterRule {
        threshold: table.share("threshold", Share::Open).unwrap_or(ERROR_THRESHOLD),
        total: total?,
        bad: bad?,
    })
}

fn latency(name: &str, table: &mut Table<'_>, preset: Preset, scripts: &Scripts) -> Option<LatencyRule> {
    let quantile = match table.share("quantile", Share::Open) {
        Some(quantile) => Some(quantile),
        None if table.get("quantile").is_some() => None,
        None => match quantile_of(name) {
            Some(quantile) => Some(quantile),
            None => {
                table
                    .problems
                    .add(table.missing("quantile", "a share over 0 and under 1, such as 0.95"));
                None
            }
        },
    };
    let is = |other: f64| quantile.is_some_and(|quantile| (quantile - other).abs() < 1e-9);
    let (by_scripts, default) = if is(0.95) {
        (&scripts.latency_p95, Some(P95_THRESHOLD))
    } else if is(0.99) {
        (&scripts.latency_p99, Some(P99_THRESHOLD))
    } else {
        (&None, None)
    };
    if let Some(threshold) = by_scripts {
        table.force("threshold", threshold.clone());
    }
    let threshold = table.duration("threshold", Duration::from_millis(1)..=HOUR).or(default);
    if threshold.is_none() && quantile.is_some() && table.get("threshold").is_none() {
        table
            .problems
            .add(table.missing("threshold", "the time over which a request counts as slow, such as \"500ms\""));
    }
    let preset = table.choice("preset", PRESETS).unwrap_or(preset);
    let unit = table
        .choice("unit", &[("seconds", TimeUnit::Seconds), ("milliseconds", TimeUnit::Milliseconds)])
        .unwrap_or(preset.unit());
    let buckets = selector_or(table, "buckets", selector(table, "buckets"), preset.buckets());
    Some(LatencyRule {
        quantile: quantile?,
        threshold: threshold?,
        unit,
        buckets: buckets?,
    })
}

fn probe(table: &mut Table<'_>, scripts: &Scripts) -> ProbeRule {
    if let Some(timeout) = &scripts.probe_timeout {
        table.force("timeout", timeout.clone());
    }
    ProbeRule {
        threshold: table.share("threshold", Share::Open).unwrap_or(PROBE_THRESHOLD),
        path: table
            .text_where(
                "path",
                "a path that begins with /, such as \"/health\", or \"https:/health\" for TLS",
                |path| path.strip_prefix("https:").unwrap_or(path).starts_with('/') && !path.contains(char::is_whitespace),
            )
            .unwrap_or_else(|| PROBE_PATH.to_owned()),
        port: table.count("port", 1..=65535).and_then(|port| u16::try_from(port).ok()),
        status: status(table).unwrap_or(PROBE_STATUS),
        body_contains: table.text("body_contains"),
        timeout: table
            .duration("timeout", Duration::from_millis(10)..=Duration::from_secs(60))
            .unwrap_or(PROBE_TIMEOUT),
        retries: table.count("retries", 0..=10).unwrap_or(PROBE_RETRIES),
        endpoints_max: table.count("endpoints_max", 1..=100).unwrap_or(PROBE_ENDPOINTS),
    }
}

/// `"200-399"`, or one status.
fn status(table: &Table<'_>) -> Option<(u16, u16)> {
    let parse = |text: &str| -> Option<(u16, u16)> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        (100 <= low && low <= high && high <= 599).then_some((low, high))
    };
    let text = table.text_where("status", "a status or a range of them, such as 200 or \"200-399\"", |text| {
        parse(text).is_some()
    })?;
    parse(&text)
}

/// The selector given by hand, else the preset's; the custom preset has none, which is a problem.
fn selector_or(table: &Table<'_>, name: &str, given: Option<String>, preset: &str) -> Option<String> {
    if given.is_some() || table.get(name).is_some() {
        return given;
    }
    if preset.is_empty() {
        table.problems.add(
            table
                .missing(name, "a selector, which the preset \"custom\" asks for")
                .hint(EXAMPLE),
        );
        return None;
    }
    Some(preset.to_owned())
}

const EXAMPLE: &str = r#"such as 'http_requests_total{namespace="{namespace}",pod=~"{deployment}-.+"}'"#;

/// A plain vector selector whose placeholders are known and tell colors apart.
fn selector(table: &Table<'_>, name: &str) -> Option<String> {
    let node = table.get(name)?.clone();
    let text = table.text(name)?;
    let outside = outside_quotes(&text);
    let refuse = |allowed: &str, hint: &str| {
        table.problems.add(node.problem(allowed).hint(hint));
        None
    };
    let Some(outside) = outside else {
        return refuse("a selector whose quotes are closed", EXAMPLE);
    };
    if outside.contains(['(', '[', ')', ']']) {
        return refuse(
            "a plain vector selector: name{label=\"value\"}",
            "no rate(), no [1m]: flipback takes the differences of the raw counters itself",
        );
    }
    if outside.matches('{').count() != 1 || outside.matches('}').count() != 1 || !outside.trim_end().ends_with('}') {
        return refuse("a vector selector with its labels in braces", EXAMPLE);
    }
    let metric = outside.split('{').next().unwrap_or_default().trim();
    if name == "buckets" && !metric.is_empty() && !metric.ends_with("_bucket") {
        return refuse(
            "the histogram's series, whose name ends in _bucket",
            "such as http_request_duration_seconds_bucket",
        );
    }
    if name == "buckets" && outside.contains("le=") {
        return refuse("a selector without le", "flipback adds the bucket bound itself");
    }
    if placeholders(&outside).next().is_some() {
        return refuse("placeholders within quotes only", EXAMPLE);
    }
    if let Some(unknown) = placeholders(&text).find(|word| !["namespace", "color", "value", "deployment"].contains(word)) {
        return refuse(
            "the placeholders {namespace}, {color}, {value}, {deployment}",
            &format!("{{{unknown}}} is none of them"),
        );
    }
    if !placeholders(&text).any(|word| word != "namespace") {
        return refuse(
            "a selector with {color}, {value} or {deployment} in it",
            "without one, every color reads the same numbers, and no release could be told from the other",
        );
    }
    Some(text)
}

/// The text without what stands in quotes; `None` when a quote is not closed.
fn outside_quotes(text: &str) -> Option<String> {
    let mut outside = String::with_capacity(text.len());
    let mut within = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match within {
            // Back-quoted text has no escapes in PromQL.
            Some(quote) if letter == '\\' && quote != '`' => {
                letters.next();
            }
            Some(quote) if letter == quote => within = None,
            Some(_) => {}
            None if matches!(letter, '"' | '\'' | '`') => within = Some(letter),
            None => outside.push(letter),
        }
    }
    within.is_none().then_some(outside)
}

/// The bare words in braces within the quotes of a selector.
pub(super) fn placeholders(selector: &str) -> impl Iterator<Item = &str> {
    selector.split('{').skip(1).filter_map(|rest| {
        let (word, _) = rest.split_once('}')?;
        (!word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase())).then_some(word)
    })
}

/// The policy of `table` over `base`.
pub(super) fn policy(table: Table<'_>, base: &Policy, scripts: &Scripts) -> Policy {
    let mut table = table;
    for (name, node) in [
        ("consecutive", &scripts.consecutive),
        ("warm_up", &scripts.grace),
        ("warm_up_latency", &scripts.grace),
    ] {
        if let Some(node) = node {
            table.force(name, node.clone());
        }
    }
    if table.whisper("poll").is_some() {
        table.problems.add(
            table
                .problem("poll", "no poll here")
                .hint("poll is one value for the whole daemon: set it at the top of the file"),
        );
    }
    let any = Duration::ZERO..=DAY;
    let some = SECOND..=DAY;
    let policy = Policy {
        poll: base.poll,
        consecutive: table.count("consecutive", 1..=100).unwrap_or(base.consecutive),
        min_bad: table.count("min_bad", 1..=1_000_000).unwrap_or(base.min_bad),
        min_requests: table.count("min_requests", 1..=u32::MAX).or(base.min_requests),
        stretch: table.duration("stretch", some.clone()).unwrap_or(base.stretch),
        confidence: table.share("confidence", Share::Confidence).unwrap_or(base.confidence),
        severe_share: table.share("severe_share", Share::ToOne).unwrap_or(base.severe_share),
        severe_bad: table.count("severe_bad", 1..=1_000_000).unwrap_or(base.severe_bad),
        slow_window: table.duration("slow_window", some.clone()).unwrap_or(base.slow_window),
        slow_hold: table.duration("slow_hold", any.clone()).unwrap_or(base.slow_hold),
        slow_bad: table.count("slow_bad", 1..=1_000_000).unwrap_or(base.slow_bad),
        warm_up: table.duration("warm_up", any.clone()).unwrap_or(base.warm_up),
        warm_up_latency: table.duration("warm_up_latency", any.clone()).unwrap_or(base.warm_up_latency),
        watch: table.duration("watch", any.clone()).unwrap_or(base.watch),
        after_watch: table.choice("after_watch", AFTER_WATCH).unwrap_or(base.after_watch),
        expire: table.duration("expire", some.clone()).unwrap_or(base.expire),
        blind_after: table.duration("blind_after", some.clone()).unwrap_or(base.blind_after),
        blind_repeat: table.duration("blind_repeat", some).unwrap_or(base.blind_repeat),
        cooldown: table.duration("cooldown", any).unwrap_or(base.cooldown),
        flips_per_day: table.count("flips_per_day", 1..=100).unwrap_or(base.flips_per_day),
        standby_share: table.share("standby_share", Share::Closed).unwrap_or(base.standby_share),
        degradation: table.share("degradation", Share::ToOne).unwrap_or(base.degradation),
    };
    consistent(&table, &policy);
    table.close();
    policy
}

const AFTER_WATCH: &[(&str, AfterWatch)] = &[("slow", AfterWatch::Slow), ("full", AfterWatch::Full), ("alert", AfterWatch::Alert)];

/// Values that are sound alone and impossible together.
fn consistent(table: &Table<'_>, policy: &Policy) {
    let print = super::duration::print;
    let clash = |name: &str, is: Duration, sound: bool, allowed: String, why: &str| {
        if !sound {
            let problem = table.problem(name, allowed);
            let found = print(is);
            table.problems.add(super::Problem {
                found,
                ..problem.hint(why)
            });
        }
    };
    clash(
        "stretch",
        policy.stretch,
        policy.stretch >= policy.poll,
        format!("at least poll, which is {}", print(policy.poll)),
        "an interval cannot close before the next look",
    );
    clash(
        "expire",
        policy.expire,
        policy.expire > policy.stretch,
        format!("more than stretch, which is {}", print(policy.stretch)),
        "a streak would expire while its next interval is still collecting",
    );
    clash(
        "blind_after",
        policy.blind_after,
        policy.blind_after >= policy.poll * 2,
        format!("at least two polls, which is {}", print(policy.poll * 2)),
        "one look without data would already be blindness",
    );
    clash(
        "slow_window",
        policy.slow_window,
        policy.slow_window >= policy.poll * 4,
        format!("at least four polls, which is {}", print(policy.poll * 4)),
        "the slow path needs more than a look or two",
    );
    clash(
        "watch",
        policy.watch,
        policy.watch > policy.warm_up.max(policy.warm_up_latency) || policy.watch.is_zero(),
        format!(
            "0s, or more than the warm-up, which is {}",
            print(policy.warm_up.max(policy.warm_up_latency))
        ),
        "the watch would end before anything is judged",
    );
}

/// The evidence's bounds of `table` over `base`.
pub(super) fn evidence(table: Table<'_>, base: &EvidenceSpec) -> EvidenceSpec {
    let evidence = EvidenceSpec {
        log_lines: table.count("log_lines", 0..=100_000).unwrap_or(base.log_lines),
        log_bytes: table.bytes("log_bytes", 0..=64 * 1024 * 1024).unwrap_or(base.log_bytes),
        pods_max: table.count("pods_max", 0..=1000).unwrap_or(base.pods_max),
        before: table.duration("before", Duration::ZERO..=DAY).unwrap_or(base.before),
        after: table.duration("after", Duration::ZERO..=HOUR).unwrap_or(base.after),
        deadline: table.duration("deadline", SECOND..=HOUR).unwrap_or(base.deadline),
    };
    if evidence.deadline <= evidence.after {
        let found = super::duration::print(evidence.deadline);
        let problem = table
            .problem(
                "deadline",
                format!("more than after, which is {}", super::duration::print(evidence.after)),
            )
            .hint("the capture would end before the metrics after the flip exist");
        table.problems.add(super::Problem { found, ..problem });
    }
    table.close();
    evidence
}
