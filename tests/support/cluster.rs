//! A real control plane on loopback ports: etcd, kube-apiserver with RBAC and an audit log, the few controllers that turn
//! a Deployment into endpoints, and [`Node`] in the place of a kubelet.
//!
//! Everything runs in a runtime of the testbed's own, because tests share a cluster and each test's runtime ends with it.
//! Clients are made per test for the same reason: their connections live in the runtime that made them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::TokenRequest,
    core::v1::{Namespace, Pod, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::OnceCell};
use tokio_util::sync::CancellationToken;

use super::{
    audit::{self, AuditEvent},
    certs::{Authority, Pair, token_keys},
    eventually, install_tls, kubelet,
    node::{Conduct, Logs, NODE, Node},
    process::{Assets, Folder, Process, free_port},
};

/// etcd and the API server are ready within 4 s on an idle machine; ours is shared by many builds.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long anything that controllers do may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// What turns a Deployment into endpoints, and what a namespace needs to have and to lose pods.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,endpointslice-controller,serviceaccount-controller,\
    namespace-controller,garbage-collector-controller,disruption-controller";

/// A running control plane.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they must end.
    stop: CancellationToken,
    _controllers: Process,
    apiserver: tokio::sync::Mutex<Process>,
    etcd: Process,
    etcd_url: String,
    node: Arc<Node>,
    assets: Assets,
    arguments: Vec<String>,
    url: String,
    ca: PathBuf,
    admin: PathBuf,
    namespaces: AtomicU32,
    folder: Folder,
}

/// The runtime that outlives every test.
fn testbed() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("testbed")
            .enable_all()
            .build()
            .expect("threads start")
    })
}

