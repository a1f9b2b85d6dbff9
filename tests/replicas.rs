//! Several daemons and the guards they share, as processes on a real API server: whoever dies, hangs or is asked to go, exactly
//! one flip is made, and no streak begins anew.
//!
//! Witnesses are the API server's audit log and, for what was *not* sent, a door that one daemon's requests pass through.

mod replicas {
    pub mod door;
}
pub mod support;

use std::{collections::BTreeMap, time::Duration};

use axum::http::Method;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::ListParams};
use replicas::door::{Door, Keep};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{
    AuditEvent, Daemon, Ground, Relay, Shop, Stage, eventually, now,
    stage::{SOON, TOKEN, VERDICT_LIMIT},
};

/// Short for the sake of the tests, and still longer than a flip may take.
const DURATION: Duration = Duration::from_secs(4);

/// A configuration with replicas: `shards` Leases beside the guarded Services.
fn sharing(text: &str, namespace: &str, shards: u32) -> String {
    let clusters = text.replace("[clusters.testbed]\n", "[clusters.testbed]\nflip_timeout = \"1s\"\n");
    assert_ne!(clusters, text);
    let seconds = DURATION.as_secs();
    format!("{clusters}\n[replicas]\nnamespace = \"{namespace}\"\nshards = {shards}\nduration = \"{seconds}s\"\nrenew = \"500ms\"\n")
}

fn replica(ground: &Ground, name: &str, shards: u32) -> Daemon {
    ground.beside(name, |text| sharing(&text, &ground.namespace, shards))
}

/// One whose requests to the API server pass through a door.
fn behind(ground: &Ground, name: &str, door: &Door) -> Daemon {
    over(ground, name, &door.url())
}

/// One that finds the API server at another address.
fn over(ground: &Ground, name: &str, url: &str) -> Daemon {
    let kubeconfig = std::fs::read_to_string(ground.kubeconfig()).expect("a kubeconfig");
    let through = kubeconfig.replace(ground.cluster.url(), url);
    assert_ne!(through, kubeconfig);
    let path = ground.folder.write(&format!("{name}-kubeconfig"), through);
    ground.beside(name, |text| {
        let direct = ground.kubeconfig().display().to_string();
        assert!(text.contains(&direct));
        sharing(&text.replace(&direct, &path.display().to_string()), &ground.namespace, 1)
    })
}

/// The shards that a replica says are its own.
fn ours(status: &Value) -> Vec<u64> {
    let shards = status["replica"]["shards"].as_array().into_iter().flatten();
    shards
        .filter(|shard| shard["ours"] == true)
        .filter_map(|shard| shard["shard"].as_u64())
        .collect()
}

async fn wait_leading(daemon: &Daemon, limit: Duration) {
    eventually("it to lead", limit, async || {
        (!ours(&daemon.status().await?).is_empty()).then_some(())
    })
    .await;
}

/// Waits until a follower has judged, and knows who leads.
async fn wait_following(daemon: &mut Daemon, leader: &str) {
    daemon
        .wait_for("a first verdict", |guard| {
            guard["active"].is_string() && guard["phase"] != "starting"
        })
        .await;
    let what = format!("it to follow {leader}");
    eventually(&what, SOON, async || {
        let status = daemon.status().await?;
        (ours(&status).is_empty() && status["replica"]["shards"][0]["leader"] == leader).then_some(())
    })
    .await;
}

/// A leader and a follower that watch the release of green, each of which has seen a good interval of it.
async fn watched(stage: &Stage, leader: &mut Daemon, follower: &mut Daemon) {
    wait_leading(leader, VERDICT_LIMIT).await;
    wait_following(follower, "first").await;
    stage.release_green(leader).await;
    for daemon in [leader, follower] {
        daemon
            .wait_for("a good interval of green", |guard| {
                guard["active"] == "green" && rule(guard)["outcome"] == "pass"
            })
            .await;
    }
}

fn rule(guard: &Value) -> Value {
    let mut rules = guard["rules"].as_array().into_iter().flatten();
    rules.find(|rule| rule["rule"] == "error_rate").cloned().unwrap_or_default()
}

