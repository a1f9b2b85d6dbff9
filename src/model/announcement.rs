//! What is told to people: the facts; each chat gives them its own form.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Color, GuardId, Mode, Refusal, Release};

/// Something people must hear about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// Unique and sortable by time: chats and receivers drop a repeated one by it.
    pub id: String,
    /// Whose.
    pub guard: GuardId,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub topic: Topic,
    /// One sentence with numbers.
    pub why: String,
    /// Whether the guard may flip: a guard that only monitors is told of in the conditional.
    #[serde(default)]
    pub mode: Mode,
    /// The guard's cluster; empty for an only one without a name.
    #[serde(default)]
    pub cluster: String,
    /// `<namespace>` of the guard, called environment by some teams.
    pub namespace: String,
    /// The guarded object, `Service/web`.
    pub object: String,
    /// The color that was or is live.
    pub from: Option<Color>,
    /// The color that takes or would take over.
    pub to: Option<Color>,
    /// What `from` runs.
    pub from_release: Option<Release>,
    /// What `to` runs.
    pub to_release: Option<Release>,
    /// `error_rate`, `latency_p95`, `manual`.
    pub trigger: Option<String>,
    /// The incident's id.
    pub incident: Option<String>,
    /// What it continues: the incident's id, or `<guard>.<condition>`. Messages of one thread are told in order.
    #[serde(default)]
    pub thread: String,
    /// Where the evidence lies.
    pub evidence: Option<String>,
    /// Where a browser finds the report, if anybody said where evidence is published.
    #[serde(default)]
    pub link: Option<String>,
    /// A picture of what happened, as a file; it may be gone by the time it is sent.
    #[serde(default)]
    pub picture: Option<PathBuf>,
    /// Whether a person asked for a color by name: a switch, which calls no release bad.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub switch: bool,
    /// Why nothing was moved, where a flip was refused: what a person can do depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Decision to accepted patch, in milliseconds; there only if traffic was moved.
    pub took_ms: Option<f64>,
    /// When it was decided, where something was.
    #[serde(default)]
    pub decided_at: Option<Timestamp>,
    /// When the color that is or would be left became active, as far as known.
    #[serde(default)]
    pub switched_at: Option<Timestamp>,
    /// Equal messages that were held back since the last one, where there were any.
    #[serde(default)]
    pub repeats: Option<Repeats>,
    /// Chats to tell; empty = all.
    pub chats: Vec<String>,
}

/// Equal messages told as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats {
    /// How many were held back.
    pub count: u32,
    /// When the first of them happened.
    pub since: Timestamp,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// A rollback was decided and is under way.
    RollbackInitiated,
    /// Traffic is back on the good color.
    RollbackCompleted,
    /// Traffic was moved, and nobody could look yet whether it has arrived.
    ArrivalUnseen,
    /// The patch failed; a human must act.
    RollbackFailed,
    /// Monitor mode: it would have been rolled back.
    RollbackWithheld,
    /// A flip is refused although the release is bad; a human must act.
    RollbackBlocked,
    /// A rollback waits for the standby color, which is being scaled up.
    ScalingUp,
    /// Bad, and not the release's fault.
    RollbackSuppressed,
    /// The restored color is good.
    Recovered,
    /// The restored color is bad too; a human must act.
    DidNotHelp,
    /// Somebody moved traffic back to the color that was rolled back from.
    FlippedBack,
    /// The incident is over; the bundle holds what came after it too.
    Resolved,
    /// The bundle of an incident is complete: the report can be opened.
    EvidenceReady,
    /// The evidence of an incident cannot be kept; a human must act.
    EvidenceLost,
    /// No usable data.
    Blind,
    /// Usable data again.
    Sighted,
    /// The selector names none of the guard's colors.
    UnknownColor,
    /// The route cannot be read.
    Unreadable,
    /// The route can be read again, and selects one of the guard's colors.
    Readable,
    /// Too many flips: the guard has disarmed itself; a human must act.
    Disarmed,
    /// The guard flips again after it had disarmed itself.
    Rearmed,
    /// A person said that a release is bad no more.
    Cleared,
    /// A rule with `action = "alert"` is confirmed.
    Alert,
    /// A reading came near its threshold.
    Degraded,
    /// A person switched by hand.
    Switched,
    /// A person paused the guard.
    Paused,
    /// A person resumed the guard.
    Resumed,
    /// Many guards fail at once: the others are held, since what they share is the likelier cause; a human must act.
    ManyFailing,
    /// No guard is held for that any more.
    FewFailing,
    /// A test message.
    Test,
}

