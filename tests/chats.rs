//! Chats, from an announcement to the bytes on the wire: forms held against schemas and limits, threads, pictures, faults.

#[path = "chats/slack.rs"]
mod slack;
#[path = "chats/stub.rs"]
mod stub;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use flipback::{
    model::{
        Announcement, Release, Severity, Topic,
        settings::{Channel, ChatSettings, Secret},
    },
    notify::{self, DeliverError, Notifier, Parcel},
    words::Message,
};
use jsonschema::Validator;
use proptest::{prelude::*, test_runner::TestRunner};
use secrecy::SecretString;
use serde_json::{Value, json};
use slack::{CHANNEL, Slack, TOKEN};
use slack_morphism::api::{SlackApiChatPostMessageRequest, SlackApiChatUpdateRequest, SlackApiPostWebhookMessageRequest};
use stub::{Answer, Request, Stub};
use url::Url;

/// Long enough for a busy machine; only calls that hang wait for it.
const PATIENT: Duration = Duration::from_secs(30);
/// For calls that shall hang.
const BRIEF: Duration = Duration::from_millis(400);
const LINK: &str = "https://evidence.example/shop.web_20261121T041234Z/report.html";

// === the chats ===

fn secret(text: impl Into<String>) -> Secret {
    Secret::Value(SecretString::from(text.into()))
}

fn chat(channel: Channel, timeout: Duration) -> Box<dyn Notifier> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    notify::open(&ChatSettings {
        timeout,
        ..ChatSettings::new("chat", channel)
    })
}

fn webhook(kind: &str, url: String) -> Channel {
    let url = secret(url);
    match kind {
        "slack" => Channel::Slack { url },
        "teams" => Channel::Teams { url },
        _ => Channel::Discord { url },
    }
}

fn bot_in(channel: &str, stub: &Stub, timeout: Duration) -> Box<dyn Notifier> {
    let channel = Channel::SlackBot {
        token: secret(TOKEN),
        channel: channel.to_owned(),
        api: Url::parse(&format!("http://{}/api/", stub.address)).expect("a URL"),
    };
    chat(channel, timeout)
}

fn bot(stub: &Stub) -> Box<dyn Notifier> {
    bot_in("#deploys", stub, PATIENT)
}

async fn tell(chat: &dyn Notifier, announcement: &Announcement, thread: Option<&str>) -> Result<Option<String>, DeliverError> {
    let message = Message::of(announcement);
    let parcel = Parcel {
        announcement,
        message: &message,
        thread,
    };
    chat.deliver(parcel).await
}

/// A webhook that takes everything, as its chat does.
async fn taker(kind: &str) -> Stub {
    let status = match kind {
        "teams" => 202,
        _ => 200,
    };
    Stub::start(move |_| Answer::Json(status, json!({"id": "1", "channel_id": "2"}))).await
}

/// A chat that takes everything, and what it is sent.
struct Taken {
    stub: Stub,
    chat: Box<dyn Notifier>,
}

impl Taken {
    async fn by(kind: &str) -> Self {
        if kind == "slack_bot" {
            let stub = Slack::default().serve().await;
            let chat = bot(&stub);
            return Self { stub, chat };
        }
        let stub = taker(kind).await;
        let chat = chat(webhook(kind, stub.url()), PATIENT);
        Self { stub, chat }
    }

    /// What is posted for an announcement, with whatever its body is wrapped in taken off.
    async fn posted(&self, announcement: &Announcement) -> Value {
        tell(&*self.chat, announcement, None).await.expect("told");
        let requests = self.stub.take_requests();
        let is_post = |request: &&Request| !request.path().starts_with("/api/") || request.path() == "/api/chat.postMessage";
        let request = requests.iter().find(is_post).expect("posted");
        match request.part("payload_json") {
            Some(payload) => serde_json::from_slice(&payload).expect("JSON"),
            None => request.json(),
        }
    }
}

async fn posted(kind: &str, announcement: &Announcement) -> Value {
    Taken::by(kind).await.posted(announcement).await
}

const KINDS: [&str; 4] = ["slack", "slack_bot", "teams", "discord"];

// === the schemas ===

