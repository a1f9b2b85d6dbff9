use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    model::{Color, ColorSpec, Connections, EvidenceSpec, Ledger, Policy, Seen, ServiceRoute, Side, settings::EvidenceSettings},
    monitor::act,
};

/// When this run began.
const STARTED: i64 = 1_800_000_000;

pub(in crate::monitor) fn at(seconds_after_start: i64) -> Timestamp {
    Timestamp::from_second(STARTED + seconds_after_start).expect("in range")
}

fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

pub(in crate::monitor) fn guard() -> GuardId {
    GuardId::new("", "shop", "web").expect("valid")
}

pub(in crate::monitor) fn spec(preview: Option<&str>, mode: Mode) -> GuardSpec {
    let side = |name: &str| {
        let spec = ColorSpec {
            value: name.to_owned(),
            deployment: None,
            service: None,
        };
        (color(name), spec)
    };
    GuardSpec {
        id: guard(),
        cluster: String::new(),
        namespace: "shop".into(),
        route: RouteSpec::Service(ServiceRoute {
            active: "web".into(),
            preview: preview.map(str::to_owned),
            selector_key: "color".into(),
        }),
        colors: [side("blue"), side("green")].into(),
        rules: Vec::new(),
        policy: Policy::default(),
        mode,
        scale_up: None,
        connections: Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: Vec::new(),
        config_hash: "c".into(),
    }
}

/// A flip from green to blue, so many seconds before the start.
pub(in crate::monitor) fn flip(incident: &str, before: i64) -> FlipRecord {
    FlipRecord {
        at: at(-before),
        from: color("green"),
        to: color("blue"),
        from_release: Some("r2".into()),
        to_release: None,
        automatic: true,
        bad: true,
        trigger: "error_rate".into(),
        why: "12 % over 5 %".into(),
        incident: incident.into(),
        from_images: Vec::new(),
        by: None,
        reassert: None,
        forgotten: None,
        discounted: None,
        thread: None,
        rest: serde_json::Map::new(),
    }
}

pub(in crate::monitor) fn traffic(active: &str, flips: &[&FlipRecord]) -> Traffic {
    let standby = if active == "blue" { "green" } else { "blue" };
    Traffic {
        active: color(active),
        standby: color(standby),
        sides: BTreeMap::from([(color("blue"), Side::default()), (color("green"), Side::default())]),
        seen: Seen::default(),
        ledger: flips.iter().fold(Ledger::default(), |ledger, flip| ledger.with((*flip).clone())),
        paused: None,
        switched_at: None,
        switched_by: None,
        owner: None,
    }
}

/// An incident of that flip, as it is begun.
pub(in crate::monitor) fn begun(flip: &FlipRecord) -> Incident {
    Incident {
        mode: Mode::Enforce,
        partial: false,
        ..recalled(flip, &traffic("green", &[]), &spec(None, Mode::Enforce))
    }
}

/// An incident that moved traffic, and the guard that it is of.
pub(in crate::monitor) fn an_incident() -> (GuardSpec, Incident) {
    let mut spec = spec(None, Mode::Enforce);
    spec.evidence.after = Duration::ZERO;
    (spec, kept(&flip("shop.web_20270115T075955.000Z", 5), &[Moment::Patched]))
}

/// One that a person asked for.
fn asked_for(flip: &FlipRecord) -> (Incident, FlipRecord) {
    let flip = FlipRecord {
        automatic: false,
        trigger: "manual".into(),
        why: "ann: too slow".into(),
        ..flip.clone()
    };
    (begun(&flip), flip)
}

/// The same, kept.
pub(in crate::monitor) fn kept(flip: &FlipRecord, story: &[Moment]) -> Incident {
    let mut incident = begun(flip);
    incident.outcome = IncidentOutcome::RolledBack {
        at: flip.at,
        took_ms: 5.0,
        resource_version: "8".into(),
        preview_error: None,
    };
    let entries = story
        .iter()
        .map(|moment| TimelineEntry::of(*moment, flip.at, format!("{moment:?}")));
    incident.timeline.extend(entries);
    incident
}

