//! Attention with relative positions against a plain one in double precision.

use super::super::dropout::{DropoutKey, RowDropout};
use super::super::reference::{assert_close, gradient, random, weighted, wide};
use super::*;
use crate::program::relative::Buckets;

/// A double-precision copy of what a layer reads.
struct Plain<'a> {
    qkv: &'a [f64],
    positions: &'a [f64],
    settings: &'a Disentangled<'a>,
}

impl Plain<'_> {
    fn content(&self, row: usize, part: usize, head: usize) -> Vec<f64> {
        let (hidden, width) = (self.settings.attention.hidden(), self.settings.attention.head_dim);
        self.qkv[(row * 3 + part) * hidden + head * width..][..width].to_vec()
    }

    fn place(&self, offset: isize, from: usize, head: usize) -> usize {
        let row = self.settings.rows[(self.settings.rows.len() / 2).wrapping_add_signed(offset)] as usize;
        row * self.settings.stride + from + head * self.settings.attention.head_dim
    }

    fn position(&self, offset: isize, from: Option<usize>, head: usize) -> Vec<f64> {
        let width = self.settings.attention.head_dim;
        match from {
            Some(from) => self.positions[self.place(offset, from, head)..][..width].to_vec(),
            None => vec![0.0; width],
        }
    }

    fn score(&self, query: usize, key: usize, head: usize) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (q, k) = (self.content(query, 0, head), self.content(key, 1, head));
        let offset = key as isize - query as isize;
        let pk = self.position(offset, self.settings.keys_from, head);
        let pq = self.position(offset, self.settings.queries_from, head);
        f64::from(self.settings.attention.scale) * (dot(&q, &k) + dot(&q, &pk) + dot(&k, &pq))
    }

    /// By sequence, head and query: probabilities of its keys, and their dropout.
    fn visit(&self, mut see: impl FnMut(usize, usize, &Range<usize>, Vec<f64>, Vec<f64>, f64)) {
        let attention = &self.settings.attention;
        for (sequence, bounds) in attention.starts.windows(2).enumerate() {
            let keys = bounds[0] as usize..bounds[1] as usize;
            for head in 0..attention.heads {
                for query in keys.clone() {
                    let scores: Vec<f64> = keys.clone().map(|key| self.score(query, key, head)).collect();
                    let lse = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
                    let mask =
                        attention.dropout.map(|dropout| dropout.query(sequence, head, query - keys.start));
                    let factor = |key: usize| mask.map_or(1.0, |mask| f64::from(mask.factor(key as u32)));
                    let p = scores.iter().map(|score| (score - lse).exp()).collect();
                    see(query, head, &keys, p, (0..keys.len()).map(factor).collect(), lse);
                }
            }
        }
    }

    fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let attention = &self.settings.attention;
        let (rows, hidden, width) = (attention.rows(), attention.hidden(), attention.head_dim);
        let (mut ctx, mut all_lse) = (vec![0.0; rows * hidden], vec![0.0; attention.heads * rows]);
        self.visit(|query, head, keys, p, factors, lse| {
            all_lse[head * rows + query] = lse;
            for ((key, p), factor) in keys.clone().zip(p).zip(factors) {
                for (i, value) in self.content(key, 2, head).iter().enumerate() {
                    ctx[query * hidden + head * width + i] += p * factor * value;
                }
            }
        });
        (ctx, all_lse)
    }

    /// The gradients of qkv and of positions by the formulas of the softmax.
    fn backward(&self, dctx: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let attention = &self.settings.attention;
        let (hidden, width) = (attention.hidden(), attention.head_dim);
        let (mut dqkv, mut dpositions) = (vec![0.0; self.qkv.len()], vec![0.0; self.positions.len()]);
        let place = |row: usize, part: usize, head: usize| (row * 3 + part) * hidden + head * width;
        let add = |to: &mut [f64], from: &[f64], factor: f64| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
        };
        self.visit(|query, head, keys, p, factors, _| {
            let d = dctx[query * hidden + head * width..][..width].to_vec();
            let along = |key: usize| -> f64 {
                d.iter().zip(self.content(key, 2, head)).map(|(d, value)| d * value).sum()
            };
            let dp: Vec<f64> = keys.clone().zip(&factors).map(|(key, factor)| factor * along(key)).collect();
            let mean: f64 = dp.iter().zip(&p).map(|(dp, p)| dp * p).sum();
            for (at, key) in keys.clone().enumerate() {
                let ds = f64::from(attention.scale) * p[at] * (dp[at] - mean);
                let offset = key as isize - query as isize;
                let (q, k) = (self.content(query, 0, head), self.content(key, 1, head));
                add(&mut dqkv[place(key, 2, head)..], &d, p[at] * factors[at]);
                add(&mut dqkv[place(query, 0, head)..], &k, ds);
                add(&mut dqkv[place(key, 1, head)..], &q, ds);
                if let Some(from) = self.settings.keys_from {
                    add(&mut dqkv[place(query, 0, head)..], &self.position(offset, Some(from), head), ds);
                    add(&mut dpositions[self.place(offset, from, head)..], &q, ds);
                }
                if let Some(from) = self.settings.queries_from {
                    add(&mut dqkv[place(key, 1, head)..], &self.position(offset, Some(from), head), ds);
                    add(&mut dpositions[self.place(offset, from, head)..], &k, ds);
                }
            }
        });
        (dqkv, dpositions)
    }
}

