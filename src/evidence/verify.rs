//! Whether a bundle is what it was: every file of `MANIFEST.sha256` there and unchanged, nothing added, nothing that leads
//! out of it, nothing that strangers may read. For a folder and for an exported archive, with the same words.
//!
//! It refuses to follow links, to unpack anything, and to hold more than one buffer of any file. What it finds are
//! [`Problem`]s; only what keeps it from looking at all is an error. Modes: the group may have been given access, as
//! Kubernetes does for a volume with `fsGroup`; others may have none.
//!
//! A daemon may be at the bundle meanwhile: a line is added to its story in two steps, and its report is made anew as another folder
//! that takes the place of the one that is read. Neither is a problem: of the two steps the list that will hold is in force as soon
//! as its `incident.json` is (a crash between them leaves it so until the next start), and what changed under the look is looked at
//! again. What is wrong in a bundle that stands still is told at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    disk::{EvidenceError, INCIDENT, MANIFEST, NEXT_MANIFEST, failed},
    manifest,
};

/// Permissions that nobody but owner and group may have.
const OTHERS: u32 = 0o007;
/// Set-user-id, set-group-id, sticky: on a file, none is ours. On a folder `fsGroup` sets one.
const SPECIAL: u32 = 0o7000;
/// Entries of a bundle; more are no bundle.
const ENTRIES_MAX: usize = 100_000;
/// Bytes unpacked from an archive; a bundle has less, a bomb has more.
const UNPACKED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Problems that are named; the rest is counted.
const NAMED_MAX: usize = 1000;

/// How often a bundle is looked at that changes meanwhile: a story has some lines a second at most, and they end.
const LOOKS_MAX: u32 = 10;
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is listed and not there.
    Missing,
    /// Its content is not what was listed.
    Changed,
    /// It is there and not listed.
    Extra,
    /// Others may use it, or it would run as somebody else.
    Mode(String),
    /// It is neither a file nor a folder.
    Special(String),
    /// Its name leads out of the bundle, or has signs that no name has.
    Wild,
    /// It is there twice.
    Twice,
    /// A line of the list makes no sense.
    Line(String),
    /// It cannot be read.
    Unreadable(String),
}

/// A file and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which file, from the bundle's top; empty for the bundle itself.
    pub file: String,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name from outside must not draw on the terminal.
        let file = self.file.escape_debug();
        match &self.fault {
            Fault::Missing => write!(f, "missing: {file}"),
            Fault::Changed => write!(f, "changed: {file}"),
            Fault::Extra => write!(f, "not listed: {file}"),
            Fault::Mode(mode) => write!(f, "open to others ({mode}): {file}"),
            Fault::Special(what) => write!(f, "no plain file ({what}): {file}"),
            Fault::Wild => write!(f, "leads out of the bundle: {file}"),
            Fault::Twice => write!(f, "there twice: {file}"),
            Fault::Line(what) => write!(f, "{file}: {what}"),
            Fault::Unreadable(why) => write!(f, "unreadable ({why}): {file}"),
        }
    }
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The folder or archive.
    pub path: PathBuf,
    /// Files whose content is what was listed.
    pub sound: usize,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, by file.
    pub problems: Vec<Problem>,
}

impl Verified {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is seen of a bundle, be it a folder or an archive.
#[derive(Default)]
struct Looking {
    hashes: BTreeMap<String, String>,
    manifest: Option<Vec<u8>>,
    /// The list that will hold once it takes the other's place.
    next: Option<Vec<u8>>,
    problems: Vec<Problem>,
    beyond: usize,
    bytes: u64,
}

impl Looking {
    fn fault(&mut self, file: &str, fault: Fault) {
        if self.problems.len() < NAMED_MAX {
            let file = file.to_owned();
            self.problems.push(Problem { file, fault });
        } else {
            self.beyond += 1;
        }
    }

    fn mode(&mut self, file: &str, mode: u32, is_folder: bool) {
        let bad = if is_folder { OTHERS } else { OTHERS | SPECIAL };
        if mode & bad != 0 {
            self.fault(file, Fault::Mode(format!("{:04o}", mode & 0o7777)));
        }
    }

