//! A rollback that somebody undid: left to people, or made again.
//!
//! Read from the ledger and the view alone, so that a restart, another replica and a replay come to the same. It is no new judgement:
//! it needs no evidence, since the release is the one that was found bad, and it is made only where a controller the guard names undid
//! the rollback within its watch, so many times, after pauses that grow. A person is never fought.

use jiff::Timestamp;

use crate::model::{FlipRecord, Policy, Reaction, Traffic};

use super::{
    clock::{after, elapsed},
    switch,
};

/// A rollback that was undone, and what follows.
pub(super) struct Undone<'a> {
    /// The newest flip: the rollback itself, or the last time it was made again.
    pub(super) flip: &'a FlipRecord,
    /// Who undid it, where the object tells.
    pub(super) by: Option<&'a str>,
    /// Since when.
    since: Timestamp,
    /// What is done about it.
    pub(super) reaction: Reaction,
}

/// What was undone, if traffic is where flipback took it from; `since`: when it came back there.
pub(super) fn undone<'a>(traffic: &'a Traffic, policy: &Policy, since: Timestamp, at: Timestamp) -> Option<Undone<'a>> {
    let flip = switch::undone(traffic, policy, at)?;
    let since = since.max(flip.at);
    let by = traffic.switched_by.as_deref();
    Some(Undone {
        flip,
        by,
        since,
        reaction: reaction(flip, by, policy, since),
    })
}

fn reaction(flip: &FlipRecord, by: Option<&str>, policy: &Policy, since: Timestamp) -> Reaction {
    let reassert = &policy.reassert;
    // Days later it is a decision, made in Git, and no reflex.
    let reflex = since < after(flip.at, policy.watch);
    if reassert.times == 0 || !reflex || !by.is_some_and(|by| reassert.covers(by)) {
        return Reaction::Nothing;
    }
    let made = flip.reassert.unwrap_or(0);
    if made >= reassert.times {
        return Reaction::GivenUp { times: made };
    }
    let attempt = made + 1;
    Reaction::Reassert {
        after_seconds: reassert.pause_before(attempt).as_secs(),
        attempt,
        of: reassert.times,
    }
}

impl Undone<'_> {
    /// How long the flip had lasted, in whole seconds.
    pub(super) fn after_seconds(&self) -> u64 {
        elapsed(self.since, self.flip.at).as_secs()
    }

    /// Which attempt is due, of how many; `None`: none, or the pause before it is not over.
    pub(super) fn due(&self, policy: &Policy, at: Timestamp) -> Option<(u32, u32)> {
        let Reaction::Reassert { attempt, of, .. } = self.reaction else {
            return None;
        };
        (at >= after(self.since, policy.reassert.pause_before(attempt))).then_some((attempt, of))
    }

    /// Why the rollback is made again: one sentence; `origin` is the rollback itself.
    pub(super) fn why(&self, origin: &FlipRecord) -> String {
        let by = self.by.unwrap_or("somebody");
        format!("{by} undid the rollback after {} s ({})", self.after_seconds(), origin.why)
    }
}