fn left(begun: &[&Incident], kept: &[&Incident]) -> Remains {
    let owned = |incidents: &[&Incident]| incidents.iter().copied().cloned().collect::<Vec<_>>();
    let (begun, kept) = (owned(begun), owned(kept));
    let known = Arc::new(begun.iter().chain(&kept).map(|incident| incident.id.clone()).collect());
    Remains::of(&guard(), &begun, &kept, &known, at(0))
}

/// What is planned at that time after the start, and noted.
fn planned(left: &mut Remains, traffic: &Traffic, seconds: i64) -> Vec<Deed> {
    let deeds = plan(left, traffic, &spec(None, Mode::Enforce), at(seconds));
    left.note(&deeds);
    deeds
}

// === begun, in the ledger ===

#[test]
fn what_was_begun_and_is_in_the_ledger_is_completed_once() {
    let flip = flip("i1", 5);
    let incident = begun(&flip);
    let mut left = left(&[&incident], &[]);
    let traffic = traffic("blue", &[&flip]);
    assert_eq!(planned(&mut left, &traffic, 1), [Deed::Complete(Box::new(incident), flip)]);
    assert_eq!(planned(&mut left, &traffic, 2), []);
    assert!(left.is_over(at(60)) && !left.is_over(at(59)));
}

#[test]
fn what_moved_traffic_is_completed_however_old_and_whoever_asked_for_it() {
    let (incident, flip) = asked_for(&flip("i1", 3 * 24 * 3600));
    let newer = FlipRecord {
        from: color("blue"),
        to: color("green"),
        ..self::flip("i2", 2)
    };
    let known_newer = kept(&newer, &[Moment::Arrived]);
    let mut left = left(&[&incident], &[&known_newer]);
    let deeds = planned(&mut left, &traffic("green", &[&flip, &newer]), 1);
    assert_eq!(
        deeds,
        [
            Deed::Complete(Box::new(incident), flip),
            Deed::Tell(Box::new(known_newer), Some(newer))
        ]
    );
}

// === begun, not in the ledger ===

#[test]
fn what_never_moved_traffic_waits_for_the_next_attempt_and_is_asked_after_at_each_look() {
    let flip = flip("i1", 5);
    let incident = begun(&flip);
    let mut left = left(&[&incident], &[]);
    let unmoved = traffic("green", &[]);
    assert_eq!(planned(&mut left, &unmoved, 1), [Deed::Wait(Box::new(incident.clone()))]);
    assert_eq!(left.cut_off(), Some(&incident));
    assert_eq!(planned(&mut left, &unmoved, 6), []);
    assert!(!left.is_over(at(1000)));
    // The patch was on its way all the time.
    let landed = traffic("blue", &[&flip]);
    assert_eq!(planned(&mut left, &landed, 11), [Deed::Complete(Box::new(incident), flip)]);
    assert_eq!(left.cut_off(), None);
}

#[test]
fn the_next_attempt_takes_the_one_that_was_cut_off_along() {
    let incident = begun(&flip("i1", 5));
    let mut left = left(&[&incident], &[]);
    planned(&mut left, &traffic("green", &[]), 1);
    assert_eq!(left.take_cut_off(), [incident]);
    assert_eq!(left.cut_off(), None);
    assert_eq!(left.take_cut_off(), []);
    // Its bundle is gone by then, and its patch comes through all the same.
    assert_eq!(
        planned(&mut left, &traffic("blue", &[&flip("i1", 5)]), 30),
        [Deed::Recall(flip("i1", 5))]
    );
    assert!(left.is_over(at(60)));
}

#[test]
fn of_two_attempts_of_one_thread_the_later_one_stays() {
    let first = begun(&flip("i1", 9));
    let second = Incident {
        thread: Some("i1".into()),
        ..begun(&flip("i2", 5))
    };
    let mut both = left(&[&second, &first], &[]);
    let deeds = planned(&mut both, &traffic("green", &[]), 1);
    assert_eq!(deeds, [Deed::LetGo(Box::new(first.clone())), Deed::Wait(Box::new(second.clone()))]);
    assert_eq!(both.cut_off(), Some(&second));

    // The later one came through, and its process died before it could let go of the first.
    let done = Incident {
        thread: Some("i1".into()),
        ..kept(&flip("i2", 5), &[Moment::Arrived])
    };
    let mut one = left(&[&first], &[&done]);
    let deeds = planned(&mut one, &traffic("blue", &[&flip("i2", 5)]), 1);
    assert_eq!(deeds[0], Deed::LetGo(Box::new(first)));
}

