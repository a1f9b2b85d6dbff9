//! From a decision to a moved Service, and the story of it.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{ERRANDS_MAX, Episode, Guarded, Monitor, TELL_AGAIN, show, tell};
use crate::{
    evidence::{self, EvidenceError, Sources},
    model::{
        Case, Color, CommandError, CommandReply, Decision, FlipRecord, GuardId, Incident, IncidentOutcome, Mode, Moment, Observation,
        Pause, Refusal, Seen, TimelineEntry, Topic, Trigger, View, incident::INCIDENT_SCHEMA,
    },
    router::{Flip, FlipOrder, RouteEvent, Router, RouterError, Verified},
};

/// How often a line is offered to an incident whose folder does not exist yet.
const AMEND_TRIES: u32 = 10;
/// Between two offers; a sound disk has written the first file long before.
const AMEND_AGAIN: Duration = Duration::from_millis(200);

/// Where a command's answer goes.
type Reply = oneshot::Sender<Result<CommandReply, CommandError>>;

/// One flip to carry out.
pub(super) struct Order {
    pub incident: Incident,
    /// A rule's flip, not a person's.
    pub automatic: bool,
    /// The release that is left is thereby marked as bad.
    pub bad: bool,
    pub dry_run: bool,
    pub reply: Option<Reply>,
}

/// What came of a flip.
pub(super) struct Done {
    guard: GuardId,
    order: Order,
    flip: Result<Flip, RouterError>,
    at: Timestamp,
}

/// A flip that moved traffic, and what is still owed: whether it arrived, the message, the answer.
pub(super) struct Arrival {
    guard: GuardId,
    incident: Incident,
    topic: Topic,
    reply: Option<Reply>,
}

/// What a flip's tasks bring back.
pub(super) enum Step {
    /// The patch was answered, or not.
    Flipped(Box<Done>),
    /// A look at where traffic goes now, of this incident.
    Verified(String, Result<Verified, RouterError>),
}

impl Guarded {
    /// A new incident; every attempt is one, so that the ledger, the folder and the messages name the same.
    pub(super) fn incident(&self, case: Case, seen: Seen) -> Incident {
        let at = case.at;
        let mut timeline = vec![TimelineEntry::of(Moment::Decided, at, format!("Decided: {}", case.why))];
        if let Some(failed) = self.failed() {
            timeline.push(TimelineEntry::remark(at, format!("An earlier attempt had failed: {}", failed.id)));
        }
        Incident {
            schema: INCIDENT_SCHEMA,
            flipback: env!("CARGO_PKG_VERSION").to_owned(),
            id: evidence::incident_id(&case.guard, at),
            mode: self.spec.mode,
            object: self.spec.route.object(),
            namespace: self.spec.namespace.clone(),
            cluster: self.spec.cluster.clone(),
            case,
            seen,
            policy: self.spec.policy.clone(),
            rules: self.spec.rules.clone(),
            switched_at: self.engine.switched_at(),
            followed_up_at: None,
            outcome: IncidentOutcome::Decided,
            timeline,
            capture_errors: Vec::new(),
        }
    }

    /// The failed attempt that the present episode consists of so far.
    fn failed(&self) -> Option<&Incident> {
        let incident = &self.episode.as_ref()?.incident;
        matches!(incident.outcome, IncidentOutcome::Failed { .. }).then_some(incident)
    }
}

/// Sends the patch and, when it moved traffic, looks whether it arrived.
async fn carry_out(guard: GuardId, router: Arc<dyn Router>, order: Order) -> Step {
    let incident = &order.incident;
    let case = &incident.case;
    let record = FlipRecord {
        at: case.at,
        from: case.from.clone(),
        to: case.to.clone(),
        from_release: case.from_release.as_ref().map(|release| release.id.clone()),
        automatic: order.automatic,
        bad: order.bad,
        trigger: case.trigger.to_string(),
        why: case.why.clone(),
        incident: incident.id.clone(),
    };
    let wish = FlipOrder {
        seen: incident.seen.clone(),
        from: case.from.clone(),
        to: case.to.clone(),
        record,
        dry_run: order.dry_run,
    };
    let flip = router.flip(&wish).await;
    let at = super::now();
    Step::Flipped(Box::new(Done { guard, order, flip, at }))
}