impl Cluster {
    /// The cluster that the tests of one binary share, each in namespaces of its own.
    pub async fn shared(assets: &Assets) -> Arc<Self> {
        static SHARED: OnceCell<Arc<Cluster>> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(assets)).await.clone()
    }

    /// Starts a cluster for one test alone, e.g. for one that stops its API server.
    ///
    /// # Panics
    /// When a part does not come up; with the end of what it said.
    pub async fn start(assets: &Assets) -> Arc<Self> {
        Self::start_with(assets, &[]).await
    }

    /// The same, with further arguments for the API server.
    ///
    /// # Panics
    /// When a part does not come up; with the end of what it said.
    pub async fn start_with(assets: &Assets, further: &[&str]) -> Arc<Self> {
        install_tls();
        let assets = assets.clone();
        let further = further.iter().map(|&word| word.to_owned()).collect();
        testbed()
            .spawn(Self::launch(assets, further))
            .await
            .expect("the control plane starts")
    }

    async fn launch(assets: Assets, further: Vec<String>) -> Arc<Self> {
        let folder = Folder::new();
        let authority = Authority::new(&folder);
        let etcd_port = free_port();
        let mut etcd = start_etcd(&folder, etcd_port);
        let port = free_port();
        let url = format!("https://127.0.0.1:{port}");
        let server = authority.server(&folder, "kube-apiserver");
        let to_kubelet = authority.client(&folder, "kube-apiserver-kubelet-client", None);
        let mut arguments = apiserver_arguments(&folder, &authority, port, etcd_port, &server, &to_kubelet);
        arguments.extend(further);
        let identity = |user: &str| {
            let pair = authority.client(&folder, user, Some("system:masters"));
            certificate_kubeconfig(&folder, &url, &authority.ca, user, &pair)
        };
        let admin = identity("admin");
        let mut apiserver = start_apiserver(&assets, &arguments, folder.path());
        wait_healthy(&admin, &mut [&mut etcd, &mut apiserver]).await;

        let controllers = start_controllers(&assets, &folder, &identity("system:kube-controller-manager"));
        let node = Node::new();
        let stop = CancellationToken::new();
        let source = {
            let node = Arc::clone(&node);
            Arc::new(move |namespace: &str, pod: &str, container: &str| node.logs(namespace, pod, container))
        };
        let kubelet = kubelet::serve(&authority.server(&folder, "kubelet"), source).await;
        let tender = client(&identity(&format!("system:node:{NODE}"))).await;
        Node::register(&tender, kubelet).await;
        tokio::spawn(Arc::clone(&node).run(tender, stop.clone()));
        Arc::new(Self {
            stop,
            _controllers: controllers,
            apiserver: tokio::sync::Mutex::new(apiserver),
            etcd,
            etcd_url: format!("http://127.0.0.1:{etcd_port}"),
            node,
            assets,
            arguments,
            url,
            ca: authority.ca,
            admin,
            namespaces: AtomicU32::new(0),
            folder,
        })
    }

    /// Where the API server listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The PEM file of the cluster's certificate authority.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// A folder that goes when the cluster goes.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A client with every right, of the calling test's runtime.
    pub async fn admin(&self) -> Client {
        client(&self.admin).await
    }

    /// A kubeconfig whose token the API server gave for a service account, good for an hour.
    ///
    /// # Panics
    /// When there is no such account.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await, namespace);
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &TokenRequest::default())
            .await
            .unwrap_or_else(|error| panic!("no token for {namespace}/{name}: {error}"));
        let token = answer.status.expect("a token was granted").token;
        self.kubeconfig(&format!("{namespace}-{name}"), namespace, &token)
    }

    /// A kubeconfig with any token, sound or not.
    #[must_use]
    pub fn kubeconfig(&self, user: &str, namespace: &str, token: &str) -> PathBuf {
        let user_part = json!({"token": token});
        kubeconfig(&self.folder, &self.url, &self.ca, user, namespace, &user_part)
    }

    /// A client that authenticates by a kubeconfig, in the calling test's runtime.
    pub async fn client(&self, kubeconfig: &Path) -> Client {
        client(kubeconfig).await
    }

    /// Makes a namespace that no other test has: `<prefix>-<number>`; returns its name once pods may be made in it.
    pub async fn namespace(&self, prefix: &str) -> String {
        let name = format!("{prefix}-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.namespace_with(&name, &[]).await;
        name
    }

    /// Makes a namespace of this name with these labels; returns once pods may be made in it.
    ///
    /// # Panics
    /// When there is one already.
    pub async fn namespace_with(&self, name: &str, labels: &[(&str, &str)]) {
        let admin = self.admin().await;
        let labels: serde_json::Map<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let object: Namespace = serde_json::from_value(object).expect("a Namespace");
        let made = Api::<Namespace>::all(admin.clone()).create(&PostParams::default(), &object).await;
        made.unwrap_or_else(|error| panic!("namespace {name} is refused: {error}"));
        let accounts: Api<ServiceAccount> = Api::namespaced(admin, name);
        eventually("the namespace's default service account", SETTLE_LIMIT, async || {
            accounts.get_opt("default").await.ok().flatten()
        })
        .await;
    }

    /// Runs kubectl as an administrator and returns what it prints.
    ///
    /// # Errors
    /// What it prints on stderr, when it fails.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = tokio::process::Command::new(self.assets.path("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.admin)
            .arg("--cache-dir")
            .arg(self.folder.path().join("kubectl"))
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl starts");
        let mut pipe = child.stdin.take().expect("piped");
        pipe.write_all(input.as_bytes()).await.expect("kubectl reads");
        drop(pipe);
        let output = tokio::time::timeout(START_LIMIT, child.wait_with_output()).await;
        let output = output.expect("kubectl ends").expect("kubectl ran");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Runs commands in a shell, in a folder, as somebody would who has a terminal there; `Err`: what they said when they failed.
    ///
    /// # Errors
    /// What was said on standard error.
    ///
    /// # Panics
    /// When there is no shell, or no end.
    pub async fn shell(&self, script: &str, folder: &Path) -> Result<String, String> {
        let kubectl = self.assets.path("kubectl");
        let tools = kubectl.parent().expect("in a folder").display();
        let output = tokio::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(folder)
            .env("KUBECONFIG", &self.admin)
            .env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap_or_default()))
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(START_LIMIT, output)
            .await
            .expect("it ends")
            .expect("bash runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Applies manifests as a person would: `kubectl apply -f -`; returns what it prints.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn apply_yaml(&self, manifests: &str) -> String {
        let done = self.kubectl(&["apply", "-f", "-"], manifests).await;
        done.unwrap_or_else(|said| panic!("kubectl apply failed: {said}"))
    }

    /// Everything the API server recorded, oldest first.
    #[must_use]
    pub fn audit(&self) -> Vec<AuditEvent> {
        audit::read(&self.folder.path().join("audit.jsonl"))
    }

    /// What was asked for in a namespace by one of its service accounts, oldest first.
    #[must_use]
    pub fn audit_of(&self, namespace: &str, account: &str) -> Vec<AuditEvent> {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let mut events = audit::read_of(&self.folder.path().join("audit.jsonl"), &user);
        events.retain(|event| event.user == user);
        events
    }

    /// Makes the pods of a Deployment (or one bare pod, or one pod of a Deployment) Ready or not, those that come too.
    pub fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        let conduct = if ready { Conduct::Ready } else { Conduct::NotReady };
        self.node.set_conduct(namespace, name, conduct);
    }

    /// Lets the containers of a Deployment crash in a loop: not Ready, restarted, with a previous log and an event.
    pub fn crash(&self, namespace: &str, name: &str) {
        self.node.set_conduct(namespace, name, Conduct::Crashing);
    }

    /// What the containers of a Deployment have said; unset, each has a hundred numbered lines.
    pub fn set_logs(&self, namespace: &str, name: &str, current: &str, previous: Option<&str>) {
        let logs = Logs {
            current: current.to_owned(),
            previous: previous.map(str::to_owned),
        };
        self.node.set_logs(namespace, name, logs);
    }

    /// The node: which application answers for which pod address.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Waits until every replica of a Deployment is Ready, or none is when `ready` is false.
    pub async fn wait_ready(&self, namespace: &str, name: &str, ready: bool) {
        let deployments: Api<Deployment> = Api::namespaced(self.admin().await, namespace);
        let wish = if ready { "to be Ready" } else { "not to be Ready" };
        eventually(&format!("Deployment {namespace}/{name} {wish}"), SETTLE_LIMIT, async || {
            let found = deployments.get_opt(name).await.ok().flatten()?;
            let status = found.status?;
            let wanted = found.spec?.replicas.unwrap_or(1);
            // At the beginning of a rollout all that are wanted are Ready, of the former template.
            let updated = !ready || status.updated_replicas.unwrap_or(0) == wanted;
            let current = updated && status.observed_generation >= found.metadata.generation && status.replicas.unwrap_or(0) == wanted;
            let goal = if ready { wanted } else { 0 };
            (current && status.ready_replicas.unwrap_or(0) == goal).then_some(())
        })
        .await;
    }

    /// The names of a Service's Ready pods, as its EndpointSlices say, sorted.
    pub async fn ready_endpoints(&self, namespace: &str, service: &str) -> Vec<String> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.admin().await, namespace);
        let found = slices
            .list(&ListParams::default().labels(&format!("kubernetes.io/service-name={service}")))
            .await;
        let mut pods: Vec<String> = found
            .map(|list| list.items)
            .unwrap_or_default()
            .into_iter()
            .flat_map(|slice| slice.endpoints)
            .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|is| is.ready == Some(true)))
            .filter_map(|endpoint| endpoint.target_ref?.name)
            .collect();
        pods.sort();
        pods
    }

    /// The pods with these labels (`a=b,c=d`).
    pub async fn pods(&self, namespace: &str, labels: &str) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.admin().await, namespace);
        let found = pods.list(&ListParams::default().labels(labels)).await;
        found.expect("pods can be listed").items
    }

    /// Ends the API server at once; watches see a clean end of stream.
    pub async fn stop_apiserver(&self) {
        self.apiserver.lock().await.kill();
    }

    /// Makes the API server hang (`STOP`) or go on (`CONT`): connections stay, nothing answers.
    pub async fn signal_apiserver(&self, name: &str) {
        self.apiserver.lock().await.signal(name);
    }

    /// Makes etcd hang (`STOP`) or go on (`CONT`) under the API server.
    pub fn signal_etcd(&self, name: &str) {
        self.etcd.signal(name);
    }

    /// Lets etcd forget every version but the present one, as the API server does every five minutes.
    ///
    /// # Panics
    /// When it does not answer, or refuses.
    pub async fn compact(&self) {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let ask = async |what: &str, body: serde_json::Value| {
            let answer = http.post(format!("{}/v3/kv/{what}", self.etcd_url)).json(&body).send().await;
            let answer = answer.expect("etcd answers").error_for_status().expect("etcd does it");
            answer.json::<serde_json::Value>().await.expect("JSON")
        };
        let now = ask("range", json!({"key": "AA=="})).await;
        let revision = now["header"]["revision"].as_str().expect("a revision").to_owned();
        ask("compaction", json!({"revision": revision, "physical": true})).await;
    }

    /// Starts the API server again at the same address; returns when it is ready.
    pub async fn start_apiserver(&self) {
        let mut apiserver = self.apiserver.lock().await;
        let (assets, arguments, folder) = (self.assets.clone(), self.arguments.clone(), self.folder.path().to_owned());
        *apiserver = start_apiserver(&assets, &arguments, &folder);
        wait_healthy(&self.admin, &mut [&mut apiserver]).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start_etcd(folder: &Folder, port: u16) -> Process {
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(folder.path().join("etcd"))
        .args(["--listen-client-urls", &format!("http://127.0.0.1:{port}")])
        .args(["--advertise-client-urls", &format!("http://127.0.0.1:{port}")])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", free_port())])
        .args(["--log-level", "warn"]);
    Process::start("etcd", command, folder.path().join("etcd.log"))
}

fn apiserver_arguments(folder: &Folder, authority: &Authority, port: u16, etcd: u16, server: &Pair, to_kubelet: &Pair) -> Vec<String> {
    let (token_key, token_public) = token_keys(folder);
    let policy = folder.write("audit-policy.yaml", audit::POLICY);
    let audit_log = folder.path().join("audit.jsonl");
    let paths: [(&str, &Path); 11] = [
        ("tls-cert-file", &server.certificate),
        ("tls-private-key-file", &server.key),
        ("client-ca-file", &authority.ca),
        ("kubelet-certificate-authority", &authority.ca),
        ("kubelet-client-certificate", &to_kubelet.certificate),
        ("kubelet-client-key", &to_kubelet.key),
        ("service-account-key-file", &token_public),
        ("service-account-signing-key-file", &token_key),
        ("audit-policy-file", &policy),
        ("audit-log-path", &audit_log),
        ("cert-dir", folder.path()),
    ];
    let words = [
        ("etcd-servers", format!("http://127.0.0.1:{etcd}")),
        ("secure-port", port.to_string()),
        ("bind-address", "127.0.0.1".into()),
        ("advertise-address", "127.0.0.1".into()),
        ("endpoint-reconciler-type", "none".into()),
        ("authorization-mode", "RBAC".into()),
        ("service-account-issuer", "https://kubernetes.default.svc".into()),
        ("service-cluster-ip-range", "10.32.0.0/16".into()),
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("audit-log-mode", "blocking".into()),
        ("profiling", "false".into()),
    ];
    let paths = paths.iter().map(|(flag, path)| format!("--{flag}={}", path.display()));
    let words = words.iter().map(|(flag, word)| format!("--{flag}={word}"));
    paths.chain(words).collect()
}

fn start_apiserver(assets: &Assets, arguments: &[String], folder: &Path) -> Process {
    let mut command = Command::new(assets.path("kube-apiserver"));
    command.args(arguments);
    Process::start("kube-apiserver", command, folder.join("kube-apiserver.log"))
}

fn start_controllers(assets: &Assets, folder: &Folder, kubeconfig: &Path) -> Process {
    let mut command = Command::new(assets.path("kube-controller-manager"));
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--controllers", CONTROLLERS, "--leader-elect=false", "--secure-port=0"])
        // Hundreds of guards' Deployments shall come up in seconds.
        .args(["--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-deployment-syncs=10"]);
    Process::start(
        "kube-controller-manager",
        command,
        folder.path().join("kube-controller-manager.log"),
    )
}

/// Waits until the API server says that it is ready, or one of the processes has ended.
async fn wait_healthy(kubeconfig: &Path, processes: &mut [&mut Process]) {
    let client = client(kubeconfig).await;
    let deadline = tokio::time::Instant::now() + START_LIMIT;
    loop {
        for process in processes.iter_mut() {
            process.must_live();
        }
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
        let answer = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await;
        if matches!(answer, Ok(Ok(_))) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the API server is not ready after {START_LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("our own kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let mut config = config.expect("our own kubeconfig");
    config.connect_timeout = Some(Duration::from_secs(10));
    // Watches are silent for long; what a test asks is bounded by the test's own deadline.
    config.read_timeout = Some(Duration::from_secs(295));
    Client::try_from(config).expect("a client")
}

fn certificate_kubeconfig(folder: &Folder, url: &str, ca: &Path, user: &str, pair: &Pair) -> PathBuf {
    let user_part = json!({"client-certificate": pair.certificate, "client-key": pair.key});
    kubeconfig(folder, url, ca, user, "default", &user_part)
}

/// Writes a kubeconfig. It is JSON, which is YAML.
fn kubeconfig(folder: &Folder, url: &str, ca: &Path, user: &str, namespace: &str, user_part: &serde_json::Value) -> PathBuf {
    let content = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {"server": url, "certificate-authority": ca}}],
        "users": [{"name": user, "user": user_part}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user, "namespace": namespace}}],
    });
    let file = format!("kubeconfig/{}.yaml", user.replace([':', '/'], "-"));
    folder.write(&file, serde_json::to_string_pretty(&content).expect("JSON"))
}
