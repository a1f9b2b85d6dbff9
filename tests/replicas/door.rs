//! A door between one daemon and the API server: it lets everything through, watches too, and on demand keeps one request, or
//! the answer to it, until it is told to let go. What went through it is written down.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::support::Cluster;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The request itself, before the API server hears of it.
    Request,
    /// The API server's answer.
    Answer,
}

/// The first request like this is kept.
#[derive(Clone, Debug)]
struct Trap {
    method: Method,
    path: String,
    keep: Keep,
}

/// A running door.
pub struct Door {
    inner: Arc<Inner>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Inner {
    upstream: String,
    http: reqwest::Client,
    trap: Mutex<Option<Trap>>,
    /// Whether something is kept now, and whether it may go.
    caught: watch::Sender<bool>,
    open: watch::Sender<bool>,
    passed: Mutex<Vec<(Method, String)>>,
}

impl Door {
    /// Opens one before a cluster's API server.
    pub async fn open(cluster: &Cluster) -> Self {
        crate::support::install_tls();
        let ca = std::fs::read(cluster.ca()).expect("the cluster's CA");
        let inner = Arc::new(Inner {
            upstream: cluster.url().to_owned(),
            http: reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
                .build()
                .expect("a client"),
            trap: Mutex::default(),
            caught: watch::channel(false).0,
            open: watch::channel(false).0,
            passed: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let app = Router::new().fallback(pass).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { inner, address, task }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keeps the next request of this method on this path, or its answer.
    pub fn keep(&self, method: Method, path: &str, keep: Keep) {
        let trap = Trap {
            method,
            path: path.to_owned(),
            keep,
        };
        *self.inner.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(trap);
    }

    /// Waits until something is kept.
    pub async fn caught(&self) {
        let mut caught = self.inner.caught.subscribe();
        caught.wait_for(|caught| *caught).await.expect("the door stands");
    }

    /// Lets it go.
    pub fn let_go(&self) {
        self.inner.open.send_replace(true);
    }

    /// How many requests of this method on this path came to it.
    pub fn count(&self, method: &Method, path: &str) -> usize {
        let passed = self.inner.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.iter().filter(|(m, p)| m == method && p == path).count()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inner {
    /// Springs the trap, if it is for this one.
    fn spring(&self, method: &Method, path: &str) -> Option<Keep> {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let found = trap.take_if(|trap| trap.method == *method && trap.path == path)?;
        Some(found.keep)
    }

    async fn hold(&self) {
        self.caught.send_replace(true);
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open).await;
    }
}

async fn pass(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    inner
        .passed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((method.clone(), path.clone()));
    let keep = inner.spring(&method, &path);
    if keep == Some(Keep::Request) {
        // A task of its own: the request goes on its way also when the one who sent it has gone.
        let (held, method, uri) = (Arc::clone(&inner), method.clone(), uri.clone());
        let sent = tokio::spawn(async move {
            held.hold().await;
            forward(&held, method, &uri, &headers, body).await
        });
        return sent.await.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response());
    }
    let answer = forward(&inner, method, &uri, &headers, body).await;
    if keep == Some(Keep::Answer) {
        inner.hold().await;
    }
    answer
}

async fn forward(inner: &Inner, method: Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response {
    let mut request = inner.http.request(method, format!("{}{uri}", inner.upstream)).body(body);
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT, header::USER_AGENT] {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    match request.send().await {
        Ok(answer) => {
            let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
            let mut response = (status, Body::from_stream(answer.bytes_stream())).into_response();
            if let Some(kind) = kind {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            response
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.without_url().to_string()).into_response(),
    }
}
