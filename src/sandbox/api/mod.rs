//! The embedded API server: the subset of Kubernetes that flipback uses, over plain HTTP.
//!
//! It behaves as a real kube-apiserver does where flipback relies on it, and `tests/contract.rs` asserts each of those
//! behaviours against both. What it does not know it refuses (404, 415): it never pretends. No TLS, no etcd, no
//! admission; `limit` of a list is ignored, which Kubernetes allows.

mod access;
mod audit;
mod failure;
mod fields;
pub(super) mod kinds;
mod newest;
mod patch;
mod select;
mod serve;
mod store;
pub(super) mod subresources;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::{access::Rules, audit::Audit, kinds::Kind, newest::Newest, select::Filter, store::Change};
use super::logs::Logs;
use crate::model::Clock;

pub use self::audit::AuditEntry;
pub(super) use self::{
    access::User,
    failure::Failure,
    newest::Follower,
    serve::router,
    store::{Key, Store, Writer, suffix},
};

/// The server's state, shared by its handlers and the controllers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Api {
    shared: Arc<Shared>,
    /// Ends the watches of one life of the server; the state outlives it.
    life: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    store: Mutex<Store>,
    audit: Mutex<Audit>,
    newest: Arc<Newest>,
    rules: Rules,
    logs: Logs,
}

impl Api {
    /// An empty cluster; the daemon may patch `services` in `namespace`.
    pub(super) fn new(namespace: &str, services: &[&str], logs: Logs, clock: Clock) -> Self {
        let store = Store::new();
        let newest = Arc::<Newest>::default();
        newest.reach(store.version());
        Self {
            shared: Arc::new(Shared {
                clock,
                store: Mutex::new(store),
                audit: Mutex::default(),
                newest,
                rules: Rules {
                    namespace: namespace.to_owned(),
                    services: services.iter().map(|name| (*name).to_owned()).collect(),
                },
                logs,
            }),
            life: CancellationToken::new(),
        }
    }

    /// The same state under a new life: for a server that comes back.
    pub(super) fn reborn(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            life: CancellationToken::new(),
        }
    }

    /// Ends every watch of this life.
    pub(super) fn end(&self) {
        self.life.cancel();
    }

    /// The time as the server has it.
    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Reads the objects.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.lock())
    }

    /// Writes objects and wakes whoever watches.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let (made, version) = {
            let mut store = self.lock();
            let made = change(&mut store);
            (made, store.version())
        };
        self.shared.newest.reach(version);
        made
    }

    /// Wakes at every write.
    pub(super) fn newest(&self) -> Follower {
        self.shared.newest.follow()
    }

    /// Every write that was asked for over HTTP or by [`Api::act`], oldest first.
    pub(super) fn audit(&self) -> Vec<AuditEntry> {
        self.shared.audit.lock().unwrap_or_else(PoisonError::into_inner).entries()
    }

    /// Forgets the history of changes.
    pub(super) fn compact(&self) {
        self.write(Store::compact);
    }

    /// Edits an object as somebody outside would, on the audit record.
    pub(super) fn act(&self, user: &str, manager: &str, key: &Key, patch: &Value) -> Result<Arc<Value>, Failure> {
        let by = Writer {
            manager: manager.to_owned(),
            now: self.now(),
            dry_run: false,
        };
        let done = self.write(|store| {
            store.edit(key, &by, |object| {
                json_patch::merge(object, patch);
                Ok(())
            })
        });
        self.witness(AuditEntry {
            at: self.now(),
            user: user.to_owned(),
            manager: manager.to_owned(),
            verb: "patch".to_owned(),
            resource: key.kind.plural.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            dry_run: false,
            code: done.as_ref().map_or_else(|failure| failure.code, |_| 200),
            body: patch.clone(),
        });
        done
    }

    fn witness(&self, entry: AuditEntry) {
        self.shared.audit.lock().unwrap_or_else(PoisonError::into_inner).record(entry);
    }

    fn stopping(&self) -> CancellationToken {
        self.life.clone()
    }

    fn snapshot(&self, kind: &'static Kind, filter: &Filter) -> (Vec<Arc<Value>>, u64) {
        self.read(|store| {
            let objects = store.all(kind).filter(|object| filter.admits(object)).cloned().collect();
            (objects, store.version())
        })
    }

    fn changes(&self, kind: &'static Kind, after: u64) -> Result<(Vec<Change>, u64), Failure> {
        self.read(|store| store.since(kind, after).map(|changes| (changes, store.version())))
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer of the control plane itself.
pub(super) fn controller(manager: &str, now: Timestamp) -> Writer {
    Writer {
        manager: manager.to_owned(),
        now,
        dry_run: false,
    }
}
