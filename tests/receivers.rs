//! The receivers against what really receives: a real Alertmanager, a real mail server, Python's verification of a signature,
//! and a stub that answers, refuses, limits, hangs, hangs up and repeats what it was sent.

use std::{collections::BTreeSet, process::Command, sync::Arc, time::Duration};

use flipback::{
    model::{
        Announcement, SAMPLE, Topic,
        settings::{Channel, ChatSettings, Email, MailSecurity, Secret},
    },
    notify::{self, DeliverError, Parcel},
    words::Message,
};
use secrecy::SecretString;
use serde_json::{Value, json};

#[path = "receivers/alertmanager.rs"]
mod alertmanager;
#[path = "receivers/smtp.rs"]
mod smtp;
#[path = "receivers/stub.rs"]
mod stub;
pub mod support;

use alertmanager::Alertmanager;
use smtp::{MailServer, PASSWORD, USER};
use stub::{Manner, Stub};
use support::{eventually, install_tls, process::Folder};

/// No machine is so slow.
const SOON: Duration = Duration::from_secs(60);

fn secret(text: impl Into<String>) -> Secret {
    Secret::Value(SecretString::from(text.into()))
}

fn example(topic: Topic) -> Announcement {
    Announcement {
        id: format!("shop.web_20261121T041234Z.{}.1795234354567", topic.as_str()),
        ..Announcement::example(topic)
    }
}

/// The same, happening now: Alertmanager has a clock.
fn current(topic: Topic) -> Announcement {
    Announcement {
        at: support::now(),
        ..example(topic)
    }
}

async fn deliver(chat: &ChatSettings, announcement: &Announcement, thread: Option<&str>) -> Result<Option<String>, DeliverError> {
    install_tls();
    let message = Message::of(announcement);
    let parcel = Parcel {
        announcement,
        message: &message,
        thread,
    };
    notify::open(chat).deliver(parcel).await
}

/// An error as everything that could be logged of it.
fn everything(error: &DeliverError, chat: &ChatSettings) -> String {
    let mut text = format!("{error} {error:?} {}", error.remedy(&chat.channel));
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(&format!(" {next} {next:?}"));
        cause = next.source();
    }
    text
}

fn webhook(url: String, key: Option<&str>) -> ChatSettings {
    ChatSettings::new(
        "hook",
        Channel::Webhook {
            url: secret(url),
            token: None,
            signing_key: key.map(secret),
        },
    )
}

fn pagerduty(stub: &Stub, key: &str) -> ChatSettings {
    ChatSettings::new(
        "pager",
        Channel::PagerDuty {
            routing_key: secret(key),
            api: stub.url("").parse().expect("a URL"),
        },
    )
}

fn alerts(url: String) -> ChatSettings {
    ChatSettings::new(
        "alerts",
        Channel::Alertmanager {
            url: secret(url),
            token: None,
        },
    )
}

fn http_receivers(stub: &Stub) -> [ChatSettings; 3] {
    let short = |chat: ChatSettings| ChatSettings {
        timeout: Duration::from_millis(700),
        ..chat
    };
    [
        short(webhook(stub.url("/hook"), None)),
        short(pagerduty(stub, "routing-key-of-32-characters----")),
        short(alerts(stub.url("/"))),
    ]
}

