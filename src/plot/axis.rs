//! Where values lie and which of them are written down: the two axes that the chart library is given.

use std::ops::Range;

use jiff::Timestamp;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::{Plot, Unit, reduce::share};

/// Time between two words on the time axis, in seconds: what people think in.
const TIME_STEPS: [i64; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800,
];

/// Words on the time axis, at most: as many as fit a phone.
const WORDS_MAX: i64 = 6;
/// The same where they are longer, with their seconds.
const LONG_WORDS_MAX: i64 = 4;

/// A peak so many times the limit squeezes everything else into the ground; the root makes both visible.
const ROOT_FROM: f64 = 4.0;

/// The share of a chart's height from which a band can be seen.
const BAND_FROM: f64 = 0.005;

/// The vertical scale.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    unit: Unit,
    /// Whether heights are the root of values.
    pub(super) root: bool,
}

impl Scale {
    /// A scale that shows every line and the limit.
    pub(super) fn of(plot: &Plot) -> Self {
        let columns = || plot.lines.iter().flat_map(|line| line.columns.iter().flatten());
        let peak = columns().map(|column| column.high).fold(0.0, f64::max);
        let low = columns().map(|column| column.low).fold(0.0, f64::min);
        let high = peak.max(plot.limit.unwrap_or(0.0) * 1.25);
        let root = low >= 0.0 && plot.limit.is_some_and(|limit| limit > 0.0 && peak > ROOT_FROM * limit);
        let high = match &plot.unit {
            Unit::Share if high > 0.5 => 1.0,
            _ if high <= low => low + 1.0,
            _ => high * 1.05,
        };
        Self {
            low,
            high,
            unit: plot.unit.clone(),
            root,
        }
    }

    /// The lowest and the highest value that is shown.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Height of a value, 0 at the bottom to 1 at the top.
    pub(super) fn height(&self, value: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        if self.root { share.sqrt() } else { share }
    }

    /// The values that are written down.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.root {
            let round = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0].map(|part| part * self.magnitude());
            let mut ticks = vec![0.0];
            for tick in round.into_iter().filter(|tick| *tick <= self.high * 1.001) {
                let far = ticks.last().is_none_or(|last| self.height(tick) - self.height(*last) >= 0.2);
                if far {
                    ticks.push(tick);
                }
            }
            return ticks;
        }
        let step = nice((self.high - self.low) / 5.0);
        let first = (self.low / step).ceil();
        (0..6)
            .map(|n| (first + f64::from(n)) * step)
            .take_while(|tick| *tick <= self.high)
            .collect()
    }

    fn magnitude(&self) -> f64 {
        10f64.powf(self.high.log10().ceil())
    }
}

/// The next larger of 1, 2, 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let base = 10f64.powf(step.log10().floor());
    let lead = step / base;
    base * if lead <= 1.0 {
        1.0
    } else if lead <= 2.0 {
        2.0
    } else if lead <= 5.0 {
        5.0
    } else {
        10.0
    }
}

/// A value in words.
pub(super) fn value(unit: &Unit, value: f64) -> String {
    match unit {
        Unit::Share => format!("{} %", plain(value * 100.0)),
        Unit::Number(of) if of.is_empty() => plain(value),
        Unit::Number(of) => format!("{} {of}", plain(value)),
    }
}

/// Three digits that count, no more.
fn plain(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

impl Plot {
    /// Whether heights are the roots of values, since a peak would else press everything to the ground.
    #[must_use]
    pub fn is_root(&self) -> bool {
        Scale::of(self).root
    }

    /// Whether a band is drawn, from the lowest to the highest of values that share a column.
    #[must_use]
    pub fn has_band(&self) -> bool {
        let columns = self.lines.iter().flat_map(|line| line.columns.iter().flatten());
        let scale = Scale::of(self);
        // What is thinner than a hair is not seen.
        columns
            .into_iter()
            .any(|column| scale.height(column.high) - scale.height(column.low) > BAND_FROM)
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        between(self.height(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        bold(&hint, || self.ticks())
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self::value(&self.unit, *value)
    }
}

/// The horizontal scale, in UTC like everything that flipback says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    from: Timestamp,
    to: Timestamp,
    /// Seconds between two words.
    step: i64,
}

impl Times {
    /// The scale of a chart.
    pub(super) fn of(plot: &Plot) -> Self {
        let seconds = plot.to.as_second() - plot.from.as_second();
        let step = TIME_STEPS
            .into_iter()
            .find(|step| seconds / step <= if *step < 60 { LONG_WORDS_MAX } else { WORDS_MAX })
            .unwrap_or_else(|| (seconds / WORDS_MAX).max(1));
        Self {
            from: plot.from,
            to: plot.to,
            step,
        }
    }

    /// The instants that are written down.
    fn ticks(&self) -> Vec<Timestamp> {
        let (first, last) = (self.from.as_second(), self.to.as_second());
        let start = first.div_euclid(self.step) * self.step;
        (0..=WORDS_MAX + 2)
            .map(|n| start + n * self.step)
            .filter(|at| *at >= first && *at <= last)
            .filter_map(|at| Timestamp::from_second(at).ok())
            .collect()
    }
}

impl Ranged for Times {
    type FormatOption = NoDefaultFormatting;
    type ValueType = Timestamp;

    fn map(&self, value: &Timestamp, limit: (i32, i32)) -> i32 {
        let value = (*value).clamp(self.from, self.to.max(self.from));
        between(share(value, self.from, self.to).unwrap_or(0.0), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<Timestamp> {
        bold(&hint, || self.ticks())
    }

    fn range(&self) -> Range<Timestamp> {
        self.from..self.to
    }
}

impl ValueFormatter<Timestamp> for Times {
    fn format_ext(&self, at: &Timestamp) -> String {
        let midnight = at.as_second() % 86_400 == 0;
        let format = match self.step {
            86_400.. => "%b %-d",
            ..60 => "%H:%M:%S",
            _ if midnight => "%b %-d",
            _ => "%H:%M",
        };
        at.strftime(format).to_string()
    }
}

/// A share of the way between two ends.
fn between(share: f64, (start, end): (i32, i32)) -> i32 {
    let at = f64::from(start) + share * (f64::from(end) - f64::from(start));
    // Between two numbers of that type: the share is within 0 and 1.
    at.round() as i32
}

/// There are no lighter lines between those that have a word.
fn bold<T>(hint: &impl KeyPointHint, points: impl FnOnce() -> Vec<T>) -> Vec<T> {
    if hint.weight().allow_light_points() { Vec::new() } else { points() }
}
