//! What one chat's lane remembers of each thread: the receipt its messages continue by, whether something is open there,
//! what was told when, and the last message that was accepted. Pure; each record is a small file of its own.
//!
//! The last accepted id closes the gap between "accepted" and "its file is gone": a message that a crash left on disk
//! after its record was written is not sent again.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Announcement, Severity, Stage, Topic},
    notify::quiet,
};

/// Threads a chat's lane remembers; beyond them the closed and long unused are forgotten first.
pub(in crate::notify) const THREADS_MAX: usize = 1000;
/// Bytes of a receipt; a message's address is some tens.
pub(in crate::notify) const RECEIPT_BYTES_MAX: usize = 1024;
/// A thread that is closed and was silent for so long has nothing to continue.
const CLOSED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// When a message of it was last accepted.
    used: Timestamp,
    /// The id of that message.
    #[serde(default)]
    last: String,
    /// When each topic was last told, while that matters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    told: BTreeMap<Topic, Timestamp>,
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

    /// Whether the message is the last that its thread's chat has accepted.
    pub(super) fn has_accepted(&self, announcement: &Announcement) -> bool {
        self.records
            .get(thread_of(announcement))
            .is_some_and(|record| record.last == announcement.id)
    }

    /// Notes that a message was accepted.
    pub(super) fn accepted(&mut self, announcement: &Announcement, receipt: Option<String>, now: Timestamp) -> Change {
        let thread = thread_of(announcement).to_owned();
        let known = self.records.remove(&thread);
        let was_known = known.is_some();
        let mut record = known.unwrap_or_else(|| Record {
            thread: thread.clone(),
            receipt: None,
            open: false,
            used: now,
            last: String::new(),
            told: BTreeMap::new(),
        });
        if begins_anew(announcement, &record) {
            record.receipt = None;
        }
        if let Some(receipt) = receipt.filter(|receipt| receipt.len() <= RECEIPT_BYTES_MAX) {
            record.receipt = Some(receipt);
        }
        record.open = effect(announcement.topic).unwrap_or(record.open);
        record.used = now;
        record.last.clone_from(&announcement.id);
        if self.quiet > Duration::ZERO && quiet::groups(announcement.topic) {
            record.told.insert(announcement.topic, now);
        }
        let window = self.quiet;
        record
            .told
            .retain(|topic, told| quiet::held_until(window, *topic, Some(*told), now).is_some());
        // A message by itself leaves nothing to remember.
        let kept = announcement.topic.stage() != Stage::Once || record.receipt.is_some() || record.open || !record.told.is_empty();
        let write = kept.then(|| record.clone());
        if kept {
            self.records.insert(thread.clone(), record);
        }
        let mut forget = self.forget(now);
        if was_known && !kept {
            forget.push(thread);
        }
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
        threads.accepted(&of(Topic::RollbackInitiated, "i"), Some("ts-1".into()), at(1));
        assert_eq!(threads.receipt(&of(Topic::RollbackCompleted, "i")), Some("ts-1"));
        threads.accepted(&of(Topic::RollbackCompleted, "i"), None, at(2));
        threads.accepted(&of(Topic::Recovered, "i"), None, at(3));
        assert!(!threads.is_open("i"));
        assert_eq!(threads.receipt(&of(Topic::EvidenceReady, "i")), Some("ts-1"));
        assert_eq!(threads.receipt(&of(Topic::EvidenceReady, "j")), None);
    }

    #[test]
    fn a_condition_that_comes_back_begins_a_thread_of_its_own() {
        let mut threads = threads();
        threads.accepted(&of(Topic::Blind, "b"), Some("ts-1".into()), at(1));
        assert_eq!(threads.receipt(&of(Topic::Blind, "b")), Some("ts-1"), "still blind");
        threads.accepted(&of(Topic::Sighted, "b"), None, at(2));
        assert_eq!(threads.receipt(&of(Topic::Blind, "b")), None, "blind again");
        let change = threads.accepted(&of(Topic::Blind, "b"), None, at(3));
        assert_eq!(change.write.expect("kept").receipt, None);
    }

    #[test]
    fn an_oversized_receipt_is_no_receipt() {
        let mut threads = threads();
        threads.accepted(&of(Topic::Blind, "b"), Some("x".repeat(RECEIPT_BYTES_MAX + 1)), at(1));
        assert_eq!(threads.receipt(&of(Topic::Sighted, "b")), None);
    }

    #[test]
    fn a_message_by_itself_is_remembered_only_while_it_is_quiet() {
        let mut loud = Threads::new(Duration::ZERO);
        assert_eq!(loud.accepted(&of(Topic::Alert, "a"), None, at(1)), Change::default());
        let mut threads = threads();
        assert!(threads.accepted(&of(Topic::Alert, "a"), None, at(1)).write.is_some());
        assert_eq!(threads.told("a", Topic::Alert), Some(at(1)));
    }

    #[test]
    fn what_is_open_is_forgotten_last() {
        let mut threads = threads();
        threads.accepted(&of(Topic::RollbackInitiated, "open"), None, at(0));
        for n in 0..THREADS_MAX as i64 {
            let name = format!("closed-{n:04}");
            threads.accepted(&of(Topic::RollbackInitiated, &name), None, at(n));
            let change = threads.accepted(&of(Topic::Recovered, &name), None, at(n));
            let expected: &[String] = if n + 1 < THREADS_MAX as i64 { &[] } else { &["closed-0000".into()] };
            assert!(change.forget == expected || n + 1 == THREADS_MAX as i64, "{n}: {change:?}");
        }
        assert!(threads.is_open("open"));
        assert_eq!(threads.records.len(), THREADS_MAX);
    }

    #[test]
    fn a_closed_thread_is_forgotten_after_a_day_and_an_open_one_is_not() {
        let mut threads = threads();
        threads.accepted(&of(Topic::RollbackInitiated, "open"), None, at(0));
        threads.accepted(&of(Topic::Blind, "closed"), None, at(0));
        threads.accepted(&of(Topic::Sighted, "closed"), None, at(0));
        let change = threads.accepted(&of(Topic::Blind, "new"), None, at(24 * 3600 + 1));
        assert_eq!(change.forget, ["closed"]);
        assert!(threads.is_open("open"));
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let mut threads = threads();
        let record = threads
            .accepted(&of(Topic::Blind, "b"), Some("ts-1".into()), at(1))
            .write
            .expect("kept");
        let text = serde_json::to_string(&record).expect("serializes");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("reads"), record);
        assert_eq!(
            text,
            r#"{"thread":"b","receipt":"ts-1","open":true,"used":"1970-01-01T00:00:01Z","last":"b-blind","told":{"blind":"1970-01-01T00:00:01Z"}}"#
        );
    }
}
