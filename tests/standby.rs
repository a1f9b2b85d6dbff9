//! A standby that is scaled down, and pods that are taken out of service, on the real API server: the daemon under the Role of
//! `deploy/monitor.yaml` with just those optional rules that a test says, health probes alone, no Prometheus (setup 2 of the systems
//! that flipback serves: engine-ops).
//!
//! Witnesses are the API server's audit log, the objects, the chat and the files on disk.

pub mod support;

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use support::{
    AuditEvent, Daemon, Ground, eventually,
    stage::{SOON, TOKEN, VERDICT_LIMIT},
};

/// The right to scale.
const SCALE: &str = "deployments/scale";

/// A guard's configuration: the keys at its top, and further tables. Health alone decides, as for engine-ops.
fn guard(top: &str, tables: &str) -> (String, String) {
    (
        top.to_owned(),
        format!("{tables}\n[guards.rules.health]\nkind = \"probe\"\npath = \"/health\"\ntimeout = \"1s\"\n"),
    )
}

/// A shop of one pod per color whose guard knows nothing but health, with the optional rights that are named.
async fn open(test: &str, (top, tables): (String, String), rights: &[&str]) -> Option<Ground> {
    let ground = Ground::open(test, &tables).await?;
    ground.edit(
        "name = \"shop\"\nnamespace",
        &format!("name = \"shop\"\ninherit_rules = false\n{top}namespace"),
    );
    ground.edit("[prometheus]\nurl = \"http://127.0.0.1:9\"\n", "");
    grant(&ground, rights).await;
    Some(ground)
}

/// Gives the daemon's account those of the optional rules of `deploy/monitor.yaml` that are about these resources.
async fn grant(ground: &Ground, resources: &[&str]) {
    let path = support::project().join("deploy/monitor.yaml");
    let all = std::fs::read_to_string(path).expect("the manifest is there");
    let role = all.split("\n---\n").find(|one| one.contains("kind: Role\n")).expect("a Role");
    let mut lines: Vec<String> = Vec::new();
    let commented: Vec<&str> = role.lines().collect();
    for (index, line) in commented.iter().enumerate() {
        let start = (0..=index).rev().find(|at| commented[*at].starts_with("  # - apiGroups"));
        let rule = start.map(|start| {
            let body = commented[start + 1..].iter().take_while(|line| line.starts_with("  #   "));
            (
                start + 1 + body.clone().count(),
                body.clone().copied().collect::<Vec<_>>().join("\n"),
            )
        });
        let wanted = rule.is_some_and(|(end, body)| {
            let named = |resource: &&str| body.contains(&format!("resources: [{resource}]\n"));
            index < end && resources.iter().any(named)
        });
        lines.push(if wanted { line.replacen("# ", "", 1) } else { (*line).to_owned() });
    }
    let role = lines
        .join("\n")
        .replace("namespace: shop", &format!("namespace: {}", ground.namespace));
    ground.cluster.apply_yaml(&role).await;
}

async fn deployment(ground: &Ground, color: &str) -> Deployment {
    let api: Api<Deployment> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
    api.get(&format!("shop-{color}")).await.expect("the Deployment is there")
}

/// Scales a color as a person would, and waits until it has so many pods.
async fn scale(ground: &Ground, color: &str, replicas: u32) {
    let name = format!("deployment/shop-{color}");
    let arguments = ["-n", &ground.namespace, "scale", &name, "--replicas", &replicas.to_string()];
    ground.cluster.kubectl(&arguments, "").await.expect("scaled");
    let what = format!("{replicas} pods of {color}");
    eventually(&what, VERDICT_LIMIT, async || {
        let pods = pods(ground, &format!("color={color}")).await;
        let ready = deployment(ground, color)
            .await
            .status
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0);
        (pods.len() == replicas as usize && ready == i32::try_from(replicas).expect("few")).then_some(())
    })
    .await;
}

async fn pods(ground: &Ground, labels: &str) -> Vec<Pod> {
    ground.cluster.pods(&ground.namespace, labels).await
}

/// The requests of our account that changed something of this kind.
fn changed(ground: &Ground, resource: &str, subresource: &str) -> Vec<AuditEvent> {
    let mut events = ground.stored();
    events.retain(|event| event.resource == resource && event.subresource == subresource);
    events
}

/// Green is live and, at some time, answers its probes no more.
async fn green_fails(ground: &Ground, daemon: &mut Daemon) {
    ground.release_green(daemon).await;
    daemon.wait_phase(&["watching"]).await;
    ground.shop.green.iter().for_each(|app| app.set_healthy(false));
}

