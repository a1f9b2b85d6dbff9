//! Rules: what is judged.
//!
//! A rule is read from three layers by its name: the built-in one (if there is one of that name), `[defaults.rules.<name>]`,
//! `[guards.rules.<name>]`; so `[guards.rules.error_rate] threshold = "2 %"` changes one number and loses nothing.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{
    Action, CounterRule, EndpointsRule, Histogram, Judging, LatencyRule, Policy, Preset, RuleKind, RuleName, RuleSpec, TimeUnit, Windows,
};

use super::{
    duration,
    environment::Scripts,
    error::{Origin, Problem, Problems},
    probe,
    raw::{Node, NodeKind, Share, Table},
    scalar,
    selector::{Form, selector, selector_or},
};

/// The rules that a guard has without saying a word.
pub(super) const BUILT_IN: [&str; 4] = ["error_rate", "latency_p95", "latency_p99", "endpoints"];

/// Bad share over which a poll breaches.
const ERROR_THRESHOLD: f64 = 0.05;
/// Good share under which a poll breaches: the objective people mean by "three nines".
const AVAILABILITY_THRESHOLD: f64 = 0.999;
const P95_THRESHOLD: Duration = Duration::from_secs(1);
const P99_THRESHOLD: Duration = Duration::from_secs(2);
/// How long there must be no Ready endpoint: longer than a rolling restart's gap.
const DOWN_FOR: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Spans of `windows`: shorter ones hold too little, and what is older speaks of another release.
const WINDOW_MIN: Duration = Duration::from_secs(10);
const WINDOW_MAX: Duration = Duration::from_secs(6 * 3600);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ErrorRate,
    Availability,
    Latency,
    Promql,
    Throughput,
    Saturation,
    Probe,
    Endpoints,
}

const KINDS: &[(&str, Kind)] = &[
    ("error_rate", Kind::ErrorRate),
    ("availability", Kind::Availability),
    ("latency", Kind::Latency),
    ("promql", Kind::Promql),
    ("throughput", Kind::Throughput),
    ("saturation", Kind::Saturation),
    ("probe", Kind::Probe),
    ("endpoints", Kind::Endpoints),
];

impl Kind {
    /// Whether it compares a number, which may be zero tolerance.
    fn is_scalar(self) -> bool {
        matches!(self, Self::Promql | Self::Throughput | Self::Saturation)
    }

    /// Whether it can be looked at over two spans.
    fn has_windows(self) -> bool {
        !matches!(self, Self::Probe | Self::Endpoints)
    }

    /// What a breach does unless told otherwise: low traffic and a full memory are seldom the release's fault alone.
    fn action(self) -> Action {
        match self {
            Self::Throughput | Self::Saturation => Action::Alert,
            _ => Action::Rollback,
        }
    }
}

/// The words of `preset`.
pub(super) const PRESETS: &[(&str, Preset)] = &{
    let mut words = [("", Preset::Custom); Preset::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = (Preset::ALL[at].facts().name, Preset::ALL[at]);
        at += 1;
    }
    words
};

/// What every rule of a guard is read with.
pub(super) struct Context<'a> {
    /// Where selectors come from that are not written.
    pub(super) preset: Preset,
    /// The guard's policy; `None`: the rules are read for their own sake, and a guard may judge them otherwise.
    pub(super) policy: Option<&'a Policy>,
    /// The scripts' variables.
    pub(super) scripts: &'a Scripts,
}

/// What every kind of rule has.
pub(super) struct Common {
    pub(super) action: Action,
    pub(super) critical: bool,
    pub(super) windows: Option<Windows>,
}

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
        "availability" => Some(Kind::Availability),
        "throughput" => Some(Kind::Throughput),
        "saturation" => Some(Kind::Saturation),
        "endpoints" => Some(Kind::Endpoints),
        "probe" => Some(Kind::Probe),
        _ => quantile_of(name)
            .map(|_| Kind::Latency)
            .or_else(|| scalar::resource_of(name).map(|_| Kind::Saturation)),
    }
}

