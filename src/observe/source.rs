//! One Prometheus and everything it is asked per look: batching, isolation of faults, backing off, and what is learned on the way.
//!
//! - **A broken selector blinds its own rule only.** A batch that is refused is halved until the culprit travels alone; it is then kept
//!   out of the batches for a while and answered from memory.
//! - **A server that refuses large queries** (VictoriaMetrics: 16 KiB) shows as a batch whose halves all pass: smaller ones are sent then.
//! - **A server that refuses everything** is not asked rule by rule: after a few it counts as in trouble.
//! - **A server in trouble is left alone** for a growing, capped, jittered time, after the second failure in a row.
//! - Scrape spacings and bucket bounds are learned here, since both outlive one look. Bounds are asked rarely.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    answer::{Answer, Bounds, Raw, Sorted, Spacing, reading},
    plan::{Address, EXPRESSIONS_MAX, QUERY_BYTES_MAX, Query, Read, Role, What, chunks},
    prometheus::{Failure, Server, Session, Span},
    selector::Bound,
};
use crate::{
    metrics::Metrics,
    model::{Absence, Reading, settings::PrometheusSettings},
};

/// Requests under way at one server; its own default limit is 20 for all of its users.
const CONCURRENCY: usize = 4;

/// Further requests that one look may spend on halving refused batches.
const SPLITS_MAX: usize = 128;

/// How long a rule whose query was refused is answered from memory.
const QUARANTINE: Duration = Duration::from_secs(60);

/// Rules refused in one look, while nothing at all was answered, after which the server is at fault and not the rules.
const CULPRITS_MAX: usize = 8;

/// Quarantined rules that are tried again in one look.
const RETRIALS_MAX: usize = 4;

/// How long smaller queries are sent to a server that refused a large one.
const SHRUNK: Duration = Duration::from_secs(10 * 60);

/// How long learned bucket bounds are believed.
const BOUNDS_KEPT: Duration = Duration::from_secs(10 * 60);

/// How long until bounds that could not be learned are asked again.
const BOUNDS_RETRY: Duration = Duration::from_secs(60);

/// Histograms whose bounds are asked in one look; the rest waits for the next.
const BOUNDS_MAX: usize = 64;

/// The longest pause for a server in trouble, before jitter: with it, shorter than the 60 s after which a guard calls itself blind.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// The pauses for a server in trouble.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(5))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// One Prometheus as a source of readings.
#[derive(Debug)]
pub(super) struct Source {
    /// The server.
    pub server: Server,
    memory: Mutex<Memory>,
}

