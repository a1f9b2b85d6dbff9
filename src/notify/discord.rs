//! Discord webhook: one embed per message, in the severity's color, the plot below it.
//!
//! A webhook can neither reply nor open a thread in an ordinary channel: there each message stands by itself and names its
//! incident. A forum channel, which takes nothing outside of a thread, gets one thread per incident.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::warn;

use super::{
    DeliverError, Entry, Notifier, Parcel,
    failure::chain,
    form, picture,
    post::{Body, Part, Post, To},
};
use crate::{
    model::{
        Announcement, Severity, Stage,
        settings::{Channel, ChatKind},
    },
    words::{Message, clipped},
};

/// Discord's limits are 256, 4096, 1024 and 2048 characters, 25 fields and 6000 characters in all. What it counts as one is
/// not said: ours are half of its, so that they hold for UTF-16 too.
const TITLE_CHARS_MAX: usize = 128;
const FIELDS_MAX: usize = 25;
const FOOTER_CHARS_MAX: usize = 200;
/// Of all embeds together, in UTF-16 units.
const TOTAL_UNITS_MAX: usize = 6000;
/// Characters of the description and of each field, tried in this order until the embed fits.
const CHARS_MAX: [(usize, usize); 3] = [(1800, 500), (900, 120), (300, 60)];
/// A forum thread's name: half of Discord's limit too.
const THREAD_NAME_CHARS_MAX: usize = 50;
/// Discord's word for a forum channel that was posted to without a thread.
const NEEDS_THREAD: &str = "220001";
/// Discord's word for a thread that is not there any more.
const UNKNOWN_CHANNEL: &str = "10003";

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Discord,
    open: |post| {
        Box::new(Discord {
            post,
            is_forum: AtomicBool::new(false),
        })
    },
};

struct Discord {
    post: Post,
    /// Learned from a refusal.
    is_forum: AtomicBool,
}

/// Where a message goes within the webhook's channel.
#[derive(Clone, Copy)]
enum Spot<'a> {
    Channel,
    /// A thread of a forum, by its id.
    Thread(&'a str),
    /// A new thread of a forum.
    NewThread,
}

impl Notifier for Discord {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let within = self.post.chat().timeout;
            timeout(within, self.tell(parcel))
                .await
                .unwrap_or(Err(DeliverError::Timeout(within)))
        }
        .boxed()
    }
}

impl Discord {
    async fn tell(&self, parcel: Parcel<'_>) -> Result<Option<String>, DeliverError> {
        let continues = parcel.thread.filter(|_| parcel.announcement.topic.stage() != Stage::Once);
        let spot = match continues {
            Some(thread) => Spot::Thread(thread),
            None if self.is_forum.load(Ordering::Relaxed) => Spot::NewThread,
            None => Spot::Channel,
        };
        let picture = self.picture(parcel.announcement).await;
        let refusal = match self.send(parcel, spot, picture.as_deref()).await {
            Err(refusal) if refusal.is_permanent() => refusal,
            sent => return sent,
        };
        // What Discord does not take as it is, it may take in another spot, or without the picture.
        let spot = match (&refusal, spot) {
            (DeliverError::Status { said, .. }, Spot::Channel) if said.contains(NEEDS_THREAD) => {
                self.is_forum.store(true, Ordering::Relaxed);
                Spot::NewThread
            }
            (DeliverError::Status { said, .. }, Spot::Thread(_)) if said.contains(UNKNOWN_CHANNEL) => Spot::NewThread,
            (DeliverError::Status { status: 400 | 413, .. }, spot) if picture.is_some() => {
                let (chat, id) = (self.post.name(), parcel.announcement.id.as_str());
                warn!(chat, id, error = chain(&refusal), "Message goes without its picture");
                return self.send(parcel, spot, None).await;
            }
            _ => return Err(refusal),
        };
        self.send(parcel, spot, picture.as_deref()).await
    }

    async fn picture(&self, announcement: &Announcement) -> Option<Vec<u8>> {
        let path = announcement.picture.as_deref()?;
        match picture::read(path).await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let (chat, id) = (self.post.name(), announcement.id.as_str());
                warn!(chat, id, error = chain(&error), "Message goes without its picture");
                None
            }
        }
    }

    /// Sends the message once; what comes back is the thread that it began or continued, in a forum.
    async fn send(&self, parcel: Parcel<'_>, spot: Spot<'_>, picture: Option<&[u8]>) -> Result<Option<String>, DeliverError> {
        let Channel::Discord { url } = &self.post.chat().channel else {
            return Err(DeliverError::NotAUrl);
        };
        let mut body = payload(parcel.announcement, parcel.message, picture.is_some());
        // Without `wait` Discord answers before it has looked at the message.
        let mut query = vec![("wait", "true")];
        match spot {
            Spot::Channel => {}
            Spot::Thread(id) => query.push(("thread_id", id)),
            Spot::NewThread => body["thread_name"] = clipped(&parcel.message.title, THREAD_NAME_CHARS_MAX, |_| None).into(),
        }
        let body = match picture {
            None => Body::json(&body),
            Some(bytes) => Body::Parts(parts(&body, bytes)),
        };
        let answer = self.post.send(To::Asking(url, &query), body, HeaderMap::new(), None).await?;
        Ok(match spot {
            Spot::Channel => None,
            Spot::Thread(id) => Some(id.to_owned()),
            Spot::NewThread => thread(&answer.body),
        })
    }
}

