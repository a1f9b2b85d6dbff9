//! What an earlier run has begun to tell and not ended is told to its end.
//!
//! Its memory is the outbox's own, and no second file that could disagree with it: a message is on disk before it is sent,
//! and the record of its thread says that it is open until the end was accepted (`notify/lane/threads.rs`). So after kill -9
//! exactly that is known which people were told, by as many chats as were. What was pushed and caught before its file is
//! neither told nor open: as if it had not happened yet.
//!
//! - Blind: usable data has come for every rule since the start. A guard that is blind by then, too, ends it by itself.
//! - Unreadable, or an unknown color: the route is read, and selects a known one.
//! - Disarmed: it is told once for the same flips, whatever restarts lie between, and ends when the guard is armed again.
//! - An incident that is known from its bundle is closed by calm or recovery as ever. One that is not (its evidence was lost,
//!   or a person's switch opened it by losing its evidence) is closed here, once the guard is calm.
//!
//! Threads of guards that are no longer configured stay open: nobody looks at what they were about.

use jiff::Timestamp;

use super::{Guarded, Monitor, show, tell};
use crate::{
    model::{Decision, GuardId, Moment, Observation, Phase, TimelineEntry, Topic, Traffic, View},
    notify::OpenThread,
};

/// What becomes of an open thread at this look.
#[derive(Debug, PartialEq)]
enum Fate {
    /// It is over: these are the words, under this topic.
    Ends(Topic, String),
    /// It goes on, and this run tells its end as it would its own.
    Taken,
    /// Not known yet.
    Waits,
}

impl Monitor {
    /// Learns, once the outbox has read its files, what an earlier run has left open.
    pub(super) fn take_up_threads(&mut self) {
        for open in self.outbox.take_left_open().unwrap_or_default() {
            tracing::info!(thread = open.thread, topic = open.topic.as_str(), since = %open.since, "An earlier run has left this open");
            if let Some(guard) = self.guards.get_mut(&open.guard) {
                guard.left_open.push(open);
            }
        }
    }

    /// Tells the end of what is over.
    pub(super) fn end_left(&mut self, id: &GuardId, decision: &Decision, seen: &Observation) {
        let Some(guard) = self.guards.get(id).filter(|guard| !guard.left_open.is_empty()) else {
            return;
        };
        let long_enough = show::since(seen.at, self.started_at) >= guard.patience();
        let calm = guard.is_calm(decision) && long_enough && !self.arriving(id);
        let left = self
            .guards
            .get_mut(id)
            .map(|guard| std::mem::take(&mut guard.left_open))
            .unwrap_or_default();
        for open in left {
            let Some(guard) = self.guards.get_mut(id) else { return };
            match guard.fate(&open, decision, &seen.view, calm, seen.at) {
                Fate::Taken => {}
                Fate::Waits => guard.left_open.push(open),
                Fate::Ends(topic, why) => self.end(id, &open, topic, &why, seen),
            }
        }
    }

    fn end(&mut self, id: &GuardId, open: &OpenThread, topic: Topic, why: &str, seen: &Observation) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let traffic = match &seen.view {
            View::Known(traffic) => Some(&**traffic),
            View::UnknownColor { .. } | View::Unreadable(_) => None,
        };
        let line = show::sentence(why);
        guard.note(seen.at, line.clone());
        tracing::info!(guard = %id, thread = open.thread, "{line}");
        let mut message = tell::note(&guard.spec, traffic, seen.at, topic, why.to_owned());
        // One end per beginning, whichever run tells it.
        message.id = format!("{}.{}.{}", open.thread, topic.as_str(), open.since.as_millisecond());
        message.thread.clone_from(&open.thread);
        message.incident.clone_from(&open.incident);
        let kept = open.incident.clone().filter(|incident| self.keeper.folder(incident).is_dir());
        if let Some(incident) = kept {
            message.evidence = Some(self.keeper.place(&incident));
            message.link = self.keeper.link(&incident);
            self.amend(incident, TimelineEntry::of(Moment::Resolved, seen.at, line));
        }
        self.outbox.push(message);
    }
}

impl Guarded {
    /// What becomes of an open thread, as far as this look tells.
    fn fate(&self, open: &OpenThread, decision: &Decision, view: &View, calm: bool, now: Timestamp) -> Fate {
        let after = tell::people(show::since(now, open.since));
        match (open.topic, view) {
            (Topic::Blind, _) if decision.phase == Phase::Blind => Fate::Taken,
            (Topic::Blind, View::Known(_)) if self.engine.sees() => Fate::Ends(
                Topic::Sighted,
                format!("usable data again after {after}, a restart of flipback between"),
            ),
            (Topic::Blind, _) => Fate::Waits,
            (Topic::Unreadable | Topic::UnknownColor, View::Known(_)) => Fate::Ends(
                Topic::Readable,
                format!("the route can be read again after {after}, a restart of flipback between, and selects a known color"),
            ),
            (Topic::Unreadable | Topic::UnknownColor, _) => Fate::Taken,
            (Topic::Disarmed, View::Known(_)) if self.engine.is_disarmed() => Fate::Taken,
            (Topic::Disarmed, View::Known(_)) => Fate::Ends(Topic::Rearmed, tell::REARMED.to_owned()),
            (Topic::Disarmed, _) => Fate::Waits,
            _ if self.open.as_ref().is_some_and(|incident| incident.thread() == open.thread) => Fate::Taken,
            (_, View::Known(traffic)) if calm => Fate::Ends(Topic::Resolved, over(&after, traffic, decision)),
            _ => Fate::Waits,
        }
    }

    /// Whether a thread that tells this was left open by an earlier run.
    pub(super) fn left_open(&self, topic: Topic) -> bool {
        self.left_open.iter().any(|open| open.topic == topic)
    }
}

fn over(after: &str, traffic: &Traffic, decision: &Decision) -> String {
    format!(
        "over after {after}, a restart of flipback between: {} is active. {}",
        traffic.active,
        show::sentence(&decision.why)
    )
}
