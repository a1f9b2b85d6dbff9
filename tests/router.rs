//! The Service router and its caches on a real kube-apiserver.

#[path = "router/minimal.rs"]
mod minimal;

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use flipback::{
    cluster::Cluster,
    metrics::Metrics,
    model::{
        Color, ColorSpec, EvidenceSpec, FlipRecord, GuardId, GuardSpec, Mode, Pause, Policy, RouteSpec, ServiceRoute, Traffic, View,
        ledger::{LEDGER_ANNOTATION, PAUSE_ANNOTATION},
        settings::ClusterSettings,
    },
    router::{self, Flip, FlipOrder, RouteEvent, Router, RouterError},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, Client, api::ListParams};
use minimal::{ADMIN, ControlPlane, NOBODY, READER};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const KEY: &str = "shop.example/color";

/// A namespace of its own, filled with a guarded shop, and a cluster that watches it.
struct Shop {
    plane: Arc<ControlPlane>,
    admin: Client,
    namespace: String,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

/// One request with a JSON body, as bytes came back.
async fn send(client: &Client, method: &str, path: &str, content_type: &str, body: &Value) -> Result<String, kube::Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(body.to_string().into_bytes())
        .expect("valid");
    client.request_text(request).await
}

impl Shop {
    async fn open(test: &str) -> Option<Self> {
        Some(Self::open_on(minimal::shared(test).await?).await)
    }

    async fn open_on(plane: Arc<ControlPlane>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let namespace = format!("shop-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = plane.client(ADMIN).await;
        let shop = Self {
            plane,
            admin,
            namespace,
            stop: CancellationToken::new(),
            dir: tempfile::tempdir().expect("creates"),
        };
        shop.post("/api/v1/namespaces", json!({"metadata": {"name": shop.namespace}})).await;
        for (name, value) in [("web", "web-green"), ("web-preview", "web-blue")] {
            shop.post(&shop.path("services"), service(name, value)).await;
        }
        for (pod, side) in [("green-1", "green"), ("blue-1", "blue"), ("blue-2", "blue")] {
            shop.pod(pod, side, "True").await;
        }
        shop.slice(&["green-1"]).await;
        for side in ["blue", "green"] {
            shop.post(
                &format!("/apis/apps/v1/namespaces/{}/deployments", shop.namespace),
                json!({"metadata": {"name": format!("web-{side}")}, "spec": {
                    "replicas": 2, "selector": {"matchLabels": {"side": side}},
                    "template": {"metadata": {"labels": {"side": side}},
                                 "spec": {"containers": [{"name": "app", "image": format!("web:{side}")}]}}}}),
            )
            .await;
        }
        shop
    }

    fn path(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    async fn post(&self, path: &str, body: Value) {
        let sent = send(&self.admin, "POST", path, "application/json", &body).await;
        sent.unwrap_or_else(|error| panic!("POST {path}: {error}"));
    }

    async fn merge(&self, path: &str, body: Value) {
        let sent = send(&self.admin, "PATCH", path, "application/merge-patch+json", &body).await;
        sent.unwrap_or_else(|error| panic!("PATCH {path}: {error}"));
    }

    async fn pod(&self, name: &str, side: &str, ready: &str) {
        let body = json!({"metadata": {"name": name, "labels": {"app": "web", "tier": "front", KEY: format!("web-{side}")}},
            "spec": {"containers": [{"name": "app", "image": "web", "ports": [{"name": "serve", "containerPort": 8080}]}]}});
        self.post(&self.path("pods"), body).await;
        self.set_ready(name, ready).await;
    }

    async fn set_ready(&self, name: &str, ready: &str) {
        let status = json!({"status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}],
            "conditions": [{"type": "Ready", "status": ready}]}});
        self.merge(&self.path(&format!("pods/{name}/status")), status).await;
    }

    /// What the EndpointSlice controller would write.
    async fn slice(&self, pods: &[&str]) {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|pod| {
                json!({"addresses": ["10.1.0.1"], "conditions": {"ready": true},
                       "targetRef": {"kind": "Pod", "name": pod, "namespace": self.namespace}})
            })
            .collect();
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", self.namespace);
        let body = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        if send(&self.admin, "POST", &path, "application/json", &body).await.is_err() {
            self.merge(&format!("{path}/web-1"), body).await;
        }
    }

