//! Where traffic is decided, and how it is moved.
//!
//! A router reads its route from the watch caches ([`Router::view`], no request) and moves it by one compare-and-swap
//! patch ([`Router::flip`]). It decides nothing: whether the flip is wise was judged before, and a flip of an object
//! that changed in between ends as [`Flip::Stale`], not as a second opinion.
//!
//! Monitor mode is a router too: [`Withheld`] reads like the router within and writes nothing, so that every other
//! line of the daemon is the same in both modes. A new kind of route is one new file and one line in [`CATALOGUE`].

mod service;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{Cluster, ClusterError, Fault, FaultKind, Fence},
    model::{Clear, Clearance, Color, FlipRecord, GuardSpec, Mode, Pause, Relief, Seen, View},
};

/// A route to colors.
pub trait Router: Send + Sync {
    /// What is live, from the caches.
    fn view(&self) -> View;

    /// Moves traffic by one compare-and-swap, and says what came of it.
    fn flip<'a>(&'a self, order: &'a FlipOrder) -> BoxFuture<'a, Result<Flip, RouterError>>;

    /// Brings along what a flip moves besides the route itself (the preview Service), where the process that made the flip
    /// ended in between; `true`: something was written. Nothing is, where anybody has touched either object since.
    fn finish<'a>(&'a self, flip: &'a FlipRecord) -> BoxFuture<'a, Result<bool, RouterError>>;

    /// Writes on the object that the guard is paused, or that it is not.
    fn pause(&self, pause: Option<Pause>) -> BoxFuture<'_, Result<(), RouterError>>;

    /// Takes back, on a person's word, what the ledger holds against the guard; `false`: it holds nothing of the kind.
    fn clear<'a>(&'a self, clear: &'a Clear, word: &'a Clearance) -> BoxFuture<'a, Result<bool, RouterError>>;

    /// Tells the object's readers (`kubectl describe`) what happened.
    fn tell<'a>(&'a self, event: &'a RouteEvent) -> BoxFuture<'a, Result<(), RouterError>>;

    /// Reads anew whether traffic goes to `to` and to nothing else, waiting a few seconds for the endpoints to follow.
    fn verify<'a>(&'a self, to: &'a Color) -> BoxFuture<'a, Result<Verified, RouterError>>;

    /// Asks the API server which of the needed rights the account has.
    fn may_flip(&self) -> BoxFuture<'_, Result<Vec<Access>, RouterError>>;

    /// Asks for at least so many replicas of a color. Safe to repeat: it never lowers, and finds what it did.
    fn scale_up<'a>(&'a self, to: &'a Color, replicas: u32) -> BoxFuture<'a, Result<Scaled, RouterError>>;

    /// Takes some pods of the color that was left out of service. Safe to repeat: each call looks at everything anew.
    fn relieve<'a>(&'a self, relief: &'a ReliefOrder) -> BoxFuture<'a, Result<Relieved, RouterError>>;
}

/// One kind of route: opens a router where the guard's route is of that kind, with the fence before its writes.
type Opener = fn(&Arc<GuardSpec>, &Arc<Cluster>, Option<&Fence>) -> Option<Arc<dyn Router>>;

/// Every kind of route.
const CATALOGUE: &[Opener] = &[service::open];

/// Opens the router of a guard; in monitor mode one that withholds.
///
/// # Panics
/// When a kind of route has no router, which a test excludes.
#[must_use]
pub fn open(spec: &Arc<GuardSpec>, cluster: Arc<Cluster>) -> Arc<dyn Router> {
    fenced(spec, cluster, None)
}

/// As [`open`], for one of several replicas: `fence` stands before whatever the router writes on guarded objects, and is asked
/// as each request is sent.
///
/// # Panics
/// When a kind of route has no router, which a test excludes.
#[must_use]
pub fn fenced(spec: &Arc<GuardSpec>, cluster: Arc<Cluster>, fence: Option<&Fence>) -> Arc<dyn Router> {
    let router = CATALOGUE
        .iter()
        .find_map(|open| open(spec, &cluster, fence))
        .expect("every kind of route has a router: a test opens each");
    match spec.mode {
        Mode::Enforce => router,
        Mode::Monitor => Arc::new(Withheld::new(
            router,
            format!("{} in namespace {:?}", spec.route.object(), spec.namespace),
        )),
    }
}

/// What is to be flipped.
#[derive(Clone, Debug, PartialEq)]
pub struct FlipOrder {
    /// The basis of the decision.
    pub seen: Seen,
    /// The color that is left.
    pub from: Color,
    /// The color that takes over.
    pub to: Color,
    /// What the ledger will say.
    pub record: FlipRecord,
    /// The newest flip that the ledger told of then, by its incident. An object that tells of another one has lived through a flip that
    /// the decision knew nothing of: cooldown, bad releases and flips of the day are not what they were.
    pub known: Option<String>,
    /// Ask the API server without storing.
    pub dry_run: bool,
}

