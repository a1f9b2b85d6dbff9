//! What a rule compares with, and where what was measured was over it. Pure.
//!
//! An approximation of the judgement, for people: intervals close as the engine's do, but nothing is pooled, armed or
//! suppressed here. What was decided is told by the incident; this tells what led to it.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::{
    trace::{Look, Measured},
    words,
};
use crate::{
    model::{Color, Judging, LatencyRule, Policy, RuleKind, RuleName, RuleSpec, RuleState, ScalarRule},
    plot::Unit,
};

/// Breaches kept per rule.
const BREACHES_MAX: usize = 400;

/// A rule as a report sees it: from its configuration, or, in old bundles, from where it stood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    /// Its name.
    pub(super) rule: RuleName,
    /// The kind as configuration spells it.
    pub(super) kind: String,
    /// Over this it is a breach.
    pub(super) over: Option<f64>,
    /// Under this it is one.
    pub(super) under: Option<f64>,
    /// What values are.
    pub(super) unit: Unit,
    /// Of requests, or of a number that stands for them: bad ones and the number at which an interval closes.
    closes: Option<(f64, f64)>,
    to_standby: Option<f64>,
    to_before: Option<f64>,
    /// The quantile of an objective, as series are called by it, and its time in seconds.
    pub(super) quantile: Option<(String, f64)>,
}

/// One time a rule was over its bar.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Breach {
    /// When flipback saw it.
    pub(super) at: Timestamp,
    /// `12.4 % (31 of 250)`.
    pub(super) figure: String,
    /// Whether the measure before was a breach too.
    pub(super) in_a_row: u32,
}

/// When something bad was first measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FirstBad {
    /// The sample that shows it.
    pub(super) at: Timestamp,
    /// The sample before, which does not.
    pub(super) after: Option<Timestamp>,
    /// What it showed.
    pub(super) figure: String,
    /// Whether it comes from a line of rates, for want of a record.
    pub(super) of_line: bool,
}

impl Bar {
    /// The bar of a rule in force.
    pub(super) fn of(spec: &RuleSpec, policy: &Policy) -> Self {
        let mut bar = Self::named(spec.name.clone(), spec.kind.as_str());
        let classic = policy.mode == Judging::Classic;
        match &spec.kind {
            RuleKind::ErrorRate(rule) => bar.over = Some(rule.threshold),
            RuleKind::Availability(rule) => bar.over = Some(1.0 - rule.threshold),
            RuleKind::Latency(rule) => bar.latency(rule, classic),
            RuleKind::Promql(rule) | RuleKind::Throughput(rule) | RuleKind::Saturation(rule) => bar.number(rule),
            RuleKind::Probe(rule) => bar.over = Some(rule.threshold),
            RuleKind::Endpoints(_) => {
                bar.under = Some(1.0);
                bar.unit = Unit::Number("Ready".to_owned());
            }
        }
        let counted = matches!(spec.kind, RuleKind::ErrorRate(_) | RuleKind::Availability(_) | RuleKind::Latency(_));
        if let Some(over) = bar.over.filter(|over| counted && !classic && *over > 0.0) {
            let bad = f64::from(policy.min_bad);
            let enough = (bad / over - 1e-6).ceil().max(1.0);
            bar.closes = Some((bad, policy.min_requests.map_or(enough, f64::from)));
        }
        bar
    }

    /// The bar of a rule of which only its last state is known.
    pub(super) fn told(state: &RuleState) -> Self {
        let mut bar = Self::named(state.rule.clone(), &state.kind);
        match (state.kind.as_str(), state.below) {
            ("availability", _) => bar.over = Some(1.0 - state.threshold),
            ("promql" | "throughput" | "saturation", below) => {
                bar.unit = Unit::Number(String::new());
                if below {
                    bar.under = Some(state.threshold)
                } else {
                    bar.over = Some(state.threshold)
                }
            }
            ("endpoints", _) => {
                bar.under = Some(1.0);
                bar.unit = Unit::Number("Ready".to_owned());
            }
            _ => bar.over = Some(state.threshold),
        }
        bar
    }

    fn named(rule: RuleName, kind: &str) -> Self {
        Self {
            rule,
            kind: kind.to_owned(),
            over: None,
            under: None,
            unit: Unit::Share,
            closes: None,
            to_standby: None,
            to_before: None,
            quantile: None,
        }
    }

    fn latency(&mut self, rule: &LatencyRule, classic: bool) {
        let seconds = rule.threshold.as_secs_f64();
        self.quantile = Some((format!("p{}", (rule.quantile * 1e6).round() / 1e4), seconds));
        if classic {
            self.over = Some(seconds);
            self.unit = Unit::Number("s".to_owned());
        } else {
            self.over = Some(rule.share());
        }
    }

