//! What the tests of the kernels share: numbers, comparison, finite differences.

use host_ir::random::Stream;

/// `count` standard normal numbers.
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, "kernel tests");
    (0..count).map(|_| stream.normal() as f32).collect()
}

/// The numbers in double precision.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Each element agrees within `tolerance`, relative to the largest element or
/// to 1.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0, |largest: f64, value| largest.max(value.abs()));
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - expected).abs();
        assert!(difference <= tolerance * scale, "element {index}: found {found}, expected {expected}");
    }
}

/// Σ weight * value, the scalar whose gradient a backward pass is checked for.
pub fn weighted(values: &[f64], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(value, &weight)| value * f64::from(weight)).sum()
}

/// The gradient of `f` at `x` by central differences.
pub fn gradient(x: &[f32], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut point = wide(x);
    (0..x.len())
        .map(|index| {
            let (step, value) = (1e-5, point[index]);
            point[index] = value + step;
            let above = f(&point);
            point[index] = value - step;
            let below = f(&point);
            point[index] = value;
            (above - below) / (2.0 * step)
        })
        .collect()
}
