//! The judgement on real parts, where measurements lie, stop or begin anew: blips, faults that come and go, restarts, series
//! born at 37, a Prometheus that is gone for a while, a target that dies unnoticed, answers that are no answers.
//!
//! What is right stands in DECISIONS.md. The witness of every story is the API server's audit log: which patch there was, when,
//! and that there was none. Numbers are read from `incident.json` and from the daemon's own counters of outcomes. No story ends
//! in silence alone: in each of them a real fault is rolled back in the end, so that the silence before means something.

pub mod support;

use std::{cell::Cell, io::Write, ops::Sub, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use support::{
    App, Daemon, Manner, Proxy, Stage, Target, now,
    proxy::WARNING,
    stage::{SOON, VERDICT_LIMIT},
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The rule that most of this is about.
const RULE: &str = "error_rate";
/// A share of errors that is far over the threshold of 5 %, and no severe one.
const BAD: f64 = 0.3;
/// Breaches enough that a streak can be met on its way; none of these tests is about how many it takes.
const LONG_STREAK: &str = "[guards.policy]\nconsecutive = 6\nblind_after = \"3s\"\n";

/// These stories tell single looks apart, which takes a machine that is not late: no more than two are told at a time.
static TURNS: Semaphore = Semaphore::const_new(2);

async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("never closed")
}

/// Figures that a reader of the test's output wants to see.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Seconds from one time to another.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// How often each outcome was the rule's since the daemon started, by the daemon's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Looks {
    breach: u64,
    pass: u64,
    waiting: u64,
    inconclusive: u64,
    nothing: u64,
}

impl Looks {
    async fn of(daemon: &Daemon) -> Self {
        let (guard, metrics) = (&daemon.guard, daemon.metrics().await);
        let count = |outcome: &str| {
            let series = format!("flipback_rule_outcomes_total{{guard=\"{guard}\",outcome=\"{outcome}\",rule=\"{RULE}\"}} ");
            let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&series)?.parse().ok());
            values.next().unwrap_or(0)
        };
        Self {
            breach: count("breach"),
            pass: count("pass"),
            waiting: count("waiting"),
            inconclusive: count("inconclusive"),
            nothing: count("nothing"),
        }
    }

    fn all(self) -> u64 {
        self.breach + self.pass + self.waiting + self.inconclusive + self.nothing
    }

    /// Breaches and passes: what moves a streak.
    fn verdicts(self) -> u64 {
        self.breach + self.pass
    }
}

impl Sub for Looks {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            breach: self.breach - earlier.breach,
            pass: self.pass - earlier.pass,
            waiting: self.waiting - earlier.waiting,
            inconclusive: self.inconclusive - earlier.inconclusive,
            nothing: self.nothing - earlier.nothing,
        }
    }
}

/// Waits until the daemon has looked so many times more.
async fn looks(daemon: &Daemon, count: u32) {
    let before = Looks::of(daemon).await.all();
    let deadline = tokio::time::Instant::now() + VERDICT_LIMIT;
    while Looks::of(daemon).await.all() < before + u64::from(count) {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {count} looks");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A rule in a guard's status.
fn rule_of<'a>(guard: &'a Value, name: &str) -> &'a Value {
    let rules = guard["rules"].as_array().into_iter().flatten();
    rules.into_iter().find(|rule| rule["rule"] == name).unwrap_or(&Value::Null)
}

fn streak_of(guard: &Value, name: &str) -> u64 {
    rule_of(guard, name)["streak"].as_u64().unwrap_or(0)
}

/// Waits until the rule's streak is so long.
async fn wait_streak(daemon: &mut Daemon, rule: &str, length: u64) -> Value {
    let what = format!("a streak of {length} of {rule}");
    daemon.wait_for(&what, |guard| streak_of(guard, rule) >= length).await
}

/// Waits until the rule has no verdict and says all of these; returns its streak.
async fn wait_dark(daemon: &mut Daemon, words: &[&str]) -> u64 {
    let what = format!("no verdict, and {words:?}");
    let guard = daemon
        .wait_for(&what, |guard| {
            let rule = rule_of(guard, RULE);
            let why = rule["why"].as_str().unwrap_or_default();
            rule["outcome"] == "inconclusive" && words.iter().all(|word| why.contains(word))
        })
        .await;
    streak_of(&guard, RULE)
}

