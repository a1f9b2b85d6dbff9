//! The generic webhook: the announcement as it is, with its rendered words, for machines and home-grown receivers.
//!
//! `Idempotency-Key` carries the announcement's id: a receiver that has seen it may drop the repeated one.

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::{
    DeliverError, Entry, Notifier, Parcel,
    post::{Body, Post, To},
};
use crate::{
    model::{
        Announcement, Severity,
        settings::{Channel, ChatKind},
    },
    words::Message,
};

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
struct Event<'a> {
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

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Webhook { url, token, .. } = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let announcement = parcel.announcement;
            let mut headers = HeaderMap::new();
            if let Ok(id) = HeaderValue::from_str(&announcement.id) {
                headers.insert("idempotency-key", id);
            }
            let body = Body::json(&payload(announcement));
            self.post.send(To::Secret(url), body, headers, token.as_ref()).await.map(|_| None)
        }
        .boxed()
    }
}

fn payload(announcement: &Announcement) -> Event<'_> {
    let message = Message::of(announcement);
    Event {
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
        words::tests::{TOPICS, example},
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
