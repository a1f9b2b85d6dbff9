//! The way out: [`Outbox::push`] takes a message in microseconds, [`OutboxTask::run`] writes it down and lets one lane per
//! chat carry it. After a restart the files left are sent first, in order.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    lane::{self, Fate, Lane, Pace},
    open, spool,
    spool::Spool,
};
use crate::{
    metrics::Metrics,
    model::{Announcement, ChatStatus, settings::ChatSettings},
};

/// How long a stop waits for messages under way; the rest stays on disk.
const DRAIN: Duration = Duration::from_millis(2500);
/// How long a stop waits for the disk, after that.
const LAST_WRITE: Duration = Duration::from_millis(500);
/// Messages given up for lack of room whose files still wait to be moved away.
const OVERFLOW_MAX: usize = 1000;

/// Where messages are pushed; cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

/// What carries the pushed messages; run it once, on its own task.
pub struct OutboxTask {
    shared: Arc<Shared>,
    pace: Pace,
}

struct Shared {
    lanes: Vec<Lane>,
    spool: Spool,
    /// Something is not on disk yet.
    unstored: Notify,
    /// Given up for lack of room, with the chat's name; their files are the writer's business.
    overflow: Mutex<Vec<(String, Arc<Announcement>)>>,
    pending: watch::Sender<u64>,
    metrics: Metrics,
}

impl Outbox {
    /// Opens the outbox in `dir`, without touching it yet.
    #[must_use]
    pub fn open(dir: PathBuf, chats: Vec<ChatSettings>, metrics: Metrics) -> (Self, OutboxTask) {
        for chat in &chats {
            // Present from the start, so that a rate over them has a beginning.
            for result in ["delivered", "retried", "dropped"] {
                metrics.notifications.with_label_values(&[chat.name.as_str(), result]);
            }
        }
        let shared = Arc::new(Shared {
            lanes: chats.into_iter().map(Lane::new).collect(),
            spool: Spool::new(dir),
            unstored: Notify::new(),
            overflow: Mutex::default(),
            pending: watch::Sender::new(0),
            metrics,
        });
        let task = OutboxTask {
            shared: Arc::clone(&shared),
            pace: Pace::default(),
        };
        (Self { shared }, task)
    }

    /// Hands a message over. Never waits and never fails: beyond 1000 waiting messages per chat, the oldest of the least
    /// loud is given up, and counted.
    pub fn push(&self, announcement: Announcement) {
        let announcement = Arc::new(announcement);
        let wanted = &announcement.chats;
        let lanes = self.shared.lanes.iter();
        for lane in lanes.filter(|lane| wanted.is_empty() || wanted.contains(&lane.chat.name)) {
            if let Some(dropped) = lane.push(Arc::clone(&announcement)) {
                self.shared.overflowed(lane, dropped);
            }
        }
        self.shared.recount();
        self.shared.unstored.notify_one();
    }

    /// How each chat fares.
    #[must_use]
    pub fn health(&self) -> Vec<ChatStatus> {
        let lanes = self.shared.lanes.iter();
        lanes
            .map(|lane| {
                let (waiting, waiting_since) = lane.waiting();
                ChatStatus {
                    name: lane.chat.name.clone(),
                    kind: lane.chat.kind().as_str().to_owned(),
                    waiting: waiting as u64,
                    waiting_since,
                    delivered_at: None,
                    given_up: 0,
                    trouble: None,
                }
            })
            .collect()
    }

    /// Messages waiting for a chat; one that waits for two chats counts twice.
    #[must_use]
    pub fn pending(&self) -> u64 {
        *self.shared.pending.borrow()
    }
}

impl OutboxTask {
    /// Delivers until stopped; then drains for at most 3 s. What is left stays on disk and is sent after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let Self { shared, pace } = self;
        shared.restore().await;
        let mut tasks = JoinSet::new();
        let writer = Arc::clone(&shared);
        tasks.spawn(async move {
            loop {
                writer.unstored.notified().await;
                writer.store().await;
            }
        });
        for index in 0..shared.lanes.len() {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.carry(index, pace).await });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            // Neither the writer nor a lane ends by itself: one that did has panicked, and its messages stay on disk.
            Some(ended) = tasks.join_next() => {
                error!(?ended, "A worker of the outbox died; restart flipback to send what it left");
                stop.cancelled().await;
            }
        }
        let mut pending = shared.pending.subscribe();
        let _ = timeout(DRAIN, pending.wait_for(|pending| *pending == 0)).await;
        tasks.shutdown().await;
        let _ = timeout(LAST_WRITE, shared.store()).await;
        let left = *shared.pending.borrow();
        if left > 0 {
            info!(left, "Left messages in the outbox for the next start");
        }
    }
}

