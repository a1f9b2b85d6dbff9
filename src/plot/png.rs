//! A chart as a picture for chats and tickets: the same drawing, with title and legend, in one theme, with a typeface of its own.
//!
//! A daemon draws it: the whole picture would take 10 MB, and as much again twice while it is written out. It is drawn and
//! written in bands instead.
//!
//! Nothing of the machine is used, fonts least of all: a container has none, and a picture shall be the same everywhere.

use std::{
    io::Write as _,
    sync::{Arc, OnceLock},
};

use png::{BitDepth, ColorType, Encoder};

use resvg::{
    render,
    tiny_skia::{Pixmap, Transform},
    usvg::{self, Options, Tree, fontdb::Database},
};

use super::{Plot, Size, draw};

/// The typeface of pictures: Noto Sans, regular (Apache-2.0), as a TrueType file.
pub const FONT: &[u8] = notosans::REGULAR_TTF;

/// The name of the family in [`FONT`].
pub const FONT_FAMILY: &str = "Noto Sans";

/// Pixels that a picture is laid out in, where the chart has no size of its own: words are then large enough in a chat on a phone.
const LAID_OUT: (u32, u32) = (800, 334);

/// Dots per pixel of the layout.
const SCALE: u32 = 3;

/// Dots of a band from top to bottom.
const BAND_HIGH: u32 = 96;

/// Dots above and below a band that are drawn along and not used: strokes end differently where a picture does.
const BAND_RIM: u32 = 16;

const LIGHT: &str = include_str!("light.css");
const DARK: &str = include_str!("dark.css");
const RULES: &str = include_str!("plot.css");

/// What a page does itself: the words of the head, and what a picture stands on.
const HEAD: &str = ".plot .title { font-size: 15px; fill: var(--plot-strong); } .plot .word { font-size: 11.5px; }";

/// The colors of a picture; a page has both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// Dark on light.
    #[default]
    Light,
    /// Light on dark.
    Dark,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The drawing was not understood.
    #[error("failed to read the drawing of a chart")]
    Read(#[source] usvg::Error),
    /// The picture's memory could not be had.
    #[error("failed to hold a picture of {width} x {height} dots")]
    Size {
        /// Dots from left to right.
        width: u32,
        /// Dots from top to bottom.
        height: u32,
    },
    /// The picture could not be written out.
    #[error("failed to write out the picture of a chart")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Draws a chart as a PNG, three dots per pixel: 2400 x 1002 where the chart is as wide as its page.
///
/// # Errors
/// Where the chart's own size asks for more memory than there is, or its texts break the drawing.
pub fn png(plot: &Plot, theme: Theme) -> Result<Vec<u8>, PlotError> {
    let (width, height) = match plot.size {
        Size::Fluid { .. } => LAID_OUT,
        Size::Fixed { width, height } => (width, height),
    };
    let drawn = draw::picture(plot, width, height);
    let mut options = Options {
        font_family: FONT_FAMILY.to_owned(),
        style_sheet: Some(style(theme)),
        ..Options::default()
    };
    options.fontdb = fonts();
    let tree = Tree::from_str(&drawn, &options).map_err(PlotError::Read)?;
    let size = tree.size().to_int_size();
    let (width, height) = (size.width() * SCALE, size.height() * SCALE);
    let mut band = Pixmap::new(width, BAND_HIGH.min(height) + 2 * BAND_RIM).ok_or(PlotError::Size { width, height })?;
    let draw = |top: u32, band: &mut Pixmap| {
        band.fill(ground(theme));
        let scale = SCALE as f32;
        render(
            &tree,
            Transform::from_scale(scale, scale).post_translate(0.0, BAND_RIM as f32 - top as f32),
            &mut band.as_mut(),
        );
    };
    let mut write = || -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        let mut rows = writer.stream_writer()?;
        let mut line = Vec::with_capacity(width as usize * 3);
        for top in (0..height).step_by(BAND_HIGH as usize) {
            draw(top, &mut band);
            let high = BAND_HIGH.min(height - top);
            for dots in band
                .data()
                .chunks_exact(width as usize * 4)
                .skip(BAND_RIM as usize)
                .take(high as usize)
            {
                line.clear();
                // The ground is opaque, and so is everything on it.
                line.extend(dots.chunks_exact(4).flat_map(|dot| [dot[0], dot[1], dot[2]]));
                rows.write_all(&line)?;
            }
        }
        rows.finish()?;
        writer.finish()?;
        Ok(file)
    };
    write().map_err(|error| PlotError::Write(error.into()))
}

