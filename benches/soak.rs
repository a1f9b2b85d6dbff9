//! The soak: the daemon as one process over 500 guards, with everything going wrong around it, for as many looks as an hour has, and more.
//! `make soak` runs it; `docs/soak.md` says what is faulty, what is judged, and why it may be believed.
//!
//! `FLIPBACK_SOAK_MINUTES` says how long the faults last (12), `FLIPBACK_SOAK_GUARDS` how many guards there are (500). Unlike the other
//! benches it judges: it ends with 1 where a bound that was chosen beforehand is missed, or the daemon was wrong once. It leaves
//! `target/soak.csv` with a line for every two seconds, `target/soak.html`, `target/soak.md` and the daemon's log.

#[path = "figures/daemon.rs"]
pub mod daemon;
#[path = "soak/fit.rs"]
pub mod fit;
#[path = "soak/gauge.rs"]
pub mod gauge;
#[path = "soak/house.rs"]
pub mod house;
#[path = "soak/link.rs"]
pub mod link;
#[path = "soak/model.rs"]
pub mod model;
#[path = "soak/picture.rs"]
pub mod picture;
#[path = "soak/prometheus.rs"]
pub mod prometheus;
#[path = "soak/script.rs"]
pub mod script;
#[path = "soak/story.rs"]
pub mod story;
#[path = "../tests/support/mod.rs"]
pub mod support;
#[path = "figures/town.rs"]
pub mod town;
#[path = "soak/verdict.rs"]
pub mod verdict;

use std::{fmt::Write as _, io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use daemon::Account;
use house::{CHATS, Entry, House, Plan};
use link::Link;
use prometheus::Prometheus;
use script::Script;
use story::Story;
use support::{Chat, Cluster, real_parts};
use tokio::time::Instant;
use verdict::{Line, Parts};

/// Guards of a large installation, and how long the faults last.
const GUARDS: usize = 500;
const MINUTES: u64 = 12;
/// Calm before: the first looks, the first lists, and what the allocator takes for them, are over.
const BEFORE: Duration = Duration::from_secs(75);
/// Calm afterwards: connections that are kept for the next request are let go after a minute and a half.
const AFTER: Duration = Duration::from_secs(150);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads start");
    runtime.block_on(soak())
}

async fn soak() -> ExitCode {
    let Some(assets) = real_parts("soak", &["etcd"]) else {
        return ExitCode::SUCCESS;
    };
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let guards = usize::try_from(number("FLIPBACK_SOAK_GUARDS", GUARDS as u64)).unwrap_or(GUARDS);
    let faults = Duration::from_secs(60 * number("FLIPBACK_SOAK_MINUTES", MINUTES));
    assert!(
        guards == GUARDS || guards > story::BY_HAND + 100,
        "at least {} guards",
        story::BY_HAND + 101
    );
    let mut story = build(&assets, guards).await;
    say("calm before");
    story.rest(BEFORE).await;
    let begins = story.gauge.elapsed().as_secs_f64();
    say(&format!("faults for {} min", faults.as_secs() / 60));
    story.happen(faults, Duration::from_secs(30)).await;
    let ends = story.gauge.elapsed().as_secs_f64();
    say("calm afterwards");
    story.calm_down().await;
    story.rest(AFTER).await;
    story.read_ledgers().await;
    let flips = verdict::flips(story.cluster.folder());
    let ended_well = story.house.end().await;
    let lines = verdict::judge(&story, Parts { begins, ends }, &flips, ended_well);
    leave(&story, &lines, Parts { begins, ends });
    let missed = lines.iter().any(|line| line.met == Some(false));
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The town, its Prometheus, its chats and the daemon.
async fn build(assets: &support::Assets, guards: usize) -> Story {
    say("starting a control plane");
    let cluster = Cluster::start(assets).await;
    // Made beforehand: it is where the daemon's account lives.
    Account::make(&cluster).await;
    let begun = Instant::now();
    say(&format!("building a town of {guards} shops"));
    let mut shops = town::open(&cluster, guards).await;
    // The script knows them by the numbers in their names.
    shops.sort_by(|one, other| one.name.cmp(&other.name));
    town::settled(&cluster.admin().await, &shops).await;
    say(&format!("built in {:.0} s", begun.elapsed().as_secs_f64()));
    let script = Arc::new(Script::new(guards, u64::try_from(support::now().as_second()).unwrap_or_default()));
    let prometheus = Prometheus::start(Arc::clone(&script)).await;
    let chat = Chat::start().await;
    let upstream = cluster.url().trim_start_matches("https://").to_owned();
    let link = Link::open(upstream).await;
    let plan = Plan {
        guards: shops
            .iter()
            .enumerate()
            .map(|(shop, guard)| Entry {
                shop,
                name: guard.name.clone(),
                thousandths: 0,
            })
            .collect(),
        chats: CHATS[..4].iter().map(|&name| name.to_owned()).collect(),
        quiet: 300,
        bundles: 40,
        read_timeout: 5000,
        query_timeout: 4000,
    };
    let kubeconfig = story::kubeconfig(&cluster, &link).await;
    say("starting the daemon");
    let house = House::open(&shops, &plan, prometheus.url(), &kubeconfig, |name| chat.url(&format!("/{name}"))).await;
    Story::new(shops, script, prometheus, chat, link, cluster, house, plan).await
}

/// Prints the result and leaves the files.
fn leave(story: &Story, lines: &[Line], parts: Parts) {
    let head = ["", "measured", "bound", ""].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(lines.iter().map(row)).collect();
    let widths: [usize; 4] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let mut table = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} |")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(table, "|{cells}");
        if n == 0 {
            let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
            let _ = writeln!(table, "|{rule}");
        }
    }
    for wrong in &story.wrong {
        let _ = writeln!(table, "\nWRONG: {wrong}");
    }
    anstream::println!("{table}");
    let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut csv = gauge::COLUMNS.map(|(name, _)| name).join(",") + "\n";
    for reading in &story.readings {
        csv += &(gauge::COLUMNS.map(|(_, pick)| format!("{:.2}", pick(reading))).join(",") + "\n");
    }
    let files = [
        ("soak.md", table),
        ("soak.csv", csv),
        ("soak.html", picture::draw(&story.readings, parts)),
        ("soak.log", story.house.process.output()),
    ];
    for (name, text) in files {
        std::fs::write(target.join(name), text).expect("the target folder is writable");
    }
}

fn row(line: &Line) -> [String; 4] {
    let met = match line.met {
        None => "",
        Some(true) => "met",
        Some(false) => "MISSED",
    };
    [line.name.clone(), line.value.clone(), line.bound.clone(), met.to_owned()]
}

/// What is measured: the binary that `FLIPBACK_BINARY` names, as `make soak` does, else the one that cargo built along.
#[must_use]
pub fn binary() -> PathBuf {
    std::env::var_os("FLIPBACK_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_flipback").into(), PathBuf::from)
}

/// Progress, for who waits; the table goes to standard output.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "soak: {what}");
}
