//! One cluster: its clients and its watch caches.
//!
//! Opening never fails. A missing kubeconfig, a wrong context, refused credentials or a dead API server are states that
//! are retried and told in a sentence, because a daemon that exits on them is not there when they heal. Rooms read from
//! the caches without a request ([`Caches`]) and get a client for the rest: [`Cluster::reads`] for what may be asked
//! twice, [`Cluster::writes`] for what must not.
//!
//! Credentials rotate as kube lets them (token files, credential plugins); beyond that the kubeconfig, and the
//! certificates and keys it names, are read anew when they change ([`material`]), and whenever credentials were refused
//! or a TLS handshake failed.

mod caches;
mod connect;
pub mod fault;
pub mod fence;
pub mod lease;
mod material;
mod trim;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::BackoffBuilder as _;
use futures::FutureExt as _;
use kube::{Client, runtime::reflector};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

pub use self::{
    caches::{Caches, LOST_AFTER, Unreadable},
    fault::{Fault, FaultKind},
    fence::Fence,
    lease::keep::Replicas,
};
use self::{
    caches::{Shelf, Signals, Stores, Trouble},
    connect::Clients,
    watch::{Keeper, Shared},
};
use crate::{metrics::Metrics, model::settings::ClusterSettings};

/// The first wait after the clients could not be built.
const LINK_BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait, before jitter, until the kubeconfig is read again. Only files are read, unless a credential plugin
/// is named: it may ask a cloud, which deserves the pause.
const LINK_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Refused credentials make the kubeconfig be read anew at most so often.
const RENEW_SPACING: Duration = Duration::from_secs(5);

/// One cluster's clients and watch caches.
#[derive(Debug)]
pub struct Cluster {
    settings: ClusterSettings,
    caches: Caches,
    link: channel::Receiver<Link>,
    signals: Arc<Signals>,
    shared: Shared,
    /// Ends the watches of a namespace.
    watches: Mutex<BTreeMap<String, CancellationToken>>,
    /// Where clients were given nobody renews them; without its sender their link would count as ended.
    _given: Option<channel::Sender<Link>>,
}

/// Why a cluster cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no client.
    #[error("no connection to {cluster}: {why}")]
    NotConnected {
        /// Which cluster, for people.
        cluster: String,
        /// A sentence that says what to do.
        why: String,
    },
    /// The caches did not fill in time.
    #[error("{cluster} could not be read: {why}")]
    NotSynced {
        /// Which cluster, for people.
        cluster: String,
        /// A sentence that says what to do.
        why: String,
    },
}

/// Whether there are clients.
#[derive(Clone, Debug)]
enum Link {
    Down(Trouble),
    Up(Arc<Clients>),
}

// === impl Cluster ===

impl Cluster {
    /// Starts to connect and to watch, in tasks that end with `stop`. Needs a tokio runtime.
    #[must_use]
    pub fn open(settings: ClusterSettings, namespaces: BTreeSet<String>, metrics: Metrics, stop: CancellationToken) -> Arc<Self> {
        Self::begin(settings, namespaces, metrics, stop, None)
    }

    /// As [`Self::open`], over a client of the caller's own making in the place of a kubeconfig's: for a world without sockets.
    #[must_use]
    pub fn over(
        client: Client,
        settings: ClusterSettings,
        namespaces: BTreeSet<String>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let clients = Clients::over(client, connect::timeouts(&settings).0);
        Self::begin(settings, namespaces, metrics, stop, Some(clients))
    }

    fn begin(
        settings: ClusterSettings,
        namespaces: BTreeSet<String>,
        metrics: Metrics,
        stop: CancellationToken,
        clients: Option<Clients>,
    ) -> Arc<Self> {
        // Its own, so that it can be closed by itself.
        let stop = stop.child_token();
        let namespaces = caches::watchable(namespaces);
        let watch_for = watch::watch_for(namespaces.len());
        let signals = Arc::new(Signals::default());
        let (up, link) = channel::channel(Link::Down(Trouble {
            why: "still connecting".to_owned(),
            lasting: false,
        }));
        let shared = Shared {
            cluster: settings.name.clone(),
            link: link.clone(),
            signals: signals.clone(),
            metrics,
            read_timeout: connect::timeouts(&settings).0,
            watch_for,
            stop: stop.clone(),
        };
        let given = match clients {
            Some(clients) => {
                up.send_replace(Link::Up(Arc::new(clients)));
                Some(up)
            }
            None => {
                tokio::spawn(keep_linked(settings.clone(), watch_for, up, signals.clone(), stop));
                None
            }
        };
        let cluster = Self {
            settings,
            caches: Caches::new(BTreeMap::new()),
            link,
            signals,
            shared,
            watches: Mutex::default(),
            _given: given,
        };
        cluster.watch_only(namespaces);
        Arc::new(cluster)
    }

