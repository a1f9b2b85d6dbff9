use serde_json::{Value, json};

use super::{Server, color, order, record, service, shop};
use crate::{
    model::{Ledger, ledger::LEDGER_ANNOTATION},
    router::{Flip, FlipOrder, Router as _, RouterError},
};

const WEB: &str = "/api/v1/namespaces/shop/services/web";
const PREVIEW: &str = "/api/v1/namespaces/shop/services/web-preview";

const RECORD: &str = r#"{\"at\":\"2027-01-15T08:00:00Z\",\"from\":\"green\",\"to\":\"blue\",\"from_release\":\"r2\",\"automatic\":true,\"bad\":true,\"trigger\":\"error_rate\",\"why\":\"12 % over 5 %\",\"incident\":\"i1\"}"#;

fn green(version: &str) -> Value {
    service("web", "web-green", version, Some(json!({"mine": "1"})))
}

fn flipped(version: &str) -> Value {
    let ledger = serde_json::to_string(&Ledger::default().with(record("i1"))).expect("encodes");
    service("web", "web-blue", version, Some(json!({"mine": "1", LEDGER_ANNOTATION: ledger})))
}

/// Runs an order against a script of the API server.
async fn run<S: Future<Output = Server>>(
    preview: Option<&str>,
    order: &FlipOrder,
    script: impl FnOnce(Server) -> S,
) -> Result<Flip, RouterError> {
    let (router, feed, server) = shop(&["blue", "green"], preview);
    let mut feed = feed.listed();
    feed.put(green("6"));
    let (flip, mut server) = tokio::join!(router.flip(order), script(server));
    server.rests().await;
    flip
}

fn moved(flip: Result<Flip, RouterError>) -> (String, Option<String>) {
    match flip {
        Ok(Flip::Moved {
            resource_version,
            preview_error,
            ..
        }) => (resource_version, preview_error),
        other => panic!("not moved: {other:?}"),
    }
}

#[tokio::test]
async fn a_flip_is_one_patch_of_exactly_these_bytes() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        let asked = server.asked().await;
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("PATCH", WEB));
        assert_eq!(asked.content_type, "application/json-patch+json");
        assert_eq!(asked.query.get("fieldManager").map(String::as_str), Some("flipback"));
        assert_eq!(asked.query.get("dryRun"), None);
        let expected = [
            r#"[{"op":"test","path":"/metadata/resourceVersion","value":"9"},"#,
            r#"{"op":"test","path":"/spec/selector/app.io~1color","value":"web-green"},"#,
            r#"{"op":"replace","path":"/spec/selector/app.io~1color","value":"web-blue"},"#,
            r#"{"op":"add","path":"/metadata/annotations/flipback.dev~1ledger","value":"{\"version\":2,\"flips\":["#,
            RECORD,
            r#"]}"}]"#,
        ];
        assert_eq!(asked.body, expected.concat());
        asked.answer(200, &flipped("10"));
        server
    })
    .await;
    assert_eq!(moved(flip), ("10".to_owned(), None));
}

#[tokio::test]
async fn annotations_are_made_only_where_there_are_none() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, service("web", "web-green", "9", None)).await;
        let patch = server.expect("PATCH", WEB, 200, flipped("10")).await;
        let patch: Value = serde_json::from_str(&patch).expect("JSON");
        assert_eq!(patch[3], json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        assert_eq!(patch[4]["path"], "/metadata/annotations/flipback.dev~1ledger");
        server
    })
    .await;
    moved(flip);
}

#[tokio::test]
async fn somebody_elses_switch_or_object_makes_it_stale_without_a_patch() {
    for object in [service("web", "web-blue", "9", None), service("web", "web-pink", "9", None), {
        let mut reborn = green("9");
        reborn["metadata"]["uid"] = json!("another");
        reborn
    }] {
        let flip = run(None, &order(), |mut server| async move {
            server.expect("GET", WEB, 200, object).await;
            server
        })
        .await;
        assert_eq!(flip.expect("an answer"), Flip::Stale);
    }
}

#[tokio::test]
async fn an_unrelated_change_in_between_costs_one_more_patch() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 422, json!("invalid")).await;
        server.expect("GET", WEB, 200, green("10")).await;
        let patch = server.expect("PATCH", WEB, 200, flipped("11")).await;
        assert!(patch.contains(r#""value":"10""#), "{patch}");
        server
    })
    .await;
    assert_eq!(moved(flip).0, "11");
}

