//! Attention over packed sequences (Vaswani et al. 2017), a query block at a
//! time: only the logarithm of each row's sum of exponentials is saved, and the
//! backward pass computes the probabilities again (Dao et al. 2022), but for those of
//! short sequences, which may be kept.
//!
//! ```text
//! P = softmax(scale Q Kᵀ),  ctx = dropout(P) V
//! ```
//!
//! for each sequence and head. The matrix `qkv` [rows, 3 heads head_dim] holds
//! the queries, keys and values side by side, biases included.

mod kept;

use std::cmp::Reverse;
use std::ops::Range;

use super::dropout::RowDropout;
use super::matmul::{Form, Matrix, MatrixMut, raw, sequential};
use super::parallel::{SharedMatrix, Threads, with_scratch};
use super::simd::{exp, maximum, sum_of_pairs, vectorize};

pub use kept::{kept_places, most_kept_of_row};

/// Queries whose probabilities are in memory at a time.
pub(super) const QUERY_BLOCK: usize = 128;
/// Rows of scores are filled up to so many: loops over them then have no rest.
const WHOLE: usize = 16;
/// Multiplications below which a share is not worth waking another thread.
const MINIMUM_PRODUCTS: usize = 1 << 20;

/// The shape and settings of an attention layer and of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// [sequences + 1]: the first row of each sequence.
    pub starts: &'a [u32],
    pub heads: usize,
    pub head_dim: usize,
    /// What the scores are multiplied by.
    pub scale: f32,
    /// Dropout of the probabilities.
    pub dropout: Option<RowDropout<'a>>,
}

/// A head of a sequence: the unit of the threads' work.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub sequence: usize,
    pub head: usize,
    pub first: usize,
    pub length: usize,
}

impl Attention<'_> {
    pub(super) fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(super) fn rows(&self) -> usize {
        self.starts.last().map_or(0, |&rows| rows as usize)
    }

    /// The work of each thread: units in descending order of their length, each
    /// given to the thread that has least so far (Graham 1969).
    pub(super) fn shares(&self, threads: &Threads) -> Vec<Vec<Unit>> {
        let mut sequences: Vec<usize> = (0..self.starts.len().saturating_sub(1)).collect();
        let length = |sequence: usize| (self.starts[sequence + 1] - self.starts[sequence]) as usize;
        sequences.sort_by_key(|&sequence| Reverse(length(sequence)));
        // Two products, and about as much again for each probability and row.
        let cost = |sequence: usize| length(sequence) * (length(sequence) + 32) * (2 * self.head_dim + 64);
        let total: usize = sequences.iter().map(|&sequence| cost(sequence) * self.heads).sum();
        let count = (total / MINIMUM_PRODUCTS).clamp(1, threads.count());
        let mut shares = vec![(0, Vec::new()); count];
        for sequence in sequences.into_iter().filter(|&sequence| length(sequence) > 0) {
            for head in 0..self.heads {
                let least = (0..count).min_by_key(|&share| shares[share].0).unwrap_or(0);
                let first = self.starts[sequence] as usize;
                shares[least].0 += cost(sequence);
                shares[least].1.push(Unit { sequence, head, first, length: length(sequence) });
            }
        }
        shares.into_iter().map(|(_, units)| units).collect()
    }

    /// As `shares`, with all sequences of a head on one thread.
    pub(super) fn shares_by_head(&self, threads: &Threads) -> Vec<Vec<Unit>> {
        let count = threads.count().clamp(1, self.heads.max(1));
        let mut shares = vec![Vec::new(); count];
        for head in 0..self.heads {
            for (sequence, bounds) in self.starts.windows(2).enumerate() {
                let (first, length) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
                if length > 0 {
                    shares[head % count].push(Unit { sequence, head, first, length });
                }
            }
        }
        shares
    }

    /// Queries, keys and values of a unit.
    pub(super) fn operands<'m>(&self, qkv: &'m [f32], unit: Unit) -> [Matrix<'m>; 3] {
        let hidden = self.hidden();
        [0, 1, 2].map(|part| {
            let start = unit.first * 3 * hidden + part * hidden + unit.head * self.head_dim;
            Matrix::new(&qkv[start..], 3 * hidden)
        })
    }

    /// Scale times the scores of a block of queries with all keys, [queries, keys], in
    /// rows of as many elements as `out` has room for.
    pub(super) fn scores(&self, out: &mut [f32], queries: Matrix<'_>, keys: Matrix<'_>, size: [usize; 2]) {
        let stride = out.len() / size[0];
        let out = MatrixMut::new(out, stride);
        let size = [size[0], size[1], self.head_dim];
        sequential(Form::TransposedB, size, (self.scale, 0.0), queries, keys, out);
    }

    /// Makes scores of a block of a unit's queries probabilities, with dropout; those
    /// behind the last key become 0. `lse` are those of the block.
    pub(super) fn probabilities(
        &self,
        scores: &mut [f32],
        lse: &mut [f32],
        unit: Unit,
        block: &Range<usize>,
    ) {
        let stride = scores.len() / block.len();
        vectorize(
            #[inline(always)]
            || {
                let queries = block.clone().zip(lse);
                for (row, (query, lse)) in scores.chunks_exact_mut(stride).zip(queries) {
                    row[unit.length..].fill(f32::NEG_INFINITY);
                    *lse = softmax(row);
                    if let Some(dropout) = self.dropout {
                        dropout.query(unit.sequence, unit.head, query).apply(row, 0);
                    }
                }
            },
        );
    }

    /// From the scores of a block of a unit's queries: the probabilities, with
    /// dropout, in their place, and the gradient of the scores before the scale; both
    /// are 0 behind the last key.
    pub(super) fn score_gradients(
        &self,
        [scores, dscores]: [&mut [f32]; 2],
        saved: Saved<'_>,
        unit: Unit,
        block: &Range<usize>,
    ) {
        let (length, stride) = (unit.length, scores.len() / block.len());
        let [_, _, values] = self.operands(saved.qkv, unit);
        let dctx = saved.dctx(self, unit).rows_from(block.start);
        let size = [block.len(), length, self.head_dim];
        let out = MatrixMut::new(&mut *dscores, stride);
        sequential(Form::TransposedB, size, (1.0, 0.0), dctx, values, out);
        vectorize(
            #[inline(always)]
            || {
                let rows = scores.chunks_exact_mut(stride).zip(dscores.chunks_exact_mut(stride));
                for ((p, d), query) in rows.zip(block.clone()) {
                    p[length..].fill(f32::NEG_INFINITY);
                    d[length..].fill(0.0);
                    exponentials(p, saved.lse[query]);
                    match self.dropout {
                        Some(dropout) => {
                            let mask = dropout.query(unit.sequence, unit.head, query);
                            mask.apply(d, 0);
                            softmax_backward(d, p, self.scale);
                            mask.apply(p, 0);
                        }
                        None => softmax_backward(d, p, self.scale),
                    }
                }
            },
        );
    }
}

