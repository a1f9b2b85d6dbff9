//! What would have been: the configured rules over a guard's past, judged by the very engine that judges live. Pure: pasts in, reports
//! out; who reads them from Prometheus, and when, is the command line's business.
//!
//! Reading order, along one guard: [`course`] (which color had the traffic, since when), `reel` (a past becomes observations, poll by
//! poll), the engine, `tally` (decisions become events, near misses, blind spans), `canvas` (the same past as lines), `rate` and `advice`
//! (what follows from it), [`report`] (all of it as JSON), [`page`] (as a page).
//!
//! It refuses to make up what history does not hold. Probes were not made then, so a probe rule is left out and named; an endpoints
//! rule needs somebody who counted; a rule without samples is blind, as it would have been live. History did not follow the
//! decisions: after a rollback that would have been, traffic stayed, so one fault is one event for as long as it lasts, and cooldowns,
//! known bad releases and daily limits are not played.

mod advice;
mod canvas;
pub mod course;
pub mod page;
mod rate;
mod reel;
pub mod report;
mod tally;
pub mod words;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    decide::Engine,
    model::{Color, GuardSpec, Past, RuleKind, RuleName, Survey},
};

use self::{canvas::Canvas, reel::Reel, tally::Tally};
pub use self::{
    course::{Course, CourseError, Expected, Origin, Switch},
    rate::{Rate, rate},
    report::{GuardReport, Report},
};

/// A rule that cannot be judged on the past, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Which.
    pub rule: RuleName,
    /// Why, as a sentence.
    pub why: String,
}

/// One guard's past under judgement.
#[derive(Debug)]
pub struct Backtest {
    spec: Arc<GuardSpec>,
    engine: Engine,
    reel: Reel,
    tally: Tally,
    canvas: Canvas,
    surveys: Vec<Survey>,
    left_out: Vec<LeftOut>,
    course: Course,
    from: Timestamp,
    judged_to: Timestamp,
}

/// What is known before a guard's past is judged.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The guard as configured.
    pub spec: Arc<GuardSpec>,
    /// Which color had the traffic.
    pub course: Course,
    /// What each rule has to go by.
    pub surveys: Vec<Survey>,
    /// Colors whose Ready endpoints were counted.
    pub counted: Vec<Color>,
    /// Releases known to be bad.
    pub expected: Vec<Expected>,
    /// Where the past begins.
    pub from: Timestamp,
    /// Where it ends.
    pub until: Timestamp,
}

impl Backtest {
    /// Sets the engine up as it would have been live, without the rules that history cannot feed.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let Setup {
            spec,
            course,
            surveys,
            counted,
            expected,
            from,
            until,
        } = setup;
        let (judged, left_out) = judgeable(&spec, &counted, &course, until.duration_since(from).unsigned_abs());
        let judged = Arc::new(judged);
        Self {
            engine: Engine::new(judged.clone()),
            reel: Reel::new(judged.clone(), &course, &surveys, from),
            tally: Tally::new(&judged, &course, expected, from),
            canvas: Canvas::new(&surveys, from, until),
            spec: judged,
            surveys,
            left_out,
            course,
            from,
            judged_to: from,
        }
    }

    /// Judges the next stretch; stretches come in order.
    pub fn feed(&mut self, past: &Past) {
        self.canvas.take(past);
        self.reel.load(past);
        while let Some(look) = self.reel.next() {
            let decision = self.engine.step(look);
            self.tally.take(look, &decision);
        }
        self.judged_to = past.to;
    }

    /// Sums up what was judged so far.
    #[must_use]
    pub fn finish(self) -> GuardReport {
        let Self {
            spec,
            tally,
            canvas,
            surveys,
            left_out,
            course,
            from,
            judged_to,
            ..
        } = self;
        report::sum(report::Parts {
            spec: &spec,
            tally,
            canvas,
            surveys,
            left_out,
            course,
            from,
            until: judged_to,
        })
    }
}

/// The guard without the rules that history cannot feed. Where no switch is known, the whole span is one watch.
fn judgeable(spec: &GuardSpec, counted: &[Color], course: &Course, span: Duration) -> (GuardSpec, Vec<LeftOut>) {
    let mut judged = spec.clone();
    let mut left_out = Vec::new();
    judged.rules.retain(|rule| {
        let why = match &rule.kind {
            RuleKind::Probe(_) => Some("probes were not made then, and no metric tells what they would have found"),
            RuleKind::Endpoints(_) if spec.colors.keys().any(|color| !counted.contains(color)) => Some(
                "nobody counted Ready endpoints: scrape flipback itself, or kube-state-metrics (kube_deployment_status_replicas_ready)",
            ),
            _ => None,
        };
        if let Some(why) = why {
            left_out.push(LeftOut {
                rule: rule.name.clone(),
                why: why.to_owned(),
            });
        }
        why.is_none()
    });
    if course.origin == Origin::None {
        judged.policy.watch = judged.policy.watch.max(span + Duration::from_secs(1));
    }
    (judged, left_out)
}

#[cfg(test)]
mod tests;
