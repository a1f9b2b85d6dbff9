//! What a bundle's copy has got so far: `.copied` in its folder, one JSON object a line, only ever appended to.
//!
//! The first line says where to, each further one a file that the store has taken, with its hash; the last one that all of
//! a `MANIFEST.sha256` is there. A crash leaves at most half a line, which is cut off. A file that changed since, by the
//! second pass or an amendment, has another hash and is copied again; all others are not.
//!
//! The file is locked while somebody copies, so that the daemon and a command do not do it both.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::evidence::{
    disk::{EvidenceError, MANIFEST, failed},
    manifest,
};

/// The journal's file.
const COPIED: &str = ".copied";
/// A journal with more bytes is not ours: begun anew.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
const MODE: u32 = 0o600;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// Where to.
    To(String),
    /// The store has this file.
    File { name: String, sha256: String },
    /// The store has everything that the list with this hash names, and the list.
    Whole { manifest: String },
}

#[derive(Default)]
struct Said {
    to: Option<String>,
    files: BTreeMap<String, String>,
    whole: Option<String>,
    /// Bytes of whole lines.
    sound: u64,
}

impl Said {
    fn read(text: &[u8]) -> Self {
        let mut said = Self::default();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let Ok(parsed) = serde_json::from_slice(line) else { break };
            if !line.ends_with(b"\n") {
                break;
            }
            said.sound += line.len() as u64;
            match parsed {
                Line::To(to) => said.to = Some(to),
                Line::File { name, sha256 } => {
                    said.files.insert(name, sha256);
                }
                Line::Whole { manifest } => said.whole = Some(manifest),
            }
        }
        said
    }
}

/// The place that holds all of a bundle as it is now.
pub(super) fn copied_to(folder: &Path) -> Option<String> {
    let said = Said::read(&fs::read(folder.join(COPIED)).ok()?);
    let whole = said.whole?;
    list_hash(folder).is_ok_and(|hash| hash == whole).then_some(said.to).flatten()
}

/// The hash of a bundle's list of files.
pub(super) fn list_hash(folder: &Path) -> Result<String, EvidenceError> {
    let path = folder.join(MANIFEST);
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    Ok(manifest::hexadecimal(Sha256::new_with_prefix(bytes)))
}

/// A journal that is being written; locked.
pub(super) struct Journal {
    file: File,
    files: BTreeMap<String, String>,
}

impl Journal {
    /// Opens the journal of a bundle, begun anew where it is of another place or `again`; `None` while somebody else copies.
    pub(super) fn open(folder: &Path, place: &str, again: bool) -> Result<Option<Self>, EvidenceError> {
        let path = folder.join(COPIED);
        let open = || -> io::Result<Option<Self>> {
            let mut options = OpenOptions::new();
            let mut file = options.read(true).append(true).create(true).mode(MODE).open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                // A volume that knows no locks has, as far as can be told, no second process either.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            let mut text = Vec::new();
            file.seek(SeekFrom::Start(0))?;
            Read::by_ref(&mut file).take(BYTES_MAX).read_to_end(&mut text)?;
            let said = Said::read(&text);
            let same = !again && said.to.as_deref() == Some(place);
            file.set_len(if same { said.sound } else { 0 })?;
            let mut journal = Self {
                file,
                files: if same { said.files } else { BTreeMap::new() },
            };
            if !same {
                journal.write(&Line::To(place.to_owned()))?;
            }
            Ok(Some(journal))
        };
        open().map_err(failed("note the copy in", &path))
    }

    /// Whether the store has this file with this content.
    pub(super) fn has(&self, name: &str, sha256: &str) -> bool {
        self.files.get(name).is_some_and(|hash| hash == sha256)
    }

    /// Notes that the store has taken a file.
    pub(super) fn took(&mut self, name: &str, sha256: &str) -> io::Result<()> {
        self.files.insert(name.to_owned(), sha256.to_owned());
        self.write(&Line::File {
            name: name.to_owned(),
            sha256: sha256.to_owned(),
        })
    }

    /// Notes that the store has everything.
    pub(super) fn whole(&mut self, manifest: &str) -> io::Result<()> {
        self.write(&Line::Whole {
            manifest: manifest.to_owned(),
        })?;
        self.file.sync_all()
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_of_a_crash_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |again| Journal::open(folder.path(), "s3://b/p", again).expect("opens").expect("is free");
        let mut journal = open(false);
        journal.took("a", "1").expect("writes");
        journal.file.write_all(b"{\"file\":{\"name\":\"b\",\"sha").expect("writes");
        drop(journal);
        let mut journal = open(false);
        assert!(journal.has("a", "1") && !journal.has("a", "2") && !journal.has("b", "2"));
        journal.took("b", "2").expect("writes");
        drop(journal);
        assert!(open(false).has("b", "2"));
        assert!(!open(true).has("b", "2"), "again means again");
    }

    #[test]
    fn a_journal_of_another_place_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(MANIFEST), "x").expect("writes");
        let hash = list_hash(folder.path()).expect("reads");
        let mut journal = Journal::open(folder.path(), "s3://a", false).expect("opens").expect("is free");
        assert!(copied_to(folder.path()).is_none());
        journal.whole(&hash).expect("writes");
        assert!(copied_to(folder.path()).as_deref() == Some("s3://a"));
        fs::write(folder.path().join(MANIFEST), "y").expect("writes");
        assert!(copied_to(folder.path()).is_none(), "what was amended is copied again");
    }

    #[test]
    fn only_one_copies_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = Journal::open(folder.path(), "s3://a", false).expect("opens").expect("is free");
        assert!(Journal::open(folder.path(), "s3://a", false).expect("opens").is_none());
    }
}
