//! How to reach the world: checked settings of clusters, Prometheus, chats and our own server. Secrets stay wrapped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Severity, Topic};

/// A secret, given in place (environment) or by file. Files are read again when they are needed, so that a rotated
/// credential is picked up. Neither form prints its content.
#[derive(Clone)]
pub enum Secret {
    /// From the environment.
    Value(SecretString),
    /// From a file; trailing white space is not part of it.
    File(PathBuf),
}

impl PartialEq for Secret {
    /// Whether both were configured alike: what a file holds is not looked at. For comparing configurations, never for letting somebody in.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(one), Self::Value(other)) => one.expose_secret() == other.expose_secret(),
            (Self::File(one), Self::File(other)) => one == other,
            _ => false,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("[secret]"),
            Self::File(path) => write!(f, "[secret in {}]", path.display()),
        }
    }
}

/// Secret values longer than this are refused: no credential is that long.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Why a secret cannot be used. Never carries its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("failed to read the secret file {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is empty.
    #[error("the secret file {path:?} is empty")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

impl Secret {
    /// The secret's present value.
    ///
    /// # Errors
    /// [`SecretError`] when the file cannot be read, is empty, or holds more than 64 KiB.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        use std::io::Read;
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => {
                let failed = |source| SecretError::Read {
                    path: path.clone(),
                    source,
                };
                let mut text = String::new();
                std::fs::File::open(path)
                    .map_err(failed)?
                    .take(SECRET_BYTES_MAX)
                    .read_to_string(&mut text)
                    .map_err(failed)?;
                let text = text.trim_end();
                if text.is_empty() {
                    Err(SecretError::Empty { path: path.clone() })
                } else {
                    Ok(SecretString::from(text.to_owned()))
                }
            }
        }
    }
}

/// One cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSettings {
    /// Its name in the configuration; empty for an only one that has none.
    pub name: String,
    /// Kubeconfig file; `None`: inferred (`KUBECONFIG`, `~/.kube/config`, then in-cluster).
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
    /// How long a read may take.
    pub read_timeout: Duration,
    /// How long the flip's patch may take.
    pub flip_timeout: Duration,
    /// Its Prometheus; `None`: rules that need one are blind, and `check` says so.
    pub prometheus: Option<PrometheusSettings>,
}

/// One Prometheus-compatible server.
#[derive(Clone, PartialEq)]
pub struct PrometheusSettings {
    /// Base URL, without `/api/v1`.
    pub url: Url,
    /// How long one query may take.
    pub timeout: Duration,
    /// `Authorization: Bearer`.
    pub bearer: Option<Secret>,
    /// Basic authentication: user and password.
    pub basic: Option<(String, Secret)>,
    /// PEM file of certificate authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Further headers, such as `X-Scope-OrgID`.
    pub headers: BTreeMap<String, Secret>,
}

impl fmt::Debug for PrometheusSettings {
    /// Names the server only: a URL may hold a user and a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.host_str().unwrap_or_default();
        f.debug_struct("PrometheusSettings").field("host", &host).finish_non_exhaustive()
    }
}

/// One chat or receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatSettings {
    /// Its name in the configuration.
    pub name: String,
    /// What it speaks, and where.
    pub channel: Channel,
    /// How long one delivery may take.
    pub timeout: Duration,
    /// What it is told.
    pub filter: Filter,
    /// Equal messages (same guard and topic) within so long after one are told as one; zero: each by itself.
    pub quiet: Duration,
    /// Words of its own.
    pub templates: Templates,
}

/// How long one delivery to a chat may take, unless told otherwise.
pub const CHAT_TIMEOUT: Duration = Duration::from_secs(10);

impl ChatSettings {
    /// A chat that hears everything, in flipback's words.
    #[must_use]
    pub fn new(name: impl Into<String>, channel: Channel) -> Self {
        Self {
            name: name.into(),
            channel,
            timeout: CHAT_TIMEOUT,
            filter: Filter::default(),
            quiet: Duration::ZERO,
            templates: Templates::default(),
        }
    }

    /// What it speaks.
    #[must_use]
    pub fn kind(&self) -> ChatKind {
        self.channel.kind()
    }
}

/// Which announcements a chat hears, besides those that a guard sends it by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Nothing less loud.
    pub min_severity: Severity,
    /// Only these topics; `None`: all that suit its kind.
    pub topics: Option<BTreeSet<Topic>>,
    /// Only these guards, each a name in which `*` stands for anything but `/`; empty: all.
    pub guards: Vec<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            min_severity: Severity::Info,
            topics: None,
            guards: Vec::new(),
        }
    }
}

