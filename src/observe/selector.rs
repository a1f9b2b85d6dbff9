//! The little PromQL that flipback must understand: filling placeholders, adding a matcher, spelling a bucket bound.
//!
//! It refuses to be a parser: what is no plain `name{label="value"}` is passed on as it is, and the live Prometheus has the last word.
//! Filled-in text is escaped where it lands. Inside quotes as a string; after `=~` and `!~` as a literal of the regular expression first,
//! so that the dot of a name stays a dot. A placeholder outside quotes is an error: there is no way to escape there.

use std::time::Duration;

use crate::model::TimeUnit;

/// What the placeholders of one color stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// `{namespace}`.
    pub namespace: &'a str,
    /// `{color}`.
    pub color: &'a str,
    /// `{value}`: the Service's selector value of the color.
    pub value: &'a str,
    /// `{deployment}`.
    pub deployment: Option<&'a str>,
    /// `{service}`: the Service that reaches this color alone.
    pub service: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// The text for a placeholder, or a sentence that says why there is none.
    fn get(&self, word: &str) -> Result<&'a str, String> {
        match word {
            "namespace" => Ok(self.namespace),
            "color" => Ok(self.color),
            "value" => Ok(self.value),
            "deployment" => self.deployment.ok_or_else(|| {
                format!(
                    "the selector uses {{deployment}}, but color {} names no deployment: set its `deployment`, or write a selector without it",
                    self.color
                )
            }),
            "service" => self.service.ok_or_else(|| {
                format!(
                    "the selector uses {{service}}, but color {} names no Service of its own: set its `service`, or write a selector without it",
                    self.color
                )
            }),
            other => Err(format!(
                "the selector has an unknown placeholder {{{other}}}: known are {{namespace}}, {{color}}, {{value}}, {{deployment}} and {{service}}"
            )),
        }
    }
}

/// Where the scan of a selector stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Outside,
    Quoted { quote: char, regex: bool },
}

/// Fills every placeholder of `template`, escaped for its place; the error is a sentence for a person.
pub(super) fn fill(template: &str, facts: &Facts<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(template.len() + 32);
    let mut place = Place::Outside;
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        if let Some((word, after)) = placeholder(rest) {
            match place {
                Place::Outside => {
                    return Err(format!(
                        "the placeholder {{{word}}} stands outside quotes: write label=\"{{{word}}}\""
                    ));
                }
                Place::Quoted { quote, regex } => escape(facts.get(word)?, quote, regex, &mut out),
            }
            rest = after;
            continue;
        }
        let mut chars = rest.chars();
        chars.next();
        match place {
            Place::Outside if matches!(c, '"' | '\'' | '`') => {
                let before = out.trim_end();
                let regex = before.ends_with("=~") || before.ends_with("!~");
                place = Place::Quoted { quote: c, regex };
            }
            Place::Quoted { quote, .. } if c == '\\' && quote != '`' => {
                out.push(c);
                if let Some(escaped) = chars.next() {
                    out.push(escaped);
                }
                rest = chars.as_str();
                continue;
            }
            Place::Quoted { quote, .. } if c == quote => place = Place::Outside,
            Place::Outside | Place::Quoted { .. } => {}
        }
        out.push(c);
        rest = chars.as_str();
    }
    if place == Place::Outside {
        Ok(out)
    } else {
        Err("the selector has a quote that is never closed".to_owned())
    }
}

/// The word and the remaining text, if `text` starts with a placeholder: lower-case letters in braces and nothing else.
fn placeholder(text: &str) -> Option<(&str, &str)> {
    let (word, after) = text.strip_prefix('{')?.split_once('}')?;
    (!word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase())).then_some((word, after))
}

/// Appends `text` as a literal of its place.
fn escape(text: &str, quote: char, regex: bool, out: &mut String) {
    for c in text.chars() {
        let meta = regex && r"\.+*?()|[]{}^$".contains(c);
        // A raw (backquoted) string knows no escapes; everywhere else the backslash itself is escaped.
        match (meta, quote) {
            (true, '`') => out.push('\\'),
            (true, _) => out.push_str(r"\\"),
            (false, _) => {}
        }
        if quote != '`' && (c == '\\' || c == quote) {
            out.push('\\');
        }
        match c {
            '\n' if quote != '`' => out.push_str("\\n"),
            _ => out.push(c),
        }
    }
}

/// One matcher as it is written: label, operator, quoted text.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Matcher<'a> {
    label: &'a str,
    text: &'a str,
}

