//! Memory and descriptors over the run, as a picture.

use std::time::Duration;

use flipback::plot::{self, Line, Plot, STYLE, Size, Span, Unit};
use jiff::Timestamp;

use super::{gauge::Reading, verdict::Parts};

/// Columns of the picture.
const COLUMNS: usize = 400;

/// Name and value of one line.
type Drawn = (&'static str, fn(&Reading) -> f64);

/// Draws them, one above the other, as an SVG document.
#[must_use]
pub fn draw(readings: &[Reading], parts: Parts) -> String {
    let last = readings.last().map_or(1.0, |one| one.at);
    let at = |seconds: f64| Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds.max(0.0));
    let chart = |title: &str, unit: &str, lines: &[Drawn]| {
        let lines = lines.iter().zip(["a", "b", "c", "d"]).map(|((name, pick), class)| Line {
            name: (*name).to_owned(),
            class: class.to_owned(),
            columns: plot::reduce(readings.iter().map(|one| (at(one.at), pick(one))), at(0.0), at(last), COLUMNS),
        });
        plot::svg(&Plot {
            title: title.to_owned(),
            from: at(0.0),
            to: at(last),
            size: Size::Fixed { width: 1000, height: 260 },
            unit: Unit::Number(unit.to_owned()),
            lines: lines.collect(),
            limit: None,
            marks: Vec::new(),
            spans: vec![Span {
                from: at(parts.begins),
                to: at(parts.ends),
                class: "watch".to_owned(),
                text: "faults".to_owned(),
            }],
        })
    };
    let memory = chart("Memory", "MiB", &[("resident", |one| one.rss), ("anonymous", |one| one.anonymous)]);
    let descriptors = chart(
        "Descriptors and threads",
        "",
        &[
            ("sockets", |one| one.sockets),
            ("files", |one| one.files),
            ("threads", |one| one.threads),
        ],
    );
    format!("<!doctype html>\n<meta charset=\"utf-8\">\n<title>Soak</title>\n<style>{STYLE}</style>\n{memory}\n{descriptors}\n")
}
