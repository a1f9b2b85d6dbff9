//! What is written beside an object: the scale of a Deployment, the eviction of a pod. A scale is a view of its Deployment,
//! with the same version; an eviction deletes the pod where every disruption budget of it allows that.

use std::sync::Arc;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Api, Failure, Key, Store, Writer,
    kinds::{BUDGETS, PODS, at, text},
};

/// The scale of a Deployment, as autoscaling/v1 writes it: no replicas where there are none.
pub(super) fn scale(deployment: &Value) -> Value {
    let metadata = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), at(deployment, &["metadata"]).get(key)?.clone())))
        .collect();
    let labels = at(deployment, &["spec", "selector", "matchLabels"]).as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let replicas = at(deployment, &["spec", "replicas"]).as_u64().unwrap_or(1);
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": Value::Object(metadata),
        "spec": if replicas == 0 { json!({}) } else { json!({ "replicas": replicas }) },
        "status": { "replicas": at(deployment, &["status", "replicas"]).as_u64().unwrap_or(0), "selector": selector.join(",") },
    })
}

/// Replaces the scale of a Deployment, whose replicas follow.
pub(super) fn rescale(store: &mut Store, key: &Key, by: &Writer, wanted: &Value) -> Result<Value, Failure> {
    let present = store.get(key)?;
    let differs = |field: &str| {
        let asked = at(wanted, &["metadata", field]);
        !asked.is_null() && asked != at(&present, &["metadata", field])
    };
    if differs("resourceVersion") || differs("uid") {
        return Err(Failure::conflict(key.kind.plural, &key.name));
    }
    let replicas = match at(wanted, &["spec", "replicas"]) {
        Value::Null => 0,
        number => number
            .as_u64()
            .ok_or_else(|| Failure::invalid("spec.replicas: Invalid value: must be greater than or equal to 0"))?,
    };
    let scaled = store.edit(key, by, |deployment| {
        deployment["spec"]["replicas"] = json!(replicas);
        Ok(())
    })?;
    Ok(scale(&scaled))
}

/// Evicts a pod, unless the body names another one's uid or a budget forbids it.
pub(super) fn evict(api: &Api, key: &Key, body: &Value, by: &Writer) -> Result<Response, Failure> {
    api.write(|store| {
        let pod = store.get(key)?;
        let uid = text(body, &["deleteOptions", "preconditions", "uid"]);
        if !uid.is_empty() && uid != text(&pod, &["metadata", "uid"]) {
            return Err(Failure::conflict(PODS.plural, &key.name));
        }
        let budgets: Vec<Arc<Value>> = store.all(&BUDGETS).filter(|budget| protects(budget, &pod)).cloned().collect();
        for budget in &budgets {
            if allowed(budget) == 0 {
                return Err(Failure::protected(text(budget, &["metadata", "name"])));
            }
        }
        for budget in budgets.iter().filter(|_| !by.dry_run) {
            let left = allowed(budget) - 1;
            let key = Key {
                kind: &BUDGETS,
                namespace: key.namespace.clone(),
                name: text(budget, &["metadata", "name"]).to_owned(),
            };
            store.edit(&key, by, |budget| {
                budget["status"]["disruptionsAllowed"] = json!(left);
                Ok(())
            })?;
        }
        store.delete(key, by.dry_run)
    })?;
    let done = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok((StatusCode::CREATED, Json(done)).into_response())
}

/// What a budget allows to go; nothing before its controller has looked at it.
fn allowed(budget: &Value) -> u64 {
    let seen = at(budget, &["status", "observedGeneration"]) == at(budget, &["metadata", "generation"]);
    at(budget, &["status", "disruptionsAllowed"])
        .as_u64()
        .filter(|_| seen)
        .unwrap_or_default()
}

/// Whether a budget is about a pod: its labels, by equality alone.
pub(crate) fn protects(budget: &Value, pod: &Value) -> bool {
    let here = text(budget, &["metadata", "namespace"]) == text(pod, &["metadata", "namespace"]);
    let labels = at(budget, &["spec", "selector", "matchLabels"]).as_object();
    here && labels.is_some_and(|labels| labels.iter().all(|(key, value)| at(pod, &["metadata", "labels", key]) == value))
}
