//! The incident in sentences: what became of it, what a person should do next, and the configuration in force in plain
//! words. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::words::{self, percent, plain};
use crate::model::{
    Action, AfterWatch, Hold, Incident, IncidentOutcome, Judging, Mode, Moment, Path, Policy, Refusal, Release, RuleKind, RuleSpec,
    ScalarRule, Suppression, Trigger,
};

use super::course::Course;

/// Signs of a sentence that somebody else wrote.
const SENTENCE_CHARS_MAX: usize = 600;

/// What became of an incident.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// In two or three words.
    pub(super) word: String,
    /// `good`, `warn`, `bad`: never alone, the word says it too.
    pub(super) tone: &'static str,
    /// The one sentence: why.
    pub(super) headline: String,
    /// What became of it, in a sentence.
    pub(super) became: String,
    /// What a person should do next.
    pub(super) next: String,
}

/// What became of it, and what to do.
pub(super) fn outcome(incident: &Incident, course: &Course) -> Outcome {
    let case = &incident.case;
    let (from, to) = (&case.from, &case.to);
    let has = |moment: Moment| course.steps.iter().rev().find(|step| step.moment == Some(moment));
    let manual = matches!(case.trigger, Trigger::Manual { .. });
    let mut headline = words::sentence(&words::line(&case.why, SENTENCE_CHARS_MAX));
    let told = |word: &str, tone: &'static str, became: String, next: String| (word.to_owned(), tone, became, next);
    let (word, tone, became, next) = match &incident.outcome {
        IncidentOutcome::RolledBack { .. } if is_lost(course) => told(
            "Patched, not arrived",
            "bad",
            format!("The API server accepted the patch from {from} to {to}, and traffic was not seen to follow."),
            format!("Look at the Service's selector and its EndpointSlices now: users may still be on {from}."),
        ),
        IncidentOutcome::RolledBack { .. } if made_again(course).is_some() => told(
            "Moved back, made again",
            "warn",
            format!("Traffic was moved from {from} to {to}, somebody moved it back to {from}, and the rollback was made again."),
            "Teach whoever moves it back to leave a rollback alone: `flipback check` names them, and prints how.".to_owned(),
        ),
        IncidentOutcome::RolledBack { .. } if has(Moment::FlippedBack).is_some() => told(
            "Moved back by somebody",
            "bad",
            format!("Traffic was moved from {from} to {to}, and then somebody moved it back to {from}."),
            "Find out who did, and why: flipback makes a rollback again only where reassert is set, and never against a person.".to_owned(),
        ),
        IncidentOutcome::RolledBack { .. } if has(Moment::DidNotHelp).is_some() => told(
            "Rolled back, did not help",
            "bad",
            format!("Traffic was moved from {from} to {to}, and {to} is bad too."),
            "Look for what both colors share: a database, a dependency, the network. Another flip will not help.".to_owned(),
        ),
        IncidentOutcome::RolledBack { preview_error, .. } => {
            let word = match case.trigger {
                Trigger::Manual { .. } => "Switched by hand",
                Trigger::Reassert { .. } => "Rolled back again",
                Trigger::Rule { .. } => "Rolled back",
            };
            let preview = preview_error
                .as_ref()
                .map(|_| " The preview Service was not swapped along.")
                .unwrap_or_default();
            let next = match has(Moment::Recovered) {
                Some(_) => format!(
                    "Users are well on {to}. Find the cause in {from} before it is released again: the same release is not flipped to automatically."
                ),
                None if manual => format!("Watch {to}: it is judged by the same rules."),
                None => format!("See whether {to} serves well, then find the cause in {from} before it is released again."),
            };
            let tone = if preview_error.is_some() { "warn" } else { "good" };
            told(word, tone, format!("Traffic was moved from {from} to {to}.{preview}"), next)
        }
        IncidentOutcome::Withheld => told(
            "Would have rolled back",
            "warn",
            format!("Monitor only: traffic would have been moved from {from} to {to}, and was not. Users were still on {from}."),
            format!(
                "{} was bad when this was written. To move traffic, {}; with mode = \"enforce\" flipback does it.",
                words::sentence(from.as_str()),
                by_hand(incident)
            ),
        ),
        IncidentOutcome::DryRun => told(
            "Dry run",
            "good",
            format!("The API server accepted the patch from {from} to {to} and stored nothing."),
            "Nothing.".to_owned(),
        ),
        IncidentOutcome::Failed { error } => {
            headline = format!("{headline}. {}", words::sentence(&words::line(error, SENTENCE_CHARS_MAX)));
            told(
                if incident.is_switch() { "Switch failed" } else { "Rollback failed" },
                "bad",
                format!("The patch from {from} to {to} failed: users were still on {from} when this was written."),
                if manual {
                    format!(
                        "flipback does not try a person's flip again by itself. Once more: {}.",
                        by_hand(incident)
                    )
                } else {
                    format!(
                        "It tries again while the release is bad. If it does not manage at its next look: {}.",
                        by_hand(incident)
                    )
                },
            )
        }
        IncidentOutcome::Blocked { refusal } => {
            headline = format!("{headline}, but {}", words::line(&refusal.to_string(), SENTENCE_CHARS_MAX));
            told(
                "Blocked",
                "bad",
                format!("The release is bad and traffic was not moved: users were still on {from} when this was written."),
                remedy(refusal, incident),
            )
        }
        IncidentOutcome::Suppressed { suppression } => {
            headline = format!("{headline}, but {suppression}");
            told(
                "Not the release's fault",
                "warn",
                format!("Traffic was left on {from}."),
                shared(suppression, incident),
            )
        }
        IncidentOutcome::Decided => told(
            "Decided",
            "warn",
            format!("It was decided to move traffic from {from} to {to}; what became of it is not recorded here."),
            "Look at the Service: its ledger annotation says whether the patch arrived.".to_owned(),
        ),
    };
    Outcome {
        word,
        tone,
        headline,
        became,
        next,
    }
}

