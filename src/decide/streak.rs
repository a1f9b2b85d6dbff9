//! Breaches in a row, per rule. Only a pass ends a streak, or time; a poll without a verdict holds it.
//!
//! Targets are scraped one after another, so one blip arrives in several looks: intervals that share no request may well
//! share a moment. A streak therefore only counts as lasting with evidence that began when such a blip would have been
//! over, on targets that were scraped again since.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{bound::Share, clock::after, interval::Closed, limits::Limits};

/// Breaches remembered for pooling: five minutes of one per second are not surer than these.
const POOLED_MAX: usize = 120;

/// Breaches in a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Streak {
    /// How many.
    pub(super) count: u32,
    /// How many severe ones, warm-up included.
    pub(super) severe: u32,
    /// When the first severe one began, and when its evidence ended.
    severe_from: Option<(Timestamp, Timestamp)>,
    /// When the newest breach's evidence ended.
    #[serde(default)]
    to: Option<Timestamp>,
    /// Whether some bad evidence of a breach began before the evidence of the one before it had ended, so that both may
    /// show the same moment.
    #[serde(default)]
    staggered: bool,
    /// When the evidence ended with which the breaches were no mere chance any more.
    #[serde(default)]
    likely_to: Option<Timestamp>,
    /// Evidence, by breach, that began so long after it that one short blip cannot be in both.
    #[serde(default)]
    late: VecDeque<Share>,
    breaches: VecDeque<(Timestamp, Share)>,
    last: Duration,
}

/// Breaches taken together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pooled {
    pub(super) from: Timestamp,
    pub(super) bound: f64,
    /// Whether the bound is over the threshold and the evidence reaches its floor.
    pub(super) sure: bool,
}

impl Streak {
    /// One more breach.
    pub(super) fn breach(&mut self, from: Timestamp, share: Share, age: Duration) {
        self.count = self.count.saturating_add(1);
        self.last = age;
        if self.breaches.len() == POOLED_MAX {
            self.breaches.pop_front();
        }
        self.breaches.push_back((from, share));
    }

    /// Tells whether a closed interval is severe, and counts it.
    pub(super) fn weigh(&mut self, closed: &Closed, limits: &Limits, age: Duration) -> bool {
        let severe =
            closed.share.reaches(limits.severe_share) && closed.share.bad >= limits.severe_bad && closed.share.over(limits.threshold);
        match self.severe_from {
            _ if !severe => (self.severe, self.severe_from) = (0, None),
            None => (self.severe, self.severe_from) = (1, Some((closed.from, closed.to))),
            // Later evidence only: the same blip shows on targets that are scraped later.
            Some((_, to)) if closed.since(to).reaches(limits.severe_share) => self.severe = self.severe.saturating_add(1),
            Some(_) => {}
        }
        if severe {
            self.last = age;
        }
        severe
    }

    /// Takes note of when the evidence of the newest breach was gathered.
    pub(super) fn lasts(&mut self, closed: &Closed, limits: &Limits) {
        let overlaps = |to: Timestamp| closed.pieces.iter().any(|piece| piece.share.bad > 0.0 && piece.from < to);
        self.staggered |= self.to.is_some_and(overlaps);
        self.to = Some(closed.to);
        match self.likely_to {
            None if likely(self.breaches.iter().map(|(_, share)| share), limits) => self.likely_to = Some(closed.to),
            None => {}
            Some(to) => {
                if self.late.len() == POOLED_MAX {
                    self.late.pop_front();
                }
                self.late.push_back(closed.since(after(to, limits.forgiven)));
            }
        }
    }

    /// Whether it is still bad at a time when a blip that is forgiven would have been over. Breaches whose evidence is
    /// disjoint in time have shown that by their number. Elsewhere neither what was before the blip nor what came after
    /// may be chance: else a blip and one unlucky interval beside it would do.
    pub(super) fn lasted(&self, limits: &Limits) -> bool {
        // Of two in a row no blip is forgiven at all, so none has to be over.
        !self.staggered || limits.forgiven.is_zero() || likely(self.late.iter(), limits)
    }

    /// After a clock step, whatever is counted anew is later.
    pub(super) fn rebase(&mut self) {
        self.to = self.to.map(|_| Timestamp::MIN);
        self.likely_to = self.likely_to.map(|_| Timestamp::MIN);
        self.severe_from = self.severe_from.map(|(from, _)| (from, Timestamp::MIN));
    }

    /// When the severe intervals in a row began.
    pub(super) fn severe_from(&self) -> Option<Timestamp> {
        self.severe_from.map(|(from, _)| from)
    }

    /// When the oldest breach that is remembered began.
    pub(super) fn from(&self) -> Option<Timestamp> {
        self.breaches.front().map(|(from, _)| *from)
    }

