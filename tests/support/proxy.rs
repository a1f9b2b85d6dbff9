//! What may stand between flipback and a Prometheus: a proxy that hands answers on, and spoils them when told to.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// What Thanos says when one of its stores did not answer.
pub const WARNING: &str = "No StoreAPIs matched for this query";

/// How it treats what Prometheus answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Hands it on.
    #[default]
    Honest,
    /// Hands it on with `warnings`, as a federation does that lacks a part of itself.
    Warns,
    /// Ends it half way, as if it were whole.
    Truncates,
    /// Ends the connection half way.
    BreaksOff,
    /// Answers 200 with a login page.
    ShowsPage,
    /// Answers 200 with JSON of the API's form that holds something else.
    Confuses,
    /// Answers 200 and says in it that it has failed.
    Fails,
    /// Answers 429 and 503 in turn, with `Retry-After`.
    Refuses,
    /// Takes the question and never answers.
    Hangs,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    inner: Arc<Inner>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    upstream: String,
    http: reqwest::Client,
    manner: Mutex<Manner>,
    busy: AtomicBool,
}

impl Proxy {
    /// Starts an honest one before `upstream`, a URL without a path.
    pub async fn start(upstream: &str) -> Self {
        super::install_tls();
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(10))
                .no_proxy()
                .build()
                .expect("a client"),
            manner: Mutex::default(),
            busy: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let app = Router::new().fallback(hand_on).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { inner, address, task }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it behaves so.
    pub fn set(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hand_on(State(inner): State<Arc<Inner>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut request = inner.http.post(format!("{}{uri}", inner.upstream)).body(body);
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let answered = match request.send().await {
        Ok(answer) => Ok((answer.status(), answer.bytes().await.unwrap_or_default())),
        Err(error) => Err(error.to_string()),
    };
    let (status, answer) = match answered {
        Ok(answered) => answered,
        Err(why) => return (StatusCode::BAD_GATEWAY, why).into_response(),
    };
    let manner = *inner.manner.lock().unwrap_or_else(PoisonError::into_inner);
    let half = answer.slice(..answer.len() / 2);
    let json = [(header::CONTENT_TYPE, "application/json")];
    match manner {
        Manner::Honest => (status, json, answer).into_response(),
        Manner::Warns => (status, json, warned(&answer)).into_response(),
        Manner::Truncates => (status, json, half).into_response(),
        Manner::BreaksOff => {
            let gone = async {
                // The first half is on its way by then.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(io::Error::other("gone"))
            };
            let parts = stream::iter([Ok(half)]).chain(stream::once(gone));
            (status, json, Body::from_stream(parts)).into_response()
        }
        Manner::ShowsPage => ([(header::CONTENT_TYPE, "text/html")], "<html><title>Sign in</title></html>").into_response(),
        Manner::Confuses => (
            status,
            json,
            r#"{"status":"success","data":{"resultType":"vector","result":"banana"}}"#,
        )
            .into_response(),
        Manner::Fails => (
            StatusCode::OK,
            json,
            r#"{"status":"error","errorType":"internal","error":"out of order"}"#,
        )
            .into_response(),
        Manner::Refuses => {
            let again = inner.busy.fetch_xor(true, Ordering::Relaxed);
            let status = if again {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::TOO_MANY_REQUESTS
            };
            (status, [(header::RETRY_AFTER, "1")], "later\n").into_response()
        }
        Manner::Hangs => std::future::pending().await,
    }
}

/// The same answer with a warning in it.
fn warned(answer: &[u8]) -> String {
    let mut answer: Value = serde_json::from_slice(answer).expect("Prometheus answers with JSON");
    answer["warnings"] = json!([WARNING]);
    answer.to_string()
}