fn validator(schema: &str) -> Validator {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

static BLOCK_KIT: LazyLock<Validator> = LazyLock::new(|| validator(include_str!("schemas/block-kit.json")));
static ADAPTIVE_CARD: LazyLock<Validator> = LazyLock::new(|| validator(include_str!("schemas/adaptive-card-1.4.json")));
static DISCORD: LazyLock<Validator> = LazyLock::new(|| validator(include_str!("schemas/discord-webhook.json")));

fn against(schema: &Validator, body: &Value) -> Result<(), String> {
    let errors: Vec<String> = schema
        .iter_errors(body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(short(&errors.join("\n")))
    }
}

/// What fits on a screen: bodies are long.
fn short(text: &str) -> String {
    text.chars().take(3000).collect()
}

/// Every published limit and schema of a chat.
fn check(kind: &str, body: &Value) -> Result<(), String> {
    let size = body.to_string();
    match kind {
        "slack" | "slack_bot" => {
            against(&BLOCK_KIT, body)?;
            let known = match (kind, body.get("ts")) {
                ("slack", _) => serde_json::from_value::<SlackApiPostWebhookMessageRequest>(body.clone()).map(drop),
                (_, Some(_)) => serde_json::from_value::<SlackApiChatUpdateRequest>(body.clone()).map(drop),
                (_, None) => serde_json::from_value::<SlackApiChatPostMessageRequest>(body.clone()).map(drop),
            };
            known.map_err(|error| format!("slack-morphism does not know it: {error}"))?;
            ensure(size.chars().count() <= 12_000, || format!("{} characters", size.chars().count()))
        }
        "teams" => {
            let attachment = &body["attachments"][0];
            ensure(
                body["type"] == "message" && body["attachments"].as_array().map(Vec::len) == Some(1),
                || body.to_string(),
            )?;
            ensure(attachment["contentType"] == "application/vnd.microsoft.card.adaptive", || {
                attachment.to_string()
            })?;
            let mut card = attachment["content"].clone();
            // Teams' own, beside the schema: https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format
            let teams = card.as_object_mut().and_then(|card| card.remove("msteams"));
            ensure(teams == Some(json!({"width": "Full"})) && card["version"] == "1.4", || {
                card.to_string()
            })?;
            against(&ADAPTIVE_CARD, &card)?;
            ensure(size.len() <= 28 * 1024, || format!("{} bytes", size.len()))
        }
        _ => {
            against(&DISCORD, body)?;
            let units = |value: &Value| value.as_str().map_or(0, |text| text.encode_utf16().count());
            let embed = &body["embeds"][0];
            let fields = embed["fields"].as_array().expect("fields");
            let inside = fields
                .iter()
                .all(|field| units(&field["name"]) <= 256 && units(&field["value"]) <= 1024);
            ensure(
                inside && units(&embed["title"]) <= 256 && units(&embed["description"]) <= 4096,
                || embed.to_string(),
            )?;
            let total: usize = fields.iter().map(|field| units(&field["name"]) + units(&field["value"])).sum();
            let total = total + units(&embed["title"]) + units(&embed["description"]) + units(&embed["footer"]["text"]);
            ensure(total <= 6000, || format!("{total} in all"))
        }
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// The same announcement as chats may get it on a bad day.
fn variants(topic: Topic) -> Vec<(&'static str, Announcement)> {
    let plain = Announcement::example(topic);
    let images = |count: usize, image: &str| {
        Some(Release {
            id: "9f1c".into(),
            images: (0..count).map(|n| format!("{image}-{n}")).collect(),
        })
    };
    let linked = Announcement {
        link: Some(LINK.into()),
        ..plain.clone()
    };
    let hostile = Announcement {
        why: "<!channel> & <https://evil.example|click> [x](https://evil.example) @everyone *_~`|>\\ ".repeat(400),
        object: "Service/<!here> [a](https://evil.example)".into(),
        evidence: Some("<&>".repeat(3000)),
        trigger: Some("\"\\".repeat(5000)),
        incident: Some("🔥".repeat(3000)),
        namespace: "e\u{301}\u{202e}".repeat(3000),
        link: Some(format!("https://evidence.example/{}", "🔥)(".repeat(200))),
        ..plain.clone()
    };
    vec![
        (
            "hostile, with a link too long",
            Announcement {
                link: Some(format!("https://evidence.example/{}", "x".repeat(4000))),
                ..hostile.clone()
            },
        ),
        ("hostile", hostile),
        (
            "with a link that is none",
            Announcement {
                link: Some("javascript:alert(1)".into()),
                ..plain.clone()
            },
        ),
        (
            "with 10 images",
            Announcement {
                from_release: images(10, "registry.example/a/rather/long/path/to/web:1.4.0"),
                to_release: images(10, "registry.example/a/rather/long/path/to/web:1.3.9"),
                ..linked.clone()
            },
        ),
        (
            "empty",
            Announcement {
                why: String::new(),
                object: String::new(),
                namespace: String::new(),
                from: None,
                to: None,
                from_release: None,
                to_release: None,
                trigger: None,
                incident: None,
                evidence: None,
                ..plain.clone()
            },
        ),
        ("with a link", linked),
        ("plain", plain),
    ]
}

#[tokio::test]
async fn every_topic_in_every_state_is_within_schemas_and_limits() {
    for kind in KINDS {
        let chat = Taken::by(kind).await;
        for topic in Topic::ALL {
            for (name, announcement) in variants(topic) {
                let body = chat.posted(&announcement).await;
                check(kind, &body).unwrap_or_else(|why| panic!("{kind}, {topic:?} {name}: {why}"));
            }
        }
    }
}

#[test]
fn the_schemas_refuse_what_chats_refuse() {
    let header = |text: &str| json!({"text": "t", "blocks": [{"type": "header", "text": {"type": "plain_text", "text": text}}]});
    let said = |text: &str| {
        let section = json!({"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": true}});
        json!({"text": "t", "blocks": [section]})
    };
    assert!(against(&BLOCK_KIT, &header("news")).is_ok() && against(&BLOCK_KIT, &said("a &amp; b <!date^1^{time_secs}|then>")).is_ok());
    for bad in [
        header(""),
        header(&"x".repeat(151)),
        said("<!channel>"),
        said("<https://evil.example|x>"),
        said("a & b"),
        json!({"text": "t", "blocks": []}),
    ] {
        assert!(against(&BLOCK_KIT, &bad).is_err(), "{bad}");
    }
    let card = |element: Value| json!({"type": "AdaptiveCard", "version": "1.4", "body": [element]});
    assert!(against(&ADAPTIVE_CARD, &card(json!({"type": "TextBlock", "text": "news"}))).is_ok());
    for bad in [
        json!({"type": "TextBlock"}),
        json!({"type": "TextBlock", "text": "x", "sise": "Large"}),
        json!({"type": "Table", "rows": []}),
        json!({"type": "Poem"}),
    ] {
        assert!(against(&ADAPTIVE_CARD, &card(bad.clone())).is_err(), "{bad}");
    }
    let embed = |fields: usize| {
        let field = json!({"name": "n", "value": "v", "inline": true});
        let embed =
            json!({"title": "t", "color": 1, "timestamp": "2026-11-21T04:12:34Z", "footer": {"text": "f"}, "fields": vec![field; fields]});
        json!({"embeds": [embed], "allowed_mentions": {"parse": []}})
    };
    assert!(against(&DISCORD, &embed(25)).is_ok() && against(&DISCORD, &embed(26)).is_err());
}

/// Words of all sorts: long, empty, of any script, full of what chats read as form.
fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,60}",
        "\\PC{0,3000}",
        ("[<>&*_~`|\\\\\\[\\]()#@!:/🔥é\"\n\u{200b}\u{202e}]{1,8}", 1..2500_usize).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    prop_oneof![Just(None), words().prop_map(Some)]
}

