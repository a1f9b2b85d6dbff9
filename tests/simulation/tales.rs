//! Stories that are laid out by hand: what must be told of one case, in its order, beside the promises that every seed keeps.

use std::time::Duration;

use flipback::model::Topic;

use crate::{
    Outcome,
    api::{Requests, Trouble},
    faults::Fault,
    measure::Lie,
    play_out,
    script::{CHATS, Deed, SETTLE, Setup},
};

/// A quiet world with one daemon, in which green is released after a minute and is bad from the start.
fn a_bad_release(deeds: &[(Duration, Deed)]) -> Setup {
    let calm = Duration::from_secs(4 * 60);
    let release = Deed::Release {
        share: 0.6,
        after: Duration::ZERO,
    };
    let mut setup = Setup {
        seed: 0,
        replicas: 1,
        pods: 3,
        rate: 60.0,
        leftover: 0.0,
        scrape: Duration::from_secs(5),
        preview: true,
        cooldown: Duration::from_secs(60),
        watch: Duration::from_secs(30 * 60),
        calm,
        end: calm + SETTLE,
        deeds: vec![(Duration::from_secs(60), release), (calm, Deed::Calm)],
    };
    setup.deeds.extend_from_slice(deeds);
    setup.deeds.sort_by_key(|(at, _)| *at);
    setup
}

/// What one chat was told of the incidents' threads, in order.
fn told(outcome: &Outcome) -> Vec<Topic> {
    let of_one = outcome
        .messages
        .iter()
        .filter(|heard| heard.chat == CHATS[0] && heard.incident.is_some());
    of_one.map(|heard| heard.topic).collect()
}

/// The patch is on its way for 9 s, and nobody waits for it longer than six.
#[test]
fn a_flip_that_was_told_as_failed_and_carried_out_later_is_taken_back_in_its_thread() {
    let late = Fault::Api {
        who: None,
        on: Requests::Writes,
        trouble: Trouble::Late(Duration::from_secs(9)),
        share: 1.0,
    };
    let fault = Deed::Fault {
        fault: late,
        lasts: Duration::from_secs(45),
    };
    let outcome = play_out(a_bad_release(&[(Duration::from_secs(81), fault)]));
    assert!(outcome.broken.is_empty(), "{}", outcome.told());
    let [flip] = outcome.flips.as_slice() else {
        panic!("{}", outcome.told());
    };
    assert!(flip.late && flip.automatic, "{}", outcome.told());
    let said = told(&outcome);
    let place = |topic: Topic| {
        said.iter()
            .position(|told| *told == topic)
            .unwrap_or_else(|| panic!("{topic:?}: {}", outcome.told()))
    };
    assert!(place(Topic::RollbackInitiated) < place(Topic::RollbackFailed), "{said:?}");
    assert!(place(Topic::RollbackFailed) < place(Topic::RollbackCompleted), "{said:?}");
    assert!(place(Topic::RollbackCompleted) < place(Topic::Recovered), "{said:?}");
    // Our own flip is nobody's switch, and is told once.
    let after: Vec<Topic> = outcome
        .messages
        .iter()
        .filter(|heard| heard.at > flip.at)
        .map(|heard| heard.topic)
        .collect();
    assert!(!after.contains(&Topic::Switched), "{}", outcome.told());
    assert_eq!(
        said.iter().filter(|topic| **topic == Topic::RollbackCompleted).count(),
        1,
        "{said:?}"
    );
    let threads: std::collections::BTreeSet<&str> = outcome
        .messages
        .iter()
        .filter(|heard| heard.incident.is_some())
        .map(|heard| heard.thread.as_str())
        .collect();
    assert_eq!(threads.len(), 1, "{threads:?}");
}

#[test]
fn a_flip_whose_arrival_cannot_be_looked_at_is_no_failure_and_is_completed_when_it_is_seen() {
    in_doubt_and_completed(&[]);
}

#[test]
fn a_clock_that_is_stepped_back_does_not_put_off_the_next_look_at_an_arrival() {
    let step = Deed::Step { daemon: 0, seconds: -3600 };
    in_doubt_and_completed(&[(Duration::from_secs(10), step)]);
}

