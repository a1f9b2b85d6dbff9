//! A guard, an incident, and a double of the API server that answers as a real one does (contract: FACTS of the
//! project's test control plane), without a socket.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Sources;
use crate::model::{
    Action, Case, Color, ColorSpec, CounterRule, EvidenceSpec, GuardId, GuardSpec, Incident, IncidentOutcome, Mode, Outcome, Path, Policy,
    Release, RouteSpec, RuleKind, RuleName, RuleSpec, RuleState, Seen, Series, ServiceRoute, TimelineEntry, Trigger,
    incident::INCIDENT_SCHEMA,
};

/// What stands for a record: this room keeps it and does not read it.
pub(super) const RECORD: &str = "{\"flipback_trace\":1}\n";

pub(super) const AT: &str = "2026-11-21T04:12:34.567Z";

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

pub(super) fn color(name: &str) -> Color {
    Color::new(name).expect("valid")
}

pub(super) fn rule(name: &str) -> RuleName {
    RuleName::new(name).expect("valid")
}

/// A guard whose capture does not wait for metrics.
pub(super) fn spec() -> GuardSpec {
    let side = |value: &str| ColorSpec {
        value: value.into(),
        deployment: Some(format!("web-{value}")),
        service: None,
    };
    GuardSpec {
        id: GuardId::new("", "shop", "web").expect("valid"),
        cluster: String::new(),
        namespace: "shop".into(),
        route: RouteSpec::Service(ServiceRoute {
            active: "web".into(),
            preview: Some("web-preview".into()),
            selector_key: "color".into(),
        }),
        colors: BTreeMap::from([(color("blue"), side("blue")), (color("green"), side("green"))]),
        rules: vec![RuleSpec {
            name: rule("error_rate"),
            kind: RuleKind::ErrorRate(CounterRule {
                threshold: 0.05,
                total: "http_requests_total".into(),
                bad: "http_requests_total{status=~\"5..\"}".into(),
            }),
            action: Action::Rollback,
            critical: false,
            windows: None,
        }],
        policy: Policy::default(),
        mode: Mode::Enforce,
        scale_up: None,
        connections: crate::model::Connections::default(),
        maintenance: Vec::new(),
        evidence: EvidenceSpec {
            after: Duration::ZERO,
            deadline: Duration::from_secs(20),
            ..EvidenceSpec::default()
        },
        chats: Vec::new(),
        config_hash: "c0ffee".into(),
    }
}

pub(super) fn incident() -> Incident {
    let release = |id: &str, tag: &str| {
        Some(Release {
            id: id.into(),
            images: vec![format!("registry.example/shop/web:{tag}")],
        })
    };
    let why = "error_rate 12.4 % (31 of 250 requests) is over 5 %, 3 of 3 in a row";
    Incident {
        schema: INCIDENT_SCHEMA,
        flipback: "0.1.0".into(),
        id: "shop.web_20261121T041234.567Z".into(),
        mode: Mode::Enforce,
        object: "Service/web".into(),
        namespace: "shop".into(),
        cluster: String::new(),
        case: Case {
            guard: GuardId::new("", "shop", "web").expect("valid"),
            at: at(AT),
            from: color("green"),
            to: color("blue"),
            from_release: release("9f1c", "1.4.0"),
            to_release: release("77aa", "1.3.9"),
            trigger: Trigger::Rule {
                rule: rule("error_rate"),
                path: Path::Fast,
            },
            why: why.into(),
            rules: vec![RuleState {
                rule: rule("error_rate"),
                kind: "error_rate".into(),
                outcome: Outcome::Breach,
                streak: 3,
                of: 3,
                bad: Some(31.0),
                total: Some(250.0),
                value: Some(0.124),
                threshold: 0.05,
                below: false,
                bound: Some(0.0832),
                sample_at: Some(at("2026-11-21T04:12:33Z")),
                why: why.into(),
            }],
            from_ready: 3,
            to_ready: 3,
            config_hash: "c0ffee".into(),
        },
        seen: Seen {
            uid: "6f9b".into(),
            resource_version: "4711".into(),
            value: "green".into(),
        },
        policy: Policy::default(),
        rules: Vec::new(),
        switched_at: None,
        thread: None,
        announced_by: None,
        replaces: None,
        followed_up_at: None,
        outcome: IncidentOutcome::RolledBack {
            at: at("2026-11-21T04:12:34.576Z"),
            took_ms: 8.5,
            resource_version: "4712".into(),
            preview_error: None,
        },
        partial: false,
        timeline: vec![TimelineEntry::remark(at(AT), why)],
        capture_errors: Vec::new(),
    }
}