#[test]
fn a_persons_attempt_is_given_up_once_it_cannot_come_through_any_more() {
    let (incident, _) = asked_for(&flip("i1", 5));
    let mut first = left(&[&incident], &[]);
    assert_eq!(planned(&mut first, &traffic("green", &[]), 1), []);
    assert_eq!(planned(&mut first, &traffic("green", &[]), 59), []);
    assert_eq!(
        planned(&mut first, &traffic("green", &[]), 60),
        [Deed::GiveUp(Box::new(incident.clone()))]
    );
    assert_eq!(planned(&mut first, &traffic("green", &[]), 61), []);
    // Somebody else was quicker: the patch compares, and cannot be accepted any more.
    let mut second = left(&[&incident], &[]);
    assert_eq!(planned(&mut second, &traffic("blue", &[]), 1), [Deed::GiveUp(Box::new(incident))]);
}

#[test]
fn a_persons_attempt_that_comes_through_late_is_completed() {
    let (incident, flip) = asked_for(&flip("i1", 5));
    let mut left = left(&[&incident], &[]);
    assert_eq!(planned(&mut left, &traffic("green", &[]), 1), []);
    let landed = traffic("blue", &[&flip]);
    assert_eq!(planned(&mut left, &landed, 7), [Deed::Complete(Box::new(incident), flip)]);
}

// === the ledger alone ===

#[test]
fn a_young_flip_without_a_bundle_is_taken_up_once() {
    let flip = flip("i1", 5);
    let mut left = left(&[], &[]);
    let moved = traffic("blue", &[&flip]);
    assert_eq!(planned(&mut left, &moved, 1), [Deed::Recall(flip)]);
    assert_eq!(planned(&mut left, &moved, 2), []);
}

#[test]
fn a_flip_that_comes_through_after_the_first_look_is_taken_up_too() {
    let mut left = left(&[], &[]);
    assert_eq!(planned(&mut left, &traffic("green", &[]), 1), []);
    assert!(!left.is_over(at(30)));
    assert_eq!(
        planned(&mut left, &traffic("blue", &[&flip("i1", 5)]), 30),
        [Deed::Recall(flip("i1", 5))]
    );
}

#[test]
fn an_old_flip_somebody_elses_newer_one_and_a_known_one_are_not_taken_up() {
    for flip in [flip("old", 3600), flip("somebody's after the start", -2)] {
        assert_eq!(planned(&mut left(&[], &[]), &traffic("blue", &[&flip]), 5), []);
    }
    let mut known = left(&[], &[]);
    known.made.insert("i1".into());
    assert_eq!(planned(&mut known, &traffic("blue", &[&flip("i1", 5)]), 1), []);
}

#[test]
fn a_flip_by_a_clock_that_is_off_is_dated_by_when_it_was_seen() {
    // Seen by a replica that did not lead then, 17 s before it took over.
    let seen = |flip: &FlipRecord, came: i64| {
        let mut left = left(&[], &[]);
        left.sees(&traffic("green", &[]).ledger, at(-5000));
        left.sees(&traffic("blue", &[flip]).ledger, at(came));
        left.sees(&traffic("blue", &[flip]).ledger, at(1));
        left
    };
    for flip in [flip("ahead by 90 s", -73), flip("behind by an hour", 3617)] {
        let moved = traffic("blue", &[&flip]);
        assert_eq!(planned(&mut seen(&flip, -17), &moved, 2), [Deed::Recall(flip.clone())]);
    }
    let old = flip("old", 3617);
    assert_eq!(planned(&mut seen(&old, -3600), &traffic("blue", &[&old]), 2), []);
    let later = flip("somebody's after the start", -2);
    assert_eq!(planned(&mut seen(&later, 2), &traffic("blue", &[&later]), 5), []);
    // There at the first look, and not decided yet: by somebody else's clock, before.
    let ahead = flip("ahead", -90);
    let mut first = left(&[], &[]);
    first.sees(&traffic("blue", &[&ahead]).ledger, at(1));
    assert_eq!(planned(&mut first, &traffic("blue", &[&ahead]), 1), [Deed::Recall(ahead.clone())]);
    let mut own = seen(&ahead, -17);
    own.is_ours(&ahead.incident);
    assert_eq!(planned(&mut own, &traffic("blue", &[&ahead]), 2), []);
}

