//! The merged tree before its meaning is known, and readers that turn one entry into one value.
//!
//! Why not a serde derive: it stops at the first problem, cannot say which variable a value came from, and names unknown keys only
//! one at a time. A reader here notes its problem and goes on with `None`; [`Table::close`] reports the keys nobody asked for.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    duration::{self, NotOne},
    error::{Origin, Problem, Problems},
};

/// One value of the merged tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Its path, as problems print it.
    pub(super) key: String,
    /// Where it came from.
    pub(super) origin: Origin,
    /// The value.
    pub(super) kind: NodeKind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeKind {
    Text(String),
    Whole(i128),
    Number(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    /// What was found, for a person; long texts are cut.
    fn found(&self) -> String {
        match &self.kind {
            NodeKind::Text(text) if text.chars().count() > 60 => format!("{:?}...", text.chars().take(60).collect::<String>()),
            NodeKind::Text(text) => format!("{text:?}"),
            NodeKind::Whole(whole) => whole.to_string(),
            NodeKind::Number(number) => number.to_string(),
            NodeKind::Flag(flag) => flag.to_string(),
            NodeKind::List(items) => format!("a list of {}", items.len()),
            NodeKind::Table(_) => "a table".to_owned(),
        }
    }

    /// A problem of this value.
    pub(super) fn problem(&self, allowed: impl Into<String>) -> Problem {
        Problem {
            origin: self.origin.clone(),
            key: self.key.clone(),
            found: self.found(),
            allowed: allowed.into(),
            hint: None,
        }
    }

    /// A problem of this value, which may be a secret and is not shown.
    pub(super) fn hidden_problem(&self, allowed: impl Into<String>) -> Problem {
        Problem {
            found: "a value that is not shown here".to_owned(),
            ..self.problem(allowed)
        }
    }

    /// The text, also of a number from a file (`NotOne` reports the rest).
    fn as_text(&self) -> Option<String> {
        match &self.kind {
            NodeKind::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Text or number as text: environment variables are always text, files may hold either.
    fn printed(&self) -> Option<String> {
        match &self.kind {
            NodeKind::Text(text) => Some(text.clone()),
            NodeKind::Whole(whole) => Some(whole.to_string()),
            NodeKind::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Whether the value came from the environment or a flag.
    pub(super) fn is_from_outside(&self) -> bool {
        matches!(self.origin, Origin::Environment(_) | Origin::Flag(_))
    }

    /// This tree with the entries of `over` laid over it.
    pub(super) fn overlaid(&self, over: &Self) -> Self {
        match (&self.kind, &over.kind) {
            (NodeKind::Table(below), NodeKind::Table(above)) => {
                let mut entries = below.clone();
                for (name, node) in above {
                    let merged = entries.get(name).map_or_else(|| node.clone(), |old| old.overlaid(node));
                    entries.insert(name.clone(), merged);
                }
                Self {
                    kind: NodeKind::Table(entries),
                    ..over.clone()
                }
            }
            _ => over.clone(),
        }
    }

    /// An empty table at `key`.
    pub(super) fn empty(key: impl Into<String>, origin: Origin) -> Self {
        Self {
            key: key.into(),
            origin,
            kind: NodeKind::Table(BTreeMap::new()),
        }
    }

    /// Reads the node as a table; another kind of value is a problem.
    pub(super) fn table<'p>(&self, problems: &'p Problems) -> Option<Table<'p>> {
        match &self.kind {
            NodeKind::Table(entries) => Some(Table {
                key: self.key.clone(),
                origin: self.origin.clone(),
                entries: entries.clone(),
                asked: RefCell::default(),
                whispered: RefCell::default(),
                problems,
            }),
            _ => {
                problems.add(self.problem("a table"));
                None
            }
        }
    }
}

/// A table being read.
pub(super) struct Table<'p> {
    key: String,
    origin: Origin,
    entries: BTreeMap<String, Node>,
    asked: RefCell<Vec<String>>,
    /// Known, and not recommended: secrets that only the environment may give, keys that are refused with a hint.
    whispered: RefCell<Vec<String>>,
    /// Where problems go.
    pub(super) problems: &'p Problems,
}

impl<'p> Table<'p> {
    /// The path of `name` in this table.
    pub(super) fn path(&self, name: &str) -> String {
        if self.key.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.key)
        }
    }

    /// The table as a node again.
    pub(super) fn node(&self) -> Node {
        Node {
            key: self.key.clone(),
            origin: self.origin.clone(),
            kind: NodeKind::Table(self.entries.clone()),
        }
    }

    /// The entry, if there is one; its key is known from now on.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.asked.borrow_mut().push(name.to_owned());
        self.entries.get(name)
    }

    /// The entry, if there is one; its key is known, and never suggested.
    pub(super) fn whisper(&self, name: &str) -> Option<&Node> {
        self.whispered.borrow_mut().push(name.to_owned());
        self.entries.get(name)
    }

    /// Puts a value that wins over the file's, but not over one that the environment or a flag gave for this very key.
    pub(super) fn force(&mut self, name: &str, node: Node) {
        if !self.entries.get(name).is_some_and(Node::is_from_outside) {
            self.entries.insert(name.to_owned(), node);
        }
    }

    /// A problem of a key that is missing.
    pub(super) fn missing(&self, name: &str, allowed: impl Into<String>) -> Problem {
        Problem::lack(self.origin.clone(), self.path(name), allowed)
    }

    /// A problem of a value that is there, or of its lack.
    pub(super) fn problem(&self, name: &str, allowed: impl Into<String>) -> Problem {
        let allowed = allowed.into();
        self.entries
            .get(name)
            .map_or_else(|| self.missing(name, allowed.clone()), |node| node.problem(allowed.clone()))
    }

    /// Reads an entry by `parse`, which gets the text or number as text.
    fn parsed<T>(&self, name: &str, allowed: &str, parse: impl FnOnce(&str) -> Result<T, NotOne>) -> Option<T> {
        let node = self.get(name)?;
        let answer = node.printed().ok_or(NotOne(None)).and_then(|text| parse(&text));
        match answer {
            Ok(value) => Some(value),
            Err(NotOne(hint)) => {
                let problem = node.problem(allowed);
                self.problems.add(Problem { hint, ..problem });
                None
            }
        }
    }

    /// A text; numbers are none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let node = self.get(name)?;
        let text = node.as_text();
        if text.as_deref().is_none_or(|text| text.trim().is_empty()) {
            self.problems.add(node.problem("a text in quotes, not empty"));
            return None;
        }
        text
    }

    /// A text that `check` accepts, else `allowed` is said.
    pub(super) fn text_where(&self, name: &str, allowed: &str, check: impl FnOnce(&str) -> bool) -> Option<String> {
        self.parsed(
            name,
            allowed,
            |text| if check(text) { Ok(text.to_owned()) } else { Err(NotOne(None)) },
        )
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, name: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let allowed = format!(
            "a duration with its unit from {} to {}, such as \"30s\" or \"5m\"",
            duration::print(*range.start()),
            duration::print(*range.end()),
        );
        self.parsed(name, &allowed, |text| {
            let duration = duration::duration(text)?;
            if range.contains(&duration) {
                Ok(duration)
            } else {
                Err(NotOne(None))
            }
        })
    }

    /// A fraction between two bounds, both excluded unless they are allowed by `range`.
    pub(super) fn share(&self, name: &str, range: Share) -> Option<f64> {
        self.parsed(name, &range.to_string(), |text| {
            let share = duration::share(text)?;
            if range.contains(share) {
                return Ok(share);
            }
            let percent = range.contains(share / 100.0) && !text.contains('%');
            let bad_share = range == Share::Good && share > 0.0 && share <= 0.5;
            let hint = match (percent, bad_share) {
                (true, _) => duration::share(&format!("{text} %"))
                    .ok()
                    .map(|share| format!("{text} percent is \"{text} %\" or {share}")),
                (_, true) => Some(format!(
                    "it is the share of good requests: at most {} % bad is \"{} %\"",
                    share * 100.0,
                    100.0 - share * 100.0
                )),
                _ => None,
            };
            Err(NotOne(hint))
        })
    }

    /// A number that `read` accepts, else `allowed` is said.
    pub(super) fn number(&self, name: &str, allowed: &str, read: impl FnOnce(&str) -> Option<f64>) -> Option<f64> {
        self.parsed(name, allowed, |text| read(text).ok_or(NotOne(None)))
    }

    /// A whole number within bounds.
    pub(super) fn count(&self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(name, &allowed, |text| {
            text.trim().parse().ok().filter(|count| range.contains(count)).ok_or(NotOne(None))
        })
    }

    /// A size in bytes within bounds.
    pub(super) fn bytes(&self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let allowed = format!(
            "a size from {} to {} bytes, such as 65536 or \"256 KiB\"",
            range.start(),
            range.end()
        );
        self.parsed(name, &allowed, |text| {
            let bytes = duration::bytes(text)?;
            if range.contains(&bytes) { Ok(bytes) } else { Err(NotOne(None)) }
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        let node = self.get(name)?;
        match &node.kind {
            NodeKind::Flag(flag) => Some(*flag),
            NodeKind::Text(text) if text == "true" && node.is_from_outside() => Some(true),
            NodeKind::Text(text) if text == "false" && node.is_from_outside() => Some(false),
            _ => {
                self.problems.add(node.problem("true or false"));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let node = self.get(name)?;
        let text = node.as_text().unwrap_or_default();
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let problem = node.problem(words.join(", "));
        let hint = nearest(&text, choices.iter().map(|(word, _)| *word)).map(|word| format!("did you mean {word:?}?"));
        self.problems.add(Problem { hint, ..problem });
        None
    }

    /// Anything that parses from text, such as an address.
    pub(super) fn parse<T: std::str::FromStr>(&self, name: &str, allowed: &str) -> Option<T> {
        self.parsed(name, allowed, |text| text.trim().parse().map_err(|_| NotOne(None)))
    }

    /// A path; one from the file is relative to `base`, one from the environment or a flag to the working directory.
    pub(super) fn file_path(&self, name: &str, base: &Path) -> Option<PathBuf> {
        let text = self.text(name)?;
        let outside = self.entries.get(name).is_some_and(Node::is_from_outside);
        Some(if outside { PathBuf::from(text) } else { base.join(text) })
    }

    /// A list of texts; the environment gives one as `a,b,c`.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        let node = self.get(name)?;
        match &node.kind {
            NodeKind::List(items) => {
                let texts: Vec<String> = items.iter().filter_map(Node::as_text).collect();
                if texts.len() < items.len() {
                    self.problems.add(node.problem("a list of texts"));
                }
                Some(texts)
            }
            NodeKind::Text(text) if node.is_from_outside() => Some(
                text.split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect(),
            ),
            _ => {
                self.problems.add(node.problem("a list of texts, such as [\"slack\"]"));
                None
            }
        }
    }

    /// A table within this one.
    pub(super) fn table(&self, name: &str) -> Option<Table<'p>> {
        self.get(name)?.table(self.problems)
    }

    /// A table within this one, or an empty one.
    pub(super) fn table_or_empty(&self, name: &str) -> Table<'p> {
        self.table(name).unwrap_or_else(|| Table {
            key: self.path(name),
            origin: self.origin.clone(),
            entries: BTreeMap::new(),
            asked: RefCell::default(),
            whispered: RefCell::default(),
            problems: self.problems,
        })
    }

    /// The tables of a list, written with two brackets.
    pub(super) fn tables(&self, name: &str) -> Vec<Table<'p>> {
        match self.get(name) {
            None => Vec::new(),
            Some(Node {
                kind: NodeKind::List(items),
                ..
            }) => items.iter().filter_map(|item| item.table(self.problems)).collect(),
            Some(node) => {
                let twice = format!("write [[{name}]] with two brackets, once for each");
                self.problems.add(node.problem("a list of tables").hint(twice));
                Vec::new()
            }
        }
    }

    /// Every entry, for tables whose keys are names; all keys are known.
    pub(super) fn entries(&self) -> Vec<(String, Node)> {
        self.asked.borrow_mut().extend(self.entries.keys().cloned());
        self.entries.iter().map(|(name, node)| (name.clone(), node.clone())).collect()
    }

    /// Reports the keys that nobody asked for, with the nearest one that is known.
    pub(super) fn close(self) {
        let asked = self.asked.into_inner();
        let whispered = self.whispered.into_inner();
        for (name, node) in &self.entries {
            if asked.contains(name) || whispered.contains(name) {
                continue;
            }
            let mut known: Vec<&str> = asked.iter().map(String::as_str).collect();
            known.sort_unstable();
            known.dedup();
            self.problems.add(Problem {
                origin: node.origin.clone(),
                key: node.key.clone(),
                found: "an unknown key".to_owned(),
                allowed: known.join(", "),
                hint: nearest(name, known.iter().copied())
                    .or_else(|| (self.key.is_empty() && OF_DEFAULTS.contains(&name.as_str())).then_some("defaults"))
                    .map(|near| {
                        if near == "defaults" {
                            format!("did you mean defaults.{name}?")
                        } else {
                            format!("did you mean {near}?")
                        }
                    }),
            });
        }
    }
}

