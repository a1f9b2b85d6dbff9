use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{color, order, service, shop};
use crate::{
    model::{GuardSpec, Mode, Pause, Relief},
    router::{self, Flip, ReliefOrder, Relieved, RouteEvent, Router as _, RouterError},
};

const WEB: &str = "/api/v1/namespaces/shop/services/web";
const EVENTS: &str = "/api/v1/namespaces/shop/events";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

fn pause() -> Pause {
    Pause {
        by: "ann".into(),
        at: Timestamp::from_second(1_800_000_000).expect("in range"),
        reason: "freeze".into(),
        until: None,
    }
}

#[tokio::test]
async fn a_pause_is_one_annotation_and_nothing_else() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let (paused, patch) = tokio::join!(router.pause(Some(pause())), async {
        server
            .expect("GET", WEB, 200, service("web", "web-green", "9", Some(json!({"a": "b"}))))
            .await;
        server.expect("PATCH", WEB, 200, service("web", "web-green", "10", None)).await
    });
    paused.expect("accepted");
    let expected = [
        r#"[{"op":"test","path":"/metadata/resourceVersion","value":"9"},"#,
        r#"{"op":"add","path":"/metadata/annotations/flipback.dev~1paused","#,
        r#""value":"{\"by\":\"ann\",\"at\":\"2027-01-15T08:00:00Z\",\"reason\":\"freeze\"}"}]"#,
    ];
    assert_eq!(patch, expected.concat());
}

#[tokio::test]
async fn a_resume_removes_it_and_tries_again_on_a_changed_object() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let annotated = |version| service("web", "web-green", version, Some(json!({"flipback.dev/paused": "{}"})));
    let (resumed, patch) = tokio::join!(router.pause(None), async {
        server.expect("GET", WEB, 200, annotated("9")).await;
        server.expect("PATCH", WEB, 422, json!("invalid")).await;
        server.expect("GET", WEB, 200, annotated("10")).await;
        server.expect("PATCH", WEB, 200, service("web", "web-green", "11", None)).await
    });
    resumed.expect("accepted");
    assert_eq!(
        patch,
        r#"[{"op":"test","path":"/metadata/resourceVersion","value":"10"},{"op":"remove","path":"/metadata/annotations/flipback.dev~1paused"}]"#
    );
}

#[tokio::test]
async fn a_resume_of_what_is_not_paused_writes_nothing() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let (resumed, ()) = tokio::join!(router.pause(None), async {
        server.expect("GET", WEB, 200, service("web", "web-green", "9", None)).await;
        server.rests().await;
    });
    resumed.expect("nothing to do");
}

#[tokio::test]
async fn an_event_bears_the_uid_and_a_name_of_its_own() {
    let (router, mut feed, mut server) = shop(&["blue", "green"], None);
    feed.put(service("web", "web-green", "9", None));
    let event = RouteEvent {
        warning: true,
        reason: "RolledBack".into(),
        note: "ä".repeat(1000),
        at: Timestamp::from_second(1_800_000_000).expect("in range"),
    };
    let mut names = Vec::new();
    for _ in 0..2 {
        let (told, body) = tokio::join!(
            router.tell(&event),
            server.expect("POST", EVENTS, 201, json!({"metadata": {}, "involvedObject": {}}))
        );
        told.expect("accepted");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["involvedObject"]["uid"], "uid-web");
        assert_eq!(body["involvedObject"]["namespace"], body["metadata"]["namespace"]);
        assert_eq!((&body["type"], &body["reason"]), (&json!("Warning"), &json!("RolledBack")));
        assert_eq!(body["message"].as_str().map(str::len), Some(1024));
        names.push(body["metadata"]["name"].as_str().expect("named").to_owned());
    }
    assert_ne!(names[0], names[1]);
    assert!(names[0].starts_with("web."), "{names:?}");
}

fn slices(pods: &[&str]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod}}))
        .collect();
    json!({"kind": "EndpointSliceList", "metadata": {}, "items": [
        {"metadata": {"name": "web-a"}, "addressType": "IPv4", "endpoints": endpoints}]})
}