struct Case<'a> {
    lengths: &'a [u32],
    heads: usize,
    head_dim: usize,
    dropout: f32,
    buckets: Buckets,
    /// Keys of positions, queries of positions.
    terms: [bool; 2],
}

fn check(case: &Case<'_>, differences: bool) {
    let mut starts = vec![0];
    case.lengths.iter().for_each(|length| starts.push(starts.last().unwrap() + length));
    let places: Vec<u32> = (0..case.lengths.len() as u32).map(|sequence| sequence * 3).collect();
    let key = DropoutKey { seed: 1, step: 4, site: 2 };
    let dropout = RowDropout::new(key, case.dropout, &starts, &places);
    let (heads, head_dim) = (case.heads, case.head_dim);
    let scale = 1.0 / (3.0 * head_dim as f32).sqrt();
    let attention = Attention { starts: &starts, heads, head_dim, scale, dropout };
    let (rows, hidden) = (attention.rows(), attention.hidden());
    let longest = case.lengths.iter().copied().max().unwrap() as usize;
    let by_offset = case.buckets.places(longest);
    let [keys, queries] = case.terms;
    let settings = Disentangled {
        attention,
        rows: &by_offset,
        queries_from: queries.then_some(0),
        keys_from: keys.then_some(if queries { hidden } else { 0 }),
        stride: hidden * (usize::from(keys) + usize::from(queries)),
    };
    let reached = case.buckets.reached(longest).count();
    let (qkv, dctx) = (random(rows * 3 * hidden, 1), random(rows * hidden, 2));
    let positions = random(reached * settings.stride, 3);
    let run = |count| {
        let threads = Threads::new(count).unwrap();
        let (mut ctx, mut lse) = (vec![f32::NAN; rows * hidden], vec![f32::NAN; heads * rows]);
        forward(&threads, &mut ctx, &mut lse, (&qkv, &positions), &settings);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        let mut dpositions = vec![f32::NAN; positions.len()];
        let inputs = (qkv.as_slice(), positions.as_slice());
        let gradients = (dqkv.as_mut_slice(), Some(dpositions.as_mut_slice()));
        backward(&threads, gradients, &dctx, inputs, &lse, &settings);
        let mut alone = vec![f32::NAN; qkv.len()];
        backward(&threads, (&mut alone, None), &dctx, inputs, &lse, &settings);
        assert!(alone == dqkv, "what positions get changes nothing else");
        (ctx, lse, dqkv, dpositions)
    };
    let (ctx, lse, dqkv, dpositions) = run(1);
    let (wide_qkv, wide_positions) = (wide(&qkv), wide(&positions));
    let plain = Plain { qkv: &wide_qkv, positions: &wide_positions, settings: &settings };
    let (exact_ctx, exact_lse) = plain.forward();
    assert_close(&ctx, &exact_ctx, 2e-6);
    assert_close(&lse, &exact_lse, 2e-6);
    let (exact_qkv, exact_positions) = plain.backward(&wide(&dctx));
    assert_close(&dqkv, &exact_qkv, 5e-6);
    assert_close(&dpositions, &exact_positions, 5e-6);
    if differences {
        let of = |qkv: &[f64], positions: &[f64]| {
            weighted(&Plain { qkv, positions, settings: &settings }.forward().0, &dctx)
        };
        assert_close(&dqkv, &gradient(&qkv, |qkv| of(qkv, &wide_positions)), 1e-5);
        assert_close(&dpositions, &gradient(&positions, |positions| of(&wide_qkv, positions)), 1e-5);
    }
    // A head is computed by one thread whatever their number.
    assert!((ctx, lse, dqkv, dpositions) == run(2));
}

#[test]
fn forward_and_backward_agree_with_double_precision() {
    let buckets = Buckets { buckets: 4, most: 6 };
    for terms in [[true, true], [true, false], [false, true]] {
        check(&Case { lengths: &[1], heads: 1, head_dim: 7, dropout: 0.0, buckets, terms }, true);
        check(&Case { lengths: &[7, 1, 3], heads: 2, head_dim: 5, dropout: 0.3, buckets, terms }, true);
    }
}

#[test]
fn tiles_blocks_and_buckets_of_all_sizes() {
    let terms = [true, true];
    for buckets in [
        Buckets { buckets: 0, most: 300 },
        Buckets { buckets: 0, most: 40 },
        Buckets { buckets: 32, most: 128 },
        Buckets { buckets: 256, most: 512 },
    ] {
        check(&Case { lengths: &[200, 65, 20], heads: 2, head_dim: 16, dropout: 0.1, buckets, terms }, false);
    }
    let buckets = Buckets { buckets: 256, most: 512 };
    check(&Case { lengths: &[300], heads: 1, head_dim: 8, dropout: 0.0, buckets, terms }, false);
}
