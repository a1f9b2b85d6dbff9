//! The forms of a report: templates that escape by themselves, whatever is put into them. Pure.

use minijinja::{AutoEscape, Environment, Error, Output, State, Value, context, escape_formatter, syntax::SyntaxConfig, value::Serde};

use super::page::Page;

const HTML: &str = include_str!("report.html");
const MARKDOWN: &str = include_str!("report.md");
/// The name of the escaping of tickets.
const TICKET: &str = "markdown";
/// Bytes of a ticket: GitHub takes 65,536 signs in a comment, Jira 32,767 where nobody raised it.
pub(super) const MARKDOWN_BYTES_MAX: usize = 32_000;

/// What stands in the page before the hash of the `incident.json` that it was made from.
pub(super) const OF_INCIDENT: &str = "<meta name=\"flipback-incident-sha256\" content=\"";

/// The page, of an `incident.json` with this hash.
pub(super) fn html(page: &Page, of: &str) -> Result<String, Error> {
    let of = Value::from_safe_string(format!("{OF_INCIDENT}{of}\">"));
    environment()?
        .get_template("report.html")?
        .render(context! { page => Serde(page), of })
}

/// The ticket; lists grow shorter until it fits.
pub(super) fn markdown(page: &Page) -> Result<String, Error> {
    let environment = environment()?;
    let template = environment.get_template("report.md")?;
    let (mut text, page) = (String::new(), Value::from(Serde(page)));
    for rows in [20, 8, 3, 1] {
        text = template.render(context! { page => page.clone(), rows })?;
        if text.len() <= MARKDOWN_BYTES_MAX {
            break;
        }
    }
    Ok(text)
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".md") {
            AutoEscape::Custom(TICKET.into())
        } else {
            AutoEscape::Html
        }
    });
    environment.set_formatter(format);
    environment.add_filter("fenced", fenced);
    environment.add_filter("code", code);
    environment.add_template("report.html", HTML)?;
    environment.add_template("report.md", MARKDOWN)?;
    Ok(environment)
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if !matches!(state.auto_escape(), AutoEscape::Custom(_)) {
        return escape_formatter(out, state, value);
    }
    let written = match (value.as_str(), value.is_safe()) {
        (Some(text), true) => out.write_str(text),
        (Some(text), false) => out.write_str(&quiet(text)),
        (None, _) => out.write_str(&quiet(&value.to_string())),
    };
    written.map_err(Error::from)
}

/// Text from anywhere as it may stand in a ticket, tables included: no markup, no mention, no link, no second line.
pub(super) fn quiet(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '{' | '}' | '!' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' | '\t' => out.push(' '),
            // A sign without width keeps `@team`, `#12` and `https://` from becoming what they look like.
            '@' => out.push_str("@\u{200b}"),
            '#' if chars.peek().is_some_and(char::is_ascii_alphanumeric) => out.push_str("#\u{200b}"),
            ':' if chars.peek() == Some(&'/') => out.push_str(":\u{200b}"),
            '.' if out.ends_with("www") => out.push_str("\u{200b}."),
            c => out.push(c),
        }
    }
    out
}

/// Text as a block of code, whatever fences it holds itself.
fn fenced(text: &str) -> Value {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    Value::from_safe_string(format!("{fence}text\n{text}\n{fence}"))
}

/// A name as code in a line.
fn code(text: &str) -> Value {
    let plain: String = text.chars().filter(|c| *c != '`' && *c != '|' && !c.is_control()).collect();
    Value::from_safe_string(format!("`{plain}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_only_text_in_a_ticket() {
        insta::assert_snapshot!(quiet(
            "<img src=x onerror=alert(1)> [click](https://evil.example) @everyone #12 | cell | `code` **b** ~s~ www.evil.example $x$ &amp; \\ \n# head"
        ));
    }

    #[test]
    fn a_block_of_code_cannot_be_left() {
        let block = fenced("a\n```\n# out\n````").to_string();
        assert!(block.starts_with("`````text\n") && block.ends_with("\n`````"), "{block}");
    }
}
