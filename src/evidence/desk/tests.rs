//! Bundles that are begun beside a flip, and what becomes of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use jiff::Timestamp;

use super::super::{EvidenceError, Keeper, Sources, disk, fixture::*};
use crate::{
    metrics::Metrics,
    model::{GuardSpec, Incident, IncidentOutcome, Moment, TimelineEntry, settings::EvidenceSettings},
};

fn open(data: &Path) -> Keeper {
    Keeper::open(data.to_owned(), EvidenceSettings::default(), Metrics::new().expect("registers"))
}

/// A keeper and its folder of incidents.
fn keeper() -> (tempfile::TempDir, PathBuf, Keeper) {
    let data = tempfile::tempdir().expect("temporary folder");
    let keeper = open(data.path());
    let incidents = data.path().join("incidents");
    (data, incidents, keeper)
}

/// Ends a keeper as a process does that has nothing more to do. What it looks for beside its work holds it as well: only when
/// that is over, too, does it let go of its bundles.
async fn ends(keeper: Keeper) {
    let alone = async {
        while Arc::strong_count(&keeper.desk) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), alone)
        .await
        .expect("nothing goes on for ever");
}

fn decided() -> Incident {
    Incident {
        outcome: IncidentOutcome::Decided,
        ..incident()
    }
}

/// The same incident once the patch was accepted.
fn patched() -> Incident {
    let mut patched = incident();
    let line = TimelineEntry::of(Moment::Patched, at("2026-11-21T04:12:34.582Z"), "The API server accepted the patch");
    patched.timeline.push(line);
    patched
}

fn nothing(record: Option<&str>) -> Sources {
    Sources {
        record: record.map(str::to_owned),
        client: Err("none".into()),
        ranges: Box::new(|_, _| async { Ok(Vec::new()) }.boxed()),
    }
}

