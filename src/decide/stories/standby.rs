//! Whether the standby could take over, and what a guard does that may scale it up.

use std::time::Duration;

use crate::model::ScaleUp;

use super::{
    story,
    world::{World, alert, endpoints, error_rate, probe},
};

fn scaling(replicas: u32, deadline: u64) -> World {
    let mut world = World::default();
    world.scale_up = Some(ScaleUp {
        replicas,
        deadline: Duration::from_secs(deadline),
    });
    world
}

#[test]
fn a_standby_whose_deployment_is_not_available_gets_no_traffic_until_it_is() {
    story(
        "t=0
         t=5..10 500/62             -> breach
         t=15    500/62 unavailable -> blocked, phase blocked, why: the standby color is not available: Deployment/blue says so
         t=20    500/62             -> rollback",
    );
}

#[test]
fn a_standby_that_fails_its_probes_gets_no_traffic_until_it_answers() {
    let mut world = World::with(vec![error_rate(0.05), probe(0.5)]);
    world.play(
        "t=0              probe=0/3 standby-probe=0/3
         t=5..10   500/62 probe=0/3 standby-probe=0/3 -> breach
         t=15      500/62 probe=0/3 standby-probe=3/3 -> blocked, why: fails its own probes: 3 of 3 probes of /health failed: connection
         t=20      500/62 probe=0/3 standby-probe=1/3 -> rollback",
    );
}

#[test]
fn what_was_not_measured_is_not_held_against_the_standby() {
    let mut world = World::with(vec![error_rate(0.05), probe(0.5)]);
    // The probes of the standby never come back: Kubernetes' word is what there is.
    world.play(
        "t=0            probe=0/3
         t=5..10 500/62 probe=0/3 -> breach
         t=15    500/62 probe=0/3 -> rollback",
    );
}

#[test]
fn a_failed_probe_of_the_standby_is_not_remembered_for_ever() {
    let mut world = World::with(vec![error_rate(0.05), probe(0.5)]);
    world.play(
        "t=0             probe=0/3 standby-probe=3/3
         t=5..10  500/62 probe=0/3 -> breach
         t=15..25 500/62 probe=0/3 -> blocked, why: fails its own probes
         t=30     500/62 probe=0/3 -> rollback",
    );
}

#[test]
fn a_probe_that_only_alerts_keeps_nobody_from_anything() {
    let mut world = World::with(vec![error_rate(0.05), alert(probe(0.5))]);
    world.play(
        "t=0            probe=0/3 standby-probe=3/3
         t=5..10 500/62 probe=0/3 standby-probe=3/3 -> breach
         t=15    500/62 probe=0/3 standby-probe=3/3 -> rollback",
    );
}

#[test]
fn a_pod_that_was_probed_while_it_started_is_probed_again() {
    let mut world = World::with(vec![error_rate(0.05), probe(0.5)]);
    // At 15 its pods are starting and refuse; at 20 they are Ready, and nobody has asked them yet.
    world.play(
        "t=0 ready=3/0   probe=0/3
         t=5..10  500/62 probe=0/3 -> breach
         t=15     500/62 probe=0/3 standby-probe=2/2 -> blocked, why: cannot serve
         t=20     500/62 probe=0/3 ready=3/3 -> rollback",
    );
}

#[test]
fn the_color_that_is_left_may_be_as_dead_as_it_likes() {
    let mut world = World::with(vec![endpoints()]);
    world.play(
        "t=0
         t=5..10 ready=0/1 -> breach
         t=15..20          -> rollback, path endpoints",
    );
}

#[test]
fn both_colors_bad_is_no_flip_and_said_so() {
    let mut world = World::with(vec![probe(0.5)]);
    world.play(
        "t=0     probe=0/3 standby-probe=0/3
         t=5..10 probe=3/3 standby-probe=3/3 -> breach
         t=15    probe=3/3 standby-probe=3/3 -> suppressed, why: the standby color is just as bad now",
    );
}

#[test]
fn a_standby_that_is_scaled_down_is_waited_for_and_flipped_to_when_it_can_serve() {
    let mut world = scaling(2, 60);
    world.play(
        "t=0 ready=3/0 desired=0
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked, phase blocked, why: being scaled up: 0 of 2, why: waited for until 20:27:55 UTC
         t=20     500/62 desired=2 -> blocked, why: being scaled up: 0 of 2
         t=25     500/62 ready=3/1 -> blocked, why: being scaled up: 1 of 2
         t=30     500/62 ready=3/2 unavailable -> blocked, why: being scaled up: 2 of 2
         t=35     500/62 -> rollback",
    );
}

