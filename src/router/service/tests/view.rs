use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{color, record, service, shop};
use crate::{
    model::{Endpoint, Ledger, Traffic, View, ledger::LEDGER_ANNOTATION},
    router::Router as _,
};

fn pod(name: &str, value: &str, address: &str, ready: &str) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "app.io/color": value}},
        "spec": {"containers": [{"name": "side", "ports": [{"name": "metrics", "containerPort": 9090}]},
                                {"name": "app", "ports": [{"name": "serve", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": ready}]}
    })
}

fn endpoint(pod: &str, address: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}})
}

fn slice(name: &str, endpoints: &[Value]) -> Value {
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "tls", "port": 8443}, {"name": "http", "port": 8080}],
        "endpoints": endpoints
    })
}

fn deployment(name: &str, image: &str, replicas: u32, generation: u32) -> Value {
    json!({
        "kind": "Deployment",
        "metadata": {"name": name, "uid": "u", "generation": generation},
        "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": [{"name": "app", "image": image}]}}}
    })
}

fn known(view: View) -> Traffic {
    match view {
        View::Known(traffic) => *traffic,
        other => panic!("not known: {other:?}"),
    }
}

fn at(pod: &str, address: &str) -> Endpoint {
    Endpoint {
        pod: pod.into(),
        address: address.into(),
        port: Some(8080),
    }
}

#[tokio::test]
async fn both_sides_are_told_with_the_port_the_service_targets() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "7", None));
    for (name, value, address, ready) in [
        ("g1", "web-green", "10.0.0.1", "True"),
        ("g2", "web-green", "10.0.0.2", "False"),
        ("b1", "web-blue", "10.0.1.1", "True"),
        ("b2", "web-blue", "10.0.1.2", "False"),
        ("b3", "web-blue", "", "True"),
    ] {
        feed.put(pod(name, value, address, ready));
    }
    let mut leaving = pod("b4", "web-blue", "10.0.1.4", "True");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    feed.put(leaving);
    feed.put(slice(
        "web-a",
        &[
            endpoint("g1", "10.0.0.1", json!({"ready": true})),
            endpoint("g2", "10.0.0.2", json!({"ready": false})),
            endpoint("g3", "10.0.0.3", json!({"ready": true, "terminating": true})),
            endpoint("unlisted", "10.0.0.9", json!({})),
            // Of the other color: the slice has not yet followed a switch.
            endpoint("b1", "10.0.1.1", json!({"ready": true})),
        ],
    ));
    feed.put(slice("web-b", &[endpoint("g1", "fd00::1", json!({"ready": true}))]));
    feed.put(deployment("web-green", "web:2", 2, 1));
    feed.put(deployment("web-blue", "web:1", 3, 1));

    let traffic = known(router.view());
    assert_eq!((traffic.active.as_str(), traffic.standby.as_str()), ("green", "blue"));
    let green = traffic.active_side();
    assert_eq!(green.ready, 2);
    assert_eq!(green.endpoints, vec![at("g1", "10.0.0.1"), at("unlisted", "10.0.0.9")]);
    assert_eq!(green.unready, vec![at("g2", "10.0.0.2")]);
    assert_eq!(green.desired, Some(2));
    let blue = traffic.standby_side();
    assert_eq!(blue.ready, 1);
    assert_eq!(blue.endpoints, vec![at("b1", "10.0.1.1")]);
    assert_eq!(blue.unready, vec![at("b2", "10.0.1.2")]);
    assert_eq!(blue.release.expect("found").images, ["web:1"]);
    assert_eq!(traffic.seen, super::order().seen);
}

#[tokio::test]
async fn what_is_not_understood_is_never_a_color() {
    let (router, mut feed, _server) = shop(&["blue", "green"], None);
    let unreadable = |view: View, part: &str| match view {
        View::Unreadable(why) => assert!(why.contains(part), "{why}"),
        other => panic!("readable: {other:?}"),
    };
    unreadable(router.view(), "the first list of services in namespace \"shop\" is not in yet");
    feed = feed.listed();
    unreadable(
        router.view(),
        "Service \"shop/web\" does not exist: create it, or correct the guard's route.service",
    );
    feed.put(service("web", "web-pink", "8", None));
    let known = vec!["web-blue".to_owned(), "web-green".to_owned()];
    assert_eq!(
        router.view(),
        View::UnknownColor {
            found: Some("web-pink".into()),
            known: known.clone()
        }
    );
    let mut bare = service("web", "", "9", None);
    bare["spec"]["selector"] = json!({"app": "web"});
    feed.put(bare);
    assert_eq!(router.view(), View::UnknownColor { found: None, known });
}

