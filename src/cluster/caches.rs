//! The watch caches: what rooms look things up in, without a request.
//!
//! Every lookup answers one of three things: the object, "there is none", or "unreadable" with a sentence. A cache is
//! unreadable until its first list is in, and again when it has been without its watch for [`LOST_AFTER`]. Quiet is not
//! lost: a cache counts as lost from the first failure after it was last known to be right, never from its last event.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Resource, ResourceExt,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// How long a cache may be without its watch before it no longer counts as the truth. A restarted API server or a
/// failed-over load balancer is back within 5 to 15 s, and freezing every guard for that would be noise; endpoints that
/// went away more than half a minute ago must not be counted as able to take traffic.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The caches of one cluster, by namespace.
#[derive(Debug)]
pub struct Caches {
    /// Read at every look, changed when another configuration names other namespaces.
    namespaces: RwLock<BTreeMap<String, Arc<Shelf>>>,
}

/// Why nothing can be said about an object: a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// The caches of one namespace.
#[derive(Debug)]
pub(super) struct Shelf {
    pub services: Cache<Service>,
    pub slices: Cache<EndpointSlice>,
    pub pods: Cache<Pod>,
    pub deployments: Cache<Deployment>,
    version: Arc<AtomicU64>,
}

/// One kind in one namespace.
#[derive(Debug)]
pub(super) struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    pub cell: Arc<Cell>,
}

/// Where a cache stands, and whom it wakes.
#[derive(Debug)]
pub(super) struct Cell {
    /// `pods`, as RBAC spells it.
    pub plural: &'static str,
    pub namespace: String,
    state: RwLock<State>,
    version: Arc<AtomicU64>,
    signals: Arc<Signals>,
    /// Somebody has seen that the content is wrong.
    pub doubted: Notify,
}

/// How the caches wake those who wait.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Something that matters changed; keeps one wake-up for a waiter that is not there yet.
    pub changed: Notify,
    /// Some cache's state changed; for [`super::Cluster::synced`].
    pub pulse: watch::Sender<()>,
    /// Somebody's credentials were refused.
    pub renew: Notify,
}

#[derive(Debug)]
struct State {
    synced: bool,
    trouble: Option<Trouble>,
    /// When the content was last known to be right; only of interest while there is trouble.
    right_at: Instant,
}

/// What keeps a cache from being watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub why: String,
    /// Whether waiting a few seconds will not help: a right or a credential is missing.
    pub lasting: bool,
}

// === impl Caches ===

impl Caches {
    pub(super) fn new(namespaces: BTreeMap<String, Shelf>) -> Self {
        let namespaces = namespaces.into_iter().map(|(name, shelf)| (name, Arc::new(shelf))).collect();
        Self {
            namespaces: RwLock::new(namespaces),
        }
    }

