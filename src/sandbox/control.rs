//! The embedded control plane by itself: no socket, no node, and the time of whoever made it.
//!
//! For simulations: a paused clock and a real socket do not mix, and a world that is told by seed must not read the clock
//! on the wall. Requests are answered by the same handlers as over HTTP, so that what the contract suite asserts of the
//! sandbox holds here too. Nothing runs by itself: whoever simulates decides when the controllers have their turn.

use std::sync::Arc;

use axum::Router;
use serde_json::Value;

use super::{
    api::{self, Api, Failure, Key, kinds::Target},
    controllers,
    logs::Logs,
    populate::Who,
};
use crate::model::Clock;

/// An API server with its controllers, as a value. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    api: Api,
}

/// Why the control plane did not take a write.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {path}: {why}")]
pub struct Refused {
    path: String,
    why: String,
}

impl ControlPlane {
    /// An empty cluster; the daemon may patch `services` in `namespace`. Everything is stamped with what `clock` tells.
    #[must_use]
    pub fn new(namespace: &str, services: &[&str], clock: Clock) -> Self {
        Self {
            api: Api::new(namespace, services, Logs::default(), clock),
        }
    }

    /// Answers requests as the server does over HTTP; who asks is told by the bearer token ([`Self::token`]).
    pub fn service(&self) -> Router {
        api::router(self.api.clone())
    }

    /// The bearer token of somebody.
    #[must_use]
    pub fn token(who: Who) -> &'static str {
        who.token()
    }

    /// Gives every controller one step: new pods, new endpoints, counted replicas.
    pub fn reconcile(&self) {
        controllers::pass(&self.api);
    }

    /// A number that grows with every write of what the controllers look at: of everything but Events and Leases.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.api.read(api::Store::controlled)
    }

    /// Forgets the history of changes: who resumes a watch from before gets a 410.
    pub fn compact(&self) {
        self.api.compact();
    }

    /// One object by its path, such as `/api/v1/namespaces/shop/services/web`; `None`: there is none.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Arc<Value>> {
        let key = key(path).ok()?;
        self.api.read(|store| store.get(&key)).ok()
    }

    /// All objects of a collection's kind, by its path, in the order of their names.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<Arc<Value>> {
        let Some(target) = Target::parse(path) else {
            return Vec::new();
        };
        self.api.read(|store| store.all(target.kind).cloned().collect())
    }

    /// Makes an object in a collection, as `manager`.
    ///
    /// # Errors
    /// [`Refused`] as the server would answer.
    pub fn create(&self, manager: &str, path: &str, object: Value) -> Result<Arc<Value>, Refused> {
        let target = Target::parse(path).ok_or_else(|| refused(path, &Failure::no_such_path()))?;
        let namespace = target.namespace.unwrap_or_default();
        let by = api::controller(manager, self.api.now());
        let made = self.api.write(|store| store.create(target.kind, &namespace, object, &by));
        made.map_err(|failure| refused(path, &failure))
    }

    /// Changes an object by its path, as `manager`.
    ///
    /// # Errors
    /// [`Refused`] as the server would answer.
    pub fn edit(&self, manager: &str, path: &str, change: impl FnOnce(&mut Value)) -> Result<Arc<Value>, Refused> {
        let key = key(path)?;
        let by = api::controller(manager, self.api.now());
        let edited = self.api.write(|store| {
            store.edit(&key, &by, |object| {
                change(object);
                Ok(())
            })
        });
        edited.map_err(|failure| refused(path, &failure))
    }
}

fn key(path: &str) -> Result<Key, Refused> {
    let target = Target::parse(path).ok_or_else(|| refused(path, &Failure::no_such_path()))?;
    Ok(Key {
        kind: target.kind,
        namespace: target.namespace.unwrap_or_default(),
        name: target.name.unwrap_or_default(),
    })
}

fn refused(path: &str, failure: &Failure) -> Refused {
    Refused {
        path: path.to_owned(),
        why: failure.message.clone(),
    }
}
