//! The guard under test, as its users configure it: an error rate of 5 %, p95 within 1 s, every knob at its default.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flipback::{
    decide::Engine,
    model::{
        Color, ColorSpec, CounterRule, EvidenceSpec, GuardId, GuardSpec, Histogram, LatencyRule, Ledger, Mode, Policy, RouteSpec, RuleKind,
        RuleName, RuleSpec, Seen, ServiceRoute, Side, TimeUnit, Traffic,
    },
};
use jiff::{SignedDuration, Timestamp};

const START: i64 = 1_780_000_000;

/// A time of the simulation, in milliseconds.
pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_second(START).expect("in range") + SignedDuration::from_millis(ms)
}

/// A color.
pub fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

/// A rule's name.
pub fn name(name: &str) -> RuleName {
    RuleName::new(name).expect("valid")
}

/// Errors over 5 %.
pub fn error_rate() -> RuleSpec {
    let counters = CounterRule {
        threshold: 0.05,
        total: String::new(),
        bad: String::new(),
    };
    RuleSpec::new(name("error_rate"), RuleKind::ErrorRate(counters))
}

/// More slow requests than a quantile allows.
pub fn latency(rule: &str, quantile: f64) -> RuleSpec {
    let latency = LatencyRule {
        quantile,
        threshold: Duration::from_secs(1),
        unit: TimeUnit::Seconds,
        buckets: String::new(),
        histogram: Histogram::Classic,
    };
    RuleSpec::new(name(rule), RuleKind::Latency(latency))
}

/// A judgement over blue and green.
pub fn engine(rules: Vec<RuleSpec>, policy: Policy) -> Engine {
    let side = |name: &str| {
        let spec = ColorSpec {
            value: name.to_owned(),
            deployment: None,
            service: None,
        };
        (color(name), spec)
    };
    Engine::new(Arc::new(GuardSpec {
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
    }))
}

/// `active` serves, the other stands by with as many Ready endpoints.
pub fn traffic(active: &str) -> Traffic {
    let standby = if active == "green" { "blue" } else { "green" };
    let ready = Side {
        ready: 3,
        ..Side::default()
    };
    Traffic {
        active: color(active),
        standby: color(standby),
        sides: BTreeMap::from([(color("green"), ready.clone()), (color("blue"), ready)]),
        seen: Seen::default(),
        ledger: Ledger::default(),
        paused: None,
        switched_at: None,
        switched_by: None,
        owner: None,
    }
}