    /// A Service, byte for byte as the API server gives it.
    async fn raw(&self, name: &str) -> String {
        let request = http::Request::get(self.path(&format!("services/{name}")))
            .body(Vec::new())
            .expect("valid");
        self.admin.request_text(request).await.expect("answers")
    }

    async fn selector(&self, name: &str) -> String {
        let service: Value = serde_json::from_str(&self.raw(name).await).expect("JSON");
        service["spec"]["selector"][KEY].as_str().unwrap_or_default().to_owned()
    }

    fn settings(&self, kubeconfig: &str) -> ClusterSettings {
        let path = self.dir.path().join(format!("kubeconfig-{}", rand::random::<u32>()));
        fs::write(&path, kubeconfig).expect("writes");
        ClusterSettings {
            kubeconfig: Some(path),
            read_timeout: Duration::from_secs(10),
            flip_timeout: Duration::from_secs(5),
            ..ClusterSettings::default()
        }
    }

    fn open_cluster(&self, settings: ClusterSettings) -> Arc<Cluster> {
        let metrics = Metrics::new().expect("registers");
        Cluster::open(settings, BTreeSet::from([self.namespace.clone()]), metrics, self.stop.clone())
    }

    /// A synced cluster for a token.
    async fn cluster(&self, token: &str) -> Arc<Cluster> {
        let cluster = self.open_cluster(self.settings(&self.plane.kubeconfig(token)));
        cluster.synced(Duration::from_secs(10)).await.expect("syncs");
        assert_eq!(cluster.health(), Ok(()));
        cluster
    }

    fn spec(&self) -> Arc<GuardSpec> {
        let side = |name: &str| {
            let spec = ColorSpec {
                value: format!("web-{name}"),
                deployment: Some(format!("web-{name}")),
                service: None,
            };
            (color(name), spec)
        };
        Arc::new(GuardSpec {
            id: GuardId::new("", &self.namespace, "web").expect("valid"),
            cluster: String::new(),
            namespace: self.namespace.clone(),
            route: RouteSpec::Service(ServiceRoute {
                active: "web".into(),
                preview: Some("web-preview".into()),
                selector_key: KEY.into(),
            }),
            colors: [side("blue"), side("green")].into(),
            rules: Vec::new(),
            policy: Policy::default(),
            mode: Mode::Enforce,
            scale_up: None,
            connections: flipback::model::Connections::default(),
            maintenance: Vec::new(),
            evidence: EvidenceSpec::default(),
            chats: Vec::new(),
            config_hash: "c".into(),
        })
    }

    async fn router(&self) -> Arc<dyn Router> {
        router::open(&self.spec(), self.cluster(ADMIN).await)
    }
}

/// A Service with everything that a careless rewrite would lose.
fn service(name: &str, value: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {"team": "shop"},
            "annotations": {"example.com/z": "ü \"quoted\" <&>", "example.com/a": "{\"json\": [1,2]}"}
        },
        "spec": {
            "type": "LoadBalancer", "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
            "selector": {"app": "web", KEY: value, "tier": "front"},
            "ports": [{"name": "http", "port": 80, "targetPort": "serve", "nodePort": 0},
                      {"name": "tls", "port": 443, "targetPort": 8443, "appProtocol": "https"}]
        }
    })
}

fn known(view: View) -> Traffic {
    match view {
        View::Known(traffic) => *traffic,
        other => panic!("not known: {other:?}"),
    }
}

/// Waits until a view satisfies `wanted`; panics with the last one when it never does.
async fn until(router: &dyn Router, wanted: impl Fn(&View) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let view = router.view();
        if wanted(&view) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "never came: {view:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn active(name: &'static str) -> impl Fn(&View) -> bool {
    move |view| matches!(view, View::Known(traffic) if traffic.active == color(name))
}

