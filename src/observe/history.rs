//! A guard's past, as Prometheus remembers it, for `flipback backtest`: the same reads as in a look, over time.
//!
//! **Why range queries of the live expressions, and not raw samples.** `selector[6h]` as an instant query gives the raw samples with
//! their times, and every series behind a sum: a counter with 40 combinations of path and method is 40 times the bytes, and not every
//! selector is a plain one. `query_range` of the very expressions of a look gives one series per target, at a step of the measured scrape
//! spacing (or of a poll, where that is longer). What it does not give is the time of the sample behind a point, and it repeats a sample
//! for five minutes after the target died without a stale marker. So the sample times are read beside it, from the raw samples of the
//! denominator (`selector[6h]`); a point whose sample was seen before is dropped. What is left are raw samples, each once, at
//! the time of its scrape: a stale poll stays no poll.
//!
//! Where a target has many series behind the denominator, or the selector is no plain one, `timestamp()` tells the times instead. It is
//! not the first choice: measured on Prometheus 2.42 it opens every series anew at every step, so that 10,000 steps cost 4 s of
//! processor time where the sum itself costs 0.02 s. It is therefore asked for an hour at a time, which costs twenty times less.
//!
//! The start of a process hardly ever changes and is asked at a coarser step; a sample belongs to the newest process that had started
//! by then.
//!
//! **Bounded.** One stretch is read at a time, sized by the number of targets so that it holds some hundred thousand points. A server
//! that finds a query too large (422), too long (a timeout) or that answers with more than we read is asked for half of it, and for no
//! more than that from then on. A server in trouble (429, 5xx) is asked again after a growing, capped, jittered pause.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use self::decode::{Answers, append, column, counters, evaluations, millis, sides};
use super::{
    ObserveError, Observer,
    answer::{number, time},
    envelope::{Answer, Sample},
    native::Ratchet,
    plan::{Read, Role, What},
    prometheus::{Failure, Server, Session, Span},
    source::Source,
};
use crate::model::{Absence, Color, GuardSpec, Past, Reading, RuleName, Track};

mod decode;
mod survey;

/// Points of one series in one answer: below the 11,000 at which servers refuse.
const POINTS_MAX: u64 = 10_000;

/// Points of one answer that are aimed at: some 6 MB of JSON.
const ANSWER_POINTS: u64 = 200_000;

/// Steps of one query that is not halved any further.
const STEPS_MIN: u64 = 32;

/// Requests of one guard under way at once.
const CONCURRENCY: usize = 2;

/// Further tries of one query at a server in trouble, before the backtest is given up.
const TRIES: usize = 8;

/// The same at a server that has never answered: its address is likelier wrong than its day bad.
const TRIES_UNKNOWN: usize = 2;

/// Step at which process starts and Ready endpoints are read.
const COARSE: Duration = Duration::from_secs(60);

/// Span of the close looks that show the scrape spacing: five scrapes of a minute.
const CLOSE_LOOK: i64 = 300;

/// Series of one target up to which sample times are read from raw samples.
const RAW_SERIES_MAX: usize = 8;

/// Span of one query with `timestamp()`, in seconds.
const TIMESTAMP_SPAN: u64 = 3600;

/// Spacing assumed where no two samples were found.
const SPACING_ASSUMED: Duration = Duration::from_secs(15);

/// How an expression is asked over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Evaluated at every step.
    Steps(Duration),
    /// The same, in short pieces: it is dear.
    Dear(Duration),
    /// A selector's raw samples; looks back one step further.
    Raw(Duration),
}

impl Form {
    fn step(self) -> Duration {
        match self {
            Self::Steps(step) | Self::Dear(step) | Self::Raw(step) => step,
        }
    }

    /// Seconds of one query, at most.
    fn span_max(self) -> u64 {
        let points = (POINTS_MAX as f64 * self.step().as_secs_f64()) as u64;
        match self {
            Self::Dear(_) => points.min(TIMESTAMP_SPAN),
            Self::Steps(_) | Self::Raw(_) => points,
        }
    }
}

/// The past of one guard, read stretch by stretch.
pub struct History<'a> {
    source: &'a Source,
    session: Arc<Session>,
    spec: Arc<GuardSpec>,
    reads: Vec<Arc<Read>>,
    /// Every expression, once, and how it is asked.
    asks: Vec<(String, Form)>,
    refused: BTreeMap<(Color, RuleName), Absence>,
    /// By the expression that tells sample times: the selector whose raw samples tell them cheaper.
    raw: BTreeMap<String, String>,
    ratchets: BTreeMap<(Color, RuleName), Ratchet>,
    ready: Vec<(Color, String)>,
    /// Whole seconds since 1970.
    next: i64,
    until: i64,
    step: Duration,
    targets: u64,
    /// Seconds of one query, as the server has borne so far.
    span_max: AtomicU64,
    answered: AtomicBool,
}

