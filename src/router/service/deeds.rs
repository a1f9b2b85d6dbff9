//! What else is asked of the API server: pausing, telling, verifying, asking for rights. None of it is on the road of
//! a flip.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{Event, EventSource, ObjectReference, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use tokio::time::Instant;

use super::{
    super::{Access, RouteEvent, RouterError, Verified},
    MANAGER, ServiceRouter, patch,
    view::{is_ready, selector},
    within,
};
use crate::{
    cluster::{Fault, FaultKind},
    model::{Color, Pause, Relief},
};

/// Writes of the pause at most, each on a new reading.
const PAUSE_ATTEMPTS: u32 = 3;
/// How long the endpoints may take to follow: 1 to 2 s is usual.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at the endpoints, doubling from the first to the last.
const FOLLOW_WAIT_MIN: Duration = Duration::from_millis(25);
const FOLLOW_WAIT_MAX: Duration = Duration::from_millis(500);
/// An Event's note is at most 1 KiB.
const NOTE_BYTES_MAX: usize = 1024;
/// Rights asked for at the same time.
const RIGHTS_AT_ONCE: usize = 8;

impl ServiceRouter {
    /// Writes or removes the pause annotation.
    pub(super) async fn write_pause(&self, pause: Option<Pause>) -> Result<(), RouterError> {
        let attempted = if pause.is_some() { "pause" } else { "resume" };
        let failed = |fault| RouterError::of(attempted, &self.object, fault);
        let api = self.api(self.writes(attempted)?);
        let mut refused = Fault::deadline(Duration::ZERO);
        for _ in 0..PAUSE_ATTEMPTS {
            let service = self.glance(&api, &self.route.active).await.map_err(failed)?;
            let patch = patch::pause(&service, pause.as_ref()).map_err(|error| {
                failed(Fault {
                    kind: FaultKind::Refused,
                    detail: error.to_string(),
                })
            })?;
            let Some(patch) = patch else { return Ok(()) };
            match self.send(&api, &self.route.active, patch, false).await {
                Ok(_) => return Ok(()),
                // Safe to repeat: it says the same however often it is written.
                Err(fault) if matches!(fault.kind, FaultKind::Conflict | FaultKind::Busy) => refused = fault,
                Err(fault) => return Err(failed(fault)),
            }
        }
        Err(failed(refused))
    }

    /// Posts an Event about the active Service. Its name is unique, so that the API server never folds two into one.
    pub(super) async fn write_event(&self, event: &RouteEvent) -> Result<(), RouterError> {
        let attempted = "post an Event about";
        // The Event of a flip that was carried out is true whoever leads by now.
        let client = self.unfenced(attempted)?;
        let known = self.cluster.caches().last_known_service(&self.spec.namespace, &self.route.active);
        let service = match known {
            Some(service) => service.as_ref().clone(),
            None => self
                .glance(&self.api(client.clone()), &self.route.active)
                .await
                .map_err(|fault| RouterError::of("read", &self.object, fault))?,
        };
        let event = self.event(event, &service);
        let events: Api<Event> = Api::namespaced(client, &self.spec.namespace);
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match within(self.cluster.flip_timeout(), events.create(&params, &event)).await {
            Ok(_) => Ok(()),
            Err(fault) => Err(RouterError::of(attempted, &self.object, fault)),
        }
    }

