//! A real Prometheus that scrapes every second.

use std::{collections::BTreeMap, net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    eventually,
    process::{Folder, Process, free_port},
};

/// Ready within a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// One scrape target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its series are labelled with besides `job` and `instance`.
    pub labels: BTreeMap<String, String>,
}

impl Target {
    /// A target with these labels.
    #[must_use]
    pub fn new(address: SocketAddr, labels: &[(&str, &str)]) -> Self {
        Self {
            address,
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    port: u16,
    http: reqwest::Client,
    folder: Folder,
}

impl Prometheus {
    /// Starts one and returns when it is ready and has scraped every target.
    pub async fn start(targets: &[Target]) -> Self {
        Self::start_every(Duration::from_secs(1), targets).await
    }

    /// The same with another time between two scrapes.
    pub async fn start_every(spacing: Duration, targets: &[Target]) -> Self {
        super::install_tls();
        let folder = Folder::new();
        let timeout = spacing.mul_f64(0.8);
        let config = json!({
            "global": {"scrape_interval": format!("{}ms", spacing.as_millis()), "scrape_timeout": format!("{}ms", timeout.as_millis())},
            "scrape_configs": [{
                "job_name": "apps",
                "file_sd_configs": [{"files": [folder.path().join("targets.json")], "refresh_interval": "1s"}],
            }],
        });
        folder.write("prometheus.yml", config.to_string());
        write_targets(&folder, targets);
        let port = free_port();
        let mut made = Self {
            process: launch(&folder, port),
            port,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(5))
                .no_proxy()
                .build()
                .expect("a client"),
            folder,
        };
        made.wait_ready().await;
        made.wait_scraped(targets.len()).await;
        made
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Scrapes these from now on; returns when each was scraped.
    pub async fn set_targets(&self, targets: &[Target]) {
        write_targets(&self.folder, targets);
        self.wait_scraped(targets.len()).await;
    }

    /// Ends it at once: connections are refused from now on.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Makes it hang (`STOP`) or go on (`CONT`).
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Starts it again at the same address with what it had stored; returns when it is ready.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.folder, self.port);
        self.wait_ready().await;
    }

    /// The result of an instant query: `(labels, value)` per series.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let answer = self
            .get(&format!("{}/api/v1/query", self.url()), expression)
            .await
            .expect("Prometheus answers");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        series.iter().map(|one| (one["metric"].clone(), value(one))).collect()
    }

    async fn get(&self, url: &str, expression: &str) -> Option<Value> {
        let answer = self.http.get(url).query(&[("query", expression)]).send().await.ok()?;
        answer.json().await.ok()
    }

    async fn wait_ready(&mut self) {
        let url = format!("{}/-/ready", self.url());
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            self.process.must_live();
            if self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "Prometheus is not ready after {START_LIMIT:?}"
            );
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    async fn wait_scraped(&self, count: usize) {
        eventually("a scrape of every target", START_LIMIT, async || {
            (self.query("up == 1").await.len() >= count).then_some(())
        })
        .await;
    }
}

fn launch(folder: &Folder, port: u16) -> Process {
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--log.level=warn", "--storage.tsdb.retention.time=1d"]);
    Process::start("prometheus", command, folder.path().join("prometheus.log"))
}

/// Replaces the file in one step: Prometheus reads it the moment it changes.
fn write_targets(folder: &Folder, targets: &[Target]) {
    let groups: Vec<Value> = targets
        .iter()
        .map(|target| json!({"targets": [target.address.to_string()], "labels": target.labels}))
        .collect();
    let part = folder.write("targets.part", Value::from(groups).to_string());
    std::fs::rename(part, folder.path().join("targets.json")).expect("the folder is ours");
}