/// What became of the color that was live and of the one that was to take over, in a few words; never by the place that
/// they had when it was decided.
pub(super) fn roles(incident: &Incident, course: &Course) -> (String, String) {
    let at = |moment: Moment| {
        course
            .steps
            .iter()
            .rev()
            .find(|step| step.moment == Some(moment))
            .map(|step| step.at)
    };
    let since = |at: Option<Timestamp>| {
        at.map(|at| format!(" since {}", words::clock(at, incident.case.at)))
            .unwrap_or_default()
    };
    let took_over = match incident.case.trigger {
        Trigger::Manual { .. } => "switched to",
        Trigger::Reassert { .. } => "restored again",
        Trigger::Rule { .. } => "restored",
    };
    let (from, to) = match &incident.outcome {
        IncidentOutcome::RolledBack { .. } if is_lost(course) => (
            "traffic was not seen to leave it".to_owned(),
            "traffic was not seen to arrive".to_owned(),
        ),
        IncidentOutcome::RolledBack { .. } if made_again(course).is_some() => (
            "left, moved back to, then left again".to_owned(),
            format!("{took_over}, left, then restored again: serves{}", since(made_again(course))),
        ),
        IncidentOutcome::RolledBack { .. } if at(Moment::FlippedBack).is_some() => (
            format!("left, then moved back to: serves{}", since(at(Moment::FlippedBack))),
            format!("{took_over}, then left again"),
        ),
        IncidentOutcome::RolledBack { .. } => {
            let bad = if at(Moment::DidNotHelp).is_some() { ", bad too" } else { "" };
            (
                "the release that was left".to_owned(),
                format!("{took_over}{bad}: serves{}", since(course.moved)),
            )
        }
        _ => ("traffic stayed on it".to_owned(), "traffic was not moved to it".to_owned()),
    };
    (from, to)
}

/// Whether traffic was not seen to arrive, and not later either.
fn is_lost(course: &Course) -> bool {
    let last = |moment: Moment| course.steps.iter().rposition(|step| step.moment == Some(moment));
    last(Moment::NotArrived).is_some_and(|lost| last(Moment::Arrived).is_none_or(|arrived| arrived < lost))
}

