use std::collections::BTreeMap;

use super::*;
use crate::{
    backtest::course::{changes, crossings, refine},
    model::{
        Absence, Action, ColorSpec, Counter, CounterRule, EndpointsRule, EvidenceSpec, GuardId, Mode, Policy, ProbeRule, RouteSpec,
        RuleSpec, ServiceRoute, Track,
    },
};

const START: i64 = 1_790_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("in range")
}

fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

fn errors() -> RuleSpec {
    RuleSpec::new(
        RuleName::new("error_rate").expect("valid"),
        RuleKind::ErrorRate(CounterRule {
            threshold: 0.05,
            total: String::new(),
            bad: String::new(),
        }),
    )
}

fn guard(rules: Vec<RuleSpec>) -> Arc<GuardSpec> {
    let side = |name: &str| {
        let spec = ColorSpec {
            value: name.into(),
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
        policy: Policy::default(),
        mode: Mode::Monitor,
        scale_up: None,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: vec![],
        config_hash: String::new(),
    })
}

fn survey(name: &str) -> Survey {
    Survey {
        color: color(name),
        rule: errors().name,
        spacing: Some(Duration::from_secs(15)),
        targets: 1,
        refused: None,
        objection: None,
    }
}

/// A backtest of blue over `seconds`, with an error rule.
fn backtest(seconds: i64, expected: Vec<Expected>) -> Backtest {
    Backtest::new(Setup {
        spec: guard(vec![errors()]),
        course: Course::still(color("blue")),
        surveys: vec![survey("blue"), survey("green")],
        counted: vec![],
        expected,
        from: at(0),
        until: at(seconds),
    })
}

/// Blue at 40 requests per second, scraped every 15 s; the bad share is what `share` says at each scrape, `None` is no scrape.
fn stretches(seconds: i64, size: i64, share: impl Fn(i64) -> Option<f64>) -> Vec<Past> {
    let (mut total, mut bad) = (0.0, 0.0);
    let mut pasts = Vec::new();
    for from in (0..seconds).step_by(usize::try_from(size).expect("small")) {
        let scrapes = (from..(from + size).min(seconds)).filter(|t| t % 15 == 7);
        let samples = scrapes.filter_map(|t| {
            total += 600.0;
            bad += 600.0 * share(t).unwrap_or(0.0);
            let counter = Counter {
                started: None,
                sample_at: Some(at(t)),
                total,
                bad: Some(bad),
            };
            share(t).map(|_| (at(t), counter))
        });
        let track = Track::Counters(BTreeMap::from([("pod".to_owned(), samples.collect())]));
        pasts.push(Past {
            to: at((from + size).min(seconds)),
            tracks: BTreeMap::from([(color("blue"), BTreeMap::from([(errors().name, track)]))]),
            ready: BTreeMap::new(),
        });
    }
    pasts
}

fn judged(mut backtest: Backtest, pasts: &[Past]) -> GuardReport {
    for past in pasts {
        backtest.feed(past);
    }
    backtest.finish()
}

/// 20 % errors from 3600 to 4200.
fn outage(t: i64) -> Option<f64> {
    Some(if (3600..4200).contains(&t) { 0.2 } else { 0.001 })
}

#[test]
fn a_fault_is_one_event_and_is_found_in_the_time_that_is_promised() {
    let report = judged(backtest(7200, vec![]), &stretches(7200, 7200, outage));
    assert_eq!(report.events.len(), 1, "{:?}", report.events);
    let late = report.events[0].at.duration_since(at(3600)).as_secs();
    // Scrapes at 3607, 3622 and 3637, the third of which is seen by the poll at 3640.
    assert_eq!(late, 40);
    assert!(
        report.events[0].until >= at(4185),
        "it lasts as long as the fault: {:?}",
        report.events[0]
    );
    assert_eq!(report.false_alarms.events, 1);
}

#[test]
fn how_the_past_is_cut_into_stretches_changes_nothing() {
    let whole = judged(backtest(7200, vec![]), &stretches(7200, 7200, outage));
    for size in [600, 901, 3605] {
        let cut = judged(backtest(7200, vec![]), &stretches(7200, size, outage));
        assert_eq!(cut.events, whole.events, "stretches of {size} s");
        assert_eq!(
            (cut.looks, cut.rules[0].intervals),
            (whole.looks, whole.rules[0].intervals),
            "stretches of {size} s"
        );
    }
}

