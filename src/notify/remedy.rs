//! What a person can do about a message that was not delivered, in the words of the chat it was for: a pager has a routing
//! key, a mail server a login, a bot a token with scopes, and only some chats have a webhook URL. Pure.
//!
//! It names the place of the secret that is meant, never the secret.

use super::DeliverError;
use crate::model::settings::{Channel, ChatKind, Secret};

impl DeliverError {
    /// What a person can do about it, where the message was for a chat of this channel.
    #[must_use]
    pub fn remedy(&self, channel: &Channel) -> String {
        let place = place(channel.credential());
        match self {
            Self::Status { status, .. } => answered(*status, self.is_permanent(), channel, &place),
            Self::Advised { advice, .. } => advice.replace("{credential}", &place),
            Self::Refused { said, .. } => refused(said, channel, &place),
            Self::Secret(_) | Self::NotAUrl => format!("put {}, and nothing else, into {place}", credential(channel.kind())),
            Self::BadToken => format!("put the token, and nothing else, into {}", token_place(channel)),
            Self::BadKey => {
                let place = match channel {
                    Channel::Webhook { signing_key, .. } => self::place(signing_key.as_ref()),
                    _ => place,
                };
                format!("put the signing key into {place} as it was issued: whsec_ and base64, or any text without that beginning")
            }
            Self::Mail { permanent: true, .. } => "correct the settings of this chat: host, port, security, from, to".to_owned(),
            Self::Mail { .. } => "check host, port and security of this chat, and that the mail server can be reached from here".to_owned(),
            Self::Client(_) => "check that certificate authorities are installed (the package ca-certificates)".to_owned(),
            Self::Timeout(_) | Self::Send(_) => {
                let who = who(channel.kind());
                format!("check that {who} can be reached from here: name resolution, proxy, firewall, NetworkPolicy")
            }
        }
    }
}

/// Where a secret comes from.
fn place(secret: Option<&Secret>) -> String {
    match secret {
        Some(Secret::File(path)) => format!("{path:?}"),
        Some(Secret::Value(_)) | None => "the setting or environment variable that holds it".to_owned(),
    }
}

/// Where the token comes from that is sent beside a URL.
fn token_place(channel: &Channel) -> String {
    match channel {
        Channel::Webhook { token, .. } | Channel::Alertmanager { token, .. } => place(token.as_ref()),
        _ => place(channel.credential()),
    }
}

/// What the chat is reached by, or known by.
fn credential(kind: ChatKind) -> &'static str {
    match kind {
        ChatKind::Slack | ChatKind::Teams | ChatKind::Discord => "the webhook URL",
        ChatKind::Webhook => "the receiver's URL",
        ChatKind::SlackBot => "the Bot User OAuth Token (xoxb-...)",
        ChatKind::PagerDuty => "the routing key",
        ChatKind::Alertmanager => "Alertmanager's URL",
        ChatKind::Email => "the password of the mail server's login",
    }
}

fn who(kind: ChatKind) -> &'static str {
    match kind {
        ChatKind::Slack | ChatKind::SlackBot => "Slack",
        ChatKind::Teams => "Teams",
        ChatKind::Discord => "Discord",
        ChatKind::Webhook => "the receiver",
        ChatKind::PagerDuty => "PagerDuty",
        ChatKind::Alertmanager => "Alertmanager",
        ChatKind::Email => "the mail server",
    }
}

/// Where a new webhook URL is made.
fn made_anew(kind: ChatKind) -> &'static str {
    match kind {
        ChatKind::Slack => "create a new one (the Slack app's page, Incoming Webhooks)",
        ChatKind::Teams => "create a new one (the channel's Workflows, \"When a Teams webhook request is received\")",
        _ => "create a new one (the channel's settings, Integrations)",
    }
}

