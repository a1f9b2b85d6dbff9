//! One chat's lane: what waits for it ([`Queue`]), how it fares, and the worker that carries message after message until
//! each is accepted or given up. A lane waits for its own chat only.
//!
//! What is decided is decided in the queue and in [`Threads`](threads), which are pure; this file holds the lock, asks the
//! chat and tells the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tracing::{debug, error, info, warn};

use super::{
    DeliverError, GivenUp, Notifier, Parcel,
    failure::chain,
    filter::{self, Heard},
    spool::{self, Chores, Left, Spool},
};
use crate::{
    metrics::Metrics,
    model::{Announcement, ChatStatus, Clock, settings::ChatSettings},
    words::Message,
};

mod letter;
mod pauses;
mod queue;
mod threads;

pub(super) use letter::Letter;
use pauses::Failure;
pub(super) use pauses::Pace;
pub(super) use queue::LANE_MAX;
pub(super) use queue::Place;
use queue::{Next, Now, Queue, Restored, Turn, Verdict};
pub use threads::OpenThread;
pub(super) use threads::{Record, THREADS_MAX};

/// Ids of accepted messages whose files could not be removed; tried again with the next.
const CHORES_MAX: usize = 1000;

/// One chat and what it still has to be told.
pub(super) struct Lane {
    pub(super) chat: ChatSettings,
    begun: Instant,
    inner: Mutex<Inner>,
    ready: Notify,
}

struct Inner {
    queue: Queue,
    chores: Chores,
    delivered_at: Option<Timestamp>,
    given_up: u64,
    trouble: Option<String>,
}

/// What the worker works with.
pub(super) struct Tools<'a> {
    pub(super) notifier: &'a dyn Notifier,
    pub(super) spool: &'a Spool,
    pub(super) metrics: &'a Metrics,
    /// The clock on the wall.
    pub(super) clock: &'a Clock,
}

impl Lane {
    pub(super) fn new(chat: ChatSettings) -> Self {
        let queue = Queue::new(Pace::default(), chat.quiet);
        Self {
            chat,
            begun: Instant::now(),
            inner: Mutex::new(Inner {
                queue,
                chores: Chores::default(),
                delivered_at: None,
                given_up: 0,
                trouble: None,
            }),
            ready: Notify::new(),
        }
    }

