use super::*;
use crate::{
    evidence::Keeper,
    model::{Incident, Mode, settings::EvidenceSettings},
    monitor::resume::tests::{at, flip, kept, spec},
};

const UNSEEN: Option<Doubt> = Some(Doubt::Unseen);
const NOT_THERE: Option<Doubt> = Some(Doubt::NotThere);

#[test]
fn what_is_seen_is_told_once_and_doubt_is_looked_at_again() {
    use Then::{Again, Ends};
    assert_eq!(next(None, Found::Arrived, true), (Some(Found::Arrived), Ends));
    assert_eq!(next(None, Found::Unseen, true), (Some(Found::Unseen), Again));
    assert_eq!(next(UNSEEN, Found::Unseen, true), (None, Again));
    assert_eq!(next(UNSEEN, Found::Arrived, true), (Some(Found::Arrived), Ends), "it is corrected");
    assert_eq!(next(UNSEEN, Found::NotThere, true), (Some(Found::NotThere), Again));
    assert_eq!(next(None, Found::NotThere, true), (Some(Found::NotThere), Again));
    assert_eq!(next(NOT_THERE, Found::NotThere, true), (None, Again));
    assert_eq!(next(NOT_THERE, Found::Unseen, true), (None, Again), "what was seen is not unsaid");
    assert_eq!(
        next(NOT_THERE, Found::Arrived, true),
        (Some(Found::Arrived), Ends),
        "endpoints were late"
    );
}

#[test]
fn what_nobody_could_ever_look_at_is_told_as_not_arrived_in_the_end() {
    assert_eq!(next(UNSEEN, Found::Unseen, false), (Some(Found::NotThere), Then::Ends));
    assert_eq!(next(NOT_THERE, Found::Unseen, false), (None, Then::Ends));
    let (_, what) = tell::unlooked();
    let entry = tell::found(Found::NotThere, what, at(0));
    assert_eq!(entry.moment, Some(Moment::NotArrived));
    assert!(entry.what.contains("nobody could look"), "{}", entry.what);
}

#[test]
fn the_pauses_between_looks_grow_are_capped_and_end() {
    let pauses: Vec<Duration> = pauses().collect();
    assert_eq!(pauses.len(), LOOKS_MAX);
    // Jitter adds up to as much again.
    assert!(pauses[0] >= AGAIN_MIN && pauses[0] <= AGAIN_MIN * 2, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= AGAIN_LATEST), "{pauses:?}");
    let all: Duration = pauses.iter().sum();
    assert!(
        all >= Duration::from_secs(15 * 60) && all <= Duration::from_secs(36 * 60),
        "{all:?}"
    );
}

fn message(incident: &Incident, topic: Topic) -> crate::model::Announcement {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = crate::metrics::Metrics::new().expect("registers");
    let keeper = Keeper::open(folder.path().to_owned(), EvidenceSettings::default(), metrics);
    tell::incident(incident, topic, &keeper, &spec(None, Mode::Enforce))
}

#[test]
fn an_accepted_patch_is_told_as_one_and_what_was_in_doubt_is_said_when_it_is_known() {
    let mut incident = kept(&flip("i1", 5), &[Moment::Patched]);
    assert_eq!(in_doubt_for(&incident), None);
    let (found, what) = (
        Found::Unseen,
        format!("{}: no route to host", "Whether traffic has arrived could not be looked at"),
    );
    incident.timeline.push(tell::found(found, what, at(0)));
    let unseen = message(&incident, Topic::ArrivalUnseen);
    assert_eq!(unseen.id, "i1.arrival_unseen");
    insta::assert_snapshot!(unseen.why, @"12 % over 5 %. The API server has accepted the patch. Whether traffic has arrived could not be looked at: no route to host");
    assert!(unseen.took_ms.is_some(), "it is told as moved");
    incident.timeline.push(tell::found(Found::Arrived, "Verified".to_owned(), at(60)));
    assert_eq!(in_doubt_for(&incident), Some(Duration::from_secs(65)));
    let completed = message(&incident, Topic::RollbackCompleted);
    assert_eq!(
        (completed.id.as_str(), completed.thread.as_str()),
        ("i1.rollback_completed", unseen.thread.as_str())
    );
    insta::assert_snapshot!(completed.why, @"12 % over 5 %. Traffic was seen to have arrived 1m 5s after it was moved");
    // One that arrived at once is told without further words.
    let plain = kept(&flip("i1", 5), &[Moment::Patched, Moment::Arrived]);
    assert_eq!(message(&plain, Topic::RollbackCompleted).why, "12 % over 5 %");
}