fn link() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        maybe(),
        "\\PC{0,4000}".prop_map(|path| Some(format!("https://evidence.example/{path}")))
    ]
}

fn release() -> impl Strategy<Value = Option<Release>> {
    let images = proptest::collection::vec(words(), 0..10);
    prop_oneof![Just(None), images.prop_map(|images| Some(Release { id: "9f1c".into(), images }))]
}

fn any_announcement() -> impl Strategy<Value = Announcement> {
    let facts = (words(), words(), words(), words(), maybe(), maybe(), maybe());
    let ids = (
        "\\PC{1,400}",
        link(),
        release(),
        release(),
        0..Topic::ALL.len(),
        -62_135_596_800_i64..253_402_300_000,
    );
    (facts, ids).prop_map(
        |((why, cluster, namespace, object, trigger, incident, evidence), (id, link, from, to, topic, at))| Announcement {
            id,
            at: jiff::Timestamp::from_second(at).expect("in range"),
            why,
            cluster,
            namespace,
            object,
            from_release: from,
            to_release: to,
            trigger,
            incident,
            evidence,
            link,
            ..Announcement::example(Topic::ALL[topic])
        },
    )
}

#[test]
fn any_announcement_is_within_schemas_and_limits() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let chats = KINDS.map(|kind| (kind, runtime.block_on(Taken::by(kind))));
    let config = ProptestConfig {
        cases: 128,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&any_announcement(), |announcement| {
        for (kind, chat) in &chats {
            let checked = check(kind, &runtime.block_on(chat.posted(&announcement)));
            prop_assert!(checked.is_ok(), "{kind}: {}", checked.unwrap_err());
        }
        Ok(())
    });
    outcome.unwrap_or_else(|why| panic!("{}", short(&why.to_string())));
}

// === what people read ===

/// One message at length, and every topic on a line of its own.
async fn shown(kind: &str) -> String {
    let linked = |topic| Announcement {
        link: Some(LINK.into()),
        ..Announcement::example(topic)
    };
    let mut lines = vec![format!("{:#}", posted(kind, &linked(Topic::RollbackCompleted)).await)];
    for topic in Topic::ALL {
        lines.push(format!(
            "\n{}\n{}",
            topic.as_str(),
            posted(kind, &Announcement::example(topic)).await
        ));
    }
    lines.join("\n")
}

