//! One line of the audit journal: who did, decided or refused what.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::GuardId;

/// One decision, action or refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// Whose guard; `None`: the daemon's own, such as its start.
    pub guard: Option<GuardId>,
    /// What, as a word: `started`, `stopped`, `decided`, `rolled_back`, `withheld`, `failed`, `stale`, `blocked`, `suppressed`, `refused`, `paused`,
    /// `resumed`, `switched`, `recovered`, `did_not_help`, `flipped_back`, `disarmed`, `rearmed`, `evidence_kept`, `evidence_lost`,
    /// `evidence_pruned`, `message_lost`, `leading`, `following`, `not_leading`.
    pub action: String,
    /// One sentence with numbers.
    pub why: String,
    /// The incident's id, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
}

/// Who acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Actor {
    /// flipback itself.
    Flipback,
    /// A person through flipback.
    Person {
        /// Who they said they are.
        name: String,
    },
    /// Somebody else who wrote to the guarded object.
    FieldManager {
        /// As the object tells.
        name: String,
    },
}