#[tokio::test]
async fn a_refused_patch_on_a_moved_object_is_stale() {
    for code in [409, 422] {
        let flip = run(None, &order(), |mut server| async move {
            server.expect("GET", WEB, 200, green("9")).await;
            server.expect("PATCH", WEB, code, json!("invalid")).await;
            server.expect("GET", WEB, 200, service("web", "web-blue", "10", None)).await;
            server
        })
        .await;
        assert_eq!(flip.expect("an answer"), Flip::Stale);
    }
}

#[tokio::test]
async fn a_patch_that_is_never_accepted_is_given_up() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        for _ in 0..3 {
            server.expect("PATCH", WEB, 422, json!("denied by policy")).await;
            server.expect("GET", WEB, 200, green("9")).await;
        }
        server
    })
    .await;
    let error = flip.expect_err("given up");
    assert_eq!(error.to_string(), "failed to patch Service \"shop/web\"");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(source, "denied by policy (HTTP 422)");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_out_and_never_sent_again() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        let _lost = server.asked().await;
        server.expect("GET", WEB, 200, flipped("10")).await;
        server
    })
    .await;
    assert_eq!(moved(flip).0, "10");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_that_left_no_trace_is_unknown_after_a_single_patch() {
    for code in [None, Some(503)] {
        let flip = run(None, &order(), |mut server| async move {
            server.expect("GET", WEB, 200, green("9")).await;
            let asked = server.asked().await;
            assert_eq!(asked.method, "PATCH");
            let kept = match code {
                Some(code) => {
                    asked.answer(code, &json!("etcd is slow"));
                    None
                }
                None => Some(asked),
            };
            for _ in 0..3 {
                server.expect("GET", WEB, 200, green("9")).await;
            }
            drop(kept);
            server
        })
        .await;
        assert!(matches!(flip, Err(RouterError::Unknown { .. })), "{flip:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_a_third_color_is_stale() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        let _lost = server.asked().await;
        server.expect("GET", WEB, 500, json!("not yet")).await;
        server.expect("GET", WEB, 200, service("web", "web-pink", "10", None)).await;
        server
    })
    .await;
    assert_eq!(flip.expect("an answer"), Flip::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_again_because_it_did_nothing() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 429, json!("too many requests")).await;
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 200, flipped("10")).await;
        server
    })
    .await;
    moved(flip);
}

#[tokio::test(start_paused = true)]
async fn a_failed_reading_does_not_keep_the_patch_back() {
    let flip = run(None, &order(), |mut server| async {
        let _slow = server.asked().await;
        let patch = server.expect("PATCH", WEB, 200, flipped("10")).await;
        assert!(patch.contains(r#"/metadata/resourceVersion","value":"6""#), "as cached: {patch}");
        server
    })
    .await;
    moved(flip);
}

#[tokio::test]
async fn an_order_that_was_already_carried_out_is_not_carried_out_twice() {
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, flipped("10")).await;
        server
    })
    .await;
    assert_eq!(moved(flip).0, "10");
}

#[tokio::test]
async fn what_a_person_must_do_is_said() {
    let cases = [
        (401, "does not accept our credentials"),
        (403, "apply deploy/monitor.yaml"),
        (404, "does not exist"),
    ];
    for (code, part) in cases {
        let flip = run(None, &order(), |mut server| async move {
            server.expect("GET", WEB, 200, green("9")).await;
            server.expect("PATCH", WEB, code, json!("no")).await;
            server
        })
        .await;
        let error = flip.expect_err("refused").to_string();
        assert!(error.contains(part) && error.contains("Service \"shop/web\""), "{error}");
    }
}

#[tokio::test]
async fn the_ledger_grows_and_a_damaged_one_is_replaced_and_kept_beside_it() {
    let older = serde_json::to_string(&Ledger::default().with(record("i0"))).expect("encodes");
    for (text, known, flips) in [
        (older.as_str(), Some("i0".to_owned()), vec!["i0", "i1"]),
        ("{oops", None, vec!["i1"]),
    ] {
        let object = service("web", "web-green", "9", Some(json!({LEDGER_ANNOTATION: text})));
        let order = FlipOrder { known, ..order() };
        let flip = run(None, &order, |mut server| async move {
            server.expect("GET", WEB, 200, object).await;
            let patch = server.expect("PATCH", WEB, 200, flipped("10")).await;
            let patch: Value = serde_json::from_str(&patch).expect("JSON");
            let ledger: Ledger = serde_json::from_str(patch[3]["value"].as_str().expect("text")).expect("a ledger");
            let incidents: Vec<_> = ledger.flips.iter().map(|flip| flip.incident.as_str()).collect();
            assert_eq!(incidents, flips);
            let kept = (text == "{oops")
                .then(|| json!({"op": "add", "path": "/metadata/annotations/flipback.dev~1ledger-damaged", "value": text}));
            assert_eq!(patch.get(4), kept.as_ref());
            server
        })
        .await;
        moved(flip);
    }
}

