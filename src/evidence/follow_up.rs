//! The second pass over an incident: what came after it, captured once it is over.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::info;

use super::{
    DISK_TIMEOUT, Keeper, SEAL_TIMEOUT, Sources,
    disk::{self, EvidenceError},
    plan::{self, Plan},
    report, second,
};
use crate::model::{GuardSpec, file_segment};

/// How often a second pass looks whether the first has ended.
const SEALED_POLL: Duration = Duration::from_millis(200);

impl Keeper {
    /// The second pass over an incident, once it is over: metrics until `now` in the place of the first pass's, and below
    /// `after/` everything as it is by then, with the logs of the color that took over. The new version of the bundle takes
    /// the place of the old one as a whole. One that had its second pass already stays as it is.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is no such incident, its first pass does not end, another process is at it, or the disk refuses, hangs or is
    /// full; the bundle is then what it was before.
    pub async fn follow_up(&self, incident: &str, spec: &GuardSpec, sources: Sources, now: Timestamp) -> Result<PathBuf, EvidenceError> {
        let begun = Instant::now();
        let id = file_segment(incident);
        self.wait_sealed(&id, spec).await?;
        // Nobody makes the report anew meanwhile.
        let held = self.hold(incident).await?;
        let (incidents, space, name) = (self.incidents.clone(), self.space(), id.clone());
        let begin = move || space.with(|| second::begin(&incidents, &name));
        let started = disk::bounded(&self.places, SEAL_TIMEOUT, "copy", self.folder(incident), begin).await?;
        let Some(second) = started else {
            return Err(EvidenceError::Busy {
                path: self.folder(incident),
            });
        };
        if second.incident.followed_up_at.is_some() {
            second.drop_it();
            return Ok(self.folder(incident));
        }
        let plan = Plan::follow_up(spec, &second.incident, self.settings.retention.bytes, now);
        let missing = self.captured(&plan, sources, second.building.clone()).await;
        let (edit, space, folder) = (Arc::clone(&self.edit), self.space(), second.sealed.clone());
        let lacking = missing.len();
        let finish = move || {
            let _held = held;
            let put = || {
                {
                    let _edit = edit.hold();
                    space.with(|| second.note(|incident| plan::followed_up(incident, &missing, now)))?;
                }
                let mut missing = missing.clone();
                if let Err(error) = space.report(&second.building) {
                    missing.push(format!("report: {error}"));
                }
                let contents = disk::contents_beside(&second.building, Some(&second.sealed))?;
                let _edit = edit.hold();
                second.note(|incident| plan::followed_up(incident, &missing, now))?;
                space.with(|| second.replace(&contents))
            };
            match put() {
                Ok(()) => Ok(report::is_current(&second.sealed)),
                Err(error) => {
                    second.drop_it();
                    Err(error)
                }
            }
        };
        let finished = disk::bounded(&self.places, SEAL_TIMEOUT, "complete", folder.clone(), finish).await;
        if !matches!(finished, Ok(true)) {
            self.due(&id);
        }
        finished?;
        info!(guard = %spec.id, folder = %folder.display(), missing = lacking, took = ?begun.elapsed(), "Added what came after to the evidence");
        Ok(folder)
    }

    /// Waits for a first pass that is under way.
    async fn wait_sealed(&self, id: &str, spec: &GuardSpec) -> Result<(), EvidenceError> {
        let (sealed, partial) = (self.incidents.join(id), self.incidents.join(format!("{}{id}", disk::PARTIAL)));
        let wait = spec.evidence.deadline * 2 + SEAL_TIMEOUT;
        let look = || async {
            let (sealed, partial) = (sealed.clone(), partial.clone());
            disk::bounded(&self.places, DISK_TIMEOUT, "look for", sealed.clone(), move || {
                // The partial one first: it may get its name between two looks.
                let under_way = partial.is_dir();
                Ok((sealed.is_dir(), under_way))
            })
            .await
        };
        let until = Instant::now() + wait;
        loop {
            match look().await? {
                (true, _) => return Ok(()),
                (false, true) if Instant::now() < until => tokio::time::sleep(SEALED_POLL).await,
                (false, true) => {
                    return Err(EvidenceError::Slow {
                        attempted: "complete",
                        path: partial,
                        after: wait,
                    });
                }
                (false, false) => {
                    return Err(EvidenceError::Missing {
                        id: id.to_owned(),
                        folder: self.incidents.clone(),
                    });
                }
            }
        }
    }
}
