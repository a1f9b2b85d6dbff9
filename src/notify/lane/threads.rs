//! What one chat's lane remembers of each thread: the receipt its messages continue by, what opened it while it is open,
//! what was told when, and the messages that were accepted. Pure; each record is a small file of its own.
//!
//! The accepted ids are why a message is delivered once. They close the gap between "accepted" and "its file is gone", and
//! who begins anew after a crash may push what was pushed before: what a chat has accepted, in whichever run, it is not
//! told again. They are bounded: the newest [`IDS_MAX`] of a thread, for [`CLOSED_KEPT`] after the thread was closed. A condition
//! that comes and goes for ever under one name has new ids each time, so that of its earlier times [`IDS_BEFORE`] are enough for the gap.
//!
//! What is open is why the next run can tell the end of what an earlier one has begun: see [`OpenThread`].

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Announcement, GuardId, Severity, Stage, Topic},
    notify::quiet,
};

/// Threads a chat's lane remembers; beyond them the closed and long unused are forgotten first.
pub(in crate::notify) const THREADS_MAX: usize = 1000;
/// Bytes of a receipt; a message's address is some tens.
pub(in crate::notify) const RECEIPT_BYTES_MAX: usize = 1024;
/// A thread that is closed and was silent for so long has nothing to continue, and nobody pushes its messages again.
const CLOSED_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Ids of accepted messages that a thread remembers, the newest: a night of something that is told every five minutes.
const IDS_MAX: usize = 200;
/// And those of earlier times of a condition that came back: the last message, and a few before it.
const IDS_BEFORE: usize = 8;

/// Something that people were told of, and not yet of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenThread {
    /// Its name.
    pub thread: String,
    /// Whose it is.
    pub guard: GuardId,
    /// What opened it.
    pub topic: Topic,
    /// When that happened.
    pub since: Timestamp,
    /// The incident it is about, where it is about one.
    pub incident: Option<String>,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::notify) struct Record {
    /// Its name.
    pub(in crate::notify) thread: String,
    /// What the chat gave back, opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
    /// It was told of something wrong, and not yet of its end.
    #[serde(default)]
    open: bool,
    /// What opened it, while it is open; records of before this was written down have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opened: Option<Opened>,
    /// When a message of it was last accepted.
    used: Timestamp,
    /// The id of that message.
    #[serde(default)]
    last: String,
    /// The ids of those before it, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
    /// When each topic was last told, while that matters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    told: BTreeMap<Topic, Timestamp>,
}

/// What opened a thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    guard: GuardId,
    topic: Topic,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    incident: Option<String>,
}

impl Opened {
    fn by(announcement: &Announcement) -> Self {
        Self {
            guard: announcement.guard.clone(),
            topic: announcement.topic,
            at: announcement.at,
            incident: announcement.incident.clone(),
        }
    }
}

impl OpenThread {
    fn new(thread: &str, opened: Opened) -> Self {
        Self {
            thread: thread.to_owned(),
            guard: opened.guard,
            topic: opened.topic,
            since: opened.at,
            incident: opened.incident,
        }
    }

    /// The one that a message opens.
    pub(super) fn by(announcement: &Announcement) -> Self {
        Self::new(thread_of(announcement), Opened::by(announcement))
    }
}

/// Every thread of one chat.
pub(super) struct Threads {
    quiet: Duration,
    records: HashMap<String, Record>,
}

/// What has to change on disk.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) write: Option<Record>,
    pub(super) forget: Vec<String>,
}

/// The thread an announcement belongs to; those of before threads continue their incident, else their guard.
pub(super) fn thread_of(announcement: &Announcement) -> &str {
    if announcement.thread.is_empty() {
        announcement.incident.as_deref().unwrap_or(announcement.guard.as_str())
    } else {
        &announcement.thread
    }
}

/// What a message does to its thread: `Some(true)` opens it, `Some(false)` closes it.
pub(super) fn effect(topic: Topic) -> Option<bool> {
    match topic.stage() {
        Stage::Opens => Some(true),
        Stage::Continues => (topic.severity() >= Severity::Warning).then_some(true),
        Stage::Resolves => Some(false),
        Stage::Once => None,
    }
}

impl Threads {
    pub(super) fn new(quiet: Duration) -> Self {
        Self {
            quiet,
            records: HashMap::new(),
        }
    }

    /// Takes up what an earlier run left; returns the threads that are to be forgotten.
    pub(super) fn restore(&mut self, found: Vec<Record>, now: Timestamp) -> Vec<String> {
        self.records.extend(found.into_iter().map(|record| (record.thread.clone(), record)));
        self.forget(now)
    }

