//! Attention against a plain one in double precision.

use proptest::prelude::*;

use super::super::dropout::DropoutKey;
use super::super::reference::{assert_close, gradient, random, weighted, wide};
use super::super::relative::Buckets;
use super::*;

/// What attention reads, in double precision: queries [rows, hidden], keys and
/// values [keys, 2 hidden], and the table of a relative bias.
#[derive(Clone)]
struct Exact {
    queries: Vec<f64>,
    memory: Vec<f64>,
    table: Vec<f64>,
}

impl Exact {
    fn joined(qkv: &[f64], hidden: usize) -> Exact {
        let rows = qkv.chunks(3 * hidden);
        let queries = rows.clone().flat_map(|row| row[..hidden].to_vec()).collect();
        Exact { queries, memory: rows.flat_map(|row| row[hidden..].to_vec()).collect(), table: Vec::new() }
    }

    fn join(&self, hidden: usize) -> Vec<f64> {
        let rows = self.queries.chunks(hidden).zip(self.memory.chunks(2 * hidden));
        rows.flat_map(|(queries, memory)| [queries, memory].concat()).collect()
    }
}

/// Calls with every pair of a query and a key that it sees: head, sequence,
/// query and key as rows, and their places in the sequence.
fn pairs(attention: &Attention<'_>, mut call: impl FnMut([usize; 6])) {
    for sequence in 0..attention.sequences() {
        let bounds = |starts: &[u32]| starts[sequence] as usize..starts[sequence + 1] as usize;
        let (queries, keys) = (bounds(attention.query_starts), bounds(attention.key_starts));
        for head in 0..attention.heads {
            for query in queries.clone() {
                let place = query - queries.start;
                let own = if attention.causal { keys.len() - queries.len() + place } else { place };
                for key in keys.clone() {
                    if !attention.causal || key - keys.start <= own {
                        call([head, sequence, query, key, place, key - keys.start]);
                    }
                }
            }
        }
    }
}

/// Scores by (head, query row), in the order of the keys.
fn scores(exact: &Exact, attention: &Attention<'_>) -> Vec<Vec<f64>> {
    let (hidden, width) = (attention.hidden(), attention.head_dim);
    let mut scores = vec![Vec::new(); attention.heads * attention.rows()];
    pairs(attention, |[head, sequence, query, key, place, key_place]| {
        let first = head * width;
        let dot: f64 = (first..first + width)
            .map(|i| exact.queries[query * hidden + i] * exact.memory[key * 2 * hidden + i])
            .sum();
        let mut score = dot * f64::from(attention.scale);
        if let Some(bias) = attention.bias {
            let length = |starts: &[u32]| (starts[sequence + 1] - starts[sequence]) as usize;
            let before = length(attention.key_starts) - length(attention.query_starts);
            let distance = key_place as isize - (place + before) as isize;
            score += exact.table[bias.buckets.of(distance) * attention.heads + head];
        }
        scores[head * attention.rows() + query].push(score);
    });
    scores
}

/// ctx and the log-sum-exp, [rows, hidden] and [heads, rows].
fn reference(exact: &Exact, attention: &Attention<'_>) -> (Vec<f64>, Vec<f64>) {
    let (rows, hidden, width) = (attention.rows(), attention.hidden(), attention.head_dim);
    let scores = scores(exact, attention);
    let lse: Vec<f64> =
        scores.iter().map(|row| row.iter().map(|score| score.exp()).sum::<f64>().ln()).collect();
    let mut ctx = vec![0.0; rows * hidden];
    pairs(attention, |[head, sequence, query, key, place, key_place]| {
        let mask = attention.dropout.map(|dropout| dropout.query(sequence, head, place));
        let factor = mask.map_or(1.0, |mask| f64::from(mask.factor(key_place as u32)));
        let row = head * rows + query;
        let p = (scores[row][key_place] - lse[row]).exp() * factor;
        for i in head * width..(head + 1) * width {
            ctx[query * hidden + i] += p * exact.memory[key * 2 * hidden + hidden + i];
        }
    });
    (ctx, lse)
}

