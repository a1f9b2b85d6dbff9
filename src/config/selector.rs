//! Selectors written by hand: plain, with known placeholders, and telling colors apart.
//!
//! Refuses to be a parser: the live Prometheus has the last word, in `flipback check`.

use super::raw::Table;

/// The selector given by hand, else the preset's; the custom preset has none, which is a problem.
pub(super) fn selector_or(table: &Table<'_>, name: &str, given: Option<String>, preset: &str) -> Option<String> {
    if given.is_some() || table.get(name).is_some() {
        return given;
    }
    if preset.is_empty() {
        table.problems.add(
            table
                .missing(name, "a selector, which the preset \"custom\" asks for")
                .hint(EXAMPLE),
        );
        return None;
    }
    Some(preset.to_owned())
}

const EXAMPLE: &str = r#"such as 'http_requests_total{namespace="{namespace}",pod=~"{deployment}-.+"}'"#;

/// The placeholders that are filled in for each color.
pub(super) const PLACEHOLDERS: [&str; 5] = ["namespace", "color", "value", "deployment", "service"];

/// Whether a text reads otherwise for each color.
pub(super) fn tells_apart(text: &str) -> bool {
    placeholders(text).any(|word| PLACEHOLDERS.contains(&word) && word != "namespace")
}

/// What a selector selects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Counters.
    Counter,
    /// The buckets of a classic histogram.
    Buckets,
    /// A native histogram.
    Native,
}

/// A plain vector selector whose placeholders are known and tell colors apart.
pub(super) fn selector(table: &Table<'_>, name: &str, form: Form) -> Option<String> {
    let node = table.get(name)?.clone();
    let text = table.text(name)?;
    let outside = outside_quotes(&text);
    let refuse = |allowed: &str, hint: &str| {
        table.problems.add(node.problem(allowed).hint(hint));
        None
    };
    let Some(outside) = outside else {
        return refuse("a selector whose quotes are closed", EXAMPLE);
    };
    if outside.contains(['(', '[', ')', ']']) {
        return refuse(
            "a plain vector selector: name{label=\"value\"}",
            "no rate(), no [1m]: flipback takes the differences of the raw counters itself",
        );
    }
    if outside.matches('{').count() != 1 || outside.matches('}').count() != 1 || !outside.trim_end().ends_with('}') {
        return refuse("a vector selector with its labels in braces", EXAMPLE);
    }
    let metric = outside.split('{').next().unwrap_or_default().trim();
    if form == Form::Buckets && !metric.is_empty() && !metric.ends_with("_bucket") {
        return refuse(
            "the histogram's series, whose name ends in _bucket",
            "such as http_request_duration_seconds_bucket; a native histogram is told by histogram = \"native\"",
        );
    }
    if form == Form::Native && metric.ends_with("_bucket") {
        return refuse(
            "the native histogram itself, whose name does not end in _bucket",
            "such as http_request_duration_seconds",
        );
    }
    if form != Form::Counter && outside.contains("le=") {
        return refuse("a selector without le", "flipback adds the bucket bound itself");
    }
    if placeholders(&outside).next().is_some() {
        return refuse("placeholders within quotes only", EXAMPLE);
    }
    if let Some(unknown) = placeholders(&text).find(|word| !PLACEHOLDERS.contains(word)) {
        return refuse(
            "the placeholders {namespace}, {color}, {value}, {deployment}, {service}",
            &format!("{{{unknown}}} is none of them"),
        );
    }
    if !tells_apart(&text) {
        return refuse(
            "a selector with {color}, {value}, {deployment} or {service} in it",
            "without one, every color reads the same numbers, and no release could be told from the other",
        );
    }
    Some(text)
}

/// The text without what stands in quotes; `None` when a quote is not closed.
pub(super) fn outside_quotes(text: &str) -> Option<String> {
    let mut outside = String::with_capacity(text.len());
    let mut within = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match within {
            // Back-quoted text has no escapes in PromQL.
            Some(quote) if letter == '\\' && quote != '`' => {
                letters.next();
            }
            Some(quote) if letter == quote => within = None,
            Some(_) => {}
            None if matches!(letter, '"' | '\'' | '`') => within = Some(letter),
            None => outside.push(letter),
        }
    }
    within.is_none().then_some(outside)
}

/// The bare words in braces within the quotes of a selector.
pub(super) fn placeholders(selector: &str) -> impl Iterator<Item = &str> {
    selector.split('{').skip(1).filter_map(|rest| {
        let (word, _) = rest.split_once('}')?;
        (!word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase())).then_some(word)
    })
}
