//! Takes secrets, and noise, out of what goes into a bundle. Secret objects are never read at all; this is about values
//! that somebody wrote in plain sight: literal environment values, arguments, credentials in URLs.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// Parts of names that look secret. Too much hidden is a nuisance, too little a leak.
const WORDS: &str = "passw|passphrase|passwd|pwd|token|secret|key|credential|auth|private|dsn|cookie|jwt|signature|salt|session|webhook";
/// Repeats the whole manifest, literal values and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is constant, and a test uses it")
}

static NAME: LazyLock<Regex> = LazyLock::new(|| regex(&format!("(?i){WORDS}")));
/// `--db-password`, the name alone.
static FLAG: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"(?i)^--?[\w.-]*(?:{WORDS})[\w.-]*$")));
/// `--db-password=x`, `DB_PASSWORD=x`.
static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r#"(?i)([\w.-]*(?:{WORDS})[\w.-]*=)("[^"]*"|'[^']*'|[^\s"']+)"#)));
/// `scheme://user:password@`.
static USERINFO: LazyLock<Regex> = LazyLock::new(|| regex(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@"));
/// `Authorization: Bearer x`; long enough not to be a word.
static BEARER: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(?i)\b(bearer[ \t]+|authorization["']?[ \t]*[:=][ \t]*["']?(?:basic|token)[ \t]+)[A-Za-z0-9._~+/=-]{16,}"#));

/// Cleans a manifest: no `managedFields`, no copy of itself in an annotation, no literal value that looks secret.
pub(super) fn manifest(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
            for (name, value) in annotations.iter_mut().filter(|(name, _)| NAME.is_match(name)) {
                redact(name, value);
            }
        }
    }
    walk(object);
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // An environment variable, an HTTP header of a probe: whatever has a name and a value.
            let named = fields.get("name").and_then(Value::as_str).map(str::to_owned);
            if let (Some(name), Some(value)) = (named, fields.get_mut("value")) {
                redact(&name, value);
            }
            for (field, value) in fields.iter_mut() {
                match value {
                    Value::Array(words) if matches!(field.as_str(), "args" | "command") => arguments(words),
                    other => walk(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::String(found) => {
            if let Cow::Owned(clean) = text(found) {
                *found = clean;
            }
        }
        _ => {}
    }
}

/// A reference such as `$(DB_PASSWORD)` gives nothing away.
fn is_reference(value: &str) -> bool {
    value.trim_start_matches(['"', '\'']).starts_with('$')
}

fn redact(name: &str, value: &mut Value) {
    if let Value::String(found) = value
        && NAME.is_match(name)
        && !found.is_empty()
        && !is_reference(found)
    {
        REDACTED.clone_into(found);
    }
}

fn arguments(words: &mut [Value]) {
    let mut after_flag = false;
    for word in words {
        let Value::String(word) = word else { continue };
        if after_flag && !word.starts_with('-') && !is_reference(word) {
            REDACTED.clone_into(word);
        }
        after_flag = FLAG.is_match(word);
        let hide = |found: &Captures<'_>| {
            let (name, value) = (&found[1], &found[2]);
            if is_reference(value) {
                found[0].to_owned()
            } else {
                format!("{name}{REDACTED}")
            }
        };
        *word = text(&ASSIGNED.replace_all(word, hide)).into_owned();
    }
}

/// Cleans a line of text, such as a log's: credentials in URLs and headers.
pub(super) fn text(line: &str) -> Cow<'_, str> {
    let clean = USERINFO.replace_all(line, format!("${{1}}{REDACTED}@"));
    match BEARER.replace_all(&clean, format!("${{1}}{REDACTED}")) {
        Cow::Borrowed(_) => clean,
        Cow::Owned(clean) => Cow::Owned(clean),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literal_values_that_look_secret_are_redacted_and_the_rest_is_kept() {
        let mut pod = json!({
            "metadata": {
                "name": "web-1",
                "managedFields": [{"manager": "kubectl"}],
                "annotations": {LAST_APPLIED: "{\"env\":[{\"value\":\"hunter2\"}]}", "team": "shop", "sidecar/api-token": "hunter2"},
            },
            "spec": {"containers": [{
                "name": "app",
                "env": [
                    {"name": "DB_PASSWORD", "value": "hunter2"},
                    {"name": "apiKey", "value": "hunter2"},
                    {"name": "DATABASE_URL", "value": "postgres://app:hunter2@db:5432/shop"},
                    {"name": "LOG_LEVEL", "value": "info"},
                    {"name": "AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": "web", "key": "token"}}},
                    {"name": "COPY_TOKEN", "value": "$(AUTH_TOKEN)"},
                ],
                "args": ["--port=8080", "--db-password=hunter2", "--token", "hunter2", "--verbose", "--secret=$(COPY_TOKEN)"],
                "command": ["sh", "-c", "API_KEY='hunter2' exec app --color green"],
                "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "Bearer hunter2hunter2"}]}},
            }]},
        });
        manifest(&mut pod);
        let shown = pod.to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        insta::assert_json_snapshot!(pod);
    }

    #[test]
    fn credentials_in_log_lines_are_redacted_and_plain_lines_untouched() {
        assert_eq!(
            text("dial amqp://user:hunter2@mq:5672/ failed"),
            "dial amqp://user:[redacted]@mq:5672/ failed"
        );
        assert_eq!(
            text("> Authorization: Bearer eyJhbGciOi.J9.x-y"),
            "> Authorization: Bearer [redacted]"
        );
        for plain in [
            "GET /health 200",
            "time=12:30:00 url=http://web:8080/a@b",
            "Basic authentication required",
            "bearer of news",
        ] {
            assert!(matches!(text(plain), Cow::Borrowed(_)), "{plain}");
        }
    }
}
