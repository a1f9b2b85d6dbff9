//! Why a chat was not told, and whether trying again helps. What a person can do about it is `remedy.rs`.

use std::time::Duration;

pub(super) use crate::model::chain;
use crate::model::settings::SecretError;

/// Why a chat was not told. Never carries a secret.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// What the chat is reached by, or told in confidence, cannot be read.
    #[error("failed to read a secret of the chat")]
    Secret(#[source] SecretError),
    /// The chat's URL is not usable as one.
    #[error("the chat's URL is no http:// or https:// URL with a host")]
    NotAUrl,
    /// The token cannot be sent.
    #[error("the chat's token has characters that an HTTP header cannot carry")]
    BadToken,
    /// No HTTP client could be made.
    #[error("failed to make an HTTP client: {0}")]
    Client(String),
    /// No answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The request did not reach the chat.
    #[error("failed to reach the chat")]
    Send(#[source] reqwest::Error),
    /// The chat took the request and refused the message in its answer.
    #[error("the chat refused: {said}")]
    Refused {
        /// What it said, shortened.
        said: String,
        /// Whether the same message would be refused again.
        permanent: bool,
    },
    /// A mail server was not reached, or the way to it is set up wrongly.
    #[error("failed to {step}: {why}")]
    Mail {
        /// What was attempted.
        step: &'static str,
        /// What came of it, without a secret.
        why: String,
        /// Whether only another configuration helps.
        permanent: bool,
    },
    /// The signing key cannot be used.
    #[error("the signing key begins with whsec_, and what follows is not base64")]
    BadKey,
    /// The chat refused, and what it said is known to mean something that a person can set right.
    #[error("the chat refused: {said}")]
    Advised {
        /// What it said, shortened.
        said: String,
        /// What a person can do; `{credential}` stands for where the credential comes from.
        advice: &'static str,
        /// Whether the same message would be refused again.
        permanent: bool,
    },
    /// The chat refused.
    #[error("the chat answered {status}{}", if .said.is_empty() { String::new() } else { format!(": {}", .said) })]
    Status {
        /// Its HTTP status.
        status: u16,
        /// What it said, shortened; empty when it said nothing.
        said: String,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
}

impl DeliverError {
    /// Whether the same request will fail again however often it is tried.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotAUrl | Self::BadToken | Self::BadKey => true,
            Self::Refused { permanent, .. } | Self::Advised { permanent, .. } | Self::Mail { permanent, .. } => *permanent,
            // A redirect is never followed: it would carry the message, and with it the trust in the URL, elsewhere.
            Self::Status { status, .. } => (300..500).contains(status) && !matches!(status, 408 | 425 | 429),
            // A credential file may be mounted a moment later.
            Self::Secret(_) | Self::Client(_) | Self::Timeout(_) | Self::Send(_) => false,
        }
    }

    /// How long the chat asked us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> DeliverError {
        DeliverError::Status {
            status,
            said: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn only_a_chats_own_trouble_is_worth_a_long_retry() {
        for transient in [408, 425, 429, 500, 502, 503, 504] {
            assert!(!status(transient).is_permanent(), "{transient}");
        }
        for permanent in [301, 307, 400, 401, 403, 404, 410, 413] {
            assert!(status(permanent).is_permanent(), "{permanent}");
        }
    }
}
