//! What stands between the daemon and the API server when a test wants to stop the world at a given step: it hands every
//! request on, and holds the one it was told to, before it is sent or before its answer is given back.
//!
//! What becomes of a held request is the test's to say: sent on, even if its sender has died meanwhile, or never. Whatever
//! was handed on is carried out to its end, as an API server does that has begun a write.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
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
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{Cluster, Ground};

/// Where a request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The API server has not seen it.
    Before,
    /// The API server has carried it out, and nobody has seen the answer.
    After,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`, `PATCH`, ...
    pub method: String,
    /// With its query.
    pub uri: String,
}

/// A running toll house.
#[derive(Debug)]
pub struct Toll {
    inner: Arc<Inner>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Inner {
    upstream: String,
    http: reqwest::Client,
    bars: Mutex<Vec<Bar>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// What is to be held.
struct Bar {
    held: Held,
    fits: Box<dyn Fn(&Asked) -> bool + Send>,
    caught: mpsc::UnboundedSender<Asked>,
    verdict: watch::Receiver<Option<bool>>,
    open: Arc<AtomicBool>,
}

/// The test's end of a bar. Dropped, nothing that it holds is ever sent on.
#[derive(Debug)]
pub struct Lever {
    caught: mpsc::UnboundedReceiver<Asked>,
    verdict: watch::Sender<Option<bool>>,
    open: Arc<AtomicBool>,
}

impl Toll {
    /// Opens one on the road from a daemon to the API server; it takes the road from its next start on.
    ///
    /// # Panics
    /// When the kubeconfig is none of ours.
    pub async fn before(ground: &Ground) -> Self {
        let toll = Self::start(&ground.cluster).await;
        let direct = ground.kubeconfig();
        let text = std::fs::read_to_string(&direct).expect("our own kubeconfig");
        let over: PathBuf = ground
            .folder
            .write("over-the-toll.yaml", text.replace(ground.cluster.url(), &toll.url()));
        ground.edit(&direct.display().to_string(), &over.display().to_string());
        toll
    }

    async fn start(cluster: &Cluster) -> Self {
        super::install_tls();
        let ca = std::fs::read(cluster.ca()).expect("our own authority");
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("our own authority")])
            .no_proxy()
            .build()
            .expect("a client");
        let inner = Arc::new(Inner {
            upstream: cluster.url().to_owned(),
            http,
            bars: Mutex::default(),
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
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on holds every request that fits.
    #[must_use]
    pub fn hold(&self, held: Held, fits: impl Fn(&Asked) -> bool + Send + 'static) -> Lever {
        let (caught, receiver) = mpsc::unbounded_channel();
        let (sender, verdict) = watch::channel(None);
        let open = Arc::new(AtomicBool::new(false));
        let bar = Bar {
            held,
            fits: Box::new(fits),
            caught,
            verdict,
            open: Arc::clone(&open),
        };
        self.inner.bars.lock().unwrap_or_else(PoisonError::into_inner).push(bar);
        Lever {
            caught: receiver,
            verdict: sender,
            open,
        }
    }
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lever {
    /// Lets whatever comes from now on pass; what is held stays so.
    pub fn no_more(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Waits until something is held.
    ///
    /// # Panics
    /// When nothing is in time.
    pub async fn caught(&mut self, limit: Duration) -> Asked {
        let caught = tokio::time::timeout(limit, self.caught.recv()).await;
        caught.expect("a request to hold").expect("the toll house is open")
    }

    /// Sends on what is held, and whatever would have been.
    pub fn lift(&self) {
        self.verdict.send_replace(Some(true));
    }

    /// What is held is never sent on, or never answered; what comes later passes.
    pub fn lose(&self) {
        self.verdict.send_replace(Some(false));
    }
}

impl Inner {
    /// The bar that this request stops at.
    fn bar(&self, asked: &Asked) -> Option<(Held, watch::Receiver<Option<bool>>)> {
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |bar: &&Bar| {
            let given = bar.verdict.borrow().is_some() || bar.verdict.has_changed().is_err() || bar.open.load(Ordering::Relaxed);
            !given && (bar.fits)(asked)
        };
        let bar = bars.iter().find(holds)?;
        let _ = bar.caught.send(asked.clone());
        Some((bar.held, bar.verdict.clone()))
    }
}

/// Waits for the test's word; `false`: lost.
async fn word(mut verdict: watch::Receiver<Option<bool>>) -> bool {
    verdict.wait_for(Option::is_some).await.is_ok_and(|verdict| *verdict == Some(true))
}

async fn pass(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let asked = Asked {
        method: method.to_string(),
        uri: uri.to_string(),
    };
    let bar = inner.bar(&asked);
    // In a task of its own: it goes on when its sender dies.
    let sent = tokio::spawn(async move {
        if let Some((Held::Before, verdict)) = &bar
            && !word(verdict.clone()).await
        {
            return std::future::pending().await;
        }
        let mut request = inner.http.request(method, format!("{}{uri}", inner.upstream)).body(body);
        for name in ["authorization", "accept", "content-type", "user-agent"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await;
        if let Some((Held::After, verdict)) = bar
            && !word(verdict).await
        {
            return std::future::pending().await;
        }
        answer
    });
    let answer = match sent.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    response.body(Body::from_stream(answer.bytes_stream())).expect("a response")
}
