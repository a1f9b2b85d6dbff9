//! Chats: those of the file, and those that the scripts' variables add.

use std::{collections::BTreeMap, path::Path, time::Duration};

use url::Url;

use crate::model::settings::{Channel, ChatKind, ChatSettings, Secret};

use super::{
    check::{WAIT_MAX, WAIT_MIN, secret},
    environment::Scripts,
    error::{Problem, Problems},
    raw::{Node, NodeKind, Table},
};

/// How long one delivery may take.
const CHAT_TIMEOUT: Duration = Duration::from_secs(10);

const CHAT_KINDS: &[(&str, ChatKind)] = &[
    ("slack", ChatKind::Slack),
    ("teams", ChatKind::Teams),
    ("webhook", ChatKind::Webhook),
];

/// `[chats.<name>]`, and those that the scripts' variables add.
///
/// The names come along: a chat that is refused is still one that guards may name.
pub(super) fn chats(root: &Table<'_>, base: &Path, scripts: &Scripts) -> (Vec<String>, Vec<ChatSettings>) {
    let mut tables: BTreeMap<String, Node> = root.table_or_empty("chats").entries().into_iter().collect();
    for (kind, url) in [("slack", &scripts.slack), ("teams", &scripts.teams)] {
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
    let chats = tables
        .iter()
        .filter_map(|(name, node)| chat(name, node.table(root.problems)?, base))
        .collect();
    (tables.into_keys().collect(), chats)
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

fn chat(name: &str, table: Table<'_>, base: &Path) -> Option<ChatSettings> {
    let by_name = CHAT_KINDS.iter().find(|(word, _)| *word == name).map(|(_, kind)| *kind);
    let kind = match table.choice("kind", CHAT_KINDS) {
        Some(kind) => Some(kind),
        None if by_name.is_none() && table.get("kind").is_none() => {
            table.problems.add(table.missing("kind", "\"slack\", \"teams\", \"webhook\""));
            None
        }
        None => by_name,
    };
    let url = secret(&table, "url", base);
    if let Some(Secret::Value(value)) = &url {
        use secrecy::ExposeSecret;
        if !Url::parse(value.expose_secret()).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            table.problems.add(Problem {
                found: "a value that is not shown here".to_owned(),
                ..table.problem("url", "a URL that begins with https:// or http://")
            });
        }
    }
    if url.is_none() && table.whisper("url").is_none() && table.get("url_file").is_none() {
        let variable = format!("FLIPBACK_CHATS__{}__URL", name.to_ascii_uppercase().replace(['-', '.'], "_"));
        table.problems.add(
            table
                .missing("url_file", "the path of a file that holds the webhook's URL")
                .hint(format!("or set {variable}")),
        );
    }
    let timeout = table.duration("timeout", WAIT_MIN..=WAIT_MAX).unwrap_or(CHAT_TIMEOUT);
    let token = secret(&table, "token", base);
    if token.is_some() && kind.is_some_and(|kind| kind != ChatKind::Webhook) {
        let key = if table.whisper("token").is_some() { "token" } else { "token_file" };
        let problem = table.problem(key, "no token: only chats of kind \"webhook\" have one");
        let found = "a token".to_owned();
        table.problems.add(Problem { found, ..problem });
    }
    table.close();
    let (kind, url) = (kind?, url?);
    let channel = match kind {
        ChatKind::Slack => Channel::Slack { url },
        ChatKind::Teams => Channel::Teams { url },
        _ => Channel::Webhook {
            url,
            token,
            signing_key: None,
        },
    };
    Some(ChatSettings {
        timeout,
        ..ChatSettings::new(name, channel)
    })
}
