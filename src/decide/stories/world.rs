//! The stage: turns lines into observations and compares what the engine says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    decide::{Baseline, Engine},
    model::{
        Absence, Action, Clear, Clearance, Color, ColorSpec, Counter, CounterRule, Decision, EndpointsRule, EvidenceSpec, FlipRecord,
        GuardId, GuardSpec, Histogram, Judging, LatencyRule, Ledger, Mode, Note, Observation, Pause, Policy, ProbeRule, Reading, Release,
        RouteSpec, RuleKind, RuleName, RuleSpec, ScalarRule, ScaleUp, Seen, ServiceRoute, Side, TimeUnit, Traffic, Trigger, Verdict, View,
        Windows,
    },
};

const START: i64 = 1_780_000_000;

pub(super) fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

pub(super) fn rule(name: &str, kind: RuleKind) -> RuleSpec {
    RuleSpec {
        name: RuleName::new(name).expect("valid"),
        kind,
        action: Action::Rollback,
        critical: false,
        windows: None,
    }
}

pub(super) fn error_rate(threshold: f64) -> RuleSpec {
    let counters = CounterRule {
        threshold,
        total: String::new(),
        bad: String::new(),
    };
    rule("error_rate", RuleKind::ErrorRate(counters))
}

pub(super) fn availability(threshold: f64) -> RuleSpec {
    let counters = CounterRule {
        threshold,
        total: String::new(),
        bad: String::new(),
    };
    rule("availability", RuleKind::Availability(counters))
}

/// One number; the kind goes by the name.
pub(super) fn scalar(name: &str, unit: &str, scalar: ScalarRule) -> RuleSpec {
    let scalar = ScalarRule {
        unit: Some(unit.to_owned()).filter(|unit| !unit.is_empty()),
        ..scalar
    };
    rule(
        name,
        match name {
            "throughput" => RuleKind::Throughput(scalar),
            "cpu" => RuleKind::Saturation(scalar),
            _ => RuleKind::Promql(scalar),
        },
    )
}

pub(super) fn max(name: &str, unit: &str, max: f64) -> RuleSpec {
    let limit = ScalarRule {
        max: Some(max),
        ..ScalarRule::default()
    };
    scalar(name, unit, limit)
}

pub(super) fn min(name: &str, unit: &str, min: f64) -> RuleSpec {
    let limit = ScalarRule {
        min: Some(min),
        ..ScalarRule::default()
    };
    scalar(name, unit, limit)
}

/// Minutes that must be over the threshold as well.
pub(super) fn windows(mut rule: RuleSpec, short: u64, long: u64) -> RuleSpec {
    rule.windows = Some(Windows {
        short: Duration::from_secs(60 * short),
        long: Duration::from_secs(60 * long),
    });
    rule
}

pub(super) fn critical(mut rule: RuleSpec) -> RuleSpec {
    rule.critical = true;
    rule
}

pub(super) fn alert(mut rule: RuleSpec) -> RuleSpec {
    rule.action = Action::Alert;
    rule
}

pub(super) fn latency(quantile: f64) -> RuleSpec {
    let latency = LatencyRule {
        quantile,
        threshold: Duration::from_secs(1),
        unit: TimeUnit::Seconds,
        buckets: String::new(),
        histogram: Histogram::Classic,
    };
    rule("latency", RuleKind::Latency(latency))
}

