//! Raw counters to evidence: what was counted between two samples of each series, every request once.
//!
//! The rules of this file are where rollbacks go wrong elsewhere: a counter that went down counts from 0; a series born
//! on a known target counts from 0; a target born after the previous sample counts from 0; a target of unknown age, and
//! everything in the first sample, is a baseline only; a target that is missing keeps its counters, for it may come
//! back. Sums are made after differencing. What a target counted began at its own newest sample, not at the reading's.
//!
//! A process that restarted, does not tell its start, and has overtaken the total of the old one looks as if more had failed than was
//! asked. So may a glitch, which the next sample puts right: the reading is refused, and the target is a baseline again when a second
//! sample in a row looks like that. Else a release that fails everything would stay unmeasurable until its count of good requests has
//! overtaken the old one's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Counter;

use super::{
    bound::Share,
    clock::{before, elapsed},
    window::Piece,
};

/// A target missing for so long is forgotten; should it return after all, it is a baseline again.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// The counters of one rule on one color.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    last: Option<Timestamp>,
    spacing: Option<Duration>,
    known: BTreeMap<String, Known>,
}

/// What a target last said.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Known {
    at: Timestamp,
    started: Option<Timestamp>,
    #[serde(with = "super::exact")]
    total: f64,
    #[serde(with = "super::exact")]
    bad: f64,
    /// When a sample came first that cannot have followed on this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    odd: Option<Timestamp>,
}

/// What a sample adds.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// It is no newer than the last one.
    Old,
    /// Something to count from.
    Baseline,
    /// Requests, by when their counting began; never empty.
    Pieces(Vec<Piece>),
    /// It cannot be right; nothing was taken from it.
    Unusable(&'static str),
}

impl Counters {
    /// Takes a sample.
    pub(super) fn take(&mut self, sample_at: Timestamp, targets: &BTreeMap<String, Counter>) -> Taken {
        if let Some(why) = targets.values().find_map(nonsense) {
            return Taken::Unusable(why);
        }
        if targets.is_empty() {
            return Taken::Unusable("no such series, or no requests");
        }
        let Some(last) = self.last else {
            self.remember(sample_at, targets);
            return Taken::Baseline;
        };
        if sample_at <= last {
            return Taken::Old;
        }
        let strangers = self.strangers(sample_at, targets);
        let pieces = self.pieces(last, sample_at, targets, &strangers);
        // Not taken over: the next sample is compared with the last sound one, so no request is lost.
        if pieces.iter().any(|piece| piece.share.impossible()) {
            self.doubt(sample_at, targets);
            return Taken::Unusable("more bad requests than requests");
        }
        self.spacing = Some(elapsed(sample_at, last));
        self.remember(sample_at, targets);
        if pieces.is_empty() {
            Taken::Baseline
        } else {
            Taken::Pieces(pieces)
        }
    }

    /// The time between the last two samples, where there were two.
    pub(super) fn spacing(&self) -> Option<Duration> {
        self.spacing
    }

    /// Makes the next sample a baseline, whatever its time says.
    pub(super) fn rebase(&mut self) {
        self.last = None;
    }

    /// Targets that cannot be what is known of them, now for the second sample in a row.
    fn strangers<'a>(&self, at: Timestamp, targets: &'a BTreeMap<String, Counter>) -> BTreeSet<&'a str> {
        let doubted = |name: &str, counter: &Counter| {
            let known = self.known.get(name)?;
            let again = known.odd? < sampled(counter, at) && difference(known, counter).impossible();
            again.then_some(())
        };
        let strangers = targets.iter().filter(|(name, counter)| doubted(name, counter).is_some());
        strangers.map(|(name, _)| name.as_str()).collect()
    }

    /// Notes which targets of a sample that is refused cannot be what is known of them.
    fn doubt(&mut self, at: Timestamp, targets: &BTreeMap<String, Counter>) {
        for (name, counter) in targets {
            if let Some(known) = self.known.get_mut(name)
                && difference(known, counter).impossible()
            {
                known.odd.get_or_insert(sampled(counter, at));
            }
        }
    }

    fn pieces(&self, last: Timestamp, now: Timestamp, targets: &BTreeMap<String, Counter>, strangers: &BTreeSet<&str>) -> Vec<Piece> {
        let mut sums: BTreeMap<Timestamp, Share> = BTreeMap::new();
        for (name, counter) in targets {
            let grown = match self.known.get(name) {
                Some(_) if strangers.contains(name.as_str()) => None,
                // Not scraped since: what it answers now is what it answered then.
                Some(known) if counter.sample_at.is_some_and(|sampled| sampled <= known.at) => None,
                Some(known) => Some((known.at, difference(known, counter))),
                None => counter
                    .started
                    // Later than the sample itself too: a pod's clock may be ahead of ours.
                    .filter(|started| *started > last)
                    .map(|_| (last, whole(counter))),
            };
            if let Some((from, share)) = grown {
                let sum = sums.entry(from).or_default();
                *sum = sum.plus(share);
            }
        }
        sums.into_iter().map(|(from, share)| Piece { from, to: now, share }).collect()
    }

    fn remember(&mut self, at: Timestamp, targets: &BTreeMap<String, Counter>) {
        for (name, counter) in targets {
            // A series that vanishes while its target lives keeps its count, like a target that vanishes.
            let kept = self
                .known
                .get(name)
                .filter(|known| !restarted(known, counter))
                .map_or(0.0, |known| known.bad);
            let known = Known {
                at: sampled(counter, at),
                started: counter.started,
                total: counter.total,
                bad: counter.bad.unwrap_or(kept),
                odd: None,
            };
            self.known.insert(name.clone(), known);
        }
        let forget = before(at, FORGET);
        self.known.retain(|_, known| known.at > forget);
        self.last = Some(at);
    }
}