/// How loud a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know, or good news.
    Info,
    /// Degraded; healing or being dealt with.
    Warning,
    /// A human must act, or a release has just failed.
    Critical,
}

/// What a message is to its thread: receivers that keep a list of what is wrong (PagerDuty, Alertmanager) live by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Something is wrong from here on.
    Opens,
    /// It still is, and there is news.
    Continues,
    /// It is over.
    Resolves,
    /// A message by itself: nothing lasts.
    Once,
}

impl Topic {
    /// Every topic, in the order of an incident's life.
    pub const ALL: [Self; 30] = [
        Self::RollbackInitiated,
        Self::RollbackCompleted,
        Self::ArrivalUnseen,
        Self::RollbackFailed,
        Self::RollbackWithheld,
        Self::ScalingUp,
        Self::RollbackBlocked,
        Self::RollbackSuppressed,
        Self::EvidenceReady,
        Self::EvidenceLost,
        Self::Recovered,
        Self::DidNotHelp,
        Self::FlippedBack,
        Self::Resolved,
        Self::Blind,
        Self::Sighted,
        Self::UnknownColor,
        Self::Unreadable,
        Self::Readable,
        Self::Disarmed,
        Self::Rearmed,
        Self::Cleared,
        Self::Alert,
        Self::Degraded,
        Self::Switched,
        Self::Paused,
        Self::Resumed,
        Self::ManyFailing,
        Self::FewFailing,
        Self::Test,
    ];

    /// What it is to its thread.
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            Self::RollbackInitiated
            | Self::RollbackFailed
            | Self::RollbackWithheld
            | Self::RollbackBlocked
            | Self::ScalingUp
            | Self::RollbackSuppressed
            | Self::FlippedBack
            | Self::Blind
            | Self::UnknownColor
            | Self::Unreadable
            | Self::ManyFailing
            | Self::Disarmed => Stage::Opens,
            Self::RollbackCompleted | Self::ArrivalUnseen | Self::EvidenceReady | Self::EvidenceLost | Self::DidNotHelp => Stage::Continues,
            Self::Recovered | Self::Resolved | Self::Sighted | Self::Readable | Self::Rearmed | Self::FewFailing => Stage::Resolves,
            Self::Cleared | Self::Alert | Self::Degraded | Self::Switched | Self::Paused | Self::Resumed | Self::Test => Stage::Once,
        }
    }

    /// The word used in metrics labels and the generic webhook.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RollbackInitiated => "rollback_initiated",
            Self::RollbackCompleted => "rollback_completed",
            Self::ArrivalUnseen => "arrival_unseen",
            Self::RollbackFailed => "rollback_failed",
            Self::RollbackWithheld => "rollback_withheld",
            Self::RollbackBlocked => "rollback_blocked",
            Self::ScalingUp => "scaling_up",
            Self::RollbackSuppressed => "rollback_suppressed",
            Self::Recovered => "recovered",
            Self::DidNotHelp => "did_not_help",
            Self::FlippedBack => "flipped_back",
            Self::Resolved => "resolved",
            Self::EvidenceReady => "evidence_ready",
            Self::EvidenceLost => "evidence_lost",
            Self::Blind => "blind",
            Self::Sighted => "sighted",
            Self::UnknownColor => "unknown_color",
            Self::Unreadable => "unreadable",
            Self::Readable => "readable",
            Self::Disarmed => "disarmed",
            Self::Rearmed => "rearmed",
            Self::Cleared => "cleared",
            Self::Alert => "alert",
            Self::Degraded => "degraded",
            Self::Switched => "switched",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::ManyFailing => "many_failing",
            Self::FewFailing => "few_failing",
            Self::Test => "test",
        }
    }

    /// Whether it is about all guards together, and not about the one that it names.
    #[must_use]
    pub fn is_of_all(self) -> bool {
        matches!(self, Self::ManyFailing | Self::FewFailing)
    }

    /// How loud it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::RollbackInitiated
            | Self::RollbackFailed
            | Self::RollbackBlocked
            | Self::ScalingUp
            | Self::DidNotHelp
            | Self::FlippedBack
            | Self::Disarmed
            | Self::EvidenceLost
            | Self::ManyFailing
            | Self::UnknownColor => Severity::Critical,
            Self::ArrivalUnseen
            | Self::RollbackWithheld
            | Self::RollbackSuppressed
            | Self::Blind
            | Self::Unreadable
            | Self::Alert
            | Self::Degraded => Severity::Warning,
            Self::RollbackCompleted
            | Self::Recovered
            | Self::Resolved
            | Self::EvidenceReady
            | Self::Sighted
            | Self::Readable
            | Self::Rearmed
            | Self::Cleared
            | Self::Switched
            | Self::Paused
            | Self::Resumed
            | Self::FewFailing
            | Self::Test => Severity::Info,
        }
    }
}

