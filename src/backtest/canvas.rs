//! The past as lines: the share of bad requests of every color, whoever had the traffic.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::tally::{Near, Tally, What};
use crate::{
    model::{Color, Counter, GuardSpec, Past, RuleKind, RuleName, Survey, Track},
    plot::{Line, Mark, MarkKind, Plot, Size, Span, reduce},
};

/// Columns of a chart.
const COLUMNS: usize = 280;

/// Bins that requests are summed up in: a minute of a week.
const BINS: f64 = 10_080.0;

/// A bin with fewer requests says too little; it is joined with the next.
const REQUESTS_MIN: f64 = 30.0;

/// Bins that are joined at most.
const JOINED_MAX: usize = 10;

/// Height of a chart in pixels.
const HEIGHT: u32 = 168;

/// Events of one guard that are shown from near.
const NEAR_MAX: usize = 6;

/// Time before and after an event that is shown from near.
const AROUND: Duration = Duration::from_secs(20 * 60);

/// An event that is shown from near is not followed for longer.
const FOLLOWED: Duration = Duration::from_secs(40 * 60);

/// The lines of one guard.
#[derive(Debug)]
pub(super) struct Canvas {
    from: Timestamp,
    until: Timestamp,
    bin: Duration,
    shares: BTreeMap<(Color, RuleName), Bins>,
    numbers: BTreeMap<(Color, RuleName), Vec<(Timestamp, f64)>>,
}

/// Bad and all requests per bin, and the last counters of each target.
#[derive(Debug, Default)]
struct Bins {
    sums: Vec<(f32, f32)>,
    last: BTreeMap<String, (Timestamp, Counter)>,
}

/// One chart with whose it is.
#[derive(Clone, Debug)]
pub struct RulePlot {
    /// Which rule.
    pub rule: RuleName,
    /// Set where it shows one event from near.
    pub around: Option<Timestamp>,
    /// The chart.
    pub plot: Plot,
}

impl Canvas {
    pub(super) fn new(surveys: &[Survey], from: Timestamp, until: Timestamp) -> Self {
        let span = until.duration_since(from).as_secs_f64();
        let spacing = surveys.iter().filter_map(|survey| survey.spacing).max().unwrap_or_default();
        Self {
            from,
            until,
            bin: Duration::from_secs_f64((span / BINS).max(1.0)).max(spacing),
            shares: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Draws a stretch.
    pub(super) fn take(&mut self, past: &Past) {
        for (color, tracks) in &past.tracks {
            for (rule, track) in tracks {
                let key = || (color.clone(), rule.clone());
                match track {
                    Track::Counters(targets) => {
                        let bins = self.shares.entry(key()).or_default();
                        for (target, samples) in targets {
                            bins.take(target, samples, self.from, self.bin);
                        }
                    }
                    Track::Scalars(samples) => {
                        let known = self.numbers.entry(key()).or_default();
                        let points: Vec<_> = samples.iter().map(|sample| (sample.at, sample.value)).collect();
                        thin(known, &points, self.bin);
                    }
                    Track::Absent(_) => {}
                }
            }
        }
    }

    /// The charts: each rule over the whole time, and before them each event from near, where the whole is much longer.
    pub(super) fn plots(&self, spec: &GuardSpec, tally: &Tally, switches: &[super::Switch]) -> Vec<RulePlot> {
        let whole = self.until.duration_since(self.from).unsigned_abs();
        let mut plots = Vec::new();
        if whole > (AROUND * 2 + FOLLOWED) * 2 {
            let events = tally.events.iter().take(NEAR_MAX);
            plots.extend(events.filter_map(|event| {
                let rule = spec.rules.iter().position(|rule| rule.name == event.rule)?;
                let from = event.at.saturating_sub(AROUND).unwrap_or(event.at).max(self.from);
                let end = event.until.min(event.at.saturating_add(FOLLOWED).unwrap_or(event.until));
                let until = end.saturating_add(AROUND).unwrap_or(end).min(self.until);
                let plot = self.plot(spec, tally, switches, rule, (from, until))?;
                Some(RulePlot {
                    rule: event.rule.clone(),
                    around: Some(event.at),
                    plot,
                })
            }));
        }
        plots.extend((0..spec.rules.len()).filter_map(|rule| {
            Some(RulePlot {
                rule: spec.rules.get(rule)?.name.clone(),
                around: None,
                plot: self.plot(spec, tally, switches, rule, (self.from, self.until))?,
            })
        }));
        plots
    }

    /// One rule between two instants; `None` of a rule that has no line.
    fn plot(
        &self,
        spec: &GuardSpec,
        tally: &Tally,
        switches: &[super::Switch],
        rule: usize,
        (from, to): (Timestamp, Timestamp),
    ) -> Option<Plot> {
        let (rule, counts) = (spec.rules.get(rule)?, tally.rules.get(rule)?);
        if matches!(rule.kind, RuleKind::Endpoints(_) | RuleKind::Probe(_)) {
            return None;
        }
        let mut marks: Vec<Mark> = switches.iter().map(switched).collect();
        marks.extend(breaches(&counts.breach_at, from, to));
        let near = tally
            .near
            .iter()
            .filter(|near| near.rule == rule.name && near.kind != Near::Degraded);
        marks.extend(near.map(|near| mark(near.at, MarkKind::Near, format!("nearly: {}", near.why))));
        let events = tally.events.iter().filter(|event| event.rule == rule.name);
        marks.extend(events.map(|event| match event.what {
            What::Rollback => mark(event.at, MarkKind::Decision, format!("would have rolled back: {}", event.why)),
            What::Suppressed | What::Blocked | What::Alert => mark(event.at, MarkKind::Held, event.why.clone()),
        }));
        let spans = tally.blind.iter().map(|blind| Span {
            from: blind.from,
            to: blind.to,
            class: "blind".to_owned(),
            text: format!("blind: {}", blind.why),
        });
        Some(Plot {
            title: format!("{} of {} over time", rule.name, spec.id),
            from,
            to,
            size: Size::Fluid { height: HEIGHT },
            unit: super::advice::unit(&rule.kind, &spec.policy),
            lines: self.lines(spec, &rule.name, from, to),
            limit: super::advice::limit(&rule.kind, &spec.policy),
            marks,
            spans: spans.filter(|span| span.to >= from && span.from <= to).collect(),
        })
    }

    fn lines(&self, spec: &GuardSpec, rule: &RuleName, from: Timestamp, to: Timestamp) -> Vec<Line> {
        let classes = ["a", "b", "c", "d"].into_iter().cycle();
        let lines = spec.colors.keys().zip(classes).map(|(color, class)| {
            let key = (color.clone(), rule.clone());
            let points = match (self.shares.get(&key), self.numbers.get(&key)) {
                (Some(bins), _) => bins.points(self.from, self.bin),
                (None, Some(points)) => points.clone(),
                (None, None) => Vec::new(),
            };
            // Fewer columns than bins: a column without a bin would be a gap that is none.
            let bins = to.duration_since(from).as_secs_f64() / self.bin.as_secs_f64();
            let count = COLUMNS.min(bins as usize).max(8);
            Line {
                name: color.to_string(),
                class: class_of(color, class).to_owned(),
                columns: reduce(points, from, to, count),
            }
        });
        lines.collect()
    }
}

/// One tick per column at most.
fn breaches(times: &[Timestamp], from: Timestamp, to: Timestamp) -> Vec<Mark> {
    let width = to.duration_since(from).as_secs_f64() / COLUMNS as f64;
    let mut marks: Vec<Mark> = Vec::new();
    for at in times.iter().filter(|at| **at >= from && **at <= to) {
        let far = marks.last().is_none_or(|last| at.duration_since(last.at).as_secs_f64() >= width);
        if far {
            marks.push(mark(*at, MarkKind::Breach, String::new()));
        }
    }
    marks
}

/// Blue is blue and green is green; others take what comes.
fn class_of<'c>(color: &Color, other: &'c str) -> &'c str {
    match color.as_str() {
        "blue" => "a",
        "green" => "b",
        _ => other,
    }
}