/// When a rollback that somebody undid was made again, if it was not undone once more.
fn made_again(course: &Course) -> Option<Timestamp> {
    let last = |moment: Moment| course.steps.iter().rposition(|step| step.moment == Some(moment));
    let again = last(Moment::MadeAgain).filter(|again| last(Moment::FlippedBack).is_none_or(|undone| undone < *again))?;
    course.steps.get(again).map(|step| step.at)
}

/// How traffic is moved by a person: flipback withholds a person's commands, too, where it only monitors.
fn by_hand(incident: &Incident) -> String {
    let (guard, to) = (&incident.case.guard, &incident.case.to);
    match incident.mode {
        Mode::Enforce => format!("`flipback switch {guard} {to} --reason \"by hand\"`"),
        Mode::Monitor => format!("set the selector of {} to {to} your own way", words::line(&incident.object, 200)),
    }
}

/// What a person can do about a refusal.
fn remedy(refusal: &Refusal, incident: &Incident) -> String {
    let (guard, to, by_hand) = (&incident.case.guard, &incident.case.to, by_hand(incident));
    let anyway = format!("To move traffic all the same: {by_hand}.");
    match refusal {
        Refusal::StandbyNotReady { .. } => {
            "Bring the standby color up, or fix the live one: flipback tries again while it is bad.".to_owned()
        }
        // Nobody is moved to a color that cannot be seen, by flipback's own commands neither.
        Refusal::StandbyUnseen => format!(
            "Find out why EndpointSlices are not being watched (the API server, RBAC). If you know that {to} is well, set the selector of {} to {to} \
             your own way.",
            words::line(&incident.object, 200)
        ),
        Refusal::Paused { .. } => format!("`flipback resume {guard}` lets it act again. {anyway}"),
        Refusal::Cooldown { .. } => format!("If it cannot wait for the end of the cooldown: {by_hand}."),
        Refusal::Disarmed { .. } => {
            format!("Too many flips: somebody must look at both releases. `flipback clear {guard}` arms it again. {anyway}")
        }
        Refusal::StandbyKnownBad { .. } => format!("Neither color is good: fix one of them. {anyway}"),
        Refusal::StandbyUnavailable { .. } => {
            format!("Look at the standby's Deployment: `kubectl describe` says which pods are missing. {anyway}")
        }
        Refusal::StandbyProbes { .. } => {
            format!("Look why the standby fails its probes: flipback tries again while the live one is bad. {anyway}")
        }
        Refusal::StandbyScaling { .. } => {
            "Wait: flipback moves traffic the moment the standby can serve. Its pods say what they wait for.".to_owned()
        }
        Refusal::Held(held) => match held.by {
            Hold::Maintenance => format!("It acts again when the window ends. If it cannot wait: {by_hand}."),
            Hold::ManyFailing => format!("Look for what the failing guards share before anything is flipped. {anyway}"),
        },
        Refusal::AlreadyFlipped { .. } => format!("Somebody chose this release again: ask them. {anyway}"),
    }
}

fn shared(suppression: &Suppression, incident: &Incident) -> String {
    let first = match suppression {
        Suppression::BadBefore => "Look for a cause older than the switch: a dependency, the load, the threshold itself.",
        Suppression::StandbyBad | Suppression::FleetBad => "Look for what all colors share: a database, a dependency, the network.",
        Suppression::AfterWatch => "It went bad long after the switch: look whether it is the release.",
        Suppression::ReportOnly => "The color that was restored is bad too: look for what both share.",
    };
    format!("{first} To move traffic all the same: {}.", by_hand(incident))
}

