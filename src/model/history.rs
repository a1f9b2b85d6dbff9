//! A stretch of a guard's past, as a Prometheus remembers it: what `flipback backtest` judges again.
//!
//! Samples carry the time at which the target was scraped, never the time at which somebody asked: whoever replays them can tell a
//! newer sample from an old one that is merely looked at again.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Absence, Color, Counter, RuleName};

/// A stretch of one guard's past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// Every sample up to this time is in this stretch or in an earlier one.
    pub to: Timestamp,
    /// What each rule measured on each color.
    pub tracks: BTreeMap<Color, BTreeMap<RuleName, Track>>,
    /// Ready endpoints per color, oldest first; a color without data is not in it.
    pub ready: BTreeMap<Color, Vec<(Timestamp, u32)>>,
}

/// What one rule measured on one color.
#[derive(Clone, Debug, PartialEq)]
pub enum Track {
    /// Raw counters by target, oldest first.
    Counters(BTreeMap<String, Vec<(Timestamp, Counter)>>),
    /// Evaluations of an expression, oldest first; a value that is no number is kept as it is.
    Scalars(Vec<Evaluation>),
    /// Nothing, for this whole stretch, and why.
    Absent(Absence),
}

/// One evaluation of a scalar rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// For when.
    pub at: Timestamp,
    /// The number, over the short window where the rule has two.
    pub value: f64,
    /// The same over the long window.
    pub long: Option<f64>,
    /// Requests within the window, where that is asked about.
    pub requests: Option<f64>,
}

/// What is known of one rule on one color before its past is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The color.
    pub color: Color,
    /// The rule.
    pub rule: RuleName,
    /// The usual distance of two scrapes; `None`: no two samples were found.
    #[serde(with = "humantime_serde")]
    pub spacing: Option<Duration>,
    /// Scrape targets seen.
    pub targets: u32,
    /// Why nothing can be read for it: a selector that cannot be filled in or is refused.
    pub refused: Option<Absence>,
    /// Why its latency threshold cannot be judged, with both neighbouring buckets.
    pub objection: Option<String>,
}
