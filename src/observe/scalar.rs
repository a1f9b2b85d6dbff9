//! One number per color: hand-written expressions, and the windows of the scripts' rule (classic mode). Pure.
//!
//! An expression must give exactly one series. It may be of the scalar type (`scalar(..)`, `time()`, `2 * 3`), which cannot be tagged
//! and so does not fit a batch: when the server refuses it, it is asked again as `vector(..)`, which fits scalars and nothing else. The
//! server knows an expression's type for sure; here it would be guessed. What is written by hand may end in a comment, so a line break
//! follows where there could be one.
//!
//! The reading's time is the time of evaluation. A number says nothing of the samples behind it: a rate over a window goes on answering
//! for a dead target until the window has passed, which is why the other kinds read raw counters, and classic mode is a choice.
//!
//! Known limit: an expression that gives a native histogram instead of a number is read as 0 by Prometheus before 3.0, which loses the
//! histogram when it is tagged. `flipback check` asks for it untagged, and says so.

use std::time::Duration;

use super::{
    answer::{Sorted, number, time},
    envelope::Sample,
    plan::{Planned, Query, Read, Role, TAG, What, both},
    selector::{ALL, Bound, Facts, fill, with_matcher},
};
use crate::model::{Absence, Histogram, LatencyRule, Reading, ScalarRule, TimeUnit, Windows};

/// What stands for a span in an expression.
const WINDOW: &str = "{window}";

/// What is said of an expression whose answer is a range.
const RANGE: &str =
    "the expression gives a range of samples (`x[5m]`) instead of one number: put it into a function such as rate(..) or avg_over_time(..)";

/// A rate is carried on to both ends of its window, so that a bad share can exceed 1 a little; twice is no rounding any more.
pub(super) const SHARE_IMPOSSIBLE: f64 = 2.0;

/// What a number is made of, placeholders filled.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    /// A hand-written expression.
    Expression {
        /// It, over the short window.
        text: String,
    },
    /// The bad share within a window.
    Share {
        /// Selector of all requests.
        total: String,
    },
    /// A quantile of the times within a window, in seconds.
    Quantile {
        /// Selector of the histogram.
        histogram: String,
        /// How it is stored.
        kind: Histogram,
        /// Selector of something that is sampled when the histogram is.
        sampled: String,
        /// The threshold.
        bound: Bound,
        /// Which quantile.
        quantile: f64,
    },
}

impl Scalar {
    /// Selector of series that are as often scraped as what is read.
    pub(super) fn sampled(&self) -> Option<&str> {
        match self {
            Self::Expression { text } => ranged(text),
            Self::Share { total } => Some(total),
            Self::Quantile { sampled, .. } => Some(sampled),
        }
    }

    /// Selector of a classic histogram's buckets.
    pub(super) fn buckets(&self) -> Option<&str> {
        match self {
            Self::Quantile {
                histogram,
                kind: Histogram::Classic,
                ..
            } => Some(histogram),
            Self::Expression { .. } | Self::Share { .. } | Self::Quantile { .. } => None,
        }
    }

    /// Whether a person wrote the PromQL.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::Expression { .. })
    }
}

/// Plans a hand-written expression.
pub(super) fn expression(rule: &ScalarRule, windows: Option<Windows>, facts: &Facts<'_>) -> Planned {
    let template = rule.expr.trim();
    if template.is_empty() {
        return Err("the expression is empty: set `expr`".to_owned());
    }
    let over = |span: Duration| fill(&template.replace(WINDOW, &promql(span)), facts);
    let (text, long) = match (template.contains(WINDOW), windows, rule.window) {
        (false, _, _) => (fill(template, facts)?, None),
        (true, Some(windows), _) => (over(windows.short)?, Some(over(windows.long)?)),
        (true, None, Some(window)) => (over(window)?, None),
        (true, None, None) => {
            return Err("the expression uses {window}, but the rule has neither `windows` nor `window`: set one".to_owned());
        }
    };
    let mut expressions = vec![(Role::Value, enclosed(&text))];
    expressions.extend(long.map(|long| (Role::Long, enclosed(&long))));
    Ok((What::Scalar(Scalar::Expression { text }), expressions))
}

/// Plans the scripts' error rate. A missing bad series is a zero only where requests are known to be there.
pub(super) fn share(total: &str, bad: &str, window: Duration, facts: &Facts<'_>) -> Planned {
    let (total, bad) = both(total, bad, facts)?;
    let span = promql(window);
    let all = format!("sum(rate({total}[{span}]))");
    let expressions = vec![
        (Role::Value, format!("((sum(rate({bad}[{span}])) or {all} * 0) / {all})")),
        (Role::Requests, format!("sum(increase({total}[{span}]))")),
    ];
    Ok((What::Scalar(Scalar::Share { total }), expressions))
}

