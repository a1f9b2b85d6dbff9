//! What a person asks for: the same road as a rule's flip, with the target gate alone before it.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Monitor,
    act::{Order, Reply},
    scale::Waits,
    tell,
};
use crate::{
    decide,
    model::{
        Actor, AuditEntry, Color, CommandError, CommandReply, GuardId, Mode, Observation, Pause, Refusal, TimelineEntry, Traffic, Trigger,
        View, incident::SWITCH,
    },
    router::RouterError,
};

/// What a person asks for.
#[derive(Clone)]
pub(super) struct Asked {
    pub by: String,
    pub reason: String,
    /// A rollback: the release that is left is thereby marked as bad.
    pub bad: bool,
    pub dry_run: bool,
}

/// What is made of it.
pub(super) enum Made {
    /// It can be carried out.
    Order(Box<Order>),
    /// The color it leads to has to be scaled up first.
    Waits(Waits),
}

impl Monitor {
    /// A person's flip: the same road, with the target gate alone before it.
    pub(super) fn manual(&mut self, id: &GuardId, to: Option<Color>, who: (&str, &str), dry_run: bool, reply: Reply, now: Timestamp) {
        let asked = Asked {
            by: who.0.to_owned(),
            reason: who.1.to_owned(),
            bad: to.is_none(),
            dry_run,
        };
        match self.make(id, to.as_ref(), &asked, now) {
            Ok(Made::Order(mut order)) => {
                order.reply = Some(reply);
                self.start(id, *order);
            }
            Ok(Made::Waits(waits)) => self.wish(id, asked, waits, reply, now),
            Err(error) => {
                let actor = Actor::Person { name: asked.by };
                self.audit(now, actor, Some(id), "refused", &error.to_string(), None);
                // A caller that went away is no concern of ours.
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Why a rollback from a named color is none any more: somebody was quicker, and the way back would lead to what they left.
    pub(super) fn left_already(&self, id: &GuardId, from: Option<&Color>) -> Option<CommandError> {
        let (guard, from) = (self.guards.get(id)?, from?);
        match guard.router.view() {
            View::Known(traffic) if traffic.active != *from => Some(CommandError::Refused(format!(
                "{} is active, not {from}: somebody has moved traffic already",
                traffic.active
            ))),
            _ => None,
        }
    }

    /// Makes an order of what a person asks for; `to`: the standby where it is not named.
    pub(super) fn make(&mut self, id: &GuardId, to: Option<&Color>, asked: &Asked, now: Timestamp) -> Result<Made, CommandError> {
        let guard = self.guards.get(id).ok_or_else(|| CommandError::UnknownGuard(id.to_string()))?;
        if guard.flipping {
            return Err(CommandError::Busy);
        }
        let seen = Observation {
            at: now,
            view: guard.router.view(),
            readings: std::collections::BTreeMap::new(),
            hold: None,
        };
        let traffic = match &seen.view {
            View::Known(traffic) => traffic,
            View::UnknownColor { found, known } => return Err(CommandError::Failed(tell::unknown_color(found.as_deref(), known))),
            View::Unreadable(why) => return Err(CommandError::Failed(why.clone())),
        };
        let to = to.cloned().unwrap_or_else(|| traffic.standby.clone());
        if !guard.spec.colors.contains_key(&to) {
            let known: Vec<&str> = guard.spec.colors.keys().map(Color::as_str).collect();
            return Err(CommandError::UnknownColor(format!(
                "{id} has no color {:?}; it has {}",
                to.as_str(),
                known.join(", ")
            )));
        }
        if to == traffic.active {
            return Err(CommandError::Refused(format!("{to} is already active")));
        }
        if let Some(refusal) = guard.engine.known_bad(traffic, &to, now).filter(|_| asked.bad) {
            // A repeated request must not bring back what the first one left; who means it says `switch`.
            return Err(CommandError::Refused(format!(
                "{refusal}; `flipback switch {id} {to}` moves traffic there all the same"
            )));
        }
        let trigger = Trigger::Manual {
            by: asked.by.clone(),
            reason: asked.reason.clone(),
        };
        let case = match guard.engine.manual(&seen, &to, trigger.clone()) {
            Ok(case) => case,
            Err(refusal) => return self.waits(id, traffic, &to, trigger, refusal, asked.dry_run, now),
        };
        let mut incident = guard.incident(case, traffic.seen.clone());
        if !asked.bad {
            incident.timeline.push(TimelineEntry::remark(now, SWITCH));
        }
        Ok(Made::Order(Box::new(Order {
            incident,
            automatic: false,
            bad: asked.bad,
            dry_run: asked.dry_run,
            known: traffic.ledger.last().map(|flip| flip.incident.clone()),
            reply: None,
        })))
    }

    /// Whether a color that cannot serve is, or can be, scaled up.
    #[expect(clippy::too_many_arguments, reason = "all of what was looked at a moment ago")]
    fn waits(
        &self,
        id: &GuardId,
        traffic: &Traffic,
        to: &Color,
        trigger: Trigger,
        refusal: Refusal,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<Made, CommandError> {
        let refused = Err(CommandError::Refused(refusal.to_string()));
        let (Some(guard), Refusal::StandbyNotReady { ready, needed }) = (self.guards.get(id), &refusal) else {
            return refused;
        };
        let Some(scale_up) = guard.spec.scale_up.filter(|_| guard.spec.mode == Mode::Enforce) else {
            return refused;
        };
        let wanted = decide::scale_target(&guard.spec, traffic, to);
        let coming = guard.scaling.is_coming(to, scale_up.deadline, now);
        match wanted {
            Some(wanted) if dry_run => Err(CommandError::Refused(format!(
                "{refusal}; it would be scaled up to {wanted} replicas, and traffic moved the moment it can serve"
            ))),
            None if !coming || dry_run => refused,
            wanted => Ok(Made::Waits(Waits {
                case: Box::new(guard.engine.asked(traffic, now, to, trigger)),
                seen: traffic.seen.clone(),
                ready: *ready,
                needed: *needed,
                wanted,
            })),
        }
    }

    /// Writes or removes the pause on the guarded object; the next look sees it, as it would see anybody's.
    pub(super) fn pause(&mut self, id: &GuardId, pause: Option<Pause>, by: &str, reply: Reply) -> Option<(Reply, CommandError)> {
        let Some(guard) = self.guards.get(id) else {
            return Some((reply, CommandError::UnknownGuard(id.to_string())));
        };
        let router = Arc::clone(&guard.router);
        let what = match &pause {
            Some(Pause { until: Some(until), .. }) => format!("paused: nothing will be flipped until {until}, or until it is resumed"),
            Some(_) => "paused: nothing will be flipped until it is resumed".to_owned(),
            None => "resumed".to_owned(),
        };
        let elsewhere = self.not_leading(id);
        let (id, journal, clock, name) = (id.clone(), self.journal.clone(), self.clock.clone(), by.to_owned());
        let (action, reason) = match &pause {
            Some(pause) => ("paused", pause.reason.clone()),
            None => ("resumed", String::new()),
        };
        self.errand(async move {
            let answer = match router.pause(pause).await {
                Ok(()) => Ok(CommandReply::Done {
                    what: format!("{id} is {what}"),
                }),
                Err(RouterError::NotLeading { .. }) => Err(elsewhere),
                Err(error) => Err(CommandError::Failed(tell::chain(&error))),
            };
            journal.write(AuditEntry {
                at: clock.now(),
                actor: Actor::Person { name },
                guard: Some(id),
                action: if answer.is_ok() { action } else { "refused" }.to_owned(),
                why: match &answer {
                    Ok(_) => reason,
                    Err(error) => error.to_string(),
                },
                incident: None,
            });
            // A caller that went away is no concern of ours.
            let _ = reply.send(answer);
        });
        None
    }
}
