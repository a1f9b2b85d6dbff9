//! What lies in the folder of incidents: how large each bundle is, whether it is pinned, finished, copied. And the pin itself.
//!
//! It names bundles by what is on disk, not by what a process remembers, so that the daemon, the command line and a second
//! start agree. It refuses to take a folder without `incident.json` for a bundle: what is not ours is neither counted nor
//! ever deleted. Links are not followed.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    copy,
    disk::{self, EvidenceError, INCIDENT, INCIDENTS, PARTIAL, failed, sync_folder},
};
use crate::model::Incident;

/// The empty file in a bundle's folder that keeps retention away from it.
pub const PINNED: &str = ".pinned";
/// A pin is empty; who may read the bundle may see it.
const PIN_MODE: u32 = 0o600;

/// A bundle as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its folder's name, without what marks it as unfinished.
    pub id: String,
    /// Its guard, by name; by its form in folder names where `incident.json` cannot be read.
    pub guard: String,
    /// When it was decided.
    pub at: Timestamp,
    /// Length of all its files.
    pub bytes: u64,
    /// A person wants it kept.
    pub pinned: bool,
    /// It is still being written, or a crash left it so.
    pub partial: bool,
    /// A copy is configured and holds it not yet, or not its newest content.
    pub awaits_copy: bool,
}

/// A bundle on disk, with its incident where that can be read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// What retention sees.
    pub kept: Kept,
    /// Its incident, or why it cannot be read.
    pub incident: Result<Incident, String>,
}

/// The folder of incidents below a data folder.
#[must_use]
pub fn incidents_of(data_dir: &Path) -> PathBuf {
    data_dir.join(INCIDENTS)
}

/// Everything that is kept, oldest first. `copied_to` names the configured copy's place, as [`copy::place`] does.
///
/// # Errors
/// [`EvidenceError`] when the folder cannot be listed; one that does not exist holds nothing.
pub fn stock(incidents: &Path, copied_to: Option<&str>) -> Result<Vec<Found>, EvidenceError> {
    let listed = match fs::read_dir(incidents) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed("list", incidents))?,
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(failed("list", incidents))?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = entry.file_name().to_str().map(str::to_owned).filter(|_| is_folder) else {
            continue;
        };
        let (id, partial) = match name.strip_prefix(PARTIAL) {
            Some(id) => (id.to_owned(), true),
            None if name.starts_with('.') => continue,
            None => (name, false),
        };
        found.extend(look(entry.path(), id, partial, copied_to));
    }
    found.sort_by(|a, b| (a.kept.at, &a.kept.id).cmp(&(b.kept.at, &b.kept.id)));
    Ok(found)
}

/// One bundle; `None` when the folder is none, or went away meanwhile.
fn look(folder: PathBuf, id: String, partial: bool, copied_to: Option<&str>) -> Option<Found> {
    let written = fs::symlink_metadata(folder.join(INCIDENT)).ok()?;
    let incident = disk::read(&folder).map_err(|error| error.to_string());
    let (guard, at) = match &incident {
        Ok(incident) => (incident.case.guard.to_string(), incident.case.at),
        Err(_) => named(&id).unwrap_or_else(|| {
            let written = written.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
            (id.clone(), written.unwrap_or(Timestamp::UNIX_EPOCH))
        }),
    };
    let kept = Kept {
        bytes: bytes_below(&folder),
        pinned: folder.join(PINNED).exists(),
        awaits_copy: !partial && copied_to.is_some_and(|to| !copy::is_copied(&folder, to)),
        id,
        guard,
        at,
        partial,
    };
    Some(Found { folder, kept, incident })
}

/// What a folder's name tells, where nothing else does: `<guard>_<UTC timestamp>`.
fn named(id: &str) -> Option<(String, Timestamp)> {
    let (guard, time) = id.rsplit_once('_')?;
    // A second one with the same id has `-2` behind it.
    let time = time.split_once('Z').map_or(time, |(time, _)| time);
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.f", time).ok()?;
    let at = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some((guard.to_owned(), at))
}

