//! After a rollback: the pods of the color that was left are taken out of service, where the guard is told to.
//!
//! Decided anew at each look from what the route says, its ledger above all, so that a restart goes on where the last run stopped and
//! a person's switch ends it: only after a rollback of ours that traffic has followed, only while traffic is still where it went, not
//! while the guard is paused, and for an hour at most. The capture of the evidence goes first: what is evicted has no logs any more.
//! One batch is under way at a time; what may not go yet (a disruption budget) is asked again with growing pauses.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Monitor, act::Step, show, tell};
use crate::{
    model::{Actor, Color, FlipRecord, GuardId, Moment, Relief, TimelineEntry, Traffic, isolated_label},
    router::{HeldPod, ReliefOrder, Relieved, RouterError},
};

/// So long after a rollback pods are still taken out of service: connections that matter have moved or ended by then.
const RELIEVED_FOR: Duration = Duration::from_secs(60 * 60);
/// The shortest pause between two batches: each is a handful of requests.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause while nothing may go.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Pods of one batch that are named.
const NAMED_MAX: usize = 20;

/// What a guard knows of taking pods out of service.
#[derive(Default)]
pub(super) struct Relieving {
    /// The incident for which nothing is left to do.
    over: Option<String>,
    /// A batch is under way.
    asking: bool,
    /// Not before then again.
    again: Option<Timestamp>,
    /// Batches in a row from which no pod went.
    idle: u32,
    /// What stood in the way, as it was told.
    told: Option<String>,
    /// Pods that went, in this run.
    gone: u32,
    /// The capture of this run's newest incident, cancelled once it has ended.
    capture: Option<(String, CancellationToken)>,
}

/// What came of one batch.
pub(super) struct Went {
    guard: GuardId,
    incident: String,
    left: Color,
    action: Relief,
    relieved: Result<Relieved, RouterError>,
}

impl Relieving {
    /// Nothing is under way any more, for a task that ended without a word.
    pub(super) fn stop_asking(&mut self) {
        self.asking = false;
    }

    /// The capture of an incident begins; the token is cancelled when its first attempt has ended, whatever came of it.
    pub(super) fn capturing(&mut self, incident: &str) -> CancellationToken {
        let token = CancellationToken::new();
        self.capture = Some((incident.to_owned(), token.clone()));
        token
    }

    /// Whether the evidence of an incident has been captured; of an earlier run's incident, whether the time for that has passed.
    fn captured(&self, incident: &str, running: Duration, deadline: Duration) -> bool {
        match &self.capture {
            Some((captured, token)) if captured == incident => token.is_cancelled(),
            _ => running >= deadline,
        }
    }

    fn pause(&mut self, now: Timestamp, pause: Duration) {
        let pause = pause.max(PAUSE_MIN);
        let grown = pause.saturating_mul(1 << self.idle.min(8)).min(AGAIN_MAX.max(pause));
        self.again = now.checked_add(grown).ok();
    }
}

impl Monitor {
    /// Takes the next few pods of the color that a rollback left out of service, if it is time.
    pub(super) fn relieve(&mut self, id: &GuardId, traffic: &Traffic, now: Timestamp) {
        let arriving = self.arriving(id);
        let started_at = self.started_at;
        let Some(guard) = self.guards.get_mut(id) else { return };
        let connections = guard.spec.connections;
        let Some(flip) = behind(traffic) else { return };
        let relief = &mut guard.relief;
        let waits = arriving || guard.flipping || relief.asking || relief.again.is_some_and(|again| now < again);
        let over = relief.over.as_ref() == Some(&flip.incident) || show::since(now, flip.at) > RELIEVED_FOR;
        if connections.action == Relief::Keep || over || waits || traffic.paused_at(now).is_some() {
            return;
        }
        let evidence = &guard.spec.evidence;
        if !relief.captured(&flip.incident, show::since(now, started_at), evidence.deadline) {
            return;
        }
        relief.asking = true;
        let order = ReliefOrder {
            left: flip.from.clone(),
            to: flip.to.clone(),
            before: flip.at,
            incident: flip.incident.clone(),
            action: connections.action,
            at_once: connections.at_once,
        };
        let (router, guard) = (Arc::clone(&guard.router), id.clone());
        self.flips.spawn(async move {
            let relieved = router.relieve(&order).await;
            let ReliefOrder {
                left, incident, action, ..
            } = order;
            Step::Went(Box::new(Went {
                guard,
                incident,
                left,
                action,
                relieved,
            }))
        });
    }

