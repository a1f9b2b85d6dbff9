//! What is live, as the watch caches tell it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Color, Ledger, Owner, Pause};

/// What a router knows of its route right now.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// The active color is known.
    Known(Box<Traffic>),
    /// The route selects something that is none of the guard's colors: nothing is done.
    UnknownColor {
        /// The selector's value; `None` when the selector has no such key.
        found: Option<String>,
        /// The values that would be understood.
        known: Vec<String>,
    },
    /// The truth about "active" cannot be read: everything is frozen. Carries a sentence for a person.
    Unreadable(String),
}

/// The route and its colors at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// The color that serves users.
    pub active: Color,
    /// Where a rollback would go: the other color, or with several the one that served last.
    pub standby: Color,
    /// Every color of the guard.
    pub sides: BTreeMap<Color, Side>,
    /// What a flip is compared against.
    pub seen: Seen,
    /// What earlier flips wrote on the object.
    pub ledger: Ledger,
    /// A person's pause, which may have ended: see [`Self::paused_at`].
    pub paused: Option<Pause>,
    /// When the selector was last changed, where the object tells (`managedFields`).
    pub switched_at: Option<Timestamp>,
    /// Who changed it, as the object tells: a field manager such as `kubectl-patch` or `argocd-controller`.
    pub switched_by: Option<String>,
    /// The tool that applies the object again and again, where the object tells of one.
    pub owner: Option<Owner>,
}

/// The name under which flipback writes on objects, as their `managedFields` tell it.
pub const FIELD_MANAGER: &str = "flipback";

impl Traffic {
    /// The pause that is in force.
    #[must_use]
    pub fn paused_at(&self, at: Timestamp) -> Option<&Pause> {
        self.paused.as_ref().filter(|pause| pause.holds(at))
    }

    /// The active side; an empty one if the color has none.
    #[must_use]
    pub fn active_side(&self) -> Side {
        self.sides.get(&self.active).cloned().unwrap_or_default()
    }

    /// The standby side; an empty one if the color has none.
    #[must_use]
    pub fn standby_side(&self) -> Side {
        self.sides.get(&self.standby).cloned().unwrap_or_default()
    }
}

/// One color's capacity and release.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Ready endpoints.
    pub ready: u32,
    /// Replicas asked for, where a Deployment is named and found.
    pub desired: Option<u32>,
    /// What it runs, where it can be told.
    pub release: Option<Release>,
    /// Addresses of the Ready endpoints, for probes; bounded by the router.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that exist and are not Ready, for probes of a color that is down.
    pub unready: Vec<Endpoint>,
    /// Images that its pods report to run, by digest, each once; empty where they report none. Bounded by the router.
    pub images: Vec<String>,
    /// Its endpoints are not being watched right now: they were so a moment ago, which is no evidence of how they are.
    pub unwatched: bool,
    /// Why its Deployment is not available, where one is named and found and says that it is not.
    pub unavailable: Option<String>,
}

/// One pod of a color.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: String,
    /// Its address.
    pub address: String,
    /// The pod port the active Service targets; never the Service's own port.
    pub port: Option<u16>,
}

/// What a color runs. Two releases are the same when their `id`s are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Short hash of the pod template.
    pub id: String,
    /// Its images, in the template's order.
    pub images: Vec<String>,
}

/// The basis of a compare-and-swap: what the object looked like when the decision was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The object's uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
    /// The selector value that named the active color.
    pub value: String,
}
