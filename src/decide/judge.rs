//! One rule on the active color: a look becomes an outcome, outcomes become a streak, a streak becomes a confirmation.
//!
//! A judge knows nothing of flips. Whether a confirmed breach moves traffic is asked elsewhere (`blame`, `gate`).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Note, Outcome, Path, RuleKind, RuleSpec, RuleState};

use super::{
    bound::Share,
    clock::{Clock, after},
    explain,
    interval::{Closed, Interval},
    limits::Limits,
    meter::Look,
    nobody,
    slow::Slow,
    streak::Streak,
    window::{Piece, Window},
};

/// A rule at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Judge {
    // What the guard is configured with is no state: see `restored`.
    #[serde(skip, default = "nobody::rule")]
    pub(super) rule: RuleSpec,
    #[serde(skip, default = "nobody::limits")]
    pub(super) limits: Limits,
    interval: Interval,
    streak: Streak,
    slow: Slow,
    /// Since when (in sure time) there has been no Ready endpoint.
    down: Option<Duration>,
    latched: Option<Confirmed>,
    /// Passes in a row.
    pub(super) passes: u32,
    /// Verdicts since the engine began; the first one ends the start.
    pub(super) verdicts: u64,
    /// The newest judged value, and its sentence.
    #[serde(with = "super::exact::option")]
    value: Option<f64>,
    pub(super) said: Option<String>,
    sample_at: Option<Timestamp>,
    degraded: bool,
    alerted: bool,
    /// A flip was asked for on this confirmation.
    pub(super) firing: bool,
}

/// A breach that asks for a flip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Confirmed {
    pub(super) path: Path,
    /// When its evidence begins.
    pub(super) since: Timestamp,
    pub(super) why: String,
}

/// Which paths may confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    /// All of them.
    All,
    /// The slow one, the endpoints, and what is critical at any time.
    Slow,
}

/// What a judge may know besides the look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bench<'a> {
    pub(super) clock: &'a Clock,
    pub(super) switched: Timestamp,
    pub(super) window: &'a Window,
}

/// What a poll gave: the outcome, the share to show, and a sentence.
struct Finding {
    outcome: Outcome,
    shown: Option<Share>,
    why: String,
}

impl Finding {
    fn new(outcome: Outcome, shown: Option<Share>, why: String) -> Self {
        Self { outcome, shown, why }
    }
}

impl Judge {
    /// A rule with no evidence yet.
    pub(super) fn new(rule: RuleSpec, limits: Limits) -> Self {
        Self {
            rule,
            limits,
            interval: Interval::default(),
            streak: Streak::default(),
            slow: Slow::default(),
            down: None,
            latched: None,
            passes: 0,
            verdicts: 0,
            value: None,
            said: None,
            sample_at: None,
            degraded: false,
            alerted: false,
            firing: false,
        }
    }

    /// The same evidence under its rule, after it was read back as data.
    pub(super) fn under(self, rule: RuleSpec, limits: Limits) -> Self {
        Self { rule, limits, ..self }
    }

    /// Forgets everything but that there once were verdicts: another release is judged from now on.
    pub(super) fn reset(&mut self) {
        let fresh = Self::new(self.rule.clone(), self.limits.clone());
        let verdicts = self.verdicts;
        *self = Self { verdicts, ..fresh };
    }

    /// After a clock step: an open interval spans nobody knows what. Streaks are held.
    pub(super) fn rebase(&mut self) {
        self.interval = Interval::default();
        self.slow = Slow::default();
    }

    /// Breaches in a row.
    pub(super) fn streak(&self) -> u32 {
        self.streak.count
    }

    /// Lets time pass: streaks expire.
    pub(super) fn age(&mut self, clock: &Clock, notes: &mut Vec<Note>) {
        self.slow.expire(clock, &self.limits);
        if let Some(streak) = self.streak.expire(clock.age, &self.limits) {
            self.latched = None;
            self.down = None;
            notes.push(Note::Expired {
                rule: self.rule.name.clone(),
                streak,
            });
        }
    }

    /// Judges a look.
    pub(super) fn judge(&mut self, look: &Look, bench: &Bench<'_>) -> RuleState {
        self.sample_at = look.at().or(self.sample_at);
        let finding = match look {
            Look::Unusable(why) => {
                let said = explain::inconclusive(&self.limits, why, self.streak.count);
                Finding::new(Outcome::Inconclusive(why.clone()), self.open(), said)
            }
            Look::Old => Finding::new(Outcome::Nothing, self.open(), "no newer sample since the last look".into()),
            Look::Baseline(_) => Finding::new(Outcome::Waiting, self.open(), "first sample: a baseline to count from".into()),
            Look::Pieces { at, pieces } => {
                let finding = self.counted(pieces, bench);
                self.slowly(*at, bench);
                finding
            }
            Look::Probes { at, share, detail } => {
                let finding = self.probed(*at, *share, detail.as_deref(), bench);
                self.slowly(*at, bench);
                finding
            }
            Look::Ready { at, ready } => self.ready(*at, *ready, bench),
        };
        self.state(finding)
    }

