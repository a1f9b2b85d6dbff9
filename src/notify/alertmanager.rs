//! Alertmanager API v2: what lasts fires, what is over is resolved, with one set of labels per thread.
//!
//! An alert *is* its labels, so they hold only what a thread never changes: names, and the incident. The one exception is
//! `severity`, by which people route: a thread that grows louder fires under the louder label and ends the quieter one in
//! the same request, and the end of a thread ends both. That needs no memory; an end that Alertmanager knows nothing of
//! tells nobody.
//!
//! Nobody re-sends an alert every minute as Prometheus does, so each says itself how long it holds. See [`FIRES_FOR`].

use std::collections::BTreeMap;

use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use reqwest::header::HeaderMap;
use serde::Serialize;

use super::{
    DeliverError, Entry, Notifier, Parcel,
    post::{Body, Post, To},
    standing::{self, Standing, Step},
};
use crate::{
    model::{
        Announcement, Severity, Topic,
        settings::{Channel, ChatKind},
    },
    words::clipped,
};

/// An alert that neither ended nor had news for so long is over: what nobody has cared for in a day no alert will move. As
/// long as a message may wait in the outbox.
const FIRES_FOR: SignedDuration = SignedDuration::from_hours(24);
/// A test message's: long enough for the usual `group_wait` of 30 s, gone by itself.
const TEST_FIRES_FOR: SignedDuration = SignedDuration::from_mins(5);
/// Of one label or annotation; Alertmanager has no limit, what it sends to has.
const TEXT_CHARS_MAX: usize = 3000;

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Alertmanager,
    open: |post| Box::new(Alertmanager { post }),
};

struct Alertmanager {
    post: Post,
}

/// One element of the posted list, `postableAlert` of the API's description.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<&'static str, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    generator_url: Option<String>,
}

impl Notifier for Alertmanager {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Alertmanager { url, token } = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let step = standing::step(&parcel);
            let standing = match step {
                Step::Fires(standing) | Step::Ends(standing) | Step::Trial(standing) => standing,
                Step::Nothing => return Ok(parcel.thread.map(str::to_owned)),
            };
            let body = Body::json(&alerts(&parcel, step));
            let to = To::Below(url, "api/v2/alerts");
            self.post.send(to, body, HeaderMap::new(), token.as_ref()).await?;
            Ok(standing.receipt())
        }
        .boxed()
    }
}

/// What is posted for one message.
fn alerts(parcel: &Parcel<'_>, step: Step) -> Vec<Alert> {
    let at = parcel.announcement.at;
    let one = |severity, since: Timestamp, ends_at| alert(parcel, severity, since.min(ends_at), ends_at);
    // Saturating: a time at the end of time is still a time.
    let later = |span| at.saturating_add(span).unwrap_or(at);
    match step {
        Step::Nothing => Vec::new(),
        Step::Trial(Standing { severity, .. }) => vec![one(severity, at, later(TEST_FIRES_FOR))],
        Step::Fires(Standing { severity, since, .. }) => {
            let mut alerts = vec![one(severity, since, later(FIRES_FOR))];
            if severity == Severity::Critical && since < at {
                alerts.push(one(Severity::Warning, since, at));
            }
            dedup(alerts)
        }
        Step::Ends(Standing { since, .. }) => dedup(
            [Severity::Critical, Severity::Warning]
                .map(|severity| one(severity, since, at))
                .into(),
        ),
    }
}

/// Samples have one loudness, so what would be told of two is told of the first.
fn dedup(mut alerts: Vec<Alert>) -> Vec<Alert> {
    alerts.dedup_by(|next, first| next.labels == first.labels);
    alerts
}

fn alert(parcel: &Parcel<'_>, severity: Severity, starts_at: Timestamp, ends_at: Timestamp) -> Alert {
    Alert {
        labels: labels(parcel.announcement, severity),
        annotations: annotations(parcel),
        starts_at,
        ends_at,
        generator_url: standing::link(parcel.announcement).map(str::to_owned),
    }
}

