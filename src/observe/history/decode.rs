//! What the servers said, understood: points by step become samples by the time of their scrape. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    model::{Absence, Counter, Evaluation, Track},
    observe::{
        answer::{number, target, time},
        envelope::{Answer, Sample},
        plan::{Read, Role, What},
        scalar::{SHARE_IMPOSSIBLE, Scalar},
    },
};

/// Answers by the text that was asked; the error is a refusal.
pub(super) type Answers = BTreeMap<String, Result<Vec<Sample>, String>>;

/// Points of one series by step, oldest first: milliseconds since 1970, and the value.
pub(super) type Column = Vec<(i64, f64)>;

/// The raw counters of one read, each sample once.
pub(super) fn counters(read: &Read, answers: &Answers, raw: &BTreeMap<String, String>) -> Result<Track, Absence> {
    let of = |role: Role| -> Result<&[Sample], Absence> {
        match read.expression(role).and_then(|text| answers.get(text)) {
            Some(Ok(samples)) => Ok(samples),
            Some(Err(why)) => Err(Absence::Error(why.clone())),
            None => Ok(&[]),
        }
    };
    let is_fast = !matches!(read.what, What::Counters { .. });
    let (whole, part) = match read.what {
        What::Latency { .. } => (Role::Buckets, Role::Buckets),
        What::Native(_) => (Role::Total, Role::Fast),
        What::Counters { .. } | What::Scalar(_) => (Role::Total, Role::Bad),
    };
    let (total, part) = sides(read, of(whole)?, of(part)?);
    let times = read.expression(Role::Newest).and_then(|text| raw.get(text));
    let raw = match times.and_then(|selector| answers.get(selector)) {
        Some(Ok(samples)) => Some(sample_times(samples)),
        Some(Err(why)) => return Err(Absence::Error(why.clone())),
        None => None,
    };
    let newest = columns(of(Role::Newest)?.iter());
    let started = columns(of(Role::Started)?.iter());
    let mut targets = BTreeMap::new();
    for (target, total) in &total {
        let none = Column::new();
        let part = part.get(target).unwrap_or(&none);
        let newest = match &raw {
            Some(raw) => &newest_at(total, raw.get(target).map_or(&[], Vec::as_slice)),
            None => newest.get(target).unwrap_or(&none),
        };
        let starts = starts(started.get(target).unwrap_or(&none));
        let samples = join(total, part, newest, &starts, is_fast);
        if !samples.is_empty() {
            targets.insert(target.clone(), samples);
        }
    }
    match &read.what {
        What::Latency { bound, .. } if !total.is_empty() && part.is_empty() => Err(Absence::NoBucket(bound.text.clone())),
        _ => Ok(Track::Counters(targets)),
    }
}

pub(super) fn millis(at: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(at).ok()
}

/// Puts the points of a later answer behind those of the earlier ones, series by series.
pub(super) fn append(merged: &mut Vec<Sample>, answer: Answer) {
    for sample in answer.samples {
        match merged.iter_mut().find(|known| known.metric == sample.metric) {
            Some(known) => known.values.extend(sample.values),
            None => merged.push(sample),
        }
    }
}

pub(super) fn column(sample: &Sample) -> Column {
    let points = sample.values.iter();
    points.map(|(at, text)| ((at * 1000.0).round() as i64, number(text))).collect()
}

/// Columns by target; several series of one target (spellings of one bound) add up.
fn columns<'s>(samples: impl Iterator<Item = &'s Sample>) -> BTreeMap<String, Column> {
    let mut found: BTreeMap<String, Column> = BTreeMap::new();
    for sample in samples {
        let column = column(sample);
        match found.get_mut(&target(sample)) {
            Some(known) => add(known, &column),
            None => {
                found.insert(target(sample), column);
            }
        }
    }
    found
}

fn add(known: &mut Column, more: &[(i64, f64)]) {
    let mut sum: BTreeMap<i64, f64> = known.drain(..).collect();
    for (at, value) in more {
        *sum.entry(*at).or_insert(0.0) += value;
    }
    known.extend(sum);
}