#[tokio::test]
async fn every_topic_as_block_kit() {
    insta::assert_snapshot!(shown("slack").await);
}

#[tokio::test]
async fn every_topic_as_an_adaptive_card() {
    insta::assert_snapshot!(shown("teams").await);
}

#[tokio::test]
async fn every_topic_as_an_embed() {
    insta::assert_snapshot!(shown("discord").await);
}

// === a Slack thread ===

fn step(topic: Topic, second: i64) -> Announcement {
    let example = Announcement::example(topic);
    Announcement {
        id: format!("shop.web_20261121T041234Z.{}.{second}", topic.as_str()),
        at: example.at + jiff::SignedDuration::from_secs(second),
        link: (topic != Topic::RollbackInitiated).then(|| LINK.into()),
        ..example
    }
}

/// Tells one after another, each with the receipt of the one before it.
async fn tell_all(chat: &dyn Notifier, story: &[Announcement]) -> Option<String> {
    let mut thread = None;
    for announcement in story {
        thread = tell(chat, announcement, thread.as_deref()).await.expect("told");
    }
    thread
}

/// The text of every block of a message, for reading.
fn read(message: &Value) -> String {
    let mut lines = Vec::new();
    let bar = &message["attachments"][0];
    let blocks = [&message["blocks"], &bar["blocks"]];
    for block in blocks.into_iter().filter_map(Value::as_array).flatten() {
        let texts = [&block["text"]].into_iter().chain(block["fields"].as_array().into_iter().flatten());
        let texts = texts.chain(block["elements"].as_array().into_iter().flatten());
        for text in texts {
            let button = text["url"]
                .as_str()
                .map(|url| format!("[{}]({url})", text["text"]["text"].as_str().unwrap_or_default()));
            lines.extend(button.or_else(|| text["text"].as_str().map(str::to_owned)));
        }
    }
    format!("{} {}", bar["color"], lines.join("\n  "))
}

fn picture(folder: &tempfile::TempDir, content: &[u8]) -> PathBuf {
    let path = folder.path().join("plot.png");
    std::fs::write(&path, content).expect("written");
    path
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nas good as a plot";

#[tokio::test]
async fn an_incident_is_one_thread_whose_first_message_tells_how_things_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = picture(&folder, PNG);
    let slack = Slack::default();
    let stub = slack.serve().await;
    let mut story: Vec<Announcement> = [
        (Topic::RollbackInitiated, 0),
        (Topic::RollbackCompleted, 1),
        (Topic::EvidenceReady, 9),
        (Topic::DidNotHelp, 60),
        (Topic::Recovered, 240),
        (Topic::Resolved, 900),
    ]
    .map(|(topic, second)| step(topic, second))
    .into();
    for announcement in story.iter_mut().skip(1) {
        announcement.picture = Some(picture.clone());
    }
    let bot = bot(&stub);
    let (mut thread, mut states) = (None, Vec::new());
    for announcement in &story {
        thread = tell(&*bot, announcement, thread.as_deref()).await.expect("told");
        let receipt = thread.as_deref().expect("a receipt");
        assert!(receipt.len() < 1024 && !receipt.contains(TOKEN), "{receipt}");
        states.push(format!("=== after {}\n{}", announcement.topic.as_str(), read(&slack.heads()[0])));
    }
    let heads = slack.heads();
    let replies = slack.replies(&heads[0]["ts"]);
    assert_eq!((heads.len(), replies.len()), (1, 5), "one thread");
    let broadcast: Vec<&Value> = replies.iter().filter(|reply| reply["reply_broadcast"] == true).collect();
    assert_eq!(broadcast.len(), 1, "only the turn for the worse is told in the channel as well");
    assert!(
        broadcast[0]["text"].as_str().expect("text").contains("did not help"),
        "{broadcast:?}"
    );
    let files = slack.workspace().files.len();
    assert_eq!(files, 1, "the same picture is shown once");
    let (bytes, title, below) = slack.workspace().files[0].clone();
    assert_eq!((bytes.as_slice(), Value::from(below)), (PNG, heads[0]["ts"].clone()));
    assert!(title.contains("shop/web"), "{title}");
    for request in stub.requests() {
        if ["/api/chat.postMessage", "/api/chat.update"].contains(&request.path()) {
            check("slack_bot", &request.json()).unwrap_or_else(|why| panic!("{why}"));
        }
    }
    insta::assert_snapshot!(states.join("\n\n"));
}

#[tokio::test]
async fn another_picture_is_shown_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let slack = Slack::default();
    let stub = slack.serve().await;
    let bot = bot(&stub);
    let mut first = step(Topic::RollbackCompleted, 1);
    first.picture = Some(picture(&folder, PNG));
    let thread = tell(&*bot, &first, None).await.expect("told");
    let mut second = step(Topic::Resolved, 900);
    second.picture = Some(picture(&folder, &[PNG, b", and after it"].concat()));
    tell(&*bot, &second, thread.as_deref()).await.expect("told");
    assert_eq!(slack.workspace().files.len(), 2);
}

