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
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::{
    metrics::Metrics,
    model::{GuardId, Incident, Series, TimelineEntry, file_segment, settings::EvidenceSettings},
};

mod capture;
pub mod copy;
mod desk;
mod disk;
pub mod export;
mod follow_up;
mod full;
mod keep;
mod manifest;
mod plan;
mod progress;
mod renew;
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
use desk::Desk;
use disk::{Amended, Edit};
use full::Space;
use plan::Plan;
use renew::Renewals;
use report::{PEN, Pen};
use scrub::Scrub;
use shelf::Shelf;

pub use disk::{EvidenceError, list};
pub use renew::renew;

/// How long the first write, an amendment or one captured file may take; a disk that takes longer hangs.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start waits for the disk, each time it asks: a guard without its history is better than none.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the report on a bundle, its hashes and syncing all of it may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(60);
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

/// A bundle's folder by its name; what begins with a dot is none, or not yet.
fn name_of(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    (!name.starts_with('.')).then(|| name.to_owned())
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
    /// Which of several replicas this is: each has a disk of its own.
    replica: Option<Arc<str>>,
    settings: Arc<EvidenceSettings>,
    scrub: Arc<Scrub>,
    metrics: Metrics,
    places: Arc<Semaphore>,
    captures: Arc<Semaphore>,
    /// Copies what is whole, where it was asked for.
    copier: Option<Copier>,
    /// Held while an `incident.json` is read, changed and written back.
    edit: Arc<Edit>,
    /// Bundles that were begun.
    desk: Arc<Desk>,
    /// The folders' names of those that are whole.
    whole: Arc<Mutex<BTreeSet<String>>>,
    /// Reports that are to be made anew.
    renewals: Arc<Renewals>,
    /// Draws their pictures.
    pen: Pen,
}

impl Keeper {
    /// Opens `<data_dir>/incidents`, made if need be, and finishes what a crash left half captured. A disk that refuses
    /// or hangs is told, loudly, and keeps nobody from guarding: every incident tries anew.
    #[must_use]
    pub fn open(data_dir: PathBuf, settings: EvidenceSettings, metrics: Metrics) -> Self {
        Self::open_with(data_dir, settings, metrics, PEN)
    }

    /// [`Self::open`], with who draws the pictures of reports.
    #[must_use]
    pub fn open_with(data_dir: PathBuf, settings: EvidenceSettings, metrics: Metrics, pen: Pen) -> Self {
        let incidents = data_dir.join(disk::INCIDENTS);
        let folder = incidents.clone();
        let opened = disk::at_start(OPEN_TIMEOUT, "open", incidents.clone(), move || {
            disk::make_folder(&folder)?;
            disk::recover(&folder)?;
            disk::entries(&folder)
        });
        let whole = opened
            .as_deref()
            .unwrap_or_default()
            .iter()
            .filter_map(|folder| name_of(folder))
            .collect();
        if let Err(error) = opened {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            error!(%error, cause, "Evidence cannot be kept: guarding without, until the disk takes it");
        }
        let copies = settings.copy.clone();
        let copier = copies.map(|copy| Copier::start(incidents.clone(), copy, metrics.clone()));
        let keeper = Self {
            edit: Arc::new(Edit::of(incidents.clone())),
            incidents,
            replica: None,
            copier,
            scrub: Arc::new(Scrub::new(&settings.redact)),
            settings: Arc::new(settings),
            metrics,
            places: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            captures: Arc::new(Semaphore::new(CAPTURES_MAX)),
            desk: Arc::default(),
            whole: Arc::new(Mutex::new(whole)),
            renewals: Arc::default(),
            pen,
        };
        keeper.look_for_old_reports();
        keeper
    }

    /// The same, as one of several replicas: where its evidence lies is told with its name.
    #[must_use]
    pub fn of_replica(self, name: &str) -> Self {
        Self {
            replica: Some(name.into()),
            ..self
        }
    }