/// Elements of a row of so many scores.
fn filled(keys: usize) -> usize {
    keys.next_multiple_of(WHOLE)
}

/// The blocks of queries of a sequence.
pub(super) fn blocks(length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(QUERY_BLOCK).map(move |start| start..length.min(start + QUERY_BLOCK))
}

/// What the forward pass fills.
#[derive(Debug)]
pub struct Results<'a> {
    /// [rows, heads head_dim].
    pub ctx: &'a mut [f32],
    /// [heads, rows]: the logarithms of the rows' sums of exponentials.
    pub lse: &'a mut [f32],
    /// Where probabilities of short sequences are kept, as many a head as
    /// [`kept_places`] says.
    pub kept: Option<&'a mut [f32]>,
}

/// The forward pass.
pub fn forward(threads: &Threads, results: Results<'_>, qkv: &[f32], attention: &Attention<'_>) {
    let Results { ctx, lse, kept } = results;
    let (rows, hidden) = (attention.rows(), attention.hidden());
    assert!(ctx.len() == rows * hidden && qkv.len() == 3 * rows * hidden);
    assert_eq!(lse.len(), rows * attention.heads);
    let places = kept_places(attention.starts);
    let (ctx, lse) = (SharedMatrix::new(ctx, hidden), SharedMatrix::new(lse, rows));
    let kept = kept.map(|kept| SharedMatrix::new(kept, 1));
    threads.run(attention.shares(threads).into_iter().map(|units| {
        let (ctx, lse, kept, places) = (&ctx, &lse, kept.as_ref(), &places);
        move || {
            let longest = units.first().map_or(0, |unit| unit.length);
            with_scratch([QUERY_BLOCK.min(longest) * filled(longest)], |[scores]| {
                for unit in units {
                    let kept = kept.zip(attention.kept_range(places, unit));
                    // SAFETY: no other unit has this part.
                    let kept = kept.map(|(kept, range)| unsafe { kept.row(0, range) });
                    forward_unit((ctx, lse, kept), qkv, attention, unit, scores);
                }
            });
        }
    }));
}

