//! How a breach is confirmed: by the fast, the severe, the slow, the critical path, by probes, by endpoints.

use std::time::Duration;

use crate::model::{Action, AfterWatch, Policy};

use super::{
    story,
    world::{World, endpoints, error_rate, latency, probe},
};

#[test]
fn third_breach_in_a_row_rolls_back() {
    story(
        "t=0           -> waiting 0/3, phase starting
         t=5   500/62  -> breach 1/3, phase breaching
         t=10  500/62  -> breach 2/3
         t=15  500/62  -> breach 3/3, rollback, path fast, why: error rate 12.4 % (62 of 500) over 5 %, why: third breach in a row, why: 99 % sure above 5 %",
    );
}

#[test]
fn it_is_asked_for_until_the_route_has_moved() {
    story(
        "t=0
         t=5..10  500/62 -> breach
         t=15     500/62 -> breach 3/3, rollback
         t=20     stale  -> nothing 3/3, rollback
         t=25     500/62 -> breach 4/3, rollback
         t=30     flip   -> waiting 0/3, note switched, phase rolled_back",
    );
}

#[test]
fn a_pass_ends_the_streak() {
    story(
        "t=0
         t=5..10  500/62 -> breach
         t=15     500/1  -> pass 0/3, phase watching
         t=20..25 500/62 -> breach
         t=30     500/62 -> breach 3/3, rollback",
    );
}

#[test]
fn a_share_at_the_threshold_passes() {
    story(
        "t=0
         t=5..60 100/5 -> pass 0/3",
    );
}

#[test]
fn few_requests_collect_until_they_are_worth_a_verdict() {
    story(
        "t=0
         t=5..25  10/0 -> waiting 0/3
         t=30     10/2 -> pass 0/3
         t=35     10/2 -> waiting
         t=40     10/1 -> breach 1/3",
    );
}

#[test]
fn an_interval_stretches_for_a_minute_at_most() {
    story(
        "t=0
         t=5..55 1/0 -> waiting
         t=60    1/0 -> pass
         t=65..115 1/0 -> waiting
         t=120   1/1 -> breach 1/3, why: 8.3",
    );
}

#[test]
fn a_minute_without_requests_is_no_verdict_and_no_blindness() {
    story(
        "t=0
         t=5..10  500/62 -> breach
         t=15..65        -> waiting 2/3
         t=70            -> inconclusive 2/3, phase breaching
         t=75     500/62 -> breach 3/3, rollback",
    );
}

#[test]
fn three_breaches_that_are_not_sure_wait_for_more() {
    story(
        "t=0
         t=5..10  60/4 -> breach
         t=15     60/4 -> breach 3/3, hold, why: not yet 99 % sure
         t=20..35 60/4 -> breach
         t=40     60/20 -> breach 8/3, rollback, path fast",
    );
}

#[test]
fn rules_do_not_add_up_their_breaches() {
    World::with(vec![error_rate(0.05), latency(0.95)]).play(
        "t=0
         t=5..30                       -> waiting
         t=35..40  500/62 latency:500/0  -> breach, latency: pass
         t=45      500/0  latency:500/62 -> pass 0/3, latency: breach 1/3",
    );
}

#[test]
fn latency_is_judged_on_the_share_of_slow_requests() {
    let mut world = World::with(vec![latency(0.95)]);
    world.policy.warm_up_latency = Duration::ZERO;
    world.play(
        "t=0
         t=5..10 latency:5000/290 -> breach
         t=15    latency:5000/290 -> breach, rollback, why: 5.8 % of requests slower than 1 s (290 of 5000), why: over the 5 % that p95 allows",
    );
}

#[test]
fn two_severe_intervals_do_not_wait_for_a_third() {
    story(
        "t=0
         t=5   100/80 -> breach 1/3
         t=10  100/80 -> breach 2/3, rollback, path severe, why: second interval in a row at 75 % or more",
    );
}

#[test]
fn severe_takes_ten_bad_requests_in_each_of_two_intervals() {
    story(
        "t=0
         t=5..10  9/9 -> breach
         t=15     9/9 -> breach 3/3, rollback, path fast",
    );
}

#[test]
fn the_warm_up_drops_evidence_that_starts_in_it_but_not_a_severe_one() {
    let mut world = World::with(vec![latency(0.95)]);
    world.play(
        "t=0
         t=5..30  latency:500/250 -> waiting 0/3
         t=35..40 latency:500/250 -> breach
         t=45     latency:500/250 -> breach 3/3, rollback, path fast",
    );
    World::with(vec![latency(0.95)]).play(
        "t=0
         t=5   latency:500/450 -> breach 0/3
         t=10  latency:500/450 -> breach 0/3, rollback, path severe",
    );
}

#[test]
fn a_fault_that_comes_and_goes_is_caught_by_the_slow_path() {
    let mut world = World::default();
    let mut text = String::from("t=0\n");
    for t in (5..175).step_by(5) {
        let line = if t % 30 == 5 {
            "500/500 -> breach 1/3"
        } else {
            "500/0 -> pass 0/3"
        };
        text += &format!("t={t} {line}\n");
        if t == 120 {
            break;
        }
    }
    world.play(&text);
    world.play("t=125 500/500 -> breach, rollback, path slow, why: in the last 5 min");
}

#[test]
fn one_blip_of_five_seconds_does_not_move_traffic() {
    let blip = |share: &str| format!("t=0\nt=5..300 500/1 -> pass\nt=305 500/{share} -> breach 1/3\nt=310..700 500/1 -> pass 0/3");
    story(&blip("500"));
    story(&blip("100"));
    // Right after the switch, where the window has nothing to dilute it with.
    story("t=0\nt=5 500/500 -> breach 1/3\nt=10..500 500/1 -> pass 0/3");
}

