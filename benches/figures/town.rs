//! Many shops: for each two Deployments, two Services and a Ready pod per color, as API objects; one application that is
//! scraped in the name of every pod.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    daemon::Guard,
    support::{App, Cluster, Prometheus, Target, eventually, node::NODE},
};

/// A few teams.
const NAMESPACES: usize = 5;
/// Objects that are made at once.
const AT_ONCE: usize = 16;
/// Hundreds of Services get endpoints at the pace of the controllers.
const LIMIT: Duration = Duration::from_secs(180);
/// The usual time between two scrapes; every second would leave nothing of two cores for the rest.
const SCRAPE: Duration = Duration::from_secs(15);
/// Users' requests per second; every pod seems to get them all.
const RATE: u32 = 20;

/// The town, until dropped.
pub struct Town {
    /// A guard per shop.
    pub guards: Vec<Guard>,
    /// Scrapes every pod.
    pub prometheus: Prometheus,
    _app: App,
    users: tokio::task::JoinHandle<()>,
}

impl Drop for Town {
    fn drop(&mut self) {
        self.users.abort();
    }
}

impl Town {
    /// Builds one; returns when every active Service has its endpoint and every pod was scraped.
    pub async fn build(cluster: &Arc<Cluster>, shops: usize) -> Self {
        let guards = open(cluster, shops).await;
        let admin = cluster.admin().await;
        let app = App::start("town").await;
        let users = tokio::spawn(visit(format!("http://{}/work", app.address())));
        let labels = |guard: &Guard, color: &str| {
            let pod = pod_name(guard, color);
            Target::new(
                app.address(),
                &[("namespace", guard.namespace.as_str()), ("pod", &pod), ("container", "app")],
            )
        };
        let targets: Vec<Target> = guards
            .iter()
            .flat_map(|guard| ["blue", "green"].map(|color| labels(guard, color)))
            .collect();
        let prometheus = Prometheus::start_every(SCRAPE, &targets).await;
        settled(&admin, &guards).await;
        Self {
            guards,
            prometheus,
            _app: app,
            users,
        }
    }
}

/// Makes the objects of all shops, without anybody who scrapes them; their Services may have no endpoints yet.
pub async fn open(cluster: &Arc<Cluster>, shops: usize) -> Vec<Guard> {
    let mut guards = Vec::new();
    for quarter in 0..NAMESPACES {
        let namespace = cluster.namespace("town").await;
        guards.extend((quarter..shops).step_by(NAMESPACES).map(|n| Guard {
            namespace: namespace.clone(),
            name: format!("shop-{n:03}"),
        }));
    }
    let admin = cluster.admin().await;
    stream::iter(&guards)
        .for_each_concurrent(AT_ONCE, async |guard| found(&admin, guard).await)
        .await;
    guards
}

/// Makes the objects of one shop.
async fn found(admin: &Client, guard: &Guard) {
    let namespace = guard.namespace.as_str();
    let (services, deployments, pods): (Api<Service>, Api<Deployment>, Api<Pod>) = (
        Api::namespaced(admin.clone(), namespace),
        Api::namespaced(admin.clone(), namespace),
        Api::namespaced(admin.clone(), namespace),
    );
    for (service, color) in [("active", "blue"), ("preview", "green")] {
        let object = from(json!({
            "metadata": {"name": format!("{}-{service}", guard.name), "labels": {"app": guard.name}},
            "spec": {
                "selector": {"app": guard.name, "color": color},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "metrics", "port": 9100, "targetPort": 8080}],
            },
        }));
        services
            .create(&PostParams::default(), &object)
            .await
            .expect("the Service is accepted");
    }
    for color in ["blue", "green"] {
        let labels = json!({"app": guard.name, "color": color});
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": format!("registry.invalid/{}:1.0", guard.name),
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "COLOR", "value": color}],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        });
        // Its pods are made here: a thousand roll-outs would keep the controllers busy for minutes.
        let deployment = from(json!({
            "metadata": {"name": format!("{}-{color}", guard.name), "labels": labels},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
        }));
        deployments
            .create(&PostParams::default(), &deployment)
            .await
            .expect("the Deployment is accepted");
        let mut placed = spec.clone();
        placed["nodeName"] = json!(NODE);
        let pod = from(json!({"metadata": {"name": pod_name(guard, color), "labels": labels}, "spec": placed}));
        pods.create(&PostParams::default(), &pod).await.expect("the pod is accepted");
    }
}

/// As a Deployment would name it.
fn pod_name(guard: &Guard, color: &str) -> String {
    format!("{}-{color}-6d4b75cb6d-x7k2p", guard.name)
}

fn from<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("a sound object")
}

/// Waits until every Service has a Ready endpoint.
pub async fn settled(admin: &Client, guards: &[Guard]) {
    let slices: Api<EndpointSlice> = Api::all(admin.clone());
    eventually("every shop to have endpoints", LIMIT, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let list = slices
            .list(&ListParams::default().labels("kubernetes.io/service-name"))
            .await
            .ok()?;
        let ready = list.items.iter().filter(|slice| {
            let town = slice.metadata.namespace.as_deref().is_some_and(|name| name.starts_with("town-"));
            town && slice
                .endpoints
                .iter()
                .any(|one| one.conditions.as_ref().is_some_and(|is| is.ready == Some(true)))
        });
        (ready.count() >= 2 * guards.len()).then_some(())
    })
    .await;
}

/// Sends requests for ever.
async fn visit(url: String) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
    let http = http.expect("a client");
    let mut beat = tokio::time::interval(Duration::from_secs(1) / RATE);
    loop {
        beat.tick().await;
        // A request that fails is a request.
        let _ = http.get(&url).send().await;
    }
}
