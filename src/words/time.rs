//! Times in people's units.

use jiff::Timestamp;

/// `2026-11-21 04:12:34 UTC`.
pub(super) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `04:12 UTC`, with the day where it is another than that of `near`.
pub(super) fn clock(at: Timestamp, near: Timestamp) -> String {
    at.strftime(if same_day(at, near) { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" })
        .to_string()
}

/// `04:12:34 UTC`, with the day where it is another than that of `near`.
pub(super) fn clock_seconds(at: Timestamp, near: Timestamp) -> String {
    if same_day(at, near) {
        at.strftime("%H:%M:%S UTC").to_string()
    } else {
        stamp(at)
    }
}

fn same_day(one: Timestamp, other: Timestamp) -> bool {
    one.strftime("%F").to_string() == other.strftime("%F").to_string()
}

/// Seconds from one time to a later one; `None` where it is earlier, as after a clock was set back.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Option<f64> {
    let seconds = to.duration_since(from).as_secs_f64();
    (seconds >= 0.0).then_some(seconds)
}

/// Seconds as `8.4 ms`, `1.2 s`, `45 s`, `6 min 22 s`, `2 h 5 min`, `3 days 4 h`: two units at most.
pub(super) fn span(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole seconds of a span that is not negative; a float beyond u64 saturates"
    )]
    let whole = seconds.max(0.0).round() as u64;
    let two = |large: u64, one: &str, small: u64, other: &str| match small {
        0 => format!("{large} {one}"),
        small => format!("{large} {one} {small} {other}"),
    };
    match whole {
        _ if seconds < 0.0995 => format!("{:.1} ms", seconds.max(0.0) * 1000.0),
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..172_800 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "days", whole % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_span_is_told_in_two_units_at_most() {
        for (seconds, told) in [
            (0.0, "0.0 ms"),
            (0.008_432, "8.4 ms"),
            (0.25, "250 ms"),
            (0.999_6, "1.0 s"),
            (1.233, "1.2 s"),
            (9.96, "10 s"),
            (59.6, "1 min"),
            (382.0, "6 min 22 s"),
            (3600.0, "1 h"),
            (7_500.0, "2 h 5 min"),
            (172_800.0, "2 days"),
            (273_600.0, "3 days 4 h"),
            (-1.0, "0.0 ms"),
        ] {
            assert_eq!(span(seconds), told, "{seconds}");
        }
    }

    #[test]
    fn another_day_is_said() {
        let near = at("2026-11-21T00:03:00Z");
        assert_eq!(clock(at("2026-11-21T00:01:59Z"), near), "00:01 UTC");
        assert_eq!(clock(at("2026-11-20T23:59:00Z"), near), "2026-11-20 23:59 UTC");
        assert_eq!(clock_seconds(at("2026-11-20T23:59:07Z"), near), "2026-11-20 23:59:07 UTC");
    }

    #[test]
    fn time_that_ran_backwards_is_not_told() {
        assert_eq!(between(at("2026-11-21T00:03:00Z"), at("2026-11-21T00:02:00Z")), None);
    }
}
