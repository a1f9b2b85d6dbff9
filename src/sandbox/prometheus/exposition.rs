//! The text format 0.0.4, as the sandbox's applications write it. A line that is not understood fails the scrape.

use super::samples::Labels;

/// Reads every sample of an exposition; timestamps of the exposer are not known to it.
pub(super) fn parse(text: &str) -> Option<Vec<(Labels, f64)>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(sample)
        .collect()
}

fn sample(line: &str) -> Option<(Labels, f64)> {
    let mut labels = Labels::new();
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, inside(rest, &mut labels)?),
        None => line.split_once(' ')?,
    };
    labels.insert("__name__".to_owned(), name.trim().to_owned());
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().ok()?,
    };
    Some((labels, value))
}

/// Reads labels up to the closing brace and returns what follows it.
fn inside<'a>(text: &'a str, labels: &mut Labels) -> Option<&'a str> {
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    other => other,
                }),
                c => value.push(c),
            }
        }
        labels.insert(name.trim().to_owned(), value);
        let after = chars.as_str();
        rest = after.strip_prefix(',').unwrap_or(after).trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a x\n# TYPE a counter\na{b=\"c,}\\\"d\",e=\"\"} 3\n\nf 1.5e-7\ng_bucket{le=\"+Inf\"} +Inf\n";
        let found = parse(text).expect("sound");
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].0.get("b").map(String::as_str), Some("c,}\"d"));
        assert_eq!(found[0].0.get("e").map(String::as_str), Some(""));
        assert!((found[1].1 - 1.5e-7).abs() < f64::EPSILON);
        assert!(found[2].1.is_infinite());
    }

    #[test]
    fn a_line_that_is_no_sample_fails_the_scrape() {
        for text in ["a", "a{b=\"c\" 1", "a{b=c} 1", "a x"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
