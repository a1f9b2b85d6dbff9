//! One incident on its way to a bundle: begun beside its flip, kept once it is known what became of it, and what may come
//! between: a disk that refuses, a try that failed, a process that died.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    DISK_TIMEOUT, Keeper, OPEN_TIMEOUT, SEAL_TIMEOUT, Sources,
    desk::{Held, Open},
    disk::{self, Begun, EvidenceError},
    plan::Plan,
    report, retention, seal,
};
use crate::model::{GuardSpec, Incident, IncidentOutcome, file_segment};

/// How often the first write is tried again where the disk is full, and how long is waited before that.
const FULL_TRIES: usize = 3;
const FULL_WAIT: Duration = Duration::from_secs(1);

/// What was taken up of an incident.
enum Taken {
    /// A bundle in the making.
    Open(Open),
    /// It is whole already, and lacks this.
    Whole(PathBuf, Vec<String>),
}

/// How often what must not be lost is written again where the disk is full.
fn on_a_full_disk() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(FULL_WAIT)
        .with_max_times(FULL_TRIES)
        .with_jitter()
}

impl Keeper {
    /// Begins the bundle of an incident whose flip is on its way: what is known so far, with the outcome
    /// [`IncidentOutcome::Decided`](crate::model::IncidentOutcome), and the record, synced. Runs beside the flip, which waits
    /// for none of it. [`Self::keep`] goes on with it, [`Self::discard`] lets it go; where neither comes, since the process
    /// died, the next start finds it ([`Self::unfinished`]). Beginning twice, or what is whole already, changes nothing.
    ///
    /// # Errors
    /// [`EvidenceError`] when the disk refuses or hangs, or another incident has the name; [`Self::keep`] tries anew.
    pub async fn begin(&self, incident: &Incident, spec: &GuardSpec, record: Option<String>) -> Result<(), EvidenceError> {
        let begun = Instant::now();
        let (incident, record) = self.cleaned(incident.clone(), record);
        let incident = Incident {
            outcome: IncidentOutcome::Decided,
            ..incident
        };
        let first = || async {
            let mut held = self.hold(&incident.id).await?;
            let (incidents, space, edit) = (self.incidents.clone(), self.space(), Arc::clone(&self.edit));
            let (incident, record) = (incident.clone(), record.clone());
            disk::bounded(&self.places, DISK_TIMEOUT, "begin", self.folder(&incident.id), move || {
                if held.is_none() {
                    let _edit = edit.hold();
                    if let Begun::Bundle(bundle) = disk::begin_own(&incidents, incident, record.as_deref(), &space)? {
                        *held = Some(Open { bundle, missing: None });
                    }
                }
                Ok(())
            })
            .await
        };
        first.retry(on_a_full_disk()).when(EvidenceError::is_full).await?;
        debug!(guard = %spec.id, incident = incident.id, took = ?begun.elapsed(), "Began the evidence");
        Ok(())
    }

