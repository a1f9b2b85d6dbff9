//! A real Alertmanager as a process of its own, which tells a chat what it would tell people.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    Chat,
    process::{Folder, Process, free_port, on_path, skip},
};

/// Debian's names for Alertmanager and its tool.
const SERVER: &str = "prometheus-alertmanager";
const TOOL: &str = "amtool";

/// Ready within a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Alertmanager {
    /// It ends with its last user.
    _process: Process,
    _folder: Folder,
    port: u16,
    http: reqwest::Client,
    /// What it tells: its own webhook's bodies.
    pub told: Chat,
}

/// Whether it is installed; says so when it is not.
pub fn installed(test: &str) -> bool {
    let missing = [SERVER, TOOL].into_iter().find(|program| !on_path(program));
    if let Some(missing) = missing {
        skip(test, &format!("{missing} is not on the PATH"));
    }
    missing.is_none()
}

impl Alertmanager {
    pub async fn start() -> Self {
        crate::support::install_tls();
        let folder = Folder::new();
        let told = Chat::start().await;
        let config = json!({
            "route": {
                "receiver": "people", "group_by": ["..."], "group_wait": "500ms", "group_interval": "1s", "repeat_interval": "1h",
            },
            "receivers": [{"name": "people", "webhook_configs": [{"url": told.url("/told"), "send_resolved": true}]}],
        });
        let file = folder.write("alertmanager.yml", config.to_string());
        let checked = Command::new(TOOL).arg("check-config").arg(&file).output().expect("amtool runs");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let port = free_port();
        let mut command = Command::new(SERVER);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            // Alone: no gossip, no port for it.
            .arg("--cluster.listen-address=");
        let mut process = Process::start("alertmanager", command, folder.path().join("log"));
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .no_proxy()
            .build()
            .expect("a client");
        let ready = format!("http://127.0.0.1:{port}/-/ready");
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while !http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            process.must_live();
            assert!(tokio::time::Instant::now() < deadline, "Alertmanager is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            _process: process,
            _folder: folder,
            port,
            http,
            told,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it holds to be firing, by its API.
    pub async fn firing(&self) -> Vec<Value> {
        let url = format!("{}/api/v2/alerts", self.url());
        let answer = self.http.get(url).send().await.expect("it answers");
        answer.json().await.expect("a list")
    }

    /// The same by its own command-line tool.
    pub fn queried(&self) -> Vec<Value> {
        let output = Command::new(TOOL)
            .args(["alert", "query", "--output=json", "--alertmanager.url", &self.url()])
            .output()
            .expect("amtool runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("a list")
    }
}
