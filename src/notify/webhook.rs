//! The generic webhook: the announcement as it is, with its rendered words, for machines and home-grown receivers.
//!
//! `Idempotency-Key` carries the announcement's id: a receiver that has seen it may drop the repeated one.

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::{DeliverError, Entry, Notifier, message::Message, post::Post};
use crate::model::{Announcement, Severity, settings::ChatKind};

/// Version of the body. A change of meaning raises it; a new field does not.
const SCHEMA: u32 = 1;

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Webhook,
    open: |post| Box::new(Webhook { post }),
};

struct Webhook {
    post: Post,
}

/// What is posted.
#[derive(Serialize)]
struct Body<'a> {
    schema: u32,
    severity: Severity,
    title: String,
    /// The whole message as plain text.
    text: String,
    #[serde(flatten)]
    announcement: &'a Announcement,
}

impl Notifier for Webhook {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, announcement: &'a Announcement) -> BoxFuture<'a, Result<(), DeliverError>> {
        async move {
            let mut headers = HeaderMap::new();
            if let Ok(id) = HeaderValue::from_str(&announcement.id) {
                headers.insert("idempotency-key", id);
            }
            self.post.send(&payload(announcement), headers).await
        }
        .boxed()
    }
}

fn payload(announcement: &Announcement) -> Body<'_> {
    let message = Message::of(announcement);
    Body {
        schema: SCHEMA,
        severity: message.severity,
        text: message.text(),
        title: message.title,
        announcement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Topic,
        notify::message::tests::{TOPICS, example},
    };

    #[test]
    fn a_completed_rollback_as_json() {
        insta::assert_json_snapshot!(payload(&example(Topic::RollbackCompleted)));
    }

    #[test]
    fn every_topic_as_json() {
        let lines: Vec<String> = TOPICS
            .iter()
            .map(|topic| serde_json::to_string(&payload(&example(*topic))).expect("serializes"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