fn order(view: View, incident: &str) -> FlipOrder {
    let traffic = known(view);
    FlipOrder {
        record: FlipRecord {
            at: Timestamp::from_second(1_800_000_000).expect("in range"),
            from: traffic.active.clone(),
            to: traffic.standby.clone(),
            from_release: traffic.active_side().release.map(|release| release.id),
            to_release: traffic.standby_side().release.map(|release| release.id),
            automatic: true,
            bad: true,
            trigger: "error_rate".into(),
            why: "12 % over 5 %".into(),
            incident: incident.into(),
            from_images: Vec::new(),
            by: None,
            reassert: None,
            forgotten: None,
            discounted: None,
            thread: None,
            rest: serde_json::Map::new(),
        },
        known: traffic.ledger.last().map(|flip| flip.incident.clone()),
        seen: traffic.seen,
        from: traffic.active,
        to: traffic.standby,
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_changes_the_key_and_the_ledger_and_not_another_byte() {
    let Some(shop) = Shop::open("a_flip_changes_the_key_and_the_ledger_and_not_another_byte").await else {
        return;
    };
    let router = shop.router().await;
    let (before, preview_before) = (shop.raw("web").await, shop.raw("web-preview").await);
    let order = order(router.view(), "i1");
    let flip = router.flip(&order).await.expect("accepted");
    let Flip::Moved {
        took,
        resource_version,
        preview_error,
    } = flip
    else {
        panic!("not moved: {flip:?}");
    };
    assert_eq!(preview_error, None);
    assert!(took < Duration::from_secs(5));
    let (after, preview_after) = (shop.raw("web").await, shop.raw("web-preview").await);
    assert!(after.contains(&format!("\"resourceVersion\":\"{resource_version}\"")));

    // What may differ is taken out; what is left must be the same text.
    let rest = |text: &str, value: &str, other: &str| {
        let mut object: Value = serde_json::from_str(text).expect("JSON");
        let metadata = object["metadata"].as_object_mut().expect("an object");
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
        let ledger = metadata["annotations"]
            .as_object_mut()
            .expect("an object")
            .remove(LEDGER_ANNOTATION);
        let key = object["spec"]["selector"]
            .as_object_mut()
            .expect("an object")
            .get_mut(KEY)
            .expect("the key");
        assert_eq!(key, value);
        *key = json!(other);
        (object.to_string(), ledger)
    };
    let (was, no_ledger) = rest(&before, "web-green", "X");
    let (is, ledger) = rest(&after, "web-blue", "X");
    assert_eq!(was, is);
    assert_eq!(no_ledger, None);
    assert!(ledger.expect("written").as_str().expect("text").contains("\"incident\":\"i1\""));
    let (was, _) = rest(&preview_before, "web-blue", "X");
    let (is, ledger) = rest(&preview_after, "web-green", "X");
    assert_eq!(was, is);
    assert_eq!(ledger, None, "the preview carries no ledger");

    until(router.as_ref(), active("blue")).await;
    let traffic = known(router.view());
    assert_eq!(traffic.switched_by.as_deref(), Some("flipback"));
    assert_eq!(traffic.switched_at, Some(order.record.at));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_annotations_gets_its_first() {
    let Some(shop) = Shop::open("an_object_without_annotations_gets_its_first").await else {
        return;
    };
    shop.merge(&shop.path("services/web"), json!({"metadata": {"annotations": null}}))
        .await;
    let router = shop.router().await;
    assert!(!shop.raw("web").await.contains("\"annotations\""));
    let flip = router.flip(&order(router.view(), "i1")).await;
    assert!(matches!(flip, Ok(Flip::Moved { .. })), "{flip:?}");
    let after: Value = serde_json::from_str(&shop.raw("web").await).expect("JSON");
    assert_eq!(after["metadata"]["annotations"].as_object().map(serde_json::Map::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_object_is_stale_and_an_annotated_one_is_not() {
    let Some(shop) = Shop::open("a_moved_object_is_stale_and_an_annotated_one_is_not").await else {
        return;
    };
    let router = shop.router().await;
    let order = order(router.view(), "i1");
    shop.merge(&shop.path("services/web"), json!({"metadata": {"annotations": {"other": "1"}}}))
        .await;
    let dry = FlipOrder {
        dry_run: true,
        ..order.clone()
    };
    let before = shop.raw("web").await;
    assert_eq!(router.flip(&dry).await.expect("accepted"), Flip::DryRun);
    assert_eq!(shop.raw("web").await, before, "a dry run stores nothing");

    shop.merge(&shop.path("services/web"), json!({"spec": {"selector": {KEY: "web-blue"}}}))
        .await;
    let before = shop.raw("web").await;
    assert_eq!(router.flip(&order).await.expect("an answer"), Flip::Stale);
    assert_eq!(shop.raw("web").await, before);

    shop.merge(&shop.path("services/web"), json!({"spec": {"selector": {KEY: "web-green"}}}))
        .await;
    assert!(matches!(router.flip(&order).await, Ok(Flip::Moved { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_that_flip_at_once_one_does() {
    let Some(shop) = Shop::open("of_two_daemons_that_flip_at_once_one_does").await else {
        return;
    };
    let (one, two) = (shop.router().await, shop.router().await);
    for round in 0..10 {
        until(
            one.as_ref(),
            |view| matches!(view, View::Known(traffic) if traffic.ledger.flips.len() == round),
        )
        .await;
        let first = order(one.view(), &format!("one-{round}"));
        let second = FlipOrder {
            record: FlipRecord {
                incident: format!("two-{round}"),
                ..first.record.clone()
            },
            ..first.clone()
        };
        let (a, b) = tokio::join!(one.flip(&first), two.flip(&second));
        let moved = [&a, &b].iter().filter(|flip| matches!(flip, Ok(Flip::Moved { .. }))).count();
        let stale = [&a, &b].iter().filter(|flip| matches!(flip, Ok(Flip::Stale))).count();
        assert_eq!((moved, stale), (1, 1), "{a:?} {b:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_grows_and_a_pause_survives_a_flip() {
    let Some(shop) = Shop::open("the_ledger_grows_and_a_pause_survives_a_flip").await else {
        return;
    };
    let router = shop.router().await;
    let pause = Pause {
        by: "ann".into(),
        at: Timestamp::from_second(1_700_000_000).expect("in range"),
        reason: "a \"freeze\"".into(),
        until: None,
    };
    router.pause(Some(pause.clone())).await.expect("accepted");
    until(
        router.as_ref(),
        |view| matches!(view, View::Known(traffic) if traffic.paused.is_some()),
    )
    .await;
    for (incident, to) in [("i1", "blue"), ("i2", "green")] {
        let flip = router.flip(&order(router.view(), incident)).await;
        assert!(matches!(flip, Ok(Flip::Moved { preview_error: None, .. })), "{flip:?}");
        until(router.as_ref(), active(to)).await;
    }
    assert_eq!(shop.selector("web-preview").await, "web-blue");
    let traffic = known(router.view());
    let incidents: Vec<_> = traffic.ledger.flips.iter().map(|flip| flip.incident.as_str()).collect();
    assert_eq!(incidents, ["i1", "i2"]);
    assert_eq!(traffic.paused, Some(pause));
    router.pause(None).await.expect("accepted");
    assert!(!shop.raw("web").await.contains(PAUSE_ANNOTATION));
    router.pause(None).await.expect("already so");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_apart_and_bear_the_uid() {
    let Some(shop) = Shop::open("events_are_kept_apart_and_bear_the_uid").await else {
        return;
    };
    let router = shop.router().await;
    let event = RouteEvent {
        warning: true,
        reason: "RolledBack".into(),
        note: format!("from green to blue {}", "ü".repeat(1000)),
        at: Timestamp::from_second(1_800_000_000).expect("in range"),
    };
    for _ in 0..3 {
        router.tell(&event).await.expect("accepted");
    }
    let uid = known(router.view()).seen.uid;
    let events: Api<Event> = Api::namespaced(shop.admin.clone(), &shop.namespace);
    // The selector of `kubectl describe`.
    let of_service = ListParams::default().fields(&format!(
        "involvedObject.uid={uid},involvedObject.name=web,involvedObject.kind=Service"
    ));
    let found = events.list(&of_service).await.expect("answers");
    assert_eq!(found.items.len(), 3);
    let first = &found.items[0];
    assert_eq!(
        (first.type_.as_deref(), first.reason.as_deref()),
        (Some("Warning"), Some("RolledBack"))
    );
    assert_eq!(
        first.source.as_ref().and_then(|source| source.component.as_deref()),
        Some("flipback")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_follows_pods_endpoints_and_releases() {
    let Some(shop) = Shop::open("the_view_follows_pods_endpoints_and_releases").await else {
        return;
    };
    let cluster = shop.cluster(ADMIN).await;
    let router = router::open(&shop.spec(), cluster.clone());
    let traffic = known(router.view());
    assert_eq!((traffic.active_side().ready, traffic.standby_side().ready), (1, 2));
    assert_eq!(traffic.active_side().endpoints[0].port, Some(8080));
    assert_eq!(traffic.standby_side().endpoints[0].port, Some(8080), "the named port of the pod");
    assert_eq!(traffic.standby_side().release.expect("found").images, ["web:blue"]);

    while tokio::time::timeout(Duration::from_millis(100), cluster.changed()).await.is_ok() {}
    let changed = cluster.changed();
    shop.set_ready("blue-2", "False").await;
    tokio::time::timeout(Duration::from_secs(5), changed)
        .await
        .expect("the change is told");
    until(
        router.as_ref(),
        |view| matches!(view, View::Known(traffic) if traffic.standby_side().ready == 1),
    )
    .await;

    let release = |view| known(view).standby_side().release.expect("found").id;
    let before = release(router.view());
    let path = format!("/apis/apps/v1/namespaces/{}/deployments/web-blue", shop.namespace);
    shop.merge(&path, json!({"spec": {"replicas": 7}})).await;
    until(
        router.as_ref(),
        |view| matches!(view, View::Known(traffic) if traffic.standby_side().desired == Some(7)),
    )
    .await;
    assert_eq!(release(router.view()), before);
    let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "web:3"}]);
    send(&shop.admin, "PATCH", &path, "application/json-patch+json", &image)
        .await
        .expect("accepted");
    until(
        router.as_ref(),
        |view| matches!(view, View::Known(traffic) if traffic.standby_side().release.as_ref().is_some_and(|release| release.id != before)),
    )
    .await;

    shop.merge(&shop.path("services/web"), json!({"spec": {"selector": {KEY: "web-pink"}}}))
        .await;
    until(
        router.as_ref(),
        |view| matches!(view, View::UnknownColor { found: Some(found), .. } if found == "web-pink"),
    )
    .await;
    send(&shop.admin, "DELETE", &shop.path("services/web"), "application/json", &json!({}))
        .await
        .expect("accepted");
    until(
        router.as_ref(),
        |view| matches!(view, View::Unreadable(why) if why.contains("does not exist")),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_is_verified_by_the_endpoints() {
    let Some(shop) = Shop::open("a_flip_is_verified_by_the_endpoints").await else {
        return;
    };
    let router = shop.router().await;
    let green = router.verify(&color("green")).await.expect("read");
    assert_eq!((green.ready, green.problem), (1, None));
    let problem = router.verify(&color("blue")).await.expect("read").problem.expect("not there yet");
    assert!(problem.contains("selects \"web-green\""), "{problem}");

    router.flip(&order(router.view(), "i1")).await.expect("accepted");
    let blue = color("blue");
    let (verified, ()) = tokio::join!(router.verify(&blue), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shop.slice(&["blue-1", "blue-2"]).await;
    });
    let verified = verified.expect("read");
    assert_eq!((verified.ready, verified.problem), (2, None));
    assert!(verified.took >= Duration::from_millis(300), "it waited for the endpoints");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_named() {
    let Some(shop) = Shop::open("missing_rights_are_named").await else {
        return;
    };
    let nobody = shop.open_cluster(shop.settings(&shop.plane.kubeconfig(NOBODY)));
    let begun = Instant::now();
    let error = nobody.synced(Duration::from_secs(30)).await.expect_err("may not list").to_string();
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "waiting does not help, so it does not wait"
    );
    assert!(
        error.contains(&format!("in namespace {:?}: apply deploy/monitor.yaml", shop.namespace)),
        "{error}"
    );

    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", shop.namespace);
    let role = json!({"metadata": {"name": "reader"}, "rules": [
        {"apiGroups": ["", "apps", "discovery.k8s.io"], "resources": ["services", "pods", "deployments", "endpointslices"],
         "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "resourceNames": ["web-preview"], "verbs": ["patch"]}]});
    shop.post(&format!("{rbac}/roles"), role).await;
    let binding = json!({"metadata": {"name": "reader"}, "subjects": [{"kind": "User", "name": "reader"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}});
    shop.post(&format!("{rbac}/rolebindings"), binding).await;
    let reader = router::open(&shop.spec(), shop.cluster(READER).await);
    let missing: Vec<_> = reader
        .may_flip()
        .await
        .expect("answers")
        .into_iter()
        .filter(|access| !access.allowed)
        .map(|access| format!("{} {} {}", access.verb, access.resource, access.name.unwrap_or_default()))
        .collect();
    assert_eq!(
        missing,
        [
            "patch services web",
            "list replicasets.apps ",
            "list events ",
            "list horizontalpodautoscalers.autoscaling ",
            "list poddisruptionbudgets.policy ",
            "list ingresses.networking.k8s.io ",
            "create events ",
            "get pods/log "
        ]
    );
    let before = shop.raw("web").await;
    let flip = reader.flip(&order(reader.view(), "i1")).await;
    assert!(matches!(flip, Err(RouterError::Forbidden { .. })), "{flip:?}");
    assert_eq!(shop.raw("web").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_us_out_is_said_in_a_sentence_and_heals() {
    let Some(shop) = Shop::open("what_keeps_us_out_is_said_in_a_sentence_and_heals").await else {
        return;
    };
    let why = async |settings: ClusterSettings| {
        let cluster = shop.open_cluster(settings);
        let _ = cluster.synced(Duration::from_secs(8)).await;
        cluster.health().expect_err("kept out")
    };
    let untrusted = shop.settings(&shop.plane.kubeconfig_with(ADMIN, &minimal::authority().0));
    let said = why(untrusted).await;
    assert!(said.contains("no trusted TLS connection to the API server 127.0.0.1:"), "{said}");
    let closed = format!("https://127.0.0.1:{}", minimal::free_port());
    let kubeconfig = shop.plane.kubeconfig(ADMIN).replace("https://127.0.0.1:", &format!("{closed}/x"));
    let said = why(shop.settings(&kubeconfig)).await;
    assert!(said.contains("cannot reach the API server 127.0.0.1:"), "{said}");

    // Refused credentials, and then a kubeconfig with good ones.
    let settings = shop.settings(&shop.plane.kubeconfig("wrong-token"));
    let file = settings.kubeconfig.clone().expect("given");
    let cluster = shop.open_cluster(settings);
    let error = cluster.synced(Duration::from_secs(8)).await.expect_err("refused").to_string();
    assert!(
        error.contains("does not accept our credentials: renew those of context \"test\""),
        "{error}"
    );
    fs::write(&file, shop.plane.kubeconfig(ADMIN)).expect("writes");
    let begun = Instant::now();
    while cluster.synced(Duration::from_secs(1)).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", cluster.health());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_api_server_is_met_within_three_seconds() {
    let Some(plane) = ControlPlane::start("a_restarted_api_server_is_met_within_three_seconds").await else {
        return;
    };
    let shop = Shop::open_on(Arc::new(plane)).await;
    let cluster = shop.cluster(ADMIN).await;
    let router = router::open(&shop.spec(), cluster.clone());
    let order = order(router.view(), "i1");
    shop.plane.kill_api();
    let begun = Instant::now();
    while cluster.health().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a dead API server is noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    known(router.view());
    let flip = router.flip(&order).await;
    assert!(matches!(flip, Err(RouterError::Failed { .. })), "{flip:?}");
    // Long enough for the backoff to have reached its cap.
    tokio::time::sleep(Duration::from_secs(6)).await;
    shop.plane.start_api();
    shop.plane.ready().await;
    let begun = Instant::now();
    shop.merge(&shop.path("services/web"), json!({"spec": {"selector": {KEY: "web-blue"}}}))
        .await;
    until(router.as_ref(), active("blue")).await;
    let met = begun.elapsed();
    assert!(met < Duration::from_secs(3), "{met:?}");
    while cluster.health().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", cluster.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
