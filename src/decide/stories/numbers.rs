//! Rules on one number: throughput, saturation, any expression; with limits that stand by themselves, and limits that
//! are a multiple of the other color's number or of what it was before the switch.

use super::world::{World, alert, critical, endpoints, max, min, scalar};
use crate::{
    decide::Baseline,
    model::{AfterWatch, ScalarRule},
};

fn to_standby(ratio: f64) -> ScalarRule {
    ScalarRule {
        max_ratio_to_standby: Some(ratio),
        ..ScalarRule::default()
    }
}

fn to_before(ratio: f64) -> ScalarRule {
    ScalarRule {
        max_ratio_to_before: Some(ratio),
        ..ScalarRule::default()
    }
}

#[test]
fn three_numbers_over_their_limit_in_a_row_roll_back() {
    let mut world = World::with(vec![max("tokens", "tokens/s", 100.0)]);
    world.play(
        "t=0     tokens=100 -> pass 0/3, shows 100 over 100
         t=5..10 tokens=140 -> breach, shows 140 over 100
         t=15    tokens=140 -> breach 3/3, rollback, path fast",
    );
    assert_eq!(world.decision().why, "tokens 140 tokens/s over 100 tokens/s, third breach in a row");
    let state = &world.decision().rules[0];
    assert_eq!((state.bad, state.total, state.bound), (None, None, None));
}

#[test]
fn three_numbers_under_their_limit_in_a_row_roll_back() {
    let mut world = World::with(vec![min("throughput", "req/s", 100.0)]);
    world.play(
        "t=0     throughput=120 -> pass 0/3, shows 120 under 100
         t=5..10 throughput=12  -> breach, shows 12 under 100
         t=15    throughput=12  -> breach 3/3, rollback, path fast",
    );
    assert_eq!(world.decision().why, "throughput 12 req/s under 100 req/s, third breach in a row");
}

#[test]
fn a_pass_ends_the_streak_and_what_is_no_number_holds_it() {
    World::with(vec![max("tokens", "", 100.0)]).play(
        "t=0..5  tokens=140  -> breach
         t=10    stale tokens=140 -> nothing 2/3
         t=15    tokens=nan  -> inconclusive 2/3
         t=20    tokens=inf  -> inconclusive 2/3
         t=25    timeout     -> inconclusive 2/3
         t=30    tokens=90   -> pass 0/3
         t=35..40 tokens=140 -> breach
         t=45    tokens=140  -> breach 3/3, rollback",
    );
}

#[test]
fn a_pass_takes_back_what_was_confirmed() {
    World::with(vec![max("tokens", "", 100.0)]).play(
        "t=0..5 tokens=140 ready=4/1 -> breach
         t=10   tokens=140 -> blocked
         t=15   timeout    -> inconclusive 3/3, blocked
         t=20   tokens=90  -> pass 0/3, hold",
    );
}

#[test]
fn a_streak_of_numbers_expires_and_is_told() {
    World::with(vec![max("tokens", "", 100.0)]).play(
        "t=0..5    tokens=140 -> breach
         t=10..180 timeout    -> inconclusive 2/3
         t=185     tokens=140 -> breach 1/3, note expired, hold",
    );
}

#[test]
fn numbers_below_zero_are_numbers() {
    let mut rule = max("degrees", "C", -18.0);
    if let crate::model::RuleKind::Promql(scalar) = &mut rule.kind {
        scalar.min = Some(-30.0);
    }
    World::with(vec![rule]).play(
        "t=0     degrees=-20 -> pass 0/3
         t=5     degrees=-31 -> breach 1/3, shows -31 under -30
         t=10    degrees=-20 -> pass
         t=15..20 degrees=-5 -> breach, shows -5 over -18
         t=25    degrees=-5  -> breach 3/3, rollback, why: degrees -5 C over -18 C",
    );
}

#[test]
fn the_standby_color_is_the_measure() {
    let mut world = World::with(vec![scalar("p95", "ms", to_standby(1.2))]);
    world.play(
        "t=0     p95=360/300 -> pass 0/3, shows 360 over 360
         t=5..10 p95=420/300 -> breach, shows 420 over 360
         t=15    p95=420/300 -> breach 3/3, rollback, path fast",
    );
    assert_eq!(
        world.decision().why,
        "p95 1.4 x standby's (420 ms against 300 ms), allowed 1.2 x, third breach in a row"
    );
}

#[test]
fn without_a_standby_number_there_is_nothing_to_compare_with() {
    World::with(vec![scalar("p95", "ms", to_standby(1.2))]).play(
        "t=0..5 p95=420/300  -> breach
         t=10   p95=420      -> inconclusive 2/3, hold
         t=15   p95=420/0    -> inconclusive 2/3, hold
         t=20   p95=420/-5   -> inconclusive 2/3, hold
         t=25   p95=420/nan  -> inconclusive 2/3, hold
         t=30   p95=420/300  -> breach 3/3, rollback",
    );
    let mut world = World::with(vec![scalar("p95", "ms", to_standby(1.2))]);
    world.play("t=0 p95=420/0 -> inconclusive 0/3");
    assert_eq!(
        world.decision().rules[0].why,
        "no verdict: the standby color has 0, of which there is no multiple to compare with"
    );
}

