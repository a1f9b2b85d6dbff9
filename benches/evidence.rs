//! What keeping evidence costs, measured: from the accepted patch to the whole bundle, and the memory that takes, on a real
//! kube-apiserver with 20 pods of two containers with 5 MB of logs each. `make bench-evidence` prints the figures and writes
//! `target/evidence.json`.
//!
//! Nothing is asserted on: a busy machine would fail it. The witnesses are the API server's audit log, the kernel and the
//! file system. The logs come from a small kubelet in this process, through the API server, as `kubectl logs` gets them.

#[path = "../tests/support/mod.rs"]
pub mod support;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    Cluster, Prometheus, Shop, eventually, install_tls, now,
    process::{Folder, Process, free_port},
    real_parts,
};
use tokio::time::Instant;

/// Pods of the color that is left.
const PODS: usize = 20;
/// Bytes of each of their two containers' logs, and how often each setting is measured.
const LOG_BYTES: usize = 5_000_000;
const ROUNDS: usize = 3;
/// Memory may grow by so much while capturing, in MiB.
const MEMORY_GOAL: f64 = 30.0;
const TOKEN: &str = "only-for-the-figures";
const LIMIT: Duration = Duration::from_secs(300);
/// Before memory is read: nothing of the start is under way any more.
const SETTLE: Duration = Duration::from_secs(8);
/// After a bundle is whole, until its report was made once more.
const RENDERED: Duration = Duration::from_secs(6);
/// `deploy/monitor.yaml`'s account is what the daemon works under.
const KINDS: [&str; 3] = ["kind: ServiceAccount\n", "kind: Role\n", "kind: RoleBinding\n"];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads start").block_on(measure());
}

/// Progress, for who waits; the figures go to standard output.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "evidence: {what}");
}

fn binary() -> PathBuf {
    std::env::var_os("FLIPBACK_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_flipback").into(), PathBuf::from)
}

async fn measure() {
    let Some(assets) = real_parts("evidence", &["etcd", "prometheus"]) else {
        return;
    };
    install_tls();
    say("starting a control plane and the shop");
    let cluster = Cluster::start(&assets).await;
    let namespace = cluster.namespace("shop").await;
    let shop = Shop::open(&cluster, &namespace, "shop", PODS).await;
    let proxy = json!({"name": "proxy", "image": "registry.invalid/proxy:1"});
    let patch = json!({"spec": {"template": {"spec": {"containers": [proxy]}}}}).to_string();
    let patch = [
        "-n",
        &namespace,
        "patch",
        "deployment",
        "shop-green",
        "--type=strategic",
        "-p",
        &patch,
    ];
    cluster.kubectl(&patch, "").await.expect("the Deployment is patched");
    cluster.wait_ready(&namespace, "shop-green", true).await;
    cluster.set_logs(&namespace, "shop-green", &log(), None);
    let prometheus = Prometheus::start(&shop.targets().await).await;
    let manifest = std::fs::read_to_string(support::project().join("deploy/monitor.yaml")).expect("the manifest is there");
    let ours: Vec<&str> = manifest
        .split("\n---\n")
        .filter(|one| KINDS.iter().any(|kind| one.contains(kind)))
        .collect();
    let ours = ours.join("\n---\n").replace("namespace: shop", &format!("namespace: {namespace}"));
    cluster.apply_yaml(&ours).await;

    let mut figures = Vec::new();
    let everything = "log_lines = 100_000\nlog_bytes = \"6MiB\"\npods_max = 20\ndeadline = \"4m\"\nafter = \"0s\"";
    for (name, evidence) in [("everything", everything), ("defaults", "after = \"0s\"")] {
        for round in 1..=ROUNDS {
            say(&format!("{name}, round {round} of {ROUNDS}"));
            figures.push(one(&cluster, &shop, &prometheus, name, evidence).await);
        }
    }
    report(&figures);
}