#[tokio::test]
async fn what_a_receiver_answers_is_what_becomes_of_the_message() {
    for status in [200, 202, 204] {
        let stub = Stub::start(Manner::Status(status)).await;
        for chat in http_receivers(&stub) {
            let delivered = deliver(&chat, &example(Topic::RollbackFailed), None).await;
            assert!(delivered.is_ok(), "{} {status}: {delivered:?}", chat.name);
        }
        assert_eq!(stub.seen().len(), 3);
    }
    for (manner, permanent) in [
        (Manner::Status(302), true),
        (Manner::Status(400), true),
        (Manner::Status(404), true),
        (Manner::Status(500), false),
        (Manner::Status(503), false),
        (Manner::Later(429, 7), false),
        (Manner::Hang, false),
        (Manner::Reset, false),
    ] {
        let stub = Stub::start(manner).await;
        for chat in http_receivers(&stub) {
            let error = deliver(&chat, &example(Topic::RollbackFailed), None).await.expect_err("refused");
            assert_eq!(error.is_permanent(), permanent, "{} {manner:?}: {error}", chat.name);
            let asked = matches!(manner, Manner::Later(..)).then_some(Duration::from_secs(7));
            assert_eq!(error.retry_after(), asked, "{} {manner:?}", chat.name);
            match manner {
                Manner::Status(status) | Manner::Later(status, _) => {
                    assert!(
                        matches!(error, DeliverError::Status { status: said, .. } if said == status),
                        "{error}"
                    );
                }
                Manner::Hang => assert!(matches!(error, DeliverError::Timeout(_)), "{error}"),
                Manner::Reset | Manner::Echo => assert!(matches!(error, DeliverError::Send(_)), "{error}"),
            }
        }
    }
}

// === The generic webhook ===

/// The verification that `docs/messages.md` gives to receivers, as it stands there.
fn documented_verification() -> String {
    let page = std::fs::read_to_string(support::project().join("docs/messages.md")).expect("the page is there");
    let (_, rest) = page.split_once("```python\n").expect("it shows Python");
    let (code, _) = rest.split_once("```").expect("the block ends");
    code.to_owned()
}

/// What the documented function says of a request.
fn verified(key: &str, headers: &Value, body: &[u8]) -> bool {
    let folder = Folder::new();
    let program = format!(
        "{}\nimport json, sys\nprint(verify(json.loads(sys.argv[1]), open(sys.argv[2], 'rb').read(), sys.argv[3]))\n",
        documented_verification()
    );
    let program = folder.write("verify.py", program);
    let body = folder.write("body", body);
    let output = Command::new("python3")
        .arg(program)
        .arg(headers.to_string())
        .arg(body)
        .arg(key)
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim() == "True"
}

