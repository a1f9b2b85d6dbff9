//! PromQL's words: names, numbers, durations, quoted strings and signs.

use super::syntax::{Parsed, SyntaxError, wrong};

/// One word of a query.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Word(String),
    Number(f64),
    Text(String),
    Duration(i64),
    Sign(&'static str),
}

const SIGNS: [&str; 16] = ["=~", "!~", "!=", "=", "{", "}", "(", ")", "[", "]", ",", "+", "-", "*", "/", ":"];

/// Cuts a query into words.
pub(super) fn tokens(query: &str) -> Parsed<Vec<Token>> {
    let chars: Vec<char> = query.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c.is_whitespace() {
            at += 1;
        } else if matches!(c, '"' | '\'' | '`') {
            let (text, next) = quoted(&chars, at)?;
            found.push(Token::Text(text));
            at = next;
        } else if c.is_ascii_digit() {
            let end = run(&chars, at, |c| c.is_ascii_alphanumeric() || c == '.');
            let text: String = chars.iter().skip(at).take(end - at).collect();
            found.push(number(&text)?);
            at = end;
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = run(&chars, at, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
            found.push(Token::Word(chars.iter().skip(at).take(end - at).collect()));
            at = end;
        } else {
            let starts = |sign: &&&str| sign.chars().enumerate().all(|(n, wanted)| chars.get(at + n) == Some(&wanted));
            let Some(sign) = SIGNS.iter().find(starts) else {
                return wrong(format!("unexpected character: {c:?}"));
            };
            found.push(Token::Sign(sign));
            at += sign.len();
        }
    }
    Ok(found)
}

fn run(chars: &[char], from: usize, admits: impl Fn(char) -> bool) -> usize {
    from + chars.iter().skip(from).take_while(|c| admits(**c)).count()
}

fn quoted(chars: &[char], from: usize) -> Parsed<(String, usize)> {
    let quote = chars.get(from).copied().unwrap_or('"');
    let mut text = String::new();
    let mut at = from + 1;
    loop {
        match chars.get(at) {
            None => return wrong("unterminated quoted string"),
            Some(c) if *c == quote => return Ok((text, at + 1)),
            // A backquoted string knows no escapes.
            Some('\\') if quote != '`' => {
                match chars.get(at + 1) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c) if matches!(c, '\\' | '"' | '\'') => text.push(*c),
                    other => return wrong(format!("unknown escape sequence {other:?}")),
                }
                at += 2;
            }
            Some(c) => {
                text.push(*c);
                at += 1;
            }
        }
    }
}

fn number(text: &str) -> Parsed<Token> {
    if let Ok(value) = text.parse() {
        return Ok(Token::Number(value));
    }
    duration(text)
        .map(Token::Duration)
        .ok_or_else(|| SyntaxError(format!("bad number or duration syntax: {text:?}")))
}

/// A Prometheus duration such as `1m30s` in milliseconds.
pub(super) fn duration(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut digits = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            'm' if chars.peek() == Some(&'s') => {
                chars.next();
                1
            }
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(digits.parse::<i64>().ok()?.checked_mul(unit)?)?;
        digits.clear();
    }
    (digits.is_empty() && !text.is_empty()).then_some(total)
}
