//! The generic webhook: a CloudEvents 1.0 event in structured mode, for machines and home-grown receivers. Its schema is
//! `docs/webhook.schema.json`, how to verify it `docs/messages.md`.
//!
//! Signed as Standard Webhooks says (`webhook-id`, `webhook-timestamp`, `webhook-signature`), since receivers have libraries
//! for it. `Idempotency-Key` and the event's `id` are the announcement's: a receiver that has seen one may drop the repeated
//! message. Eight fields are a struct and need no SDK; the SDK reads them back in a test.
//!
//! The one clock of this room: a signature says when it was made, so that a recorded request cannot be sent again next
//! week. It says nothing about what happened, and nothing is decided by it.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::{FutureExt, future::BoxFuture};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::Sha256;

use super::{
    DeliverError, Entry, Notifier, Parcel,
    post::{Body, Post, To},
};
use crate::{
    model::{
        Announcement, Color, GuardId, Mode, Release, Repeats, Severity, Stage, Topic,
        settings::{Channel, ChatKind},
    },
    words::Message,
};

/// Version of `data`. A change of meaning raises it and gives `dataschema` another address; a new field does not.
const SCHEMA: u32 = 1;
/// Where the schema of `data` is published.
const DATA_SCHEMA: &str = "https://raw.githubusercontent.com/flipback/flipback/main/docs/webhook.schema.json#/$defs/data";
/// Structured mode: everything is in the body.
const MEDIA_TYPE: &str = "application/cloudevents+json";
/// Keys that sign at a time: the new one, the old one, and one that somebody forgot.
const KEYS_MAX: usize = 3;

pub(super) const ENTRY: Entry = Entry {
    kind: ChatKind::Webhook,
    open: |post| Box::new(Webhook { post, clock }),
};

struct Webhook {
    post: Post,
    clock: fn() -> Timestamp,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a signature is of the moment it is sent, which no caller knows"
)]
fn clock() -> Timestamp {
    Timestamp::now()
}

/// The event.
#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'static str,
    dataschema: &'static str,
    data: Data<'a>,
}

/// What it says. Named field by field: a contract with receivers, which a new field of the announcement is not part of by
/// accident. Chats' names and local paths of pictures are nobody's business outside.
#[derive(Serialize)]
struct Data<'a> {
    schema: u32,
    id: &'a str,
    topic: Topic,
    severity: Severity,
    stage: Stage,
    /// Nothing has happened: a sample.
    test: bool,
    title: &'a str,
    /// The whole message as plain text.
    text: String,
    next: Option<&'a str>,
    why: &'a str,
    at: Timestamp,
    guard: &'a GuardId,
    cluster: &'a str,
    namespace: &'a str,
    object: &'a str,
    from: Option<&'a Color>,
    to: Option<&'a Color>,
    from_release: Option<&'a Release>,
    to_release: Option<&'a Release>,
    trigger: Option<&'a str>,
    incident: Option<&'a str>,
    thread: &'a str,
    evidence: Option<&'a str>,
    link: Option<&'a str>,
    took_ms: Option<f64>,
    mode: Mode,
    decided_at: Option<Timestamp>,
    switched_at: Option<Timestamp>,
    repeats: Option<Repeats>,
}

impl Notifier for Webhook {
    fn name(&self) -> &str {
        self.post.name()
    }

    fn deliver<'a>(&'a self, parcel: Parcel<'a>) -> BoxFuture<'a, Result<Option<String>, DeliverError>> {
        async move {
            let Channel::Webhook { url, token, signing_key } = &self.post.chat().channel else {
                return Err(DeliverError::NotAUrl);
            };
            let announcement = parcel.announcement;
            let body = serde_json::to_vec(&event(announcement, parcel.message)).unwrap_or_default();
            let mut headers = HeaderMap::new();
            let mut header = |name: &'static str, value: &str| {
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.insert(name, value);
                }
            };
            header("idempotency-key", &announcement.id);
            if let Some(key) = signing_key {
                let keys = keys(&self.post.read(key).await?)?;
                let (id, at) = (signed_id(&announcement.id), (self.clock)().as_second());
                header("webhook-id", &id);
                header("webhook-timestamp", &at.to_string());
                header("webhook-signature", &signatures(&keys, &id, at, &body));
            }
            let body = Body::Bytes(body, MEDIA_TYPE);
            self.post.send(To::Secret(url), body, headers, token.as_ref()).await.map(|_| None)
        }
        .boxed()
    }
}

