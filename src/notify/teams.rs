//! Teams Workflows webhook: an Adaptive Card 1.4 in its message envelope; 202 is success.
//!
//! Teams reads Markdown in text blocks and facts, but not in text runs. Whatever a person or a cluster wrote goes into
//! runs; facts, which line up nicely, are escaped.

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{
    DeliverError, Entry, Notifier, Parcel,
    post::{Body, Post, To},
};
use crate::{
    model::{
        Severity,
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
            let body = Body::json(&payload(parcel.message));
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

fn payload(message: &Message) -> Value {
    let [first, rest @ ..] = CHARS_MAX;
    rest.into_iter().fold(envelope(message, first), |made, chars_max| {
        if made.to_string().len() > BODY_BYTES_MAX {
            envelope(message, chars_max)
        } else {
            made
        }
    })
}

fn run(text: &str, chars_max: usize) -> Value {
    json!({"type": "TextRun", "text": clipped(text, chars_max, |_| None)})
}

fn envelope(message: &Message, chars_max: usize) -> Value {
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
    let fact = |name: &str, value: &str| json!({"title": name, "value": clipped(value, chars_max, escape)});
    let facts: Vec<Value> = message.facts.iter().map(|each| fact(each.name, &each.value)).collect();
    body.push(json!({"type": "FactSet", "facts": facts}));
    if let Some(next) = &message.next {
        let label = json!({"type": "TextRun", "text": "What to do: ", "weight": "Bolder"});
        body.push(json!({"type": "RichTextBlock", "separator": true, "inlines": [label, run(next, chars_max)]}));
    }
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "fallbackText": clipped(&message.title, chars_max, |_| None),
                "msteams": {"width": "Full"},
                "body": body,
            },
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Announcement, Topic},
        words::tests::{TOPICS, example},
    };

    fn of(announcement: &Announcement) -> Value {
        payload(&Message::of(announcement))
    }

    #[test]
    fn a_completed_rollback_as_an_adaptive_card() {
        insta::assert_json_snapshot!(of(&example(Topic::RollbackCompleted)));
    }

    #[test]
    fn every_topic_as_an_adaptive_card() {
        let lines: Vec<String> = TOPICS.iter().map(|topic| of(&example(*topic)).to_string()).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn hostile_text_neither_links_nor_bursts_the_card() {
        let hostile = Announcement {
            why: "\u{1F525}[click](https://evil.example)".repeat(2000),
            object: "[a](https://evil.example)".into(),
            evidence: Some("\u{1F525}".repeat(9000)),
            trigger: Some("*".repeat(9000)),
            incident: Some("\"\\".repeat(9000)),
            ..example(Topic::RollbackFailed)
        };
        let card = of(&hostile);
        assert!(card.to_string().len() <= BODY_BYTES_MAX, "{}", card.to_string().len());
        let facts = &card["attachments"][0]["content"]["body"][2]["facts"];
        assert_eq!(facts[2]["value"], "\\[a\\](https://evil.example)");
    }
}
