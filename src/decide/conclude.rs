//! The decision: of all confirmed rules the one that moves traffic, if any may, and the guard's state in a word and a
//! sentence.

use jiff::Timestamp;

use crate::model::{
    Action, AfterWatch, Case, Color, Decision, Note, Outcome, Phase, Refusal, Release, Suppression, Traffic, Trigger, Verdict,
};

use super::{
    Engine, blame, gate,
    judge::{Armed, Confirmed, Judge},
    standby,
    switch::Found,
};

/// What stands between a confirmed breach and a flip.
enum Answer {
    /// Nothing.
    Go,
    /// The evidence is held, not fresh: wait for a look that shows something.
    Held,
    /// It is not the release's fault.
    Not(Suppression),
    /// It may not be flipped.
    No(Refusal),
}

impl Answer {
    /// The worst that can be said of several rules is what is said: a flip before a refusal before a suppression.
    fn rank(&self) -> u8 {
        match self {
            Self::Go => 3,
            Self::No(_) => 2,
            Self::Not(_) => 1,
            Self::Held => 0,
        }
    }
}

impl Engine {
    /// Puts everything together.
    pub(super) fn conclude(&mut self, traffic: &Traffic, at: Timestamp, mut notes: Vec<Note>) -> Decision {
        let answer = self.answer(traffic, at);
        self.judge_restored(answer.as_ref(), &mut notes);
        let (verdict, why) = self.again(traffic, at).unwrap_or_else(|| self.verdict(traffic, at, answer));
        let phase = self.phase(&verdict, traffic, at);
        let why = why.unwrap_or_else(|| self.quiet(phase, traffic));
        Decision {
            verdict,
            rules: self.rules.clone(),
            notes,
            phase,
            why,
        }
    }

    /// The case for a flip to `to`.
    pub(super) fn case(&self, traffic: &Traffic, to: &Color, at: Timestamp, trigger: Trigger, why: String) -> Case {
        let side = |color: &Color| traffic.sides.get(color).cloned().unwrap_or_default();
        let (from, into) = (side(&traffic.active), side(to));
        Case {
            guard: self.spec.id.clone(),
            at,
            from: traffic.active.clone(),
            to: to.clone(),
            from_release: from.release,
            to_release: into.release,
            trigger,
            why,
            rules: self.rules.clone(),
            from_ready: from.ready,
            to_ready: into.ready,
            config_hash: self.spec.config_hash.clone(),
        }
    }

    /// Asks every confirmed rule, and keeps the weightiest answer; of equals, the first rule's.
    fn answer(&mut self, traffic: &Traffic, at: Timestamp) -> Option<(Confirmed, Trigger, Answer)> {
        let armed = self.armed(at);
        let refusal = self.refusal(traffic, at);
        let mut chosen: Option<(Confirmed, Trigger, Answer)> = None;
        for index in 0..self.judges.len() {
            let judge = &self.judges[index];
            let Some(found) = judge.confirmed(armed).filter(|_| judge.rule.action == Action::Rollback) else {
                continue;
            };
            let usable = self.usable(index);
            let answer = match (self.suppression(judge, &found, traffic, at), &refusal) {
                (Some(suppression), _) => Answer::Not(suppression),
                (None, Some(refusal)) => Answer::No(refusal.clone()),
                (None, None) if usable || judge.firing => Answer::Go,
                (None, None) => Answer::Held,
            };
            let trigger = Trigger::Rule {
                rule: judge.rule.name.clone(),
                path: found.path,
            };
            self.judges[index].firing = matches!(answer, Answer::Go);
            if chosen.as_ref().is_none_or(|(_, _, best)| answer.rank() > best.rank()) {
                chosen = Some((found, trigger, answer));
            }
        }
        match &mut chosen {
            Some((_, _, Answer::No(refusal))) => *refusal = self.standby.raised(&self.spec, traffic, at, refusal.clone()),
            Some(_) => {}
            None => self.standby.rest(),
        }
        chosen
    }

    /// What stands against an automatic flip to the standby color.
    fn refusal(&self, traffic: &Traffic, at: Timestamp) -> Option<Refusal> {
        gate::refusal(traffic, &self.spec.policy, at, self.cooldown, self.hold.as_ref())
            .or_else(|| self.cannot_take_over(traffic, &traffic.standby, at))
    }

