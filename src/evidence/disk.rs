//! The folders of incidents: begun, sealed, amended, listed, finished after a crash. Synchronous; [`bounded`] runs it off
//! the runtime's threads and never waits for ever.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{full::Space, second};
use crate::model::{Incident, TimelineEntry, file_segment, incident::INCIDENT_SCHEMA};

/// The folder of incidents below the data folder.
pub(super) const INCIDENTS: &str = "incidents";
/// The case and what became of it.
pub(super) const INCIDENT: &str = "incident.json";
/// The trace that replays to the decision.
const RECORD: &str = "decision.jsonl";
/// Hashes of all other files, as `sha256sum --check` reads them.
pub(super) const MANIFEST: &str = "MANIFEST.sha256";
/// Begins the name of a folder that is not complete.
pub(super) const PARTIAL: &str = ".partial-";
/// Begins the name of a file that is being written.
const PART: &str = ".part-";
/// The list of files that will hold once `incident.json` is replaced.
const NEXT_MANIFEST: &str = ".next-MANIFEST.sha256";
/// Begins the name of a folder that is being deleted.
const LEAVING: &str = ".leaving-";
/// What a bundle says whose capture a crash ended.
const INTERRUPTED: &str = "capture: interrupted when flipback ended; what had been captured by then is kept";
/// An `incident.json` larger than this is not ours.
const INCIDENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Lines of an incident's story; what is beyond says nothing new.
const TIMELINE_MAX: usize = 500;
/// Incidents with the same id; a second one is rare, a third one a bug.
const SAME_ID_MAX: u32 = 100;
/// Bundles hold logs: they are nobody else's business, whatever the umask says.
pub(super) const FOLDER_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// Why evidence cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The disk refused.
    #[error("failed to {attempted} {path:?} ({})", remedy(.source))]
    Disk {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it was refused.
        #[source]
        source: io::Error,
    },
    /// The disk is full, and stays so.
    #[error(
        "failed to {attempted} {path:?} (the disk is full, {regained} bytes of older evidence were given up in vain: free space on it or give the volume more)"
    )]
    Full {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Bytes of older evidence that were deleted for it.
        regained: u64,
        /// Why it was refused.
        #[source]
        source: io::Error,
    },
    /// The disk did not answer.
    #[error("failed to {attempted} {path:?} within {} (the disk hangs or is busy: look at the volume of the data folder)", humantime::format_duration(*.after))]
    Slow {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// It is not in a form this version understands.
    #[error("{path:?} has schema {found}, and this flipback reads schema {INCIDENT_SCHEMA}: read it with the version that wrote it")]
    Schema {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// It is no incident.
    #[error("failed to understand {path:?} as an incident")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// There is none.
    #[error("no evidence of an incident {id:?} lies in {folder:?}")]
    Missing {
        /// Which incident.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

impl EvidenceError {
    /// Whether there was no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (Self::Disk { source, .. } | Self::Full { source, .. }) = self else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Says of a full disk what was given up for it.
    pub(super) fn after_regaining(self, regained: u64) -> Self {
        match self {
            Self::Disk { attempted, path, source } => Self::Full {
                attempted,
                path,
                regained,
                source,
            },
            other => other,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full: free space on it or give the volume more",
        io::ErrorKind::PermissionDenied => "make the data folder writable for the user flipback runs as, or set data_dir to one that is",
        io::ErrorKind::ReadOnlyFilesystem => "mount a writable volume there, or set data_dir to one",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "something else has that name: move it away, or set data_dir to another folder"
        }
        _ => "check the volume of the data folder",
    }
}

pub(super) fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EvidenceError {
    let path = path.to_owned();
    move |source| EvidenceError::Disk { attempted, path, source }
}

/// Runs a disk operation off the runtime's threads, and stops waiting for it after `limit`.
pub(super) async fn bounded<T, F>(
    places: &Arc<Semaphore>,
    limit: Duration,
    attempted: &'static str,
    path: PathBuf,
    operation: F,
) -> Result<T, EvidenceError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, EvidenceError> + Send + 'static,
{
    let work = async {
        let place = Arc::clone(places)
            .acquire_owned()
            .await
            .map_err(io::Error::other)
            .map_err(failed(attempted, &path))?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            operation()
        });
        done.await.map_err(io::Error::other).map_err(failed(attempted, &path))?
    };
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or_else(|_| {
        Err(EvidenceError::Slow {
            attempted,
            path,
            after: limit,
        })
    })
}

/// Runs a disk operation on a thread of its own, before there is anything else to do, and stops waiting for it after
/// `limit`; it then goes on by itself.
pub(super) fn at_start<T, F>(limit: Duration, attempted: &'static str, path: PathBuf, operation: F) -> Result<T, EvidenceError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, EvidenceError> + Send + 'static,
{
    let (done, answer) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // Nobody may be waiting any more.
        let _ = done.send(operation());
    });
    answer.recv_timeout(limit).unwrap_or_else(|_| {
        Err(EvidenceError::Slow {
            attempted,
            path,
            after: limit,
        })
    })
}