pub(super) fn series() -> Vec<Series> {
    let one = |color_name: &str, name: &str, points: &[(i64, f64)]| Series {
        rule: rule("error_rate"),
        color: color(color_name),
        name: name.into(),
        query: format!("sum({name})"),
        points: points
            .iter()
            .map(|(t, v)| (Timestamp::from_second(*t).expect("in range"), *v))
            .collect(),
    };
    vec![
        one("green", "share", &[(1_800_000_000, 0.01), (1_800_000_015, 0.124)]),
        one("green", "total", &[(1_800_000_015, 250.0)]),
        one("blue", "share", &[(1_800_000_000, 0.0)]),
    ]
}

/// What is odd about an API server.
#[derive(Clone, Default)]
pub(super) struct Quirks {
    /// Paths (by a part) that never answer.
    pub(super) silent: Vec<&'static str>,
    /// Paths whose body begins and never ends.
    pub(super) stuck: Vec<&'static str>,
    /// Paths that are forbidden.
    pub(super) forbidden: Vec<&'static str>,
    /// Paths that do not exist.
    pub(super) missing: Vec<&'static str>,
    /// Name of the first green pod.
    pub(super) pod: Option<&'static str>,
    /// Lines of the logs.
    pub(super) lines: usize,
    /// The green ReplicaSet belongs to this Rollout.
    pub(super) rollout: Option<&'static str>,
}

/// The double, and what it was asked.
#[derive(Clone)]
pub(super) struct ApiDouble {
    quirks: Quirks,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
}

impl ApiDouble {
    pub(super) fn new(quirks: Quirks) -> Self {
        Self {
            quirks,
            asked: Arc::default(),
        }
    }

    pub(super) fn sources(&self) -> Sources {
        let service = Router::new().fallback(answer).with_state(self.clone());
        Sources {
            record: Some(RECORD.to_owned()),
            client: Ok(kube::Client::new(service, "default")),
            ranges: Box::new(|_, _| async { Ok(series()) }.boxed()),
        }
    }
}

async fn answer(State(double): State<ApiDouble>, method: Method, uri: Uri) -> Response {
    let full = uri.to_string();
    double.asked.lock().expect("sound").push(format!("{method} {full}"));
    let any = |parts: &[&str]| parts.iter().any(|part| full.contains(part));
    let status = |code: u16, message: &str| {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
        (StatusCode::from_u16(code).expect("valid"), body.to_string()).into_response()
    };
    if any(&double.quirks.silent) {
        return std::future::pending().await;
    }
    if any(&double.quirks.forbidden) {
        return status(403, "pods is forbidden: User \"flipback\" cannot list resource \"pods\"");
    }
    if any(&double.quirks.missing) {
        return status(404, "not found");
    }
    if uri.path().ends_with("/log") {
        return log(&double, &full, status);
    }
    match objects(&double.quirks, uri.path(), uri.query().unwrap_or_default()) {
        Some(body) => (StatusCode::OK, body.to_string()).into_response(),
        None => status(404, "not found"),
    }
}

fn log(double: &ApiDouble, full: &str, status: impl Fn(u16, &str) -> Response) -> Response {
    if full.contains("previous=true") && !full.contains("web-green-1/") {
        return status(400, "previous terminated container \"app\" in pod not found");
    }
    let line = |n: usize| format!("2026-11-21T04:12:33Z line {n} postgres://app:hunter2@db/shop\n");
    let text: String = (0..double.quirks.lines.max(2)).map(line).collect();
    if double.quirks.stuck.iter().any(|part| full.contains(part)) {
        let begun = stream::once(async move { Ok::<_, std::io::Error>(text) }).chain(stream::pending());
        return Body::from_stream(begun).into_response();
    }
    text.into_response()
}

