//! How much time has passed, told twice: what may have passed (streaks and sight age by it) and what surely has
//! (a timer that ends in a flip runs on it). A stepped wall clock may cost a little patience, never a flip.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A gap that no poll can explain: the wall clock was stepped, or the process slept.
const STEP: Duration = Duration::from_secs(15 * 60);
/// The least gap that counts in full; longer ones are the exception even at the slowest poll.
const CREDIT: Duration = Duration::from_secs(60);
/// A wall clock is corrected by so much all the time; only more than that moves our anchors.
const SLEW: Duration = Duration::from_secs(60);

/// The engine's own time, fed by the observations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Clock {
    last: Option<Timestamp>,
    /// All that may have passed since the engine began.
    pub(super) age: Duration,
    /// What surely has.
    pub(super) sure: Duration,
}

/// What the newest observation says about the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// It ran as clocks do.
    Even,
    /// It was stepped by so much beside the one poll that passed; anchors on the wall move along.
    Stepped(SignedDuration),
}

impl Clock {
    /// The time of the newest observation.
    pub(super) fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// Takes the time of an observation; `frozen` time counts for nothing that may fire.
    pub(super) fn advance(&mut self, at: Timestamp, poll: Duration, frozen: bool) -> Tick {
        let Some(last) = self.last.replace(at) else { return Tick::Even };
        let moved = at.duration_since(last);
        let gap = elapsed(at, last);
        let ran = if moved.is_negative() { poll } else { gap };
        self.age = self.age.saturating_add(ran);
        if !frozen && !moved.is_negative() {
            let believed = if gap <= CREDIT.max(poll.saturating_mul(3)) { gap } else { poll };
            self.sure = self.sure.saturating_add(believed);
        }
        if gap > STEP.max(poll.saturating_mul(3)) || elapsed(last, at) > SLEW {
            Tick::Stepped(moved.saturating_sub(SignedDuration::try_from(poll).unwrap_or_default()))
        } else {
            Tick::Even
        }
    }
}

/// The time from `earlier` to `later`; zero if it is the other way round.
pub(super) fn elapsed(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// The instant so much later, at most the end of time.
pub(super) fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// The instant so much earlier, at least the beginning of time.
pub(super) fn before(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

/// The instant moved along with a stepped clock.
pub(super) fn shifted(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(5);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn an_hour_forward_is_surely_one_poll_and_maybe_an_hour() {
        let mut clock = Clock::default();
        clock.advance(at(0), POLL, false);
        assert_eq!(clock.advance(at(3605), POLL, false), Tick::Stepped(SignedDuration::from_secs(3600)));
        assert_eq!((clock.sure, clock.age), (POLL, Duration::from_secs(3605)));
    }

    #[test]
    fn an_hour_back_is_no_time_at_all() {
        let mut clock = Clock::default();
        clock.advance(at(0), POLL, false);
        assert_eq!(
            clock.advance(at(-3595), POLL, false),
            Tick::Stepped(SignedDuration::from_secs(-3600))
        );
        assert_eq!((clock.sure, clock.age), (Duration::ZERO, POLL));
    }

    #[test]
    fn a_slow_poll_counts_in_full_and_frozen_time_never_does() {
        let mut clock = Clock::default();
        clock.advance(at(0), POLL, false);
        assert_eq!(clock.advance(at(40), POLL, false), Tick::Even);
        assert_eq!(clock.advance(at(70), POLL, true), Tick::Even);
        assert_eq!((clock.sure, clock.age), (Duration::from_secs(40), Duration::from_secs(70)));
    }
}
