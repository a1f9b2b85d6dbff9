//! What the two colors differ in: pod templates as values, compared. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::words;

/// Differences listed; the manifests have all.
const ROWS_MAX: usize = 150;
/// Signs of one value.
const VALUE_CHARS_MAX: usize = 1500;
/// What stands for a secret in a manifest.
const REDACTED: &str = "[redacted]";

/// What runs a color.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Workload {
    /// Its file in the bundle.
    pub(super) file: String,
    /// Replicas asked for, of what has such.
    pub(super) replicas: Option<u64>,
    /// The pod template.
    pub(super) template: Value,
}

/// The differences.
#[derive(Debug, Default, Serialize)]
pub(super) struct Changes {
    /// One per value that differs, the most telling first.
    pub(super) rows: Vec<Row>,
    /// Differences that are not listed any more.
    pub(super) more: usize,
    /// Values that differ only by the color's own name in them.
    pub(super) by_name: usize,
    /// Whether a secret was hidden, so that a change of it cannot be seen.
    pub(super) hidden: bool,
}

/// One value that differs.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// What kind of value: `image`, `environment`.
    pub(super) kind: &'static str,
    /// Which.
    pub(super) what: String,
    /// As the color that is left has it; empty: not at all.
    pub(super) from: Vec<Piece>,
    /// As the other has it.
    pub(super) to: Vec<Piece>,
    /// `changed`, `only <color>`.
    pub(super) change: String,
}

/// A piece of a value.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Piece {
    /// The text.
    pub(super) text: String,
    /// Whether it is what differs.
    pub(super) differs: bool,
}

/// Kinds of values, the most telling first.
const KINDS: [&str; 13] = [
    "image",
    "environment",
    "command",
    "config hash",
    "resources",
    "probe",
    "volume",
    "replicas",
    "port",
    "annotation",
    "label",
    "pod",
    "container",
];

type Values = BTreeMap<(usize, String), String>;

/// Compares what two colors run.
pub(super) fn compare((from, left): (&str, &Workload), (to, right): (&str, &Workload)) -> Changes {
    let (mine, theirs) = (values(left), values(right));
    let mut changes = Changes {
        hidden: mine.values().chain(theirs.values()).any(|value| value.contains(REDACTED)),
        ..Changes::default()
    };
    let keys: BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
    for key in keys {
        let (a, b) = (mine.get(key), theirs.get(key));
        if a == b {
            continue;
        }
        if let (Some(a), Some(b)) = (a, b)
            && a.replace(from, "\0") == b.replace(to, "\0")
        {
            changes.by_name += 1;
            continue;
        }
        if changes.rows.len() == ROWS_MAX {
            changes.more += 1;
            continue;
        }
        let cut = |value: &String| words::shown(value, VALUE_CHARS_MAX);
        let (a, b) = (a.map(cut), b.map(cut));
        let change = match (&a, &b) {
            (Some(_), None) => format!("only {from}"),
            (None, Some(_)) => format!("only {to}"),
            _ => "changed".to_owned(),
        };
        let (a, b) = pieces(a, b);
        changes.rows.push(Row {
            kind: KINDS.get(key.0).copied().unwrap_or_default(),
            what: words::line(&key.1, 200),
            from: a,
            to: b,
            change,
        });
    }
    changes
}

/// Both sides of a change, with what differs marked, word by word.
fn pieces(from: Option<String>, to: Option<String>) -> (Vec<Piece>, Vec<Piece>) {
    let whole = |text: String| vec![Piece { text, differs: true }];
    let (Some(from), Some(to)) = (&from, &to) else {
        return (from.map(whole).unwrap_or_default(), to.map(whole).unwrap_or_default());
    };
    let (mine, theirs) = (tokens(from), tokens(to));
    let diff = TextDiff::from_slices(&mine, &theirs);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let push = |side: &mut Vec<Piece>, text: &str, differs: bool| match side.last_mut() {
        Some(last) if last.differs == differs => last.text.push_str(text),
        _ => side.push(Piece {
            text: text.to_owned(),
            differs,
        }),
    };
    for change in diff.iter_all_changes() {
        if change.tag() != ChangeTag::Insert {
            push(&mut left, change.value(), change.tag() == ChangeTag::Delete);
        }
        if change.tag() != ChangeTag::Delete {
            push(&mut right, change.value(), change.tag() == ChangeTag::Insert);
        }
    }
    (left, right)
}

