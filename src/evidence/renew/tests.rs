//! Reports that follow their incident.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::super::{
    Sources, disk,
    fixture::{self, ApiDouble, Quirks, at, incident, spec},
    made::append,
    report,
    stock::{self, PINNED},
    verify::{self, Fault},
};
use super::*;
use crate::{
    metrics::Metrics,
    model::{Moment, TimelineEntry, settings::CopySettings},
};

fn open(data: &Path) -> Keeper {
    Keeper::open(data.to_owned(), EvidenceSettings::default(), Metrics::new().expect("registers"))
}

fn sources() -> Sources {
    Sources {
        record: Some(fixture::RECORD.to_owned()),
        ..ApiDouble::new(Quirks::default()).sources()
    }
}

/// A keeper and a bundle that is whole.
async fn kept() -> (tempfile::TempDir, Keeper, PathBuf) {
    let data = tempfile::tempdir().expect("temporary folder");
    let keeper = open(data.path());
    let folder = keeper.keep(incident(), &spec(), sources()).await.expect("keeps");
    (data, keeper, folder)
}

fn line(what: &str) -> TimelineEntry {
    TimelineEntry::of(Moment::Recovered, at("2026-11-21T04:13:10Z"), what)
}

fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}")).ino()
}

fn says(folder: &Path, what: &str) -> [bool; 3] {
    ["report.html", "report.md", "timeline.json"].map(|file| text(folder, file).contains(what))
}