    /// Watches these namespaces and no others: begins and ends watches, and leaves those alone that stay. How long a watch lasts was
    /// chosen by the number of namespaces at the start, and stays: it bounds how long a dead connection goes unnoticed.
    pub fn watch_only(&self, namespaces: BTreeSet<String>) {
        let wanted = caches::watchable(namespaces);
        let present = self.caches.names();
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        for namespace in present.difference(&wanted) {
            if let Some(stop) = watches.remove(namespace) {
                stop.cancel();
            }
            self.caches.remove(namespace);
        }
        for namespace in wanted.difference(&present) {
            let stop = self.shared.stop.child_token();
            let shared = Shared {
                stop: stop.clone(),
                ..self.shared.clone()
            };
            self.caches.add(namespace.clone(), watched(namespace, &shared));
            watches.insert(namespace.clone(), stop);
        }
    }

    /// Ends all watches and the connection: nothing is read from it any more.
    pub fn close(&self) {
        self.shared.stop.cancel();
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// How long a read may take.
    #[must_use]
    pub fn read_timeout(&self) -> Duration {
        connect::timeouts(&self.settings).0
    }

    /// How long the flip's patch may take.
    #[must_use]
    pub fn flip_timeout(&self) -> Duration {
        connect::timeouts(&self.settings).1
    }

    /// Whether everything is connected and watched right now. A failure here may be seconds old; the caches are used
    /// for [`LOST_AFTER`] beyond it.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to do.
    pub fn health(&self) -> Result<(), String> {
        self.trouble().map_or(Ok(()), |trouble| Err(trouble.why))
    }

    /// A client that asks again, a few times, when the server is busy: for what may be asked twice. Its answers begin
    /// within the read timeout or fail; whoever reads a long body sets a deadline of their own.
    ///
    /// # Errors
    /// [`ClusterError::NotConnected`] while there is no usable configuration.
    pub fn reads(&self) -> Result<Client, ClusterError> {
        self.clients().map(|clients| clients.reads.clone())
    }

    /// A client that sends everything once and waits at most the flip timeout: for what must not happen twice.
    ///
    /// # Errors
    /// [`ClusterError::NotConnected`] while there is no usable configuration.
    pub fn writes(&self) -> Result<Client, ClusterError> {
        self.clients().map(|clients| clients.writes.clone())
    }

    /// Its watch caches.
    #[must_use]
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Resolves when something in the caches that matters changed since it last resolved. Made for one waiter: of
    /// several, each change wakes one.
    pub async fn changed(&self) {
        self.signals.changed.notified().await;
    }

    /// Resolves when every cache holds its first list.
    ///
    /// # Errors
    /// [`ClusterError::NotSynced`] with what to do, after `timeout`, or sooner where waiting will not help: a missing
    /// right, refused credentials, an unusable kubeconfig.
    pub async fn synced(&self, timeout: Duration) -> Result<(), ClusterError> {
        let mut pulse = self.signals.pulse.subscribe();
        let mut link = self.link.clone();
        let wait = async {
            loop {
                pulse.borrow_and_update();
                link.borrow_and_update();
                let trouble = self.trouble();
                if self.caches.all_synced() || trouble.is_some_and(|trouble| trouble.lasting) {
                    return;
                }
                let ended = tokio::select! {
                    changed = pulse.changed() => changed.is_err(),
                    changed = link.changed() => changed.is_err(),
                };
                if ended {
                    return;
                }
            }
        };
        // Whether it was the deadline or not, the caches have the last word.
        let _ = tokio::time::timeout(timeout, wait).await;
        if self.caches.all_synced() {
            return Ok(());
        }
        let why = self
            .trouble()
            .map_or_else(|| "the first lists are not in yet".to_owned(), |trouble| trouble.why);
        Err(ClusterError::NotSynced {
            cluster: self.title(),
            why,
        })
    }

    fn trouble(&self) -> Option<Trouble> {
        match &*self.link.borrow() {
            Link::Down(trouble) => Some(trouble.clone()),
            Link::Up(_) => self.caches.trouble(),
        }
    }

    fn clients(&self) -> Result<Arc<Clients>, ClusterError> {
        match &*self.link.borrow() {
            Link::Up(clients) => Ok(clients.clone()),
            Link::Down(trouble) => Err(ClusterError::NotConnected {
                cluster: self.title(),
                why: trouble.why.clone(),
            }),
        }
    }

    fn title(&self) -> String {
        if self.settings.name.is_empty() {
            "the cluster".to_owned()
        } else {
            format!("cluster {:?}", self.settings.name)
        }
    }
}

/// Starts the four watches of a namespace.
fn watched(namespace: &str, shared: &Shared) -> Shelf {
    let (services, services_in) = reflector::store();
    let (slices, slices_in) = reflector::store();
    let (pods, pods_in) = reflector::store();
    let (deployments, deployments_in) = reflector::store();
    let stores = Stores {
        services: services.clone(),
        slices: slices.clone(),
        pods: pods.clone(),
        deployments: deployments.clone(),
    };
    let shelf = Shelf::new(namespace, &shared.signals, stores);
    macro_rules! keep {
        ($cache:ident, $store:ident, $writer:ident, $trim:path) => {
            let keeper = Keeper {
                shared: shared.clone(),
                cell: shelf.$cache.cell.clone(),
                store: $store,
                writer: $writer,
                trim: $trim,
            };
            tokio::spawn(keeper.run());
        };
    }
    keep!(services, services, services_in, trim::service);
    keep!(slices, slices, slices_in, trim::endpoint_slice);
    keep!(pods, pods, pods_in, trim::pod);
    keep!(deployments, deployments, deployments_in, trim::deployment);
    shelf
}

/// Builds the clients, again and again until it works, and anew whenever the credentials were refused.
async fn keep_linked(
    settings: ClusterSettings,
    watch_for: Duration,
    up: channel::Sender<Link>,
    signals: Arc<Signals>,
    stop: CancellationToken,
) {
    let backoff = || {
        backon::ExponentialBuilder::default()
            .with_min_delay(LINK_BACKOFF_MIN)
            .with_max_delay(LINK_BACKOFF_MAX)
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut waits = backoff();
    let mut said = None;
    let work = async {
        loop {
            // Looked at first: what changes while the clients are made is a change.
            let material = material::look(&settings).await;
            match connect::connect(&settings, watch_for).await {
                Ok(clients) => {
                    tracing::info!(
                        cluster = settings.name,
                        server = clients.server,
                        origin = clients.origin,
                        "Client ready"
                    );
                    up.send_replace(Link::Up(Arc::new(clients)));
                    (waits, said) = (backoff(), None);
                    tokio::time::sleep(RENEW_SPACING).await;
                    // What was refused meanwhile may have been the old credentials; who is refused still asks again.
                    let _ = signals.renew.notified().now_or_never();
                    tokio::select! {
                        () = signals.renew.notified() => {}
                        () = material::changed(&settings, material) => {
                            tracing::info!(cluster = settings.name, "Credentials changed on disk");
                        }
                    }
                }
                Err(error) => {
                    let news = said.as_ref() != Some(&error);
                    if news {
                        tracing::warn!(cluster = settings.name, why = error.why, "No client");
                    }
                    let trouble = Trouble {
                        why: error.why.clone(),
                        lasting: true,
                    };
                    said = Some(error);
                    // Clients that once worked may do so again; a kubeconfig that is being rewritten must not end them.
                    let down = matches!(&*up.borrow(), Link::Down(_));
                    if down {
                        up.send_replace(Link::Down(trouble));
                    }
                    tokio::time::sleep(waits.next().unwrap_or(LINK_BACKOFF_MAX)).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

#[cfg(test)]
pub(crate) mod stub;
