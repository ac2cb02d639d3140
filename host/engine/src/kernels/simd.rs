//! Arithmetic that the compiler turns into vector instructions: loops run under
//! `vectorize`, which chooses AVX-512, AVX2 or plain code when the program runs.

/// Lanes of the sums below. Sixteen accumulators fill one AVX-512 or two AVX2
/// registers; the order of the additions is the same on every machine.
const LANES: usize = 16;

/// Runs a closure with the widest vector instructions of this CPU. The closure
/// must be marked `#[inline(always)]`, and so must all that it calls, or the
/// loops inside are compiled for the oldest CPU.
#[inline(always)]
pub fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Combines the lanes pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// Σ f(x).
#[inline(always)]
pub fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += f(chunk[lane]);
        }
    }
    fold(lanes, |a, b| a + b) + rest.iter().map(|&x| f(x)).sum::<f32>()
}

/// Σ f(x, y); both slices are as long as the shorter one.
#[inline(always)]
pub fn sum_of_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let length = x.len().min(y.len());
    let mut lanes = [0.0; LANES];
    let (x_chunks, x_rest) = x[..length].as_chunks::<LANES>();
    let (y_chunks, y_rest) = y[..length].as_chunks::<LANES>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    fold(lanes, |a, b| a + b) + x_rest.iter().zip(y_rest).map(|(&x, &y)| f(x, y)).sum::<f32>()
}

/// The largest value; NaN where the slice holds one, minus infinity where it
/// is empty.
#[inline(always)]
pub fn maximum(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    rest.iter().fold(fold(lanes, larger), |a, &b| larger(a, b))
}

/// e^x with a relative error below 2e-7; 0 below -87.3, infinity above 88.7,
/// NaN for NaN (Cephes' expf: argument reduction and a polynomial).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons, not `max`: those would turn NaN into a number.
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.7 { 88.7 } else { clamped };
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    // ln 2 in two parts, the first with trailing zeros.
    let rest = whole.mul_add(-0.693_359_4, clamped);
    let rest = whole.mul_add(2.121_944_4e-4, rest);
    let polynomial = 1.987_569_1e-4f32
        .mul_add(rest, 1.398_199_9e-3)
        .mul_add(rest, 8.333_452e-3)
        .mul_add(rest, 4.166_579_6e-2)
        .mul_add(rest, 1.666_666_5e-1)
        .mul_add(rest, 0.5);
    let fraction = polynomial.mul_add(rest * rest, rest) + 1.0;
    // 2^whole as two factors: whole reaches 128, for which there is no float.
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = exponent >> 1;
    let power = |exponent: i32| f32::from_bits(((exponent + 127) as u32) << 23);
    let value = fraction * power(half) * power(exponent.wrapping_sub(half));
    let value = if x < -87.3 { 0.0 } else { value };
    if x > 88.722_83 { f32::INFINITY } else { value }
}

/// The logistic function.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, relative error below 3e-7 (Cephes' tanhf).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let large = 1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0);
    let square = x * x;
    let polynomial = (-5.704_988_7e-3f32)
        .mul_add(square, 2.063_909e-2)
        .mul_add(square, -5.373_971_6e-2)
        .mul_add(square, 1.333_144_2e-1)
        .mul_add(square, -3.333_328e-1);
    let small = (polynomial * square).mul_add(x, x);
    if magnitude < 0.625 { small } else { large.copysign(x) }
}

/// The normal distribution's cumulative function and density at x, relative
/// errors below 1e-6 for |x| < 5 (the tail's error is that of x²/2 in floats).
///
/// erfc(z) e^(z²) is a polynomial in t = 1 / (1 + 0.33 z), times t, fitted for
/// the smallest relative error (9e-8) over 0 ≤ z ≤ 10 by Remez' exchange; so
/// both share one exponential, and nothing cancels on the negative side.
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let gauss = exp(-0.5 * x * x);
    let t = 1.0 / z.mul_add(0.33, 1.0);
    let polynomial = (-0.135_344_4f32)
        .mul_add(t, 0.460_232)
        .mul_add(t, -0.351_141_18)
        .mul_add(t, 0.408_492_43)
        .mul_add(t, 0.047_224_514)
        .mul_add(t, 0.201_222_75)
        .mul_add(t, 0.182_956_12)
        .mul_add(t, 0.186_357_8);
    let tail = 0.5 * polynomial * t * gauss;
    let cumulative = if x < 0.0 { tail } else { 1.0 - tail };
    (cumulative, gauss * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst_relative_error(range: (f32, f32), f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let steps = 20_000;
        let at = |step: i32| range.0 + (range.1 - range.0) * step as f32 / steps as f32;
        let error = |x: f32| {
            let exact = exact(f64::from(x));
            ((f64::from(f(x)) - exact) / exact.abs().max(1e-30)).abs()
        };
        (0..=steps).map(|step| error(at(step))).fold(0.0, f64::max)
    }

    /// The complementary error function by its continued fraction (large z) or
    /// its series (small z).
    fn erfc(z: f64) -> f64 {
        if z < 0.0 {
            return 2.0 - erfc(-z);
        }
        let scale = 2.0 / std::f64::consts::PI.sqrt();
        if z < 2.5 {
            let (mut term, mut sum) = (z, z);
            for n in 1..80 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - scale * sum;
        }
        let fraction = (1..200).rev().fold(z, |below, n| z + f64::from(n) * 0.5 / below);
        scale / 2.0 * (-z * z).exp() / fraction
    }

    #[test]
    fn functions_are_accurate() {
        assert!(worst_relative_error((-87.0, 88.7), exp, f64::exp) < 2e-7);
        assert!(worst_relative_error((-10.0, 10.0), tanh, f64::tanh) < 3e-7);
        assert!(worst_relative_error((-1e-3, 1e-3), tanh, f64::tanh) < 3e-7);
        let sigmoid_exact = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!(worst_relative_error((-80.0, 80.0), sigmoid, sigmoid_exact) < 4e-7);
        let cumulative = |x: f64| 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        assert!(worst_relative_error((-5.0, 8.0), |x| normal(x).0, cumulative) < 1e-6);
        assert!(worst_relative_error((-12.0, -5.0), |x| normal(x).0, cumulative) < 6e-6);
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        assert!(worst_relative_error((-5.0, 5.0), |x| normal(x).1, density) < 1e-6);
    }

    #[test]
    fn extremes_and_nan_pass_through() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && normal(f32::NAN).0.is_nan());
        assert_eq!((tanh(100.0), tanh(-100.0)), (1.0, -1.0));
        assert_eq!((normal(40.0).0, normal(-40.0).0), (1.0, 0.0));
        assert_eq!((sigmoid(200.0), sigmoid(-200.0)), (1.0, 0.0));
        assert!(maximum(&[1.0, f32::NAN, 2.0]).is_nan());
        assert_eq!(maximum(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn sums_take_every_element_once() {
        for length in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..length).map(|i| i as f32).collect();
            let sum = length * (length.max(1) - 1) / 2;
            assert_eq!(sum_of(&x, |x| x), sum as f32);
            assert_eq!(sum_of_pairs(&x, &x, |x, y| x + y), 2.0 * sum as f32);
            let mut shuffled = x.clone();
            shuffled.reverse();
            assert_eq!(maximum(&shuffled), x.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