/// Alertmanager takes an empty label for none. What is told of all guards is sent in the name of one of them, and at its end maybe
/// of another: its labels, which must not change, name none.
fn labels(a: &Announcement, severity: Severity) -> BTreeMap<&'static str, String> {
    let (family, of_one) = (family(a), !a.topic.is_of_all());
    let incident = (family == INCIDENT || !of_one).then(|| standing::key(a).to_owned());
    let labels = [
        ("alertname", Some(family.to_owned())),
        ("cluster", of_one.then(|| a.cluster.clone())),
        ("guard", of_one.then(|| a.guard.to_string())),
        ("incident", incident),
        ("namespace", of_one.then(|| a.namespace.clone())),
        ("object", of_one.then(|| a.object.clone())),
        ("severity", Some(word(standing::loudness(a, severity)).to_owned())),
        ("test", a.is_test().then(|| "true".to_owned())),
    ];
    present(labels)
}

fn annotations(parcel: &Parcel<'_>) -> BTreeMap<&'static str, String> {
    let (a, message) = (parcel.announcement, parcel.message);
    let facts = message.facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value));
    let sentence = (!message.sentence.is_empty()).then(|| message.sentence.clone());
    let description: Vec<String> = sentence.into_iter().chain(facts).collect();
    present([
        ("summary", Some(message.title.clone())),
        ("description", Some(description.join("\n"))),
        ("what_to_do", message.next.clone()),
        ("topic", Some(a.topic.as_str().to_owned())),
        ("report", standing::link(a).map(str::to_owned)),
        ("evidence", a.evidence.clone()),
    ])
}

