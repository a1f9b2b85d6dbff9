//! The blast radius: how many guards may flip by themselves within a while. Pure.
//!
//! One release is bad, and one guard flips. When many guards find their releases bad at once, what they share is the likelier cause (a
//! database, a node pool, a certificate, a Prometheus that lies), and moving all of them makes one outage two. So beyond a number the rest
//! is held, and people are asked.
//!
//! Guards are counted, not flips: whoever is back on its former color is inside the radius already. The flips of other processes and of
//! earlier runs stand in the ledgers on the objects; those under way, and those that a watch has not brought back yet, are told by the
//! conductor.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use crate::model::{GuardId, Held, Hold, Ledger, settings::BlastRadius};

use super::clock::before;

/// The guards that flipped by themselves lately.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// `None`: as many as like.
    limit: Option<u32>,
    window: Duration,
    since: Timestamp,
    flipped: BTreeSet<GuardId>,
}

/// How many of so many guards may flip; `None`: all of them.
#[must_use]
pub fn limit(radius: &BlastRadius, guards: usize) -> Option<u32> {
    if radius.flips == 0 {
        return None;
    }
    // Saturating by definition of `as`; a share that is no number adds nothing.
    let share = (radius.share * guards as f64 + 1e-9).floor() as u32;
    Some(radius.flips.max(share))
}

impl Fleet {
    /// Nobody flipped yet.
    #[must_use]
    pub fn new(radius: &BlastRadius, guards: usize, now: Timestamp) -> Self {
        Self {
            limit: limit(radius, guards),
            window: radius.window,
            since: before(now, radius.window),
            flipped: BTreeSet::new(),
        }
    }

    /// Counts what a guard's ledger tells.
    pub fn read(&mut self, guard: &GuardId, ledger: &Ledger) {
        for flip in ledger.flips.iter().filter(|flip| flip.automatic) {
            self.flipped(guard, flip.at);
        }
    }

    /// Counts an automatic flip of a guard.
    pub fn flipped(&mut self, guard: &GuardId, at: Timestamp) {
        if at > self.since {
            self.flipped.insert(guard.clone());
        }
    }

    /// The guards that flipped, at most as long ago as the window.
    #[must_use]
    pub fn guards(&self) -> &BTreeSet<GuardId> {
        &self.flipped
    }

    /// How many may; `None`: all.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// What stands against one more flip, of this guard. One that flipped within the window is counted already.
    #[must_use]
    pub fn hold(&self, guard: &GuardId) -> Option<Held> {
        let limit = self.limit?;
        let flips = self.flipped.len();
        let counted = self.flipped.contains(guard);
        (flips >= usize::try_from(limit).unwrap_or(usize::MAX) && !counted).then(|| Held {
            by: Hold::ManyFailing,
            why: format!(
                "many guards are failing at once: {flips} flipped within {}, where at most {limit} may, so a shared cause is suspected; \
                 `flipback override` lets the others flip",
                humantime::format_duration(self.window)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Color, FlipRecord};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn guard(n: usize) -> GuardId {
        GuardId::new("", "shop", &format!("g{n}")).expect("valid")
    }

    fn flip(second: i64, automatic: bool) -> FlipRecord {
        FlipRecord {
            at: at(second),
            from: Color::new("green").expect("valid"),
            to: Color::new("blue").expect("valid"),
            from_release: None,
            to_release: None,
            from_images: Vec::new(),
            automatic,
            bad: true,
            trigger: "error_rate".into(),
            by: None,
            why: String::new(),
            incident: format!("i{second}"),
            reassert: None,
            forgotten: None,
            discounted: None,
            thread: None,
            rest: serde_json::Map::new(),
        }
    }

    fn radius(flips: u32, share: f64) -> BlastRadius {
        BlastRadius {
            flips,
            share,
            window: Duration::from_secs(600),
        }
    }

    #[test]
    fn the_larger_of_number_and_share_is_allowed_and_zero_is_no_limit() {
        assert_eq!(limit(&radius(3, 0.1), 2), Some(3));
        assert_eq!(limit(&radius(3, 0.1), 500), Some(50));
        assert_eq!(limit(&radius(3, 0.1), 39), Some(3), "a part of a guard is none");
        assert_eq!(limit(&radius(3, 0.0), 500), Some(3));
        assert_eq!(limit(&radius(0, 0.1), 500), None);
        assert_eq!(limit(&radius(1, f64::NAN), 500), Some(1));
    }

    #[test]
    fn ledgers_count_within_the_window_and_only_flips_of_rules() {
        let mut fleet = Fleet::new(&radius(2, 0.0), 10, at(10_000));
        let ledger = |flips: Vec<FlipRecord>| Ledger {
            flips,
            ..Ledger::default()
        };
        fleet.read(&guard(1), &ledger(vec![flip(9_400, true), flip(9_000, true)]));
        fleet.read(&guard(2), &ledger(vec![flip(9_900, false)]));
        assert_eq!(fleet.guards().len(), 0, "too old, and a person's");
        fleet.read(&guard(3), &ledger(vec![flip(9_401, true), flip(9_500, true)]));
        assert_eq!(fleet.hold(&guard(9)), None, "one guard, however often");
        // Another clock that is a little ahead.
        fleet.read(&guard(4), &ledger(vec![flip(10_003, true)]));
        let held = fleet.hold(&guard(9)).expect("held");
        assert_eq!(held.by, Hold::ManyFailing);
        assert_eq!(
            held.why,
            "many guards are failing at once: 2 flipped within 10m, where at most 2 may, so a shared cause is suspected; \
             `flipback override` lets the others flip"
        );
        assert_eq!(fleet.hold(&guard(3)), None, "it is inside the radius already");
    }

    proptest! {
        /// However many want to flip in one look, and in whichever order, at most so many do.
        #[test]
        fn never_more_than_allowed(limit in 1_u32..6, wanting in prop::collection::vec(0_usize..12, 0..40)) {
            let mut fleet = Fleet::new(&radius(limit, 0.0), 12, at(10_000));
            for n in wanting {
                if fleet.hold(&guard(n)).is_none() {
                    fleet.flipped(&guard(n), at(10_000));
                }
            }
            prop_assert!(fleet.guards().len() <= limit as usize);
        }
    }
}