/// What came of a flip.
#[derive(Clone, Debug, PartialEq)]
pub enum Flip {
    /// Traffic was moved.
    Moved {
        /// From the call to the accepted patch.
        took: Duration,
        /// resourceVersion of the patched object.
        resource_version: String,
        /// What a second object, such as the preview Service, did not accept.
        preview_error: Option<String>,
    },
    /// Monitor mode: nothing was sent.
    Withheld,
    /// Somebody else moved or replaced the object in between: look again.
    Stale,
    /// The API server would accept the flip; nothing was stored.
    DryRun,
}

/// What came of scaling up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scaled {
    /// The API server accepted more replicas.
    Up {
        /// Before.
        from: u32,
        /// Now.
        to: u32,
        /// Whose bounds it was fitted into.
        autoscaler: Option<Autoscaler>,
    },
    /// There were as many already.
    Enough {
        /// What is asked for.
        replicas: u32,
    },
    /// Monitor mode: nothing was sent.
    Withheld,
}

/// A HorizontalPodAutoscaler of a color.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autoscaler {
    /// Its name.
    pub name: String,
    /// Its least replicas.
    pub min: u32,
    /// Its most.
    pub max: u32,
}

impl Autoscaler {
    /// What it would not correct: its maximum goes before its minimum, and both before what is asked for.
    #[must_use]
    pub fn within(&self, replicas: u32) -> u32 {
        replicas.max(self.min).min(self.max)
    }
}

/// Which pods are to be taken out of service after a flip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReliefOrder {
    /// The color that was left.
    pub left: Color,
    /// The color that took over: once traffic is elsewhere, nothing is done.
    pub to: Color,
    /// When it was left: younger pods are none of those.
    pub before: Timestamp,
    /// Because of which incident.
    pub incident: String,
    /// How.
    pub action: Relief,
    /// At most so many in one call.
    pub at_once: u32,
}

/// What came of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relieved {
    /// Some pods, or none.
    Batch {
        /// Names of those that are out of service now.
        done: Vec<String>,
        /// Those that were not allowed to go yet.
        held: Vec<HeldPod>,
        /// How many are left for another time, the held ones among them.
        left: u32,
    },
    /// Traffic is not seen to have arrived on the other color; a sentence for a person.
    NotYet(String),
    /// Traffic is no longer on the color that took over: there is nothing to do, for good.
    Elsewhere,
    /// Monitor mode: nothing was sent.
    Withheld,
}

/// A pod that may not go yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPod {
    /// Which.
    pub pod: String,
    /// A sentence for a person.
    pub why: String,
}

/// Something to tell the object's readers.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteEvent {
    /// Whether it is a warning.
    pub warning: bool,
    /// The kind of happening, in CamelCase.
    pub reason: String,
    /// One sentence.
    pub note: String,
    /// When it happened.
    pub at: Timestamp,
}

/// Whether traffic really goes where it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Ready endpoints of the color that the route now has.
    pub ready: u32,
    /// How long it took until the endpoints had followed, or until waiting ended.
    pub took: Duration,
    /// What is wrong; `None`: the route selects the color, and all its Ready endpoints, at least one, are of it.
    pub problem: Option<String>,
}

/// Whether the account has one right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `get`, `list`, `watch`, `patch`, `create`.
    pub verb: String,
    /// As a Role spells it, with its group: `services`, `pods/log`, `deployments.apps`.
    pub resource: String,
    /// The object; `None`: every one in the namespace.
    pub name: Option<String>,
    /// Whether it is allowed.
    pub allowed: bool,
}

