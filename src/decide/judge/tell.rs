//! What is told beside the outcome: that an alert rule is confirmed, and that a reading comes near its threshold. Each
//! once, until it has clearly ended: a reading that dances on the line is not news every five seconds.

use jiff::Timestamp;

use crate::model::{Action, Note, RuleKind};

use super::{
    super::{bound::Share, explain, number::Limit, window::Window},
    Armed, Judge,
};

/// How far a reading must draw back from "near" before it can come near again.
const EASE: f64 = 0.1;

impl Judge {
    /// Tells, once each time, that an alert rule is confirmed and that a reading comes near its threshold.
    pub(in super::super) fn tell(&mut self, window: &Window, floor: Timestamp, notes: &mut Vec<Note>) {
        if self.rule.action == Action::Alert {
            let confirmed = self.confirmed(Armed::All);
            if let (Some(found), false) = (&confirmed, self.alerted) {
                notes.push(Note::Alert {
                    rule: self.rule.name.clone(),
                    why: found.why.clone(),
                });
            }
            self.alerted = confirmed.is_some();
        }
        if self.limits.numbers() {
            self.near_a_limit(notes);
        } else {
            self.degradation(window.since(floor), notes);
        }
    }

    fn degradation(&mut self, recent: Share, notes: &mut Vec<Note>) {
        let near = self.limits.degradation * self.limits.threshold;
        if self.limits.degradation >= 1.0 || matches!(self.rule.kind, RuleKind::Endpoints(_)) {
            return;
        }
        let enough = recent.bad >= self.limits.slow_bad && recent.total >= self.limits.min_requests;
        let leaves = !recent.reaches(near * (1.0 - EASE));
        if self.degraded && leaves {
            self.degraded = false;
        } else if !self.degraded && enough && recent.reaches(near) {
            self.degraded = true;
            // A streak tells of itself.
            if self.streak.count == 0 {
                let span = explain::span(self.limits.slow_window);
                let measured = explain::measured(&self.rule, recent);
                let threshold = explain::threshold(&self.rule, &self.limits);
                notes.push(Note::Degraded {
                    rule: self.rule.name.clone(),
                    why: format!("{measured} in the last {span}, near its threshold of {threshold}"),
                });
            }
        }
    }

    /// The same of a number: it is near the limit it is told with, or has clearly drawn back from it.
    fn near_a_limit(&mut self, notes: &mut Vec<Note>) {
        let Some(value) = self.fresh.take() else { return };
        let near = |bar: &Limit| bar.near(self.limits.degradation);
        let nears: Vec<(Limit, Limit)> = self
            .limits
            .absolute()
            .filter_map(|limit| near(&limit).map(|near| (limit, near)))
            .collect();
        if self.degraded {
            self.degraded = nears.iter().any(|(_, near)| near.eased(EASE).reached(value));
            return;
        }
        let Some((limit, _)) = nears.into_iter().find(|(_, near)| near.reached(value)) else {
            return;
        };
        self.degraded = true;
        // A streak tells of itself.
        if self.streak() == 0 {
            notes.push(Note::Degraded {
                rule: self.rule.name.clone(),
                why: explain::nearly(&self.rule, value, &limit),
            });
        }
    }
}
