//! Trials by example: one look every five seconds, a hundred requests a second on the judged color.

use std::collections::BTreeMap;

use super::*;
use crate::{
    cli::gate::{
        junit,
        report::{Report, Rollback, RollbackResult, Times},
    },
    model::{
        Absence, ColorSpec, Counter, CounterRule, EndpointsRule, EvidenceSpec, FlipRecord, GuardId, Mode, Pause, Policy, Reading, Release,
        RouteSpec, RuleKind, Seen, ServiceRoute, Side,
    },
};

const POLL: i64 = 5;
const SPAN: Duration = Duration::from_secs(60);

fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

fn rule(name: &str) -> RuleName {
    RuleName::new(name).expect("valid")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("in range")
}

fn spec(action: Action) -> Arc<GuardSpec> {
    let side = |value: &str| ColorSpec {
        value: value.into(),
        deployment: Some(format!("web-{value}")),
        service: None,
    };
    let counters = CounterRule {
        threshold: 0.05,
        total: String::new(),
        bad: String::new(),
    };
    let mut errors = RuleSpec::new(rule("error_rate"), RuleKind::ErrorRate(counters));
    errors.action = action;
    let endpoints = EndpointsRule {
        down_for: Duration::from_secs(10),
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
        colors: BTreeMap::from([(color("blue"), side("blue")), (color("green"), side("green"))]),
        rules: vec![errors, RuleSpec::new(rule("endpoints"), RuleKind::Endpoints(endpoints))],
        policy: Policy::default(),
        mode: Mode::Enforce,
        scale_up: None,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: vec![],
        config_hash: "c0ffee".into(),
    })
}

/// The shop with green active, and how its colors answer.
struct World {
    traffic: Traffic,
    time: i64,
    /// By color: requests per second and their bad share; none: no usable answer.
    load: BTreeMap<Color, Option<(f64, f64)>>,
    counters: BTreeMap<Color, (f64, f64)>,
}

impl World {
    fn new() -> Self {
        let side = |name: &str| Side {
            ready: 3,
            desired: Some(3),
            release: Some(Release {
                id: format!("{name}-1"),
                images: Vec::new(),
            }),
            ..Side::default()
        };
        Self {
            traffic: Traffic {
                active: color("green"),
                standby: color("blue"),
                sides: BTreeMap::from([(color("blue"), side("blue")), (color("green"), side("green"))]),
                seen: Seen::default(),
                ledger: Ledger::default(),
                paused: None,
                switched_at: Some(at(-10)),
                switched_by: None,
                owner: None,
            },
            time: 0,
            load: BTreeMap::from([(color("blue"), Some((0.0, 0.0))), (color("green"), Some((100.0, 0.0)))]),
            counters: BTreeMap::new(),
        }
    }

    fn set(&mut self, name: &str, load: Option<(f64, f64)>) {
        self.load.insert(color(name), load);
    }

    fn trial(&self, spec: &Arc<GuardSpec>, asked: &Asked) -> Trial {
        Trial::new(spec, Subject::of(asked, &self.traffic), at(self.time), SPAN)
    }

    fn seen(&mut self) -> Observation {
        let mut readings = BTreeMap::new();
        for (color, load) in &self.load {
            let counters = self.counters.entry(color.clone()).or_default();
            let errors = match load {
                Some((rate, share)) => {
                    let requests = rate * POLL as f64;
                    *counters = (counters.0 + requests, counters.1 + requests * share);
                    let counter = Counter {
                        started: None,
                        sample_at: None,
                        total: counters.0,
                        bad: Some(counters.1),
                    };
                    Reading::Counters {
                        sample_at: at(self.time),
                        targets: BTreeMap::from([(format!("{color}-1"), counter)]),
                    }
                }
                None => Reading::Absent(Absence::Timeout),
            };
            let ready = Reading::Ready {
                sample_at: at(self.time),
                ready: self.traffic.sides.get(color).map_or(0, |side| side.ready),
            };
            let rules = BTreeMap::from([(rule("error_rate"), errors), (rule("endpoints"), ready)]);
            readings.insert(color.clone(), rules);
        }
        let seen = Observation {
            at: at(self.time),
            view: View::Known(Box::new(self.traffic.clone())),
            readings,
            hold: None,
        };
        self.time += POLL;
        seen
    }

    /// So many looks, or fewer if one ends the trial.
    fn run(&mut self, trial: &mut Trial, looks: u32) -> Option<Ruling> {
        (0..looks).find_map(|_| trial.look(&self.seen()))
    }

    fn close(&self, trial: &Trial) -> Ruling {
        trial.close(at(self.time - POLL))
    }
}

