//! What is in `deploy/` does what it says, on a real API server: the pods are admitted under restricted pod security, and
//! the account may do what flipback needs and nothing else.

pub mod support;

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc, time::Duration};

use flipback::{
    config::{self, Config, Sources},
    model::{Mode, RouteSpec},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    authorization::v1::{ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec},
    coordination::v1::Lease,
    core::v1::{Event, PersistentVolumeClaim, Pod, Secret, Service},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use support::{
    Cluster, Shop, eventually,
    process::{on_path, skip},
    project, real_parts,
};

const SOON: Duration = Duration::from_secs(15);

/// A manifest of `deploy/` for another namespace than the one it names.
fn manifest(name: &str, namespace: &str) -> String {
    let path = project().join("deploy").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.replace("namespace: shop\n", &format!("namespace: {namespace}\n"))
        .replace("namespace = \"shop\"\n", &format!("namespace = \"{namespace}\"\n"))
}

/// A namespace where only restricted pods are admitted, with a shop in it whose Services are `shop-active` and `shop-preview`.
async fn restricted_shop(cluster: &Arc<Cluster>, namespace: &str) -> Shop {
    cluster
        .namespace_with(namespace, &[("pod-security.kubernetes.io/enforce", "restricted")])
        .await;
    Shop::open(cluster, namespace, "shop", 1).await
}

/// A right as `group/resource[names]` -> verbs; what every account may ask about itself is left out.
type Rights = BTreeMap<String, Vec<String>>;

async fn rights(client: &Client, namespace: &str) -> Rights {
    let question = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &question).await.expect("anyone may ask");
    let mut rights = Rights::new();
    for rule in answer.status.expect("an answer").resource_rules {
        let ResourceRule {
            api_groups,
            resource_names,
            resources,
            verbs,
        } = rule;
        for group in api_groups.iter().flatten() {
            for resource in resources.iter().flatten() {
                let names = resource_names
                    .as_ref()
                    .map(|names| format!("[{}]", names.join(" ")))
                    .unwrap_or_default();
                rights
                    .entry(format!("{group}/{resource}{names}"))
                    .or_default()
                    .extend(verbs.clone());
            }
        }
    }
    rights.retain(|what, _| !what.contains("/selfsubject"));
    rights.values_mut().for_each(|verbs| verbs.sort());
    rights
}

fn right(what: &str, verbs: &[&str]) -> (String, Vec<String>) {
    (what.to_owned(), verbs.iter().map(|verb| (*verb).to_owned()).collect())
}

/// What is watched, and what is read once per incident.
fn reads() -> Rights {
    let (named, watched, listed) = (["get", "list", "watch"], ["list", "watch"], ["list"]);
    let rights = [
        right("/services", &named),
        right("apps/deployments", &named),
        right("/pods", &watched),
        right("discovery.k8s.io/endpointslices", &watched),
        right("/pods/log", &["get"]),
        right("/events", &listed),
        right("apps/replicasets", &listed),
        right("autoscaling/horizontalpodautoscalers", &listed),
        right("policy/poddisruptionbudgets", &listed),
        right("networking.k8s.io/ingresses", &listed),
    ];
    rights.into_iter().collect()
}

fn reads_and_flips() -> Rights {
    let mut rights = reads();
    rights.extend([
        right("/services[shop-active shop-preview]", &["patch"]),
        right("/events", &["create", "list"]),
        right("coordination.k8s.io/leases", &["create"]),
        right("coordination.k8s.io/leases[flipback-shard-0]", &["get", "update"]),
        right("coordination.k8s.io/leases[flipback-members]", &["patch"]),
    ]);
    rights
}

/// Waits until RBAC has taken in what was applied: its caches follow within a second or so.
async fn wait_for_rights(client: &Client, namespace: &str, wanted: &Rights) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let found = rights(client, namespace).await;
        if &found == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "found {found:#?}\nwanted {wanted:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until so many replicas are Ready, each with a volume of its own.
async fn wait_ready(cluster: &Cluster, namespace: &str, replicas: i32) {
    let sets: Api<StatefulSet> = Api::namespaced(cluster.admin().await, namespace);
    eventually("the StatefulSet to be Ready", SOON * 2, async || {
        let status = sets.get("flipback").await.ok()?.status?;
        (status.ready_replicas == Some(replicas)).then_some(())
    })
    .await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.admin().await, namespace);
    let claims = claims.list(&ListParams::default()).await.expect("claims may be listed").items;
    let names: Vec<String> = claims.into_iter().filter_map(|claim| claim.metadata.name).collect();
    let wanted: Vec<String> = (0..replicas).map(|pod| format!("data-flipback-{pod}")).collect();
    assert_eq!(names, wanted);
}

fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, kube::Error>) {
    match result {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{what}: {status:?}"),
        other => panic!("{what} was not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_runs_restricted_and_may_flip_its_services_only() {
    let Some(assets) = real_parts("the_monitor_runs_restricted_and_may_flip_its_services_only", &["etcd"]) else {
        return;
    };
    let cluster = Cluster::shared(&assets).await;
    let namespace = "shop";
    restricted_shop(&cluster, namespace).await;
    let said = cluster.apply_yaml(&manifest("monitor.yaml", namespace)).await;
    assert_eq!(said.lines().count(), 9, "{said}");

    wait_ready(&cluster, namespace, 2).await;
    let admin = cluster.admin().await;
    let bare =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let bare: Pod = serde_json::from_value(bare).expect("a Pod");
    let pods: Api<Pod> = Api::namespaced(admin, namespace);
    refused("a pod that is not restricted", pods.create(&PostParams::default(), &bare).await);

    let kubeconfig = cluster.kubeconfig_for_service_account(namespace, "flipback").await;
    let account = cluster.client(&kubeconfig).await;
    wait_for_rights(&account, namespace, &reads_and_flips()).await;
    may_flip(&account, namespace).await;
    may_not_do_harm(&account, namespace).await;

    // The same file without the rights to write, over it: they are gone.
    cluster.apply_yaml(&manifest("monitor-only.yaml", namespace)).await;
    wait_for_rights(&account, namespace, &reads()).await;
}

async fn may_flip(account: &Client, namespace: &str) {
    let services: Api<Service> = Api::namespaced(account.clone(), namespace);
    for name in ["shop-active", "shop-preview"] {
        let service = services.get(name).await.expect("may be read");
        let patch: json_patch::Patch = serde_json::from_value(json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": service.metadata.resource_version},
            {"op": "replace", "path": "/spec/selector/color", "value": "green"},
            {"op": "add", "path": "/metadata/annotations/flipback.dev~1ledger", "value": "{}"},
        ]))
        .expect("a JSON patch");
        let patched = services.patch(name, &PatchParams::default(), &Patch::<Service>::Json(patch)).await;
        let selector = patched
            .expect("may be patched")
            .spec
            .and_then(|spec| spec.selector)
            .expect("a selector");
        assert_eq!(selector["color"], "green");
    }
    let uid = services.get("shop-active").await.expect("may be read").metadata.uid;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "shop-active."},
        "involvedObject": {"apiVersion": "v1", "kind": "Service", "name": "shop-active", "namespace": namespace, "uid": uid},
        "reason": "RolledBack", "message": "m", "type": "Warning",
    });
    let event: Event = serde_json::from_value(event).expect("an Event");
    let events: Api<Event> = Api::namespaced(account.clone(), namespace);
    events.create(&PostParams::default(), &event).await.expect("an Event may be posted");
    let pods: Api<Pod> = Api::namespaced(account.clone(), namespace);
    let pod = pods
        .list(&ListParams::default().labels("color=green"))
        .await
        .expect("pods may be listed")
        .items
        .remove(0);
    let log = pods
        .logs(&pod.metadata.name.unwrap_or_default(), &kube::api::LogParams::default())
        .await;
    assert!(log.expect("logs may be read").contains("line 100"));
}

async fn may_not_do_harm(account: &Client, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(account.clone(), namespace);
    refused("a list of Secrets", secrets.list(&ListParams::default()).await);
    refused("a Secret", secrets.get("flipback-chats").await);
    let services: Api<Service> = Api::namespaced(account.clone(), namespace);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    let by = PatchParams::default();
    refused("a patch of another Service", services.patch("flipback", &by, &patch).await);
    refused("a deletion", services.delete("shop-active", &DeleteParams::default()).await);
    let deployments: Api<Deployment> = Api::namespaced(account.clone(), namespace);
    refused("a patch of a Deployment", deployments.patch("shop-blue", &by, &patch).await);
    let leases: Api<Lease> = Api::namespaced(account.clone(), namespace);
    refused("a look at who leads something else", leases.get("another-controller").await);
    refused("a list of Leases", leases.list(&ListParams::default()).await);
    let elsewhere: Api<Service> = Api::namespaced(account.clone(), "default");
    refused("a read in another namespace", elsewhere.get("kubernetes").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_only_cannot_write_at_all() {
    let Some(assets) = real_parts("monitor_only_cannot_write_at_all", &["etcd"]) else {
        return;
    };
    let cluster = Cluster::shared(&assets).await;
    let namespace = "shop-watched";
    restricted_shop(&cluster, namespace).await;
    cluster.apply_yaml(&manifest("monitor-only.yaml", namespace)).await;
    wait_ready(&cluster, namespace, 1).await;

    let kubeconfig = cluster.kubeconfig_for_service_account(namespace, "flipback").await;
    let account = cluster.client(&kubeconfig).await;
    wait_for_rights(&account, namespace, &reads()).await;
    let services: Api<Service> = Api::namespaced(account, namespace);
    eventually("a read", SOON, async || services.get("shop-active").await.ok()).await;
    let patch = Patch::Merge(json!({"spec": {"selector": {"color": "green"}}}));
    refused("a flip", services.patch("shop-active", &PatchParams::default(), &patch).await);
    let stored = cluster
        .audit_of(namespace, "flipback")
        .into_iter()
        .filter(|event| event.is_stored())
        .count();
    assert_eq!(stored, 0);
}

/// The configuration in a manifest, as flipback reads it in its pod.
fn configuration(name: &str) -> Config {
    let text = manifest(name, "shop");
    let (_, from) = text.split_once("flipback.toml: |\n").expect("a ConfigMap");
    let (toml, _) = from.split_once("\n---").expect("another object");
    let toml: String = toml
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line)))
        .collect();
    let folder = support::process::Folder::new();
    let sources = Sources {
        file: Some(folder.write("flipback.toml", toml)),
        ..Sources::default()
    };
    config::load(&sources).unwrap_or_else(|errors| panic!("deploy/{name}: {errors}"))
}