#[tokio::test]
async fn the_documented_verification_accepts_our_requests_and_nothing_else() {
    let stub = Stub::start(Manner::Status(204)).await;
    let issued = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let chat = webhook(stub.url("/hook"), Some(&format!("a new plain key\n{issued}")));
    let announcement = Announcement {
        why: "with umlauts: größer, and 💥".into(),
        ..example(Topic::RollbackCompleted)
    };
    deliver(&chat, &announcement, None).await.expect("accepted");
    let request = stub.seen().remove(0);
    let header = |name: &str| request.header(name).unwrap_or_default();
    let headers = json!({
        "webhook-id": header("webhook-id"),
        "webhook-timestamp": header("webhook-timestamp"),
        "webhook-signature": header("webhook-signature"),
    });
    for key in ["a new plain key", issued] {
        assert!(verified(key, &headers, &request.body), "{key}: {headers}");
    }
    assert!(!verified("another key", &headers, &request.body));
    let mut body = request.body.clone();
    body[20] ^= 1;
    assert!(!verified(issued, &headers, &body));
    for (name, value) in [
        ("webhook-id", "another"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,AAAA"),
    ] {
        let mut forged = headers.clone();
        forged[name] = value.into();
        assert!(!verified(issued, &forged, &request.body), "{name}");
    }
    assert_eq!(header("content-type"), "application/cloudevents+json");
    assert_eq!(header("idempotency-key"), announcement.id);
    assert_eq!(request.json()["id"], announcement.id);
    assert_eq!(header("webhook-id"), announcement.id.replace('.', "~"));
}

#[test]
fn the_page_shows_an_event_of_its_schema_and_every_topic() {
    let read = |name: &str| std::fs::read_to_string(support::project().join("docs").join(name)).expect("it is there");
    let page = read("messages.md");
    let (_, rest) = page.split_once("```json\n").expect("it shows an event");
    let (shown, _) = rest.split_once("```").expect("the block ends");
    let event: Value = serde_json::from_str(shown).expect("JSON");
    let schema: Value = serde_json::from_str(&read("webhook.schema.json")).expect("JSON");
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a sound schema");
    let errors: Vec<String> = validator.iter_errors(&event).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    for topic in Topic::ALL {
        let named = format!("`{}`", topic.as_str());
        let row = page.lines().find(|line| line.starts_with('|') && line.contains(&named));
        let row = row.unwrap_or_else(|| panic!("{named} is not in the table"));
        let severity = serde_json::to_value(topic.severity()).expect("a word");
        let stage = serde_json::to_value(topic.stage()).expect("a word");
        for word in [severity, stage] {
            assert!(row.contains(word.as_str().expect("a word")), "{named}: {word} in {row}");
        }
    }
}

#[tokio::test]
async fn a_message_sent_again_is_known_by_its_key_and_signed_anew() {
    let stub = Stub::start(Manner::Status(200)).await;
    let chat = webhook(stub.url("/hook"), Some("key"));
    for _ in 0..2 {
        deliver(&chat, &example(Topic::Blind), None).await.expect("accepted");
    }
    let seen = stub.seen();
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    assert_eq!(seen[0].body, seen[1].body);
    let unsigned = webhook(stub.url("/hook"), None);
    deliver(&unsigned, &example(Topic::Blind), None).await.expect("accepted");
    assert_eq!(stub.seen()[2].header("webhook-signature"), None);
}

// === PagerDuty ===

#[tokio::test]
async fn pagerduty_has_one_alert_per_thread_until_it_is_over() {
    let stub = Stub::start(Manner::Status(202)).await;
    let chat = pagerduty(&stub, "routing-key-of-32-characters----");
    let mut receipt = None;
    for topic in [
        Topic::RollbackInitiated,
        Topic::RollbackCompleted,
        Topic::DidNotHelp,
        Topic::Recovered,
        Topic::EvidenceReady,
        Topic::Resolved,
    ] {
        receipt = deliver(&chat, &example(topic), receipt.as_deref()).await.expect("accepted");
    }
    let seen = stub.seen();
    assert!(seen.iter().all(|request| request.path() == "/v2/enqueue"));
    let told: Vec<(String, String)> = seen
        .iter()
        .map(|request| {
            let body = request.json();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            assert_eq!(body["dedup_key"], example(Topic::Recovered).thread);
            assert_eq!(body["routing_key"], "routing-key-of-32-characters----");
            (text(&body["event_action"]), text(&body["payload"]["severity"]))
        })
        .collect();
    let told: Vec<(&str, &str)> = told.iter().map(|(action, severity)| (action.as_str(), severity.as_str())).collect();
    // The report that is ready after the end opens nothing again.
    assert_eq!(
        told,
        [
            ("trigger", "critical"),
            ("trigger", "critical"),
            ("trigger", "critical"),
            ("resolve", "critical"),
            ("resolve", "info")
        ]
    );
}

#[tokio::test]
async fn pagerduty_is_not_told_what_never_ends_and_a_test_ends_itself() {
    let stub = Stub::start(Manner::Status(202)).await;
    let chat = pagerduty(&stub, "routing-key-of-32-characters----");
    for topic in [Topic::Alert, Topic::Degraded, Topic::Switched, Topic::Paused, Topic::Resumed] {
        deliver(&chat, &example(topic), None).await.expect("nothing to do");
    }
    assert!(stub.seen().is_empty());
    deliver(&chat, &example(Topic::Test), None).await.expect("accepted");
    let actions: Vec<Value> = stub.seen().iter().map(|request| request.json()["event_action"].clone()).collect();
    assert_eq!(actions, ["trigger", "resolve"]);
}

// === Alertmanager ===

fn labels(alert: &Value) -> Value {
    alert["labels"].clone()
}

/// What Alertmanager has told people, as (status, labels) of each alert.
fn told(alertmanager: &Alertmanager) -> Vec<(String, Value)> {
    let deliveries = alertmanager.told.deliveries();
    let alerts = deliveries
        .iter()
        .flat_map(|delivery| delivery.body["alerts"].as_array().cloned().unwrap_or_default());
    alerts
        .map(|alert| (alert["status"].as_str().unwrap_or_default().to_owned(), labels(&alert)))
        .collect()
}

#[tokio::test]
async fn a_real_alertmanager_fires_with_a_rollback_and_resolves_with_its_end() {
    if !alertmanager::installed("a_real_alertmanager_fires_with_a_rollback_and_resolves_with_its_end") {
        return;
    }
    let server = Alertmanager::start().await;
    let chat = alerts(server.url());
    let opened = current(Topic::RollbackInitiated);
    let receipt = deliver(&chat, &opened, None).await.expect("accepted");
    let firing = server.firing().await;
    assert_eq!(firing.len(), 1, "{firing:?}");
    assert_eq!(
        labels(&firing[0]),
        json!({
            "alertname": "FlipbackIncident", "guard": "shop/web", "namespace": "shop", "object": "Service/web", "severity": "critical",
            "incident": "shop.web_20261121T041234Z",
        })
    );
    assert_eq!(firing[0]["annotations"]["summary"], "Rolling back: shop/web from green to blue");
    assert_eq!(server.queried().iter().map(labels).collect::<Vec<_>>(), [labels(&firing[0])]);
    eventually("people to be told that it fires", SOON, async || {
        told(&server).contains(&("firing".to_owned(), labels(&firing[0]))).then_some(())
    })
    .await;

    // News: the same alert, with other words.
    let receipt = deliver(&chat, &current(Topic::RollbackCompleted), receipt.as_deref())
        .await
        .expect("accepted");
    let still = server.firing().await;
    assert_eq!(still.iter().map(labels).collect::<Vec<_>>(), [labels(&firing[0])]);
    assert_eq!(still[0]["annotations"]["summary"], "Rolled back: shop/web is on blue again");
    assert_eq!(still[0]["startsAt"], firing[0]["startsAt"]);

    let receipt = deliver(&chat, &current(Topic::Recovered), receipt.as_deref())
        .await
        .expect("accepted");
    eventually("the alert to be gone", SOON, async || {
        server.firing().await.is_empty().then_some(())
    })
    .await;
    eventually("people to be told that it is over", SOON, async || {
        told(&server).contains(&("resolved".to_owned(), labels(&firing[0]))).then_some(())
    })
    .await;

    deliver(&chat, &current(Topic::EvidenceReady), receipt.as_deref())
        .await
        .expect("nothing to do");
    assert_eq!(server.firing().await, Vec::<Value>::new());
    // The end of the quieter alert that never was is told to nobody.
    let severities: BTreeSet<String> = told(&server).iter().map(|(_, labels)| labels["severity"].to_string()).collect();
    assert_eq!(severities, ["\"critical\"".to_owned()].into());
}

#[tokio::test]
async fn a_real_alertmanager_has_one_alert_of_a_thread_that_grows_louder() {
    if !alertmanager::installed("a_real_alertmanager_has_one_alert_of_a_thread_that_grows_louder") {
        return;
    }
    let server = Alertmanager::start().await;
    let chat = alerts(server.url());
    let receipt = deliver(&chat, &current(Topic::RollbackSuppressed), None).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let loud = current(Topic::RollbackFailed);
    deliver(&chat, &loud, receipt.as_deref()).await.expect("accepted");
    eventually("the quieter one to be gone", SOON, async || {
        let firing = server.firing().await;
        (firing.len() == 1 && firing[0]["labels"]["severity"] == "critical").then_some(())
    })
    .await;
    // The end, told by a process that has no receipt.
    deliver(&chat, &current(Topic::Resolved), None).await.expect("accepted");
    eventually("nothing to fire", SOON, async || server.firing().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_real_alertmanager_takes_every_kind_of_message() {
    if !alertmanager::installed("a_real_alertmanager_takes_every_kind_of_message") {
        return;
    }
    let server = Alertmanager::start().await;
    let chat = alerts(server.url());
    for topic in Topic::ALL {
        let hostile = Announcement {
            why: "{{ .Labels }} \"\\ 💥 \u{7f} <b>".repeat(500),
            link: Some("https://evidence.example/report.html?a=1&b=2".into()),
            cluster: "eu-1".into(),
            ..current(topic)
        };
        let delivered = deliver(&chat, &hostile, None).await;
        assert!(delivered.is_ok(), "{topic:?}: {delivered:?}");
    }
    // Each condition ended what it had opened; what no message ends is left (of the incident, "flipped back"), and the test.
    let names = |alerts: &[Value]| -> BTreeSet<String> {
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned();
        alerts.iter().map(name).collect()
    };
    let left = ["FlipbackIncident", "FlipbackTest"].map(str::to_owned);
    eventually("the rest to be over", SOON, async || {
        (names(&server.firing().await) == BTreeSet::from(left.clone())).then_some(())
    })
    .await;
}

// === E-mail ===

fn mail(server: &MailServer, security: MailSecurity, password: Option<&str>, to: &[&str]) -> ChatSettings {
    let channel = Channel::Email(Email {
        host: "localhost".into(),
        port: server.port,
        security,
        login: password.map(|password| (USER.to_owned(), secret(password))),
        ca_file: Some(server.ca.clone()),
        from: "flipback <flipback@shop.example>".into(),
        to: to.iter().map(|to| (*to).to_owned()).collect(),
    });
    ChatSettings {
        timeout: Duration::from_secs(30),
        ..ChatSettings::new("mail", channel)
    }
}

fn email(chat: &mut ChatSettings) -> &mut Email {
    match &mut chat.channel {
        Channel::Email(email) => email,
        other => panic!("no mail: {other:?}"),
    }
}

/// A small picture that mail programs would show.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR not much of one";

#[tokio::test]
async fn a_real_mail_server_takes_a_thread_over_starttls_with_a_login() {
    if !smtp::installed("a_real_mail_server_takes_a_thread_over_starttls_with_a_login") {
        return;
    }
    let server = MailServer::start("starttls", true).await;
    let chat = mail(
        &server,
        MailSecurity::Starttls,
        Some(PASSWORD),
        &["ops@shop.example", "Ann <ann@shop.example>"],
    );
    let folder = Folder::new();
    let first = example(Topic::RollbackInitiated);
    let receipt = deliver(&chat, &first, None).await.expect("accepted");
    let second = Announcement {
        picture: Some(folder.write("plot.png", PNG)),
        link: Some("https://evidence.example/report.html".into()),
        why: "größer als 5 %\r\n.\r\nQUIT".into(),
        ..example(Topic::EvidenceReady)
    };
    let receipt = deliver(&chat, &second, receipt.as_deref()).await.expect("accepted");
    deliver(&chat, &example(Topic::Recovered), receipt.as_deref())
        .await
        .expect("accepted");

    let mails = server.mails();
    assert_eq!(mails.len(), 3, "{mails:?}");
    for mail in &mails {
        assert_eq!(mail["defects"], json!([]));
        assert_eq!(mail["headers"]["X-Test-Protected"], "yes");
        assert_eq!(mail["headers"]["X-Test-Login"], USER);
        assert_eq!(mail["headers"]["X-RcptTo"], "ops@shop.example, ann@shop.example");
        assert_eq!(mail["headers"]["Auto-Submitted"], "auto-generated");
    }
    let header = |n: usize, name: &str| mails[n]["headers"][name].clone();
    assert_eq!(header(0, "Subject"), "Rolling back: shop/web from green to blue");
    assert_eq!(header(0, "Message-ID"), format!("<{}@shop.example>", first.id));
    assert_eq!(header(0, "In-Reply-To"), Value::Null);
    for n in [1, 2] {
        assert_eq!(header(n, "In-Reply-To"), header(0, "Message-ID"));
        assert_eq!(header(n, "References"), header(0, "Message-ID"));
    }
    let types = |n: usize| -> Vec<String> {
        let parts = mails[n]["parts"].as_array().cloned().unwrap_or_default();
        parts
            .iter()
            .map(|part| part["type"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(types(0), ["multipart/alternative", "text/plain", "text/html"]);
    assert_eq!(
        types(1),
        ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
    );
    let parts = &mails[1]["parts"];
    assert!(
        parts[1]["content"].as_str().is_some_and(|text| text.contains("rößer als 5 %")),
        "{parts}"
    );
    let html = parts[3]["content"].as_str().unwrap_or_default();
    assert!(html.contains("cid:what-happened@flipback") && html.contains("https://evidence.example/report.html"));
    assert_eq!(parts[4]["id"], "<what-happened@flipback>");
}

#[tokio::test]
async fn a_real_mail_server_is_spoken_to_as_it_is_set_up_and_never_less_protected() {
    if !smtp::installed("a_real_mail_server_is_spoken_to_as_it_is_set_up_and_never_less_protected") {
        return;
    }
    let to = &["ops@shop.example"];
    let tls = MailServer::start("tls", true).await;
    let chat = mail(&tls, MailSecurity::Tls, Some(PASSWORD), to);
    deliver(&chat, &example(Topic::Blind), None).await.expect("accepted");
    assert_eq!(tls.mails()[0]["headers"]["X-Test-Protected"], "yes");

    let plain = MailServer::start("plain", false).await;
    let chat = mail(&plain, MailSecurity::None, None, to);
    deliver(&chat, &example(Topic::Blind), None).await.expect("accepted");
    assert_eq!(plain.mails().len(), 1);

    // A server that offers no STARTTLS, or somebody between who hides it.
    let chat = mail(&plain, MailSecurity::Starttls, Some(PASSWORD), to);
    let error = deliver(&chat, &example(Topic::Blind), None).await.expect_err("unprotected");
    assert!(error.is_permanent() && error.to_string().contains("STARTTLS"), "{error}");
    assert_eq!(plain.mails().len(), 1);

    // A server whose certificate nobody vouches for.
    let starttls = MailServer::start("starttls", true).await;
    let mut chat = mail(&starttls, MailSecurity::Starttls, Some(PASSWORD), to);
    email(&mut chat).ca_file = None;
    let error = deliver(&chat, &example(Topic::Blind), None).await.expect_err("unknown");
    assert!(!error.is_permanent() && error.to_string().contains("STARTTLS"), "{error}");
    email(&mut chat).ca_file = Some("/nonexistent/ca.pem".into());
    let error = deliver(&chat, &example(Topic::Blind), None).await.expect_err("no file");
    assert!(
        !error.is_permanent() && error.to_string().contains("/nonexistent/ca.pem"),
        "{error}"
    );
    // A name that is not in it.
    let mut chat = mail(&starttls, MailSecurity::Starttls, Some(PASSWORD), to);
    email(&mut chat).host = "127.0.0.2".into();
    assert!(deliver(&chat, &example(Topic::Blind), None).await.is_err());
    assert_eq!(starttls.mails(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_real_mail_servers_refusals_are_told_apart_and_never_repeat_the_password() {
    if !smtp::installed("a_real_mail_servers_refusals_are_told_apart_and_never_repeat_the_password") {
        return;
    }
    let server = MailServer::start("starttls", true).await;
    let refused = async |password: &str, to: &[&str]| {
        let chat = mail(&server, MailSecurity::Starttls, Some(password), to);
        let error = deliver(&chat, &example(Topic::Blind), None).await.expect_err("refused");
        let text = everything(&error, &chat);
        assert!(!text.contains("canary"), "{text}");
        error
    };
    let wrong = refused("canary-a-wrong-password", &["ops@shop.example"]).await;
    assert!(
        matches!(&wrong, DeliverError::Refused { said, permanent: false } if said.starts_with("535")),
        "{wrong}"
    );
    let gone = refused(PASSWORD, &["gone@shop.example"]).await;
    assert!(
        gone.is_permanent() && gone.to_string().contains("there is nobody of that name"),
        "{gone}"
    );
    let later = refused(PASSWORD, &["gone@shop.example", "later@shop.example"]).await;
    assert!(!later.is_permanent() && later.to_string().contains("greylisted"), "{later}");

    // One who has left keeps nobody else from hearing.
    let chat = mail(
        &server,
        MailSecurity::Starttls,
        Some(PASSWORD),
        &["gone@shop.example", "ops@shop.example", "later@shop.example"],
    );
    deliver(&chat, &example(Topic::Blind), None).await.expect("accepted");
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["headers"]["X-RcptTo"], "ops@shop.example");
}

#[tokio::test]
async fn a_mail_server_that_hangs_is_not_waited_for_longer_than_allowed() {
    if !smtp::installed("a_mail_server_that_hangs_is_not_waited_for_longer_than_allowed") {
        return;
    }
    let server = MailServer::start("starttls", true).await;
    let mut chat = mail(&server, MailSecurity::Starttls, Some(PASSWORD), &["never@shop.example"]);
    chat.timeout = Duration::from_secs(4);
    let error = tokio::time::timeout(SOON, deliver(&chat, &example(Topic::Blind), None))
        .await
        .expect("it ends")
        .expect_err("no answer");
    assert!(!error.is_permanent() && error.to_string().contains("no answer in time"), "{error}");
    // The kernel accepts the connection of a server that sleeps; its greeting never comes.
    server.stop();
    chat.timeout = Duration::from_secs(1);
    let error = tokio::time::timeout(SOON, deliver(&chat, &example(Topic::Blind), None))
        .await
        .expect("it ends")
        .expect_err("no answer");
    assert!(error.to_string().contains("reach the mail server"), "{error}");
}

// === Secrets ===

/// What is logged, at the level of `debug`.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_an_error_or_in_the_log_even_when_the_receiver_repeats_it() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let stub = Stub::start(Manner::Echo).await;
    let canary = "canary-93a1b7e2-secret";
    let url = stub.url(&format!("/{canary}/path?sig={canary}"));
    let with_login = url.replacen("http://", &format!("http://{canary}:{canary}@"), 1);
    let encoded = "Y2FuYXJ5LTkzYTFiN2UyLXNlY3JldDpjYW5hcnk";
    let app = Channel::SlackBot {
        token: secret(canary),
        channel: "C0123456789".into(),
        api: stub.url("/api/").parse().expect("a URL"),
    };
    let mut chats = vec![pagerduty(&stub, canary), ChatSettings::new("app", app)];
    for url in [&url, &with_login] {
        chats.push(ChatSettings::new("slack", Channel::Slack { url: secret(url) }));
        chats.push(ChatSettings::new("teams", Channel::Teams { url: secret(url) }));
        chats.push(ChatSettings::new("discord", Channel::Discord { url: secret(url) }));
        chats.push(ChatSettings::new(
            "hook",
            Channel::Webhook {
                url: secret(url),
                token: (url != &with_login).then(|| secret(canary)),
                signing_key: Some(secret(canary)),
            },
        ));
        chats.push(ChatSettings::new(
            "alerts",
            Channel::Alertmanager {
                url: secret(url),
                token: (url != &with_login).then(|| secret(canary)),
            },
        ));
    }
    for chat in &chats {
        let error = deliver(chat, &example(Topic::RollbackFailed), None).await.expect_err("refused");
        let text = format!("{} {:?}", everything(&error, chat), chat);
        assert!(!text.contains("canary") && !text.contains(encoded), "{}: {text}", chat.name);
    }
    let sent = stub.seen().iter().map(|request| format!("{request:?}")).collect::<String>();
    assert!(sent.contains(canary), "the canaries were sent");
    let logged = String::from_utf8_lossy(&log.0.lock().expect("sound")).into_owned();
    assert!(!logged.contains("canary") && !logged.contains(encoded), "{logged}");
}

// === The command ===

/// The command asks no cluster; a configuration has a guard in any case.
const CONFIGURATION: &str = r#"
[chats.hook]
kind = "webhook"
url_file = "url"
[[guards]]
name = "web"
namespace = "shop"
[guards.route]
service = "web"
selector_key = "version"
[guards.colors]
blue = { value = "blue", deployment = "web-blue" }
green = { value = "green", deployment = "web-green" }
"#;

/// The built binary in a folder with one webhook.
fn flipback(folder: &Folder, stub: &Stub, arguments: &[&str]) -> (i32, String, String) {
    folder.write("url", stub.url("/hook/canary-6e0f-in-a-file"));
    folder.write("flipback.toml", CONFIGURATION);
    let output = Command::new(env!("CARGO_BIN_EXE_flipback"))
        .args(arguments)
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path())
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sends_a_sample_of_each_kind() {
    let folder = Folder::new();
    let stub = Stub::start(Manner::Status(202)).await;
    let (code, out, err) = flipback(&folder, &stub, &["notify", "test", "--output", "json"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lines: Vec<Value> = serde_json::from_str(&out).expect("JSON");
    assert_eq!(lines.len(), Topic::ALL.len());
    assert!(lines.iter().all(|line| line["fate"] == "sent"), "{out}");
    let events: Vec<Value> = stub.seen().iter().map(stub::Request::json).collect();
    let topics: BTreeSet<String> = events.iter().map(|event| event["data"]["topic"].to_string()).collect();
    assert_eq!(topics.len(), Topic::ALL.len());
    for event in &events {
        assert_eq!(event["data"]["test"], true);
        assert!(
            event["data"]["title"].as_str().is_some_and(|title| title.starts_with("TEST: ")),
            "{event}"
        );
        assert!(event["id"].as_str().is_some_and(|id| id.starts_with(SAMPLE)), "{event}");
    }
    let (code, out, _) = flipback(
        &folder,
        &stub,
        &["notify", "test", "hook", "--topic", "blind", "--topic", "sighted"],
    );
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("2 sent, all well"), "{out}");
    let (code, out, _) = flipback(&folder, &stub, &["notify", "list"]);
    assert_eq!(code, 0);
    assert!(out.contains("hook") && out.contains("everything"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_was_wrong_and_what_to_do() {
    let folder = Folder::new();
    let stub = Stub::start(Manner::Status(404)).await;
    let (code, out, _) = flipback(&folder, &stub, &["notify", "test"]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("the chat answered 404: said") && out.contains("-> the receiver knows no such address"),
        "{out}"
    );
    assert!(
        out.contains(&format!("0 sent, {} not", Topic::ALL.len())) && !out.contains("canary"),
        "{out}"
    );
    // A URL that is wrong for one message is wrong for all.
    assert_eq!(stub.seen().len(), 1);
    let before = stub.seen().len();
    let (code, out, _) = flipback(&folder, &stub, &["notify", "test", "--dry-run"]);
    assert_eq!((code, stub.seen().len()), (0, before), "{out}");
    assert!(
        out.contains(&format!("{} would be sent; nothing was", Topic::ALL.len())) && !out.contains("canary"),
        "{out}"
    );
    for usage in [
        &["notify", "test", "nobody"][..],
        &["notify", "test", "--topic", "nonsense"],
        &["notify"],
    ] {
        let (code, _, err) = flipback(&folder, &stub, usage);
        assert_eq!(code, 64, "{usage:?}: {err}");
    }
}
