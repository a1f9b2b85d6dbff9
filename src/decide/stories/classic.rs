//! Classic mode: every poll looks at windows; a poll is bad when any rollback rule breaches; three bad polls in a row
//! roll back, whichever rule made each of them bad.

use std::time::Duration;

use super::world::{World, alert, availability, critical, endpoints, error_rate, latency, max, probe};
use crate::model::AfterWatch;

fn both() -> World {
    let mut world = World::classic(vec![error_rate(0.05), latency(0.95)]);
    world.policy.warm_up_latency = Duration::ZERO;
    world
}

#[test]
fn three_bad_polls_in_a_row_roll_back() {
    let mut world = both();
    world.play(
        "t=0     error_rate=0.05 latency=0.9 -> pass 0/3, latency: pass 0/3, phase watching
         t=5     error_rate=0.07 latency=0.9 -> breach 1/3, latency: pass 1/3, phase breaching
         t=10    error_rate=0.07 latency=0.9 -> breach 2/3
         t=15    error_rate=0.07 latency=0.9 -> breach 3/3, rollback, path classic, shows 0.07 over 0.05",
    );
    assert_eq!(world.decision().why, "error rate 7 % over 5 %, third bad poll in a row");
}

#[test]
fn two_error_breaches_and_one_latency_breach_are_three_bad_polls() {
    let mut world = both();
    world.play(
        "t=0..5 error_rate=0.07 latency=0.9 -> breach, latency: pass
         t=10   error_rate=0.01 latency=1.2 -> pass 3/3, latency: breach 3/3, rollback, path classic",
    );
    assert_eq!(world.decision().why, "p95 1.2 s over 1 s, third bad poll in a row");
}

#[test]
fn a_poll_in_which_everything_passes_ends_it() {
    both().play(
        "t=0..5   error_rate=0.07 latency=0.9 -> breach
         t=10     error_rate=0.01 latency=0.9 -> pass 0/3
         t=15..20 error_rate=0.07 latency=0.9 -> breach
         t=25     error_rate=0.07 latency=0.9 -> breach 3/3, rollback",
    );
}

#[test]
fn a_poll_that_shows_too_little_holds() {
    both().play(
        "t=0..5  error_rate=0.07 latency=0.9 -> breach
         t=10    stale error_rate=0.9 latency=0.9 -> nothing 2/3, latency: nothing
         t=15    error_rate=0.01             -> pass 2/3, latency: inconclusive 2/3
         t=20    timeout                     -> inconclusive 2/3
         t=25    error_rate=nan latency=0.9  -> inconclusive 2/3
         t=30    error_rate=-1 latency=0.9   -> inconclusive 2/3
         t=35    error_rate=1.5 latency=0.9  -> inconclusive 2/3
         t=40    latency=1.5                 -> inconclusive 3/3, latency: breach 3/3, rollback",
    );
}

#[test]
fn bad_polls_go_on_for_another_rules_sake() {
    let mut world = both();
    world.play(
        "t=0..5 error_rate=0.07 latency=0.9 ready=4/1 -> breach
         t=10   error_rate=0.07 latency=0.9 -> blocked, why: error rate 7 %
         t=15   error_rate=0.01             -> pass 3/3, blocked, why: error rate 7 %
         t=20   error_rate=0.01 latency=1.2 -> pass 4/3, latency: breach 4/3, blocked, why: p95 1.2 s over 1 s
         t=25   error_rate=0.01 latency=0.9 -> pass 0/3, hold",
    );
}

#[test]
fn a_window_with_too_few_requests_is_no_verdict() {
    let mut world = World::classic(vec![error_rate(0.05)]);
    world.play(
        "t=0  error_rate=0.5 error_rate.requests=59 -> inconclusive 0/3
         t=5  error_rate=0.5 error_rate.requests=60 -> breach 1/3
         t=10 error_rate=0.5                        -> breach 2/3",
    );
    let mut world = World::classic(vec![error_rate(0.05)]);
    world.policy.min_requests = Some(200);
    world.play("t=0 error_rate=0.5 error_rate.requests=199 -> inconclusive 0/3");
    assert_eq!(world.decision().rules[0].why, "no verdict: 199 requests in the window, 200 needed");
    world.play("t=5 error_rate=0.5 error_rate.requests=200 -> breach 1/3");
}

#[test]
fn availability_and_numbers_are_part_of_the_poll() {
    let mut world = World::classic(vec![availability(0.999), max("tokens", "", 100.0)]);
    world.play(
        "t=0  availability=0.008 tokens=50  -> breach 1/3, shows 0.992 under 0.999
         t=5  availability=0.001 tokens=140 -> pass 2/3, tokens: breach 2/3
         t=10 availability=0.008 tokens=50  -> breach 3/3, rollback, path classic",
    );
    assert_eq!(world.decision().why, "availability 99.2 % under 99.9 %, third bad poll in a row");
}

