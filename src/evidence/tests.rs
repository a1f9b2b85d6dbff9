//! The keeper against a double of the API server and a real disk.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt;
use tokio::time::{Instant, sleep, timeout};

use super::{
    fixture::{self, AT, ApiDouble, Quirks, at, incident, series, spec},
    *,
};
use crate::model::{GuardSpec, IncidentOutcome, Moment, ProbeRule, RuleKind, RuleSpec};

struct Kept {
    data: tempfile::TempDir,
    keeper: Keeper,
}

fn keeper() -> Kept {
    let data = tempfile::tempdir().expect("temporary folder");
    let keeper = Keeper::open(
        data.path().to_owned(),
        EvidenceSettings::default(),
        Metrics::new().expect("registers"),
    );
    Kept { data, keeper }
}

/// Longer than anything takes that ends by itself, on any machine.
const EVER: Duration = Duration::from_secs(120);

/// Deadline of a spec, for tests that run into it.
fn hurried(deadline: Duration) -> GuardSpec {
    let mut spec = spec();
    spec.evidence.deadline = deadline;
    spec
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("below").display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// `sha256sum` is the witness: the manifest holds for every file there is.
fn assert_whole(folder: &Path) {
    let mut check = Command::new("sha256sum");
    check
        .args(["--check", "--strict", "--quiet", "MANIFEST.sha256"])
        .current_dir(folder)
        .stdout(Stdio::null());
    assert!(
        check.status().expect("sha256sum runs").success(),
        "the manifest of {folder:?} does not hold"
    );
    let manifest = read(folder, "MANIFEST.sha256");
    let listed: Vec<_> = manifest
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(_, file)| file.to_owned())
        .collect();
    let mut there = files(folder);
    there.retain(|file| file != "MANIFEST.sha256");
    assert_eq!(listed, there);
}

