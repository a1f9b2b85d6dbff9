//! What every query of a guard returns right now, for `flipback check`: the dry run of a configuration against the live Prometheus.
//!
//! The same reads as in a look, asked one by one, and three questions that a look does not ask: how far apart the raw samples are, which
//! buckets there are, and what the present bad share is.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    NO_PROMETHEUS, address,
    advise::{close, figure, headroom, is_power_of_two, narrow, nearest_power_of_two, slow_scrape, time_to_detect, unit, window},
    answer::{Bounds, Raw, Sorted, median, number, reading, time},
    envelope::Answer,
    native::{other_form, remedy},
    plan::{Plan, Query, Read, Role, What},
    prometheus::{Failure, Server, Session, Span},
    scalar::{self, Scalar},
    source::{Source, explained},
};
use crate::model::{Absence, Color, GuardSpec, Histogram, Policy, Reading, RuleKind, RuleName, RuleSpec, ScalarRule};

/// All questions about one read together.
const DEADLINE: Duration = Duration::from_secs(20);

/// Reads inspected at once.
const CONCURRENCY: usize = 4;

/// A clock that differs by more than this from Prometheus' is worth a word. More than a look allows: the questions here take longer.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// What one rule measures on one color right now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryReport {
    /// The color.
    pub color: Color,
    /// The rule.
    pub rule: RuleName,
    /// `error_rate`, `latency`, `promql`, `probe`, `endpoints`.
    pub kind: String,
    /// The query as it is sent, or what is done instead.
    pub query: String,
    /// The present value in words; `None` when there is none, or when only the running daemon measures it.
    pub value: Option<String>,
    /// The present number of a rule that compares one: as it stands, a bad share as a fraction, a time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<f64>,
    /// Why there is no value.
    #[serde(flatten)]
    pub absent: Option<Absence>,
    /// The bad share of the last 5 minutes, as a fraction.
    pub bad_share: Option<f64>,
    /// How the latency threshold lies among the histogram's buckets.
    pub buckets: Option<Buckets>,
    /// The distance of two scrapes, from the raw samples.
    #[serde(with = "humantime_serde")]
    pub scrape_spacing: Option<Duration>,
    /// The time from a total outage to a decision.
    #[serde(with = "humantime_serde")]
    pub time_to_detect: Option<Duration>,
    /// What a person should look at, one sentence each.
    pub warnings: Vec<String>,
}

/// How a latency threshold lies among the buckets of a histogram, in the histogram's own unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Buckets {
    /// The threshold.
    pub threshold: f64,
    /// Whether it is a bound.
    pub is_bound: bool,
    /// Why it must not be configured, as a sentence; `None` when it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The next lower bound.
    pub below: Option<f64>,
    /// The next higher finite bound.
    pub above: Option<f64>,
    /// All finite bounds.
    pub bounds: Vec<f64>,
}

/// Reports on every rule and color, in the order they are configured.
pub(super) async fn reports(spec: &GuardSpec, source: Option<&Source>, plan: Option<&Plan>, now: Timestamp) -> Vec<QueryReport> {
    let session = match source {
        Some(source) => match tokio::time::timeout(DEADLINE, source.server.session()).await {
            Ok(session) => session,
            Err(_) => Err(Failure::Timeout),
        },
        None => Err(Failure::Other(NO_PROMETHEUS.to_owned())),
    };
    let mut questions = Vec::new();
    for color in spec.colors.keys() {
        for rule in &spec.rules {
            questions.push(report(spec, color, rule, source, plan, session.as_deref(), now));
        }
    }
    stream::iter(questions).buffered(CONCURRENCY).collect().await
}

