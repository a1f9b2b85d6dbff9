//! One Prometheus and everything it is asked per look: batching, isolation of faults, backing off, and what is learned on the way.
//!
//! - **A broken selector blinds its own rule only.** A batch that is refused is halved until the culprit travels alone; it is then kept
//!   out of the batches for a while and answered from memory.
//! - **A server that refuses large queries** (VictoriaMetrics: 16 KiB) shows as a batch whose halves all pass: smaller ones are sent then.
//! - **A server that refuses everything** is not asked rule by rule: after a few it counts as in trouble.
//! - **A server in trouble is left alone** for a growing, capped, jittered time, after the second failure in a row.
//! - **An expensive hand-written expression delays no counter and ends up alone.** Such expressions are asked after the counters, in
//!   groups of their own; a group that is too slow while others are answered is halved from look to look, until the slow one is alone.
//! - Scrape spacings and what `learn` asks about histograms are kept here, since both outlive one look.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    answer::{Raw, Sorted, Spacing, reading},
    before::Befores,
    envelope::Answer,
    learn::{Hint, Learned},
    native::{Ratchet, UNKNOWN_FUNCTION, other_form},
    plan::{Address, QUERY_BYTES_MAX, Query, Read, Role, What, chunks},
    prometheus::{Failure, Server, Session, Span},
    scalar,
};
use crate::{
    metrics::Metrics,
    model::{Absence, GuardId, Reading, settings::PrometheusSettings},
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

/// How long hand-written expressions that were too slow together travel in smaller groups.
const CROWDED: Duration = Duration::from_secs(5 * 60);

/// What is said of a hand-written expression that is too slow by itself.
pub(super) const TOO_SLOW: &str = "the expression alone takes longer than a look may: narrow it, or let a recording rule evaluate it";

/// What a query must have had to count as too slow, and not merely as asked too late.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// A clock that differs from Prometheus' by more than this, in seconds, is worth a word: what is scraped is taken for older or newer than a
/// switch by as much.
const CLOCK_OFFSET_MAX: f64 = 10.0;
/// And one that differs by less than this agrees again.
const CLOCK_OFFSET_SLIGHT: f64 = 5.0;

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

/// Our clock during one look: what it said at the beginning, and the one that never jumps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub now: Timestamp,
    pub since: Instant,
}

impl Clock {
    /// What it says then, in seconds.
    fn at(&self, then: Instant) -> f64 {
        self.now.as_duration().as_secs_f64() + then.saturating_duration_since(self.since).as_secs_f64()
    }
}

/// What outlives one look.
#[derive(Debug)]
pub(super) struct Memory {
    /// By the expression that asks for the sample times.
    spacings: HashMap<String, Spacing>,
    /// By the expression that asks for the bounds.
    pub bounds: HashMap<String, Learned>,
    /// By the expression that asks for the other form.
    pub hints: HashMap<String, Hint>,
    /// What the numbers were before the last switch.
    pub befores: Befores,
    /// Expressions of the scalar type, as the server has shown.
    pub typed: HashSet<Address>,
    /// Of native histograms.
    ratchets: HashMap<Address, Ratchet>,
    /// How many expressions may travel with one that was too slow in company, and until when.
    crowds: HashMap<Address, (usize, Instant)>,
    quarantine: HashMap<Address, Quarantined>,
    /// Whether it was said that the clocks differ.
    clocks_differ: bool,
    pub bytes_max: usize,
    shrunk_until: Option<Instant>,
    trouble: Option<Trouble>,
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
    /// Why it was refused, if it is asked again as a scalar.
    refused: Option<String>,
    /// Whether it was asked early enough for a missing answer to be its own fault.
    was_patient: bool,
}

/// The progress of one look.
#[derive(Default)]
struct Look {
    readings: BTreeMap<Address, Reading>,
    splits: usize,
    culprits: usize,
    /// Expressions that turned out to be of the scalar type.
    typed: usize,
    /// Hand-written expressions that were asked together and too slow.
    slow: Vec<Vec<Address>>,
    /// Bytes of the largest part that was answered.
    part_bytes: usize,
    /// By how many seconds the server's clock is ahead of ours at least, by the answer that shows most; `None`: none shows it.
    offset: Option<f64>,
    /// A failure that says the server is in trouble.
    busy: Option<String>,
    answered: bool,
}

