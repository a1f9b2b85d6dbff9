//! The paper that the chart library draws on: SVG with classes instead of colors, words that keep their size, tooltips.
//!
//! `plotters` decides where things lie (areas, axes, grid, series); a backend decides what a stroke is. Its own SVG backend writes fixed
//! colors and pixels, which would make a chart for one theme and one width. This one does not know colors: the color of a style is a
//! *role* and the index of what is drawn ([`Ink`]), and what is written is a class and the text of the thing itself. Where the chart is as
//! wide as the page, lines and areas are stretched in an inner SVG without aspect ratio, and words and marks are placed by percent.

use std::{convert::Infallible, fmt::Write as _};

use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, text_anchor::HPos};

use super::{
    MarkKind, Plot,
    signs::{legend_sign, shape},
};

/// Parts of a pixel that the library counts in: it knows whole numbers only, and curves want more.
pub(super) const PARTS: i32 = 4;

/// Parts of the whole width, where it is the page's.
pub(super) const WIDE: i32 = 1000;

/// Pixels from the drawing's end down to the words of the time axis.
const TIMES_BELOW: f64 = 22.0;

/// A word on the time axis nearer to an end than this share of the width would be cut off.
const EDGE: f64 = 0.04;

/// What something is that is drawn; travels through the library as a color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Role {
    /// A line of the grid.
    Grid = 1,
    /// A word of the time axis.
    Time,
    /// A word of the value axis.
    Tick,
    /// The limit's line and word.
    Limit,
    /// The area between the lowest and highest values of a line.
    Band,
    /// A line.
    Line,
    /// A span of time.
    Span,
    /// An instant.
    Mark,
    /// The title of a picture.
    Title,
    /// A sign of the legend, standing for a kind of mark.
    Sign,
    /// A word of the legend.
    Word,
}

/// A role and which of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink {
    role: Role,
    /// Its index in the chart's list.
    index: u16,
}

impl Ink {
    /// The `index`th of its kind; beyond what fits, one that is in no list.
    pub(super) fn new(role: Role, index: usize) -> Self {
        Self {
            role,
            index: u16::try_from(index).unwrap_or(u16::MAX),
        }
    }

    /// The color that stands for it.
    pub(super) fn color(self) -> plotters::style::RGBColor {
        let [high, low] = self.index.to_be_bytes();
        plotters::style::RGBColor(self.role as u8, high, low)
    }

    /// What it is.
    pub(super) fn role(self) -> Role {
        self.role
    }

    fn of(color: BackendColor) -> Option<Self> {
        let (role, high, low) = color.rgb;
        let role = ROLES.into_iter().find(|known| *known as u8 == role)?;
        let index = u16::from_be_bytes([high, low]);
        (color.alpha > 0.0).then_some(Self { role, index })
    }
}

const ROLES: [Role; 11] = [
    Role::Grid,
    Role::Time,
    Role::Tick,
    Role::Limit,
    Role::Band,
    Role::Line,
    Role::Span,
    Role::Mark,
    Role::Title,
    Role::Sign,
    Role::Word,
];

/// Where on the paper the drawing lies, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Width of the paper; `None`: the page's.
    pub(super) width: Option<u32>,
    /// Height of the paper.
    pub(super) height: u32,
    /// Above the drawing.
    pub(super) top: u32,
    /// Below it.
    pub(super) bottom: u32,
    /// To the left and to the right of it.
    pub(super) side: u32,
}

impl Frame {
    /// Height of the drawing.
    pub(super) fn inner(&self) -> u32 {
        self.height.saturating_sub(self.top + self.bottom)
    }
}

/// The paper.
#[derive(Debug)]
pub(super) struct Sheet<'a> {
    plot: &'a Plot,
    frame: Frame,
    out: &'a mut String,
    /// Whether the stretched part is open.
    stretched: bool,
}