async fn report(
    spec: &GuardSpec,
    color: &Color,
    rule: &RuleSpec,
    source: Option<&Source>,
    plan: Option<&Plan>,
    session: Result<&Session, &Failure>,
    now: Timestamp,
) -> QueryReport {
    let at = address(spec, color, &rule.name);
    let read = plan.and_then(|plan| plan.reads.iter().find(|read| read.at == at));
    let refused = plan
        .and_then(|plan| plan.refused.iter().find(|(known, _)| *known == at))
        .map(|(_, why)| why);
    let mut report = QueryReport::new(color, rule);
    match (read, source, session) {
        (Some(read), Some(source), Ok(session)) => {
            let inspection = Inspection {
                server: &source.server,
                session,
                deadline: Instant::now() + DEADLINE,
                now,
            };
            match &read.what {
                What::Scalar(scalar) => inspection.scalar(&mut report, read, scalar, rule, &spec.policy).await,
                _ => inspection.fill(&mut report, read, rule, &spec.policy).await,
            }
        }
        (_, _, Err(failure)) if refused.is_none() && needs_prometheus(rule) => report.absent = Some(failure.absence()),
        _ => report.absent = refused.cloned(),
    }
    report
}

fn needs_prometheus(rule: &RuleSpec) -> bool {
    rule.kind.needs_prometheus()
}

impl QueryReport {
    /// A report on a rule that nobody was asked about yet.
    #[must_use]
    pub fn new(color: &Color, rule: &RuleSpec) -> Self {
        let query = match &rule.kind {
            RuleKind::ErrorRate(rule) | RuleKind::Availability(rule) => format!("{} / {}", rule.bad, rule.total),
            RuleKind::Promql(rule) | RuleKind::Throughput(rule) | RuleKind::Saturation(rule) => rule.expr.clone(),
            RuleKind::Latency(rule) => rule.buckets.clone(),
            RuleKind::Probe(rule) => {
                let port = rule
                    .port
                    .map_or_else(|| "<the Service's target port>".to_owned(), |port| port.to_string());
                match rule.path.strip_prefix("https:") {
                    Some(path) => format!("GET https://<pod address>:{port}{path}"),
                    None => format!("GET http://<pod address>:{port}{}", rule.path),
                }
            }
            RuleKind::Endpoints(_) => "Ready endpoints from the EndpointSlices".to_owned(),
        };
        Self {
            color: color.clone(),
            rule: rule.name.clone(),
            kind: rule.kind.as_str().to_owned(),
            query,
            value: None,
            number: None,
            absent: None,
            bad_share: None,
            buckets: None,
            scrape_spacing: None,
            time_to_detect: None,
            warnings: Vec::new(),
        }
    }
}

/// The present value of counters in words.
fn words(read: &Read, reading: &Reading) -> Option<String> {
    let Reading::Counters { targets, .. } = reading else { return None };
    let total: f64 = targets.values().map(|counter| counter.total).sum();
    let bad: f64 = targets.values().filter_map(|counter| counter.bad).sum();
    let is_unseen = targets.values().all(|counter| counter.bad.is_none());
    let what = match &read.what {
        What::Counters { .. } if is_unseen => "no bad request ever seen".to_owned(),
        What::Counters { .. } => format!("{bad} bad"),
        What::Latency { bound, .. } => format!("{bad} slower than {} {}", bound.text, bound.unit_text()),
        // Interpolated, so rarely a whole number.
        What::Native(native) => format!(
            "about {} slower than {} {}",
            bad.round(),
            native.bound.text,
            native.bound.unit_text()
        ),
        What::Scalar(_) => return None,
    };
    let plural = if targets.len() == 1 { "target" } else { "targets" };
    Some(format!("{total} requests, {what}, on {} {plural}", targets.len()))
}

/// One read under inspection.
struct Inspection<'a> {
    server: &'a Server,
    session: &'a Session,
    deadline: Instant,
    now: Timestamp,
}

