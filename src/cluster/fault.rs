//! What went wrong with a request: a kind for programs, a detail for people.
//!
//! Failed answers are told apart by their numeric code alone: kube's own helpers trust the `reason` field, which
//! proxies and API extensions leave out. A detail never carries a credential: what a credential plugin printed, and
//! what a kubeconfig holds, stays out of it.

use std::{error::Error, fmt, time::Duration};

use super::fence::Fenced;

/// Why a request to the API server did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    /// What it means for the caller.
    pub kind: FaultKind,
    /// What was said, for people.
    pub detail: String,
}

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// 401, or no credential could be had: the credentials are not accepted.
    Unauthorized,
    /// 403: the account lacks a right.
    Forbidden,
    /// 404: no such object.
    NotFound,
    /// 409 or 422: the object changed, or the change is not valid. The real API server answers a failed `test` with 422.
    Conflict,
    /// 410: the watched version is gone; list again.
    Gone,
    /// 429: not carried out, try later.
    Busy,
    /// Any other refusal: not carried out.
    Refused,
    /// 5xx: nobody knows whether it was carried out.
    Server,
    /// The TLS handshake failed: nothing was sent.
    Tls,
    /// No connection: nothing was sent.
    Unreachable,
    /// No answer in time: nobody knows whether it was carried out.
    Timeout,
    /// The connection broke: nobody knows whether it was carried out.
    Lost,
    /// This replica does not lead: nothing was sent.
    Fenced,
}

/// An API server's message longer than this is cut: it goes to chats and pages.
const DETAIL_CHARS_MAX: usize = 400;

/// The Display of hyper's client error when no connection came about. A test connects to a closed port and fails if
/// hyper words it differently; until then such a failure would count as [`FaultKind::Lost`], the careful side.
const CONNECT_FAILED: &str = "client error (Connect)";

impl Fault {
    /// A call that did not end within its own deadline.
    #[must_use]
    pub fn deadline(waited: Duration) -> Self {
        Self {
            kind: FaultKind::Timeout,
            detail: format!("no answer within {}", humantime::format_duration(waited)),
        }
    }

    /// Whether new credentials, or a newly read kubeconfig, may help.
    #[must_use]
    pub fn calls_for_new_credentials(&self) -> bool {
        matches!(self.kind, FaultKind::Unauthorized | FaultKind::Tls)
    }
}

impl From<&kube::Error> for Fault {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self {
                kind: by_code(status.code),
                detail: format!("{} (HTTP {})", cut(&status.message), status.code),
            },
            kube::Error::Auth(_) => Self {
                kind: FaultKind::Unauthorized,
                detail: credential(error),
            },
            other => by_chain(other),
        }
    }
}

impl From<&kube::runtime::watcher::Error> for Fault {
    fn from(error: &kube::runtime::watcher::Error) -> Self {
        use kube::runtime::watcher::Error as Watch;
        match error {
            Watch::InitialListFailed(error) | Watch::WatchStartFailed(error) | Watch::WatchFailed(error) => error.into(),
            Watch::WatchError(status) => Self {
                kind: by_code(status.code),
                detail: format!("{} (code {})", cut(&status.message), status.code),
            },
            Watch::NoResourceVersion => Self {
                kind: FaultKind::Server,
                detail: "the answer carries no resourceVersion".to_owned(),
            },
        }
    }
}

fn by_code(code: u16) -> FaultKind {
    match code {
        401 => FaultKind::Unauthorized,
        403 => FaultKind::Forbidden,
        404 => FaultKind::NotFound,
        409 | 422 => FaultKind::Conflict,
        410 => FaultKind::Gone,
        429 => FaultKind::Busy,
        500.. => FaultKind::Server,
        _ => FaultKind::Refused,
    }
}

