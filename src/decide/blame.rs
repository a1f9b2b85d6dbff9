//! Whether the release is to blame. A fault that was there before the switch, or that the standby color shows as well,
//! is not mended by switching back; flipping then only adds a disturbance to an outage.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{RuleKind, RuleName};

use super::{
    bound::{Share, Sureness},
    clock::{after, elapsed},
    judge::{Confirmed, Judge},
    limits,
    meter::Meter,
    number::{Bar, Limit},
    window::Window,
};

/// A standby this much as bad as the active color is "just as bad". Below it, switching back at least halves the harm:
/// a total outage is left even for a color that is a little over its threshold.
const JUST_AS_BAD: f64 = 0.5;
/// What is over after so long is forgiven (DECISIONS.md, P14), and excuses nothing.
const BLIP: Duration = Duration::from_secs(5);
/// A fault of both is over on the standby color once it has been well for so long while the active one was not.
const OVER: Duration = Duration::from_secs(30);
/// So many numbers, at least, say so of a rule that compares such.
const OVER_NUMBERS: usize = 3;

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
/// Prometheus), what was over the threshold in the sum only, at fewer looks than not, or no longer than a blip, is left out. It would
/// excuse whatever came after it.
pub(super) fn measured(meter: &Meter, judge: &Judge, from: Timestamp, to: Timestamp) -> Option<Baseline> {
    if let Some(number) = meter.numbers.median(from, to) {
        return Some(Baseline::Number(number));
    }
    let share = meter.window.since(from);
    let threshold = limits::share(&judge.rule.kind);
    let (bad, mostly, known) = meter.window.time_over(from, threshold);
    let is_blip = known < elapsed(to, from) / 2 && !(mostly && bad > BLIP);
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

/// Whether another color is just as bad: over the time in which the active one was found to be bad, and not well since while the active
/// one stayed bad. An outage of both that is over on the other color is no excuse for what the release does after it. `None` where
/// nothing was measured on the other one.
pub(super) fn just_as_bad(judge: &Judge, found: &Confirmed, active: &Meter, other: &Meter) -> Option<bool> {
    if judge.limits.numbers() {
        let middle = |meter: &Meter| meter.numbers.median(found.since, Timestamp::MAX);
        let (ours, theirs) = (middle(active), middle(other)?);
        let as_bad = |limit: &Limit| as_far_beyond(judge, limit, ours, theirs) && !within_again(limit, found.since, active, other);
        return Some(excuses(&judge.crossed, as_bad));
    }
    let sure = Sure::of(judge);
    let share = other.window.since(found.since);
    let theirs = share.value()?;
    let ours = active.window.since(found.since).value().unwrap_or(0.0);
    let bad = sure.over(share, judge.limits.threshold) && theirs >= JUST_AS_BAD * ours;
    Some(bad && !well_again(sure, judge.limits.threshold, found.since, &active.window, &other.window))
}

/// How shares are compared.
#[derive(Clone, Copy, Debug)]
enum Sure {
    /// Few probes are no sample of many requests, they are all there is to know: judged as the active color's are.
    All,
    /// Requests are a sample.
    Sample { sureness: Sureness, hunch: Sureness },
}

impl Sure {
    fn of(judge: &Judge) -> Self {
        match judge.rule.kind {
            RuleKind::Probe(_) => Self::All,
            _ => Self::Sample {
                sureness: judge.limits.sureness,
                hunch: judge.limits.hunch,
            },
        }
    }

    fn over(self, share: Share, threshold: f64) -> bool {
        match self {
            Self::All => share.over(threshold),
            Self::Sample { sureness, .. } => sureness.lower(share) > threshold,
        }
    }

    /// Whether one share is less than half of another, and that by no mere chance.
    fn far_below(self, theirs: Share, ours: Share) -> bool {
        let (Some(least), Some(most)) = (ours.value(), theirs.value()) else {
            return false;
        };
        let (least, most) = match self {
            Self::All => (least, most),
            Self::Sample { hunch, .. } => (hunch.lower(ours), hunch.upper(theirs)),
        };
        most < JUST_AS_BAD * least
    }
}

/// Whether the other color has been well since it was last over the threshold, while the active one stayed bad.
///
/// The two are scraped at different times. What the active color shows counts only where the other one was measured from before its begin
/// until after its end: else a fault of both would be seen on one of them first, and the same at its end.
fn well_again(sure: Sure, threshold: f64, since: Timestamp, active: &Window, other: &Window) -> bool {
    let Some(until) = other.newest(Timestamp::MAX) else { return false };
    let last_bad = other.last_over(threshold, since, until).unwrap_or(since);
    let (theirs, measured) = other.between(last_bad, until);
    let (ours, seen) = active.between(last_bad, until);
    // The slow path looks back: what is well by now is not left for what happened while the other one was well already.
    let newest_bad = active.last_over(threshold, last_bad, until);
    let still = newest_bad.is_some() && newest_bad == active.newest(until);
    measured >= OVER && seen >= OVER && still && sure.over(ours, threshold) && sure.far_below(theirs, ours)
}

/// The same of a limit for numbers: the other color's are within it again, by far, while the active one's are beyond it.
fn within_again(limit: &Limit, since: Timestamp, active: &Meter, other: &Meter) -> bool {
    let Some(until) = other.numbers.newest() else { return false };
    let last_bad = other.numbers.last(since, |number| limit.crossed(number)).unwrap_or(since);
    let from = after(last_bad, Duration::from_nanos(1));
    if elapsed(until, last_bad) < OVER || other.numbers.count(from, until) < OVER_NUMBERS {
        return false;
    }
    let middle = |meter: &Meter| meter.numbers.median(from, until);
    let (Some(ours), Some(theirs)) = (middle(active), middle(other)) else {
        return false;
    };
    let far = match limit.bar {
        Bar::Max(_) | Bar::ToBefore(_) => theirs < JUST_AS_BAD * ours,
        Bar::Min(_) => theirs > ours / JUST_AS_BAD,
        Bar::ToStandby(_) => false,
    };
    far && limit.crossed(ours)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::window::{Past, Piece},
        *,
    };

    const THRESHOLD: f64 = 0.05;
    /// Requests of each color in a second.
    const RATE: f64 = 50.0;
    const PAST: Past = Past {
        fine: Duration::from_secs(300),
        whole: Duration::from_secs(300),
    };

    fn at(tenth: i64) -> Timestamp {
        Timestamp::from_millisecond(tenth * 100).expect("in range")
    }

    /// When a color is scraped, in tenths of a second.
    #[derive(Clone, Copy, Debug)]
    struct Scrape {
        every: i64,
        offset: i64,
    }

    fn scrape() -> impl Strategy<Value = Scrape> {
        (
            prop_oneof![Just(10_i64), Just(50), Just(70), Just(150), Just(250), Just(300)],
            0..300_i64,
        )
            .prop_map(|(every, offset)| Scrape {
                every,
                offset: offset % every,
            })
    }

    /// What a color has shown by a time: `bad` tells how much of a tenth of a second's requests fail.
    fn window(scrape: Scrape, upto: i64, bad: impl Fn(i64) -> f64) -> Window {
        let mut window = Window::default();
        let mut from = scrape.offset;
        while from + scrape.every <= upto {
            let to = from + scrape.every;
            let bad = (from..to).map(&bad).sum::<f64>() * RATE / 10.0;
            let share = Share {
                bad: bad.round(),
                total: scrape.every as f64 * RATE / 10.0,
            };
            window.push(
                Piece {
                    from: at(from),
                    to: at(to),
                    share,
                },
                PAST,
            );
            from = to;
        }
        window
    }

    fn sample() -> Sure {
        Sure::Sample {
            sureness: Sureness::new(0.99),
            hunch: Sureness::new(0.8),
        }
    }

    fn well(active: &Window, other: &Window) -> bool {
        well_again(sample(), THRESHOLD, at(0), active, other)
    }

    proptest! {
        /// Whenever it is asked, and however the scrapes of the two lie: the end of an outage, a fault that comes and goes.
        #[test]
        fn of_two_colors_with_the_same_fault_none_is_well_while_the_other_is_not(
            (ours, theirs) in (scrape(), scrape()),
            share in 0.06..1.0_f64,
            begin in 0..300_i64,
            lasts in 10..2500_i64,
            pause in prop_oneof![Just(i64::MAX / 2), 100..1500_i64],
            upto in 300..6000_i64,
        ) {
            let bad = |tenth: i64| if tenth >= begin && (tenth - begin) % (lasts + pause) < lasts { share } else { 0.001 };
            prop_assert!(!well(&window(ours, upto, bad), &window(theirs, upto, bad)));
        }

        /// From the end of the outage: half a minute, and what the scrapes of both take.
        #[test]
        fn a_color_that_is_well_while_the_other_stays_bad_is_found_to_be(
            (ours, theirs) in (scrape(), scrape()),
            share in 0.15..1.0_f64,
            outage in 100..1500_i64,
        ) {
            let over = |tenth: i64| if tenth < outage { 0.8_f64 } else { 0.0 };
            let upto = outage + 300 + 2 * (ours.every + theirs.every);
            let active = window(ours, upto, |tenth| over(tenth).max(share));
            prop_assert!(well(&active, &window(theirs, upto, over)));
            prop_assert!(!well(&active, &window(theirs, outage, over)), "nobody has looked since");
        }
    }

    #[test]
    fn few_requests_do_not_tell_and_a_release_that_is_well_is_not_blamed() {
        let every = Scrape { every: 50, offset: 0 };
        let outage = |tenth: i64| if tenth < 600 { 0.8_f64 } else { 0.0 };
        let other = window(every, 1000, outage);
        let slightly = |tenth: i64| outage(tenth).max(0.12);
        assert!(well(&window(every, 1000, slightly), &other));
        assert!(!well(&window(every, 1000, outage), &other), "the release is well too");
        let mut few = window(every, 600, outage);
        let share = Share { bad: 0.0, total: 3.0 };
        few.push(
            Piece {
                from: at(600),
                to: at(1000),
                share,
            },
            PAST,
        );
        assert!(!well(&window(every, 1000, slightly), &few), "three requests");
    }
}
