//! `docs/incident.schema.json` against what is really written: every outcome, every kind of rule, every refusal. And the
//! bundles of former versions, which are read for ever.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    fixture::{at, incident, rule, spec},
    *,
};
use crate::model::{
    Action, AfterWatch, CounterRule, EndpointsRule, Held, Histogram, Hold, IncidentOutcome, Judging, LatencyRule, Moment, Outcome, Policy,
    ProbeRule, Refusal, RuleKind, RuleSpec, ScalarRule, Suppression, TimeUnit, Trigger, Windows,
};

fn published() -> Value {
    serde_json::from_str(include_str!("../../docs/incident.schema.json")).expect("JSON")
}

/// The published schema, closed: a field that it does not describe is an error. Readers must accept such fields, writers
/// must not have them.
fn closed() -> Value {
    let mut schema = published();
    schema["unevaluatedProperties"] = json!(false);
    for definition in schema["$defs"].as_object_mut().expect("definitions").values_mut() {
        if definition["type"] == "object" {
            definition["unevaluatedProperties"] = json!(false);
        }
    }
    schema
}

fn wrong(schema: &Value, incident: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(schema).expect("a sound schema");
    validator
        .iter_errors(incident)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn outcomes() -> Vec<IncidentOutcome> {
    let when = at("2026-11-21T04:12:34.576Z");
    let refusals = [
        Refusal::StandbyNotReady { ready: 0, needed: 2 },
        Refusal::StandbyUnseen,
        Refusal::Paused { by: "ann".into() },
        Refusal::Cooldown { until: when },
        Refusal::Disarmed { flips: 3 },
        Refusal::StandbyKnownBad { release: "77aa".into() },
        Refusal::AlreadyFlipped { release: "9f1c".into() },
        Refusal::Held(Held {
            by: Hold::Maintenance,
            why: "maintenance until 05:00".into(),
        }),
        Refusal::Held(Held {
            by: Hold::ManyFailing,
            why: "4 guards failed within 5 min".into(),
        }),
        Refusal::StandbyUnavailable { why: "it is not".into() },
        Refusal::StandbyProbes {
            why: "2 of 2 failed".into(),
        },
        Refusal::StandbyScaling {
            ready: 0,
            needed: 2,
            until: when,
        },
    ];
    let suppressions = [
        Suppression::BadBefore,
        Suppression::StandbyBad,
        Suppression::FleetBad,
        Suppression::AfterWatch,
        Suppression::ReportOnly,
    ];
    let rolled_back = |preview_error| IncidentOutcome::RolledBack {
        at: when,
        took_ms: 8.5,
        resource_version: "4712".into(),
        preview_error,
    };
    let mut all = vec![
        IncidentOutcome::Decided,
        rolled_back(None),
        rolled_back(Some("it is gone".into())),
        IncidentOutcome::Withheld,
        IncidentOutcome::DryRun,
        IncidentOutcome::Failed { error: "403".into() },
    ];
    all.extend(refusals.map(|refusal| IncidentOutcome::Blocked { refusal }));
    all.extend(suppressions.map(|suppression| IncidentOutcome::Suppressed { suppression }));
    all
}

fn rules() -> Vec<RuleSpec> {
    let counters = || CounterRule {
        threshold: 0.05,
        total: "a".into(),
        bad: "b".into(),
    };
    let latency = |unit, histogram| {
        RuleKind::Latency(LatencyRule {
            quantile: 0.95,
            threshold: Duration::from_millis(1500),
            unit,
            buckets: "a".into(),
            histogram,
        })
    };
    let scalar = || ScalarRule {
        expr: "a".into(),
        max: Some(1.0),
        min: Some(0.5),
        max_ratio_to_standby: Some(1.2),
        max_ratio_to_before: Some(1.3),
        window: Some(Duration::from_secs(90)),
        unit: Some("req/s".into()),
    };
    let probe = |port, body_contains| {
        RuleKind::Probe(ProbeRule {
            threshold: 0.5,
            path: "/health".into(),
            port,
            status: (200, 299),
            body_contains,
            timeout: Duration::from_secs(2),
            retries: 1,
            endpoints_max: 20,
        })
    };
    let kinds = vec![
        RuleKind::ErrorRate(counters()),
        RuleKind::Availability(counters()),
        latency(TimeUnit::Seconds, Histogram::Classic),
        latency(TimeUnit::Milliseconds, Histogram::Native),
        RuleKind::Promql(scalar()),
        RuleKind::Throughput(ScalarRule::default()),
        RuleKind::Saturation(scalar()),
        probe(None, None),
        probe(Some(8080), Some("ok".into())),
        RuleKind::Endpoints(EndpointsRule {
            down_for: Duration::from_secs(10),
        }),
    ];
    let mut rules: Vec<RuleSpec> = kinds.into_iter().map(|kind| RuleSpec::new(rule("any"), kind)).collect();
    rules[0].action = Action::Alert;
    rules[0].windows = Some(Windows {
        short: Duration::from_secs(300),
        long: Duration::from_secs(3600),
    });
    rules
}

/// An incident with every optional field, and one with none.
fn all_kinds() -> Vec<Incident> {
    let mut all: Vec<Incident> = outcomes().into_iter().map(|outcome| Incident { outcome, ..incident() }).collect();
    let mut fullest = incident();
    fullest.rules = rules();
    fullest.switched_at = Some(fullest.case.at);
    fullest.thread = Some("shop.web_20261121T041200.000Z".into());
    fullest.announced_by = Some("shop.web_20261121T041200.000Z".into());
    fullest.replaces = Some("shop.web_20261121T041200.000Z".into());
    fullest.followed_up_at = Some(fullest.case.at);
    fullest.partial = true;
    fullest.capture_errors = vec!["metrics: no answer in time".into()];
    fullest.case.trigger = Trigger::Manual {
        by: "ann".into(),
        reason: "checkout is broken".into(),
    };
    let mut again = incident();
    again.case.trigger = Trigger::Reassert {
        by: "argocd-controller".into(),
        attempt: 1,
        of: 2,
    };
    all.push(again);
    (fullest.case.from_release, fullest.case.to_release) = (None, None);
    for outcome in [
        Outcome::Pass,
        Outcome::Waiting,
        Outcome::Inconclusive("NaN".into()),
        Outcome::Nothing,
    ] {
        let mut state = fullest.case.rules[0].clone();
        (state.outcome, state.below) = (outcome, true);
        (state.bad, state.total, state.value, state.bound, state.sample_at) = (None, None, None, None, None);
        fullest.case.rules.push(state);
    }
    for moment in [
        Moment::Switched,
        Moment::FirstBad,
        Moment::Breach,
        Moment::Decided,
        Moment::Patched,
        Moment::PatchFailed,
        Moment::Arrived,
        Moment::NotArrived,
        Moment::Recovered,
        Moment::DidNotHelp,
        Moment::FlippedBack,
        Moment::MadeAgain,
        Moment::Resolved,
        Moment::FollowedUp,
        Moment::ScaledUp,
        Moment::NotScaled,
        Moment::Relieved,
        Moment::NotRelieved,
        Moment::NotTold,
    ] {
        fullest.timeline.push(TimelineEntry::of(moment, fullest.case.at, "so"));
    }
    for (mode, after_watch) in [
        (Judging::Intervals, AfterWatch::Full),
        (Judging::Classic, AfterWatch::Slow),
        (Judging::Classic, AfterWatch::Alert),
    ] {
        let policy = Policy {
            mode,
            after_watch,
            min_requests: Some(60),
            ..Policy::default()
        };
        all.push(Incident { policy, ..fullest.clone() });
    }
    all
}

#[tokio::test]
async fn whatever_is_written_is_described_by_the_schema() {
    let data = tempfile::tempdir().expect("temporary folder");
    let keeper = Keeper::open(
        data.path().to_owned(),
        EvidenceSettings::default(),
        Metrics::new().expect("registers"),
    );
    let none = || Sources {
        record: None,
        client: Err("none".into()),
        ranges: Box::new(|_, _| Box::pin(async { Ok(Vec::new()) })),
    };
    for (n, mut incident) in all_kinds().into_iter().enumerate() {
        // Each is another incident.
        incident.id = format!("{}-of-{n}", incident.id);
        let folder = keeper.keep(incident.clone(), &spec(), none()).await.expect("keeps");
        let text = fs::read_to_string(folder.join("incident.json")).expect("readable");
        let written: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(wrong(&closed(), &written), Vec::<String>::new(), "{written:#}");
        assert_eq!(wrong(&published(), &written), Vec::<String>::new());
        let read = disk::read(&folder).expect("reads");
        assert_eq!(serde_json::to_value(&read).expect("serializes"), written);
    }
}

#[test]
fn the_schema_refuses_what_is_no_incident_and_accepts_what_is_new() {
    let good = serde_json::to_value(incident()).expect("serializes");
    let changed = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).expect("there") = value;
        !wrong(&published(), &changed).is_empty()
    };
    assert!(changed("/schema", json!(2)));
    assert!(changed("/mode", json!("both")));
    assert!(changed("/case/at", json!("yesterday")));
    assert!(changed("/case/trigger", json!({"kind": "rule"})));
    assert!(
        changed("/outcome", json!({"result": "blocked", "refusal": "cooldown"})),
        "until is missing"
    );
    assert!(changed("/policy/poll", json!(5)));
    let mut newer = good.clone();
    newer["weather"] = json!("fair");
    newer["case"]["weather"] = json!("fair");
    assert_eq!(wrong(&published(), &newer), Vec::<String>::new());
    assert!(!wrong(&closed(), &newer).is_empty(), "the closed one would have noticed");
}

