//! From cached objects to what is live. Pure.
//!
//! The active color's capacity is what its EndpointSlices say, because that is what carries traffic; a standby color's
//! is counted from pods, because no Service may select it yet. The port for probes is the pod's port that the active
//! Service targets: the Service's own port on a pod's address is a mistake that was made before.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, PodTemplateSpec, Service, ServicePort},
        discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ManagedFieldsEntry, util::intstr::IntOrString},
};
use sha2::{Digest as _, Sha256};

use super::{MANAGER, owner};
use crate::model::{
    Color, Endpoint, GuardSpec, Ledger, Pause, Release, Seen, ServiceRoute, Side, Traffic, View,
    ledger::{DAMAGED_ANNOTATION, LEDGER_ANNOTATION, LEDGER_IMAGES_MAX, LEDGER_VERSION, PAUSE_ANNOTATION},
};

/// Addresses kept per color: probes ask fewer, and a view is copied every few seconds. All are counted.
const ENDPOINTS_MAX: usize = 100;
/// What `kubectl rollout restart` writes on a pod template.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Everything a view is made from.
pub(super) struct Objects {
    pub service: Arc<Service>,
    /// The active Service's slices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The pods that the selector would match with each color's value.
    pub pods: BTreeMap<Color, Vec<Arc<Pod>>>,
    /// The Deployments that are named and found.
    pub deployments: BTreeMap<Color, Arc<Deployment>>,
}

/// What was said or seen before, so that it is said once and worked out once.
#[derive(Default)]
pub(super) struct Notes {
    /// The ledger text that could not be understood.
    bad_ledger: Option<String>,
    /// Colors whose Deployment was not found.
    no_deployment: BTreeSet<Color>,
    /// The active color of the last view.
    active: Option<Color>,
    /// The active color before that one.
    previous: Option<Color>,
    /// Releases by color, with the uid and generation they were hashed from.
    releases: BTreeMap<Color, (Option<String>, Option<i64>, Release)>,
}

/// What is live.
pub(super) fn view(spec: &GuardSpec, route: &ServiceRoute, objects: &Objects, notes: &mut Notes) -> View {
    let service = &objects.service;
    let selector = selector(service);
    let found = selector.get(&route.selector_key);
    let named = spec.colors.iter().find(|(_, side)| Some(&side.value) == found);
    let (Some((active, _)), Some(value)) = (named, found) else {
        return View::UnknownColor {
            found: found.cloned(),
            known: spec.colors.values().map(|side| side.value.clone()).collect(),
        };
    };
    if notes.active.as_ref() != Some(active) {
        notes.previous = notes.active.replace(active.clone());
    }
    let ledger = ledger(spec, service, notes);
    let mut sides: BTreeMap<Color, Side> = spec
        .colors
        .keys()
        .map(|color| (color.clone(), standing_by(color, service, objects)))
        .collect();
    if let Some(side) = sides.get_mut(active) {
        (side.ready, side.endpoints, side.unready) = serving(active, service, objects);
    }
    for (color, side) in &mut sides {
        side.images = images(color, objects);
        (side.desired, side.release) = running(spec, color, objects, notes);
        if let Some(deployment) = objects.deployments.get(color) {
            side.unavailable = unavailable(deployment);
        }
    }
    let standby = standby(active, &sides, &ledger, notes.previous.as_ref());
    let switch = switch(service, &route.selector_key, active, &ledger);
    View::Known(Box::new(Traffic {
        active: active.clone(),
        standby,
        sides,
        seen: seen(service, value),
        paused: paused(service),
        switched_at: switch.as_ref().and_then(|(at, _)| *at),
        switched_by: switch.and_then(|(_, by)| by),
        owner: owner::owner(service, &route.selector_key),
        ledger,
    }))
}

/// The Service's selector; empty when it has none.
pub(super) fn selector(service: &Service) -> BTreeMap<String, String> {
    service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default()
}

/// The basis of a compare-and-swap.
pub(super) fn seen(service: &Service, value: &str) -> Seen {
    Seen {
        uid: service.metadata.uid.clone().unwrap_or_default(),
        resource_version: service.metadata.resource_version.clone().unwrap_or_default(),
        value: value.to_owned(),
    }
}