fn streak(guard: &Value) -> u64 {
    rule(guard)["streak"].as_u64().unwrap_or_default()
}

fn service_path(stage: &Ground) -> String {
    format!("/api/v1/namespaces/{}/services/{}", stage.namespace, stage.shop.active())
}

/// The one flip there is, which is this replica's.
async fn only_flip_is_of(stage: &Stage, daemon: &mut Daemon) -> AuditEvent {
    let shown = daemon
        .wait_for("its incident", |guard| guard["last_incident"]["result"] == "rolled_back")
        .await;
    let flips = stage.flips();
    assert_eq!(flips.len(), 1, "{flips:#?}");
    let ledger = flips[0].response["metadata"]["annotations"]["flipback.dev/ledger"]
        .as_str()
        .expect("a ledger");
    let ledger: Value = serde_json::from_str(ledger).expect("JSON");
    assert_eq!(ledger["flips"].as_array().map(Vec::len), Some(1));
    assert_eq!(ledger["flips"][0]["incident"], shown["last_incident"]["id"]);
    flips[0].clone()
}

fn count(topics: &[String], topic: &str) -> usize {
    topics.iter().filter(|told| *told == topic).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_with_the_streak_of_a_leader_that_was_killed() {
    let guard = "[guards.policy]\nconsecutive = 5\n";
    let Some(stage) = Stage::open("a_follower_goes_on_with_the_streak_of_a_leader_that_was_killed", guard).await else {
        return;
    };
    let mut leader = replica(&stage, "first", 1);
    wait_leading(&leader, VERDICT_LIMIT).await;
    let mut follower = replica(&stage, "second", 1);
    watched(&stage, &mut leader, &mut follower).await;

    // A follower is ready, says what it is, and sends people to the leader.
    let metrics = follower.metrics().await;
    assert!(
        metrics.contains("flipback_leading{shard=\"0\"} 0") && metrics.contains("flipback_replicas 2"),
        "{metrics}"
    );
    assert!(leader.metrics().await.contains("flipback_leading{shard=\"0\"} 1"));
    let pause = json!({"command": "pause", "guard": follower.guard, "by": "ann", "reason": "r"});
    let (code, answer) = follower.command(TOKEN, &pause).await;
    assert_eq!(
        (code, &answer["error"], &answer["detail"]["leader"]),
        (409, &json!("not_leading"), &json!("first")),
        "{answer}"
    );

    // A person's word about all guards is everybody's, whoever it was said to.
    let lift = json!({"command": "override", "for": "10m", "by": "ann", "reason": "the release"});
    let (code, answer) = follower.command(TOKEN, &lift).await;
    assert_eq!(code, 200, "{answer}");
    eventually("the leader to know it", SOON, async || {
        (leader.status().await?["fleet"]["lifted_by"] == "ann").then_some(())
    })
    .await;

    // 30 % of errors take five intervals; the leader dies after three.
    stage.shop.set_errors("green", 0.3);
    let held = leader.wait_for("a streak of three", |guard| streak(guard) >= 3).await;
    leader.process.kill();
    assert_eq!(stage.flips().len(), 0, "killed too late: {held:#}");
    let mut least = streak(&follower.guard().await.expect("the follower answers"));
    assert!(least >= 2, "the follower's streak is {least}");
    let deadline = tokio::time::Instant::now() + VERDICT_LIMIT;
    while stage.flips().is_empty() {
        follower.process.must_live();
        assert!(tokio::time::Instant::now() < deadline, "nobody flips");
        let Some(guard) = follower.guard().await.filter(|guard| guard["active"] == "green") else {
            continue;
        };
        assert!(streak(&guard) >= least, "the streak began anew: {} after {least}", streak(&guard));
        least = streak(&guard);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.wait_selected("blue", SOON).await;
    only_flip_is_of(&stage, &mut follower).await;
    stage.wait_topic("rollback_completed", SOON).await;
    let topics = stage.topics();
    assert_eq!(
        (count(&topics, "rollback_initiated"), count(&topics, "rollback_completed")),
        (1, 1),
        "{topics:?}"
    );
    follower.terminate().await;
}

/// A partition: what the leader sends goes nowhere, nothing comes back, and it lives on.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_over_from_a_leader_that_cannot_reach_the_api_server() {
    let name = "a_follower_takes_over_from_a_leader_that_cannot_reach_the_api_server";
    let Some(stage) = Stage::open(name, "").await else { return };
    let relay = Relay::to(&stage.cluster).await;
    let mut leader = over(&stage, "first", &relay.url());
    wait_leading(&leader, VERDICT_LIMIT).await;
    let mut follower = replica(&stage, "second", 1);
    watched(&stage, &mut leader, &mut follower).await;

    relay.set_silent(true);
    wait_leading(&follower, VERDICT_LIMIT).await;
    // By its own clock, since nobody can tell it; what it shows is as old as its last look.
    eventually("the leader to lead no more", SOON, async || {
        ours(&leader.status().await?).is_empty().then_some(())
    })
    .await;

    stage.shop.set_errors("green", 0.3);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    only_flip_is_of(&stage, &mut follower).await;
    stage.wait_topic("rollback_completed", SOON).await;
    leader.process.must_live();

    // Back again it follows, and sees what was done.
    relay.set_silent(false);
    leader
        .wait_for("it to see the flip", |guard| {
            guard["active"] == "blue" && guard["last_incident"]["result"] != "failed"
        })
        .await;
    wait_following(&mut leader, "second").await;
    let topics = stage.topics();
    assert_eq!(
        (count(&topics, "rollback_initiated"), count(&topics, "rollback_completed")),
        (1, 1),
        "{topics:?}"
    );
    assert_eq!(stage.flips().len(), 1);
    leader.terminate().await;
    follower.terminate().await;
}

/// A leader that cannot reach Prometheus, while the other one can: it gives its Lease away, and does not want it back. Where nobody
/// can, nobody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sees_nothing_makes_room_for_a_follower_that_sees() {
    let name = "a_leader_that_sees_nothing_makes_room_for_a_follower_that_sees";
    let Some(stage) = Stage::open(name, "[guards.policy]\nblind_after = \"3s\"\n").await else {
        return;
    };
    let relay = Relay::towards(&stage.prometheus.url()).await;
    let mut leader = stage.beside("first", |text| {
        let over = text.replace(&stage.prometheus.url(), &format!("http://{}", relay.address()));
        assert_ne!(over, text);
        sharing(&over, &stage.namespace, 1)
    });
    wait_leading(&leader, VERDICT_LIMIT).await;
    let mut follower = replica(&stage, "second", 1);
    watched(&stage, &mut leader, &mut follower).await;

    relay.set_silent(true);
    stage.shop.set_errors("green", 0.3);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    only_flip_is_of(&stage, &mut follower).await;
    stage.wait_topic("rollback_completed", SOON).await;
    let log = leader.process.output();
    assert!(log.contains("Lease given to a replica that sees"), "{log}");
    // Who told that the guard is unprotected ends it, though its own eyes are still closed.
    assert!(stage.wait_topic("blind", SOON).await["guard"].is_string());
    let ended = stage.wait_topic("sighted", SOON).await;
    assert!(ended["why"].as_str().unwrap_or_default().contains("second leads now"), "{ended:#}");
    leader.wait_phase(&["blind"]).await;

    relay.set_silent(false);
    leader
        .wait_for("it to see again", |guard| guard["active"] == "blue" && guard["phase"] != "blind")
        .await;
    wait_following(&mut leader, "second").await;

    // Prometheus itself: both are blind, some time apart, and see again some time apart.
    stage.prometheus.signal("STOP");
    for daemon in [&mut leader, &mut follower] {
        daemon.wait_phase(&["blind"]).await;
    }
    tokio::time::sleep(DURATION * 3).await;
    stage.prometheus.signal("CONT");
    for daemon in [&mut leader, &mut follower] {
        daemon.wait_for("it to see again", |guard| guard["phase"] != "blind").await;
    }
    wait_following(&mut leader, "second").await;
    let log = follower.process.output();
    assert!(!log.contains("Lease given"), "{log}");
    assert_eq!(stage.flips().len(), 1);
    leader.terminate().await;
    follower.terminate().await;
}