    /// No code panics while it holds the lock, and a lane is whole after each of its steps.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, wall: Timestamp) -> Now {
        Now {
            since_start: self.begun.elapsed(),
            wall,
        }
    }

    pub(super) fn set_pace(&self, pace: Pace) {
        self.inner().queue.set_pace(pace);
    }

    /// Adds a message, if the chat is to hear it; returns what is given up for lack of room.
    pub(super) fn push(&self, announcement: &Arc<Announcement>, metrics: &Metrics) -> Vec<Letter> {
        let conditional = match filter::hears(&self.chat, announcement) {
            Heard::No => return Vec::new(),
            Heard::Yes => false,
            Heard::IfOpened => true,
        };
        let pushed = self.inner().queue.push(Arc::clone(announcement), conditional, self.begun.elapsed());
        if pushed.merged {
            metrics.notifications.with_label_values(&[self.chat.name.as_str(), "grouped"]).inc();
        }
        pushed.given_up
    }

    /// Takes up what an earlier run left; returns what is given up for lack of room, and what that run left untold the end of.
    pub(super) fn restore(&self, left: Left, wall: Timestamp) -> (Vec<Letter>, Vec<OpenThread>) {
        let mut inner = self.inner();
        let Restored {
            taken,
            unneeded,
            forgotten,
            given_up,
            open,
        } = inner.queue.restore(left.letters, left.records, self.at(wall));
        inner.chores.remove.extend(unneeded);
        inner.chores.forget.extend(forgotten);
        if taken > 0 {
            info!(chat = self.chat.name, messages = taken, "Sending what an earlier run left");
        }
        (given_up, open)
    }

    /// The waiting messages that are there.
    pub(super) fn letters(&self, place: Place) -> Vec<Letter> {
        self.inner().queue.at(place)
    }

    /// Notes where messages got to; what the disk has had its turn at may be sent.
    pub(super) fn moved(&self, letters: &[Letter], place: Place) {
        self.inner().queue.moved(letters, place);
        self.ready.notify_one();
    }

    /// What the chat was, or is about to be, told of and not of its end.
    pub(super) fn open(&self) -> Vec<OpenThread> {
        self.inner().queue.open()
    }

    /// Where a message is; `None` where it does not wait.
    pub(super) fn place(&self, id: &str) -> Option<Place> {
        self.inner().queue.place(id)
    }

    /// How many wait for the chat, and since when.
    pub(super) fn waiting(&self) -> (usize, Option<Timestamp>) {
        self.inner().queue.waiting()
    }

    /// Counts a message that was given up, and says why.
    pub(super) fn gave_up(&self, why: &str) {
        let mut inner = self.inner();
        inner.given_up += 1;
        inner.trouble = Some(why.to_owned());
    }

    /// How the chat fares.
    pub(super) fn status(&self) -> ChatStatus {
        let inner = self.inner();
        let (waiting, waiting_since) = inner.queue.waiting();
        ChatStatus {
            name: self.chat.name.clone(),
            kind: self.chat.kind().as_str().to_owned(),
            waiting: waiting as u64,
            waiting_since,
            delivered_at: inner.delivered_at,
            given_up: inner.given_up,
            trouble: inner.trouble.clone(),
        }
    }

    /// Makes the next attempt, or waits where nothing may go; returns what was given up. `changed` is told whenever the
    /// number of waiting messages may have.
    pub(super) async fn step(&self, tools: &Tools<'_>, changed: impl Fn()) -> Option<GivenUp> {
        // What was released of a hold, or held, counts differently now.
        let next = {
            let ready = self.ready.notified();
            let next = self.inner().queue.next(self.at(tools.clock.now()));
            changed();
            match next {
                Next::Send(turn) => turn,
                Next::Idle => {
                    ready.await;
                    return None;
                }
                Next::Wait(until) => {
                    tokio::select! {
                        () = ready => {}
                        () = tokio::time::sleep_until(self.begun + until) => {}
                    }
                    return None;
                }
            }
        };
        let given_up = self.attempt(next, tools).await;
        changed();
        given_up
    }

    async fn attempt(&self, turn: Turn, tools: &Tools<'_>) -> Option<GivenUp> {
        let Turn {
            letter,
            receipt,
            seal,
            attempt,
        } = turn;
        if seal {
            let (chat, sealed) = (self.chat.name.clone(), letter.clone());
            tools.spool.run(move |root| spool::write(root, &chat, &[sealed])).await;
        }
        let announcement = &letter.announcement;
        let message = self.words(announcement);
        let parcel = Parcel {
            announcement,
            message: &message,
            thread: receipt.as_deref(),
        };
        match tools.notifier.deliver(parcel).await {
            Ok(receipt) => {
                let (chat, guard, topic) = (self.chat.name.as_str(), announcement.guard.as_str(), announcement.topic.as_str());
                info!(chat, id = letter.id(), topic, guard, attempts = attempt, "Delivered message");
                self.accepted(&letter, receipt, tools).await;
                None
            }
            Err(failure) => self.failed(letter, attempt, &failure, tools).await,
        }
    }

    /// The words of a message, the chat's own where it has some. The one place that knows whose they are.
    fn words(&self, announcement: &Announcement) -> Message {
        Message::by(announcement, &self.chat.templates)
    }

    async fn accepted(&self, letter: &Letter, receipt: Option<String>, tools: &Tools<'_>) {
        let wall = tools.clock.now();
        {
            let mut inner = self.inner();
            let change = inner.queue.accepted(letter, receipt, wall);
            inner.chores.records.extend(change.write);
            inner.chores.forget.extend(change.forget);
            inner.chores.remove.extend(letter.replaces.iter().cloned());
            inner.chores.remove.push(letter.id().to_owned());
            inner.delivered_at = Some(wall);
            inner.trouble = None;
        }
        self.settle(tools.spool).await;
        self.inner().queue.remove(letter);
        self.count("delivered", tools.metrics);
    }

    /// Brings the disk up to date; what it does not take now is tried again with the next message.
    pub(super) async fn settle(&self, spool: &Spool) {
        let chores = std::mem::take(&mut self.inner().chores);
        if chores.is_empty() {
            return;
        }
        let (chat, todo) = (self.chat.name.clone(), chores.clone());
        if spool.run(move |root| spool::settle(root, &chat, &todo)).await.is_none() {
            let mut inner = self.inner();
            let newer = std::mem::replace(&mut inner.chores, chores);
            inner.chores.append(newer, CHORES_MAX);
        }
    }

    async fn failed(&self, letter: Letter, attempt: u32, failure: &DeliverError, tools: &Tools<'_>) -> Option<GivenUp> {
        let announcement = &letter.announcement;
        let (chat, id) = (self.chat.name.as_str(), letter.id());
        let (topic, guard) = (announcement.topic.as_str(), announcement.guard.as_str());
        let reason = chain(failure);
        let remedy = failure.remedy(&self.chat.channel);
        let why = format!("{reason}; {remedy}");
        let wall = tools.clock.now();
        let verdict = {
            let mut inner = self.inner();
            inner.trouble = Some(why.clone());
            inner.queue.failed(&letter, kind_of(failure), self.at(wall))
        };
        match verdict {
            Verdict::Retry(wait) => {
                if attempt == 1 {
                    warn!(chat, id, topic, guard, error = reason, remedy, retry_in = ?wait, "Message not delivered yet");
                } else {
                    debug!(chat, id, attempts = attempt, error = reason, retry_in = ?wait, "Message not delivered yet");
                }
                self.count("retried", tools.metrics);
                None
            }
            Verdict::GiveUp => {
                error!(
                    chat,
                    id,
                    topic,
                    guard,
                    attempts = attempt,
                    error = reason,
                    remedy,
                    "Dropped message"
                );
                let (name, dead, said) = (self.chat.name.clone(), letter.clone(), why.clone());
                tools.spool.run(move |root| spool::bury(root, &name, &[dead], &said)).await;
                self.gave_up(&why);
                self.inner().queue.remove(&letter);
                self.count("dropped", tools.metrics);
                Some(GivenUp {
                    chat: self.chat.name.clone(),
                    announcement: Arc::unwrap_or_clone(letter.announcement),
                    why,
                    at: wall,
                })
            }
        }
    }

    fn count(&self, result: &str, metrics: &Metrics) {
        metrics.notifications.with_label_values(&[self.chat.name.as_str(), result]).inc();
    }
}

