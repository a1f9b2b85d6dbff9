//! Taking the pods of the color that was left out of service, a few at a time.
//!
//! A flip moves new connections; those that are established stay where they are. This is for teams that would rather lose the
//! pods than wait. Two ways: **evict** (the pods end, and with them their connections; their ReplicaSet makes new ones) and
//! **isolate** (the pods run on, out of reach of Services and of their ReplicaSet, for somebody to look at).
//!
//! What it refuses to do: touch a pod while traffic is not verified to be on the other color, a pod that was born after the
//! flip, a pod of any other color, or more pods than disruption budgets allow. Evictions are judged by the API server; for
//! isolation the budgets are read and obeyed here, because a relabelled pod leaves its budget as surely as an evicted one.
//! One call is one batch: it looks at everything anew, so that it can be repeated after a restart, or never again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation,
    jsonptr::{PointerBuf, Token},
};
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Pod, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, PatchParams, PostParams, Preconditions},
    core::{Selector, SelectorExt as _},
};
use serde_json::{Value, json};

use super::{
    super::{HeldPod, ReliefOrder, Relieved, RouterError},
    MANAGER, ServiceRouter,
    view::{pod_is_ready, selector},
    within,
};
use crate::{
    cluster::{Fault, FaultKind},
    model::{ISOLATED_LABEL, Relief, isolated_label},
};

/// Annotation that keeps the labels an isolated pod has lost, as JSON.
const LABELS: &str = "flipback.dev/isolated-labels";
/// A pod that may not go makes room for the next one; so many are asked for each that may.
const ASKED_PER_PLACE: usize = 2;
/// Pods, Services and budgets of a namespace that are looked through.
const LIST_MAX: u32 = 1000;

type Labels = BTreeMap<String, String>;

/// What one batch is decided on.
struct Scene {
    pods: Vec<Pod>,
    services: Vec<Service>,
    sets: Vec<ReplicaSet>,
    budgets: Vec<PodDisruptionBudget>,
}

/// What is to be done with one pod.
#[derive(Debug, PartialEq)]
enum Step {
    /// Take these labels off.
    Isolate { lost: Labels },
    /// Ask for its eviction.
    Evict,
    /// Nothing now, and why.
    Hold(String),
}

impl ServiceRouter {
    /// Takes at most a batch of pods out of service.
    pub(super) async fn relieve_some(&self, relief: &ReliefOrder) -> Result<Relieved, RouterError> {
        let left = self.value(&relief.left)?.to_owned();
        let client = self.reads("look at")?;
        let service = within(self.cluster.read_timeout(), self.api(client).get(&self.route.active))
            .await
            .map_err(|fault| RouterError::of("read", &self.object, fault))?;
        if selector(&service).get(&self.route.selector_key).map(String::as_str) != Some(self.value(&relief.to)?) {
            return Ok(Relieved::Elsewhere);
        }
        // Nobody is taken from the old color before the new one is seen to carry the traffic.
        let verified = self.follow_up(&relief.to).await?;
        if let Some(problem) = verified.problem {
            return Ok(Relieved::NotYet(problem));
        }
        let mut wanted = selector(&service);
        wanted.insert(self.route.selector_key.clone(), left);
        let scene = self.scene(&wanted, relief).await?;
        let at_once = usize::try_from(relief.at_once.max(1)).unwrap_or(usize::MAX);
        let (mut done, mut held, mut asked) = (Vec::new(), Vec::new(), 0);
        for (pod, step) in scene.pods.iter().zip(plan(&scene, relief)) {
            if done.len() >= at_once || asked >= at_once.saturating_mul(ASKED_PER_PLACE) {
                break;
            }
            let outcome = match step {
                Step::Hold(why) => Err(why),
                Step::Isolate { lost } => {
                    asked += 1;
                    self.isolate(pod, &lost, &relief.incident).await?
                }
                Step::Evict => {
                    asked += 1;
                    self.evict(pod).await?
                }
            };
            match outcome {
                Ok(()) => done.push(pod.name_any()),
                Err(why) => held.push(HeldPod { pod: pod.name_any(), why }),
            }
        }
        let left = u32::try_from(scene.pods.len() - done.len()).unwrap_or(u32::MAX);
        Ok(Relieved::Batch { done, held, left })
    }

