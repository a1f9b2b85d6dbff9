//! What the five systems' scripts got wrong (SYSTEMS.md): each bug that is one of judgement, as a story named after it.
//! The others are bugs of deeds, and are guarded where deeds are done:
//!
//! | the scripts' bug | guarded by |
//! | --- | --- |
//! | the monitor died on its first loop (`((iteration++))` under `set -e`) | `the_monitor_died_on_its_first_loop` below; `tests/rollback.rs`: every test there runs the daemon for hundreds of loops |
//! | NaN (0/0, no traffic) was counted as a failure | `nan_was_counted_as_a_failure` |
//! | a missing series (`null`) was counted as a pass | `a_missing_series_was_counted_as_a_pass` |
//! | a dead Prometheus was a pass | `a_dead_prometheus_was_a_pass`; `tests/rollback.rs`: `a_dead_prometheus_moves_nothing_and_is_loud` |
//! | p99 was declared and never queried | `p99_was_declared_and_never_queried`; `tests/rollback.rs`: `a_slow_release_is_rolled_back` |
//! | when the error rate failed, latency was not looked at | `when_the_error_rate_failed_latency_was_not_looked_at` |
//! | "rollback" ran `rollout undo` on every Deployment; its Role could not patch Services | `tests/rollback.rs`: `a_failing_release_is_rolled_back_once_and_everybody_hears_of_it` (the audit log as witness); `tests/deploy.rs`: `the_monitor_runs_restricted_and_may_flip_its_services_only` |
//! | `kubectl apply` of the whole Service reset its type, ports and annotations | `tests/router.rs`: `a_flip_changes_the_key_and_the_ledger_and_not_another_byte` |
//! | the previous color was guessed without asking whether it is ready | `the_previous_color_was_not_asked_whether_it_is_ready`; `tests/rollback.rs`: `a_standby_that_is_not_ready_gets_no_traffic_until_it_is` |
//! | ... or was itself just rolled back from | `the_previous_color_was_itself_just_rolled_back_from` |
//! | chat was told before acting; a lost message was lost for ever | `tests/failures.rs`: `a_webhook_that_never_answers_holds_up_neither_a_rollback_nor_the_end`; `notify::outbox`: `a_server_error_is_retried_before_the_next_message` |
//! | counters lived in a shell variable: a restart forgot them | `a_restart_forgot_the_counters`; `tests/rollback.rs`: `a_restart_in_mid_streak_loses_time_and_nothing_else` |
//! | five minutes of blind sleep after each rollback | `five_minutes_of_blind_sleep_after_each_rollback` |
//! | the health check used the Service port on a pod address | `router::service`: `both_sides_are_told_with_the_port_the_service_targets`; here, what follows from a health check: `health_checks_alone_roll_back` |

use super::{
    story,
    world::{World, endpoints, error_rate, latency, probe},
};

#[test]
fn the_monitor_died_on_its_first_loop() {
    // The first look shows nothing, the second as little; it goes on, and judges as soon as there is something.
    story(
        "t=0       empty   -> inconclusive 0/3, phase starting
         t=5       timeout -> inconclusive 0/3
         t=10              -> waiting 0/3, phase starting
         t=15..20  500/62  -> breach
         t=25      500/62  -> breach 3/3, rollback",
    );
}

#[test]
fn nan_was_counted_as_a_failure() {
    story("t=0\nt=5..55 nan -> inconclusive 0/3");
}

#[test]
fn a_missing_series_was_counted_as_a_pass() {
    story(
        "t=0
         t=5..10 500/62 -> breach
         t=15    empty  -> inconclusive 2/3, phase breaching
         t=20    500/62 -> breach 3/3, rollback",
    );
}

#[test]
fn a_dead_prometheus_was_a_pass() {
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
fn p99_was_declared_and_never_queried() {
    World::with(vec![error_rate(0.05), latency(0.95), rename(latency(0.99), "p99")]).play(
        "t=0
         t=5..30  500/0 latency:500/0 p99:500/0   -> pass
         t=35..40 500/0 latency:500/20 p99:500/20 -> pass, latency: pass, p99: breach
         t=45     500/0 latency:500/20 p99:500/20 -> pass, latency: pass, p99: breach 3/3, rollback, why: that p99 allows",
    );
}

fn rename(mut rule: crate::model::RuleSpec, name: &str) -> crate::model::RuleSpec {
    rule.name = crate::model::RuleName::new(name).expect("valid");
    rule
}

#[test]
fn when_the_error_rate_failed_latency_was_not_looked_at() {
    World::with(vec![error_rate(0.05), latency(0.99)]).play(
        "t=0
         t=5..30  500/0                    -> pass
         t=35..40 500/62 latency:500/62  -> breach, latency: breach
         t=45     500/0  latency:500/62  -> pass, latency: breach 3/3, rollback, path fast, why: that p99 allows",
    );
}

#[test]
fn the_previous_color_was_not_asked_whether_it_is_ready() {
    story(
        "t=0     ready=4/1
         t=5..10 500/62 -> breach
         t=15    500/62 -> blocked, phase blocked, why: 1 Ready endpoints, why: 2 needed
         t=20    500/62 ready=4/2 -> rollback",
    );
}

#[test]
fn the_previous_color_was_itself_just_rolled_back_from() {
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
fn a_restart_forgot_the_counters() {
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
fn five_minutes_of_blind_sleep_after_each_rollback() {
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
fn health_checks_alone_roll_back() {
    World::with(vec![probe(0.5), endpoints()]).play(
        "t=0      probe=0/3 -> pass, endpoints: pass
         t=5..10  probe=3/3 -> breach
         t=15     probe=3/3 -> breach 3/3, rollback, path probe",
    );
}
