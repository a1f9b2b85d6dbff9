//! What earlier runs left is taken up: a flip that was made is looked at, told and proven once, however its process died.
//!
//! Three places survive a kill: the guarded object with its ledger, written in the same patch as the flip; the bundles on
//! disk, begun beside the flip; the outbox, which remembers what each chat has accepted. From these [`plan`], which is pure,
//! says what is owed; the rest of the file does it. Principles:
//! - The ledger alone says whether traffic was moved. A bundle that was begun and is not in it has moved nothing, so far:
//!   a patch may still be on its way into the API server when we look for the first time, so it is asked again at each look.
//! - No flip is ever made here. The engine begins empty, and what is still bad is decided anew from new evidence; that
//!   attempt goes on with the thread of the one that was cut off, and the bundle of the cut-off one is let go for it.
//! - Nothing is told twice: a message's name is the incident's and the topic's, so that pushing it again is harmless.
//! - Only what is young is taken up from the ledger or told again: an empty data folder is no reason to tell old stories.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use jiff::Timestamp;

use super::{Guarded, Monitor, act::Reply, arrive::Arrival, hold, keep, show, tell};
use crate::model::{
    Actor, AuditEntry, Case, FlipRecord, GuardId, GuardSpec, Incident, IncidentOutcome, Ledger, Mode, Moment, Path, Release, RouteSpec,
    RuleKind, RuleName, TimelineEntry, Topic, Trigger, View, file_segment,
    incident::{INCIDENT_SCHEMA, SWITCH},
    traffic::Traffic,
};

/// What is older is not taken up from the ledger alone, nor verified or told again. Restarts take seconds to minutes.
pub(super) const YOUNG: Duration = Duration::from_secs(60 * 60);
/// A request whose sender died may still be carried out by the API server, which ends each after a minute by default.
const LATE: Duration = Duration::from_secs(60);
/// How often the preview Service is tried to be brought along: with the pauses below for some minutes.
const FINISH_TRIES: usize = 8;
/// Before the first further try.
const FINISH_AGAIN_MIN: Duration = Duration::from_secs(1);
/// Before any.
const FINISH_AGAIN_MAX: Duration = Duration::from_secs(60);
/// Incidents of one guard whose messages are told again.
const RETOLD_MAX: usize = 5;
/// What became of an attempt that nobody went on with.
const CUT_OFF: &str = "flipback ended before the flip was made; nothing was moved";

/// What earlier runs left of one guard.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Begun and not kept, oldest first: what became of these nobody has said.
    begun: Vec<Incident>,
    /// Kept lately, oldest first.
    kept: Vec<Incident>,
    /// Every incident that has a bundle, be it somebody else's in the making; one list for all guards, for it is as long as retention
    /// allows.
    known: Arc<BTreeSet<String>>,
    /// Those that got theirs since, and those that lost it.
    made: BTreeSet<String>,
    dropped: BTreeSet<String>,
    /// Begun ones whose thread waits for the next attempt.
    waiting: BTreeSet<String>,
    /// Flips whose preview was looked after.
    followed: BTreeSet<String>,
    /// The newest flip of the ledger, and when it came; `None`: it was there when this run first looked.
    seen: Option<(String, Option<Timestamp>)>,
    /// When this run began.
    started: Timestamp,
    /// What is done once was done.
    looked: bool,
    /// What the ledger tells of is taken up if it is younger than this.
    reach: Duration,
}

/// One thing that is owed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    /// It was begun, and the ledger tells that it moved traffic.
    Complete(Box<Incident>, FlipRecord),
    /// The ledger tells of it, and there is no bundle.
    Recall(FlipRecord),
    /// It was begun and never moved traffic; the next attempt of the same bad time goes on with its thread.
    Wait(Box<Incident>),
    /// It was begun and never moved traffic, and a later attempt has its thread already.
    LetGo(Box<Incident>),
    /// A person's, begun, and it never moved traffic: nobody will try again by themselves.
    GiveUp(Box<Incident>),
    /// It is kept, and nobody has seen whether traffic arrived.
    Verify(Box<Incident>, Option<FlipRecord>),
    /// It is kept; what its story owes is pushed again.
    Tell(Box<Incident>, Option<FlipRecord>),
    /// What follows the route may have been left behind.
    Finish(FlipRecord),
}

