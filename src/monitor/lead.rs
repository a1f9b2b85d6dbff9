//! Which guards this replica acts for, where several daemons share them.
//!
//! A follower looks at its guards and steps their engines like a leader, so that its streaks are as warm, and does nothing
//! else, but for closing the threads of messages that it opened itself when it led. Leading is asked for where something would be done ([`Monitor::leads`]) and not remembered: it can run out at any
//! moment. What is remembered is only what was last *said*, in order to notice the change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Guarded, Monitor, act::Reply, show, tell};
use crate::{
    cluster::{
        Fence, Replicas,
        lease::{keep::Tenure, sight::Sight},
    },
    model::{
        Actor, CommandError, Decision, GuardId, Incident, Lifted, Moment, Observation, Phase, ReplicaStatus, TimelineEntry, Verdict, View,
    },
    router::RouterError,
};

/// What a leader flipped longer before its successor took over, it had the time to tell and to keep itself.
const INHERITED: Duration = Duration::from_secs(5 * 60);

/// This daemon's part among the replicas.
pub(super) struct Part {
    replicas: Replicas,
    status: watch::Receiver<std::sync::Arc<ReplicaStatus>>,
    /// Shards that were ours at the last look, and in which tenure.
    led: BTreeMap<u32, Tenure>,
}

impl Part {
    pub(super) fn new(replicas: Replicas) -> Self {
        Self {
            status: replicas.status(),
            replicas,
            led: BTreeMap::new(),
        }
    }

    /// The shard of a guard, and what stands before its writes.
    pub(super) fn share(&self, guard: &GuardId) -> (u32, &Fence) {
        let shard = self.replicas.shard(guard);
        (shard, self.replicas.fence(shard))
    }

    /// Begins to take part.
    pub(super) fn start(&self) {
        self.replicas.start();
    }

    /// Resolves when somebody else leads something than before.
    pub(super) async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            // Their task is gone, which ends nothing here.
            std::future::pending::<()>().await;
        }
    }

    /// Who is who.
    pub(super) fn status(&self) -> ReplicaStatus {
        (**self.status.borrow()).clone()
    }

    /// Passes a person's word about all guards on to the other replicas.
    pub(super) fn lift(&self, word: Lifted) {
        self.replicas.lift(word);
    }

    /// The newest such word that any replica was told.
    pub(super) fn lifted(&self) -> Option<Lifted> {
        self.replicas.lifted()
    }

    /// Gives every Lease back.
    pub(super) async fn leave(&self, within: Duration) {
        self.replicas.leave(within).await;
    }
}

impl Drop for Part {
    /// A conductor that died must not go on holding what nobody acts for.
    fn drop(&mut self) {
        self.replicas.abandon();
    }
}

impl Guarded {
    /// Whether another replica would rather not take over now: a streak that it may not share, a flip, a person who waits for one. A
    /// streak that is held because nothing is seen grows only where something is.
    fn is_busy(&self) -> bool {
        let breaching = self.decision.as_ref().is_some_and(|decision| {
            let held = self.engine.is_blind();
            decision.phase == Phase::Breaching || !held && decision.rules.iter().any(|rule| rule.streak > 0)
        });
        // A route that cannot be read is nobody's to flip, for as long as that lasts.
        let known = matches!(self.view, Some(View::Known(_)));
        self.flipping || known && (breaching || self.scaling.is_wished())
    }
}

impl Monitor {
    /// Whether this replica acts for a guard at this moment.
    pub(super) fn leads(&self, id: &GuardId) -> bool {
        let Some(part) = &self.part else { return true };
        let shard = self.guards.get(id).and_then(|guard| guard.shard);
        shard.is_some_and(|shard| part.replicas.fence(shard).leads())
    }

    /// Why a person's command for this guard must go to another replica; `None`: it need not.
    pub(super) fn elsewhere(&self, id: &GuardId) -> Option<CommandError> {
        // A name that nobody knows is said to be unknown by every replica.
        (self.guards.contains_key(id) && !self.leads(id)).then(|| self.not_leading(id))
    }