/// The leader's patch moved traffic, and it is killed before it hears so: whoever follows owes the message and the proof.
#[tokio::test(flavor = "multi_thread")]
async fn a_flip_whose_leader_was_killed_is_told_and_proven_by_the_next() {
    let Some(stage) = Stage::open("a_flip_whose_leader_was_killed_is_told_and_proven_by_the_next", "").await else {
        return;
    };
    let door = Door::open(&stage.cluster).await;
    let mut leader = behind(&stage, "first", &door);
    wait_leading(&leader, VERDICT_LIMIT).await;
    let mut follower = replica(&stage, "second", 1);
    watched(&stage, &mut leader, &mut follower).await;
    door.keep(Method::PATCH, &service_path(&stage), Keep::Answer);

    stage.shop.set_errors("green", 0.3);
    tokio::time::timeout(VERDICT_LIMIT, door.caught())
        .await
        .expect("its patch comes by");
    leader.process.kill();
    assert_eq!(stage.shop.selected().await, "blue", "the API server has carried it out");
    wait_leading(&follower, VERDICT_LIMIT).await;
    only_flip_is_of(&stage, &mut follower).await;
    stage.wait_topic("rollback_completed", SOON).await;
    // Replicas share no disk: what the dead one had told already is told once more, by the name it had.
    let of_it = |topic: &str| {
        let told = stage.chat.deliveries();
        let told = told
            .iter()
            .filter(|one| one.path == "/webhook" && one.body["data"]["topic"] == topic);
        told.map(|one| one.body["id"].to_string()).collect::<Vec<_>>()
    };
    let (mut initiated, completed) = (of_it("rollback_initiated"), of_it("rollback_completed"));
    initiated.dedup();
    assert_eq!((initiated.len(), completed.len()), (1, 1), "{initiated:?} {completed:?}");
    follower.terminate().await;
}

