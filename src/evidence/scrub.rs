//! Takes secrets, and noise, out of what goes into a bundle. Secret objects are never read at all; this is about values
//! that somebody wrote in plain sight: literal environment values, arguments, log lines, credentials in URLs.

use std::{borrow::Cow, ops::Range, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use super::secrets::{Shapes, is_reference};

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// Parts of names that look secret. Too much hidden is a nuisance, too little a leak.
const WORDS: &str =
    "passw|passphrase|passwd|passcode|pwd|token|secret|key|credential|creds|auth|private|dsn|cookie|jwt|signature|salt|session|webhook";
/// What makes of a `pass` behind it another word.
const NO_PASS: [&str; 5] = ["by", "com", "tres", "over", "under"];
/// Repeats the whole manifest, literal values and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Lines hidden after the beginning of a private key whose end never comes; the longest keys have a hundred.
const KEY_LINES_MAX: u32 = 120;
/// How a private key begins and ends, whatever kind it is.
const KEY_BEGINS: &str = "-----BEGIN ";
const KEY_ENDS: &str = "-----END ";

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is constant, and a test uses it")
}

static NAME: LazyLock<Regex> = LazyLock::new(|| regex(&format!("(?i){WORDS}")));
/// `--db-password`, the name alone.
static FLAG: LazyLock<Regex> = LazyLock::new(|| regex(r"^--?[\w.-]+$"));
/// `--db-password=x`, `DB_PASSWORD=x`.
static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r#"(?i)([\w.-]*(?:{WORDS})[\w.-]*=)("[^"]*"|'[^']*'|[^\s"']+)"#)));

/// What is hidden: the shapes known to everybody, and those of the configuration.
#[derive(Debug)]
pub(super) struct Scrub {
    own: Option<Shapes>,
}

impl Scrub {
    /// One that also hides what these regular expressions match, or the first group of them.
    pub(super) fn new(own: &[String]) -> Self {
        Self { own: Shapes::own(own) }
    }

    /// Cleans text of one line or many.
    pub(super) fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let hidden = self.places(text);
        if hidden.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut clean = String::with_capacity(text.len());
        let mut from = 0;
        for place in hidden {
            clean.push_str(text.get(from..place.start).unwrap_or_default());
            clean.push_str(REDACTED);
            from = place.end;
        }
        clean.push_str(text.get(from..).unwrap_or_default());
        Cow::Owned(clean)
    }

    /// The places of secrets, in order, none touching another.
    fn places(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        Shapes::known().find(text, &mut found);
        if let Some(own) = &self.own {
            own.find(text, &mut found);
        }
        found.sort_by_key(|place| place.start);
        let mut apart: Vec<Range<usize>> = Vec::with_capacity(found.len());
        for place in found {
            match apart.last_mut() {
                Some(last) if place.start <= last.end => last.end = last.end.max(place.end),
                _ => apart.push(place),
            }
        }
        apart
    }

    /// Cleans a manifest: no `managedFields`, no copy of itself in an annotation, no literal value that looks secret.
    pub(super) fn manifest(&self, object: &mut Value) {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        self.walk(object);
    }

    /// Cleans whatever text is in a value.
    pub(super) fn values(&self, value: &mut Value) {
        match value {
            Value::String(found) => {
                if let Cow::Owned(clean) = self.text(found) {
                    *found = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.values(item)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.values(value)),
            _ => {}
        }
    }

    fn walk(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                // An environment variable, an HTTP header of a probe: whatever has a name and a value.
                let named = fields.get("name").and_then(Value::as_str).map(str::to_owned);
                if let (Some(name), Some(value)) = (named, fields.get_mut("value")) {
                    redact(&name, value);
                }
                for (field, value) in fields.iter_mut() {
                    match value {
                        Value::Array(words) if matches!(field.as_str(), "args" | "command") => self.arguments(words),
                        // The object's own, and those of the pods that it makes.
                        Value::Object(annotations) if field == "annotations" => self.annotations(annotations),
                        other => self.walk(other),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::String(found) => {
                if let Cow::Owned(clean) = self.text(found) {
                    *found = clean;
                }
            }
            _ => {}
        }
    }

    fn annotations(&self, annotations: &mut Map<String, Value>) {
        annotations.remove(LAST_APPLIED);
        for (name, value) in annotations.iter_mut() {
            redact(name, value);
            self.walk(value);
        }
    }

    fn arguments(&self, words: &mut [Value]) {
        let mut after_flag = false;
        for word in words {
            let Value::String(word) = word else { continue };
            if after_flag && !word.starts_with('-') && !is_reference(word) {
                REDACTED.clone_into(word);
            }
            after_flag = FLAG.is_match(word) && is_telling(word);
            let hide = |found: &Captures<'_>| {
                let (name, value) = (&found[1], &found[2]);
                if is_reference(value) {
                    found[0].to_owned()
                } else {
                    format!("{name}{REDACTED}")
                }
            };
            *word = self.text(&ASSIGNED.replace_all(word, hide)).into_owned();
        }
    }
}

