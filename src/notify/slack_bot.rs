//! Slack as an app: one thread per incident. The thread's first message is kept up to date, so that the channel shows how
//! things stand; what happened when stands in its replies, and the plot beside them.
//!
//! A message is up to three steps: the post, the change of the first message, the picture. Slack has no idempotency key, so
//! delivering the same message again must be harmless by our own means:
//! - What has been done of a message is remembered until all of it is: a retry goes on where it stopped.
//! - Where the outcome of a post is not known (no answer, a crash), Slack is asked first whether the message is there: it
//!   carries its id. An app that may not read its channel risks a repeated message rather than a lost one.
//! - Only the post must succeed. The first message's change is given up after some attempts, and comes with the next
//!   message; a picture is tried once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use serde_json::Value;
use slack_morphism::{
    SlackChannelId, SlackMessageMetadata, SlackTs,
    api::{SlackApiChatPostMessageRequest, SlackApiChatUpdateRequest},
};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    DeliverError, Entry, Notifier, Parcel, blocks,
    failure::chain,
    post::{Body, Post},
    slack_api::{Api, is_in_doubt, is_thread_gone},
    slack_picture::{self, ShowError},
    slack_receipt::{Place, Receipt},
};
use crate::{
    model::{
        Announcement, Severity, Stage,
        settings::{Channel, ChatKind, Templates},
    },
    words::Message,
};

/// Messages whose progress is remembered; one is under way at a time, some may be tried again later.
const PROGRESS_MAX: usize = 64;
/// Attempts at changing the first message before the next one may do it.
const UPDATES_MAX: u32 = 3;
/// How far before a message's own time it is looked for: our clock and Slack's may differ.
const LOOK_BACK_SECONDS: i64 = 600;
/// So many of the last messages are looked through.
const LOOK_MESSAGES_MAX: &str = "50";
/// A look may take this part of the chat's timeout: the rest is for the message itself.
const LOOK_SHARE: u32 = 4;
/// What our messages are called for programs that read the channel.
const EVENT_TYPE: &str = "flipback_announcement";

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::SlackBot,
    open: |post| {
        Box::new(SlackBot {
            post,
            progress: Mutex::default(),
            is_proven: AtomicBool::new(false),
        })
    },
};

struct SlackBot {
    post: Post,
    /// By announcement id, oldest first.
    progress: Mutex<VecDeque<(String, Progress)>>,
    /// A message was delivered since the start: those after it were not under way when the last process ended.
    is_proven: AtomicBool,
}

/// How far a message has come.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// It may have been posted without our knowing.
    in_doubt: bool,
    posted: Option<Posted>,
    updates_failed: u32,
}

#[derive(Clone, Debug)]
struct Posted {
    /// `None`: Slack took it and did not say where it stands.
    place: Option<Place>,
    /// It begins a thread.
    is_head: bool,
}

impl Notifier for SlackBot {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        let Channel::SlackBot { token, channel, api } = &self.post.chat().channel else {
            return async { Err(DeliverError::NotAUrl) }.boxed();
        };
        let api = Api {
            post: &self.post,
            base: api,
            token,
        };
        self.tell(api, channel, parcel).boxed()
    }
}