/// How it is known that a patch was accepted, where its answer was never seen.
pub(super) struct Patched {
    /// When that was, as far as is known.
    pub at: Timestamp,
    /// The journal's word for it.
    pub action: &'static str,
    /// For people.
    pub what: String,
    /// The trace that led to it, where this run still has it.
    pub record: Option<String>,
    /// Whoever waits for the answer.
    pub reply: Option<Reply>,
}

impl Remains {
    /// What is left of a guard, of what was begun, what is kept, and the names of all bundles.
    pub(super) fn of(guard: &GuardId, begun: &[Incident], kept: &[Incident], known: &Arc<BTreeSet<String>>, started: Timestamp) -> Self {
        let of_it = |incident: &&Incident| incident.case.guard == *guard;
        let by_age = |mut incidents: Vec<Incident>| {
            incidents.sort_by(|a, b| (a.case.at, &a.id).cmp(&(b.case.at, &b.id)));
            incidents
        };
        let young = |incident: &&Incident| show::since(started, incident.case.at) < YOUNG;
        let mut kept = by_age(kept.iter().filter(of_it).filter(young).cloned().collect());
        let surplus = kept.len().saturating_sub(RETOLD_MAX);
        kept.drain(..surplus);
        Self {
            begun: by_age(begun.iter().filter(of_it).cloned().collect()),
            kept,
            known: Arc::clone(known),
            made: BTreeSet::new(),
            dropped: BTreeSet::new(),
            waiting: BTreeSet::new(),
            followed: BTreeSet::new(),
            seen: None,
            started,
            looked: false,
            reach: YOUNG,
        }
    }

    /// Another replica led until now: of what it did, only what it flipped within `reach` may be unfinished. `known` are the bundles
    /// that this replica has by now.
    pub(super) fn inherit(&mut self, guard: &GuardId, known: Arc<BTreeSet<String>>, reach: Duration, now: Timestamp) {
        let former = std::mem::replace(&mut self.known, known);
        // What retention took since is no reason to make it anew.
        let own = former.iter().filter(|id| id.starts_with(&guard.file_name()));
        self.made.extend(own.filter(|id| !self.known.contains(*id)).cloned());
        self.dropped.retain(|id| !self.known.contains(id));
        if self.looked {
            self.kept.clear();
        }
        self.started = now;
        self.looked = false;
        self.reach = reach;
    }

    /// Whether this run has looked after what earlier ones left.
    pub(super) fn has_looked(&self) -> bool {
        self.looked
    }

    /// Other replicas guarded it until now: what the ledger tells of and no bundle here does was told and kept by them.
    pub(super) fn is_told_by_others(&mut self) {
        self.reach = Duration::ZERO;
    }

    /// Whether nothing can be owed any more.
    fn is_over(&self, now: Timestamp) -> bool {
        self.looked && self.begun.is_empty() && show::since(now, self.started) >= LATE
    }

    /// The attempt that an earlier run began and did not carry out, while the next one is waited for.
    pub(super) fn cut_off(&self) -> Option<&Incident> {
        self.begun.iter().rev().find(|incident| self.waiting.contains(&incident.id))
    }

    /// Stops waiting for the next attempt: takes out those that were cut off.
    pub(super) fn take_cut_off(&mut self) -> Vec<Incident> {
        let waiting = std::mem::take(&mut self.waiting);
        let (cut_off, rest) = std::mem::take(&mut self.begun)
            .into_iter()
            .partition(|incident| waiting.contains(&incident.id));
        self.begun = rest;
        // Its bundle goes. Should its patch come through all the same, the ledger alone tells of it.
        self.made.retain(|made| !waiting.contains(made));
        self.dropped.extend(waiting);
        cut_off
    }

    fn has_bundle(&self, incident: &str) -> bool {
        self.made.contains(incident) || (self.known.contains(incident) && !self.dropped.contains(incident))
    }

    fn has_made(&mut self, incident: &str) {
        self.dropped.remove(incident);
        self.made.insert(incident.to_owned());
    }

