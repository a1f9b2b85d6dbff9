//! What a live Prometheus says of a configuration before the first verdict counts: thresholds that no bucket bounds, scrapes that are
//! too slow, windows that are too short. For `flipback run`; `flipback check` tells more and takes longer.
//!
//! All guards share a few queries, because a restart in the middle of an outage must not cost the server what a person's `check` may.
//! Hand-written expressions are left alone for the same reason. What is not answered in time is not known, and nothing is concluded
//! from it: a metric that does not exist yet is a color that was never deployed, a silent Prometheus is a state.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Observer,
    advise::{narrow, sluggish, time_to_detect, window},
    answer::{Bounds, Sorted},
    plan::{EXPRESSIONS_MAX, Plan, QUERY_BYTES_MAX, Query, Read, What},
    prometheus::{Failure, Span},
    scalar::{self, Scalar},
    source::Source,
};
use crate::model::{Color, GuardId, RuleName, TimeUnit};

/// Queries under way at once, beside those of the first look.
const CONCURRENCY: usize = 2;

/// Further requests for the halves of what was refused.
const SPLITS_MAX: usize = 64;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// Thresholds that cannot be judged on any color that has the metric.
    pub unfit: Vec<Unfit>,
    /// What a person should look at: guard and sentence.
    pub warnings: Vec<(GuardId, String)>,
}

/// A latency threshold that its histogram cannot tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfit {
    /// Whose.
    pub guard: GuardId,
    /// Which rule.
    pub rule: RuleName,
    /// The threshold in the histogram's own unit, with that unit: `0.7 s`.
    pub threshold: String,
    /// The thresholds that would do, nearest first below, then above, written as configuration writes them: `500ms`.
    pub allowed: Vec<String>,
    /// One sentence.
    pub why: String,
}

impl Observer {
    /// Asks every Prometheus what it says of the configuration. Never fails, and takes no longer than `within`.
    pub async fn vet(&self, within: Duration) -> Start {
        let deadline = Instant::now() + within;
        let found = join_all(self.sources.iter().map(|(source, plan)| self.vet_one(source, plan, deadline))).await;
        let mut start = Start::default();
        for one in found {
            start.unfit.extend(one.unfit);
            start.warnings.extend(one.warnings);
        }
        start
    }

    async fn vet_one(&self, source: &Source, plan: &Plan, deadline: Instant) -> Start {
        let sampled = one_per_color(plan);
        let mut expressions: Vec<String> = plan.reads.iter().filter_map(|read| read.bounds()).collect();
        for selector in sampled.values() {
            expressions.extend(counts(selector));
        }
        expressions.sort();
        expressions.dedup();
        let known = ask(source, expressions, deadline).await;
        let mut start = Start::default();
        self.judge_bounds(plan, &known, &mut start);
        self.judge_spacing(&sampled, &known, &mut start);
        start
    }

    /// Refused is what cannot be judged on any color; where another color can, only that side of it is blind.
    fn judge_bounds(&self, plan: &Plan, known: &Known, start: &mut Start) {
        let mut rules: BTreeMap<(&GuardId, &RuleName), Vec<Side<'_>>> = BTreeMap::new();
        for read in &plan.reads {
            let bounds = read.bounds().and_then(|expression| known.bounds.get(&expression));
            if let Some(bounds) = bounds.filter(|bounds| !bounds.finite().is_empty()) {
                let entry = rules.entry((&read.at.guard, &read.at.rule)).or_default();
                entry.push((read, bounds.clone(), read.refusal(bounds)));
            }
        }
        for ((guard, rule), sides) in rules {
            let all = sides.iter().all(|(_, _, refusal)| refusal.is_some());
            for (read, bounds, refusal) in sides {
                let Some(why) = refusal else { continue };
                if !all {
                    let color = &read.at.color;
                    start.warnings.push((
                        guard.clone(),
                        format!("{rule} on {color} is blind, on other colors it is not: {why}"),
                    ));
                } else if let Some(unfit) = unfit(read, &bounds, why) {
                    start.unfit.push(unfit);
                    break;
                }
            }
        }
    }

    fn judge_spacing(&self, sampled: &BTreeMap<(GuardId, Color), String>, known: &Known, start: &mut Start) {
        for ((guard, color), selector) in sampled {
            let Some(spec) = self.guards.get(guard) else { continue };
            let [whole, half] = counts(selector).map(|expression| known.numbers.get(&expression).copied());
            let Some(spacing) = spacing(whole, half) else { continue };
            let mut say = |sentence: String| start.warnings.push((guard.clone(), format!("{color}: {sentence}")));
            if let Some(sentence) = sluggish(spacing, time_to_detect(spacing, &spec.policy)) {
                say(sentence);
            }
            for rule in &spec.rules {
                if let Some(sentence) = window(rule, &spec.policy).and_then(|window| narrow(window, spacing)) {
                    say(format!("{}: {sentence}", rule.name));
                }
            }
        }
    }
}

