//! The daemon as a process, its files, and what it is configured with by now.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    binary,
    daemon::Guard,
    prometheus::QUEUE,
    support::{
        install_tls,
        process::{Folder, Process, free_port},
    },
};

const TOKEN: &str = "only-for-the-soak";
/// Until the first verdict on 500 guards on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// One guard as configured.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which shop.
    pub shop: usize,
    /// What it is called: the shop's name, or another.
    pub name: String,
    /// Another threshold than the default makes it judged anew: in thousandths of a percent above 5 %.
    pub thousandths: u32,
}

/// The configuration file.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The guards.
    pub guards: Vec<Entry>,
    /// Of each chat its name.
    pub chats: Vec<String>,
    /// Quiet time of the chats, seconds.
    pub quiet: u32,
    /// Bundles that are kept.
    pub bundles: u32,
    /// How long a read may take, milliseconds: another value connects the cluster anew.
    pub read_timeout: u32,
    /// How long a query may take, milliseconds: another value asks Prometheus anew.
    pub query_timeout: u32,
}

/// A running daemon.
#[derive(Debug)]
pub struct House {
    /// Its process.
    pub process: Process,
    /// Holds its configuration, secrets, log and `data`.
    pub folder: Folder,
    http: reqwest::Client,
    url: String,
    prometheus: String,
    port: u16,
}

impl House {
    /// Starts one; returns after the first verdict.
    pub async fn open(shops: &[Guard], plan: &Plan, prometheus: String, kubeconfig: &str, chat: impl Fn(&str) -> String) -> Self {
        install_tls();
        let folder = Folder::new();
        folder.write("token", TOKEN);
        folder.write("kubeconfig.yaml", kubeconfig);
        for name in CHATS {
            folder.write(&format!("{name}-url"), chat(name));
        }
        let port = free_port();
        let config = folder.write("flipback.toml", text(shops, plan, &prometheus, port));
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("HOME", folder.path())
            // As the manifest and the unit in deploy/ set them.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .args(["run", "--config"])
            .arg(&config);
        let process = Process::start("flipback", command, folder.path().join("flipback.log"));
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            // A connection of its own for each question: what is counted of the daemon's descriptors is no pool of ours.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .expect("a client");
        let mut house = Self {
            process,
            folder,
            http,
            url: format!("http://127.0.0.1:{port}"),
            prometheus,
            port,
        };
        let begun = Instant::now();
        while house.get("/readyz").await.is_none() {
            house.process.must_live();
            assert!(begun.elapsed() < READY_LIMIT, "no first verdict:\n{}", house.process.output());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        house
    }

    /// Writes the configuration file anew.
    pub fn rewrite(&self, shops: &[Guard], plan: &Plan) {
        self.folder.write("flipback.toml", text(shops, plan, &self.prometheus, self.port));
    }

    /// Writes a file that cannot be taken.
    pub fn break_file(&self, shops: &[Guard], plan: &Plan, kind: usize) {
        let sound = text(shops, plan, &self.prometheus, self.port);
        let broken = match kind % 3 {
            0 => sound.get(..sound.len() / 2).unwrap_or_default().to_owned() + "\n[[guards\n",
            1 => sound.replace("poll = \"1s\"", "poll = \"1s\"\npol = \"2s\""),
            // Two guards on one object.
            _ => {
                sound.clone()
                    + &guard(
                        &shops[0],
                        &Entry {
                            shop: 0,
                            name: "twice".to_owned(),
                            thousandths: 0,
                        },
                    )
            }
        };
        self.folder.write("flipback.toml", broken);
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        answer.error_for_status().ok()
    }

    /// What it shows.
    pub async fn status(&self) -> Option<Value> {
        self.get("/api/v1/status").await?.json().await.ok()
    }

    /// Every series, by name and labels.
    pub async fn metrics(&self) -> Option<BTreeMap<String, f64>> {
        let text = self.get("/metrics").await?.text().await.ok()?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        Some(
            series
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect(),
        )
    }

    /// Gives a command; whether it was carried out.
    pub async fn command(&self, command: &Value) -> bool {
        let url = format!("{}/api/v1/commands", self.url);
        let answer = self.http.post(url).bearer_auth(TOKEN).json(command).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Ends it as systemd does; whether it ended well.
    pub async fn end(&mut self) -> bool {
        self.process.signal("TERM");
        let ended = self.process.wait(Duration::from_secs(10)).await;
        ended.is_some_and(|status| status.success())
    }
}

/// A command that moves a guard by hand.
#[must_use]
pub fn switch(guard: &str, to: &str) -> Value {
    json!({"command": "switch", "guard": guard, "to": to, "by": "the soak", "reason": "a drill"})
}

/// Chats that may be configured.
pub const CHATS: [&str; 5] = ["slack", "teams", "discord", "webhook", "second"];

fn text(shops: &[Guard], plan: &Plan, prometheus: &str, port: u16) -> String {
    let mut out = format!(
        r#"poll = "1s"
data_dir = "data"
[serve]
listen = "127.0.0.1:{port}"
token_file = "token"
[prometheus]
url = "{prometheus}"
timeout = "{query}ms"
[clusters.testbed]
kubeconfig = "kubeconfig.yaml"
read_timeout = "{read}ms"
[blast_radius]
flips = 0
share = 0
[evidence.retention]
count = {bundles}
[defaults.rules.latency_p95]
enabled = false
[defaults.rules.latency_p99]
enabled = false
[defaults.policy]
cooldown = "5s"
flips_per_day = 100
blind_after = "20s"
watch = "12h"
[defaults.evidence]
log_lines = 100
before = "5m"
after = "5s"
deadline = "30s"
follow_up = "45s"
"#,
        query = plan.query_timeout,
        read = plan.read_timeout,
        bundles = plan.bundles,
    );
    for name in &plan.chats {
        let kind = if name == "second" { "kind = \"webhook\"\n" } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "[chats.{name}]\n{kind}url_file = \"{name}-url\"\ntimeout = \"2s\"\nquiet = \"{}s\"\n",
            plan.quiet
        );
    }
    for entry in &plan.guards {
        out += &guard(&shops[entry.shop], entry);
    }
    out
}

fn guard(Guard { namespace, name: shop }: &Guard, entry: &Entry) -> String {
    let mut out = format!(
        r#"
[[guards]]
name = "{name}"
namespace = "{namespace}"
[guards.route]
service = "{shop}-active"
preview = "{shop}-preview"
selector_key = "color"
[guards.colors]
blue = {{ value = "blue", deployment = "{shop}-blue" }}
green = {{ value = "green", deployment = "{shop}-green" }}
"#,
        name = entry.name
    );
    if entry.thousandths > 0 {
        let _ = write!(out, "[guards.rules.error_rate]\nthreshold = \"5.{:03} %\"\n", entry.thousandths);
    }
    if entry.shop % 10 == 3 {
        out += "[guards.rules.latency_p95]\nenabled = true\n[guards.rules.latency_p99]\nenabled = true\n";
    }
    if entry.shop % 25 == 4 {
        let _ = write!(
            out,
            "[guards.rules.queue]\nkind = \"promql\"\naction = \"alert\"\nmax = 35\nallow_overlap = true\nexpr = 'sum({QUEUE}{{namespace=\"{{namespace}}\",pod=~\"{{deployment}}-[a-z0-9]+-[a-z0-9]+\"}})'\n"
        );
    }
    out
}

/// Where a guard's files lie.
#[must_use]
pub fn data(house: &House) -> PathBuf {
    house.folder.path().join("data")
}
