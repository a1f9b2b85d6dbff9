//! Keeps one kind of one namespace in its cache, for ever.
//!
//! kube's watcher resumes silently after a failure, so that one cannot tell a recovered quiet watch from a dead one.
//! Here every failure ends the watcher and the next one lists again: a list that came through proves that the cache is
//! right. The price is one list per failure, spread by a jittered backoff that never exceeds two seconds.
//!
//! An answer that ends, be it in the middle of a line, is no failure to kube: it asks again at once, for ever, and a server
//! that ends every watch would be asked hundreds of times a second and tell nothing. Here a watch that ends at once has failed.
//!
//! A server answers a watch at once, with a head and no events. One whose head does not come has failed as any other read has: the
//! transport, which must bear the silence of a quiet watch, would wait for it longer than a cache may be trusted.

use std::{
    fmt::Debug,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::BackoffBuilder as _;
use futures::{Stream, StreamExt as _};
use kube::{
    Api, Client, Resource,
    client::Body,
    core::NamespaceResourceScope,
    runtime::{
        reflector::{Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, timeout::error::Elapsed};

use super::{
    Link,
    caches::{Cell, Signals, Trouble, heard},
    connect::Clients,
    fault::{Fault, FaultKind},
};
use crate::metrics::Metrics;

/// The first wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before jitter, which adds at most as much again: a restarted API server is met within two seconds.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A watch that lived so long after its list is trusted; one that is refused fails within milliseconds.
const SETTLE: Duration = Duration::from_millis(500);
/// A watch that is asked for sooner after the one before it follows one that ended at once.
const BRIEF: Duration = Duration::from_secs(1);
/// How long one watch request lasts with few namespaces. The end of a watch is the only sign of life that a quiet one
/// gives, so this, with kube's margin of 5 s, bounds how long a connection that died without a word goes unnoticed.
const WATCH_FOR: Duration = Duration::from_secs(30);
/// An API server that has just been started refuses everybody until it has read who may do what, some seconds as a rule. Where the
/// account was allowed before, a refusal that lasts longer is a missing right.
const RIGHTS_PASS: Duration = Duration::from_secs(15);
/// Objects in one page of a list. A page is decoded whole before it is trimmed, and an untrimmed pod is 10 KiB and more:
/// with kube's 500, the first lists of a few namespaces would set the size of the process for its whole life.
const PAGE: u32 = 50;
/// kube-apiserver's own ceiling is at 5 min; kube refuses 295 s.
const WATCH_FOR_MAX: Duration = Duration::from_secs(240);

/// How long one watch request lasts: beyond 30 namespaces (four kinds each) one more second per namespace, so that
/// quiet watches never cost the API server more than about four requests a second.
pub(super) fn watch_for(namespaces: usize) -> Duration {
    let spread = Duration::from_secs(u64::try_from(namespaces).unwrap_or(u64::MAX));
    spread.clamp(WATCH_FOR, WATCH_FOR_MAX)
}

/// What all watches of a cluster share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub cluster: String,
    pub link: watch::Receiver<Link>,
    pub signals: Arc<Signals>,
    pub metrics: Metrics,
    pub read_timeout: Duration,
    pub watch_for: Duration,
    pub stop: CancellationToken,
}

/// One kind of one namespace on its way into its cache.
pub(super) struct Keeper<K: Resource<DynamicType = ()> + Clone + 'static> {
    pub shared: Shared,
    pub cell: Arc<Cell>,
    pub store: Store<K>,
    pub writer: Writer<K>,
    pub trim: fn(&mut K),
}

impl<K> Keeper<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + PartialEq + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Watches until told to stop.
    pub(super) async fn run(mut self) {
        let stop = self.shared.stop.clone();
        let mut link = self.shared.link.clone();
        let cell = Arc::clone(&self.cell);
        let mut backoff = backoff();
        let mut refused = Refused::default();
        while !stop.is_cancelled() {
            let clients = match &*link.borrow_and_update() {
                Link::Up(clients) => Some(clients.clone()),
                Link::Down(_) => None,
            };
            let Some(clients) = clients else {
                if !next_link(&mut link, &stop).await {
                    return;
                }
                continue;
            };
            let (failed, lived) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // New clients: the old ones' watch is not worth finishing.
                changed = link.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = cell.doubted.notified() => {
                    tracing::warn!(cluster = self.shared.cluster, watch = %cell, "Watch tells what is not so: listing anew");
                    continue;
                }
                failed = self.follow(clients.watches.clone()) => failed,
            };
            if lived {
                backoff = self::backoff();
                refused = Refused::default();
            }
            let passes = refused.may_pass(failed.fault.kind, self.cell.synced());
            self.tell(&failed, &clients, passes);
            let wait = backoff.next().unwrap_or(BACKOFF_MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Lists, then watches, until something fails; tells also whether the watch had proved itself.
    async fn follow(&mut self, client: Client) -> (Failed, bool) {
        let api: Api<K> = Api::namespaced(
            unhurried(client, &self.cell.namespace, self.shared.read_timeout),
            &self.cell.namespace,
        );
        let seconds = u32::try_from(self.shared.watch_for.as_secs()).unwrap_or(u32::MAX);
        let events = pin!(watcher(api, watcher::Config::default().timeout(seconds).page_size(PAGE)));
        self.take(events).await
    }

    async fn take(&mut self, mut events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin) -> (Failed, bool) {
        let mut listing = true;
        let mut settled = false;
        loop {
            let event = if listing {
                let waited = self.shared.read_timeout;
                match timeout(waited, events.next()).await {
                    Ok(event) => event,
                    Err(_) => return (Failed::listing(Fault::deadline(waited)), false),
                }
            } else if settled {
                events.next().await
            } else {
                match timeout(SETTLE, events.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        settled = true;
                        self.settle();
                        continue;
                    }
                }
            };
            let event = match event {
                Some(Ok(event)) => event.modify(self.trim),
                Some(Err(error)) => return (Failed::from(&error), settled),
                // The watcher's stream has no end; if it had one, a new one would be begun.
                None => return (Failed::listing(Fault::deadline(Duration::ZERO)), settled),
            };
            let heard = heard(&self.store, &event);
            self.writer.apply_watcher_event(&event);
            match &event {
                watcher::Event::Init => listing = true,
                watcher::Event::InitDone => listing = false,
                watcher::Event::Apply(_) | watcher::Event::Delete(_) if !settled => {
                    settled = true;
                    self.settle();
                }
                _ => {}
            }
            if let Some(heard) = heard {
                self.cell.heard(heard);
            }
        }
    }

    fn settle(&self) {
        if self.cell.age() > Duration::ZERO {
            tracing::info!(cluster = self.shared.cluster, watch = %self.cell, "Watch is back");
        }
        self.cell.settled();
    }

    /// Counts a failure, says it once, and asks for new credentials where those may help. `passes`: it may be over in a moment.
    fn tell(&self, failed: &Failed, clients: &Clients, passes: bool) {
        let Shared { cluster, metrics, .. } = &self.shared;
        metrics
            .watch_errors
            .with_label_values(&[cluster.as_str(), K::kind(&()).as_ref()])
            .inc();
        if failed.fault.kind == FaultKind::Gone {
            // A version too old to resume from: normal after a pause, and cured by the list that follows.
            tracing::debug!(cluster, watch = %self.cell, "Watch starts over");
            return;
        }
        if failed.fault.calls_for_new_credentials() {
            self.shared.signals.renew.notify_one();
        }
        let trouble = Trouble {
            why: sentence(failed, &self.cell, clients, passes),
            lasting: !passes && matches!(failed.fault.kind, FaultKind::Unauthorized | FaultKind::Forbidden | FaultKind::Tls),
        };
        let why = trouble.why.clone();
        if self.cell.troubled(trouble) {
            tracing::warn!(cluster, watch = %self.cell, why, "Watch lost");
        } else {
            tracing::debug!(cluster, watch = %self.cell, why, "Watch still lost");
        }
    }
}

/// Why a watch is not asked for.
#[derive(Debug, thiserror::Error)]
#[error("the watch before it ended at once: is something between flipback and the API server that ends long answers?")]
struct EndedAtOnce;

/// A client for one watcher, whose watches do not follow each other at once, and whose answers begin by `deadline`: otherwise the
/// watch fails, and what failed is listed.
fn unhurried(client: Client, namespace: &str, deadline: Duration) -> Client {
    let began: Arc<Mutex<Option<Instant>>> = Arc::default();
    let sent = tower::service_fn(move |request: http::Request<Body>| {
        let now = Instant::now();
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let before = watches
            .then(|| began.lock().unwrap_or_else(PoisonError::into_inner).replace(now))
            .flatten();
        let client = client.clone();
        async move {
            if before.is_some_and(|before| now.duration_since(before) < BRIEF) {
                return Err(BoxError::from(EndedAtOnce));
            }
            let answer = client.send(request);
            let answer = if watches {
                timeout(deadline, answer).await.map_err(|_| Elapsed::new())?
            } else {
                answer.await
            };
            answer.map_err(BoxError::from)
        }
    });
    Client::new(sent, namespace)
}

/// Waits for the next state of the link; `false` when it is time to stop.
async fn next_link(link: &mut watch::Receiver<Link>, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        changed = link.changed() => changed.is_ok(),
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// How a watch ended.
struct Failed {
    /// `list` or `watch`, as RBAC spells it.
    verb: &'static str,
    fault: Fault,
}

impl Failed {
    fn listing(fault: Fault) -> Self {
        Self { verb: "list", fault }
    }
}

impl From<&watcher::Error> for Failed {
    fn from(error: &watcher::Error) -> Self {
        let verb = match error {
            watcher::Error::InitialListFailed(_) => "list",
            _ => "watch",
        };
        Self { verb, fault: error.into() }
    }
}

/// Since when the account is refused, without anything else between.
#[derive(Debug, Default)]
struct Refused(Option<Instant>);

impl Refused {
    /// Whether a failure may be a refusal that passes; `allowed`: the account was allowed before.
    fn may_pass(&mut self, kind: FaultKind, allowed: bool) -> bool {
        if kind != FaultKind::Forbidden {
            self.0 = None;
            return false;
        }
        let since = *self.0.get_or_insert_with(Instant::now);
        allowed && since.elapsed() < RIGHTS_PASS
    }
}

/// What a person should do about a watch that failed.
fn sentence(failed: &Failed, cell: &Cell, clients: &Clients, passes: bool) -> String {
    let Clients { server, origin, .. } = clients;
    let detail = &failed.fault.detail;
    match failed.fault.kind {
        FaultKind::Unauthorized => {
            format!("the API server {server} does not accept our credentials: renew those of {origin} ({detail})")
        }
        FaultKind::Forbidden if passes => format!(
            "the API server {server} does not let the account {} {cell} any more, which passes where it has just been started ({detail})",
            failed.verb
        ),
        FaultKind::Forbidden => format!("the account may not {} {cell}: apply deploy/monitor.yaml ({detail})", failed.verb),
        FaultKind::Tls => {
            format!("no trusted TLS connection to the API server {server}: check the certificate authority of {origin} ({detail})")
        }
        FaultKind::Unreachable => {
            format!("cannot reach the API server {server}: check that it runs and that nothing blocks the way ({detail})")
        }
        FaultKind::NotFound => format!(
            "the API server {server} does not know {}: it must serve v1, apps/v1 and discovery.k8s.io/v1 ({detail})",
            cell.plural
        ),
        _ => format!("cannot {} {cell} at the API server {server}: {detail}", failed.verb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_is_capped_and_never_ends() {
        let waits: Vec<_> = backoff().take(50).collect();
        assert_eq!(waits.len(), 50);
        let within = Duration::from_millis(100)..=Duration::from_secs(2);
        assert!(waits.iter().all(|wait| within.contains(wait)), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_whose_answer_does_not_begin_has_failed_within_the_read_timeout() {
        let mute = tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, BoxError>>());
        let deadline = Duration::from_secs(5);
        let client = unhurried(Client::new(mute, "shop"), "shop", deadline);
        let request = http::Request::get("/api/v1/namespaces/shop/services?watch=true&timeoutSeconds=30");
        let began = Instant::now();
        let answer = client.send(request.body(Body::empty()).expect("a request"));
        let answer = timeout(Duration::from_secs(600), answer).await.expect("it is given up");
        assert!(
            (deadline..deadline + Duration::from_secs(1)).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
        let fault = Fault::from(&answer.expect_err("there is no answer"));
        assert_eq!(fault.kind, FaultKind::Timeout, "{fault:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_that_was_there_is_missing_only_once_the_refusal_has_lasted() {
        use FaultKind::{Forbidden, Unreachable};
        let mut refused = Refused::default();
        assert!(!refused.may_pass(Unreachable, true));
        assert!(refused.may_pass(Forbidden, true));
        tokio::time::advance(RIGHTS_PASS - Duration::from_secs(1)).await;
        assert!(refused.may_pass(Forbidden, true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!refused.may_pass(Forbidden, true), "it lasts");
        // Gone, and back: it is started anew.
        assert!(!refused.may_pass(Unreachable, true));
        assert!(refused.may_pass(Forbidden, true));
        // Who was never allowed has no right that could come back.
        assert!(!Refused::default().may_pass(Forbidden, false));
    }

    #[test]
    fn quiet_watches_cost_at_most_a_handful_of_requests_a_second() {
        assert_eq!(watch_for(1), WATCH_FOR);
        assert_eq!(watch_for(100), Duration::from_secs(100));
        assert_eq!(watch_for(100_000), WATCH_FOR_MAX);
    }
}
