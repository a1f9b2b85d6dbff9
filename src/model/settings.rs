//! How to reach the world: checked settings of clusters, Prometheus, chats and our own server. Secrets stay wrapped.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;
use url::Url;

/// A secret, given in place (environment) or by file. Files are read again when they are needed, so that a rotated
/// credential is picked up. Neither form prints its content.
#[derive(Clone)]
pub enum Secret {
    /// From the environment.
    Value(SecretString),
    /// From a file; trailing white space is not part of it.
    File(PathBuf),
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
#[derive(Clone, Debug, Default)]
pub struct ClusterSettings {
    /// Its name in the configuration; empty for the only one.
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
#[derive(Clone)]
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
#[derive(Clone, Debug)]
pub struct ChatSettings {
    /// Its name in the configuration.
    pub name: String,
    /// What it speaks.
    pub kind: ChatKind,
    /// Its webhook URL, which is a secret.
    pub url: Secret,
    /// How long one delivery may take.
    pub timeout: Duration,
    /// Bearer token for the generic webhook.
    pub token: Option<Secret>,
}

/// What a chat speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatKind {
    /// Slack incoming webhook.
    Slack,
    /// Teams Workflows webhook.
    Teams,
    /// Our own JSON.
    Webhook,
}

/// Our own HTTP server.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Needed by everything that acts; `None`: nothing acts over HTTP.
    pub token: Option<Secret>,
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
