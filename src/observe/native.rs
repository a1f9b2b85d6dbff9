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
