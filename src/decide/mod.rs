//! The engine: observations in, decisions out. Everything of DECISIONS.md, and nothing else.
//!
//! It refuses to do three things. It reads no clock: time is part of the observation, so a recorded outage replays to
//! the same verdict. It does no IO and cannot fail: "the standby cannot serve" is an answer, not an error. It keeps no
//! secrets from its reader: every state explains itself in one sentence with numbers.
//!
//! Reading order, along one observation: [`clock`] (how much time surely passed), [`switch`] (what is live, since
//! when), [`meter`] with [`counters`] and [`window`] (readings to evidence, every request once) or [`number`] (a rule that
//! compares one number), [`judge`] with [`interval`], [`streak`] and [`slow`] (evidence to outcomes, outcomes to a
//! confirmed breach), [`classic`] (the scripts' rule over all of them, where it is asked for), [`sight`] (no data is
//! loud), [`blame`] (is it the release's fault?), [`gate`] (may traffic be moved?), [`standby`] (could it be served there?), [`fleet`]
//! (may it of one more guard?), [`reassert`] (somebody undid it: again?), [`conclude`] (the decision).
//! [`bound`], [`limits`] and [`explain`] are the arithmetic, the numbers and the words they share.
//!
//! Two things are never conditions of a flip: the health of the color being left, and the success of an earlier flip,
//! which is learned from the next observation like anybody else's.
//!
//! ```
//! use std::{collections::BTreeMap, sync::Arc};
//! use flipback::decide::Engine;
//! use flipback::model::*;
//! use jiff::{SignedDuration, Timestamp};
//!
//! let (blue, green, rule) = (Color::new("blue")?, Color::new("green")?, RuleName::new("error_rate")?);
//! let side = |value: &str| ColorSpec { value: value.into(), deployment: None, service: None };
//! let spec = GuardSpec {
//!     id: GuardId::new("", "shop", "web")?,
//!     cluster: String::new(),
//!     namespace: "shop".into(),
//!     route: RouteSpec::Service(ServiceRoute { active: "web".into(), preview: None, selector_key: "color".into() }),
//!     colors: BTreeMap::from([(blue.clone(), side("blue")), (green.clone(), side("green"))]),
//!     rules: vec![RuleSpec {
//!         name: rule.clone(),
//!         kind: RuleKind::ErrorRate(CounterRule { threshold: 0.05, total: String::new(), bad: String::new() }),
//!         action: Action::Rollback,
//!         critical: false,
//!         windows: None,
//!     }],
//!     policy: Policy::default(),
//!     mode: Mode::Enforce,
//!     scale_up: None,
//!     connections: flipback::model::Connections::default(),
//!     maintenance: Vec::new(),
//!     evidence: EvidenceSpec::default(),
//!     chats: vec![],
//!     config_hash: "c0ffee".into(),
//! };
//! let mut engine = Engine::new(Arc::new(spec));
//!
//! // Green serves 100 requests per second, of which every fifth fails. One look every five seconds.
//! let mut verdicts = Vec::new();
//! for look in 0..4_u32 {
//!     let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(5 * i64::from(look));
//!     let requests = f64::from(look) * 500.0;
//!     let counter = Counter { started: None, sample_at: None, total: requests, bad: Some(requests / 5.0) };
//!     let reading = Reading::Counters { sample_at: at, targets: BTreeMap::from([("green-1".into(), counter)]) };
//!     let ready = Side { ready: 3, ..Side::default() };
//!     let traffic = Traffic {
//!         active: green.clone(),
//!         standby: blue.clone(),
//!         sides: BTreeMap::from([(blue.clone(), ready.clone()), (green.clone(), ready)]),
//!         seen: Seen::default(),
//!         ledger: Ledger::default(),
//!         paused: None,
//!         switched_at: None,
//!         switched_by: None,
//!         owner: None,
//!     };
//!     let decision = engine.step(&Observation {
//!         at,
//!         view: View::Known(Box::new(traffic)),
//!         readings: BTreeMap::from([(green.clone(), BTreeMap::from([(rule.clone(), reading)]))]),
//!         hold: None,
//!     });
//!     verdicts.push((decision.rules[0].streak, matches!(decision.verdict, Verdict::Rollback(_))));
//! }
//! // The first sample is a baseline; then it takes three breaches in a row.
//! assert_eq!(verdicts, [(0, false), (1, false), (2, false), (3, true)]);
//! # Ok::<(), NameError>(())
//! ```

