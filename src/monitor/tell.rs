//! From what happened to what is said. Words only; who hears them is the outbox's business.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{Monitor, act, arrive, hold, late, show};
pub use crate::model::chain;
use crate::{
    evidence::Keeper,
    model::{
        Actor, Announcement, Color, Decision, GuardId, GuardSpec, Incident, IncidentOutcome, Moment, Note, Observation, Reaction, Refusal,
        Severity, TimelineEntry, Topic, Trigger, View, traffic::Traffic,
    },
    router::{RouterError, Verified},
};

/// The name of a message about an incident: the same whenever it is made again, and another for each further time that
/// the same is told.
pub(super) fn message_id(incident: &str, topic: Topic, time: usize) -> String {
    match time {
        0 | 1 => format!("{incident}.{}", topic.as_str()),
        again => format!("{incident}.{}.{again}", topic.as_str()),
    }
}

/// How often a moment is in an incident's story.
pub(super) fn times(incident: &Incident, moment: Moment) -> usize {
    incident.timeline.iter().filter(|entry| entry.moment == Some(moment)).count()
}

/// The message of an incident.
pub(super) fn incident(incident: &Incident, topic: Topic, keeper: &Keeper, spec: &GuardSpec) -> Announcement {
    let case = &incident.case;
    let why = match &incident.outcome {
        IncidentOutcome::Failed { error } => format!("{}. {}", case.why, show::sentence(error)),
        IncidentOutcome::Blocked { refusal } => format!("{}, but {refusal}", case.why),
        IncidentOutcome::Suppressed { suppression } => format!("{}, but {suppression}", case.why),
        IncidentOutcome::RolledBack { .. } if topic == Topic::RollbackFailed => {
            let last = incident.timeline.last().map(|entry| entry.what.as_str()).unwrap_or_default();
            format!("{}. {last}", case.why)
        }
        IncidentOutcome::RolledBack { .. } if topic == Topic::ArrivalUnseen => {
            let last = incident.timeline.last().map(|entry| entry.what.as_str()).unwrap_or_default();
            format!("{}. The API server has accepted the patch. {last}", case.why)
        }
        IncidentOutcome::RolledBack { at, .. }
            if matches!(topic, Topic::RollbackCompleted | Topic::Switched) && late::is_taken_back(incident) =>
        {
            let after = people(show::since(*at, case.at));
            format!(
                "{}. Told as failed before, since the answer was lost: the API server carried it out {after} after the decision",
                case.why
            )
        }
        IncidentOutcome::RolledBack { .. } if matches!(topic, Topic::RollbackCompleted | Topic::Switched) => {
            let doubt = arrive::in_doubt_for(incident).map(people);
            let seen = doubt.map(|after| format!(". Traffic was seen to have arrived {after} after it was moved"));
            format!("{}{}", case.why, seen.unwrap_or_default())
        }
        _ => case.why.clone(),
    };
    let took_ms = match &incident.outcome {
        IncidentOutcome::RolledBack { took_ms, .. } => Some(*took_ms),
        _ => None,
    };
    // One that was told as failed and carried out all the same may fail to arrive: another message, by another name.
    let time = match topic {
        Topic::RollbackFailed => times(incident, Moment::PatchFailed) + times(incident, Moment::NotArrived),
        _ => 1,
    };
    let at = match topic {
        Topic::RollbackInitiated => case.at,
        _ => incident.timeline.last().map_or(case.at, |entry| entry.at),
    };
    // What waits for the standby is told on by another incident, in its own place.
    let evidence = (topic != Topic::ScalingUp).then(|| keeper.place(&incident.id));
    Announcement {
        id: message_id(&incident.id, topic, time),
        guard: case.guard.clone(),
        at,
        topic,
        why,
        mode: incident.mode,
        cluster: incident.cluster.clone(),
        namespace: incident.namespace.clone(),
        object: incident.object.clone(),
        from: Some(case.from.clone()),
        to: Some(case.to.clone()),
        from_release: case.from_release.clone(),
        to_release: case.to_release.clone(),
        trigger: Some(case.trigger.to_string()),
        incident: Some(incident.id.clone()),
        thread: incident.thread().to_owned(),
        evidence,
        // The report is not there yet; whoever knows that it is says where.
        link: None,
        picture: None,
        switch: incident.is_switch(),
        refusal: match &incident.outcome {
            IncidentOutcome::Blocked { refusal } => Some(refusal.clone()),
            _ => None,
        },
        took_ms,
        decided_at: Some(case.at),
        switched_at: incident.switched_at,
        repeats: None,
        chats: spec.chats.clone(),
    }
}

