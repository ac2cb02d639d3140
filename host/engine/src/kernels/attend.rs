//! Attention as in `attention`, of queries that may stand in another sequence than
//! the keys, that may see no key behind their own place, and with a bias by distance:
//!
//! ```text
//! P = softmax(scale Q Kᵀ + bias),  ctx = dropout(P) V
//! ```
//!
//! for each sequence and head. Queries, keys and values, biases included, stand
//! side by side in one matrix, or keys and values in another one, whose sequences
//! may have other lengths.

mod backward;

use std::cmp::Reverse;
use std::ops::Range;

use super::attention::{QUERY_BLOCK, softmax};
use super::dropout::RowDropout;
use super::elementwise::add_row;
use super::matmul::{Form, MINIMUM_PRODUCTS, Matrix, MatrixMut, raw, sequential};
use super::parallel::{SharedMatrix, Threads, with_scratch};
use super::relative::RelativeBias;
use super::simd::vectorize;

pub use backward::{BiasGradient, Gradients, Saved, backward};

/// The shape and settings of an attention layer and of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// [sequences + 1]: the first query of each sequence.
    pub query_starts: &'a [u32],
    /// [sequences + 1]: the first key of each sequence.
    pub key_starts: &'a [u32],
    pub heads: usize,
    pub head_dim: usize,
    /// What the scores are multiplied by.
    pub scale: f32,
    /// Whether a query sees no key behind its own place. Queries are the last of
    /// the keys' places.
    pub causal: bool,
    pub bias: Option<RelativeBias<'a>>,
    /// Dropout of the probabilities.
    pub dropout: Option<RowDropout<'a>>,
}

/// Where queries, keys and values stand.
#[derive(Clone, Copy, Debug)]
pub enum Inputs<'a> {
    /// [rows, 3 heads head_dim].
    Joined(&'a [f32]),
    /// [queries, heads head_dim] and [keys, 2 heads head_dim].
    Apart { queries: &'a [f32], memory: &'a [f32] },
}

/// A head of a sequence: the unit of the threads' work.
#[derive(Clone, Copy)]
struct Unit {
    sequence: usize,
    head: usize,
    /// The first query and key, and their numbers.
    query: usize,
    queries: usize,
    key: usize,
    keys: usize,
}

impl<'a> Attention<'a> {
    /// Attention of each sequence to itself, in both directions.
    pub fn within(
        starts: &'a [u32],
        heads: usize,
        head_dim: usize,
        scale: f32,
        dropout: Option<RowDropout<'a>>,
    ) -> Attention<'a> {
        let (query_starts, key_starts) = (starts, starts);
        Attention { query_starts, key_starts, heads, head_dim, scale, causal: false, bias: None, dropout }
    }

    fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn rows(&self) -> usize {
        self.query_starts.last().map_or(0, |&rows| rows as usize)
    }

    fn key_rows(&self) -> usize {
        self.key_starts.last().map_or(0, |&rows| rows as usize)
    }

    fn sequences(&self) -> usize {
        assert_eq!(self.query_starts.len(), self.key_starts.len(), "keys for each sequence of queries");
        self.query_starts.len().saturating_sub(1)
    }

    /// The work of each thread: units in descending order of their length, each
    /// given to the thread that has least so far (Graham 1969).
    fn shares(&self, threads: &Threads) -> Vec<Vec<Unit>> {
        let length = |starts: &[u32], sequence: usize| (starts[sequence + 1] - starts[sequence]) as usize;
        let queries = |sequence: usize| length(self.query_starts, sequence);
        let keys = |sequence: usize| length(self.key_starts, sequence);
        let mut sequences: Vec<usize> =
            (0..self.sequences()).filter(|&sequence| queries(sequence) > 0).collect();
        // Two products, and about as much again for each probability and row.
        let cost = |sequence: usize| queries(sequence) * (keys(sequence) + 32) * (2 * self.head_dim + 64);
        sequences.sort_by_key(|&sequence| Reverse(cost(sequence)));
        let total: usize = sequences.iter().map(|&sequence| cost(sequence) * self.heads).sum();
        let count = (total / MINIMUM_PRODUCTS).clamp(1, threads.count());
        let mut shares = vec![(0, Vec::new()); count];
        for sequence in sequences {
            for head in 0..self.heads {
                let least = (0..count).min_by_key(|&share| shares[share].0).unwrap_or(0);
                shares[least].0 += cost(sequence);
                shares[least].1.push(Unit {
                    sequence,
                    head,
                    query: self.query_starts[sequence] as usize,
                    queries: queries(sequence),
                    key: self.key_starts[sequence] as usize,
                    keys: keys(sequence),
                });
            }
        }
        shares.into_iter().map(|(_, units)| units).collect()
    }

    /// The most probabilities that a block of the units has, and the most distances.
    fn largest(units: &[Unit]) -> [usize; 2] {
        let block = units.iter().map(|unit| QUERY_BLOCK.min(unit.queries) * unit.keys).max().unwrap_or(0);
        [block, units.iter().map(|unit| 2 * unit.keys).max().unwrap_or(0)]
    }

    /// Queries, keys and values of a unit.
    fn operands<'m>(&self, inputs: Inputs<'m>, unit: Unit) -> [Matrix<'m>; 3] {
        let hidden = self.hidden();
        let column = unit.head * self.head_dim;
        let part = |values: &'m [f32], row: usize, stride: usize, first: usize| {
            Matrix::new(values.get(row * stride + first + column..).unwrap_or_default(), stride)
        };
        match inputs {
            Inputs::Joined(qkv) => [0, 1, 2].map(|place| part(qkv, unit.query, 3 * hidden, place * hidden)),
            Inputs::Apart { queries, memory } => [
                part(queries, unit.query, hidden, 0),
                part(memory, unit.key, 2 * hidden, 0),
                part(memory, unit.key, 2 * hidden, hidden),
            ],
        }
    }

    /// Checks the sizes of the inputs.
    fn check(&self, inputs: Inputs<'_>) {
        let (rows, keys, hidden) = (self.rows(), self.key_rows(), self.hidden());
        match inputs {
            Inputs::Joined(qkv) => assert!(qkv.len() == 3 * rows * hidden && keys == rows),
            Inputs::Apart { queries, memory } => {
                assert!(queries.len() == rows * hidden && memory.len() == 2 * keys * hidden);
            }
        }
    }

    /// Scale times the scores of a block of queries with the keys that any of them
    /// sees, [queries, keys].
    fn scores(&self, out: &mut [f32], queries: Matrix<'_>, keys: Matrix<'_>, size: [usize; 2]) {
        let out = MatrixMut::new(out, size[1]);
        let size = [size[0], size[1], self.head_dim];
        sequential(Form::TransposedB, size, (self.scale, 0.0), queries, keys, out);
    }
}