#[test]
fn a_named_bad_release_is_no_false_alarm_and_an_unfound_one_is_missed() {
    let named = |seconds| Expected {
        guard: None,
        at: at(seconds),
    };
    let report = judged(backtest(7200, vec![named(3600), named(6000)]), &stretches(7200, 7200, outage));
    assert!(report.events[0].expected);
    assert_eq!(report.events[0].after_seconds, Some(40.0));
    assert_eq!(report.false_alarms.events, 0);
    assert_eq!(report.missed, [named(6000)]);
}

#[test]
fn two_breaches_in_a_row_are_a_near_miss() {
    let blip = |t: i64| Some(if (3600..3630).contains(&t) { 0.2 } else { 0.001 });
    let report = judged(backtest(7200, vec![]), &stretches(7200, 7200, blip));
    assert!(report.events.is_empty());
    let near: Vec<_> = report.near_misses.iter().filter(|near| near.kind == report::Near::Streak).collect();
    assert_eq!(near.len(), 1, "{:?}", report.near_misses);
    assert!(near[0].why.contains("second breach in a row"), "{}", near[0].why);
}

#[test]
fn minutes_over_the_threshold_that_end_too_soon_are_a_near_miss_of_the_slow_path() {
    // Two bad scrapes weigh on the last five minutes for long, and are long over when the slow path would act.
    let intermittent = |t: i64| Some(if (3600..3630).contains(&t) { 0.7 } else { 0.001 });
    let report = judged(backtest(7200, vec![]), &stretches(7200, 7200, intermittent));
    assert!(report.events.is_empty(), "{:?}", report.events);
    assert!(
        report.near_misses.iter().any(|near| near.kind == report::Near::Slow),
        "{:?}",
        report.near_misses
    );
}

#[test]
fn a_gap_is_blind_time_and_not_judged_time() {
    let gap = |t: i64| (!(1800..3600).contains(&t)).then_some(0.001);
    let report = judged(backtest(7200, vec![]), &stretches(7200, 7200, gap));
    assert!(report.events.is_empty());
    assert!((1780.0..1830.0).contains(&report.blind_seconds), "{}", report.blind_seconds);
    assert_eq!(report.blind.len(), 1);
    assert!(report.false_alarms.days < 5500.0 / 86_400.0);
}

#[test]
fn what_history_cannot_feed_is_left_out_and_named() {
    let name = |name: &str| RuleName::new(name).expect("valid");
    let probe = RuleKind::Probe(ProbeRule {
        threshold: 0.5,
        path: "/health".into(),
        port: None,
        status: (200, 299),
        body_contains: None,
        timeout: Duration::from_secs(1),
        retries: 0,
        endpoints_max: 10,
    });
    let endpoints = RuleKind::Endpoints(EndpointsRule {
        down_for: Duration::from_secs(10),
    });
    let setup = |counted| Setup {
        spec: guard(vec![
            errors(),
            RuleSpec::new(name("health"), probe.clone()),
            RuleSpec::new(name("endpoints"), endpoints.clone()),
        ]),
        course: Course::still(color("blue")),
        surveys: vec![survey("blue")],
        counted,
        expected: vec![],
        from: at(0),
        until: at(7200),
    };
    let left_out = |report: &GuardReport| report.left_out.iter().map(|one| one.rule.to_string()).collect::<Vec<_>>();
    let report = judged(Backtest::new(setup(vec![])), &stretches(7200, 7200, outage));
    assert_eq!(left_out(&report), ["health", "endpoints"]);
    assert!(report.blind.is_empty(), "a rule that is left out does not blind the guard");

    let mut pasts = stretches(7200, 7200, |_| Some(0.001));
    let count = |t: i64| (at(t), if (3600..3700).contains(&t) { 0 } else { 2 });
    let steady = (0..7200).step_by(60).map(|t| (at(t), 2)).collect();
    pasts[0].ready = BTreeMap::from([
        (color("blue"), (0..7200).step_by(30).map(count).collect()),
        (color("green"), steady),
    ]);
    let report = judged(Backtest::new(setup(vec![color("blue"), color("green")])), &pasts);
    assert_eq!(left_out(&report), ["health"]);
    assert_eq!(report.events.len(), 1, "{:?}", report.events);
    assert_eq!(report.events[0].path, Some(crate::model::Path::Endpoints));
    assert!(report.events[0].at <= at(3620), "{:?}", report.events[0]);
}

