//! What the page, the API and the command line show.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Color, FlipHistory, GuardId, Judging, Mode, Release, RuleKind, RuleName, RuleSpec};

/// Everything there is to show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// flipback's version.
    pub version: String,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// When this status was made.
    pub at: Timestamp,
    /// Time between two looks, in seconds.
    pub poll_seconds: f64,
    /// Every guard, by name.
    pub guards: Vec<GuardStatus>,
    /// Messages waiting for a chat.
    pub notifications_pending: u64,
    /// How each chat fares.
    #[serde(default)]
    pub chats: Vec<ChatStatus>,
    /// How many guards flipped by themselves lately, and how many may.
    #[serde(default)]
    pub fleet: FleetStatus,
    /// The configuration in force, and what became of the newest change of it.
    #[serde(default)]
    pub config: ConfigStatus,
    /// Who leads, where several daemons share the guards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaStatus>,
}

/// How many guards flipped by themselves lately, and how many may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Those that flipped within the window.
    pub flipped: Vec<GuardId>,
    /// How many may; `None`: any number.
    pub limit: Option<u32>,
    /// The window, in seconds.
    pub window_seconds: u64,
    /// Those that are bad and held, since so many flipped already.
    pub held: Vec<GuardId>,
    /// Until when a person has lifted the limit.
    pub lifted_until: Option<Timestamp>,
    /// Who.
    pub lifted_by: Option<String>,
}

/// The configuration in force, and what became of the newest change of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file; `None`: environment and flags alone.
    pub file: Option<String>,
    /// Short hash of the text in force.
    pub hash: String,
    /// Since when it is in force.
    pub loaded_at: Option<Timestamp>,
    /// Why the newest change of it was refused: the one before is in force.
    pub refused: Option<RefusedConfig>,
}

/// A changed configuration that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedConfig {
    /// When.
    pub at: Timestamp,
    /// Every problem, for a person.
    pub why: String,
}

/// One of several daemons that share the guards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// What this one is called.
    pub name: String,
    /// All that are alive, this one included.
    pub alive: Vec<String>,
    /// Every shard of the guards.
    pub shards: Vec<ShardStatus>,
    /// Why the Leases cannot be read or written, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// One shard of the guards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number, from 0.
    pub shard: u32,
    /// Who leads it; `None`: nobody that is known of.
    pub leader: Option<String>,
    /// Whether it is this replica.
    pub ours: bool,
}

impl ReplicaStatus {
    /// Who leads a shard, as far as known.
    #[must_use]
    pub fn leader(&self, shard: u32) -> Option<&str> {
        self.shards.iter().find(|known| known.shard == shard)?.leader.as_deref()
    }
}

/// How a chat fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it speaks.
    pub kind: String,
    /// Messages waiting for it.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    pub waiting_since: Option<Timestamp>,
    /// When it last accepted a message, since the daemon started.
    pub delivered_at: Option<Timestamp>,
    /// Messages given up since the daemon started.
    pub given_up: u64,
    /// Why the last attempt failed, and what to do; `None` after a success.
    pub trouble: Option<String>,
}

/// One guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Its name.
    pub guard: GuardId,
    /// Whether it may flip.
    pub mode: Mode,
    /// The guarded object, `Service/web`.
    pub object: String,
    /// Its state in a word.
    pub phase: Phase,
    /// One sentence with numbers.
    pub why: String,
    /// The color that serves users, where known.
    pub active: Option<Color>,
    /// Where a rollback would go.
    pub standby: Option<Color>,
    /// Every color.
    pub colors: Vec<ColorStatus>,
    /// Every rule.
    pub rules: Vec<RuleStatus>,
    /// When the active color or its release last changed, as far as known.
    pub switched_at: Option<Timestamp>,
    /// Until when all paths are armed.
    pub watch_until: Option<Timestamp>,
    /// End of the cooldown.
    pub cooldown_until: Option<Timestamp>,
    /// Who paused the guard.
    pub paused_by: Option<String>,
    /// When the pause ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// The maintenance window that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
    /// The newest incident.
    pub last_incident: Option<IncidentSummary>,
    /// What happened lately, newest first, bounded.
    pub events: Vec<EventLine>,
    /// Its shard, where several daemons share the guards: [`Status::replica`] says who leads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// What the ledger says, which is asked for by itself.
    #[serde(skip)]
    pub history: Option<Arc<FlipHistory>>,
}

/// A maintenance window that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceStatus {
    /// Its name.
    pub name: String,
    /// Its end, and that of those that follow without a gap.
    pub until: Timestamp,
}

/// The guard's state in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No verdict yet.
    #[default]
    Starting,
    /// Armed after a switch, all well.
    Watching,
    /// The watch has ended, all well.
    Steady,
    /// A streak is growing.
    Breaching,
    /// Flipped back; the restored color is being watched.
    RolledBack,
    /// Bad, and a flip is refused.
    Blocked,
    /// Bad, and not the release's fault.
    Suppressed,
    /// No usable data.
    Blind,
    /// Paused by a person.
    Paused,
    /// Disarmed after too many flips.
    Disarmed,
    /// The selector names none of the guard's colors.
    UnknownColor,
    /// The route cannot be read.
    Unreadable,
}

impl Phase {
    /// Every phase, for metrics.
    pub const ALL: [Self; 12] = [
        Self::Starting,
        Self::Watching,
        Self::Steady,
        Self::Breaching,
        Self::RolledBack,
        Self::Blocked,
        Self::Suppressed,
        Self::Blind,
        Self::Paused,
        Self::Disarmed,
        Self::UnknownColor,
        Self::Unreadable,
    ];

