//! A shop whose daemon reaches the API server over a toll house, who watches the Service meanwhile, and what holds at the end.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{Daemon, Ground, Toll, eventually, toll::Asked};

/// A rule that needs nothing but the API server, and is quick; no second pass over the evidence.
pub const DOWN: &str = "follow_up = \"0s\"\n[guards.rules.endpoints]\ndown_for = \"2s\"\n";
/// A busy machine takes its time.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Time in which a daemon that means to do something wrong would have done it: several looks.
const A_WHILE: Duration = Duration::from_secs(3);
/// Of the daemon's log, where a story fails.
const LINES_SHOWN: usize = 80;

/// A shop whose daemon goes over a toll.
pub struct Scene {
    pub ground: Ground,
    pub toll: Toll,
}

impl Scene {
    /// One in the cluster that the tests of this binary share.
    pub async fn open(name: &str) -> Option<Self> {
        Some(Self::over(Ground::open(name, DOWN).await?).await)
    }

    /// One that stands already.
    pub async fn over(ground: Ground) -> Self {
        let toll = Toll::before(&ground).await;
        Self { ground, toll }
    }

    /// Sets something about the cluster.
    pub fn set(&self, line: &str) {
        self.ground.edit("[clusters.testbed]\n", &format!("[clusters.testbed]\n{line}\n"));
    }

    /// What fits requests of a method about the active Service.
    pub fn about_active(&self, method: &'static str) -> impl Fn(&Asked) -> bool + Send + 'static {
        let path = format!(
            "/api/v1/namespaces/{}/services/{}",
            self.ground.namespace,
            self.ground.shop.active()
        );
        move |asked| asked.method == method && asked.is_on(&path)
    }

    /// What fits the lists and watches of everything that the daemon caches.
    pub fn about_lists(&self) -> impl Fn(&Asked) -> bool + Send + 'static {
        let namespace = format!("/namespaces/{}/", self.ground.namespace);
        let collections = ["services", "pods", "endpointslices", "deployments"];
        move |asked| {
            let path = asked.uri.split('?').next().unwrap_or_default();
            asked.method == "GET" && asked.uri.contains(&namespace) && collections.iter().any(|plural| path.ends_with(plural))
        }
    }

    /// The daemon, with green live, and who watches the Service from here on.
    pub async fn released(&self) -> (Daemon, Witness) {
        let mut daemon = self.ground.start(&[]).await;
        self.ground.release_green(&mut daemon).await;
        let witness = Witness::of(&self.ground).await;
        (daemon, witness)
    }

    /// Green has no endpoint from here on.
    pub fn green_goes_down(&self) {
        self.ground.cluster.set_ready(&self.ground.namespace, "shop-green", false);
    }
}

/// Who watches the active Service beside the daemon, and writes down every color that it has selected.
pub struct Witness {
    colors: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    log: PathBuf,
}

impl Witness {
    /// Begins when the Service has been seen.
    pub async fn of(ground: &Ground) -> Self {
        let services: Api<Service> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", ground.shop.active()));
        let colors: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&colors);
        let task = tokio::spawn(async move {
            let mut services = watcher(services, only).default_backoff().applied_objects().boxed();
            while let Some(service) = services.next().await {
                // It goes on by itself when the API server is back.
                let selector = service.ok().and_then(|service| service.spec?.selector).unwrap_or_default();
                let Some(color) = selector.get("color") else { continue };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last() != Some(color) {
                    seen.push(color.clone());
                }
            }
        });
        let log = ground.folder.path().join("flipback.log");
        let witness = Self { colors, task, log };
        eventually("the Service to be seen", LIMIT, async || {
            (!witness.colors().is_empty()).then_some(())
        })
        .await;
        witness
    }

    /// The colors, each as often as it was switched to.
    pub fn colors(&self) -> Vec<String> {
        self.colors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let is_news = |line: &&str| !line.contains(": Looked") && !line.contains("Delivered message");
            let lines: Vec<&str> = log.lines().filter(is_news).collect();
            let last = lines.len().saturating_sub(LINES_SHOWN);
            let _ = writeln!(std::io::stderr(), "the daemon said at last:\n{}", lines[last..].join("\n"));
        }
    }
}

/// What a chat was told of a topic, each message once.
pub fn told(ground: &Ground, topic: &str) -> Vec<Value> {
    let mut ids = BTreeSet::new();
    let deliveries = ground.chat.deliveries().into_iter();
    deliveries
        .filter(|one| one.path == "/webhook" && one.status == 200 && one.body["data"]["topic"] == topic)
        .map(|one| one.body["data"].clone())
        .filter(|data| ids.insert(data["id"].to_string()))
        .collect()
}

