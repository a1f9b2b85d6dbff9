//! Keeps the evidence of an incident: one folder on disk that still tells the story when the pods are long gone.
//!
//! Principles:
//! - What is known goes first: `incident.json` and `decision.jsonl`, the record that `flipback replay` judges again, are
//!   made from memory, written and synced before any request is sent.
//! - The folder is `.partial-<id>` until everything in it is synced and listed in `MANIFEST.sha256`; then it gets its
//!   name. A crash leaves a partial folder that the next start finishes, saying so in `capture_errors`.
//! - Nothing here is waited for beyond a bound: not a log that hangs, not an API server, not a disk. What could not be
//!   had is named, and the rest is kept.
//! - Plan, then execute: [`plan`] is pure and says what to ask for, [`capture`] asks.
//! - It refuses to read Secret objects, and redacts literal values that look like secrets ([`scrub`]).

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{error, info, warn};

use crate::{
    metrics::Metrics,
    model::{GuardId, GuardSpec, Incident, Series, TimelineEntry, file_segment},
};

mod capture;
pub mod copy;
mod disk;
pub mod export;
mod manifest;
mod plan;
mod progress;
pub mod report;
pub mod retention;
mod scrub;
pub mod stock;
pub mod verify;

pub use disk::{EvidenceError, list};

/// How long the first write, an amendment or one captured file may take; a disk that takes longer hangs.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start waits for the disk, each time it asks: a guard without its history is better than none.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long hashing and syncing a whole bundle may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the report may take; looking through logs has a bound of its own.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
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

/// Makes an incident's id, `<guard>_<UTC timestamp with milliseconds>`: sortable by time, valid as a folder's name.
#[must_use]
pub fn incident_id(guard: &GuardId, at: Timestamp) -> String {
    format!("{}_{}", guard.file_name(), at.strftime("%Y%m%dT%H%M%S%.3fZ"))
}

/// Keeps incidents below one data folder; cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    incidents: PathBuf,
    metrics: Metrics,
    places: Arc<Semaphore>,
    captures: Arc<Semaphore>,
    /// Held while an `incident.json` is read, changed and written back.
    edit: Arc<Mutex<()>>,
}

impl Keeper {
    /// Opens `<data_dir>/incidents`, made if need be, and finishes what a crash left half captured. A disk that refuses
    /// or hangs is told, loudly, and keeps nobody from guarding: every incident tries anew.
    #[must_use]
    pub fn open(data_dir: PathBuf, metrics: Metrics) -> Self {
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
        Self {
            incidents,
            metrics,
            places: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            captures: Arc::new(Semaphore::new(CAPTURES_MAX)),
            edit: Arc::default(),
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

    /// Where an incident's evidence lies, or will lie once it is complete.
    #[must_use]
    pub fn folder(&self, incident: &str) -> PathBuf {
        self.incidents.join(file_segment(incident))
    }

    /// Keeps an incident: `incident.json` first, then everything else under the guard's evidence deadline. An id that is
    /// taken gets a number; the returned folder's name is the id that was used.
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
        let plan = plan::Plan::new(spec, &incident.case);
        let incidents = self.incidents.clone();
        let record = sources.record.clone();
        let first = disk::bounded(&self.places, DISK_TIMEOUT, "write", self.folder(&incident.id), move || {
            disk::begin(&incidents, incident, record.as_deref())
        });
        let bundle = first.await?;
        let shelf = capture::Shelf::new(bundle.partial.clone());
        let missing = match tokio::time::timeout(plan.deadline, self.captures.acquire()).await {
            Ok(_place) => capture::capture(&plan, sources, &shelf).await,
            Err(_) => vec!["capture: not begun in time, since too many other incidents were being captured".to_owned()],
        };
        let missing = self.report(&bundle.partial, missing).await;
        let (edit, named) = (Arc::clone(&self.edit), missing.clone());
        let folder = bundle.sealed.clone();
        disk::bounded(&self.places, SEAL_TIMEOUT, "complete", bundle.partial.clone(), move || {
            let _edit = disk::hold(&edit);
            disk::seal(&bundle, named)
        })
        .await?;
        Ok((folder, missing))
    }

    /// Writes the report of what was captured; without it the bundle is one all the same.
    async fn report(&self, folder: &std::path::Path, mut missing: Vec<String>) -> Vec<String> {
        let partial = folder.to_owned();
        let written = disk::bounded(&self.places, REPORT_TIMEOUT, "report on", partial.clone(), move || {
            report::write(&partial)
        });
        if let Err(error) = written.await {
            missing.push(format!("report: {error}"));
        }
        missing
    }

    /// Adds a line to an incident's story, such as its recovery; `MANIFEST.sha256` follows.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is no such incident, a newer flipback wrote it, or the disk refuses or hangs.
    pub async fn amend(&self, incident: &str, entry: TimelineEntry) -> Result<(), EvidenceError> {
        let (edit, incidents, id) = (Arc::clone(&self.edit), self.incidents.clone(), file_segment(incident));
        disk::bounded(&self.places, DISK_TIMEOUT, "amend", self.folder(incident), move || {
            let _edit = disk::hold(&edit);
            disk::amend(&incidents, &id, entry)
        })
        .await
    }
}

/// Everything a test of this room needs again and again.
#[cfg(test)]
mod fixture;
/// Bundles made without an API server, for retention, export, verify and copies.
#[cfg(test)]
mod made;
#[cfg(test)]
mod tests;
