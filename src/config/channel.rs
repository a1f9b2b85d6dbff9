//! The way to each kind of chat: its keys, and whose keys they are when they stand at another kind.

use std::{net::IpAddr, path::Path};

use lettre::message::Mailbox;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::model::settings::{Channel, ChatKind, Email, MailSecurity, Secret};

use super::{
    check::secret,
    error::Problem,
    raw::{Node, Table},
};

/// Every kind, by its word.
pub(super) const KINDS: &[(&str, ChatKind)] = &[
    ("slack", ChatKind::Slack),
    ("slack_bot", ChatKind::SlackBot),
    ("teams", ChatKind::Teams),
    ("discord", ChatKind::Discord),
    ("webhook", ChatKind::Webhook),
    ("pagerduty", ChatKind::PagerDuty),
    ("alertmanager", ChatKind::Alertmanager),
    ("email", ChatKind::Email),
];

/// A key that only some kinds have. A secret's name stands for `<name>_file` in the file and `<name>` in the environment.
struct Key {
    name: &'static str,
    secret: bool,
    kinds: &'static [ChatKind],
}

const fn open(name: &'static str, kinds: &'static [ChatKind]) -> Key {
    Key {
        name,
        secret: false,
        kinds,
    }
}

const fn hidden(name: &'static str, kinds: &'static [ChatKind]) -> Key {
    Key { name, secret: true, kinds }
}

const KEYS: &[Key] = &[
    hidden(
        "url",
        &[
            ChatKind::Slack,
            ChatKind::Teams,
            ChatKind::Discord,
            ChatKind::Webhook,
            ChatKind::Alertmanager,
        ],
    ),
    hidden("token", &[ChatKind::SlackBot, ChatKind::Webhook, ChatKind::Alertmanager]),
    hidden("signing_key", &[ChatKind::Webhook]),
    hidden("routing_key", &[ChatKind::PagerDuty]),
    open("channel", &[ChatKind::SlackBot]),
    open("api", &[ChatKind::SlackBot, ChatKind::PagerDuty]),
    open("host", &[ChatKind::Email]),
    open("port", &[ChatKind::Email]),
    open("security", &[ChatKind::Email]),
    open("username", &[ChatKind::Email]),
    hidden("password", &[ChatKind::Email]),
    open("ca_file", &[ChatKind::Email]),
    open("from", &[ChatKind::Email]),
    open("to", &[ChatKind::Email]),
];

impl Key {
    /// As the file writes it.
    fn written(&self) -> String {
        if self.secret {
            format!("{}_file", self.name)
        } else {
            self.name.to_owned()
        }
    }
}

const SLACK_API: &str = "https://slack.com/api/";
const PAGERDUTY_API: &str = "https://events.pagerduty.com/";

/// The way to a chat; `None` when it cannot be read, which is then a problem.
pub(super) fn channel(chat: &str, kind: Option<ChatKind>, table: &Table<'_>, base: &Path, warnings: &mut Vec<String>) -> Option<Channel> {
    let Some(kind) = kind else {
        // Whose keys these are cannot be told before the kind is.
        for key in KEYS {
            table.whisper(key.name);
            table.whisper(&key.written());
        }
        return None;
    };
    foreign(table, kind);
    let way = Way { chat, table, base };
    match kind {
        ChatKind::Slack => Some(Channel::Slack { url: way.webhook()? }),
        ChatKind::Teams => Some(Channel::Teams { url: way.webhook()? }),
        ChatKind::Discord => Some(Channel::Discord { url: way.webhook()? }),
        ChatKind::Webhook => {
            let (token, signing_key) = (secret(table, "token", base), secret(table, "signing_key", base));
            Some(Channel::Webhook {
                url: way.webhook()?,
                token,
                signing_key,
            })
        }
        ChatKind::SlackBot => {
            let token = way.needed("token", "the path of a file that holds the bot's token, xoxb-...");
            let channel = way.slack_channel();
            let api = way.api(SLACK_API, warnings);
            Some(Channel::SlackBot {
                token: token?,
                channel: channel?,
                api: api?,
            })
        }
        ChatKind::PagerDuty => {
            let routing_key = way.needed("routing_key", "the path of a file that holds the integration's key");
            let api = way.api(PAGERDUTY_API, warnings);
            Some(Channel::PagerDuty {
                routing_key: routing_key?,
                api: api?,
            })
        }
        ChatKind::Alertmanager => {
            let token = secret(table, "token", base);
            Some(Channel::Alertmanager {
                url: way.alertmanager()?,
                token,
            })
        }
        ChatKind::Email => way.email(warnings).map(Channel::Email),
    }
}

