//! Attention of one query a sequence over rows of which no keys and values are made: the
//! projection of keys is absorbed into the query, and that of values into what is made
//! of the mean of the rows (DeepSeek-AI 2024, DeepSeek-V2, section 2.1.2). For the query
//! q of a head and the rows X of its sequence:
//!
//! ```text
//! m = scale Wkᵀ q,  p = softmax(X m),  mean = Xᵀ dropout(p),
//! ctx = Wv mean + bv Σ dropout(p)
//! ```
//!
//! The bias of the keys would add the same number to all scores, and so nothing to p. Two
//! vectors a head and sequence are multiplied with the projections instead of every row.

use std::ops::Range;

use super::attention::{softmax, softmax_backward};
use super::dropout::RowDropout;
use super::matmul::{Form, MINIMUM_PRODUCTS, Matrix, MatrixMut, raw, sequential};
use super::parallel::{SharedMatrix, Threads, with_scratch};
use super::simd::{sum_of, sum_of_pairs, vectorize};

/// The shape and settings of an attention layer and of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Absorbed<'a> {
    /// [sequences + 1]: the first row of each sequence.
    pub starts: &'a [u32],
    pub heads: usize,
    pub head_dim: usize,
    /// Columns of the rows.
    pub inputs: usize,
    /// What the scores are multiplied by.
    pub scale: f32,
    /// The projections of keys and values, one below the other,
    /// [2 heads head_dim, inputs].
    pub weight: &'a [f32],
    /// The bias of the values, [heads head_dim].
    pub value_bias: Option<&'a [f32]>,
    /// Dropout of the probabilities.
    pub dropout: Option<RowDropout<'a>>,
}

/// What the forward pass fills.
#[derive(Debug)]
pub struct Results<'a> {
    /// [sequences, heads head_dim].
    pub ctx: &'a mut [f32],
    /// The queries before the projection of keys, with the scale, [sequences, heads inputs].
    pub moved: &'a mut [f32],
    /// Without dropout, as many rows a head as the batch has: by sequence, [heads, length].
    pub probabilities: &'a mut [f32],
    /// Working memory, [sequences, heads inputs].
    pub means: &'a mut [f32],
}

/// What the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The gradient of the context.
    pub dctx: &'a [f32],
    /// [rows, inputs].
    pub x: &'a [f32],
    pub moved: &'a [f32],
    pub probabilities: &'a [f32],
}

/// What the backward pass fills; `None` where nobody wants it.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// [sequences, heads head_dim].
    pub queries: Option<&'a mut [f32]>,
    /// [rows, inputs], and whether it is added to.
    pub x: Option<(&'a mut [f32], bool)>,
    /// Working memory, [sequences, heads inputs] each.
    pub means: &'a mut [f32],
    pub moved: &'a mut [f32],
}

/// One of the projections, by its place in the weight.
#[derive(Clone, Copy)]
enum Projection {
    Keys,
    Values,
}

