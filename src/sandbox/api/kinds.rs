//! The kinds the sandbox knows, and how their paths read.

use serde_json::Value;

/// One kind of object.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// Plural, as in paths.
    pub plural: &'static str,
    /// Kind, as in objects.
    pub kind: &'static str,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
    /// Whether `metadata.generation` counts changes of its spec.
    pub counts_generations: bool,
}

impl Kind {
    /// `v1`, `apps/v1`, `autoscaling/v2`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

const fn kind(group: &'static str, plural: &'static str, kind: &'static str) -> Kind {
    Kind {
        group,
        version: "v1",
        plural,
        kind,
        namespaced: true,
        counts_generations: false,
    }
}

const fn counting(kind: Kind) -> Kind {
    Kind {
        counts_generations: true,
        ..kind
    }
}

pub(crate) static NAMESPACES: Kind = Kind {
    namespaced: false,
    ..kind("", "namespaces", "Namespace")
};
pub(crate) static SERVICES: Kind = kind("", "services", "Service");
pub(crate) static PODS: Kind = kind("", "pods", "Pod");
pub(crate) static EVENTS: Kind = kind("", "events", "Event");
pub(crate) static SLICES: Kind = counting(kind("discovery.k8s.io", "endpointslices", "EndpointSlice"));
pub(crate) static DEPLOYMENTS: Kind = counting(kind("apps", "deployments", "Deployment"));
pub(crate) static REPLICA_SETS: Kind = counting(kind("apps", "replicasets", "ReplicaSet"));
/// Neither these nor Ingresses are ever made here by ourselves: evidence asks for them, and there are none.
static AUTOSCALERS: Kind = Kind {
    version: "v2",
    ..counting(kind("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler"))
};
pub(crate) static BUDGETS: Kind = counting(kind("policy", "poddisruptionbudgets", "PodDisruptionBudget"));
static INGRESSES: Kind = counting(kind("networking.k8s.io", "ingresses", "Ingress"));
/// Who leads, among several daemons.
pub(crate) static LEASES: Kind = kind("coordination.k8s.io", "leases", "Lease");
/// Known so that a refusal can be shown: the daemon must not have this right.
static SECRETS: Kind = kind("", "secrets", "Secret");

static ALL: [&Kind; 12] = [
    &NAMESPACES,
    &SERVICES,
    &PODS,
    &EVENTS,
    &SLICES,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &AUTOSCALERS,
    &BUDGETS,
    &INGRESSES,
    &SECRETS,
    &LEASES,
];

fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter()
        .copied()
        .find(|kind| (kind.group, kind.version, kind.plural) == (group, version, plural))
}

/// What a request's path names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; `None`: all of them, or a kind without.
    pub namespace: Option<String>,
    /// Its name; `None`: the collection.
    pub name: Option<String>,
    /// `log`, `status`.
    pub subresource: Option<String>,
}

impl Target {
    /// Reads a path; `None` where the sandbox has nothing.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let own = |text: &&str| (*text).to_owned();
        let (namespace, plural, rest) = match rest {
            ["namespaces"] => (None, "namespaces", &[][..]),
            ["namespaces", name] => (None, "namespaces", std::slice::from_ref(name)),
            ["namespaces", namespace, plural, rest @ ..] => (Some(own(namespace)), *plural, rest),
            [plural, rest @ ..] => (None, *plural, rest),
            [] => return None,
        };
        let kind = find(group, version, plural)?;
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(own(name)), None),
            [name, sub] => (Some(own(name)), Some(own(sub))),
            _ => return None,
        };
        if kind.namespaced && namespace.is_none() && name.is_some() {
            return None;
        }
        Some(Self {
            kind,
            namespace,
            name,
            subresource,
        })
    }
}

/// Follows keys into an object.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(object, |value, key| value.get(key).unwrap_or(&Value::Null))
}

/// A text inside an object; empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_they_name_in_kubernetes() {
        let one = Target::parse("/apis/apps/v1/namespaces/shop/deployments/web").expect("known");
        assert_eq!(
            (one.kind.kind, one.namespace.as_deref(), one.name.as_deref()),
            ("Deployment", Some("shop"), Some("web"))
        );
        let log = Target::parse("/api/v1/namespaces/shop/pods/web-1/log").expect("known");
        assert_eq!(log.subresource.as_deref(), Some("log"));
        assert_eq!(Target::parse("/api/v1/services").expect("known").namespace, None);
        assert_eq!(
            Target::parse("/api/v1/namespaces/shop").expect("known").name.as_deref(),
            Some("shop")
        );
        for unknown in [
            "/",
            "/api/v1",
            "/api/v1/services/web",
            "/apis/apps/v1/namespaces/shop/daemonsets",
            "/api/v2/pods",
            "/apis/autoscaling/v1/namespaces/shop/horizontalpodautoscalers",
        ] {
            assert!(Target::parse(unknown).is_none(), "{unknown}");
        }
    }
}