/// The list is as long as retention allows; one for each of 500 guards would be most of the process.
#[test]
fn all_guards_share_one_list_of_bundles() {
    let known = Arc::new(BTreeSet::from(["i1".to_owned()]));
    let guards = ["web", "cart"].map(|name| GuardId::new("", "shop", name).expect("valid"));
    let [mut web, cart] = guards.map(|guard| Remains::of(&guard, &[], &[], &known, at(0)));
    assert!(Arc::ptr_eq(&web.known, &cart.known));
    web.has_made("i2");
    assert!(web.has_bundle("i1") && web.has_bundle("i2") && cart.has_bundle("i1") && !cart.has_bundle("i2"));
}

#[test]
fn a_bundle_that_retention_took_before_the_take_over_is_not_made_anew() {
    let id = format!("{}_20270101T000000.000Z", guard().file_name());
    let known = Arc::new(BTreeSet::from([id.clone(), "another's".to_owned()]));
    let mut left = Remains::of(&guard(), &[], &[], &known, at(0));
    left.inherit(&guard(), Arc::default(), YOUNG, at(10));
    assert!(left.has_bundle(&id));
    assert_eq!(left.made.len(), 1, "another guard's bundles are its own affair: {:?}", left.made);
}

#[test]
fn what_the_ledger_tells_becomes_an_incident_that_says_how_it_was_made() {
    let spec = spec(None, Mode::Enforce);
    let incident = recalled(&flip("i1", 5), &traffic("blue", &[]), &spec);
    assert!(
        incident.partial && incident.capture_errors[0].starts_with("decision.jsonl"),
        "{incident:?}"
    );
    assert_eq!((incident.id.as_str(), incident.case.why.as_str()), ("i1", "12 % over 5 %"));
    assert_eq!(incident.thread(), "i1");
    let goes_on = FlipRecord {
        thread: Some("i0".into()),
        ..flip("i1", 5)
    };
    let goes_on = recalled(&goes_on, &traffic("blue", &[]), &spec);
    assert_eq!(
        goes_on.thread(),
        "i0",
        "another replica goes on with the thread that it was told in"
    );
    let Trigger::Rule { rule, .. } = &incident.case.trigger else {
        panic!("{incident:?}")
    };
    assert_eq!(rule.as_str(), "error_rate");
    let (person, _) = asked_for(&flip("i1", 5));
    let expected = Trigger::Manual {
        by: "ann".into(),
        reason: "too slow".into(),
    };
    assert_eq!(person.case.trigger, expected);
}

// === kept ===

#[test]
fn a_kept_flip_that_nobody_saw_arrive_is_looked_at() {
    let flip = flip("i1", 5);
    let (unseen, seen) = (kept(&flip, &[Moment::Patched]), kept(&flip, &[Moment::Patched, Moment::Arrived]));
    let moved = traffic("blue", &[&flip]);
    let some = Some(flip.clone());
    let verify = Deed::Verify(Box::new(unseen.clone()), some.clone());
    let tell = |incident: &Incident| Deed::Tell(Box::new(incident.clone()), some.clone());
    let mut first = left(&[], &[&unseen]);
    assert_eq!(planned(&mut first, &moved, 1), [verify, tell(&unseen)]);
    assert_eq!(planned(&mut first, &moved, 2), [], "once");
    for story in [&[Moment::Arrived][..], &[Moment::NotArrived][..]] {
        let incident = kept(&flip, story);
        assert_eq!(planned(&mut left(&[], &[&incident]), &moved, 1), [tell(&incident)]);
    }
    // An attempt that moved nothing has come after it: it is still to be looked at.
    let blocked = Incident {
        outcome: IncidentOutcome::Decided,
        ..kept(&self::flip("i2", 2), &[])
    };
    let deeds = planned(&mut left(&[], &[&unseen, &blocked]), &moved, 1);
    assert!(deeds.contains(&Deed::Verify(Box::new(unseen.clone()), some.clone())), "{deeds:?}");
    // Another flip has come after it: there is nothing left to see.
    let after = FlipRecord {
        from: color("blue"),
        to: color("green"),
        ..self::flip("i2", 2)
    };
    let deeds = planned(
        &mut left(&[], &[&unseen, &kept(&after, &[Moment::Arrived])]),
        &traffic("green", &[&flip, &after]),
        1,
    );
    assert!(!deeds.iter().any(|deed| matches!(deed, Deed::Verify(..))), "{deeds:?}");
    // An hour later nobody asks any more.
    let old = kept(&self::flip("i1", 3600), &[Moment::Patched]);
    assert_eq!(planned(&mut left(&[], &[&old]), &moved, 1).len(), 0);
    assert_eq!(seen.timeline.len(), unseen.timeline.len() + 1);
}

