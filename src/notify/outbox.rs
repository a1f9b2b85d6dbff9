//! The way out: [`Outbox::push`] takes a message in microseconds, [`OutboxTask::run`] writes it down and lets one lane per
//! chat carry it. After a restart the files left are sent first, in order.
//!
//! `push` itself does not touch the disk, since nothing on the road of a flip may. A worker that does nothing else lays the
//! message into its file at once, another syncs it, and only then it is sent. Who may do something only once a message
//! cannot be lost awaits [`Pushed::kept`]. Whoever does not know after a crash whether it pushed a message pushes it again:
//! what waits, or was accepted, in whichever run, is not taken twice.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Notifier,
    lane::{Lane, Letter, OpenThread, Pace, Place, Tools},
    open,
    spool::{self, FORGOTTEN_AFTER, Spool},
};
use crate::{
    metrics::Metrics,
    model::{Announcement, ChatStatus, Clock, GuardId, settings::ChatSettings},
    words::clipped,
};

/// How long a stop waits for messages under way; the rest stays on disk.
const DRAIN: Duration = Duration::from_millis(2500);
/// How long a change of chats waits for messages under way: what is pushed meanwhile lies in memory only.
const CHANGE_DRAIN: Duration = Duration::from_millis(500);
/// How long a stop waits for the disk, after that.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// Messages synced at a time, so that a burst is no hung disk.
const SYNC_MAX: usize = 32;
/// Messages laid at a time, which takes far less.
const LAY_MAX: usize = 128;
/// The longest that anybody waits for a message to be kept.
const KEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages given up for lack of room whose files still wait to be moved away.
const OVERFLOW_MAX: usize = 1000;
/// Messages given up that nobody has asked for yet; the oldest are forgotten, and stay in the log and on disk.
const GIVEN_UP_MAX: usize = 256;
/// Characters of a reason; beyond that no chat shows it, and the outbox has a bound.
const WHY_CHARS_MAX: usize = 8 * 1024;
/// Why a message is given up that has no room.
const NO_ROOM: &str = "too many messages waited for this chat; see why it does not accept them";

/// Makes the notifier of a chat.
pub type Opener = Arc<dyn Fn(&ChatSettings) -> Box<dyn Notifier> + Send + Sync>;

/// Where messages are pushed; cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    switch: Arc<Switch>,
}

/// Where messages go by now: whoever holds an [`Outbox`] pushes to the chats in force, also after these were changed.
struct Switch {
    current: RwLock<Arc<Shared>>,
    /// Counts the changes, for the task.
    changes: watch::Sender<u64>,
}

impl Switch {
    fn current(&self) -> Arc<Shared> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What carries the pushed messages; run it once, on its own task.
pub struct OutboxTask {
    switch: Arc<Switch>,
    open: Opener,
    pace: Pace,
}

/// A message that a chat will not get.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenUp {
    /// Which chat.
    pub chat: String,
    /// The message.
    pub announcement: Announcement,
    /// The reason, and what to do about it.
    pub why: String,
    /// When it was given up.
    pub at: Timestamp,
}

/// A message that was pushed; dropping it changes nothing.
pub struct Pushed {
    shared: Arc<Shared>,
    id: String,
}

struct Shared {
    lanes: Vec<Lane>,
    dir: PathBuf,
    spool: Spool,
    /// Something is in memory only.
    unlaid: Notify,
    /// Something is in a file that may not have reached the disk.
    unsynced: Notify,
    /// Counts the turns of the disk.
    turns: watch::Sender<u64>,
    /// What an earlier run left untold the end of, until somebody asks.
    left_open: Mutex<Option<Vec<OpenThread>>>,
    /// Given up for lack of room, with the chat's name; their files are the writer's business.
    overflow: Mutex<Vec<(String, Letter)>>,
    given_up: Mutex<VecDeque<GivenUp>>,
    pending: watch::Sender<u64>,
    metrics: Metrics,
}

impl Outbox {
    /// Opens the outbox in `dir`, without touching it yet.
    #[must_use]
    pub fn open(dir: PathBuf, chats: Vec<ChatSettings>, metrics: Metrics) -> (Self, OutboxTask) {
        Self::open_with(dir, chats, metrics, Arc::new(open))
    }

    /// As [`Self::open`], with notifiers of the caller's own making.
    #[must_use]
    pub fn open_with(dir: PathBuf, chats: Vec<ChatSettings>, metrics: Metrics, open: Opener) -> (Self, OutboxTask) {
        let switch = Arc::new(Switch {
            current: RwLock::new(Arc::new(Shared::new(dir, chats, metrics))),
            changes: watch::Sender::new(0),
        });
        let task = OutboxTask {
            switch: Arc::clone(&switch),
            open,
            pace: Pace::default(),
        };
        (Self { switch }, task)
    }

