//! Bias, dropout, residual and layer norm (Ba et al. 2016) in one pass over the
//! rows, forward and backward.
//!
//! ```text
//! v = dropout(y + bias) + residual
//! x̂ = (v - mean v) * rstd,  rstd = 1 / sqrt(var v + epsilon)
//! out = dropout_after(x̂ * gain + shift)
//! ```
//!
//! Only x̂ and rstd are saved; `recover` computes out from them again.

use super::dropout::{RowDropout, dropout};
use super::elementwise::add_row;
use super::parallel::{Threads, take};
use super::reduce::{column_products, column_sums};
use super::simd::{sum_of, sum_of_pairs, vectorize};

/// The norm's parameters, both `[width]`.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    pub gain: &'a [f32],
    pub shift: &'a [f32],
}

/// What goes into the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// `[width]`.
    pub bias: Option<&'a [f32]>,
    pub dropout: Option<RowDropout<'a>>,
    /// [rows, width].
    pub residual: Option<&'a [f32]>,
    pub affine: Affine<'a>,
    pub epsilon: f32,
    /// Dropout of the norm's output, as after embeddings.
    pub dropout_after: Option<RowDropout<'a>>,
}

/// The forward pass: `normalized`, [rows, width], holds y and then x̂; fills `out`,
/// [rows, width], and `rstd` `[rows]`.
pub fn forward(
    threads: &Threads,
    mut out: &mut [f32],
    mut normalized: &mut [f32],
    mut rstd: &mut [f32],
    terms: Forward<'_>,
) {
    let (rows, width) = (rstd.len(), terms.affine.gain.len());
    assert!(out.len() == rows * width && normalized.len() == rows * width);
    threads.run(threads.row_ranges(rows, width).map(|rows| {
        let out = take(&mut out, rows.len() * width);
        let normalized = take(&mut normalized, rows.len() * width);
        let rstd = take(&mut rstd, rows.len());
        move || {
            vectorize(
                #[inline(always)]
                || forward_rows(out, normalized, rstd, &terms, rows.start),
            )
        }
    }));
}

#[inline(always)]
fn forward_rows(
    out: &mut [f32],
    normalized: &mut [f32],
    rstd: &mut [f32],
    terms: &Forward<'_>,
    first: usize,
) {
    let width = terms.affine.gain.len();
    let mut masks = terms.dropout.map(|dropout| dropout.rows(first));
    let mut masks_after = terms.dropout_after.map(|dropout| dropout.rows(first));
    for (index, rstd) in rstd.iter_mut().enumerate() {
        let here = index * width..(index + 1) * width;
        let there = (first + index) * width..(first + index + 1) * width;
        let (out, value) = (&mut out[here.clone()], &mut normalized[here]);
        if let Some(bias) = terms.bias {
            add_row(value, bias);
        }
        if let Some(masks) = &mut masks {
            masks.advance().apply(value, 0);
        }
        if let Some(residual) = terms.residual {
            add_row(value, &residual[there]);
        }
        let mean = sum_of(value, |v| v) / width as f32;
        let variance = sum_of(value, |v| (v - mean) * (v - mean)) / width as f32;
        *rstd = 1.0 / (variance + terms.epsilon).sqrt();
        normalize(value, mean, *rstd);
        affine_row(out, value, terms.affine);
        if let Some(masks) = &mut masks_after {
            masks.advance().apply(out, 0);
        }
    }
}

#[inline(always)]
fn normalize(values: &mut [f32], mean: f32, rstd: f32) {
    values.iter_mut().for_each(|v| *v = (*v - mean) * rstd);
}

#[inline(always)]
fn affine_row(out: &mut [f32], normalized: &[f32], affine: Affine<'_>) {
    let parameters = affine.gain.iter().zip(affine.shift);
    for ((out, x), (gain, shift)) in out.iter_mut().zip(normalized).zip(parameters) {
        *out = x.mul_add(*gain, *shift);
    }
}

