//! What every chat says, in words. Pure: an [`Announcement`] in, a [`Message`] out; each chat only gives it its form.
//!
//! Written for somebody who is woken by it: the title is the news, the sentence is the reason with its numbers, the facts
//! are what they will look for next, and where a human must act the message says how.

use crate::model::{Announcement, Color, Release, Severity, Topic};

/// Images named for one color; a pod with many sidecars would bury the one that matters.
const IMAGES_MAX: usize = 3;

/// One message, ready to be given a chat's form.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The news in a few words.
    pub title: String,
    /// How loud it is.
    pub severity: Severity,
    /// The reason, one sentence with numbers; may be empty.
    pub sentence: String,
    /// Further facts, in reading order.
    pub facts: Vec<Fact>,
    /// What a person can do, where something is left to do.
    pub next: Option<String>,
}

/// One named fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is.
    pub name: &'static str,
    /// What it is like.
    pub value: String,
}

impl Message {
    /// Puts an announcement into words.
    #[must_use]
    pub fn of(announcement: &Announcement) -> Self {
        Self {
            title: tidy(&title(announcement)),
            severity: announcement.topic.severity(),
            sentence: tidy(&announcement.why),
            facts: facts(announcement),
            next: next(announcement).map(|next| tidy(&next)),
        }
    }

    /// The whole message as plain text, one fact per line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![self.title.clone()];
        if !self.sentence.is_empty() {
            lines.push(self.sentence.clone());
        }
        lines.extend(self.facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value)));
        if let Some(next) = &self.next {
            lines.push(format!("What to do: {next}"));
        }
        lines.join("\n")
    }
}

fn name(color: Option<&Color>, unknown: &'static str) -> String {
    color.map_or_else(|| unknown.to_owned(), |color| color.to_string())
}

fn title(a: &Announcement) -> String {
    let guard = &a.guard;
    let from = name(a.from.as_ref(), "the live color");
    let to = name(a.to.as_ref(), "the other color");
    // Where nothing moves, one color is meant: the one that serves.
    let live = name(a.to.as_ref().or(a.from.as_ref()), "its color");
    let rule = a.trigger.as_deref().unwrap_or("a rule");
    match a.topic {
        Topic::RollbackInitiated => format!("Rolling back: {guard} from {from} to {to}"),
        Topic::RollbackCompleted => format!("Rolled back: {guard} is on {to} again"),
        Topic::RollbackFailed => format!("Rollback failed: {guard} is still on {from}"),
        Topic::RollbackWithheld => format!("Would roll back: {guard} from {from} to {to}"),
        Topic::RollbackBlocked => format!("Rollback blocked: {guard} stays on {from}"),
        Topic::RollbackSuppressed => format!("Not rolled back: {guard} stays on {from}"),
        Topic::Recovered => format!("Recovered: {guard} is healthy on {live}"),
        Topic::DidNotHelp => format!("Rollback did not help: {guard} is bad on {live} too"),
        Topic::FlippedBack => format!("Flipped back: somebody moved {guard} to {live} again"),
        Topic::Resolved => format!("Resolved: the incident of {guard} is over, it is on {live}"),
        Topic::EvidenceReady => format!("Report ready: why {guard} was not left on {from}"),
        Topic::EvidenceLost => format!("Evidence lost: that of {guard} cannot be kept"),
        Topic::Readable => format!("Readable again: the route of {guard}"),
        Topic::Blind => format!("Blind: no usable data for {guard}"),
        Topic::Sighted => format!("Seeing again: usable data for {guard}"),
        Topic::UnknownColor => format!("Unknown color: {guard} selects none of its colors"),
        Topic::Unreadable => format!("Unreadable: the route of {guard} cannot be read"),
        Topic::Disarmed => format!("Disarmed: {guard} was rolled back too often"),
        Topic::Alert => format!("Alert: {rule} of {guard} is over its threshold"),
        Topic::Degraded => format!("Degraded: {rule} of {guard} is near its threshold"),
        Topic::Switched => format!("Switched by hand: {guard} is on {live}"),
        Topic::Paused => format!("Paused: {guard} will not be rolled back"),
        Topic::Resumed => format!("Resumed: {guard} is guarded again"),
        Topic::Test => format!("Test: messages about {guard} arrive here"),
    }
}

