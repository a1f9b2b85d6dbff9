//! A node that is none: binds every pod, says that it runs, and serves its logs.
//!
//! Pods get addresses from a block per workload (loopback is refused by the API server), so that a test can say
//! beforehand which of its applications answers for which addresses, for pods that do not exist yet too.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The node's name.
pub const NODE: &str = "testbed";
/// Pods tended at the same time: enough that a thousand come up within seconds.
const TENDED_MAX: usize = 16;

/// How the pods of a workload behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    /// Running and Ready.
    #[default]
    Ready,
    /// Running, and its readiness probe fails.
    NotReady,
    /// In a crash loop: not Ready, restarted, with a previous container's log.
    Crashing,
}

/// What a container said.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// The running container's.
    pub current: String,
    /// That of the one before; `None` without one.
    pub previous: Option<String>,
}

#[derive(Debug, Default)]
struct Workload {
    conduct: Conduct,
    logs: Option<Logs>,
    block: Option<u16>,
    given: u8,
    apps: Vec<SocketAddr>,
}

/// (namespace, Deployment or bare pod).
type Key = (String, String);

#[derive(Debug, Default)]
struct State {
    workloads: BTreeMap<Key, Workload>,
    pods: BTreeMap<Key, Pod>,
    blocks: u16,
}

/// The node's memory; its tasks run in the testbed's runtime.
#[derive(Debug)]
pub struct Node {
    state: Mutex<State>,
    changed: tokio::sync::Notify,
}

/// The Deployment a pod belongs to, else its own name: `web-green-5d4f8c7b9-x2x4z` -> `web-green`.
fn workload(pod: &Pod) -> String {
    let owner = pod.owner_references().iter().find(|owner| owner.kind == "ReplicaSet");
    let hash = pod.labels().get("pod-template-hash");
    match (owner, hash) {
        (Some(owner), Some(hash)) => owner.name.trim_end_matches(hash.as_str()).trim_end_matches('-').to_owned(),
        _ => pod.name_any(),
    }
}

impl State {
    fn workload(&mut self, namespace: &str, name: &str) -> &mut Workload {
        self.workloads.entry((namespace.to_owned(), name.to_owned())).or_default()
    }

    /// The number of the workload's block of addresses.
    fn block(&mut self, namespace: &str, name: &str) -> u16 {
        let next = self.blocks;
        let workload = self.workload(namespace, name);
        let block = *workload.block.get_or_insert(next);
        if block == next {
            self.blocks += 1;
        }
        block
    }
}

/// The `n`th address of a block.
fn address(block: u16, n: u8) -> String {
    let [high, low] = block.to_be_bytes();
    format!("10.{}.{low}.{n}", 64 + high)
}

impl Node {
    /// A node that knows no pods yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: tokio::sync::Notify::new(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the pods of a workload behave so, those that are and those that come.
    pub fn set_conduct(&self, namespace: &str, name: &str, conduct: Conduct) {
        self.state().workload(namespace, name).conduct = conduct;
        self.changed.notify_one();
    }

    /// What every container of a workload has said.
    pub fn set_logs(&self, namespace: &str, name: &str, logs: Logs) {
        self.state().workload(namespace, name).logs = Some(logs);
    }

    /// Makes `apps` answer for the pods of a workload in turn, and returns every address that its pods may get.
    pub fn place(&self, namespace: &str, name: &str, apps: &[SocketAddr]) -> Vec<String> {
        let mut state = self.state();
        state.workload(namespace, name).apps = apps.to_vec();
        let block = state.block(namespace, name);
        (1..u8::MAX).map(|n| address(block, n)).collect()
    }

    /// The application that answers for a pod's address.
    #[must_use]
    pub fn resolve(&self, ip: &str) -> Option<SocketAddr> {
        let [_, high, low, n] = ip.parse::<Ipv4Addr>().ok()?.octets();
        let block = u16::from_be_bytes([high.checked_sub(64)?, low]);
        let state = self.state();
        let apps = &state.workloads.values().find(|workload| workload.block == Some(block))?.apps;
        apps.get(usize::from(n.checked_sub(1)?) % apps.len().max(1)).copied()
    }

