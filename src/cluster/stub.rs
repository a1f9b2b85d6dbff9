//! A cluster for tests: its clients are given (usually `tower-test` mocks) and its caches are filled by hand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Client,
    runtime::{
        reflector::{self, store::Writer},
        watcher::Event,
    },
};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, Link,
    caches::{Caches, Heard, Shelf, Signals, Stores, Trouble},
    connect::Clients,
    trim,
    watch::Shared,
};
use crate::{metrics::Metrics, model::settings::ClusterSettings};

/// Fills the caches of a stub cluster; they have no watch and stay as they are filled.
pub(crate) struct Feed {
    pub cluster: Arc<Cluster>,
    namespace: String,
    services: Writer<Service>,
    slices: Writer<EndpointSlice>,
    pods: Writer<Pod>,
    deployments: Writer<Deployment>,
    _link: watch::Sender<Link>,
}

impl Feed {
    /// A cluster with one namespace whose reads and writes go to `client`.
    pub(crate) fn new(namespace: &str, client: &Client) -> Self {
        let signals = Arc::new(Signals::default());
        let (services, services_in) = reflector::store();
        let (slices, slices_in) = reflector::store();
        let (pods, pods_in) = reflector::store();
        let (deployments, deployments_in) = reflector::store();
        let stores = Stores {
            services,
            slices,
            pods,
            deployments,
        };
        let shelf = Shelf::new(namespace, &signals, stores);
        let (up, link) = watch::channel(Link::Up(Arc::new(Clients {
            reads: client.clone(),
            writes: client.clone(),
            watches: client.clone(),
            server: "stub:6443".to_owned(),
            origin: "the stub".to_owned(),
        })));
        let settings = ClusterSettings {
            read_timeout: Duration::from_secs(2),
            flip_timeout: Duration::from_secs(2),
            ..ClusterSettings::default()
        };
        let shared = Shared {
            cluster: String::new(),
            link: link.clone(),
            signals: signals.clone(),
            metrics: Metrics::new().expect("registers"),
            read_timeout: settings.read_timeout,
            watch_for: Duration::from_secs(30),
            stop: CancellationToken::new(),
        };
        let cluster = Cluster {
            settings,
            caches: Caches::new(BTreeMap::from([(namespace.to_owned(), shelf)])),
            link,
            signals,
            shared,
            watches: Mutex::default(),
            _given: None,
        };
        Self {
            cluster: Arc::new(cluster),
            namespace: namespace.to_owned(),
            services: services_in,
            slices: slices_in,
            pods: pods_in,
            deployments: deployments_in,
            _link: up,
        }
    }

    fn shelf(&self) -> Arc<Shelf> {
        let mut shelves = self.cluster.caches.namespaces_for_tests();
        shelves.remove(&self.namespace).expect("made with it")
    }

    /// Marks every cache as listed.
    pub(crate) fn listed(self) -> Self {
        let shelf = self.shelf();
        shelf.services.cell.heard(Heard::List);
        shelf.slices.cell.heard(Heard::List);
        shelf.pods.cell.heard(Heard::List);
        shelf.deployments.cell.heard(Heard::List);
        self
    }

    /// Marks the cache of pods as troubled.
    pub(crate) fn trouble_with_pods(&self, why: &str) {
        self.shelf().pods.cell.troubled(Trouble {
            why: why.to_owned(),
            lasting: false,
        });
    }

    /// Puts an object into its cache, by its `kind`, and says so.
    pub(crate) fn put(&mut self, object: Value) {
        self.smuggle(object);
        self.shelf().services.cell.heard(Heard::Change);
    }

    /// Puts an object into its cache and tells nobody.
    pub(crate) fn smuggle(&mut self, mut object: Value) {
        object["metadata"]["namespace"] = self.namespace.clone().into();
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "Service" => apply(&mut self.services, object, trim::service),
            "EndpointSlice" => apply(&mut self.slices, object, trim::endpoint_slice),
            "Pod" => apply(&mut self.pods, object, trim::pod),
            "Deployment" => apply(&mut self.deployments, object, trim::deployment),
            other => panic!("no cache for {other}"),
        }
    }
}

fn apply<K>(writer: &mut Writer<K>, object: Value, trim: fn(&mut K))
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned,
{
    let mut object: K = serde_json::from_value(object).expect("a valid object");
    trim(&mut object);
    writer.apply_watcher_event(&Event::Apply(object));
}
