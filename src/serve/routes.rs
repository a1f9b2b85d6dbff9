//! Every route and what it answers. Nothing here acts; that is [`super::commands`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::error;

use super::{
    bounds::Rates,
    bundles, commands,
    feed::Feed,
    health::{self, Health},
};
use crate::{
    metrics::Metrics,
    model::{Status, settings::Secret},
};

/// Everything but a command is answered from memory; longer means that the process is starved.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page's files, part of the binary: it works without the Internet and is as old as the daemon.
const PAGE: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/icon-bad.svg", "image/svg+xml", include_str!("page/icon-bad.svg")),
];

/// Sent with every answer. The page may load its own files and talk to its own daemon, and nothing else.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) feed: Feed,
    pub(super) health: Health,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) commands: mpsc::Sender<super::Request>,
    pub(super) rates: Rates,
    pub(super) metrics: Metrics,
    pub(super) token: Option<Secret>,
    pub(super) evidence: Option<PathBuf>,
}

/// What went wrong, for a program (`error`) and for a person (`message`).
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    pub(super) status: StatusCode,
    pub(super) error: &'static str,
    pub(super) message: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        json(self.status, &self)
    }
}

/// Every route.
pub(super) fn router(shared: Shared) -> Router {
    let mut answered = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/feed", get(feed))
        .route("/api/v1/guards/{*guard}", get(guard))
        .route("/api/v1/history/{*guard}", get(history));
    for (path, kind, text) in PAGE {
        answered = answered.route(path, get(move || async move { typed(StatusCode::OK, kind, text) }));
    }
    if let Some(incidents) = &shared.evidence {
        answered = answered.merge(bundles::router(incidents));
    }
    answered
        .layer(middleware::from_fn(in_time))
        // These two have bounds of their own: a stream is long, and a command waits for a flip.
        .route("/api/v1/events", get(events))
        .route("/api/v1/commands", post(commands::post))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(commands::BODY_BYTES_MAX))
        .layer(middleware::map_response(with_headers))
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    // Thousands of series take milliseconds to print, which must not stand in the way of a flip.
    match tokio::task::spawn_blocking(move || shared.metrics.expose()).await {
        Ok(Ok(text)) => typed(StatusCode::OK, EXPOSITION, text),
        Ok(Err(failed)) => broken("metrics", &failed),
        Err(failed) => broken("metrics", &failed),
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let poll = shared.status.borrow().poll_seconds;
    match shared.health.silence(poll) {
        None => typed(StatusCode::OK, TEXT, "ok\n"),
        Some(silent) => typed(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!(
                "the monitor has not looked at anything for {} s; restart the daemon\n",
                silent.as_secs()
            ),
        ),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    if health::ready(&shared.status.borrow()) {
        typed(StatusCode::OK, TEXT, "ok\n")
    } else {
        typed(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "the first look at the guards is not done yet\n",
        )
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    let status = Arc::clone(&shared.status.borrow());
    json(StatusCode::OK, &*status)
}

async fn feed(State(shared): State<Shared>) -> Response {
    match shared.feed.digest() {
        Ok(digest) => typed(StatusCode::OK, JSON, digest),
        Err(failed) => broken("feed", &failed),
    }
}

async fn events(State(shared): State<Shared>) -> Response {
    match shared.feed.follow() {
        Some(stream) => (
            [
                (header::CONTENT_TYPE, EVENT_STREAM),
                (HeaderName::from_static("x-accel-buffering"), "no"),
            ],
            stream,
        )
            .into_response(),
        None => Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "too_many_pages",
            message: "too many pages are being pushed to; poll /api/v1/feed instead".into(),
        }
        .into_response(),
    }
}

async fn guard(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let status = Arc::clone(&shared.status.borrow());
    match status.guards.iter().find(|guard| guard.guard.as_str() == name) {
        Some(guard) => json(StatusCode::OK, guard),
        None => unknown_guard(&name).into_response(),
    }
}

async fn history(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let status = Arc::clone(&shared.status.borrow());
    let guard = status.guards.iter().find(|guard| guard.guard.as_str() == name);
    match guard.and_then(|guard| guard.history.as_ref()) {
        Some(history) => json(StatusCode::OK, &**history),
        None => unknown_guard(&name).into_response(),
    }
}

fn unknown_guard(name: &str) -> Problem {
    Problem {
        status: StatusCode::NOT_FOUND,
        error: "unknown_guard",
        message: format!("no guard is called {name:?}; /api/v1/status lists all"),
    }
}

async fn nothing_here() -> Problem {
    Problem {
        status: StatusCode::NOT_FOUND,
        error: "not_found",
        message: "nothing here; see / or /api/v1/status".into(),
    }
}

async fn wrong_method() -> Problem {
    Problem {
        status: StatusCode::METHOD_NOT_ALLOWED,
        error: "method_not_allowed",
        message: "this address does not take that method".into(),
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    timeout(ANSWER_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "timeout",
            message: "no answer within 10 s".into(),
        }
        .into_response()
    })
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn typed(status: StatusCode, kind: &'static str, body: impl IntoResponse) -> Response {
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

/// An answer as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => typed(status, JSON, body),
        Err(failed) => broken("answer", &failed),
    }
}

fn broken(what: &'static str, failed: &(dyn std::error::Error + 'static)) -> Response {
    error!(what, error = failed, "Failed to encode an answer");
    typed(
        StatusCode::INTERNAL_SERVER_ERROR,
        TEXT,
        "failed to encode the answer; the daemon's log says why\n",
    )
}
