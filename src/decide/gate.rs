//! Whether a flip may be made, as far as people, earlier flips and releases go; whether the standby could take over is asked in
//! [`standby`](super::standby). The health of the color being left is never asked about: a color that is half dead, or gone with
//! its Deployment, is a reason to leave it, not a reason to stay.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{Color, FlipRecord, Held, Ledger, Policy, Refusal, Release, Traffic};

use super::clock::{after, before};

/// The span over which flips are counted before a guard disarms itself.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When the cooldown of the ledger's flips ends; `None` if no flip of it has one. A person's switch starts none: it is
/// a release like any other, and the minutes after it are what the watch is for.
#[must_use]
pub fn cooldown_until(ledger: &Ledger, policy: &Policy) -> Option<Timestamp> {
    let newest = ledger
        .flips
        .iter()
        .filter(|flip| flip.automatic || flip.bad)
        .map(|flip| flip.at)
        .max()?;
    Some(after(newest, policy.cooldown))
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
        .or_else(|| standby_known_bad(traffic, policy, at))
        .or_else(|| hold.cloned().map(Refusal::Held))
        .or_else(|| cooldown.filter(|until| at < *until).map(|until| Refusal::Cooldown { until }))
}

fn paused(traffic: &Traffic, at: Timestamp) -> Option<Refusal> {
    traffic.paused_at(at).map(|pause| Refusal::Paused { by: pause.by.clone() })
}

/// The disarming, once it has come to that.
pub(super) fn disarmed(ledger: &Ledger, policy: &Policy, at: Timestamp) -> Option<Refusal> {
    let since = before(at, DAY);
    let flips = ledger.flips.iter().filter(|flip| flip.automatic && flip.at > since).count();
    let flips = u32::try_from(flips).unwrap_or(u32::MAX);
    (flips >= policy.flips_per_day).then_some(Refusal::Disarmed { flips })
}

fn already_flipped(traffic: &Traffic, policy: &Policy, at: Timestamp) -> Option<Refusal> {
    let release = traffic.active_side().release;
    let flips = traffic.ledger.flips.iter().filter(|flip| flip.automatic);
    left(flips, &traffic.active, release.as_ref(), policy, at).map(|release| Refusal::AlreadyFlipped { release })
}

fn standby_known_bad(traffic: &Traffic, policy: &Policy, at: Timestamp) -> Option<Refusal> {
    let release = traffic.standby_side().release;
    let flips = traffic.ledger.flips.iter().filter(|flip| flip.bad);
    left(flips, &traffic.standby, release.as_ref(), policy, at).map(|release| Refusal::StandbyKnownBad { release })
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
