//! A product of low rank beside a linear layer, without a [rows, out] matrix of
//! its own and without storing the dropped input:
//!
//!     h = dropout(x) Aᵀ,  y += scale h Bᵀ     with A [rank, in], B [out, rank]

use super::dropout::RowDropout;
use super::matmul::{Form, Matrix, MatrixMut, nn, nt, raw, sequential, tn};
use super::parallel::{SharedMatrix, Threads, take, with_scratch};
use super::simd::vectorize;

/// Rows of the input that are dropped into scratch memory at a time.
const BLOCK_ROWS: usize = 64;
/// Multiplications below which a share is not worth waking another thread.
const MINIMUM_PRODUCTS: usize = 1 << 20;

/// The two factors.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// A, [rank, inputs].
    pub a: &'a [f32],
    /// B, [outputs, rank].
    pub b: &'a [f32],
    pub rank: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub scale: f32,
    /// Dropout of the input.
    pub dropout: Option<RowDropout<'a>>,
}

/// The forward pass: fills `h` [rows, rank], which the backward pass needs, and
/// adds to `y` [rows, outputs] for `x` [rows, inputs]. `y` may be a range of the
/// columns of a wider matrix.
pub fn forward(threads: &Threads, h: &mut [f32], y: MatrixMut<'_>, x: Matrix<'_>, factors: &LowRank<'_>) {
    let LowRank { a, b, rank, inputs, outputs, scale, dropout } = *factors;
    let rows = h.len() / rank;
    match dropout {
        None => {
            let size = [rows, rank, inputs];
            nt(threads, size, 1.0, x, Matrix::new(a, inputs), 0.0, MatrixMut::new(&mut *h, rank));
        }
        Some(dropout) => dropped_product(threads, h, x, factors, dropout),
    }
    nt(threads, [rows, outputs, rank], scale, Matrix::new(h, rank), Matrix::new(b, rank), 1.0, y);
}

/// h = dropout(x) Aᵀ.
fn dropped_product(
    threads: &Threads,
    mut h: &mut [f32],
    x: Matrix<'_>,
    factors: &LowRank<'_>,
    dropout: RowDropout<'_>,
) {
    let LowRank { a, rank, inputs, .. } = *factors;
    let rows = h.len() / rank;
    let minimum = MINIMUM_PRODUCTS.div_ceil(rank * inputs);
    threads.run(threads.ranges(rows, minimum, BLOCK_ROWS).map(|rows| {
        let h = take(&mut h, rows.len() * rank);
        move || {
            with_scratch([BLOCK_ROWS * inputs], |[block]| {
                for (h, first) in h.chunks_mut(BLOCK_ROWS * rank).zip(rows.step_by(BLOCK_ROWS)) {
                    let count = h.len() / rank;
                    drop_block(block, x, dropout, first..first + count, 0..inputs);
                    let (block, a) = (Matrix::new(block, inputs), Matrix::new(a, inputs));
                    let size = [count, rank, inputs];
                    sequential(Form::TransposedB, size, (1.0, 0.0), block, a, MatrixMut::new(h, rank));
                }
            });
        }
    }));
}

/// Writes columns of dropped rows of x, one row after another.
fn drop_block(
    block: &mut [f32],
    x: Matrix<'_>,
    dropout: RowDropout<'_>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) {
    let mut masks = dropout.rows(rows.start);
    vectorize(
        #[inline(always)]
        || {
            for (out, row) in block.chunks_exact_mut(columns.len()).zip(rows) {
                let x = &x.values[row * x.stride + columns.start..][..columns.len()];
                masks.advance().write(out, x, columns.start as u32);
            }
        },
    );
}

/// What the backward pass gives; `None` for what is not wanted.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Added to: [rank, inputs].
    pub a: Option<&'a mut [f32]>,
    /// Added to: [outputs, rank].
    pub b: Option<&'a mut [f32]>,
    /// Added to: [rows, inputs].
    pub x: Option<MatrixMut<'a>>,
}

