//! Where values lie and which of them are written down.

use jiff::Timestamp;

use super::{Plot, Unit, reduce::share};

/// Time between two words on the time axis, in seconds: what people think in.
const TIME_STEPS: [i64; 14] = [
    60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800,
];

/// Words on the time axis, at most: as many as fit a phone.
const WORDS_MAX: i64 = 6;

/// A peak so many times the limit squeezes everything else into the ground; the root makes both visible.
const ROOT_FROM: f64 = 4.0;

/// The vertical scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
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
        let high = match plot.unit {
            Unit::Share if high > 0.5 => 1.0,
            _ if high <= low => low + 1.0,
            _ => high * 1.05,
        };
        Self { low, high, root }
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
        let step = nice((self.high - self.low) / 3.0);
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

/// Words of the time axis with their place, 0 to 1. In UTC, like everything that flipback says.
pub(super) fn times(from: Timestamp, to: Timestamp) -> Vec<(f64, String)> {
    let (first, last) = (from.as_second(), to.as_second());
    let step = TIME_STEPS
        .into_iter()
        .find(|step| (last - first) / step <= WORDS_MAX)
        .unwrap_or_else(|| ((last - first) / WORDS_MAX).max(1));
    let start = first.div_euclid(step) * step;
    let instants = (0..=WORDS_MAX + 2)
        .map(|n| start + n * step)
        .filter(|at| *at >= first && *at <= last);
    instants
        .filter_map(|at| {
            let at = Timestamp::from_second(at).ok()?;
            let format = if step >= 86_400 || at.as_second() % 86_400 == 0 {
                "%b %-d"
            } else {
                "%H:%M"
            };
            Some((share(at, from, to)?, at.strftime(format).to_string()))
        })
        .collect()
}
