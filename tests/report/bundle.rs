//! A bundle as an incident leaves it, realistic and hostile at once: written from JSON alone, so that the room's own tests
//! and those from outside read the same files, whatever the types become.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// What became of the incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rolled back and seen to arrive.
    RolledBack,
    /// The same, with the second pass after it.
    FollowedUp,
    /// The restored color is bad too.
    DidNotHelp,
    /// The patch was accepted and traffic did not follow.
    NotArrived,
    /// Monitor mode.
    Withheld,
    /// The patch failed.
    Failed,
    /// The standby cannot serve.
    Blocked,
    /// Bad before the switch already.
    Suppressed,
    /// A person switched.
    Manual,
    /// Written by a version that knew neither rules nor moments, without a record.
    Old,
}

pub const KINDS: [Kind; 10] = [
    Kind::RolledBack,
    Kind::FollowedUp,
    Kind::DidNotHelp,
    Kind::NotArrived,
    Kind::Withheld,
    Kind::Failed,
    Kind::Blocked,
    Kind::Suppressed,
    Kind::Manual,
    Kind::Old,
];

/// Text that would act if it were not made harmless, wherever it may stand.
pub const HOSTILE: &str = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> [click](javascript:alert(1)) | cell | `code` \u{1b}[31mred\u{1b}[0m \u{202e}gnp @everyone {{ 7*7 }} </style>";

/// The decision, in seconds of the day: 04:12:34.567.
const DECIDED: f64 = 4.0 * 3600.0 + 12.0 * 60.0 + 34.567;
const SWITCHED: f64 = DECIDED - 254.567;
const BAD_FROM: f64 = DECIDED - 13.0;

fn time(seconds: f64) -> String {
    let millis = (seconds * 1000.0).round() as u64;
    let (s, ms) = (millis / 1000, millis % 1000);
    format!("2026-11-21T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("has a folder")).expect("makes the folder");
    fs::write(path, bytes).expect("writes");
}

fn put_json(folder: &Path, name: &str, value: &Value) {
    put(folder, name, serde_json::to_string_pretty(value).expect("JSON").as_bytes());
}

/// Writes a whole bundle.
pub fn write(folder: &Path, kind: Kind) {
    put_json(folder, "incident.json", &incident(kind));
    if !matches!(kind, Kind::Manual | Kind::Old) {
        put(folder, "decision.jsonl", record().as_bytes());
    }
    manifests(folder, "");
    metrics(folder, kind);
    put_json(folder, "events.json", &events());
    logs(folder);
    if kind == Kind::FollowedUp {
        manifests(folder, "after/");
        put_json(folder, "after/events.json", &events());
        put(
            folder,
            "after/logs/blue/web-blue-7d4f-aaaaa/app.log",
            b"2026-11-21T04:20:00Z level=info msg=fine\n",
        );
    }
}

fn rules() -> Value {
    json!([
        {"name": "error_rate", "kind": "error_rate", "threshold": 0.05,
         "total": "http_requests_total{namespace=\"{namespace}\",pod=~\"{deployment}-.+\"}",
         "bad": "http_requests_total{namespace=\"{namespace}\",pod=~\"{deployment}-.+\",status=~\"5..\"}",
         "action": "rollback", "critical": false},
        {"name": "latency_p95", "kind": "latency", "quantile": 0.95, "threshold": "1s", "unit": "seconds",
         "buckets": "http_request_duration_seconds_bucket{pod=~\"{deployment}-.+\"}", "histogram": "classic", "action": "rollback", "critical": false},
        {"name": "memory", "kind": "saturation", "expr": "max(container_memory_usage_bytes / container_spec_memory_limit_bytes)", "max": 0.9,
         "action": "alert", "critical": false},
        {"name": "health", "kind": "probe", "threshold": 0.5, "path": "/healthz", "port": null, "status": [200, 299], "body_contains": null,
         "timeout": "1s", "retries": 1, "endpoints_max": 5, "action": "rollback", "critical": false},
        {"name": "endpoints", "kind": "endpoints", "down_for": "10s", "action": "rollback", "critical": false},
    ])
}

fn policy() -> Value {
    json!({
        "mode": "intervals", "poll": "5s", "consecutive": 3, "min_bad": 3, "min_requests": null, "stretch": "1m", "confidence": 0.99,
        "severe_share": 0.75, "severe_bad": 10, "slow_window": "5m", "slow_hold": "2m", "slow_bad": 5, "warm_up": "0s",
        "warm_up_latency": "30s", "watch": "30m", "after_watch": "slow", "expire": "3m", "blind_after": "1m", "blind_repeat": "5m",
        "cooldown": "10m", "flips_per_day": 3, "standby_share": 0.5, "degradation": 0.8, "window": "1m", "window_latency": "2m",
    })
}

fn outcome(kind: Kind) -> Value {
    match kind {
        Kind::RolledBack | Kind::FollowedUp | Kind::DidNotHelp | Kind::NotArrived | Kind::Manual | Kind::Old => json!({
            "result": "rolled_back", "at": time(DECIDED + 0.009), "took_ms": 8.5, "resource_version": "4712",
        }),
        Kind::Withheld => json!({"result": "withheld"}),
        Kind::Failed => json!({
            "result": "failed",
            "error": "failed to patch Service \"shop/web\": the API server answered 403: services \"web\" is forbidden: User \"system:serviceaccount:flipback:flipback\" cannot patch resource \"services\"",
        }),
        Kind::Blocked => json!({"result": "blocked", "refusal": "standby_not_ready", "ready": 0, "needed": 2}),
        Kind::Suppressed => json!({"result": "suppressed", "suppression": "bad_before"}),
    }
}

fn timeline(kind: Kind) -> Vec<Value> {
    let why = why(kind);
    let entry = |after: f64, moment: &str, what: &str| {
        let mut entry = json!({"at": time(DECIDED + after), "what": what});
        if kind != Kind::Old && !moment.is_empty() {
            entry["moment"] = moment.into();
        }
        entry
    };
    let mut entries = vec![entry(0.0, "decided", &format!("Decided: {why}"))];
    let arrived = "Verified after 19 ms: the Service's endpoints follow, 3 are Ready";
    match kind {
        Kind::Withheld | Kind::Blocked | Kind::Suppressed => {}
        Kind::Failed => entries.push(entry(0.03, "patch_failed", "Failed: the API server answered 403")),
        _ => entries.push(entry(0.009, "patched", "The API server accepted the patch after 8.5 ms")),
    }
    entries.push(entry(
        0.0,
        "",
        "Recorded in decision.jsonl: `flipback replay --explain .` in this folder judges it again",
    ));
    match kind {
        Kind::RolledBack | Kind::FollowedUp | Kind::Old => {
            entries.push(entry(0.031, "arrived", arrived));
            entries.push(entry(
                16.2,
                "recovered",
                "Blue serves well after the rollback, with 3 Ready endpoints",
            ));
        }
        Kind::DidNotHelp => {
            entries.push(entry(0.031, "arrived", arrived));
            entries.push(entry(
                21.0,
                "did_not_help",
                "the restored color is over its threshold too: error rate 14 % (40 of 285) over 5 %",
            ));
            entries.push(entry(22.0, "not_told", "Chat \"teams\" was never told: the webhook is gone (404)"));
        }
        Kind::NotArrived => entries.push(entry(
            5.0,
            "not_arrived",
            "The patch was accepted, but no EndpointSlice of the Service names a pod of blue",
        )),
        Kind::Manual => entries.push(entry(0.031, "arrived", arrived)),
        _ => {}
    }
    if kind == Kind::FollowedUp {
        entries.push(entry(600.0, "followed_up", "What came after was captured too"));
    }
    entries
}

fn why(kind: Kind) -> String {
    match kind {
        Kind::Manual => format!("anna: checkout is broken {HOSTILE}"),
        _ => "error rate 31.9 % (102 of 320) over 5 %, third breach in a row, 99 % sure above 5 %".to_owned(),
    }
}

fn incident(kind: Kind) -> Value {
    let release = |id: &str, tag: &str| json!({"id": id, "images": [format!("registry.example/shop/web:{tag}"), "envoyproxy/envoy:v1.31"]});
    let state = |rule: &str, kind: &str, outcome: &str, value: f64, threshold: f64, why: &str| {
        json!({"rule": rule, "kind": kind, "outcome": outcome, "streak": if outcome == "breach" { 3 } else { 0 }, "of": 3, "bad": null,
               "total": null, "value": value, "threshold": threshold, "bound": null, "sample_at": time(DECIDED - 1.0), "why": why})
    };
    let trigger = if kind == Kind::Manual {
        json!({"kind": "manual", "by": "anna", "reason": format!("checkout is broken {HOSTILE}")})
    } else {
        json!({"kind": "rule", "rule": "error_rate", "path": "fast"})
    };
    let mut made = json!({
        "schema": 1,
        "flipback": "0.1.0",
        "id": "eu-west.shop.web_20261121T041234.567Z",
        "mode": if kind == Kind::Withheld { "monitor" } else { "enforce" },
        "object": "Service/web",
        "namespace": "shop",
        "cluster": "eu-west",
        "case": {
            "guard": "eu-west/shop/web",
            "at": time(DECIDED),
            "from": "green",
            "to": "blue",
            "from_release": release("9f1c22d0", "1.4.0"),
            "to_release": release("77aa01be", "1.3.9"),
            "trigger": trigger,
            "why": why(kind),
            "rules": [
                state("error_rate", "error_rate", "breach", 0.319, 0.05, "error rate 31.9 % (102 of 320) over 5 %"),
                state("latency_p95", "latency", "pass", 0.01, 0.05, "1 % slower than 1 s"),
            ],
            "from_ready": 3,
            "to_ready": if kind == Kind::Blocked { 0 } else { 3 },
            "config_hash": "c0ffee12",
        },
        "seen": {"uid": "6f9b", "resource_version": "4711", "value": "green"},
        "policy": policy(),
        "rules": rules(),
        "switched_at": time(SWITCHED),
        "outcome": outcome(kind),
        "timeline": timeline(kind),
        "capture_errors": [
            "logs/green/web-green-6c9d-ccccc/app.previous.log: the API server answered 400: previous terminated container \"app\" not found",
            format!("manifests/hpa.green.json: {HOSTILE}"),
        ],
    });
    if kind == Kind::FollowedUp {
        made["followed_up_at"] = time(DECIDED + 600.0).into();
    }
    if kind == Kind::Old {
        for key in ["rules", "switched_at"] {
            made.as_object_mut().expect("an object").remove(key);
        }
    }
    made
}

/// Looks every 5 s for a minute and a half; green goes bad 13 s before the decision.
fn record() -> String {
    let mut lines = vec![
        json!({
            "flipback_trace": 1, "flipback": "0.1.0", "guard": "eu-west/shop/web", "config_hash": "c0ffee12", "epoch": time(SWITCHED),
            "active": "green", "standby": "blue", "colors": ["blue", "green"], "selector_key": "color", "rules": rules(), "policy": policy(),
        })
        .to_string(),
    ];
    let from = DECIDED - 90.0;
    for n in 0..=18_u32 {
        let at = from + f64::from(n) * 5.0;
        let (t, sample) = (at - SWITCHED, at - 1.2 - SWITCHED);
        let total = 20_000 + n * 107;
        let bad = (0..=n).filter(|n| from + f64::from(*n) * 5.0 - 1.2 > BAD_FROM).count() * 34;
        let target = |pod: &str, share: u32| json!({format!("web/10.244.0.{share}:8080/{pod}"): {"started": -900.0, "sample_at": sample, "total": total, "bad": bad}});
        let mut targets = json!({});
        for (pod, ip) in [
            ("web-green-6c9d-aaaaa", 11),
            ("web-green-6c9d-bbbbb", 12),
            ("web-green-6c9d-ccccc", 13),
        ] {
            let of_pod = target(pod, ip);
            targets
                .as_object_mut()
                .expect("an object")
                .extend(of_pod.as_object().expect("an object").clone());
        }
        let failed = u32::from(n > 16);
        let mut look = json!({
            "t": t,
            "ready": {"active": if n > 16 { 2 } else { 3 }, "standby": 3},
            "rules": {
                "error_rate": {"sample_at": sample, "targets": targets},
                "health": {"sample_at": t, "asked": 3, "failed": failed},
                "memory": {"sample_at": sample, "value": 0.55 + f64::from(n) * 0.02},
            },
        });
        if n == 0 {
            look["traffic"] = json!({"active": "green", "standby": "blue", "switched_at": 0.0, "switched_by": "argocd-controller"});
        }
        lines.push(look.to_string());
    }
    lines.join("\n") + "\n"
}

fn metrics(folder: &Path, kind: Kind) {
    let until = if kind == Kind::FollowedUp { 600.0 } else { 10.0 };
    let end = ((1800.0 + until) / 5.0) as u32;
    let serving = |color: &str, at: f64| match color {
        "green" => (SWITCHED..DECIDED).contains(&at),
        _ => !(SWITCHED..DECIDED).contains(&at),
    };
    let wobble = |n: u32| f64::from((n * 7919) % 13) / 13.0;
    for color in ["green", "blue"] {
        let series = |rule: &str, name: &str, value: &dyn Fn(u32, f64) -> Option<f64>| {
            let point = |n: u32| {
                let at = DECIDED - 1800.0 + f64::from(n) * 5.0;
                value(n, at).map(|value| json!([time(at), value]))
            };
            let points: Vec<Value> = (0..=end).filter_map(point).collect();
            json!({"rule": rule, "color": color, "name": name, "query": format!("sum(rate({name}{{color=\"{color}\"}}[20s]))"), "points": points})
        };
        let share = |n: u32, at: f64| {
            let bad = color == "green" && at > BAD_FROM;
            serving(color, at).then(|| {
                if bad {
                    0.319 * ((at - BAD_FROM) / 15.0).min(1.0)
                } else {
                    0.001 + 0.002 * wobble(n)
                }
            })
        };
        let all = [
            ("error_rate", vec![series("error_rate", "share", &share)]),
            (
                "latency_p95",
                vec![
                    series("latency_p95", "share", &|n, at| {
                        serving(color, at).then(|| 0.004 + 0.006 * wobble(n))
                    }),
                    series("latency_p95", "p95", &|n, at| serving(color, at).then(|| 0.21 + 0.05 * wobble(n))),
                ],
            ),
            (
                "memory",
                vec![series("memory", "value", &|n, at| {
                    Some(
                        0.41 + 0.02 * wobble(n)
                            + if color == "green" {
                                ((at - SWITCHED).max(0.0) / 500.0).min(0.5)
                            } else {
                                0.0
                            },
                    )
                })],
            ),
        ];
        for (rule, series) in all {
            put_json(folder, &format!("metrics/{rule}.{color}.json"), &Value::from(series));
        }
    }
}

fn manifests(folder: &Path, below: &str) {
    for (color, tag, hash, pods) in [
        ("green", "1.4.0", "6c9d", ["aaaaa", "bbbbb", "ccccc"]),
        ("blue", "1.3.9", "7d4f", ["aaaaa", "bbbbb", "ccccc"]),
    ] {
        let green = color == "green";
        let mut env = vec![
            json!({"name": "LOG_LEVEL", "value": if green { "debug" } else { "info" }}),
            json!({"name": "DB_PASSWORD", "value": "[redacted]"}),
            json!({"name": "DB_POOL", "value": if green { "100" } else { "20" }}),
            json!({"name": "COLOR", "value": color}),
        ];
        if green {
            env.push(json!({"name": "NEW_CHECKOUT", "value": HOSTILE}));
        }
        let template = json!({
            "metadata": {
                "labels": {"app": "web", "color": color},
                "annotations": {"checksum/config": if green { "b5bb9d8014a0f9b1d61e21e796d78dcc" } else { "7d865e959b2466918c9863afca942d0f" }},
            },
            "spec": {
                "serviceAccountName": "web",
                "volumes": [{"name": "config", "configMap": {"name": if green { "web-config-v2" } else { "web-config-v1" }}}],
                "containers": [
                    {"name": "app", "image": format!("registry.example/shop/web:{tag}"), "env": env,
                     "args": ["--port=8080", if green { "--schema=total_cents" } else { "--schema=total" }],
                     "resources": {"limits": {"memory": if green { "256Mi" } else { "512Mi" }, "cpu": "1"}},
                     "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": if green { 5 } else { 10 }}},
                    {"name": "envoy", "image": "envoyproxy/envoy:v1.31"},
                ],
            },
        });
        let deployment = format!("web-{color}");
        put_json(
            folder,
            &format!("{below}manifests/deployment.{deployment}.json"),
            &json!({"kind": "Deployment", "metadata": {"name": deployment}, "spec": {"replicas": 3, "template": template}}),
        );
        let set = format!("{deployment}-{hash}");
        put_json(
            folder,
            &format!("{below}manifests/replicasets.{color}.json"),
            &json!({"kind": "List", "items": [{"metadata": {"name": set, "ownerReferences": [{"kind": "Deployment", "name": deployment}]},
                                               "spec": {"replicas": 3, "template": template}}]}),
        );
        let items: Vec<Value> = pods.iter().map(|suffix| pod(&set, suffix, green && below.is_empty())).collect();
        put_json(
            folder,
            &format!("{below}manifests/pods.{color}.json"),
            &json!({"kind": "List", "items": items}),
        );
    }
}

fn pod(set: &str, suffix: &str, green: bool) -> Value {
    let sick = green && suffix == "ccccc";
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": time(DECIDED - 200.0), "finishedAt": time(DECIDED - 11.0)}});
    json!({
        "metadata": {"name": format!("{set}-{suffix}"), "creationTimestamp": time(DECIDED - 900.0),
                     "ownerReferences": [{"kind": "ReplicaSet", "name": set}]},
        "spec": {"nodeName": "node-3"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": if sick { "False" } else { "True" }}],
            "containerStatuses": [
                {"name": "app", "ready": !sick, "restartCount": if sick { 2 } else { 0 },
                 "state": if sick { json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}}) } else { json!({"running": {}}) },
                 "lastState": if sick { killed } else { json!({}) }},
                {"name": "envoy", "ready": true, "restartCount": 0, "state": {"running": {}}, "lastState": {}},
            ],
        },
    })
}