#[tokio::test]
async fn a_picture_never_fails_the_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut announcement = step(Topic::RollbackCompleted, 1);
    let faults = [
        (
            "files.getUploadURLExternal",
            Answer::Json(200, json!({"ok": false, "error": "missing_scope", "needed": "files:write"})),
        ),
        (
            "files.getUploadURLExternal",
            Answer::Json(
                200,
                json!({"ok": true, "file_id": "F1", "upload_url": "http://127.0.0.2:1/elsewhere"}),
            ),
        ),
        ("files.getUploadURLExternal", Answer::Hang),
        ("/upload", Answer::Text(500, "no")),
        ("files.completeUploadExternal", Answer::Reset),
    ];
    for (method, answer) in faults {
        announcement.picture = Some(picture(&folder, PNG));
        let slack = Slack::default();
        slack.fails(method, false, answer);
        let stub = slack.serve().await;
        let timeout = if method.starts_with("files.get") {
            Duration::from_secs(2)
        } else {
            PATIENT
        };
        let receipt = tell(&*bot_in(CHANNEL, &stub, timeout), &announcement, None)
            .await
            .expect("told all the same");
        assert!(
            receipt.is_some() && slack.workspace().files.is_empty() && slack.heads().len() == 1,
            "{method}"
        );
    }
    for bad in [
        folder.path().join("gone.png"),
        folder.path().to_owned(),
        picture(&folder, b"not a picture"),
    ] {
        announcement.picture = Some(bad);
        let slack = Slack::default();
        let stub = slack.serve().await;
        tell(&*bot(&stub), &announcement, None).await.expect("told all the same");
        assert!(stub.requests().iter().all(|request| !request.path().contains("files.")));
    }
}

#[tokio::test]
async fn what_happens_by_itself_stands_by_itself() {
    let slack = Slack::default();
    let stub = slack.serve().await;
    let bot = bot(&stub);
    let thread = tell_all(&*bot, &[step(Topic::Blind, 0), step(Topic::Sighted, 60)]).await;
    tell(&*bot, &step(Topic::Alert, 70), thread.as_deref()).await.expect("told");
    assert_eq!(slack.heads().len(), 2);
    tell(&*bot, &step(Topic::Blind, 9000), thread.as_deref()).await.expect("told");
    assert_eq!(
        slack.heads().len(),
        3,
        "new trouble after the old one was over is news to the channel"
    );
}

#[tokio::test]
async fn a_thread_whose_first_message_was_deleted_begins_anew() {
    let slack = Slack::default();
    let stub = slack.serve().await;
    let bot = bot(&stub);
    let thread = tell(&*bot, &step(Topic::RollbackInitiated, 0), None).await.expect("told");
    slack.workspace().messages.clear();
    let thread = tell(&*bot, &step(Topic::RollbackCompleted, 1), thread.as_deref())
        .await
        .expect("told");
    tell(&*bot, &step(Topic::Recovered, 60), thread.as_deref()).await.expect("told");
    let heads = slack.heads();
    assert_eq!((heads.len(), slack.replies(&heads[0]["ts"]).len()), (1, 1));
}

// === again and again ===

fn refused(word: &str) -> Answer {
    Answer::Json(200, json!({"ok": false, "error": word}))
}

/// How often each announcement's id stands in the channel and its threads.
fn copies(slack: &Slack) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for message in &slack.workspace().messages {
        let id = message["metadata"]["event_payload"]["id"].as_str().expect("an id").to_owned();
        *copies.entry(id).or_default() += 1;
    }
    copies
}

/// Delivers until it is taken, as the outbox does.
async fn insist(chat: &dyn Notifier, announcement: &Announcement, thread: Option<&str>) -> Option<String> {
    for _ in 0..10 {
        match tell(chat, announcement, thread).await {
            Ok(receipt) => return receipt,
            Err(error) => assert!(!error.is_permanent(), "{error}"),
        }
    }
    panic!("never taken");
}

