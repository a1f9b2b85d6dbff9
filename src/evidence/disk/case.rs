//! `incident.json`: read with suspicion, written whole, and amended in a bundle that is whole in such a way that its list
//! holds before, after, and wherever a crash comes between.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use jiff::SignedDuration;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{EvidenceError, INCIDENT, INCIDENTS, MANIFEST, PARTIAL, entries, failed, hash, hash_and_sync, hex, replace, sync_folder};
use crate::model::{Incident, TimelineEntry, incident::INCIDENT_SCHEMA};

/// The list of files that will hold once `incident.json` is replaced.
pub(in crate::evidence) const NEXT_MANIFEST: &str = ".next-MANIFEST.sha256";
/// An `incident.json` larger than this is not ours.
const INCIDENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Lines of an incident's story; what is beyond says nothing new.
const TIMELINE_MAX: usize = 500;
/// What people are told of is written down once the message is safe, which takes ten seconds at most, and some tries.
const OVERTAKEN: SignedDuration = SignedDuration::from_secs(30);

/// The incidents kept below a data folder, newest first; a folder that cannot be read is skipped with a warning.
///
/// # Errors
/// [`EvidenceError`] when the folder of incidents itself cannot be read; one that does not exist holds none.
pub fn list(data_dir: &Path) -> Result<Vec<(PathBuf, Incident)>, EvidenceError> {
    all(&data_dir.join(INCIDENTS))
}

/// [`list`], by the folder of incidents.
pub(in crate::evidence) fn all(incidents: &Path) -> Result<Vec<(PathBuf, Incident)>, EvidenceError> {
    if !incidents.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for folder in entries(incidents)? {
        let hidden = folder.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !folder.is_dir() {
            continue;
        }
        match read(&folder) {
            Ok(incident) => found.push((folder, incident)),
            Err(error) => warn!(folder = %folder.display(), %error, "Skipped unreadable evidence"),
        }
    }
    found.sort_by(|(_, a), (_, b)| (b.case.at, &b.id).cmp(&(a.case.at, &a.id)));
    Ok(found)
}