fn forward_unit(
    (ctx, lse, mut kept): (&SharedMatrix<'_>, &SharedMatrix<'_>, Option<&mut [f32]>),
    qkv: &[f32],
    attention: &Attention<'_>,
    unit: Unit,
    scores: &mut [f32],
) {
    let (width, hidden) = (attention.head_dim, attention.hidden());
    let [queries, keys, values] = attention.operands(qkv, unit);
    let stride = filled(unit.length);
    for block in blocks(unit.length) {
        let size = [block.len(), unit.length];
        let scores = &mut scores[..block.len() * stride];
        attention.scores(scores, queries.rows_from(block.start), keys, size);
        let rows = unit.first + block.start..unit.first + block.end;
        // SAFETY: no other unit has this head and these rows.
        let lse = unsafe { lse.row(unit.head, rows.clone()) };
        match &mut kept {
            // Of a short sequence, which is one block.
            Some(kept) => attention.keep_probabilities(scores, kept, lse, unit),
            None => attention.probabilities(scores, lse, unit, &block),
        }
        let size = [block.len(), width, unit.length];
        let probabilities = Matrix::new(scores, stride);
        let out = ctx.pointer(rows.start, unit.head * width, block.len(), width);
        // SAFETY: `pointer` has checked the block; no other unit has these rows
        // and columns.
        unsafe { raw(Form::Plain, size, (1.0, 0.0), probabilities, values, out, hidden) };
    }
}

/// Makes a row of scores one of probabilities; returns the logarithm of the sum
/// of exponentials.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) -> f32 {
    let largest = maximum(row);
    exponentials(row, largest);
    let total = super::simd::sum_of(row, |value| value);
    scale_row(row, 1.0 / total);
    largest + total.ln()
}

#[inline(always)]
pub(super) fn exponentials(row: &mut [f32], offset: f32) {
    for value in row.iter_mut() {
        *value = exp(*value - offset);
    }
}

#[inline(always)]
pub(super) fn scale_row(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|value| *value *= factor);
}

/// What the backward pass has of the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub qkv: &'a [f32],
    pub lse: &'a [f32],
    pub kept: Option<&'a [f32]>,
}

/// What the backward pass fills.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// [rows, 3 heads head_dim].
    pub dqkv: &'a mut [f32],
    /// Where gradients of so many rows at the start of each sequence are wanted alone;
    /// `dqkv` has no others then.
    pub first_rows: Option<usize>,
}

/// The backward pass, from `dctx` [rows, heads head_dim].
pub fn backward(
    threads: &Threads,
    wanted: Wanted<'_>,
    dctx: &[f32],
    known: Known<'_>,
    attention: &Attention<'_>,
) {
    let Known { qkv, lse, kept } = known;
    let Wanted { dqkv, first_rows } = wanted;
    let (rows, hidden) = (attention.rows(), attention.hidden());
    let filled_rows = first_rows.map_or(rows, |first| first * (attention.starts.len() - 1));
    assert!(dctx.len() == rows * hidden && qkv.len() == 3 * rows * hidden);
    assert!(lse.len() == rows * attention.heads && dqkv.len() == 3 * filled_rows * hidden);
    let places = kept_places(attention.starts);
    let dqkv = SharedMatrix::new(dqkv, 3 * hidden);
    threads.run(attention.shares(threads).into_iter().map(|units| {
        let (dqkv, places) = (&dqkv, &places);
        move || {
            let longest = units.first().map_or(0, |unit| unit.length);
            let block = QUERY_BLOCK.min(longest) * filled(longest);
            with_scratch([block, block], |[probabilities, dscores]| {
                for unit in units {
                    let lse = &lse[unit.head * rows + unit.first..][..unit.length];
                    let saved = Saved { dctx, qkv, lse };
                    let kept = kept.zip(attention.kept_range(places, unit)).map(|(kept, range)| &kept[range]);
                    let scratch = [&mut *probabilities, &mut *dscores];
                    let gradients = Gradients::new(dqkv, attention, unit, first_rows);
                    backward_unit(&gradients, (saved, kept), attention, unit, scratch);
                }
            });
        }
    }));
}

/// What the backward pass of a unit reads: whole matrices, and its own `lse`.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub dctx: &'a [f32],
    pub qkv: &'a [f32],
    pub lse: &'a [f32],
}

