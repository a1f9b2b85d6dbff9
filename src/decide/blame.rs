//! Whether the release is to blame. A fault that was there before the switch, or that the standby color shows as well,
//! is not mended by switching back; flipping then only adds a disturbance to an outage.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{RuleKind, RuleName};

use super::{
    bound::Share,
    clock::{before, elapsed},
    judge::{Confirmed, Judge},
    limits::{self, Limits},
    meter::Meter,
    number::{Bar, Limit},
};

/// A standby this much as bad as the active color is "just as bad". Below it, switching back at least halves the harm:
/// a total outage is left even for a color that is a little over its threshold.
const JUST_AS_BAD: f64 = 0.5;
/// What is bad now shows in the last minute: two bursts of a fault that comes each half a minute, one scrape of a slow Prometheus.
const NOW: Duration = Duration::from_secs(60);

/// What a rule measured before the switch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Baseline {
    /// Requests.
    Counted {
        /// The bad ones.
        #[serde(with = "super::exact")]
        bad: f64,
        /// All of them.
        #[serde(with = "super::exact")]
        total: f64,
    },
    /// One number, of a rule that compares such.
    Number(#[serde(with = "super::exact")] f64),
}

/// What each rule measured on the color that was active before the switch, in the minutes before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Before {
    measured: BTreeMap<RuleName, Baseline>,
    /// Told from outside, for what was not measured here; good for one switch.
    told: BTreeMap<RuleName, Baseline>,
    /// Whether it may excuse the release; what a ratio is taken to it is in any case.
    excuses: bool,
}

impl Before {
    /// Takes what is told from outside.
    pub(super) fn tell(&mut self, rule: RuleName, baseline: Baseline) {
        self.excuses = true;
        self.told.insert(rule, baseline);
    }

    /// Takes what was measured up to a switch.
    pub(super) fn switched(&mut self, measured: BTreeMap<RuleName, Baseline>, excuses: bool) {
        let mut told = if self.measured.is_empty() {
            std::mem::take(&mut self.told)
        } else {
            BTreeMap::new()
        };
        told.retain(|rule, _| !measured.contains_key(rule));
        *self = Self { measured, told, excuses };
    }

    /// What was bad before the switch explains the minutes after it, not a fault weeks later.
    pub(super) fn excuse_no_more(&mut self) {
        self.excuses = false;
    }

    fn get(&self, rule: &RuleName) -> Option<Baseline> {
        self.measured.get(rule).or_else(|| self.told.get(rule)).copied()
    }

    /// The number of a rule that compares such.
    pub(super) fn number(&self, rule: &RuleName) -> Option<f64> {
        match self.get(rule)? {
            Baseline::Number(number) => Some(number),
            Baseline::Counted { .. } => None,
        }
    }
}

/// What a meter has measured from one time to another, if anything.
///
/// A few seconds are not those minutes: where less than half of them was measured (after a restart, another configuration, an outage of
/// Prometheus), what was over the threshold in the sum only, and most times was not, is left out. A blip would excuse whatever came
/// after it.
pub(super) fn measured(meter: &Meter, judge: &Judge, from: Timestamp, to: Timestamp) -> Option<Baseline> {
    if let Some(number) = meter.numbers.median(from, to) {
        return Some(Baseline::Number(number));
    }
    let share = meter.window.since(from);
    let threshold = limits::share(&judge.rule.kind);
    let (mostly, known) = meter.window.mostly_over(from, threshold);
    let is_blip = known < elapsed(to, from) / 2 && !mostly;
    let Share { bad, total } = share;
    (total > 0.0 && !(is_blip && share.over(threshold))).then_some(Baseline::Counted { bad, total })
}

/// Whether the previous color was surely over the threshold before the switch; `said` is what the source itself says
/// of it now, which goes before what was measured here.
pub(super) fn bad_before(judge: &Judge, before: &Before, said: Option<f64>) -> bool {
    if !before.excuses && said.is_none() {
        return false;
    }
    match said.map(Baseline::Number).or_else(|| before.get(&judge.rule.name)) {
        Some(Baseline::Number(number)) => excuses(&judge.crossed, |limit| beyond_before(limit, number)),
        // Requests say the same of a rule that classic mode compares as one number: its share is the rule's, whatever
        // that number is.
        Some(Baseline::Counted { bad, total }) => judge.limits.sureness.lower(Share { bad, total }) > limits::share(&judge.rule.kind),
        None => false,
    }
}

