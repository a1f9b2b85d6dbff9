//! Native histograms: the counters they amount to, and why those may be judged like any others. Pure.
//!
//! A native histogram is one series with exponential buckets. Its count is a counter; the requests up to a threshold are
//! `histogram_fraction(-Inf, T, H) * histogram_count(H)`, per series and then summed per target, as counters are. Three things differ
//! from a classic bucket:
//!
//! - **An empty histogram's fraction is NaN.** Only series with requests are multiplied, so that a target without any has a total of 0
//!   and nothing fast, which is 0 slow.
//! - **Products are not exact.** `fraction * count` carries a relative error of some 1e-16, so that a count of slow requests which did
//!   not change may come out a hair lower, and lower is what a restart looks like.
//! - **Resolution changes.** A client that runs out of buckets merges them in pairs. Within the bucket that holds the threshold the share
//!   is interpolated, so the merged histogram gives another number for the same requests: up to one bucket's width off, exact where the
//!   threshold is a power of two, which is a bound at every resolution.
//!
//! Therefore a [`Ratchet`] stands between the estimate and the reading. It adds up what the estimate grew by between two looks at one
//! process, never less than nothing and never more than the requests of that time. A restart is told by the total, which is exact, or by
//! the start of the process; the estimate then counts anew, from what the new process has.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{
    plan::{Planned, Role, TARGET, What, ages},
    selector::{Bound, Facts, fill, renamed},
};
use crate::model::{Counter, Reading};

/// What is said to a server that cannot read native histograms.
pub(super) const UNKNOWN_FUNCTION: &str = "this Prometheus does not know native histograms: it must be 2.40 or newer, started with --enable-feature=native-histograms (3.8 and newer: `scrape_native_histograms: true` for the job); or set histogram = \"classic\"";

/// Errors of a product are smaller than this share of the total.
const NOISE: f64 = 1e-12;

/// Targets remembered per histogram; beyond any Deployment.
const TARGETS_MAX: usize = 4096;

/// A target missing for so long is forgotten: later than by the engine, to which it is then a baseline in any case.
const FORGET_SECONDS: i64 = 2 * 3600;

/// A native histogram, placeholders filled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Native {
    /// Its selector.
    pub histogram: String,
    /// The threshold.
    pub bound: Bound,
    /// The quantile of the objective.
    pub quantile: f64,
}

/// Plans the share of slow requests.
pub(super) fn planned(histogram: &str, bound: Bound, quantile: f64, facts: &Facts<'_>) -> Planned {
    if histogram.trim().is_empty() {
        return Err("the selector of the histogram is empty: set `buckets`".to_owned());
    }
    let histogram = fill(histogram, facts)?;
    let mut expressions = vec![
        (Role::Total, format!("sum by ({TARGET}) (histogram_count({histogram}))")),
        (
            Role::Fast,
            format!(
                "sum by ({TARGET}) ((histogram_count({histogram}) > 0) * histogram_fraction(-Inf, {}, {histogram}))",
                bound.text
            ),
        ),
    ];
    expressions.extend(ages(&histogram, &histogram));
    let what = What::Native(Native {
        histogram,
        bound,
        quantile,
    });
    Ok((what, expressions))
}

/// Makes cumulative counters of estimates. One per rule and color.
#[derive(Debug, Default)]
pub(super) struct Ratchet {
    known: HashMap<String, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    seen: Timestamp,
    started: Option<Timestamp>,
    total: f64,
    /// As estimated.
    slow: f64,
    /// As handed on.
    told: f64,
}

impl Ratchet {
    /// Replaces the estimates of a reading by what may be counted of them; anything but counters passes as it is.
    pub(super) fn smooth(&mut self, mut reading: Reading) -> Reading {
        let Reading::Counters { sample_at, targets } = &mut reading else {
            return reading;
        };
        for (name, counter) in targets.iter_mut() {
            let Some(slow) = counter.bad else { continue };
            let told = self.known.get(name).map_or(slow, |known| known.next(counter, slow));
            let known = Known {
                seen: *sample_at,
                started: counter.started,
                total: counter.total,
                slow,
                told,
            };
            if self.known.len() < TARGETS_MAX || self.known.contains_key(name) {
                self.known.insert(name.clone(), known);
            }
            counter.bad = Some(told);
        }
        let now = sample_at.as_second();
        self.known
            .retain(|_, known| now.saturating_sub(known.seen.as_second()) < FORGET_SECONDS);
        reading
    }
}

