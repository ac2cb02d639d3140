//! The backward pass of attention: probabilities are computed again from the
//! saved sums, and a sequence's gradients are collected block after block.

use super::super::attention::{exponentials, scale_row, softmax_backward};
use super::super::elementwise::add_row;
use super::super::matmul::{Form, Matrix, MatrixMut, raw, sequential};
use super::super::parallel::{SharedMatrix, Threads, with_scratch};
use super::super::simd::vectorize;
use super::{Attention, Inputs, Unit, blocks, distances};

/// Where their gradients go; `None` where nobody wants one.
#[derive(Debug)]
pub enum Gradients<'a> {
    /// [rows, 3 heads head_dim].
    Joined(&'a mut [f32]),
    /// [queries, heads head_dim] and [keys, 2 heads head_dim].
    Apart { queries: Option<&'a mut [f32]>, memory: Option<&'a mut [f32]> },
}

/// The gradient of a relative position bias.
#[derive(Debug)]
pub struct BiasGradient<'a> {
    /// [buckets, heads], to which it is added.
    pub table: &'a mut [f32],
    /// Working memory, [sequences, heads, buckets].
    pub partial: &'a mut [f32],
}

/// What the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The gradient of the context.
    pub dctx: &'a [f32],
    pub inputs: Inputs<'a>,
    pub lse: &'a [f32],
}

/// The backward pass: fills the gradients of the inputs from `dctx` [rows, heads
/// head_dim], the inputs and the forward pass' `lse`.
pub fn backward(
    threads: &Threads,
    gradients: Gradients<'_>,
    mut bias_gradient: Option<BiasGradient<'_>>,
    saved: Saved<'_>,
    attention: &Attention<'_>,
) {
    let (rows, keys, hidden) = (attention.rows(), attention.key_rows(), attention.hidden());
    attention.check(saved.inputs);
    assert_eq!(saved.dctx.len(), rows * hidden);
    assert_eq!(saved.lse.len(), rows * attention.heads);
    let targets = match gradients {
        Gradients::Joined(dqkv) => {
            assert_eq!(dqkv.len(), 3 * rows * hidden);
            Targets::Joined(SharedMatrix::new(dqkv, 3 * hidden))
        }
        Gradients::Apart { queries, mut memory } => {
            assert!(queries.as_ref().is_none_or(|queries| queries.len() == rows * hidden));
            assert!(memory.as_ref().is_none_or(|memory| memory.len() == 2 * keys * hidden));
            if attention.query_starts.windows(2).any(|bounds| bounds[0] == bounds[1]) {
                // Keys that no query sees are in no unit.
                memory.iter_mut().for_each(|memory| memory.fill(0.0));
            }
            Targets::Apart {
                queries: queries.map(|queries| SharedMatrix::new(queries, hidden)),
                memory: memory.map(|memory| SharedMatrix::new(memory, 2 * hidden)),
            }
        }
    };
    let partial = bias_gradient.as_mut().map(|gradient| {
        gradient.partial.fill(0.0);
        SharedMatrix::new(&mut *gradient.partial, attention.heads * attention.bucket_count())
    });
    threads.run(attention.shares(threads).into_iter().map(|units| {
        let (targets, partial) = (&targets, partial.as_ref());
        move || {
            let [block, distances] = Attention::largest(&units);
            with_scratch([block, block, distances, distances], |scratch| {
                let [probabilities, dscores, bias, dbias] = scratch;
                for unit in units {
                    let scratch = [&mut *probabilities, &mut *dscores, &mut *bias, &mut *dbias];
                    backward_unit(targets, partial, saved, attention, unit, scratch);
                }
            });
        }
    }));
    if let Some(BiasGradient { table, partial }) = bias_gradient {
        let (heads, buckets) = (attention.heads, attention.bucket_count());
        for sequence in partial.chunks_exact(heads * buckets) {
            for (place, gradient) in sequence.iter().enumerate() {
                table[place % buckets * heads + place / buckets] += gradient;
            }
        }
    }
}

/// Gradients that several threads write at different places.
enum Targets<'a> {
    Joined(SharedMatrix<'a>),
    Apart { queries: Option<SharedMatrix<'a>>, memory: Option<SharedMatrix<'a>> },
}

/// A block of a gradient: its first element, and how far its rows are apart.
type Block = (*mut f32, usize);

impl Targets<'_> {
    /// The gradients of the queries, the keys and the values of a unit.
    fn blocks(&self, unit: Unit, width: usize, hidden: usize) -> [Option<Block>; 3] {
        let column = unit.head * width;
        let block = |matrix: &SharedMatrix<'_>, row: usize, rows: usize, first: usize, stride: usize| {
            (matrix.pointer(row, first + column, rows, width), stride)
        };
        let queries = |matrix, first, stride| Some(block(matrix, unit.query, unit.queries, first, stride));
        let keys = |matrix, first, stride| Some(block(matrix, unit.key, unit.keys, first, stride));
        match self {
            Targets::Joined(dqkv) => {
                let stride = 3 * hidden;
                [queries(dqkv, 0, stride), keys(dqkv, hidden, stride), keys(dqkv, 2 * hidden, stride)]
            }
            Targets::Apart { queries: dqueries, memory } => {
                let memory = memory.as_ref();
                [
                    dqueries.as_ref().and_then(|dqueries| queries(dqueries, 0, hidden)),
                    memory.and_then(|memory| keys(memory, 0, 2 * hidden)),
                    memory.and_then(|memory| keys(memory, hidden, 2 * hidden)),
                ]
            }
        }
    }
}