    /// A follower closes the threads of messages that it opened itself when it led, once the guard is calm: nobody else knows of
    /// them, and a page that nobody resolves rings for ever.
    pub(super) fn close_own(&mut self, id: &GuardId, decision: &Decision, seen: &Observation) {
        if let (View::Known(traffic), Verdict::Hold) = (&seen.view, &decision.verdict) {
            self.calm(id, decision, traffic, seen.at);
        } else if let Some(guard) = self.guards.get_mut(id) {
            guard.calm_since = None;
        }
        self.end_blindness(id, seen);
    }

    /// Another replica that leads a guard, as last seen.
    pub(super) fn leader(&self, id: &GuardId) -> Option<String> {
        let (part, shard) = (self.part.as_ref()?, self.guards.get(id)?.shard?);
        let status = part.status();
        status.leader(shard).filter(|leader| *leader != status.name).map(str::to_owned)
    }

    /// Who to ask about a guard, in the place of this replica.
    pub(super) fn not_leading(&self, id: &GuardId) -> CommandError {
        let shard = self.guards.get(id).and_then(|guard| guard.shard);
        let status = self.part.as_ref().map(Part::status).unwrap_or_default();
        let leader = shard.and_then(|shard| status.leader(shard)).filter(|leader| *leader != status.name);
        CommandError::NotLeading {
            leader: leader.map(str::to_owned),
            replica: status.name,
        }
    }

    /// A flip for which the Lease had become too short: nothing was sent, and whoever leads next decides anew. What was said of
    /// it is closed, for nobody else knows of that thread.
    pub(super) fn overtaken(&mut self, id: &GuardId, incident: &Incident, error: &RouterError, reply: Option<Reply>, at: Timestamp) {
        let answer = self.not_leading(id);
        tracing::warn!(guard = %id, incident = %incident.id, %error, "Flip not sent: this replica does not lead any more");
        self.audit(at, Actor::Flipback, Some(id), "not_leading", &error.to_string(), Some(&incident.id));
        if let Some(guard) = self.guards.get_mut(id) {
            guard.episode = None;
            let told = guard.open.as_ref().is_some_and(|open| open.id == incident.id);
            if let (true, Some(View::Known(traffic))) = (told, &guard.view) {
                guard.open = None;
                let what = show::sentence(&format!("{error}; whoever leads goes on"));
                let end = TimelineEntry::of(Moment::Resolved, at, what);
                let over = tell::resolved(incident, traffic, &end, 0, &self.keeper, &guard.spec);
                self.outbox.push(over);
            }
        }
        if let Some(reply) = reply {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Err(answer));
        }
    }

    /// Notices which shards became ours and which ceased to be. `true` when one became ours.
    pub(super) fn follow_leases(&mut self, now: Timestamp) -> bool {
        let Some(part) = &mut self.part else { return false };
        let leading = part.replicas.leading();
        let before = std::mem::replace(&mut part.led, leading.clone());
        if before == leading {
            return false;
        }
        let gained: BTreeSet<u32> = leading
            .iter()
            .filter(|(shard, tenure)| before.get(shard) != Some(tenure))
            .map(|(shard, _)| *shard)
            .collect();
        let lost: BTreeSet<u32> = before.into_keys().filter(|shard| !leading.contains_key(shard)).collect();
        if !lost.is_empty() {
            let guards = self.guards_of(&lost);
            tracing::warn!(shards = ?lost, guards = guards.len(), "Following: this replica acts for these guards no more");
            self.audit(
                now,
                Actor::Flipback,
                None,
                "following",
                &told("ceased to lead", &lost, guards.len()),
                None,
            );
        }
        let given: BTreeSet<u32> = lost.into_iter().filter(|shard| part_gave(&self.part, *shard)).collect();
        for id in self.guards_of(&given) {
            if let Some(guard) = self.guards.get_mut(&id) {
                guard.made_room = true;
            }
        }
        if gained.is_empty() {
            return false;
        }
        let orphaned: BTreeSet<u32> = gained.iter().copied().filter(|shard| leading[shard].after_a_death).collect();
        let guards = self.guards_of(&gained);
        tracing::info!(shards = ?gained, guards = guards.len(), "Leading: this replica acts for these guards");
        self.audit(now, Actor::Flipback, None, "leading", &told("leads", &gained, guards.len()), None);
        self.on_leading(&guards, &orphaned, now);
        true
    }

    /// Takes guards over from another replica. What that one had begun is on its own disk; what it *did* is in the ledgers, and of
    /// shards that were orphaned by its death the newest flip is taken up from there: looked at, told and proven.
    fn on_leading(&mut self, guards: &[GuardId], orphaned: &BTreeSet<u32>, now: Timestamp) {
        let known = Arc::new(self.keeper.known());
        for id in guards {
            if let Some(guard) = self.guards.get_mut(id) {
                guard.episode = None;
                guard.calm_since = None;
                guard.made_room = false;
                // Nobody hears a follower: what it sees as leader is news, however long it has lasted.
                guard.engine.tell_blindness_anew();
                let died = guard.shard.is_some_and(|shard| orphaned.contains(&shard));
                let reach = if died { INHERITED } else { Duration::ZERO };
                guard.remains.inherit(id, Arc::clone(&known), reach, now);
            }
        }
    }

    fn guards_of(&self, shards: &BTreeSet<u32>) -> Vec<GuardId> {
        let ours = self
            .guards
            .iter()
            .filter(|(_, guard)| guard.shard.is_some_and(|shard| shards.contains(&shard)));
        ours.map(|(id, _)| id.clone()).collect()
    }

    /// Says which shards had better stay where they are for now, and whether they had all better go.
    pub(super) fn occupy(&self) {
        if let Some(part) = &self.part {
            part.replicas.looked(self.sight());
            let busy = self.guards.values().filter(|guard| guard.is_busy());
            part.replicas.occupied(busy.filter_map(|guard| guard.shard).collect());
        }
    }
}