/// What outlives one look.
#[derive(Debug)]
struct Memory {
    /// By the expression that asks for the sample times.
    spacings: HashMap<String, Spacing>,
    /// By the expression that asks for the bounds.
    bounds: HashMap<String, Learned>,
    quarantine: HashMap<Address, Quarantined>,
    bytes_max: usize,
    shrunk_until: Option<Instant>,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Learned {
    bounds: Option<Bounds>,
    asked: Instant,
}

impl Learned {
    /// Whether to ask again. What is unknown, or contradicts what was just read, is asked sooner: a release may bring new buckets.
    fn is_due(&self, bound: &Bound, reading: &Reading, now: Instant) -> bool {
        let doubtful = match &self.bounds {
            None => true,
            Some(bounds) => matches!(reading, Reading::Absent(_)) || bounds.objection(bound).is_some(),
        };
        now.saturating_duration_since(self.asked) >= if doubtful { BOUNDS_RETRY } else { BOUNDS_KEPT }
    }
}

#[derive(Debug)]
struct Quarantined {
    until: Instant,
    why: Absence,
}

#[derive(Debug)]
struct Trouble {
    pauses: ExponentialBackoff,
    until: Instant,
    why: String,
}

/// Reads that travel in one query.
struct Job {
    reads: Vec<Arc<Read>>,
    /// Whether it is part of a batch that was refused.
    is_part: bool,
}

/// The progress of one look.
#[derive(Default)]
struct Look {
    readings: BTreeMap<Address, Reading>,
    splits: usize,
    culprits: usize,
    /// Bytes of the largest part that was answered.
    part_bytes: usize,
    /// A failure that says the server is in trouble.
    busy: Option<String>,
    answered: bool,
}

impl Source {
    /// Describes the source; nothing is asked yet.
    pub(super) fn new(cluster: &str, settings: PrometheusSettings, metrics: Metrics) -> Self {
        Self {
            server: Server::new(cluster, settings, metrics),
            memory: Mutex::new(Memory {
                spacings: HashMap::new(),
                bounds: HashMap::new(),
                quarantine: HashMap::new(),
                bytes_max: QUERY_BYTES_MAX,
                shrunk_until: None,
                trouble: None,
            }),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Every value in it is complete at any time, so a panic elsewhere has left nothing half-done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The usual distance of two samples of `read`, as far as looks have shown.
    pub(super) fn spacing(&self, read: &Read) -> Option<Duration> {
        self.memory().spacings.get(read.expression(Role::Newest)?)?.usual()
    }

    /// Reads everything, at most until `deadline`. Every read gets an answer.
    pub(super) async fn observe(&self, reads: &[Arc<Read>], deadline: Instant) -> BTreeMap<Address, Reading> {
        let all = |why: &Absence| reads.iter().map(|read| (read.at.clone(), Reading::Absent(why.clone()))).collect();
        if reads.is_empty() {
            return BTreeMap::new();
        }
        if let Some(why) = self.left_alone() {
            return all(&Absence::Error(why));
        }
        let session = match tokio::time::timeout_at(deadline, self.server.session()).await {
            Ok(Ok(session)) => session,
            Ok(Err(failure)) => return all(&failure.absence()),
            Err(_) => return all(&Absence::Timeout),
        };
        let mut look = self.ask_all(&session, reads, deadline).await;
        if look.answered {
            self.learn_bounds(&session, reads, &look.readings, deadline).await;
        }
        self.remember(&look);
        self.apply_bounds(reads, &mut look.readings);
        look.readings
    }

    /// Why the server is not asked now, if it is being left alone.
    fn left_alone(&self) -> Option<String> {
        let memory = self.memory();
        let trouble = memory.trouble.as_ref()?;
        let left = trouble.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| format!("{}; asked again in {} s", trouble.why, left.as_secs() + 1))
    }

    async fn ask_all(&self, session: &Session, reads: &[Arc<Read>], deadline: Instant) -> Look {
        let mut look = Look::default();
        let mut waiting = self.jobs(reads, &mut look);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < CONCURRENCY
                && let Some(job) = waiting.pop_front()
            {
                running.push(self.ask(session, job, deadline));
            }
            let Some((job, query_bytes, result)) = running.next().await else {
                return look;
            };
            match result {
                Ok(readings) => {
                    look.answered = true;
                    if job.is_part {
                        look.part_bytes = look.part_bytes.max(query_bytes);
                    }
                    look.readings.extend(readings);
                    self.release(&job);
                }
                Err(Failure::Refused(_)) if job.reads.len() > 1 && look.splits < SPLITS_MAX => {
                    look.splits += 2;
                    let Job { reads: mut left, .. } = job;
                    let right = left.split_off(left.len() / 2);
                    // Depth first: a culprit is found, or its absence shown, before the other half costs anything.
                    for reads in [right, left] {
                        waiting.push_front(Job { reads, is_part: true });
                    }
                }
                Err(failure) => {
                    if let Failure::Refused(why) = &failure
                        && let [culprit] = job.reads.as_slice()
                    {
                        look.culprits += 1;
                        self.quarantine(culprit, why);
                    }
                    let hopeless = !look.answered && look.culprits >= CULPRITS_MAX;
                    if let Failure::Busy(why) | Failure::Refused(why) = &failure
                        && (hopeless || matches!(failure, Failure::Busy(_)))
                    {
                        look.busy = Some(why.clone());
                        // The rest of this look would only add to the trouble.
                        for job in waiting.drain(..) {
                            note_failure(&mut look, &job, &failure);
                        }
                    }
                    note_failure(&mut look, &job, &failure);
                }
            }
        }
    }