/// Holds the lock under which incidents are rewritten; each rewrite is whole or absent, so that a panic harms none.
pub(super) fn hold<T>(edit: &Mutex<T>) -> MutexGuard<'_, T> {
    edit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bundle in the making.
pub(super) struct Bundle {
    /// Where it is now.
    pub(super) partial: PathBuf,
    /// Where it will be.
    pub(super) sealed: PathBuf,
    /// The folder, locked while somebody lives who will complete it; the lock ends with the process.
    _alive: Option<File>,
}

/// Makes a folder and those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), EvidenceError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
        .and_then(|()| restrict(path, FOLDER_MODE))
        .map_err(failed("make the folder", path))
}

/// Gives a file or folder exactly this mode: the umask took what it wanted when it was made, an older flipback gave more.
pub(super) fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path)?.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Locks a bundle's folder; `None` when its maker is still alive. A volume that knows no locks has, as far as can be
/// told, no second process either.
pub(super) fn lock(folder: &Path) -> Result<Option<File>, EvidenceError> {
    let file = File::open(folder).map_err(failed("open", folder))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// Begins a bundle: its folder with `incident.json` and, of a decision, `decision.jsonl`, synced.
pub(super) fn begin(incidents: &Path, incident: Incident, record: Option<&str>, space: &Space) -> Result<Bundle, EvidenceError> {
    make_folder(incidents)?;
    let wanted = file_segment(&incident.id);
    let mut taken = None;
    for n in 1..=SAME_ID_MAX {
        let id = if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") };
        let (partial, sealed) = (incidents.join(format!("{PARTIAL}{id}")), incidents.join(&id));
        if sealed.exists() {
            continue;
        }
        let made = space.with(|| {
            let made = DirBuilder::new().mode(FOLDER_MODE).create(&partial);
            made.map_err(failed("make the folder", &partial))
        });
        match made {
            Err(EvidenceError::Disk { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => taken = Some((partial, source)),
            Err(error) => return Err(error),
            Ok(()) => {
                let bundle = Bundle {
                    _alive: lock(&partial)?,
                    partial,
                    sealed,
                };
                let written = write_first(&bundle.partial, Incident { id, ..incident }, record, space);
                if written.is_err() {
                    // Empty, it would only take the name.
                    let _ = fs::remove_dir_all(&bundle.partial);
                }
                written?;
                sync_folder(incidents)?;
                return Ok(bundle);
            }
        }
    }
    let (path, error) = taken.unwrap_or_else(|| (incidents.join(&wanted), io::ErrorKind::AlreadyExists.into()));
    Err(failed("find a free name beside", &path)(error))
}

/// Writes what is in memory.
fn write_first(partial: &Path, mut incident: Incident, record: Option<&str>, space: &Space) -> Result<(), EvidenceError> {
    restrict(partial, FOLDER_MODE).map_err(failed("restrict", partial))?;
    if record.is_some() {
        let recorded = format!("Recorded in {RECORD}: `flipback replay --explain .` in this folder judges it again");
        incident.timeline.push(TimelineEntry::remark(incident.case.at, recorded));
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

/// Writes one captured file; it is synced when the bundle is sealed. Always a new one: an older of the same name may be
/// shared with the bundle that this one is to replace.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), EvidenceError> {
    let write = || {
        let mut part = part_beside(path)?;
        part.write_all(bytes)?;
        part.persist(path)?;
        Ok(())
    };
    write().map_err(failed("write", path))
}

/// A file in the making beside its place, with the mode of all files.
pub(super) fn part_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folder(folder).map_err(|error| match error {
        EvidenceError::Disk { source, .. } => source,
        other => io::Error::other(other),
    })?;
    let mut builder = tempfile::Builder::new();
    let part = builder
        .prefix(PART)
        .permissions(Permissions::from_mode(FILE_MODE))
        .tempfile_in(folder)?;
    restrict(part.path(), FILE_MODE)?;
    Ok(part)
}

/// Names in a bundle's `incident.json` what is missing. Read anew: it may have been amended while the rest was captured.
pub(super) fn note(folder: &Path, change: impl FnOnce(&mut Incident)) -> Result<(), EvidenceError> {
    let mut incident = read(folder)?;
    change(&mut incident);
    write_incident(folder, &incident)
}

/// What is in a bundle: every file but `incident.json` and the list itself, hashed and synced, and every folder.
pub(super) struct Contents {
    hashes: BTreeMap<PathBuf, String>,
    folders: Vec<PathBuf>,
}

/// Looks at everything in a bundle, and sees to the modes of what others put there. Marks, whose names begin with a dot,
/// are no part of it; parts of files that never got their name go.
pub(super) fn contents(bundle: &Path) -> Result<Contents, EvidenceError> {
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
                let hash = hash_and_sync(&path)?;
                hashes.insert(path.strip_prefix(bundle).unwrap_or(&path).to_owned(), hash);
            }
        }
    }
    Ok(Contents { hashes, folders })
}

