//! The figures that flipback promises, measured: a real kube-apiserver, a real Prometheus, real applications with users,
//! and the daemon as a process of its own, built as it is released. `make bench` prints them as a table and writes
//! `target/figures.json`.
//!
//! Nothing is asserted on: a busy machine would fail it, an idle one would prove nothing about the next. What is missed
//! says so. `FLIPBACK_FIGURES=black_holes` measures that one alone. Times come from witnesses that are not the daemon (the API server's audit log, the users' records), except
//! the time of a flip, which only the daemon can tell.

#[path = "figures/daemon.rs"]
mod daemon;
#[path = "figures/reaction.rs"]
mod reaction;
#[path = "figures/report.rs"]
mod report;
#[path = "../tests/support/mod.rs"]
pub mod support;
#[path = "figures/town.rs"]
mod town;

use std::{io::Write, path::PathBuf, sync::Arc, time::Duration};

use daemon::{Account, Daemon, Setup};
use futures::future::join_all;
use reaction::{Reaction, SHOPS_PER_POLL};
use report::{Report, Spread};
use support::{Chat, Cluster, Prometheus, Shop, Target, real_parts};
use tokio::time::Instant;
use town::Town;

/// How often the daemon is started to see how long the first verdict takes.
const STARTS: usize = 5;
/// Flips by hand.
const FLIPS: usize = 100;
/// Flips by hand per daemon while chats are black holes, an even number, and how many daemons with and without.
const HOLE_FLIPS: usize = 20;
const HOLE_ROUNDS: usize = 3;
/// Between two of them: about one capture of evidence is always beginning.
const FLIP_SPACING: Duration = Duration::from_millis(150);
/// Guards of a large installation.
const GUARDS: usize = 500;
/// Memory is read after so long at work.
const SETTLE: Duration = Duration::from_secs(35);
/// Processor time is read over so long.
const SPAN: Duration = Duration::from_secs(50);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads start");
    runtime.block_on(measure());
}

