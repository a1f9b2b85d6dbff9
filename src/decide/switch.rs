//! What is live and since when; what a switch means; and which color is one that flipback itself restored.
//!
//! There is one switch, whoever made it: flipback, a person, a pipeline, a GitOps tool. The ledger on the object tells
//! ours from theirs, after a restart as well.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{Color, FlipRecord, Policy, Traffic};

use super::{
    clock::{after, shifted},
    gate,
};

/// `managedFields` tell whole seconds: a change within this of our own look is the one we see.
const COARSE: SignedDuration = SignedDuration::from_secs(1);

/// What is live.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Live {
    color: Color,
    release: Option<String>,
    looked: Timestamp,
    /// The newest flip in the ledger, empty for none; `None`: not looked at yet.
    #[serde(default)]
    flip: Option<String>,
    /// Since when: the start of the watch.
    pub(super) since: Timestamp,
}

impl Live {
    /// A color that is live since a known instant.
    pub(super) fn since(color: Color, since: Timestamp) -> Self {
        Self {
            color,
            release: None,
            looked: since,
            flip: None,
            since,
        }
    }
}

/// What the newest view says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// It is the first one.
    First,
    /// What was live still is.
    Same,
    /// Another color, or another release of the same one.
    Switched {
        from: Color,
        undone: bool,
        /// The ledger has a flip that it did not have at the look before: whoever moved the color, it was recorded.
        flipped: bool,
    },
}

/// Follows what is live.
pub(super) fn follow(live: &mut Option<Live>, traffic: &Traffic, policy: &Policy, at: Timestamp) -> Change {
    let release = traffic.active_side().release.map(|release| release.id);
    let newest = traffic.ledger.last();
    let flip = Some(newest.map(|flip| flip.incident.clone()).unwrap_or_default());
    let Some(known) = live else {
        *live = Some(Live {
            color: traffic.active.clone(),
            release,
            looked: at,
            flip,
            since: began(traffic, policy, at),
        });
        return Change::First;
    };
    let moved = known.color != traffic.active;
    // A release that is not known at the moment, or only now becomes known, is no other release.
    let replaced = !moved && known.release.is_some() && release.is_some() && known.release != release;
    // A flip away from here that is new to us, and here we still are: somebody moved traffic back before we could look.
    let unseen = newest.filter(|flip| known.flip.as_ref().is_some_and(|known| *known != flip.incident));
    let unseen = unseen.filter(|flip| !moved && flip.from == traffic.active && flip.to != traffic.active);
    if !moved && !replaced && unseen.is_none() {
        known.release = release.or_else(|| known.release.take());
        known.looked = at;
        known.flip = flip;
        return Change::Same;
    }
    let flipped = known.flip != flip;
    let from = unseen.map_or(&known.color, |flip| &flip.to).clone();
    let moved = moved || unseen.is_some();
    let since = if moved { seen_at(traffic, known.looked, at) } else { at };
    *live = Some(Live {
        color: traffic.active.clone(),
        release,
        looked: at,
        flip,
        since,
    });
    Change::Switched {
        from,
        undone: moved && undone(traffic, policy, at).is_some(),
        flipped,
    }
}

/// Moves the start of the watch along with a stepped clock.
pub(super) fn shift(live: &mut Option<Live>, by: SignedDuration) {
    if let Some(live) = live {
        live.since = shifted(live.since, by);
        live.looked = shifted(live.looked, by);
    }
}

/// When what is live at the first look began, as far as the object tells: after a restart the watch goes on. Where another release came to
/// the color since its flip, nobody tells when; while the watch after the flip lasts, that of the release is not over either.
fn began(traffic: &Traffic, policy: &Policy, at: Timestamp) -> Timestamp {
    let flip = traffic.ledger.last().filter(|flip| flip.to == traffic.active);
    if flip.is_some_and(|flip| replaced(flip, traffic) && at < after(flip.at, policy.watch)) {
        return at;
    }
    let flipped = flip.map(|flip| flip.at);
    flipped.max(traffic.switched_at).unwrap_or(at).min(at)
}

/// Whether the color that a flip led to runs another release by now.
fn replaced(flip: &FlipRecord, traffic: &Traffic) -> bool {
    let runs = traffic.active_side().release;
    flip.to_release.as_ref().zip(runs).is_some_and(|(taken, runs)| *taken != runs.id)
}

/// When a switch that this look shows was made: as the object tells, if that lies between the looks.
fn seen_at(traffic: &Traffic, looked: Timestamp, at: Timestamp) -> Timestamp {
    let earliest = looked.saturating_sub(COARSE).unwrap_or(looked);
    traffic.switched_at.filter(|told| *told >= earliest && *told <= at).unwrap_or(at)
}

/// The rollback that was undone: traffic is back on what flipback took it from, and nobody has forgiven that release.
pub(super) fn undone<'a>(traffic: &'a Traffic, policy: &Policy, at: Timestamp) -> Option<&'a FlipRecord> {
    let release = traffic.active_side().release;
    traffic
        .ledger
        .last()
        .filter(|flip| flip.is_rollback() && flip.forgotten.is_none() && flip.from == traffic.active)
        .filter(|flip| gate::same(flip, &traffic.active, release.as_ref(), policy, at))
}

/// The color that a rollback restored, while its watch lasts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Restored {
    /// What had triggered the rollback.
    pub(super) trigger: String,
    pub(super) until: Timestamp,
    pub(super) found: Found,
}

/// What is known of the restored color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found {
    /// Nothing yet.
    Open,
    /// It is good.
    Good,
    /// It is bad too.
    Bad,
}

/// The restored color, if the active one is that, as the newest flip tells. A switch to that color which was made after the
/// flip is not in the ledger where a person or a pipeline made it: what it brought is judged like any release, and so is a release
/// that was put onto the restored color.
pub(super) fn restored(traffic: &Traffic, policy: &Policy, at: Timestamp) -> Option<Restored> {
    let flip = traffic
        .ledger
        .last()
        .filter(|flip| flip.is_rollback() && flip.to == traffic.active && !replaced(flip, traffic))?;
    let until = after(flip.at, policy.watch);
    (at < until).then(|| Restored {
        trigger: traffic.ledger.origin().unwrap_or(flip).trigger.clone(),
        until,
        found: Found::Open,
    })
}