    /// The log that the kubelet serves for a container.
    #[must_use]
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> Option<Logs> {
        let state = self.state();
        let object = state.pods.get(&(namespace.to_owned(), pod.to_owned()))?;
        let restarted = object
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref())
            .is_some_and(|all| all.iter().any(|one| one.name == container && one.restart_count > 0));
        let key = (namespace.to_owned(), workload(object));
        let own = state.workloads.get(&key).and_then(|workload| workload.logs.clone());
        let said = |which: &str| {
            (1..=100)
                .map(|n| format!("{pod}/{container} {which} line {n}\n"))
                .collect::<String>()
        };
        Some(own.unwrap_or_else(|| Logs {
            current: said("current"),
            previous: restarted.then(|| said("previous")),
        }))
    }

    /// Creates the Node object whose kubelet listens on `kubelet`.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub async fn register(client: &Client, kubelet: SocketAddr) {
        let nodes: Api<NodeObject> = Api::all(client.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}});
        let node = serde_json::from_value(node).expect("a Node");
        nodes.create(&PostParams::default(), &node).await.expect("the Node is accepted");
        let now = super::now();
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": kubelet.ip()}, {"type": "Hostname", "address": NODE}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
            "capacity": {"cpu": "64", "memory": "256Gi", "pods": "5000"},
            "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "5000"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        nodes
            .patch_status(NODE, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("its status is accepted");
    }

    /// Tends every pod of the cluster until stopped.
    pub async fn run(self: Arc<Self>, client: Client, stop: CancellationToken) {
        let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff();
        let seen = pods.map_ok(|event| self.note(event)).filter_map(async |pod| pod.ok().flatten());
        let tend_seen = seen.for_each_concurrent(TENDED_MAX, async |pod| self.tend(&client, pod).await);
        let tend_changed = async {
            loop {
                self.changed.notified().await;
                let pods: Vec<Pod> = self.state().pods.values().cloned().collect();
                futures::stream::iter(pods)
                    .for_each_concurrent(TENDED_MAX, async |pod| self.tend(&client, pod).await)
                    .await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tend_seen => {}
            () = tend_changed => {}
        }
    }

    /// Remembers a pod; returns it when it needs to be looked at.
    fn note(&self, event: watcher::Event<Pod>) -> Option<Pod> {
        let key = |pod: &Pod| (pod.namespace().unwrap_or_default(), pod.name_any());
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                self.state().pods.insert(key(&pod), pod.clone());
                Some(pod)
            }
            watcher::Event::Delete(pod) => {
                self.state().pods.remove(&key(&pod));
                None
            }
            watcher::Event::Init | watcher::Event::InitDone => None,
        }
    }

    /// Brings one pod a step further. What fails is tried again at the pod's next event; that a pod is gone meanwhile is
    /// no failure.
    async fn tend(&self, client: &Client, pod: Pod) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
            return;
        }
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            None => {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
                let _: Result<Value, _> = pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
            }
            Some(NODE) => {
                let owner = workload(&pod);
                let (conduct, ip) = self.wanted(&namespace, &owner, &pod);
                let Some(status) = status(&pod, conduct, &ip) else { return };
                let done = pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
                if done.is_ok() && conduct == Conduct::Crashing {
                    back_off_event(client, &namespace, &pod).await;
                }
            }
            Some(_) => {}
        }
    }

    /// How the pod shall behave, and its address: the one it has, else the next of its workload's block.
    fn wanted(&self, namespace: &str, owner: &str, pod: &Pod) -> (Conduct, String) {
        let mut state = self.state();
        let own = state.workloads.get(&(namespace.to_owned(), pod.name_any())).map(|own| own.conduct);
        let conduct = own.unwrap_or(state.workload(namespace, owner).conduct);
        if let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) {
            return (conduct, ip);
        }
        let block = state.block(namespace, owner);
        let workload = state.workload(namespace, owner);
        workload.given = workload.given % (u8::MAX - 1) + 1;
        (conduct, address(block, workload.given))
    }
}

/// The status patch that makes a pod behave so; `None` when it does already.
fn status(pod: &Pod, conduct: Conduct, ip: &str) -> Option<Value> {
    let old = pod.status.clone().unwrap_or_default();
    let ready = conduct == Conduct::Ready;
    let crashing = conduct == Conduct::Crashing;
    let containers = old.container_statuses.unwrap_or_default();
    let is_crashing = containers
        .iter()
        .any(|one| one.state.as_ref().is_some_and(|state| state.waiting.is_some()));
    let is_ready = !containers.is_empty() && containers.iter().all(|one| one.ready);
    if old.phase.as_deref() == Some("Running") && is_ready == ready && is_crashing == crashing {
        return None;
    }
    let now = super::now();
    let started = old.start_time.map_or(json!(now), |time| json!(time));
    let condition = |kind: &str, met: bool| json!({"type": kind, "status": if met { "True" } else { "False" }, "lastTransitionTime": now});
    let wanted = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let statuses: Vec<Value> = wanted
        .iter()
        .map(|container| {
            let before = containers.iter().find(|one| one.name == container.name);
            let restarts = before.map_or(0, |one| one.restart_count) + i32::from(crashing);
            let image = container.image.clone().unwrap_or_default();
            let died = json!({"terminated": {"exitCode": 1, "reason": "Error", "startedAt": started, "finishedAt": now}});
            let backing_off = json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("back-off restarting failed container {}", container.name)}});
            json!({
                "name": container.name,
                "image": image,
                "imageID": format!("{image}@sha256:{}", "0".repeat(64)),
                "containerID": format!("containerd://{}", pod.uid().unwrap_or_default()),
                "ready": ready,
                "started": !crashing,
                "restartCount": restarts,
                "state": if crashing { backing_off } else { json!({"running": {"startedAt": now}}) },
                "lastState": if restarts > 0 { died } else { json!({}) },
            })
        })
        .collect();
    Some(json!({"status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": started,
        "containerStatuses": statuses,
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
    }}))
}

/// What a kubelet says about a crash loop.
async fn back_off_event(client: &Client, namespace: &str, pod: &Pod) {
    let now = super::now();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"generateName": format!("{}.", pod.name_any()), "namespace": namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "namespace": namespace, "uid": pod.uid()},
        "type": "Warning", "reason": "BackOff", "message": "Back-off restarting failed container",
        "source": {"component": "kubelet", "host": NODE}, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    let event: Event = serde_json::from_value(event).expect("an Event");
    let _ = Api::<Event>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &event)
        .await;
}