    /// The state a frozen judge shows.
    pub(super) fn frozen(&self, why: &str) -> RuleState {
        let said = explain::inconclusive(&self.limits, why, self.streak.count);
        self.state(Finding::new(Outcome::Inconclusive(why.to_owned()), self.open(), said))
    }

    /// The breach that asks for a flip, if one does.
    pub(super) fn confirmed(&self, armed: Armed) -> Option<Confirmed> {
        let always = |path| matches!(path, Path::Critical | Path::Endpoints);
        let latched = self.latched.as_ref().filter(|found| armed == Armed::All || always(found.path));
        latched.cloned().or_else(|| {
            self.slow.confirmed.map(|(since, share)| Confirmed {
                path: Path::Slow,
                since,
                why: explain::slow(&self.rule, &self.limits, share),
            })
        })
    }

    /// Tells, once each time, that an alert rule is confirmed and that a reading comes near its threshold.
    pub(super) fn tell(&mut self, window: &Window, floor: Timestamp, notes: &mut Vec<Note>) {
        if self.rule.action == crate::model::Action::Alert {
            let confirmed = self.confirmed(Armed::All);
            if let (Some(found), false) = (&confirmed, self.alerted) {
                notes.push(Note::Alert {
                    rule: self.rule.name.clone(),
                    why: found.why.clone(),
                });
            }
            self.alerted = confirmed.is_some();
        }
        self.degradation(window.since(floor), notes);
    }

    fn degradation(&mut self, recent: Share, notes: &mut Vec<Note>) {
        let near = self.limits.degradation * self.limits.threshold;
        if self.limits.degradation >= 1.0 || matches!(self.rule.kind, RuleKind::Endpoints(_)) {
            return;
        }
        let enough = recent.bad >= self.limits.slow_bad && recent.total >= self.limits.min_requests;
        let leaves = !recent.reaches(near * 0.9);
        if self.degraded && leaves {
            self.degraded = false;
        } else if !self.degraded && enough && recent.reaches(near) {
            self.degraded = true;
            // A streak tells of itself.
            if self.streak.count == 0 {
                let span = explain::span(self.limits.slow_window);
                let measured = explain::measured(&self.rule, recent);
                let threshold = explain::percent(self.limits.threshold);
                notes.push(Note::Degraded {
                    rule: self.rule.name.clone(),
                    why: format!("{measured} in the last {span}, near its threshold of {threshold}"),
                });
            }
        }
    }

    // === counters ===

    fn counted(&mut self, pieces: &[Piece], bench: &Bench<'_>) -> Finding {
        let armed_at = after(bench.switched, self.limits.warm_up);
        let late: Vec<Piece> = pieces.iter().filter(|piece| piece.from >= armed_at).copied().collect();
        let early: Vec<Piece> = pieces.iter().filter(|piece| piece.from >= bench.switched).copied().collect();
        let (evidence, warming) = if late.is_empty() { (early, true) } else { (late, false) };
        if evidence.is_empty() {
            return Finding::new(Outcome::Waiting, self.open(), "counted before the switch was seen: dropped".into());
        }
        match self.interval.add(&evidence, warming, &self.limits) {
            None => {
                let open = self.interval.share;
                let said = if warming {
                    self.warming()
                } else {
                    explain::waiting(&self.limits, open)
                };
                Finding::new(Outcome::Waiting, Some(open), said)
            }
            Some(closed) => self.closed(closed, bench.clock),
        }
    }

    fn closed(&mut self, closed: Closed, clock: &Clock) -> Finding {
        if closed.share.total <= 0.0 {
            let why = format!("no requests for {}", explain::span(self.limits.stretch));
            let said = explain::inconclusive(&self.limits, &why, self.streak.count);
            return Finding::new(Outcome::Inconclusive(why), Some(closed.share), said);
        }
        let severe = self.streak.weigh(&closed, &self.limits, clock.age);
        if closed.early {
            return self.closed_early(closed, severe);
        }
        if !closed.share.over(self.limits.threshold) {
            let said = explain::pass(&self.rule, &self.limits, closed.share);
            return self.passed(closed.share, said);
        }
        self.streak.breach(closed.from, closed.share, clock.age);
        let pooled = self.streak.pooled(&self.limits);
        let sure = pooled.is_some_and(|pooled| pooled.sure);
        let said = explain::breach(&self.rule, &self.limits, closed.share, self.streak.count, sure);
        if self.limits.critical {
            self.confirm(Path::Critical, closed.from, &said);
        }
        self.confirm_severe(closed.share);
        if let Some(pooled) = pooled.filter(|pooled| pooled.sure && self.streak.count >= self.limits.consecutive) {
            self.confirm(Path::Fast, pooled.from, &said);
        }
        self.breached(closed.share, said)
    }

