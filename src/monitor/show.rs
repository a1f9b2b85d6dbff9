//! From state to what is shown: status and metrics. Pure but for the gauges it sets.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{EVENTS_MAX, Guarded, HISTORY_MAX};
use crate::{
    decide,
    metrics::Metrics,
    model::{
        Color, ColorStatus, Decision, GuardId, GuardSpec, GuardStatus, Incident, IncidentOutcome, IncidentSummary, Ledger, Moment, Note,
        Observation, Outcome, Phase, RuleState, RuleStatus, View, file_segment, maintenance,
        status::{EventLine, unit},
    },
};

/// Points of one metric range in the evidence; enough for a plot, far below Prometheus' own limit of 11,000.
const RANGE_POINTS: u64 = 400;

/// `later - earlier`, zero when the clock went backwards.
pub(super) fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    later.duration_since(earlier).try_into().unwrap_or_default()
}

/// A time that something is due at, of which it is known that it is no further away than `wait`: where it is, the clock went backwards.
pub(super) fn due_within(due: Timestamp, wait: Duration, now: Timestamp) -> Timestamp {
    now.checked_add(wait).map_or(due, |latest| due.min(latest))
}

/// The step of a metric range: as fine as [`RANGE_POINTS`] allow, whole seconds, at least one.
pub(super) fn step(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_secs((since(to, from).as_secs() / RANGE_POINTS).max(1))
}

/// The text with a capital first letter.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// The outcome's word in metrics, the API and the page.
pub(super) fn result(outcome: &IncidentOutcome) -> &'static str {
    match outcome {
        IncidentOutcome::Decided => "decided",
        IncidentOutcome::RolledBack { .. } => "rolled_back",
        IncidentOutcome::Withheld => "withheld",
        IncidentOutcome::DryRun => "dry_run",
        IncidentOutcome::Failed { .. } => "failed",
        IncidentOutcome::Blocked { .. } => "blocked",
        IncidentOutcome::Suppressed { .. } => "suppressed",
    }
}

/// Where our own server shows an incident's report.
pub(super) fn served(incident: &str) -> String {
    format!("/incidents/{}/report.html", file_segment(incident))
}

/// An incident in short.
pub(super) fn summary(incident: &Incident, evidence: Option<String>, report: Option<String>) -> IncidentSummary {
    let case = &incident.case;
    let took_ms = match &incident.outcome {
        IncidentOutcome::RolledBack { took_ms, .. } => Some(*took_ms).filter(|ms| *ms > 0.0),
        _ => None,
    };
    IncidentSummary {
        id: incident.id.clone(),
        at: case.at,
        from: case.from.clone(),
        to: case.to.clone(),
        result: result(&incident.outcome).to_owned(),
        trigger: case.trigger.to_string(),
        why: case.why.clone(),
        took_ms,
        evidence,
        report,
    }
}

impl Guarded {
    /// Adds a line to what happened lately.
    pub(super) fn note(&mut self, at: Timestamp, what: String) {
        self.events.push_front(EventLine { at, what: what.into() });
        self.events.truncate(EVENTS_MAX);
    }

    /// Whether our newest incident moved traffic to this color.
    pub(super) fn moved_to(&self, color: &Color) -> bool {
        self.last_incident
            .as_ref()
            .is_some_and(|incident| incident.result == "rolled_back" && incident.to == *color)
    }

    /// Whether an earlier run has told it: the first look says again what had been undone by then.
    pub(super) fn told_before(&self, note: &Note) -> bool {
        let story = self.last.iter().flat_map(|incident| &incident.timeline);
        let told = || story.clone().any(|entry| entry.moment == Some(Moment::FlippedBack));
        self.decision.is_none() && matches!(note, Note::Switched { undone: true, .. }) && told()
    }

    /// Keeps what the page's sparklines show.
    pub(super) fn remember(&mut self, decision: &Decision, _seen: &Observation) {
        for rule in &decision.rules {
            let judged = matches!(rule.outcome, Outcome::Breach | Outcome::Pass);
            if let Some(value) = rule.value.filter(|value| judged && value.is_finite()) {
                let history = self.history.entry(rule.rule.clone()).or_default();
                history.push_back(value);
                if history.len() > HISTORY_MAX {
                    history.pop_front();
                }
            }
        }
    }

