//! What `flipback notify` prints.

use serde::Serialize;

use super::{
    Fate, Line,
    paint::{self, Cell, styled},
    plan::keeps_a_list,
};
use crate::{
    model::{
        Severity,
        settings::{ChatKind, ChatSettings, Filter},
    },
    notify::Draft,
};

/// What became of the samples.
pub(super) fn table(lines: &[Line]) -> String {
    let mut out = String::new();
    let mut chat = "";
    for line in lines {
        if line.chat != chat {
            chat = &line.chat;
            out.push_str(&format!("{} ({})\n", styled(chat, paint::BOLD), line.kind.as_str()));
        }
        let (mark, what) = match line.fate {
            Fate::Sent if line.closing => (styled("✓", paint::GOOD), "closed what was open".to_owned()),
            Fate::Sent => (styled("✓", paint::GOOD), "sent".to_owned()),
            Fate::Drafted => (styled("·", paint::DIM), "would be sent".to_owned()),
            Fate::Skipped => (styled("·", paint::DIM), "not for this kind of chat".to_owned()),
            Fate::Failed => (styled("✗", paint::BAD), "failed".to_owned()),
            Fate::NotTried => (styled("!", paint::WARN), "not tried".to_owned()),
        };
        let why = line.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        out.push_str(&format!("  {mark} {:<20}  {what}{why}\n", line.topic.as_str()));
        if let Some(todo) = &line.todo {
            out.push_str(&format!("      {}\n", styled(&format!("-> {todo}"), paint::DIM)));
        }
        for draft in &line.drafts {
            out.push_str(&drafted(draft));
        }
    }
    let count = |fate| lines.iter().filter(|line| line.fate == fate).count();
    out.push_str(&match (count(Fate::Drafted), count(Fate::Failed) + count(Fate::NotTried)) {
        (0, 0) => format!("\n{} sent, all well\n", count(Fate::Sent)),
        (0, failed) => format!("\n{} sent, {failed} not\n", count(Fate::Sent)),
        (drafted, _) => format!("\n{drafted} would be sent; nothing was\n"),
    });
    out
}

/// A draft as a person reads it, indented.
fn drafted(draft: &Draft) -> String {
    let body = match &draft.body {
        serde_json::Value::String(text) => text.clone(),
        mail if mail["plain"].is_string() => {
            let plain = mail["plain"].as_str().unwrap_or_default();
            let html = mail["html"].as_str().unwrap_or_default().len();
            let picture = mail["picture"].as_str().map_or(String::new(), |name| format!(", with {name}"));
            format!("{plain}\n[and the same as HTML, {html} bytes{picture}]")
        }
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    let headers = draft.headers.iter().map(|(name, value)| format!("{name}: {value}"));
    let text: Vec<String> = std::iter::once(draft.to.clone())
        .chain(headers)
        .chain([String::new()])
        .chain(body.lines().map(str::to_owned))
        .collect();
    let indented = |line: &String| {
        if line.is_empty() {
            "\n".to_owned()
        } else {
            format!("      {line}\n")
        }
    };
    text.iter().map(indented).collect::<String>() + "\n"
}

/// One chat of `notify list`.
#[derive(Serialize)]
pub(super) struct Listed<'a> {
    name: &'a str,
    kind: ChatKind,
    min_severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<&'static str>>,
    guards: &'a [String],
    quiet_seconds: f64,
    timeout_seconds: f64,
}

/// One chat as JSON shows it.
pub(super) fn listed(chat: &ChatSettings) -> Listed<'_> {
    let topics = chat.filter.topics.as_ref();
    Listed {
        name: &chat.name,
        kind: chat.kind(),
        min_severity: chat.filter.min_severity,
        topics: topics.map(|topics| topics.iter().map(|topic| topic.as_str()).collect()),
        guards: &chat.filter.guards,
        quiet_seconds: chat.quiet.as_secs_f64(),
        timeout_seconds: chat.timeout.as_secs_f64(),
    }
}

/// The chats as a table.
pub(super) fn list(chats: &[ChatSettings]) -> String {
    if chats.is_empty() {
        return "there is no chat: add [chats.<name>] or set SLACK_WEBHOOK_URL\n".to_owned();
    }
    let title = |text: &str| Cell::new(text, paint::DIM);
    let mut rows = vec![vec![title("CHAT"), title("KIND"), title("HEARS"), title("REPEATS")]];
    rows.extend(chats.iter().map(|chat| {
        let quiet = if chat.quiet.is_zero() {
            "each by itself".to_owned()
        } else {
            format!("one per {}", humantime::format_duration(chat.quiet))
        };
        vec![
            Cell::new(&chat.name, paint::BOLD),
            Cell::plain(chat.kind().as_str()),
            Cell::plain(hears(chat.kind(), &chat.filter)),
            Cell::plain(quiet),
        ]
    }));
    paint::columns(&rows, 0)
}

/// What a chat hears, besides what a guard sends it by name.
fn hears(kind: ChatKind, filter: &Filter) -> String {
    let loud = match filter.min_severity {
        Severity::Info => None,
        Severity::Warning => Some("warning and critical".to_owned()),
        Severity::Critical => Some("critical".to_owned()),
    };
    let topics = filter
        .topics
        .as_ref()
        .map(|topics| topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(", "));
    let guards = (!filter.guards.is_empty()).then(|| format!("of {}", filter.guards.join(", ")));
    let lasting = keeps_a_list(kind).then(|| "what lasts".to_owned());
    let parts: Vec<String> = [topics.or(lasting), loud, guards].into_iter().flatten().collect();
    if parts.is_empty() {
        "everything".to_owned()
    } else {
        parts.join("; ")
    }
}