impl Inspection<'_> {
    async fn fill(&self, report: &mut QueryReport, read: &Arc<Read>, rule: &RuleSpec, policy: &Policy) {
        let mut query = Query::default();
        for (_, expression) in &read.expressions {
            query.add(expression);
        }
        report.query = query.text();
        let answer = match self.ask(&report.query).await {
            Ok(answer) => answer,
            Err(failure) => {
                report.absent = Some(told(read, &failure));
                return;
            }
        };
        let samples = self.samples(report, read, policy).await;
        let raw = Raw::new(read, &query, &Sorted::new(&answer));
        let stale_after = report.scrape_spacing.unwrap_or(Duration::from_secs(60)) * 3;
        let reading = match &answer.doubt {
            Some(why) => Reading::Absent(Absence::Partial(why.clone())),
            None => reading(read, &raw, stale_after.as_secs_f64().max(30.0)),
        };
        report.value = words(read, &reading);
        if let Reading::Absent(why) = reading {
            report.absent = Some(why);
        }
        self.form(report, read).await;
        self.buckets(report, read).await;
        report.bad_share = self.bad_share(read).await;
        if let (Err(failure), Some(sampled)) = (samples, read.sampled()) {
            report.warnings.push(format!(
                "the raw samples of {sampled} cannot be read, so the scrape spacing is unknown: {}",
                failure.absence()
            ));
        }
        self.warn(report, &raw, rule);
    }

    /// Reads how far apart the raw samples are.
    async fn samples(&self, report: &mut QueryReport, read: &Read, policy: &Policy) -> Result<(), Failure> {
        let Some(sampled) = read.sampled() else { return Ok(()) };
        let answer = self.ask(&format!("{sampled}[5m]")).await?;
        report.scrape_spacing = spacing(&answer);
        // What a hand-written number makes of an outage is not known.
        report.time_to_detect = report
            .scrape_spacing
            .filter(|_| !read.is_foreign())
            .map(|spacing| time_to_detect(spacing, policy));
        Ok(())
    }

    /// What a histogram that has no series exists as, if it does.
    async fn form(&self, report: &mut QueryReport, read: &Read) {
        if report.absent != Some(Absence::Empty) {
            return;
        }
        let Some(expression) = other_form(&read.what) else { return };
        if let Ok(answer) = self.ask(&expression).await
            && !answer.samples.is_empty()
            && let Some(why) = remedy(&read.what)
        {
            report.absent = Some(Absence::Error(why));
        }
    }

    /// One number: itself, untagged, which also shows what it is; then its limits.
    async fn scalar(&self, report: &mut QueryReport, read: &Arc<Read>, scalar: &Scalar, rule: &RuleSpec, policy: &Policy) {
        let unit = unit(rule);
        let mut words = Vec::new();
        for (role, expression) in &read.expressions {
            if *role == Role::Value {
                report.query.clone_from(expression);
            }
            let found = match self.ask(expression).await {
                Ok(Answer { doubt: Some(why), .. }) => Err(Absence::Partial(why)),
                Ok(answer) => scalar::one(&answer.samples.iter().collect::<Vec<_>>()).map(|(_, number)| number),
                Err(failure) => Err(told(read, &failure)),
            };
            match (role, found) {
                (Role::Value, Ok(number)) => {
                    report.number = Some(number);
                    words.insert(0, figure(number, unit.as_deref()));
                }
                (Role::Long, Ok(number)) => words.push(format!("{} over the long window", figure(number, unit.as_deref()))),
                (Role::Requests, Ok(number)) => words.push(format!("{} requests in the window", number.round())),
                (Role::Requests, Err(_)) => {}
                (_, Err(absence)) => report.absent = report.absent.take().or(Some(absence)),
                (_, Ok(_)) => {}
            }
        }
        if report.absent.is_none() {
            report.value = Some(words.join(", "));
        }
        let _ = self.samples(report, read, policy).await;
        if let Scalar::Share { .. } = scalar {
            report.bad_share = report.number;
        }
        self.buckets(report, read).await;
        self.warn_scalar(report, rule, policy);
    }

    fn warn_scalar(&self, report: &mut QueryReport, rule: &RuleSpec, policy: &Policy) {
        if let (Some(spacing), Some(window)) = (report.scrape_spacing, window(rule, policy))
            && let Some(warning) = narrow(window, spacing)
        {
            report.warnings.push(warning);
        }
        slow_scrape(report);
        headroom(report, rule);
        let limits = match &rule.kind {
            RuleKind::Latency(latency) => Some(ScalarRule {
                max: Some(latency.threshold.as_secs_f64()),
                unit: unit(rule),
                ..ScalarRule::default()
            }),
            kind => kind.scalar().cloned(),
        };
        if let (Some(number), Some(limits)) = (report.number, limits) {
            report.warnings.extend(close(number, &limits, policy));
        }
    }

    async fn ask(&self, query: &str) -> Result<Answer, Failure> {
        self.server.ask(self.session, query, Span::Instant, self.deadline).await
    }

    async fn buckets(&self, report: &mut QueryReport, read: &Read) {
        let (What::Latency { bound, .. } | What::Scalar(Scalar::Quantile { bound, .. }), Some(expression)) = (&read.what, read.bounds())
        else {
            return;
        };
        let Ok(answer) = self.ask(&expression).await else { return };
        let samples: Vec<_> = answer.samples.iter().collect();
        let bounds = Bounds::new(&samples);
        if bounds.finite().is_empty() {
            return;
        }
        let refusal = read.refusal(&bounds).or_else(|| read.objection(&bounds));
        let near = bounds.neighbours(bound);
        report.buckets = Some(Buckets {
            threshold: bound.value,
            is_bound: near.exact,
            refusal: refusal.clone(),
            below: near.below,
            above: near.above,
            bounds: bounds.finite(),
        });
        if let Some(why) = refusal {
            report.value = None;
            let is_bound = near.exact || matches!(read.what, What::Scalar(_));
            report.absent = Some(if is_bound { Absence::Error(why) } else { Absence::NoBucket(why) });
        }
    }

    /// The bad share of the last 5 minutes; `None` without requests.
    async fn bad_share(&self, read: &Read) -> Option<f64> {
        let query = match &read.what {
            What::Counters { total, bad } => format!("(sum(rate({bad}[5m])) or vector(0)) / sum(rate({total}[5m]))"),
            What::Latency { total, fast, .. } => format!("1 - sum(rate({fast}[5m])) / sum(rate({total}[5m]))"),
            What::Native(native) => format!(
                "1 - histogram_fraction(-Inf, {}, sum(rate({}[5m])))",
                native.bound.text, native.histogram
            ),
            What::Scalar(_) => return None,
        };
        let answer = self.ask(&query).await.ok()?;
        let (_, text) = answer.samples.first()?.value.as_ref()?;
        Some(number(text)).filter(|share| share.is_finite())
    }

    fn warn(&self, report: &mut QueryReport, raw: &Raw, rule: &RuleSpec) {
        slow_scrape(report);
        headroom(report, rule);
        if let (RuleKind::Latency(latency), Histogram::Native) = (&rule.kind, histogram(rule))
            && !is_power_of_two(latency.bound())
        {
            report.warnings.push(format!(
                "{} is no power of two of the histogram's unit, so the share is interpolated within one bucket, and moves when the client changes its resolution; a threshold such as {} is exact",
                latency.bound(),
                nearest_power_of_two(latency.bound())
            ));
        }
        if !raw.total.is_empty() && raw.started.is_empty() {
            report.warnings.push(
                "process_start_time_seconds is not exported by these targets: the first requests of a new pod cannot be judged".to_owned(),
            );
        }
        if let Some(theirs) = raw.evaluated.and_then(time)
            && theirs.duration_since(self.now).unsigned_abs() > CLOCK_SKEW
        {
            report.warnings.push(format!(
                "the clock of {} differs from ours by {} s: check time synchronization",
                self.server.name(),
                theirs.duration_since(self.now).unsigned_abs().as_secs()
            ));
        }
    }
}

/// The absence of a read that was asked alone.
fn told(read: &Read, failure: &Failure) -> Absence {
    match failure {
        Failure::Refused(why) => Absence::Error(explained(read, why)),
        other => other.absence(),
    }
}

fn histogram(rule: &RuleSpec) -> Histogram {
    match &rule.kind {
        RuleKind::Latency(latency) => latency.histogram,
        _ => Histogram::Classic,
    }
}

/// The usual distance of raw samples.
fn spacing(answer: &Answer) -> Option<Duration> {
    let distances = answer
        .samples
        .iter()
        .flat_map(|sample| sample.values.windows(2))
        .filter_map(|pair| match pair {
            [(first, _), (second, _)] => Some(second - first),
            _ => None,
        });
    median(distances)
}
