//! What flipback saw before it decided: the looks of `decision.jsonl`, as far as a report shows them. Pure.
//!
//! It judges nothing and refuses nothing: whoever wants the verdict again has `flipback replay`. Here counters become the
//! requests between two samples, each used once, and a line that makes no sense is counted and passed over.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::model::{Color, RuleKind, RuleName, RuleSpec};

/// Looks kept, the newest: an hour at one per second.
const LOOKS_MAX: usize = 3600;

/// What a record said.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// The rules in force.
    pub(super) rules: Vec<RuleSpec>,
    /// The looks, oldest first.
    pub(super) looks: VecDeque<Look>,
    /// Who made the color active that was active last, as the object told.
    pub(super) switched_by: Option<String>,
    /// Lines that were none.
    pub(super) odd: usize,
    epoch: Option<Timestamp>,
    active: Option<Color>,
    standby: Option<Color>,
    counters: BTreeMap<(Color, RuleName), BTreeMap<String, Known>>,
}

/// One look.
#[derive(Debug)]
pub(super) struct Look {
    /// When it was made.
    pub(super) at: Timestamp,
    /// Who served.
    pub(super) active: Option<Color>,
    /// What was measured.
    pub(super) measured: BTreeMap<(Color, RuleName), Measured>,
}

/// What one rule measured on one color since the look before.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Measured {
    /// Requests between two samples.
    Requests {
        /// The sample before.
        after: Timestamp,
        /// The newest sample.
        at: Timestamp,
        /// Bad ones.
        bad: f64,
        /// All.
        total: f64,
    },
    /// One number.
    Number {
        /// When it was evaluated.
        at: Timestamp,
        /// The number.
        value: f64,
        /// The previous color's before the switch.
        before: Option<f64>,
    },
    /// Probes.
    Probes {
        /// When.
        at: Timestamp,
        /// Asked.
        asked: f64,
        /// Failed.
        failed: f64,
    },
    /// Ready endpoints.
    Ready {
        /// When.
        at: Timestamp,
        /// How many.
        ready: f64,
    },
}

impl Measured {
    /// What a chart shows of it: a share of bad ones, a number, a count.
    pub(super) fn point(&self) -> Option<(Timestamp, f64)> {
        match *self {
            Self::Requests { at, bad, total, .. } => (total > 0.0).then(|| (at, (bad / total).min(1.0))),
            Self::Probes { at, asked, failed } => (asked > 0.0).then(|| (at, (failed / asked).min(1.0))),
            Self::Number { at, value, .. } => Some((at, value)),
            Self::Ready { at, ready } => Some((at, ready)),
        }
    }

    /// Its newest sample.
    pub(super) fn at(&self) -> Timestamp {
        match *self {
            Self::Requests { at, .. } | Self::Number { at, .. } | Self::Probes { at, .. } | Self::Ready { at, .. } => at,
        }
    }
}

/// The last counters of one target.
#[derive(Clone, Copy, Debug)]
struct Known {
    at: Timestamp,
    total: f64,
    bad: f64,
}

#[derive(Deserialize)]
struct RawHeader {
    #[serde(default)]
    rules: Vec<Value>,
    epoch: Option<Timestamp>,
    active: Option<String>,
    standby: Option<String>,
}

#[derive(Deserialize)]
struct RawLook {
    t: Time,
    ready: Option<RawReady>,
    #[serde(default)]
    rules: BTreeMap<String, Option<RawReading>>,
    #[serde(default)]
    colors: BTreeMap<String, BTreeMap<String, Option<RawReading>>>,
    traffic: Option<RawTraffic>,
}

#[derive(Deserialize)]
struct RawReady {
    active: f64,
}

#[derive(Deserialize)]
struct RawTraffic {
    active: Option<String>,
    standby: Option<String>,
    switched_by: Option<String>,
}

#[derive(Deserialize)]
struct RawReading {
    sample_at: Option<Time>,
    targets: Option<BTreeMap<String, RawTarget>>,
    value: Option<Value>,
    before: Option<Value>,
    asked: Option<f64>,
    failed: Option<f64>,
    ready: Option<f64>,
}

#[derive(Deserialize)]
struct RawTarget {
    started: Option<Time>,
    sample_at: Option<Time>,
    total: Option<f64>,
    bad: Option<f64>,
}

/// Seconds from the switch, or a date.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    Date(Timestamp),
}

fn color(name: &str) -> Option<Color> {
    Color::new(name).ok()
}

impl Trace {
    /// Takes the next line.
    pub(super) fn line(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let read = if self.epoch.is_none() { self.header(line) } else { self.look(line) };
        if read.is_none() {
            self.odd += 1;
        }
    }

