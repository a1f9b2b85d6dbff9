//! Keeps the evidence of an incident: one folder on disk that still tells the story when the pods are long gone.
//!
//! Principles:
//! - What is known goes first: `incident.json` and `decision.jsonl`, the record that `flipback replay` judges again, are
//!   made from memory, written and synced before any request is sent.
//! - The folder is `.partial-<id>` until everything in it is synced and listed in `MANIFEST.sha256`; then it gets its
//!   name. A crash leaves a partial folder that the next start finishes, marked as `partial`.
//! - A second pass ([`Keeper::follow_up`]) builds the bundle's next version beside it and puts it into its place at once
//!   ([`second`]); a line that is added replaces `incident.json` and its line in the list so that a crash between the two is
//!   understood. Whoever looks sees a whole bundle.
//! - Nothing here is waited for beyond a bound: not a log that hangs, not an API server, not a disk. What could not be
//!   had is named, and the rest is kept. A full disk costs older evidence first ([`full`]).
//! - Memory stays small however long the logs are: they are cleaned and written while they arrive ([`tail`]).
//! - Plan, then execute: [`plan`] is pure and says what to ask for, [`capture`] asks.
//! - It refuses to read Secret objects, and hides what looks like a secret in everything it captures ([`scrub`]).
//! - Only the user that flipback runs as can read it: folders 0700, files 0600.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{debug, error, info, warn};

use crate::{
    metrics::Metrics,
    model::{GuardId, GuardSpec, Incident, IncidentOutcome, Series, TimelineEntry, file_segment, settings::EvidenceSettings},
};

mod capture;
pub mod copy;
mod desk;
mod disk;
pub mod export;
mod full;
mod manifest;
mod plan;
mod progress;
pub mod report;
pub mod retention;
mod scrub;
mod seal;
mod second;
mod secrets;
mod series;
mod shelf;
pub mod stock;
mod tail;
pub mod verify;

use copy::Copier;
use desk::{Desk, Held, Open};
use disk::Begun;
use full::Space;
use plan::Plan;
use scrub::Scrub;
use shelf::Shelf;

pub use disk::{EvidenceError, list};

/// How long the first write, an amendment or one captured file may take; a disk that takes longer hangs.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start waits for the disk, each time it asks: a guard without its history is better than none.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the report on a bundle, its hashes and syncing all of it may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the first write is tried again where the disk is full, and how long is waited before that.
const FULL_TRIES: usize = 3;
const FULL_WAIT: Duration = Duration::from_secs(1);
/// How often a second pass looks whether the first has ended.
const SEALED_POLL: Duration = Duration::from_millis(200);
/// Disk operations at a time; a hung one keeps its place, so that hung threads stay this few.
const OPERATIONS_MAX: usize = 16;
/// Bundles captured at a time: when many guards roll back at once, the API server is busy enough.
const CAPTURES_MAX: usize = 8;

/// Reads metric ranges: from, to.
pub type Ranges = Box<dyn FnOnce(Timestamp, Timestamp) -> BoxFuture<'static, Result<Vec<Series>, String>> + Send>;

/// Where evidence comes from.
pub struct Sources {
    /// The trace that replays to the incident's decision, where there was one.
    pub record: Option<String>,
    /// A client for reads, or why there is none.
    pub client: Result<kube::Client, String>,
    /// Reads the guard's metric ranges.
    pub ranges: Ranges,
}

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

/// Makes an incident's id, `<guard>_<UTC timestamp with milliseconds>`: sortable by time, valid as a folder's name.
#[must_use]
pub fn incident_id(guard: &GuardId, at: Timestamp) -> String {
    format!("{}_{}", guard.file_name(), at.strftime("%Y%m%dT%H%M%S%.3fZ"))
}

/// Keeps incidents below one data folder; cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    incidents: PathBuf,
    settings: Arc<EvidenceSettings>,
    scrub: Arc<Scrub>,
    metrics: Metrics,
    places: Arc<Semaphore>,
    captures: Arc<Semaphore>,
    /// Copies what is whole, where it was asked for.
    copier: Option<Copier>,
    /// Held while an `incident.json` is read, changed and written back.
    edit: Arc<Mutex<()>>,
    /// Bundles that were begun.
    desk: Arc<Desk>,
}

impl Keeper {
    /// Opens `<data_dir>/incidents`, made if need be, and finishes what a crash left half captured. A disk that refuses
    /// or hangs is told, loudly, and keeps nobody from guarding: every incident tries anew.
    #[must_use]
    pub fn open(data_dir: PathBuf, settings: EvidenceSettings, metrics: Metrics) -> Self {
        let incidents = data_dir.join(disk::INCIDENTS);
        let folder = incidents.clone();
        let opened = disk::at_start(OPEN_TIMEOUT, "open", incidents.clone(), move || {
            disk::make_folder(&folder)?;
            disk::recover(&folder)
        });
        if let Err(error) = opened {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            error!(%error, cause, "Evidence cannot be kept: guarding without, until the disk takes it");
        }
        let copies = settings.copy.clone();
        let copier = copies.map(|copy| Copier::start(incidents.clone(), copy, metrics.clone()));
        Self {
            incidents,
            copier,
            scrub: Arc::new(Scrub::new(&settings.redact)),
            settings: Arc::new(settings),
            metrics,
            places: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            captures: Arc::new(Semaphore::new(CAPTURES_MAX)),
            edit: Arc::default(),
            desk: Arc::default(),
        }
    }

