//! Chats and their words: every kind as it is written, and what is said when it is wrong.

use super::*;
use crate::model::{Severity, Topic};

/// A chat's settings, its secrets as the file names them.
fn printed(config: &Config) -> String {
    let folder = config.origin.as_ref().and_then(|path| path.parent()).expect("a file");
    format!("{:#?}", config.chats).replace(&format!("{}/", folder.display()), "")
}

#[test]
fn every_kind_of_chat_is_read_whole() {
    let config = loaded(
        &format!(
            r#"
[chats.slack]
url_file = "slack-url"
[chats.slack_bot]
token_file = "slack-token"
channel = "C0123456789"
[chats.teams]
url_file = "teams-url"
[chats.discord]
url_file = "discord-url"
[chats.webhook]
url_file = "webhook-url"
token_file = "webhook-token"
signing_key_file = "webhook-key"
[chats.pagerduty]
routing_key_file = "pagerduty-key"
api = "https://events.eu.pagerduty.com"
[chats.alertmanager]
url = "http://alertmanager:9093/base"
token_file = "alertmanager-token"
[chats.email]
host = "mail.example.com"
username = "flipback"
password_file = "mail-password"
ca_file = "mail-ca.pem"
from = "flipback <flipback@example.com>"
to = ["Ops <ops@example.com>", "boss@example.com"]
{PROMETHEUS}{GUARD}"#
        ),
        &[],
    );
    insta::assert_snapshot!(printed(&config));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn mail_uses_the_port_of_its_security_unless_told_otherwise() {
    let port = |lines: &str| {
        let config = loaded(
            &format!("[chats.email]\nhost = \"localhost\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\n{lines}\n{GUARD}"),
            &[],
        );
        match &config.chats[0].channel {
            crate::model::settings::Channel::Email(email) => email.port,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(port("security = \"tls\""), 465);
    assert_eq!(port(""), 587);
    assert_eq!(port("security = \"none\""), 25);
    assert_eq!(port("security = \"none\"\nport = 1025"), 1025);
}

#[test]
fn what_a_chat_is_told_is_read_whole() {
    let config = loaded(
        &format!(
            r#"
[chats.slack]
url_file = "x"
timeout = "3s"
min_severity = "warning"
topics = ["rollback_failed", "did_not_help"]
guards = ["shop/*", "*/api"]
quiet = "0s"
{PROMETHEUS}{GUARD}{}"#,
            GUARD.replace("\"web\"", "\"api\"")
        ),
        &[],
    );
    let chat = &config.chats[0];
    assert_eq!((chat.timeout, chat.quiet), (Duration::from_secs(3), Duration::ZERO));
    assert_eq!(chat.filter.min_severity, Severity::Warning);
    let topics: Vec<Topic> = chat.filter.topics.iter().flatten().copied().collect();
    assert_eq!(topics, [Topic::RollbackFailed, Topic::DidNotHelp]);
    assert_eq!(chat.filter.guards, ["shop/*", "*/api"]);
    assert_eq!(config.warnings, Vec::<String>::new());
    let usual = loaded(&format!("[chats.slack]\nurl_file = \"x\"\n{GUARD}"), &[]);
    assert_eq!(usual.chats[0].quiet, Duration::from_secs(300));
    assert!(
        usual.chats[0].quiet < Policy::default().cooldown,
        "two rollbacks would be told as one"
    );
}

#[test]
fn a_chat_can_be_written_in_the_environment_alone() {
    let config = loaded(
        &format!("{PROMETHEUS}{GUARD}"),
        &[
            ("FLIPBACK_CHATS__PAGERDUTY__ROUTING_KEY", "hunter2"),
            ("FLIPBACK_CHATS__EMAIL__HOST", "localhost"),
            ("FLIPBACK_CHATS__EMAIL__SECURITY", "none"),
            ("FLIPBACK_CHATS__EMAIL__FROM", "flipback@example.com"),
            ("FLIPBACK_CHATS__EMAIL__TO", "ops@example.com, boss@example.com"),
            ("FLIPBACK_CHATS__EMAIL__TOPICS", "rollback_failed,blind"),
            ("FLIPBACK_CHATS__EMAIL__TEMPLATES__TITLE", "{{ guard }}!"),
            ("FLIPBACK_CHATS__EMAIL__TEMPLATES__BLIND__TITLE", "dark"),
            ("DISCORD_WEBHOOK_URL", "https://discord.example/hunter2"),
        ],
    );
    let kinds: Vec<ChatKind> = config.chats.iter().map(ChatSettings::kind).collect();
    assert_eq!(kinds, [ChatKind::Discord, ChatKind::Email, ChatKind::PagerDuty]);
    assert!(!format!("{config:?}").contains("hunter2"));
    let email = &config.chats[1];
    assert_eq!(email.templates.any.title.as_deref(), Some("{{ guard }}!"));
    assert_eq!(email.templates.by_topic[&Topic::Blind].title.as_deref(), Some("dark"));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn chats_that_cannot_work_are_refused() {
    let chats = r#"
[chats.slck]
url_file = "x"
[chats.slack]
url_file = "x"
min_severity = "warn"
topics = ["rolback_failed", "all"]
guards = ["web", "Shop/*"]
quiet = "2d"
chanel = "x"
[chats.slack_bot]
channel = "two words"
api = "slack.com/api"
[chats.teams]
url_file = "x"
token_file = "hunter2"
topics = []
[chats.discord]
[chats.webhook]
url_file = "x"
routing_key_file = "y"
signing_key = "hunter2"
[chats.pagerduty]
channel = "C0123456789"
api = "https://user:hunter2@events.pagerduty.com/"
[chats.alertmanager]
url = "http://user:hunter2@alertmanager:9093"
[chats.other]
kind = "alertmanager"
url = "http://alertmanager:9093/api/v2/alerts"
[chats.email]
host = "mail.example.com:587"
port = 0
security = "ssl"
password_file = "x"
from = "flipback"
to = ["ops@", "ops@example.com"]
[chats.post]
kind = "email"
to = []
username = "flipback"
"#;
    let said = refused(&format!("{chats}{GUARD}"), &[]);
    assert!(!said.contains("hunter2"), "{said}");
    insta::assert_snapshot!(said);
}

#[test]
fn chats_that_are_unlikely_to_be_meant_are_warned_of() {
    let config = loaded(
        &format!(
            r#"
[chats.slack]
url_file = "x"
guards = ["shp/*", "shop/*"]
min_severity = "critical"
topics = ["recovered"]
[chats.slack_bot]
token_file = "x"
channel = "C1"
api = "http://proxy.example/api/"
[chats.email]
host = "mail.example.com"
security = "none"
username = "flipback"
password_file = "x"
from = "flipback@example.com"
to = ["ops@example.com"]
[chats.relay]
kind = "email"
host = "127.0.0.1"
security = "none"
from = "flipback@example.com"
to = ["ops@example.com"]
{PROMETHEUS}{GUARD}"#
        ),
        &[],
    );
    insta::assert_snapshot!(config.warnings.join("\n"));
}

// === templates ===

#[test]
fn a_chats_words_lie_over_the_words_of_all_chats() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(
        folder.path().join("next.j2"),
        "{{ next }}\nRunbook: https://wiki.example/{{ guard }}\n",
    )
    .expect("writable");
    let file = folder.path().join("flipback.toml");
    let text = format!(
        r#"
[defaults.templates]
title = "all: {{{{ title }}}}"
next = {{ file = "next.j2" }}
[defaults.templates.blind]
title = "all blind: {{{{ guard }}}}"
[chats.slack]
url_file = "x"
[chats.slack.templates]
title = "slack: {{{{ title }}}}"
[chats.slack.templates.paused]
sentence = ""
[chats.teams]
url_file = "x"
{GUARD}"#
    );
    fs::write(&file, text).expect("writable");
    let config = load(&Sources {
        file: Some(file),
        ..Sources::default()
    })
    .unwrap_or_else(|errors| panic!("{errors}"));
    let of = |chat: usize, topic: Topic| {
        let message = crate::words::Message::by(&crate::model::Announcement::example(topic), &config.chats[chat].templates);
        (message.title, message.sentence, message.next.unwrap_or_default())
    };
    assert_eq!(of(0, Topic::Resumed).0, "slack: Resumed: shop/web is guarded again");
    assert_eq!(of(0, Topic::Blind).0, "all blind: shop/web");
    assert_eq!(of(0, Topic::Paused).1, "");
    assert_eq!(of(1, Topic::Resumed).0, "all: Resumed: shop/web is guarded again");
    assert_eq!(
        of(1, Topic::Resumed).2,
        "Nothing: from here on it is rolled back again when it is bad. Runbook: https://wiki.example/shop/web"
    );
}

#[test]
fn the_templates_of_the_documentation_load() {
    let docs = fs::read_to_string(repository().join("docs/messages.md")).expect("readable");
    let (_, section) = docs.split_once("## Templates").expect("a section");
    let block = section
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a block");
    let config = loaded(&format!("{block}{GUARD}"), &[]);
    let message = crate::words::Message::by(
        &crate::model::Announcement::example(Topic::RollbackCompleted),
        &config.chats[0].templates,
    );
    insta::assert_snapshot!(message.text());
}

#[test]
fn templates_that_would_fail_at_night_are_refused() {
    insta::assert_snapshot!(refused(
        &format!(
            r#"
[defaults.templates]
next = "{{{{ nxt }}}}"
[chats.slack]
url_file = "x"
[chats.slack.templates]
title = "{{{{ guard"
sentence = """
{{% if to %}}
  {{{{ why }}}} on {{{{ to_relase.id }}}}
{{% endif %}}"""
titel = "x"
[chats.slack.templates.blind]
title = "{{{{ guard | uppr }}}}"
sentence = 5
next = {{ file = "missing.j2" }}
[chats.slack.templates.rollback_completd]
title = "x"
[chats.slack.templates.rollback_completed]
title = ""
sentence = "{{{{ to_release.id }}}}"
next = {{ fiel = "x" }}
{GUARD}"#
        ),
        &[],
    ));
}
