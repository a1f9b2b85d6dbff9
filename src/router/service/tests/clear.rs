use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Asked, record, service, shop};
use crate::{
    model::{Clear, Clearance, Ledger, ledger::LEDGER_ANNOTATION},
    router::{self, Router as _, RouterError},
};

const WEB: &str = "/api/v1/namespaces/shop/services/web";

fn word() -> Clearance {
    Clearance {
        by: "ann".into(),
        at: Timestamp::from_second(1_800_000_600).expect("in range"),
        reason: "mended".into(),
    }
}

/// The Service with this ledger.
fn with(version: &str, ledger: &Ledger) -> Value {
    let text = serde_json::to_string(ledger).expect("encodes");
    service("web", "web-blue", version, Some(json!({"mine": "1", LEDGER_ANNOTATION: text})))
}

fn one() -> Ledger {
    Ledger::default().with(record("i1"))
}

/// The ledger that a patch writes, which does nothing else but compare the version.
fn written(patch: &str, version: &str) -> Ledger {
    let patch: Value = serde_json::from_str(patch).expect("JSON");
    assert_eq!(
        patch[0],
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})
    );
    assert_eq!(patch[1]["path"], "/metadata/annotations/flipback.dev~1ledger");
    assert_eq!(patch.as_array().map(Vec::len), Some(2), "{patch:#}");
    serde_json::from_str(patch[1]["value"].as_str().expect("text")).expect("a ledger")
}

#[tokio::test]
async fn a_release_is_forgotten_by_one_annotation_and_nothing_else() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let (clear, word) = (Clear::Release("r2".into()), word());
    let (cleared, patch) = tokio::join!(router.clear(&clear, &word), async {
        server.expect("GET", WEB, 200, with("9", &one())).await;
        server.expect("PATCH", WEB, 200, with("10", &one())).await
    });
    assert!(cleared.expect("accepted"));
    let ledger = written(&patch, "9");
    assert!(!ledger.is_bad("r2"));
    assert_eq!(ledger.flips[0].forgotten.as_ref(), Some(&word));
}

#[tokio::test]
async fn a_flip_in_between_is_not_overwritten() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let two = one().with(record("i2"));
    let (clear, word) = (Clear::All, word());
    let (cleared, patch) = tokio::join!(router.clear(&clear, &word), async {
        server.expect("GET", WEB, 200, with("9", &one())).await;
        server.expect("PATCH", WEB, 422, json!("invalid")).await;
        server.expect("GET", WEB, 200, with("10", &two)).await;
        server.expect("PATCH", WEB, 200, with("11", &two)).await
    });
    assert!(cleared.expect("accepted"));
    let ledger = written(&patch, "10");
    assert_eq!(ledger.flips.len(), 2);
    assert!(ledger.flips.iter().all(|flip| !flip.marks() && !flip.counts()));
}

#[tokio::test]
async fn an_answer_that_was_lost_is_not_written_twice() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let (clear, word) = (Clear::All, word());
    let done = one().cleared(&clear, &word).expect("something");
    let (cleared, ()) = tokio::join!(router.clear(&clear, &word), async {
        server.expect("GET", WEB, 200, with("9", &one())).await;
        server.expect("PATCH", WEB, 504, json!("gone")).await;
        server.expect("GET", WEB, 200, with("10", &done)).await;
        server.rests().await;
    });
    assert!(cleared.expect("it had arrived"));
}

#[tokio::test]
async fn where_nothing_is_held_nothing_is_written() {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let (clear, word) = (Clear::Release("r7".into()), word());
    let (cleared, ()) = tokio::join!(router.clear(&clear, &word), async {
        server.expect("GET", WEB, 200, with("9", &one())).await;
        server.rests().await;
    });
    assert!(!cleared.expect("answered"));
}

#[tokio::test]
async fn a_damaged_ledger_is_named_and_put_aside_only_when_everything_is_cleared() {
    let damaged = || service("web", "web-blue", "9", Some(json!({LEDGER_ANNOTATION: "{oops"})));
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let (clear, word) = (Clear::Count, word());
    let (refused, ()) = tokio::join!(router.clear(&clear, &word), async {
        server.expect("GET", WEB, 200, damaged()).await;
        server.rests().await;
    });
    let error = refused.expect_err("it cannot be understood");
    assert_eq!(
        error.to_string(),
        "failed to clear Service \"shop/web\": its ledger cannot be understood; `flipback clear GUARD --all` puts it aside and begins a new one"
    );
    let clear = Clear::All;
    let (cleared, asked) = tokio::join!(router.clear(&clear, &word), async {
        server.expect("GET", WEB, 200, damaged()).await;
        let asked: Asked = server.asked().await;
        let body = asked.body.clone();
        asked.answer(200, &damaged());
        body
    });
    assert!(cleared.expect("accepted"));
    let patch: Value = serde_json::from_str(&asked).expect("JSON");
    assert_eq!(patch[2]["path"], "/metadata/annotations/flipback.dev~1ledger-damaged");
    assert_eq!(patch[2]["value"], "{oops");
}

#[tokio::test]
async fn monitor_mode_clears_nothing() {
    let (_router, feed, mut server) = shop(&["blue", "green"], None);
    let mut spec = (*super::spec(&["blue", "green"], None)).clone();
    spec.mode = crate::model::Mode::Monitor;
    let router = router::open(&std::sync::Arc::new(spec), feed.cluster.clone());
    let refused = router.clear(&Clear::All, &word()).await;
    assert!(
        matches!(refused, Err(RouterError::MonitorMode { attempted: "clear", .. })),
        "{refused:?}"
    );
    server.rests().await;
}
