//! What an incident leaves on the disk, on a real kube-apiserver: pods with several containers, a crash loop, autoscaler,
//! disruption budget and Ingress, secrets in plain sight, and the daemon under the Role of `deploy/monitor.yaml`.
//!
//! Witnesses are `sha256sum`, the API server's audit log and the file system.

pub mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use flipback::{
    evidence::{self, Keeper},
    metrics::Metrics,
    model::{GuardSpec, Incident, Moment, Series, settings::EvidenceSettings},
};
use futures::FutureExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::{
    Cluster, eventually, now,
    stage::{Daemon, Ground, SOON, Stage, VERDICT_LIMIT},
};

/// Told in an environment value, an annotation, an argument and the logs; never to be kept.
const HUSH: &str = "hunter2-hunter2";
/// What the crashed containers said before they died.
const LAST_WORDS: &str = "panic: no such table, while password=hunter2-hunter2\n";
/// What is there besides Services and Deployments; the other shop's is none of ours.
const AROUND: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: green}
spec: {minReplicas: 2, maxReplicas: 4, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop-green}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: mail}
spec: {maxReplicas: 4, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: mail}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop}
spec: {minAvailable: 1, selector: {matchLabels: {app: shop}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: mail}
spec: {minAvailable: 1, selector: {matchLabels: {app: mail}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, annotations: {nginx.ingress.kubernetes.io/auth-secret: hunter2-hunter2}}
spec:
  rules:
    - host: shop.example
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop-active, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: mail}
spec: {defaultBackend: {service: {name: mail, port: {number: 25}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: shop}
stringData: {password: hunter2-hunter2}
"#;

/// A second container, secrets in plain sight, and one that is referred to.
fn template() -> Value {
    let hardened = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let env = json!([
        {"name": "DB_PASSWORD", "value": HUSH},
        {"name": "DATABASE_URL", "value": format!("postgres://app:{HUSH}@db/shop")},
        {"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "password"}}},
    ]);
    let containers = json!([
        {"name": "app", "env": env, "args": ["--db-password", HUSH]},
        {"name": "proxy", "image": "registry.invalid/proxy:1", "securityContext": hardened},
    ]);
    json!({"spec": {"replicas": 2, "template": {"metadata": {"annotations": {"team/api-token": HUSH}}, "spec": {"containers": containers}}}})
}

/// A guard that needs no Prometheus to see a crash.
const GUARD: &str = "[guards.rules.endpoints]\ndown_for = \"2s\"\n";

/// The shop with all of that: green is switched on, crashes, and is rolled back by the daemon.
async fn outage(ground: &Ground) -> Daemon {
    let (cluster, namespace) = (&ground.cluster, ground.namespace.as_str());
    apply(cluster, namespace, AROUND).await;
    let mut daemon = ground.start(&[]).await;
    ground.shop.switch_to("green").await;
    let patch = template().to_string();
    let patch = [
        "-n",
        namespace,
        "patch",
        "deployment",
        "shop-green",
        "--type=strategic",
        "-p",
        &patch,
    ];
    cluster.kubectl(&patch, "").await.expect("the Deployment is patched");
    cluster.wait_ready(namespace, "shop-green", true).await;
    ground.shop.wait_endpoints("green", 2).await;
    eventually("the pods of the former template to be gone", VERDICT_LIMIT, async || {
        (cluster.pods(namespace, "color=green").await.len() == 2).then_some(())
    })
    .await;
    let chatter: String = (0..2000)
        .map(|n| format!("request {n} Authorization: Bearer {HUSH}-{n} answered\n"))
        .collect();
    cluster.set_logs(namespace, "shop-green", &chatter, Some(LAST_WORDS));
    daemon.wait_for("green to be active", |guard| guard["active"] == "green").await;
    cluster.crash(namespace, "shop-green");
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon
}

async fn apply(cluster: &Cluster, namespace: &str, manifests: &str) {
    let said = cluster.kubectl(&["-n", namespace, "apply", "-f", "-"], manifests).await;
    said.unwrap_or_else(|said| panic!("kubectl apply failed: {said}"));
}

/// Every file below a folder, by its path within; folders end with a slash.
fn below(folder: &Path) -> BTreeSet<String> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.strip_prefix(folder).expect("below").display().to_string();
            if path.is_dir() {
                found.insert(name + "/");
                folders.push(path);
            } else {
                found.insert(name);
            }
        }
    }
    found
}

/// `sha256sum` vouches for every file, all of them are listed, nobody else may read them, and none tells a secret.
fn assert_sound(folder: &Path) -> Incident {
    let check = ["--check", "--strict", "--quiet", "MANIFEST.sha256"];
    let whole = Command::new("sha256sum")
        .args(check)
        .current_dir(folder)
        .output()
        .expect("sha256sum runs");
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let manifest = fs::read_to_string(folder.join("MANIFEST.sha256")).expect("a list");
    let listed: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| Some(line.split_once("  ")?.1.to_owned()))
        .collect();
    let found = below(folder);
    let files: BTreeSet<String> = found
        .iter()
        .filter(|name| !name.ends_with('/') && *name != "MANIFEST.sha256")
        .cloned()
        .collect();
    assert_eq!(listed, files);
    for name in &found {
        let path = folder.join(name);
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{name}");
        if path.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
            assert!(!text.contains("hunter2"), "{name} tells a secret");
        }
    }
    let schema = fs::read_to_string(support::project().join("docs/incident.schema.json")).expect("it is published");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a sound schema");
    let wrong: Vec<String> = validator
        .iter_errors(&read(folder, "incident.json"))
        .map(|error| error.to_string())
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    let data = folder.parent().and_then(Path::parent).expect("a data folder");
    let all = evidence::list(data).expect("lists");
    let of_this = all.into_iter().find(|(path, _)| path == folder);
    of_this.expect("it is listed").1
}

