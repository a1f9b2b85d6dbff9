//! Time: expiry, stale polls, stepped clocks, restarts.

use super::{
    story,
    world::{World, endpoints, error_rate, latency},
};

#[test]
fn a_streak_without_a_new_breach_expires() {
    story(
        "t=0
         t=5..10   500/62  -> breach
         t=15..185 timeout -> inconclusive 2/3
         t=190     500/62  -> breach 1/3, note expired, hold",
    );
}

#[test]
fn an_unusable_poll_within_that_time_changes_nothing() {
    story(
        "t=0
         t=5..10   500/62  -> breach
         t=15..180 timeout -> inconclusive 2/3
         t=185     500/62  -> breach 3/3, rollback",
    );
}

#[test]
fn a_stale_poll_is_no_poll() {
    story(
        "t=0
         t=5      500/62 -> breach 1/3
         t=10..60 stale  -> nothing 1/3, quiet
         t=65     500/62 -> breach 2/3",
    );
}

#[test]
fn samples_that_never_change_are_blindness_in_the_end() {
    story(
        "t=0
         t=5      500/0 -> pass
         t=10..60 stale -> nothing, quiet
         t=65     stale -> nothing, note blind, phase blind",
    );
}

#[test]
fn an_hour_forward_does_not_make_ten_seconds_of_five() {
    World::with(vec![endpoints()]).play(
        "t=0  ready=3/3  -> pass
         t=5  ready=0/3  -> breach
         t=10 clock=3600 -> breach 1/3, note expired, hold
         t=15            -> breach 2/3, hold
         t=20            -> breach 3/3, rollback",
    );
}

#[test]
fn an_hour_back_holds_the_streak_and_counts_anew() {
    story(
        "t=0
         t=5..10 500/62 -> breach
         t=15    500/62 clock=-3600 -> waiting 2/3, hold
         t=20    500/62 -> breach 3/3, rollback",
    );
}

#[test]
fn an_hour_forward_does_not_end_the_warm_up() {
    World::with(vec![latency(0.95)]).play(
        "t=0
         t=5      latency:500/250 -> waiting 0/3
         t=10     latency:500/250 clock=3600 -> waiting 0/3
         t=15..30 latency:500/250 -> waiting 0/3
         t=35..40 latency:500/250 -> breach
         t=45     latency:500/250 -> rollback",
    );
}

#[test]
fn an_hour_forward_does_not_end_the_cooldown() {
    story(
        "t=0
         t=5..10   500/62 -> breach
         t=15      500/62 -> rollback
         t=20      flip   -> note switched
         t=25..35  500/0  -> pass
         t=40      500/0 switch release=v3 -> note switched
         t=45      500/62 -> breach
         t=50      500/62 clock=3600 -> waiting, note expired
         t=55..60  500/62 -> breach
         t=65..615 500/62 -> blocked, why: in cooldown
         t=620     500/62 -> rollback",
    );
}

#[test]
fn an_hour_forward_does_not_confirm_the_slow_path() {
    let mut world = World::with(vec![error_rate(0.05)]);
    world.switched_at = Some(-7200);
    world.play(
        "t=0
         t=5..60  500/62            -> breach
         t=65     500/62 clock=3600 -> waiting
         t=70..185 500/62           -> breach, hold
         t=190     500/62           -> rollback, path slow",
    );
}

#[test]
fn the_watch_goes_on_after_a_restart() {
    let mut world = World::default();
    world.switched_at = Some(-600);
    world.play("t=0 500/0 -> phase starting\nt=5 500/0 restart -> phase starting\nt=10 500/0 -> pass, phase watching");
    assert_eq!(world.watch_until(), Some(1200));
}

#[test]
fn a_switch_in_the_future_is_a_switch_now() {
    let mut world = World::default();
    world.switched_at = Some(3600);
    world.play("t=0\nt=5..10 500/62 -> breach\nt=15 500/62 -> rollback");
    assert_eq!(world.watch_until(), Some(1800));
}
