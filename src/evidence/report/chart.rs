//! The plots: each rule, both colors, its limit, its breaches, the switch and the flip. Pure.
//!
//! Lines come from the metrics that were read for the bundle; where those are missing, and for rules that no Prometheus
//! measures, from what flipback itself saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use super::{bar::Bar, course::Course, trace::Trace, words};
use crate::{
    model::{Color, Incident, IncidentOutcome, Series, Trigger},
    plot::{Line, Mark, MarkKind, Plot, Size, Unit, reduce},
};

/// Columns of a chart, at most.
const COLUMNS: usize = 280;
/// The same, at least.
const COLUMNS_MIN: usize = 8;
/// Height of a chart in a page.
const HEIGHT: u32 = 190;
/// What is shown before the decision, at most.
const BEFORE: SignedDuration = SignedDuration::from_mins(35);
/// What is shown after it, at most.
const AFTER: SignedDuration = SignedDuration::from_mins(15);
/// What is shown around the episode in a chart from near.
const NEAR: SignedDuration = SignedDuration::from_secs(90);
/// A whole so many times the episode deserves a chart from near besides.
const NEAR_FROM: i32 = 5;
/// Charts in one report.
const CHARTS_MAX: usize = 40;

/// One plot and what to say about it.
#[derive(Debug)]
pub(super) struct Chart {
    /// The rule's name.
    pub(super) rule: String,
    /// What is drawn.
    pub(super) caption: String,
    /// Whether the rule decided.
    pub(super) deciding: bool,
    /// The chart.
    pub(super) plot: Plot,
}

type Lines = BTreeMap<Color, Vec<(Timestamp, f64)>>;

/// The charts: the rule that decided first, then the others in the order of the configuration.
pub(super) fn charts(incident: &Incident, bars: &[Bar], trace: &Trace, series: &[Series], course: &Course) -> Vec<Chart> {
    let by = match &incident.case.trigger {
        Trigger::Rule { rule, .. } => Some(rule),
        Trigger::Manual { .. } | Trigger::Reassert { .. } => None,
    };
    let mut ordered: Vec<&Bar> = bars.iter().collect();
    ordered.sort_by_key(|bar| Some(&bar.rule) != by);
    let mut charts = Vec::new();
    for bar in ordered {
        let deciding = Some(&bar.rule) == by;
        charts.extend(of_rule(incident, bar, trace, series, course, deciding));
        if charts.len() >= CHARTS_MAX {
            break;
        }
    }
    charts
}

fn of_rule(incident: &Incident, bar: &Bar, trace: &Trace, series: &[Series], course: &Course, deciding: bool) -> Vec<Chart> {
    let judged = lines_of(series, bar, |name| bar.judges(name));
    let (lines, caption) = if judged.is_empty() {
        (seen(trace, bar), format!("{}, as flipback saw it", drawn(bar)))
    } else {
        (judged, format!("{}{}", drawn(bar), rates(series, bar)))
    };
    let Some((from, to)) = range(&lines, incident, course) else {
        return Vec::new();
    };
    let chart = |caption: String, plot: Plot| Chart {
        rule: bar.rule.to_string(),
        caption,
        deciding,
        plot,
    };
    let mut charts = Vec::new();
    if deciding && let Some((near_from, near_to)) = near(incident, course, from, to) {
        let title = title(bar, incident);
        let plot = plot(title, bar, &lines, (near_from, near_to), bar.limit(), incident, course);
        charts.push(chart(format!("{caption}; from near, around the episode"), plot));
    }
    let whole = plot(title(bar, incident), bar, &lines, (from, to), bar.limit(), incident, course);
    charts.push(chart(caption, whole));
    // People think in the quantile, though the share is judged.
    if let (Unit::Share, Some((name, seconds))) = (&bar.unit, &bar.quantile) {
        let quantile = lines_of(series, bar, |series| series == name);
        if !quantile.is_empty() {
            let mut shown = bar.clone();
            shown.unit = Unit::Number("s".to_owned());
            let title = format!("{name} of {} in seconds", incident.case.guard);
            let plot = plot(title, &shown, &quantile, (from, to), Some(*seconds), incident, course);
            charts.push(chart(
                format!("{name} in seconds, from the histogram's buckets; not what is judged"),
                plot,
            ));
        }
    }
    charts
}

fn title(bar: &Bar, incident: &Incident) -> String {
    let case = &incident.case;
    let day = case.at.strftime("%Y-%m-%d");
    format!("{}: {} of {} and {}, {day} (UTC)", case.guard, bar.rule, case.from, case.to)
}

fn drawn(bar: &Bar) -> String {
    match bar.kind.as_str() {
        "error_rate" | "availability" => "share of requests that failed".to_owned(),
        "latency" => match (&bar.unit, &bar.quantile) {
            (Unit::Number(_), Some((name, _))) => format!("{name} in seconds"),
            (_, Some((_, seconds))) => format!(
                "share of requests slower than {}",
                words::span(SignedDuration::from_secs_f64(*seconds))
            ),
            (_, None) => "share of requests that were too slow".to_owned(),
        },
        "probe" => "share of endpoints whose probe failed".to_owned(),
        "endpoints" => "Ready endpoints".to_owned(),
        _ => "the number that is compared".to_owned(),
    }
}