impl Absorbed<'_> {
    fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn sequences(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    fn rows(&self) -> usize {
        self.starts.last().map_or(0, |&rows| rows as usize)
    }

    /// The rows of a sequence.
    fn range(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence] as usize..self.starts[sequence + 1] as usize
    }

    /// The projection of a head, [head_dim, inputs].
    fn head(&self, of: Projection, head: usize) -> Matrix<'_> {
        let first = head * self.head_dim
            + match of {
                Projection::Keys => 0,
                Projection::Values => self.hidden(),
            };
        Matrix::new(&self.weight[first * self.inputs..], self.inputs)
    }

    /// Cuts heads into a range a thread.
    fn by_head(&self, threads: &Threads) -> impl Iterator<Item = Range<usize>> + use<> {
        let products = self.sequences() * self.head_dim * self.inputs;
        threads.ranges(self.heads, MINIMUM_PRODUCTS.div_ceil(products.max(1)), 1)
    }

    /// Cuts sequences into a range a thread, of about as many rows each.
    fn by_sequence(&self, threads: &Threads) -> impl Iterator<Item = Range<usize>> {
        let products = 2 * self.heads * self.inputs;
        let ranges = threads.ranges(self.rows(), MINIMUM_PRODUCTS.div_ceil(products.max(1)), 1);
        let starts = &self.starts[..self.sequences()];
        let all = self.rows();
        let before = move |row: usize| match row == all {
            true => starts.len(),
            false => starts.partition_point(|&start| (start as usize) < row),
        };
        ranges.map(move |rows| before(rows.start)..before(rows.end))
    }

    /// out = factor x W of each head: from [sequences, heads head_dim] to
    /// [sequences, heads inputs].
    fn absorb(&self, threads: &Threads, out: &mut [f32], x: &[f32], of: Projection, factor: f32) {
        let stride = self.heads * self.inputs;
        let size = [self.sequences(), self.inputs, self.head_dim];
        let out = SharedMatrix::new(out, stride);
        threads.run(self.by_head(threads).map(|heads| {
            let out = &out;
            move || {
                for head in heads {
                    let x = Matrix::new(x.get(head * self.head_dim..).unwrap_or_default(), self.hidden());
                    let to = out.pointer(0, head * self.inputs, size[0], self.inputs);
                    // SAFETY: `pointer` has checked the block; no other task has this head.
                    unsafe { raw(Form::Plain, size, (factor, 0.0), x, self.head(of, head), to, stride) };
                }
            }
        }));
    }

    /// out = factor x Wᵀ of each head, added to what is there if so said: from
    /// [sequences, heads inputs] to [sequences, heads head_dim].
    fn project(&self, threads: &Threads, out: &mut [f32], x: &[f32], of: Projection, factors: (f32, f32)) {
        let size = [self.sequences(), self.head_dim, self.inputs];
        let out = SharedMatrix::new(out, self.hidden());
        threads.run(self.by_head(threads).map(|heads| {
            let out = &out;
            move || {
                for head in heads {
                    let x = x.get(head * self.inputs..).unwrap_or_default();
                    let x = Matrix::new(x, self.heads * self.inputs);
                    let to = out.pointer(0, head * self.head_dim, size[0], self.head_dim);
                    let weight = self.head(of, head);
                    // SAFETY: `pointer` has checked the block; no other task has this head.
                    unsafe { raw(Form::TransposedB, size, factors, x, weight, to, self.hidden()) };
                }
            }
        }));
    }

    /// The rows of a sequence's heads in a matrix [sequences, heads inputs].
    fn of_heads<'m>(&self, values: &'m [f32], sequence: usize) -> Matrix<'m> {
        Matrix::new(&values[sequence * self.heads * self.inputs..], self.inputs)
    }

    /// The longest sequence's probabilities.
    fn most(&self, sequences: &Range<usize>) -> usize {
        sequences.clone().map(|sequence| self.heads * self.range(sequence).len()).max().unwrap_or(0)
    }

    fn check(&self, x: &[f32], heads: [&[f32]; 2], probabilities: &[f32]) {
        assert_eq!(x.len(), self.rows() * self.inputs);
        assert_eq!(self.weight.len(), 2 * self.hidden() * self.inputs);
        assert!(self.value_bias.is_none_or(|bias| bias.len() == self.hidden()));
        assert!(heads.iter().all(|values| values.len() == self.sequences() * self.heads * self.inputs));
        assert_eq!(probabilities.len(), self.heads * self.rows());
    }
}

/// The forward pass, for `queries` [sequences, heads head_dim] and `x` [rows, inputs].
pub fn forward(
    threads: &Threads,
    results: Results<'_>,
    queries: &[f32],
    x: &[f32],
    attention: &Absorbed<'_>,
) {
    let Results { ctx, moved, probabilities, means } = results;
    let Absorbed { heads, head_dim, inputs, .. } = *attention;
    attention.check(x, [moved, means], probabilities);
    assert!(queries.len() == attention.sequences() * attention.hidden() && ctx.len() == queries.len());
    attention.absorb(threads, moved, queries, Projection::Keys, attention.scale);
    let moved = &*moved;
    let shared = [
        SharedMatrix::new(ctx, attention.hidden()),
        SharedMatrix::new(probabilities, 1),
        SharedMatrix::new(means, heads * inputs),
    ];
    threads.run(attention.by_sequence(threads).map(|sequences| {
        let [ctx, probabilities, means] = &shared;
        move || {
            with_scratch([attention.most(&sequences)], |[dropped]| {
                for sequence in sequences {
                    let range = attention.range(sequence);
                    let length = range.len();
                    let rows = Matrix::new(&x[range.start * inputs..], inputs);
                    let dropped = &mut dropped[..heads * length];
                    // SAFETY: no other task has this sequence.
                    let (p, means, ctx) = unsafe {
                        (
                            probabilities.row(0, heads * range.start..heads * range.end),
                            means.row(sequence, 0..heads * inputs),
                            ctx.row(sequence, 0..attention.hidden()),
                        )
                    };
                    let queries = attention.of_heads(moved, sequence);
                    let scores = MatrixMut::new(&mut *p, length);
                    let size = [heads, length, inputs];
                    sequential(Form::TransposedB, size, (1.0, 0.0), queries, rows, scores);
                    vectorize(
                        #[inline(always)]
                        || {
                            for head in 0..heads {
                                let p = &mut p[head * length..][..length];
                                let dropped = &mut dropped[head * length..][..length];
                                softmax(p);
                                dropped.copy_from_slice(p);
                                if let Some(dropout) = attention.dropout {
                                    dropout.query(sequence, head, 0).apply(dropped, 0);
                                }
                                let ctx = &mut ctx[head * head_dim..][..head_dim];
                                if let Some(bias) = attention.value_bias {
                                    let total = sum_of(dropped, |p| p);
                                    let bias = &bias[head * head_dim..][..head_dim];
                                    ctx.iter_mut().zip(bias).for_each(|(ctx, bias)| *ctx = total * bias);
                                }
                            }
                        },
                    );
                    let dropped = Matrix::new(dropped, length);
                    let size = [heads, inputs, length];
                    let means = MatrixMut::new(means, inputs);
                    sequential(Form::Plain, size, (1.0, 0.0), dropped, rows, means);
                }
            });
        }
    }));
    let beta = if attention.value_bias.is_some() { 1.0 } else { 0.0 };
    attention.project(threads, ctx, means, Projection::Values, (1.0, beta));
}