    /// What continues the message's thread. A condition that came back begins anew; an incident stays one thread.
    pub(super) fn receipt(&self, announcement: &Announcement) -> Option<&str> {
        let record = self.records.get(thread_of(announcement))?;
        record.receipt.as_deref().filter(|_| !begins_anew(announcement, record))
    }

    pub(super) fn is_open(&self, thread: &str) -> bool {
        self.records.get(thread).is_some_and(|record| record.open)
    }

    pub(super) fn told(&self, thread: &str, topic: Topic) -> Option<Timestamp> {
        self.records.get(thread)?.told.get(&topic).copied()
    }

    /// The open threads, as far as it is known what opened them.
    pub(super) fn open(&self) -> impl Iterator<Item = OpenThread> + '_ {
        let open = self.records.values().filter(|record| record.open);
        open.filter_map(|record| Some(OpenThread::new(&record.thread, record.opened.clone()?)))
    }

    /// Whether the chat has accepted the message, in this run or an earlier one.
    pub(super) fn has_accepted(&self, announcement: &Announcement) -> bool {
        self.records
            .get(thread_of(announcement))
            .is_some_and(|record| record.last == announcement.id || record.earlier.contains(&announcement.id))
    }

    /// Notes that a message was accepted, and with it those it stands for.
    pub(super) fn accepted(
        &mut self,
        announcement: &Announcement,
        stands_for: &[String],
        receipt: Option<String>,
        now: Timestamp,
    ) -> Change {
        let thread = thread_of(announcement).to_owned();
        let known = self.records.remove(&thread);
        let mut record = known.unwrap_or_else(|| Record {
            thread: thread.clone(),
            receipt: None,
            open: false,
            opened: None,
            used: now,
            last: String::new(),
            earlier: Vec::new(),
            told: BTreeMap::new(),
        });
        if begins_anew(announcement, &record) {
            record.receipt = None;
        }
        if let Some(receipt) = receipt.filter(|receipt| receipt.len() <= RECEIPT_BYTES_MAX) {
            record.receipt = Some(receipt);
        }
        let was_open = record.open;
        record.open = effect(announcement.topic).unwrap_or(was_open);
        if announcement.incident.is_none() && !(was_open && record.open) {
            record.forget_before();
        }
        record.opened = match (was_open, record.open) {
            (_, false) => None,
            (false, true) => Some(Opened::by(announcement)),
            (true, true) => record.opened,
        };
        record.used = now;
        record.remember(&announcement.id, stands_for);
        if self.quiet > Duration::ZERO && quiet::groups(announcement.topic) {
            record.told.insert(announcement.topic, now);
        }
        let window = self.quiet;
        record
            .told
            .retain(|topic, told| quiet::held_until(window, *topic, Some(*told), now).is_some());
        let write = Some(record.clone());
        self.records.insert(thread, record);
        let forget = self.forget(now);
        Change { write, forget }
    }

    /// Drops what nothing continues any more, and beyond [`THREADS_MAX`] the closed first, then the longest unused.
    fn forget(&mut self, now: Timestamp) -> Vec<String> {
        let window = self.quiet.max(CLOSED_KEPT).as_secs_f64();
        let over = |record: &Record| !record.open && now.duration_since(record.used).as_secs_f64() > window;
        let mut forgotten: Vec<String> = self
            .records
            .values()
            .filter(|record| over(record))
            .map(|r| r.thread.clone())
            .collect();
        let left = self.records.len() - forgotten.len();
        if left > THREADS_MAX {
            let mut rest: Vec<&Record> = self.records.values().filter(|record| !over(record)).collect();
            rest.sort_by(|a, b| (a.open, a.used, &a.thread).cmp(&(b.open, b.used, &b.thread)));
            forgotten.extend(rest.iter().take(left - THREADS_MAX).map(|record| record.thread.clone()));
        }
        for thread in &forgotten {
            self.records.remove(thread);
        }
        forgotten
    }
}

impl Record {
    /// Forgets all but the newest ids: what they name is over, and nobody pushes it again.
    fn forget_before(&mut self) {
        let surplus = self.earlier.len().saturating_sub(IDS_BEFORE);
        self.earlier.drain(..surplus);
        self.earlier.shrink_to_fit();
    }

    /// Remembers the newest ids within the bound.
    fn remember(&mut self, id: &str, stands_for: &[String]) {
        let before = std::mem::replace(&mut self.last, id.to_owned());
        self.earlier.extend(Some(before).filter(|before| !before.is_empty()));
        self.earlier.extend(stands_for.iter().cloned());
        let surplus = (self.earlier.len() + 1).saturating_sub(IDS_MAX);
        self.earlier.drain(..surplus);
    }
}