/// What is left for a person to do; commands are complete, so that they can be copied.
fn next(a: &Announcement) -> Option<String> {
    let (guard, object) = (&a.guard, &a.object);
    // Somebody's move back leads from the good color to the bad one; every other announcement leads to the good one.
    let good = if a.topic == Topic::FlippedBack { &a.from } else { &a.to };
    let switch = format!("flipback switch {guard} {}", name(good.as_ref(), "COLOR"));
    let next = match a.topic {
        Topic::RollbackCompleted => {
            format!(
                "Find out what was wrong with the release. If Git or a GitOps tool owns {object}, change it there too, else it moves traffic back."
            )
        }
        Topic::RollbackFailed => {
            format!(
                "Users are still served by the bad release. Move traffic by hand now: {switch}. `flipback check` tells what flipback may not or cannot do."
            )
        }
        Topic::RollbackWithheld => {
            "Nothing was changed, since this guard only monitors. Set mode = \"enforce\" to have it rolled back.".to_owned()
        }
        Topic::RollbackBlocked => format!(
            "Users are still served by the bad release. flipback tries again as long as it is bad: remove what blocks it, or move traffic by hand: {switch}."
        ),
        Topic::RollbackSuppressed => {
            format!("Look at what both colors depend on. To move traffic all the same: {switch}.")
        }
        Topic::DidNotHelp => "Look at what both colors depend on: flipback will not move traffic to and fro.".to_owned(),
        Topic::FlippedBack => format!(
            "flipback will not roll this release back a second time. If nobody meant it, a GitOps tool has applied an old state of {object}: change it there, then {switch}."
        ),
        Topic::Blind => {
            "Nothing is judged and nothing is rolled back until data returns. `flipback check` shows which query or probe fails.".to_owned()
        }
        Topic::UnknownColor => {
            format!("Nothing is rolled back until {object} selects a known color. `flipback check` shows which are known.")
        }
        Topic::Unreadable => format!("Nothing is rolled back until {object} can be read. `flipback check` shows what is missing."),
        Topic::Disarmed => {
            format!("flipback will not flip this guard by itself for now. Find the cause; to move traffic by hand: {switch}.")
        }
        Topic::Alert => "This rule only tells; traffic stays where it is.".to_owned(),
        Topic::Paused => format!("When you are done: flipback resume {guard}."),
        Topic::EvidenceLost => {
            "Traffic is where it should be; only the proof is missing. Make room on the volume of the data folder, or make it writable; flipback tries again."
                .to_owned()
        }
        Topic::RollbackInitiated
        | Topic::Recovered
        | Topic::Resolved
        | Topic::EvidenceReady
        | Topic::Sighted
        | Topic::Readable
        | Topic::Degraded
        | Topic::Switched
        | Topic::Resumed
        | Topic::Test => {
            return None;
        }
    };
    Some(next)
}

fn facts(a: &Announcement) -> Vec<Fact> {
    // Where traffic moved or is about to, the colors are a way; elsewhere they are positions.
    let moves = matches!(
        a.topic,
        Topic::RollbackInitiated | Topic::RollbackCompleted | Topic::Recovered | Topic::DidNotHelp | Topic::FlippedBack | Topic::Switched
    );
    let (from, to) = if moves { ("From", "To") } else { ("Active", "Standby") };
    let color = |color: &Option<Color>, release: &Option<Release>| color.as_ref().map(|color| with_images(color, release.as_ref()));
    let facts = [
        ("Cluster", Some(a.cluster.clone())),
        ("Environment", Some(a.namespace.clone())),
        ("Guard", Some(a.guard.to_string())),
        ("Object", Some(a.object.clone())),
        (from, color(&a.from, &a.from_release)),
        (to, color(&a.to, &a.to_release)),
        ("Trigger", a.trigger.clone()),
        ("Time", Some(a.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())),
        (
            "Took",
            a.took_ms
                .filter(|ms| ms.is_finite())
                .map(|ms| format!("{ms:.1} ms from decision to patch")),
        ),
        ("Incident", a.incident.clone()),
        ("Report", a.link.clone()),
        ("Evidence", a.evidence.clone()),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| {
            let value = tidy(&value?);
            (!value.is_empty()).then_some(Fact { name, value })
        })
        .collect()
}