    /// The guard as shown.
    pub(super) fn status(&self, now: Timestamp) -> GuardStatus {
        let spec = &self.spec;
        let traffic = match &self.view {
            Some(View::Known(traffic)) => Some(&**traffic),
            _ => None,
        };
        let empty = Ledger::default();
        let ledger = traffic.map_or(&empty, |traffic| &traffic.ledger);
        let side = |color: &Color| traffic.and_then(|traffic| traffic.sides.get(color).cloned()).unwrap_or_default();
        let colors = spec
            .colors
            .keys()
            .map(|color| {
                let side = side(color);
                let known_bad = side.release.as_ref().is_some_and(|release| ledger.is_bad(&release.id));
                ColorStatus {
                    color: color.clone(),
                    ready: side.ready,
                    desired: side.desired,
                    release: side.release,
                    known_bad,
                }
            })
            .collect();
        let (phase, why) = match &self.decision {
            Some(decision) => (decision.phase, decision.why.clone()),
            None => (Phase::Starting, "no look yet".to_owned()),
        };
        GuardStatus {
            guard: spec.id.clone(),
            mode: spec.mode,
            object: spec.route.object(),
            phase,
            why,
            active: traffic.map(|traffic| traffic.active.clone()),
            standby: traffic.map(|traffic| traffic.standby.clone()),
            colors,
            rules: self
                .decision
                .iter()
                .flat_map(|decision| &decision.rules)
                .map(|rule| self.rule(rule))
                .collect(),
            switched_at: traffic.and_then(|traffic| traffic.switched_at),
            watch_until: self.engine.watch_until().filter(|until| *until > now),
            cooldown_until: decide::cooldown_until(ledger, &spec.policy).filter(|until| *until > now),
            paused_by: traffic.and_then(|traffic| traffic.paused_at(now)).map(|pause| pause.by.clone()),
            paused_until: traffic.and_then(|traffic| traffic.paused_at(now)).and_then(|pause| pause.until),
            maintenance: maintenance::status(&spec.maintenance, now),
            last_incident: self.last_incident.clone(),
            events: self.events.iter().cloned().collect(),
            shard: self.shard,
            history: Some(Arc::new(decide::flip_history(spec, traffic, now))),
        }
    }

    fn rule(&self, rule: &RuleState) -> RuleStatus {
        RuleStatus {
            rule: rule.rule.clone(),
            kind: rule.kind.clone(),
            outcome: rule.outcome.word().to_owned(),
            streak: rule.streak,
            of: rule.of,
            value: rule.value,
            threshold: rule.threshold,
            below: rule.below || rule.kind == unit::ENDPOINTS,
            unit: self
                .spec
                .rules
                .iter()
                .find(|spec| spec.name == rule.rule)
                .and_then(|spec| unit::of(spec, self.spec.policy.mode)),
            bad: rule.bad,
            total: rule.total,
            why: rule.why.clone(),
            sample_at: rule.sample_at,
            history: self
                .history
                .get(&rule.rule)
                .map(|values| values.iter().copied().collect())
                .unwrap_or_default(),
        }
    }
}

/// Tells once what the numbers of a guard's rules mean.
pub(super) fn introduce(metrics: &Metrics, spec: &GuardSpec) {
    for rule in &spec.rules {
        let unit = unit::of(rule, spec.policy.mode).unwrap_or_default();
        let labels = [
            spec.id.as_str(),
            rule.name.as_str(),
            rule.kind.as_str(),
            &unit,
            unit::breach(&rule.kind),
        ];
        metrics.rule_info.with_label_values(&labels).set(1);
    }
}

