//! `metadata.managedFields`: who last wrote what, and when.
//!
//! A small form of the real bookkeeping: labels, annotations and the spec are tracked down to their leaves; lists and a
//! Service's selector are one leaf each, as the real schema declares the selector atomic. The status is not tracked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::kinds::{Kind, at, text};

type Path = Vec<String>;

/// What is tracked.
const TRACKED: [&[&str]; 4] = [&["metadata", "labels"], &["metadata", "annotations"], &["spec"], &["data"]];

/// Moves the leaves that differ between `before` and `after` to `manager`, in `after`.
pub(super) fn claim(kind: &Kind, before: Option<&Value>, after: &mut Value, manager: &str, stamp: &str) {
    if before.is_some_and(|before| is_renewal(kind, before, after, manager, stamp)) {
        return;
    }
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

/// Whether no leaf came, went or changes hands, which is nearly always so: the entries stay, but for the time of whoever writes.
fn is_renewal(kind: &Kind, before: &Value, after: &mut Value, manager: &str, stamp: &str) -> bool {
    let mut changed = Vec::new();
    let alike = TRACKED.iter().all(|tracked| {
        let mut path: Vec<&str> = tracked.to_vec();
        has_same_leaves(kind, &mut path, at(before, tracked), at(after, tracked), &mut changed)
    });
    if !alike || at(before, &["metadata", "managedFields"]) != at(after, &["metadata", "managedFields"]) {
        return false;
    }
    if changed.is_empty() {
        return true;
    }
    let owns = |entry: &Value, path: &[String]| {
        let mut fields = at(entry, &["fieldsV1"]);
        path.iter().all(|name| match fields.get(format!("f:{name}")) {
            Some(inner) => {
                fields = inner;
                true
            }
            None => false,
        })
    };
    let entries = after.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
    let own = entries
        .into_iter()
        .flatten()
        .find(|entry| text(entry, &["manager"]) == manager && changed.iter().all(|path| owns(entry, path)));
    let Some(own) = own else { return false };
    own["time"] = json!(stamp);
    true
}

/// Whether two values have the same leaves; notes those of another content.
fn has_same_leaves<'a>(kind: &Kind, path: &mut Vec<&'a str>, old: &Value, new: &'a Value, changed: &mut Vec<Path>) -> bool {
    if old == new {
        return true;
    }
    match (branches(kind, path.as_slice(), old), branches(kind, path.as_slice(), new)) {
        (Some(old), Some(new)) => {
            old.len() == new.len()
                && new.iter().all(|(key, new)| {
                    let Some(old) = old.get(key) else { return false };
                    path.push(key);
                    let same = has_same_leaves(kind, path, old, new, changed);
                    path.pop();
                    same
                })
        }
        (None, None) => {
            changed.push(path.iter().map(|name| (*name).to_owned()).collect());
            !old.is_null() && !new.is_null()
        }
        _ => false,
    }
}

/// What a value is made of, unless it is one leaf.
fn branches<'a>(kind: &Kind, path: &[impl AsRef<str>], value: &'a Value) -> Option<&'a Map<String, Value>> {
    let atomic = kind.kind != "ReplicaSet" && path.iter().map(AsRef::as_ref).eq(["spec", "selector"]);
    value.as_object().filter(|map| !atomic && !map.is_empty())
}

/// The tracked leaves of an object.
fn leaves(kind: &Kind, object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    for tracked in TRACKED {
        let value = at(object, tracked);
        if !value.is_null() {
            let path = tracked.iter().map(|key| (*key).to_owned()).collect();
            descend(kind, path, value, &mut found);
        }
    }
    found
}

fn descend(kind: &Kind, path: Path, value: &Value, found: &mut BTreeMap<Path, Value>) {
    match branches(kind, path.as_slice(), value) {
        Some(map) => {
            for (key, inner) in map {
                let mut longer = path.clone();
                longer.push(key.clone());
                descend(kind, longer, inner, found);
            }
        }
        None => {
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

    type Change = fn(&mut Value);

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

    /// The short way comes to the same as the long one, and is gone where nothing but contents changed.
    #[test]
    fn whoever_writes_what_is_its_own_renews_the_time_and_nothing_else() {
        let mut first =
            json!({ "metadata": { "name": "web", "labels": { "app": "web" } }, "spec": { "type": "ClusterIP", "ports": [80] } });
        claim(&SERVICES, None, &mut first, "deployer", "2026-01-01T00:00:00Z");
        let write = |manager: &str, edit: fn(&mut Value)| {
            let mut after = first.clone();
            edit(&mut after);
            let renewed = is_renewal(&SERVICES, &first, &mut after.clone(), manager, "2026-01-01T00:00:09Z");
            claim(&SERVICES, Some(&first), &mut after, manager, "2026-01-01T00:00:09Z");
            (renewed, after["metadata"]["managedFields"].clone())
        };
        let same = first["metadata"]["managedFields"].clone();
        let mut later = same.clone();
        later[0]["time"] = json!("2026-01-01T00:00:09Z");
        assert_eq!(write("kubelet", |object| object["status"] = json!({ "ready": true })), (true, same));
        assert_eq!(write("deployer", |object| object["spec"]["ports"] = json!([81])), (true, later));
        let others: [(&str, Change); 4] = [
            ("somebody", |object| object["spec"]["ports"] = json!([81])),
            ("deployer", |object| object["spec"]["more"] = json!(1)),
            ("deployer", |object| object["metadata"]["labels"] = json!({})),
            ("deployer", |object| {
                drop(object["spec"].as_object_mut().expect("ours").remove("ports"))
            }),
        ];
        for (manager, edit) in others {
            assert!(!write(manager, edit).0);
        }
        let (_, entries) = write("somebody", |object| object["spec"]["ports"] = json!([81]));
        assert_eq!(
            entries[0]["fieldsV1"],
            json!({ "f:metadata": { "f:labels": { "f:app": {} } }, "f:spec": { "f:type": {} } })
        );
        assert_eq!(entries[1]["fieldsV1"], json!({ "f:spec": { "f:ports": {} } }));
    }
}