/// Whether what is called so is likely a secret.
fn is_telling(name: &str) -> bool {
    NAME.is_match(name) || names_pass(name)
}

/// `DB_PASS`, `SMTPPASS`, `dbPass`, `PASS_1`: a short word with long ones around it (`BYPASS`, `passive`, `PASSENGER`).
fn names_pass(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.match_indices("pass").any(|(at, word)| {
        let before = lower.get(..at).unwrap_or_default();
        let found = name.get(at..at + word.len()).unwrap_or_default();
        let next = name.get(at + word.len()..).and_then(|after| after.chars().next());
        // `smtpPassFile` goes on with a capital, `PASSENGER` does too.
        let shouted = found.chars().all(|c| c.is_ascii_uppercase());
        let ends = next.is_none_or(|c| !(c.is_ascii_lowercase() || shouted && c.is_ascii_alphabetic()));
        ends && !NO_PASS.iter().any(|word| before.ends_with(word))
    })
}

fn redact(name: &str, value: &mut Value) {
    if let Value::String(found) = value
        && is_telling(name)
        && !found.is_empty()
        && !is_reference(found)
    {
        REDACTED.clone_into(found);
    }
}

/// Cleans a log line by line, and remembers that a private key has begun.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Lines still to hide, of a key that has not ended.
    key_lines: u32,
}

