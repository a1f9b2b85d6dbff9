//! Requests that were counted: collected into intervals, each used once, and pooled over a streak.

use jiff::Timestamp;

use crate::model::{Outcome, Path};

use super::{
    super::{bound::Share, clock::after, explain, interval::Closed, window::Piece},
    Bench, Finding, Judge,
};

impl Judge {
    pub(super) fn counted(&mut self, at: Timestamp, pieces: &[Piece], bench: &Bench<'_>) -> Finding {
        let armed_at = after(bench.switched, self.limits.warm_up);
        let late: Vec<Piece> = pieces.iter().filter(|piece| piece.from >= armed_at).copied().collect();
        let early: Vec<Piece> = pieces.iter().filter(|piece| piece.from >= bench.switched).copied().collect();
        let (evidence, warming) = if late.is_empty() { (early, true) } else { (late, false) };
        if evidence.is_empty() {
            return Finding::new(Outcome::Waiting, self.open(), "counted before the switch was seen: dropped".into());
        }
        match self.interval.add(&evidence, warming, &self.limits) {
            None => {
                let open = self.interval.share;
                let said = if warming {
                    self.warming()
                } else {
                    explain::waiting(&self.limits, open)
                };
                Finding::new(Outcome::Waiting, Some(open), said)
            }
            Some(closed) => self.closed(at, closed, bench),
        }
    }

    fn closed(&mut self, at: Timestamp, closed: Closed, bench: &Bench<'_>) -> Finding {
        if closed.share.total <= 0.0 {
            let why = format!("no requests for {}", explain::span(self.limits.stretch));
            let said = explain::inconclusive(&self.limits, &why, self.streak.count);
            return Finding::new(Outcome::Inconclusive(why), Some(closed.share), said);
        }
        let severe = self.streak.weigh(&closed, &self.limits, bench.clock.age);
        if closed.early {
            return self.closed_early(closed, severe);
        }
        if !closed.share.over(self.limits.threshold) {
            let said = explain::pass(&self.rule, &self.limits, closed.share);
            return self.passed(closed.share, said);
        }
        self.streak.breach(closed.from, closed.share, bench.clock.age);
        self.streak.lasts(&closed, &self.limits);
        let pooled = self.streak.pooled(&self.limits);
        let sure = pooled.is_some_and(|pooled| pooled.sure);
        let mut said = explain::breach(&self.rule, &self.limits, closed.share, self.streak.count, sure);
        let lasted = self.streak.count >= self.limits.consecutive && self.streak.lasted(&self.limits);
        let ripe = pooled.filter(|pooled| pooled.sure && lasted);
        let dissent = self.dissent(at, bench);
        if ripe.is_some() {
            said += &match dissent {
                None => explain::agreed(&self.limits),
                Some((span, share)) => explain::dissent(&self.rule, span, share),
            };
        }
        if self.limits.critical {
            self.confirm(Path::Critical, closed.from, &said);
        }
        self.confirm_severe(closed.share);
        if let Some(pooled) = ripe.filter(|_| dissent.is_none()) {
            self.confirm(Path::Fast, pooled.from, &said);
        }
        self.breached(closed.share, said)
    }

    /// In the warm-up a breach is no breach, except a severe one.
    fn closed_early(&mut self, closed: Closed, severe: bool) -> Finding {
        if severe {
            let said = explain::severe(&self.rule, &self.limits, closed.share, self.streak.severe);
            self.confirm_severe(closed.share);
            return self.breached(closed.share, said);
        }
        if self.streak.count == 0 {
            self.latched = None;
        }
        Finding::new(Outcome::Waiting, Some(closed.share), self.warming())
    }

    fn confirm_severe(&mut self, share: Share) {
        if self.streak.severe < 2 {
            return;
        }
        if let Some(from) = self.streak.severe_from() {
            let said = explain::severe(&self.rule, &self.limits, share, self.streak.severe);
            self.confirm(Path::Severe, from, &said);
        }
    }
}
