//! What happened, in order: the moments an incident is told by, and how long it took between them. Pure. What the
//! incident recorded itself is taken as it is; what it did not record is derived from what was measured, and says so.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    bar::{Bar, Breach, FirstBad},
    trace::Trace,
    words,
};
use crate::model::{Incident, IncidentOutcome, Moment, RuleName, Series, TimelineEntry, Trigger};

/// Version of `timeline.json`. A change of meaning raises it; a new field does not.
const TIMELINE_SCHEMA: u32 = 1;
/// Breaches that stand in the story; the plot shows all.
const BREACHES_MAX: usize = 10;

/// The story in order, and its figures.
#[derive(Debug, PartialEq)]
pub(super) struct Course {
    /// What happened, by time.
    pub(super) steps: Vec<Step>,
    /// When something bad was first measured, where it was.
    pub(super) first_bad: Option<FirstBad>,
    /// Breaches of every rule.
    pub(super) breaches: BTreeMap<RuleName, Vec<Breach>>,
    /// When traffic moved, if it did.
    pub(super) moved: Option<Timestamp>,
    /// How long things took.
    pub(super) durations: Durations,
    /// Bad and all requests measured since the first bad one.
    pub(super) hit: Option<(f64, f64)>,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// When.
    pub(super) at: Timestamp,
    /// What, for a program.
    pub(super) moment: Option<Moment>,
    /// What, for a person.
    pub(super) what: String,
    /// Whether it was worked out from measurements rather than recorded.
    pub(super) derived: bool,
    /// What was measured last before it and did not show it yet.
    pub(super) after: Option<Timestamp>,
}

/// How long things took, in seconds; absent where one end is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Durations {
    /// From the switch to the decision.
    pub(super) switch_to_decision_seconds: Option<f64>,
    /// From the first bad request measured to the decision.
    pub(super) detect_seconds: Option<f64>,
    /// How much longer that may have been: the time between the two samples around the first bad request.
    pub(super) detect_uncertainty_seconds: Option<f64>,
    /// From the decision to the accepted patch, as the flip itself measured it and messages tell it. The decision's own
    /// time is that of the look it was made on, which began a little earlier.
    pub(super) patch_seconds: Option<f64>,
    /// From the accepted patch until the endpoints followed.
    pub(super) endpoints_seconds: Option<f64>,
    /// How long users met bad requests: from the first one measured until traffic had moved.
    pub(super) suffering_seconds: Option<f64>,
    /// From the accepted patch until the restored color was known to be good.
    pub(super) recovery_seconds: Option<f64>,
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    // Microseconds are more than is known.
    (to.duration_since(from).as_secs_f64() * 1e6).round() / 1e6
}

/// Puts the story together.
pub(super) fn course(incident: &Incident, bars: &[Bar], trace: &Trace, series: &[Series]) -> Course {
    let case = &incident.case;
    let switched = incident.switched_at;
    let mut steps: Vec<Step> = incident.timeline.iter().map(recorded).collect();
    let breaches: BTreeMap<RuleName, Vec<Breach>> = bars
        .iter()
        .map(|bar| (bar.rule.clone(), bar.breaches(&trace.looks, &case.from, switched)))
        .collect();
    let deciding = deciding(incident, bars);
    let first_bad = deciding.and_then(|bar| first_bad(bar, incident, trace, series));
    let hit = deciding
        .zip(first_bad.as_ref())
        .and_then(|(bar, first)| bar.requests(&trace.looks, &case.from, first.at));
    let mut derived = Vec::new();
    if let Some(at) = switched {
        let by = trace
            .switched_by
            .as_deref()
            .map(|by| format!(", switched by {}", words::line(by, 80)))
            .unwrap_or_default();
        derived.push(step(
            Moment::Switched,
            at,
            format!("{} became active{by}", words::sentence(case.from.as_str())),
            None,
        ));
    }
    if let Some((first, bar)) = first_bad.as_ref().zip(deciding) {
        derived.push(step(Moment::FirstBad, first.at, told_first(first, bar), first.after));
    }
    if let Some(bar) = deciding {
        derived.extend(told_breaches(bar, breaches.get(&bar.rule).map_or(&[], Vec::as_slice), case.at));
    }
    if let Some(at) = patched(&incident.outcome) {
        derived.push(step(Moment::Patched, at, "The API server accepted the patch".to_owned(), None));
    }
    derived.push(step(
        Moment::Decided,
        case.at,
        format!("Decided: {}", words::line(&case.why, 1000)),
        None,
    ));
    if let Some(at) = incident.followed_up_at {
        derived.push(step(Moment::FollowedUp, at, "What came after was captured too".to_owned(), None));
    }
    let known: Vec<Moment> = steps.iter().filter_map(|step| step.moment).collect();
    steps.extend(
        derived
            .into_iter()
            .filter(|step| step.moment.is_none_or(|moment| !known.contains(&moment))),
    );
    steps.sort_by_key(|step| (step.at, order(step.moment)));
    let moved = patched(&incident.outcome).or_else(|| at(&steps, Moment::Patched));
    let durations = durations(&incident.outcome, &steps, first_bad.as_ref(), case.at, moved);
    Course {
        steps,
        first_bad,
        breaches,
        moved,
        durations,
        hit,
    }
}

