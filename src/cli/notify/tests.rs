use std::{collections::BTreeMap, time::Duration};

use clap::CommandFactory as _;
use jiff::Timestamp;
use secrecy::SecretString;
use url::Url;

use super::{
    carry::carry,
    plan::{Planned, STORY, plan, words},
    show::{list, listed, table},
    *,
};
use crate::model::{
    Severity, Stage,
    settings::{Channel, Email, Filter, MailSecurity, Secret},
};

const CANARY: &str = "canary-1f0c5d9e-secret";

fn value(text: &str) -> Secret {
    Secret::Value(SecretString::from(text.to_owned()))
}

fn at() -> Timestamp {
    "2026-11-21T04:12:34Z".parse().expect("valid")
}

/// One chat of every kind, at a server's address, every secret a canary.
fn chats(address: &str) -> Vec<ChatSettings> {
    let url = || value(&format!("http://{address}/{CANARY}"));
    [
        ("slack", Channel::Slack { url: url() }),
        (
            "app",
            Channel::SlackBot {
                token: value(CANARY),
                channel: "C0123456789".into(),
                api: Url::parse(&format!("http://{address}/api/")).expect("valid"),
            },
        ),
        ("teams", Channel::Teams { url: url() }),
        ("discord", Channel::Discord { url: url() }),
        (
            "hook",
            Channel::Webhook {
                url: url(),
                token: Some(value(CANARY)),
                signing_key: Some(value(CANARY)),
            },
        ),
        (
            "pager",
            Channel::PagerDuty {
                routing_key: value(CANARY),
                api: Url::parse(&format!("http://{address}/")).expect("valid"),
            },
        ),
        (
            "alerts",
            Channel::Alertmanager {
                url: url(),
                token: Some(value(CANARY)),
            },
        ),
        (
            "mail",
            Channel::Email(Email {
                host: "127.0.0.1".into(),
                port: 9,
                security: MailSecurity::Starttls,
                login: Some(("flipback".into(), value(CANARY))),
                ca_file: None,
                from: "flipback <flipback@shop.example>".into(),
                to: vec!["ops@shop.example".into()],
            }),
        ),
    ]
    .map(|(name, channel)| ChatSettings::new(name, channel))
    .into()
}

