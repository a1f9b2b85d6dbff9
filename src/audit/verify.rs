//! Whether the journal is what it was: every line, in every file, one at a time.

use std::{fmt, io, path::Path, str::FromStr};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    AuditError,
    line::{GENESIS, Line, Note, Unsound, decode},
    read::{JournalFile, Lines, Raw, files, name_of},
};

/// A running flipback may remove an old file while it is read; then all is read again, so often at most.
const ATTEMPTS_MAX: usize = 3;

/// What a whole journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Files.
    pub files: u64,
    /// Lines.
    pub entries: u64,
    /// The number of the first line that is there.
    pub first: u64,
    /// When it was written.
    pub since: Timestamp,
    /// When the last one was written.
    pub until: Timestamp,
    /// The last line, to be kept elsewhere.
    pub anchor: Anchor,
    /// Lines were removed to make room up to this one, as the journal says; 0 when none was.
    pub pruned_through: u64,
    /// Entries that were lost since the disk did not keep up, as the journal says.
    pub lost: u64,
    /// Unfinished lines that were cut off after a crash, as the journal says.
    pub cuts: u64,
    /// An unfinished line at the end: a crash, or a line that is being written now.
    pub torn: Option<Torn>,
    /// How an anchor that was given fares.
    pub anchored: Option<Anchored>,
}

/// An unfinished line at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Torn {
    /// Its file.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
}

/// How an anchor fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchored {
    /// It is in the journal: nothing up to it was changed.
    Holds,
    /// Its line was removed to make room: it can tell nothing any more.
    TooOld,
}

/// Number and hash of a line, kept elsewhere.
///
/// A chain shows what was changed within it, not that its end is missing: what is left of a journal after its last lines were cut off
/// is a whole journal. Who knows one line of it from before, knows whether it is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The line's number.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl Serialize for Anchor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected SEQ:HASH as `flipback audit verify` prints it: a number, a colon and 64 hexadecimal digits".to_owned();
        let (seq, hash) = text.trim().split_once(':').ok_or_else(wrong)?;
        let hash = hash.to_ascii_lowercase();
        let sound = hash.len() == GENESIS.len() && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
        let seq = seq.parse().ok().filter(|seq| *seq > 0 && sound).ok_or_else(wrong)?;
        Ok(Self { seq, hash })
    }
}

/// The first place at which a journal is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u64,
    /// What was done to it.
    pub fault: Fault,
    /// What should stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            fault,
            expected,
            found,
        } = self;
        write!(f, "{file}:{line}: {fault}: expected {expected}, found {found}")
    }
}

/// What was done to a journal, as far as its lines show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Bytes of the line were changed.
    Changed,
    /// The line, or the one before it, was replaced by one with a sound hash of its own.
    Replaced,
    /// Lines before it are gone.
    Removed,
    /// The line does not belong there.
    Inserted,
    /// The file has the name of another.
    Swapped,
    /// The end of the journal is gone.
    Cut,
    /// What is known of it from elsewhere is not what it says.
    Rewritten,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "the line was changed",
            Self::Replaced => "this line or the one before it was replaced",
            Self::Removed => "lines before this one were removed",
            Self::Inserted => "the line was inserted or moved here",
            Self::Swapped => "the file does not begin as its name says: files were renamed or swapped",
            Self::Cut => "the end of the journal was cut off",
            Self::Rewritten => "the journal was rewritten: the anchor's line is another one",
        })
    }
}

/// Checks a journal, with one line in memory at a time.
///
/// # Errors
/// [`AuditError::Broken`] with the first place that is not what it was; [`AuditError::Absent`] where there is no journal, and
/// [`AuditError::Disk`] where it cannot be read.
pub fn verify(folder: &Path) -> Result<Verified, AuditError> {
    verify_against(folder, None)
}