    async fn scene(&self, wanted: &Labels, relief: &ReliefOrder) -> Result<Scene, RouterError> {
        let (client, namespace, deadline) = (self.reads("look at")?, self.spec.namespace.as_str(), self.cluster.read_timeout());
        let failed = |fault| RouterError::of("list what belongs to", &self.object, fault);
        let labels: Vec<String> = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let of_color = ListParams::default().labels(&labels.join(",")).limit(LIST_MAX);
        let any = ListParams::default().limit(LIST_MAX);
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let mut pods = within(deadline, api.list(&of_color)).await.map_err(failed)?.items;
        pods.retain(|pod| concerns(pod, relief.before));
        pods.sort_by_key(ResourceExt::name_any);
        let mut scene = Scene {
            pods,
            services: Vec::new(),
            sets: Vec::new(),
            budgets: Vec::new(),
        };
        // The API server itself obeys the budgets of what it evicts.
        if relief.action == Relief::Isolate && !scene.pods.is_empty() {
            let services: Api<Service> = Api::namespaced(client.clone(), namespace);
            let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
            let budgets: Api<PodDisruptionBudget> = Api::namespaced(client, namespace);
            let (services, sets, budgets) = tokio::join!(
                within(deadline, services.list(&any)),
                within(deadline, sets.list(&any)),
                within(deadline, budgets.list(&any))
            );
            scene.services = services.map_err(failed)?.items;
            scene.sets = sets.map_err(failed)?.items;
            scene.budgets = budgets.map_err(failed)?.items;
        }
        Ok(scene)
    }

    /// Takes labels off a pod; `Err` in the answer: not now, and why.
    async fn isolate(&self, pod: &Pod, lost: &Labels, incident: &str) -> Result<Result<(), String>, RouterError> {
        let attempted = "isolate";
        let api: Api<Pod> = Api::namespaced(self.writes(attempted)?, &self.spec.namespace);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = kube::api::Patch::Json::<()>(patch(pod, lost, incident));
        let sent = within(self.cluster.flip_timeout(), api.patch_metadata(&pod.name_any(), &params, &patch)).await;
        self.answered(attempted, pod, sent.map(drop))
    }