/// By how many seconds a server's clock is ahead of ours at least, if an answer that it evaluated at `theirs` was asked for and came then by
/// ours: what lies between the two shows nothing.
fn clock_offset(theirs: f64, sent: f64, answered: f64) -> f64 {
    theirs - theirs.clamp(sent, answered.max(sent))
}

impl Drop for Source {
    fn drop(&mut self) {
        // Nobody asks it any more; one in its place shows its own at its next look.
        self.server.show_clock_offset(None);
    }
}

impl Source {
    /// Describes the source; nothing is asked yet.
    pub(super) fn new(cluster: &str, settings: PrometheusSettings, metrics: Metrics) -> Self {
        Self {
            server: Server::new(cluster, settings, metrics),
            memory: Mutex::new(Memory {
                spacings: HashMap::new(),
                bounds: HashMap::new(),
                hints: HashMap::new(),
                befores: Befores::default(),
                typed: HashSet::new(),
                ratchets: HashMap::new(),
                crowds: HashMap::new(),
                quarantine: HashMap::new(),
                clocks_differ: false,
                bytes_max: QUERY_BYTES_MAX,
                shrunk_until: None,
                trouble: None,
            }),
        }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Every value in it is complete at any time, so a panic elsewhere has left nothing half-done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was learned of the guards that are not `wanted`: their expressions may mean something else by now. What was learned
    /// of expressions that none of `reads` asks for goes too: names come and go with configurations, and would pile up.
    pub(super) fn keep_only(&self, wanted: impl Fn(&GuardId) -> bool, reads: &[Arc<Read>]) {
        let asked: HashSet<&str> = reads.iter().filter_map(|read| read.expression(Role::Newest)).collect();
        let bounds: HashSet<String> = reads.iter().filter_map(|read| read.bounds()).collect();
        let forms: HashSet<String> = reads.iter().filter_map(|read| other_form(&read.what)).collect();
        let mut memory = self.memory();
        memory.spacings.retain(|expression, _| asked.contains(expression.as_str()));
        memory.bounds.retain(|expression, _| bounds.contains(expression));
        memory.hints.retain(|expression, _| forms.contains(expression));
        memory.typed.retain(|at| wanted(&at.guard));
        memory.ratchets.retain(|at, _| wanted(&at.guard));
        memory.crowds.retain(|at, _| wanted(&at.guard));
        memory.quarantine.retain(|at, _| wanted(&at.guard));
        memory.befores.keep_only(wanted);
    }

    /// How many expressions something was learned of.
    #[cfg(test)]
    pub(super) fn learned(&self) -> usize {
        let memory = self.memory();
        memory.spacings.len() + memory.bounds.len() + memory.hints.len()
    }

    /// The usual distance of two samples of `read`, as far as looks have shown.
    pub(super) fn spacing(&self, read: &Read) -> Option<Duration> {
        self.memory().spacings.get(read.expression(Role::Newest)?)?.usual()
    }

    /// Reads everything, at most until `deadline`, and shows by how much the clocks differ. Every read gets an answer.
    pub(super) async fn observe(&self, reads: &[Arc<Read>], clock: Clock, deadline: Instant) -> BTreeMap<Address, Reading> {
        let look = self.look(reads, clock, deadline).await;
        self.show_clocks(look.offset);
        look.readings
    }

    async fn look(&self, reads: &[Arc<Read>], clock: Clock, deadline: Instant) -> Look {
        let all = |why: &Absence| Look {
            readings: reads.iter().map(|read| (read.at.clone(), Reading::Absent(why.clone()))).collect(),
            ..Look::default()
        };
        if reads.is_empty() {
            return Look::default();
        }
        if let Some(why) = self.left_alone() {
            return all(&Absence::Error(why));
        }
        let session = match tokio::time::timeout_at(deadline, self.server.session()).await {
            Ok(Ok(session)) => session,
            Ok(Err(failure)) => return all(&failure.absence()),
            Err(_) => return all(&Absence::Timeout),
        };
        let mut look = self.ask_all(&session, reads, clock, deadline).await;
        if look.answered {
            self.learn(&session, reads, &look.readings, deadline).await;
        }
        self.remember(&mut look);
        self.apply_learned(reads, &mut look.readings);
        look
    }

    /// Why the server is not asked now, if it is being left alone.
    fn left_alone(&self) -> Option<String> {
        let memory = self.memory();
        let trouble = memory.trouble.as_ref()?;
        let left = trouble.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| format!("{}; asked again in {} s", trouble.why, left.as_secs() + 1))
    }

