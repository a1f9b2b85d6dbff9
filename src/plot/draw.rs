//! The drawing itself.

use std::fmt::Write as _;

use super::{
    Column, Line, Mark, MarkKind, Plot, Size,
    axis::{Scale, times, value},
    reduce::share,
};

/// Units of the inner drawing: stretched to whatever the page gives.
const WIDE: f64 = 1000.0;
/// The same, from top to bottom.
const HIGH: f64 = 1000.0;
/// Pixels above the drawing, for flags and words.
const TOP: u32 = 16;
/// Pixels below it, for ticks and times.
const BOTTOM: u32 = 28;
/// A word on the time axis nearer to an end than this would be cut off.
const EDGE: f64 = 0.04;
/// Marks of one kind in one chart: more cannot be told apart.
const MARKS_MAX: usize = 400;

/// Draws a chart.
#[must_use]
pub fn svg(plot: &Plot) -> String {
    let scale = Scale::of(plot);
    let mut out = String::with_capacity(4096);
    let (head, height) = match plot.size {
        Size::Fluid { height } => (format!(r#"width="100%" height="{height}""#), height),
        Size::Fixed { width, height } => (
            format!(r#"xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}""#),
            height,
        ),
    };
    let inner = height.saturating_sub(TOP + BOTTOM).max(20);
    let title = escape(&plot.title);
    // Writing to a String cannot fail, here and below.
    let _ = write!(out, r#"<svg class="plot" {head} role="img" aria-label="{title}">"#);
    if matches!(plot.size, Size::Fixed { .. }) {
        let _ = write!(out, "<style>{}</style>", super::STYLE);
    }
    grid(plot, &scale, inner, &mut out);
    let _ = write!(
        out,
        r#"<svg y="{TOP}" width="100%" height="{inner}" viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none">"#
    );
    spans(plot, &mut out);
    for line in plot.lines.iter().rev() {
        draw_line(line, &scale, &mut out);
    }
    if let Some(limit) = plot.limit {
        let y = y(&scale, limit);
        let _ = write!(out, r#"<path class="limit" d="M0 {y}H{WIDE}"/>"#);
    }
    out.push_str("</svg>");
    words(plot, &scale, inner, &mut out);
    marks(plot, inner, &mut out);
    out.push_str("</svg>");
    out
}

fn y(scale: &Scale, value: f64) -> i64 {
    // Within 0 and 1000 by the clamp of `height`.
    (HIGH * (1.0 - scale.height(value))).round() as i64
}

fn pixel(scale: &Scale, value: f64, inner: u32) -> f64 {
    f64::from(TOP) + f64::from(inner) * (1.0 - scale.height(value))
}

fn grid(plot: &Plot, scale: &Scale, inner: u32, out: &mut String) {
    for tick in scale.ticks() {
        let y = pixel(scale, tick, inner);
        let _ = write!(out, r#"<line class="grid" x2="100%" y1="{y:.1}" y2="{y:.1}"/>"#);
    }
    let (top, bottom) = (TOP, TOP + inner);
    for (share, _) in times(plot.from, plot.to) {
        let x = share * 100.0;
        let _ = write!(out, r#"<line class="grid" x1="{x:.2}%" x2="{x:.2}%" y1="{top}" y2="{bottom}"/>"#);
    }
}

fn spans(plot: &Plot, out: &mut String) {
    for span in &plot.spans {
        let (from, to) = (span.from.max(plot.from), span.to.min(plot.to));
        let (Some(left), Some(right)) = (share(from, plot.from, plot.to), share(to, plot.from, plot.to)) else {
            continue;
        };
        let (x, width) = (left * WIDE, ((right - left) * WIDE).max(1.5));
        let _ = write!(
            out,
            r#"<rect class="span {}" x="{x:.1}" width="{width:.1}" height="{HIGH}"><title>{}</title></rect>"#,
            escape(&span.class),
            escape(&span.text)
        );
    }
}

/// A band from the lowest to the highest value of each column, and a line along its top.
fn draw_line(line: &Line, scale: &Scale, out: &mut String) {
    let count = line.columns.len().max(1) as f64;
    let (mut top, mut band) = (String::new(), String::new());
    for run in runs(&line.columns) {
        let x = |index: usize| ((run.0 + index) as f64 + 0.5) * WIDE / count;
        let highs = thinned(&run.1, |column| y(scale, column.high));
        let lows = thinned(&run.1, |column| y(scale, column.low));
        for (n, (index, y)) in highs.iter().enumerate() {
            let _ = write!(top, "{}{:.0} {y}", joint(n), x(*index));
        }
        if highs.len() == 1 {
            top.push_str("h2");
        }
        if highs != lows && highs.len() > 1 {
            for (n, (index, y)) in highs.iter().chain(lows.iter().rev()).enumerate() {
                let _ = write!(band, "{}{:.0} {y}", joint(n), x(*index));
            }
            band.push('Z');
        }
    }
    let class = escape(&line.class);
    if !band.is_empty() {
        let _ = write!(out, r#"<path class="band {class}" d="{band}"/>"#);
    }
    let _ = write!(out, r#"<path class="line {class}" d="{top}"/>"#);
}

/// What stands before a point: a line to it needs no letter.
fn joint(n: usize) -> char {
    if n == 0 { 'M' } else { ' ' }
}

/// Columns with values, in unbroken runs with the index of their first.
fn runs(columns: &[Option<Column>]) -> Vec<(usize, Vec<Column>)> {
    let mut runs: Vec<(usize, Vec<Column>)> = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        match (column, runs.last_mut()) {
            (Some(column), Some((first, run))) if *first + run.len() == index => run.push(*column),
            (Some(column), _) => runs.push((index, vec![*column])),
            (None, _) => {}
        }
    }
    runs
}

/// The heights of a run, without those that lie on the level between two equal ones.
fn thinned(run: &[Column], height: impl Fn(&Column) -> i64) -> Vec<(usize, i64)> {
    let heights: Vec<i64> = run.iter().map(height).collect();
    let level = |index: usize| {
        index > 0 && index + 1 < heights.len() && heights[index - 1] == heights[index] && heights[index] == heights[index + 1]
    };
    (0..heights.len())
        .filter(|index| !level(*index))
        .map(|index| (index, heights[index]))
        .collect()
}

fn words(plot: &Plot, scale: &Scale, inner: u32, out: &mut String) {
    let limit = plot.limit.map(|limit| (pixel(scale, limit, inner), limit));
    for tick in scale.ticks() {
        let y = pixel(scale, tick, inner);
        // The limit's own word stands there.
        if limit.is_none_or(|(at, _)| (at - y).abs() > 13.0) {
            let _ = write!(
                out,
                r#"<text class="tick" x="3" y="{:.1}">{}</text>"#,
                y - 3.0,
                value(&plot.unit, tick)
            );
        }
    }
    if let Some((y, limit)) = limit {
        let _ = write!(
            out,
            r#"<text class="limit" x="3" y="{:.1}">{} allowed</text>"#,
            y - 3.0,
            value(&plot.unit, limit)
        );
    }
    let below = TOP + inner + 22;
    for (share, word) in times(plot.from, plot.to) {
        let anchor = if share < EDGE {
            "start"
        } else if share > 1.0 - EDGE {
            "end"
        } else {
            "middle"
        };
        let x = share * 100.0;
        let _ = write!(out, r#"<text class="time {anchor}" x="{x:.2}%" y="{below}">{word}</text>"#);
    }
}

fn marks(plot: &Plot, inner: u32, out: &mut String) {
    let mut sorted: Vec<&Mark> = plot.marks.iter().collect();
    sorted.sort_by_key(|mark| (mark.kind, mark.at));
    let (mut drawn, mut kind) = (0, None);
    for mark in sorted {
        drawn = if kind == Some(mark.kind) { drawn + 1 } else { 0 };
        kind = Some(mark.kind);
        let Some(share) = share(mark.at, plot.from, plot.to).filter(|_| drawn < MARKS_MAX) else {
            continue;
        };
        let x = share * 100.0;
        let shape = match mark.kind {
            MarkKind::Breach => format!(r#"<path class="breach" d="M0 {}v5"/>"#, inner + 2),
            MarkKind::Near => format!(r#"<path class="near" d="M0 {}l4 4l-4 4l-4-4z"/>"#, inner + 1),
            MarkKind::Switch => format!(r#"<path class="switch" d="M0-2V{inner}"/>"#),
            MarkKind::Decision => format!(r#"<path class="decision" d="M0-14V{inner}M0-14h11l-3 4.5l3 4.5H0z"/>"#),
            MarkKind::Held => format!(r#"<path class="held" d="M0-14V{inner}M0-14h11l-3 4.5l3 4.5H0z"/>"#),
        };
        // Ticks are many and all say the same: the legend says it for them.
        let tip = if mark.kind == MarkKind::Breach {
            String::new()
        } else {
            format!("<title>{}</title>", escape(&mark.text))
        };
        let _ = write!(out, r#"<svg class="mark" x="{x:.2}%" y="{TOP}">{shape}{tip}</svg>"#);
    }
}

/// Turns text from anywhere into text as it may stand in markup, attributes included.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
