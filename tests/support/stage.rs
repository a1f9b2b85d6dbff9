//! One guarded shop with everything around it, and the daemon as a process under the account of `deploy/monitor.yaml`.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use super::{
    AuditEvent, Chat, Cluster, Prometheus, Shop, Traffic, eventually,
    process::{Folder, Process, free_port},
    real_parts,
};

/// A verdict takes 3 to 8 s here (1 s scrapes, 1 s polls); a machine that also compiles takes longer.
pub const VERDICT_LIMIT: Duration = Duration::from_secs(45);
/// Anything that needs no verdict.
pub const SOON: Duration = Duration::from_secs(20);
/// Users' requests per second.
const RATE: u32 = 60;
/// What commands over HTTP need.
pub const TOKEN: &str = "only-for-this-test";

/// A guarded shop, a chat and a configuration, without users and without a Prometheus (nothing listens at its URL).
#[derive(Debug)]
pub struct Ground {
    /// Where it is.
    pub cluster: Arc<Cluster>,
    /// In which namespace.
    pub namespace: String,
    /// What is guarded.
    pub shop: Shop,
    /// Who is told.
    pub chat: Chat,
    /// Holds configuration, secrets, the log and `data`.
    pub folder: Folder,
    /// The configuration file.
    pub config: PathBuf,
    /// Where the daemon listens.
    pub port: u16,
}

/// A [`Ground`] with users and a Prometheus that scrapes every second.
#[derive(Debug)]
pub struct Stage {
    ground: Ground,
    /// Scrapes the shop.
    pub prometheus: Prometheus,
    /// The users.
    pub traffic: Traffic,
}

impl Deref for Stage {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl Stage {
    /// Everything but the daemon; blue is active and good. `guard` is further configuration of the guard.
    pub async fn open(name: &str, guard: &str) -> Option<Self> {
        let assets = real_parts(name, &["etcd", "prometheus"])?;
        let cluster = Cluster::shared(&assets).await;
        Some(Self::around(Ground::on(cluster, 2, guard).await).await)
    }

    /// One more in a cluster that there is.
    pub async fn within(cluster: &Arc<Cluster>, guard: &str) -> Self {
        let ground = Ground::on(Arc::clone(cluster), 2, guard).await;
        Self::around(ground).await
    }

    async fn around(ground: Ground) -> Self {
        let prometheus = Prometheus::start(&ground.shop.targets().await).await;
        ground.edit(NO_PROMETHEUS, &prometheus.url());
        let traffic = Traffic::start(&ground.cluster, &ground.namespace, &ground.shop.active(), RATE).await;
        traffic.wait_for("blue", 50, SOON).await;
        Self {
            ground,
            prometheus,
            traffic,
        }
    }

    /// A release as a team makes it: green is switched on and is good; returns when the daemon watches it.
    pub async fn release_green(&self, daemon: &mut Daemon) {
        self.ground.release_green(daemon).await;
        self.traffic.wait_for("green", 60, SOON).await;
    }
}

/// Nobody listens there.
const NO_PROMETHEUS: &str = "http://127.0.0.1:9";

impl Ground {
    /// One in the cluster that the tests of a binary share; a single pod per color.
    pub async fn open(name: &str, guard: &str) -> Option<Self> {
        let assets = real_parts(name, &["etcd"])?;
        let cluster = Cluster::shared(&assets).await;
        Some(Self::on(cluster, 1, guard).await)
    }

    /// One with a cluster of its own, for a test that harms the API server.
    pub async fn apart(name: &str, guard: &str) -> Option<Self> {
        let assets = real_parts(name, &["etcd"])?;
        let cluster = Cluster::start(&assets).await;
        Some(Self::on(cluster, 1, guard).await)
    }

    /// One more in a cluster that there is.
    pub async fn within(cluster: &Arc<Cluster>, guard: &str) -> Self {
        Self::on(Arc::clone(cluster), 1, guard).await
    }

    async fn on(cluster: Arc<Cluster>, replicas: usize, guard: &str) -> Self {
        let namespace = cluster.namespace("shop").await;
        let shop = Shop::open(&cluster, &namespace, "shop", replicas).await;
        cluster.apply_yaml(&account(&namespace)).await;
        let kubeconfig = cluster.kubeconfig_for_service_account(&namespace, "flipback").await;
        let chat = Chat::start().await;
        let folder = Folder::new();
        let port = free_port();
        let config = configuration(&folder, &shop, NO_PROMETHEUS, &chat, &kubeconfig, port, guard);
        Self {
            cluster,
            namespace,
            shop,
            chat,
            folder,
            config,
            port,
        }
    }

    /// Replaces a part of the configuration, which must be in it.
    ///
    /// # Panics
    /// When it is not.
    pub fn edit(&self, part: &str, by: &str) {
        let text = std::fs::read_to_string(&self.config).expect("written above");
        assert!(text.contains(part), "no {part:?} in\n{text}");
        std::fs::write(&self.config, text.replace(part, by)).expect("the folder is ours");
    }

