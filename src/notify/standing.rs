//! What a receiver that keeps a list of what is wrong (PagerDuty, Alertmanager) holds of one thread, and what a message
//! makes of it. Pure. It travels as the thread's receipt, so that a restart knows it too.
//!
//! Why it is needed: news about a thread that is over ("the report is ready") must not open it again and wake somebody;
//! good news while it is open ("traffic is back") must not lower it before it is known that it helped; and an alert's
//! identity may hold only what does not change.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Parcel;
use crate::model::{Announcement, Severity, Stage, Topic};

/// One thread, as the receiver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// It is on the receiver's list.
    pub(super) open: bool,
    /// The loudest it has been since it was opened.
    pub(super) severity: Severity,
    /// When it was opened.
    pub(super) since: Timestamp,
}

/// What a message makes of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is put on the list, or stays there with news.
    Fires(Standing),
    /// It is taken off.
    Ends(Standing),
    /// A test message: it is put on the list and taken off by itself.
    Trial(Standing),
    /// Nothing that lasts: a receiver of this kind is not told.
    Nothing,
}

impl Standing {
    /// The receipt of an earlier message; what cannot be read is as good as none.
    fn read(receipt: Option<&str>) -> Option<Self> {
        receipt.and_then(|receipt| serde_json::from_str(receipt).ok())
    }

    /// As a receipt.
    pub(super) fn receipt(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// What this message makes of its thread.
pub(super) fn step(parcel: &Parcel<'_>) -> Step {
    let announcement = parcel.announcement;
    let severity = announcement.topic.severity();
    let open = Standing::read(parcel.thread).filter(|standing| standing.open);
    let fires = || {
        Step::Fires(Standing {
            open: true,
            severity: open.map_or(severity, |open| open.severity.max(severity)),
            since: open.map_or(announcement.at, |open| open.since.min(announcement.at)),
        })
    };
    let new = Standing {
        open: false,
        severity,
        since: announcement.at,
    };
    match announcement.topic.stage() {
        Stage::Opens => fires(),
        // Good news about something that is not on the list opens nothing.
        Stage::Continues if severity == Severity::Info && open.is_none() => Step::Nothing,
        Stage::Continues => fires(),
        Stage::Resolves => Step::Ends(Standing {
            open: false,
            ..open.unwrap_or(new)
        }),
        Stage::Once if announcement.topic == Topic::Test => Step::Trial(new),
        Stage::Once => Step::Nothing,
    }
}

/// What names the thread at the receiver.
pub(super) fn key(announcement: &Announcement) -> &str {
    if announcement.thread.is_empty() {
        &announcement.id
    } else {
        &announcement.thread
    }
}

/// How loud it is there: samples wake nobody.
pub(super) fn loudness(announcement: &Announcement, severity: Severity) -> Severity {
    if announcement.is_test() { Severity::Info } else { severity }
}

/// The report's address, where it is one that a browser opens.
pub(super) fn link(announcement: &Announcement) -> Option<&str> {
    let link = announcement.link.as_deref()?;
    let url = url::Url::parse(link).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{words::Message, words::tests::example};

    /// The steps of one thread, each with the receipt of the one before.
    fn story(topics: &[Topic]) -> Vec<Step> {
        let mut receipt: Option<String> = None;
        let mut steps = Vec::new();
        for topic in topics {
            let announcement = example(*topic);
            let message = Message::of(&announcement);
            let step = step(&Parcel {
                announcement: &announcement,
                message: &message,
                thread: receipt.as_deref(),
            });
            if let Step::Fires(standing) | Step::Ends(standing) = step {
                receipt = standing.receipt();
            }
            steps.push(step);
        }
        steps
    }

    fn loud(step: &Step) -> Option<Severity> {
        match step {
            Step::Fires(standing) => Some(standing.severity),
            _ => None,
        }
    }

    #[test]
    fn good_news_neither_lowers_what_is_open_nor_opens_it_again() {
        use Topic::{EvidenceReady, Recovered, RollbackCompleted, RollbackInitiated};
        let steps = story(&[RollbackInitiated, RollbackCompleted, EvidenceReady, Recovered, EvidenceReady]);
        let critical = Some(Severity::Critical);
        assert_eq!([loud(&steps[0]), loud(&steps[1]), loud(&steps[2])], [critical, critical, critical]);
        assert!(matches!(steps[3], Step::Ends(_)), "{:?}", steps[3]);
        assert_eq!(steps[4], Step::Nothing);
    }

    #[test]
    fn bad_news_after_the_end_opens_it_again() {
        let steps = story(&[Topic::RollbackInitiated, Topic::Recovered, Topic::DidNotHelp]);
        assert_eq!(loud(&steps[2]), Some(Severity::Critical));
    }

    #[test]
    fn a_receipt_from_elsewhere_is_as_good_as_none() {
        assert_eq!(Standing::read(Some("<first@mail>")), None);
    }

    #[test]
    fn only_what_lasts_is_told() {
        for topic in Topic::ALL {
            let told = story(&[topic])[0] != Step::Nothing;
            let lasts = topic.stage() != Stage::Once || topic == Topic::Test;
            let news = topic.stage() == Stage::Continues && topic.severity() == Severity::Info;
            assert_eq!(told, lasts && !news, "{topic:?}");
        }
    }

    #[test]
    fn a_receipt_is_short() {
        let Step::Fires(standing) = story(&[Topic::RollbackInitiated])[0] else {
            panic!("it opens");
        };
        assert!(standing.receipt().is_some_and(|receipt| receipt.len() < 1024));
    }
}