    /// The word, as in metrics labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Watching => "watching",
            Self::Steady => "steady",
            Self::Breaching => "breaching",
            Self::RolledBack => "rolled_back",
            Self::Blocked => "blocked",
            Self::Suppressed => "suppressed",
            Self::Blind => "blind",
            Self::Paused => "paused",
            Self::Disarmed => "disarmed",
            Self::UnknownColor => "unknown_color",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RolledBack => "rolled back",
            Self::UnknownColor => "unknown color",
            other => other.as_str(),
        })
    }
}

/// One color of a guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColorStatus {
    /// Its name.
    pub color: Color,
    /// Ready endpoints.
    pub ready: u32,
    /// Replicas asked for.
    pub desired: Option<u32>,
    /// What it runs.
    pub release: Option<Release>,
    /// Whether that release is marked as bad.
    pub known_bad: bool,
}

/// One rule of a guard, as last judged on the active color.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name.
    pub rule: RuleName,
    /// The kind as configuration spells it: `error_rate`, `availability`, `latency`, `promql`, `throughput`, `saturation`, `probe`,
    /// `endpoints`.
    pub kind: String,
    /// `breach`, `pass`, `waiting`, `inconclusive`, `nothing`.
    pub outcome: String,
    /// Breaches in a row.
    pub streak: u32,
    /// How many it takes.
    pub of: u32,
    /// The newest judged value, in the unit of `threshold`.
    pub value: Option<f64>,
    /// What it is compared to, in the same unit. Infinite, `null` in JSON: nothing yet, as with a limit relative to a standby without
    /// a number.
    #[serde(deserialize_with = "endless")]
    pub threshold: f64,
    /// Whether being under the threshold is the breach, as with an availability or a `min`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub below: bool,
    /// What `value` and `threshold` count: [`unit::RATIO`], [`unit::ENDPOINTS`], [`unit::SECONDS`] or a rule's own word, such as
    /// `req/s`; `None`: a bare number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Bad requests behind `value`.
    pub bad: Option<f64>,
    /// Requests behind `value`.
    pub total: Option<f64>,
    /// One sentence with numbers.
    pub why: String,
    /// Time of the newest sample.
    pub sample_at: Option<Timestamp>,
    /// Newest judged values, oldest first, bounded; for a sparkline.
    pub history: Vec<f64>,
}

/// An infinity is `null` in JSON.
fn endless<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::INFINITY))
}

/// What a rule's numbers count.
pub mod unit {
    use super::{Judging, RuleKind, RuleSpec};

    /// A fraction, shown to people in percent.
    pub const RATIO: &str = "ratio";
    /// Ready endpoints.
    pub const ENDPOINTS: &str = "endpoints";
    /// Seconds.
    pub const SECONDS: &str = "seconds";

    /// The unit of a rule's value and threshold.
    ///
    /// A saturation is the used share of a resource, unless its rule names a unit or has a limit that no share reaches. In the classic
    /// mode a latency is judged by its quantile, a time.
    #[must_use]
    pub fn of(rule: &RuleSpec, judging: Judging) -> Option<String> {
        let known = |unit: &str| Some(unit.to_owned());
        match &rule.kind {
            RuleKind::Latency(_) if judging == Judging::Classic => known(SECONDS),
            RuleKind::ErrorRate(_) | RuleKind::Availability(_) | RuleKind::Latency(_) | RuleKind::Probe(_) => known(RATIO),
            RuleKind::Endpoints(_) => known(ENDPOINTS),
            RuleKind::Saturation(scalar) if scalar.unit.is_none() => {
                let limits = [scalar.max, scalar.min];
                limits.into_iter().flatten().all(|limit| limit <= 1.0).then(|| RATIO.to_owned())
            }
            RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => scalar.unit.clone(),
        }
    }

    /// On which side of its threshold a rule breaches: `over` or `under`; of one with limits on both sides, `over`.
    #[must_use]
    pub fn breach(kind: &RuleKind) -> &'static str {
        match kind {
            RuleKind::Availability(_) | RuleKind::Endpoints(_) => "under",
            RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => {
                let over = [scalar.max, scalar.max_ratio_to_standby, scalar.max_ratio_to_before];
                if scalar.min.is_some() && over.iter().all(Option::is_none) {
                    "under"
                } else {
                    "over"
                }
            }
            RuleKind::ErrorRate(_) | RuleKind::Latency(_) | RuleKind::Probe(_) => "over",
        }
    }

    /// The unit by the kind alone, for the status of a daemon that does not tell it yet.
    #[must_use]
    pub fn of_kind(kind: &str) -> Option<&'static str> {
        match kind {
            "error_rate" | "availability" | "latency" | "probe" => Some(RATIO),
            "endpoints" => Some(ENDPOINTS),
            _ => None,
        }
    }
}

impl RuleStatus {
    /// What its numbers count, as far as it tells.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref().or_else(|| unit::of_kind(&self.kind))
    }
}

/// The newest incident in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentSummary {
    /// Its id.
    pub id: String,
    /// When it was decided.
    pub at: Timestamp,
    /// The color that was left.
    pub from: Color,
    /// The color that took over.
    pub to: Color,
    /// `rolled_back`, `withheld`, `failed`, `blocked`, `suppressed`.
    pub result: String,
    /// `error_rate`, `manual`.
    pub trigger: String,
    /// One sentence with numbers.
    pub why: String,
    /// Decision to accepted patch, in milliseconds.
    pub took_ms: Option<f64>,
    /// Where the evidence lies, once it does.
    pub evidence: Option<String>,
    /// Where a browser finds the report, once it is there: an address, or a path on our own server.
    #[serde(default)]
    pub report: Option<String>,
}

/// One line of what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// When.
    pub at: Timestamp,
    /// What, for a person; shared by every status that shows it.
    pub what: Arc<str>,
}