/// The message that a flip is under way, where there is one. An attempt that goes on with an earlier one has it by that one's name: a
/// chat that was told before is not told again, and one that was not hears of the attempt that goes on.
pub(super) fn first(incident: &Incident, keeper: &Keeper, spec: &GuardSpec) -> Option<Announcement> {
    let by = act::announcer(incident)?;
    let topic = Topic::RollbackInitiated;
    Some(Announcement {
        id: message_id(&by, topic, 1),
        ..self::incident(incident, topic, keeper, spec)
    })
}

/// The message that an incident's report can be opened, now or as a whole, with its picture.
pub(super) fn evidence_ready(incident: &Incident, topic: Topic, at: Timestamp, keeper: &Keeper, spec: &GuardSpec) -> Announcement {
    let why = match topic {
        Topic::Resolved => format!(
            "{} serves well since {}; the report holds the time before and after",
            incident.case.to,
            recovered_at(incident).strftime("%H:%M:%S UTC")
        ),
        _ => incident.case.why.clone(),
    };
    Announcement {
        at,
        topic,
        why,
        link: keeper.link(&incident.id),
        picture: Some(keeper.picture(&incident.id)),
        ..self::incident(incident, topic, keeper, spec)
    }
}

/// Whether somebody waits for the report on an incident. Nobody does for that of a person's switch, which calls nothing bad; of guards that
/// were held since many failed people are told together, and not of each; and what waits for a standby that is scaled up has not ended.
pub(super) fn is_awaited(incident: &Incident, topic: Topic) -> bool {
    !matches!(topic, Topic::Switched | Topic::ScalingUp) && !hold::is_of_the_fleet(&incident.outcome)
}

fn recovered_at(incident: &Incident) -> Timestamp {
    let recovered = incident.timeline.iter().find(|entry| entry.moment == Some(Moment::Recovered));
    recovered.map_or(incident.case.at, |entry| entry.at)
}

/// The message that an incident's evidence cannot be kept.
pub(super) fn evidence_lost(incident: &Incident, error: &str, at: Timestamp, keeper: &Keeper, spec: &GuardSpec) -> Announcement {
    let topic = Topic::EvidenceLost;
    Announcement {
        at,
        topic,
        why: error.to_owned(),
        evidence: None,
        link: None,
        ..self::incident(incident, topic, keeper, spec)
    }
}

/// The message that nothing more is to be said of an incident's evidence.
pub(super) fn evidence_over(incident: &Incident, why: &str, at: Timestamp, keeper: &Keeper, spec: &GuardSpec) -> Announcement {
    Announcement {
        // The same as of the end that the guard's own calm tells: whichever comes first closes the thread, and the other is told no more.
        id: message_id(&incident.id, Topic::Resolved, 1),
        why: why.to_owned(),
        ..evidence_ready(incident, Topic::Resolved, at, keeper, spec)
    }
}

/// Whether an incident has evidence, or will. A flip that came to nothing, such as one that somebody forestalled, leaves none, and
/// nobody is sent to look for it; one that an earlier run was killed over may. No disk is asked: one that hangs would stop every guard.
pub(super) fn leaves_evidence(incident: &Incident, keeper: &Keeper) -> bool {
    incident.outcome != IncidentOutcome::Decided || keeper.has_bundle(&incident.id)
}

/// The message that a bad time is over, whoever ended it, with what serves by now.
pub(super) fn resolved(
    incident: &Incident,
    traffic: &Traffic,
    end: &TimelineEntry,
    time: usize,
    keeper: &Keeper,
    spec: &GuardSpec,
) -> Announcement {
    let topic = Topic::Resolved;
    let active = Some((traffic.active.clone(), traffic.active_side().release));
    let of_incident = self::incident(incident, topic, keeper, spec);
    let kept = leaves_evidence(incident, keeper);
    Announcement {
        id: message_id(&incident.id, topic, time),
        at: end.at,
        topic,
        why: end.what.clone(),
        evidence: of_incident.evidence.clone().filter(|_| kept),
        link: keeper.link(&incident.id).filter(|_| kept),
        to: active.as_ref().map(|(color, _)| color.clone()),
        to_release: active.and_then(|(_, release)| release),
        from: None,
        from_release: None,
        ..of_incident
    }
}

