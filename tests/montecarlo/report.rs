//! How much is played, by how many hands, and what is said of it.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::scenario::{Run, Scenario};

/// Rates the law names, and those between.
pub const RATES: [f64; 7] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];
/// Seconds between two scrapes.
pub const SCRAPES: [i64; 3] = [1, 5, 15];

/// How much is played.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Whether it is the whole gate.
    pub full: bool,
    seeds: u64,
    from: u64,
}

impl Effort {
    /// The whole gate where the judgement is optimized, unless told otherwise.
    pub fn from_environment() -> Self {
        let number = |name: &str| {
            std::env::var(name)
                .ok()
                .map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a whole number")))
        };
        let full = match std::env::var("FLIPBACK_MONTECARLO").as_deref() {
            Ok("full") => true,
            Ok("small") => false,
            _ => !cfg!(debug_assertions),
        };
        Self {
            full,
            seeds: number("FLIPBACK_MONTECARLO_SEEDS").unwrap_or(1).max(1),
            from: number("FLIPBACK_MONTECARLO_FROM").unwrap_or(0),
        }
    }

    /// The whole, with the usual seeds.
    pub fn whole() -> Self {
        Self {
            full: true,
            seeds: 1,
            from: 0,
        }
    }

    /// How many runs of a scenario: `whole` of them for the whole gate.
    pub fn runs(&self, whole: u64) -> u64 {
        if self.full { whole * self.seeds } else { (whole / 300).max(1) }
    }
}

/// A run that should not have ended as it did.
struct Failure {
    scenario: Scenario,
    seed: u64,
    what: String,
}

/// What was found.
pub struct Report {
    effort: Effort,
    started: tokio::time::Instant,
    claims: u64,
    failures: Vec<Failure>,
    missed: Vec<String>,
    looks: u64,
}

impl Report {
    /// Begins.
    pub fn new(effort: &Effort) -> Self {
        if !effort.full {
            println!("P14: a small part only; `make test` runs the whole gate (or FLIPBACK_MONTECARLO=full)");
        }
        Self {
            effort: *effort,
            started: tokio::time::Instant::now(),
            claims: 0,
            failures: Vec::new(),
            missed: Vec::new(),
            looks: 0,
        }
    }

    /// Plays every scenario with so many seeds, on all processors; answers in order.
    pub fn play(&mut self, scenarios: &[Scenario], runs: u64) -> Vec<Vec<Run>> {
        let from = self.effort.from;
        let jobs: Vec<(usize, u64)> = (0..scenarios.len())
            .flat_map(|index| (from..from + runs).map(move |seed| (index, seed)))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done: Vec<(usize, Run)> = Vec::new();
            while let Some(((index, seed), n)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((*jobs.get(n)?, n))) {
                done.push((n, scenarios[index].play(lots(index, seed), None)));
            }
            done
        };
        let hands = std::thread::available_parallelism().map_or(2, usize::from);
        let mut done: Vec<(usize, Run)> = std::thread::scope(|scope| {
            let hands: Vec<_> = (0..hands).map(|_| scope.spawn(work)).collect();
            hands.into_iter().flat_map(|hand| hand.join().expect("no run panics")).collect()
        });
        done.sort_by_key(|(n, _)| *n);
        self.looks += done.iter().map(|(_, run)| run.looks).sum::<u64>();
        let mut done = done.into_iter().map(|(_, run)| run);
        scenarios.iter().map(|_| done.by_ref().take(runs as usize).collect()).collect()
    }

    /// Claims that no run of a scenario rolled back; gives how many did.
    pub fn claim_no_rollback(&mut self, index: usize, scenario: &Scenario, runs: &[Run]) -> usize {
        self.claims += 1;
        let mut found = 0;
        for (n, run) in runs.iter().enumerate() {
            if let Some((after, path, why)) = &run.rollback {
                found += 1;
                self.failures.push(Failure {
                    scenario: scenario.clone(),
                    seed: lots(index, self.effort.from + n as u64),
                    what: format!("rolled back {:.1} s after, {path:?}: {why}", *after as f64 / 1000.0),
                });
            }
        }
        found
    }

    /// Claims something of a whole scenario; `story` is the run that shows it best.
    pub fn claim(&mut self, index: usize, scenario: &Scenario, holds: bool, story: Option<usize>, what: String) {
        self.claims += 1;
        if holds {
            return;
        }
        match story {
            Some(n) => self.failures.push(Failure {
                scenario: scenario.clone(),
                seed: lots(index, self.effort.from + n as u64),
                what,
            }),
            None => self.missed.push(format!("{}: {what}", scenario.title())),
        }
    }

    /// Claims something without a story.
    pub fn claim_plainly(&mut self, holds: bool, what: String) {
        self.claims += 1;
        if !holds {
            self.missed.push(what);
        }
    }

    /// Says how it ended; the process's exit code.
    pub fn finish(self) -> i32 {
        println!(
            "\nP14: {} claims, {} looks at a guard, {:.1} s",
            self.claims,
            self.looks,
            self.started.elapsed().as_secs_f64()
        );
        for what in &self.missed {
            println!("FAILED {what}");
        }
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/montecarlo");
        for (n, failure) in self.failures.iter().enumerate() {
            println!("FAILED {}, seed {}: {}", failure.scenario.title(), failure.seed, failure.what);
            if n < 10 {
                let file = folder.join(format!("{}.jsonl", failure.seed));
                println!("       its story is {}", file.display());
                let mut trace = Vec::new();
                failure.scenario.play(failure.seed, Some(&mut trace));
                std::fs::create_dir_all(&folder).expect("target can be written to");
                std::fs::write(file, trace.join("\n") + "\n").expect("target can be written to");
            }
        }
        let failed = self.failures.len() + self.missed.len();
        println!("P14: {}", if failed == 0 { "ok".to_owned() } else { format!("{failed} FAILED") });
        i32::from(failed > 0)
    }
}

/// The seed of a scenario's run: scenarios share no lots.
fn lots(index: usize, seed: u64) -> u64 {
    // The number of pods goes with the lowest two bits: every four runs have them all.
    (index as u64 + 1) * 1_000_000_000 + seed
}

/// The value below which so many of a hundred lie; runs without one are the longest.
pub fn percentile(sorted: &[Option<f64>], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().flatten()
}

/// Times of rollbacks in seconds, ascending; the runs without one at the end.
pub fn times(runs: &[Run]) -> Vec<Option<f64>> {
    let mut times: Vec<Option<f64>> = runs
        .iter()
        .map(|run| run.rollback.as_ref().map(|(after, ..)| *after as f64 / 1000.0))
        .collect();
    times.sort_by(|a, b| a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY)));
    times
}

/// Seconds, or that there are none.
pub fn shown(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0}"))
}
