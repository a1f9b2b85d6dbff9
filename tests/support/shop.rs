//! A blue-green deployment as its team would make it: two Deployments, an active and a preview Service, and real
//! applications behind the pods.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{App, Cluster, Target, eventually};

/// The selector key whose value names the color.
pub const SELECTOR_KEY: &str = "color";

/// A running shop: Deployments `<name>-blue` and `<name>-green`, Services `<name>-active` and `<name>-preview`.
#[derive(Debug)]
pub struct Shop {
    cluster: Arc<Cluster>,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The applications behind the blue pods, one each.
    pub blue: Vec<App>,
    /// Those behind the green ones.
    pub green: Vec<App>,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Shop {
    /// Opens one with blue active; returns when every pod is Ready and the active Service has its endpoints.
    pub async fn open(cluster: &Arc<Cluster>, namespace: &str, name: &str, replicas: usize) -> Self {
        let mut shop = Self {
            cluster: Arc::clone(cluster),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            blue: join_all((0..replicas).map(|_| App::start("blue"))).await,
            green: join_all((0..replicas).map(|_| App::start("green"))).await,
            addresses: BTreeMap::new(),
        };
        let admin = cluster.admin().await;
        let deployments: Api<Deployment> = Api::namespaced(admin.clone(), namespace);
        let services: Api<Service> = Api::namespaced(admin, namespace);
        for color in ["blue", "green"] {
            let apps: Vec<SocketAddr> = shop.side(color).iter().map(App::address).collect();
            for ip in cluster.node().place(namespace, &shop.deployment(color), &apps) {
                let app = cluster.node().resolve(&ip).expect("just placed");
                shop.addresses.insert(ip, app);
            }
            deployments
                .create(&PostParams::default(), &shop.deployment_object(color, replicas))
                .await
                .expect("the Deployment is accepted");
        }
        for (service, color) in [(shop.active(), "blue"), (shop.preview(), "green")] {
            let object = shop.service_object(&service, color);
            services
                .create(&PostParams::default(), &object)
                .await
                .expect("the Service is accepted");
        }
        for color in ["blue", "green"] {
            cluster.wait_ready(namespace, &shop.deployment(color), true).await;
        }
        shop.wait_endpoints("blue", replicas).await;
        shop
    }

    /// The applications of a color.
    ///
    /// # Panics
    /// When there is no such color.
    #[must_use]
    pub fn side(&self, color: &str) -> &[App] {
        match color {
            "blue" => &self.blue,
            "green" => &self.green,
            other => panic!("no color {other}"),
        }
    }

    /// Name of the Service that users reach.
    #[must_use]
    pub fn active(&self) -> String {
        format!("{}-active", self.name)
    }

    /// Name of the Service that reaches the other color.
    #[must_use]
    pub fn preview(&self) -> String {
        format!("{}-preview", self.name)
    }

    /// Name of a color's Deployment.
    #[must_use]
    pub fn deployment(&self, color: &str) -> String {
        format!("{}-{color}", self.name)
    }

    /// Which application answers for each address that a pod of this shop has or may get.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// What Prometheus scrapes: every pod that is, labelled as in a real cluster.
    pub async fn targets(&self) -> Vec<Target> {
        let pods = self.cluster.pods(&self.namespace, &format!("app={}", self.name)).await;
        pods.iter()
            .filter_map(|pod| {
                let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
                let labels = [
                    ("namespace", self.namespace.as_str()),
                    ("pod", &pod.name_any()),
                    ("container", "app"),
                ];
                Some(Target::new(*self.addresses.get(ip)?, &labels))
            })
            .collect()
    }

    /// From now on this fraction of a color's requests fails.
    pub fn set_errors(&self, color: &str, share: f64) {
        self.side(color).iter().for_each(|app| app.set_errors(share));
    }

    /// From now on this fraction of a color's requests takes at least so long.
    pub fn set_latency(&self, color: &str, share: f64, at_least: Duration) {
        self.side(color).iter().for_each(|app| app.set_latency(share, at_least));
    }

    /// The color that the active Service selects.
    pub async fn selected(&self) -> String {
        self.selector(&self.active()).await
    }

    /// The color that a Service selects.
    ///
    /// # Panics
    /// When there is no such Service.
    pub async fn selector(&self, service: &str) -> String {
        let selector = self.service(service).await.spec.and_then(|spec| spec.selector).unwrap_or_default();
        selector.get(SELECTOR_KEY).cloned().unwrap_or_default()
    }

    /// A Service as it is now.
    ///
    /// # Panics
    /// When there is none.
    pub async fn service(&self, name: &str) -> Service {
        let services: Api<Service> = Api::namespaced(self.cluster.admin().await, &self.namespace);
        services.get(name).await.expect("the Service is there")
    }

    /// Switches both Services as a person would; returns when the endpoints have followed.
    pub async fn switch_to(&self, color: &str) {
        self.switch_to_many(color, self.side(color).len()).await;
    }

    /// The same, of a color that was scaled to so many pods.
    pub async fn switch_to_many(&self, color: &str, count: usize) {
        let services: Api<Service> = Api::namespaced(self.cluster.admin().await, &self.namespace);
        let other = if color == "blue" { "green" } else { "blue" };
        let by = PatchParams {
            field_manager: Some("kubectl-patch".into()),
            ..PatchParams::default()
        };
        for (service, color) in [(self.active(), color), (self.preview(), other)] {
            let patch = json!({"spec": {"selector": {SELECTOR_KEY: color}}});
            services
                .patch(&service, &by, &Patch::Merge(patch))
                .await
                .expect("the Service is patched");
        }
        self.wait_endpoints(color, count).await;
    }

    /// Writes a value into the active Service's selector, whatever pods there are.
    pub async fn select(&self, color: &str) {
        let services: Api<Service> = Api::namespaced(self.cluster.admin().await, &self.namespace);
        let patch = json!({"spec": {"selector": {SELECTOR_KEY: color}}});
        services
            .patch(&self.active(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("the Service is patched");
    }

    /// Waits until the active Service's endpoints are `count` pods of a color and no others.
    pub async fn wait_endpoints(&self, color: &str, count: usize) {
        let prefix = format!("{}-", self.deployment(color));
        let what = format!("{count} endpoints of {color} behind {}/{}", self.namespace, self.active());
        eventually(&what, Duration::from_secs(30), async || {
            let pods = self.cluster.ready_endpoints(&self.namespace, &self.active()).await;
            (pods.len() == count && pods.iter().all(|pod| pod.starts_with(&prefix))).then_some(())
        })
        .await;
    }

    /// Rolls a color to another image and waits until its pods are Ready.
    pub async fn release(&self, color: &str, image: &str) {
        let deployments: Api<Deployment> = Api::namespaced(self.cluster.admin().await, &self.namespace);
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        deployments
            .patch(&self.deployment(color), &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .expect("the Deployment is patched");
        self.cluster.wait_ready(&self.namespace, &self.deployment(color), true).await;
    }

    fn deployment_object(&self, color: &str, replicas: usize) -> Deployment {
        let labels = json!({"app": self.name, SELECTOR_KEY: color});
        let version = if color == "blue" { "1.0" } else { "1.1" };
        let container = json!({
            "name": "app", "image": format!("registry.invalid/{}:{version}", self.name),
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "COLOR", "value": color}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        });
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.deployment(color), "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                        "containers": [container],
                    },
                },
            },
        });
        serde_json::from_value(object).expect("a Deployment")
    }

    fn service_object(&self, name: &str, color: &str) -> Service {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "labels": {"app": self.name}, "annotations": {"team.example/owner": "shop"}},
            "spec": {
                "selector": {"app": self.name, SELECTOR_KEY: color},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "metrics", "port": 9100, "targetPort": 8080}],
            },
        });
        serde_json::from_value(object).expect("a Service")
    }
}