/// Whether an incident of an earlier run is still waiting for its end, as far as its story tells. What a person flipped
/// was told to that person.
pub(super) fn is_open(incident: &Incident) -> bool {
    let ends = |moment: Moment| match moment {
        Moment::Recovered | Moment::Resolved => Some(true),
        Moment::DidNotHelp | Moment::FlippedBack => Some(false),
        _ => None,
    };
    let last = incident.timeline.iter().rev().find_map(|entry| entry.moment.and_then(ends));
    let ended = last.unwrap_or(matches!(incident.case.trigger, Trigger::Manual { .. }));
    !ended && incident.outcome != IncidentOutcome::DryRun
}

/// The topic that an incident's outcome is told by.
pub(super) fn topic(incident: &Incident) -> Topic {
    topic_of(&incident.outcome)
}

/// The topic that an outcome is told by.
pub(super) fn topic_of(outcome: &IncidentOutcome) -> Topic {
    match outcome {
        IncidentOutcome::RolledBack { .. } => Topic::RollbackCompleted,
        IncidentOutcome::Withheld => Topic::RollbackWithheld,
        IncidentOutcome::Blocked {
            refusal: Refusal::StandbyScaling { .. },
        } => Topic::ScalingUp,
        IncidentOutcome::Blocked { .. } => Topic::RollbackBlocked,
        IncidentOutcome::Suppressed { .. } => Topic::RollbackSuppressed,
        IncidentOutcome::Failed { .. } | IncidentOutcome::Decided | IncidentOutcome::DryRun => Topic::RollbackFailed,
    }
}

/// What is said of a guard that flips by itself again.
pub(super) const REARMED: &str = "its automatic flips of the last 24 h are below the limit again: it flips by itself again";

