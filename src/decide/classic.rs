//! Classic mode: the scripts' rule, for teams that want exactly it. A poll is bad when any rollback rule breaches; so
//! many bad polls in a row roll back, whichever rule made each of them bad.
//!
//! The streak is the guard's, not a rule's: here two error breaches and one latency breach are three. Its evidence
//! overlaps (each window is looked at several times), which is why the configuration asks that the polls span the window.
//! Probes and endpoints keep the judgement they have elsewhere, and so do rules that only alert and those that are
//! critical: none of them is a matter of windows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Note, Outcome, RuleName, RuleState};

use super::{bound::Share, clock::Clock, explain, judge::Judge, streak::Streak};

/// The guard's bad polls in a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Classic {
    streak: Streak,
    /// The rule that made the newest of them bad.
    by: Option<RuleName>,
}

impl Classic {
    /// Lets time pass: bad polls in a row expire like a rule's breaches.
    pub(super) fn age(&mut self, judges: &mut [Judge], clock: &Clock, notes: &mut Vec<Note>) {
        let Some(expire) = judges.iter().find(|judge| judge.limits.polled).map(|judge| judge.limits.expire) else {
            return;
        };
        if let Some(streak) = self.streak.expire(clock.age, expire) {
            judges.iter_mut().for_each(Judge::release_poll);
            self.show(judges);
            if let Some(rule) = self.by.take() {
                notes.push(Note::Expired { rule, streak });
            }
        }
    }

    /// Puts the outcomes of one look together; `rules` are the judges' states, in their order.
    pub(super) fn poll(&mut self, judges: &mut [Judge], rules: &mut [RuleState], at: Timestamp, clock: &Clock) {
        let polled = |(judge, _): &(&mut Judge, &mut RuleState)| judge.limits.polled;
        let any = |rules: &[RuleState], judges: &[Judge], test: fn(&Outcome) -> bool| {
            let mut pairs = judges.iter().zip(rules);
            pairs.any(|(judge, rule)| judge.limits.polled && test(&rule.outcome))
        };
        if any(rules, judges, |outcome| *outcome == Outcome::Breach) {
            self.streak.breach(at, Share::default(), clock.age);
            let since = self.streak.from().unwrap_or(at);
            for (judge, rule) in judges.iter_mut().zip(rules.iter_mut()).filter(polled) {
                match rule.outcome {
                    Outcome::Breach => {
                        self.by = Some(rule.rule.clone());
                        self.breached(judge, rule, since);
                    }
                    Outcome::Pass => judge.release_poll(),
                    _ => {}
                }
            }
        } else if any(rules, judges, |outcome| {
            matches!(outcome, Outcome::Inconclusive(_) | Outcome::Nothing)
        }) {
            // Held: what cannot be seen neither breaches nor passes, and a stale answer is none.
        } else if any(rules, judges, |outcome| *outcome == Outcome::Pass) {
            // A rule that still warms up has no part in the poll.
            self.end(judges);
        }
        self.show(judges);
        for (judge, rule) in judges.iter_mut().zip(rules).filter(polled) {
            rule.streak = judge.streak();
            if let Outcome::Inconclusive(why) = &rule.outcome {
                // Another rule may have made the poll a bad one since this was said.
                rule.why = explain::inconclusive(&judge.limits, why, rule.streak);
            }
        }
    }

    fn breached(&self, judge: &mut Judge, rule: &mut RuleState, since: Timestamp) {
        if let Some(said) = judge.counted_as_bad(self.streak.count) {
            if self.streak.count >= judge.limits.consecutive {
                judge.confirm_poll(since, &said);
            }
            rule.why = said;
        }
    }

    /// Another release is judged from now on.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    fn end(&mut self, judges: &mut [Judge]) {
        self.streak.end();
        self.by = None;
        judges.iter_mut().for_each(Judge::release_poll);
    }

    fn show(&self, judges: &mut [Judge]) {
        for judge in judges.iter_mut().filter(|judge| judge.limits.polled) {
            judge.polled(self.streak.count);
        }
    }
}
