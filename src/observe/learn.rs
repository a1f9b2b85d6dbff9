//! What is learned about histograms beside the looks, because it decides whether a look means anything: which bounds they have, and
//! whether one that has no series exists in the other form. Both are asked rarely, for many rules in one request, within the same look.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    answer::{Bounds, Sorted},
    native::{self, other_form},
    plan::{Address, EXPRESSIONS_MAX, Query, Read, What},
    prometheus::{Session, Span},
    scalar::Scalar,
    source::Source,
};
use crate::model::{Absence, Reading};

/// How long learned bounds are used: a release may bring new ones, and a look that contradicts them asks at once.
const BOUNDS_KEPT: Duration = Duration::from_secs(10 * 60);

/// How long until bounds that could not be learned are asked again.
const BOUNDS_RETRY: Duration = Duration::from_secs(60);

/// Questions about histograms asked in one look; the rest waits for the next.
const QUESTIONS_MAX: usize = 64;

/// What is known of a histogram's bounds.
#[derive(Debug)]
pub(super) struct Learned {
    bounds: Option<Bounds>,
    asked: Instant,
}

impl Learned {
    /// Whether to ask again. What is unknown, or contradicts what was just read, is asked sooner: a release may bring new buckets.
    fn is_due(&self, read: &Read, reading: &Reading, now: Instant) -> bool {
        let doubtful = match &self.bounds {
            None => true,
            Some(bounds) => matches!(reading, Reading::Absent(_)) || read.objection(bounds).is_some(),
        };
        now.saturating_duration_since(self.asked) >= if doubtful { BOUNDS_RETRY } else { BOUNDS_KEPT }
    }
}

/// Whether a histogram without series exists in the other form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    found: bool,
    asked: Instant,
}

impl Hint {
    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) >= if self.found { BOUNDS_RETRY } else { BOUNDS_KEPT }
    }
}

impl Read {
    /// Why the threshold cannot be judged by a histogram with these bounds.
    pub(super) fn objection(&self, bounds: &Bounds) -> Option<String> {
        match &self.what {
            What::Latency { bound, .. } => bounds.objection(bound),
            What::Scalar(Scalar::Quantile { bound, .. }) => bounds.ceiling(bound),
            What::Counters { .. } | What::Native(_) | What::Scalar(_) => None,
        }
    }

    /// Why the threshold must not be configured for a histogram with these bounds.
    pub(super) fn refusal(&self, bounds: &Bounds) -> Option<String> {
        match &self.what {
            What::Latency { bound, .. } => bounds.refusal(bound),
            _ => self.objection(bounds),
        }
    }
}

/// Whether a reading tells that the histogram is there.
fn is_there(reading: &Reading) -> bool {
    matches!(
        reading,
        Reading::Counters { .. } | Reading::Scalar { .. } | Reading::Absent(Absence::NoBucket(_))
    )
}

impl Source {
    /// Learns what is not known, or not any more, while there is time.
    pub(super) async fn learn(&self, session: &Session, reads: &[Arc<Read>], readings: &BTreeMap<Address, Reading>, deadline: Instant) {
        self.learn_bounds(session, reads, readings, deadline).await;
        self.learn_forms(session, reads, readings, deadline).await;
    }

    /// Learns the bounds of histograms: all in one request.
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
        let due = reads.iter().filter_map(|read| {
            let reading = readings.get(&read.at).filter(|reading| is_there(reading))?;
            let expression = read.bounds()?;
            let known = memory.bounds.get(&expression);
            known.is_none_or(|learned| learned.is_due(read, reading, now)).then_some(expression)
        });
        few(due, memory.bytes_max)
    }

    /// Learns whether histograms without series exist in the other form: one request per form, since a server may not know the
    /// functions of one.
    async fn learn_forms(&self, session: &Session, reads: &[Arc<Read>], readings: &BTreeMap<Address, Reading>, deadline: Instant) {
        for is_native in [true, false] {
            let due = self.forms_due(reads, readings, is_native);
            if due.is_empty() {
                continue;
            }
            let mut query = Query::default();
            for expression in &due {
                query.add(expression);
            }
            let asked = Instant::now();
            let result = self.server.ask(session, &query.text(), Span::Instant, deadline).await;
            let sorted = result.as_ref().ok().map(Sorted::new);
            let mut memory = self.memory();
            for expression in &due {
                let found = sorted.as_ref().is_some_and(|sorted| !sorted.of(&query, expression).is_empty());
                memory.hints.insert(expression.clone(), Hint { found, asked });
            }
        }
    }

    fn forms_due(&self, reads: &[Arc<Read>], readings: &BTreeMap<Address, Reading>, is_native: bool) -> Vec<String> {
        let now = Instant::now();
        let memory = self.memory();
        let due = reads.iter().filter_map(|read| {
            let asks = matches!(read.what, What::Native(_)) == is_native;
            let is_empty = matches!(readings.get(&read.at), Some(Reading::Absent(Absence::Empty)));
            let expression = Some(()).filter(|()| asks && is_empty).and_then(|()| other_form(&read.what))?;
            let known = memory.hints.get(&expression);
            known.is_none_or(|hint| hint.is_due(now)).then_some(expression)
        });
        few(due, memory.bytes_max)
    }

    /// Refuses readings whose threshold cannot be judged, and names the neighbours; names the other form of what has no series.
    pub(super) fn apply_learned(&self, reads: &[Arc<Read>], readings: &mut BTreeMap<Address, Reading>) {
        let memory = self.memory();
        for read in reads {
            let Some(reading) = readings.get_mut(&read.at) else { continue };
            if matches!(reading, Reading::Absent(Absence::Empty)) {
                let hint = other_form(&read.what).and_then(|expression| memory.hints.get(&expression));
                if let (Some(Hint { found: true, .. }), Some(why)) = (hint, native::remedy(&read.what)) {
                    *reading = Reading::Absent(Absence::Error(why));
                }
            }
            if !is_there(reading) {
                continue;
            }
            let objection = read
                .bounds()
                .and_then(|expression| memory.bounds.get(&expression))
                .and_then(|learned| learned.bounds.as_ref())
                .and_then(|bounds| read.objection(bounds));
            match (&mut *reading, objection, &read.what) {
                // A quantile needs no bound at its threshold, only one above it.
                (reading, Some(why), What::Scalar(_)) => *reading = Reading::Absent(Absence::Error(why)),
                (reading, Some(why), _) => *reading = Reading::Absent(Absence::NoBucket(why)),
                (Reading::Absent(Absence::NoBucket(why)), None, What::Latency { bound, buckets, .. }) => {
                    *why = format!("{} is not among the buckets of {buckets}", bound.text);
                }
                (_, None, _) => {}
            }
        }
    }
}

/// Each expression once, and no more than fit one question.
fn few(expressions: impl Iterator<Item = String>, bytes_max: usize) -> Vec<String> {
    let mut bytes = 0;
    let mut known = HashSet::new();
    expressions
        .filter(|expression| known.insert(expression.clone()))
        .take(QUESTIONS_MAX.min(EXPRESSIONS_MAX))
        .take_while(|expression| {
            bytes += expression.len() + 64;
            bytes <= bytes_max
        })
        .collect()
}