/// Whether another color is just as bad: over the time in which the active one was found to be bad, and still in the last minute of
/// it. An outage of both that is over on the other color is no excuse for what the release does since. `None` where nothing was
/// measured on the other one.
pub(super) fn just_as_bad(judge: &Judge, found: &Confirmed, active: &Meter, other: &Meter) -> Option<bool> {
    if judge.limits.numbers() {
        return numbers_as_bad(judge, found, active, other);
    }
    let share = other.window.since(found.since);
    // Few probes are no sample of many requests, they are all there is to know: judged as the active color's are.
    let all = matches!(judge.rule.kind, RuleKind::Probe(_));
    let bad = if all {
        share.over(judge.limits.threshold)
    } else {
        surely_over(share, &judge.limits)
    };
    let theirs = share.value()?;
    let ours = active.window.since(found.since).value().unwrap_or(0.0);
    Some(bad && theirs >= JUST_AS_BAD * ours && !mended(judge, found, active, other))
}

/// Whether the other color is better in the last minute, and that by no mere chance; where nothing was measured on it then, it is not.
fn mended(judge: &Judge, found: &Confirmed, active: &Meter, other: &Meter) -> bool {
    let Some(newest) = active.window.newest() else { return false };
    let now = |meter: &Meter| meter.window.ended_after(before(newest, NOW), found.since);
    let theirs = now(other);
    let Some(share) = theirs.value() else { return false };
    let most = if matches!(judge.rule.kind, RuleKind::Probe(_)) {
        share
    } else {
        judge.limits.hunch.upper(theirs)
    };
    now(active).value().is_some_and(|ours| most < JUST_AS_BAD * ours)
}

fn numbers_as_bad(judge: &Judge, found: &Confirmed, active: &Meter, other: &Meter) -> Option<bool> {
    let as_bad = |from: Timestamp| {
        let middle = |meter: &Meter| meter.numbers.median(from, Timestamp::MAX);
        let (ours, theirs) = (middle(active), middle(other)?);
        Some(excuses(&judge.crossed, |limit| as_far_beyond(judge, limit, ours, theirs)))
    };
    let whole = as_bad(found.since)?;
    let now = active.numbers.newest().map(|newest| before(newest, NOW).max(found.since));
    Some(whole && now.and_then(as_bad).unwrap_or(true))
}

fn surely_over(share: Share, limits: &Limits) -> bool {
    limits.sureness.lower(share) > limits.threshold
}

/// An excuse must cover every limit that was crossed: three times the standby's latency is no fault of the fleet, even
/// where the standby is over the absolute limit as well.
fn excuses(crossed: &[Limit], covered: impl Fn(&Limit) -> bool) -> bool {
    !crossed.is_empty() && crossed.iter().all(covered)
}

/// A ratio says that it was better before, or is better elsewhere; only an absolute limit can have been crossed before.
fn beyond_before(limit: &Limit, number: f64) -> bool {
    matches!(limit.bar, Bar::Max(_) | Bar::Min(_)) && limit.crossed(number)
}

fn as_far_beyond(judge: &Judge, limit: &Limit, ours: Option<f64>, theirs: f64) -> bool {
    let ours = ours.unwrap_or(theirs);
    match limit.bar {
        Bar::Max(_) | Bar::ToBefore(_) => limit.crossed(theirs) && (ours <= 0.0 || theirs >= JUST_AS_BAD * ours),
        // Throughput follows the traffic. A color that nobody is sent to serves nobody, however well it would: its 0 is
        // no fault of its own, and would excuse every release that drives users away. The same for any other 0: a rate
        // that must not be 0 is 0 on a color without traffic.
        Bar::Min(_) if matches!(judge.rule.kind, RuleKind::Throughput(_)) || theirs.abs() <= f64::EPSILON => false,
        Bar::Min(_) => limit.crossed(theirs) && (ours <= 0.0 || theirs <= ours / JUST_AS_BAD),
        // Worse than the standby by more than is allowed is not "as bad as the standby".
        Bar::ToStandby(_) => false,
    }
}
