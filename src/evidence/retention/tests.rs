use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::evidence::{
    made::{Shelf, later},
    stock,
};

const GUARDS: [&str; 3] = ["shop/web", "shop/api", "shop/cart"];

fn kept(n: usize, guard: usize, hour: i64, bytes: u64, bits: (bool, bool, bool)) -> Kept {
    let at = Timestamp::from_second(1_800_000_000 + hour * 3600).expect("in range");
    Kept {
        id: format!("{n:03}"),
        guard: GUARDS[guard].to_owned(),
        at,
        bytes,
        pinned: bits.0,
        partial: bits.1,
        awaits_copy: bits.2 && !bits.1,
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000 + 100 * 3600).expect("in range")
}

fn bundles() -> impl Strategy<Value = Vec<Kept>> {
    // Times repeat, and some are in the future: clocks step.
    let one = (
        0..GUARDS.len(),
        0..110_i64,
        0..50_u64,
        (prop::bool::weighted(0.2), prop::bool::weighted(0.1), prop::bool::weighted(0.3)),
    );
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let each = all.into_iter().enumerate();
        each.map(|(n, (guard, hour, bytes, bits))| kept(n, guard, hour, bytes, bits))
            .collect()
    })
}

fn limits() -> impl Strategy<Value = Retention> {
    (0..30_u32, 0..120_u64, 0..800_u64).prop_map(|(count, hours, bytes)| Retention {
        count,
        age: Duration::from_secs(hours * 3600),
        bytes,
    })
}

fn order(one: &Kept) -> (Timestamp, &str) {
    (one.at, &one.id)
}

/// What no limit takes.
fn is_held(one: &Kept, all: &[Kept]) -> bool {
    let newer = |other: &&Kept| !other.partial && order(other) > order(one);
    one.pinned || one.partial || !all.iter().filter(newer).any(|other| other.guard == one.guard)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_newest_pinned_and_unfinished_are_never_deleted(all in bundles(), retention in limits()) {
        let plan = plan(&all, &retention, now());
        prop_assert_eq!(plan.delete.len() + plan.keep.len(), all.len());
        for (one, _) in &plan.delete {
            prop_assert!(!is_held(one, &all), "{:?}", one);
        }
        let newest = all.iter().filter(|one| !one.partial).max_by_key(|one| order(one));
        prop_assert!(newest.is_none_or(|newest| plan.keep.iter().any(|(one, _)| one == newest)));
    }

    #[test]
    fn limits_are_kept_whenever_possible(all in bundles(), retention in limits()) {
        let plan = plan(&all, &retention, now());
        let free = |one: &Kept| !is_held(one, &all);
        for reason in plan.exceeded(&retention, now()) {
            for (one, _) in plan.keep.iter().filter(|(one, _)| free(one)) {
                prop_assert!(reason != Reason::Bytes, "{:?} could go for bytes", one);
                prop_assert!(one.awaits_copy || reason == Reason::Age && !is_old(one, &retention, now()), "{:?} could go for {:?}", one, reason);
            }
        }
    }

    #[test]
    fn no_more_goes_than_must_and_the_oldest_first(all in bundles(), retention in limits()) {
        let plan = plan(&all, &retention, now());
        let stays: Vec<&Kept> = plan.keep.iter().map(|(one, _)| one).filter(|one| !is_held(one, &all)).collect();
        for (gone, reason) in &plan.delete {
            let older = |one: &&&Kept| one.awaits_copy == gone.awaits_copy && order(one) < order(gone);
            prop_assert!(!stays.iter().any(|one| older(&one)), "an older one stays while {:?} goes", gone);
            prop_assert!(!gone.awaits_copy || *reason == Reason::Bytes, "{:?} was not copied yet", gone);
            if gone.awaits_copy {
                prop_assert!(stays.iter().all(|one| one.awaits_copy), "others go first");
            }
        }
        // Without the last one to go there would still be too much.
        let whole = plan.keep.iter().filter(|(one, _)| !one.partial).count();
        if plan.delete.iter().any(|(_, reason)| *reason == Reason::Count) {
            prop_assert!(whole >= retention.count as usize || plan.delete.iter().any(|(_, reason)| *reason == Reason::Bytes));
        }
        if let Some(last) = plan.delete.iter().filter(|(_, reason)| *reason == Reason::Bytes).map(|(one, _)| one.bytes).max() {
            prop_assert!(plan.left() + last > retention.bytes);
        }
    }

    #[test]
    fn obeying_twice_is_obeying_once(all in bundles(), retention in limits()) {
        let first = plan(&all, &retention, now());
        let left: Vec<Kept> = first.keep.iter().map(|(one, _)| one.clone()).collect();
        let second = plan(&left, &retention, now());
        prop_assert!(second.delete.is_empty(), "{:?}", second.delete);
        prop_assert_eq!(second.keep, first.keep);
    }

    #[test]
    fn the_order_of_the_folder_does_not_matter(all in bundles(), retention in limits()) {
        let mut turned = all.clone();
        turned.reverse();
        prop_assert_eq!(plan(&all, &retention, now()), plan(&turned, &retention, now()));
    }

    #[test]
    fn a_full_disk_gets_its_room_or_all_there_is_to_give(all in bundles(), wanted in 0..800_u64) {
        let plan = plan_room(&all, wanted);
        let newest = all.iter().filter(|one| !one.partial).max_by_key(|one| order(one));
        for (one, _) in &plan.delete {
            prop_assert!(!one.pinned && !one.partial && Some(one) != newest);
        }
        let could = plan.keep.iter().filter(|(one, _)| !one.pinned && !one.partial && Some(one) != newest).count();
        prop_assert!(plan.freed() >= wanted || could == 0);
    }
}

