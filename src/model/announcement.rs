//! What is told to people: the facts; each chat gives them its own form.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Color, GuardId, Release};

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
    /// Where the evidence lies.
    pub evidence: Option<String>,
    /// Decision to accepted patch, in milliseconds.
    pub took_ms: Option<f64>,
    /// Chats to tell; empty = all.
    pub chats: Vec<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// A rollback was decided and is under way.
    RollbackInitiated,
    /// Traffic is back on the good color.
    RollbackCompleted,
    /// The patch failed; a human must act.
    RollbackFailed,
    /// Monitor mode: it would have been rolled back.
    RollbackWithheld,
    /// A flip is refused although the release is bad; a human must act.
    RollbackBlocked,
    /// Bad, and not the release's fault.
    RollbackSuppressed,
    /// The restored color is good.
    Recovered,
    /// The restored color is bad too; a human must act.
    DidNotHelp,
    /// Somebody moved traffic back to the color that was rolled back from.
    FlippedBack,
    /// No usable data.
    Blind,
    /// Usable data again.
    Sighted,
    /// The selector names none of the guard's colors.
    UnknownColor,
    /// The route cannot be read.
    Unreadable,
    /// Too many flips: the guard has disarmed itself; a human must act.
    Disarmed,
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

impl Topic {
    /// The word used in metrics labels and the generic webhook.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RollbackInitiated => "rollback_initiated",
            Self::RollbackCompleted => "rollback_completed",
            Self::RollbackFailed => "rollback_failed",
            Self::RollbackWithheld => "rollback_withheld",
            Self::RollbackBlocked => "rollback_blocked",
            Self::RollbackSuppressed => "rollback_suppressed",
            Self::Recovered => "recovered",
            Self::DidNotHelp => "did_not_help",
            Self::FlippedBack => "flipped_back",
            Self::Blind => "blind",
            Self::Sighted => "sighted",
            Self::UnknownColor => "unknown_color",
            Self::Unreadable => "unreadable",
            Self::Disarmed => "disarmed",
            Self::Alert => "alert",
            Self::Degraded => "degraded",
            Self::Switched => "switched",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Test => "test",
        }
    }

    /// How loud it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::RollbackInitiated
            | Self::RollbackFailed
            | Self::RollbackBlocked
            | Self::DidNotHelp
            | Self::FlippedBack
            | Self::Disarmed
            | Self::UnknownColor => Severity::Critical,
            Self::RollbackWithheld | Self::RollbackSuppressed | Self::Blind | Self::Unreadable | Self::Alert | Self::Degraded => {
                Severity::Warning
            }
            Self::RollbackCompleted | Self::Recovered | Self::Sighted | Self::Switched | Self::Paused | Self::Resumed | Self::Test => {
                Severity::Info
            }
        }
    }
}
