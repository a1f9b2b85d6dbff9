//! Traces: what is written is what is judged, to the bit (P12 of DECISIONS.md), golden traces, and readers of nonsense.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use flipback::{
    decide::{Engine, record::Recorder, trace},
    model::{
        Absence, Action, Color, ColorSpec, Counter, CounterRule, Decision, EndpointsRule, EvidenceSpec, FlipRecord, GuardId, GuardSpec,
        Histogram, Judging, LatencyRule, Ledger, Mode, Observation, Pause, Policy, ProbeRule, Reading, Release, RouteSpec, RuleKind,
        RuleName, RuleSpec, ScalarRule, Seen, ServiceRoute, Side, TimeUnit, Traffic, Verdict, View, Windows,
    },
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

// === P12 ===

fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

fn named(name: &str, kind: RuleKind) -> RuleSpec {
    RuleSpec::new(RuleName::new(name).expect("valid"), kind)
}

fn counters() -> CounterRule {
    CounterRule {
        threshold: 0.05,
        total: "http_requests_total{pod=~\"{deployment}-.+\"}".into(),
        bad: String::new(),
    }
}

/// Every kind of rule.
fn rules() -> Vec<RuleSpec> {
    let probe = ProbeRule {
        threshold: 0.5,
        path: "/health".into(),
        port: Some(8080),
        status: (200, 299),
        body_contains: None,
        timeout: Duration::from_secs(1),
        retries: 0,
        endpoints_max: 10,
    };
    let latency = LatencyRule {
        quantile: 0.95,
        threshold: Duration::from_millis(1500),
        unit: TimeUnit::Milliseconds,
        buckets: String::new(),
        histogram: Histogram::Classic,
    };
    let good = CounterRule {
        threshold: 0.99,
        ..counters()
    };
    let scalar = ScalarRule {
        expr: "queue".into(),
        max: Some(10.0),
        max_ratio_to_standby: Some(2.0),
        ..ScalarRule::default()
    };
    vec![
        named("error_rate", RuleKind::ErrorRate(counters())),
        RuleSpec {
            action: Action::Alert,
            ..named("availability", RuleKind::Availability(good))
        },
        named("latency_p95", RuleKind::Latency(latency)),
        named("queue", RuleKind::Promql(scalar)),
        named("probe", RuleKind::Probe(probe)),
        named(
            "endpoints",
            RuleKind::Endpoints(EndpointsRule {
                down_for: Duration::from_secs(10),
            }),
        ),
    ]
}

fn spec() -> Arc<GuardSpec> {
    let side = |name: &str| {
        let spec = ColorSpec {
            value: name.to_owned(),
            deployment: Some(format!("web-{name}")),
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
            selector_key: "slot".into(),
        }),
        colors: BTreeMap::from([side("blue"), side("green"), side("teal")]),
        rules: rules(),
        policy: Policy {
            watch: Duration::from_secs(400),
            cooldown: Duration::from_secs(30),
            slow_hold: Duration::from_secs(30),
            warm_up_latency: Duration::from_millis(12_345),
            ..Policy::default()
        },
        mode: Mode::Enforce,
        scale_up: None,
        connections: flipback::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: vec![],
        config_hash: "c0ffee".into(),
    })
}

/// The same guard under the scripts' rule, or with rules that ask two windows.
fn spec_of(seed: u64) -> Arc<GuardSpec> {
    let mut spec = GuardSpec::clone(&spec());
    match seed % 3 {
        0 => {
            spec.policy.mode = Judging::Classic;
            spec.policy.min_requests = Some(10);
        }
        1 => {
            let windows = Windows {
                short: Duration::from_secs(30),
                long: Duration::from_secs(120),
            };
            spec.rules.iter_mut().take(4).for_each(|rule| rule.windows = Some(windows));
        }
        _ => {}
    }
    Arc::new(spec)
}

