//! A shop with a blue and a green side, its caches filled by hand and its API server mocked.

mod clear;
mod deeds;
mod flip;
mod owner;
mod scale;
mod view;

use std::{collections::BTreeMap, sync::Arc};

use http::{Request, Response};
use jiff::Timestamp;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tower_test::mock::{Handle, SendResponse};

use super::ServiceRouter;
use crate::{
    cluster::stub::Feed,
    model::{
        Color, ColorSpec, EndpointsRule, EvidenceSpec, FlipRecord, GuardId, GuardSpec, Mode, Policy, RouteSpec, RuleKind, RuleName,
        RuleSpec, Seen, ServiceRoute,
    },
    router::FlipOrder,
};

pub(super) fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

/// A guard of `Service/web` on the selector key `app.io/color`, which needs escaping.
pub(super) fn spec(colors: &[&str], preview: Option<&str>) -> Arc<GuardSpec> {
    let side = |name: &&str| {
        let spec = ColorSpec {
            value: format!("web-{name}"),
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
            preview: preview.map(str::to_owned),
            selector_key: "app.io/color".into(),
        }),
        colors: colors.iter().map(side).collect(),
        rules: vec![RuleSpec::new(
            RuleName::new("endpoints").expect("valid"),
            RuleKind::Endpoints(EndpointsRule {
                down_for: std::time::Duration::from_secs(10),
            }),
        )],
        policy: Policy::default(),
        mode: Mode::Enforce,
        scale_up: None,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec::default(),
        chats: Vec::new(),
        config_hash: "c".into(),
    })
}

pub(super) fn service(name: &str, value: &str, version: &str, annotations: Option<Value>) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version},
        "spec": {
            "selector": {"app": "web", "app.io/color": value},
            "ports": [{"name": "http", "port": 80, "targetPort": "serve"}, {"name": "tls", "port": 443, "targetPort": 8443}]
        }
    });
    if let Some(annotations) = annotations {
        service["metadata"]["annotations"] = annotations;
    }
    service
}

pub(super) fn record(incident: &str) -> FlipRecord {
    FlipRecord {
        at: Timestamp::from_second(1_800_000_000).expect("in range"),
        from: color("green"),
        to: color("blue"),
        from_release: Some("r2".into()),
        to_release: None,
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
    }
}

pub(super) fn order() -> FlipOrder {
    FlipOrder {
        seen: Seen {
            uid: "uid-web".into(),
            resource_version: "7".into(),
            value: "web-green".into(),
        },
        from: color("green"),
        to: color("blue"),
        record: record("i1"),
        known: None,
        dry_run: false,
    }
}

/// The mocked API server.
pub(super) struct Server(Handle<Request<Body>, Response<Body>>);

/// One request, and the way to answer it.
pub(super) struct Asked {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub body: String,
    send: SendResponse<Response<Body>>,
}

impl Server {
    /// The next request; panics when none comes, so that a call that is missing fails its test.
    pub(super) async fn asked(&mut self) -> Asked {
        let next = tokio::time::timeout(std::time::Duration::from_secs(60), self.0.next_request()).await;
        let (request, send) = next.expect("a request was expected and never came").expect("the client is alive");
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.expect("a whole body");
        Asked {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
            content_type: head
                .headers
                .get("content-type")
                .map(|value| value.to_str().expect("text").to_owned())
                .unwrap_or_default(),
            body: String::from_utf8(body.to_vec()).expect("text"),
            send,
        }
    }

    /// Expects a request and answers it.
    pub(super) async fn expect(&mut self, method: &str, path: &str, code: u16, answer: Value) -> String {
        let asked = self.asked().await;
        assert_eq!((asked.method.as_str(), asked.path.as_str()), (method, path));
        let body = asked.body.clone();
        asked.answer(code, &answer);
        body
    }

    /// Fails when anything more is asked within a while.
    pub(super) async fn rests(&mut self) {
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), self.0.next_request()).await;
        if let Ok(Some((request, _))) = more {
            panic!("unexpected {} {}", request.method(), request.uri());
        }
    }
}

impl Asked {
    pub(super) fn answer(self, code: u16, answer: &Value) {
        let body = if code < 300 {
            answer.clone()
        } else {
            json!({"kind": "Status", "status": "Failure", "code": code, "message": answer})
        };
        let response = Response::builder()
            .status(code)
            .body(Body::from(body.to_string().into_bytes()))
            .expect("valid");
        self.send.send_response(response);
    }
}

/// A router on a stub cluster whose requests the returned server gets.
pub(super) fn shop(colors: &[&str], preview: Option<&str>) -> (ServiceRouter, Feed, Server) {
    let (mock, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let feed = Feed::new("shop", &Client::new(mock, "shop"));
    let spec = spec(colors, preview);
    let RouteSpec::Service(route) = &spec.route;
    let router = ServiceRouter::new(spec.clone(), route.clone(), feed.cluster.clone());
    (router, feed, Server(handle))
}
