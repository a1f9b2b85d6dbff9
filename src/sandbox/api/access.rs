//! Who may do what: three users with a bearer token each, and rules in the form of RBAC.

use axum::http::{HeaderMap, header};
use serde_json::Value;

use super::kinds::text;

/// Somebody with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// The daemon, with the rights of `deploy/monitor.yaml`, those that are optional there included.
    Flipback,
    /// The daemon in its monitor-only variant: no write at all.
    Watcher,
    /// May do everything.
    Admin,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deed<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// Plural, with the subresource behind a slash: `pods/log`.
    pub resource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl User {
    pub(super) const ALL: [Self; 3] = [Self::Flipback, Self::Watcher, Self::Admin];

    /// The token that makes a request this user's. Fixed: the sandbox listens on loopback only and guards nothing.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::Flipback => "sandbox-flipback",
            Self::Watcher => "sandbox-watcher",
            Self::Admin => "sandbox-admin",
        }
    }

    /// The name in the audit record.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flipback => "system:serviceaccount:flipback:flipback",
            Self::Watcher => "system:serviceaccount:flipback:flipback-monitor",
            Self::Admin => "sandbox-admin",
        }
    }

    /// Whose token a request bears.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        Self::ALL.into_iter().find(|user| user.token() == given)
    }
}

/// The rules: as narrow as the daemon's Role.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Namespace of the guarded Services.
    pub namespace: String,
    /// The Services the daemon may patch.
    pub services: Vec<String>,
}

/// What both daemons read: group and resource.
const READ: [(&str, &str); 8] = [
    ("", "services"),
    ("", "pods"),
    ("", "pods/log"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("discovery.k8s.io", "endpointslices"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
];

/// What evidence lists besides.
const LISTED: [(&str, &str); 3] = [
    ("autoscaling", "horizontalpodautoscalers"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "ingresses"),
];

impl Rules {
    /// Whether `user` may.
    pub(super) fn allow(&self, user: User, deed: &Deed<'_>) -> bool {
        let reviews = deed.group == "authorization.k8s.io" && deed.resource == "selfsubjectaccessreviews";
        let here = deed.namespace == self.namespace;
        let what = (deed.group, deed.resource);
        let reads = matches!(deed.verb, "get" | "list" | "watch") && READ.contains(&what);
        let reads = reads || (deed.verb == "list" && LISTED.contains(&what));
        let flips =
            deed.verb == "patch" && (deed.group, deed.resource) == ("", "services") && self.services.iter().any(|name| name == deed.name);
        let scales = (deed.verb, deed.group, deed.resource) == ("update", "apps", "deployments/scale");
        let relieves = deed.group.is_empty() && matches!((deed.verb, deed.resource), ("patch", "pods") | ("create", "pods/eviction"));
        let tells = matches!(deed.verb, "create" | "patch") && deed.resource == "events" && matches!(deed.group, "" | "events.k8s.io");
        let shares = what == ("coordination.k8s.io", "leases") && matches!(deed.verb, "get" | "create" | "update" | "patch");
        match user {
            User::Admin => true,
            _ if reviews => true,
            User::Watcher => here && reads,
            // The Leases lie in flipback's own namespace.
            User::Flipback => shares || here && (reads || flips || tells || scales || relieves),
        }
    }

    /// Answers a SelfSubjectAccessReview's attributes.
    pub(super) fn review(&self, user: User, attributes: &Value) -> bool {
        let resource = match text(attributes, &["subresource"]) {
            "" => text(attributes, &["resource"]).to_owned(),
            sub => format!("{}/{sub}", text(attributes, &["resource"])),
        };
        self.allow(
            user,
            &Deed {
                verb: text(attributes, &["verb"]),
                group: text(attributes, &["group"]),
                resource: &resource,
                namespace: text(attributes, &["namespace"]),
                name: text(attributes, &["name"]),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_services_may_be_patched_and_only_by_the_enforcing_daemon() {
        let rules = Rules {
            namespace: "shop".into(),
            services: vec!["web".into()],
        };
        let deed = |verb, name| Deed {
            verb,
            group: "",
            resource: "services",
            namespace: "shop",
            name,
        };
        assert!(rules.allow(User::Flipback, &deed("patch", "web")));
        assert!(!rules.allow(User::Flipback, &deed("patch", "other")));
        assert!(!rules.allow(User::Flipback, &deed("update", "web")));
        assert!(!rules.allow(User::Watcher, &deed("patch", "web")));
        assert!(rules.allow(User::Watcher, &deed("watch", "")));
        let secret = Deed {
            resource: "secrets",
            ..deed("get", "any")
        };
        assert!(!rules.allow(User::Flipback, &secret));
    }
}