#[test]
fn other_guards_leave_nothing_here_and_old_stories_are_not_told_again() {
    let other = |flip: &FlipRecord| {
        let mut incident = begun(flip);
        incident.case.guard = GuardId::new("", "shop", "api").expect("valid");
        incident
    };
    let mut left = left(&[&other(&flip("i1", 5))], &[&other(&flip("i2", 5))]);
    assert_eq!(planned(&mut left, &traffic("green", &[]), 1), []);
    let many: Vec<Incident> = (1..=9)
        .map(|n| kept(&flip(&format!("i{n}"), 100 - n), &[Moment::Arrived]))
        .collect();
    let deeds = planned(&mut self::left(&[], &many.iter().collect::<Vec<_>>()), &traffic("blue", &[]), 1);
    let told: Vec<&str> = deeds
        .iter()
        .map(|deed| match deed {
            Deed::Tell(incident, None) => incident.id.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["i5", "i6", "i7", "i8", "i9"]);
}

// === what a story owes ===

/// Topics and names of what is owed.
fn names(incident: &Incident, arrival: Topic) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = crate::metrics::Metrics::new().expect("registers");
    let keeper = crate::evidence::Keeper::open(folder.path().to_owned(), EvidenceSettings::default(), metrics);
    let owed = tell::owed(incident, arrival, &traffic("blue", &[]), at(1), &keeper, &spec(None, Mode::Enforce));
    assert!(owed.iter().all(|message| message.thread == incident.thread()), "{owed:?}");
    owed.into_iter().map(|message| message.id).collect()
}

#[test]
fn a_story_owes_each_of_its_messages_by_a_name_that_does_not_change() {
    let flip = flip("i1", 5);
    let mut told = kept(&flip, &[Moment::Patched]);
    assert_eq!(
        names(&told, Topic::RollbackCompleted),
        ["i1.rollback_initiated", "i1.evidence_ready"]
    );
    told = kept(
        &flip,
        &[
            Moment::Patched,
            Moment::Arrived,
            Moment::Recovered,
            Moment::FlippedBack,
            Moment::Resolved,
        ],
    );
    told.timeline.push(TimelineEntry::of(Moment::FlippedBack, at(0), "again"));
    assert_eq!(
        names(&told, Topic::RollbackCompleted),
        [
            "i1.rollback_initiated",
            "i1.rollback_completed",
            "i1.evidence_ready",
            "i1.recovered",
            "i1.flipped_back",
            "i1.resolved",
            "i1.flipped_back.2",
        ]
    );
    let well = Incident {
        followed_up_at: Some(at(0)),
        ..kept(&flip, &[Moment::Arrived, Moment::Recovered])
    };
    assert_eq!(
        names(&well, Topic::RollbackCompleted).last().map(String::as_str),
        Some("i1.resolved")
    );
    // A person's switch has a report too, and nobody waits for it.
    assert_eq!(
        names(&well, Topic::Switched),
        ["i1.rollback_initiated", "i1.switched", "i1.recovered"]
    );
}