fn stripped(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn help_is_what_people_read() {
    let mut command = super::super::Cli::command();
    let notify = command.find_subcommand_mut("notify").expect("it is there");
    let mut all = String::new();
    for name in ["test", "list"] {
        let found = notify.find_subcommand_mut(name).expect("it is there");
        let help = found.clone().term_width(100).render_long_help().to_string();
        assert!(help.contains("Example"), "{name}");
        all.push_str(&help);
        all.push_str("\n=====\n");
    }
    let trimmed: Vec<&str> = all.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}

#[test]
fn a_plan_tells_the_story_first_and_every_kind_once() {
    let plan = plan(ChatKind::Slack, &[], at(), None);
    let topics: Vec<Topic> = plan.iter().map(|planned| planned.announcement.topic).collect();
    assert_eq!(topics[..5], STORY);
    let mut sorted = topics.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!((topics.len(), sorted.len()), (Topic::ALL.len(), Topic::ALL.len()));
    let story: std::collections::BTreeSet<&str> = plan[..5].iter().map(|planned| planned.announcement.thread.as_str()).collect();
    assert_eq!(story.len(), 1);
}

#[test]
fn nobody_stays_paged() {
    for kind in [ChatKind::PagerDuty, ChatKind::Alertmanager] {
        let each = Topic::ALL.map(|topic| vec![topic]);
        for topics in each.into_iter().chain([Vec::new()]) {
            let mut open = BTreeMap::new();
            for Planned { announcement, .. } in plan(kind, &topics, at(), None) {
                match announcement.topic.stage() {
                    Stage::Opens | Stage::Continues => drop(open.insert(announcement.thread, announcement.topic)),
                    Stage::Resolves => drop(open.remove(&announcement.thread)),
                    Stage::Once => {}
                }
            }
            assert!(open.is_empty(), "{kind:?} {topics:?}: {open:?}");
        }
    }
}

#[test]
fn every_sample_says_that_it_is_one() {
    for kind in ChatKind::ALL {
        let mut ids = std::collections::BTreeSet::new();
        for Planned { announcement, .. } in plan(kind, &[], at(), None) {
            assert!(announcement.is_test() && announcement.guard.as_str() == "flipback-test/web");
            let chat = ChatSettings::new("ops", Channel::Slack { url: value("x") });
            assert!(words(&announcement, &chat).title.starts_with("TEST: "));
            assert!(ids.insert(announcement.id.clone()), "{} twice", announcement.id);
        }
    }
}

/// What one reads, from the first to the last.
fn read(topics: &[Topic]) -> String {
    let chat = ChatSettings::new("ops", Channel::Slack { url: value("x") });
    let plan = plan(ChatKind::PagerDuty, topics, at(), None);
    let texts: Vec<String> = plan.iter().map(|planned| words(&planned.announcement, &chat).text()).collect();
    texts.join("\n\n")
}

#[test]
fn the_samples_tell_one_story_that_ends_now() {
    insta::assert_snapshot!(read(&STORY));
}

#[test]
fn every_other_sample_is_a_case_by_itself_of_the_present() {
    let others: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| !STORY.contains(topic)).collect();
    let text = read(&others);
    let others = text.replace("registry.example/shop/web", "").replace("flipback-test/web", "");
    assert!(!others.contains("shop/web"), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn the_newest_of_each_thread_is_told_at_the_present_time() {
    let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
    for Planned { announcement, .. } in plan(ChatKind::Slack, &[], at(), None) {
        let before = newest.insert(announcement.thread.clone(), announcement.at);
        assert!(before.is_none_or(|before| before <= announcement.at), "{announcement:?}");
        for earlier in [announcement.decided_at, announcement.switched_at].into_iter().flatten() {
            assert!(earlier <= announcement.at, "{announcement:?}");
        }
    }
    assert!(newest.values().all(|told| *told == at()), "{newest:?}");
}

#[tokio::test]
async fn a_rehearsal_shows_everything_but_secrets() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut lines = Vec::new();
    for chat in chats("127.0.0.1:9") {
        let plan = plan(chat.kind(), &[Topic::RollbackFailed, Topic::Paused], at(), None);
        lines.extend(carry(&chat, plan, true).await);
    }
    assert!(lines.iter().all(|line| line.fate == Fate::Skipped || !line.drafts.is_empty()));
    let text = stripped(&table(&lines));
    // The forms of the chats are held by their own tests.
    let receivers = |line: &&Line| {
        !matches!(
            line.kind,
            ChatKind::Slack | ChatKind::SlackBot | ChatKind::Teams | ChatKind::Discord
        )
    };
    let shown: Vec<Line> = lines.iter().filter(receivers).cloned().collect();
    insta::assert_snapshot!(stripped(&table(&shown)));
    let json = serde_json::to_string(&lines).expect("serializes");
    assert!(!text.contains(CANARY) && !json.contains(CANARY), "{text}");
    assert!(lines.iter().all(|line| matches!(line.fate, Fate::Drafted | Fate::Skipped)));
}

#[tokio::test]
async fn every_sample_of_every_kind_can_be_rehearsed_with_its_picture() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let picture = sample::picture().expect("a file");
    let path = picture.path().to_path_buf();
    for chat in chats("127.0.0.1:9") {
        let lines = carry(&chat, plan(chat.kind(), &[], at(), Some(&path)), true).await;
        let bad: Vec<&Line> = lines
            .iter()
            .filter(|line| !matches!(line.fate, Fate::Drafted | Fate::Skipped))
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
        let pictured = serde_json::to_string(&lines).expect("serializes").contains("plot.png");
        let shows = matches!(chat.kind(), ChatKind::SlackBot | ChatKind::Discord | ChatKind::Email);
        assert_eq!(pictured, shows, "{}", chat.name);
    }
}

#[test]
fn a_chats_own_words_are_in_its_samples() {
    let mut chat = ChatSettings::new("ops", Channel::Slack { url: value("x") });
    chat.templates.any.title = Some("{{ guard }} says hello".into());
    let announcement = plan(ChatKind::Slack, &[Topic::Blind], at(), None).remove(0).announcement;
    assert_eq!(words(&announcement, &chat).title, "TEST: flipback-test/web says hello");
}

#[tokio::test]
async fn a_chat_that_is_not_there_is_tried_once() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Nobody listens on the port of "discard".
    for chat in chats("127.0.0.1:9") {
        let plan = plan(chat.kind(), &[], at(), None);
        let lines = carry(&chat, plan, false).await;
        let failed = lines.iter().filter(|line| line.fate == Fate::Failed).count();
        let rest = lines.iter().filter(|line| line.fate == Fate::NotTried).count();
        assert_eq!(failed, 1, "{}", chat.name);
        assert!(rest > 10, "{}", chat.name);
        let text = stripped(&table(&lines));
        assert!(text.contains("->") && !text.contains(CANARY), "{text}");
    }
}

#[test]
fn chats_are_listed_with_what_they_hear() {
    let mut all = chats("127.0.0.1:9");
    all[4].quiet = Duration::from_secs(300);
    all[7].filter = Filter {
        min_severity: Severity::Critical,
        topics: Some([Topic::RollbackFailed, Topic::Disarmed].into()),
        guards: vec!["shop/*".into()],
    };
    insta::assert_snapshot!(stripped(&list(&all)));
    insta::assert_json_snapshot!(all.iter().map(listed).collect::<Vec<_>>());
}

#[test]
fn an_unknown_chat_is_a_usage_error_that_names_the_known_ones() {
    let chats = chats("127.0.0.1:9");
    let failure = meant(&chats, Some("slak")).expect_err("unknown");
    assert_eq!(
        (failure.code, failure.message.contains("hook, pager, alerts, mail")),
        (64, true),
        "{failure}"
    );
    assert_eq!(meant(&[], None).expect_err("none").code, 64);
    assert!(topic("rollback_faild").is_err());
}
