//! Who hears what. Pure: a chat's settings and an announcement in, an answer out.
//!
//! - `Announcement::chats`, the guard's own list, names the chats that may hear of it; empty: all. A chat that is named
//!   there hears of the guard whatever its own `guards` say; topics and severity hold all the same.
//! - `topics` is obeyed to the letter; without it a chat hears what [`suits`] its kind.
//! - Whoever was told that something is wrong is told when it is over, whatever `min_severity` says. Receivers that keep
//!   a list of what is wrong are told even where `topics` leaves it out: nobody else would strike it off.

use crate::model::{
    Announcement, Severity, Stage, Topic,
    settings::{ChatKind, ChatSettings},
};

/// Whether a chat is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It is, if it was told what this is the end of.
    IfOpened,
}

/// Whether a kind of chat is told of a topic unless its configuration says otherwise: receivers that keep a list of what is
/// wrong hear what begins, lasts and ends, and nothing that stands by itself; Alertmanager, which repeats by itself, only the
/// loud of what lasts.
#[must_use]
pub fn suits(kind: ChatKind, topic: Topic) -> bool {
    if topic == Topic::Test {
        return true;
    }
    let loud = topic.severity() >= Severity::Warning;
    match kind {
        ChatKind::Slack | ChatKind::SlackBot | ChatKind::Teams | ChatKind::Discord | ChatKind::Webhook | ChatKind::Email => true,
        ChatKind::PagerDuty => topic.stage() != Stage::Once,
        ChatKind::Alertmanager => match topic.stage() {
            Stage::Opens | Stage::Resolves => true,
            Stage::Continues => loud,
            Stage::Once => false,
        },
    }
}

/// Whether a kind of chat keeps a list of what is wrong, from which only we strike something off.
fn keeps_list(kind: ChatKind) -> bool {
    matches!(kind, ChatKind::PagerDuty | ChatKind::Alertmanager)
}

/// Whether `chat` is told of `announcement`.
pub(super) fn hears(chat: &ChatSettings, announcement: &Announcement) -> Heard {
    let named = announcement.chats.contains(&chat.name);
    // What all guards share is everybody's.
    let about = announcement.topic.is_of_all()
        || chat.filter.guards.is_empty()
        || chat.filter.guards.iter().any(|pattern| announcement.guard.fits(pattern));
    if !(named || announcement.chats.is_empty() && about) {
        return Heard::No;
    }
    let topic = announcement.topic;
    let wanted = match &chat.filter.topics {
        Some(topics) => topics.contains(&topic),
        None => suits(chat.kind(), topic),
    };
    let loud = topic.severity() >= chat.filter.min_severity || topic == Topic::Test;
    if wanted && loud {
        Heard::Yes
    } else if topic.stage() == Stage::Resolves && (wanted || keeps_list(chat.kind())) {
        Heard::IfOpened
    } else {
        Heard::No
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use secrecy::SecretString;

    use super::*;
    use crate::model::settings::{Channel, Secret};

    fn secret() -> Secret {
        Secret::Value(SecretString::from("http://127.0.0.1:9"))
    }

    fn pager() -> ChatSettings {
        let api = "https://events.example".parse().expect("a URL");
        ChatSettings::new(
            "pager",
            Channel::PagerDuty {
                routing_key: secret(),
                api,
            },
        )
    }

    fn slack() -> ChatSettings {
        ChatSettings::new("slack", Channel::Slack { url: secret() })
    }

    fn of(topic: Topic) -> Announcement {
        Announcement::example(topic)
    }

    #[test]
    fn what_suits_each_kind_of_chat() {
        let lines: Vec<String> = Topic::ALL
            .iter()
            .map(|topic| {
                let told = ChatKind::ALL.iter().filter(|kind| suits(**kind, *topic)).map(|kind| kind.as_str());
                format!("{:<20} {}", topic.as_str(), told.collect::<Vec<_>>().join(" "))
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_chat_hears_what_is_loud_enough_and_always_a_test() {
        let mut chat = slack();
        chat.filter.min_severity = Severity::Critical;
        assert_eq!(hears(&chat, &of(Topic::RollbackFailed)), Heard::Yes);
        assert_eq!(hears(&chat, &of(Topic::Blind)), Heard::No);
        assert_eq!(hears(&chat, &of(Topic::RollbackCompleted)), Heard::No);
        assert_eq!(hears(&chat, &of(Topic::Test)), Heard::Yes);
    }

    #[test]
    fn the_end_of_what_a_chat_was_told_of_is_told_whatever_the_severity() {
        for mut chat in [slack(), pager()] {
            chat.filter.min_severity = Severity::Critical;
            assert_eq!(hears(&chat, &of(Topic::Recovered)), Heard::IfOpened, "{}", chat.name);
        }
    }

    #[test]
    fn a_list_of_topics_is_obeyed_except_that_a_receivers_list_is_tidied() {
        let only = BTreeSet::from([Topic::RollbackInitiated, Topic::Switched]);
        for (mut chat, end) in [(slack(), Heard::No), (pager(), Heard::IfOpened)] {
            chat.filter.topics = Some(only.clone());
            assert_eq!(hears(&chat, &of(Topic::Switched)), Heard::Yes);
            assert_eq!(hears(&chat, &of(Topic::Blind)), Heard::No);
            assert_eq!(hears(&chat, &of(Topic::Recovered)), end, "{}", chat.name);
        }
    }

    #[test]
    fn a_guard_names_its_chats_and_a_named_chat_hears_of_it() {
        let mut chat = slack();
        chat.filter.guards = vec!["other/*".into()];
        let to = |chats: &[&str]| Announcement {
            chats: chats.iter().map(|name| (*name).to_owned()).collect(),
            ..of(Topic::RollbackFailed)
        };
        assert_eq!(hears(&chat, &to(&[])), Heard::No);
        assert_eq!(hears(&chat, &to(&["slack"])), Heard::Yes);
        assert_eq!(hears(&chat, &to(&["teams"])), Heard::No);
        chat.filter.guards = vec!["other/*".into(), "shop/w*b".into()];
        assert_eq!(hears(&chat, &to(&[])), Heard::Yes);
        assert_eq!(hears(&chat, &to(&["teams"])), Heard::No);
    }
}
