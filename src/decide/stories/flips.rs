//! Switches, and what stands against a flip.

use super::{
    story,
    world::{World, error_rate},
};

#[test]
fn a_switch_begins_everything_anew() {
    story(
        "t=0
         t=5..10  500/62        -> breach
         t=15     500/62 switch -> waiting 0/3, note switched, phase watching
         t=20..25 500/62        -> breach
         t=30     500/62        -> suppressed",
    );
}

#[test]
fn another_release_under_the_same_color_is_a_switch() {
    story(
        "t=0
         t=5..10  500/0             -> pass
         t=15     500/62 release=v3 -> waiting 0/3, note switched
         t=20..25 500/62            -> breach
         t=30     500/62            -> rollback",
    );
}

#[test]
fn somebody_flipping_back_is_told_as_undone_and_not_fought() {
    let mut world = World::default();
    world.play(
        "t=0
         t=5..10    500/62 -> breach
         t=15       500/62 -> rollback
         t=20       flip   -> note switched
         t=25..35   500/0  -> pass
         t=40       500/62 switch -> waiting, note switched",
    );
    let undone = world
        .decision()
        .notes
        .iter()
        .any(|note| matches!(note, crate::model::Note::Switched { undone: true, .. }));
    assert!(undone, "{:?}", world.decision().notes);
    world.play(
        "t=45..50    500/62 -> breach
         t=55..1000  500/62 -> blocked, phase blocked, why: was already flipped away from automatically",
    );
}

#[test]
fn a_new_release_after_a_rollback_is_not_undone_and_waits_for_the_cooldown() {
    let mut world = World::default();
    world.play(
        "t=0
         t=5..10    500/62 -> breach
         t=15       500/62 -> rollback
         t=20       flip   -> note switched
         t=25..35   500/0  -> pass
         t=40       500/0 switch release=v3 -> note switched",
    );
    assert!(
        !world
            .decision()
            .notes
            .iter()
            .any(|note| matches!(note, crate::model::Note::Switched { undone: true, .. }))
    );
    world.play(
        "t=45..50   500/62 -> breach
         t=55..615  500/62 -> blocked, why: in cooldown
         t=620      500/62 -> rollback",
    );
}

#[test]
fn without_releases_a_flip_back_within_the_watch_counts_as_undone() {
    let mut world = World::default();
    world.releases = false;
    world.play(
        "t=0
         t=5..10    500/62 -> breach
         t=15       500/62 -> rollback
         t=20       flip   -> note switched
         t=25..35   500/0  -> pass
         t=40       500/62 switch -> note switched
         t=45..50   500/62 -> breach
         t=55..1800 500/62 -> blocked, why: release of green was already",
    );
}

#[test]
fn a_paused_guard_judges_and_tells_and_does_not_move() {
    story(
        "t=0      500/0
         t=5      500/62 pause -> breach, note pause_changed, phase paused
         t=10     500/62 -> breach, quiet
         t=15     500/62 -> blocked, phase paused, why: paused by ada
         t=20     500/62 resume -> rollback, note pause_changed",
    );
}

#[test]
fn three_flips_a_day_disarm_the_guard() {
    let mut world = World::default();
    world.policy.cooldown = std::time::Duration::ZERO;
    let mut t = 0;
    for release in ["v3", "v4", "v5"] {
        world.play(&format!("t={t} 500/0 release={release}"));
        world.play(&format!("t={} 500/62 -> breach 1/3", t + 5));
        world.play(&format!("t={} 500/62 -> breach 2/3", t + 10));
        world.play(&format!("t={} 500/62 -> breach 3/3, rollback", t + 15));
        let disarmed = if release == "v5" { ", note disarmed, phase disarmed" } else { "" };
        world.play(&format!("t={} flip -> note switched{disarmed}", t + 20));
        // A person fixes the release on the color that was left, and switches to it.
        world.play(&format!("t={} 500/0", t + 25));
        world.play(&format!("t={} switch release={release}-fixed", t + 30));
        t += 400;
    }
    world.play(&format!("t={t} 500/0\nt={} 500/62 -> breach\nt={} 500/62 -> breach", t + 5, t + 10));
    world.play(&format!(
        "t={} 500/62 -> blocked, phase disarmed, why: disarmed after 3 automatic flips in 24 h",
        t + 15
    ));
}

#[test]
fn the_restored_color_is_judged_and_never_flipped() {
    story(
        "t=0
         t=5..10   500/62 -> breach
         t=15      500/62 -> rollback
         t=20      flip   -> note switched, phase rolled_back
         t=25..30  500/0  -> pass, phase rolled_back
         t=35      500/0  -> pass, note recovered
         t=40      500/0  -> quiet
         t=45..50  500/90 -> breach
         t=55      500/90 -> suppressed, note did_not_help
         t=60      500/90 -> suppressed, quiet
         t=65..70  500/0  -> pass
         t=75      500/0  -> pass, note recovered",
    );
}

