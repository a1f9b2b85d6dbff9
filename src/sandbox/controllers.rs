//! Tiny controllers: Deployment -> ReplicaSet -> Pods, and Service selector + Pods -> EndpointSlice.
//!
//! Level-triggered: one pass over the whole (small) store makes what is missing and drops what is too much, and the next
//! write wakes the next pass. No rolling update: a changed template gets its new pods at once and loses its old ones.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{
    Api, Key, Store, Writer, controller,
    kinds::{BUDGETS, DEPLOYMENTS, Kind, PODS, REPLICA_SETS, SERVICES, SLICES, at, text},
    subresources::protects,
    suffix,
};

/// How long after a write the controllers act: about what a real control plane takes.
const LAG: Duration = Duration::from_millis(5);

/// Runs until stopped.
pub(super) async fn run(api: Api, stop: CancellationToken) {
    let mut newest = api.newest();
    loop {
        newest.catch_up();
        pass(&api);
        tokio::select! {
            () = stop.cancelled() => return,
            () = newest.changed() => {}
        }
        tokio::time::sleep(LAG).await;
    }
}

/// Makes what is missing and drops what is too much, one step of each controller.
pub(super) fn pass(api: &Api) {
    let by = |name: &str| controller(name, api.now());
    let (manager, slicer) = (by("kube-controller-manager"), by("endpointslice-controller"));
    api.write(|store| {
        deployments(store, &manager);
        replica_sets(store, &manager);
        slices(store, &slicer);
        budgets(store, &manager);
    });
}

fn key(kind: &'static Kind, object: &Value) -> Key {
    Key {
        kind,
        namespace: text(object, &["metadata", "namespace"]).to_owned(),
        name: text(object, &["metadata", "name"]).to_owned(),
    }
}

fn owned_by(object: &Value, owner: &Value) -> bool {
    let uid = text(owner, &["metadata", "uid"]);
    let owners = at(object, &["metadata", "ownerReferences"]).as_array();
    owners.into_iter().flatten().any(|reference| text(reference, &["uid"]) == uid)
}