    fn event(&self, event: &RouteEvent, service: &Service) -> Event {
        let at = Some(Time(event.at));
        // Two Events of the same instant differ by chance, as client-go's differ by time.
        let name = format!("{}.{:x}{:08x}", self.route.active, event.at.as_nanosecond(), rand::random::<u32>());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(self.spec.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                name: Some(self.route.active.clone()),
                namespace: Some(self.spec.namespace.clone()),
                // Without it `kubectl describe` does not show the Event.
                uid: service.metadata.uid.clone(),
                resource_version: service.metadata.resource_version.clone(),
                ..ObjectReference::default()
            },
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(event.reason.clone()),
            message: Some(shortened(&event.note)),
            count: Some(1),
            first_timestamp: at.clone(),
            last_timestamp: at,
            source: Some(EventSource {
                component: Some(MANAGER.to_owned()),
                ..EventSource::default()
            }),
            reporting_component: Some(MANAGER.to_owned()),
            ..Event::default()
        }
    }

    /// Reads the selector once and the endpoints until they have followed.
    pub(super) async fn follow_up(&self, to: &Color) -> Result<Verified, RouterError> {
        let started = Instant::now();
        let wanted = self.value(to)?;
        let client = self.reads("verify")?;
        let api = self.api(client.clone());
        let mut wait = FOLLOW_WAIT_MIN;
        loop {
            let service = within(self.cluster.read_timeout(), api.get(&self.route.active))
                .await
                .map_err(|fault| RouterError::of("read", &self.object, fault))?;
            let found = selector(&service).remove(&self.route.selector_key);
            let verified = |ready, problem| Verified {
                ready,
                took: started.elapsed(),
                problem,
            };
            if found.as_deref() != Some(wanted) {
                let found = found.unwrap_or_else(|| "nothing".to_owned());
                let problem = format!("{} selects {found:?} and not {wanted:?}: somebody moved it again", self.object);
                return Ok(verified(0, Some(problem)));
            }
            let (ready, foreign) = self.endpoints(&client, &service).await?;
            let problem = if let Some(pod) = foreign {
                Some(format!("{} still sends traffic to pod {pod:?}, which is not of {to}", self.object))
            } else if ready == 0 {
                Some(format!("{} has no Ready endpoint of {to}", self.object))
            } else {
                None
            };
            if problem.is_none() || started.elapsed() + wait > FOLLOW_DEADLINE {
                return Ok(verified(ready, problem));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(FOLLOW_WAIT_MAX);
        }
    }

    /// Ready endpoints of the pods that the Service selects now, and one Ready endpoint that is none of them.
    async fn endpoints(&self, client: &kube::Client, service: &Service) -> Result<(u32, Option<String>), RouterError> {
        let namespace = &self.spec.namespace;
        let deadline = self.cluster.read_timeout();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.route.active));
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let labels: Vec<String> = selector(service).iter().map(|(key, value)| format!("{key}={value}")).collect();
        let selected = ListParams::default().labels(&labels.join(","));
        let (slices, pods) = tokio::join!(
            within(deadline, slices.list(&of_service)),
            within(deadline, pods.list_metadata(&selected))
        );
        let slices = slices.map_err(|fault| RouterError::of("list the EndpointSlices of", &self.object, fault))?;
        let pods = pods.map_err(|fault| RouterError::of("list the pods of", &self.object, fault))?;
        let own: BTreeSet<&str> = pods.items.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        let mut ready = BTreeSet::new();
        for endpoint in slices
            .items
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| is_ready(endpoint))
        {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            match pod {
                Some(pod) if own.contains(pod) => {
                    ready.insert(pod);
                }
                Some(pod) => return Ok((u32::try_from(ready.len()).unwrap_or(u32::MAX), Some(pod.to_owned()))),
                None => {}
            }
        }
        Ok((u32::try_from(ready.len()).unwrap_or(u32::MAX), None))
    }

    /// Asks for every right that watching and flipping need.
    pub(super) async fn ask_rights(&self) -> Result<Vec<Access>, RouterError> {
        let client = self.reads("ask for rights on")?;
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
        futures::stream::iter(self.rights())
            .map(|right| {
                let reviews = reviews.clone();
                async move { self.ask(&reviews, right).await }
            })
            .buffered(RIGHTS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn ask(&self, reviews: &Api<SelfSubjectAccessReview>, right: Right) -> Result<Access, RouterError> {
        let owned = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.spec.namespace.clone()),
                    verb: owned(right.verb),
                    group: Some(right.group.to_owned()),
                    resource: owned(right.resource),
                    subresource: owned(right.subresource),
                    name: right.name.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = within(self.cluster.read_timeout(), reviews.create(&PostParams::default(), &review)).await;
        let answer = answer.map_err(|fault| RouterError::of("ask for rights on", &self.object, fault))?;
        Ok(right.access(answer.status.is_some_and(|status| status.allowed)))
    }

    fn rights(&self) -> Vec<Right> {
        let named = |verb, name: &String| Right {
            name: Some(name.clone()),
            ..Right::on(verb, "", "services")
        };
        let mut rights: Vec<Right> = std::iter::once(&self.route.active)
            .chain(&self.route.preview)
            .flat_map(|name| [named("get", name), named("patch", name)])
            .collect();
        for (group, resource, verbs) in [
            ("", "services", ["list", "watch"].as_slice()),
            ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
            ("", "pods", &["list", "watch"]),
            ("apps", "deployments", &["get", "list", "watch"]),
        ] {
            rights.extend(verbs.iter().map(|verb| Right::on(verb, group, resource)));
        }
        // What evidence reads besides.
        rights.push(Right::on("list", "apps", "replicasets"));
        rights.push(Right::on("list", "", "events"));
        rights.push(Right::on("list", "autoscaling", "horizontalpodautoscalers"));
        rights.push(Right::on("list", "policy", "poddisruptionbudgets"));
        rights.push(Right::on("list", "networking.k8s.io", "ingresses"));
        rights.push(Right::on("create", "", "events"));
        rights.push(Right {
            subresource: "log",
            ..Right::on("get", "", "pods")
        });
        rights.extend(self.optional_rights());
        rights
    }

    /// What only some guards are configured to do.
    fn optional_rights(&self) -> Vec<Right> {
        let mut rights = Vec::new();
        if self.spec.scale_up.is_some() {
            let deployments = self.spec.colors.values().filter_map(|side| side.deployment.clone());
            rights.extend(deployments.map(|name| Right {
                subresource: "scale",
                name: Some(name),
                ..Right::on("update", "apps", "deployments")
            }));
        }
        match self.spec.connections.action {
            Relief::Keep => {}
            Relief::Isolate => rights.push(Right::on("patch", "", "pods")),
            Relief::Evict => rights.push(Right {
                subresource: "eviction",
                ..Right::on("create", "", "pods")
            }),
        }
        rights
    }
}

/// One right to ask for.
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    name: Option<String>,
}

impl Right {
    fn on(verb: &'static str, group: &'static str, resource: &'static str) -> Self {
        Self {
            verb,
            group,
            resource,
            subresource: "",
            name: None,
        }
    }

    fn access(self, allowed: bool) -> Access {
        let mut resource = self.resource.to_owned();
        for (separator, part) in [("/", self.subresource), (".", self.group)] {
            if !part.is_empty() {
                resource.push_str(separator);
                resource.push_str(part);
            }
        }
        Access {
            verb: self.verb.to_owned(),
            resource,
            name: self.name,
            allowed,
        }
    }
}

/// A note that fits an Event.
fn shortened(note: &str) -> String {
    let mut end = note.len().min(NOTE_BYTES_MAX);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default().to_owned()
}