/// The daemon, ready to judge; there is nothing to be judged by a Prometheus.
async fn start(ground: &Ground) -> Daemon {
    ground.start(&[]).await
}

/// Topics, without the ones that come in their own time.
fn told(ground: &Ground) -> Vec<String> {
    let mut topics = ground.topics();
    topics.retain(|topic| !matches!(topic.as_str(), "evidence_ready" | "degraded"));
    topics
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_standby_is_scaled_up_probed_and_flipped_to_across_a_restart() {
    let guard = guard("standby = \"scale_up\"\n", "");
    let Some(ground) = open(
        "a_cold_standby_is_scaled_up_probed_and_flipped_to_across_a_restart",
        guard,
        &[SCALE],
    )
    .await
    else {
        return;
    };
    // An autoscaler wants more than the configuration, and is switched off as long as there are no replicas.
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "blue-scaler", "namespace": ground.namespace},
        "spec": {"minReplicas": 3, "maxReplicas": 6, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-blue"},
                 "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]},
    });
    ground.cluster.apply_yaml(&autoscaler.to_string()).await;
    let mut daemon = start(&ground).await;
    ground.release_green(&mut daemon).await;
    scale(&ground, "blue", 0).await;
    // Its pods will come up, and be Ready late.
    ground.cluster.set_ready(&ground.namespace, "shop-blue", false);
    green_fails(&ground, &mut daemon).await;

    let heard = ground.wait_topic("scaling_up", VERDICT_LIMIT).await;
    assert!(
        heard["why"]
            .as_str()
            .unwrap_or_default()
            .contains("is being scaled up: 0 of 1 endpoints"),
        "{heard}"
    );
    eventually("three replicas", SOON, async || {
        let spec = deployment(&ground, "blue").await.spec?;
        (spec.replicas == Some(3)).then_some(())
    })
    .await;
    let guard = daemon
        .wait_for("what it says while it waits", |guard| guard["phase"] == "blocked")
        .await;
    assert!(guard["why"].as_str().unwrap_or_default().contains("being scaled up"), "{guard:#}");
    let scaled = |guard: &Value| {
        let events = guard["events"].as_array().cloned().unwrap_or_default();
        let line = "Scaled blue up from 0 to 3 replicas, the least that HorizontalPodAutoscaler/blue-scaler allows";
        events
            .iter()
            .any(|event| event["what"].as_str().unwrap_or_default().starts_with(line))
    };
    daemon.wait_for("a line on the page", scaled).await;
    // What is on the disk outlives a kill; the line is laid there a moment after it is shown.
    eventually("the same in its story", VERDICT_LIMIT, async || {
        bundles(&ground).iter().any(|one| moments(one).contains(&"scaled_up")).then_some(())
    })
    .await;

    // Killed in the middle of it: the next run finds in the Deployment that it was scaled, and by whom.
    daemon.process.kill();
    let mut daemon = start(&ground).await;
    daemon
        .wait_for("waiting goes on", |guard| {
            guard["why"].as_str().unwrap_or_default().contains("being scaled up")
        })
        .await;
    assert_eq!(ground.shop.selected().await, "green");

    // Ready at last, and not well: Kubernetes' word alone moves nobody.
    ground.shop.blue.iter().for_each(|app| app.set_healthy(false));
    ground.cluster.set_ready(&ground.namespace, "shop-blue", true);
    daemon
        .wait_for("its probes to be what stands against it", |guard| {
            let why = guard["why"].as_str().unwrap_or_default();
            why.contains("fails its own probes") || why.contains("just as bad now")
        })
        .await;
    assert_eq!((ground.shop.selected().await.as_str(), ground.flips().len()), ("green", 0));
    ground.shop.blue.iter().for_each(|app| app.set_healthy(true));
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    ground.wait_topic("rollback_completed", SOON).await;
    // What was waited for is told on by the incident that came of it: no bundle of mere waiting is left, over the restart neither.
    let kept = eventually("nothing but what came of it", SOON, async || {
        let kept = bundles(&ground);
        let waiting = |incident: &Value| incident["outcome"]["refusal"] == "standby_scaling";
        let moved = kept.iter().filter(|incident| incident["outcome"]["result"] == "rolled_back");
        (moved.count() == 1 && !kept.iter().any(waiting)).then_some(kept)
    })
    .await;
    let scaled: Vec<&Value> = kept.iter().filter(|incident| moments(incident).contains(&"scaled_up")).collect();
    assert_eq!(scaled.len(), 1, "{kept:#?}");
    assert!(scaled[0]["replaces"].is_string(), "{kept:#?}");
    daemon.terminate().await;

    let (scalings, flips) = (changed(&ground, "deployments", "scale"), ground.flips());
    assert_eq!((scalings.len(), flips.len()), (1, 1), "{scalings:#?}");
    assert!(scalings[0].answered < flips[0].received && scalings[0].name == "shop-blue");
    assert_eq!(
        (scalings[0].verb.as_str(), &scalings[0].request["spec"]),
        ("update", &json!({"replicas": 3}))
    );
    assert!(scalings[0].request["metadata"]["resourceVersion"].is_string(), "a compare-and-swap");
    assert!(
        changed(&ground, "deployments", "").is_empty(),
        "it never touches the Deployment itself"
    );
    let first = told(&ground).iter().position(|topic| topic == "scaling_up");
    assert!(
        first < told(&ground).iter().position(|topic| topic == "rollback_initiated"),
        "{:?}",
        told(&ground)
    );
    assert_eq!(
        deployment(&ground, "blue").await.spec.and_then(|spec| spec.replicas),
        Some(3),
        "it is not scaled down again"
    );
}

