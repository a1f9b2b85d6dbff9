//! A rule and its guard's policy, worked out once into the numbers that the judgement compares with.

use std::time::Duration;

use crate::model::{Action, Judging, Policy, RuleKind, RuleSpec, ScalarRule, Windows};

use super::{
    bound::Sureness,
    number::{Bar, Limit},
    window::Past,
};

/// No streak of one: two breaches are the least that moves traffic, except for a critical rule.
const CONSECUTIVE_MIN: u32 = 2;
/// The confidence, as a fraction, with which one portion of the evidence is no mere chance.
const HUNCH: f64 = 0.8;

/// What one rule is judged by.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) threshold: f64,
    pub(super) sureness: Sureness,
    /// Less than sureness: what is at least no mere chance.
    pub(super) hunch: Sureness,
    /// Breaches in a row.
    pub(super) consecutive: u32,
    /// The longest blip that never rolls back: of the breaches in a row, all but the first and the last lie within it.
    pub(super) forgiven: Duration,
    pub(super) critical: bool,
    /// An interval closes at so many bad requests, so many requests, or so late.
    pub(super) min_bad: f64,
    pub(super) min_requests: f64,
    pub(super) stretch: Duration,
    /// Bad requests that the pooled breaches of the fast path must hold.
    pub(super) fast_bad: f64,
    pub(super) severe_share: f64,
    pub(super) severe_bad: f64,
    pub(super) slow_window: Duration,
    pub(super) slow_hold: Duration,
    pub(super) slow_bad: f64,
    pub(super) warm_up: Duration,
    pub(super) expire: Duration,
    pub(super) blind_after: Duration,
    pub(super) degradation: f64,
    /// What a number is compared with; empty for a rule that counts.
    pub(super) bars: Vec<Bar>,
    /// Classic mode: its breaches make a poll of the guard bad, and make no streak of their own.
    pub(super) polled: bool,
    pub(super) windows: Option<Windows>,
    /// How much evidence is kept.
    pub(super) past: Past,
}

impl Limits {
    /// Works them out.
    pub(super) fn of(rule: &RuleSpec, policy: &Policy) -> Self {
        let share = share(&rule.kind);
        let latency = matches!(rule.kind, RuleKind::Latency(_));
        let bars = bars(&rule.kind, policy.mode);
        // Before anything was compared with a ratio, the ratio itself is all there is to show.
        let first = bars.first().map(|bar| match bar {
            Bar::Max(at) | Bar::Min(at) | Bar::ToStandby(at) | Bar::ToBefore(at) => *at,
        });
        let threshold = first.unwrap_or(share);
        let consecutive = match &rule.kind {
            RuleKind::Endpoints(endpoints) => polls_of(endpoints.down_for, policy.poll),
            _ => policy.consecutive.max(CONSECUTIVE_MIN),
        };
        // "Any violation": a critical counter does not wait for company, and is not diluted by earlier requests.
        let (min_bad, min_requests) = if rule.critical {
            (1.0, 1.0)
        } else {
            let min_bad = f64::from(policy.min_bad.max(1));
            (min_bad, policy.min_requests.map_or_else(|| enough_for(min_bad, share), f64::from))
        };
        Self {
            threshold,
            sureness: Sureness::new(policy.confidence),
            hunch: Sureness::new(HUNCH.min(policy.confidence)),
            consecutive,
            forgiven: forgiven(policy.poll, consecutive),
            // Ten seconds without an endpoint are the breach; there is no single look that is one.
            critical: rule.critical && !matches!(rule.kind, RuleKind::Endpoints(_)),
            min_bad,
            min_requests,
            stretch: policy.stretch,
            fast_bad: min_bad * f64::from(consecutive),
            severe_share: policy.severe_share,
            severe_bad: f64::from(policy.severe_bad),
            slow_window: policy.slow_window,
            slow_hold: policy.slow_hold,
            slow_bad: f64::from(policy.slow_bad),
            warm_up: match (rule.critical, latency) {
                // "Any violation": a release that does harm while it warms up does harm.
                (true, _) => Duration::ZERO,
                (false, true) => policy.warm_up_latency,
                (false, false) => policy.warm_up,
            },
            expire: policy.expire,
            blind_after: policy.blind_after,
            degradation: policy.degradation,
            polled: policy.mode == Judging::Classic && !bars.is_empty() && rule.action == Action::Rollback && !rule.critical,
            // What is critical does not wait for a second opinion; a share that classic mode reads has one window already.
            windows: rule
                .windows
                .filter(|_| !rule.critical && (bars.is_empty() || rule.kind.scalar().is_some())),
            past: past(rule.windows, policy),
            bars,
        }
    }