/// A duration as people say it: `34s`, `2m 5s`.
pub(super) fn people(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// Whether a topic tells of traffic that has arrived on the active color, rather than of what could be left for the standby.
fn arrived(topic: Topic) -> bool {
    matches!(topic, Topic::Switched | Topic::FlippedBack | Topic::Recovered | Topic::DidNotHelp)
}

/// The thread of something that is no incident: what begins and ends together shares one.
///
/// It names the cluster, too: daemons of several clusters may share a receiver, and what one of them calls over must not close
/// what another has opened.
fn thread(spec: &GuardSpec, topic: Topic) -> String {
    let about = match topic {
        Topic::Sighted => Topic::Blind,
        Topic::UnknownColor | Topic::Readable => Topic::Unreadable,
        Topic::Resumed => Topic::Paused,
        Topic::Rearmed => Topic::Disarmed,
        Topic::FewFailing => Topic::ManyFailing,
        other => other,
    };
    format!("{}.{}", spec.id.within(&spec.cluster).replace('/', "."), about.as_str())
}

/// The message of something that is no incident.
pub(super) fn note(spec: &GuardSpec, traffic: Option<&Traffic>, at: Timestamp, topic: Topic, why: String) -> Announcement {
    let active = traffic.map(|traffic| (traffic.active.clone(), traffic.active_side().release));
    let standby = traffic.map(|traffic| (traffic.standby.clone(), traffic.standby_side().release));
    let (from, to) = if arrived(topic) { (standby, active) } else { (active, standby) };
    Announcement {
        id: format!("{}.{}.{}", spec.id.file_name(), topic.as_str(), at.as_millisecond()),
        guard: spec.id.clone(),
        at,
        topic,
        why,
        mode: spec.mode,
        cluster: spec.cluster.clone(),
        namespace: spec.namespace.clone(),
        object: spec.route.object(),
        from: from.as_ref().map(|(color, _)| color.clone()),
        to: to.as_ref().map(|(color, _)| color.clone()),
        from_release: from.and_then(|(_, release)| release),
        to_release: to.and_then(|(_, release)| release),
        trigger: None,
        incident: None,
        thread: thread(spec, topic),
        evidence: None,
        link: None,
        picture: None,
        switch: topic == Topic::Switched,
        refusal: None,
        took_ms: None,
        decided_at: None,
        switched_at: None,
        repeats: None,
        chats: spec.chats.clone(),
    }
}

/// The message of a turn in an incident's story, for the `time`th time.
fn turn(
    incident: &Incident,
    topic: Topic,
    entry: &TimelineEntry,
    time: usize,
    traffic: Option<&Traffic>,
    keeper: &Keeper,
    spec: &GuardSpec,
) -> Announcement {
    Announcement {
        id: message_id(&incident.id, topic, time),
        incident: Some(incident.id.clone()),
        thread: incident.thread().to_owned(),
        decided_at: Some(incident.case.at),
        switched_at: incident.switched_at,
        evidence: Some(keeper.place(&incident.id)),
        link: keeper.link(&incident.id),
        ..note(spec, traffic, entry.at, topic, entry.what.clone())
    }
}

/// Every message that the story of a kept incident owes so far, in its order: pushed again after a restart, for the last
/// of them may have been lost with the process, and what has arrived is told apart by its name. `arrival` is what an
/// arrived flip is told by.
pub(super) fn owed(
    incident: &Incident,
    arrival: Topic,
    traffic: &Traffic,
    now: Timestamp,
    keeper: &Keeper,
    spec: &GuardSpec,
) -> Vec<Announcement> {
    let mut owed = Vec::new();
    owed.extend(first(incident, keeper, spec));
    let mut until = incident.clone();
    // Most outcomes are told at the decision, with what was known then.
    until.timeline.retain(|entry| entry.at <= incident.case.at);
    match &incident.outcome {
        IncidentOutcome::RolledBack { .. } | IncidentOutcome::Failed { .. } => {
            for (nth, entry) in incident.timeline.iter().enumerate() {
                let topic = match entry.moment {
                    Some(Moment::Arrived) => arrival,
                    Some(Moment::NotArrived | Moment::PatchFailed) => Topic::RollbackFailed,
                    _ => continue,
                };
                until.timeline = incident.timeline.iter().take(nth + 1).cloned().collect();
                owed.push(self::incident(&until, topic, keeper, spec));
            }
        }
        IncidentOutcome::Blocked { .. } | IncidentOutcome::Suppressed { .. } | IncidentOutcome::Withheld => {
            owed.push(self::incident(&until, self::topic(incident), keeper, spec));
        }
        IncidentOutcome::Decided | IncidentOutcome::DryRun => {}
    }
    let moved = matches!(incident.outcome, IncidentOutcome::RolledBack { .. });
    let switched = moved && arrival == Topic::Switched;
    let told = if moved { arrival } else { self::topic(incident) };
    if is_awaited(incident, told) {
        owed.push(evidence_ready(incident, Topic::EvidenceReady, now, keeper, spec));
    }
    let mut told: BTreeMap<Moment, usize> = BTreeMap::new();
    for entry in &incident.timeline {
        let Some(moment) = entry.moment else { continue };
        let time = told.entry(moment).or_default();
        *time += 1;
        let topic = match moment {
            Moment::Recovered => Topic::Recovered,
            Moment::DidNotHelp => Topic::DidNotHelp,
            Moment::FlippedBack => Topic::FlippedBack,
            Moment::Resolved => {
                owed.push(resolved(incident, traffic, entry, *time, keeper, spec));
                continue;
            }
            _ => continue,
        };
        owed.push(turn(incident, topic, entry, *time, Some(traffic), keeper, spec));
    }
    if let Some(at) = incident.followed_up_at.filter(|_| ends_well(incident) && !switched) {
        owed.push(evidence_ready(incident, Topic::Resolved, at, keeper, spec));
    }
    owed
}

/// Whether a flip is known to have helped, and nothing has come after it.
pub(super) fn ends_well(incident: &Incident) -> bool {
    let has = |moment: Moment| times(incident, moment) > 0;
    let moved = matches!(incident.outcome, IncidentOutcome::RolledBack { .. });
    moved && has(Moment::Recovered) && !has(Moment::DidNotHelp) && !has(Moment::FlippedBack)
}

/// The moment of an incident's story that a topic tells of.
fn moment(topic: Topic) -> Option<Moment> {
    match topic {
        Topic::Recovered => Some(Moment::Recovered),
        Topic::DidNotHelp => Some(Moment::DidNotHelp),
        Topic::FlippedBack => Some(Moment::FlippedBack),
        _ => None,
    }
}

/// One line for the page and the Kubernetes Event.
pub(super) fn line(topic: Topic, incident: &Incident) -> String {
    let case = &incident.case;
    let (from, to) = (&case.from, &case.to);
    match (&incident.outcome, topic) {
        (IncidentOutcome::RolledBack { took_ms, .. }, Topic::Switched) => {
            format!("Switched from {from} to {to}{}: {}", took(*took_ms), case.why)
        }
        (IncidentOutcome::RolledBack { took_ms, .. }, _) => format!("Rolled back from {from} to {to}{}: {}", took(*took_ms), case.why),
        (IncidentOutcome::Withheld, _) => format!("Would have rolled back from {from} to {to} (monitor only): {}", case.why),
        (IncidentOutcome::Failed { error }, _) => format!("Failed to roll back from {from} to {to}: {error}"),
        (IncidentOutcome::Blocked { refusal }, _) => format!("Not rolled back from {from}: {refusal}. {}", case.why),
        (IncidentOutcome::Suppressed { suppression }, _) => format!("Not rolled back from {from}: {suppression}. {}", case.why),
        (IncidentOutcome::Decided | IncidentOutcome::DryRun, _) => format!("Decided to roll back from {from} to {to}: {}", case.why),
    }
}

/// How long a flip took; nothing where that is not known.
fn took(ms: f64) -> String {
    if ms > 0.0 { format!(" in {ms:.1} ms") } else { String::new() }
}

/// The Kubernetes Event's reason.
pub(super) fn reason(topic: Topic) -> &'static str {
    match topic {
        Topic::RollbackCompleted => "RolledBack",
        Topic::RollbackFailed => "RollbackFailed",
        Topic::RollbackBlocked => "RollbackBlocked",
        Topic::ScalingUp => "ScalingUp",
        Topic::RollbackSuppressed => "RollbackSuppressed",
        Topic::Switched => "Switched",
        _ => "RollbackDecided",
    }
}

