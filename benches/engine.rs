//! What a look costs the engine, and how soon it finds a fault: nanoseconds per guard and look, and the medians of the
//! Monte Carlo scenarios beside the table of the rules. `make bench` runs it, in the profile that is released.
//!
//! Nothing is asserted on: P14 gates the medians, and nanoseconds are another machine's another day.

#[path = "../tests/montecarlo/chance.rs"]
mod chance;
#[path = "../tests/montecarlo/classic.rs"]
mod classic;
#[path = "../tests/montecarlo/detection.rs"]
#[expect(dead_code, reason = "the gate plays the other scenarios")]
mod detection;
#[path = "../tests/montecarlo/guard.rs"]
mod guard;
#[path = "../tests/montecarlo/report.rs"]
#[expect(dead_code, reason = "the gate makes claims")]
mod report;
#[path = "../tests/montecarlo/scenario.rs"]
#[expect(dead_code, reason = "the gate plays the other scenarios")]
mod scenario;
#[path = "../tests/montecarlo/service.rs"]
mod service;

use std::{collections::BTreeMap, hint::black_box};

use flipback::model::{Absence, Counter, Observation, Policy, Reading, Traffic, View};
use guard::{at, color, engine, error_rate, latency, name, traffic};
use report::{Effort, Report};
use tokio::time::Instant;

/// Looks of one round.
const LOOKS: i64 = 2000;
/// Rounds; the median is told.
const ROUNDS: usize = 15;
const PODS: usize = 3;
const RULES: [&str; 3] = ["error_rate", "p95", "p99"];

fn main() {
    println!("the engine, per guard and look (3 rules, 2 colors, 3 pods each):");
    println!(
        "  {:<52}{:>8.0} ns",
        "calm: 100 requests/s, 0.5 % bad",
        measure(|n| bad(n, 0.005), true)
    );
    println!(
        "  {:<52}{:>8.0} ns",
        "breaching: 30 % bad, a flip refused at every look",
        measure(|n| bad(n, 0.3), false)
    );
    println!(
        "  {:<52}{:>8.0} ns",
        "the same sample again (scrape slower than poll)",
        measure(|_| Sample::Same, true)
    );
    println!("  {:<52}{:>8.0} ns", "no answer", measure(|_| Sample::None, true));
    let effort = Effort::whole();
    let mut report = Report::new(&effort);
    detection::beside_the_law(&effort, &mut report);
}

/// What a look finds.
#[derive(Clone, Copy)]
enum Sample {
    Bad(f64, f64),
    Same,
    None,
}

fn bad(look: i64, share: f64) -> Sample {
    let total = look as f64 * 500.0 / PODS as f64;
    Sample::Bad(total, total * share)
}

/// Nanoseconds per look.
fn measure(sample: impl Fn(i64) -> Sample, standby_ready: bool) -> f64 {
    let looks: Vec<Observation> = (0..LOOKS).map(|n| look(n, sample(n), standby_ready)).collect();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let rules = vec![error_rate(), latency("p95", 0.95), latency("p99", 0.99)];
            let mut judge = engine(rules, Policy::default());
            let began = Instant::now();
            for look in &looks {
                black_box(judge.step(black_box(look)));
            }
            began.elapsed().as_secs_f64() * 1e9 / LOOKS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn look(n: i64, sample: Sample, standby_ready: bool) -> Observation {
    let now = n * 5000;
    let reading = match sample {
        Sample::Bad(total, bad) => counters(now, total, bad),
        Sample::Same => counters(0, 1000.0, 1.0),
        Sample::None => Reading::Absent(Absence::Timeout),
    };
    let rules = || RULES.iter().map(|rule| (name(rule), reading.clone())).collect();
    let mut known: Traffic = traffic("green");
    if let Some(blue) = known.sides.get_mut(&color("blue")).filter(|_| !standby_ready) {
        blue.ready = 0;
    }
    Observation {
        at: at(now),
        view: View::Known(Box::new(known)),
        readings: BTreeMap::from([(color("green"), rules()), (color("blue"), rules())]),
        hold: None,
    }
}

fn counters(now: i64, total: f64, bad: f64) -> Reading {
    let counter = |pod: usize| Counter {
        started: Some(at(-60_000)),
        sample_at: Some(at(now - 700 * pod as i64)),
        total,
        bad: Some(bad),
    };
    Reading::Counters {
        sample_at: at(now),
        targets: (0..PODS)
            .map(|pod| (format!("web/10.0.0.{pod}:8080/web-{pod}"), counter(pod)))
            .collect(),
    }
}
