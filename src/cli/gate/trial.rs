//! One color on trial: what is seen goes to the engine that the daemon runs, and its answers are counted. Pure.
//!
//! The engine judges the color that serves users. A color that does not serve yet is shown to it as if it did; nothing can be flipped
//! then, so pause, cooldown and earlier flips are left out of what it sees. Its guard's watch may have ended long ago, or end in the
//! middle: a trial arms every path for as long as it lasts.
//!
//! Refuses to call good what it has not seen: only passes in a row, up to the end, make a rule good. What the color before did before
//! the switch is not known to a process that has just begun, so the only excuse that counts is a standby that is just as bad now.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    decide::Engine,
    model::{
        Action, AfterWatch, Case, Color, Decision, GuardSpec, Judging, Ledger, Note, Observation, Outcome, Phase, RuleName, RuleSpec,
        RuleState, Suppression, Traffic, Trigger, Verdict, View,
        status::{EventLine, unit},
    },
};

/// Events a report carries; a trial of hours has no need of more.
const EVENTS_MAX: usize = 100;

/// What the gate says of a color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Every rule that may roll back has passed often enough, up to the end.
    Good,
    /// A rule is confirmed, and the color is to blame.
    Bad,
    /// It cannot be told.
    Undecided,
}

/// What the finding rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Good: the rules passed to the end.
    Held,
    /// Bad: a rule is confirmed.
    Breach,
    /// Bad, and a flip is refused.
    FlipRefused,
    /// Bad: somebody rolled back from it in the middle.
    RolledBack,
    /// Undecided: it is bad, and so is what it is compared with.
    NotToBlame,
    /// Undecided: too few verdicts, or a rule in a streak, or no usable data.
    NotEnough,
    /// Undecided: another color, or another release, is there now.
    Changed,
    /// Undecided: the cluster tells nothing.
    Unreadable,
    /// Undecided: a signal ended the gate.
    Interrupted,
}

/// The finding and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What is said.
    pub finding: Finding,
    /// What it rests on.
    pub cause: Cause,
    /// One sentence with numbers.
    pub why: String,
    /// The rule that was confirmed.
    pub rule: Option<RuleName>,
}

impl Ruling {
    /// It cannot be told.
    pub fn undecided(cause: Cause, why: impl Into<String>) -> Self {
        Self {
            finding: Finding::Undecided,
            cause,
            why: why.into(),
            rule: None,
        }
    }

    fn of(finding: Finding, cause: Cause, why: String, case: &Case) -> Self {
        let rule = match &case.trigger {
            Trigger::Rule { rule, .. } => Some(rule.clone()),
            Trigger::Manual { .. } | Trigger::Reassert { .. } => None,
        };
        Self { finding, cause, why, rule }
    }
}

/// Where the judged color stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// It serves users.
    Active,
    /// It does not.
    Standby,
}

impl Position {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
        }
    }
}

/// Which color is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whichever serves users when the gate begins.
    Active,
    /// Where a rollback would go then.
    Standby,
    /// This one, wherever it stands then.
    Named(Color),
}

/// The color on trial, as it was when the gate began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub color: Color,
    /// Where it stands.
    pub position: Position,
    /// What it runs, where that can be told.
    pub release: Option<String>,
    /// Since when it has been active, where it is and that can be told.
    pub since: Option<Timestamp>,
    /// The incident of the newest flip there was.
    flip: Option<String>,
}

impl Subject {
    /// The color that is meant.
    #[must_use]
    pub fn of(asked: &Asked, traffic: &Traffic) -> Self {
        let color = match asked {
            Asked::Active => &traffic.active,
            Asked::Standby => &traffic.standby,
            Asked::Named(color) => color,
        };
        let position = if *color == traffic.active {
            Position::Active
        } else {
            Position::Standby
        };
        Self {
            color: color.clone(),
            position,
            since: traffic.switched_at.filter(|_| position == Position::Active),
            release: release(traffic, color),
            flip: traffic.ledger.last().map(|flip| flip.incident.clone()),
        }
    }

    /// Whether it is still there, with the same release, where it was.
    ///
    /// # Errors
    /// What is to be said when it is not.
    pub fn follow(&mut self, view: &View) -> Result<(), Ruling> {
        let color = &self.color;
        let traffic = match view {
            View::Known(traffic) => traffic,
            // What cannot be read is not gone: the next look may tell.
            View::Unreadable(_) => return Ok(()),
            View::UnknownColor { found, known } => {
                let found = found.as_ref().map_or("nothing".to_owned(), |found| format!("{found:?}"));
                let known = known.join(", ");
                let why = format!("the Service selects {found}, which is none of {known}: {color} cannot be judged");
                return Err(Ruling::undecided(Cause::Changed, why));
            }
        };
        let moved = (traffic.active == *color) != (self.position == Position::Active);
        if moved {
            return Err(self.moved(traffic));
        }
        let release = release(traffic, color);
        if let (Some(before), Some(now)) = (&self.release, &release)
            && before != now
        {
            let why = format!("{color} was rolled out anew, from release {before} to {now}: the verdicts so far are of another release");
            return Err(Ruling::undecided(Cause::Changed, why));
        }
        self.release = release.or_else(|| self.release.take());
        Ok(())
    }

