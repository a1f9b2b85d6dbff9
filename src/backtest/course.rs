//! Which color had the traffic, since when: from a file, from an earlier flipback's metric, or from the traffic itself.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Color, GuardId};

/// Lines of a file of switches: more than one a minute for a month.
const LINES_MAX: usize = 50_000;

/// A color has the traffic from this share of the requests on; below its complement it has lost it.
const MOST: f64 = 0.6;

/// Requests in a step under which shares say nothing.
const REQUESTS_MIN: f64 = 5.0;

/// Steps for which another color must have most requests: a smoke test after a release is shorter.
const STEPS_MIN: usize = 3;

/// The course of a guard's traffic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Course {
    /// How it is known.
    pub origin: Origin,
    /// The color that had the traffic at the beginning.
    pub first: Color,
    /// The switches, oldest first.
    pub switches: Vec<Switch>,
}

/// How a course is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A file named the switches.
    File,
    /// An earlier flipback was scraped, and told the active color.
    Flipback,
    /// Requests moved from one color to another.
    Traffic,
    /// No switch was found: the whole span is one watch of the color with traffic.
    None,
}

/// Traffic moved, or the active color got another release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    /// Whose.
    pub guard: GuardId,
    /// When.
    #[serde(rename = "time")]
    pub at: Timestamp,
    /// The color before, where known.
    #[serde(default)]
    pub from: Option<Color>,
    /// The color after.
    pub to: Color,
    /// What `to` runs from then on, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

/// A release that an operator knows to have been bad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Whose; `None`: any guard's.
    #[serde(default)]
    pub guard: Option<GuardId>,
    /// When it began to be.
    #[serde(rename = "time")]
    pub at: Timestamp,
}

/// Why a file of switches or of bad releases cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("line {line}: {what}")]
pub struct CourseError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong, and what is allowed.
    pub what: String,
}

impl Course {
    /// A color that had the traffic all the time.
    #[must_use]
    pub fn still(color: Color) -> Self {
        Self {
            origin: Origin::None,
            first: color,
            switches: Vec::new(),
        }
    }

    /// The course of one guard out of a file's switches. `first` is who had the traffic before any of them, where the file does not tell.
    #[must_use]
    pub fn of_file(switches: &[Switch], guard: &GuardId, first: Color, from: Timestamp, until: Timestamp) -> Self {
        let mut own: Vec<Switch> = switches.iter().filter(|switch| switch.guard == *guard).cloned().collect();
        own.sort_by_key(|switch| switch.at);
        let before = own.iter().rev().find(|switch| switch.at < from).map(|switch| switch.to.clone());
        own.retain(|switch| switch.at >= from && switch.at <= until);
        let told = own.first().and_then(|switch| switch.from.clone());
        Self {
            origin: if own.is_empty() { Origin::None } else { Origin::File },
            first: before.or(told).unwrap_or(first),
            switches: own,
        }
    }
}

/// Reads switches: CSV (`guard,time,from,to[,release]`, with or without that heading) or JSON Lines.
///
/// # Errors
/// [`CourseError`] with the first line that is neither.
pub fn switches(text: &str) -> Result<Vec<Switch>, CourseError> {
    lines(text, |fields| {
        let [guard, at, from, to, rest @ ..] = fields else {
            return Err("expected guard,time,from,to[,release]".to_owned());
        };
        let color = |name: &str| Color::new(name).map_err(|error| error.to_string());
        Ok(Switch {
            guard: guard_id(guard)?,
            at: instant(at)?,
            from: if from.is_empty() { None } else { Some(color(from)?) },
            to: color(to)?,
            release: rest
                .first()
                .filter(|release| !release.is_empty())
                .map(|release| (*release).to_owned()),
        })
    })
}

/// Reads releases known to be bad: CSV (`guard,time`, the guard may be empty) or JSON Lines.
///
/// # Errors
/// [`CourseError`] with the first line that is neither.
pub fn expected(text: &str) -> Result<Vec<Expected>, CourseError> {
    lines(text, |fields| {
        let [guard, at, ..] = fields else {
            return Err("expected guard,time".to_owned());
        };
        Ok(Expected {
            guard: if guard.is_empty() { None } else { Some(guard_id(guard)?) },
            at: instant(at)?,
        })
    })
}

/// Reads `[GUARD=]TIME`, as given on the command line.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn bad_release(text: &str) -> Result<Expected, String> {
    let (guard, at) = match text.split_once('=') {
        Some((guard, at)) => (Some(guard_id(guard)?), at),
        None => (None, text),
    };
    Ok(Expected { guard, at: instant(at)? })
}

