//! The folders of incidents: begun, sealed, amended, listed, finished after a crash. Synchronous; [`bounded`] runs it off
//! the runtime's threads and never waits for ever.
//!
//! Here is what everything else is made of: folders and files with their modes, written whole, hashed, synced. [`bundle`]
//! makes a bundle, [`case`] reads and changes its `incident.json`, [`recover`] finishes what a crash left.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;

mod bundle;
mod case;
mod error;
mod recover;

pub use case::list;
pub use error::EvidenceError;

pub(super) use bundle::{
    Begun, Bundle, Contents, adopt, begin, begin_own, begun, contents, contents_beside, list_contents, seal, shed, unfinished,
};
pub(super) use case::{Amended, NEXT_MANIFEST, all, amend, correct, incident_hash, note, read, write_incident};
pub(super) use error::failed;
pub(super) use recover::{finish, recover};

/// The folder of incidents below the data folder.
pub(super) const INCIDENTS: &str = "incidents";
/// The case and what became of it.
pub(super) const INCIDENT: &str = "incident.json";
/// Hashes of all other files, as `sha256sum --check` reads them.
pub(super) const MANIFEST: &str = "MANIFEST.sha256";
/// Begins the name of a folder that is not complete.
pub(super) const PARTIAL: &str = ".partial-";
/// Begins the name of a file that is being written.
const PART: &str = ".part-";
/// Begins the name of a folder that is being deleted.
pub(super) const LEAVING: &str = ".leaving-";
/// Bundles hold logs: they are nobody else's business, whatever the umask says.
pub(super) const FOLDER_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;
/// A dead maker's lock may outlive it for moments: in a program that is just being started from here (a credential plugin),
/// until that has let go of what it inherited.
const LOCK_TRIES: u32 = 5;
/// How often another process that rewrites an incident is looked at; all together some seconds.
const EDIT_TRIES: u32 = 100;
const LOCK_AGAIN: Duration = Duration::from_millis(20);

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

/// Who rewrites incidents: one at a time, in this process and among all that use the folder.
pub(super) struct Edit {
    alone: Mutex<()>,
    folder: PathBuf,
}

/// Ends with the right to rewrite incidents.
pub(super) struct Editing<'e> {
    _alone: MutexGuard<'e, ()>,
    /// The locked folder; `None` where it cannot be locked.
    _folder: Option<File>,
}

impl Edit {
    pub(super) fn of(incidents: PathBuf) -> Self {
        Self {
            alone: Mutex::default(),
            folder: incidents,
        }
    }

    /// Waits for whoever rewrites an incident. Another process that does not come to an end is not waited for: it was
    /// stopped in the middle, and what it has to write is small.
    pub(super) fn hold(&self) -> Editing<'_> {
        let alone = hold(&self.alone);
        let locked = File::open(&self.folder).ok().filter(|folder| {
            (0..EDIT_TRIES).any(|_| {
                let busy = matches!(folder.try_lock(), Err(fs::TryLockError::WouldBlock));
                if busy {
                    std::thread::sleep(LOCK_AGAIN);
                }
                !busy
            })
        });
        Editing {
            _alone: alone,
            _folder: locked,
        }
    }
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
    for left in (0..LOCK_TRIES).rev() {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) if left > 0 => std::thread::sleep(LOCK_AGAIN),
            Err(fs::TryLockError::WouldBlock) => break,
            Ok(()) | Err(fs::TryLockError::Error(_)) => return Ok(Some(file)),
        }
    }
    Ok(None)
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
    hash(path, File::sync_all)
}

/// The hash of a file, and what is to be done with it after.
fn hash(path: &Path, then: impl FnOnce(&File) -> io::Result<()>) -> Result<String, EvidenceError> {
    let mut digest = Sha256::new();
    let hash = || {
        let mut file = File::open(path)?;
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match file.read(&mut chunk)? {
                0 => return then(&file),
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