fn present<const N: usize>(pairs: [(&'static str, Option<String>); N]) -> BTreeMap<&'static str, String> {
    pairs
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .map(|(name, value)| (name, clipped(&value, TEXT_CHARS_MAX, |_| None)))
        .collect()
}

const INCIDENT: &str = "FlipbackIncident";

/// The alert's name: one for all that may be told of one thread. None is a name of `alerts/flipback.rules.yaml`, which
/// watches flipback by its metrics.
fn family(a: &Announcement) -> &'static str {
    match a.topic {
        _ if a.incident.is_some() => INCIDENT,
        Topic::Blind | Topic::Sighted => "FlipbackGuardBlind",
        Topic::UnknownColor | Topic::Unreadable | Topic::Readable => "FlipbackRouteUnreadable",
        Topic::Disarmed | Topic::Rearmed => "FlipbackGuardDisarmed",
        Topic::ManyFailing | Topic::FewFailing => "FlipbackManyFailing",
        Topic::FlippedBack => "FlipbackFlippedBack",
        Topic::Test => "FlipbackTest",
        _ => INCIDENT,
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::SAMPLE,
        words::{
            Message,
            tests::{TOPICS, example},
        },
    };

    fn posted(announcement: &Announcement, thread: Option<&str>) -> Value {
        let message = Message::of(announcement);
        let parcel = Parcel {
            announcement,
            message: &message,
            thread,
        };
        serde_json::to_value(alerts(&parcel, standing::step(&parcel))).expect("serializes")
    }

    /// `postableAlerts` of the API's published description, and what its server checks besides.
    fn must_fit(value: &Value) {
        let set = json!({
            "type": "object",
            "propertyNames": {"pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": TEXT_CHARS_MAX},
        });
        let time = json!({"type": "string", "format": "date-time"});
        let schema = json!({"type": "array", "items": {
            "type": "object",
            "additionalProperties": false,
            "required": ["labels"],
            "properties": {
                "labels": {"allOf": [set, {"required": ["alertname"]}]}, "annotations": set, "startsAt": time, "endsAt": time,
                "generatorURL": {"type": "string", "format": "uri"},
            },
        }});
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("a sound schema");
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert_eq!(errors, Vec::<String>::new(), "{value}");
        for alert in value.as_array().expect("a list") {
            let time = |name: &str| {
                alert[name]
                    .as_str()
                    .and_then(|text| text.parse::<Timestamp>().ok())
                    .expect("a time")
            };
            assert!(time("startsAt") <= time("endsAt"), "{alert}");
        }
    }

    #[test]
    fn a_rollback_firing_and_resolved() {
        insta::assert_json_snapshot!("firing", posted(&example(Topic::RollbackInitiated), None));
        insta::assert_json_snapshot!("resolved", posted(&example(Topic::Recovered), None));
    }

    #[test]
    fn every_topic_is_what_the_api_takes() {
        for topic in TOPICS {
            must_fit(&posted(&example(topic), None));
        }
        let hostile = Announcement {
            why: "💥\"\\\n ".repeat(20_000),
            link: Some("not a URL".into()),
            at: Timestamp::MAX,
            ..example(Topic::RollbackFailed)
        };
        must_fit(&posted(&hostile, None));
    }

    #[test]
    fn the_end_has_the_labels_of_the_beginning() {
        let pairs = [
            (Topic::RollbackInitiated, Topic::Recovered),
            (Topic::RollbackFailed, Topic::Resolved),
            (Topic::RollbackWithheld, Topic::Resolved),
            (Topic::RollbackSuppressed, Topic::Recovered),
            (Topic::Blind, Topic::Sighted),
            (Topic::Unreadable, Topic::Readable),
            (Topic::UnknownColor, Topic::Readable),
        ];
        for (opens, ends) in pairs {
            let (begun, ended) = (posted(&example(opens), None), posted(&example(ends), None));
            let labels = |alert: &Value| alert["labels"].clone();
            let ended: Vec<Value> = ended.as_array().expect("a list").iter().map(labels).collect();
            assert!(ended.contains(&labels(&begun[0])), "{opens:?}: {begun} {ended:?}");
        }
    }

    #[test]
    fn what_is_told_of_all_guards_ends_whichever_guard_it_is_told_by() {
        let begun = posted(&example(Topic::ManyFailing), None);
        let other = Announcement {
            guard: crate::model::GuardId::new("", "bank", "api").expect("valid"),
            namespace: "bank".into(),
            object: "Service/api".into(),
            cluster: "eu".into(),
            ..example(Topic::FewFailing)
        };
        let ended = posted(&other, None);
        let ended: Vec<&Value> = ended.as_array().expect("a list").iter().map(|alert| &alert["labels"]).collect();
        assert!(ended.contains(&&begun[0]["labels"]), "{begun} {ended:?}");
        assert!(begun[0]["labels"].get("guard").is_none(), "{begun}");
    }

    #[test]
    fn a_thread_that_grows_louder_is_one_alert_again() {
        let quiet = example(Topic::RollbackSuppressed);
        let message = Message::of(&quiet);
        let first = standing::step(&Parcel {
            announcement: &quiet,
            message: &message,
            thread: None,
        });
        let Step::Fires(standing) = first else {
            panic!("it opens: {first:?}");
        };
        let loud = Announcement {
            at: quiet.at + SignedDuration::from_secs(60),
            ..example(Topic::RollbackInitiated)
        };
        let posted = posted(&loud, standing.receipt().as_deref());
        let severity = |n: usize| posted[n]["labels"]["severity"].clone();
        assert_eq!([severity(0), severity(1)], ["critical", "warning"]);
        assert_eq!(posted[1]["endsAt"], json!(loud.at));
    }

    #[test]
    fn a_test_is_told_apart_and_quiet() {
        let test = posted(&example(Topic::Test), None);
        assert_eq!(test[0]["labels"]["severity"], "info");
        assert_eq!(test[0]["labels"]["test"], "true");
        let sample = Announcement {
            id: format!("{SAMPLE}1"),
            ..example(Topic::Recovered)
        };
        assert_eq!(posted(&sample, None).as_array().map(Vec::len), Some(1));
    }
}