/// What a look after the flip has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Traffic has arrived.
    Arrived,
    /// It has not.
    NotThere,
    /// Nobody can tell: it could not be looked at.
    Unseen,
}

/// How the line of a story begins that says that nobody could look.
const UNSEEN: &str = "Whether traffic has arrived could not be looked at";

/// What a look after the flip has found, in words.
pub(super) fn verified(verified: Result<Verified, RouterError>) -> (Found, String) {
    match verified {
        Ok(Verified {
            problem: None,
            ready,
            took,
        }) => {
            let took_ms = took.as_secs_f64() * 1000.0;
            let what = format!("Verified after {took_ms:.0} ms: the Service's endpoints follow, {ready} are Ready");
            (Found::Arrived, what)
        }
        Ok(Verified {
            problem: Some(problem), ..
        }) => (Found::NotThere, format!("The patch was accepted, but {problem}")),
        Err(error) => (Found::Unseen, format!("{UNSEEN}: {}", chain(&error))),
    }
}

/// What is known where the daemon stops before it could look.
pub(super) fn unlooked() -> (Found, String) {
    (Found::Unseen, format!("{UNSEEN}: flipback had to end"))
}

/// The line that a look's finding adds to the story. What was never seen to arrive counts as not arrived in the end.
pub(super) fn found(found: Found, what: String, at: Timestamp) -> TimelineEntry {
    match found {
        Found::Arrived => TimelineEntry::of(Moment::Arrived, at, what),
        Found::NotThere if what.starts_with(UNSEEN) => {
            let never = format!("The patch was accepted, but nobody could look for a quarter of an hour. {what}");
            TimelineEntry::of(Moment::NotArrived, at, never)
        }
        Found::NotThere => TimelineEntry::of(Moment::NotArrived, at, what),
        Found::Unseen => TimelineEntry::remark(at, what),
    }
}

/// Whether a line says that nobody could look.
pub(super) fn is_unseen(entry: &TimelineEntry) -> bool {
    entry.moment.is_none() && entry.what.starts_with(UNSEEN)
}

/// An unknown selector value, with what would be understood.
pub(super) fn unknown_color(found: Option<&str>, known: &[String]) -> String {
    let known = known.join(", ");
    match found {
        Some(found) => format!("the selector says {found:?}, which is none of this guard's colors ({known}): nothing is done until it is"),
        None => format!("the selector has no such key; expected one of {known}: correct the guard's route.selector_key"),
    }
}