    fn header(&mut self, line: &[u8]) -> Option<()> {
        // The header of a file that has none is a look that is lost: nothing can be read without it.
        self.epoch = Some(Timestamp::UNIX_EPOCH);
        let header: RawHeader = serde_json::from_slice(line).ok()?;
        self.epoch = Some(header.epoch.unwrap_or(Timestamp::UNIX_EPOCH));
        let rules = header.rules.into_iter().map(serde_json::from_value::<RuleSpec>);
        self.rules = rules.filter_map(Result::ok).collect();
        self.active = header.active.as_deref().and_then(color);
        self.standby = header.standby.as_deref().and_then(color);
        Some(())
    }

    fn time(&self, time: Time) -> Option<Timestamp> {
        match time {
            Time::Date(at) => Some(at),
            Time::Seconds(seconds) => self.epoch?.checked_add(SignedDuration::try_from_secs_f64(seconds).ok()?).ok(),
        }
    }

    fn look(&mut self, line: &[u8]) -> Option<()> {
        let raw: RawLook = serde_json::from_slice(line).ok()?;
        let at = self.time(raw.t)?;
        if let Some(traffic) = raw.traffic {
            self.active = traffic.active.as_deref().and_then(color).or(self.active.take());
            self.standby = traffic.standby.as_deref().and_then(color).or(self.standby.take());
            self.switched_by = traffic.switched_by.or(self.switched_by.take());
        }
        let mut measured = BTreeMap::new();
        if let Some(active) = self.active.clone() {
            if let Some(ready) = raw.ready {
                for rule in self.rules.iter().filter(|rule| matches!(rule.kind, RuleKind::Endpoints(_))) {
                    let counted = Measured::Ready { at, ready: ready.active };
                    measured.insert((active.clone(), rule.name.clone()), counted);
                }
            }
            self.readings(&active, raw.rules, &mut measured);
        }
        for (name, readings) in raw.colors {
            if let Some(color) = color(&name) {
                self.readings(&color, readings, &mut measured);
            }
        }
        if self.looks.len() == LOOKS_MAX {
            self.looks.pop_front();
        }
        let active = self.active.clone();
        self.looks.push_back(Look { at, active, measured });
        Some(())
    }

    fn readings(
        &mut self,
        color: &Color,
        readings: BTreeMap<String, Option<RawReading>>,
        measured: &mut BTreeMap<(Color, RuleName), Measured>,
    ) {
        for (name, reading) in readings {
            let Ok(rule) = RuleName::new(&name) else { continue };
            let key = (color.clone(), rule);
            match reading.and_then(|reading| self.reading(&key, reading)) {
                Some(found) => drop(measured.insert(key, found)),
                // It says itself that it did not count.
                None => drop(measured.remove(&key)),
            }
        }
    }

    fn reading(&mut self, key: &(Color, RuleName), raw: RawReading) -> Option<Measured> {
        let at = self.time(raw.sample_at?)?;
        if let Some(targets) = raw.targets {
            return self.requests(key, at, targets);
        }
        let number = |value: Option<Value>| value.and_then(|value| value.as_f64()).filter(|value| value.is_finite());
        match (number(raw.value), raw.asked, raw.ready) {
            (Some(value), ..) => Some(Measured::Number {
                at,
                value,
                before: number(raw.before),
            }),
            (None, Some(asked), _) => Some(Measured::Probes {
                at,
                asked,
                failed: raw.failed.unwrap_or(0.0),
            }),
            (None, None, Some(ready)) => Some(Measured::Ready { at, ready }),
            (None, None, None) => None,
        }
    }

    /// The requests since each target's sample before; the first sample of a target of unknown age is a baseline only.
    fn requests(&mut self, key: &(Color, RuleName), newest: Timestamp, targets: BTreeMap<String, RawTarget>) -> Option<Measured> {
        let mut known = self.counters.remove(key).unwrap_or_default();
        let before = known.values().map(|known| known.at).max();
        let (mut bad, mut total, mut fresh) = (0.0, 0.0, false);
        for (name, raw) in targets {
            let at = raw.sample_at.and_then(|at| self.time(at)).unwrap_or(newest);
            let (Some(now_total), now_bad) = (raw.total, raw.bad.unwrap_or(0.0)) else {
                continue;
            };
            let started = raw.started.and_then(|at| self.time(at));
            let born_since = started.zip(before).is_some_and(|(started, before)| started > before);
            let last = known.insert(
                name,
                Known {
                    at,
                    total: now_total,
                    bad: now_bad,
                },
            );
            match last {
                Some(last) if at > last.at => {
                    total += grown(now_total, last.total);
                    bad += grown(now_bad, last.bad);
                    fresh = true;
                }
                None if born_since => {
                    total += now_total;
                    bad += now_bad;
                    fresh = true;
                }
                _ => {}
            }
        }
        self.counters.insert(key.clone(), known);
        let found = Measured::Requests {
            after: before?,
            at: newest,
            bad,
            total,
        };
        fresh.then_some(found)
    }
}