/// The backward pass for `dy` [rows, outputs], with `h` as the forward pass has
/// left it. `dh` [rows, rank] is memory to work in.
pub fn backward(
    threads: &Threads,
    gradients: Gradients<'_>,
    dh: &mut [f32],
    dy: Matrix<'_>,
    h: &[f32],
    x: Matrix<'_>,
    factors: &LowRank<'_>,
) {
    let LowRank { a, b, rank, inputs, outputs, scale, dropout } = *factors;
    let rows = h.len() / rank;
    assert_eq!(dh.len(), h.len());
    if let Some(db) = gradients.b {
        let db = MatrixMut::new(db, rank);
        tn(threads, [outputs, rank, rows], scale, dy, Matrix::new(h, rank), 1.0, db);
    }
    if gradients.a.is_none() && gradients.x.is_none() {
        return;
    }
    let size = [rows, rank, outputs];
    nn(threads, size, scale, dy, Matrix::new(b, rank), 0.0, MatrixMut::new(&mut *dh, rank));
    let dh = Matrix::new(dh, rank);
    if let Some(da) = gradients.a {
        match dropout {
            None => tn(threads, [rank, inputs, rows], 1.0, dh, x, 1.0, MatrixMut::new(da, inputs)),
            Some(dropout) => add_gradient_of_a(threads, da, dh, x, factors, dropout),
        }
    }
    if let Some(dx) = gradients.x {
        match dropout {
            None => nn(threads, [rows, inputs, rank], 1.0, dh, Matrix::new(a, inputs), 1.0, dx),
            Some(dropout) => add_gradient_of_x(threads, dx, dh, factors, dropout),
        }
    }
}

/// dA += dhᵀ dropout(x); each thread has its own columns.
fn add_gradient_of_a(
    threads: &Threads,
    da: &mut [f32],
    dh: Matrix<'_>,
    x: Matrix<'_>,
    factors: &LowRank<'_>,
    dropout: RowDropout<'_>,
) {
    let LowRank { rank, inputs, .. } = *factors;
    let rows = dh.values.len() / rank;
    let da = SharedMatrix::new(da, inputs);
    let minimum = MINIMUM_PRODUCTS.div_ceil((rows * rank).max(1));
    threads.run(threads.ranges(inputs, minimum, 16).map(|columns| {
        let da = &da;
        move || {
            let width = columns.len();
            let c = da.pointer(0, columns.start, rank, width);
            with_scratch([BLOCK_ROWS * width], |[block]| {
                for first in (0..rows).step_by(BLOCK_ROWS) {
                    let count = BLOCK_ROWS.min(rows - first);
                    drop_block(block, x, dropout, first..first + count, columns.clone());
                    let (dh, block) = (dh.rows_from(first), Matrix::new(block, width));
                    let size = [rank, width, count];
                    // SAFETY: `pointer` has checked the block, and the tasks'
                    // columns do not overlap.
                    unsafe { raw(Form::TransposedA, size, (1.0, 1.0), dh, block, c, inputs) };
                }
            });
        }
    }));
}