/// Plans the scripts' latency.
pub(super) fn quantile(rule: &LatencyRule, window: Duration, facts: &Facts<'_>) -> Planned {
    let bound = Bound::new(rule.threshold, rule.unit);
    let histogram = fill(&rule.buckets, facts)?;
    let span = promql(window);
    let (sampled, rate, requests) = match rule.histogram {
        Histogram::Classic => {
            let all = with_matcher(&histogram, &format!(r#"le=~"{ALL}""#))?;
            (
                all.clone(),
                format!("sum by (le) (rate({histogram}[{span}]))"),
                format!("sum(increase({all}[{span}]))"),
            )
        }
        Histogram::Native => (
            histogram.clone(),
            format!("sum(rate({histogram}[{span}]))"),
            format!("histogram_count(sum(increase({histogram}[{span}])))"),
        ),
    };
    let expressions = vec![
        (
            Role::Value,
            format!("(histogram_quantile({}, {rate}){})", rule.quantile, seconds(rule.unit)),
        ),
        (Role::Requests, requests),
    ];
    let what = What::Scalar(Scalar::Quantile {
        histogram,
        kind: rule.histogram,
        sampled,
        bound,
        quantile: rule.quantile,
    });
    Ok((what, expressions))
}

/// What makes seconds of a histogram's unit.
pub(super) fn seconds(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Seconds => "",
        TimeUnit::Milliseconds => " / 1000",
    }
}

/// A span as PromQL writes it: `2m`, `90s`, `1500ms`.
pub(super) fn promql(span: Duration) -> String {
    let millis = span.as_millis().max(1);
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// In parentheses, so that operators bind within.
fn enclosed(text: &str) -> String {
    let end = if text.contains('#') { "\n" } else { "" };
    format!("({text}{end})")
}

/// The first plain selector that is read over a range, `name{..}` of `name{..}[5m]`; `None` when there is none to be seen.
fn ranged(text: &str) -> Option<&str> {
    let (mut start, mut quote, mut in_braces, mut before) = (None, None, false, ' ');
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        match (quote, c) {
            (Some('"' | '\''), '\\') => _ = chars.next(),
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '{') => {
                in_braces = true;
                start = start.or(Some(at));
            }
            (None, '}') => in_braces = false,
            (None, _) if in_braces => {}
            (None, '[') => {
                if let Some(start) = start {
                    return text.get(start..at).map(str::trim_end);
                }
            }
            (None, _) if is_name(c) && !is_name(before) => start = Some(at),
            (None, _) if is_name(c) || c.is_whitespace() => {}
            (None, _) => start = None,
        }
        before = c;
    }
    None
}

/// The same read for an expression of the scalar type.
pub(super) fn as_vector(read: &Read) -> Read {
    let wrap = |(role, text): &(Role, String)| (*role, format!("vector{text}"));
    Read {
        expressions: read.expressions.iter().map(wrap).collect(),
        ..read.clone()
    }
}

/// What an answer says of one number. Without `before`, which another question brings.
pub(super) fn reading(read: &Read, query: &Query<'_>, sorted: &Sorted<'_>) -> Reading {
    judge(read, query, sorted).unwrap_or_else(Reading::Absent)
}

fn judge(read: &Read, query: &Query<'_>, sorted: &Sorted<'_>) -> Result<Reading, Absence> {
    let of = |role: Role| read.expression(role).map(|expression| sorted.of(query, expression));
    let (at, value) = one(of(Role::Value).unwrap_or_default())?;
    let long = of(Role::Long).map(one).transpose()?.map(|(_, long)| long);
    // It only gates: where it cannot be told, nothing is let through or held back by a guess.
    let requests = of(Role::Requests)
        .and_then(|samples| one(samples).ok())
        .map(|(_, requests)| requests)
        .filter(|requests| *requests >= 0.0);
    let value = match &read.what {
        What::Scalar(Scalar::Share { .. }) if value > SHARE_IMPOSSIBLE => return Err(Absence::Impossible),
        What::Scalar(Scalar::Share { .. }) => unsigned(value)?.min(1.0),
        What::Scalar(Scalar::Quantile { .. }) => unsigned(value)?,
        _ => value,
    };
    Ok(Reading::Scalar {
        sample_at: time(at).ok_or(Absence::Nan)?,
        value,
        long,
        before: None,
        requests,
    })
}

fn unsigned(value: f64) -> Result<f64, Absence> {
    if value < 0.0 { Err(Absence::Negative) } else { Ok(value) }
}

/// Time of evaluation and value of the only sample. Below zero is a number like any other.
pub(super) fn one(samples: &[&Sample]) -> Result<(f64, f64), Absence> {
    match samples {
        [] => Err(Absence::Empty),
        [only] => match only.value.as_ref().map(|(at, text)| (*at, number(text))) {
            None if !only.values.is_empty() => Err(Absence::Error(RANGE.to_owned())),
            None => Err(Absence::Error(
                "the answer is a native histogram and no number: take one from it, with histogram_quantile, histogram_count or histogram_sum"
                    .to_owned(),
            )),
            Some((_, value)) if value.is_nan() => Err(Absence::Nan),
            Some((_, value)) if value.is_infinite() => Err(Absence::Infinite),
            Some(found) => Ok(found),
        },
        [first, ..] if !first.values.is_empty() => Err(Absence::Error(RANGE.to_owned())),
        [first, second, ..] => Err(Absence::Ambiguous(format!(
            "{} series where one is needed, such as {} and {}: aggregate the expression into one, with sum(..), max(..) or avg(..)",
            samples.len(),
            labels(first),
            labels(second)
        ))),
    }
}

