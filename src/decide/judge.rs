//! One rule on the active color: a look becomes an outcome, outcomes become a streak, a streak becomes a confirmation.
//!
//! A judge knows nothing of flips. Whether a confirmed breach moves traffic is asked elsewhere (`blame`, `gate`). How a
//! look becomes an outcome differs by what was looked at and is told in a file each: `counted` (requests), `numbered`
//! (one number), `answered` (probes and endpoints); `tell` is what is said beside the outcome.

mod answered;
mod counted;
mod numbered;
mod tell;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Note, Outcome, Path, RuleKind, RuleSpec, RuleState};

use super::{
    bound::Share,
    clock::{Clock, after, before},
    explain,
    interval::Interval,
    limits::Limits,
    meter::Look,
    nobody,
    number::{Bar, Limit, Others},
    slow::Slow,
    streak::Streak,
    window::Window,
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
    /// The limits that the newest breach of a number was beyond: an excuse must cover them all.
    #[serde(default)]
    pub(super) crossed: Vec<Limit>,
    /// The limit that the newest number is told with.
    #[serde(default)]
    told_with: Option<Limit>,
    /// A number this look gave, until it was asked whether it is near a limit.
    #[serde(skip)]
    fresh: Option<f64>,
    /// Classic mode: the guard's bad polls in a row.
    #[serde(default)]
    polls: u32,
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
    pub(super) others: Others,
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
            crossed: Vec::new(),
            told_with: None,
            fresh: None,
            polls: 0,
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
        self.streak.rebase();
    }

    /// Breaches in a row; in classic mode the guard's bad polls in a row.
    pub(super) fn streak(&self) -> u32 {
        if self.limits.polled { self.polls } else { self.streak.count }
    }

    /// Lets time pass: streaks expire.
    pub(super) fn age(&mut self, clock: &Clock, notes: &mut Vec<Note>) {
        self.slow.expire(clock, &self.limits);
        if let Some(streak) = self.streak.expire(clock.age, self.limits.expire) {
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
                let said = explain::inconclusive(&self.limits, why, self.streak());
                Finding::new(Outcome::Inconclusive(why.clone()), self.open(), said)
            }
            Look::Old => Finding::new(Outcome::Nothing, self.open(), "no newer sample since the last look".into()),
            Look::Baseline(_) => Finding::new(Outcome::Waiting, self.open(), "first sample: a baseline to count from".into()),
            Look::Pieces { at, pieces } => {
                let finding = self.counted(*at, pieces, bench);
                self.slowly(*at, bench);
                finding
            }
            Look::Number { at, number } => self.numbered(*at, number, bench),
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
        let said = explain::inconclusive(&self.limits, why, self.streak());
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
                why: explain::slow(&self.rule, &self.limits, share) + &explain::agreed(&self.limits),
            })
        })
    }

    fn warming(&self) -> String {
        format!(
            "warming up: evidence counts from {} after the switch",
            explain::span(self.limits.warm_up)
        )
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
        let agree = self.dissent(at, bench).is_none();
        self.slow.look(bench.window, floor, at, agree, bench.clock, &self.limits);
    }

    /// The first of the rule's own two windows that is not over the threshold, if one is not. Nothing before the switch
    /// and its warm-up counts; a window with nothing in it is not over anything.
    fn dissent(&self, at: Timestamp, bench: &Bench<'_>) -> Option<(Duration, Share)> {
        let windows = self.limits.windows?;
        let floor = after(bench.switched, self.limits.warm_up);
        [windows.short, windows.long]
            .into_iter()
            .map(|span| (span, bench.window.since(before(at, span).max(floor))))
            .find(|(_, share)| !share.over(self.limits.threshold))
    }

    fn open(&self) -> Option<Share> {
        self.interval.from().map(|_| self.interval.share)
    }

    fn state(&self, finding: Finding) -> RuleState {
        let endpoints = matches!(self.rule.kind, RuleKind::Endpoints(_));
        let numbers = self.limits.numbers();
        let pooled = self.streak.pooled(&self.limits).filter(|_| !endpoints && !numbers);
        let shown = finding.shown.filter(|_| !numbers);
        // People who think in 99.9 % are shown the good share; everything is judged on the bad one.
        let good = |share: f64| if explain::complement(&self.rule) { 1.0 - share } else { share };
        RuleState {
            rule: self.rule.name.clone(),
            kind: self.rule.kind.as_str().to_owned(),
            outcome: finding.outcome,
            streak: self.streak(),
            of: self.limits.of_streak(),
            bad: shown.filter(|_| !endpoints).map(|share| share.bad),
            total: shown.map(|share| share.total),
            value: self.value.map(good),
            threshold: good(self.told_with.map_or(self.limits.threshold, |limit| limit.at)),
            below: explain::complement(&self.rule) || self.told_below(),
            bound: pooled.map(|pooled| good(pooled.bound)),
            sample_at: self.sample_at,
            why: finding.why,
        }
    }

    fn told_below(&self) -> bool {
        let first = self.limits.bars.first();
        self.told_with.map_or(matches!(first, Some(Bar::Min(_))), Limit::below)
    }
}
