//! Evaluates the subset at one instant, as Prometheus 2 does: 5 minutes of lookback, ended by a stale marker.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    samples::{Labels, Samples},
    syntax::{Aggregate, Expr, Matching, Op, Rate, Selector},
};

/// How far back an instant vector looks, in milliseconds.
const LOOKBACK: i64 = 5 * 60 * 1000;

/// One sample of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub labels: Labels,
    /// Milliseconds.
    pub at: i64,
    pub value: f64,
}

/// What an expression yields.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Scalar(f64),
    Vector(Vec<Sample>),
    Matrix(Vec<(Labels, Vec<(i64, f64)>)>),
}

type Evaluated<T> = Result<T, String>;

/// The value of an expression at an instant in milliseconds.
pub(super) fn evaluate(expr: &Expr, samples: &Samples, at: i64) -> Evaluated<Value> {
    let vector = |expr: &Expr| vector(expr, samples, at);
    Ok(match expr {
        Expr::Number(value) => Value::Scalar(*value),
        Expr::Select(selector) if selector.range.is_some() => Value::Matrix(matrix(selector, samples, at)),
        Expr::Select(selector) => Value::Vector(instant(selector, samples, at)),
        Expr::Aggregate { op, by, of } => Value::Vector(aggregate(*op, by, &vector(of)?, at)),
        Expr::LabelReplace {
            of,
            to,
            replacement,
            from,
            pattern,
        } => {
            let mut replaced = vector(of)?;
            for sample in &mut replaced {
                let value = sample.labels.get(from).cloned().unwrap_or_default();
                if let Some(found) = pattern.captures(&value) {
                    let mut made = String::new();
                    found.expand(replacement, &mut made);
                    if made.is_empty() {
                        sample.labels.remove(to);
                    } else {
                        sample.labels.insert(to.clone(), made);
                    }
                }
            }
            unique(&replaced)?;
            Value::Vector(replaced)
        }
        Expr::Timestamp(of) => Value::Vector(timestamps(of, samples, at)?),
        Expr::Extrapolated { per_second, of } => Value::Vector(extrapolated(*per_second, of, samples, at)),
        Expr::Binary { op, left, right, matching } => {
            binary(*op, evaluate(left, samples, at)?, evaluate(right, samples, at)?, matching, at)?
        }
    })
}

fn vector(expr: &Expr, samples: &Samples, at: i64) -> Evaluated<Vec<Sample>> {
    match evaluate(expr, samples, at)? {
        Value::Vector(vector) => Ok(vector),
        _ => Err("expected type instant vector".to_owned()),
    }
}

fn instant(selector: &Selector, samples: &Samples, at: i64) -> Vec<Sample> {
    samples
        .select(&selector.matchers)
        .filter_map(|(labels, series)| {
            let (time, value) = series.iter().rev().find(|(time, _)| *time <= at)?;
            let fresh = *time > at - LOOKBACK;
            value.filter(|_| fresh).map(|value| Sample {
                labels: labels.clone(),
                at: *time,
                value,
            })
        })
        .collect()
}

fn matrix(selector: &Selector, samples: &Samples, at: i64) -> Vec<(Labels, Vec<(i64, f64)>)> {
    let from = at - selector.range.unwrap_or_default();
    samples
        .select(&selector.matchers)
        .map(|(labels, series)| {
            let within = series.iter().filter(|(time, _)| *time > from && *time <= at);
            let points: Vec<(i64, f64)> = within.filter_map(|(time, value)| value.map(|value| (*time, value))).collect();
            (labels.clone(), points)
        })
        .filter(|(_, points)| !points.is_empty())
        .collect()
}

/// Of a selector the samples' own times; of anything computed, the instant itself.
fn timestamps(of: &Expr, samples: &Samples, at: i64) -> Evaluated<Vec<Sample>> {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
    let seconds = |millis: i64| millis as f64 / 1000.0;
    let raw = matches!(of, Expr::Select(_));
    let vector = vector(of, samples, at)?;
    Ok(vector
        .into_iter()
        .map(|sample| Sample {
            value: seconds(if raw { sample.at } else { at }),
            labels: nameless(&sample.labels),
            at,
        })
        .collect())
}

fn nameless(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.remove("__name__");
    labels
}