/// The leader has read the Service and is about to patch it when it is stopped for longer than its Lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_up_before_its_patch_sends_none() {
    let Some(stage) = Stage::open("a_leader_that_wakes_up_before_its_patch_sends_none", "").await else {
        return;
    };
    let door = Door::open(&stage.cluster).await;
    let mut leader = behind(&stage, "first", &door);
    wait_leading(&leader, VERDICT_LIMIT).await;
    let mut follower = replica(&stage, "second", 1);
    watched(&stage, &mut leader, &mut follower).await;
    let path = service_path(&stage);
    door.keep(Method::GET, &path, Keep::Answer);

    stage.shop.set_errors("green", 0.3);
    tokio::time::timeout(VERDICT_LIMIT, door.caught())
        .await
        .expect("it reads the Service before its patch");
    leader.process.signal("STOP");
    let before = door.count(&Method::PATCH, &path);
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    door.let_go();
    leader.process.signal("CONT");

    wait_following(&mut leader, "second").await;
    leader
        .wait_for("the woken one to see what happened", |guard| guard["active"] == "blue")
        .await;
    only_flip_is_of(&stage, &mut follower).await;
    assert_eq!(
        door.count(&Method::PATCH, &path),
        before,
        "it sent its patch all the same:\n{}",
        leader.process.output()
    );
    assert!(
        leader
            .process
            .output()
            .contains("Following: this replica acts for these guards no more")
    );
    stage.wait_topic("rollback_completed", SOON).await;
    assert_eq!(count(&stage.topics(), "rollback_completed"), 1, "{:?}", stage.topics());
    leader.terminate().await;
    follower.terminate().await;
}

