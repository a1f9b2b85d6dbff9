//! What stands between the daemon and the API server when a test wants to stop the world at a given step: it hands every
//! request on, and holds the one it was told to, before it is sent or before its answer is given back.
//!
//! What becomes of a held request is the test's to say: sent on, even if its sender has died meanwhile, or never. Whatever
//! was handed on is carried out to its end, as an API server does that has begun a write. It also answers in the API server's
//! place, before or after that has done what it was asked; makes everything late; and cuts, ends or silences watches.

mod watches;

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use self::watches::Watches;
use super::{Cluster, Ground, eventually};

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
    refusals: Mutex<Vec<Refusal>>,
    late: Mutex<Late>,
    watches: Arc<Watches>,
}

/// How late everything is. A request that is late on its way is carried out late, whoever has given it up meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Late {
    /// Each request on its way to the API server.
    pub asked: Duration,
    /// Each answer on its way back, and what a watch tells.
    pub answered: Duration,
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

/// What is answered in the API server's place.
struct Refusal {
    held: Held,
    status: StatusCode,
    fits: Box<dyn Fn(&Asked) -> bool + Send>,
    count: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    left: AtomicUsize,
    done: AtomicUsize,
}

/// The test's end of a refusal.
#[derive(Debug)]
pub struct Refusing(Arc<Count>);

impl Refusing {
    /// From now on the API server answers itself.
    pub fn stop(&self) {
        self.0.left.store(0, Ordering::Relaxed);
    }

    /// How many requests were refused.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Waits until so many were.
    pub async fn wait(&self, count: usize, limit: Duration) {
        eventually(&format!("{count} refused requests"), limit, async || {
            (self.count() >= count).then_some(())
        })
        .await;
    }
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
            refusals: Mutex::default(),
            late: Mutex::default(),
            watches: Arc::default(),
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

impl Toll {
    /// Answers so many requests that fit with a status, in place of the API server or, [`Held::After`], in place of its answer.
    ///
    /// # Panics
    /// When it is no HTTP status.
    #[must_use]
    pub fn refuse(&self, held: Held, status: u16, times: usize, fits: impl Fn(&Asked) -> bool + Send + 'static) -> Refusing {
        let count = Arc::new(Count {
            left: AtomicUsize::new(times),
            done: AtomicUsize::new(0),
        });
        let refusal = Refusal {
            held,
            status: StatusCode::from_u16(status).expect("an HTTP status"),
            fits: Box::new(fits),
            count: Arc::clone(&count),
        };
        self.inner.refusals.lock().unwrap_or_else(PoisonError::into_inner).push(refusal);
        Refusing(count)
    }

    /// Everything that comes from now on is so late.
    pub fn set_late(&self, late: Late) {
        *self.inner.late.lock().unwrap_or_else(PoisonError::into_inner) = late;
    }

    /// Breaks the connection of every watch that there is.
    pub fn cut_watches(&self) {
        self.inner.watches.cut();
    }

    /// Ends every watch that there is, as if its time were over.
    pub fn end_watches(&self) {
        self.inner.watches.end();
    }

    /// Every watch that there is says nothing from now on and is never closed; new ones are well.
    pub fn silence_watches(&self) {
        self.inner.watches.silence();
    }

    /// Every watch ends at once, before it has said anything.
    pub fn set_brief_watches(&self, brief: bool) {
        self.inner.watches.set_brief(brief);
    }

    /// How many watches were asked for.
    #[must_use]
    pub fn watches(&self) -> u64 {
        self.inner.watches.count()
    }

    /// How often the API server told a watch that the version it wants to go on from is gone.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.inner.watches.gone()
    }
}

impl Asked {
    /// Whether it is a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.uri.contains("watch=true")
    }

    /// Whether it is about this path and nothing below.
    #[must_use]
    pub fn is_on(&self, path: &str) -> bool {
        self.uri.split('?').next() == Some(path)
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

impl Inner {
    /// How this request is to be answered in the API server's place.
    fn refusal(&self, asked: &Asked) -> Option<(Held, StatusCode)> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = refusals.iter().find(|refusal| {
            let left = |left: usize| left.checked_sub(1);
            (refusal.fits)(asked) && refusal.count.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
        })?;
        refusal.count.done.fetch_add(1, Ordering::Relaxed);
        Some((refusal.held, refusal.status))
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
    let (bar, refusal) = (inner.bar(&asked), inner.refusal(&asked));
    let late = *inner.late.lock().unwrap_or_else(PoisonError::into_inner);
    // In a task of its own: it goes on when its sender dies.
    let sent = tokio::spawn(async move {
        if let Some((Held::Before, verdict)) = &bar
            && !word(verdict.clone()).await
        {
            return std::future::pending().await;
        }
        tokio::time::sleep(late.asked).await;
        if let Some((Held::Before, status)) = refusal {
            return refused(status);
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
        tokio::time::sleep(late.answered).await;
        match (answer, refusal) {
            (Ok(_), Some((_, status))) => refused(status),
            (Ok(answer), None) => handed_on(&inner.watches, &asked, answer, late.answered),
            (Err(error), _) => (StatusCode::BAD_GATEWAY, error.without_url().to_string()).into_response(),
        }
    });
    sent.await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
}

fn handed_on(watches: &Arc<Watches>, asked: &Asked, answer: reqwest::Response, late: Duration) -> Response {
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    let body = if asked.is_watch() {
        watches.carry(answer, late)
    } else {
        Body::from_stream(answer.bytes_stream())
    };
    response.body(body).expect("a response")
}

/// An answer as the API server gives it; one that is busy says for how long.
fn refused(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or_default();
    let said = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status.as_u16(),
        "reason": reason.replace(' ', ""), "message": format!("the test says: {reason}"),
    });
    let mut response = (status, axum::Json(said)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static("30"));
    }
    response
}