/// What an HTTP status means of this kind of chat.
fn answered(status: u16, permanent: bool, channel: &Channel, place: &str) -> String {
    let kind = channel.kind();
    let who = who(kind);
    let other = || match status {
        429 => format!("{who} limits the rate of messages; it is tried again"),
        413 => format!(
            "the message is too long for {who}: if the chat has templates of its own, shorten them, else report it to flipback's makers"
        ),
        400..=499 if permanent => format!("{who} does not accept this message: check that the chat's `kind` is right for where it is sent"),
        _ => format!("{who} has trouble of its own; it is tried again"),
    };
    match (kind, status) {
        (ChatKind::Slack | ChatKind::Teams | ChatKind::Discord, 404 | 410) => {
            format!("the webhook URL is no longer valid: {} and put it into {place}", made_anew(kind))
        }
        (ChatKind::Slack | ChatKind::Teams | ChatKind::Discord, 401 | 403) => format!(
            "{who} refuses this webhook: check that it is still allowed to post, or {} and put it into {place}",
            made_anew(kind)
        ),
        (ChatKind::Slack | ChatKind::Teams | ChatKind::Discord, 300..=399) => {
            format!("the webhook URL redirects: put the URL it redirects to into {place}")
        }
        (ChatKind::Webhook, 404 | 410) => format!("the receiver knows no such address: put the one it listens at into {place}"),
        (ChatKind::Webhook, 401 | 403) => format!(
            "the receiver refuses flipback: compare the token ({}), and the signing key where there is one, with what it expects",
            token_place(channel)
        ),
        (ChatKind::Webhook | ChatKind::Alertmanager, 300..=399) => format!("the URL redirects: put the one it redirects to into {place}"),
        (ChatKind::SlackBot, 401 | 403) => format!(
            "Slack refuses the bot: copy its Bot User OAuth Token (xoxb-...) into {place}, and give it the scopes chat:write and files:write"
        ),
        (ChatKind::SlackBot, 300..=399 | 404 | 410) => {
            "Slack's API is not there: leave the chat's `api` out, or set it to https://slack.com/api/".to_owned()
        }
        (ChatKind::PagerDuty, 400..=403) => format!(
            "check the routing key in {place}: it is the Integration Key of an \"Events API v2\" integration of the service, 32 characters"
        ),
        (ChatKind::PagerDuty, 300..=399 | 404 | 410) => "PagerDuty's Events API is not there: leave the chat's `api` out, or set it to \
             https://events.pagerduty.com/ or, for an account in Europe, https://events.eu.pagerduty.com/"
            .to_owned(),
        (ChatKind::Alertmanager, 404 | 410) => {
            format!("no Alertmanager is there: put its base URL, without /api/v2, into {place}")
        }
        (ChatKind::Alertmanager, 401 | 403) => format!(
            "Alertmanager, or the proxy before it, refuses flipback: check the token ({}), or the user and password in the URL ({place})",
            token_place(channel)
        ),
        _ => other(),
    }
}

