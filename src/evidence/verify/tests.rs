//! Bundles that a daemon is at.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    evidence::{
        Keeper, disk,
        fixture::{ApiDouble, Quirks, at, incident, spec},
    },
    metrics::Metrics,
    model::{Moment, TimelineEntry, settings::EvidenceSettings},
};

/// Lines that are added while it is verified.
const LINES: usize = 10;

/// A keeper and a bundle that is whole.
async fn kept() -> (tempfile::TempDir, Keeper, PathBuf) {
    let data = tempfile::tempdir().expect("temporary folder");
    let metrics = Metrics::new().expect("registers");
    let keeper = Keeper::open(data.path().to_owned(), EvidenceSettings::default(), metrics);
    let sources = ApiDouble::new(Quirks::default()).sources();
    let folder = keeper.keep(incident(), &spec(), sources).await.expect("keeps");
    (data, keeper, folder)
}

fn line(n: usize) -> TimelineEntry {
    TimelineEntry::of(Moment::Recovered, at("2026-11-21T04:13:10Z"), format!("Recovered {n}"))
}

fn is_whole(folder: &Path) -> bool {
    super::folder(folder).expect("looks").is_whole()
}

#[tokio::test]
async fn a_rewrite_that_a_crash_ended_between_its_steps_is_no_damage() {
    let (_data, keeper, folder) = kept().await;
    let [list, next, case] = [MANIFEST, NEXT_MANIFEST, INCIDENT].map(|name| folder.join(name));
    let read = |path: &Path| fs::read_to_string(path).expect("readable");
    let (list_before, case_before) = (read(&list), read(&case));
    keeper.amend(&incident().id, line(0)).await.expect("amends");
    let (list_after, case_after) = (read(&list), read(&case));
    assert_ne!((&list_before, &case_before), (&list_after, &case_after));

    disk::replace(&list, list_before.as_bytes()).expect("written");
    disk::replace(&next, list_after.as_bytes()).expect("written");
    assert!(is_whole(&folder), "the case was replaced, and its list not yet");
    disk::replace(&case, case_before.as_bytes()).expect("written");
    assert!(is_whole(&folder), "the case was about to be replaced");

    // A list that tells of anything else as well is none of ours.
    let log = list_after.lines().find(|line| line.contains("  logs/")).expect("a log");
    let forged = list_after.replace(log, &format!("{}{}", "0".repeat(64), log.get(64..).expect("a hash before it")));
    disk::replace(&case, case_after.as_bytes()).expect("written");
    disk::replace(&next, forged.as_bytes()).expect("written");
    let found = super::folder(&folder).expect("looks").problems;
    assert_eq!(
        found
            .iter()
            .map(|problem| (problem.file.as_str(), &problem.fault))
            .collect::<Vec<_>>(),
        [(INCIDENT, &Fault::Changed)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_is_written_in_meanwhile_is_whole_whenever_it_is_looked_at() {
    let (_data, keeper, folder) = kept().await;
    let done = Arc::new(AtomicBool::new(false));
    let (over, path) = (Arc::clone(&done), folder.clone());
    let looks = tokio::task::spawn_blocking(move || {
        let mut looks = 0;
        while !over.load(Ordering::Relaxed) || looks == 0 {
            let verified = super::folder(&path).expect("looks");
            assert!(verified.is_whole(), "{looks} looks, then {:?}", verified.problems);
            looks += 1;
        }
        looks
    });
    for n in 0..LINES {
        keeper.amend(&incident().id, line(n)).await.expect("amends");
        // The report is made anew, as another folder.
        keeper.rendered().await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(looks.await.expect("never damaged") > 0);
    assert!(is_whole(&folder));
}