    fn moved(&self, traffic: &Traffic) -> Ruling {
        let (color, active) = (&self.color, &traffic.active);
        if self.position == Position::Standby {
            let why = format!("{color} serves users now: it was to be judged before it does");
            return Ruling::undecided(Cause::Changed, why);
        }
        let newest = traffic.ledger.last();
        let left = newest.filter(|flip| (flip.automatic || flip.bad) && flip.from == *color && self.flip.as_ref() != Some(&flip.incident));
        match left {
            Some(flip) => Ruling {
                finding: Finding::Bad,
                cause: Cause::RolledBack,
                why: format!("{color} was rolled back to {active} in the middle: {}", flip.why),
                rule: RuleName::new(&flip.trigger).ok().filter(|_| flip.automatic),
            },
            None => Ruling::undecided(
                Cause::Changed,
                format!("{active} serves users now: {color} cannot be judged any more"),
            ),
        }
    }
}

/// The time from one instant to another; none if the clock went backwards.
fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

fn release(traffic: &Traffic, color: &Color) -> Option<String> {
    let side = traffic.sides.get(color)?;
    side.release.as_ref().map(|release| release.id.clone())
}

/// What one rule has shown so far.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The rule.
    pub spec: RuleSpec,
    /// What its numbers count.
    pub unit: Option<String>,
    /// Passes in a row, up to now.
    pub in_a_row: u32,
    /// All passes.
    pub passes: u32,
    /// All breaches.
    pub breaches: u32,
    /// Looks that gave nothing usable.
    pub inconclusive: u32,
    /// The newest judged value.
    pub value: Option<f64>,
    /// The judged value that was nearest to a breach, or furthest into one.
    pub worst: Option<f64>,
    /// Requests, or probes, that were judged; and the bad ones among them. `None` for what is not counted.
    pub counted: Option<(f64, f64)>,
    /// How it stood at the last look.
    pub state: Option<RuleState>,
    passed_at: Option<Timestamp>,
    /// The newest look that said anything said that there is nothing usable.
    dark: bool,
}

impl Tally {
    fn new(spec: &RuleSpec, judging: Judging) -> Self {
        let kind = spec.kind.as_str();
        let counts = judging == Judging::Intervals && matches!(kind, "error_rate" | "availability" | "latency" | "probe");
        Self {
            unit: unit::of(spec, judging),
            spec: spec.clone(),
            in_a_row: 0,
            passes: 0,
            breaches: 0,
            inconclusive: 0,
            value: None,
            worst: None,
            counted: counts.then_some((0.0, 0.0)),
            state: None,
            passed_at: None,
            dark: false,
        }
    }

    fn take(&mut self, state: &RuleState, at: Timestamp) {
        match &state.outcome {
            Outcome::Pass => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.passes = self.passes.saturating_add(1);
                self.passed_at = Some(at);
                self.conclude(state);
            }
            Outcome::Breach => {
                self.in_a_row = 0;
                self.breaches = self.breaches.saturating_add(1);
                self.conclude(state);
            }
            Outcome::Inconclusive(_) => {
                self.inconclusive = self.inconclusive.saturating_add(1);
                self.dark = true;
            }
            Outcome::Waiting | Outcome::Nothing => {}
        }
        self.state = Some(state.clone());
    }

    fn conclude(&mut self, state: &RuleState) {
        self.dark = false;
        self.value = state.value;
        // Endpoints are the fewer the worse, like everything that breaches below its threshold.
        let fewer = state.below || self.unit.as_deref() == Some(unit::ENDPOINTS);
        self.worst = match (self.worst, state.value) {
            (Some(worst), Some(value)) if fewer => Some(worst.min(value)),
            (Some(worst), Some(value)) => Some(worst.max(value)),
            (worst, value) => worst.or(value),
        };
        if let (Some((total, bad)), Some(more), Some(worse)) = (&mut self.counted, state.total, state.bad) {
            *total += more;
            *bad += worse;
        }
    }

    /// Breaches in a row.
    #[must_use]
    pub fn streak(&self) -> u32 {
        self.state.as_ref().map_or(0, |state| state.streak)
    }

    /// The sentence of the last look.
    #[must_use]
    pub fn said(&self) -> &str {
        self.state.as_ref().map_or("not looked at yet", |state| state.why.as_str())
    }

    /// Whether the rule has said enough to be called good; else what is missing.
    ///
    /// # Errors
    /// A sentence on what is missing.
    pub fn enough(&self, needed: u32, patience: Patience, now: Timestamp) -> Result<(), String> {
        let said = self.said();
        if self.streak() > 0 {
            let of = self.state.as_ref().map_or(needed, |state| state.of);
            return Err(format!("in a streak of {} of {of}: {said}", self.streak()));
        }
        if self.in_a_row < needed {
            return Err(match self.in_a_row {
                0 => format!("no passing verdict, {needed} are needed: {said}"),
                1 => format!("one passing verdict, {needed} in a row are needed: {said}"),
                some => format!("{some} passing verdicts in a row, {needed} are needed: {said}"),
            });
        }
        let silent = self.passed_at.map_or(Duration::MAX, |at| elapsed(at, now));
        let limit = if self.dark { patience.dark } else { patience.collecting };
        if silent > limit {
            let silent = humantime::format_duration(Duration::from_secs(silent.as_secs()));
            return Err(format!("no verdict in the last {silent}: {said}"));
        }
        Ok(())
    }
}

