//! Decisions become what a person wants to know: what would have happened, what nearly did, and when nothing could have.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal};

pub(super) use self::rule::RuleTally;
use self::rule::{Peak, lower};
use super::course::{Course, Expected};
use crate::model::{
    Case, Color, Decision, GuardSpec, Note, Observation, Outcome, Path, Policy, RuleName, RuleState, Trigger, Verdict, View,
};

mod rule;

/// Near misses and degradations that are kept with their sentences; all are counted.
const KEPT_MAX: usize = 200;

/// Blind spans that are kept; all are summed up.
const SPANS_MAX: usize = 500;

/// The slow path was nearly there when it was over the threshold for this part of its hold.
const SLOW_NEAR: f64 = 0.5;

/// Something that would have happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// `rollback`, `suppressed`, `blocked`, `alert`.
    pub what: What,
    /// When it would have been decided.
    pub at: Timestamp,
    /// Until when it would have been decided again and again.
    pub until: Timestamp,
    /// The color that would have been left.
    pub from: Color,
    /// Where traffic would have gone; for an alert the same color.
    pub to: Color,
    /// The rule.
    pub rule: RuleName,
    /// By which path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    /// The engine's own sentence.
    pub why: String,
    /// Whether the release was known to be bad.
    pub expected: bool,
    /// Seconds from the beginning of a release known to be bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<f64>,
}

/// What would have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Traffic would have been moved.
    Rollback,
    /// Confirmed, and not held against the release.
    Suppressed,
    /// Confirmed, and refused.
    Blocked,
    /// A rule that only alerts was confirmed.
    Alert,
}

/// Something that nearly happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearMiss {
    /// How near it was.
    pub kind: Near,
    /// When it was nearest.
    pub at: Timestamp,
    /// On which color.
    pub color: Color,
    /// By which rule.
    pub rule: RuleName,
    /// The engine's own sentence, or what the slow path saw.
    pub why: String,
}

/// How near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Near {
    /// One breach was missing, or certainty.
    Streak,
    /// Enough breaches in a row, after the watch, when they do not act any more.
    AfterWatch,
    /// Minutes over the threshold, not long enough.
    Slow,
    /// A reading came near its threshold.
    Degraded,
}

/// Time without usable data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlindSpan {
    /// Since when there was nothing.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// The first reason.
    pub why: String,
}

/// Everything that is counted of one guard.
#[derive(Debug)]
pub(super) struct Tally {
    policy: Policy,
    z: f64,
    pub(super) events: Vec<Event>,
    pub(super) near: Vec<NearMiss>,
    pub(super) near_total: BTreeMap<&'static str, u64>,
    pub(super) blind: Vec<BlindSpan>,
    pub(super) blind_for: Duration,
    open_blind: Option<(Timestamp, String)>,
    pub(super) rules: Vec<RuleTally>,
    pub(super) looks: u64,
    pub(super) expected: Vec<Expected>,
    /// When the watch began that now runs, or ran last; `None`: before the first known switch.
    watch_from: Option<Timestamp>,
    pub(super) watched: Duration,
    active: Option<Color>,
    last: Timestamp,
}

impl Tally {
    pub(super) fn new(spec: &GuardSpec, course: &Course, expected: Vec<Expected>, from: Timestamp) -> Self {
        let rules = spec.rules.iter().map(|rule| RuleTally::new(rule, &spec.policy));
        Self {
            z: Normal::standard().inverse_cdf(spec.policy.confidence.clamp(0.5, 0.999_999)),
            policy: spec.policy.clone(),
            events: Vec::new(),
            near: Vec::new(),
            near_total: BTreeMap::new(),
            blind: Vec::new(),
            blind_for: Duration::ZERO,
            open_blind: None,
            rules: rules.collect(),
            looks: 0,
            expected: expected
                .into_iter()
                .filter(|one| one.guard.as_ref().is_none_or(|guard| *guard == spec.id))
                .collect(),
            watch_from: course.switches.is_empty().then_some(from),
            watched: Duration::ZERO,
            active: None,
            last: from,
        }
    }