#[test]
fn one_blip_against_a_one_percent_objective_casts_a_long_shadow_and_nothing_more() {
    let mut world = World::with(vec![latency(0.99)]);
    world.policy.warm_up_latency = Duration::ZERO;
    world.play("t=0\nt=5..300 latency:500/1 -> pass\nt=305 latency:500/500 -> breach\nt=310..700 latency:500/1 -> pass");
}

#[test]
fn a_critical_rule_takes_one_violation() {
    let mut rule = error_rate(0.000_001);
    rule.critical = true;
    World::with(vec![rule]).play(
        "t=0
         t=5   5000/0 -> pass 0/1
         t=10  10/1   -> breach 1/1, rollback, path critical, why: one breach of a critical rule is enough",
    );
}

#[test]
fn a_critical_rule_does_not_retire_with_the_watch() {
    let mut rule = error_rate(0.000_001);
    rule.critical = true;
    let mut world = World::with(vec![rule]);
    world.switched_at = Some(-7200);
    world.play(
        "t=0
         t=5   5000/0 -> pass 0/1, phase steady
         t=10  5000/1 -> breach 1/1, rollback, path critical",
    );
}

#[test]
fn three_failed_rounds_of_probes_roll_back_without_prometheus() {
    World::with(vec![probe(0.5)]).play(
        "t=0   probe=0/3 -> pass 0/3
         t=5   probe=2/3 -> breach 1/3
         t=10            -> inconclusive 1/3
         t=15  probe=2/3 -> breach 2/3
         t=20  probe=2/3 -> breach 3/3, rollback, path probe, why: 66.7 % of probes of /health failed (2 of 3), why: connection refused",
    );
}

#[test]
fn no_ready_endpoint_for_ten_seconds_rolls_back() {
    World::with(vec![endpoints()]).play(
        "t=0   ready=3/3 -> pass
         t=5   ready=0/3 -> breach 1/3
         t=10            -> breach 2/3
         t=15            -> breach 3/3, rollback, path endpoints, why: 0 Ready endpoints for 10 s",
    );
}

#[test]
fn endpoints_that_come_back_in_time_move_nothing() {
    World::with(vec![endpoints()]).play(
        "t=0   ready=3/3 -> pass
         t=5   ready=0/3 -> breach
         t=10  ready=1/3 -> pass
         t=15  ready=0/3 -> breach 1/3
         t=20  ready=0/3 -> breach 2/3",
    );
}

#[test]
fn after_the_watch_the_fast_paths_rest_and_slow_and_endpoints_stay() {
    let mut world = World::with(vec![error_rate(0.05), endpoints()]);
    world.switched_at = Some(-1795);
    world.play(
        "t=0                         -> phase watching
         t=5..120   500/62           -> breach",
    );
    world.play("t=125 500/62 -> breach, rollback, path slow");

    let mut world = World::with(vec![error_rate(0.05), endpoints()]);
    world.switched_at = Some(-7200);
    world.play(
        "t=0                  -> phase steady
         t=5..10   500/1   -> pass
         t=15      500/1 ready=0/3 -> pass, endpoints: breach 1/3
         t=20      500/1 -> endpoints: breach 2/3
         t=25      500/1 -> endpoints: breach 3/3, rollback, path endpoints",
    );
}

#[test]
fn the_end_of_the_watch_is_told_once() {
    let mut world = World::default();
    world.switched_at = Some(-1790);
    world.play(
        "t=0..5  500/1 -> quiet
         t=10    500/1 -> note watch_ended, phase steady
         t=15    500/1 -> quiet, phase steady",
    );
    assert_eq!(world.watch_until(), Some(10));
}

#[test]
fn after_watch_full_keeps_every_path_and_alert_flips_nothing() {
    for (after_watch, verdict) in [(AfterWatch::Full, "rollback"), (AfterWatch::Alert, "suppressed")] {
        let mut world = World::default();
        world.policy.after_watch = after_watch;
        world.switched_at = Some(-7200);
        world.play(&format!(
            "t=0\nt=5..10 500/62 -> breach\nt=15 500/62 -> breach 3/3, {verdict}, path fast"
        ));
    }
}

#[test]
fn an_alert_rule_tells_and_never_flips() {
    let mut rule = error_rate(0.05);
    rule.action = Action::Alert;
    World::with(vec![rule]).play(
        "t=0
         t=5     500/62 -> breach, quiet
         t=10    500/62 -> breach
         t=15    500/62 -> breach 3/3, hold, note alert
         t=20    500/62 -> breach 4/3, hold, quiet
         t=25    500/1  -> pass",
    );
}

#[test]
fn a_reading_near_its_threshold_is_told_once() {
    let mut world = World::default();
    world.play(
        "t=0
         t=5..10  100/1  -> pass, quiet
         t=15..20 100/5  -> pass
         t=25     100/5  -> pass
         t=30     100/5  -> pass",
    );
    let mut world = World::default();
    world.play("t=0\nt=5 500/22 -> pass, note degraded\nt=10..30 500/22 -> pass, quiet");
}

#[test]
fn no_streak_of_one_rolls_back() {
    let mut world = World::default();
    world.policy = Policy {
        consecutive: 1,
        ..Policy::default()
    };
    world.play(
        "t=0
         t=5   500/500 -> breach 1/2, hold
         t=10  500/500 -> breach 2/2, rollback",
    );
}
