//! From a decision to a moved Service, and the story of it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Episode, Guarded, Monitor, TELL_AGAIN, arrive::Arrival, caught::caught, hold, late, person::Asked, relieve::Went, scale::Raised, show,
    tell,
};
use crate::{
    evidence,
    model::{
        Actor, Announcement, Case, Clock, CommandError, CommandReply, Decision, FlipRecord, GuardId, Incident, IncidentOutcome, Mode,
        Moment, Phase, Seen, TimelineEntry, Topic, Traffic, Trigger, View,
        incident::{INCIDENT_SCHEMA, SWITCH},
    },
    router::{Flip, FlipOrder, RouteEvent, Router, RouterError, Verified},
};

/// How the remark begins that an incident goes on with what an earlier attempt announced.
const EARLIER: &str = "An earlier attempt";

/// Where a command's answer goes.
pub(super) type Reply = oneshot::Sender<Result<CommandReply, CommandError>>;

/// One flip to carry out.
pub(super) struct Order {
    pub incident: Incident,
    /// A rule's flip, not a person's.
    pub automatic: bool,
    /// The release that is left is thereby marked as bad.
    pub bad: bool,
    pub dry_run: bool,
    /// The newest flip in the ledger when it was decided, by its incident.
    pub known: Option<String>,
    pub reply: Option<Reply>,
}

/// What came of a flip.
pub(super) struct Done {
    guard: GuardId,
    order: Order,
    flip: Result<Flip, RouterError>,
    at: Timestamp,
}

/// What a flip's tasks bring back.
pub(super) enum Step {
    /// The patch was answered, or not.
    Flipped(Box<Done>),
    /// A look at where traffic goes now, of this incident.
    Verified(String, Result<Verified, RouterError>),
    /// A request to scale the standby up was answered, or not.
    Raised(Box<Raised>),
    /// Some pods of the color that was left were taken out of service, or not.
    Went(Box<Went>),
}

impl Guarded {
    /// A new incident; every attempt is one, so that the ledger, the folder and the messages name the same.
    pub(super) fn incident(&self, case: Case, seen: Seen) -> Incident {
        let at = case.at;
        let waited = self.waited(&case);
        let mut timeline: Vec<TimelineEntry> = waited.map(told_on).unwrap_or_default();
        timeline.push(TimelineEntry::of(Moment::Decided, at, format!("Decided: {}", case.why)));
        // Told of, and caught by a kill before its bundle was begun: the outbox alone knows of it.
        let told = self.left_open.iter().rev().find(|open| open.topic == Topic::RollbackInitiated);
        let cut_off = self.remains.cut_off().filter(|cut_off| cut_off.case.from == case.from);
        let mut announced_by = None;
        if let Some(failed) = self.failed() {
            announced_by = announcer(failed);
            timeline.push(TimelineEntry::remark(at, format!("{EARLIER} had failed: {}", failed.id)));
        } else if let Some(cut_off) = cut_off.filter(|_| matches!(case.trigger, Trigger::Rule { .. })) {
            announced_by = announcer(cut_off);
            let remark = format!("{EARLIER} was cut off when flipback ended: {}", cut_off.id);
            timeline.push(TimelineEntry::remark(at, remark));
        } else if let Some(told) = told.filter(|_| self.open.is_none() && matches!(case.trigger, Trigger::Rule { .. })) {
            announced_by.clone_from(&told.incident);
            let remark = format!("{EARLIER} was cut off when flipback ended: {}", told.thread);
            timeline.push(TimelineEntry::remark(at, remark));
        }
        let open = self.open.as_ref().map(|open| open.thread().to_owned());
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
            thread: open.or_else(|| told.map(|told| told.thread.clone())),
            announced_by,
            replaces: waited.map(|waited| waited.id.clone()),
            followed_up_at: None,
            outcome: IncidentOutcome::Decided,
            partial: false,
            timeline,
            capture_errors: Vec::new(),
        }
    }

    /// Whether nothing is wrong at this look.
    pub(super) fn is_calm(&self, decision: &Decision) -> bool {
        let well = matches!(decision.phase, Phase::Watching | Phase::Steady);
        well && !self.flipping && !self.scaling.is_wished() && decision.rules.iter().all(|rule| rule.streak == 0)
    }

    /// How long that has to last. A color that has just become active is not calm, it is not judged yet: an interval of
    /// evidence has to pass.
    pub(super) fn patience(&self) -> Duration {
        let policy = &self.spec.policy;
        policy.stretch + policy.warm_up.max(policy.warm_up_latency)
    }

    /// The incident that has waited for the standby to be scaled up, for what is decided or refused now: one bad time is one incident.
    fn waited(&self, case: &Case) -> Option<&Incident> {
        let open = self.open.as_deref()?;
        let same = open.case.from == case.from && open.case.to == case.to;
        (same && tell::topic(open) == Topic::ScalingUp).then_some(open)
    }

    /// The failed attempt that the present episode consists of so far.
    fn failed(&self) -> Option<&Incident> {
        let incident = self.episode.as_ref()?.incident.as_ref();
        matches!(incident.outcome, IncidentOutcome::Failed { .. }).then_some(incident)
    }
}