#[test]
fn the_configuration_guards_what_the_role_allows() {
    for (name, mode) in [("monitor.yaml", Mode::Enforce), ("monitor-only.yaml", Mode::Monitor)] {
        let config = configuration(name);
        assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        assert!(config.serve.listen.ip().is_unspecified(), "the kubelet's probes come from outside");
        assert_eq!(config.data_dir, Path::new("/var/lib/flipback"));
        let [guard] = config.guards.as_slice() else {
            panic!("{name}: one guard")
        };
        assert_eq!((guard.id.as_str(), guard.mode), ("shop/shop", mode));
        // The Leases that the Role names, and one more for each shard beyond the first.
        let replicas = config.replicas.map(|replicas| (replicas.namespace, replicas.name, replicas.shards));
        let wanted = (mode == Mode::Enforce).then(|| ("shop".to_owned(), "flipback".to_owned(), 1));
        assert_eq!(replicas, wanted, "{name}");
        let RouteSpec::Service(route) = &guard.route;
        assert_eq!(
            (route.active.as_str(), route.preview.as_deref()),
            ("shop-active", Some("shop-preview"))
        );
    }
}

/// Apart from the rights, its own switch, who leads and the comments, there is one way to deploy.
#[test]
fn monitor_only_is_the_same_deployment() {
    let lines = |name: &str| -> Vec<String> {
        let text = manifest(name, "shop");
        let from = text.find("apiVersion").expect("objects");
        let objects = text.get(from..).unwrap_or_default();
        let role = objects.find("  # The flip").map(|start| {
            let rest = objects.get(start..).unwrap_or_default();
            start..start + rest.find("---").expect("another object")
        });
        let mut objects = objects.to_owned();
        if let Some(role) = role {
            objects.replace_range(role, "");
        }
        if let Some(start) = objects.find("    # Two pods share") {
            let end = start
                + objects
                    .get(start..)
                    .and_then(|rest| rest.find("    [prometheus]"))
                    .expect("the next section");
            objects.replace_range(start..end, "");
        }
        let one = "replicas: 1 # leading needs a right to write, and who only watches needs no leader\n";
        objects
            .replace("    monitor_only = true\n\n", "")
            .replace(one, "replicas: 2\n")
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let (full, only) = (lines("monitor.yaml"), lines("monitor-only.yaml"));
    for (full, only) in full.iter().zip(&only) {
        assert_eq!(full, only);
    }
    assert_eq!(full.len(), only.len());
}

/// `systemd-analyze` rates from 0.0 (safe) to 10.0; its `--threshold` counts in tenths.
#[test]
fn the_systemd_unit_is_sound_and_hardened() {
    if !on_path("systemd-analyze") {
        skip("the_systemd_unit_is_sound_and_hardened", "systemd-analyze is not on the PATH");
        return;
    }
    let unit = std::fs::read_to_string(project().join("deploy/flipback.service")).expect("the unit is there");
    let folder = support::process::Folder::new();
    // It looks whether the program is installed, which it is not here.
    let installed = unit.replace("/usr/bin/flipback", env!("CARGO_BIN_EXE_flipback"));
    assert_ne!(unit, installed);
    let path = folder.write("flipback.service", installed);
    let analyze = |arguments: &[&str], path: &Path| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(path)
            .output()
            .expect("systemd-analyze runs");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "systemd-analyze {arguments:?} says\n{said}");
        said
    };
    let said = analyze(&["verify", "--man=no", "--recursive-errors=no"], &path);
    assert_eq!(said.trim(), "");
    analyze(&["security", "--offline=true", "--threshold=15"], &path);
}