/// The gradients by the formulas of the softmax, for sizes at which finite
/// differences take too long.
fn reference_backward(exact: &Exact, dctx: &[f64], attention: &Attention<'_>) -> Exact {
    let (rows, hidden, width) = (attention.rows(), attention.hidden(), attention.head_dim);
    let (scores, (_, lse)) = (scores(exact, attention), reference(exact, attention));
    let mut gradients = Exact {
        queries: vec![0.0; exact.queries.len()],
        memory: vec![0.0; exact.memory.len()],
        table: vec![0.0; exact.table.len()],
    };
    let mut means = vec![0.0; attention.heads * rows];
    let mut parts = Vec::new();
    pairs(attention, |[head, sequence, query, key, place, key_place]| {
        let mask = attention.dropout.map(|dropout| dropout.query(sequence, head, place));
        let factor = mask.map_or(1.0, |mask| f64::from(mask.factor(key_place as u32)));
        let row = head * rows + query;
        let p = (scores[row][key_place] - lse[row]).exp();
        let mut sum = 0.0;
        for i in head * width..(head + 1) * width {
            let (d, value) = (dctx[query * hidden + i], key * 2 * hidden + hidden + i);
            sum += d * exact.memory[value];
            gradients.memory[value] += p * factor * d;
        }
        means[row] += p * factor * sum;
        parts.push((p, factor * sum));
    });
    let mut parts = parts.into_iter();
    pairs(attention, |[head, sequence, query, key, place, key_place]| {
        let (p, dp) = parts.next().unwrap();
        let ds = p * (dp - means[head * rows + query]);
        let scale = f64::from(attention.scale);
        for i in head * width..(head + 1) * width {
            gradients.queries[query * hidden + i] += scale * ds * exact.memory[key * 2 * hidden + i];
            gradients.memory[key * 2 * hidden + i] += scale * ds * exact.queries[query * hidden + i];
        }
        if let Some(bias) = attention.bias {
            let length = |starts: &[u32]| (starts[sequence + 1] - starts[sequence]) as usize;
            let before = length(attention.key_starts) - length(attention.query_starts);
            let distance = key_place as isize - (place + before) as isize;
            gradients.table[bias.buckets.of(distance) * attention.heads + head] += ds;
        }
    });
    gradients
}

fn starts(lengths: &[u32]) -> Vec<u32> {
    let mut starts = vec![0];
    lengths.iter().for_each(|length| starts.push(starts.last().unwrap() + length));
    starts
}

fn check(lengths: &[u32], heads: usize, head_dim: usize, probability: f32, differences: bool) {
    let starts = starts(lengths);
    let places: Vec<u32> = (0..lengths.len() as u32).map(|sequence| sequence * 3).collect();
    let key = DropoutKey { seed: 1, step: 4, site: 2 };
    let dropout = RowDropout::new(key, probability, &starts, &places);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let attention = Attention::within(&starts, heads, head_dim, scale, dropout);
    let (rows, hidden) = (attention.rows(), attention.hidden());
    let (qkv, dctx) = (random(rows * 3 * hidden, 1), random(rows * hidden, 2));
    let inputs = Inputs::Joined(&qkv);
    let run = |count| {
        let threads = Threads::new(count).unwrap();
        let (mut ctx, mut lse) = (vec![f32::NAN; rows * hidden], vec![f32::NAN; heads * rows]);
        forward(&threads, &mut ctx, &mut lse, inputs, &attention);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        let saved = Saved { dctx: &dctx, inputs, lse: &lse };
        backward(&threads, Gradients::Joined(&mut dqkv), None, saved, &attention);
        (ctx, lse, dqkv)
    };
    let (ctx, lse, dqkv) = run(1);
    let exact = Exact::joined(&wide(&qkv), hidden);
    let (exact_ctx, exact_lse) = reference(&exact, &attention);
    assert_close(&ctx, &exact_ctx, 2e-6);
    assert_close(&lse, &exact_lse, 2e-6);
    let gradients = reference_backward(&exact, &wide(&dctx), &attention);
    assert_close(&dqkv, &gradients.join(hidden), 5e-6);
    if differences {
        let loss = |qkv: &[f64]| weighted(&reference(&Exact::joined(qkv, hidden), &attention).0, &dctx);
        assert_close(&dqkv, &gradient(&qkv, loss), 1e-5);
    }
    // A unit is computed by one thread whatever their number.
    assert!((ctx, lse, dqkv) == run(2));
}

