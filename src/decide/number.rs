//! Rules that compare one number instead of counting requests: the number, what it is compared with, and the numbers
//! of the last minutes. There is no bound and no pooling here: of a number nobody knows how many requests it speaks for.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{clock::before, tape::Tape};

/// Slack for sums of fractions: a number equal to its limit is within it.
const EQUAL: f64 = 1e-9;
/// Numbers remembered: five minutes at more than one look per second.
const NUMBERS_MAX: usize = 512;

/// What one look gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Number {
    #[serde(with = "super::exact")]
    pub(super) value: f64,
    /// The same over the long window.
    #[serde(with = "super::exact::option")]
    pub(super) long: Option<f64>,
    /// What the source says of the color that was active before the switch.
    #[serde(with = "super::exact::option")]
    pub(super) before: Option<f64>,
    /// Requests behind it, where that is asked about.
    #[serde(with = "super::exact::option")]
    pub(super) requests: Option<f64>,
}

/// What a number is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Bar {
    /// It breaches over this.
    Max(#[serde(with = "super::exact")] f64),
    /// It breaches under this.
    Min(#[serde(with = "super::exact")] f64),
    /// It breaches over so many times the standby color's number of the same look.
    ToStandby(#[serde(with = "super::exact")] f64),
    /// It breaches over so many times the number before the switch.
    ToBefore(#[serde(with = "super::exact")] f64),
}

/// A bar, and the number it comes to at this look.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) bar: Bar,
    #[serde(with = "super::exact")]
    pub(super) at: f64,
    /// What a ratio is taken to.
    #[serde(with = "super::exact::option")]
    pub(super) against: Option<f64>,
}

impl Limit {
    /// Whether being under it is the breach.
    pub(super) fn below(self) -> bool {
        matches!(self.bar, Bar::Min(_))
    }

    /// Whether a number is beyond it.
    pub(super) fn crossed(self, value: f64) -> bool {
        self.excess(value) > EQUAL * self.at.abs()
    }

    /// How far a number is beyond it (negative: within it), in the number's unit.
    fn excess(self, value: f64) -> f64 {
        if self.below() { self.at - value } else { value - self.at }
    }

    /// The same as a part of the limit, to tell which of several limits is the nearest.
    fn part(self, value: f64) -> f64 {
        self.excess(value) / self.at.abs().max(f64::MIN_POSITIVE)
    }

    /// From where a number counts as near, if there is such a place: a ratio has none, for two healthy colors are as
    /// near to each other as can be; neither has a limit of 0.
    pub(super) fn near(self, degradation: f64) -> Option<Self> {
        let usable = degradation > 0.0 && degradation < 1.0 && self.at.abs() > 0.0;
        let at = match self.bar {
            Bar::Max(max) if max > 0.0 => max * degradation,
            Bar::Max(max) => max / degradation,
            Bar::Min(min) if min > 0.0 => min / degradation,
            Bar::Min(min) => min * degradation,
            Bar::ToStandby(_) | Bar::ToBefore(_) => return None,
        };
        (usable && at.is_finite()).then_some(Self { at, ..self })
    }

    /// Whether a number is at it or beyond.
    pub(super) fn reached(self, value: f64) -> bool {
        self.excess(value) >= -EQUAL * self.at.abs()
    }

    /// The same limit, drawn back by a part of it.
    pub(super) fn eased(self, part: f64) -> Self {
        let by = self.at.abs() * part;
        let at = if self.below() { self.at + by } else { self.at - by };
        Self { at, ..self }
    }
}

/// What a number may be compared with at this look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Others {
    pub(super) standby: Option<Number>,
    pub(super) before: Option<f64>,
}

/// What came of comparing a number with every bar.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// The limits it is beyond, the one it is farthest beyond first.
    pub(super) crossed: Vec<Limit>,
    /// Of the others, the one it is nearest to.
    pub(super) nearest: Option<Limit>,
    /// Why one of them could not be compared with.
    pub(super) unknown: Option<String>,
}