fn events() -> Value {
    let event = |n: u32, kind: &str, reason: &str, about: (&str, &str), before: f64, count: u32, message: &str| {
        json!({"kind": "Event", "metadata": {"name": format!("web.{n}")}, "type": kind, "reason": reason, "count": count, "message": message,
               "involvedObject": {"kind": about.0, "name": about.1}, "lastTimestamp": time(DECIDED - before)})
    };
    let pod = ("Pod", "web-green-6c9d-ccccc");
    json!({"kind": "List", "items": [
        event(1, "Normal", "ScalingReplicaSet", ("Deployment", "web-green"), 890.0, 1, "Scaled up replica set web-green-6c9d to 3"),
        event(2, "Warning", "Unhealthy", pod, 14.0, 6, "Readiness probe failed: HTTP probe failed with statuscode: 503"),
        event(3, "Warning", "BackOff", pod, 6.0, 2, "Back-off restarting failed container app"),
        event(4, "Warning", "FailedMount", pod, 700.0, 1, HOSTILE),
        event(5, "Normal", "LeaderElection", ("Lease", "x"), 1.0, 1, "became leader"),
    ]})
}

fn logs(folder: &Path) {
    let mut noise = 0_u32;
    for (color, hash) in [("green", "6c9d"), ("blue", "7d4f")] {
        for suffix in ["aaaaa", "bbbbb", "ccccc"] {
            let mut log: Vec<u8> = Vec::new();
            for n in 0..400_u32 {
                noise += 1;
                let at = DECIDED - 200.0 + f64::from(n) * 0.5;
                let line = match n {
                    // The same on both colors.
                    n if n % 60 == 7 => format!("level=warn msg=\"cache miss\" key=user:{noise}"),
                    n if color == "green" && at > BAD_FROM && n % 3 == 0 => format!(
                        "level=error method=POST path=/checkout status=500 took={}ms request_id=6f9b1c2d-33aa-4bcd-9eef-{noise:012} msg=\"query failed: column \\\"total_cents\\\" does not exist\"",
                        n % 40
                    ),
                    n if color == "green" && at > BAD_FROM && n % 10 == 1 => [
                        "java.lang.IllegalStateException: pool exhausted after 100 connections",
                        "\tat com.example.shop.Pool.take(Pool.java:117)",
                        "\tat com.example.shop.Checkout.pay(Checkout.java:42)",
                        "Caused by: java.sql.SQLException: too many clients already",
                    ]
                    .join(&format!("\n{} ", time(at))),
                    n if color == "green" && n == 390 => format!("level=error msg=\"{HOSTILE}\""),
                    n => format!("level=info method=GET path=/item/{noise} status=200 took={}ms", n % 30),
                };
                log.extend(format!("{} {line}\n", time(at)).bytes());
            }
            if color == "green" && suffix == "aaaaa" {
                log.extend(b"2026-11-21T04:12:33Z ERROR not UTF-8: \xff\xfe\x00\xc3\x28\n");
                log.extend(format!("2026-11-21T04:12:33Z ERROR a very long line {}\n", "x".repeat(1_000_000)).bytes());
            }
            let pod = format!("web-{color}-{hash}-{suffix}");
            put(folder, &format!("logs/{color}/{pod}/app.log"), &log);
            put(folder, &format!("logs/{color}/{pod}/envoy.log"), b"");
            if color == "green" && suffix == "ccccc" {
                let last = format!("{} fatal error: out of memory allocating heap arena map\n", time(DECIDED - 11.1));
                put(folder, &format!("logs/{color}/{pod}/app.previous.log"), last.as_bytes());
            }
        }
    }
}
