//! The world as one value: started, watched, hurt, and ended when dropped.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    api::{
        self, Api, AuditEntry, Failure, Key, User,
        kinds::{DEPLOYMENTS, Kind, PODS, SERVICES, SLICES, at, text},
    },
    app::{Fault, Faults},
    chat::{Chats, Message},
    clock, controllers,
    listen::{Ending, Listening},
    logs::Logs,
    node::{Network, Node, PORT},
    populate::Who,
    prometheus::Prometheus,
    traffic::{self, Ledger, Served},
};
use crate::model::Clock;

/// How long the world may take to become ready; it takes some hundred milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often readiness is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How the world shall be.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// The same seed gives the same sequence of users and faults.
    pub seed: u64,
    /// 2 = everything that waits or scrapes does so twice as fast, and twice the users come.
    pub speed: f64,
    /// Namespace of everything.
    pub namespace: String,
    /// The active Service, and the application's name.
    pub service: String,
    /// Pods per color.
    pub replicas: u8,
    /// Users' requests per second, before `speed`.
    pub rate: f64,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            speed: 1.0,
            namespace: "shop".to_owned(),
            service: "web".to_owned(),
            replicas: 2,
            rate: 40.0,
        }
    }
}

/// Why the sandbox could not do something.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A port or a file could not be had.
    #[error("failed to {attempted}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The embedded API server said no.
    #[error("the sandbox's API server refused to {attempted}: {message}")]
    Refused {
        /// What was attempted.
        attempted: String,
        /// Its answer.
        message: String,
    },
    /// The world did not become as awaited.
    #[error("waited {waited:?} in vain for {awaited}")]
    Late {
        /// For what.
        awaited: String,
        /// How long.
        waited: Duration,
    },
}

pub(super) fn io(attempted: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Io { attempted, source }
}

pub(super) fn refused(attempted: String) -> impl FnOnce(Failure) -> SandboxError {
    move |failure| SandboxError::Refused {
        attempted,
        message: failure.message,
    }
}

/// A running world. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    pub(super) options: SandboxOptions,
    pub(super) api: Api,
    server: Option<Listening>,
    address: SocketAddr,
    faults: Faults,
    network: Network,
    prometheus: Prometheus,
    chats: Chats,
    ledger: Ledger,
    users: AtomicBool,
    folder: TempDir,
    stop: CancellationToken,
    _ends_everything: DropGuard,
}