/// What an application says: lines of a hundred bytes, no two alike, some of them with a secret.
fn log() -> String {
    let mut log = String::with_capacity(LOG_BYTES + 200);
    for n in 0.. {
        if log.len() >= LOG_BYTES {
            break;
        }
        let about = if n % 50 == 0 {
            "Authorization: Bearer 0123456789abcdef0123"
        } else {
            "GET /checkout 200 in 12 ms for user 4711"
        };
        log.push_str(&format!(
            "2026-11-21T04:12:33.{:09}Z level=info request={n:08} {about} trace=4bf92f3577b34da6\n",
            n % 1_000_000_000
        ));
    }
    log
}

/// One measurement.
struct Figure {
    setting: String,
    /// Seconds from the accepted patch to the bundle under its name.
    seconds: f64,
    /// MiB resident before, and at most while capturing and making the report, the second making after the flip's last line
    /// included.
    before: f64,
    peak: f64,
    /// MiB on the disk, and in how many files.
    size: f64,
    files: usize,
    /// What the bundle lacks.
    missing: usize,
    /// KiB of `report.html` and of `plot.png`; `None`: it was not written.
    report: Option<f64>,
    picture: Option<f64>,
}

async fn one(cluster: &Arc<Cluster>, shop: &Shop, prometheus: &Prometheus, setting: &str, evidence: &str) -> Figure {
    let folder = Folder::new();
    folder.write("token", TOKEN);
    let kubeconfig = cluster.kubeconfig_for_service_account(&shop.namespace, "flipback").await;
    let port = free_port();
    let config = configuration(&shop.namespace, &prometheus.url(), &kubeconfig, port, evidence);
    shop.switch_to("blue").await;
    // What an earlier round's daemon left is not taken up by this one.
    let active = shop.active();
    let forget = ["-n", &shop.namespace, "annotate", "service", &active, "flipback.dev/ledger-"];
    cluster.kubectl(&forget, "").await.expect("the annotation is removed");
    let mut command = Command::new(binary());
    command.env_clear().env("HOME", folder.path()).args(["run", "--config"]);
    command.arg(folder.write("flipback.toml", config));
    let mut daemon = Process::start("flipback", command, folder.path().join("flipback.log"));
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .no_proxy()
        .build()
        .expect("a client");
    let url = format!("http://127.0.0.1:{port}");
    eventually("a first verdict", LIMIT, async || {
        let ready = http.get(format!("{url}/readyz")).send().await.ok()?;
        ready.status().is_success().then_some(())
    })
    .await;
    // To green by somebody else, as a release is; back by flipback.
    shop.switch_to("green").await;
    tokio::time::sleep(SETTLE).await;
    daemon.must_live();
    let before = memory(&daemon, "VmRSS:");
    // From here on the kernel counts the peak anew.
    std::fs::write(format!("/proc/{}/clear_refs", daemon.id()), "5").expect("our own child");
    let command = json!({"command": "switch", "guard": format!("{}/shop", shop.namespace), "to": "blue", "by": "figures", "reason": "to measure", "dry_run": false});
    let request = http.post(format!("{url}/api/v1/commands")).bearer_auth(TOKEN).json(&command);
    let said: Value = request.send().await.expect("the daemon answers").json().await.expect("JSON");
    assert_eq!(
        said["incident"]["outcome"]["result"],
        "rolled_back",
        "{said:#}\n{}",
        daemon.output()
    );
    let id = said["incident"]["id"].as_str().expect("an id");
    let bundle = sealed(&folder.path().join("data/incidents").join(id)).await;
    let whole = now();
    // The report is made once more when the incident's last lines have come.
    tokio::time::sleep(RENDERED).await;
    let peak = memory(&daemon, "VmHWM:");
    let audit = cluster.audit_of(&shop.namespace, "flipback");
    let patch = audit
        .iter()
        .rev()
        .find(|event| event.is_stored() && event.is_on("services", &shop.namespace, &shop.active()));
    let patched = patch.expect("the flip is in the audit log").answered;
    let incident = std::fs::read_to_string(bundle.join("incident.json")).expect("readable");
    let incident: Value = serde_json::from_str(&incident).expect("JSON");
    let (size, files) = weigh(&bundle);
    for line in incident["capture_errors"].as_array().expect("a list").iter().take(3) {
        say(&format!("missing: {line}"));
    }
    Figure {
        setting: setting.to_owned(),
        seconds: whole.duration_since(patched).as_secs_f64(),
        before,
        peak,
        size,
        files,
        missing: incident["capture_errors"].as_array().map_or(0, Vec::len),
        report: kib(&bundle.join("report.html")),
        picture: kib(&bundle.join("plot.png")),
    }
}