/// Computes the norm's output, [rows, width], from x̂ again: bit for bit what
/// `forward` has written.
pub fn recover(
    threads: &Threads,
    mut out: &mut [f32],
    normalized: &[f32],
    affine: Affine<'_>,
    dropout_after: Option<RowDropout<'_>>,
) {
    let width = affine.gain.len();
    assert_eq!(out.len(), normalized.len());
    threads.run(threads.row_ranges(out.len() / width, width).map(|rows| {
        let out = take(&mut out, rows.len() * width);
        let normalized = &normalized[rows.start * width..rows.end * width];
        move || {
            let mut masks = dropout_after.map(|dropout| dropout.rows(rows.start));
            vectorize(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(normalized.chunks_exact(width)) {
                        affine_row(out, x, affine);
                        if let Some(masks) = &mut masks {
                            masks.advance().apply(out, 0);
                        }
                    }
                },
            );
        }
    }));
}

/// What goes into the backward pass.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    /// The gradient of the output, [rows, width].
    pub dout: &'a [f32],
    /// x̂ and rstd as the forward pass has saved them.
    pub normalized: &'a [f32],
    pub rstd: &'a [f32],
    pub gain: &'a [f32],
    pub dropout: Option<RowDropout<'a>>,
    pub dropout_after: Option<RowDropout<'a>>,
}

/// Gradients of the parameters, each `[width]`, to which the backward pass adds;
/// `None` for what does not train.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    pub gain: Option<&'a mut [f32]>,
    pub shift: Option<&'a mut [f32]>,
    pub bias: Option<&'a mut [f32]>,
}

/// The backward pass: `dv` [rows, width] becomes the gradient of v, which is
/// that of the residual, and `dy`, where wanted, that of y. Without dropout both
/// are equal and `dy` can be spared. The bias' gradient is that of y summed; it
/// needs `dy` where there is dropout.
pub fn backward(
    threads: &Threads,
    dv: &mut [f32],
    mut dy: Option<&mut [f32]>,
    terms: Backward<'_>,
    gradients: Gradients<'_>,
) {
    let (rows, width) = (terms.rstd.len(), terms.gain.len());
    assert!(dv.len() == rows * width && terms.normalized.len() == rows * width);
    assert!(
        gradients.bias.is_none() || terms.dropout.is_none() || dy.is_some(),
        "the gradient of a bias below dropout needs `dy`"
    );
    dropout(threads, dv, terms.dout, width, terms.dropout_after);
    if let Some(gain) = gradients.gain {
        column_products(threads, gain, dv, terms.normalized);
    }
    if let Some(shift) = gradients.shift {
        column_sums(threads, shift, dv, width);
    }
    let (mut dv_rest, mut dy_rest) = (&mut *dv, dy.as_deref_mut());
    threads.run(threads.row_ranges(rows, width).map(|rows| {
        let dv = take(&mut dv_rest, rows.len() * width);
        let dy = dy_rest.as_mut().map(|dy| take(dy, rows.len() * width));
        move || {
            vectorize(
                #[inline(always)]
                || backward_rows(dv, dy, &terms, rows.start),
            )
        }
    }));
    if let Some(bias) = gradients.bias {
        column_sums(threads, bias, dy.as_deref().unwrap_or(dv), width);
    }
}

#[inline(always)]
fn backward_rows(dv: &mut [f32], mut dy: Option<&mut [f32]>, terms: &Backward<'_>, first: usize) {
    let width = terms.gain.len();
    let mut masks = terms.dropout.map(|dropout| dropout.rows(first));
    for (index, dv) in dv.chunks_exact_mut(width).enumerate() {
        let row = first + index;
        let x = &terms.normalized[row * width..(row + 1) * width];
        multiply_row(dv, terms.gain);
        let mean = sum_of(dv, |d| d) / width as f32;
        let mean_product = sum_of_pairs(dv, x, |d, x| d * x) / width as f32;
        project(dv, x, mean, mean_product, terms.rstd[row]);
        if let Some(dy) = &mut dy {
            let dy = &mut dy[index * width..(index + 1) * width];
            match &mut masks {
                Some(masks) => masks.advance().write(dy, dv, 0),
                None => dy.copy_from_slice(dv),
            }
        }
    }
}

#[inline(always)]
fn multiply_row(a: &mut [f32], x: &[f32]) {
    a.iter_mut().zip(x).for_each(|(a, x)| *a *= x);
}