/// Lists everything in a bundle and syncs it: from here on it is whole.
pub(super) fn list_contents(bundle: &Path, contents: &Contents) -> Result<(), EvidenceError> {
    let mut hashes: BTreeMap<&Path, &str> = contents.hashes.iter().map(|(name, hash)| (name.as_path(), hash.as_str())).collect();
    let incident = hash_and_sync(&bundle.join(INCIDENT))?;
    hashes.insert(Path::new(INCIDENT), &incident);
    let manifest: String = hashes.iter().map(|(name, hash)| format!("{hash}  {}\n", name.display())).collect();
    replace(&bundle.join(MANIFEST), manifest.as_bytes())?;
    // Deepest first: a folder is whole once what it names is.
    contents.folders.iter().rev().try_for_each(|folder| sync_folder(folder))
}

/// Completes a bundle: lists every file, syncs all of it, gives the folder its name.
pub(super) fn seal(bundle: &Bundle, contents: &Contents) -> Result<(), EvidenceError> {
    list_contents(&bundle.partial, contents)?;
    fs::rename(&bundle.partial, &bundle.sealed).map_err(failed("give its name to", &bundle.partial))?;
    bundle.sealed.parent().map_or(Ok(()), sync_folder)
}

/// Gives up everything of a bundle in the making but the case and its record, where a full disk leaves room for no more.
pub(super) fn shed(bundle: &Path) -> Result<(), EvidenceError> {
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

/// Adds a line to the story of a bundle, be it complete or in the making.
pub(super) fn amend(incidents: &Path, id: &str, entry: TimelineEntry) -> Result<(), EvidenceError> {
    let sealed = incidents.join(id);
    let folder = if sealed.is_dir() {
        sealed
    } else {
        incidents.join(format!("{PARTIAL}{id}"))
    };
    if !folder.is_dir() {
        return Err(EvidenceError::Missing {
            id: id.to_owned(),
            folder: incidents.to_owned(),
        });
    }
    let mut incident = read(&folder)?;
    if incident.timeline.len() >= TIMELINE_MAX {
        warn!(incident = id, lines = TIMELINE_MAX, "Story of an incident is full");
        return Ok(());
    }
    incident.timeline.push(entry);
    replace_incident(&folder, &incident)
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
fn finish_replacing(folder: &Path) -> Result<(), EvidenceError> {
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

/// Finishes what a crash left: bundles that have their `incident.json` are sealed, saying so; one without is empty. Second
/// passes that were not complete are dropped, and the bundle stays as it was.
pub(super) fn recover(incidents: &Path) -> Result<(), EvidenceError> {
    restrict(incidents, FOLDER_MODE).map_err(failed("restrict", incidents))?;
    for path in entries(incidents)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let outcome = if let Some(id) = name.strip_prefix(PARTIAL) {
            recover_partial(&path, &incidents.join(id))
        } else if let Some(id) = name.strip_prefix(second::BEFORE) {
            second::recover_before(&path, &incidents.join(id))
        } else if let Some(id) = name.strip_prefix(second::AFTER) {
            second::recover_after(&path, &incidents.join(id))
        } else if name.starts_with(LEAVING) {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))
        } else if name.starts_with('.') || !path.is_dir() {
            Ok(())
        } else {
            finish_replacing(&path)
        };
        // One bundle that cannot be finished must not keep the guards from being watched.
        if let Err(error) = outcome {
            warn!(folder = %path.display(), %error, "Evidence of an earlier run cannot be finished");
        }
    }
    Ok(())
}

