//! A slope is found with its confidence.

use crate::fit::*;

fn points(slope: f64, noise: f64) -> Vec<(f64, f64)> {
    (0..300)
        .map(|n| {
            (
                f64::from(n) * 2.0,
                40.0 + slope * f64::from(n) * 2.0 + noise * (f64::from(n) * 1.7).sin(),
            )
        })
        .collect()
}

#[test]
fn a_line_is_found_within_its_confidence_and_noise_is_no_line() {
    let found = slope(&points(0.002, 0.5)).expect("enough points");
    assert!(
        (found.value - 0.002).abs() < 2e-4 && found.least > 0.0 && found.most < 0.003,
        "{found:?}"
    );
    let flat = slope(&points(0.0, 0.5)).expect("enough points");
    assert!(flat.value.abs() < 2e-4 && flat.most < 0.001, "{flat:?}");
    let wild = slope(&points(0.002, 200.0)).expect("enough points");
    assert!(wild.most - wild.least > 100.0 * (found.most - found.least), "{wild:?}");
}

#[test]
fn a_few_moments_are_no_line() {
    assert_eq!(slope(&points(1.0, 0.0)[..40]), None);
}