/// The metric name and the matchers of a plain vector selector; `None` for anything else.
fn parse(selector: &str) -> Option<(&str, Vec<Matcher<'_>>)> {
    let selector = selector.trim();
    let (name, inner) = match selector.split_once('{') {
        Some((name, inner)) => (name.trim(), inner.strip_suffix('}')?),
        None => (selector, ""),
    };
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
        return None;
    }
    let mut matchers = Vec::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let label_end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        let (label, tail) = rest.split_at(label_end);
        let operator_and_text = tail.trim_start();
        let unquoted = operator_and_text.trim_start_matches(['=', '!', '~']).trim_start();
        let text_end = quoted(unquoted)?;
        let after = unquoted.get(text_end..)?;
        let whole = rest.len() - after.len();
        matchers.push(Matcher {
            label,
            text: rest.get(..whole)?,
        });
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some((name, matchers)).filter(|(name, matchers)| !name.is_empty() || !matchers.is_empty())
}

/// Bytes of the quoted string that `text` starts with.
fn quoted(text: &str) -> Option<usize> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next().filter(|(_, c)| matches!(c, '"' | '\'' | '`'))?;
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote != '`' {
            chars.next();
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}

/// The selector with one more matcher; the error is a sentence for a person.
pub(super) fn with_matcher(selector: &str, matcher: &str) -> Result<String, String> {
    let Some((name, matchers)) = parse(selector) else {
        return Err(format!(
            "{selector} is no plain selector such as name{{label=\"value\"}}: latency rules need one, to pick buckets from it"
        ));
    };
    if matchers.iter().any(|known| known.label == "le") {
        return Err(format!("{selector} must not select on `le`: flipback adds the bucket itself"));
    }
    let mut parts: Vec<&str> = matchers.iter().map(|known| known.text).collect();
    parts.push(matcher);
    Ok(format!("{name}{{{}}}", parts.join(",")))
}

/// The selector with another metric name; `None` for anything but a plain selector with a name.
pub(super) fn renamed(selector: &str, rename: impl Fn(&str) -> String) -> Option<String> {
    let (name, matchers) = parse(selector)?;
    if name.is_empty() {
        return None;
    }
    let parts: Vec<&str> = matchers.iter().map(|known| known.text).collect();
    Some(format!("{}{{{}}}", rename(name), parts.join(",")))
}

/// Labels that scraping itself puts on every series of a target, so that other metrics of the target bear them too.
const TARGET_LABELS: [&str; 5] = ["job", "instance", "pod", "namespace", "container"];

/// Selector of the process start times of the targets that `selector` reads.
///
/// Built from the selector's own target labels where it has them; otherwise every start time is matched against it, which costs the
/// server one pass over all of its processes.
///
/// Envoy beside an application is as old as Istio's agent. What a merged scrape calls `process_start_time_seconds` is the application's,
/// which may restart while Envoy counts on: by that every request since the pod began would count anew.
pub(super) fn process_start(selector: &str) -> String {
    let envoy = parse(selector).map_or_else(|| selector.contains("istio_request"), |(name, _)| name.starts_with("istio_"));
    let start = if envoy {
        "istio_agent_process_start_time_seconds"
    } else {
        "process_start_time_seconds"
    };
    let matchers: Vec<Matcher<'_>> = parse(selector)
        .map(|(_, matchers)| matchers.into_iter().filter(|m| TARGET_LABELS.contains(&m.label)).collect())
        .unwrap_or_default();
    if matchers.iter().any(|m| matches!(m.label, "job" | "instance" | "pod")) {
        let parts: Vec<&str> = matchers.iter().map(|m| m.text).collect();
        format!("{start}{{{}}}", parts.join(","))
    } else {
        format!("{start} and on (job, instance) ({selector})")
    }
}

/// Matches `le` of the bucket that counts everything.
pub(super) const ALL: &str = "[+]?[Ii]nf";

/// A bucket bound as an exact decimal number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bound {
    /// Digits before the point, without leading zeros; empty for 0.
    whole: String,
    /// Digits after the point, without trailing zeros.
    fraction: String,
    /// What it is called: `0.5`.
    pub text: String,
    /// The number.
    pub value: f64,
    /// The unit it is written in.
    pub unit: TimeUnit,
}

