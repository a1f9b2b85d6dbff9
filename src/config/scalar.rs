//! Rules that compare one number: `promql`, and its presets `throughput` and `saturation`.
//!
//! What they may and may not do is decided here: an expression that recounts one event at several polls may not roll back, a ratio may
//! not act at once, a rule without a limit is none.

use std::time::Duration;

use crate::model::{Action, Judging, Policy, ScalarRule, Windows};

use super::{
    Problem, duration,
    expression::{Apart, Span, WINDOW, expression},
    raw::Table,
    rule::{Common, Context, PRESETS},
};

/// The span of the rate that `throughput` makes of a counter.
const RATE: Duration = Duration::from_secs(60);
/// The span of the processor's use: longer than its scrapes are apart.
const CPU_RATE: Duration = Duration::from_secs(300);
/// Used share of a limit over which `saturation` breaches.
const SATURATION_MAX: f64 = 0.8;
/// The longest span that may be declared.
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);

/// What `saturation` reads without an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Memory,
    Cpu,
}

pub(super) const RESOURCES: &[(&str, Resource)] = &[("memory", Resource::Memory), ("cpu", Resource::Cpu)];

/// The resource that a rule's name speaks of.
pub(super) fn resource_of(name: &str) -> Option<Resource> {
    match name {
        "saturation_memory" => Some(Resource::Memory),
        "saturation_cpu" => Some(Resource::Cpu),
        _ => None,
    }
}

