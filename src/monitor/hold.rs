//! What stands against an automatic flip and is no fact of the guard's own route: maintenance, and too many guards at once.
//!
//! Both are said to the engine beforehand ([`Observation::hold`](crate::model::Observation)), so that a record tells of them and replays to
//! the same verdict. A person's flip asks neither. Many guards that are held are one page for all of them, and not one for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{Monitor, TELL_AGAIN, show, tell};
use crate::{
    decide::fleet::Fleet,
    model::{
        Actor, Announcement, FleetStatus, GuardId, Held, Hold, IncidentOutcome, Lifted, Mode, Refusal, Topic, View, maintenance,
        settings::BlastRadius,
    },
    notify::OpenThread,
};

/// Guards that begin to fail one after the other are told of together, at most so often.
const GROUPED: Duration = Duration::from_secs(30);
/// Nobody is held for so long: it is over. A streak that expires and begins anew meanwhile is no end.
const CALM: Duration = Duration::from_secs(60);
/// Names in one message; the page has all of them.
const NAMES_MAX: usize = 20;

/// What is known of the fleet besides the ledgers.
pub(super) struct Holds {
    pub(super) radius: BlastRadius,
    /// Automatic flips that this process began, whether or not a watch has brought them back.
    flips: BTreeMap<GuardId, Timestamp>,
    /// Guards that were held in this look, since many fail.
    now: BTreeSet<GuardId>,
    /// What people were told.
    many: Option<Many>,
    /// The newest word of a person that any number may flip.
    pub(super) lifted: Option<Lifted>,
}

/// Many guards failing, from the first that was held.
struct Many {
    /// Its thread of messages.
    thread: String,
    since: Timestamp,
    seen_at: Timestamp,
    told_at: Timestamp,
    /// How often it was told.
    told: u32,
    guards: BTreeSet<GuardId>,
    news: bool,
    /// An earlier run began it, and nobody has been held since.
    left: bool,
}

impl Holds {
    pub(super) fn new(radius: BlastRadius, lifted: Option<Lifted>) -> Self {
        Self {
            radius,
            flips: BTreeMap::new(),
            now: BTreeSet::new(),
            many: None,
            lifted,
        }
    }

    /// Notes that a rule's flip of a guard begins.
    pub(super) fn begun(&mut self, guard: &GuardId, at: Timestamp) {
        self.flips.insert(guard.clone(), at);
    }

    /// Notes that it moved nothing.
    pub(super) fn nothing_moved(&mut self, guard: &GuardId) {
        self.flips.remove(guard);
    }

    /// The word that is in force.
    pub(super) fn lifted(&self, now: Timestamp) -> Option<&Lifted> {
        self.lifted.as_ref().filter(|lifted| lifted.holds(now))
    }
}

/// Whether a refusal is told of for the whole fleet and not by the guard.
pub(super) fn is_of_the_fleet(outcome: &IncidentOutcome) -> bool {
    matches!(held(outcome), Some(Hold::ManyFailing))
}

/// What held, where something from outside the route did.
pub(super) fn held(outcome: &IncidentOutcome) -> Option<Hold> {
    match outcome {
        IncidentOutcome::Blocked {
            refusal: Refusal::Held(held),
        } => Some(held.by),
        _ => None,
    }
}

impl Monitor {
    /// Who flipped by themselves lately: as all ledgers tell, and as this process knows.
    pub(super) fn fleet(&mut self, now: Timestamp) -> Fleet {
        self.hear_of_lift(now);
        let mut fleet = Fleet::new(&self.holds.radius, self.guards.len(), now);
        for (id, guard) in &self.guards {
            if let View::Known(traffic) = guard.router.view() {
                fleet.read(id, &traffic.ledger);
            }
        }
        let window = self.holds.radius.window;
        self.holds.flips.retain(|_, at| show::since(now, *at) < window);
        self.holds.flips.iter().for_each(|(id, at)| fleet.flipped(id, *at));
        self.holds.now.clear();
        fleet
    }

