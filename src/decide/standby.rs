//! Whether the standby could take over, and how long a standby that is being scaled up is waited for.
//!
//! Four things are asked of it, in this order: that it is in sight, that it has Ready endpoints enough, that its Deployment is
//! available, and that it answers the guard's own probes. What is not known is not held against it. A Deployment that is not
//! named, or not found, may be run by something else, and its Ready pods serve all the same. A standby that was not probed (no
//! probe rule, a probe that was cut short, no answer for a while) is as ready as Kubernetes says: a rollback that waits for a
//! measurement waits for ever when the network between us and the pods is what is broken. Probes of rules that only alert decide
//! nothing here either, and a probe counts only if it was made while the standby had Ready endpoints: one that is still
//! starting fails its probes by design.
//!
//! Where the guard may scale its standby up, want of capacity is first an intention: the refusal says that it is being scaled
//! up, by whom the conductor is told to do it, until a deadline; after it the plain refusal is loud. Nothing is given up at
//! either: the moment the standby can take over it does. The wait is begun by what is seen, a Deployment with fewer replicas than
//! wanted. After a restart the Deployment has its replicas, and says nothing of who gave them to it when (an API server forgets the
//! field manager of a scale); so the engine is told what the last incident says, and goes on waiting for as long as was promised.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{Action, Color, GuardSpec, Policy, Refusal, RuleKind, Side, Traffic};

use super::{
    clock::{after, shifted},
    judge::Judge,
    meter::Meter,
};

/// A probe of the standby is remembered so long, or three polls where that is more: rounds that our own deadline cut short in
/// between change nothing.
const PROBE_KEEPS: Duration = Duration::from_secs(30);

/// What the engine remembers of the standby.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Standby {
    /// Which color this is about.
    color: Option<Color>,
    /// Since when it has had Ready endpoints.
    ready_since: Option<Timestamp>,
    /// Since when it has been waited for, where it was scaled down.
    raised_since: Option<Timestamp>,
    /// Which color an earlier run waited for, and since when.
    #[serde(default)]
    earlier: Option<(Color, Timestamp)>,
}

/// What a probe rule last measured on a color.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Probed {
    pub(super) at: Timestamp,
    /// Whether its threshold was crossed.
    pub(super) failing: bool,
    /// A sentence.
    pub(super) why: String,
}

/// How many Ready endpoints a color needs to take over: at least one, and the policy's share of the active's.
pub(super) fn needed(traffic: &Traffic, policy: &Policy) -> u32 {
    let active = f64::from(traffic.active_side().ready);
    // Saturating by definition of `as`; a share that is no number asks for the one endpoint that is always asked for.
    ((policy.standby_share * active - 1e-9).ceil() as u32).max(1)
}

/// Whether a color could take over, by its endpoints alone. What was counted before the watch of endpoints was lost is no count:
/// they may all be gone since.
pub(super) fn cannot_serve(traffic: &Traffic, to: &Color, policy: &Policy) -> Option<Refusal> {
    let needed = needed(traffic, policy);
    let serves = *to != traffic.active;
    if traffic.sides.get(to).is_some_and(|side| serves && side.unwatched) {
        return Some(Refusal::StandbyUnseen);
    }
    let ready = traffic.sides.get(to).filter(|_| serves).map_or(0, |side| side.ready);
    (ready < needed).then_some(Refusal::StandbyNotReady { ready, needed })
}

/// How many replicas a color is to be scaled up to before it can take over; `None`: it has as many already, or the guard does
/// not scale, or nobody knows how many it has. An autoscaler's bounds are the router's to know.
#[must_use]
pub fn scale_target(spec: &GuardSpec, traffic: &Traffic, to: &Color) -> Option<u32> {
    let wanted = spec.scale_up.as_ref()?.replicas.max(needed(traffic, &spec.policy));
    let desired = traffic.sides.get(to)?.desired?;
    (*to != traffic.active && desired < wanted).then_some(wanted)
}

impl Standby {
    /// Follows what is seen.
    pub(super) fn follow(&mut self, traffic: &Traffic, at: Timestamp) {
        if self.color.as_ref() != Some(&traffic.standby) {
            *self = Self {
                color: Some(traffic.standby.clone()),
                earlier: self.earlier.take(),
                ..Self::default()
            };
        }
        let ready = traffic
            .sides
            .get(&traffic.standby)
            .is_some_and(|side| side.ready > 0 && !side.unwatched);
        self.ready_since = ready.then(|| self.ready_since.unwrap_or(at));
    }