/// Names of pods do not matter, what is kept of them does.
fn shape(folder: &Path) -> BTreeSet<String> {
    let part = |part: &str| match part.strip_prefix("shop-green-").or(part.strip_prefix("shop-blue-")) {
        Some(_) => "POD".to_owned(),
        None => part.to_owned(),
    };
    let files = below(folder).into_iter().filter(|name| !name.ends_with('/'));
    files.map(|name| name.split('/').map(part).collect::<Vec<_>>().join("/")).collect()
}

fn read(folder: &Path, file: &str) -> Value {
    let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

/// As the daemon's configuration has it; the second pass is made by the test.
fn spec(ground: &Ground) -> GuardSpec {
    let sources = flipback::config::Sources {
        file: Some(ground.config.clone()),
        ..flipback::config::Sources::default()
    };
    let config = flipback::config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"));
    config.guards.first().expect("one guard").as_ref().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_kept_whole_without_a_secret_and_looked_at_again() {
    let Some(ground) = Ground::open("an_incident_is_kept_whole_without_a_secret_and_looked_at_again", GUARD).await else {
        return;
    };
    let mut daemon = outage(&ground).await;
    let folder = ground.evidence().await;
    daemon.terminate().await;

    let incident = assert_sound(&folder);
    let missing: Vec<&String> = incident.capture_errors.iter().filter(|line| !line.starts_with("metrics")).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert_eq!(incident.capture_errors.len(), 1, "nobody listens where Prometheus should be");
    assert!(!incident.partial);
    insta::assert_snapshot!("first_pass", shape(&folder).into_iter().collect::<Vec<_>>().join("\n"));
    assert_eq!(names(&read(&folder, "manifests/hpa.green.json")), ["green"]);
    assert_eq!(names(&read(&folder, "manifests/pdb.blue.json")), ["shop"]);
    assert_eq!(names(&read(&folder, "manifests/ingress.json")), ["shop"]);
    assert_eq!(names(&read(&folder, "manifests/pods.green.json")).len(), 2);
    let pod = read(&folder, "manifests/pods.green.json")["items"][0].clone();
    let env = &pod["spec"]["containers"][0]["env"];
    assert!(env.to_string().contains("[redacted]"), "{env}");
    assert!(env.to_string().contains("secretKeyRef"), "a reference stays: {env}");
    let logs = folder.join("logs/green").join(pod["metadata"]["name"].as_str().expect("a name"));
    let log = |file: &str| fs::read_to_string(logs.join(file)).expect("readable");
    assert_eq!(log("app.previous.log"), "panic: no such table, while password=[redacted]\n");
    assert!(log("proxy.log").ends_with("request 1999 Authorization: Bearer [redacted] answered\n"));
    assert_eq!(log("app.log").lines().count(), 500);

    // The second pass, under the same account.
    let cluster = &ground.cluster;
    let data = ground.folder.path().join("data");
    let keeper = Keeper::open(data, EvidenceSettings::default(), Metrics::new().expect("registers"));
    assert_eq!(keeper.awaiting().len(), 1);
    let sources = evidence::Sources {
        record: None,
        client: Ok(cluster.client(&ground.kubeconfig()).await),
        ranges: Box::new(|_, _| async { Ok(Vec::<Series>::new()) }.boxed()),
    };
    let again = keeper
        .follow_up(&incident.id, &spec(&ground), sources, now())
        .await
        .expect("follows up");
    assert_eq!(again, folder);
    let incident = assert_sound(&folder);
    assert!(incident.followed_up_at.is_some() && keeper.awaiting().is_empty());
    assert_eq!(incident.timeline.last().and_then(|entry| entry.moment), Some(Moment::FollowedUp));
    assert_eq!(incident.capture_errors, Vec::<String>::new());
    let after: Vec<String> = shape(&folder).into_iter().filter(|name| name.starts_with("after/")).collect();
    insta::assert_snapshot!("second_pass", after.join("\n"));

    // The API server never heard of a Secret, from neither pass, and everything asked for was allowed.
    let asked = cluster.audit_of(&ground.namespace, "flipback");
    assert!(asked.iter().any(|event| event.resource == "ingresses"), "it did ask");
    let of_secrets: Vec<_> = asked.iter().filter(|event| event.resource == "secrets").collect();
    assert!(of_secrets.is_empty(), "{of_secrets:#?}");
    let refused: Vec<_> = asked.iter().filter(|event| event.code == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rules_series_of_both_colors_are_kept_for_programs_and_for_spreadsheets() {
    let name = "each_rules_series_of_both_colors_are_kept_for_programs_and_for_spreadsheets";
    let Some(stage) = Stage::open(name, "").await else { return };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", 0.3);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    let folder = stage.evidence().await;
    daemon.terminate().await;
    let incident = assert_sound(&folder);
    let at = incident.case.at;
    for color in ["blue", "green"] {
        for (rule, last) in [
            ("error_rate", ""),
            ("latency_p95", ",\"p95_seconds\""),
            ("latency_p99", ",\"p99_seconds\""),
        ] {
            let csv = fs::read_to_string(folder.join(format!("metrics/{rule}.{color}.csv"))).expect("a table");
            let mut rows = csv.lines();
            let head = format!("time,\"total_per_second\",\"bad_per_second\",\"share_ratio\"{last}");
            assert_eq!(rows.next(), Some(head.as_str()), "{rule} of {color}");
            let times: Vec<Timestamp> = rows.filter_map(|row| row.split_once(',')?.0.parse().ok()).collect();
            assert!(
                times.is_sorted() && times.first().is_some_and(|first| *first < at),
                "{rule} of {color}: {csv}"
            );
            let text = fs::read_to_string(folder.join(format!("metrics/{rule}.{color}.json"))).expect("series");
            let series: Vec<Series> = serde_json::from_str(&text).expect("series");
            assert!(series.iter().all(|one| one.color.as_str() == color && one.rule.as_str() == rule));
            let names: Vec<&str> = series.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names.get(..3), Some(["total", "bad", "share"].as_slice()), "{rule} of {color}");
        }
    }
    let green = fs::read_to_string(folder.join("metrics/error_rate.green.json")).expect("series");
    let green: Vec<Series> = serde_json::from_str(&green).expect("series");
    let worst = green.iter().filter(|one| one.name == "share").flat_map(|one| &one.points);
    let worst = worst.map(|(_, share)| *share).fold(0.0, f64::max);
    assert!(worst > 0.05, "what was decided on can be seen: {worst}");
}

/// Rights that guarding needs, without those that only evidence does.
const BARE_ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: flipback}
rules:
  - {apiGroups: ['', apps, discovery.k8s.io], resources: [services, pods, endpointslices, deployments], verbs: [get, list, watch]}
  - {apiGroups: [''], resources: [services], resourceNames: [shop-active, shop-preview], verbs: [patch]}
";

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_named_and_the_rest_is_kept() {
    let Some(ground) = Ground::open("what_may_not_be_read_is_named_and_the_rest_is_kept", GUARD).await else {
        return;
    };
    apply(&ground.cluster, &ground.namespace, BARE_ROLE).await;
    let mut daemon = outage(&ground).await;
    let folder = ground.evidence().await;
    daemon.terminate().await;
    let incident = assert_sound(&folder);
    let mut refused: Vec<String> = incident
        .capture_errors
        .iter()
        .filter_map(|line| {
            let (file, why) = line.split_once(": the API server answered 403: ")?;
            let (_, resource) = why.split_once("cannot ")?;
            Some(format!("{file}: {}", resource.split(" in the namespace").next()?))
        })
        .filter(|line| !line.starts_with("logs/"))
        .collect();
    refused.sort();
    insta::assert_snapshot!("refused", refused.join("\n"));
    let logs = incident.capture_errors.iter().filter(|line| line.starts_with("logs/"));
    assert_eq!(logs.count(), 2 * 2 * 2 + 1, "each log by its name: {:#?}", incident.capture_errors);
    assert!(folder.join("manifests/pods.green.json").exists() && folder.join("manifests/service.shop-active.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_mid_capture_the_next_start_completes_the_bundle_as_partial() {
    let Some(ground) = Ground::open("killed_in_mid_capture_the_next_start_completes_the_bundle_as_partial", GUARD).await else {
        return;
    };
    // Metrics are waited for: time enough to be killed in.
    ground.edit("after = \"1s\"", "after = \"40s\"");
    let mut daemon = outage(&ground).await;
    let incidents = ground.folder.path().join("data/incidents");
    let partial = eventually("a capture under way", SOON, async || {
        let found: Vec<PathBuf> = fs::read_dir(&incidents)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        let begun = |path: &&PathBuf| path.join("events.json").exists() && path.join("manifests/ingress.json").exists();
        found.iter().find(begun).cloned()
    })
    .await;
    daemon.process.kill();
    let name = partial.file_name().expect("named").to_string_lossy().into_owned();
    let id = name.strip_prefix(".partial-").expect("it is not complete").to_owned();
    assert!(!incidents.join(&id).exists());
    // Half of a file that was being written.
    fs::write(partial.join("manifests/.part-half"), "half").expect("written");

    let mut daemon = ground.start(&[]).await;
    let folder = ground.evidence().await;
    assert_eq!(folder, incidents.join(&id));
    daemon.terminate().await;
    let incident = assert_sound(&folder);
    assert!(incident.partial);
    assert_eq!(
        incident.capture_errors,
        ["capture: interrupted when flipback ended; what had been captured by then is kept"]
    );
    assert!(folder.join("manifests/pods.green.json").exists());
    assert!(!below(&folder).iter().any(|name| name.contains(".part-")));
}
