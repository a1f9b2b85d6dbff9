//! What Prometheus said, understood: the step from samples to a [`Reading`]. Pure.
//!
//! Nothing is ever guessed: whatever is no plain count becomes a
//! named [`Absence`], and no absence is a zero.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    envelope::{Answer, Sample},
    plan::{Query, Read, Role, TAG, What},
    selector::Bound,
};
use crate::model::{Absence, Counter, Reading};

/// A Prometheus number: `NaN`, `+Inf`, `1e+21` included.
pub(super) fn number(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

/// A time in seconds since 1970, to the millisecond; `None` when it is no time.
pub(super) fn time(seconds: f64) -> Option<Timestamp> {
    if !seconds.is_finite() || seconds.abs() > 1e11 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be far within the range of i64")]
    Timestamp::from_millisecond((seconds * 1000.0).round() as i64).ok()
}

/// The samples of one answer by key.
#[derive(Debug, Default)]
pub(super) struct Sorted<'a> {
    by_key: HashMap<usize, Vec<&'a Sample>>,
}

impl<'a> Sorted<'a> {
    /// Sorts an answer by the keys its expressions were tagged with.
    pub(super) fn new(answer: &'a Answer) -> Self {
        let mut by_key: HashMap<usize, Vec<&Sample>> = HashMap::new();
        for sample in &answer.samples {
            if let Some(key) = sample.metric.get(TAG).and_then(|tag| tag.parse().ok()) {
                by_key.entry(key).or_default().push(sample);
            }
        }
        Self { by_key }
    }

    /// The samples of one expression.
    pub(super) fn of(&self, query: &Query<'_>, expression: &str) -> &[&'a Sample] {
        query
            .key(expression)
            .and_then(|key| self.by_key.get(&key))
            .map_or(&[], Vec::as_slice)
    }

    /// One value per target; the newest evaluation time.
    fn per_target(&self, query: &Query<'_>, read: &Read, role: Role) -> BTreeMap<String, f64> {
        let samples = read.expression(role).map_or(&[][..], |expression| self.of(query, expression));
        samples.iter().map(|sample| (target(sample), value(sample))).collect()
    }
}

/// The value of an instant sample; one that has none (a native histogram) is not a number.
fn value(sample: &Sample) -> f64 {
    sample.value.as_ref().map_or(f64::NAN, |(_, text)| number(text))
}

/// The name of the target a sample came from: `job/instance/pod`, without what is empty.
pub(super) fn target(sample: &Sample) -> String {
    let parts: Vec<&str> = ["job", "instance", "pod"]
        .iter()
        .filter_map(|label| sample.metric.get(*label).map(String::as_str))
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join("/") }
}

/// The samples of one read, before they are judged.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Raw {
    /// When the server evaluated, by its own clock, in seconds; `None` when there is no sample.
    pub evaluated: Option<f64>,
    /// All requests.
    pub total: BTreeMap<String, f64>,
    /// Bad requests, or those up to the latency threshold.
    pub part: BTreeMap<String, f64>,
    /// Time of the newest sample, in seconds.
    pub newest: BTreeMap<String, f64>,
    /// Start of the process, in seconds.
    pub started: BTreeMap<String, f64>,
}

impl Raw {
    /// Picks what `read` asked for out of an answer.
    pub(super) fn new(read: &Read, query: &Query<'_>, sorted: &Sorted<'_>) -> Self {
        let newest = read
            .expression(Role::Newest)
            .map_or(&[][..], |expression| sorted.of(query, expression));
        let (total, part) = match &read.what {
            What::Counters { .. } => (
                sorted.per_target(query, read, Role::Total),
                sorted.per_target(query, read, Role::Bad),
            ),
            What::Native(_) => (
                sorted.per_target(query, read, Role::Total),
                sorted.per_target(query, read, Role::Fast),
            ),
            // Judged without its samples' ages, in `scalar`.
            What::Scalar(_) => (BTreeMap::new(), BTreeMap::new()),
            What::Latency { bound, .. } => {
                let samples = read
                    .expression(Role::Buckets)
                    .map_or(&[][..], |expression| sorted.of(query, expression));
                buckets(samples, bound)
            }
        };
        Self {
            evaluated: newest.iter().find_map(|sample| sample.value.as_ref().map(|(at, _)| *at)),
            total,
            part,
            newest: newest.iter().map(|sample| (target(sample), value(sample))).collect(),
            started: sorted.per_target(query, read, Role::Started),
        }
    }
}

/// All requests and those up to `bound`, per target. Different spellings of one bound add up: their series are different histograms.
fn buckets(samples: &[&Sample], bound: &Bound) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let (mut total, mut fast) = (BTreeMap::new(), BTreeMap::new());
    for sample in samples {
        let le = sample.metric.get("le").map_or(f64::NAN, |le| number(le));
        let side = if le.is_infinite() {
            &mut total
        } else if bound.is(le) {
            &mut fast
        } else {
            continue;
        };
        *side.entry(target(sample)).or_insert(0.0) += value(sample);
    }
    (total, fast)
}

