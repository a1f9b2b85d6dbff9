//! Users: they send requests to a Service, that is, to the Ready pods its EndpointSlices name at that moment, and write
//! down what came of each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Cluster, node::Node};

/// Users give up after so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was sent.
    pub sent: Timestamp,
    /// When it was answered, or given up.
    pub answered: Timestamp,
    /// Who answered.
    pub color: Option<String>,
    /// How; `None` without an answer, as when there was no Ready endpoint.
    pub status: Option<u16>,
}

impl Record {
    /// Whether a user would call it failed.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}

/// Addresses of the Ready pods by slice.
type Endpoints = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// A stream of requests, from `start` until dropped or stopped.
#[derive(Debug)]
pub struct Traffic {
    records: Arc<Mutex<Vec<Record>>>,
    stop: CancellationToken,
    underway: TaskTracker,
}

impl Traffic {
    /// Sends `per_second` requests a second to a Service's endpoints, in turn.
    pub async fn start(cluster: &Cluster, namespace: &str, service: &str, per_second: u32) -> Self {
        let endpoints = Endpoints::default();
        let stop = CancellationToken::new();
        let follow = follow(
            cluster.admin().await,
            namespace.to_owned(),
            service.to_owned(),
            Arc::clone(&endpoints),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
        let records = Arc::new(Mutex::new(Vec::new()));
        let underway = TaskTracker::new();
        let sender = Sender {
            // Pooled connections are per pod, so that a request always goes where the endpoints say at that moment.
            http: reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client"),
            node: Arc::clone(cluster.node()),
            endpoints,
            records: Arc::clone(&records),
            turn: AtomicUsize::new(0),
        };
        let send = send_steadily(Arc::new(sender), per_second, underway.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(send));
        Self { records, stop, underway }
    }

    /// Every request that has ended, in the order in which they were sent.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
        records.sort_by_key(|record| record.sent);
        records
    }

    /// The first failed request that was sent at `since` or later.
    #[must_use]
    pub fn first_bad(&self, since: Timestamp) -> Option<Record> {
        self.records().into_iter().find(|record| record.sent >= since && record.is_bad())
    }

    /// The failed requests that were sent from `from` on and before `to`.
    #[must_use]
    pub fn bad_between(&self, from: Timestamp, to: Timestamp) -> Vec<Record> {
        let mut records = self.records();
        records.retain(|record| record.sent >= from && record.sent < to && record.is_bad());
        records
    }

    /// How many requests that were sent at `since` or later a color answered well.
    #[must_use]
    pub fn good_of(&self, color: &str, since: Timestamp) -> usize {
        let good = |record: &Record| record.sent >= since && !record.is_bad() && record.color.as_deref() == Some(color);
        self.records().into_iter().filter(good).count()
    }

    /// Waits until a color has answered `count` requests well that were sent from now on.
    pub async fn wait_for(&self, color: &str, count: usize, limit: Duration) {
        let since = super::now();
        super::eventually(&format!("{count} good answers of {color}"), limit, async || {
            (self.good_of(color, since) >= count).then_some(())
        })
        .await;
    }

    /// Sends no more, and waits for the answers that are still due.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.underway.close();
        self.underway.wait().await;
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Sender {
    http: reqwest::Client,
    node: Arc<Node>,
    endpoints: Endpoints,
    records: Arc<Mutex<Vec<Record>>>,
    turn: AtomicUsize,
}

impl Sender {
    async fn send(&self) {
        let sent = super::now();
        let answer = match self.next_url() {
            Some(url) => self.http.get(url).send().await.ok(),
            None => None,
        };
        let record = Record {
            sent,
            answered: super::now(),
            color: answer
                .as_ref()
                .and_then(|answer| answer.headers().get("x-color")?.to_str().ok().map(str::to_owned)),
            status: answer.map(|answer| answer.status().as_u16()),
        };
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    fn next_url(&self) -> Option<String> {
        let slices = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<&String> = slices.values().flatten().collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let ip = all.get(turn % all.len().max(1))?;
        Some(format!("http://{}/work", self.node.resolve(ip)?))
    }
}

async fn send_steadily(sender: Arc<Sender>, per_second: u32, underway: TaskTracker) {
    let mut beat = tokio::time::interval(Duration::from_secs(1) / per_second);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        beat.tick().await;
        let sender = Arc::clone(&sender);
        underway.spawn(async move { sender.send().await });
    }
}

/// Keeps `endpoints` as the API server has them, like a kube-proxy.
async fn follow(client: Client, namespace: String, service: String, endpoints: Endpoints) {
    let slices: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
    let mut events = std::pin::pin!(watcher(slices, config).default_backoff());
    while let Some(event) = events.next().await {
        let mut known = endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(watcher::Event::Apply(slice) | watcher::Event::InitApply(slice)) => {
                known.insert(slice.name_any(), ready_addresses(&slice));
            }
            Ok(watcher::Event::Delete(slice)) => {
                known.remove(&slice.name_any());
            }
            // A relist names every slice that is; those that are gone were told as deleted in all our tests.
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
        }
    }
}

fn ready_addresses(slice: &EndpointSlice) -> Vec<String> {
    let endpoints = slice.endpoints.iter();
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|is| is.ready == Some(true)));
    ready.filter_map(|endpoint| endpoint.addresses.first().cloned()).collect()
}