/// The thread that Discord made: a message's channel is the thread that it is in.
fn thread(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let id = answer["channel_id"].as_str()?;
    (id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_digit())).then(|| id.to_owned())
}

fn parts(body: &Value, picture: &[u8]) -> Vec<Part> {
    let part = |name: &str, file_name: Option<&str>, media_type, content| Part {
        name: name.to_owned(),
        file_name: file_name.map(str::to_owned),
        media_type,
        content,
    };
    vec![
        part("payload_json", None, "application/json", body.to_string().into_bytes()),
        part("files[0]", Some(picture::FILE_NAME), "image/png", picture.to_vec()),
    ]
}

fn color(severity: Severity) -> u32 {
    match severity {
        Severity::Critical => 0xd9_2d20,
        Severity::Warning => 0xf7_9009,
        Severity::Info => 0x12_b76a,
    }
}

/// The characters that make links, mentions, emphasis, quotes, lists, spoilers and code in Discord's Markdown.
fn escape(c: char) -> Option<&'static str> {
    match c {
        '\\' => Some("\\\\"),
        '*' => Some("\\*"),
        '_' => Some("\\_"),
        '~' => Some("\\~"),
        '`' => Some("\\`"),
        '|' => Some("\\|"),
        '>' => Some("\\>"),
        '<' => Some("\\<"),
        '[' => Some("\\["),
        ']' => Some("\\]"),
        '#' => Some("\\#"),
        '@' => Some("\\@"),
        _ => None,
    }
}

fn units(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.encode_utf16().count())
}

/// What counts towards Discord's limit of an embed.
fn counted(embed: &Value) -> usize {
    let fields = embed["fields"].as_array().into_iter().flatten();
    let fields: usize = fields.map(|field| units(&field["name"]) + units(&field["value"])).sum();
    fields + units(&embed["title"]) + units(&embed["description"]) + units(&embed["footer"]["text"])
}

fn payload(announcement: &Announcement, message: &Message, has_picture: bool) -> Value {
    let [first, rest @ ..] = CHARS_MAX;
    let of = |chars_max| embed(announcement, message, chars_max);
    let mut embed = rest.into_iter().fold(
        of(first),
        |made, chars_max| {
            if counted(&made) > TOTAL_UNITS_MAX { of(chars_max) } else { made }
        },
    );
    if has_picture {
        embed["image"] = json!({"url": format!("attachment://{}", picture::FILE_NAME)});
    }
    // Whatever a text says, nobody is called by it.
    json!({"embeds": [embed], "allowed_mentions": {"parse": []}})
}

fn embed(announcement: &Announcement, message: &Message, (text_max, field_max): (usize, usize)) -> Value {
    let title = format!("{} {}", form::sign(message.severity), message.title);
    let mut said = clipped(&message.sentence, text_max, escape);
    if let Some(next) = message.next.as_ref().filter(|next| !next.is_empty()) {
        let gap = if said.is_empty() { "" } else { "\n\n" };
        said = format!("{said}{gap}**What to do:** {}", clipped(next, text_max / 2, escape));
    }
    let url = form::address(announcement.link.as_deref());
    if let Some(url) = &url {
        // A round bracket would end the link's address.
        let url = url.as_str().replace('(', "%28").replace(')', "%29");
        if url.chars().count() <= text_max / 2 {
            let gap = if said.is_empty() { "" } else { "\n\n" };
            said = format!("{said}{gap}[Open the report]({url})");
        }
    }
    let fields: Vec<Value> = form::facts(announcement, message)
        .into_iter()
        .take(FIELDS_MAX)
        .map(|(name, value)| json!({"name": name, "value": clipped(value, field_max, escape), "inline": value.chars().count() <= 40}))
        .collect();
    let incident = announcement.incident.as_deref().map(|id| format!(" · {id}")).unwrap_or_default();
    let mut embed = json!({
        "title": clipped(&title, TITLE_CHARS_MAX, escape),
        "color": color(message.severity),
        "fields": fields,
        "footer": {"text": clipped(&format!("flipback{incident}"), FOOTER_CHARS_MAX, |_| None)},
        "timestamp": announcement.at.to_string(),
    });
    if !said.is_empty() {
        embed["description"] = said.into();
    }
    if let Some(url) = url.filter(|url| url.as_str().len() <= 2048) {
        embed["url"] = url.as_str().into();
    }
    embed
}