/// The leader's patch is under way when it is stopped for longer than its Lease, and arrives when another has flipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_arrives_after_another_leader_flipped_changes_nothing() {
    let Some(stage) = Stage::open("a_patch_that_arrives_after_another_leader_flipped_changes_nothing", "").await else {
        return;
    };
    let door = Door::open(&stage.cluster).await;
    let mut leader = behind(&stage, "first", &door);
    wait_leading(&leader, VERDICT_LIMIT).await;
    let mut follower = replica(&stage, "second", 1);
    watched(&stage, &mut leader, &mut follower).await;
    let path = service_path(&stage);
    door.keep(Method::PATCH, &path, Keep::Request);

    stage.shop.set_errors("green", 0.3);
    tokio::time::timeout(VERDICT_LIMIT, door.caught())
        .await
        .expect("its patch comes by");
    leader.process.signal("STOP");
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    door.let_go();
    let refused = || {
        let asked = stage.cluster.audit_of(&stage.namespace, "flipback");
        asked
            .into_iter()
            .any(|event| event.verb == "patch" && event.is_on("services", &stage.namespace, &stage.shop.active()) && event.code == 422)
    };
    eventually("the late patch to be refused", SOON, async || refused().then_some(())).await;
    leader.process.signal("CONT");

    wait_following(&mut leader, "second").await;
    only_flip_is_of(&stage, &mut follower).await;
    leader.terminate().await;
    follower.terminate().await;
}

/// Holders by shard, as the Leases say.
async fn holders(ground: &Ground) -> BTreeMap<String, String> {
    let leases: Api<Lease> = Api::namespaced(ground.cluster.admin().await, &ground.namespace);
    let found = leases.list(&ListParams::default()).await.expect("a list").items;
    found
        .into_iter()
        .filter_map(|lease| {
            let name = lease.metadata.name?;
            let holder = lease.spec?.holder_identity.unwrap_or_default();
            let holder = holder.rsplit_once('_').map_or("", |(name, _)| name).to_owned();
            name.contains("-shard-").then_some((name, holder))
        })
        .collect()
}

/// How many shards each holds, most first.
fn loads(holders: &BTreeMap<String, String>) -> Vec<(String, usize)> {
    let mut loads: BTreeMap<String, usize> = BTreeMap::new();
    for holder in holders.values() {
        *loads.entry(holder.clone()).or_default() += 1;
    }
    let mut loads: Vec<(String, usize)> = loads.into_iter().collect();
    loads.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), name.clone()));
    loads
}

async fn wait_loads(what: &str, ground: &Ground, fits: impl Fn(&[(String, usize)]) -> bool) -> BTreeMap<String, String> {
    eventually(what, VERDICT_LIMIT, async || {
        let holders = holders(ground).await;
        let loads = loads(&holders);
        (holders.len() == 4 && holders.values().all(|holder| !holder.is_empty()) && fits(&loads)).then_some(holders)
    })
    .await
}

/// When a shard's Lease was last given back.
fn given_back(ground: &Ground, lease: &str) -> Option<Timestamp> {
    let written = ground.stored().into_iter();
    let mut written = written.filter(|event| event.verb == "update" && event.is_on("leases", &ground.namespace, lease));
    let back = written.rfind(|event| event.response["spec"]["holderIdentity"].is_null())?;
    Some(back.received)
}