/// What a note says, and to whom: `None` means to the page and the log only.
pub(crate) fn words(note: &Note, traffic: Option<&Traffic>) -> (Option<Topic>, String) {
    match note {
        Note::Switched {
            undone: true,
            to,
            by,
            after_seconds,
            reaction,
            ..
        } => (
            Some(Topic::FlippedBack),
            reverted(to, by.as_deref(), *after_seconds, reaction.as_ref()),
        ),
        Note::Switched { from, to, by, .. } => {
            let by = by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
            let from = from
                .as_ref()
                .filter(|from| *from != to)
                .map(|from| format!(" from {from}"))
                .unwrap_or_default();
            (Some(Topic::Switched), format!("{to} is live, switched{from}{by}; watching it"))
        }
        Note::Expired { rule, streak } => (None, format!("The streak of {streak} of {rule} expired without a new breach")),
        Note::Blind { since, why } => (
            Some(Topic::Blind),
            format!(
                "no usable data since {}: {why}; nothing is flipped meanwhile",
                since.strftime("%H:%M:%S UTC")
            ),
        ),
        Note::Sighted { after_seconds } => (Some(Topic::Sighted), format!("usable data again after {after_seconds} s")),
        Note::Recovered => (Some(Topic::Recovered), recovered(traffic)),
        Note::DidNotHelp { why } => (
            Some(Topic::DidNotHelp),
            format!("the restored color is over its threshold too: {why}"),
        ),
        Note::Degraded { why, .. } => (Some(Topic::Degraded), why.clone()),
        Note::Alert { why, .. } => (Some(Topic::Alert), why.clone()),
        Note::Disarmed { flips } => (
            Some(Topic::Disarmed),
            format!("{flips} automatic flips in 24 h: this guard flips no more until a person looks at it"),
        ),
        Note::Rearmed { by: Some(by) } => (Some(Topic::Rearmed), format!("armed again by {by}")),
        Note::Rearmed { by: None } => (Some(Topic::Rearmed), REARMED.to_owned()),
        Note::Forgotten { release, by, reason } => {
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            (
                Some(Topic::Cleared),
                format!("{by} says that release {release} is bad no more{reason}"),
            )
        }
        Note::WatchEnded => (None, "The watch after the switch has ended".to_owned()),
        Note::UnknownColor { found, known } => (Some(Topic::UnknownColor), unknown_color(found.as_deref(), known)),
        Note::Unreadable { why } => (Some(Topic::Unreadable), why.clone()),
        Note::Readable => (
            Some(Topic::Readable),
            "the route can be read again, and selects a known color".to_owned(),
        ),
        Note::PauseChanged { by: Some(by) } => (
            Some(Topic::Paused),
            format!("paused by {by}: nothing is flipped until it is resumed"),
        ),
        Note::PauseChanged { by: None } => (Some(Topic::Resumed), "resumed".to_owned()),
    }
}

/// A rollback that somebody undid, and what is done about it.
fn reverted(to: &Color, by: Option<&str>, after_seconds: Option<u64>, reaction: Option<&Reaction>) -> String {
    let by = by.unwrap_or("somebody");
    let after = after_seconds
        .map(|seconds| format!(" after {}", people(Duration::from_secs(seconds))))
        .unwrap_or_default();
    let answer = match reaction {
        Some(Reaction::Reassert {
            after_seconds,
            attempt,
            of,
        }) => {
            let pause = people(Duration::from_secs(*after_seconds));
            format!("it is put back in {pause}, which is attempt {attempt} of {of}")
        }
        Some(Reaction::GivenUp { times }) => {
            format!("it has been put back {times} times and is not again: somebody has to end this")
        }
        Some(Reaction::Nothing) | None => "it is not flipped away again automatically".to_owned(),
    };
    format!("reverted by {by}{after}: {to} is live again, which flipback had rolled back from; {answer}")
}

/// Whether a topic goes on with the story of the newest incident.
fn of_incident(topic: Topic) -> bool {
    matches!(topic, Topic::Recovered | Topic::DidNotHelp | Topic::FlippedBack)
}

