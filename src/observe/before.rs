//! What a number was before the switch: the same expression for the color that was active then, evaluated at the time of the switch.
//!
//! Asked once per switch, and of the past, so that a restart of the daemon does not lose it. It never stands in the way of a look: the
//! question is a task of its own with its own deadline, and its answer is carried by the looks that follow. What cannot be told (yet) is
//! `None`, and is asked again with growing pauses: a Prometheus that was away may come back, and remote storage may lag behind.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    answer::Sorted,
    plan::{Address, Query, Read, Role},
    prometheus::{Failure, Session, Span},
    scalar,
    source::Source,
};
use crate::model::GuardId;

/// All questions of one round together.
const DEADLINE: Duration = Duration::from_secs(15);

/// Expressions of one query about one time; switches of many guards at one second are rare.
const TOGETHER_MAX: usize = 50;

/// The longest pause between two questions about the same switch, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// A question about the past.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Before {
    /// The reading that carries the answer: of the active color.
    pub at: Address,
    /// The same rule on the color that was active.
    pub read: Arc<Read>,
    /// When it ceased to be.
    pub when: Timestamp,
}

/// What is known of the past. One entry per reading that asks, so never more than there are readings.
#[derive(Debug, Default)]
pub(super) struct Befores {
    known: HashMap<Address, Known>,
    is_asking: bool,
}

#[derive(Debug)]
struct Known {
    of: Address,
    when: Timestamp,
    value: Option<f64>,
    pauses: ExponentialBackoff,
    due: Instant,
}

impl Befores {
    /// The number, where it is known.
    pub(super) fn value(&self, before: &Before) -> Option<f64> {
        self.known.get(&before.at).filter(|known| known.is_of(before))?.value
    }

    /// Forgets what is not of the `wanted` guards.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&GuardId) -> bool) {
        self.known.retain(|at, _| wanted(&at.guard));
    }

    /// What is to be asked now; nothing while a round is under way.
    fn due(&mut self, wanted: &[Before], now: Instant) -> Vec<Before> {
        if self.is_asking {
            return Vec::new();
        }
        let is_due = |before: &&Before| {
            let known = self.known.get(&before.at).filter(|known| known.is_of(before));
            known.is_none_or(|known| known.value.is_none() && known.due <= now)
        };
        let due: Vec<Before> = wanted.iter().filter(is_due).cloned().collect();
        self.is_asking = !due.is_empty();
        due
    }

    fn note(&mut self, before: &Before, value: Option<f64>, now: Instant) {
        let kept = self.known.remove(&before.at).filter(|known| known.is_of(before));
        let mut pauses = kept.map_or_else(pauses, |known| known.pauses);
        let pause = pauses.next().unwrap_or(PAUSE_MAX);
        let known = Known {
            of: before.read.at.clone(),
            when: before.when,
            value,
            pauses,
            due: now + pause,
        };
        self.known.insert(before.at.clone(), known);
    }
}

impl Known {
    fn is_of(&self, before: &Before) -> bool {
        self.of == before.read.at && self.when == before.when
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(10))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Ends a round also when it is cut off, so that the next one can begin.
struct Round(Arc<Source>);

impl Drop for Round {
    fn drop(&mut self) {
        self.0.memory().befores.is_asking = false;
    }
}

/// Begins to ask what of `wanted` is not known, unless that is under way.
pub(super) fn ask(source: &Arc<Source>, wanted: &[Before]) {
    let due = source.memory().befores.due(wanted, Instant::now());
    if due.is_empty() {
        return;
    }
    let round = Round(source.clone());
    tokio::spawn(async move {
        let source = &round.0;
        let deadline = Instant::now() + DEADLINE;
        let session = tokio::time::timeout_at(deadline, source.server.session()).await;
        let mut by_time: BTreeMap<Timestamp, Vec<Before>> = BTreeMap::new();
        for before in due {
            by_time.entry(before.when).or_default().push(before);
        }
        for (when, all) in by_time {
            for group in all.chunks(TOGETHER_MAX) {
                let values = match &session {
                    Ok(Ok(session)) => source.values_at(session, group, when, deadline).await,
                    Ok(Err(_)) | Err(_) => vec![None; group.len()],
                };
                let now = Instant::now();
                let mut memory = source.memory();
                for (before, value) in group.iter().zip(values) {
                    memory.befores.note(before, value, now);
                }
            }
        }
    });
}

impl Source {
    /// The numbers at a time, in the order asked; together, and where that is refused one by one.
    async fn values_at(&self, session: &Session, group: &[Before], when: Timestamp, deadline: Instant) -> Vec<Option<f64>> {
        let reads: Vec<Arc<Read>> = group.iter().map(|before| self.as_typed(&before.read)).collect();
        match self.together(session, &reads, when, deadline).await {
            Ok(values) => values,
            Err(Failure::Refused(_)) => {
                let mut values = Vec::with_capacity(group.len());
                for read in group.iter().map(|before| &before.read) {
                    let mut value = self.together(session, std::slice::from_ref(read), when, deadline).await;
                    if matches!(value, Err(Failure::Refused(_))) {
                        let read = Arc::new(scalar::as_vector(read));
                        value = self.together(session, &[read], when, deadline).await;
                    }
                    values.push(value.ok().and_then(|values| values.first().copied().flatten()));
                }
                values
            }
            Err(_) => vec![None; group.len()],
        }
    }

    /// The read in the form that its type asks for, as far as the server has shown it.
    pub(super) fn as_typed(&self, read: &Arc<Read>) -> Arc<Read> {
        if self.memory().typed.contains(&read.at) {
            Arc::new(scalar::as_vector(read))
        } else {
            read.clone()
        }
    }

    async fn together(
        &self,
        session: &Session,
        reads: &[Arc<Read>],
        when: Timestamp,
        deadline: Instant,
    ) -> Result<Vec<Option<f64>>, Failure> {
        let mut query = Query::default();
        let values: Vec<&str> = reads.iter().map(|read| read.expression(Role::Value).unwrap_or_default()).collect();
        for expression in &values {
            query.add(expression);
        }
        let answer = self.server.ask(session, &query.text(), Span::At(when), deadline).await?;
        if answer.doubt.is_some() {
            return Ok(vec![None; reads.len()]);
        }
        let sorted = Sorted::new(&answer);
        let value = |expression: &&str| scalar::one(sorted.of(&query, expression)).ok().map(|(_, value)| value);
        Ok(values.iter().map(value).collect())
    }
}
