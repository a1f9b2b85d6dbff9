//! What an earlier run has begun to tell and not ended is told to its end.
//!
//! Its memory is the outbox's own, and no second file that could disagree with it: a message is on disk before it is sent,
//! and the record of its thread says that it is open until the end was accepted (`notify/lane/threads.rs`). So after kill -9
//! exactly that is known which people were told, by as many chats as were. What was pushed and caught before its file is
//! neither told nor open: as if it had not happened yet.
//!
//! - Blind: usable data has come for every rule since the start. A guard that is blind by then, too, ends it by itself.
//! - Unreadable, or an unknown color: the route is read, and selects a known one.
//! - Blind, and it made room for a replica that sees, which leads by now: over at once.
//! - Disarmed: it is told once for the same flips, whatever restarts lie between, and ends when the guard is armed again.
//! - An incident that is known from its bundle is closed by calm or recovery as ever. One that is not (its evidence was lost,
//!   or a person's switch opened it by losing its evidence) is closed here, once the guard is calm.
//!
//! - Many guards failing at once: `hold.rs` goes on with it, and ends it.
//!
//! - A guard that is no longer configured: whatever is open of it is closed at once, and says so. Nobody looks any more at what it was
//!   about, and a page that nobody can resolve rings for ever.

use jiff::Timestamp;

use super::{Guarded, Monitor, show, tell};
use crate::{
    model::{Announcement, Decision, GuardId, GuardSpec, Mode, Moment, Observation, TimelineEntry, Topic, Traffic, View},
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
            match self.guards.get_mut(&open.guard) {
                Some(guard) => guard.left_open.push(open),
                None => drop(self.outbox.push(abandoned(&open, None, self.clock.now()))),
            }
        }
    }

    /// Closes every thread that is open about a guard which is configured no more.
    pub(super) fn abandon_threads(&mut self, spec: &GuardSpec, now: Timestamp) {
        for open in self.outbox.open_of(&spec.id) {
            // Of what concerns all guards the others still tell.
            if !open.topic.is_of_all() {
                tracing::info!(guard = %spec.id, thread = open.thread, "Closing a thread of a guard that is no longer configured");
                drop(self.outbox.push(abandoned(&open, Some(spec), now)));
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

    /// A replica that made room because it is blind ends what it told of that once one that sees leads: nobody else knows of that thread, and
    /// the guard is watched again.
    pub(super) fn end_blindness(&mut self, id: &GuardId, seen: &Observation) {
        let Some(leader) = self.leader(id) else { return };
        let Some(guard) = self.guards.get_mut(id).filter(|guard| guard.made_room) else {
            return;
        };
        guard.made_room = false;
        for open in self.outbox.open_of(id).into_iter().filter(|open| open.topic == Topic::Blind) {
            let why = format!("{leader} leads now, and has usable data; this replica has none yet");
            self.end(id, &open, Topic::Sighted, &why, seen);
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
        let kept = open.incident.clone().filter(|incident| self.keeper.has_bundle(incident));
        let kept = kept.map(|incident| (incident, TimelineEntry::of(Moment::Resolved, seen.at, line)));
        if let Some((incident, _)) = &kept {
            message.evidence = Some(self.keeper.place(incident));
            message.link = self.keeper.link(incident);
        }
        let told = self.outbox.push(message);
        if let Some((incident, entry)) = kept {
            self.amend_told(incident, entry, told);
        }
    }
}

impl Guarded {
    /// What becomes of an open thread, as far as this look tells.
    fn fate(&self, open: &OpenThread, decision: &Decision, view: &View, calm: bool, now: Timestamp) -> Fate {
        let after = tell::people(show::since(now, open.since));
        match (open.topic, view) {
            // It is about all guards, and this one may be calm long before the others.
            (Topic::ManyFailing, _) => Fate::Waits,
            (Topic::Blind, _) if self.engine.is_blind() => Fate::Taken,
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

/// What a guard that is no longer configured leaves untold the end of, closed. It names no color: nobody looks which is active.
fn abandoned(open: &OpenThread, spec: Option<&GuardSpec>, now: Timestamp) -> Announcement {
    let (topic, why) = if open.topic.is_of_all() {
        let why = "flipback began anew, and guards that failed then are configured no more; what is held from here on is told of anew";
        (Topic::FewFailing, why.to_owned())
    } else {
        let after = tell::people(show::since(now, open.since));
        let why = format!(
            "{} is no longer guarded: it was taken out of the configuration. What was told {after} ago is not known to be over, and nobody looks any more",
            open.guard
        );
        (Topic::Resolved, why)
    };
    let mut parts = open.guard.as_str().rsplit('/').skip(1);
    let namespace = parts.next().unwrap_or_default().to_owned();
    Announcement {
        id: format!("{}.{}.{}", open.thread, topic.as_str(), open.since.as_millisecond()),
        guard: open.guard.clone(),
        at: now,
        topic,
        why,
        mode: spec.map_or(Mode::Enforce, |spec| spec.mode),
        cluster: parts.next().unwrap_or_default().to_owned(),
        namespace,
        object: spec.map(|spec| spec.route.object()).unwrap_or_default(),
        from: None,
        to: None,
        from_release: None,
        to_release: None,
        trigger: None,
        incident: open.incident.clone(),
        thread: open.thread.clone(),
        evidence: None,
        link: None,
        picture: None,
        switch: false,
        refusal: None,
        took_ms: None,
        decided_at: None,
        switched_at: None,
        repeats: None,
        // Whoever was told of it is told; where the configuration is gone, it does not say any more who that was.
        chats: spec.map(|spec| spec.chats.clone()).unwrap_or_default(),
    }
}

fn over(after: &str, traffic: &Traffic, decision: &Decision) -> String {
    format!(
        "over after {after}, a restart of flipback between: {} is active. {}",
        traffic.active,
        show::sentence(&decision.why)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_nobody_will_end_is_closed_once_and_says_why() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let open = |topic| OpenThread {
            thread: "prod.shop.web_1".into(),
            guard: GuardId::new("prod", "shop", "web").expect("valid"),
            topic,
            since: at(0),
            incident: Some("prod.shop.web_1".into()),
        };
        let end = abandoned(&open(Topic::RollbackBlocked), None, at(125));
        assert_eq!(
            (end.topic, end.thread.as_str(), end.id.as_str()),
            (Topic::Resolved, "prod.shop.web_1", "prod.shop.web_1.resolved.0")
        );
        assert_eq!((end.cluster.as_str(), end.namespace.as_str(), end.to), ("prod", "shop", None));
        assert!(end.why.starts_with("prod/shop/web is no longer guarded"), "{}", end.why);
        assert!(end.why.contains("2m 5s ago is not known to be over"), "{}", end.why);
        assert_eq!(abandoned(&open(Topic::Blind), None, at(999)).id, end.id, "whichever run tells it");
        let fleet = abandoned(&open(Topic::ManyFailing), None, at(125));
        assert_eq!(fleet.topic, Topic::FewFailing, "it is not about the guard that it names");
    }
}