impl Monitor {
    /// Starts a flip in a task of its own and queues the first message; nothing waits for either.
    pub(super) fn start(&mut self, id: &GuardId, order: Order) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        guard.flipping = true;
        let automatic = order.automatic;
        let router = Arc::clone(&guard.router);
        let retried = guard.failed().is_some();
        let (incident, dry_run) = (order.incident.clone(), order.dry_run);
        self.flips.spawn(carry_out(id.clone(), router, order));
        // Written out only now: the flip does not wait for its own record.
        guard.decided_on = if automatic { guard.recorder.trace() } else { None };
        if dry_run {
            return;
        }
        tracing::warn!(guard = %id, from = %incident.case.from, to = %incident.case.to, incident = %incident.id, why = %incident.case.why, "Flipping");
        if !retried && incident.mode == Mode::Enforce {
            self.outbox
                .push(tell::incident(&incident, Topic::RollbackInitiated, &self.keeper, &guard.spec));
        }
    }

    /// A confirmed breach that is not carried out: told and recorded once, and told again while it lasts.
    pub(super) fn refuse(&mut self, id: &GuardId, case: &Case, seen: Seen, outcome: IncidentOutcome, decision: &Decision) {
        let topic = match &outcome {
            IncidentOutcome::Suppressed { .. } => Topic::RollbackSuppressed,
            _ => Topic::RollbackBlocked,
        };
        let now = case.at;
        if self.repeated(id, &outcome, topic, now) {
            return;
        }
        let Some(guard) = self.guards.get_mut(id) else { return };
        let mut incident = guard.incident(case.clone(), seen);
        incident.timeline.push(TimelineEntry::remark(now, decision.why.clone()));
        incident.outcome = outcome;
        tracing::error!(guard = %id, incident = %incident.id, why = %decision.why, "Not flipped");
        let record = guard.recorder.trace();
        self.conclude(id, incident, topic, record);
    }

    /// What came of a flip: told, recorded, counted, answered.
    pub(super) fn settled(&mut self, step: Result<Step, tokio::task::JoinError>, now: Timestamp) {
        match step {
            Ok(Step::Flipped(done)) => self.flipped(*done, now),
            Ok(Step::Verified(incident, verified)) => self.arrived(&incident, Some(verified), now),
            Err(error) => {
                tracing::error!(%error, "A flip's task ended without an answer");
                for guard in self.guards.values_mut() {
                    guard.flipping = false;
                }
                // It may have been a look whether traffic arrived: what moved is told all the same.
                self.stop_looking(now);
            }
        }
        self.publish(now);
    }

    /// The patch was answered. A moved Service is recorded at once; the message waits for the look whether it arrived.
    fn flipped(&mut self, done: Done, now: Timestamp) {
        let Done {
            guard: id,
            order,
            flip,
            at,
        } = done;
        let Order {
            mut incident,
            automatic,
            bad,
            dry_run,
            reply,
        } = order;
        // What led to it, where it was decided rather than asked for.
        let record = self.guards.get_mut(&id).and_then(|guard| {
            guard.flipping = false;
            guard.decided_on.take()
        });
        let topic = match flip {
            Ok(Flip::Moved {
                took,
                resource_version,
                preview_error,
            }) => {
                let took_ms = took.as_secs_f64() * 1000.0;
                let accepted = format!("The API server accepted the patch after {took_ms:.1} ms");
                incident.timeline.push(TimelineEntry::of(Moment::Patched, at, accepted));
                if let Some(error) = &preview_error {
                    let kept = format!("The preview Service was not swapped: {error}");
                    incident.timeline.push(TimelineEntry::remark(now, kept));
                }
                self.metrics.flip_duration.observe(took.as_secs_f64());
                tracing::warn!(guard = %id, to = %incident.case.to, took_ms, incident = %incident.id, "Traffic moved");
                incident.outcome = IncidentOutcome::RolledBack {
                    at,
                    took_ms,
                    resource_version,
                    preview_error,
                };
                // A person's switch calls no release bad.
                let topic = if automatic || bad {
                    Topic::RollbackCompleted
                } else {
                    Topic::Switched
                };
                self.record(&id, &incident, topic, record);
                self.verify(Arrival {
                    guard: id,
                    incident,
                    topic,
                    reply,
                });
                return;
            }
            Ok(Flip::Withheld) => {
                incident.outcome = IncidentOutcome::Withheld;
                Some(Topic::RollbackWithheld)
            }
            Ok(Flip::DryRun) => {
                incident.outcome = IncidentOutcome::DryRun;
                None
            }
            Ok(Flip::Stale) => {
                tracing::warn!(guard = %id, "Somebody else moved the route in between: looking again");
                incident.outcome = IncidentOutcome::Failed {
                    error: "somebody else moved the route in between".to_owned(),
                };
                None
            }
            Err(error) => {
                let error = tell::chain(&error);
                tracing::error!(guard = %id, %error, "Failed to flip");
                let failed = format!("Failed: {error}");
                incident.timeline.push(TimelineEntry::of(Moment::PatchFailed, at, failed));
                incident.outcome = IncidentOutcome::Failed { error };
                (!dry_run).then_some(Topic::RollbackFailed)
            }
        };
        if let Some(reply) = reply {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Ok(CommandReply::Flip {
                incident: Box::new(incident.clone()),
            }));
        }
        if let Some(topic) = topic
            && !self.repeated(&id, &incident.outcome, topic, now)
        {
            self.conclude(&id, incident, topic, record);
        }
    }

    /// Looks whether traffic has arrived, in a task of its own.
    fn verify(&mut self, arrival: Arrival) {
        let Some(guard) = self.guards.get(&arrival.guard) else { return };
        let (router, to, incident) = (
            Arc::clone(&guard.router),
            arrival.incident.case.to.clone(),
            arrival.incident.id.clone(),
        );
        self.arrivals.insert(incident.clone(), arrival);
        self.flips.spawn(async move {
            let verified = router.verify(&to).await;
            Step::Verified(incident, verified)
        });
    }

    /// Tells that traffic has arrived, or that it has not; `None`: the daemon stopped before it could look.
    fn arrived(&mut self, incident: &str, verified: Option<Result<Verified, RouterError>>, now: Timestamp) {
        let Some(Arrival {
            guard: id,
            mut incident,
            topic,
            reply,
        }) = self.arrivals.remove(incident)
        else {
            return;
        };
        let Some(guard) = self.guards.get(&id) else { return };
        let (entry, arrived) = verified.map_or_else(|| tell::unverified(now), |verified| tell::verified(now, verified));
        incident.timeline.push(entry.clone());
        let topic = if arrived { topic } else { Topic::RollbackFailed };
        self.outbox.push(tell::incident(&incident, topic, &self.keeper, &guard.spec));
        self.amend(incident.id.clone(), entry);
        if let Some(reply) = reply {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Ok(CommandReply::Flip {
                incident: Box::new(incident),
            }));
        }
    }

    /// Tells of flips whose arrival could not be looked at before the daemon had to stop.
    pub(super) fn stop_looking(&mut self, now: Timestamp) {
        let incidents: Vec<String> = self.arrivals.keys().cloned().collect();
        for incident in incidents {
            self.arrived(&incident, None, now);
        }
    }

    /// Whether the present episode has this outcome already. The same outcome may change its numbers from poll to poll:
    /// it is recorded once, and people hear of it again after a while.
    fn repeated(&mut self, id: &GuardId, outcome: &IncidentOutcome, topic: Topic, now: Timestamp) -> bool {
        let Some(guard) = self.guards.get_mut(id) else { return false };
        let Some(episode) = &mut guard.episode else { return false };
        if std::mem::discriminant(&episode.incident.outcome) != std::mem::discriminant(outcome)
            || matches!(outcome, IncidentOutcome::RolledBack { .. })
        {
            return false;
        }
        if show::since(now, episode.told_at) >= TELL_AGAIN {
            episode.told_at = now;
            episode.incident.outcome = outcome.clone();
            let mut message = tell::incident(&episode.incident, topic, &self.keeper, &guard.spec);
            message.at = now;
            message.id = format!("{}.{}.{}", episode.incident.id, topic.as_str(), now.as_millisecond());
            self.outbox.push(message);
        }
        true
    }

    /// Ends one act of an episode: message, Event, evidence, counters.
    fn conclude(&mut self, id: &GuardId, incident: Incident, topic: Topic, record: Option<String>) {
        if let Some(guard) = self.guards.get(id) {
            self.outbox.push(tell::incident(&incident, topic, &self.keeper, &guard.spec));
        }
        self.record(id, &incident, topic, record);
    }

    /// Records one act of an episode: Event, evidence, counters.
    fn record(&mut self, id: &GuardId, incident: &Incident, topic: Topic, record: Option<String>) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let told_at = incident.timeline.last().map_or(incident.case.at, |entry| entry.at);
        let folder = self.keeper.folder(&incident.id);
        guard.note(told_at, tell::line(topic, incident));
        guard.last_incident = Some(show::summary(incident, Some(folder.display().to_string())));
        guard.episode = Some(Episode {
            incident: incident.clone(),
            told_at,
        });
        let result = show::result(&incident.outcome);
        let trigger = if matches!(incident.case.trigger, Trigger::Manual { .. }) {
            "manual"
        } else {
            "automatic"
        };
        self.metrics.rollbacks.with_label_values(&[id.as_str(), result, trigger]).inc();
        let event = RouteEvent {
            warning: true,
            reason: tell::reason(topic).to_owned(),
            note: tell::line(topic, incident),
            at: told_at,
        };
        let router = Arc::clone(&guard.router);
        let keep = self.keep(id, incident.clone(), record);
        self.errand(async move {
            if let Err(error) = router.tell(&event).await {
                tracing::warn!(error = %tell::chain(&error), "Failed to record a Kubernetes Event");
            }
        });
        if let Some(keep) = keep {
            self.errand(keep);
        }
    }

    /// Captures the evidence of an incident, in the background.
    fn keep(&self, id: &GuardId, incident: Incident, record: Option<String>) -> Option<BoxFuture<'static, ()>> {
        let guard = self.guards.get(id)?;
        let (keeper, observer, spec) = (Arc::clone(&self.keeper), Arc::clone(&self.observer), Arc::clone(&guard.spec));
        let client = guard.cluster.reads().map_err(|error| tell::chain(&error));
        let id = id.clone();
        let ranges = Box::new(move |from: Timestamp, to: Timestamp| {
            async move {
                let step = show::step(from, to);
                observer.range(&id, from, to, step).await.map_err(|error| tell::chain(&error))
            }
            .boxed()
        });
        let keep = async move {
            let name = incident.id.clone();
            match keeper.keep(incident, &spec, Sources { record, client, ranges }).await {
                Ok(folder) => tracing::info!(incident = %name, folder = %folder.display(), "Evidence kept"),
                Err(error) => tracing::error!(incident = %name, error = %tell::chain(&error), "Failed to keep the evidence"),
            }
        };
        Some(keep.boxed())
    }

    /// Adds a line to an incident's story. The incident's own first line may still be on its way to the disk.
    pub(super) fn amend(&mut self, incident: String, entry: TimelineEntry) {
        let keeper = Arc::clone(&self.keeper);
        self.errand(async move {
            for left in (0..AMEND_TRIES).rev() {
                match keeper.amend(&incident, entry.clone()).await {
                    Err(EvidenceError::Missing { .. }) if left > 0 => tokio::time::sleep(AMEND_AGAIN).await,
                    Err(error) => {
                        tracing::warn!(%incident, error = %tell::chain(&error), "Failed to add to the evidence");
                        return;
                    }
                    Ok(()) => return,
                }
            }
        });
    }

    /// Runs something nobody waits for.
    fn errand(&mut self, errand: impl Future<Output = ()> + Send + 'static) {
        while self.errands.try_join_next().is_some() {}
        if self.errands.len() < ERRANDS_MAX {
            self.errands.spawn(errand);
        } else {
            tracing::error!(max = ERRANDS_MAX, "Too much is being recorded at once: one piece is dropped");
        }
    }

    /// A person's flip: the same road, with the target gate alone before it.
    pub(super) fn manual(&mut self, id: &GuardId, to: Option<Color>, who: (&str, &str), dry_run: bool, reply: Reply, now: Timestamp) {
        match self.manual_order(id, to, who, dry_run, now) {
            Ok(mut order) => {
                order.reply = Some(reply);
                self.start(id, order);
            }
            Err(error) => {
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

    fn manual_order(
        &mut self,
        id: &GuardId,
        to: Option<Color>,
        who: (&str, &str),
        dry_run: bool,
        now: Timestamp,
    ) -> Result<Order, CommandError> {
        let guard = self.guards.get(id).ok_or_else(|| CommandError::UnknownGuard(id.to_string()))?;
        if guard.flipping {
            return Err(CommandError::Busy);
        }
        let seen = Observation {
            at: now,
            view: guard.router.view(),
            readings: std::collections::BTreeMap::new(),
        };
        let traffic = match &seen.view {
            View::Known(traffic) => traffic,
            View::UnknownColor { found, known } => return Err(CommandError::Failed(tell::unknown_color(found.as_deref(), known))),
            View::Unreadable(why) => return Err(CommandError::Failed(why.clone())),
        };
        let bad = to.is_none();
        let to = to.unwrap_or_else(|| traffic.standby.clone());
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
        let release = traffic.sides.get(&to).and_then(|side| side.release.as_ref());
        if let Some(release) = release.filter(|release| bad && traffic.ledger.is_bad(&release.id)) {
            // A repeated request must not bring back what the first one left; who means it says `switch`.
            let refusal = Refusal::StandbyKnownBad {
                release: release.id.clone(),
            };
            return Err(CommandError::Refused(format!(
                "{refusal}; `flipback switch {id} {to}` moves traffic there all the same"
            )));
        }
        let trigger = Trigger::Manual {
            by: who.0.to_owned(),
            reason: who.1.to_owned(),
        };
        let case = guard
            .engine
            .manual(&seen, &to, trigger)
            .map_err(|refusal| CommandError::Refused(refusal.to_string()))?;
        let incident = guard.incident(case, traffic.seen.clone());
        Ok(Order {
            incident,
            automatic: false,
            bad,
            dry_run,
            reply: None,
        })
    }

    /// Writes or removes the pause on the guarded object; the next look sees it, as it would see anybody's.
    pub(super) fn pause(&mut self, id: &GuardId, pause: Option<Pause>, reply: Reply) -> Option<(Reply, CommandError)> {
        let Some(guard) = self.guards.get(id) else {
            return Some((reply, CommandError::UnknownGuard(id.to_string())));
        };
        let router = Arc::clone(&guard.router);
        let what = if pause.is_some() {
            "paused: nothing will be flipped until it is resumed"
        } else {
            "resumed"
        };
        let id = id.clone();
        self.errand(async move {
            let answer = match router.pause(pause).await {
                Ok(()) => Ok(CommandReply::Done {
                    what: format!("{id} is {what}"),
                }),
                Err(error) => Err(CommandError::Failed(tell::chain(&error))),
            };
            // A caller that went away is no concern of ours.
            let _ = reply.send(answer);
        });
        None
    }
}