/// The patch is carried out, and what is read is refused before the endpoints have followed; deeds are told by when they happen after it.
fn in_doubt_and_completed(deeds: &[(Duration, Deed)]) {
    let blind = Deed::Fault {
        fault: Fault::Api {
            who: None,
            on: Requests::Reads,
            trouble: Trouble::Refuse(500),
            share: 1.0,
        },
        lasts: Duration::from_secs(45),
    };
    // The same world without the trouble tells when that is.
    let (_, flips) = well_told(a_bad_release(&[]));
    let right_after = flips[0] + Duration::from_millis(100);
    let mut all = vec![(right_after, blind)];
    all.extend(deeds.iter().map(|(after, deed)| (right_after + *after, deed.clone())));
    let outcome = play_out(a_bad_release(&all));
    assert!(outcome.broken.is_empty(), "{}", outcome.told());
    assert_eq!(outcome.flips.len(), 1, "{}", outcome.told());
    let said = told(&outcome);
    let place = |topic: Topic| {
        let places: Vec<usize> = (0..said.len()).filter(|place| said[*place] == topic).collect();
        assert_eq!(places.len(), 1, "{topic:?}: {}", outcome.told());
        places[0]
    };
    assert!(place(Topic::RollbackInitiated) < place(Topic::ArrivalUnseen), "{said:?}");
    assert!(place(Topic::ArrivalUnseen) < place(Topic::RollbackCompleted), "{said:?}");
    assert!(!said.contains(&Topic::RollbackFailed), "{}", outcome.told());
}

/// A setup's story, which keeps every promise; its automatic flips, by when they were made.
fn well_told(setup: Setup) -> (Outcome, Vec<Duration>) {
    let outcome = play_out(setup);
    assert!(outcome.broken.is_empty(), "{}", outcome.told());
    let flips = outcome.flips.iter().filter(|flip| flip.automatic).map(|flip| flip.at).collect();
    (outcome, flips)
}

#[test]
fn a_standby_that_is_down_is_waited_for_and_taken_the_moment_it_is_back() {
    let outage = Deed::Outage {
        active: false,
        lasts: Duration::from_secs(60),
    };
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(85), outage)]));
    assert!(told(&outcome).contains(&Topic::RollbackBlocked), "{}", outcome.told());
    let [flip] = flips.as_slice() else { panic!("{}", outcome.told()) };
    let back = Duration::from_secs(145)..Duration::from_secs(165);
    assert!(back.contains(flip), "{}", outcome.told());
}

#[test]
fn a_paused_guard_flips_when_it_is_resumed_and_not_before() {
    let pause = Deed::Pause(Duration::from_secs(60));
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(70), pause)]));
    let [flip] = flips.as_slice() else { panic!("{}", outcome.told()) };
    let resumed = Duration::from_secs(130)..Duration::from_secs(145);
    assert!(resumed.contains(flip), "{}", outcome.told());
}

#[test]
fn no_data_is_told_and_moves_nothing() {
    let dark = Deed::Fault {
        fault: Fault::Prometheus {
            who: None,
            lie: crate::measure::Lie::Empty,
            share: 1.0,
        },
        lasts: Duration::from_secs(100),
    };
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(75), dark)]));
    assert!(
        outcome.messages.iter().any(|heard| heard.topic == Topic::Blind),
        "{}",
        outcome.told()
    );
    let [flip] = flips.as_slice() else { panic!("{}", outcome.told()) };
    assert!(*flip > Duration::from_secs(175), "{}", outcome.told());
}

/// By a clock that is a minute and a half ahead what Prometheus scraped after the switch is from before it: for so long nothing is judged.
#[test]
fn a_clock_that_is_ahead_delays_a_flip_by_as_much_and_no_longer() {
    let step = Deed::Step { daemon: 0, seconds: 90 };
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(61), step)]));
    let [flip] = flips.as_slice() else { panic!("{}", outcome.told()) };
    let (_, sound) = well_told(a_bad_release(&[]));
    let late = flip.saturating_sub(sound[0]);
    assert!(late <= Duration::from_secs(90 + 10), "{}", outcome.told());
}

/// Its patch is carried out, and it dies before it hears of it.
#[test]
fn what_a_killed_daemon_moved_is_told_proven_and_brought_along_by_its_next_life() {
    let fuse = crate::daemon::Fuse {
        moment: crate::daemon::Moment::Applied,
        polls: 0,
        down: Duration::from_secs(3),
    };
    let light = Deed::Light { daemon: 0, fuse };
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(50), light)]));
    assert_eq!(flips.len(), 1, "{}", outcome.told());
    assert!(told(&outcome).contains(&Topic::RollbackCompleted), "{}", outcome.told());
}

