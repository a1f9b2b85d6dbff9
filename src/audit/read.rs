//! The files of a journal, and their lines, one at a time.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    AuditError, disk,
    line::{LINE_BYTES_MAX, Line, decode, hex},
};

/// Begins the name of a file.
const PREFIX: &str = "audit-";
/// Ends it.
const SUFFIX: &str = ".jsonl";
/// Digits of the number between them.
const DIGITS: usize = 20;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JournalFile {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// The number that its first line has, by its name.
    pub(super) first: u64,
}

/// The path of the file that begins with a line.
pub(super) fn file_of(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{first:0DIGITS$}{SUFFIX}"))
}

/// The name of a path, for people.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The files of a journal in order; none where the folder does not exist.
pub(super) fn files(folder: &Path) -> Result<Vec<JournalFile>, AuditError> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(disk("list", folder))?,
    };
    let mut files = Vec::new();
    for entry in listed {
        let path = entry.map_err(disk("list", folder))?.path();
        let name = name_of(&path);
        let digits = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
        let digits = digits.filter(|digits| digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit()));
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            files.push(JournalFile { path, first });
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// Bytes up to the end of a line, or of the file.
#[derive(Debug)]
pub(super) struct Raw {
    /// Without the end; cut where they are more than any line of ours has.
    pub(super) bytes: Vec<u8>,
    /// How many there were, without the end.
    pub(super) len: u64,
    /// Whether the line was ended.
    pub(super) ended: bool,
    /// The hash of all of them.
    pub(super) sha256: String,
}

/// The lines of a file; holds one of them at a time.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<File>,
    path: PathBuf,
}

impl Lines {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let file = File::open(path).map_err(disk("open", path))?;
        Ok(Self {
            reader: BufReader::new(file),
            path: path.to_owned(),
        })
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, AuditError> {
        let limit = LINE_BYTES_MAX as u64 + 1;
        let mut bytes = Vec::new();
        let mut sha256 = Sha256::new();
        let mut piece = Vec::new();
        let (mut len, mut ended) = (0, false);
        while !ended {
            piece.clear();
            let mut bounded = self.reader.by_ref().take(limit);
            let read = bounded.read_until(b'\n', &mut piece).map_err(disk("read", &self.path))?;
            if read == 0 {
                break;
            }
            ended = piece.pop_if(|last| *last == b'\n').is_some();
            len += piece.len() as u64;
            sha256.update(&piece);
            if bytes.is_empty() {
                bytes.append(&mut piece);
            }
        }
        let sha256 = hex(&sha256.finalize());
        Ok((len > 0 || ended).then_some(Raw { bytes, len, ended, sha256 }))
    }
}

impl Raw {
    /// Whether it is longer than any line of ours.
    pub(super) fn long(&self) -> bool {
        self.len > LINE_BYTES_MAX as u64
    }
}

/// A line as [`entries`] tells it.
#[derive(Debug)]
pub enum Told<'a> {
    /// A line, and its bytes as they stand there.
    Line(Box<Line>, &'a str),
    /// What is none: file and number of the line.
    Unreadable(String, u64),
}

/// Tells every line of a journal, oldest first, until `tell` says stop; does not check how they hang together.
///
/// # Errors
/// [`AuditError::Absent`] where there is none, [`AuditError::Disk`] where it cannot be read.
pub fn entries(folder: &Path, mut tell: impl FnMut(Told<'_>) -> std::ops::ControlFlow<()>) -> Result<(), AuditError> {
    let files = files(folder)?;
    if files.is_empty() {
        return Err(AuditError::Absent { folder: folder.to_owned() });
    }
    for file in files {
        let mut lines = match Lines::open(&file.path) {
            // Removed to make room since the folder was listed.
            Err(AuditError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            lines => lines?,
        };
        let mut number = 0;
        // What is not ended is still being written.
        while let Some(raw) = lines.next()?.filter(|raw| raw.ended) {
            number += 1;
            let told = match (decode(&raw.bytes), std::str::from_utf8(&raw.bytes)) {
                (Ok(line), Ok(text)) => Told::Line(Box::new(line), text),
                _ => Told::Unreadable(name_of(&file.path), number),
            };
            if tell(told).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}
