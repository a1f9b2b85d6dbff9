//! How sure a share is: the one-sided Wilson lower bound. A normal approximation of the plain kind is overconfident
//! exactly where releases are judged, at few requests and small shares; Wilson's is not.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// Slack for sums of fractions: a share equal to its threshold is within it, whatever binary fractions make of both.
const EQUAL: f64 = 1e-9;

/// So many bad of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Share {
    #[serde(with = "super::exact")]
    pub(super) bad: f64,
    #[serde(with = "super::exact")]
    pub(super) total: f64,
}

impl Share {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            bad: self.bad + other.bad,
            total: self.total + other.total,
        }
    }

    /// The fraction that is bad; `None` of nothing.
    pub(super) fn value(self) -> Option<f64> {
        (self.total > 0.0).then(|| self.bad / self.total)
    }

    /// Whether the fraction is over the threshold; nothing never is.
    pub(super) fn over(self, threshold: f64) -> bool {
        self.total > 0.0 && self.bad - threshold * self.total > EQUAL * self.total
    }

    /// Whether the fraction is at least so much.
    pub(super) fn reaches(self, share: f64) -> bool {
        self.total > 0.0 && self.bad >= share * self.total * (1.0 - EQUAL)
    }

    /// Whether more is bad than there is.
    pub(super) fn impossible(self) -> bool {
        self.bad > self.total * (1.0 + EQUAL)
    }
}

/// A one-sided confidence and its quantile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sureness {
    /// As a fraction.
    pub(super) confidence: f64,
    z: f64,
}

impl Sureness {
    /// Clamps what no configuration should hold into what a bound can be computed for.
    pub(super) fn new(confidence: f64) -> Self {
        let confidence = if confidence.is_nan() {
            0.99
        } else {
            confidence.clamp(0.5, 0.999_999)
        };
        let z = Normal::standard().inverse_cdf(confidence);
        Self { confidence, z }
    }

    /// The fraction that the true one surely exceeds; 0 of nothing.
    pub(super) fn lower(self, share: Share) -> f64 {
        let Some(p) = share.value() else { return 0.0 };
        let (n, z2) = (share.total, self.z * self.z);
        let p = p.clamp(0.0, 1.0);
        let centre = p + z2 / (2.0 * n);
        let margin = self.z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        ((centre - margin) / (1.0 + z2 / n)).clamp(0.0, 1.0)
    }

    /// The fraction that the true one surely does not exceed; 1 of nothing.
    pub(super) fn upper(self, share: Share) -> f64 {
        let good = Share {
            bad: share.total - share.bad,
            ..share
        };
        1.0 - self.lower(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(bad: f64, total: f64) -> f64 {
        Sureness::new(0.99).lower(Share { bad, total })
    }

    #[test]
    fn the_bound_agrees_with_another_implementation() {
        // Wilson, one-sided 99 %: computed with Python's statistics.NormalDist and the textbook formula.
        for (bad, total, expected) in [
            (9.0, 180.0, 0.023651),
            (62.0, 500.0, 0.093685),
            (10.0, 10.0, 0.648850),
            (0.0, 50.0, 0.0),
        ] {
            let found = lower(bad, total);
            assert!((found - expected).abs() < 1e-5, "{bad} of {total}: {found} instead of {expected}");
        }
    }

    #[test]
    fn the_upper_bound_agrees_with_another_implementation() {
        // One-sided 80 %: computed as above, with the formula for the upper bound.
        for (bad, total, expected) in [(0.0, 5.0, 0.124087), (3.0, 60.0, 0.079371), (10.0, 10.0, 1.0), (0.0, 0.0, 1.0)] {
            let found = Sureness::new(0.8).upper(Share { bad, total });
            assert!((found - expected).abs() < 1e-5, "{bad} of {total}: {found} instead of {expected}");
        }
    }

    #[test]
    fn a_share_equal_to_its_threshold_is_within_it() {
        assert!(!Share { bad: 10.0, total: 100.0 }.over(1.0 - 0.9));
        assert!(Share { bad: 11.0, total: 100.0 }.over(1.0 - 0.9));
        assert!(!Share { bad: 0.0, total: 0.0 }.over(0.0));
    }

    #[test]
    fn nonsense_confidence_still_gives_a_bound() {
        for confidence in [f64::NAN, -1.0, 0.0, 1.0, f64::INFINITY] {
            let bound = Sureness::new(confidence).lower(Share { bad: 5.0, total: 10.0 });
            assert!((0.0..=1.0).contains(&bound), "{confidence}");
        }
    }
}
