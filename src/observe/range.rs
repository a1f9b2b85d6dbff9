//! Metrics over time, for evidence: what a person wants to see beside a decision. Nothing is judged by them.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    answer::{number, time},
    envelope::Answer,
    plan::{Read, Role, What},
    prometheus::{Server, Session, Span},
    scalar::{Scalar, seconds},
    source::Source,
};
use crate::model::Series;

/// Points of one series: more than any chart shows, far below the server's limit of 11,000.
const POINTS_MAX: u64 = 1000;

/// All queries of one guard together.
const DEADLINE: Duration = Duration::from_secs(30);

/// Queries under way at once.
const CONCURRENCY: usize = 4;

/// Scrape spacing assumed when no look has shown it yet: between the 5 s we advise and the 30 s that are common.
const SPACING_ASSUMED: Duration = Duration::from_secs(15);

/// One query over time.
struct Ask {
    read: Arc<Read>,
    name: String,
    query: String,
}

/// Reads every series of `reads`; the error is a sentence, given only when nothing at all was answered.
pub(super) async fn series(
    source: &Source,
    reads: &[Arc<Read>],
    from: Timestamp,
    to: Timestamp,
    step: Duration,
) -> Result<Vec<Series>, String> {
    let deadline = Instant::now() + DEADLINE;
    let span = span(from, to, step);
    let server = &source.server;
    let session = tokio::time::timeout_at(deadline, server.session()).await;
    let session = session
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|failure| failure.absence().to_string())?;
    // The futures are made in a loop: a closure over references keeps the whole from being `Send`.
    let mut running = Vec::new();
    for read in reads {
        let spacing = source.spacing(read).unwrap_or(SPACING_ASSUMED);
        let read = &source.as_typed(read);
        for ask in asks(read, spacing, step) {
            running.push(one(server, &session, ask, span, deadline));
        }
    }
    let answers: Vec<(Ask, Result<Answer, String>)> = stream::iter(running).buffered(CONCURRENCY).collect().await;
    let mut series = Vec::new();
    let (mut failure, mut answered) = (None, false);
    for (ask, answer) in answers {
        match answer {
            Ok(answer) => {
                answered = true;
                series.push(Series {
                    rule: ask.read.at.rule.clone(),
                    color: ask.read.at.color.clone(),
                    name: ask.name,
                    query: ask.query,
                    points: points(&answer),
                });
            }
            Err(why) => {
                tracing::warn!(guard = %ask.read.at.guard, rule = %ask.read.at.rule, error = why, "Metric range not read");
                failure = Some(why);
            }
        }
    }
    match failure {
        Some(why) if !answered => Err(why),
        _ => Ok(shares(series)),
    }
}

async fn one(server: &Server, session: &Session, ask: Ask, span: Span, deadline: Instant) -> (Ask, Result<Answer, String>) {
    let answer = server.ask(session, &ask.query, span, deadline).await;
    (ask, answer.map_err(|failure| failure.absence().to_string()))
}

/// Whole seconds, and no more points than are wanted.
fn span(from: Timestamp, to: Timestamp, step: Duration) -> Span {
    let (first, last) = (from.as_second(), to.as_second().max(from.as_second()));
    let least = last.abs_diff(first).div_ceil(POINTS_MAX).max(1);
    Span::Range(first, last, step.max(Duration::from_secs(least)).as_secs_f64())
}

/// The queries of one read. Rates need four samples in their window to survive a missed scrape, and must not skip what lies between points.
fn asks(read: &Arc<Read>, spacing: Duration, step: Duration) -> Vec<Ask> {
    let window = (spacing * 4).max(step).as_secs_f64().ceil();
    let ask = |name: &str, query: String| Ask {
        read: read.clone(),
        name: name.to_owned(),
        query,
    };
    match &read.what {
        What::Counters { total, bad } => vec![
            ask("total", format!("sum(rate({total}[{window}s]))")),
            ask("bad", format!("sum(rate({bad}[{window}s]))")),
        ],
        What::Latency {
            buckets,
            total,
            fast,
            quantile,
            bound,
        } => {
            let seconds = seconds(bound.unit);
            vec![
                ask("total", format!("sum(rate({total}[{window}s]))")),
                ask("bad", format!("sum(rate({total}[{window}s])) - sum(rate({fast}[{window}s]))")),
                ask(
                    &percentile(*quantile),
                    format!("histogram_quantile({quantile}, sum by (le) (rate({buckets}[{window}s]))){seconds}"),
                ),
            ]
        }
        What::Native(native) => {
            let rate = format!("sum(rate({}[{window}s]))", native.histogram);
            let slow = format!(
                "histogram_count({rate}) * (1 - histogram_fraction(-Inf, {}, {rate}))",
                native.bound.text
            );
            let quantile = format!("histogram_quantile({}, {rate}){}", native.quantile, seconds(native.bound.unit));
            vec![
                ask("total", format!("histogram_count({rate})")),
                ask("bad", slow),
                ask(&percentile(native.quantile), quantile),
            ]
        }
        // What was judged, over time: the windows are part of the expressions.
        What::Scalar(scalar) => read
            .expressions
            .iter()
            .map(|(role, expression)| ask(&named(scalar, *role), expression.clone()))
            .collect(),
    }
}