/// A world that does whatever its dice say: faults, stretches of badness, switches, pauses, clock steps.
struct World {
    dice: SmallRng,
    now: Timestamp,
    sample: Timestamp,
    traffic: Traffic,
    counted: BTreeMap<(Color, String, usize), (f64, f64)>,
    /// Whether ratios are answered as numbers.
    classic: bool,
    /// Bad share of the present weather.
    bad: f64,
    absent: f64,
}

impl World {
    fn new(seed: u64) -> Self {
        let now: Timestamp = "2026-11-21T05:00:00.123456Z".parse().expect("a time");
        let side = |ready, id: &str| Side {
            ready,
            release: Some(Release {
                id: id.to_owned(),
                images: vec![format!("shop:{id}")],
            }),
            ..Side::default()
        };
        Self {
            dice: SmallRng::seed_from_u64(seed),
            now,
            sample: now,
            traffic: Traffic {
                active: color("green"),
                standby: color("blue"),
                sides: BTreeMap::from([
                    (color("green"), side(4, "v2")),
                    (color("blue"), side(4, "v1")),
                    (color("teal"), side(1, "v0")),
                ]),
                seen: Seen::default(),
                ledger: Ledger::default(),
                paused: None,
                switched_at: None,
                switched_by: None,
                owner: None,
            },
            counted: BTreeMap::new(),
            classic: seed.is_multiple_of(3),
            bad: 0.0,
            absent: 0.1,
        }
    }

    fn chance(&mut self, of: f64) -> bool {
        self.dice.random_bool(of)
    }

    fn look(&mut self) -> Observation {
        let step = match self.dice.random_range(0..100) {
            0 => 3_600_000_000,
            1 => -3_600_000_000,
            _ => self.dice.random_range(1_000_000..7_000_000_i64),
        };
        self.now = self.now.saturating_add(SignedDuration::from_micros(step)).expect("no overflow");
        if self.chance(0.1) {
            self.bad = [0.0, 0.0, 0.02, 0.12, 0.9][self.dice.random_range(0..5)];
            self.absent = [0.0, 0.1, 0.9][self.dice.random_range(0..3)];
        }
        self.happen();
        if self.chance(0.8) {
            let late = self.dice.random_range(0..1_000_000);
            self.sample = self.now.saturating_sub(SignedDuration::from_micros(late)).expect("no overflow");
        }
        let colors = [color("green"), color("blue"), color("teal")];
        let readings = colors.map(|color| (color.clone(), self.readings(&color)));
        let view = match self.dice.random_range(0..40) {
            0 => View::Unreadable("the API server \"does\" not answer".into()),
            1 => View::UnknownColor {
                found: self.chance(0.5).then(|| "purple".into()),
                known: vec!["blue".into()],
            },
            _ => View::Known(Box::new(self.traffic.clone())),
        };
        let mut readings: BTreeMap<_, _> = readings.into();
        if self.chance(0.05) {
            readings.remove(&color("green"));
        }
        Observation {
            at: self.now,
            view,
            readings,
            hold: None,
        }
    }

    fn happen(&mut self) {
        let traffic = &mut self.traffic;
        match self.dice.random_range(0..60) {
            0 => std::mem::swap(&mut traffic.active, &mut traffic.standby),
            1 => {
                let flip = FlipRecord {
                    at: self.now,
                    from: traffic.active.clone(),
                    to: traffic.standby.clone(),
                    from_release: self.dice.random_bool(0.5).then(|| "v2".to_owned()),
                    to_release: self.dice.random_bool(0.5).then(|| "v1".to_owned()),
                    automatic: self.dice.random_bool(0.5),
                    bad: true,
                    trigger: "error_rate".into(),
                    why: "why".into(),
                    incident: "i".into(),
                    from_images: Vec::new(),
                    by: None,
                    reassert: None,
                    forgotten: None,
                    discounted: None,
                    thread: None,
                    rest: serde_json::Map::new(),
                };
                traffic.ledger = traffic.ledger.with(flip);
                std::mem::swap(&mut traffic.active, &mut traffic.standby);
                traffic.switched_at = Some(self.now);
                traffic.switched_by = Some("flipback".into());
            }
            2 => {
                traffic.paused = match traffic.paused {
                    Some(_) => None,
                    None => Some(Pause {
                        by: "ada".into(),
                        at: self.now,
                        reason: String::new(),
                        until: None,
                    }),
                }
            }
            3..6 => {
                for side in traffic.sides.values_mut() {
                    side.ready = self.dice.random_range(0..5);
                }
            }
            _ => {}
        }
    }

