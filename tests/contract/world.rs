//! The two worlds of the contract: the sandbox, and a real control plane. Same objects, same rights, same questions.

use std::{path::Path, sync::Arc, time::Duration};

use flipback::sandbox::{Sandbox, SandboxOptions, Who};
use futures::StreamExt;
use http::{Method, Request};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::support::{Cluster, Shop, install_tls, real_parts};

/// How long anything in either world may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A world with two colors behind an active and a preview Service, blue active.
pub struct World {
    /// Somebody who may do everything.
    pub admin: Client,
    /// The daemon: reads the namespace, patches the two Services, posts Events.
    pub flipback: Client,
    /// Somebody with an unknown token.
    pub stranger: Client,
    /// Namespace of everything.
    pub namespace: String,
    /// The active Service.
    pub active: String,
    /// What the Deployments' names start with.
    pub app: String,
    /// What keeps it running.
    pub behind: Behind,
}

/// What a world runs on.
pub enum Behind {
    /// In this process.
    Sandbox(Box<Sandbox>),
    /// On the real parts.
    Real(Box<(Arc<Cluster>, Shop)>),
}

/// An answer: its code and its body, JSON or text.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP code.
    pub code: u16,
    /// JSON, or text as a JSON string.
    pub body: Value,
}

impl World {
    /// The sandbox.
    pub async fn sandbox() -> Self {
        install_tls();
        let options = SandboxOptions {
            speed: 5.0,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::start(options).await.expect("the sandbox starts");
        Self {
            admin: client(&sandbox.kubeconfig_of(Who::Admin)).await,
            flipback: client(&sandbox.kubeconfig()).await,
            stranger: client(&sandbox.kubeconfig_of(Who::Stranger)).await,
            namespace: "shop".into(),
            active: "web".into(),
            app: "web".into(),
            behind: Behind::Sandbox(Box::new(sandbox)),
        }
    }

    /// A namespace of its own on the real control plane that all tests share; `None`: a part is missing, and it was said.
    pub async fn real(test: &str) -> Option<Self> {
        let assets = real_parts(test, &["etcd"])?;
        Some(Self::on(Cluster::shared(&assets).await).await)
    }

    /// A real control plane for one test alone.
    pub async fn real_alone(test: &str) -> Option<Self> {
        let assets = real_parts(test, &["etcd"])?;
        Some(Self::on(Cluster::start(&assets).await).await)
    }

    async fn on(cluster: Arc<Cluster>) -> Self {
        let namespace = cluster.namespace("contract").await;
        let shop = Shop::open(&cluster, &namespace, "web", 2).await;
        cluster.apply_yaml(&rights(&namespace, &[&shop.active(), &shop.preview()])).await;
        let daemon = cluster.kubeconfig_for_service_account(&namespace, "flipback").await;
        let stranger = cluster.kubeconfig("stranger", &namespace, "nobody-knows-this");
        Self {
            admin: cluster.admin().await,
            flipback: client(&daemon).await,
            stranger: cluster.client(&stranger).await,
            active: shop.active(),
            app: shop.name.clone(),
            namespace,
            behind: Behind::Real(Box::new((cluster, shop))),
        }
    }

    /// Path of a core object or collection in the namespace.
    pub fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// Path of the active Service.
    pub fn service(&self) -> String {
        self.core(&format!("services/{}", self.active))
    }

    /// Path of another group's collection in the namespace.
    pub fn of(&self, group: &str, rest: &str) -> String {
        format!("/apis/{group}/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// The active Service as it is.
    pub async fn read_service(&self) -> Value {
        get(&self.flipback, &self.service()).await.body
    }

    /// Ends the API server under its clients.
    pub async fn kill_api(&mut self) {
        match &mut self.behind {
            Behind::Sandbox(sandbox) => sandbox.stop_api().await,
            Behind::Real(parts) => parts.0.stop_apiserver().await,
        }
    }

    /// Starts it again; what it remembered of changes is gone.
    pub async fn restart_api(&mut self) {
        match &mut self.behind {
            Behind::Sandbox(sandbox) => {
                sandbox.compact();
                sandbox.start_api().await.expect("its port is free");
            }
            Behind::Real(parts) => parts.0.start_apiserver().await,
        }
    }
}

/// The daemon's rights, as RBAC.
fn rights(namespace: &str, services: &[&str]) -> String {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "flipback", "namespace": namespace },
        "rules": [
            { "apiGroups": [""], "resources": ["services", "pods", "pods/log", "events"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list"] },
            { "apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["list"] },
            { "apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": ["list"] },
            { "apiGroups": [""], "resources": ["services"], "resourceNames": services, "verbs": ["patch"] },
            { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
            { "apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["update"] },
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["patch"] },
            { "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] },
        ],
    });
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "flipback", "namespace": namespace } });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "flipback", "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "flipback" },
        "subjects": [{ "kind": "ServiceAccount", "name": "flipback", "namespace": namespace }],
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [account, role, binding] }).to_string()
}

