//! Who may import whom: the walls of the house, read from the source.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Everything that a room may do itself but no other: the nouns and the metrics' names stand apart.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("metrics", &[]),
    ("telemetry", &["model"]),
    ("decide", &["model"]),
    ("plot", &[]),
    ("backtest", &["model", "decide", "plot"]),
    ("observe", &["model", "cluster", "metrics"]),
    ("router", &["model", "cluster", "metrics"]),
    ("evidence", &["model", "cluster", "metrics", "plot"]),
    // What is said, pure: configuration tries templates on it, chats give it their form.
    ("words", &["model"]),
    ("notify", &["model", "cluster", "metrics", "words"]),
    ("audit", &["model", "metrics"]),
    ("cluster", &["model", "metrics"]),
    ("serve", &["model", "metrics"]),
    ("config", &["model", "words"]),
    // Throws things at the ways in; nothing uses it.
    ("fuzzing", &["model", "config", "decide", "observe", "serve"]),
    // A double of the world, not a user of the rooms.
    ("sandbox", &["model"]),
    (
        "monitor",
        &[
            "model", "metrics", "decide", "observe", "router", "evidence", "words", "notify", "audit", "cluster", "serve", "config",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "metrics",
            "telemetry",
            "decide",
            "plot",
            "backtest",
            "observe",
            "router",
            "evidence",
            "words",
            "notify",
            "audit",
            "cluster",
            "serve",
            "config",
            "sandbox",
            "monitor",
        ],
    ),
];

/// What the judgement must not be able to do: IO, waiting, reading a clock, chance.
const IMPURE: &[&str] = &[
    "axum",
    "futures",
    "http",
    "hyper",
    "k8s_openapi",
    "kube",
    "rand",
    "reqwest",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "tracing",
];

/// What is IO by its name only: a picture is packed row by row into a `Vec`, which takes it by this trait.
const IN_MEMORY: &[(&str, &str)] = &[("plot", "std::io::Write")];

/// The nouns may be read from a file (a secret), and know no cluster and no network.
const FOREIGN_TO_NOUNS: &[&str] = &["axum", "futures", "hyper", "k8s_openapi", "kube", "reqwest", "tokio", "tracing"];