#[test]
fn an_absolute_limit_is_judged_though_the_ratio_cannot_be() {
    let rule = ScalarRule {
        max: Some(1000.0),
        ..to_standby(1.2)
    };
    World::with(vec![scalar("p95", "ms", rule)]).play(
        "t=0     p95=420  -> inconclusive 0/3
         t=5..10 p95=1200 -> breach
         t=15    p95=420  -> inconclusive 2/3
         t=20    p95=1200 -> breach 3/3, rollback, why: p95 1200 ms over 1000 ms",
    );
}

#[test]
fn the_number_before_the_switch_is_told_by_the_source() {
    let mut world = World::with(vec![scalar("p95", "ms", to_before(1.2))]);
    world.play(
        "t=0     p95=420 -> inconclusive 0/3
         t=5..10 p95=420 p95.before=300 -> breach
         t=15    p95=420 p95.before=300 -> breach 3/3, rollback, why: p95 1.4 x what it was before the switch (420 ms against 300 ms)",
    );
}

#[test]
fn or_it_was_measured_by_ourselves_on_the_color_before() {
    // Green's middle number in its last five minutes is 300, whatever the one outlier says.
    World::with(vec![scalar("p95", "ms", to_before(1.2))]).play(
        "t=0..400 p95=300/999
         t=405    p95=9000/999
         t=410    switch p95=350/300 -> pass 0/3, note switched, shows 350 over 360
         t=415..420 p95=420/300 -> breach
         t=425    p95=420/300 -> rollback, path fast",
    );
}

#[test]
fn or_it_was_told_from_outside() {
    let mut world = World::with(vec![scalar("p95", "ms", to_before(1.2))]);
    world.baselines = vec![("p95", Baseline::Number(300.0))];
    world.play(
        "t=0..5 p95=420 -> breach
         t=10   p95=420 -> breach 3/3, rollback",
    );
}

#[test]
fn one_violation_of_a_critical_number_rolls_back_at_once_and_at_any_time() {
    let violations = || World::with(vec![critical(max("violations", "", 0.0))]);
    violations().play(
        "t=0 violations=0 -> pass 0/1
         t=5 violations=1 -> breach 1/1, rollback, path critical, why: violations 1 over 0, why: one breach of a critical rule is enough",
    );
    let mut warming = violations();
    warming.policy.warm_up = std::time::Duration::from_secs(300);
    warming.play("t=0 violations=1 -> breach 1/1, rollback, path critical");
    let mut steady = violations();
    steady.switched_at = Some(-7200);
    steady.play("t=0 violations=0 -> phase steady\nt=5 violations=1 -> rollback, path critical");
}

#[test]
fn the_warm_up_drops_numbers() {
    let mut world = World::with(vec![max("tokens", "", 100.0)]);
    world.policy.warm_up = std::time::Duration::from_secs(30);
    world.play(
        "t=0..25  tokens=900 -> waiting 0/3
         t=30..35 tokens=140 -> breach
         t=40     tokens=140 -> rollback",
    );
}

#[test]
fn after_the_watch_only_what_is_critical_stays_armed() {
    let rules = || vec![max("tokens", "", 100.0), critical(max("violations", "", 0.0)), endpoints()];
    let mut world = World::with(rules());
    world.switched_at = Some(-7200);
    world.play(
        "t=0..60 tokens=900 violations=0 -> breach, hold
         t=65    tokens=900 violations=1 -> violations: breach, rollback, path critical",
    );
    let mut world = World::with(rules());
    world.switched_at = Some(-7200);
    world.policy.after_watch = AfterWatch::Full;
    world.play("t=0..5 tokens=900 violations=0 -> breach\nt=10 tokens=900 violations=0 -> rollback, path fast");
}

#[test]
fn an_alert_rule_on_a_number_tells_and_never_flips() {
    World::with(vec![alert(min("throughput", "req/s", 100.0))]).play(
        "t=0      throughput=12 -> breach 1/3, quiet
         t=5      throughput=12 -> breach 2/3, quiet
         t=10     throughput=12 -> breach 3/3, hold, note alert
         t=15..60 throughput=12 -> breach, hold, quiet
         t=65     throughput=120 -> pass",
    );
    World::with(vec![alert(critical(max("violations", "", 0.0)))]).play("t=0 violations=1 -> breach 1/1, hold, note alert");
}

#[test]
fn a_number_near_its_limit_is_told_once_until_it_has_drawn_back() {
    World::with(vec![max("cpu", "", 0.8)]).play(
        "t=0      cpu=0.5  -> pass, quiet
         t=5      cpu=0.65 -> pass, note degraded
         t=10..20 cpu=0.63 -> pass, quiet
         t=25     cpu=0.7  -> pass, quiet
         t=30     cpu=0.5  -> pass, quiet
         t=35     cpu=0.65 -> pass, note degraded",
    );
    World::with(vec![min("throughput", "req/s", 100.0)]).play(
        "t=0  throughput=200 -> pass, quiet
         t=5  throughput=120 -> pass, note degraded
         t=10 throughput=130 -> pass, quiet
         t=15 throughput=200 -> pass, quiet
         t=20 throughput=120 -> pass, note degraded",
    );
}

