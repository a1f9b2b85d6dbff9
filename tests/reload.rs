//! Another configuration, a maintenance window and a blast radius, met by the daemon as a process on a real API server; its audit log is
//! the witness of what was patched.
//!
//! Guards are judged by probes of real small applications, so that no Prometheus is needed and a verdict takes some polls of a second.

pub mod support;

use std::{collections::BTreeSet, fmt::Write as _, fs, os::unix::fs::symlink, path::Path, time::Duration};

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use support::{
    Shop, eventually, now,
    stage::{Daemon, Ground, SOON, TOKEN, VERDICT_LIMIT},
};
use tokio::time::Instant;

/// A guard that is judged by its probe alone, after so many bad rounds in a row.
fn probed(consecutive: u32) -> String {
    format!(
        "[guards.rules.health]\nkind = \"probe\"\npath = \"/health\"\nretries = 0\n[guards.policy]\nconsecutive = {consecutive}\n\
         [defaults]\ninherit_rules = false\n"
    )
}

/// A further guard, over a shop of its own in the same namespace, and the right to flip it.
async fn another(ground: &Ground, name: &str, more: &str) -> (Shop, String) {
    let namespace = &ground.namespace;
    let shop = Shop::open(&ground.cluster, namespace, name, 1).await;
    let right = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: flip-{name}, namespace: {namespace}}}\nrules:\n\
         - {{apiGroups: [\"\"], resources: [services], resourceNames: [{name}-active, {name}-preview], verbs: [patch]}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: flip-{name}, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: flip-{name}}}\n\
         subjects: [{{kind: ServiceAccount, name: flipback, namespace: {namespace}}}]\n"
    );
    ground.cluster.apply_yaml(&right).await;
    let resolve = shop.addresses().iter().fold(String::new(), |mut text, (pod, app)| {
        let _ = writeln!(text, "\"{pod}\" = \"{app}\"");
        text
    });
    ground.edit("[probe.resolve]\n", &format!("[probe.resolve]\n{resolve}"));
    let guard = format!(
        "[[guards]]\nname = \"{name}\"\nnamespace = \"{namespace}\"\n[guards.route]\nservice = \"{name}-active\"\npreview = \"{name}-preview\"\n\
         selector_key = \"color\"\n[guards.colors]\nblue = {{ value = \"blue\", deployment = \"{name}-blue\" }}\n\
         green = {{ value = \"green\", deployment = \"{name}-green\" }}\n[guards.evidence]\nafter = \"1s\"\n\
         [guards.rules.health]\nkind = \"probe\"\npath = \"/health\"\nretries = 0\n{more}"
    );
    (shop, guard)
}

fn append(file: &Path, more: &str) {
    let text = fs::read_to_string(file).expect("readable");
    fs::write(file, format!("{text}\n{more}")).expect("writable");
}

async fn status(daemon: &Daemon) -> Value {
    let answer = reqwest::get(format!("{}/api/v1/status", daemon.url))
        .await
        .expect("the daemon answers");
    answer.json().await.expect("JSON")
}

/// Waits for a status that fits; the last one and what the daemon wrote are shown where none does.
async fn wait_status(daemon: &Daemon, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + VERDICT_LIMIT;
    loop {
        let status = status(daemon).await;
        if fits(&status) {
            return status;
        }
        let wrote = || daemon.process.output();
        assert!(Instant::now() < deadline, "waited in vain for {what}:\n{status:#}\n{}", wrote());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn streak(guard: &Value) -> u64 {
    guard["rules"][0]["streak"].as_u64().unwrap_or_default()
}

fn sick(shop: &Shop, color: &str) {
    shop.side(color).iter().for_each(|app| app.set_healthy(false));
}

/// As the kubelet mounts a ConfigMap: the file is a link into `..data`, which is a link to a folder with the revision.
fn revision(ground: &Ground, name: &str, text: &str) {
    let root = ground.folder.path();
    fs::create_dir(root.join(name)).expect("makes");
    fs::write(root.join(name).join("flipback.toml"), text).expect("writes");
    symlink(name, root.join("..data_tmp")).expect("links");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("swaps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streak_survives_the_reload_of_another_guard_and_a_bad_file_changes_nothing() {
    let Some(ground) = Ground::open("a_streak_survives_the_reload", &probed(15)).await else {
        return;
    };
    let (_cart, guard) = another(&ground, "cart", "[guards.policy]\nconsecutive = 3\n").await;
    append(&ground.config, &guard);
    let first = fs::read_to_string(&ground.config).expect("readable");
    fs::remove_file(&ground.config).expect("ours");
    revision(&ground, "..1", &first);
    symlink("..data/flipback.toml", &ground.config).expect("links");

    let mut daemon = ground.start(&[]).await;
    let began = status(&daemon).await["config"]["hash"].clone();
    ground.release_green(&mut daemon).await;
    sick(&ground.shop, "green");
    let before = daemon.wait_for("a streak on its way", |guard| streak(guard) >= 3).await;

    // Another guard's threshold, by a swapped link: the streak of this one goes on.
    let second = first.replace("consecutive = 3\n", "consecutive = 4\n");
    assert_ne!(first, second);
    revision(&ground, "..2", &second);
    wait_status(&daemon, "the second revision in force", |status| {
        status["config"]["hash"] != began && status["config"]["refused"].is_null()
    })
    .await;
    let after = daemon.guard().await.expect("there");
    assert!(
        streak(&after) >= streak(&before) || after["active"] == "blue",
        "the streak was lost: {} before, {after:#}",
        streak(&before)
    );

    // A file with a mistake: refused and said everywhere, and the flip happens by the one before it.
    revision(&ground, "..3", &second.replace("consecutive = 4\n", "consecutive = \"four\"\n"));
    let refused = wait_status(&daemon, "the third revision refused", |status| {
        !status["config"]["refused"].is_null()
    })
    .await;
    let why = refused["config"]["refused"]["why"].as_str().expect("a text");
    assert!(
        why.contains("guards[cart].policy.consecutive") && why.contains("found:   \"four\""),
        "{why}"
    );
    let metrics = daemon.metrics().await;
    assert!(metrics.contains("\nflipback_config_last_reload_successful 0\n"), "{metrics}");
    let hash = refused["config"]["hash"].as_str().expect("a hash");
    assert!(
        metrics.contains(&format!("\nflipback_config_info{{hash=\"{hash}\"}} 1\n")),
        "{metrics}"
    );
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    eventually("the flip in the audit log", SOON, async || {
        (ground.flips().len() == 1).then_some(())
    })
    .await;
    let told = ground.run(&["status", "--address", &daemon.url]).await;
    assert!(told.out.contains("is not in force: the one before it is"), "{}", told.out);

    // What a running process cannot change is refused as a whole; SIGHUP asks at once.
    revision(&ground, "..4", &second.replace("data_dir = \"data\"", "data_dir = \"elsewhere\""));
    daemon.process.signal("HUP");
    wait_status(&daemon, "the fourth revision refused", |status| {
        let why = status["config"]["refused"]["why"].as_str().unwrap_or_default();
        why.starts_with("data_dir cannot change while flipback runs")
    })
    .await;
    assert!(!ground.folder.path().join("elsewhere").exists());

    // The way back is taken, and the page is quiet again.
    revision(&ground, "..5", &second);
    wait_status(&daemon, "the fifth revision in force", |status| {
        status["config"]["refused"].is_null()
    })
    .await;
    let log = daemon.process.output();
    let said = |line: &str| log.matches(line).count();
    assert_eq!(said("The changed configuration is refused"), 2, "{log}");
    assert_eq!(said("Took a changed configuration"), 2, "{log}");
    daemon.terminate().await;
    assert_eq!(ground.flips().len(), 1, "one flip, and none lost or doubled by the reloads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_come_and_go_and_credentials_rotate_while_the_daemon_runs() {
    let Some(ground) = Ground::open("guards_come_and_go", &probed(3)).await else {
        return;
    };
    let mut daemon = ground.start(&[]).await;
    let alone = fs::read_to_string(&ground.config).expect("readable");
    let (cart, guard) = another(&ground, "cart", "").await;
    append(&ground.config, &guard);
    let names = |status: &Value| -> Vec<String> {
        let guards = status["guards"].as_array().into_iter().flatten();
        guards
            .filter_map(|guard| Some(guard["guard"].as_str()?.rsplit('/').next()?.to_owned()))
            .collect()
    };
    // No signal: the new content is noticed.
    wait_status(&daemon, "both guards", |status| {
        names(status) == ["cart", "shop"]
            && status["guards"]
                .as_array()
                .is_some_and(|guards| guards.iter().all(|guard| guard["active"] == "blue"))
    })
    .await;
    cart.switch_to("green").await;
    sick(&cart, "green");
    eventually("the new guard to flip", VERDICT_LIMIT, async || {
        (cart.selected().await == "blue").then_some(())
    })
    .await;

    // Another name for it: the chat that hears of it is another one, and so is the token.
    ground.folder.write("webhook-url", ground.chat.url("/moved"));
    ground.folder.write("token", "another token");
    let pause = json!({"command": "pause", "guard": daemon.guard, "by": "ann", "reason": "", "until": now() + 1.hour()});
    let (code, _) = daemon.command(TOKEN, &pause).await;
    assert_eq!(code, 401, "the former token is none any more");
    let (code, body) = daemon.command("another token", &pause).await;
    assert_eq!(code, 200, "{body}");
    let paused = daemon.wait_phase(&["paused"]).await;
    assert!(paused["paused_until"].is_string(), "{paused:#}");
    let heard = ground.chat.wait_for("the webhook's new address", SOON, |delivery| {
        delivery.path == "/moved" && delivery.body["data"]["topic"] == "paused"
    });
    heard.await;

    fs::write(&ground.config, alone).expect("writable");
    daemon.process.signal("HUP");
    wait_status(&daemon, "one guard", |status| names(status) == ["shop"]).await;
    let metrics = daemon.metrics().await;
    let ghost = metrics.lines().find(|line| line.contains("/cart\""));
    assert_eq!(ghost, None, "what is no longer guarded must not look guarded");
    daemon.terminate().await;
    let journal = ground.run(&["audit", "show"]).await;
    for part in ["added", "removed"] {
        assert!(
            journal.out.contains(&format!("{part} {}/cart", ground.namespace)),
            "{}",
            journal.out
        );
    }
}

/// The threads that a topic was told in, and its sentences.
fn told(ground: &Ground, topic: &str) -> Vec<(String, String)> {
    let deliveries = ground.chat.deliveries();
    let own = deliveries
        .iter()
        .filter(|one| one.path == "/webhook" && one.body["data"]["topic"] == topic);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    own.map(|one| (text(&one.body["data"]["thread"]), text(&one.body["data"]["why"])))
        .collect()
}

/// Waits until a thread was closed since its guard is configured no more.
async fn wait_abandoned(ground: &Ground, thread: &str) {
    eventually("its thread to be closed", VERDICT_LIMIT, async || {
        let closed = told(ground, "resolved");
        let ours = closed.iter().find(|(closed, _)| closed == thread)?;
        ours.1.contains("/cart is no longer guarded").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_gone_leaves_no_thread_open_and_one_that_is_added_knows_its_past() {
    let Some(ground) = Ground::open("a_guard_that_is_gone", &probed(2)).await else {
        return;
    };
    let alone = fs::read_to_string(&ground.config).expect("readable");
    let (cart, guard) = another(&ground, "cart", "[guards.policy]\nconsecutive = 2\n").await;
    append(&ground.config, &guard);
    let both = fs::read_to_string(&ground.config).expect("readable");
    let without = {
        // Addresses of its pods are no guard; they may stay.
        let from = both.find("[[guards]]\nname = \"cart\"").expect("it was appended");
        both.get(..from).expect("a boundary").to_owned()
    };
    assert!(alone.len() < both.len() && !without.contains("name = \"cart\""));
    let of_cart = |status: &Value| -> Option<Value> {
        let guards = status["guards"].as_array().into_iter().flatten();
        guards
            .into_iter()
            .find(|guard| guard["guard"].as_str().is_some_and(|name| name.ends_with("/cart")))
            .cloned()
    };

    let mut daemon = ground.start(&[]).await;
    cart.switch_to("green").await;
    wait_status(&daemon, "green to be watched", |status| {
        of_cart(status).is_some_and(|cart| cart["active"] == "green")
    })
    .await;
    sick(&cart, "green");
    eventually("cart to flip", VERDICT_LIMIT, async || {
        (cart.selected().await == "blue").then_some(())
    })
    .await;
    eventually("its evidence", VERDICT_LIMIT, async || {
        told(&ground, "evidence_ready").first().map(|_| ())
    })
    .await;
    // Somebody moves it back: a thread that stays open while green is live.
    cart.switch_to("green").await;
    let undone = eventually("that to be told", VERDICT_LIMIT, async || {
        told(&ground, "flipped_back").first().cloned()
    })
    .await;

    // Taken out while the daemon is down: the next run closes what nobody else would.
    daemon.process.kill();
    fs::write(&ground.config, &without).expect("writable");
    let mut daemon = ground.start(&[]).await;
    wait_abandoned(&ground, &undone.0).await;

    // Put back while it runs: it knows what an earlier run did.
    fs::write(&ground.config, &both).expect("writable");
    daemon.process.signal("HUP");
    wait_status(&daemon, "its past", |status| {
        of_cart(status).is_some_and(|cart| cart["last_incident"]["result"] == "rolled_back")
    })
    .await;
    // What follows is told in the thread of that past, and what was told is not told again.
    let refused = eventually("its refusal", VERDICT_LIMIT, async || {
        told(&ground, "rollback_blocked").first().cloned()
    })
    .await;
    assert_eq!(refused.0, undone.0, "{}", refused.1);
    // What a killed run had delivered and not yet noted down may come once more, under its id.
    let deliveries = ground.chat.deliveries();
    let told_of = deliveries
        .iter()
        .filter(|one| one.path == "/webhook" && one.body["data"]["topic"] == "flipped_back");
    let ids: BTreeSet<&str> = told_of.filter_map(|one| one.body["id"].as_str()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");

    // Taken out while it runs, and while a thread of another kind is open.
    cart.select("purple").await;
    let unknown = eventually("the unknown color to be told", VERDICT_LIMIT, async || {
        told(&ground, "unknown_color").first().cloned()
    })
    .await;
    fs::write(&ground.config, &without).expect("writable");
    daemon.process.signal("HUP");
    wait_abandoned(&ground, &unknown.0).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_holds_tells_once_and_flips_the_moment_it_ends() {
    let until = now() + 1.hour();
    let window = |ends: Timestamp| {
        format!("[[maintenance]]\nname = \"patching\"\nguards = [\"*/shop\"]\nstarts = \"2026-01-01T00:00Z\"\nends = \"{ends}\"\n")
    };
    let Some(ground) = Ground::open("maintenance_holds", &probed(2)).await else {
        return;
    };
    append(&ground.config, &window(until));
    let mut daemon = ground.start(&[]).await;
    ground.release_green(&mut daemon).await;
    sick(&ground.shop, "green");
    let held = daemon.wait_phase(&["blocked"]).await;
    let why = held["why"].as_str().unwrap_or_default();
    assert!(why.contains("held by maintenance \"patching\" until"), "{why}");
    assert_eq!(held["maintenance"]["name"], "patching");
    let told = ground.wait_topic("rollback_blocked", SOON).await;
    assert!(told.to_string().contains("held by maintenance"), "{told}");
    assert!(daemon.metrics().await.contains("\nflipback_maintenance{guard="));
    let status = ground.run(&["status", "shop"]).await;
    assert!(status.out.contains("patching, no automatic flip until"), "{}", status.out);
    // Several looks on, still held, and nothing more is said.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ground.flips().len(), 0, "nothing moves during maintenance");
    assert_eq!(ground.topics().iter().filter(|topic| *topic == "rollback_blocked").count(), 1);

    // Its end is brought forward; streaks stay, since nothing that is judged by has changed.
    let ends = now() + 8.seconds();
    ground.edit(&window(until), &window(ends));
    daemon.process.signal("HUP");
    ground.wait_selected("blue", VERDICT_LIMIT).await;
    let flips = eventually("the flip in the audit log", SOON, async || {
        Some(ground.flips()).filter(|flips| !flips.is_empty())
    })
    .await;
    assert_eq!(flips.len(), 1);
    assert!(now() >= ends, "it waited for the end of the window");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_guards_failing_at_once_are_held_told_of_once_and_let_go_by_a_person() {
    let Some(ground) = Ground::open("many_guards_failing", &probed(2)).await else {
        return;
    };
    let policy = "[guards.policy]\nconsecutive = 2\n";
    let ((cart, one), (search, other)) = (another(&ground, "cart", policy).await, another(&ground, "search", policy).await);
    append(&ground.config, &format!("{one}{other}[blast_radius]\nflips = 1\nshare = 0\n"));
    let shops = [&ground.shop, &cart, &search];
    let mut daemon = ground.start(&[]).await;
    for shop in shops {
        shop.switch_to("green").await;
    }
    wait_status(&daemon, "three guards on green", |status| {
        status["guards"]
            .as_array()
            .is_some_and(|guards| guards.len() == 3 && guards.iter().all(|guard| guard["active"] == "green"))
    })
    .await;
    shops.iter().for_each(|shop| sick(shop, "green"));
    let on_blue = async || {
        let mut count = 0;
        for shop in shops {
            count += usize::from(shop.selected().await == "blue");
        }
        count
    };
    let held = wait_status(&daemon, "two guards held", |status| {
        status["fleet"]["held"].as_array().is_some_and(|held| held.len() == 2)
    })
    .await;
    assert_eq!(held["fleet"]["flipped"].as_array().map(Vec::len), Some(1), "{held:#}");
    // Decided is not yet done.
    eventually("one of them on blue", VERDICT_LIMIT, async || (on_blue().await == 1).then_some(())).await;
    // Each has its evidence; of the report on what is held nobody is told: it is one page for all of them.
    let bundles = ground.folder.path().join("data/incidents");
    eventually("three bundles", VERDICT_LIMIT, async || {
        let found = fs::read_dir(&bundles).ok()?.filter_map(Result::ok);
        let whole = found.filter(|one| !one.file_name().to_string_lossy().starts_with('.'));
        (whole.count() == 3).then_some(())
    })
    .await;
    let flipped = held["fleet"]["flipped"][0].clone();
    ground.wait_topic("evidence_ready", SOON).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let deliveries = ground.chat.deliveries();
    let ready = deliveries.iter().filter(|one| one.body["data"]["topic"] == "evidence_ready");
    let of: Vec<Value> = ready.map(|one| one.body["data"]["guard"].clone()).collect();
    assert_eq!(of, [flipped]);
    let page = ground.wait_topic("many_failing", SOON).await;
    for name in held["fleet"]["held"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(page.to_string().contains(name), "{name} is not named in {page}");
    }

    // The ledger on the object that flipped tells a new process as much, and the record of its thread what was told.
    let threads = ground.folder.path().join("data/outbox/threads/webhook");
    eventually("the page to be noted as accepted", SOON, async || {
        let mut records = fs::read_dir(&threads).ok()?.flatten();
        records
            .any(|record| record.file_name().to_string_lossy().starts_with("fleet_"))
            .then_some(())
    })
    .await;
    daemon.process.kill();
    let mut daemon = ground.start(&[]).await;
    wait_status(&daemon, "two guards held after a restart", |status| {
        status["fleet"]["held"].as_array().is_some_and(|held| held.len() == 2)
    })
    .await;
    assert_eq!(on_blue().await, 1, "a restart forgets nothing");
    let topics = ground.topics();
    assert!(
        !topics.iter().any(|topic| topic == "rollback_blocked"),
        "one page for all of them: {topics:?}"
    );
    // The page of the former run goes on: several looks on, nobody has been called by another one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let deliveries = ground.chat.deliveries();
    let pages = deliveries.iter().filter(|one| one.body["data"]["topic"] == "many_failing");
    let threads: BTreeSet<String> = pages.map(|one| one.body["data"]["thread"].to_string()).collect();
    assert_eq!(threads.len(), 1, "one page, whatever restarts lie between: {threads:?}");

    let lifted = ground.run(&["override", "--for", "5m", "--reason", "it is the release"]).await;
    assert_eq!(lifted.code, 0, "{lifted:?}");
    assert!(lifted.out.starts_with("any number of guards may flip until"), "{lifted:?}");
    eventually("all three to be on blue", VERDICT_LIMIT, async || {
        (on_blue().await == 3).then_some(())
    })
    .await;
    // A word that was given holds for the next run, too, until it ends.
    daemon.process.kill();
    let mut daemon = ground.start(&[]).await;
    let fleet = status(&daemon).await["fleet"].clone();
    assert!(
        fleet["lifted_by"] == "ann@bastion" && fleet["lifted_until"].is_string(),
        "{fleet:#}"
    );
    daemon.terminate().await;
    let moved = |shop: &Shop| {
        let stored = ground.stored();
        stored
            .iter()
            .filter(|event| event.is_on("services", &ground.namespace, &shop.active()))
            .count()
    };
    assert_eq!(shops.map(moved), [1, 1, 1], "one flip each");
    let journal = ground.run(&["audit", "show"]).await;
    assert!(
        journal.out.contains("override") && journal.out.contains("it is the release"),
        "{}",
        journal.out
    );
}