/// Compares; `both` asks that the number over the long window be beyond a limit as well.
pub(super) fn compare(number: &Number, bars: &[Bar], others: &Others, both: bool) -> Compared {
    let mut compared = Compared::default();
    let mut within: Vec<Limit> = Vec::new();
    for bar in bars {
        match sides(*bar, number, others, both) {
            Ok((limit, crossed)) if crossed => compared.crossed.push(limit),
            Ok((limit, _)) => within.push(limit),
            Err(why) => compared.unknown = compared.unknown.or(Some(why)),
        }
    }
    let part = |limit: &Limit| limit.part(number.value);
    compared.crossed.sort_by(|a, b| part(b).total_cmp(&part(a)));
    compared.nearest = within.into_iter().max_by(|a, b| part(a).total_cmp(&part(b)));
    compared
}

/// A bar's limit at this look and whether it is crossed, or why it cannot be told.
fn sides(bar: Bar, number: &Number, others: &Others, both: bool) -> Result<(Limit, bool), String> {
    let limit = limit(bar, others, |standby| Some(standby.value))?;
    let crossed = limit.crossed(number.value);
    if !both {
        return Ok((limit, crossed));
    }
    let long = number.long.ok_or("there is no number over the long window")?;
    let over_long = self::limit(bar, others, |standby| standby.long)?;
    Ok((limit, crossed && over_long.crossed(long)))
}

fn limit(bar: Bar, others: &Others, of_standby: impl Fn(&Number) -> Option<f64>) -> Result<Limit, String> {
    let (ratio, whose, against) = match bar {
        Bar::Max(at) | Bar::Min(at) => return Ok(Limit { bar, at, against: None }),
        Bar::ToStandby(ratio) => (ratio, "the standby color", others.standby.as_ref().and_then(of_standby)),
        Bar::ToBefore(ratio) => (ratio, "the color before the switch", others.before),
    };
    let Some(against) = against.filter(|number| number.is_finite()) else {
        return Err(format!("{whose} has no number to compare with"));
    };
    let at = ratio * against;
    // Twice nothing is nothing, twice a negative number is less than it, and twice the largest number is none.
    if against <= 0.0 || !at.is_finite() {
        let number = super::explain::number(against);
        return Err(format!("{whose} has {number}, of which there is no multiple to compare with"));
    }
    Ok(Limit {
        bar,
        at,
        against: Some(against),
    })
}

/// Numbers of the last minutes, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Numbers {
    known: Tape<Known>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Known {
    at: Timestamp,
    #[serde(with = "super::exact")]
    value: f64,
}

impl Numbers {
    /// Takes a number and drops what is older than `span`.
    pub(super) fn push(&mut self, at: Timestamp, value: f64, span: Duration) {
        let oldest = before(at, span);
        self.known.trim(|known| known.at <= oldest, |known| known.at >= at);
        if self.known.len() == NUMBERS_MAX {
            self.known.pop_front();
        }
        self.known.settle();
        self.known.push_back(Known { at, value });
    }

    /// The one in the middle of those of a time, both ends included: a single outlier moves it little.
    pub(super) fn median(&self, from: Timestamp, to: Timestamp) -> Option<f64> {
        let within = self.known.iter().filter(|known| known.at >= from && known.at <= to);
        let mut values: Vec<f64> = within.map(|known| known.value).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(low / 2.0 + high / 2.0)
    }

    /// How many there are of a time, both ends included.
    pub(super) fn count(&self, from: Timestamp, to: Timestamp) -> usize {
        self.known.iter().filter(|known| known.at >= from && known.at <= to).count()
    }

    /// When the newest was measured that is such, at `from` or later.
    pub(super) fn last(&self, from: Timestamp, such: impl Fn(f64) -> bool) -> Option<Timestamp> {
        let known = self.known.iter().filter(|known| known.at >= from && such(known.value));
        known.last().map(|known| known.at)
    }

