//! The users: a seeded stream of requests that follows the Service's EndpointSlice, over real sockets.
//!
//! Each request opens its own connection, as established connections do not move with a selector.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    api::{
        Api,
        kinds::{SLICES, at, text},
    },
    clock,
    node::Network,
};

/// Requests remembered one by one: half an hour at 50 a second.
const SERVED_MAX: usize = 90_000;
/// Requests on their way at a time; beyond that a user gives up at once.
const IN_FLIGHT_MAX: usize = 512;
/// How long a user waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request as a user saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// When it was sent.
    pub at: Timestamp,
    /// Which color answered; `None`: nobody did.
    pub color: Option<String>,
    /// Whether it succeeded.
    pub ok: bool,
    /// How long the user waited.
    pub latency: Duration,
}

/// Every request so far, bounded. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<VecDeque<Served>>>);

impl Ledger {
    fn add(&self, served: Served) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SERVED_MAX {
            all.pop_front();
        }
        all.push_back(served);
    }

    /// A copy, in the order of the answers.
    pub(super) fn all(&self) -> Vec<Served> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Where and how often.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub namespace: String,
    pub service: String,
    /// Requests per second.
    pub rate: f64,
    pub seed: u64,
}

/// Sends until stopped.
pub(super) async fn run(api: Api, network: Network, plan: Plan, ledger: Ledger, stop: CancellationToken) {
    let mut chance = StdRng::seed_from_u64(plan.seed);
    let mut requests = JoinSet::new();
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .no_proxy()
        .timeout(PATIENCE)
        .build();
    let Ok(client) = client else { return };
    let mut due = Instant::now();
    loop {
        due += gap(&mut chance, plan.rate);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        while requests.try_join_next().is_some() {}
        let ready = ready_endpoints(&api, &plan);
        let pick = chance.random_range(0..ready.len().max(1));
        let to = ready.get(pick).and_then(|address| network.resolve(address));
        match to {
            Some(to) if requests.len() < IN_FLIGHT_MAX => {
                requests.spawn(send(client.clone(), format!("http://{to}/work"), ledger.clone()));
            }
            _ => ledger.add(Served {
                at: clock::now(),
                color: None,
                ok: false,
                latency: Duration::ZERO,
            }),
        }
    }
}

/// Independent users come at exponentially distributed gaps.
fn gap(chance: &mut StdRng, rate: f64) -> Duration {
    let uniform: f64 = chance.random_range(f64::EPSILON..1.0);
    Duration::from_secs_f64((-uniform.ln() / rate.max(0.1)).min(1.0))
}

fn ready_endpoints(api: &Api, plan: &Plan) -> Vec<String> {
    let of_service = |slice: &&Arc<Value>| {
        text(slice, &["metadata", "namespace"]) == plan.namespace
            && text(slice, &["metadata", "labels", "kubernetes.io/service-name"]) == plan.service
    };
    api.read(|store| {
        store
            .all(&SLICES)
            .filter(of_service)
            .flat_map(|slice| at(slice, &["endpoints"]).as_array().cloned().unwrap_or_default())
            .filter(|endpoint| at(endpoint, &["conditions", "ready"]) == &Value::Bool(true))
            .filter_map(|endpoint| endpoint.pointer("/addresses/0").and_then(Value::as_str).map(str::to_owned))
            .collect()
    })
}

async fn send(client: reqwest::Client, url: String, ledger: Ledger) {
    let at = clock::now();
    let started = Instant::now();
    let answer = client.get(url).send().await;
    let (ok, color) = match answer {
        Ok(answer) => (answer.status().is_success(), answer.text().await.ok()),
        Err(_) => (false, None),
    };
    ledger.add(Served {
        at,
        color,
        ok,
        latency: started.elapsed(),
    });
}
