//! The way in, and the thread that writes.
//!
//! A thread of its own, not one of the runtime's: it may hang with the disk for hours, and a runtime waits for its threads at the end.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    AuditError,
    writer::{Item, Writer},
};
use crate::{
    metrics::Metrics,
    model::{Actor, AuditEntry, settings::AuditSettings},
};

/// Entries that wait, at most: a few megabytes, and minutes of the busiest day.
const WAITING_MAX: usize = 4096;
/// Entries that are synced at once, at most.
const BATCH_MAX: usize = 128;
/// Time before the disk is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long a stop waits for what is not on disk yet.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Letters of a sentence; beyond that nobody reads.
const WHY_CHARS_MAX: usize = 4096;
/// Letters of a name or a word.
const NAME_CHARS_MAX: usize = 256;

/// Where entries are written; cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

/// What puts them on disk; run it once, on its own task.
#[derive(Debug)]
pub struct JournalTask {
    shared: Arc<Shared>,
    writer: Writer,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    stopping: bool,
}

impl Journal {
    /// Opens the journal in a folder, without touching it yet.
    #[must_use]
    pub fn open(folder: PathBuf, settings: AuditSettings, metrics: Metrics) -> (Self, JournalTask) {
        // Present from the start, so that a rate over them has a beginning.
        for result in ["written", "lost"] {
            metrics.audit_entries.with_label_values(&[result]);
        }
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            metrics,
        });
        let task = JournalTask {
            shared: Arc::clone(&shared),
            writer: Writer::new(folder, settings),
        };
        (Self { shared }, task)
    }

    /// Hands an entry over. Never waits and never fails: beyond 4096 waiting entries it is lost, counted, and the journal says so where
    /// it would have stood.
    pub fn write(&self, entry: AuditEntry) {
        let entry = clipped(entry);
        {
            let mut queue = self.shared.hold();
            if queue.items.len() < WAITING_MAX {
                queue.items.push_back(Item::Entry(entry));
            } else {
                self.shared.metrics.audit_entries.with_label_values(&["lost"]).inc();
                match queue.items.back_mut() {
                    Some(Item::Lost(entries, at)) => (*entries, *at) = (*entries + 1, entry.at),
                    _ => queue.items.push_back(Item::Lost(1, entry.at)),
                }
            }
        }
        self.shared.changed.notify_all();
    }
}

impl JournalTask {
    /// Writes until stopped, then what is left, for at most 2 s.
    pub async fn run(self, stop: CancellationToken) {
        let Self { shared, writer } = self;
        let (done, mut ended) = oneshot::channel::<()>();
        let worker = Arc::clone(&shared);
        let started = thread::Builder::new().name("audit".to_owned()).spawn(move || {
            worker.work(writer);
            drop(done);
        });
        if let Err(error) = started {
            error!(%error, "Failed to start the thread of the audit journal; nothing is journaled");
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = &mut ended => {
                error!("The thread of the audit journal has died; nothing is journaled any more");
                return;
            }
        }
        shared.hold().stopping = true;
        shared.changed.notify_all();
        if timeout(LAST_WRITE, ended).await.is_err() {
            let entries = shared.hold().items.len();
            error!(entries, "The audit journal's disk does not answer; what waits is lost");
        }
    }
}

impl Shared {
    /// Each change of the queue is whole, so that a panic elsewhere harms none.
    fn hold(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for items; `None` when stopped and nothing is left.
    fn take(&self) -> Option<VecDeque<Item>> {
        let mut queue = self.hold();
        while queue.items.is_empty() {
            if queue.stopping {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let count = queue.items.len().min(BATCH_MAX);
        Some(queue.items.drain(..count).collect())
    }

    /// Waits before the next attempt, or until stopped; says whether to go on.
    fn rest(&self, pause: Duration) -> bool {
        let queue = self.hold();
        let stopped = self.changed.wait_timeout_while(queue, pause, |queue| !queue.stopping);
        !stopped.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    fn work(&self, mut writer: Writer) {
        // Said at once, not with the first entry: that another process has it, or that the folder cannot be written.
        if let Err(error) = writer.open() {
            complain(&error);
        }
        while let Some(mut batch) = self.take() {
            self.put(&mut writer, &mut batch);
        }
    }

    /// Writes a batch, however long that takes; what a stop does not wait for is lost.
    fn put(&self, writer: &mut Writer, batch: &mut VecDeque<Item>) {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(RETRY.0)
            .with_max_delay(RETRY.1)
            .with_jitter()
            .without_max_times()
            .build();
        let mut failed = false;
        loop {
            let waiting: u64 = batch.iter().map(Item::entries).sum();
            let done = writer.append(batch);
            let left: u64 = batch.iter().map(Item::entries).sum();
            self.metrics.audit_entries.with_label_values(&["written"]).inc_by(waiting - left);
            let Err(error) = done else { break };
            if !std::mem::replace(&mut failed, true) {
                complain(&error);
            }
            if !self.rest(pauses.next().unwrap_or(RETRY.1)) {
                self.metrics.audit_entries.with_label_values(&["lost"]).inc_by(left);
                error!(entries = left, "Entries of the audit journal are lost with this stop");
                return;
            }
        }
        if failed {
            info!("The audit journal can be written again");
        }
    }
}

fn complain(error: &AuditError) {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    error!(
        %error,
        source,
        remedy = "look at the volume of data_dir; entries wait in memory, and the oldest are kept when there are too many",
        "Audit journal cannot be written"
    );
}

/// An entry of a size that can be foreseen.
fn clipped(entry: AuditEntry) -> AuditEntry {
    let name = |name: String| clip(name, NAME_CHARS_MAX);
    AuditEntry {
        actor: match entry.actor {
            Actor::Flipback => Actor::Flipback,
            Actor::Person { name: person } => Actor::Person { name: name(person) },
            Actor::FieldManager { name: manager } => Actor::FieldManager { name: name(manager) },
        },
        action: name(entry.action),
        why: clip(entry.why, WHY_CHARS_MAX),
        incident: entry.incident.map(name),
        ..entry
    }
}

fn clip(mut text: String, chars: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(chars) {
        text.truncate(at);
        text.push('…');
    }
    text
}
