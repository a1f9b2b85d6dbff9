//! What the caches keep of an object. Thousands of pods must fit in a few megabytes, and an update that changes nothing
//! we use (a probe's timestamp, a node's heartbeat) must not wake anybody: what is dropped here cannot.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
        core::v1::{Container, Pod, PodSpec, PodStatus, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// What kubectl leaves on objects: the whole manifest once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Keeps a Service whole, `managedFields` included (they tell who switched), but for kubectl's copy of the manifest.
pub(super) fn service(service: &mut Service) {
    if let Some(annotations) = &mut service.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Keeps endpoints and ports; drops the annotation that changes with every update of any pod.
pub(super) fn endpoint_slice(slice: &mut EndpointSlice) {
    let metadata = std::mem::take(&mut slice.metadata);
    slice.metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        labels: metadata.labels,
        ..ObjectMeta::default()
    };
}

/// Keeps name, labels, owner, deletion, the `Ready` condition, the address and the containers' ports.
pub(super) fn pod(pod: &mut Pod) {
    let metadata = std::mem::take(&mut pod.metadata);
    pod.metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        labels: metadata.labels,
        owner_references: metadata.owner_references,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        ..ObjectMeta::default()
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: ports_of(spec.containers),
        // Sidecars are init containers, and may own the port that a Service names.
        init_containers: spec.init_containers.map(ports_of),
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        conditions: status.conditions.map(|conditions| {
            conditions
                .into_iter()
                .filter(|condition| condition.type_ == "Ready")
                .map(|condition| k8s_openapi::api::core::v1::PodCondition {
                    type_: condition.type_,
                    status: condition.status,
                    last_transition_time: condition.last_transition_time,
                    ..Default::default()
                })
                .collect()
        }),
        ..PodStatus::default()
    });
}

fn ports_of(containers: Vec<Container>) -> Vec<Container> {
    containers
        .into_iter()
        .map(|container| Container {
            name: container.name,
            ports: container.ports,
            ..Container::default()
        })
        .collect()
}

/// Keeps the spec (its template is the release, its replicas what was asked for) and whether its controller has
/// seen it and calls it available. Counts of pods are dropped: they change with every pod, and pods are watched themselves.
pub(super) fn deployment(deployment: &mut Deployment) {
    let metadata = std::mem::take(&mut deployment.metadata);
    deployment.metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        labels: metadata.labels,
        generation: metadata.generation,
        ..ObjectMeta::default()
    };
    deployment.status = deployment.status.take().map(|status| DeploymentStatus {
        observed_generation: status.observed_generation,
        conditions: status
            .conditions
            .map(|conditions| conditions.into_iter().filter_map(availability).collect()),
        ..DeploymentStatus::default()
    });
}

/// The condition `Available`, without the times that change with it.
fn availability(condition: DeploymentCondition) -> Option<DeploymentCondition> {
    (condition.type_ == "Available").then(|| DeploymentCondition {
        type_: condition.type_,
        status: condition.status,
        ..DeploymentCondition::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_heartbeat_leaves_a_trimmed_pod_equal() {
        let with = |version: &str, probed: &str, image: &str| {
            let mut read: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "labels": {"app": "web"}, "resourceVersion": version, "annotations": {"a": version},
                             "managedFields": [{"manager": "kubelet"}], "ownerReferences": [
                                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u"}]},
                "spec": {"containers": [{"name": "app", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [
                    {"type": "Ready", "status": "True", "lastProbeTime": probed},
                    {"type": "PodScheduled", "status": "True", "lastProbeTime": probed}]}
            }))
            .expect("decodes");
            pod(&mut read);
            read
        };
        let one = with("1", "2026-01-01T00:00:00Z", "a:1");
        assert_eq!(one, with("2", "2026-01-01T00:00:10Z", "a:1"));
        let kept = serde_json::to_value(&one).expect("encodes");
        assert_eq!(kept["metadata"]["labels"]["app"], "web");
        assert_eq!(kept["metadata"]["ownerReferences"][0]["name"], "web-1");
        assert_eq!(kept["spec"]["containers"][0]["ports"][0]["containerPort"], 8080);
        assert_eq!(kept["status"]["conditions"].as_array().map(Vec::len), Some(1));
        assert!(kept["metadata"].get("managedFields").is_none());
    }

    #[test]
    fn a_deployment_keeps_whether_it_is_available() {
        let with = |ready: u32, updated: &str| {
            let mut read: Deployment = serde_json::from_value(json!({
                "metadata": {"name": "web", "generation": 3},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": 3, "readyReplicas": ready, "conditions": [
                    {"type": "Progressing", "status": "True", "lastUpdateTime": updated},
                    {"type": "Available", "status": "False", "reason": "r", "message": "m", "lastUpdateTime": updated}]}
            }))
            .expect("decodes");
            deployment(&mut read);
            read
        };
        let one = with(0, "2026-01-01T00:00:00Z");
        assert_eq!(one, with(1, "2026-01-01T00:00:10Z"));
        let kept = serde_json::to_value(&one).expect("encodes");
        assert_eq!(
            kept["status"],
            json!({"observedGeneration": 3, "conditions": [{"type": "Available", "status": "False"}]})
        );
    }

    #[test]
    fn a_service_keeps_who_switched_it() {
        let mut read: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "resourceVersion": "7", "annotations": {LAST_APPLIED: "{}", "mine": "1"},
                         "managedFields": [{"manager": "kubectl-patch"}]}
        }))
        .expect("decodes");
        service(&mut read);
        let kept = serde_json::to_value(&read).expect("encodes");
        assert_eq!(
            kept,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "resourceVersion": "7",
                   "annotations": {"mine": "1"}, "managedFields": [{"manager": "kubectl-patch"}]}})
        );
    }
}
