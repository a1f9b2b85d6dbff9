//! The folders of incidents: begun, sealed, amended, listed, finished after a crash. Synchronous; [`bounded`] runs it off
//! the runtime's threads and never waits for ever.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tracing::warn;

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
/// An `incident.json` larger than this is not ours.
const INCIDENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Lines of an incident's story; what is beyond says nothing new.
const TIMELINE_MAX: usize = 500;
/// Incidents with the same id; a second one is rare, a third one a bug.
const SAME_ID_MAX: u32 = 100;
/// Bundles may hold logs: the owner writes, its group reads.
const FOLDER_MODE: u32 = 0o750;
pub(super) const FILE_MODE: u32 = 0o640;

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
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
        .map_err(failed("make the folder", path))
}

/// Locks a bundle's folder; `None` when its maker is still alive. A volume that knows no locks has, as far as can be
/// told, no second process either.
fn lock(folder: &Path) -> Result<Option<File>, EvidenceError> {
    let file = File::open(folder).map_err(failed("open", folder))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// Begins a bundle: its folder with `incident.json` and, of a decision, `decision.jsonl`, synced.
pub(super) fn begin(incidents: &Path, mut incident: Incident, record: Option<&str>) -> Result<Bundle, EvidenceError> {
    make_folder(incidents)?;
    let wanted = file_segment(&incident.id);
    let mut taken = None;
    for n in 1..=SAME_ID_MAX {
        let id = if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") };
        let (partial, sealed) = (incidents.join(format!("{PARTIAL}{id}")), incidents.join(&id));
        if sealed.exists() {
            continue;
        }
        match DirBuilder::new().mode(FOLDER_MODE).create(&partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = Some((partial, error)),
            Err(error) => return Err(failed("make the folder", &partial)(error)),
            Ok(()) => {
                let _alive = lock(&partial)?;
                incident.id = id;
                if record.is_some() {
                    let recorded = format!("Recorded in {RECORD}: `flipback replay --explain .` in this folder judges it again");
                    incident.timeline.push(TimelineEntry::remark(incident.case.at, recorded));
                }
                write_incident(&partial, &incident)?;
                if let Some(Err(error)) = record.map(|record| replace(&partial.join(RECORD), record.as_bytes())) {
                    // The case itself is written: it is kept without its record.
                    incident.capture_errors.push(format!("{RECORD}: {error}"));
                    write_incident(&partial, &incident)?;
                }
                sync_folder(incidents)?;
                return Ok(Bundle { partial, sealed, _alive });
            }
        }
    }
    let (path, error) = taken.unwrap_or_else(|| (incidents.join(&wanted), io::ErrorKind::AlreadyExists.into()));
    Err(failed("find a free name beside", &path)(error))
}

/// Writes one captured file; it is synced when the bundle is sealed.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), EvidenceError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed("write", path))
}

/// Completes a bundle: names what is missing, lists every file, syncs all of it, gives the folder its name.
pub(super) fn seal(bundle: &Bundle, missing: Vec<String>) -> Result<(), EvidenceError> {
    // Read again: it may have been amended while the rest was captured.
    let mut incident = read(&bundle.partial)?;
    incident.capture_errors.extend(missing);
    write_incident(&bundle.partial, &incident)?;
    let mut files = Vec::new();
    let mut folders = vec![bundle.partial.clone()];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        for path in entries(&folder)? {
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(MANIFEST) {
                files.push(path);
            }
        }
        next += 1;
    }
    files.sort();
    let mut manifest = String::new();
    for path in &files {
        let name = path.strip_prefix(&bundle.partial).unwrap_or(path).display();
        manifest.push_str(&format!("{}  {name}\n", hash_and_sync(path)?));
    }
    replace(&bundle.partial.join(MANIFEST), manifest.as_bytes())?;
    // Deepest first: a folder is whole once what it names is.
    folders.iter().rev().try_for_each(|folder| sync_folder(folder))?;
    fs::rename(&bundle.partial, &bundle.sealed).map_err(failed("give its name to", &bundle.partial))?;
    bundle.sealed.parent().map_or(Ok(()), sync_folder)
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
    write_incident(&folder, &incident)?;
    let manifest = folder.join(MANIFEST);
    let lines = match fs::read_to_string(&manifest) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", &manifest)(error)),
    };
    let ours = format!("  {INCIDENT}");
    let hash = hash_and_sync(&folder.join(INCIDENT))?;
    let line = |line: &str| {
        if line.ends_with(&ours) {
            format!("{hash}{ours}\n")
        } else {
            format!("{line}\n")
        }
    };
    replace(&manifest, lines.lines().map(line).collect::<String>().as_bytes())
}

/// Finishes what a crash left: bundles that have their `incident.json` are sealed, saying so; one without is empty.
pub(super) fn recover(incidents: &Path) -> Result<(), EvidenceError> {
    for partial in entries(incidents)? {
        let name = partial
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let Some(id) = name.strip_prefix(PARTIAL) else { continue };
        let Some(alive) = lock(&partial)? else { continue };
        let bundle = Bundle {
            sealed: incidents.join(id),
            partial: partial.clone(),
            _alive: Some(alive),
        };
        let outcome = if partial.join(INCIDENT).exists() {
            seal(
                &bundle,
                vec!["capture: interrupted when flipback ended; what had been captured by then is kept".to_owned()],
            )
        } else {
            fs::remove_dir_all(&partial).map_err(failed("remove the empty", &partial))
        };
        match outcome {
            Ok(()) => warn!(folder = %bundle.sealed.display(), "Finished evidence that an earlier run left incomplete"),
            // One bundle that cannot be finished must not keep the guards from being watched.
            Err(error) => warn!(folder = %partial.display(), %error, "Evidence of an earlier run cannot be finished"),
        }
    }
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

fn write_incident(folder: &Path, incident: &Incident) -> Result<(), EvidenceError> {
    let path = folder.join(INCIDENT);
    let mut bytes = serde_json::to_vec_pretty(incident).map_err(|error| failed("write", &path)(error.into()))?;
    bytes.push(b'\n');
    replace(&path, &bytes)
}

/// Replaces a file whole or not at all: written beside its place, synced, renamed.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), EvidenceError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut builder = tempfile::Builder::new();
        let mut part = builder
            .prefix(".part-")
            .permissions(Permissions::from_mode(FILE_MODE))
            .tempfile_in(folder)?;
        part.write_all(bytes)?;
        part.as_file().sync_all()?;
        part.persist(path)?;
        Ok(())
    };
    write().map_err(failed("write", path))?;
    sync_folder(folder)
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
    Ok(digest
        .finalize()
        .iter()
        .fold(String::new(), |hash, byte| format!("{hash}{byte:02x}")))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, EvidenceError> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = list().map_err(failed("list", folder))?;
    // A half-written replacement that a crash left is nobody's.
    entries.retain(|path| {
        let half = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".part-"));
        !half
    });
    entries.sort();
    Ok(entries)
}