/// Keys of other kinds, with whose they are.
fn foreign(table: &Table<'_>, kind: ChatKind) {
    let own: Vec<String> = KEYS.iter().filter(|key| key.kinds.contains(&kind)).map(Key::written).collect();
    for key in KEYS.iter().filter(|key| !key.kinds.contains(&kind)) {
        let names = if key.secret {
            vec![key.name.to_owned(), key.written()]
        } else {
            vec![key.name.to_owned()]
        };
        for name in names {
            let Some(node) = table.whisper(&name) else { continue };
            let kinds: Vec<String> = key.kinds.iter().map(|kind| format!("{:?}", kind.as_str())).collect();
            let allowed = format!("{}, and what every kind has", own.join(", "));
            let problem = if key.secret {
                node.hidden_problem(allowed)
            } else {
                node.problem(allowed)
            };
            let problem = problem.hint(format!(
                "{name} is a key of kind {}; this chat is {:?}",
                kinds.join(", "),
                kind.as_str()
            ));
            table.problems.add(problem);
        }
    }
}

/// What the readers of one chat's keys share.
struct Way<'a, 'p> {
    chat: &'a str,
    table: &'a Table<'p>,
    base: &'a Path,
}

impl Way<'_, '_> {
    /// A secret that must be there.
    fn needed(&self, name: &str, what: &str) -> Option<Secret> {
        let found = secret(self.table, name, self.base);
        if found.is_none() && self.table.whisper(name).is_none() && self.table.get(&format!("{name}_file")).is_none() {
            let variable = format!(
                "FLIPBACK_CHATS__{}__{}",
                self.chat.to_ascii_uppercase().replace(['-', '.'], "_"),
                name.to_ascii_uppercase()
            );
            let problem = self.table.missing(&format!("{name}_file"), what);
            self.table.problems.add(problem.hint(format!("or set {variable}")));
        }
        found
    }

    /// The URL of a webhook, which is a secret.
    fn webhook(&self) -> Option<Secret> {
        let url = self.needed("url", "the path of a file that holds the webhook's URL")?;
        if let Secret::Value(value) = &url
            && !Url::parse(value.expose_secret()).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        {
            self.table.problems.add(Problem {
                found: "a value that is not shown here".to_owned(),
                ..self.table.problem("url", "a URL that begins with https:// or http://")
            });
        }
        Some(url)
    }

    /// Alertmanager's base URL, which need not be a secret: one without a password may stand in the file.
    fn alertmanager(&self) -> Option<Secret> {
        let table = self.table;
        let plain = table.get("url").filter(|node| !node.is_from_outside()).cloned();
        let Some(node) = plain else {
            let url = self.needed(
                "url",
                "Alertmanager's base URL, such as \"http://alertmanager:9093\", or in url_file a file that holds it",
            )?;
            if let (Secret::Value(value), Some(node)) = (&url, table.get("url")) {
                self.base_url(node, value.expose_secret());
            }
            return Some(url);
        };
        if table.get("url_file").is_some() {
            table.problems.add(node.hidden_problem("either url or url_file, not both"));
        }
        let text = table.text("url")?;
        let url = self.base_url(&node, &text)?;
        if !url.username().is_empty() || url.password().is_some() {
            table.problems.add(
                node.hidden_problem("a URL without a password")
                    .hint("a password does not belong into the file: put the URL into a file of its own, and its path into url_file"),
            );
            return None;
        }
        Some(Secret::Value(SecretString::from(text)))
    }

