//! What is drawn, in which order: the chart as the library is told it.

use std::{convert::Infallible, fmt::Write as _};

use jiff::Timestamp;
use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::{Shift, cartesian::Cartesian2d, ranged1d::ValueFormatter as _},
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::{Circle, PathElement, Polygon, Rectangle, Text},
    series::LineSeries,
    style::{Color as _, IntoFont as _, TRANSPARENT, TextStyle},
};

use super::{
    Column, Line, Plot, STYLE, Size,
    axis::{Scale, Times},
    legend::Legend,
    sheet::{Frame, Ink, PARTS, Role, Sheet, escape},
};

/// Pixels above the drawing, for flags and words.
const TOP: u32 = 16;
/// Pixels below it, for ticks and times.
const BOTTOM: u32 = 28;
/// Pixels beside the drawing of a picture: a chat frames it.
const SIDE: u32 = 10;
/// A drawing is no lower than this, in pixels.
const INNER_MIN: u32 = 20;
/// The narrowest paper, in pixels.
const SIDE_MIN: u32 = 100;
/// The largest paper, in pixels: what is asked for comes from elsewhere, and a picture is made of it.
const SIDE_MAX: u32 = 4000;
/// Marks of one kind in one chart: more cannot be told apart.
const MARKS_MAX: usize = 400;
/// Words nearer to the limit's own than this, in pixels, give way to it.
const WORD_HIGH: i32 = 13;

type Chart<'a, 's> = ChartContext<'a, Sheet<'s>, Cartesian2d<Times, Scale>>;
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<Infallible>>;

