//! What was scraped: samples per series, with stale markers, bounded in time and number.

use std::collections::{BTreeMap, VecDeque};

use super::syntax::Matcher;

/// Labels of a series, its name under `__name__`.
pub(super) type Labels = BTreeMap<String, String>;

/// Samples kept per series: an hour at one a second.
const SAMPLES_MAX: usize = 3600;
/// Series kept: the sandbox has some hundreds.
const SERIES_MAX: usize = 20_000;

/// Every series.
#[derive(Debug, Default)]
pub(super) struct Samples {
    series: BTreeMap<Labels, VecDeque<(i64, Option<f64>)>>,
}

impl Samples {
    /// Adds a sample at a time in milliseconds; `None` marks the series as stale from there on.
    pub(super) fn add(&mut self, labels: &Labels, at: i64, value: Option<f64>) {
        if !self.series.contains_key(labels) && (value.is_none() || self.series.len() >= SERIES_MAX) {
            return;
        }
        let samples = self.series.entry(labels.clone()).or_default();
        let gone_already = samples.back().is_some_and(|(_, last)| last.is_none());
        if value.is_none() && gone_already {
            return;
        }
        if samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((at, value));
    }

    /// Series that pass, with all their samples.
    pub(super) fn select<'a>(&'a self, matchers: &'a [Matcher]) -> impl Iterator<Item = (&'a Labels, &'a VecDeque<(i64, Option<f64>)>)> {
        self.series
            .iter()
            .filter(|(labels, _)| matchers.iter().all(|matcher| passes(matcher, labels)))
    }
}

/// A label that is absent is an empty one.
fn passes(matcher: &Matcher, labels: &Labels) -> bool {
    let value = |label: &str| labels.get(label).map_or("", String::as_str);
    match matcher {
        Matcher::Equal(label, wanted) => value(label) == wanted,
        Matcher::NotEqual(label, unwanted) => value(label) != unwanted,
        Matcher::Matches(label, pattern) => pattern.is_match(value(label)),
        Matcher::MatchesNot(label, pattern) => !pattern.is_match(value(label)),
    }
}
