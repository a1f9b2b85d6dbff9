//! The report made anew, whenever its incident changed: "recovered", "moved back", "a chat was not told", "resolved".
//!
//! Principles:
//! - Amending waits for none of it. Many lines that come together make one rendering; one bundle at a time is rendered.
//! - A bundle gets its next version as a whole, as from a second pass ([`second`]): logs and metrics are shared and not read
//!   again, `MANIFEST.sha256` holds before and after, marks stay.
//! - What is due is never only remembered: the page says of which `incident.json` it was made, so that the next start finds
//!   what a kill prevented, and whoever else makes a bundle whole without its page.
//! - A report that cannot be made anew stays as it was; the incident itself has everything.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::{
    Keeper, SEAL_TIMEOUT,
    disk::{self, Edit, EvidenceError},
    full::Space,
    report, second,
};
use crate::model::settings::EvidenceSettings;

/// What is waited for more lines before a report is made anew. Unit tests say themselves when it is time.
const PAUSE: Duration = if cfg!(test) {
    Duration::from_secs(3600)
} else {
    Duration::from_secs(2)
};

/// Reports that are to be made anew.
#[derive(Default)]
pub(super) struct Renewals {
    due: std::sync::Mutex<BTreeSet<String>>,
    /// Held by who renders.
    rendering: tokio::sync::Mutex<()>,
}

impl Keeper {
    /// Has an incident's report made anew, soon.
    pub(super) fn due(&self, id: &str) {
        // Without a runtime there is nobody who could; the next start finds it.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut due = disk::hold(&self.renewals.due);
        let first = due.is_empty();
        due.insert(id.to_owned());
        if first {
            let keeper = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep(PAUSE).await;
                keeper.rendered().await;
            });
        }
    }

    /// Makes every report anew whose incident changed, now, and waits for those that are being made: before the process ends.
    pub async fn rendered(&self) {
        let _rendering = self.renewals.rendering.lock().await;
        let due = std::mem::take(&mut *disk::hold(&self.renewals.due));
        for id in due {
            match self.render(&id).await {
                Ok(()) => debug!(incident = id, "Made the report anew"),
                // Retention was faster.
                Err(_) if !self.incidents.join(&id).exists() => {}
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(incident = id, %error, cause, "The report stays as it was; `flipback evidence report` makes it anew");
                }
            }
            if let Some(copier) = &self.copier {
                copier.nudge();
            }
        }
    }

    async fn render(&self, id: &str) -> Result<(), EvidenceError> {
        let held = self.hold(id).await?;
        let (incidents, edit, space, name) = (self.incidents.clone(), Arc::clone(&self.edit), self.space(), id.to_owned());
        disk::bounded(&self.places, SEAL_TIMEOUT, "render", self.incidents.join(id), move || {
            let _held = held;
            if report::is_current(&incidents.join(&name)) {
                return Ok(());
            }
            next_version(&incidents, &name, &edit, &space)
        })
        .await
    }

    /// Finds what an earlier run left with a report that is not of its incident, or with none.
    pub(super) fn look_for_old_reports(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let keeper = self.clone();
        runtime.spawn(async move {
            let incidents = keeper.incidents.clone();
            let look = move || {
                let mut old: Vec<String> = Vec::new();
                for (folder, incident) in disk::all(&incidents)? {
                    if !report::is_current(&folder) {
                        old.push(incident.id);
                    }
                }
                Ok(old)
            };
            match disk::bounded(&keeper.places, SEAL_TIMEOUT, "look through", keeper.incidents.clone(), look).await {
                Ok(old) => {
                    if !old.is_empty() {
                        info!(reports = old.len(), "Making reports anew that an earlier run did not come to");
                    }
                    old.iter().for_each(|id| keeper.due(id));
                }
                Err(error) => warn!(%error, "Whether reports are up to date is not known"),
            }
        });
    }
}

/// Makes the report of a bundle anew from what lies in its folder, whatever process keeps evidence there.
///
/// # Errors
/// [`EvidenceError`] when there is no such bundle, another process is at it, or the disk refuses; the bundle is then what it
/// was before.
pub fn renew(incidents: &Path, id: &str, settings: &EvidenceSettings) -> Result<(), EvidenceError> {
    let space = Space::new(incidents.to_owned(), Arc::new(settings.clone()));
    next_version(incidents, id, &Edit::of(incidents.to_owned()), &space)
}

/// Puts a version with a new report into a bundle's place.
fn next_version(incidents: &Path, id: &str, edit: &Edit, space: &Space) -> Result<(), EvidenceError> {
    let next = space.with(|| second::begin(incidents, id))?;
    let Some(next) = next else {
        return Err(EvidenceError::Busy { path: incidents.join(id) });
    };
    let put = || {
        {
            let _edit = edit.hold();
            space.with(|| next.note(|_| {}))?;
        }
        space.report(&next.building)?;
        let contents = disk::contents_beside(&next.building, Some(&next.sealed))?;
        let _edit = edit.hold();
        // A line may have come meanwhile: it stays, and has the report made once more.
        space.with(|| next.note(|_| {}))?;
        space.with(|| next.replace(&contents))
    };
    let done = put();
    if done.is_err() {
        next.drop_it();
    }
    done
}

#[cfg(test)]
mod tests;
