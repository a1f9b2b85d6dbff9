//! What a gate found, for programs and for people. `docs/gate.md` explains every field; a new one is no new version.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::trial::{Cause, Finding, Position, Ruling, Subject, Tally, Trial};
use crate::{
    cli::paint::{self, Cell, columns, figure, limit, styled},
    model::{
        Action, CommandError, CommandReply, GuardId, GuardSpec, IncidentOutcome, Mode, RuleName,
        status::{EventLine, unit},
    },
};

/// Version of the JSON result.
const SCHEMA: u32 = 1;

/// The result.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
    /// flipback's version.
    pub flipback: &'static str,
    /// Whose.
    pub guard: GuardId,
    /// Whether it may flip.
    pub mode: Mode,
    /// The judged color; `null` where it could not be told.
    pub color: Option<String>,
    /// Where it stood.
    pub position: Option<Position>,
    /// What it runs, where that can be told.
    pub release: Option<String>,
    /// What was found.
    pub result: Finding,
    /// The exit code.
    pub exit_code: u8,
    /// What it rests on.
    pub cause: Cause,
    /// One sentence with numbers.
    pub why: String,
    /// The rule that was confirmed.
    pub rule: Option<RuleName>,
    /// When the gate began.
    pub started_at: Timestamp,
    /// When the judgement began, after the delay; `null`: it did not.
    pub judged_from: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How long was judged, in seconds.
    pub judged_seconds: f64,
    /// How long was asked for, in seconds.
    pub for_seconds: f64,
    /// How often was looked.
    pub looks: u32,
    /// What came of `--rollback`; `null`: it was not asked for, or there was no reason.
    pub rollback: Option<Rollback>,
    /// By rule, in the configuration's order.
    pub rules: Vec<RuleReport>,
    /// What happened, oldest first.
    pub events: Vec<EventLine>,
}

/// What came of `--rollback`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rollback {
    /// Whether traffic is back on the other color, and if not, why not.
    pub result: RollbackResult,
    /// A sentence.
    pub what: String,
    /// The incident, which names the evidence.
    pub incident: Option<String>,
    /// From decision to accepted patch, in milliseconds.
    pub took_ms: Option<f64>,
}

/// What came of `--rollback`, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackResult {
    /// Traffic was moved.
    RolledBack,
    /// Somebody else had moved it already.
    RolledBackAlready,
    /// The guard is in monitor mode: it would have been moved.
    Withheld,
    /// A gate of the flip stands against it.
    Refused,
    /// It was tried, or could not even be asked for.
    Failed,
}

impl Rollback {
    /// Not carried out.
    pub fn not(result: RollbackResult, why: impl Into<String>) -> Self {
        Self {
            result,
            what: why.into(),
            incident: None,
            took_ms: None,
        }
    }

    /// What the answer to a command says.
    #[must_use]
    pub fn of(answer: &Result<CommandReply, CommandError>) -> Self {
        let incident = match answer {
            Ok(CommandReply::Flip { incident }) => incident,
            Ok(CommandReply::Done { what }) => return Self::not(RollbackResult::Failed, what),
            Err(CommandError::Refused(why)) => return Self::not(RollbackResult::Refused, why),
            Err(error) => return Self::not(RollbackResult::Failed, error.to_string()),
        };
        let (from, to) = (&incident.case.from, &incident.case.to);
        let (result, what, took_ms) = match &incident.outcome {
            IncidentOutcome::RolledBack {
                took_ms, preview_error, ..
            } => {
                let preview = preview_error
                    .as_ref()
                    .map(|error| format!("; but the preview Service was not swapped: {error}"));
                let what = format!(
                    "traffic moved from {from} to {to} in {took_ms:.0} ms{}",
                    preview.unwrap_or_default()
                );
                (RollbackResult::RolledBack, what, Some(*took_ms))
            }
            IncidentOutcome::Withheld => {
                let what = format!("the guard is in monitor mode; it would have gone from {from} to {to}");
                (RollbackResult::Withheld, what, None)
            }
            IncidentOutcome::Blocked { refusal } => (RollbackResult::Refused, refusal.to_string(), None),
            IncidentOutcome::Suppressed { suppression } => (RollbackResult::Refused, suppression.to_string(), None),
            IncidentOutcome::Failed { error } => (RollbackResult::Failed, error.clone(), None),
            IncidentOutcome::DryRun | IncidentOutcome::Decided => {
                let what = format!("no answer yet whether traffic moved from {from} to {to}: see `flipback status`");
                (RollbackResult::Failed, what, None)
            }
        };
        Self {
            result,
            what,
            incident: Some(incident.id.clone()),
            took_ms,
        }
    }

    /// The line for people. Whoever reads only this must not believe that users are safe when they are not.
    #[must_use]
    pub fn line(&self) -> String {
        let head = match self.result {
            RollbackResult::RolledBack => "rolled back",
            RollbackResult::RolledBackAlready => "rolled back already",
            RollbackResult::Withheld | RollbackResult::Refused | RollbackResult::Failed => "NOT rolled back",
        };
        let incident = self
            .incident
            .as_ref()
            .map(|incident| format!(" (incident {incident})"))
            .unwrap_or_default();
        format!("{head}: {}{incident}", self.what)
    }