/// Words with what ends them; a version or a host's name is one.
fn tokens(text: &str) -> Vec<&str> {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.split_inclusive(|c| !inner(c)).collect()
}

/// Everything that may differ, by what it is.
fn values(workload: &Workload) -> Values {
    let mut out = Values::new();
    if let Some(replicas) = workload.replicas {
        put(&mut out, "replicas", "replicas".to_owned(), replicas.to_string());
    }
    let template = &workload.template;
    for (name, value) in fields(&template["metadata"]["annotations"]) {
        let hash = ["checksum", "hash", "digest"].iter().any(|word| name.to_lowercase().contains(word));
        flat(&mut out, if hash { "config hash" } else { "annotation" }, name, value);
    }
    for (name, value) in fields(&template["metadata"]["labels"]).filter(|(name, _)| *name != "pod-template-hash") {
        flat(&mut out, "label", name, value);
    }
    for (field, value) in fields(&template["spec"]) {
        match (field, value) {
            ("containers" | "initContainers", Value::Array(containers)) => {
                for container in containers {
                    of_container(&mut out, field, container);
                }
            }
            ("volumes", value) => flat(&mut out, "volume", "volume", value),
            // Which node it came to is no release's doing.
            ("nodeName", _) => {}
            (field, value) => flat(&mut out, "pod", field, value),
        }
    }
    out
}

fn of_container(out: &mut Values, list: &str, container: &Value) {
    let name = container["name"].as_str().unwrap_or("?");
    let name = if list == "initContainers" {
        format!("{name} (init)")
    } else {
        name.to_owned()
    };
    for (field, value) in fields(container) {
        match (field, value) {
            ("name", _) => {}
            ("image", value) => flat(out, "image", &name, value),
            ("env", Value::Array(variables)) => {
                for variable in variables {
                    let key = format!("{name}: {}", variable["name"].as_str().unwrap_or("?"));
                    put(out, "environment", key, of_variable(variable));
                }
            }
            ("envFrom", value) => flat(out, "environment", &format!("{name}: all of"), value),
            ("command" | "args", Value::Array(words)) => {
                let text: Vec<_> = words.iter().map(|word| word.as_str().unwrap_or_default()).collect();
                put(out, "command", format!("{name}: {field}"), text.join("\n"));
            }
            ("resources", value) => flat(out, "resources", &name, value),
            ("livenessProbe" | "readinessProbe" | "startupProbe", value) => flat(out, "probe", &format!("{name}: {field}"), value),
            ("ports", value) => flat(out, "port", &name, value),
            ("volumeMounts", value) => flat(out, "volume", &format!("{name}: mount"), value),
            (field, value) => flat(out, "container", &format!("{name}: {field}"), value),
        }
    }
}

/// A variable's value, or where it comes from.
fn of_variable(variable: &Value) -> String {
    if let Some(value) = variable["value"].as_str() {
        return value.to_owned();
    }
    let from = &variable["valueFrom"];
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    if let Some(secret) = from.get("secretKeyRef") {
        return format!("key {} of Secret {}", text(&secret["key"]), text(&secret["name"]));
    }
    if let Some(map) = from.get("configMapKeyRef") {
        return format!("key {} of ConfigMap {}", text(&map["key"]), text(&map["name"]));
    }
    if let Some(field) = from.get("fieldRef") {
        return format!("field {}", text(&field["fieldPath"]));
    }
    if from.is_null() { String::new() } else { from.to_string() }
}

fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn put(out: &mut Values, kind: &str, what: String, value: String) {
    let rank = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len());
    out.insert((rank, what), value);
}

