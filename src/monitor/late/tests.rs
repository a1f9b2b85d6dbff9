use super::*;
use crate::{
    model::{Color, GuardSpec, Topic, settings::EvidenceSettings},
    monitor::resume::tests::{at, begun, flip, guard, kept, spec, traffic},
};

/// The attempt of that flip, told as failed.
fn failed(flip: &FlipRecord) -> Incident {
    let mut incident = begun(flip);
    incident
        .timeline
        .push(crate::model::TimelineEntry::of(Moment::PatchFailed, flip.at, "Failed: no answer"));
    incident.outcome = IncidentOutcome::Failed {
        error: "no answer".to_owned(),
    };
    incident
}

fn ids(found: &[(Incident, FlipRecord)]) -> Vec<&str> {
    found.iter().map(|(incident, _)| incident.id.as_str()).collect()
}

#[test]
fn an_attempt_that_the_ledger_tells_of_is_found_once() {
    let (first, second) = (flip("i1", 20), flip("i2", 10));
    let mut attempts = Attempts::default();
    attempts.remember(failed(&first));
    attempts.remember(failed(&second));
    assert_eq!(ids(&attempts.carried_out(&traffic("green", &[]).ledger)), [""; 0]);
    let somebody_elses = flip("i9", 5);
    assert_eq!(ids(&attempts.carried_out(&traffic("blue", &[&somebody_elses]).ledger)), [""; 0]);
    let moved = traffic("blue", &[&somebody_elses, &second]);
    let found = attempts.carried_out(&moved.ledger);
    assert_eq!((ids(&found), &found[0].1), (vec!["i2"], &second));
    assert_eq!(ids(&attempts.carried_out(&moved.ledger)), [""; 0], "once");
    assert_eq!(attempts.0.len(), 1, "the other one may still come through");
}

#[test]
fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let mut attempts = Attempts::default();
    let flips: Vec<FlipRecord> = (0..40).map(|n| flip(&format!("i{n}"), 100 - n)).collect();
    flips.iter().for_each(|flip| attempts.remember(failed(flip)));
    assert_eq!(attempts.0.len(), ATTEMPTS_MAX);
    assert_eq!(attempts.0.back().map(|incident| incident.id.as_str()), Some("i39"));
    let ledger = traffic("blue", &[&flips[3], &flips[30]]).ledger;
    assert_eq!(ids(&attempts.carried_out(&ledger)), ["i30"]);
}

#[test]
fn a_new_run_remembers_what_young_bundles_tell_as_failed_and_nothing_else() {
    let (young, old) = (failed(&flip("young", 50)), failed(&flip("old", 3600)));
    let mut withheld = failed(&flip("withheld", 50));
    withheld.mode = Mode::Monitor;
    let mut others = failed(&flip("other", 50));
    others.case.guard = GuardId::new("", "shop", "api").expect("valid");
    let moved = kept(&flip("moved", 50), &[Moment::Patched]);
    let attempts = Attempts::of(&guard(), &[old, young, withheld, others, moved], at(0));
    let found: Vec<&str> = attempts.0.iter().map(|incident| incident.id.as_str()).collect();
    assert_eq!(found, ["young"]);
}

#[test]
fn when_it_was_carried_out_is_told_by_the_object_and_never_before_the_decision_or_after_now() {
    let flip = flip("i1", 20);
    let with = |told: Option<i64>, active: &str| {
        let mut traffic = traffic(active, &[&flip]);
        traffic.switched_at = told.map(at);
        carried_out_at(&traffic, &flip, at(5))
    };
    assert_eq!(with(Some(-9), "blue"), at(-9));
    assert_eq!(with(Some(-90), "blue"), at(-20), "whole seconds, another clock");
    assert_eq!(with(Some(90), "blue"), at(5));
    assert_eq!(with(None, "blue"), at(5));
    assert_eq!(with(Some(-9), "green"), at(5), "somebody has moved it back: that is theirs");
}

#[test]
fn what_was_told_wrongly_is_taken_back_by_another_message_of_the_same_thread() {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = crate::metrics::Metrics::new().expect("registers");
    let keeper = crate::evidence::Keeper::open(folder.path().to_owned(), EvidenceSettings::default(), metrics);
    let spec: GuardSpec = spec(None, Mode::Enforce);
    let flip = flip("i1", 20);
    let before = failed(&flip);
    assert!(!is_taken_back(&before));
    let told = tell::incident(&before, Topic::RollbackFailed, &keeper, &spec);
    let mut after = before;
    after.outcome = IncidentOutcome::RolledBack {
        at: at(-11),
        took_ms: 0.0,
        resource_version: "8".to_owned(),
        preview_error: None,
    };
    after
        .timeline
        .push(crate::model::TimelineEntry::of(Moment::Patched, at(-11), "carried out"));
    assert!(is_taken_back(&after));
    let completed = tell::incident(&after, Topic::RollbackCompleted, &keeper, &spec);
    assert_eq!(completed.thread, told.thread);
    assert_eq!(
        (told.id.as_str(), completed.id.as_str()),
        ("i1.rollback_failed", "i1.rollback_completed")
    );
    insta::assert_snapshot!(completed.why, @"12 % over 5 %. Told as failed before, since the answer was lost: the API server carried it out 9s after the decision");
    // A switch that does not arrive is told under a name that no chat has had yet.
    after
        .timeline
        .push(crate::model::TimelineEntry::of(Moment::NotArrived, at(-7), "green is selected"));
    let lost = tell::incident(&after, Topic::RollbackFailed, &keeper, &spec);
    assert_eq!(lost.id, "i1.rollback_failed.2");
    // A restart owes the same messages by the same names, and says then what was known then.
    let owed = tell::owed(&after, Topic::RollbackCompleted, &traffic("blue", &[&flip]), at(1), &keeper, &spec);
    let owed: Vec<(&str, &str)> = owed.iter().map(|message| (message.id.as_str(), message.why.as_str())).collect();
    assert_eq!(
        owed,
        [
            ("i1.rollback_initiated", "12 % over 5 %"),
            ("i1.rollback_failed", "12 % over 5 %. Failed: no answer"),
            ("i1.rollback_failed.2", "12 % over 5 %. green is selected"),
            ("i1.evidence_ready", "12 % over 5 %"),
        ]
    );
}

#[test]
fn only_what_may_have_been_sent_is_looked_for() {
    let lost = || crate::cluster::Fault::deadline(std::time::Duration::from_secs(5));
    let object = || "Service \"shop/web\"".to_owned();
    assert!(may_come_through(&RouterError::Unknown {
        object: object(),
        source: lost()
    }));
    assert!(may_come_through(&RouterError::Broken {
        object: object(),
        said: "index".to_owned()
    }));
    assert!(!may_come_through(&RouterError::Forbidden {
        attempted: "patch",
        object: object(),
        source: lost()
    }));
    assert!(!may_come_through(&RouterError::NoSuchColor {
        object: object(),
        color: Color::new("mauve").expect("valid")
    }));
}