fn annotation<'a>(service: &'a Service, key: &str) -> Option<&'a str> {
    let annotations = service.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// What earlier flips wrote on a Service; `Err` carries a text that is no ledger.
pub(super) fn parse_ledger(service: &Service) -> Result<Ledger, &str> {
    let Some(text) = annotation(service, LEDGER_ANNOTATION) else {
        return Ok(Ledger::default());
    };
    serde_json::from_str(text).map_err(|_| text)
}

/// The ledger, or an empty one and a loud word, once, when it cannot be understood: a damaged annotation must neither
/// stop a rollback nor go unnoticed.
fn ledger(spec: &GuardSpec, service: &Service, notes: &mut Notes) -> Ledger {
    match parse_ledger(service) {
        Ok(ledger) => {
            let strange = strange(&ledger);
            if let Some(why) = strange.as_ref().filter(|why| notes.bad_ledger.as_ref() != Some(why)) {
                tracing::warn!(guard = %spec.id, annotation = LEDGER_ANNOTATION, "{why}");
            }
            notes.bad_ledger = strange;
            ledger
        }
        Err(text) => {
            if notes.bad_ledger.as_deref() != Some(text) {
                tracing::error!(
                    guard = %spec.id,
                    annotation = LEDGER_ANNOTATION,
                    kept_as = DAMAGED_ANNOTATION,
                    "Ledger cannot be understood and counts as empty: earlier flips and bad releases are forgotten; `flipback clear {} --all` puts it aside",
                    spec.id
                );
                notes.bad_ledger = Some(text.to_owned());
            }
            Ledger::default()
        }
    }
}

/// What there is to say of a ledger that was read in part.
fn strange(ledger: &Ledger) -> Option<String> {
    let unread = ledger.unread.len();
    if ledger.version > LEDGER_VERSION {
        return Some(format!(
            "Ledger is of version {}, newer than {LEDGER_VERSION}: read as far as understood, kept as it is",
            ledger.version
        ));
    }
    (unread > 0).then(|| format!("Ledger holds {unread} entries that are no flips: they are kept, and count for nothing"))
}

/// The pause a person wrote. What flipback did not write counts too: somebody who annotates the Service by hand means
/// "hands off", however they spell it, unless they spell "no".
fn paused(service: &Service) -> Option<Pause> {
    let text = annotation(service, PAUSE_ANNOTATION)?;
    if matches!(text.trim(), "" | "false" | "no" | "null") {
        return None;
    }
    Some(serde_json::from_str(text).unwrap_or_else(|_| Pause {
        by: format!("somebody, by the annotation {PAUSE_ANNOTATION}"),
        at: Timestamp::UNIX_EPOCH,
        reason: text.chars().take(200).collect(),
        until: None,
    }))
}

// === capacity ===

/// Ready and unready endpoints that carry traffic now. Endpoints of another color, which the slices still hold for a
/// moment after a switch, are left out.
fn serving(active: &Color, service: &Service, objects: &Objects) -> (u32, Vec<Endpoint>, Vec<Endpoint>) {
    let names = |color: &Color| {
        objects
            .pods
            .get(color)
            .into_iter()
            .flatten()
            .filter_map(|pod| pod.metadata.name.as_deref())
    };
    let own: BTreeSet<&str> = names(active).collect();
    let foreign: BTreeSet<&str> = objects
        .pods
        .keys()
        .filter(|color| *color != active)
        .flat_map(names)
        .filter(|name| !own.contains(name))
        .collect();
    let port_name = probe_port(service).and_then(|port| port.name.clone()).unwrap_or_default();
    // Dual-stack Services list a pod once per address family.
    let mut ready = BTreeMap::new();
    let mut unready = BTreeMap::new();
    for slice in &objects.slices {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| port.name.clone().unwrap_or_default() == port_name)
            .find_map(|port| port.port.and_then(|port| u16::try_from(port).ok()));
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.addresses.first() else { continue };
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            let pod = pod.unwrap_or(address);
            if foreign.contains(pod) || is_terminating(endpoint) {
                continue;
            }
            let entry = Endpoint {
                pod: pod.to_owned(),
                address: address.clone(),
                port,
            };
            let list = if is_ready(endpoint) { &mut ready } else { &mut unready };
            list.entry(pod.to_owned()).or_insert(entry);
        }
    }
    unready.retain(|pod, _| !ready.contains_key(pod));
    let count = count(ready.len());
    let bounded = |list: BTreeMap<_, _>| list.into_values().take(ENDPOINTS_MAX).collect();
    (count, bounded(ready), bounded(unready))
}