/// The bar of the rule that decided.
pub(super) fn deciding<'b>(incident: &Incident, bars: &'b [Bar]) -> Option<&'b Bar> {
    let Trigger::Rule { rule, .. } = &incident.case.trigger else {
        return None;
    };
    bars.iter().find(|bar| bar.rule == *rule)
}

fn step(moment: Moment, at: Timestamp, what: String, after: Option<Timestamp>) -> Step {
    Step {
        at,
        moment: Some(moment),
        what,
        derived: matches!(moment, Moment::FirstBad | Moment::Breach),
        after,
    }
}

fn recorded(entry: &TimelineEntry) -> Step {
    Step {
        at: entry.at,
        moment: entry.moment.or_else(|| guessed(&entry.what)),
        what: words::line(&entry.what, 2000),
        derived: false,
        after: None,
    }
}

/// The moment of a line that an older version wrote without one, by the words it used.
fn guessed(what: &str) -> Option<Moment> {
    let begins = [
        ("Decided", Moment::Decided),
        ("The API server accepted the patch", Moment::Patched),
        ("Failed:", Moment::PatchFailed),
        ("Verified after", Moment::Arrived),
        ("The patch was accepted, but", Moment::NotArrived),
    ];
    let within = [
        ("serves well after the rollback", Moment::Recovered),
        ("the restored color is over its threshold too", Moment::DidNotHelp),
        ("which flipback had rolled back from", Moment::FlippedBack),
    ];
    let by_begin = begins.iter().find(|(begin, _)| what.starts_with(begin));
    by_begin
        .or_else(|| within.iter().find(|(part, _)| what.contains(part)))
        .map(|(_, moment)| *moment)
}

/// Of what happened at once, the cause stands first; remarks last.
fn order(moment: Option<Moment>) -> usize {
    moment.map_or(usize::MAX, |moment| moment as usize)
}

fn patched(outcome: &IncidentOutcome) -> Option<Timestamp> {
    match outcome {
        IncidentOutcome::RolledBack { at, .. } => Some(*at),
        _ => None,
    }
}

/// From the record, else from the lines of metrics.
fn first_bad(bar: &Bar, incident: &Incident, trace: &Trace, series: &[Series]) -> Option<FirstBad> {
    let case = &incident.case;
    let found = bar.first_bad(&trace.looks, &case.from, incident.switched_at, incident.policy.expire);
    found.or_else(|| {
        let line = series
            .iter()
            .find(|one| one.rule == bar.rule && one.color == case.from && bar.judges(&one.name))?;
        bar.first_over(&line.points, incident.switched_at, case.at)
    })
}

fn told_first(first: &FirstBad, bar: &Bar) -> String {
    let what = match bar.kind.as_str() {
        "error_rate" | "availability" => "bad requests",
        "latency" => "slow requests",
        "probe" => "failed probes",
        "endpoints" => "lack of Ready endpoints",
        _ => "reading",
    };
    let past = match bar.kind.as_str() {
        "error_rate" | "availability" | "latency" | "probe" | "endpoints" => String::new(),
        _ => format!(" {}", bar.past()),
    };
    let earlier = first.after.map(|after| words::span(first.at.duration_since(after)));
    if first.of_line {
        let since = earlier
            .map(|earlier| format!("; {earlier} earlier it was within"))
            .unwrap_or_default();
        return format!(
            "{} first {} in the metrics: {}{since}. Rates lag by their window",
            bar.rule,
            bar.past(),
            first.figure
        );
    }
    let since = earlier
        .map(|earlier| format!("; the sample {earlier} earlier showed none"))
        .unwrap_or_default();
    format!("First {what}{past} measured by {}: {}{since}", bar.rule, first.figure)
}

