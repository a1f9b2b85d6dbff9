//! Whether the standby that the watches tell of is still there, asked once more beside the reading before the patch.
//!
//! A watch whose connection died without a word tells nothing for half a minute (`cluster/watch.rs`), and all that time its
//! cache counts: a standby that went down meanwhile would be flipped to. One small list finds that out. It can only refuse: what
//! does not come in time, or is not the whole, holds nothing up.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};

use super::{
    super::FlipOrder,
    GLANCE_TIMEOUT, ServiceRouter,
    view::{can_serve, selector},
    within,
};

/// Pods asked for. One that is Ready is enough, so that a first page without any is rare, and tells nothing where there are more.
const PODS_ASKED: u32 = 50;

impl ServiceRouter {
    /// Whether the color that is to take over has no Ready pod, although its watch tells of one. A person's flip is a person's to judge.
    pub(super) async fn is_gone(&self, order: &FlipOrder, to: &str) -> bool {
        let namespace = &self.spec.namespace;
        let caches = self.cluster.caches();
        let Some(service) = caches
            .last_known_service(namespace, &self.route.active)
            .filter(|_| order.record.automatic)
        else {
            return false;
        };
        let mut wanted = selector(&service);
        wanted.insert(self.route.selector_key.clone(), to.to_owned());
        let told = caches.pods(namespace, &wanted).unwrap_or_default();
        if !told.iter().any(|pod| can_serve(pod)) {
            return false;
        }
        let Ok(client) = self.reads("verify the standby of") else {
            return false;
        };
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let labels: Vec<String> = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let page = ListParams::default().labels(&labels.join(",")).limit(PODS_ASKED);
        match within(GLANCE_TIMEOUT.min(self.cluster.flip_timeout()), pods.list(&page)).await {
            Ok(found) => {
                let whole = found.metadata.continue_.as_deref().unwrap_or_default().is_empty();
                let gone = whole && !found.items.iter().any(can_serve);
                if gone {
                    caches.doubt(namespace);
                }
                gone
            }
            Err(fault) => {
                tracing::warn!(guard = %self.spec.id, error = %fault, "Standby not read before the flip: going by the cache");
                false
            }
        }
    }
}