/// How old a rule's newest pass may be at the end.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While its source gives nothing usable.
    dark: Duration,
    /// While it is still collecting requests for the next verdict.
    collecting: Duration,
}

impl Patience {
    /// A tenth of the trial, or three looks, in the dark, but never so long that the guard counts as blind; an open interval gets the time
    /// that it may take besides.
    fn of(spec: &GuardSpec, span: Duration) -> Self {
        let policy = &spec.policy;
        Self {
            dark: (span / 10).max(policy.poll.saturating_mul(3)).min(policy.blind_after),
            collecting: policy.blind_after.saturating_add(policy.stretch),
        }
    }
}

/// A color on trial.
#[derive(Debug)]
pub struct Trial {
    spec: Arc<GuardSpec>,
    /// Who is judged.
    pub subject: Subject,
    engine: Engine,
    began: Timestamp,
    span: Duration,
    /// Looks so far.
    pub looks: u32,
    /// By rule, in the configuration's order.
    pub tallies: Vec<Tally>,
    /// What happened, oldest first.
    pub events: Vec<EventLine>,
    /// The engine's newest answer.
    pub decision: Option<Decision>,
    blind: Option<String>,
}

impl Trial {
    /// Begins a trial that will last `span`.
    #[must_use]
    pub fn new(spec: &Arc<GuardSpec>, subject: Subject, began: Timestamp, span: Duration) -> Self {
        let mut armed = (**spec).clone();
        armed.policy.after_watch = AfterWatch::Full;
        // The engine is told that the color became active when the trial began, so that no earlier request counts; what of the warm-up
        // was over by then is over.
        let active = subject.since.map_or(Duration::ZERO, |since| elapsed(since, began));
        armed.policy.warm_up = armed.policy.warm_up.saturating_sub(active);
        armed.policy.warm_up_latency = armed.policy.warm_up_latency.saturating_sub(active);
        Self {
            tallies: tallies(spec),
            engine: Engine::new(Arc::new(armed)),
            spec: Arc::clone(spec),
            subject,
            began,
            span,
            looks: 0,
            events: Vec::new(),
            decision: None,
            blind: None,
        }
    }

    /// Takes a look; answers as soon as there is no need of another.
    pub fn look(&mut self, seen: &Observation) -> Option<Ruling> {
        if let Err(ruling) = self.subject.follow(&seen.view) {
            return Some(ruling);
        }
        self.looks = self.looks.saturating_add(1);
        let decision = self.engine.step(&self.shown(seen));
        for (tally, state) in self.tallies.iter_mut().zip(&decision.rules) {
            tally.take(state, seen.at);
        }
        self.note(&decision.notes, seen.at);
        let ruling = self.ruling(&decision.verdict);
        self.decision = Some(decision);
        ruling.filter(|ruling| ruling.finding == Finding::Bad)
    }

    /// What is said when the time is up.
    #[must_use]
    pub fn close(&self, now: Timestamp) -> Ruling {
        let color = &self.subject.color;
        let Some(decision) = &self.decision else {
            return Ruling::undecided(Cause::NotEnough, format!("{color} was not looked at once"));
        };
        if let Some(ruling) = self.ruling(&decision.verdict) {
            return ruling;
        }
        if decision.phase == Phase::Unreadable {
            return Ruling::undecided(Cause::Unreadable, decision.why.clone());
        }
        let judged: Vec<&Tally> = self.judged().collect();
        if judged.is_empty() {
            let why = "no rule of this guard has the action \"rollback\", so nothing decides";
            return Ruling::undecided(Cause::NotEnough, why);
        }
        if let Some(why) = self.blind.as_ref().filter(|why| !self.is_of_an_alert(why)) {
            return Ruling::undecided(Cause::NotEnough, format!("no usable data on {color}: {why}"));
        }
        let missing: Vec<String> = judged
            .iter()
            .filter_map(|tally| Some(format!("{}: {}", tally.spec.name, self.enough(tally, now).err()?)))
            .collect();
        if missing.is_empty() {
            let said: Vec<&str> = judged.iter().map(|tally| tally.said()).collect();
            Ruling {
                finding: Finding::Good,
                cause: Cause::Held,
                why: said.join("; "),
                rule: None,
            }
        } else {
            Ruling::undecided(Cause::NotEnough, missing.join("; "))
        }
    }