    /// The limits that do not depend on another number.
    pub(super) fn absolute(&self) -> impl Iterator<Item = Limit> {
        self.bars.iter().filter_map(|bar| match *bar {
            Bar::Max(at) | Bar::Min(at) => Some(Limit {
                bar: *bar,
                at,
                against: None,
            }),
            Bar::ToStandby(_) | Bar::ToBefore(_) => None,
        })
    }

    /// Whether one number is compared, instead of requests being counted.
    pub(super) fn numbers(&self) -> bool {
        !self.bars.is_empty()
    }

    /// Breaches it takes, as shown to people.
    pub(super) fn of_streak(&self) -> u32 {
        if self.critical { 1 } else { self.consecutive }
    }
}

/// The share over which a rule that counts breaches; for one that compares numbers: a share that asks for one request.
pub(super) fn share(kind: &RuleKind) -> f64 {
    match kind {
        RuleKind::ErrorRate(counters) => counters.threshold,
        RuleKind::Availability(counters) => 1.0 - counters.threshold,
        RuleKind::Latency(latency) => latency.share(),
        RuleKind::Probe(probe) => probe.threshold,
        RuleKind::Endpoints(_) => 1.0,
        RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) => f64::INFINITY,
    }
}

/// What a rule compares its number with. In classic mode the shares are numbers too, and a latency is the quantile itself.
fn bars(kind: &RuleKind, mode: Judging) -> Vec<Bar> {
    match kind {
        RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => bars_of(scalar),
        _ if mode == Judging::Intervals => Vec::new(),
        RuleKind::ErrorRate(_) | RuleKind::Availability(_) => vec![Bar::Max(share(kind))],
        RuleKind::Latency(latency) => vec![Bar::Max(latency.threshold.as_secs_f64())],
        RuleKind::Probe(_) | RuleKind::Endpoints(_) => Vec::new(),
    }
}

fn bars_of(scalar: &ScalarRule) -> Vec<Bar> {
    let given = [
        scalar.max.map(Bar::Max),
        scalar.min.map(Bar::Min),
        scalar.max_ratio_to_standby.map(Bar::ToStandby),
        scalar.max_ratio_to_before.map(Bar::ToBefore),
    ];
    let bars: Vec<Bar> = given.into_iter().flatten().collect();
    // The configuration refuses a rule without a limit; one that comes another way never breaches.
    if bars.is_empty() { vec![Bar::Max(f64::MAX)] } else { bars }
}

/// All polls of a streak but the first and the last, less a tenth: polls and scrapes come a little early or late.
fn forgiven(poll: Duration, consecutive: u32) -> Duration {
    let within = poll.saturating_mul(consecutive.saturating_sub(2));
    within.saturating_sub(within / 10)
}

fn past(windows: Option<Windows>, policy: &Policy) -> Past {
    let (short, long) = windows.map_or((Duration::ZERO, Duration::ZERO), |windows| (windows.short, windows.long));
    let fine = policy.slow_window.max(short);
    Past {
        fine,
        whole: fine.max(long),
    }
}

/// Requests among which `min_bad` would just be at the threshold.
fn enough_for(min_bad: f64, threshold: f64) -> f64 {
    if threshold > 0.0 {
        (min_bad / threshold - 1e-6).ceil().max(1.0)
    } else {
        1.0
    }
}

/// Polls that span `time`, both ends counted.
fn polls_of(time: Duration, poll: Duration) -> u32 {
    let polls = time.as_secs_f64() / poll.as_secs_f64().max(0.001);
    // Saturating by definition of `as`; a poll count beyond u32 is a display matter only.
    ((polls - 1e-6).ceil() as u32).saturating_add(1).max(CONSECUTIVE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_requests_make_an_interval_at_five_percent_whatever_the_binary_fraction() {
        let needed = [enough_for(3.0, 0.05), enough_for(3.0, 1.0 - 0.95), enough_for(3.0, 1.0 - 0.99)].map(|n| n as u64);
        assert_eq!(needed, [60, 60, 300]);
    }

    #[test]
    fn ten_seconds_down_at_five_seconds_poll_are_three_looks() {
        assert_eq!(polls_of(Duration::from_secs(10), Duration::from_secs(5)), 3);
        assert_eq!(polls_of(Duration::ZERO, Duration::from_secs(5)), 2);
        assert_eq!(polls_of(Duration::from_secs(10), Duration::ZERO), 10_001);
    }
}
