//! The world of the properties: rules, observations, random traces and random rule sets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flipback::{
    decide::Engine,
    model::{
        Absence, Action, Case, Color, ColorSpec, Counter, CounterRule, Decision, EndpointsRule, EvidenceSpec, GuardId, GuardSpec,
        Histogram, Judging, LatencyRule, Ledger, Mode, Observation, Outcome, Path, Policy, ProbeRule, Reading, Release, RouteSpec,
        RuleKind, RuleName, RuleSpec, ScalarRule, Seen, ServiceRoute, Side, TimeUnit, Traffic, Trigger, Verdict, View, Windows,
    },
};
use jiff::Timestamp;
use proptest::prelude::*;

pub(crate) const POLL: i64 = 5;
pub(crate) const START: i64 = 1_780_000_000;

// === the world ===

pub(crate) fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("in range")
}

pub(crate) fn rule(name: &str, kind: RuleKind) -> RuleSpec {
    RuleSpec {
        name: RuleName::new(name).expect("valid"),
        kind,
        action: Action::Rollback,
        critical: false,
        windows: None,
    }
}

pub(crate) fn error_rate() -> RuleSpec {
    let counters = CounterRule {
        threshold: 0.05,
        total: String::new(),
        bad: String::new(),
    };
    rule("error_rate", RuleKind::ErrorRate(counters))
}

pub(crate) fn latency() -> RuleSpec {
    let latency = LatencyRule {
        quantile: 0.95,
        threshold: Duration::from_secs(1),
        unit: TimeUnit::Seconds,
        buckets: String::new(),
        histogram: Histogram::Classic,
    };
    rule("latency", RuleKind::Latency(latency))
}

pub(crate) fn endpoints() -> RuleSpec {
    let down_for = Duration::from_secs(10);
    rule("endpoints", RuleKind::Endpoints(EndpointsRule { down_for }))
}

pub(crate) fn probe() -> RuleSpec {
    let probe = ProbeRule {
        threshold: 0.5,
        path: "/health".into(),
        port: None,
        status: (200, 299),
        body_contains: None,
        timeout: Duration::from_secs(1),
        retries: 0,
        endpoints_max: 10,
    };
    rule("probe", RuleKind::Probe(probe))
}

pub(crate) fn engine(rules: Vec<RuleSpec>, policy: Policy) -> Engine {
    Engine::new(spec(rules, policy))
}

fn spec(rules: Vec<RuleSpec>, policy: Policy) -> Arc<GuardSpec> {
    let side = |name: &str| {
        let spec = ColorSpec {
            value: name.to_owned(),
            deployment: None,
            service: None,
        };
        (color(name), spec)
    };
    Arc::new(GuardSpec {
        id: GuardId::new("", "shop", "web").expect("valid"),
        cluster: String::new(),
        namespace: "shop".into(),
        route: RouteSpec::Service(ServiceRoute {
            active: "web".into(),
            preview: None,
            selector_key: "color".into(),
        }),
        colors: BTreeMap::from([side("blue"), side("green")]),
        rules,
        policy,
        mode: Mode::Enforce,
        scale_up: None,
        connections: flipback::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: vec![],
        config_hash: "c0ffee".into(),
    })
}

pub(crate) fn side(ready: u32, release: Option<&str>) -> Side {
    Side {
        ready,
        release: release.map(|id| Release {
            id: id.to_owned(),
            images: vec![],
        }),
        ..Side::default()
    }
}

/// Green is active, blue stands by; `ready` is (active, standby).
pub(crate) fn traffic(ready: (u32, u32)) -> Traffic {
    Traffic {
        active: color("green"),
        standby: color("blue"),
        sides: BTreeMap::from([
            (color("green"), side(ready.0, Some("v2"))),
            (color("blue"), side(ready.1, Some("v1"))),
        ]),
        seen: Seen::default(),
        ledger: Ledger::default(),
        paused: None,
        switched_at: None,
        switched_by: None,
        owner: None,
    }
}

pub(crate) fn look(t: i64, traffic: &Traffic, readings: &[(&RuleSpec, Reading)]) -> Observation {
    let of_green = readings
        .iter()
        .map(|(rule, reading)| (rule.name.clone(), reading.clone()))
        .collect();
    Observation {
        at: at(t),
        view: View::Known(Box::new(traffic.clone())),
        readings: BTreeMap::from([(color("green"), of_green)]),
        hold: None,
    }
}

pub(crate) fn counters(t: i64, pods: &[(f64, f64)]) -> Reading {
    let counter = |(total, bad): &(f64, f64)| Counter {
        started: None,
        sample_at: None,
        total: *total,
        bad: Some(*bad),
    };
    Reading::Counters {
        sample_at: at(t),
        targets: pods.iter().enumerate().map(|(n, pod)| (format!("pod-{n}"), counter(pod))).collect(),
    }
}

pub(crate) fn rollback(decision: &Decision) -> Option<&Case> {
    match &decision.verdict {
        Verdict::Rollback(case) => Some(case),
        _ => None,
    }
}

