//! One line as a tree that knows its places. serde's own values would let the second of two equal keys win in silence.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};

use super::{Fault, SECONDS_MAX};

/// A JSON value without repeated keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Flag(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

/// Reads a line.
pub(super) fn parse(line: &str) -> Result<Node, Fault> {
    serde_json::from_str(line).map_err(|error| {
        let said = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let said = said.strip_suffix(&place).unwrap_or(&said);
        Fault::NotJson(format!("{said} at column {}", error.column()))
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Growing)
    }
}

struct Growing;

impl<'de> Visitor<'de> for Growing {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Node, E> {
        Number::from_f64(number)
            .map(Node::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry::<String, Node>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            map.insert(key, value);
        }
        Ok(Node::Map(map))
    }
}

/// Characters of a value that an error shows.
const SHOWN_MAX: usize = 60;

/// A text as an error shows it.
pub(super) fn short(text: &str) -> String {
    if text.chars().nth(SHOWN_MAX).is_none() {
        return text.to_owned();
    }
    text.chars().take(SHOWN_MAX).chain(['…']).collect()
}

impl Node {
    /// What an error says was found.
    pub(super) fn shown(&self) -> String {
        let text = match self {
            Self::Null => "null".to_owned(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "an object".to_owned(),
        };
        short(&text)
    }

    /// The same as serde's value.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Flag(flag) => Value::Bool(*flag),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(Self::value).collect(),
            Self::Map(entries) => Value::Object(entries.iter().map(|(key, node)| (key.clone(), node.value())).collect()),
        }
    }
}

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) place: String,
    pub(super) node: &'a Node,
}

/// An object and where it is.
#[derive(Clone, Debug)]
pub(super) struct Table<'a> {
    place: String,
    entries: &'a BTreeMap<String, Node>,
}

impl<'a> At<'a> {
    /// The line itself.
    pub(super) fn line(node: &'a Node) -> Self {
        let place = String::new();
        Self { place, node }
    }

    /// That it is none of what is allowed.
    pub(super) fn wrong(&self, allowed: impl Into<String>) -> Fault {
        let place = if self.place.is_empty() { "the line" } else { &self.place };
        Fault::wrong(place, self.node.shown(), allowed)
    }

    pub(super) fn table(&self) -> Result<Table<'a>, Fault> {
        match self.node {
            Node::Map(entries) => Ok(Table {
                place: self.place.clone(),
                entries,
            }),
            _ => Err(self.wrong("an object")),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<At<'a>>, Fault> {
        let Node::List(items) = self.node else {
            return Err(self.wrong("a list"));
        };
        let at = |(index, node)| Self {
            place: format!("{}[{index}]", self.place),
            node,
        };
        Ok(items.iter().enumerate().map(at).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str, Fault> {
        match self.node {
            Node::Text(text) => Ok(text),
            _ => Err(self.wrong("a text")),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, Fault> {
        match self.node {
            Node::Flag(flag) => Ok(*flag),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(super) fn count(&self) -> Result<u32, Fault> {
        let whole = match self.node {
            Node::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(integral)),
            _ => None,
        };
        whole
            .and_then(|count| u32::try_from(count).ok())
            .ok_or_else(|| self.wrong("a whole number from 0 to 4294967295"))
    }

    /// A number, or what JSON has none for: counters and expressions may say anything, and the engine shall hear it.
    pub(super) fn number(&self) -> Result<f64, Fault> {
        let number = match self.node {
            Node::Number(number) => number.as_f64(),
            Node::Text(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "+Inf" => Some(f64::INFINITY),
                "-Inf" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            _ => None,
        };
        number.ok_or_else(|| self.wrong("a number, or \"NaN\", \"+Inf\", \"-Inf\""))
    }

    /// Seconds from the switch, or a date.
    pub(super) fn time(&self, epoch: Timestamp) -> Result<Timestamp, Fault> {
        let allowed = "seconds from the switch, at most 1000000000 either way, or a date as in RFC 3339";
        let at = match self.node {
            Node::Number(number) => number
                .as_f64()
                .filter(|seconds| seconds.abs() <= SECONDS_MAX as f64)
                // Within i64 by the line above; microseconds, so that a written time reads back exactly.
                .map(|seconds| jiff::SignedDuration::from_micros((seconds * 1e6).round() as i64))
                .and_then(|offset| epoch.checked_add(offset).ok()),
            Node::Text(date) => date.parse().ok(),
            _ => None,
        };
        at.ok_or_else(|| self.wrong(allowed))
    }

    /// What the model's own types read from it.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_value(self.node.value()).map_err(|error| Fault::wrong(&self.place, self.node.shown(), error.to_string()))
    }
}

impl<'a> Table<'a> {
    /// Where a key is, or would be.
    pub(super) fn place(&self, key: &str) -> String {
        if self.place.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.place)
        }
    }

    /// Refuses keys that mean nothing.
    pub(super) fn only<S: AsRef<str>>(&self, allowed: &[S]) -> Result<(), Fault> {
        let known = || allowed.iter().map(AsRef::as_ref);
        let Some(key) = self.entries.keys().find(|key| known().all(|word| word != key.as_str())) else {
            return Ok(());
        };
        Err(Fault::Unknown {
            place: self.place.clone(),
            key: short(key),
            allowed: known().collect::<Vec<_>>().join(", "),
            hint: meant(key, known()),
        })
    }

    /// A value that may be left out; `null` is as good as nothing.
    pub(super) fn get(&self, key: &str) -> Option<At<'a>> {
        self.explicit(key).filter(|at| *at.node != Node::Null)
    }

    /// A value that may be left out, where `null` says something.
    pub(super) fn explicit(&self, key: &str) -> Option<At<'a>> {
        let node = self.entries.get(key)?;
        let place = self.place(key);
        Some(At { place, node })
    }

    /// A value that must be there.
    pub(super) fn need(&self, key: &str, allowed: &str) -> Result<At<'a>, Fault> {
        self.get(key).ok_or_else(|| Fault::Missing {
            place: self.place(key),
            allowed: allowed.to_owned(),
        })
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (&'a str, At<'a>)> + '_ {
        self.entries.iter().map(|(key, node)| {
            let place = self.place(key);
            (key.as_str(), At { place, node })
        })
    }
}

/// What may have been meant by a word that means nothing.
pub(super) fn meant<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<String> {
    let near = |candidate: &&'w str| strsim::normalized_damerau_levenshtein(word, candidate);
    // Likeness costs the product of both lengths, and no word of ours is long.
    known
        .filter(|_| word.len() <= SHOWN_MAX)
        .filter(|candidate| near(candidate) >= 0.6)
        .max_by(|a, b| near(a).total_cmp(&near(b)))
        .map(|candidate| format!("did you mean {candidate:?}?"))
}

fn integral(number: f64) -> Option<u64> {
    // Saturating by definition of `as`, and compared afterwards by whoever asks for less.
    (number >= 0.0 && number.fract() == 0.0).then_some(number as u64)
}
