//! A bundle as one file: `<incident>.tar.zst`, for a ticket, a colleague, a machine without access.
//!
//! The same bundle gives the same bytes: names sorted, times those of the incident, owner 0, modes 0600 and 0700. One
//! buffer of one file is held at a time. An archive in a file is written beside its place and renamed, so that a crash or a
//! full disk leaves none. What does not match `MANIFEST.sha256` is exported all the same, and said: a damaged bundle is
//! still somebody's evidence.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    disk::{EvidenceError, MANIFEST, failed, sync_folder},
    manifest,
    stock::Found,
};

/// How hard zstd tries: logs shrink to a tenth at hundreds of megabytes a second.
const LEVEL: i32 = 3;
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Files in it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the archive.
    pub packed: u64,
    /// Files that are not what `MANIFEST.sha256` says, or are not in it.
    pub unsound: Vec<String>,
}

/// Exports a bundle to a file, whole or not at all. A file that is there already is replaced only if `replace`.
///
/// # Errors
/// [`EvidenceError`] when the bundle cannot be read or the file not written.
pub fn to_file(found: &Found, path: &Path, replace: Replace) -> Result<Exported, EvidenceError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if replace == Replace::No && path.exists() {
        return Err(failed("write", path)(io::ErrorKind::AlreadyExists.into()));
    }
    let mut part = tempfile::Builder::new()
        .prefix(".part-")
        .permissions(Permissions::from_mode(FILE_MODE))
        .tempfile_in(folder)
        .map_err(failed("write", path))?;
    let exported = to_writer(found, part.as_file_mut())?;
    part.as_file().sync_all().map_err(failed("write", path))?;
    let kept = match replace {
        Replace::Yes => part.persist(path),
        Replace::No => part.persist_noclobber(path),
    };
    kept.map_err(|error| failed("write", path)(error.error))?;
    sync_folder(folder)?;
    Ok(exported)
}

/// Whether a file that is there is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Exports a bundle to a stream.
///
/// # Errors
/// [`EvidenceError`] when the bundle cannot be read or the stream does not take it; what was written then is no archive.
pub fn to_writer(found: &Found, out: impl Write) -> Result<Exported, EvidenceError> {
    let (folder, at) = (&found.folder, found.kept.at);
    let list = fs::read_to_string(folder.join(MANIFEST)).unwrap_or_default();
    let (listed, _) = manifest::read(&list);
    let mut exported = Exported {
        files: 0,
        bytes: 0,
        packed: 0,
        unsound: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    let refused = || failed("export", folder);
    let mut packer = zstd::Encoder::new(Counted { out, bytes: 0 }, LEVEL).map_err(refused())?;
    packer.include_checksum(true).map_err(refused())?;
    let mut archive = tar::Builder::new(packer);
    archive
        .append_data(&mut header(at, FOLDER_MODE, 0), format!("{}/", found.kept.id), io::empty())
        .map_err(refused())?;
    for (path, name) in contents(folder)? {
        let inside = format!("{}/{name}", found.kept.id);
        if path.is_dir() {
            archive
                .append_data(&mut header(at, FOLDER_MODE, 0), format!("{inside}/"), io::empty())
                .map_err(refused())?;
            continue;
        }
        let file = File::open(&path).map_err(failed("open", &path))?;
        let size = file.metadata().map_err(failed("open", &path))?.len();
        let mut exact = Exact {
            file: file.take(size),
            digest: Sha256::new(),
        };
        let mut header = header(at, FILE_MODE, size);
        archive
            .append_data(&mut header, inside, &mut exact)
            .map_err(failed("export", &path))?;
        let hash = manifest::hexadecimal(exact.digest);
        if name != MANIFEST && listed.get(&name) != Some(&hash) {
            exported.unsound.push(name.clone());
        }
        exported.files += 1;
        exported.bytes += size;
        seen.insert(name);
    }
    exported.unsound.extend(listed.into_keys().filter(|name| !seen.contains(name)));
    exported.unsound.sort();
    let counted = archive.into_inner().and_then(zstd::Encoder::finish).map_err(refused())?;
    exported.packed = counted.bytes;
    let mut out = counted.out;
    out.flush().map_err(refused())?;
    Ok(exported)
}

fn header(at: Timestamp, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let kind = if mode == FOLDER_MODE {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(u64::try_from(at.as_second()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Everything below a bundle's folder with its name from there, sorted; links, marks and half-written files are left out.
fn contents(folder: &Path) -> Result<Vec<(PathBuf, String)>, EvidenceError> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).map_err(failed("list", &next))? {
            let entry = entry.map_err(failed("list", &next))?;
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(failed("list", &next))?;
            if kind.is_dir() {
                folders.push(path.clone());
            } else if !kind.is_file() || manifest::is_mark(&name) || !manifest::is_tame(&name) {
                continue;
            }
            found.push((path, name));
        }
    }
    found.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(found)
}

/// A file that has exactly the length its header tells: one that shrank must not shift what follows.
struct Exact {
    file: io::Take<File>,
    digest: Sha256,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        if length == 0 && self.file.limit() > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while it was read"));
        }
        self.digest.update(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
