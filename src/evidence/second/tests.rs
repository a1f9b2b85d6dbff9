//! Wherever a crash comes, there is the old bundle, whole, or the new one, whole.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt, process::Command, sync::Arc};

use super::*;
use crate::evidence::{
    fixture::{RECORD, incident},
    full::Space,
};

const ID: &str = "shop.web_20261121T041234.567Z";

/// A sealed bundle with a log and some metrics.
fn sealed() -> (tempfile::TempDir, PathBuf) {
    let data = tempfile::tempdir().expect("temporary folder");
    let incidents = data.path().join("incidents");
    let space = Space::new(incidents.clone(), Arc::default());
    let bundle = disk::begin(&incidents, incident(), Some(RECORD), &space).expect("begins").bundle();
    disk::put(&bundle.partial.join("logs/green/web-1/app.log"), b"a log\n").expect("writes");
    disk::put(&bundle.partial.join("metrics/error_rate.green.json"), b"[\"short\"]\n").expect("writes");
    disk::put(&bundle.partial.join("report.html"), b"old\n").expect("writes");
    disk::seal(&bundle, &disk::contents(&bundle.partial).expect("readable")).expect("seals");
    (data, incidents)
}

/// The next version, complete but for its list.
fn built(incidents: &Path) -> Second {
    let second = begin(incidents, ID).expect("begins").expect("nobody else");
    disk::put(&second.building.join("metrics/error_rate.green.json"), b"[\"long\"]\n").expect("writes");
    disk::put(&second.building.join("after/events.json"), b"{}\n").expect("writes");
    // As somebody writes who knows nothing of shared files.
    fs::write(second.building.join("report.html"), b"new\n").expect("writes");
    second.note(|incident| incident.flipback = "second".into()).expect("writes");
    second
}

fn finish(second: &Second) -> Result<(), EvidenceError> {
    second.replace(&disk::contents(&second.building)?)
}

/// Which version is in force: `sha256sum` says that it is whole.
fn in_force(incidents: &Path) -> &'static str {
    let names: BTreeSet<String> = disk::entries(incidents)
        .expect("readable")
        .iter()
        .map(|path| path.file_name().expect("named").to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, BTreeSet::from([ID.to_owned()]), "nothing is left lying about");
    whole(&incidents.join(ID))
}

fn whole(folder: &Path) -> &'static str {
    let mut check = Command::new("sha256sum");
    let check = check.args(["--check", "--strict", "--quiet", disk::MANIFEST]).current_dir(folder);
    assert!(check.status().expect("sha256sum runs").success(), "{folder:?} is not whole");
    let new = folder.join("after").exists();
    let read = |file: &str| fs::read_to_string(folder.join(file)).expect("readable");
    assert_eq!(read("logs/green/web-1/app.log"), "a log\n");
    assert_eq!(read("metrics/error_rate.green.json").contains("long"), new);
    assert_eq!(read("report.html").contains("new"), new);
    assert_eq!(disk::read(folder).expect("an incident").flipback == "second", new);
    if new { "new" } else { "old" }
}

#[test]
fn the_new_version_takes_the_place_of_the_old_one_with_its_marks() {
    let (_data, incidents) = sealed();
    let old = incidents.join(ID);
    fs::write(old.join(".pinned"), "").expect("pinned");
    fs::write(old.join(".copied"), "there").expect("marked");
    let second = built(&incidents);
    let inode = |folder: &Path| fs::metadata(folder.join("logs/green/web-1/app.log")).expect("there").ino();
    assert_eq!(inode(&old), inode(&second.building), "what does not change is shared");
    assert_eq!(whole(&old), "old", "while the new one is built");
    // Meanwhile: unpinned, and amended.
    fs::remove_file(old.join(".pinned")).expect("unpinned");
    disk::amend(&incidents, ID, crate::model::TimelineEntry::remark(incident().case.at, "meanwhile")).expect("amends");
    second.note(|incident| incident.flipback = "second".into()).expect("writes");
    finish(&second).expect("replaces");
    assert_eq!(in_force(&incidents), "new");
    assert!(!old.join(".pinned").exists() && old.join(".copied").exists());
    let story = disk::read(&old).expect("reads").timeline;
    assert_eq!(story.last().map(|entry| entry.what.as_str()), Some("meanwhile"));
}

