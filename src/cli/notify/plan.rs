//! Which samples a chat is sent, and what they say. Pure.
//!
//! They tell one story, which ends now: what was decided, moved, proven, and how it ended, each with the times and the words
//! that the daemon would have had. What else can be told follows, each case by itself, at the present time. Every one says in
//! its title, its sentence and its advice that it is a test.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;

use crate::{
    model::{
        Announcement, GuardId, SAMPLE, Stage, Topic,
        settings::{ChatKind, ChatSettings},
    },
    words::Message,
};

/// One incident as it goes well; the other kinds follow in the order of [`Topic::ALL`].
pub(super) const STORY: [Topic; 5] = [
    Topic::RollbackInitiated,
    Topic::RollbackCompleted,
    Topic::EvidenceReady,
    Topic::Recovered,
    Topic::Resolved,
];

/// One sample of a plan.
pub(super) struct Planned {
    pub(super) announcement: Announcement,
    /// It only closes what an earlier sample opened.
    pub(super) closing: bool,
}

/// Whether a kind of chat keeps a list of what is wrong, and is told only what belongs on it.
pub(super) fn keeps_a_list(kind: ChatKind) -> bool {
    matches!(kind, ChatKind::PagerDuty | ChatKind::Alertmanager)
}

/// The samples for one chat, in order. Pure.
pub(super) fn plan(kind: ChatKind, topics: &[Topic], now: Timestamp, picture: Option<&PathBuf>) -> Vec<Planned> {
    let others = Topic::ALL.into_iter().filter(|topic| !STORY.contains(topic));
    let wanted = STORY
        .into_iter()
        .chain(others)
        .filter(|topic| topics.is_empty() || topics.contains(topic));
    let run = format!("{SAMPLE}{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let mut plan: Vec<Planned> = Vec::new();
    // What stands open at the receiver, by thread.
    let mut open: BTreeMap<String, Announcement> = BTreeMap::new();
    for topic in wanted {
        let mut announcement = sample(&run, topic, now);
        announcement.picture = (topic == Topic::EvidenceReady).then(|| picture.cloned()).flatten();
        match topic.stage() {
            Stage::Opens | Stage::Continues => {
                open.insert(announcement.thread.clone(), announcement.clone());
            }
            Stage::Resolves => {
                open.remove(&announcement.thread);
            }
            Stage::Once => {}
        }
        plan.push(Planned {
            announcement,
            closing: false,
        });
    }
    if keeps_a_list(kind) {
        plan.extend(open.into_values().map(|left| Planned {
            announcement: closing(left, now),
            closing: true,
        }));
    }
    plan
}

/// The guard of all samples, which does not exist.
const NAMESPACE: &str = "flipback-test";

/// One sample: the example of its topic, of a guard that does not exist.
fn sample(run: &str, topic: Topic, now: Timestamp) -> Announcement {
    // Those of one thread have one clock, by which the last of them is told now.
    let (about, last) = match topic {
        topic if STORY.contains(&topic) => ("story", Topic::Resolved),
        Topic::Blind | Topic::Sighted => ("blind", Topic::Sighted),
        Topic::UnknownColor | Topic::Unreadable | Topic::Readable => ("unreadable", Topic::Readable),
        Topic::Disarmed | Topic::Rearmed => ("disarmed", Topic::Rearmed),
        Topic::Paused | Topic::Resumed => ("paused", Topic::Resumed),
        Topic::ManyFailing | Topic::FewFailing => ("many_failing", Topic::FewFailing),
        other => (other.as_str(), other),
    };
    let example = Announcement::example_at(topic, begun(last, now));
    let thread = format!("{run}.{about}");
    // What has no other end is closed as an incident is.
    let incident = example.incident.is_some() || topic == Topic::FlippedBack;
    let guard = GuardId::new("", NAMESPACE, "web").expect("a constant");
    Announcement {
        id: format!("{run}.{}", topic.as_str()),
        namespace: NAMESPACE.to_owned(),
        evidence: example.evidence.as_ref().map(|_| format!("/var/lib/flipback/incidents/{thread}")),
        incident: incident.then(|| thread.clone()),
        why: example.why.replace(example.guard.as_str(), guard.as_str()),
        guard,
        thread,
        ..example
    }
}

/// When a story has begun of which this is told now.
fn begun(told_now: Topic, now: Timestamp) -> Timestamp {
    let told = Announcement::example_at(told_now, now).at;
    now.saturating_sub(told.duration_since(now)).unwrap_or(now)
}

/// How the id of a message ends that only closes a sample.
const CLOSED: &str = ".closed";

/// The message that takes an open thread off a receiver's list.
fn closing(left: Announcement, now: Timestamp) -> Announcement {
    let topic = match left.topic {
        Topic::Blind => Topic::Sighted,
        Topic::UnknownColor | Topic::Unreadable => Topic::Readable,
        Topic::Disarmed => Topic::Rearmed,
        _ => Topic::Resolved,
    };
    let why = match topic {
        Topic::Resolved => format!("the sample of {} is taken off the list again", left.topic.as_str()),
        _ => Announcement::example_at(topic, begun(topic, now)).why,
    };
    Announcement {
        id: format!("{}{CLOSED}", left.id),
        at: now,
        topic,
        why,
        picture: None,
        ..left
    }
}

/// The words of a sample, the chat's own where it has some: nobody reads them and acts.
pub(super) fn words(announcement: &Announcement, chat: &ChatSettings) -> Message {
    let message = Message::by(announcement, &chat.templates);
    let next = match message.next {
        Some(next) if announcement.topic != Topic::Test && !announcement.id.ends_with(CLOSED) => {
            format!("Nothing, this is a test. In earnest it would say: {next}")
        }
        _ => "Nothing, this is a test.".to_owned(),
    };
    Message {
        title: format!("TEST: {}", message.title),
        sentence: format!("This is a test, nothing has happened. {}", message.sentence)
            .trim_end()
            .to_owned(),
        next: Some(next),
        ..message
    }
}