/// Waits until blue is live again; returns the longest and the shortest streak of the rule that was seen on green meanwhile.
async fn streaks_until_rolled_back(daemon: &mut Daemon) -> (u64, u64) {
    let (longest, shortest) = (Cell::new(0), Cell::new(u64::MAX));
    let ended = |guard: &Value| {
        if guard["active"] == "green" {
            let streak = streak_of(guard, RULE);
            longest.set(longest.get().max(streak));
            shortest.set(shortest.get().min(streak));
        }
        guard["active"] == "blue"
    };
    daemon.wait_for("blue to be live again", ended).await;
    (longest.get(), shortest.get())
}

/// The API server was not asked to move anything.
fn assert_unmoved(stage: &Stage, meanwhile: &str) {
    let flips = stage.flips();
    assert!(flips.is_empty(), "{meanwhile} moved traffic: {flips:#?}");
}

/// There was one patch of the active Service, to blue, after `since`; and one of its preview. Returns when it was accepted, and
/// `incident.json`.
async fn assert_one_flip(stage: &Stage, since: Timestamp) -> (Timestamp, Value) {
    stage.wait_selected("blue", VERDICT_LIMIT).await;
    stage.wait_topic("rollback_completed", SOON).await;
    let folder = stage.evidence().await;
    let flips = stage.flips();
    assert_eq!(flips.len(), 1, "{flips:#?}");
    let flip = &flips[0];
    assert_eq!(
        (flip.verb.as_str(), &flip.response["spec"]["selector"]["color"]),
        ("patch", &json!("blue"))
    );
    assert!(flip.received > since, "patched at {}, before {since}", flip.received);
    let writes = stage.stored();
    let services = writes.iter().filter(|event| event.resource == "services").count();
    let others = writes
        .iter()
        .filter(|event| !["services", "events"].contains(&event.resource.as_str()));
    assert_eq!((services, others.count()), (2, 0), "{writes:#?}");
    let incident = std::fs::read_to_string(folder.join("incident.json")).expect("an incident");
    let incident: Value = serde_json::from_str(&incident).expect("JSON");
    assert_eq!(incident["outcome"]["result"], "rolled_back", "{incident:#}");
    (flip.answered, incident)
}

/// The state of a rule at the decision.
fn decided<'a>(incident: &'a Value, rule: &str) -> &'a Value {
    rule_of(&incident["case"], rule)
}

// === faults that are short ===

