//! A team's own words: `[defaults.templates]` for all chats, `[chats.<name>.templates]` over them key by key. Tried here on every
//! topic, so that none fails at night.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    model::{
        Topic,
        settings::{Templates, Words},
    },
    words,
};

use super::{
    error::{Problem, Problems},
    raw::{Node, NodeKind, Table, nearest},
};

/// A file longer than this holds no template.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where each template came from, for what is wrong with it.
type Origins = BTreeMap<(Option<Topic>, &'static str), (Node, Option<PathBuf>)>;

/// Reads and tries templates; what is wrong is a problem.
pub(super) fn templates(node: &Node, base: &Path, problems: &Problems) -> Templates {
    let Some(table) = node.table(problems) else {
        return Templates::default();
    };
    let mut origins = Origins::new();
    let mut templates = Templates {
        any: read(None, &table, base, &mut origins),
        by_topic: BTreeMap::new(),
    };
    for topic in Topic::ALL {
        if let Some(own) = table.table(topic.as_str()) {
            templates.by_topic.insert(topic, read(Some(topic), &own, base, &mut origins));
            own.close();
        }
    }
    table.close();
    for fault in words::check(&templates) {
        if let Some((node, file)) = origins.get(&(fault.topic, fault.part)) {
            problems.add(told(fault, node, file.as_deref()));
        }
    }
    templates
}

fn read(topic: Option<Topic>, table: &Table<'_>, base: &Path, origins: &mut Origins) -> Words {
    let mut part = |name: &'static str| {
        let node = table.get(name)?.clone();
        let (text, file) = text(&node, base, table.problems)?;
        origins.insert((topic, name), (node, file));
        Some(text)
    };
    Words {
        title: part("title"),
        sentence: part("sentence"),
        next: part("next"),
    }
}

/// A template's text, and the file it was read from.
fn text(node: &Node, base: &Path, problems: &Problems) -> Option<(String, Option<PathBuf>)> {
    const ALLOWED: &str = "a text, or { file = \"...\" }";
    match &node.kind {
        NodeKind::Text(text) => Some((text.clone(), None)),
        NodeKind::Table(_) => {
            let inner = node.table(problems)?;
            let path = inner.file_path("file", base);
            if inner.get("file").is_none() {
                problems.add(inner.missing("file", "the path of a file that holds the template"));
            }
            inner.close();
            let path = path?;
            match contents(&path) {
                Ok(text) => Some((text, Some(path))),
                Err(error) => {
                    problems.add(Problem {
                        found: format!("{}: {error}", path.display()),
                        ..node.problem("a readable text file of at most 64 KiB")
                    });
                    None
                }
            }
        }
        _ => {
            problems.add(node.problem(ALLOWED));
            None
        }
    }
}

fn contents(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("longer than 64 KiB"));
    }
    Ok(text)
}

/// A fault of a template as a problem of its key.
fn told(fault: words::Problem, node: &Node, file: Option<&Path>) -> Problem {
    let place = match (fault.line, file) {
        (Some(line), Some(file)) => format!("line {line} of {}: ", file.display()),
        (Some(line), None) => format!("line {line}: "),
        (None, Some(file)) => format!("{}: ", file.display()),
        (None, None) => String::new(),
    };
    let near = fault
        .unknown
        .as_deref()
        .and_then(|unknown| nearest(unknown, fault.known.iter().map(String::as_str)))
        .map(|near| format!("did you mean {near}?"));
    Problem {
        origin: node.origin.clone(),
        key: node.key.clone(),
        found: format!("{place}{}", fault.what),
        allowed: if fault.known.is_empty() {
            "a template as docs/messages.md describes them".to_owned()
        } else {
            fault.known.join(", ")
        },
        hint: fault.hint.or(near),
    }
}
