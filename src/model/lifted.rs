//! A person's word that any number of guards may flip for a while: the blast radius is lifted.
//!
//! It is no more than one process's memory would hold, and yet it must not be lost with one: it is said in the middle of an outage, when
//! daemons are restarted and nodes die. So it is kept in the data folder, and replicas tell each other.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// When it was said; of two, the newer holds.
    pub at: Timestamp,
    /// When it ends by itself.
    pub until: Timestamp,
    /// Who said it.
    pub by: String,
    /// Why, in their words.
    #[serde(default)]
    pub reason: String,
}

impl Lifted {
    /// It is good for so long; afterwards it has to be said again.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    /// Whether it is in force. One that would be for longer than anybody may say is another clock's, or nonsense.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        let left = Duration::try_from(self.until.duration_since(now)).unwrap_or_default();
        !left.is_zero() && left <= Self::MAX
    }

    /// Whether it was said after another.
    #[must_use]
    pub fn is_newer_than(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| self.at > other.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(at: i64, until: i64) -> Lifted {
        let second = |second| Timestamp::from_second(second).expect("in range");
        Lifted {
            at: second(at),
            until: second(until),
            by: "ann".into(),
            reason: String::new(),
        }
    }

    #[test]
    fn it_ends_and_never_lasts_longer_than_anybody_may_say() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let word = word(0, 600);
        assert!(word.holds(at(0)) && word.holds(at(599)) && !word.holds(at(600)) && !word.holds(at(10_000)));
        assert!(!self::word(0, 3 * 24 * 3600).holds(at(0)));
    }

    #[test]
    fn of_two_the_newer_holds() {
        assert!(word(2, 3).is_newer_than(Some(&word(1, 900))) && !word(1, 900).is_newer_than(Some(&word(1, 900))));
        assert!(word(0, 0).is_newer_than(None));
    }
}
