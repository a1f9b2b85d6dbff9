//! Pods and events as a person wants them: how each pod is, how its containers ended, and what the cluster said about it.
//! Pure. Reads only the fields it shows, since a list of pods is large.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::words;

/// Events shown; `events.json` has all.
const EVENTS_MAX: usize = 40;
/// Reasons of events that matter though they are no warnings.
const TELLING: [&str; 12] = [
    "Killing",
    "Scaled",
    "ScalingReplicaSet",
    "SuccessfulRescale",
    "Pulled",
    "Created",
    "Started",
    "Preempted",
    "Evicted",
    "NodeNotReady",
    "SuccessfulDelete",
    "RolledBack",
];

/// A list of objects, of which only some fields are read.
#[derive(Deserialize)]
pub(super) struct List<T> {
    #[serde(default = "Vec::new")]
    pub(super) items: Vec<T>,
}

/// Name and owners.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) owner_references: Vec<Owner>,
    deletion_timestamp: Option<Timestamp>,
    creation_timestamp: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
}

/// A ReplicaSet's owner.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Owned {
    pub(super) metadata: Meta,
}

/// A pod.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    reason: String,
    message: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<Container>,
    init_container_statuses: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    ready: bool,
    restart_count: u64,
    state: State,
    last_state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
    running: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    reason: String,
    exit_code: i64,
    signal: Option<i64>,
    message: String,
    finished_at: Option<Timestamp>,
}

/// A pod as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct PodRow {
    /// Its name.
    pub(super) name: String,
    /// `Running`, `CrashLoopBackOff`, `Terminating`.
    pub(super) phase: String,
    /// Whether something is wrong with it.
    pub(super) sick: bool,
    /// `2 of 2`.
    pub(super) ready: String,
    /// Restarts of all containers.
    pub(super) restarts: u64,
    /// How containers ended last, one sentence each.
    pub(super) ended: Vec<String>,
    /// Its age at `now`.
    pub(super) age: String,
    /// Where it runs.
    pub(super) node: String,
}

impl Pod {
    /// The pod as it is shown, seen from `now`.
    pub(super) fn row(&self, now: Timestamp) -> PodRow {
        let status = &self.status;
        let all = || status.container_statuses.iter().chain(&status.init_container_statuses);
        let waiting = all().find_map(|container| container.state.waiting.as_ref().filter(|waiting| !waiting.reason.is_empty()));
        let phase = if self.metadata.deletion_timestamp.is_some() {
            "Terminating"
        } else if let Some(waiting) = waiting {
            &waiting.reason
        } else if status.reason.is_empty() {
            &status.phase
        } else {
            &status.reason
        };
        let is_ready = status
            .conditions
            .iter()
            .any(|found| found.kind == "Ready" && found.status == "True");
        let ready = status.container_statuses.iter().filter(|container| container.ready).count();
        let restarts = all().map(|container| container.restart_count).sum();
        let mut ended: Vec<String> = all().flat_map(|container| container.ended(now)).collect();
        for message in [&status.message, waiting.map_or(&status.message, |waiting| &waiting.message)] {
            if !message.is_empty() && !ended.contains(message) {
                ended.push(message.clone());
            }
        }
        let age = self.metadata.creation_timestamp.map(|born| words::span(now.duration_since(born)));
        PodRow {
            name: words::line(&self.metadata.name, 253),
            phase: words::line(phase, 60),
            sick: !is_ready || restarts > 0,
            ready: format!("{ready} of {}", status.container_statuses.len()),
            restarts,
            ended: ended.iter().map(|line| words::line(line, 300)).collect(),
            age: age.unwrap_or_default(),
            node: words::line(&self.spec.node_name, 100),
        }
    }
}

impl Container {
    /// How it ended: now, and before its last restart.
    fn ended(&self, day: Timestamp) -> Vec<String> {
        let ends = [(&self.state, "ended"), (&self.last_state, "before its last restart ended")];
        let of = |(state, when): (&State, &str)| {
            let end = state.terminated.as_ref()?;
            // An init container that did its work is no news.
            if end.exit_code == 0 && end.signal.is_none() && self.restart_count == 0 {
                return None;
            }
            let reason = if end.reason.is_empty() {
                "for no given reason"
            } else {
                &end.reason
            };
            let signal = end.signal.map(|signal| format!(", signal {signal}")).unwrap_or_default();
            let at = end
                .finished_at
                .map(|at| format!(" at {}", words::clock(at, day)))
                .unwrap_or_default();
            let said = if end.message.is_empty() {
                String::new()
            } else {
                format!(": {}", end.message)
            };
            Some(format!(
                "{} {when} {reason}, exit code {}{signal}{at}{said}",
                self.name, end.exit_code
            ))
        };
        ends.into_iter().filter_map(of).collect()
    }
}

/// An event of the cluster.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Event {
    metadata: Meta,
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
    count: Option<u64>,
    series: Option<Repeated>,
    involved_object: Involved,
    last_timestamp: Option<Timestamp>,
    first_timestamp: Option<Timestamp>,
    event_time: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Repeated {
    count: u64,
    last_observed_time: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Involved {
    kind: String,
    name: String,
}

/// What an event says: kind, reason, kind and name of what it is about, message.
type Said<'e> = (&'e str, &'e str, &'e str, &'e str, &'e str);

