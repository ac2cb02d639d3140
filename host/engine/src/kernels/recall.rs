//! Attention of single queries to what was said before: the keys and values of a
//! sequence's tokens lie in rows of a memory, which a list names, so that sequences
//! that go on from one another share rows.

use super::matmul::MINIMUM_PRODUCTS;
use super::parallel::{Threads, take, with_scratch};
use super::relative::RelativeBias;
use super::simd::{exp, maximum, sum_of, sum_of_pairs, vectorize};

/// The shape of the attention, and the rows of the memory.
#[derive(Clone, Copy, Debug)]
pub struct Recalling<'a> {
    pub heads: usize,
    pub head_dim: usize,
    /// What the scores are multiplied by.
    pub scale: f32,
    pub bias: Option<RelativeBias<'a>>,
    /// `[queries]`: the row in which the query's own key and value go.
    pub own: &'a [u32],
    /// [queries + 1]: where each query's list of rows starts in `rows`.
    pub starts: &'a [u32],
    /// The rows of the memory that a query sees, its own the last.
    pub rows: &'a [u32],
}

/// Puts the keys and values of `qkv` [queries, 3 heads head_dim] into the memory
/// [rows, 2 heads head_dim], and fills `out` [queries, heads head_dim].
pub fn forward(
    threads: &Threads,
    mut out: &mut [f32],
    memory: &mut [f32],
    qkv: &[f32],
    recalling: &Recalling<'_>,
) {
    let hidden = recalling.heads * recalling.head_dim;
    let queries = recalling.own.len();
    assert!(out.len() == queries * hidden && qkv.len() == 3 * queries * hidden);
    assert_eq!(recalling.starts.len(), queries + 1);
    for (qkv, &row) in qkv.chunks_exact(3 * hidden).zip(recalling.own) {
        memory[row as usize * 2 * hidden..][..2 * hidden].copy_from_slice(&qkv[hidden..]);
    }
    let memory = &*memory;
    let seen = recalling.rows.len().div_ceil(queries.max(1));
    let minimum = MINIMUM_PRODUCTS.div_ceil((2 * seen * hidden).max(1));
    threads.run(threads.ranges(queries, minimum, 1).map(|range| {
        let out = take(&mut out, range.len() * hidden);
        move || {
            for (out, query) in out.chunks_exact_mut(hidden).zip(range) {
                let bounds = recalling.starts[query] as usize..recalling.starts[query + 1] as usize;
                let q = &qkv[query * 3 * hidden..][..hidden];
                one_query(out, q, memory, &recalling.rows[bounds], recalling);
            }
        }
    }));
}

fn one_query(out: &mut [f32], q: &[f32], memory: &[f32], rows: &[u32], recalling: &Recalling<'_>) {
    let Recalling { heads, head_dim: width, scale, bias, .. } = *recalling;
    let hidden = heads * width;
    let part = |row: u32, first: usize| &memory[row as usize * 2 * hidden + first..][..width];
    with_scratch([rows.len(); 2], |[scores, by_distance]| {
        for head in 0..heads {
            let column = head * width;
            if let Some(bias) = bias {
                bias.by_distance(by_distance, head, heads, rows.len());
            }
            vectorize(
                #[inline(always)]
                || {
                    let q = &q[column..column + width];
                    for (score, &row) in scores.iter_mut().zip(rows) {
                        *score = scale * sum_of_pairs(q, part(row, column), |q, k| q * k);
                    }
                    if bias.is_some() {
                        scores.iter_mut().zip(&*by_distance).for_each(|(score, bias)| *score += bias);
                    }
                    let largest = maximum(scores);
                    scores.iter_mut().for_each(|score| *score = exp(*score - largest));
                    let total = sum_of(scores, |score| score);
                    let out = &mut out[column..column + width];
                    out.fill(0.0);
                    for (score, &row) in scores.iter().zip(rows) {
                        let share = score / total;
                        let values = part(row, hidden + column);
                        out.iter_mut()
                            .zip(values)
                            .for_each(|(out, value)| *out = share.mul_add(*value, *out));
                    }
                },
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::attend::{self, Attention, Inputs};
    use super::super::reference::{assert_close, random, wide};
    use super::super::relative::Buckets;
    use super::*;

    /// Token by token the same as the causal attention of the whole sequences.
    #[test]
    fn steps_agree_with_whole_sequences() {
        let (heads, head_dim, lengths) = (3, 7, [6usize, 4]);
        let hidden = heads * head_dim;
        let starts = [0, 6, 10];
        let table = random(8 * heads, 4);
        let buckets = Buckets { count: 8, farthest: 5, bidirectional: false };
        for bias in [None, Some(RelativeBias { table: &table, buckets })] {
            let qkv = random(10 * 3 * hidden, 1);
            let whole =
                Attention { causal: true, bias, ..Attention::within(&starts, heads, head_dim, 0.4, None) };
            let (mut expected, mut lse) = (vec![0.0; 10 * hidden], vec![0.0; heads * 10]);
            let threads = Threads::new(2).unwrap();
            attend::forward(&threads, &mut expected, &mut lse, Inputs::Joined(&qkv), &whole);
            let mut memory = vec![f32::NAN; 10 * 2 * hidden];
            for step in 0..6 {
                let going: Vec<usize> = (0..2).filter(|&sequence| step < lengths[sequence]).collect();
                // Rows of the memory in any order.
                let row = |sequence: usize, step: usize| (9 - (starts[sequence] as usize + step)) as u32;
                let own: Vec<u32> = going.iter().map(|&sequence| row(sequence, step)).collect();
                let rows: Vec<u32> = going
                    .iter()
                    .flat_map(|&sequence| (0..=step).map(move |step| row(sequence, step)))
                    .collect();
                let ends: Vec<u32> = (0..=going.len()).map(|query| (query * (step + 1)) as u32).collect();
                let mut inputs = Vec::new();
                for &sequence in &going {
                    inputs.extend(&qkv[(starts[sequence] as usize + step) * 3 * hidden..][..3 * hidden]);
                }
                let recalling =
                    Recalling { heads, head_dim, scale: 0.4, bias, own: &own, starts: &ends, rows: &rows };
                let mut out = vec![f32::NAN; going.len() * hidden];
                forward(&threads, &mut out, &mut memory, &inputs, &recalling);
                for (out, &sequence) in out.chunks_exact(hidden).zip(&going) {
                    let place = (starts[sequence] as usize + step) * hidden;
                    assert_close(out, &wide(&expected[place..place + hidden]), 2e-6);
                }
            }
        }
    }
}