/// The streak that led to the decision; earlier ones in one line.
fn told_breaches(bar: &Bar, breaches: &[Breach], decided: Timestamp) -> Vec<Step> {
    let until: Vec<&Breach> = breaches.iter().filter(|breach| breach.at <= decided).collect();
    let row = until.last().map_or(0, |last| last.in_a_row as usize).min(until.len());
    let (earlier, streak) = until.split_at(until.len() - row);
    let mut steps = Vec::new();
    if let (Some(first), Some(_)) = (earlier.first(), streak.first()) {
        let times = if earlier.len() == 1 {
            "once".to_owned()
        } else {
            format!("{} times", earlier.len())
        };
        let what = format!("{} had been {} {times} before, and was within it again", bar.rule, bar.past());
        steps.push(step(Moment::Breach, first.at, what, None));
    }
    let hidden = streak.len().saturating_sub(BREACHES_MAX);
    for (n, breach) in streak.iter().enumerate() {
        if n > 0 && n <= hidden {
            continue;
        }
        let what = format!("{} {}, {}{}", bar.rule, breach.figure, bar.past(), nth(n));
        steps.push(step(Moment::Breach, breach.at, what, None));
    }
    steps
}

fn nth(n: usize) -> String {
    match n {
        0 => String::new(),
        1 => ", second in a row".to_owned(),
        2 => ", third in a row".to_owned(),
        n => format!(", {}th in a row", n + 1),
    }
}

fn at(steps: &[Step], moment: Moment) -> Option<Timestamp> {
    steps.iter().find(|step| step.moment == Some(moment)).map(|step| step.at)
}

fn took(outcome: &IncidentOutcome) -> Option<f64> {
    match outcome {
        IncidentOutcome::RolledBack { took_ms, .. } => Some(took_ms / 1000.0).filter(|took| took.is_finite() && *took >= 0.0),
        _ => None,
    }
}

fn durations(
    outcome: &IncidentOutcome,
    steps: &[Step],
    first_bad: Option<&FirstBad>,
    decided: Timestamp,
    moved: Option<Timestamp>,
) -> Durations {
    let arrived = at(steps, Moment::Arrived);
    let since = |from: Option<Timestamp>, to: Option<Timestamp>| Some(seconds(from?, to?)).filter(|seconds| *seconds >= 0.0);
    let first = first_bad.map(|first| first.at);
    Durations {
        switch_to_decision_seconds: since(at(steps, Moment::Switched), Some(decided)),
        detect_seconds: since(first, Some(decided)),
        detect_uncertainty_seconds: since(first_bad.and_then(|first| first.after), first),
        patch_seconds: took(outcome),
        endpoints_seconds: since(moved, arrived),
        suffering_seconds: since(first, arrived.or(moved)),
        recovery_seconds: since(moved, at(steps, Moment::Recovered)),
    }
}

/// A span that began between two samples: `6 s`, or `5 to 7 s`.
pub(super) fn about(least: f64, uncertainty: Option<f64>) -> String {
    let span = |seconds: f64| words::span(SignedDuration::try_from_secs_f64(seconds).unwrap_or_default());
    match uncertainty.map(|more| least + more) {
        // What differs by little is the same to a person.
        Some(most) if most > least * 1.1 && most - least > 0.5 => {
            let (least, most) = (span(least), span(most));
            // `21 to 26 s`: the unit once, where it is the same and there is one only.
            match (least.split_once(' '), most.split_once(' ')) {
                (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} to {most}"),
                _ => format!("{least} to {most}"),
            }
        }
        _ => span(least),
    }
}