    /// The queries of a look; what is quarantined is answered at once.
    fn jobs(&self, reads: &[Arc<Read>], look: &mut Look) -> VecDeque<Job> {
        let now = Instant::now();
        let mut memory = self.memory();
        if memory.shrunk_until.is_some_and(|until| until <= now) {
            memory.shrunk_until = None;
            memory.bytes_max = QUERY_BYTES_MAX;
        }
        let (mut free, mut alone) = (Vec::new(), Vec::new());
        for read in reads {
            match memory.quarantine.get(&read.at) {
                None => free.push(read.clone()),
                Some(kept) if kept.until <= now && alone.len() < RETRIALS_MAX => alone.push(vec![read.clone()]),
                Some(kept) => {
                    look.readings.insert(read.at.clone(), Reading::Absent(kept.why.clone()));
                }
            }
        }
        let groups = chunks(free, memory.bytes_max).into_iter().chain(alone);
        groups.map(|reads| Job { reads, is_part: false }).collect()
    }

    async fn ask(&self, session: &Session, job: Job, deadline: Instant) -> (Job, usize, Result<Vec<(Address, Reading)>, Failure>) {
        let mut query = Query::default();
        for (_, expression) in job.reads.iter().flat_map(|read| &read.expressions) {
            query.add(expression);
        }
        let text = query.text();
        let result = self.server.ask(session, &text, Span::Instant, deadline).await;
        let readings = result.map(|answer| self.understand(&job, &query, &answer));
        drop(query);
        (job, text.len(), readings)
    }

    fn understand(&self, job: &Job, query: &Query<'_>, answer: &Answer) -> Vec<(Address, Reading)> {
        let sorted = Sorted::new(answer);
        let mut memory = self.memory();
        let mut judged = Vec::with_capacity(job.reads.len());
        for read in &job.reads {
            let raw = Raw::new(read, query, &sorted);
            let key = read.expression(Role::Newest).unwrap_or_default();
            let spacing = match memory.spacings.get_mut(key) {
                Some(spacing) => spacing,
                None => memory.spacings.entry(key.to_owned()).or_default(),
            };
            spacing.note(&raw.newest);
            let reading = match &answer.doubt {
                Some(why) => Reading::Absent(Absence::Partial(why.clone())),
                None => reading(read, &raw, spacing.stale_after()),
            };
            judged.push((read.at.clone(), reading));
        }
        judged
    }

    fn quarantine(&self, culprit: &Read, why: &str) {
        let kept = Quarantined {
            until: Instant::now() + QUARANTINE,
            why: Absence::Error(why.to_owned()),
        };
        if self.memory().quarantine.insert(culprit.at.clone(), kept).is_none() {
            tracing::warn!(guard = %culprit.at.guard, color = %culprit.at.color, rule = %culprit.at.rule, error = why, "Query refused by Prometheus; this rule is blind, the others are not");
        }
    }

    fn release(&self, job: &Job) {
        let mut memory = self.memory();
        if !memory.quarantine.is_empty() {
            for read in &job.reads {
                memory.quarantine.remove(&read.at);
            }
        }
    }

    /// Draws the conclusions of a look that concern the next ones.
    fn remember(&self, look: &Look) {
        let now = Instant::now();
        let mut memory = self.memory();
        match &look.busy {
            Some(why) => {
                // The first failure costs no pause: a single 503 is over by the next look.
                let (pauses, pause) = match memory.trouble.take() {
                    None => (pauses(), Duration::ZERO),
                    Some(mut trouble) => {
                        let pause = trouble.pauses.next().unwrap_or(PAUSE_MAX);
                        (trouble.pauses, pause)
                    }
                };
                memory.trouble = Some(Trouble {
                    pauses,
                    until: now + pause,
                    why: why.clone(),
                });
            }
            None if look.answered => memory.trouble = None,
            None => {}
        }
        let size_was_at_fault = look.splits > 0 && look.culprits == 0 && look.part_bytes > 0;
        if size_was_at_fault {
            memory.bytes_max = look.part_bytes;
            memory.shrunk_until = Some(now + SHRUNK);
            tracing::warn!(
                prometheus = self.server.name(),
                bytes = look.part_bytes,
                "Prometheus refuses large queries; sending smaller ones"
            );
        }
    }