/// Judges the samples of one read. `stale_after` is the age in seconds from which a sample is too old to tell anything.
///
/// A target whose newest sample is too old is left out: the engine keeps the last counters it knew of it. When all are too old the
/// reading is stale.
pub(super) fn reading(read: &Read, raw: &Raw, stale_after: f64) -> Reading {
    judge(read, raw, stale_after).unwrap_or_else(Reading::Absent)
}

fn judge(read: &Read, raw: &Raw, stale_after: f64) -> Result<Reading, Absence> {
    let evaluated = raw.evaluated.filter(|_| !raw.total.is_empty()).ok_or(Absence::Empty)?;
    let is_fresh = |target: &str| raw.newest.get(target).is_some_and(|newest| evaluated - newest <= stale_after);
    let mut newest = f64::NEG_INFINITY;
    let mut targets = BTreeMap::new();
    for (target, total) in &raw.total {
        let total = count(*total)?;
        let bad = match (&read.what, raw.part.get(target)) {
            (What::Counters { .. } | What::Scalar(_), None) => None,
            (What::Counters { .. } | What::Scalar(_), Some(bad)) => Some(count(*bad)?),
            (What::Latency { bound, .. }, None) => return Err(Absence::NoBucket(bound.text.clone())),
            (What::Latency { .. }, Some(fast)) => Some(count(total - count(*fast)?)?),
            // No request, so none that is slow.
            (What::Native(_), None) if total <= 0.0 => Some(0.0),
            (What::Native(_), None) => return Err(Absence::Nan),
            // A product, so it may exceed the total by a rounding error.
            (What::Native(_), Some(fast)) => Some((total - count(*fast)?).max(0.0)),
        };
        if bad.is_some_and(|bad| bad > total) {
            return Err(Absence::Impossible);
        }
        if is_fresh(target) {
            let sampled = raw.newest.get(target).copied();
            newest = newest.max(sampled.unwrap_or(newest));
            let started = raw.started.get(target).copied().and_then(time);
            let sample_at = sampled.and_then(time);
            let counter = Counter {
                started,
                sample_at,
                total,
                bad,
            };
            targets.insert(target.clone(), counter);
        }
    }
    // Bad requests of a target that has no requests at all: the two selectors do not belong together.
    if raw.part.keys().any(|target| !raw.total.contains_key(target)) {
        return Err(Absence::Impossible);
    }
    match time(newest) {
        Some(sample_at) => Ok(Reading::Counters { sample_at, targets }),
        None => Err(Absence::Stale),
    }
}

/// A count, or the named reason why it is none.
fn count(value: f64) -> Result<f64, Absence> {
    if value.is_nan() {
        Err(Absence::Nan)
    } else if value.is_infinite() {
        Err(Absence::Infinite)
    } else if value < 0.0 {
        Err(Absence::Negative)
    } else {
        Ok(value)
    }
}

/// Samples are never stale before this age, however often a target is scraped.
const STALE_FLOOR: Duration = Duration::from_secs(30);

/// Scrape spacing assumed until two samples were seen: Prometheus' own default.
const SPACING_DEFAULT: Duration = Duration::from_secs(60);

/// Distances remembered: enough that one missed scrape or one reload does not move the median.
const DISTANCES_MAX: usize = 7;

/// How often the targets of one selector are scraped, learned from the sample times of successive looks.
#[derive(Debug, Default)]
pub(super) struct Spacing {
    last: BTreeMap<String, f64>,
    distances: VecDeque<f64>,
}

impl Spacing {
    /// Takes note of the newest sample times, in seconds.
    pub(super) fn note(&mut self, newest: &BTreeMap<String, f64>) {
        let distance = newest
            .iter()
            .filter_map(|(target, at)| self.last.get(target).map(|last| at - last))
            .filter(|distance| *distance > 0.0)
            .min_by(f64::total_cmp);
        if let Some(distance) = distance {
            if self.distances.len() == DISTANCES_MAX {
                self.distances.pop_front();
            }
            self.distances.push_back(distance);
        }
        if !newest.is_empty() {
            self.last.clone_from(newest);
        }
    }

    /// The usual distance between two samples; `None` until two were seen.
    pub(super) fn usual(&self) -> Option<Duration> {
        median(self.distances.iter().copied())
    }

    /// The age in seconds from which a sample is stale.
    pub(super) fn stale_after(&self) -> f64 {
        (self.usual().unwrap_or(SPACING_DEFAULT) * 3).max(STALE_FLOOR).as_secs_f64()
    }
}

/// The median of distances in seconds; `None` without any, or when it is no duration.
pub(super) fn median(distances: impl Iterator<Item = f64>) -> Option<Duration> {
    let mut sorted: Vec<f64> = distances.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len() / 2)
        .and_then(|middle| Duration::try_from_secs_f64(*middle).ok())
}

/// The bounds of a histogram, as the server has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bounds {
    /// Finite bounds in ascending order, with the number of histograms that have them.
    finite: Vec<(f64, f64)>,
    /// Number of histograms.
    histograms: f64,
}

