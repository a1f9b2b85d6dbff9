//! PromQL expressions written by hand: closed, with known placeholders, telling colors apart, looking back over a known span.
//!
//! Refuses to be a parser: it reads quotes, brackets and the ranges in them, and the live Prometheus has the last word.

use std::time::Duration;

use super::{
    raw::Table,
    selector::{PLACEHOLDERS, outside_quotes, placeholders, tells_apart},
};

/// What stands for the spans of `windows`.
pub(super) const WINDOW: &str = "{window}";

const EXAMPLE: &str = r#"such as 'sum(rate(http_requests_total{namespace="{namespace}",pod=~"{deployment}-.+"}[1m]))'"#;

/// What an expression looks back over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// The longest range that is written out; `None`: it looks at one instant.
    pub(super) longest: Option<Duration>,
    /// Whether `[{window}]` stands in it.
    pub(super) windowed: bool,
}

/// Whether an expression must read other numbers for each color.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    /// A flip depends on it.
    Must,
    /// It only alerts, and may speak of the whole.
    May,
}

/// The expression at `name` and its span; what cannot be one is a problem.
pub(super) fn expression(table: &Table<'_>, name: &str, apart: Apart) -> Option<(String, Span)> {
    let node = table.get(name)?.clone();
    let text = table.text(name)?;
    let refuse = |allowed: &str, hint: &str| {
        table.problems.add(node.problem(allowed).hint(hint));
        None
    };
    let Some(outside) = outside_quotes(&text) else {
        return refuse("an expression whose quotes are closed", EXAMPLE);
    };
    if !balanced(&outside) {
        return refuse("an expression whose brackets are closed", EXAMPLE);
    }
    let span = match span(&outside) {
        Ok(span) => span,
        Err(range) => {
            return refuse(
                "ranges such as [5m], [1h30m], [10m:1m] or [{window}]",
                &format!("[{range}] is none of them: flipback must know how far an expression looks back"),
            );
        }
    };
    if outside.matches(WINDOW).count() != outside.matches("[{window}").count() {
        return refuse("{window} as a range: [{window}]", "it stands for the spans of `windows`");
    }
    let inside = placeholders(&text).filter(|word| *word != "window").count();
    if placeholders(&outside).any(|word| word != "window") {
        return refuse("placeholders within quotes only", EXAMPLE);
    }
    if placeholders(&text).count() - inside != outside.matches(WINDOW).count() {
        return refuse("{window} as a range: [{window}]", "within quotes it is a text like any other");
    }
    if let Some(unknown) = placeholders(&text).find(|word| *word != "window" && !PLACEHOLDERS.contains(word)) {
        return refuse(
            "the placeholders {namespace}, {color}, {value}, {deployment}, {service} and [{window}]",
            &format!("{{{unknown}}} is none of them"),
        );
    }
    if apart == Apart::Must && !tells_apart(&text) {
        return refuse(
            "an expression with {color}, {value}, {deployment} or {service} in it, or action = \"alert\"",
            "without one, every color reads the same number, and a release could not be told from the other",
        );
    }
    Some((text, span))
}

/// Whether every bracket is closed by its own kind.
fn balanced(outside: &str) -> bool {
    let mut open = Vec::new();
    for letter in outside.chars() {
        match letter {
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' if open.pop() != Some(letter) => return false,
            _ => {}
        }
    }
    open.is_empty()
}

/// The ranges of an expression without its quotes; a range that cannot be read is the error.
fn span(outside: &str) -> Result<Span, &str> {
    let mut span = Span::default();
    for range in outside.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
        // A subquery looks back over what stands before the colon; the step behind it is no span.
        let over = range.split(':').next().unwrap_or_default().trim();
        if over == WINDOW {
            span.windowed = true;
        } else {
            let length = length(over).ok_or(range)?;
            span.longest = span.longest.max(Some(length));
        }
    }
    Ok(span)
}

/// PromQL's `1h30m`, or its plain number of seconds.
fn length(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok().filter(|length| !length.is_zero());
    }
    let mut whole = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        whole = whole.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
        rest = tail;
    }
    Some(whole).filter(|length| !length.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_longest_range_is_found_in_functions_and_subqueries() {
        for (text, seconds) in [
            ("rate(x[5m])", Some(300)),
            ("rate(x[1m]) / rate(y[1h30m])", Some(5400)),
            ("max_over_time(rate(x[1m])[10m:30s])", Some(600)),
            ("max_over_time(x[ 10m : ])", Some(600)),
            ("x[90]", Some(90)),
            ("x offset 1d", None),
        ] {
            assert_eq!(span(text).expect("readable").longest, seconds.map(|s| SECOND * s), "{text}");
        }
        assert_eq!(
            span("rate(x[{window}]) / rate(x[1m])"),
            Ok(Span {
                longest: Some(SECOND * 60),
                windowed: true
            })
        );
    }

    #[test]
    fn a_range_that_cannot_be_read_is_named() {
        for range in ["$__rate_interval", "5", "five", "5M", "", "0s", "99999999999999999999d", "-5"] {
            let text = format!("rate(x[{range}])");
            let read = span(&text);
            assert_eq!(
                read,
                if range == "5" {
                    Ok(Span {
                        longest: Some(SECOND * 5),
                        windowed: false,
                    })
                } else {
                    Err(range)
                }
            );
        }
    }

    #[test]
    fn brackets_close_their_own_kind() {
        assert!(balanced("sum by (x) (rate(y{}[5m]))"));
        for text in ["sum(x", "x)", "x[5m)", "x{(})"] {
            assert!(!balanced(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
            let _ = (span(&text), balanced(&text), length(&text));
        }
    }
}