async fn measure() {
    let Some(assets) = real_parts("figures", &["etcd", "prometheus"]) else {
        return;
    };
    let mut report = Report::default();
    size(&mut report);
    say("starting a control plane and the shops");
    let cluster = Cluster::start(&assets).await;
    let account = Account::make(&cluster).await;
    let shops = open_shops(&cluster).await;
    let prometheus = Prometheus::start(&targets(&shops).await).await;
    let setup = Setup {
        kubeconfig: account.kubeconfig.clone(),
        prometheus: prometheus.url(),
    };
    let [by_hand, rest @ ..] = shops.as_slice() else { return };
    if std::env::var("FLIPBACK_FIGURES").is_ok_and(|only| only == "black_holes") {
        black_holes(&setup, by_hand, &mut report).await;
        report.finish(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/figures.json"));
        return;
    }

    first_verdict(&setup, by_hand, &mut report).await;
    flips(&setup, by_hand, &mut report).await;
    black_holes(&setup, by_hand, &mut report).await;
    let (quick, usual) = rest.split_at(SHOPS_PER_POLL);
    for (poll, shops) in [(Duration::from_secs(1), quick), (Duration::from_secs(5), usual)] {
        say(&format!("breaking {} releases, poll {poll:?}", shops.len()));
        let reactions = reaction::measure(&cluster, &setup, shops, poll).await;
        report_reactions(&mut report, poll, &reactions);
    }
    let alone = Daemon::start(&setup, &[daemon::guard_of(by_hand)], None).await;
    at_scale(&cluster, &account, alone, &mut report).await;
    report.finish(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/figures.json"));
}

/// One shop for flips by hand, the others for automatic ones: a shop is rolled back only once.
async fn open_shops(cluster: &Arc<Cluster>) -> Vec<Shop> {
    let open = (0..=2 * SHOPS_PER_POLL).map(async |_| {
        let namespace = cluster.namespace("shop").await;
        Shop::open(cluster, &namespace, "shop", 2).await
    });
    join_all(open).await
}

async fn targets(shops: &[Shop]) -> Vec<Target> {
    join_all(shops.iter().map(Shop::targets)).await.concat()
}

fn size(report: &mut Report) {
    let bytes = std::fs::metadata(binary()).expect("the binary is built").len();
    report.add("binary size", bytes as f64 / 1e6, "MB", 15.0, "release profile, stripped");
}

async fn first_verdict(setup: &Setup, shop: &Shop, report: &mut Report) {
    say("starting the daemon a few times");
    let mut seconds = Vec::new();
    for _ in 0..STARTS {
        let daemon = Daemon::start(setup, &[daemon::guard_of(shop)], None).await;
        seconds.push(daemon.ready_after.as_secs_f64());
        daemon.end().await;
    }
    let spread = Spread::of(&seconds);
    let note = format!("{STARTS} starts, {:.2} to {:.2} s", spread.least, spread.most);
    report.add("start to first verdict, 1 guard", spread.median, "s", 1.0, &note);
}

/// Flips by hand, to and fro, while the evidence of those before is captured.
async fn flips(setup: &Setup, shop: &Shop, report: &mut Report) {
    say("flipping by hand");
    let daemon = Daemon::start(setup, &[daemon::guard_of(shop)], None).await;
    let mut took = Vec::new();
    for n in 0..FLIPS {
        let to = if n % 2 == 0 { "green" } else { "blue" };
        took.push(daemon.switch(&format!("{}/shop", shop.namespace), to).await);
        tokio::time::sleep(FLIP_SPACING).await;
    }
    let memory = daemon.memory();
    daemon.end().await;
    let spread = Spread::of(&took);
    let note = format!("{FLIPS} flips by hand, evidence captured meanwhile");
    report.add("decision to accepted patch, p50", spread.median, "ms", 25.0, &note);
    report.add(
        "decision to accepted patch, p99",
        spread.p99,
        "ms",
        25.0,
        &format!("the slowest {:.1} ms", spread.most),
    );
    report.tell("resident memory after these flips", memory.now, "MiB", &memory.parts());
}

/// The same flips while every chat takes each request and answers none, and without any chat, turn by turn in one run: what
/// else the machine does meanwhile falls on both.
async fn black_holes(setup: &Setup, shop: &Shop, report: &mut Report) {
    say("flipping by hand, with every chat a black hole and without chats");
    let hole = Chat::start().await;
    hole.set_silent(true);
    let chats = ["slack", "teams", "discord", "webhook"].map(|name| (name, hole.url(&format!("/{name}"))));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let guard = format!("{}/shop", shop.namespace);
    for _ in 0..HOLE_ROUNDS {
        for (chats, took) in [(&chats[..], &mut with), (&[][..], &mut without)] {
            let daemon = Daemon::telling(setup, &[daemon::guard_of(shop)], None, chats).await;
            for to in ["green", "blue"].into_iter().cycle().take(HOLE_FLIPS) {
                took.push(daemon.switch(&guard, to).await);
                tokio::time::sleep(FLIP_SPACING).await;
            }
            daemon.end().await;
        }
    }
    let waiting = hole.deliveries().len();
    let (with, without) = (Spread::of(&with), Spread::of(&without));
    report.add(
        "flips while every chat is a black hole, p50 to that without chats",
        with.median / without.median,
        "x",
        1.1,
        &format!(
            "p50 {:.1} ms to {:.1} ms, p99 {:.1} ms to {:.1} ms; {} flips each, {waiting} requests swallowed",
            with.median,
            without.median,
            with.p99,
            without.p99,
            HOLE_ROUNDS * HOLE_FLIPS
        ),
    );
}

fn report_reactions(report: &mut Report, poll: Duration, reactions: &[Reaction]) {
    let rule = reaction::rule_median(Duration::from_secs(1), poll);
    let seconds: Vec<f64> = reactions.iter().map(|one| one.seconds).collect();
    let spread = Spread::of(&seconds);
    let runs: Vec<String> = seconds.iter().map(|one| format!("{one:.1}")).collect();
    report.add(
        &format!("first bad request to patched Service, poll {poll:?}"),
        spread.median,
        "s",
        rule + 1.0,
        &format!("the rule's own median is {rule:.1} s; runs: {}", runs.join(" ")),
    );
    let took: Vec<f64> = reactions.iter().map(|one| one.took_ms).collect();
    let spread = Spread::of(&took);
    let runs: Vec<String> = took.iter().map(|one| format!("{one:.1}")).collect();
    report.tell(
        &format!("the same flips, decision to accepted patch, poll {poll:?}"),
        spread.median,
        "ms",
        &format!("on idle connections; runs: {}", runs.join(" ")),
    );
}

/// One guard, `alone` in its namespace since a while, and many.
async fn at_scale(cluster: &Arc<Cluster>, account: &Account, alone: Daemon, report: &mut Report) {
    say(&format!("building a town of {GUARDS} shops"));
    let begun = Instant::now();
    let town = Town::build(cluster, GUARDS).await;
    say(&format!("built in {:.0} s; watching it", begun.elapsed().as_secs_f64()));
    let setup = Setup {
        kubeconfig: account.kubeconfig.clone(),
        prometheus: town.prometheus.url(),
    };
    let many = Daemon::start(&setup, &town.guards, None).await;
    report.tell("start to first verdict, 500 guards", many.ready_after.as_secs_f64(), "s", "");
    tokio::time::sleep(SETTLE).await;
    let (small, large) = (alone.memory(), many.memory());
    let (cpu, looks) = (many.cpu(), many.looks().await);
    tokio::time::sleep(SPAN).await;
    let (cpu, looks) = (many.cpu() - cpu, many.looks().await - looks);
    let unread = many.unread().await;
    let later = many.memory();
    alone.end().await;
    many.end().await;
    report.add("resident memory, 1 guard", small.now, "MiB", 20.0, &small.parts());
    let note = format!("{}; {:.1} MiB {SPAN:?} later", large.parts(), later.now);
    report.add(&format!("resident memory, {GUARDS} guards"), large.now, "MiB", 40.0, &note);
    let each = cpu.as_secs_f64() * 1000.0 / (looks * GUARDS as f64);
    let note = format!(
        "{GUARDS} guards, {looks:.0} looks, {:.1} s of processor time; {unread} guards without readings",
        cpu.as_secs_f64()
    );
    report.add("processor time per guard and look", each, "ms", 0.2, &note);
}

/// What is measured: the binary that `FLIPBACK_BINARY` names, as `make bench` does, else the one that cargo built along.
fn binary() -> PathBuf {
    std::env::var_os("FLIPBACK_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_flipback").into(), PathBuf::from)
}

/// Progress, for who waits; the table goes to standard output.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "figures: {what}");
}
