//! What every chat says, in words. Pure: an [`Announcement`] in, a [`Message`] out; each chat only gives it its form.
//!
//! Written for somebody who is woken by it: the title is the news, the sentence is the reason with its numbers, the facts
//! are what they will look for next, and every message ends with what to do, even where that is nothing. A guard that only
//! monitors is told of in the conditional wherever flipback did nothing.
//!
//! Teams may put words of their own in place of title, sentence and next ([`Message::by`]); [`check`] tries them when the
//! configuration is read, and where one fails all the same, our own words stand in: a message is never lost to its template.

use jiff::Timestamp;

use crate::model::{Announcement, Color, Mode, Release, Repeats, Severity, Topic, settings::Templates};

mod template;
mod time;
mod topic;

pub use template::{Problem, check};

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
            title: tidy(&topic::title(announcement)),
            severity: announcement.topic.severity(),
            sentence: sentence(announcement),
            facts: facts(announcement),
            next: Some(tidy(&topic::next(announcement))),
        }
    }

    /// Puts an announcement into words, a team's own where `templates` has some. A template that fails after all is logged
    /// once and replaced by our own words.
    #[must_use]
    pub fn by(announcement: &Announcement, templates: &Templates) -> Self {
        template::replaced(Self::of(announcement), announcement, templates)
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

/// The reason as a sentence, with what was held back since.
fn sentence(a: &Announcement) -> String {
    let why = tidy(&a.why);
    let mut text = capitalized(why.trim_end_matches('.'));
    if let Some(repeats) = a.repeats {
        let repeated = repeated(repeats, a.at);
        text = if text.is_empty() {
            capitalized(&repeated)
        } else {
            format!("{text}, and {repeated}")
        };
    }
    if text.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '%' | ')' | '"' | '\'')) {
        text.push('.');
    }
    text
}

/// `5 more times since 04:02 UTC`.
fn repeated(repeats: Repeats, at: Timestamp) -> String {
    let since = time::clock(repeats.since, at);
    match repeats.count {
        1 => format!("once more since {since}"),
        count => format!("{count} more times since {since}"),
    }
}