#[test]
fn what_awaits_its_copy_outlives_count_and_age_but_not_bytes() {
    let all = [
        kept(0, 0, 0, 10, (false, false, true)),
        kept(1, 0, 1, 10, (false, false, false)),
        kept(2, 0, 2, 10, (false, false, true)),
        kept(3, 0, 99, 10, (false, false, true)),
    ];
    let limits = |count, hours: u64, bytes| Retention {
        count,
        age: Duration::from_secs(hours * 3600),
        bytes,
    };
    let gone = |retention| -> Vec<String> { plan(&all, &retention, now()).delete.into_iter().map(|(one, _)| one.id).collect() };
    assert_eq!(gone(limits(1, 1, 1000)), ["001"], "only what is copied");
    assert_eq!(gone(limits(1, 1, 25)), ["000", "001"], "the disk comes first");
    assert_eq!(gone(limits(0, 0, 0)), ["000", "001", "002"], "the newest stays");
}

#[test]
fn a_clock_that_went_back_deletes_nothing_for_its_age() {
    let all = [kept(0, 0, 200, 1, Default::default()), kept(1, 0, 201, 1, Default::default())];
    let retention = Retention {
        count: 9,
        age: Duration::ZERO,
        bytes: 99,
    };
    assert!(plan(&all, &retention, now()).delete.is_empty());
}

fn settings(count: u32) -> EvidenceSettings {
    EvidenceSettings {
        retention: Retention {
            count,
            ..Retention::default()
        },
        ..EvidenceSettings::default()
    }
}

#[test]
fn the_oldest_bundles_leave_the_disk() {
    let shelf = Shelf::new();
    for hour in 0..5 {
        shelf.bundle("web", hour, 100);
    }
    shelf.bundle("api", 0, 100);
    let pinned = shelf.names()[1].clone();
    stock::pin(&shelf.incidents.join(&pinned)).expect("pins");
    let begun = shelf.begin("web", 6);
    std::fs::create_dir(shelf.incidents.join("lost+found")).expect("ours");
    let pruned = enforce(&shelf.incidents, &settings(3), later(7)).expect("lists");
    assert_eq!(pruned.deleted.len(), 3);
    assert!(pruned.failed.is_empty() && pruned.bytes > 300);
    let newest = "shop.web_20261121T081234.567Z";
    assert_eq!(
        shelf.names(),
        [
            ".partial-shop.web_20261121T101234.567Z",
            "lost+found",
            "shop.api_20261121T041234.567Z",
            pinned.as_str(),
            newest
        ]
    );
    assert!(begun.partial.join("incident.json").exists());
    assert_eq!(enforce(&shelf.incidents, &settings(3), later(7)).expect("lists"), Pruned::default());
}

#[test]
fn what_a_crash_left_half_deleted_is_gone_next_time() {
    let shelf = Shelf::new();
    let old = shelf.bundle("web", 0, 1000);
    shelf.bundle("web", 1, 10);
    let left = shelf.incidents.join(format!("{LEAVING}shop.web_20261121T041234.567Z"));
    std::fs::rename(&old, &left).expect("ours");
    std::fs::remove_file(left.join("incident.json")).expect("ours");
    assert!(
        stock::stock(&shelf.incidents, None)
            .expect("lists")
            .iter()
            .all(|one| one.folder != left)
    );
    enforce(&shelf.incidents, &settings(9), later(2)).expect("lists");
    assert_eq!(shelf.names(), ["shop.web_20261121T051234.567Z"]);
}

#[test]
fn a_full_disk_takes_the_oldest_and_never_the_newest() {
    let shelf = Shelf::new();
    shelf.bundle("web", 0, 40 << 20);
    shelf.bundle("web", 1, 40 << 20);
    shelf.bundle("web", 2, 10);
    shelf.bundle("api", 3, 10);
    let freed = regain(&shelf.incidents, &settings(9)).expect("lists");
    assert!(freed >= REGAINED_BYTES);
    assert_eq!(shelf.names(), ["shop.api_20261121T071234.567Z", "shop.web_20261121T061234.567Z"]);
    regain(&shelf.incidents, &settings(9)).expect("lists");
    assert_eq!(
        shelf.names(),
        ["shop.api_20261121T071234.567Z"],
        "another guard's newest goes, the newest stays"
    );
    assert_eq!(regain(&shelf.incidents, &settings(9)).expect("lists"), 0);
}

#[test]
fn a_folder_that_does_not_exist_holds_nothing() {
    let shelf = Shelf::new();
    let nowhere = shelf.beside("nowhere");
    assert_eq!(enforce(&nowhere, &settings(0), later(0)).expect("lists"), Pruned::default());
}
