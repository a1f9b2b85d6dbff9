//! What must not roll back: clean running, one short blip, and what the release is not to blame for.

use flipback::{decide::trace, model::Verdict};

use super::{
    classic::BLIP,
    report::{Effort, RATES, Report, SCRAPES},
    scenario::{Begin, Scenario, Standby},
    service::{Weather, When},
};

const HOUR: i64 = 3_600_000;

/// Hours of clean running: pods restart, are replaced, scrapes are missed, every seventh answer is no good.
pub fn clean(effort: &Effort, report: &mut Report) {
    println!("\nclean running, up to 1 % errors and 2 % slow requests (both thresholds 5 %), all paths armed at all times");
    let mut scenarios = Vec::new();
    for scrape in SCRAPES {
        for rate in RATES {
            for background in [0.001, 0.005, 0.01] {
                scenarios.push(Scenario {
                    errors: Weather::calm(background),
                    slow: Weather::calm(background * 2.0),
                    churn: true,
                    lasts: HOUR,
                    ..Scenario::calm("clean running", rate, scrape)
                });
            }
        }
    }
    let runs = report.play(&scenarios, effort.runs(28));
    let mut rolled_back = 0;
    for (index, (scenario, runs)) in scenarios.iter().zip(&runs).enumerate() {
        rolled_back += report.claim_no_rollback(index, scenario, runs);
    }
    let looks: u64 = runs.iter().flatten().map(|run| run.looks).sum();
    let years = looks as f64 * 5.0 / (365.25 * 86_400.0);
    println!(
        "  {rolled_back} false rollbacks in {:.2} guard-years ({:.0} guard-hours)",
        years,
        years * 8766.0
    );
    if rolled_back == 0 {
        println!(
            "  so at most {:.1} per guard and year with 95 % confidence (rule of three), were it watched at full alert all year",
            3.0 / years
        );
        println!(
            "  and at most one in {:.0} releases of 30 minutes' watch",
            years * 8766.0 * 2.0 / 3.0
        );
    }
}

/// How near to its threshold a service may live. Reported, not gated: `check` warns from 2 % on.
pub fn near_threshold(effort: &Effort, report: &mut Report) {
    println!("\nnear the threshold of 5 %: false rollbacks per guard and day (reported, not gated; above 2 % `check` warns)");
    println!("  {:>8} {:>12} {:>12} {:>12}", "errors", "1/s", "30/s", "1000/s");
    for background in [0.02, 0.03, 0.04, 0.045, 0.05] {
        let rates = [1.0, 30.0, 1000.0];
        let scenario = |rate: &f64| Scenario {
            errors: Weather::calm(background),
            lasts: HOUR,
            ..Scenario::calm("near the threshold", *rate, 5)
        };
        let scenarios: Vec<Scenario> = rates.iter().map(scenario).collect();
        let cells: Vec<String> = report
            .play(&scenarios, effort.runs(60))
            .iter()
            .map(|runs| {
                let count = runs.iter().filter(|run| run.rollback.is_some()).count();
                let days = runs.iter().map(|run| run.looks).sum::<u64>() as f64 * 5.0 / 86_400.0;
                if count == 0 {
                    format!("0 (<{:.1})", 3.0 / days)
                } else {
                    format!("{:.1}", count as f64 / days)
                }
            })
            .collect();
        println!("  {:>6.1} % {:>12} {:>12} {:>12}", background * 100.0, cells[0], cells[1], cells[2]);
    }
}

/// The share of errors that a healthy service always has.
const HEALTHY: f64 = 0.001;
/// A tenth of the threshold: at few requests an interval is now and then over it by chance, and beside a blip that is three in a row.
const UNLUCKY: f64 = 0.005;

