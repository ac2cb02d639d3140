//! Gated activations (Shazeer 2020): one half of a matrix, activated, multiplies
//! the other.
//!
//! ```text
//! out = activation(x[:, ..width]) * x[:, width..]
//! ```

use super::activation::{Activation, Function, with_function};
use super::parallel::{Threads, take};
use super::simd::vectorize;

/// The forward pass, from x [rows, 2 width] to out [rows, width].
pub fn forward(threads: &Threads, activation: Activation, mut out: &mut [f32], x: &[f32], width: usize) {
    assert_eq!(2 * out.len(), x.len());
    with_function!(activation, function => {
        threads.run(threads.row_ranges(out.len() / width, width).map(|rows| {
            let out = take(&mut out, rows.len() * width);
            let x = &x[2 * rows.start * width..2 * rows.end * width];
            move || vectorize(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                        forward_row(function, out, x);
                    }
                },
            )
        }));
    });
}

#[inline(always)]
fn forward_row<F: Function>(function: F, out: &mut [f32], x: &[f32]) {
    let (gate, linear) = x.split_at(out.len());
    for (out, (gate, linear)) in out.iter_mut().zip(gate.iter().zip(linear)) {
        *out = function.value(*gate) * linear;
    }
}

/// The backward pass: fills dx [rows, 2 width] from dout [rows, width] and x.
pub fn backward(
    threads: &Threads,
    activation: Activation,
    mut dx: &mut [f32],
    dout: &[f32],
    x: &[f32],
    width: usize,
) {
    assert!(dx.len() == x.len() && 2 * dout.len() == x.len());
    with_function!(activation, function => {
        threads.run(threads.row_ranges(dout.len() / width, width).map(|rows| {
            let dx = take(&mut dx, 2 * rows.len() * width);
            let dout = &dout[rows.start * width..rows.end * width];
            let x = &x[2 * rows.start * width..2 * rows.end * width];
            move || vectorize(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(2 * width).zip(x.chunks_exact(2 * width));
                    for ((dx, x), dout) in rows.zip(dout.chunks_exact(width)) {
                        backward_row(function, dx, dout, x);
                    }
                },
            )
        }));
    });
}

#[inline(always)]
fn backward_row<F: Function>(function: F, dx: &mut [f32], dout: &[f32], x: &[f32]) {
    let (gate, linear) = x.split_at(dout.len());
    let (dgate, dlinear) = dx.split_at_mut(dout.len());
    let gradients = dgate.iter_mut().zip(dlinear);
    for (((dgate, dlinear), dout), (gate, linear)) in gradients.zip(dout).zip(gate.iter().zip(linear)) {
        *dgate = dout * linear * function.derivative(*gate);
        *dlinear = dout * function.value(*gate);
    }
}

#[cfg(test)]
mod tests {
    use super::super::activation::activate;
    use super::super::reference::{assert_close, gradient, random, weighted};
    use super::*;

    /// x Φ(x) by tanh, x σ(x) and max(x, 0).
    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::GeluNew => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + z.tanh())
            }
            Activation::Silu => x / (1.0 + (-x).exp()),
            _ => x.max(0.0),
        }
    }

    #[test]
    fn forward_and_backward_agree_with_double_precision() {
        let (rows, width) = (7, 19);
        let (x, dout) = (random(rows * 2 * width, 1), random(rows * width, 2));
        for activation in [Activation::GeluNew, Activation::Silu, Activation::Relu] {
            let reference = |x: &[f64]| -> Vec<f64> {
                let of = |place: usize| {
                    let start = place / width * 2 * width + place % width;
                    exact(activation, x[start]) * x[start + width]
                };
                (0..rows * width).map(of).collect()
            };
            let run = |count| {
                let threads = Threads::new(count).unwrap();
                let (mut out, mut dx) = (vec![f32::NAN; rows * width], vec![f32::NAN; x.len()]);
                forward(&threads, activation, &mut out, &x, width);
                backward(&threads, activation, &mut dx, &dout, &x, width);
                (out, dx)
            };
            let (out, dx) = run(1);
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            assert_close(&out, &reference(&wide), 2e-6);
            assert_close(&dx, &gradient(&x, |x| weighted(&reference(x), &dout)), 1e-5);
            assert!((out, dx) == run(2));
        }
    }

    #[test]
    fn a_gate_of_ones_lets_the_activation_through() {
        let threads = Threads::new(2).unwrap();
        let (rows, width) = (300, 257);
        let half = random(rows * width, 3);
        let x: Vec<f32> =
            half.chunks(width).flat_map(|row| [row.to_vec(), vec![1.0; width]].concat()).collect();
        let (mut out, mut expected) = (vec![0.0; half.len()], vec![0.0; half.len()]);
        forward(&threads, Activation::Gelu, &mut out, &x, width);
        activate(&threads, Activation::Gelu, &mut expected, &half, None, width);
        assert_eq!(out, expected);
    }
}