impl<'a> Saved<'a> {
    fn dctx(&self, attention: &Attention<'_>, unit: Unit) -> Matrix<'a> {
        let hidden = attention.hidden();
        Matrix::new(&self.dctx[unit.first * hidden + unit.head * attention.head_dim..], hidden)
    }
}

/// Where the gradients of a unit's queries, keys and values go, in rows of
/// 3 heads head_dim.
pub(super) struct Gradients {
    pub queries: *mut f32,
    pub keys: *mut f32,
    values: *mut f32,
    /// Rows at the start of the unit whose gradients are wanted.
    rows: usize,
}

impl Gradients {
    pub fn new(
        dqkv: &SharedMatrix<'_>,
        attention: &Attention<'_>,
        unit: Unit,
        first_rows: Option<usize>,
    ) -> Gradients {
        let (hidden, column) = (attention.hidden(), unit.head * attention.head_dim);
        let (first, rows) = match first_rows {
            Some(rows) => (unit.sequence * rows, rows),
            None => (unit.first, unit.length),
        };
        assert!(rows <= unit.length, "a sequence has fewer rows than are wanted of it");
        let part = |part: usize| dqkv.pointer(first, part * hidden + column, rows, attention.head_dim);
        Gradients { queries: part(0), keys: part(1), values: part(2), rows }
    }

    /// Collects from a block of queries, by its probabilities and the gradient of
    /// its scores.
    ///
    /// # Safety
    /// Nobody else reads or writes the unit's rows and columns meanwhile.
    pub unsafe fn collect(
        &self,
        [probabilities, dscores]: [&[f32]; 2],
        saved: Saved<'_>,
        attention: &Attention<'_>,
        unit: Unit,
        block: &Range<usize>,
    ) {
        let (width, length, count) = (attention.head_dim, unit.length, block.len());
        let [queries, keys, _] = attention.operands(saved.qkv, unit);
        let (queries, dctx) =
            (queries.rows_from(block.start), saved.dctx(attention, unit).rows_from(block.start));
        // Keys and values collect from all blocks; the first one overwrites.
        let beta = if block.start == 0 { 0.0 } else { 1.0 };
        let of_queries = |values| Matrix::new(values, probabilities.len() / count);
        let (probabilities, dscores) = (of_queries(probabilities), of_queries(dscores));
        let (stride, to_keys) = (3 * attention.hidden(), [self.rows, width, count]);
        let wanted = count.min(self.rows.saturating_sub(block.start));
        // SAFETY: `pointer` has checked the blocks, of which the queries' rows from
        // `block.start` on are a part; the rest is the caller's promise.
        unsafe {
            raw(Form::TransposedA, to_keys, (1.0, beta), probabilities, dctx, self.values, stride);
            raw(Form::TransposedA, to_keys, (1.0, beta), dscores, queries, self.keys, stride);
            if wanted > 0 {
                let dqueries = self.queries.add(block.start * stride);
                raw(Form::Plain, [wanted, width, length], (1.0, 0.0), dscores, keys, dqueries, stride);
            }
        }
    }
}

fn backward_unit(
    gradients: &Gradients,
    (saved, kept): (Saved<'_>, Option<&[f32]>),
    attention: &Attention<'_>,
    unit: Unit,
    [probabilities, dscores]: [&mut [f32]; 2],
) {
    let (length, stride) = (unit.length, filled(unit.length));
    let [queries, keys, _] = attention.operands(saved.qkv, unit);
    for block in blocks(length) {
        let probabilities = &mut probabilities[..block.len() * stride];
        let dscores = &mut dscores[..block.len() * stride];
        let both = [&mut *probabilities, &mut *dscores];
        match kept {
            Some(kept) => attention.kept_score_gradients(both, kept, saved, unit),
            None => {
                let size = [block.len(), length];
                attention.scores(&mut *both[0], queries.rows_from(block.start), keys, size);
                attention.score_gradients(both, saved, unit, &block);
            }
        }
        // SAFETY: no other unit has these rows and columns.
        unsafe { gradients.collect([&*probabilities, &*dscores], saved, attention, unit, &block) };
    }
}

/// d = scale p (d - Σ p d): from the gradient of a row's probabilities to that
/// of its scores before the scale.
#[inline(always)]
pub(super) fn softmax_backward(d: &mut [f32], p: &[f32], scale: f32) {
    let mean = sum_of_pairs(d, p, |d, p| d * p);
    d.iter_mut().zip(p).for_each(|(d, p)| *d = scale * p * (*d - mean));
}

#[cfg(test)]
mod tests;
