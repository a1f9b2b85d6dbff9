//! Somebody else moves the route, on the real API server: a GitOps controller that takes a rollback back at once or seconds later, a
//! person, `kubectl apply`. The audit log is the witness of who patched what: a person is never fought, a controller only as often as
//! the guard allows, and everything is said with who and when.

pub mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use support::{
    Daemon, Ground, eventually,
    stage::{SOON, VERDICT_LIMIT},
};

/// A rule that needs nothing but the API server, and is quick.
const DOWN: &str = "[guards.rules.endpoints]\ndown_for = \"2s\"\n";
/// A rollback that a controller undid is made again, twice.
const TWICE: &str = "[guards.policy.reassert]\ntimes = 2\npause = \"1s\"\n";
const ARGO: &str = "argocd-controller";

/// Applies the Service from Git as Argo CD does: server-side, by force.
async fn apply(ground: &Ground, color: &str) {
    let live = ground.shop.service(&ground.shop.active()).await;
    let mut spec = json!({"selector": live.spec.as_ref().and_then(|spec| spec.selector.clone())});
    spec["selector"]["color"] = color.into();
    spec["ports"] = json!([{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]);
    let tracking = format!("shop:/Service:{}/{}", ground.namespace, ground.shop.active());
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": ground.shop.active(), "annotations": {"argocd.argoproj.io/tracking-id": tracking}},
        "spec": spec,
    });
    let services: Api<Service> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
    let by = PatchParams::apply(ARGO).force();
    services
        .patch(&ground.shop.active(), &by, &Patch::Apply(manifest))
        .await
        .expect("applied");
}

/// Moves traffic back to green whenever it has left, after a while, so many times.
async fn revert(ground: &Ground, after: Duration, times: usize) {
    for _ in 0..times {
        eventually("traffic to leave green", VERDICT_LIMIT, async || {
            (ground.shop.selected().await == "blue").then_some(())
        })
        .await;
        tokio::time::sleep(after).await;
        apply(ground, "green").await;
    }
}

/// The flips that our account made: patches of the selector, not the notes that it takes.
fn flips(ground: &Ground) -> Vec<support::AuditEvent> {
    let mut flips = ground.flips();
    flips.retain(|event| event.request.to_string().contains("/spec/selector/color"));
    flips
}

/// Green is live, and has no endpoint from here on.
async fn green_goes_down(ground: &Ground, daemon: &mut Daemon) {
    ground.release_green(daemon).await;
    ground.cluster.set_ready(&ground.namespace, "shop-green", false);
}

/// The sentences of all messages of a topic.
fn told(ground: &Ground, topic: &str) -> Vec<String> {
    let deliveries = ground.chat.deliveries();
    let own = deliveries
        .iter()
        .filter(|one| one.path == "/webhook" && one.body["data"]["topic"] == topic);
    own.map(|one| one.body["data"]["why"].as_str().unwrap_or_default().to_owned())
        .collect()
}

async fn told_so_often(ground: &Ground, topic: &str, times: usize, limit: Duration) -> Vec<String> {
    eventually(&format!("{times} messages of {topic}"), limit, async || {
        let told = told(ground, topic);
        (told.len() >= times).then_some(told)
    })
    .await
}

async fn json_of(ground: &Ground, arguments: &[&str]) -> Value {
    let said = ground.run(arguments).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.err.contains("going past it"), "the daemon did not answer: {said:?}");
    serde_json::from_str(&said.out).expect("JSON")
}

/// Seconds in which a daemon that means to fight would have done it: its pause is one second, its look another.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

// === not allowed: told, and left ===