/// A first word that is no name (of a rule, a user, a file) begins with a capital.
fn capitalized(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    if !word.chars().all(|c| c.is_alphabetic() || matches!(c, ',' | ':' | ';')) {
        return text.to_owned();
    }
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// Whether traffic was moved, or somebody has just moved it: then the colors are a way, elsewhere they are positions.
fn moved(a: &Announcement) -> bool {
    let moves = matches!(
        a.topic,
        Topic::RollbackInitiated | Topic::Recovered | Topic::DidNotHelp | Topic::FlippedBack | Topic::Switched
    );
    a.took_ms.is_some() || (moves && !(a.topic == Topic::RollbackInitiated && a.mode == Mode::Monitor))
}

fn facts(a: &Announcement) -> Vec<Fact> {
    // About all guards together: the one that it is sent in the name of is none of the reader's business.
    let of_one = !a.topic.is_of_all();
    let (from, to) = if moved(a) { ("From", "To") } else { ("Active", "Standby") };
    let color = |color: &Option<Color>, release: &Option<Release>| color.as_ref().map(|color| with_images(color, release.as_ref()));
    let facts = [
        ("Cluster", of_one.then(|| a.cluster.clone())),
        ("Environment", of_one.then(|| a.namespace.clone())),
        ("Guard", of_one.then(|| a.guard.to_string())),
        ("Object", of_one.then(|| a.object.clone())),
        (
            "Mode",
            (of_one && a.mode == Mode::Monitor).then(|| "monitor only, nothing is changed".to_owned()),
        ),
        (from, color(&a.from, &a.from_release)),
        (to, color(&a.to, &a.to_release)),
        ("Trigger", a.trigger.clone()),
        ("Time", Some(time::stamp(a.at))),
        ("Decided", decided(a)),
        ("Switched", switched(a)),
        ("Took", took(a)),
        ("Incident", a.incident.clone()),
        // One place to look at: the report in a browser, or the folder where nobody publishes it.
        ("Report", a.link.clone()),
        ("Evidence", evidence(a)),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| {
            let value = tidy(&value?);
            (!value.is_empty()).then_some(Fact { name, value })
        })
        .collect()
}

/// The folder, where nobody publishes the report. When a rollback has just been decided there is not much in it yet.
fn evidence(a: &Announcement) -> Option<String> {
    let folder = a.evidence.as_ref().filter(|_| a.link.is_none())?;
    Some(if a.topic == Topic::RollbackInitiated {
        format!("{folder}, being captured")
    } else {
        folder.clone()
    })
}

/// `04:12:34 UTC, 5 min 5 s earlier`, where the decision is not of this very minute.
fn decided(a: &Announcement) -> Option<String> {
    let at = a.decided_at?;
    let earlier = time::between(at, a.at)?;
    (earlier >= 60.0).then(|| format!("{}, {} earlier", time::clock_seconds(at, a.at), time::span(earlier)))
}

/// `to green at 04:06:12 UTC, 6 min 22 s before the decision`.
fn switched(a: &Announcement) -> Option<String> {
    let (at, decided, color) = (a.switched_at?, a.decided_at?, a.from.as_ref()?);
    let before = time::between(at, decided)?;
    Some(format!(
        "to {color} at {}, {} before the decision",
        time::clock_seconds(at, a.at),
        time::span(before)
    ))
}

/// `8.4 ms from decision to patch, 1.2 s until traffic had moved`.
fn took(a: &Announcement) -> Option<String> {
    // 0 says that it is not known: the answer came to nobody.
    let ms = a.took_ms.filter(|ms| ms.is_finite() && *ms > 0.0)?;
    let patch = format!("{} from decision to patch", time::span(ms / 1000.0));
    let arrived = (a.topic == Topic::RollbackCompleted)
        .then(|| time::between(a.decided_at?, a.at))
        .flatten()
        .filter(|seconds| *seconds * 1000.0 > ms);
    Some(match arrived {
        Some(seconds) => format!("{patch}, {} until traffic had moved", time::span(seconds)),
        None => patch,
    })
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

/// One line without control characters: a reason typed by a person, or a label, must not forge lines of a message. What
/// turns the direction of reading, or breaks lines without being a control character, counts as one.
fn tidy(text: &str) -> String {
    let forges = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let printable = |c: char| if forges(c) { ' ' } else { c };
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
    use crate::model::Refusal;

    pub(crate) const TOPICS: [Topic; 30] = Topic::ALL;

    pub(crate) fn example(topic: Topic) -> Announcement {
        Announcement::example(topic)
    }

    /// Every topic as one reads it, in an order that tells an incident's story.
    fn told(mode: Mode) -> String {
        let all: Vec<String> = TOPICS
            .iter()
            .map(|topic| {
                let message = Message::of(&Announcement {
                    mode,
                    // A guard that only monitors moves nothing.
                    took_ms: example(*topic).took_ms.filter(|_| mode == Mode::Enforce),
                    ..example(*topic)
                });
                format!("[{:?}, {}] {}", message.severity, topic.as_str(), message.text())
            })
            .collect();
        all.join("\n\n")
    }

    #[test]
    fn every_topic_in_plain_words() {
        insta::assert_snapshot!(told(Mode::Enforce));
    }

    #[test]
    fn every_topic_in_plain_words_where_flipback_only_monitors() {
        insta::assert_snapshot!(told(Mode::Monitor));
    }

    #[test]
    fn what_was_not_done_is_told_as_what_would_have_been() {
        for topic in [
            Topic::RollbackInitiated,
            Topic::RollbackCompleted,
            Topic::RollbackFailed,
            Topic::RollbackWithheld,
            Topic::RollbackBlocked,
            Topic::RollbackSuppressed,
            Topic::EvidenceReady,
            Topic::Disarmed,
        ] {
            let monitor = Announcement {
                mode: Mode::Monitor,
                took_ms: None,
                ..example(topic)
            };
            let message = Message::of(&monitor);
            assert!(message.title.to_lowercase().contains("would"), "{}", message.title);
            assert!(!message.text().contains("flipback switch"), "{}", message.text());
        }
    }

    #[test]
    fn a_message_without_colors_still_reads() {
        for topic in TOPICS {
            for mode in [Mode::Enforce, Mode::Monitor] {
                let bare = Announcement {
                    from: None,
                    to: None,
                    from_release: None,
                    to_release: None,
                    trigger: None,
                    incident: None,
                    evidence: None,
                    decided_at: None,
                    switched_at: None,
                    mode,
                    ..example(topic)
                };
                let text = Message::of(&bare).text();
                assert!(!text.contains("None") && !text.contains("  "), "{text}");
            }
        }
    }

    #[test]
    fn what_was_moved_and_what_was_not_read_differently() {
        let moved = |topic, took_ms| {
            let message = Message::of(&Announcement {
                took_ms,
                incident: Some("shop.web_x".into()),
                evidence: Some("/x".into()),
                link: Some("https://evidence.example/shop.web_x/report.html".into()),
                ..example(topic)
            });
            format!("{}\n{}", message.title, message.next.unwrap_or_default())
        };
        let said: Vec<String> = [Topic::RollbackFailed, Topic::EvidenceReady, Topic::Resolved]
            .into_iter()
            .flat_map(|topic| [moved(topic, Some(8.4)), moved(topic, None)])
            .collect();
        insta::assert_snapshot!(said.join("\n\n"));
    }

    #[test]
    fn a_persons_switch_is_told_as_one_whatever_becomes_of_it() {
        let topics = [
            Topic::RollbackFailed,
            Topic::RollbackBlocked,
            Topic::ScalingUp,
            Topic::RollbackWithheld,
            Topic::EvidenceReady,
        ];
        let said = |topic: Topic, took_ms: Option<f64>, mode: Mode| {
            let message = Message::of(&Announcement {
                switch: true,
                mode,
                took_ms,
                ..example(topic)
            });
            format!("{}\n{}", message.title, message.next.unwrap_or_default())
        };
        let mut all: Vec<String> = topics.iter().map(|topic| said(*topic, None, Mode::Enforce)).collect();
        all.push(said(Topic::RollbackFailed, Some(8.4), Mode::Enforce));
        all.push(said(Topic::RollbackFailed, None, Mode::Monitor));
        for text in &all {
            let text = text.to_lowercase();
            assert!(!text.contains("roll") && !text.contains("bad release"), "{text}");
        }
        insta::assert_snapshot!(all.join("\n\n"));
    }

    #[test]
    fn what_is_no_longer_guarded_is_not_said_to_be_over() {
        let message = Message::of(&Announcement {
            why: "shop/web is no longer guarded: it was taken out of the configuration".into(),
            from: None,
            to: None,
            took_ms: None,
            ..example(Topic::Resolved)
        });
        assert_eq!(message.title, "Closed: shop/web is no longer guarded");
        let next = message.next.unwrap_or_default();
        assert!(next.contains("put shop/web back into the configuration"), "{next}");
        assert!(!format!("{} {next}", message.title).to_lowercase().contains("over"), "{next}");
    }

    #[test]
    fn the_report_is_one_link_and_else_the_folder() {
        let names = |link: Option<&str>| {
            let message = Message::of(&Announcement {
                link: link.map(str::to_owned),
                ..example(Topic::EvidenceReady)
            });
            message.facts.iter().map(|fact| fact.name).collect::<Vec<_>>()
        };
        let published = names(Some("https://evidence.example/x/report.html"));
        assert!(published.contains(&"Report") && !published.contains(&"Evidence"), "{published:?}");
        let local = names(None);
        assert!(local.contains(&"Evidence") && !local.contains(&"Report"), "{local:?}");
    }

    #[test]
    fn a_message_names_the_cluster_where_it_has_a_name_and_a_title_names_it_once() {
        let of = |cluster: &str, guard: &str| {
            let parts: Vec<&str> = guard.rsplit('/').collect();
            let message = Message::of(&Announcement {
                cluster: cluster.into(),
                guard: crate::model::GuardId::new(parts.get(2).copied().unwrap_or_default(), parts[1], parts[0]).expect("valid"),
                ..example(Topic::RollbackInitiated)
            });
            let named = message
                .facts
                .iter()
                .find(|fact| fact.name == "Cluster")
                .map(|fact| fact.value.clone());
            (message.title, named)
        };
        assert_eq!(of("", "shop/web"), ("Rolling back: shop/web from green to blue".into(), None));
        assert_eq!(
            of("eu", "shop/web"),
            ("Rolling back: shop/web (eu) from green to blue".into(), Some("eu".into()))
        );
        assert_eq!(
            of("eu", "eu/shop/web"),
            ("Rolling back: eu/shop/web from green to blue".into(), Some("eu".into()))
        );
    }

    #[test]
    fn what_is_told_of_all_guards_names_no_single_one() {
        for topic in [Topic::ManyFailing, Topic::FewFailing] {
            let message = Message::of(&Announcement {
                mode: Mode::Monitor,
                ..example(topic)
            });
            let names: Vec<&str> = message.facts.iter().map(|fact| fact.name).collect();
            assert_eq!(names, ["Time"], "{topic:?}");
        }
    }

    #[test]
    fn of_several_replicas_the_one_with_the_evidence_is_named() {
        let next = |evidence: &str| {
            let ready = Announcement {
                evidence: Some(evidence.into()),
                ..example(Topic::EvidenceReady)
            };
            Message::of(&ready).next.expect("something to do")
        };
        assert!(next("flipback-1:/var/lib/flipback/incidents/x").contains("`, on flipback-1: what"));
        assert!(next("/var/lib/flipback/incidents/x").contains("`, where flipback runs: what"));
    }

    #[test]
    fn what_blocks_a_rollback_decides_what_a_person_is_told_to_do() {
        let at = "2026-11-21T05:00:00Z".parse().expect("a time");
        let refusals = [
            Refusal::StandbyNotReady { ready: 0, needed: 2 },
            Refusal::StandbyUnseen,
            Refusal::Paused { by: "ana@ops-1".into() },
            Refusal::Disarmed { flips: 3 },
            Refusal::Cooldown { until: at },
            Refusal::StandbyKnownBad { release: "9f1c".into() },
            Refusal::StandbyProbes {
                why: "2 of 3 failed".into(),
            },
        ];
        for refusal in refusals {
            let allowed = refusal.yields_to_a_person();
            let blocked = Announcement {
                refusal: Some(refusal.clone()),
                ..example(Topic::RollbackBlocked)
            };
            let next = Message::of(&blocked).next.expect("something to do");
            assert_eq!(
                next.contains("flipback switch shop/web blue --reason"),
                allowed,
                "{refusal:?}: {next}"
            );
        }
    }

    #[test]
    fn evidence_that_nobody_keeps_is_not_promised() {
        let bare = Announcement {
            evidence: None,
            ..example(Topic::Resolved)
        };
        let text = Message::of(&bare).text();
        assert!(!text.contains("evidence") && text.contains("What to do: Nothing"), "{text}");
        assert!(Message::of(&example(Topic::Resolved)).text().contains("flipback evidence pin"));
    }

    #[test]
    fn what_was_held_back_is_counted() {
        let said = |count, since: &str| {
            let repeats = Some(Repeats {
                count,
                since: since.parse().expect("a time"),
            });
            Message::of(&Announcement {
                repeats,
                ..example(Topic::Degraded)
            })
            .sentence
        };
        assert_eq!(
            said(5, "2026-11-21T04:02:10Z"),
            "error_rate 4.3 % (11 of 256 requests) is near its limit of 5 %, and 5 more times since 04:02 UTC."
        );
        assert!(said(1, "2026-11-20T23:59:10Z").ends_with(", and once more since 2026-11-20 23:59 UTC."));
    }

    #[test]
    fn a_persons_words_cannot_forge_lines() {
        let forged = Announcement {
            why: "fine\nTrigger:\u{2028}none\u{202e}or\u{7}".into(),
            ..example(Topic::RollbackCompleted)
        };
        assert_eq!(Message::of(&forged).sentence, "Fine Trigger: none or.");
    }

    #[test]
    fn every_message_says_what_to_do() {
        for topic in TOPICS {
            let next = Message::of(&example(topic)).next.unwrap_or_default();
            assert!(next.len() > 10, "{topic:?}");
            // Commands are whole: what `switch` needs is there.
            assert!(!next.contains("flipback switch") || next.contains("--reason"), "{next}");
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
