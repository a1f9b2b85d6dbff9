//! One incident: a case and what became of it. This is `incident.json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Case, Mode, Policy, Refusal, RuleSpec, Seen, Suppression};

/// Version of `incident.json`. A change of meaning raises it; a new optional field does not.
pub const INCIDENT_SCHEMA: u32 = 1;
/// The remark of a person's switch, which is no rollback.
pub const SWITCH: &str = "A switch by hand: it calls no release bad";

/// The folder of incidents below the data folder.
pub const INCIDENTS: &str = "incidents";

/// A case and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// [`INCIDENT_SCHEMA`] of the writer.
    pub schema: u32,
    /// flipback's version that wrote it.
    pub flipback: String,
    /// `<guard>_<UTC timestamp>`, also the name of its folder.
    pub id: String,
    /// Whether the guard may flip.
    pub mode: Mode,
    /// The guarded object, `Service/web`.
    pub object: String,
    /// Its namespace.
    pub namespace: String,
    /// Its cluster; empty for an only one without a name.
    pub cluster: String,
    /// Why.
    pub case: Case,
    /// The object as it was seen.
    pub seen: Seen,
    /// The policy in force.
    pub policy: Policy,
    /// The rules in force; empty in what older versions wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleSpec>,
    /// When the color that is left became active, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_at: Option<Timestamp>,
    /// The incident that the same bad time began with, whose thread of messages it goes on with; `None`: it began with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The attempt whose first message, that a flip is under way, is this one's too, since it goes on with it; `None`: it has its own,
    /// or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_by: Option<String>,
    /// The incident that this one tells on, with its story: it waited for a standby that was scaled up. Its bundle goes once this one's
    /// is whole; `None`: there is no such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// When the second pass, after the incident, was captured; `None`: not yet, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed_up_at: Option<Timestamp>,
    /// What became of it.
    pub outcome: IncidentOutcome,
    /// flipback ended in mid-capture: the next start completed the evidence with what there was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// What happened, in order.
    pub timeline: Vec<TimelineEntry>,
    /// Whether every part of the evidence was captured; parts that failed are named.
    pub capture_errors: Vec<String>,
}

impl Incident {
    /// The thread of messages it belongs to.
    #[must_use]
    pub fn thread(&self) -> &str {
        self.thread.as_deref().unwrap_or(&self.id)
    }

    /// Whether it is a person's switch, which calls no release bad and is no rollback.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.timeline.iter().any(|entry| entry.moment.is_none() && entry.what == SWITCH)
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum IncidentOutcome {
    /// Decided, not yet carried out.
    Decided,
    /// Traffic was moved.
    RolledBack {
        /// When the API server had accepted the patch.
        at: Timestamp,
        /// From decision to acceptance, in milliseconds; 0 where it is not known, since flipback ended before the answer came.
        took_ms: f64,
        /// resourceVersion of the patched object.
        resource_version: String,
        /// What a second object, such as the preview Service, did not accept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        preview_error: Option<String>,
    },
    /// Monitor mode: it would have been moved.
    Withheld,
    /// A dry run: the API server accepted the patch and stored nothing.
    DryRun,
    /// The patch failed; carries the chain of causes.
    Failed {
        /// A sentence for a person.
        error: String,
    },
    /// Refused.
    Blocked {
        /// Why.
        #[serde(flatten)]
        refusal: Refusal,
    },
    /// Not the release's fault.
    Suppressed {
        /// Why.
        #[serde(flatten)]
        suppression: Suppression,
    },
}

/// One line of an incident's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// When.
    pub at: Timestamp,
    /// What, for a program; `None`: a remark, or what an older version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// What, for a person.
    pub what: String,
}

impl TimelineEntry {
    /// A remark.
    pub fn remark(at: Timestamp, what: impl Into<String>) -> Self {
        Self {
            at,
            moment: None,
            what: what.into(),
        }
    }

    /// One of the known moments.
    pub fn of(moment: Moment, at: Timestamp, what: impl Into<String>) -> Self {
        Self {
            at,
            moment: Some(moment),
            what: what.into(),
        }
    }
}

/// The moments that every incident's story is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The color that is left became active.
    Switched,
    /// The first bad request that was measured.
    FirstBad,
    /// A rule breached.
    Breach,
    /// It was decided to act.
    Decided,
    /// The API server accepted the patch.
    Patched,
    /// It did not.
    PatchFailed,
    /// The Service's endpoints follow.
    Arrived,
    /// They do not.
    NotArrived,
    /// The restored color is good.
    Recovered,
    /// The restored color is bad too.
    DidNotHelp,
    /// Somebody moved traffic back.
    FlippedBack,
    /// And the rollback was made again.
    MadeAgain,
    /// The bad time is over.
    Resolved,
    /// The second pass was captured.
    FollowedUp,
    /// The standby color was scaled up.
    ScaledUp,
    /// It could not be.
    NotScaled,
    /// Pods of the color that was left were taken out of service.
    Relieved,
    /// They may not be, or could not be.
    NotRelieved,
    /// A chat was never told.
    NotTold,
}