/// What the library asks back.
type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl<'a> Sheet<'a> {
    /// Paper that is written to `out`, inside of an SVG that is open.
    pub(super) fn new(plot: &'a Plot, frame: Frame, out: &'a mut String) -> Self {
        Self {
            plot,
            frame,
            out,
            stretched: false,
        }
    }

    /// Writes to a String, which cannot fail.
    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(text);
    }

    /// Opens or closes the part that is stretched to the page.
    fn stretch(&mut self, wanted: bool) {
        let wanted = wanted && self.frame.width.is_none();
        if wanted && !self.stretched {
            let (height, high) = (self.frame.height, self.frame.height * PARTS.unsigned_abs());
            self.write(format_args!(
                r#"<svg width="100%" height="{height}" viewBox="0 0 {WIDE} {high}" preserveAspectRatio="none">"#
            ));
        } else if !wanted && self.stretched {
            self.out.push_str("</svg>");
        }
        self.stretched = wanted;
    }

    /// A point of a path: the library's numbers where it is stretched, else pixels.
    fn point(&self, (x, y): BackendCoord) -> String {
        if self.frame.width.is_none() {
            format!("{x} {y}")
        } else {
            format!("{} {}", pixels(x), pixels(y))
        }
    }

    /// A place from left to right for what is not stretched: percent of the page's width, or pixels.
    fn across(&self, x: i32) -> String {
        match self.frame.width {
            None => format!("{}%", f64::from(x) * 100.0 / f64::from(WIDE)),
            Some(_) => pixels(x).to_string(),
        }
    }

    fn path(&mut self, class: &str, points: &[BackendCoord], closed: bool) {
        self.stretch(true);
        self.write(format_args!(r#"<path class="{class}" d=""#));
        let points = thinned(points);
        for (n, point) in points.iter().enumerate() {
            // A line to a further point needs no letter.
            let joint = if n == 0 { 'M' } else { ' ' };
            let point = self.point(*point);
            self.write(format_args!("{joint}{point}"));
        }
        if closed {
            self.out.push('Z');
        } else if points.len() == 1 {
            self.out.push_str("h2");
        }
        self.out.push_str(r#""/>"#);
    }

    /// What stands around a sign of its own size at a place.
    fn sign(&mut self, (x, y): (i32, u32), content: &str) {
        self.stretch(false);
        let x = self.across(x);
        if self.frame.width.is_none() {
            self.write(format_args!(r#"<svg class="mark" x="{x}" y="{y}">{content}</svg>"#));
        } else {
            self.write(format_args!(r#"<g class="mark" transform="translate({x} {y})">{content}</g>"#));
        }
    }

    fn class_of_line(&self, index: u16) -> String {
        let line = self.plot.lines.get(usize::from(index));
        line.map(|line| escape(&line.class)).unwrap_or_default()
    }

    fn word(&mut self, ink: Ink, text: &str, (x, y): BackendCoord, anchor: HPos) {
        self.stretch(false);
        let text = escape(text);
        let (class, place, y) = match ink.role {
            // Beside the left edge, on its line.
            Role::Tick => ("tick", (self.frame.side + 3).to_string(), pixels(y) - 3.0),
            Role::Limit => ("limit", (self.frame.side + 3).to_string(), pixels(y) - 3.0),
            Role::Time => {
                let whole = self
                    .frame
                    .width
                    .map_or(f64::from(WIDE), |width| f64::from(width) * f64::from(PARTS));
                let class = match f64::from(x) / whole {
                    share if share < EDGE => "time start",
                    share if share > 1.0 - EDGE => "time end",
                    _ => "time middle",
                };
                (class, self.across(x), pixels(y) + TIMES_BELOW)
            }
            Role::Title => ("title", self.across(x), pixels(y)),
            _ if matches!(anchor, HPos::Right) => ("word end", self.across(x), pixels(y)),
            _ => ("word", self.across(x), pixels(y)),
        };
        self.write(format_args!(r#"<text class="{class}" x="{place}" y="{y}">{text}</text>"#));
    }
}

impl DrawingBackend for Sheet<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        let parts = PARTS.unsigned_abs();
        let width = self.frame.width.map_or(WIDE.unsigned_abs(), |width| width * parts);
        (width, self.frame.height * parts)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        self.stretch(false);
        Ok(())
    }

    fn draw_pixel(&mut self, _: BackendCoord, _: BackendColor) -> Drawn {
        // A chart has no lone pixels: every shape below is written as what it is.
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        if Ink::of(style.color()).is_some() {
            self.stretch(false);
            let (x1, x2) = (self.across(from.0), self.across(to.0));
            let (y1, y2) = (pixels(from.1), pixels(to.1));
            self.write(format_args!(r#"<line class="grid" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>"#));
        }
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        let Some(ink) = Ink::of(style.color()) else { return Ok(()) };
        let points: Vec<BackendCoord> = path.into_iter().collect();
        match (ink.role, points.as_slice()) {
            // The library draws its grid as paths of two points.
            (Role::Grid, [from, to]) => return self.draw_line(*from, *to, style),
            (Role::Limit, points) => self.path("limit", points, false),
            (_, points) => {
                let class = format!("line {}", self.class_of_line(ink.index));
                self.path(&class, points, false);
            }
        }
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        if let Some(ink) = Ink::of(style.color()) {
            let points: Vec<BackendCoord> = path.into_iter().collect();
            let class = format!("band {}", self.class_of_line(ink.index));
            self.path(&class, &points, true);
        }
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(&mut self, upper_left: BackendCoord, lower_right: BackendCoord, style: &S, _: bool) -> Drawn {
        let span = Ink::of(style.color()).and_then(|ink| self.plot.spans.get(usize::from(ink.index)));
        let Some(span) = span else { return Ok(()) };
        let (class, text) = (escape(&span.class), escape(&span.text));
        self.stretch(true);
        let scale = |part: i32| {
            if self.frame.width.is_none() {
                f64::from(part)
            } else {
                pixels(part)
            }
        };
        let (x, y) = (scale(upper_left.0), scale(upper_left.1));
        // What is too short to be seen is shown all the same.
        let width = scale(lower_right.0 - upper_left.0).max(1.5);
        let height = scale(lower_right.1 - upper_left.1);
        self.write(format_args!(
            r#"<rect class="span {class}" x="{x}" y="{y}" width="{width}" height="{height}"><title>{text}</title></rect>"#
        ));
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(&mut self, center: BackendCoord, _: u32, style: &S, _: bool) -> Drawn {
        let Some(ink) = Ink::of(style.color()) else { return Ok(()) };
        match ink.role {
            Role::Mark => {
                if let Some(mark) = self.plot.marks.get(usize::from(ink.index)) {
                    // Ticks are many and all say the same: the legend says it for them.
                    let tip = match mark.kind {
                        MarkKind::Breach => String::new(),
                        _ => format!("<title>{}</title>", escape(&mark.text)),
                    };
                    let shape = shape(mark.kind, self.frame.inner());
                    self.sign((center.0, self.frame.top), &format!("{shape}{tip}"));
                }
            }
            Role::Sign => {
                let y = pixels(center.1).max(0.0).round() as u32;
                self.sign((center.0, y), legend_sign(ink.index));
            }
            _ => {}
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        if let Some(ink) = Ink::of(style.color()) {
            self.word(ink, text, at, style.anchor().h_pos);
        }
        Ok(())
    }
}

/// Pixels of the library's numbers.
fn pixels(parts: i32) -> f64 {
    f64::from(parts) / f64::from(PARTS)
}

/// Points without those that lie on the level between two equal ones, on the way from one to the other.
fn thinned(points: &[BackendCoord]) -> Vec<BackendCoord> {
    let level = |n: usize| {
        let (Some(before), Some(here), Some(after)) = (n.checked_sub(1).and_then(|n| points.get(n)), points.get(n), points.get(n + 1))
        else {
            return false;
        };
        let onward = (before.0 <= here.0) == (here.0 <= after.0);
        before.1 == here.1 && here.1 == after.1 && onward
    };
    let kept = (0..points.len()).filter(|n| !level(*n));
    kept.filter_map(|n| points.get(n).copied()).collect()
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
            // XML knows no other control characters and none of the two that are no characters, not even escaped.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
