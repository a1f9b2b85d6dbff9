//! Whether traffic has arrived where a flip has sent it.
//!
//! A patch that the API server has accepted is a fact, and is recorded at once. Whether the endpoints follow is looked at right after it,
//! for some seconds, and the message waits for that look. What it finds is told, and no more than that:
//!
//! - It has arrived: the flip is completed.
//! - It has not: told as such, loudly. Endpoints may be late, so that it is looked at again.
//! - Nobody can tell, since the API server does not answer: told as just that, and looked at again. It is no failure of the flip.
//!
//! What was told in doubt is corrected in the same thread and bundle as soon as it is known. The further looks have growing pauses, go
//! out only while the route can be read, and end: what was never seen to arrive is then told as not arrived. A daemon that ends
//! before anybody could look leaves it to the next one ([`super::resume`]).

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jiff::Timestamp;

use super::{
    Monitor,
    act::{Reply, Step},
    caught::caught,
    show,
    tell::{self, Found},
};
use crate::{
    model::{CommandReply, GuardId, Incident, IncidentOutcome, Moment, TimelineEntry, Topic, View},
    router::{RouterError, Verified},
};

/// Before the first further look.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Before any.
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Any of them is over by then: jitter adds up to as much again.
const AGAIN_LATEST: Duration = AGAIN_MAX.saturating_mul(2);
/// Further looks: with their pauses about a quarter of an hour in which the route could be read.
const LOOKS_MAX: usize = 36;

/// A flip that moved traffic, and what is still owed: whether it arrived, the message, the answer.
pub(super) struct Arrival {
    pub guard: GuardId,
    pub incident: Incident,
    pub topic: Topic,
    pub reply: Option<Reply>,
}

/// An arrival that is looked at.
pub(super) struct Looking {
    arrival: Arrival,
    /// A look is under way.
    asking: bool,
    /// What was told as long as it is not known to have arrived; `None`: nothing yet.
    told: Option<Doubt>,
    pauses: ExponentialBackoff,
    /// When it is looked at again.
    again: Option<Timestamp>,
}

/// What people were told before traffic was seen to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Nobody could look.
    Unseen,
    /// It was not there.
    NotThere,
}

/// What follows a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It is known: nothing more is looked at.
    Ends,
    /// It is looked at again.
    Again,
}

/// What is told of a look's finding, and what follows; `left`: whether further looks are allowed.
fn next(told: Option<Doubt>, found: Found, left: bool) -> (Option<Found>, Then) {
    let then = if left { Then::Again } else { Then::Ends };
    match (told, found) {
        (_, Found::Arrived) => (Some(Found::Arrived), Then::Ends),
        // It had arrived nowhere that anybody could see, and nobody will look any more.
        (Some(Doubt::Unseen), Found::Unseen) if !left => (Some(Found::NotThere), Then::Ends),
        (None | Some(Doubt::Unseen), Found::NotThere) | (None, Found::Unseen) => (Some(found), then),
        // Told already.
        (Some(Doubt::NotThere), Found::NotThere | Found::Unseen) | (Some(Doubt::Unseen), Found::Unseen) => (None, then),
    }
}

/// How long it took until traffic was seen where it had been sent, where people were told of doubt before.
pub(super) fn in_doubt_for(incident: &Incident) -> Option<Duration> {
    let IncidentOutcome::RolledBack { at, .. } = &incident.outcome else {
        return None;
    };
    let arrived = incident.timeline.iter().position(|entry| entry.moment == Some(Moment::Arrived))?;
    let doubted = |entry: &TimelineEntry| entry.moment == Some(Moment::NotArrived) || tell::is_unseen(entry);
    let doubted = incident.timeline.iter().take(arrived).any(doubted);
    doubted.then(|| show::since(incident.timeline[arrived].at, *at))
}

/// The pauses between further looks.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(AGAIN_MIN)
        .with_max_delay(AGAIN_MAX)
        .with_max_times(LOOKS_MAX)
        .with_jitter()
        .build()
}

impl Monitor {
    /// Looks whether traffic has arrived, in a task of its own.
    pub(super) fn verify(&mut self, arrival: Arrival) {
        let incident = arrival.incident.id.clone();
        // Of guards that are configured no more nobody looks any more.
        let guards = &self.guards;
        self.arrivals.retain(|_, looking| guards.contains_key(&looking.arrival.guard));
        let looking = Looking {
            arrival,
            asking: false,
            told: None,
            pauses: pauses(),
            again: None,
        };
        self.arrivals.insert(incident.clone(), looking);
        self.look(&incident);
    }

    fn look(&mut self, incident: &str) {
        let Some(looking) = self.arrivals.get_mut(incident) else { return };
        let Some(guard) = self.guards.get(&looking.arrival.guard) else {
            return;
        };
        looking.asking = true;
        let (router, to) = (Arc::clone(&guard.router), looking.arrival.incident.case.to.clone());
        let (object, incident) = (looking.arrival.incident.object.clone(), incident.to_owned());
        self.flips.spawn(async move {
            let verified = caught(router.verify(&to), &object).await;
            Step::Verified(incident, verified)
        });
    }