impl Monitor {
    /// What this replica sees of its guards, all together: one that it sees is enough. Those whose route cannot be read are not looked at.
    fn sight(&self) -> Sight {
        let looked_at = self.guards.values().filter(|guard| matches!(guard.view, Some(View::Known(_))));
        sight(looked_at.map(|guard| (guard.engine.sees(), guard.engine.is_blind())))
    }
}

/// What is seen of all guards together, by whether each is seen, and whether it is blind. One may be neither: it has just begun.
fn sight(guards: impl Iterator<Item = (bool, bool)>) -> Sight {
    let (sees, blind) = guards.fold((false, false), |(sees, blind), (one, none)| (sees || one, blind || none));
    match (sees, blind) {
        (true, _) => Sight::Sees,
        (false, true) => Sight::Blind,
        (false, false) => Sight::Unknown,
    }
}

/// Whether a shard was given to a replica that sees.
fn part_gave(part: &Option<Part>, shard: u32) -> bool {
    part.as_ref().is_some_and(|part| part.replicas.made_room(shard))
}

fn told(what: &str, shards: &BTreeSet<u32>, guards: usize) -> String {
    let numbers: Vec<String> = shards.iter().map(u32::to_string).collect();
    format!("this replica {what} shard {}: {guards} guards", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_blind_where_it_sees_no_guard_and_one_at_least_is_dark() {
        let (seen, dark, begins) = ((true, false), (false, true), (false, false));
        for (guards, expected) in [
            (vec![], Sight::Unknown),
            (vec![begins], Sight::Unknown),
            (vec![dark, seen, dark], Sight::Sees),
            // Paused, blocked or disarmed: what is seen of it is what counts.
            (vec![dark, dark], Sight::Blind),
            // One that was added a moment ago hides nothing.
            (vec![dark, begins], Sight::Blind),
        ] {
            assert_eq!(sight(guards.iter().copied()), expected, "{guards:?}");
        }
    }
}