    /// The kubeconfig that the configuration names.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        let file = format!("kubeconfig/{}-flipback.yaml", self.namespace);
        self.cluster.folder().path().join(file)
    }

    /// The binary with this configuration, and nothing of the machine's own settings.
    #[must_use]
    pub fn binary(&self, arguments: &[&str]) -> Command {
        self.program(&self.config, arguments)
    }

    fn program(&self, config: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flipback"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("USER", "ann")
            .env("HOSTNAME", "bastion")
            .args(arguments)
            .arg("--config")
            .arg(config);
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        let mut command = self.binary(arguments);
        let ran = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        Said::from(tokio::time::timeout(VERDICT_LIMIT, ran).await.expect("it ends").expect("it ran"))
    }

    /// Starts the daemon, without waiting for anything.
    #[must_use]
    pub fn launch(&self, arguments: &[&str]) -> Daemon {
        let mut words = vec!["run"];
        words.extend(arguments);
        self.daemon(self.binary(&words))
    }

    /// Takes a command that is to become the daemon, and starts it.
    #[must_use]
    pub fn daemon(&self, command: Command) -> Daemon {
        Daemon {
            process: Process::start("flipback", command, self.folder.path().join("flipback.log")),
            http: client(),
            url: format!("http://127.0.0.1:{}", self.port),
            guard: format!("{}/shop", self.namespace),
        }
    }

    /// Starts another daemon beside, with a configuration, data, a log and a port of its own; `edit` changes its configuration.
    #[must_use]
    pub fn beside(&self, name: &str, edit: impl FnOnce(String) -> String) -> Daemon {
        let port = free_port();
        let text = std::fs::read_to_string(&self.config).expect("written above");
        let text = text
            .replace(
                &format!("listen = \"127.0.0.1:{}\"", self.port),
                &format!("listen = \"127.0.0.1:{port}\""),
            )
            .replace("data_dir = \"data\"", &format!("data_dir = \"{name}\""));
        let config = self.folder.write(&format!("{name}.toml"), edit(text));
        let mut command = self.program(&config, &["run"]);
        command.env("HOSTNAME", name);
        Daemon {
            process: Process::start("flipback", command, self.folder.path().join(format!("{name}.log"))),
            http: client(),
            url: format!("http://127.0.0.1:{port}"),
            guard: format!("{}/shop", self.namespace),
        }
    }

    /// Starts the daemon and waits until it has judged at least once.
    pub async fn start(&self, arguments: &[&str]) -> Daemon {
        let mut daemon = self.launch(arguments);
        daemon
            .wait_for("a first verdict", |guard| {
                guard["active"].is_string() && guard["phase"] != "starting"
            })
            .await;
        daemon
    }

    /// A release as a team makes it; returns when the daemon watches green.
    pub async fn release_green(&self, daemon: &mut Daemon) {
        self.shop.switch_to("green").await;
        daemon
            .wait_for("green to be watched", |guard| {
                guard["active"] == "green" && matches!(guard["phase"].as_str(), Some("watching" | "blind" | "paused"))
            })
            .await;
    }

    /// Waits until the active Service selects a color.
    pub async fn wait_selected(&self, color: &str, limit: Duration) {
        let what = format!("{} to select {color}", self.shop.active());
        eventually(&what, limit, async || (self.shop.selected().await == color).then_some(())).await;
    }

    /// What our account changed, oldest first.
    #[must_use]
    pub fn stored(&self) -> Vec<AuditEvent> {
        let mut events = self.cluster.audit_of(&self.namespace, "flipback");
        events.retain(AuditEvent::is_stored);
        events
    }

    /// The patches of the active Service that our account made.
    #[must_use]
    pub fn flips(&self) -> Vec<AuditEvent> {
        let mut events = self.stored();
        events.retain(|event| event.is_on("services", &self.namespace, &self.shop.active()));
        events
    }