fn times(world: &World) -> Times {
    Times {
        started: at(0),
        judged_from: Some(at(0)),
        ended: at(world.time - POLL),
        span: SPAN,
    }
}

fn said(ruling: &Ruling) -> (Finding, Cause) {
    (ruling.finding, ruling.cause)
}

#[test]
fn a_color_that_passes_to_the_end_is_good() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    assert_eq!(world.run(&mut trial, 13), None);
    let ruling = world.close(&trial);
    assert_eq!(said(&ruling), (Finding::Good, Cause::Held), "{ruling:?}");
    let report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
    insta::assert_snapshot!("good_text", anstream::adapter::strip_str(&report.text()).to_string());
    insta::assert_json_snapshot!("good_json", report);
    insta::assert_snapshot!("good_junit", junit::xml(&report).expect("XML"));
}

#[test]
fn a_bad_color_ends_the_trial_at_once() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.set("green", Some((100.0, 0.2)));
    let ruling = world.run(&mut trial, 13).expect("found bad");
    assert_eq!((said(&ruling), trial.looks), ((Finding::Bad, Cause::Breach), 4), "{ruling:?}");
    let mut report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
    report.rollback = Some(Rollback::not(RollbackResult::Refused, "the standby color cannot serve"));
    insta::assert_snapshot!("bad_text", anstream::adapter::strip_str(&report.text()).to_string());
    insta::assert_json_snapshot!("bad_json", report);
    insta::assert_snapshot!("bad_junit", junit::xml(&report).expect("XML"));
}

#[test]
fn a_color_that_became_active_long_ago_is_judged_by_every_path() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    world.traffic.switched_at = Some(at(-200_000));
    let mut trial = world.trial(&spec, &Asked::Active);
    world.set("green", Some((100.0, 0.2)));
    let ruling = world.run(&mut trial, 13).expect("found bad");
    assert_eq!((said(&ruling), trial.looks), ((Finding::Bad, Cause::Breach), 4), "{ruling:?}");
}

#[test]
fn what_users_suffered_before_the_trial_counts_for_nothing() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    world.traffic.switched_at = Some(at(-600));
    let mut trial = world.trial(&spec, &Asked::Active);
    world.set("green", Some((100.0, 0.9)));
    // The newest sample at the start is an old one: what the next one adds was partly asked before.
    let mut first = world.seen();
    let green = first.readings.get_mut(&color("green")).expect("there");
    if let Some(Reading::Counters { sample_at, .. }) = green.get_mut(&rule("error_rate")) {
        *sample_at = at(-20);
    }
    assert_eq!(trial.look(&first), None);
    assert_eq!(trial.look(&world.seen()), None);
    world.set("green", Some((100.0, 0.0)));
    assert_eq!(world.run(&mut trial, 6), None);
    let errors = trial.tallies.first().expect("a rule");
    assert_eq!((errors.breaches, errors.counted.map(|(_, bad)| bad as u64)), (0, Some(0)));
    assert_eq!(world.close(&trial).finding, Finding::Good);
}

#[test]
fn a_warm_up_that_is_over_is_not_waited_for_again() {
    let mut spec = (*spec(Action::Rollback)).clone();
    spec.policy.warm_up = Duration::from_secs(30);
    let spec = Arc::new(spec);
    let passes_after_20_s = |switched: Option<i64>| {
        let mut world = World::new();
        world.traffic.switched_at = switched.map(at);
        let mut trial = world.trial(&spec, &Asked::Active);
        world.run(&mut trial, 5);
        trial.tallies.first().expect("a rule").passes
    };
    assert_eq!(passes_after_20_s(Some(-600)), 4);
    assert_eq!(passes_after_20_s(Some(-20)), 2, "ten seconds are left of it");
    assert_eq!(passes_after_20_s(None), 0, "from the start, where nobody knows");
}

#[test]
fn without_traffic_nothing_is_decided() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.set("green", Some((0.0, 0.0)));
    assert_eq!(world.run(&mut trial, 14), None);
    let ruling = world.close(&trial);
    assert_eq!(said(&ruling), (Finding::Undecided, Cause::NotEnough), "{ruling:?}");
    assert!(ruling.why.contains("error_rate: no passing verdict"), "{ruling:?}");
    let report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
    insta::assert_snapshot!("undecided_text", anstream::adapter::strip_str(&report.text()).to_string());
    insta::assert_snapshot!("undecided_junit", junit::xml(&report).expect("XML"));
}