    /// Notes which flip is the newest, whoever acts for the guard: who takes over has no other clock to date it by.
    pub(super) fn sees(&mut self, ledger: &Ledger, now: Timestamp) {
        let newest = ledger.last().map_or("", |flip| &flip.incident);
        match &self.seen {
            Some((seen, _)) if seen == newest => {}
            Some(_) => self.seen = Some((newest.to_owned(), Some(now))),
            None => self.seen = Some((newest.to_owned(), None)),
        }
    }

    /// A flip of this run begins: what becomes of it is told by who makes it.
    pub(super) fn is_ours(&mut self, incident: &str) {
        self.has_made(incident);
    }

    /// Notes what is being done.
    pub(super) fn note(&mut self, deeds: &[Deed]) {
        self.looked = true;
        for deed in deeds {
            match deed {
                Deed::Wait(incident) => {
                    self.waiting.insert(incident.id.clone());
                }
                Deed::Complete(incident, _) | Deed::LetGo(incident) | Deed::GiveUp(incident) => {
                    self.begun.retain(|begun| begun.id != incident.id);
                    self.waiting.remove(&incident.id);
                    if matches!(deed, Deed::LetGo(_)) {
                        self.made.remove(&incident.id);
                        self.dropped.insert(incident.id.clone());
                    } else {
                        self.has_made(&incident.id);
                    }
                }
                Deed::Recall(flip) => self.has_made(&flip.incident),
                Deed::Finish(flip) => {
                    self.followed.insert(flip.incident.clone());
                }
                Deed::Verify(..) | Deed::Tell(..) => {}
            }
        }
    }
}

/// What is owed, from what is left and what the object tells now.
pub(super) fn plan(remains: &Remains, traffic: &Traffic, spec: &GuardSpec, now: Timestamp) -> Vec<Deed> {
    let flips = &traffic.ledger.flips;
    let told_of = |incident: &str| flips.iter().rev().find(|flip| flip.incident == incident);
    let mut deeds: Vec<Deed> = Vec::new();
    for (nth, incident) in remains.begun.iter().enumerate() {
        let boxed = || Box::new(incident.clone());
        let later = remains.begun.iter().skip(nth + 1).chain(&remains.kept);
        let goes_on = later
            .filter(|later| later.case.at >= incident.case.at)
            .any(|later| later.id != incident.id && later.thread() == incident.thread());
        // The patch compares: once another color is active it cannot be accepted any more.
        let may_land = traffic.active == incident.case.from && show::since(now, remains.started) < LATE;
        let by_person = matches!(incident.case.trigger, Trigger::Manual { .. });
        deeds.extend(match told_of(&incident.id) {
            Some(flip) => Some(Deed::Complete(boxed(), flip.clone())),
            None if goes_on => Some(Deed::LetGo(boxed())),
            None if by_person && may_land => None,
            None if by_person => Some(Deed::GiveUp(boxed())),
            None if remains.waiting.contains(&incident.id) => None,
            None => Some(Deed::Wait(boxed())),
        });
    }
    // Whoever flipped may have had a clock that is ahead of ours, or behind: what we saw come is dated by our own.
    let came = |flip: &FlipRecord| {
        remains
            .seen
            .as_ref()
            .filter(|(seen, _)| *seen == flip.incident)
            .and_then(|(_, came)| *came)
    };
    let earlier = |flip: &FlipRecord| {
        let before_our_time = !remains.looked && came(flip).is_none() && flip.at > now;
        before_our_time || flip.at < remains.started || came(flip).is_some_and(|at| at < remains.started)
    };
    let age = |flip: &FlipRecord| show::since(now, came(flip).map_or(flip.at, |at| at.max(flip.at)));
    let young = |flip: &&FlipRecord| earlier(flip) && age(flip) < remains.reach;
    let last = traffic.ledger.last().filter(young);
    let has_bundle = |flip: &&FlipRecord| remains.has_bundle(&file_segment(&flip.incident));
    deeds.extend(last.filter(|flip| !has_bundle(flip)).map(|flip| Deed::Recall(flip.clone())));
    let RouteSpec::Service(route) = &spec.route;
    let follows = route.preview.is_some() && spec.mode == Mode::Enforce;
    let behind = |flip: &&FlipRecord| follows && flip.to == traffic.active && !remains.followed.contains(&flip.incident);
    deeds.extend(last.filter(behind).map(|flip| Deed::Finish(flip.clone())));
    if remains.looked {
        return deeds;
    }
    for (nth, incident) in remains.kept.iter().enumerate() {
        let flip = told_of(&incident.id).cloned();
        // What came after it, and moved nothing, has no part in that.
        let newest = flip.is_some() || nth + 1 == remains.kept.len();
        if newest && moved_unseen(incident) && flip.as_ref() == traffic.ledger.last() {
            deeds.push(Deed::Verify(Box::new(incident.clone()), flip.clone()));
        }
        deeds.push(Deed::Tell(Box::new(incident.clone()), flip));
    }
    deeds
}

