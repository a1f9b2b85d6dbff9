//! Whether a chat has its credentials, and takes a test message.

use std::sync::Arc;

use super::{Findings, Level};
use crate::{
    cli::{chain, now},
    model::{Announcement, GuardId, GuardSpec, Topic, settings::ChatSettings},
    notify,
    words::Message,
};

/// A chat's secret is there; with guards, a test message is sent.
pub(super) async fn chat(findings: &mut Findings, chat: &ChatSettings, test: Option<&Vec<Arc<GuardSpec>>>) {
    let about = format!("chat {}", chat.name);
    let mut unreadable = false;
    for secret in chat.channel.secrets() {
        if let Err(error) = secret.read() {
            unreadable = true;
            findings
                .add(&about, Level::Wrong, chain(&error))
                .todo(format!("put the secret there, or correct the file's name in chats.{}", chat.name));
        }
    }
    if unreadable {
        return;
    }
    let Some(spec) = test.and_then(|guards| guards.first()) else {
        findings.add(
            &about,
            Level::Ok,
            "has its credentials (not contacted; --send-test sends a test message)",
        );
        return;
    };
    let announcement = announcement(spec);
    let message = Message::by(&announcement, &chat.templates);
    let parcel = notify::Parcel {
        announcement: &announcement,
        message: &message,
        thread: None,
    };
    match notify::open(chat).deliver(parcel).await {
        Ok(_) => {
            findings.add(&about, Level::Ok, "took a test message");
        }
        Err(error) => {
            findings.add(&about, Level::Wrong, format!("did not take a test message: {}", chain(&error)));
        }
    }
}

fn announcement(spec: &GuardSpec) -> Announcement {
    let at = now();
    let id: &GuardId = &spec.id;
    Announcement {
        id: format!("{}_test_{}", id.file_name(), at.as_millisecond()),
        guard: id.clone(),
        at,
        why: "this is a test message of `flipback check --send-test`".to_owned(),
        cluster: spec.cluster.clone(),
        namespace: spec.namespace.clone(),
        object: spec.route.object(),
        ..Announcement::example(Topic::Test)
    }
}