fn reference(owner: &Value) -> Value {
    json!([{
        "apiVersion": at(owner, &["apiVersion"]),
        "kind": at(owner, &["kind"]),
        "name": at(owner, &["metadata", "name"]),
        "uid": at(owner, &["metadata", "uid"]),
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

fn owned(store: &Store, kind: &'static Kind, owner: &Value) -> Vec<Arc<Value>> {
    store.all(kind).filter(|object| owned_by(object, owner)).cloned().collect()
}

/// Writes, and leaves a refusal to the next pass: the object was changed or removed meanwhile.
fn change(store: &mut Store, key: &Key, by: &Writer, edit: impl FnOnce(&mut Value)) {
    let _ = store.edit(key, by, |object| {
        edit(object);
        Ok(())
    });
}

/// [`change`]s fields to these values, where they are not. Looked at first: most passes change nothing, and an edit copies
/// the object.
fn set<const N: usize>(store: &mut Store, key: &Key, by: &Writer, fields: [(&[&str], Value); N]) {
    let is_so = |object: &Value| fields.iter().all(|(path, value)| at(object, path) == value);
    if store.get(key).is_ok_and(|object| is_so(&object)) {
        return;
    }
    change(store, key, by, |object| {
        for (path, value) in fields {
            *path.iter().fold(&mut *object, |object, field| &mut object[*field]) = value;
        }
    });
}

fn is_ready(pod: &Value) -> bool {
    let conditions = at(pod, &["status", "conditions"]).as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| text(condition, &["type"]) == "Ready" && text(condition, &["status"]) == "True")
}

fn deployments(store: &mut Store, by: &Writer) {
    let all: Vec<Arc<Value>> = store.all(&DEPLOYMENTS).cloned().collect();
    for deployment in all {
        let template = at(&deployment, &["spec", "template"]);
        let hash = suffix(&template.to_string(), 10);
        let name = format!("{}-{hash}", text(&deployment, &["metadata", "name"]));
        let namespace = text(&deployment, &["metadata", "namespace"]).to_owned();
        let replicas = at(&deployment, &["spec", "replicas"]).as_u64().unwrap_or(1);
        let mine = owned(store, &REPLICA_SETS, &deployment);
        if !mine.iter().any(|set| text(set, &["metadata", "name"]) == name) {
            let set = replica_set(&deployment, &name, &hash, mine.len() + 1);
            let _ = store.create(&REPLICA_SETS, &namespace, set, by);
        }
        for one in owned(store, &REPLICA_SETS, &deployment) {
            let wanted = if text(&one, &["metadata", "name"]) == name { replicas } else { 0 };
            set(store, &key(&REPLICA_SETS, &one), by, [(&["spec", "replicas"], json!(wanted))]);
        }
        let sets = owned(store, &REPLICA_SETS, &deployment);
        let count = |field: &str| sets.iter().filter_map(|set| at(set, &["status", field]).as_u64()).sum::<u64>();
        let status = json!({
            "observedGeneration": at(&deployment, &["metadata", "generation"]),
            "replicas": count("replicas"),
            "updatedReplicas": count("replicas"),
            "readyReplicas": count("readyReplicas"),
            "availableReplicas": count("readyReplicas"),
            "conditions": [available(count("readyReplicas") >= replicas - replicas / 4)],
        });
        let revision = ["metadata", "annotations", "deployment.kubernetes.io/revision"];
        let fields = [(&revision[..], json!(sets.len().to_string())), (&["status"], status)];
        set(store, &key(&DEPLOYMENTS, &deployment), by, fields);
    }
}

/// A Deployment is available while at most a quarter of its pods, rounded down, is not.
fn available(is: bool) -> Value {
    json!({ "type": "Available", "status": if is { "True" } else { "False" } })
}

/// Lets a pod go whose labels are no longer those of its ReplicaSet: it runs on, and another takes its place.
fn release(store: &mut Store, set_of: &Value, by: &Writer) {
    let wanted = at(set_of, &["spec", "selector", "matchLabels"])
        .as_object()
        .cloned()
        .unwrap_or_default();
    for pod in owned(store, &PODS, set_of) {
        let strayed = wanted.iter().any(|(key, value)| at(&pod, &["metadata", "labels", key]) != value);
        if strayed {
            change(store, &key(&PODS, &pod), by, |object| {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("ownerReferences");
                }
            });
        }
    }
}

fn replica_set(deployment: &Value, name: &str, hash: &str, revision: usize) -> Value {
    let mut template = at(deployment, &["spec", "template"]).clone();
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    json!({
        "metadata": {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": { "deployment.kubernetes.io/revision": revision.to_string() },
            "ownerReferences": reference(deployment),
        },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": template["metadata"]["labels"] },
            "template": template,
        },
    })
}

fn replica_sets(store: &mut Store, by: &Writer) {
    let all: Vec<Arc<Value>> = store.all(&REPLICA_SETS).cloned().collect();
    for one in all {
        let name = text(&one, &["metadata", "name"]).to_owned();
        let namespace = text(&one, &["metadata", "namespace"]).to_owned();
        let wanted = usize::try_from(at(&one, &["spec", "replicas"]).as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
        release(store, &one, by);
        let pods = owned(store, &PODS, &one);
        for pod in pods.iter().skip(wanted) {
            let _ = store.delete(&key(&PODS, pod), false);
        }
        for _ in pods.len()..wanted {
            let pod = json!({
                "metadata": {
                    "generateName": format!("{name}-"),
                    "labels": one["spec"]["template"]["metadata"]["labels"],
                    "annotations": one["spec"]["template"]["metadata"]["annotations"],
                    "ownerReferences": reference(&one),
                },
                "spec": one["spec"]["template"]["spec"],
                "status": { "phase": "Pending" },
            });
            if store.create(&PODS, &namespace, pod, by).is_err() {
                break;
            }
        }
        let pods = owned(store, &PODS, &one);
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let status = json!({
            "replicas": pods.len(),
            "fullyLabeledReplicas": pods.len(),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": at(&one, &["metadata", "generation"]),
        });
        set(store, &key(&REPLICA_SETS, &one), by, [(&["status"], status)]);
    }
}

/// How many pods each disruption budget lets go, by `maxUnavailable` or `minAvailable` in whole pods.
fn budgets(store: &mut Store, by: &Writer) {
    let all: Vec<Arc<Value>> = store.all(&BUDGETS).cloned().collect();
    for budget in all {
        let pods: Vec<Arc<Value>> = store.all(&PODS).filter(|pod| protects(&budget, pod)).cloned().collect();
        let expected = pods.len() as u64;
        let healthy = pods.iter().filter(|pod| is_ready(pod)).count() as u64;
        let desired = match (
            at(&budget, &["spec", "maxUnavailable"]).as_u64(),
            at(&budget, &["spec", "minAvailable"]).as_u64(),
        ) {
            (Some(max), _) => expected.saturating_sub(max),
            (None, Some(min)) => min,
            (None, None) => expected,
        };
        let status = json!({
            "observedGeneration": at(&budget, &["metadata", "generation"]),
            "expectedPods": expected,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "disruptionsAllowed": healthy.saturating_sub(desired),
        });
        set(store, &key(&BUDGETS, &budget), by, [(&["status"], status)]);
    }
}

fn slices(store: &mut Store, by: &Writer) {
    let services: Vec<Arc<Value>> = store.all(&SERVICES).cloned().collect();
    for service in services {
        let Some(selector) = at(&service, &["spec", "selector"]).as_object().filter(|map| !map.is_empty()) else {
            continue;
        };
        let namespace = text(&service, &["metadata", "namespace"]).to_owned();
        let labels: BTreeMap<&str, &Value> = selector.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let pods: Vec<Arc<Value>> = store
            .all(&PODS)
            .filter(|pod| text(pod, &["metadata", "namespace"]) == namespace)
            .filter(|pod| labels.iter().all(|(key, value)| at(pod, &["metadata", "labels", key]) == *value))
            .filter(|pod| !text(pod, &["status", "podIP"]).is_empty())
            .cloned()
            .collect();
        let endpoints: Vec<Value> = pods.iter().map(|pod| endpoint(pod)).collect();
        let ports = ports(&service);
        match owned(store, &SLICES, &service).first() {
            Some(slice) => {
                let fields: [(&[&str], Value); 2] = [(&["endpoints"], json!(endpoints)), (&["ports"], ports)];
                set(store, &key(&SLICES, slice), by, fields);
            }
            None => {
                let slice = slice(&service, &endpoints, &ports);
                let _ = store.create(&SLICES, &namespace, slice, by);
            }
        }
    }
}

fn slice(service: &Value, endpoints: &[Value], ports: &Value) -> Value {
    let name = text(service, &["metadata", "name"]);
    json!({
        "metadata": {
            "generateName": format!("{name}-"),
            "labels": {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": reference(service),
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}

fn endpoint(pod: &Value) -> Value {
    let ready = is_ready(pod);
    json!({
        "addresses": [at(pod, &["status", "podIP"])],
        "conditions": { "ready": ready, "serving": ready, "terminating": false },
        "nodeName": "sandbox",
        "targetRef": {
            "kind": "Pod",
            "name": at(pod, &["metadata", "name"]),
            "namespace": at(pod, &["metadata", "namespace"]),
            "uid": at(pod, &["metadata", "uid"]),
        },
    })
}

/// The Service's ports as the pods bear them; a named target port is the application's only one.
fn ports(service: &Value) -> Value {
    let ports = at(service, &["spec", "ports"]).as_array();
    ports
        .into_iter()
        .flatten()
        .map(|port| {
            let target = at(port, &["targetPort"]);
            json!({
                "name": text(port, &["name"]),
                "protocol": at(port, &["protocol"]),
                "port": target.as_u64().unwrap_or(u64::from(super::node::PORT)),
            })
        })
        .collect()
}