    /// A batch was answered, or not.
    pub(super) fn went(&mut self, went: Went, now: Timestamp) {
        let Went {
            guard: id,
            incident,
            left: color,
            action,
            relieved,
        } = went;
        let Some(guard) = self.guards.get_mut(&id) else { return };
        let pause = guard.spec.connections.pause;
        let relief = &mut guard.relief;
        relief.asking = false;
        match relieved {
            Ok(Relieved::Batch { done, held, left }) => {
                if done.is_empty() && left > 0 {
                    relief.idle = relief.idle.saturating_add(1);
                } else {
                    (relief.idle, relief.told) = (0, None);
                }
                relief.gone = relief.gone.saturating_add(u32::try_from(done.len()).unwrap_or(u32::MAX));
                relief.pause(now, pause);
                let gone = relief.gone;
                if left == 0 {
                    relief.over = Some(incident.clone());
                    relief.gone = 0;
                }
                if !done.is_empty() {
                    self.say(&id, &incident, Moment::Relieved, taken(action, &done, &incident), now);
                }
                if left == 0 && gone > 0 {
                    tracing::info!(guard = %id, color = %color, pods = gone, "Every pod that was left is out of service");
                } else if let Some(first) = held.first().filter(|_| done.is_empty()) {
                    self.stuck(&id, &incident, &waits(action, first, left), now);
                }
            }
            Ok(Relieved::NotYet(problem)) => {
                relief.idle = relief.idle.saturating_add(1);
                relief.pause(now, pause);
                self.stuck(&id, &incident, &format!("The pods of {color} are left in service: {problem}"), now);
            }
            Ok(Relieved::Elsewhere | Relieved::Withheld) => relief.over = Some(incident),
            Err(error) => {
                relief.idle = relief.idle.saturating_add(1);
                relief.pause(now, pause);
                let error = tell::chain(&error);
                tracing::error!(guard = %id, %error, "Failed to take a pod out of service");
                self.stuck(&id, &incident, &format!("The pods of {color} are left in service: {error}"), now);
            }
        }
    }

    /// Says once why nothing goes.
    fn stuck(&mut self, id: &GuardId, incident: &str, what: &str, now: Timestamp) {
        let Some(guard) = self.guards.get_mut(id) else { return };
        if guard.relief.told.as_deref() == Some(what) {
            return;
        }
        guard.relief.told = Some(what.to_owned());
        tracing::warn!(guard = %id, "{what}");
        self.say(id, incident, Moment::NotRelieved, what.to_owned(), now);
    }

    /// Writes it where people look: the page, the journal, the evidence.
    fn say(&mut self, id: &GuardId, incident: &str, moment: Moment, what: String, now: Timestamp) {
        if let Some(guard) = self.guards.get_mut(id) {
            guard.note(now, what.clone());
        }
        let action = if moment == Moment::Relieved { "relieved" } else { "not_relieved" };
        self.audit(now, Actor::Flipback, Some(id), action, &what, Some(incident));
        self.amend(incident.to_owned(), TimelineEntry::of(moment, now, what));
    }
}

/// The flip whose pods may go: a rollback, while traffic is where it led. What a person's switch leaves is called bad by nobody.
fn behind(traffic: &Traffic) -> Option<&FlipRecord> {
    let newest = traffic.ledger.last()?;
    (newest.bad && newest.to == traffic.active).then_some(newest)
}

/// Which pods went, and where they can be found.
fn taken(action: Relief, pods: &[String], incident: &str) -> String {
    let mut names = pods.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if pods.len() > NAMED_MAX {
        names.push_str(&format!(" and {} more", pods.len() - NAMED_MAX));
    }
    match action {
        Relief::Evict => format!("Evicted {names}"),
        Relief::Isolate | Relief::Keep => format!(
            "Isolated {names}: no Service and no ReplicaSet selects them any more; they run on, labelled flipback.dev/isolated={}",
            isolated_label(incident)
        ),
    }
}

fn waits(action: Relief, first: &HeldPod, left: u32) -> String {
    let word = if action == Relief::Evict { "evicted" } else { "isolated" };
    let pods = if left == 1 {
        "1 pod is".to_owned()
    } else {
        format!("{left} pods are")
    };
    format!("{pods} not {word} yet. {}: {}", first.pod, first.why)
}

#[cfg(test)]
mod tests {
    use super::{
        super::resume::tests::{flip, traffic},
        *,
    };

    #[test]
    fn only_what_a_rollback_left_goes_and_only_while_traffic_is_where_it_led() {
        let rollback = flip("i1", 5);
        let switch = FlipRecord {
            bad: false,
            ..rollback.clone()
        };
        let (to, from) = (rollback.to.as_str(), rollback.from.as_str());
        assert_eq!(behind(&traffic(to, &[&rollback])), Some(&rollback));
        assert_eq!(behind(&traffic(from, &[&rollback])), None, "somebody moved it back");
        assert_eq!(behind(&traffic(to, &[&switch])), None, "a person's switch");
        assert_eq!(behind(&traffic(to, &[&rollback, &switch])), None, "which came later");
    }

    #[test]
    fn pods_stay_until_their_evidence_is_whole_or_its_time_is_over() {
        let mut relief = Relieving::default();
        let (long, deadline) = (Duration::from_secs(3600), Duration::from_secs(60));
        let capture = relief.capturing("i1");
        assert!(
            !relief.captured("i1", long, deadline),
            "it is being captured, however long that takes"
        );
        capture.cancel();
        assert!(relief.captured("i1", Duration::ZERO, deadline));
        // Of an earlier run's incident nobody says when it is whole.
        assert!(!relief.captured("i0", Duration::ZERO, deadline));
        assert!(relief.captured("i0", deadline, deadline));
    }
}
