//! The same as attention over keys and values that were made of all rows.

use super::super::attend::{self, Attention, Inputs};
use super::super::dropout::DropoutKey;
use super::super::matmul::{nn, nt};
use super::super::reference::{assert_close, random, wide};
use super::*;

/// A case: lengths, heads, head_dim, columns of the rows, dropout, a bias of the values,
/// threads.
struct Case {
    lengths: &'static [u32],
    heads: usize,
    head_dim: usize,
    inputs: usize,
    probability: f32,
    biased: bool,
    threads: usize,
}

impl Case {
    /// The context, and the gradients of queries and rows, of both ways.
    fn run(&self) -> [[Vec<f32>; 3]; 2] {
        let Case { heads, head_dim, inputs, .. } = *self;
        let threads = Threads::new(self.threads).unwrap();
        let mut starts = vec![0];
        self.lengths.iter().for_each(|length| starts.push(starts[starts.len() - 1] + length));
        let (sequences, rows) = (self.lengths.len(), starts[self.lengths.len()] as usize);
        let (hidden, scale) = (heads * head_dim, 0.3);
        let (queries, x) = (random(sequences * hidden, 1), random(rows * inputs, 2));
        let weight: Vec<f32> = random(2 * hidden * inputs, 3).iter().map(|w| 0.3 * w).collect();
        let (bias, dctx) = (random(2 * hidden, 4), random(sequences * hidden, 5));
        let places: Vec<u32> = (3..3 + sequences as u32).collect();
        let one_each: Vec<u32> = (0..=sequences as u32).collect();
        let key = DropoutKey { seed: 5, step: 2, site: 9 };
        let dropout = RowDropout::new(key, self.probability, &one_each, &places);

        // Keys and values of all rows. What is added to keys changes nothing.
        let mut memory = vec![0.0; rows * 2 * hidden];
        for row in memory.chunks_exact_mut(2 * hidden) {
            let values = if self.biased { 2 * hidden } else { hidden };
            row[..values].copy_from_slice(&bias[..values]);
        }
        let stride = 2 * hidden;
        let out = MatrixMut::new(&mut memory, stride);
        nt(
            &threads,
            [rows, stride, inputs],
            1.0,
            Matrix::new(&x, inputs),
            Matrix::new(&weight, inputs),
            1.0,
            out,
        );
        let made = Attention {
            query_starts: &one_each,
            key_starts: &starts,
            ..Attention::within(&starts, heads, head_dim, scale, dropout)
        };
        let (mut ctx, mut lse) = (vec![0.0; sequences * hidden], vec![0.0; sequences * heads]);
        let read = Inputs::Apart { queries: &queries, memory: &memory };
        attend::forward(&threads, &mut ctx, &mut lse, read, &made);
        let (mut dqueries, mut dmemory) = (vec![0.0; queries.len()], vec![0.0; memory.len()]);
        let gradients = attend::Gradients::Apart { queries: Some(&mut dqueries), memory: Some(&mut dmemory) };
        let saved = attend::Saved { dctx: &dctx, inputs: read, lse: &lse };
        attend::backward(&threads, gradients, None, saved, &made);
        let before = random(x.len(), 6);
        let mut dx = before.clone();
        let to = MatrixMut::new(&mut dx, inputs);
        nn(
            &threads,
            [rows, inputs, stride],
            1.0,
            Matrix::new(&dmemory, stride),
            Matrix::new(&weight, inputs),
            1.0,
            to,
        );
        let expected = [ctx, dqueries, dx];

        let value_bias = self.biased.then_some(&bias[hidden..]);
        let absorbed = Absorbed {
            starts: &starts,
            heads,
            head_dim,
            inputs,
            scale,
            weight: &weight,
            value_bias,
            dropout,
        };
        let of_heads = || vec![f32::NAN; sequences * heads * inputs];
        let (mut ctx, mut moved, mut means) = (vec![f32::NAN; queries.len()], of_heads(), of_heads());
        let mut probabilities = vec![f32::NAN; heads * rows];
        let results = Results {
            ctx: &mut ctx,
            moved: &mut moved,
            probabilities: &mut probabilities,
            means: &mut means,
        };
        forward(&threads, results, &queries, &x, &absorbed);
        let (mut dqueries, mut dx) = (vec![f32::NAN; queries.len()], before.clone());
        let saved = Saved { dctx: &dctx, x: &x, moved: &moved, probabilities: &probabilities };
        let mut working = [of_heads(), of_heads()];
        let [means, of_moved] = &mut working;
        let gradients = Gradients {
            queries: Some(&mut dqueries),
            x: Some((&mut dx, true)),
            means: &mut *means,
            moved: &mut *of_moved,
        };
        backward(&threads, gradients, saved, &absorbed);
        // Without what was there, and without the queries' gradient.
        let mut fresh = vec![f32::NAN; dx.len()];
        let gradients = Gradients { queries: None, x: Some((&mut fresh, false)), means, moved: of_moved };
        backward(&threads, gradients, saved, &absorbed);
        let sum: Vec<f32> = fresh.iter().zip(&before).map(|(fresh, before)| fresh + before).collect();
        assert_close(&sum, &wide(&dx), 1e-6);
        [expected, [ctx, dqueries, dx]]
    }
}

#[test]
fn as_with_keys_and_values_of_all_rows() {
    let shapes: [(&[u32], usize, usize, usize); 4] =
        [(&[1], 1, 1, 1), (&[5, 1, 17, 2], 3, 7, 10), (&[40, 3, 0, 64], 2, 32, 70), (&[513, 9], 4, 24, 96)];
    for (lengths, heads, head_dim, inputs) in shapes {
        for (probability, biased, threads) in
            [(0.0, false, 1), (0.0, true, 2), (0.3, true, 1), (0.3, false, 3)]
        {
            let case = Case { lengths, heads, head_dim, inputs, probability, biased, threads };
            let [expected, found] = case.run();
            for (expected, found) in expected.iter().zip(&found) {
                assert_close(found, &wide(expected), 3e-6);
            }
        }
    }
}
