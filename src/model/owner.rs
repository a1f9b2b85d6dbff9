//! Who else writes the guarded object, and what makes them leave a flip alone.
//!
//! A flip that a GitOps tool undoes seconds later helps nobody, and an outage is the wrong moment to find out. What a tool leaves on
//! the objects that it owns tells its name; from that follows the exact piece of its configuration that has to be there.
//! Words and snippets only: nothing here reads or writes a cluster.

use std::fmt;

use super::{Reassert, ServiceRoute, ledger::LEDGER_ANNOTATION};

/// Who applies the guarded object again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The tool.
    pub tool: Tool,
    /// What of it owns the object: an Application, a Kustomization, a release; `None` where only its writes tell of it.
    pub name: Option<String>,
    /// Where that lives, as far as the object tells.
    pub namespace: Option<String>,
    /// It also writes the annotation that holds the ledger: a copy of it is in its manifest.
    pub holds_ledger: bool,
}

/// A tool that applies manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tool {
    /// An Application of Argo CD.
    ArgoCd,
    /// A Kustomization of Flux.
    FluxKustomization,
    /// A HelmRelease of Flux.
    FluxHelmRelease,
    /// Helm by itself, from a pipeline or a person's machine.
    Helm,
    /// `kubectl apply`, from a pipeline or a person's machine.
    KubectlApply {
        /// `--server-side`: the API server knows what it owns, and refuses to take what is another's by now.
        server_side: bool,
    },
    /// Another one, as the object names it.
    Other(String),
}

/// What an owner does to a flip, and what keeps it from that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What happens to a flip as it is: one sentence.
    pub happens: String,
    /// What to do about it: one sentence.
    pub todo: String,
    /// What to write where; `None`: there is no one such place.
    pub snippet: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => format!(" {namespace}/{name}"),
            (_, Some(name)) => format!(" {name}"),
            (_, None) => String::new(),
        };
        match &self.tool {
            Tool::ArgoCd if self.name.is_some() => write!(f, "Argo CD's Application{name}"),
            Tool::ArgoCd => f.write_str("Argo CD"),
            Tool::FluxKustomization if self.name.is_some() => write!(f, "Flux' Kustomization{name}"),
            Tool::FluxHelmRelease if self.name.is_some() => write!(f, "Flux' HelmRelease{name}"),
            Tool::FluxKustomization => f.write_str("Flux (kustomize-controller)"),
            Tool::FluxHelmRelease => f.write_str("Flux (helm-controller)"),
            Tool::Helm if self.name.is_some() => write!(f, "the Helm release{name}"),
            Tool::Helm => f.write_str("Helm"),
            Tool::KubectlApply { server_side: false } => f.write_str("kubectl apply"),
            Tool::KubectlApply { server_side: true } => f.write_str("kubectl apply --server-side"),
            Tool::Other(tool) => write!(f, "{tool}{name}"),
        }
    }
}

impl Owner {
    /// An owner that its own writes or labels tell of.
    #[must_use]
    pub fn new(tool: Tool, name: Option<&str>, namespace: Option<&str>) -> Self {
        let owned = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        Self {
            tool,
            name: owned(name),
            namespace: owned(namespace),
            holds_ledger: false,
        }
    }

    /// Whether a rollback that it undid would be made again; what is in people's hands never is.
    #[must_use]
    pub fn is_answered(&self, reassert: &Reassert) -> bool {
        let managers: &[&str] = match &self.tool {
            Tool::ArgoCd => &["argocd-controller", "argocd-application-controller"],
            Tool::FluxKustomization => &["kustomize-controller"],
            Tool::FluxHelmRelease => &["helm-controller"],
            Tool::Helm | Tool::KubectlApply { .. } => &[],
            Tool::Other(tool) => &[tool],
        };
        reassert.times > 0 && managers.iter().any(|manager| reassert.covers(manager))
    }