/// Adds rules to the Role: API group, resource, names, verbs.
async fn grant(ground: &Ground, rules: &[(&str, &str, &[String], &[&str])]) {
    let rules = rules.iter().map(|(group, resource, names, verbs)| {
        json!({"op": "add", "path": "/rules/-", "value": {
            "apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs,
        }})
    });
    let patch = Value::Array(rules.collect()).to_string();
    let arguments = ["-n", &ground.namespace, "patch", "role", "flipback", "--type", "json", "-p", &patch];
    ground.cluster.kubectl(&arguments, "").await.expect("kubectl");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_shared_out_taken_over_and_handed_over() {
    let Some(ground) = Ground::open("shards_are_shared_out_taken_over_and_handed_over", "").await else {
        return;
    };
    let names: Vec<String> = (0..4).map(|shard| format!("flipback-shard-{shard}")).collect();
    // The Role names the Leases of one shard; more need more names.
    grant(&ground, &[("coordination.k8s.io", "leases", &names, &["get", "update", "patch"])]).await;

    let mut first = replica(&ground, "first", 4);
    let mut second = replica(&ground, "second", 4);
    let mut third = replica(&ground, "third", 4);
    wait_loads("three replicas to share four shards", &ground, |loads| {
        loads.iter().map(|(_, count)| *count).eq([2, 1, 1])
    })
    .await;

    // The guard's command is for one of them, and every other says for which.
    let shard = third.wait_for("its shard", |guard| guard["shard"].is_u64()).await["shard"].clone();
    let rollback = json!({"command": "rollback", "guard": third.guard, "by": "ann", "reason": "r", "dry_run": true});
    // A follower learns of a new leader when it next reads the Lease; until then it says that it knows of none. On a starved machine a
    // leader may lose its Lease meanwhile, and another one has it.
    eventually("one to lead the guard, and the others to know who", VERDICT_LIMIT, async || {
        let leader = holders(&ground).await.remove(&format!("flipback-shard-{shard}"))?;
        for (name, daemon) in [("first", &first), ("second", &second), ("third", &third)] {
            let (code, answer) = daemon.command(TOKEN, &rollback).await;
            let leads = (code, &answer["reply"]) == (200, &json!("flip"));
            let follows = code == 409 && answer["detail"]["leader"] == json!(leader);
            assert!(leads || code == 409, "{name}: {answer}");
            if !(if name == leader { leads } else { follows }) {
                // Commands are bounded in their rate.
                tokio::time::sleep(Duration::from_millis(300)).await;
                return None;
            }
        }
        Some(())
    })
    .await;

    // One dies: its shards go to the others, theirs stay.
    let even = wait_loads("four shards to be shared as before", &ground, |loads| {
        loads.iter().map(|(_, count)| *count).eq([2, 1, 1])
    })
    .await;
    second.process.kill();
    let after = wait_loads("the others to take over", &ground, |loads| {
        loads.iter().all(|(name, count)| name != "second" && *count == 2)
    })
    .await;
    for (lease, holder) in even.iter().filter(|(_, holder)| *holder != "second") {
        assert_eq!(&after[lease], holder, "{lease} moved without need");
    }

    // One is asked to go: it gives its Leases back, and nobody waits for them to run out.
    let given = after.iter().filter(|(_, holder)| *holder == "third").map(|(lease, _)| lease);
    let given: Vec<String> = given.cloned().collect();
    third.terminate().await;
    wait_loads("the last one to lead all", &ground, |loads| loads == [("first".to_owned(), 4)]).await;
    for lease in given {
        let back = given_back(&ground, &lease).expect("it was given back");
        let events = ground
            .stored()
            .into_iter()
            .filter(|event| event.is_on("leases", &ground.namespace, &lease));
        let taken = events
            .filter(|event| event.received > back)
            .map(|event| event.received)
            .next()
            .expect("it was taken");
        let waited = taken.duration_since(back).unsigned_abs();
        assert!(waited < DURATION, "{lease} was free for {waited:?}");
    }

    // One comes: when it has watched for a while it is given its share, each shard without a gap.
    let came = now();
    let mut fourth = replica(&ground, "fourth", 4);
    wait_loads("the newcomer to be given half", &ground, |loads| {
        loads.iter().all(|(_, count)| *count == 2)
    })
    .await;
    let watched = now().duration_since(came).unsigned_abs();
    assert!(watched >= DURATION * 2, "it was given its share after {watched:?}");
    first.terminate().await;
    wait_loads("the newcomer to lead all", &ground, |loads| loads == [("fourth".to_owned(), 4)]).await;
    fourth.terminate().await;
}

/// The shard of a guard, of two, as `src/cluster/lease/spread.rs` has it written in stone.
fn shard_of_two(guard: &str) -> u64 {
    let score = |shard: &u64| {
        let digest = Sha256::new()
            .chain_update(guard)
            .chain_update([0])
            .chain_update(format!("shard {shard}"));
        <[u8; 32]>::from(digest.finalize())
    };
    (0..2).max_by_key(score).unwrap_or_default()
}

/// One replica leads the one guard, one the other, and each flips for itself: what either did counts for both.
#[tokio::test(flavor = "multi_thread")]
async fn the_blast_radius_holds_across_replicas_that_lead_at_the_same_time() {
    const DOWN: &str = "[guards.rules.endpoints]\ndown_for = \"2s\"\n";
    let name = "the_blast_radius_holds_across_replicas_that_lead_at_the_same_time";
    let Some(ground) = Ground::open(name, DOWN).await else { return };
    let namespace = &ground.namespace;
    let shard = shard_of_two(&format!("{namespace}/shop"));
    let mut names = (0..).map(|n| format!("{namespace}/cart-{n}"));
    let other = names.find(|name| shard_of_two(name) != shard).expect("one of them");
    let cart = Shop::open(&ground.cluster, namespace, "cart", 1).await;
    let services = [cart.active(), cart.preview()];
    let leases = [0, 1].map(|shard| format!("flipback-shard-{shard}"));
    grant(
        &ground,
        &[
            ("", "services", &services, &["patch"]),
            ("coordination.k8s.io", "leases", &leases, &["get", "update"]),
        ],
    )
    .await;
    let text = std::fs::read_to_string(&ground.config).expect("readable");
    let own = other.rsplit('/').next().unwrap_or_default();
    let guard = format!(
        "[[guards]]\nname = \"{own}\"\nnamespace = \"{namespace}\"\n[guards.route]\nservice = \"cart-active\"\npreview = \"cart-preview\"\n\
         selector_key = \"color\"\n[guards.colors]\nblue = {{ value = \"blue\", deployment = \"cart-blue\" }}\n\
         green = {{ value = \"green\", deployment = \"cart-green\" }}\n{DOWN}[blast_radius]\nflips = 1\nshare = 0\n"
    );
    ground.folder.write("flipback.toml", format!("{text}\n{guard}"));

    let mut first = replica(&ground, "first", 2);
    let mut second = replica(&ground, "second", 2);
    wait_leading(&first, VERDICT_LIMIT).await;
    wait_leading(&second, VERDICT_LIMIT).await;
    let on_green = |status: &Value| {
        let guards = status["guards"].as_array().into_iter().flatten();
        guards.filter(|guard| guard["active"] == "green").count() == 2
    };
    ground.shop.switch_to("green").await;
    cart.switch_to("green").await;
    for daemon in [&first, &second] {
        eventually("both on green", VERDICT_LIMIT, async || {
            daemon.status().await.filter(on_green).map(drop)
        })
        .await;
    }
    let leads_shop = ours(&first.status().await.expect("it answers")) == [shard];
    let (of_shop, of_cart) = if leads_shop { (&first, &second) } else { (&second, &first) };

    ground.cluster.set_ready(namespace, "shop-green", false);
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    ground.cluster.set_ready(namespace, "cart-green", false);
    let held = eventually("the other one to be held", VERDICT_LIMIT, async || {
        of_cart.status().await.filter(|status| status["fleet"]["held"] == json!([other]))
    })
    .await;
    assert_eq!(
        held["fleet"]["flipped"],
        json!([format!("{namespace}/shop")]),
        "{:#}",
        held["fleet"]
    );
    let page = ground.wait_topic("many_failing", SOON).await;
    assert!(page.to_string().contains(&other), "{page}");
    // Several looks on, it is held still.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(cart.selected().await, "green");

    let lift = json!({"command": "override", "for": "10m", "by": "ann", "reason": "the releases"});
    let (code, answer) = of_shop.command(TOKEN, &lift).await;
    assert_eq!(code, 200, "{answer}");
    eventually("it to be let go", VERDICT_LIMIT, async || {
        (cart.selected().await == "blue").then_some(())
    })
    .await;
    first.terminate().await;
    second.terminate().await;
}
