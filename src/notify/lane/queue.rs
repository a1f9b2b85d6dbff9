//! What one chat still has to be told, and what goes next. Pure: time is an argument, disk and chat are elsewhere.
//!
//! - Messages of one thread go strictly in the order they were pushed; threads do not wait for each other. One message
//!   is under way at a time, the oldest whose thread may go.
//! - A message that fails delays its own thread, a chat in trouble all of it: see [`Pauses`]. A message that failed least
//!   often goes first, so that a few that always fail cannot keep the chat from the others.
//! - Quiet repeats wait here, on disk like the rest; see [`quiet`]. A message that was sent once is sealed: it never
//!   again takes up another, since the chat may have seen its id.
//! - Bounded in count and bytes: beyond that the oldest of the least loud is given up.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    letter::Letter,
    pauses::{Failure, Pace, Pauses},
    threads::{Change, OpenThread, Record, Threads, effect, thread_of},
};
use crate::{
    model::{Announcement, Severity, Stage, Topic},
    notify::quiet,
};

/// Messages a chat may have waiting: a day of a very bad day.
pub(in crate::notify) const LANE_MAX: usize = 1000;
/// Bytes they may have together, on disk and in memory; a message has one or two kilobytes.
const LANE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Ids a lane remembers as accepted, to send none of them again.
const RECENT_MAX: usize = 1000;
/// Ids of merged messages whose files may still exist; beyond them a crash could tell one again.
const REPLACES_MAX: usize = 100;
/// The longest sleep between two looks at the windows of quiet repeats: a clock may be put right meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Two clocks: one that never jumps, since the lane began, and the one on the wall.
#[derive(Clone, Copy, Debug)]
pub(in crate::notify) struct Now {
    pub(in crate::notify) since_start: Duration,
    pub(in crate::notify) wall: Timestamp,
}

/// Where a waiting message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::notify) enum Place {
    /// In memory only: a crash would lose it.
    Memory,
    /// In a file, which may not have reached the disk: a crash of ours loses nothing, one of the machine might.
    File,
    /// On disk: it may be sent.
    Disk,
    /// In memory only, since the disk refuses: it may be sent.
    Refused,
}

struct Waiting {
    letter: Letter,
    place: Place,
    /// A quiet repeat whose time has not come.
    held: bool,
    /// Told only if its thread was opened here, which the disk has to say.
    conditional: bool,
    /// Attempts that failed through no rate limit.
    failures: u32,
    refusals: u32,
    attempts: u32,
    queued: Duration,
}

/// Everything one chat still has to be told.
pub(super) struct Queue {
    quiet: Duration,
    pauses: Pauses,
    waiting: VecDeque<Waiting>,
    threads: Threads,
    restored: bool,
    under_way: Option<String>,
    seq: u64,
    accepted: VecDeque<String>,
}

/// What became of a pushed message.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// It stands for an earlier one too, which is told no more.
    pub(super) merged: bool,
    /// Given up for lack of room.
    pub(super) given_up: Vec<Letter>,
}

/// What taking up an earlier run's files led to.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Messages taken up.
    pub(super) taken: usize,
    /// Ids whose files are no longer needed.
    pub(super) unneeded: Vec<String>,
    /// Threads whose records are no longer needed.
    pub(super) forgotten: Vec<String>,
    /// Given up for lack of room.
    pub(super) given_up: Vec<Letter>,
    /// What the earlier run has begun to tell and not ended.
    pub(super) open: Vec<OpenThread>,
}

/// What the lane does next.
#[derive(Debug)]
pub(super) enum Next {
    Send(Turn),
    /// Nothing before this time since the start.
    Wait(Duration),
    /// Nothing until something is pushed.
    Idle,
}

/// The message whose turn it is.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) letter: Letter,
    /// What continues its thread at the chat.
    pub(super) receipt: Option<String>,
    /// It has to be sealed on disk before it is sent.
    pub(super) seal: bool,
    /// This attempt's number.
    pub(super) attempt: u32,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not before so long.
    Retry(Duration),
    GiveUp,
}

