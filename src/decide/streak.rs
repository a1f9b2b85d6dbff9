//! Breaches in a row, per rule. Only a pass ends a streak, or time; a poll without a verdict holds it.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{bound::Share, interval::Closed, limits::Limits};

/// Breaches remembered for pooling: five minutes of one per second are not surer than these.
const POOLED_MAX: usize = 120;

/// Breaches in a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Streak {
    /// How many.
    pub(super) count: u32,
    /// How many severe ones, warm-up included.
    pub(super) severe: u32,
    /// When the first severe one began.
    severe_from: Option<Timestamp>,
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
        if severe {
            self.severe = self.severe.saturating_add(1);
            self.severe_from.get_or_insert(closed.from);
            self.last = age;
        } else {
            self.severe = 0;
            self.severe_from = None;
        }
        severe
    }

    /// When the severe intervals in a row began.
    pub(super) fn severe_from(&self) -> Option<Timestamp> {
        self.severe_from
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
