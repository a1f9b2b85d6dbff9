//! Asks a running daemon over its API.
//!
//! Bounded: 2 s to connect, 5 s for a status, 35 s for a command (the daemon itself answers one within 30), 32 MiB of answer.

use std::{net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::model::{Command, CommandError, CommandReply, FlipHistory, GuardId, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(35);
/// Thousands of guards with their histories.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A daemon's API.
#[derive(Debug)]
pub struct Daemon {
    base: Url,
    http: reqwest::Client,
}

/// Why a daemon did not answer as one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{0:?} is no address of a daemon: expected a URL such as http://127.0.0.1:8080")]
    Address(String),
    /// No HTTP client could be made.
    #[error("failed to make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// Nothing listens there.
    #[error("no daemon answers at {0}")]
    Nobody(Url),
    /// Something is there, and no answer came in time.
    #[error("the daemon at {0} did not answer in time")]
    Timeout(Url),
    /// The connection broke.
    #[error("the connection to {base} failed: {why}")]
    Broken {
        /// Where.
        base: Url,
        /// Why.
        why: String,
    },
    /// The answer is none of a daemon's.
    #[error("what answers at {base} is no flipback daemon: {why}")]
    Strange {
        /// Where.
        base: Url,
        /// How it differs.
        why: String,
    },
    /// The daemon takes no commands over HTTP: no token is configured.
    #[error("the daemon at {0} takes no commands over HTTP: no token is configured ([serve] token_file)")]
    NoToken(Url),
    /// The token is wrong or missing.
    #[error("the daemon at {0} did not accept the token: give the right one by [serve] token_file or FLIPBACK_SERVE__TOKEN")]
    Unauthorized(Url),
    /// The daemon answered that it will not.
    #[error("{0}")]
    Refused(String),
    /// The command was understood and not carried out.
    #[error("{0}")]
    Command(CommandError),
}

/// The form of the daemon's refusals.
#[derive(Debug, Deserialize)]
struct Said {
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
}

impl Daemon {
    /// A daemon at a URL; nothing is asked yet.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Client`].
    pub fn at(address: &str) -> Result<Self, ClientError> {
        let with_scheme = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let base = Url::parse(&with_scheme)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
            .ok_or_else(|| ClientError::Address(address.to_owned()))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("flipback/", env!("CARGO_PKG_VERSION")));
        // A loopback daemon is never behind the proxy that the environment names.
        let http = if is_loopback(&base) { http.no_proxy() } else { http };
        Ok(Self {
            base,
            http: http.build().map_err(ClientError::Client)?,
        })
    }

    /// The daemon that listens at an address of this machine.
    ///
    /// # Errors
    /// [`ClientError::Client`].
    pub fn listening(listen: SocketAddr) -> Result<Self, ClientError> {
        let mut reachable = listen;
        if listen.ip().is_unspecified() {
            reachable.set_ip(match listen {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Self::at(&format!("http://{reachable}"))
    }

    /// Where it is.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.base
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }

    /// Everything there is to show.
    ///
    /// # Errors
    /// [`ClientError`] when nobody, or nobody of ours, answers.
    pub async fn status(&self) -> Result<Status, ClientError> {
        let request = self.http.get(self.url("/api/v1/status")).timeout(STATUS_TIMEOUT);
        let (code, body) = self.ask(request).await?;
        if code != 200 {
            return Err(self.refusal(code, &body));
        }
        self.understood(&body)
    }

    /// What was done to a guard.
    ///
    /// # Errors
    /// [`ClientError`] when nobody, or nobody of ours, answers; a daemon of an older version does not know it.
    pub async fn history(&self, guard: &GuardId) -> Result<FlipHistory, ClientError> {
        let path = format!("/api/v1/history/{guard}");
        let (code, body) = self.ask(self.http.get(self.url(&path)).timeout(STATUS_TIMEOUT)).await?;
        if code != 200 {
            return Err(self.refusal(code, &body));
        }
        self.understood(&body)
    }

    /// Asks the daemon to act.
    ///
    /// # Errors
    /// [`ClientError::Command`] when it will not; others when it was not reached.
    pub async fn command(&self, command: &Command, token: Option<&SecretString>) -> Result<CommandReply, ClientError> {
        let mut request = self.http.post(self.url("/api/v1/commands")).timeout(COMMAND_TIMEOUT).json(command);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        let (code, body) = self.ask(request).await?;
        match code {
            200 => self.understood(&body),
            401 => Err(ClientError::Unauthorized(self.base.clone())),
            _ => match serde_json::from_slice::<CommandError>(&body) {
                Ok(error) => Err(ClientError::Command(error)),
                Err(_) => Err(self.refusal(code, &body)),
            },
        }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<(u16, Vec<u8>), ClientError> {
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            if error.is_connect() && !error.is_timeout() {
                ClientError::Nobody(self.base.clone())
            } else if error.is_timeout() {
                ClientError::Timeout(self.base.clone())
            } else {
                ClientError::Broken {
                    base: self.base.clone(),
                    why: error.to_string(),
                }
            }
        };
        let mut answer = request.send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.strange("its answer is too long".to_owned()));
            }
        }
        Ok((answer.status().as_u16(), body))
    }

    fn strange(&self, why: String) -> ClientError {
        ClientError::Strange {
            base: self.base.clone(),
            why,
        }
    }

    fn understood<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.strange(format!("its answer is not understood ({error})")))
    }

    fn refusal(&self, code: u16, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Said>(body) {
            Ok(said) if said.error == "no_token_configured" => ClientError::NoToken(self.base.clone()),
            Ok(said) if !said.message.is_empty() => ClientError::Refused(said.message),
            _ => self.strange(format!("it answered {code}")),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }

    #[test]
    fn an_address_may_leave_out_the_scheme_and_may_have_a_path() {
        provider();
        let daemon = Daemon::at("127.0.0.1:8080").expect("an address");
        assert_eq!(daemon.url("/api/v1/status").as_str(), "http://127.0.0.1:8080/api/v1/status");
        let behind = Daemon::at("https://ops.example/flipback/").expect("an address");
        assert_eq!(behind.url("/api/v1/status").as_str(), "https://ops.example/flipback/api/v1/status");
        assert!(Daemon::at("ftp://x").is_err());
        assert!(Daemon::at("http://").is_err());
    }

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_on_loopback() {
        provider();
        let daemon = Daemon::listening("0.0.0.0:8080".parse().expect("an address")).expect("a client");
        assert_eq!(daemon.base().as_str(), "http://127.0.0.1:8080/");
        let daemon = Daemon::listening("[::]:8080".parse().expect("an address")).expect("a client");
        assert_eq!(daemon.base().as_str(), "http://[::1]:8080/");
    }

    #[test]
    fn the_daemons_refusals_are_understood() {
        provider();
        let daemon = Daemon::at("127.0.0.1:8080").expect("an address");
        let body = br#"{"error":"no_token_configured","message":"..."}"#;
        assert!(matches!(daemon.refusal(403, body), ClientError::NoToken(_)));
        assert!(matches!(daemon.refusal(404, b"<html>"), ClientError::Strange { .. }));
        let error: CommandError = serde_json::from_str(r#"{"error":"unknown_guard","detail":"x","message":"..."}"#).expect("understood");
        assert_eq!(error, CommandError::UnknownGuard("x".into()));
    }
}
