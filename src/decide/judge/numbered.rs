//! One number, compared with its limits. Each newer one is a verdict: nothing collects, and nothing is pooled, for of a
//! number nobody knows how many requests it speaks for. So it takes breaches in a row, or one of a critical rule.

use jiff::Timestamp;

use crate::model::{Outcome, Path};

use super::{
    super::{
        bound::Share,
        clock::after,
        explain,
        number::{Compared, Limit, Number, compare},
    },
    Bench, Confirmed, Finding, Judge,
};

impl Judge {
    pub(super) fn numbered(&mut self, at: Timestamp, number: &Number, bench: &Bench<'_>) -> Finding {
        // A critical rule has no warm-up; what was sampled before the switch is not the release's in any case.
        if at < after(bench.switched, self.limits.warm_up) {
            return Finding::new(Outcome::Waiting, None, self.warming());
        }
        if let Some(requests) = number.requests.filter(|requests| *requests < self.limits.min_requests) {
            return self.unsettled(explain::few(requests, &self.limits));
        }
        self.fresh = Some(number.value);
        let both = self.limits.windows.is_some();
        let compared = compare(number, &self.limits.bars, &bench.others, both);
        self.settled(at, number, compared, bench)
    }

    fn settled(&mut self, at: Timestamp, number: &Number, compared: Compared, bench: &Bench<'_>) -> Finding {
        let Compared { crossed, nearest, unknown } = compared;
        match (crossed.first().copied(), unknown, nearest) {
            (Some(worst), _, _) => {
                self.crossed = crossed;
                self.beyond(at, number, worst, bench)
            }
            // What could be compared is within its limits; whether all of it is, nobody knows.
            (None, Some(why), _) => self.unsettled(why),
            (None, None, Some(nearest)) => {
                let said = explain::within(&self.rule, number, &nearest, &self.limits);
                self.measured(number, nearest);
                self.passed_number(said)
            }
            (None, None, None) => self.unsettled("the rule has no limit to compare with".into()),
        }
    }

    fn beyond(&mut self, at: Timestamp, number: &Number, worst: Limit, bench: &Bench<'_>) -> Finding {
        let beyond = explain::beyond(&self.rule, number, &worst, &self.limits);
        self.measured(number, worst);
        self.passes = 0;
        if self.limits.critical {
            self.streak.breach(at, Share::default(), bench.clock.age);
            let said = beyond + explain::ENOUGH;
            self.confirm(Path::Critical, at, &said);
            return self.told(Outcome::Breach, said);
        }
        if self.limits.polled {
            // How many bad polls of the guard this makes is said by whoever counts them.
            return self.told(Outcome::Breach, beyond);
        }
        self.streak.breach(at, Share::default(), bench.clock.age);
        let said = beyond + &explain::in_a_row(self.streak.count, "breach");
        if self.streak.count >= self.limits.consecutive {
            let since = self.streak.from().unwrap_or(at);
            self.confirm(Path::Fast, since, &said);
        }
        self.told(Outcome::Breach, said)
    }

    fn passed_number(&mut self, said: String) -> Finding {
        self.streak.end();
        // Classic mode: one rule's pass does not end what another one's breach goes on with.
        self.latched = self.latched.take().filter(|found| found.path == Path::Classic);
        self.passes = self.passes.saturating_add(1);
        self.told(Outcome::Pass, said)
    }

    fn unsettled(&self, why: String) -> Finding {
        let said = explain::inconclusive(&self.limits, &why, self.streak());
        Finding::new(Outcome::Inconclusive(why), None, said)
    }

    fn measured(&mut self, number: &Number, limit: Limit) {
        self.value = Some(number.value);
        self.told_with = Some(limit);
    }

    fn told(&mut self, outcome: Outcome, said: String) -> Finding {
        self.verdicts = self.verdicts.saturating_add(1);
        self.said = Some(said.clone());
        Finding::new(outcome, None, said)
    }

    // === classic mode ===

    /// The guard's bad polls in a row, of which this rule's breach is a part.
    pub(in super::super) fn polled(&mut self, polls: u32) {
        self.polls = polls;
    }

    /// Says how many bad polls in a row this rule's breach has made; gives the sentence.
    pub(in super::super) fn counted_as_bad(&mut self, polls: u32) -> Option<String> {
        let said = self.said.take()? + &explain::in_a_row(polls, "bad poll");
        self.said = Some(said.clone());
        Some(said)
    }

    /// Enough bad polls in a row, of which this one breached.
    pub(in super::super) fn confirm_poll(&mut self, since: Timestamp, why: &str) {
        self.confirm(Path::Classic, since, why);
    }

    /// The bad polls have ended, or go on for another rule's sake.
    pub(in super::super) fn release_poll(&mut self) {
        self.latched = self.latched.take().filter(|found: &Confirmed| found.path != Path::Classic);
    }
}
