//! What was measured, and the named ways in which it was not.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Color, RuleName, View};

/// One look at a guard: everything a judgement may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When it was made.
    pub at: Timestamp,
    /// What was live.
    pub view: View,
    /// What each rule measured, per color. Standby is measured too: a fault of the whole fleet is no release's fault.
    pub readings: BTreeMap<Color, BTreeMap<RuleName, Reading>>,
    /// What stands against any automatic flip of this guard right now and is no fact of its route: a maintenance window, too
    /// many guards that fail at once. Judged like every other refusal, so that a record tells of it.
    pub hold: Option<Held>,
}

/// A reason from outside the guard's own route to leave its traffic where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What holds.
    pub by: Hold,
    /// One sentence for a person, with its end where it has one.
    pub why: String,
}

/// What may hold a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// A maintenance window of the configuration.
    Maintenance,
    /// Too many guards at once: the cause is probably shared.
    ManyFailing,
}

impl Hold {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Maintenance, Self::ManyFailing];

    /// The word of traces, metrics and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Maintenance => "maintenance",
            Self::ManyFailing => "many_failing",
        }
    }
}

/// What one rule measured on one color.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// Raw counters per scrape target; the engine takes the differences.
    Counters {
        /// Time of the newest sample.
        sample_at: Timestamp,
        /// By target.
        targets: BTreeMap<String, Counter>,
    },
    /// One number from an expression.
    Scalar {
        /// When it was evaluated.
        sample_at: Timestamp,
        /// The number, over the short window where the rule has two.
        value: f64,
        /// The same over the long window.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        long: Option<f64>,
        /// The number of the color that was active before the switch, just before it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        before: Option<f64>,
        /// Requests within the window, where that is asked about.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        requests: Option<f64>,
    },
    /// Probes of this poll.
    Probes {
        /// When they were made.
        sample_at: Timestamp,
        /// Endpoints asked.
        asked: u32,
        /// Endpoints that failed, retries included.
        failed: u32,
        /// One sentence on the first failure.
        detail: Option<String>,
    },
    /// Ready endpoints.
    Ready {
        /// When they were counted.
        sample_at: Timestamp,
        /// How many.
        ready: u32,
    },
    /// Nothing usable, and why.
    Absent(Absence),
}

/// Raw counters of one scrape target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    /// When the target's process started, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<Timestamp>,
    /// Time of its newest sample, where known: targets are scraped at different times. `None`: that of the reading.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sample_at: Option<Timestamp>,
    /// All requests.
    pub total: f64,
    /// Bad ones; `None`: the series does not exist, which with a `total` means none so far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bad: Option<f64>,
}

/// Why a reading is unusable. None of these is ever a zero, a pass or a breach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "absence", content = "detail")]
pub enum Absence {
    /// No answer in time.
    Timeout,
    /// The source answered with an error, or not at all; a sentence for a person.
    Error(String),
    /// Not a number: 0/0.
    Nan,
    /// An infinity: 1/0.
    Infinite,
    /// Below zero.
    Negative,
    /// No series, or no requests.
    Empty,
    /// The newest sample is too old.
    Stale,
    /// The source says that its answer is incomplete.
    Partial(String),
    /// More bad than total.
    Impossible,
    /// The latency threshold is no bucket bound of the histogram; carries both neighbours.
    NoBucket(String),
    /// More than one series where one number is needed; a sentence that says how to aggregate.
    Ambiguous(String),
}

impl Absence {
    /// The word the trace format uses.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Error(_) | Self::Impossible | Self::NoBucket(_) | Self::Ambiguous(_) => "error",
            Self::Nan => "nan",
            Self::Infinite => "infinite",
            Self::Negative => "negative",
            Self::Empty => "empty",
            Self::Stale => "stale",
            Self::Partial(_) => "partial",
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Error(why) => write!(f, "{why}"),
            Self::Nan => f.write_str("the answer is not a number (0/0)"),
            Self::Infinite => f.write_str("the answer is infinite"),
            Self::Negative => f.write_str("the answer is negative"),
            Self::Empty => f.write_str("no such series, or no requests"),
            Self::Stale => f.write_str("the newest sample is too old"),
            Self::Partial(why) => write!(f, "the answer is incomplete: {why}"),
            Self::Impossible => f.write_str("more bad requests than requests"),
            Self::NoBucket(why) => write!(f, "the threshold is no bucket bound: {why}"),
            Self::Ambiguous(why) => write!(f, "the answer is more than one series: {why}"),
        }
    }
}

/// A metric over time, for evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The rule it belongs to.
    pub rule: RuleName,
    /// The color it was measured on.
    pub color: Color,
    /// What it is: `total`, `bad`, `share`, `p99`.
    pub name: String,
    /// The query that gave it.
    pub query: String,
    /// Time and value, oldest first; values that are no number are left out.
    pub points: Vec<(Timestamp, f64)>,
}