impl Attention<'_> {
    fn bucket_count(&self) -> usize {
        self.bias.map_or(0, |bias| bias.buckets.count)
    }
}

fn backward_unit(
    targets: &Targets<'_>,
    partial: Option<&SharedMatrix<'_>>,
    saved: Saved<'_>,
    attention: &Attention<'_>,
    unit: Unit,
    [probabilities, dscores, by_distance, dby_distance]: [&mut [f32]; 4],
) {
    let (width, hidden, causal) = (attention.head_dim, attention.hidden(), attention.causal);
    let [queries, keys, values] = attention.operands(saved.inputs, unit);
    let column = unit.head * width;
    let [dqueries, dkeys, dvalues] = targets.blocks(unit, width, hidden);
    let dctx = Matrix::new(&saved.dctx[unit.query * hidden + column..], hidden);
    let lse = &saved.lse[unit.head * attention.rows() + unit.query..][..unit.queries];
    if let Some(bias) = attention.bias {
        let distances = 2 * unit.keys - 1;
        bias.by_distance(&mut by_distance[..distances], unit.head, attention.heads, unit.keys);
        dby_distance[..distances].fill(0.0);
    }
    // The last block sees all keys: it is the first to write their gradients.
    for block in blocks(unit.queries).rev() {
        let (count, visible) = (block.len(), unit.visible(causal, block.end - 1));
        let probabilities = &mut probabilities[..count * visible];
        let dscores = &mut dscores[..count * visible];
        let (queries, dctx) = (queries.rows_from(block.start), dctx.rows_from(block.start));
        attention.scores(probabilities, queries, keys, [count, visible]);
        let size = [count, visible, width];
        sequential(Form::TransposedB, size, (1.0, 0.0), dctx, values, MatrixMut::new(dscores, visible));
        vectorize(
            #[inline(always)]
            || {
                let stride = visible.max(1);
                let rows = probabilities.chunks_exact_mut(stride).zip(dscores.chunks_exact_mut(stride));
                for ((p, d), query) in rows.zip(block.clone()) {
                    let visible = unit.visible(causal, query);
                    let ((p, hidden_p), (d, hidden_d)) = (p.split_at_mut(visible), d.split_at_mut(visible));
                    hidden_p.fill(0.0);
                    hidden_d.fill(0.0);
                    let distances = distances(unit, causal, query, visible);
                    if attention.bias.is_some() {
                        add_row(p, &by_distance[distances.clone()]);
                    }
                    exponentials(p, lse[query]);
                    let mask =
                        attention.dropout.map(|dropout| dropout.query(unit.sequence, unit.head, query));
                    if let Some(mask) = mask {
                        mask.apply(d, 0);
                    }
                    softmax_backward(d, p, 1.0);
                    if partial.is_some() {
                        add_row(&mut dby_distance[distances], d);
                    }
                    scale_row(d, attention.scale);
                    if let Some(mask) = mask {
                        mask.apply(p, 0);
                    }
                }
            },
        );
        // Keys and values collect from all blocks; the first one overwrites.
        let beta = if block.end == unit.queries { 0.0 } else { 1.0 };
        let (probabilities, dscores) = (Matrix::new(probabilities, visible), Matrix::new(dscores, visible));
        let to_keys = [visible, width, count];
        // SAFETY: `Targets::blocks` has checked the blocks, of which the queries' rows
        // from `block.start` on are a part; no other unit has these rows and
        // columns.
        unsafe {
            if let Some((dvalues, stride)) = dvalues {
                raw(Form::TransposedA, to_keys, (1.0, beta), probabilities, dctx, dvalues, stride);
            }
            if let Some((dkeys, stride)) = dkeys {
                raw(Form::TransposedA, to_keys, (1.0, beta), dscores, queries, dkeys, stride);
            }
            if let Some((dqueries, stride)) = dqueries {
                let dqueries = dqueries.add(block.start * stride);
                raw(Form::Plain, [count, width, visible], (1.0, 0.0), dscores, keys, dqueries, stride);
            }
        }
    }
    if let (Some(partial), Some(bias)) = (partial, attention.bias) {
        let buckets = bias.buckets.count;
        let columns = unit.head * buckets..(unit.head + 1) * buckets;
        // SAFETY: no other unit has this sequence and head.
        let partial = unsafe { partial.row(unit.sequence, columns) };
        bias.collect_buckets(partial, &dby_distance[..2 * unit.keys - 1], unit.keys);
    }
}