#[test]
fn a_standby_that_nobody_could_reach_blocks() {
    let mut pasts = stretches(7200, 7200, outage);
    let counts = |ready| (0..7200).step_by(60).map(|t| (at(t), ready)).collect();
    pasts[0].ready = BTreeMap::from([(color("blue"), counts(3)), (color("green"), counts(0))]);
    let report = judged(backtest(7200, vec![]), &pasts);
    assert_eq!(report.events.len(), 1);
    assert_eq!(report.events[0].what, report::What::Blocked);
}

#[test]
fn a_rule_that_alerts_moves_nothing() {
    let alert = RuleSpec {
        action: Action::Alert,
        ..errors()
    };
    let setup = Setup {
        spec: guard(vec![alert]),
        course: Course::still(color("blue")),
        surveys: vec![survey("blue")],
        counted: vec![],
        expected: vec![],
        from: at(0),
        until: at(7200),
    };
    let report = judged(Backtest::new(setup), &stretches(7200, 7200, outage));
    assert_eq!(
        report.events.iter().map(|event| event.what).collect::<Vec<_>>(),
        [report::What::Alert]
    );
    assert_eq!(report.false_alarms.events, 0);
}

#[test]
fn a_threshold_near_the_usual_rate_and_a_slow_scrape_are_told() {
    let report = judged(backtest(36_000, vec![]), &stretches(36_000, 36_000, |_| Some(0.03)));
    let about: Vec<_> = report.suggestions.iter().map(|one| one.about).collect();
    assert_eq!(about, ["threshold"], "{:?}", report.suggestions);
    let report = judged(backtest(36_000, vec![]), &stretches(36_000, 36_000, |_| Some(0.001)));
    assert!(report.suggestions.is_empty(), "{:?}", report.suggestions);
    let mut slow = backtest(7200, vec![]);
    slow.surveys[0].spacing = Some(Duration::from_secs(60));
    let report = judged(slow, &stretches(7200, 7200, |_| Some(0.001)));
    assert!(
        report
            .suggestions
            .iter()
            .any(|one| one.about == "scrape" && one.what.contains("about 152 s")),
        "{:?}",
        report.suggestions
    );
}

#[test]
fn an_absent_rule_is_blind_with_its_reason() {
    let mut pasts = stretches(7200, 7200, outage);
    let why = Absence::Error("the query was refused".into());
    pasts[0]
        .tracks
        .get_mut(&color("blue"))
        .expect("there")
        .insert(errors().name, Track::Absent(why));
    let report = judged(backtest(7200, vec![]), &pasts);
    assert!(report.events.is_empty() && report.blind_seconds > 7000.0);
    assert!(report.blind[0].why.contains("the query was refused"), "{:?}", report.blind);
}

fn flow(of: impl Fn(i64) -> (f64, f64)) -> BTreeMap<Color, Vec<(Timestamp, f64)>> {
    let points = |side: usize| (0..120).map(|n| (at(n * 60), [of(n).0, of(n).1][side])).collect();
    BTreeMap::from([(color("blue"), points(0)), (color("green"), points(1))])
}

#[test]
fn a_switch_is_where_the_traffic_went_and_a_smoke_test_is_none() {
    let (first, found) = crossings(&flow(|n| match n {
        0..=29 => (600.0, 0.0),
        30..=31 => (10.0, 600.0), // a smoke test with everything on green, for two minutes
        32..=59 => (600.0, 5.0),
        60 => (400.0, 350.0),
        _ => (0.0, 600.0),
    }));
    assert_eq!(first, Some(color("blue")));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].to.as_str(), found[0].after, found[0].before),
        ("green", at(59 * 60), at(61 * 60))
    );
    let fine: Vec<_> = (0..20).map(|n| (at(59 * 60 + n * 15), if n < 4 { 1.0 } else { 150.0 })).collect();
    let old: Vec<_> = (0..20).map(|n| (at(59 * 60 + n * 15), if n < 4 { 150.0 } else { 1.0 })).collect();
    let fine = BTreeMap::from([(color("green"), fine), (color("blue"), old)]);
    assert_eq!(refine(&found[0], &fine, Duration::from_secs(15)), at(59 * 60 + 45));
}