/// How the id of every sample of `flipback notify test` begins.
pub const SAMPLE: &str = "flipback-test-";

impl Announcement {
    /// Whether it is a test message or a sample: nothing has happened.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.topic == Topic::Test || self.id.starts_with(SAMPLE)
    }

    /// A made-up one, as the monitor makes them: for tests, and to try templates on.
    ///
    /// # Panics
    /// Never: its names and times are constants.
    #[must_use]
    pub fn example(topic: Topic) -> Self {
        Self::example_at(topic, "2026-11-21T04:12:34.567Z".parse().expect("a constant"))
    }

    /// The same for `flipback notify test`, of a story in which it was decided at this time.
    ///
    /// # Panics
    /// Never: its names are constants.
    #[must_use]
    pub fn example_at(topic: Topic, decided: Timestamp) -> Self {
        let color = |name: &str| Some(Color::new(name).expect("a constant"));
        let later = |ms: i64| decided.saturating_add(SignedDuration::from_millis(ms)).unwrap_or(decided);
        let release = |id: &str, image: &str| {
            Some(Release {
                id: id.into(),
                images: vec![image.into()],
            })
        };
        let bad = || (color("green"), release("9f1c", "registry.example/shop/web:1.4.0"));
        let good = || (color("blue"), release("77aa", "registry.example/shop/web:1.3.9"));
        // Somebody's own move leads to the new release, and no color is known where the route cannot be understood.
        let ((from, from_release), (to, to_release)) = match topic {
            Topic::FlippedBack | Topic::Switched => (good(), bad()),
            Topic::UnknownColor | Topic::Unreadable | Topic::ManyFailing | Topic::FewFailing | Topic::Test => ((None, None), (None, None)),
            _ => (bad(), good()),
        };
        let incident = matches!(
            topic,
            Topic::RollbackInitiated
                | Topic::RollbackCompleted
                | Topic::ArrivalUnseen
                | Topic::RollbackFailed
                | Topic::RollbackWithheld
                | Topic::RollbackBlocked
                | Topic::ScalingUp
                | Topic::RollbackSuppressed
                | Topic::Recovered
                | Topic::DidNotHelp
                | Topic::Resolved
                | Topic::EvidenceReady
                | Topic::EvidenceLost
        );
        let moved = matches!(
            topic,
            Topic::RollbackCompleted | Topic::ArrivalUnseen | Topic::EvidenceReady | Topic::EvidenceLost | Topic::Resolved
        );
        let rule = incident || matches!(topic, Topic::Alert | Topic::Degraded);
        let folder = decided.strftime("shop.web_%Y%m%dT%H%M%SZ").to_string();
        Self {
            id: format!("{}-{}", decided.strftime("%Y%m%dT%H%M%S%.3fZ"), topic.as_str()),
            guard: GuardId::new("", "shop", "web").expect("a constant"),
            at: later(match topic {
                Topic::RollbackCompleted | Topic::ArrivalUnseen => 1_233,
                Topic::EvidenceReady | Topic::EvidenceLost => 6_433,
                Topic::Sighted | Topic::Readable => 11_433,
                Topic::Recovered | Topic::DidNotHelp | Topic::FlippedBack => 305_433,
                Topic::Resolved | Topic::Resumed | Topic::Rearmed => 605_433,
                _ => 0,
            }),
            topic,
            why: example_why(topic, decided),
            mode: if topic == Topic::RollbackWithheld {
                Mode::Monitor
            } else {
                Mode::Enforce
            },
            cluster: String::new(),
            namespace: "shop".into(),
            object: "Service/web".into(),
            from,
            to,
            from_release,
            to_release,
            trigger: rule.then(|| "error_rate".into()),
            incident: (incident || topic == Topic::FlippedBack).then(|| folder.clone()),
            evidence: (incident || topic == Topic::FlippedBack)
                .then(|| format!("/var/lib/flipback/incidents/{folder}"))
                .filter(|_| topic != Topic::EvidenceLost),
            thread: match (incident, topic.is_of_all()) {
                (true, _) => folder,
                (false, true) => "fleet_20261121T041234.567Z".to_owned(),
                (false, false) => format!("shop.web.{}", topic.as_str()),
            },
            link: None,
            picture: None,
            switch: topic == Topic::Switched,
            refusal: (topic == Topic::RollbackBlocked).then_some(Refusal::StandbyNotReady { ready: 0, needed: 2 }),
            took_ms: moved.then_some(8.4321),
            decided_at: incident.then_some(decided),
            switched_at: incident.then(|| later(-382_567)),
            repeats: None,
            chats: Vec::new(),
        }
    }
}