#[tokio::test(start_paused = true)]
async fn a_view_outlives_a_short_loss_of_its_watch_and_not_a_long_one() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "7", None));
    assert!(known(router.view()).sides.values().all(|side| !side.unwatched));
    feed.trouble_with_pods("cannot reach the API server");
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(
        known(router.view()).sides.values().all(|side| side.unwatched),
        "old counts say that they are old"
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(
        router.view(),
        View::Unreadable("the watch of pods in namespace \"shop\" has been down for 31 s: cannot reach the API server".into())
    );
}

#[tokio::test]
async fn a_release_changes_with_the_template_and_not_with_replicas() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "7", None));
    let release = |view| known(view).active_side().release.expect("found").id;
    assert_eq!(known(router.view()).active_side().release, None, "no Deployment yet");
    feed.put(deployment("web-green", "web:2", 2, 1));
    let first = release(router.view());
    assert_eq!(first.len(), 12);
    feed.put(deployment("web-green", "web:2", 5, 2));
    assert_eq!(release(router.view()), first);
    assert_eq!(known(router.view()).active_side().desired, Some(5));
    feed.put(deployment("web-green", "web:3", 5, 3));
    assert_ne!(release(router.view()), first);
}

/// What was rolled back from stays bad when its pods are merely started anew.
#[tokio::test]
async fn a_restart_is_another_release_only_where_it_may_bring_another_image() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "7", None));
    let mut generation = 0;
    let mut release = |image: &str, annotations: Value| {
        generation += 1;
        let mut deployment = deployment("web-green", image, 2, generation);
        deployment["spec"]["template"]["metadata"]["annotations"] = annotations;
        feed.put(deployment);
        known(router.view()).active_side().release.expect("found").id
    };
    let restarted = |at: &str| json!({"kubectl.kubernetes.io/restartedAt": at});
    let (pinned, other) = (format!("web@sha256:{}", "a".repeat(64)), format!("web@sha256:{}", "b".repeat(64)));
    let first = release(&pinned, Value::Null);
    assert_eq!(release(&pinned, restarted("2026-11-21T04:00:00Z")), first);
    assert_eq!(release(&pinned, restarted("2026-11-21T05:00:00Z")), first);
    assert_ne!(release(&other, restarted("2026-11-21T05:00:00Z")), first, "another digest");
    let configured = json!({"checksum/config": "2", "kubectl.kubernetes.io/restartedAt": "2026-11-21T05:00:00Z"});
    assert_ne!(release(&pinned, configured), first, "another configuration, by its hash");
    let tagged = release("web:2", Value::Null);
    assert_ne!(
        release("web:2", restarted("2026-11-21T04:00:00Z")),
        tagged,
        "the tag may have moved"
    );
}

#[tokio::test]
async fn a_damaged_ledger_counts_as_empty_and_a_pause_by_hand_counts() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    let annotations = json!({LEDGER_ANNOTATION: "{oops", "flipback.dev/paused": "because"});
    feed.put(service("web", "web-green", "7", Some(annotations)));
    let traffic = known(router.view());
    assert_eq!(traffic.ledger, Ledger::default());
    assert_eq!(traffic.paused.expect("paused").reason, "because");
    feed.put(service("web", "web-green", "8", Some(json!({"flipback.dev/paused": "false"}))));
    assert_eq!(known(router.view()).paused, None);
    let written = r#"{"by":"ann","at":"2026-01-01T00:00:00Z","reason":"freeze"}"#;
    feed.put(service("web", "web-green", "9", Some(json!({"flipback.dev/paused": written}))));
    assert_eq!(known(router.view()).paused.expect("paused").by, "ann");
}