fn mark(at: Timestamp, kind: MarkKind, text: String) -> Mark {
    Mark { at, kind, text }
}

fn switched(switch: &super::Switch) -> Mark {
    let release = switch
        .release
        .as_ref()
        .map(|release| format!(" (release {release})"))
        .unwrap_or_default();
    mark(
        switch.at,
        MarkKind::Switch,
        format!("switched to {}{release} at {:.0}", switch.to, switch.at),
    )
}

/// Keeps the lowest and highest of a bin.
fn thin(known: &mut Vec<(Timestamp, f64)>, points: &[(Timestamp, f64)], bin: Duration) {
    let mut begun: Option<Timestamp> = None;
    for (at, value) in points.iter().filter(|(_, value)| value.is_finite()) {
        let same = begun.is_some_and(|begun| at.duration_since(begun).unsigned_abs() < bin);
        match known.len().checked_sub(2).filter(|_| same) {
            Some(two) => {
                known[two].1 = known[two].1.min(*value);
                known[two + 1].1 = known[two + 1].1.max(*value);
            }
            None => {
                begun = Some(*at);
                known.extend([(*at, *value), (*at, *value)]);
            }
        }
    }
}

impl Bins {
    fn take(&mut self, target: &str, samples: &[(Timestamp, Counter)], from: Timestamp, bin: Duration) {
        let mut last = self.last.get(target).copied();
        for (at, counter) in samples {
            let Some((then, known)) = last.replace((*at, *counter)) else {
                continue;
            };
            if *at <= then {
                continue;
            }
            let grown = |now: f64, then: f64| if now < then { now } else { now - then };
            let total = grown(counter.total, known.total);
            let bad = grown(counter.bad.unwrap_or(0.0), known.bad.unwrap_or(0.0));
            let index = (at.duration_since(from).as_secs_f64().max(0.0) / bin.as_secs_f64()) as usize;
            if self.sums.len() <= index {
                self.sums.resize(index + 1, (0.0, 0.0));
            }
            let sum = &mut self.sums[index];
            *sum = (sum.0 + bad as f32, sum.1 + total as f32);
        }
        if let Some(last) = last {
            self.last.insert(target.to_owned(), last);
        }
    }

    fn points(&self, from: Timestamp, bin: Duration) -> Vec<(Timestamp, f64)> {
        let mut points = Vec::new();
        let (mut bad, mut total, mut joined) = (0.0, 0.0, 0);
        for (index, (more_bad, more)) in self.sums.iter().enumerate() {
            bad += f64::from(*more_bad);
            total += f64::from(*more);
            joined += 1;
            if total >= REQUESTS_MIN || (joined >= JOINED_MAX && total > 0.0) {
                let share = (bad / total).min(1.0);
                // Bins that were joined are one stretch, not one point and a gap.
                points.extend((index + 1 - joined..=index).map(|bin_index| {
                    let at = from.saturating_add(bin.mul_f64(bin_index as f64 + 0.5)).unwrap_or(from);
                    (at, share)
                }));
                (bad, total, joined) = (0.0, 0.0, 0);
            } else if joined >= JOINED_MAX {
                joined = 0;
            }
        }
        points
    }
}