    async fn ask_all(&self, session: &Session, reads: &[Arc<Read>], clock: Clock, deadline: Instant) -> Look {
        let mut look = Look::default();
        let mut waiting = self.jobs(reads, &mut look);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < CONCURRENCY
                && let Some(job) = waiting.pop_front()
            {
                running.push(self.ask(session, job, clock, deadline));
            }
            let Some((job, query_bytes, offset, result)) = running.next().await else {
                return look;
            };
            look.offset = [look.offset, offset]
                .into_iter()
                .flatten()
                .max_by(|a, b| a.abs().total_cmp(&b.abs()));
            match result {
                Ok(readings) => {
                    look.answered = true;
                    if job.is_part {
                        look.part_bytes = look.part_bytes.max(query_bytes);
                    }
                    look.readings.extend(readings);
                    self.release(&job, &mut look);
                }
                Err(failure) => self.failed(job, failure, &mut look, &mut waiting),
            }
        }
    }

    /// Draws the conclusions of one failure for the rest of the look.
    fn failed(&self, job: Job, failure: Failure, look: &mut Look, waiting: &mut VecDeque<Job>) {
        let may_split = look.splits < SPLITS_MAX;
        match (&failure, job.reads.as_slice()) {
            (Failure::Refused(_), [_, _, ..]) if may_split => {
                look.splits += 2;
                let Job { reads: mut left, .. } = job;
                let right = left.split_off(left.len() / 2);
                // Depth first: a culprit is found, or its absence shown, before the other half costs anything.
                for reads in [right, left] {
                    waiting.push_front(Job::part(reads, None));
                }
            }
            // It may be of the scalar type, which only a question can tell.
            (Failure::Refused(why), [only]) if may_split && only.is_foreign() && job.refused.is_none() => {
                look.splits += 1;
                let (read, why) = (Arc::new(scalar::as_vector(only)), why.clone());
                waiting.push_front(Job::part(vec![read], Some(why)));
            }
            (Failure::Refused(why), [culprit]) => {
                look.culprits += 1;
                let why = explained(culprit, job.refused.as_ref().unwrap_or(why));
                self.quarantine(culprit, &why);
                if !look.answered && look.culprits >= CULPRITS_MAX {
                    look.give_up(&why, &failure, waiting);
                }
                note_failure(look, &job, &Failure::Refused(why));
            }
            (Failure::Busy(why), _) => {
                look.give_up(&why.clone(), &failure, waiting);
                note_failure(look, &job, &failure);
            }
            (Failure::Refused(_) | Failure::Timeout | Failure::Other(_), reads) => {
                if failure == Failure::Timeout && job.was_patient && reads.iter().all(|read| read.is_foreign()) {
                    look.slow.push(reads.iter().map(|read| read.at.clone()).collect());
                }
                note_failure(look, &job, &failure);
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
        memory.crowds.retain(|_, (_, until)| *until > now);
        let (mut free, mut alone) = (Vec::new(), Vec::new());
        let mut foreign: BTreeMap<usize, Vec<Arc<Read>>> = BTreeMap::new();
        for read in reads {
            let asked = || match memory.typed.contains(&read.at) {
                true => Arc::new(scalar::as_vector(read)),
                false => read.clone(),
            };
            match memory.quarantine.get(&read.at) {
                None if read.is_foreign() => {
                    let limit = memory.crowds.get(&read.at).map_or(usize::MAX, |(limit, _)| *limit);
                    foreign.entry(limit).or_default().push(asked());
                }
                None => free.push(read.clone()),
                Some(kept) if kept.until <= now && alone.len() < RETRIALS_MAX => alone.push(vec![asked()]),
                Some(kept) => {
                    look.readings.insert(read.at.clone(), Reading::Absent(kept.why.clone()));
                }
            }
        }
        let mut groups = chunks(free, memory.bytes_max);
        for (limit, reads) in foreign.into_iter().rev() {
            for group in chunks(reads, memory.bytes_max) {
                groups.extend(group.chunks(limit).map(<[Arc<Read>]>::to_vec));
            }
        }
        groups.extend(alone);
        let job = |reads| Job {
            reads,
            is_part: false,
            refused: None,
            was_patient: false,
        };
        groups.into_iter().map(job).collect()
    }

    async fn ask(
        &self,
        session: &Session,
        mut job: Job,
        clock: Clock,
        deadline: Instant,
    ) -> (Job, usize, Option<f64>, Result<Vec<(Address, Reading)>, Failure>) {
        job.was_patient = deadline.saturating_duration_since(Instant::now()) >= PATIENCE_MIN;
        let mut query = Query::default();
        for (_, expression) in job.reads.iter().flat_map(|read| &read.expressions) {
            query.add(expression);
        }
        let text = query.text();
        let sent = clock.at(Instant::now());
        let result = self.server.ask(session, &text, Span::Instant, deadline).await;
        let evaluated = result.as_ref().ok().and_then(Answer::evaluated);
        let offset = evaluated.map(|theirs| clock_offset(theirs, sent, clock.at(Instant::now())));
        let result = result.and_then(|answer| match &answer.doubt {
            // A word on one expression, which casts no doubt on those beside it: whose it is shows when they are asked apart.
            Some(why) if why.starts_with("PromQL warning") => Err(Failure::Refused(format!("the answer is doubtful: {why}"))),
            _ => Ok(answer),
        });
        let readings = result.map(|answer| self.understand(&job, &query, &answer));
        drop(query);
        (job, text.len(), offset, readings)
    }

    /// Shows by how much the clocks differ at least, and says so once; `None`: nobody knows at the moment.
    fn show_clocks(&self, offset: Option<f64>) {
        self.server.show_clock_offset(offset);
        let Some(offset) = offset else { return };
        let did = self.memory().clocks_differ;
        let differ = offset.abs() > if did { CLOCK_OFFSET_SLIGHT } else { CLOCK_OFFSET_MAX };
        if differ == did {
            return;
        }
        self.memory().clocks_differ = differ;
        let server = self.server.name();
        if differ {
            let (seconds, side) = (offset.abs().round(), if offset > 0.0 { "ahead of" } else { "behind" });
            tracing::warn!("The clock of {server} is {seconds} s {side} ours: a release is judged by as much too early or late");
        } else {
            tracing::info!("The clock of {server} agrees with ours again");
        }
    }

    fn understand(&self, job: &Job, query: &Query<'_>, answer: &Answer) -> Vec<(Address, Reading)> {
        let sorted = Sorted::new(answer);
        let mut memory = self.memory();
        let mut judged = Vec::with_capacity(job.reads.len());
        for read in &job.reads {
            if matches!(read.what, What::Scalar(_)) {
                let reading = match &answer.doubt {
                    Some(why) => Reading::Absent(Absence::Partial(why.clone())),
                    None => scalar::reading(read, query, &sorted),
                };
                judged.push((read.at.clone(), reading));
                continue;
            }
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
            let reading = match read.what {
                What::Native(_) => memory.ratchets.entry(read.at.clone()).or_default().smooth(reading),
                _ => reading,
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

    fn release(&self, job: &Job, look: &mut Look) {
        let mut memory = self.memory();
        if job.refused.is_some() {
            look.typed += job.reads.len();
            memory.typed.extend(job.reads.iter().map(|read| read.at.clone()));
        }
        if !memory.quarantine.is_empty() {
            for read in &job.reads {
                memory.quarantine.remove(&read.at);
            }
        }
    }

    /// Draws the conclusions of a look that concern the next ones.
    fn remember(&self, look: &mut Look) {
        let now = Instant::now();
        let mut memory = self.memory();
        // Only where others were answered: a server that answers nobody says nothing of an expression.
        for slow in look.slow.drain(..).filter(|_| look.answered) {
            let half = slow.len() / 2;
            for at in slow {
                if half > 0 {
                    memory.crowds.insert(at, (half, now + CROWDED));
                } else {
                    let (until, why) = (now + QUARANTINE, Absence::Error(TOO_SLOW.to_owned()));
                    memory.quarantine.insert(at, Quarantined { until, why });
                }
            }
        }
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
        let size_was_at_fault = look.splits > 0 && look.culprits == 0 && look.typed == 0 && look.part_bytes > 0;
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
}

impl Job {
    fn part(reads: Vec<Arc<Read>>, refused: Option<String>) -> Self {
        Self {
            reads,
            is_part: true,
            refused,
            was_patient: false,
        }
    }
}

impl Look {
    /// Asks nothing more of a server in trouble: the rest of the look would only add to it.
    fn give_up(&mut self, why: &str, failure: &Failure, waiting: &mut VecDeque<Job>) {
        self.busy = Some(why.to_owned());
        for job in waiting.drain(..) {
            note_failure(self, &job, failure);
        }
    }
}

/// Why a rule's own query was refused, in words that fit what was configured.
pub(super) fn explained(read: &Read, why: &str) -> String {
    match &read.what {
        What::Scalar(scalar) if scalar.is_foreign() => scalar::refusal(why),
        What::Native(_) | What::Scalar(_) if why.contains("unknown function") && why.contains("histogram_") => UNKNOWN_FUNCTION.to_owned(),
        _ => why.to_owned(),
    }
}

fn note_failure(look: &mut Look, job: &Job, failure: &Failure) {
    for read in &job.reads {
        look.readings.insert(read.at.clone(), Reading::Absent(failure.absence()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_shows_no_more_of_a_clock_than_its_way_leaves_open() {
        for (theirs, sent, answered, offset) in [
            (100.0, 99.9, 100.1, 0.0),
            (100.0, 80.0, 120.0, 0.0),
            (100.0, 112.0, 112.5, -12.0),
            (100.0, 80.0, 88.0, 12.0),
            (100.0, 112.0, 111.0, -12.0),
        ] {
            let shown = clock_offset(theirs, sent, answered);
            assert!(
                (shown - offset).abs() < f64::EPSILON,
                "{shown}: {theirs} between {sent} and {answered}"
            );
        }
    }

    #[test]
    fn that_clocks_differ_is_said_until_they_agree_well() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = PrometheusSettings {
            url: "http://127.0.0.1:9090".parse().expect("a URL"),
            timeout: Duration::from_secs(1),
            bearer: None,
            basic: None,
            ca_file: None,
            client_certificate: None,
            headers: BTreeMap::new(),
        };
        let metrics = Metrics::new().expect("metrics");
        let source = Source::new("east", settings, metrics.clone());
        for (offset, differ) in [
            (9.0, false),
            (-10.5, true),
            (9.0, true),
            (5.5, true),
            (4.5, false),
            (9.0, false),
            (11.0, true),
        ] {
            source.show_clocks(Some(offset));
            assert_eq!(source.memory().clocks_differ, differ, "{offset} s");
            assert!((metrics.prometheus_clock_offset.with_label_values(&["east"]).get() - offset).abs() < f64::EPSILON);
        }
        let is_shown = || {
            metrics
                .expose()
                .expect("encodes")
                .contains("flipback_prometheus_clock_offset_seconds{")
        };
        assert!(is_shown());
        source.show_clocks(None);
        assert!(
            !is_shown() && source.memory().clocks_differ,
            "nothing is known, so nothing has changed"
        );
        source.show_clocks(Some(11.0));
        drop(source);
        assert!(!is_shown());
    }
}
