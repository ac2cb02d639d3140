//! Attention against a plain one in double precision.

use proptest::prelude::*;

use super::super::dropout::DropoutKey;
use super::super::reference::{assert_close, gradient, random, weighted, wide};
use super::*;

/// ctx and the log-sum-exp, [rows, hidden] and [heads, rows].
fn reference(qkv: &[f64], attention: &Attention<'_>) -> (Vec<f64>, Vec<f64>) {
    let (rows, hidden, width) = (attention.rows(), attention.hidden(), attention.head_dim);
    let (mut ctx, mut all_lse) = (vec![0.0; rows * hidden], vec![0.0; attention.heads * rows]);
    for (sequence, bounds) in attention.starts.windows(2).enumerate() {
        let (first, end) = (bounds[0] as usize, bounds[1] as usize);
        for head in 0..attention.heads {
            let at = |row: usize, part: usize, i: usize| qkv[(row * 3 + part) * hidden + head * width + i];
            for query in first..end {
                let score = |key: usize| {
                    let dot: f64 = (0..width).map(|i| at(query, 0, i) * at(key, 1, i)).sum();
                    dot * f64::from(attention.scale)
                };
                let lse = (first..end).map(|key| score(key).exp()).sum::<f64>().ln();
                all_lse[head * rows + query] = lse;
                let mask = attention.dropout.map(|dropout| dropout.query(sequence, head, query - first));
                for key in first..end {
                    let factor = mask.map_or(1.0, |mask| f64::from(mask.factor((key - first) as u32)));
                    let p = (score(key) - lse).exp() * factor;
                    for i in 0..width {
                        ctx[query * hidden + head * width + i] += p * at(key, 2, i);
                    }
                }
            }
        }
    }
    (ctx, all_lse)
}

/// The gradient of qkv by the formulas of the softmax, for sizes at which
/// finite differences take too long.
fn reference_backward(qkv: &[f64], dctx: &[f64], attention: &Attention<'_>) -> Vec<f64> {
    let (rows, hidden, width) = (attention.rows(), attention.hidden(), attention.head_dim);
    let (_, all_lse) = reference(qkv, attention);
    let mut dqkv = vec![0.0; qkv.len()];
    for (sequence, bounds) in attention.starts.windows(2).enumerate() {
        let (first, end) = (bounds[0] as usize, bounds[1] as usize);
        for head in 0..attention.heads {
            let place = |row: usize, part: usize, i: usize| (row * 3 + part) * hidden + head * width + i;
            let scale = f64::from(attention.scale);
            for query in first..end {
                let mask = attention.dropout.map(|dropout| dropout.query(sequence, head, query - first));
                let (mut p, mut dp, mut mean) = (Vec::new(), Vec::new(), 0.0);
                for key in first..end {
                    let factor = mask.map_or(1.0, |mask| f64::from(mask.factor((key - first) as u32)));
                    let dot: f64 = (0..width).map(|i| qkv[place(query, 0, i)] * qkv[place(key, 1, i)]).sum();
                    let probability = (dot * scale - all_lse[head * rows + query]).exp();
                    let mut sum = 0.0;
                    for i in 0..width {
                        let d = dctx[query * hidden + head * width + i];
                        sum += d * qkv[place(key, 2, i)];
                        dqkv[place(key, 2, i)] += probability * factor * d;
                    }
                    mean += probability * factor * sum;
                    p.push(probability);
                    dp.push(factor * sum);
                }
                for key in first..end {
                    let ds = scale * p[key - first] * (dp[key - first] - mean);
                    for i in 0..width {
                        dqkv[place(query, 0, i)] += ds * qkv[place(key, 1, i)];
                        dqkv[place(key, 1, i)] += ds * qkv[place(query, 0, i)];
                    }
                }
            }
        }
    }
    dqkv
}

fn check(lengths: &[u32], heads: usize, head_dim: usize, probability: f32, differences: bool) {
    let mut starts = vec![0];
    lengths.iter().for_each(|length| starts.push(starts.last().unwrap() + length));
    let places: Vec<u32> = (0..lengths.len() as u32).map(|sequence| sequence * 3).collect();
    let key = DropoutKey { seed: 1, step: 4, site: 2 };
    let dropout = RowDropout::new(key, probability, &starts, &places);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let attention = Attention { starts: &starts, heads, head_dim, scale, dropout };
    let (rows, hidden) = (attention.rows(), attention.hidden());
    let (qkv, dctx) = (random(rows * 3 * hidden, 1), random(rows * hidden, 2));
    let run = |count, keep: bool| {
        let threads = Threads::new(count).unwrap();
        let (mut ctx, mut lse) = (vec![f32::NAN; rows * hidden], vec![f32::NAN; heads * rows]);
        let mut kept = vec![f32::NAN; heads * kept_places(&starts).last().unwrap()];
        let results = Results { ctx: &mut ctx, lse: &mut lse, kept: keep.then_some(&mut kept) };
        forward(&threads, results, &qkv, &attention);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        let known = Known { qkv: &qkv, lse: &lse, kept: keep.then_some(&kept) };
        backward(&threads, Wanted { dqkv: &mut dqkv, first_rows: None }, &dctx, known, &attention);
        check_first_rows(&threads, &dqkv, &dctx, known, &attention);
        (ctx, lse, dqkv)
    };
    let (ctx, lse, dqkv) = run(1, true);
    let (exact_ctx, exact_lse) = reference(&wide(&qkv), &attention);
    assert_close(&ctx, &exact_ctx, 2e-6);
    assert_close(&lse, &exact_lse, 2e-6);
    let exact = reference_backward(&wide(&qkv), &wide(&dctx), &attention);
    assert_close(&dqkv, &exact, 5e-6);
    if differences {
        let by_differences = gradient(&qkv, |qkv| weighted(&reference(qkv, &attention).0, &dctx));
        assert_close(&dqkv, &by_differences, 1e-5);
    }
    // A unit is computed by one thread whatever their number.
    let (again, sums, computed_again) = run(1, false);
    assert!((&ctx, &lse) == (&again, &sums), "what is kept changes nothing of what is computed");
    assert_close(&computed_again, &exact, 5e-6);
    assert!((ctx, lse, dqkv) == run(2, true));
}