/// The words of `kind`.
#[cfg(test)]
pub(super) fn kind_words() -> Vec<&'static str> {
    KINDS.iter().map(|(word, _)| *word).collect()
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

/// Reads each rule; those with `enabled = false` are left out. In the order people read them: errors, latency, numbers, probes, endpoints.
pub(super) fn rules(nodes: &BTreeMap<String, Node>, context: &Context<'_>, problems: &Problems) -> Vec<RuleSpec> {
    let mut rules: Vec<RuleSpec> = nodes
        .iter()
        .filter_map(|(name, node)| rule(name, node.table(problems)?, context))
        .collect();
    let order = |rule: &RuleSpec| KINDS.iter().position(|(word, _)| *word == rule.kind.as_str());
    rules.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)));
    rules
}

fn rule(name: &str, mut table: Table<'_>, context: &Context<'_>) -> Option<RuleSpec> {
    let checked = RuleName::new(name);
    if checked.is_err() {
        let found = format!("a rule called {name:?}");
        let problem = table.node().problem(super::guard::NAME);
        table.problems.add(Problem { found, ..problem });
    }
    let kind = match table.choice("kind", KINDS) {
        Some(kind) => kind,
        None if table.get("kind").is_some() => return None,
        None => match kind_of(name) {
            Some(kind) => kind,
            None => {
                let words: Vec<String> = KINDS.iter().map(|(word, _)| format!("{word:?}")).collect();
                table.problems.add(table.missing("kind", words.join(", ")));
                return None;
            }
        },
    };
    let enabled = table.flag("enabled").unwrap_or(true);
    let common = common(&table, kind, context);
    let kind = match kind {
        Kind::ErrorRate => error_rate(&mut table, context).map(RuleKind::ErrorRate),
        Kind::Availability => availability(&table, context).map(RuleKind::Availability),
        Kind::Latency => latency(name, &mut table, context).map(RuleKind::Latency),
        Kind::Promql => scalar::promql(&table, &common, context).map(RuleKind::Promql),
        Kind::Throughput => scalar::throughput(&table, &common, context).map(RuleKind::Throughput),
        Kind::Saturation => scalar::saturation(name, &table, &common, context).map(RuleKind::Saturation),
        Kind::Probe => Some(RuleKind::Probe(probe::probe(&mut table, context.scripts))),
        Kind::Endpoints => Some(RuleKind::Endpoints(EndpointsRule {
            down_for: table.duration("down_for", SECOND..=HOUR).unwrap_or(DOWN_FOR),
        })),
    };
    table.close();
    Some(RuleSpec {
        name: checked.ok()?,
        kind: kind?,
        action: common.action,
        critical: common.critical,
        windows: common.windows,
    })
    .filter(|_| enabled)
}

fn common(table: &Table<'_>, kind: Kind, context: &Context<'_>) -> Common {
    let action = table
        .choice("action", &[("rollback", Action::Rollback), ("alert", Action::Alert)])
        .unwrap_or(kind.action());
    let mut critical = table.flag("critical").unwrap_or(false);
    if critical && !kind.is_scalar() {
        table.problems.add(
            table
                .problem("critical", "false")
                .hint("a single breach may act only for counters where any violation counts; this kind judges a share or a state"),
        );
        critical = false;
    }
    let windows = if kind.has_windows() {
        windows(table)
    } else {
        if table.whisper("windows").is_some() {
            table.problems.add(
                table
                    .problem("windows", "no windows")
                    .hint("this kind judges a state of now, which has no past to look back over"),
            );
        }
        None
    };
    let classic = context.policy.is_some_and(|policy| policy.mode == Judging::Classic);
    if windows.is_some() && classic && !kind.is_scalar() {
        table.problems.add(
            table
                .problem("windows", "no windows: policy.mode is \"classic\"")
                .hint("classic mode looks over policy.window and policy.window_latency; only expressions have windows of their own there"),
        );
    }
    if critical && windows.is_some() {
        table.problems.add(
            table
                .problem("critical", "false, or no windows")
                .hint("a single breach acts at once; two spans that must agree wait for the longer one"),
        );
    }
    Common { action, critical, windows }
}

