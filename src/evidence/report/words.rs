//! Numbers, times and values in the words people use. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::plot::Unit;

/// What stands for a sign that would act instead of being read.
const ODD: char = '\u{fffd}';

/// Three digits that count, no more.
pub(super) fn plain(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v.fract().abs() < f64::EPSILON => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// `5 %`; one digit after the point, more only for what would be nothing, or all.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let rounded = match percent.abs() {
        p if p < 0.1 => plain(percent),
        // 99.9 % and 99.99 % are two promises.
        p if p > 99.0 && p < 100.0 => format!("{percent:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => plain((percent * 10.0).round() / 10.0),
    };
    format!("{rounded} %")
}

/// A value in its unit.
pub(super) fn value(unit: &Unit, value: f64) -> String {
    match unit {
        Unit::Share => percent(value),
        Unit::Number(of) if of.is_empty() => plain(value),
        Unit::Number(of) => format!("{} {of}", plain(value)),
    }
}

/// A span of time as people say it: `3.9 ms`, `6.2 s`, `1 min 20 s`, `2 h 5 min`.
pub(super) fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs_f64().abs();
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 0.0005 => "0 s".to_owned(),
        s if s < 1.0 => format!("{} ms", plain((s * 10_000.0).round() / 10.0)),
        s if s < 10.0 => format!("{} s", plain((s * 10.0).round() / 10.0)),
        s if s < 59.5 => format!("{whole} s"),
        s if s < 3570.0 => two(whole, 60, "min", "s"),
        s if s < 86_400.0 => two(whole.div_ceil(60), 60, "h", "min"),
        _ => two(whole / 3600, 24, "days", "h"),
    }
}

fn two(count: u64, of: u64, large: &str, small: &str) -> String {
    match (count / of, count % of) {
        (many, 0) => format!("{many} {large}"),
        (many, rest) => format!("{many} {large} {rest} {small}"),
    }
}

/// A day and a time, in UTC like everything flipback says.
pub(super) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The time of day, with tenths; the day too where it is another one.
pub(super) fn clock(at: Timestamp, day_of: Timestamp) -> String {
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let time = at.strftime("%H:%M:%S%.1f").to_string();
    if day(at) == day(day_of) {
        time
    } else {
        format!("{} {time}", day(at))
    }
}

/// Bytes as people say them.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", plain((count as f64 / 102.4).round() / 10.0)),
        _ => format!("{} MiB", plain((count as f64 / 104_857.6).round() / 10.0)),
    }
}

/// A capital where a sentence begins.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

/// Text from anywhere as it may be shown: without escape sequences of terminals, controls, and signs that turn or hide
/// the text around them; at most `chars_max` long.
pub(super) fn shown(text: &str, chars_max: usize) -> String {
    let bare = anstream::adapter::strip_str(text).to_string();
    let safe = |c: char| match c {
        '\n' | '\t' => Some(c),
        '\r' => None,
        c if c.is_control() => Some(ODD),
        // Directions, joiners and other signs without width: text must look like what it is.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}' => Some(ODD),
        c => Some(c),
    };
    let mut out: String = bare.chars().filter_map(safe).take(chars_max + 1).collect();
    if out.chars().count() > chars_max {
        out = out.chars().take(chars_max.saturating_sub(2)).chain([' ', '…']).collect();
    }
    out
}

/// The same in one line.
pub(super) fn line(text: &str, chars_max: usize) -> String {
    let shown = shown(text, chars_max);
    if shown.contains(['\n', '\t']) {
        shown.split_whitespace().collect::<Vec<_>>().join(" ")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_what_people_say() {
        let of = |seconds: f64| span(SignedDuration::from_secs_f64(seconds));
        let spans = [0.0, 0.0039, 0.25, 4.8, 6.0, 34.2, 59.7, 80.0, 3600.0, 7500.0, 200_000.0].map(of);
        assert_eq!(
            spans,
            [
                "0 s",
                "3.9 ms",
                "250 ms",
                "4.8 s",
                "6 s",
                "34 s",
                "1 min",
                "1 min 20 s",
                "1 h",
                "2 h 5 min",
                "2 days 7 h"
            ]
        );
        assert_eq!(of(-4.8), "4.8 s");
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        assert_eq!(
            [0.299, 0.05, 0.9999, 0.0004, 1.0, 0.0].map(percent),
            ["29.9 %", "5 %", "99.99 %", "0.04 %", "100 %", "0 %"]
        );
        assert_eq!(
            [0.0312, 3.256, 31.4359, 314.159, 12.0].map(plain),
            ["0.031", "3.26", "31.4", "314", "12"]
        );
        assert_eq!([12, 2048, 5_400_000].map(bytes), ["12 B", "2 KiB", "5.1 MiB"]);
    }

    #[test]
    fn hostile_text_is_shown_and_does_nothing() {
        assert_eq!(shown("\u{1b}[31mred\u{1b}[0m\r\n\u{1b}]0;title\u{7}x\0y", 100), "red\nxy");
        assert_eq!(shown("a\u{202e}b\u{200b}c", 100), "a\u{fffd}b\u{fffd}c");
        assert_eq!(
            shown("a\u{9b}31mb\u{85}c", 100).matches(ODD).count(),
            2,
            "controls of the upper range too"
        );
        assert_eq!(shown("abcdefghij", 6), "abcd …");
        assert_eq!(line("a\n\tb  c", 100), "a b c");
        assert_eq!(line("a  b", 100), "a  b", "what stands in one line stays as it is");
    }

    #[test]
    fn a_time_of_another_day_names_its_day() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(clock(at("2026-11-21T04:12:34.567Z"), at("2026-11-21T23:00:00Z")), "04:12:34.5");
        assert_eq!(
            clock(at("2026-11-20T23:59:59Z"), at("2026-11-21T00:00:10Z")),
            "2026-11-20 23:59:59.0"
        );
    }
}
