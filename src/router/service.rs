//! The selector of a Service decides which color serves.
//!
//! The file is the adapter between caches, requests and the [`Router`] trait. What is read is judged in [`view`], what
//! is sent is built in [`patch`], both pure; the order of requests of a flip is in [`flip`], more capacity for a color is
//! asked for in [`scale`], pods are taken out of service in [`connections`], a person's word about the ledger is carried out
//! in [`clear`], whether the standby is still there in [`doubt`], everything else that talks to the API server is in [`deeds`]. Who else writes the object tells [`owner`].

mod clear;
mod connections;
mod deeds;
mod doubt;
mod flip;
mod owner;
mod patch;
mod scale;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::PatchParams};
use tokio::time::Instant;

use super::{Access, Flip, FlipOrder, ReliefOrder, Relieved, RouteEvent, Router, RouterError, Scaled, Verified};
use crate::{
    cluster::{Cluster, Fault, Fence, Unreadable},
    model::{Clear, Clearance, Color, FIELD_MANAGER as MANAGER, FlipRecord, GuardSpec, Pause, RouteSpec, ServiceRoute, View},
};

/// A read before a write that takes longer than this is given up: the write itself is the better question then.
const GLANCE_TIMEOUT: Duration = Duration::from_secs(1);

/// A Service whose selector decides.
struct ServiceRouter {
    spec: Arc<GuardSpec>,
    route: ServiceRoute,
    cluster: Arc<Cluster>,
    /// `Service "shop/web"`, for errors.
    object: String,
    /// Stands before every write; `None`: there are no other replicas.
    fence: Option<Fence>,
    memory: Mutex<Memory>,
}

/// What a router remembers between two views. Nothing that must survive.
#[derive(Default)]
struct Memory {
    /// The last view and the caches' version that it was made from: a quiet namespace costs nothing to look at.
    last: Option<(u64, View)>,
    /// What the views' sentences were last made from.
    notes: view::Notes,
    /// When a flip for want of endpoints was refuted first, of late.
    refuted: Option<Instant>,
}

/// The catalogue's entry.
pub(super) fn open(spec: &Arc<GuardSpec>, cluster: &Arc<Cluster>, fence: Option<&Fence>) -> Option<Arc<dyn Router>> {
    let RouteSpec::Service(route) = &spec.route;
    let router = ServiceRouter::new(spec.clone(), route.clone(), cluster.clone());
    Some(Arc::new(ServiceRouter {
        fence: fence.cloned(),
        ..router
    }))
}

impl ServiceRouter {
    fn new(spec: Arc<GuardSpec>, route: ServiceRoute, cluster: Arc<Cluster>) -> Self {
        let object = format!("Service \"{}/{}\"", spec.namespace, route.active);
        Self {
            spec,
            route,
            cluster,
            object,
            fence: None,
            memory: Mutex::default(),
        }
    }

    /// Looks everything up that a view is made from.
    fn objects(&self) -> Result<Option<view::Objects>, Unreadable> {
        let (caches, namespace) = (self.cluster.caches(), self.spec.namespace.as_str());
        let service = caches.service(namespace, &self.route.active)?;
        let slices = caches.endpoint_slices(namespace, &self.route.active)?;
        let Some(service) = service else {
            return Ok(None);
        };
        let selector = view::selector(&service);
        let mut pods = BTreeMap::new();
        let mut deployments = BTreeMap::new();
        for (color, side) in &self.spec.colors {
            let mut selector = selector.clone();
            selector.insert(self.route.selector_key.clone(), side.value.clone());
            pods.insert(color.clone(), caches.pods(namespace, &selector)?);
            if let Some(name) = &side.deployment
                && let Some(deployment) = caches.deployment(namespace, name)?
            {
                deployments.insert(color.clone(), deployment);
            }
        }
        Ok(Some(view::Objects {
            service,
            slices,
            pods,
            deployments,
        }))
    }

    fn api(&self, client: Client) -> Api<Service> {
        Api::namespaced(client, &self.spec.namespace)
    }

    /// The client for writes on guarded objects, with the fence before it where there is one.
    fn writes(&self, attempted: &'static str) -> Result<Client, RouterError> {
        let client = self.unfenced(attempted)?;
        Ok(match &self.fence {
            Some(fence) => fence.before(client, self.cluster.flip_timeout()),
            None => client,
        })
    }

    /// The client for what any replica may write: what it saw.
    fn unfenced(&self, attempted: &'static str) -> Result<Client, RouterError> {
        self.cluster.writes().map_err(|source| RouterError::NotConnected {
            attempted,
            object: self.object.clone(),
            source,
        })
    }