    /// A base URL, which is not shown: it may carry a password.
    fn base_url(&self, node: &Node, text: &str) -> Option<Url> {
        let refuse = |hint: &str| {
            let problem = node.hidden_problem("a base URL that begins with https:// or http://").hint(hint);
            self.table.problems.add(problem);
            None
        };
        match Url::parse(text.trim()) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
                refuse("it must begin with http:// or https:// and name a host")
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => refuse("the base URL has neither ? nor #"),
            Ok(url) if url.path().contains("/api/v2") => refuse("leave out /api/v2: flipback adds it"),
            Ok(url) => Some(url),
            Err(error) => refuse(&format!("{error}")),
        }
    }

    /// The base URL of a public API, with a slash at its end so that paths can be joined to it.
    fn api(&self, default: &str, warnings: &mut Vec<String>) -> Option<Url> {
        let default = Url::parse(default).expect("a constant");
        let Some(node) = self.table.get("api").cloned() else {
            return Some(default);
        };
        let mut url = self.base_url(&node, &self.table.text("api")?)?;
        if !url.username().is_empty() || url.password().is_some() {
            self.table.problems.add(node.hidden_problem("a URL without a password"));
            return None;
        }
        if url.scheme() == "http" && !url.host_str().is_some_and(is_loopback) {
            warnings.push(format!(
                "chat {}: api is http://, so that its secret can be read on the way",
                self.chat
            ));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Some(url)
    }

    fn slack_channel(&self) -> Option<String> {
        const ALLOWED: &str = "the channel's id, such as \"C0123456789\", or its name";
        if self.table.get("channel").is_none() {
            self.table.problems.add(self.table.missing("channel", ALLOWED));
        }
        let sound = |name: &str| !name.is_empty() && name.len() <= 80 && !name.contains(char::is_whitespace);
        self.table.text_where("channel", ALLOWED, sound)
    }

    fn email(&self, warnings: &mut Vec<String>) -> Option<Email> {
        const HOST: &str = "the mail server's host name, without a port";
        const SECURITY: &[(&str, MailSecurity)] = &[
            ("starttls", MailSecurity::Starttls),
            ("tls", MailSecurity::Tls),
            ("none", MailSecurity::None),
        ];
        let table = self.table;
        for (name, allowed) in [("host", HOST), ("from", FROM), ("to", TO)] {
            if table.get(name).is_none() {
                table.problems.add(table.missing(name, allowed));
            }
        }
        let host = table.text_where("host", HOST, is_host);
        let security = table.choice("security", SECURITY).unwrap_or_default();
        let port = table
            .count("port", 1..=u32::from(u16::MAX))
            .and_then(|port| u16::try_from(port).ok());
        let login = self.login();
        let from = table.text_where("from", FROM, |text| text.parse::<Mailbox>().is_ok());
        let to = self.recipients();
        let host = host?;
        if security == MailSecurity::None && !is_loopback(&host) {
            let what = if login.is_some() {
                "the password and every message"
            } else {
                "every message"
            };
            warnings.push(format!(
                "chat {}: security = \"none\", so that {what} can be read on the way to {host}; use \"starttls\" or \"tls\"",
                self.chat
            ));
        }
        Some(Email {
            host,
            port: port.unwrap_or(match security {
                MailSecurity::Tls => 465,
                MailSecurity::Starttls => 587,
                MailSecurity::None => 25,
            }),
            security,
            login,
            ca_file: table.file_path("ca_file", self.base),
            from: from?,
            to: to?,
        })
    }

    fn login(&self) -> Option<(String, Secret)> {
        let table = self.table;
        let username = table.text("username");
        let password = secret(table, "password", self.base);
        let together = "username and password_file together";
        match (&username, &password) {
            (Some(_), None) if table.whisper("password").is_none() => table.problems.add(table.missing("password_file", together)),
            (None, Some(_)) => table.problems.add(table.missing("username", together)),
            _ => {}
        }
        username.zip(password)
    }

    fn recipients(&self) -> Option<Vec<String>> {
        let table = self.table;
        let to = table.texts("to")?;
        if to.is_empty() {
            table.problems.add(table.problem("to", TO));
        }
        for address in &to {
            if address.parse::<Mailbox>().is_err() {
                let found = format!("{address:?}, which is no address");
                table.problems.add(Problem {
                    found,
                    ..table.problem("to", TO)
                });
            }
        }
        Some(to)
    }
}

const FROM: &str = "the sender's address, such as \"flipback <flipback@example.com>\"";
const TO: &str = "at least one recipient's address, such as [\"Ops <ops@example.com>\"]";

/// A host name or an address.
fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || (url::Host::parse(text).is_ok() && !text.contains([':', '/', '@', ' ']))
}

/// Whether a host is this very machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