    /// Looks again at what is in doubt, where it is time and the route can be read.
    pub(super) fn look_again(&mut self, id: &GuardId, view: &View, now: Timestamp) {
        let View::Known(traffic) = view else { return };
        // Somebody has moved it on since: what was told stays true.
        self.arrivals.retain(|_, looking| {
            let of_it = looking.arrival.guard == *id && looking.told == Some(Doubt::NotThere);
            !of_it || looking.asking || looking.arrival.incident.case.to == traffic.active
        });
        for again in self.arrivals.values_mut().filter_map(|looking| looking.again.as_mut()) {
            *again = show::due_within(*again, AGAIN_LATEST, now);
        }
        let due = |looking: &Looking| looking.arrival.guard == *id && !looking.asking && looking.again.is_some_and(|again| again <= now);
        let due = self.arrivals.iter().filter(|(_, looking)| due(looking));
        let due: Vec<String> = due.map(|(incident, _)| incident.clone()).collect();
        due.iter().for_each(|incident| self.look(incident));
    }

    /// A look has found something, or nothing; `None`: the daemon stops before it could look.
    pub(super) fn arrived(&mut self, incident: &str, verified: Option<Result<Verified, RouterError>>, now: Timestamp) {
        let Some(mut looking) = self.arrivals.remove(incident) else {
            return;
        };
        if !self.guards.contains_key(&looking.arrival.guard) {
            return;
        }
        looking.asking = false;
        let stops = verified.is_none();
        let (found, what) = verified.map_or_else(tell::unlooked, tell::verified);
        let pause = looking.pauses.next().filter(|_| !stops);
        // Whoever ends leaves the rest to the next run.
        let (say, then) = next(looking.told, found, stops || pause.is_some());
        if let Some(say) = say {
            self.say_found(&mut looking, say, what, now);
        }
        if then == Then::Again && !stops {
            looking.again = pause.and_then(|pause| now.checked_add(pause).ok());
            self.arrivals.insert(incident.to_owned(), looking);
        }
    }

    /// Tells what a look has found: in the thread, in the bundle, on the page, and to who waits for the answer.
    fn say_found(&mut self, looking: &mut Looking, found: Found, what: String, now: Timestamp) {
        let arrival = &mut looking.arrival;
        let (id, incident) = (arrival.guard.clone(), &mut arrival.incident);
        let Some(guard) = self.guards.get_mut(&id) else { return };
        if found != Found::Arrived && guard.open.is_none() {
            // A person's switch opens no thread; that it was not seen to arrive does.
            guard.open = Some(Arc::new(incident.clone()));
        }
        let entry = tell::found(found, what, now);
        incident.timeline.push(entry.clone());
        let topic = match found {
            Found::Arrived => arrival.topic,
            Found::NotThere => Topic::RollbackFailed,
            Found::Unseen => Topic::ArrivalUnseen,
        };
        if found != Found::Arrived || looking.told.is_some() {
            tracing::warn!(guard = %id, incident = %incident.id, found = ?found, "{}", entry.what);
            self.audited(incident, topic.as_str(), &entry.what, now);
        }
        let Some(guard) = self.guards.get_mut(&id) else { return };
        if found != Found::Arrived || looking.told.is_some() {
            guard.note(now, entry.what.clone());
        }
        let told = self.outbox.push(tell::incident(incident, topic, &self.keeper, &guard.spec));
        let told_of = incident.clone();
        if let Some(reply) = arrival.reply.take() {
            // A caller that went away is no concern of ours.
            let _ = reply.send(Ok(CommandReply::Flip {
                incident: Box::new(told_of),
            }));
        }
        looking.told = match found {
            Found::Arrived => None,
            Found::NotThere => Some(Doubt::NotThere),
            Found::Unseen => Some(Doubt::Unseen),
        };
        let incident = looking.arrival.incident.id.clone();
        self.amend_told(incident, entry, told);
    }

    /// Looks anew at whatever was being looked at, by a task that ended without an answer.
    pub(super) fn look_anew(&mut self, now: Timestamp) {
        for looking in self.arrivals.values_mut().filter(|looking| looking.asking) {
            looking.asking = false;
            looking.again = Some(now);
        }
    }

    /// Tells of flips whose arrival could not be looked at before the daemon had to stop.
    pub(super) fn stop_looking(&mut self, now: Timestamp) {
        let incidents: Vec<String> = self.arrivals.keys().cloned().collect();
        for incident in incidents {
            self.arrived(&incident, None, now);
        }
    }

    /// Whether it is not known yet whether a flip of this guard has arrived.
    pub(super) fn arriving(&self, id: &GuardId) -> bool {
        let unknown = |looking: &Looking| looking.arrival.guard == *id && looking.told != Some(Doubt::NotThere);
        self.arrivals.values().any(unknown)
    }
}

#[cfg(test)]
mod tests;
