//! What the five systems' scripts got wrong (SYSTEMS.md): each bug that is one of judgement, as a story.

use super::{
    story,
    world::{World, endpoints, error_rate, latency, probe},
};

#[test]
fn nan_from_no_traffic_is_not_a_failure() {
    story("t=0\nt=5..55 nan -> inconclusive 0/3");
}

#[test]
fn a_missing_series_is_not_a_pass() {
    story(
        "t=0
         t=5..10 500/62 -> breach
         t=15    empty  -> inconclusive 2/3, phase breaching
         t=20    500/62 -> breach 3/3, rollback",
    );
}

#[test]
fn a_dead_prometheus_is_neither_a_pass_nor_a_failure_and_it_is_loud() {
    story(
        "t=0
         t=5       500/0   -> pass
         t=10..60  timeout -> inconclusive, quiet
         t=65      timeout -> inconclusive, note blind, phase blind, why: no answer in time
         t=70..360 timeout -> inconclusive, quiet, phase blind
         t=365     timeout -> note blind
         t=370     500/0   -> note sighted, phase watching",
    );
}

#[test]
fn p99_is_looked_at_even_while_the_error_rate_fails() {
    World::with(vec![error_rate(0.05), latency(0.99)]).play(
        "t=0
         t=5..30  500/0                    -> pass
         t=35..40 500/62 latency:500/62  -> breach, latency: breach
         t=45     500/0  latency:500/62  -> pass, latency: breach 3/3, rollback, path fast, why: that p99 allows",
    );
}

#[test]
fn the_other_color_is_not_flipped_to_unless_it_can_serve() {
    story(
        "t=0     ready=4/1
         t=5..10 500/62 -> breach
         t=15    500/62 -> blocked, phase blocked, why: 1 Ready endpoints, why: 2 needed
         t=20    500/62 ready=4/2 -> rollback",
    );
}

#[test]
fn a_color_that_was_itself_rolled_back_from_is_not_flipped_to() {
    let mut world = World::default();
    world.play(
        "t=0
         t=5..10    500/62 -> breach
         t=15       500/62 -> rollback
         t=20       flip   -> note switched
         t=25..2000 500/0",
    );
    // Later the restored color goes bad as well; its watch is long over, so this is the slow path's to find.
    world.play("t=2005..2150 500/250");
    world.play("t=2165..2200 500/250 -> blocked, why: which was rolled back from");
}

#[test]
fn a_restart_forgets_streaks_but_not_flips() {
    story(
        "t=0
         t=5..10  500/62 -> breach
         t=15     500/62 restart -> waiting 0/3, hold
         t=20..25 500/62 -> breach
         t=30     500/62 -> breach 3/3, rollback
         t=35     flip   -> phase rolled_back
         t=40     500/0 restart -> waiting, phase rolled_back
         t=45..50 500/0  -> pass, phase rolled_back
         t=55     500/0  -> pass, note recovered",
    );
}

#[test]
fn nobody_is_blind_after_a_rollback() {
    story(
        "t=0
         t=5..10 500/62 -> breach
         t=15    500/62 -> rollback
         t=20    flip
         t=25    500/62 -> breach 1/3
         t=30    500/62 -> breach 2/3
         t=35    500/62 -> suppressed, note did_not_help, phase suppressed",
    );
}

#[test]
fn a_rollback_on_health_alone_needs_no_prometheus() {
    World::with(vec![probe(0.5), endpoints()]).play(
        "t=0      probe=0/3 -> pass, endpoints: pass
         t=5..10  probe=3/3 -> breach
         t=15     probe=3/3 -> breach 3/3, rollback, path probe",
    );
}