mod blame;
mod bound;
mod classic;
mod clock;
mod conclude;
mod counters;
mod exact;
mod explain;
pub mod fleet;
mod gate;
mod interval;
mod judge;
mod limits;
mod meter;
mod nobody;
mod number;
mod reassert;
pub mod record;
mod sight;
mod slow;
mod standby;
mod streak;
mod switch;
mod tape;
pub mod trace;
mod window;

#[cfg(test)]
mod stories;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{
    Case, Color, Decision, FIELD_MANAGER, GuardSpec, Held, Ledger, Note, Observation, Phase, Refusal, RouteSpec, RuleName, RuleState,
    Traffic, Trigger, Verdict, View,
};

pub use blame::Baseline;
pub use gate::{cooldown_until, flip_history};
pub use standby::scale_target;

use self::{
    blame::Before,
    classic::Classic,
    clock::{Clock, Tick, after, before, shifted},
    judge::{Bench, Judge},
    limits::Limits,
    meter::Meter,
    number::Others,
    sight::{Eyes, Sight},
    standby::Standby,
    switch::{Change, Live, Restored},
};

/// The judgement over one guard.
///
/// Its state is data: serialized and given to [`Engine::resume`], it goes on exactly where it stood. What it is
/// configured with is no state and is left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    #[serde(skip, default = "nobody::spec")]
    spec: Arc<GuardSpec>,
    clock: Clock,
    outlook: Outlook,
    live: Option<Live>,
    meters: BTreeMap<Color, BTreeMap<RuleName, Meter>>,
    judges: Vec<Judge>,
    sights: Vec<Sight>,
    eyes: Eyes,
    /// What each rule measured on the color that was active before.
    before: Before,
    /// Bad polls in a row, in classic mode.
    #[serde(default)]
    classic: Classic,
    restored: Option<Restored>,
    /// Whether the standby can take over, and since when it is waited for.
    #[serde(default)]
    standby: Standby,
    /// Where each rule stood at the last look; every look tells it anew.
    #[serde(skip)]
    rules: Vec<RuleState>,
    /// What held the guard at the last look; every look tells it anew.
    #[serde(skip)]
    hold: Option<Held>,
    /// End of the cooldown at the last look, and as held through a clock step.
    cooldown: Option<Timestamp>,
    cooldown_held: Option<Timestamp>,
    told: Told,
}

/// Whether the route can be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Outlook {
    Clear,
    Unreadable,
    UnknownColor(Option<String>),
}

/// What was told last, so that only a change is told again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Told {
    /// What persons have taken back from the ledger; `None` before the first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten: Option<BTreeSet<String>>,
    /// Who paused the guard; the outer `None` before the first look.
    #[serde(with = "exact::twice", default, skip_serializing_if = "Option::is_none")]
    paused: Option<Option<String>>,
    disarmed: bool,
    watch_ended: Option<bool>,
}

impl Engine {
    /// Knows nothing yet: the first observation is a baseline.
    #[must_use]
    pub fn new(spec: Arc<GuardSpec>) -> Self {
        let judge = |rule: &crate::model::RuleSpec| Judge::new(rule.clone(), Limits::of(rule, &spec.policy));
        let judges: Vec<Judge> = spec.rules.iter().map(judge).collect();
        let sights = judges.iter().map(|_| Sight::default()).collect();
        Self {
            clock: Clock::default(),
            outlook: Outlook::Clear,
            live: None,
            meters: BTreeMap::new(),
            judges,
            sights,
            eyes: Eyes::default(),
            before: Before::default(),
            classic: Classic::default(),
            restored: None,
            standby: Standby::default(),
            rules: Vec::new(),
            hold: None,
            cooldown: None,
            cooldown_held: None,
            told: Told::default(),
            spec,
        }
    }

