//! Probes of pods, and what the route's view alone tells.

use super::*;
use crate::model::{Action, Endpoint, EndpointsRule, Ledger, ProbeRule, RuleSpec, Seen, Side, Traffic};
use crate::observe::plan::tests::guard;

fn probe() -> ProbeRule {
    ProbeRule {
        threshold: 0.5,
        path: "/health".to_owned(),
        port: None,
        status: (200, 299),
        body_contains: None,
        timeout: Duration::from_millis(500),
        retries: 0,
        endpoints_max: 10,
    }
}

fn endpoint(pod: &str, address: &str, port: Option<u16>) -> Endpoint {
    Endpoint {
        pod: pod.to_owned(),
        address: address.to_owned(),
        port,
    }
}

/// Probes blue, whose side is given, of a guard with a probe and an endpoints rule.
async fn probed(rule: ProbeRule, side: Side, resolve: BTreeMap<String, SocketAddr>) -> (Reading, Reading) {
    let mut spec = guard("web");
    spec.policy.poll = Duration::from_secs(2);
    let named = |name: &str, kind| RuleSpec {
        name: RuleName::new(name).expect("a name"),
        kind,
        action: Action::Rollback,
        critical: false,
        windows: None,
    };
    let down_for = Duration::from_secs(10);
    spec.rules = vec![
        named("probe", RuleKind::Probe(rule)),
        named("endpoints", RuleKind::Endpoints(EndpointsRule { down_for })),
    ];
    let (blue, green) = (Color::new("blue").expect("a name"), Color::new("green").expect("a name"));
    let traffic = Traffic {
        active: blue.clone(),
        standby: green.clone(),
        sides: BTreeMap::from([(blue, side), (green, Side::default())]),
        seen: Seen::default(),
        ledger: Ledger::default(),
        paused: None,
        switched_at: None,
        switched_by: None,
        owner: None,
    };
    let metrics = Metrics::new().expect("metrics");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let observer = Observer::new(&[Arc::new(spec.clone())], &[], resolve, metrics).expect("an observer");
    let views = BTreeMap::from([(spec.id.clone(), View::Known(Box::new(traffic)))]);
    let readings = observer.observe(&views, now()).await;
    let pick = |rule| pick(&readings, &spec, "blue", rule).clone();
    (pick("probe"), pick("endpoints"))
}