    /// When the newest was measured.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.known.back().map(|known| known.at)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(value: f64) -> Number {
        Number {
            value,
            ..Number::default()
        }
    }

    fn max(at: f64) -> Limit {
        Limit {
            bar: Bar::Max(at),
            at,
            against: None,
        }
    }

    fn min(at: f64) -> Limit {
        Limit {
            bar: Bar::Min(at),
            at,
            against: None,
        }
    }

    #[test]
    fn a_number_equal_to_its_limit_is_within_it_on_both_sides_of_zero() {
        for limit in [0.3, 0.0, -5.0] {
            assert!(!max(limit).crossed(limit) && !min(limit).crossed(limit), "{limit}");
            assert!(max(limit).crossed(limit + 0.1) && min(limit).crossed(limit - 0.1), "{limit}");
        }
        assert!(!max(0.3).crossed(0.1 + 0.2));
    }

    #[test]
    fn near_is_on_the_healthy_side_whatever_the_sign() {
        let near = |limit: Limit| limit.near(0.8).map(|near| near.at);
        assert_eq!([max(100.0), max(-100.0)].map(near), [Some(80.0), Some(-125.0)]);
        assert_eq!([min(100.0), min(-100.0)].map(near), [Some(125.0), Some(-80.0)]);
        assert_eq!([max(0.0), min(0.0)].map(near), [None, None]);
        assert_eq!([0.0, 1.0, f64::NAN].map(|part| max(100.0).near(part)), [None, None, None]);
    }

    #[test]
    fn easing_draws_back_to_the_healthy_side() {
        let eased = [max(100.0), max(-100.0), min(100.0), min(-100.0)].map(|limit| limit.eased(0.1).at);
        assert_eq!(eased.map(|at| at.round() as i64), [90, -110, 110, -90]);
    }

    #[test]
    fn the_limit_that_is_most_exceeded_is_told_and_else_the_nearest() {
        let bars = [Bar::Max(100.0), Bar::Max(50.0), Bar::Min(-10.0)];
        let told = |value: f64| {
            let compared = compare(&alone(value), &bars, &Others::default(), false);
            compared.crossed.first().copied().or(compared.nearest).map(|limit| limit.bar)
        };
        assert_eq!(told(120.0), Some(Bar::Max(50.0)));
        assert_eq!(told(40.0), Some(Bar::Max(50.0)));
        assert_eq!(told(-9.0), Some(Bar::Min(-10.0)));
    }

    #[test]
    fn there_is_no_multiple_of_nothing_or_less() {
        for against in [None, Some(0.0), Some(-3.0), Some(f64::NAN)] {
            let others = Others {
                before: against,
                ..Others::default()
            };
            let compared = compare(&alone(5.0), &[Bar::ToBefore(1.2)], &others, false);
            assert!(compared.unknown.is_some() && compared.crossed.is_empty(), "{against:?}");
        }
    }

    #[test]
    fn what_is_over_the_largest_number_is_no_limit() {
        let others = Others {
            standby: Some(alone(f64::MAX / 2.0)),
            ..Others::default()
        };
        let compared = compare(&alone(5.0), &[Bar::ToStandby(2.5)], &others, false);
        assert!(compared.unknown.is_some() && compared.nearest.is_none() && compared.crossed.is_empty());
        assert_eq!(min(f64::MAX).near(0.8).map(|near| near.at), None);
    }

    #[test]
    fn the_median_is_of_the_time_asked_for() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let mut numbers = Numbers::default();
        for (t, value) in [(0, 900.0), (10, 1.0), (20, 2.0), (30, 3.0), (40, 800.0)] {
            numbers.push(at(t), value, Duration::from_secs(60));
        }
        assert_eq!(numbers.median(at(5), at(35)), Some(2.0));
        assert_eq!(numbers.median(at(10), at(20)), Some(1.5));
        assert_eq!(numbers.median(at(50), at(60)), None);
    }
}