/// What asked for it.
pub(super) fn triggered(trigger: &Trigger, policy: &Policy) -> String {
    match trigger {
        Trigger::Manual { by, reason } => {
            let reason = words::line(reason, SENTENCE_CHARS_MAX);
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("{}{reason}", words::line(by, 120))
        }
        Trigger::Reassert { by, attempt, of } => {
            format!("{} undid the rollback: made again, {attempt} of {of}", words::line(by, 120))
        }
        Trigger::Rule { rule, path } => {
            let path = match path {
                Path::Fast => format!("{} breaches in a row, {} sure", policy.consecutive, percent(policy.confidence)),
                Path::Severe => "two severe intervals in a row".to_owned(),
                Path::Slow => format!("the slow path: over its limit for {}", span(policy.slow_hold)),
                Path::Critical => "zero tolerance: one breach".to_owned(),
                Path::Endpoints => "no Ready endpoint for too long".to_owned(),
                Path::Probe => format!("{} failed rounds of probes in a row", policy.consecutive),
                Path::Classic => format!("{} bad polls in a row", policy.consecutive),
            };
            format!("rule {rule}, by {path}")
        }
    }
}

/// A release in a few signs: the tag of its first image, else its hash.
pub(super) fn version(release: Option<&Release>) -> String {
    let Some(release) = release else {
        return "unknown release".to_owned();
    };
    let tag = release.images.first().and_then(|image| {
        let name = image.rsplit('/').next()?;
        // A digest says too much.
        let name = name.split('@').next()?;
        name.split_once(':').map(|(_, tag)| tag.to_owned())
    });
    words::line(&tag.unwrap_or_else(|| release.id.clone()), 60)
}

/// A release whole.
pub(super) fn release(release: Option<&Release>) -> String {
    match release {
        None => "release not known (no Deployment named for this color)".to_owned(),
        Some(release) => words::line(&format!("{} (template {})", release.images.join(", "), release.id), 500),
    }
}

fn span(duration: std::time::Duration) -> String {
    words::span(SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
}

/// A rule as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct RuleRow {
    /// Its name.
    pub(super) name: String,
    /// When it breaches.
    pub(super) breaches: String,
    /// What a confirmed breach does.
    pub(super) does: String,
    /// What is asked: queries, a path.
    pub(super) asks: Vec<String>,
}

/// A rule in plain words.
pub(super) fn rule(spec: &RuleSpec) -> RuleRow {
    let mut asks = Vec::new();
    let breaches = match &spec.kind {
        RuleKind::ErrorRate(rule) => {
            asks.extend([format!("all: {}", rule.total), format!("bad: {}", rule.bad)]);
            format!("more than {} of requests fail", percent(rule.threshold))
        }
        RuleKind::Availability(rule) => {
            asks.extend([format!("all: {}", rule.total), format!("bad: {}", rule.bad)]);
            format!("fewer than {} of requests succeed", percent(rule.threshold))
        }
        RuleKind::Latency(rule) => {
            asks.push(rule.buckets.clone());
            format!("more than {} of requests take over {}", percent(rule.share()), span(rule.threshold))
        }
        RuleKind::Promql(rule) | RuleKind::Throughput(rule) | RuleKind::Saturation(rule) => {
            asks.push(rule.expr.clone());
            number(rule)
        }
        RuleKind::Probe(rule) => {
            let port = rule
                .port
                .map_or_else(|| "the Service's target port".to_owned(), |port| format!("port {port}"));
            asks.push(format!("GET {} on {port}", rule.path));
            format!("more than {} of endpoints fail their probe", percent(rule.threshold))
        }
        RuleKind::Endpoints(rule) => format!("no endpoint is Ready for {}", span(rule.down_for)),
    };
    let mut does = match spec.action {
        Action::Rollback => "rolls back".to_owned(),
        Action::Alert => "alerts, never flips".to_owned(),
    };
    if spec.critical {
        does.push_str(", at the first breach");
    }
    if let Some(windows) = spec.windows {
        does.push_str(&format!(", if {} and {} agree", span(windows.short), span(windows.long)));
    }
    asks.retain(|ask| !ask.is_empty() && ask != "all: " && ask != "bad: ");
    RuleRow {
        name: spec.name.to_string(),
        breaches,
        does,
        asks: asks.iter().map(|ask| words::line(ask, 1000)).collect(),
    }
}