fn recover_partial(partial: &Path, sealed: &Path) -> Result<(), EvidenceError> {
    let Some(alive) = lock(partial)? else { return Ok(()) };
    if !partial.join(INCIDENT).exists() {
        return fs::remove_dir_all(partial).map_err(failed("remove the empty", partial));
    }
    let bundle = Bundle {
        sealed: sealed.to_owned(),
        partial: partial.to_owned(),
        _alive: Some(alive),
    };
    note(partial, |incident| {
        incident.partial = true;
        incident.capture_errors.push(INTERRUPTED.to_owned());
    })?;
    seal(&bundle, &contents(partial)?)?;
    warn!(folder = %sealed.display(), "Finished evidence that an earlier run left incomplete");
    Ok(())
}

/// The incidents kept below a data folder, newest first; a folder that cannot be read is skipped with a warning.
///
/// # Errors
/// [`EvidenceError`] when the folder of incidents itself cannot be read; one that does not exist holds none.
pub fn list(data_dir: &Path) -> Result<Vec<(PathBuf, Incident)>, EvidenceError> {
    all(&data_dir.join(INCIDENTS))
}

/// [`list`], by the folder of incidents.
pub(super) fn all(incidents: &Path) -> Result<Vec<(PathBuf, Incident)>, EvidenceError> {
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
pub(super) fn read(folder: &Path) -> Result<Incident, EvidenceError> {
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

fn incident_bytes(folder: &Path, incident: &Incident) -> Result<Vec<u8>, EvidenceError> {
    let mut bytes = serde_json::to_vec_pretty(incident).map_err(|error| failed("write", &folder.join(INCIDENT))(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn write_incident(folder: &Path, incident: &Incident) -> Result<(), EvidenceError> {
    replace(&folder.join(INCIDENT), &incident_bytes(folder, incident)?)
}

/// Replaces a file whole or not at all: written beside its place, synced, renamed.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), EvidenceError> {
    let write = || {
        let mut part = part_beside(path)?;
        part.write_all(bytes)?;
        part.as_file().sync_all()?;
        part.persist(path)?;
        Ok(())
    };
    write().map_err(failed("write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), EvidenceError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

fn hash_and_sync(path: &Path) -> Result<String, EvidenceError> {
    let mut digest = Sha256::new();
    let mut hash = || {
        let mut file = File::open(path)?;
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match file.read(&mut chunk)? {
                0 => return file.sync_all(),
                length => digest.update(chunk.get(..length).unwrap_or_default()),
            }
        }
    };
    hash().map_err(failed("sync", path))?;
    Ok(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hash, byte| format!("{hash}{byte:02x}"))
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, EvidenceError> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = list().map_err(failed("list", folder))?;
    entries.sort();
    Ok(entries)
}