    /// The same folder under other settings; what is under way goes on under the former ones.
    #[must_use]
    pub fn under(&self, settings: EvidenceSettings) -> Self {
        let copier = match &settings.copy {
            copy if *copy == self.settings.copy => self.copier.clone(),
            None => None,
            Some(copy) => Some(Copier::start(self.incidents.clone(), copy.clone(), self.metrics.clone())),
        };
        Self {
            copier,
            scrub: Arc::new(Scrub::new(&settings.redact)),
            settings: Arc::new(settings),
            ..self.clone()
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

    /// The same for people: behind the replica's name, where there are several.
    #[must_use]
    pub fn place(&self, incident: &str) -> String {
        let folder = self.folder(incident);
        match &self.replica {
            Some(replica) => format!("{replica}:{}", folder.display()),
            None => folder.display().to_string(),
        }
    }

    /// Whether an incident has a bundle that is whole, as far as this process knows: whoever may not wait for a disk asks here.
    #[must_use]
    pub fn has_bundle(&self, incident: &str) -> bool {
        disk::hold(&self.whole).contains(&file_segment(incident))
    }

    fn note_whole(&self, folder: &Path) {
        disk::hold(&self.whole).extend(name_of(folder));
    }

    fn note_gone<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut whole = disk::hold(&self.whole);
        for name in names {
            whole.remove(name);
        }
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
                self.note_gone(pruned.deleted.iter().map(|(kept, _)| kept.id.as_str()));
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

    /// Captures what the plan says into a folder and returns what is missing.
    async fn captured(&self, plan: &Plan, sources: Sources, folder: PathBuf) -> Vec<String> {
        let shelf = Shelf::new(folder, plan.bytes_max, self.space(), Arc::clone(&self.scrub));
        match tokio::time::timeout(plan.deadline, self.captures.acquire()).await {
            Ok(_place) => capture::capture(plan, sources, &shelf).await,
            Err(_) => vec!["capture: not begun in time, since too many other incidents were being captured".to_owned()],
        }
    }

    fn space(&self) -> Space {
        Space::new(self.incidents.clone(), Arc::clone(&self.settings)).drawn_by(self.pen)
    }

    /// Adds a line to an incident's story, such as its recovery; `MANIFEST.sha256` follows at once, the report soon.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is no such incident, a newer flipback wrote it, or the disk refuses or hangs.
    pub async fn amend(&self, incident: &str, entry: TimelineEntry) -> Result<(), EvidenceError> {
        self.edit(incident, "amend", move |incidents, id| disk::amend(incidents, id, entry.clone()))
            .await
    }

    /// Says in an incident's bundle, be it whole or in the making, what became of it after all: its outcome, and what has been
    /// added to its story. Whatever else lies there stays.
    ///
    /// # Errors
    /// [`EvidenceError`] when there is no such incident, a newer flipback wrote it, or the disk refuses or hangs.
    pub async fn correct(&self, incident: &Incident) -> Result<PathBuf, EvidenceError> {
        let now = incident.clone();
        self.edit(&incident.id, "correct", move |incidents, id| disk::correct(incidents, id, &now))
            .await?;
        Ok(self.folder(&incident.id))
    }

    async fn edit<F>(&self, incident: &str, attempted: &'static str, change: F) -> Result<(), EvidenceError>
    where
        F: Fn(&Path, &str) -> Result<Amended, EvidenceError> + Send + 'static,
    {
        let (edit, incidents, id) = (Arc::clone(&self.edit), self.incidents.clone(), file_segment(incident));
        let space = self.space();
        let amended = disk::bounded(&self.places, DISK_TIMEOUT, attempted, self.folder(incident), move || {
            let _edit = edit.hold();
            space.with(|| change(&incidents, &id))
        })
        .await?;
        if amended == Amended::Whole {
            self.due(&file_segment(incident));
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
