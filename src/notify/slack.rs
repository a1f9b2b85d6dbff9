//! Slack incoming webhook: Block Kit, made of slack-morphism's types. They are delivered by our own HTTP client: one
//! egress, one timeout and one proxy policy for all chats.

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
use slack_morphism::{
    SlackMessageContent,
    api::SlackApiPostWebhookMessageRequest,
    blocks::{
        SlackBlock, SlackBlockMarkDownText, SlackBlockPlainText, SlackBlockText, SlackContextBlock, SlackHeaderBlock, SlackSectionBlock,
    },
};

use super::{
    DeliverError, Entry, Notifier, Parcel,
    post::{Body, Post, To},
};
use crate::{
    model::{
        Announcement, Severity,
        settings::{Channel, ChatKind},
    },
    words::{Message, clipped},
};

/// Slack's limits: a payload over any of them is refused as a whole.
const HEADER_CHARS_MAX: usize = 150;
const SECTION_CHARS_MAX: usize = 3000;
const FIELD_CHARS_MAX: usize = 2000;
const FIELDS_MAX: usize = 10;

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Slack,
    open: |post| Box::new(Slack { post }),
};

struct Slack {
    post: Post,
}

impl Notifier for Slack {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Slack { url } = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let body = Body::json(&payload(parcel.announcement, parcel.message));
            self.post.send(To::Secret(url), body, HeaderMap::new(), None).await.map(|_| None)
        }
        .boxed()
    }
}

/// Slack's three control characters; with them escaped no text can become a link, a mention or `<!channel>`.
fn escape(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// `verbatim`: names and addresses in the text are not turned into links or mentions either.
fn markdown(text: String) -> SlackBlockText {
    SlackBlockMarkDownText::new(text).with_verbatim(true).into()
}

fn payload(announcement: &Announcement, message: &Message) -> SlackApiPostWebhookMessageRequest {
    let sign = match message.severity {
        Severity::Critical => "🔴",
        Severity::Warning => "🟠",
        Severity::Info => "🟢",
    };
    // A header is plain text: Slack shows its characters as they are.
    let header = clipped(&format!("{sign} {}", message.title), HEADER_CHARS_MAX, |_| None);
    let mut blocks: Vec<SlackBlock> = vec![SlackHeaderBlock::new(SlackBlockPlainText::new(header).into()).into()];
    if !message.sentence.is_empty() {
        let sentence = clipped(&message.sentence, SECTION_CHARS_MAX, escape);
        blocks.push(SlackSectionBlock::new().with_text(markdown(sentence)).into());
    }
    for facts in message.facts.chunks(FIELDS_MAX) {
        let field = |name: &str, value: &str| format!("*{name}*\n{}", clipped(value, FIELD_CHARS_MAX - name.len() - 3, escape));
        let fields = facts.iter().map(|fact| markdown(field(fact.name, &fact.value))).collect();
        blocks.push(SlackSectionBlock::new().with_fields(fields).into());
    }
    if let Some(next) = &message.next {
        let title = "*What to do*\n";
        let next = clipped(next, SECTION_CHARS_MAX - title.len(), escape);
        blocks.push(SlackSectionBlock::new().with_text(markdown(format!("{title}{next}"))).into());
    }
    let id = clipped(&announcement.id, FIELD_CHARS_MAX, |_| None);
    blocks.push(SlackContextBlock::new(vec![SlackBlockPlainText::new(format!("flipback · {id}")).into()]).into());
    // What a phone's lock screen and a screen reader show instead of the blocks.
    let text = clipped(
        &format!("{sign} {}: {}", message.title, message.sentence),
        SECTION_CHARS_MAX,
        escape,
    );
    SlackApiPostWebhookMessageRequest::new(SlackMessageContent::new().with_text(text).with_blocks(blocks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Topic,
        words::tests::{TOPICS, example},
    };

    fn of(announcement: &Announcement) -> SlackApiPostWebhookMessageRequest {
        payload(announcement, &Message::of(announcement))
    }

    #[test]
    fn a_completed_rollback_as_block_kit() {
        insta::assert_json_snapshot!(of(&example(Topic::RollbackCompleted)));
    }

    #[test]
    fn every_topic_as_block_kit() {
        let lines: Vec<String> = TOPICS
            .iter()
            .map(|topic| serde_json::to_string(&of(&example(*topic))).expect("serializes"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn hostile_text_stays_text_and_within_slacks_limits() {
        let hostile = Announcement {
            why: "<!channel> & <https://evil.example|click> ".repeat(400),
            object: "Service/<!here>".into(),
            evidence: Some("<&>".repeat(2000)),
            trigger: Some("x".repeat(5000)),
            ..example(Topic::RollbackFailed)
        };
        let json = serde_json::to_value(of(&hostile)).expect("serializes");
        assert!(!json.to_string().contains(['<', '>']), "{json}");
        for block in json["blocks"].as_array().expect("blocks") {
            let length = |text: &serde_json::Value| text["text"].as_str().map_or(0, |text| text.chars().count());
            match block["type"].as_str().expect("typed") {
                "header" => assert!(length(&block["text"]) <= HEADER_CHARS_MAX),
                "section" => {
                    assert!(length(&block["text"]) <= SECTION_CHARS_MAX);
                    let fields = block["fields"].as_array().cloned().unwrap_or_default();
                    assert!(fields.len() <= FIELDS_MAX && fields.iter().all(|field| length(field) <= FIELD_CHARS_MAX));
                }
                _ => {}
            }
        }
    }
}
