//! A bundle in the making: begun from what is in memory, taken over where an earlier try or run left it, listed, given its
//! name.
//!
//! One incident is one bundle: whoever begins what was begun already, by its own id, goes on with the folder that is there.
//! Only where that is somebody else's, or another incident's, is a number added to the name.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    super::{full::Space, manifest},
    EvidenceError, FILE_MODE, FOLDER_MODE, INCIDENT, LEAVING, MANIFEST, PART, PARTIAL,
    case::write_incident,
    entries, failed, hash_and_sync, lock, make_folder, read, replace, restrict, sync_folder,
};
use crate::model::{Incident, IncidentOutcome, TimelineEntry, file_segment};

/// The trace that replays to the decision.
const RECORD: &str = "decision.jsonl";
/// Incidents with the same id; a second one is rare, a third one a bug.
const SAME_ID_MAX: u32 = 100;

/// A bundle in the making.
pub(in crate::evidence) struct Bundle {
    /// Where it is now.
    pub(in crate::evidence) partial: PathBuf,
    /// Where it will be.
    pub(in crate::evidence) sealed: PathBuf,
    /// The folder, locked while somebody lives who will complete it; the lock ends with the process.
    _alive: Option<File>,
}

/// What was found, or made, under an incident's id.
pub(in crate::evidence) enum Begun {
    /// A bundle in the making, with the case as it is now.
    Bundle(Bundle),
    /// It is whole already.
    Whole(PathBuf),
}

#[cfg(test)]
impl Begun {
    /// The bundle that is to be made.
    pub(in crate::evidence) fn bundle(self) -> Bundle {
        match self {
            Self::Bundle(bundle) => bundle,
            Self::Whole(folder) => panic!("{folder:?} is whole already"),
        }
    }
}

/// What stands under one name.
enum Place {
    /// Nothing did: the folder is made, and empty.
    New(Bundle),
    /// A bundle of this incident that nobody is completing.
    Own(Bundle),
    /// This incident, whole.
    Whole(PathBuf),
    /// This incident, and somebody else is completing it.
    Busy(PathBuf),
    /// Another one.
    Taken(PathBuf),
}

/// Begins a bundle: its folder with `incident.json` and, of a decision, `decision.jsonl`, synced. One of this incident that
/// nobody is completing is taken over; a name that another incident has gets a number.
pub(in crate::evidence) fn begin(
    incidents: &Path,
    incident: Incident,
    record: Option<&str>,
    space: &Space,
) -> Result<Begun, EvidenceError> {
    make_folder(incidents)?;
    let wanted = file_segment(&incident.id);
    let mut taken = None;
    for n in 1..=SAME_ID_MAX {
        let id = if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") };
        match place(incidents, &id, &incident, space)? {
            Place::Taken(path) => taken = Some(path),
            other => return fill(other, incident, record, space),
        }
    }
    let path = taken.unwrap_or_else(|| incidents.join(&wanted));
    Err(failed("find a free name beside", &path)(io::ErrorKind::AlreadyExists.into()))
}

/// [`begin`] under the incident's own id and no other.
pub(in crate::evidence) fn begin_own(
    incidents: &Path,
    incident: Incident,
    record: Option<&str>,
    space: &Space,
) -> Result<Begun, EvidenceError> {
    make_folder(incidents)?;
    let place = place(incidents, &file_segment(&incident.id), &incident, space)?;
    fill(place, incident, record, space)
}

fn fill(place: Place, incident: Incident, record: Option<&str>, space: &Space) -> Result<Begun, EvidenceError> {
    match place {
        Place::New(bundle) => {
            let written = write_case(&bundle, incident, record, space);
            if written.is_err() {
                // Empty, it would only take the name.
                let _ = fs::remove_dir_all(&bundle.partial);
            }
            written?;
            bundle.partial.parent().map_or(Ok(()), sync_folder)?;
            Ok(Begun::Bundle(bundle))
        }
        Place::Own(bundle) => adopt(&bundle, incident, record, space).map(|()| Begun::Bundle(bundle)),
        Place::Whole(folder) => Ok(Begun::Whole(folder)),
        Place::Busy(path) => Err(EvidenceError::Busy { path }),
        Place::Taken(path) => Err(failed("begin", &path)(io::ErrorKind::AlreadyExists.into())),
    }
}

