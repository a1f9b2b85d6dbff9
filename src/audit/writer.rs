//! What touches the disk: finding the end after a restart, appending, beginning a new file, removing old ones. Synchronous; it runs on
//! the journal's own thread and may hang as long as the disk does.
//!
//! Lines are written at the place where the durable part of a file ends and count only when they are synced. What failed half-way is
//! therefore overwritten by the next attempt, and an unfinished line of a crash by the line that tells of it.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tracing::{error, warn};

use super::{
    AuditError, disk,
    line::{GENESIS, Note, decode, encode},
    read::{Lines, file_of, files, name_of},
};
use crate::model::{Actor, AuditEntry, settings::AuditSettings};

/// Who may look: the journal names people.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Held while a process writes; the lock ends with it.
const LOCK: &str = ".lock";

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// An entry.
    Entry(AuditEntry),
    /// So many were lost here; the last one at this instant.
    Lost(u64, Timestamp),
}

/// The files of a journal, open for writing.
#[derive(Debug)]
pub(super) struct Writer {
    folder: PathBuf,
    settings: AuditSettings,
    end: Option<End>,
}

/// The end of the journal.
#[derive(Debug)]
struct End {
    file: File,
    path: PathBuf,
    /// Bytes of the file that are durable lines.
    len: u64,
    /// Whether the file may be longer than that.
    excess: bool,
    /// The number of the next line.
    seq: u64,
    /// The hash of the last one.
    prev: String,
    /// What the next line shall tell of the past.
    torn: Option<Note>,
    /// Whether there may be more files than are kept.
    prune: bool,
    /// Files whose removal is told and not done yet.
    doomed: Vec<PathBuf>,
    _alive: File,
}

impl Writer {
    /// A journal in a folder, which is not touched yet.
    pub(super) fn new(folder: PathBuf, settings: AuditSettings) -> Self {
        Self {
            folder,
            settings,
            end: None,
        }
    }

    /// Finds the end of the journal, and locks it; does nothing where that was done.
    ///
    /// # Errors
    /// [`AuditError::Held`] where another process writes it.
    pub(super) fn open(&mut self) -> Result<(), AuditError> {
        if self.end.is_none() {
            self.end = Some(find_end(&self.folder)?);
        }
        Ok(())
    }

    /// Writes items, and takes those from the front that are durable.
    ///
    /// # Errors
    /// Where the disk refuses; what is left may be tried again.
    pub(super) fn append(&mut self, items: &mut VecDeque<Item>) -> Result<(), AuditError> {
        self.open()?;
        let Self { folder, settings, end } = self;
        let end = end.as_mut().expect("opened above");
        if end.vanished() {
            error!(file = %end.path.display(), "Audit journal was removed while it was written; going on in a new file");
            make_folder(folder)?;
            end.begin(folder)?;
        }
        // Told by lines that an attempt before did not make durable.
        end.doomed.clear();
        let Some(at) = items.front().map(Item::at) else { return Ok(()) };
        let mut page = Page::new(end);
        if let Some(note) = page.end.torn.clone() {
            page.note(at, "torn", torn_words(&note), &note)?;
        }
        page.prune(folder, settings, at)?;
        let mut told = 0;
        while let Some(item) = items.get(told) {
            // A new file takes one entry at least, however little it shall hold.
            if page.full(settings) && (told > 0 || page.end.len > 0) {
                page.flush()?;
                items.drain(..told);
                told = 0;
                page.end.remove_doomed(folder);
                page.end.begin(folder)?;
                page = Page::new(page.end);
                page.prune(folder, settings, at)?;
                continue;
            }
            page.item(item)?;
            told += 1;
        }
        page.flush()?;
        items.drain(..told);
        page.end.remove_doomed(folder);
        Ok(())
    }
}

impl Item {
    fn at(&self) -> Timestamp {
        match self {
            Self::Entry(entry) => entry.at,
            Self::Lost(_, at) => *at,
        }
    }

    /// Entries that it stands for where it is lost itself.
    pub(super) fn entries(&self) -> u64 {
        match self {
            Self::Entry(_) => 1,
            Self::Lost(..) => 0,
        }
    }
}

/// Lines that are not durable yet.
struct Page<'a> {
    end: &'a mut End,
    bytes: Vec<u8>,
    seq: u64,
    prev: String,
    /// Whether it tells of the files that are too many.
    pruned: bool,
}

impl<'a> Page<'a> {
    fn new(end: &'a mut End) -> Self {
        Self {
            seq: end.seq,
            prev: end.prev.clone(),
            bytes: Vec::new(),
            pruned: false,
            end,
        }
    }