/// minijinja templates that replace flipback's own words, by topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates {
    /// For topics that have none of their own.
    pub any: Words,
    /// Per topic.
    pub by_topic: BTreeMap<Topic, Words>,
}

/// Templates of one message; what is `None` keeps flipback's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The news in a few words.
    pub title: Option<String>,
    /// The reason.
    pub sentence: Option<String>,
    /// What a person can do.
    pub next: Option<String>,
}

/// What a chat speaks, and where.
#[derive(Clone, Debug, PartialEq)]
pub enum Channel {
    /// Slack, by an incoming webhook.
    Slack {
        /// The webhook.
        url: Secret,
    },
    /// Slack, as an app: threads, pictures, a first message that is kept up to date.
    SlackBot {
        /// `xoxb-...`.
        token: Secret,
        /// The channel's id, `C0123456789`, or its name.
        channel: String,
        /// Base URL of its Web API.
        api: Url,
    },
    /// Teams, by a Workflows webhook.
    Teams {
        /// The webhook.
        url: Secret,
    },
    /// Discord, by a webhook.
    Discord {
        /// The webhook.
        url: Secret,
    },
    /// `CloudEvents` 1.0 as JSON.
    Webhook {
        /// Where to.
        url: Secret,
        /// Bearer token.
        token: Option<Secret>,
        /// Key of an HMAC-SHA256 signature.
        signing_key: Option<Secret>,
    },
    /// `PagerDuty` Events API v2.
    PagerDuty {
        /// The integration's key.
        routing_key: Secret,
        /// Base URL of the API.
        api: Url,
    },
    /// Alertmanager API v2.
    Alertmanager {
        /// Its base URL.
        url: Secret,
        /// Bearer token.
        token: Option<Secret>,
    },
    /// E-mail.
    Email(Email),
}

impl Channel {
    /// The secret that leads there, where one does: what a person looks at first when the chat refuses.
    #[must_use]
    pub fn credential(&self) -> Option<&Secret> {
        match self {
            Self::Slack { url }
            | Self::Teams { url }
            | Self::Discord { url }
            | Self::Webhook { url, .. }
            | Self::Alertmanager { url, .. } => Some(url),
            Self::SlackBot { token, .. } => Some(token),
            Self::PagerDuty { routing_key, .. } => Some(routing_key),
            Self::Email(email) => email.login.as_ref().map(|(_, password)| password),
        }
    }

    /// Every secret it holds.
    #[must_use]
    pub fn secrets(&self) -> Vec<&Secret> {
        let further = match self {
            Self::Webhook { token, signing_key, .. } => [token.as_ref(), signing_key.as_ref()],
            Self::Alertmanager { token, .. } => [token.as_ref(), None],
            _ => [None, None],
        };
        self.credential().into_iter().chain(further.into_iter().flatten()).collect()
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ChatKind {
        match self {
            Self::Slack { .. } => ChatKind::Slack,
            Self::SlackBot { .. } => ChatKind::SlackBot,
            Self::Teams { .. } => ChatKind::Teams,
            Self::Discord { .. } => ChatKind::Discord,
            Self::Webhook { .. } => ChatKind::Webhook,
            Self::PagerDuty { .. } => ChatKind::PagerDuty,
            Self::Alertmanager { .. } => ChatKind::Alertmanager,
            Self::Email(_) => ChatKind::Email,
        }
    }
}

/// E-mail by SMTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Email {
    /// The server's host name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: MailSecurity,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// PEM file of certificate authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The sender, `flipback <flipback@example.com>`.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
}

/// How an SMTP connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailSecurity {
    /// TLS from the first byte; port 465.
    Tls,
    /// STARTTLS, required; port 587.
    #[default]
    Starttls,
    /// None; for a relay on the same host.
    None,
}

/// What a chat speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatKind {
    /// Slack incoming webhook.
    Slack,
    /// Slack app with a bot token.
    SlackBot,
    /// Teams Workflows webhook.
    Teams,
    /// Discord webhook.
    Discord,
    /// `CloudEvents` over HTTP.
    Webhook,
    /// `PagerDuty` Events API v2.
    #[serde(rename = "pagerduty")]
    PagerDuty,
    /// Alertmanager API v2.
    Alertmanager,
    /// SMTP.
    Email,
}