impl Queue {
    pub(super) fn new(pace: Pace, quiet: Duration) -> Self {
        Self {
            quiet,
            pauses: Pauses::new(pace),
            waiting: VecDeque::new(),
            threads: Threads::new(quiet),
            restored: false,
            under_way: None,
            seq: 0,
            accepted: VecDeque::new(),
        }
    }

    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pauses.pace = pace;
    }

    /// Adds a message, once. `conditional`: only if its thread was opened here.
    pub(super) fn push(&mut self, announcement: Arc<Announcement>, conditional: bool, since_start: Duration) -> Pushed {
        let id = &announcement.id;
        if self.waiting.iter().any(|waiting| waiting.letter.id() == id) || self.accepted.contains(id) {
            return Pushed::default();
        }
        if self.restored && (self.threads.has_accepted(&announcement) || conditional && !self.is_open(thread_of(&announcement))) {
            return Pushed::default();
        }
        self.seq += 1;
        let mut letter = Letter {
            seq: self.seq,
            sealed: false,
            replaces: Vec::new(),
            announcement,
        };
        let merged = self.take_equal(&letter);
        let merges = merged.is_some();
        if let Some(earlier) = merged {
            let from = (earlier.replaces.len() + 1).saturating_sub(REPLACES_MAX);
            letter.replaces = earlier
                .replaces
                .iter()
                .cloned()
                .chain([earlier.id().to_owned()])
                .skip(from)
                .collect();
            letter.announcement = Arc::new(quiet::merged(&earlier.announcement, &letter.announcement));
        }
        self.waiting.push_back(Waiting {
            letter,
            place: Place::Memory,
            held: false,
            conditional: conditional && !self.restored,
            failures: 0,
            refusals: 0,
            attempts: 0,
            queued: since_start,
        });
        Pushed {
            merged: merges,
            given_up: self.overflow(),
        }
    }

    /// Takes out the waiting message that `later` repeats, if nothing that may not wait lies between them.
    fn take_equal(&mut self, later: &Letter) -> Option<Letter> {
        if self.quiet == Duration::ZERO || !quiet::groups(later.topic()) {
            return None;
        }
        let thread = self
            .waiting
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, w)| w.letter.thread() == later.thread());
        let (index, _) = thread
            .take_while(|(_, w)| quiet::groups(w.letter.topic()) && !w.letter.sealed && !w.conditional)
            .find(|(_, w)| quiet::equal(&w.letter.announcement, &later.announcement))?;
        self.waiting.remove(index).map(|waiting| waiting.letter)
    }

    /// Gives up the oldest of the least loud until the rest has room.
    fn overflow(&mut self) -> Vec<Letter> {
        let mut bytes: usize = self.waiting.iter().map(|waiting| waiting.letter.bytes()).sum();
        let mut given_up = Vec::new();
        while self.waiting.len() > LANE_MAX || bytes > LANE_BYTES_MAX {
            let under_way = self.under_way.as_deref();
            let candidates = self.waiting.iter().enumerate().filter(|(_, w)| Some(w.letter.id()) != under_way);
            let Some((least, _)) = candidates.min_by_key(|(_, w)| weight(w.letter.topic())) else {
                break;
            };
            let Some(waiting) = self.waiting.remove(least) else { break };
            bytes = bytes.saturating_sub(waiting.letter.bytes());
            given_up.push(waiting.letter);
        }
        if !given_up.is_empty() {
            let left: HashSet<&str> = self.waiting.iter().map(|waiting| waiting.letter.thread()).collect();
            self.pauses.retain(&left);
        }
        given_up
    }

    /// Whether the chat was, or is about to be, told of something wrong in a thread and not yet of its end.
    fn is_open(&self, thread: &str) -> bool {
        let of_thread = self.waiting.iter().rev().filter(|w| w.letter.thread() == thread && !w.conditional);
        of_thread
            .filter_map(|w| effect(w.letter.topic()))
            .next()
            .unwrap_or_else(|| self.threads.is_open(thread))
    }

    /// Takes up what an earlier run left, before everything pushed since.
    pub(super) fn restore(&mut self, mut found: Vec<Letter>, records: Vec<Record>, now: Now) -> Restored {
        let forgotten = self.threads.restore(records, now.wall);
        let pushed = std::mem::take(&mut self.waiting);
        let replaced: HashSet<String> = found.iter().flat_map(|letter| letter.replaces.iter().cloned()).collect();
        let mut unneeded = Vec::new();
        found.retain(|letter| {
            let over = replaced.contains(letter.id()) || self.threads.has_accepted(&letter.announcement);
            if over {
                unneeded.push(letter.id().to_owned());
            }
            !over
        });
        found.sort_by(|a, b| (a.seq, a.announcement.at, a.id()).cmp(&(b.seq, b.announcement.at, b.id())));
        let taken = found.len();
        // Files of before the order was written down all have the number 0: they go by their time.
        self.seq = self.seq.max(found.last().map_or(0, |letter| letter.seq));
        self.waiting.extend(found.into_iter().map(|letter| Waiting {
            letter,
            place: Place::Disk,
            held: false,
            conditional: false,
            failures: 0,
            refusals: 0,
            attempts: 0,
            queued: now.since_start,
        }));
        self.restored = true;
        let open = self.open();
        let mut given_up = self.overflow();
        for early in pushed {
            given_up.extend(self.push(early.letter.announcement, early.conditional, early.queued).given_up);
        }
        Restored {
            taken,
            unneeded,
            forgotten,
            given_up,
            open,
        }
    }

    /// What the chat was, or is about to be, told of and not of its end.
    pub(super) fn open(&self) -> Vec<OpenThread> {
        let mut open: BTreeMap<String, OpenThread> = self.threads.open().map(|open| (open.thread.clone(), open)).collect();
        for waiting in &self.waiting {
            let announcement = &waiting.letter.announcement;
            match effect(announcement.topic) {
                Some(true) => {
                    let opened = OpenThread::by(announcement);
                    open.entry(opened.thread.clone()).or_insert(opened);
                }
                Some(false) => {
                    open.remove(waiting.letter.thread());
                }
                None => {}
            }
        }
        open.into_values().collect()
    }

    /// The waiting messages that are there.
    pub(super) fn at(&self, place: Place) -> Vec<Letter> {
        let there = self.waiting.iter().filter(|waiting| waiting.place == place);
        there.map(|waiting| waiting.letter.clone()).collect()
    }

    /// Notes where messages got to.
    pub(super) fn moved(&mut self, letters: &[Letter], place: Place) {
        let ids: HashSet<&str> = letters.iter().map(Letter::id).collect();
        let moved = self.waiting.iter_mut().filter(|waiting| ids.contains(waiting.letter.id()));
        moved.for_each(|waiting| waiting.place = place);
    }

    /// Where a message is, or the one that stands for it; `None` where it does not wait, or nothing is known yet.
    pub(super) fn place(&self, id: &str) -> Option<Place> {
        let is = |letter: &Letter| letter.id() == id || letter.replaces.iter().any(|replaced| replaced == id);
        let waiting = self.waiting.iter().find(|waiting| is(&waiting.letter));
        waiting.map(|waiting| waiting.place)
    }

    /// How many wait for the chat, and since when; quiet repeats wait for their time instead.
    pub(super) fn waiting(&self) -> (usize, Option<Timestamp>) {
        let waiting = || self.waiting.iter().filter(|waiting| !waiting.held);
        (waiting().count(), waiting().map(|waiting| waiting.letter.announcement.at).min())
    }

    /// What goes now, or when something may.
    pub(super) fn next(&mut self, now: Now) -> Next {
        let fronts = self.fronts(now.wall);
        let mut wake: Option<Duration> = None;
        let mut chosen: Option<(u32, usize)> = None;
        for (index, held_until) in fronts {
            let waiting = &self.waiting[index];
            if !matches!(waiting.place, Place::Disk | Place::Refused) {
                continue;
            }
            let free = match held_until {
                Some(end) => {
                    let left = Duration::try_from(end.duration_since(now.wall)).unwrap_or_default();
                    now.since_start + left.min(LOOK_AGAIN)
                }
                None => self.pauses.end(waiting.letter.thread()),
            };
            if free > now.since_start {
                wake = Some(wake.map_or(free, |wake| wake.min(free)));
            } else {
                let rank = (waiting.failures, index);
                chosen = Some(chosen.map_or(rank, |best| best.min(rank)));
            }
        }
        match (chosen, wake) {
            (Some((_, index)), _) => Next::Send(self.send(index)),
            (None, Some(wake)) => Next::Wait(wake),
            (None, None) => Next::Idle,
        }
    }

    /// The first message of each thread, oldest first, and until when its thread is held: until the first of its
    /// messages is not. Marks what is held.
    fn fronts(&mut self, wall: Timestamp) -> Vec<(usize, Option<Timestamp>)> {
        let mut fronts: Vec<(usize, Option<Timestamp>)> = Vec::new();
        let mut of_thread: HashMap<&str, usize> = HashMap::new();
        for (index, waiting) in self.waiting.iter().enumerate() {
            let (thread, topic) = (waiting.letter.thread(), waiting.letter.topic());
            // A sealed one has left already, as far as anybody knows.
            let told = self.threads.told(thread, topic).filter(|_| !waiting.letter.sealed);
            let held = quiet::held_until(self.quiet, topic, told, wall);
            match of_thread.entry(thread) {
                Entry::Vacant(entry) => {
                    entry.insert(fronts.len());
                    fronts.push((index, held));
                }
                // `None`, not held, is less than any time.
                Entry::Occupied(entry) => fronts[*entry.get()].1 = fronts[*entry.get()].1.min(held),
            }
        }
        let held: HashSet<&str> = of_thread
            .into_iter()
            .filter_map(|(thread, front)| fronts[front].1.map(|_| thread))
            .collect();
        let marks: Vec<bool> = self.waiting.iter().map(|waiting| held.contains(waiting.letter.thread())).collect();
        for (waiting, held) in self.waiting.iter_mut().zip(marks) {
            waiting.held = held;
        }
        fronts
    }

    fn send(&mut self, index: usize) -> Turn {
        let may_merge = self.quiet > Duration::ZERO;
        let waiting = &mut self.waiting[index];
        waiting.attempts += 1;
        let seal = may_merge && quiet::groups(waiting.letter.topic()) && !waiting.letter.sealed;
        waiting.letter.sealed |= seal;
        let turn = Turn {
            letter: waiting.letter.clone(),
            receipt: self.threads.receipt(&waiting.letter.announcement).map(str::to_owned),
            seal,
            attempt: waiting.attempts,
        };
        self.under_way = Some(turn.letter.id().to_owned());
        turn
    }

    /// Notes that the chat accepted a message, which stays until [`Self::remove`]: its file is still there.
    pub(super) fn accepted(&mut self, letter: &Letter, receipt: Option<String>, wall: Timestamp) -> Change {
        self.pauses.accepted();
        if self.accepted.len() >= RECENT_MAX {
            self.accepted.pop_front();
        }
        self.accepted.push_back(letter.id().to_owned());
        self.threads.accepted(&letter.announcement, &letter.replaces, receipt, wall)
    }

    /// Notes that an attempt failed. What is given up stays until [`Self::remove`].
    pub(super) fn failed(&mut self, letter: &Letter, failure: Failure, now: Now) -> Verdict {
        self.under_way = None;
        let wait = self.pauses.failed(letter.thread(), failure, now.since_start);
        let pace = self.pauses.pace;
        let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.letter.id() == letter.id()) else {
            return Verdict::GiveUp;
        };
        waiting.failures += u32::from(!failure.limited);
        waiting.refusals += u32::from(failure.permanent);
        let old = now.since_start.saturating_sub(waiting.queued) >= pace.age_max;
        if old || waiting.refusals >= pace.refusals_max {
            Verdict::GiveUp
        } else {
            Verdict::Retry(wait)
        }
    }

    /// Takes a message out for good.
    pub(super) fn remove(&mut self, letter: &Letter) {
        self.under_way = None;
        self.waiting.retain(|waiting| waiting.letter.id() != letter.id());
        self.pauses.forget(letter.thread());
    }
}

/// How little a message may be given up for lack of room: what ends something must arrive, or it stays open for ever.
fn weight(topic: Topic) -> Severity {
    if topic.stage() == Stage::Resolves {
        Severity::Critical
    } else {
        topic.severity()
    }
}

#[cfg(test)]
mod tests;