async fn is_told_and_left(name: &str, after: u64) {
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let mut daemon = ground.start(&[]).await;
    green_goes_down(&ground, &mut daemon).await;
    revert(&ground, Duration::from_secs(after), 1).await;
    let said = told_so_often(&ground, "flipped_back", 1, SOON).await;
    assert!(said[0].contains("reverted by argocd-controller after "), "{said:?}");
    assert!(said[0].contains("it is not flipped away again automatically"), "{said:?}");
    let seconds: u64 = said[0]
        .split_once("after ")
        .and_then(|(_, rest)| humantime::parse_duration(rest.split_once(':')?.0).ok())
        .expect("a time")
        .as_secs();
    assert!(seconds >= after.saturating_sub(1), "{said:?}");
    a_while().await;
    assert_eq!(flips(&ground).len(), 1, "{:#?}", flips(&ground));
    assert_eq!(ground.shop.selected().await, "green");
    assert_eq!(told(&ground, "flipped_back").len(), 1, "it is told once");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_at_once_and_left() {
    is_told_and_left("undone_at_once_and_left", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_after_2_s_and_left() {
    is_told_and_left("undone_after_2_s_and_left", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_after_6_s_and_left() {
    is_told_and_left("undone_after_6_s_and_left", 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_after_18_s_and_left() {
    is_told_and_left("undone_after_18_s_and_left", 18).await;
}

// === allowed: made again, so often, then a person is called ===

async fn is_made_again_twice(name: &str, after: u64) {
    let Some(ground) = Ground::open(name, &format!("{DOWN}{TWICE}")).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    green_goes_down(&ground, &mut daemon).await;
    revert(&ground, Duration::from_secs(after), 3).await;
    let said = told_so_often(&ground, "flipped_back", 3, VERDICT_LIMIT).await;
    assert!(said[0].contains("it is put back in 1s, which is attempt 1 of 2"), "{said:?}");
    assert!(said[1].contains("it is put back in 3s, which is attempt 2 of 2"), "{said:?}");
    assert!(said[2].contains("it has been put back 2 times and is not again"), "{said:?}");
    a_while().await;
    assert_eq!(flips(&ground).len(), 3, "a rollback, and twice the same: {:#?}", flips(&ground));
    assert_eq!(ground.shop.selected().await, "green", "it is not fought beyond what is allowed");

    // Three automatic flips in a day: the guard disarms itself, and a person is called.
    assert_eq!(told_so_often(&ground, "disarmed", 1, SOON).await.len(), 1);
    let history = json_of(&ground, &["history", "shop", "--output", "json"]).await;
    let again: Vec<&Value> = history["flips"]
        .as_array()
        .expect("flips")
        .iter()
        .map(|flip| &flip["reassert"])
        .collect();
    assert_eq!(again, [&json!(2), &json!(1), &Value::Null], "newest first: {history:#}");
    assert_eq!((&history["disarmed"], &history["flips_left"]), (&json!(true), &json!(0)));
    assert_eq!(history["bad"][0]["colors"], json!(["green"]));

    // The story of the first says that it was undone, and made again.
    let first = history["flips"][2]["incident"].as_str().expect("an incident");
    let bundle = ground.folder.path().join("data/incidents").join(first).join("incident.json");
    eventually("its story to say so", SOON, async || {
        let incident: Value = serde_json::from_str(&std::fs::read_to_string(&bundle).ok()?).ok()?;
        let story = incident["timeline"].as_array()?.clone();
        let at = |wanted: &str| story.iter().position(|entry| entry["moment"] == wanted);
        (at("flipped_back")? < at("made_again")?).then_some(())
    })
    .await;

    // Arming it again is a person's word; what was given up stays given up.
    let armed = ground.run(&["clear", "shop", "--reason", "Git says blue now"]).await;
    assert_eq!(armed.code, 0, "{armed:?}");
    assert!(told_so_often(&ground, "rearmed", 1, SOON).await[0].contains("armed again by ann@bastion"));
    a_while().await;
    assert_eq!(flips(&ground).len(), 3, "{:#?}", flips(&ground));
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_at_once_and_made_again_twice() {
    is_made_again_twice("undone_at_once_and_made_again_twice", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_after_2_s_and_made_again_twice() {
    is_made_again_twice("undone_after_2_s_and_made_again_twice", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_after_6_s_and_made_again_twice() {
    is_made_again_twice("undone_after_6_s_and_made_again_twice", 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undone_once_after_18_s_by_a_controller_that_then_rests() {
    let name = "undone_once_after_18_s_by_a_controller_that_then_rests";
    let Some(ground) = Ground::open(name, &format!("{DOWN}{TWICE}")).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    green_goes_down(&ground, &mut daemon).await;
    revert(&ground, Duration::from_secs(18), 1).await;
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    a_while().await;
    assert_eq!(flips(&ground).len(), 2, "{:#?}", flips(&ground));
    assert_eq!(ground.shop.selected().await, "blue");
    daemon.terminate().await;
}

/// The daemon that comes after a kill -9 knows from the Service alone what was undone, and which attempt is next.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_goes_on_where_the_last_one_died() {
    let name = "a_new_daemon_goes_on_where_the_last_one_died";
    let Some(ground) = Ground::open(name, &format!("{DOWN}{TWICE}")).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    green_goes_down(&ground, &mut daemon).await;
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    daemon.process.kill();
    apply(&ground, "green").await;
    let mut daemon = ground.launch(&[]);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    let said = told_so_often(&ground, "flipped_back", 1, SOON).await;
    assert!(said[0].contains("attempt 1 of 2"), "{said:?}");
    a_while().await;
    assert_eq!(flips(&ground).len(), 2, "{:#?}", flips(&ground));
    daemon.terminate().await;
}

// === people ===

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_never_fought() {
    let everybody = "[guards.policy.reassert]\ntimes = 3\npause = \"1s\"\nmanagers = [\"*\"]\n";
    let Some(ground) = Ground::open("a_person_is_never_fought", &format!("{DOWN}{everybody}")).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    green_goes_down(&ground, &mut daemon).await;
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    let patch = r#"{"spec":{"selector":{"color":"green"}}}"#;
    let service = ground.shop.active();
    let arguments = ["-n", &ground.namespace, "patch", "service", &service, "-p", patch];
    ground.cluster.kubectl(&arguments, "").await.expect("patched");
    let said = told_so_often(&ground, "flipped_back", 1, SOON).await;
    assert!(said[0].contains("reverted by kubectl-patch after "), "{said:?}");
    a_while().await;
    assert_eq!(flips(&ground).len(), 1, "{:#?}", flips(&ground));
    daemon.wait_phase(&["blocked"]).await;

    // A person may forget the release, and only that release: then it is like any other.
    let unknown = ground.run(&["clear", "shop", "--release", "nobody"]).await;
    assert_eq!(unknown.code, 1, "{unknown:?}");
    let history = json_of(&ground, &["history", "shop", "--output", "json"]).await;
    let release = history["bad"][0]["release"].as_str().expect("a release").to_owned();
    assert!(unknown.out.contains(&release), "it names what there is: {unknown:?}");
    let cleared = ground
        .run(&["clear", "shop", "--release", &release, "--reason", "the database was it"])
        .await;
    assert_eq!(cleared.code, 0, "{cleared:?}");
    let said = told_so_often(&ground, "cleared", 1, SOON).await;
    assert!(said[0].contains(&release) && said[0].contains("the database was it"), "{said:?}");
    let journal = ground.run(&["audit", "show", "--output", "json"]).await;
    assert!(journal.out.lines().any(|line| line.contains("\"cleared\"")), "{journal:?}");
    let after = json_of(&ground, &["history", "shop", "--output", "json", "--alone"]).await;
    assert_eq!(after["bad"], json!([]), "{after:#}");
    assert_eq!(after["flips"][0]["forgotten"]["reason"], "the database was it");
    daemon.terminate().await;
}

/// Before anything is decided, a route that somebody moves is judged anew, whoever it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_moves_before_the_decision_is_judged_anew() {
    let slow = "[guards.rules.endpoints]\ndown_for = \"6s\"\n";
    let Some(ground) = Ground::open("a_route_that_moves_before_the_decision_is_judged_anew", slow).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    green_goes_down(&ground, &mut daemon).await;
    daemon.wait_phase(&["breaching"]).await;
    // Argo CD, and then a person's kubectl apply, before six seconds have passed.
    apply(&ground, "blue").await;
    daemon
        .wait_for("blue to be watched", |guard| {
            guard["active"] == "blue" && guard["rules"][0]["streak"] == 0
        })
        .await;
    let service = ground.shop.active();
    let live = ground
        .cluster
        .kubectl(&["-n", &ground.namespace, "get", "service", &service, "-o", "json"], "")
        .await;
    let mut manifest: Value = serde_json::from_str(&live.expect("read")).expect("JSON");
    let metadata = json!({"name": service, "namespace": ground.namespace});
    manifest["metadata"] = metadata;
    manifest["spec"]["selector"]["color"] = "green".into();
    let arguments = ["apply", "--server-side=false", "-f", "-"];
    ground.cluster.kubectl(&arguments, &manifest.to_string()).await.expect("applied");
    let applied = support::now();
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    let flips = flips(&ground);
    assert_eq!(flips.len(), 1, "{flips:#?}");
    let waited = flips[0].received.duration_since(applied);
    assert!(waited.as_secs() >= 4, "it began anew at the move, not before: {waited}");
    daemon.terminate().await;
}

// === at the start ===

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_named_before_anything_happens() {
    let Some(ground) = Ground::open("the_owner_is_named_before_anything_happens", DOWN).await else {
        return;
    };
    apply(&ground, "blue").await;
    let checked = ground.run(&["check"]).await;
    for part in [
        "Argo CD's Application shop owns Service/shop-active",
        "ignoreDifferences:",
        "- /spec/selector/color",
        "RespectIgnoreDifferences=true",
        "flipback does not fight it",
    ] {
        assert!(checked.out.contains(part), "no {part:?} in\n{}", checked.out);
    }
    let mut daemon = ground.start(&[]).await;
    let guard = daemon
        .wait_for("the owner on the page", |guard| {
            guard["events"]
                .to_string()
                .contains("Argo CD's Application shop owns Service/shop-active")
        })
        .await;
    let phase = guard["phase"].as_str().expect("a phase");
    assert!(matches!(phase, "watching" | "steady"), "a warning, and nothing else: {phase}");
    // Five more looks, at each of which it could be said again.
    a_while().await;
    let log = daemon.process.output();
    let warned = log.lines().filter(|line| line.contains("may undo a rollback")).count();
    assert_eq!(warned, 1, "it is said once:\n{log}");
    for part in ["ignoreDifferences:", "- /spec/selector/color", "RespectIgnoreDifferences=true"] {
        assert!(
            log.contains(part),
            "the log has no {part:?}, which makes it leave a flip alone:\n{log}"
        );
    }
    daemon.terminate().await;
}

// === what `check` prints, followed to the letter ===

/// A guarded Service that somebody applies from a file in the test's folder, by `kubectl apply` with these words.
struct Applied {
    ground: Ground,
    how: &'static str,
}

impl Applied {
    /// The Service is made by its first apply, so that nobody else owns a part of it.
    async fn open(name: &str, how: &'static str) -> Option<Self> {
        let ground = Ground::open(name, DOWN).await?;
        let applied = Self { ground, how };
        let service = applied.ground.shop.service(&applied.ground.shop.active()).await;
        let selector = service.spec.and_then(|spec| spec.selector).expect("a selector");
        applied.write(&json!({"selector": selector}));
        applied
            .shell(&format!("kubectl -n {0} delete service shop-active", applied.ground.namespace))
            .await
            .expect("deleted");
        applied.apply("").await.expect("applied");
        applied.ground.shop.wait_endpoints("blue", 1).await;
        Some(applied)
    }

    /// The manifest, with what else stands in its spec.
    fn write(&self, further: &Value) {
        let mut spec = further.clone();
        spec["ports"] = json!([{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]);
        let metadata = json!({"name": "shop-active", "namespace": self.ground.namespace});
        let manifest = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        // JSON is YAML.
        self.ground.folder.write("service.yaml", manifest.to_string());
    }

    async fn shell(&self, script: &str) -> Result<String, String> {
        self.ground.cluster.shell(script, self.ground.folder.path()).await
    }

    async fn apply(&self, further: &str) -> Result<String, String> {
        self.shell(&format!("kubectl apply {} {further} -f service.yaml", self.how)).await
    }

    /// flipback moves traffic; no daemon is needed for that.
    async fn flip(&self, to: &str) {
        let said = self.ground.run(&["switch", "shop", to, "--alone", "--reason", "a flip"]).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(self.ground.shop.selected().await, to);
    }

    /// The commands that `check` prints about an owner: what stands below its `->`, as a person copies it.
    async fn printed(&self, owner: &str) -> String {
        let checked = self.ground.run(&["check"]).await;
        let (_, told) = checked
            .out
            .split_once(owner)
            .unwrap_or_else(|| panic!("no {owner:?} in\n{}", checked.out));
        let lines = told.lines().skip_while(|line| !line.trim_start().starts_with("->")).skip(1);
        let lines: Vec<&str> = lines.take_while(|line| line.starts_with("         ")).map(str::trim).collect();
        assert!(lines.iter().any(|line| line.starts_with("kubectl ")), "{}", checked.out);
        lines.join("\n")
    }

    /// Nobody is named any more.
    async fn is_nobodys(&self) {
        let checked = self.ground.run(&["check"]).await;
        assert!(!checked.out.contains("kubectl apply"), "{}", checked.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_check_prints_makes_kubectl_apply_leave_a_flip_alone() {
    let Some(applied) = Applied::open("what_check_prints_makes_kubectl_apply_leave_a_flip_alone", "").await else {
        return;
    };
    let commands = applied.printed("kubectl apply owns Service/shop-active").await;
    // As it is, the next apply undoes a flip.
    applied.flip("green").await;
    applied.apply("").await.expect("applied");
    assert_eq!(applied.ground.shop.selected().await, "blue");

    let service = applied.ground.shop.service("shop-active").await;
    let mut selector = service.spec.and_then(|spec| spec.selector).expect("a selector");
    selector.remove("color");
    applied.write(&json!({"selector": selector}));
    applied.shell(&commands).await.expect("what is printed can be run");
    applied.apply("").await.expect("applied");
    assert_eq!(applied.ground.shop.selected().await, "blue", "the color stays");
    applied.is_nobodys().await;
    applied.flip("green").await;
    applied.apply("").await.expect("applied");
    assert_eq!(applied.ground.shop.selected().await, "green", "a flip is left alone");
    applied.is_nobodys().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_check_prints_makes_a_server_side_apply_leave_a_flip_alone() {
    let Some(applied) = Applied::open("what_check_prints_makes_a_server_side_apply_leave_a_flip_alone", "--server-side").await else {
        return;
    };
    let commands = applied.printed("kubectl apply --server-side owns Service/shop-active").await;
    // As it is, the next apply is refused, and undoes a flip where it is forced.
    applied.flip("green").await;
    let refused = applied.apply("").await.expect_err("a conflict");
    assert!(refused.contains("flipback") && refused.contains(".spec.selector"), "{refused}");
    assert_eq!(applied.ground.shop.selected().await, "green");
    applied.apply("--force-conflicts").await.expect("applied");
    assert_eq!(applied.ground.shop.selected().await, "blue");

    applied.shell(&commands).await.expect("what is printed can be run");
    applied.write(&json!({}));
    applied.apply("").await.expect("applied");
    assert_eq!(applied.ground.shop.selected().await, "blue", "the selector stays");
    applied.is_nobodys().await;
    applied.flip("green").await;
    applied.apply("").await.expect("applied");
    assert_eq!(applied.ground.shop.selected().await, "green", "a flip is left alone");
    applied.is_nobodys().await;
}
