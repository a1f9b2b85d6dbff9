//! The narrator: what happens goes in, lines come out. Pure, so that the story can be told in a test.
//!
//! It says what changed and keeps silent about what did not: a good look is told once in a while, a bad one always.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::setup::SLOW;
use crate::{
    model::{RuleStatus, Status},
    sandbox::{Message, Served},
};

/// A good look is told again after so long.
const GOOD_AGAIN: Duration = Duration::from_secs(6);

/// One line of the story.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// Since the start of the story.
    pub after: Duration,
    /// Who speaks.
    pub voice: Voice,
    /// What is said.
    pub text: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// The stage directions.
    Scene,
    /// What users see.
    Users,
    /// A measurement within its limit.
    Good,
    /// A measurement over its limit.
    Bad,
    /// No measurement.
    Unknown,
    /// What flipback does.
    Flipback,
    /// What the chat got.
    Chat,
    /// What lies on disk.
    Evidence,
    /// What went wrong with the demo itself.
    Trouble,
}

impl Voice {
    /// The word in the second column.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Scene => "",
            Self::Users => "users",
            Self::Good | Self::Bad | Self::Unknown => "measured",
            Self::Flipback => "flipback",
            Self::Chat => "chat",
            Self::Evidence => "evidence",
            Self::Trouble => "demo",
        }
    }
}

/// What the narrator remembers.
#[derive(Debug)]
pub(super) struct Narrator {
    start: Timestamp,
    rules: BTreeMap<String, Known>,
    told: Vec<(Timestamp, Arc<str>)>,
    color: Option<(String, Timestamp)>,
    /// Since when a user's complaint is news; not before the trouble, when it is this machine's fault.
    complaints_from: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    outcome: String,
    streak: u32,
    sample_at: Option<Timestamp>,
    good_told: Option<Timestamp>,
}

impl Narrator {
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            start,
            rules: BTreeMap::new(),
            told: Vec::new(),
            color: None,
            complaints_from: None,
        }
    }

    fn line(&self, at: Timestamp, voice: Voice, text: impl Into<String>) -> Line {
        Line {
            after: at.duration_since(self.start).try_into().unwrap_or_default(),
            voice,
            text: text.into(),
        }
    }

    /// A stage direction; from here on a good look is news again.
    pub(super) fn scene(&mut self, at: Timestamp, text: &str) -> Line {
        for known in self.rules.values_mut() {
            known.good_told = None;
        }
        self.line(at, Voice::Scene, text)
    }

    /// From now on the first complaint of a user is news.
    pub(super) fn trouble_begins(&mut self, at: Timestamp) {
        self.complaints_from = Some(at);
    }

    /// The bundle on disk.
    pub(super) fn evidence(&self, at: Timestamp, folder: &str, names: &[String]) -> Line {
        let text = format!("complete in {folder}: {}", names.join(", "));
        self.line(at, Voice::Evidence, text)
    }

    /// The demo's own trouble.
    pub(super) fn trouble(&self, at: Timestamp, text: &str) -> Line {
        self.line(at, Voice::Trouble, text)
    }

    /// What the daemon shows.
    pub(super) fn status(&mut self, status: &Status) -> Vec<Line> {
        let Some(guard) = status.guards.first() else { return Vec::new() };
        let mut lines = Vec::new();
        for rule in &guard.rules {
            lines.extend(self.rule(status.at, rule));
        }
        for event in guard.events.iter().rev() {
            let key = (event.at, event.what.clone());
            if !self.told.contains(&key) {
                lines.push(self.line(event.at.max(self.start), Voice::Flipback, &*event.what));
                self.told.push(key);
            }
        }
        // As bounded as the events the daemon remembers.
        self.told
            .retain(|(at, what)| guard.events.iter().any(|event| event.at == *at && event.what == *what));
        lines
    }

    fn rule(&mut self, at: Timestamp, rule: &RuleStatus) -> Option<Line> {
        let name = rule.rule.as_str().to_owned();
        let before = self.rules.remove(&name);
        let newer = before.as_ref().is_none_or(|known| known.sample_at != rule.sample_at);
        let changed = before.as_ref().is_none_or(|known| known.outcome != rule.outcome);
        let grown = before.as_ref().is_none_or(|known| known.streak < rule.streak);
        let good_told = before.as_ref().and_then(|known| known.good_told);
        let long_ago = good_told.is_none_or(|told| at.duration_since(told).unsigned_abs() >= GOOD_AGAIN);
        let streak_lost = before.as_ref().is_some_and(|known| known.streak > rule.streak);
        let (voice, text) = match rule.outcome.as_str() {
            "breach" if grown || (newer && changed) => {
                let counted = rule.streak.min(rule.of);
                (Some(Voice::Bad), format!("{counted}/{}  {}", rule.of, rule.why))
            }
            "pass" if newer && (streak_lost || (long_ago && speaks_when_good(rule))) => (Some(Voice::Good), format!("ok   {}", rule.why)),
            "inconclusive" if changed => (
                Some(Voice::Unknown),
                format!(
                    "?    {} cannot be judged: {}; held at {} of {}",
                    rule.rule, rule.why, rule.streak, rule.of
                ),
            ),
            _ => (None, String::new()),
        };
        self.rules.insert(
            name,
            Known {
                outcome: rule.outcome.clone(),
                streak: rule.streak,
                sample_at: rule.sample_at,
                good_told: if voice == Some(Voice::Good) { Some(at) } else { good_told },
            },
        );
        voice.map(|voice| self.line(at, voice, text))
    }

    /// What users saw, in the order of their answers.
    pub(super) fn served(&mut self, served: &[Served]) -> Vec<Line> {
        let mut lines = Vec::new();
        for one in served {
            let moved = match (&one.color, &self.color) {
                (Some(color), Some((known, since))) => color != known && one.at > *since,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if let Some(color) = one.color.as_ref().filter(|_| moved) {
                lines.push(self.line(one.at, Voice::Users, format!("are served by {color}")));
                self.color = Some((color.clone(), one.at));
            }
            if is_bad(one) && self.complaints_from.is_some_and(|from| one.at >= from) {
                self.complaints_from = None;
                let what = match (&one.color, one.ok) {
                    (None, _) => "the first of them finds nobody to answer".to_owned(),
                    (Some(color), false) => format!("the first of them gets an error from {color}"),
                    (Some(color), true) => format!("the first of them waits {} ms for {color}", one.latency.as_millis()),
                };
                lines.push(self.line(one.at, Voice::Users, what));
            }
        }
        lines
    }

    /// What the chats got; said once, for the first chat's copy.
    pub(super) fn message(&self, message: &Message) -> Option<Line> {
        (message.chat == "slack").then(|| self.line(message.at, Voice::Chat, headline(message)))
    }
}

/// Of the good rules only requests' share of errors is news: the others would say the same three times over.
fn speaks_when_good(rule: &RuleStatus) -> bool {
    rule.kind == "error_rate"
}

/// Whether a user had reason to complain.
pub(super) fn is_bad(served: &Served) -> bool {
    !served.ok || served.latency > SLOW
}

/// The first words of a message, in Slack's form.
fn headline(message: &Message) -> String {
    let header = message.body.pointer("/blocks/0/text/text").and_then(|text| text.as_str());
    let text = header.or_else(|| message.body.get("text").and_then(|text| text.as_str()));
    text.unwrap_or("a message").to_owned()
}