/// Bundles as flipback wrote them when schema 1 began; their files are never to be changed.
#[test]
fn bundles_of_former_versions_are_read_for_ever() {
    let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles");
    let mut read = Vec::new();
    for bundle in disk::entries(&bundles).expect("readable") {
        let incident = disk::read(&bundle).unwrap_or_else(|error| panic!("{}: {error}", bundle.display()));
        let text = fs::read_to_string(bundle.join("incident.json")).expect("readable");
        assert_eq!(
            wrong(&published(), &serde_json::from_str(&text).expect("JSON")),
            Vec::<String>::new()
        );
        let whole = Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", "MANIFEST.sha256"])
            .current_dir(&bundle)
            .status();
        assert!(whole.expect("sha256sum runs").success(), "{}", bundle.display());
        let series = fs::read_to_string(bundle.join("metrics/error_rate.green.json")).expect("readable");
        let series: Vec<Series> = serde_json::from_str(&series).expect("series");
        read.push(format!(
            "{}: {} at {}, {} -> {}, {} lines of story, {} of rules, series {}",
            bundle.file_name().expect("named").to_string_lossy(),
            incident.case.why,
            incident.case.at,
            incident.case.from,
            incident.case.to,
            incident.timeline.len(),
            incident.rules.len(),
            series.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(" "),
        ));
    }
    insta::assert_snapshot!("former_versions", read.join("\n"));
}