/// When a target's counters were sampled; `at` is the newest sample of the reading.
fn sampled(counter: &Counter, at: Timestamp) -> Timestamp {
    counter.sample_at.map_or(at, |sampled| sampled.min(at))
}

/// Everything a new process has counted.
fn whole(counter: &Counter) -> Share {
    Share {
        bad: counter.bad.unwrap_or(0.0),
        total: counter.total,
    }
}

fn difference(known: &Known, counter: &Counter) -> Share {
    if restarted(known, counter) {
        return whole(counter);
    }
    let bad = counter.bad.map_or(0.0, |bad| if bad < known.bad { bad } else { bad - known.bad });
    Share {
        bad,
        total: counter.total - known.total,
    }
}

/// Whether another process counts now: its start time changed to a later one, or the count of all requests went down.
fn restarted(known: &Known, counter: &Counter) -> bool {
    let reborn = known
        .started
        .zip(counter.started)
        .is_some_and(|(then, now)| now > then && now > known.at);
    reborn || counter.total < known.total
}

fn nonsense(counter: &Counter) -> Option<&'static str> {
    let numbers = [Some(counter.total), counter.bad];
    let any = |test: fn(f64) -> bool| numbers.iter().flatten().any(|number| test(*number));
    if any(f64::is_nan) {
        Some("the answer is not a number (0/0)")
    } else if any(f64::is_infinite) {
        Some("the answer is infinite")
    } else if any(|number| number < 0.0) {
        Some("the answer is negative")
    } else if whole(counter).impossible() {
        Some("more bad requests than requests")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    fn pod(total: f64, bad: Option<f64>) -> Counter {
        Counter {
            started: None,
            sample_at: None,
            total,
            bad,
        }
    }

    fn targets(pods: &[(&str, Counter)]) -> BTreeMap<String, Counter> {
        pods.iter().map(|(name, counter)| ((*name).to_owned(), *counter)).collect()
    }

    /// The sum of what a sample adds, with the start of its oldest piece.
    fn sum(taken: Taken) -> (i64, f64, f64) {
        match taken {
            Taken::Pieces(pieces) => {
                let share = pieces.iter().fold(Share::default(), |sum, piece| sum.plus(piece.share));
                (pieces[0].from.as_second(), share.bad, share.total)
            }
            other => panic!("evidence expected, got {other:?}"),
        }
    }

    #[test]
    fn the_first_sample_is_a_baseline_only() {
        let mut counters = Counters::default();
        assert_eq!(counters.take(at(0), &targets(&[("a", pod(1e6, Some(5e5)))])), Taken::Baseline);
        assert_eq!(
            sum(counters.take(at(5), &targets(&[("a", pod(1e6 + 10.0, Some(5e5 + 1.0)))]))),
            (0, 1.0, 10.0)
        );
    }

    #[test]
    fn a_sample_is_used_once() {
        let mut counters = Counters::default();
        counters.take(at(5), &targets(&[("a", pod(10.0, None))]));
        for old in [5, 4, -3600] {
            assert_eq!(counters.take(at(old), &targets(&[("a", pod(99.0, Some(9.0)))])), Taken::Old);
        }
    }

    #[test]
    fn a_counter_that_went_down_counts_from_zero() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(1000.0, Some(40.0)))]));
        assert_eq!(
            sum(counters.take(at(5), &targets(&[("a", pod(100.0, Some(50.0)))]))),
            (0, 50.0, 100.0)
        );
        assert_eq!(
            sum(counters.take(at(10), &targets(&[("a", pod(200.0, Some(3.0)))]))),
            (5, 3.0, 100.0)
        );
    }

    #[test]
    fn a_new_process_that_has_already_overtaken_the_old_one_counts_from_zero() {
        let mut counters = Counters::default();
        let with_start = |started, total, bad| Counter {
            started: Some(at(started)),
            sample_at: None,
            total,
            bad: Some(bad),
        };
        counters.take(at(0), &targets(&[("a", with_start(-100, 10.0, 1.0))]));
        assert_eq!(
            sum(counters.take(at(5), &targets(&[("a", with_start(2, 50.0, 20.0))]))),
            (0, 20.0, 50.0)
        );
    }

    #[test]
    fn a_series_born_on_a_known_target_counts_from_zero() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(100.0, None))]));
        assert_eq!(
            sum(counters.take(at(5), &targets(&[("a", pod(150.0, Some(37.0)))]))),
            (0, 37.0, 50.0)
        );
    }

    #[test]
    fn an_error_series_that_blinks_is_not_counted_twice() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(100.0, Some(37.0)))]));
        assert_eq!(sum(counters.take(at(5), &targets(&[("a", pod(150.0, None))]))), (0, 0.0, 50.0));
        assert_eq!(
            sum(counters.take(at(10), &targets(&[("a", pod(200.0, Some(37.0)))]))),
            (5, 0.0, 50.0)
        );
    }

    #[test]
    fn a_target_born_later_counts_from_zero_and_one_of_unknown_age_is_a_baseline() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(100.0, None))]));
        let born = Counter {
            started: Some(at(3)),
            sample_at: None,
            total: 20.0,
            bad: Some(7.0),
        };
        let old = Counter {
            started: Some(at(-50)),
            sample_at: None,
            ..born
        };
        let seen = targets(&[
            ("a", pod(100.0, None)),
            ("born", born),
            ("old", old),
            ("unknown", pod(20.0, Some(7.0))),
        ]);
        assert_eq!(sum(counters.take(at(5), &seen)), (0, 7.0, 20.0));
    }

    #[test]
    fn a_missing_target_may_come_back() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(100.0, None)), ("b", pod(100.0, Some(10.0)))]));
        assert_eq!(sum(counters.take(at(5), &targets(&[("a", pod(110.0, None))]))), (0, 0.0, 10.0));
        let Taken::Pieces(pieces) = counters.take(at(10), &targets(&[("a", pod(120.0, None)), ("b", pod(130.0, Some(12.0)))])) else {
            panic!("evidence expected");
        };
        let seen: Vec<_> = pieces.iter().map(|p| (p.from.as_second(), p.share.bad, p.share.total)).collect();
        assert_eq!(seen, [(0, 2.0, 30.0), (5, 0.0, 10.0)]);
    }

    #[test]
    fn nonsense_is_not_taken_and_loses_nothing() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(100.0, Some(1.0)))]));
        for (total, bad) in [
            (f64::NAN, 0.0),
            (f64::INFINITY, 0.0),
            (-1.0, 0.0),
            (110.0, 111.0),
            (110.0, 50.0),
            (110.0, f64::NAN),
        ] {
            let taken = counters.take(at(5), &targets(&[("a", pod(total, Some(bad)))]));
            assert!(matches!(taken, Taken::Unusable(_)), "{total} {bad} {taken:?}");
        }
        assert_eq!(
            counters.take(at(5), &BTreeMap::new()),
            Taken::Unusable("no such series, or no requests")
        );
        assert_eq!(
            sum(counters.take(at(10), &targets(&[("a", pod(160.0, Some(50.0)))]))),
            (0, 49.0, 60.0)
        );
    }

    /// A pod served well, crashed, and its new process has had more requests than the old one, all of them bad, before it is scraped.
    #[test]
    fn a_restart_that_nobody_tells_of_keeps_a_color_from_being_measured_for_one_sample_only() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(120.0, Some(100.0))), ("b", pod(50.0, Some(0.0)))]));
        let seen = |a: f64, b: f64| targets(&[("a", pod(a, Some(a))), ("b", pod(50.0 + b, Some(b)))]);
        let refused = Taken::Unusable("more bad requests than requests");
        assert_eq!(counters.take(at(15), &seen(400.0, 10.0)), refused);
        assert_eq!(
            counters.take(at(15), &seen(400.0, 10.0)),
            refused,
            "the same sample again is no second one"
        );
        // Of the other one nothing is lost.
        assert_eq!(sum(counters.take(at(30), &seen(800.0, 20.0))), (0, 20.0, 20.0));
        assert_eq!(sum(counters.take(at(45), &seen(1200.0, 30.0))), (30, 410.0, 410.0));
    }

    #[test]
    fn a_glitch_that_the_next_sample_puts_right_loses_nothing_and_is_forgotten() {
        let mut counters = Counters::default();
        counters.take(at(0), &targets(&[("a", pod(100.0, Some(1.0)))]));
        for n in [0, 1] {
            let (time, more) = (n * 30, n as f64 * 100.0);
            let glitch = counters.take(at(time + 15), &targets(&[("a", pod(110.0 + more, Some(50.0 + more)))]));
            assert!(matches!(glitch, Taken::Unusable(_)), "{glitch:?}");
            assert_eq!(
                sum(counters.take(at(time + 30), &targets(&[("a", pod(200.0 + more, Some(1.0)))]))),
                (time, 0.0, 100.0)
            );
        }
    }
}