#[test]
fn a_switch_by_hand_is_told_when_it_is_done_and_is_no_rollback() {
    let (_, flip) = asked_for(&flip("i1", 5));
    let (rollback, switch) = (flip.clone(), FlipRecord { bad: false, ..flip });
    let of = |flip: &FlipRecord| kept(flip, &[Moment::Arrived, Moment::Recovered]);
    assert_eq!(
        names(&of(&rollback), arrival(Some(&rollback))),
        [
            "i1.rollback_initiated",
            "i1.rollback_completed",
            "i1.evidence_ready",
            "i1.recovered"
        ]
    );
    assert_eq!(names(&of(&switch), arrival(Some(&switch))), ["i1.switched", "i1.recovered"]);
    assert!(
        of(&switch).is_switch() && !of(&rollback).is_switch(),
        "so that messages can name it"
    );
}

#[test]
fn nobody_waits_for_the_report_on_what_is_told_of_together_or_goes_on() {
    let flip = flip("i1", 5);
    let blocked = |refusal| Incident {
        outcome: IncidentOutcome::Blocked { refusal },
        ..begun(&flip)
    };
    let held = |by| blocked(crate::model::Refusal::Held(crate::model::Held { by, why: "so".into() }));
    let scaling = blocked(crate::model::Refusal::StandbyScaling {
        ready: 0,
        needed: 1,
        until: at(60),
    });
    let waits = |incident: &Incident| tell::is_awaited(incident, tell::topic(incident));
    assert!(!waits(&held(crate::model::Hold::ManyFailing)) && !waits(&scaling));
    assert!(waits(&held(crate::model::Hold::Maintenance)) && waits(&kept(&flip, &[])));
    assert_eq!(names(&scaling, Topic::RollbackCompleted), ["i1.scaling_up"]);
}

#[test]
fn a_story_that_moved_nothing_owes_what_became_of_it() {
    let flip = flip("i1", 5);
    let of = |outcome: IncidentOutcome| Incident { outcome, ..begun(&flip) };
    assert_eq!(
        names(&of(IncidentOutcome::Withheld), Topic::RollbackCompleted),
        ["i1.rollback_withheld", "i1.evidence_ready"]
    );
    let mut failed = of(IncidentOutcome::Failed { error: "403".into() });
    failed.timeline.push(TimelineEntry::of(Moment::PatchFailed, at(-4), "Failed: 403"));
    let expected = ["i1.rollback_initiated", "i1.rollback_failed", "i1.evidence_ready"];
    assert_eq!(names(&failed, Topic::RollbackCompleted), expected);
    // What goes on with an earlier attempt was not announced by itself.
    failed
        .timeline
        .insert(1, TimelineEntry::remark(at(-5), "An earlier attempt had failed: i0"));
    assert_eq!(names(&failed, Topic::RollbackCompleted), expected[1..]);
}

/// Its first attempt was told to some chats, and its process died before the others' messages were in their files.
#[test]
fn an_attempt_that_goes_on_owes_the_first_message_by_the_name_of_the_one_that_had_it() {
    let goes_on = |outcome| {
        let mut incident = Incident {
            thread: Some("i0".into()),
            announced_by: Some("i0".into()),
            outcome,
            ..begun(&flip("i1", 5))
        };
        let remark = TimelineEntry::remark(at(-5), "An earlier attempt was cut off when flipback ended: i0");
        incident.timeline.push(remark);
        incident
    };
    let decided = goes_on(IncidentOutcome::Decided);
    assert_eq!(names(&decided, Topic::RollbackCompleted)[0], "i0.rollback_initiated");
    // And so does the one after it, should that be cut off, too.
    assert_eq!(act::announcer(&decided).as_deref(), Some("i0"));
    assert_eq!(act::announcer(&begun(&flip("i1", 5))).as_deref(), Some("i1"));
    // What flips nothing announces no flip.
    let refused = goes_on(IncidentOutcome::Blocked {
        refusal: crate::model::Refusal::StandbyUnseen,
    });
    assert_eq!(
        names(&refused, Topic::RollbackCompleted),
        ["i1.rollback_blocked", "i1.evidence_ready"]
    );
}

// === what follows ===

