//! Which guard is in which shard, and which replica should have which shard. Pure, and the same on every replica.
//!
//! Both are rendezvous hashing: every candidate gets a score from its own name and the thing's, and the highest wins. So
//! nothing is agreed on, and a candidate that goes moves only what it had.
//!
//! Scores alone would leave two replicas with three and one of four shards as often as not. So shards are shared out evenly,
//! and nobody gives up more than evenness asks for: a replica keeps what it has up to its share, and scores decide what
//! it gives up and who gets what is free. With a single shard this means that the leader stays the leader, whoever comes.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::sight::Standing;

/// The shard of a guard, of `shards`.
#[must_use]
pub fn shard_of(guard: &str, shards: u32) -> u32 {
    (0..shards.max(1))
        .max_by_key(|shard| score(guard, &format!("shard {shard}")))
        .unwrap_or_default()
}

/// Who should hold which shard.
///
/// `holders` are those that hold each now, as far as they are alive; `alive` are all that are, and how each stands: who is not
/// warm is given nothing while another is, and who is blind does not keep what it has either.
#[must_use]
pub fn assign(holders: &[Option<String>], alive: &BTreeMap<String, Standing>) -> Vec<Option<String>> {
    let mut holding: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (shard, holder) in holders.iter().enumerate() {
        if let Some(holder) = holder {
            holding.entry(holder).or_default().push(shard);
        }
    }
    let any_warm = alive.values().any(|one| one.is_warm());
    let any_seasoned = alive.values().any(|one| one.seasoned);
    let mut candidates: Vec<&str> = alive
        .iter()
        .filter(|(name, one)| {
            let holds = holding.contains_key(name.as_str());
            if any_warm {
                one.is_warm() || (!one.yields && holds)
            } else {
                one.seasoned || holds || !any_seasoned
            }
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let held = |name: &str| holding.get(name).map_or(0, Vec::len);
    // Where shards do not divide evenly, those that have more keep more.
    candidates.sort_by(|a, b| held(b).cmp(&held(a)).then_with(|| score("more", b).cmp(&score("more", a))));
    let Some(each) = holders.len().checked_div(candidates.len()) else {
        return vec![None; holders.len()];
    };
    let more = holders.len() - each * candidates.len();
    let mut assigned: Vec<Option<String>> = vec![None; holders.len()];
    let mut room: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, name) in candidates.iter().enumerate() {
        let share = each + usize::from(place < more);
        let mut kept = holding.get(name).cloned().unwrap_or_default();
        kept.sort_by_key(|shard| std::cmp::Reverse(wanted(*shard, name)));
        kept.truncate(share);
        room.insert(name, share - kept.len());
        for shard in kept {
            assigned[shard] = Some((*name).to_owned());
        }
    }
    for (shard, place) in assigned.iter_mut().enumerate() {
        if place.is_some() {
            continue;
        }
        let best = room
            .iter_mut()
            .filter(|(_, room)| **room > 0)
            .max_by_key(|(name, _)| wanted(shard, name));
        if let Some((name, room)) = best {
            *room -= 1;
            *place = Some((*name).to_owned());
        }
    }
    assigned
}

fn wanted(shard: usize, name: &str) -> u64 {
    score(&format!("shard {shard}"), name)
}

/// The same on every machine and in every version: replicas of two versions agree during an update.
pub(super) fn score(thing: &str, candidate: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(thing)
        .chain_update([0])
        .chain_update(candidate)
        .finalize();
    digest.iter().take(8).fold(0, |score, byte| score << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WARM: Standing = Standing {
        seasoned: true,
        sees: true,
        yields: false,
    };
    const COLD: Standing = Standing { seasoned: false, ..WARM };
    const BLIND: Standing = Standing {
        sees: false,
        yields: true,
        ..WARM
    };

    fn loads(assigned: &[Option<String>]) -> BTreeMap<&str, usize> {
        let mut loads = BTreeMap::new();
        for name in assigned.iter().flatten() {
            *loads.entry(name.as_str()).or_default() += 1;
        }
        loads
    }

    fn replicas(count: usize) -> BTreeMap<String, Standing> {
        (0..count).map(|n| (format!("flipback-{n}_{:08x}", n * 7919), WARM)).collect()
    }

    #[test]
    fn the_shard_of_a_guard_is_written_in_stone() {
        // Replicas of two versions must agree: a change here moves guards between them during an update.
        let shards: Vec<u32> = ["shop/web", "shop/api", "eu/shop/web", "pay/card"]
            .iter()
            .map(|guard| shard_of(guard, 4))
            .collect();
        assert_eq!(shards, EXPECTED);
        assert_eq!(shard_of("shop/web", 1), 0);
        assert_eq!(shard_of("shop/web", 0), 0);
    }
    const EXPECTED: [u32; 4] = [1, 3, 3, 0];

    #[test]
    fn guards_are_spread_over_all_shards() {
        let mut counts = [0_u32; 8];
        for n in 0..4000 {
            counts[shard_of(&format!("ns-{}/guard-{n}", n % 7), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_single_leader_stays_the_leader_whoever_comes() {
        let all = replicas(5);
        for name in all.keys() {
            assert_eq!(assign(&[Some(name.clone())], &all), [Some(name.clone())]);
        }
    }

    #[test]
    fn nobody_is_given_anything_before_it_has_watched_for_a_while() {
        let alive = BTreeMap::from([("cold".to_owned(), COLD), ("warm".to_owned(), WARM)]);
        let held = vec![Some("warm".to_owned()); 4];
        assert_eq!(assign(&held, &alive), held);
        assert_eq!(assign(&vec![None; 4], &alive), held, "free shards too");
        // Where nobody has watched, everybody is as good.
        let cold = BTreeMap::from([("a".to_owned(), COLD), ("b".to_owned(), COLD)]);
        assert_eq!(loads(&assign(&vec![None; 4], &cold)), BTreeMap::from([("a", 2), ("b", 2)]));
    }

    #[test]
    fn who_sees_nothing_leaves_what_it_has_to_who_sees_and_to_nobody_else() {
        let (blind, other) = (("blind".to_owned(), BLIND), "other".to_owned());
        let held = vec![Some("blind".to_owned()); 3];
        for (standing, expected) in [(WARM, "other"), (COLD, "blind")] {
            let alive = BTreeMap::from([blind.clone(), (other.clone(), standing)]);
            let after = assign(&held, &alive);
            assert_eq!(
                after.iter().flatten().filter(|name| *name == expected).count(),
                3,
                "{standing:?}: {after:?}"
            );
        }
        // Nobody sees and nobody makes room: shards are shared out as ever.
        let dark = Standing { sees: false, ..WARM };
        let alive = BTreeMap::from([("blind".to_owned(), dark), (other, dark)]);
        assert_eq!(assign(&held[..1], &alive), held[..1]);
        assert_eq!(loads(&assign(&held, &alive))["blind"], 2);
    }

    #[test]
    fn without_anybody_there_is_no_answer() {
        assert_eq!(assign(&[None, None], &BTreeMap::new()), [None, None]);
        assert!(assign(&[], &replicas(2)).is_empty());
    }

    proptest! {
        /// More shards: a guard stays where it is, or goes to the new one.
        #[test]
        fn a_new_shard_takes_guards_and_moves_none_between_others(guard in "[a-z]{1,8}/[a-z]{1,8}", shards in 1_u32..12) {
            let (before, after) = (shard_of(&guard, shards), shard_of(&guard, shards + 1));
            prop_assert!(after == before || after == shards, "{} to {}", before, after);
        }

        /// From whatever stands, shards end up evenly shared, and no more of them move than evenness asks for.
        #[test]
        fn shards_are_even_and_as_few_as_can_be_are_moved(
            count in 1_usize..6,
            held in proptest::collection::vec(proptest::option::of(0_usize..6), 1..20),
        ) {
            let alive = replicas(count);
            let names: Vec<String> = alive.keys().cloned().collect();
            let holders: Vec<Option<String>> = held.iter().map(|n| n.and_then(|n| names.get(n).cloned())).collect();
            let assigned = assign(&holders, &alive);
            let after = loads(&assigned);
            let (least, most) = (holders.len() / count, holders.len().div_ceil(count));
            for name in &names {
                let load = after.get(name.as_str()).copied().unwrap_or_default();
                prop_assert!((least..=most).contains(&load), "{name} has {load} of {}: {after:?}", holders.len());
            }
            let moved = holders.iter().zip(&assigned).filter(|(before, after)| before.is_some() && before != after).count();
            prop_assert_eq!(moved, fewest_moves(&holders, count));
            prop_assert_eq!(assign(&assigned, &alive), assigned.clone(), "settled is settled");
        }

        /// One that dies leaves its shards to the others, and nothing else moves but what evenness asks for.
        #[test]
        fn only_the_dead_ones_shards_move(count in 2_usize..6, shards in 1_usize..20, dead in 0_usize..6) {
            let alive = replicas(count);
            let settled = assign(&vec![None; shards], &alive);
            let gone = alive.keys().nth(dead % count).cloned().expect("one of them");
            let left: BTreeMap<String, Standing> = alive.into_iter().filter(|(name, _)| *name != gone).collect();
            let holders: Vec<Option<String>> = settled.iter().map(|name| name.clone().filter(|name| *name != gone)).collect();
            let after = assign(&holders, &left);
            for (before, after) in settled.iter().zip(&after) {
                prop_assert!(before.as_deref() == Some(gone.as_str()) || before == after, "{before:?} to {after:?}");
            }
        }
    }

    /// By the numbers alone: what each has beyond its share, the larger shares going to those that have most.
    fn fewest_moves(holders: &[Option<String>], count: usize) -> usize {
        let mut had: Vec<usize> = loads(holders).into_values().collect();
        had.resize(count, 0);
        had.sort_unstable_by(|a, b| b.cmp(a));
        let (each, more) = (holders.len() / count, holders.len() % count);
        had.iter()
            .enumerate()
            .map(|(place, had)| had.saturating_sub(each + usize::from(place < more)))
            .sum()
    }
}