impl std::fmt::Debug for History<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("guard", &self.spec.id).finish_non_exhaustive()
    }
}

impl Observer {
    /// Opens the past of a guard from `from` to `until`, both to the second. Nothing is asked yet but for credentials.
    ///
    /// # Errors
    /// [`ObserveError`] when the guard or its Prometheus is not configured, or the credentials cannot be read.
    pub async fn history(&self, guard: &crate::model::GuardId, from: Timestamp, until: Timestamp) -> Result<History<'_>, ObserveError> {
        let spec = self
            .guards
            .get(guard)
            .ok_or_else(|| ObserveError::UnknownGuard { guard: guard.clone() })?;
        let Some((source, reads)) = self.source(guard) else {
            return Err(ObserveError::NoPrometheus { guard: guard.clone() });
        };
        let session = source.server.session().await.map_err(|failure| ObserveError::Query {
            guard: guard.clone(),
            why: failure.absence().to_string(),
        })?;
        let planned = self.source_of.get(guard).and_then(|index| self.sources.get(*index));
        let refused = planned.map(|(_, plan)| plan.refused.iter().filter(|(at, _)| at.guard == *guard));
        let refused = refused.into_iter().flatten();
        Ok(History {
            source,
            session,
            asks: Vec::new(),
            refused: refused
                .map(|(at, why)| ((at.color.clone(), at.rule.clone()), why.clone()))
                .collect(),
            raw: BTreeMap::new(),
            ratchets: BTreeMap::new(),
            ready: Vec::new(),
            next: from.as_second(),
            until: until.as_second(),
            step: spec.policy.poll,
            targets: 1,
            span_max: AtomicU64::new(u64::MAX),
            answered: AtomicBool::new(false),
            spec: spec.clone(),
            reads,
        })
    }
}