    /// The incidents kept so far, newest first; none, with a warning, where the disk refuses or hangs.
    #[must_use]
    pub fn kept(&self) -> Vec<(PathBuf, Incident)> {
        let incidents = self.incidents.clone();
        let listed = disk::at_start(OPEN_TIMEOUT, "list", incidents.clone(), move || disk::all(&incidents));
        listed.unwrap_or_else(|error| {
            warn!(%error, "Earlier incidents are not known");
            Vec::new()
        })
    }

    /// The incidents whose second pass has not been made, newest first: what a start takes up again.
    #[must_use]
    pub fn awaiting(&self) -> Vec<Incident> {
        let kept = self.kept().into_iter().map(|(_, incident)| incident);
        kept.filter(|incident| incident.followed_up_at.is_none()).collect()
    }

    /// Where an incident's evidence lies, or will lie once it is complete.
    #[must_use]
    pub fn folder(&self, incident: &str) -> PathBuf {
        self.incidents.join(file_segment(incident))
    }

    /// Begins the bundle of an incident whose flip is on its way: what is known so far, with the outcome
    /// [`IncidentOutcome::Decided`](crate::model::IncidentOutcome), and the record, synced. Runs beside the flip, which waits
    /// for none of it. [`Self::keep`] goes on with it, [`Self::discard`] lets it go; where neither comes, since the process
    /// died, the next start finds it ([`Self::unfinished`]). Beginning twice, or what is whole already, changes nothing.
    ///
    /// # Errors
    /// [`EvidenceError`] when the disk refuses or hangs, or another incident has the name; [`Self::keep`] tries anew.
    pub async fn begin(&self, incident: &Incident, spec: &GuardSpec, record: Option<String>) -> Result<(), EvidenceError> {
        let begun = Instant::now();
        let incident = Incident {
            outcome: IncidentOutcome::Decided,
            ..incident.clone()
        };
        let first = || async {
            let mut held = self.hold(&incident.id).await?;
            let (incidents, space, edit) = (self.incidents.clone(), self.space(), Arc::clone(&self.edit));
            let (incident, record) = (incident.clone(), record.clone());
            disk::bounded(&self.places, DISK_TIMEOUT, "begin", self.folder(&incident.id), move || {
                if held.is_none() {
                    let _edit = disk::hold(&edit);
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

    /// Gives a bundle that was begun its name with what there is, marked as partial: of what nobody can tell any more.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is none, it is more than begun, somebody else is at it, or the disk refuses or hangs.
    pub async fn finish(&self, incident: &str) -> Result<PathBuf, EvidenceError> {
        let edit = Arc::clone(&self.edit);
        let finish = move |bundle: disk::Bundle| {
            let _edit = disk::hold(&edit);
            disk::finish(&bundle)
        };
        match self.settle(incident, "finish", finish).await? {
            true => Ok(self.folder(incident)),
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

    async fn hold(&self, incident: &str) -> Result<Held, EvidenceError> {
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
                Ok(missing) => Ok(missing),
                Err(error) => {
                    // On a full disk everything captured was given up: it is captured anew.
                    let missing = (!error.is_full()).then_some(captured);
                    *held = Some(Open { bundle, missing });
                    Err(error)
                }
            }
        };
        let missing = disk::bounded(&self.places, SEAL_TIMEOUT, "complete", folder.clone(), seal).await?;
        Ok((folder, missing))
    }

    /// After a bundle became whole, or changed: it is copied, and what exceeds the limits goes. Returns what went, and why;
    /// that it cannot go is logged.
    pub async fn tidy(&self, now: Timestamp) -> Vec<(stock::Kept, retention::Reason)> {
        if let Some(copier) = &self.copier {
            copier.nudge();
        }
        let (incidents, settings) = (self.incidents.clone(), Arc::clone(&self.settings));
        let enforce = move || retention::enforce(&incidents, &settings, now);
        match disk::bounded(&self.places, SEAL_TIMEOUT, "prune", self.incidents.clone(), enforce).await {
            Ok(pruned) => {
                if !pruned.deleted.is_empty() {
                    info!(bundles = pruned.deleted.len(), bytes = pruned.bytes, "Pruned old evidence");
                }
                pruned.deleted
            }
            Err(error) => {
                warn!(%error, "Old evidence cannot be pruned");
                Vec::new()
            }
        }
    }

    /// An incident as it stands on the disk by now.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is none, or the disk refuses or hangs.
    pub async fn read(&self, incident: &str) -> Result<Incident, EvidenceError> {
        let folder = self.folder(incident);
        disk::bounded(&self.places, DISK_TIMEOUT, "read", folder.clone(), move || disk::read(&folder)).await
    }

    /// Where a browser finds an incident's report, if anybody said where evidence is published.
    #[must_use]
    pub fn link(&self, incident: &str) -> Option<String> {
        let base = self.settings.public_url.as_ref()?;
        Some(format!(
            "{}/{}/report.html",
            base.as_str().trim_end_matches('/'),
            file_segment(incident)
        ))
    }

    /// The picture of an incident; it may not be there.
    #[must_use]
    pub fn picture(&self, incident: &str) -> PathBuf {
        self.folder(incident).join(report::PICTURE)
    }

    /// Takes up the bundle of an incident, begun or not, and writes what is in memory; tried a few times where the disk is
    /// full, since this is what must not be lost.
    async fn take_up(&self, incident: Incident, record: Option<String>) -> Result<(Taken, Held), EvidenceError> {
        let first = || async {
            let mut held = self.hold(&incident.id).await?;
            let (incidents, space, edit) = (self.incidents.clone(), self.space(), Arc::clone(&self.edit));
            let (incident, record) = (incident.clone(), record.clone());
            disk::bounded(&self.places, DISK_TIMEOUT, "write", self.folder(&incident.id), move || {
                let _edit = disk::hold(&edit);
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

    /// Captures what the plan says into a folder and returns what is missing.
    async fn captured(&self, plan: &Plan, sources: Sources, folder: PathBuf) -> Vec<String> {
        let shelf = Shelf::new(folder, plan.bytes_max, self.space(), Arc::clone(&self.scrub));
        match tokio::time::timeout(plan.deadline, self.captures.acquire()).await {
            Ok(_place) => capture::capture(plan, sources, &shelf).await,
            Err(_) => vec!["capture: not begun in time, since too many other incidents were being captured".to_owned()],
        }
    }

    fn space(&self) -> Space {
        Space::new(self.incidents.clone(), Arc::clone(&self.settings))
    }

    /// The second pass over an incident, once it is over: metrics until `now` in the place of the first pass's, and below
    /// `after/` everything as it is by then, with the logs of the color that took over. The new version of the bundle takes
    /// the place of the old one as a whole. One that had its second pass already stays as it is.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is no such incident, its first pass does not end, or the disk refuses, hangs or is
    /// full; the bundle is then what it was before.
    pub async fn follow_up(&self, incident: &str, spec: &GuardSpec, sources: Sources, now: Timestamp) -> Result<PathBuf, EvidenceError> {
        let begun = Instant::now();
        let id = file_segment(incident);
        self.wait_sealed(&id, spec).await?;
        let (incidents, space, name) = (self.incidents.clone(), self.space(), id.clone());
        let begin = move || space.with(|| second::begin(&incidents, &name));
        let started = disk::bounded(&self.places, SEAL_TIMEOUT, "copy", self.folder(incident), begin).await?;
        let Some(second) = started else {
            warn!(incident, "Somebody else makes the second pass over this incident");
            return Ok(self.folder(incident));
        };
        if second.incident.followed_up_at.is_some() {
            second.drop_it();
            return Ok(self.folder(incident));
        }
        let plan = Plan::follow_up(spec, &second.incident.case, self.settings.retention.bytes, now);
        let missing = self.captured(&plan, sources, second.building.clone()).await;
        let (edit, space, folder) = (Arc::clone(&self.edit), self.space(), second.sealed.clone());
        let lacking = missing.len();
        let finish = move || {
            let put = || {
                {
                    let _edit = disk::hold(&edit);
                    space.with(|| second.note(|incident| plan::followed_up(incident, &missing, now)))?;
                }
                let mut missing = missing.clone();
                if let Err(error) = space.with(|| report::write(&second.building)) {
                    missing.push(format!("report: {error}"));
                }
                let contents = disk::contents(&second.building)?;
                let _edit = disk::hold(&edit);
                second.note(|incident| plan::followed_up(incident, &missing, now))?;
                space.with(|| second.replace(&contents))
            };
            let done = put();
            if done.is_err() {
                second.drop_it();
            }
            done
        };
        disk::bounded(&self.places, SEAL_TIMEOUT, "complete", folder.clone(), finish).await?;
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

    /// Adds a line to an incident's story, such as its recovery; `MANIFEST.sha256` follows.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is no such incident, a newer flipback wrote it, or the disk refuses or hangs.
    pub async fn amend(&self, incident: &str, entry: TimelineEntry) -> Result<(), EvidenceError> {
        let (edit, incidents, id) = (Arc::clone(&self.edit), self.incidents.clone(), file_segment(incident));
        let space = self.space();
        disk::bounded(&self.places, DISK_TIMEOUT, "amend", self.folder(incident), move || {
            let _edit = disk::hold(&edit);
            space.with(|| disk::amend(&incidents, &id, entry.clone()))
        })
        .await?;
        if let Some(copier) = &self.copier {
            copier.nudge();
        }
        Ok(())
    }
}

/// Everything a test of this room needs again and again.
#[cfg(test)]
mod fixture;
/// Bundles made without an API server, for retention, export, verify and copies.
#[cfg(test)]
mod made;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