fn aggregate(op: Aggregate, by: &[String], of: &[Sample], at: i64) -> Vec<Sample> {
    let mut groups: BTreeMap<Labels, Vec<f64>> = BTreeMap::new();
    for sample in of {
        let kept = sample.labels.iter().filter(|(label, _)| by.contains(label));
        let group = kept.map(|(label, value)| (label.clone(), value.clone())).collect();
        groups.entry(group).or_default().push(sample.value);
    }
    let reduce = |values: &[f64]| match op {
        Aggregate::Sum => values.iter().sum(),
        Aggregate::Min => values.iter().copied().fold(f64::NAN, f64::min),
        Aggregate::Max => values.iter().copied().fold(f64::NAN, f64::max),
        Aggregate::Count => values.iter().map(|_| 1.0).sum(),
    };
    groups
        .into_iter()
        .map(|(labels, values)| Sample {
            value: reduce(&values),
            labels,
            at,
        })
        .collect()
}

/// `rate` and `increase` with Prometheus' extrapolation to the window's edges, resets added.
fn extrapolated(per_second: Rate, of: &Selector, samples: &Samples, at: i64) -> Vec<Sample> {
    #[expect(clippy::cast_precision_loss, reason = "windows and counts are far below 2^53")]
    let float = |whole: i64| whole as f64;
    let window = float(of.range.unwrap_or_default()) / 1000.0;
    let of_series = |(labels, points): (Labels, Vec<(i64, f64)>)| {
        let (&(first_at, first), &(last_at, last)) = (points.first()?, points.last()?);
        if points.len() < 2 {
            return None;
        }
        let resets: f64 = points
            .windows(2)
            .filter_map(|pair| match pair {
                [(_, before), (_, after)] if after < before => Some(before),
                _ => None,
            })
            .sum();
        let gained = last - first + resets;
        let covered = float(last_at - first_at) / 1000.0;
        let spacing = covered / float(i64::try_from(points.len()).unwrap_or(i64::MAX) - 1);
        let edge = |gap: f64| if gap >= spacing * 1.1 { spacing / 2.0 } else { gap };
        let mut before = edge(float(first_at) / 1000.0 - (float(at) / 1000.0 - window));
        if gained > 0.0 && first >= 0.0 {
            before = before.min(covered * (first / gained));
        }
        let after = edge(float(at - last_at) / 1000.0);
        let all = gained * (covered + before + after) / covered;
        Some(Sample {
            labels: nameless(&labels),
            at,
            value: if per_second == Rate::PerSecond { all / window } else { all },
        })
    };
    matrix(of, samples, at).into_iter().filter_map(of_series).collect()
}

fn binary(op: Op, left: Value, right: Value, matching: &Matching, at: i64) -> Evaluated<Value> {
    let set = matches!(op, Op::Or | Op::And | Op::Unless);
    Ok(match (left, right) {
        (Value::Vector(left), Value::Vector(right)) if set => Value::Vector(set_operation(op, left, right, matching)),
        (Value::Vector(left), Value::Vector(right)) => Value::Vector(pairwise(op, &left, &right, matching, at)?),
        (Value::Vector(left), Value::Scalar(right)) if !set => Value::Vector(mapped(left, at, |left| compute(op, left, right))),
        (Value::Scalar(left), Value::Vector(right)) if !set => Value::Vector(mapped(right, at, |right| compute(op, left, right))),
        (Value::Scalar(left), Value::Scalar(right)) if !set => Value::Scalar(compute(op, left, right)),
        _ => return Err("operator not defined for these types".to_owned()),
    })
}

fn compute(op: Op, left: f64, right: f64) -> f64 {
    match op {
        Op::Add => left + right,
        Op::Sub => left - right,
        Op::Mul => left * right,
        _ => left / right,
    }
}

fn mapped(samples: Vec<Sample>, at: i64, with: impl Fn(f64) -> f64) -> Vec<Sample> {
    samples
        .into_iter()
        .map(|sample| Sample {
            labels: nameless(&sample.labels),
            at,
            value: with(sample.value),
        })
        .collect()
}

/// The labels by which two samples are compared.
fn signature(labels: &Labels, matching: &Matching) -> Labels {
    let kept = |label: &String| match matching {
        Matching::All => label != "__name__",
        Matching::On(on) => on.contains(label),
        Matching::Ignoring(ignored) => label != "__name__" && !ignored.contains(label),
    };
    labels
        .iter()
        .filter(|(label, _)| kept(label))
        .map(|(label, value)| (label.clone(), value.clone()))
        .collect()
}

fn set_operation(op: Op, mut left: Vec<Sample>, right: Vec<Sample>, matching: &Matching) -> Vec<Sample> {
    let signatures =
        |samples: &[Sample]| -> BTreeSet<Labels> { samples.iter().map(|sample| signature(&sample.labels, matching)).collect() };
    match op {
        Op::Or => {
            let known = signatures(&left);
            left.extend(
                right
                    .into_iter()
                    .filter(|sample| !known.contains(&signature(&sample.labels, matching))),
            );
        }
        Op::And => {
            let known = signatures(&right);
            left.retain(|sample| known.contains(&signature(&sample.labels, matching)));
        }
        _ => {
            let known = signatures(&right);
            left.retain(|sample| !known.contains(&signature(&sample.labels, matching)));
        }
    }
    left
}