    /// The namespaces there are caches of.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.all().keys().cloned().collect()
    }

    /// Adds the caches of a namespace.
    pub(super) fn add(&self, namespace: String, shelf: Shelf) {
        let mut namespaces = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        namespaces.insert(namespace, Arc::new(shelf));
    }

    /// Forgets the caches of a namespace.
    pub(super) fn remove(&self, namespace: &str) {
        let mut namespaces = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        namespaces.remove(namespace);
    }

    /// The Service of that name; `None`: there is none.
    ///
    /// # Errors
    /// [`Unreadable`] when the cache cannot tell.
    pub fn service(&self, namespace: &str, name: &str) -> Result<Option<Arc<Service>>, Unreadable> {
        self.shelf(namespace)?.services.get(name)
    }

    /// The last Service of that name that was seen, however long ago: only good as the basis of a compare-and-swap.
    #[must_use]
    pub fn last_known_service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let shelf = self.found(namespace)?;
        shelf.services.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// The EndpointSlices of a Service, by name.
    ///
    /// # Errors
    /// [`Unreadable`] when the cache cannot tell.
    pub fn endpoint_slices(&self, namespace: &str, service: &str) -> Result<Vec<Arc<EndpointSlice>>, Unreadable> {
        let of = |slice: &EndpointSlice| slice.labels().get(SERVICE_NAME).is_some_and(|owner| owner == service);
        self.shelf(namespace)?.slices.filter(of)
    }

    /// The pods that a selector matches, by name; an empty selector matches none.
    ///
    /// # Errors
    /// [`Unreadable`] when the cache cannot tell.
    pub fn pods(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Result<Vec<Arc<Pod>>, Unreadable> {
        let matches = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            !selector.is_empty() && labels.is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
        };
        self.shelf(namespace)?.pods.filter(matches)
    }

    /// The Deployment of that name; `None`: there is none.
    ///
    /// # Errors
    /// [`Unreadable`] when the cache cannot tell.
    pub fn deployment(&self, namespace: &str, name: &str) -> Result<Option<Arc<Deployment>>, Unreadable> {
        self.shelf(namespace)?.deployments.get(name)
    }

    /// A number that grows whenever anything in the namespace changed: equal numbers, equal answers, as long as
    /// [`Self::age`] does not say otherwise.
    #[must_use]
    pub fn version(&self, namespace: &str) -> u64 {
        self.found(namespace).map_or(0, |shelf| shelf.version.load(Ordering::Acquire))
    }

    /// Lists a namespace anew: a request has shown that it is not as its watches tell.
    pub fn doubt(&self, namespace: &str) {
        if let Some(shelf) = self.found(namespace) {
            shelf.cells().iter().for_each(|cell| cell.doubted.notify_one());
        }
    }

    /// How long the oldest cache of a namespace has been without its watch; zero while all are watched.
    #[must_use]
    pub fn age(&self, namespace: &str) -> Duration {
        let Some(shelf) = self.found(namespace) else {
            return Duration::ZERO;
        };
        shelf.cells().iter().map(|cell| cell.age()).max().unwrap_or_default()
    }

    /// The first trouble of any cache, else that the first lists are not in yet, else nothing.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let shelves = self.all();
        let cells = || shelves.values().flat_map(|shelf| shelf.cells());
        cells().find_map(Cell::trouble).or_else(|| {
            let waiting = cells().find(|cell| !cell.synced())?;
            Some(Trouble {
                why: waiting.not_yet(),
                lasting: false,
            })
        })
    }

    pub(super) fn all_synced(&self) -> bool {
        self.all().values().flat_map(|shelf| shelf.cells()).all(Cell::synced)
    }

    #[cfg(test)]
    pub(super) fn namespaces_for_tests(&self) -> BTreeMap<String, Arc<Shelf>> {
        self.all()
    }

    fn all(&self) -> BTreeMap<String, Arc<Shelf>> {
        self.namespaces.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn found(&self, namespace: &str) -> Option<Arc<Shelf>> {
        self.namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(namespace)
            .cloned()
    }

    fn shelf(&self, namespace: &str) -> Result<Arc<Shelf>, Unreadable> {
        self.found(namespace)
            .ok_or_else(|| Unreadable(format!("namespace {namespace:?} is not watched")))
    }
}

// === impl Shelf ===

impl Shelf {
    pub(super) fn new(namespace: &str, signals: &Arc<Signals>, stores: Stores) -> Self {
        let version = Arc::new(AtomicU64::new(1));
        let cell = |plural| Arc::new(Cell::new(plural, namespace, version.clone(), signals.clone()));
        Self {
            services: Cache::new(stores.services, cell("services")),
            slices: Cache::new(stores.slices, cell("endpointslices")),
            pods: Cache::new(stores.pods, cell("pods")),
            deployments: Cache::new(stores.deployments, cell("deployments")),
            version,
        }
    }

    fn cells(&self) -> [&Cell; 4] {
        [&self.services.cell, &self.slices.cell, &self.pods.cell, &self.deployments.cell]
    }
}

/// The reading ends of a namespace's stores.
pub(super) struct Stores {
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub pods: Store<Pod>,
    pub deployments: Store<Deployment>,
}

// === impl Cache ===

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    fn new(store: Store<K>, cell: Arc<Cell>) -> Self {
        Self { store, cell }
    }

    fn get(&self, name: &str) -> Result<Option<Arc<K>>, Unreadable> {
        self.cell.readable()?;
        Ok(self.store.get(&ObjectRef::new(name).within(&self.cell.namespace)))
    }

    fn filter(&self, wanted: impl Fn(&K) -> bool) -> Result<Vec<Arc<K>>, Unreadable> {
        self.cell.readable()?;
        let mut found = self.store.state_filter(wanted);
        found.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
        Ok(found)
    }
}

// === impl Cell ===

impl Cell {
    fn new(plural: &'static str, namespace: &str, version: Arc<AtomicU64>, signals: Arc<Signals>) -> Self {
        let state = State {
            synced: false,
            trouble: None,
            right_at: Instant::now(),
        };
        Self {
            plural,
            namespace: namespace.to_owned(),
            state: RwLock::new(state),
            version,
            signals,
            doubted: Notify::new(),
        }
    }

    /// Notes that content was seen that the server holds right now.
    pub(super) fn heard(&self, event: Heard) {
        self.change(|state| {
            let first = event == Heard::List && !state.synced;
            state.synced |= event == Heard::List;
            state.right_at = Instant::now();
            first
        });
        self.wake();
    }

    /// Notes that the watch has lived long enough to be trusted.
    pub(super) fn settled(&self) {
        if self.change(|state| state.trouble.take().is_some()) {
            self.wake();
        }
    }