/// The part of the gradient that changes neither the mean nor the variance.
#[inline(always)]
fn project(d: &mut [f32], x: &[f32], mean: f32, mean_product: f32, rstd: f32) {
    d.iter_mut().zip(x).for_each(|(d, x)| *d = rstd * (*d - mean - x * mean_product));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dropout::DropoutKey;
    use super::super::reference::{assert_close, gradient, random, weighted, wide};
    use super::*;

    const EPSILON: f64 = 1e-5;

    /// out in double precision; the masks are factors.
    fn reference(
        y: &[f64],
        residual: &[f64],
        [bias, gain, shift]: [&[f64]; 3],
        masks: [&[f32]; 2],
    ) -> Vec<f64> {
        let width = gain.len();
        let mut out = Vec::new();
        for row in 0..y.len() / width {
            let at = |j: usize| {
                let i = row * width + j;
                (y[i] + bias[j]) * f64::from(masks[0][i]) + residual[i]
            };
            let mean = (0..width).map(at).sum::<f64>() / width as f64;
            let variance = (0..width).map(|j| (at(j) - mean).powi(2)).sum::<f64>() / width as f64;
            for j in 0..width {
                let normalized = (at(j) - mean) / (variance + EPSILON).sqrt();
                out.push((normalized * gain[j] + shift[j]) * f64::from(masks[1][row * width + j]));
            }
        }
        out
    }

    fn check(rows: usize, width: usize, probability: f32, count: usize, differences: bool) {
        let threads = Threads::new(count).unwrap();
        let size = rows * width;
        let (y, residual, weights) = (random(size, 1), random(size, 2), random(size, 3));
        let (bias, gain, shift) = (random(width, 4), random(width, 5), random(width, 6));
        let starts = [0, 1, rows as u32];
        let places = [3, 8];
        let (starts, places) =
            if rows == 1 { (&starts[..2], &places[..1]) } else { (&starts[..], &places[..]) };
        let site = |site| RowDropout::new(DropoutKey { seed: 1, step: 2, site }, probability, starts, places);
        let (before, after) = (site(0), site(1));
        let ones = vec![1.0; size];
        let masks = [before, after].map(|site| {
            let mut mask = vec![0.0; size];
            dropout(&threads, &mut mask, &ones, width, site);
            mask
        });
        let masks = [&masks[0][..], &masks[1][..]];
        let affine = Affine { gain: &gain, shift: &shift };
        let terms = Forward {
            bias: Some(&bias),
            dropout: before,
            residual: Some(&residual),
            affine,
            epsilon: EPSILON as f32,
            dropout_after: after,
        };
        let (mut out, mut normalized, mut rstd) = (vec![0.0; size], y.clone(), vec![0.0; rows]);
        forward(&threads, &mut out, &mut normalized, &mut rstd, terms);
        let parameters = [wide(&bias), wide(&gain), wide(&shift)];
        let [wide_bias, wide_gain, wide_shift] = &parameters;
        let (wide_y, wide_residual) = (wide(&y), wide(&residual));
        let exact = reference(&wide_y, &wide_residual, [wide_bias, wide_gain, wide_shift], masks);
        assert_close(&out, &exact, 2e-6);

        let mut again = vec![0.0; size];
        recover(&threads, &mut again, &normalized, affine, after);
        assert_eq!(again, out);

        let terms = Backward {
            dout: &weights,
            normalized: &normalized,
            rstd: &rstd,
            gain: &gain,
            dropout: before,
            dropout_after: after,
        };
        let (mut dv, mut dy) = (vec![0.0; size], vec![0.0; size]);
        let mut sums = [vec![1.0; width], vec![1.0; width], vec![1.0; width]];
        let [dgain, dshift, dbias] = &mut sums;
        let gradients = Gradients { gain: Some(dgain), shift: Some(dshift), bias: Some(dbias) };
        backward(&threads, &mut dv, Some(&mut dy), terms, gradients);
        if !differences {
            return;
        }
        let parameters = [&wide_bias[..], &wide_gain[..], &wide_shift[..]];
        let loss = |y: &[f64], residual: &[f64], parameters: [&[f64]; 3]| {
            weighted(&reference(y, residual, parameters, masks), &weights)
        };
        assert_close(&dv, &gradient(&residual, |residual| loss(&wide_y, residual, parameters)), 1e-5);
        assert_close(&dy, &gradient(&y, |y| loss(y, &wide_residual, parameters)), 1e-5);
        for (index, (found, values)) in sums.iter().zip([&gain, &shift, &bias]).enumerate() {
            let place = [1, 2, 0][index];
            let mut expected = gradient(values, |values| {
                let mut parameters: [&[f64]; 3] = parameters;
                parameters[place] = values;
                loss(&wide_y, &wide_residual, parameters)
            });
            expected.iter_mut().for_each(|expected| *expected += 1.0);
            assert_close(found, &expected, 1e-5);
        }
    }

    #[test]
    fn forward_and_backward_agree_with_double_precision() {
        check(1, 7, 0.0, 1, true);
        check(5, 33, 0.2, 2, true);
        check(9, 16, 0.5, 1, true);
        check(513, 96, 0.1, 2, false);
    }

    #[test]
    fn without_bias_dropout_and_residual() {
        let threads = Threads::new(2).unwrap();
        let (rows, width) = (4, 20);
        let y = random(rows * width, 1);
        let (gain, shift) = (random(width, 2), random(width, 3));
        let affine = Affine { gain: &gain, shift: &shift };
        let (mut out, mut normalized, mut rstd) = (vec![0.0; 80], y.clone(), vec![0.0; rows]);
        let terms = Forward {
            bias: None,
            dropout: None,
            residual: None,
            affine,
            epsilon: EPSILON as f32,
            dropout_after: None,
        };
        forward(&threads, &mut out, &mut normalized, &mut rstd, terms);
        let (zeros, ones) = (vec![0.0; 80], vec![1.0; 80]);
        let parameters = [&zeros[..width], &wide(&gain)[..], &wide(&shift)[..]];
        assert_close(&out, &reference(&wide(&y), &zeros, parameters, [&ones, &ones]), 2e-6);
    }

    #[test]
    fn a_large_common_offset_costs_no_accuracy_of_the_variance() {
        let (width, offset) = (768, 1000.0);
        let mut y = random(width, 1);
        y.iter_mut().for_each(|y| *y += offset);
        let (gain, shift) = (vec![1.0; width], vec![0.0; width]);
        let terms = Forward {
            bias: None,
            dropout: None,
            residual: None,
            affine: Affine { gain: &gain, shift: &shift },
            epsilon: EPSILON as f32,
            dropout_after: None,
        };
        let (mut out, mut normalized, mut rstd) = (vec![0.0; width], y.clone(), vec![0.0]);
        forward(&Threads::new(1).unwrap(), &mut out, &mut normalized, &mut rstd, terms);
        let (zeros, ones) = (vec![0.0; width], vec![1.0; width]);
        let parameters = [&zeros[..], &wide(&gain), &zeros];
        assert_close(&out, &reference(&wide(&y), &zeros, parameters, [&ones, &ones]), 1e-4);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (rows, width) = (700, 200);
        let (y, dout) = (random(rows * width, 1), random(rows * width, 2));
        let (gain, shift) = (random(width, 3), random(width, 4));
        let (starts, places) = ([0, 300, 700], [0, 1]);
        let dropout = RowDropout::new(DropoutKey { seed: 5, step: 1, site: 9 }, 0.1, &starts, &places);
        let run = |count| {
            let threads = Threads::new(count).unwrap();
            let (mut out, mut normalized, mut rstd) = (vec![0.0; y.len()], y.clone(), vec![0.0; rows]);
            let terms = Forward {
                bias: Some(&shift),
                dropout,
                residual: Some(&dout),
                affine: Affine { gain: &gain, shift: &shift },
                epsilon: 1e-12,
                dropout_after: None,
            };
            forward(&threads, &mut out, &mut normalized, &mut rstd, terms);
            let (mut dv, mut dy) = (vec![0.0; rows * width], vec![0.0; rows * width]);
            let mut sums = [vec![0.0; width], vec![0.0; width], vec![0.0; width]];
            let [dgain, dshift, dbias] = &mut sums;
            let gradients = Gradients { gain: Some(dgain), shift: Some(dshift), bias: Some(dbias) };
            let terms = Backward {
                dout: &dout,
                normalized: &normalized,
                rstd: &rstd,
                gain: &gain,
                dropout,
                dropout_after: None,
            };
            backward(&threads, &mut dv, Some(&mut dy), terms, gradients);
            (out, dv, dy, sums)
        };
        assert!(run(1) == run(2));
        assert!(run(1) == run(3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_shape(rows in 1usize..6, width in 2usize..40, dropped in any::<bool>(), count in 1usize..3) {
            check(rows, width, if dropped { 0.3 } else { 0.0 }, count, true);
        }
    }
}
