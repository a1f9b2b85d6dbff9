//! Whether the standby that the watches tell of is still there, and a color without endpoints really without: asked once more beside
//! the reading before the patch.
//!
//! A watch whose connection died without a word tells nothing for half a minute (`cluster/watch.rs`), and all that time its
//! cache counts: a standby that went down meanwhile would be flipped to. One small list finds that out. It can only refuse: what
//! does not come in time, or is not the whole, holds nothing up.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use tokio::time::Instant;

use super::{
    super::FlipOrder,
    GLANCE_TIMEOUT, ServiceRouter,
    view::{can_serve, selector},
    within,
};
use crate::model::{RuleKind, RuleSpec};

/// Pods asked for. One that is Ready is enough, so that a first page without any is rare, and tells nothing where there are more.
const PODS_ASKED: u32 = 50;

/// How long flips are refuted by Ready pods. Controllers write endpoints within seconds, and a list shows them at once.
const REFUTED_MAX: Duration = Duration::from_secs(30);
/// After so long it is another time.
const REFUTED_ANEW: Duration = Duration::from_secs(300);

impl ServiceRouter {
    /// Whether the color that is to take over has no Ready pod, although its watch tells of one. A person's flip is a person's to judge.
    pub(super) async fn is_gone(&self, order: &FlipOrder, to: &str) -> bool {
        let Some(wanted) = self.pods_of(to).filter(|_| order.record.automatic) else {
            return false;
        };
        let caches = self.cluster.caches();
        let told = caches.pods(&self.spec.namespace, &wanted).unwrap_or_default();
        if !told.iter().any(|pod| can_serve(pod)) {
            return false;
        }
        let gone = self.has_ready(wanted).await == Some(false);
        if gone {
            caches.doubt(&self.spec.namespace);
        }
        gone
    }

    /// Whether a flip away from a color without Ready endpoints is refuted, since that color has a Ready pod: what the watch of its
    /// endpoints told last may be from before the endpoints were written, and nothing since.
    pub(super) async fn is_refuted(&self, order: &FlipOrder, left: &str) -> bool {
        let of_endpoints = |rule: &RuleSpec| matches!(rule.kind, RuleKind::Endpoints(_)) && rule.name.as_str() == order.record.trigger;
        if !order.record.automatic || !self.spec.rules.iter().any(of_endpoints) {
            return false;
        }
        let Some(wanted) = self.pods_of(left) else { return false };
        let refuted = self.has_ready(wanted).await == Some(true);
        if refuted && !self.may_refute() {
            return false;
        }
        if refuted {
            tracing::warn!(guard = %self.spec.id, "The color to be left has Ready pods: its endpoints are listed anew");
            self.cluster.caches().doubt(&self.spec.namespace);
        }
        refuted
    }

    /// Whether endpoints may still be behind. Where lists of them go on telling of none, something else keeps users away from those pods,
    /// and the flip goes out.
    fn may_refute(&self) -> bool {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = memory.refuted.filter(|first| first.elapsed() < REFUTED_ANEW);
        let first = *memory.refuted.insert(lately.unwrap_or_else(Instant::now));
        first.elapsed() < REFUTED_MAX
    }

    /// What the Service would select with this value of its selector key.
    fn pods_of(&self, value: &str) -> Option<BTreeMap<String, String>> {
        let service = self.cluster.caches().last_known_service(&self.spec.namespace, &self.route.active)?;
        let mut wanted = selector(&service);
        wanted.insert(self.route.selector_key.clone(), value.to_owned());
        Some(wanted)
    }

    /// Whether one of these pods is Ready, by a list of our own; `None`: nobody said so in time, or not all of it.
    async fn has_ready(&self, wanted: BTreeMap<String, String>) -> Option<bool> {
        let pods: Api<Pod> = Api::namespaced(self.reads("verify the pods of").ok()?, &self.spec.namespace);
        let labels: Vec<String> = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let page = ListParams::default().labels(&labels.join(",")).limit(PODS_ASKED);
        match within(GLANCE_TIMEOUT.min(self.cluster.flip_timeout()), pods.list(&page)).await {
            Ok(found) => {
                let whole = found.metadata.continue_.as_deref().unwrap_or_default().is_empty();
                let ready = found.items.iter().any(can_serve);
                (ready || whole).then_some(ready)
            }
            Err(fault) => {
                tracing::warn!(guard = %self.spec.id, error = %fault, "Pods not read before the flip: going by the cache");
                None
            }
        }
    }
}
