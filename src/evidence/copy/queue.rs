//! What is to be copied, in the background: read from the disk, newest first, again and again until a store takes it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    super::{
        disk,
        stock::{Found, stock},
    },
    CopyError, place,
    upload::Round,
};
use crate::{
    metrics::Metrics,
    model::{chain, settings::CopySettings},
};

/// How long looking through all bundles may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// The first pause after a failure, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// How often is looked for what nobody told of.
const LOOK_AGAIN: Duration = Duration::from_secs(15 * 60);

/// Copies whatever is whole and not yet copied, in a task of its own that ends with the last clone of this.
#[derive(Clone, Debug)]
pub struct Copier {
    bell: Arc<watch::Sender<()>>,
}

impl Copier {
    /// Starts copying what lies there already. Needs a runtime.
    #[must_use]
    pub fn start(incidents: PathBuf, settings: CopySettings, metrics: Metrics) -> Self {
        let (bell, heard) = watch::channel(());
        let queue = Queue {
            incidents,
            place: place(&settings),
            settings,
            metrics,
            round: Round::default(),
            failures: BTreeMap::new(),
            said: None,
        };
        tokio::spawn(queue.run(heard));
        Self { bell: Arc::new(bell) }
    }

    /// Tells that a bundle became whole, or changed. Never waits.
    pub fn nudge(&self) {
        self.bell.send_replace(());
    }
}

/// What is to be copied, and how it went.
struct Queue {
    incidents: PathBuf,
    place: String,
    settings: CopySettings,
    metrics: Metrics,
    round: Round,
    /// How often each bundle failed.
    failures: BTreeMap<String, u32>,
    /// The failure that was told last: a store that is down all night is told once.
    said: Option<String>,
}

impl Queue {
    async fn run(mut self, mut heard: watch::Receiver<()>) {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_jitter()
            .without_max_times();
        let mut pause = pauses.build();
        loop {
            let wait = if self.pass().await {
                pause = pauses.build();
                LOOK_AGAIN
            } else {
                pause.next().unwrap_or(PAUSE_MAX)
            };
            // Nobody is left who could tell of more.
            if let Ok(Err(_)) = timeout(wait, heard.changed()).await {
                return;
            }
        }
    }

    /// Copies everything that is not copied yet; whether nothing is left to be tried again.
    async fn pass(&mut self) -> bool {
        let (incidents, place) = (self.incidents.clone(), self.place.clone());
        let disk = Arc::new(Semaphore::new(1));
        let listed = disk::bounded(&disk, LIST_TIMEOUT, "list", incidents.clone(), move || {
            stock(&incidents, Some(&place))
        });
        let mut waiting: Vec<Found> = match listed.await {
            Ok(found) => found.into_iter().filter(|one| one.kept.awaits_copy).collect(),
            Err(error) => {
                self.failed(&chain(&error));
                return false;
            }
        };
        self.failures.retain(|id, _| waiting.iter().any(|one| one.kept.id == *id));
        // Newest first, and what failed behind what did not.
        waiting.reverse();
        waiting.sort_by_key(|one| self.failures.get(&one.kept.id).copied().unwrap_or_default());
        let pending = &self.metrics.evidence_copies_pending;
        pending.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        let mut all = true;
        for found in waiting {
            let begun = Instant::now();
            match self.round.copy(&found, &self.settings, false).await {
                Ok(copied) => {
                    let (incident, to, took) = (&found.kept.id, &self.place, begun.elapsed());
                    info!(incident, to, copied.files, copied.bytes, ?took, "Copied evidence");
                    self.metrics.evidence_copies.with_label_values(&["copied"]).inc();
                    self.metrics.evidence_copies_pending.dec();
                    self.said = None;
                }
                Err(error @ CopyError::Changed(_)) => {
                    all = false;
                    debug!(%error, "Evidence is copied again");
                }
                // Retention was faster.
                Err(_) if !found.folder.exists() => self.metrics.evidence_copies_pending.dec(),
                Err(error) => {
                    all = false;
                    *self.failures.entry(found.kept.id.clone()).or_default() += 1;
                    self.metrics.evidence_copies.with_label_values(&["failed"]).inc();
                    self.failed(&chain(&error));
                    if error.is_of_store() {
                        break;
                    }
                }
            }
        }
        all
    }

    fn failed(&mut self, why: &str) {
        if self.said.as_deref() == Some(why) {
            debug!(why, "Evidence is still not copied");
        } else {
            warn!(to = self.place, why, "Evidence is not copied yet; trying again");
            self.said = Some(why.to_owned());
        }
    }
}
