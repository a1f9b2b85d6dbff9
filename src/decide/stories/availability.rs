//! Availability: the error rate's complement, for people who think in 99.9 %. Judged the same, shown the other way round.

use super::world::{World, availability, critical};

fn world() -> World {
    World::with(vec![availability(0.999)])
}

#[test]
fn a_good_share_under_its_threshold_rolls_back_on_the_third_breach() {
    let mut world = world();
    world.play(
        "t=0                          -> waiting 0/3
         t=5..10 availability:5000/40 -> breach, shows 0.992 under 0.999
         t=15    availability:5000/40 -> breach 3/3, rollback, path fast",
    );
    assert_eq!(
        world.decision().why,
        "availability 99.2 % (4960 of 5000) under 99.9 %, third breach in a row, 99 % sure below 99.9 %"
    );
    // The bound is on the shown side too: the good share is surely not above it.
    let state = &world.decision().rules[0];
    let bound = state.bound.expect("pooled");
    assert!(bound > 0.992 && bound < 0.999, "{bound}");
}

#[test]
fn a_good_share_at_or_over_its_threshold_passes_and_never_reads_as_100_percent() {
    world().play("t=0\nt=5..60 availability:5000/5 -> pass 0/3, shows 0.999 under 0.999");
    let mut world = world();
    world.play("t=0\nt=5 availability:20000/10 -> pass 0/3, why: availability 99.95 % (19990 of 20000)");
    world.play("t=10 availability:20000/10 -> pass, why: not under 99.9 %");
}

#[test]
fn nearly_nothing_good_is_severe() {
    world().play(
        "t=0
         t=5  availability:100/80 -> breach 1/3
         t=10 availability:100/80 -> rollback, path severe, why: availability 20 % (20 of 100), why: second interval in a row at 75 % bad or more",
    );
}

#[test]
fn a_good_share_that_comes_near_its_threshold_is_told() {
    let mut world = world();
    world.play("t=0\nt=5 availability:30000/26 -> pass, note degraded\nt=10..30 availability:30000/26 -> pass, quiet");
}

#[test]
fn a_fault_that_comes_and_goes_is_caught_by_the_slow_path() {
    let mut world = world();
    world.play("t=0");
    for t in (5..125).step_by(5) {
        let bad = if t % 30 == 5 { 300 } else { 0 };
        world.play(&format!("t={t} availability:5000/{bad}"));
    }
    world.play("t=125 availability:5000/300 -> rollback, path slow, why: under 99.9 % in the last 5 min");
}

#[test]
fn a_critical_availability_takes_one() {
    World::with(vec![critical(availability(0.999))]).play(
        "t=0
         t=5  availability:5000/0  -> pass 0/1
         t=10 availability:5000/40 -> breach 1/1, rollback, path critical",
    );
}
