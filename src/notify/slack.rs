//! Slack incoming webhook: Block Kit, made of slack-morphism's types. They are delivered by our own HTTP client: one
//! egress, one timeout and one proxy policy for all chats.
//!
//! A webhook answers `ok` and nothing else: its messages can neither be threaded nor changed. Each names its incident.

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
use slack_morphism::api::SlackApiPostWebhookMessageRequest;

use super::{
    DeliverError, Entry, Notifier, Parcel, blocks,
    post::{Body, Post, To},
};
use crate::model::settings::{Channel, ChatKind};

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
            let announcement = parcel.announcement;
            let content = blocks::content(announcement, parcel.message, &[], &announcement.id);
            let body = Body::json(&SlackApiPostWebhookMessageRequest::new(content));
            self.post.send(To::Secret(url), body, HeaderMap::new(), None).await.map(|_| None)
        }
        .boxed()
    }
}
