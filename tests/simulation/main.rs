//! The whole daemon in a simulated world, by seed: the real conductor, engine, router, watch caches, ledger, evidence and
//! outbox, under a seeded scheduler and simulated time, while anything goes wrong.
//!
//! **What is real**: everything from `monitor::assemble` inwards. **What is simulated** (this folder): time, the network,
//! the API server (the sandbox's, which the contract suite holds to a real one, behind a road with faults), Prometheus,
//! the chats, the pods and their users, people, a pipeline, a GitOps controller, kills, and the clock on the wall.
//!
//! **What is asked of it.** The witness is the API server's own before and after of each write ([`invariants`]); what is
//! true of the colors is known here and nowhere else ([`truth`]).
//!
//! | never | judged when |
//! | --- | --- |
//! | to an unready color: fewer Ready pods than half of the active's, or none | the patch set out; what the caches may not know yet (5 s, 75 s while watches may be silent) is no breach |
//! | to a known-bad color: its release was rolled back from | as above |
//! | on missing data: without two looks that showed this life of the daemon new errors of the color it left, or away from a color that served well for 6 min | the patch was carried out |
//! | a second automatic flip of the same release; a second within the cooldown, whoever makes it; a fourth in a day | |
//! | while a person has paused the guard | |
//! | more changed than the color and our own notes; a flip without its line in the ledger, or a line without its flip | |
//! | a message of a rollback that never was | it arrives |
//! | an incident without its bundle, or without a message of its outcome in every chat; two bundles, two threads | 6 min after everything has calmed down, or 200 s where nothing is owed by then |
//!
//! | in time ([`liveness`]) | premises, holding without a break | bound |
//! | --- | --- | --- |
//! | flipped | the active color answers 10 % errors or more, or has no Ready pod; the other is able and its release not known as bad; the release was not left before; no cooldown, no pause, fewer than 3 flips, the color before was well; one daemon has been up all the while, reaches the API server and Prometheus, and its clock was not stepped; so is each of the others, or it is dead, cut off from the API server, or sees nothing of Prometheus | first scrape + (N + 1) × max(scrape, poll) + 2 polls + 22 s to recover from what was before: 57 s with a scrape and a poll of 5 s. With replicas 20 s more for a Lease to run out, and 20 s for each that is lost meanwhile, 90 s for each that sees nothing |
//! | refused, and told so | the same, but something stands against a flip, and the chats work | the same + 50 s for the chats |
//! | blind, told | no look of any daemon gives anything usable | 60 s + 3 polls + 22 s + 50 s |
//! | unreadable, told | no daemon reaches the API server | 70 s (35 s until a silent watch is noticed, 30 s of trust) + poll + 22 s + 50 s |
//! | an unknown color, told | the Service selects none of the colors | 2 polls + 22 s + 50 s |
//!
//! **The same seed tells the same story.** One thread runs everything; time moves only when nobody has anything to do.
//! Work for the disk goes to one blocking thread, in order, and time stands still meanwhile (tokio inhibits its advance);
//! what comes back from it is taken up only when the runtime has nothing else to do (`global_queue_interval`), so that it
//! does not matter how long the disk took. What is drawn by lot is drawn for each request and look by itself, jitter too:
//! those who wait for the same instant are woken in any order.
//!
//! | environment | |
//! | --- | --- |
//! | `FLIPBACK_SIM_SEED=17` | plays this seed alone and prints its whole story |
//! | `FLIPBACK_SIM_SEEDS=100000` | so many seeds; `make simulation` plays 2500, `make simulated` those of them that fit into 3 minutes, a plain `cargo test` a few |
//! | `FLIPBACK_SIM_FROM=1000000` | counted from there |
//! | `FLIPBACK_SIM_SECONDS=170` | begins no other seed after so long, and says how many it played |
//! | `FLIPBACK_SIM_TWICE=1` | plays each twice, and asks for the same story |
//! | `FLIPBACK_SIM_LOG=debug` | with one seed: the daemons' own log among the story, on standard error |

mod actors;
mod aftermath;
mod api;
mod chance;
mod chats;
mod daemon;
mod faults;
mod invariants;
mod liveness;
mod measure;
mod script;
mod story;
mod tales;
mod truth;
mod world;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flipback::config::{self, Config, Sources};

use chats::Heard;
use invariants::Flip;
use script::{CHATS, Setup};
use world::World;

