//! The second pass over an incident: a new version of the whole bundle, built beside it and put into its place at once.
//!
//! The new folder, `.after-<id>`, begins as a copy of the old: what is captured never changes, so that it is shared (hard
//! links) where the volume can; what is written anew is copied. When everything is in it, listed and synced, the two
//! exchange their names in one step. A volume that cannot do that gets two: the old one becomes `.before-<id>`, the new one
//! takes its name, and a crash between the two is finished at the next start. So whoever looks, and wherever a crash comes,
//! there is the old bundle, whole, or the new one, whole.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::warn;

use super::disk::{self, Contents, EvidenceError, FOLDER_MODE, failed};
use crate::model::Incident;

/// Begins the name of a bundle's next version in the making.
pub(super) const AFTER: &str = ".after-";
/// Begins the name of a bundle's former version, while the next one takes its place.
pub(super) const BEFORE: &str = ".before-";
/// What is captured once and never written again; everything else is copied.
const SHARED: [&str; 6] = ["after", "decision.jsonl", "events.json", "logs", "manifests", "metrics"];

/// A bundle's next version in the making.
pub(super) struct Second {
    /// Where it is now.
    pub(super) building: PathBuf,
    /// Whose place it will take.
    pub(super) sealed: PathBuf,
    /// The incident as it was when this began.
    pub(super) incident: Incident,
    /// The folder, locked while somebody lives who will complete it.
    _alive: Option<File>,
}

/// Begins a bundle's next version; `None`: somebody else is at it.
pub(super) fn begin(incidents: &Path, id: &str) -> Result<Option<Second>, EvidenceError> {
    let sealed = incidents.join(id);
    let incident = disk::read(&sealed)?;
    let building = incidents.join(format!("{AFTER}{id}"));
    if building.exists() {
        let Some(_dead) = disk::lock(&building)? else { return Ok(None) };
        remove(&building)?;
    }
    disk::make_folder(&building)?;
    let Some(alive) = disk::lock(&building)? else { return Ok(None) };
    let filled = fill(&sealed, &building);
    if filled.is_err() {
        // On a full disk every byte counts.
        let _ = remove(&building);
    }
    filled?;
    Ok(Some(Second {
        building,
        sealed,
        incident,
        _alive: Some(alive),
    }))
}

fn fill(sealed: &Path, building: &Path) -> Result<(), EvidenceError> {
    for path in disk::entries(sealed)? {
        let name = path.file_name().unwrap_or_default();
        if name != disk::MANIFEST {
            take_along(&path, &building.join(name), SHARED.iter().any(|shared| name == *shared))?;
        }
    }
    Ok(())
}

/// Links or copies a file, or everything in a folder.
fn take_along(from: &Path, to: &Path, shared: bool) -> Result<(), EvidenceError> {
    if from.is_dir() {
        disk::make_folder(to)?;
        let inner = disk::entries(from)?;
        return inner
            .iter()
            .try_for_each(|path| take_along(path, &to.join(path.file_name().unwrap_or_default()), shared));
    }
    // A volume without links, or one across which they do not reach.
    if shared && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(failed("copy", from))
}

impl Second {
    /// Writes the incident as it is by now, changed by `change`: it may have been amended since this began.
    pub(super) fn note(&self, change: impl FnOnce(&mut Incident)) -> Result<(), EvidenceError> {
        let mut incident = disk::read(&self.sealed)?;
        change(&mut incident);
        disk::write_incident(&self.building, &incident)
    }

    /// Lists everything and takes the old version's place.
    pub(super) fn replace(&self, contents: &Contents) -> Result<(), EvidenceError> {
        disk::list_contents(&self.building, contents)?;
        // Marks may have been set or taken away since this began.
        for folder in [&self.building, &self.sealed] {
            for path in disk::entries(folder)? {
                let name = path.file_name().unwrap_or_default();
                if !name.to_string_lossy().starts_with('.') || path.is_dir() {
                    continue;
                }
                if folder == &self.sealed {
                    take_along(&path, &self.building.join(name), false)?;
                } else if !self.sealed.join(name).exists() {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
        }
        disk::sync_folder(&self.building)?;
        exchange(&self.building, &self.sealed)
    }

    /// Gives it up: the old version stays.
    pub(super) fn drop_it(self) {
        if let Err(error) = remove(&self.building) {
            warn!(folder = %self.building.display(), %error, "What is left of a second pass cannot be removed");
        }
    }
}

/// Puts `new` in the place of `old`, and removes `old`.
fn exchange(new: &Path, old: &Path) -> Result<(), EvidenceError> {
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => {
            old.parent().map_or(Ok(()), disk::sync_folder)?;
            remove(new)
        }
        Err(rustix::io::Errno::NOENT) => Err(failed("replace", old)(io::ErrorKind::NotFound.into())),
        Err(_) => in_two_steps(new, old),
    }
}

/// [`exchange`] where the volume cannot; a crash between the two renames is finished by [`recover_before`].
fn in_two_steps(new: &Path, old: &Path) -> Result<(), EvidenceError> {
    let name = old.file_name().unwrap_or_default().to_string_lossy();
    let before = old.with_file_name(format!("{BEFORE}{name}"));
    fs::rename(old, &before).map_err(failed("replace", old))?;
    fs::rename(new, old).map_err(failed("give its name to", new))?;
    old.parent().map_or(Ok(()), disk::sync_folder)?;
    remove(&before)
}

fn remove(folder: &Path) -> Result<(), EvidenceError> {
    // Read-only folders of strangers aside, the mode is ours.
    let _ = disk::restrict(folder, FOLDER_MODE);
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Finishes an exchange in two steps: the first one was done, so the new version is complete.
pub(super) fn recover_before(before: &Path, sealed: &Path) -> Result<(), EvidenceError> {
    let name = sealed.file_name().unwrap_or_default().to_string_lossy();
    let after = sealed.with_file_name(format!("{AFTER}{name}"));
    if !sealed.exists() {
        let from = if after.join(disk::MANIFEST).exists() { &after } else { before };
        fs::rename(from, sealed).map_err(failed("give its name to", from))?;
        sealed.parent().map_or(Ok(()), disk::sync_folder)?;
    }
    remove(before)
}

/// Drops a second pass that nobody will complete. The name is only ever that of a version that is not in force: one that
/// was not finished, or, after the exchange, the former one.
pub(super) fn recover_after(after: &Path, sealed: &Path) -> Result<(), EvidenceError> {
    if !sealed.exists() {
        // The first of two steps was done: `.before-<id>` is next, and takes this one.
        return Ok(());
    }
    match disk::lock(after) {
        Ok(None) => Ok(()),
        Ok(Some(_dead)) => remove(after),
        // Another line of the recovery has taken it away.
        Err(_) if !after.exists() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