/// Whether an incident is a flip that was tried.
fn is_attempt(incident: &Incident) -> bool {
    let flips = matches!(
        incident.outcome,
        IncidentOutcome::Decided | IncidentOutcome::RolledBack { .. } | IncidentOutcome::Failed { .. }
    );
    flips && incident.mode == Mode::Enforce
}

/// Whether an incident has a first message of its own, which says that a flip is under way: one that goes on with an
/// earlier attempt has none.
pub(super) fn is_announced(incident: &Incident) -> bool {
    let goes_on = |entry: &TimelineEntry| entry.moment.is_none() && entry.what.starts_with(EARLIER);
    is_attempt(incident) && !incident.is_switch() && !incident.timeline.iter().any(goes_on)
}

/// The attempt by whose name the first message of an incident goes: its own, or the one of those before it that had one.
pub(super) fn announcer(incident: &Incident) -> Option<String> {
    let own = is_announced(incident).then(|| incident.id.clone());
    own.or_else(|| incident.announced_by.clone().filter(|_| is_attempt(incident)))
}

/// The story of an incident, for the one that tells it on: decided is what comes now.
fn told_on(waited: &Incident) -> Vec<TimelineEntry> {
    let mut story = waited.timeline.clone();
    for entry in &mut story {
        entry.moment = entry.moment.filter(|moment| *moment != Moment::Decided);
    }
    story
}

/// What the pods of the color that is left report to run: the digests behind the tags. From the caches, so that nothing waits.
fn images(router: &dyn Router, case: &Case) -> Option<Vec<String>> {
    let View::Known(mut traffic) = router.view() else { return None };
    let side = traffic.sides.remove(&case.from)?;
    (!side.images.is_empty()).then_some(side.images)
}

/// Sends the patch and, when it moved traffic, looks whether it arrived.
async fn carry_out(guard: GuardId, router: Arc<dyn Router>, order: Order, clock: Clock) -> Step {
    let incident = &order.incident;
    let case = &incident.case;
    let mut record = FlipRecord::of(case, &incident.id);
    record.bad = order.bad;
    record.thread.clone_from(&incident.thread);
    if let Some(images) = images(&*router, case) {
        record.from_images = images;
    }
    let wish = FlipOrder {
        seen: incident.seen.clone(),
        from: case.from.clone(),
        to: case.to.clone(),
        record,
        known: order.known.clone(),
        dry_run: order.dry_run,
    };
    let flip = caught(router.flip(&wish), &incident.object).await;
    let at = clock.now();
    Step::Flipped(Box::new(Done { guard, order, flip, at }))
}