/// Seeds of a plain `cargo test`, unoptimized.
const SEEDS: u64 = 8;
/// Failing seeds whose story is printed; the others are named.
const STORIES_MAX: usize = 2;

/// So long after the calm everything that is due in time has been judged: a world in which nothing else is owed ends there.
const JUDGED: Duration = Duration::from_secs(200);
/// One world in so many goes on to its end all the same.
const WHOLE: u64 = 8;

/// What came of a seed.
struct Outcome {
    seed: u64,
    setup: Setup,
    story: String,
    broken: Vec<String>,
    kinds: Vec<String>,
    flips: Vec<Flip>,
    messages: Vec<Heard>,
    slowest: Duration,
}

/// The configuration of a seed's daemons, read as theirs is.
fn configuration(setup: &Setup, folder: &Path) -> Config {
    let preview = if setup.preview { "preview = \"web-preview\"" } else { "" };
    let mut text = format!(
        r#"
        [prometheus]
        url = "http://prometheus.invalid:9090"
        [[guards]]
        name = "web"
        namespace = "shop"
        inherit_rules = false
        [guards.route]
        service = "web"
        {preview}
        selector_key = "color"
        [guards.colors]
        blue = {{ deployment = "web-blue" }}
        green = {{ deployment = "web-green" }}
        [guards.rules.error_rate]
        threshold = "5 %"
        [guards.rules.endpoints]
        [guards.policy]
        cooldown = "{}s"
        watch = "{}s"
        [guards.evidence]
        after = "2s"
        follow_up = "0s"
        "#,
        setup.cooldown.as_secs(),
        setup.watch.as_secs()
    );
    if setup.replicas > 1 {
        text.push_str("\n[replicas]\nnamespace = \"flipback\"\n");
    }
    let mut environment = Vec::new();
    for chat in CHATS {
        text.push_str(&format!("\n[chats.{chat}]\nkind = \"webhook\"\nquiet = \"0s\"\n"));
        let url = format!("FLIPBACK_CHATS__{}__URL", chat.to_uppercase());
        environment.push((url, "http://chat.invalid/hook".to_owned()));
    }
    let file = folder.join("flipback.toml");
    fs::write(&file, text).expect("the folder is ours");
    let sources = Sources {
        file: Some(file),
        environment,
        ..Sources::default()
    };
    config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Plays one seed.
fn play(seed: u64) -> Outcome {
    play_out(Setup::draw(seed))
}

/// Plays what a setup lays out.
fn play_out(setup: Setup) -> Outcome {
    let seed = setup.seed;
    let memory = Path::new("/dev/shm");
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("flipback-simulation-");
    let folder = if memory.is_dir() {
        folder.tempdir_in(memory)
    } else {
        folder.tempdir()
    };
    let folder = folder.expect("a temporary folder can be made");
    let config = configuration(&setup, folder.path());
    // Every jitter of the daemons comes from this thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .global_queue_interval(u32::MAX)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async move {
        let world = World::new(setup.clone(), config, folder.path().to_owned());
        let player = world.clone();
        // In a task of its own: what `block_on` polls itself is polled out of turn.
        let played = tokio::spawn(async move {
            tokio::spawn(player.clone().turn());
            tokio::spawn(actors::direct(player.clone()));
            tokio::time::sleep(Duration::from_secs(8)).await;
            for daemon in 0..player.setup.replicas {
                player.start(daemon);
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            let until = |at: Duration| tokio::time::sleep(at.saturating_sub(player.story.age()));
            if !seed.is_multiple_of(WHOLE) {
                until(player.setup.calm + JUDGED).await;
                while player.story.age() < player.setup.end && !player.missing().is_empty() {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            } else {
                until(player.setup.end).await;
            }
            player.at_end();
        });
        let crashed = played.await.err().map(|error| format!("the simulation itself failed: {error}"));
        let mut broken = world.judge(|judge| judge.violations.clone());
        broken.extend(crashed);
        Outcome {
            seed,
            story: world.story.text(),
            broken,
            kinds: world.kinds(),
            flips: world.judge(|judge| judge.flips.clone()),
            messages: world.judge(|judge| judge.messages.clone()),
            slowest: world.judge(|judge| judge.dues.slowest),
            setup,
        }
    })
}

impl Outcome {
    /// A failing seed, told from its first event to what it broke.
    fn told(&self) -> String {
        let Self {
            seed,
            setup,
            story,
            broken,
            ..
        } = self;
        let kinds = self.kinds.join(", ");
        let broken = broken.join("\n  ");
        format!(
            "seed {seed}: {setup}\nfaults that were on: {kinds}\n\n{story}\nseed {seed} broke:\n  {broken}\n\
             again: FLIPBACK_SIM_SEED={seed} cargo test --test simulation -- --nocapture every_seed"
        )
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, and is {text:?}")))
}

/// The first lines in which two stories differ.
fn differs(one: &str, other: &str) -> Option<(String, String)> {
    if one == other {
        return None;
    }
    let longest = one.lines().count().max(other.lines().count());
    let lines = |story: &str| -> Vec<String> {
        story
            .lines()
            .map(str::to_owned)
            .chain(std::iter::repeat(String::new()))
            .take(longest)
            .collect()
    };
    lines(one).into_iter().zip(lines(other)).find(|(one, other)| one != other)
}

/// Plays many seeds on every core, in order; no other one is begun when the time is over.
fn play_all(seeds: std::ops::Range<u64>, limit: Option<Duration>) -> Vec<Outcome> {
    #[expect(clippy::disallowed_methods, reason = "the time that a run takes is nobody's but the run's")]
    let begun = std::time::Instant::now();
    let next = AtomicU64::new(seeds.start);
    let twice = number("FLIPBACK_SIM_TWICE").is_some();
    let outcomes = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || limit.is_some_and(|limit| begun.elapsed() >= limit) {
                        return;
                    }
                    let mut outcome = play(seed);
                    if twice && let Some((one, other)) = differs(&outcome.story, &play(seed).story) {
                        outcome.broken.push(format!("TOLD TWO STORIES: {one:?} and {other:?}"));
                    }
                    match outcome.broken.first() {
                        None => outcome.story = String::new(),
                        // At once: a long run may be stopped before its end.
                        Some(broken) => eprintln!("seed {seed} broke: {broken}"),
                    }
                    outcomes.lock().expect("no panic while held").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panic while held");
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

#[test]
fn every_seed_keeps_the_promises() {
    if let Some(seed) = number("FLIPBACK_SIM_SEED") {
        if let Ok(filter) = std::env::var("FLIPBACK_SIM_LOG") {
            let _ = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .without_time()
                .try_init();
        }
        let outcome = play(seed);
        println!("{}", outcome.told());
        assert!(outcome.broken.is_empty(), "seed {seed} broke a promise");
        return;
    }
    let from = number("FLIPBACK_SIM_FROM").unwrap_or_default();
    let wanted = number("FLIPBACK_SIM_SEEDS").unwrap_or(SEEDS);
    let outcomes = play_all(from..from + wanted, number("FLIPBACK_SIM_SECONDS").map(Duration::from_secs));
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let slowest = outcomes.iter().max_by_key(|outcome| outcome.slowest);
    println!(
        "{} of {wanted} seeds, {} flips, {} messages; slowest flip that was due: {:.1} s (seed {})",
        outcomes.len(),
        sum(|outcome| outcome.flips.len()),
        sum(|outcome| outcome.messages.len()),
        slowest.map_or(0.0, |outcome| outcome.slowest.as_secs_f64()),
        slowest.map_or(0, |outcome| outcome.seed)
    );
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.broken.is_empty()).collect();
    if failed.is_empty() {
        return;
    }
    for outcome in failed.iter().take(STORIES_MAX) {
        println!("{}\n", outcome.told());
    }
    let mut promises: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for outcome in &failed {
        for line in &outcome.broken {
            let what = line.split_once(": ").map_or(line.as_str(), |(_, what)| what);
            let what = what.split(':').next().unwrap_or(what).to_owned();
            promises.entry(what).or_default().push(outcome.seed);
        }
    }
    for (what, seeds) in &promises {
        println!("{what}: seeds {:?}", seeds.iter().take(12).collect::<Vec<_>>());
    }
    panic!("{} of {} seeds broke a promise", failed.len(), outcomes.len());
}

#[test]
fn the_same_seed_tells_the_same_story() {
    // The second one with replicas and with watches that go silent at the same instant.
    for seed in [4, 9] {
        let differs = differs(&play(seed).story, &play(seed).story);
        assert_eq!(differs, None, "seed {seed} told two stories");
    }
}
