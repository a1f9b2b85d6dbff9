//! The slow path: a fault that comes and goes never makes three breaches in a row, yet minutes of it are not noise.
//!
//! The last five minutes (never before the switch) must be surely over the threshold, for two minutes, and the newest
//! two of them must be over it as well: one short blip leaves a long shadow in the window, and is long over by then.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    bound::Share,
    clock::{Clock, before},
    limits::Limits,
    window::Window,
};

/// Where the slow path stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Slow {
    over: Option<Duration>,
    looked: Duration,
    /// The window's evidence, and when it starts, once the path is confirmed.
    pub(super) confirmed: Option<(Timestamp, Share)>,
}

impl Slow {
    /// Looks at the window after new evidence; nothing before `floor` counts, and nothing is confirmed unless the rule's
    /// own two windows `agree`.
    pub(super) fn look(&mut self, window: &Window, floor: Timestamp, now: Timestamp, agree: bool, clock: &Clock, limits: &Limits) {
        self.looked = clock.age;
        let from = before(now, limits.slow_window).max(floor);
        let share = window.since(from);
        let sure = share.bad >= limits.slow_bad && limits.sureness.lower(share) > limits.threshold;
        if !sure {
            self.over = None;
            self.confirmed = None;
            return;
        }
        let since = *self.over.get_or_insert(clock.sure);
        let held = clock.sure.saturating_sub(since) >= limits.slow_hold;
        let present = window.since(before(now, limits.slow_hold).max(floor)).over(limits.threshold);
        self.confirmed = (held && present && agree).then_some((from, share));
    }

    /// Forgets a hold that no evidence has renewed for too long.
    pub(super) fn expire(&mut self, clock: &Clock, limits: &Limits) {
        if self.over.is_some() && clock.age.saturating_sub(self.looked) >= limits.expire {
            *self = Self::default();
        }
    }
}