/// The watch is silent, the color is what it was, and yet a flip and its undoing lie between.
#[tokio::test]
async fn a_flip_that_the_decision_knew_nothing_of_makes_it_stale_for_a_rule_and_not_for_a_person() {
    let ledger = serde_json::to_string(&Ledger::default().with(record("i0"))).expect("encodes");
    let object = || service("web", "web-green", "9", Some(json!({LEDGER_ANNOTATION: ledger})));
    let flip = run(None, &order(), |mut server| async {
        server.expect("GET", WEB, 200, object()).await;
        server
    })
    .await;
    assert_eq!(flip.expect("an answer"), Flip::Stale);

    let mut by_hand = order();
    by_hand.record.automatic = false;
    let flip = run(None, &by_hand, |mut server| async {
        server.expect("GET", WEB, 200, object()).await;
        server.expect("PATCH", WEB, 200, flipped("10")).await;
        server
    })
    .await;
    moved(flip);
}

#[tokio::test]
async fn the_preview_follows_to_the_color_that_was_left() {
    let flip = run(Some("web-preview"), &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 200, flipped("10")).await;
        server
            .expect("GET", PREVIEW, 200, service("web-preview", "web-blue", "3", None))
            .await;
        let patch = server
            .expect("PATCH", PREVIEW, 200, service("web-preview", "web-green", "4", None))
            .await;
        let expected = [
            r#"[{"op":"test","path":"/metadata/resourceVersion","value":"3"},"#,
            r#"{"op":"test","path":"/spec/selector/app.io~1color","value":"web-blue"},"#,
            r#"{"op":"replace","path":"/spec/selector/app.io~1color","value":"web-green"}]"#,
        ];
        assert_eq!(patch, expected.concat());
        server
    })
    .await;
    assert_eq!(moved(flip), ("10".to_owned(), None));
}

#[tokio::test]
async fn a_preview_that_does_not_follow_is_told_and_the_flip_stands() {
    let flip = run(Some("web-preview"), &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 200, flipped("10")).await;
        server
            .expect("GET", PREVIEW, 200, service("web-preview", "web-blue", "3", None))
            .await;
        server.expect("PATCH", PREVIEW, 403, json!("may not")).await;
        server
    })
    .await;
    let told = moved(flip).1.expect("told");
    assert!(
        told.contains("preview Service \"shop/web-preview\"") && told.contains("may not (HTTP 403)"),
        "{told}"
    );
}

#[tokio::test]
async fn a_preview_that_is_right_already_is_left_alone() {
    let flip = run(Some("web-preview"), &order(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 200, flipped("10")).await;
        server
            .expect("GET", PREVIEW, 200, service("web-preview", "web-green", "3", None))
            .await;
        server
    })
    .await;
    assert_eq!(moved(flip).1, None);
}

#[tokio::test]
async fn a_dry_run_asks_the_server_to_store_nothing() {
    let order = FlipOrder { dry_run: true, ..order() };
    let flip = run(Some("web-preview"), &order, |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        for (path, answer) in [(WEB, flipped("9")), (PREVIEW, service("web-preview", "web-green", "3", None))] {
            if path == PREVIEW {
                server
                    .expect("GET", PREVIEW, 200, service("web-preview", "web-blue", "3", None))
                    .await;
            }
            let asked = server.asked().await;
            assert_eq!((asked.method.as_str(), asked.path.as_str()), ("PATCH", path));
            assert_eq!(asked.query.get("dryRun").map(String::as_str), Some("All"));
            asked.answer(200, &answer);
        }
        server
    })
    .await;
    assert_eq!(flip.expect("accepted"), Flip::DryRun);
}

#[tokio::test]
async fn a_color_the_guard_does_not_have_asks_nothing() {
    let order = FlipOrder {
        to: color("pink"),
        ..order()
    };
    let flip = run(None, &order, |server| async { server }).await;
    assert!(matches!(flip, Err(RouterError::NoSuchColor { .. })), "{flip:?}");
}

// === what an earlier process did not end ===

fn of_preview(value: &str, changed: &str) -> Value {
    let mut preview = service("web-preview", value, "3", None);
    preview["metadata"]["managedFields"] = json!([{"manager": "kubectl-patch", "operation": "Update", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "time": changed, "fieldsV1": {"f:spec": {"f:selector": {}}}}]);
    preview
}

