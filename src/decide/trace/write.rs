//! Looks as lines, so exactly that reading them back gives an observation the engine cannot tell from the first.
//!
//! What no judgement reads (the endpoints' addresses, the object's resourceVersion) is left out. What is live is
//! written when it changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    decide::Engine,
    model::{Absence, Color, GuardSpec, Ledger, Observation, Pause, Reading, Release, RuleKind, RuleName, Side, Traffic, View},
};

use super::{
    header,
    verdict::{Amount, Time},
};

/// Writes the lines of one trace.
#[derive(Debug, Default)]
pub(in crate::decide) struct Writer {
    epoch: Timestamp,
    /// What was last written to be live.
    traffic: String,
}

impl Writer {
    /// Begins a trace whose `t = 0` is `epoch`.
    pub(in crate::decide) fn new(epoch: Timestamp) -> Self {
        Self {
            epoch,
            traffic: String::new(),
        }
    }

    /// The state of an engine as a header carries it.
    pub(in crate::decide) fn state(engine: &Engine) -> String {
        json(engine)
    }

    /// The header, with a state from [`Writer::state`].
    pub(in crate::decide) fn header(&self, spec: &GuardSpec, positions: Option<(&Color, &Color)>, state: &str) -> String {
        let header = json(&header::written(spec, positions, self.epoch));
        with(header, "state", state)
    }

    /// A look.
    pub(in crate::decide) fn look(&mut self, spec: &GuardSpec, seen: &Observation) -> String {
        let t = Time {
            at: seen.at,
            epoch: self.epoch,
        };
        let line = match &seen.view {
            View::Unreadable(unreadable) => json(&Unreadable { t, unreadable }),
            View::UnknownColor { found, known } => json(&UnknownColor {
                t,
                unknown_color: Unknown { found, known },
            }),
            View::Known(traffic) => self.known(spec, seen, traffic, t),
        };
        match &seen.hold {
            Some(held) => with(line, "hold", &json(held)),
            None => line,
        }
    }

    fn known(&mut self, spec: &GuardSpec, seen: &Observation, traffic: &Traffic, t: Time) -> String {
        let active = seen.readings.get(&traffic.active);
        let others = seen.readings.iter().filter(|(color, _)| **color != traffic.active);
        let look = Look {
            t,
            ready: Ready {
                active: traffic.active_side().ready,
                standby: traffic.standby_side().ready,
            },
            rules: self.judged(spec, seen.at, traffic, active),
            colors: others.map(|(color, readings)| (color, self.readings(readings))).collect(),
        };
        let line = json(&look);
        let live = json(&Live::of(traffic, self.epoch));
        if live == self.traffic {
            return line;
        }
        let line = with(line, "traffic", &live);
        self.traffic = live;
        line
    }

    /// Readings of the active color. The Ready endpoints are told already, so a rule that counted the same is left out,
    /// and one that did not count says so.
    fn judged<'a>(
        &self,
        spec: &'a GuardSpec,
        at: Timestamp,
        traffic: &Traffic,
        readings: Option<&'a BTreeMap<RuleName, Reading>>,
    ) -> Readings<'a> {
        let mut lines = readings.map(|readings| self.readings(readings)).unwrap_or_default();
        for rule in spec.rules.iter().filter(|rule| matches!(rule.kind, RuleKind::Endpoints(_))) {
            let ready = traffic.active_side().ready;
            let told = Reading::Ready { sample_at: at, ready };
            match readings.and_then(|readings| readings.get(&rule.name)) {
                Some(reading) if *reading == told => drop(lines.remove(&rule.name)),
                Some(_) => {}
                None => drop(lines.insert(&rule.name, None)),
            }
        }
        lines
    }

    fn readings<'a>(&self, readings: &'a BTreeMap<RuleName, Reading>) -> Readings<'a> {
        let line = |(rule, reading)| (rule, Some(Line::of(reading, self.epoch)));
        readings.iter().map(line).collect()
    }
}

type Readings<'a> = BTreeMap<&'a RuleName, Option<Line<'a>>>;

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text keys and numbers")
}

/// An object with one more key, whose value is JSON already.
fn with(mut object: String, key: &str, value: &str) -> String {
    object.truncate(object.len() - 1);
    object.push_str(&format!(",\"{key}\":{value}}}"));
    object
}

#[derive(Serialize)]
struct Look<'a> {
    t: Time,
    ready: Ready,
    rules: Readings<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    colors: BTreeMap<&'a Color, Readings<'a>>,
}

#[derive(Serialize)]
struct Unreadable<'a> {
    t: Time,
    unreadable: &'a str,
}

