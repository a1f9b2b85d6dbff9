//! What a crash left below the folder of incidents, finished at the next start.

use std::{fs, path::Path};

use tracing::{info, warn};

use super::{
    super::second,
    EvidenceError, FOLDER_MODE, INCIDENT, LEAVING, PARTIAL,
    bundle::{Bundle, contents, seal, what_was_begun},
    case::{finish_replacing, note},
    entries, failed, lock, restrict,
};

/// What a bundle says whose capture a crash ended.
const INTERRUPTED: &str = "capture: interrupted when flipback ended; what had been captured by then is kept";

/// Finishes what a crash left: bundles that have their `incident.json` are sealed, saying so; one without is empty. Second
/// passes that were not complete are dropped, and the bundle stays as it was.
pub(in crate::evidence) fn recover(incidents: &Path) -> Result<(), EvidenceError> {
    restrict(incidents, FOLDER_MODE).map_err(failed("restrict", incidents))?;
    for path in entries(incidents)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let outcome = if let Some(id) = name.strip_prefix(PARTIAL) {
            recover_partial(&path, &incidents.join(id))
        } else if let Some(id) = name.strip_prefix(second::BEFORE) {
            second::recover_before(&path, &incidents.join(id))
        } else if let Some(id) = name.strip_prefix(second::AFTER) {
            second::recover_after(&path, &incidents.join(id))
        } else if name.starts_with(LEAVING) {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))
        } else if name.starts_with('.') || !path.is_dir() {
            Ok(())
        } else {
            finish_replacing(&path)
        };
        // One bundle that cannot be finished must not keep the guards from being watched.
        if let Err(error) = outcome {
            warn!(folder = %path.display(), %error, "Evidence of an earlier run cannot be finished");
        }
    }
    Ok(())
}

/// Finishes a bundle that a crash left: one without its `incident.json` is empty; one that was begun and no more is left to
/// who can tell what became of its decision ([`super::unfinished`]).
fn recover_partial(partial: &Path, sealed: &Path) -> Result<(), EvidenceError> {
    let Some(alive) = lock(partial)? else { return Ok(()) };
    if !partial.join(INCIDENT).exists() {
        return fs::remove_dir_all(partial).map_err(failed("remove the empty", partial));
    }
    if what_was_begun(partial).is_some() {
        info!(folder = %partial.display(), "Found evidence that an earlier run had only begun");
        return Ok(());
    }
    finish(&Bundle::left(partial.to_owned(), sealed.to_owned(), alive))
}

/// Gives a bundle its name with what there is, and says in it that this is not all.
pub(in crate::evidence) fn finish(bundle: &Bundle) -> Result<(), EvidenceError> {
    note(&bundle.partial, |incident| {
        incident.partial = true;
        incident.capture_errors.push(INTERRUPTED.to_owned());
    })?;
    seal(bundle, &contents(&bundle.partial)?)?;
    warn!(folder = %bundle.sealed.display(), "Finished evidence that an earlier run left incomplete");
    Ok(())
}
