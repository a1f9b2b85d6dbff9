//! The daemon as a process, and what the kernel and its own API say about it.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    binary,
    support::{
        Cluster, Shop, install_tls,
        process::{Folder, Process, free_port},
    },
};

const TOKEN: &str = "only-for-the-figures";
/// Until the first verdict; 500 guards on a busy machine included.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// What the kernel counts processor time in: 1/100 s on every Linux (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);
/// Rights of `deploy/monitor.yaml`, in every namespace: there they are one Role per namespace, naming the Services.
const RIGHTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: flipback}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: flipback, namespace: flipback}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flipback}
rules:
  - {apiGroups: [''], resources: [services, pods, events], verbs: [get, list, watch]}
  - {apiGroups: [''], resources: [pods/log], verbs: [get]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
  - {apiGroups: [apps], resources: [deployments, replicasets], verbs: [get, list, watch]}
  - {apiGroups: [autoscaling], resources: [horizontalpodautoscalers], verbs: [list]}
  - {apiGroups: [policy], resources: [poddisruptionbudgets], verbs: [list]}
  - {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [list]}
  - {apiGroups: [''], resources: [services], verbs: [patch]}
  - {apiGroups: [''], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flipback}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flipback}
subjects: [{kind: ServiceAccount, name: flipback, namespace: flipback}]
";

/// The daemon's account in the cluster.
pub struct Account {
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
}

impl Account {
    /// What the audit log calls it.
    pub const USER: &str = "system:serviceaccount:flipback:flipback";

    /// Makes it.
    pub async fn make(cluster: &Cluster) -> Self {
        cluster.apply_yaml(RIGHTS).await;
        Self {
            kubeconfig: cluster.kubeconfig_for_service_account("flipback", "flipback").await,
        }
    }
}

/// What every daemon of a measurement shares.
pub struct Setup {
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    /// URL of its Prometheus.
    pub prometheus: String,
}

/// One guard: namespace, and the shop's name, which its Services and Deployments begin with.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Its namespace.
    pub namespace: String,
    /// The shop's name.
    pub name: String,
}

/// The guard of a shop of the testbed.
pub fn guard_of(shop: &Shop) -> Guard {
    Guard {
        namespace: shop.namespace.clone(),
        name: shop.name.clone(),
    }
}

/// Resident memory in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub now: f64,
    /// At most so far.
    peak: f64,
    /// Of it, pages of the binary and its libraries, which the kernel may take back at any time.
    mapped: f64,
}

impl Memory {
    /// Where it goes, for people.
    pub fn parts(&self) -> String {
        format!("{:.1} of them pages of the binary; peak {:.1}", self.mapped, self.peak)
    }
}

/// A running daemon.
pub struct Daemon {
    /// From its start to the end of its first look at all guards.
    pub ready_after: Duration,
    process: Process,
    http: reqwest::Client,
    url: String,
    _folder: Folder,
}

impl Daemon {
    /// Starts one with every setting at its default, but for the poll where one is given; returns after the first verdict.
    pub async fn start(setup: &Setup, guards: &[Guard], poll: Option<Duration>) -> Self {
        Self::telling(setup, guards, poll, &[]).await
    }