    /// Whether a rule has said enough by now.
    ///
    /// # Errors
    /// A sentence on what is missing.
    pub fn enough(&self, tally: &Tally, now: Timestamp) -> Result<(), String> {
        tally.enough(self.needed(), Patience::of(&self.spec, self.span), now)
    }

    /// Passes in a row that make a rule good.
    #[must_use]
    pub fn needed(&self) -> u32 {
        self.spec.policy.consecutive.max(1)
    }

    /// The rules that decide.
    fn judged(&self) -> impl Iterator<Item = &Tally> {
        self.tallies.iter().filter(|tally| tally.spec.action == Action::Rollback)
    }

    /// Whether a reason for blindness, which begins with its rule, is of a rule that only alerts: the finding does not rest on it.
    fn is_of_an_alert(&self, why: &str) -> bool {
        let rule = why.split_once(": ").map_or(why, |(rule, _)| rule);
        let named = self.tallies.iter().find(|tally| tally.spec.name.as_str() == rule);
        named.is_some_and(|tally| tally.spec.action == Action::Alert)
    }

    /// What the engine is shown: the judged color as the one that serves, since the trial began.
    fn shown(&self, seen: &Observation) -> Observation {
        let mut seen = seen.clone();
        if let View::Known(traffic) = &mut seen.view {
            traffic.switched_at = Some(self.began);
            if self.subject.position == Position::Standby {
                let live = std::mem::replace(&mut traffic.active, self.subject.color.clone());
                traffic.standby = live;
                traffic.switched_by = None;
                traffic.ledger = Ledger::default();
                traffic.paused = None;
            }
        }
        seen
    }

    fn ruling(&self, verdict: &Verdict) -> Option<Ruling> {
        let standby = self.subject.position == Position::Standby;
        match verdict {
            Verdict::Hold => None,
            Verdict::Rollback(case) => Some(Ruling::of(Finding::Bad, Cause::Breach, case.why.clone(), case)),
            // Where nothing can be flipped, nothing can be refused.
            Verdict::Blocked(case, _) if standby => Some(Ruling::of(Finding::Bad, Cause::Breach, case.why.clone(), case)),
            Verdict::Blocked(case, refusal) => {
                let why = format!("{}; a flip is refused: {refusal}", case.why);
                Some(Ruling::of(Finding::Bad, Cause::FlipRefused, why, case))
            }
            Verdict::Suppressed(case, suppression @ (Suppression::ReportOnly | Suppression::AfterWatch)) => {
                let why = format!("{}; a flip is refused: {suppression}", case.why);
                Some(Ruling::of(Finding::Bad, Cause::FlipRefused, why, case))
            }
            Verdict::Suppressed(case, suppression) => {
                let excuse = if standby {
                    format!("{}, which serves users, is just as bad now", case.to)
                } else {
                    suppression.to_string()
                };
                let why = format!("{} is bad and not to blame: {}, but {excuse}", self.subject.color, case.why);
                Some(Ruling::of(Finding::Undecided, Cause::NotToBlame, why, case))
            }
        }
    }

    fn note(&mut self, notes: &[Note], at: Timestamp) {
        for note in notes {
            let what = match note {
                Note::Blind { why, .. } => {
                    self.blind = Some(why.clone());
                    format!("no usable data: {why}")
                }
                Note::Sighted { after_seconds } => {
                    self.blind = None;
                    format!("usable data again after {after_seconds} s")
                }
                Note::Expired { rule, streak } => format!("{rule}: a streak of {streak} expired without a new breach"),
                Note::Degraded { rule, why } => format!("{rule}: {why}"),
                Note::Alert { rule, why } => format!("{rule} (alert only): {why}"),
                Note::Unreadable { why } => format!("the route cannot be read: {why}"),
                Note::Readable => "the route can be read again".to_owned(),
                // What a gate cannot meet, or what is no news of the judged color.
                _ => continue,
            };
            if self.events.len() < EVENTS_MAX {
                self.events.push(EventLine { at, what: what.into() });
            }
        }
    }
}

/// Nothing yet, for each rule of a guard.
#[must_use]
pub fn tallies(spec: &GuardSpec) -> Vec<Tally> {
    spec.rules.iter().map(|rule| Tally::new(rule, spec.policy.mode)).collect()
}

#[cfg(test)]
mod tests;
