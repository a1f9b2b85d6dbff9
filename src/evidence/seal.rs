//! The end of a capture: what is missing is named, the report is written, everything is listed, and the folder gets its name.

use super::{
    disk::{self, Bundle, Edit, EvidenceError},
    full::Space,
};

/// Completes a bundle and returns what it lacks. Where the disk leaves no room, the case and its record are kept alone.
pub(super) fn seal(bundle: &Bundle, mut missing: Vec<String>, edit: &Edit, space: &Space) -> Result<Vec<String>, EvidenceError> {
    let note = |missing: &[String]| {
        let _edit = edit.hold();
        space.with(|| disk::note(&bundle.partial, |incident| incident.capture_errors.extend_from_slice(missing)))
    };
    let finish = || {
        let contents = disk::contents(&bundle.partial)?;
        let _edit = edit.hold();
        space.with(|| disk::seal(bundle, &contents))
    };
    let report = |missing: &mut Vec<String>| match space.report(&bundle.partial) {
        Ok(()) => Ok(()),
        // Without it the bundle is one all the same.
        Err(error) => {
            missing.push(format!("report: {error}"));
            note(missing.last().map(std::slice::from_ref).unwrap_or_default())
        }
    };
    match note(&missing).and_then(|()| report(&mut missing)).and_then(|()| finish()) {
        Err(error) if error.is_full() => {
            // Small as they are, the case and its record are worth more than a folder that nobody finds.
            let lost = format!("everything else: {error}");
            disk::shed(&bundle.partial)?;
            note(std::slice::from_ref(&lost))?;
            missing.push(lost);
            finish()?;
        }
        sealed => sealed?,
    }
    Ok(missing)
}