fn pairwise(op: Op, left: &[Sample], right: &[Sample], matching: &Matching, at: i64) -> Evaluated<Vec<Sample>> {
    let many = || "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)".to_owned();
    let mut others: BTreeMap<Labels, f64> = BTreeMap::new();
    for sample in right {
        if others.insert(signature(&sample.labels, matching), sample.value).is_some() {
            return Err(many());
        }
    }
    let mut made: BTreeMap<Labels, Sample> = BTreeMap::new();
    for sample in left {
        let labels = signature(&sample.labels, matching);
        let Some(other) = others.get(&labels) else { continue };
        let value = compute(op, sample.value, *other);
        let pair = Sample {
            labels: labels.clone(),
            at,
            value,
        };
        if made.insert(labels, pair).is_some() {
            return Err(many());
        }
    }
    Ok(made.into_values().collect())
}

fn unique(samples: &[Sample]) -> Evaluated<()> {
    let distinct: BTreeSet<&Labels> = samples.iter().map(|sample| &sample.labels).collect();
    if distinct.len() == samples.len() {
        Ok(())
    } else {
        Err("vector cannot contain metrics with the same labelset".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::syntax::parse, *};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn world() -> Samples {
        let mut samples = Samples::default();
        for (pod, status, from) in [("a", "200", 100.0), ("a", "500", 10.0), ("b", "200", 50.0)] {
            let series = labels(&[("__name__", "hits"), ("pod", pod), ("status", status)]);
            for (second, step) in [(1, 0.0), (2, 1.0), (3, 2.0)] {
                samples.add(&series, second * 1000, Some(from + step));
            }
        }
        samples.add(&labels(&[("__name__", "born"), ("pod", "a")]), 3000, Some(7.0));
        samples
    }

    fn ask(query: &str, samples: &Samples, at: i64) -> Vec<(String, f64)> {
        let parsed = parse(query).expect("parses");
        let found = vector(&parsed, samples, at).expect("evaluates");
        found
            .into_iter()
            .map(|sample| {
                let labels: Vec<String> = sample.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
                (labels.join(","), sample.value)
            })
            .collect()
    }

    #[test]
    fn sums_are_told_apart_by_their_key() {
        let query = r#"label_replace(sum by (pod) (hits), "flipback", "k1", "", "") or label_replace(sum by (pod) (hits{status=~"5.."}), "flipback", "k2", "", "")"#;
        assert_eq!(
            ask(query, &world(), 3500),
            [
                ("flipback=k1,pod=a".to_owned(), 114.0),
                ("flipback=k1,pod=b".to_owned(), 52.0),
                ("flipback=k2,pod=a".to_owned(), 12.0)
            ]
        );
    }

    #[test]
    fn a_start_time_is_narrowed_to_the_targets_that_matter() {
        assert_eq!(
            ask("born and on (pod) hits", &world(), 3500),
            [("__name__=born,pod=a".to_owned(), 7.0)]
        );
        assert_eq!(ask("hits{pod=\"b\"} unless on (pod) born", &world(), 3500).len(), 1);
    }

    #[test]
    fn timestamp_of_a_selector_is_the_samples_own() {
        assert_eq!(ask("timestamp(born)", &world(), 9000), [("pod=a".to_owned(), 3.0)]);
        assert_eq!(ask("timestamp(sum(born))", &world(), 9000), [(String::new(), 9.0)]);
        assert_eq!(ask("max(timestamp(hits))", &world(), 9000), [(String::new(), 3.0)]);
    }

    #[test]
    fn a_stale_series_is_gone_at_once_and_a_silent_one_after_five_minutes() {
        let mut samples = world();
        assert_eq!(ask("born", &samples, 3000 + LOOKBACK - 1).len(), 1);
        assert!(ask("born", &samples, 3000 + LOOKBACK).is_empty());
        samples.add(&labels(&[("__name__", "born"), ("pod", "a")]), 4000, None);
        assert!(ask("born", &samples, 4000).is_empty());
        assert_eq!(ask("born", &samples, 3999).len(), 1);
    }

    #[test]
    fn a_reset_counts_from_zero() {
        let mut samples = Samples::default();
        let series = labels(&[("__name__", "hits")]);
        for (second, value) in [(0, 100.0), (10, 110.0), (20, 5.0), (30, 15.0)] {
            samples.add(&series, second * 1000, Some(value));
        }
        let found = ask("increase(hits[31s])", &samples, 30_000);
        assert!((found[0].1 - 25.0).abs() < 1.0, "{found:?}");
    }
}
