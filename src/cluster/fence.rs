//! The fence before every write: whoever does not lead a guard must not write for it.
//!
//! A Lease says until when this replica leads. The question is put to our monotonic clock at the last moment there is, not
//! when a flip is decided: a process may be stopped (`SIGSTOP`, a frozen machine, a starved node) anywhere in between, and
//! wakes up believing that no time has passed. So the fence sits in the client ([`Fence::before`]) and not in the code that
//! uses it: no write of a router can go round it, also none that is added later.
//!
//! - **Before a write is handed on**, the Lease must outlast the write's own deadline and a margin: a write that is sent in
//!   time must also end in time.
//! - **At every step of sending it**, the Lease must still hold: connecting takes a while, and a pause can fall into it.
//! - What is left is a pause between handing the bytes to the connection and the kernel's taking them. No client can close
//!   that gap; the compare-and-swap of the patch does, at the API server.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use http::{Request, Response};
use kube::{Client, client::Body};
use tokio::time::Instant;
use tower::BoxError;

/// What a Lease must outlast a write's deadline by. Clocks of two machines tick at nearly the same rate: 0.5 s in 15 s is
/// thirty times what a badly disciplined one drifts.
pub const MARGIN: Duration = Duration::from_millis(500);

/// Nothing was sent: the Lease does not last long enough, or is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead, or not for long enough to write: nothing was sent")]
pub struct Fenced;

/// The Lease ran out while a write was under way: it may have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Lease ran out while the answer was awaited")]
pub struct Lapsed;

/// Whether, and until when, this replica leads one shard. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Fence(Arc<Tenure>);

struct Tenure {
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since the origin.
    until: Option<Duration>,
    /// No further write may begin.
    closing: bool,
    /// Writes under way.
    writing: u32,
}

/// A write under way: a shard is not handed over while there is one.
struct Permit(Arc<Tenure>);

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writing = state.writing.saturating_sub(1);
    }
}

// === impl Fence ===

impl Fence {
    /// A closed fence on the clock that began at `origin`.
    #[must_use]
    pub fn closed(origin: Instant) -> Self {
        Self(Arc::new(Tenure {
            origin,
            state: Mutex::default(),
        }))
    }

    /// For how long this replica surely leads; zero where it does not, or is handing over.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let state = self.0.state();
        if state.closing { Duration::ZERO } else { self.0.left(&state) }
    }

    /// Whether this replica leads right now.
    #[must_use]
    pub fn leads(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Opens it until a moment, or prolongs it; never shortens it.
    pub(super) fn extend(&self, until: Duration) {
        let mut state = self.0.state();
        state.until = state.until.max(Some(until));
    }

    /// Lets no further write begin; `true` once none is under way any more.
    pub(super) fn close(&self) -> bool {
        let mut state = self.0.state();
        state.closing = true;
        state.writing == 0
    }

    /// Takes a [`Fence::close`] back.
    pub(super) fn reopen(&self) {
        self.0.state().closing = false;
    }

    /// The Lease is another's, or nobody's.
    pub(super) fn end(&self) {
        let mut state = self.0.state();
        state.until = None;
        state.closing = false;
    }

    fn enter(&self, deadline: Duration) -> Option<Permit> {
        let mut state = self.0.state();
        if state.closing || self.0.left(&state) <= deadline.saturating_add(MARGIN) {
            return None;
        }
        state.writing += 1;
        Some(Permit(Arc::clone(&self.0)))
    }

    /// A client like `client`, each of whose writes is answered within `deadline` or given up, with this fence before it.
    #[must_use]
    pub fn before(&self, client: Client, deadline: Duration) -> Client {
        let namespace = client.default_namespace().to_owned();
        let fence = self.clone();
        let fenced = tower::service_fn(move |request: Request<Body>| {
            let (client, fence) = (client.clone(), fence.clone());
            async move { fence.send(&client, request, deadline).await }
        });
        Client::new(fenced, namespace)
    }

    async fn send(&self, client: &Client, request: Request<Body>, deadline: Duration) -> Result<Response<Body>, BoxError> {
        if request.method().is_safe() {
            return client.send(request).await.map_err(BoxError::from);
        }
        let _permit = self.enter(deadline).ok_or(Fenced)?;
        let mut sending = pin!(client.send(request));
        poll_fn(|context| {
            // Asked first: after a pause it is this that wakes up, with a connection that is just ready to be written to.
            if self.0.left(&self.0.state()).is_zero() {
                return Poll::Ready(Err(Lapsed.into()));
            }
            sending.as_mut().poll(context).map_err(BoxError::from)
        })
        .await
    }
}

impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fence").field("remaining", &self.remaining()).finish()
    }
}

impl Tenure {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, state: &State) -> Duration {
        let until = state.until.unwrap_or_default();
        until.saturating_sub(self.origin.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::cluster::{Fault, FaultKind};

    const DEADLINE: Duration = Duration::from_secs(5);

    /// A client that counts what reaches it, and answers after `wait`.
    fn counting(wait: Duration) -> (Client, Arc<AtomicU32>) {
        let sent = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&sent);
        let service = tower::service_fn(move |_: Request<Body>| {
            let count = Arc::clone(&count);
            async move {
                // What a connection does before it writes.
                tokio::time::sleep(wait).await;
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, BoxError>(Response::new(Body::from(b"{}".to_vec())))
            }
        });
        (Client::new(service, "shop"), sent)
    }

    fn request(method: &str) -> Request<Vec<u8>> {
        let request = Request::builder().method(method).uri("/api/v1/namespaces/shop/services/web");
        request.body(b"[]".to_vec()).expect("valid")
    }

    fn kind(error: &kube::Error) -> FaultKind {
        Fault::from(error).kind
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_needs_a_lease_that_outlasts_it_and_a_read_needs_none() {
        let (client, sent) = counting(Duration::ZERO);
        let fence = Fence::closed(Instant::now());
        let client = fence.before(client, DEADLINE);
        client.request_text(request("GET")).await.expect("a read is let through");
        for method in ["PATCH", "POST", "PUT", "DELETE"] {
            let error = client.request_text(request(method)).await.expect_err("nobody leads");
            assert_eq!(kind(&error), FaultKind::Fenced, "{method}: {error:?}");
        }
        assert_eq!(sent.load(Ordering::Relaxed), 1);

        fence.extend(DEADLINE + MARGIN);
        let error = client.request_text(request("PATCH")).await.expect_err("it would end too late");
        assert_eq!(kind(&error), FaultKind::Fenced);
        fence.extend(DEADLINE + MARGIN + Duration::from_millis(1));
        client.request_text(request("PATCH")).await.expect("long enough");
        assert_eq!(sent.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_while_it_connects_is_noticed_before_anything_is_sent() {
        let (client, sent) = counting(Duration::from_secs(20));
        let fence = Fence::closed(Instant::now());
        fence.extend(Duration::from_secs(10));
        let client = fence.before(client, DEADLINE);
        let error = client.request_text(request("PATCH")).await.expect_err("it woke up too late");
        // Nobody can tell how far it had got: the careful word.
        assert_eq!(kind(&error), FaultKind::Lost, "{error:?}");
        assert_eq!(sent.load(Ordering::Relaxed), 0);
        assert!(error.to_string().contains("ran out"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_is_handed_over_when_the_last_write_has_ended() {
        let (client, sent) = counting(Duration::from_secs(1));
        let fence = Fence::closed(Instant::now());
        fence.extend(Duration::from_secs(60));
        let client = fence.before(client, DEADLINE);
        let writing = tokio::spawn({
            let client = client.clone();
            async move { client.request_text(request("PATCH")).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!fence.close(), "a write is under way");
        assert!(!fence.leads(), "and none may begin");
        let error = client.request_text(request("PATCH")).await.expect_err("none may begin");
        assert_eq!(kind(&error), FaultKind::Fenced);
        writing.await.expect("no panic").expect("the one under way ends well");
        assert!(fence.close());
        assert_eq!(sent.load(Ordering::Relaxed), 1);
        fence.reopen();
        assert!(fence.leads());
        fence.end();
        assert!(!fence.leads());
    }
}