/// The incidents of all whole bundles.
fn bundles(ground: &Ground) -> Vec<Value> {
    let folders = std::fs::read_dir(ground.folder.path().join("data/incidents"));
    let folders = folders.into_iter().flatten().filter_map(Result::ok);
    let whole = folders.filter(|one| !one.file_name().to_string_lossy().starts_with('.'));
    whole
        .filter_map(|one| serde_json::from_str(&std::fs::read_to_string(one.path().join("incident.json")).ok()?).ok())
        .collect()
}

fn moments(incident: &Value) -> Vec<&str> {
    let story = incident["timeline"].as_array().into_iter().flatten();
    story.filter_map(|entry| entry["moment"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_up_is_said_loudly_and_flipped_to_when_it_comes_up_late() {
    let guard = guard(
        "standby = \"scale_up\"\n",
        "[guards.scale_up]\nreplicas = 1\ndeadline = \"4s\"\n[guards.rules.endpoints]\ndown_for = \"2s\"\n",
    );
    let name = "what_does_not_come_up_is_said_loudly_and_flipped_to_when_it_comes_up_late";
    let Some(ground) = open(name, guard, &[SCALE]).await else { return };
    let mut daemon = start(&ground).await;
    ground.release_green(&mut daemon).await;
    scale(&ground, "blue", 0).await;
    ground.cluster.set_ready(&ground.namespace, "shop-blue", false);
    green_fails(&ground, &mut daemon).await;
    ground.wait_topic("scaling_up", VERDICT_LIMIT).await;
    let heard = ground.wait_topic("rollback_blocked", VERDICT_LIMIT).await;
    assert!(
        heard["why"]
            .as_str()
            .unwrap_or_default()
            .contains("cannot serve: 0 Ready endpoints, 1 needed"),
        "{heard}"
    );
    assert_eq!((ground.shop.selected().await.as_str(), ground.flips().len()), ("green", 0));
    // The color that is left may be gone altogether by then.
    let gone = ["-n", &ground.namespace, "delete", "deployment", "shop-green"];
    ground.cluster.kubectl(&gone, "").await.expect("deleted");
    ground.cluster.set_ready(&ground.namespace, "shop-blue", true);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.terminate().await;
    assert_eq!((changed(&ground, "deployments", "scale").len(), ground.flips().len()), (1, 1));
    let topics = told(&ground);
    let count = |wanted: &str| topics.iter().filter(|topic| *topic == wanted).count();
    assert_eq!((count("scaling_up"), count("rollback_blocked")), (1, 1), "{topics:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_scale_is_said_at_once_and_healed_by_giving_it() {
    let guard = guard("standby = \"scale_up\"\n", "[guards.scale_up]\nreplicas = 1\n");
    let Some(ground) = open("a_missing_right_to_scale_is_said_at_once_and_healed_by_giving_it", guard, &[]).await else {
        return;
    };
    let checked = ground.run(&["check", "shop", "--output", "json"]).await;
    assert!(
        checked.out.contains("deployments/scale") || checked.out.contains("deployments/scale.apps"),
        "{}",
        checked.out
    );
    let mut daemon = start(&ground).await;
    ground.release_green(&mut daemon).await;
    scale(&ground, "blue", 0).await;
    green_fails(&ground, &mut daemon).await;
    let heard = ground.wait_topic("rollback_blocked", VERDICT_LIMIT).await;
    let why = heard["why"].as_str().unwrap_or_default();
    assert!(
        why.contains("blue cannot be scaled up") && why.contains("lacks the right"),
        "{heard}"
    );
    grant(&ground, &[SCALE]).await;
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.terminate().await;
    assert_eq!(ground.flips().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_ask_for_a_color_that_is_scaled_down_with_and_without_a_daemon() {
    let guard = guard("standby = \"scale_up\"\n", "[guards.scale_up]\nreplicas = 1\ndeadline = \"40s\"\n");
    let name = "a_person_may_ask_for_a_color_that_is_scaled_down_with_and_without_a_daemon";
    let Some(ground) = open(name, guard, &[SCALE]).await else { return };
    let mut daemon = start(&ground).await;
    ground.release_green(&mut daemon).await;
    scale(&ground, "blue", 0).await;
    ground.cluster.set_ready(&ground.namespace, "shop-blue", false);

    let dry = ground.run(&["rollback", "shop", "--reason", "drill", "--dry-run"]).await;
    assert_eq!(dry.code, 1, "{dry:#?}");
    assert!(dry.out.contains("it would be scaled up to 1 replicas"), "{dry:#?}");
    assert!(changed(&ground, "deployments", "scale").is_empty());

    let said = ground.run(&["rollback", "shop", "--reason", "checkout is broken"]).await;
    assert_eq!(said.code, 1, "traffic is not moved yet: {said:#?}");
    assert!(said.out.contains("blue is being scaled up to 1 replicas"), "{said:#?}");
    assert!(said.out.contains("the moment it can serve"), "{said:#?}");
    ground.wait_topic("scaling_up", SOON).await;
    eventually("blue to be scaled up", SOON, async || {
        (deployment(&ground, "blue").await.spec?.replicas == Some(1)).then_some(())
    })
    .await;
    assert_eq!(ground.shop.selected().await, "green");
    ground.cluster.set_ready(&ground.namespace, "shop-blue", true);
    ground.wait_selected("blue", SOON).await;
    let done = ground.wait_topic("rollback_completed", SOON).await;
    assert_eq!((&done["trigger"], &done["to"]), (&json!("manual"), &json!("blue")), "{done}");
    // What was waited for, and what came of it, is one incident: one bundle with the whole story, one thread, one report.
    let ready = ground.wait_topic("evidence_ready", VERDICT_LIMIT).await;
    // Ready pods may be seen before the answer to the request that made them, and the flip be done before that is written down.
    let kept = eventually("one bundle that says what was scaled", SOON, async || {
        let kept = bundles(&ground);
        (kept.len() == 1 && moments(&kept[0]).contains(&"scaled_up")).then_some(kept)
    })
    .await;
    let story = moments(&kept[0]);
    let count = |wanted: &str| story.iter().filter(|moment| **moment == wanted).count();
    assert_eq!((count("scaled_up"), count("decided"), count("patched")), (1, 1, 1), "{:#}", kept[0]);
    assert_eq!((&ready["incident"], &done["incident"]), (&kept[0]["id"], &kept[0]["id"]));
    assert_eq!(ready["thread"], kept[0]["replaces"], "the thread of the first message");
    daemon.terminate().await;

    // Alone there is nobody to come back to: the command waits, and says how it ended.
    scale(&ground, "green", 0).await;
    let said = ground.run(&["switch", "shop", "green", "--reason", "it is mended"]).await;
    assert_eq!(said.code, 0, "{said:#?}");
    assert_eq!(ground.shop.selected().await, "green");
    assert_eq!((changed(&ground, "deployments", "scale").len(), ground.flips().len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_mode_scales_nothing_and_says_what_it_would_do() {
    let guard = guard(
        "standby = \"scale_up\"\n",
        "[guards.scale_up]\ndeadline = \"2s\"\n[guards.connections]\naction = \"evict\"\n",
    );
    let Some(ground) = open(
        "monitor_mode_scales_nothing_and_says_what_it_would_do",
        guard,
        &[SCALE, "pods/eviction"],
    )
    .await
    else {
        return;
    };
    let mut daemon = ground.start(&["--monitor-only"]).await;
    ground.release_green(&mut daemon).await;
    scale(&ground, "blue", 0).await;
    green_fails(&ground, &mut daemon).await;
    let heard = ground.wait_topic("scaling_up", VERDICT_LIMIT).await;
    assert_eq!(heard["mode"], "monitor", "{heard}");
    // Past the deadline it is not said that it would have been blocked: it would have been scaled up.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!told(&ground).contains(&"rollback_blocked".to_owned()), "{:?}", told(&ground));
    let (status, answer) = daemon
        .command(
            TOKEN,
            &json!({"command": "rollback", "guard": daemon.guard, "by": "ann", "reason": "drill"}),
        )
        .await;
    assert_eq!(status, 409, "{answer}");
    daemon.terminate().await;
    let writes: Vec<AuditEvent> = ground
        .cluster
        .audit_of(&ground.namespace, "flipback")
        .into_iter()
        .filter(AuditEvent::is_write)
        .collect();
    assert!(writes.is_empty(), "{writes:#?}");
    assert_eq!(deployment(&ground, "blue").await.spec.and_then(|spec| spec.replicas), Some(0));
}

/// A budget over the pods of green that lets so many go.
async fn budget(ground: &Ground, max_unavailable: u32) {
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "green", "namespace": ground.namespace},
        "spec": {"maxUnavailable": max_unavailable, "selector": {"matchLabels": {"app": "shop", "color": "green"}}},
    });
    ground.cluster.apply_yaml(&budget.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_were_left_are_isolated_a_few_at_a_time_after_their_evidence() {
    let guard = guard("", "[guards.connections]\naction = \"isolate\"\nat_once = 2\npause = \"200ms\"\n");
    let Some(ground) = open(
        "pods_that_were_left_are_isolated_a_few_at_a_time_after_their_evidence",
        guard,
        &["pods"],
    )
    .await
    else {
        return;
    };
    ground.edit("after = \"1s\"\n", "after = \"1s\"\nfollow_up = \"35s\"\n");
    scale(&ground, "green", 3).await;
    scale(&ground, "blue", 2).await;
    budget(&ground, 1).await;
    let mut daemon = start(&ground).await;
    let old: Vec<String> = pods(&ground, "color=green").await.iter().map(ResourceExt::name_any).collect();
    ground.shop.switch_to_many("green", 3).await;
    daemon.wait_phase(&["watching"]).await;
    ground.shop.green.iter().for_each(|app| app.set_healthy(false));
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    let isolated = eventually("three isolated pods", VERDICT_LIMIT, async || {
        let pods = pods(&ground, "flipback.dev/isolated").await;
        // Their ReplicaSet lets them go a moment after they have lost its labels.
        let free = pods.iter().all(|pod| pod.owner_references().is_empty());
        (pods.len() == 3 && free).then_some(pods)
    })
    .await;
    let incident = ground.evidence().await.file_name().expect("a name").to_string_lossy().into_owned();
    for pod in &isolated {
        assert!(old.contains(&pod.name_any()), "{} was born later", pod.name_any());
        assert!(pod.owner_references().is_empty(), "its ReplicaSet has let it go");
        let labels = pod.labels();
        assert!(
            !labels.contains_key("color") && !labels.contains_key("app") && !labels.contains_key("pod-template-hash"),
            "{labels:?}"
        );
        assert_eq!(labels.get("flipback.dev/isolated"), Some(&incident));
        let lost: Value = serde_json::from_str(&pod.annotations()["flipback.dev/isolated-labels"]).expect("JSON");
        assert_eq!((&lost["app"], &lost["color"]), (&json!("shop"), &json!("green")));
        assert_eq!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Running"));
    }
    eventually("three others in their place", SOON, async || {
        let pods = pods(&ground, "color=green").await;
        (pods.len() == 3 && pods.iter().all(|pod| !old.contains(&pod.name_any()))).then_some(())
    })
    .await;
    // Told in the evidence, which was whole before the first pod went.
    let folder = ground.folder.path().join("data/incidents").join(&incident);
    let story = eventually("the incident to name every pod", SOON, async || {
        let text = std::fs::read_to_string(folder.join("incident.json")).ok()?;
        let told: Value = serde_json::from_str(&text).ok()?;
        let entries = told["timeline"].as_array().cloned().unwrap_or_default();
        let relieved: Vec<Value> = entries.into_iter().filter(|entry| entry["moment"] == "relieved").collect();
        let named = |pod: &String| {
            relieved
                .iter()
                .any(|entry| entry["what"].as_str().unwrap_or_default().contains(pod.as_str()))
        };
        old.iter().all(named).then_some(relieved)
    })
    .await;
    assert!(story.len() >= 2, "the budget lets one go at a time: {story:#?}");
    for pod in &old {
        assert!(folder.join("logs/green").join(pod).join("app.log").exists(), "no log of {pod}");
    }
    // They run on, and the second look lists them, though no color's selector finds them any more.
    let listed = eventually("the second look to list them", VERDICT_LIMIT, async || {
        let text = std::fs::read_to_string(folder.join("after/manifests/isolated-pods.json")).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    })
    .await;
    let names = listed["items"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = names.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    names.sort_unstable();
    let mut expected: Vec<&str> = old.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for pod in &old {
        let log = folder.join("after/logs/isolated-pods").join(pod).join("app.log");
        assert!(log.exists(), "no later log of {pod}");
    }
    daemon.terminate().await;
    let relabelled = changed(&ground, "pods", "");
    assert_eq!(relabelled.len(), 3, "{relabelled:#?}");
    let flip = &ground.flips()[0];
    assert!(
        relabelled
            .iter()
            .all(|event| event.received > flip.answered && old.contains(&event.name))
    );
    let read = ground.cluster.audit_of(&ground.namespace, "flipback");
    let isolated = relabelled.iter().map(|event| event.received).min();
    let read_first = |pod: &String| {
        let mut logs = read.iter().filter(|event| event.subresource == "log" && event.name == *pod);
        logs.any(|event| isolated.is_none_or(|isolated| event.answered < isolated))
    };
    assert!(old.iter().all(read_first), "the evidence goes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_were_left_are_evicted_within_their_budget_over_a_restart_and_only_while_traffic_is_elsewhere() {
    let guard = guard(
        "",
        "[guards.connections]\naction = \"evict\"\nat_once = 1\npause = \"500ms\"\n[guards.policy]\ncooldown = \"0s\"\n",
    );
    let name = "pods_that_were_left_are_evicted_within_their_budget_over_a_restart_and_only_while_traffic_is_elsewhere";
    let Some(ground) = open(name, guard, &["pods/eviction"]).await else {
        return;
    };
    // After a restart the time for the evidence of the run before is waited for.
    ground.edit("after = \"1s\"\n", "after = \"1s\"\ndeadline = \"5s\"\n");
    scale(&ground, "green", 2).await;
    budget(&ground, 0).await;
    let mut daemon = start(&ground).await;
    let old: Vec<String> = pods(&ground, "color=green").await.iter().map(ResourceExt::name_any).collect();
    ground.shop.switch_to_many("green", 2).await;
    daemon.wait_phase(&["watching"]).await;
    ground.shop.green.iter().for_each(|app| app.set_healthy(false));
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    let refused = || {
        let asked = ground.cluster.audit_of(&ground.namespace, "flipback");
        asked
            .into_iter()
            .filter(|event| event.subresource == "eviction" && event.code == 429)
            .count()
    };
    eventually("an eviction that the budget refuses", VERDICT_LIMIT, async || {
        (refused() > 0).then_some(())
    })
    .await;
    daemon
        .wait_for("a line that says why", |guard| {
            let events = guard["events"].as_array().cloned().unwrap_or_default();
            events
                .iter()
                .any(|event| event["what"].as_str().unwrap_or_default().contains("2 pods are not evicted yet"))
        })
        .await;
    assert_eq!(changed(&ground, "pods", "eviction").len(), 0);

    daemon.process.kill();
    budget(&ground, 1).await;
    // A pause that has ended holds nobody any more, though its annotation is still there.
    let ended = json!({"by": "ann", "at": "2026-01-01T00:00:00Z", "reason": "", "until": "2026-01-01T01:00:00Z"});
    let (service, pause) = (ground.shop.active(), format!("flipback.dev/paused={ended}"));
    let arguments = ["-n", &ground.namespace, "annotate", "service", &service, &pause];
    ground.cluster.kubectl(&arguments, "").await.expect("annotated");
    let mut daemon = start(&ground).await;
    eventually("both to be gone", VERDICT_LIMIT, async || {
        let pods = pods(&ground, "color=green").await;
        (!pods.is_empty() && pods.iter().all(|pod| !old.contains(&pod.name_any()))).then_some(())
    })
    .await;
    // Those that took their place have no connections, and stay.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let evicted = changed(&ground, "pods", "eviction");
    assert_eq!(evicted.len(), 2, "{evicted:#?}");
    assert!(evicted.iter().all(|event| old.contains(&event.name)));
    daemon.terminate().await;
    let blue = pods(&ground, "color=blue").await;
    assert_eq!(blue.len(), 1);
    assert_eq!(ground.shop.selected().await, "blue");
}