fn begins_anew(announcement: &Announcement, record: &Record) -> bool {
    announcement.incident.is_none() && announcement.topic.stage() == Stage::Opens && !record.open
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn of(topic: Topic, thread: &str) -> Announcement {
        Announcement {
            id: format!("{thread}-{}", topic.as_str()),
            thread: thread.into(),
            ..Announcement::example(topic)
        }
    }

    fn threads() -> Threads {
        Threads::new(Duration::from_secs(60))
    }

    #[test]
    fn an_incident_keeps_its_receipt_from_the_opening_to_what_follows_its_end() {
        let mut threads = threads();
        threads.accepted(&of(Topic::RollbackInitiated, "i"), &[], Some("ts-1".into()), at(1));
        assert_eq!(threads.receipt(&of(Topic::RollbackCompleted, "i")), Some("ts-1"));
        threads.accepted(&of(Topic::RollbackCompleted, "i"), &[], None, at(2));
        threads.accepted(&of(Topic::Recovered, "i"), &[], None, at(3));
        assert!(!threads.is_open("i"));
        assert_eq!(threads.receipt(&of(Topic::EvidenceReady, "i")), Some("ts-1"));
        assert_eq!(threads.receipt(&of(Topic::EvidenceReady, "j")), None);
    }

    #[test]
    fn a_condition_that_comes_back_begins_a_thread_of_its_own() {
        let mut threads = threads();
        threads.accepted(&of(Topic::Blind, "b"), &[], Some("ts-1".into()), at(1));
        assert_eq!(threads.receipt(&of(Topic::Blind, "b")), Some("ts-1"), "still blind");
        threads.accepted(&of(Topic::Sighted, "b"), &[], None, at(2));
        assert_eq!(threads.receipt(&of(Topic::Blind, "b")), None, "blind again");
        let change = threads.accepted(&of(Topic::Blind, "b"), &[], None, at(3));
        assert_eq!(change.write.expect("kept").receipt, None);
    }

    #[test]
    fn an_oversized_receipt_is_no_receipt() {
        let mut threads = threads();
        threads.accepted(&of(Topic::Blind, "b"), &[], Some("x".repeat(RECEIPT_BYTES_MAX + 1)), at(1));
        assert_eq!(threads.receipt(&of(Topic::Sighted, "b")), None);
    }

    #[test]
    fn when_a_message_by_itself_was_told_is_remembered_only_while_it_is_quiet() {
        let mut loud = Threads::new(Duration::ZERO);
        loud.accepted(&of(Topic::Alert, "a"), &[], None, at(1));
        assert_eq!(loud.told("a", Topic::Alert), None);
        let mut threads = threads();
        threads.accepted(&of(Topic::Alert, "a"), &[], None, at(1));
        assert_eq!(threads.told("a", Topic::Alert), Some(at(1)));
    }

    fn numbered(n: usize) -> Announcement {
        Announcement {
            id: format!("i.{n}"),
            ..of(Topic::RollbackBlocked, "i")
        }
    }

    #[test]
    fn what_was_accepted_is_known_by_the_next_run_and_so_is_what_it_stood_for() {
        let mut threads = threads();
        threads.accepted(&numbered(0), &[], None, at(0));
        let stands_for = [numbered(1).id, numbered(2).id];
        let record = threads.accepted(&numbered(3), &stands_for, None, at(3)).write.expect("kept");
        let mut next = Threads::new(Duration::ZERO);
        next.restore(vec![record], at(4));
        let known: Vec<bool> = (0..5).map(|n| next.has_accepted(&numbered(n))).collect();
        assert_eq!(known, [true, true, true, true, false]);
    }

    #[test]
    fn the_ids_of_a_thread_are_bounded_and_the_newest_stay() {
        let mut threads = threads();
        for n in 0..=IDS_MAX {
            threads.accepted(&numbered(n), &[], None, at(n as i64));
        }
        assert!(!threads.has_accepted(&numbered(0)) && threads.has_accepted(&numbered(1)) && threads.has_accepted(&numbered(IDS_MAX)));
        let long = Announcement {
            id: format!("i.{}", "n".repeat(200)),
            ..numbered(0)
        };
        let longest: Vec<String> = vec![long.id.clone(); IDS_MAX];
        let record = threads.accepted(&long, &longest, None, at(0)).write.expect("kept");
        let bytes = serde_json::to_vec(&record).expect("serializes").len();
        assert!(bytes < 64 * 1024, "{bytes} bytes");
    }

    #[test]
    fn a_condition_that_comes_and_goes_for_ever_is_remembered_by_its_newest_ids() {
        let mut threads = threads();
        let told = |topic: Topic, n: usize| Announcement {
            id: format!("b-{}-{n}", topic.as_str()),
            incident: None,
            ..of(topic, "b")
        };
        for n in 0..100 {
            threads.accepted(&told(Topic::Blind, n), &[], None, at(n as i64));
            threads.accepted(&told(Topic::Sighted, n), &[], None, at(n as i64));
        }
        let record = &threads.records["b"];
        assert!(record.earlier.len() <= IDS_BEFORE + 1, "{record:?}");
        // Nothing that a crash could bring again is forgotten: the newest time, and those it stands for.
        assert!(
            [97, 98, 99]
                .iter()
                .all(|&n| threads.has_accepted(&told(Topic::Blind, n)) && threads.has_accepted(&told(Topic::Sighted, n)))
        );
        let stands_for: Vec<String> = (0..50).map(|n| told(Topic::Blind, 1000 + n).id).collect();
        threads.accepted(&told(Topic::Blind, 100), &stands_for, None, at(100));
        assert!((1000..1050).all(|n| threads.has_accepted(&told(Topic::Blind, n))));
        // What repeats while it lasts is one time.
        for n in 0..100 {
            threads.accepted(&told(Topic::Blind, 200 + n), &[], None, at(200));
        }
        assert!((200..300).all(|n| threads.has_accepted(&told(Topic::Blind, n))));
    }

    #[test]
    fn what_is_open_says_what_opened_it() {
        let mut threads = threads();
        for topic in [Topic::Blind, Topic::Unreadable, Topic::UnknownColor] {
            let thread = if topic == Topic::Blind { "blind" } else { "unreadable" };
            threads.accepted(&of(topic, thread), &[], None, at(1));
        }
        threads.accepted(&of(Topic::Switched, "once"), &[], None, at(1));
        let mut open: Vec<(String, Topic)> = threads.open().map(|open| (open.thread, open.topic)).collect();
        open.sort();
        assert_eq!(open, [("blind".into(), Topic::Blind), ("unreadable".into(), Topic::Unreadable)]);
        threads.accepted(&of(Topic::Sighted, "blind"), &[], None, at(2));
        assert_eq!(threads.open().count(), 1);
    }

    #[test]
    fn what_is_open_is_forgotten_last() {
        let mut threads = threads();
        threads.accepted(&of(Topic::RollbackInitiated, "open"), &[], None, at(0));
        for n in 0..THREADS_MAX as i64 {
            let name = format!("closed-{n:04}");
            threads.accepted(&of(Topic::RollbackInitiated, &name), &[], None, at(n));
            let change = threads.accepted(&of(Topic::Recovered, &name), &[], None, at(n));
            let expected: &[String] = if n + 1 < THREADS_MAX as i64 { &[] } else { &["closed-0000".into()] };
            assert!(change.forget == expected || n + 1 == THREADS_MAX as i64, "{n}: {change:?}");
        }
        assert!(threads.is_open("open"));
        assert_eq!(threads.records.len(), THREADS_MAX);
    }

    #[test]
    fn a_closed_thread_is_forgotten_after_a_week_and_an_open_one_is_not() {
        let mut threads = threads();
        threads.accepted(&of(Topic::RollbackInitiated, "open"), &[], None, at(0));
        threads.accepted(&of(Topic::Blind, "closed"), &[], None, at(0));
        threads.accepted(&of(Topic::Sighted, "closed"), &[], None, at(0));
        let change = threads.accepted(&of(Topic::Blind, "new"), &[], None, at(7 * 24 * 3600 + 1));
        assert_eq!(change.forget, ["closed"]);
        assert!(threads.is_open("open"));
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let mut threads = threads();
        let record = threads
            .accepted(&of(Topic::Blind, "b"), &[], Some("ts-1".into()), at(1))
            .write
            .expect("kept");
        let text = serde_json::to_string(&record).expect("serializes");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("reads"), record);
        assert_eq!(
            text,
            r#"{"thread":"b","receipt":"ts-1","open":true,"opened":{"guard":"shop/web","topic":"blind","at":"2026-11-21T04:12:34.567Z"},"used":"1970-01-01T00:00:01Z","last":"b-blind","told":{"blind":"1970-01-01T00:00:01Z"}}"#
        );
        let of_before = r#"{"thread":"b","open":true,"used":"1970-01-01T00:00:01Z","last":"b-blind"}"#;
        let record: Record = serde_json::from_str(of_before).expect("is read for ever");
        let mut next = Threads::new(Duration::ZERO);
        next.restore(vec![record], at(2));
        assert!(next.is_open("b") && next.has_accepted(&of(Topic::Blind, "b")));
    }
}