#[tokio::test]
async fn a_fault_at_any_step_loses_nothing_and_repeats_nothing() {
    let answers = || {
        [
            Answer::Text(500, "oops"),
            Answer::Reset,
            Answer::Hang,
            Answer::Drip,
            refused("internal_error"),
            refused("fatal_error"),
            Answer::Text(200, "<html>a proxy's page</html>"),
        ]
    };
    for method in ["chat.postMessage", "chat.update"] {
        for takes in [false, true] {
            for answer in answers() {
                let case = format!("{method} {takes} {answer:?}");
                let slack = Slack::default();
                let stub = slack.serve().await;
                let bot = bot_in(
                    CHANNEL,
                    &stub,
                    if matches!(answer, Answer::Hang | Answer::Drip) {
                        BRIEF
                    } else {
                        PATIENT
                    },
                );
                let mut thread = insist(&*bot, &step(Topic::RollbackInitiated, 0), None).await;
                slack.fails(method, takes, answer);
                for announcement in [step(Topic::RollbackCompleted, 1), step(Topic::Recovered, 60)] {
                    thread = insist(&*bot, &announcement, thread.as_deref()).await;
                }
                let heads = slack.heads();
                assert_eq!((heads.len(), slack.replies(&heads[0]["ts"]).len()), (1, 2), "{case}");
                assert!(copies(&slack).values().all(|copies| *copies == 1), "{case}: {:?}", copies(&slack));
                assert!(read(&heads[0]).contains("Recovered"), "{case}: {}", read(&heads[0]));
            }
        }
    }
}

#[tokio::test]
async fn the_first_message_of_a_thread_is_not_repeated_either() {
    for answer in [Answer::Reset, Answer::Text(503, ""), Answer::Hang] {
        let slack = Slack::default();
        slack.fails("chat.postMessage", true, answer.clone());
        let stub = slack.serve().await;
        let bot = bot_in(CHANNEL, &stub, if matches!(answer, Answer::Hang) { BRIEF } else { PATIENT });
        let receipt = insist(&*bot, &step(Topic::RollbackInitiated, 0), None).await;
        tell(&*bot, &step(Topic::RollbackCompleted, 1), receipt.as_deref())
            .await
            .expect("told");
        assert_eq!(slack.heads().len(), 1, "{answer:?}");
        assert!(copies(&slack).values().all(|copies| *copies == 1), "{answer:?}");
    }
}

/// A process that was killed after Slack had taken the message, before that was written down.
#[tokio::test]
async fn a_new_process_finds_what_the_old_one_posted() {
    let slack = Slack::default();
    let stub = slack.serve().await;
    let opened = step(Topic::RollbackInitiated, 0);
    let completed = step(Topic::RollbackCompleted, 1);
    tell(&*bot_in(CHANNEL, &stub, PATIENT), &opened, None).await.expect("told");
    let thread = tell(&*bot_in(CHANNEL, &stub, PATIENT), &opened, None).await.expect("told");
    tell(&*bot_in(CHANNEL, &stub, PATIENT), &completed, thread.as_deref())
        .await
        .expect("told");
    let thread = tell(&*bot_in(CHANNEL, &stub, PATIENT), &completed, thread.as_deref())
        .await
        .expect("told");
    assert!(copies(&slack).values().all(|copies| *copies == 1), "{:?}", copies(&slack));
    let requests = stub.requests().len();
    let again = tell(&*bot_in(CHANNEL, &stub, PATIENT), &completed, thread.as_deref())
        .await
        .expect("told");
    assert_eq!(
        (again, stub.requests().len()),
        (thread, requests),
        "a receipt that knows the message needs no request"
    );
}

#[tokio::test]
async fn an_app_that_may_not_read_repeats_rather_than_loses() {
    let slack = Slack::default();
    slack.workspace().is_blind = true;
    slack.fails("chat.postMessage", true, Answer::Reset);
    let stub = slack.serve().await;
    insist(&*bot(&stub), &step(Topic::RollbackInitiated, 0), None).await;
    assert_eq!(slack.heads().len(), 2);
}

#[tokio::test]
async fn nobody_is_asked_where_nothing_is_in_doubt() {
    let slack = Slack::default();
    let stub = slack.serve().await;
    let bot = bot_in(CHANNEL, &stub, PATIENT);
    let thread = tell(&*bot, &step(Topic::RollbackInitiated, 0), None).await.expect("told");
    slack.fails("chat.postMessage", false, refused("ratelimited"));
    insist(&*bot, &step(Topic::RollbackCompleted, 1), thread.as_deref()).await;
    let looks = stub
        .requests()
        .iter()
        .filter(|request| request.path().contains("conversations."))
        .count();
    assert_eq!(looks, 1, "only a fresh process looks");
}

#[tokio::test]
async fn a_first_message_that_cannot_be_changed_does_not_hold_up_the_rest() {
    for fault in [refused("cant_update_message"), refused("internal_error")] {
        let slack = Slack::default();
        let stub = slack.serve().await;
        let bot = bot(&stub);
        let thread = tell(&*bot, &step(Topic::RollbackInitiated, 0), None).await.expect("told");
        for _ in 0..3 {
            slack.fails("chat.update", false, fault.clone());
        }
        let thread = insist(&*bot, &step(Topic::RollbackCompleted, 1), thread.as_deref()).await;
        slack.workspace().faults.clear();
        tell(&*bot, &step(Topic::Recovered, 60), thread.as_deref()).await.expect("told");
        let head = read(&slack.heads()[0]);
        assert!(
            head.contains("Rollback completed") && head.contains("Recovered"),
            "the next change makes up for it: {head}"
        );
        assert!(copies(&slack).values().all(|copies| *copies == 1));
    }
}