    /// Takes a flip that was begun a moment ago into account: the next guard of the same look is asked with it.
    pub(super) fn counted(&self, id: &GuardId, fleet: &mut Fleet) {
        if let Some(at) = self.holds.flips.get(id) {
            fleet.flipped(id, *at);
        }
    }

    /// What stands against an automatic flip of a guard now.
    pub(super) fn hold(&self, id: &GuardId, fleet: &Fleet, now: Timestamp) -> Option<Held> {
        let guard = self.guards.get(id)?;
        if let Some(held) = maintenance::held(&guard.spec.maintenance, now) {
            return Some(held);
        }
        // A guard that only monitors moves nothing, so that nothing has to be held.
        let moves = guard.spec.mode == Mode::Enforce && self.holds.lifted(now).is_none();
        fleet.hold(id).filter(|_| moves)
    }

    /// Notes that a guard is bad and held, since many fail.
    pub(super) fn held_back(&mut self, id: &GuardId) {
        self.holds.now.insert(id.clone());
    }

    /// Says once for all guards that many fail, and once that it is over.
    pub(super) fn tell_of_many(&mut self, fleet: &Fleet, now: Timestamp) {
        self.count_holds(fleet, now);
        let held = self.holds.now.clone();
        if self.holds.many.is_none() {
            self.holds.many = self.left_of_many(now);
        }
        if held.is_empty() {
            let over = self.holds.many.take_if(|many| many.is_over(now));
            if let Some(many) = &over {
                let lasted = tell::people(show::since(now, many.since));
                let why = format!("no guard is held any more; it lasted {lasted}");
                let over = message(many, &self.guards, Topic::FewFailing, now, why);
                tracing::warn!("No guard is held any more");
                over.into_iter().for_each(|over| drop(self.outbox.push(over)));
            }
            return;
        }
        let many = self.holds.many.get_or_insert_with(|| Many::begins(now));
        many.seen_at = now;
        // Whom an earlier run named is not known: those that are held now are taken for the same.
        many.news |= !many.left && !held.is_subset(&many.guards);
        many.left = false;
        many.guards.extend(held);
        let waited = show::since(now, many.told_at);
        let due = many.told == 0 || (many.news && waited >= GROUPED) || waited >= TELL_AGAIN;
        if !due {
            return;
        }
        (many.told, many.told_at, many.news) = (many.told + 1, now, false);
        let (flipped, limit) = (fleet.guards().len(), fleet.limit().unwrap_or_default());
        let window = humantime::format_duration(self.holds.radius.window);
        let why = format!(
            "{flipped} of {} guards were rolled back within {window}, where at most {limit} may; held: {}",
            self.guards.len(),
            names(&many.guards)
        );
        tracing::error!(
            held = many.guards.len(),
            flipped,
            limit,
            "Many guards are failing at once: suspect a shared cause"
        );
        let page = message(many, &self.guards, Topic::ManyFailing, now, why.clone());
        page.into_iter().for_each(|page| drop(self.outbox.push(page)));
        self.audit(now, Actor::Flipback, None, "many_failing", &why, None);
    }

    /// What an earlier run told of many guards, and not of its end: it is the same bad time, and nobody is called for it twice.
    fn left_of_many(&mut self, now: Timestamp) -> Option<Many> {
        self.guards.values_mut().find_map(|guard| {
            let place = guard.left_open.iter().position(|open| open.topic == Topic::ManyFailing)?;
            let left = guard.left_open.remove(place);
            Some(Many::goes_on(left, guard.patience(), now))
        })
    }