/// Keys of `[defaults]` that are looked for at the top of the file.
const OF_DEFAULTS: [&str; 10] = [
    "mode",
    "namespace_prefix",
    "preset",
    "inherit_rules",
    "rules",
    "policy",
    "templates",
    "standby",
    "scale_up",
    "connections",
];

/// The known word that is nearest, if any is near.
pub(super) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Bounds of a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Over 0 and under 1.
    Open,
    /// Over 0, at most 1.
    ToOne,
    /// From 0 to 1.
    Closed,
    /// From a half, under 1.
    Confidence,
    /// Over a half, under 1: most requests are good.
    Good,
}

impl Share {
    fn contains(self, share: f64) -> bool {
        match self {
            Self::Open => share > 0.0 && share < 1.0,
            Self::ToOne => share > 0.0 && share <= 1.0,
            Self::Closed => (0.0..=1.0).contains(&share),
            Self::Confidence => (0.5..1.0).contains(&share),
            Self::Good => share > 0.5 && share < 1.0,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "a share over 0 and under 1, such as 0.05 or \"5 %\"",
            Self::ToOne => "a share over 0 and at most 1, such as 0.05 or \"5 %\"",
            Self::Closed => "a share from 0 to 1, such as 0.5 or \"50 %\"",
            Self::Confidence => "a share from 0.5 and under 1, such as 0.99 or \"99 %\"",
            Self::Good => "the share of good requests, over 0.5 and under 1, such as 0.999 or \"99.9 %\"",
        })
    }
}
