//! Chats: those of the file, and those that the scripts' variables add. What is common to all kinds is read here, what leads to
//! each of them by `channel`, their own words by `templates`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use crate::model::{
    Severity, Topic,
    settings::{CHAT_TIMEOUT, ChatKind, ChatSettings, Filter},
};

use super::{
    channel::{self, KINDS},
    check::{WAIT_MAX, WAIT_MIN},
    environment::Scripts,
    error::{Problem, Problems},
    raw::{Node, NodeKind, Table, nearest},
    templates,
};

/// Equal messages within so long after one are told as one. Shorter than the usual cooldown (10m), so that two rollbacks of one guard
/// are never told as one; long enough that a reading which dances around its threshold is not an alarm clock; and not longer than what
/// lasts is told again (5m).
const QUIET: Duration = Duration::from_secs(5 * 60);
/// Held back for longer than this, a message is no news.
const QUIET_MAX: Duration = Duration::from_secs(24 * 3600);

const SEVERITIES: &[(&str, Severity)] = &[
    ("info", Severity::Info),
    ("warning", Severity::Warning),
    ("critical", Severity::Critical),
];

/// The chats, and what was noticed on the way.
pub(super) struct Chats {
    /// Also of those that are refused: guards may name them.
    pub(super) names: Vec<String>,
    pub(super) settings: Vec<ChatSettings>,
    pub(super) warnings: Vec<String>,
}

/// `[chats.<name>]`, and those that the scripts' variables add.
pub(super) fn chats(root: &Table<'_>, base: &Path, scripts: &Scripts) -> Chats {
    let mut tables: BTreeMap<String, Node> = root.table_or_empty("chats").entries().into_iter().collect();
    for (kind, url) in [("slack", &scripts.slack), ("teams", &scripts.teams), ("discord", &scripts.discord)] {
        let Some(url) = url else { continue };
        if let Some(name) = chat_for(kind, &tables, url, root.problems) {
            let at = format!("chats.{name}");
            let below = tables.remove(&name).unwrap_or_else(|| Node::empty(at, url.origin.clone()));
            if let Some(mut table) = below.table(root.problems) {
                table.force("url", url.clone());
                tables.insert(name, table.node());
            }
        }
    }
    // Read once for their own sake: without a chat nobody would see what is wrong with them.
    let words = root.table_or_empty("defaults").table_or_empty("templates").node();
    templates::templates(&words, base, root.problems);
    let mut warnings = Vec::new();
    let settings = tables
        .iter()
        .filter_map(|(name, node)| chat(name, node.table(root.problems)?, &words, base, &mut warnings))
        .collect();
    Chats {
        names: tables.into_keys().collect(),
        settings,
        warnings,
    }
}

/// The chat whose URL a variable sets: the one of that name, the only one of that kind, or a new one.
fn chat_for(kind: &str, tables: &BTreeMap<String, Node>, url: &Node, problems: &Problems) -> Option<String> {
    if tables.contains_key(kind) {
        return Some(kind.to_owned());
    }
    let is_kind = |node: &Node| match &node.kind {
        NodeKind::Table(entries) => entries.get("kind").is_some_and(|node| node.kind == NodeKind::Text(kind.to_owned())),
        _ => false,
    };
    let same: Vec<&String> = tables.iter().filter(|(_, node)| is_kind(node)).map(|(name, _)| name).collect();
    match same.as_slice() {
        [] => Some(kind.to_owned()),
        [only] => Some((*only).clone()),
        several => {
            problems.add(
                url.hidden_problem(format!("at most one chat of kind {kind:?}, or one that is called {kind:?}"))
                    .hint(format!("there are {}; say which by FLIPBACK_CHATS__<NAME>__URL", several.len())),
            );
            None
        }
    }
}

fn chat(name: &str, table: Table<'_>, words: &Node, base: &Path, warnings: &mut Vec<String>) -> Option<ChatSettings> {
    let kind = kind(name, &table);
    let channel = channel::channel(name, kind, &table, base, warnings);
    let timeout = table.duration("timeout", WAIT_MIN..=WAIT_MAX).unwrap_or(CHAT_TIMEOUT);
    let quiet = table.duration("quiet", Duration::ZERO..=QUIET_MAX).unwrap_or(QUIET);
    let filter = filter(&table);
    if let Some(topics) = &filter.topics
        && topics.iter().all(|topic| topic.severity() < filter.min_severity)
    {
        warnings.push(format!(
            "chat {name}: it is told nothing, since none of its topics is as loud as its min_severity"
        ));
    }
    let own = table.table_or_empty("templates").node();
    let templates = templates::templates(&words.overlaid(&own), base, table.problems);
    table.close();
    Some(ChatSettings {
        timeout,
        filter,
        quiet,
        templates,
        ..ChatSettings::new(name, channel?)
    })
}

/// The kind that is written, else the one that the name is.
fn kind(name: &str, table: &Table<'_>) -> Option<ChatKind> {
    let by_name = KINDS.iter().find(|(word, _)| *word == name).map(|(_, kind)| *kind);
    let written = table.choice("kind", KINDS);
    if written.is_none() && by_name.is_none() && table.get("kind").is_none() {
        let words: Vec<String> = KINDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        let problem = table.missing("kind", words.join(", "));
        let hint = nearest(name, KINDS.iter().map(|(word, _)| *word)).map(|near| format!("did you mean {near:?}?"));
        table.problems.add(Problem { hint, ..problem });
    }
    if table.get("kind").is_some() { written } else { by_name }
}

fn filter(table: &Table<'_>) -> Filter {
    let default = Filter::default();
    Filter {
        min_severity: table.choice("min_severity", SEVERITIES).unwrap_or(default.min_severity),
        topics: topics(table),
        guards: guards(table),
    }
}

fn topics(table: &Table<'_>) -> Option<BTreeSet<Topic>> {
    let words = table.texts("topics")?;
    let known = Topic::ALL.map(Topic::as_str);
    if words.is_empty() {
        let problem = table.problem("topics", "at least one topic");
        table.problems.add(problem.hint("leave the key out to be told of every topic"));
        return None;
    }
    let mut topics = BTreeSet::new();
    for word in words {
        match Topic::ALL.into_iter().find(|topic| topic.as_str() == word) {
            Some(topic) => {
                topics.insert(topic);
            }
            None => {
                let hint = nearest(&word, known.into_iter()).map(|near| format!("did you mean {near:?}?"));
                table.problems.add(Problem {
                    found: format!("{word:?}, which is no topic"),
                    hint,
                    ..table.problem("topics", known.join(", "))
                });
            }
        }
    }
    Some(topics)
}

fn guards(table: &Table<'_>) -> Vec<String> {
    let patterns = table.texts("guards").unwrap_or_default();
    for pattern in &patterns {
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | '*');
        let parts = pattern.split('/').count();
        if !(2..=3).contains(&parts) || !pattern.split('/').all(|part| !part.is_empty() && part.chars().all(sound)) {
            table.problems.add(Problem {
                found: format!("{pattern:?}"),
                ..table
                    .problem(
                        "guards",
                        "guards' names, in which * stands for anything but '/', such as \"shop/*\"",
                    )
                    .hint("a guard's name is <namespace>/<name>, with several clusters <cluster>/<namespace>/<name>")
            });
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_chat_can_be_written() {
        for kind in ChatKind::ALL {
            assert!(KINDS.contains(&(kind.as_str(), kind)), "{kind:?}");
        }
    }
}