/// All requests, and the bad ones or those up to the threshold, by target. Classic buckets come in one answer.
pub(super) fn sides(read: &Read, total: &[Sample], part: &[Sample]) -> (BTreeMap<String, Column>, BTreeMap<String, Column>) {
    let What::Latency { bound, .. } = &read.what else {
        return (columns(total.iter()), columns(part.iter()));
    };
    let le = |sample: &&Sample| sample.metric.get("le").map_or(f64::NAN, |le| number(le));
    (
        columns(total.iter().filter(|sample| le(sample).is_infinite())),
        columns(total.iter().filter(|sample| bound.is(le(sample)))),
    )
}

/// The times of raw samples by target, in milliseconds, oldest first.
fn sample_times(samples: &[Sample]) -> BTreeMap<String, Vec<i64>> {
    let mut times: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for sample in samples {
        let known = times.entry(target(sample)).or_default();
        known.extend(sample.values.iter().map(|(at, _)| (at * 1000.0).round() as i64));
    }
    for known in times.values_mut() {
        known.sort_unstable();
        known.dedup();
    }
    times
}

/// What `timestamp()` would have told at each step: the time of the newest sample, in seconds.
fn newest_at(steps: &[(i64, f64)], times: &[i64]) -> Column {
    let mut coming = times.iter().peekable();
    let mut newest = None;
    let told = steps.iter().filter_map(|(step, _)| {
        while let Some(at) = coming.next_if(|at| **at <= *step) {
            newest = Some(*at);
        }
        newest.map(|at| (*step, at as f64 / 1000.0))
    });
    told.collect()
}