#[tokio::test]
async fn the_object_tells_who_switched_and_the_ledger_when_it_was_us() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    let owner =
        |manager: &str, time: &str, fields: Value| json!({"manager": manager, "operation": "Update", "time": time, "fieldsV1": fields});
    let selector = json!({"f:spec": {"f:selector": {}}});
    let mut object = service("web", "web-green", "7", None);
    object["metadata"]["managedFields"] = json!([
        owner("helm", "2026-01-01T00:00:00Z", selector.clone()),
        owner("kubectl-patch", "2026-01-02T00:00:00Z", selector.clone()),
        owner("kubectl-annotate", "2026-01-03T00:00:00Z", json!({"f:metadata": {}})),
    ]);
    feed.put(object.clone());
    let traffic = known(router.view());
    assert_eq!(traffic.switched_by.as_deref(), Some("kubectl-patch"));
    assert_eq!(
        traffic.switched_at,
        Some("2026-01-02T00:00:00Z".parse::<Timestamp>().expect("valid"))
    );

    // Pausing later touches our entry's time, not the time of the flip.
    let ledger = serde_json::to_string(&Ledger::default().with(record("i1"))).expect("encodes");
    let mut object = service("web", "web-blue", "8", Some(json!({LEDGER_ANNOTATION: ledger})));
    object["metadata"]["managedFields"] = json!([owner("flipback", "2030-01-01T00:00:00Z", selector)]);
    feed.put(object);
    let traffic = known(router.view());
    assert_eq!(traffic.switched_by.as_deref(), Some("flipback"));
    assert_eq!(traffic.switched_at, Some(record("i1").at));
}

#[tokio::test]
async fn with_many_colors_standby_is_the_one_that_served_last() {
    let (router, feed, _server) = shop(&["blue", "canary", "green"], None);
    let mut feed = feed.listed();
    let standby = |view| known(view).standby;
    feed.put(service("web", "web-green", "1", None));
    assert_eq!(standby(router.view()), color("blue"), "the first other one");
    feed.put(pod("c", "web-canary", "10.0.0.1", "True"));
    assert_eq!(standby(router.view()), color("canary"), "the only one that could serve");
    let ledger = serde_json::to_string(&Ledger::default().with(record("i1"))).expect("encodes");
    feed.put(service("web", "web-green", "2", Some(json!({LEDGER_ANNOTATION: ledger}))));
    assert_eq!(standby(router.view()), color("blue"), "the ledger's newest flip went to blue");
    feed.put(service("web", "web-canary", "3", None));
    assert_eq!(standby(router.view()), color("green"), "green was active a moment ago");
}

#[tokio::test]
async fn a_quiet_namespace_is_not_looked_at_again() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "1", None));
    let first = router.view();
    feed.smuggle(service("web", "web-blue", "2", None));
    assert_eq!(router.view(), first);
    feed.put(service("web", "web-blue", "2", None));
    assert_eq!(known(router.view()).active, color("blue"));
}

#[tokio::test]
async fn a_deployment_that_is_not_available_says_why() {
    let (router, feed, _server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(service("web", "web-green", "9", None));
    let mut says = |status: Option<Value>| {
        let mut object = deployment("web-blue", "web:1", 2, 3);
        if let Some(status) = status {
            object["status"] = status;
        }
        feed.put(object);
        known(router.view()).sides[&color("blue")].unavailable.clone()
    };
    let with = |observed: u32, available: &str| {
        Some(json!({"observedGeneration": observed, "conditions": [
            {"type": "Progressing", "status": "False"}, {"type": "Available", "status": available}]}))
    };
    assert_eq!(says(with(3, "True")), None);
    assert_eq!(
        says(with(3, "False")).as_deref(),
        Some("Deployment/web-blue has fewer available pods than it promises (condition Available is False)")
    );
    let unseen = says(with(2, "True")).expect("not seen yet");
    assert!(unseen.contains("generation 2 of 3"), "{unseen}");
    // Who says nothing is not held to it.
    assert_eq!(says(Some(json!({"observedGeneration": 3}))), None);
    assert_eq!(says(None), None);
}