fn number(rule: &ScalarRule) -> String {
    let unit = rule.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
    let limits = [
        rule.max.map(|max| format!("over {}{unit}", plain(max))),
        rule.min.map(|min| format!("under {}{unit}", plain(min))),
        rule.max_ratio_to_standby
            .map(|ratio| format!("over {} times the standby's", plain(ratio))),
        rule.max_ratio_to_before
            .map(|ratio| format!("over {} times what it was before the switch", plain(ratio))),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    format!("the number is {}", limits.join(" or "))
}

/// The policy in plain words, one sentence per matter.
pub(super) fn policy(policy: &Policy, mode: Mode) -> Vec<String> {
    let judged = match policy.mode {
        Judging::Intervals => format!(
            "A look every {}; {} breaches in a row, {} sure, are a confirmed breach.",
            span(policy.poll),
            policy.consecutive,
            percent(policy.confidence)
        ),
        Judging::Classic => format!(
            "Classic mode: a look every {} over {} (latency over {}); {} bad looks in a row are a confirmed breach.",
            span(policy.poll),
            span(policy.window),
            span(policy.window_latency),
            policy.consecutive
        ),
    };
    let example = (f64::from(policy.min_bad) / 0.05 - 1e-6).ceil();
    let enough = policy.min_requests.map_or_else(
        || format!("enough of them ({} at a limit of 5 %)", plain(example)),
        |count| format!("{count} of them"),
    );
    let after = match policy.after_watch {
        AfterWatch::Slow => "the slow path and the endpoints remain",
        AfterWatch::Full => "every path remains",
        AfterWatch::Alert => "it only alerts",
    };
    vec![
        match mode {
            Mode::Enforce => "Enforce: a confirmed breach moves traffic.".to_owned(),
            Mode::Monitor => "Monitor only: nothing is ever written to the cluster.".to_owned(),
        },
        judged,
        format!(
            "Requests are judged together until {} are bad or there are {enough}, for {} at most.",
            policy.min_bad,
            span(policy.stretch)
        ),
        format!(
            "Severe: {} bad with at least {} bad requests, twice in a row, does not wait for more.",
            percent(policy.severe_share),
            policy.severe_bad
        ),
        format!(
            "Slow: over the limit for {} within the last {}, with at least {} bad requests.",
            span(policy.slow_hold),
            span(policy.slow_window),
            policy.slow_bad
        ),
        format!("Every path is armed for {} after a switch; then {after}.", span(policy.watch)),
        format!(
            "Warm-up after a switch: {} for errors, {} for latency.",
            span(policy.warm_up),
            span(policy.warm_up_latency)
        ),
        format!(
            "No second automatic flip within {}; {} in 24 hours disarm the guard; the standby needs {} of the active's Ready endpoints.",
            span(policy.cooldown),
            policy.flips_per_day,
            percent(policy.standby_share)
        ),
        format!(
            "Without usable data for {} it is blind and says so; a streak expires after {}.",
            span(policy.blind_after),
            span(policy.expire)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::fixture::{incident, spec};

    /// A course of nothing but these moments, a second apart.
    fn course(moments: &[Moment]) -> Course {
        let step = |(second, moment): (i64, &Moment)| crate::evidence::report::course::Step {
            at: incident()
                .case
                .at
                .saturating_add(SignedDuration::from_secs(second))
                .expect("in range"),
            moment: Some(*moment),
            what: String::new(),
            derived: false,
            after: None,
        };
        Course {
            steps: (1..).zip(moments).map(step).collect(),
            first_bad: None,
            breaches: std::collections::BTreeMap::new(),
            moved: None,
            durations: crate::evidence::report::course::Durations::default(),
            hit: None,
        }
    }

    #[test]
    fn what_was_undone_and_made_again_is_told_by_its_last_turn() {
        use Moment::{FlippedBack, MadeAgain, Patched};
        let told = |moments: &[Moment]| {
            let course = course(moments);
            (outcome(&incident(), &course).word, roles(&incident(), &course))
        };
        let (word, roles) = told(&[Patched, FlippedBack]);
        assert_eq!(word, "Moved back by somebody");
        assert!(roles.0.starts_with("left, then moved back to: serves since"), "{roles:?}");
        let (word, roles) = told(&[Patched, FlippedBack, MadeAgain]);
        assert_eq!(
            (word.as_str(), roles.0.as_str()),
            ("Moved back, made again", "left, moved back to, then left again")
        );
        assert!(
            roles.1.starts_with("restored, left, then restored again: serves since"),
            "{roles:?}"
        );
        assert_eq!(told(&[Patched, FlippedBack, MadeAgain, FlippedBack]).0, "Moved back by somebody");
    }

    #[test]
    fn a_rollback_that_was_made_again_says_so_of_itself() {
        let mut again = incident();
        again.case.trigger = Trigger::Reassert {
            by: "argocd-controller".into(),
            attempt: 1,
            of: 2,
        };
        let course = course(&[Moment::Patched]);
        assert_eq!(outcome(&again, &course).word, "Rolled back again");
        assert!(roles(&again, &course).1.starts_with("restored again: serves"));
    }

    #[test]
    fn what_a_person_asked_for_and_failed_is_told_as_that_and_not_promised_again() {
        let mut failed = incident();
        failed.outcome = IncidentOutcome::Failed { error: "403".into() };
        let ours = outcome(&failed, &course(&[]));
        assert_eq!(ours.word, "Rollback failed");
        assert!(ours.next.starts_with("It tries again"), "{}", ours.next);
        failed.case.trigger = Trigger::Manual {
            by: "ann".into(),
            reason: "r".into(),
        };
        let rollback = outcome(&failed, &course(&[]));
        assert_eq!(rollback.word, "Rollback failed");
        assert!(
            rollback.next.starts_with("flipback does not try a person's flip again"),
            "{}",
            rollback.next
        );
        failed
            .timeline
            .push(crate::model::TimelineEntry::remark(failed.case.at, crate::model::incident::SWITCH));
        assert_eq!(outcome(&failed, &course(&[])).word, "Switch failed");
    }

    #[test]
    fn a_version_is_the_tag_that_people_know() {
        let of = |image: &str| {
            let release = Release {
                id: "9f1c".into(),
                images: vec![image.into()],
            };
            version(Some(&release))
        };
        assert_eq!(of("registry.example:5000/shop/web:1.4.0"), "1.4.0");
        assert_eq!(of("web@sha256:abcdef"), "9f1c");
        assert_eq!(of("web:1.4.0@sha256:abcdef"), "1.4.0");
        assert_eq!(version(None), "unknown release");
    }

    #[test]
    fn a_person_is_told_no_command_that_would_be_refused() {
        let until = "2026-11-21T05:00:00Z".parse().expect("a time");
        let refusals = [
            Refusal::StandbyNotReady { ready: 0, needed: 2 },
            Refusal::StandbyUnseen,
            Refusal::Paused { by: "ana@ops-1".into() },
            Refusal::Cooldown { until },
            Refusal::Disarmed { flips: 3 },
            Refusal::StandbyKnownBad { release: "9f1c".into() },
            Refusal::AlreadyFlipped { release: "9f1c".into() },
            Refusal::StandbyUnavailable { why: "0 of 3".into() },
            Refusal::StandbyProbes { why: "2 of 3".into() },
        ];
        for refusal in refusals {
            let enforce = incident();
            let told = remedy(&refusal, &enforce);
            let whole = told.contains("`flipback switch shop/web blue --reason \"by hand\"`");
            assert_eq!(whole, refusal.yields_to_a_person(), "{told}");
            assert_eq!(told.contains("flipback switch"), whole, "{told}");
            let monitor = Incident {
                mode: Mode::Monitor,
                ..enforce
            };
            assert!(
                !remedy(&refusal, &monitor).contains("flipback switch"),
                "monitor mode withholds a person's switch"
            );
        }
        // Only `clear` arms a guard again.
        assert!(remedy(&Refusal::Disarmed { flips: 3 }, &incident()).contains("`flipback clear shop/web`"));
    }

    #[test]
    fn the_configuration_is_told_in_plain_words() {
        let spec = spec();
        let rules: Vec<RuleRow> = spec.rules.iter().map(rule).collect();
        insta::assert_json_snapshot!((
            rules,
            policy(&Policy::default(), Mode::Enforce),
            triggered(&incident().case.trigger, &spec.policy)
        ));
    }
}
