//! Several daemons that share the guards: `[replicas]`. The section's presence turns it on; `--shards` alone does too.

use std::time::Duration;

use crate::model::settings::{ClusterSettings, ReplicaSettings};

use super::{
    check::is_label,
    duration,
    raw::{NodeKind, Table},
};

/// Shorter than this, a slow answer of the API server ends a leadership.
const DURATION_MIN: Duration = Duration::from_secs(2);
/// For so long nobody acts after a leader's sudden end.
const DURATION_MAX: Duration = Duration::from_secs(300);
const RENEW_MIN: Duration = Duration::from_millis(100);
/// More Leases than anybody has replicas for.
const SHARDS_MAX: u32 = 64;
/// So many renewals may fail before a flip is refused for lack of time.
const RENEWALS_MISSED: u32 = 2;
/// What the Lease must outlast a flip by; `cluster::fence` has it as well.
const FENCE_MARGIN: Duration = Duration::from_millis(500);

/// Reads `[replicas]`; `None`: this daemon is the only one.
pub(super) fn replicas(
    root: &Table<'_>,
    clusters: &[(String, ClusterSettings)],
    environment: &[(String, String)],
) -> Option<ReplicaSettings> {
    let table = root.table("replicas")?;
    let default = ReplicaSettings::default();
    let named = "lower-case letters, digits and '-', at most 63";
    let namespace = table.text_where("namespace", &format!("a namespace: {named}"), is_label);
    if table.get("namespace").is_none() {
        table
            .problems
            .add(table.missing("namespace", "the namespace that the Leases lie in: flipback's own"));
    }
    let host = environment.iter().find(|(name, value)| name == "HOSTNAME" && !value.is_empty());
    let identity = table
        .text_where("identity", "a name, such as the pod's", |text| {
            !text.trim().is_empty() && is_name(text)
        })
        .or_else(|| host.map(|(_, value)| value.clone()).filter(|host| is_name(host)));
    let settings = ReplicaSettings {
        cluster: cluster(&table, clusters),
        namespace: namespace.unwrap_or_default(),
        name: table
            .text_where("name", &format!("the Leases' name: {named}"), is_label)
            .unwrap_or(default.name),
        identity: identity.unwrap_or(default.identity),
        shards: table.count("shards", 1..=SHARDS_MAX).unwrap_or(default.shards),
        duration: table.duration("duration", DURATION_MIN..=DURATION_MAX).unwrap_or(default.duration),
        renew: table.duration("renew", RENEW_MIN..=DURATION_MAX).unwrap_or(default.renew),
    };
    if settings.duration.subsec_nanos() > 0 {
        table
            .problems
            .add(table.problem("duration", "whole seconds: a Lease holds no other"));
    }
    long_enough(&table, &settings, clusters);
    table.close();
    Some(settings)
}

/// Whether it can stand for this replica in a Lease and in an annotation's key.
fn is_name(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    text.len() <= 253 && text.chars().all(sound) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// The cluster with the Leases, by the name that the clusters' settings have; where none is named, the one that flipback runs in.
fn cluster(table: &Table<'_>, clusters: &[(String, ClusterSettings)]) -> String {
    let known = || clusters.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = table.text("cluster") {
        return match clusters.iter().find(|(known, _)| *known == name) {
            Some((_, cluster)) => cluster.name.clone(),
            None => {
                let named: Vec<&str> = clusters
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .filter(|name| !name.is_empty())
                    .collect();
                let allowed = if named.is_empty() {
                    "nothing: the only cluster has no name".to_owned()
                } else {
                    format!("one of the clusters: {}", named.join(", "))
                };
                table.problems.add(table.problem("cluster", allowed));
                String::new()
            }
        };
    }
    let inside: Vec<_> = clusters
        .iter()
        .filter(|(_, cluster)| cluster.kubeconfig.is_none() && cluster.context.is_none())
        .collect();
    match (clusters, inside.as_slice()) {
        ([(_, only)], _) | (_, [(_, only)]) => only.name.clone(),
        _ => {
            let which = format!("the cluster that the Leases lie in, one of: {}", known());
            table.problems.add(table.missing("cluster", which));
            String::new()
        }
    }
}

/// A flip is refused unless the Lease outlasts it: that must hold also after a few renewals that failed, in every cluster.
fn long_enough(table: &Table<'_>, settings: &ReplicaSettings, clusters: &[(String, ClusterSettings)]) {
    let Some((_, slowest)) = clusters.iter().max_by_key(|(_, cluster)| cluster.flip_timeout) else {
        return;
    };
    let needed = slowest.flip_timeout + FENCE_MARGIN + settings.renew * RENEWALS_MISSED;
    if settings.duration <= needed {
        let problem = table.problem(
            "duration",
            format!(
                "more than {}: flip_timeout, {RENEWALS_MISSED} times renew, and half a second; a Lease that does not outlast a flip stops every one",
                duration::print(needed)
            ),
        );
        let found = match table.get("duration").map(|node| &node.kind) {
            Some(NodeKind::Text(_)) => problem.found.clone(),
            _ => duration::print(settings.duration),
        };
        let problem = super::Problem { found, ..problem };
        table
            .problems
            .add(problem.hint("raise replicas.duration, or lower replicas.renew or clusters.*.flip_timeout"));
    }
}