fn objects(quirks: &Quirks, path: &str, query: &str) -> Option<Value> {
    let wants = |color: &str| query.contains(&format!("color%3D{color}"));
    let list = |items: Vec<Value>| Some(json!({"metadata": {"resourceVersion": "1"}, "items": items}));
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "uid": name, "managedFields": [{"manager": "kubectl"}]});
    let labelled = |name: &str, color: &str| {
        let mut meta = meta(name);
        meta["labels"] = json!({"app": "web", "color": color});
        meta
    };
    let pod = |name: &str, color: &str, ready: &str| {
        json!({
            "metadata": labelled(name, color),
            "spec": {"containers": [
                {"name": "app", "image": format!("web:{color}"), "env": [{"name": "DB_PASSWORD", "value": "hunter2"}]},
                {"name": "proxy", "image": "proxy:1"},
            ]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    let service = |name: &str, color: &str| {
        let mut made = json!({"metadata": meta(name), "spec": {"selector": {"app": "web", "color": color}, "ports": [{"port": 80}]}});
        made["kind"] = "Service".into();
        Some(made)
    };
    let deployment = |color: &str| {
        let labels = json!({"matchLabels": {"app": "web", "color": color}});
        Some(json!({"kind": "Deployment", "metadata": meta(&format!("web-{color}")), "spec": {"selector": labels, "replicas": 2}}))
    };
    let event = |kind: &str, name: &str, time: &str| json!({"metadata": meta(&format!("{name}.1")), "involvedObject": {"kind": kind, "name": name}, "lastTimestamp": time, "message": "m"});
    let first = quirks.pod.unwrap_or("web-green-1");
    let (core, apps) = ("/api/v1/namespaces/shop/", "/apis/apps/v1/namespaces/shop/");
    let (core, apps) = (path.strip_prefix(core), path.strip_prefix(apps));
    match (core, apps) {
        (Some("services/web"), _) => service("web", "blue"),
        (Some("services/web-preview"), _) => service("web-preview", "green"),
        (Some("pods"), _) if wants("green") => list(vec![pod(first, "green", "True"), pod("web-green-2", "green", "False")]),
        (Some("pods"), _) if wants("blue") => list(vec![pod("web-blue-1", "blue", "True")]),
        (Some("events"), _) => list(vec![
            event("Pod", "web-green-2", "2026-11-21T04:12:30Z"),
            event("Pod", "somebody-elses", "2026-11-21T04:12:31Z"),
            event("Service", "web", "2026-11-21T04:12:00Z"),
        ]),
        (_, Some("deployments/web-blue")) => deployment("blue"),
        (_, Some("deployments/web-green")) => deployment("green"),
        (_, Some("replicasets")) => {
            let mut set = json!({"metadata": meta("web-rs"), "spec": {"replicas": 2}});
            if let Some(rollout) = quirks.rollout.filter(|_| wants("green")) {
                set["metadata"]["ownerReferences"] = json!([argo_owner(rollout)]);
            }
            list(vec![set])
        }
        _ if path.ends_with("/argoproj.io/v1alpha1/namespaces/shop/rollouts/web") => {
            let env = json!([{"name": "DB_PASS", "value": "hunter2"}]);
            let template = json!({"spec": {"containers": [{"name": "app", "env": env}]}});
            Some(json!({"metadata": meta("web"), "spec": {"template": template}, "status": {"phase": "Degraded"}}))
        }
        _ if path.ends_with("/argoproj.io/v1alpha1/namespaces/shop/analysisruns") => {
            let run = |name: &str, owner: &str| {
                let mut run = json!({"metadata": meta(name), "status": {"phase": "Failed"}});
                run["metadata"]["ownerReferences"] = json!([argo_owner(owner)]);
                run
            };
            list(vec![run("web-1-pre", "web"), run("mail-7-pre", "mail")])
        }
        _ if path.ends_with("/horizontalpodautoscalers") => {
            let scaler = |name: &str, target: &str| json!({"metadata": meta(name), "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}});
            list(vec![scaler("green", "web-green"), scaler("theirs", "mail")])
        }
        _ if path.ends_with("/poddisruptionbudgets") => {
            let budget = |name: &str, app: &str| json!({"metadata": meta(name), "spec": {"selector": {"matchLabels": {"app": app}}}});
            list(vec![budget("web", "web"), budget("mail", "mail")])
        }
        _ if path.ends_with("/ingresses") => {
            let ingress = |name: &str, service: &str| {
                let path = json!({"path": "/", "backend": {"service": {"name": service}}});
                json!({"metadata": meta(name), "spec": {"rules": [{"http": {"paths": [path]}}]}})
            };
            list(vec![ingress("shop", "web"), ingress("mail", "mail")])
        }
        _ if path.starts_with("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices") => {
            list(vec![json!({"metadata": meta("web-x7"), "endpoints": []})])
        }
        _ => None,
    }
}

fn argo_owner(name: &str) -> Value {
    json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": name, "uid": name, "controller": true})
}