    /// Whether the file has as many bytes as it shall have.
    fn full(&self, settings: &AuditSettings) -> bool {
        let bytes = self.end.len + self.bytes.len() as u64;
        bytes > 0 && bytes >= settings.file_bytes
    }

    fn item(&mut self, item: &Item) -> Result<(), AuditError> {
        match item {
            Item::Entry(entry) => self.line(entry, None),
            Item::Lost(entries, at) => {
                let why = format!(
                    "{entries} {} lost here: the disk did not keep up",
                    if *entries == 1 { "entry was" } else { "entries were" }
                );
                self.note(*at, "lost", why, &Note::Lost { entries: *entries })
            }
        }
    }

    /// What the journal says of itself.
    fn note(&mut self, at: Timestamp, action: &str, why: String, note: &Note) -> Result<(), AuditError> {
        let entry = AuditEntry {
            at,
            actor: Actor::Flipback,
            guard: None,
            action: action.to_owned(),
            why,
            incident: None,
        };
        self.line(&entry, Some(note))
    }

    fn line(&mut self, entry: &AuditEntry, note: Option<&Note>) -> Result<(), AuditError> {
        let (line, hash) = encode(self.seq, entry, note, &self.prev)?;
        self.bytes.extend_from_slice(&line);
        self.seq += 1;
        self.prev = hash;
        Ok(())
    }

    /// Tells of the files that are too many, a line for each; they are removed when that is durable.
    fn prune(&mut self, folder: &Path, settings: &AuditSettings, at: Timestamp) -> Result<(), AuditError> {
        if !self.end.prune {
            return Ok(());
        }
        self.pruned = true;
        let files = files(folder)?;
        let kept = usize::try_from(settings.files.max(1)).unwrap_or(usize::MAX);
        let surplus = files.len().saturating_sub(kept);
        // Where the line that follows a file says what its last one was.
        let before = (self.end.seq.saturating_sub(1), self.end.prev.clone());
        for (file, next) in files.iter().zip(files.iter().skip(1)).take(surplus) {
            let boundary = if next.path == self.end.path && self.end.len == 0 {
                Some(before.clone())
            } else {
                first_line(&next.path)?
            };
            let Some((through, hash)) = boundary else {
                error!(file = %next.path.display(), "Audit journal is broken: keeping its old files, run `flipback audit verify`");
                break;
            };
            let file_name = name_of(&file.path);
            let why = format!("removed {file_name} with the entries up to {through}: {kept} files are kept");
            let note = Note::Pruned {
                file: file_name,
                through,
                hash,
            };
            self.note(at, "pruned", why, &note)?;
            self.end.doomed.push(file.path.clone());
        }
        Ok(())
    }

    /// Makes the lines durable.
    fn flush(&mut self) -> Result<(), AuditError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let end = &mut *self.end;
        let known = std::mem::replace(&mut end.excess, true);
        end.file.write_all_at(&self.bytes, end.len).map_err(disk("write", &end.path))?;
        let len = end.len + self.bytes.len() as u64;
        if known {
            end.file.set_len(len).map_err(disk("cut", &end.path))?;
        }
        end.file.sync_data().map_err(disk("sync", &end.path))?;
        end.len = len;
        end.excess = false;
        end.seq = self.seq;
        end.prev.clone_from(&self.prev);
        end.torn = None;
        end.prune &= !self.pruned;
        self.bytes.clear();
        Ok(())
    }
}

impl End {
    /// Begins the next file.
    fn begin(&mut self, folder: &Path) -> Result<(), AuditError> {
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
    fn vanished(&self) -> bool {
        let same = |known: fs::Metadata| fs::metadata(&self.path).map(|there| there.ino() == known.ino());
        !self.file.metadata().and_then(same).unwrap_or(false)
    }

    fn remove_doomed(&mut self, folder: &Path) {
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

fn torn_words(note: &Note) -> String {
    match note {
        Note::Torn { bytes, .. } => format!("an unfinished line of {bytes} bytes was cut off: flipback had ended while it was written"),
        Note::Lost { .. } | Note::Pruned { .. } => String::new(),
    }
}

fn make_folder(folder: &Path) -> Result<(), AuditError> {
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
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(AuditError::Held { folder: folder.to_owned() }),
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
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
fn first_line(path: &Path) -> Result<Option<(u64, String)>, AuditError> {
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
fn find_end(folder: &Path) -> Result<End, AuditError> {
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
