//! Somebody else moves the route: told with who and when, left to people, or made again where the guard allows it.

use std::time::Duration;

use super::world::World;
use crate::model::{Note, Phase, Reaction, Verdict};

/// A guard that makes a rollback again, twice.
fn twice() -> World {
    let mut world = World::default();
    world.policy.reassert.times = 2;
    world
}

/// Green is bad and was rolled back from at t=20.
const ROLLED_BACK: &str = "t=0
     t=5..10   500/62 -> breach
     t=15      500/62 -> rollback
     t=20      flip   -> note switched
     t=25      500/0  -> pass";

/// What the last look told of an undone rollback: by whom, after how long, what is done.
fn undone(world: &World) -> Option<(Option<String>, Option<u64>, Reaction)> {
    world.decision().notes.iter().find_map(|note| match note {
        Note::Switched {
            undone: true,
            by,
            after_seconds,
            reaction,
            ..
        } => Some((by.clone(), *after_seconds, reaction.clone().expect("told"))),
        _ => None,
    })
}

fn argo() -> Option<String> {
    Some("argocd-controller".into())
}

#[test]
fn without_leave_an_undone_rollback_is_told_and_left() {
    let mut world = World::default();
    world.play(ROLLED_BACK);
    world.play("t=30 500/62 switch-by=argocd-controller -> note switched");
    assert_eq!(undone(&world), Some((argo(), Some(10), Reaction::Nothing)));
    world.play(
        "t=35..40   500/62 -> breach
         t=45..1000 500/62 -> blocked, why: was already flipped away from automatically",
    );
}

#[test]
fn a_controllers_undoing_is_undone_twice_after_growing_pauses_and_then_given_up() {
    let mut world = twice();
    world.play(ROLLED_BACK);
    world.play("t=30 500/62 switch-by=argocd-controller -> note switched, hold");
    let first = Reaction::Reassert {
        after_seconds: 10,
        attempt: 1,
        of: 2,
    };
    assert_eq!(undone(&world), Some((argo(), Some(10), first)));
    world.play(
        "t=35 500/0 -> hold
         t=40 500/0 -> rollback, path reassert 1/2 of argocd-controller, why: argocd-controller undid the rollback after 10 s (12 % over 5 %)
         t=45 flip  -> note switched, phase rolled_back
         t=50 500/0 switch-by=argocd-controller -> note switched, hold",
    );
    let second = Reaction::Reassert {
        after_seconds: 30,
        attempt: 2,
        of: 2,
    };
    assert_eq!(undone(&world), Some((argo(), Some(5), second)));
    world.play(
        "t=55..75 500/0 -> hold
         t=80 500/0 -> rollback, path reassert 2/2 of argocd-controller
         t=85 flip  -> note switched, note disarmed
         t=90 500/0 switch-by=argocd-controller -> note switched",
    );
    assert_eq!(undone(&world), Some((argo(), Some(5), Reaction::GivenUp { times: 2 })));
    world.play("t=95..1500 500/0 -> hold");
}

#[test]
fn a_person_is_never_fought_whatever_the_guard_lists() {
    for by in ["kubectl-patch", "kubectl-client-side-apply", "kubectl-edit", "helm", "Mozilla"] {
        let mut world = twice();
        world.policy.reassert.managers = vec!["*".into(), by.into()];
        world.play(ROLLED_BACK);
        world.play(&format!("t=30 500/0 switch-by={by} -> note switched\nt=35..900 500/0 -> hold"));
    }
}

#[test]
fn a_manager_that_is_not_listed_is_left_alone() {
    let mut world = twice();
    world.play(ROLLED_BACK);
    world.play(
        "t=30      500/0 switch-by=release-robot -> note switched
         t=35..900 500/0 -> hold",
    );
}

#[test]
fn a_rollback_undone_before_anybody_looked_is_seen() {
    let mut world = twice();
    world.play(
        "t=0
         t=5..10 500/62 -> breach
         t=15    500/62 -> rollback
         t=20    500/62 flip-and-back-by=argocd-controller -> waiting 0/3, note switched, hold",
    );
    let first = Reaction::Reassert {
        after_seconds: 10,
        attempt: 1,
        of: 2,
    };
    assert_eq!(undone(&world), Some((argo(), Some(0), first)));
    world.play(
        "t=25 500/0 -> quiet
         t=30 500/0 -> rollback, path reassert 1/2 of argocd-controller",
    );
}

#[test]
fn a_restart_forgets_neither_the_attempts_nor_the_pause() {
    let mut world = twice();
    world.play(ROLLED_BACK);
    world.play(
        "t=30 500/0 switch-by=argocd-controller -> note switched
         t=35 500/0 restart -> hold, note switched
         t=40 500/0 -> rollback, path reassert 1/2 of argocd-controller
         t=45 restart flip -> phase rolled_back
         t=50 restart switch-by=argocd-controller -> note switched
         t=75 500/0 -> hold
         t=80 500/0 restart -> rollback, path reassert 2/2 of argocd-controller",
    );
}

