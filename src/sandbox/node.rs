//! The sandbox's only node: it runs an application for every pod and tells the API server how the pods fare.
//!
//! Pod addresses are 10.x, as in a cluster; each stands for a loopback port that is reserved for the whole life of the
//! sandbox, so that a crashed pod refuses connections and comes back under the same address.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpSocket, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    api::{
        Api, Key, controller,
        kinds::{PODS, at, text},
    },
    app::{self, Faults, Identity},
    clock,
    listen::{Ending, Listening},
    logs::Logs,
};

/// The port the application believes to listen on.
pub(super) const PORT: u16 = 8080;
/// How often the node looks at its pods when nobody wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Pod addresses and the loopback ports they stand for.
#[derive(Clone, Debug)]
pub(super) struct Network(Arc<BTreeMap<String, SocketAddr>>);

impl Network {
    /// Where a pod address leads.
    pub(super) fn resolve(&self, address: &str) -> Option<SocketAddr> {
        self.0.get(address).copied()
    }

    /// Every pod address, existing or to come.
    pub(super) fn all(&self) -> &BTreeMap<String, SocketAddr> {
        &self.0
    }
}

/// One pod address: its port is held while nothing listens on it.
#[derive(Debug)]
struct Slot {
    address: String,
    port: SocketAddr,
    held: Option<TcpSocket>,
    pod: Option<String>,
}

#[derive(Debug)]
struct Running {
    slot: usize,
    server: Option<Listening>,
    ready_at: Instant,
    restarts: u32,
    started: String,
}

/// The node.
#[derive(Debug)]
pub(super) struct Node {
    api: Api,
    logs: Logs,
    faults: Faults,
    slots: Vec<Slot>,
    running: BTreeMap<String, Running>,
    ready_after: Duration,
    seed: u64,
}

