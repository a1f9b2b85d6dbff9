//! Many values to few columns, without losing a peak.

use jiff::Timestamp;

/// Lowest and highest value within one column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Column {
    fn with(self, value: f64) -> Self {
        Self {
            low: self.low.min(value),
            high: self.high.max(value),
        }
    }
}

/// Reduces values over time to `count` columns between `from` and `to`; what lies outside or is no number is left out.
#[must_use]
pub fn reduce(points: impl IntoIterator<Item = (Timestamp, f64)>, from: Timestamp, to: Timestamp, count: usize) -> Vec<Option<Column>> {
    let mut columns = vec![None; count];
    for (at, value) in points.into_iter().filter(|(_, value)| value.is_finite()) {
        let Some(column) = column_of(at, from, to, count).and_then(|index| columns.get_mut(index)) else {
            continue;
        };
        let known: Column = column.unwrap_or(Column { low: value, high: value });
        *column = Some(known.with(value));
    }
    columns
}

/// The column that an instant falls into.
fn column_of(at: Timestamp, from: Timestamp, to: Timestamp, count: usize) -> Option<usize> {
    let share = share(at, from, to)?;
    // In range by the check of `share`.
    Some(((share * count as f64) as usize).min(count.saturating_sub(1)))
}

/// Where between `from` and `to` an instant lies, 0 to 1; `None` outside.
pub(super) fn share(at: Timestamp, from: Timestamp, to: Timestamp) -> Option<f64> {
    let whole = to.duration_since(from).as_secs_f64();
    let share = at.duration_since(from).as_secs_f64() / whole;
    (whole > 0.0 && (0.0..=1.0).contains(&share)).then_some(share)
}