/// dx += dropout(dh A).
fn add_gradient_of_x(
    threads: &Threads,
    mut dx: MatrixMut<'_>,
    dh: Matrix<'_>,
    factors: &LowRank<'_>,
    dropout: RowDropout<'_>,
) {
    let LowRank { a, rank, inputs, .. } = *factors;
    let (rows, stride) = (dh.values.len() / rank, dx.stride);
    let minimum = MINIMUM_PRODUCTS.div_ceil(rank * inputs);
    threads.run(threads.ranges(rows, minimum, BLOCK_ROWS).map(|rows| {
        let dx = take(&mut dx.values, rows.len() * stride);
        move || {
            let mut masks = dropout.rows(rows.start);
            let end = rows.end;
            with_scratch([BLOCK_ROWS * inputs], |[block]| {
                for (dx, first) in dx.chunks_mut(BLOCK_ROWS * stride).zip(rows.step_by(BLOCK_ROWS)) {
                    let size = [BLOCK_ROWS.min(end - first), inputs, rank];
                    let (dh, a) = (dh.rows_from(first), Matrix::new(a, inputs));
                    let out = MatrixMut::new(&mut *block, inputs);
                    sequential(Form::Plain, size, (1.0, 0.0), dh, a, out);
                    vectorize(
                        #[inline(always)]
                        || {
                            for (dx, block) in dx.chunks_mut(stride).zip(block.chunks_exact(inputs)) {
                                masks.advance().add(&mut dx[..inputs], block, 0);
                            }
                        },
                    );
                }
            });
        }
    }));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dropout::{DropoutKey, dropout};
    use super::super::reference::{assert_close, random, wide};
    use super::*;

    /// a [m, k] times b [n, k] transposed.
    fn product(
        m: usize,
        n: usize,
        k: usize,
        a: impl Fn(usize, usize) -> f64,
        b: impl Fn(usize, usize) -> f64,
    ) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..m {
            for column in 0..n {
                out.push((0..k).map(|i| a(row, i) * b(column, i)).sum());
            }
        }
        out
    }

    fn check(rows: usize, inputs: usize, outputs: usize, rank: usize, probability: f32, count: usize) {
        let threads = Threads::new(count).unwrap();
        let (a, b) = (random(rank * inputs, 1), random(outputs * rank, 2));
        let x = random(rows * inputs, 3);
        let (stride, first) = (outputs + 5, 2);
        let (y, dy) = (random(rows * stride, 4), random(rows * stride, 5));
        let starts = [0, (rows / 2) as u32, rows as u32];
        let key = DropoutKey { seed: 4, step: 2, site: 1 };
        let mask = RowDropout::new(key, probability, &starts, &[5, 1]);
        let factors = LowRank { a: &a, b: &b, rank, inputs, outputs, scale: 0.5, dropout: mask };
        let (mut h, mut found_y) = (vec![0.0; rows * rank], y.clone());
        let x_matrix = Matrix::new(&x, inputs);
        forward(&threads, &mut h, MatrixMut::new(&mut found_y[first..], stride), x_matrix, &factors);

        let mut dropped = vec![0.0; x.len()];
        dropout(&threads, &mut dropped, &x, inputs, mask);
        let (a64, b64, x64, dy64) = (wide(&a), wide(&b), wide(&dropped), wide(&dy));
        let h64 = product(rows, rank, inputs, |r, i| x64[r * inputs + i], |c, i| a64[c * inputs + i]);
        assert_close(&h, &h64, 1e-5);
        let added = product(rows, outputs, rank, |r, i| h64[r * rank + i], |c, i| b64[c * rank + i]);
        let mut y64 = wide(&y);
        for row in 0..rows {
            for column in 0..outputs {
                y64[row * stride + first + column] += 0.5 * added[row * outputs + column];
            }
        }
        assert_close(&found_y, &y64, 1e-5);

        let (mut da, mut db, mut dx) = (vec![1.0; a.len()], vec![1.0; b.len()], vec![1.0; x.len()]);
        let gradients =
            Gradients { a: Some(&mut da), b: Some(&mut db), x: Some(MatrixMut::new(&mut dx, inputs)) };
        let mut dh = vec![0.0; h.len()];
        backward(&threads, gradients, &mut dh, Matrix::new(&dy[first..], stride), &h, x_matrix, &factors);
        let at = |r: usize, c: usize| 0.5 * dy64[r * stride + first + c];
        let plus_one = |mut values: Vec<f64>| {
            values.iter_mut().for_each(|value| *value += 1.0);
            values
        };
        let db64 = product(outputs, rank, rows, |o, r| at(r, o), |c, r| h64[r * rank + c]);
        assert_close(&db, &plus_one(db64), 1e-5);
        let dh64 = product(rows, rank, outputs, at, |c, o| b64[o * rank + c]);
        let da64 = product(rank, inputs, rows, |c, r| dh64[r * rank + c], |i, r| x64[r * inputs + i]);
        assert_close(&da, &plus_one(da64), 1e-5);
        let mut dx64 = product(rows, inputs, rank, |r, c| dh64[r * rank + c], |i, c| a64[c * inputs + i]);
        let mut ones = vec![0.0; x.len()];
        dropout(&threads, &mut ones, &vec![1.0; x.len()], inputs, mask);
        dx64.iter_mut().zip(&ones).for_each(|(dx, &mask)| *dx *= f64::from(mask));
        assert_close(&dx, &plus_one(dx64), 1e-5);

        // What is not wanted changes nothing of the rest.
        let mut alone = vec![1.0; a.len()];
        let gradients = Gradients { a: Some(&mut alone), ..Gradients::default() };
        backward(&threads, gradients, &mut dh, Matrix::new(&dy[first..], stride), &h, x_matrix, &factors);
        assert_eq!(alone, da);
    }

    #[test]
    fn all_parts_agree_with_double_precision() {
        for probability in [0.0, 0.1] {
            check(2, 5, 3, 1, probability, 1);
            check(513, 96, 70, 8, probability, 2);
            check(513, 200, 64, 16, probability, 3);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_shape(rows in 2usize..150, inputs in 1usize..50, outputs in 1usize..50, rank in 1usize..9, dropped in any::<bool>()) {
            check(rows, inputs, outputs, rank, if dropped { 0.3 } else { 0.0 }, 2);
        }
    }
}