    /// What an earlier run began and did not keep, as it lies there, oldest first; none, with a warning, where the disk
    /// refuses or hangs. Of each somebody must say what became of the decision: [`Self::keep`] with the outcome and whatever
    /// else is known by now (the record that lies there stays), [`Self::discard`] where the flip never reached the object,
    /// [`Self::finish`] where nobody can tell. Held from here on: no other process takes them.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Incident> {
        let incidents = self.incidents.clone();
        let found = disk::at_start(OPEN_TIMEOUT, "list", incidents.clone(), move || disk::unfinished(&incidents));
        let found = found.unwrap_or_else(|error| {
            warn!(%error, "What an earlier run began is not known");
            Vec::new()
        });
        let mut left = Vec::new();
        for (bundle, incident) in found {
            self.desk.put(&file_segment(&incident.id), bundle);
            left.push(incident);
        }
        left.sort_by(|a, b| (a.case.at, &a.id).cmp(&(b.case.at, &b.id)));
        left
    }

    /// The names of all incidents that have a bundle, be it in the making, of whichever process; none, with a warning, where
    /// the disk refuses or hangs.
    #[must_use]
    pub fn known(&self) -> BTreeSet<String> {
        let incidents = self.incidents.clone();
        let listed = disk::at_start(OPEN_TIMEOUT, "list", incidents.clone(), move || {
            if incidents.exists() {
                disk::entries(&incidents)
            } else {
                Ok(Vec::new())
            }
        });
        let folders = listed.unwrap_or_else(|error| {
            warn!(%error, "Which incidents have evidence is not known");
            Vec::new()
        });
        let names = folders.iter().filter_map(|folder| folder.file_name()?.to_str());
        names
            .map(|name| name.strip_prefix(disk::PARTIAL).unwrap_or(name).to_owned())
            .collect()
    }

    /// Lets go of a bundle that was begun for a flip which never reached the object. There being none is no error.
    ///
    /// # Errors
    /// [`EvidenceError`] when it is more than begun, somebody else is at it, or the disk refuses or hangs.
    pub async fn discard(&self, incident: &str) -> Result<(), EvidenceError> {
        self.settle(incident, "discard", |bundle| {
            info!(folder = %bundle.partial.display(), "Discarded evidence that was only begun");
            bundle.discard()
        })
        .await
        .map(drop)
    }

    /// Lets go of a whole bundle, since that of another incident has taken its story up; waits for a capture that is under way. One
    /// that a person has pinned stays. Whether it went; there being none is no error.
    ///
    /// # Errors
    /// [`EvidenceError`] when somebody is at it for too long, or the disk refuses or hangs.
    pub async fn let_go(&self, incident: &str) -> Result<bool, EvidenceError> {
        let held = self.hold(incident).await?;
        let (incidents, id, edit) = (self.incidents.clone(), file_segment(incident), Arc::clone(&self.edit));
        let went = disk::bounded(&self.places, DISK_TIMEOUT, "delete", self.folder(incident), move || {
            let _held = held;
            let _edit = edit.hold();
            retention::let_go(&incidents, &id)
        })
        .await?;
        if went {
            self.note_gone([file_segment(incident).as_str()]);
        }
        Ok(went)
    }

    /// Gives a bundle that was begun its name with what there is, marked as partial: of what nobody can tell any more.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is none, it is more than begun, somebody else is at it, or the disk refuses or hangs.
    pub async fn finish(&self, incident: &str) -> Result<PathBuf, EvidenceError> {
        let edit = Arc::clone(&self.edit);
        let finish = move |bundle: disk::Bundle| {
            let _edit = edit.hold();
            disk::finish(&bundle)
        };
        match self.settle(incident, "finish", finish).await? {
            true => {
                self.note_whole(&self.folder(incident));
                self.due(&file_segment(incident));
                Ok(self.folder(incident))
            }
            false => Err(EvidenceError::Missing {
                id: incident.to_owned(),
                folder: self.incidents.clone(),
            }),
        }
    }

    /// Does something with a bundle that was begun and no more; whether there is one.
    async fn settle<F>(&self, incident: &str, attempted: &'static str, end: F) -> Result<bool, EvidenceError>
    where
        F: FnOnce(disk::Bundle) -> Result<(), EvidenceError> + Send + 'static,
    {
        let id = file_segment(incident);
        let mut held = self.hold(incident).await?;
        let incidents = self.incidents.clone();
        disk::bounded(&self.places, DISK_TIMEOUT, attempted, self.folder(incident), move || {
            let bundle = match held.take() {
                Some(Open { bundle, missing: None }) => Some(bundle),
                Some(captured) => {
                    let path = captured.bundle.partial.clone();
                    *held = Some(captured);
                    return Err(EvidenceError::Busy { path });
                }
                None => disk::begun(&incidents, &id)?,
            };
            bundle.map_or(Ok(false), |bundle| end(bundle).map(|()| true))
        })
        .await
    }

    pub(super) async fn hold(&self, incident: &str) -> Result<Held, EvidenceError> {
        let id = file_segment(incident);
        self.desk.hold(&id, &self.folder(incident), SEAL_TIMEOUT).await
    }

    /// Keeps an incident: `incident.json` first, then everything else under the guard's evidence deadline. A bundle of it
    /// that was begun, or that a failed try or a dead process left, is gone on with; one that is whole already stays. An id
    /// that another incident has gets a number; the returned folder's name is the id that was used. Where the disk is full,
    /// older evidence is given up; where that does not help, the case alone is kept.
    ///
    /// # Errors
    /// [`EvidenceError`] when the disk refuses or hangs. What cannot be captured is no error: the bundle names it.
    pub async fn keep(&self, incident: Incident, spec: &GuardSpec, sources: Sources) -> Result<PathBuf, EvidenceError> {
        let begun = Instant::now();
        let kept = self.keep_all(incident, spec, sources).await;
        self.metrics.evidence_duration.observe(begun.elapsed().as_secs_f64());
        let result = match &kept {
            Ok((_, missing)) if missing.is_empty() => "complete",
            Ok(_) => "partial",
            Err(_) => "failed",
        };
        self.metrics.evidence_bundles.with_label_values(&[result]).inc();
        let (folder, missing) = kept?;
        self.note_whole(&folder);
        info!(guard = %spec.id, folder = %folder.display(), missing = missing.len(), took = ?begun.elapsed(), "Kept evidence");
        Ok(folder)
    }

    async fn keep_all(&self, incident: Incident, spec: &GuardSpec, sources: Sources) -> Result<(PathBuf, Vec<String>), EvidenceError> {
        let plan = Plan::new(spec, &incident.case, self.settings.retention.bytes);
        let (begun, held) = self.take_up(incident, sources.record.clone()).await?;
        let Open { bundle, missing } = match begun {
            Taken::Open(open) => open,
            Taken::Whole(folder, missing) => return Ok((folder, missing)),
        };
        let missing = match missing {
            Some(missing) => missing,
            None => self.captured(&plan, sources, bundle.partial.clone()).await,
        };
        self.seal(held, bundle, missing).await
    }

    /// Seals a captured bundle; where that fails it goes back to its place, for another try.
    async fn seal(&self, mut held: Held, bundle: disk::Bundle, missing: Vec<String>) -> Result<(PathBuf, Vec<String>), EvidenceError> {
        let (edit, space) = (Arc::clone(&self.edit), self.space());
        let folder = bundle.sealed.clone();
        let seal = move || {
            let captured = missing.clone();
            match seal::seal(&bundle, missing, &edit, &space) {
                Ok(missing) => Ok((missing, report::is_current(&bundle.sealed))),
                Err(error) => {
                    // On a full disk everything captured was given up: it is captured anew.
                    let missing = (!error.is_full()).then_some(captured);
                    *held = Some(Open { bundle, missing });
                    Err(error)
                }
            }
        };
        let (missing, current) = disk::bounded(&self.places, SEAL_TIMEOUT, "complete", folder.clone(), seal).await?;
        // A line may have come since its report was written.
        if !current && let Some(id) = folder.file_name() {
            self.due(&id.to_string_lossy());
        }
        Ok((folder, missing))
    }

    /// What is in memory as it goes on disk: the path of a probe and the query of a rule may carry a secret like any other address.
    /// Neither is part of the judgement, so that the record replays all the same.
    fn cleaned(&self, mut incident: Incident, record: Option<String>) -> (Incident, Option<String>) {
        if let Ok(mut rules) = serde_json::to_value(&incident.rules) {
            self.scrub.values(&mut rules);
            // What was hidden may be a whole value, and rules are what the report is made of: they stay rules, or go.
            incident.rules = serde_json::from_value(rules).unwrap_or_default();
        }
        let record = record.map(|record| match record.split_once('\n') {
            Some((header, looks)) => format!("{}\n{looks}", self.scrub.text(header)),
            None => record,
        });
        (incident, record)
    }

    /// Takes up the bundle of an incident, begun or not, and writes what is in memory; tried a few times where the disk is
    /// full, since this is what must not be lost.
    async fn take_up(&self, incident: Incident, record: Option<String>) -> Result<(Taken, Held), EvidenceError> {
        let (incident, record) = self.cleaned(incident, record);
        let first = || async {
            let mut held = self.hold(&incident.id).await?;
            let (incidents, space, edit) = (self.incidents.clone(), self.space(), Arc::clone(&self.edit));
            let (incident, record) = (incident.clone(), record.clone());
            disk::bounded(&self.places, DISK_TIMEOUT, "write", self.folder(&incident.id), move || {
                let _edit = edit.hold();
                // Somebody may have taken the folder away.
                if let Some(open) = held.take().filter(|open| open.bundle.partial.is_dir()) {
                    return match disk::adopt(&open.bundle, incident, record.as_deref(), &space) {
                        Ok(()) => Ok((Taken::Open(open), held)),
                        Err(error) => {
                            *held = Some(open);
                            Err(error)
                        }
                    };
                }
                let taken = match disk::begin(&incidents, incident, record.as_deref(), &space)? {
                    Begun::Bundle(bundle) => Taken::Open(Open { bundle, missing: None }),
                    Begun::Whole(folder) => {
                        let missing = disk::read(&folder)?.capture_errors;
                        Taken::Whole(folder, missing)
                    }
                };
                Ok((taken, held))
            })
            .await
        };
        first.retry(on_a_full_disk()).when(EvidenceError::is_full).await
    }
}
