//! The application that runs in the sandbox's pods: a small real HTTP server with real metrics, whose faults can be set.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{clock, logs::Logs};

/// Bounds of the latency histogram: Prometheus' defaults, with 2 s in the place of 2.5 s.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];
/// A healthy answer takes between these, in milliseconds.
const HEALTHY_MS: std::ops::Range<u64> = 3..25;

/// What is wrong with a color's application.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// Share of requests answered 500, as a fraction.
    pub errors: f64,
    /// Share of requests that are slow, as a fraction.
    pub slow: f64,
    /// How long a slow request takes on top.
    pub delay: Duration,
    /// The process is gone: no port, no Ready pod.
    pub crashed: bool,
}

/// The present fault of every color. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<BTreeMap<String, Fault>>>);

impl Faults {
    pub(super) fn set(&self, color: &str, fault: Fault) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(color.to_owned(), fault);
    }

    pub(super) fn of(&self, color: &str) -> Fault {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(color).copied().unwrap_or_default()
    }
}

/// Who an application is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub pod: String,
    pub color: String,
    pub image: String,
    pub seed: u64,
}

struct App {
    who: Identity,
    faults: Faults,
    logs: Logs,
    chance: Mutex<StdRng>,
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
}

/// The application's server, as yet without a port.
///
/// # Errors
/// Two metrics share a name, which a test excludes.
pub(super) fn router(who: Identity, faults: Faults, logs: Logs) -> Result<Router, prometheus::Error> {
    let registry = Registry::new();
    let requests = IntCounterVec::new(
        Opts::new("http_requests_total", "Requests by method and status."),
        &["method", "status"],
    )?;
    let durations = HistogramVec::new(
        HistogramOpts::new("http_request_duration_seconds", "Time of requests.").buckets(BUCKETS.to_vec()),
        &["method"],
    )?;
    let started = Gauge::new(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
    )?;
    registry.register(Box::new(requests.clone()))?;
    registry.register(Box::new(durations.clone()))?;
    registry.register(Box::new(started.clone()))?;
    // Every language's client library creates the common series at start, so that the first request counts from 0.
    requests.with_label_values(&["GET", "200"]);
    durations.with_label_values(&["GET"]);
    started.set(clock::now().as_duration().as_secs_f64());
    logs.say(
        &who.pod,
        clock::now(),
        format!("level=info msg=\"listening on :8080\" image={}", who.image),
    );
    let app = App {
        chance: Mutex::new(StdRng::seed_from_u64(who.seed)),
        who,
        faults,
        logs,
        registry,
        requests,
        durations,
    };
    Ok(Router::new()
        .route("/metrics", get(expose))
        .route("/health", get(|| async { "ok" }))
        .route("/work", get(work))
        .with_state(Arc::new(app)))
}

async fn expose(State(app): State<Arc<App>>) -> Response {
    match TextEncoder::new().encode_to_string(&app.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn work(State(app): State<Arc<App>>) -> Response {
    let started = Instant::now();
    let fault = app.faults.of(&app.who.color);
    let (fails, takes) = app.roll(&fault);
    tokio::time::sleep(takes).await;
    let status = if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let took = started.elapsed();
    app.requests.with_label_values(&["GET", status.as_str()]).inc();
    app.durations.with_label_values(&["GET"]).observe(took.as_secs_f64());
    app.note(status, took);
    (status, app.who.color.clone()).into_response()
}

impl App {
    fn roll(&self, fault: &Fault) -> (bool, Duration) {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = chance.random_bool(fault.errors.clamp(0.0, 1.0));
        let slow = chance.random_bool(fault.slow.clamp(0.0, 1.0));
        let healthy = Duration::from_millis(chance.random_range(HEALTHY_MS));
        (fails, if slow { healthy + fault.delay } else { healthy })
    }

    fn note(&self, status: StatusCode, took: Duration) {
        let line = if status.is_success() {
            format!(
                "level=info method=GET path=/work status={} took={}ms",
                status.as_u16(),
                took.as_millis()
            )
        } else {
            format!(
                "level=error method=GET path=/work status={} took={}ms msg=\"query failed: column \\\"total_cents\\\" does not exist\"",
                status.as_u16(),
                took.as_millis()
            )
        };
        self.logs.say(&self.who.pod, clock::now(), line);
    }
}