/// The typeface, read once.
fn fonts() -> Arc<Database> {
    static FONTS: OnceLock<Arc<Database>> = OnceLock::new();
    let read = || {
        let mut fonts = Database::new();
        fonts.load_font_data(FONT.to_vec());
        Arc::new(fonts)
    };
    Arc::clone(FONTS.get_or_init(read))
}

/// The style of pages with the colors filled in: what makes the picture knows no variables.
fn style(theme: Theme) -> String {
    let family = format!(r#".plot text {{ font-family: "{FONT_FAMILY}"; }}"#);
    let mut style = [RULES, HEAD, &family].concat();
    for (name, color) in colors(theme) {
        style = style.replace(&format!("var(--plot-{name})"), color);
    }
    style
}

/// Names and colors of a theme.
fn colors(theme: Theme) -> impl Iterator<Item = (&'static str, &'static str)> {
    let (palette, strong) = match theme {
        Theme::Light => (LIGHT, "#16202c"),
        Theme::Dark => (DARK, "#e8edf3"),
    };
    let pairs = palette.split("--plot-").skip(1).filter_map(|pair| {
        let (name, rest) = pair.split_once(':')?;
        Some((name, rest.split(';').next()?.trim()))
    });
    pairs.chain([("strong", strong)])
}

fn ground(theme: Theme) -> resvg::tiny_skia::Color {
    match theme {
        Theme::Light => resvg::tiny_skia::Color::WHITE,
        Theme::Dark => resvg::tiny_skia::Color::from_rgba8(0x15, 0x1b, 0x23, 0xff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_color_of_the_style_is_known_in_both_themes() {
        for theme in [Theme::Light, Theme::Dark] {
            let style = style(theme);
            assert!(!style.contains("var("), "{style}");
            assert_eq!(colors(theme).count(), 13);
        }
    }

    /// Drawn in bands it is what it is as a whole.
    #[test]
    fn no_seam_is_seen_between_two_bands() {
        let line = |n: i64| {
            (
                jiff::Timestamp::from_second(1_790_000_000 + n * 15).expect("in range"),
                0.001 * ((n * 37) % 90) as f64,
            )
        };
        let (from, to) = (line(0).0, line(160).0);
        let plot = Plot {
            title: "error-rate of shop/web".into(),
            from,
            to,
            size: Size::Fixed { width: 500, height: 260 },
            unit: super::super::Unit::Share,
            lines: vec![super::super::Line {
                name: "green".into(),
                class: "b".into(),
                columns: super::super::reduce((0..160).map(line), from, to, 40),
            }],
            limit: Some(0.05),
            marks: Vec::new(),
            spans: Vec::new(),
        };
        let file = png(&plot, Theme::Light).expect("a picture");
        let banded = Pixmap::decode_png(&file).expect("a PNG");
        assert!(banded.height() > 3 * BAND_HIGH, "there are seams");
        let options = Options {
            font_family: FONT_FAMILY.to_owned(),
            style_sheet: Some(style(Theme::Light)),
            fontdb: fonts(),
            ..Options::default()
        };
        let tree = Tree::from_str(&draw::picture(&plot, 500, 260), &options).expect("a drawing");
        let mut whole = Pixmap::new(banded.width(), banded.height()).expect("memory");
        whole.fill(ground(Theme::Light));
        render(&tree, Transform::from_scale(SCALE as f32, SCALE as f32), &mut whole.as_mut());
        let pairs = || whole.data().iter().zip(banded.data()).map(|(a, b)| a.abs_diff(*b));
        // Edges may be rounded otherwise here and there, by what no eye sees; a seam would be a row of strong ones.
        let (rounded, strongest) = (pairs().filter(|by| *by > 0).count(), pairs().max().unwrap_or_default());
        assert!(
            rounded < whole.data().len() / 10_000 && strongest <= 32,
            "{rounded} of {} colors differ, by up to {strongest}",
            whole.data().len()
        );
    }
}
