//! What the page lives on: a digest of the status, pushed on change, made once for all who look.
//!
//! A whole status of 500 guards is megabytes, which a phone at 3 am does not want every five seconds. With more than
//! [`WHOLE_MAX`] guards the digest leaves the calm ones their first line only; the page asks for the rest of a guard
//! when a person opens it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, stream};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::model::{GuardStatus, Phase, Status};

/// Up to so many guards the digest is the whole status.
const WHOLE_MAX: usize = 25;
/// Pages that are pushed to; further ones poll. Well under the server's connections, so that probes always get through.
const LIVE_MAX: usize = 64;
/// A comment line keeps proxies from closing a quiet stream, and finds clients that are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What the page reads.
#[derive(Serialize)]
struct Digest<'a> {
    /// Whether calm guards come without rules, events and incident.
    brief: bool,
    #[serde(flatten)]
    status: &'a Status,
}

/// The digest of the present status, encoded once.
type Encoded = Option<(Arc<Status>, Bytes)>;

/// Cheap to clone; all clones share the digest and the places.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    status: watch::Receiver<Arc<Status>>,
    encoded: Arc<Mutex<Encoded>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Feed {
    pub(super) fn new(status: watch::Receiver<Arc<Status>>, stop: CancellationToken) -> Self {
        Self {
            status,
            encoded: Arc::default(),
            places: Arc::new(Semaphore::new(LIVE_MAX)),
            stop,
        }
    }

    /// The present digest as JSON.
    pub(super) fn digest(&self) -> Result<Bytes, serde_json::Error> {
        let status = Arc::clone(&self.status.borrow());
        self.encode(status)
    }

    fn encode(&self, status: Arc<Status>) -> Result<Bytes, serde_json::Error> {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, json)) = encoded.as_ref()
            && Arc::ptr_eq(of, &status)
        {
            return Ok(json.clone());
        }
        let json = Bytes::from(digest(&status)?);
        *encoded = Some((status, json.clone()));
        Ok(json)
    }

    /// A stream of Server-Sent Events, one per change; `None` when every place is taken.
    pub(super) fn follow(&self) -> Option<Body> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut status = self.status.clone();
        // A new page is told the present state at once.
        status.mark_changed();
        Some(Body::from_stream(self.clone().events(status, place)))
    }

    fn events(self, status: watch::Receiver<Arc<Status>>, place: OwnedSemaphorePermit) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold((self, status, place), |(feed, mut status, place)| async move {
            let changed = tokio::select! {
                () = feed.stop.cancelled() => return None,
                changed = timeout(KEEP_ALIVE, status.changed()) => changed,
            };
            let event = match changed {
                Err(_) => Bytes::from_static(b":\n\n"),
                // The monitor is gone. Ending the stream makes the page say so.
                Ok(Err(_)) => return None,
                Ok(Ok(())) => {
                    let now = Arc::clone(&status.borrow_and_update());
                    frame(&feed.encode(now).ok()?)
                }
            };
            Some((Ok(event), (feed, status, place)))
        })
    }
}

/// One event. JSON as serde writes it holds no line break, so one `data` line carries it whole.
fn frame(json: &[u8]) -> Bytes {
    [b"data: ".as_slice(), json, b"\n\n"].concat().into()
}

fn digest(status: &Status) -> Result<Vec<u8>, serde_json::Error> {
    let brief = status.guards.len() > WHOLE_MAX;
    if !brief {
        return serde_json::to_vec(&Digest { brief, status });
    }
    let guards = status.guards.iter().map(shortened).collect();
    let short = Status {
        guards,
        version: status.version.clone(),
        chats: status.chats.clone(),
        fleet: status.fleet.clone(),
        config: status.config.clone(),
        replica: status.replica.clone(),
        ..*status
    };
    serde_json::to_vec(&Digest { brief, status: &short })
}

fn shortened(guard: &GuardStatus) -> GuardStatus {
    if matches!(guard.phase, Phase::Watching | Phase::Steady | Phase::Starting) {
        GuardStatus {
            rules: Vec::new(),
            events: Vec::new(),
            last_incident: None,
            history: None,
            guard: guard.guard.clone(),
            object: guard.object.clone(),
            why: guard.why.clone(),
            active: guard.active.clone(),
            standby: guard.standby.clone(),
            colors: guard.colors.clone(),
            paused_by: guard.paused_by.clone(),
            maintenance: guard.maintenance.clone(),
            ..*guard
        }
    } else {
        guard.clone()
    }
}