#[test]
fn what_does_not_come_up_in_time_is_blocked_and_flipped_to_when_it_comes_up_late() {
    let mut world = scaling(2, 30);
    world.play(
        "t=0 ready=3/0 desired=0
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked, why: being scaled up
         t=20..40 500/62 desired=2 -> blocked, why: being scaled up
         t=45..90 500/62 -> blocked, why: the standby color cannot serve: 0 Ready endpoints
         t=95     500/62 ready=3/2 -> rollback",
    );
}

#[test]
fn who_has_just_come_up_is_probed_before_users_are_sent_there() {
    let mut world = scaling(2, 60);
    world.rules.push(probe(0.5));
    world.play(
        "t=0 ready=3/0 desired=0 probe=0/3
         t=5..10  500/62 probe=0/3 -> breach
         t=15     500/62 probe=0/3 -> blocked, why: being scaled up
         # Its pods are Ready; who was asked while they were starting does not count, and nobody has been asked since.
         t=20     500/62 probe=0/3 ready=3/2 -> blocked, why: being scaled up: 2 of 2
         t=25     500/62 probe=0/3 standby-probe=2/2 -> blocked, why: fails its own probes
         t=30     500/62 probe=0/3 standby-probe=0/2 -> rollback",
    );
}

#[test]
fn a_standby_that_is_not_scaled_down_is_not_waited_for() {
    // It has its replicas, and they do not serve: more of the same would not either.
    let mut world = scaling(2, 60);
    world.play(
        "t=0 ready=3/0 desired=3
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked, why: the standby color cannot serve: 0 Ready endpoints",
    );
    let mut silent = scaling(2, 60);
    silent.play(
        "t=0 ready=3/0
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked, why: the standby color cannot serve",
    );
}

#[test]
fn what_stands_against_a_flip_besides_is_said_first_and_nothing_is_scaled_for_it() {
    let mut world = scaling(2, 60);
    world.play(
        "t=0 ready=3/0 desired=0 pause
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked, phase paused
         t=20     500/62 resume -> blocked, why: waited for until 20:28:00 UTC",
    );
}

#[test]
fn a_restart_goes_on_waiting_for_what_an_earlier_run_scaled_up() {
    let mut world = scaling(2, 60);
    world.play(
        "t=0 ready=3/0 desired=0
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked, why: waited for until 20:27:55 UTC
         t=20     500/62 desired=2 -> blocked, why: waited for until 20:27:55 UTC
         t=25     restart awaits=15
         t=30..35 500/62 -> breach
         t=40     500/62 -> blocked, why: waited for until 20:27:55 UTC
         t=75     500/62 -> blocked, why: the standby color cannot serve",
    );
}

#[test]
fn the_next_bad_time_is_waited_for_anew() {
    let mut world = scaling(2, 30);
    world.play(
        "t=0 ready=3/0 desired=0
         t=5..10    500/62 -> breach
         t=15..40   500/62 -> blocked, why: being scaled up
         t=45       500/62 -> blocked, why: cannot serve
         t=50..65   500/0  -> pass
         t=70..75   500/62 -> breach
         t=80       500/62 -> blocked, why: waited for until 20:28:30 UTC",
    );
}

#[test]
fn a_person_is_told_of_endpoints_alone() {
    let mut world = World::with(vec![error_rate(0.05), probe(0.5)]);
    world.play("t=0 unavailable probe=0/3 standby-probe=3/3 pause");
    assert_eq!(world.manual(5, "blue"), "green to blue: ada: looks bad");
}

#[test]
fn so_many_replicas_as_are_configured_or_needed() {
    let target = |replicas, active, desired| {
        let mut world = scaling(replicas, 60);
        world.play(&format!("t=0 ready={active}/0 desired={desired}"));
        world.scale_target()
    };
    assert_eq!(target(2, 1, 0), Some(2), "as configured");
    assert_eq!(target(2, 10, 0), Some(5), "half of the active's");
    assert_eq!(target(2, 0, 0), Some(2), "an active color without endpoints asks for little");
    assert_eq!(target(2, 10, 4), Some(5), "a standby that is too small is scaled too");
    assert_eq!(target(2, 10, 5), None);
    let mut off = World::default();
    off.play("t=0 ready=3/0 desired=0");
    assert_eq!(off.scale_target(), None);
}