/// What a refusal in words means.
fn refused(said: &str, channel: &Channel, place: &str) -> String {
    let Channel::Email(email) = channel else {
        return format!(
            "look up what it said in the documentation of {}; {} is in {place}",
            who(channel.kind()),
            credential(channel.kind())
        );
    };
    if said.contains("log in") {
        return match &email.login {
            Some((user, _)) => format!("check that {user:?} may log in at the mail server, and its password in {place}"),
            None => "the mail server wants a login: set `username` and the password's file".to_owned(),
        };
    }
    if said.contains("recipient") {
        return "check the addresses in the chat's `to`, and that the mail server takes mail for them from here".to_owned();
    }
    if said.contains("sender") {
        return format!(
            "check that the mail server lets this login send as the chat's `from`, {:?}",
            email.from
        );
    }
    "look up what the mail server said; its host, port and security, `from` and `to` are in this chat's settings".to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::settings::{Email, MailSecurity, SecretError};

    fn file(name: &str) -> Secret {
        Secret::File(format!("/etc/flipback/{name}").into())
    }

    fn channel(kind: ChatKind) -> Channel {
        let api = || "https://api.example/".parse().expect("a URL");
        match kind {
            ChatKind::Slack => Channel::Slack { url: file("slack-url") },
            ChatKind::Teams => Channel::Teams { url: file("teams-url") },
            ChatKind::Discord => Channel::Discord { url: file("discord-url") },
            ChatKind::Webhook => Channel::Webhook {
                url: file("hook-url"),
                token: Some(file("hook-token")),
                signing_key: Some(file("hook-key")),
            },
            ChatKind::SlackBot => Channel::SlackBot {
                token: file("slack-token"),
                channel: "C0123456789".into(),
                api: api(),
            },
            ChatKind::PagerDuty => Channel::PagerDuty {
                routing_key: file("pagerduty-key"),
                api: api(),
            },
            ChatKind::Alertmanager => Channel::Alertmanager {
                url: file("alertmanager-url"),
                token: Some(file("alertmanager-token")),
            },
            ChatKind::Email => Channel::Email(Email {
                host: "mail.example".into(),
                port: 587,
                security: MailSecurity::Starttls,
                login: Some(("flipback".into(), file("mail-password"))),
                ca_file: None,
                from: "flipback@shop.example".into(),
                to: vec!["ops@shop.example".into()],
            }),
        }
    }

    fn status(status: u16) -> DeliverError {
        DeliverError::Status {
            status,
            said: String::new(),
            retry_after: None,
        }
    }

    fn refusal(said: &str) -> DeliverError {
        DeliverError::Refused {
            said: said.to_owned(),
            permanent: true,
        }
    }

    fn secret() -> DeliverError {
        let path = "/etc/flipback/gone".into();
        DeliverError::Secret(SecretError::Empty { path })
    }

    fn mail(permanent: bool) -> DeliverError {
        DeliverError::Mail {
            step: "reach the mail server",
            why: "refused".into(),
            permanent,
        }
    }

    /// What can happen with a chat of this kind, each with a name.
    fn failures(kind: ChatKind) -> Vec<(String, DeliverError)> {
        let http = [301, 400, 401, 404, 413, 429, 500].map(|code| (code.to_string(), status(code)));
        let common = [
            ("no secret".to_owned(), secret()),
            ("no answer".to_owned(), DeliverError::Timeout(Duration::from_secs(5))),
        ];
        let own: Vec<(String, DeliverError)> = match kind {
            ChatKind::Email => ["log in at the mail server", "name a recipient", "name the sender", "send the mail"]
                .map(|step| (step.to_owned(), refusal(&format!("550 to the attempt to {step}: no"))))
                .into_iter()
                .chain([("lasting".to_owned(), mail(true)), ("passing".to_owned(), mail(false))])
                .collect(),
            ChatKind::Webhook => http
                .into_iter()
                .chain([
                    ("token".to_owned(), DeliverError::BadToken),
                    ("key".to_owned(), DeliverError::BadKey),
                ])
                .collect(),
            ChatKind::Alertmanager => http.into_iter().chain([("token".to_owned(), DeliverError::BadToken)]).collect(),
            ChatKind::Slack | ChatKind::Teams | ChatKind::Discord => {
                http.into_iter().chain([("no URL".to_owned(), DeliverError::NotAUrl)]).collect()
            }
            ChatKind::SlackBot | ChatKind::PagerDuty => http.into_iter().chain([("words".to_owned(), refusal("no such thing"))]).collect(),
        };
        own.into_iter().chain(common).collect()
    }

    #[test]
    fn what_to_do_in_the_words_of_each_kind_of_chat() {
        let mut lines = Vec::new();
        for kind in ChatKind::ALL {
            lines.push(format!("{}:", kind.as_str()));
            for (name, error) in failures(kind) {
                lines.push(format!("  {name}: {}", error.remedy(&channel(kind))));
            }
        }
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn only_what_has_a_webhook_is_told_of_one() {
        for kind in ChatKind::ALL {
            let has = matches!(kind, ChatKind::Slack | ChatKind::Teams | ChatKind::Discord);
            let all = (300..600).map(|code| (code.to_string(), status(code))).chain(failures(kind));
            for (name, error) in all {
                let text = format!("{error} {}", error.remedy(&channel(kind)));
                assert!(has || !text.to_lowercase().contains("webhook"), "{kind:?}, {name}: {text}");
                assert!(text.len() > 20, "{kind:?}, {name}: {text}");
            }
        }
    }

    #[test]
    fn advice_names_the_place_of_the_secret() {
        let advised = DeliverError::Advised {
            said: "invalid_auth".into(),
            advice: "put a bot token into {credential}",
            permanent: true,
        };
        assert_eq!(
            advised.remedy(&channel(ChatKind::SlackBot)),
            "put a bot token into \"/etc/flipback/slack-token\""
        );
    }
}