/// How a threshold lies among the bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbours {
    /// The next lower bound.
    pub below: Option<f64>,
    /// The next higher finite bound.
    pub above: Option<f64>,
    /// Whether the threshold is a bound itself.
    pub exact: bool,
}

impl Bounds {
    /// Reads `count by (le)`.
    pub(super) fn new(samples: &[&Sample]) -> Self {
        let mut bounds = Self::default();
        for sample in samples {
            let le = sample.metric.get("le").map_or(f64::NAN, |le| number(le));
            let count = value(sample);
            if le.is_infinite() {
                bounds.histograms += count;
            } else if le.is_finite() {
                match bounds.finite.iter_mut().find(|(known, _)| known.total_cmp(&le).is_eq()) {
                    Some((_, known)) => *known += count,
                    None => bounds.finite.push((le, count)),
                }
            }
        }
        bounds.finite.sort_by(|a, b| a.0.total_cmp(&b.0));
        bounds
    }

    /// The finite bounds in ascending order.
    pub(super) fn finite(&self) -> Vec<f64> {
        self.finite.iter().map(|(le, _)| *le).collect()
    }

    /// Where `bound` lies.
    pub(super) fn neighbours(&self, bound: &Bound) -> Neighbours {
        let others = || self.finite.iter().map(|(le, _)| *le).filter(|le| !bound.is(*le));
        Neighbours {
            below: others().rfind(|le| *le < bound.value),
            above: others().find(|le| *le > bound.value),
            exact: self.finite.iter().any(|(le, _)| bound.is(*le)),
        }
    }

    /// Why a threshold must not be configured, as a sentence: it is no bound of any histogram, or nothing is known of slower requests.
    ///
    /// Stricter than [`Self::objection`]: a share above the highest finite bucket is exact, and so goes on being judged by a daemon that
    /// is running; but the bucket below which "slow" lies has no upper end, so that nobody can see how slow.
    pub(super) fn refusal(&self, bound: &Bound) -> Option<String> {
        let near = self.neighbours(bound);
        match near {
            Neighbours {
                exact: true,
                above: Some(_),
                ..
            } => None,
            Neighbours {
                exact: true,
                below: Some(below),
                above: None,
            } => {
                let (threshold, unit) = (&bound.text, bound.unit_text());
                Some(format!(
                    "{threshold} {unit} is the highest finite bucket; set the threshold to {below} {unit} or lower, or add a bucket above it"
                ))
            }
            Neighbours { exact: true, .. } => Some(format!(
                "{} {} is the only finite bucket; add a bucket above it",
                bound.text,
                bound.unit_text()
            )),
            Neighbours {
                exact: false,
                below: Some(below),
                above: Some(above),
            } if self.finite.last().is_some_and(|(highest, _)| highest.total_cmp(&above).is_eq()) => {
                let (threshold, unit) = (&bound.text, bound.unit_text());
                Some(format!(
                    "{threshold} {unit} lies between the buckets {below} {unit} and {above} {unit}, which is the highest finite one; set the threshold to {below} {unit}, or to {above} {unit} with a bucket added above it"
                ))
            }
            Neighbours { exact: false, .. } => self.objection(bound),
        }
    }

    /// Why a quantile over `bound` could never be seen: `histogram_quantile` does not exceed the highest finite bucket.
    pub(super) fn ceiling(&self, bound: &Bound) -> Option<String> {
        let highest = self.finite.last().map(|(le, _)| *le)?;
        let unit = bound.unit_text();
        (bound.is(highest) || bound.value > highest).then(|| {
            format!(
                "a quantile cannot exceed the highest finite bucket, {highest} {unit}, so {} {unit} is never passed; set the threshold below it or add buckets",
                bound.text
            )
        })
    }

    /// Why `bound` cannot be judged exactly, as a sentence; `None` when it can, or when there is no histogram to tell.
    pub(super) fn objection(&self, bound: &Bound) -> Option<String> {
        if self.finite.is_empty() {
            return None;
        }
        let near = self.neighbours(bound);
        let have: f64 = self.finite.iter().filter(|(le, _)| bound.is(*le)).map(|(_, count)| count).sum();
        let unit = bound.unit_text();
        let threshold = &bound.text;
        match near {
            Neighbours { exact: true, .. } if have < self.histograms => Some(format!(
                "only {have} of {} histograms have a bucket at {threshold} {unit}; narrow the selector to those",
                self.histograms
            )),
            Neighbours { exact: true, .. } => None,
            Neighbours {
                below: Some(below),
                above: Some(above),
                ..
            } => Some(format!(
                "{threshold} {unit} lies between the buckets {below} {unit} and {above} {unit}; set the threshold to one of them"
            )),
            Neighbours { below: Some(below), .. } => Some(format!(
                "{threshold} {unit} is above the highest finite bucket, {below} {unit}; set the threshold below it or add buckets"
            )),
            Neighbours { above: Some(above), .. } => Some(format!(
                "{threshold} {unit} is below the lowest bucket, {above} {unit}; set the threshold to it or add buckets"
            )),
            Neighbours { .. } => None,
        }
    }
}