#[tokio::test(start_paused = true)]
async fn a_flip_is_verified_when_the_endpoints_have_followed() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let pods = json!({"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "b1"}}, {"metadata": {"name": "b2"}}]});
    let blue = color("blue");
    let (verified, ()) = tokio::join!(router.verify(&blue), async {
        for round in [slices(&["g1"]), slices(&["b1", "g1"]), slices(&["b1", "b2"])] {
            server.expect("GET", WEB, 200, service("web", "web-blue", "9", None)).await;
            for _ in 0..2 {
                let asked = server.asked().await;
                match asked.path.as_str() {
                    SLICES => {
                        assert_eq!(asked.query["labelSelector"], "kubernetes.io/service-name=web");
                        asked.answer(200, &round);
                    }
                    PODS => {
                        assert_eq!(asked.query["labelSelector"], "app=web,app.io/color=web-blue");
                        asked.answer(200, &pods);
                    }
                    other => panic!("unexpected {other}"),
                }
            }
        }
        server.rests().await;
    });
    let verified = verified.expect("read");
    assert_eq!((verified.ready, verified.problem), (2, None));
}

#[tokio::test]
async fn a_color_that_was_moved_again_is_told_at_once() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let blue = color("blue");
    let (verified, _) = tokio::join!(
        router.verify(&blue),
        server.expect("GET", WEB, 200, service("web", "web-green", "9", None))
    );
    let problem = verified.expect("read").problem.expect("a problem");
    assert!(problem.contains("selects \"web-green\" and not \"web-blue\""), "{problem}");
}

fn relief(at_once: u32) -> ReliefOrder {
    ReliefOrder {
        left: color("green"),
        to: color("blue"),
        before: Timestamp::from_second(1_800_000_000).expect("in range"),
        incident: "shop.web_x".into(),
        action: Relief::Evict,
        at_once,
    }
}

