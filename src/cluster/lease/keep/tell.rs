//! What people are told of all this: the log, the metrics, the page.

use std::{collections::BTreeSet, sync::Arc};

use super::{super::members, Memory, Shared};
use crate::{
    cluster::{Fault, FaultKind},
    model::{ReplicaStatus, ShardStatus},
};

impl Shared {
    pub(super) fn failed(&self, attempted: &str, lease: &str, fault: &Fault) -> String {
        let remedy = match fault.kind {
            FaultKind::Forbidden => "; where that lasts, the account lacks the right: apply deploy/monitor.yaml with these Leases in it",
            FaultKind::NotFound => "; create the namespace, or correct replicas.namespace",
            _ => "",
        };
        format!(
            "failed to {attempted} the Lease \"{}/{lease}\": {fault}{remedy}",
            self.settings.namespace
        )
    }

    /// Says what changed: what is wrong once, and once that it is over.
    pub(super) fn tell(&self, memory: &mut Memory, trouble: Option<String>) {
        match (&memory.trouble, &trouble) {
            (before, Some(why)) if before.as_ref() != Some(why) => tracing::warn!(why, "Replicas cannot be kept in step"),
            (Some(_), None) => tracing::info!("Replicas are in step again"),
            _ => {}
        }
        memory.trouble = trouble;
    }

    pub(super) fn publish(&self, memory: &Memory) {
        let now = self.now();
        let leader = |place: usize| memory.leases.get(place).and_then(|known| self.holder(known, now));
        let shards: Vec<ShardStatus> = self
            .numbered()
            .enumerate()
            .map(|(place, (number, shard))| {
                let ours = shard.fence.leads();
                let known = leader(place).filter(|name| ours || *name != self.me).map(members::plain);
                self.metrics.leading.with_label_values(&[&number.to_string()]).set(i64::from(ours));
                ShardStatus {
                    shard: number,
                    leader: known,
                    ours,
                }
            })
            .collect();
        let alive: BTreeSet<String> = self.alive(memory, now).keys().map(|name| members::plain(name)).collect();
        self.metrics.replicas.set(i64::try_from(alive.len()).unwrap_or(i64::MAX));
        let status = ReplicaStatus {
            name: self.settings.identity.clone(),
            alive: alive.into_iter().collect(),
            shards,
            trouble: memory.trouble.clone(),
        };
        self.shown.send_if_modified(|shown| {
            let news = **shown != status;
            if news {
                *shown = Arc::new(status);
            }
            news
        });
    }
}