    /// Notes a failure; `true` when it is news.
    pub(super) fn troubled(&self, trouble: Trouble) -> bool {
        let news = self.change(|state| {
            if state.trouble.is_none() {
                state.right_at = Instant::now();
            }
            let news = state.trouble.as_ref() != Some(&trouble);
            state.trouble = Some(trouble);
            news
        });
        if news {
            self.wake();
        }
        news
    }

    fn wake(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.signals.changed.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut State) -> bool) -> bool {
        let news = change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
        if news {
            self.signals.pulse.send_replace(());
        }
        news
    }

    fn read<T>(&self, of: impl FnOnce(&State) -> T) -> T {
        of(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a list came through since the start.
    pub(super) fn synced(&self) -> bool {
        self.read(|state| state.synced)
    }

    fn trouble(&self) -> Option<Trouble> {
        self.read(|state| state.trouble.clone())
    }

    pub(super) fn age(&self) -> Duration {
        self.read(State::age)
    }

    fn not_yet(&self) -> String {
        format!("the first list of {self} is not in yet")
    }

    fn readable(&self) -> Result<(), Unreadable> {
        self.read(|state| match &state.trouble {
            None if state.synced => Ok(()),
            None => Err(self.not_yet()),
            Some(trouble) if !state.synced => Err(trouble.why.clone()),
            Some(trouble) if state.age() > LOST_AFTER => Err(format!(
                "the watch of {self} has been down for {} s: {}",
                state.age().as_secs(),
                trouble.why
            )),
            Some(_) => Ok(()),
        })
        .map_err(Unreadable)
    }
}

impl State {
    fn age(&self) -> Duration {
        if self.trouble.is_some() {
            self.right_at.elapsed()
        } else {
            Duration::ZERO
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in namespace {:?}", self.plural, self.namespace)
    }
}

/// What a watch said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A whole list.
    List,
    /// One change.
    Change,
}

/// What an event means to the cache: `None` for one that changes nothing we keep.
pub(super) fn heard<K>(store: &Store<K>, event: &watcher::Event<K>) -> Option<Heard>
where
    K: Resource<DynamicType = ()> + Clone + PartialEq + 'static,
{
    match event {
        watcher::Event::Init | watcher::Event::InitApply(_) => None,
        watcher::Event::InitDone => Some(Heard::List),
        watcher::Event::Delete(_) => Some(Heard::Change),
        watcher::Event::Apply(object) => {
            let known = store.get(&ObjectRef::from_obj(object));
            (known.as_deref() != Some(object)).then_some(Heard::Change)
        }
    }
}

/// The namespaces to watch; a blank name would mean all of them, for which nobody gave us the right.
pub(super) fn watchable(namespaces: BTreeSet<String>) -> BTreeSet<String> {
    namespaces.into_iter().filter(|namespace| !namespace.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell() -> Cell {
        Cell::new("pods", "shop", Arc::default(), Arc::default())
    }

    fn refused() -> Trouble {
        Trouble {
            why: "refused".to_owned(),
            lasting: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_is_never_stale() {
        let cell = cell();
        cell.heard(Heard::List);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(cell.readable(), Ok(()));
        assert_eq!(cell.age(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_watch_is_unreadable_after_its_bound_counted_from_the_loss() {
        let cell = cell();
        assert_eq!(
            cell.readable(),
            Err(Unreadable("the first list of pods in namespace \"shop\" is not in yet".into()))
        );
        cell.heard(Heard::List);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(cell.troubled(refused()));
        tokio::time::advance(LOST_AFTER).await;
        assert!(!cell.troubled(refused()), "the same trouble is no news");
        assert_eq!(cell.readable(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            cell.readable(),
            Err(Unreadable(
                "the watch of pods in namespace \"shop\" has been down for 31 s: refused".into()
            ))
        );
        // A list that came through is the truth, though the watch has yet to prove itself.
        cell.heard(Heard::List);
        assert_eq!(cell.readable(), Ok(()));
        assert!(cell.trouble().is_some());
        cell.settled();
        assert!(cell.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_listed_says_why() {
        let cell = cell();
        cell.troubled(refused());
        assert_eq!(cell.readable(), Err(Unreadable("refused".into())));
    }

    #[test]
    fn an_update_that_changes_nothing_we_keep_wakes_nobody() {
        let (store, mut writer) = kube::runtime::reflector::store::<Pod>();
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("shop".into());
        let apply = watcher::Event::Apply(pod.clone());
        assert_eq!(heard(&store, &apply), Some(Heard::Change));
        writer.apply_watcher_event(&apply);
        assert_eq!(heard(&store, &apply), None);
        pod.metadata.labels = Some(BTreeMap::from([("a".into(), "b".into())]));
        assert_eq!(heard(&store, &watcher::Event::Apply(pod)), Some(Heard::Change));
    }
}