    /// Tells these chats from here on, and others no more. What the former ones were not told yet lies on disk and is taken up by those
    /// of the same name.
    pub fn change_chats(&self, chats: Vec<ChatSettings>) {
        let mut current = self.switch.current.write().unwrap_or_else(PoisonError::into_inner);
        let next = Shared::new(current.dir.clone(), chats, current.metrics.clone());
        let lost = std::mem::take(&mut *current.given_up.lock().unwrap_or_else(PoisonError::into_inner));
        *next.given_up.lock().unwrap_or_else(PoisonError::into_inner) = lost;
        *current = Arc::new(next);
        self.switch.changes.send_modify(|changes| *changes += 1);
    }

    /// Hands a message over to every chat that is to hear it. Never waits and never fails: beyond 1000 waiting messages
    /// per chat, the oldest of the least loud is given up, and counted. A message that was pushed before, also in an earlier
    /// run, is told once.
    pub fn push(&self, mut announcement: Announcement) -> Pushed {
        if announcement.why.len() > WHY_CHARS_MAX {
            announcement.why = clipped(&announcement.why, WHY_CHARS_MAX, |_| None);
        }
        let announcement = Arc::new(announcement);
        // Held while pushing: a change of chats waits, so that nothing is pushed to those that are gone.
        let shared = self.switch.current.read().unwrap_or_else(PoisonError::into_inner);
        for lane in &shared.lanes {
            let given_up = lane.push(&announcement, &shared.metrics);
            shared.overflowed(lane, given_up, announcement.at);
        }
        shared.recount();
        shared.unlaid.notify_one();
        Pushed {
            shared: Arc::clone(&shared),
            id: announcement.id.clone(),
        }
    }

