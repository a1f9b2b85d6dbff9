//! The model finds what is wrong, and agrees with what is right.

use crate::{
    model::*,
    script::{Script, Side, THRESHOLD},
};

const BEGUN: u64 = 1_800_000_000;

/// The values of a rule that was asked in these seconds.
fn judged(script: &Script, side: Side, seconds: &[u64]) -> Vec<f64> {
    seconds
        .windows(2)
        .map(|pair| script.share(7, side, BEGUN + pair[0], BEGUN + pair[1]))
        .collect()
}

fn script() -> Script {
    let script = Script::new(8, BEGUN);
    script.spoil(7, Side::Blue, BEGUN + 20, BEGUN + 24, 40);
    script
}

fn shown(history: Vec<f64>, streak: u32) -> Shown {
    Shown {
        active: Side::Blue,
        release: "1".to_owned(),
        history,
        streak,
        switches: Vec::new(),
    }
}

#[test]
fn every_second_once_and_the_right_streak_is_agreed_with() {
    let (script, mut model) = (script(), Model::new(7));
    // A look that came twice in a second, and one that came late, are no look and a longer interval.
    let seconds: Vec<u64> = (15..=20).chain([22, 23]).collect();
    let values = judged(&script, Side::Blue, &seconds);
    let bad = values.iter().rev().take_while(|value| **value > THRESHOLD).count();
    assert!(bad >= 2);
    assert_eq!(
        model.look(&script, &shown(values[..5].to_vec(), model_streak(&values[..5])), BEGUN + 24),
        Ok(())
    );
    assert_eq!(
        model.look(&script, &shown(values.clone(), model_streak(&values)), BEGUN + 24),
        Ok(())
    );
    assert_eq!((model.judgements, model.compared), (values.len() as u64, 2));
}

fn model_streak(values: &[f64]) -> u32 {
    values
        .iter()
        .fold(0, |streak, value| if *value > THRESHOLD { streak + 1 } else { 0 })
}

#[test]
fn a_second_left_out_or_counted_twice_is_found() {
    let script = script();
    for seconds in [[15, 16, 17], [16, 17, 18]] {
        let mut model = Model::new(7);
        let first = judged(&script, Side::Blue, &[15, 16]);
        let second = judged(&script, Side::Blue, &seconds[..2]);
        let third = judged(&script, Side::Blue, &[seconds[2] + 1, seconds[2] + 2]);
        let history = [first, second, third].concat();
        let streak = model_streak(&history);
        assert!(model.look(&script, &shown(history, streak), BEGUN + 24).is_err(), "{seconds:?}");
    }
}

#[test]
fn a_streak_that_is_off_by_one_is_found() {
    let script = script();
    let values = judged(&script, Side::Blue, &[18, 19, 20, 21, 22]);
    for off in [-1, 1] {
        let streak = model_streak(&values).saturating_add_signed(off);
        assert!(Model::new(7).look(&script, &shown(values.clone(), streak), BEGUN + 24).is_err());
    }
}

#[test]
fn after_a_switch_nothing_counts_that_was_counted_before() {
    let script = script();
    let mut model = Model::new(7);
    let before = judged(&script, Side::Green, &[14, 15, 16]);
    let green = |history: Vec<f64>| Shown {
        active: Side::Green,
        release: "1".to_owned(),
        streak: model_streak(&history),
        history,
        switches: Vec::new(),
    };
    assert_eq!(model.look(&script, &green(before.clone()), BEGUN + 16), Ok(()));
    model.moved(BEGUN + 18);
    let blue = |from: u64| shown([before.clone(), judged(&script, Side::Blue, &[from, from + 1])].concat(), 0);
    let streak = |mut shown: Shown| {
        shown.streak = model_streak(&shown.history[2..]);
        shown
    };
    assert!(model.clone().look(&script, &streak(blue(17)), BEGUN + 20).is_err());
    assert_eq!(model.look(&script, &streak(blue(18)), BEGUN + 20), Ok(()));
}

