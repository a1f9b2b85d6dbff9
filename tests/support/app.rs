//! A small real application: `/work` for users, `/health` for probes, `/metrics` for Prometheus.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::{net::TcpListener, task::JoinHandle};

/// The client library's usual buckets, with 2 s besides.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0];

/// One instance of one color.
#[derive(Debug)]
pub struct App {
    inner: Arc<Inner>,
    address: SocketAddr,
    listening: Mutex<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    color: String,
    ageless: bool,
    meters: Mutex<Arc<Meters>>,
    served: AtomicU64,
    errors: Share,
    slow: Share,
    slow_millis: AtomicU64,
    sick: AtomicBool,
    down: AtomicBool,
    stamped: AtomicBool,
}

/// What a process has counted since it started.
#[derive(Debug)]
struct Meters {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
}

/// A fraction that is met exactly and evenly: of any n requests in a row, n times the share, give or take one.
#[derive(Debug, Default)]
struct Share(AtomicU64);

impl Share {
    fn set(&self, share: f64) {
        assert!((0.0..=1.0).contains(&share), "{share} is no fraction");
        self.0.store(share.to_bits(), Ordering::Relaxed);
    }

    fn takes(&self, nth: u64) -> bool {
        let share = f64::from_bits(self.0.load(Ordering::Relaxed));
        ((nth + 1) as f64 * share).floor() > (nth as f64 * share).floor()
    }
}

impl App {
    /// Starts a good one on a free loopback port.
    pub async fn start(color: &str) -> Self {
        Self::start_as(color, false).await
    }

    /// The same without `process_start_time_seconds`: nobody can tell how old it is.
    pub async fn start_ageless(color: &str) -> Self {
        Self::start_as(color, true).await
    }

    async fn start_as(color: &str, ageless: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let inner = Arc::new(Inner::new(color, ageless));
        let listening = Mutex::new(serve(listener, &inner));
        Self { inner, address, listening }
    }

    /// Its color.
    #[must_use]
    pub fn color(&self) -> &str {
        &self.inner.color
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this fraction of requests is answered with 500.
    pub fn set_errors(&self, share: f64) {
        self.inner.errors.set(share);
    }

    /// From now on this fraction of requests takes at least so long.
    pub fn set_latency(&self, share: f64, at_least: Duration) {
        let millis = u64::try_from(at_least.as_millis()).expect("a sensible time");
        self.inner.slow_millis.store(millis, Ordering::Relaxed);
        self.inner.slow.set(share);
    }

    /// From now on `/health` says 200 or 503.
    pub fn set_healthy(&self, healthy: bool) {
        self.inner.sick.store(!healthy, Ordering::Relaxed);
    }

    /// Counts so many failed requests at once, as a burst between two scrapes does.
    pub fn count_errors(&self, count: u64) {
        let meters = self.inner.meters();
        meters.requests.with_label_values(&["GET", "/work", "500"]).inc_by(count);
    }

    /// From now on every sample carries its time. Prometheus then writes no marker when the target dies, so the last
    /// sample is answered for another five minutes.
    pub fn stamp_samples(&self) {
        self.inner.stamped.store(true, Ordering::Relaxed);
    }

    /// Another process takes its place, at the same address: counters from 0, and a start time of its own.
    pub async fn restart(&self) {
        self.take_down();
        *self.inner.lock_meters() = Arc::new(Meters::new(self.inner.ageless));
        self.bring_up().await;
    }

    /// Stops listening: new connections are refused, old ones are ended.
    pub fn take_down(&self) {
        self.inner.down.store(true, Ordering::Relaxed);
        self.listening().abort();
    }

    /// Listens again at the same address.
    pub async fn bring_up(&self) {
        let listener = super::eventually("the application's port", Duration::from_secs(5), async || {
            TcpListener::bind(self.address).await.ok()
        })
        .await;
        self.inner.down.store(false, Ordering::Relaxed);
        *self.listening() = serve(listener, &self.inner);
    }

    fn listening(&self) -> MutexGuard<'_, JoinHandle<()>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.take_down();
    }
}

impl Inner {
    fn new(color: &str, ageless: bool) -> Self {
        Self {
            color: color.to_owned(),
            ageless,
            meters: Mutex::new(Arc::new(Meters::new(ageless))),
            served: AtomicU64::new(0),
            errors: Share::default(),
            slow: Share::default(),
            slow_millis: AtomicU64::new(0),
            sick: AtomicBool::new(false),
            down: AtomicBool::new(false),
            stamped: AtomicBool::new(false),
        }
    }

    fn lock_meters(&self) -> MutexGuard<'_, Arc<Meters>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.lock_meters())
    }
}

impl Meters {
    fn new(ageless: bool) -> Self {
        let registry = Registry::new();
        let requests =
            IntCounterVec::new(Opts::new("http_requests_total", "Requests."), &["method", "path", "status"]).expect("a sound metric");
        let options = HistogramOpts::new("http_request_duration_seconds", "Time of a request.").buckets(BUCKETS.to_vec());
        let durations = HistogramVec::new(options, &["method", "path"]).expect("a sound metric");
        registry.register(Box::new(requests.clone())).expect("names differ");
        registry.register(Box::new(durations.clone())).expect("names differ");
        if !ageless {
            let started = Gauge::new("process_start_time_seconds", "Start of the process.").expect("a sound metric");
            started.set(super::now().as_millisecond() as f64 / 1000.0);
            registry.register(Box::new(started)).expect("names differ");
        }
        Self {
            registry,
            requests,
            durations,
        }
    }
}

fn serve(listener: TcpListener, inner: &Arc<Inner>) -> JoinHandle<()> {
    let app = Router::new()
        .route("/work", get(work))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(inner), end_when_down))
        .with_state(Arc::clone(inner));
    tokio::spawn(async move {
        let _ = axum::serve(listener, app).await;
    })
}

/// A connection that outlived the listener must not bear witness for an application that is gone.
async fn end_when_down(State(inner): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    if inner.down.load(Ordering::Relaxed) {
        return (StatusCode::BAD_GATEWAY, [(header::CONNECTION, "close")]).into_response();
    }
    next.run(request).await
}

async fn work(State(inner): State<Arc<Inner>>) -> Response {
    let begun = tokio::time::Instant::now();
    // The process that took the request counts it, or it is lost with that process.
    let meters = inner.meters();
    let nth = inner.served.fetch_add(1, Ordering::Relaxed);
    if inner.slow.takes(nth) {
        tokio::time::sleep(Duration::from_millis(inner.slow_millis.load(Ordering::Relaxed))).await;
    }
    let status = if inner.errors.takes(nth) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    meters.requests.with_label_values(&["GET", "/work", status.as_str()]).inc();
    meters
        .durations
        .with_label_values(&["GET", "/work"])
        .observe(begun.elapsed().as_secs_f64());
    (status, [("x-color", inner.color.clone())], format!("{}\n", inner.color)).into_response()
}

async fn health(State(inner): State<Arc<Inner>>) -> Response {
    if inner.sick.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "sick\n").into_response()
    } else {
        (StatusCode::OK, "ok\n").into_response()
    }
}

async fn metrics(State(inner): State<Arc<Inner>>) -> Response {
    let mut text = TextEncoder::new()
        .encode_to_string(&inner.meters().registry.gather())
        .expect("sound families");
    if inner.stamped.load(Ordering::Relaxed) {
        let at = super::now().as_millisecond();
        let stamp = |line: &str| {
            if line.starts_with('#') {
                format!("{line}\n")
            } else {
                format!("{line} {at}\n")
            }
        };
        text = text.lines().map(stamp).collect();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
