//! Sentences on one number and its limits, with its unit: `throughput 12 req/s under 100 req/s`.

use std::time::Duration;

use crate::model::{RuleKind, RuleSpec};

use super::{
    super::{
        limits::Limits,
        number::{Bar, Limit, Number},
    },
    count, percent, places, quantile, span, trimmed,
};

/// Digits of a number that people read; two numbers that differ are told with as many as it takes to tell them apart.
const DIGITS: i32 = 4;
const DIGITS_MAX: i32 = 16;

/// A number with the digits that matter.
pub(in super::super) fn number(number: f64) -> String {
    digits(number, DIGITS)
}

fn digits(number: f64, digits: i32) -> String {
    let size = number.abs();
    if size >= 1e15 || (size > 0.0 && size < 1e-6) {
        format!("{number:e}")
    } else if size > 0.0 {
        trimmed(number, places(number, digits))
    } else {
        "0".to_owned()
    }
}

/// What is measured, as it is called: the rule's name, or in classic mode what the kind is.
fn subject(rule: &RuleSpec) -> String {
    match &rule.kind {
        RuleKind::ErrorRate(_) => "error rate".to_owned(),
        RuleKind::Availability(_) => "availability".to_owned(),
        RuleKind::Latency(latency) => quantile(latency.quantile),
        _ => rule.name.to_string(),
    }
}

/// A number in the rule's unit.
fn amount(rule: &RuleSpec, value: f64, to: i32) -> String {
    match &rule.kind {
        RuleKind::ErrorRate(_) => percent(value),
        RuleKind::Availability(_) => percent(1.0 - value),
        RuleKind::Latency(_) => span(Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX)),
        kind => match kind.scalar().and_then(|scalar| scalar.unit.as_deref()) {
            Some(unit) => format!("{} {unit}", digits(value, to)),
            None => digits(value, to),
        },
    }
}

/// Two numbers such that one sees that they differ.
fn apart(rule: &RuleSpec, value: f64, limit: f64) -> (String, String) {
    let told = |to| (amount(rule, value, to), amount(rule, limit, to));
    let mut to = DIGITS;
    while to < DIGITS_MAX && told(to).0 == told(to).1 && value.total_cmp(&limit).is_ne() {
        to += 1;
    }
    told(to)
}

fn ratio(limit: &Limit, value: f64) -> Option<(&'static str, f64, f64, f64)> {
    let (whose, allowed) = match limit.bar {
        Bar::ToStandby(allowed) => ("standby's", allowed),
        Bar::ToBefore(allowed) => ("what it was before the switch", allowed),
        Bar::Max(_) | Bar::Min(_) => return None,
    };
    limit.against.map(|against| (whose, allowed, against, value / against))
}

/// `p95 1.4 x standby's (420 ms against 300 ms)`, and the allowed ratio.
fn multiple(rule: &RuleSpec, value: f64, limit: &Limit) -> Option<(String, String)> {
    let (whose, allowed, against, times) = ratio(limit, value)?;
    let mut to = 2;
    while to < DIGITS_MAX && digits(times, to) == digits(allowed, to) && times.total_cmp(&allowed).is_ne() {
        to += 1;
    }
    let (value, against) = apart(rule, value, against);
    let times = digits(times, to);
    Some((
        format!("{} {times} x {whose} ({value} against {against})", subject(rule)),
        format!("{} x", digits(allowed, DIGITS)),
    ))
}

/// A number beyond a limit.
pub(in super::super) fn beyond(rule: &RuleSpec, number: &Number, limit: &Limit, limits: &Limits) -> String {
    let text = match multiple(rule, number.value, limit) {
        Some((said, allowed)) => format!("{said}, allowed {allowed}"),
        None => {
            let (value, at) = apart(rule, number.value, limit.at);
            format!("{} {value} {} {at}", subject(rule), side(rule, limit))
        }
    };
    text + &over_long(rule, number, limits)
}

