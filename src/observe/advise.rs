//! What a person should look at, in sentences: scrapes that are too slow, windows that are too short, limits that are too near. Pure.
//!
//! A warning never stops anything: it says what will be late, or wake somebody for nothing.

use std::time::Duration;

use super::{inspect::QueryReport, scalar::promql};
use crate::model::{Judging, Policy, RuleKind, RuleSpec, ScalarRule};

/// A threshold should be so many times the usual bad share.
const HEADROOM: f64 = 2.5;

/// A window must hold so many samples to survive a missed scrape.
const SAMPLES_PER_WINDOW: u32 = 4;

/// A scrape spacing over which detection suffers visibly.
const SPACING_ADVISED: Duration = Duration::from_secs(15);

/// A number in words, with what it counts.
pub fn figure(number: f64, unit: Option<&str>) -> String {
    let magnitude = number.abs();
    let digits = match magnitude {
        m if m >= 1000.0 || m.fract() == 0.0 => 0,
        m if m >= 1.0 => 2,
        _ => 4,
    };
    let unit = unit.map_or_else(String::new, |unit| format!(" {unit}"));
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// `spacing / 2 + (N - 1) x max(spacing, poll) + poll / 2`.
pub(super) fn time_to_detect(spacing: Duration, policy: &Policy) -> Duration {
    spacing / 2 + spacing.max(policy.poll) * policy.consecutive.saturating_sub(1) + policy.poll / 2
}

pub(super) fn is_power_of_two(bound: f64) -> bool {
    let exponent = bound.log2();
    (exponent - exponent.round()).abs() < 1e-9
}

pub(super) fn nearest_power_of_two(bound: f64) -> f64 {
    bound.log2().round().exp2()
}

/// What a rule's number counts.
pub(super) fn unit(rule: &RuleSpec) -> Option<String> {
    match &rule.kind {
        RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => scalar.unit.clone(),
        RuleKind::Latency(_) => Some("s".to_owned()),
        RuleKind::ErrorRate(_) | RuleKind::Availability(_) => Some("bad, as a fraction".to_owned()),
        RuleKind::Probe(_) | RuleKind::Endpoints(_) => None,
    }
}

/// The shortest span that a rule's number looks back over.
pub(super) fn window(rule: &RuleSpec, policy: &Policy) -> Option<Duration> {
    match (&rule.kind, policy.mode) {
        (RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar), _) => {
            rule.windows.map(|windows| windows.short).or(scalar.window)
        }
        (RuleKind::ErrorRate(_) | RuleKind::Availability(_), Judging::Classic) => Some(policy.window),
        (RuleKind::Latency(_), Judging::Classic) => Some(policy.window_latency),
        _ => None,
    }
}

/// What is said of a window that holds too few samples.
pub(super) fn narrow(window: Duration, spacing: Duration) -> Option<String> {
    // Spacings are measured, so that 15 s are 14.99 s.
    let least = spacing.as_secs_f64().round() * f64::from(SAMPLES_PER_WINDOW);
    (window.as_secs_f64() < least).then(|| {
        format!(
            "the window of {} is shorter than 4 scrapes ({least} s): a missed scrape leaves too little to compute a rate from; widen it, or scrape more often",
            promql(window)
        )
    })
}

/// What is said of a scrape that is too slow.
pub(super) fn sluggish(spacing: Duration, detect: Duration) -> Option<String> {
    // Spacings are measured, so that 15 s are 15.004 s.
    (spacing.as_secs_f64().round() > SPACING_ADVISED.as_secs_f64()).then(|| {
        format!(
            "scraped every {} s: a total outage takes about {} s to decide; set interval 5s on this ServiceMonitor",
            spacing.as_secs_f64().round(),
            detect.as_secs_f64().round()
        )
    })
}

pub(super) fn slow_scrape(report: &mut QueryReport) {
    if let (Some(spacing), Some(detect)) = (report.scrape_spacing, report.time_to_detect) {
        report.warnings.extend(sluggish(spacing, detect));
    }
}

/// A share over which a rule breaches should be well over the usual one.
pub(super) fn headroom(report: &mut QueryReport, rule: &RuleSpec) {
    let allowed = match &rule.kind {
        RuleKind::ErrorRate(rule) => rule.threshold,
        RuleKind::Availability(rule) => 1.0 - rule.threshold,
        RuleKind::Latency(rule) => rule.share(),
        RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) | RuleKind::Probe(_) | RuleKind::Endpoints(_) => return,
    };
    if let Some(share) = report.bad_share.filter(|share| allowed < HEADROOM * share) {
        report.warnings.push(format!(
            "{:.2} % were bad lately, and {:.2} % are allowed: leave more room, at least 2.5 times the usual share",
            share * 100.0,
            allowed * 100.0
        ));
    }
}

/// What is said of a number that is over its limits, or nearly so.
///
/// The factor of 2.5 is for shares of rare events, whose chance makes them wander by as much. A number may be anything: a queue, a
/// temperature, a share of a resource at 50 % with a limit at 80 %. So it is told here as "degraded" is told to people by the daemon.
pub(super) fn close(number: f64, rule: &ScalarRule, policy: &Policy) -> Vec<String> {
    let unit = rule.unit.as_deref();
    let (now, near) = (figure(number, unit), policy.degradation);
    let mut said = Vec::new();
    if let Some(max) = rule.max {
        let limit = figure(max, unit);
        if number > max {
            said.push(format!("{now} is over the maximum of {limit} right now: the rule would breach"));
        } else if max > 0.0 && number > max * near {
            said.push(format!("{now} is close to the maximum of {limit}: leave more room"));
        }
    }
    if let Some(min) = rule.min {
        let limit = figure(min, unit);
        if number < min {
            said.push(format!("{now} is under the minimum of {limit} right now: the rule would breach"));
        } else if min > 0.0 && near > 0.0 && number < min / near {
            said.push(format!("{now} is close to the minimum of {limit}: leave more room"));
        }
    }
    said
}