/// What was counted since; a counter that went down began anew.
fn grown(now: f64, then: f64) -> f64 {
    if now < then { now } else { now - then }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = include_str!("../../../tests/traces/third_breach.jsonl");

    fn read(text: &str) -> Trace {
        let mut trace = Trace::default();
        text.lines().for_each(|line| trace.line(line.as_bytes()));
        trace
    }

    #[test]
    fn each_request_is_counted_once_and_the_first_sample_is_a_baseline() {
        let trace = read(RECORD);
        assert_eq!((trace.odd, trace.rules.len()), (0, 1));
        let shares: Vec<_> = trace
            .looks
            .iter()
            .flat_map(|look| look.measured.values())
            .map(|measured| match measured {
                Measured::Requests { bad, total, .. } => format!("{bad}/{total}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shares, Vec::<String>::new(), "a trace without colors' names has no color to show");
        let named = RECORD.replacen("\"flipback_trace\":1", "\"flipback_trace\":1,\"active\":\"green\"", 1);
        let shares: Vec<_> = read(&named)
            .looks
            .iter()
            .flat_map(|look| look.measured.values().cloned())
            .map(|measured| match measured {
                Measured::Requests { bad, total, .. } => format!("{bad}/{total}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shares, ["1/500", "1/500", "62/500", "62/500", "62/500", "62/500", "62/500"]);
    }

    #[test]
    fn restarts_new_targets_and_stale_samples_are_told_apart() {
        let header = r#"{"flipback_trace":1,"active":"green","rules":[{"name":"e","kind":"error_rate","threshold":0.05}]}"#;
        let look = |t: f64, targets: &str| format!(r#"{{"t":{t},"rules":{{"e":{{"sample_at":{t},"targets":{{{targets}}}}}}}}}"#);
        let lines = [
            header.to_owned(),
            look(0.0, r#""a":{"total":100,"bad":5}"#),
            look(
                5.0,
                r#""a":{"total":30,"bad":3},"born":{"started":2.0,"total":10,"bad":1},"old":{"total":900,"bad":9}"#,
            ),
            // No newer sample: nothing was measured.
            r#"{"t":7,"rules":{"e":{"sample_at":5.0,"targets":{"a":{"total":30,"bad":3}}}}}"#.to_owned(),
        ];
        let trace = read(&lines.join("\n"));
        let found: Vec<_> = trace.looks.iter().map(|look| look.measured.values().next().cloned()).collect();
        let at = |seconds| Timestamp::from_second(seconds).expect("in range");
        let requests = Measured::Requests {
            after: at(0),
            at: at(5),
            bad: 4.0,
            total: 40.0,
        };
        assert_eq!(found, [None, Some(requests), None]);
    }

    #[test]
    fn endpoints_are_those_of_the_look_unless_it_says_that_they_were_not_counted() {
        let header = r#"{"flipback_trace":1,"active":"green","rules":[{"name":"up","kind":"endpoints"}]}"#;
        let rules = r#"{"flipback_trace":1,"active":"green","rules":[{"name":"up","kind":"endpoints","down_for":"10s"}]}"#;
        let looks = "{\"t\":1,\"ready\":{\"active\":0,\"standby\":2},\"rules\":{}}\n{\"t\":2,\"ready\":{\"active\":0,\"standby\":2},\"rules\":{\"up\":null}}";
        let counted = |header: &str| -> Vec<usize> {
            read(&format!("{header}\n{looks}"))
                .looks
                .iter()
                .map(|look| look.measured.len())
                .collect()
        };
        assert_eq!(counted(rules), [1, 0]);
        assert_eq!(counted(header), [0, 0], "a rule that lacks what it needs is no rule");
    }

    #[test]
    fn lines_that_are_none_are_counted_and_passed_over() {
        let trace = read("{\"flipback_trace\":1}\nnot json\n{\"t\":\"never\"}\n{\"t\":1e300}\n{\"t\":3}\n");
        assert_eq!((trace.odd, trace.looks.len()), (3, 1));
        assert_eq!(read("\u{0}").looks.len(), 0);
    }
}