#[test]
fn night_without_requests_is_no_switch() {
    let (first, found) = crossings(&flow(|n| if (40..80).contains(&n) { (0.0, 2.0) } else { (600.0, 0.0) }));
    assert_eq!((first, found.len()), (Some(color("blue")), 0));
    assert_eq!(changes(&[], 1), (None, vec![]));
}

#[test]
fn files_are_read_or_refused_with_their_line() {
    let text = "guard,time,from,to,release\n# a comment\nshop/web,2026-09-21T14:13:20Z,blue,green,r2\n\n{\"guard\":\"shop/web\",\"time\":\"2026-09-21T15:00:00Z\",\"to\":\"blue\"}\neu/shop/web,1790000000,,blue\n";
    let found = course::switches(text).expect("sound");
    assert_eq!(found.len(), 3);
    assert_eq!((found[0].release.as_deref(), found[0].at), (Some("r2"), at(0)));
    assert_eq!((found[1].from.clone(), found[2].guard.as_str()), (None, "eu/shop/web"));
    for (text, line) in [
        ("shop/web,yesterday,blue,green", 1),
        ("shop/web,1790000000,blue", 1),
        ("guard,time,from,to\nweb,1790000000,blue,green", 2),
        ("guard,time,from,to\n{\"guard\":1}", 2),
        ("shop/web,1790000000,Blue!,green", 1),
    ] {
        assert_eq!(course::switches(text).expect_err("refused").line, line, "{text}");
    }
    assert_eq!(
        course::expected("shop/web,1790000000\n,2026-09-21T14:13:20Z").expect("sound").len(),
        2
    );
    assert!(course::bad_release("shop/web=1790000000").is_ok() && course::bad_release("soon").is_err());
}

#[test]
fn a_course_of_a_file_begins_with_what_was_live_before() {
    let text = "shop/web,1789999000,green,blue\nshop/web,1790003600,blue,green\nshop/api,1790003700,blue,green\n";
    let found = course::switches(text).expect("sound");
    let id = GuardId::new("", "shop", "web").expect("valid");
    let course = Course::of_file(&found, &id, color("green"), at(0), at(7200));
    assert_eq!(
        (course.first.as_str(), course.switches.len(), course.origin),
        ("blue", 1, Origin::File)
    );
    let none = Course::of_file(&found, &id, color("green"), at(5000), at(7200));
    assert_eq!((none.first.as_str(), none.origin), ("green", Origin::None));
}

#[test]
fn after_a_known_switch_every_path_is_armed_for_the_watch_only() {
    let mut setup = Setup {
        spec: guard(vec![errors()]),
        course: Course {
            origin: Origin::File,
            first: color("green"),
            switches: vec![Switch {
                guard: GuardId::new("", "shop", "web").expect("valid"),
                at: at(1000),
                from: None,
                to: color("blue"),
                release: None,
            }],
        },
        surveys: vec![survey("blue")],
        counted: vec![],
        expected: vec![],
        from: at(0),
        until: at(7200),
    };
    // Three bad scrapes, an hour after the switch: the fast path is no longer armed, and three quarters of a minute are not slow enough.
    let late = |t: i64| Some(if (5000..5045).contains(&t) { 0.2 } else { 0.001 });
    let report = judged(Backtest::new(setup.clone()), &stretches(7200, 7200, late));
    assert!(report.events.is_empty(), "{:?}", report.events);
    assert!(
        report.near_misses.iter().any(|near| near.kind == report::Near::AfterWatch),
        "{:?}",
        report.near_misses
    );
    assert!((1790.0..=1815.0).contains(&report.watched_seconds), "{}", report.watched_seconds);
    setup.course.switches[0].at = at(4900);
    let report = judged(Backtest::new(setup), &stretches(7200, 7200, late));
    assert_eq!(report.events.len(), 1, "the same within the watch");
}

#[test]
fn the_page_escapes_what_comes_from_outside() {
    let mut pasts = stretches(7200, 7200, outage);
    let why = Absence::Error("<script>alert(1)</script>".into());
    pasts[0]
        .tracks
        .get_mut(&color("blue"))
        .expect("there")
        .insert(errors().name, Track::Absent(why));
    let guard = judged(backtest(7200, vec![]), &pasts);
    let report = Report::new(at(0), at(7200), vec![guard], vec![], true);
    let page = page::page(&report);
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
}
