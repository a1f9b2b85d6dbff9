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

/// Keeps a Service whole, `managedFields` included (they tell who switched), but for kubectl's copy of the manifest: of that the
/// selector is kept, which tells what the next `kubectl apply` would set.
pub(super) fn service(service: &mut Service) {
    let Some(annotations) = &mut service.metadata.annotations else {
        return;
    };
    let Some(manifest) = annotations.remove(LAST_APPLIED) else { return };
    let manifest = serde_json::from_str::<serde_json::Value>(&manifest).unwrap_or_default();
    if let Some(selector) = manifest.pointer("/spec/selector").filter(|selector| selector.is_object()) {
        let kept = serde_json::json!({"spec": {"selector": selector}});
        annotations.insert(LAST_APPLIED.to_owned(), kept.to_string());
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

/// Keeps name, labels, owner, deletion, the `Ready` condition, the address, the containers' ports and, in the place of each
/// container's image, what the kubelet says it runs: the digest behind the tag, where it tells.
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
    let runs = |name: &str| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let own = statuses.into_iter().flatten().find(|status| status.name == name);
        own.and_then(|status| digest(&status.image_id))
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: spec
            .containers
            .into_iter()
            .map(|container| Container {
                image: runs(&container.name),
                ..ports_of(container)
            })
            .collect(),
        // Sidecars are init containers, and may own the port that a Service names.
        init_containers: spec
            .init_containers
            .map(|containers| containers.into_iter().map(ports_of).collect()),
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

fn ports_of(container: Container) -> Container {
    Container {
        name: container.name,
        ports: container.ports,
        ..Container::default()
    }
}

/// The image by its digest, of a kubelet's `imageID`: `docker-pullable://web@sha256:..`, `registry/web@sha256:..`, `sha256:..`.
fn digest(image_id: &str) -> Option<String> {
    let image = image_id.split_once("://").map_or(image_id, |(_, image)| image);
    image.contains("sha256:").then(|| image.to_owned())
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
    fn of_what_kubectl_applied_the_selector_is_kept() {
        let kept = |manifest: &str| {
            let annotations = json!({LAST_APPLIED: manifest, "flipback.dev/paused": "x"});
            let object = json!({"metadata": {"name": "web", "annotations": annotations}});
            let mut trimmed: Service = serde_json::from_value(object).expect("a Service");
            service(&mut trimmed);
            let mut annotations = trimmed.metadata.annotations.expect("what is ours stays");
            assert_eq!(annotations.len(), 1 + usize::from(annotations.contains_key(LAST_APPLIED)));
            annotations.remove(LAST_APPLIED)
        };
        let whole = r#"{"kind":"Service","metadata":{"name":"web"},"spec":{"ports":[{"port":80}],"selector":{"color":"blue"}}}"#;
        assert_eq!(kept(whole).as_deref(), Some(r#"{"spec":{"selector":{"color":"blue"}}}"#));
        for nothing in [
            r#"{"kind":"Service","spec":{"ports":[]}}"#,
            r#"{"spec":{"selector":"x"}}"#,
            "no JSON",
        ] {
            assert_eq!(kept(nothing), None, "{nothing}");
        }
    }

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
    fn a_pod_keeps_what_it_runs_by_digest_and_not_by_tag() {
        let id = format!("sha256:{}", "a".repeat(64));
        let runs = |image_id: &str| {
            let mut read: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p"},
                "spec": {"containers": [{"name": "app", "image": "web:latest"}, {"name": "side", "image": "side:1"}]},
                "status": {"containerStatuses": [{"name": "app", "image": "web:latest", "imageID": image_id, "ready": true, "restartCount": 0}]}
            }))
            .expect("decodes");
            pod(&mut read);
            let spec = read.spec.expect("kept");
            assert_eq!(spec.containers[1].image, None, "it does not run yet");
            spec.containers[0].image.clone()
        };
        assert_eq!(runs(&format!("docker-pullable://shop/web@{id}")), Some(format!("shop/web@{id}")));
        assert_eq!(
            runs(&format!("registry.example/web@{id}")),
            Some(format!("registry.example/web@{id}"))
        );
        assert_eq!(runs(&id), Some(id.clone()));
        assert_eq!(runs(""), None);
        assert_eq!(runs("web:latest"), None);
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
