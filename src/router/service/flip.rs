//! The order of requests of a flip.
//!
//! Read, compare with what the decision was based on, send one patch that compares again. A refused patch is sent
//! again only when a new reading shows that the color did not change (somebody wrote something else on the object).
//! A patch whose answer was lost is **never** sent again: the ledger in the object tells whether it arrived.
//! Beside the first reading the standby's pods are read ([`ServiceRouter::is_gone`]).
//!
//! The preview Service follows in a patch of its own. Where the process died between the two, the next one brings it
//! along ([`ServiceRouter::bring_along`]), and only where nobody has touched either Service since.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use tokio::time::Instant;

use super::{
    super::{Flip, FlipOrder, RouterError},
    ServiceRouter, patch,
    view::{changed_at, parse_ledger, selector},
};
use crate::{
    cluster::{Fault, FaultKind},
    model::{FlipRecord, Ledger},
};

/// Patches sent at most: the object of a busy controller may change between two of our requests, but not for ever.
const ATTEMPTS: u32 = 3;
/// Readings after a lost answer, and the wait before each but the first: a patch may still be on its way in.
const LEARN_ATTEMPTS: u32 = 3;
const LEARN_WAIT: Duration = Duration::from_millis(250);
/// The wait before a patch is sent again to a server that said it was busy and did nothing.
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// How an object compares with what an order was based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The same object, still on the color that is to be left.
    Same,
    /// This very order was already carried out.
    Done,
    /// Another object, another color, or a flip in between that the decision knew nothing of.
    Changed,
}

impl ServiceRouter {
    /// Carries out an order, then swaps the preview Service along.
    pub(super) async fn carry_out(&self, order: &FlipOrder) -> Result<Flip, RouterError> {
        let started = Instant::now();
        let to = self.value(&order.to)?;
        let left = self.value(&order.from)?;
        let client = self.writes("patch")?;
        let api = self.api(client);
        let moved = self.swap(&api, order, left, to).await?;
        let took = started.elapsed();
        let Some(service) = moved else {
            return Ok(Flip::Stale);
        };
        let preview_error = self.swap_preview(&api, left, None, order.dry_run).await.err();
        if order.dry_run {
            if let Some(error) = preview_error {
                tracing::warn!(guard = %self.spec.id, error, "Preview Service would not follow");
            }
            return Ok(Flip::DryRun);
        }
        Ok(Flip::Moved {
            took,
            resource_version: service.metadata.resource_version.unwrap_or_default(),
            preview_error,
        })
    }

    /// The compare-and-swap; `None`: stale.
    async fn swap(&self, api: &Api<Service>, order: &FlipOrder, left: &str, to: &str) -> Result<Option<Service>, RouterError> {
        let (base, gone, refuted) = tokio::join!(self.basis(api, order), self.is_gone(order, to), self.is_refuted(order, left));
        let mut base = base?;
        if refuted && self.standing(&base, order) == Standing::Same {
            return Ok(None);
        }
        if gone && self.standing(&base, order) == Standing::Same {
            return Err(RouterError::NotReady {
                object: self.object.clone(),
                color: order.to.clone(),
            });
        }
        let mut refused = None;
        for _ in 0..ATTEMPTS {
            match self.standing(&base, order) {
                Standing::Same => {}
                Standing::Done => return Ok(Some(base)),
                Standing::Changed => {
                    // The watches do not tell of it yet, or never will.
                    self.cluster.caches().doubt(&self.spec.namespace);
                    return Ok(None);
                }
            }
            let patch = self.patch(&base, order, to)?;
            let fault = match self.send(api, &self.route.active, patch, order.dry_run).await {
                Ok(service) => return Ok(Some(service)),
                Err(fault) => fault,
            };
            match fault.kind {
                FaultKind::Conflict => {}
                FaultKind::Busy => tokio::time::sleep(BUSY_WAIT).await,
                FaultKind::Timeout | FaultKind::Lost | FaultKind::Server if !order.dry_run => {
                    return self.learn(api, order, fault).await;
                }
                _ => return Err(RouterError::of("patch", &self.object, fault)),
            }
            base = match self.glance(api, &self.route.active).await {
                Ok(service) => service,
                // It may have moved, it may not: the next look decides.
                Err(_) => return Ok(None),
            };
            refused = Some(fault);
        }
        match self.standing(&base, order) {
            Standing::Changed => Ok(None),
            _ => Err(RouterError::of(
                "patch",
                &self.object,
                refused.unwrap_or_else(|| Fault::deadline(Duration::ZERO)),
            )),
        }
    }

    /// The object to base the patch on: read anew, so that an unrelated change since the decision does not make it
    /// stale; where that fails, as the caches last had it. The patch compares in either case.
    async fn basis(&self, api: &Api<Service>, order: &FlipOrder) -> Result<Service, RouterError> {
        let fault = match self.glance(api, &self.route.active).await {
            Ok(service) => return Ok(service),
            Err(fault) if fault.kind == FaultKind::NotFound => return Err(RouterError::of("read", &self.object, fault)),
            Err(fault) => fault,
        };
        tracing::warn!(guard = %self.spec.id, error = %fault, "Service not read before the flip: going by the cache");
        let cached = self.cluster.caches().last_known_service(&self.spec.namespace, &self.route.active);
        let same = |service: &Service| service.metadata.uid.as_deref() == Some(order.seen.uid.as_str());
        match cached {
            Some(service) if same(&service) => Ok(service.as_ref().clone()),
            _ => Err(RouterError::of("read", &self.object, fault)),
        }
    }