#[test]
fn a_crash_while_it_is_built_leaves_the_old_one() {
    let (_data, incidents) = sealed();
    drop(built(&incidents));
    assert_eq!(whole(&incidents.join(ID)), "old");
    disk::recover(&incidents).expect("recovers");
    assert_eq!(in_force(&incidents), "old");
    // And it can be begun again, also over what a crash left.
    drop(built(&incidents));
    finish(&built(&incidents)).expect("replaces");
    assert_eq!(in_force(&incidents), "new");
}

#[test]
fn one_that_somebody_is_building_is_left_alone() {
    let (_data, incidents) = sealed();
    let second = built(&incidents);
    disk::recover(&incidents).expect("recovers");
    assert!(second.building.exists());
    assert!(begin(&incidents, ID).expect("answers").is_none(), "a second one is not begun");
    second.drop_it();
    assert_eq!(in_force(&incidents), "old");
}

#[test]
fn a_crash_after_the_exchange_leaves_the_new_one() {
    let (_data, incidents) = sealed();
    let second = built(&incidents);
    disk::list_contents(&second.building, &disk::contents(&second.building).expect("readable")).expect("lists");
    renameat_with(CWD, &second.building, CWD, &second.sealed, RenameFlags::EXCHANGE).expect("this volume can");
    drop(second);
    assert_eq!(whole(&incidents.join(ID)), "new");
    disk::recover(&incidents).expect("recovers");
    assert_eq!(in_force(&incidents), "new");
}

#[test]
fn a_crash_between_the_two_steps_of_a_volume_that_cannot_exchange_is_finished() {
    let (_data, incidents) = sealed();
    let second = built(&incidents);
    disk::list_contents(&second.building, &disk::contents(&second.building).expect("readable")).expect("lists");
    fs::rename(&second.sealed, incidents.join(format!("{BEFORE}{ID}"))).expect("the first step");
    drop(second);
    disk::recover(&incidents).expect("recovers");
    assert_eq!(in_force(&incidents), "new");

    // After the second step, before the old one is gone.
    let (_data, incidents) = sealed();
    let second = built(&incidents);
    disk::list_contents(&second.building, &disk::contents(&second.building).expect("readable")).expect("lists");
    fs::rename(&second.sealed, incidents.join(format!("{BEFORE}{ID}"))).expect("the first step");
    fs::rename(&second.building, &second.sealed).expect("the second step");
    drop(second);
    disk::recover(&incidents).expect("recovers");
    assert_eq!(in_force(&incidents), "new");

    // In two steps, without a crash.
    let (_data, incidents) = sealed();
    let second = built(&incidents);
    disk::list_contents(&second.building, &disk::contents(&second.building).expect("readable")).expect("lists");
    in_two_steps(&second.building, &second.sealed).expect("replaces");
    assert_eq!(in_force(&incidents), "new");
}

#[test]
fn a_bundle_that_retention_took_meanwhile_does_not_come_back() {
    let (_data, incidents) = sealed();
    let second = built(&incidents);
    std::fs::remove_dir_all(&second.sealed).expect("deleted");
    finish(&second).expect_err("there is nothing to replace");
    second.drop_it();
    assert!(disk::entries(&incidents).expect("readable").is_empty());
}

#[test]
fn a_crash_while_a_line_is_added_leaves_a_whole_bundle() {
    for incident_replaced in [false, true] {
        let (_data, incidents) = sealed();
        let folder = incidents.join(ID);
        // The list that will hold is there; incident.json is replaced, or not yet.
        let kept = fs::read(folder.join(disk::INCIDENT)).expect("readable");
        let list = fs::read(folder.join(disk::MANIFEST)).expect("readable");
        disk::amend(&incidents, ID, crate::model::TimelineEntry::remark(incident().case.at, "more")).expect("amends");
        let next = fs::read(folder.join(disk::MANIFEST)).expect("readable");
        assert_ne!(list, next);
        fs::write(folder.join(".next-MANIFEST.sha256"), &next).expect("written");
        fs::write(folder.join(disk::MANIFEST), &list).expect("written");
        if !incident_replaced {
            fs::write(folder.join(disk::INCIDENT), &kept).expect("written");
        }
        disk::recover(&incidents).expect("recovers");
        assert_eq!(in_force(&incidents), "old");
        assert!(!folder.join(".next-MANIFEST.sha256").exists());
        let story = disk::read(&folder).expect("reads").timeline;
        assert_eq!(story.iter().any(|entry| entry.what == "more"), incident_replaced);
    }
}