/// Reads a bundle's `incident.json`.
pub(in crate::evidence) fn read(folder: &Path) -> Result<Incident, EvidenceError> {
    let path = folder.join(INCIDENT);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(failed("open", &path))?;
    file.take(INCIDENT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed("read", &path))?;
    let malformed = |source| EvidenceError::Malformed {
        path: path.clone(),
        source,
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
    // The version is looked at first: what else a newer file holds would only give a confusing error.
    if value["schema"].as_u64() != Some(u64::from(INCIDENT_SCHEMA)) {
        return Err(EvidenceError::Schema {
            found: value["schema"].to_string(),
            path,
        });
    }
    serde_json::from_value(value).map_err(malformed)
}

/// The hash of a bundle's `incident.json`.
pub(in crate::evidence) fn incident_hash(folder: &Path) -> Result<String, EvidenceError> {
    hash(&folder.join(INCIDENT), |_| Ok(()))
}

fn incident_bytes(folder: &Path, incident: &Incident) -> Result<Vec<u8>, EvidenceError> {
    let mut bytes = serde_json::to_vec_pretty(incident).map_err(|error| failed("write", &folder.join(INCIDENT))(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(in crate::evidence) fn write_incident(folder: &Path, incident: &Incident) -> Result<(), EvidenceError> {
    replace(&folder.join(INCIDENT), &incident_bytes(folder, incident)?)
}

/// Names in a bundle's `incident.json` what is missing. Read anew: it may have been amended while the rest was captured.
pub(in crate::evidence) fn note(folder: &Path, change: impl FnOnce(&mut Incident)) -> Result<(), EvidenceError> {
    let mut incident = read(folder)?;
    change(&mut incident);
    write_incident(folder, &incident)
}

/// What was amended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::evidence) enum Amended {
    /// A bundle in the making, whose report is still to be written.
    Partial,
    /// A whole one.
    Whole,
    /// Nothing: its story is full, or tells that already.
    Nothing,
}

/// Adds a line to the story of a bundle, be it complete or in the making.
pub(in crate::evidence) fn amend(incidents: &Path, id: &str, entry: TimelineEntry) -> Result<Amended, EvidenceError> {
    edit(incidents, id, |incident| {
        let fits = incident.timeline.len() < TIMELINE_MAX;
        if fits {
            let place = place_of(&entry, &incident.timeline);
            incident.timeline.insert(place, entry);
        } else {
            warn!(incident = id, lines = TIMELINE_MAX, "Story of an incident is full");
        }
        fits
    })
}

/// Says what became of an incident after all, and what has been added to its story since.
pub(in crate::evidence) fn correct(incidents: &Path, id: &str, now: &Incident) -> Result<Amended, EvidenceError> {
    edit(incidents, id, |lying| {
        let before = lying.clone();
        lying.outcome = now.outcome.clone();
        for entry in &now.timeline {
            if !lying.timeline.contains(entry) && lying.timeline.len() < TIMELINE_MAX {
                let place = place_of(entry, &lying.timeline);
                lying.timeline.insert(place, entry.clone());
            }
        }
        *lying != before
    })
}

/// Changes the `incident.json` of a bundle, be it complete or in the making; `change` tells whether it did.
fn edit(incidents: &Path, id: &str, change: impl FnOnce(&mut Incident) -> bool) -> Result<Amended, EvidenceError> {
    let sealed = incidents.join(id);
    let (folder, amended) = if sealed.is_dir() {
        (sealed, Amended::Whole)
    } else {
        (incidents.join(format!("{PARTIAL}{id}")), Amended::Partial)
    };
    if !folder.is_dir() {
        return Err(EvidenceError::Missing {
            id: id.to_owned(),
            folder: incidents.to_owned(),
        });
    }
    let mut incident = read(&folder)?;
    if !change(&mut incident) {
        return Ok(Amended::Nothing);
    }
    replace_incident(&folder, &incident).map(|()| amended)
}

/// Where a line belongs: before what happened after it and overtook it on its way here. What is later by more than that was written by a
/// clock that has been put right since, and order is then what came first.
fn place_of(entry: &TimelineEntry, story: &[TimelineEntry]) -> usize {
    let overtook = |line: &TimelineEntry| {
        let later = line.at.duration_since(entry.at);
        later.is_positive() && later < OVERTAKEN
    };
    story.iter().rposition(|line| !overtook(line)).map_or(0, |last| last + 1)
}

/// Replaces the `incident.json` of a bundle and its line in the list, where there is one already. The list that will hold
/// is written first: wherever a crash comes between, [`finish_replacing`] knows which of the two lists holds.
fn replace_incident(folder: &Path, incident: &Incident) -> Result<(), EvidenceError> {
    let bytes = incident_bytes(folder, incident)?;
    let manifest = folder.join(MANIFEST);
    let lines = match fs::read_to_string(&manifest) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return replace(&folder.join(INCIDENT), &bytes),
        Err(error) => return Err(failed("read", &manifest)(error)),
    };
    let ours = format!("  {INCIDENT}");
    let hash = hex(Sha256::digest(&bytes).as_slice());
    let line = |line: &str| {
        if line.ends_with(&ours) {
            format!("{hash}{ours}\n")
        } else {
            format!("{line}\n")
        }
    };
    let next = folder.join(NEXT_MANIFEST);
    replace(&next, lines.lines().map(line).collect::<String>().as_bytes())?;
    replace(&folder.join(INCIDENT), &bytes)?;
    fs::rename(&next, &manifest).map_err(failed("write", &manifest))?;
    sync_folder(folder)
}

/// Finishes what a crash interrupted in [`replace_incident`]: the new list holds if `incident.json` is the new one already.
pub(super) fn finish_replacing(folder: &Path) -> Result<(), EvidenceError> {
    let next = folder.join(NEXT_MANIFEST);
    let lines = match fs::read_to_string(&next) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", &next)(error)),
    };
    let line = format!("{}  {INCIDENT}", hash_and_sync(&folder.join(INCIDENT))?);
    let manifest = folder.join(MANIFEST);
    if lines.lines().any(|one| one == line) {
        fs::rename(&next, &manifest).map_err(failed("write", &manifest))?;
    } else {
        fs::remove_file(&next).map_err(failed("remove", &next))?;
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_line_that_was_overtaken_on_its_way_comes_before_what_happened_later() {
        let line = |second: i64| TimelineEntry::remark(Timestamp::from_second(second).expect("in range"), "");
        let story = [line(0), line(100), line(110)];
        assert_eq!(place_of(&line(120), &story), 3);
        assert_eq!(place_of(&line(110), &story), 3, "of the same moment the later one comes last");
        assert_eq!(place_of(&line(105), &story), 2);
        assert_eq!(place_of(&line(99), &story), 1);
        assert_eq!(place_of(&line(50), &story), 3, "a clock that was put right has overtaken nobody");
        assert_eq!(place_of(&line(5), &[]), 0);
    }
}