/// The one that flips is 90 s ahead, and ends with its flip: what it decided lies in the future of the one that takes over.
#[test]
fn what_a_replica_with_another_clock_moved_is_told_and_proven_by_the_one_that_takes_over() {
    let fuse = crate::daemon::Fuse {
        moment: crate::daemon::Moment::Applied,
        polls: 0,
        down: Duration::from_secs(100),
    };
    for seconds in [90, -3600] {
        let step = Deed::Step { daemon: 0, seconds };
        let light = Deed::Light {
            daemon: 0,
            fuse: fuse.clone(),
        };
        let mut setup = a_bad_release(&[(Duration::from_secs(50), step), (Duration::from_secs(55), light)]);
        setup.replicas = 2;
        let (outcome, flips) = well_told(setup);
        assert_eq!(flips.len(), 1, "{}", outcome.told());
        let said = outcome.messages.iter().find(|heard| heard.topic == Topic::RollbackCompleted);
        let said = said.unwrap_or_else(|| panic!("{}", outcome.told()));
        // Before the first one is back.
        assert!(said.at < flips[0] + Duration::from_secs(60), "{}", outcome.told());
    }
}

/// Its patch takes 3 s, and it dies with it: what was begun beside the flip is all that tells why.
#[test]
fn why_it_was_decided_is_on_disk_before_the_patch_is_answered() {
    let slow = Fault::Api {
        who: None,
        on: Requests::Writes,
        trouble: Trouble::Slow(Duration::from_secs(3)),
        share: 1.0,
    };
    let fault = Deed::Fault {
        fault: slow,
        lasts: Duration::from_secs(60),
    };
    let fuse = crate::daemon::Fuse {
        moment: crate::daemon::Moment::Applied,
        polls: 0,
        down: Duration::from_secs(3),
    };
    let light = Deed::Light { daemon: 0, fuse };
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(50), light), (Duration::from_secs(81), fault)]));
    assert_eq!(flips.len(), 1, "{}", outcome.told());
    assert!(outcome.story.contains("is killed"), "{}", outcome.told());
}

/// The patch compares: it finds what the decision was not about.
#[test]
fn a_person_who_is_quicker_than_the_patch_is_left_alone() {
    let (outcome, flips) = well_told(a_bad_release(&[(Duration::from_secs(70), Deed::Hurry)]));
    assert!(outcome.story.contains("is quicker"), "{}", outcome.told());
    assert!(flips.is_empty(), "{}", outcome.told());
}

/// A release that is well, and whose pods are all gone: nothing of the color that is left is asked for.
#[test]
fn a_color_without_pods_is_left() {
    let outage = Deed::Outage {
        active: true,
        lasts: Duration::from_secs(60),
    };
    let mut setup = a_bad_release(&[(Duration::from_secs(130), outage)]);
    for (_, deed) in &mut setup.deeds {
        if let Deed::Release { share, .. } = deed {
            *share = 0.002;
        }
    }
    let (outcome, flips) = well_told(setup);
    let [flip] = flips.as_slice() else { panic!("{}", outcome.told()) };
    let gone = Duration::from_secs(130)..Duration::from_secs(190);
    assert!(gone.contains(flip), "{}", outcome.told());
}

/// Long after the rollback what was restored fails too: what was left is still there, and still bad.
#[test]
fn a_release_that_was_rolled_back_from_is_not_taken_when_the_watch_is_over() {
    let outage = Deed::Outage {
        active: true,
        lasts: Duration::from_secs(60),
    };
    let mut setup = a_bad_release(&[(Duration::from_secs(260), outage)]);
    setup.watch = Duration::from_secs(90);
    setup.calm += Duration::from_secs(120);
    setup.end += Duration::from_secs(120);
    for (at, deed) in &mut setup.deeds {
        if *deed == Deed::Calm {
            *at = setup.calm;
        }
    }
    let (outcome, flips) = well_told(setup);
    assert_eq!(flips.len(), 1, "{}", outcome.told());
    assert!(told(&outcome).contains(&Topic::RollbackBlocked), "{}", outcome.told());
}

/// The leader cannot renew its Lease when it decides, and what is left of it is less than a patch may take.
#[test]
fn a_leader_whose_lease_ends_soon_leaves_the_flip_to_the_next_one() {
    let mute = Fault::Api {
        who: Some(0),
        on: Requests::Writes,
        trouble: Trouble::Swallow,
        share: 1.0,
    };
    let fault = Deed::Fault {
        fault: mute,
        lasts: Duration::from_secs(40),
    };
    let mut setup = a_bad_release(&[(Duration::from_secs(86), fault)]);
    setup.replicas = 2;
    let (outcome, flips) = well_told(setup);
    assert_eq!(flips.len(), 1, "{}", outcome.told());
    assert!(outcome.flips.iter().all(|flip| flip.daemon == 1), "{}", outcome.told());
}

