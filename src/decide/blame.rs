//! Whether the release is to blame. A fault that was there before the switch, or that the standby color shows as well,
//! is not mended by switching back; flipping then only adds a disturbance to an outage.

use std::collections::BTreeMap;

use crate::model::{RuleKind, RuleName};

use super::{
    bound::Share,
    judge::{Confirmed, Judge},
    limits::Limits,
    window::Window,
};

/// A standby this much as bad as the active color is "just as bad". Below it, switching back at least halves the harm:
/// a total outage is left even for a color that is a little over its threshold.
const JUST_AS_BAD: f64 = 0.5;

/// What each rule measured on the color that was active before the switch, in the minutes before it.
pub(super) type Before = BTreeMap<RuleName, Share>;

/// Whether the previous color was surely over the threshold before the switch.
pub(super) fn bad_before(judge: &Judge, before: &Before) -> bool {
    before.get(&judge.rule.name).is_some_and(|share| surely_over(*share, &judge.limits))
}

/// Whether the standby color is just as bad, over the time in which the active one was found to be bad.
pub(super) fn standby_bad(judge: &Judge, found: &Confirmed, active: &Window, standby: &Window) -> bool {
    let share = standby.since(found.since);
    let bad = match judge.rule.kind {
        // Few probes are no sample of many requests, they are all there is to know: judged as the active color's are.
        RuleKind::Probe(_) => share.over(judge.limits.threshold),
        _ => surely_over(share, &judge.limits),
    };
    let theirs = share.value().unwrap_or(0.0);
    let ours = active.since(found.since).value().unwrap_or(0.0);
    bad && theirs >= JUST_AS_BAD * ours
}

fn surely_over(share: Share, limits: &Limits) -> bool {
    limits.sureness.lower(share) > limits.threshold
}