/// What a number is called over time.
fn named(scalar: &Scalar, role: Role) -> String {
    match (role, scalar) {
        (Role::Long, _) => "long".to_owned(),
        (Role::Requests, _) => "requests".to_owned(),
        (_, Scalar::Expression { .. }) => "value".to_owned(),
        (_, Scalar::Share { .. }) => "share".to_owned(),
        (_, Scalar::Quantile { quantile, .. }) => percentile(*quantile),
    }
}

/// `p95` for 0.95, `p99.9` for 0.999.
fn percentile(quantile: f64) -> String {
    format!("p{}", (quantile * 1e6).round() / 1e4)
}

fn points(answer: &Answer) -> Vec<(Timestamp, f64)> {
    let values = answer.samples.iter().flat_map(|sample| &sample.values);
    values
        .filter_map(|(at, text)| Some((time(*at)?, number(text))))
        .filter(|(_, value)| value.is_finite())
        .collect()
}

/// Adds the share of bad requests after each pair of total and bad. Where there were requests and no bad ones are known, it is 0.
fn shares(series: Vec<Series>) -> Vec<Series> {
    let mut all = Vec::with_capacity(series.len() * 2);
    let mut total: Option<Series> = None;
    for one in series {
        let share = match (one.name.as_str(), total.take()) {
            ("bad", Some(total)) if total.rule == one.rule && total.color == one.color => Some(share(&total, &one)),
            _ => None,
        };
        if one.name == "total" {
            total = Some(one.clone());
        }
        all.push(one);
        all.extend(share);
    }
    all
}

fn share(total: &Series, bad: &Series) -> Series {
    let bad_at: std::collections::HashMap<Timestamp, f64> = bad.points.iter().copied().collect();
    let points = total.points.iter().filter(|(_, total)| *total > 0.0).map(|(at, total)| {
        let bad = bad_at.get(at).copied().unwrap_or(0.0);
        (*at, bad / total)
    });
    Series {
        rule: bad.rule.clone(),
        color: bad.color.clone(),
        name: "share".to_owned(),
        query: format!("({}) / ({})", bad.query, total.query),
        points: points.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::plan::{Plan, tests::guard};

    #[test]
    fn a_guards_ranges_are_total_bad_and_quantile_per_color() {
        let plan = Plan::new([&guard("web")]);
        let asks: Vec<String> = plan
            .reads
            .iter()
            .filter(|read| read.at.color.as_str() == "blue")
            .flat_map(|read| asks(read, Duration::from_secs(5), Duration::from_secs(10)))
            .map(|ask| format!("{} {}: {}", ask.read.at.rule, ask.name, ask.query))
            .collect();
        insta::assert_snapshot!(asks.join("\n"));
    }

    #[test]
    fn a_long_range_gets_a_longer_step_instead_of_more_points() {
        let from = Timestamp::from_second(1_000_000).expect("a time");
        let to = Timestamp::from_second(1_000_000 + 86_400).expect("a time");
        let Span::Range(1_000_000, 1_086_400, step) = span(from, to, Duration::from_secs(5)) else {
            panic!("not the range asked for");
        };
        assert!((86_400.0 / step) <= 1000.0, "{step}");
    }

    #[test]
    fn a_quantile_is_called_as_people_do() {
        assert_eq!([percentile(0.95), percentile(0.99), percentile(0.999)], ["p95", "p99", "p99.9"]);
    }
}
