//! What was told as failed, and was carried out all the same.
//!
//! A patch whose answer is lost is read after, three times. An API server that is merely slow may carry it out when nobody looks
//! any more: traffic has moved then, by us, and people were told that it has not. What is told wrongly is taken back.
//!
//! - The ledger alone says so: it was written in the same patch, and names the incident.
//! - Attempts that came to nothing are remembered ([`Attempts`]): those of this run in memory, those of an earlier one by their bundles,
//!   which tell that they failed.
//! - From then on it is a flip like any other: looked at, told in its thread, proven in its bundle, written down. Cooldown and count of
//!   the day are the ledger's, and need nobody.
//! - The word was this replica's own, and so it takes it back whether or not it leads by now; what a flip leaves behind (the preview
//!   Service) is the leader's.
//!
//! An attempt whose bundle was only begun, since the process died, is no business of this file: [`super::resume`].

use std::collections::VecDeque;

use jiff::Timestamp;

use super::{
    Guarded, Monitor,
    act::Reply,
    resume::{Patched, YOUNG},
    show, tell,
};
use crate::{
    model::{FlipRecord, GuardId, Incident, IncidentOutcome, Ledger, Mode, Moment, Traffic, View},
    router::RouterError,
};

/// Attempts that are remembered of a guard. One takes longer than a look's 5 s where answers are lost, and an API server ends each
/// request after a minute by default.
const ATTEMPTS_MAX: usize = 16;

/// Attempts of a guard that came to nothing as far as was seen, oldest first.
#[derive(Debug, Default)]
pub(super) struct Attempts(VecDeque<Incident>);

impl Attempts {
    /// Those of earlier runs: what was kept, oldest first, and is young when this run begins.
    pub(super) fn of(guard: &GuardId, kept: &[Incident], started: Timestamp) -> Self {
        let failed = |incident: &&Incident| {
            let failed = matches!(incident.outcome, IncidentOutcome::Failed { .. }) && incident.mode == Mode::Enforce;
            failed && incident.case.guard == *guard && show::since(started, incident.case.at) < YOUNG
        };
        let mut attempts = Self::default();
        kept.iter().filter(failed).for_each(|incident| attempts.remember(incident.clone()));
        attempts
    }

    fn remember(&mut self, incident: Incident) {
        self.0.push_back(incident);
        let surplus = self.0.len().saturating_sub(ATTEMPTS_MAX);
        self.0.drain(..surplus);
    }

    /// Takes out those that a ledger tells of.
    fn carried_out(&mut self, ledger: &Ledger) -> Vec<(Incident, FlipRecord)> {
        let told_of = |incident: &str| ledger.flips.iter().rev().find(|flip| flip.incident == incident);
        let mut carried_out = Vec::new();
        self.0.retain(|incident| {
            let flip = told_of(&incident.id);
            carried_out.extend(flip.map(|flip| (incident.clone(), flip.clone())));
            flip.is_none()
        });
        carried_out
    }
}

/// Whether a flip that ended so may have been sent, and may still be carried out.
pub(super) fn may_come_through(error: &RouterError) -> bool {
    matches!(error, RouterError::Unknown { .. } | RouterError::Broken { .. })
}

/// Whether an incident moved traffic and had been told as failed.
pub(super) fn is_taken_back(incident: &Incident) -> bool {
    matches!(incident.outcome, IncidentOutcome::RolledBack { .. }) && tell::times(incident, Moment::PatchFailed) > 0
}

/// When the object says that traffic was moved, if that can be this flip.
fn carried_out_at(traffic: &Traffic, flip: &FlipRecord, now: Timestamp) -> Timestamp {
    let told = traffic.switched_at.filter(|_| traffic.active == flip.to);
    // It tells whole seconds, by another clock.
    told.map_or(now, |told| told.clamp(flip.at.min(now), now))
}

impl Guarded {
    /// A flip ended without an answer. Where the newest look shows it in the ledger, that is the answer; else it is looked for from
    /// now on.
    pub(super) fn unanswered(&mut self, incident: &Incident) -> Option<(FlipRecord, Traffic)> {
        self.attempts.remember(incident.clone());
        let Some(View::Known(traffic)) = &self.view else { return None };
        let (_, flip) = self.attempts.carried_out(&traffic.ledger).pop()?;
        Some((flip, (**traffic).clone()))
    }

    /// Whether the newest look shows traffic where this attempt was to bring it: there is nothing left to do, and its patch, which
    /// compares, cannot be accepted any more.
    pub(super) fn is_there_already(&self, incident: &Incident) -> bool {
        matches!(&self.view, Some(View::Known(traffic)) if traffic.active == incident.case.to)
    }
}

impl Monitor {
    /// Looks in the ledger for attempts that came to nothing, and takes up what was carried out.
    pub(super) fn own_up(&mut self, id: &GuardId, view: &View, now: Timestamp) {
        let View::Known(traffic) = view else { return };
        let Some(guard) = self.guards.get_mut(id) else { return };
        for (incident, flip) in guard.attempts.carried_out(&traffic.ledger) {
            let at = carried_out_at(traffic, &flip, now);
            let after = tell::people(show::since(at, flip.at));
            let what = format!(
                "The ledger on {} tells that the patch was carried out, {after} after the decision; it had been told as failed",
                incident.object
            );
            tracing::warn!(guard = %id, incident = %incident.id, to = %flip.to, %after, "A flip that was told as failed has moved traffic: taking it up");
            let patched = Patched {
                at,
                action: "came_through",
                what,
                record: None,
                reply: None,
            };
            self.moved(id, incident, &flip, traffic, patched, now);
            if self.leads(id) {
                self.finish_late(id, flip);
            }
        }
    }

    /// A flip whose answer was lost, and whose patch a look has shown meanwhile.
    pub(super) fn seen_instead(
        &mut self,
        id: &GuardId,
        incident: Incident,
        (flip, traffic): (FlipRecord, Traffic),
        record: Option<String>,
        reply: Option<Reply>,
        now: Timestamp,
    ) {
        let what = format!(
            "The answer was lost; the ledger on {} tells that the patch was accepted",
            incident.object
        );
        let patched = Patched {
            at: carried_out_at(&traffic, &flip, now),
            action: "seen_instead",
            what,
            record,
            reply,
        };
        self.moved(id, incident, &flip, &traffic, patched, now);
        self.finish_late(id, flip);
    }
}

#[cfg(test)]
mod tests;
