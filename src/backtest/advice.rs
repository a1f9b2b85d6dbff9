//! What to change before the guard is armed.

use std::time::Duration;

use serde::Serialize;

use super::tally::RuleTally;
use crate::model::{GuardSpec, Judging, Policy, RuleKind, RuleName, RuleSpec, Survey};
use crate::plot::Unit;

/// A threshold should be so many times what 99 % of the calm spans of minutes stay within.
const HEADROOM: f64 = 2.5;

/// A scrape spacing over which detection suffers visibly.
const SPACING_ADVISED: Duration = Duration::from_secs(15);

/// Samples that a window must hold to survive a missed scrape.
const WINDOW_SAMPLES: u32 = 4;

/// Intervals that a suggestion about traffic needs.
const INTERVALS_MIN: u64 = 20;

/// A suggestion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// Which rule it is about.
    pub rule: RuleName,
    /// What it is: `threshold`, `scrape`, `window`, `traffic`, `bucket`, `data`.
    pub about: &'static str,
    /// What was found and what to do.
    pub what: String,
}

/// The bad share that a rule allows; `None` of rules that judge no share.
pub(super) fn allowed(kind: &RuleKind) -> Option<f64> {
    match kind {
        RuleKind::ErrorRate(rule) => Some(rule.threshold),
        RuleKind::Availability(rule) => Some(1.0 - rule.threshold),
        RuleKind::Latency(rule) => Some(rule.share()),
        RuleKind::Probe(rule) => Some(rule.threshold),
        RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) | RuleKind::Endpoints(_) => None,
    }
}

/// The limit as it is drawn. Classic mode compares a quantile of times, in seconds.
pub(super) fn limit(kind: &RuleKind, policy: &Policy) -> Option<f64> {
    match kind {
        RuleKind::Latency(rule) if policy.mode == Judging::Classic => Some(rule.threshold.as_secs_f64()),
        _ => allowed(kind).or_else(|| kind.scalar().and_then(|scalar| scalar.max.or(scalar.min))),
    }
}

/// What the drawn values are.
pub(super) fn unit(kind: &RuleKind, policy: &Policy) -> Unit {
    match kind {
        RuleKind::Latency(_) if policy.mode == Judging::Classic => Unit::Number("s".to_owned()),
        _ => match kind.scalar() {
            Some(scalar) => Unit::Number(scalar.unit.clone().unwrap_or_default()),
            None => Unit::Share,
        },
    }
}

/// Requests at which an interval closes.
pub(super) fn min_requests(kind: &RuleKind, policy: &Policy) -> f64 {
    let enough = |threshold: f64| (f64::from(policy.min_bad) / threshold - 1e-6).ceil().max(1.0);
    let derived = allowed(kind).filter(|threshold| *threshold > 0.0).map_or(1.0, enough);
    policy.min_requests.map_or(derived, f64::from)
}

/// The time from a total outage to a decision: `spacing / 2 + (N - 1) x max(spacing, poll) + poll / 2`.
pub(super) fn time_to_detect(spacing: Duration, policy: &Policy) -> Duration {
    spacing / 2 + spacing.max(policy.poll) * policy.consecutive.saturating_sub(1) + policy.poll / 2
}

/// Everything worth saying about one rule.
pub(super) fn suggestions(spec: &GuardSpec, rule: &RuleSpec, tally: &RuleTally, surveys: &[Survey]) -> Vec<Suggestion> {
    let of_rule: Vec<&Survey> = surveys.iter().filter(|survey| survey.rule == rule.name).collect();
    let spacing = of_rule.iter().filter_map(|survey| survey.spacing).max();
    let found = [
        bucket(&of_rule),
        data(rule, tally, &of_rule),
        threshold(rule, tally),
        traffic(rule, tally, spec),
        scrape(spacing, spec),
        window(rule, spec, spacing),
    ];
    let named = found.into_iter().flatten().map(|(about, what)| Suggestion {
        rule: rule.name.clone(),
        about,
        what,
    });
    named.collect()
}

fn bucket(surveys: &[&Survey]) -> Option<(&'static str, String)> {
    let objection = surveys.iter().find_map(|survey| survey.objection.as_ref())?;
    Some(("bucket", format!("{objection}; as it is, this rule judges nothing")))
}

