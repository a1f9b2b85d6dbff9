//! Who else writes the Service: read from what GitOps tools leave on what they own. Pure.
//!
//! Labels and annotations name the Application, the Kustomization, the release; where a tool leaves none (Argo CD can be told to
//! track otherwise), the field managers still tell of it. A tool that renders Helm charts leaves Helm's marks as well: it is
//! looked for first. `kubectl apply` is an owner where what it applied names the color: whoever applies that again, a person or a
//! pipeline, moves traffic. What was applied otherwise, or says nothing of the color, leaves a flip alone.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry};

use super::MANAGER;
use crate::model::{Owner, Tool, ledger::LEDGER_ANNOTATION};

/// The manifest that `kubectl apply` applied last, as JSON, as long as a Service.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who applies the Service again and again, the selector's `key` with it; `None`: nothing on it tells of anybody.
pub(super) fn owner(service: &Service, key: &str) -> Option<Owner> {
    let marks = Marks::of(service);
    let holder = marks.holder(LEDGER_ANNOTATION);
    let owner = marks
        .argo()
        .or_else(|| marks.flux())
        .or_else(|| marks.helm())
        .or_else(|| marks.other())
        .or_else(|| marks.kubectl(key))
        .or_else(|| Some(Owner::new(Tool::Other(format!("field manager {}", holder?)), None, None)))?;
    Some(Owner {
        holds_ledger: holder.is_some(),
        ..owner
    })
}

/// What is written on the Service, and by whom.
struct Marks<'a> {
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    managers: Vec<(&'a str, Option<&'a serde_json::Value>)>,
    /// Those of them that applied server-side.
    appliers: Vec<(&'a str, Option<&'a serde_json::Value>)>,
}

static NOTHING: BTreeMap<String, String> = BTreeMap::new();

impl<'a> Marks<'a> {
    fn of(service: &'a Service) -> Self {
        let entries = || service.metadata.managed_fields.iter().flatten();
        let of = |entry: &'a ManagedFieldsEntry| Some((entry.manager.as_deref()?, entry.fields_v1.as_ref().map(|fields| &fields.0)));
        Self {
            labels: service.metadata.labels.as_ref().unwrap_or(&NOTHING),
            annotations: service.metadata.annotations.as_ref().unwrap_or(&NOTHING),
            managers: entries().filter_map(of).collect(),
            appliers: entries()
                .filter(|entry| entry.operation.as_deref() == Some("Apply"))
                .filter_map(of)
                .collect(),
        }
    }

    fn label(&self, key: &str) -> Option<&'a str> {
        self.labels.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn managed_by(&self, beginning: &str) -> bool {
        self.managers.iter().any(|(manager, _)| manager.starts_with(beginning))
    }

    /// The field manager, other than us, that writes an annotation.
    fn holder(&self, annotation: &str) -> Option<&'a str> {
        let field = format!("f:{annotation}");
        let writes = |fields: Option<&serde_json::Value>| {
            let annotations = fields
                .and_then(|fields| fields.get("f:metadata"))
                .and_then(|meta| meta.get("f:annotations"));
            annotations.is_some_and(|annotations| annotations.get(&field).is_some())
        };
        let others = self.managers.iter().filter(|(manager, _)| *manager != MANAGER);
        others.filter(|(_, fields)| writes(*fields)).map(|(manager, _)| *manager).next()
    }

    /// `argocd.argoproj.io/tracking-id: <application>:<group>/<kind>:<namespace>/<name>`; the Application of another namespace than
    /// Argo CD's own is `<namespace>_<application>`.
    fn argo(&self) -> Option<Owner> {
        let tracked = self
            .annotation("argocd.argoproj.io/tracking-id")
            .and_then(|id| id.split(':').next());
        let managed = self.managed_by("argocd");
        let instance = self.label("app.kubernetes.io/instance").filter(|_| managed);
        let application = tracked.or_else(|| self.label("argocd.argoproj.io/instance")).or(instance);
        if application.is_none() && !managed {
            return None;
        }
        let parts = application.and_then(|application| application.split_once('_'));
        let (namespace, name) = parts.map_or((None, application), |(namespace, name)| (Some(namespace), Some(name)));
        Some(Owner::new(Tool::ArgoCd, name, namespace))
    }

    fn flux(&self) -> Option<Owner> {
        let of = |tool: Tool, group: &str, manager: &str| {
            let name = self.label(&format!("{group}/name"));
            let namespace = self.label(&format!("{group}/namespace"));
            (name.is_some() || self.managed_by(manager)).then(|| Owner::new(tool, name, namespace))
        };
        of(Tool::FluxHelmRelease, "helm.toolkit.fluxcd.io", "helm-controller")
            .or_else(|| of(Tool::FluxKustomization, "kustomize.toolkit.fluxcd.io", "kustomize-controller"))
    }

    fn helm(&self) -> Option<Owner> {
        let release = self.annotation("meta.helm.sh/release-name");
        let says = self.label("app.kubernetes.io/managed-by") == Some("Helm");
        let namespace = self.annotation("meta.helm.sh/release-namespace");
        (release.is_some() || says).then(|| Owner::new(Tool::Helm, release, namespace))
    }

    fn other(&self) -> Option<Owner> {
        let tool = self.label("app.kubernetes.io/managed-by")?;
        let people = tool.eq_ignore_ascii_case("kubectl") || tool == MANAGER;
        (!people).then(|| Owner::new(Tool::Other(tool.to_owned()), None, None))
    }

    /// What `kubectl apply` would set again.
    fn kubectl(&self, key: &str) -> Option<Owner> {
        let owns = |fields: Option<&serde_json::Value>| fields.is_some_and(|fields| fields.pointer("/f:spec/f:selector").is_some());
        let server_side = self.appliers.iter().any(|(manager, fields)| *manager == "kubectl" && owns(*fields));
        let named = || {
            let applied: serde_json::Value = serde_json::from_str(self.annotation(LAST_APPLIED)?).ok()?;
            applied.get("spec")?.get("selector")?.get(key).map(drop)
        };
        (server_side || named().is_some()).then(|| Owner::new(Tool::KubectlApply { server_side }, None, None))
    }
}