impl Bound {
    /// The bound of `threshold` in the histogram's unit, exact to the nanosecond.
    pub(super) fn new(threshold: Duration, unit: TimeUnit) -> Self {
        let (scale, digits) = match unit {
            TimeUnit::Seconds => (1_000_000_000, 9),
            TimeUnit::Milliseconds => (1_000_000, 6),
        };
        let nanos = threshold.as_nanos();
        let whole = match nanos / scale {
            0 => String::new(),
            whole => whole.to_string(),
        };
        let fraction = format!("{:0digits$}", nanos % scale).trim_end_matches('0').to_owned();
        let leading = if whole.is_empty() { "0" } else { whole.as_str() };
        let text = if fraction.is_empty() {
            leading.to_owned()
        } else {
            format!("{leading}.{fraction}")
        };
        let value = text.parse().expect("invariant: digits with one point are a number");
        Self {
            whole,
            fraction,
            text,
            value,
            unit,
        }
    }

    /// A regular expression of every way exposition libraries spell the bound: `1`, `1.0`, `1e+00`, `+1`, `01.`.
    /// Brackets instead of backslashes, so that it needs no escaping inside quotes.
    pub(super) fn spellings(&self) -> String {
        let Self { whole, fraction, .. } = self;
        let plain = if fraction.is_empty() {
            format!("{whole}([.]0*)?")
        } else {
            format!("{whole}[.]{fraction}0*")
        };
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        let mut rest = significant.chars();
        let Some(first) = rest.next() else {
            return "[+]?0+([.]0*)?".to_owned();
        };
        let exponent = if whole.is_empty() {
            let zeros = digits.len() - significant.len();
            -(i32::try_from(zeros).unwrap_or(i32::MAX - 1) + 1)
        } else {
            i32::try_from(whole.len()).unwrap_or(i32::MAX) - 1
        };
        let mantissa = match rest.as_str().trim_end_matches('0') {
            "" => format!("{first}([.]0*)?"),
            rest => format!("{first}[.]{rest}0*"),
        };
        let sign = match exponent {
            0 => "[+-]?",
            1.. => "[+]?",
            _ => "-",
        };
        format!("[+]?(0*{plain}|{mantissa}[eE]{sign}0*{})", exponent.unsigned_abs())
    }