    /// Topics that the receiver of our own JSON got, in order.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        let deliveries = self.chat.deliveries();
        let own = deliveries.iter().filter(|delivery| delivery.path == "/webhook");
        own.map(|delivery| delivery.body["data"]["topic"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits until the chat has taken a message of this topic, and returns its facts.
    pub async fn wait_topic(&self, topic: &str, limit: Duration) -> Value {
        let what = format!("the chat to hear {topic:?}");
        let heard = self.chat.wait_for(&what, limit, |delivery| {
            delivery.path == "/webhook" && delivery.body["data"]["topic"] == topic
        });
        heard.await.body["data"].clone()
    }

    /// The one finished folder of evidence.
    pub async fn evidence(&self) -> PathBuf {
        let incidents = self.folder.path().join("data/incidents");
        eventually("one complete folder of evidence", SOON, async || {
            let mut found: Vec<PathBuf> = std::fs::read_dir(&incidents)
                .ok()?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            let complete = |path: &PathBuf| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            found.retain(|path| complete(path) && path.join("MANIFEST.sha256").exists());
            (found.len() == 1).then(|| found.remove(0))
        })
        .await
    }
}

/// ServiceAccount, Role and RoleBinding as `deploy/monitor.yaml` has them.
fn account(namespace: &str) -> String {
    let path = super::project().join("deploy/monitor.yaml");
    let all = std::fs::read_to_string(path).expect("the manifest is there");
    let kinds = ["kind: ServiceAccount\n", "kind: Role\n", "kind: RoleBinding\n"];
    let ours: Vec<&str> = all
        .split("\n---\n")
        .filter(|one| kinds.iter().any(|kind| one.contains(kind)))
        .collect();
    assert_eq!(ours.len(), kinds.len());
    ours.join("\n---\n").replace("namespace: shop", &format!("namespace: {namespace}"))
}

fn configuration(folder: &Folder, shop: &Shop, prometheus: &str, chat: &Chat, kubeconfig: &Path, port: u16, guard: &str) -> PathBuf {
    folder.write("slack-url", chat.url("/slack"));
    folder.write("teams-url", chat.url("/teams"));
    folder.write("webhook-url", chat.url("/webhook"));
    folder.write("token", TOKEN);
    let resolve: String = shop
        .addresses()
        .iter()
        .map(|(pod, app)| format!("\"{pod}\" = \"{app}\"\n"))
        .collect();
    let (url, kubeconfig, namespace) = (prometheus, kubeconfig.display(), &shop.namespace);
    let text = format!(
        r#"
poll = "1s"
data_dir = "data"
[serve]
listen = "127.0.0.1:{port}"
token_file = "token"
[log]
filter = "info,flipback=debug"
[prometheus]
url = "{url}"
[clusters.testbed]
kubeconfig = "{kubeconfig}"
[chats.slack]
url_file = "slack-url"
[chats.teams]
url_file = "teams-url"
[chats.webhook]
url_file = "webhook-url"
[probe.resolve]
{resolve}
[[guards]]
name = "shop"
namespace = "{namespace}"
[guards.route]
service = "shop-active"
preview = "shop-preview"
selector_key = "color"
[guards.colors]
blue = {{ value = "blue", deployment = "shop-blue" }}
green = {{ value = "green", deployment = "shop-green" }}
[guards.evidence]
after = "1s"
{guard}
"#
    );
    folder.write("flipback.toml", text)
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .no_proxy()
        .build()
        .expect("a client")
}

/// The daemon as a process.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
    http: reqwest::Client,
    /// Where it answers.
    pub url: String,
    /// The guard's whole name.
    pub guard: String,
}

impl Daemon {
    /// The guard's status, once the daemon answers.
    pub async fn guard(&self) -> Option<Value> {
        let url = format!("{}/api/v1/guards/{}", self.url, self.guard);
        let answer = self.http.get(url).send().await.ok()?;
        answer.json().await.ok()
    }

    /// Its whole status, once the daemon answers.
    pub async fn status(&self) -> Option<Value> {
        let answer = self.http.get(format!("{}/api/v1/status", self.url)).send().await.ok()?;
        answer.json().await.ok()
    }

    /// Its `/metrics`.
    pub async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.url)).send().await;
        answer.expect("the daemon answers").text().await.expect("a text")
    }

    /// Waits for a status that fits.
    ///
    /// # Panics
    /// When there is none in time, or the daemon has ended.
    pub async fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + VERDICT_LIMIT;
        loop {
            self.process.must_live();
            let guard = self.guard().await;
            if let Some(guard) = guard.as_ref().filter(|guard| fits(guard)) {
                return guard.clone();
            }
            let late = tokio::time::Instant::now() >= deadline;
            assert!(
                !late,
                "waited in vain for {what}; the guard is {guard:#?}\n{}",
                self.process.output()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for one of these phases.
    pub async fn wait_phase(&mut self, phases: &[&str]) -> Value {
        let what = format!("phase {phases:?}");
        self.wait_for(&what, |guard| guard["phase"].as_str().is_some_and(|phase| phases.contains(&phase)))
            .await
    }

    /// Sends a command as the command line does; returns status and body.
    pub async fn command(&self, token: &str, command: &Value) -> (u16, Value) {
        let request = self
            .http
            .post(format!("{}/api/v1/commands", self.url))
            .bearer_auth(token)
            .json(command);
        let answer = request.send().await.expect("the daemon answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Ends it as systemd and Kubernetes do, which takes it 5 s at most; a machine that does much else takes longer. `tests/commands.rs`
    /// measures it.
    pub async fn terminate(&mut self) {
        self.process.signal("TERM");
        let status = self.process.wait(Duration::from_secs(12)).await;
        let status = status.unwrap_or_else(|| panic!("it still runs 12 s after SIGTERM:\n{}", self.process.output()));
        assert!(status.success(), "it ended with {status}:\n{}", self.process.output());
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Said {
    /// Its standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