/// Waits for a bundle to get its name; looks every few milliseconds.
async fn sealed(bundle: &Path) -> PathBuf {
    let until = Instant::now() + LIMIT;
    loop {
        if bundle.is_dir() {
            return bundle.to_owned();
        }
        assert!(Instant::now() < until, "no bundle after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the kernel says of the daemon's memory, in MiB.
fn memory(daemon: &Process, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("the kernel tells") / 1024.0
}

/// KiB of a file, where there is one.
fn kib(file: &Path) -> Option<f64> {
    std::fs::metadata(file).ok().map(|file| file.len() as f64 / 1024.0)
}

/// MiB and number of files below a folder.
fn weigh(folder: &Path) -> (f64, usize) {
    let (mut size, mut files) = (0.0, 0);
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        if entry.path().is_dir() {
            let (inner_size, inner_files) = weigh(&entry.path());
            (size, files) = (size + inner_size, files + inner_files);
        } else {
            (size, files) = (size + entry.metadata().expect("there").len() as f64 / f64::from(1 << 20), files + 1);
        }
    }
    (size, files)
}

fn report(figures: &[Figure]) {
    anstream::println!(
        "| setting | flip to bundle whole | memory before | peak while capturing | more | bundle | files | missing | report.html | plot.png |"
    );
    anstream::println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for one in figures {
        let more = one.peak - one.before;
        let written = |kib: Option<f64>| kib.map_or_else(|| "NOT WRITTEN".to_owned(), |kib| format!("{kib:.0} KiB"));
        let verdict = if more <= MEMORY_GOAL { "met" } else { "MISSED" };
        anstream::println!(
            "| {} | {:.2} s | {:.1} MiB | {:.1} MiB | {more:.1} MiB (<= {MEMORY_GOAL}: {verdict}) | {:.1} MiB | {} | {} | {} | {} |",
            one.setting,
            one.seconds,
            one.before,
            one.peak,
            one.size,
            one.files,
            one.missing,
            written(one.report),
            written(one.picture)
        );
    }
    let figures: Vec<Value> = figures
        .iter()
        .map(|one| {
            json!({"setting": one.setting, "seconds": one.seconds, "memory_before_mib": one.before, "memory_peak_mib": one.peak,
                "bundle_mib": one.size, "files": one.files, "missing": one.missing, "report_kib": one.report, "picture_kib": one.picture})
        })
        .collect();
    let text =
        serde_json::to_string_pretty(&json!({"pods": PODS, "containers": 2, "log_bytes": LOG_BYTES, "figures": figures})).expect("JSON");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/evidence.json");
    std::fs::write(file, text + "\n").expect("the target folder is writable");
}

fn configuration(namespace: &str, prometheus: &str, kubeconfig: &Path, port: u16, evidence: &str) -> String {
    let kubeconfig = kubeconfig.display();
    format!(
        r#"data_dir = "data"
[serve]
listen = "127.0.0.1:{port}"
token_file = "token"
[prometheus]
url = "{prometheus}"
[clusters.testbed]
kubeconfig = "{kubeconfig}"
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
# Something to draw, without traffic.
[guards.rules.targets]
kind = "promql"
expr = 'count(up)'
max = 1000
action = "alert"
[guards.evidence]
{evidence}
"#
    )
}
