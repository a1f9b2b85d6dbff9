//! What is written: lines, new files, the removal of old ones. Synchronous; it runs on the journal's own thread and may hang as long as
//! the disk does.
//!
//! Lines are written at the place where the durable part of a file ends and count only when they are synced. What failed half-way is
//! therefore overwritten by the next attempt, and an unfinished line of a crash by the line that tells of it.

use std::{
    collections::VecDeque,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tracing::error;

use super::{
    AuditError, disk,
    end::{End, find_end, first_line, make_folder},
    line::{Note, encode},
    read::{files, name_of},
};
use crate::model::{Actor, AuditEntry, settings::AuditSettings};

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

fn torn_words(note: &Note) -> String {
    match note {
        Note::Torn { bytes, .. } => format!("an unfinished line of {bytes} bytes was cut off: flipback had ended while it was written"),
        Note::Lost { .. } | Note::Pruned { .. } => String::new(),
    }
}