pub(super) fn promql(table: &Table<'_>, common: &Common, context: &Context<'_>) -> Option<ScalarRule> {
    let written = by_hand(table, common);
    if table.get("expr").is_none() {
        table.problems.add(
            table
                .missing("expr", "a PromQL expression that gives one number per color")
                .hint(r#"such as 'sum(rate(errors_total{namespace="{namespace}",pod=~"{deployment}-.+"}[1m]))'"#),
        );
    }
    let limits = limits(table, "a finite number", duration::number);
    finish(table, written, limits, table.text("unit"), common, context)
}

pub(super) fn throughput(table: &Table<'_>, common: &Common, context: &Context<'_>) -> Option<ScalarRule> {
    let preset = table.choice("preset", PRESETS).unwrap_or(context.preset);
    let written = match (table.get("expr").is_some(), preset.total()) {
        (true, _) => by_hand(table, common),
        (false, "") => {
            table.problems.add(
                table
                    .missing("expr", "an expression, which the preset \"custom\" asks for")
                    .hint(r#"such as 'sum(rate(requests_total{namespace="{namespace}",pod=~"{deployment}-.+"}[1m]))'"#),
            );
            None
        }
        (false, total) => {
            let (range, span) = range(common, RATE);
            Some((format!("sum(rate({total}[{range}]))"), span))
        }
    };
    let limits = limits(table, "a finite number of requests per second", duration::number);
    if let Some(min) = limits.min.filter(|min| *min <= 0.0) {
        table.problems.add(Problem {
            found: min.to_string(),
            ..table
                .problem("min", "a number of requests per second over 0")
                .hint("no throughput is under it: to be told of none at all, write a little, such as 0.001")
        });
    }
    let unit = table.text("unit").or_else(|| Some("req/s".to_owned()));
    finish(table, written, limits, unit, common, context)
}

pub(super) fn saturation(name: &str, table: &Table<'_>, common: &Common, context: &Context<'_>) -> Option<ScalarRule> {
    let given = table.choice("resource", RESOURCES);
    let by_name = if table.get("resource").is_none() { resource_of(name) } else { None };
    let written = match (table.get("expr").is_some(), given.or(by_name)) {
        (true, Some(_)) if table.get("resource").is_some() => {
            table.problems.add(
                table
                    .problem("resource", "either resource or expr")
                    .hint("resource stands for an expression of its own"),
            );
            None
        }
        (true, _) => by_hand(table, common),
        (false, Some(resource)) => Some(used_share(resource, common)),
        (false, None) => {
            if table.get("resource").is_none() {
                table
                    .problems
                    .add(table.missing("resource", "\"memory\", \"cpu\", or an expression of your own (expr)"));
            }
            None
        }
    };
    let mut limits = limits(table, "a finite share of the limit, such as 0.8 or \"80 %\"", duration::share);
    if !limits.any() && !limits.tried {
        limits.max = Some(SATURATION_MAX);
    }
    let unit = table.text("unit").or_else(|| Some("of the limit".to_owned()));
    finish(table, written, limits, unit, common, context)
}

/// The expression at `expr`.
fn by_hand(table: &Table<'_>, common: &Common) -> Option<(String, Span)> {
    let relative = table.get("max_ratio_to_standby").is_some();
    let apart = if common.action == Action::Rollback || relative {
        Apart::Must
    } else {
        Apart::May
    };
    expression(table, "expr", apart)
}

/// The range of an expression of ours: what `windows` fill in, else `alone`.
fn range(common: &Common, alone: Duration) -> (String, Span) {
    match common.windows {
        Some(_) => (
            WINDOW.to_owned(),
            Span {
                longest: None,
                windowed: true,
            },
        ),
        None => (
            duration::print(alone),
            Span {
                longest: Some(alone),
                windowed: false,
            },
        ),
    }
}

/// The share that the fullest container of a color uses of its limit, from cAdvisor's and kube-state-metrics' metrics.
fn used_share(resource: Resource, common: &Common) -> (String, Span) {
    const PODS: &str = r#"namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+""#;
    let (used, word, span) = match resource {
        Resource::Memory => {
            let series = format!(r#"container_memory_working_set_bytes{{{PODS},container!="",container!="POD"}}"#);
            match common.windows {
                None => (format!("max by (namespace, pod, container) ({series})"), "memory", Span::default()),
                Some(_) => {
                    let (range, span) = range(common, CPU_RATE);
                    let used = format!("max by (namespace, pod, container) (avg_over_time({series}[{range}]))");
                    (used, "memory", span)
                }
            }
        }
        Resource::Cpu => {
            let (range, span) = range(common, CPU_RATE);
            let series = format!(r#"container_cpu_usage_seconds_total{{{PODS},container!="",container!="POD"}}"#);
            (format!("sum by (namespace, pod, container) (rate({series}[{range}]))"), "cpu", span)
        }
    };
    let limit = format!(r#"max by (namespace, pod, container) (kube_pod_container_resource_limits{{{PODS},resource="{word}"}})"#);
    (format!("max({used} / {limit})"), span)
}

/// The limits of a rule.
struct Limits {
    max: Option<f64>,
    min: Option<f64>,
    to_standby: Option<f64>,
    to_before: Option<f64>,
    /// Whether one was written, well or not.
    tried: bool,
}

impl Limits {
    fn any(&self) -> bool {
        self.max.is_some() || self.min.is_some() || self.relative()
    }

    fn relative(&self) -> bool {
        self.to_standby.is_some() || self.to_before.is_some()
    }
}

fn limits(table: &Table<'_>, allowed: &str, read: fn(&str) -> Result<f64, duration::NotOne>) -> Limits {
    let ratio = |name: &str| {
        let allowed = "a finite ratio over 0, such as 1.2 for 20 % more";
        table.number(name, allowed, |text| duration::number(text).ok().filter(|ratio| *ratio > 0.0))
    };
    let finite = |name: &str| table.number(name, allowed, |text| read(text).ok());
    let limits = Limits {
        max: finite("max"),
        min: finite("min"),
        to_standby: ratio("max_ratio_to_standby"),
        to_before: ratio("max_ratio_to_before"),
        tried: ["max", "min", "max_ratio_to_standby", "max_ratio_to_before"]
            .iter()
            .any(|name| table.get(name).is_some()),
    };
    if let (Some(min), Some(max)) = (limits.min, limits.max)
        && min > max
    {
        table.problems.add(Problem {
            found: min.to_string(),
            ..table
                .problem("min", format!("at most max, which is {max}"))
                .hint("every number would breach the one or the other")
        });
    }
    limits
}

/// Puts a rule together and refuses what cannot be judged.
fn finish(
    table: &Table<'_>,
    written: Option<(String, Span)>,
    limits: Limits,
    unit: Option<String>,
    common: &Common,
    context: &Context<'_>,
) -> Option<ScalarRule> {
    if !limits.tried && !limits.any() {
        table.problems.add(
            table
                .missing("max", "at least one of max, min, max_ratio_to_standby, max_ratio_to_before")
                .hint("without a limit nothing would ever breach"),
        );
    }
    if common.critical && (limits.relative() || !limits.any()) {
        table.problems.add(
            table
                .problem("critical", "false, or max and min alone")
                .hint("a single breach may act only for counters where any violation counts; a ratio to another number swings"),
        );
    }
    let declared = table.duration("window", Duration::from_secs(1)..=WINDOW_MAX);
    let allowed = table.flag("allow_overlap").unwrap_or(false);
    let (expr, span) = written?;
    let window = window(table, declared, span, common.windows);
    if let (Some((key, window)), Some(policy), false) = (window, context.policy, allowed) {
        overlap(table, key, window, policy, common);
    }
    Some(ScalarRule {
        expr,
        max: limits.max,
        min: limits.min,
        max_ratio_to_standby: limits.to_standby,
        max_ratio_to_before: limits.to_before,
        window: window.map(|(_, window)| window),
        unit,
    })
}

/// The longest span that one answer looks back over, and the key that says so.
fn window(table: &Table<'_>, declared: Option<Duration>, span: Span, windows: Option<Windows>) -> Option<(&'static str, Duration)> {
    match (span.windowed, windows) {
        (true, None) if table.get("windows").is_none() => table.problems.add(
            table
                .missing("windows", "windows = { short = \"5m\", long = \"1h\" }")
                .hint("the expression has [{window}], and nothing says what to fill in"),
        ),
        (false, Some(_)) => table.problems.add(
            table
                .problem("expr", "an expression with [{window}] in place of its range")
                .hint("with `windows` it is asked twice, once over each span"),
        ),
        _ => {}
    }
    if let (Some(declared), Some(longest)) = (declared, span.longest)
        && declared < longest
    {
        table.problems.add(
            table
                .problem(
                    "window",
                    format!("at least {}, which the expression looks back over", duration::print(longest)),
                )
                .hint("leave it out where the expression says it itself; it is for recording rules, whose range is not seen"),
        );
    }
    let short = windows.filter(|_| span.windowed).map(|windows| ("windows", windows.short));
    let found = span.longest.map(|longest| ("expr", longest));
    declared
        .map(|declared| ("window", declared))
        .or_else(|| [short, found].into_iter().flatten().max_by_key(|(_, length)| *length))
}

/// Polls that look at one event again and again are one piece of evidence, not several.
fn overlap(table: &Table<'_>, key: &str, window: Duration, policy: &Policy, common: &Common) {
    // An alert flips nothing, zero tolerance needs no second poll, and classic mode is chosen with open eyes (and warned of).
    if common.action != Action::Rollback || common.critical || policy.mode == Judging::Classic {
        return;
    }
    let polls = policy.consecutive.max(2);
    let covered = policy.poll * (polls - 1);
    if covered >= window {
        return;
    }
    let needed = window.as_millis().div_ceil(policy.poll.as_millis().max(1)) + 1;
    let raise = if needed <= u128::from(super::policy::CONSECUTIVE_MAX) {
        format!("set policy.consecutive to {needed}, ")
    } else {
        String::new()
    };
    let print = duration::print;
    table.problems.add(Problem {
        found: format!("a window of {}", print(window)),
        ..table
            .problem(
                key,
                format!(
                    "at most (consecutive - 1) x poll, which is ({polls} - 1) x {} = {}",
                    print(policy.poll),
                    print(covered)
                ),
            )
            .hint(format!(
                "{polls} polls would count one event {polls} times and a short blip would roll back: look back over less, {raise}poll less often, \
                 make it action = \"alert\", or accept it with allow_overlap = true"
            ))
    });
}
