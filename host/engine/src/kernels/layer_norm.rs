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
mod tests;