    /// What it does to a flip of `route` in `namespace`, and what keeps it from that.
    #[must_use]
    pub fn advice(&self, route: &ServiceRoute, namespace: &str) -> Advice {
        let services: Vec<&str> = std::iter::once(&route.active).chain(&route.preview).map(String::as_str).collect();
        let pointer = format!("/spec/selector/{}", escaped(&route.selector_key));
        match &self.tool {
            Tool::ArgoCd => Advice {
                happens: "with selfHeal it moves traffic back at once, then after 2, 6, 18 s and so on; without, at the next sync"
                    .to_owned(),
                todo: "put this into the Application".to_owned(),
                snippet: Some(argo(&services, namespace, &pointer)),
            },
            Tool::FluxKustomization => Advice {
                happens: "it moves traffic back within its interval".to_owned(),
                todo: "put one of these two into Git".to_owned(),
                snippet: Some(kustomization(&services)),
            },
            Tool::FluxHelmRelease => Advice {
                happens: "it moves traffic back within its interval where driftDetection.mode is enabled, and with every upgrade"
                    .to_owned(),
                todo: "put this into the HelmRelease, and let the chart keep the live color on an upgrade".to_owned(),
                snippet: Some(format!(
                    "{}{}",
                    helm_release(&services, &pointer),
                    charts(&services, &route.selector_key)
                )),
            },
            Tool::Helm => Advice {
                happens: "nothing undoes it by itself, but the next helm upgrade or helm rollback does, since it merges with what is live"
                    .to_owned(),
                todo: "let the chart keep the live color".to_owned(),
                snippet: Some(charts(&services, &route.selector_key)),
            },
            Tool::KubectlApply { server_side: false } => Advice {
                happens: "whenever its manifest is applied again, it moves traffic to the color that stands there".to_owned(),
                todo: "let the manifest say nothing of the color".to_owned(),
                snippet: Some(manifest(&services, namespace, &route.selector_key)),
            },
            Tool::KubectlApply { server_side: true } => Advice {
                happens:
                    "after a flip it is refused, since the selector is flipback's by then, and with --force-conflicts it moves traffic back"
                        .to_owned(),
                todo: "let the manifest say nothing of the selector".to_owned(),
                snippet: Some(server_side(&services, namespace)),
            },
            Tool::Other(tool) => Advice {
                happens: format!("whenever {tool} applies its manifest, it moves traffic back"),
                todo: format!("let {tool} leave {pointer} of Service {} alone", services.join(" and ")),
                snippet: None,
            },
        }
    }

    /// What follows for our own annotation: one sentence.
    #[must_use]
    pub fn of_the_ledger(&self) -> String {
        if self.holds_ledger {
            format!(
                "{self} writes the annotation {LEDGER_ANNOTATION} too, so a copy of it is in its manifest: take it out, else an old ledger comes back and \
                 what was rolled back from is forgotten"
            )
        } else {
            format!(
                "The annotation {LEDGER_ANNOTATION} belongs to field manager flipback: an apply leaves it alone, and only replacing the object \
                 (kubectl replace, Replace=true, deleting it) loses it"
            )
        }
    }
}

/// A key as a token of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn argo(services: &[&str], namespace: &str, pointer: &str) -> String {
    let mut text = "spec:\n  ignoreDifferences:\n".to_owned();
    for service in services {
        text.push_str(&format!(
            "    - kind: Service\n      name: {service}\n      namespace: {namespace}\n      jsonPointers:\n        - {pointer}\n"
        ));
    }
    text.push_str("  syncPolicy:\n    syncOptions:\n      - RespectIgnoreDifferences=true\n");
    text
}

/// A selector is applied as one: what is left alone is all of it, lest the other keys be applied without this one.
fn kustomization(services: &[&str]) -> String {
    let mut text = "# the Kustomization, where `kubectl explain kustomization.spec.ignore` knows it\nspec:\n  ignore:\n".to_owned();
    for service in services {
        text.push_str(&format!(
            "    - paths: [\"/spec/selector\"]\n      target:\n        kind: Service\n        name: {service}\n"
        ));
    }
    text.push_str(&format!(
        "# or, with any Flux, the Service's own manifest ({}): created once, then left alone as a whole\n\
         metadata:\n  annotations:\n    kustomize.toolkit.fluxcd.io/ssa: IfNotPresent\n",
        services.join(", ")
    ));
    text
}

fn helm_release(services: &[&str], pointer: &str) -> String {
    let mut text = "spec:\n  driftDetection:\n    ignore:\n".to_owned();
    for service in services {
        text.push_str(&format!(
            "      - paths: [\"{pointer}\"]\n        target:\n          kind: Service\n          name: {service}\n"
        ));
    }
    text
}

/// Both Services' templates: a preview that an upgrade puts back would lead to the color that is live.
fn charts(services: &[&str], key: &str) -> String {
    services.iter().map(|service| chart(service, key)).collect()
}

fn chart(service: &str, key: &str) -> String {
    format!(
        "# the chart's template of Service {service}; .Values.color stands for the value that the chart has there today\n\
         {{{{- $live := lookup \"v1\" \"Service\" .Release.Namespace \"{service}\" }}}}\n\
         spec:\n  selector:\n    {key}: {{{{ dig \"spec\" \"selector\" \"{key}\" .Values.color (default dict $live) }}}}\n"
    )
}