    /// Asks for a pod's eviction, of this very pod and not of one that has its name by now.
    async fn evict(&self, pod: &Pod) -> Result<Result<(), String>, RouterError> {
        let attempted = "evict";
        let api: Api<Pod> = Api::namespaced(self.writes(attempted)?, &self.spec.namespace);
        let params = EvictParams {
            delete_options: Some(DeleteParams {
                preconditions: Some(Preconditions {
                    uid: pod.uid(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            }),
            post_options: PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            },
        };
        let sent = within(self.cluster.flip_timeout(), api.evict(&pod.name_any(), &params)).await;
        self.answered(attempted, pod, sent.map(drop))
    }

    fn answered(&self, attempted: &'static str, pod: &Pod, sent: Result<(), Fault>) -> Result<Result<(), String>, RouterError> {
        match sent {
            Ok(()) => Ok(Ok(())),
            // Gone, or changed since it was read: the next batch looks anew. Busy is what a disruption budget answers.
            Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict | FaultKind::Busy) => Ok(Err(fault.detail)),
            Err(fault) => {
                let object = format!("Pod \"{}/{}\"", self.spec.namespace, pod.name_any());
                Err(RouterError::of(attempted, &object, fault))
            }
        }
    }
}

// === pure ===

/// Whether a pod was there when its color was left, and still is.
fn concerns(pod: &Pod, left_at: Timestamp) -> bool {
    let born = pod.metadata.creation_timestamp.as_ref().is_some_and(|time| time.0 <= left_at);
    let ended = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
    born && !ended && pod.metadata.deletion_timestamp.is_none() && !pod.labels().contains_key(ISOLATED_LABEL)
}

/// What is to be done with each pod, in their order.
fn plan(scene: &Scene, relief: &ReliefOrder) -> Vec<Step> {
    let mut allowed: Vec<i32> = scene.budgets.iter().map(allowed).collect();
    let step = |pod: &Pod| match relief.action {
        Relief::Evict => Step::Evict,
        Relief::Keep => Step::Hold("connections are kept".to_owned()),
        Relief::Isolate => isolation(pod, scene, &mut allowed),
    };
    scene.pods.iter().map(step).collect()
}

fn isolation(pod: &Pod, scene: &Scene, allowed: &mut [i32]) -> Step {
    let labels = pod.labels();
    let Some(lost) = to_lose(labels, scene) else {
        return Step::Hold("it cannot be told which of its labels its ReplicaSet goes by".to_owned());
    };
    let of_pod: Vec<usize> = (0..scene.budgets.len())
        .filter(|index| scene.budgets.get(*index).is_some_and(|budget| protects(budget, pod)))
        .collect();
    for index in &of_pod {
        if allowed.get(*index).is_none_or(|allowed| *allowed < 1) {
            let name = scene.budgets.get(*index).map(ResourceExt::name_any).unwrap_or_default();
            return Step::Hold(format!("PodDisruptionBudget/{name} allows no disruption now"));
        }
    }
    for index in of_pod {
        if let Some(allowed) = allowed.get_mut(index) {
            *allowed -= 1;
        }
    }
    Step::Isolate { lost }
}

/// The labels by which Services and ReplicaSets find a pod; `None` where it would be found without them as well.
fn to_lose(labels: &Labels, scene: &Scene) -> Option<Labels> {
    let mut keys: BTreeSet<&String> = BTreeSet::new();
    let services: Vec<Labels> = scene.services.iter().map(selector).filter(|wanted| !wanted.is_empty()).collect();
    let finds = |wanted: &Labels, labels: &Labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
    for wanted in services.iter().filter(|wanted| finds(wanted, labels)) {
        keys.extend(wanted.keys());
    }
    let sets: Vec<LabelSelector> = scene
        .sets
        .iter()
        .filter_map(|set| set.spec.as_ref().map(|spec| spec.selector.clone()))
        .collect();
    let owns = |wanted: &LabelSelector, labels: &Labels| Selector::try_from(wanted.clone()).is_ok_and(|wanted| wanted.matches(labels));
    for wanted in sets.iter().filter(|wanted| owns(wanted, labels)) {
        keys.extend(wanted.match_labels.iter().flatten().map(|(key, _)| key));
        let expressions = wanted.match_expressions.iter().flatten();
        keys.extend(
            expressions
                .filter(|one| matches!(one.operator.as_str(), "In" | "Exists"))
                .map(|one| &one.key),
        );
    }
    let lost: Labels = labels.iter().filter(|(key, _)| keys.contains(key)).map(own).collect();
    let kept: Labels = labels.iter().filter(|(key, _)| !keys.contains(key)).map(own).collect();
    let found = services.iter().any(|wanted| finds(wanted, &kept)) || sets.iter().any(|wanted| owns(wanted, &kept));
    (!found).then_some(lost)
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// Whether a budget is about a pod: without a selector it is about none, with an empty one about all. What its unhealthy pods
/// may do at any time needs no budget.
fn protects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(spec) = &budget.spec else { return false };
    let selected = spec.selector.clone().and_then(|selector| Selector::try_from(selector).ok());
    let free = spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow") && !pod_is_ready(pod);
    selected.is_some_and(|selector| selector.matches(pod.labels())) && !free
}

/// How many pods a budget lets go; none before its controller has looked at it.
fn allowed(budget: &PodDisruptionBudget) -> i32 {
    let Some(status) = &budget.status else { return 0 };
    let seen = status.observed_generation >= budget.metadata.generation;
    if seen { status.disruptions_allowed } else { 0 }
}

/// Takes labels off a pod, if it is still the one that was read, and says on it why and which.
fn patch(pod: &Pod, lost: &Labels, incident: &str) -> Patch {
    let path = |tokens: &[&str]| PointerBuf::from_tokens(tokens.iter().map(|token| Token::new(*token)));
    let test = |tokens: &[&str], value| PatchOperation::Test(TestOperation { path: path(tokens), value });
    let add = |tokens: &[&str], value| PatchOperation::Add(AddOperation { path: path(tokens), value });
    let mut operations = vec![
        test(&["metadata", "uid"], json!(pod.metadata.uid)),
        test(&["metadata", "resourceVersion"], json!(pod.metadata.resource_version)),
    ];
    operations.extend(lost.keys().map(|key| {
        PatchOperation::Remove(RemoveOperation {
            path: path(&["metadata", "labels", key]),
        })
    }));
    operations.push(add(&["metadata", "labels", ISOLATED_LABEL], json!(isolated_label(incident))));
    if pod.metadata.annotations.is_none() {
        operations.push(add(&["metadata", "annotations"], json!({})));
    }
    let kept = Value::String(json!(lost).to_string());
    operations.push(add(&["metadata", "annotations", LABELS], kept));
    Patch(operations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Color;

    fn pod(name: &str, born: &str, labels: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "7", "creationTimestamp": born, "labels": labels},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        }))
        .expect("a Pod")
    }

    fn old(name: &str) -> Pod {
        let labels = json!({"app": "web", "color": "green", "pod-template-hash": "5d4f", "team": "shop"});
        pod(name, "2026-01-01T00:00:00Z", labels)
    }

    fn scene(pods: Vec<Pod>, allowed: i32) -> Scene {
        let parse = |value: Value| serde_json::from_value(value).expect("an object");
        let set = json!({"metadata": {"name": "web-green-5d4f"}, "spec": {"selector": {"matchLabels": {"app": "web", "color": "green", "pod-template-hash": "5d4f"}}}});
        let budget = json!({
            "metadata": {"name": "web", "generation": 2}, "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"observedGeneration": 2, "disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3},
        });
        Scene {
            pods,
            services: vec![
                serde_json::from_value(json!({"metadata": {"name": "all"}, "spec": {"selector": {"app": "web"}}})).expect("a Service"),
            ],
            sets: vec![serde_json::from_value(set).expect("a ReplicaSet")],
            budgets: vec![parse(budget)],
        }
    }

    fn order(action: Relief) -> ReliefOrder {
        ReliefOrder {
            left: Color::new("green").expect("valid"),
            to: Color::new("blue").expect("valid"),
            before: "2026-01-02T00:00:00Z".parse().expect("a time"),
            incident: "shop.web_20260102T000000Z".into(),
            action,
            at_once: 2,
        }
    }

    #[test]
    fn a_budget_lets_as_many_go_as_it_says_and_the_others_wait() {
        let steps = plan(&scene(vec![old("a"), old("b"), old("c")], 2), &order(Relief::Isolate));
        let gone = steps.iter().filter(|step| matches!(step, Step::Isolate { .. })).count();
        assert_eq!(gone, 2);
        assert_eq!(steps[2], Step::Hold("PodDisruptionBudget/web allows no disruption now".into()));
        assert_eq!(
            plan(&scene(vec![old("a")], 0), &order(Relief::Evict)),
            [Step::Evict],
            "the API server judges evictions"
        );
    }

    #[test]
    fn a_budget_that_nobody_has_looked_at_lets_nothing_go() {
        let mut scene = scene(vec![old("a")], 1);
        scene.budgets[0].metadata.generation = Some(3);
        assert!(matches!(plan(&scene, &order(Relief::Isolate))[0], Step::Hold(_)));
        scene.budgets[0].status = None;
        assert!(matches!(plan(&scene, &order(Relief::Isolate))[0], Step::Hold(_)));
    }

    #[test]
    fn only_the_labels_by_which_it_is_found_are_lost() {
        let steps = plan(&scene(vec![old("a")], 1), &order(Relief::Isolate));
        let Step::Isolate { lost } = &steps[0] else { panic!("{steps:?}") };
        assert_eq!(lost.keys().collect::<Vec<_>>(), ["app", "color", "pod-template-hash"]);
        let patch = serde_json::to_value(patch(&old("a"), lost, "shop.web_20260102T000000Z")).expect("JSON");
        assert_eq!(
            patch,
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "uid-a"},
                {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "remove", "path": "/metadata/labels/app"},
                {"op": "remove", "path": "/metadata/labels/color"},
                {"op": "remove", "path": "/metadata/labels/pod-template-hash"},
                {"op": "add", "path": "/metadata/labels/flipback.dev~1isolated", "value": "shop.web_20260102T000000Z"},
                {"op": "add", "path": "/metadata/annotations", "value": {}},
                {"op": "add", "path": "/metadata/annotations/flipback.dev~1isolated-labels",
                 "value": "{\"app\":\"web\",\"color\":\"green\",\"pod-template-hash\":\"5d4f\"}"},
            ])
        );
    }

    #[test]
    fn a_pod_that_would_be_found_without_its_labels_stays() {
        let mut scene = scene(vec![old("a")], 1);
        let anybody = json!({"matchExpressions": [{"key": "gone", "operator": "DoesNotExist"}]});
        let spec = scene.sets[0].spec.as_mut().expect("a spec");
        spec.selector = serde_json::from_value(anybody).expect("a selector");
        assert!(matches!(plan(&scene, &order(Relief::Isolate))[0], Step::Hold(_)));
    }

    #[test]
    fn pods_that_were_born_later_or_are_leaving_are_none_of_those() {
        let before = order(Relief::Evict).before;
        assert!(concerns(&old("a"), before));
        assert!(!concerns(&pod("b", "2026-01-02T00:00:01Z", json!({})), before));
        assert!(!concerns(&pod("c", "2026-01-01T00:00:00Z", json!({ISOLATED_LABEL: "i"})), before));
        let mut leaving = old("d");
        leaving.metadata.deletion_timestamp.clone_from(&leaving.metadata.creation_timestamp);
        assert!(!concerns(&leaving, before));
    }
}