impl Chores {
    /// Adds what has come up since, keeping the newest.
    fn append(&mut self, newer: Self, max: usize) {
        self.records.retain(|old| newer.records.iter().all(|new| new.thread != old.thread));
        self.records.retain(|old| !newer.forget.contains(&old.thread));
        self.records.extend(newer.records);
        self.forget.extend(newer.forget);
        self.remove.extend(newer.remove);
        let surplus = |len: usize| len.saturating_sub(max);
        self.records.drain(..surplus(self.records.len()));
        self.forget.drain(..surplus(self.forget.len()));
        self.remove.drain(..surplus(self.remove.len()));
    }
}

/// What a failed delivery says of the message and of the chat.
fn kind_of(failure: &DeliverError) -> Failure {
    Failure {
        permanent: failure.is_permanent(),
        limited: matches!(failure, DeliverError::Status { status: 429, .. }),
        retry_after: failure.retry_after(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_did_not_take_is_kept_newest_within_bounds() {
        let mut chores = Chores {
            remove: (0..5).map(|n| n.to_string()).collect(),
            ..Chores::default()
        };
        let newer = Chores {
            remove: vec!["5".into()],
            forget: vec!["t".into()],
            ..Chores::default()
        };
        chores.append(newer, 3);
        assert_eq!(
            (chores.remove, chores.forget),
            (vec!["3".into(), "4".into(), "5".into()], vec!["t".into()])
        );
    }

    #[test]
    fn only_a_rate_limit_is_the_chats_own_for_sure() {
        let of = |status| {
            kind_of(&DeliverError::Status {
                status,
                said: String::new(),
                retry_after: None,
            })
        };
        assert!(of(429).limited && !of(429).permanent);
        assert!(!of(503).limited && of(404).permanent);
    }
}