    fn is_done(&self) -> bool {
        matches!(self.result, RollbackResult::RolledBack | RollbackResult::RolledBackAlready)
    }
}

/// One rule in the result.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub rule: RuleName,
    /// Its kind.
    pub kind: &'static str,
    /// Whether the finding rests on it (`rollback`), or it only tells (`alert`).
    pub action: Action,
    /// What was found of it alone.
    pub result: Finding,
    /// Passes in a row, up to the end, and how many it takes.
    pub passes_in_a_row: u32,
    /// How many passes in a row make it good.
    pub passes_needed: u32,
    /// All passes.
    pub passes: u32,
    /// All breaches.
    pub breaches: u32,
    /// Looks that gave nothing usable.
    pub inconclusive: u32,
    /// Breaches in a row at the end.
    pub streak: u32,
    /// Breaches in a row that confirm it.
    pub of: u32,
    /// The newest judged value.
    pub value: Option<f64>,
    /// The worst judged value.
    pub worst: Option<f64>,
    /// What they are compared to.
    pub threshold: Option<f64>,
    /// Whether under the threshold is the breach.
    pub below: bool,
    /// What they count.
    pub unit: Option<String>,
    /// Bad requests, or probes, among those judged.
    pub bad: Option<f64>,
    /// Requests, or probes, that were judged.
    pub total: Option<f64>,
    /// Time of the newest sample.
    pub sample_at: Option<Timestamp>,
    /// One sentence with numbers.
    pub why: String,
}

/// When things happened and what was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the gate began.
    pub started: Timestamp,
    /// When the judgement began.
    pub judged_from: Option<Timestamp>,
    /// When it ended.
    pub ended: Timestamp,
    /// How long was asked for.
    pub span: Duration,
}

impl Report {
    /// Puts it together; without a trial nothing was judged.
    #[must_use]
    pub fn new(spec: &GuardSpec, subject: Option<&Subject>, trial: Option<&Trial>, ruling: &Ruling, times: Times) -> Self {
        let fresh = super::trial::tallies(spec);
        let tallies = trial.map_or(&fresh, |trial| &trial.tallies);
        let judged = times
            .judged_from
            .map(|from| times.ended.duration_since(from).as_secs_f64().max(0.0));
        Self {
            schema: SCHEMA,
            flipback: env!("CARGO_PKG_VERSION"),
            guard: spec.id.clone(),
            mode: spec.mode,
            color: subject.map(|subject| subject.color.to_string()),
            position: subject.map(|subject| subject.position),
            release: subject.and_then(|subject| subject.release.clone()),
            result: ruling.finding,
            exit_code: super::exit_code(ruling.finding),
            cause: ruling.cause,
            why: ruling.why.clone(),
            rule: ruling.rule.clone(),
            started_at: times.started,
            judged_from: times.judged_from,
            ended_at: times.ended,
            judged_seconds: (judged.unwrap_or_default() * 1000.0).round() / 1000.0,
            for_seconds: times.span.as_secs_f64(),
            looks: trial.map_or(0, |trial| trial.looks),
            rollback: None,
            rules: tallies.iter().map(|tally| rule(tally, trial, ruling, times.ended)).collect(),
            events: trial.map(|trial| trial.events.clone()).unwrap_or_default(),
        }
    }

    /// `green of shop/web (active)`.
    #[must_use]
    pub fn who(&self) -> String {
        match (&self.color, self.position) {
            (Some(color), Some(position)) => format!("{color} of {} ({})", self.guard, position.as_str()),
            _ => self.guard.to_string(),
        }
    }

    /// The result for people.
    #[must_use]
    pub fn text(&self) -> String {
        let (word, style) = match self.result {
            Finding::Good => ("GOOD", paint::GOOD),
            Finding::Bad => ("BAD", paint::BAD),
            Finding::Undecided => ("UNDECIDED", paint::WARN),
        };
        let judged = Duration::from_secs(self.judged_seconds.round() as u64);
        let asked = Duration::from_secs_f64(self.for_seconds);
        let time = match self.judged_from {
            None => "not judged".to_owned(),
            Some(_) if judged >= asked => format!("judged for {}", humantime::format_duration(judged)),
            Some(_) => format!(
                "judged for {} of {}",
                humantime::format_duration(judged),
                humantime::format_duration(asked)
            ),
        };
        let release = self
            .release
            .as_ref()
            .map(|release| format!(", release {release}"))
            .unwrap_or_default();
        let mut out = format!("{}  {}{release}, {time}\n", styled(word, style), self.who());
        if self.finding_has_a_sentence() {
            out.push_str(&format!("  {}\n", self.why));
        }
        if let Some(rollback) = &self.rollback {
            let style = if rollback.is_done() { paint::GOOD } else { paint::BAD };
            out.push_str(&format!("  {}\n", styled(&rollback.line(), style)));
        }
        out.push('\n');
        out.push_str(&columns(&self.table(), 2));
        if !self.events.is_empty() {
            out.push('\n');
            let rows: Vec<Vec<Cell>> = self.events.iter().map(event).collect();
            out.push_str(&columns(&rows, 2));
        }
        out
    }

