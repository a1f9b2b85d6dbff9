//! What a person may ask of a running daemon.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Clear, Color, GuardId, Incident};

/// A person's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    /// Back to the standby color, now.
    Rollback {
        /// Which guard.
        guard: GuardId,
        /// The color to leave: refused where another one is active by now. `None`: whichever is active.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Color>,
        /// Who asks.
        by: String,
        /// Their words.
        reason: String,
        /// Ask the API server without storing.
        #[serde(default)]
        dry_run: bool,
    },
    /// To a named color, now.
    Switch {
        /// Which guard.
        guard: GuardId,
        /// Where to.
        to: Color,
        /// Who asks.
        by: String,
        /// Their words.
        reason: String,
        /// Ask the API server without storing.
        #[serde(default)]
        dry_run: bool,
    },
    /// No flips until resumed.
    Pause {
        /// Which guard.
        guard: GuardId,
        /// Who asks.
        by: String,
        /// Their words.
        reason: String,
        /// When it ends by itself; `None`: when it is resumed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// No longer held against the guard: a bad release, or its flips.
    Clear {
        /// Which guard.
        guard: GuardId,
        /// What.
        clear: Clear,
        /// Who asks.
        by: String,
        /// Their words.
        #[serde(default)]
        reason: String,
    },
    /// Flips again.
    Resume {
        /// Which guard.
        guard: GuardId,
        /// Who asks.
        by: String,
    },
    /// Any number of guards may flip for a while: the blast radius is lifted.
    Override {
        /// For how long.
        #[serde(rename = "for", with = "humantime_serde")]
        lasts: Duration,
        /// Who asks.
        by: String,
        /// Their words.
        #[serde(default)]
        reason: String,
    },
}

impl Command {
    /// The guard it is for; `None`: the whole fleet.
    #[must_use]
    pub fn guard(&self) -> Option<&GuardId> {
        match self {
            Self::Rollback { guard, .. }
            | Self::Switch { guard, .. }
            | Self::Pause { guard, .. }
            | Self::Clear { guard, .. }
            | Self::Resume { guard, .. } => Some(guard),
            Self::Override { .. } => None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum CommandReply {
    /// A flip was tried; the incident says how it ended.
    Flip {
        /// The incident.
        incident: Box<Incident>,
    },
    /// Paused, resumed or cleared.
    Done {
        /// A sentence for a person.
        what: String,
    },
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "error", content = "detail")]
pub enum CommandError {
    /// No such guard.
    #[error("no guard is called {0:?}")]
    UnknownGuard(String),
    /// No such color.
    #[error("{0}")]
    UnknownColor(String),
    /// Refused by the rules that protect traffic.
    #[error("refused: {0}")]
    Refused(String),
    /// Another replica acts for this guard, or none does at the moment.
    #[error("{}", not_leading(.replica, .leader.as_deref()))]
    NotLeading {
        /// The replica that was asked.
        replica: String,
        /// The one to ask; `None`: nobody leads right now.
        leader: Option<String>,
    },
    /// The cluster said no, or nothing.
    #[error("{0}")]
    Failed(String),
    /// The daemon is busy or stopping.
    #[error("the daemon is busy or stopping; try again")]
    Busy,
}

fn not_leading(replica: &str, leader: Option<&str>) -> String {
    match leader {
        Some(leader) => format!("{replica} only follows: {leader} acts for this guard, ask it"),
        None => format!("{replica} only follows, and no replica leads this guard right now: try again in a few seconds"),
    }
}
