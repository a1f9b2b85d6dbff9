//! A chat: an HTTP server that writes down every body it is sent, in order, and answers as told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// One delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// When it came.
    pub at: Timestamp,
    /// To which path.
    pub path: String,
    /// Its `Authorization` header; empty without one.
    pub authorization: String,
    /// What it said; a string when it was no JSON.
    pub body: Value,
    /// The status it was answered with.
    pub status: u16,
}

/// A running chat.
#[derive(Debug)]
pub struct Chat {
    inner: Arc<Inner>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    deliveries: Mutex<Vec<Delivery>>,
    status: AtomicU16,
    silent: AtomicBool,
    /// Paths that are answered otherwise.
    of_path: Mutex<BTreeMap<String, u16>>,
}

impl Chat {
    /// Starts one that answers 200.
    pub async fn start() -> Self {
        let inner = Arc::new(Inner {
            deliveries: Mutex::default(),
            status: AtomicU16::new(200),
            silent: AtomicBool::new(false),
            of_path: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let app = Router::new().fallback(take).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { inner, address, task }
    }

    /// A webhook URL; `path` with its slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on it answers so.
    pub fn set_status(&self, status: u16) {
        self.inner.status.store(status, Ordering::Relaxed);
    }

    /// From now on it answers requests to this path so, whatever the others are answered.
    pub fn set_status_of(&self, path: &str, status: u16) {
        let mut of_path = self.inner.of_path.lock().unwrap_or_else(PoisonError::into_inner);
        of_path.insert(path.to_owned(), status);
    }

    /// From now on it takes requests and never answers, or answers again.
    pub fn set_silent(&self, silent: bool) {
        self.inner.silent.store(silent, Ordering::Relaxed);
    }

    /// Everything it was sent, also what it refused or left without an answer, in order.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.inner.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a delivery that fits and was accepted.
    pub async fn wait_for(&self, what: &str, limit: Duration, fits: impl Fn(&Delivery) -> bool) -> Delivery {
        super::eventually(what, limit, async || {
            let fitting = |delivery: &Delivery| (200..300).contains(&delivery.status) && fits(delivery);
            self.deliveries().into_iter().find(fitting)
        })
        .await
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(inner): State<Arc<Inner>>, uri: Uri, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let silent = inner.silent.load(Ordering::Relaxed);
    let of_path = inner
        .of_path
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(uri.path())
        .copied();
    let status = match of_path {
        _ if silent => 0,
        Some(status) => status,
        None => inner.status.load(Ordering::Relaxed),
    };
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    let delivery = Delivery {
        at: super::now(),
        path: uri.path().to_owned(),
        authorization: authorization.unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_else(|_| text()),
        status,
    };
    inner.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    if silent {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), "ok")
}