    fn standing(&self, service: &Service, order: &FlipOrder) -> Standing {
        let same = service.metadata.uid.as_deref() == Some(order.seen.uid.as_str());
        if same && carries(service, &order.record.incident) {
            return Standing::Done;
        }
        // A person asks for a color, whatever was done before.
        let newest = parse_ledger(service)
            .ok()
            .and_then(|ledger| ledger.last().map(|flip| flip.incident.clone()));
        if order.record.automatic && newest != order.known {
            return Standing::Changed;
        }
        let selector = selector(service);
        if same && selector.get(&self.route.selector_key) == Some(&order.seen.value) {
            Standing::Same
        } else {
            Standing::Changed
        }
    }

    fn patch(&self, base: &Service, order: &FlipOrder, to: &str) -> Result<json_patch::Patch, RouterError> {
        // An unreadable ledger was already told loudly by the view; it must not stop a rollback, and is not thrown away.
        let (ledger, damaged) = match parse_ledger(base) {
            Ok(ledger) => (ledger, None),
            Err(text) => (Ledger::default(), Some(text)),
        };
        let ledger = ledger.with(order.record.clone());
        patch::flip(base, &self.route.selector_key, &order.seen.value, to, &ledger, damaged).map_err(|error| RouterError::Failed {
            attempted: "write the ledger of",
            object: self.object.clone(),
            source: Fault {
                kind: FaultKind::Refused,
                detail: error.to_string(),
            },
        })
    }

    /// Finds out whether a patch whose answer was lost arrived.
    async fn learn(&self, api: &Api<Service>, order: &FlipOrder, lost: Fault) -> Result<Option<Service>, RouterError> {
        tracing::warn!(guard = %self.spec.id, error = %lost, "Answer to the flip lost: reading whether it arrived");
        for attempt in 0..LEARN_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(LEARN_WAIT * attempt).await;
            }
            let Ok(service) = self.glance(api, &self.route.active).await else {
                continue;
            };
            match self.standing(&service, order) {
                Standing::Done => return Ok(Some(service)),
                Standing::Changed => return Ok(None),
                Standing::Same => {}
            }
        }
        Err(RouterError::Unknown {
            object: self.object.clone(),
            source: lost,
        })
    }

    /// Brings the preview Service along with a flip that an earlier process made and did not end: the active Service
    /// still is as that flip left it, and the preview still shows the color that took over, untouched since the decision.
    /// Whatever else is found is somebody's own doing and stays. `true`: the preview was swapped.
    pub(super) async fn bring_along(&self, flip: &FlipRecord) -> Result<bool, RouterError> {
        let (taken, left) = (self.value(&flip.to)?, self.value(&flip.from)?);
        let Some(name) = self.route.preview.as_deref() else {
            return Ok(false);
        };
        let api = self.api(self.writes("patch")?);
        let read = |name: &str, fault| RouterError::of("read", &format!("Service \"{}/{name}\"", self.spec.namespace), fault);
        let active = self
            .glance(&api, &self.route.active)
            .await
            .map_err(|fault| read(&self.route.active, fault))?;
        let newest = parse_ledger(&active).ok().and_then(|ledger| ledger.last().cloned());
        let ours = newest.is_some_and(|newest| newest.incident == flip.incident);
        let key = &self.route.selector_key;
        if !ours || selector(&active).get(key).map(String::as_str) != Some(taken) {
            return Ok(false);
        }
        let preview = self.glance(&api, name).await.map_err(|fault| read(name, fault))?;
        let shown = selector(&preview).remove(key);
        let touched = changed_at(&preview, key).is_some_and(|at| at > flip.at);
        if touched || shown.as_deref() != Some(taken) {
            return Ok(false);
        }
        self.swap_preview(&api, left, Some(taken), false)
            .await
            .map_err(|error| RouterError::Preview {
                object: self.object.clone(),
                error,
            })
    }

    /// Points the preview Service at the color that was left, where `expected` is given only if it shows that. `true`: it
    /// was patched. A failure is told and never raised by a flip: users are not on it.
    async fn swap_preview(&self, api: &Api<Service>, left: &str, expected: Option<&str>, dry_run: bool) -> Result<bool, String> {
        let Some(name) = self.route.preview.as_deref() else {
            return Ok(false);
        };
        let object = format!("preview Service \"{}/{name}\"", self.spec.namespace);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let service = match self.glance(api, name).await {
                Ok(service) => service,
                Err(fault) => {
                    last = Some(RouterError::of("read", &object, fault));
                    continue;
                }
            };
            let selector = selector(&service);
            let Some(value) = selector.get(&self.route.selector_key) else {
                let key = self.route.selector_key.clone();
                return Err(told(&RouterError::NoSuchKey {
                    attempted: "switch",
                    object,
                    key,
                }));
            };
            if value == left || expected.is_some_and(|expected| value != expected) {
                return Ok(false);
            }
            let patch = patch::preview(&service, &self.route.selector_key, value, left);
            match self.send(api, name, patch, dry_run).await {
                Ok(_) => return Ok(true),
                // Safe to repeat: each round reads first, and is done when the value is the wanted one.
                Err(fault) => {
                    let lasting = matches!(fault.kind, FaultKind::Unauthorized | FaultKind::Forbidden | FaultKind::NotFound);
                    last = Some(RouterError::of("patch", &object, fault));
                    if lasting {
                        break;
                    }
                    tokio::time::sleep(BUSY_WAIT).await;
                }
            }
        }
        last.map_or(Ok(false), |error| Err(told(&error)))
    }
}

/// Whether the ledger tells of an incident.
fn carries(service: &Service, incident: &str) -> bool {
    parse_ledger(service).is_ok_and(|ledger| ledger.flips.iter().any(|flip| flip.incident == incident))
}

/// An error and its causes in one line.
fn told(error: &RouterError) -> String {
    let mut said = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        next = cause.source();
    }
    said
}