impl History<'_> {
    /// What is asked. An expression that several rules share is asked once.
    fn plan(&self) -> Vec<(String, Form)> {
        let mut asks = Vec::new();
        for (role, text) in self.wanted().flat_map(|read| &read.expressions) {
            asks.push(match (role, self.raw.get(text)) {
                (Role::Started, _) => (text.clone(), Form::Steps(COARSE.max(self.step))),
                (Role::Newest, Some(selector)) => (selector.clone(), Form::Raw(self.step)),
                (Role::Newest, None) => (text.clone(), Form::Dear(self.step)),
                (Role::Value | Role::Long | Role::Requests, _) => (text.clone(), Form::Steps(whole(self.spec.policy.poll))),
                (Role::Total | Role::Bad | Role::Buckets | Role::Fast, _) => (text.clone(), Form::Steps(self.step)),
            });
        }
        asks.extend(self.ready.iter().map(|(_, text)| (text.clone(), Form::Steps(COARSE))));
        asks.sort_unstable();
        asks.dedup();
        asks
    }

    /// The reads that are not refused.
    fn wanted(&self) -> impl Iterator<Item = &Arc<Read>> {
        let refused = |read: &Read| self.refused.contains_key(&(read.at.color.clone(), read.at.rule.clone()));
        self.reads.iter().filter(move |read| !refused(read))
    }

    /// Requests that each color answered in each step that ends at the time given; to find out who had the traffic.
    ///
    /// # Errors
    /// [`ObserveError::Query`] when the server does not answer.
    pub async fn flow(
        &self,
        from: Timestamp,
        until: Timestamp,
        step: Duration,
    ) -> Result<BTreeMap<Color, Vec<(Timestamp, f64)>>, ObserveError> {
        let mut flow = BTreeMap::new();
        for color in self.spec.colors.keys() {
            let told = |role: Role| {
                self.wanted()
                    .filter(|read| read.at.color == *color)
                    .find_map(|read| Some((read, role, read.expression(role)?)))
            };
            let Some((read, role, text)) = [Role::Total, Role::Buckets, Role::Requests].into_iter().find_map(told) else {
                continue;
            };
            let samples = self.over(text, from.as_second(), until.as_second(), Form::Steps(step)).await?;
            let mut grown: BTreeMap<i64, f64> = BTreeMap::new();
            if role == Role::Requests {
                // Requests of a window each: not disjoint, and good enough to tell who had most of them.
                grown.extend(samples.first().map(column).unwrap_or_default());
            } else {
                let (totals, _) = sides(read, &samples, &[]);
                for pair in totals.values().flat_map(|column| column.windows(2)) {
                    let more = pair[1].1 - pair[0].1;
                    *grown.entry(pair[1].0).or_insert(0.0) += if more < 0.0 { pair[1].1 } else { more };
                }
            }
            let points = grown.into_iter().filter_map(|(at, more)| Some((millis(at)?, more)));
            flow.insert(color.clone(), points.collect());
        }
        Ok(flow)
    }

    /// Which color an earlier flipback saw active, by its own metrics; empty where it was not scraped.
    ///
    /// # Errors
    /// [`ObserveError::Query`] when the server does not answer.
    pub async fn declared(&self, from: Timestamp, until: Timestamp, step: Duration) -> Result<Vec<(Timestamp, Color)>, ObserveError> {
        let mut seen = Vec::new();
        for color in self.spec.colors.keys() {
            let text = format!(r#"max(flipback_active_color{{guard="{}",color="{color}"}}) == 1"#, self.spec.id);
            let samples = self.over(&text, from.as_second(), until.as_second(), Form::Steps(step)).await?;
            let points = samples.iter().flat_map(|sample| &sample.values);
            seen.extend(points.filter_map(|(at, _)| Some((time(*at)?, color.clone()))));
        }
        seen.sort();
        Ok(seen)
    }

    /// The next stretch; `None` when the past is read.
    ///
    /// # Errors
    /// [`ObserveError::Query`] when the server does not answer even after waiting.
    pub async fn next(&mut self) -> Result<Option<Past>, ObserveError> {
        if self.next > self.until {
            return Ok(None);
        }
        let step = self.step.as_secs_f64();
        let points = (ANSWER_POINTS / self.targets).clamp(STEPS_MIN, POINTS_MAX) as f64;
        let most = ((points * step) as u64).min(self.span_max.load(Ordering::Relaxed));
        let from = self.next;
        let to = on_step(from, i64::try_from(most).unwrap_or(i64::MAX), self.step).min(self.until);
        let this: &Self = self;
        // Named futures in a list: a borrowing closure's future is not provably Send.
        let mut running = Vec::with_capacity(this.asks.len());
        for (text, form) in &this.asks {
            running.push(this.piece(text, from, to, *form));
        }
        let answers: Answers = stream::iter(running).buffered(CONCURRENCY).try_collect().await?;
        let past = self.understand(&answers, to);
        // The last step is asked again: a sample that was too new for it belongs to the next stretch.
        self.next = if to >= self.until { self.until + 1 } else { to };
        Ok(Some(past))
    }

    async fn piece(&self, text: &str, from: i64, to: i64, form: Form) -> Result<(String, Result<Vec<Sample>, String>), ObserveError> {
        match self.over_or_refused(text, from, to, form).await {
            Ok(samples) => Ok((text.to_owned(), Ok(samples))),
            Err(Failure::Refused(why)) => Ok((text.to_owned(), Err(why))),
            Err(failure) => Err(self.gave_up(&failure)),
        }
    }

    fn understand(&mut self, answers: &Answers, to: i64) -> Past {
        let mut past = Past {
            to: Timestamp::from_second(to).unwrap_or(Timestamp::MAX),
            ..Past::default()
        };
        let reads: Vec<Arc<Read>> = self.wanted().cloned().collect();
        for read in reads {
            let track = match &read.what {
                What::Scalar(_) => evaluations(&read, answers),
                What::Counters { .. } | What::Latency { .. } => counters(&read, answers, &self.raw),
                What::Native(_) => counters(&read, answers, &self.raw).map(|track| self.smooth(&read, track)),
            };
            let rules = past.tracks.entry(read.at.color.clone()).or_default();
            rules.insert(read.at.rule.clone(), track.unwrap_or_else(Track::Absent));
        }
        for ((color, rule), why) in &self.refused {
            let rules = past.tracks.entry(color.clone()).or_default();
            rules.insert(rule.clone(), Track::Absent(why.clone()));
        }
        for (color, text) in &self.ready {
            if let Some(Ok(samples)) = answers.get(text) {
                let points = samples.iter().flat_map(|sample| &sample.values);
                // Saturating by definition of `as`; a count of endpoints is small and whole.
                let points = points.filter_map(|(at, value)| Some((time(*at)?, number(value).max(0.0) as u32)));
                past.ready.insert(color.clone(), points.collect());
            }
        }
        past
    }

    /// What may be counted of a native histogram's estimates, as in a look.
    fn smooth(&mut self, read: &Read, track: Track) -> Track {
        let Track::Counters(mut targets) = track else { return track };
        let ratchet = self.ratchets.entry((read.at.color.clone(), read.at.rule.clone())).or_default();
        for (target, samples) in &mut targets {
            for (at, counter) in samples {
                let reading = ratchet.smooth(Reading::Counters {
                    sample_at: *at,
                    targets: BTreeMap::from([(target.clone(), *counter)]),
                });
                if let Reading::Counters { targets, .. } = reading
                    && let Some(smoothed) = targets.get(target)
                {
                    *counter = *smoothed;
                }
            }
        }
        Track::Counters(targets)
    }

    /// One expression over any span, in as many queries as it takes; a refusal is an error here.
    async fn over(&self, text: &str, from: i64, to: i64, form: Form) -> Result<Vec<Sample>, ObserveError> {
        self.over_or_refused(text, from, to, form)
            .await
            .map_err(|failure| self.gave_up(&failure))
    }

    async fn over_or_refused(&self, text: &str, from: i64, to: i64, form: Form) -> Result<Vec<Sample>, Failure> {
        let step = form.step();
        let mut merged: Vec<Sample> = Vec::new();
        let mut waiting = vec![(from, to)];
        while let Some((from, to)) = waiting.pop() {
            let most = form.span_max().min(self.span_max.load(Ordering::Relaxed));
            if to.abs_diff(from) > most {
                let middle = on_step(from, i64::try_from(most).unwrap_or(i64::MAX), step);
                // Queries of one step further each: the ends are not asked twice.
                waiting.push((after(middle, step), to));
                waiting.push((from, middle));
                continue;
            }
            let answer = match form {
                Form::Steps(step) | Form::Dear(step) => self.try_ask(text, Span::Range(from, to, step.as_secs_f64())).await,
                Form::Raw(step) => {
                    let span = to.abs_diff(from) + step.as_secs();
                    self.try_ask(&format!("{text}[{span}s]"), then(to)).await
                }
            };
            match answer {
                Ok(answer) => append(&mut merged, answer),
                Err(Failure::Refused(_) | Failure::Timeout) if to.abs_diff(from) as f64 > STEPS_MIN as f64 * step.as_secs_f64() => {
                    let half = to.abs_diff(from) / 2;
                    self.span_max.fetch_min(half.max(1), Ordering::Relaxed);
                    tracing::info!(guard = %self.spec.id, seconds = half, "Prometheus finds the query too large; asking for shorter stretches");
                    waiting.push((from, to));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(merged)
    }

    /// Asks, and asks again while the server is in trouble.
    async fn try_ask(&self, text: &str, span: Span) -> Result<Answer, Failure> {
        let server: &Server = &self.source.server;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(Duration::from_secs(10))
            .with_jitter()
            .with_max_times(TRIES)
            .build();
        let mut tried = 0;
        loop {
            // The server's own timeout bounds it.
            let deadline = Instant::now() + Duration::from_secs(600);
            let answer = server.ask(&self.session, text, span, deadline).await;
            match answer {
                Err(failure @ (Failure::Busy(_) | Failure::Other(_))) => {
                    let hopeless = tried >= TRIES_UNKNOWN && !self.answered.load(Ordering::Relaxed) && matches!(failure, Failure::Other(_));
                    match pauses.next().filter(|_| !hopeless) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return Err(failure),
                    }
                    tried += 1;
                }
                Ok(Answer { doubt: Some(why), .. }) => return Err(Failure::Other(format!("the answer is incomplete: {why}"))),
                other => {
                    self.answered.store(true, Ordering::Relaxed);
                    return other;
                }
            }
        }
    }

    fn gave_up(&self, failure: &Failure) -> ObserveError {
        ObserveError::Query {
            guard: self.spec.id.clone(),
            why: failure.absence().to_string(),
        }
    }
}

/// Whole seconds: queries have no finer ends, and every query of a stretch must lie on one grid.
fn whole(step: Duration) -> Duration {
    Duration::from_secs((step + Duration::from_millis(50)).as_secs().max(1))
}

/// The last time on the grid of `from` that is at most `most` seconds later, at least one step.
fn on_step(from: i64, most: i64, step: Duration) -> i64 {
    let step = step.as_secs_f64();
    let steps = (most as f64 / step).floor().max(1.0);
    from.saturating_add((steps * step).round() as i64)
}

fn after(at: i64, step: Duration) -> i64 {
    at.saturating_add((step.as_secs_f64().round() as i64).max(1))
}

/// An evaluation at this second.
fn then(at: i64) -> Span {
    Timestamp::from_second(at).map_or(Span::Instant, Span::At)
}