// === refusals ===

#[tokio::test]
async fn slack_is_obeyed_and_its_refusals_say_what_to_do() {
    let slack = Slack::default();
    let stub = slack.serve().await;
    let announcement = step(Topic::RollbackInitiated, 0);
    let bot = bot_in("#elsewhere", &stub, PATIENT);
    let error = tell(&*bot, &announcement, None).await.expect_err("refused");
    assert!(
        error.is_permanent() && error.remedy(&webhook("slack", stub.url())).contains("/invite @flipback"),
        "{error}"
    );

    slack.fails(
        "chat.postMessage",
        false,
        Answer::Later(429, "7", json!({"ok": false, "error": "ratelimited"})),
    );
    let error = tell(&*bot, &announcement, None).await.expect_err("limited");
    assert_eq!((error.is_permanent(), error.retry_after()), (false, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn no_answer_makes_a_secret_known() {
    let echo = |request: &Request| Answer::Json(400, json!({"error": request.headers.get("authorization"), "path": request.target}));
    let stub = Stub::start(echo).await;
    let announcement = Announcement::example(Topic::RollbackFailed);
    let mut chats: Vec<Box<dyn Notifier>> = ["slack", "teams", "discord"]
        .map(|kind| chat(webhook(kind, stub.url()), PATIENT))
        .into();
    chats.push(bot(&stub));
    for chat in chats {
        let error = tell(&*chat, &announcement, None).await.expect_err("refused");
        let said = format!("{error} {error:?} {}", error.remedy(&webhook("slack", stub.url())));
        assert!(!said.contains("secret-") && !said.contains(TOKEN), "{said}");
    }
    let refusal = Stub::start(|_| Answer::Json(200, json!({"ok": false, "error": TOKEN, "needed": TOKEN}))).await;
    let error = tell(&*bot(&refusal), &announcement, None).await.expect_err("refused");
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
    let gone = bot(&refusal);
    drop(refusal);
    let error = tell(&*gone, &announcement, None).await.expect_err("gone");
    assert!(!format!("{error} {error:?}").contains(TOKEN) && !error.is_permanent(), "{error:?}");
}

// === Discord ===

#[tokio::test]
async fn discord_gets_the_picture_as_a_file_and_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = taker("discord").await;
    let announcement = Announcement {
        picture: Some(picture(&folder, PNG)),
        ..step(Topic::RollbackCompleted, 1)
    };
    let receipt = tell(&*chat(webhook("discord", stub.url()), PATIENT), &announcement, None)
        .await
        .expect("told");
    assert_eq!(receipt, None, "a plain channel has no threads for webhooks");
    let request = stub.requests().remove(0);
    assert!(request.target.ends_with("?wait=true"), "{}", request.target);
    assert_eq!(request.part("files[0]").as_deref(), Some(PNG));
    let payload: Value = serde_json::from_slice(&request.part("payload_json").expect("a payload")).expect("JSON");
    assert_eq!(payload["embeds"][0]["image"]["url"], "attachment://plot.png");
    check("discord", &payload).unwrap_or_else(|why| panic!("{why}"));
}

#[tokio::test]
async fn discord_takes_the_message_where_it_does_not_take_the_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = Stub::start(|request| match request.part("files[0]") {
        Some(_) => Answer::Json(413, json!({"message": "Request entity too large", "code": 40005})),
        None => Answer::Json(200, json!({"id": "1", "channel_id": "2"})),
    })
    .await;
    let chat = chat(webhook("discord", stub.url()), PATIENT);
    for picture in [picture(&folder, PNG), folder.path().join("gone.png")] {
        let announcement = Announcement {
            picture: Some(picture),
            ..step(Topic::RollbackCompleted, 1)
        };
        tell(&*chat, &announcement, None).await.expect("told all the same");
    }
    assert_eq!(stub.requests().len(), 3);
}

#[tokio::test]
async fn discord_says_in_its_body_how_long_to_wait() {
    let body = json!({"message": "You are being rate limited.", "retry_after": 1.337, "global": false});
    let stub = Stub::start(move |_| Answer::Later(429, "1", body.clone())).await;
    let chat = chat(webhook("discord", stub.url()), PATIENT);
    let error = tell(&*chat, &step(Topic::Alert, 0), None).await.expect_err("limited");
    assert_eq!(
        (error.is_permanent(), error.retry_after()),
        (false, Some(Duration::from_millis(1337)))
    );
}

#[tokio::test]
async fn a_discord_forum_gets_a_thread_per_incident() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let stub = Stub::start(move |request| {
        let query = request.target.split_once('?').map_or("", |(_, query)| query).to_owned();
        let name = request.json()["thread_name"].as_str().map(str::to_owned);
        if !query.contains("thread_id") && name.is_none() {
            let words = "Webhooks posted to forum channels must have a thread_name or thread_id";
            return Answer::Json(400, json!({"message": words, "code": 220001}));
        }
        log.lock().expect("unpoisoned").push(name.unwrap_or(query));
        Answer::Json(200, json!({"id": "77", "channel_id": "4242"}))
    })
    .await;
    let chat = chat(webhook("discord", stub.url()), PATIENT);
    tell_all(&*chat, &[step(Topic::RollbackInitiated, 0), step(Topic::RollbackCompleted, 1)]).await;
    tell(&*chat, &step(Topic::Alert, 2), None).await.expect("told");
    let seen = seen.lock().expect("unpoisoned").clone();
    assert!(seen[0].contains("shop/web") && seen[2].contains("shop/web"), "{seen:?}");
    assert_eq!(seen[1], "wait=true&thread_id=4242");
    assert_eq!(stub.requests().len(), 4, "a forum is found out once");
}