fn lines_of(series: &[Series], bar: &Bar, wanted: impl Fn(&str) -> bool) -> Lines {
    let these = series
        .iter()
        .filter(|one| one.rule == bar.rule && wanted(&one.name) && !one.points.is_empty());
    these.map(|one| (one.color.clone(), one.points.clone())).collect()
}

/// Over which time the rates of a line are, which is by how much it lags.
fn rates(series: &[Series], bar: &Bar) -> String {
    static WINDOW: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[(\d{1,6})s\]").expect("a constant pattern"));
    let of_bar = series.iter().find(|one| one.rule == bar.rule && bar.judges(&one.name));
    let window = of_bar
        .and_then(|one| WINDOW.captures(&one.query))
        .and_then(|found| found.get(1)?.as_str().parse().ok())
        .map(|seconds| words::span(SignedDuration::from_secs(seconds)));
    window.map(|window| format!(" (rates over {window})")).unwrap_or_default()
}

fn seen(trace: &Trace, bar: &Bar) -> Lines {
    let mut lines = Lines::new();
    for look in &trace.looks {
        for ((color, rule), measured) in &look.measured {
            if *rule == bar.rule
                && let Some(point) = measured.point()
            {
                lines.entry(color.clone()).or_default().push(point);
            }
        }
    }
    lines
}

/// From the first to the last value, with every moment that was marked, within reason.
fn range(lines: &Lines, incident: &Incident, course: &Course) -> Option<(Timestamp, Timestamp)> {
    let decided = incident.case.at;
    let times = || lines.values().flatten().map(|(at, _)| *at);
    let (first, last) = (times().min()?, times().max()?);
    let from = first.min(decided).max(decided.checked_sub(BEFORE).ok()?);
    let end = course.moved.unwrap_or(decided).max(decided);
    // A flag at the very edge would hang over it.
    let rim = end.checked_add(end.duration_since(from) / 30).ok()?;
    let to = last.max(rim).min(decided.checked_add(AFTER).ok()?);
    (from < to).then_some((from, to))
}

/// The episode with a little around it, if the whole is much longer.
fn near(incident: &Incident, course: &Course, from: Timestamp, to: Timestamp) -> Option<(Timestamp, Timestamp)> {
    let first = course.first_bad.as_ref()?.at;
    let end = course.moved.unwrap_or(incident.case.at).max(incident.case.at);
    let near_from = first.checked_sub(NEAR).ok()?.max(from);
    let near_to = end.checked_add(NEAR).ok()?.min(to);
    let span = near_to.duration_since(near_from);
    (near_from < near_to && to.duration_since(from) > span * NEAR_FROM).then_some((near_from, near_to))
}

fn plot(
    title: String,
    bar: &Bar,
    lines: &Lines,
    (from, to): (Timestamp, Timestamp),
    limit: Option<f64>,
    incident: &Incident,
    course: &Course,
) -> Plot {
    let spacing = lines.values().filter_map(|points| spacing(points)).max();
    let columns = spacing.map_or(COLUMNS, |spacing| {
        let whole = to.duration_since(from).as_secs_f64();
        ((whole / spacing.as_secs_f64().max(0.001)) as usize).clamp(COLUMNS_MIN, COLUMNS)
    });
    // The color that is left is drawn in front.
    let rank = |color: &&Color| (**color != incident.case.from, **color != incident.case.to);
    let mut colors: Vec<&Color> = lines.keys().collect();
    colors.sort_by_key(rank);
    let mut others = ["c", "d"].into_iter().cycle();
    let line = |color: &Color| Line {
        name: color.to_string(),
        class: match color.as_str() {
            "blue" => "a",
            "green" => "b",
            _ => others.next().unwrap_or("c"),
        }
        .to_owned(),
        columns: reduce(lines.get(color).into_iter().flatten().copied(), from, to, columns),
    };
    Plot {
        title,
        from,
        to,
        size: Size::Fluid { height: HEIGHT },
        unit: bar.unit.clone(),
        lines: colors.into_iter().map(line).collect(),
        limit,
        marks: marks(bar, incident, course),
        spans: Vec::new(),
    }
}

/// The usual time between two points.
fn spacing(points: &[(Timestamp, f64)]) -> Option<SignedDuration> {
    let mut gaps: Vec<SignedDuration> = points.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0)).collect();
    gaps.sort();
    // Sparse enough that no usual gap becomes an empty column.
    gaps.get(gaps.len() * 9 / 10).or(gaps.last()).copied()
}

fn marks(bar: &Bar, incident: &Incident, course: &Course) -> Vec<Mark> {
    let case = &incident.case;
    let mark = |at: Timestamp, kind: MarkKind, text: String| Mark { at, kind, text };
    let mut marks = Vec::new();
    if let Some(at) = incident.switched_at {
        marks.push(mark(at, MarkKind::Switch, format!("switched to {}", case.from)));
    }
    let breaches = course.breaches.get(&bar.rule).into_iter().flatten();
    let times: BTreeSet<Timestamp> = breaches.map(|breach| breach.at).collect();
    marks.extend(
        times
            .into_iter()
            .map(|at| mark(at, MarkKind::Breach, format!("{} {}", bar.rule, bar.past()))),
    );
    marks.push(match (&incident.outcome, course.moved) {
        (IncidentOutcome::RolledBack { .. }, Some(at)) => mark(at, MarkKind::Decision, format!("flipped to {}", case.to)),
        _ => mark(case.at, MarkKind::Held, "decided, traffic was not moved".to_owned()),
    });
    marks
}
