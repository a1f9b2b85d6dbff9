//! What it came to, and whether it ended as it must: judged by the users' record and the API server's own, never by what
//! flipback says of itself. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{script::Ending, setup::SERVICE, story::is_bad};
use crate::{
    model::Topic,
    sandbox::{AuditEntry, Message, Served},
};

/// Everything that bears witness.
#[derive(Debug)]
pub(super) struct Witnesses<'a> {
    pub served: &'a [Served],
    pub audit: &'a [AuditEntry],
    pub messages: &'a [Message],
    pub daemon_user: &'a str,
    /// The color the Service selects at the end.
    pub active: &'a str,
    /// When the trouble began.
    pub hurt_at: Option<Timestamp>,
    /// Decision to accepted patch, as flipback measured it.
    pub took_ms: Option<f64>,
    /// Where the evidence lies.
    pub evidence: Option<&'a str>,
    /// Steps of the story that did not come.
    pub missed: &'a [String],
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Whether it ended as it must.
    pub passed: bool,
    /// What did not.
    pub failures: Vec<String>,
    /// From the first bad request to the patched Service, in seconds.
    pub first_bad_to_flip_seconds: Option<f64>,
    /// Decision to accepted patch, in milliseconds.
    pub flip_ms: Option<f64>,
    /// Requests of users in all.
    pub requests: usize,
    /// Of them, failed or slow.
    pub bad_requests: usize,
    /// Requests sent after the flip.
    pub after_flip: Option<usize>,
    /// Of them, failed.
    pub failed_after_flip: Option<usize>,
    /// Flips by flipback on the API server's record.
    pub flips: usize,
    /// What they wrote besides the color and flipback's annotation.
    pub touched: Vec<String>,
    /// The color that serves.
    pub active: String,
    /// Messages per chat.
    pub chats: Vec<(String, usize)>,
    /// Where the evidence lies.
    pub evidence: Option<String>,
}

impl Summary {
    pub(super) fn of(ending: &Ending, seen: &Witnesses<'_>) -> Self {
        let flips = flips(seen.audit, seen.daemon_user);
        let flip_at = flips.first().map(|flip| flip.at);
        let trouble = |one: &&Served| seen.hurt_at.is_some_and(|hurt| one.at >= hurt) && is_bad(one);
        let first_bad = seen.served.iter().filter(trouble).map(|one| one.at).min();
        // Until somebody undid it, if somebody did.
        let undone = seen
            .audit
            .iter()
            .find(|entry| Some(entry.at) > flip_at && entry.user != seen.daemon_user)
            .map(|entry| entry.at);
        let rescued = |one: &&Served| Some(one.at) > flip_at && undone.is_none_or(|undone| one.at < undone);
        let after: Option<Vec<&Served>> = flip_at.map(|_| seen.served.iter().filter(rescued).collect());
        Self {
            passed: false,
            failures: failures(ending, seen, &flips),
            first_bad_to_flip_seconds: first_bad.zip(flip_at).map(|(bad, flip)| seconds(bad, flip)),
            flip_ms: seen.took_ms.filter(|_| flip_at.is_some()),
            requests: seen.served.len(),
            bad_requests: seen.served.iter().filter(|one| is_bad(one)).count(),
            after_flip: after.as_ref().map(Vec::len),
            failed_after_flip: after.map(|after| after.iter().filter(|one| !one.ok).count()),
            flips: flips.len(),
            touched: touched(&flips),
            active: seen.active.to_owned(),
            chats: ["slack", "teams", "webhook"]
                .map(|chat| (chat.to_owned(), seen.messages.iter().filter(|message| message.chat == chat).count()))
                .into(),
            evidence: seen.evidence.map(str::to_owned),
        }
        .judged()
    }

    fn judged(mut self) -> Self {
        self.passed = self.failures.is_empty();
        self
    }

    /// The summary as named facts, in reading order.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        if let Some(seconds) = self.first_bad_to_flip_seconds {
            facts.push(("first bad request to flip", format!("{seconds:.1} s")));
        }
        if let Some(ms) = self.flip_ms {
            facts.push(("decision to accepted patch", format!("{ms:.1} ms")));
        }
        facts.push(("bad requests served", format!("{} of {}", self.bad_requests, self.requests)));
        if let Some((failed, after)) = self.failed_after_flip.zip(self.after_flip) {
            facts.push(("failed after the flip", format!("{failed} of {after}")));
        }
        let record = match self.flips {
            0 => "none".to_owned(),
            n if self.touched.is_empty() => format!("{n}, of the color and flipback's own note and nothing else"),
            n => format!("{n}, and of {}", self.touched.join(", ")),
        };
        facts.push(("flips on the API server's record", record));
        facts.push(("users are served by", self.active.clone()));
        let chats: Vec<String> = self.chats.iter().map(|(chat, count)| format!("{chat} {count}")).collect();
        facts.push(("messages", chats.join(", ")));
        if let Some(evidence) = &self.evidence {
            facts.push(("evidence", evidence.clone()));
        }
        facts
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    Duration::try_from(to.duration_since(from)).unwrap_or_default().as_secs_f64()
}

/// The daemon's stored patches of the active Service that touch its selector.
fn flips<'a>(audit: &'a [AuditEntry], daemon: &str) -> Vec<&'a AuditEntry> {
    audit
        .iter()
        .filter(|entry| entry.user == daemon && entry.code < 300 && !entry.dry_run)
        .filter(|entry| entry.resource == "services" && entry.name == SERVICE)
        .filter(|entry| written(&entry.body).any(|path| path.starts_with("/spec")))
        .collect()
}

/// The paths a JSON Patch writes.
fn written(patch: &Value) -> impl Iterator<Item = &str> {
    let operations = patch.as_array().into_iter().flatten();
    operations
        .filter(|operation| operation["op"] != "test")
        .filter_map(|operation| operation["path"].as_str())
}

/// What flips wrote besides the color and flipback's annotation, which needs its parent where there was none.
fn touched(flips: &[&AuditEntry]) -> Vec<String> {
    let ours = |path: &&str| {
        *path == "/spec/selector/color" || *path == "/metadata/annotations" || path.starts_with("/metadata/annotations/flipback.dev~1")
    };
    let paths = flips.iter().flat_map(|flip| written(&flip.body)).filter(|path| !ours(path));
    paths.map(str::to_owned).collect()
}

fn failures(ending: &Ending, seen: &Witnesses<'_>, flips: &[&AuditEntry]) -> Vec<String> {
    let mut failures = seen.missed.to_vec();
    if flips.len() != ending.flips {
        failures.push(format!("flipback moved traffic {} times instead of {}", flips.len(), ending.flips));
    }
    if seen.active != ending.active {
        failures.push(format!("users are served by {} instead of {}", seen.active, ending.active));
    }
    failures.extend(touched(flips).iter().map(|path| format!("the patch also wrote {path}")));
    let told: Vec<&str> = seen
        .messages
        .iter()
        .filter(|message| message.chat == "webhook")
        .filter_map(|message| message.body["data"]["topic"].as_str())
        .collect();
    let mut rest = told.iter();
    for topic in ending.told.iter().map(|topic: &Topic| topic.as_str()) {
        if !rest.any(|told| *told == topic) {
            failures.push(format!("the chats were not told {topic:?} in its place; they were told {told:?}"));
        }
    }
    failures
}