pub(crate) fn path(case: &Case) -> Path {
    match &case.trigger {
        Trigger::Rule { path, .. } => *path,
        Trigger::Manual { .. } | Trigger::Reassert { .. } => panic!("no rule asked for it: {case:?}"),
    }
}

// === traces ===

/// What happened in the five seconds before a look, and how it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    pub(crate) requests: u32,
    pub(crate) bad: u32,
    pub(crate) fault: Option<Absence>,
}

pub(crate) fn fault() -> impl Strategy<Value = Option<Absence>> {
    let absence = prop_oneof![
        Just(Absence::Timeout),
        Just(Absence::Nan),
        Just(Absence::Infinite),
        Just(Absence::Negative),
        Just(Absence::Empty),
        Just(Absence::Stale),
        Just(Absence::Partial("one store is away".into())),
    ];
    prop_oneof![17 => Just(None), 3 => absence.prop_map(Some)]
}

/// Requests and the bad ones among them, from none to all; quiet and busy services, healthy and ill ones.
pub(crate) fn served() -> impl Strategy<Value = (u32, u32)> {
    let requests = prop_oneof![1 => 0..5_u32, 2 => 5..60_u32, 4 => 60..600_u32];
    let share = prop_oneof![3 => Just(0.0), 2 => 0.0..0.05_f64, 3 => 0.04..0.3_f64, 2 => 0.3..=1.0_f64];
    (requests, share).prop_map(|(requests, share)| (requests, (f64::from(requests) * share).round() as u32))
}

pub(crate) fn poll() -> impl Strategy<Value = Poll> {
    (served(), fault()).prop_map(|((requests, bad), fault)| Poll { requests, bad, fault })
}

/// Mostly stretches of one kind of weather, so that streaks occur.
pub(crate) fn trace() -> impl Strategy<Value = Vec<Poll>> {
    let stretch = (served(), prop::collection::vec(fault(), 1..12)).prop_map(|((requests, bad), faults)| {
        let poll = |fault| Poll { requests, bad, fault };
        faults.into_iter().map(poll).collect::<Vec<_>>()
    });
    let mixed = prop::collection::vec(poll(), 1..12);
    prop::collection::vec(prop_oneof![3 => stretch, 1 => mixed], 1..8).prop_map(|parts| parts.concat())
}

pub(crate) fn observations(polls: &[Poll]) -> Vec<Observation> {
    Setup::plain().observations(polls)
}

pub(crate) fn play(engine: &mut Engine, seen: &[Observation]) -> Vec<Decision> {
    seen.iter().map(|observation| engine.step(observation)).collect()
}

pub(crate) fn judged(seen: &[Observation]) -> Vec<Decision> {
    Setup::plain().judged(seen)
}

/// When the first rollback was decided, and by which path.
pub(crate) fn fired(seen: &[Observation], decisions: &[Decision]) -> Option<(Timestamp, Path)> {
    let pairs = seen.iter().zip(decisions);
    pairs
        .filter_map(|(seen, decision)| rollback(decision).map(|case| (seen.at, path(case))))
        .next()
}

pub(crate) fn breaches(decisions: &[Decision]) -> usize {
    decisions
        .iter()
        .filter(|decision| decision.rules[0].outcome == Outcome::Breach)
        .count()
}

/// Breaches of every rule, in the rules' order.
pub(crate) fn breaches_by_rule(decisions: &[Decision]) -> Vec<usize> {
    let rules = decisions.first().map_or(0, |decision| decision.rules.len());
    let breach = |index: usize| {
        decisions
            .iter()
            .filter(move |decision| decision.rules[index].outcome == Outcome::Breach)
    };
    (0..rules).map(|index| breach(index).count()).collect()
}

// === rule sets ===

/// Rules of every kind, and how they are judged.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) rules: Vec<RuleSpec>,
    pub(crate) policy: Policy,
}

/// What the standby color and the color before the switch do wrong, always: 2 %, within every threshold here.
const HEALTHY: f64 = 0.02;