    fn number(&mut self, rule: &ScalarRule) {
        self.over = rule.max;
        self.under = rule.min;
        self.to_standby = rule.max_ratio_to_standby;
        self.to_before = rule.max_ratio_to_before;
        self.unit = Unit::Number(rule.unit.clone().unwrap_or_default());
    }

    /// Where a breach lies of the bar: of Ready endpoints, and of other floors, too few are one.
    pub(super) fn past(&self) -> &'static str {
        match (
            self.over.is_some() || self.to_standby.is_some() || self.to_before.is_some(),
            self.under,
        ) {
            (false, Some(_)) => "under its limit",
            (true, Some(_)) => "past its limit",
            _ => "over its limit",
        }
    }

    /// Whether a series of this name is what the rule compares.
    pub(super) fn judges(&self, series: &str) -> bool {
        match (&self.unit, &self.quantile) {
            (Unit::Share, _) => series == "share",
            (Unit::Number(_), Some((quantile, _))) => series == quantile,
            (Unit::Number(_), None) => series == "value",
        }
    }

    /// The one line of a chart.
    pub(super) fn limit(&self) -> Option<f64> {
        if self.kind == "endpoints" { None } else { self.over.or(self.under) }
    }

    fn crossed(&self, value: f64, before: Option<f64>, standby: Option<f64>) -> bool {
        let times = |ratio: Option<f64>, of: Option<f64>| ratio.zip(of).is_some_and(|(ratio, of)| value > ratio * of);
        self.over.is_some_and(|over| value > over)
            || self.under.is_some_and(|under| value < under)
            || times(self.to_before, before)
            || times(self.to_standby, standby)
    }

    fn figure(&self, value: f64, of: Option<(f64, f64)>) -> String {
        let of = of
            .map(|(bad, total)| format!(" ({} of {})", words::plain(bad), words::plain(total)))
            .unwrap_or_default();
        format!("{}{of}", words::value(&self.unit, value))
    }

    /// The breaches of `color` while it was active, oldest first.
    pub(super) fn breaches(&self, looks: &VecDeque<Look>, color: &Color, since: Option<Timestamp>) -> Vec<Breach> {
        let (mut found, mut row, mut newest) = (Vec::new(), 0, None);
        let (mut bad_sum, mut total_sum) = (0.0, 0.0);
        let key = (color.clone(), self.rule.clone());
        for look in serving(looks, color, since) {
            let Some(measured) = look.measured.get(&key) else { continue };
            // A stale sample is no measure.
            if newest.is_some_and(|newest| measured.at() <= newest) {
                continue;
            }
            newest = Some(measured.at());
            let (value, of) = match *measured {
                Measured::Requests { bad, total, .. } => {
                    (bad_sum, total_sum) = (bad_sum + bad, total_sum + total);
                    let (enough_bad, enough) = self.closes.unwrap_or((1.0, 1.0));
                    if bad_sum < enough_bad && total_sum < enough {
                        continue;
                    }
                    let closed = (bad_sum, total_sum);
                    (bad_sum, total_sum) = (0.0, 0.0);
                    ((closed.0 / closed.1).min(1.0), Some(closed))
                }
                Measured::Probes { asked, failed, .. } if asked > 0.0 => (failed / asked, Some((failed, asked))),
                Measured::Number { value, .. } => (value, None),
                Measured::Ready { ready, .. } => (ready, None),
                Measured::Probes { .. } => continue,
            };
            let before = if let Measured::Number { before, .. } = measured {
                *before
            } else {
                None
            };
            if !self.crossed(value, before, self.standby(look, color)) {
                row = 0;
                continue;
            }
            row += 1;
            if found.len() < BREACHES_MAX {
                found.push(Breach {
                    at: look.at,
                    figure: self.figure(value, of),
                    in_a_row: row,
                });
            }
        }
        found
    }

    /// The number of the other color, where there is one other.
    fn standby(&self, look: &Look, color: &Color) -> Option<f64> {
        self.to_standby?;
        let mut others = look
            .measured
            .iter()
            .filter(|((of, rule), _)| of != color && *rule == self.rule)
            .filter_map(|(_, measured)| measured.point());
        let other = others.next()?;
        others.next().is_none().then_some(other.1)
    }

    /// When the badness that ended in a decision was first measured: the first bad measure after which no calm of
    /// `patience` came. A share under a tenth of what is allowed is the usual noise, and no beginning.
    pub(super) fn first_bad(
        &self,
        looks: &VecDeque<Look>,
        color: &Color,
        since: Option<Timestamp>,
        patience: std::time::Duration,
    ) -> Option<FirstBad> {
        let key = (color.clone(), self.rule.clone());
        let (mut first, mut last, mut sample): (Option<FirstBad>, Option<Timestamp>, Option<Timestamp>) = (None, None, None);
        for look in serving(looks, color, since) {
            let Some(measured) = look.measured.get(&key) else { continue };
            let before_this = sample.filter(|sample| *sample < measured.at());
            if sample.is_some() && before_this.is_none() {
                continue;
            }
            sample = Some(measured.at());
            let Some((after, figure)) = self.bad(measured, self.standby(look, color)) else {
                continue;
            };
            let at = measured.at();
            let calm = last.is_none_or(|last| at.duration_since(last).unsigned_abs() > patience);
            if calm {
                let after = after.or(before_this);
                first = Some(FirstBad {
                    at,
                    after,
                    figure,
                    of_line: false,
                });
            }
            last = Some(at);
        }
        first
    }

    /// Whether a measure shows something bad: the sample before, as far as it tells, and the figure.
    fn bad(&self, measured: &Measured, standby: Option<f64>) -> Option<(Option<Timestamp>, String)> {
        match *measured {
            Measured::Requests { after, bad, total, .. } => {
                let noise = self.over.unwrap_or(0.0) / 10.0;
                let share = bad / total;
                (bad > 0.0 && share > noise).then(|| (Some(after), self.figure(share.min(1.0), Some((bad, total)))))
            }
            Measured::Probes { asked, failed, .. } => (failed > 0.0).then(|| (None, self.figure(failed / asked, Some((failed, asked))))),
            Measured::Number { value, before, .. } => self.crossed(value, before, standby).then(|| (None, self.figure(value, None))),
            Measured::Ready { ready, .. } => (ready < 1.0).then(|| (None, self.figure(ready, None))),
        }
    }

    /// When a line on disk first was over the bar without coming back under it until `until`: the fallback where there
    /// is no record. Lines are rates over a window, so it is late by up to that window.
    pub(super) fn first_over(&self, points: &[(Timestamp, f64)], since: Option<Timestamp>, until: Timestamp) -> Option<FirstBad> {
        let within = points
            .iter()
            .filter(|(at, _)| since.is_none_or(|since| *at >= since) && *at <= until);
        let (mut first, mut before) = (None, None);
        for (at, value) in within {
            if !self.crossed(*value, None, None) {
                first = None;
            } else if first.is_none() {
                first = Some(FirstBad {
                    at: *at,
                    after: before,
                    figure: self.figure(*value, None),
                    of_line: true,
                });
            }
            before = Some(*at);
        }
        first
    }

    /// Bad and all requests of `color` from `from` on, as far as they were measured.
    pub(super) fn requests(&self, looks: &VecDeque<Look>, color: &Color, from: Timestamp) -> Option<(f64, f64)> {
        let key = (color.clone(), self.rule.clone());
        let mut sum = None;
        for look in looks {
            if let Some(Measured::Requests { at, bad, total, .. }) = look.measured.get(&key)
                && *at >= from
            {
                let (bads, totals) = sum.unwrap_or((0.0, 0.0));
                sum = Some((bads + bad, totals + total));
            }
        }
        sum
    }
}

