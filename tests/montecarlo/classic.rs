//! The script that flipback replaces, for comparison: `rate[1m]` of errors over all, N bad polls in a row.

use std::collections::{BTreeMap, VecDeque};

use super::{
    chance::Chance,
    scenario::QUIET,
    service::{Fleet, Setting, When},
};

const WINDOW: i64 = 60_000;

/// How the script looks.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Milliseconds between two looks.
    pub poll: i64,
    /// Bad looks in a row.
    pub consecutive: u32,
}

/// One pod's samples of the last minute: time, all, bad where that series existed.
type Window = VecDeque<(i64, f64, Option<f64>)>;

impl Script {
    /// Milliseconds from the fault's begin until the script rolls back; `None` when it never does.
    pub fn play(self, setting: Setting, seed: u64, lasts: i64) -> Option<i64> {
        let mut chance = Chance::new(seed);
        let fault_at = 2 * QUIET + chance.below(60_000);
        let mut setting = setting;
        setting.errors.when = setting.errors.when.later(fault_at);
        let mut fleet = Fleet::new("green", 3, -WINDOW, setting, &mut chance);
        let mut windows: BTreeMap<String, Window> = BTreeMap::new();
        let (mut streak, mut next) = (0, chance.below(self.poll));
        let (mut now, step) = (-WINDOW, 500);
        while now < fault_at + lasts {
            fleet.advance(now, &mut chance);
            for (pod, sampled, total, bad) in fleet.samples() {
                let window = windows.entry(pod.to_owned()).or_default();
                if window.back().is_none_or(|(last, ..)| *last < sampled) {
                    window.push_back((sampled, total, bad));
                }
            }
            if now >= next {
                next += self.poll;
                let breach = share(&mut windows, now).is_some_and(|share| share > 0.05);
                streak = if breach { streak + 1 } else { 0 };
                if streak >= self.consecutive {
                    return Some(now - fault_at);
                }
            }
            now += step;
        }
        None
    }
}

/// `sum(rate(bad[1m])) / sum(rate(all[1m]))`; extrapolation is the same above and below the line.
fn share(windows: &mut BTreeMap<String, Window>, now: i64) -> Option<f64> {
    let (mut all, mut bad) = (0.0, 0.0);
    for window in windows.values_mut() {
        window.retain(|(time, ..)| *time > now - WINDOW);
        if let (Some(first), Some(last)) = (window.front(), window.back()) {
            all += last.1 - first.1;
            // A series counts from its first sample: what it held then is invisible.
            let born = window.iter().find_map(|(_, _, bad)| *bad);
            bad += last.2.zip(born).map_or(0.0, |(last, first)| last - first);
        }
    }
    (all > 0.0).then(|| bad / all)
}

/// When the fault is, from its begin.
pub const BLIP: When = When::Once(0, 5000);