#[test]
fn passes_are_needed_in_a_row_and_up_to_the_end() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.run(&mut trial, 3);
    let ruling = world.close(&trial);
    assert!(ruling.why.contains("2 passing verdicts in a row, 3 are needed"), "{ruling:?}");
    world.run(&mut trial, 3);
    world.set("green", Some((100.0, 0.2)));
    assert_eq!(world.run(&mut trial, 1), None);
    let ruling = world.close(&trial);
    assert!(ruling.why.contains("in a streak of 1 of 3"), "{ruling:?}");
    world.set("green", Some((100.0, 0.0)));
    world.run(&mut trial, 1);
    let ruling = world.close(&trial);
    assert!(ruling.why.contains("one passing verdict, 3 in a row"), "{ruling:?}");
    world.run(&mut trial, 2);
    assert_eq!(world.close(&trial).finding, Finding::Good);
}

#[test]
fn one_lost_answer_at_the_end_is_nothing_and_a_dead_source_is_no_good() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.run(&mut trial, 10);
    world.set("green", None);
    world.run(&mut trial, 1);
    assert_eq!(world.close(&trial).finding, Finding::Good);
    world.run(&mut trial, 4);
    let ruling = world.close(&trial);
    assert_eq!(said(&ruling), (Finding::Undecided, Cause::NotEnough), "{ruling:?}");
    assert!(ruling.why.contains("no verdict in the last"), "{ruling:?}");
}

#[test]
fn a_switch_or_a_new_release_in_the_middle_is_not_judged() {
    let spec = spec(Action::Rollback);
    let changed = |change: &dyn Fn(&mut Traffic)| {
        let mut world = World::new();
        let mut trial = world.trial(&spec, &Asked::Active);
        world.run(&mut trial, 6);
        change(&mut world.traffic);
        world.run(&mut trial, 1).expect("ended")
    };
    let by_hand = changed(&|traffic| std::mem::swap(&mut traffic.active, &mut traffic.standby));
    assert_eq!(said(&by_hand), (Finding::Undecided, Cause::Changed), "{by_hand:?}");
    let anew = changed(&|traffic| {
        let side = traffic.sides.get_mut(&color("green")).expect("there");
        side.release = Some(Release {
            id: "green-2".into(),
            images: Vec::new(),
        });
    });
    assert_eq!(said(&anew), (Finding::Undecided, Cause::Changed), "{anew:?}");
    let by_flipback = changed(&|traffic| {
        std::mem::swap(&mut traffic.active, &mut traffic.standby);
        traffic.ledger = traffic.ledger.with(flip());
    });
    assert_eq!(said(&by_flipback), (Finding::Bad, Cause::RolledBack), "{by_flipback:?}");
    assert!(by_flipback.why.contains("12 % over 5 %"), "{by_flipback:?}");
}

fn flip() -> FlipRecord {
    FlipRecord {
        at: at(20),
        from: color("green"),
        to: color("blue"),
        from_release: Some("green-1".into()),
        to_release: None,
        automatic: true,
        bad: true,
        trigger: "error_rate".into(),
        why: "12 % over 5 %".into(),
        incident: "shop.web_x".into(),
        from_images: Vec::new(),
        by: None,
        reassert: None,
        forgotten: None,
        discounted: None,
        thread: None,
        rest: serde_json::Map::new(),
    }
}

#[test]
fn an_unreadable_moment_is_waited_out() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.run(&mut trial, 6);
    for _ in 0..3 {
        let mut seen = world.seen();
        seen.view = View::Unreadable("the API server is away".into());
        assert_eq!(trial.look(&seen), None);
    }
    let ruling = world.close(&trial);
    assert_eq!(said(&ruling), (Finding::Undecided, Cause::Unreadable), "{ruling:?}");
    world.run(&mut trial, 3);
    assert_eq!(world.close(&trial).finding, Finding::Good);
}

#[test]
fn a_refused_flip_does_not_make_a_bad_color_better() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    world.traffic.paused = Some(Pause {
        by: "ann".into(),
        at: at(-5),
        reason: String::new(),
        until: None,
    });
    let mut trial = world.trial(&spec, &Asked::Active);
    world.set("green", Some((100.0, 0.2)));
    let ruling = world.run(&mut trial, 13).expect("found bad");
    assert_eq!(said(&ruling), (Finding::Bad, Cause::FlipRefused), "{ruling:?}");
    assert!(ruling.why.contains("paused by ann"), "{ruling:?}");
}

