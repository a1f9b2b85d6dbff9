//! Teams Workflows webhook: an Adaptive Card 1.4 in its message envelope; 202 is success.
//!
//! Workflows answers 202 before Teams has seen the card, and hands out no way back to it: cards can neither be threaded nor
//! changed. Each names its incident.
//!
//! Teams reads Markdown in text blocks and facts, but not in text runs. Whatever a person or a cluster wrote goes into
//! runs; facts, which line up nicely, are escaped.

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{
    DeliverError, Entry, Notifier, Parcel, form,
    post::{Body, Post, To},
};
use crate::{
    model::{
        Announcement, Severity,
        settings::{Channel, ChatKind},
    },
    words::{Message, clipped},
};

/// Teams refuses a message over about 28 KB; the rest is room for what Workflows adds.
const BODY_BYTES_MAX: usize = 24 * 1024;
/// Characters per text, tried in this order until the card fits.
const CHARS_MAX: [usize; 3] = [2000, 500, 100];

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Teams,
    open: |post| Box::new(Teams { post }),
};

struct Teams {
    post: Post,
}

impl Notifier for Teams {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Teams { url } = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let body = Body::json(&payload(parcel.announcement, parcel.message));
            self.post.send(To::Secret(url), body, HeaderMap::new(), None).await.map(|_| None)
        }
        .boxed()
    }
}

/// The characters that make links, emphasis and code in Teams' Markdown.
fn escape(c: char) -> Option<&'static str> {
    match c {
        '\\' => Some("\\\\"),
        '[' => Some("\\["),
        ']' => Some("\\]"),
        '*' => Some("\\*"),
        '`' => Some("\\`"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

fn payload(announcement: &Announcement, message: &Message) -> Value {
    let [first, rest @ ..] = CHARS_MAX;
    let of = |chars_max| envelope(announcement, message, chars_max);
    rest.into_iter().fold(of(first), |made, chars_max| {
        if made.to_string().len() > BODY_BYTES_MAX {
            of(chars_max)
        } else {
            made
        }
    })
}

fn run(text: &str, chars_max: usize) -> Value {
    json!({"type": "TextRun", "text": clipped(text, chars_max, |_| None)})
}

fn envelope(announcement: &Announcement, message: &Message, chars_max: usize) -> Value {
    let url = form::address(announcement.link.as_deref()).map(String::from);
    // What the button leads to need not stand among the facts.
    let button = announcement.link.as_deref().filter(|_| url.is_some());
    let fact = |(name, value): (&str, &str)| json!({"title": name, "value": clipped(value, chars_max, escape)});
    let style = match message.severity {
        Severity::Critical => "attention",
        Severity::Warning => "warning",
        Severity::Info => "good",
    };
    let title = json!({
        "type": "TextBlock",
        "text": clipped(&message.title, chars_max, escape),
        "size": "Large",
        "weight": "Bolder",
        "wrap": true,
    });
    let mut body = vec![json!({"type": "Container", "style": style, "bleed": true, "items": [title]})];
    if !message.sentence.is_empty() {
        body.push(json!({"type": "RichTextBlock", "inlines": [run(&message.sentence, chars_max)]}));
    }
    if let Some(next) = &message.next {
        let label = json!({"type": "TextRun", "text": "What to do: ", "weight": "Bolder"});
        body.push(json!({"type": "RichTextBlock", "inlines": [label, run(next, chars_max)]}));
    }
    let facts: Vec<Value> = message
        .facts
        .iter()
        .map(|each| (each.name, each.value.as_str()))
        .filter(|(_, value)| Some(*value) != button)
        .map(fact)
        .collect();
    body.push(json!({"type": "FactSet", "separator": true, "facts": facts}));
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": clipped(&message.title, chars_max, |_| None),
        "msteams": {"width": "Full"},
        "body": body,
    });
    if let Some(url) = url {
        card["actions"] = json!([{"type": "Action.OpenUrl", "title": "Open the report", "url": url}]);
    }
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": card,
        }],
    })
}