/// A sample's own labels as PromQL writes them, cut to what fits a sentence.
fn labels(sample: &Sample) -> String {
    let mut own: Vec<String> = sample
        .metric
        .iter()
        .filter(|(name, _)| name.as_str() != TAG && name.as_str() != "__name__")
        .map(|(name, text)| format!("{name}={text:?}"))
        .collect();
    own.sort();
    let more = if own.len() > 4 { ", .." } else { "" };
    own.truncate(4);
    format!("{{{}{more}}}", own.join(", "))
}

/// What a refusal of a hand-written expression means, where the server's words would speak of what was added to it.
pub(super) fn refusal(why: &str) -> String {
    if why.contains("got range vector") {
        return RANGE.to_owned();
    }
    if why.contains("got string") {
        return "the expression is a text and no number".to_owned();
    }
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::{Judging, RuleKind, RuleName, RuleSpec},
        observe::plan::{Plan, tests::guard},
    };

    fn planned(expr: &str, windows: Option<Windows>, window: Option<u64>) -> Result<Vec<(Role, String)>, String> {
        let rule = ScalarRule {
            expr: expr.to_owned(),
            window: window.map(Duration::from_secs),
            ..ScalarRule::default()
        };
        let facts = Facts {
            namespace: "shop",
            color: "blue",
            value: "web.blue",
            deployment: Some("web-blue"),
            service: None,
        };
        expression(&rule, windows, &facts).map(|(_, expressions)| expressions)
    }

    #[test]
    fn a_window_is_filled_wherever_it_stands() {
        let windows = Windows {
            short: Duration::from_secs(300),
            long: Duration::from_secs(3600),
        };
        let expr = r#"sum(rate(x{c="{color}"}[{window}])) / sum(x:rate{over="{window}"})"#;
        assert_eq!(
            planned(expr, Some(windows), None).expect("planned"),
            [
                (Role::Value, r#"(sum(rate(x{c="blue"}[5m])) / sum(x:rate{over="5m"}))"#.to_owned()),
                (Role::Long, r#"(sum(rate(x{c="blue"}[1h])) / sum(x:rate{over="1h"}))"#.to_owned()),
            ]
        );
        assert_eq!(planned(expr, None, Some(90)).expect("planned").len(), 1);
        assert!(planned(expr, None, None).expect_err("refused").contains("`windows`"));
        assert!(planned("  ", None, None).is_err());
        assert!(planned("sum({color}_total)", None, None).is_err(), "a placeholder outside quotes");
    }

    #[test]
    fn a_comment_does_not_swallow_what_is_added() {
        assert_eq!(planned("sum(x) # all", None, None).expect("planned")[0].1, "(sum(x) # all\n)");
    }

    #[test]
    fn spans_are_written_as_promql_reads_them() {
        let spans = [90, 60, 7200, 0].map(|seconds| promql(Duration::from_secs(seconds)));
        assert_eq!(spans.join(" "), "90s 1m 2h 1ms");
        assert_eq!(promql(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn the_first_selector_under_a_range_is_found_without_parsing() {
        let cases = [
            ("sum(rate(x[5m]))", Some("x")),
            (
                r#"sum by (pod) (rate(a:b{pod=~"w-[a-z]{2}",q='}['} [1m])) / y"#,
                Some(r#"a:b{pod=~"w-[a-z]{2}",q='}['}"#),
            ),
            (r#"rate({__name__="x"}[1m])"#, Some(r#"{__name__="x"}"#)),
            ("a + on () rate(b[1m])", Some("b")),
            ("max_over_time(sum(x)[5m:1m])", None),
            ("sum(x)", None),
            (r#"x{a="\"[" }"#, None),
        ];
        for (text, selector) in cases {
            assert_eq!(ranged(text), selector, "{text}");
        }
    }

    #[test]
    fn classic_mode_plans_the_scripts_queries() {
        let mut spec = guard("web");
        spec.policy.mode = Judging::Classic;
        let mut native = spec.rules[1].clone();
        if let RuleKind::Latency(latency) = &mut native.kind {
            latency.histogram = Histogram::Native;
            latency.unit = TimeUnit::Milliseconds;
            latency.buckets = r#"http_request_duration_ms{pod=~"{deployment}-.+"}"#.to_owned();
        }
        spec.rules = vec![
            spec.rules[0].clone(),
            spec.rules[1].clone(),
            RuleSpec::new(RuleName::new("native").expect("a name"), native.kind),
        ];
        let plan = Plan::new([&spec]);
        let blue = plan.reads.iter().filter(|read| read.at.color.as_str() == "blue");
        let lines: Vec<String> = blue
            .flat_map(|read: &Arc<Read>| {
                let line = |(role, text): &(Role, String)| format!("{} {role:?}: {text}", read.at.rule);
                read.expressions.iter().map(line).collect::<Vec<_>>()
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
