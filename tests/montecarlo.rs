//! P14, the seeded Monte Carlo gate: no false rollback in clean running, nor from one 5 s blip of 20 % or 100 % errors,
//! at 1 to 1000 requests/s; a bad release found within 10 s of the figures of the rules. `docs/proof.md` says how to
//! read the tables it prints.
//!
//! A target of its own, without the usual harness: `make test` runs it whole, with the judgement optimized. A plain
//! `cargo test` plays a small part of it, in a second or so, and says that it is a part.
//!
//! | environment | |
//! | --- | --- |
//! | `FLIPBACK_MONTECARLO=full` | the whole gate, whatever it was built with; `small` likewise |
//! | `FLIPBACK_MONTECARLO_SEEDS=5` | five times as many seeds |
//! | `FLIPBACK_MONTECARLO_FROM=1000000` | other seeds: counted from there |

#[path = "montecarlo/chance.rs"]
mod chance;
#[path = "montecarlo/classic.rs"]
mod classic;
#[path = "montecarlo/detection.rs"]
mod detection;
#[path = "montecarlo/guard.rs"]
mod guard;
#[path = "montecarlo/quiet.rs"]
mod quiet;
#[path = "montecarlo/report.rs"]
#[expect(dead_code, reason = "the benchmark asks for the whole")]
mod report;
#[path = "montecarlo/scenario.rs"]
mod scenario;
#[path = "montecarlo/service.rs"]
mod service;

use report::{Effort, Report};

fn main() {
    // `cargo test some_name` and `cargo test -- --list` reach every target.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let listed = words.iter().any(|word| word == "--list");
    let wanted = words
        .iter()
        .filter(|word| !word.starts_with('-'))
        .all(|word| "p14_montecarlo".contains(word.as_str()));
    if listed || !wanted {
        return;
    }
    let effort = Effort::from_environment();
    let mut report = Report::new(&effort);
    quiet::stories(&mut report);
    quiet::clean(&effort, &mut report);
    quiet::near_threshold(&effort, &mut report);
    quiet::blips(&effort, &mut report);
    quiet::not_to_blame(&effort, &mut report);
    detection::steps(&effort, &mut report);
    detection::beside_the_law(&effort, &mut report);
    detection::others(&effort, &mut report);
    detection::script(&effort, &mut report);
    std::process::exit(report.finish());
}