#[test]
fn what_follows_the_route_is_looked_after_once_while_the_flip_is_young_and_stands() {
    let flip = flip("i1", 5);
    let finish = |preview, mode, active: &str, flip: &FlipRecord| {
        let mut left = left(&[], &[]);
        left.made.insert(flip.incident.clone());
        let deeds = plan(&left, &traffic(active, &[flip]), &spec(preview, mode), at(1));
        left.note(&deeds);
        assert_eq!(plan(&left, &traffic(active, &[flip]), &spec(preview, mode), at(2)), []);
        deeds
    };
    let preview = Some("web-preview");
    assert_eq!(finish(preview, Mode::Enforce, "blue", &flip), [Deed::Finish(flip.clone())]);
    assert_eq!(finish(None, Mode::Enforce, "blue", &flip), []);
    assert_eq!(finish(preview, Mode::Monitor, "blue", &flip), []);
    assert_eq!(finish(preview, Mode::Enforce, "green", &flip), [], "somebody has moved it back");
    assert_eq!(finish(preview, Mode::Enforce, "blue", &self::flip("i1", 3600)), []);
}

#[test]
fn what_follows_a_flip_that_comes_through_late_is_looked_after_too() {
    let flip = flip("i1", 5);
    let incident = begun(&flip);
    let mut left = left(&[&incident], &[]);
    let spec = spec(Some("web-preview"), Mode::Enforce);
    let first = plan(&left, &traffic("green", &[]), &spec, at(1));
    left.note(&first);
    let landed = plan(&left, &traffic("blue", &[&flip]), &spec, at(9));
    assert_eq!(landed, [Deed::Complete(Box::new(incident), flip.clone()), Deed::Finish(flip)]);
}

#[test]
fn a_clock_that_went_backwards_takes_nothing_up_twice() {
    let flip = flip("i1", 5);
    let mut left = left(&[&begun(&flip)], &[]);
    let moved = traffic("blue", &[&flip]);
    assert_eq!(planned(&mut left, &moved, 1).len(), 1);
    assert_eq!(planned(&mut left, &moved, -3600), []);
    assert!(!left.is_over(at(-3600)));
    assert_eq!(Duration::from_secs(60), LATE);
}

#[test]
fn an_end_names_evidence_only_where_there_is_any() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || {
        let metrics = crate::metrics::Metrics::new().expect("registers");
        crate::evidence::Keeper::open(folder.path().to_owned(), EvidenceSettings::default(), metrics)
    };
    let spec = spec(None, Mode::Enforce);
    let incident = begun(&flip("i1", 5));
    let told = |incident: &Incident, keeper: &crate::evidence::Keeper| {
        let end = TimelineEntry::of(Moment::Resolved, at(90), "Over after 90s");
        let over = tell::resolved(incident, &traffic("blue", &[]), &end, 1, keeper, &spec);
        let next = crate::words::Message::of(&over).next.unwrap_or_default();
        (over.evidence.is_some(), next.contains("flipback evidence"))
    };
    // Somebody else moved the route before the patch came: what had been begun was let go.
    let keeper = open();
    assert_eq!(told(&incident, &keeper), (false, false));
    // An earlier run was killed over it, and it was kept as it was.
    std::fs::create_dir_all(keeper.folder("i1")).expect("makes it");
    let keeper = open();
    assert_eq!(told(&incident, &keeper), (true, true));
    let moved = Incident {
        id: "i2".into(),
        outcome: IncidentOutcome::Failed { error: "403".into() },
        ..incident
    };
    assert_eq!(told(&moved, &keeper), (true, true));
}

#[test]
fn conditions_of_two_clusters_are_two_threads() {
    let blind = |cluster: &str| {
        let spec = GuardSpec {
            cluster: cluster.into(),
            ..spec(None, Mode::Enforce)
        };
        tell::note(&spec, None, at(0), Topic::Blind, String::new()).thread
    };
    assert_eq!(
        [blind(""), blind("eu"), blind("us")],
        ["shop.web.blind", "eu.shop.web.blind", "us.shop.web.blind"]
    );
    let several = GuardSpec {
        id: GuardId::new("eu", "shop", "web").expect("valid"),
        cluster: "eu".into(),
        ..spec(None, Mode::Enforce)
    };
    assert_eq!(
        tell::note(&several, None, at(0), Topic::Sighted, String::new()).thread,
        "eu.shop.web.blind"
    );
}
