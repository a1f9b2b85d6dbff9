//! Charts of values over time, as SVG text and as PNG: lines, a limit, marks, shaded spans. Pure; knows nothing of guards.
//!
//! `plotters` draws: areas and margins, the two axes ([`axis`] tells it about UTC and about a scale on which a limit stays visible under
//! a peak), grid, series and elements. Its own SVG backend writes fixed colors, pixels and no tooltips; the backend here ([`sheet`])
//! writes a class for each role instead (one chart for light, dark and paper) and keeps words at their size on a phone: only lines and
//! areas are stretched with the page, words and marks are placed by percent. Looked at besides: `charts-rs` (categories, no time,
//! no spans), `poloto` (no marks, last release of 2023), `kuva` (fresh and able, but colors and pixels are fixed in its scene, all 64
//! kinds of plots come along, and there is no backend to put in), `charming` (a browser's engine for PNG).
//!
//! Every line is reduced to the lowest and highest value per column ([`reduce`]) before it is drawn, so that a week costs no more bytes
//! than an hour, and no peak is lost. Colors speak never alone: marks have a shape and a tooltip, spans a word.

mod axis;
mod draw;
mod legend;
mod png;
mod reduce;
mod sheet;
mod signs;

use jiff::Timestamp;

pub use draw::svg;
pub use legend::{BAND, ROOT};
pub use png::{FONT, FONT_FAMILY, PlotError, Theme, png};
pub use reduce::{Column, reduce};
pub use sheet::escape;

/// The style of every chart, to be put into a page once: light, dark and paper, by CSS variables that a page may override.
pub const STYLE: &str = concat!(
    include_str!("light.css"),
    "@media screen and (prefers-color-scheme: dark) {\n  ",
    include_str!("dark.css"),
    "}\n",
    include_str!("plot.css")
);

/// One chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// The left end.
    pub from: Timestamp,
    /// The right end.
    pub to: Timestamp,
    /// How large it is.
    pub size: Size,
    /// What the values are.
    pub unit: Unit,
    /// The lines, the first one in front.
    pub lines: Vec<Line>,
    /// The limit, where there is one.
    pub limit: Option<f64>,
    /// Instants.
    pub marks: Vec<Mark>,
    /// Spans of time.
    pub spans: Vec<Span>,
}

/// How large a chart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As wide as the page, so many pixels high.
    Fluid {
        /// Height in pixels.
        height: u32,
    },
    /// In pixels; for a file of its own.
    Fixed {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

/// What values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Fractions, shown as percent.
    Share,
    /// Numbers, with what they count; empty for plain ones.
    Number(String),
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is, for the legend.
    pub name: String,
    /// CSS class besides `line`; `a` to `d` have colors.
    pub class: String,
    /// Lowest and highest value per column, left to right; `None` where there is nothing.
    pub columns: Vec<Option<Column>>,
}

/// An instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// When.
    pub at: Timestamp,
    /// What kind.
    pub kind: MarkKind,
    /// What happened, as a tooltip.
    pub text: String,
}

/// What kind of instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    /// Something was over its limit: a tick at the bottom.
    Breach,
    /// It nearly came to something: a hollow diamond.
    Near,
    /// Traffic moved: a dashed line with its word.
    Switch,
    /// A decision: a solid line with a flag.
    Decision,
    /// A decision that was held back: the same, hollow.
    Held,
}

/// A span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
    /// CSS class besides `span`: `blind`, `watch`.
    pub class: String,
    /// What it is, as a tooltip.
    pub text: String,
}

#[cfg(test)]
mod tests;
