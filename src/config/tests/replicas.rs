//! Replicas: as they are written, and what is said when they are wrong.

use super::*;
use crate::model::settings::ReplicaSettings;

const ON: &str = "[replicas]\nnamespace = \"ops\"\n";

#[test]
fn a_daemon_is_the_only_one_unless_told_otherwise() {
    assert_eq!(loaded(GUARD, &[("HOSTNAME", "flipback-0")]).replicas, None);
    let replicas = loaded(&format!("{ON}{GUARD}"), &[("HOSTNAME", "flipback-0")]).replicas;
    let wanted = ReplicaSettings {
        namespace: "ops".into(),
        identity: "flipback-0".into(),
        ..ReplicaSettings::default()
    };
    assert_eq!(replicas, Some(wanted.clone()));
    // A host whose name could not stand in a Lease, or none at all: the process's own number tells it apart.
    for odd in [&[][..], &[("HOSTNAME", "the host")]] {
        let replicas = loaded(&format!("{ON}{GUARD}"), odd).replicas.expect("on");
        assert_eq!(replicas.identity, "flipback");
    }
    let environment = [
        ("FLIPBACK_REPLICAS__IDENTITY", "b"),
        ("FLIPBACK_REPLICAS__NAMESPACE", "eu"),
        ("HOSTNAME", "a"),
    ];
    let replicas = loaded(GUARD, &environment).replicas.expect("on");
    assert_eq!((replicas.identity.as_str(), replicas.namespace.as_str()), ("b", "eu"));
    let flags = Flags {
        shards: Some(8),
        ..Flags::default()
    };
    let replicas = load_text(&format!("{ON}shards = 2\n{GUARD}"), &[], flags).expect("valid").replicas;
    assert_eq!(replicas.map(|replicas| replicas.shards), Some(8));
}

#[test]
fn the_leases_lie_where_flipback_runs_unless_told_otherwise() {
    let guard = GUARD.replacen("name = \"web\"", "name = \"web\"\ncluster = \"away\"", 1);
    let clusters = "[clusters.home]\n[clusters.away]\ncontext = \"away\"\n";
    let replicas = loaded(&format!("{ON}{clusters}{guard}"), &[]).replicas.expect("on");
    assert_eq!(replicas.cluster, "home");
    let replicas = loaded(&format!("{ON}cluster = \"away\"\n{clusters}{guard}"), &[])
        .replicas
        .expect("on");
    assert_eq!(replicas.cluster, "away");
    // The only one has no name to its guards.
    let one = loaded(&format!("{ON}cluster = \"home\"\n[clusters.home]\n{GUARD}"), &[]);
    assert_eq!(one.replicas.expect("on").cluster, one.clusters[0].name);
}

#[test]
fn replicas_that_could_not_lead_are_refused() {
    let refusals: Vec<String> = [
        "[replicas]\n".to_owned(),
        "[replicas]\nnamespace = \"Ops\"\nshards = 0\nidentity = \"a b\"\nname = \"flip_back\"\n".to_owned(),
        format!("{ON}duration = \"7s\"\n"),
        format!("{ON}renew = \"5s\"\n"),
        format!("{ON}duration = \"15500ms\"\n"),
        format!("{ON}cluster = \"nowhere\"\nsahrds = 2\n"),
        format!("{ON}[clusters.a]\ncontext = \"a\"\n[clusters.b]\ncontext = \"b\"\n"),
    ]
    .iter()
    .map(|text| refused(&format!("{text}{}", if text.contains("clusters") { "" } else { GUARD }), &[]))
    .collect();
    insta::assert_snapshot!(refusals.join("\n\n"));
    let shards = Flags {
        shards: Some(2),
        ..Flags::default()
    };
    let said = load_text(GUARD, &[], shards).expect_err("where should the Leases lie");
    assert!(said.contains("replicas.namespace"), "{said}");
}