/// Kubernetes reads a missing condition as ready.
pub(super) fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn is_terminating(endpoint: &SliceEndpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.terminating).unwrap_or(false)
}

/// Whether a pod could take traffic: Ready, and neither ended nor ending.
pub(super) fn can_serve(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let addressed = status
        .and_then(|status| status.pod_ip.as_deref())
        .is_some_and(|address| !address.is_empty());
    addressed && pod.metadata.deletion_timestamp.is_none() && !has_ended(pod) && pod_is_ready(pod)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// What a color could serve with, counted from its pods.
fn standing_by(color: &Color, service: &Service, objects: &Objects) -> Side {
    let mut side = Side::default();
    for pod in objects.pods.get(color).into_iter().flatten() {
        if pod.metadata.deletion_timestamp.is_some() || has_ended(pod) {
            continue;
        }
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone())
            .filter(|address| !address.is_empty());
        let ready = address.is_some() && pod_is_ready(pod);
        side.ready = side.ready.saturating_add(u32::from(ready));
        let list = if ready { &mut side.endpoints } else { &mut side.unready };
        if let Some(address) = address
            && list.len() < ENDPOINTS_MAX
        {
            list.push(Endpoint {
                pod: pod.metadata.name.clone().unwrap_or_default(),
                address,
                port: probe_port(service).and_then(|port| pod_port(port, pod)),
            });
        }
    }
    side
}

/// What the pods of a color report to run, each image once.
fn images(color: &Color, objects: &Objects) -> Vec<String> {
    let pods = objects.pods.get(color).into_iter().flatten();
    let containers = pods.filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers);
    let images: BTreeSet<&String> = containers.filter_map(|container| container.image.as_ref()).collect();
    images.into_iter().take(LEDGER_IMAGES_MAX).cloned().collect()
}

pub(super) fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The port that is probed unless a rule names another: the Service's first.
fn probe_port(service: &Service) -> Option<&ServicePort> {
    service.spec.as_ref()?.ports.as_ref()?.first()
}

/// Which port of a pod a Service's port leads to.
fn pod_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
                .and_then(|port| u16::try_from(port.container_port).ok())
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

// === releases ===

/// Replicas asked for and release, where a Deployment is named and found.
fn running(spec: &GuardSpec, color: &Color, objects: &Objects, notes: &mut Notes) -> (Option<u32>, Option<Release>) {
    let Some(name) = spec.colors.get(color).and_then(|side| side.deployment.as_ref()) else {
        return (None, None);
    };
    let Some(deployment) = objects.deployments.get(color) else {
        if notes.no_deployment.insert(color.clone()) {
            tracing::warn!(
                guard = %spec.id,
                color = %color,
                deployment = %name,
                "Deployment does not exist: releases of this color cannot be told apart; create it or correct `deployment`"
            );
        }
        return (None, None);
    };
    notes.no_deployment.remove(color);
    let desired = deployment
        .spec
        .as_ref()
        .and_then(|spec| u32::try_from(spec.replicas.unwrap_or(1)).ok());
    let (uid, generation) = (&deployment.metadata.uid, deployment.metadata.generation);
    if let Some((known_uid, known_generation, release)) = notes.releases.get(color)
        && known_uid == uid
        && *known_generation == generation
        && generation.is_some()
    {
        return (desired, Some(release.clone()));
    }
    let release = release(deployment);
    if let Some(release) = &release {
        notes.releases.insert(color.clone(), (uid.clone(), generation, release.clone()));
    }
    (desired, release)
}

/// What a Deployment runs: a short hash of its pod template, which a new image changes and scaling does not.
pub(super) fn release(deployment: &Deployment) -> Option<Release> {
    let template = &deployment.spec.as_ref()?.template;
    let text = serde_json::to_vec(&*but_for_restarts(template)).ok()?;
    let mut id = String::with_capacity(12);
    for byte in Sha256::digest(&text).iter().take(6) {
        write!(id, "{byte:02x}").expect("a String takes everything");
    }
    let containers = template.spec.iter().flat_map(|spec| &spec.containers);
    Some(Release {
        id,
        images: containers.filter_map(|container| container.image.clone()).collect(),
    })
}

