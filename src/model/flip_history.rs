//! What was done to a guard and what follows from it, as `flipback history` shows it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Color, FlipRecord, GuardId};

/// A guard's ledger, with what it comes to at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlipHistory {
    /// Whose.
    pub guard: GuardId,
    /// The guarded object, `Service/web`.
    pub object: String,
    /// When this was put together.
    pub at: Timestamp,
    /// Version of the ledger's format; 0: there is no ledger yet.
    pub version: u32,
    /// The flips, newest first.
    pub flips: Vec<FlipRecord>,
    /// Entries that are no flips to this version of flipback.
    pub unread: u32,
    /// Releases that are marked as bad, newest mark first.
    pub bad: Vec<BadRelease>,
    /// End of the cooldown, while it lasts.
    pub cooldown_until: Option<Timestamp>,
    /// Automatic flips of the last 24 h that count.
    pub flips_today: u32,
    /// So many disarm the guard.
    pub flips_per_day: u32,
    /// Automatic flips that are left before it disarms itself.
    pub flips_left: u32,
    /// Whether it has disarmed itself.
    pub disarmed: bool,
    /// Who else writes the guarded object, where it tells.
    pub owner: Option<String>,
}

/// A release that was rolled back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRelease {
    /// Its id; where releases cannot be told apart, the color's name.
    pub release: String,
    /// What it ran.
    pub images: Vec<String>,
    /// Since when.
    pub since: Timestamp,
    /// The incident that marked it.
    pub incident: String,
    /// The colors that run it now.
    pub colors: Vec<Color>,
}