/// Waits until a chat was told of a topic with all of these words.
pub async fn wait_told(ground: &Ground, topic: &str, words: &[&str]) -> Value {
    eventually(&format!("{topic} to be told with {words:?}"), LIMIT, async || {
        let said = told(ground, topic);
        let fits = |data: &&Value| words.iter().all(|word| data["why"].as_str().is_some_and(|why| why.contains(word)));
        said.iter().find(fits).cloned()
    })
    .await
}

/// Waits until the daemon's log has a line with all of these.
pub async fn wait_log(ground: &Ground, words: &[&str]) {
    let path = ground.folder.path().join("flipback.log");
    eventually(&format!("a log line with {words:?}"), LIMIT, async || {
        let log = std::fs::read_to_string(&path).ok()?;
        log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    })
    .await;
}

/// The incidents on disk, whole ones.
pub fn incidents(ground: &Ground) -> Vec<Value> {
    let folders = std::fs::read_dir(ground.folder.path().join("data/incidents")).into_iter().flatten();
    let whole = folders
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("MANIFEST.sha256").exists());
    whole
        .filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
        .filter_map(|path| serde_json::from_str(&std::fs::read_to_string(path.join("incident.json")).ok()?).ok())
        .collect()
}

/// The flips that the ledger on the active Service tells of; `None` while it cannot be read.
pub async fn ledger(ground: &Ground) -> Option<Vec<Value>> {
    let services: Api<Service> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
    let service = services.get(&ground.shop.active()).await.ok()?;
    let text = service.metadata.annotations?.get("flipback.dev/ledger").cloned()?;
    let ledger: Value = serde_json::from_str(&text).expect("a ledger is JSON");
    Some(ledger["flips"].as_array().cloned().unwrap_or_default())
}

/// How the API server's own record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// One patch of the Service was accepted.
    Once,
    /// It may have taken the API server itself for lost: what etcd did after that is in no record.
    AtMostOnce,
}

/// Whether people were told that traffic has arrived where this incident moved it.
fn is_told(ground: &Ground, id: &Value) -> bool {
    told(ground, "rollback_completed").iter().any(|data| data["incident"] == *id)
}

/// The incident of the newest flip, once it is told and kept as what it was; else what is known so far.
async fn proven(ground: &Ground) -> Result<Value, String> {
    let flips = ledger(ground).await.ok_or("no ledger")?;
    let id = flips.last().ok_or("no flip")?["incident"].clone();
    let kept = incidents(ground);
    let results: Vec<_> = kept.iter().map(|incident| (&incident["id"], &incident["outcome"])).collect();
    let is_told = is_told(ground, &id);
    let so_far = format!(
        "{id}, told: {is_told}, kept: {results:?}, failed: {:?}",
        told(ground, "rollback_failed")
    );
    let incident = kept.iter().find(|incident| incident["id"] == id).ok_or(so_far.clone())?;
    let is_proven = is_told && incident["outcome"]["result"] == "rolled_back";
    is_proven.then(|| incident.clone()).ok_or(so_far)
}

/// Everything that holds in the end, whatever broke: returns the incident.
pub async fn check_one_flip(ground: &Ground, daemon: &mut Daemon, witness: &Witness, recorded: Recorded) -> Value {
    let deadline = tokio::time::Instant::now() + LIMIT;
    let incident = loop {
        match proven(ground).await {
            Ok(incident) => break incident,
            Err(so_far) => assert!(
                tokio::time::Instant::now() < deadline,
                "the one flip is not told and proven: {so_far}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::time::sleep(A_WHILE).await;
    daemon.process.must_live();

    // It goes on in its own time where the API server was away.
    eventually("the witness to have seen it", LIMIT, async || {
        (witness.colors().last()? == "blue").then_some(())
    })
    .await;
    assert_eq!(witness.colors(), ["green", "blue"]);
    let flips = ledger(ground).await.expect("the API server is well");
    assert_eq!(flips.len(), 1, "{flips:#?}");
    let accepted = ground.flips();
    match recorded {
        Recorded::Once => assert_eq!(accepted.len(), 1, "{accepted:#?}"),
        Recorded::AtMostOnce => assert!(accepted.len() <= 1, "{accepted:#?}"),
    }
    // What was tried or refused beside it is kept as what it was.
    for other in incidents(ground).iter().filter(|other| other["id"] != incident["id"]) {
        assert_ne!(other["outcome"]["result"], "rolled_back", "{other:#}");
    }
    assert!(
        told(ground, "rollback_completed").len() <= 1,
        "{:#?}",
        told(ground, "rollback_completed")
    );
    incident
}
