//! One chat's lane: its bounded queue, and the worker that carries message after message, in order, until each is
//! accepted or given up. A lane waits for its own chat only.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tracing::{debug, error, info, warn};

use super::{DeliverError, Notifier, Parcel, post::chain};
use crate::{
    metrics::Metrics,
    model::{Announcement, settings::ChatSettings},
    words::Message,
};

/// Messages a chat may have waiting: a day of a very bad day.
pub(super) const LANE_MAX: usize = 1000;

/// How a delivery is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Before the first retry; doubles from there, with up to as much jitter.
    pub(super) retry_min: Duration,
    /// Before any retry, without jitter.
    pub(super) retry_max: Duration,
    /// The longest `Retry-After` that is obeyed.
    pub(super) retry_after_max: Duration,
    /// Attempts at a message that the chat refuses for good.
    pub(super) refusals_max: u32,
    /// A message that was not accepted for so long is old news.
    pub(super) age_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(5 * 60),
            refusals_max: 3,
            age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// One chat's waiting messages.
pub(super) struct Lane {
    pub(super) chat: ChatSettings,
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The front one is being delivered.
    busy: bool,
}

struct Waiting {
    announcement: Arc<Announcement>,
    /// On disk, or known not to get there.
    stored: bool,
}

impl Lane {
    pub(super) fn new(chat: ChatSettings) -> Self {
        Self {
            chat,
            queue: Mutex::default(),
            ready: Notify::new(),
        }
    }

    /// No code panics while it holds the lock, and a queue is whole after each of its steps.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message; beyond [`LANE_MAX`] the oldest of the least loud is given up and returned.
    pub(super) fn push(&self, announcement: Arc<Announcement>) -> Option<Arc<Announcement>> {
        let mut queue = self.queue();
        if queue.waiting.iter().any(|waiting| waiting.announcement.id == announcement.id) {
            return None;
        }
        queue.waiting.push_back(Waiting {
            announcement,
            stored: false,
        });
        if queue.waiting.len() <= LANE_MAX {
            return None;
        }
        let under_way = usize::from(queue.busy);
        let candidates = queue.waiting.iter().enumerate().skip(under_way);
        let (least, _) = candidates.min_by_key(|(_, waiting)| waiting.announcement.topic.severity())?;
        queue.waiting.remove(least).map(|waiting| waiting.announcement)
    }

    /// Puts what a restart found on disk before everything pushed since.
    pub(super) fn restore(&self, found: Vec<Announcement>) {
        let mut queue = self.queue();
        for announcement in found.into_iter().rev() {
            if queue.waiting.len() < LANE_MAX && queue.waiting.iter().all(|waiting| waiting.announcement.id != announcement.id) {
                queue.waiting.push_front(Waiting {
                    announcement: Arc::new(announcement),
                    stored: true,
                });
            }
        }
    }

    /// Messages that are not on disk yet.
    pub(super) fn unstored(&self) -> Vec<Arc<Announcement>> {
        let queue = self.queue();
        let unstored = queue.waiting.iter().filter(|waiting| !waiting.stored);
        unstored.map(|waiting| Arc::clone(&waiting.announcement)).collect()
    }

    /// Frees messages for delivery once the disk has had its turn.
    pub(super) fn mark_stored(&self, stored: &[Arc<Announcement>]) {
        for waiting in &mut self.queue().waiting {
            waiting.stored |= stored.iter().any(|announcement| announcement.id == waiting.announcement.id);
        }
        self.ready.notify_one();
    }

    /// How many wait, and since when.
    pub(super) fn waiting(&self) -> (usize, Option<Timestamp>) {
        let queue = self.queue();
        (
            queue.waiting.len(),
            queue.waiting.iter().map(|waiting| waiting.announcement.at).min(),
        )
    }

    /// The message whose turn it is, once there is one.
    async fn next(&self) -> Arc<Announcement> {
        loop {
            let ready = self.ready.notified();
            {
                let mut queue = self.queue();
                let front = queue.waiting.front().filter(|waiting| waiting.stored);
                if let Some(announcement) = front.map(|waiting| Arc::clone(&waiting.announcement)) {
                    queue.busy = true;
                    return announcement;
                }
            }
            ready.await;
        }
    }

    /// Takes the message under way out of the queue.
    fn done(&self) {
        let mut queue = self.queue();
        queue.waiting.pop_front();
        queue.busy = false;
    }
}

/// How a message ended.
pub(super) enum Fate {
    /// The chat accepted it.
    Delivered,
    /// It was given up, for a reason.
    Dropped(String),
}