/// The rules there are: each breaches over 5 % bad, however it puts it. A number is a thousand times the share.
fn candidate(index: usize) -> RuleSpec {
    let counters = |threshold| CounterRule {
        threshold,
        total: String::new(),
        bad: String::new(),
    };
    let scalar = ScalarRule::default;
    match index {
        0 => error_rate(),
        1 => rule("availability", RuleKind::Availability(counters(0.95))),
        2 => latency(),
        3 => rule(
            "number",
            RuleKind::Promql(ScalarRule {
                max: Some(50.0),
                ..scalar()
            }),
        ),
        4 => rule(
            "good",
            RuleKind::Throughput(ScalarRule {
                min: Some(950.0),
                ..scalar()
            }),
        ),
        5 => rule(
            "to_standby",
            RuleKind::Saturation(ScalarRule {
                max_ratio_to_standby: Some(2.5),
                ..scalar()
            }),
        ),
        _ => rule(
            "to_before",
            RuleKind::Promql(ScalarRule {
                max_ratio_to_before: Some(2.5),
                ..scalar()
            }),
        ),
    }
}

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let picked = prop::sample::subsequence((0..7_usize).collect::<Vec<_>>(), 1..=4);
    let special = prop::collection::vec((prop::bool::weighted(0.1), prop::bool::weighted(0.3)), 7);
    let mixed = (picked, special, prop::bool::weighted(0.4)).prop_map(|(picked, special, classic)| {
        let rule = |index: usize| RuleSpec {
            critical: special[index].0,
            windows: special[index].1.then_some(Windows {
                short: Duration::from_secs(60),
                long: Duration::from_secs(600),
            }),
            ..candidate(index)
        };
        Setup {
            rules: picked.into_iter().map(rule).collect(),
            policy: Policy {
                mode: if classic { Judging::Classic } else { Judging::Intervals },
                ..Policy::default()
            },
        }
    });
    prop_oneof![1 => Just(Setup::plain()), 2 => mixed]
}

/// What was served up to a look: by the counters, and within the last minute.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    counted: (f64, f64),
    newest: (f64, f64),
    minute: Vec<f64>,
    since: (f64, f64),
}

impl Served {
    pub(crate) fn new(total: f64, bad: f64) -> Self {
        Self {
            counted: (total, bad),
            newest: (0.0, 0.0),
            minute: vec![],
            since: (0.0, 0.0),
        }
    }

    pub(crate) fn add(&mut self, requests: f64, bad: f64) {
        self.counted = (self.counted.0 + requests, self.counted.1 + bad);
        self.since = (self.since.0 + requests, self.since.1 + bad);
        self.newest = (requests, bad);
        self.minute.push(requests);
    }

    /// What a rule measures of it at `t`.
    pub(crate) fn reading(&self, rule: &RuleSpec, mode: Judging, t: i64) -> Reading {
        let shares = |(requests, bad): (f64, f64)| bad / requests;
        let number = |share: f64| match (rule.name.as_str(), mode) {
            ("number" | "to_standby" | "to_before", _) => share * 1000.0,
            ("good", _) => 1000.0 - share * 1000.0,
            // A quantile in seconds that is over 1 s when more than 5 % are slower.
            ("latency", _) => share * 20.0,
            _ => share,
        };
        if rule.kind.scalar().is_none() && mode == Judging::Intervals {
            return counters(t, &[self.counted]);
        }
        let window = self.minute.iter().rev().take(12).sum();
        Reading::Scalar {
            sample_at: at(t),
            value: number(shares(self.newest)),
            long: rule.windows.map(|_| number(shares(self.since))),
            before: Some(number(HEALTHY)),
            requests: (rule.kind.scalar().is_none()).then_some(window),
        }
    }
}

impl Setup {
    /// One error rate, judged on intervals.
    pub(crate) fn plain() -> Self {
        Self {
            rules: vec![error_rate()],
            policy: Policy::default(),
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        engine(self.rules.clone(), self.policy.clone())
    }

    pub(crate) fn spec(&self) -> Arc<GuardSpec> {
        spec(self.rules.clone(), self.policy.clone())
    }

    pub(crate) fn judged(&self, seen: &[Observation]) -> Vec<Decision> {
        play(&mut self.engine(), seen)
    }

    /// What every rule measures of what a color served.
    pub(crate) fn readings(&self, served: &Served, t: i64) -> BTreeMap<RuleName, Reading> {
        let reading = |rule: &RuleSpec| (rule.name.clone(), served.reading(rule, self.policy.mode, t));
        self.rules.iter().map(reading).collect()
    }

    /// Nothing usable, for every rule.
    pub(crate) fn absent(&self, absence: &Absence) -> BTreeMap<RuleName, Reading> {
        let absent = |rule: &RuleSpec| (rule.name.clone(), Reading::Absent(absence.clone()));
        self.rules.iter().map(absent).collect()
    }

    /// Green as the polls say, blue always healthy.
    pub(crate) fn observations(&self, polls: &[Poll]) -> Vec<Observation> {
        let traffic = traffic((3, 3));
        let (mut green, mut blue) = (Served::new(10_000.0, 100.0), Served::new(10_000.0, 100.0));
        let first = Poll {
            requests: 0,
            bad: 0,
            fault: None,
        };
        let all = std::iter::once(&first).chain(polls);
        all.zip((0..).step_by(5))
            .map(|(poll, t)| {
                green.add(f64::from(poll.requests), f64::from(poll.bad));
                blue.add(100.0, 100.0 * HEALTHY);
                let seen = match &poll.fault {
                    None => self.readings(&green, t),
                    Some(absence) => self.absent(absence),
                };
                Observation {
                    at: at(t),
                    view: View::Known(Box::new(traffic.clone())),
                    readings: BTreeMap::from([(color("green"), seen), (color("blue"), self.readings(&blue, t))]),
                    hold: None,
                }
            })
            .collect()
    }
}