#[derive(Serialize)]
struct UnknownColor<'a> {
    t: Time,
    unknown_color: Unknown<'a>,
}

#[derive(Serialize)]
struct Unknown<'a> {
    found: &'a Option<String>,
    known: &'a [String],
}

#[derive(Serialize)]
struct Ready {
    active: u32,
    standby: u32,
}

/// A reading.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Counters {
        sample_at: Time,
        targets: BTreeMap<&'a str, Target>,
    },
    Scalar {
        sample_at: Time,
        value: Amount,
        #[serde(skip_serializing_if = "Option::is_none")]
        long: Option<Amount>,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<Amount>,
        #[serde(skip_serializing_if = "Option::is_none")]
        requests: Option<Amount>,
    },
    Probes {
        sample_at: Time,
        asked: u32,
        failed: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
    Ready {
        sample_at: Time,
        ready: u32,
    },
    Absent {
        unusable: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_at: Option<Time>,
    total: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad: Option<Amount>,
}

impl<'a> Line<'a> {
    fn of(reading: &'a Reading, epoch: Timestamp) -> Self {
        let time = |at: &Timestamp| Time { at: *at, epoch };
        match reading {
            Reading::Counters { sample_at, targets } => Self::Counters {
                sample_at: time(sample_at),
                targets: targets
                    .iter()
                    .map(|(name, counter)| {
                        let target = Target {
                            started: counter.started.as_ref().map(time),
                            sample_at: counter.sample_at.as_ref().map(time),
                            total: Amount(counter.total),
                            bad: counter.bad.map(Amount),
                        };
                        (name.as_str(), target)
                    })
                    .collect(),
            },
            Reading::Scalar {
                sample_at,
                value,
                long,
                before,
                requests,
            } => Self::Scalar {
                sample_at: time(sample_at),
                value: Amount(*value),
                long: long.map(Amount),
                before: before.map(Amount),
                requests: requests.map(Amount),
            },
            Reading::Probes {
                sample_at,
                asked,
                failed,
                detail,
            } => Self::Probes {
                sample_at: time(sample_at),
                asked: *asked,
                failed: *failed,
                detail: detail.as_deref(),
            },
            Reading::Ready { sample_at, ready } => Self::Ready {
                sample_at: time(sample_at),
                ready: *ready,
            },
            Reading::Absent(absence) => Self::absent(absence),
        }
    }

    fn absent(absence: &'a Absence) -> Self {
        let (unusable, detail) = match absence {
            Absence::Error(why) => ("error", Some(why.as_str())),
            Absence::Partial(why) => ("partial", Some(why.as_str())),
            Absence::Impossible => ("impossible", None),
            Absence::NoBucket(why) => ("no_bucket", Some(why.as_str())),
            Absence::Ambiguous(why) => ("ambiguous", Some(why.as_str())),
            Absence::Timeout | Absence::Nan | Absence::Infinite | Absence::Negative | Absence::Empty | Absence::Stale => {
                (absence.word(), None)
            }
        };
        Self::Absent { unusable, detail }
    }
}

/// What is live, without the Ready endpoints of the two positions, which every look tells.
#[derive(Serialize)]
struct Live<'a> {
    active: &'a Color,
    standby: &'a Color,
    sides: BTreeMap<&'a Color, LiveSide<'a>>,
    #[serde(skip_serializing_if = "is_empty")]
    ledger: &'a Ledger,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: &'a Option<Pause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    switched_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    switched_by: &'a Option<String>,
}

#[derive(Serialize)]
struct LiveSide<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    desired: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: &'a Option<Release>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unwatched: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: &'a Option<String>,
}

fn is_empty(ledger: &&Ledger) -> bool {
    **ledger == Ledger::default()
}

impl<'a> Live<'a> {
    fn of(traffic: &'a Traffic, epoch: Timestamp) -> Self {
        let side = |(color, side): (&'a Color, &'a Side)| {
            let positioned = *color == traffic.active || *color == traffic.standby;
            let line = LiveSide {
                ready: Some(side.ready).filter(|_| !positioned),
                desired: side.desired,
                release: &side.release,
                unwatched: side.unwatched,
                unavailable: &side.unavailable,
            };
            (color, line)
        };
        Self {
            active: &traffic.active,
            standby: &traffic.standby,
            sides: traffic.sides.iter().map(side).collect(),
            ledger: &traffic.ledger,
            paused: &traffic.paused,
            switched_at: traffic.switched_at.map(|at| Time { at, epoch }),
            switched_by: &traffic.switched_by,
        }
    }
}