/// Counts one look at a guard. Why its traffic stays on what is bad is for the replica to say that acts: a follower does not know of a
/// standby that is being scaled up, and would page for it.
pub(super) fn count(metrics: &Metrics, id: &GuardId, before: Option<&Decision>, decision: &Decision, view: &View, leads: bool) {
    let id = id.as_str();
    // Only phases the guard has been in: a series costs half a kilobyte, and there are more phases than most guards ever see.
    if let Some(before) = before {
        metrics.guard_phase.with_label_values(&[id, before.phase.as_str()]).set(0);
        if let Some((verdict, reason)) = before.verdict.stays() {
            metrics.rollback_refused.with_label_values(&[id, verdict, reason]).set(0);
        }
    }
    if let Some((verdict, reason)) = decision.verdict.stays().filter(|_| leads) {
        metrics.rollback_refused.with_label_values(&[id, verdict, reason]).set(1);
    }
    metrics.guard_phase.with_label_values(&[id, decision.phase.as_str()]).set(1);
    metrics
        .blind
        .with_label_values(&[id])
        .set(i64::from(decision.phase == Phase::Blind));
    for rule in &decision.rules {
        let labels = [id, rule.rule.as_str()];
        metrics
            .rule_outcomes
            .with_label_values(&[id, rule.rule.as_str(), rule.outcome.word()])
            .inc();
        metrics.rule_streak.with_label_values(&labels).set(i64::from(rule.streak));
        metrics.rule_threshold.with_label_values(&labels).set(rule.threshold);
        if let Some(value) = rule.value {
            metrics.rule_value.with_label_values(&labels).set(value);
        }
    }
    if let View::Known(traffic) = view {
        for (color, side) in &traffic.sides {
            metrics
                .active_color
                .with_label_values(&[id, color.as_str()])
                .set(i64::from(*color == traffic.active));
            metrics
                .ready_endpoints
                .with_label_values(&[id, color.as_str()])
                .set(i64::from(side.ready));
        }
        metrics
            .standby_ready
            .with_label_values(&[id])
            .set(i64::from(traffic.standby_side().ready > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Case, Refusal, Suppression, Verdict};

    #[test]
    fn what_is_due_comes_no_later_than_its_wait_from_now_however_the_clock_was_stepped() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let wait = Duration::from_secs(300);
        assert_eq!(due_within(at(1300), wait, at(1000)), at(1300), "nothing happened");
        assert_eq!(due_within(at(1300), wait, at(1200)), at(1300));
        assert_eq!(due_within(at(4900), wait, at(1000)), at(1300), "an hour back");
        assert_eq!(due_within(at(900), wait, at(1000)), at(900), "forward: it is due");
    }

    #[test]
    fn a_guard_shows_the_phase_it_is_in_and_those_it_was_in() {
        let metrics = Metrics::new().expect("registers");
        let id = GuardId::new("", "shop", "web").expect("valid");
        let mut before: Option<Decision> = None;
        for phase in [Phase::Starting, Phase::Steady, Phase::Steady, Phase::Blind, Phase::Steady] {
            let decision = Decision {
                verdict: crate::model::Verdict::Hold,
                rules: Vec::new(),
                notes: Vec::new(),
                phase,
                why: String::new(),
            };
            count(&metrics, &id, before.as_ref(), &decision, &View::Unreadable(String::new()), true);
            before = Some(decision);
        }
        let text = metrics.expose().expect("encodes");
        let shown: Vec<&str> = text.lines().filter(|line| line.starts_with("flipback_guard_phase{")).collect();
        assert_eq!(
            shown,
            [
                r#"flipback_guard_phase{guard="shop/web",phase="blind"} 0"#,
                r#"flipback_guard_phase{guard="shop/web",phase="starting"} 0"#,
                r#"flipback_guard_phase{guard="shop/web",phase="steady"} 1"#,
            ]
        );
    }

    #[test]
    fn why_traffic_stays_on_what_is_bad_is_told_for_as_long_as_it_does() {
        let metrics = Metrics::new().expect("registers");
        let id = GuardId::new("", "shop", "web").expect("valid");
        let case: Case = serde_json::from_value(serde_json::json!({
            "guard": id, "at": "2026-11-22T02:00:00Z", "from": "green", "to": "blue", "from_release": null, "to_release": null,
            "trigger": {"kind": "rule", "rule": "error_rate", "path": "fast"}, "why": "30 %", "rules": [], "from_ready": 1, "to_ready": 0, "config_hash": "c",
        }))
        .expect("a case");
        let paused = Refusal::Paused { by: "ann".to_owned() };
        let both_bad = Verdict::Suppressed(Box::new(case.clone()), Suppression::StandbyBad);
        let verdicts = [
            (
                Verdict::Blocked(Box::new(case.clone()), Refusal::StandbyNotReady { ready: 0, needed: 1 }),
                true,
            ),
            (Verdict::Blocked(Box::new(case.clone()), paused.clone()), true),
            (Verdict::Blocked(Box::new(case), paused), true),
            (both_bad.clone(), true),
            // Another replica leads, and then this one again.
            (both_bad.clone(), false),
            (both_bad, true),
            (Verdict::Hold, true),
        ];
        let mut before: Option<Decision> = None;
        let mut told = Vec::new();
        for (verdict, leads) in verdicts {
            let decision = Decision {
                verdict,
                rules: Vec::new(),
                notes: Vec::new(),
                phase: Phase::Blocked,
                why: String::new(),
            };
            count(&metrics, &id, before.as_ref(), &decision, &View::Unreadable(String::new()), leads);
            before = Some(decision);
            let text = metrics.expose().expect("encodes");
            let refused = text
                .lines()
                .filter(|line| line.starts_with("flipback_rollback_refused{") && line.ends_with(" 1"));
            told.push(refused.map(str::to_owned).collect::<Vec<_>>().join(", "));
        }
        assert_eq!(
            told,
            [
                r#"flipback_rollback_refused{guard="shop/web",reason="standby_not_ready",verdict="blocked"} 1"#,
                r#"flipback_rollback_refused{guard="shop/web",reason="paused",verdict="blocked"} 1"#,
                r#"flipback_rollback_refused{guard="shop/web",reason="paused",verdict="blocked"} 1"#,
                r#"flipback_rollback_refused{guard="shop/web",reason="standby_bad",verdict="suppressed"} 1"#,
                "",
                r#"flipback_rollback_refused{guard="shop/web",reason="standby_bad",verdict="suppressed"} 1"#,
                "",
            ]
        );
    }

    #[test]
    fn a_clock_that_went_backwards_is_no_negative_time() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        assert_eq!(since(at(10), at(20)), Duration::ZERO);
        assert_eq!(since(at(20), at(10)), Duration::from_secs(10));
    }

    #[test]
    fn a_range_is_never_finer_than_a_second_nor_longer_than_its_points() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        assert_eq!(step(at(0), at(30)), Duration::from_secs(1));
        assert_eq!(step(at(0), at(2410)), Duration::from_secs(6));
    }
}