    /// After a clock step anchors move along, and probes are to be made anew.
    pub(super) fn rebase(&mut self, by: SignedDuration) {
        self.ready_since = None;
        self.raised_since = self.raised_since.map(|since| shifted(since, by));
        self.earlier = self.earlier.take().map(|(color, since)| (color, shifted(since, by)));
    }

    /// Takes what an earlier run waited for.
    pub(super) fn tell(&mut self, color: Color, since: Timestamp) {
        self.earlier = Some((color, since));
    }

    /// Nobody wants the standby any more: what was waited for is forgotten.
    pub(super) fn rest(&mut self) {
        self.raised_since = None;
    }

    /// What stands against moving traffic to the standby now.
    pub(super) fn refusal<'a>(
        &self,
        spec: &GuardSpec,
        traffic: &Traffic,
        at: Timestamp,
        probes: impl Iterator<Item = (&'a Judge, Option<&'a Meter>)>,
    ) -> Option<Refusal> {
        if let Some(refusal) = cannot_serve(traffic, &traffic.standby, &spec.policy) {
            return Some(refusal);
        }
        let side = traffic.sides.get(&traffic.standby)?;
        if let Some(why) = &side.unavailable {
            return Some(Refusal::StandbyUnavailable { why: why.clone() });
        }
        self.probes(spec, side, traffic, at, probes)
    }

    /// What the guard's own probes say of the standby.
    fn probes<'a>(
        &self,
        spec: &GuardSpec,
        side: &Side,
        traffic: &Traffic,
        at: Timestamp,
        probes: impl Iterator<Item = (&'a Judge, Option<&'a Meter>)>,
    ) -> Option<Refusal> {
        let keeps = PROBE_KEEPS.max(spec.policy.poll.saturating_mul(3));
        let counts = |probed: &&Probed| self.ready_since.is_some_and(|since| probed.at >= since) && at < after(probed.at, keeps);
        let mut unasked = false;
        for (judge, meter) in probes {
            if !matches!(judge.rule.kind, RuleKind::Probe(_)) || judge.rule.action != Action::Rollback {
                continue;
            }
            match meter.and_then(|meter| meter.probed.as_ref()).filter(counts) {
                Some(probed) if probed.failing => return Some(Refusal::StandbyProbes { why: probed.why.clone() }),
                Some(_) => {}
                None => unasked = true,
            }
        }
        // Who has just been started is asked once before users are sent there.
        let until = self.until(spec).filter(|until| unasked && at < *until)?;
        Some(Refusal::StandbyScaling {
            ready: side.ready,
            needed: needed(traffic, &spec.policy),
            until,
        })
    }

    /// What is said of a confirmed rollback that only the standby stands against: that it is being scaled up, where it is, and
    /// for as long as it is waited for.
    pub(super) fn raised(&mut self, spec: &GuardSpec, traffic: &Traffic, at: Timestamp, refusal: Refusal) -> Refusal {
        let Some(scale_up) = &spec.scale_up else { return refusal };
        let side = traffic.standby_side();
        let scaled_down = scale_target(spec, traffic, &traffic.standby).is_some();
        match &refusal {
            Refusal::StandbyNotReady { .. } if scaled_down => {
                self.raised_since.get_or_insert(at);
            }
            Refusal::StandbyNotReady { .. } | Refusal::StandbyUnavailable { .. } => {
                let earlier = self.earlier.take().filter(|(color, _)| *color == traffic.standby);
                let earlier = earlier
                    .map(|(_, since)| since.min(at))
                    .filter(|since| at < after(*since, scale_up.deadline));
                self.raised_since = self.raised_since.or(earlier);
            }
            _ => return refusal,
        }
        match self.until(spec).filter(|until| at < *until) {
            Some(until) => Refusal::StandbyScaling {
                ready: side.ready,
                needed: needed(traffic, &spec.policy),
                until,
            },
            None => refusal,
        }
    }

    fn until(&self, spec: &GuardSpec) -> Option<Timestamp> {
        Some(after(self.raised_since?, spec.scale_up.as_ref()?.deadline))
    }
}