fn event<'a>(a: &'a Announcement, message: &'a Message) -> Event<'a> {
    Event {
        specversion: "1.0",
        id: &a.id,
        source: source(a),
        kind: format!("dev.flipback.{}", a.topic.as_str()),
        subject: &a.object,
        time: a.at,
        datacontenttype: "application/json",
        dataschema: DATA_SCHEMA,
        data: Data {
            schema: SCHEMA,
            id: &a.id,
            topic: a.topic,
            severity: message.severity,
            stage: a.topic.stage(),
            test: a.is_test(),
            title: &message.title,
            text: message.text(),
            next: message.next.as_deref(),
            why: &a.why,
            at: a.at,
            guard: &a.guard,
            cluster: &a.cluster,
            namespace: &a.namespace,
            object: &a.object,
            from: a.from.as_ref(),
            to: a.to.as_ref(),
            from_release: a.from_release.as_ref(),
            to_release: a.to_release.as_ref(),
            trigger: a.trigger.as_deref(),
            incident: a.incident.as_deref(),
            thread: &a.thread,
            evidence: a.evidence.as_deref(),
            link: a.link.as_deref(),
            took_ms: a.took_ms.filter(|ms| ms.is_finite() && *ms > 0.0),
            mode: a.mode,
            decided_at: a.decided_at,
            switched_at: a.switched_at,
            repeats: a.repeats,
        },
    }
}

/// `/flipback/<guard>`, a relative reference: the guard's name behind that of its cluster, where that has one. A daemon has no
/// address of its own that would stay true. Names have no character that a URI would have to escape.
fn source(a: &Announcement) -> String {
    format!("/flipback/{}", a.guard.within(&a.cluster))
}

/// The keys of a secret: one per line, so that a new one can be added before the old one is taken away.
fn keys(secret: &SecretString) -> Result<Vec<Vec<u8>>, DeliverError> {
    let lines = secret.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .take(KEYS_MAX)
        .map(|line| match line.strip_prefix("whsec_") {
            Some(encoded) => BASE64.decode(encoded).map_err(|_| DeliverError::BadKey),
            None => Ok(line.as_bytes().to_vec()),
        })
        .collect()
}

/// Standard Webhooks wants no full stop in what it signs before the body; no name of ours has a `~`.
fn signed_id(id: &str) -> String {
    id.replace('.', "~")
}