    /// Reads one file to its end, no further than `room`; keeps the list itself.
    fn file(&mut self, name: &str, content: &mut impl Read, room: u64) -> io::Result<()> {
        let (mut digest, mut chunk, mut read) = (Sha256::new(), vec![0; 64 * 1024], 0_u64);
        let mut list = (name == MANIFEST || name == NEXT_MANIFEST).then(Vec::new);
        loop {
            let length = content.read(&mut chunk)?;
            let part = chunk.get(..length).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            read += length as u64;
            if read > room || list.as_ref().is_some_and(|_| read > manifest::BYTES_MAX) {
                return Err(io::Error::other("larger than any bundle"));
            }
            digest.update(part);
            if let Some(list) = &mut list {
                list.extend_from_slice(part);
            }
        }
        self.bytes += read;
        match list {
            Some(list) if name == NEXT_MANIFEST => self.next = Some(list),
            Some(list) => self.manifest = Some(list),
            None if self.hashes.insert(name.to_owned(), manifest::hexadecimal(digest)).is_some() => self.fault(name, Fault::Twice),
            None => {}
        }
        Ok(())
    }

    /// The list that holds: the next one, where it tells of the `incident.json` that is there and of nothing else that is new.
    fn list(&mut self) -> Option<Vec<u8>> {
        let (manifest, next) = (self.manifest.take()?, self.next.take());
        let read = |bytes: &[u8]| manifest::read(&String::from_utf8_lossy(bytes));
        let in_force = next.filter(|next| {
            let ((mut now, _), (mut then, wrong)) = (read(&manifest), read(next));
            let (_, told) = (now.remove(INCIDENT), then.remove(INCIDENT));
            wrong.is_empty() && now == then && told.is_some() && told.as_ref() == self.hashes.get(INCIDENT)
        });
        Some(in_force.unwrap_or(manifest))
    }