    /// Takes note of one decision.
    pub(super) fn take(&mut self, seen: &Observation, decision: &Decision) {
        let View::Known(traffic) = &seen.view else { return };
        let at = seen.at;
        self.looks += 1;
        let armed = self.armed(self.last);
        if armed {
            self.watched += at.duration_since(self.last).unsigned_abs();
        }
        self.last = at;
        if self.active.as_ref() != Some(&traffic.active) {
            self.active = Some(traffic.active.clone());
        }
        self.verdict(at, &decision.verdict);
        for note in &decision.notes {
            self.note(at, note, &traffic.active, &traffic.standby);
        }
        let armed = self.armed(at);
        let calm = !self
            .events
            .last()
            .is_some_and(|event| event.what != What::Alert && at <= event.until);
        for index in 0..decision.rules.len().min(self.rules.len()) {
            self.rule(index, &decision.rules[index], at, armed, calm);
        }
    }

    fn armed(&self, at: Timestamp) -> bool {
        self.watch_from
            .is_some_and(|from| at < from.saturating_add(self.policy.watch).unwrap_or(Timestamp::MAX))
    }

    fn verdict(&mut self, at: Timestamp, verdict: &Verdict) {
        let (what, case, why) = match verdict {
            Verdict::Hold => return,
            Verdict::Rollback(case) => (What::Rollback, case, case.why.clone()),
            Verdict::Suppressed(case, why) => (What::Suppressed, case, format!("{}; not flipped: {why}", case.why)),
            Verdict::Blocked(case, why) => (What::Blocked, case, format!("{}; not flipped: {why}", case.why)),
        };
        self.mark_fired(case);
        if let Some(open) = self.open(what, &case.from, at) {
            open.until = at;
            return;
        }
        let Trigger::Rule { rule, path } = &case.trigger else { return };
        let blame = self.blame(at);
        self.events.push(Event {
            what,
            at,
            until: at,
            from: case.from.clone(),
            to: case.to.clone(),
            rule: rule.clone(),
            path: Some(*path),
            why,
            expected: blame.is_some(),
            after_seconds: blame.map(|since| at.duration_since(since).as_secs_f64()),
        });
    }

    /// The same fault still, or again within the cooldown, in which nothing would have been flipped.
    fn open(&mut self, what: What, from: &Color, at: Timestamp) -> Option<&mut Event> {
        let cooldown = self.policy.cooldown;
        let since = self.watch_from;
        self.events.iter_mut().rev().find(|event| {
            event.what == what
                && event.from == *from
                && at.duration_since(event.until).unsigned_abs() <= cooldown
                && since.is_none_or(|since| event.at >= since)
        })
    }

    /// The beginning of the known bad release that an event at this time is about.
    fn blame(&self, at: Timestamp) -> Option<Timestamp> {
        let within = |one: &&Expected| at >= one.at && at <= one.at.saturating_add(self.policy.watch).unwrap_or(Timestamp::MAX);
        self.expected.iter().filter(within).map(|one| one.at).max()
    }

    fn mark_fired(&mut self, case: &Case) {
        let Trigger::Rule { rule, .. } = &case.trigger else { return };
        for (state, tally) in case.rules.iter().zip(&mut self.rules) {
            if let Some(peak) = tally.peak.as_mut().filter(|_| state.rule == *rule) {
                peak.fired = true;
            }
            tally.over_since = None;
        }
    }

    fn note(&mut self, at: Timestamp, note: &Note, active: &Color, standby: &Color) {
        match note {
            Note::Switched { .. } => {
                self.watch_from = Some(at);
                for index in 0..self.rules.len() {
                    self.end_streak(index, active);
                    self.rules[index].recent.clear();
                    self.rules[index].over_since = None;
                }
            }
            Note::Blind { since, why } if self.open_blind.is_none() => self.open_blind = Some((*since, why.clone())),
            Note::Sighted { .. } => self.sighted(at),
            Note::Degraded { rule, why } => self.miss(Near::Degraded, at, active, rule.clone(), why.clone()),
            Note::Alert { rule, why } => {
                let blame = self.blame(at);
                self.events.push(Event {
                    what: What::Alert,
                    at,
                    until: at,
                    from: active.clone(),
                    to: standby.clone(),
                    rule: rule.clone(),
                    path: None,
                    why: why.clone(),
                    expected: blame.is_some(),
                    after_seconds: None,
                });
            }
            _ => {}
        }
    }

    fn sighted(&mut self, at: Timestamp) {
        if let Some((from, why)) = self.open_blind.take() {
            self.blind_for += at.duration_since(from).unsigned_abs();
            if self.blind.len() < SPANS_MAX {
                self.blind.push(BlindSpan { from, to: at, why });
            }
        }
    }