/// Length of all files; what goes away meanwhile counts nothing.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let (mut bytes, mut folders) = (0_u64, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(entry_data) if entry_data.is_dir() => folders.push(entry.path()),
                Ok(entry_data) => bytes = bytes.saturating_add(entry_data.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Pins a bundle: retention leaves it alone. Pinning twice is no error.
///
/// # Errors
/// [`EvidenceError`] when the disk refuses.
pub fn pin(folder: &Path) -> Result<(), EvidenceError> {
    let path = folder.join(PINNED);
    let made: io::Result<File> = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PIN_MODE)
        .open(&path);
    made.map_err(failed("pin", folder))?;
    sync_folder(folder)
}

/// Takes the pin off a bundle; one that has none is no error.
///
/// # Errors
/// [`EvidenceError`] when the disk refuses.
pub fn unpin(folder: &Path) -> Result<(), EvidenceError> {
    match fs::remove_file(folder.join(PINNED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("unpin", folder)(error)),
        _ => sync_folder(folder),
    }
}

/// Why a bundle that was asked for cannot be told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// None has such an id.
    #[error("no incident is called {0:?}: `flipback evidence list` names them all")]
    None(String),
    /// There is nothing at all.
    #[error("no incident is kept in {0:?}")]
    Empty(PathBuf),
    /// Several begin so.
    #[error("{asked:?} may be any of {}: say more of it", .ids.join(", "))]
    Several {
        /// What was asked for.
        asked: String,
        /// Which begin so, the newest few.
        ids: Vec<String>,
    },
    /// The guard has none.
    #[error("no incident of {guard:?} is kept; there are some of: {}", .guards.join(", "))]
    OfGuard {
        /// The guard that was asked for.
        guard: String,
        /// Those that have some.
        guards: Vec<String>,
    },
}

/// Ids named where several are meant.
const NAMED_MAX: usize = 5;

/// The bundle that is meant by its id or a beginning of it that no other has.
///
/// # Errors
/// [`Unclear`] when it is none or several.
pub fn by_id<'a>(found: &'a [Found], asked: &str) -> Result<&'a Found, Unclear> {
    if let Some(exact) = found.iter().find(|one| one.kept.id == asked) {
        return Ok(exact);
    }
    let begun: Vec<&Found> = found.iter().filter(|one| one.kept.id.starts_with(asked)).collect();
    match begun.as_slice() {
        [one] => Ok(one),
        [] => Err(Unclear::None(asked.to_owned())),
        several => {
            let mut ids: Vec<String> = several.iter().rev().take(NAMED_MAX).map(|one| one.kept.id.clone()).collect();
            if several.len() > NAMED_MAX {
                ids.push(format!("{} more", several.len() - NAMED_MAX));
            }
            Err(Unclear::Several {
                asked: asked.to_owned(),
                ids,
            })
        }
    }
}

/// The newest bundle, of a guard by its name or the last part of it where one is given. A finished one, where there is one.
///
/// # Errors
/// [`Unclear`] when there is none.
pub fn newest<'a>(found: &'a [Found], guard: Option<&str>, incidents: &Path) -> Result<&'a Found, Unclear> {
    let of_it = |one: &&Found| guard.is_none_or(|guard| is_guard(&one.kept.guard, guard));
    let newest = |partial: bool| found.iter().rev().filter(of_it).find(|one| one.kept.partial == partial);
    newest(false).or_else(|| newest(true)).ok_or_else(|| match guard {
        Some(guard) if !found.is_empty() => Unclear::OfGuard {
            guard: guard.to_owned(),
            guards: found
                .iter()
                .map(|one| one.kept.guard.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        },
        _ => Unclear::Empty(incidents.to_owned()),
    })
}

/// Whether a guard is meant by its name or the last parts of it.
#[must_use]
pub fn is_guard(guard: &str, asked: &str) -> bool {
    guard == asked || guard.strip_suffix(asked).is_some_and(|before| before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_tells_guard_and_time() {
        let at: Timestamp = "2026-11-21T04:12:34.567Z".parse().expect("valid");
        assert_eq!(named("shop.web_20261121T041234.567Z"), Some(("shop.web".to_owned(), at)));
        assert_eq!(named("shop.web_20261121T041234.567Z-2"), Some(("shop.web".to_owned(), at)));
        assert_eq!(named("lost+found"), None);
    }

    #[test]
    fn a_guard_goes_by_its_last_parts() {
        assert!(is_guard("eu/shop/web", "web") && is_guard("eu/shop/web", "shop/web") && is_guard("shop/web", "shop/web"));
        assert!(!is_guard("eu/shop/web", "eb") && !is_guard("eu/shop/web", "shop"));
    }
}