/// Who did what, of the notes that the journal keeps.
fn audited(note: &Note) -> Option<(Actor, &'static str)> {
    match note {
        Note::Switched { undone, by, .. } => {
            let name = by.clone().unwrap_or_else(|| "unknown".to_owned());
            Some((Actor::FieldManager { name }, if *undone { "flipped_back" } else { "switched" }))
        }
        Note::Recovered => Some((Actor::Flipback, "recovered")),
        Note::DidNotHelp { .. } => Some((Actor::Flipback, "did_not_help")),
        Note::Disarmed { .. } => Some((Actor::Flipback, "disarmed")),
        Note::PauseChanged { by: Some(by) } => Some((Actor::Person { name: by.clone() }, "paused")),
        Note::PauseChanged { by: None } => Some((
            Actor::Person {
                name: "unknown".to_owned(),
            },
            "resumed",
        )),
        // Whoever carried the word out has written who said it.
        Note::Rearmed { by: Some(_) } | Note::Forgotten { .. } => None,
        Note::Rearmed { by: None } => Some((Actor::Flipback, "rearmed")),
        Note::Expired { .. }
        | Note::Blind { .. }
        | Note::Sighted { .. }
        | Note::Degraded { .. }
        | Note::Alert { .. }
        | Note::WatchEnded
        | Note::UnknownColor { .. }
        | Note::Unreadable { .. }
        | Note::Readable => None,
    }
}

fn recovered(traffic: Option<&Traffic>) -> String {
    match traffic {
        Some(traffic) => format!(
            "{} serves well after the rollback, with {} Ready endpoints",
            traffic.active,
            traffic.active_side().ready
        ),
        None => "the restored color serves well".to_owned(),
    }
}

impl Monitor {
    /// Tells what happened since the last look.
    pub(super) fn notes(&mut self, id: &GuardId, decision: &Decision, seen: &Observation) {
        let traffic = match &seen.view {
            View::Known(traffic) => Some(&**traffic),
            View::UnknownColor { .. } | View::Unreadable(_) => None,
        };
        for happened in &decision.notes {
            let (topic, text) = words(happened, traffic);
            let Some(guard) = self.guards.get_mut(id) else { return };
            if guard.told_before(happened) {
                continue;
            }
            guard.note(seen.at, show::sentence(&text));
            if matches!(happened, Note::Switched { .. }) {
                self.metrics.switches.with_label_values(&[id.as_str()]).inc();
            }
            // An earlier run has told it: the same flips disarm the guard.
            if matches!(happened, Note::Disarmed { .. }) && guard.left_open(Topic::Disarmed) {
                continue;
            }
            // Our own flip comes back as a switch; its message has been sent.
            let own = matches!(happened, Note::Switched { undone: false, to, .. } if guard.moved_to(to));
            let ours = guard.last_incident.as_ref().map(|incident| incident.id.clone());
            let line = show::sentence(&text);
            match topic.filter(|_| !own).map(Topic::severity) {
                Some(Severity::Critical) => tracing::error!(guard = %id, "{line}"),
                Some(Severity::Warning) => tracing::warn!(guard = %id, "{line}"),
                Some(Severity::Info) | None => tracing::info!(guard = %id, "{line}"),
            }
            if let Some((actor, action)) = audited(happened).filter(|_| !own) {
                let incident = topic.filter(|topic| of_incident(*topic)).and(ours.as_deref());
                self.audit(seen.at, actor, Some(id), action, &text, incident);
            }
            let Some(topic) = topic.filter(|_| !own) else { continue };
            let Some(guard) = self.guards.get_mut(id) else { return };
            match topic {
                // An earlier run has told it: a restart begins the engine's look at the restored color anew.
                Topic::Recovered if guard.open.is_none() => continue,
                Topic::Recovered => guard.open = None,
                // What was closed is open again.
                Topic::DidNotHelp | Topic::FlippedBack if guard.open.is_none() => guard.open.clone_from(&guard.last),
                _ => {}
            }
            let last = guard.last.as_ref().filter(|_| of_incident(topic));
            let mut message = match last.zip(moment(topic)) {
                Some((last, moment)) => {
                    let entry = TimelineEntry::of(moment, seen.at, show::sentence(&text));
                    let message = Announcement {
                        why: text,
                        ..turn(last, topic, &entry, times(last, moment) + 1, traffic, &self.keeper, &guard.spec)
                    };
                    let told = self.outbox.push(message);
                    let incident = last.id.clone();
                    self.amend_told(incident, entry, told);
                    continue;
                }
                None => note(&guard.spec, traffic, seen.at, topic, text),
            };
            if topic == Topic::Disarmed
                && let Some(newest) = traffic.and_then(|traffic| traffic.ledger.flips.iter().rfind(|flip| flip.automatic))
            {
                // Told once for these flips, also by a run that does not know yet what the one before it has told.
                message.id = format!("{}.disarmed.{}", id.file_name(), newest.at.as_millisecond());
            }
            self.outbox.push(message);
        }
    }
}