/// `kubectl apply` takes away what it applied the last time and finds no more, so that it has to forget the color first.
fn manifest(services: &[&str], namespace: &str, key: &str) -> String {
    let mut text = format!(
        "# 1. in the manifest, take {key} out of spec.selector of Service {}\n",
        services.join(" and ")
    );
    text.push_str(
        "# 2. before it is applied again, and once: have kubectl forget that it ever set it, else it would take it away\n#    \
         (service.yaml is that manifest; nothing but an annotation is changed)\n",
    );
    text.push_str(&format!(
        "kubectl -n {namespace} apply set-last-applied --create-annotation -f service.yaml\n"
    ));
    text
}

/// Who alone owns a field takes it along when letting go of it; so another owner is noted first.
fn server_side(services: &[&str], namespace: &str) -> String {
    let mut text =
        "# 1. once, and first: note another owner of the selector, so that it stays when the manifest lets go of it\n".to_owned();
    for service in services {
        let as_yaml = format!(
            r#"{{"apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec: {{selector: "}}{{.spec.selector}}{{"}}\n"}}"#
        );
        text.push_str(&format!(
            "kubectl -n {namespace} get service {service} -o jsonpath='{as_yaml}' |\n  \
             kubectl -n {namespace} apply --server-side --field-manager=live-color -f -\n"
        ));
    }
    text.push_str("# 2. then take spec.selector out of the manifest\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(preview: bool) -> ServiceRoute {
        ServiceRoute {
            active: "shop-active".into(),
            preview: preview.then(|| "shop-preview".into()),
            selector_key: "app.io/color".into(),
        }
    }

    fn said(owner: &Owner, preview: bool) -> String {
        let Advice { happens, todo, snippet } = owner.advice(&route(preview), "shop");
        let snippet = snippet.unwrap_or_default();
        format!("{owner}\n{happens}\n{todo}\n{snippet}\n{}\n", owner.of_the_ledger())
    }

    #[test]
    fn every_tool_is_named_with_what_makes_it_tolerate_a_flip() {
        let mut holding = Owner::new(Tool::Other("kapp".into()), Some("shop"), None);
        holding.holds_ledger = true;
        let all = [
            said(&Owner::new(Tool::ArgoCd, Some("shop"), Some("argocd")), true),
            said(&Owner::new(Tool::FluxKustomization, Some("apps"), Some("flux-system")), true),
            said(&Owner::new(Tool::FluxHelmRelease, Some("shop"), Some("shop")), false),
            said(&Owner::new(Tool::Helm, Some("shop"), None), true),
            said(&Owner::new(Tool::KubectlApply { server_side: false }, None, None), true),
            said(&Owner::new(Tool::KubectlApply { server_side: true }, None, None), false),
            said(&holding, true),
        ];
        insta::assert_snapshot!(all.join("---\n"));
    }

    #[test]
    fn a_tool_without_a_name_is_named_all_the_same() {
        let bare = |tool| Owner::new(tool, None, None).to_string();
        assert_eq!(bare(Tool::ArgoCd), "Argo CD");
        assert_eq!(bare(Tool::FluxKustomization), "Flux (kustomize-controller)");
        assert_eq!(bare(Tool::FluxHelmRelease), "Flux (helm-controller)");
        assert_eq!(bare(Tool::Helm), "Helm");
    }

    #[test]
    fn only_controllers_that_are_listed_are_answered() {
        let twice = Reassert {
            times: 2,
            ..Reassert::default()
        };
        let answered = |tool, reassert: &Reassert| Owner::new(tool, None, None).is_answered(reassert);
        for controller in [Tool::ArgoCd, Tool::FluxKustomization, Tool::FluxHelmRelease] {
            assert!(answered(controller.clone(), &twice), "{controller:?}");
            assert!(
                !answered(controller.clone(), &Reassert::default()),
                "{controller:?}: off by default"
            );
        }
        let everybody = Reassert {
            managers: vec!["*".into()],
            ..twice.clone()
        };
        let kubectl = |server_side| Tool::KubectlApply { server_side };
        for person in [Tool::Helm, kubectl(false), kubectl(true)] {
            assert!(!answered(person.clone(), &everybody), "{person:?} is in somebody's hand");
        }
        assert!(answered(Tool::Other("kapp".into()), &everybody) && !answered(Tool::Other("kapp".into()), &twice));
    }

    #[test]
    fn a_key_is_escaped_once() {
        assert_eq!(escaped("a/b~c~1"), "a~1b~0c~01");
    }
}
