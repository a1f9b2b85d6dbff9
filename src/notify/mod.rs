//! Tells people. An [`Announcement`] becomes one plain-language [`message::Message`], each chat gives it its own form,
//! and the [`Outbox`] carries it there.
//!
//! Principles:
//! - Nothing on the road of a flip waits for a chat: [`Outbox::push`] is synchronous, bounded and cannot fail.
//! - A message is on disk before it is sent and leaves the disk after it was accepted: a crash between the two sends it
//!   again, never loses it. Receivers drop a repeated one by its id, and what one has accepted is never sent again, whoever
//!   pushes it in whichever run.
//! - What was told and not ended is known after a restart, by the same files: [`Outbox::take_left_open`].
//! - Chats do not know of each other: one worker each, so that a black hole delays only itself.
//! - Messages of one thread arrive in order; threads do not wait for each other.
//! - A webhook URL is a secret: it is read when needed and never becomes part of an error, a log line or a file.
//!
//! A new chat is one file with its `ENTRY` and two lines here: its `mod` and its place in [`CATALOGUE`].

use futures::future::BoxFuture;

use crate::{
    model::{
        Announcement,
        settings::{ChatKind, ChatSettings},
    },
    words::Message,
};

mod alertmanager;
mod blocks;
mod discord;
mod email;
mod failure;
mod filter;
mod form;
mod lane;
mod letter;
mod outbox;
mod pagerduty;
mod picture;
mod post;
mod quiet;
mod rehearsal;
mod remedy;
mod slack;
mod slack_api;
mod slack_bot;
mod slack_picture;
mod slack_receipt;
mod spool;
mod standing;
mod teams;
mod webhook;

pub use failure::DeliverError;
pub use filter::suits;
pub use lane::OpenThread;
pub use outbox::{GivenUp, Opener, Outbox, OutboxTask, Pushed};
use post::Post;
pub use rehearsal::{Draft, Rehearsal};

/// One message on its way to one chat.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    /// The facts.
    pub announcement: &'a Announcement,
    /// The words, those of the chat's own templates included.
    pub message: &'a Message,
    /// What this chat gave back when it accepted an earlier message of the same thread.
    pub thread: Option<&'a str>,
}

/// One chat or receiver that can be told.
pub trait Notifier: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// Delivers one message, within the chat's own timeout; a retry is the caller's business. What it returns, under
    /// 1 KiB, comes back with later messages of the same thread, after a restart too.
    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>>;
}

/// One kind of chat.
struct Entry {
    kind: ChatKind,
    open: fn(Post) -> Box<dyn Notifier>,
}

/// Every kind of chat.
const CATALOGUE: &[Entry] = &[
    slack::ENTRY,
    slack_bot::ENTRY,
    teams::ENTRY,
    discord::ENTRY,
    webhook::ENTRY,
    pagerduty::ENTRY,
    alertmanager::ENTRY,
    email::ENTRY,
];

/// Makes the notifier of a configured chat.
#[must_use]
pub fn open(chat: &ChatSettings) -> Box<dyn Notifier> {
    made(Post::new(chat.clone()))
}

/// Makes the notifier of a configured chat that sends nothing, and what it writes its requests down in.
#[must_use]
pub fn rehearse(chat: &ChatSettings) -> (Box<dyn Notifier>, Rehearsal) {
    let rehearsal = Rehearsal::default();
    (made(Post::rehearsing(chat.clone(), rehearsal.clone())), rehearsal)
}

fn made(post: Post) -> Box<dyn Notifier> {
    let entry = CATALOGUE
        .iter()
        .find(|entry| entry.kind == post.chat().kind())
        .expect("every kind of chat is in the catalogue, which a test proves");
    (entry.open)(post)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_chat_is_in_the_catalogue_once() {
        for kind in ChatKind::ALL {
            assert_eq!(CATALOGUE.iter().filter(|entry| entry.kind == kind).count(), 1, "{kind:?}");
        }
    }
}