    /// Saw `active` begin to serve at `since`; what was measured before can be told by [`Engine::assume`].
    #[must_use]
    pub fn switched(spec: Arc<GuardSpec>, active: Color, since: Timestamp) -> Self {
        let told = Told {
            watch_ended: Some(false),
            ..Told::default()
        };
        Self {
            live: Some(Live::since(active, since)),
            told,
            ..Self::new(spec)
        }
    }

    /// Goes on from what an engine over the same rules was, as it was serialized; `None` where the rules are others.
    #[must_use]
    pub fn resume(spec: Arc<GuardSpec>, state: Self) -> Option<Self> {
        if state.judges.len() != spec.rules.len() || state.sights.len() != spec.rules.len() {
            return None;
        }
        let rules = spec.rules.iter();
        let judges = state.judges.into_iter().zip(rules);
        let judges = judges.map(|(judge, rule)| judge.under(rule.clone(), Limits::of(rule, &spec.policy)));
        Some(Self {
            judges: judges.collect(),
            spec,
            ..state
        })
    }

    /// Takes from outside what a rule measured on the color before the switch: for a record that begins at the switch.
    /// Where the engine has measured it itself, that goes first.
    pub fn assume(&mut self, rule: RuleName, baseline: Baseline) {
        self.before.tell(rule, baseline);
    }

    /// Takes from outside that an earlier run has been waiting since then for a color that it scaled up: after a restart the
    /// Deployment no longer tells.
    pub fn awaits(&mut self, color: Color, since: Timestamp) {
        self.standby.tell(color, since);
    }

    /// Judges one observation. Never panics, never fails, whatever the observation says.
    ///
    /// A confirmed breach gives [`Verdict::Rollback`] at every step until the route has moved, the breach has ended or
    /// its streak has expired.
    pub fn step(&mut self, seen: &Observation) -> Decision {
        let frozen = !matches!(seen.view, View::Known(_));
        if let Tick::Stepped(by) = self.clock.advance(seen.at, self.spec.policy.poll, frozen) {
            self.rebase(seen.at, by);
        }
        let traffic = match &seen.view {
            View::Known(traffic) => traffic.as_ref(),
            View::UnknownColor { found, known } => return self.unknown_color(found.as_deref(), known),
            View::Unreadable(why) => return self.unreadable(why),
        };
        self.hold.clone_from(&seen.hold);
        let mut notes = Vec::new();
        if self.outlook != Outlook::Clear {
            self.outlook = Outlook::Clear;
            notes.push(Note::Readable);
        }
        self.follow(traffic, seen.at, &mut notes);
        self.standby.follow(traffic, seen.at);
        self.look(seen, traffic, &mut notes);
        self.tell(traffic, seen.at, &mut notes);
        self.conclude(traffic, seen.at, notes)
    }

    /// Makes the case for a person's flip to `to`, another color than the active one.
    ///
    /// # Errors
    /// Only that `to` cannot serve stands against it: a person may do what the rules may not, but not move users to
    /// where nobody answers. While the active color is unknown nothing can be compared, so nothing is moved either.
    pub fn manual(&self, seen: &Observation, to: &Color, trigger: Trigger) -> Result<Case, Refusal> {
        let View::Known(traffic) = &seen.view else {
            return Err(Refusal::StandbyNotReady { ready: 0, needed: 1 });
        };
        match standby::cannot_serve(traffic, to, &self.spec.policy) {
            Some(refusal) => Err(refusal),
            None => Ok(self.asked(traffic, seen.at, to, trigger)),
        }
    }

    /// Why a flip to `to` would lead back to what was rolled back from: the same question that a rule's flip is asked.
    #[must_use]
    pub fn known_bad(&self, traffic: &Traffic, to: &Color, at: Timestamp) -> Option<Refusal> {
        gate::known_bad(traffic, to, &self.spec.policy, at)
    }

