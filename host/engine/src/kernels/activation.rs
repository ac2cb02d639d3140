//! Activation functions with the bias before them: forward, and backward from
//! what went into them or from the derivative in its place, so that one matrix is
//! saved at the most.

use super::elementwise::add_row;
use super::parallel::{Threads, take};
use super::simd::{normal, sigmoid, tanh, vectorize};

/// An activation function, by transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), with the error function (Hendrycks and Gimpel 2016).
    Gelu,
    /// Its approximation by tanh.
    GeluNew,
    Relu,
    /// x σ(x).
    Silu,
    Tanh,
}

/// A function and its derivative at one point.
pub(super) trait Function: Copy + Send + Sync {
    fn value(self, x: f32) -> f32;
    fn derivative(self, x: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(super) struct Gelu;
#[derive(Clone, Copy)]
pub(super) struct GeluNew;
#[derive(Clone, Copy)]
pub(super) struct Relu;
#[derive(Clone, Copy)]
pub(super) struct Silu;
#[derive(Clone, Copy)]
pub(super) struct Tanh;

impl Function for Gelu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * normal(x).0
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let (cumulative, density) = normal(x);
        x.mul_add(density, cumulative)
    }
}

/// sqrt(8 / π): 1 + tanh(z) = 2 σ(2 z), and z = sqrt(2 / π) (x + 0.044715 x³).
const GELU_NEW_FACTOR: f32 = 1.595_769;
const GELU_NEW_CUBE: f32 = 0.044_715;

impl Function for GeluNew {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * sigmoid(GELU_NEW_FACTOR * x * (GELU_NEW_CUBE * x).mul_add(x, 1.0))
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let square = GELU_NEW_CUBE * x * x;
        let share = sigmoid(GELU_NEW_FACTOR * x * (1.0 + square));
        let slope = GELU_NEW_FACTOR * 3.0f32.mul_add(square, 1.0);
        (x * slope * (1.0 - share)).mul_add(share, share)
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        // Not `max`, which would turn NaN into 0.
        if x < 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { 0.0 }
    }
}

impl Function for Silu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let share = sigmoid(x);
        (x * (1.0 - share)).mul_add(share, share)
    }
}

impl Function for Tanh {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        tanh(x)
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let value = tanh(x);
        (-value).mul_add(value, 1.0)
    }
}

/// Runs the expression with the activation's function.
macro_rules! with_function {
    ($activation:expr, $function:ident => $work:expr) => {
        match $activation {
            $crate::kernels::activation::Activation::Gelu => {
                let $function = $crate::kernels::activation::Gelu;
                $work
            }
            $crate::kernels::activation::Activation::GeluNew => {
                let $function = $crate::kernels::activation::GeluNew;
                $work
            }
            $crate::kernels::activation::Activation::Relu => {
                let $function = $crate::kernels::activation::Relu;
                $work
            }
            $crate::kernels::activation::Activation::Silu => {
                let $function = $crate::kernels::activation::Silu;
                $work
            }
            $crate::kernels::activation::Activation::Tanh => {
                let $function = $crate::kernels::activation::Tanh;
                $work
            }
        }
    };
}

pub(super) use with_function;

/// `out = activation(x + bias)`, [rows, width], with `bias` `[width]`.
pub fn activate(
    threads: &Threads,
    activation: Activation,
    mut out: &mut [f32],
    x: &[f32],
    bias: Option<&[f32]>,
    width: usize,
) {
    assert_eq!(out.len(), x.len());
    with_function!(activation, function => {
        threads.run(threads.row_ranges(x.len() / width, width).map(|rows| {
            let out = take(&mut out, rows.len() * width);
            let x = &x[rows.start * width..rows.end * width];
            move || vectorize(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        activate_row(function, out, x, bias);
                    }
                },
            )
        }));
    });
}

/// As [`activate`]; the derivative takes the place of `x`, so that the backward pass is
/// a product of elements.
pub fn activate_and_differentiate(
    threads: &Threads,
    activation: Activation,
    mut out: &mut [f32],
    mut x: &mut [f32],
    bias: Option<&[f32]>,
    width: usize,
) {
    assert_eq!(out.len(), x.len());
    with_function!(activation, function => {
        threads.run(threads.row_ranges(x.len() / width, width).map(|rows| {
            let out = take(&mut out, rows.len() * width);
            let x = take(&mut x, rows.len() * width);
            move || vectorize(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact_mut(width)) {
                        if let Some(bias) = bias {
                            add_row(x, bias);
                        }
                        for (out, x) in out.iter_mut().zip(x) {
                            (*out, *x) = (function.value(*x), function.derivative(*x));
                        }
                    }
                },
            )
        }));
    });
}

