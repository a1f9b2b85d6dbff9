//! What is remembered of a Slack thread between its messages: where its first message stands, and the steps that it
//! lists. It holds nothing that anybody wrote, only our own words and Slack's, so that its size is known.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    model::{Announcement, Stage, Topic},
    words::clipped,
};

/// The outbox keeps a receipt of less than 1 KiB.
const RECEIPT_BYTES_MAX: usize = 1000;
/// Slack's channel names have at most 80 characters.
const CHANNEL_CHARS_MAX: usize = 80;

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The channel's id, whatever it is called in the configuration.
    pub(super) channel: String,
    /// The message's time stamp, which is its name.
    pub(super) ts: String,
}

/// What happened, and when in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) topic: Topic,
    pub(super) at: i64,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    /// The channel by the name it was configured with.
    to: String,
    /// Its first message.
    #[serde(flatten)]
    pub(super) head: Place,
    /// What the first message tells: the last news about traffic.
    pub(super) state: Topic,
    resolved: bool,
    /// Digest of the last message that was told whole.
    last: String,
    /// Digest of the last picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) picture: Option<String>,
    pub(super) steps: Vec<Step>,
    /// Steps between the first and the second that had no room.
    pub(super) left_out: u32,
}

/// Some letters that stand for some bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in Sha256::digest(bytes).iter().take(8) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whether a message tells of the evidence and not of traffic.
fn is_aside(topic: Topic) -> bool {
    matches!(topic, Topic::EvidenceReady | Topic::EvidenceLost)
}

impl Receipt {
    /// The thread that a message continues, if it continues one: what happens by itself does not, nor does new trouble
    /// after the old one was resolved, nor what goes to another channel by now.
    pub(super) fn read(text: Option<&str>, announcement: &Announcement, channel: &str) -> Option<Self> {
        let receipt: Self = serde_json::from_str(text?).ok()?;
        let stage = announcement.topic.stage();
        let continues = match stage {
            Stage::Once => false,
            Stage::Opens => !receipt.resolved || receipt.has_told(announcement),
            Stage::Continues | Stage::Resolves => true,
        };
        (continues && receipt.to == named(channel)).then_some(receipt)
    }

    /// The thread once a message has been told; `None`: the message began and ended it.
    pub(super) fn after(before: Option<&Self>, head: Place, announcement: &Announcement, channel: &str) -> Option<Self> {
        let (topic, at) = (announcement.topic, announcement.at.as_second());
        if topic.stage() == Stage::Once {
            return None;
        }
        let mut receipt = before.cloned().unwrap_or_else(|| Self {
            to: named(channel),
            head,
            state: topic,
            resolved: false,
            last: String::new(),
            picture: None,
            steps: Vec::new(),
            left_out: 0,
        });
        if !is_aside(topic) {
            receipt.state = topic;
            receipt.resolved = topic.stage() == Stage::Resolves;
        }
        receipt.last = digest(announcement.id.as_bytes());
        receipt.steps.push(Step { topic, at });
        while receipt.write().len() > RECEIPT_BYTES_MAX && receipt.steps.len() > 2 {
            receipt.steps.remove(1);
            receipt.left_out += 1;
        }
        Some(receipt)
    }

    /// Whether this message was the last one told.
    pub(super) fn has_told(&self, announcement: &Announcement) -> bool {
        self.last == digest(announcement.id.as_bytes())
    }

    /// As the outbox keeps it.
    pub(super) fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn named(channel: &str) -> String {
    clipped(channel, CHANNEL_CHARS_MAX, |_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            channel: "C0123456789".into(),
            ts: "1795234354.000100".into(),
        }
    }

    fn told(topics: &[Topic]) -> Receipt {
        let mut receipt = None;
        for (n, topic) in topics.iter().enumerate() {
            let mut announcement = Announcement::example(*topic);
            announcement.id = format!("{n}");
            receipt = Receipt::after(receipt.as_ref(), place(), &announcement, "#deploys");
        }
        receipt.expect("a thread")
    }

    fn continues(receipt: &Receipt, topic: Topic, channel: &str) -> bool {
        Receipt::read(Some(&receipt.write()), &Announcement::example(topic), channel).is_some()
    }

    #[test]
    fn a_thread_of_any_length_fits_into_a_receipt() {
        let many = told(&[Topic::RollbackInitiated; 500]);
        assert!(many.write().len() <= RECEIPT_BYTES_MAX, "{}", many.write());
        assert_eq!(many.steps.len() + many.left_out as usize, 500);
        let odd = "🔥\"".repeat(5000);
        let odd = Receipt::after(None, place(), &Announcement::example(Topic::Blind), &odd).expect("a thread");
        assert!(odd.write().len() < 1024, "{}", odd.write().len());
    }

    #[test]
    fn new_trouble_after_the_old_one_is_a_thread_of_its_own() {
        let open = told(&[Topic::Blind]);
        assert!(continues(&open, Topic::Sighted, "#deploys") && continues(&open, Topic::Blind, "#deploys"));
        let over = told(&[Topic::Blind, Topic::Sighted]);
        assert!(!continues(&over, Topic::Blind, "#deploys"));
        let over = told(&[
            Topic::RollbackInitiated,
            Topic::RollbackCompleted,
            Topic::Recovered,
            Topic::EvidenceReady,
        ]);
        assert!(continues(&over, Topic::Resolved, "#deploys") && !continues(&over, Topic::RollbackInitiated, "#deploys"));
        assert_eq!(over.state, Topic::Recovered, "a report does not change what traffic is like");
    }

    #[test]
    fn what_happens_by_itself_has_no_thread() {
        assert!(Receipt::after(None, place(), &Announcement::example(Topic::Alert), "#deploys").is_none());
        assert!(!continues(&told(&[Topic::Blind]), Topic::Alert, "#deploys"));
    }

    #[test]
    fn another_channel_or_a_foreign_receipt_begins_anew() {
        assert!(!continues(&told(&[Topic::Blind]), Topic::Sighted, "#others"));
        assert!(Receipt::read(Some("{}"), &Announcement::example(Topic::Sighted), "#deploys").is_none());
        assert!(Receipt::read(None, &Announcement::example(Topic::Sighted), "#deploys").is_none());
    }
}
