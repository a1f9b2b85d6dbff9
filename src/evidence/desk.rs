//! The bundles that this process has begun, by incident: one at a time works on each.
//!
//! Whoever begins, keeps or lets go of a bundle holds its place for so long; the place goes along with work that hangs on a
//! disk, so that nobody begins a second folder beside it. A bundle whose sealing failed comes back to its place with what
//! was captured, and the next try goes on from there.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Mutex as Place, OwnedMutexGuard},
    time::timeout,
};

use super::disk::{self, Bundle, EvidenceError};

/// A bundle that was begun.
pub(super) struct Open {
    /// Its folder.
    pub(super) bundle: Bundle,
    /// What could not be captured, once it was tried; `None`: capture is still to come.
    pub(super) missing: Option<Vec<String>>,
}

/// The place of one incident, held.
pub(super) type Held = OwnedMutexGuard<Option<Open>>;

/// All places.
#[derive(Default)]
pub(super) struct Desk {
    places: Mutex<BTreeMap<String, Arc<Place<Option<Open>>>>>,
}

impl Desk {
    /// The place of an incident, once nobody else holds it; waits no longer than `limit`.
    pub(super) async fn hold(&self, id: &str, folder: &Path, limit: Duration) -> Result<Held, EvidenceError> {
        let place = self.place(id);
        timeout(limit, place.lock_owned())
            .await
            .map_err(|_| EvidenceError::Busy { path: folder.to_owned() })
    }

    /// Puts down a bundle that an earlier run had begun, unless somebody is at it.
    pub(super) fn put(&self, id: &str, bundle: Bundle) {
        if let Ok(mut held) = self.place(id).try_lock_owned()
            && held.is_none()
        {
            *held = Some(Open { bundle, missing: None });
        }
    }

    fn place(&self, id: &str) -> Arc<Place<Option<Open>>> {
        let mut places = disk::hold(&self.places);
        // Where only this list knows a place, nobody holds it and nobody waits for it.
        places.retain(|_, place| Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|open| open.is_some()));
        Arc::clone(places.entry(id.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests;