impl SlackBot {
    /// No code panics while it holds the lock.
    fn all_progress(&self) -> MutexGuard<'_, VecDeque<(String, Progress)>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, id: &str) -> Progress {
        let all = self.all_progress();
        let found = all.iter().find(|(known, _)| known == id);
        found.map(|(_, progress)| progress.clone()).unwrap_or_default()
    }

    fn remember(&self, id: &str, change: impl FnOnce(&mut Progress)) {
        let mut all = self.all_progress();
        if !all.iter().any(|(known, _)| known == id) {
            if all.len() >= PROGRESS_MAX {
                all.pop_front();
            }
            all.push_back((id.to_owned(), Progress::default()));
        }
        if let Some((_, progress)) = all.iter_mut().find(|(known, _)| known == id) {
            change(progress);
        }
    }

    async fn tell(&self, api: Api<'_>, channel: &str, parcel: Parcel<'_>) -> Result<Option<String>, DeliverError> {
        let announcement = parcel.announcement;
        let before = Receipt::read(parcel.thread, announcement, channel);
        if let Some(receipt) = before.as_ref().filter(|receipt| receipt.has_told(announcement)) {
            return Ok(Some(receipt.write()));
        }
        let within = self.post.chat().timeout;
        let (place, receipt) = timeout(within, self.write(api, channel, parcel, before))
            .await
            .unwrap_or(Err(DeliverError::Timeout(within)))?;
        let receipt = self.show(api, parcel, place, receipt).await;
        self.all_progress().retain(|(id, _)| *id != announcement.id);
        self.is_proven.store(true, Ordering::Relaxed);
        Ok(receipt.map(|receipt| receipt.write()))
    }

    /// Posts the message and brings the first one of its thread up to date.
    async fn write(
        &self,
        api: Api<'_>,
        channel: &str,
        parcel: Parcel<'_>,
        before: Option<Receipt>,
    ) -> Result<(Option<Place>, Option<Receipt>), DeliverError> {
        let announcement = parcel.announcement;
        let posted = match self.progress(&announcement.id).posted {
            Some(posted) => posted,
            None => self.post_once(api, channel, parcel, before.as_ref()).await?,
        };
        let before = before.filter(|_| !posted.is_head);
        let Some(place) = posted.place else { return Ok((None, before)) };
        let receipt = Receipt::after(before.as_ref(), place.clone(), announcement, channel);
        if let (Some(_), Some(receipt)) = (&before, &receipt) {
            self.update(api, parcel, receipt).await?;
        }
        // A file belongs below the message that begins the thread.
        let head = receipt.as_ref().map(|receipt| receipt.head.clone());
        Ok((head.or(Some(place)), receipt))
    }

    /// Posts the message, unless it turns out to be there.
    async fn post_once(&self, api: Api<'_>, channel: &str, parcel: Parcel<'_>, before: Option<&Receipt>) -> Result<Posted, DeliverError> {
        let id = parcel.announcement.id.as_str();
        let is_doubtful = self.progress(id).in_doubt || !self.is_proven.load(Ordering::Relaxed);
        let found = if is_doubtful {
            self.find(api, channel, parcel.announcement, before).await
        } else {
            None
        };
        let posted = if let Some(place) = found {
            Posted {
                place: Some(place),
                is_head: before.is_none(),
            }
        } else {
            match self.post_message(api, channel, parcel, before.map(|receipt| &receipt.head)).await {
                Err(gone) if before.is_some() && is_thread_gone(&gone) => self.post_message(api, channel, parcel, None).await?,
                other => other?,
            }
        };
        self.remember(id, |progress| progress.posted = Some(posted.clone()));
        Ok(posted)
    }

    async fn post_message(&self, api: Api<'_>, channel: &str, parcel: Parcel<'_>, thread: Option<&Place>) -> Result<Posted, DeliverError> {
        let announcement = parcel.announcement;
        let body = message(channel, parcel, thread);
        // Noted before, so that a call that is cut short leaves it noted.
        self.remember(&announcement.id, |progress| progress.in_doubt = true);
        let answer = api.call("chat.postMessage", Body::json(&body)).await;
        let in_doubt = answer.as_ref().err().is_some_and(is_in_doubt);
        self.remember(&announcement.id, |progress| progress.in_doubt = in_doubt);
        let answer = answer?;
        let place = answer["channel"].as_str().zip(answer["ts"].as_str()).map(|(channel, ts)| Place {
            channel: channel.to_owned(),
            ts: ts.to_owned(),
        });
        Ok(Posted {
            place,
            is_head: thread.is_none(),
        })
    }

    /// Looks whether a message is there already. Not being allowed to, or not being told in time, is no.
    async fn find(&self, api: Api<'_>, channel: &str, announcement: &Announcement, before: Option<&Receipt>) -> Option<Place> {
        let (method, channel, ts) = match before {
            Some(receipt) => ("conversations.replies", receipt.head.channel.as_str(), Some(&receipt.head.ts)),
            None => ("conversations.history", channel, None),
        };
        let mut fields = vec![
            ("channel", channel.to_owned()),
            ("oldest", (announcement.at.as_second() - LOOK_BACK_SECONDS).to_string()),
            ("limit", LOOK_MESSAGES_MAX.to_owned()),
            ("include_all_metadata", "true".to_owned()),
        ];
        fields.extend(ts.map(|ts| ("ts", ts.clone())));
        let within = self.post.chat().timeout / LOOK_SHARE;
        let answer = timeout(within, api.call(method, Body::Form(fields)))
            .await
            .unwrap_or(Err(DeliverError::Timeout(within)));
        match answer {
            Ok(answer) => {
                let messages = answer["messages"].as_array()?;
                let ts = messages.iter().find(|message| carries(message, &announcement.id))?["ts"].as_str()?;
                Some(Place {
                    channel: channel.to_owned(),
                    ts: ts.to_owned(),
                })
            }
            Err(error) => {
                let (chat, id) = (self.post.name(), announcement.id.as_str());
                debug!(
                    chat,
                    id,
                    error = chain(&error),
                    "Could not look whether the message is there already"
                );
                None
            }
        }
    }

    /// Changes the first message of the thread to how things stand.
    async fn update(&self, api: Api<'_>, parcel: Parcel<'_>, receipt: &Receipt) -> Result<(), DeliverError> {
        let announcement = parcel.announcement;
        let state = state(parcel, receipt, &self.post.chat().templates);
        let content = blocks::content(announcement, &state, &steps(receipt), &format!("{}.state", announcement.id));
        let head = &receipt.head;
        let body = SlackApiChatUpdateRequest::new(SlackChannelId(head.channel.clone()), content, SlackTs(head.ts.clone()));
        let Err(error) = api.call("chat.update", Body::json(&body)).await else {
            return Ok(());
        };
        self.remember(&announcement.id, |progress| progress.updates_failed += 1);
        if !error.is_permanent() && self.progress(&announcement.id).updates_failed < UPDATES_MAX {
            return Err(error);
        }
        let remedy = error.remedy(&self.post.chat().channel);
        let (chat, id) = (self.post.name(), announcement.id.as_str());
        warn!(
            chat,
            id,
            error = chain(&error),
            remedy,
            "First message of the thread is out of date"
        );
        Ok(())
    }

    /// Shows the announcement's picture in the thread, if it has one that was not shown there yet. Never fails the message.
    async fn show(&self, api: Api<'_>, parcel: Parcel<'_>, place: Option<Place>, receipt: Option<Receipt>) -> Option<Receipt> {
        let (Some(path), Some(place)) = (&parcel.announcement.picture, place) else {
            return receipt;
        };
        let known = receipt.as_ref().and_then(|receipt| receipt.picture.clone());
        let within = self.post.chat().timeout;
        let shown = timeout(within, slack_picture::upload(api, parcel.message, path, &place, known))
            .await
            .unwrap_or(Err(ShowError::Timeout(within)));
        match shown {
            Ok(picture) => receipt.map(|mut receipt| {
                receipt.picture = Some(picture);
                receipt
            }),
            Err(error) => {
                let remedy = error.remedy(&self.post.chat().channel);
                let (chat, id) = (self.post.name(), parcel.announcement.id.as_str());
                warn!(chat, id, error = chain(&error), remedy, "Message goes without its picture");
                receipt
            }
        }
    }
}