impl Lines {
    /// Cleans the next line, given without its end.
    pub(super) fn clean<'t>(&mut self, scrub: &Scrub, line: &'t str) -> Cow<'t, str> {
        if self.key_lines > 0 {
            self.key_lines = if line.contains(KEY_ENDS) { 0 } else { self.key_lines - 1 };
            // The time that the API server wrote before the line gives nothing away.
            let stamp = line.split_once(' ').map(|(stamp, _)| stamp);
            let stamp = stamp.filter(|stamp| stamp.parse::<jiff::Timestamp>().is_ok());
            return Cow::Owned(stamp.map_or_else(|| REDACTED.to_owned(), |stamp| format!("{stamp} {REDACTED}")));
        }
        if let Some(begins) = line.rfind(KEY_BEGINS) {
            let rest = line.get(begins..).unwrap_or_default();
            if rest.contains("PRIVATE KEY") && !rest.contains(KEY_ENDS) {
                self.key_lines = KEY_LINES_MAX;
            }
        }
        scrub.text(line)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scrub() -> Scrub {
        Scrub::new(&[])
    }

    #[test]
    fn literal_values_that_look_secret_are_redacted_and_the_rest_is_kept() {
        let mut pod = json!({
            "metadata": {
                "name": "web-1",
                "managedFields": [{"manager": "kubectl"}],
                "annotations": {LAST_APPLIED: "{\"env\":[{\"value\":\"hunter2\"}]}", "team": "shop", "sidecar/api-token": "hunter2"},
            },
            "template": {"metadata": {"annotations": {"vault/token": "hunter2", "prometheus.io/port": "8080"}}},
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
        scrub().manifest(&mut pod);
        let shown = pod.to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        insta::assert_json_snapshot!(pod);
    }

    #[test]
    fn names_that_look_secret_are_told_from_those_that_only_sound_so() {
        for name in [
            "DB_PASS",
            "PASS",
            "smtp.pass",
            "dbPass",
            "smtpPassFile",
            "SMTPPASS",
            "PASS_1",
            "--redis-pass",
            "DB_CREDS",
            "PASSCODE",
            "API_KEY",
        ] {
            assert!(is_telling(name), "{name}");
        }
        for name in [
            "BYPASS_CACHE",
            "COMPASS_URL",
            "PASSENGER_APP_ENV",
            "passive",
            "PASSTHROUGH",
            "LOG_LEVEL",
            "underpass",
            "CREDIT_LIMIT",
        ] {
            assert!(!is_telling(name), "{name}");
        }
    }

    #[test]
    fn short_names_of_passwords_are_redacted_wherever_they_stand() {
        let mut pod = json!({
            "env": [{"name": "DB_PASS", "value": "hunter2"}, {"name": "smtpPass", "value": "hunter2"}, {"name": "BYPASS_CACHE", "value": "on"}],
            "args": ["--redis-pass", "hunter2", "--smtpPass=hunter2", "--mode", "passive"],
            "metadata": {"annotations": {"backup/pass": "hunter2"}},
        });
        scrub().manifest(&mut pod);
        assert!(!pod.to_string().contains("hunter2"), "{pod}");
        assert_eq!((&pod["env"][2]["value"], &pod["args"][4]), (&json!("on"), &json!("passive")));
    }

    /// Every line of `tests/redaction/hidden.txt` is `text <tab> secret`; the secret must not be in what is kept, and what
    /// is kept must still say what the line was about: its first three letters.
    #[test]
    fn the_corpus_of_secrets_is_hidden() {
        let corpus = include_str!("../../tests/redaction/hidden.txt");
        let scrub = scrub();
        let mut leaked = Vec::new();
        for line in corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (text, secret) = line.split_once('\t').expect("text, tab, secret");
            assert!(text.contains(secret), "{line}");
            let clean = scrub.text(text);
            if clean.contains(secret) || !clean.contains(REDACTED) {
                leaked.push(format!("{secret}: {clean}"));
            }
        }
        assert!(leaked.is_empty(), "{leaked:#?}");
    }

    #[test]
    fn the_corpus_of_plain_lines_stays() {
        let corpus = include_str!("../../tests/redaction/kept.txt");
        let scrub = scrub();
        let lines = corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let changed = lines.filter_map(|line| match scrub.text(line) {
            Cow::Owned(clean) => Some(clean),
            Cow::Borrowed(_) => None,
        });
        let changed: Vec<String> = changed.collect();
        assert!(changed.is_empty(), "{changed:#?}");
    }

    #[test]
    fn own_patterns_hide_their_first_group_or_all_they_match() {
        let scrub = Scrub::new(&[r"customer-(\d+)".to_owned(), "moon+light".to_owned(), "broken(".to_owned()]);
        assert_eq!(
            scrub.text("customer-4711 ordered moonnlight, broken( as ever"),
            "customer-[redacted] ordered [redacted], [redacted] as ever"
        );
    }

    #[test]
    fn a_private_key_over_many_lines_is_hidden_and_what_follows_is_not() {
        let log = include_str!("../../tests/redaction/key.txt");
        let scrub = scrub();
        let mut lines = Lines::default();
        let clean: Vec<_> = log.lines().map(|line| lines.clean(&scrub, line).into_owned()).collect();
        insta::assert_snapshot!(clean.join("\n"));
    }

    #[test]
    fn a_key_without_an_end_hides_no_more_than_a_key_is_long() {
        let scrub = scrub();
        let mut lines = Lines::default();
        lines.clean(&scrub, "-----BEGIN PRIVATE KEY-----");
        let shown = (0..200)
            .filter(|n| lines.clean(&scrub, &format!("line {n}")).starts_with("line"))
            .count();
        assert_eq!(shown, 200 - KEY_LINES_MAX as usize);
    }
}