/// The next release is bad too, and comes before the cooldown of the first rollback is over.
#[test]
fn within_the_cooldown_nothing_is_flipped_and_people_are_told() {
    let second = Deed::Release {
        share: 0.6,
        after: Duration::ZERO,
    };
    let mut setup = a_bad_release(&[(Duration::from_secs(130), second)]);
    setup.cooldown = Duration::from_secs(15 * 60);
    let (outcome, flips) = well_told(setup);
    assert_eq!(flips.len(), 1, "{}", outcome.told());
    let blocked = |heard: &crate::chats::Heard| heard.topic == Topic::RollbackBlocked && heard.at > Duration::from_secs(150);
    assert!(outcome.messages.iter().any(blocked), "{}", outcome.told());
}

/// The switch happens while the watches are silent, and the API server has forgotten it when they come back.
#[test]
fn what_happened_before_a_410_is_listed_and_judged() {
    let silent = Deed::Fault {
        fault: Fault::Stall { who: None },
        lasts: Duration::from_secs(25),
    };
    let (outcome, flips) = well_told(a_bad_release(&[
        (Duration::from_secs(70), silent),
        (Duration::from_secs(90), Deed::Compact),
    ]));
    assert_eq!(flips.len(), 1, "{}", outcome.told());
    assert!(outcome.story.contains("forgets its history"), "{}", outcome.told());
}

/// What both colors need is broken for a minute, and while it is the release begins to fail by itself: when the outage is over the
/// standby is well, and the outage excuses nothing any more.
#[test]
fn an_outage_of_both_colors_does_not_excuse_what_the_release_does_after_it() {
    let shared = Deed::Shared {
        share: 0.8,
        lasts: Duration::from_secs(60),
    };
    let mut setup = a_bad_release(&[(Duration::from_secs(100), shared)]);
    setup.leftover = 0.1;
    for (at, deed) in &mut setup.deeds {
        match deed {
            Deed::Release { share, after } => (*share, *after) = (0.3, Duration::from_secs(70)),
            Deed::Calm => *at += Duration::from_secs(120),
            _ => {}
        }
    }
    setup.calm += Duration::from_secs(120);
    setup.end += Duration::from_secs(120);
    let (outcome, flips) = well_told(setup);
    let [flip] = flips.as_slice() else { panic!("{}", outcome.told()) };
    let after_it = Duration::from_secs(160)..Duration::from_secs(235);
    assert!(after_it.contains(flip), "{}", outcome.told());
}

/// The leader sees nothing of Prometheus, and lives on: it makes room for the other one, which owes the flip.
#[test]
fn what_a_blind_leader_cannot_do_is_due_of_the_replica_that_sees() {
    for lie in [Lie::Timeout, Lie::Error, Lie::Nan] {
        let fault = Fault::Prometheus {
            who: Some(0),
            lie,
            share: 1.0,
        };
        let lasts = Duration::from_secs(170);
        // It leads by then, and green is not yet released.
        let mut setup = a_bad_release(&[(Duration::from_secs(45), Deed::Fault { fault, lasts })]);
        setup.replicas = 2;
        let (outcome, flips) = well_told(setup);
        assert_eq!(flips.len(), 1, "{}", outcome.told());
        assert!(outcome.flips.iter().all(|flip| flip.daemon == 1), "{}", outcome.told());
        let took = Duration::from_secs(60)..Duration::from_secs(140);
        assert!(took.contains(&outcome.slowest), "{:?}: {}", outcome.slowest, outcome.told());
    }
}

/// The leader dies, or is cut off, while the release fails, and stays away: the other one owes the flip, as if it had led all along.
#[test]
fn what_is_due_is_due_of_the_replica_that_is_left() {
    let lost = [
        Deed::Kill {
            daemon: 0,
            down: Duration::from_secs(150),
        },
        Deed::Fault {
            fault: Fault::CutOff {
                who: Some(0),
                silent: true,
            },
            lasts: Duration::from_secs(150),
        },
    ];
    for deed in lost {
        let mut setup = a_bad_release(&[(Duration::from_secs(75), deed)]);
        setup.replicas = 2;
        let (outcome, flips) = well_told(setup);
        assert_eq!(flips.len(), 1, "{}", outcome.told());
        assert!(outcome.flips.iter().all(|flip| flip.daemon == 1), "{}", outcome.told());
        // It was owed while the other one was away: else it would not be counted.
        let took = Duration::from_secs(1)..Duration::from_secs(45);
        assert!(took.contains(&outcome.slowest), "{:?}: {}", outcome.slowest, outcome.told());
    }
}