/// Answers every look at where traffic goes: the Service selects blue, and these pods are its endpoints; both pods of blue are Ready.
async fn arriving(server: &mut super::Server, endpoints: &[&str], looks: usize) {
    let pods = json!({"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "b1"}}, {"metadata": {"name": "b2"}}]});
    for _ in 0..looks {
        server.expect("GET", WEB, 200, service("web", "web-blue", "9", None)).await;
        for _ in 0..2 {
            let asked = server.asked().await;
            let answer = if asked.path == SLICES { slices(endpoints) } else { pods.clone() };
            asked.answer(200, &answer);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_taken_away_before_traffic_is_seen_on_the_other_color() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let order = relief(1);
    let went = tokio::select! {
        went = router.relieve(&order) => went,
        () = async {
            server.expect("GET", WEB, 200, service("web", "web-blue", "9", None)).await;
            // The old color's pod stays among the endpoints, however long that is looked at.
            arriving(&mut server, &["b1", "g1"], 10_000).await;
        } => panic!("it looks for ever"),
    };
    let Relieved::NotYet(problem) = went.expect("read") else {
        panic!("pods were taken away");
    };
    assert!(problem.contains("still sends traffic to pod \"g1\""), "{problem}");
}

#[tokio::test]
async fn nothing_is_taken_away_once_traffic_is_elsewhere() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let order = relief(1);
    let (went, ()) = tokio::join!(router.relieve(&order), async {
        server.expect("GET", WEB, 200, service("web", "web-green", "9", None)).await;
        server.rests().await;
    });
    assert_eq!(went.expect("read"), Relieved::Elsewhere);
}

#[tokio::test(start_paused = true)]
async fn so_many_pods_go_at_once_as_is_configured() {
    for at_once in [1, 2] {
        let (router, _feed, mut server) = shop(&["blue", "green"], None);
        let order = relief(at_once);
        let pod = |name: &str| json!({"metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let green = json!({"kind": "PodList", "metadata": {}, "items": [pod("g1"), pod("g2"), pod("g3")]});
        let (went, ()) = tokio::join!(router.relieve(&order), async {
            server.expect("GET", WEB, 200, service("web", "web-blue", "9", None)).await;
            arriving(&mut server, &["b1", "b2"], 1).await;
            server.expect("GET", PODS, 200, green).await;
            for name in 1..=at_once {
                let eviction = format!("{PODS}/g{name}/eviction");
                server
                    .expect("POST", &eviction, 201, json!({"kind": "Status", "status": "Success"}))
                    .await;
            }
            server.rests().await;
        });
        let Relieved::Batch { done, held, left } = went.expect("done") else {
            panic!("no batch");
        };
        assert_eq!((done.len(), held.len(), left), (at_once as usize, 0, 3 - at_once));
    }
}

/// Answers every review, allowing all but patches, until the client is done.
async fn rights(router: &dyn router::Router, server: &mut super::Server) -> Vec<String> {
    let answer = async {
        loop {
            let asked = server.asked().await;
            assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", REVIEWS));
            let body: Value = serde_json::from_str(&asked.body).expect("JSON");
            let wanted = &body["spec"]["resourceAttributes"];
            assert_eq!(wanted["namespace"], "shop");
            let allowed = wanted["verb"] != "patch";
            asked.answer(201, &json!({"metadata": {}, "spec": {}, "status": {"allowed": allowed}}));
        }
    };
    let rights = tokio::select! {
        rights = router.may_flip() => rights.expect("answered"),
        () = answer => unreachable!("answers for ever"),
    };
    rights
        .into_iter()
        .map(|access| {
            let name = access.name.map(|name| format!("/{name}")).unwrap_or_default();
            format!("{} {}{name} {}", access.verb, access.resource, access.allowed)
        })
        .collect()
}

#[tokio::test]
async fn every_right_that_is_needed_is_asked_for() {
    let (router, _feed, mut server) = shop(&["blue", "green"], Some("web-preview"));
    let rights = rights(&router, &mut server).await;
    assert_eq!(
        rights,
        [
            "get services/web true",
            "patch services/web false",
            "get services/web-preview true",
            "patch services/web-preview false",
            "list services true",
            "watch services true",
            "list endpointslices.discovery.k8s.io true",
            "watch endpointslices.discovery.k8s.io true",
            "list pods true",
            "watch pods true",
            "get deployments.apps true",
            "list deployments.apps true",
            "watch deployments.apps true",
            "list replicasets.apps true",
            "list events true",
            "list horizontalpodautoscalers.autoscaling true",
            "list poddisruptionbudgets.policy true",
            "list ingresses.networking.k8s.io true",
            "create events true",
            "get pods/log true",
        ]
    );
}

#[tokio::test]
async fn monitor_mode_reads_the_same_and_writes_nothing() {
    let (_, feed, mut server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "9", None));
    let enforce = super::spec(&["blue", "green"], None);
    let monitor = Arc::new(GuardSpec {
        mode: Mode::Monitor,
        ..enforce.as_ref().clone()
    });
    let reads = router::open(&enforce, feed.cluster.clone());
    let withheld = router::open(&monitor, feed.cluster.clone());
    assert_eq!(withheld.view(), reads.view());
    assert_eq!(withheld.flip(&order()).await.expect("an answer"), Flip::Withheld);
    let refused = withheld.pause(Some(pause())).await.expect_err("refused");
    assert!(matches!(refused, RouterError::MonitorMode { .. }));
    assert!(refused.to_string().contains("Service/web in namespace \"shop\""), "{refused}");
    let event = RouteEvent {
        warning: false,
        reason: "Withheld".into(),
        note: String::new(),
        at: Timestamp::UNIX_EPOCH,
    };
    withheld.tell(&event).await.expect("nothing done");
    server.rests().await;
    let rights = rights(withheld.as_ref(), &mut server).await;
    assert!(
        rights
            .iter()
            .all(|right| !right.starts_with("patch") && !right.starts_with("create")),
        "{rights:?}"
    );
    assert_eq!(rights.len(), 16);
}