/// The backward pass.
pub fn backward(threads: &Threads, gradients: Gradients<'_>, saved: Saved<'_>, attention: &Absorbed<'_>) {
    let Saved { dctx, x, moved, probabilities } = saved;
    let Absorbed { heads, inputs, .. } = *attention;
    let Gradients { queries: dqueries, x: dx, means: dmeans, moved: dmoved } = gradients;
    attention.check(x, [moved, dmeans], probabilities);
    attention.check(x, [moved, dmoved], probabilities);
    assert_eq!(dctx.len(), attention.sequences() * attention.hidden());
    assert!(dx.as_ref().is_none_or(|(dx, _)| dx.len() == x.len()));
    attention.absorb(threads, dmeans, dctx, Projection::Values, 1.0);
    let dmeans = &*dmeans;
    let dx = dx.map(|(dx, adds)| (SharedMatrix::new(dx, inputs), adds));
    let shared = SharedMatrix::new(dmoved, heads * inputs);
    threads.run(attention.by_sequence(threads).map(|sequences| {
        let (dx, dmoved) = (&dx, &shared);
        move || {
            let most = attention.most(&sequences);
            with_scratch([most, most], |[dropped, dscores]| {
                for sequence in sequences {
                    let range = attention.range(sequence);
                    let length = range.len();
                    let (dropped, dscores) = (&mut dropped[..heads * length], &mut dscores[..heads * length]);
                    dropped.copy_from_slice(&probabilities[heads * range.start..heads * range.end]);
                    score_gradients([&mut *dropped, &mut *dscores], saved, dmeans, attention, sequence);
                    let rows = Matrix::new(&x[range.start * inputs..], inputs);
                    let (dropped, dscores) = (Matrix::new(dropped, length), Matrix::new(dscores, length));
                    let to = dmoved.pointer(sequence, 0, 1, heads * inputs);
                    // SAFETY: `pointer` has checked the block; no other task has this sequence.
                    unsafe {
                        raw(Form::Plain, [heads, inputs, length], (1.0, 0.0), dscores, rows, to, inputs)
                    };
                    let Some((dx, adds)) = dx else { continue };
                    let (to, size) = (dx.pointer(range.start, 0, length, inputs), [length, inputs, heads]);
                    let beta = if *adds { 1.0 } else { 0.0 };
                    let of_means = attention.of_heads(dmeans, sequence);
                    let of_moved = attention.of_heads(moved, sequence);
                    // SAFETY: as above.
                    unsafe {
                        raw(Form::TransposedA, size, (1.0, beta), dropped, of_means, to, inputs);
                        raw(Form::TransposedA, size, (1.0, 1.0), dscores, of_moved, to, inputs);
                    }
                }
            });
        }
    }));
    if let Some(dqueries) = dqueries {
        assert_eq!(dqueries.len(), dctx.len());
        attention.project(threads, dqueries, dmoved, Projection::Keys, (attention.scale, 0.0));
    }
}

/// From the probabilities of a sequence: those with dropout, in their place, and the
/// gradient of the scores.
fn score_gradients(
    [probabilities, dscores]: [&mut [f32]; 2],
    saved: Saved<'_>,
    dmeans: &[f32],
    attention: &Absorbed<'_>,
    sequence: usize,
) {
    let Absorbed { heads, head_dim, inputs, .. } = *attention;
    let range = attention.range(sequence);
    let length = range.len();
    let rows = Matrix::new(&saved.x[range.start * inputs..], inputs);
    let of_means = attention.of_heads(dmeans, sequence);
    let to = MatrixMut::new(&mut *dscores, length);
    sequential(Form::TransposedB, [heads, length, inputs], (1.0, 0.0), of_means, rows, to);
    let dctx = &saved.dctx[sequence * attention.hidden()..];
    vectorize(
        #[inline(always)]
        || {
            for head in 0..heads {
                let p = &mut probabilities[head * length..][..length];
                let d = &mut dscores[head * length..][..length];
                if let Some(bias) = attention.value_bias {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let of_total = sum_of_pairs(&dctx[columns.clone()], &bias[columns], |d, bias| d * bias);
                    d.iter_mut().for_each(|d| *d += of_total);
                }
                match attention.dropout {
                    Some(dropout) => {
                        let mask = dropout.query(sequence, head, 0);
                        mask.apply(d, 0);
                        softmax_backward(d, p, 1.0);
                        mask.apply(p, 0);
                    }
                    None => softmax_backward(d, p, 1.0),
                }
            }
        },
    );
}

#[cfg(test)]
mod tests;