impl Shared {
    /// Takes up what an earlier run left.
    async fn restore(&self) {
        let chats: Vec<String> = self.lanes.iter().map(|lane| lane.chat.name.clone()).collect();
        for lane in &self.lanes {
            let chat = lane.chat.name.clone();
            if let Some(found) = self.spool.run(move |root| spool::load(root, &chat)).await
                && !found.is_empty()
            {
                info!(chat = lane.chat.name, messages = found.len(), "Sending what an earlier run left");
                lane.restore(found);
            }
        }
        let strangers = self.spool.run(move |root| spool::strangers(root, &chats)).await;
        for chat in strangers.unwrap_or_default() {
            warn!(chat, "Messages wait for a chat that is not configured; they are kept");
        }
        self.recount();
        for lane in &self.lanes {
            lane.mark_stored(&[]);
        }
        // Whatever was pushed before the task ran.
        self.unstored.notify_one();
    }

    /// Writes what is not on disk yet and frees it for delivery, whether the disk took it or not.
    async fn store(&self) {
        let batches: Vec<_> = self.lanes.iter().map(|lane| (lane.chat.name.clone(), lane.unstored())).collect();
        let dropped = std::mem::take(&mut *self.overflow.lock().unwrap_or_else(PoisonError::into_inner));
        if !dropped.is_empty() || batches.iter().any(|(_, batch)| !batch.is_empty()) {
            let to_write = batches.clone();
            self.spool
                .run(move |root| {
                    let writes = to_write
                        .iter()
                        .flat_map(|(chat, batch)| batch.iter().map(move |each| spool::write(root, chat, each)));
                    let burials = dropped
                        .iter()
                        .map(|(chat, each)| spool::bury(root, chat, each, "too many messages waited for this chat"));
                    // Every one gets its try; the first failure is the one to tell.
                    writes
                        .chain(burials)
                        .collect::<Vec<_>>()
                        .into_iter()
                        .collect::<std::io::Result<()>>()
                })
                .await;
        }
        for (lane, (_, batch)) in self.lanes.iter().zip(&batches) {
            lane.mark_stored(batch);
        }
    }

    async fn carry(&self, index: usize, pace: Pace) {
        let lane = &self.lanes[index];
        let notifier = open(&lane.chat);
        loop {
            lane::carry_next(lane, notifier.as_ref(), &pace, &self.metrics, |announcement, fate| async move {
                let chat = lane.chat.name.clone();
                let settled = move |root: &std::path::Path| match fate {
                    Fate::Delivered => spool::remove(root, &chat, &announcement.id),
                    Fate::Dropped(reason) => spool::bury(root, &chat, &announcement, &reason),
                };
                self.spool.run(settled).await;
            })
            .await;
            self.recount();
        }
    }

    fn overflowed(&self, lane: &Lane, dropped: Arc<Announcement>) {
        let chat = lane.chat.name.clone();
        self.metrics.notifications.with_label_values(&[chat.as_str(), "dropped"]).inc();
        error!(
            chat,
            id = dropped.id,
            topic = dropped.topic.as_str(),
            guard = dropped.guard.as_str(),
            remedy = "see why the chat does not accept messages",
            "Dropped message, since too many wait for its chat"
        );
        let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond the bound its file is not moved away, and sent after a restart after all.
        if overflow.len() < OVERFLOW_MAX {
            overflow.push((chat, dropped));
        }
    }

    fn recount(&self) {
        let waiting: Vec<_> = self.lanes.iter().map(Lane::waiting).collect();
        let pending = waiting.iter().map(|(count, _)| *count as u64).sum();
        let oldest = waiting.iter().filter_map(|(_, oldest)| *oldest).min();
        self.metrics.notifications_pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.metrics
            .notification_oldest_pending
            .set(oldest.map_or(0, jiff::Timestamp::as_second));
        self.pending.send_replace(pending);
    }
}

#[cfg(test)]
mod tests;