/// One blip of 5 s in a healthy service, in the middle of running and right after a switch.
pub fn blips(effort: &Effort, report: &mut Report) {
    println!("\none blip of 5 s in 0.1 % errors: runs that rolled back, by requests/s (in 0.5 %: reported, not gated)");
    let head: String = RATES.iter().map(|rate| format!("{rate:>9}")).collect();
    println!("  {:<34}{head}", "");
    for (begin, words, background) in [
        (Begin::Running, "running", HEALTHY),
        (Begin::Switch, "at the switch", HEALTHY),
        (Begin::Running, "running, 0.5 % always", UNLUCKY),
    ] {
        for share in [0.2, 1.0] {
            for scrape in SCRAPES {
                let scenario = |rate: &f64| Scenario {
                    errors: Weather {
                        background,
                        fault: share,
                        when: BLIP,
                    },
                    begin,
                    lasts: 420_000,
                    ..Scenario::calm(
                        if begin == Begin::Running {
                            "a 5 s blip"
                        } else {
                            "a 5 s blip at the switch"
                        },
                        *rate,
                        scrape,
                    )
                };
                let scenarios: Vec<Scenario> = RATES.iter().map(scenario).collect();
                let all = report.play(&scenarios, effort.runs(if background > HEALTHY { 100 } else { 300 }));
                let mut cells = String::new();
                for (index, (scenario, runs)) in scenarios.iter().zip(&all).enumerate() {
                    let count = if background > HEALTHY {
                        runs.iter().filter(|run| run.rollback.is_some()).count()
                    } else {
                        report.claim_no_rollback(index, scenario, runs)
                    };
                    cells += &format!("{:>9}", format!("{count}/{}", runs.len()));
                }
                println!("  {:<34}{cells}", format!("{:.0} %, {words}, scrape {scrape} s", share * 100.0));
            }
        }
    }
}

/// A fault that was there before, or that the standby shows as well.
pub fn not_to_blame(effort: &Effort, report: &mut Report) {
    println!("\nnot the release's fault: runs that rolled back / that said so");
    let fault = |share| Weather {
        background: 0.005,
        fault: share,
        when: When::From(0),
    };
    for share in [0.25, 1.0] {
        for scrape in SCRAPES {
            let before = Scenario {
                errors: fault(share),
                begin: Begin::SwitchFromBad,
                lasts: 300_000,
                ..Scenario::calm("bad before the switch", 30.0, scrape)
            };
            // A standby of one pod whose scrape failed tells nothing of itself, which no excuse can be made of.
            let both = Scenario {
                missed: 0.0,
                errors: fault(share),
                standby: Standby::AsBad,
                lasts: 300_000,
                ..Scenario::calm("both colors bad", 30.0, scrape)
            };
            let scenarios = [before, both];
            let all = report.play(&scenarios, effort.runs(200));
            for (index, (scenario, runs)) in scenarios.iter().zip(&all).enumerate() {
                let flips = report.claim_no_rollback(index, scenario, runs);
                let said = runs.iter().filter(|run| run.suppressed).count();
                let story = runs.iter().position(|run| !run.suppressed);
                report.claim(index, scenario, said == runs.len(), story, "was never called not to blame".into());
                println!(
                    "  {:<24} {:>3.0} %, scrape {scrape:>2} s: {flips} / {said} of {}",
                    scenario.name,
                    share * 100.0,
                    runs.len()
                );
            }
        }
    }
}

/// What is written of a run that must be looked at can be judged again, and ends the same.
pub fn stories(report: &mut Report) {
    let scenario = super::detection::step(0.5, 30.0, 15);
    for seed in 0..8 {
        let mut trace = Vec::new();
        let run = scenario.play(seed, Some(&mut trace));
        let ended = match trace::read(trace.join("\n").as_bytes()) {
            Err(error) => format!("is refused: {error}"),
            Ok((header, looks)) => {
                let mut judge = header.engine();
                let at = looks
                    .iter()
                    .position(|look| matches!(judge.step(look).verdict, Verdict::Rollback(_)));
                at.map_or_else(|| "holds".to_owned(), |at| format!("rolls back at look {}", at + 1))
            }
        };
        let expected = format!("rolls back at look {}", run.looks);
        report.claim_plainly(ended == expected, format!("the story of seed {seed} {ended}; the run {expected}"));
    }
}
