//! What the world holds at first, and the credentials to reach it.

use serde_json::{Value, json};

use super::{
    api::{
        User, controller,
        kinds::{DEPLOYMENTS, Kind, NAMESPACES, SERVICES, text},
    },
    clock,
    node::PORT,
    world::{Sandbox, SandboxError, SandboxOptions, io, refused},
};

/// Whose credentials a kubeconfig carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The daemon with its right to patch the guarded Services.
    Flipback,
    /// The daemon's monitor-only variant.
    Watcher,
    /// Somebody who may do everything.
    Admin,
    /// Somebody with a token nobody knows.
    Stranger,
}

impl Who {
    const ALL: [Self; 4] = [Self::Flipback, Self::Watcher, Self::Admin, Self::Stranger];

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Flipback => "kubeconfig.yaml",
            Self::Watcher => "kubeconfig-watcher.yaml",
            Self::Admin => "kubeconfig-admin.yaml",
            Self::Stranger => "kubeconfig-stranger.yaml",
        }
    }

    pub(super) fn token(self) -> &'static str {
        match self {
            Self::Flipback => User::Flipback.token(),
            Self::Watcher => User::Watcher.token(),
            Self::Admin => User::Admin.token(),
            Self::Stranger => "nobody-knows-this",
        }
    }
}

impl Sandbox {
    /// Writes a kubeconfig for everybody.
    pub(super) fn write_kubeconfigs(&self) -> Result<(), SandboxError> {
        for who in Who::ALL {
            // JSON is YAML.
            let config = json!({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "sandbox",
                "clusters": [{ "name": "sandbox", "cluster": { "server": self.api_url() } }],
                "users": [{ "name": "sandbox", "user": { "token": who.token() } }],
                "contexts": [{
                    "name": "sandbox",
                    "context": { "cluster": "sandbox", "user": "sandbox", "namespace": self.options.namespace },
                }],
            });
            std::fs::write(self.kubeconfig_of(who), config.to_string()).map_err(io("write a kubeconfig"))?;
        }
        Ok(())
    }

    /// Makes the namespace, both colors' Deployments and both Services.
    pub(super) fn populate(&self) -> Result<(), SandboxError> {
        let SandboxOptions { namespace, service, .. } = &self.options;
        let preview = format!("{service}-preview");
        self.create(&NAMESPACES, "", json!({ "metadata": { "name": namespace } }))?;
        for (color, image) in [("blue", "1.0.0"), ("green", "1.1.0")] {
            self.create(&DEPLOYMENTS, namespace, self.deployment(color, image))?;
        }
        for (name, color) in [(service, "blue"), (&preview, "green")] {
            let body = json!({
                "metadata": { "name": name, "labels": { "app": service } },
                "spec": {
                    "selector": { "app": service, "color": color },
                    "ports": [{ "name": "http", "port": 80, "targetPort": PORT }],
                },
            });
            self.create(&SERVICES, namespace, body)?;
        }
        Ok(())
    }

    fn deployment(&self, color: &str, version: &str) -> Value {
        let app = &self.options.service;
        let labels = json!({ "app": app, "color": color });
        json!({
            "metadata": { "name": format!("{app}-{color}"), "labels": labels },
            "spec": {
                "replicas": self.options.replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{
                        "name": "app",
                        "image": format!("registry.example/{}/{app}:{version}", self.options.namespace),
                        "ports": [{ "name": "http", "containerPort": PORT, "protocol": "TCP" }],
                        "readinessProbe": { "httpGet": { "path": "/health", "port": PORT } },
                    }] },
                },
            },
        })
    }

    fn create(&self, kind: &'static Kind, namespace: &str, body: Value) -> Result<(), SandboxError> {
        let by = controller("deploy-pipeline", clock::now());
        let attempted = format!("create {} {:?}", kind.kind, text(&body, &["metadata", "name"]));
        self.api
            .write(|store| store.create(kind, namespace, body, &by))
            .map(|_| ())
            .map_err(refused(attempted))
    }
}
