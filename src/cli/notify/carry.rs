//! Sends one chat its samples, and says of each what came of it.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Fate, Line, chain,
    plan::{self, Planned, keeps_a_list},
};
use crate::{
    model::{Announcement, Stage, Topic, settings::ChatSettings},
    notify::{self, DeliverError, Notifier, Parcel, Rehearsal},
};

/// Attempts at one sample while the chat says "not so fast".
const ATTEMPTS_MAX: usize = 6;
/// Waited when it does not say how long.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest that is waited.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sends one chat its samples, one after another.
pub(super) async fn carry(chat: &ChatSettings, plan: Vec<Planned>, dry_run: bool) -> Vec<Line> {
    let (notifier, rehearsal) = if dry_run {
        let (notifier, rehearsal) = notify::rehearse(chat);
        (notifier, Some(rehearsal))
    } else {
        (notify::open(chat), None)
    };
    let mut receipts: BTreeMap<String, String> = BTreeMap::new();
    let mut lines: Vec<Line> = Vec::new();
    let mut hopeless = false;
    for Planned { announcement, closing } in plan {
        let mut line = Line {
            chat: chat.name.clone(),
            kind: chat.kind(),
            topic: announcement.topic,
            closing,
            fate: Fate::NotTried,
            why: None,
            todo: None,
            drafts: Vec::new(),
        };
        let once = announcement.topic.stage() == Stage::Once && announcement.topic != Topic::Test;
        if keeps_a_list(chat.kind()) && once {
            line.fate = Fate::Skipped;
            line.why = Some("it has no end that flipback could tell".to_owned());
        } else if !hopeless {
            hopeless = attempt(&mut line, chat, &*notifier, rehearsal.as_ref(), &announcement, &mut receipts).await;
        }
        lines.push(line);
    }
    lines
}

/// Sends one sample and says in its line what came of it; `true` when the others need not be tried.
async fn attempt(
    line: &mut Line,
    chat: &ChatSettings,
    notifier: &dyn Notifier,
    rehearsal: Option<&Rehearsal>,
    announcement: &Announcement,
    receipts: &mut BTreeMap<String, String>,
) -> bool {
    let message = plan::words(announcement, chat);
    let parcel = Parcel {
        announcement,
        message: &message,
        thread: receipts.get(&announcement.thread).map(String::as_str),
    };
    let delivered = patiently(notifier, parcel).await;
    line.drafts = rehearsal.map(Rehearsal::take).unwrap_or_default();
    match delivered {
        Ok(receipt) => {
            line.fate = if rehearsal.is_some() { Fate::Drafted } else { Fate::Sent };
            if let Some(receipt) = receipt {
                receipts.insert(announcement.thread.clone(), receipt);
            }
            false
        }
        Err(error) => {
            line.fate = Fate::Failed;
            line.why = Some(chain(&error));
            line.todo = Some(error.remedy(&chat.channel));
            // What a chat says about one message may not hold for the next; a wrong address does.
            !matches!(
                error,
                DeliverError::Refused { .. }
                    | DeliverError::Status {
                        status: 400 | 413 | 422,
                        ..
                    }
            )
        }
    }
}

/// Delivers; waits as long as the chat asks for, since two dozen messages at once are more than most chats like.
async fn patiently(notifier: &dyn Notifier, parcel: Parcel<'_>) -> Result<Option<String>, DeliverError> {
    let mut attempts = 1;
    loop {
        match notifier.deliver(parcel).await {
            Err(error @ DeliverError::Status { status: 429, .. }) if attempts < ATTEMPTS_MAX => {
                attempts += 1;
                tokio::time::sleep(error.retry_after().unwrap_or(PAUSE).min(PAUSE_MAX)).await;
            }
            ended => return ended,
        }
    }
}
