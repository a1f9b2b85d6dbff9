//! PagerDuty Events API v2: what lasts is triggered, what is over is resolved, under one `dedup_key` per thread.
//!
//! An incident stays open from "rolling back" until the restored color is known to be good: that traffic was moved is news
//! on the open alert and no end of it. What has no end that flipback could tell (`alert`, `degraded`, `switched`, `paused`,
//! `resumed`) is not sent here, since somebody would have to close it by hand. Nothing is ever acknowledged: that is for the
//! person who was woken.
//!
//! The routing key travels in the body, so an answer that repeats it is not told.

use std::collections::BTreeMap;

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    DeliverError, Entry, Notifier, Parcel,
    post::{Body, Post, To},
    standing::{self, Standing, Step},
};
use crate::{
    model::{
        Severity,
        settings::{Channel, ChatKind},
    },
    words::clipped,
};

/// PagerDuty's limits; the third one is 512 KiB for an event, which a test holds the worst one against.
const DEDUP_KEY_CHARS_MAX: usize = 255;
const SUMMARY_CHARS_MAX: usize = 1024;
/// Ours, far below theirs: with every detail at its longest, and four bytes a character, an event has 200 KiB.
const DETAIL_CHARS_MAX: usize = 3000;
/// Ours: Kubernetes allows names of 253 characters, with a kind before it.
const NAME_CHARS_MAX: usize = 300;

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::PagerDuty,
    open: |post| Box::new(PagerDuty { post }),
};

struct PagerDuty {
    post: Post,
}

#[derive(Serialize)]
struct Event<'a> {
    routing_key: &'a str,
    event_action: Action,
    dedup_key: String,
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_url: Option<&'a str>,
    payload: Payload<'a>,
    links: Vec<Link<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Trigger,
    Resolve,
}

#[derive(Serialize)]
struct Payload<'a> {
    summary: String,
    timestamp: Timestamp,
    severity: &'static str,
    source: String,
    component: String,
    group: String,
    class: String,
    custom_details: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct Link<'a> {
    href: &'a str,
    text: &'static str,
}

impl Notifier for PagerDuty {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::PagerDuty { routing_key, api } = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let (actions, standing): (&[Action], Standing) = match standing::step(&parcel) {
                Step::Fires(standing) => (&[Action::Trigger], standing),
                Step::Ends(standing) => (&[Action::Resolve], standing),
                // Nobody stays paged by a test.
                Step::Trial(standing) => (&[Action::Trigger, Action::Resolve], standing),
                Step::Nothing => return Ok(parcel.thread.map(str::to_owned)),
            };
            let key = self.post.read(routing_key).await?;
            for action in actions {
                let event = event(&parcel, *action, &standing, key.expose_secret().trim());
                self.send(api, &event, &key).await?;
            }
            Ok(standing.receipt())
        }
        .boxed()
    }
}

impl PagerDuty {
    async fn send(&self, api: &Url, event: &Event<'_>, key: &SecretString) -> Result<(), DeliverError> {
        let hidden = [key.clone()];
        let answered = self
            .post
            .send_hiding(To::Open(enqueue(api)), Body::json(event), HeaderMap::new(), None, &hidden);
        answered.await.map(|_| ())
    }
}

/// `<api>/v2/enqueue`.
fn enqueue(api: &Url) -> Url {
    let mut url = api.clone();
    url.set_path(&format!("{}/v2/enqueue", api.path().trim_end_matches('/')));
    url
}

fn event<'a>(parcel: &Parcel<'a>, action: Action, standing: &Standing, routing_key: &'a str) -> Event<'a> {
    let (a, message) = (parcel.announcement, parcel.message);
    let link = standing::link(a);
    let summary = if message.sentence.is_empty() {
        message.title.clone()
    } else {
        format!("{}: {}", message.title, message.sentence)
    };
    // What is told of all guards is sent in the name of one of them, which is not to blame.
    let (source, component, group) = if a.topic.is_of_all() {
        ("flipback".to_owned(), "all guards", "fleet")
    } else {
        (a.guard.within(&a.cluster), a.object.as_str(), a.namespace.as_str())
    };
    Event {
        routing_key,
        event_action: action,
        dedup_key: dedup_key(standing::key(a)),
        client: "flipback",
        client_url: link,
        payload: Payload {
            summary: clip(&summary, SUMMARY_CHARS_MAX),
            timestamp: a.at,
            severity: word(standing::loudness(a, standing.severity)),
            source: clip(&source, NAME_CHARS_MAX),
            component: clip(component, NAME_CHARS_MAX),
            group: clip(group, NAME_CHARS_MAX),
            class: clip(a.trigger.as_deref().unwrap_or(a.topic.as_str()), NAME_CHARS_MAX),
            custom_details: details(parcel),
        },
        links: link
            .map(|href| Link {
                href,
                text: "What happened, and why: the report",
            })
            .into_iter()
            .collect(),
    }
}

fn details<'a>(parcel: &Parcel<'a>) -> BTreeMap<&'a str, String> {
    let (a, message) = (parcel.announcement, parcel.message);
    let mut details: BTreeMap<&str, String> = message
        .facts
        .iter()
        .map(|fact| (fact.name, clip(&fact.value, DETAIL_CHARS_MAX)))
        .collect();
    details.insert("Topic", a.topic.as_str().to_owned());
    details.insert("Message id", clip(&a.id, DETAIL_CHARS_MAX));
    if !message.sentence.is_empty() {
        details.insert("Why", clip(&message.sentence, DETAIL_CHARS_MAX));
    }
    if let Some(next) = &message.next {
        details.insert("What to do", clip(next, DETAIL_CHARS_MAX));
    }
    details
}

