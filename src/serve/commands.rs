//! `POST /api/v1/commands`: the only way to act over HTTP.
//!
//! Five gates in this order: the request came by a name that is surely ours (a page of a foreign site that had its own
//! name resolve to this daemon is turned away), not from where too many wrong tokens came from ([`super::bounds`]), with the token, not too
//! often, as JSON within 64 KiB. Then the command waits in the
//! monitor's queue; what comes of it is the monitor's word, and this room only translates it to an HTTP status.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, Request as HttpRequest, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    time::timeout,
};
use tracing::{error, info, warn};

use super::{
    Request,
    bounds::Peer,
    routes::{Problem, Shared, json},
};
use crate::model::{Command, CommandError, CommandReply, settings::Secret};

/// A command is a few hundred bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// A body that has not arrived by then never will.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The monitor answers a flip within the flip's own timeout; beyond this the asker must look for themselves.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Carries a command to the monitor and its answer back.
pub(super) async fn post(State(shared): State<Shared>, request: HttpRequest<Body>) -> Response {
    match carry(&shared, request).await {
        Ok(reply) => json(StatusCode::OK, &reply),
        Err(response) => response,
    }
}

async fn carry(shared: &Shared, request: HttpRequest<Body>) -> Result<CommandReply, Response> {
    let (head, body) = request.into_parts();
    own_host(&head.headers).map_err(IntoResponse::into_response)?;
    let nobody = Peer(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let peer = head.extensions.get::<Peer>().copied().unwrap_or(nobody);
    shared.rates.hear(peer).map_err(IntoResponse::into_response)?;
    if let Err(problem) = entitled(&head.headers, shared.token.as_ref()).await {
        if problem.status == StatusCode::UNAUTHORIZED {
            shared.rates.guessed(peer).map_err(IntoResponse::into_response)?;
        }
        return Err(problem.into_response());
    }
    shared.rates.command().map_err(IntoResponse::into_response)?;
    let command = read(&head.headers, body).await.map_err(IntoResponse::into_response)?;
    info!(guard = command.guard().map(ToString::to_string), ?command, "Command received");
    let (reply, answer) = oneshot::channel();
    shared.commands.try_send(Request { command, reply }).map_err(|refused| {
        match refused {
            TrySendError::Full(_) => warn!("Command refused: the monitor's queue is full"),
            TrySendError::Closed(_) => warn!("Command refused: the monitor is stopping"),
        }
        failure(&CommandError::Busy)
    })?;
    match timeout(REPLY_TIMEOUT, answer).await {
        Ok(Ok(Ok(reply))) => Ok(reply),
        Ok(Ok(Err(error))) => Err(failure(&error)),
        Ok(Err(_dropped)) => Err(failure(&CommandError::Busy)),
        Err(_elapsed) => Err(Problem {
            status: StatusCode::GATEWAY_TIMEOUT,
            error: "timeout",
            message: "no answer within 30 s; the command may still be carried out: look at the guard's status before asking again".into(),
        }
        .into_response()),
    }
}

/// A name that only resolves inside, or no name at all: a site on the Internet cannot have it.
fn own_host(headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |message: String| Problem {
        status: StatusCode::FORBIDDEN,
        error: "foreign_host",
        message,
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .ok_or_else(|| forbidden("the request names no host".into()))?;
    if !is_own_name(host_name(host)) {
        return Err(forbidden(format!(
            "commands are not taken under the name {host:?}; use an IP address, localhost, or the name of the Service (such as flipback.namespace.svc)"
        )));
    }
    match headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        None => Ok(()),
        Some(origin) if origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host)) => Ok(()),
        Some(origin) => Err(forbidden(format!("commands are not taken from a page of {origin:?}"))),
    }
}

/// The host without its port; brackets of an IPv6 address are removed.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_own_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let single_label = !name.is_empty() && !name.contains('.');
    single_label || name.parse::<IpAddr>().is_ok() || name.ends_with(".svc") || name.ends_with(".svc.cluster.local")
}

async fn entitled(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Problem> {
    let Some(token) = token.cloned() else {
        return Err(Problem {
            status: StatusCode::FORBIDDEN,
            error: "no_token_configured",
            message: "this daemon takes no commands over HTTP because no token is configured; set one (`[serve] token_file`), or run the \
                      command with --alone on a machine that has access to the cluster"
                .into(),
        });
    };
    // The file is read for each command: a rotated token is in force at once.
    let expected = match tokio::task::spawn_blocking(move || token.read()).await {
        Ok(Ok(expected)) => expected,
        Ok(Err(error)) => {
            error!(
                error = &error as &dyn std::error::Error,
                "The token for commands cannot be read; no command can be taken"
            );
            return Err(token_unreadable());
        }
        Err(error) => {
            error!(%error, "Reading the token for commands failed");
            return Err(token_unreadable());
        }
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, given)| given.trim());
    // Hashes have one length, so that neither the content nor the length can be felt from outside.
    let matches = given.is_some_and(|given| {
        let (given, expected) = (Sha256::digest(given), Sha256::digest(expected.expose_secret()));
        given.as_slice().ct_eq(expected.as_slice()).into()
    });
    if matches {
        Ok(())
    } else {
        warn!("A command with a wrong or missing token was refused");
        Err(Problem {
            status: StatusCode::UNAUTHORIZED,
            error: "unauthorized",
            message: "commands need the daemon's token: `Authorization: Bearer <token>`".into(),
        })
    }
}

fn token_unreadable() -> Problem {
    Problem {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: "token_unreadable",
        message: "the daemon cannot read its own token; its log says why".into(),
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Command, Problem> {
    let bad = |status, message: String| Problem {
        status,
        error: "bad_request",
        message,
    };
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(bad(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("expected `Content-Type: application/json`, found {kind:?}"),
        ));
    }
    let bytes = match timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Err(_) => return Err(bad(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 5 s".into())),
        Ok(Err(_)) => {
            return Err(bad(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is broken, or larger than {BODY_BYTES_MAX} bytes"),
            ));
        }
        Ok(Ok(bytes)) => bytes,
    };
    serde_json::from_slice(&bytes).map_err(|error| bad(StatusCode::BAD_REQUEST, format!("the body is no command: {error}")))
}

/// A [`CommandError`] as JSON, with its sentence beside it.
#[derive(Serialize)]
struct Failure<'a> {
    #[serde(flatten)]
    error: &'a CommandError,
    message: String,
}

fn failure(error: &CommandError) -> Response {
    let status = match error {
        CommandError::UnknownGuard(_) => StatusCode::NOT_FOUND,
        CommandError::UnknownColor(_) => StatusCode::UNPROCESSABLE_ENTITY,
        CommandError::Refused(_) | CommandError::NotLeading { .. } => StatusCode::CONFLICT,
        CommandError::Failed(_) => StatusCode::BAD_GATEWAY,
        CommandError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(
        status,
        &Failure {
            error,
            message: error.to_string(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_foreign_site_could_have_are_not_ours() {
        for own in [
            "127.0.0.1:9900",
            "[::1]:9900",
            "localhost:9900",
            "10.2.3.4",
            "flipback",
            "flipback.ops.svc:80",
            "f.ops.svc.cluster.local",
        ] {
            assert!(is_own_name(host_name(own)), "{own}");
        }
        for foreign in [
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "svc.evil.example",
            "",
            "flipback.svc.example",
            "localhost.evil.example",
        ] {
            assert!(!is_own_name(host_name(foreign)), "{foreign}");
        }
    }
}