/// Judges an error below HTTP by what its chain of causes holds.
fn by_chain(error: &kube::Error) -> Fault {
    let mut kind = FaultKind::Lost;
    let mut words: Vec<String> = Vec::new();
    // kube's own wrapper only repeats its source.
    let mut next: Option<&(dyn Error + 'static)> = error.source().or(Some(error));
    while let Some(cause) = next {
        let said = cause.to_string();
        if cause.is::<kube::client::AuthError>() {
            return Fault {
                kind: FaultKind::Unauthorized,
                detail: credential(cause),
            };
        }
        if cause.is::<Fenced>() {
            kind = FaultKind::Fenced;
        } else if cause.is::<rustls::Error>() || wraps_tls(cause) {
            kind = FaultKind::Tls;
        } else if kind == FaultKind::Lost && said == CONNECT_FAILED {
            kind = FaultKind::Unreachable;
        } else if kind == FaultKind::Lost && (cause.is::<tower::timeout::error::Elapsed>() || timed_out(cause)) {
            kind = FaultKind::Timeout;
        }
        if words.last() != Some(&said) {
            words.push(said);
        }
        next = cause.source();
    }
    Fault {
        kind,
        detail: cut(&words.join(": ")),
    }
}

/// TLS errors come wrapped in `io::Error`s, once or more, which do not name what they wrap as their source.
fn wraps_tls(cause: &(dyn Error + 'static)) -> bool {
    let inner = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .map(|inner| inner as &(dyn Error + 'static));
    inner.is_some_and(|inner| inner.is::<rustls::Error>() || wraps_tls(inner))
}

fn timed_out(cause: &(dyn Error + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

/// Words for a credential that could not be had. What a plugin printed may be a token: it is left out.
pub(super) fn credential(error: &(dyn Error + 'static)) -> String {
    use kube::client::AuthError;
    let mut next = Some(error);
    while let Some(cause) = next {
        match cause.downcast_ref::<AuthError>() {
            Some(AuthError::AuthExecRun { cmd, out }) => return format!("the credential plugin {cmd:?} failed with {}", out.status),
            Some(AuthError::AuthExecStart(source)) => return format!("the credential plugin could not be started: {source}"),
            Some(AuthError::ReadTokenFile(source, path)) => return format!("the token file {path:?} cannot be read: {source}"),
            Some(AuthError::MissingCommand) => return "the kubeconfig names a credential plugin without a command".to_owned(),
            Some(_) => return "the credential plugin or token gave nothing usable".to_owned(),
            None => next = cause.source(),
        }
    }
    "the credentials cannot be used".to_owned()
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(DETAIL_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "credentials not accepted",
            Self::Forbidden => "not allowed",
            Self::NotFound => "not found",
            Self::Conflict => "changed in between, or not valid",
            Self::Gone => "version gone",
            Self::Busy => "server busy",
            Self::Refused => "refused",
            Self::Server => "server error",
            Self::Tls => "TLS failed",
            Self::Unreachable => "unreachable",
            Self::Timeout => "no answer in time",
            Self::Lost => "connection lost",
            Self::Fenced => "not sent: another replica may lead",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str) -> Fault {
        let status = kube::core::Status::failure("said", reason).with_code(code);
        Fault::from(&kube::Error::Api(status.boxed()))
    }

    #[test]
    fn the_numeric_code_decides_even_where_the_reason_lies() {
        assert_eq!(api(409, "").kind, FaultKind::Conflict);
        assert_eq!(api(422, "NotFound").kind, FaultKind::Conflict);
        assert_eq!(api(404, "").kind, FaultKind::NotFound);
        assert_eq!(api(403, "").detail, "said (HTTP 403)");
        assert_eq!(api(504, "").kind, FaultKind::Server);
        assert_eq!(api(418, "").kind, FaultKind::Refused);
    }

    #[tokio::test]
    async fn a_closed_port_is_known_as_nothing_sent() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let uri = format!("http://127.0.0.1:{port}").parse().expect("valid");
        let client = kube::Client::try_from(kube::Config::new(uri)).expect("builds");
        let error = client.apiserver_version().await.expect_err("nobody listens");
        let fault = Fault::from(&error);
        assert_eq!(fault.kind, FaultKind::Unreachable, "{fault:?}");
        assert!(fault.detail.contains("refused"), "{fault}");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = kube::core::Status::failure(&"ä".repeat(1000), "").with_code(403);
        let fault = Fault::from(&kube::Error::Api(status.boxed()));
        assert_eq!(fault.detail.chars().count(), DETAIL_CHARS_MAX + 1 + " (HTTP 403)".len());
    }

    #[test]
    fn what_a_plugin_printed_stays_out() {
        use std::os::unix::process::ExitStatusExt;
        let out = std::process::Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: b"s3cret".to_vec(),
            stderr: b"s3cret".to_vec(),
        };
        let error = kube::Error::Auth(kube::client::AuthError::AuthExecRun {
            cmd: "aws".into(),
            out: Box::new(out),
        });
        let fault = Fault::from(&error);
        assert_eq!(fault.kind, FaultKind::Unauthorized);
        assert!(fault.detail.contains("aws") && !fault.detail.contains("115"), "{fault}");
        assert!(!fault.detail.contains("s3cret"));
    }
}