fn clip(text: &str, chars_max: usize) -> String {
    clipped(text, chars_max, |_| None)
}

/// The thread's name; one that is too long ends in its own hash, so that two of them stay two.
fn dedup_key(thread: &str) -> String {
    if thread.chars().count() <= DEDUP_KEY_CHARS_MAX {
        return thread.to_owned();
    }
    let hash: String = Sha256::digest(thread).iter().map(|byte| format!("{byte:02x}")).collect();
    let start = thread.chars().take(DEDUP_KEY_CHARS_MAX - hash.len() - 1);
    start.chain(['-']).chain(hash.chars()).collect()
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
        model::{Announcement, Topic},
        words::{
            Message,
            tests::{TOPICS, example},
        },
    };

    fn json(announcement: &Announcement, action: Action) -> Value {
        let message = Message::of(announcement);
        let parcel = Parcel {
            announcement,
            message: &message,
            thread: None,
        };
        let standing = Standing {
            open: true,
            severity: announcement.topic.severity(),
            since: announcement.at,
        };
        serde_json::to_value(event(&parcel, action, &standing, "[secret]")).expect("serializes")
    }

    const BODY_BYTES_MAX: usize = 512 * 1024;

    /// What the API's published description demands (`components.schemas`), and the limits of its prose.
    fn schema() -> jsonschema::Validator {
        let text = |max: usize| json!({"type": "string", "minLength": 1, "maxLength": max});
        let url = json!({"type": "string", "format": "uri"});
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["routing_key", "event_action", "dedup_key", "payload"],
            "properties": {
                "routing_key": {"type": "string"},
                "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
                "dedup_key": text(DEDUP_KEY_CHARS_MAX),
                "client": {"type": "string"},
                "client_url": url,
                "links": {"type": "array", "items": {
                    "type": "object", "required": ["href"], "additionalProperties": false,
                    "properties": {"href": url, "text": {"type": "string"}},
                }},
                "payload": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["summary", "severity", "source"],
                    "properties": {
                        "summary": text(SUMMARY_CHARS_MAX),
                        "timestamp": {"type": "string", "format": "date-time"},
                        "severity": {"enum": ["critical", "warning", "error", "info"]},
                        "source": text(1024),
                        "component": {"type": "string"},
                        "group": {"type": "string"},
                        "class": {"type": "string"},
                        "custom_details": {"type": "object"},
                    },
                },
            },
        });
        jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("a sound schema")
    }

    fn must_fit(value: &Value) {
        let errors: Vec<String> = schema()
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert_eq!(errors, Vec::<String>::new());
        assert!(value.to_string().len() <= BODY_BYTES_MAX, "{} bytes", value.to_string().len());
    }

    #[test]
    fn a_rollback_as_a_trigger_and_its_end() {
        insta::assert_json_snapshot!("trigger", json(&example(Topic::RollbackInitiated), Action::Trigger));
        insta::assert_json_snapshot!("resolve", json(&example(Topic::Recovered), Action::Resolve));
    }

    #[test]
    fn the_source_is_the_guard_in_its_cluster_and_of_all_guards_none() {
        let of = |topic, cluster: &str| {
            let of_cluster = Announcement {
                cluster: cluster.into(),
                ..example(topic)
            };
            json(&of_cluster, Action::Trigger)["payload"]["source"].clone()
        };
        assert_eq!([of(Topic::Blind, "eu"), of(Topic::Blind, "")], ["eu/shop/web", "shop/web"]);
        assert_eq!(of(Topic::ManyFailing, "eu"), "flipback");
    }

    #[test]
    fn every_topic_is_within_pagerdutys_limits() {
        for topic in TOPICS {
            let full = Announcement {
                link: Some("https://evidence.example/x/report.html".into()),
                ..example(topic)
            };
            for action in [Action::Trigger, Action::Resolve] {
                must_fit(&json(&example(topic), action));
                must_fit(&json(&full, action));
            }
        }
    }

    #[test]
    fn hostile_text_stays_within_pagerdutys_limits() {
        let hostile = Announcement {
            why: "💥\"\\ ".repeat(200_000),
            object: "💥".repeat(100_000),
            evidence: Some("\u{1}\u{2}".repeat(100_000)),
            thread: "💥".repeat(1000),
            link: Some("javascript:alert(1)".into()),
            ..example(Topic::RollbackFailed)
        };
        let value = json(&hostile, Action::Trigger);
        must_fit(&value);
        assert!(value.get("client_url").is_none() && value["links"] == json!([]));
    }

    #[test]
    fn long_threads_stay_apart() {
        let (one, other) = (format!("{}1", "x".repeat(400)), format!("{}2", "x".repeat(400)));
        assert_ne!(dedup_key(&one), dedup_key(&other));
        assert_eq!(dedup_key(&one).chars().count(), DEDUP_KEY_CHARS_MAX);
        assert_eq!(dedup_key("shop.web.blind"), "shop.web.blind");
    }

    #[test]
    fn the_api_may_have_a_path_and_a_slash() {
        for (api, url) in [
            ("https://events.pagerduty.com", "https://events.pagerduty.com/v2/enqueue"),
            ("https://events.eu.pagerduty.com/", "https://events.eu.pagerduty.com/v2/enqueue"),
            ("http://proxy.example/pd/", "http://proxy.example/pd/v2/enqueue"),
        ] {
            assert_eq!(enqueue(&Url::parse(api).expect("valid")).as_str(), url);
        }
    }
}
