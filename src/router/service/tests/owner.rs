use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::{
    model::{Owner, Tool},
    router::service::owner::owner,
};

/// Who owns a Service with these labels, annotations and field managers; a manager with `!` writes our ledger.
fn of(labels: Value, annotations: Value, managers: &[&str]) -> Option<Owner> {
    let entry = |manager: &&str| {
        let fields = if manager.ends_with('!') {
            json!({"f:metadata": {"f:annotations": {"f:flipback.dev/ledger": {}}}})
        } else {
            json!({"f:spec": {"f:selector": {}}})
        };
        json!({"manager": manager.trim_end_matches('!'), "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields})
    };
    let managers: Vec<Value> = managers.iter().map(entry).collect();
    let object = json!({"metadata": {"name": "web", "labels": labels, "annotations": annotations, "managedFields": managers}});
    let service: Service = serde_json::from_value(object).expect("a Service");
    owner(&service, "color")
}

fn is(tool: Tool, name: Option<&str>, namespace: Option<&str>) -> Option<Owner> {
    Some(Owner::new(tool, name, namespace))
}

#[test]
fn argo_cd_is_known_by_its_tracking_its_label_and_its_writes() {
    let tracking = |id: &str| of(json!({}), json!({"argocd.argoproj.io/tracking-id": id}), &[]);
    assert_eq!(tracking("shop:/Service:shop/web"), is(Tool::ArgoCd, Some("shop"), None));
    assert_eq!(
        tracking("team-a_shop:/Service:shop/web"),
        is(Tool::ArgoCd, Some("shop"), Some("team-a"))
    );
    let own = of(json!({"argocd.argoproj.io/instance": "shop"}), json!({}), &[]);
    assert_eq!(own, is(Tool::ArgoCd, Some("shop"), None));
    let instance = json!({"app.kubernetes.io/instance": "shop"});
    assert_eq!(
        of(instance.clone(), json!({}), &["flipback", "argocd-controller"]),
        is(Tool::ArgoCd, Some("shop"), None)
    );
    assert_eq!(
        of(instance, json!({}), &["flipback", "kubectl-patch"]),
        None,
        "many charts set that label"
    );
    assert_eq!(
        of(json!({}), json!({}), &["argocd-application-controller"]),
        is(Tool::ArgoCd, None, None)
    );
}

#[test]
fn flux_is_known_by_its_labels_and_goes_before_helm() {
    let kustomization = json!({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
    assert_eq!(
        of(kustomization, json!({}), &[]),
        is(Tool::FluxKustomization, Some("apps"), Some("flux-system"))
    );
    let labels =
        json!({"helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "shop", "app.kubernetes.io/managed-by": "Helm"});
    let release = json!({"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "shop"});
    assert_eq!(
        of(labels, release, &["helm-controller"]),
        is(Tool::FluxHelmRelease, Some("shop"), Some("shop"))
    );
    assert_eq!(
        of(json!({}), json!({}), &["kustomize-controller"]),
        is(Tool::FluxKustomization, None, None)
    );
}

#[test]
fn helm_and_others_are_known_by_what_they_write_down() {
    let labels = json!({"app.kubernetes.io/managed-by": "Helm"});
    let release = json!({"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"});
    assert_eq!(
        of(labels.clone(), release.clone(), &["helm"]),
        is(Tool::Helm, Some("web"), Some("shop"))
    );
    assert_eq!(of(labels.clone(), json!({}), &[]), is(Tool::Helm, None, None));
    // Argo CD renders charts: their marks are on what it owns.
    let tracked = json!({"meta.helm.sh/release-name": "web", "argocd.argoproj.io/tracking-id": "shop:/Service:shop/web"});
    assert_eq!(of(labels, tracked, &[]), is(Tool::ArgoCd, Some("shop"), None));
    let other = of(json!({"app.kubernetes.io/managed-by": "kapp"}), json!({}), &[]);
    assert_eq!(other, is(Tool::Other("kapp".into()), None, None));
}

#[test]
fn a_person_owns_nothing() {
    assert_eq!(
        of(json!({}), json!({}), &["kubectl-client-side-apply", "flipback!", "kubectl-patch"]),
        None
    );
    assert_eq!(of(json!({"app.kubernetes.io/managed-by": "kubectl"}), json!({}), &[]), None);
    assert_eq!(of(json!({"app.kubernetes.io/instance": ""}), json!({}), &[]), None);
}

#[test]
fn kubectl_apply_owns_what_it_would_set_again() {
    let applied = |manifest: &str| {
        let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": manifest});
        of(json!({}), annotations, &["kubectl-client-side-apply", "flipback"])
    };
    let named = r#"{"kind":"Service","spec":{"selector":{"app":"web","color":"blue"}}}"#;
    assert_eq!(applied(named), is(Tool::KubectlApply { server_side: false }, None, None));
    for other in [
        r#"{"kind":"Service","spec":{"selector":{"app":"web"}}}"#,
        r#"{"kind":"Service"}"#,
        "no JSON",
        "",
    ] {
        assert_eq!(applied(other), None, "{other:?} says nothing of the color");
    }
    // What renders for itself goes before: Argo CD applies as kubectl does.
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": named, "argocd.argoproj.io/tracking-id": "shop:x"});
    assert_eq!(of(json!({}), annotations, &[]), is(Tool::ArgoCd, Some("shop"), None));
}

#[test]
fn kubectl_apply_on_the_server_side_owns_the_selector_until_somebody_else_changes_it() {
    let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "fieldsV1": fields});
    let with = |entry: Value| {
        let service = json!({"metadata": {"name": "web", "managedFields": [entry]}});
        owner(&serde_json::from_value(service).expect("a Service"), "color")
    };
    let selector = json!({"f:spec": {"f:selector": {}}});
    let ours = is(Tool::KubectlApply { server_side: true }, None, None);
    assert_eq!(with(entry("kubectl", "Apply", selector.clone())), ours);
    assert_eq!(with(entry("kubectl", "Apply", json!({"f:spec": {"f:ports": {}}}))), None);
    assert_eq!(with(entry("kubectl", "Update", selector)), None, "an older kubectl's patch");
}

#[test]
fn a_copy_of_the_ledger_in_somebodys_manifest_is_seen() {
    let copied = of(json!({}), json!({}), &["flipback!", "kubectl-client-side-apply!"]).expect("an owner");
    assert!(copied.holds_ledger);
    assert_eq!(copied.to_string(), "field manager kubectl-client-side-apply");
    let argo = of(
        json!({}),
        json!({"argocd.argoproj.io/tracking-id": "shop:x"}),
        &["argocd-controller!"],
    )
    .expect("an owner");
    assert!(argo.holds_ledger && argo.tool == Tool::ArgoCd);
}
