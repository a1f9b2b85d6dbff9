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
    answer::{Answer, Bounds, Raw, Sorted, median, number, reading, time},
    plan::{Plan, Query, Read, What},
    prometheus::{Failure, Server, Session, Span},
    source::Source,
};
use crate::model::{Absence, Color, GuardSpec, Policy, Reading, RuleKind, RuleName, RuleSpec};

/// All questions about one read together.
const DEADLINE: Duration = Duration::from_secs(20);

/// Reads inspected at once.
const CONCURRENCY: usize = 4;

/// A scrape spacing over which detection suffers visibly.
const SPACING_ADVISED: Duration = Duration::from_secs(15);

/// A threshold should be so many times the usual bad share.
const HEADROOM: f64 = 2.5;

/// A clock that differs by more than this from Prometheus' is worth a word.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// What one rule measures on one color right now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryReport {
    /// The color.
    pub color: Color,
    /// The rule.
    pub rule: RuleName,
    /// `error_rate`, `latency`, `probe`, `endpoints`.
    pub kind: String,
    /// The query as it is sent, or what is done instead.
    pub query: String,
    /// The present value in words; `None` when there is none, or when only the running daemon measures it.
    pub value: Option<String>,
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
    /// Whether it is a bound of every histogram, as it must be.
    pub is_bound: bool,
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
            inspection.fill(&mut report, read, rule, &spec.policy).await;
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
    fn new(color: &Color, rule: &RuleSpec) -> Self {
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
    };
    let plural = if targets.len() == 1 { "target" } else { "targets" };
    Some(format!("{total} requests, {what}, on {} {plural}", targets.len()))
}

/// `spacing / 2 + (N - 1) x max(spacing, poll) + poll / 2`.
fn time_to_detect(spacing: Duration, policy: &Policy) -> Duration {
    spacing / 2 + spacing.max(policy.poll) * policy.consecutive.saturating_sub(1) + policy.poll / 2
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
                report.absent = Some(failure.absence());
                return;
            }
        };
        let samples = self.ask(&format!("{}[5m]", read.total())).await;
        report.scrape_spacing = samples.as_ref().ok().and_then(spacing);
        report.time_to_detect = report.scrape_spacing.map(|spacing| time_to_detect(spacing, policy));
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
        self.buckets(report, read).await;
        report.bad_share = self.bad_share(read).await;
        if let Err(failure) = samples {
            report.warnings.push(format!(
                "the raw samples of {} cannot be read, so the scrape spacing is unknown: {}",
                read.total(),
                failure.absence()
            ));
        }
        self.warn(report, &raw, rule);
    }

    async fn ask(&self, query: &str) -> Result<Answer, Failure> {
        self.server.ask(self.session, query, Span::Instant, self.deadline).await
    }

    async fn buckets(&self, report: &mut QueryReport, read: &Read) {
        let (What::Latency { bound, .. }, Some(expression)) = (&read.what, read.bounds()) else {
            return;
        };
        let Ok(answer) = self.ask(&expression).await else { return };
        let samples: Vec<_> = answer.samples.iter().collect();
        let bounds = Bounds::new(&samples);
        if bounds.finite().is_empty() {
            return;
        }
        let objection = bounds.objection(bound);
        let near = bounds.neighbours(bound);
        report.buckets = Some(Buckets {
            threshold: bound.value,
            is_bound: objection.is_none(),
            below: near.below,
            above: near.above,
            bounds: bounds.finite(),
        });
        match objection {
            Some(why) => {
                report.value = None;
                report.absent = Some(Absence::NoBucket(why));
            }
            None if near.above.is_none() => report.warnings.push(format!(
                "the threshold {} {} is the highest finite bucket, so nothing is known of slower requests; add a bucket above it",
                bound.text,
                bound.unit_text()
            )),
            None => {}
        }
    }

    /// The bad share of the last 5 minutes; `None` without requests.
    async fn bad_share(&self, read: &Read) -> Option<f64> {
        let query = match &read.what {
            What::Counters { total, bad } => format!("(sum(rate({bad}[5m])) or vector(0)) / sum(rate({total}[5m]))"),
            What::Latency { total, fast, .. } => format!("1 - sum(rate({fast}[5m])) / sum(rate({total}[5m]))"),
        };
        let answer = self.ask(&query).await.ok()?;
        let (_, text) = answer.samples.first()?.value.as_ref()?;
        Some(number(text)).filter(|share| share.is_finite())
    }

    fn warn(&self, report: &mut QueryReport, raw: &Raw, rule: &RuleSpec) {
        if let (Some(spacing), Some(detect)) = (report.scrape_spacing, report.time_to_detect)
            && spacing > SPACING_ADVISED
        {
            report.warnings.push(format!(
                "scraped every {} s: a total outage takes about {} s to decide; set interval 5s on this ServiceMonitor",
                spacing.as_secs_f64().round(),
                detect.as_secs_f64().round()
            ));
        }
        let allowed = match &rule.kind {
            RuleKind::ErrorRate(rule) => rule.threshold,
            RuleKind::Availability(rule) => 1.0 - rule.threshold,
            RuleKind::Latency(rule) => rule.share(),
            RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) | RuleKind::Probe(_) | RuleKind::Endpoints(_) => return,
        };
        if let Some(share) = report.bad_share.filter(|share| allowed < HEADROOM * share) {
            report.warnings.push(format!(
                "{:.2} % were bad in the last 5 minutes, and {:.2} % are allowed: leave more room, at least 2.5 times the usual share",
                share * 100.0,
                allowed * 100.0
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