#[test]
fn a_history_that_begins_anew_unasked_is_found() {
    let script = script();
    let mut model = Model::new(7);
    let values = judged(&script, Side::Blue, &[2, 3, 4, 5, 6]);
    assert_eq!(
        model.look(&script, &shown(values[..3].to_vec(), model_streak(&values[..3])), BEGUN + 8),
        Ok(())
    );
    let anew = shown(values[3..].to_vec(), model_streak(&values[3..]));
    assert!(model.clone().look(&script, &anew, BEGUN + 8).is_err());
    model.anew();
    assert_eq!(model.look(&script, &anew, BEGUN + 8), Ok(()));
}

#[test]
fn what_was_judged_between_two_switches_is_in_no_streak() {
    let script = script();
    let mut known = Model::new(7);
    let before = judged(&script, Side::Green, &[14, 15, 16]);
    let green = Shown {
        active: Side::Green,
        ..shown(before.clone(), 0)
    };
    assert_eq!(known.look(&script, &green, BEGUN + 16), Ok(()));
    known.moved(BEGUN + 18);
    // Blue since 18, its release seen in 20; a value of the seconds between, and one of those behind.
    let twice = |history: Vec<f64>, streak: u32| Shown {
        switches: vec![BEGUN + 20, BEGUN + 19],
        ..shown([before.clone(), history].concat(), streak)
    };
    let (between, behind) = (judged(&script, Side::Blue, &[18, 19]), judged(&script, Side::Blue, &[21, 22]));
    let look = |shown: &Shown| known.clone().look(&script, shown, BEGUN + 22);
    assert_eq!(look(&twice([between.clone(), behind.clone()].concat(), 1)), Ok(()));
    // One switch only: the seconds between are missing.
    let once = Shown {
        switches: vec![BEGUN + 19],
        ..twice([between.clone(), behind.clone()].concat(), 1)
    };
    assert!(look(&once).is_err());
    // And once it has begun behind the second switch, none may be left out.
    let gap = judged(&script, Side::Blue, &[23, 24]);
    assert!(
        known
            .clone()
            .look(&script, &twice([between, behind, gap].concat(), 2), BEGUN + 24)
            .is_err()
    );
    // A bad value of the second of the switch itself is in the streak where it was judged behind it.
    let bad = judged(&script, Side::Blue, &[19, 20]);
    assert!(bad[0] > THRESHOLD);
    for streak in [0, 1] {
        assert_eq!(look(&twice(bad.clone(), streak)), Ok(()));
    }
    assert!(look(&twice(bad, 2)).is_err());
}

#[test]
fn what_was_judged_about_the_second_of_a_release_may_count_and_what_was_judged_before_it_may_not() {
    let script = script();
    let mut known = Model::new(7);
    let before = judged(&script, Side::Blue, &[16, 17, 18]);
    assert_eq!(known.look(&script, &shown(before.clone(), 0), BEGUN + 18), Ok(()));
    known.moved(BEGUN + 17);
    let released = |history: &[f64], streak: u32, second: u64| Shown {
        release: "2".to_owned(),
        switches: vec![BEGUN + second],
        ..shown([&before[..], history].concat(), streak)
    };
    let bad = judged(&script, Side::Blue, &[18, 19, 20]);
    assert!(bad[0] <= THRESHOLD && bad[1] > THRESHOLD);
    let look = |shown: &Shown| known.clone().look(&script, shown, BEGUN + 26);
    for (streak, agreed) in [(0, true), (1, true), (2, false)] {
        assert_eq!(look(&released(&bad, streak, 21)).is_ok(), agreed, "{streak}");
    }
    for (streak, agreed) in [(0, true), (1, false)] {
        assert_eq!(look(&released(&bad, streak, 25)).is_ok(), agreed, "{streak}, long before");
    }
}
