//! Bringing up a standby that is scaled down.
//!
//! The engine says when (`Refusal::StandbyScaling`), the router knows how; here it is asked for, at most one request at a time, again
//! with growing pauses while it fails, and told. Nothing waits: the next look sees how far the standby has come, and the flip is the
//! engine's to decide as ever. What cannot be scaled is said at once, since "being scaled up" would be a lie.
//!
//! A person's rollback to a standby that is scaled down is a **wish**: it is answered at once with what happens, and carried out by
//! the first look at which the standby can serve, if traffic is still where the person saw it. After the deadline it is given up,
//! loudly: nobody shall be surprised by a flip that they asked for long ago. A wish is not kept over a restart.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Guarded, Monitor,
    act::{Reply, Step},
    person::{Asked, Made},
    show, tell,
};
use crate::{
    decide,
    evidence::Keeper,
    model::{
        Actor, Announcement, Case, Color, CommandError, GuardId, GuardSpec, Incident, IncidentOutcome, Moment, Refusal, TimelineEntry,
        Topic, Traffic, View,
    },
    router::{Autoscaler, RouteEvent, RouterError, Scaled},
};

/// Between two requests to scale; the caches show within milliseconds what one did.
const AGAIN_MIN: Duration = Duration::from_secs(5);
/// A wish that nobody has looked at for two polls and so long after its time is not carried out any more.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// The longest pause while requests fail.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What a guard knows of bringing its standby up.
#[derive(Default)]
pub(super) struct Scaling {
    /// A request is under way.
    asking: bool,
    /// Not before then again.
    again: Option<Timestamp>,
    /// Requests in a row that changed nothing.
    idle: u32,
    /// What was scaled up last, and when.
    raised: Option<(Color, Timestamp)>,
    /// What failed, as it was told.
    told: Option<String>,
    /// A person's flip that waits for the standby.
    wish: Option<Wish>,
}

/// A person's flip that is carried out once the standby can serve.
pub(super) struct Wish {
    asked: Asked,
    from: Color,
    to: Color,
    until: Timestamp,
    /// Who is still waiting for the answer.
    reply: Option<Reply>,
}

/// What came of a request to scale.
pub(super) struct Raised {
    guard: GuardId,
    to: Color,
    wanted: u32,
    scaled: Result<Scaled, RouterError>,
}

impl Scaling {
    /// Whether a person waits.
    pub(super) fn is_wished(&self) -> bool {
        self.wish.is_some()
    }

    /// Whether a color was scaled up so short a time ago that it is still waited for.
    pub(super) fn is_coming(&self, color: &Color, deadline: Duration, now: Timestamp) -> bool {
        let ours = self.raised.as_ref().filter(|(raised, _)| raised == color);
        ours.is_some_and(|(_, at)| show::since(now, *at) < deadline)
    }

    /// Nothing is under way any more, for a task that ended without a word.
    pub(super) fn stop_asking(&mut self) {
        self.asking = false;
    }

    /// A flip begins that does what a person waits for; gives who is to be answered.
    pub(super) fn granted(&mut self) -> Option<Reply> {
        self.wish.take().and_then(|wish| wish.reply)
    }

    /// The bad time is over: what failed then is news again.
    pub(super) fn forget(&mut self) {
        (self.told, self.idle, self.again) = (None, 0, None);
    }
}

impl Guarded {
    /// The incident that waits for this color: that of the present bad time, or a person's, which waits while every rule is well.
    fn waiting(&self, to: &Color) -> Option<&Incident> {
        let wished = |open: &&Incident| self.scaling.is_wished() || tell::topic(open) == Topic::ScalingUp;
        let episode = self.episode.as_ref().map(|episode| &*episode.incident);
        let open = || self.open.as_deref().filter(wished);
        let of_it = |incident: &&Incident| incident.case.to == *to;
        episode.filter(of_it).or_else(|| open().filter(of_it))
    }

    /// The incident whose flip has taken up the story of what waited for this color: Ready pods may be seen before the answer to
    /// the request that made them.
    fn taken_up(&self, to: &Color) -> Option<&Incident> {
        let waited = self.waiting(to).map(|waiting| &waiting.id);
        let mut known = self.open.iter().chain(&self.last).filter(|known| known.case.to == *to);
        let found = known.find(|known| known.replaces.is_some() && (waited.is_none() || known.replaces.as_ref() == waited));
        found.map(|found| &**found)
    }

