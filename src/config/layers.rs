//! Lays the sources over each other (file < environment < flags) with figment, and keeps for every value where it came from.
//!
//! One layer per environment variable and per flag, so that a problem names the very variable. `[[guards]]` is a list, which
//! layers would replace as a whole: it is turned into a map by position first, so that a variable can reach into one guard.

use std::path::Path;

use figment::{
    Figment, Metadata, Profile, Provider, Source,
    value::{Dict, Map, Value},
};

use super::{
    Flags,
    environment::Variable,
    error::{Origin, Problem, Problems},
    raw::{Node, NodeKind},
};

/// A configuration file larger than this is none: thousands of guards need less.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What the crate toml calls a bare date or time where it is asked for nothing in particular.
const DATE_AND_TIME: &str = "$__toml_private_datetime";

/// One source's values, all of one origin.
struct Layer {
    origin: Origin,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let (kind, name) = match &self.origin {
            Origin::File(path) => ("file", path.to_string_lossy().into_owned()),
            Origin::Environment(name) => ("environment", name.clone()),
            Origin::Flag(name) => ("flag", name.clone()),
            Origin::Nowhere => ("nowhere", String::new()),
        };
        Metadata::named(kind).source(Source::Custom(name))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// What figment remembers of a value's layer, as our origin again.
fn origin_of(metadata: Option<&Metadata>) -> Origin {
    let name = metadata.and_then(|metadata| metadata.source.as_ref()?.custom().map(str::to_owned));
    match (metadata.map(|metadata| metadata.name.as_ref()), name) {
        (Some("file"), Some(name)) => Origin::File(name.into()),
        (Some("environment"), Some(name)) => Origin::Environment(name),
        (Some("flag"), Some(name)) => Origin::Flag(name),
        _ => Origin::Nowhere,
    }
}

/// All sources as one tree; `None` when the file cannot be used, after which everything else would only seem to be missing.
pub(super) fn merge(file: Option<&Path>, variables: &[Variable], flags: &Flags, problems: &Problems) -> Option<Node> {
    let mut base = match file {
        Some(path) => read(path, problems)?,
        None => Dict::new(),
    };
    number_the_guards(&mut base, file, problems)?;
    let mut figment = Figment::new();
    for variable in variables {
        if let Some(values) = placed(&base, variable, problems) {
            figment = figment.merge(Layer {
                origin: Origin::Environment(variable.name.clone()),
                values,
            });
        }
    }
    for (flag, key, value) in flags.values() {
        figment = figment.merge(Layer {
            origin: Origin::Flag(flag.to_owned()),
            values: nested(&key.split('.').collect::<Vec<_>>(), value),
        });
    }
    if let Some(path) = file {
        // `join` keeps what is already there: the file lies below everything, and was needed first to place the variables.
        figment = figment.join(Layer {
            origin: Origin::File(path.to_owned()),
            values: base,
        });
    }
    let values = figment
        .data()
        .ok()
        .and_then(|mut profiles| profiles.remove(&Profile::Default))
        .unwrap_or_default();
    let root = file.map_or(Origin::Nowhere, |path| Origin::File(path.to_owned()));
    Some(Node {
        key: String::new(),
        origin: root,
        kind: NodeKind::Table(
            values
                .iter()
                .map(|(name, value)| (name.clone(), node(name, value, &figment)))
                .collect(),
        ),
    })
}

/// One value as a node that knows its key and its origin.
fn node(key: &str, value: &Value, figment: &Figment) -> Node {
    let kind = match value {
        Value::String(_, text) => NodeKind::Text(text.clone()),
        Value::Bool(_, flag) => NodeKind::Flag(*flag),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128()) {
            (Some(whole), _) => NodeKind::Whole(whole),
            (None, Some(whole)) => NodeKind::Whole(i128::try_from(whole).unwrap_or(i128::MAX)),
            (None, None) => NodeKind::Number(number.to_f64().unwrap_or(f64::NAN)),
        },
        Value::Dict(_, entries) => match entries.get(DATE_AND_TIME).filter(|_| entries.len() == 1).and_then(Value::as_str) {
            // A date or a time that TOML knows by itself means what it would mean in quotes.
            Some(text) => NodeKind::Text(text.to_owned()),
            None => {
                let guards = key == "guards";
                let child = |name: &String, value: &Value| {
                    let path = if guards { guard_key(name, value) } else { format!("{key}.{name}") };
                    (name.clone(), node(&path, value, figment))
                };
                NodeKind::Table(entries.iter().map(|(name, value)| child(name, value)).collect())
            }
        },
        Value::Array(_, items) => NodeKind::List(
            items
                .iter()
                .enumerate()
                .map(|(position, item)| node(&format!("{key}[{position}]"), item, figment))
                .collect(),
        ),
        Value::Char(_, one) => NodeKind::Text(one.to_string()),
        Value::Empty(..) => NodeKind::Text(String::new()),
    };
    Node {
        key: key.to_owned(),
        origin: origin_of(figment.get_metadata(value.tag())),
        kind,
    }
}