/// `green (shop/web:1.4.0)`.
fn with_images(color: &Color, release: Option<&Release>) -> String {
    let Some(release) = release.filter(|release| !release.images.is_empty()) else {
        return color.to_string();
    };
    let images = release
        .images
        .iter()
        .take(IMAGES_MAX)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match release.images.len().saturating_sub(IMAGES_MAX) {
        0 => format!("{color} ({images})"),
        more => format!("{color} ({images} and {more} more)"),
    }
}

/// One line without control characters: a reason typed by a person, or a label, must not forge lines of a message.
fn tidy(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printable).collect::<String>().trim().to_owned()
}

/// The first characters of a text, escaped one by one, as many as fit into `chars_max` with an ellipsis: an escape is
/// never cut in half.
pub(crate) fn clipped(text: &str, chars_max: usize, escape: impl Fn(char) -> Option<&'static str>) -> String {
    let mut out = String::new();
    let (mut length, mut fits) = (0, 0);
    for c in text.chars() {
        let mut buffer = [0; 4];
        let piece: &str = escape(c).unwrap_or_else(|| c.encode_utf8(&mut buffer));
        length += piece.chars().count();
        if length > chars_max {
            out.truncate(fits);
            out.push('…');
            return out;
        }
        out.push_str(piece);
        if length < chars_max {
            fits = out.len();
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TOPICS: [Topic; 24] = Topic::ALL;

    pub(crate) fn example(topic: Topic) -> Announcement {
        Announcement::example(topic)
    }

    #[test]
    fn every_topic_in_plain_words() {
        let all: Vec<String> = TOPICS
            .iter()
            .map(|topic| {
                let message = Message::of(&example(*topic));
                format!("[{:?}] {}", message.severity, message.text())
            })
            .collect();
        insta::assert_snapshot!(all.join("\n\n"));
    }

    #[test]
    fn a_message_without_colors_still_reads() {
        for topic in TOPICS {
            let bare = Announcement {
                from: None,
                to: None,
                from_release: None,
                to_release: None,
                trigger: None,
                ..example(topic)
            };
            let message = Message::of(&bare);
            assert!(
                !message.title.contains("None") && !message.title.contains("  "),
                "{}",
                message.title
            );
        }
    }

    #[test]
    fn a_persons_words_cannot_forge_lines() {
        let forged = Announcement {
            why: "fine\nTrigger: none\u{7}".into(),
            ..example(Topic::RollbackCompleted)
        };
        assert_eq!(Message::of(&forged).sentence, "fine Trigger: none");
    }

    #[test]
    fn a_message_waking_a_human_says_what_to_do() {
        for topic in TOPICS {
            if topic.severity() == Severity::Critical && topic != Topic::RollbackInitiated {
                assert!(Message::of(&example(topic)).next.is_some(), "{topic:?}");
            }
        }
    }

    #[test]
    fn a_clipped_text_never_ends_in_half_an_escape() {
        let escape = |c: char| (c == '&').then_some("&amp;");
        assert_eq!(clipped("a&b", 100, escape), "a&amp;b");
        for max in 1..40 {
            let out = clipped(&"é&".repeat(30), max, escape);
            assert!(out.chars().count() <= max, "{max}: {out}");
            assert!(
                out.trim_end_matches('…').split('&').skip(1).all(|rest| rest.starts_with("amp;")),
                "{out}"
            );
        }
        assert_eq!(clipped("12345", 5, escape), "12345");
        assert_eq!(clipped("123456", 5, escape), "1234…");
    }
}