impl Monitor {
    /// Starts a flip in a task of its own, queues the first message and begins the evidence; nothing waits for any of them.
    pub(super) fn start(&mut self, id: &GuardId, order: Order) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        guard.flipping = true;
        // Before the next look: between two of them a shard could be handed over under a flip that a person asked for.
        self.occupy();
        let Some(guard) = self.guards.get_mut(id) else { return };
        let automatic = order.automatic;
        if automatic && !order.dry_run && guard.spec.mode == Mode::Enforce {
            self.holds.begun(id, order.incident.case.at);
        }
        let router = Arc::clone(&guard.router);
        let (incident, dry_run) = (order.incident.clone(), order.dry_run);
        self.flips.spawn(carry_out(id.clone(), router, order, self.clock.clone()));
        // Written out only now: the flip does not wait for its own record.
        guard.decided_on = if automatic { guard.recorder.trace() } else { None };
        if dry_run {
            return;
        }
        guard.remains.is_ours(&incident.id);
        tracing::warn!(guard = %id, from = %incident.case.from, to = %incident.case.to, incident = %incident.id, why = %incident.case.why, "Flipping");
        // What an earlier run told may have got as far as some chats, and not others: pushed again, by the same name. What this run
        // told got to all of them.
        let first = tell::first(&incident, &self.keeper, &guard.spec).filter(|_| guard.failed().is_none());
        if let Some(first) = first {
            self.outbox.push(first);
        }
        if is_announced(&incident) {
            // Told of from here on: what ends it must be told too, be the flip stale or its answer never seen.
            guard.open = Some(Arc::new(incident.clone()));
        }
        self.audited(&incident, "decided", &incident.case.why, incident.case.at);
        self.begin_evidence(id, incident);
    }

    /// Writes down beside the flip that it is on its way: what the next run finds, should this one end before its answer.
    /// In monitor mode none is, and the outcome is known at once.
    fn begin_evidence(&mut self, id: &GuardId, incident: Incident) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        if incident.mode == Mode::Monitor {
            return;
        }
        let begun = CancellationToken::new();
        // Done when the errand is, however that ends.
        let done = begun.clone().drop_guard();
        guard.begun = Some(begun);
        let (keeper, spec, record) = (Arc::clone(&self.keeper), Arc::clone(&guard.spec), guard.decided_on.clone());
        self.errand(async move {
            let _done = done;
            if let Err(error) = keeper.begin(&incident, &spec, record).await {
                tracing::warn!(incident = %incident.id, error = %tell::chain(&error), "Failed to begin the evidence: tried again after the flip");
            }
        });
    }

    /// Lets go of the evidence that was begun for a flip which came to nothing and is no incident.
    fn discard_evidence(&mut self, begun: Option<CancellationToken>, incident: String) {
        let Some(begun) = begun else { return };
        let keeper = Arc::clone(&self.keeper);
        self.errand(async move {
            begun.cancelled().await;
            if let Err(error) = keeper.discard(&incident).await {
                tracing::warn!(%incident, error = %tell::chain(&error), "Failed to let go of what was begun");
            }
        });
    }

    /// A confirmed breach that is not carried out: told and recorded once, and told again while it lasts.
    pub(super) fn refuse(&mut self, id: &GuardId, case: &Case, seen: Seen, outcome: IncidentOutcome, asked: Option<&Asked>, why: &str) {
        let topic = tell::topic_of(&outcome);
        let now = case.at;
        let many = hold::is_of_the_fleet(&outcome);
        if many {
            self.held_back(id);
        }
        if self.repeated(id, &outcome, topic, now) {
            return;
        }
        let Some(guard) = self.guards.get_mut(id) else { return };
        let mut incident = guard.incident(case.clone(), seen);
        if asked.is_some_and(|asked| !asked.bad) {
            incident.timeline.push(TimelineEntry::remark(now, SWITCH));
        }
        incident.timeline.push(TimelineEntry::remark(now, why));
        incident.outcome = outcome;
        tracing::error!(guard = %id, incident = %incident.id, why, "Not flipped");
        // What a person asked for was decided by nobody.
        let ruled = matches!(case.trigger, Trigger::Rule { .. });
        let record = guard.recorder.trace().filter(|_| ruled);
        if many {
            // Told of with the others, once for all of them.
            self.record(id, &incident, topic, record);
        } else {
            self.conclude(id, incident, topic, record);
        }
    }

    /// What came of a flip: told, recorded, counted, answered.
    pub(super) fn settled(&mut self, step: Result<Step, tokio::task::JoinError>, now: Timestamp) {
        match step {
            Ok(Step::Flipped(done)) => self.flipped(*done, now),
            Ok(Step::Verified(incident, verified)) => self.arrived(&incident, Some(verified), now),
            Ok(Step::Raised(raised)) => self.raised(*raised, now),
            Ok(Step::Went(went)) => self.went(*went, now),
            Err(error) => {
                tracing::error!(%error, "A flip's task ended without an answer");
                for guard in self.guards.values_mut() {
                    guard.flipping = false;
                    guard.scaling.stop_asking();
                    guard.relief.stop_asking();
                }
                // It may have been a look whether traffic arrived.
                self.look_anew(now);
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
            known: _,
            reply,
        } = order;
        // What led to it, where it was decided rather than asked for.
        let (record, begun) = match self.guards.get_mut(&id) {
            Some(guard) => {
                guard.flipping = false;
                (guard.decided_on.take(), guard.begun.take())
            }
            None => (None, None),
        };
        if let Err(error @ RouterError::NotLeading { .. }) = flip {
            if automatic {
                self.holds.nothing_moved(&id);
            }
            self.overtaken(&id, &incident, &error, reply, at);
            self.discard_evidence(begun, incident.id);
            return;
        }
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
                self.made_again(&id, &incident, at);
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
                self.audited(&incident, "stale", "somebody else moved the route in between", at);
                incident.outcome = IncidentOutcome::Failed {
                    error: "somebody else moved the route in between".to_owned(),
                };
                None
            }
            Err(error) => {
                let lost = !dry_run && late::may_come_through(&error);
                let error = tell::chain(&error);
                tracing::error!(guard = %id, %error, "Failed to flip");
                let failed = format!("Failed: {error}");
                let decided = incident.clone();
                incident.timeline.push(TimelineEntry::of(Moment::PatchFailed, at, failed));
                incident.outcome = IncidentOutcome::Failed { error };
                let guard = self.guards.get_mut(&id).filter(|_| lost);
                let seen = guard.and_then(|guard| guard.unanswered(&incident));
                if let Some(seen) = seen {
                    self.seen_instead(&id, decided, seen, record, reply, now);
                    return;
                }
                let moot = lost && self.guards.get(&id).is_some_and(|guard| guard.is_there_already(&incident));
                (!dry_run && !moot).then_some(Topic::RollbackFailed)
            }
        };
        // A rule's flip alone is counted; that traffic was not moved is known of every outcome that gets here.
        if automatic {
            self.holds.nothing_moved(&id);
        }
        if let Some(reply) = reply {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Ok(CommandReply::Flip {
                incident: Box::new(incident.clone()),
            }));
        }
        match topic {
            Some(topic) if !self.repeated(&id, &incident.outcome, topic, now) => self.conclude(&id, incident, topic, record),
            _ => self.discard_evidence(begun, incident.id),
        }
    }

    /// The story of a rollback that somebody undid says that it was made again.
    fn made_again(&mut self, id: &GuardId, incident: &Incident, at: Timestamp) {
        let Trigger::Reassert { attempt, of, .. } = &incident.case.trigger else {
            return;
        };
        let undone = self
            .guards
            .get(id)
            .and_then(|guard| guard.last.as_ref())
            .map(|last| last.id.clone());
        if let Some(undone) = undone {
            let what = format!("The rollback was made again, attempt {attempt} of {of}: {}", incident.id);
            self.amend(undone, TimelineEntry::of(Moment::MadeAgain, at, what));
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
        // That a standby did not come up in time is news; that it is waited for again afterwards is none. Where nothing is
        // scaled, since nothing is written, it could not come up.
        let told = tell::topic(&episode.incident);
        if told == Topic::ScalingUp && topic == Topic::RollbackBlocked && guard.spec.mode == Mode::Enforce {
            return false;
        }
        let (was, is) = (hold::held(&episode.incident.outcome), hold::held(outcome));
        if was != is {
            return false;
        }
        // A window says itself when it ends, and of many guards people are told together.
        if is.is_none() && show::since(now, episode.told_at) >= TELL_AGAIN {
            episode.told_at = now;
            Arc::make_mut(&mut episode.incident).outcome = outcome.clone();
            let mut message = tell::incident(&episode.incident, topic, &self.keeper, &guard.spec);
            message.at = now;
            episode.told += 1;
            message.id = tell::message_id(&episode.incident.id, topic, episode.told);
            self.outbox.push(message);
        }
        true
    }

    /// Ends one act of an episode: message, Event, evidence, counters.
    pub(super) fn conclude(&mut self, id: &GuardId, incident: Incident, topic: Topic, record: Option<String>) {
        if let Some(guard) = self.guards.get(id) {
            self.outbox.push(tell::incident(&incident, topic, &self.keeper, &guard.spec));
        }
        self.record(id, &incident, topic, record);
    }

    /// Records one act of an episode: Event, evidence, counters.
    pub(super) fn record(&mut self, id: &GuardId, incident: &Incident, topic: Topic, record: Option<String>) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let told_at = incident.timeline.last().map_or(incident.case.at, |entry| entry.at);
        let folder = self.keeper.folder(&incident.id);
        guard.note(told_at, tell::line(topic, incident));
        guard.thread = Some(incident.thread().to_owned());
        let remembered = Arc::new(incident.clone());
        guard.last = Some(Arc::clone(&remembered));
        // A person's switch that ends a bad time continues its thread until the guard is calm; by itself it opens none.
        if topic != Topic::Switched {
            guard.open = Some(Arc::clone(&remembered));
        }
        let report = self
            .keeper
            .link(&incident.id)
            .or_else(|| self.served.then(|| show::served(&incident.id)));
        guard.last_incident = Some(show::summary(incident, Some(folder.display().to_string()), report));
        guard.episode = Some(Episode {
            incident: remembered,
            told_at,
            told: 1,
        });
        // This one has the thread now, and is its proof.
        let cut_off = guard.remains.take_cut_off();
        if let Some(replaced) = &incident.replaces {
            self.follow_ups.remove(replaced);
        }
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
        self.audited(incident, result, &tell::line(topic, incident), told_at);
        let keep = self.keep(id, incident.clone(), topic, record);
        self.errand(async move {
            if let Err(error) = router.tell(&event).await {
                tracing::warn!(error = %tell::chain(&error), "Failed to record a Kubernetes Event");
            }
        });
        if let Some(keep) = keep {
            self.errand(keep);
        }
        for attempt in cut_off {
            self.let_go(&attempt, told_at);
        }
    }

    /// Writes what became of an incident into the journal, with who asked for it.
    pub(super) fn audited(&self, incident: &Incident, action: &str, why: &str, at: Timestamp) {
        let actor = match &incident.case.trigger {
            Trigger::Manual { by, .. } => Actor::Person { name: by.clone() },
            Trigger::Rule { .. } | Trigger::Reassert { .. } => Actor::Flipback,
        };
        self.audit(at, actor, Some(&incident.case.guard), action, why, Some(&incident.id));
    }

    /// A bad time is over once the guard is calm: whatever ended it, the thread that it began is closed. After a rollback the
    /// recovery of the restored color closes it; this is for all the other ends.
    pub(super) fn calm(&mut self, id: &GuardId, decision: &Decision, traffic: &Traffic, now: Timestamp) {
        let arriving = self.arriving(id);
        let Some(guard) = self.guards.get_mut(id) else { return };
        if arriving || !guard.is_calm(decision) || guard.open.is_none() {
            guard.calm_since = None;
            return;
        }
        if show::since(now, *guard.calm_since.get_or_insert(now)) < guard.patience() {
            return;
        }
        let Some(incident) = guard.open.take() else { return };
        let lasted = tell::people(show::since(now, incident.case.at));
        let what = format!(
            "Over after {lasted}: {} is active. {}",
            traffic.active,
            show::sentence(&decision.why)
        );
        guard.note(now, what.clone());
        let times = tell::times(&incident, Moment::Resolved) + 1;
        let entry = TimelineEntry::of(Moment::Resolved, now, what);
        let over = tell::resolved(&incident, traffic, &entry, times, &self.keeper, &guard.spec);
        // Of a guard that was held since many failed, people were told together.
        if hold::is_of_the_fleet(&incident.outcome) && incident.thread() == incident.id {
            self.amend(incident.id.clone(), entry);
            return;
        }
        if guard.remains.cut_off().is_some() {
            // Kept right below, as what they were.
            let evidence = Some(self.keeper.place(&incident.id));
            let link = self.keeper.link(&incident.id);
            self.outbox.push(Announcement { evidence, link, ..over });
            self.keep_cut_off(id, entry);
        } else {
            let told = self.outbox.push(over);
            if tell::leaves_evidence(&incident, &self.keeper) {
                self.amend_told(incident.id.clone(), entry, told);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
