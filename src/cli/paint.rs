//! Colors and columns of what people read. Color is left out by anstream where nobody sees it, or `NO_COLOR` asks for that.

use anstyle::{AnsiColor, Style};

use crate::model::Phase;

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
        for (column, cell) in row.iter().enumerate() {
            line.push_str(&styled(&cell.text, cell.style));
            if column + 1 < row.len() {
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

/// A share for people: `5 %`, `0.25 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent.abs() {
        p if p >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} %")
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
    fn columns_line_up_by_what_is_seen() {
        let rows = vec![
            vec![Cell::new("a", BAD), Cell::plain("b")],
            vec![Cell::plain("long"), Cell::plain("c")],
        ];
        let seen = anstream::adapter::strip_str(&columns(&rows, 2)).to_string();
        assert_eq!(seen, "  a     b\n  long  c\n");
    }
}