/// An event as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    /// When it last happened.
    pub(super) at: String,
    /// `Warning`, `Normal`.
    pub(super) kind: String,
    /// Its reason.
    pub(super) reason: String,
    /// About what.
    pub(super) about: String,
    /// How often.
    pub(super) count: u64,
    /// Its words.
    pub(super) message: String,
}

impl Event {
    /// Its name in the cluster.
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    fn at(&self) -> Option<Timestamp> {
        let observed = self.series.as_ref().and_then(|series| series.last_observed_time);
        observed
            .or(self.last_timestamp)
            .or(self.event_time)
            .or(self.first_timestamp)
            .or(self.metadata.creation_timestamp)
    }

    fn count(&self) -> u64 {
        self.series.as_ref().map(|series| series.count).or(self.count).unwrap_or(1).max(1)
    }
}

/// The events that matter, oldest first, and how many there are: warnings, and what came within `near` of the decision.
pub(super) fn events(events: &[Event], decided: Timestamp, near: SignedDuration) -> (Vec<EventRow>, usize) {
    let mut merged: BTreeMap<Said<'_>, (Option<Timestamp>, u64)> = BTreeMap::new();
    for event in events {
        let close = event.at().is_none_or(|at| at.duration_since(decided).abs() <= near);
        let matters = event.kind == "Warning" || (close && TELLING.contains(&event.reason.as_str()));
        if !matters {
            continue;
        }
        let about = &event.involved_object;
        let key = (
            event.kind.as_str(),
            event.reason.as_str(),
            about.kind.as_str(),
            about.name.as_str(),
            event.message.as_str(),
        );
        let (at, count) = merged.entry(key).or_default();
        *at = (*at).max(event.at());
        *count += event.count();
    }
    let mut found: Vec<_> = merged.into_iter().collect();
    // Warnings outlive the bound, then what is newest; shown by time.
    found.sort_by_key(|((kind, ..), (at, _))| (*kind != "Warning", std::cmp::Reverse(*at)));
    found.truncate(EVENTS_MAX);
    found.sort_by_key(|(_, (at, _))| *at);
    let row = |((kind, reason, about, name, message), (at, count)): (Said<'_>, (Option<Timestamp>, u64))| EventRow {
        at: at.map(|at| words::clock(at, decided)).unwrap_or_default(),
        kind: words::line(kind, 20),
        reason: words::line(reason, 60),
        about: words::line(&format!("{about}/{name}"), 120),
        count,
        message: words::line(message, 400),
    };
    (found.into_iter().map(row).collect(), events.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::evidence::fixture::at;

    #[test]
    fn a_pod_tells_how_its_containers_ended() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-green-1", "creationTimestamp": "2026-11-21T04:00:00Z"},
            "spec": {"nodeName": "node-3"},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "False"}],
                "initContainerStatuses": [{"name": "migrate", "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
                "containerStatuses": [
                    {"name": "app", "ready": false, "restartCount": 4,
                     "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
                     "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-21T04:12:01Z"}}},
                    {"name": "proxy", "ready": true, "restartCount": 0, "state": {"running": {}}},
                ],
            },
        }))
        .expect("a pod");
        let row = pod.row(at("2026-11-21T04:12:34Z"));
        insta::assert_json_snapshot!(row);
    }

    #[test]
    fn a_pod_that_is_nearly_nothing_is_shown_as_that() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "x"}, "status": {}})).expect("a pod");
        let row = pod.row(at("2026-11-21T04:12:34Z"));
        assert_eq!((row.ready.as_str(), row.restarts, row.sick), ("0 of 0", 0, true));
    }

    #[test]
    fn warnings_and_what_happened_near_the_decision_are_shown_merged() {
        let event = |kind: &str, reason: &str, at: &str, count: u64| -> Event {
            let object = json!({"type": kind, "reason": reason, "message": "m", "count": count, "lastTimestamp": at,
                                "involvedObject": {"kind": "Pod", "name": "web-green-1"}});
            serde_json::from_value(object).expect("an event")
        };
        let all = [
            event("Warning", "Unhealthy", "2026-11-21T03:00:00Z", 2),
            event("Warning", "Unhealthy", "2026-11-21T04:12:00Z", 3),
            event("Normal", "Killing", "2026-11-21T04:12:10Z", 1),
            event("Normal", "Killing", "2026-11-21T01:00:00Z", 1),
            event("Normal", "LeaderElection", "2026-11-21T04:12:10Z", 1),
        ];
        let (rows, total) = events(&all, at("2026-11-21T04:12:34Z"), SignedDuration::from_mins(10));
        let told: Vec<_> = rows.iter().map(|row| (row.reason.as_str(), row.count, row.at.as_str())).collect();
        assert_eq!(
            (told.as_slice(), total),
            ([("Unhealthy", 5, "04:12:00.0"), ("Killing", 1, "04:12:10.0")].as_slice(), 5)
        );
    }
}