#[test]
fn a_standby_is_judged_as_if_it_served_and_nothing_of_flips_matters() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    world.traffic.ledger = Ledger::default().with(FlipRecord {
        from: color("blue"),
        to: color("green"),
        from_release: Some("blue-1".into()),
        ..flip()
    });
    world.traffic.paused = Some(Pause {
        by: "ann".into(),
        at: at(-5),
        reason: String::new(),
        until: None,
    });
    let mut trial = world.trial(&spec, &Asked::Standby);
    assert_eq!((trial.subject.color.as_str(), trial.subject.position), ("blue", Position::Standby));
    world.set("blue", Some((20.0, 0.3)));
    let ruling = world.run(&mut trial, 13).expect("found bad");
    assert_eq!(said(&ruling), (Finding::Bad, Cause::Breach), "{ruling:?}");

    let mut trial = world.trial(&spec, &Asked::Named(color("blue")));
    assert_eq!(trial.subject.position, Position::Standby);
    world.set("blue", Some((20.0, 0.0)));
    assert_eq!(world.run(&mut trial, 13), None);
    assert_eq!(world.close(&trial).finding, Finding::Good);
    std::mem::swap(&mut world.traffic.active, &mut world.traffic.standby);
    let ruling = world.run(&mut trial, 1).expect("it serves now");
    assert_eq!(said(&ruling), (Finding::Undecided, Cause::Changed), "{ruling:?}");
}

#[test]
fn who_is_as_bad_as_everybody_is_not_to_blame() {
    let spec = spec(Action::Rollback);
    for (asked, words) in [
        (Asked::Active, "green is bad and not to blame"),
        (Asked::Standby, "green, which serves users, is just as bad"),
    ] {
        let mut world = World::new();
        let mut trial = world.trial(&spec, &asked);
        world.set("green", Some((100.0, 0.2)));
        world.set("blue", Some((100.0, 0.2)));
        assert_eq!(world.run(&mut trial, 10), None, "the fault may pass");
        let ruling = world.close(&trial);
        assert_eq!(said(&ruling), (Finding::Undecided, Cause::NotToBlame), "{ruling:?}");
        assert!(ruling.why.contains(words), "{ruling:?}");
        let report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
        let errors = report.rules.first().expect("a rule");
        assert_eq!(errors.result, Finding::Undecided);
        // Shared trouble passes, and the color is as good as it is.
        world.set("green", Some((100.0, 0.0)));
        world.set("blue", Some((100.0, 0.0)));
        assert_eq!(world.run(&mut trial, 4), None);
        assert_eq!(world.close(&trial).finding, Finding::Good);
    }
}

#[test]
fn what_only_alerts_decides_nothing() {
    let (spec, mut world) = (spec(Action::Alert), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.set("green", Some((100.0, 0.2)));
    assert_eq!(world.run(&mut trial, 13), None);
    let ruling = world.close(&trial);
    assert_eq!(ruling.finding, Finding::Good, "{ruling:?}");
    let report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
    assert!(report.text().contains("alert"), "{}", report.text());
    assert!(
        report.events.iter().any(|event| event.what.contains("alert only")),
        "{:?}",
        report.events
    );
    let suites = quick_junit::Report::deserialize_from_str(&junit::xml(&report).expect("XML")).expect("well-formed");
    assert_eq!((suites.tests, suites.failures, suites.errors), (2, 0, 0));
    // Nor does its silence.
    world.set("green", None);
    assert_eq!(world.run(&mut trial, 30), None);
    assert_eq!(world.close(&trial).finding, Finding::Good);
}

#[test]
fn a_result_survives_hostile_words() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.run(&mut trial, 2);
    let why = "<script>\"&]]>\u{1b}[31m'--\u{0}";
    let ruling = Ruling::undecided(Cause::Changed, why);
    let report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
    let suites = quick_junit::Report::deserialize_from_str(&junit::xml(&report).expect("XML")).expect("well-formed");
    assert_eq!((suites.tests, suites.failures, suites.errors), (2, 0, 2));
}

#[test]
fn every_field_of_the_result_is_documented() {
    let (spec, mut world) = (spec(Action::Rollback), World::new());
    let mut trial = world.trial(&spec, &Asked::Active);
    world.run(&mut trial, 2);
    let ruling = world.close(&trial);
    let mut report = Report::new(&spec, Some(&trial.subject), Some(&trial), &ruling, times(&world));
    report.rollback = Some(Rollback::not(RollbackResult::Failed, "no"));
    let document = include_str!("../../../../docs/gate.md");
    let value = serde_json::to_value(&report).expect("JSON");
    let keys = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let all = [keys(&value), keys(&value["rules"][0]), keys(&value["rollback"])].concat();
    for key in all {
        assert!(
            document.contains(&format!("`{key}`")) || document.contains(&format!("`{key}[]`")),
            "{key}"
        );
    }
}
