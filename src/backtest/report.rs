//! What a backtest found, as JSON. The form is documented in `docs/backtest.md`; a change of meaning raises [`SCHEMA`].

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    LeftOut,
    advice::{self, Suggestion},
    canvas::Canvas,
    course::{Course, Expected},
    rate::{Rate, rate},
    tally::Tally,
};
use crate::model::{GuardId, GuardSpec, RuleName, RuleSpec, Survey};
use crate::plot::Unit;

pub use super::{
    canvas::RulePlot,
    tally::{BlindSpan, Event, Near, NearMiss, What},
};

/// Version of the report's form.
pub const SCHEMA: u32 = 1;

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub flipback_backtest: u32,
    /// flipback's version.
    pub version: String,
    /// Where the past begins.
    pub from: Timestamp,
    /// Where it ends.
    pub until: Timestamp,
    /// Whether all of it was judged: `false` after an interruption or a failure.
    pub complete: bool,
    /// Each guard.
    pub guards: Vec<GuardReport>,
    /// Guards that could not be judged.
    pub failed: Vec<Failed>,
    /// Rollbacks of releases not known to be bad, of all guards together, per guard and year.
    pub false_alarms: Rate,
}

/// A guard that could not be judged.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// Which.
    pub guard: GuardId,
    /// Why, as a sentence.
    pub why: String,
}

/// One guard.
#[derive(Clone, Debug, Serialize)]
pub struct GuardReport {
    /// Which.
    pub guard: GuardId,
    /// Where its judged past begins.
    pub from: Timestamp,
    /// Where it ends.
    pub until: Timestamp,
    /// Which color had the traffic, since when, and how that is known.
    pub course: Course,
    /// Looks that were judged.
    pub looks: u64,
    /// Seconds in which every path was armed.
    pub watched_seconds: f64,
    /// Each judged rule.
    pub rules: Vec<RuleReport>,
    /// Rules that history cannot feed.
    pub left_out: Vec<LeftOut>,
    /// What would have happened.
    pub events: Vec<Event>,
    /// What nearly happened; bounded, `near_total` counts all.
    pub near_misses: Vec<NearMiss>,
    /// Near misses by kind.
    pub near_total: std::collections::BTreeMap<&'static str, u64>,
    /// Seconds without usable data.
    pub blind_seconds: f64,
    /// When and why; bounded.
    pub blind: Vec<BlindSpan>,
    /// Releases known to be bad for which nothing would have been flipped.
    pub missed: Vec<Expected>,
    /// Rollbacks of releases not known to be bad.
    pub false_alarms: Rate,
    /// What to change.
    pub suggestions: Vec<Suggestion>,
    /// The charts.
    #[serde(skip)]
    pub plots: Vec<RulePlot>,
}

/// One rule of a guard.
#[derive(Clone, Debug, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub rule: RuleName,
    /// The kind as configuration spells it.
    pub kind: String,
    /// The bad share, or the number, that is allowed.
    pub threshold: Option<f64>,
    /// What `threshold` counts: `share`, or the unit of a number (`s` for a quantile), empty where none was given.
    pub unit: String,
    /// Intervals, or polls of a number, that were judged.
    pub intervals: u64,
    /// Breaches among them.
    pub breaches: u64,
    /// The bad share of all requests while nothing was wrong.
    pub usual_share: Option<f64>,
    /// The bad share that 99 % of spans as long as the slow path's stay within while nothing was wrong.
    pub p99_share: Option<f64>,
    /// Seconds between two scrapes, as measured.
    pub spacing_seconds: Option<f64>,
    /// Seconds from a total outage to a decision, with that spacing.
    pub detect_seconds: Option<f64>,
}

/// What a guard's report is made of.
pub(super) struct Parts<'a> {
    pub(super) spec: &'a GuardSpec,
    pub(super) tally: Tally,
    pub(super) canvas: Canvas,
    pub(super) surveys: Vec<Survey>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) course: Course,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// Sums up a guard.
pub(super) fn sum(parts: Parts<'_>) -> GuardReport {
    let Parts {
        spec,
        mut tally,
        canvas,
        surveys,
        left_out,
        course,
        from,
        until,
    } = parts;
    tally.finish(until);
    let span = until.duration_since(from).unsigned_abs();
    let judged = span.saturating_sub(tally.blind_for);
    let rollbacks = || tally.events.iter().filter(|event| event.what == What::Rollback);
    let alarms = rollbacks().filter(|event| !event.expected).count();
    let reached = |one: &Expected| one.at >= from && one.at <= until;
    let end = |one: &Expected| one.at.saturating_add(spec.policy.watch).unwrap_or(Timestamp::MAX);
    let caught = |one: &Expected| rollbacks().any(|event| event.at >= one.at && event.at <= end(one));
    let missed = tally.expected.iter().filter(|one| reached(one) && !caught(one)).cloned().collect();
    let rules: Vec<RuleReport> = spec
        .rules
        .iter()
        .zip(&tally.rules)
        .map(|(rule, counts)| of_rule(spec, rule, counts, &surveys))
        .collect();
    let suggestions = spec.rules.iter().zip(&tally.rules);
    let suggestions = suggestions
        .flat_map(|(rule, counts)| advice::suggestions(spec, rule, counts, &surveys))
        .collect();
    GuardReport {
        guard: spec.id.clone(),
        from,
        until,
        looks: tally.looks,
        watched_seconds: tally.watched.as_secs_f64(),
        rules,
        left_out,
        blind_seconds: tally.blind_for.as_secs_f64(),
        missed,
        false_alarms: rate(alarms as u64, judged),
        suggestions,
        plots: canvas.plots(spec, &tally, &course.switches),
        course,
        events: tally.events,
        near_misses: tally.near,
        near_total: tally.near_total,
        blind: tally.blind,
    }
}

fn of_rule(spec: &GuardSpec, rule: &RuleSpec, counts: &super::tally::RuleTally, surveys: &[Survey]) -> RuleReport {
    let of_rule = surveys.iter().filter(|survey| survey.rule == rule.name);
    let spacing = of_rule.filter_map(|survey| survey.spacing).max();
    RuleReport {
        rule: rule.name.clone(),
        kind: rule.kind.as_str().to_owned(),
        threshold: advice::limit(&rule.kind, &spec.policy),
        unit: match advice::unit(&rule.kind, &spec.policy) {
            Unit::Share => "share".to_owned(),
            Unit::Number(of) => of,
        },
        intervals: counts.judged,
        breaches: counts.breaches,
        usual_share: (counts.total > 0.0).then(|| counts.bad / counts.total),
        p99_share: counts.p99(),
        spacing_seconds: spacing.map(|spacing| spacing.as_secs_f64()),
        detect_seconds: spacing.map(|spacing| advice::time_to_detect(spacing, &spec.policy).as_secs_f64()),
    }
}

impl Report {
    /// Puts the guards together.
    #[must_use]
    pub fn new(from: Timestamp, until: Timestamp, guards: Vec<GuardReport>, failed: Vec<Failed>, complete: bool) -> Self {
        let events = guards.iter().map(|guard| guard.false_alarms.events).sum();
        let days: f64 = guards.iter().map(|guard| guard.false_alarms.days).sum();
        Self {
            flipback_backtest: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            from,
            until,
            complete: complete && failed.is_empty(),
            guards,
            failed,
            false_alarms: rate(events, Duration::from_secs_f64(days * 86_400.0)),
        }
    }
}
