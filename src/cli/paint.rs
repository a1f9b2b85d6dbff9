//! Colors and columns of what people read. Color is left out by anstream where nobody sees it, or `NO_COLOR` asks for that.

use anstyle::{AnsiColor, Style};

use crate::model::{Phase, status::unit};

/// Good.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Look at it.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// Bad.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Less important.
pub const DIM: Style = Style::new().dimmed();
/// A title.
pub const BOLD: Style = Style::new().bold();
/// As it is.
pub const PLAIN: Style = Style::new();

/// A text and how it looks.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A text in a style.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    /// A plain text.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(text, PLAIN)
    }
}

/// A text in a style, for use within a line.
pub fn styled(text: &str, style: Style) -> String {
    format!("{}{text}{}", style.render(), style.render_reset())
}

/// Rows in columns, two spaces apart, each line indented; the last column is not filled up.
pub fn columns(rows: &[Vec<Cell>], indent: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        let filled = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
        for (column, cell) in row.iter().take(filled).enumerate() {
            line.push_str(&styled(&cell.text, cell.style));
            if column + 1 < filled {
                line.push_str(&" ".repeat(widths[column] - cell.text.chars().count() + 2));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// How a phase looks.
#[must_use]
pub fn phase(phase: Phase) -> Style {
    match phase {
        Phase::Watching | Phase::Steady => GOOD,
        Phase::Starting | Phase::Paused | Phase::Blind | Phase::Suppressed => WARN,
        Phase::Breaching | Phase::RolledBack | Phase::Blocked | Phase::Disarmed | Phase::UnknownColor | Phase::Unreadable => BAD,
    }
}

/// A share for people: `5 %`, `0.25 %`, `99.95 %`. What is not all is never shown as 100 %, what is not nothing never as 0 %.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    // The digits that matter lie near the ends: an availability is told by what it lacks.
    let from_end = percent.abs().min((100.0 - percent).abs());
    let least: usize = if percent >= 10.0 && from_end >= 10.0 { 1 } else { 2 };
    let rounded = |digits: usize| trimmed(format!("{percent:.digits$}"));
    let exact = percent == 0.0 || (percent - 100.0).abs() < f64::EPSILON * 100.0;
    let text = (least..=PERCENT_DIGITS_MAX)
        .map(rounded)
        .find(|text| exact || !matches!(text.as_str(), "0" | "-0" | "100"))
        .unwrap_or_else(|| format!("{percent:e}"));
    format!("{text} %")
}

/// More digits than any sum of requests can tell apart.
const PERCENT_DIGITS_MAX: usize = 12;

fn trimmed(text: String) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A plain number for people: four digits that matter, large ones whole.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-6..1e15).contains(&size) {
        return format!("{value:.3e}");
    }
    let whole = size.log10().floor() as i32;
    let digits = usize::try_from(3 - whole).unwrap_or(0);
    trimmed(format!("{value:.digits$}"))
}

/// A rule's value in its unit: `0.4 %`, `3 Ready`, `420 ms`, `118 req/s`.
#[must_use]
pub fn figure(unit: Option<&str>, value: f64) -> String {
    match unit {
        Some(unit::RATIO) => percent(value),
        Some(unit::ENDPOINTS) => format!("{value:.0} Ready"),
        Some(unit::SECONDS) if value.abs() < 1.0 => format!("{} ms", number(value * 1000.0)),
        Some(unit::SECONDS) => format!("{} s", number(value)),
        Some(unit) => format!("{} {unit}", number(value)),
        None => number(value),
    }
}

/// What a rule's value breaches: `over 5 %`, `under 99.9 %`, `under 1 Ready`.
#[must_use]
pub fn limit(unit: Option<&str>, threshold: f64, below: bool) -> String {
    if !threshold.is_finite() {
        return "not known yet".to_owned();
    }
    // Endpoints breach at none, whichever way that is spelled.
    let word = if below || unit == Some(unit::ENDPOINTS) { "under" } else { "over" };
    format!("{word} {}", figure(unit, threshold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_short() {
        assert_eq!(percent(0.05), "5 %");
        assert_eq!(percent(0.0025), "0.25 %");
        assert_eq!(percent(0.12345), "12.3 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.0), "0 %");
    }

    #[test]
    fn what_is_not_all_is_not_shown_as_all() {
        let shown = [0.9995, 0.999, 0.99996, 0.999_999_9, 0.97, 0.9, 0.000_004].map(percent);
        assert_eq!(shown.join(", "), "99.95 %, 99.9 %, 99.996 %, 99.99999 %, 97 %, 90 %, 0.0004 %");
    }

    #[test]
    fn figures_carry_their_unit() {
        let shown = [
            figure(Some(unit::RATIO), 0.124),
            figure(Some(unit::ENDPOINTS), 3.0),
            figure(Some(unit::SECONDS), 0.42),
            figure(Some(unit::SECONDS), 1.25),
            figure(Some("req/s"), 118.04),
            figure(None, 12_480.4),
            figure(None, 0.012_34),
            figure(None, 2.5e18),
        ];
        assert_eq!(
            shown.join(", "),
            "12.4 %, 3 Ready, 420 ms, 1.25 s, 118 req/s, 12480, 0.01234, 2.500e18"
        );
    }

    #[test]
    fn a_limit_says_on_which_side_the_breach_lies() {
        assert_eq!(limit(Some(unit::RATIO), 0.05, false), "over 5 %");
        assert_eq!(limit(Some(unit::RATIO), 0.999, true), "under 99.9 %");
        assert_eq!(limit(Some(unit::ENDPOINTS), 1.0, false), "under 1 Ready");
        assert_eq!(limit(Some("req/s"), 100.0, true), "under 100 req/s");
        assert_eq!(limit(None, f64::INFINITY, false), "not known yet");
    }

    #[test]
    fn columns_line_up_by_what_is_seen() {
        let rows = vec![
            vec![Cell::new("a", BAD), Cell::plain("b")],
            vec![Cell::plain("long"), Cell::plain("c")],
        ];
        let seen = anstream::adapter::strip_str(&columns(&rows, 2)).to_string();
        assert_eq!(seen, "  a     b\n  long  c\n");
    }
}
