//! The units people write: durations (`"30s"`), shares (`0.05`, `"5 %"`) and sizes (`"256 KiB"`).
//!
//! Refuses to guess: a bare number is no duration, and `5M`, which humantime reads as five months, is refused with a hint.

use std::time::Duration;

/// Why a text is not the quantity it should be; carries a hint where one can be given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotOne(pub(super) Option<String>);

/// Reads `30s`, `1m 30s`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, NotOne> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return Err(NotOne(Some(format!("add a unit: \"{number}s\", \"{number}ms\" or \"{number}m\""))));
    }
    if text.split_whitespace().any(in_months) {
        return Err(NotOne(Some(format!(
            "\"M\" means months; minutes are \"{}\"",
            text.replace('M', "m")
        ))));
    }
    humantime::parse_duration(text).map_err(|_| NotOne(None))
}

/// Whether a part such as `5M` counts months.
fn in_months(part: &str) -> bool {
    part.strip_suffix('M')
        .is_some_and(|number| number.ends_with(|c: char| c.is_ascii_digit()) || number.is_empty())
}

/// Prints a duration as the file would write it.
pub(super) fn print(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads a bare number as so many seconds, or a duration with its unit.
pub(super) fn seconds(text: &str) -> Result<Duration, NotOne> {
    scaled(text, 1.0)
}

/// Reads a bare number as so many milliseconds, or a duration with its unit.
pub(super) fn milliseconds(text: &str) -> Result<Duration, NotOne> {
    scaled(text, 1e-3)
}

fn scaled(text: &str, unit_seconds: f64) -> Result<Duration, NotOne> {
    match text.trim().parse::<f64>() {
        Ok(number) => Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| NotOne(None)),
        Err(_) => duration(text),
    }
}

/// Reads `0.05` or `5 %` as a fraction.
pub(super) fn share(text: &str) -> Result<f64, NotOne> {
    let text = text.trim();
    let Some(percent) = text.strip_suffix('%') else {
        return number(text);
    };
    // Shifting the point, unlike dividing by 100, makes 99.9 % the very number 0.999.
    let percent = percent.trim_end();
    number(percent).and_then(|plain| match percent.contains(['e', 'E']) {
        true => Ok(plain / 100.0),
        false => number(&format!("{percent}e-2")),
    })
}

/// Reads a number that is neither infinite nor none.
pub(super) fn number(text: &str) -> Result<f64, NotOne> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite())
        .ok_or(NotOne(None))
}

/// Reads `65536`, `256 KiB`, `1 MiB`, `2 GiB`, `10 kB`.
pub(super) fn bytes(text: &str) -> Result<u64, NotOne> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(NotOne(None)),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or(NotOne(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_capital_m_is_refused_with_a_hint() {
        assert_eq!(duration("5M"), Err(NotOne(Some("\"M\" means months; minutes are \"5m\"".into()))));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
    }

    #[test]
    fn a_bare_number_is_no_duration_but_for_the_scripts_variables() {
        assert!(duration("30").is_err());
        assert_eq!(seconds("30"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(milliseconds("1500"), Ok(Duration::from_millis(1500)));
        assert!(seconds("-1").is_err());
        assert!(seconds("inf").is_err());
    }

    #[test]
    fn five_percent_is_a_twentieth() {
        for text in ["0.05", "5%", "5 %", " 5.0 % "] {
            assert!((share(text).expect("a share") - 0.05).abs() < 1e-12, "{text}");
        }
        assert_eq!(share("99.9 %").map(f64::to_bits), Ok(0.999_f64.to_bits()));
        assert_eq!(share("1e1 %").map(f64::to_bits), Ok(0.1_f64.to_bits()));
        for text in ["", "%", "five", "nan", "inf %"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(bytes("256 KiB"), Ok(262_144));
        assert_eq!(bytes("10kB"), Ok(10_000));
        assert_eq!(bytes("2 GiB"), Ok(2_147_483_648));
        assert_eq!(bytes("7"), Ok(7));
        assert!(bytes("99999999999999999999").is_err());
        assert!(bytes("18446744073709551615 KiB").is_err());
        assert!(bytes("KiB").is_err());
    }
}