    /// What people are told of a standby that cannot be scaled up, while somebody waits for it.
    fn cannot_scale(&self, to: &Color, what: &str, now: Timestamp, keeper: &Keeper) -> Option<Announcement> {
        let waiting = self.waiting(to).filter(|_| self.taken_up(to).is_none())?;
        if !matches!(waiting.outcome, IncidentOutcome::Blocked { .. }) {
            return None;
        }
        let message = tell::incident(waiting, Topic::RollbackBlocked, keeper, &self.spec);
        Some(Announcement {
            id: format!("{}.not_scaled", message.id),
            at: now,
            why: format!("{}, but {what}", waiting.case.why),
            ..message
        })
    }
}

impl Monitor {
    /// Scales the standby up where a confirmed rollback waits for nothing else.
    pub(super) fn raise(&mut self, id: &GuardId, case: &Case, refusal: &Refusal, traffic: &Traffic, now: Timestamp) {
        let waits = matches!(refusal, Refusal::StandbyScaling { .. } | Refusal::StandbyNotReady { .. });
        let Some(guard) = self.guards.get(id).filter(|_| waits) else {
            return;
        };
        if let Some(wanted) = decide::scale_target(&guard.spec, traffic, &case.to) {
            self.ask_for(id, &case.to, wanted, now);
        }
    }