    /// A pass, or a switch.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Ends the streak if there was no new breach for too long, and tells how long it was.
    pub(super) fn expire(&mut self, age: Duration, after: Duration) -> Option<u32> {
        let length = self.count.max(self.severe);
        if length == 0 || age.saturating_sub(self.last) < after {
            return None;
        }
        self.end();
        Some(length)
    }

    /// The surest pool of the last m breaches, for any m of at least `consecutive` (or of all, while there are fewer).
    pub(super) fn pooled(&self, limits: &Limits) -> Option<Pooled> {
        let least = (limits.consecutive as usize).min(self.breaches.len());
        let mut sum = Share::default();
        let mut best: Option<Pooled> = None;
        for (index, (from, share)) in self.breaches.iter().rev().enumerate() {
            sum = sum.plus(*share);
            if index + 1 < least {
                continue;
            }
            let bound = limits.sureness.lower(sum);
            let sure = bound > limits.threshold && sum.bad >= limits.fast_bad;
            let better = best.is_none_or(|best| (sure, bound) > (best.sure, best.bound));
            if better {
                best = Some(Pooled { from: *from, bound, sure });
            }
        }
        best
    }
}

/// Whether the newest of these shares, taken together, are likely over the threshold, for some number of them.
fn likely<'a>(shares: impl DoubleEndedIterator<Item = &'a Share>, limits: &Limits) -> bool {
    let mut sum = Share::default();
    shares.rev().any(|share| {
        sum = sum.plus(*share);
        sum.bad >= limits.min_bad && limits.hunch.lower(sum) > limits.threshold
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::window::Piece,
        model::{CounterRule, Policy, RuleKind, RuleName, RuleSpec},
    };

    fn limits() -> Limits {
        let counters = CounterRule {
            threshold: 0.05,
            total: String::new(),
            bad: String::new(),
        };
        let name = RuleName::new("error_rate").expect("valid");
        Limits::of(&RuleSpec::new(name, RuleKind::ErrorRate(counters)), &Policy::default())
    }

    /// An interval of one target's sample: 100 requests per second from `from` to `to`, so many bad.
    fn closed(from: i64, to: i64, bad: f64) -> Closed {
        let at = |second| Timestamp::from_second(1_000_000 + second).expect("in range");
        let share = Share {
            bad,
            total: (to - from) as f64 * 100.0,
        };
        let piece = Piece {
            from: at(from),
            to: at(to),
            share,
        };
        Closed {
            from: piece.from,
            to: piece.to,
            early: false,
            share,
            pieces: vec![piece],
        }
    }

    fn streak(intervals: &[Closed]) -> (Streak, Limits) {
        let (mut streak, limits) = (Streak::default(), limits());
        for closed in intervals {
            streak.weigh(closed, &limits, Duration::ZERO);
            streak.breach(closed.from, closed.share, Duration::ZERO);
            streak.lasts(closed, &limits);
        }
        (streak, limits)
    }

    #[test]
    fn one_blip_on_targets_that_are_scraped_one_after_another_does_not_last() {
        // Five seconds of errors, from 0 to 5; three targets, each scraped every 15 s, five seconds apart.
        let blip = [closed(-10, 5, 500.0), closed(-5, 10, 500.0), closed(0, 15, 500.0)];
        let (streak, limits) = streak(&blip);
        assert_eq!(streak.count, 3);
        assert!(streak.pooled(&limits).expect("breaches").sure);
        assert!(!streak.lasted(&limits));
    }

    #[test]
    fn a_fault_that_goes_on_lasts_with_the_first_target_that_is_scraped_again() {
        let fault = [
            closed(-10, 5, 500.0),
            closed(-5, 10, 1000.0),
            closed(0, 15, 1500.0),
            closed(10, 25, 1500.0),
        ];
        let (streak, limits) = streak(&fault);
        assert!(streak.lasted(&limits));
    }

    #[test]
    fn one_target_scraped_at_every_poll_takes_no_longer_than_three_breaches() {
        let (streak, limits) = streak(&[closed(0, 5, 50.0), closed(5, 10, 50.0), closed(10, 15, 50.0)]);
        assert!(streak.lasted(&limits));
    }

    #[test]
    fn breaches_that_share_no_moment_need_no_more_than_their_number() {
        // The third is over the threshold by little, and might be chance alone; what counts is the three together.
        let (streak, limits) = streak(&[closed(0, 2, 20.0), closed(2, 4, 20.0), closed(4, 6, 11.0)]);
        assert!(streak.pooled(&limits).expect("breaches").sure);
        assert!(streak.lasted(&limits));
    }

    #[test]
    fn the_same_outage_seen_on_two_targets_is_severe_once() {
        let outage = [closed(0, 15, 1500.0), closed(5, 20, 1500.0)];
        assert_eq!(streak(&outage).0.severe, 1);
        let outage = [closed(0, 15, 1500.0), closed(5, 20, 1500.0), closed(15, 30, 1500.0)];
        assert_eq!(streak(&outage).0.severe, 2);
    }
}