/// `guards[web]`, or `guards[#2]` for one without a name.
fn guard_key(position: &str, guard: &Value) -> String {
    match guard_name(guard) {
        Some(name) => format!("guards[{name}]"),
        None => format!("guards[#{}]", position.parse::<usize>().map_or(0, |position| position + 1)),
    }
}

fn guard_name(guard: &Value) -> Option<&str> {
    guard.as_dict()?.get("name")?.as_str()
}

/// The file's values; `None` when it cannot be used, which is then a problem.
fn read(path: &Path, problems: &Problems) -> Option<Dict> {
    let refuse = |found: String, allowed: &str| {
        problems.add(Problem {
            origin: Origin::File(path.to_owned()),
            key: String::new(),
            found,
            allowed: allowed.to_owned(),
            hint: None,
        });
        None
    };
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return refuse(format!("a file of {} bytes", metadata.len()), "a TOML file of at most 8 MiB");
        }
        Ok(_) => std::fs::read_to_string(path),
        Err(error) => Err(error),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => return refuse(format!("{error}"), "a readable TOML file; --config names another"),
    };
    match toml::from_str::<Dict>(&text) {
        Ok(values) => Some(values),
        Err(error) => {
            // The offending line itself is not shown: it may hold a secret.
            let place = error.span().map_or(String::new(), |span| place(&text, span.start));
            let message: String = error.message().lines().next().unwrap_or_default().to_owned();
            refuse(format!("{message}{place}"), "TOML, see config/flipback.toml")
        }
    }
}

/// ` at line 3, column 7`.
fn place(text: &str, offset: usize) -> String {
    let before: &str = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" at line {line}, column {column}")
}

/// Turns `[[guards]]` into a map by position.
fn number_the_guards(values: &mut Dict, file: Option<&Path>, problems: &Problems) -> Option<()> {
    let Some(guards) = values.remove("guards") else { return Some(()) };
    match guards {
        Value::Array(tag, guards) => {
            let numbered: Dict = guards
                .into_iter()
                .enumerate()
                .map(|(n, guard)| (format!("{n:05}"), guard))
                .collect();
            values.insert("guards".to_owned(), Value::Dict(tag, numbered));
            Some(())
        }
        _ => {
            problems.add(
                Problem {
                    origin: file.map_or(Origin::Nowhere, |path| Origin::File(path.to_owned())),
                    key: "guards".to_owned(),
                    found: "something that is no list".to_owned(),
                    allowed: "a list of tables".to_owned(),
                    hint: None,
                }
                .hint("write [[guards]] with two brackets, once for each guard"),
            );
            None
        }
    }
}

/// A variable's value at its place in the tree; names with `-` or `.` are met by `_`, guards by their name.
fn placed(base: &Dict, variable: &Variable, problems: &Problems) -> Option<Dict> {
    let mut path: Vec<String> = Vec::new();
    let mut here = Some(base);
    for (depth, segment) in variable.path.iter().enumerate() {
        let found = if depth == 1 && path.first().is_some_and(|first| first == "guards") {
            Some(guard_position(here, segment, variable, problems)?)
        } else {
            here.and_then(|dict| {
                dict.keys()
                    .find(|name| name.as_str() == segment || spelled(name) == *segment)
                    .cloned()
            })
        };
        let name = found.unwrap_or_else(|| segment.clone());
        here = here.and_then(|dict| dict.get(&name)?.as_dict());
        path.push(name);
    }
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    Some(nested(&path, Value::from(variable.value.as_str())))
}

/// A name as an environment variable can spell it.
fn spelled(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

fn guard_position(guards: Option<&Dict>, segment: &str, variable: &Variable, problems: &Problems) -> Option<String> {
    let named: Vec<&String> = guards
        .iter()
        .flat_map(|guards| guards.iter())
        .filter(|(_, guard)| guard_name(guard).is_some_and(|name| spelled(name) == segment))
        .map(|(position, _)| position)
        .collect();
    if let [position] = named.as_slice() {
        return Some((*position).clone());
    }
    let known: Vec<&str> = guards.iter().flat_map(|guards| guards.values()).filter_map(guard_name).collect();
    problems.add(Problem {
        origin: Origin::Environment(variable.name.clone()),
        key: format!("guards[{segment}]"),
        found: format!("{} guards of that name", named.len()),
        allowed: format!("the name of exactly one guard of the file: {}", known.join(", ")),
        hint: None,
    });
    None
}

/// `value` under its path.
fn nested(path: &[&str], value: Value) -> Dict {
    match path {
        [] => Dict::new(),
        [last] => Dict::from([((*last).to_owned(), value)]),
        [first, rest @ ..] => Dict::from([((*first).to_owned(), Value::from(nested(rest, value)))]),
    }
}