/// `timeline.json`: the story for programs.
#[derive(Serialize)]
pub(super) struct Timeline<'c> {
    schema: u32,
    incident: &'c str,
    guard: &'c str,
    decided_at: Timestamp,
    first_bad_at: Option<Timestamp>,
    moments: Vec<TimelineStep<'c>>,
    durations: &'c Durations,
    bad_requests: Option<f64>,
    requests: Option<f64>,
}

#[derive(Serialize)]
struct TimelineStep<'c> {
    at: Timestamp,
    moment: Option<Moment>,
    what: &'c str,
    derived: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    seconds_since_decision: f64,
    seconds_since_first_bad: Option<f64>,
}

impl<'c> Timeline<'c> {
    /// The story of an incident.
    pub(super) fn of(incident: &'c Incident, course: &'c Course) -> Self {
        let first_bad_at = course.first_bad.as_ref().map(|first| first.at);
        let decided_at = incident.case.at;
        let step = |step: &'c Step| TimelineStep {
            at: step.at,
            moment: step.moment,
            what: &step.what,
            derived: step.derived,
            not_before: step.after,
            seconds_since_decision: seconds(decided_at, step.at),
            seconds_since_first_bad: first_bad_at.map(|first| seconds(first, step.at)),
        };
        Self {
            schema: TIMELINE_SCHEMA,
            incident: &incident.id,
            guard: incident.case.guard.as_str(),
            decided_at,
            first_bad_at,
            moments: course.steps.iter().map(step).collect(),
            durations: &course.durations,
            bad_requests: course.hit.map(|(bad, _)| bad),
            requests: course.hit.map(|(_, total)| total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::fixture::{at, color, incident, rule};

    fn bars() -> Vec<Bar> {
        incident().case.rules.iter().map(Bar::told).collect()
    }

    #[test]
    fn what_was_recorded_is_not_told_twice() {
        let mut incident = incident();
        let accepted = at("2026-11-21T04:12:34.576Z");
        incident.timeline = vec![
            TimelineEntry::of(Moment::Decided, incident.case.at, "Decided: in its own words"),
            TimelineEntry::of(Moment::Patched, accepted, "Accepted in its own words"),
            TimelineEntry::remark(accepted, "A remark"),
        ];
        let course = course(&incident, &bars(), &Trace::default(), &[]);
        let told: Vec<_> = course.steps.iter().map(|step| step.what.as_str()).collect();
        assert_eq!(told, ["Decided: in its own words", "Accepted in its own words", "A remark"]);
    }

    #[test]
    fn lines_of_older_versions_are_known_by_their_words() {
        let mut incident = incident();
        incident.timeline = [
            "error_rate 12.4 %",
            "The API server accepted the patch after 3.9 ms",
            "Verified after 18 ms: the Service's endpoints follow, 2 are Ready",
            "Blue serves well after the rollback, with 2 Ready endpoints",
        ]
        .map(|what| TimelineEntry::remark(incident.case.at, what))
        .into();
        let course = course(&incident, &bars(), &Trace::default(), &[]);
        let moments: Vec<_> = course.steps.iter().filter_map(|step| step.moment).collect();
        assert_eq!(moments, [Moment::Decided, Moment::Patched, Moment::Arrived, Moment::Recovered]);
    }

    #[test]
    fn how_long_users_suffered_is_told_with_what_is_not_known() {
        let mut incident = incident();
        incident.timeline = vec![
            TimelineEntry::of(Moment::Arrived, at("2026-11-21T04:12:36Z"), "arrived"),
            TimelineEntry::of(Moment::Recovered, at("2026-11-21T04:13:04.576Z"), "recovered"),
        ];
        let points = [
            (at("2026-11-21T04:12:00Z"), 0.0),
            (at("2026-11-21T04:12:10Z"), 0.2),
            (at("2026-11-21T04:12:30Z"), 0.3),
        ];
        let line = Series {
            rule: rule("error_rate"),
            color: color("green"),
            name: "share".into(),
            query: String::new(),
            points: points.into(),
        };
        let course = course(&incident, &bars(), &Trace::default(), &[line]);
        insta::assert_json_snapshot!(course.durations);
        assert_eq!(about(26.0, Some(10.0)), "26 to 36 s");
        assert_eq!(about(50.0, Some(30.0)), "50 s to 1 min 20 s");
        assert_eq!(about(26.0, Some(0.4)), "26 s");
    }
}