    /// Asks for replicas, in a task of its own, unless that is under way or was done a moment ago.
    fn ask_for(&mut self, id: &GuardId, to: &Color, wanted: u32, now: Timestamp) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let scaling = &mut guard.scaling;
        if scaling.asking || scaling.again.is_some_and(|again| now < again) {
            return;
        }
        scaling.asking = true;
        tracing::warn!(guard = %id, color = %to, replicas = wanted, "Scaling the standby up");
        let (router, guard, to) = (Arc::clone(&guard.router), id.clone(), to.clone());
        self.flips.spawn(async move {
            let scaled = router.scale_up(&to, wanted).await;
            Step::Raised(Box::new(Raised { guard, to, wanted, scaled }))
        });
    }

    /// A request to scale was answered, or not.
    pub(super) fn raised(&mut self, raised: Raised, now: Timestamp) {
        let Raised {
            guard: id,
            to,
            wanted,
            scaled,
        } = raised;
        let Some(guard) = self.guards.get_mut(&id) else { return };
        let scaling = &mut guard.scaling;
        scaling.asking = false;
        match scaled {
            Ok(Scaled::Up {
                from,
                to: replicas,
                autoscaler,
            }) => {
                (scaling.idle, scaling.told) = (0, None);
                scaling.raised = Some((to.clone(), now));
                scaling.again = now.checked_add(AGAIN_MIN).ok();
                let what = scaled_up(&to, from, replicas, wanted, autoscaler.as_ref());
                tracing::warn!(guard = %id, "{what}");
                self.told_of_scaling(&id, &to, "StandbyScaledUp", Moment::ScaledUp, what, now);
            }
            Ok(Scaled::Enough { replicas }) => {
                tracing::debug!(guard = %id, replicas, wanted, "There are as many replicas as there may be");
                scaling.rest(now);
            }
            Ok(Scaled::Withheld) => scaling.again = now.checked_add(AGAIN_MAX).ok(),
            // Another replica leads by now, and asks for it itself.
            Err(RouterError::NotLeading { .. }) => scaling.again = now.checked_add(AGAIN_MIN).ok(),
            Err(error) => {
                scaling.rest(now);
                let error = tell::chain(&error);
                tracing::error!(guard = %id, %error, "Failed to scale the standby up");
                if scaling.told.as_ref() != Some(&error) {
                    scaling.told = Some(error.clone());
                    self.not_scaled(&id, &to, &error, now);
                }
            }
        }
    }

    /// Says that the standby cannot be scaled up, to whoever hears of what blocks a rollback.
    fn not_scaled(&mut self, id: &GuardId, to: &Color, error: &str, now: Timestamp) {
        let what = format!("{to} cannot be scaled up: {error}");
        self.told_of_scaling(id, to, "StandbyNotScaled", Moment::NotScaled, show::sentence(&what), now);
        let guard = self.guards.get(id);
        if let Some(message) = guard.and_then(|guard| guard.cannot_scale(to, &what, now, &self.keeper)) {
            self.outbox.push(message);
        }
    }

    /// Writes what became of scaling where people look: the page, the journal, the evidence, `kubectl describe`.
    fn told_of_scaling(&mut self, id: &GuardId, to: &Color, reason: &str, moment: Moment, what: String, now: Timestamp) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        guard.note(now, what.clone());
        let incident = guard.taken_up(to).or_else(|| guard.waiting(to)).map(|incident| incident.id.clone());
        let router = Arc::clone(&guard.router);
        let action = if moment == Moment::ScaledUp { "scaled_up" } else { "not_scaled" };
        self.audit(now, Actor::Flipback, Some(id), action, &what, incident.as_deref());
        let event = RouteEvent {
            warning: true,
            reason: reason.to_owned(),
            note: what.clone(),
            at: now,
        };
        self.errand(async move {
            if let Err(error) = router.tell(&event).await {
                tracing::warn!(error = %tell::chain(&error), "Failed to record a Kubernetes Event");
            }
        });
        if let Some(incident) = incident {
            self.amend(incident, TimelineEntry::of(moment, now, what));
        }
    }

    // === a person's wish ===

    /// Takes a person's flip to a standby that is scaled down: says what happens, and sees to it.
    pub(super) fn wish(&mut self, id: &GuardId, asked: Asked, waits: Waits, reply: Reply, now: Timestamp) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        let deadline = guard.spec.scale_up.map(|scale_up| scale_up.deadline).unwrap_or_default();
        let until = now.checked_add(deadline).unwrap_or(now);
        let by = until.strftime("%H:%M:%S UTC");
        let (ready, needed) = (waits.ready, waits.needed);
        let replicas = waits.wanted.map(|wanted| format!(" to {wanted} replicas")).unwrap_or_default();
        let said = format!(
            "not yet: {} is being scaled up{replicas} ({ready} of {needed} endpoints are Ready). flipback moves traffic to it the moment \
             it can serve; if that is not before {by}, it gives up and says so. `flipback status {id}` shows how far it is",
            waits.case.to
        );
        let refusal = Refusal::StandbyScaling { ready, needed, until };
        guard.scaling.forget();
        let (from, to) = (waits.case.from.clone(), waits.case.to.clone());
        // One that is alone has nobody to come back to: the answer is what became of it.
        let kept = if self.alone {
            Some(reply)
        } else {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Err(CommandError::Refused(said.clone())));
            None
        };
        if let Some(wanted) = waits.wanted {
            self.ask_for(id, &to, wanted, now);
        }
        let why = format!("{}; {refusal}", waits.case.why);
        let actor = Actor::Person { name: asked.by.clone() };
        self.audit(now, actor, Some(id), "wished", &why, None);
        self.refuse(
            id,
            &waits.case,
            waits.seen,
            IncidentOutcome::Blocked { refusal },
            Some(&asked),
            &why,
        );
        if let Some(guard) = self.guards.get_mut(id) {
            guard.scaling.wish = Some(Wish {
                asked,
                from,
                to,
                until,
                reply: kept,
            });
        }
    }

    /// Carries a person's wish out, if it can be by now; gives it up when its time has passed or its reason is gone.
    pub(super) fn grant(&mut self, id: &GuardId, now: Timestamp) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        if guard.flipping {
            return;
        }
        let Some(mut wish) = guard.scaling.wish.take() else { return };
        // Nobody looked for long, for another replica led or the route could not be read: who asked does not wait for it any more.
        if show::since(now, wish.until) > guard.spec.policy.poll * 2 + FORGOTTEN {
            let what = format!(
                "the time that {}'s request was waited for is long over: it is given up",
                wish.asked.by
            );
            self.end_wish(id, wish, show::sentence(&what), now);
            return;
        }
        if let View::Known(traffic) = guard.router.view()
            && traffic.active != wish.from
        {
            let what = format!(
                "{} is active by now, so {}'s request to leave {} is over",
                traffic.active, wish.asked.by, wish.from
            );
            self.end_wish(id, wish, show::sentence(&what), now);
            return;
        }
        match self.make(id, Some(&wish.to), &wish.asked, now) {
            Ok(Made::Order(mut order)) => {
                order.reply = wish.reply.take();
                self.start(id, *order);
            }
            Ok(Made::Waits(waits)) if now < wish.until => {
                if let Some(wanted) = waits.wanted {
                    self.ask_for(id, &wish.to, wanted, now);
                }
                if let Some(guard) = self.guards.get_mut(id) {
                    guard.scaling.wish = Some(wish);
                }
            }
            Ok(Made::Waits(waits)) => {
                let (ready, needed) = (waits.ready, waits.needed);
                let refusal = Refusal::StandbyNotReady { ready, needed };
                let what = format!(
                    "{refusal}, and the time that it was waited for is over: {}'s request is given up",
                    wish.asked.by
                );
                let why = format!("{}; {what}", waits.case.why);
                let asked = Some(&wish.asked);
                self.refuse(id, &waits.case, waits.seen, IncidentOutcome::Blocked { refusal }, asked, &why);
                self.end_wish(id, wish, show::sentence(&what), now);
            }
            // The route cannot be read for a moment, or a flip is under way: that says nothing about the standby.
            Err(CommandError::Busy | CommandError::Failed(_)) if now < wish.until => {
                if let Some(guard) = self.guards.get_mut(id) {
                    guard.scaling.wish = Some(wish);
                }
            }
            Err(error) => {
                let what = format!("{}'s request is given up: {error}", wish.asked.by);
                self.end_wish(id, wish, what, now);
            }
        }
    }

    fn end_wish(&mut self, id: &GuardId, wish: Wish, what: String, now: Timestamp) {
        tracing::warn!(guard = %id, to = %wish.to, "{what}");
        if let Some(guard) = self.guards.get_mut(id) {
            guard.note(now, what.clone());
        }
        let actor = Actor::Person { name: wish.asked.by };
        self.audit(now, actor, Some(id), "given_up", &what, None);
        if let Some(reply) = wish.reply {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Err(CommandError::Refused(what)));
        }
    }

    /// Whether a person waits for any guard's standby.
    pub(super) fn wishes(&self) -> bool {
        self.guards.values().any(|guard| guard.scaling.is_wished())
    }

    /// Looks at every wish.
    pub(super) fn grant_all(&mut self, now: Timestamp) {
        let ids: Vec<GuardId> = self.guards.keys().cloned().collect();
        for id in ids {
            self.grant(&id, now);
        }
    }
}

