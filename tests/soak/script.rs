//! The script is calm where it says so, and bad where it says so.

use crate::script::*;

const BEGUN: u64 = 1_800_000_000;

#[test]
fn a_calm_color_is_never_bad_for_three_seconds_in_a_row_and_its_mean_is_far_below_the_threshold() {
    let script = Script::new(20, BEGUN);
    for (guard, side) in (0..20).flat_map(|guard| Side::BOTH.map(|side| (guard, side))) {
        let seconds: Vec<f64> = (1..600).map(|n| script.share(guard, side, BEGUN + n - 1, BEGUN + n)).collect();
        assert!(seconds.iter().any(|share| *share > THRESHOLD), "no blip of {guard}");
        assert!(
            seconds.windows(3).all(|three| three.iter().any(|share| *share <= THRESHOLD)),
            "{guard}"
        );
        assert!(script.share(guard, side, BEGUN, BEGUN + 599) < 0.04);
    }
}

#[test]
fn a_bad_phase_is_bad_in_each_of_its_seconds_and_ends_when_it_is_mended() {
    let script = Script::new(1, BEGUN);
    script.spoil(0, Side::Green, BEGUN + 10, u64::MAX, 40);
    assert!((10..40).all(|n| script.share(0, Side::Green, BEGUN + n - 1, BEGUN + n) >= 0.39));
    script.mend(0, Side::Green, BEGUN + 50);
    assert!(script.share(0, Side::Green, BEGUN + 48, BEGUN + 49) >= 0.39);
    assert!(script.share(0, Side::Green, BEGUN + 49, BEGUN + 200) < 0.05);
    assert!(script.share(0, Side::Blue, BEGUN, BEGUN + 49) < 0.05);
}