/// The message as it is posted.
fn message(channel: &str, parcel: Parcel<'_>, thread: Option<&Place>) -> SlackApiChatPostMessageRequest {
    let announcement = parcel.announcement;
    let payload = HashMap::from([("id".to_owned(), announcement.id.clone())]);
    let metadata = SlackMessageMetadata::new(EVENT_TYPE.to_owned()).with_event_payload(payload);
    let content = blocks::content(announcement, parcel.message, &[], &announcement.id).with_metadata(metadata);
    let channel = thread.map_or(channel, |place| place.channel.as_str());
    let request = SlackApiChatPostMessageRequest::new(SlackChannelId(channel.to_owned()), content)
        .with_unfurl_links(false)
        .with_unfurl_media(false);
    match thread {
        Some(place) => request
            .with_thread_ts(SlackTs(place.ts.clone()))
            .with_reply_broadcast(is_turn(announcement)),
        None => request,
    }
}

/// Whether a reply is for those too who only look at the channel: a turn for the worse, or something to be done.
fn is_turn(announcement: &Announcement) -> bool {
    announcement.topic.severity() == Severity::Critical || announcement.topic.stage() == Stage::Opens
}

/// What the first message says: the last news about traffic, even where the message at hand is about the evidence.
fn state(parcel: Parcel<'_>, receipt: &Receipt, templates: &Templates) -> Message {
    if receipt.state == parcel.announcement.topic {
        return parcel.message.clone();
    }
    let told = Announcement {
        topic: receipt.state,
        ..parcel.announcement.clone()
    };
    Message {
        sentence: parcel.message.sentence.clone(),
        ..Message::by(&told, templates)
    }
}

/// One line per step so far.
fn steps(receipt: &Receipt) -> Vec<String> {
    let mut lines: Vec<String> = receipt
        .steps
        .iter()
        .map(|step| blocks::step(step.topic, Timestamp::from_second(step.at).unwrap_or_default()))
        .collect();
    if receipt.left_out > 0 {
        lines.insert(1, format!("… {} more …", receipt.left_out));
    }
    lines
}

/// Whether this is the message with that id. Metadata may be kept from an app that lacks a scope, a block's name never is.
fn carries(message: &Value, id: &str) -> bool {
    let blocks = |holder: &Value| {
        let blocks = holder["blocks"].as_array();
        blocks.is_some_and(|blocks| blocks.iter().any(|block| block["block_id"] == blocks::block_id(id)))
    };
    message["metadata"]["event_payload"]["id"] == id
        || blocks(message)
        || message["attachments"].as_array().is_some_and(|all| all.iter().any(blocks))
}