/// Checks a journal, and that a line known from before is still in it.
///
/// # Errors
/// As [`verify`]; a journal that ends before the anchor, or has another line there, is broken.
pub fn verify_against(folder: &Path, anchor: Option<&Anchor>) -> Result<Verified, AuditError> {
    let mut attempts = 1;
    loop {
        match attempt(folder, anchor) {
            Err(AuditError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS_MAX => attempts += 1,
            done => return done,
        }
    }
}

fn attempt(folder: &Path, anchor: Option<&Anchor>) -> Result<Verified, AuditError> {
    let files = files(folder)?;
    let mut walk = Walk {
        anchor: anchor.cloned(),
        ..Walk::default()
    };
    for (n, file) in files.iter().enumerate() {
        walk.file(file, n + 1 == files.len())?;
    }
    walk.end(folder, files.len() as u64)
}

/// A line's place in the chain.
#[derive(Clone, Debug)]
struct Link {
    seq: u64,
    prev: String,
    hash: String,
    at: Timestamp,
}

/// What is known on the way.
#[derive(Debug, Default)]
struct Walk {
    anchor: Option<Anchor>,
    anchored: bool,
    first: Option<Link>,
    last: Option<Link>,
    /// Where the first and the last line stand.
    begins: (String, u64),
    ends: (String, u64),
    entries: u64,
    /// Whether the journal says that what came before its first line was removed.
    explained: bool,
    lost: u64,
    cuts: u64,
    torn: Option<Torn>,
}

impl Walk {
    fn file(&mut self, file: &JournalFile, newest: bool) -> Result<(), AuditError> {
        let name = name_of(&file.path);
        let mut lines = Lines::open(&file.path)?;
        let mut number = 0;
        while let Some(raw) = lines.next()? {
            number += 1;
            let place = (name.clone(), number);
            if !raw.ended && newest {
                self.torn = Some(Torn {
                    file: name,
                    bytes: raw.len,
                });
                return Ok(());
            }
            let line = sound(&place, &raw)?;
            if number == 1 && line.seq != file.first {
                let expected = format!("entry {}", file.first);
                return Err(broken(&place, Fault::Swapped, expected, format!("entry {}", line.seq)));
            }
            self.line(place, &line)?;
        }
        // Only the newest file may have been begun and not written yet.
        if number == 0 && !newest {
            return Err(broken(
                &(name, 1),
                Fault::Removed,
                format!("entry {}", file.first),
                "nothing".to_owned(),
            ));
        }
        Ok(())
    }

    fn line(&mut self, place: (String, u64), line: &Line) -> Result<(), AuditError> {
        let link = Link {
            seq: line.seq,
            prev: line.prev.clone(),
            hash: line.hash.clone(),
            at: line.entry.at,
        };
        match &self.last {
            None => {
                self.begins = place.clone();
                self.first = Some(link.clone());
            }
            Some(last) => follows(&place, last, &link)?,
        }
        if let Some(anchor) = self.anchor.as_ref().filter(|anchor| anchor.seq == line.seq) {
            if anchor.hash != line.hash {
                return Err(broken(
                    &place,
                    Fault::Rewritten,
                    anchor.to_string(),
                    format!("{}:{}", line.seq, line.hash),
                ));
            }
            self.anchored = true;
        }
        match &line.journal {
            Some(Note::Lost { entries }) => self.lost = self.lost.saturating_add(*entries),
            Some(Note::Torn { .. }) => self.cuts += 1,
            Some(Note::Pruned { through, hash, .. }) => {
                let first = self.first.as_ref();
                self.explained |= first.is_some_and(|first| first.seq == through + 1 && first.prev == *hash);
            }
            None => {}
        }
        self.entries += 1;
        self.last = Some(link);
        self.ends = place;
        Ok(())
    }

    fn end(self, folder: &Path, files: u64) -> Result<Verified, AuditError> {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            let absent = AuditError::Absent { folder: folder.to_owned() };
            let cut = |anchor: Anchor| {
                broken(
                    &self.ends,
                    Fault::Cut,
                    format!("entry {}", anchor.seq),
                    "no entry at all".to_owned(),
                )
            };
            return Err(self.anchor.map_or(absent, cut));
        };
        let before = first.seq.saturating_sub(1);
        if before == 0 && first.prev != GENESIS {
            return Err(broken(
                &self.begins,
                Fault::Replaced,
                format!("prev {GENESIS}"),
                format!("prev {}", first.prev),
            ));
        }
        if before > 0 && !self.explained {
            let expected = "entry 1, or an entry that tells of the removal of those before".to_owned();
            return Err(broken(&self.begins, Fault::Removed, expected, format!("entry {}", first.seq)));
        }
        let anchored = match self.anchor {
            Some(anchor) if anchor.seq > last.seq => {
                let found = format!("entry {} as the last one", last.seq);
                return Err(broken(&self.ends, Fault::Cut, format!("entry {}", anchor.seq), found));
            }
            // The line itself is gone, its hash is not.
            Some(anchor) if anchor.seq == before && anchor.hash != first.prev => {
                return Err(broken(
                    &self.begins,
                    Fault::Rewritten,
                    format!("prev {}", anchor.hash),
                    format!("prev {}", first.prev),
                ));
            }
            Some(anchor) if self.anchored || anchor.seq == before => Some(Anchored::Holds),
            Some(_) => Some(Anchored::TooOld),
            None => None,
        };
        Ok(Verified {
            files,
            entries: self.entries,
            first: first.seq,
            since: first.at,
            until: last.at,
            anchor: Anchor {
                seq: last.seq,
                hash: last.hash,
            },
            pruned_through: before,
            lost: self.lost,
            cuts: self.cuts,
            torn: self.torn,
            anchored,
        })
    }
}

/// A line whose bytes are those that its hash was made of.
fn sound(place: &(String, u64), raw: &Raw) -> Result<Line, AuditError> {
    let changed = |expected: &str, found: String| broken(place, Fault::Changed, expected.to_owned(), found);
    if raw.long() {
        return Err(changed("a line of flipback's", format!("a line of {} bytes", raw.len)));
    }
    if !raw.ended {
        return Err(changed(
            "a line that is ended",
            "the end of the file, with a newer file behind it".to_owned(),
        ));
    }
    decode(&raw.bytes).map_err(|unsound| match unsound {
        Unsound::Garbled(found) => changed("a line of flipback's", found),
        Unsound::Changed { expected, found } => changed(&format!("hash {expected} of what the line says"), format!("hash {found}")),
    })
}

/// Whether a line follows another.
fn follows(place: &(String, u64), last: &Link, link: &Link) -> Result<(), AuditError> {
    let wanted = last.seq.saturating_add(1);
    let seq = |seq| format!("entry {seq}");
    match link.seq {
        found if found > wanted => Err(broken(place, Fault::Removed, seq(wanted), seq(found))),
        found if found < wanted => Err(broken(place, Fault::Inserted, seq(wanted), seq(found))),
        _ if link.prev != last.hash => {
            let (expected, found) = (format!("prev {}", last.hash), format!("prev {}", link.prev));
            Err(broken(place, Fault::Replaced, expected, found))
        }
        _ => Ok(()),
    }
}

fn broken((file, line): &(String, u64), fault: Fault, expected: String, found: String) -> AuditError {
    AuditError::Broken(Box::new(Broken {
        file: file.clone(),
        line: *line,
        fault,
        expected,
        found,
    }))
}
