//! One run: a service, its Prometheus with all its faults, and the engine that looks every five seconds.

use std::{collections::BTreeMap, time::Duration};

use flipback::model::{Absence, AfterWatch, Observation, Path, Policy, Reading, Trigger, Verdict, View};
use serde_json::json;

use super::{
    chance::Chance,
    guard::{at, color, engine, error_rate, latency, name, traffic},
    service::{Fleet, Setting, Weather, When},
};

/// Milliseconds between two looks.
pub const POLL: i64 = 5000;
/// A fault begins so long after the first look, and up to a minute later: the phases of fault, scrape and poll are lots.
pub const QUIET: i64 = 60_000;
const SPREAD: i64 = 60_000;
/// What the engine was shown before the run's fault, for as long as it may remember.
const BEFORE_SWITCH: i64 = 300_000;

/// What happens.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In words.
    pub name: &'static str,
    /// Requests per second.
    pub rate: f64,
    /// Milliseconds between two scrapes of a pod.
    pub scrape: i64,
    /// Failing requests of the active color; the fault's time counts from when it begins.
    pub errors: Weather,
    /// Slow ones.
    pub slow: Weather,
    /// How the fault begins.
    pub begin: Begin,
    /// What the standby color serves at the same time.
    pub standby: Standby,
    /// Polls without a usable answer.
    pub faulty: f64,
    /// Scrapes that fail.
    pub missed: f64,
    /// Whether pods restart and are replaced.
    pub churn: bool,
    /// How long it is looked at after the fault has begun, in milliseconds.
    pub lasts: i64,
}

/// How a fault begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Begin {
    /// In the middle of running.
    Running,
    /// With a switch to green, whose pods were idle; blue had the background's errors before.
    Switch,
    /// With a switch to green, while blue was as bad before.
    SwitchFromBad,
}

/// What the standby color serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standby {
    /// Nothing.
    Idle,
    /// A third of the traffic, with the same fault.
    AsBad,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The first rollback: milliseconds after the fault began, how, and why.
    pub rollback: Option<(i64, Path, String)>,
    /// Whether a confirmed breach was not held against the release.
    pub suppressed: bool,
    /// Looks taken.
    pub looks: u64,
}

/// Takes down what the engine was shown, in the trace format.
pub type Trace = Vec<String>;

impl Scenario {
    /// Nothing but traffic, at 0.5 % errors and 1 % slow requests.
    pub fn calm(name: &'static str, rate: f64, scrape_seconds: i64) -> Self {
        Self {
            name,
            rate,
            scrape: scrape_seconds * 1000,
            errors: Weather::calm(0.005),
            slow: Weather::calm(0.01),
            begin: Begin::Running,
            standby: Standby::Idle,
            faulty: 0.15,
            missed: 0.01,
            churn: false,
            lasts: 600_000,
        }
    }

    /// In one line, with its numbers.
    pub fn title(&self) -> String {
        format!("{}, {} requests/s, scraped every {} s", self.name, self.rate, self.scrape / 1000)
    }

    /// Plays it to its end, or to the first rollback.
    pub fn play(&self, seed: u64, mut trace: Option<&mut Trace>) -> Run {
        let mut chance = Chance::new(seed);
        let mut world = World::new(self, seed, &mut chance);
        let mut run = Run::default();
        if let Some(trace) = trace.as_deref_mut() {
            trace.push(header());
        }
        let mut judge = engine(vec![error_rate(), latency("p95", 0.95)], policy());
        let mut now = world.first_look;
        // A trace counts from the switch; without one, from the beginning.
        let switch_at = world.switch_at.unwrap_or(0);
        while now < world.fault_at + self.lasts {
            let seen = world.look(now, &mut chance);
            let decision = judge.step(&seen);
            run.looks += 1;
            if let Some(trace) = trace.as_deref_mut() {
                trace.push(line(now, switch_at, &seen));
            }
            match &decision.verdict {
                Verdict::Rollback(case) => {
                    let path = match case.trigger {
                        Trigger::Rule { path, .. } => path,
                        Trigger::Manual { .. } | Trigger::Reassert { .. } => Path::Critical,
                    };
                    run.rollback = Some((now - world.fault_at, path, case.why.clone()));
                    return run;
                }
                Verdict::Suppressed(..) => run.suppressed = true,
                Verdict::Hold | Verdict::Blocked(..) => {}
            }
            now += POLL + chance.below(101) - 50;
        }
        run
    }
}

/// All paths armed at all times: whatever may fire is to be heard of.
fn policy() -> Policy {
    Policy {
        watch: Duration::from_secs(30 * 24 * 3600),
        after_watch: AfterWatch::Full,
        ..Policy::default()
    }
}

/// Both colors and what is between them and the engine.
struct World {
    green: Fleet,
    blue: Fleet,
    observation: Observation,
    switch_at: Option<i64>,
    first_look: i64,
    fault_at: i64,
    faulty: f64,
}

