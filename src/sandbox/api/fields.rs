//! `metadata.managedFields`: who last wrote what, and when.
//!
//! A small form of the real bookkeeping: labels, annotations and the spec are tracked down to their leaves; lists and a
//! Service's selector are one leaf each, as the real schema declares the selector atomic. The status is not tracked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::kinds::{Kind, at, text};

type Path = Vec<String>;

/// Moves the leaves that differ between `before` and `after` to `manager`, in `after`.
pub(super) fn claim(kind: &Kind, before: Option<&Value>, after: &mut Value, manager: &str, stamp: &str) {
    let old = before.map(|object| leaves(kind, object)).unwrap_or_default();
    let new = leaves(kind, after);
    let changed: BTreeSet<Path> = new
        .iter()
        .filter(|(path, value)| old.get(*path) != Some(value))
        .map(|(path, _)| path.clone())
        .collect();
    let mut owners: BTreeMap<String, (String, BTreeSet<Path>)> = before.map(owners).unwrap_or_default();
    for (_, paths) in owners.values_mut() {
        paths.retain(|path| new.contains_key(path) && !changed.contains(path));
    }
    if !changed.is_empty() {
        let (time, paths) = owners.entry(manager.to_owned()).or_default();
        stamp.clone_into(time);
        paths.extend(changed);
    }
    let entries: Vec<Value> = owners
        .into_iter()
        .filter(|(_, (_, paths))| !paths.is_empty())
        .map(|(manager, (time, paths))| {
            json!({
                "manager": manager,
                "operation": "Update",
                "apiVersion": kind.api_version(),
                "time": time,
                "fieldsType": "FieldsV1",
                "fieldsV1": tree(&paths),
            })
        })
        .collect();
    if let Some(metadata) = after.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

/// The tracked leaves of an object.
fn leaves(kind: &Kind, object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    for tracked in [&["metadata", "labels"][..], &["metadata", "annotations"], &["spec"], &["data"]] {
        let value = at(object, tracked);
        if !value.is_null() {
            let path = tracked.iter().map(|key| (*key).to_owned()).collect();
            descend(kind, path, value, &mut found);
        }
    }
    found
}

fn descend(kind: &Kind, path: Path, value: &Value, found: &mut BTreeMap<Path, Value>) {
    let atomic = path == ["spec", "selector"] && kind.kind != "ReplicaSet";
    match value.as_object() {
        Some(map) if !atomic && !map.is_empty() => {
            for (key, inner) in map {
                let mut longer = path.clone();
                longer.push(key.clone());
                descend(kind, longer, inner, found);
            }
        }
        _ => {
            found.insert(path, value.clone());
        }
    }
}

/// Reads the entries of an object.
fn owners(object: &Value) -> BTreeMap<String, (String, BTreeSet<Path>)> {
    let entries = at(object, &["metadata", "managedFields"]).as_array();
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let mut paths = BTreeSet::new();
            unfold(at(entry, &["fieldsV1"]), &mut Vec::new(), &mut paths);
            (text(entry, &["manager"]).to_owned(), (text(entry, &["time"]).to_owned(), paths))
        })
        .collect()
}

fn unfold(fields: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    for (key, inner) in fields.as_object().into_iter().flatten() {
        let Some(name) = key.strip_prefix("f:") else { continue };
        path.push(name.to_owned());
        if inner.as_object().is_none_or(Map::is_empty) {
            found.insert(path.clone());
        } else {
            unfold(inner, path, found);
        }
        path.pop();
    }
}

fn tree(paths: &BTreeSet<Path>) -> Value {
    let mut root = Map::new();
    for path in paths {
        let mut level = &mut root;
        for name in path {
            let next = level.entry(format!("f:{name}")).or_insert_with(|| Value::Object(Map::new()));
            let Some(map) = next.as_object_mut() else { break };
            level = map;
        }
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::api::kinds::SERVICES;

    #[test]
    fn a_changed_selector_moves_to_the_one_who_changed_it() {
        let mut first =
            json!({ "metadata": { "name": "web" }, "spec": { "type": "ClusterIP", "selector": { "app": "web", "color": "blue" } } });
        claim(&SERVICES, None, &mut first, "deployer", "2026-01-01T00:00:00Z");
        let mut second = first.clone();
        second["spec"]["selector"]["color"] = json!("green");
        claim(&SERVICES, Some(&first), &mut second, "flipback", "2026-01-01T00:00:09Z");
        let entries = second["metadata"]["managedFields"].as_array().expect("a list");
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0]["manager"], "deployer");
        assert_eq!(entries[0]["fieldsV1"], json!({ "f:spec": { "f:type": {} } }));
        assert_eq!(entries[0]["time"], "2026-01-01T00:00:00Z");
        assert_eq!(entries[1]["manager"], "flipback");
        assert_eq!(entries[1]["fieldsV1"], json!({ "f:spec": { "f:selector": {} } }));
        assert_eq!(entries[1]["time"], "2026-01-01T00:00:09Z");
    }
}