/// Whether it moved traffic, and nobody has seen whether that arrived.
fn moved_unseen(incident: &Incident) -> bool {
    let seen = |entry: &TimelineEntry| matches!(entry.moment, Some(Moment::Arrived | Moment::NotArrived));
    matches!(incident.outcome, IncidentOutcome::RolledBack { .. }) && !incident.timeline.iter().any(seen)
}

/// An incident as far as the ledger alone tells it.
fn recalled(flip: &FlipRecord, traffic: &Traffic, spec: &GuardSpec) -> Incident {
    let release = |color| traffic.sides.get(color).and_then(|side| side.release.clone());
    let ready = |color| traffic.sides.get(color).map_or(0, |side| side.ready);
    let left = flip.from_release.as_ref().map(|id| {
        release(&flip.from).filter(|release| release.id == *id).unwrap_or_else(|| Release {
            id: id.clone(),
            images: Vec::new(),
        })
    });
    let rule = RuleName::new(&flip.trigger).ok().filter(|_| flip.automatic);
    let trigger = match rule {
        Some(rule) => Trigger::Rule {
            path: path(&rule, spec),
            rule,
        },
        None => {
            let (by, reason) = flip.why.split_once(": ").unwrap_or(("somebody", &flip.why));
            Trigger::Manual {
                by: by.to_owned(),
                reason: reason.to_owned(),
            }
        }
    };
    let mut timeline = vec![TimelineEntry::of(Moment::Decided, flip.at, format!("Decided: {}", flip.why))];
    if arrival(Some(flip)) == Topic::Switched {
        timeline.push(TimelineEntry::remark(flip.at, SWITCH));
    }
    Incident {
        schema: INCIDENT_SCHEMA,
        flipback: env!("CARGO_PKG_VERSION").to_owned(),
        id: flip.incident.clone(),
        mode: Mode::Enforce,
        object: spec.route.object(),
        namespace: spec.namespace.clone(),
        cluster: spec.cluster.clone(),
        case: Case {
            guard: spec.id.clone(),
            at: flip.at,
            from: flip.from.clone(),
            to: flip.to.clone(),
            from_release: left,
            to_release: release(&flip.to),
            trigger,
            why: flip.why.clone(),
            rules: Vec::new(),
            from_ready: ready(&flip.from),
            to_ready: ready(&flip.to),
            config_hash: spec.config_hash.clone(),
        },
        seen: traffic.seen.clone(),
        policy: spec.policy.clone(),
        rules: spec.rules.clone(),
        switched_at: None,
        thread: flip.thread.clone(),
        announced_by: None,
        replaces: None,
        followed_up_at: None,
        outcome: IncidentOutcome::Decided,
        partial: true,
        timeline,
        capture_errors: vec!["decision.jsonl: flipback ended before it was written; the rest is from after its return".to_owned()],
    }
}

/// The way a rule came to its verdict, as far as its kind tells.
fn path(rule: &RuleName, spec: &GuardSpec) -> Path {
    let kind = spec.rules.iter().find(|known| known.name == *rule).map(|known| &known.kind);
    match kind {
        Some(RuleKind::Endpoints(_)) => Path::Endpoints,
        Some(RuleKind::Probe(_)) => Path::Probe,
        _ => Path::Fast,
    }
}

/// The topic that a flip is told by once it has arrived. A person's switch calls no release bad.
fn arrival(flip: Option<&FlipRecord>) -> Topic {
    match flip {
        Some(flip) if !flip.automatic && !flip.bad => Topic::Switched,
        _ => Topic::RollbackCompleted,
    }
}