/// Carries the lane's next message to its end. The message stays queued until `settle` has dealt with its file.
pub(super) async fn carry_next<F, S>(lane: &Lane, notifier: &dyn Notifier, pace: &Pace, metrics: &Metrics, settle: F)
where
    F: FnOnce(Arc<Announcement>, Fate) -> S,
    S: Future<Output = ()>,
{
    let announcement = lane.next().await;
    let fate = carry(lane, notifier, &announcement, pace, metrics).await;
    let result = match fate {
        Fate::Delivered => "delivered",
        Fate::Dropped(_) => "dropped",
    };
    settle(announcement, fate).await;
    metrics.notifications.with_label_values(&[lane.chat.name.as_str(), result]).inc();
    lane.done();
}

async fn carry(lane: &Lane, notifier: &dyn Notifier, announcement: &Announcement, pace: &Pace, metrics: &Metrics) -> Fate {
    let begun = Instant::now();
    let mut delays = ExponentialBuilder::new()
        .with_min_delay(pace.retry_min)
        .with_max_delay(pace.retry_max)
        .with_jitter()
        .without_max_times()
        .build();
    let (chat, id) = (notifier.name(), announcement.id.as_str());
    let (topic, guard) = (announcement.topic.as_str(), announcement.guard.as_str());
    let (mut attempts, mut refusals) = (0_u32, 0_u32);
    let message = Message::of(announcement);
    loop {
        attempts += 1;
        let parcel = Parcel {
            announcement,
            message: &message,
            thread: None,
        };
        let failure = match notifier.deliver(parcel).await {
            Ok(_) => {
                info!(chat, id, topic, guard, attempts, "Delivered message");
                return Fate::Delivered;
            }
            Err(failure) => failure,
        };
        refusals += u32::from(failure.is_permanent());
        let reason = chain(&failure);
        let remedy = failure.remedy(lane.chat.channel.credential());
        if refusals >= pace.refusals_max || begun.elapsed() >= pace.age_max {
            error!(chat, id, topic, guard, attempts, error = reason, remedy, "Dropped message");
            return Fate::Dropped(format!("{reason}; {remedy}"));
        }
        let wait = wait(&failure, delays.next().unwrap_or(pace.retry_max), pace);
        if attempts == 1 {
            warn!(chat, id, topic, guard, error = reason, remedy, retry_in = ?wait, "Message not delivered yet");
        } else {
            debug!(chat, id, attempts, error = reason, retry_in = ?wait, "Message not delivered yet");
        }
        metrics.notifications.with_label_values(&[chat, "retried"]).inc();
        tokio::time::sleep(wait).await;
    }
}

/// The pause before the next attempt: our own, or the chat's where that is longer, within bounds.
fn wait(failure: &DeliverError, own: Duration, pace: &Pace) -> Duration {
    failure.retry_after().map_or(own, |asked| own.max(asked.min(pace.retry_after_max)))
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::{
        model::{
            Topic,
            settings::{Channel, Secret},
        },
        words::tests::example,
    };

    fn lane() -> Lane {
        let url = Secret::Value(SecretString::from("http://127.0.0.1:9"));
        Lane::new(ChatSettings::new("chat", Channel::Slack { url }))
    }

    fn numbered(topic: Topic, n: usize) -> Arc<Announcement> {
        Arc::new(Announcement {
            id: format!("{n:05}"),
            ..example(topic)
        })
    }

    #[test]
    fn a_full_lane_gives_up_the_oldest_of_the_least_loud() {
        let lane = lane();
        for n in 0..LANE_MAX {
            let topic = if n % 2 == 0 { Topic::RollbackFailed } else { Topic::Recovered };
            assert!(lane.push(numbered(topic, n)).is_none());
        }
        let dropped = lane.push(numbered(Topic::RollbackFailed, LANE_MAX)).expect("one too many");
        assert_eq!((dropped.id.as_str(), lane.waiting().0), ("00001", LANE_MAX));
    }

    #[test]
    fn the_same_message_waits_once() {
        let lane = lane();
        lane.push(numbered(Topic::Blind, 1));
        lane.push(numbered(Topic::Blind, 1));
        assert_eq!(lane.waiting().0, 1);
    }

    #[test]
    fn a_chat_may_not_make_us_wait_for_ever() {
        let pace = Pace::default();
        let asks = |seconds| DeliverError::Status {
            status: 429,
            said: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let own = Duration::from_secs(2);
        assert_eq!(wait(&asks(7), own, &pace), Duration::from_secs(7));
        assert_eq!(wait(&asks(0), own, &pace), own);
        assert_eq!(wait(&asks(u64::MAX), own, &pace), pace.retry_after_max);
    }
}