#[test]
fn no_poll_of_one_rolls_back() {
    let mut world = World::classic(vec![error_rate(0.05)]);
    world.policy.consecutive = 1;
    world.play("t=0 error_rate=0.9 -> breach 1/2, hold\nt=5 error_rate=0.9 -> breach 2/2, rollback");
}

#[test]
fn an_alert_rule_makes_no_poll_bad_and_alerts_on_its_own_streak() {
    World::classic(vec![error_rate(0.05), alert(max("cpu", "", 0.8))]).play(
        "t=0    error_rate=0.01 cpu=0.9 -> pass 0/3, cpu: breach 1/3
         t=5    error_rate=0.01 cpu=0.9 -> pass 0/3, cpu: breach 2/3
         t=10   error_rate=0.01 cpu=0.9 -> pass 0/3, cpu: breach 3/3, hold, note alert",
    );
}

#[test]
fn probes_endpoints_and_what_is_critical_keep_their_own_judgement() {
    let rules = || vec![error_rate(0.05), probe(0.5), endpoints(), critical(max("violations", "", 0.0))];
    World::classic(rules()).play(
        "t=0     error_rate=0.01 probe=3/3 violations=0 -> pass 0/3, probe: breach 1/3
         t=5     error_rate=0.07 probe=3/3 violations=0 -> breach 1/3, probe: breach 2/3
         t=10    error_rate=0.01 probe=3/3 violations=0 -> pass 0/3, rollback, path probe",
    );
    World::classic(rules()).play(
        "t=0  error_rate=0.01 probe=0/3 violations=0 -> pass
         t=5  error_rate=0.01 probe=0/3 violations=2 -> pass 0/3, violations: breach 1/1, rollback, path critical",
    );
    World::classic(rules()).play(
        "t=0     error_rate=0.01 probe=0/3 violations=0 ready=0/3 -> pass
         t=5     error_rate=0.01 probe=0/3 violations=0 -> pass
         t=10    error_rate=0.01 probe=0/3 violations=0 -> rollback, path endpoints",
    );
}

#[test]
fn bad_polls_expire_and_a_switch_begins_anew() {
    let one = || World::classic(vec![error_rate(0.05)]);
    one().play(
        "t=0..5    error_rate=0.07 -> breach
         t=10..180 timeout         -> inconclusive 2/3
         t=185     error_rate=0.07 -> breach 1/3, note expired, hold",
    );
    one().play(
        "t=0..5 error_rate=0.07            -> breach
         t=10   error_rate=0.07 release=v3 -> breach 1/3, note switched, hold",
    );
}

#[test]
fn the_warm_up_has_no_part_in_a_poll() {
    // Latency warms up for 30 s: meanwhile errors alone make a poll, bad or good.
    World::classic(vec![error_rate(0.05), latency(0.95)]).play(
        "t=0     error_rate=0.07 latency=9 -> breach 1/3, latency: waiting 1/3
         t=5     error_rate=0.01 latency=9 -> pass 0/3
         t=10..25 error_rate=0.01 latency=9 -> pass 0/3, latency: waiting
         t=30..35 error_rate=0.01 latency=9 -> latency: breach
         t=40    error_rate=0.01 latency=9 -> rollback",
    );
}

#[test]
fn everything_around_is_the_same_road() {
    let one = || World::classic(vec![error_rate(0.05)]);
    one().play(
        "t=0..5 error_rate=0.07/0.06 -> breach
         t=10   error_rate=0.07/0.06 -> suppressed, why: the standby color is just as bad now",
    );
    one().play(
        "t=0..5 error_rate=0.07/0.01 -> breach
         t=10    switch error_rate=0.07/0.01 -> breach 1/3, note switched
         t=15    error_rate=0.07/0.01 -> breach
         t=20    error_rate=0.07/0.01 -> suppressed, why: already over the threshold before the switch",
    );
    one().play(
        "t=0..5 error_rate=0.07 -> breach
         t=10   error_rate=0.07 ready=4/1 -> blocked, why: 1 Ready endpoints
         t=15   error_rate=0.07 ready=4/2 -> rollback
         t=20   flip error_rate=0.01/0.5  -> note switched, phase rolled_back",
    );
    let mut steady = one();
    steady.switched_at = Some(-7200);
    steady.play("t=0..60 error_rate=0.07 -> breach, hold");
    let mut full = one();
    full.switched_at = Some(-7200);
    full.policy.after_watch = AfterWatch::Full;
    full.play("t=0..5 error_rate=0.07 -> breach\nt=10 error_rate=0.07 -> rollback, path classic");
}

#[test]
fn a_rate_near_its_threshold_is_told() {
    World::classic(vec![error_rate(0.05)]).play(
        "t=0     error_rate=0.01  -> pass, quiet
         t=5     error_rate=0.045 -> pass, note degraded
         t=10..20 error_rate=0.045 -> pass, quiet",
    );
}