    /// What people were told of by an earlier run, and not of its end: the conditions and incidents that stood open when this
    /// run began. Answers once, and `None` until the files have been read.
    #[must_use]
    pub fn take_left_open(&self) -> Option<Vec<OpenThread>> {
        self.switch
            .current()
            .left_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// What people were, or are about to be, told of one guard and not of its end, as of now.
    #[must_use]
    pub fn open_of(&self, guard: &GuardId) -> Vec<OpenThread> {
        let shared = self.switch.current();
        let open = shared.lanes.iter().flat_map(Lane::open).filter(|open| open.guard == *guard);
        earliest(open).into_values().collect()
    }

    /// How each chat fares.
    #[must_use]
    pub fn health(&self) -> Vec<ChatStatus> {
        self.switch.current().lanes.iter().map(Lane::status).collect()
    }

    /// What was given up since this was last asked, oldest first; of more than 256 the newest.
    #[must_use]
    pub fn take_given_up(&self) -> Vec<GivenUp> {
        let shared = self.switch.current();
        let mut given_up = shared.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.drain(..).collect()
    }

    /// Messages waiting for a chat; one that waits for two chats counts twice, a quiet repeat not before its time.
    #[must_use]
    pub fn pending(&self) -> u64 {
        *self.switch.current().pending.borrow()
    }
}

impl Pushed {
    /// Waits until no crash can lose the message any more: for every chat that hears it, it is on disk, or was delivered or
    /// given up. `false` where the disk refuses, or has not answered after 10 s.
    pub async fn kept(self) -> bool {
        let Self { shared, id } = self;
        let mut turns = shared.turns.subscribe();
        let kept = async {
            loop {
                let places: Vec<Place> = shared.lanes.iter().filter_map(|lane| lane.place(&id)).collect();
                if !places.iter().any(|place| matches!(place, Place::Memory | Place::File)) {
                    return !places.contains(&Place::Refused);
                }
                if turns.changed().await.is_err() {
                    return false;
                }
            }
        };
        timeout(KEPT_TIMEOUT, kept).await.unwrap_or(false)
    }
}

impl OutboxTask {
    /// Delivers until stopped; then drains for at most 3.5 s, and for a second after `hurry` is cancelled. What is left stays on
    /// disk and is sent after the next start. `clock` is the one on the wall, which quiet repeats go by.
    pub async fn run(self, stop: CancellationToken, hurry: CancellationToken, clock: Clock) {
        let Self { switch, open, pace } = self;
        let mut changes = switch.changes.subscribe();
        let mut is_first = true;
        loop {
            changes.borrow_and_update();
            let changed = async {
                // The sender is ours to hold: it does not go away.
                let _ = changes.changed().await;
            };
            let shared = switch.current();
            Self::carry(&shared, &open, pace, &clock, (&stop, &hurry, changed), is_first).await;
            is_first = false;
            // Only now that nobody counts for them any more.
            let next = switch.current();
            let gone = shared.names().difference(&next.names()).copied().collect();
            shared.metrics.forget_chats(&gone);
            // Asked afterwards: what was pushed before a stop is delivered, or lies on disk, however soon it came.
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Delivers to some chats, until stopped or until there are others.
    async fn carry(
        shared: &Arc<Shared>,
        open: &Opener,
        pace: Pace,
        clock: &Clock,
        (stop, hurry, changed): (&CancellationToken, &CancellationToken, impl Future<Output = ()>),
        is_first: bool,
    ) {
        for lane in &shared.lanes {
            lane.set_pace(pace);
        }
        tokio::select! {
            () = shared.restore(clock) => {}
            // A disk that hangs: what lies there is the next start's, in any case.
            () = hurry.cancelled() => {}
        }
        if !is_first {
            // No earlier run left these: this one knows of them.
            shared.left_open.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let mut tasks = JoinSet::new();
        let layer = Arc::clone(shared);
        tasks.spawn(async move {
            loop {
                layer.unlaid.notified().await;
                layer.lay().await;
            }
        });
        let writer = Arc::clone(shared);
        tasks.spawn(async move {
            loop {
                writer.unsynced.notified().await;
                writer.sync().await;
            }
        });
        for index in 0..shared.lanes.len() {
            let (shared, open, clock) = (Arc::clone(shared), Arc::clone(open), clock.clone());
            tasks.spawn(async move { shared.carry(index, &open, &clock).await });
        }
        let ends = async {
            tokio::select! {
                () = stop.cancelled() => DRAIN,
                () = changed => CHANGE_DRAIN,
            }
        };
        tokio::pin!(ends);
        let drain = tokio::select! {
            drain = &mut ends => drain,
            // Neither a writer nor a lane ends by itself: one that did has panicked, and its messages stay on disk.
            Some(ended) = tasks.join_next() => {
                error!(?ended, "A worker of the outbox died; restart flipback to send what it left");
                ends.await
            }
        };
        let mut pending = shared.pending.subscribe();
        tokio::select! {
            _ = timeout(drain, pending.wait_for(|pending| *pending == 0)) => {}
            () = hurry.cancelled() => {}
        }
        tasks.shutdown().await;
        let last = async {
            shared.lay().await;
            shared.sync().await;
        };
        let _ = timeout(LAST_WRITE, last).await;
        let left = *shared.pending.borrow();
        if left > 0 {
            info!(left, "Left messages in the outbox for the next start");
        }
    }
}

impl Shared {
    fn new(dir: PathBuf, chats: Vec<ChatSettings>, metrics: Metrics) -> Self {
        for chat in &chats {
            // Present from the start, so that a rate over them has a beginning.
            for result in ["delivered", "retried", "dropped", "grouped"] {
                metrics.notifications.with_label_values(&[chat.name.as_str(), result]);
            }
        }
        Self {
            lanes: chats.into_iter().map(Lane::new).collect(),
            spool: Spool::new(dir.clone()),
            dir,
            unlaid: Notify::new(),
            unsynced: Notify::new(),
            turns: watch::Sender::new(0),
            left_open: Mutex::default(),
            overflow: Mutex::default(),
            given_up: Mutex::default(),
            pending: watch::Sender::new(0),
            metrics,
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.lanes.iter().map(|lane| lane.chat.name.as_str()).collect()
    }

    /// Takes up what an earlier run left.
    async fn restore(&self, clock: &Clock) {
        let chats: Vec<String> = self.lanes.iter().map(|lane| lane.chat.name.clone()).collect();
        let mut left_open: Vec<OpenThread> = Vec::new();
        for lane in &self.lanes {
            let chat = lane.chat.name.clone();
            let left = self.spool.run(move |root| spool::load(root, &chat)).await;
            let (given_up, open) = lane.restore(left.unwrap_or_default(), clock.now());
            left_open.extend(open);
            self.overflowed(lane, given_up, clock.now());
            lane.settle(&self.spool).await;
        }
        let before = clock.now().saturating_sub(FORGOTTEN_AFTER).unwrap_or(Timestamp::MIN).into();
        let strangers = self.spool.run(move |root| {
            let forgotten = spool::forget_strangers(root, &chats, before)?;
            Ok((forgotten, spool::strangers(root, &chats)?))
        });
        let (forgotten, strangers) = strangers.await.unwrap_or_default();
        for chat in forgotten {
            info!(
                chat,
                "Forgot what lay in the outbox for a chat that has not been configured for a month"
            );
        }
        for chat in strangers {
            warn!(chat, "Messages wait for a chat that is not configured; they are kept for a month");
        }
        let left_open = earliest(left_open).into_values().collect();
        *self.left_open.lock().unwrap_or_else(PoisonError::into_inner) = Some(left_open);
        self.recount();
        // Whatever was pushed before the task ran.
        self.unlaid.notify_one();
    }

    /// Puts what is in memory only into files, all chats' together: from here on a kill loses none of it.
    async fn lay(&self) {
        let unlaid: Vec<(&Lane, Letter)> = self
            .lanes
            .iter()
            .flat_map(|lane| lane.letters(Place::Memory).into_iter().map(move |letter| (lane, letter)))
            .collect();
        let mut sound = true;
        for part in unlaid.chunks(LAY_MAX) {
            if sound {
                let letters: Vec<(String, Letter)> = part.iter().map(|(lane, letter)| (lane.chat.name.clone(), letter.clone())).collect();
                sound = self.spool.run_first(move |root| spool::lay(root, &letters)).await.is_some();
            }
            for (lane, letter) in part {
                lane.moved(std::slice::from_ref(letter), if sound { Place::File } else { Place::Refused });
            }
            self.unsynced.notify_one();
        }
        // What was given up waits for the disk, too.
        self.unsynced.notify_one();
        self.turned();
    }

    /// The disk had its turn.
    fn turned(&self) {
        self.turns.send_modify(|turns| *turns = turns.wrapping_add(1));
    }

    /// Syncs what is in files and frees it for delivery, whether the disk took it or not.
    async fn sync(&self) {
        join_all(self.lanes.iter().map(|lane| self.sync_lane(lane))).await;
    }

    async fn sync_lane(&self, lane: &Lane) {
        let unsynced = lane.letters(Place::File);
        let mut sound = true;
        for part in unsynced.chunks(SYNC_MAX) {
            if sound {
                let (chat, letters) = (lane.chat.name.clone(), part.to_vec());
                // A disk that did not take these will not take the rest either, and nothing waits for a disk twice.
                sound = self.spool.run(move |root| spool::keep(root, &chat, &letters)).await.is_some();
            }
            lane.moved(part, if sound { Place::Disk } else { Place::Refused });
            self.turned();
        }
        let overflow: Vec<(String, Letter)> = {
            let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
            let (ours, others) = std::mem::take(&mut *overflow)
                .into_iter()
                .partition(|(chat, _)| *chat == lane.chat.name);
            *overflow = others;
            ours
        };
        let letters: Vec<Letter> = overflow.into_iter().map(|(_, letter)| letter).collect();
        for part in letters.chunks(SYNC_MAX) {
            let (chat, part) = (lane.chat.name.clone(), part.to_vec());
            self.spool.run(move |root| spool::bury(root, &chat, &part, NO_ROOM)).await;
        }
    }

    async fn carry(&self, index: usize, open: &Opener, clock: &Clock) {
        let lane = &self.lanes[index];
        let notifier = open(&lane.chat);
        let tools = Tools {
            notifier: notifier.as_ref(),
            spool: &self.spool,
            metrics: &self.metrics,
            clock,
        };
        loop {
            if let Some(given_up) = lane.step(&tools, || self.recount()).await {
                self.tell(given_up);
            }
        }
    }

    fn overflowed(&self, lane: &Lane, letters: Vec<Letter>, at: Timestamp) {
        for letter in letters {
            let chat = lane.chat.name.clone();
            self.metrics.notifications.with_label_values(&[chat.as_str(), "dropped"]).inc();
            error!(
                chat,
                id = letter.id(),
                topic = letter.announcement.topic.as_str(),
                guard = letter.announcement.guard.as_str(),
                remedy = "see why the chat does not accept messages",
                "Dropped message, since too many wait for its chat"
            );
            lane.gave_up(NO_ROOM);
            self.tell(GivenUp {
                chat: chat.clone(),
                announcement: (*letter.announcement).clone(),
                why: NO_ROOM.to_owned(),
                at,
            });
            let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
            // Beyond the bound its file is not moved away, and sent after a restart after all.
            if overflow.len() < OVERFLOW_MAX {
                overflow.push((chat, letter));
            }
        }
    }

    fn tell(&self, given_up: GivenUp) {
        let mut told = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= GIVEN_UP_MAX {
            told.pop_front();
        }
        told.push_back(given_up);
    }

    fn recount(&self) {
        let waiting: Vec<_> = self.lanes.iter().map(Lane::waiting).collect();
        let pending = waiting.iter().map(|(count, _)| *count as u64).sum();
        let oldest = waiting.iter().filter_map(|(_, oldest)| *oldest).min();
        self.metrics.notifications_pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.metrics.notification_oldest_pending.set(oldest.map_or(0, Timestamp::as_second));
        self.pending.send_replace(pending);
    }
}

/// Each thread once, as the chat tells it that was told first.
fn earliest(all: impl IntoIterator<Item = OpenThread>) -> BTreeMap<String, OpenThread> {
    let mut threads: BTreeMap<String, OpenThread> = BTreeMap::new();
    for open in all {
        let earliest = threads.entry(open.thread.clone()).or_insert_with(|| open.clone());
        if open.since < earliest.since {
            *earliest = open;
        }
    }
    threads
}

#[cfg(test)]
mod tests;