impl Guarded {
    /// What is owed now.
    fn owed(&mut self, view: &View, now: Timestamp) -> Vec<Deed> {
        let View::Known(traffic) = view else { return Vec::new() };
        if self.remains.is_over(now) {
            return Vec::new();
        }
        let deeds = plan(&self.remains, traffic, &self.spec, now);
        self.remains.note(&deeds);
        deeds
    }
}

impl Monitor {
    /// Takes up what earlier runs left of a guard, as soon as it is known what its object tells.
    pub(super) fn resume(&mut self, id: &GuardId, view: &View, now: Timestamp) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let deeds = guard.owed(view, now);
        let View::Known(traffic) = view else { return };
        for deed in deeds {
            self.carry_on(id, deed, traffic, now);
        }
    }

    fn carry_on(&mut self, id: &GuardId, deed: Deed, traffic: &Traffic, now: Timestamp) {
        match deed {
            Deed::Complete(incident, flip) => {
                self.initiated_again(id, &incident);
                self.taken_up(id, *incident, &flip, traffic, now);
            }
            Deed::Recall(flip) => {
                let Some(guard) = self.guards.get(id) else { return };
                let incident = recalled(&flip, traffic, &guard.spec);
                self.initiated_again(id, &incident);
                self.taken_up(id, incident, &flip, traffic, now);
            }
            Deed::Wait(incident) => {
                self.initiated_again(id, &incident);
                self.audited(&incident, "cut_off", CUT_OFF, now);
                let Some(guard) = self.guards.get_mut(id) else { return };
                guard.note(
                    now,
                    format!("An earlier run was cut off before it could flip: {}", incident.case.why),
                );
                guard.thread = Some(incident.thread().to_owned());
                guard.open = Some(Arc::from(incident));
            }
            Deed::LetGo(incident) => self.let_go(&incident, now),
            Deed::GiveUp(mut incident) => {
                self.initiated_again(id, &incident);
                incident
                    .timeline
                    .push(TimelineEntry::of(Moment::PatchFailed, now, format!("Failed: {CUT_OFF}")));
                incident.outcome = IncidentOutcome::Failed { error: CUT_OFF.to_owned() };
                self.conclude(id, *incident, Topic::RollbackFailed, None);
            }
            Deed::Verify(incident, flip) => self.verify(Arrival {
                guard: id.clone(),
                topic: arrival(flip.as_ref()),
                incident: *incident,
                reply: None,
            }),
            // Of these people are told together, and were.
            Deed::Tell(incident, _) if hold::is_of_the_fleet(&incident.outcome) => {}
            Deed::Tell(incident, flip) => {
                let Some(guard) = self.guards.get(id) else { return };
                for message in tell::owed(&incident, arrival(flip.as_ref()), traffic, now, &self.keeper, &guard.spec) {
                    self.outbox.push(message);
                }
            }
            Deed::Finish(flip) => self.bring_along(id, flip),
        }
    }

    /// A flip that was made and not ended: told, proven, and looked at, as if its answer had just come.
    pub(super) fn moved(
        &mut self,
        id: &GuardId,
        mut incident: Incident,
        flip: &FlipRecord,
        traffic: &Traffic,
        patched: Patched,
        now: Timestamp,
    ) {
        let topic = arrival(Some(flip));
        let Patched {
            at,
            action,
            what,
            record,
            reply,
        } = patched;
        self.audited(&incident, action, &what, now);
        incident.timeline.push(TimelineEntry::of(Moment::Patched, at, what));
        incident.outcome = IncidentOutcome::RolledBack {
            at,
            took_ms: 0.0,
            resource_version: traffic.seen.resource_version.clone(),
            preview_error: None,
        };
        self.record(id, &incident, topic, record);
        self.verify(Arrival {
            guard: id.clone(),
            incident,
            topic,
            reply,
        });
    }

    /// [`Self::moved`] of what an earlier run left.
    fn taken_up(&mut self, id: &GuardId, incident: Incident, flip: &FlipRecord, traffic: &Traffic, now: Timestamp) {
        tracing::warn!(guard = %id, incident = %incident.id, to = %flip.to, "An earlier run moved traffic and ended: taking it up");
        let patched = Patched {
            at: flip.at,
            action: "taken_up",
            what: format!(
                "The ledger on {} tells that the patch was accepted; flipback had ended meanwhile",
                incident.object
            ),
            record: None,
            reply: None,
        };
        self.moved(id, incident, flip, traffic, patched, now);
    }

    /// The first message of an incident may have been lost with its process.
    fn initiated_again(&self, id: &GuardId, incident: &Incident) {
        let Some(guard) = self.guards.get(id) else { return };
        if let Some(first) = tell::first(incident, &self.keeper, &guard.spec) {
            self.outbox.push(first);
        }
    }

    /// Lets go of a bundle that was begun for a flip that never was.
    pub(super) fn let_go(&mut self, incident: &Incident, now: Timestamp) {
        self.audited(incident, "let_go", CUT_OFF, now);
        let (keeper, id) = (Arc::clone(&self.keeper), incident.id.clone());
        self.errand(async move {
            if let Err(error) = keeper.discard(&id).await {
                tracing::warn!(incident = %id, error = %tell::chain(&error), "Failed to let go of what was begun");
            }
        });
    }

    /// The bad time of attempts that were cut off is over without another: they are kept as what they were.
    pub(super) fn keep_cut_off(&mut self, id: &GuardId, end: TimelineEntry) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        for mut incident in guard.remains.take_cut_off() {
            incident
                .timeline
                .push(TimelineEntry::remark(end.at, format!("Not carried out: {CUT_OFF}")));
            incident.timeline.push(end.clone());
            incident.outcome = IncidentOutcome::Failed { error: CUT_OFF.to_owned() };
            self.record(id, &incident, Topic::RollbackFailed, None);
        }
        if let Some(guard) = self.guards.get_mut(id) {
            guard.open = None;
        }
    }

    /// Of what was begun for guards that are configured no more nobody can tell what became: it is kept as it is.
    pub(super) fn finish_strangers(&mut self, begun: &[Incident]) {
        let stranger = |incident: &&Incident| !self.guards.contains_key(&incident.case.guard);
        let strangers: Vec<String> = begun.iter().filter(stranger).map(|incident| incident.id.clone()).collect();
        for id in strangers {
            let keeper = Arc::clone(&self.keeper);
            self.errand(async move {
                if let Err(error) = keeper.finish(&id).await {
                    tracing::warn!(incident = %id, error = %tell::chain(&error), "Failed to finish what an earlier run began");
                }
            });
        }
    }

    /// What follows the route is brought along, once, with a flip that was carried out when nobody waited for it any more.
    pub(super) fn finish_late(&mut self, id: &GuardId, flip: FlipRecord) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let RouteSpec::Service(route) = &guard.spec.route;
        if route.preview.is_some() && guard.remains.followed.insert(flip.incident.clone()) {
            self.bring_along(id, flip);
        }
    }

    /// Brings along what follows the route.
    fn bring_along(&mut self, id: &GuardId, flip: FlipRecord) {
        let Some(guard) = self.guards.get(id) else { return };
        let (router, keeper, journal, clock) = (
            Arc::clone(&guard.router),
            Arc::clone(&self.keeper),
            self.journal.clone(),
            self.clock.clone(),
        );
        let guard = id.clone();
        self.errand(async move {
            // Safe to repeat: each try reads first, and is done where nothing is left to do.
            let pauses = ExponentialBuilder::default()
                .with_min_delay(FINISH_AGAIN_MIN)
                .with_max_delay(FINISH_AGAIN_MAX)
                .with_max_times(FINISH_TRIES - 1)
                .with_jitter();
            let finish = || router.finish(&flip);
            let what = match finish.retry(pauses).await {
                Ok(false) => return,
                Ok(true) => "The preview Service was swapped after flipback's return".to_owned(),
                Err(error) => {
                    tracing::warn!(%guard, error = %tell::chain(&error), "Failed to bring the preview Service along");
                    format!("The preview Service was not swapped: {}", tell::chain(&error))
                }
            };
            let at = clock.now();
            journal.write(AuditEntry {
                at,
                actor: Actor::Flipback,
                guard: Some(guard),
                action: "preview".to_owned(),
                why: what.clone(),
                incident: Some(flip.incident.clone()),
            });
            keep::amend(&keeper, &flip.incident, TimelineEntry::remark(at, what)).await;
        });
    }
}

#[cfg(test)]
pub(super) mod tests;
