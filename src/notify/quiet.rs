//! Quiet repeats: what is told as one. Pure.
//!
//! Messages are equal when guard, topic and thread are. The first is told at once. An equal one that follows within the
//! chat's `quiet` after that was accepted is held back, and so are those after it; when the time is over the newest of
//! them is told and says how many it stands for. What may not wait ([`groups`]) is never held, and takes what is held
//! before it in its thread along: told just before it, so that the thread's order stays true.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::{Announcement, Repeats, Topic};

/// Whether equal messages of a topic may wait and be told as one. Each turn of an incident is news of its own.
pub(super) fn groups(topic: Topic) -> bool {
    !matches!(
        topic,
        Topic::RollbackInitiated
            | Topic::RollbackCompleted
            | Topic::ArrivalUnseen
            | Topic::RollbackFailed
            | Topic::DidNotHelp
            | Topic::FlippedBack
            | Topic::Recovered
            | Topic::Resolved
            | Topic::Test
    )
}

/// Whether two messages of the same thread say the same again.
pub(super) fn equal(one: &Announcement, other: &Announcement) -> bool {
    one.topic == other.topic && one.guard == other.guard
}

/// Until when a message is held back, if an equal one was `told` then; `None`: it is not.
pub(super) fn held_until(quiet: Duration, topic: Topic, told: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let told = told.filter(|told| groups(topic) && *told <= now)?;
    // A time in the future was written by a clock that has been put right since: nothing is held for it.
    let end = told.checked_add(SignedDuration::try_from(quiet).ok()?).ok()?;
    (end > now).then_some(end)
}

/// The later message, standing for the earlier one too.
pub(super) fn merged(earlier: &Announcement, later: &Announcement) -> Announcement {
    let count = |of: &Announcement| of.repeats.map_or(1, |repeats| repeats.count);
    let since = |of: &Announcement| of.repeats.map_or(of.at, |repeats| repeats.since);
    Announcement {
        repeats: Some(Repeats {
            count: count(earlier).saturating_add(count(later)),
            since: since(earlier).min(since(later)),
        }),
        ..later.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn what_may_not_wait_is_never_held() {
        for topic in Topic::ALL {
            let held = held_until(Duration::from_secs(60), topic, Some(at(100)), at(101)).is_some();
            assert_eq!(held, groups(topic), "{topic:?}");
        }
    }

    #[test]
    fn every_turn_of_an_incident_is_told_at_once() {
        for turn in [
            Topic::RollbackInitiated,
            Topic::RollbackCompleted,
            Topic::RollbackFailed,
            Topic::Recovered,
        ] {
            assert!(!groups(turn), "{turn:?}");
        }
        // The last of several says that nobody puts it back any more.
        assert!(!groups(Topic::FlippedBack) && !groups(Topic::DidNotHelp) && !groups(Topic::Resolved));
    }

    #[test]
    fn nothing_is_held_without_a_window_or_for_a_time_to_come() {
        assert_eq!(held_until(Duration::ZERO, Topic::Blind, Some(at(100)), at(100)), None);
        assert_eq!(held_until(Duration::from_secs(60), Topic::Blind, None, at(100)), None);
        assert_eq!(held_until(Duration::from_secs(60), Topic::Blind, Some(at(101)), at(100)), None);
        assert_eq!(held_until(Duration::MAX, Topic::Blind, Some(at(1)), at(100)), None);
    }

    proptest! {
        #[test]
        fn a_message_is_held_exactly_until_its_window_ends(quiet in 0_u64..10_000, told in 0_i64..100_000, now in 0_i64..100_000) {
            let end = told + i64::try_from(quiet).expect("small");
            let expected = (told <= now && now < end).then(|| at(end));
            prop_assert_eq!(held_until(Duration::from_secs(quiet), Topic::Alert, Some(at(told)), at(now)), expected);
        }

        #[test]
        fn however_they_are_merged_each_counts_once(times in proptest::collection::vec(0_i64..1000, 2..20), split in 1_usize..19) {
            let mut times = times;
            times.sort_unstable();
            let one = |second: &i64| Announcement { at: at(*second), ..Announcement::example(Topic::Blind) };
            let fold = |times: &[i64]| times.iter().map(one).reduce(|earlier, later| merged(&earlier, &later)).expect("not empty");
            let split = split.min(times.len() - 1);
            let all = fold(&times);
            let (first, second) = times.split_at(split);
            prop_assert_eq!(&merged(&fold(first), &fold(second)), &all);
            prop_assert_eq!(all.repeats, Some(Repeats { count: u32::try_from(times.len()).expect("few"), since: at(times[0]) }));
            prop_assert_eq!(all.at, at(*times.last().expect("not empty")));
        }
    }
}
