//! Whether a flip may be made, as far as people, earlier flips and releases go; whether the standby could take over is asked in
//! [`standby`](super::standby). The health of the color being left is never asked about: a color that is half dead, or gone with
//! its Deployment, is a reason to leave it, not a reason to stay.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{BadRelease, Color, FlipHistory, FlipRecord, GuardSpec, Held, Ledger, Policy, Refusal, Release, Side, Traffic};

use super::clock::{after, before};

/// The span over which flips are counted before a guard disarms itself.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When the cooldown of the ledger's flips ends; `None` if no flip of it has one. A person's switch starts none: it is
/// a release like any other, and the minutes after it are what the watch is for.
#[must_use]
pub fn cooldown_until(ledger: &Ledger, policy: &Policy) -> Option<Timestamp> {
    let newest = ledger
        .flips
        .iter()
        .filter(|flip| flip.is_rollback() && flip.discounted.is_none())
        .map(|flip| flip.at)
        .max()?;
    Some(after(newest, policy.cooldown))
}

/// What the ledger comes to at an instant: what is held against the guard and its releases, and for how long.
#[must_use]
pub fn flip_history(spec: &GuardSpec, traffic: Option<&Traffic>, at: Timestamp) -> FlipHistory {
    let nothing = Ledger::default();
    let ledger = traffic.map_or(&nothing, |traffic| &traffic.ledger);
    let policy = &spec.policy;
    let flips_today = flips_today(ledger, at);
    let running = |release: &str| {
        let sides = traffic.into_iter().flat_map(|traffic| &traffic.sides);
        let runs = |side: &Side| side.release.as_ref().is_some_and(|known| known.id == release);
        sides.filter(|(_, side)| runs(side)).map(|(color, _)| color.clone()).collect()
    };
    let mut bad: Vec<BadRelease> = ledger
        .marked()
        .into_iter()
        .map(|(release, flip)| BadRelease {
            release: release.to_owned(),
            images: flip.from_images.clone(),
            since: flip.at,
            incident: flip.incident.clone(),
            colors: running(release),
        })
        .collect();
    bad.sort_by_key(|bad| std::cmp::Reverse(bad.since));
    FlipHistory {
        guard: spec.id.clone(),
        object: spec.route.object(),
        at,
        version: ledger.version,
        flips: ledger.flips.iter().rev().cloned().collect(),
        unread: u32::try_from(ledger.unread.len()).unwrap_or(u32::MAX),
        bad,
        cooldown_until: cooldown_until(ledger, policy).filter(|until| *until > at),
        flips_today,
        flips_per_day: policy.flips_per_day,
        flips_left: policy.flips_per_day.saturating_sub(flips_today),
        disarmed: disarmed(ledger, policy, at).is_some(),
        owner: traffic.and_then(|traffic| traffic.owner.as_ref()).map(ToString::to_string),
    }
}

/// What, if anything, stands against an automatic flip from the active to the standby color, but for the standby's own state,
/// which comes after all of this: what only a person can change comes first, what heals by itself last.
pub(super) fn refusal(
    traffic: &Traffic,
    policy: &Policy,
    at: Timestamp,
    cooldown: Option<Timestamp>,
    hold: Option<&Held>,
) -> Option<Refusal> {
    paused(traffic, at)
        .or_else(|| disarmed(&traffic.ledger, policy, at))
        .or_else(|| already_flipped(traffic, policy, at))
        .or_else(|| known_bad(traffic, &traffic.standby, policy, at))
        .or_else(|| hold.cloned().map(Refusal::Held))
        .or_else(|| cooldown.filter(|until| at < *until).map(|until| Refusal::Cooldown { until }))
}

/// What, if anything, stands against making a rollback to `to` again after somebody undid it. It is the same rollback, so neither its
/// own cooldown nor its own mark stands in the way; everything else does.
pub(super) fn refusal_again(traffic: &Traffic, to: &Color, policy: &Policy, at: Timestamp, hold: Option<&Held>) -> Option<Refusal> {
    paused(traffic, at)
        .or_else(|| disarmed(&traffic.ledger, policy, at))
        .or_else(|| known_bad(traffic, to, policy, at))
        .or_else(|| hold.cloned().map(Refusal::Held))
}

fn paused(traffic: &Traffic, at: Timestamp) -> Option<Refusal> {
    traffic.paused_at(at).map(|pause| Refusal::Paused { by: pause.by.clone() })
}

/// The disarming, once it has come to that.
pub(super) fn disarmed(ledger: &Ledger, policy: &Policy, at: Timestamp) -> Option<Refusal> {
    let flips = flips_today(ledger, at);
    (flips >= policy.flips_per_day).then_some(Refusal::Disarmed { flips })
}

/// Automatic flips of the last day that nobody discounted. A rollback that is made again is a flip like any other.
fn flips_today(ledger: &Ledger, at: Timestamp) -> u32 {
    let since = before(at, DAY);
    let flips = ledger.flips.iter().filter(|flip| flip.counts() && flip.at > since).count();
    u32::try_from(flips).unwrap_or(u32::MAX)
}

fn already_flipped(traffic: &Traffic, policy: &Policy, at: Timestamp) -> Option<Refusal> {
    let release = traffic.active_side().release;
    let flips = traffic
        .ledger
        .flips
        .iter()
        .filter(|flip| flip.automatic && flip.forgotten.is_none());
    left(flips, &traffic.active, release.as_ref(), policy, at).map(|release| Refusal::AlreadyFlipped { release })
}

/// Whether `to` runs what was rolled back from.
pub(super) fn known_bad(traffic: &Traffic, to: &Color, policy: &Policy, at: Timestamp) -> Option<Refusal> {
    let release = traffic.sides.get(to).and_then(|side| side.release.as_ref());
    let flips = traffic.ledger.flips.iter().filter(|flip| flip.marks());
    left(flips, to, release, policy, at).map(|release| Refusal::StandbyKnownBad { release })
}

/// The release, if one of the flips left it. Where releases cannot be told apart, a color is taken for the same release
/// for as long as the watch after that flip lasts.
fn left<'a>(
    mut flips: impl Iterator<Item = &'a FlipRecord>,
    color: &Color,
    release: Option<&Release>,
    policy: &Policy,
    at: Timestamp,
) -> Option<String> {
    let flip = flips.find(|flip| same(flip, color, release, policy, at))?;
    let id = release.map(|release| release.id.clone()).or_else(|| flip.from_release.clone());
    Some(id.unwrap_or_else(|| format!("of {color}")))
}

/// Whether what runs on `color` is what `flip` left.
pub(super) fn same(flip: &FlipRecord, color: &Color, release: Option<&Release>, policy: &Policy, at: Timestamp) -> bool {
    match (release, &flip.from_release) {
        (Some(release), Some(left)) => release.id == *left,
        _ => flip.from == *color && at < after(flip.at, policy.watch),
    }
}