/// A flip that waits for endpoints.
pub(super) struct Waits {
    pub case: Box<Case>,
    pub seen: crate::model::Seen,
    pub ready: u32,
    pub needed: u32,
    /// Replicas to ask for; `None`: they have been asked for.
    pub wanted: Option<u32>,
}

impl Scaling {
    fn rest(&mut self, now: Timestamp) {
        self.idle = self.idle.saturating_add(1);
        let pause = AGAIN_MIN.saturating_mul(1 << self.idle.saturating_sub(1).min(8)).min(AGAIN_MAX);
        self.again = now.checked_add(pause).ok();
    }
}

/// For which color, and since when, an earlier run was waiting when it ended, as its last incident tells.
pub(super) fn earlier(incident: &Incident, spec: &GuardSpec, now: Timestamp) -> Option<(Color, Timestamp)> {
    let IncidentOutcome::Blocked {
        refusal: Refusal::StandbyScaling { until, .. },
    } = incident.outcome
    else {
        return None;
    };
    let since = until.checked_sub(spec.scale_up?.deadline).ok()?;
    (now < until).then(|| (incident.case.to.clone(), since))
}

/// What was done, in a sentence.
fn scaled_up(color: &Color, from: u32, to: u32, wanted: u32, autoscaler: Option<&Autoscaler>) -> String {
    let replicas = if to == 1 { "replica" } else { "replicas" };
    let by = match autoscaler {
        Some(autoscaler) if to > wanted => format!(", the least that HorizontalPodAutoscaler/{} allows", autoscaler.name),
        Some(autoscaler) if to < wanted => {
            format!(
                ", the most that HorizontalPodAutoscaler/{} allows, though {wanted} are wanted",
                autoscaler.name
            )
        }
        _ => String::new(),
    };
    format!("Scaled {color} up from {from} to {to} {replicas}{by}; it is flipped to the moment it can serve")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{
        act::tests::conductor,
        resume::tests::{at, begun, flip, guard},
    };

    /// A conductor whose guard waits for its standby, as a person asked for it; a look has found every rule well since.
    fn waits(folder: &std::path::Path) -> Monitor {
        let mut monitor = conductor(folder);
        let refusal = Refusal::StandbyScaling {
            ready: 0,
            needed: 1,
            until: at(60),
        };
        let incident = Incident {
            outcome: IncidentOutcome::Blocked { refusal },
            ..begun(&flip("i1", 0))
        };
        monitor.record(&guard(), &incident, Topic::ScalingUp, None);
        let guarded = monitor.guards.get_mut(&guard()).expect("is guarded");
        guarded.episode = None;
        monitor
    }

    #[tokio::test]
    async fn what_a_person_asked_for_long_ago_is_given_up_and_not_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut monitor = waits(folder.path());
        let case = begun(&flip("i1", 0)).case;
        let poll = guard_of(&mut monitor).spec.policy.poll;
        for (now, kept) in [
            (at(60) + poll, true),
            (at(60) + poll * 2 + FORGOTTEN + Duration::from_secs(1), false),
        ] {
            let (reply, mut answer) = tokio::sync::oneshot::channel();
            guard_of(&mut monitor).scaling.wish = Some(Wish {
                asked: Asked {
                    by: "ann".into(),
                    reason: "too slow".into(),
                    bad: true,
                    dry_run: false,
                },
                from: case.from.clone(),
                to: case.to.clone(),
                until: at(60),
                reply: Some(reply),
            });
            monitor.grant(&guard(), now);
            let said = answer
                .try_recv()
                .map(|said| said.expect_err("not done").to_string())
                .unwrap_or_default();
            assert_eq!(said.contains("long over"), !kept, "{said}");
            assert!(!guard_of(&mut monitor).flipping);
        }
        assert!(!guard_of(&mut monitor).scaling.is_wished());
    }

    fn guard_of(monitor: &mut Monitor) -> &mut Guarded {
        monitor.guards.get_mut(&guard()).expect("is guarded")
    }

    fn answered(scaled: Result<Scaled, RouterError>) -> Raised {
        Raised {
            guard: guard(),
            to: begun(&flip("i1", 0)).case.to,
            wanted: 1,
            scaled,
        }
    }

    fn story(monitor: &Monitor) -> Vec<Moment> {
        let open = monitor.guards[&guard()].open.as_ref().expect("waits");
        open.timeline.iter().filter_map(|entry| entry.moment).collect()
    }

    fn message(monitor: &Monitor, to: &Color) -> Option<String> {
        let said = monitor.guards[&guard()].cannot_scale(to, "it may not", at(3), &monitor.keeper);
        said.map(|said| said.why)
    }

    #[tokio::test]
    async fn what_a_person_waits_for_is_told_however_late_the_answer_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut monitor = waits(folder.path());
        let up = Scaled::Up {
            from: 0,
            to: 1,
            autoscaler: None,
        };
        monitor.raised(answered(Ok(up)), at(3));
        assert!(story(&monitor).contains(&Moment::ScaledUp), "{:?}", story(&monitor));

        let folder = tempfile::tempdir().expect("a folder");
        let mut monitor = waits(folder.path());
        let Case { from, to, .. } = begun(&flip("i1", 0)).case;
        let refused = RouterError::NoDeployment {
            object: "Service \"shop/web\"".to_owned(),
            color: to.clone(),
        };
        monitor.raised(answered(Err(refused)), at(3));
        assert!(story(&monitor).contains(&Moment::NotScaled), "{:?}", story(&monitor));
        assert!(message(&monitor, &to).is_some_and(|why| why.ends_with(", but it may not")));
        assert_eq!(message(&monitor, &from), None, "nobody waits for that color");
    }

    #[tokio::test]
    async fn nobody_is_told_of_a_request_that_failed_once_traffic_is_moved_or_another_replica_leads() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut monitor = waits(folder.path());
        let not_leading = RouterError::NotLeading {
            attempted: "scale up",
            object: "Deployment \"shop/web-blue\"".to_owned(),
        };
        monitor.raised(answered(Err(not_leading)), at(3));
        assert!(!story(&monitor).contains(&Moment::NotScaled), "{:?}", story(&monitor));

        // A person's switch was made since, and the answer comes last.
        let switched = Incident {
            id: "i2".into(),
            replaces: Some("i1".into()),
            ..begun(&flip("i1", 0))
        };
        let to = switched.case.to.clone();
        let guarded = monitor.guards.get_mut(&guard()).expect("is guarded");
        guarded.last = Some(Arc::new(switched));
        assert_eq!(message(&monitor, &to), None);
    }
}