    fn readings(&mut self, of: &Color) -> BTreeMap<RuleName, Reading> {
        let mut readings = BTreeMap::new();
        for rule in rules() {
            if self.chance(0.03) {
                continue;
            }
            let reading = if self.chance(self.absent) {
                self.fault()
            } else {
                self.reading(of, &rule)
            };
            readings.insert(rule.name, reading);
        }
        readings
    }

    fn fault(&mut self) -> Reading {
        let faults = [
            Absence::Timeout,
            Absence::Error("503: \"upstream\"\n".into()),
            Absence::Nan,
            Absence::Infinite,
            Absence::Negative,
            Absence::Empty,
            Absence::Stale,
            Absence::Partial("one store is away".into()),
            Absence::Impossible,
            Absence::NoBucket("0.5 and 1".into()),
            Absence::Ambiguous("sum(x)".into()),
        ];
        Reading::Absent(faults[self.dice.random_range(0..faults.len())].clone())
    }

    fn reading(&mut self, of: &Color, rule: &RuleSpec) -> Reading {
        let sample_at = self.sample;
        let bad = if *of == color("green") { self.bad } else { self.bad / 3.0 };
        match &rule.kind {
            RuleKind::Probe(_) => Reading::Probes {
                sample_at: self.now,
                asked: 3,
                failed: if self.chance(bad) { 3 } else { 0 },
                detail: self.chance(0.5).then(|| "connection refused".into()),
            },
            RuleKind::Endpoints(_) => Reading::Ready {
                sample_at: self.now,
                ready: self.traffic.sides[of].ready,
            },
            RuleKind::Promql(_) => Reading::Scalar {
                sample_at,
                value: [0.1 + 0.2, 12.5, 1e-300, f64::NAN, f64::INFINITY, -0.0, 30.0, 30.0][self.dice.random_range(0..8)],
                long: self.chance(0.5).then_some(25.0),
                before: self.chance(0.5).then_some(1.0 / 3.0),
                requests: Some(self.dice.random_range(0.0..100.0)),
            },
            RuleKind::ErrorRate(_) | RuleKind::Availability(_) | RuleKind::Latency(_) if self.classic => Reading::Scalar {
                sample_at,
                value: bad * self.dice.random_range(0.5..3.0),
                long: None,
                before: None,
                requests: Some(self.dice.random_range(0.0..100.0)),
            },
            _ => {
                let targets = (0..2).map(|pod| (format!("10.0.0.{pod}:8080"), self.counter(of, rule, pod, bad)));
                Reading::Counters {
                    sample_at,
                    targets: targets.collect(),
                }
            }
        }
    }

    fn counter(&mut self, of: &Color, rule: &RuleSpec, pod: usize, bad: f64) -> Counter {
        let (requests, reset) = (self.dice.random_range(0.0..400.0_f64), self.chance(0.02));
        let whole = self.chance(0.8);
        let odd = self.chance(0.02);
        let started = self.chance(0.3).then_some(self.sample);
        // Targets are scraped one after another; how long before the newest one this was is of no matter.
        let apart = SignedDuration::from_millis(1700 * pod as i64);
        let sample_at = self.chance(0.5).then(|| self.sample - apart);
        let counted = self.counted.entry((of.clone(), rule.name.to_string(), pod)).or_default();
        if reset {
            *counted = (0.0, 0.0);
        }
        let requests = if whole { requests.round() } else { requests };
        counted.0 += requests;
        counted.1 += (requests * bad).min(requests);
        let total = if odd { f64::INFINITY } else { counted.0 };
        Counter {
            started,
            sample_at,
            total,
            bad: (counted.1 > 0.0).then_some(counted.1),
        }
    }
}