/// Keys and values in a matrix of their own, with a relative bias where there are
/// buckets.
fn check_apart(
    (queries, keys): (&[u32], &[u32]),
    causal: bool,
    buckets: Option<Buckets>,
    probability: f32,
    differences: bool,
) {
    let (heads, head_dim) = (2, 5);
    let (query_starts, key_starts) = (starts(queries), starts(keys));
    let places: Vec<u32> = (0..queries.len() as u32).collect();
    let dropout =
        RowDropout::new(DropoutKey { seed: 1, step: 4, site: 2 }, probability, &query_starts, &places);
    let table = random(buckets.map_or(0, |buckets| buckets.count) * heads, 3);
    let attention = Attention {
        query_starts: &query_starts,
        key_starts: &key_starts,
        heads,
        head_dim,
        scale: 0.7,
        causal,
        bias: buckets.map(|buckets| RelativeBias { table: &table, buckets }),
        dropout,
    };
    let (rows, hidden) = (attention.rows(), attention.hidden());
    let (q, memory) = (random(rows * hidden, 1), random(attention.key_rows() * 2 * hidden, 4));
    let (dctx, inputs) = (random(rows * hidden, 2), Inputs::Apart { queries: &q, memory: &memory });
    let run = |count| {
        let threads = Threads::new(count).unwrap();
        let (mut ctx, mut lse) = (vec![f32::NAN; rows * hidden], vec![f32::NAN; heads * rows]);
        forward(&threads, &mut ctx, &mut lse, inputs, &attention);
        let (mut dq, mut dmemory) = (vec![f32::NAN; q.len()], vec![f32::NAN; memory.len()]);
        let mut dtable = vec![1.0; table.len()];
        let mut partial = vec![f32::NAN; queries.len() * table.len()];
        let bias = buckets.map(|_| BiasGradient { table: &mut dtable, partial: &mut partial });
        let gradients = Gradients::Apart { queries: Some(&mut dq), memory: Some(&mut dmemory) };
        backward(&threads, gradients, bias, Saved { dctx: &dctx, inputs, lse: &lse }, &attention);
        (ctx, lse, [dq, dmemory, dtable])
    };
    let (ctx, lse, [dq, dmemory, dtable]) = run(1);
    let exact = Exact { queries: wide(&q), memory: wide(&memory), table: wide(&table) };
    let (exact_ctx, exact_lse) = reference(&exact, &attention);
    assert_close(&ctx, &exact_ctx, 2e-6);
    assert_close(&lse, &exact_lse, 2e-6);
    let mut expected = reference_backward(&exact, &wide(&dctx), &attention);
    expected.table.iter_mut().for_each(|gradient| *gradient += 1.0);
    assert_close(&dq, &expected.queries, 5e-6);
    assert_close(&dmemory, &expected.memory, 5e-6);
    assert_close(&dtable, &expected.table, 5e-6);
    if differences {
        let loss = |changed: Exact| weighted(&reference(&changed, &attention).0, &dctx);
        let by_queries = gradient(&q, |q| loss(Exact { queries: q.to_vec(), ..exact.clone() }));
        assert_close(&dq, &by_queries, 1e-5);
        let by_memory = gradient(&memory, |m| loss(Exact { memory: m.to_vec(), ..exact.clone() }));
        assert_close(&dmemory, &by_memory, 1e-5);
        let mut by_table = gradient(&table, |t| loss(Exact { table: t.to_vec(), ..exact.clone() }));
        by_table.iter_mut().for_each(|gradient| *gradient += 1.0);
        assert_close(&dtable, &by_table, 1e-5);
    }
    assert!((ctx, lse, [dq, dmemory, dtable]) == run(2));
}