    /// What stands against moving traffic to a color, of the color's own state. Of one that is not the standby only its endpoints are
    /// known.
    fn cannot_take_over(&self, traffic: &Traffic, to: &Color, at: Timestamp) -> Option<Refusal> {
        if *to != traffic.standby {
            return standby::cannot_serve(traffic, to, &self.spec.policy);
        }
        let of_standby = self.meters.get(&traffic.standby);
        let meter = |judge: &Judge| of_standby.and_then(|rules| rules.get(&judge.rule.name));
        let probes = self.judges.iter().map(|judge| (judge, meter(judge)));
        self.standby.refusal(&self.spec, traffic, at, probes)
    }

    /// Whether this look showed the rule something, or at least nothing that is wrong.
    fn usable(&self, index: usize) -> bool {
        let concluded = self
            .rules
            .get(index)
            .is_some_and(|rule| !matches!(rule.outcome, Outcome::Inconclusive(_)));
        concluded && self.sights.get(index).is_some_and(|sight| !sight.is_dark())
    }

    /// Which paths are armed at this time.
    fn armed(&self, at: Timestamp) -> Armed {
        if self.watching(at) || self.spec.policy.after_watch != AfterWatch::Slow {
            Armed::All
        } else {
            Armed::Slow
        }
    }

    fn watching(&self, at: Timestamp) -> bool {
        self.watch_until().is_some_and(|until| at < until)
    }

    fn suppression(&self, judge: &Judge, found: &Confirmed, traffic: &Traffic, at: Timestamp) -> Option<Suppression> {
        if self.restored.is_some() {
            return Some(Suppression::ReportOnly);
        }
        if !self.watching(at) && self.spec.policy.after_watch == AfterWatch::Alert {
            return Some(Suppression::AfterWatch);
        }
        let meter = |color: &Color| self.meters.get(color).and_then(|rules| rules.get(&judge.rule.name));
        let active = meter(&traffic.active)?;
        let said = active.shown.and_then(|number| number.before).filter(|_| self.watching(at));
        if blame::bad_before(judge, &self.before, said) {
            return Some(Suppression::BadBefore);
        }
        let bad = |color: &Color| blame::just_as_bad(judge, found, active, meter(color)?);
        match bad(&traffic.standby).filter(|_| traffic.active != traffic.standby) {
            Some(bad) => bad.then_some(Suppression::StandbyBad),
            None => {
                // Nothing was measured on the standby; the other colors may tell whether it is the whole fleet.
                let others = self
                    .meters
                    .keys()
                    .filter(|color| **color != traffic.active && **color != traffic.standby);
                let told: Vec<bool> = others.filter_map(bad).collect();
                (!told.is_empty() && told.iter().all(|bad| *bad)).then_some(Suppression::FleetBad)
            }
        }
    }

    /// The restored color in report-only mode: told when it is good, told when it is bad too, never flipped.
    fn judge_restored(&mut self, answer: Option<&(Confirmed, Trigger, Answer)>, notes: &mut Vec<Note>) {
        let good = self.good();
        let Some(restored) = &mut self.restored else { return };
        if let Some((found, _, Answer::Not(Suppression::ReportOnly))) = answer {
            if restored.found != Found::Bad {
                restored.found = Found::Bad;
                notes.push(Note::DidNotHelp { why: found.why.clone() });
            }
        } else if good && restored.found != Found::Good {
            restored.found = Found::Good;
            notes.push(Note::Recovered);
        }
    }

    /// Whether the rule that triggered the rollback (any rule, where it was a person) has passed often enough, and no
    /// rule is in a streak.
    fn good(&self) -> bool {
        let Some(restored) = &self.restored else { return false };
        let often = |judge: &Judge| judge.passes >= self.spec.policy.consecutive.max(1);
        let trigger = self.judges.iter().find(|judge| judge.rule.name.as_str() == restored.trigger);
        let passed = trigger.map_or_else(|| self.judges.iter().any(often), often);
        passed && self.judges.iter().all(|judge| judge.streak() == 0)
    }

    /// A rollback that somebody undid, where it is time to make it again.
    fn again(&self, traffic: &Traffic, at: Timestamp) -> Option<(Verdict, Option<String>)> {
        let policy = &self.spec.policy;
        let undone = self.undone(traffic, at)?;
        let (attempt, of) = undone.due(policy, at)?;
        let to = &undone.flip.to;
        let why = undone.why(traffic.ledger.origin().unwrap_or(undone.flip));
        let trigger = Trigger::Reassert {
            by: undone.by.unwrap_or_default().to_owned(),
            attempt,
            of,
        };
        let case = Box::new(self.case(traffic, to, at, trigger, why.clone()));
        let refusal = gate::refusal_again(traffic, to, policy, at, self.hold.as_ref());
        Some(match refusal.or_else(|| self.cannot_take_over(traffic, to, at)) {
            None => (Verdict::Rollback(case), Some(why)),
            Some(refusal) => {
                let why = format!("{why}; not made again: {refusal}");
                (Verdict::Blocked(case, refusal), Some(why))
            }
        })
    }