    fn miss(&mut self, kind: Near, at: Timestamp, color: &Color, rule: RuleName, why: String) {
        let word = match kind {
            Near::Streak => "streak",
            Near::AfterWatch => "after_watch",
            Near::Slow => "slow",
            Near::Degraded => "degraded",
        };
        let count = self.near_total.entry(word).or_insert(0);
        *count += 1;
        if *count <= KEPT_MAX as u64 {
            self.near.push(NearMiss {
                kind,
                at,
                color: color.clone(),
                rule,
                why,
            });
        }
    }

    fn rule(&mut self, index: usize, state: &RuleState, at: Timestamp, armed: bool, calm: bool) {
        let closed = matches!(state.outcome, Outcome::Breach | Outcome::Pass);
        let tally = &mut self.rules[index];
        tally.of = state.of;
        tally.judged += u64::from(closed);
        if let (true, Some(bad), Some(total)) = (closed, state.bad, state.total.filter(|total| *total > 0.0)) {
            tally.close(at, bad, total, calm, &self.policy);
            self.slowly(index, state, at);
        }
        let tally = &mut self.rules[index];
        if state.outcome == Outcome::Breach {
            tally.breaches += 1;
            tally.breach_at.push(at);
        }
        let grown = state.streak > tally.peak.as_ref().map_or(0, |peak| peak.streak);
        if grown {
            let fired = tally.peak.as_ref().is_some_and(|peak| peak.fired);
            let why = if armed {
                state.why.clone()
            } else {
                format!("{}; the watch had ended", state.why)
            };
            tally.peak = Some(Peak {
                streak: state.streak,
                at,
                why,
                fired,
            });
        } else if state.streak == 0 && tally.peak.is_some() {
            let color = self.active.clone();
            if let Some(color) = color {
                self.end_streak_as(index, &color, armed, &state.rule);
            }
        }
    }

    /// A streak that ended without a decision was a near miss when one breach was missing.
    fn end_streak_as(&mut self, index: usize, color: &Color, armed: bool, rule: &RuleName) {
        let tally = &mut self.rules[index];
        let Some(peak) = tally.peak.take() else { return };
        if peak.fired || tally.of < 2 || peak.streak + 1 < tally.of {
            return;
        }
        let kind = if !armed && peak.streak >= tally.of {
            Near::AfterWatch
        } else {
            Near::Streak
        };
        self.miss(kind, peak.at, color, rule.clone(), peak.why);
    }

    /// A switch ends every streak; what it would have come to is not known.
    fn end_streak(&mut self, index: usize, _active: &Color) {
        self.rules[index].peak = None;
    }

    /// The slow path, seen from outside: the last minutes surely over the threshold, and for how long.
    fn slowly(&mut self, index: usize, state: &RuleState, at: Timestamp) {
        let (z, policy) = (self.z, &self.policy);
        let tally = &mut self.rules[index];
        let oldest = at.saturating_sub(policy.slow_window).unwrap_or(Timestamp::MIN);
        while tally.recent.front().is_some_and(|(then, ..)| *then < oldest) {
            tally.recent.pop_front();
        }
        let (bad, total) = tally
            .recent
            .iter()
            .fold((0.0, 0.0), |sum, (_, bad, total)| (sum.0 + bad, sum.1 + total));
        let over = bad >= f64::from(policy.slow_bad) && lower(bad, total, z) > tally.threshold;
        if over {
            if tally.over_since.is_none() {
                let span = humantime::format_duration(policy.slow_window);
                tally.over_since = Some((at, format!("{bad:.0} of {total:.0} in the last {span}")));
            }
            return;
        }
        let Some((since, why)) = tally.over_since.take() else { return };
        let held = at.duration_since(since).as_secs_f64();
        let hold = policy.slow_hold.as_secs_f64();
        let color = self.active.clone();
        if let Some(color) = color.filter(|_| held >= SLOW_NEAR * hold) {
            let why = format!("surely over the threshold ({why}) for {held:.0} s; the slow path acts after {hold:.0} s");
            self.miss(Near::Slow, since, &color, state.rule.clone(), why);
        }
    }

    /// Ends what is still open.
    pub(super) fn finish(&mut self, at: Timestamp) {
        self.sighted(at);
        self.near.sort_by_key(|near| near.at);
    }
}