fn counts(reading: &Reading) -> (u32, u32, &str) {
    match reading {
        Reading::Probes { asked, failed, detail, .. } => (*asked, *failed, detail.as_deref().unwrap_or("")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pods_are_asked_at_their_own_address_and_failures_are_told_by_pod() {
    let good = Stub::start(|_| "fine".into_response()).await;
    let bad = Stub::start(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
    let side = Side {
        ready: 3,
        endpoints: vec![
            endpoint("a", "127.0.0.1", Some(good.address.port())),
            endpoint("b", "10.1.1.1", Some(8080)),
            endpoint("c", "10.1.1.2", Some(8080)),
        ],
        unready: vec![endpoint("starting", "127.0.0.1", Some(1))],
        ..Side::default()
    };
    let resolve = BTreeMap::from([("10.1.1.1:8080".to_owned(), bad.address), ("10.1.1.2".to_owned(), good.address)]);
    let (probe, endpoints) = probed(probe(), side, resolve).await;
    assert_eq!(counts(&probe), (3, 1, "pod b (10.1.1.1): status 500, expected 200 to 299"));
    assert_eq!(
        endpoints,
        Reading::Ready {
            sample_at: now(),
            ready: 3
        }
    );
    assert_eq!(bad.asked()[0].path, "/health");
    assert_eq!(bad.asked()[0].headers["host"], "10.1.1.1:8080");
}

#[tokio::test]
async fn pods_that_are_not_ready_are_asked_only_when_none_is() {
    let bad = Stub::start(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let side = Side {
        unready: vec![endpoint("a", "127.0.0.1", Some(bad.address.port()))],
        ..Side::default()
    };
    let (probe, endpoints) = probed(probe(), side, BTreeMap::new()).await;
    assert_eq!(counts(&probe).1, 1);
    assert_eq!(
        endpoints,
        Reading::Ready {
            sample_at: now(),
            ready: 0
        }
    );
}

#[tokio::test]
async fn endpoints_that_are_not_watched_are_no_evidence() {
    let bad = Stub::start(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let side = Side {
        unready: vec![endpoint("a", "127.0.0.1", Some(bad.address.port()))],
        unwatched: true,
        ..Side::default()
    };
    let (probe, endpoints) = probed(probe(), side, BTreeMap::new()).await;
    for reading in [probe, endpoints] {
        assert!(
            matches!(&reading, Reading::Absent(Absence::Error(why)) if why.contains("watch")),
            "{reading:?}"
        );
    }
    assert_eq!(bad.count(), 0);
}

#[tokio::test]
async fn no_endpoint_is_an_absence_and_no_port_is_no_failure_of_the_pod() {
    let (nobody, _) = probed(probe(), Side::default(), BTreeMap::new()).await;
    assert_eq!(nobody, Reading::Absent(Absence::Empty));
    let side = Side {
        endpoints: vec![endpoint("a", "127.0.0.1", None)],
        ..Side::default()
    };
    let (portless, _) = probed(probe(), side, BTreeMap::new()).await;
    assert!(matches!(portless, Reading::Absent(Absence::Error(_))), "{portless:?}");
}

#[tokio::test]
async fn the_body_must_hold_the_text_within_its_first_64_kib() {
    let rule = || ProbeRule {
        body_contains: Some("UP".to_owned()),
        ..probe()
    };
    for (body, failed) in [
        ("status: UP".to_owned(), 0),
        ("status: DOWN".to_owned(), 1),
        (format!("{}UP", " ".repeat(65 * 1024)), 1),
    ] {
        let stub = Stub::start(move |_| body.clone().into_response()).await;
        let side = Side {
            endpoints: vec![endpoint("a", "127.0.0.1", Some(stub.address.port()))],
            ..Side::default()
        };
        let (probe, _) = probed(rule(), side, BTreeMap::new()).await;
        assert_eq!(counts(&probe).1, failed, "{probe:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_judged_by_its_status_and_not_followed() {
    let elsewhere = Stub::start(|_| "fine".into_response()).await;
    let to = elsewhere.url();
    let stub = Stub::start(move |_| (StatusCode::FOUND, [("location", to.clone())]).into_response()).await;
    let side = Side {
        endpoints: vec![endpoint("a", "127.0.0.1", Some(stub.address.port()))],
        ..Side::default()
    };
    let (probe, _) = probed(probe(), side, BTreeMap::new()).await;
    assert_eq!((counts(&probe).1, elsewhere.count()), (1, 0));
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_as_often_as_told() {
    let tries = Arc::new(Mutex::new(0));
    let shared = tries.clone();
    let stub = Stub::start(move |_| {
        let mut tries = shared.lock().expect("not poisoned");
        *tries += 1;
        let status = if *tries < 3 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        status.into_response()
    })
    .await;
    let side = || Side {
        endpoints: vec![endpoint("a", "127.0.0.1", Some(stub.address.port()))],
        ..Side::default()
    };
    let retried = ProbeRule { retries: 2, ..probe() };
    let (good, _) = probed(retried, side(), BTreeMap::new()).await;
    assert_eq!((counts(&good).1, *tries.lock().expect("not poisoned")), (0, 3));
    *tries.lock().expect("not poisoned") = 0;
    let (bad, _) = probed(ProbeRule { retries: 1, ..probe() }, side(), BTreeMap::new()).await;
    assert_eq!((counts(&bad).1, *tries.lock().expect("not poisoned")), (1, 2));
}

#[tokio::test]
async fn a_pod_that_hangs_has_failed_and_a_timeout_beyond_the_look_is_our_own_fault() {
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let side = || Side {
        endpoints: vec![endpoint("a", "127.0.0.1", Some(hung.local_addr().expect("bound").port()))],
        ..Side::default()
    };
    // Retries that the look has no time for do not take the failure back.
    let (failed, _) = probed(ProbeRule { retries: 100, ..probe() }, side(), BTreeMap::new()).await;
    assert_eq!(counts(&failed), (1, 1, "pod a (127.0.0.1): no answer within 500ms"));
    let patient = ProbeRule {
        timeout: Duration::from_secs(10),
        ..probe()
    };
    let (unknown, _) = probed(patient, side(), BTreeMap::new()).await;
    let Reading::Absent(Absence::Error(why)) = unknown else {
        panic!("{unknown:?}");
    };
    assert!(why.contains("timeout of 10s is longer"), "{why}");
}
