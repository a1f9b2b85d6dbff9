//! A replica that sees nothing makes room for one that sees. Pure.
//!
//! A node that cannot reach Prometheus cannot judge, and never moves traffic on missing data; while it reaches the API server it would
//! hold its Lease all the same, beside a follower with open eyes. But mostly Prometheus itself is away, and everybody is as blind:
//! replicas notice that some seconds apart, and see again some seconds apart. Nobody makes room for those.

use std::{collections::BTreeMap, time::Duration};

/// What a replica sees of all its guards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Nothing yet, or not enough to say so.
    #[default]
    Unknown,
    /// One guard at least.
    Sees,
    /// Nothing of any of them, for as long as makes them blind.
    Blind,
}

/// How fit a living replica is to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It has watched for long enough to know what it sees.
    pub seasoned: bool,
    /// It sees one guard at least.
    pub sees: bool,
    /// It has not seen for a while what another sees: it makes room.
    pub yields: bool,
}

impl Standing {
    /// It may be given what another has.
    #[must_use]
    pub fn is_warm(self) -> bool {
        self.seasoned && !self.yields
    }
}

/// For how long another has seen what this replica does not.
#[derive(Debug, Default)]
pub(super) struct Outseen(Option<Duration>);

impl Outseen {
    /// Takes a round in: whether we are blind for all guards, and how the others stand.
    pub(super) fn look(&mut self, blind: bool, others: &BTreeMap<String, Standing>, now: Duration) {
        let outseen = blind && others.values().any(|other| other.is_warm() && other.sees);
        self.0 = outseen.then(|| self.0.unwrap_or(now));
    }

    /// Whether it has lasted for so long that it is our own eyes.
    pub(super) fn lasts(&self, patience: Duration, now: Duration) -> bool {
        self.0.is_some_and(|since| now.saturating_sub(since) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: Standing = Standing {
        seasoned: true,
        sees: true,
        yields: false,
    };

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn only_what_another_sees_all_the_while_is_our_own_blindness() {
        let with = |other| BTreeMap::from([("other".to_owned(), other)]);
        let mut eyes = Outseen::default();
        eyes.look(true, &with(WARM), at(10));
        assert!(!eyes.lasts(at(15), at(24)));
        eyes.look(true, &with(WARM), at(24));
        assert!(eyes.lasts(at(15), at(25)));

        // The other goes blind a few seconds later, and sees again a few seconds earlier: the source was away.
        for (seasoned, sees) in [(true, false), (false, true), (false, false)] {
            let other = Standing { seasoned, sees, ..WARM };
            eyes.look(true, &with(other), at(25));
            assert!(!eyes.lasts(at(15), at(1000)), "{other:?}");
        }
        eyes.look(true, &with(WARM), at(300));
        assert!(!eyes.lasts(at(15), at(314)));
        eyes.look(false, &with(WARM), at(305));
        assert!(!eyes.lasts(at(15), at(1000)));
        // Alone there is nobody to make room for.
        eyes.look(true, &BTreeMap::new(), at(400));
        assert!(!eyes.lasts(at(15), at(1000)));
    }
}