#[test]
fn numbers_that_stay_away_are_blindness() {
    World::with(vec![max("tokens", "", 100.0)]).play(
        "t=0     tokens=1 -> pass
         t=5..55 timeout  -> inconclusive, quiet
         t=60    timeout  -> note blind, phase blind, why: no answer in time
         t=65    tokens=1 -> note sighted",
    );
}

// === whose fault it is ===

#[test]
fn a_standby_over_the_same_limit_means_the_fleet_is_ill() {
    World::with(vec![max("p95", "ms", 1000.0)]).play(
        "t=0..5 p95=1500/1400 -> breach
         t=10   p95=1500/1400 -> suppressed, why: the standby color is just as bad now",
    );
}

#[test]
fn a_standby_that_was_over_the_same_limit_and_is_far_within_it_excuses_for_half_a_minute_more() {
    World::with(vec![max("p95", "ms", 1000.0)]).play(
        "t=0..5   p95=1500/1400 -> breach
         t=10..70 p95=1500/1400 -> suppressed
         t=75..95 p95=1500/300  -> suppressed
         t=100    p95=1500/300  -> rollback",
    );
    // A little better is no other color.
    World::with(vec![max("p95", "ms", 1000.0)]).play(
        "t=0..5    p95=1100/1100 -> breach
         t=10..120 p95=1100/1100 -> suppressed
         t=125..200 p95=1100/990 -> suppressed",
    );
}

#[test]
fn a_standby_a_little_over_the_limit_is_better_than_ten_times_of_it() {
    World::with(vec![max("p95", "ms", 1000.0)]).play(
        "t=0..5 p95=9000/1100 -> breach
         t=10   p95=9000/1100 -> rollback",
    );
}

#[test]
fn a_multiple_of_the_standby_is_never_the_standbys_fault() {
    // Both are over 1000 ms, and the release is still half as slow again as what it replaced.
    let rule = ScalarRule {
        max: Some(1000.0),
        ..to_standby(1.2)
    };
    World::with(vec![scalar("p95", "ms", rule)]).play(
        "t=0..5 p95=1800/1200 -> breach
         t=10   p95=1800/1200 -> rollback",
    );
}

#[test]
fn a_standby_without_traffic_is_no_excuse_for_lost_throughput() {
    World::with(vec![min("throughput", "req/s", 100.0)]).play(
        "t=0..5 throughput=12/0 -> breach
         t=10   throughput=12/0 -> rollback",
    );
    // Nor is one with a trickle of it.
    World::with(vec![min("throughput", "req/s", 100.0)]).play(
        "t=0..5 throughput=12/3 -> breach
         t=10   throughput=12/3 -> rollback",
    );
    World::with(vec![min("analyses", "per s", 1.0)]).play("t=0..5 analyses=0/0 -> breach\nt=10 analyses=0/0 -> rollback");
    World::with(vec![min("quality", "%", 70.0)]).play(
        "t=0..5 quality=60/62 -> breach
         t=10   quality=60/62 -> suppressed, why: the standby color is just as bad now",
    );
}

#[test]
fn what_was_over_the_limit_before_the_switch_is_not_the_releases_fault() {
    let p95 = || World::with(vec![max("p95", "ms", 1000.0)]);
    p95().play(
        "t=0..5 p95=1500 p95.before=1400 -> breach
         t=10   p95=1500 p95.before=1400 -> suppressed, why: already over the threshold before the switch",
    );
    p95().play(
        "t=0..5 p95=1500 p95.before=400 -> breach
         t=10   p95=1500 p95.before=400 -> rollback",
    );
    let mut told = p95();
    told.baselines = vec![("p95", Baseline::Number(1400.0))];
    told.play("t=0..5 p95=1500 -> breach\nt=10 p95=1500 -> suppressed");
    // It excuses the minutes after the switch, not a fault after the watch.
    let mut late = p95();
    late.policy.after_watch = AfterWatch::Full;
    late.switched_at = Some(-7200);
    late.play("t=0..5 p95=1500 p95.before=1400 -> breach\nt=10 p95=1500 p95.before=1400 -> rollback");
}

#[test]
fn a_multiple_of_before_is_no_fault_of_before_but_may_be_the_fleets() {
    World::with(vec![scalar("p95", "ms", to_before(1.2))]).play(
        "t=0..5 p95=420/400 p95.before=300 -> breach
         t=10   p95=420/400 p95.before=300 -> suppressed, why: the standby color is just as bad now",
    );
    World::with(vec![scalar("p95", "ms", to_before(1.2))]).play(
        "t=0..5 p95=420/310 p95.before=300 -> breach
         t=10   p95=420/310 p95.before=300 -> rollback",
    );
}