// === webhooks ===

#[tokio::test]
async fn a_webhook_that_is_slow_broken_or_busy_is_tried_again() {
    for kind in ["slack", "teams", "discord"] {
        for (answer, is_permanent) in [
            (Answer::Text(404, "no_service"), true),
            (Answer::Text(400, "invalid_blocks"), true),
            (Answer::Text(500, ""), false),
            (Answer::Later(429, "3", Value::Null), false),
            (Answer::Reset, false),
            (Answer::Hang, false),
        ] {
            let reply = answer.clone();
            let stub = Stub::start(move |_| reply.clone()).await;
            let timeout = if matches!(answer, Answer::Hang) { BRIEF } else { PATIENT };
            let error = tell(&*chat(webhook(kind, stub.url()), timeout), &step(Topic::RollbackFailed, 0), None).await;
            let error = error.expect_err("refused");
            assert_eq!(error.is_permanent(), is_permanent, "{kind} {answer:?}: {error}");
            if matches!(answer, Answer::Later(..)) {
                assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
            }
        }
    }
}

#[tokio::test]
async fn nobody_is_called_by_what_somebody_wrote() {
    let announcement = Announcement {
        why: "<!channel> <@U1> @everyone [free money](https://evil.example)".into(),
        ..step(Topic::RollbackBlocked, 0)
    };
    let slack = posted("slack", &announcement).await.to_string();
    assert!(slack.contains("&lt;!channel&gt; &lt;@U1&gt;"), "{slack}");
    let discord = posted("discord", &announcement).await;
    assert_eq!(discord["allowed_mentions"], json!({"parse": []}));
    let said = discord["embeds"][0]["description"].as_str().expect("text");
    assert!(
        said.starts_with("\\<!channel\\> \\<\\@U1\\> \\@everyone \\[free money\\](https://evil.example)"),
        "{said}"
    );
}

#[tokio::test]
async fn what_traffic_leaves_and_goes_to_stand_first_and_side_by_side() {
    let slack = posted("slack", &Announcement::example(Topic::RollbackCompleted)).await;
    let bar = slack["attachments"][0]["blocks"].as_array().expect("blocks");
    let fields = bar.iter().find_map(|block| block["fields"].as_array()).expect("fields");
    let starts = |at: usize, text: &str| fields[at]["text"].as_str().expect("text").starts_with(text);
    assert!(starts(0, "*From*\ngreen") && starts(1, "*To*\nblue"), "{fields:?}");
    let discord = posted("discord", &Announcement::example(Topic::RollbackCompleted)).await;
    let fields = &discord["embeds"][0]["fields"];
    assert_eq!((&fields[0]["name"], &fields[1]["name"]), (&json!("From"), &json!("To")));
}

#[tokio::test]
async fn severity_is_a_color_and_a_sign_everywhere() {
    for topic in [Topic::RollbackFailed, Topic::RollbackWithheld, Topic::Recovered] {
        let announcement = Announcement::example(topic);
        let (sign, color, style) = match topic.severity() {
            Severity::Critical => ("🔴", 0xd9_2d20, "attention"),
            Severity::Warning => ("🟠", 0xf7_9009, "warning"),
            Severity::Info => ("🟢", 0x12_b76a, "good"),
        };
        let slack = posted("slack", &announcement).await;
        assert_eq!(slack["attachments"][0]["color"], format!("#{color:06x}"));
        assert!(slack["blocks"][0]["text"]["text"].as_str().expect("text").starts_with(sign));
        assert_eq!(posted("discord", &announcement).await["embeds"][0]["color"], color);
        assert_eq!(
            posted("teams", &announcement).await["attachments"][0]["content"]["body"][0]["style"],
            style
        );
    }
}
