use serde_json::{Value, json};

use super::{Server, color, shop};
use crate::router::{Router as _, RouterError, Scaled};

const BLUE: &str = "/apis/apps/v1/namespaces/shop/deployments/web-blue";
const SCALE: &str = "/apis/apps/v1/namespaces/shop/deployments/web-blue/scale";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers";

fn blue(version: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web-blue", "namespace": "shop", "uid": "uid-blue", "resourceVersion": version},
        "spec": {"replicas": replicas, "selector": {}, "template": {}}
    })
}

/// Asks for two replicas of blue, which has none, against a script of what follows the update.
async fn raise<S: Future<Output = Server>>(after: impl FnOnce(Server) -> S) -> Result<Scaled, RouterError> {
    let (router, _feed, mut server) = shop(&["blue", "green"], None);
    let blue_side = color("blue");
    let (scaled, mut server) = tokio::join!(router.scale_up(&blue_side, 2), async {
        let none = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscalerList", "metadata": {}, "items": []});
        server.expect("GET", AUTOSCALERS, 200, none).await;
        server.expect("GET", BLUE, 200, blue("7", 0)).await;
        after(server).await
    });
    server.rests().await;
    scaled
}

fn up(scaled: &Result<Scaled, RouterError>) -> bool {
    matches!(scaled, Ok(Scaled::Up { from: 0, to: 2, .. }))
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_looked_up_before_anybody_is_told_that_it_failed() {
    for code in [None, Some(500), Some(504)] {
        for (carried_out, replicas) in [(true, 2), (false, 0), (false, 3)] {
            let scaled = raise(|mut server| async move {
                let asked = server.asked().await;
                assert_eq!((asked.method.as_str(), asked.path.as_str()), ("PUT", SCALE));
                let kept = match code {
                    Some(code) => {
                        asked.answer(code, &json!("etcd is slow"));
                        None
                    }
                    None => Some(asked),
                };
                server.expect("GET", BLUE, 200, blue("8", replicas)).await;
                drop(kept);
                server
            })
            .await;
            assert_eq!(up(&scaled), carried_out, "{code:?}: {scaled:?}");
            assert_eq!(scaled.is_err(), replicas == 0, "{code:?}: {scaled:?}");
            let by_another = matches!(scaled, Ok(Scaled::Enough { replicas: 3 }));
            assert_eq!(by_another, replicas == 3, "{code:?}: {scaled:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_with_nobody_to_look_it_up_is_a_failure() {
    let scaled = raise(|mut server| async move {
        server.expect("PUT", SCALE, 500, json!("etcd is slow")).await;
        server.expect("GET", BLUE, 503, json!("and still is")).await;
        server
    })
    .await;
    let said = scaled.expect_err("nobody knows").to_string();
    assert!(!said.is_empty(), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_at_once() {
    let scaled = raise(|mut server| async move {
        server.expect("PUT", SCALE, 403, json!("no")).await;
        server
    })
    .await;
    assert!(scaled.is_err(), "{scaled:?}");
}