/// The looks at which `color` served.
fn serving<'l>(looks: &'l VecDeque<Look>, color: &Color, since: Option<Timestamp>) -> impl Iterator<Item = &'l Look> {
    let serves = move |look: &&Look| look.active.as_ref() == Some(color) && since.is_none_or(|since| look.at >= since);
    let looks: Vec<&Look> = looks.iter().filter(serves).collect();
    looks.into_iter()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::{fixture::color, report::trace::Trace};

    const PATIENCE: Duration = Duration::from_secs(180);

    fn trace(rule: &str, looks: &[String]) -> (Bar, Trace) {
        let mut trace = Trace::default();
        let header = format!(r#"{{"flipback_trace":1,"active":"green","standby":"blue","rules":[{rule}]}}"#);
        trace.line(header.as_bytes());
        looks.iter().for_each(|look| trace.line(look.as_bytes()));
        assert_eq!(trace.odd, 0);
        (Bar::of(&trace.rules[0], &Policy::default()), trace)
    }

    fn counted(t: u32, total: u32, bad: u32) -> String {
        format!(r#"{{"t":{t},"rules":{{"e":{{"sample_at":{t},"targets":{{"a":{{"total":{total},"bad":{bad}}}}}}}}}}}"#)
    }

    const ERRORS: &str = r#"{"name":"e","kind":"error_rate","threshold":0.05}"#;

    #[test]
    fn breaches_are_counted_in_a_row_and_a_pass_begins_anew() {
        let looks = [
            counted(0, 0, 0),
            counted(5, 100, 20),
            counted(10, 200, 20),
            counted(15, 300, 40),
            counted(20, 400, 60),
        ];
        let (bar, trace) = trace(ERRORS, &looks);
        let found = bar.breaches(&trace.looks, &color("green"), None);
        let told: Vec<_> = found.iter().map(|breach| (breach.in_a_row, breach.figure.as_str())).collect();
        assert_eq!(told, [(1, "20 % (20 of 100)"), (1, "20 % (20 of 100)"), (2, "20 % (20 of 100)")]);
        assert!(
            bar.breaches(&trace.looks, &color("blue"), None).is_empty(),
            "the other color was not judged"
        );
    }

    #[test]
    fn a_floor_is_undershot_and_a_ceiling_exceeded() {
        let past = |rule: &str| trace(rule, &[]).0.past();
        assert_eq!(past(ERRORS), "over its limit");
        assert_eq!(past(r#"{"name":"e","kind":"endpoints","down_for":"4s"}"#), "under its limit");
        assert_eq!(past(r#"{"name":"e","kind":"throughput","min":10}"#), "under its limit");
        assert_eq!(past(r#"{"name":"e","kind":"saturation","max":0.9}"#), "over its limit");
        assert_eq!(past(r#"{"name":"e","kind":"promql","min":1,"max":9}"#), "past its limit");
    }

    #[test]
    fn few_requests_are_judged_together() {
        let looks: Vec<String> = (0..6).map(|n| counted(n * 5, n * 10, n.saturating_sub(2))).collect();
        let (bar, trace) = trace(ERRORS, &looks);
        let found = bar.breaches(&trace.looks, &color("green"), None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].figure, "6 % (3 of 50)");
    }

    #[test]
    fn the_first_bad_request_lies_between_two_samples() {
        // One stray error long before, then the episode.
        let looks = [
            counted(0, 0, 0),
            counted(5, 100, 50),
            counted(10, 200, 50),
            counted(300, 6000, 51),
            counted(305, 6100, 60),
            counted(310, 6200, 70),
        ];
        let (bar, trace) = trace(ERRORS, &looks);
        let first = bar.first_bad(&trace.looks, &color("green"), None, PATIENCE).expect("there is one");
        assert_eq!((first.at.as_second(), first.after.map(|after| after.as_second())), (305, Some(300)));
        assert_eq!(first.figure, "9 % (9 of 100)");
        let from = first.at;
        assert_eq!(bar.requests(&trace.looks, &color("green"), from), Some((19.0, 200.0)));
        let later = bar.first_bad(
            &trace.looks,
            &color("green"),
            Some(Timestamp::from_second(307).expect("in range")),
            PATIENCE,
        );
        assert_eq!(
            later.map(|first| first.at.as_second()),
            Some(310),
            "what came before the switch is another story"
        );
    }

    #[test]
    fn numbers_probes_and_endpoints_have_a_first_time_too() {
        let number = r#"{"name":"n","kind":"promql","max_ratio_to_standby":1.5}"#;
        let look = |t: u32, mine: f64, theirs: f64| {
            format!(
                r#"{{"t":{t},"rules":{{"n":{{"sample_at":{t},"value":{mine}}}}},"colors":{{"blue":{{"n":{{"sample_at":{t},"value":{theirs}}}}}}}}}"#
            )
        };
        let (bar, found) = trace(number, &[look(1, 10.0, 10.0), look(2, 16.0, 10.0), look(3, 20.0, 20.0)]);
        assert_eq!(bar.breaches(&found.looks, &color("green"), None).len(), 1);
        let probe = |t: u32, failed: u32| format!(r#"{{"t":{t},"rules":{{"p":{{"sample_at":{t},"asked":4,"failed":{failed}}}}}}}"#);
        let (bar, found) = trace(
            r#"{"name":"p","kind":"probe","threshold":0.5,"path":"/","status":[200,299],"timeout":"1s","retries":0,"endpoints_max":4,"port":null,"body_contains":null}"#,
            &[probe(1, 0), probe(2, 1), probe(3, 4)],
        );
        let first = bar.first_bad(&found.looks, &color("green"), None, PATIENCE).expect("there is one");
        assert_eq!((first.at.as_second(), first.after.map(|at| at.as_second())), (2, Some(1)));
        assert_eq!(bar.breaches(&found.looks, &color("green"), None).len(), 1);
    }

    #[test]
    fn without_a_record_the_line_on_disk_tells_when_it_went_over() {
        let (bar, _) = trace(ERRORS, &[]);
        let at = |second| Timestamp::from_second(second).expect("in range");
        let points: Vec<_> = [(0, 0.2), (10, 0.0), (20, 0.01), (30, 0.09), (40, 0.3), (50, 0.0)]
            .map(|(t, v)| (at(t), v))
            .into();
        let first = bar.first_over(&points, None, at(45)).expect("it went over");
        assert_eq!((first.at.as_second(), first.after.map(|at| at.as_second())), (30, Some(20)));
        assert_eq!(bar.first_over(&points, None, at(55)), None, "it was good again");
    }
}