async fn client(kubeconfig: &Path) -> Client {
    let read = kube::config::Kubeconfig::read_from(kubeconfig).expect("our own kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await;
    let mut config = config.expect("our own kubeconfig");
    // What is answered is what is asserted: a 429 is not asked again.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Asks as a client would, and judges nothing.
pub async fn ask(client: &Client, method: Method, path: &str, media: &str, body: Vec<u8>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(Body::from(body))
        .expect("a request");
    let asked = async {
        let answer = client.send(request).await.expect("an answer");
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect_bytes().await.expect("a whole answer");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("an answer in time")
}

/// Reads.
pub async fn get(client: &Client, path: &str) -> Answer {
    ask(client, Method::GET, path, "application/json", Vec::new()).await
}

/// Creates.
pub async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    ask(client, Method::POST, path, "application/json", body.to_string().into_bytes()).await
}

/// Replaces.
pub async fn put(client: &Client, path: &str, body: &Value) -> Answer {
    ask(client, Method::PUT, path, "application/json", body.to_string().into_bytes()).await
}

/// Sends a JSON Patch.
pub async fn json_patch(client: &Client, path: &str, body: &Value) -> Answer {
    ask(
        client,
        Method::PATCH,
        path,
        "application/json-patch+json",
        body.to_string().into_bytes(),
    )
    .await
}

/// Sends a merge patch.
pub async fn merge_patch(client: &Client, path: &str, body: &Value) -> Answer {
    ask(
        client,
        Method::PATCH,
        path,
        "application/merge-patch+json",
        body.to_string().into_bytes(),
    )
    .await
}

/// A watch in progress.
pub struct Watch {
    lines: std::pin::Pin<Box<dyn futures::Stream<Item = Result<Value, String>> + Send>>,
}

impl Watch {
    /// Opens one.
    pub async fn open(client: &Client, path: &str) -> Self {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = tokio::time::timeout(LIMIT, client.send(request))
            .await
            .expect("in time")
            .expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        let chunks = axum::body::Body::new(answer.into_body()).into_data_stream();
        let mut rest = Vec::new();
        let lines = chunks.flat_map(move |chunk| {
            let mut found = Vec::new();
            match chunk {
                Err(error) => found.push(Err(error.to_string())),
                Ok(bytes) => {
                    rest.extend_from_slice(&bytes);
                    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = rest.drain(..=end).collect();
                        found.push(Ok(serde_json::from_slice(&line).expect("each line is JSON")));
                    }
                }
            }
            futures::stream::iter(found)
        });
        Self { lines: Box::pin(lines) }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Result<Value, String>> {
        tokio::time::timeout(LIMIT, self.lines.next())
            .await
            .expect("an event or the end, in time")
    }

    /// The next event, its type and its object.
    pub async fn event(&mut self) -> (String, Value) {
        let event = self.next().await.expect("the watch goes on").expect("readable");
        (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone())
    }
}