/// Everything a decision says, to the bit: what `Debug` shows of an f64 reads back as that f64.
fn told(decision: &Decision) -> String {
    format!("{decision:?}")
}

/// Replays a record and gives what its last look decides.
fn replayed(record: &str) -> (Vec<Observation>, Decision) {
    let (header, looks) = trace::read(record.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{record}"));
    let mut engine = header.engine();
    let mut last = None;
    for look in &looks {
        last = Some(engine.step(look));
    }
    (looks, last.expect("a record has a look"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// P12: whatever happened, at any look, the record replays to that look's very decision; also right after a restart.
    #[test]
    fn p12_replaying_a_record_reproduces_the_verdict(seed in any::<u64>(), looks in 20..120_usize, restart in 10..60_usize) {
        let spec = spec_of(seed);
        let mut world = World::new(seed);
        let (mut engine, mut recorder) = (Engine::new(Arc::clone(&spec)), Recorder::new(Arc::clone(&spec)));
        for n in 0..looks {
            if n == restart {
                (engine, recorder) = (Engine::new(Arc::clone(&spec)), Recorder::new(Arc::clone(&spec)));
            }
            let seen = world.look();
            recorder.look(&engine, &seen);
            let decision = engine.step(&seen);
            recorder.decided(&decision);
            if n % 5 == 0 || decision.verdict != Verdict::Hold {
                let record = recorder.trace().expect("has looked");
                let (_, again) = replayed(&record);
                prop_assert_eq!(told(&again), told(&decision), "look {} of\n{}", n, record);
            }
        }
    }

    /// An engine that was written down and read back goes on as if nothing had happened.
    #[test]
    fn an_engine_is_its_state(seed in any::<u64>(), looks in 10..80_usize, every in 1..9_usize) {
        let spec = spec_of(seed);
        let mut world = World::new(seed);
        let (mut first, mut second) = (Engine::new(Arc::clone(&spec)), Engine::new(Arc::clone(&spec)));
        for n in 0..looks {
            if n % every == 0 {
                let text = serde_json::to_string(&second).expect("serializes");
                let read = serde_json::from_str(&text).expect("reads back");
                second = Engine::resume(Arc::clone(&spec), read).expect("of the same rules");
                prop_assert_eq!(serde_json::to_string(&second).expect("serializes"), text);
            }
            let seen = world.look();
            prop_assert_eq!(told(&second.step(&seen)), told(&first.step(&seen)));
        }
    }

    /// No line, however mangled, panics; what is refused is named by its line.
    #[test]
    fn mangled_traces_are_refused_by_line(seed in any::<u64>(), cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6)) {
        let spec = spec_of(seed);
        let mut world = World::new(seed);
        let (mut engine, mut recorder) = (Engine::new(Arc::clone(&spec)), Recorder::new(Arc::clone(&spec)));
        for _ in 0..5 {
            let seen = world.look();
            recorder.look(&engine, &seen);
            engine.step(&seen);
        }
        let mut bytes = recorder.trace().expect("has looked").into_bytes();
        for (place, byte, how) in cuts {
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        match trace::read(&bytes) {
            Ok((header, looks)) => {
                let mut engine = header.engine();
                looks.iter().for_each(|look| drop(engine.step(look)));
            }
            Err(error) => prop_assert!(error.line >= 1 && error.to_string().starts_with("line ")),
        }
    }
}

#[test]
fn a_record_rolls_forward_while_calm_and_stays_within_its_bounds() {
    let spec = spec();
    let mut world = World::new(7);
    let (mut engine, mut recorder) = (Engine::new(Arc::clone(&spec)), Recorder::new(Arc::clone(&spec)));
    let (mut longest, mut shortest) = (0, usize::MAX);
    for _ in 0..3000 {
        let seen = world.look();
        recorder.look(&engine, &seen);
        recorder.decided(&engine.step(&seen));
        (longest, shortest) = (longest.max(recorder.bytes()), shortest.min(recorder.bytes()));
    }
    assert!(longest < 160 * 1024, "{longest} bytes of looks");
    assert!(shortest < 16 * 1024, "never rolled: {shortest}");
}

/// What a daemon of 500 calm guards holds of their looks: a few megabytes.
#[test]
fn the_record_of_a_calm_guard_is_small() {
    let spec = Arc::new(GuardSpec {
        rules: rules()
            .into_iter()
            .filter(|rule| !matches!(rule.name.as_str(), "queue" | "probe" | "availability"))
            .collect(),
        ..GuardSpec::clone(&spec())
    });
    let (mut engine, mut recorder) = (Engine::new(Arc::clone(&spec)), Recorder::new(Arc::clone(&spec)));
    let mut world = World::new(1);
    let (mut bytes, mut looks) = (0, 0);
    // Every five seconds, over a Prometheus that scrapes every fifteen.
    for n in 0..400_i64 {
        world.now = world.now.saturating_add(SignedDuration::from_secs(5)).expect("no overflow");
        if n % 3 == 0 {
            world.sample = world.now;
        }
        let reading = |of: &Color, rule: &RuleSpec| match rule.kind {
            RuleKind::Endpoints(_) => Reading::Ready {
                sample_at: world.now,
                ready: world.traffic.sides[of].ready,
            },
            _ => Reading::Counters {
                sample_at: world.sample,
                targets: (0..3)
                    .map(|pod| {
                        let counter = Counter {
                            started: None,
                            sample_at: Some(world.sample),
                            total: 1_000_000.0 + 500.0 * (n / 3) as f64,
                            bad: Some(123.0),
                        };
                        (format!("10.24.13.{pod}:8080"), counter)
                    })
                    .collect(),
            },
        };
        let of = |color: Color| {
            let readings = spec.rules.iter().map(|rule| (rule.name.clone(), reading(&color, rule)));
            (color.clone(), readings.collect())
        };
        let seen = Observation {
            at: world.now,
            view: View::Known(Box::new(world.traffic.clone())),
            readings: [color("green"), color("blue")].map(of).into(),
            hold: None,
        };
        recorder.look(&engine, &seen);
        recorder.decided(&engine.step(&seen));
        if n > 100 {
            (bytes, looks) = (bytes + recorder.bytes(), looks + 1);
        }
    }
    let each = bytes / looks;
    assert!(each < 8 * 1024, "{each} bytes per guard");
}

/// The properties would hold of an engine that never says a word: this world makes it say everything.
#[test]
fn the_random_world_brings_about_every_verdict() {
    let (mut rollbacks, mut suppressed, mut blocked, mut notes) = (0, 0, 0, 0);
    for seed in 0..21 {
        let mut world = World::new(seed);
        let mut engine = Engine::new(spec_of(seed));
        for _ in 0..150 {
            let decision = engine.step(&world.look());
            notes += decision.notes.len();
            match decision.verdict {
                Verdict::Hold => {}
                Verdict::Rollback(_) => rollbacks += 1,
                Verdict::Suppressed(..) => suppressed += 1,
                Verdict::Blocked(..) => blocked += 1,
            }
        }
    }
    assert!(
        rollbacks > 10 && suppressed > 10 && blocked > 10 && notes > 100,
        "{rollbacks} rollbacks, {suppressed} suppressed, {blocked} blocked, {notes} notes"
    );
}

// === the command ===

fn traces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces")
}

fn replay(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flipback"))
        .arg("replay")
        .args(arguments)
        .current_dir(traces())
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    // It may have said no before it read everything.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    child.wait_with_output().expect("ends")
}

/// Exit code, standard output, standard error.
fn said(arguments: &[&str], stdin: &[u8]) -> (Option<i32>, String, String) {
    let output = replay(arguments, stdin);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn golden_traces_are_judged_as_ever() {
    let mut names: Vec<String> = std::fs::read_dir(traces())
        .expect("the traces")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .filter(|name| name.ends_with(".jsonl"))
        .collect();
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let (code, lines, error) = said(&[&name], b"");
        let (told, story, _) = said(&["--explain", "--to-end", &name], b"");
        let (_, all, _) = said(&["--to-end", &name], b"");
        assert!(all.starts_with(&lines), "{name}: the whole begins with the part");
        let text = format!("exit {code:?}\n{error}{lines}\n{story}exit {told:?}");
        let text: Vec<&str> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(name.trim_end_matches(".jsonl"), text.join("\n"));
    }
}

#[test]
fn standard_input_a_folder_and_the_whole_trace() {
    let trace = std::fs::read(traces().join("third_breach.jsonl")).expect("a trace");
    assert_eq!(said(&["third_breach.jsonl"], b""), said(&["-"], &trace));

    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().to_str().expect("text");
    let (code, _, error) = said(&[name], b"");
    assert_eq!(code, Some(2));
    assert!(error.contains("decision.jsonl") && error.contains("a person asked for"), "{error}");
    std::fs::write(folder.path().join("decision.jsonl"), &trace).expect("writes");
    assert_eq!(said(&[name], b""), said(&["-"], &trace));

    let (code, part, _) = said(&["-"], &trace);
    let (whole_code, whole, _) = said(&["--to-end", "-"], &trace);
    assert_eq!((code, whole_code), (Some(10), Some(10)));
    assert_eq!((part.lines().count(), whole.lines().count()), (6, 8));
    let (code, _, error) = said(&["nowhere.jsonl"], b"");
    assert_eq!(code, Some(2));
    assert!(error.contains("nowhere.jsonl"), "{error}");
}

#[test]
fn line_ends_and_blank_ends_are_no_matter() {
    let trace = std::fs::read_to_string(traces().join("third_breach.jsonl")).expect("a trace");
    let plain = said(&["-"], trace.as_bytes());
    for other in [
        trace.trim_end().to_owned(),
        trace.replace('\n', "\r\n"),
        format!("{trace}\n\n  \n"),
        format!("\u{feff}{trace}"),
    ] {
        assert_eq!(said(&["-"], other.as_bytes()), plain);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let header = "{\"flipback_trace\":1,\"rules\":[{\"name\":\"e\",\"kind\":\"error_rate\",\"threshold\":0.05}]}\n";
    let look = |t| format!("{{\"t\":{t},\"ready\":{{\"active\":3,\"standby\":3}},\"rules\":{{}}}}\n");
    let trace: String = std::iter::once(header.to_owned()).chain((0..5000).map(look)).collect();
    for flag in ["--to-end", "--explain"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_flipback"))
            .args(["replay", flag, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        drop(child.stdout.take());
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(trace.as_bytes())
            .expect("reads to the end");
        let output = child.wait_with_output().expect("ends");
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_line() {
    let trace = std::fs::read_to_string(traces().join("third_breach.jsonl")).expect("a trace");
    let mut lines: Vec<&str> = trace.lines().collect();
    lines[2] = "{\"t\":6.0,\"ready\":{\"active\":3,\"standby\":3},\"rules\":{\"error_rat\":{\"unusable\":\"timeout\"}}}";
    let (code, out, error) = said(&["-"], lines.join("\n").as_bytes());
    assert_eq!((code, out.lines().count()), (Some(2), 1));
    assert_eq!(
        error.trim_end(),
        "flipback: -:3: rules.error_rat is no rule; allowed: the rules of the header: error_rate (did you mean \"error_rate\"?)"
    );
}