/// `main` parses, runs and exits.
const MAIN_LINES_MAX: usize = 40;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the source is readable") {
        let path = entry.expect("the source is readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module of a file: `src/router/service/flip.rs` -> `router`, `service`, `flip`.
fn module(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source()).expect("a file of the source").with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// A token: a name, `::`, or one sign.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// The code's tokens, without comments, strings, characters and lifetimes.
fn tokens(code: &str) -> Vec<Token> {
    let chars: Vec<char> = code.chars().collect();
    let at = |n: usize| chars.get(n).copied().unwrap_or('\0');
    let (mut n, mut line, mut found) = (0, 1, Vec::new());
    while n < chars.len() {
        let start = n;
        let mut text = None;
        match at(n) {
            '/' if at(n + 1) == '/' => {
                while n < chars.len() && at(n) != '\n' {
                    n += 1;
                }
            }
            '/' if at(n + 1) == '*' => n = after_block_comment(&at, n, chars.len()),
            'r' | 'b' | 'c' if raw_string(&at, n).is_some() => {
                let (quote, hashes) = raw_string(&at, n).expect("just seen");
                n = quote + 1;
                while n < chars.len() && !(at(n) == '"' && (1..=hashes).all(|k| at(n + k) == '#')) {
                    n += 1;
                }
                n += 1 + hashes;
            }
            '"' => n = after_quoted(&at, n, '"', chars.len()),
            // A character, or else a lifetime's tick.
            '\'' if at(n + 1) == '\\' || at(n + 2) == '\'' => n = after_quoted(&at, n, '\'', chars.len()),
            c if c.is_alphabetic() || c == '_' => {
                while at(n).is_alphanumeric() || at(n) == '_' {
                    n += 1;
                }
                text = Some(chars[start..n].iter().collect());
            }
            ':' if at(n + 1) == ':' => {
                n += 2;
                text = Some("::".to_owned());
            }
            c => {
                n += 1;
                text = (!c.is_whitespace()).then(|| c.to_string());
            }
        }
        if let Some(text) = text {
            found.push(Token { text, line });
        }
        line += chars[start..n.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn after_quoted(at: &impl Fn(usize) -> char, start: usize, quote: char, end: usize) -> usize {
    let mut n = start + 1;
    while n < end && at(n) != quote {
        n += if at(n) == '\\' { 2 } else { 1 };
    }
    n + 1
}

fn after_block_comment(at: &impl Fn(usize) -> char, start: usize, end: usize) -> usize {
    let (mut n, mut depth) = (start + 2, 1);
    while n < end && depth > 0 {
        match (at(n), at(n + 1)) {
            ('/', '*') => (n, depth) = (n + 2, depth + 1),
            ('*', '/') => (n, depth) = (n + 2, depth - 1),
            _ => n += 1,
        }
    }
    n
}

/// The place of a raw string's first quote, and its number of hashes.
fn raw_string(at: &impl Fn(usize) -> char, start: usize) -> Option<(usize, usize)> {
    let before = start.checked_sub(1).map_or(' ', at);
    let r = if at(start) == 'r' { start } else { start + 1 };
    if before.is_alphanumeric() || before == '_' || at(r) != 'r' {
        return None;
    }
    let hashes = (r + 1..).take_while(|n| at(*n) == '#').count();
    (at(r + 1 + hashes) == '"').then_some((r + 1 + hashes, hashes))
}

/// A path that the code names, in full: `crate::a::B`, `tokio::time::sleep`.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    path: Vec<String>,
    line: usize,
}

/// Every path of two names or more, `use` groups unfolded, `self` and `super` resolved from `module`.
fn named(code: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(code);
    let text = |n: usize| tokens.get(n).map_or("", |token| token.text.as_str());
    let is_name = |n: usize| text(n).starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut found = Vec::new();
    let mut open: Vec<Option<String>> = Vec::new();
    let mut n = 0;
    while n < tokens.len() {
        match text(n) {
            "mod" if is_name(n + 1) && text(n + 2) == "{" => {
                open.push(Some(text(n + 1).to_owned()));
                n += 3;
                continue;
            }
            "{" => open.push(None),
            "}" => drop(open.pop()),
            _ => {}
        }
        let begins = is_name(n) && text(n + 1) == "::" && n.checked_sub(1).is_none_or(|before| text(before) != "::");
        if begins {
            let mut at = n;
            let mut raw = Vec::new();
            unfold(&tokens, &mut at, &[], &mut raw);
            let here: Vec<String> = module.iter().cloned().chain(open.iter().flatten().cloned()).collect();
            found.extend(raw.into_iter().map(|named| resolved(named, &here)));
            n = at;
        } else {
            n += 1;
        }
    }
    found
}

/// Reads one tree of names from `at` on: `a::{b, c::D}`; leaves `at` behind it.
fn unfold(tokens: &[Token], at: &mut usize, prefix: &[String], found: &mut Vec<Named>) {
    let text = |n: usize| tokens.get(n).map_or("", |token| token.text.as_str());
    let line = tokens.get(*at).map_or(0, |token| token.line);
    let mut path = prefix.to_vec();
    loop {
        match text(*at) {
            "{" => {
                *at += 1;
                while !matches!(text(*at), "}" | "") {
                    unfold(tokens, at, &path, found);
                    while !matches!(text(*at), "," | "}" | "") {
                        *at += 1; // `as Other`
                    }
                    if text(*at) == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(name.to_owned());
                *at += 1;
            }
            _ => break, // `*`, a turbofish
        }
        if text(*at) != "::" {
            break;
        }
        *at += 1;
    }
    if text(*at) == "*" {
        *at += 1;
    }
    found.push(Named { path, line });
}

fn resolved(named: Named, module: &[String]) -> Named {
    let mut names = named.path.iter().peekable();
    let mut here = match names.peek().map(|name| name.as_str()) {
        Some("crate" | "flipback") => {
            names.next();
            Vec::new()
        }
        Some("self" | "super") => module.to_vec(),
        _ => return named,
    };
    while let Some(name) = names.next_if(|name| matches!(name.as_str(), "self" | "super")) {
        if name == "super" {
            here.pop();
        }
    }
    let path = std::iter::once("crate".to_owned()).chain(here).chain(names.cloned()).collect();
    Named { path, line: named.line }
}

/// What a file names that it must not, each as a sentence.
fn trespasses(module: &[String], code: &str) -> Vec<String> {
    let Some(room) = module.first() else { return Vec::new() };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| name == room) else {
        return vec![format!(
            "{room} is a room that tests/architecture.rs does not know: say there whom it may import"
        )];
    };
    let foreign = match room.as_str() {
        "decide" | "plot" | "backtest" => IMPURE,
        "model" => FOREIGN_TO_NOUNS,
        _ => &[],
    };
    let mut found = Vec::new();
    for Named { path, line } in named(code, module) {
        let whole = path.join("::");
        let inner = path.first().is_some_and(|first| first == "crate");
        let target = path.get(1).map(String::as_str).unwrap_or_default();
        if inner && target != room && !allowed.contains(&target) {
            found.push(format!(
                "line {line}: {room} may not import {target:?} ({whole}); it may import {allowed:?}"
            ));
        }
        let starts = |bad: &&&str| whole == **bad || whole.starts_with(&format!("{bad}::"));
        if IN_MEMORY.contains(&(room.as_str(), whole.as_str())) {
            continue;
        }
        if let Some(bad) = foreign.iter().find(starts) {
            found.push(format!("line {line}: {room} may not use {bad} ({whole})"));
        }
    }
    found
}

#[test]
fn no_room_imports_what_it_must_not() {
    let mut found = Vec::new();
    for file in files(&source()) {
        let module = module(&file);
        if module.first().is_none_or(|first| first == "main") {
            continue;
        }
        let code = fs::read_to_string(&file).expect("the source is readable");
        let name = file.strip_prefix(source()).unwrap_or(&file).display().to_string();
        found.extend(trespasses(&module, &code).into_iter().map(|what| format!("src/{name}: {what}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Where the conductor looks at a disk by itself, outside its tests: a path that is asked stops every guard for as long as the disk hangs.
fn looks_at_a_disk(code: &str) -> Vec<usize> {
    let own = code.split("#[cfg(test)]").next().unwrap_or_default();
    let tokens = tokens(own);
    let asks = tokens.windows(3).filter(|three| {
        let name = ["exists", "is_dir", "is_file", "metadata", "canonicalize", "read_dir"].contains(&three[1].text.as_str());
        three[0].text == "." && name && three[2].text == "("
    });
    asks.map(|three| three[1].line).collect()
}

#[test]
fn the_conductor_asks_no_path_whether_it_is_there() {
    let conductor = files(&source().join("monitor"));
    for file in conductor.iter().chain([&source().join("monitor.rs")]) {
        if file.ends_with("tests.rs") {
            continue;
        }
        let code = fs::read_to_string(file).expect("the source is readable");
        assert_eq!(looks_at_a_disk(&code), [] as [usize; 0], "lines of {}", file.display());
    }
    assert_eq!(
        looks_at_a_disk("fn f() {\n keeper.folder(id).is_dir()\n}\n#[cfg(test)] x.exists()"),
        [2]
    );
}

#[test]
fn every_room_has_a_rule_and_every_rule_a_room() {
    let code = fs::read_to_string(source().join("lib.rs")).expect("the source is readable");
    let tokens = tokens(&code);
    let declared: BTreeSet<&str> = tokens
        .windows(2)
        .filter(|pair| pair[0].text == "mod")
        .map(|pair| pair[1].text.as_str())
        .collect();
    let ruled: BTreeSet<&str> = ROOMS.iter().map(|(name, _)| *name).collect();
    assert_eq!(declared, ruled);
}

#[test]
fn main_is_a_table_of_contents() {
    let lines = fs::read_to_string(source().join("main.rs"))
        .expect("the source is readable")
        .lines()
        .count();
    assert!(
        lines <= MAIN_LINES_MAX,
        "src/main.rs has {lines} lines; what it does belongs into cli"
    );
}

fn forbidden(file: &str, code: &str) -> usize {
    let module: Vec<String> = file.split("::").map(str::to_owned).collect();
    trespasses(&module, code).len()
}

#[test]
fn every_way_to_name_a_forbidden_room_is_seen() {
    assert_eq!(forbidden("router", "use crate::observe::Observer;"), 1);
    assert_eq!(
        forbidden("router", "use crate::{model::Color, observe::{self, Observer}, notify as n};"),
        3
    );
    assert_eq!(forbidden("router", "use {crate::observe, crate::model};"), 1);
    assert_eq!(forbidden("router::service::flip", "use super::super::super::observe::Observer;"), 1);
    assert_eq!(forbidden("router", "fn f() { let o = crate::observe::Observer::new(); }"), 1);
    assert_eq!(forbidden("router", "mod tests { use super::super::observe::Observer; }"), 1);
    assert_eq!(forbidden("router", "fn f(_: flipback::observe::Observer) {}"), 1);
    assert_eq!(
        forbidden("decide", "use std::{collections::BTreeMap, time::{Duration, Instant}};"),
        1
    );
    assert_eq!(forbidden("decide::wilson", "async fn f() { tokio::time::sleep(d).await }"), 1);
    assert_eq!(forbidden("unheard_of", ""), 1);
}

#[test]
fn what_is_allowed_or_only_talked_about_is_no_trespass() {
    assert_eq!(forbidden("router", "use crate::{cluster::Cluster, metrics::Metrics, model::*};"), 0);
    assert_eq!(
        forbidden(
            "router::service",
            "use super::{error::RouterError, Router}; pub(in crate::router) fn f() {}"
        ),
        0
    );
    assert_eq!(forbidden("router", "mod tests { use super::Router; }"), 0);
    assert_eq!(
        forbidden(
            "router",
            "/// See [`crate::observe`].\n// crate::observe::Observer\n/* crate::observe /* */ crate::notify::x */"
        ),
        0
    );
    assert_eq!(
        forbidden(
            "router",
            r####"const A: &str = "crate::observe::X"; const B: &str = r#"" crate::observe::X"#; const C: char = '"';"####
        ),
        0
    );
    assert_eq!(forbidden("router", "fn f<'a>(_: &'a str) { let _ = Vec::<u8>::new(); }"), 0);
    assert_eq!(forbidden("decide", "use std::time::Duration;"), 0);
}