fn lines<T: serde::de::DeserializeOwned>(text: &str, csv: impl Fn(&[&str]) -> Result<T, String>) -> Result<Vec<T>, CourseError> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let error = |what: String| CourseError { line: index + 1, what };
        if line.is_empty() || line.starts_with('#') || (index == 0 && line.starts_with("guard,")) {
            continue;
        }
        if index >= LINES_MAX {
            return Err(error(format!("more than {LINES_MAX} lines")));
        }
        let one = if line.starts_with('{') {
            serde_json::from_str(line).map_err(|problem| problem.to_string())
        } else {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            csv(&fields)
        };
        found.push(one.map_err(error)?);
    }
    Ok(found)
}

fn guard_id(text: &str) -> Result<GuardId, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [namespace, name] => GuardId::new("", namespace, name),
        [cluster, namespace, name] => GuardId::new(cluster, namespace, name),
        _ => return Err(format!("{text:?} is no guard: expected <namespace>/<name>")),
    }
    .map_err(|error| error.to_string())
}

/// RFC 3339, or seconds since 1970.
fn instant(text: &str) -> Result<Timestamp, String> {
    let seconds = || text.parse::<i64>().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    text.parse::<Timestamp>()
        .ok()
        .or_else(seconds)
        .ok_or_else(|| format!("{text:?} is no time: expected 2026-11-21T06:00:00Z, or seconds since 1970"))
}

/// A change of the color with the traffic, to be looked at more closely.
#[derive(Clone, Debug, PartialEq)]
pub struct Crossing {
    /// The color before.
    pub from: Color,
    /// The color after.
    pub to: Color,
    /// It was still so at this time.
    pub after: Timestamp,
    /// And no longer at this.
    pub before: Timestamp,
}

/// The color with the traffic at the beginning, and where it changed, from requests per step and color.
#[must_use]
pub fn crossings(flow: &BTreeMap<Color, Vec<(Timestamp, f64)>>) -> (Option<Color>, Vec<Crossing>) {
    let mut steps: BTreeMap<Timestamp, BTreeMap<&Color, f64>> = BTreeMap::new();
    for (color, points) in flow {
        for (at, requests) in points {
            steps.entry(*at).or_default().insert(color, *requests);
        }
    }
    let holders = steps.into_iter().filter_map(|(at, requests)| {
        let all: f64 = requests.values().sum();
        let (color, most) = requests.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (all >= REQUESTS_MIN && most >= MOST * all).then(|| (at, color.clone()))
    });
    changes(&holders.collect::<Vec<_>>(), STEPS_MIN)
}

/// The first holder, and every change of it that lasted for `least` steps.
#[must_use]
pub fn changes(holders: &[(Timestamp, Color)], least: usize) -> (Option<Color>, Vec<Crossing>) {
    let mut found: Vec<Crossing> = Vec::new();
    let Some((_, first)) = holders.first() else {
        return (None, found);
    };
    let (mut holder, mut since) = (first.clone(), holders[0].0);
    let mut rival: Option<(Color, Timestamp, usize)> = None;
    for (at, color) in holders {
        if *color == holder {
            (since, rival) = (*at, None);
            continue;
        }
        let (_, begun, times) = rival
            .take_if(|(known, ..)| known == color)
            .unwrap_or_else(|| (color.clone(), *at, 0));
        if times + 1 < least {
            rival = Some((color.clone(), begun, times + 1));
            continue;
        }
        found.push(Crossing {
            from: std::mem::replace(&mut holder, color.clone()),
            to: color.clone(),
            after: since,
            before: begun,
        });
        since = *at;
    }
    (Some(first.clone()), found)
}

/// When exactly a crossing was, from requests at a finer step: the beginning of the first step in which `to` had most of them.
#[must_use]
pub fn refine(crossing: &Crossing, flow: &BTreeMap<Color, Vec<(Timestamp, f64)>>, step: Duration) -> Timestamp {
    let none = Vec::new();
    let of = |color: &Color| flow.get(color).unwrap_or(&none);
    let before: BTreeMap<Timestamp, f64> = of(&crossing.from).iter().copied().collect();
    let first = of(&crossing.to)
        .iter()
        .filter(|(at, requests)| *at > crossing.after && *requests > 0.0 && *requests >= before.get(at).copied().unwrap_or(0.0));
    let found = first.map(|(at, _)| at.saturating_sub(step).unwrap_or(*at)).next();
    found.unwrap_or(crossing.before)
}