    /// Compares what was seen with the list.
    fn judge(mut self, path: PathBuf) -> Verified {
        let mut sound = 0;
        match self.list() {
            None => self.fault(MANIFEST, Fault::Missing),
            Some(bytes) => {
                let (listed, wrong) = manifest::read(&String::from_utf8_lossy(&bytes));
                for (line, what) in wrong {
                    self.fault(MANIFEST, Fault::Line(format!("line {line}: {what}")));
                }
                let unreadable: BTreeSet<String> = self.problems.iter().map(|problem| problem.file.clone()).collect();
                let hashes = std::mem::take(&mut self.hashes);
                for (name, hash) in &listed {
                    match hashes.get(name) {
                        Some(found) if found == hash => sound += 1,
                        Some(_) => self.fault(name, Fault::Changed),
                        // Said already in what way it is there.
                        None if unreadable.contains(name) => {}
                        None => self.fault(name, Fault::Missing),
                    }
                }
                for name in hashes.keys().filter(|name| !listed.contains_key(*name)) {
                    self.fault(name, Fault::Extra);
                }
            }
        }
        self.problems.sort_by(|a, b| a.file.cmp(&b.file));
        if self.beyond > 0 {
            let more = format!("and {} more problems", self.beyond);
            self.problems.push(Problem {
                file: String::new(),
                fault: Fault::Line(more),
            });
        }
        Verified {
            path,
            sound,
            bytes: self.bytes,
            problems: self.problems,
        }
    }
}

/// What changes of a bundle when flipback writes in it: which folder it is, which list, which case.
fn standing(path: &Path) -> [Option<impl PartialEq + use<>>; 4] {
    ["", MANIFEST, NEXT_MANIFEST, INCIDENT].map(|name| {
        let meta = fs::symlink_metadata(path.join(name)).ok()?;
        Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
    })
}

/// Verifies a bundle's folder; one that changes meanwhile is looked at again.
///
/// # Errors
/// [`EvidenceError`] when the folder itself cannot be listed.
pub fn folder(path: &Path) -> Result<Verified, EvidenceError> {
    for _ in 1..LOOKS_MAX {
        let before = standing(path);
        let verified = look(path);
        let is_whole = verified.as_ref().is_ok_and(Verified::is_whole);
        if is_whole || before == standing(path) {
            return verified;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    look(path)
}

/// Looks at a bundle's folder once.
fn look(path: &Path) -> Result<Verified, EvidenceError> {
    let mut looking = Looking::default();
    let own = fs::symlink_metadata(path).map_err(failed("open", path))?;
    if !own.is_dir() {
        return Err(failed("open", path)(io::ErrorKind::NotADirectory.into()));
    }
    looking.mode("", own.permissions().mode(), true);
    let mut entries = 0;
    let mut folders = vec![(path.to_owned(), String::new())];
    while let Some((folder, above)) = folders.pop() {
        let listed = match fs::read_dir(&folder) {
            Ok(listed) => listed,
            Err(error) if above.is_empty() => return Err(failed("list", path)(error)),
            Err(error) => {
                looking.fault(&above, Fault::Unreadable(error.to_string()));
                continue;
            }
        };
        for entry in listed.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = if above.is_empty() { name } else { format!("{above}/{name}") };
            entries += 1;
            if entries > ENTRIES_MAX {
                looking.fault("", Fault::Unreadable(format!("more than {ENTRIES_MAX} files")));
                return Ok(looking.judge(path.to_owned()));
            }
            match entry.metadata() {
                Err(error) => looking.fault(&name, Fault::Unreadable(error.to_string())),
                Ok(meta) if meta.is_dir() => {
                    looking.mode(&name, meta.permissions().mode(), true);
                    folders.push((entry.path(), name));
                }
                Ok(meta) if meta.is_file() => {
                    if manifest::is_mark(&name) && name != NEXT_MANIFEST {
                        continue;
                    }
                    looking.mode(&name, meta.permissions().mode(), false);
                    let read = File::open(entry.path()).and_then(|mut file| looking.file(&name, &mut file, u64::MAX));
                    if let Err(error) = read {
                        looking.fault(&name, Fault::Unreadable(error.to_string()));
                    }
                }
                Ok(meta) => {
                    let what = if meta.is_symlink() {
                        "a symbolic link"
                    } else {
                        "a device, pipe or socket"
                    };
                    looking.fault(&name, Fault::Special(what.to_owned()));
                }
            }
        }
    }
    Ok(looking.judge(path.to_owned()))
}

/// Verifies an exported archive (`.tar.zst`), without unpacking it.
///
/// # Errors
/// [`EvidenceError`] when the file cannot be opened. One that is no archive, or ends too early, is a problem.
pub fn archive(path: &Path) -> Result<Verified, EvidenceError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut looking = Looking::default();
    let unpacked = zstd::Decoder::new(file).map_err(failed("read", path))?;
    if let Err(error) = unpack(&mut looking, unpacked) {
        looking.fault("", Fault::Unreadable(format!("not a whole archive: {error}")));
    }
    Ok(looking.judge(path.to_owned()))
}

fn unpack(looking: &mut Looking, unpacked: impl Read) -> io::Result<()> {
    let mut top: Option<String> = None;
    let mut entries = 0;
    let mut archive = tar::Archive::new(unpacked.take(UNPACKED_BYTES_MAX));
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} files")));
        }
        let full = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let full = full.strip_suffix('/').unwrap_or(&full);
        if !manifest::is_tame(full) {
            looking.fault(full, Fault::Wild);
            continue;
        }
        let (first, name) = full.split_once('/').unwrap_or((full, ""));
        let top = top.get_or_insert_with(|| first.to_owned());
        if first != top {
            looking.fault(full, Fault::Wild);
            continue;
        }
        let kind = entry.header().entry_type();
        let mode = entry.header().mode()?;
        if kind.is_dir() {
            looking.mode(name, mode, true);
        } else if kind.is_file() && !name.is_empty() {
            looking.mode(name, mode, false);
            let room = entry.size();
            looking.file(name, &mut entry, room)?;
        } else {
            let what = if kind.is_symlink() || kind.is_hard_link() {
                "a link"
            } else {
                "of a kind no bundle has"
            };
            looking.fault(full, Fault::Special(what.to_owned()));
        }
    }
    // What follows the end must still be a sound archive: zstd checks its sum only there.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    if rest.limit() == 0 {
        return Err(io::Error::other(format!("more than {} GiB", UNPACKED_BYTES_MAX >> 30)));
    }
    if top.is_none() {
        return Err(io::Error::other("it holds nothing"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