pub(super) fn probe(threshold: f64) -> RuleSpec {
    let probe = ProbeRule {
        threshold,
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

pub(super) fn endpoints() -> RuleSpec {
    let down_for = Duration::from_secs(10);
    rule("endpoints", RuleKind::Endpoints(EndpointsRule { down_for }))
}

/// Everything that happens around the engine.
pub(super) struct World {
    pub(super) rules: Vec<RuleSpec>,
    pub(super) policy: Policy,
    /// Whether releases can be told apart.
    pub(super) releases: bool,
    pub(super) switched_at: Option<i64>,
    /// What is told of the time before the switch.
    pub(super) baselines: Vec<(&'static str, Baseline)>,
    engine: Option<Engine>,
    counted: BTreeMap<(Color, RuleName), (f64, f64)>,
    active: Color,
    standby: Color,
    ready: BTreeMap<Color, u32>,
    /// How the guard brings a standby up that is scaled down.
    pub(super) scale_up: Option<ScaleUp>,
    /// Replicas asked for of the standby.
    desired: Option<u32>,
    /// When an earlier run began to wait for the standby, for the engine of the next start.
    awaits: Option<i64>,
    runs: BTreeMap<Color, String>,
    ledger: Ledger,
    paused: bool,
    /// When and by whom traffic was moved last, as the object tells.
    switched: Option<(Timestamp, String)>,
    clock: i64,
    sample: Option<i64>,
    last: Option<Decision>,
}

impl Default for World {
    fn default() -> Self {
        let (blue, green) = (color("blue"), color("green"));
        Self {
            rules: vec![error_rate(0.05)],
            policy: Policy::default(),
            releases: true,
            switched_at: None,
            baselines: vec![],
            engine: None,
            counted: BTreeMap::new(),
            active: green.clone(),
            standby: blue.clone(),
            ready: BTreeMap::from([(blue.clone(), 3), (green.clone(), 3)]),
            scale_up: None,
            desired: None,
            awaits: None,
            runs: BTreeMap::from([(blue, "v1".into()), (green, "v2".into())]),
            ledger: Ledger::default(),
            paused: false,
            switched: None,
            clock: 0,
            sample: None,
            last: None,
        }
    }
}

/// What one line says of one look.
#[derive(Default)]
struct Scene {
    absent: Option<Absence>,
    stale: bool,
    /// Numbers by color and rule: as the rule's name, or with `.long`, `.before`, `.requests` behind it.
    numbers: BTreeMap<(Color, String), f64>,
    unwatched: bool,
    unavailable: bool,
    probe: Option<(u32, u32)>,
    standby_probe: Option<(u32, u32)>,
    view: Option<View>,
}

impl Scene {
    /// The number that this look shows of a rule on a color.
    fn read(&self, color: &Color, rule: &RuleSpec, sample_at: Timestamp) -> Reading {
        if let Some(absence) = &self.absent {
            return Reading::Absent(absence.clone());
        }
        let of = |what: &str| self.numbers.get(&(color.clone(), format!("{}{what}", rule.name))).copied();
        match of("") {
            None => Reading::Absent(Absence::Timeout),
            Some(value) => Reading::Scalar {
                sample_at,
                value,
                long: of(".long"),
                before: of(".before"),
                requests: of(".requests"),
            },
        }
    }
}

impl World {
    pub(super) fn with(rules: Vec<RuleSpec>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The same, judged as the scripts did: windows as numbers.
    pub(super) fn classic(rules: Vec<RuleSpec>) -> Self {
        let mut world = Self::with(rules);
        world.policy.mode = Judging::Classic;
        world
    }

    /// Adds a third color that is neither active nor the standby.
    pub(super) fn and_red(mut self) -> Self {
        self.ready.insert(color("red"), 3);
        self.runs.insert(color("red"), "v0".into());
        self
    }

    /// Plays every line.
    pub(super) fn play(&mut self, text: &str) {
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (left, right) = line.split_once("->").unwrap_or((line, ""));
            let mut words = left.split_whitespace();
            let when = words
                .next()
                .and_then(|word| word.strip_prefix("t="))
                .expect("a line starts with t=");
            let words: Vec<&str> = words.collect();
            let (first, last) = when.split_once("..").unwrap_or((when, when));
            let (mut t, last): (i64, i64) = (first.parse().expect("seconds"), last.parse().expect("seconds"));
            while t <= last {
                let decision = self.look(t, &words);
                check(&decision, right, &format!("t={t}: {line}"));
                self.last = Some(decision);
                t += i64::try_from(self.policy.poll.as_secs()).expect("small");
            }
        }
    }

    fn look(&mut self, t: i64, words: &[&str]) -> Decision {
        let mut scene = Scene::default();
        for word in words {
            self.happen(t, word, &mut scene);
        }
        let at = self.time(t);
        if !scene.stale {
            self.sample = Some(t + self.clock);
        }
        let view = scene.view.take().unwrap_or_else(|| View::Known(Box::new(self.traffic(&scene))));
        let readings = self
            .ready
            .keys()
            .map(|color| {
                let of = |rule: &RuleSpec| (rule.name.clone(), self.reading(color, rule, at, &scene));
                (color.clone(), self.rules.iter().map(of).collect())
            })
            .collect();
        let engine = self.engine.get_or_insert_with(|| {
            let mut engine = Engine::new(spec(&self.rules, &self.policy, self.scale_up));
            for (rule, baseline) in &self.baselines {
                engine.assume(RuleName::new(rule).expect("valid"), *baseline);
            }
            if let Some(since) = self.awaits {
                engine.awaits(self.standby.clone(), Timestamp::from_second(START + since).expect("in range"));
            }
            engine
        });
        engine.step(&Observation {
            at,
            view,
            readings,
            hold: None,
        })
    }

    fn happen(&mut self, t: i64, word: &str, scene: &mut Scene) {
        let error_rate = || RuleName::new("error_rate").expect("valid");
        match word {
            "timeout" => scene.absent = Some(Absence::Timeout),
            "nan" => scene.absent = Some(Absence::Nan),
            "empty" => scene.absent = Some(Absence::Empty),
            "stale" => scene.stale = true,
            "unwatched" => scene.unwatched = true,
            "unavailable" => scene.unavailable = true,
            "switch" => {
                self.swap();
                self.switched = None;
            }
            "flip" => self.flip(t, true),
            "rollback-by-hand" => self.flip(t, false),
            "forget" => {
                let bad = self.ledger.marked().into_keys().next().expect("a bad release").to_owned();
                self.clear(t, &Clear::Release(bad));
            }
            "arm" => self.clear(t, &Clear::Count),
            "pause" => self.paused = true,
            "resume" => self.paused = false,
            "restart" => self.engine = None,
            "unreadable" => scene.view = Some(View::Unreadable("the API server does not answer".into())),
            "unknown" => {
                scene.view = Some(View::UnknownColor {
                    found: Some("purple".into()),
                    known: vec!["blue".into(), "green".into()],
                });
            }
            _ => {
                let (key, value) = word.split_once(['=', ':']).unwrap_or(("", word));
                let pair = || value.split_once('/').expect("two numbers");
                match key {
                    "" => self.count(self.active.clone(), error_rate(), pair()),
                    _ if self.is_number(key) => self.number(key, value, scene),
                    "latency" | "p99" | "availability" => self.count(self.active.clone(), RuleName::new(key).expect("valid"), pair()),
                    "red" => self.count(color("red"), error_rate(), pair()),
                    "standby" => self.count(self.standby.clone(), error_rate(), pair()),
                    "probe" => scene.probe = Some((pair().0.parse().expect("failed"), pair().1.parse().expect("asked"))),
                    "standby-probe" => scene.standby_probe = Some((pair().0.parse().expect("failed"), pair().1.parse().expect("asked"))),
                    "desired" => self.desired = Some(value.parse().expect("replicas")),
                    "awaits" => self.awaits = Some(value.parse().expect("seconds")),
                    "ready" => {
                        self.ready.insert(self.active.clone(), pair().0.parse().expect("active"));
                        self.ready.insert(self.standby.clone(), pair().1.parse().expect("standby"));
                    }
                    // Somebody moves traffic to the other color, and the object tells who and when.
                    "switch-by" => {
                        self.swap();
                        self.switched = Some((self.time(t), value.to_owned()));
                    }
                    // Flipped away, and moved back before the next look.
                    "flip-and-back-by" => {
                        self.flip(t, true);
                        self.swap();
                        self.switched = Some((self.time(t), value.to_owned()));
                    }
                    "release" => drop(self.runs.insert(self.active.clone(), value.into())),
                    "standby-release" => drop(self.runs.insert(self.standby.clone(), value.into())),
                    "clock" => self.clock += value.parse::<i64>().expect("seconds"),
                    _ => panic!("no such word: {word}"),
                }
            }
        }
    }

    fn is_number(&self, key: &str) -> bool {
        let name = key.split('.').next().unwrap_or(key);
        let classic = self.policy.mode == Judging::Classic;
        let number = |rule: &RuleSpec| rule.kind.scalar().is_some() || (classic && rule.kind.needs_prometheus());
        self.rules.iter().any(|rule| rule.name.as_str() == name && number(rule))
    }

    /// `active`, `active/standby` or `active/standby/red`.
    fn number(&self, key: &str, value: &str, scene: &mut Scene) {
        for (color, value) in [&self.active, &self.standby, &color("red")].into_iter().zip(value.split('/')) {
            let value: f64 = value.parse().expect("a number");
            scene.numbers.insert((color.clone(), key.to_owned()), value);
        }
    }

    fn count(&mut self, color: Color, rule: RuleName, (total, bad): (&str, &str)) {
        let known = self.counted.entry((color, rule)).or_insert((1_000_000.0, 1_000.0));
        known.0 += total.parse::<f64>().expect("requests");
        known.1 += bad.parse::<f64>().expect("bad requests");
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.active, &mut self.standby);
    }

    fn flip(&mut self, t: i64, automatic: bool) {
        let trigger = match self.last.as_ref().map(|decision| &decision.verdict) {
            Some(Verdict::Rollback(case)) => case.trigger.clone(),
            _ if automatic => panic!("flipback flips only after a rollback was decided"),
            _ => Trigger::Manual {
                by: "ada".into(),
                reason: "looks bad".into(),
            },
        };
        let reassert = match &trigger {
            Trigger::Reassert { attempt, .. } => Some(*attempt),
            Trigger::Rule { .. } | Trigger::Manual { .. } => None,
        };
        let record = FlipRecord {
            at: self.time(t),
            from: self.active.clone(),
            to: self.standby.clone(),
            from_release: self.releases.then(|| self.runs[&self.active].clone()),
            to_release: self.releases.then(|| self.runs[&self.standby].clone()),
            from_images: Vec::new(),
            automatic,
            bad: true,
            trigger: trigger.to_string(),
            by: None,
            why: "12 % over 5 %".into(),
            incident: format!("i{}", self.ledger.flips.len()),
            reassert,
            forgotten: None,
            discounted: None,
            thread: None,
            rest: serde_json::Map::new(),
        };
        self.ledger = self.ledger.with(record);
        self.swap();
        self.switched = Some((self.time(t), "flipback".into()));
    }

    fn clear(&mut self, t: i64, clear: &Clear) {
        let word = Clearance {
            by: "ada".into(),
            at: self.time(t),
            reason: "mended".into(),
        };
        self.ledger = self.ledger.cleared(clear, &word).expect("something to clear");
    }

    fn time(&self, t: i64) -> Timestamp {
        Timestamp::from_second(START + t + self.clock).expect("in range")
    }

    fn traffic(&self, scene: &Scene) -> Traffic {
        let standby = |color: &Color| *color == self.standby;
        let side = |color: &Color| Side {
            ready: self.ready[color],
            unwatched: scene.unwatched,
            desired: self.desired.filter(|_| standby(color)),
            unavailable: (scene.unavailable && standby(color)).then(|| "Deployment/blue says so".to_owned()),
            release: self.releases.then(|| Release {
                id: self.runs[color].clone(),
                images: vec![],
            }),
            ..Side::default()
        };
        Traffic {
            active: self.active.clone(),
            standby: self.standby.clone(),
            sides: self.ready.keys().map(|color| (color.clone(), side(color))).collect(),
            seen: Seen::default(),
            ledger: self.ledger.clone(),
            paused: self.paused.then(|| Pause {
                by: "ada".into(),
                at: Timestamp::UNIX_EPOCH,
                reason: String::new(),
                until: None,
            }),
            switched_at: (self.switched.as_ref().map(|(at, _)| *at))
                .or_else(|| self.switched_at.map(|t| Timestamp::from_second(START + t).expect("in range"))),
            switched_by: self.switched.as_ref().map(|(_, by)| by.clone()),
            owner: None,
        }
    }

    fn reading(&self, color: &Color, rule: &RuleSpec, at: Timestamp, scene: &Scene) -> Reading {
        let sample_at = self.sample.map_or(at, |t| Timestamp::from_second(START + t).expect("in range"));
        match &rule.kind {
            _ if self.is_number(rule.name.as_str()) => scene.read(color, rule, sample_at),
            RuleKind::ErrorRate(_) | RuleKind::Availability(_) | RuleKind::Latency(_) => {
                if let Some(absence) = &scene.absent {
                    return Reading::Absent(absence.clone());
                }
                let (total, bad) = self
                    .counted
                    .get(&(color.clone(), rule.name.clone()))
                    .copied()
                    .unwrap_or((1_000_000.0, 1_000.0));
                let counter = Counter {
                    started: None,
                    sample_at: None,
                    total,
                    bad: Some(bad),
                };
                Reading::Counters {
                    sample_at,
                    targets: BTreeMap::from([(format!("{color}-1"), counter)]),
                }
            }
            RuleKind::Promql(_) | RuleKind::Throughput(_) | RuleKind::Saturation(_) => unreachable!("a number"),
            RuleKind::Probe(_) => match if *color == self.active { scene.probe } else { scene.standby_probe } {
                Some((failed, asked)) => Reading::Probes {
                    sample_at: at,
                    asked,
                    failed,
                    detail: (failed > 0).then(|| "connection refused".into()),
                },
                None => Reading::Absent(Absence::Timeout),
            },
            RuleKind::Endpoints(_) => Reading::Ready {
                sample_at: at,
                ready: self.ready[color],
            },
        }
    }

    /// The end of the watch, in seconds of the story.
    pub(super) fn watch_until(&self) -> Option<i64> {
        let until = self.engine.as_ref()?.watch_until()?;
        Some(until.duration_since(Timestamp::from_second(START).expect("in range")).as_secs())
    }

    /// The newest decision.
    pub(super) fn decision(&self) -> &Decision {
        self.last.as_ref().expect("a line was played")
    }

    /// Replicas that the standby would be scaled up to.
    pub(super) fn scale_target(&self) -> Option<u32> {
        let spec = spec(&self.rules, &self.policy, self.scale_up);
        crate::decide::scale_target(&spec, &self.traffic(&Scene::default()), &self.standby)
    }

    /// What a person's flip to a color would be answered.
    pub(super) fn manual(&self, t: i64, to: &str) -> String {
        let seen = Observation {
            at: Timestamp::from_second(START + t)
                .unwrap_or_default()
                .saturating_add(SignedDuration::ZERO)
                .unwrap_or_default(),
            view: View::Known(Box::new(self.traffic(&Scene::default()))),
            readings: BTreeMap::new(),
            hold: None,
        };
        let trigger = Trigger::Manual {
            by: "ada".into(),
            reason: "looks bad".into(),
        };
        match self.engine.as_ref().expect("a line was played").manual(&seen, &color(to), trigger) {
            Ok(case) => format!("{} to {}: {}", case.from, case.to, case.why),
            Err(refusal) => refusal.to_string(),
        }
    }
}

fn spec(rules: &[RuleSpec], policy: &Policy, scale_up: Option<ScaleUp>) -> Arc<GuardSpec> {
    let side = |name: &str| {
        let spec = ColorSpec {
            value: name.to_owned(),
            deployment: Some(name.to_owned()),
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
        rules: rules.to_vec(),
        policy: policy.clone(),
        mode: Mode::Enforce,
        scale_up,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: vec![],
        config_hash: "c0ffee".into(),
    })
}

fn check(decision: &Decision, expected: &str, line: &str) {
    let verdict = word(&decision.verdict);
    let told: Vec<String> = decision.notes.iter().map(tag).collect();
    let mut named = false;
    for claim in expected.split(',').map(str::trim).filter(|claim| !claim.is_empty()) {
        let (key, rest) = claim.split_once(' ').unwrap_or((claim, ""));
        match key {
            "hold" | "rollback" | "blocked" | "suppressed" => {
                named = true;
                assert_eq!(verdict, key, "{line}\n  {}", decision.why);
            }
            "path" => assert_eq!(path(&decision.verdict), rest, "{line}\n  {}", decision.why),
            "phase" => assert_eq!(decision.phase.as_str(), rest, "{line}\n  {}", decision.why),
            "note" => assert!(told.iter().any(|note| note == rest), "{line}\n  told: {told:?}"),
            "quiet" => assert!(told.is_empty(), "{line}\n  told: {told:?}"),
            "shows" => shows(decision, rest, line),
            "why:" => assert!(decision.why.contains(rest), "{line}\n  {}", decision.why),
            _ => outcome(decision, claim, line),
        }
    }
    assert!(named || verdict == "hold", "{line}\n  unexpected {verdict}: {}", decision.why);
}

fn outcome(decision: &Decision, claim: &str, line: &str) {
    let (state, claim) = match claim.split_once(": ") {
        Some((name, claim)) => (decision.rules.iter().find(|state| state.rule.as_str() == name), claim),
        None => (decision.rules.first(), claim),
    };
    let state = state.expect("a rule of that name");
    let (word, streak) = claim.split_once(' ').unwrap_or((claim, ""));
    assert_eq!(state.outcome.word(), word, "{line}\n  {}", state.why);
    if !streak.is_empty() {
        assert_eq!(format!("{}/{}", state.streak, state.of), streak, "{line}\n  {}", state.why);
    }
}

/// `shows 0.992 under 0.999`: the first rule's value and what it is compared to.
fn shows(decision: &Decision, claim: &str, line: &str) {
    let state = decision.rules.first().expect("a rule");
    let side = if state.below { "under" } else { "over" };
    let round = |number: f64| (number * 1e6).round() / 1e6;
    let value = state.value.map_or(f64::NAN, round);
    assert_eq!(
        format!("{value} {side} {}", round(state.threshold)),
        claim,
        "{line}\n  {}",
        state.why
    );
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Hold => "hold",
        Verdict::Rollback(_) => "rollback",
        Verdict::Suppressed(..) => "suppressed",
        Verdict::Blocked(..) => "blocked",
    }
}

fn path(verdict: &Verdict) -> String {
    let (Verdict::Rollback(case) | Verdict::Suppressed(case, _) | Verdict::Blocked(case, _)) = verdict else {
        return String::new();
    };
    match &case.trigger {
        Trigger::Rule { path, .. } => format!("{path:?}").to_lowercase(),
        Trigger::Reassert { by, attempt, of } => format!("reassert {attempt}/{of} of {by}"),
        Trigger::Manual { .. } => "manual".into(),
    }
}

fn tag(note: &Note) -> String {
    let json = serde_json::to_value(note).expect("serializes");
    json["note"].as_str().expect("tagged").to_owned()
}