/// The gradients of the first rows of each sequence are the same by themselves.
fn check_first_rows(
    threads: &Threads,
    dqkv: &[f32],
    dctx: &[f32],
    known: Known<'_>,
    attention: &Attention<'_>,
) {
    let width = 3 * attention.hidden();
    let shortest = attention.starts.windows(2).map(|bounds| bounds[1] - bounds[0]).min().unwrap() as usize;
    for first in [1, shortest.div_ceil(2), shortest] {
        let starts = &attention.starts[..attention.starts.len() - 1];
        let mut narrow = vec![f32::NAN; starts.len() * first * width];
        let wanted = Wanted { dqkv: &mut narrow, first_rows: Some(first) };
        backward(threads, wanted, dctx, known, attention);
        let rows = starts.iter().flat_map(|&start| &dqkv[start as usize * width..][..first * width]);
        assert_close(&narrow, &rows.map(|&element| f64::from(element)).collect::<Vec<_>>(), 2e-6);
    }
}

#[test]
fn forward_and_backward_agree_with_double_precision() {
    check(&[1], 1, 7, 0.0, true);
    check(&[4, 1, 3], 2, 5, 0.0, true);
    check(&[4, 1, 3], 2, 5, 0.3, true);
}

#[test]
fn all_head_sizes_and_several_query_blocks() {
    check(&[30, 1, 21], 4, 32, 0.1, false);
    check(&[257, 40, 128], 2, 64, 0.1, false);
    check(&[20, 129], 1, 96, 0.0, false);
    check(&[513], 1, 7, 0.2, false);
}

#[test]
fn all_that_dropout_drops_leaves_no_gradient() {
    check(&[5, 3], 2, 4, 1.0, false);
}

#[test]
fn large_scores_do_not_overflow() {
    let attention = Attention { starts: &[0, 3], heads: 1, head_dim: 1, scale: 1.0, dropout: None };
    let qkv = [100.0, 50.0, 1.0, -100.0, 50.0, 2.0, 100.0, -50.0, 4.0];
    let (mut ctx, mut lse) = (vec![0.0; 3], vec![0.0; 3]);
    let results = Results { ctx: &mut ctx, lse: &mut lse, kept: None };
    forward(&Threads::new(1).unwrap(), results, &qkv, &attention);
    assert_eq!(ctx, [1.5, 4.0, 1.5]);
    assert!(lse.iter().all(|lse| lse.is_finite()));
}

#[test]
fn sequences_do_not_see_each_other() {
    let threads = Threads::new(2).unwrap();
    let (heads, head_dim, hidden) = (2, 8, 16);
    let qkv = random(30 * 3 * hidden, 5);
    let run = |starts: &[u32], qkv: &[f32]| {
        let rows = *starts.last().unwrap() as usize;
        let attention = Attention { starts, heads, head_dim, scale: 0.3, dropout: None };
        let (mut ctx, mut lse) = (vec![0.0; rows * hidden], vec![0.0; heads * rows]);
        forward(&threads, Results { ctx: &mut ctx, lse: &mut lse, kept: None }, qkv, &attention);
        ctx
    };
    let together = run(&[0, 12, 12, 30], &qkv);
    let alone = run(&[0, 18], &qkv[12 * 3 * hidden..]);
    assert_eq!(together[12 * hidden..], alone);
}

#[test]
fn work_is_shared_evenly() {
    let starts = [0, 128, 138, 148, 158, 286];
    let attention = Attention { starts: &starts, heads: 12, head_dim: 64, scale: 1.0, dropout: None };
    let shares = attention.shares(&Threads::new(3).unwrap());
    let work = |units: &Vec<Unit>| units.iter().map(|unit| unit.length * unit.length).sum::<usize>();
    let work: Vec<usize> = shares.iter().map(work).collect();
    assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), 5 * 12);
    assert!(work.iter().max().unwrap() - work.iter().min().unwrap() <= 128 * 128 / 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn any_shape(
        lengths in prop::collection::vec(1u32..20, 1..5),
        heads in 1usize..4,
        head_dim in 1usize..40,
        dropped in any::<bool>(),
    ) {
        check(&lengths, heads, head_dim, if dropped { 0.25 } else { 0.0 }, false);
    }
}