/// One selector per guard and color: a target is scraped as a whole, so one metric tells the spacing of all.
fn one_per_color(plan: &Plan) -> BTreeMap<(GuardId, Color), String> {
    let mut found = BTreeMap::new();
    for read in plan.reads.iter().filter(|read| !read.is_foreign()) {
        if let Some(sampled) = read.sampled() {
            found
                .entry((read.at.guard.clone(), read.at.color.clone()))
                .or_insert_with(|| sampled.to_owned());
        }
    }
    found
}

/// How many samples there are in 5 minutes, and in half of that.
fn counts(selector: &str) -> [String; 2] {
    ["300s", "150s"].map(|span| format!("max(count_over_time({selector}[{span}]))"))
}

/// The distance of two samples; `None` unless the series was there all the time, for a young one has few samples however it is scraped.
fn spacing(whole: Option<f64>, half: Option<f64>) -> Option<Duration> {
    let (whole, half) = (whole?, half?);
    let is_steady = whole >= 2.0 && (whole - 2.0 * half).abs() <= 1.0;
    is_steady.then(|| Duration::try_from_secs_f64(300.0 / whole).ok()).flatten()
}

fn unfit(read: &Read, bounds: &Bounds, why: String) -> Option<Unfit> {
    let (What::Latency { bound, .. } | What::Scalar(Scalar::Quantile { bound, .. })) = &read.what else {
        return None;
    };
    let near = bounds.neighbours(bound);
    let finite = bounds.finite();
    // The highest bucket itself would be refused again.
    let is_highest = |le: f64| finite.last().is_some_and(|highest| (highest - le).abs() <= le.abs() * 1e-12);
    let mut allowed: Vec<f64> = near.below.into_iter().chain(near.above).filter(|le| !is_highest(*le)).collect();
    if allowed.is_empty() {
        allowed.extend(finite.iter().rev().nth(1));
    }
    Some(Unfit {
        guard: read.at.guard.clone(),
        rule: read.at.rule.clone(),
        threshold: format!("{} {}", bound.text, bound.unit_text()),
        allowed: allowed.iter().filter_map(|le| duration(*le, bound.unit)).collect(),
        why,
    })
}

/// A bucket's bound as the configuration writes durations.
fn duration(le: f64, unit: TimeUnit) -> Option<String> {
    let seconds = match unit {
        TimeUnit::Seconds => le,
        TimeUnit::Milliseconds => le / 1000.0,
    };
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    Some(humantime::format_duration(duration).to_string())
}

/// A rule on one color, the bounds of its histogram, and why they do not fit.
type Side<'a> = (&'a Read, Bounds, Option<String>);

/// What was answered, by expression.
#[derive(Debug, Default)]
struct Known {
    bounds: HashMap<String, Bounds>,
    numbers: HashMap<String, f64>,
}

/// Asks everything in as few queries as may be; what is refused is asked in halves, for one selector may be broken.
async fn ask(source: &Source, expressions: Vec<String>, deadline: Instant) -> Known {
    let mut known = Known::default();
    let Ok(Ok(session)) = tokio::time::timeout_at(deadline, source.server.session()).await else {
        return known;
    };
    let mut waiting: VecDeque<Vec<String>> = groups(expressions);
    let mut running = FuturesUnordered::new();
    let mut splits = 0;
    loop {
        while running.len() < CONCURRENCY
            && let Some(group) = waiting.pop_front()
        {
            let session = &session;
            running.push(async move {
                let mut query = Query::default();
                for expression in &group {
                    query.add(expression);
                }
                let answer = source.server.ask(session, &query.text(), Span::Instant, deadline).await;
                let found: Result<Vec<(Bounds, Option<f64>)>, Failure> = answer.map(|answer| {
                    let sorted = Sorted::new(&answer);
                    let of = |expression: &String| {
                        let samples = sorted.of(&query, expression);
                        (Bounds::new(samples), scalar::one(samples).ok().map(|(_, number)| number))
                    };
                    group.iter().map(of).collect()
                });
                drop(query);
                (group, found)
            });
        }
        let Some((mut group, found)) = running.next().await else {
            return known;
        };
        match found {
            Ok(found) => {
                for (expression, (bounds, number)) in group.into_iter().zip(found) {
                    if let Some(number) = number {
                        known.numbers.insert(expression.clone(), number);
                    }
                    known.bounds.insert(expression, bounds);
                }
            }
            Err(Failure::Refused(_)) if group.len() > 1 && splits < SPLITS_MAX => {
                splits += 2;
                let right = group.split_off(group.len() / 2);
                waiting.extend([group, right]);
            }
            Err(Failure::Refused(_)) => {}
            // It does not answer: asking on would only hold it up when it comes back.
            Err(_) => waiting.clear(),
        }
    }
}

fn groups(expressions: Vec<String>) -> VecDeque<Vec<String>> {
    let mut groups: VecDeque<Vec<String>> = VecDeque::new();
    let mut bytes = 0;
    for expression in expressions {
        let size = expression.len() + 64;
        match groups.back_mut() {
            Some(group) if group.len() < EXPRESSIONS_MAX && bytes + size <= QUERY_BYTES_MAX => {
                bytes += size;
                group.push(expression);
            }
            _ => {
                bytes = size;
                groups.push_back(vec![expression]);
            }
        }
    }
    groups
}