#[test]
fn everything_else_that_stands_against_a_flip_stands_against_making_it_again() {
    let refused = |happened: &str| {
        let mut world = twice();
        world.play(ROLLED_BACK);
        world.play("t=30 500/0 switch-by=argocd-controller -> note switched");
        world.play(&format!("t=35 500/0 {happened}"));
        world.play("t=40 500/0 -> blocked");
        world.decision().why.clone()
    };
    assert!(refused("pause").contains("not made again: the guard is paused by ada"));
    assert!(refused("ready=3/0").contains("not made again: the standby color cannot serve"));
    let mut world = twice();
    world.policy.flips_per_day = 1;
    world.play(ROLLED_BACK);
    world.play(
        "t=30 500/0 switch-by=argocd-controller -> note switched
         t=35 500/0
         t=40 500/0 -> blocked, phase disarmed, why: disarmed after 1 automatic flips in 24 h",
    );
    // It is retried, and made the moment it may be.
    world.play("t=45 500/0 arm -> rollback, note rearmed");
}

#[test]
fn days_later_it_is_a_decision_and_no_reflex() {
    let mut world = twice();
    world.play(ROLLED_BACK);
    world.play(
        "t=1815      500/0
         t=1825      500/0 switch-by=argocd-controller -> note switched
         t=1830..1900 500/0 -> hold",
    );
    assert_eq!(undone(&world), None, "it is told once");
}

#[test]
fn another_release_is_nothing_to_make_again() {
    let mut world = twice();
    world.play(ROLLED_BACK);
    world.play(
        "t=30      500/0 switch-by=argocd-controller release=v3 -> note switched
         t=35..300 500/0 -> hold",
    );
}

#[test]
fn a_persons_rollback_is_made_again_as_well() {
    let mut world = twice();
    world.play(
        "t=0
         t=5   500/0  -> pass
         t=10  rollback-by-hand -> note switched
         t=15  500/0 switch-by=argocd-controller -> note switched
         t=20  500/0 -> hold
         t=25  500/0 -> rollback, path reassert 1/2 of argocd-controller",
    );
}

#[test]
fn the_rule_that_rolled_back_says_whether_the_restored_color_is_well() {
    let mut world = twice();
    world.play(ROLLED_BACK);
    world.play(
        "t=30     500/0 switch-by=argocd-controller -> note switched
         t=35     500/0
         t=40     500/0 -> rollback
         t=45     flip -> note switched, phase rolled_back
         t=50..55 500/0 -> pass
         t=60     500/0 -> pass, note recovered",
    );
}

#[test]
fn a_forgotten_release_is_no_more_than_any_other() {
    let mut world = World::default();
    world.policy.cooldown = Duration::ZERO;
    world.play(ROLLED_BACK);
    world.play(
        "t=30     500/62 switch-by=kubectl-patch -> note switched
         t=35..40 500/62 -> breach
         t=45     500/62 -> blocked, why: was already flipped away from
         t=50     500/62 forget -> rollback, note forgotten
         t=55     500/62 -> rollback, quiet",
    );
}

#[test]
fn a_new_release_of_the_bad_color_clears_its_mark() {
    let mut world = World::default();
    world.policy.cooldown = Duration::ZERO;
    world.policy.watch = Duration::from_secs(60);
    world.play(ROLLED_BACK);
    // Blue is replaced, goes bad, and green still runs what was rolled back from.
    world.play(
        "t=100     500/0 release=v3 -> note switched
         t=105..110 500/62 -> breach
         t=115     500/62 -> blocked, why: the standby color runs release v2
         t=120     500/62 standby-release=v4 -> rollback",
    );
}

#[test]
fn arming_again_is_told_with_who_and_so_is_time() {
    let disarmed = |world: &mut World| {
        world.policy.flips_per_day = 1;
        world.play(ROLLED_BACK);
        assert_eq!(world.decision().phase, Phase::Disarmed);
        assert!(matches!(world.decision().verdict, Verdict::Hold));
    };
    let mut world = World::default();
    disarmed(&mut world);
    world.play("t=30 500/0 arm -> note rearmed, phase rolled_back\nt=35 500/0\nt=40 500/0 -> quiet");

    let mut world = World::default();
    disarmed(&mut world);
    world.play("t=86425 500/0 -> note rearmed");
    let by_time = world.decision().notes.iter().any(|note| matches!(note, Note::Rearmed { by: None }));
    assert!(by_time, "{:?}", world.decision().notes);
}

#[test]
fn what_was_cleared_before_a_restart_is_not_told_again() {
    let mut world = World::default();
    world.play(ROLLED_BACK);
    world.play(
        "t=30 500/0 forget -> note forgotten
         t=35 500/0 restart
         t=40 500/0 -> quiet",
    );
}