impl Sandbox {
    /// Starts the world and returns when both colors are Ready and blue is active. No user comes yet.
    ///
    /// # Errors
    /// [`SandboxError`] when a port or the temporary folder cannot be had.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let stop = CancellationToken::new();
        let ends_everything = stop.clone().drop_guard();
        let (logs, faults) = (Logs::default(), Faults::default());
        let preview = format!("{}-preview", options.service);
        let api = Api::new(
            &options.namespace,
            &[&options.service, &preview],
            logs.clone(),
            Clock::new(clock::now),
        );
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Listening::start(loopback, api::router(api.clone()), Ending::Graceful)
            .await
            .map_err(io("start the sandbox's API server"))?;
        // Room for both colors, both colors' next release, and a scale-up.
        let capacity = options.replicas.saturating_mul(4).saturating_add(2);
        let ready_after = Duration::from_millis(600).div_f64(options.speed.max(0.1));
        let (node, network) = Node::new(api.clone(), logs, faults.clone(), capacity, ready_after, options.seed)
            .map_err(io("reserve ports for the sandbox's pods"))?;
        let every = Duration::from_secs(1).div_f64(options.speed.max(0.1));
        let prometheus = Prometheus::start(api.clone(), network.clone(), every)
            .await
            .map_err(io("start the sandbox's Prometheus"))?;
        let chats = Chats::start().await.map_err(io("start the sandbox's chats"))?;
        tokio::spawn(controllers::run(api.clone(), stop.clone()));
        tokio::spawn(node.run(stop.clone()));
        let made = Self {
            address: server.address(),
            server: Some(server),
            faults,
            network,
            prometheus,
            chats,
            ledger: Ledger::default(),
            users: AtomicBool::new(false),
            folder: tempfile::Builder::new()
                .prefix("flipback-sandbox-")
                .tempdir()
                .map_err(io("make a temporary folder"))?,
            stop,
            _ends_everything: ends_everything,
            options,
            api,
        };
        made.write_kubeconfigs()?;
        made.populate()?;
        let replicas = usize::from(made.options.replicas);
        made.until("both colors to be Ready", |sandbox| {
            let settled = |color: &str| sandbox.ready(color) == replicas && sandbox.deployed(color) == replicas;
            settled("blue") && settled("green") && sandbox.routed().len() == replicas
        })
        .await?;
        Ok(made)
    }

    /// Lets users come; they follow the active Service until the world ends.
    pub fn open(&self) {
        if self.users.swap(true, Ordering::SeqCst) {
            return;
        }
        let plan = traffic::Plan {
            namespace: self.options.namespace.clone(),
            service: self.options.service.clone(),
            rate: self.options.rate * self.options.speed,
            seed: self.options.seed,
        };
        tokio::spawn(traffic::run(
            self.api.clone(),
            self.network.clone(),
            plan,
            self.ledger.clone(),
            self.stop.clone(),
        ));
    }

    /// Kubeconfig of the daemon.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of(Who::Flipback)
    }

    /// Kubeconfig of anybody.
    #[must_use]
    pub fn kubeconfig_of(&self, who: Who) -> PathBuf {
        self.folder.path().join(who.file())
    }

    /// A folder that lives as long as the world.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Base URL of the API server.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Base URL of the stand-in for Prometheus.
    #[must_use]
    pub fn prometheus_url(&self) -> String {
        self.prometheus.url()
    }

    /// Webhook URL of `slack`, `teams` or `webhook`.
    #[must_use]
    pub fn chat_url(&self, chat: &str) -> String {
        self.chats.url(chat)
    }

    /// Where probes of pod addresses must go: both `address` and `address:port` are known.
    #[must_use]
    pub fn probe_resolve(&self) -> BTreeMap<String, SocketAddr> {
        let both = |(address, to): (&String, &SocketAddr)| [(address.clone(), *to), (format!("{address}:{PORT}"), *to)];
        self.network.all().iter().flat_map(both).collect()
    }

    /// What the stand-in for Prometheus scrapes: the labels of each running pod and where it listens.
    #[must_use]
    pub fn scrape_targets(&self) -> Vec<(BTreeMap<String, String>, SocketAddr)> {
        self.prometheus.targets()
    }

    /// Every write anybody asked the API server for, oldest first.
    #[must_use]
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.api.audit()
    }

    /// The user under whose name the daemon's writes are on the audit record.
    #[must_use]
    pub fn daemon_user(&self) -> &'static str {
        User::Flipback.name()
    }

    /// Every request of the users so far.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        self.ledger.all()
    }

    /// What the chats got, oldest first.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.chats.messages()
    }

    /// Sends one user's request to every pod of a color, Ready or not; returns when all are answered.
    pub async fn visit(&self, color: &str) {
        let of_color = |(labels, _): &(BTreeMap<String, String>, SocketAddr)| {
            labels
                .get("pod")
                .is_some_and(|pod| pod.starts_with(&format!("{}-{color}-", self.options.service)))
        };
        let visits = self
            .scrape_targets()
            .into_iter()
            .filter(of_color)
            .map(|(_, to)| reqwest::get(format!("http://{to}/work")));
        futures::future::join_all(visits).await;
    }

    /// Sets what is wrong with a color's application.
    pub fn hurt(&self, color: &str, fault: Fault) {
        self.faults.set(color, fault);
    }

    /// The color the active Service selects.
    #[must_use]
    pub fn active(&self) -> String {
        let service = self.api.read(|store| store.get(&self.key(&SERVICES, &self.options.service)));
        service
            .map(|service| text(&service, &["spec", "selector", "color"]).to_owned())
            .unwrap_or_default()
    }

    /// Somebody outside moves the Service (and the preview the other way), under their field manager.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when the API server does.
    pub fn switch(&self, color: &str, manager: &str) -> Result<(), SandboxError> {
        let other = if color == "blue" { "green" } else { "blue" };
        let preview = format!("{}-preview", self.options.service);
        for (service, to) in [(&self.options.service, color), (&preview, other)] {
            let patch = json!({ "spec": { "selector": { "color": to } } });
            self.api
                .act(manager, manager, &self.key(&SERVICES, service), &patch)
                .map_err(refused(format!("switch Service {service:?}")))?;
        }
        Ok(())
    }

    /// Somebody scales a color.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when the API server does.
    pub fn scale(&self, color: &str, replicas: u8) -> Result<(), SandboxError> {
        let deployment = format!("{}-{color}", self.options.service);
        let patch = json!({ "spec": { "replicas": replicas } });
        self.api
            .act("operator", "kubectl-scale", &self.key(&DEPLOYMENTS, &deployment), &patch)
            .map(|_| ())
            .map_err(refused(format!("scale Deployment {deployment:?}")))
    }

    /// Ready pods of a color.
    #[must_use]
    pub fn ready(&self, color: &str) -> usize {
        let is_ready = |pod: &&Arc<Value>| {
            let conditions = at(pod, &["status", "conditions"]).as_array();
            text(pod, &["metadata", "labels", "color"]) == color
                && conditions
                    .into_iter()
                    .flatten()
                    .any(|one| text(one, &["type"]) == "Ready" && text(one, &["status"]) == "True")
        };
        self.api.read(|store| store.all(&PODS).filter(is_ready).count())
    }

    /// Ready replicas as the color's Deployment tells them.
    fn deployed(&self, color: &str) -> usize {
        let key = self.key(&DEPLOYMENTS, &format!("{}-{color}", self.options.service));
        let deployment = self.api.read(|store| store.get(&key));
        let ready = deployment.ok().and_then(|found| at(&found, &["status", "readyReplicas"]).as_u64());
        usize::try_from(ready.unwrap_or_default()).unwrap_or_default()
    }

    /// Addresses the active Service's EndpointSlice holds.
    #[must_use]
    pub fn routed(&self) -> Vec<String> {
        let mine = |slice: &&Arc<Value>| text(slice, &["metadata", "labels", "kubernetes.io/service-name"]) == self.options.service;
        self.api.read(|store| {
            store
                .all(&SLICES)
                .filter(mine)
                .flat_map(|slice| at(slice, &["endpoints"]).as_array().cloned().unwrap_or_default())
                .filter_map(|endpoint| endpoint.pointer("/addresses/0").and_then(Value::as_str).map(str::to_owned))
                .collect()
        })
    }

    /// Prometheus dies.
    pub async fn stop_prometheus(&mut self) {
        self.prometheus.stop().await;
    }

    /// Prometheus comes back under its address, with the samples it had.
    ///
    /// # Errors
    /// [`SandboxError::Io`] when its port was taken meanwhile.
    pub async fn start_prometheus(&mut self) -> Result<(), SandboxError> {
        self.prometheus.resume().await.map_err(io("restart the sandbox's Prometheus"))
    }

    /// The API server dies; the cluster lives on.
    pub async fn stop_api(&mut self) {
        self.api.end();
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// The API server comes back under its address.
    ///
    /// # Errors
    /// [`SandboxError::Io`] when its port was taken meanwhile.
    pub async fn start_api(&mut self) -> Result<(), SandboxError> {
        if self.server.is_some() {
            return Ok(());
        }
        self.api = self.api.reborn();
        let router = api::router(self.api.clone());
        let server = Listening::start(self.address, router, Ending::Graceful).await;
        self.server = Some(server.map_err(io("restart the sandbox's API server"))?);
        Ok(())
    }

    /// The API server forgets its history, as after etcd's compaction: watches from older versions expire.
    pub fn compact(&self) {
        self.api.compact();
    }

    /// Waits until the world is as told.
    ///
    /// # Errors
    /// [`SandboxError::Late`] when it does not become so.
    pub async fn until(&self, awaited: &str, holds: impl Fn(&Self) -> bool) -> Result<(), SandboxError> {
        let look = async {
            while !holds(self) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(START_TIMEOUT, look).await.map_err(|_| SandboxError::Late {
            awaited: awaited.to_owned(),
            waited: START_TIMEOUT,
        })
    }

    fn key(&self, kind: &'static Kind, name: &str) -> Key {
        Key {
            kind,
            namespace: self.options.namespace.clone(),
            name: name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn small() -> Sandbox {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Sandbox::start(SandboxOptions {
            speed: 5.0,
            ..SandboxOptions::default()
        })
        .await
        .expect("starts")
    }

    #[tokio::test]
    async fn users_follow_the_service() {
        let sandbox = small().await;
        sandbox.open();
        sandbox.until("blue to serve", |s| s.served().len() > 10).await.expect("served");
        assert!(sandbox.served().iter().all(|one| one.ok && one.color.as_deref() == Some("blue")));
        sandbox.switch("green", "kubectl").expect("switched");
        let green = |s: &Sandbox| s.served().last().is_some_and(|one| one.color.as_deref() == Some("green"));
        sandbox.until("green to serve", green).await.expect("served");
        assert_eq!(sandbox.audit().len(), 2);
    }

    #[tokio::test]
    async fn a_crashed_color_has_no_ready_pod_and_comes_back() {
        let sandbox = small().await;
        let address = sandbox.routed().first().cloned().expect("routed");
        let port = sandbox.probe_resolve().get(&address).copied().expect("known");
        sandbox.hurt(
            "blue",
            Fault {
                crashed: true,
                ..Fault::default()
            },
        );
        sandbox.until("blue to be down", |s| s.ready("blue") == 0).await.expect("down");
        assert!(tokio::net::TcpStream::connect(port).await.is_err());
        sandbox.hurt("blue", Fault::default());
        sandbox.until("blue to be back", |s| s.ready("blue") == 2).await.expect("back");
        assert!(tokio::net::TcpStream::connect(port).await.is_ok());
    }

    #[tokio::test]
    async fn a_color_scaled_to_nothing_leaves_no_endpoint_and_scales_up_again() {
        let sandbox = small().await;
        sandbox.scale("blue", 0).expect("scaled");
        sandbox.until("no endpoint", |s| s.routed().is_empty()).await.expect("gone");
        sandbox.scale("blue", 2).expect("scaled");
        sandbox
            .until("endpoints", |s| s.ready("blue") == 2 && s.routed().len() == 2)
            .await
            .expect("back");
    }

    async fn asked(sandbox: &Sandbox, query: &str) -> Option<Value> {
        let url = format!("{}/api/v1/query", sandbox.prometheus_url());
        let client = reqwest::Client::new();
        let answer = client.post(url).form(&[("query", query)]).send().await.ok()?;
        answer.json().await.ok()
    }

    async fn value(sandbox: &Sandbox, query: &str) -> f64 {
        let answer = asked(sandbox, query).await.unwrap_or_default();
        let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    #[tokio::test]
    async fn prometheus_counts_what_users_saw_and_forgets_nothing_while_down() {
        let mut sandbox = small().await;
        sandbox.hurt(
            "blue",
            Fault {
                errors: 1.0,
                ..Fault::default()
            },
        );
        sandbox.open();
        let query = r#"sum(http_requests_total{pod=~"web-blue-.+",status="500"})"#;
        let start = tokio::time::Instant::now();
        while value(&sandbox, query).await < 20.0 {
            assert!(start.elapsed() < START_TIMEOUT, "errors are scraped");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(value(&sandbox, "sum(up)").await > 3.5);
        sandbox.stop_prometheus().await;
        assert!(asked(&sandbox, query).await.is_none());
        sandbox.start_prometheus().await.expect("restarts");
        assert!(value(&sandbox, query).await >= 20.0);
        let refused = asked(&sandbox, "holt_winters(a)").await.expect("answers");
        assert_eq!(refused["errorType"], "bad_data");
    }
}
