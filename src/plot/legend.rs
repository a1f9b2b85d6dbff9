//! Title and legend of a picture that stands alone: in a page, the page says what the signs mean.

use plotters::{
    coord::Shift,
    drawing::DrawingArea,
    element::{Circle, PathElement, Polygon, Rectangle, Text},
    style::Color as _,
};

use super::{
    Plot,
    draw::{Drawn, words},
    sheet::{Ink, PARTS, Role, Sheet},
    signs::LEGEND,
};

/// What a band shows.
pub const BAND: &str = "band: lowest to highest";
/// What a scale of roots is called.
pub const ROOT: &str = "heights are square roots";
/// Pixels of the title's line.
const TITLE_HIGH: i32 = 28;
/// Pixels of one row of the legend.
const ROW_HIGH: i32 = 18;
/// Pixels to the left and to the right of all words.
const MARGIN: i32 = 10;
/// Pixels of a sign, with the space after it.
const SIGN_WIDE: i32 = 22;
/// Pixels between a word and the next sign.
const GAP: i32 = 16;
/// Pixels of a letter of the legend, of the wide ones: without a layout one can but guess.
const LETTER_WIDE: f64 = 6.4;
/// Letters of a name, at most.
const LETTERS_MAX: usize = 40;
/// Entries, at most: there are four colors, five kinds of marks and a handful of spans.
const ENTRIES_MAX: usize = 16;

/// What stands above a picture.
#[derive(Debug)]
pub(super) struct Legend {
    title: String,
    entries: Vec<Entry>,
    rows: i32,
}

#[derive(Debug)]
struct Entry {
    sign: Ink,
    word: String,
    left: i32,
    /// Where its word begins.
    text: i32,
    row: i32,
}

impl Legend {
    /// What stands in the chart, each thing once, in rows of this width.
    pub(super) fn of(plot: &Plot, width: u32) -> Self {
        let mut told: Vec<(Ink, String)> = Vec::new();
        let lines = plot.lines.iter().enumerate();
        told.extend(lines.map(|(index, line)| (Ink::new(Role::Line, index), line.name.clone())));
        if plot.limit.is_some() {
            told.push((Ink::new(Role::Limit, 0), "allowed".to_owned()));
        }
        for (index, (kind, word)) in LEGEND.iter().enumerate() {
            let shown = |at| at >= plot.from && at <= plot.to;
            if plot.marks.iter().any(|mark| mark.kind == *kind && shown(mark.at)) {
                told.push((Ink::new(Role::Sign, index), (*word).to_owned()));
            }
        }
        let mut classes: Vec<&str> = Vec::new();
        for (index, span) in plot.spans.iter().enumerate() {
            if !classes.contains(&span.class.as_str()) {
                classes.push(&span.class);
                told.push((Ink::new(Role::Span, index), span.class.clone()));
            }
        }
        if plot.has_band() {
            told.push((Ink::new(Role::Band, 0), BAND.to_owned()));
        }
        if plot.is_root() {
            told.push((Ink::new(Role::Word, 0), ROOT.to_owned()));
        }
        told.truncate(ENTRIES_MAX);
        let right = i32::try_from(width).unwrap_or(i32::MAX) - MARGIN;
        let (mut left, mut row) = (MARGIN, 0);
        let entries = told.into_iter().map(|(sign, word)| {
            let word = shortened(&word, LETTERS_MAX);
            let sign_wide = if sign.role() == Role::Word { 0 } else { SIGN_WIDE };
            let wide = sign_wide + (word.chars().count() as f64 * LETTER_WIDE) as i32;
            if left > MARGIN && left + wide > right {
                (left, row) = (MARGIN, row + 1);
            }
            let entry = Entry {
                sign,
                word,
                left,
                text: left + sign_wide,
                row,
            };
            left += wide + GAP;
            entry
        });
        let entries: Vec<Entry> = entries.collect();
        let letters = (f64::from(right - MARGIN) / TITLE_LETTER_WIDE) as usize;
        Self {
            title: shortened(&plot.title, letters),
            rows: entries.last().map_or(0, |entry| entry.row + 1),
            entries,
        }
    }

    /// Its height in pixels.
    pub(super) fn height(&self) -> u32 {
        (TITLE_HIGH + self.rows * ROW_HIGH).unsigned_abs()
    }

    /// Draws it.
    pub(super) fn draw(&self, root: &DrawingArea<Sheet<'_>, Shift>) -> Drawn {
        let at = |x: i32, y: i32| (x * PARTS, y * PARTS);
        root.draw(&Text::new(self.title.as_str(), at(MARGIN, 19), words(Role::Title)))?;
        for entry in &self.entries {
            let (left, top, color) = (entry.left, TITLE_HIGH + entry.row * ROW_HIGH, entry.sign.color());
            match entry.sign.role() {
                Role::Line | Role::Limit => {
                    let ends = vec![at(left, top + 6), at(left + 16, top + 6)];
                    root.draw(&PathElement::new(ends, color))?;
                }
                Role::Word => {}
                Role::Band => {
                    let corners = [(0, 11), (0, 5), (8, 1), (16, 4), (16, 11)];
                    let around: Vec<_> = corners.map(|(x, y)| at(left + x, top + y)).to_vec();
                    root.draw(&Polygon::new(around, color))?;
                }
                Role::Span => root.draw(&Rectangle::new([at(left, top + 1), at(left + 16, top + 11)], color.filled()))?,
                _ => root.draw(&Circle::new(at(left, top), 1, color))?,
            }
            root.draw(&Text::new(entry.word.as_str(), at(entry.text, top + 10), words(Role::Word)))?;
        }
        Ok(())
    }
}

/// Pixels of a letter of the title.
const TITLE_LETTER_WIDE: f64 = 8.2;

/// Text that ends in dots where it is longer than so many letters.
fn shortened(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(letters.saturating_sub(1)).collect();
    short.push('…');
    short
}