    fn verdict(&self, traffic: &Traffic, at: Timestamp, answer: Option<(Confirmed, Trigger, Answer)>) -> (Verdict, Option<String>) {
        let Some((found, trigger, answer)) = answer else {
            return (Verdict::Hold, None);
        };
        let why = found.why;
        let case = Box::new(self.case(traffic, &traffic.standby, at, trigger, why.clone()));
        match answer {
            Answer::Go => (Verdict::Rollback(case), Some(why)),
            Answer::Held => (Verdict::Hold, Some(format!("{why}; not flipped before there is usable data again"))),
            Answer::Not(suppression) => {
                let why = format!("{why}; not flipped: {suppression}");
                (Verdict::Suppressed(case, suppression), Some(why))
            }
            Answer::No(refusal) => {
                let why = format!("{why}; not flipped: {refusal}");
                (Verdict::Blocked(case, refusal), Some(why))
            }
        }
    }

    fn phase(&self, verdict: &Verdict, traffic: &Traffic, at: Timestamp) -> Phase {
        match verdict {
            Verdict::Blocked(_, Refusal::Paused { .. }) => Phase::Paused,
            Verdict::Blocked(_, Refusal::Disarmed { .. }) => Phase::Disarmed,
            Verdict::Blocked(..) => Phase::Blocked,
            Verdict::Suppressed(..) => Phase::Suppressed,
            Verdict::Rollback(_) => Phase::Breaching,
            Verdict::Hold => self.calm_phase(traffic, at),
        }
    }

    fn calm_phase(&self, traffic: &Traffic, at: Timestamp) -> Phase {
        let breaching = self.judges.iter().any(|judge| judge.streak() > 0);
        let blind = self.eyes.blind().is_some();
        if traffic.paused_at(at).is_some() {
            Phase::Paused
        } else if self.told.disarmed {
            Phase::Disarmed
        } else if breaching && !(blind && self.all_dark()) {
            Phase::Breaching
        } else if blind {
            Phase::Blind
        } else if self.restored.is_some() {
            Phase::RolledBack
        } else if self.judges.iter().all(|judge| judge.verdicts == 0) {
            Phase::Starting
        } else if self.watching(at) {
            Phase::Watching
        } else {
            Phase::Steady
        }
    }

    /// Whether every streak there is belongs to a rule that sees nothing at this look.
    fn all_dark(&self) -> bool {
        let rules = self.judges.iter().zip(&self.rules);
        rules
            .filter(|(judge, _)| judge.streak() > 0)
            .all(|(_, rule)| matches!(rule.outcome, Outcome::Inconclusive(_) | Outcome::Nothing))
    }

    /// The sentence of a guard that holds.
    fn quiet(&self, phase: Phase, traffic: &Traffic) -> String {
        let active = &traffic.active;
        let worst = self
            .judges
            .iter()
            .max_by_key(|judge| judge.streak())
            .filter(|judge| judge.streak() > 0);
        let said = worst
            .or_else(|| self.judges.iter().find(|judge| judge.said.is_some()))
            .and_then(|judge| judge.said.clone());
        let said = said.unwrap_or_else(|| "no verdict yet".into());
        match phase {
            Phase::Blind => format!("no usable data on {active}: {}", self.eyes.blind().unwrap_or("no samples")),
            Phase::Paused => {
                let by = traffic.paused_at(self.looked()).map_or("", |pause| pause.by.as_str());
                format!("paused by {by}; {active}: {said}")
            }
            Phase::Disarmed => match gate::disarmed(&traffic.ledger, &self.spec.policy, self.looked()) {
                Some(refusal) => format!("{refusal}; {active}: {said}"),
                None => format!("{active}: {said}"),
            },
            Phase::RolledBack => format!("rolled back to {active}, which is being watched: {said}"),
            Phase::Starting => match traffic.active_side().release {
                Some(Release { id, .. }) => format!("collecting the first evidence on {active} (release {id})"),
                None => format!("collecting the first evidence on {active}"),
            },
            _ => format!("{active}: {said}"),
        }
    }

    /// The time of the newest look.
    fn looked(&self) -> Timestamp {
        self.clock.last().unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