fn data(rule: &RuleSpec, tally: &RuleTally, surveys: &[&Survey]) -> Option<(&'static str, String)> {
    if let Some((color, why)) = surveys.iter().find_map(|survey| Some((&survey.color, survey.refused.as_ref()?))) {
        return Some(("data", format!("on {color} it cannot be read: {why}")));
    }
    let nothing = tally.judged == 0 && allowed(&rule.kind).is_some() && surveys.iter().all(|survey| survey.objection.is_none());
    nothing.then(|| {
        (
            "data",
            "it was never judged: no series with requests matched its selectors in this time; try them in Prometheus".to_owned(),
        )
    })
}

fn threshold(rule: &RuleSpec, tally: &RuleTally) -> Option<(&'static str, String)> {
    let (allowed, p99) = (allowed(&rule.kind)?, tally.p99()?);
    if tally.intervals < INTERVALS_MIN || p99 <= 0.0 || allowed >= HEADROOM * p99 {
        return None;
    }
    let overall = if tally.total > 0.0 { tally.bad / tally.total } else { 0.0 };
    let wanted = percent(HEADROOM * p99);
    let todo = match &rule.kind {
        RuleKind::Latency(_) => format!("choose a time that fewer are slower than, or a quantile that allows at least {wanted}"),
        _ => format!("allow at least {wanted}, or mend what fails"),
    };
    Some((
        "threshold",
        format!(
            "{} is allowed, and in calm running {} are bad, {} in the worst minutes of a hundred: {todo}",
            percent(allowed),
            percent(overall),
            percent(p99)
        ),
    ))
}

fn traffic(rule: &RuleSpec, tally: &RuleTally, spec: &GuardSpec) -> Option<(&'static str, String)> {
    let thin = tally.thin as f64 / tally.intervals.max(1) as f64;
    if tally.intervals < INTERVALS_MIN || thin <= 0.5 {
        return None;
    }
    let needed = min_requests(&rule.kind, &spec.policy);
    Some((
        "traffic",
        format!(
            "{} of its intervals ended after {} with fewer than the {needed:.0} requests that an interval wants: with so little traffic a decision takes minutes; a longer `stretch` makes intervals surer, a synthetic check makes them fuller",
            percent(thin),
            humantime::format_duration(spec.policy.stretch)
        ),
    ))
}

fn scrape(spacing: Option<Duration>, spec: &GuardSpec) -> Option<(&'static str, String)> {
    let spacing = spacing.filter(|spacing| *spacing > SPACING_ADVISED)?;
    Some((
        "scrape",
        format!(
            "scraped every {:.0} s: a total outage takes about {:.0} s to decide; set interval 5s on this ServiceMonitor and it takes {:.0} s",
            spacing.as_secs_f64(),
            time_to_detect(spacing, &spec.policy).as_secs_f64(),
            time_to_detect(Duration::from_secs(5), &spec.policy).as_secs_f64()
        ),
    ))
}

fn window(rule: &RuleSpec, spec: &GuardSpec, spacing: Option<Duration>) -> Option<(&'static str, String)> {
    let policy = &spec.policy;
    let own = rule.windows.map(|windows| windows.short);
    let window = match &rule.kind {
        RuleKind::Latency(_) if policy.mode == Judging::Classic => Some(policy.window_latency),
        RuleKind::ErrorRate(_) | RuleKind::Availability(_) if policy.mode == Judging::Classic => Some(policy.window),
        kind => kind.scalar().and_then(|scalar| own.or(scalar.window)),
    }?;
    let least = spacing.unwrap_or(SPACING_ADVISED) * WINDOW_SAMPLES;
    (window < least).then(|| {
        (
            "window",
            format!(
                "its window of {} holds fewer than {WINDOW_SAMPLES} samples at a scrape every {}: one missed scrape leaves it without an answer; use at least {}",
                humantime::format_duration(window),
                humantime::format_duration(spacing.unwrap_or(SPACING_ADVISED)),
                humantime::format_duration(least)
            ),
        )
    })
}

/// A share for people.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent.abs() >= 10.0 { 1 } else { 2 };
    let text = format!("{percent:.digits$}");
    format!("{}\u{a0}%", text.trim_end_matches('0').trim_end_matches('.'))
}