impl Known {
    fn next(&self, counter: &Counter, slow: f64) -> f64 {
        let is_another = self.started.zip(counter.started).is_some_and(|(then, now)| now > then);
        if is_another || counter.total < self.total {
            return slow;
        }
        let grown = slow - self.slow;
        if grown <= counter.total * NOISE {
            return self.told;
        }
        // Sums of the pieces may exceed the whole by a rounding error, and never by more.
        (self.told + grown.min(counter.total - self.total)).min(counter.total)
    }
}

/// What else a histogram's name may stand for: asked about when the configured form has no series.
pub(super) fn other_form(what: &What) -> Option<String> {
    match what {
        What::Native(native) => Some(format!("count({})", renamed(&native.histogram, |name| format!("{name}_bucket"))?)),
        What::Latency { buckets, .. } => {
            let native = renamed(buckets, |name| name.strip_suffix("_bucket").unwrap_or(name).to_owned())?;
            Some(format!("count(histogram_count({native}))"))
        }
        What::Counters { .. } | What::Scalar(_) => None,
    }
}

/// The sentence for a histogram that exists in the other form only.
pub(super) fn remedy(what: &What) -> Option<String> {
    match what {
        What::Native(native) => {
            let classic = renamed(&native.histogram, |name| format!("{name}_bucket"))?;
            Some(format!(
                "the metric is a classic histogram: set histogram = \"classic\" and buckets = '{classic}'"
            ))
        }
        What::Latency { buckets, .. } => {
            let native = renamed(buckets, |name| name.strip_suffix("_bucket").unwrap_or(name).to_owned())?;
            Some(format!(
                "the metric exists as a native histogram only: set histogram = \"native\" and buckets = '{native}'"
            ))
        }
        What::Counters { .. } | What::Scalar(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// What is told of one target after each sample of (second, start, total, estimate).
    fn told(samples: &[(i64, Option<i64>, f64, f64)]) -> Vec<f64> {
        let mut ratchet = Ratchet::default();
        let step = |(second, started, total, slow): &(i64, Option<i64>, f64, f64)| {
            let counter = Counter {
                started: started.map(at),
                sample_at: None,
                total: *total,
                bad: Some(*slow),
            };
            let reading = Reading::Counters {
                sample_at: at(*second),
                targets: [("a".to_owned(), counter)].into(),
            };
            let Reading::Counters { targets, .. } = ratchet.smooth(reading) else {
                panic!("no counters");
            };
            targets["a"].bad.expect("told")
        };
        samples.iter().map(step).collect()
    }

    fn are(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn what_grows_is_told_as_it_is() {
        let found = told(&[(0, None, 100.0, 5.0), (5, None, 200.0, 9.5), (10, None, 300.0, 30.0)]);
        assert!(are(&found, &[5.0, 9.5, 30.0]), "{found:?}");
    }

    #[test]
    fn noise_neither_lowers_nor_raises_the_count() {
        let found = told(&[(0, None, 1e9, 5.0), (5, None, 1e9, 5.0 - 1e-7), (10, None, 1e9, 5.0 + 1e-7)]);
        assert!(found.iter().all(|told| told.total_cmp(&5.0).is_eq()), "{found:?}");
    }

    #[test]
    fn an_estimate_that_fell_goes_on_counting_from_where_it_was() {
        // Merged: 400 become 100; then 20 more are slow.
        let found = told(&[(0, None, 1000.0, 400.0), (5, None, 1010.0, 100.0), (10, None, 1040.0, 120.0)]);
        assert!(are(&found, &[400.0, 400.0, 420.0]), "{found:?}");
    }

    #[test]
    fn an_estimate_never_grows_by_more_than_there_were_requests() {
        let found = told(&[(0, None, 1000.0, 0.0), (5, None, 1010.0, 300.0), (10, None, 1020.0, 303.0)]);
        assert!(are(&found, &[0.0, 10.0, 13.0]), "{found:?}");
    }

    #[test]
    fn a_restart_counts_anew_by_its_total_or_by_its_start() {
        let found = told(&[(0, None, 1000.0, 400.0), (5, None, 20.0, 7.0)]);
        assert!(are(&found, &[400.0, 7.0]), "{found:?}");
        let found = told(&[(0, Some(-9), 10.0, 4.0), (5, Some(3), 20.0, 1.0)]);
        assert!(are(&found, &[4.0, 1.0]), "{found:?}");
    }

    #[test]
    fn a_target_that_was_away_for_a_while_is_remembered_and_a_long_lost_one_is_not() {
        let hour = 3600;
        let found = told(&[(0, None, 1000.0, 400.0), (hour, None, 1100.0, 100.0)]);
        assert!(are(&found, &[400.0, 400.0]), "{found:?}");
    }
}