fn names(data: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(stock::incidents_of(data))
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn many_lines_make_one_new_report() {
    let (data, keeper, folder) = kept().await;
    stock::pin(&folder).expect("pins");
    fs::write(folder.join(".copied"), "noted\n").expect("written");
    assert!(report::is_current(&folder));
    let (page, log) = (
        inode(&folder.join("report.html")),
        inode(&folder.join("logs/green/web-green-1/app.log")),
    );
    for n in 1..=5 {
        keeper.amend(&incident().id, line(&format!("Recovered {n}"))).await.expect("amends");
    }
    assert!(verify::folder(&folder).expect("looks").is_whole(), "the list follows at once");
    assert_eq!(inode(&folder.join("report.html")), page, "the report waits for more lines");
    assert!(!report::is_current(&folder));

    keeper.rendered().await;
    assert!(report::is_current(&folder));
    for n in 1..=5 {
        assert_eq!(says(&folder, &format!("Recovered {n}")), [true; 3], "{n}");
    }
    let anew = inode(&folder.join("report.html"));
    assert_ne!(anew, page);
    assert_eq!(
        inode(&folder.join("logs/green/web-green-1/app.log")),
        log,
        "what was captured is shared"
    );
    assert!(verify::folder(&folder).expect("looks").is_whole());
    assert!(folder.join(PINNED).exists() && text(&folder, ".copied") == "noted\n", "marks stay");
    assert_eq!(names(data.path()), [incident().id]);

    keeper.rendered().await;
    assert_eq!(inode(&folder.join("report.html")), anew, "there was no more to do");
}

#[tokio::test]
async fn a_line_that_comes_while_the_bundle_is_sealed_reaches_the_report() {
    let data = tempfile::tempdir().expect("temporary folder");
    let keeper = open(data.path());
    let held = keeper.hold(&incident().id).await.expect("free");
    let space = keeper.space();
    let bundle = disk::begin(&keeper.incidents, incident(), None, &space).expect("begins").bundle();
    report::write(&bundle.partial).expect("a report");
    keeper.amend(&incident().id, line("Recovered meanwhile")).await.expect("amends");
    disk::seal(&bundle, &disk::contents(&bundle.partial).expect("readable")).expect("seals");
    drop((bundle, held));
    let folder = keeper.folder(&incident().id);
    assert!(!report::is_current(&folder));
    keeper.due(&incident().id);
    keeper.rendered().await;
    assert_eq!(says(&folder, "Recovered meanwhile"), [true; 3]);
}

/// Waits until a keeper has found by itself what is due.
async fn until_current(keeper: &Keeper, folder: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    while !report::is_current(folder) {
        assert!(Instant::now() < until, "nobody makes the report anew");
        keeper.rendered().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_a_kill_prevented_is_made_by_the_next_start() {
    let (data, keeper, folder) = kept().await;
    keeper.amend(&incident().id, line("Recovered at last")).await.expect("amends");
    // A rendering that a kill ended, too.
    let building = second::begin(&keeper.incidents, &incident().id)
        .expect("begins")
        .expect("nobody is at it");
    drop((building, keeper));
    let next = open(data.path());
    until_current(&next, &folder).await;
    assert_eq!(says(&folder, "Recovered at last"), [true; 3]);
    assert!(verify::folder(&folder).expect("looks").is_whole());
    assert_eq!(names(data.path()), [incident().id]);
}

#[tokio::test]
async fn a_bundle_that_a_crash_left_gets_its_report() {
    let data = tempfile::tempdir().expect("temporary folder");
    let incidents = stock::incidents_of(data.path());
    disk::make_folder(&incidents).expect("ours");
    let space = Space::new(incidents.clone(), Arc::default());
    drop(disk::begin(&incidents, incident(), None, &space).expect("begins").bundle());
    let keeper = open(data.path());
    let folder = keeper.folder(&incident().id);
    until_current(&keeper, &folder).await;
    assert!(text(&folder, "report.html").contains("interrupted when flipback ended"));
    assert!(verify::folder(&folder).expect("looks").is_whole());
}

#[tokio::test]
async fn a_report_of_an_older_flipback_is_left_alone() {
    let (data, keeper, folder) = kept().await;
    fs::write(folder.join("report.html"), "<!doctype html><title>of old</title>").expect("written");
    keeper.look_for_old_reports();
    tokio::time::sleep(Duration::from_millis(50)).await;
    keeper.rendered().await;
    assert!(text(&folder, "report.html").contains("of old"));
    // Asked for by a person it is made anew.
    renew(&stock::incidents_of(data.path()), &incident().id, &EvidenceSettings::default()).expect("renews");
    assert!(!text(&folder, "report.html").contains("of old") && report::is_current(&folder));
}

#[tokio::test]
async fn a_new_report_does_not_make_a_damaged_log_look_sound() {
    let (data, _keeper, folder) = kept().await;
    append(&folder.join("logs/green/web-green-1/app.log"), "not what was captured\n");
    renew(&stock::incidents_of(data.path()), &incident().id, &EvidenceSettings::default()).expect("renews");
    let found = verify::folder(&folder).expect("looks").problems;
    let faults: Vec<_> = found.iter().map(|problem| (problem.file.as_str(), &problem.fault)).collect();
    assert_eq!(faults, [("logs/green/web-green-1/app.log", &Fault::Changed)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_to_another_process_that_makes_the_report_anew() {
    let (data, keeper, folder) = kept().await;
    let incidents = stock::incidents_of(data.path());
    // Another process shares nothing with this one but the folder.
    let other = std::thread::spawn(move || {
        for _ in 0..5 {
            renew(&incidents, &incident().id, &EvidenceSettings::default()).expect("renews");
        }
    });
    let mut lines = 0;
    while !other.is_finished() {
        keeper.amend(&incident().id, line(&format!("line {lines}."))).await.expect("amends");
        lines += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    other.join().expect("no panic");
    let story = disk::read(&folder).expect("reads").timeline;
    let kept = |n: usize| story.iter().any(|entry| entry.what == format!("line {n}."));
    // A story has its bound.
    let lost: Vec<usize> = (0..lines.min(400)).filter(|n| !kept(*n)).collect();
    assert!(lines > 5 && lost.is_empty(), "lost {lost:?} of {lines}");
    assert!(verify::folder(&folder).expect("looks").is_whole());
}

#[tokio::test]
async fn the_copy_follows_the_report() {
    let data = tempfile::tempdir().expect("temporary folder");
    let shelf = tempfile::tempdir().expect("temporary folder");
    let url = format!("file://{}", shelf.path().display());
    let settings = EvidenceSettings {
        copy: Some(CopySettings {
            url: url.parse().expect("a URL"),
            options: std::collections::BTreeMap::new(),
        }),
        ..EvidenceSettings::default()
    };
    let keeper = Keeper::open(data.path().to_owned(), settings, Metrics::new().expect("registers"));
    keeper.keep(incident(), &spec(), sources()).await.expect("keeps");
    keeper.amend(&incident().id, line("Recovered and copied")).await.expect("amends");
    keeper.rendered().await;
    let copied = shelf.path().join(incident().id).join("report.html");
    let until = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&copied).is_ok_and(|page| page.contains("Recovered and copied")) {
        assert!(Instant::now() < until, "the copy does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