/// Why a route could not be read or moved.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// There is no client.
    #[error("failed to {attempted} {object}: the cluster is not connected")]
    NotConnected {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
        /// Why there is none.
        #[source]
        source: ClusterError,
    },
    /// 401.
    #[error("failed to {attempted} {object}: the API server does not accept our credentials; renew them")]
    Unauthorized {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
        /// What the server said.
        #[source]
        source: Fault,
    },
    /// 403.
    #[error(
        "failed to {attempted} {object}: the API server refuses it; where that lasts, the account lacks the right: apply deploy/monitor.yaml with this object in it"
    )]
    Forbidden {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
        /// What the server said.
        #[source]
        source: Fault,
    },
    /// 404.
    #[error("failed to {attempted} {object}: it does not exist; create it or correct its name in the configuration")]
    Missing {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
    },
    /// The request was sent, its answer is lost, and the object does not show it.
    #[error(
        "failed to learn whether {object} was changed: the answer was lost and the change does not show; look again before repeating it"
    )]
    Unknown {
        /// On what.
        object: String,
        /// How the answer was lost.
        #[source]
        source: Fault,
    },
    /// flipback's own code failed on the way.
    #[error(
        "failed to change {object}: flipback's own code broke ({said}), and whether traffic was moved is not known; look where {object} \
         points, and report this"
    )]
    Broken {
        /// On what.
        object: String,
        /// The words of the panic.
        said: String,
    },
    /// The server refused, or could not be asked.
    #[error("failed to {attempted} {object}")]
    Failed {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// Another replica leads, or none does.
    #[error("did not {attempted} {object}: this replica does not lead, or not for long enough")]
    NotLeading {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
    },
    /// Nobody could serve there, though the watches tell otherwise.
    #[error("did not switch {object}: no pod of {color} is Ready by a reading made just before, whatever its watch tells")]
    NotReady {
        /// What was not switched.
        object: String,
        /// The color that would have taken over.
        color: Color,
    },
    /// The object has no such selector key.
    #[error("failed to {attempted} {object}: its selector has no key {key:?}; correct `selector_key` or the Service")]
    NoSuchKey {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
        /// The configured key.
        key: String,
    },
    /// The guard has no such color.
    #[error("failed to switch {object}: the guard has no color {color:?}")]
    NoSuchColor {
        /// On what.
        object: String,
        /// The color asked for.
        color: Color,
    },
    /// What follows the route could not be brought along.
    #[error("failed to bring along what follows {object}: {error}")]
    Preview {
        /// What was flipped.
        object: String,
        /// Why what follows it was not, with the causes.
        error: String,
    },
    /// The color has no Deployment that could be scaled.
    #[error("failed to scale {color} of {object} up: no Deployment is named; set the color's `deployment`")]
    NoDeployment {
        /// On what.
        object: String,
        /// Which color.
        color: Color,
    },
    /// What lies in the ledger's place is none.
    #[error("failed to clear {object}: its ledger cannot be understood; `flipback clear GUARD --all` puts it aside and begins a new one")]
    DamagedLedger {
        /// On what.
        object: String,
    },
    /// Monitor mode.
    #[error("failed to {attempted} {object}: the guard is in monitor mode, which never writes to the cluster and flips nothing anyway")]
    MonitorMode {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        object: String,
    },
}

impl RouterError {
    /// Sorts a fault by what a person has to do about it.
    fn of(attempted: &'static str, object: &str, source: Fault) -> Self {
        let object = object.to_owned();
        match source.kind {
            FaultKind::Unauthorized => Self::Unauthorized { attempted, object, source },
            FaultKind::Forbidden => Self::Forbidden { attempted, object, source },
            FaultKind::NotFound => Self::Missing { attempted, object },
            FaultKind::Fenced => Self::NotLeading { attempted, object },
            _ => Self::Failed { attempted, object, source },
        }
    }
}

/// A router that reads like the one within and never writes.
pub struct Withheld<R: ?Sized> {
    object: String,
    router: Arc<R>,
}

impl<R: ?Sized> Withheld<R> {
    /// Wraps a router of `object`, which is named in errors.
    #[must_use]
    pub fn new(router: Arc<R>, object: String) -> Self {
        Self { object, router }
    }
}

impl<R: Router + ?Sized> Router for Withheld<R> {
    fn view(&self) -> View {
        self.router.view()
    }

    fn flip<'a>(&'a self, order: &'a FlipOrder) -> BoxFuture<'a, Result<Flip, RouterError>> {
        tracing::info!(from = %order.from, to = %order.to, incident = order.record.incident, "Flip withheld: monitor mode");
        async { Ok(Flip::Withheld) }.boxed()
    }

    fn finish<'a>(&'a self, _: &'a FlipRecord) -> BoxFuture<'a, Result<bool, RouterError>> {
        async { Ok(false) }.boxed()
    }

    fn pause(&self, _: Option<Pause>) -> BoxFuture<'_, Result<(), RouterError>> {
        let object = self.object.clone();
        let attempted = "pause or resume";
        async move { Err(RouterError::MonitorMode { attempted, object }) }.boxed()
    }

    fn clear<'a>(&'a self, _: &'a Clear, _: &'a Clearance) -> BoxFuture<'a, Result<bool, RouterError>> {
        let object = self.object.clone();
        let attempted = "clear";
        async move { Err(RouterError::MonitorMode { attempted, object }) }.boxed()
    }

    fn tell<'a>(&'a self, _: &'a RouteEvent) -> BoxFuture<'a, Result<(), RouterError>> {
        async { Ok(()) }.boxed()
    }

    fn verify<'a>(&'a self, to: &'a Color) -> BoxFuture<'a, Result<Verified, RouterError>> {
        self.router.verify(to)
    }

    fn scale_up<'a>(&'a self, to: &'a Color, replicas: u32) -> BoxFuture<'a, Result<Scaled, RouterError>> {
        tracing::info!(%to, replicas, object = self.object, "Scaling up withheld: monitor mode");
        async { Ok(Scaled::Withheld) }.boxed()
    }

    fn relieve<'a>(&'a self, _: &'a ReliefOrder) -> BoxFuture<'a, Result<Relieved, RouterError>> {
        async { Ok(Relieved::Withheld) }.boxed()
    }

    /// Only the rights to read: monitor mode needs no other, and `check` must not ask for them.
    fn may_flip(&self) -> BoxFuture<'_, Result<Vec<Access>, RouterError>> {
        let all = self.router.may_flip();
        async move {
            let mut needed = all.await?;
            needed.retain(|access| matches!(access.verb.as_str(), "get" | "list" | "watch"));
            Ok(needed)
        }
        .boxed()
    }
}