fn names(incidents: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(incidents)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_bundle_holds_everything_and_no_secret() {
    let Kept { data, keeper } = keeper();
    let api = ApiDouble::new(Quirks::default());
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    assert_eq!(folder, keeper.folder("shop.web_20261121T041234.567Z"));
    assert_eq!(names(&data.path().join("incidents")), ["shop.web_20261121T041234.567Z"]);
    assert_whole(&folder);
    insta::assert_snapshot!("files", files(&folder).join("\n"));
    insta::assert_snapshot!("incident", read(&folder, "incident.json"));
    insta::assert_snapshot!("csv", read(&folder, "metrics/error_rate.green.csv"));
    insta::assert_snapshot!("pods", read(&folder, "manifests/pods.green.json"));
    let events = read(&folder, "events.json");
    let (service, pod) = (
        events.find("\"Service\"").expect("event"),
        events.find("web-green-2").expect("event"),
    );
    assert!(
        service < pod && !events.contains("somebody-elses"),
        "oldest first, ours only: {events}"
    );
    assert_eq!(read(&folder, "decision.jsonl"), fixture::RECORD);
    for file in files(&folder) {
        // A picture is no text, and what it says is said in the report as well.
        let bytes = fs::read(folder.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{file}: {text}");
    }
    let asked = api.asked.lock().expect("sound").clone();
    assert!(
        asked
            .iter()
            .all(|request| request.starts_with("GET ") && !request.contains("/secrets")),
        "{asked:?}"
    );
    assert_eq!(keeper.metrics.evidence_bundles.with_label_values(&["complete"]).get(), 1);
}

#[tokio::test]
async fn what_a_rule_asks_for_is_cleaned_in_the_case_the_record_and_the_report() {
    let Kept { data: _data, keeper } = keeper();
    let api = ApiDouble::new(Quirks::default());
    let mut incident = incident();
    let probe = RuleSpec {
        name: fixture::rule("probe"),
        kind: RuleKind::Probe(ProbeRule {
            threshold: 0.5,
            path: "/health?token=hunter2hunter2".into(),
            port: None,
            status: (200, 299),
            body_contains: None,
            timeout: Duration::from_secs(2),
            retries: 1,
            endpoints_max: 20,
        }),
        ..spec().rules[0].clone()
    };
    incident.rules = vec![probe.clone()];
    let probe = serde_json::to_string(&probe).expect("serializes");
    let record = format!("{{\"flipback_trace\":1,\"rules\":[{probe}]}}\n{{\"t\":1.0}}\n");
    let sources = Sources {
        record: Some(record),
        ..api.sources()
    };
    let folder = keeper.keep(incident, &spec(), sources).await.expect("keeps");
    for file in files(&folder) {
        let bytes = fs::read(folder.join(&file)).expect("readable");
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"), "{file}");
    }
    assert!(read(&folder, "incident.json").contains("/health?token=[redacted]"));
    let record = read(&folder, "decision.jsonl");
    let header: serde_json::Value = serde_json::from_str(record.lines().next().expect("a header")).expect("still JSON");
    assert_eq!(header["rules"][0]["path"], "/health?token=[redacted]");
    assert_eq!(record.lines().nth(1), Some("{\"t\":1.0}"));
}

#[tokio::test]
async fn where_a_color_belongs_to_a_rollout_it_and_its_analyses_are_kept_and_nowhere_else_asked_for() {
    let Kept { data: _data, keeper } = keeper();
    let api = ApiDouble::new(Quirks {
        rollout: Some("web"),
        ..Quirks::default()
    });
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    assert_whole(&folder);
    let rollout = read(&folder, "manifests/rollout.web.json");
    assert!(
        rollout.contains("\"kind\": \"Rollout\"") && rollout.contains("Degraded") && !rollout.contains("hunter2"),
        "{rollout}"
    );
    let runs = read(&folder, "manifests/analysisruns.json");
    assert!(runs.contains("web-1-pre") && !runs.contains("mail-7-pre"), "{runs}");

    let Kept { data: _data, keeper } = self::keeper();
    let forbidden = ApiDouble::new(Quirks {
        rollout: Some("web"),
        forbidden: vec!["argoproj.io"],
        ..Quirks::default()
    });
    let folder = keeper.keep(incident(), &spec(), forbidden.sources()).await.expect("keeps");
    let missing = read(&folder, "incident.json");
    assert!(
        missing.contains("manifests/rollout.web.json: the API server answered 403"),
        "{missing}"
    );
    assert!(
        missing.contains("manifests/analysisruns.json: the API server answered 403"),
        "{missing}"
    );

    let Kept { data: _data, keeper } = self::keeper();
    let plain = ApiDouble::new(Quirks::default());
    keeper.keep(incident(), &spec(), plain.sources()).await.expect("keeps");
    assert!(!plain.asked.lock().expect("sound").iter().any(|asked| asked.contains("argoproj")));
}

#[tokio::test]
async fn a_missing_previous_container_is_no_error() {
    let Kept { keeper, data: _data } = keeper();
    let api = ApiDouble::new(Quirks::default());
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    let asked = api.asked.lock().expect("sound").clone();
    assert!(
        asked
            .iter()
            .any(|request| request.contains("web-blue-1/log") && request.contains("previous=true")),
        "it was asked for"
    );
    assert_eq!(disk::read(&folder).expect("reads").capture_errors, Vec::<String>::new());
    assert!(folder.join("logs/green/web-green-1/app.previous.log").exists());
    assert!(!folder.join("logs/blue/web-blue-1/app.previous.log").exists());
}

#[tokio::test]
async fn a_log_that_hangs_ends_on_time_and_costs_only_its_own_end() {
    let Kept { keeper, data: _data } = keeper();
    let api = ApiDouble::new(Quirks {
        stuck: vec!["web-green-1/log"],
        silent: vec!["web-blue-1/log"],
        ..Quirks::default()
    });
    // They never end by themselves: that this ends is the claim.
    let folder = timeout(EVER, keeper.keep(incident(), &hurried(Duration::from_secs(2)), api.sources()))
        .await
        .expect("ends")
        .expect("keeps");
    assert_whole(&folder);
    assert!(
        read(&folder, "logs/green/web-green-1/app.log").contains("line 1"),
        "what had arrived is kept"
    );
    assert!(read(&folder, "logs/green/web-green-2/app.log").contains("line 1"));
    assert!(folder.join("metrics/error_rate.green.json").exists() && folder.join("events.json").exists());
    let errors = disk::read(&folder).expect("reads").capture_errors;
    let named = |file: &str| errors.iter().any(|error| error.starts_with(file));
    assert!(
        named("logs/green/web-green-1/app.log") && named("logs/blue/web-blue-1/proxy.log"),
        "{errors:?}"
    );
    assert!(!named("logs/green/web-green-2/app.log"), "{errors:?}");
    assert_eq!(keeper.metrics.evidence_bundles.with_label_values(&["partial"]).get(), 1);
}

#[tokio::test]
async fn a_dead_api_server_and_prometheus_leave_the_case_and_their_names() {
    let Kept { keeper, data: _data } = keeper();
    let sources = Sources {
        record: None,
        client: Err("no kubeconfig: set KUBECONFIG".into()),
        ranges: Box::new(|_, _| async { Err("Prometheus does not answer".to_owned()) }.boxed()),
    };
    let folder = keeper.keep(incident(), &spec(), sources).await.expect("keeps");
    let mut expected = incident();
    expected.capture_errors = vec![
        "cluster: no kubeconfig: set KUBECONFIG".into(),
        "metrics: Prometheus does not answer".into(),
    ];
    let mut found = disk::read(&folder).expect("reads");
    found.capture_errors.sort();
    assert_eq!(found, expected);
    // What there is to report on is reported; nothing was measured that could be drawn.
    let there = ["MANIFEST.sha256", "incident.json", "report.html", "report.md", "timeline.json"];
    assert_eq!(files(&folder), there);
    assert_whole(&folder);
}

#[tokio::test]
async fn a_silent_api_server_ends_on_time() {
    let Kept { keeper, data: _data } = keeper();
    let api = ApiDouble::new(Quirks {
        silent: vec!["/"],
        ..Quirks::default()
    });
    let folder = timeout(EVER, keeper.keep(incident(), &hurried(Duration::from_secs(1)), api.sources()))
        .await
        .expect("ends")
        .expect("keeps");
    let errors = disk::read(&folder).expect("reads").capture_errors;
    assert!(
        errors.contains(&"manifests/service.web.json: no answer in time".to_owned()),
        "{errors:?}"
    );
}

#[tokio::test]
async fn what_may_not_be_read_is_named_with_the_servers_words() {
    let Kept { keeper, data: _data } = keeper();
    let api = ApiDouble::new(Quirks {
        forbidden: vec!["/pods?"],
        missing: vec!["deployments/web-blue"],
        ..Quirks::default()
    });
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    let errors = disk::read(&folder).expect("reads").capture_errors;
    let forbidden =
        "manifests/pods.green.json: the API server answered 403: pods is forbidden: User \"flipback\" cannot list resource \"pods\"";
    assert!(errors.contains(&forbidden.to_owned()), "{errors:?}");
    assert!(
        errors.contains(&"manifests/deployment.web-blue.json: the API server answered 404: not found".to_owned()),
        "{errors:?}"
    );
    assert!(folder.join("manifests/service.web.json").exists());
}

#[tokio::test]
async fn a_pod_whose_name_is_a_path_stays_in_the_folder() {
    let Kept { keeper, data } = keeper();
    let api = ApiDouble::new(Quirks {
        pod: Some("../../../../evil"),
        ..Quirks::default()
    });
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    assert_whole(&folder);
    assert_eq!(names(data.path()), ["incidents"]);
    assert_eq!(names(&data.path().join("incidents")).len(), 1);
}

#[tokio::test]
async fn a_long_log_keeps_its_newest_lines() {
    let Kept { keeper, data: _data } = keeper();
    let api = ApiDouble::new(Quirks {
        lines: 5000,
        ..Quirks::default()
    });
    let mut spec = spec();
    spec.evidence.log_bytes = 1000;
    let folder = keeper.keep(incident(), &spec, api.sources()).await.expect("keeps");
    let log = read(&folder, "logs/green/web-green-2/app.log");
    assert!(log.len() <= 1200 && log.starts_with("2026-") && log.contains("line 4999 "), "{log}");
    let asked = api.asked.lock().expect("sound").clone();
    let request = asked.iter().find(|request| request.contains("web-green-2/log")).expect("asked");
    assert!(
        request.contains("tailLines=500") && request.contains("limitBytes=16000"),
        "{request}"
    );
}

#[tokio::test]
async fn metric_ranges_are_asked_for_once_their_end_has_come() {
    let Kept { keeper, data: _data } = keeper();
    let mut spec = spec();
    spec.evidence.after = Duration::from_millis(300);
    let asked = Arc::new(Mutex::new(None));
    let (begun, noted) = (Instant::now(), Arc::clone(&asked));
    let sources = Sources {
        record: None,
        client: Err("none".into()),
        ranges: Box::new(move |from, to| {
            *noted.lock().expect("sound") = Some((from, to, begun.elapsed()));
            async { Ok(series()) }.boxed()
        }),
    };
    keeper.keep(incident(), &spec, sources).await.expect("keeps");
    let (from, to, waited) = asked.lock().expect("sound").take().expect("asked");
    assert_eq!((from, to), (at("2026-11-21T03:42:34.567Z"), at("2026-11-21T04:12:34.867Z")));
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
}

#[tokio::test]
async fn a_crash_in_mid_capture_is_finished_by_the_next_start() {
    let Kept { data, keeper } = keeper();
    let incidents = data.path().join("incidents");
    let api = ApiDouble::new(Quirks {
        silent: vec!["web-green-2/log"],
        ..Quirks::default()
    });
    let capture = tokio::spawn({
        let (keeper, sources) = (keeper.clone(), api.sources());
        async move { keeper.keep(incident(), &spec(), sources).await }
    });
    let partial = incidents.join(".partial-shop.web_20261121T041234.567Z");
    timeout(Duration::from_secs(10), async {
        while !partial.join("events.json").exists() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the capture is under way");
    assert_eq!(disk::read(&partial).expect("incident.json is there first").id, incident().id);

    // A second process that starts meanwhile leaves it alone.
    let open = || {
        Keeper::open(
            data.path().to_owned(),
            EvidenceSettings::default(),
            Metrics::new().expect("registers"),
        )
    };
    open();
    assert!(partial.exists());

    capture.abort();
    let _ = capture.await;
    // What else a crash can leave: a folder that had not got its incident.json yet.
    fs::create_dir(incidents.join(".partial-empty")).expect("made");
    let reopened = open();
    assert_eq!(names(&incidents), ["shop.web_20261121T041234.567Z"]);
    let folder = reopened.folder("shop.web_20261121T041234.567Z");
    assert_whole(&folder);
    let errors = disk::read(&folder).expect("reads").capture_errors;
    assert_eq!(
        errors,
        ["capture: interrupted when flipback ended; what had been captured by then is kept"]
    );
    assert!(folder.join("events.json").exists());
    assert!(disk::read(&folder).expect("reads").partial, "a program can tell");
    assert_eq!(reopened.awaiting().len(), 1, "its second pass is still to be made");
}

#[tokio::test]
async fn a_story_goes_on_during_the_capture_and_after_it() {
    let Kept { keeper, data } = keeper();
    let api = ApiDouble::new(Quirks {
        silent: vec!["events"],
        ..Quirks::default()
    });
    let capture = tokio::spawn({
        let (keeper, sources) = (keeper.clone(), api.sources());
        async move { keeper.keep(incident(), &hurried(Duration::from_secs(1)), sources).await }
    });
    let id = incident().id;
    let line = |what: &str| TimelineEntry::remark(at(AT), what);
    let partial = data.path().join("incidents").join(format!(".partial-{id}"));
    timeout(Duration::from_secs(10), async {
        while !partial.join("incident.json").exists() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("begun");
    keeper.amend(&id, line("during")).await.expect("amends");
    let folder = capture.await.expect("no panic").expect("keeps");
    keeper.amend(&id, line("recovered")).await.expect("amends");
    let found = disk::read(&folder).expect("reads");
    let story: Vec<_> = found.timeline.iter().map(|entry| entry.what.as_str()).collect();
    assert!(story[1].starts_with("Recorded in decision.jsonl: `flipback replay"), "{story:?}");
    assert_eq!(story.get(2..), Some(["during", "recovered"].as_slice()));
    assert!(!found.capture_errors.is_empty());
    assert_whole(&folder);
    let missing = keeper.amend("../nothing", line("x")).await.expect_err("there is none");
    assert!(matches!(missing, EvidenceError::Missing { .. }), "{missing}");
}

fn nothing() -> Sources {
    Sources {
        record: None,
        client: Err("none".into()),
        ranges: Box::new(|_, _| async { Ok(Vec::new()) }.boxed()),
    }
}

#[tokio::test]
async fn two_incidents_with_one_id_are_two_folders() {
    let Kept { keeper, data } = keeper();
    let (first, mut second) = (incident(), incident());
    second.case.why = "something else".into();
    let spec = spec();
    let (first, second) = tokio::join!(keeper.keep(first, &spec, nothing()), keeper.keep(second, &spec, nothing()));
    let mut folders = [first.expect("keeps"), second.expect("keeps")];
    folders.sort();
    let [first, second] = folders;
    assert_eq!(second.file_name().expect("named").to_string_lossy(), format!("{}-2", incident().id));
    assert_eq!(disk::read(&second).expect("reads").id, format!("{}-2", incident().id));
    assert_whole(&first);
    assert_whole(&second);
    assert_eq!(list(data.path()).expect("lists").len(), 2);
}

#[tokio::test]
async fn whether_there_is_a_bundle_is_known_without_a_look_at_the_disk() {
    let Kept { data, keeper } = keeper();
    let incident = incident();
    assert!(!keeper.has_bundle(&incident.id));
    keeper.begin(&incident, &spec(), None).await.expect("begins");
    assert!(!keeper.has_bundle(&incident.id), "begun is not whole");
    keeper.keep(incident.clone(), &spec(), nothing()).await.expect("keeps");
    assert!(keeper.has_bundle(&incident.id));
    let next = Keeper::open(
        data.path().to_owned(),
        EvidenceSettings::default(),
        Metrics::new().expect("registers"),
    );
    assert!(next.has_bundle(&incident.id), "what an earlier run kept");
    assert!(next.under(EvidenceSettings::default()).let_go(&incident.id).await.expect("lets go"));
    assert!(!next.has_bundle(&incident.id));
}

#[tokio::test]
async fn one_incident_kept_twice_is_one_folder() {
    let Kept { keeper, data } = keeper();
    let spec = spec();
    let (first, second) = tokio::join!(keeper.keep(incident(), &spec, nothing()), keeper.keep(incident(), &spec, nothing()));
    assert_eq!(first.expect("keeps"), second.expect("keeps"));
    keeper.keep(incident(), &spec, nothing()).await.expect("is kept");
    assert_eq!(names(&data.path().join("incidents")), [incident().id]);
}

/// The same incident, as it was told before and after it was seen to have moved traffic.
fn failed_and_moved() -> (Incident, Incident) {
    let mut failed = incident();
    failed.outcome = IncidentOutcome::Failed { error: "no answer".into() };
    failed
        .timeline
        .push(TimelineEntry::of(Moment::PatchFailed, at(AT), "Failed: no answer"));
    let mut moved = failed.clone();
    moved.outcome = IncidentOutcome::RolledBack {
        at: at(AT),
        took_ms: 0.0,
        resource_version: "8".into(),
        preview_error: None,
    };
    moved.timeline.push(TimelineEntry::of(Moment::Patched, at(AT), "carried out"));
    (failed, moved)
}

#[tokio::test]
async fn a_bundle_that_tells_of_a_failure_is_corrected_where_it_lies() {
    let Kept { keeper, data } = keeper();
    let (spec, (failed, moved)) = (spec(), failed_and_moved());
    let missing = keeper.correct(&moved).await.expect_err("there is none yet");
    assert!(matches!(missing, EvidenceError::Missing { .. }), "{missing}");
    let folder = keeper.keep(failed.clone(), &spec, nothing()).await.expect("keeps");
    keeper
        .amend(&failed.id, TimelineEntry::remark(at(AT), "a chat was not told"))
        .await
        .expect("amends");
    let report = |folder: &Path| read(folder, "report.md");
    assert!(report(&folder).contains("no answer"), "{}", report(&folder));
    assert_eq!(keeper.correct(&moved).await.expect("corrects"), folder);
    keeper.correct(&moved).await.expect("again, and nothing changes");
    keeper.rendered().await;
    assert_whole(&folder);
    let found = disk::read(&folder).expect("reads");
    assert_eq!(found.outcome, moved.outcome);
    let story: Vec<&str> = found.timeline.iter().map(|entry| entry.what.as_str()).collect();
    let end = story.len() - 3;
    assert_eq!(
        story[end..],
        ["Failed: no answer", "a chat was not told", "carried out"],
        "{story:?}"
    );
    assert!(report(&folder).contains("carried out"), "{}", report(&folder));
    // A try to keep what was known before comes late, and changes nothing.
    assert_eq!(keeper.keep(failed, &spec, nothing()).await.expect("is kept"), folder);
    assert_eq!(names(&data.path().join("incidents")), [incident().id]);
    assert_eq!(disk::read(&folder).expect("reads").outcome, moved.outcome);
}

#[tokio::test]
async fn a_bundle_in_the_making_that_was_corrected_is_not_taken_back_by_who_makes_it() {
    let Kept { keeper, data } = keeper();
    let (spec, (failed, moved)) = (spec(), failed_and_moved());
    keeper.begin(&failed, &spec, None).await.expect("begins");
    keeper.correct(&moved).await.expect("corrects what was begun");
    let folder = keeper.keep(failed, &spec, nothing()).await.expect("keeps");
    assert_eq!(names(&data.path().join("incidents")), [incident().id]);
    let found = disk::read(&folder).expect("reads");
    assert_eq!(found.outcome, moved.outcome);
    assert!(
        found.timeline.iter().any(|entry| entry.what == "carried out"),
        "{:?}",
        found.timeline
    );
    assert_whole(&folder);
}

#[test]
fn incidents_are_listed_newest_first_and_foreign_folders_are_skipped() {
    let data = tempfile::tempdir().expect("temporary folder");
    assert_eq!(list(data.path()).expect("nothing yet"), []);
    let incidents = data.path().join("incidents");
    for (id, when) in [("a", "2026-11-21T04:00:00Z"), ("b", "2026-11-21T05:00:00Z")] {
        let mut kept = incident();
        kept.id = id.into();
        kept.case.at = at(when);
        let space = Space::new(incidents.clone(), Arc::default());
        let begun = disk::begin(&incidents, kept, Some(super::fixture::RECORD), &space).expect("begins");
        let bundle = begun.bundle();
        disk::seal(&bundle, &disk::contents(&bundle.partial).expect("readable")).expect("seals");
    }
    let mut newer = serde_json::to_value(incident()).expect("serializes");
    newer["schema"] = 2.into();
    newer["case"] = "something else altogether".into();
    for (folder, text) in [
        ("newer", newer.to_string()),
        ("broken", "{".to_owned()),
        (".partial-x", "{".to_owned()),
    ] {
        fs::create_dir(incidents.join(folder)).expect("made");
        fs::write(incidents.join(folder).join("incident.json"), text).expect("written");
    }
    let found: Vec<_> = list(data.path())
        .expect("lists")
        .into_iter()
        .map(|(_, incident)| incident.id)
        .collect();
    assert_eq!(found, ["b", "a"]);
    let error = disk::read(&incidents.join("newer")).expect_err("refused").to_string();
    assert!(
        error.ends_with("has schema 2, and this flipback reads schema 1: read it with the version that wrote it"),
        "{error}"
    );
}

#[test]
fn an_incident_comes_back_as_it_was_written() {
    let text = serde_json::to_string(&incident()).expect("serializes");
    assert_eq!(serde_json::from_str::<Incident>(&text).expect("parses"), incident());
}

#[test]
fn a_disk_that_hangs_delays_a_start_and_no_more() {
    let data = tempfile::tempdir().expect("temporary folder");
    let folder = data.path().join("incidents/hung");
    fs::create_dir_all(&folder).expect("made");
    // Opening it waits for a writer that never comes, as reading from a dead volume does.
    let made = std::process::Command::new("mkfifo").arg(folder.join("incident.json")).status();
    assert!(made.expect("mkfifo runs").success());
    // What waits for the disk waits for ever: only who gives up comes back.
    let (came, back) = std::sync::mpsc::channel();
    let folder = data.path().to_owned();
    std::thread::spawn(move || {
        let keeper = Keeper::open(folder, EvidenceSettings::default(), Metrics::new().expect("registers"));
        // Nobody may be waiting any more.
        let _ = came.send((keeper.kept(), keeper.unfinished()));
    });
    let known = back.recv_timeout(EVER).expect("a start comes back");
    assert_eq!(known, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_used_says_what_to_do() {
    let data = tempfile::tempdir().expect("temporary folder");
    let taken = data.path().join("data");
    fs::write(&taken, "a file").expect("written");
    let error = disk::make_folder(&taken.join("incidents")).expect_err("refused").to_string();
    assert!(
        error.contains("something else has that name: move it away, or set data_dir to another folder"),
        "{error}"
    );

    // Taken away while flipback runs.
    let Kept { keeper, data } = keeper();
    fs::remove_dir(data.path().join("incidents")).expect("removed");
    fs::write(data.path().join("incidents"), "a file").expect("written");
    let failure = keeper
        .keep(incident(), &spec(), ApiDouble::new(Quirks::default()).sources())
        .await
        .expect_err("refused");
    assert!(matches!(failure, EvidenceError::Disk { .. }), "{failure}");
    assert_eq!(keeper.metrics.evidence_bundles.with_label_values(&["failed"]).get(), 1);
}

#[tokio::test]
async fn a_disk_that_hangs_is_not_waited_for() {
    let places = Arc::new(Semaphore::new(1));
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let limit = Duration::from_millis(50);
    let hung = disk::bounded(&places, limit, "write", "x".into(), move || Ok(blocked.recv().is_ok())).await;
    let error = hung.expect_err("given up").to_string();
    assert!(
        error.starts_with("failed to write \"x\" within 50ms (the disk hangs or is busy"),
        "{error}"
    );
    // The hung one keeps its place: no second thread hangs.
    let second = disk::bounded(&places, limit, "write", "x".into(), || Ok(())).await;
    assert!(matches!(second, Err(EvidenceError::Slow { .. })));
    unblock.send(()).expect("still waiting");
}

/// Modes below a folder that are not 0700 and 0600.
fn open_to_others(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).expect("readable").permissions().mode() & 0o7777;
        if mode(&next) != 0o700 {
            found.push(format!("{:o} {}", mode(&next), next.display()));
        }
        for entry in fs::read_dir(next).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if mode(&path) != 0o600 {
                found.push(format!("{:o} {}", mode(&path), path.display()));
            }
        }
    }
    found
}

#[tokio::test]
async fn the_second_pass_adds_what_came_after_and_replaces_the_metrics() {
    let Kept { keeper, data } = keeper();
    let api = ApiDouble::new(Quirks::default());
    let mut sources = api.sources();
    sources.ranges = Box::new(|_, _| async { Err("Prometheus does not answer".to_owned()) }.boxed());
    let folder = keeper.keep(incident(), &spec(), sources).await.expect("keeps");
    assert_eq!(keeper.awaiting().len(), 1);
    let first = files(&folder);
    assert!(!first.iter().any(|file| file.starts_with("metrics/")), "{first:?}");

    let asked = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&asked);
    let mut sources = api.sources();
    sources.ranges = Box::new(move |from, to| {
        *noted.lock().expect("sound") = Some((from, to));
        async { Ok(series()) }.boxed()
    });
    let now = at("2026-11-21T04:20:00Z");
    let again = keeper.follow_up(&incident().id, &spec(), sources, now).await.expect("follows up");
    assert_eq!(again, folder);
    assert_whole(&folder);
    assert_eq!(names(&data.path().join("incidents")), [incident().id]);
    assert_eq!(*asked.lock().expect("sound"), Some((at("2026-11-21T03:42:34.567Z"), now)));
    let added: Vec<String> = files(&folder).into_iter().filter(|file| !first.contains(file)).collect();
    insta::assert_snapshot!("second_pass", added.join("\n"));

    let found = disk::read(&folder).expect("reads");
    assert_eq!(found.followed_up_at, Some(now));
    assert_eq!(found.capture_errors, Vec::<String>::new(), "the metrics are there now");
    let last = found.timeline.last().expect("a line");
    assert_eq!((last.moment, last.at), (Some(crate::model::Moment::FollowedUp), now));
    assert!(keeper.awaiting().is_empty());
    assert_eq!(open_to_others(&folder), Vec::<String>::new());

    // Once is enough.
    let before = read(&folder, "MANIFEST.sha256");
    keeper
        .follow_up(&incident().id, &spec(), api.sources(), at("2026-11-21T05:00:00Z"))
        .await
        .expect("answers");
    assert_eq!(read(&folder, "MANIFEST.sha256"), before);
    let none = keeper
        .follow_up("shop.other", &spec(), api.sources(), now)
        .await
        .expect_err("there is none");
    assert!(matches!(none, EvidenceError::Missing { .. }), "{none}");
}

#[tokio::test]
async fn a_second_pass_that_gets_nothing_keeps_the_first_and_says_so() {
    let Kept { keeper, data: _data } = keeper();
    let api = ApiDouble::new(Quirks::default());
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    let metrics = read(&folder, "metrics/error_rate.green.csv");
    let sources = Sources {
        record: None,
        client: Err("the kubeconfig is gone".into()),
        ranges: Box::new(|_, _| async { Err("Prometheus does not answer".to_owned()) }.boxed()),
    };
    keeper
        .follow_up(&incident().id, &spec(), sources, at("2026-11-21T04:20:00Z"))
        .await
        .expect("follows up");
    assert_whole(&folder);
    assert_eq!(read(&folder, "metrics/error_rate.green.csv"), metrics);
    let mut errors = disk::read(&folder).expect("reads").capture_errors;
    errors.sort();
    assert_eq!(
        errors,
        [
            "after/cluster: the kubeconfig is gone",
            "metrics: Prometheus does not answer (second pass; the first one's are kept)"
        ]
    );
}

#[tokio::test]
async fn a_second_pass_waits_for_the_first() {
    let Kept { keeper, data: _data } = keeper();
    let slow = ApiDouble::new(Quirks {
        silent: vec!["events"],
        ..Quirks::default()
    });
    let capture = tokio::spawn({
        let (keeper, sources) = (keeper.clone(), slow.sources());
        async move { keeper.keep(incident(), &hurried(Duration::from_secs(1)), sources).await }
    });
    let partial = keeper.incidents.join(format!(".partial-{}", incident().id));
    timeout(Duration::from_secs(10), async {
        while !partial.join("incident.json").exists() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("begun");
    let api = ApiDouble::new(Quirks::default());
    let folder = keeper
        .follow_up(
            &incident().id,
            &hurried(Duration::from_secs(1)),
            api.sources(),
            at("2026-11-21T04:20:00Z"),
        )
        .await
        .expect("follows up");
    capture.await.expect("no panic").expect("kept");
    assert_whole(&folder);
    assert!(folder.join("after/events.json").exists());
}

/// The umask of a process cannot be set from safe code: a shell sets it and runs this test again.
#[test]
fn nobody_else_reads_a_bundle_whatever_the_umask() {
    const INNER: &str = "FLIPBACK_TEST_UMASK";
    let name = "evidence::tests::nobody_else_reads_a_bundle_whatever_the_umask";
    if let Some(data) = std::env::var_os(INNER) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let data = Path::new(&data).join("data");
            let keeper = Keeper::open(data.clone(), EvidenceSettings::default(), Metrics::new().expect("registers"));
            let api = ApiDouble::new(Quirks::default());
            let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
            // What others write into a bundle is seen to as well, when it is listed next.
            keeper
                .amend(&incident().id, TimelineEntry::remark(at(AT), "more"))
                .await
                .expect("amends");
            assert_eq!(open_to_others(&folder), Vec::<String>::new());
            keeper
                .follow_up(&incident().id, &spec(), api.sources(), at("2026-11-21T04:20:00Z"))
                .await
                .expect("follows up");
            assert_eq!(open_to_others(&data.join("incidents")), Vec::<String>::new());
        });
        return;
    }
    for umask in ["000", "022", "277"] {
        let data = tempfile::tempdir().expect("temporary folder");
        let test = std::env::current_exe().expect("this test");
        let ran = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(test)
            .args(["--exact", name, "--nocapture"])
            .env(INNER, data.path())
            .output()
            .expect("sh runs");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "umask {umask}: {said}");
    }
}

#[test]
fn folders_of_an_older_flipback_are_closed_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().expect("temporary folder");
    let incidents = data.path().join("incidents");
    fs::create_dir(&incidents).expect("made");
    fs::set_permissions(&incidents, fs::Permissions::from_mode(0o750)).expect("set");
    let _ = Keeper::open(
        data.path().to_owned(),
        EvidenceSettings::default(),
        Metrics::new().expect("registers"),
    );
    assert_eq!(open_to_others(&incidents), Vec::<String>::new());
}

#[tokio::test]
async fn everything_captured_is_cleaned_of_own_patterns_too() {
    let data = tempfile::tempdir().expect("temporary folder");
    let settings = EvidenceSettings {
        redact: vec![
            "line [0-9]+".to_owned(),
            "sum\\(share\\)".to_owned(),
            "example/shop".to_owned(),
            r"pods is (\w+)".to_owned(),
        ],
        ..EvidenceSettings::default()
    };
    let keeper = Keeper::open(data.path().to_owned(), settings, Metrics::new().expect("registers"));
    let api = ApiDouble::new(Quirks {
        forbidden: vec!["/replicasets?"],
        ..Quirks::default()
    });
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    let log = read(&folder, "logs/green/web-green-1/app.log");
    assert!(log.contains(" [redacted] postgres://app:[redacted]@db/shop"), "{log}");
    let queries = read(&folder, "metrics/error_rate.green.json");
    assert!(queries.contains("[redacted]") && !queries.contains("sum(share)"), "{queries}");
    let errors = disk::read(&folder).expect("reads").capture_errors;
    assert!(errors.iter().all(|error| error.contains("pods is [redacted]:")), "{errors:?}");
}