impl Unit {
    /// Keys that stand before the first query's place.
    fn before(&self, causal: bool) -> usize {
        if causal { self.keys - self.queries } else { 0 }
    }

    /// Keys that a query sees.
    fn visible(&self, causal: bool, query: usize) -> usize {
        if causal { self.before(true) + query + 1 } else { self.keys }
    }
}

/// The blocks of queries of a sequence.
fn blocks(length: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..length.div_ceil(QUERY_BLOCK))
        .map(move |block| block * QUERY_BLOCK..length.min((block + 1) * QUERY_BLOCK))
}

/// The part of the distances that a query's keys have.
fn distances(unit: Unit, causal: bool, query: usize, visible: usize) -> Range<usize> {
    let start = unit.keys - 1 - unit.before(causal) - query;
    start..start + visible
}

/// The forward pass: fills `ctx` [rows, heads head_dim] and `lse` [heads, rows].
pub fn forward(
    threads: &Threads,
    ctx: &mut [f32],
    lse: &mut [f32],
    inputs: Inputs<'_>,
    attention: &Attention<'_>,
) {
    let (rows, hidden) = (attention.rows(), attention.hidden());
    attention.check(inputs);
    assert_eq!(ctx.len(), rows * hidden);
    assert_eq!(lse.len(), rows * attention.heads);
    let (ctx, lse) = (SharedMatrix::new(ctx, hidden), SharedMatrix::new(lse, rows));
    threads.run(attention.shares(threads).into_iter().map(|units| {
        let (ctx, lse) = (&ctx, &lse);
        move || {
            with_scratch(Attention::largest(&units), |[scores, bias]| {
                for unit in units {
                    forward_unit((ctx, lse), inputs, attention, unit, scores, bias);
                }
            });
        }
    }));
}

fn forward_unit(
    (ctx, lse): (&SharedMatrix<'_>, &SharedMatrix<'_>),
    inputs: Inputs<'_>,
    attention: &Attention<'_>,
    unit: Unit,
    scores: &mut [f32],
    by_distance: &mut [f32],
) {
    let (width, hidden, causal) = (attention.head_dim, attention.hidden(), attention.causal);
    let [queries, keys, values] = attention.operands(inputs, unit);
    if let Some(bias) = attention.bias {
        bias.by_distance(&mut by_distance[..2 * unit.keys - 1], unit.head, attention.heads, unit.keys);
    }
    for block in blocks(unit.queries) {
        let count = unit.visible(causal, block.end - 1);
        let scores = &mut scores[..block.len() * count];
        attention.scores(scores, queries.rows_from(block.start), keys, [block.len(), count]);
        let rows = unit.query + block.start..unit.query + block.end;
        // SAFETY: no other unit has this head and these rows.
        let lse = unsafe { lse.row(unit.head, rows.clone()) };
        vectorize(
            #[inline(always)]
            || {
                let queries = block.clone().zip(lse);
                for (row, (query, lse)) in scores.chunks_exact_mut(count.max(1)).zip(queries) {
                    let visible = unit.visible(causal, query);
                    let (row, hidden) = row.split_at_mut(visible);
                    if attention.bias.is_some() {
                        add_row(row, &by_distance[distances(unit, causal, query, visible)]);
                    }
                    *lse = softmax(row);
                    hidden.fill(0.0);
                    if let Some(dropout) = attention.dropout {
                        dropout.query(unit.sequence, unit.head, query).apply(row, 0);
                    }
                }
            },
        );
        let size = [block.len(), width, count];
        let probabilities = Matrix::new(scores, count);
        let out = ctx.pointer(rows.start, unit.head * width, block.len(), width);
        // SAFETY: `pointer` has checked the block; no other unit has these rows
        // and columns.
        unsafe { raw(Form::Plain, size, (1.0, 0.0), probabilities, values, out, hidden) };
    }
}

#[cfg(test)]
mod tests;