/// A pod template without the mark of `kubectl rollout restart`, where a restart brings nothing new: every image is named by its digest.
/// Where one goes by a tag, a restart is how people roll out what the tag means by now, and another release.
fn but_for_restarts(template: &PodTemplateSpec) -> Cow<'_, PodTemplateSpec> {
    let containers = template
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut images = containers.map(|container| container.image.as_deref().unwrap_or_default());
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    if !annotations.is_some_and(|annotations| annotations.contains_key(RESTARTED_AT)) || !images.all(|image| image.contains('@')) {
        return Cow::Borrowed(template);
    }
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        let mut annotations = metadata.annotations.take().unwrap_or_default();
        annotations.remove(RESTARTED_AT);
        // As it was before the first restart.
        metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    }
    Cow::Owned(template)
}

// === availability ===

/// Why a Deployment is not available. What runs is not what is declared while its controller has not seen the newest
/// declaration, so that neither its release nor its readiness can be trusted. A Deployment that says nothing (no controller
/// has ever looked at it, or its kind of controller sets no condition) is not held against the color: its Ready endpoints speak.
fn unavailable(deployment: &Deployment) -> Option<String> {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let status = deployment.status.as_ref()?;
    if let (Some(declared), Some(observed)) = (deployment.metadata.generation, status.observed_generation)
        && observed < declared
    {
        return Some(format!(
            "Deployment/{name} was changed, and its controller has not seen it yet (generation {observed} of {declared})"
        ));
    }
    let available = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Available")?;
    (available.status != "True").then(|| {
        format!(
            "Deployment/{name} has fewer available pods than it promises (condition Available is {})",
            available.status
        )
    })
}

// === history ===

/// Where a rollback would go: the color that served last, as far as we saw it or the ledger tells, else the first
/// other one that could serve.
fn standby(active: &Color, sides: &BTreeMap<Color, Side>, ledger: &Ledger, previous: Option<&Color>) -> Color {
    let told = ledger.last().map(|flip| if flip.to == *active { &flip.from } else { &flip.to });
    let others = || sides.iter().filter(|(color, _)| *color != active);
    let able = || others().find(|(_, side)| side.ready > 0).map(|(color, _)| color);
    previous
        .into_iter()
        .chain(told)
        .find(|color| *color != active && sides.contains_key(*color))
        .or_else(able)
        .or_else(|| others().map(|(color, _)| color).next())
        .unwrap_or(active)
        .clone()
}

/// When the selector was last changed and by whom, where the object tells. The time is that of the manager's last
/// write, which may be a later one; for our own flips the ledger knows better.
fn switch(service: &Service, key: &str, active: &Color, ledger: &Ledger) -> Option<(Option<Timestamp>, Option<String>)> {
    let entries = service.metadata.managed_fields.iter().flatten();
    let newest = entries.filter(|entry| owns(entry, key)).max_by_key(|entry| entry.time.clone())?;
    let at = match ledger.last() {
        Some(flip) if newest.manager.as_deref() == Some(MANAGER) && flip.to == *active => Some(flip.at),
        _ => newest.time.as_ref().map(|time| time.0),
    };
    Some((at, newest.manager.clone()))
}

/// When the selector was last changed, where the object tells.
pub(super) fn changed_at(service: &Service, key: &str) -> Option<Timestamp> {
    let entries = service.metadata.managed_fields.iter().flatten();
    let times = entries.filter(|entry| owns(entry, key)).filter_map(|entry| entry.time.as_ref());
    times.map(|time| time.0).max()
}

/// Whether a manager owns the selector key. The selector is an atomic map: the API server notes it as a whole.
fn owns(entry: &ManagedFieldsEntry, key: &str) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    let Some(selector) = fields
        .and_then(|fields| fields.get("f:spec"))
        .and_then(|spec| spec.get("f:selector"))
    else {
        return false;
    };
    let whole = selector.as_object().is_some_and(serde_json::Map::is_empty);
    whole || selector.get(format!("f:{key}")).is_some()
}