    fn count_holds(&self, fleet: &Fleet, now: Timestamp) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.fleet_flipped.set(count(fleet.guards().len()));
        self.metrics.fleet_held.set(count(self.holds.now.len()));
        let limit = fleet.limit().filter(|_| self.holds.lifted(now).is_none());
        self.metrics.fleet_limit.set(limit.map_or(f64::INFINITY, f64::from));
        for (id, guard) in &self.guards {
            // Only where there is a window: a series costs half a kilobyte.
            if !guard.spec.maintenance.is_empty() {
                let lasts = maintenance::covering(&guard.spec.maintenance, now).is_some();
                self.metrics.maintenance.with_label_values(&[id.as_str()]).set(i64::from(lasts));
            }
        }
    }

    /// The fleet as shown.
    pub(super) fn fleet_status(&self, fleet: &Fleet, now: Timestamp) -> FleetStatus {
        let lifted = self.holds.lifted(now);
        FleetStatus {
            flipped: fleet.guards().iter().cloned().collect(),
            limit: fleet.limit(),
            window_seconds: self.holds.radius.window.as_secs(),
            held: self.holds.now.iter().cloned().collect(),
            lifted_until: lifted.map(|lifted| lifted.until),
            lifted_by: lifted.map(|lifted| lifted.by.clone()),
        }
    }
}

impl Many {
    fn begins(now: Timestamp) -> Self {
        Self {
            thread: format!("fleet_{}", now.strftime("%Y%m%dT%H%M%S%.3fZ")),
            since: now,
            seen_at: now,
            told_at: now,
            told: 0,
            guards: BTreeSet::new(),
            news: true,
            left: false,
        }
    }

    /// Goes on with what an earlier run began to tell. It is over when nobody has been held for as long as a guard takes to be judged again.
    fn goes_on(left: OpenThread, patience: Duration, now: Timestamp) -> Self {
        Self {
            thread: left.thread,
            since: left.since,
            seen_at: now.checked_add(patience.saturating_sub(CALM)).unwrap_or(now),
            told: 1,
            guards: BTreeSet::from([left.guard]),
            news: false,
            left: true,
            ..Self::begins(now)
        }
    }

    /// Whether nobody has been held for long enough.
    fn is_over(&self, now: Timestamp) -> bool {
        show::since(now, self.seen_at) >= CALM
    }
}

/// Names for a sentence, bounded.
fn names(guards: &BTreeSet<GuardId>) -> String {
    let mut names: Vec<&str> = guards.iter().take(NAMES_MAX).map(GuardId::as_str).collect();
    let more = guards.len().saturating_sub(NAMES_MAX);
    let rest = format!("and {more} more");
    if more > 0 {
        names.push(&rest);
    }
    names.join(", ")
}

/// The message about all guards. It names the first that is held where a form wants one.
fn message(many: &Many, guards: &BTreeMap<GuardId, super::Guarded>, topic: Topic, now: Timestamp, why: String) -> Option<Announcement> {
    let named = many.guards.iter().find_map(|id| guards.get(id));
    let spec = &named.or_else(|| guards.values().next())?.spec;
    Some(Announcement {
        // How often an earlier run told it is not known: a number would be taken for a message that was accepted.
        id: format!("{}.{}.{}", many.thread, topic.as_str(), now.as_millisecond()),
        at: now,
        thread: many.thread.clone(),
        chats: Vec::new(),
        ..tell::note(spec, None, now, topic, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_began_to_tell_goes_on_until_guards_can_have_been_judged_again() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let left = OpenThread {
            thread: "fleet_x".into(),
            guard: GuardId::new("", "shop", "web").expect("valid"),
            topic: Topic::ManyFailing,
            since: at(0),
            incident: None,
        };
        let many = Many::goes_on(left.clone(), Duration::from_secs(90), at(1000));
        assert_eq!(
            (many.thread.as_str(), many.since, many.told, many.news),
            ("fleet_x", at(0), 1, false)
        );
        assert!(!many.is_over(at(1089)) && many.is_over(at(1090)));
        let quick = Many::goes_on(left, Duration::from_secs(6), at(1000));
        assert!(
            !quick.is_over(at(1059)) && quick.is_over(at(1060)),
            "never sooner than within one run"
        );
        let own = Many::begins(at(1000));
        assert!(own.told == 0 && own.news && !own.is_over(at(1059)) && own.is_over(at(1060)));
    }
}