    /// Learns the bounds of histograms that are not known, or not any more: all in one request.
    async fn learn_bounds(&self, session: &Session, reads: &[Arc<Read>], readings: &BTreeMap<Address, Reading>, deadline: Instant) {
        let due = self.bounds_due(reads, readings);
        if due.is_empty() {
            return;
        }
        let mut query = Query::default();
        for expression in &due {
            query.add(expression);
        }
        let now = Instant::now();
        let result = self.server.ask(session, &query.text(), Span::Instant, deadline).await;
        let mut memory = self.memory();
        let sorted = result.as_ref().ok().filter(|answer| answer.doubt.is_none()).map(Sorted::new);
        for expression in &due {
            let found = sorted
                .as_ref()
                .map(|sorted| Bounds::new(sorted.of(&query, expression)))
                .filter(|bounds| !bounds.finite().is_empty());
            // What was known stays known when the question fails.
            let bounds = found.or_else(|| memory.bounds.remove(expression).and_then(|learned| learned.bounds));
            memory.bounds.insert(expression.clone(), Learned { bounds, asked: now });
        }
    }

    /// The expressions that ask for bounds that are needed now. Only histograms that answered are asked for.
    fn bounds_due(&self, reads: &[Arc<Read>], readings: &BTreeMap<Address, Reading>) -> Vec<String> {
        let now = Instant::now();
        let memory = self.memory();
        let mut bytes = 0;
        let mut known = HashSet::new();
        reads
            .iter()
            .filter_map(|read| {
                let What::Latency { bound, .. } = &read.what else { return None };
                let reading = readings.get(&read.at)?;
                let told = matches!(reading, Reading::Counters { .. } | Reading::Absent(Absence::NoBucket(_)));
                let expression = read.bounds().filter(|_| told)?;
                let known = memory.bounds.get(&expression);
                known
                    .is_none_or(|learned| learned.is_due(bound, reading, now))
                    .then_some(expression)
            })
            .filter(|expression| known.insert(expression.clone()))
            .take(BOUNDS_MAX.min(EXPRESSIONS_MAX))
            .take_while(|expression| {
                bytes += expression.len() + 64;
                bytes <= memory.bytes_max
            })
            .collect()
    }

    /// Refuses latency readings whose threshold is no bound of every histogram, and names the neighbours.
    fn apply_bounds(&self, reads: &[Arc<Read>], readings: &mut BTreeMap<Address, Reading>) {
        let memory = self.memory();
        for read in reads {
            let What::Latency { bound, buckets, .. } = &read.what else {
                continue;
            };
            let Some(reading) = readings.get_mut(&read.at) else { continue };
            if !matches!(reading, Reading::Counters { .. } | Reading::Absent(Absence::NoBucket(_))) {
                continue;
            }
            let objection = read
                .bounds()
                .and_then(|expression| memory.bounds.get(&expression))
                .and_then(|learned| learned.bounds.as_ref())
                .and_then(|bounds| bounds.objection(bound));
            match (&mut *reading, objection) {
                (reading, Some(why)) => *reading = Reading::Absent(Absence::NoBucket(why)),
                (Reading::Absent(Absence::NoBucket(why)), None) => {
                    *why = format!("{} is not among the buckets of {buckets}", bound.text);
                }
                (_, None) => {}
            }
        }
    }
}

fn note_failure(look: &mut Look, job: &Job, failure: &Failure) {
    for read in &job.reads {
        look.readings.insert(read.at.clone(), Reading::Absent(failure.absence()));
    }
}
