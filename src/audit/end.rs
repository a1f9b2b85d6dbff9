//! The end of the journal on disk: found after a restart, moved to a new file, held against a second process.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tracing::{error, warn};

use super::{
    AuditError, disk,
    line::{GENESIS, Note, decode},
    read::{Lines, file_of, files},
};

/// Who may look: the journal names people.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Held while a process writes; the lock ends with it.
const LOCK: &str = ".lock";
/// A dead writer's lock may outlive it for moments: in a program that was just being started from there (a credential
/// plugin), until that has let go of what it inherited.
const LOCK_TRIES: u32 = 5;
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The end of the journal.
#[derive(Debug)]
pub(super) struct End {
    /// The newest file.
    pub(super) file: File,
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Bytes of the file that are durable lines.
    pub(super) len: u64,
    /// Whether the file may be longer than that.
    pub(super) excess: bool,
    /// The number of the next line.
    pub(super) seq: u64,
    /// The hash of the last one.
    pub(super) prev: String,
    /// What the next line shall tell of the past.
    pub(super) torn: Option<Note>,
    /// Whether there may be more files than are kept.
    pub(super) prune: bool,
    /// Files whose removal is told and not done yet.
    pub(super) doomed: Vec<PathBuf>,
    _alive: File,
}

impl End {
    /// Begins the next file.
    pub(super) fn begin(&mut self, folder: &Path) -> Result<(), AuditError> {
        let path = file_of(folder, self.seq);
        self.file = create(&path)?;
        sync_folder(folder)?;
        self.path = path;
        self.len = 0;
        self.excess = false;
        self.prune = true;
        Ok(())
    }

    /// Whether the file is not where it was any more.
    pub(super) fn vanished(&self) -> bool {
        let same = |known: fs::Metadata| fs::metadata(&self.path).map(|there| there.ino() == known.ino());
        !self.file.metadata().and_then(same).unwrap_or(false)
    }

    /// Removes the files whose removal is told.
    pub(super) fn remove_doomed(&mut self, folder: &Path) {
        let mut removed = false;
        for path in self.doomed.drain(..) {
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(error) => warn!(file = %path.display(), %error, "Failed to remove an old file of the audit journal"),
            }
        }
        if removed && let Err(error) = sync_folder(folder) {
            warn!(%error, "Failed to sync the folder of the audit journal");
        }
    }
}

/// Makes the folder, for nobody else to look into.
pub(super) fn make_folder(folder: &Path) -> Result<(), AuditError> {
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.map_err(disk("make the folder", folder))?;
    let mode = fs::metadata(folder).map_err(disk("look at", folder))?.permissions().mode();
    if mode & 0o777 != FOLDER_MODE
        && let Err(error) = fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))
    {
        warn!(folder = %folder.display(), %error, "Failed to keep others out of the audit journal");
    }
    Ok(())
}

/// Locks the folder. A volume that knows no locks has, as far as can be told, no second process either.
fn lock(folder: &Path) -> Result<File, AuditError> {
    let path = folder.join(LOCK);
    let opened = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path);
    let file = opened.map_err(disk("open", &path))?;
    for left in (0..LOCK_TRIES).rev() {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) if left > 0 => thread::sleep(LOCK_AGAIN),
            Err(fs::TryLockError::WouldBlock) => break,
            Ok(()) | Err(fs::TryLockError::Error(_)) => return Ok(file),
        }
    }
    Err(AuditError::Held { folder: folder.to_owned() })
}

/// Makes a file; one of that name that holds nothing is left of an attempt that failed.
fn create(path: &Path) -> Result<File, AuditError> {
    let options = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(FILE_MODE);
        options
    };
    match options().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::metadata(path).is_ok_and(|known| known.len() == 0) => {
            options().open(path)
        }
        made => made,
    }
    .map_err(disk("make", path))
}

fn sync_folder(folder: &Path) -> Result<(), AuditError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(disk("sync", folder))
}

/// The number and hash before the first line of a file; `None` where that is no line.
pub(super) fn first_line(path: &Path) -> Result<Option<(u64, String)>, AuditError> {
    let raw = Lines::open(path)?.next()?;
    let line = raw.filter(|raw| raw.ended).and_then(|raw| decode(&raw.bytes).ok());
    Ok(line.map(|line| (line.seq.saturating_sub(1), line.prev)))
}

/// What the lines of a file come to.
struct Scanned {
    /// Number and hash of the last line that is one.
    last: Option<(u64, String)>,
    /// Bytes of its ended lines.
    len: u64,
    /// Whether each of them is a line.
    sound: bool,
    /// What stands behind them.
    torn: Option<Note>,
}

fn scan(path: &Path) -> Result<Scanned, AuditError> {
    let mut lines = Lines::open(path)?;
    let mut scanned = Scanned {
        last: None,
        len: 0,
        sound: true,
        torn: None,
    };
    while let Some(raw) = lines.next()? {
        if !raw.ended {
            scanned.torn = Some(Note::Torn {
                bytes: raw.len,
                sha256: raw.sha256,
            });
            break;
        }
        scanned.len += raw.len + 1;
        match decode(&raw.bytes) {
            Ok(line) => scanned.last = Some((line.seq, line.hash)),
            Err(_) => scanned.sound = false,
        }
    }
    Ok(scanned)
}

/// Finds where the journal goes on.
pub(super) fn find_end(folder: &Path) -> Result<End, AuditError> {
    make_folder(folder)?;
    let alive = lock(folder)?;
    let files = files(folder)?;
    let mut newest = None;
    let mut last = None;
    for file in files.iter().rev() {
        let scanned = scan(&file.path)?;
        last = last.or_else(|| scanned.last.clone());
        newest.get_or_insert((file, scanned));
        if last.is_some() {
            break;
        }
    }
    let (seq, prev) = last.map_or((1, GENESIS.to_owned()), |(seq, hash)| (seq.saturating_add(1), hash));
    let fresh = |seq: u64| -> Result<End, AuditError> {
        let path = file_of(folder, seq);
        let file = create(&path)?;
        sync_folder(folder)?;
        Ok(End {
            file,
            path,
            len: 0,
            excess: false,
            seq,
            prev: prev.clone(),
            torn: None,
            prune: true,
            doomed: Vec::new(),
            _alive: alive.try_clone().map_err(disk("lock", folder))?,
        })
    };
    let Some((file, scanned)) = newest else { return fresh(seq) };
    if !scanned.sound {
        // What was done to it shall stay to be seen.
        error!(file = %file.path.display(), "Audit journal is broken: going on in a new file, run `flipback audit verify`");
        return fresh(seq.max(file.first.saturating_add(1)));
    }
    if scanned.len == 0 && file.first != seq {
        return fresh(seq);
    }
    let opened = OpenOptions::new().read(true).write(true).open(&file.path);
    Ok(End {
        file: opened.map_err(disk("open", &file.path))?,
        path: file.path.clone(),
        len: scanned.len,
        excess: scanned.torn.is_some(),
        seq,
        prev,
        torn: scanned.torn,
        prune: true,
        doomed: Vec::new(),
        _alive: alive,
    })
}