    /// A good color's sentence is the table below it.
    fn finding_has_a_sentence(&self) -> bool {
        self.result != Finding::Good
    }

    fn table(&self) -> Vec<Vec<Cell>> {
        let titles = ["RULE", "RESULT", "PASSES", "BREACHES", "LAST", "WORST", "LIMIT", "JUDGED", ""];
        let mut rows = vec![titles.map(|title| Cell::new(title, paint::DIM)).to_vec()];
        rows.extend(self.rules.iter().map(|rule| rule.row(&self.why)));
        rows
    }
}

fn event(line: &EventLine) -> Vec<Cell> {
    let at = line.at.strftime("%H:%M:%S").to_string();
    vec![Cell::new(at, paint::DIM), Cell::plain(&*line.what)]
}

fn rule(tally: &Tally, trial: Option<&Trial>, ruling: &Ruling, ended: Timestamp) -> RuleReport {
    let state = tally.state.as_ref();
    let enough = trial.map_or(Err("not looked at".to_owned()), |trial| trial.enough(tally, ended));
    // What ended the trial from outside says nothing of a rule, good or bad.
    let outside = matches!(ruling.cause, Cause::Changed | Cause::Unreadable);
    let confirmed = ruling.rule.as_ref() == Some(&tally.spec.name);
    let alerting = tally.spec.action == Action::Alert && state.is_some_and(|state| state.streak >= state.of);
    let (result, why) = match enough {
        _ if confirmed && ruling.finding == Finding::Bad => (Finding::Bad, tally.said().to_owned()),
        _ if confirmed => (Finding::Undecided, ruling.why.clone()),
        _ if alerting => (Finding::Bad, tally.said().to_owned()),
        _ if outside => (Finding::Undecided, ruling.why.clone()),
        Ok(()) => (Finding::Good, tally.said().to_owned()),
        Err(missing) => (Finding::Undecided, missing),
    };
    RuleReport {
        rule: tally.spec.name.clone(),
        kind: tally.spec.kind.as_str(),
        action: tally.spec.action,
        result,
        passes_in_a_row: tally.in_a_row,
        passes_needed: trial.map_or(0, Trial::needed),
        passes: tally.passes,
        breaches: tally.breaches,
        inconclusive: tally.inconclusive,
        streak: tally.streak(),
        of: state.map_or(0, |state| state.of),
        value: tally.value,
        worst: tally.worst,
        threshold: state.map(|state| state.threshold).filter(|threshold| threshold.is_finite()),
        below: tally.spec.kind.as_str() == unit::ENDPOINTS || state.is_some_and(|state| state.below),
        unit: tally.unit.clone(),
        bad: tally.counted.map(|(_, bad)| bad),
        total: tally.counted.map(|(total, _)| total),
        sample_at: state.and_then(|state| state.sample_at),
        why,
    }
}

impl RuleReport {
    /// What it was compared with, `over 5 %`.
    #[must_use]
    pub fn limit(&self) -> String {
        let threshold = self.threshold.unwrap_or(f64::INFINITY);
        limit(self.unit.as_deref(), threshold, self.below)
    }

    /// A value in its unit, or a dash.
    #[must_use]
    pub fn shown(&self, value: Option<f64>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| figure(self.unit.as_deref(), value))
    }

    /// `12 of 6000`, or a dash.
    #[must_use]
    pub fn judged(&self) -> String {
        match (self.bad, self.total) {
            (Some(bad), Some(total)) if total > 0.0 => format!("{bad:.0} of {total:.0}"),
            _ => "-".to_owned(),
        }
    }

    /// A line of the table, which does not repeat what stands above it or in its own numbers.
    fn row(&self, above: &str) -> Vec<Cell> {
        let (word, style) = match (self.result, self.action) {
            (Finding::Good, _) => ("good", paint::GOOD),
            (Finding::Bad, Action::Rollback) => ("bad", paint::BAD),
            (Finding::Bad, Action::Alert) => ("alert", paint::WARN),
            (Finding::Undecided, _) => ("undecided", paint::WARN),
        };
        let told = self.result == Finding::Good || above.contains(&self.why);
        let why = if told { "" } else { self.why.as_str() };
        vec![
            Cell::plain(self.rule.as_str()),
            Cell::new(word, style),
            Cell::plain(self.passes.to_string()),
            Cell::plain(self.breaches.to_string()),
            Cell::new(self.shown(self.value), style),
            Cell::plain(self.shown(self.worst)),
            Cell::plain(self.limit()),
            Cell::plain(self.judged()),
            Cell::new(why, paint::DIM),
        ]
    }
}
