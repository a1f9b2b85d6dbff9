//! Two windows: the short one says that it is bad now, the long one that it matters. A streak is believed only when both
//! are over the threshold too.

use super::world::{World, critical, error_rate, max, probe, scalar, windows};
use crate::model::ScalarRule;

#[test]
fn a_streak_that_the_long_window_does_not_bear_out_waits() {
    let mut world = World::with(vec![windows(error_rate(0.05), 1, 60)]);
    // An hour of good traffic outweighs the first minutes of a fault of 10 %.
    world.switched_at = Some(-1);
    world.policy.watch = std::time::Duration::from_secs(24 * 3600);
    world.play(
        "t=0
         t=5..1800    500/0  -> pass
         t=1805..1810 500/50 -> breach
         t=1815       500/50 -> breach 3/3, hold, why: 99 % sure above 5 %, why: but 2.5 % over the last 60 s
         t=1820..1895 500/50 -> breach, hold
         t=1900       500/50 -> breach, hold, why: over the last 1 h
         t=1905..3600 500/50 -> breach, hold",
    );
    // After half an hour of it the hour is at 5 % and more.
    world.play("t=3605..3610 500/50 -> breach, rollback, path fast, why: and so over the last 60 s and the last 1 h");
}

#[test]
fn right_after_a_switch_both_windows_begin_there() {
    World::with(vec![windows(error_rate(0.05), 5, 60)]).play(
        "t=0
         t=5..10 500/62 -> breach
         t=15    500/62 -> rollback, path fast, why: and so over the last 5 min and the last 1 h",
    );
}

#[test]
fn what_was_before_the_switch_is_in_neither_window() {
    World::with(vec![windows(error_rate(0.05), 5, 60)]).play(
        "t=0
         t=5..600   500/0              -> pass
         t=605      500/0 release=v3   -> note switched
         t=610..615 500/62             -> breach
         t=620      500/62             -> rollback, path fast",
    );
}

#[test]
fn a_severe_fault_waits_for_no_window() {
    World::with(vec![windows(error_rate(0.05), 5, 60)]).play(
        "t=0
         t=5..600 500/0   -> pass
         t=605    100/80  -> breach 1/3
         t=610    100/80  -> breach 2/3, rollback, path severe",
    );
}

#[test]
fn a_critical_rule_waits_for_no_window() {
    World::with(vec![critical(windows(error_rate(0.000_1), 5, 60))]).play(
        "t=0
         t=5..600 50000/0 -> pass
         t=605    500/1   -> rollback, path critical",
    );
    // Not even for one that nobody can tell.
    World::with(vec![critical(windows(max("violations", "", 0.0), 5, 60))]).play("t=0 violations=1 -> breach 1/1, rollback, path critical");
}

#[test]
fn probes_wait_for_the_windows_too() {
    World::with(vec![windows(probe(0.5), 5, 60)]).play(
        "t=0..600  probe=0/3 -> pass
         t=605..610 probe=3/3 -> breach
         t=615     probe=3/3 -> breach 3/3, hold, why: over the last 5 min",
    );
    World::with(vec![windows(probe(0.5), 5, 60)]).play(
        "t=0..5 probe=3/3 -> breach
         t=10   probe=3/3 -> rollback, path probe, why: and so over the last 5 min and the last 1 h",
    );
}

#[test]
fn the_slow_path_waits_for_the_windows_too() {
    // The slow path's five minutes are over 5 % from the second minute on; an hour that began well is not.
    let mut world = World::with(vec![windows(error_rate(0.05), 1, 60)]);
    world.switched_at = Some(-7200);
    world.play("t=0\nt=5..1500 500/0 -> pass\nt=1505..2500 500/50 -> breach, hold");
    let mut world = World::with(vec![error_rate(0.05)]);
    world.switched_at = Some(-7200);
    world.play("t=0\nt=5..1500 500/0 -> pass\nt=1505..1775 500/50 -> breach");
    world.play("t=1780..1800 500/50 -> breach, rollback, path slow");
}

#[test]
fn a_number_must_be_over_its_limit_in_both_windows() {
    World::with(vec![windows(max("p95", "ms", 300.0), 5, 60)]).play(
        "t=0     p95=420 p95.long=290 -> pass 0/3, why: p95 420 ms over 300 ms in the last 5 min and 290 ms in the last 1 h
         t=5..10 p95=420 p95.long=310 -> breach
         t=15    p95=290 p95.long=310 -> pass 0/3
         t=20..25 p95=420 p95.long=310 -> breach
         t=30    p95=420 p95.long=310 -> breach 3/3, rollback, path fast, why: p95 420 ms over 300 ms in the last 5 min and 310 ms in the last 1 h",
    );
}

#[test]
fn without_the_long_window_there_is_no_verdict_on_a_number() {
    World::with(vec![windows(max("p95", "ms", 300.0), 5, 60)]).play(
        "t=0..5  p95=420 p95.long=310 -> breach
         t=10    p95=420              -> inconclusive 2/3, hold
         t=15    p95=420 p95.long=nan -> inconclusive 2/3, hold
         t=20    p95=420 p95.long=310 -> breach 3/3, rollback",
    );
}

#[test]
fn a_ratio_compares_window_with_window() {
    let ratio = ScalarRule {
        max_ratio_to_standby: Some(1.2),
        ..ScalarRule::default()
    };
    World::with(vec![windows(scalar("p95", "ms", ratio), 5, 60)]).play(
        "t=0     p95=420/300 p95.long=300/300 -> pass 0/3
         t=5     p95=420/300 p95.long=420     -> inconclusive 0/3
         t=10..15 p95=420/300 p95.long=420/300 -> breach
         t=20    p95=420/300 p95.long=420/300 -> breach 3/3, rollback",
    );
}

#[test]
fn a_rate_of_classic_mode_has_one_window_already() {
    World::classic(vec![windows(error_rate(0.05), 5, 60)]).play(
        "t=0..5 error_rate=0.07 -> breach
         t=10   error_rate=0.07 -> breach 3/3, rollback, path classic",
    );
}