/// Looks under one name, and makes the folder where there is nothing.
fn place(incidents: &Path, id: &str, incident: &Incident, space: &Space) -> Result<Place, EvidenceError> {
    let (partial, sealed) = (incidents.join(format!("{PARTIAL}{id}")), incidents.join(id));
    if sealed.exists() {
        let whole = read(&sealed).is_ok_and(|found| is_same(&found, incident) && is_as_far(&found, incident));
        return Ok(if whole { Place::Whole(sealed) } else { Place::Taken(sealed) });
    }
    let made = space.with(|| {
        let made = DirBuilder::new().mode(FOLDER_MODE).create(&partial);
        made.map_err(failed("make the folder", &partial))
    });
    let bundle = |alive| Bundle {
        partial: partial.clone(),
        sealed: sealed.clone(),
        _alive: alive,
    };
    match made {
        Ok(()) => return Ok(Place::New(bundle(lock(&partial)?))),
        Err(EvidenceError::Disk { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists && partial.is_dir() => {}
        Err(error) => return Err(error),
    }
    let alive = lock(&partial)?;
    let own = match read(&partial) {
        Ok(found) => is_same(&found, incident),
        // It died before it had anything to say.
        Err(_) => !partial.join(INCIDENT).exists(),
    };
    Ok(match (own, alive) {
        (true, Some(alive)) => Place::Own(bundle(Some(alive))),
        (true, None) => Place::Busy(partial),
        (false, _) => Place::Taken(partial),
    })
}

/// Whether two are one incident, whatever became of it since. Numbers are not compared: they may lose a digit on the disk.
fn is_same(a: &Incident, b: &Incident) -> bool {
    let what = |one: &Incident| {
        let case = &one.case;
        (
            case.at,
            case.guard.clone(),
            case.from.clone(),
            case.to.clone(),
            case.trigger.clone(),
            case.why.clone(),
        )
    };
    what(a) == what(b)
}

/// Whether what lies there knows all that is known by now of what became of it.
fn is_as_far(lying: &Incident, now: &Incident) -> bool {
    let same = std::mem::discriminant(&lying.outcome) == std::mem::discriminant(&now.outcome);
    same || now.outcome == IncidentOutcome::Decided || corrects(lying, now)
}

/// Whether what lies there was corrected meanwhile: that traffic was moved is the last word, and a try to keep what was
/// known before does not take it back.
fn corrects(lying: &Incident, now: &Incident) -> bool {
    matches!(lying.outcome, IncidentOutcome::RolledBack { .. }) && matches!(now.outcome, IncidentOutcome::Failed { .. })
}

/// Goes on with a bundle that was begun: the case as it is now, with what was added to its story meanwhile. A record that
/// lies there stays unless there is a new one.
pub(in crate::evidence) fn adopt(
    bundle: &Bundle,
    mut incident: Incident,
    record: Option<&str>,
    space: &Space,
) -> Result<(), EvidenceError> {
    if let Ok(lying) = read(&bundle.partial) {
        if corrects(&lying, &incident) {
            incident.outcome = lying.outcome.clone();
        }
        let added = lying.timeline.into_iter().filter(|entry| !incident.timeline.contains(entry));
        let added: Vec<TimelineEntry> = added.collect();
        incident.timeline.extend(added);
        let of_record = |line: &String| line.starts_with(RECORD) && record.is_none() && !incident.capture_errors.contains(line);
        let errors: Vec<String> = lying.capture_errors.into_iter().filter(of_record).collect();
        incident.capture_errors.extend(errors);
    }
    write_case(bundle, incident, record, space)
}

/// Writes what is in memory.
fn write_case(bundle: &Bundle, mut incident: Incident, record: Option<&str>, space: &Space) -> Result<(), EvidenceError> {
    let partial = &bundle.partial;
    restrict(partial, FOLDER_MODE).map_err(failed("restrict", partial))?;
    incident.id = bundle.sealed.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if record.is_some() {
        let recorded = format!("Recorded in {RECORD}: `flipback replay --explain .` in this folder judges it again");
        let recorded = TimelineEntry::remark(incident.case.at, recorded);
        if !incident.timeline.contains(&recorded) {
            incident.timeline.push(recorded);
        }
    }
    space.with(|| write_incident(partial, &incident))?;
    let record = record.map(|record| space.with(|| replace(&partial.join(RECORD), record.as_bytes())));
    if let Some(Err(error)) = record {
        // The case itself is written: it is kept without its record.
        incident.capture_errors.push(format!("{RECORD}: {error}"));
        space.with(|| write_incident(partial, &incident))?;
    }
    Ok(())
}

/// Begun bundles that nobody is completing, with what lies there: of their decisions nobody has said yet what became.
pub(in crate::evidence) fn unfinished(incidents: &Path) -> Result<Vec<(Bundle, Incident)>, EvidenceError> {
    if !incidents.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for partial in entries(incidents)? {
        let name = partial.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix(PARTIAL).filter(|_| partial.is_dir()) else {
            continue;
        };
        let Ok(Some(alive)) = lock(&partial) else { continue };
        if let Some(incident) = what_was_begun(&partial) {
            found.push((Bundle::left(partial, incidents.join(id), alive), incident));
        }
    }
    Ok(found)
}

/// The begun bundle of one incident; `None`: there is none.
pub(in crate::evidence) fn begun(incidents: &Path, id: &str) -> Result<Option<Bundle>, EvidenceError> {
    let partial = incidents.join(format!("{PARTIAL}{id}"));
    if !partial.is_dir() {
        return Ok(None);
    }
    match lock(&partial)?.filter(|_| what_was_begun(&partial).is_some()) {
        Some(alive) => Ok(Some(Bundle::left(partial, incidents.join(id), alive))),
        None => Err(EvidenceError::Busy { path: partial }),
    }
}

/// The incident of a bundle that was begun and no more: nobody has said yet what became of the decision.
pub(super) fn what_was_begun(partial: &Path) -> Option<Incident> {
    read(partial).ok().filter(|incident| incident.outcome == IncidentOutcome::Decided)
}

impl Bundle {
    /// One that a crash left, held by who will complete it.
    pub(super) fn left(partial: PathBuf, sealed: PathBuf, alive: File) -> Self {
        Self {
            partial,
            sealed,
            _alive: Some(alive),
        }
    }

    /// Lets it go. It leaves its name first: a crash leaves what the next start removes.
    pub(in crate::evidence) fn discard(self) -> Result<(), EvidenceError> {
        let name = self.sealed.file_name().unwrap_or_default().to_string_lossy();
        let leaving = self.partial.with_file_name(format!("{LEAVING}{name}"));
        fs::rename(&self.partial, &leaving).map_err(failed("remove", &self.partial))?;
        leaving.parent().map_or(Ok(()), sync_folder)?;
        fs::remove_dir_all(&leaving).map_err(failed("remove", &leaving))
    }
}

/// What is in a bundle: every file but `incident.json` and the list itself, hashed and synced, and every folder.
pub(in crate::evidence) struct Contents {
    hashes: BTreeMap<PathBuf, String>,
    folders: Vec<PathBuf>,
}

/// Looks at everything in a bundle, and sees to the modes of what others put there. Marks, whose names begin with a dot,
/// are no part of it; parts of files that never got their name go.
pub(in crate::evidence) fn contents(bundle: &Path) -> Result<Contents, EvidenceError> {
    contents_beside(bundle, None)
}

/// [`contents`] of a bundle's next version: what it shares with the one in force is neither read nor synced again, and
/// stays what that one's list says it is.
pub(in crate::evidence) fn contents_beside(bundle: &Path, in_force: Option<&Path>) -> Result<Contents, EvidenceError> {
    let known = in_force.and_then(|folder| fs::read_to_string(folder.join(MANIFEST)).ok());
    let known = known.map(|list| manifest::read(&list).0).unwrap_or_default();
    let mut hashes = BTreeMap::new();
    let mut folders = vec![bundle.to_owned()];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        restrict(&folder, FOLDER_MODE).map_err(failed("restrict", &folder))?;
        for path in entries(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(PART) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            } else if name.starts_with('.') || (folder == bundle && (name == INCIDENT || name == MANIFEST)) {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else {
                restrict(&path, FILE_MODE).map_err(failed("restrict", &path))?;
                let name = path.strip_prefix(bundle).unwrap_or(&path).to_owned();
                let shared = in_force.is_some_and(|folder| is_one_file(&path, &folder.join(&name)));
                let hash = match known.get(&*name.to_string_lossy()).filter(|_| shared) {
                    Some(hash) => hash.clone(),
                    None => hash_and_sync(&path)?,
                };
                hashes.insert(name, hash);
            }
        }
    }
    Ok(Contents { hashes, folders })
}

/// Whether two names are one file.
fn is_one_file(a: &Path, b: &Path) -> bool {
    let of = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    of(a).is_some() && of(a) == of(b)
}

/// Lists everything in a bundle and syncs it: from here on it is whole.
pub(in crate::evidence) fn list_contents(bundle: &Path, contents: &Contents) -> Result<(), EvidenceError> {
    let mut hashes: BTreeMap<&Path, &str> = contents.hashes.iter().map(|(name, hash)| (name.as_path(), hash.as_str())).collect();
    let incident = hash_and_sync(&bundle.join(INCIDENT))?;
    hashes.insert(Path::new(INCIDENT), &incident);
    let manifest: String = hashes.iter().map(|(name, hash)| format!("{hash}  {}\n", name.display())).collect();
    replace(&bundle.join(MANIFEST), manifest.as_bytes())?;
    // Deepest first: a folder is whole once what it names is.
    contents.folders.iter().rev().try_for_each(|folder| sync_folder(folder))
}

/// Completes a bundle: lists every file, syncs all of it, gives the folder its name.
pub(in crate::evidence) fn seal(bundle: &Bundle, contents: &Contents) -> Result<(), EvidenceError> {
    list_contents(&bundle.partial, contents)?;
    fs::rename(&bundle.partial, &bundle.sealed).map_err(failed("give its name to", &bundle.partial))?;
    bundle.sealed.parent().map_or(Ok(()), sync_folder)
}

/// Gives up everything of a bundle in the making but the case and its record, where a full disk leaves room for no more.
pub(in crate::evidence) fn shed(bundle: &Path) -> Result<(), EvidenceError> {
    for path in entries(bundle)? {
        let name = path.file_name().unwrap_or_default();
        if name == INCIDENT || name == RECORD {
            continue;
        }
        let gone = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone.map_err(failed("remove", &path))?;
    }
    Ok(())
}