    /// The unit's symbol.
    pub(super) fn unit_text(&self) -> &'static str {
        match self.unit {
            TimeUnit::Seconds => "s",
            TimeUnit::Milliseconds => "ms",
        }
    }

    /// Whether a `le` label is this bound.
    pub(super) fn is(&self, le: f64) -> bool {
        (le - self.value).abs() <= self.value.abs() * 1e-12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'static> = Facts {
        namespace: "shop",
        color: "blue",
        value: "web.blue",
        deployment: Some("web.v1-blue"),
        service: Some("web-blue"),
    };

    #[test]
    fn placeholders_are_escaped_for_the_place_they_land_in() {
        let filled = fill(
            r#"x{namespace="{namespace}",v="{value}",pod=~"{deployment}-[a-z]{2}",w!~ '{value}',r=~`{value}`}"#,
            &FACTS,
        );
        insta::assert_snapshot!(filled.expect("fills"), @r#"x{namespace="shop",v="web.blue",pod=~"web\\.v1-blue-[a-z]{2}",w!~ 'web\\.blue',r=~`web\.blue`}"#);
    }

    #[test]
    fn a_colors_service_is_filled_in_as_a_literal() {
        let facts = Facts {
            service: Some("web.blue"),
            ..FACTS
        };
        let filled = fill(r#"x{service="{service}",name=~"{namespace}-{service}-.+"}"#, &facts);
        assert_eq!(filled.expect("fills"), r#"x{service="web.blue",name=~"shop-web\\.blue-.+"}"#);
    }

    #[test]
    fn a_hostile_value_cannot_leave_its_quotes() {
        let facts = Facts {
            value: "a\"} or up{x=\"\\",
            ..FACTS
        };
        let filled = fill(r#"x{v="{value}"}"#, &facts).expect("fills");
        assert_eq!(filled, r#"x{v="a\"} or up{x=\"\\"}"#);
        assert!(parse(&filled).is_some_and(|(_, matchers)| matchers.len() == 1), "{filled}");
        let raw = fill(r#"x{v=~"{value}"}"#, &facts).expect("fills");
        assert!(parse(&raw).is_some_and(|(_, matchers)| matchers.len() == 1), "{raw}");
    }

    #[test]
    fn placeholders_that_cannot_be_filled_say_what_to_do() {
        let none = Facts {
            deployment: None,
            service: None,
            ..FACTS
        };
        let errors: Vec<String> = [
            fill(r#"x{pod="{deployment}"}"#, &none),
            fill(r#"x{service="{service}"}"#, &none),
            fill(r#"x{pod="{deploymnt}"}"#, &FACTS),
            fill("{value}_total", &FACTS),
            fill(r#"x{pod="a}"#, &FACTS),
        ]
        .into_iter()
        .map(|result| result.expect_err("refused"))
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn a_matcher_is_added_to_any_plain_selector() {
        let add = |selector: &str| with_matcher(selector, r#"le="1""#);
        assert_eq!(add("h_bucket").expect("plain"), r#"h_bucket{le="1"}"#);
        assert_eq!(add("h_bucket{}").expect("plain"), r#"h_bucket{le="1"}"#);
        assert_eq!(add(r#" h_bucket{ a = "}," , } "#).expect("plain"), r#"h_bucket{a = "},",le="1"}"#);
        assert_eq!(
            add(r#"{__name__="h",b=~'x\'y'}"#).expect("plain"),
            r#"{__name__="h",b=~'x\'y',le="1"}"#
        );
        for odd in ["sum(h_bucket)", "h_bucket offset 5m", r#"h{a="b"} + 1"#, "", "h{a}", r#"h{le="1"}"#] {
            assert!(add(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn process_start_follows_the_selectors_own_target_labels() {
        assert_eq!(
            process_start(r#"x_total{namespace="shop",pod=~"a-.+",status=~"5.."}"#),
            r#"process_start_time_seconds{namespace="shop",pod=~"a-.+"}"#
        );
        assert_eq!(
            process_start(r#"x_total{version="blue"}"#),
            r#"process_start_time_seconds and on (job, instance) (x_total{version="blue"})"#
        );
    }

    #[test]
    fn the_age_of_a_sidecar_is_not_that_of_the_application_beside_it() {
        let preset = r#"istio_requests_total{reporter="destination",destination_workload="web-blue"}"#;
        assert_eq!(
            process_start(preset),
            format!("istio_agent_process_start_time_seconds and on (job, instance) ({preset})")
        );
        assert_eq!(
            process_start(r#"istio_requests_total{pod=~"web-.+"}"#),
            r#"istio_agent_process_start_time_seconds{pod=~"web-.+"}"#
        );
        let free = "sum by (pod) (istio_requests_total)";
        assert!(process_start(free).starts_with("istio_agent_process_start_time_seconds and"));
    }

    #[test]
    fn a_bound_matches_every_spelling_and_no_neighbour() {
        let cases: [(u64, TimeUnit, &[&str], &[&str]); 6] = [
            (
                1000,
                TimeUnit::Seconds,
                &["1", "1.0", "1e+00", "1e0", "1.", "+1", "1.000", "1.0E-00"],
                &["10", "0.1", "1.5", "1e1", "11", "+Inf"],
            ),
            (
                1000,
                TimeUnit::Milliseconds,
                &["1000", "1000.0", "1e+03", "1e3", "1.0e+03"],
                &["100", "1", "10000", "1e-03", "1e+30"],
            ),
            (
                500,
                TimeUnit::Seconds,
                &["0.5", ".5", "0.50", "5e-01", "5e-1", "5.0e-01"],
                &["5", "0.05", "0.55", "5e+01", "0.25"],
            ),
            (
                2500,
                TimeUnit::Seconds,
                &["2.5", "2.50", "2.5e+00", "2.5e0"],
                &["25", "2.55", "2x5"],
            ),
            (5, TimeUnit::Seconds, &["0.005", "5e-03", "5.0e-3"], &["0.05", "5e-02"]),
            (1500, TimeUnit::Milliseconds, &["1500", "1.5e+03", "1500.0"], &["150", "1.5"]),
        ];
        for (millis, unit, hits, misses) in cases {
            let bound = Bound::new(Duration::from_millis(millis), unit);
            let pattern = regex::Regex::new(&format!("^(?:{})$", bound.spellings())).expect("a regular expression");
            for hit in hits {
                assert!(pattern.is_match(hit), "{hit} should be {} by {pattern}", bound.text);
                assert!(bound.is(hit.parse().expect("a number")), "{hit}");
            }
            for miss in misses {
                assert!(!pattern.is_match(miss), "{miss} should not be {} by {pattern}", bound.text);
            }
        }
    }
}