/// Green was rolled back from; what is there now is good, and then another release comes to blue, which the rollback had restored.
const BACK_AGAIN: &str = "t=0
     t=5..10   500/62 -> breach
     t=15      500/62 -> rollback
     t=20      flip   -> note switched, phase rolled_back
     t=25..35  500/0  -> pass
     t=40      500/0 switch release=v3 -> note switched
     t=45..700 500/0  -> pass
     t=705     500/0 switch-by=deploy-pipeline release=v4 -> note switched";

#[test]
fn a_release_that_is_brought_to_the_restored_color_later_is_judged_like_any() {
    let mut world = World::default();
    world.play(BACK_AGAIN);
    world.play(
        "t=710..715 500/62 -> breach
         t=720      500/62 -> rollback",
    );
}

#[test]
fn so_it_is_after_a_restart() {
    let mut world = World::default();
    world.play(BACK_AGAIN);
    world.play(
        "t=710      500/0 restart
         t=715..720 500/62 -> breach
         t=725      500/62 -> rollback",
    );
}

#[test]
fn a_release_that_is_put_onto_the_restored_color_is_judged_like_any_after_a_restart_too() {
    for restart in ["", "restart"] {
        let mut world = World::default();
        world.play(&format!(
            "t=0
             t=5..10    500/62 -> breach
             t=15       500/62 -> rollback
             t=20       flip   -> note switched, phase rolled_back
             t=25..700  500/0  -> pass
             t=705      500/0 release=v4 -> note switched
             t=710      500/0 {restart}
             t=715      500/0
             t=720..725 500/62 -> breach
             t=730      500/62 -> blocked, why: was rolled back from"
        ));
    }
}

#[test]
fn a_persons_rollback_is_watched_like_our_own() {
    story(
        "t=0
         t=5       500/0  -> pass
         t=10      rollback-by-hand -> note switched, phase rolled_back
         t=15..20  500/0  -> pass
         t=25      500/0  -> pass, note recovered",
    );
}

#[test]
fn while_the_route_cannot_be_read_everything_is_frozen() {
    let mut world = World::with(vec![error_rate(0.05), super::world::endpoints()]);
    world.play(
        "t=0
         t=5..10  500/62            -> breach
         t=15     500/62 unreadable -> inconclusive 2/3, note unreadable, phase unreadable, why: the API server does not answer
         t=20..60 500/62 unreadable -> inconclusive 2/3, quiet
         t=65     500/62            -> breach 3/3, rollback, note readable",
    );
}

#[test]
fn an_unknown_color_is_loud_and_moves_nothing() {
    story(
        "t=0
         t=5..15  500/500 unknown -> inconclusive, phase unknown_color, why: purple
         t=20     500/0 -> note readable",
    );
}

#[test]
fn downtime_while_nothing_could_be_read_is_not_held_against_the_release() {
    World::with(vec![super::world::endpoints()]).play(
        "t=0      ready=3/3  -> pass
         t=5      ready=0/3  -> breach
         t=10..60 unreadable -> inconclusive
         t=65     -> breach 2/3, hold
         t=70     -> breach 3/3, rollback",
    );
}

#[test]
fn a_rollback_waits_for_no_consent_of_the_color_it_leaves() {
    story(
        "t=0     ready=0/1
         t=5..10 500/62 -> breach
         t=15    500/62 -> rollback",
    );
}

#[test]
fn held_evidence_does_not_move_traffic_while_there_is_no_data() {
    story(
        "t=0     ready=3/0
         t=5..10 500/62  -> breach
         t=15    500/62  -> blocked
         t=20    timeout -> blocked
         t=25    timeout ready=3/3 -> hold, why: not flipped before there is usable data again
         t=30    500/62  -> rollback",
    );
}

#[test]
fn neither_does_evidence_that_has_not_moved_for_a_minute() {
    story(
        "t=0      ready=3/0
         t=5..10  500/62 -> breach
         t=15     500/62 -> blocked
         t=20..70 stale  -> blocked
         t=75     stale  -> blocked, note blind
         t=80     stale ready=3/3 -> hold
         t=85     500/62 -> rollback, note sighted",
    );
}

#[test]
fn a_flip_under_way_is_not_given_up_because_the_data_went_away() {
    story(
        "t=0
         t=5..10 500/62  -> breach
         t=15    500/62  -> rollback
         t=20    timeout -> inconclusive 3/3, rollback",
    );
}

#[test]
fn a_person_may_flip_where_the_rules_may_not_but_only_to_a_color_that_serves() {
    let mut world = World::default();
    world.play("t=0 pause");
    assert_eq!(world.manual(5, "blue"), "green to blue: ada: looks bad");
    assert_eq!(
        world.manual(5, "green"),
        "the standby color cannot serve: 0 Ready endpoints, 2 needed"
    );
    world.play("t=5 ready=3/1");
    assert_eq!(
        world.manual(5, "blue"),
        "the standby color cannot serve: 1 Ready endpoints, 2 needed"
    );
}

#[test]
fn a_standby_that_nobody_can_see_gets_no_traffic() {
    let mut world = World::default();
    world.play(
        "t=0     ready=3/3
         t=5..10 500/62 -> breach
         t=15    500/62 unwatched -> blocked, phase blocked, why: the standby cannot be seen
         t=20    500/62 -> rollback",
    );
}
