//! Root mean square norm (Zhang and Sennrich 2019), forward and backward: no mean
//! is taken off, and nothing is added.
//!
//! ```text
//! out = dropout(x * rstd * gain),  rstd = 1 / sqrt(mean x² + epsilon)
//! ```

use super::dropout::{RowDropout, dropout};
use super::parallel::{Threads, take};
use super::reduce::column_products;
use super::simd::{sum_of, sum_of_pairs, vectorize};

/// The forward pass: fills `out` [rows, width] and `rstd` `[rows]` from x [rows,
/// width] and the gain `[width]`.
pub fn forward(
    threads: &Threads,
    mut out: &mut [f32],
    mut rstd: &mut [f32],
    x: &[f32],
    (gain, epsilon): (&[f32], f32),
    after: Option<RowDropout<'_>>,
) {
    let (rows, width) = (rstd.len(), gain.len());
    assert!(out.len() == rows * width && x.len() == rows * width);
    threads.run(threads.row_ranges(rows, width).map(|rows| {
        let out = take(&mut out, rows.len() * width);
        let rstd = take(&mut rstd, rows.len());
        let x = &x[rows.start * width..rows.end * width];
        move || {
            let mut masks = after.map(|dropout| dropout.rows(rows.start));
            vectorize(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((out, x), rstd) in rows.zip(rstd) {
                        // What rounds it is in all of the row's numbers alike, and does not
                        // average out.
                        let square = f64::from(sum_of(x, |x| x * x)) / width as f64;
                        *rstd = (1.0 / (square + f64::from(epsilon)).sqrt()) as f32;
                        scaled(out, x, gain, *rstd);
                        if let Some(masks) = &mut masks {
                            masks.advance().apply(out, 0);
                        }
                    }
                },
            );
        }
    }));
}

#[inline(always)]
fn scaled(out: &mut [f32], x: &[f32], gain: &[f32], rstd: f32) {
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * rstd * gain;
    }
}

/// What the backward pass reads: the gradient of the output, [rows, width], and
/// what the forward pass has read and written.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    pub dout: &'a [f32],
    pub x: &'a [f32],
    pub rstd: &'a [f32],
    pub gain: &'a [f32],
    pub after: Option<RowDropout<'a>>,
}

/// The backward pass: fills `dx` [rows, width], and adds to the gradient of the
/// gain where it is wanted.
pub fn backward(threads: &Threads, dx: &mut [f32], dgain: Option<&mut [f32]>, terms: Backward<'_>) {
    let (rows, width) = (terms.rstd.len(), terms.gain.len());
    assert!(dx.len() == rows * width && terms.x.len() == rows * width);
    if let Some(dgain) = dgain {
        // dx holds the products whose columns are summed, until it is filled.
        dropout(threads, dx, terms.dout, width, terms.after);
        multiply_rows(threads, dx, terms.rstd, width);
        column_products(threads, dgain, dx, terms.x);
    }
    dropout(threads, dx, terms.dout, width, terms.after);
    let mut rest = dx;
    threads.run(threads.row_ranges(rows, width).map(|rows| {
        let dx = take(&mut rest, rows.len() * width);
        move || {
            vectorize(
                #[inline(always)]
                || {
                    for (dx, row) in dx.chunks_exact_mut(width).zip(rows) {
                        let x = &terms.x[row * width..(row + 1) * width];
                        backward_row(dx, x, terms.gain, terms.rstd[row]);
                    }
                },
            );
        }
    }));
}

/// d = rstd (g - x rstd² mean(g x)), with g = d gain.
#[inline(always)]
fn backward_row(d: &mut [f32], x: &[f32], gain: &[f32], rstd: f32) {
    d.iter_mut().zip(gain).for_each(|(d, gain)| *d *= gain);
    let mean = sum_of_pairs(d, x, |d, x| d * x) / d.len() as f32;
    let share = rstd * rstd * mean;
    d.iter_mut().zip(x).for_each(|(d, x)| *d = rstd * (*d - x * share));
}

fn multiply_rows(threads: &Threads, mut x: &mut [f32], factors: &[f32], width: usize) {
    threads.run(threads.row_ranges(factors.len(), width).map(|rows| {
        let x = take(&mut x, rows.len() * width);
        move || {
            for (x, factor) in x.chunks_exact_mut(width).zip(&factors[rows]) {
                x.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::super::dropout::DropoutKey;
    use super::super::reference::{assert_close, gradient, random, weighted, wide};
    use super::*;

    const EPSILON: f32 = 1e-6;

    fn reference(x: &[f64], gain: &[f64], mask: &[f32]) -> Vec<f64> {
        let width = gain.len();
        let mut out = Vec::new();
        for (row, x) in x.chunks(width).enumerate() {
            let square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let rstd = 1.0 / (square + f64::from(EPSILON)).sqrt();
            out.extend((0..width).map(|j| x[j] * rstd * gain[j] * f64::from(mask[row * width + j])));
        }
        out
    }

    fn check(rows: usize, width: usize, probability: f32, differences: bool) {
        let (x, gain, dout) = (random(rows * width, 1), random(width, 2), random(rows * width, 3));
        let (starts, places) = ([0, 1, rows as u32], [3, 8]);
        let key = DropoutKey { seed: 1, step: 2, site: 3 };
        let after = RowDropout::new(key, probability, &starts, &places);
        let mut mask = vec![0.0; rows * width];
        dropout(&Threads::new(1).unwrap(), &mut mask, &vec![1.0; rows * width], width, after);
        let run = |count| {
            let threads = Threads::new(count).unwrap();
            let (mut out, mut rstd) = (vec![f32::NAN; x.len()], vec![f32::NAN; rows]);
            forward(&threads, &mut out, &mut rstd, &x, (&gain, EPSILON), after);
            let (mut dx, mut dgain) = (vec![f32::NAN; x.len()], vec![1.0; width]);
            let terms = Backward { dout: &dout, x: &x, rstd: &rstd, gain: &gain, after };
            backward(&threads, &mut dx, Some(&mut dgain), terms);
            let mut alone = vec![f32::NAN; x.len()];
            backward(&threads, &mut alone, None, terms);
            assert_eq!(alone, dx);
            (out, dx, dgain)
        };
        let (out, dx, dgain) = run(1);
        let (wide_x, wide_gain) = (wide(&x), wide(&gain));
        assert_close(&out, &reference(&wide_x, &wide_gain, &mask), 2e-6);
        if differences {
            let by_x = gradient(&x, |x| weighted(&reference(x, &wide_gain, &mask), &dout));
            assert_close(&dx, &by_x, 1e-5);
            let mut by_gain = gradient(&gain, |gain| weighted(&reference(&wide_x, gain, &mask), &dout));
            by_gain.iter_mut().for_each(|gradient| *gradient += 1.0);
            assert_close(&dgain, &by_gain, 1e-5);
        }
        assert!((out, dx, dgain) == run(2));
    }

    #[test]
    fn forward_and_backward_agree_with_double_precision() {
        check(2, 7, 0.0, true);
        check(5, 33, 0.3, true);
        check(513, 130, 0.1, false);
    }
}