/// What the monitor would say of the example.
fn example_why(topic: Topic, decided: Timestamp) -> String {
    let clock = |ms: i64| {
        let at = decided.saturating_add(SignedDuration::from_millis(ms)).unwrap_or(decided);
        at.strftime("%H:%M:%S UTC")
    };
    const RULE: &str = "error_rate 12.4 % (31 of 250 requests) is over 5 %, 3 of 3 in a row";
    match topic {
        Topic::RollbackInitiated | Topic::RollbackCompleted | Topic::RollbackWithheld | Topic::EvidenceReady | Topic::Alert => {
            RULE.to_owned()
        }
        Topic::ArrivalUnseen => format!(
            "{RULE}. The API server has accepted the patch. Whether traffic has arrived could not be looked at: failed to read Service \
             \"shop/web\": connection refused"
        ),
        Topic::RollbackFailed => {
            format!("{RULE}. Failed to patch Service \"shop/web\": services \"web\" is forbidden (403)")
        }
        Topic::RollbackBlocked => format!("{RULE}, but the standby color cannot serve: 0 Ready endpoints, 2 needed"),
        Topic::ScalingUp => {
            format!("{RULE}, but the standby color is being scaled up: 0 of 2 endpoints are Ready, waited for until 04:14:34 UTC")
        }
        Topic::RollbackSuppressed => format!("{RULE}, but the standby color is just as bad now, so switching back would not help"),
        Topic::EvidenceLost => "failed to write metrics/error_rate.green.json: No space left on device".to_owned(),
        Topic::Recovered => "blue serves well after the rollback, with 3 Ready endpoints".to_owned(),
        Topic::DidNotHelp => {
            "the restored color is over its threshold too: error_rate 9.8 % (24 of 245 requests) is over 5 %, 3 of 3 in a row".to_owned()
        }
        Topic::FlippedBack => {
            "reverted by argocd-controller after 6 s: green is live again, which flipback had rolled back from; it is not flipped away \
             again automatically"
                .to_owned()
        }
        Topic::Resolved => format!(
            "blue serves well since {}; the report holds the time before and after",
            clock(305_433)
        ),
        Topic::Blind => format!(
            "no usable data since {}: Prometheus did not answer within 4 s; nothing is flipped meanwhile",
            clock(-60_567)
        ),
        Topic::Sighted => "usable data again after 72 s".to_owned(),
        Topic::UnknownColor => {
            "the selector says \"purple\", which is none of this guard's colors (blue, green): nothing is done until it is".to_owned()
        }
        Topic::Unreadable => "Service \"shop/web\" does not exist".to_owned(),
        Topic::Readable => "the route can be read again, and selects a known color".to_owned(),
        Topic::Disarmed => "3 automatic flips in 24 h: this guard flips no more until a person looks at it".to_owned(),
        Topic::Rearmed => "armed again by ana@ops-1".to_owned(),
        Topic::Cleared => "ana@ops-1 says that release 9f1c is bad no more: the database was it".to_owned(),
        Topic::Degraded => "error_rate 4.3 % (11 of 256 requests) is near its limit of 5 %".to_owned(),
        Topic::Switched => "green is live, switched from blue by kubectl-edit; watching it".to_owned(),
        Topic::Paused => "paused by ana@ops-1: nothing is flipped until it is resumed".to_owned(),
        Topic::Resumed => "resumed".to_owned(),
        Topic::ManyFailing => {
            "5 of 40 guards were rolled back within 10m, as many as may; held: shop/web, shop/cart, shop/search".to_owned()
        }
        Topic::FewFailing => "no guard is held any more; it lasted 6m 20s".to_owned(),
        Topic::Test => "a test message, sent by hand".to_owned(),
    }
}