/// Before the flip of [`record`], which was decided at 08:00:00.
const BEFORE: &str = "2027-01-15T07:59:58Z";

async fn finish<S: Future<Output = Server>>(preview: Option<&str>, script: impl FnOnce(Server) -> S) -> Result<bool, RouterError> {
    let (router, _feed, server) = shop(&["blue", "green"], preview);
    let flip = record("i1");
    let (finished, mut server) = tokio::join!(router.finish(&flip), script(server));
    server.rests().await;
    finished
}

#[tokio::test]
async fn a_preview_that_was_not_swapped_is_brought_along_by_a_patch_that_compares() {
    let finished = finish(Some("web-preview"), |mut server| async {
        server.expect("GET", WEB, 200, flipped("10")).await;
        for _ in 0..2 {
            server.expect("GET", PREVIEW, 200, of_preview("web-blue", BEFORE)).await;
        }
        let patch = server
            .expect("PATCH", PREVIEW, 200, service("web-preview", "web-green", "4", None))
            .await;
        let patch: Value = serde_json::from_str(&patch).expect("JSON");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "3"}));
        assert_eq!(
            patch[1],
            json!({"op": "test", "path": "/spec/selector/app.io~1color", "value": "web-blue"})
        );
        assert_eq!(
            patch[2],
            json!({"op": "replace", "path": "/spec/selector/app.io~1color", "value": "web-green"})
        );
        server
    })
    .await;
    assert!(finished.expect("done"));
}

#[tokio::test]
async fn a_preview_is_left_alone_where_anything_has_happened_since() {
    let other = serde_json::to_string(&Ledger::default().with(record("i1")).with(record("i2"))).expect("encodes");
    let newer = service("web", "web-blue", "11", Some(json!({LEDGER_ANNOTATION: other})));
    let mut moved_on = flipped("11");
    moved_on["spec"]["selector"]["app.io/color"] = json!("web-green");
    for active in [newer, moved_on, service("web", "web-blue", "11", None)] {
        let finished = finish(Some("web-preview"), |mut server| async {
            server.expect("GET", WEB, 200, active).await;
            server
        })
        .await;
        assert!(!finished.expect("read"));
    }
    for preview in [
        of_preview("web-green", BEFORE),
        of_preview("web-canary", BEFORE),
        of_preview("web-blue", "2027-01-15T08:00:01Z"),
    ] {
        let finished = finish(Some("web-preview"), |mut server| async {
            server.expect("GET", WEB, 200, flipped("10")).await;
            server.expect("GET", PREVIEW, 200, preview).await;
            server
        })
        .await;
        assert!(!finished.expect("read"));
    }
    assert!(!finish(None, |server| async { server }).await.expect("nothing to do"));
}

#[tokio::test]
async fn a_preview_that_changes_while_it_is_brought_along_is_left_alone() {
    let finished = finish(Some("web-preview"), |mut server| async {
        server.expect("GET", WEB, 200, flipped("10")).await;
        for _ in 0..2 {
            server.expect("GET", PREVIEW, 200, of_preview("web-blue", BEFORE)).await;
        }
        server.expect("PATCH", PREVIEW, 422, json!("the test failed")).await;
        server.expect("GET", PREVIEW, 200, of_preview("web-canary", BEFORE)).await;
        server
    })
    .await;
    assert!(!finished.expect("left alone"));
}

#[tokio::test]
async fn a_preview_that_cannot_be_brought_along_is_told() {
    let finished = finish(Some("web-preview"), |mut server| async {
        server.expect("GET", WEB, 200, flipped("10")).await;
        for _ in 0..2 {
            server.expect("GET", PREVIEW, 200, of_preview("web-blue", BEFORE)).await;
        }
        server.expect("PATCH", PREVIEW, 403, json!("may not")).await;
        server
    })
    .await;
    let error = finished.expect_err("told").to_string();
    assert!(
        error.contains("Service \"shop/web\"") && error.contains("may not (HTTP 403)"),
        "{error}"
    );
}

// === the standby, asked once more ===

const PODS: &str = "/api/v1/namespaces/shop/pods";

/// The one pod of blue.
fn standby(ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-blue-1", "namespace": "shop", "labels": {"app": "web", "app.io/color": "web-blue"}},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]}
    })
}

fn pods(items: &[Value], further: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "9", "continue": further}, "items": items})
}