    /// The case of what a person asks for, whether or not it can be done.
    #[must_use]
    pub fn asked(&self, traffic: &Traffic, at: Timestamp, to: &Color, trigger: Trigger) -> Case {
        let why = match &trigger {
            Trigger::Manual { by, reason } => format!("{by}: {reason}"),
            Trigger::Rule { .. } | Trigger::Reassert { .. } => trigger.to_string(),
        };
        self.case(traffic, to, at, trigger, why)
    }

    /// Until when all paths are armed; `None` before the first look at the route.
    #[must_use]
    pub fn watch_until(&self) -> Option<Timestamp> {
        self.live.as_ref().map(|live| after(live.since, self.spec.policy.watch))
    }

    /// When what is live began to be, as far as known; `None` before the first look at the route.
    #[must_use]
    pub fn switched_at(&self) -> Option<Timestamp> {
        self.live.as_ref().map(|live| live.since)
    }

    /// Whether every rule has seen usable data since this engine began, and none is without it now.
    #[must_use]
    pub fn sees(&self) -> bool {
        self.sights.iter().all(Sight::sees)
    }

    /// Whether a rule has been without usable data for so long that the guard is blind, whatever else it is.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.eyes.blind().is_some()
    }

    /// Tells at the next look that the guard is blind, where it is, whether that was told or not.
    pub fn tell_blindness_anew(&mut self) {
        self.eyes.tell_anew();
    }

    /// Whether the guard had disarmed itself at the last look.
    #[must_use]
    pub fn is_disarmed(&self) -> bool {
        self.told.disarmed
    }

    /// After a clock step, anchors on the wall move along and counting begins anew: a step is no evidence.
    fn rebase(&mut self, at: Timestamp, by: SignedDuration) {
        let then = shifted(at, -by);
        switch::shift(&mut self.live, by);
        if let Some(restored) = &mut self.restored {
            restored.until = shifted(restored.until, by);
        }
        self.cooldown_held = self.cooldown.filter(|until| *until > then).map(|until| shifted(until, by));
        self.meters.values_mut().flat_map(BTreeMap::values_mut).for_each(Meter::rebase);
        self.judges.iter_mut().for_each(Judge::rebase);
        self.standby.rebase(by);
    }

    fn unknown_color(&mut self, found: Option<&str>, known: &[String]) -> Decision {
        let RouteSpec::Service(route) = &self.spec.route;
        let (key, known_here) = (&route.selector_key, known.join(", "));
        let why = match found {
            Some(value) => {
                format!(
                    "the selector's {key:?} is {value:?}, which is none of this guard's colors ({known_here}): nothing is done until it is"
                )
            }
            None => format!("the selector has no {key:?}, which should be one of {known_here}: correct the guard's route.selector_key"),
        };
        let note = Note::UnknownColor {
            found: found.map(ToOwned::to_owned),
            known: known.to_vec(),
        };
        let outlook = Outlook::UnknownColor(found.map(ToOwned::to_owned));
        self.frozen(outlook, Phase::UnknownColor, &why, note)
    }

    fn unreadable(&mut self, why: &str) -> Decision {
        let note = Note::Unreadable { why: why.to_owned() };
        self.frozen(Outlook::Unreadable, Phase::Unreadable, why, note)
    }

    /// While the truth about "active" cannot be read, nothing is judged, nothing ages into a verdict, nothing moves.
    fn frozen(&mut self, outlook: Outlook, phase: Phase, why: &str, note: Note) -> Decision {
        let notes = if self.outlook == outlook { Vec::new() } else { vec![note] };
        self.outlook = outlook;
        self.rules = self.judges.iter().map(|judge| judge.frozen(why)).collect();
        Decision {
            verdict: Verdict::Hold,
            rules: self.rules.clone(),
            notes,
            phase,
            why: why.to_owned(),
        }
    }

    /// Follows what is live; after a switch all evidence, streaks and timers begin anew.
    fn follow(&mut self, traffic: &Traffic, at: Timestamp, notes: &mut Vec<Note>) {
        let policy = &self.spec.policy;
        let began = self.live.as_ref().map(|live| live.since);
        match switch::follow(&mut self.live, traffic, policy, at) {
            Change::Same => {}
            Change::First => {
                // After a restart the object tells whether somebody else moved it since.
                let ours = traffic.switched_by.as_deref().is_none_or(|by| by == FIELD_MANAGER);
                self.restored = switch::restored(traffic, policy, at).filter(|_| ours);
                self.sights.iter_mut().for_each(|sight| sight.restart(at, &self.clock));
                // It was undone while nobody looked.
                if let Some(undone) = self.undone(traffic, at) {
                    let from = undone.flip.to.clone();
                    notes.push(self.switched_note(from, true, true, traffic, at));
                }
            }
            Change::Switched { from, undone, flipped } => {
                let moved = from != traffic.active;
                self.restored = switch::restored(traffic, policy, at).filter(|_| moved && flipped);
                let since = self.live.as_ref().map_or(at, |live| live.since);
                // A release that is seen on a color which has just come live: the watch of Deployments may be slower than
                // that of Services. What that color showed while it did not serve is no excuse; what was before the
                // switch to it still may be.
                let long_enough = before(since, policy.slow_window);
                if moved || began.is_none_or(|began| began <= long_enough) {
                    // What a rollback left was bad, which is why: it is no excuse for what the rollback restored.
                    let measured = self.measured_before(&from, since);
                    self.before.switched(measured, self.restored.is_none());
                }
                self.judges.iter_mut().for_each(Judge::reset);
                self.classic.reset();
                self.sights.iter_mut().for_each(|sight| sight.restart(at, &self.clock));
                self.told.watch_ended = Some(false);
                notes.push(self.switched_note(from, moved, undone, traffic, at));
            }
        }
        if self.watch_until().is_some_and(|until| at >= until) {
            self.before.excuse_no_more();
        }
        if self.restored.as_ref().is_some_and(|restored| at >= restored.until) {
            self.restored = None;
        }
        let ledger = cooldown_until(&traffic.ledger, policy);
        self.cooldown = ledger.max(self.cooldown_held);
    }

    /// What is undone, if anything is.
    fn undone<'a>(&self, traffic: &'a Traffic, at: Timestamp) -> Option<reassert::Undone<'a>> {
        let since = self.live.as_ref()?.since;
        reassert::undone(traffic, &self.spec.policy, since, at)
    }

    fn switched_note(&self, from: Color, moved: bool, undone: bool, traffic: &Traffic, at: Timestamp) -> Note {
        let story = self.undone(traffic, at).filter(|_| undone);
        Note::Switched {
            from: Some(from),
            to: traffic.active.clone(),
            undone,
            by: traffic.switched_by.clone().filter(|_| moved),
            after_seconds: story.as_ref().map(reassert::Undone::after_seconds),
            reaction: story.map(|story| story.reaction),
        }
    }

    /// What every rule measured on the color that was left, in the minutes before it was.
    fn measured_before(&self, from: &Color, since: Timestamp) -> BTreeMap<RuleName, Baseline> {
        let start = before(since, self.spec.policy.slow_window);
        let meters = self.meters.get(from).into_iter().flatten();
        let measured = |(rule, meter): (&RuleName, &Meter)| {
            let judge = self.judges.iter().find(|judge| judge.rule.name == *rule)?;
            Some((rule.clone(), blame::measured(meter, judge, start, since)?))
        };
        meters.filter_map(measured).collect()
    }

    /// Meters every color, judges the active one.
    fn look(&mut self, seen: &Observation, traffic: &Traffic, notes: &mut Vec<Note>) {
        let switched = self.live.as_ref().map_or(seen.at, |live| live.since);
        let mut colors: BTreeSet<&Color> = self.spec.colors.keys().chain(traffic.sides.keys()).collect();
        colors.insert(&traffic.active);
        self.rules.clear();
        self.classic.age(&mut self.judges, &self.clock, notes);
        for (judge, sight) in self.judges.iter_mut().zip(&mut self.sights) {
            judge.age(&self.clock, notes);
            let name = &judge.rule.name;
            let mut active = None;
            for color in &colors {
                let reading = seen.readings.get(*color).and_then(|rules| rules.get(name));
                let meter = self.meters.entry((*color).clone()).or_default().entry(name.clone()).or_default();
                let look = meter.look(&judge.rule.kind, reading, &judge.limits);
                if **color == traffic.active {
                    active = Some(look);
                }
            }
            let of = |color: &Color| self.meters.get(color).and_then(|rules| rules.get(name));
            let (Some(look), Some(meter)) = (active, of(&traffic.active)) else {
                continue;
            };
            sight.note(name, &look, meter.spacing(), seen.at, &self.clock, &judge.limits);
            let standby = of(&traffic.standby).filter(|_| traffic.active != traffic.standby);
            let said = meter.shown.and_then(|number| number.before);
            let bench = Bench {
                clock: &self.clock,
                switched,
                window: &meter.window,
                others: Others {
                    standby: standby.and_then(|meter| meter.shown),
                    before: said.or_else(|| self.before.number(name)),
                },
            };
            self.rules.push(judge.judge(&look, &bench));
        }
        self.classic.poll(&mut self.judges, &mut self.rules, seen.at, &self.clock);
    }

    /// Tells what changed since the last look.
    fn tell(&mut self, traffic: &Traffic, at: Timestamp, notes: &mut Vec<Note>) {
        let spec = Arc::clone(&self.spec);
        let policy = &spec.policy;
        let switched = self.live.as_ref().map_or(at, |live| live.since);
        let by = traffic.paused_at(at).map(|pause| pause.by.clone());
        if self.told.paused.as_ref().is_some_and(|told| *told != by) {
            notes.push(Note::PauseChanged { by: by.clone() });
        }
        self.told.paused = Some(by);

        let disarmed = gate::disarmed(&traffic.ledger, policy, at);
        if let (Some(Refusal::Disarmed { flips }), false) = (&disarmed, self.told.disarmed) {
            notes.push(Note::Disarmed { flips: *flips });
        }
        if self.told.disarmed && disarmed.is_none() {
            let said = traffic.ledger.flips.iter().filter_map(|flip| flip.discounted.as_ref());
            let newest = said.max_by_key(|word| word.at).filter(|word| word.at > before(at, gate::DAY));
            notes.push(Note::Rearmed {
                by: newest.map(|word| word.by.clone()),
            });
        }
        self.told.disarmed = disarmed.is_some();
        self.tell_forgotten(&traffic.ledger, notes);

        let ended = at >= after(switched, policy.watch);
        if ended && self.told.watch_ended == Some(false) {
            notes.push(Note::WatchEnded);
        }
        self.told.watch_ended = Some(ended);

        if let Some(meters) = self.meters.get(&traffic.active) {
            for judge in &mut self.judges {
                let floor = before(at, policy.slow_window).max(after(switched, judge.limits.warm_up));
                if let Some(meter) = meters.get(&judge.rule.name) {
                    judge.tell(&meter.window, floor, notes);
                }
            }
        }
        self.eyes.open(self.sights.iter(), at, &self.clock, policy, notes);
    }

    /// Tells which marks a person has taken off since the last look.
    fn tell_forgotten(&mut self, ledger: &Ledger, notes: &mut Vec<Note>) {
        let taken = ledger
            .flips
            .iter()
            .filter_map(|flip| flip.forgotten.as_ref().map(|word| (flip, word)));
        let mut now = BTreeSet::new();
        for (flip, word) in taken {
            let release = flip.from_release.clone().unwrap_or_else(|| format!("of {}", flip.from));
            let new = now.insert(format!("{release} {}", word.at));
            if new
                && self
                    .told
                    .forgotten
                    .as_ref()
                    .is_some_and(|told| !told.contains(&format!("{release} {}", word.at)))
            {
                notes.push(Note::Forgotten {
                    release,
                    by: word.by.clone(),
                    reason: word.reason.clone(),
                });
            }
        }
        self.told.forgotten = Some(now);
    }
}