/// Draws a chart.
#[must_use]
pub fn svg(plot: &Plot) -> String {
    match plot.size {
        Size::Fluid { height } => {
            let frame = frame(None, height, (TOP, 0));
            let head = format!(r#"width="100%" height="{}""#, frame.height);
            document(plot, frame, &head, "", |_| Ok(()))
        }
        Size::Fixed { width, height } => {
            let frame = frame(Some(width), height, (TOP, 0));
            let style = format!("<style>{STYLE}</style>");
            document(plot, frame, &fixed(frame), &style, |_| Ok(()))
        }
    }
}

/// Draws a chart that stands alone: with a title and a legend, in pixels, without colors.
pub(super) fn picture(plot: &Plot, width: u32, height: u32) -> String {
    let legend = Legend::of(plot, width.clamp(SIDE_MIN, SIDE_MAX));
    let frame = frame(Some(width), height, (legend.height() + TOP, SIDE));
    document(plot, frame, &fixed(frame), "", |root| legend.draw(root))
}

fn frame(width: Option<u32>, height: u32, (top, side): (u32, u32)) -> Frame {
    Frame {
        width: width.map(|width| width.clamp(SIDE_MIN, SIDE_MAX)),
        height: height.clamp(top + BOTTOM + INNER_MIN, SIDE_MAX),
        top,
        bottom: BOTTOM,
        side,
    }
}

fn fixed(frame: Frame) -> String {
    let (width, height) = (frame.width.unwrap_or_default(), frame.height);
    format!(r#"xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}""#)
}

fn document(plot: &Plot, frame: Frame, head: &str, style: &str, before: impl FnOnce(&DrawingArea<Sheet<'_>, Shift>) -> Drawn) -> String {
    let mut out = String::with_capacity(4096);
    let title = escape(&plot.title);
    // Writing to a String cannot fail.
    let _ = write!(out, r#"<svg class="plot" {head} role="img" aria-label="{title}">{style}"#);
    let root = Sheet::new(plot, frame, &mut out).into_drawing_area();
    before(&root)
        .and_then(|()| chart(plot, frame, &root))
        .expect("a sheet takes every stroke, and is large enough for its margins");
    drop(root);
    out.push_str("</svg>");
    out
}

fn chart(plot: &Plot, frame: Frame, root: &DrawingArea<Sheet<'_>, Shift>) -> Drawn {
    let scale = Scale::of(plot);
    let parts = PARTS.unsigned_abs();
    let mut chart = ChartBuilder::on(root)
        .margin_top(frame.top * parts)
        .margin_left(frame.side * parts)
        .margin_right(frame.side * parts)
        .x_label_area_size(frame.bottom * parts)
        .build_cartesian_2d(Times::of(plot), scale.clone())?;
    chart
        .configure_mesh()
        .disable_y_axis()
        .axis_style(TRANSPARENT)
        .bold_line_style(Ink::new(Role::Grid, 0).color())
        .light_line_style(TRANSPARENT)
        .label_style(words(Role::Time))
        .set_all_tick_mark_size(0)
        .x_label_offset(0)
        .draw()?;
    spans(plot, &scale, &mut chart)?;
    for (index, line) in plot.lines.iter().enumerate().rev() {
        draw_line(plot, line, index, &mut chart)?;
    }
    if let Some(limit) = plot.limit {
        let ends = vec![(plot.from, limit), (plot.to, limit)];
        chart.draw_series([PathElement::new(ends, Ink::new(Role::Limit, 0).color())])?;
    }
    values(plot, &scale, &mut chart)?;
    marks(plot, &scale, &mut chart)?;
    root.present()
}

fn spans(plot: &Plot, scale: &Scale, chart: &mut Chart<'_, '_>) -> Drawn {
    let (low, high) = scale.ends();
    let shown = |span: &super::Span| span.to >= plot.from && span.from <= plot.to && span.from <= span.to;
    for (index, span) in plot.spans.iter().enumerate().filter(|(_, span)| shown(span)) {
        let corners = [(span.from.max(plot.from), high), (span.to.min(plot.to), low)];
        chart.draw_series([Rectangle::new(corners, Ink::new(Role::Span, index).color().filled())])?;
    }
    Ok(())
}

/// A band from the lowest to the highest value of each column, and a line along its top.
fn draw_line(plot: &Plot, line: &Line, index: usize, chart: &mut Chart<'_, '_>) -> Drawn {
    let middle = |n: usize| instant(plot, (n as f64 + 0.5) / line.columns.len().max(1) as f64);
    let (band, top) = (Ink::new(Role::Band, index).color(), Ink::new(Role::Line, index).color());
    for (first, run) in runs(&line.columns) {
        let at = |value: fn(&Column) -> f64| run.iter().enumerate().map(move |(n, column)| (middle(first + n), value(column)));
        let (highs, lows): (Vec<_>, Vec<_>) = (at(|column| column.high).collect(), at(|column| column.low).collect());
        let thick = highs
            .iter()
            .zip(&lows)
            .any(|(high, low)| chart.backend_coord(high) != chart.backend_coord(low));
        if thick && run.len() > 1 {
            let around: Vec<_> = highs.iter().copied().chain(lows.into_iter().rev()).collect();
            chart.draw_series([Polygon::new(around, band)])?;
        }
        chart.draw_series(LineSeries::new(highs, top))?;
    }
    Ok(())
}

/// An instant of the chart, 0 at the left to 1 at the right.
fn instant(plot: &Plot, share: f64) -> Timestamp {
    let whole = plot.to.duration_since(plot.from);
    plot.from.saturating_add(whole.mul_f64(share)).unwrap_or(plot.from)
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

/// The words of the values and of the limit, on their lines.
fn values(plot: &Plot, scale: &Scale, chart: &mut Chart<'_, '_>) -> Drawn {
    let height = |chart: &Chart<'_, '_>, value| chart.backend_coord(&(plot.from, value)).1;
    let limit = plot.limit.map(|limit| height(chart, limit));
    for tick in scale.ticks() {
        // The limit's own word stands there.
        if limit.is_none_or(|limit| (limit - height(chart, tick)).abs() > WORD_HIGH * PARTS) {
            chart.draw_series([Text::new(scale.format_ext(&tick), (plot.from, tick), words(Role::Tick))])?;
        }
    }
    if let Some(limit) = plot.limit {
        let text = format!("{} allowed", scale.format_ext(&limit));
        chart.draw_series([Text::new(text, (plot.from, limit), words(Role::Limit))])?;
    }
    Ok(())
}

fn marks(plot: &Plot, scale: &Scale, chart: &mut Chart<'_, '_>) -> Drawn {
    let mut sorted: Vec<_> = plot.marks.iter().enumerate().collect();
    sorted.sort_by_key(|(_, mark)| (mark.kind, mark.at));
    let (mut drawn, mut kind) = (0, None);
    for (index, mark) in sorted {
        drawn = if kind == Some(mark.kind) { drawn + 1 } else { 0 };
        kind = Some(mark.kind);
        if drawn < MARKS_MAX && mark.at >= plot.from && mark.at <= plot.to {
            let place = (mark.at, scale.ends().0);
            chart.draw_series([Circle::new(place, 1, Ink::new(Role::Mark, index).color())])?;
        }
    }
    Ok(())
}

/// A style for words; the size is the style sheet's.
pub(super) fn words(role: Role) -> TextStyle<'static> {
    ("sans-serif", 11 * PARTS).into_font().color(&Ink::new(role, 0).color())
}
