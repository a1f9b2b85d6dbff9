//! The two forms of a mail's text: plain, and simple HTML that reads in light and dark, on a phone, and with pictures
//! blocked. Pure. Nothing is loaded from anywhere; what anybody wrote is text.

use std::fmt::Write as _;

use super::{Parcel, standing};
use crate::model::Severity;

/// The Content-ID of the picture.
pub(super) const PICTURE: &str = "what-happened@flipback";

/// A text without what could end a header's line.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The plain text: the news, why, what to do, then the facts.
pub(super) fn plain(parcel: &Parcel<'_>) -> String {
    let message = parcel.message;
    let next = message.next.as_ref().map(|next| format!("What to do: {next}"));
    let facts: Vec<String> = message.facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value)).collect();
    let sentence = Some(message.sentence.clone()).filter(|sentence| !sentence.is_empty());
    let paragraphs: Vec<String> = [Some(message.title.clone()), sentence, next, Some(facts.join("\n"))]
        .into_iter()
        .flatten()
        .collect();
    format!(
        "{}\n\n-- \nflipback, message {}\n",
        paragraphs.join("\n\n"),
        one_line(&parcel.announcement.id)
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Advice with its commands, which stand in backticks, as something to copy; a backtick without its other one is only a sign.
fn advice(text: &str) -> String {
    const CODE: &str = r#"<code style="font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.93em">"#;
    let pieces: Vec<&str> = text.split('`').collect();
    let mut out = String::with_capacity(text.len() + 100);
    for (n, piece) in pieces.iter().enumerate() {
        let is_code = n % 2 == 1 && n + 1 < pieces.len();
        match is_code {
            true => out.extend([CODE, &escaped(piece), "</code>"]),
            false if n % 2 == 1 => out.extend(["`", &escaped(piece)]),
            false => out.push_str(&escaped(piece)),
        }
    }
    out
}

/// A bar in the color of the news; the text keeps the reader's own colors, so that dark stays dark.
fn color(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Critical => ("#d1242f", "Critical"),
        Severity::Warning => ("#bf8700", "Warning"),
        Severity::Info => ("#1a7f37", "Good to know"),
    }
}

/// The HTML; with the picture, where there is one.
pub(super) fn html(parcel: &Parcel<'_>, picture: bool) -> String {
    let (a, message) = (parcel.announcement, parcel.message);
    let (bar, loudness) = color(message.severity);
    let mut body = String::new();
    let _ = write!(
        body,
        r#"<p style="margin:0 0 4px;font-size:13px;color:{bar};font-weight:600">{loudness}</p>
<h1 style="margin:0 0 12px;font-size:20px;line-height:1.3">{}</h1>
"#,
        escaped(&message.title)
    );
    if !message.sentence.is_empty() {
        let _ = writeln!(body, r#"<p style="margin:0 0 16px">{}</p>"#, escaped(&message.sentence));
    }
    if let Some(next) = &message.next {
        let _ = writeln!(
            body,
            r#"<p style="margin:0 0 16px;padding:10px 12px;border:1px solid {bar};border-radius:6px"><strong>What to do:</strong> {}</p>"#,
            advice(next)
        );
    }
    if let Some(link) = standing::link(a) {
        let _ = writeln!(
            body,
            r#"<p style="margin:0 0 16px"><a href="{}" style="display:inline-block;padding:9px 16px;border-radius:6px;background:#0969da;color:#ffffff;text-decoration:none;font-weight:600">Open the report</a></p>"#,
            escaped(link)
        );
    }
    if picture {
        let _ = writeln!(
            body,
            r#"<p style="margin:0 0 16px"><img src="cid:{PICTURE}" alt="The measurements around what happened" style="max-width:100%;height:auto;border-radius:6px"></p>"#
        );
    }
    body.push_str(r#"<table role="presentation" cellpadding="0" cellspacing="0" style="border-collapse:collapse;font-size:14px">"#);
    for fact in &message.facts {
        let _ = write!(
            body,
            r#"
<tr><td style="padding:3px 16px 3px 0;vertical-align:top;opacity:.7;white-space:nowrap">{}</td><td style="padding:3px 0;word-break:break-word">{}</td></tr>"#,
            escaped(fact.name),
            escaped(&fact.value)
        );
    }
    let _ = write!(
        body,
        "\n</table>\n<p style=\"margin:20px 0 0;font-size:12px;opacity:.7\">flipback, message {}</p>",
        escaped(&a.id)
    );
    format!(
        r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="supported-color-schemes" content="light dark">
<title>{title}</title><style>:root{{color-scheme:light dark}}</style></head>
<body style="margin:0;padding:16px;font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-size:15px;line-height:1.5">
<div style="max-width:640px;margin:0 auto;padding:4px 0 4px 16px;border-left:4px solid {bar}">
{body}
</div>
</body></html>
"#,
        title = escaped(&message.title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stand_out_and_a_lonely_backtick_is_only_a_sign() {
        let told = advice("do `a <b>` now, `c` or ` <d>");
        let bare = told.replace(r#" style="font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.93em""#, "");
        assert_eq!(bare, "do <code>a &lt;b&gt;</code> now, <code>c</code> or ` &lt;d&gt;");
        assert_eq!(advice("nothing"), "nothing");
        assert_eq!(advice("`"), "`");
    }
}