#[test]
fn forward_and_backward_agree_with_double_precision() {
    check(&[1], 1, 7, 0.0, true);
    check(&[4, 1, 3], 2, 5, 0.0, true);
    check(&[4, 1, 3], 2, 5, 0.3, true);
}

#[test]
fn another_sequence_is_attended_to() {
    check_apart((&[3, 1, 2], &[2, 5, 1]), false, None, 0.0, true);
    check_apart((&[3, 1, 2], &[2, 5, 1]), false, None, 0.3, true);
    check_apart((&[140, 3], &[30, 200]), false, None, 0.2, false);
    // No query for a sequence: its keys have no gradient.
    check_apart((&[2, 0, 1], &[2, 3, 1]), false, None, 0.0, true);
}

#[test]
fn queries_see_no_key_behind_them() {
    check_apart((&[4, 1, 3], &[4, 1, 3]), true, None, 0.0, true);
    check_apart((&[300, 1, 129], &[300, 1, 129]), true, None, 0.1, false);
    // The last queries of longer sequences.
    check_apart((&[2, 1], &[5, 4]), true, None, 0.0, true);
}

#[test]
fn relative_bias_is_added_and_learns() {
    let buckets = Buckets { count: 8, farthest: 6, bidirectional: true };
    check_apart((&[5, 1, 9], &[5, 1, 9]), false, Some(buckets), 0.0, true);
    check_apart((&[5, 1, 9], &[5, 1, 9]), false, Some(buckets), 0.3, true);
    let causal = Buckets { bidirectional: false, ..buckets };
    check_apart((&[5, 1, 9], &[5, 1, 9]), true, Some(causal), 0.3, true);
    check_apart((&[2, 1], &[7, 4]), true, Some(causal), 0.0, true);
    let wide = Buckets { count: 32, farthest: 128, bidirectional: true };
    check_apart((&[300, 17], &[300, 17]), false, Some(wide), 0.1, false);
}

#[test]
fn all_head_sizes_and_several_query_blocks() {
    check(&[30, 1, 21], 4, 32, 0.1, false);
    check(&[257, 40, 128], 2, 64, 0.1, false);
    check(&[20, 129], 1, 96, 0.0, false);
    check(&[513], 1, 7, 0.2, false);
}

#[test]
fn large_scores_do_not_overflow() {
    let attention = Attention::within(&[0, 3], 1, 1, 1.0, None);
    let qkv = [100.0, 50.0, 1.0, -100.0, 50.0, 2.0, 100.0, -50.0, 4.0];
    let (mut ctx, mut lse) = (vec![0.0; 3], vec![0.0; 3]);
    forward(&Threads::new(1).unwrap(), &mut ctx, &mut lse, Inputs::Joined(&qkv), &attention);
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
        let attention = Attention::within(starts, heads, head_dim, 0.3, None);
        let (mut ctx, mut lse) = (vec![0.0; rows * hidden], vec![0.0; heads * rows]);
        forward(&threads, &mut ctx, &mut lse, Inputs::Joined(qkv), &attention);
        ctx
    };
    let together = run(&[0, 12, 12, 30], &qkv);
    let alone = run(&[0, 18], &qkv[12 * 3 * hidden..]);
    assert_eq!(together[12 * hidden..], alone);
}

#[test]
fn work_is_shared_evenly() {
    let starts = [0, 128, 138, 148, 158, 286];
    let attention = Attention::within(&starts, 12, 64, 1.0, None);
    let shares = attention.shares(&Threads::new(3).unwrap());
    let work = |units: &Vec<Unit>| units.iter().map(|unit| unit.queries * unit.keys).sum::<usize>();
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