/// Every scalar below a value; items of a list by their name, where they have one.
fn flat(out: &mut Values, kind: &str, what: &str, value: &Value) {
    match value {
        Value::Object(_) => {
            for (name, value) in fields(value) {
                if name != "name" || !value.is_string() || what.is_empty() {
                    flat(out, kind, &format!("{what} {name}"), value);
                }
            }
            // A reference is its name; of a list's item the name is in the key already.
            if let Some(name) = value["name"].as_str()
                && !what.ends_with(name)
            {
                put(out, kind, format!("{what} name"), name.to_owned());
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = ["name", "mountPath", "containerPort"].iter().find_map(|key| match &item[*key] {
                    Value::String(name) => Some(name.clone()),
                    Value::Number(number) => Some(number.to_string()),
                    _ => None,
                });
                flat(
                    out,
                    kind,
                    &format!("{what} {}", name.unwrap_or_else(|| (index + 1).to_string())),
                    item,
                );
            }
        }
        Value::Null => {}
        Value::String(text) => put(out, kind, what.to_owned(), text.clone()),
        other => put(out, kind, what.to_owned(), other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(template: Value, replicas: u64) -> Workload {
        Workload {
            file: String::new(),
            replicas: Some(replicas),
            template,
        }
    }

    fn told(changes: &Changes) -> String {
        let side = |pieces: &[Piece]| -> String {
            let piece = |piece: &Piece| {
                if piece.differs {
                    format!("<{}>", piece.text)
                } else {
                    piece.text.clone()
                }
            };
            pieces.iter().map(piece).collect::<String>().replace('\n', "\\n")
        };
        let row = |row: &Row| {
            format!(
                "{} | {} | {} | {} | {}\n",
                row.kind,
                row.what,
                side(&row.from),
                side(&row.to),
                row.change
            )
        };
        changes.rows.iter().map(row).collect()
    }

    #[test]
    fn what_a_release_changed_is_told_the_most_telling_first() {
        let green = json!({
            "metadata": {
                "labels": {"app": "web", "color": "green", "pod-template-hash": "a"},
                "annotations": {"checksum/config": "9f3c", "team": "shop"},
            },
            "spec": {
                "serviceAccountName": "web",
                "volumes": [{"name": "config", "configMap": {"name": "web-config-v2"}}],
                "containers": [{
                    "name": "app",
                    "image": "registry.example/shop/web:1.4.0",
                    "args": ["--port=8080", "--color=green", "--pool=50"],
                    "env": [
                        {"name": "LOG_LEVEL", "value": "debug"},
                        {"name": "DB_PASSWORD", "value": "[redacted]"},
                        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "web", "key": "token"}}},
                        {"name": "NEW_CHECKOUT", "value": "on"},
                    ],
                    "resources": {"limits": {"memory": "256Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 5},
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}],
                }],
            },
        });
        let mut blue = green.clone();
        blue["metadata"]["labels"] = json!({"app": "web", "color": "blue", "pod-template-hash": "b"});
        blue["metadata"]["annotations"]["checksum/config"] = "77aa".into();
        blue["spec"]["volumes"][0]["configMap"]["name"] = "web-config-v1".into();
        let app = &mut blue["spec"]["containers"][0];
        app["image"] = "registry.example/shop/web:1.3.9".into();
        app["args"] = json!(["--port=8080", "--color=blue", "--pool=20"]);
        app["env"] = json!([
            {"name": "LOG_LEVEL", "value": "info"},
            {"name": "DB_PASSWORD", "value": "[redacted]"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "web-old", "key": "token"}}},
        ]);
        app["resources"] = json!({"limits": {"memory": "512Mi"}});
        app["readinessProbe"]["periodSeconds"] = 10.into();
        let changes = compare(("green", &workload(green, 3)), ("blue", &workload(blue, 2)));
        insta::assert_snapshot!(told(&changes));
        assert_eq!(changes.by_name, 1, "the label of the color itself");
        assert!(changes.hidden, "a password may have changed unseen");
    }

    #[test]
    fn equal_templates_differ_in_nothing_and_odd_ones_do_no_harm() {
        let odd = json!({"spec": {"containers": [{"image": 3}, "x", null], "volumes": "none"}, "metadata": []});
        let changes = compare(("green", &workload(odd.clone(), 1)), ("blue", &workload(odd, 1)));
        assert!(changes.rows.is_empty() && !changes.hidden);
        let none = compare(("green", &workload(Value::Null, 1)), ("blue", &workload(Value::Null, 2)));
        assert_eq!(told(&none), "replicas | replicas | <1> | <2> | changed\n");
    }

    #[test]
    fn a_value_of_megabytes_and_a_thousand_variables_are_cut_and_said_to_be() {
        let variables: Vec<Value> = (0..1000)
            .map(|n| json!({"name": format!("V{n:04}"), "value": "x".repeat(5000)}))
            .collect();
        let many = json!({"spec": {"containers": [{"name": "app", "env": variables}]}});
        let none = json!({"spec": {"containers": [{"name": "app"}]}});
        let changes = compare(("green", &workload(many, 1)), ("blue", &workload(none, 1)));
        assert_eq!((changes.rows.len(), changes.more), (ROWS_MAX, 850));
        assert!(changes.rows.iter().all(|row| row.from[0].text.chars().count() <= VALUE_CHARS_MAX));
        assert_eq!(changes.rows[0].change, "only green");
    }
}
