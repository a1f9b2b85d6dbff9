//! A straight line through readings, and how sure its slope is.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Readings this near to each other share their noise (one capture, one reload): they are one observation.
const BLOCK: f64 = 30.0;

/// The slope of a line, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The likeliest.
    pub value: f64,
    /// With 95 % confidence at least so much.
    pub least: f64,
    /// With 95 % confidence at most so much.
    pub most: f64,
}

/// Fits a line through points (seconds, value); `None` with fewer than four blocks.
#[must_use]
pub fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let first = points.first()?.0;
    let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
    for (at, value) in points.iter().filter(|(_, value)| value.is_finite()) {
        let index = ((at - first) / BLOCK) as usize;
        blocks.resize(blocks.len().max(index + 1), (0.0, 0.0, 0.0));
        let (sum_at, sum, count) = &mut blocks[index];
        (*sum_at, *sum, *count) = (*sum_at + at, *sum + value, *count + 1.0);
    }
    let means: Vec<(f64, f64)> = blocks
        .iter()
        .filter(|(_, _, count)| *count > 0.0)
        .map(|(at, value, count)| (at / count, value / count))
        .collect();
    let n = means.len() as f64;
    if means.len() < 4 {
        return None;
    }
    let mean = |pick: fn(&(f64, f64)) -> f64| means.iter().map(pick).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = means.iter().map(|(at, _)| (at - x).powi(2)).sum();
    let value = means.iter().map(|(at, level)| (at - x) * (level - y)).sum::<f64>() / spread;
    let left: f64 = means.iter().map(|(at, level)| (level - y - value * (at - x)).powi(2)).sum();
    let error = (left / (n - 2.0) / spread).sqrt();
    let wide = StudentsT::new(0.0, 1.0, n - 2.0).ok()?.inverse_cdf(0.975) * error;
    Some(Slope {
        value,
        least: value - wide,
        most: value + wide,
    })
}

/// The value that half of them are at most.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