fn names(incidents: &Path) -> Vec<String> {
    let entries = fs::read_dir(incidents).expect("readable");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn partial(incidents: &Path) -> PathBuf {
    incidents.join(format!(".partial-{}", incident().id))
}

fn story(folder: &Path) -> Vec<String> {
    let incident = disk::read(folder).expect("reads");
    incident.timeline.into_iter().map(|entry| entry.what).collect()
}

#[tokio::test]
async fn what_was_begun_beside_the_flip_is_gone_on_with() {
    let (_data, incidents, keeper) = keeper();
    let (id, now) = (incident().id, at("2026-11-21T04:12:34.570Z"));
    // The outcome may be known to the caller: on the disk nothing has become of it yet.
    keeper.begin(&incident(), &spec(), Some(RECORD.into())).await.expect("begins");
    assert_eq!(names(&incidents), [format!(".partial-{id}")]);
    let lying = disk::read(&partial(&incidents)).expect("reads");
    assert_eq!((lying.id.as_str(), &lying.outcome), (id.as_str(), &IncidentOutcome::Decided));
    assert_eq!(
        fs::read_to_string(partial(&incidents).join("decision.jsonl")).expect("is there"),
        RECORD
    );
    keeper.begin(&decided(), &spec(), None).await.expect("twice changes nothing");
    keeper.amend(&id, TimelineEntry::remark(now, "meanwhile")).await.expect("amends");

    let folder = keeper.keep(patched(), &spec(), nothing(Some(RECORD))).await.expect("keeps");
    assert_eq!(names(&incidents), std::slice::from_ref(&id));
    let kept = disk::read(&folder).expect("reads");
    assert_eq!(kept.outcome, incident().outcome);
    let told = story(&folder);
    assert_eq!(told.iter().filter(|what| what.starts_with("Recorded in")).count(), 1, "{told:?}");
    assert!(told.contains(&"meanwhile".to_owned()) && told.contains(&"The API server accepted the patch".to_owned()));
    assert!(super::super::verify::folder(&folder).expect("looks").is_whole());
    assert!(keeper.unfinished().is_empty());

    // Whole, it is neither begun again nor let go.
    keeper.begin(&decided(), &spec(), None).await.expect("changes nothing");
    keeper.discard(&id).await.expect("there is none to be let go");
    assert_eq!(names(&incidents), [id]);
}

#[tokio::test]
async fn the_next_start_is_told_what_was_begun_and_says_what_became_of_it() {
    let data = tempfile::tempdir().expect("temporary folder");
    let incidents = data.path().join("incidents");
    let first = open(data.path());
    first.begin(&incident(), &spec(), Some(RECORD.into())).await.expect("begins");
    assert!(open(data.path()).unfinished().is_empty(), "its maker lives");
    ends(first).await;

    let second = open(data.path());
    assert_eq!(
        names(&incidents),
        [format!(".partial-{}", incident().id)],
        "nobody knows yet what became of it"
    );
    assert!(second.kept().is_empty());
    let left = second.unfinished();
    assert_eq!(left.len(), 1);
    assert_eq!((&left[0].id, &left[0].outcome), (&incident().id, &IncidentOutcome::Decided));
    assert!(open(data.path()).unfinished().is_empty(), "it has a keeper again");

    let mut moved = left[0].clone();
    moved.outcome = incident().outcome;
    moved.timeline.push(TimelineEntry::remark(at(AT), "Found by the next start"));
    let folder = second.keep(moved, &spec(), nothing(None)).await.expect("keeps");
    assert_eq!(names(&incidents), [incident().id]);
    assert_eq!(
        fs::read_to_string(folder.join("decision.jsonl")).expect("is there"),
        RECORD,
        "its record stays"
    );
    assert!(story(&folder).contains(&"Found by the next start".to_owned()));
    assert!(!disk::read(&folder).expect("reads").partial);
}

#[tokio::test]
async fn a_flip_that_never_reached_the_object_leaves_nothing() {
    let (data, incidents, keeper) = keeper();
    keeper.begin(&decided(), &spec(), Some(RECORD.into())).await.expect("begins");
    keeper.discard(&incident().id).await.expect("lets go");
    assert_eq!(names(&incidents), Vec::<String>::new());
    keeper.discard(&incident().id).await.expect("twice is no error");

    // The same after a death, asked for or not.
    keeper.begin(&decided(), &spec(), None).await.expect("begins");
    ends(keeper).await;
    let next = open(data.path());
    next.discard(&incident().id).await.expect("lets go");
    assert_eq!(names(&incidents), Vec::<String>::new());
}

#[tokio::test]
async fn what_nobody_can_tell_is_finished_as_partial() {
    let (_data, incidents, keeper) = keeper();
    keeper.begin(&decided(), &spec(), Some(RECORD.into())).await.expect("begins");
    let folder = keeper.finish(&incident().id).await.expect("finishes");
    assert_eq!(names(&incidents), [incident().id]);
    let kept = disk::read(&folder).expect("reads");
    assert!(kept.partial && kept.outcome == IncidentOutcome::Decided);
    let none = keeper.finish(&incident().id).await.expect_err("it is whole");
    assert!(matches!(none, EvidenceError::Missing { .. }), "{none}");
}

#[tokio::test]
async fn a_failed_seal_is_tried_again_in_its_own_folder_without_capturing_anew() {
    let (_data, incidents, keeper) = keeper();
    let api = ApiDouble::new(Quirks::default());
    // Somebody's folder, not empty, is where the list should go: the disk refuses at the very end.
    keeper.begin(&decided(), &spec(), Some(RECORD.into())).await.expect("begins");
    let in_the_way = partial(&incidents).join("MANIFEST.sha256");
    fs::create_dir_all(in_the_way.join("full")).expect("made");
    let error = keeper.keep(incident(), &spec(), api.sources()).await.expect_err("refused");
    assert!(matches!(error, EvidenceError::Disk { .. }), "{error}");
    assert_eq!(names(&incidents), [format!(".partial-{}", incident().id)]);
    let asked = api.asked.lock().expect("sound").len();
    assert!(asked > 0);

    // The pods may be gone by the next try: what was captured is kept.
    fs::remove_dir_all(in_the_way).expect("removed");
    let folder = keeper.keep(incident(), &spec(), api.sources()).await.expect("keeps");
    assert_eq!(names(&incidents), [incident().id], "no second folder");
    assert_eq!(api.asked.lock().expect("sound").len(), asked, "nothing is asked for again");
    assert!(folder.join("logs/green/web-green-1/app.log").exists());
    assert_eq!(disk::read(&folder).expect("reads").capture_errors, Vec::<String>::new());
    assert!(super::super::verify::folder(&folder).expect("looks").is_whole());
}

#[tokio::test]
async fn a_capture_that_died_is_taken_over_by_the_next_try() {
    let (_data, incidents, keeper) = keeper();
    let api = ApiDouble::new(Quirks {
        silent: vec!["events"],
        ..Quirks::default()
    });
    let capture = tokio::spawn({
        let (keeper, sources) = (keeper.clone(), api.sources());
        async move { keeper.keep(incident(), &spec(), sources).await }
    });
    tokio::time::timeout(Duration::from_secs(30), async {
        while !partial(&incidents).join("manifests/service.web.json").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the capture is under way");
    capture.abort();
    let _ = capture.await;
    let folder = keeper.keep(incident(), &spec(), nothing(None)).await.expect("keeps");
    assert_eq!(names(&incidents), [incident().id], "no second folder");
    assert!(folder.join("manifests/service.web.json").exists(), "what had been captured stays");
}

/// A process that begins an incident and then waits to be killed: this test again.
fn begin_in_another_process(data: &Path) -> Child {
    let name = "evidence::desk::tests::a_killed_process_leaves_what_it_had_begun";
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", name, "--nocapture"])
        .env(INNER, data)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let begun = data.join("begun");
    while !begun.exists() {
        assert!(child.try_wait().expect("asked").is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

const INNER: &str = "FLIPBACK_TEST_BEGIN";

#[test]
fn a_killed_process_leaves_what_it_had_begun() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if let Some(data) = std::env::var_os(INNER) {
        let data = PathBuf::from(data);
        let keeper = open(&data);
        runtime
            .block_on(keeper.begin(&incident(), &spec(), Some(RECORD.into())))
            .expect("begins");
        fs::write(data.join("begun"), "").expect("written");
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let data = tempfile::tempdir().expect("temporary folder");
    let mut child = begin_in_another_process(data.path());
    assert!(open(data.path()).unfinished().is_empty(), "it lives");
    // SIGKILL: nothing of it runs any more.
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let keeper = open(data.path());
    let left = keeper.unfinished();
    assert_eq!(left.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), [incident().id]);
    let spec: GuardSpec = spec();
    let moved = Incident {
        outcome: incident().outcome,
        ..left[0].clone()
    };
    let folder = runtime.block_on(keeper.keep(moved, &spec, nothing(None))).expect("keeps");
    assert_eq!(fs::read_to_string(folder.join("decision.jsonl")).expect("is there"), RECORD);
    let when: Timestamp = disk::read(&folder).expect("reads").case.at;
    assert_eq!(when, at(AT));
}