impl Node {
    /// Reserves `capacity` pod addresses.
    pub(super) fn new(api: Api, logs: Logs, faults: Faults, capacity: u8, ready_after: Duration, seed: u64) -> io::Result<(Self, Network)> {
        let mut slots = Vec::new();
        for n in 0..capacity {
            let held = hold(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            slots.push(Slot {
                address: format!("10.244.0.{}", u16::from(n) + 10),
                port: held.local_addr()?,
                held: Some(held),
                pod: None,
            });
        }
        let network = Network(Arc::new(slots.iter().map(|slot| (slot.address.clone(), slot.port)).collect()));
        let node = Self {
            api,
            logs,
            faults,
            slots,
            running: BTreeMap::new(),
            ready_after,
            seed,
        };
        Ok((node, network))
    }

    /// Runs until stopped; the applications end with it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut newest = self.api.newest();
        loop {
            self.look().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = newest.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&mut self) {
        let pods: BTreeMap<String, Arc<Value>> = self.api.read(|store| {
            store
                .all(&PODS)
                .map(|pod| (text(pod, &["metadata", "name"]).to_owned(), pod.clone()))
                .collect()
        });
        let gone: Vec<String> = self.running.keys().filter(|name| !pods.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(&name).await;
        }
        for (name, pod) in &pods {
            let color = text(pod, &["metadata", "labels", "color"]);
            let crashed = self.faults.of(color).crashed;
            if !self.running.contains_key(name) && !self.admit(name) {
                continue;
            }
            match self.running.get(name).is_some_and(|running| running.server.is_some()) {
                true if crashed => self.crash(name).await,
                false if !crashed => self.launch(name, color, pod).await,
                _ => {}
            }
            self.report(name, pod);
        }
    }

    /// Gives a pod an address; one that finds none stays Pending.
    fn admit(&mut self, name: &str) -> bool {
        let Some((index, slot)) = self.slots.iter_mut().enumerate().find(|(_, slot)| slot.pod.is_none()) else {
            return false;
        };
        slot.pod = Some(name.to_owned());
        self.running.insert(
            name.to_owned(),
            Running {
                slot: index,
                server: None,
                ready_at: Instant::now(),
                restarts: 0,
                started: String::new(),
            },
        );
        true
    }

    async fn launch(&mut self, name: &str, color: &str, pod: &Value) {
        let Some(running) = self.running.get_mut(name) else { return };
        let Some(slot) = self.slots.get_mut(running.slot) else { return };
        let image = pod.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default();
        let who = Identity {
            pod: name.to_owned(),
            color: color.to_owned(),
            image: image.to_owned(),
            seed: self.seed ^ u64::from(slot.port.port()) ^ u64::from(running.restarts) << 32,
        };
        let Ok(router) = app::router(who, self.faults.clone(), self.logs.clone()) else {
            return;
        };
        drop(slot.held.take());
        match Listening::start(slot.port, router, Ending::Abrupt).await {
            Ok(server) => {
                running.server = Some(server);
                running.ready_at = Instant::now() + self.ready_after;
                running.started = clock::stamp(clock::now());
            }
            // The next look tries again.
            Err(_) => slot.held = hold(slot.port).ok(),
        }
    }

    async fn crash(&mut self, name: &str) {
        let Some(running) = self.running.get_mut(name) else { return };
        if let Some(server) = running.server.take() {
            self.logs.say(
                name,
                clock::now(),
                "level=fatal msg=\"out of memory: cannot allocate 268435456 bytes\" exit=137".to_owned(),
            );
            server.stop().await;
            self.logs.restart(name);
            running.restarts += 1;
        }
        if let Some(slot) = self.slots.get_mut(running.slot) {
            slot.held = hold(slot.port).ok();
        }
    }

    async fn remove(&mut self, name: &str) {
        let Some(running) = self.running.remove(name) else { return };
        if let Some(server) = running.server {
            server.stop().await;
        }
        if let Some(slot) = self.slots.get_mut(running.slot) {
            slot.pod = None;
            slot.held = hold(slot.port).ok();
        }
    }

    /// Writes the pod's status, where it differs.
    fn report(&self, name: &str, pod: &Value) {
        let Some(running) = self.running.get(name) else { return };
        let Some(slot) = self.slots.get(running.slot) else { return };
        let serving = running.server.is_some();
        let ready = serving && Instant::now() >= running.ready_at;
        let status = status(pod, running, &slot.address, serving, ready);
        let key = Key {
            kind: &PODS,
            namespace: text(pod, &["metadata", "namespace"]).to_owned(),
            name: name.to_owned(),
        };
        let by = controller("kubelet", clock::now());
        // The pod may be gone by now: the next look sees that.
        let _ = self.api.write(|store| {
            store.edit(&key, &by, |pod| {
                pod["spec"]["nodeName"] = json!("sandbox");
                pod["status"] = status;
                Ok(())
            })
        });
    }
}

fn status(pod: &Value, running: &Running, address: &str, serving: bool, ready: bool) -> Value {
    let word = |flag: bool| if flag { "True" } else { "False" };
    // A condition keeps the time of its last change.
    let before = at(pod, &["status", "conditions"]).as_array();
    let since = |name: &str, now: &str| {
        let old = before.into_iter().flatten().find(|condition| text(condition, &["type"]) == name);
        match old {
            Some(condition) if text(condition, &["status"]) == now => at(condition, &["lastTransitionTime"]).clone(),
            _ => json!(clock::stamp(clock::now())),
        }
    };
    let condition = |name: &str, flag: bool| json!({ "type": name, "status": word(flag), "lastTransitionTime": since(name, word(flag)) });
    let state = if serving {
        json!({ "running": { "startedAt": running.started } })
    } else {
        json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off restarting failed container app" } })
    };
    let last = if running.restarts == 0 {
        json!({})
    } else {
        json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "startedAt": running.started } })
    };
    let image = pod.pointer("/spec/containers/0/image").cloned().unwrap_or(Value::Null);
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "hostIP": "10.0.0.1",
        "startTime": at(pod, &["metadata", "creationTimestamp"]),
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": [{
            "name": "app",
            "image": image,
            "imageID": "",
            "ready": ready,
            "started": serving,
            "restartCount": running.restarts,
            "state": state,
            "lastState": last,
        }],
    })
}

/// Binds without listening: the port is taken, and refuses.
fn hold(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}
