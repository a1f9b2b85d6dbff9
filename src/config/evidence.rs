//! What holds for the evidence of all guards, and for the audit journal: `[evidence]` and `[audit]`.

use std::{path::Path, time::Duration};

use regex::RegexBuilder;
use url::Url;

use crate::model::settings::{AuditSettings, EvidenceSettings, Retention};

use super::{
    error::Problem,
    policy::EVIDENCE_KEYS,
    raw::{NodeKind, Table},
    store,
};

const HOUR: Duration = Duration::from_secs(3600);
/// As long as anybody must keep records.
const AGE_MAX: Duration = Duration::from_secs(10 * 31_557_600);
const MIB: u64 = 1 << 20;
/// Every captured byte is looked at with every pattern.
const PATTERNS_MAX: usize = 100;
/// A pattern that compiles to more than this is slower than what it hides is worth.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Reads `[evidence]`.
pub(super) fn evidence(table: Table<'_>, data_dir: &Path, base: &Path) -> EvidenceSettings {
    for name in EVIDENCE_KEYS {
        if table.whisper(name).is_some() {
            let problem = table.problem(name, "what holds for all guards alike: redact, public_url, retention, copy");
            table.problems.add(problem.hint(format!("did you mean defaults.evidence.{name}?")));
        }
    }
    let settings = EvidenceSettings {
        redact: redact(&table),
        retention: retention(table.table_or_empty("retention")),
        copy: table.table("copy").and_then(|copy| store::copy(copy, data_dir, base)),
        public_url: public_url(&table),
    };
    table.close();
    settings
}

fn redact(table: &Table<'_>) -> Vec<String> {
    let patterns = table.texts("redact").unwrap_or_default();
    if patterns.len() > PATTERNS_MAX {
        table
            .problems
            .add(table.problem("redact", format!("at most {PATTERNS_MAX} patterns")));
    }
    for (position, pattern) in patterns.iter().enumerate() {
        let refuse = |found: String, hint: Option<&str>| {
            let problem = table.problem("redact", "regular expressions, as the Rust crate regex reads them");
            table.problems.add(Problem {
                key: format!("{}[{position}]", problem.key),
                found,
                hint: hint.map(str::to_owned),
                ..problem
            });
        };
        match RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build() {
            Ok(regex) if regex.is_match("") => refuse(
                format!("{pattern:?}, which matches the empty text"),
                Some("it would hide every place of every file: match at least one character"),
            ),
            Ok(_) => {}
            Err(error) => refuse(format!("{pattern:?}{}", fault(&error)), None),
        }
    }
    patterns
}

/// `, at character 3: unclosed group`, of a regex error that is told over several lines.
fn fault(error: &regex::Error) -> String {
    let text = match error {
        regex::Error::Syntax(text) => text,
        other => return format!(": {other}"),
    };
    let what = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "))
        .unwrap_or("not understood");
    // A pattern of one line is repeated with four blanks before it, and marked below.
    let mark = text
        .lines()
        .find(|line| line.trim_start().starts_with('^'))
        .and_then(|line| line.find('^'));
    match mark.and_then(|column| column.checked_sub(4)) {
        Some(offset) => format!(", at character {}: {what}", offset + 1),
        None => format!(": {what}"),
    }
}

fn retention(table: Table<'_>) -> Retention {
    let default = Retention::default();
    let retention = Retention {
        count: table.count("count", 1..=100_000).unwrap_or(default.count),
        age: table.duration("age", HOUR..=AGE_MAX).unwrap_or(default.age),
        bytes: table.bytes("bytes", MIB..=MIB << 30).unwrap_or(default.bytes),
    };
    table.close();
    retention
}

/// Where a browser finds the bundles; with a slash at its end, so that names can be joined to it.
fn public_url(table: &Table<'_>) -> Option<Url> {
    let node = table.get("public_url")?.clone();
    let NodeKind::Text(text) = &node.kind else {
        table.problems.add(node.problem(PUBLIC_URL));
        return None;
    };
    let refuse = |hint: &str| {
        table.problems.add(node.hidden_problem(PUBLIC_URL).hint(hint));
        None
    };
    match Url::parse(text.trim()) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
            refuse("it must begin with http:// or https:// and name a host")
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            refuse("it is part of every message: a password does not belong into it")
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            refuse("it has neither ? nor #: <incident>/report.html is added to it")
        }
        Ok(mut url) => {
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            Some(url)
        }
        Err(error) => refuse(&error.to_string()),
    }
}

const PUBLIC_URL: &str = "the URL below which the incidents' folders are served, such as \"https://evidence.example.com/\"";

/// Reads `[audit]`.
pub(super) fn audit(table: Table<'_>) -> AuditSettings {
    let default = AuditSettings::default();
    let settings = AuditSettings {
        file_bytes: table.bytes("file_bytes", MIB / 16..=MIB << 10).unwrap_or(default.file_bytes),
        files: table.count("files", 2..=10_000).unwrap_or(default.files),
    };
    table.close();
    settings
}