impl ChatKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Slack,
        Self::SlackBot,
        Self::Teams,
        Self::Discord,
        Self::Webhook,
        Self::PagerDuty,
        Self::Alertmanager,
        Self::Email,
    ];

    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::SlackBot => "slack_bot",
            Self::Teams => "teams",
            Self::Discord => "discord",
            Self::Webhook => "webhook",
            Self::PagerDuty => "pagerduty",
            Self::Alertmanager => "alertmanager",
            Self::Email => "email",
        }
    }
}

/// What holds for the evidence of all guards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvidenceSettings {
    /// Regular expressions of further secrets in what is captured.
    pub redact: Vec<String>,
    /// How much is kept, and for how long.
    pub retention: Retention,
    /// Where complete bundles are copied to.
    pub copy: Option<CopySettings>,
    /// Where a browser finds the bundles: `<public_url>/<incident>/report.html`.
    pub public_url: Option<Url>,
}

/// How much evidence is kept, and for how long; pinned bundles and the newest one stay in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At most so many bundles.
    pub count: u32,
    /// None older than this.
    pub age: Duration,
    /// At most so many bytes.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            count: 200,
            age: Duration::from_secs(90 * 24 * 60 * 60),
            bytes: 2 * 1024 * 1024 * 1024,
        }
    }
}

/// A second place for complete bundles.
#[derive(Clone, Debug, PartialEq)]
pub struct CopySettings {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder`.
    pub url: Url,
    /// Options of the store, by the names that the `object_store` crate knows (`aws_region`, `aws_endpoint`, ...).
    pub options: BTreeMap<String, Secret>,
}

/// The audit journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// A file is closed when it has so many bytes.
    pub file_bytes: u64,
    /// So many files are kept.
    pub files: u32,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            file_bytes: 8 * 1024 * 1024,
            files: 32,
        }
    }
}

/// Several daemons that watch the same guards, one of which acts for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// The cluster that the Leases lie in, by its name in the configuration; empty for an only one that has none.
    pub cluster: String,
    /// The Leases' namespace.
    pub namespace: String,
    /// The Leases are called `<name>-shard-0`, `<name>-shard-1`, ..., and the one in which replicas announce themselves `<name>-members`.
    pub name: String,
    /// What this replica is called: the pod's name.
    pub identity: String,
    /// Into how many shares the guards are divided; each has a Lease and a leader of its own.
    pub shards: u32,
    /// How long a Lease is held after each renewal; whole seconds.
    pub duration: Duration,
    /// Time between two renewals, and between two looks at another's.
    pub renew: Duration,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            namespace: String::new(),
            name: "flipback".to_owned(),
            identity: "flipback".to_owned(),
            shards: 1,
            // Those of Kubernetes' own controllers.
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(2),
        }
    }
}

/// Our own HTTP server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Needed by everything that acts; `None`: nothing acts over HTTP.
    pub token: Option<Secret>,
    /// The folder of incidents, where browsers may read it; `None`: nobody reads evidence over HTTP.
    pub evidence: Option<PathBuf>,
}

/// How the daemon writes its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// For a person or for a collector.
    pub format: LogFormat,
    /// What is written, as comma-separated directives: `info`, `flipback=debug,kube=warn`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

/// The form of one log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For a person at a terminal.
    #[default]
    Text,
    /// One JSON object per line, for a log collector.
    Json,
}

/// How many guards may be flipped automatically within a time: beyond it the cause is probably shared, and flipping helps nobody.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlastRadius {
    /// Guards at most; 0: any number.
    pub flips: u32,
    /// Where it is more than `flips`: this fraction of all guards.
    pub share: f64,
    /// The time.
    pub window: Duration,
}

impl Default for BlastRadius {
    fn default() -> Self {
        Self {
            flips: 5,
            share: 0.1,
            window: Duration::from_secs(10 * 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_printed() {
        let settings = PrometheusSettings {
            url: Url::parse("https://reader:hunter2@prometheus:9090/").expect("valid"),
            timeout: Duration::from_secs(4),
            bearer: None,
            basic: None,
            ca_file: None,
            client_certificate: None,
            headers: BTreeMap::new(),
        };
        let printed = format!("{settings:?}");
        assert!(printed.contains("prometheus") && !printed.contains("hunter2"), "{printed}");
    }
}