/// `windows = { short = "5m", long = "1h" }`.
fn windows(table: &Table<'_>) -> Option<Windows> {
    table.get("windows")?;
    let spans = table.table("windows")?;
    for (name, example) in [("short", "\"5m\""), ("long", "\"1h\"")] {
        if spans.get(name).is_none() {
            spans
                .problems
                .add(spans.missing(name, format!("a duration with its unit, such as {example}")));
        }
    }
    let (short, long) = (
        spans.duration("short", WINDOW_MIN..=WINDOW_MAX),
        spans.duration("long", WINDOW_MIN..=WINDOW_MAX),
    );
    if let (Some(short), Some(long)) = (short, long)
        && short >= long
    {
        spans.problems.add(
            spans
                .problem("short", format!("less than long, which is {}", duration::print(long)))
                .hint("the short one says that it is bad now, the long one that it matters"),
        );
    }
    spans.close();
    Some(Windows {
        short: short?,
        long: long?,
    })
}

fn error_rate(table: &mut Table<'_>, context: &Context<'_>) -> Option<CounterRule> {
    if let Some(threshold) = &context.scripts.error_rate {
        table.force("threshold", threshold.clone());
    }
    counters(table, context, Share::Open, ERROR_THRESHOLD)
}

fn availability(table: &Table<'_>, context: &Context<'_>) -> Option<CounterRule> {
    counters(table, context, Share::Good, AVAILABILITY_THRESHOLD)
}

/// Two counters and the share that is compared.
fn counters(table: &Table<'_>, context: &Context<'_>, range: Share, default: f64) -> Option<CounterRule> {
    let preset = table.choice("preset", PRESETS).unwrap_or(context.preset);
    let (total, bad) = (selector(table, "total", Form::Counter), selector(table, "bad", Form::Counter));
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
        threshold: table.share("threshold", range).unwrap_or(default),
        total: total?,
        bad: bad?,
    })
}

/// A default threshold as the preset's histogram can judge it: the next bound that is not the highest, else the last before it.
fn fitting(default: Duration, preset: Preset) -> Duration {
    let facts = preset.facts();
    let per_second = match facts.unit {
        TimeUnit::Seconds => 1.0,
        TimeUnit::Milliseconds => 1000.0,
    };
    let Some((_, usable)) = facts.bounds.split_last() else {
        return default;
    };
    let wanted = default.as_secs_f64() * per_second;
    let bound = usable.iter().find(|bound| **bound >= wanted).or(usable.last());
    bound.map_or(default, |bound| Duration::from_secs_f64(bound / per_second))
}

fn latency(name: &str, table: &mut Table<'_>, context: &Context<'_>) -> Option<LatencyRule> {
    let scripts = context.scripts;
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
    let preset = table.choice("preset", PRESETS).unwrap_or(context.preset);
    let default = default.map(|default| fitting(default, preset));
    let threshold = table.duration("threshold", Duration::from_millis(1)..=HOUR).or(default);
    if threshold.is_none() && quantile.is_some() && table.get("threshold").is_none() {
        table
            .problems
            .add(table.missing("threshold", "the time over which a request counts as slow, such as \"500ms\""));
    }
    let unit = table
        .choice("unit", &[("seconds", TimeUnit::Seconds), ("milliseconds", TimeUnit::Milliseconds)])
        .unwrap_or(preset.unit());
    let histogram = table
        .choice("histogram", &[("classic", Histogram::Classic), ("native", Histogram::Native)])
        .unwrap_or_default();
    let (form, preset) = match histogram {
        Histogram::Classic => (Form::Buckets, preset.buckets().to_owned()),
        // A native histogram is one series that bears the name itself.
        Histogram::Native => (Form::Native, preset.buckets().replacen("_bucket{", "{", 1)),
    };
    let buckets = selector_or(table, "buckets", selector(table, "buckets", form), &preset);
    Some(LatencyRule {
        quantile: quantile?,
        threshold: threshold?,
        unit,
        buckets: buckets?,
        histogram,
    })
}