    /// The same with chats: of each its name and its webhook URL.
    pub async fn telling(setup: &Setup, guards: &[Guard], poll: Option<Duration>, chats: &[(&str, String)]) -> Self {
        install_tls();
        let folder = Folder::new();
        folder.write("token", TOKEN);
        let port = free_port();
        let chats: String = chats
            .iter()
            .map(|(name, url)| {
                folder.write(&format!("{name}-url"), url);
                format!("[chats.{name}]\nurl_file = \"{name}-url\"\n")
            })
            .collect();
        let config = folder.write("flipback.toml", configuration(setup, guards, poll, port) + &chats);
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("HOME", folder.path())
            .args(["run", "--config"])
            .arg(&config);
        let url = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build();
        let http = http.expect("a client");
        let begun = Instant::now();
        let mut process = Process::start("flipback", command, folder.path().join("flipback.log"));
        let asked = format!("{url}/readyz");
        while !http.get(&asked).send().await.is_ok_and(|answer| answer.status().is_success()) {
            process.must_live();
            assert!(begun.elapsed() < READY_LIMIT, "no first verdict:\n{}", process.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self {
            ready_after: begun.elapsed(),
            process,
            http,
            url,
            _folder: folder,
        }
    }

    /// A guard's status; null while there is none.
    pub async fn guard(&self, id: &str) -> Value {
        let answer = self.http.get(format!("{}/api/v1/guards/{id}", self.url)).send().await;
        match answer {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Waits until a guard's status fits.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub async fn wait_for(&self, id: &str, what: &str, limit: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let guard = self.guard(id).await;
            if fits(&guard) {
                return guard;
            }
            assert!(
                begun.elapsed() < limit,
                "waited in vain for {what} of {id}: {guard:#}\n{}",
                self.process.output()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Switches by hand; returns the milliseconds from decision to accepted patch.
    ///
    /// # Panics
    /// When it is refused, unless for the moment only.
    pub async fn switch(&self, guard: &str, to: &str) -> f64 {
        let command = json!({"command": "switch", "guard": guard, "to": to, "by": "figures", "reason": "to measure", "dry_run": false});
        let mut said = Value::Null;
        for _ in 0..50 {
            let url = format!("{}/api/v1/commands", self.url);
            let request = self.http.post(url).bearer_auth(TOKEN).json(&command);
            let answer = request.send().await.expect("the daemon answers");
            said = answer.json().await.unwrap_or_default();
            if let Some(took) = said["incident"]["outcome"]["took_ms"].as_f64() {
                return took;
            }
            // The watch has not seen the flip before this one.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the switch to {to} is refused: {said}\n{}", self.process.output());
    }

    /// Its memory, as the kernel counts it.
    pub fn memory(&self) -> Memory {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(path).expect("it runs");
        let mib = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.expect("the kernel tells") / 1024.0
        };
        Memory {
            now: mib("VmRSS:"),
            peak: mib("VmHWM:"),
            mapped: mib("RssFile:"),
        }
    }

    /// Processor time it has used so far, its own and the kernel's for it.
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.process.id());
        let text = std::fs::read_to_string(path).expect("it runs");
        // The second field is the name in parentheses and may hold anything; utime and stime are the 14th and 15th.
        let (_, rest) = text.rsplit_once(')').expect("the kernel's format");
        let ticks = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u32>().ok());
        TICK * ticks.sum::<u32>()
    }

    /// How often it has looked at all guards.
    pub async fn looks(&self) -> f64 {
        let metrics = self.metrics().await;
        metrics["flipback_tick_duration_seconds_count"]
    }

    /// Guards that have no usable data.
    pub async fn unread(&self) -> usize {
        let metrics = self.metrics().await;
        let blind = metrics
            .iter()
            .filter(|(name, value)| name.starts_with("flipback_blind{") && **value > 0.0);
        blind.count()
    }

    async fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.http.get(format!("{}/metrics", self.url)).send().await;
        let text = answer.expect("the daemon answers").text().await.expect("text");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Ends it as systemd does.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn end(mut self) {
        self.process.signal("TERM");
        let ended = self.process.wait(Duration::from_secs(10)).await;
        assert!(ended.is_some_and(|status| status.success()), "{}", self.process.output());
    }
}

fn configuration(setup: &Setup, guards: &[Guard], poll: Option<Duration>, port: u16) -> String {
    let poll = poll.map_or_else(String::new, |poll| format!("poll = \"{}ms\"\n", poll.as_millis()));
    let (prometheus, kubeconfig) = (&setup.prometheus, setup.kubeconfig.display());
    let guards: String = guards.iter().map(guard).collect();
    format!(
        r#"{poll}data_dir = "data"
[serve]
listen = "127.0.0.1:{port}"
token_file = "token"
[prometheus]
url = "{prometheus}"
[clusters.testbed]
kubeconfig = "{kubeconfig}"
{guards}"#
    )
}

fn guard(Guard { namespace, name }: &Guard) -> String {
    format!(
        r#"
[[guards]]
name = "{name}"
namespace = "{namespace}"
[guards.route]
service = "{name}-active"
preview = "{name}-preview"
selector_key = "color"
[guards.colors]
blue = {{ value = "blue", deployment = "{name}-blue" }}
green = {{ value = "green", deployment = "{name}-green" }}
"#
    )
}