/// As [`run`], with a watch that tells of a Ready pod of blue.
async fn run_with_standby<S: Future<Output = Server>>(order: &FlipOrder, script: impl FnOnce(Server) -> S) -> Result<Flip, RouterError> {
    let (router, feed, server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(green("6"));
    feed.put(standby("True"));
    let (flip, mut server) = tokio::join!(router.flip(order), script(server));
    server.rests().await;
    flip
}

#[tokio::test]
async fn nothing_is_flipped_to_pods_that_are_gone_unseen() {
    for answer in [pods(&[standby("False")], ""), pods(&[], "")] {
        let flip = run_with_standby(&order(), |mut server| async {
            server.expect("GET", WEB, 200, green("9")).await;
            let asked = server.asked().await;
            assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", PODS));
            let selector = asked.query.get("labelSelector").map(String::as_str);
            assert_eq!(selector, Some("app=web,app.io/color=web-blue"));
            asked.answer(200, &answer);
            server
        })
        .await;
        let said = flip.expect_err("nobody is there").to_string();
        assert!(said.contains("no pod of blue is Ready") && said.contains("\"shop/web\""), "{said}");
    }
}

/// An order that the endpoints rule gave.
fn without_endpoints() -> FlipOrder {
    let mut order = order();
    order.record.trigger = "endpoints".to_owned();
    order
}

#[tokio::test]
async fn a_color_that_has_ready_pods_is_not_left_for_want_of_endpoints() {
    let flip = run(None, &without_endpoints(), |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        let asked = server.asked().await;
        let selector = asked.query.get("labelSelector").map(String::as_str);
        assert_eq!((asked.path.as_str(), selector), (PODS, Some("app=web,app.io/color=web-green")));
        asked.answer(200, &pods(&[standby("False"), standby("True")], ""));
        server
    })
    .await;
    assert!(matches!(flip, Ok(Flip::Stale)), "{flip:?}");
}

#[tokio::test(start_paused = true)]
async fn ready_pods_do_not_hold_a_flip_up_for_ever() {
    let (router, feed, mut server) = shop(&["blue", "green"], None);
    let mut feed = feed.listed();
    feed.put(green("6"));
    let order = without_endpoints();
    for (seconds, holds) in [(0, true), (25, true), (10, false)] {
        tokio::time::advance(std::time::Duration::from_secs(seconds)).await;
        let answers = async {
            server.expect("GET", WEB, 200, green("9")).await;
            server.expect("GET", PODS, 200, pods(&[standby("True")], "")).await;
            if !holds {
                server.expect("PATCH", WEB, 200, flipped("10")).await;
            }
        };
        let (flip, ()) = tokio::join!(router.flip(&order), answers);
        assert_eq!(matches!(flip, Ok(Flip::Stale)), holds, "{flip:?}");
    }
}

#[tokio::test]
async fn a_color_without_ready_pods_is_left_and_so_is_one_that_nobody_tells_of() {
    let answers = [
        (200, pods(&[standby("False")], "")),
        (200, pods(&[], "")),
        (200, pods(&[standby("False")], "more")),
        (403, json!("no right")),
    ];
    for (code, answer) in answers {
        let flip = run(None, &without_endpoints(), |mut server| async {
            server.expect("GET", WEB, 200, green("9")).await;
            server.expect("GET", PODS, code, answer).await;
            server.expect("PATCH", WEB, 200, flipped("10")).await;
            server
        })
        .await;
        assert_eq!(moved(flip).0, "10", "HTTP {code}");
    }
}

#[tokio::test]
async fn what_tells_less_than_the_watch_holds_nothing_up() {
    let answers = [
        (200, pods(&[standby("False"), standby("True")], "")),
        // Not the whole.
        (200, pods(&[standby("False")], "more")),
        (403, json!("no right")),
        (500, json!("trouble")),
    ];
    for (code, answer) in answers {
        let flip = run_with_standby(&order(), |mut server| async {
            server.expect("GET", WEB, 200, green("9")).await;
            server.expect("GET", PODS, code, answer).await;
            server.expect("PATCH", WEB, 200, flipped("10")).await;
            server
        })
        .await;
        assert_eq!(moved(flip).0, "10", "HTTP {code}");
    }
}

#[tokio::test]
async fn a_person_may_flip_to_whatever_they_like() {
    let mut order = order();
    order.record.automatic = false;
    let flip = run_with_standby(&order, |mut server| async {
        server.expect("GET", WEB, 200, green("9")).await;
        server.expect("PATCH", WEB, 200, flipped("10")).await;
        server
    })
    .await;
    assert_eq!(moved(flip).0, "10");
}