    fn reads(&self, attempted: &'static str) -> Result<Client, RouterError> {
        self.cluster.reads().map_err(|source| RouterError::NotConnected {
            attempted,
            object: self.object.clone(),
            source,
        })
    }

    /// Reads a Service over the flip's own connection, which also proves that connection before the patch goes out.
    async fn glance(&self, api: &Api<Service>, name: &str) -> Result<Service, Fault> {
        within(GLANCE_TIMEOUT.min(self.cluster.flip_timeout()), api.get(name)).await
    }

    /// Sends a patch once.
    async fn send(&self, api: &Api<Service>, name: &str, patch: json_patch::Patch, dry_run: bool) -> Result<Service, Fault> {
        let params = PatchParams {
            dry_run,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = kube::api::Patch::Json::<()>(patch);
        within(self.cluster.flip_timeout(), api.patch(name, &params, &patch)).await
    }

    /// The selector value that means a color.
    fn value(&self, color: &Color) -> Result<&str, RouterError> {
        match self.spec.colors.get(color) {
            Some(side) => Ok(&side.value),
            None => Err(RouterError::NoSuchColor {
                object: self.object.clone(),
                color: color.clone(),
            }),
        }
    }
}

/// A request with a deadline of its own.
async fn within<T>(deadline: Duration, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Fault> {
    match tokio::time::timeout(deadline, request).await {
        Ok(answer) => answer.map_err(|error| Fault::from(&error)),
        Err(_) => Err(Fault::deadline(deadline)),
    }
}

impl Router for ServiceRouter {
    fn view(&self) -> View {
        // Taken before the look-ups: a change in between makes the next view anew, never this one stale for ever.
        let version = self.cluster.caches().version(&self.spec.namespace);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost watch grows unreadable by time alone, without a new version.
        let aging = !self.cluster.caches().age(&self.spec.namespace).is_zero();
        if let Some((made_from, view)) = &memory.last
            && *made_from == version
            && !aging
        {
            return view.clone();
        }
        let view = match self.objects() {
            Ok(Some(objects)) => match view::view(&self.spec, &self.route, &objects, &mut memory.notes) {
                View::Known(mut traffic) if aging => {
                    traffic.sides.values_mut().for_each(|side| side.unwatched = true);
                    View::Known(traffic)
                }
                view => view,
            },
            Ok(None) => View::Unreadable(format!(
                "{} does not exist: create it, or correct the guard's route.service",
                self.object
            )),
            // Without a client no list will ever come in; what keeps it from being made is what a person can mend. Not
            // remembered, for it changes without a new version of the caches.
            Err(Unreadable(why)) => return View::Unreadable(self.cluster.reads().err().map_or(why, |error| error.to_string())),
        };
        memory.last = Some((version, view.clone()));
        view
    }

    fn flip<'a>(&'a self, order: &'a FlipOrder) -> BoxFuture<'a, Result<Flip, RouterError>> {
        self.carry_out(order).boxed()
    }

    fn finish<'a>(&'a self, flip: &'a FlipRecord) -> BoxFuture<'a, Result<bool, RouterError>> {
        self.bring_along(flip).boxed()
    }

    fn pause(&self, pause: Option<Pause>) -> BoxFuture<'_, Result<(), RouterError>> {
        self.write_pause(pause).boxed()
    }

    fn clear<'a>(&'a self, clear: &'a Clear, word: &'a Clearance) -> BoxFuture<'a, Result<bool, RouterError>> {
        self.clear_ledger(clear, word).boxed()
    }

    fn tell<'a>(&'a self, event: &'a RouteEvent) -> BoxFuture<'a, Result<(), RouterError>> {
        self.write_event(event).boxed()
    }

    fn verify<'a>(&'a self, to: &'a Color) -> BoxFuture<'a, Result<Verified, RouterError>> {
        self.follow_up(to).boxed()
    }

    fn may_flip(&self) -> BoxFuture<'_, Result<Vec<Access>, RouterError>> {
        self.ask_rights().boxed()
    }

    fn scale_up<'a>(&'a self, to: &'a Color, replicas: u32) -> BoxFuture<'a, Result<Scaled, RouterError>> {
        self.raise(to, replicas).boxed()
    }

    fn relieve<'a>(&'a self, relief: &'a ReliefOrder) -> BoxFuture<'a, Result<Relieved, RouterError>> {
        self.relieve_some(relief).boxed()
    }
}
