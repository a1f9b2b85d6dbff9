//! What was asked of the endpoints themselves: whether they answer a probe, and whether there is one.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{Outcome, Path, RuleKind};

use super::{
    super::{bound::Share, clock::after, explain},
    Bench, Finding, Judge,
};

impl Judge {
    pub(super) fn probed(&mut self, at: Timestamp, share: Share, detail: Option<&str>, bench: &Bench<'_>) -> Finding {
        if at < after(bench.switched, self.limits.warm_up) {
            return Finding::new(Outcome::Waiting, Some(share), self.warming());
        }
        if !share.over(self.limits.threshold) {
            let said = explain::pass(&self.rule, &self.limits, share);
            return self.passed(share, said);
        }
        self.streak.breach(at, share, bench.clock.age);
        let mut said = explain::breach(&self.rule, &self.limits, share, self.streak.count, true);
        if let Some(detail) = detail {
            said += &format!(": {detail}");
        }
        if self.limits.critical {
            self.confirm(Path::Critical, at, &said);
        } else if self.streak.count >= self.limits.consecutive {
            match self.dissent(at, bench) {
                None => {
                    said += &explain::agreed(&self.limits);
                    self.confirm(Path::Probe, at, &said);
                }
                Some((span, share)) => said += &explain::dissent(&self.rule, span, share),
            }
        }
        self.breached(share, said)
    }

    pub(super) fn ready(&mut self, at: Timestamp, ready: u32, bench: &Bench<'_>) -> Finding {
        let share = Share {
            bad: 0.0,
            total: f64::from(ready),
        };
        let needed = match &self.rule.kind {
            RuleKind::Endpoints(endpoints) => endpoints.down_for,
            _ => Duration::ZERO,
        };
        // No warm-up silences this, but what was so before the switch is not the release's.
        if at < bench.switched {
            return Finding::new(Outcome::Waiting, Some(share), "counted before the switch: dropped".into());
        }
        if ready > 0 {
            self.down = None;
            let said = explain::measured(&self.rule, share);
            return self.passed(share, said);
        }
        let since = *self.down.get_or_insert(bench.clock.sure);
        let held = bench.clock.sure.saturating_sub(since);
        self.streak.breach(at, share, bench.clock.age);
        let said = explain::down(held, needed);
        if held >= needed && self.streak.count >= 2 {
            self.confirm(Path::Endpoints, at, &said);
        }
        self.breached(share, said)
    }
}