/// `d = d * activation'(x + bias)`, [rows, width]: the gradient of the output
/// becomes that of the input. `x` is what went into the forward pass, or its sum
/// with the bias and no bias.
pub fn backward(
    threads: &Threads,
    activation: Activation,
    mut d: &mut [f32],
    x: &[f32],
    bias: Option<&[f32]>,
    width: usize,
) {
    assert_eq!(d.len(), x.len());
    with_function!(activation, function => {
        threads.run(threads.row_ranges(x.len() / width, width).map(|rows| {
            let d = take(&mut d, rows.len() * width);
            let x = &x[rows.start * width..rows.end * width];
            move || vectorize(
                #[inline(always)]
                || {
                    for (d, x) in d.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        backward_row(function, d, x, bias);
                    }
                },
            )
        }));
    });
}

#[inline(always)]
fn activate_row<F: Function>(function: F, out: &mut [f32], x: &[f32], bias: Option<&[f32]>) {
    match bias {
        Some(bias) => {
            for ((out, x), bias) in out.iter_mut().zip(x).zip(bias) {
                *out = function.value(x + bias);
            }
        }
        None => {
            for (out, x) in out.iter_mut().zip(x) {
                *out = function.value(*x);
            }
        }
    }
}

#[inline(always)]
fn backward_row<F: Function>(function: F, d: &mut [f32], x: &[f32], bias: Option<&[f32]>) {
    match bias {
        Some(bias) => {
            for ((d, x), bias) in d.iter_mut().zip(x).zip(bias) {
                *d *= function.derivative(x + bias);
            }
        }
        None => {
            for (d, x) in d.iter_mut().zip(x) {
                *d *= function.derivative(*x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{assert_close, random};
    use super::*;

    const ALL: [Activation; 5] =
        [Activation::Gelu, Activation::GeluNew, Activation::Relu, Activation::Silu, Activation::Tanh];

    /// The error function by the series whose terms all have one sign
    /// (Abramowitz and Stegun, 7.1.6), so that nothing cancels.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..400 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::GeluNew => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + z.tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
        }
    }

    #[test]
    fn values_and_derivatives_agree_with_double_precision() {
        let (rows, width) = (513, 70);
        let mut x = random(rows * width, 1);
        x.iter_mut().for_each(|x| *x = (*x * 1.5).clamp(-5.0, 5.0));
        let (bias, dy) = (random(width, 2), random(rows * width, 3));
        let sums: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + bias[i % width]).collect();
        for activation in ALL {
            let value: Vec<f64> = sums.iter().map(|&u| exact(activation, f64::from(u))).collect();
            let slope: Vec<f64> = (sums.iter().zip(&dy))
                .map(|(&u, &dy)| {
                    // A small step for ReLU, which has a kink to step over.
                    let (u, step) = (f64::from(u), if activation == Activation::Relu { 1e-9 } else { 1e-5 });
                    f64::from(dy) * (exact(activation, u + step) - exact(activation, u - step)) / (2.0 * step)
                })
                .collect();
            let run = |count| {
                let threads = Threads::new(count).unwrap();
                let mut out = vec![0.0; x.len()];
                activate(&threads, activation, &mut out, &x, Some(&bias), width);
                let mut d = dy.clone();
                backward(&threads, activation, &mut d, &x, Some(&bias), width);
                let mut from_sum = dy.clone();
                backward(&threads, activation, &mut from_sum, &sums, None, width);
                assert_eq!(d, from_sum);
                let (mut same, mut slope) = (vec![0.0; x.len()], x.clone());
                activate_and_differentiate(&threads, activation, &mut same, &mut slope, Some(&bias), width);
                slope.iter_mut().zip(&dy).for_each(|(slope, dy)| *slope *= dy);
                assert!(same == out && slope == d, "{activation:?}");
                (out, d)
            };
            let (out, d) = run(1);
            assert_close(&out, &value, 5e-7);
            assert_close(&d, &slope, 1e-6);
            assert_eq!((out, d), run(2));
        }
    }

    #[test]
    fn far_from_zero_nothing_overflows() {
        let threads = Threads::new(1).unwrap();
        for activation in ALL {
            let inputs = [-1e4, -50.0, 50.0, 1e4];
            let (mut x, mut d) = ([0.0; 4], [1.0; 4]);
            activate(&threads, activation, &mut x, &inputs, None, 4);
            backward(&threads, activation, &mut d, &inputs, None, 4);
            let (low, slope) = if activation == Activation::Tanh { (-1.0, 0.0) } else { (0.0, 1.0) };
            assert!((x[0] - low).abs() < 1e-12 && (d[0]).abs() < 1e-12, "{activation:?}: {x:?} {d:?}");
            let high = if activation == Activation::Tanh { 1.0 } else { 1e4 };
            assert!(x[3] == high && d[3] == slope, "{activation:?}: {x:?} {d:?}");
        }
    }

    #[test]
    fn relu_at_zero_has_no_gradient_and_nan_stays() {
        let threads = Threads::new(1).unwrap();
        let mut d = [1.0];
        backward(&threads, Activation::Relu, &mut d, &[0.0], None, 1);
        assert_eq!(d, [0.0]);
        for activation in ALL {
            let mut x = [0.0];
            activate(&threads, activation, &mut x, &[f32::NAN], None, 1);
            assert!(x[0].is_nan(), "{activation:?}");
        }
    }
}