fn side(rule: &RuleSpec, limit: &Limit) -> &'static str {
    if limit.below() || super::complement(rule) {
        "under"
    } else {
        "over"
    }
}

/// The number over the long window, where the rule has two.
fn over_long(rule: &RuleSpec, number: &Number, limits: &Limits) -> String {
    let told = limits.windows.zip(number.long);
    told.map_or_else(String::new, |(windows, long)| {
        let (short, span) = (span(windows.short), span(windows.long));
        format!(" in the last {short} and {} in the last {span}", amount(rule, long, DIGITS))
    })
}

/// A number within its nearest limit.
pub(in super::super) fn within(rule: &RuleSpec, number: &Number, limit: &Limit, limits: &Limits) -> String {
    // Beyond its limit in one window only: the number alone would read as a breach.
    if limit.crossed(number.value) && limits.windows.is_some() {
        return beyond(rule, number, limit, limits) + ", not in both";
    }
    if let Some((said, allowed)) = multiple(rule, number.value, limit) {
        return format!("{said}, within {allowed}");
    }
    let (value, at) = apart(rule, number.value, limit.at);
    let within = if side(rule, limit) == "under" { "not under" } else { "within" };
    format!("{} {value}, {within} {at}", subject(rule))
}

/// A number near a limit.
pub(in super::super) fn nearly(rule: &RuleSpec, value: f64, limit: &Limit) -> String {
    let (value, at) = apart(rule, value, limit.at);
    format!("{} {value}, near its threshold of {at}", subject(rule))
}

/// Fewer requests than a number is believed of.
pub(in super::super) fn few(requests: f64, limits: &Limits) -> String {
    format!("{} requests in the window, {} needed", count(requests), count(limits.min_requests))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RuleName, ScalarRule};

    fn rule(name: &str, unit: &str) -> RuleSpec {
        let scalar = ScalarRule {
            unit: Some(unit.to_owned()).filter(|unit| !unit.is_empty()),
            ..ScalarRule::default()
        };
        RuleSpec::new(RuleName::new(name).expect("valid"), RuleKind::Promql(scalar))
    }

    fn limits() -> Limits {
        Limits::of(&rule("x", ""), &crate::model::Policy::default())
    }

    fn said(rule: &RuleSpec, bar: Bar, at: f64, against: Option<f64>, value: f64) -> String {
        let number = Number {
            value,
            ..Number::default()
        };
        beyond(rule, &number, &Limit { bar, at, against }, &limits())
    }

    #[test]
    fn numbers_carry_four_digits_and_their_unit() {
        let numbers = [0.0, 12.0, 1.25, 0.000_25, 123_456.7, -3.5, 1e20, 2.5e-9].map(number);
        assert_eq!(numbers.join(" "), "0 12 1.25 0.00025 123457 -3.5 1e20 2.5e-9");
        let throughput = rule("throughput", "req/s");
        assert_eq!(
            said(&throughput, Bar::Min(100.0), 100.0, None, 12.0),
            "throughput 12 req/s under 100 req/s"
        );
    }

    #[test]
    fn a_number_just_beyond_its_limit_reads_so() {
        let heap = rule("heap", "");
        assert_eq!(said(&heap, Bar::Max(100.0), 100.0, None, 100.004), "heap 100.004 over 100");
        assert_eq!(
            said(&heap, Bar::ToStandby(1.2), 120.0, Some(100.0), 120.1),
            "heap 1.201 x standby's (120.1 against 100), allowed 1.2 x"
        );
    }

    #[test]
    fn a_ratio_names_both_numbers() {
        let p95 = rule("p95", "ms");
        assert_eq!(
            said(&p95, Bar::ToStandby(1.2), 360.0, Some(300.0), 420.0),
            "p95 1.4 x standby's (420 ms against 300 ms), allowed 1.2 x"
        );
        assert_eq!(
            said(&p95, Bar::ToBefore(1.2), 360.0, Some(300.0), 420.0),
            "p95 1.4 x what it was before the switch (420 ms against 300 ms), allowed 1.2 x"
        );
    }
}