/// One signature per key, the newest first; a receiver is content with one that fits.
fn signatures(keys: &[Vec<u8>], id: &str, at: i64, body: &[u8]) -> String {
    let signature = |key: &Vec<u8>| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    };
    keys.iter().map(signature).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::tests::{TOPICS, example};

    fn json(announcement: &Announcement) -> serde_json::Value {
        serde_json::to_value(event(announcement, &Message::of(announcement))).expect("serializes")
    }

    fn schema() -> jsonschema::Validator {
        let schema = serde_json::from_str(include_str!("../../docs/webhook.schema.json")).expect("JSON");
        jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("a sound schema")
    }

    #[test]
    fn a_completed_rollback_as_a_cloud_event() {
        insta::assert_json_snapshot!(json(&example(Topic::RollbackCompleted)));
    }

    #[test]
    fn every_topic_as_a_cloud_event() {
        let lines: Vec<String> = TOPICS.iter().map(|topic| json(&example(*topic)).to_string()).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn every_topic_fits_the_published_schema() {
        let schema = schema();
        for topic in TOPICS {
            let full = Announcement {
                cluster: "eu-1".into(),
                guard: GuardId::new("eu-1", "shop", "web").expect("valid"),
                link: Some("https://evidence.example/x/report.html".into()),
                repeats: Some(Repeats {
                    count: 4,
                    since: "2026-11-21T04:00:00Z".parse().expect("valid"),
                }),
                ..example(topic)
            };
            for announcement in [example(topic), full] {
                let errors: Vec<String> = schema
                    .iter_errors(&json(&announcement))
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                assert_eq!(errors, Vec::<String>::new(), "{topic:?}");
            }
        }
    }

    #[test]
    fn the_published_schema_names_every_topic_and_every_field() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../../docs/webhook.schema.json")).expect("JSON");
        let topics: Vec<&str> = Topic::ALL.iter().map(|topic| topic.as_str()).collect();
        assert_eq!(schema["$defs"]["data"]["properties"]["topic"]["enum"], serde_json::json!(topics));
        let types: Vec<String> = topics.iter().map(|topic| format!("dev.flipback.{topic}")).collect();
        assert_eq!(schema["properties"]["type"]["enum"], serde_json::json!(types));
        let event = json(&example(Topic::RollbackCompleted));
        let names = |value: &serde_json::Value| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
        assert_eq!(names(&schema["properties"]), names(&event));
        assert_eq!(names(&schema["$defs"]["data"]["properties"]), names(&event["data"]));
        assert_eq!(event["dataschema"], DATA_SCHEMA);
        assert!(DATA_SCHEMA.starts_with(schema["$id"].as_str().expect("an id")));
    }

    #[test]
    fn the_schema_refuses_what_is_no_event_of_ours() {
        let schema = schema();
        let event = json(&example(Topic::Blind));
        for name in ["specversion", "id", "source", "type", "time", "data"] {
            let mut broken = event.clone();
            broken.as_object_mut().expect("an object").remove(name);
            assert!(!schema.is_valid(&broken), "without {name}");
        }
        for (path, wrong) in [("specversion", "0.3"), ("time", "yesterday"), ("type", "dev.flipback.unheard")] {
            let mut broken = event.clone();
            broken[path] = wrong.into();
            assert!(!schema.is_valid(&broken), "{path} = {wrong}");
        }
    }

    #[test]
    fn the_official_sdk_reads_every_event() {
        use cloudevents::AttributesReader as _;
        for topic in TOPICS {
            let announcement = example(topic);
            let event: cloudevents::Event = serde_json::from_value(json(&announcement)).expect("a CloudEvent");
            assert_eq!(event.id(), announcement.id);
            assert_eq!(event.ty(), format!("dev.flipback.{}", topic.as_str()));
            assert_eq!(event.source().to_string(), "/flipback/shop/web");
            assert_eq!(event.subject(), Some("Service/web"));
            assert!(event.time().is_some() && event.data().is_some());
        }
    }

    #[test]
    fn two_daemons_with_a_cluster_each_are_two_sources() {
        let of = |cluster: &str| Announcement {
            cluster: cluster.into(),
            ..example(Topic::Blind)
        };
        assert_eq!(
            [source(&of("eu")), source(&of("us")), source(&of(""))],
            ["/flipback/eu/shop/web", "/flipback/us/shop/web", "/flipback/shop/web"]
        );
    }

    #[test]
    fn a_signature_is_the_one_of_standard_webhooks() {
        // The example of the specification's own reference libraries.
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let keys = keys(&secret).expect("a key");
        let signed = signatures(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_line_of_the_key_signs() {
        let two = keys(&SecretString::from("a new key\n\nan old key\n")).expect("keys");
        assert_eq!(two, [b"a new key".to_vec(), b"an old key".to_vec()]);
        let old = signatures(&two[1..], "id", 7, b"{}");
        let signed = signatures(&two, "id", 7, b"{}");
        assert_eq!(signed.split(' ').nth(1), Some(old.as_str()));
        let many = "k\n".repeat(50);
        assert_eq!(keys(&SecretString::from(many)).expect("keys").len(), KEYS_MAX);
        assert!(matches!(keys(&SecretString::from("whsec_no base64!")), Err(DeliverError::BadKey)));
    }

    #[test]
    fn what_is_signed_before_the_body_has_no_full_stop() {
        for topic in TOPICS {
            assert!(!signed_id(&example(topic).id).contains('.'));
        }
    }
}