impl World {
    fn new(scenario: &Scenario, seed: u64, chance: &mut Chance) -> Self {
        let fault_at = match scenario.begin {
            Begin::Running => QUIET + chance.below(SPREAD),
            Begin::Switch | Begin::SwitchFromBad => BEFORE_SWITCH + chance.below(SPREAD),
        };
        let switch_at = (scenario.begin != Begin::Running).then_some(fault_at);
        let later = |weather: Weather| Weather {
            when: weather.when.later(fault_at),
            ..weather
        };
        let of_green = Setting {
            rate: scenario.rate,
            serves: (switch_at.unwrap_or(i64::MIN), i64::MAX),
            errors: later(scenario.errors),
            slow: later(scenario.slow),
            scrape: scenario.scrape,
            missed: scenario.missed,
            tells_start: seed.is_multiple_of(2),
            churn: scenario.churn,
        };
        let bad_before = Weather {
            when: When::From(0),
            ..scenario.errors
        };
        let of_blue = Setting {
            serves: (i64::MIN, switch_at.unwrap_or(i64::MIN)),
            errors: if scenario.begin == Begin::SwitchFromBad {
                bad_before
            } else {
                Weather::calm(scenario.errors.background)
            },
            slow: Weather::calm(scenario.slow.background),
            ..of_green
        };
        let of_blue = match scenario.standby {
            Standby::Idle => of_blue,
            Standby::AsBad => Setting {
                rate: scenario.rate / 3.0,
                serves: (i64::MIN, i64::MAX),
                ..of_green
            },
        };
        // One, two, three or six pods, by seed.
        let pods = [1, 2, 3, 6][(seed % 4) as usize];
        let from = -2 * scenario.scrape;
        let (green, blue) = (
            Fleet::new("green", pods, from, of_green, chance),
            Fleet::new("blue", pods, from, of_blue, chance),
        );
        let mut before = traffic(if switch_at.is_some() { "blue" } else { "green" });
        if let (Some(_), Some(idle)) = (switch_at, before.sides.get_mut(&color("green"))) {
            // Not up yet: what is wrong with blue cannot be cured by a switch to green before its time.
            idle.ready = 0;
        }
        Self {
            green,
            blue,
            observation: Observation {
                at: at(0),
                view: View::Known(Box::new(before)),
                readings: BTreeMap::new(),
                hold: None,
            },
            switch_at,
            first_look: chance.below(POLL),
            fault_at,
            faulty: scenario.faulty,
        }
    }

    fn look(&mut self, now: i64, chance: &mut Chance) -> Observation {
        self.green.advance(now, chance);
        self.blue.advance(now, chance);
        if let Some(switch) = self.switch_at.filter(|switch| now >= *switch) {
            let mut traffic = traffic("green");
            traffic.switched_at = Some(at(switch));
            self.observation.view = View::Known(Box::new(traffic));
            self.switch_at = None;
        }
        // Either the whole source fails, or the answer to one rule is no good.
        let fault = chance.happens(self.faulty).then(|| (absence(chance), chance.below(3)));
        let mut readings = BTreeMap::new();
        for (side, fleet) in [("green", &self.green), ("blue", &self.blue)] {
            let (errors, slow) = fleet
                .read()
                .unwrap_or((Reading::Absent(Absence::Empty), Reading::Absent(Absence::Empty)));
            let spoilt = |which: i64, reading: Reading| match &fault {
                Some((absence, what)) if *what == which || *what == 2 => Reading::Absent(absence.clone()),
                _ => reading,
            };
            let rules = BTreeMap::from([(name("error_rate"), spoilt(0, errors)), (name("p95"), spoilt(1, slow))]);
            readings.insert(color(side), rules);
        }
        self.observation.at = at(now);
        self.observation.readings = readings;
        self.observation.clone()
    }
}

fn absence(chance: &mut Chance) -> Absence {
    match chance.below(8) {
        0 => Absence::Timeout,
        1 => Absence::Error("connection refused".into()),
        2 => Absence::Nan,
        3 => Absence::Infinite,
        4 => Absence::Negative,
        5 => Absence::Empty,
        6 => Absence::Stale,
        _ => Absence::Partial("one store is away".into()),
    }
}

// === the trace, for a run that must be looked at ===

fn header() -> String {
    json!({
        "flipback_trace": 1,
        "rules": [
            {"name": "error_rate", "kind": "error_rate", "threshold": 0.05},
            {"name": "p95", "kind": "latency", "quantile": 0.95, "threshold": "1s"},
        ],
        "policy": {"after_watch": "full"},
    })
    .to_string()
}

fn line(now: i64, switch_at: i64, seen: &Observation) -> String {
    let seconds = |ms: i64| (ms - switch_at) as f64 / 1000.0;
    let when = |time: jiff::Timestamp| seconds(time.duration_since(at(0)).as_millis() as i64);
    let readings = seen.readings.get(&color("green")).into_iter().flatten();
    let rules: serde_json::Map<String, serde_json::Value> = readings
        .map(|(rule, reading)| {
            let shown = match reading {
                Reading::Counters { sample_at, targets } => {
                    let targets: serde_json::Map<String, serde_json::Value> = targets
                        .iter()
                        .map(|(name, counter)| {
                            let mut shown = json!({"total": counter.total});
                            if let Some(sampled) = counter.sample_at {
                                shown["sample_at"] = json!(when(sampled));
                            }
                            if let Some(bad) = counter.bad {
                                shown["bad"] = json!(bad);
                            }
                            if let Some(started) = counter.started {
                                shown["started"] = json!(when(started));
                            }
                            (name.clone(), shown)
                        })
                        .collect();
                    json!({"sample_at": when(*sample_at), "targets": targets})
                }
                Reading::Absent(why) => json!({"unusable": why.word()}),
                other => json!(other),
            };
            (rule.to_string(), shown)
        })
        .collect();
    let ready = json!({"active": 3, "standby": 3});
    json!({"t": seconds(now), "ready": ready, "rules": rules}).to_string()
}