/// The distinct process starts, oldest first.
fn starts(column: &[(i64, f64)]) -> Vec<Timestamp> {
    let mut starts: Vec<Timestamp> = column.iter().filter_map(|(_, start)| time(*start)).collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Joins the columns of one target step by step, and keeps the steps that show a newer sample.
fn join(total: &[(i64, f64)], part: &[(i64, f64)], newest: &[(i64, f64)], starts: &[Timestamp], fast: bool) -> Vec<(Timestamp, Counter)> {
    let (mut part, mut newest) = (part.iter().peekable(), newest.iter().peekable());
    let mut samples: Vec<(Timestamp, Counter)> = Vec::with_capacity(total.len());
    for (step, total) in total {
        while newest.next_if(|(at, _)| at < step).is_some() {}
        while part.next_if(|(at, _)| at < step).is_some() {}
        let Some(at) = newest.next_if(|(at, _)| at == step).and_then(|(_, at)| time(*at)) else {
            continue;
        };
        let part = part.next_if(|(at, _)| at == step).map(|(_, value)| *value);
        if samples.last().is_some_and(|(last, _)| *last >= at) {
            continue;
        }
        // Of a histogram the slow ones are the bad ones; without the bucket nothing is known of this sample.
        let bad = match (fast, part) {
            (true, None) if *total > 0.0 => continue,
            (true, fast) => Some((total - fast.unwrap_or(0.0)).max(0.0)),
            (false, bad) => bad,
        };
        let started = starts.iter().rev().find(|start| **start <= at).copied();
        let total = *total;
        samples.push((
            at,
            Counter {
                started,
                sample_at: Some(at),
                total,
                bad,
            },
        ));
    }
    samples
}

/// The evaluations of a number.
pub(super) fn evaluations(read: &Read, answers: &Answers) -> Result<Track, Absence> {
    let of = |role: Role| -> Result<Column, Absence> {
        match read.expression(role).and_then(|text| answers.get(text)) {
            Some(Ok(samples)) if samples.len() > 1 => Err(Absence::Ambiguous(format!(
                "{} series where one is needed: aggregate the expression into one, with sum(..), max(..) or avg(..)",
                samples.len()
            ))),
            Some(Ok(samples)) => Ok(samples.first().map(column).unwrap_or_default()),
            Some(Err(why)) => Err(Absence::Error(why.clone())),
            None => Ok(Column::new()),
        }
    };
    let longs: BTreeMap<i64, f64> = of(Role::Long)?.into_iter().collect();
    // It only gates: where it cannot be told, nothing is let through or held back by a guess.
    let requests: BTreeMap<i64, f64> = of(Role::Requests).unwrap_or_default().into_iter().collect();
    let is_share = matches!(read.what, What::Scalar(Scalar::Share { .. }));
    let evaluations = of(Role::Value)?.into_iter().filter_map(|(at, value)| {
        Some(Evaluation {
            at: millis(at)?,
            value: if is_share { share(value) } else { value },
            long: longs.get(&at).copied(),
            requests: requests.get(&at).copied().filter(|requests| *requests >= 0.0),
        })
    });
    Ok(Track::Scalars(evaluations.collect()))
}

/// A rate is carried on to both ends of its window, so that a share may exceed 1 a little. What is no number stays none: of 1 and
/// that, `min` would take the 1.
fn share(value: f64) -> f64 {
    if value > 1.0 && value <= SHARE_IMPOSSIBLE {
        1.0
    } else if (0.0..=1.0).contains(&value) {
        value
    } else {
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::history::{on_step, whole};

    fn columns_of(values: &[(i64, f64)]) -> Column {
        values.iter().map(|(at, value)| (at * 1000, *value)).collect()
    }

    fn seen(samples: &[(Timestamp, Counter)]) -> Vec<(i64, f64, Option<f64>)> {
        samples
            .iter()
            .map(|(at, counter)| (at.as_second(), counter.total, counter.bad))
            .collect()
    }

    #[test]
    fn a_sample_that_is_looked_at_again_is_no_new_one() {
        // Scraped at 7 and 22 and then never again: Prometheus repeats the last sample at every further step.
        let total = columns_of(&[(15, 100.0), (30, 200.0), (45, 200.0), (60, 200.0)]);
        let newest = newest_at(&total, &[7_000, 22_000]);
        let bad = columns_of(&[(30, 4.0), (45, 4.0), (60, 4.0)]);
        assert_eq!(
            seen(&join(&total, &bad, &newest, &[], false)),
            [(7, 100.0, None), (22, 200.0, Some(4.0))]
        );
    }

    #[test]
    fn times_of_raw_samples_are_what_timestamp_tells() {
        let total = columns_of(&[(0, 1.0), (15, 1.0), (30, 1.0)]);
        // Nothing yet at the first step; two scrapes between the second and the third, of which the later one is shown.
        let told = newest_at(&total, &[9_000, 16_000, 29_500]);
        assert_eq!(told, [(15_000, 9.0), (30_000, 29.5)]);
    }

    #[test]
    fn a_sample_belongs_to_the_newest_process_that_had_started_by_then() {
        let total = columns_of(&[(15, 100.0), (30, 5.0)]);
        let starts = starts(&[(0, -50.0), (60_000, 20.0)]);
        let samples = join(&total, &[], &newest_at(&total, &[15_000, 30_000]), &starts, false);
        let started: Vec<_> = samples
            .iter()
            .map(|(_, counter)| counter.started.map(|at| at.as_second()))
            .collect();
        assert_eq!(started, [Some(-50), Some(20)]);
    }

    #[test]
    fn without_the_thresholds_bucket_nothing_is_known_of_a_sample() {
        let total = columns_of(&[(15, 100.0), (30, 200.0)]);
        let fast = columns_of(&[(30, 190.0)]);
        let samples = join(&total, &fast, &newest_at(&total, &[15_000, 30_000]), &[], true);
        assert_eq!(seen(&samples), [(30, 200.0, Some(10.0))]);
    }

    #[test]
    fn a_share_of_nothing_is_no_share_and_a_little_over_one_is_one() {
        assert!(share(f64::NAN).is_nan() && share(-0.1).is_nan() && share(3.0).is_nan() && share(f64::INFINITY).is_nan());
        assert_eq!([share(0.2), share(1.01)].map(|share| (share * 100.0).round() as i64), [20, 100]);
    }

    #[test]
    fn stretches_end_on_the_grid_of_their_steps() {
        let step = Duration::from_secs(15);
        assert_eq!(on_step(1000, 100, step), 1090);
        assert_eq!(on_step(1000, 3, step), 1015, "never less than a step");
        let whole_steps = [14_998, 15_002, 500, 2_500].map(|millis| whole(Duration::from_millis(millis)).as_secs());
        assert_eq!(whole_steps, [15, 15, 1, 2]);
    }
}