    /// In the warm-up a breach is no breach, except a severe one.
    fn closed_early(&mut self, closed: Closed, severe: bool) -> Finding {
        if severe {
            let said = explain::severe(&self.rule, &self.limits, closed.share, self.streak.severe);
            self.confirm_severe(closed.share);
            return self.breached(closed.share, said);
        }
        if self.streak.count == 0 {
            self.latched = None;
        }
        Finding::new(Outcome::Waiting, Some(closed.share), self.warming())
    }

    fn confirm_severe(&mut self, share: Share) {
        if self.streak.severe < 2 {
            return;
        }
        if let Some(from) = self.streak.severe_from() {
            let said = explain::severe(&self.rule, &self.limits, share, self.streak.severe);
            self.confirm(Path::Severe, from, &said);
        }
    }

    fn warming(&self) -> String {
        format!(
            "warming up: evidence counts from {} after the switch",
            explain::span(self.limits.warm_up)
        )
    }

    // === probes and endpoints ===

    fn probed(&mut self, at: Timestamp, share: Share, detail: Option<&str>, bench: &Bench<'_>) -> Finding {
        if at < after(bench.switched, self.limits.warm_up) {
            return Finding::new(Outcome::Waiting, Some(share), self.warming());
        }
        if !share.over(self.limits.threshold) {
            let said = explain::pass(&self.rule, &self.limits, share);
            return self.passed(share, said);
        }
        self.streak.breach(at, share, bench.clock.age);
        let mut said = explain::breach(&self.rule, &self.limits, share, self.streak.count, true);
        if let Some(detail) = detail {
            said += &format!(": {detail}");
        }
        if self.limits.critical {
            self.confirm(Path::Critical, at, &said);
        } else if self.streak.count >= self.limits.consecutive {
            self.confirm(Path::Probe, at, &said);
        }
        self.breached(share, said)
    }

    fn ready(&mut self, at: Timestamp, ready: u32, bench: &Bench<'_>) -> Finding {
        let share = Share {
            bad: 0.0,
            total: f64::from(ready),
        };
        let needed = match &self.rule.kind {
            RuleKind::Endpoints(endpoints) => endpoints.down_for,
            _ => Duration::ZERO,
        };
        if ready > 0 {
            self.down = None;
            let said = explain::measured(&self.rule, share);
            return self.passed(share, said);
        }
        let since = *self.down.get_or_insert(bench.clock.sure);
        let held = bench.clock.sure.saturating_sub(since);
        self.streak.breach(at, share, bench.clock.age);
        let said = explain::down(held, needed);
        if held >= needed && self.streak.count >= 2 {
            self.confirm(Path::Endpoints, at, &said);
        }
        self.breached(share, said)
    }

    // === verdicts ===

    fn passed(&mut self, share: Share, said: String) -> Finding {
        self.streak.end();
        self.latched = None;
        self.passes = self.passes.saturating_add(1);
        self.verdict(Outcome::Pass, share, said)
    }

    fn breached(&mut self, share: Share, said: String) -> Finding {
        self.passes = 0;
        self.verdict(Outcome::Breach, share, said)
    }

    fn verdict(&mut self, outcome: Outcome, share: Share, said: String) -> Finding {
        self.verdicts = self.verdicts.saturating_add(1);
        self.value = match self.rule.kind {
            RuleKind::Endpoints(_) => Some(share.total),
            _ => share.value(),
        };
        self.said = Some(said.clone());
        Finding::new(outcome, Some(share), said)
    }

    /// Confirmed once is confirmed until a pass, a switch or time ends the streak; only the sentence is renewed.
    fn confirm(&mut self, path: Path, since: Timestamp, why: &str) {
        let found = self.latched.get_or_insert_with(|| Confirmed {
            path,
            since,
            why: String::new(),
        });
        if found.path == path {
            why.clone_into(&mut found.why);
        }
    }

    fn slowly(&mut self, at: Timestamp, bench: &Bench<'_>) {
        let floor = after(bench.switched, self.limits.warm_up);
        self.slow.look(bench.window, floor, at, bench.clock, &self.limits);
    }

    fn open(&self) -> Option<Share> {
        self.interval.from().map(|_| self.interval.share)
    }

    fn state(&self, finding: Finding) -> RuleState {
        let endpoints = matches!(self.rule.kind, RuleKind::Endpoints(_));
        let pooled = self.streak.pooled(&self.limits).filter(|_| !endpoints);
        RuleState {
            rule: self.rule.name.clone(),
            kind: self.rule.kind.as_str().to_owned(),
            outcome: finding.outcome,
            streak: self.streak.count,
            of: self.limits.of_streak(),
            bad: finding.shown.filter(|_| !endpoints).map(|share| share.bad),
            total: finding.shown.map(|share| share.total),
            value: self.value,
            threshold: self.limits.threshold,
            below: false,
            bound: pooled.map(|pooled| pooled.bound),
            sample_at: self.sample_at,
            why: finding.why,
        }
    }
}