/// A blip of 5 s, half of it before a look and half after, which is where it makes the most breaches. Begins right after a look.
async fn blip(stage: &Stage, daemon: &mut Daemon, share: f64) {
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let before = Looks::of(daemon).await;
    stage.shop.set_errors("green", share);
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.shop.set_errors("green", 0.0);
    let guard = wait_streak(daemon, RULE, 1).await;
    let longest = streak_of(&guard, RULE).max(streak_of(&wait_streak(daemon, RULE, 2).await, RULE));
    daemon.wait_for("the streak to end", |guard| streak_of(guard, RULE) == 0).await;
    let seen = Looks::of(daemon).await - before;
    tell(&format!(
        "blip of {:.0} %: {} breaches, streak of {longest}, then {} passes",
        share * 100.0,
        seen.breach,
        seen.pass
    ));
    assert_unmoved(stage, "a blip");
    assert!(seen.breach >= 2 && seen.pass >= 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blip_of_five_seconds_moves_nothing_and_a_fault_after_it_does() {
    let name = "a_blip_of_five_seconds_moves_nothing_and_a_fault_after_it_does";
    let _turn = turn().await;
    let Some(stage) = Stage::open(name, "").await else { return };
    // The default: what is forgiven is shorter than (N - 1) looks.
    stage.edit("poll = \"1s\"", "poll = \"5s\"");
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    looks(&daemon, 1).await;
    blip(&stage, &mut daemon, 1.0).await;
    blip(&stage, &mut daemon, 0.2).await;

    let broken = now();
    stage.shop.set_errors("green", BAD);
    let (accepted, incident) = assert_one_flip(&stage, broken).await;
    assert_eq!(incident["case"]["trigger"], json!({"kind": "rule", "rule": RULE, "path": "fast"}));
    tell(&format!(
        "a fault after two blips: fault to accepted patch {:.1} s",
        seconds(broken, accepted)
    ));
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intermittent_fault_is_rolled_back_by_the_slow_path() {
    let name = "an_intermittent_fault_is_rolled_back_by_the_slow_path";
    // 5 s of every 15 s, and the slow path scaled to it: a minute in place of five, held for 20 s in place of two minutes.
    let guard = "[guards.policy]\nslow_window = \"60s\"\nslow_hold = \"20s\"\n";
    let _turn = turn().await;
    let Some(stage) = Stage::open(name, guard).await else { return };
    stage.edit("poll = \"1s\"", "poll = \"5s\"");
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    looks(&daemon, 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let begun = now();
    let before = Looks::of(&daemon).await;
    let comes_and_goes = async {
        loop {
            stage.shop.set_errors("green", 1.0);
            tokio::time::sleep(Duration::from_secs(5)).await;
            stage.shop.set_errors("green", 0.0);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    let (longest, _) = tokio::select! {
        streaks = streaks_until_rolled_back(&mut daemon) => streaks,
        never = comes_and_goes => never,
    };
    // What blue is judged by since may be in it too; that is a look or two at most.
    let seen = Looks::of(&daemon).await - before;
    stage.shop.set_errors("green", 0.0);
    let (accepted, incident) = assert_one_flip(&stage, begun).await;
    let why = incident["case"]["why"].as_str().unwrap_or_default();
    tell(&format!(
        "intermittent: {:.1} s after its beginning, longest streak {longest} of 3, {} passes between: {why}",
        seconds(begun, accepted),
        seen.pass
    ));
    assert_eq!(incident["case"]["trigger"], json!({"kind": "rule", "rule": RULE, "path": "slow"}));
    assert!(why.contains("in the last 60 s") && why.contains("and so for 20 s"), "{why}");
    assert!((1..3).contains(&longest) && seen.pass >= 1, "{longest} {seen:?}");
    assert!(seconds(begun, accepted) > 15.0, "it came back once before it was judged");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn breaches_of_two_rules_are_not_one_streak() {
    let guard = "[guards.policy]\nwarm_up_latency = \"0s\"\n[guards.rules.latency_p95]\nthreshold = \"500ms\"\n";
    let _turn = turn().await;
    let Some(stage) = Stage::open("breaches_of_two_rules_are_not_one_streak", guard).await else {
        return;
    };
    stage.edit("poll = \"1s\"", "poll = \"2s\"");
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    looks(&daemon, 1).await;
    stage.shop.set_errors("green", BAD);
    wait_streak(&mut daemon, RULE, 1).await;
    // Over in time for the last scrape before the second look, so that the third finds none.
    tokio::time::sleep(Duration::from_millis(900)).await;
    stage.shop.set_errors("green", 0.0);
    let second = wait_streak(&mut daemon, RULE, 2).await;
    stage.shop.set_latency("green", 0.6, Duration::from_millis(600));
    assert_eq!(streak_of(&second, "latency_p95"), 0, "{second:#}");
    let third = wait_streak(&mut daemon, "latency_p95", 1).await;
    let met = (streak_of(&third, RULE), streak_of(&third, "latency_p95"));
    tell(&format!("two error breaches, then one of latency: streaks {met:?}"));
    assert_eq!(met, (0, 1), "{third:#}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_unmoved(&stage, "the third bad look in a row, of two rules");

    // Three of one rule are a streak.
    let since = now();
    let (_, incident) = assert_one_flip(&stage, since).await;
    assert_eq!(
        incident["case"]["trigger"],
        json!({"kind": "rule", "rule": "latency_p95", "path": "fast"})
    );
    assert_eq!(
        (&decided(&incident, "latency_p95")["streak"], &decided(&incident, RULE)["streak"]),
        (&json!(3), &json!(0))
    );
    daemon.terminate().await;
}

// === counters that begin anew ===

/// Every green process gives way to another, which counts from 0.
async fn restart_green(stage: &Stage) {
    for app in stage.shop.side("green") {
        app.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_are_no_breach_and_hide_none() {
    let guard = "[guards.policy]\nmin_requests = 20\n";
    let _turn = turn().await;
    let Some(stage) = Stage::open("restarts_are_no_breach_and_hide_none", guard).await else {
        return;
    };
    // Two scrapes per look, and a verdict at every look: each has a sample of the new processes, a second old at the least.
    stage.edit("poll = \"1s\"", "poll = \"2s\"");
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;

    // A release with a few errors, as every release has: after each look its counters are gone.
    stage.shop.set_errors("green", 0.01);
    looks(&daemon, 1).await;
    let before = Looks::of(&daemon).await;
    for _ in 0..3 {
        restart_green(&stage).await;
        looks(&daemon, 1).await;
    }
    let calm = Looks::of(&daemon).await - before;
    tell(&format!("three restarts of a good release: {calm:?}"));
    assert_unmoved(&stage, "a restart");
    assert_eq!(
        (calm.pass, calm.all()),
        (3, 3),
        "each look counted what the new processes had: {calm:?}"
    );

    // A bad one: what is known of it after its first breach was counted by processes that began a moment before.
    let broken = now();
    stage.shop.set_errors("green", BAD);
    let before = Looks::of(&daemon).await;
    wait_streak(&mut daemon, RULE, 1).await;
    restart_green(&stage).await;
    wait_streak(&mut daemon, RULE, 2).await;
    let bad = Looks::of(&daemon).await - before;
    // The look whose interval the fault began in may have passed; what comes after the first breach may not.
    let bad = Looks { pass: 0, ..bad };
    restart_green(&stage).await;
    let (accepted, incident) = assert_one_flip(&stage, broken).await;
    let judged = decided(&incident, RULE);
    tell(&format!(
        "two restarts in mid-streak: {bad:?}, fault to accepted patch {:.1} s: {}",
        seconds(broken, accepted),
        judged["why"]
    ));
    assert_eq!((bad.breach, bad.all()), (2, 2), "no look was lost: {bad:?}");
    assert_eq!(judged["streak"], 3, "{judged}");
    let (bad, total) = (judged["bad"].as_f64().unwrap_or(0.0), judged["total"].as_f64().unwrap_or(0.0));
    assert!((0.2..0.4).contains(&(bad / total)), "{judged}");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_born_at_37_counts_37_and_a_target_of_unknown_age_nothing() {
    let name = "a_series_born_at_37_counts_37_and_a_target_of_unknown_age_nothing";
    // Two breaches in a row, for two bursts; looks rare enough that each has all of one.
    let _turn = turn().await;
    let Some(stage) = Stage::open(name, "[guards.policy]\nconsecutive = 2\n").await else {
        return;
    };
    stage.edit("poll = \"1s\"", "poll = \"2s\"");
    let strangers = [App::start_ageless("green").await, App::start_ageless("green").await];
    let mut targets = stage.shop.targets().await;
    for (app, pod) in strangers.iter().zip(["shop-green-strange-1", "shop-green-strange-2"]) {
        let labels = [("namespace", stage.namespace.as_str()), ("pod", pod), ("container", "app")];
        targets.push(Target::new(app.address(), &labels));
    }
    stage.prometheus.set_targets(&targets).await;
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    let before = Looks::of(&daemon).await;

    // Nobody can say when these 37 of 37 happened: not one of them is green's fault.
    for app in &strangers {
        looks(&daemon, 1).await;
        app.count_errors(37);
    }
    looks(&daemon, 3).await;
    let born = stage.prometheus.query("http_requests_total{pod=~\"shop-green-strange-.+\"}").await;
    let values: Vec<f64> = born.iter().map(|(_, value)| *value).collect();
    assert_eq!(values, [37.0, 37.0], "they were scraped: {born:?}");
    let seen = Looks::of(&daemon).await - before;
    tell(&format!("74 errors of targets of unknown age: {seen:?}"));
    assert_unmoved(&stage, "a target of unknown age");
    assert_eq!(seen.breach, 0, "{seen:?}");

    // The first errors of pods that have been counted all along: every one of them happened since the last sample.
    let begun = now();
    looks(&daemon, 1).await;
    let mut counted = Vec::new();
    for (app, streak) in stage.shop.side("green").iter().zip([1, 2]) {
        app.count_errors(37);
        if streak == 1 {
            let guard = wait_streak(&mut daemon, RULE, streak).await;
            counted.push(rule_of(&guard, RULE)["bad"].clone());
        }
    }
    let (accepted, incident) = assert_one_flip(&stage, begun).await;
    let judged = decided(&incident, RULE);
    counted.push(judged["bad"].clone());
    tell(&format!(
        "two series born at 37: counted {counted:?}, first to accepted patch {:.1} s: {}",
        seconds(begun, accepted),
        judged["why"]
    ));
    assert_eq!(counted, [json!(37.0), json!(37.0)]);
    assert_eq!(judged["streak"], 2);
    daemon.terminate().await;
}

// === measurements that stop ===

/// Everything of the rule since `held` was known: looks without a verdict, and a streak that neither grew nor ended.
async fn assert_held(stage: &Stage, daemon: &mut Daemon, since: Looks, streak: u64, meanwhile: &str) {
    let seen = Looks::of(daemon).await - since;
    let guard = daemon.guard().await.expect("the daemon answers");
    tell(&format!(
        "{meanwhile}: {} looks inconclusive, {} without a newer sample, {} verdicts, streak held at {streak}",
        seen.inconclusive,
        seen.nothing,
        seen.verdicts()
    ));
    assert!(seen.verdicts() == 0 && seen.waiting == 0, "{meanwhile}: {seen:?}");
    assert_eq!(streak_of(&guard, RULE), streak, "{meanwhile}: {guard:#}");
    assert_unmoved(stage, meanwhile);
}

/// What was held goes on where it stood, and ends in the one flip.
async fn goes_on_and_flips(stage: &Stage, daemon: &mut Daemon, held: u64, since: Timestamp) {
    let (longest, shortest) = streaks_until_rolled_back(daemon).await;
    let (accepted, incident) = assert_one_flip(stage, since).await;
    tell(&format!(
        "held at {held}, then from {shortest} to {longest}: flipped {:.1} s after sight was back",
        seconds(since, accepted)
    ));
    assert!(shortest >= held, "the streak of {held} fell to {shortest}");
    assert_eq!(decided(&incident, RULE)["streak"], 6, "{incident:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_restarts_in_mid_streak_holds_it() {
    let _turn = turn().await;
    let Some(mut stage) = Stage::open("a_prometheus_that_restarts_in_mid_streak_holds_it", LONG_STREAK).await else {
        return;
    };
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;

    // In calm running: nothing but words.
    stage.prometheus.kill();
    wait_dark(&mut daemon, &["refused"]).await;
    stage.wait_topic("blind", SOON).await;
    assert!(
        stage.stored().iter().all(|event| event.resource == "events"),
        "{:#?}",
        stage.stored()
    );
    stage.prometheus.restart().await;
    stage.wait_topic("sighted", VERDICT_LIMIT).await;
    let calm = Looks::of(&daemon).await;
    assert_eq!(calm.breach, 0, "{calm:?}");

    stage.shop.set_errors("green", BAD);
    wait_streak(&mut daemon, RULE, 2).await;
    stage.prometheus.kill();
    let held = wait_dark(&mut daemon, &["refused"]).await;
    let before = Looks::of(&daemon).await;
    looks(&daemon, 5).await;
    assert!((2..6).contains(&held), "met at {held}");
    assert_held(&stage, &mut daemon, before, held, "Prometheus gone").await;
    let back = now();
    stage.prometheus.restart().await;
    goes_on_and_flips(&stage, &mut daemon, held, back).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_without_a_stale_marker_is_no_verdict() {
    let name = "a_target_that_dies_without_a_stale_marker_is_no_verdict";
    let _turn = turn().await;
    let Some(stage) = Stage::open(name, LONG_STREAK).await else {
        return;
    };
    stage.shop.green.iter().for_each(App::stamp_samples);
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", BAD);
    wait_streak(&mut daemon, RULE, 2).await;
    stage.shop.green.iter().for_each(App::take_down);
    // What was under way when they died is still counted.
    looks(&daemon, 3).await;
    let held = streak_of(&daemon.guard().await.expect("the daemon answers"), RULE);
    let before = Looks::of(&daemon).await;
    assert!((2..6).contains(&held), "met at {held}");

    // Prometheus knows that they are down, and answers with what they last said.
    let pods = "pod=~\"shop-green-.+\"";
    let up = stage.prometheus.query(&format!("up{{{pods}}}")).await;
    assert!(up.len() == 2 && up.iter().all(|(_, value)| *value == 0.0), "{up:?}");
    let total = format!("sum(http_requests_total{{{pods}}})");
    let last = stage.prometheus.query(&total).await;
    let told = stage.wait_topic("blind", SOON).await;
    assert!(
        told["why"].as_str().is_some_and(|why| why.contains("no newer sample since")),
        "{told}"
    );
    // The message may have come within the looks that were waited for: there shall be one since, and it has no newer sample.
    looks(&daemon, 1).await;
    let early = Looks::of(&daemon).await - before;
    assert!(early.nothing >= 1 && early.inconclusive == 0, "{early:?}");
    // 30 s after the last sample it is not even an answer any more.
    let still = wait_dark(&mut daemon, &["too old"]).await;
    assert_eq!(still, held);
    looks(&daemon, 2).await;
    assert_eq!(stage.prometheus.query(&total).await, last, "there was a marker after all");
    assert_held(&stage, &mut daemon, before, held, "the targets dead").await;

    let back = now();
    for app in &stage.shop.green {
        app.bring_up().await;
    }
    goes_on_and_flips(&stage, &mut daemon, held, back).await;
    stage.wait_topic("sighted", SOON).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_answers_hold_the_streak() {
    let _turn = turn().await;
    let Some(stage) = Stage::open("answers_that_are_no_answers_hold_the_streak", LONG_STREAK).await else {
        return;
    };
    let proxy = Proxy::start(&stage.prometheus.url()).await;
    stage.edit(&stage.prometheus.url(), &proxy.url());
    let mut daemon = stage.start(&[]).await;
    stage.release_green(&mut daemon).await;
    stage.shop.set_errors("green", BAD);
    wait_streak(&mut daemon, RULE, 2).await;
    proxy.set(Manner::Warns);
    let held = wait_dark(&mut daemon, &["incomplete", WARNING]).await;
    let before = Looks::of(&daemon).await;
    assert!((2..6).contains(&held), "met at {held}");
    for (manner, words) in [
        (Manner::Warns, "incomplete"),
        (Manner::Truncates, "was cut off"),
        (Manner::BreaksOff, "broke off"),
        (Manner::ShowsPage, "text/html"),
        (Manner::Hangs, "no answer in time"),
        (Manner::Confuses, "is not understood"),
        (Manner::Fails, "out of order"),
        // Last, since a server in trouble is then left alone for a while: 5 to 10 s after the second refusal.
        (Manner::Refuses, "429"),
        (Manner::Refuses, "503"),
    ] {
        proxy.set(manner);
        let streak = wait_dark(&mut daemon, &[words]).await;
        if words != "429" {
            looks(&daemon, 1).await;
        }
        assert_eq!(streak, held, "{manner:?}");
        assert_held(&stage, &mut daemon, before, held, &format!("{manner:?}")).await;
    }
    let back = now();
    proxy.set(Manner::Honest);
    goes_on_and_flips(&stage, &mut daemon, held, back).await;
    stage.wait_topic("sighted", SOON).await;
    daemon.terminate().await;
}
