//! How often a false alarm is to be expected, and how sure that is: the exact interval of a Poisson count.

use std::time::Duration;

use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF};

/// A year, in days.
const YEAR_DAYS: f64 = 365.25;

/// Confidence of the interval, both sides together.
const CONFIDENCE: f64 = 0.95;

/// Events per year of one guard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// What was counted.
    pub events: u64,
    /// How long was judged, in days; blind time does not count.
    pub days: f64,
    /// The likeliest rate; 0 where nothing was judged.
    pub per_year: f64,
    /// The lower end of the 95 % interval.
    pub low: f64,
    /// The upper end; `None` where nothing was judged.
    pub high: Option<f64>,
}

/// The rate of `events` in the time `judged`.
#[must_use]
pub fn rate(events: u64, judged: Duration) -> Rate {
    let days = judged.as_secs_f64() / 86_400.0;
    let years = days / YEAR_DAYS;
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let count = events as f64;
    let quantile = |freedom: f64, at: f64| ChiSquared::new(freedom).map_or(0.0, |chi| chi.inverse_cdf(at) / 2.0);
    let low = if events == 0 { 0.0 } else { quantile(2.0 * count, tail) };
    let high = quantile(2.0 * count + 2.0, 1.0 - tail);
    let per = |value: f64| if years > 0.0 { value / years } else { 0.0 };
    Rate {
        events,
        days,
        per_year: per(count),
        low: per(low),
        high: (years > 0.0).then(|| per(high)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_textbook_one() {
        // Garwood's interval, e.g. Johnson, Kotz: 0 -> (0, 3.689), 1 -> (0.0253, 5.572), 3 -> (0.619, 8.767), 10 -> (4.795, 18.39).
        let year = Duration::from_secs_f64(YEAR_DAYS * 86_400.0);
        for (events, low, high) in [(0, 0.0, 3.689), (1, 0.0253, 5.572), (3, 0.6187, 8.767), (10, 4.7954, 18.390)] {
            let rate = rate(events, year);
            assert!((rate.low - low).abs() < 1e-3, "{rate:?}");
            assert!((rate.high.expect("judged") - high).abs() < 1e-2, "{rate:?}");
        }
    }

    #[test]
    fn no_alarm_in_a_week_is_no_proof_of_none_in_a_year() {
        let rate = rate(0, Duration::from_secs(7 * 86_400));
        assert!(
            rate.per_year.abs() < 1e-9 && rate.high.is_some_and(|high| (190.0..195.0).contains(&high)),
            "{rate:?}"
        );
    }

    #[test]
    fn nothing_judged_is_nothing_known() {
        assert_eq!(rate(0, Duration::ZERO).high, None);
    }
}
