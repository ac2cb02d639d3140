use candle_core::Device;

use super::super::simulated::Simulated;
use super::*;
use crate::device::Precision;
use crate::kernels::dropout::{DropoutKey, Mask as DropoutMask};

unsafe extern "C" {
    fn host_take_turns(other_way_round: i32);
}

/// First rows of sequences, of others that they attend to, and the ends of the last ones.
type Rows = [[u32; 6]; 2];

/// Sequences of one row, of less than a tile, of two tiles, of none and of more; of the others one
/// has no rows.
const LONG: Rows =
    [[0, 1, 38, 38 + 128, 38 + 128, 38 + 128 + 131], [0, 70, 70, 70 + 64, 70 + 64 + 3, 70 + 64 + 3 + 40]];
/// Sequences that a block takes whole, in two tiles or in one.
const WHOLE: Rows =
    [[0, 1, 38, 38 + 128, 38 + 128, 38 + 128 + 99], [0, 70, 70, 70 + 128, 70 + 128 + 3, 70 + 128 + 3 + 40]];
const SHORT: Rows =
    [[0, 1, 38, 38 + 64, 38 + 64, 38 + 64 + 50], [0, 60, 60, 60 + 64, 60 + 64 + 3, 60 + 64 + 3 + 40]];
const PLACES: [u32; 5] = [4, 0, 7, 1, 2];
/// Buckets of distances.
const COUNT: usize = 6;

fn values(count: usize, salt: usize) -> Vec<f32> {
    let value = |index: usize| ((index * 29 + salt * 101) as f32).sin() * (0.5 + (index % 7) as f32 / 4.0);
    (0..count).map(value).collect()
}

fn tensor<T: candle_core::WithDType>(numbers: &[T]) -> Tensor {
    Tensor::from_slice(numbers, numbers.len(), &Device::Cpu).unwrap()
}

/// An attention: heads and their columns, whether a query sees no later key, whether it is to
/// other sequences, and whether scores have biases.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: &'static Rows,
    heads: usize,
    size: usize,
    causal: bool,
    to_others: bool,
    biased: bool,
    probability: Option<f32>,
}

impl Case {
    fn queries(&self) -> &'static [u32; 6] {
        &self.rows[0]
    }

    fn keys(&self) -> &'static [u32; 6] {
        &self.rows[usize::from(self.to_others)]
    }

    fn mask(&self) -> Option<DropoutMask> {
        let key = DropoutKey { seed: 5, step: 3, site: 2 };
        self.probability.and_then(|probability| DropoutMask::new(key, probability))
    }

    /// The bucket of a distance.
    fn bucket(distance: isize) -> u32 {
        distance.rem_euclid(COUNT as isize) as u32
    }
}

/// What is given: queries, keys and values each [rows, heads * size], the context's gradient,
/// and biases [COUNT, heads].
struct Given {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    dout: Vec<f32>,
    table: Vec<f32>,
}

/// Softmax attention by its definition (Vaswani et al. 2017, eq. 1) and its gradient, in
/// double precision: context, log-sum-exps [heads, rows], gradients of queries, of keys, of
/// values and of biases.
fn by_definition(case: Case, given: &Given) -> [Vec<f64>; 6] {
    let Case { heads, size, causal, biased, .. } = case;
    let (columns, scale) = (heads * size, 1.0 / (size as f64).sqrt());
    let rows = case.queries()[5] as usize;
    let mut context = vec![0.0; given.queries.len()];
    let mut log_sums = vec![0.0; heads * rows];
    let mut gradients = [given.queries.len(), given.keys.len(), given.keys.len(), COUNT * heads]
        .map(|count| vec![0.0; count]);
    let mask = case.mask();
    for (sequence, &place) in PLACES.iter().enumerate() {
        let bounds = |starts: &[u32; 6]| (starts[sequence] as usize, starts[sequence + 1] as usize);
        let ((first_query, last_query), (first_key, last_key)) =
            (bounds(case.queries()), bounds(case.keys()));
        for (head, query) in (0..heads).flat_map(|head| (0..last_query - first_query).map(move |q| (head, q)))
        {
            let at = |row: usize| row * columns + head * size;
            let inner = |x: &[f32], one: usize, y: &[f32], other: usize| -> f64 {
                (0..size).map(|k| f64::from(x[one + k]) * f64::from(y[other + k])).sum()
            };
            let seen = if causal { query + 1 } else { last_key - first_key };
            let of_query = at(first_query + query);
            let bucket = |key: usize| Case::bucket(key as isize - query as isize) as usize;
            let score = |key: usize| {
                let bias = if biased { f64::from(given.table[bucket(key) * heads + head]) } else { 0.0 };
                inner(&given.queries, of_query, &given.keys, at(first_key + key)) * scale + bias
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            log_sums[head * rows + first_query + query] = total.ln() + most;
            let keep = mask.as_ref().map(|mask| mask.query(place, head as u32, query as u32));
            let kept = |key: usize| keep.as_ref().map_or(1.0, |keep| f64::from(keep.factor(key as u32)));
            let p: Vec<f64> = scores.iter().map(|score| (score - most).exp() / total).collect();
            let dp: Vec<f64> = (0..seen)
                .map(|key| inner(&given.dout, of_query, &given.values, at(first_key + key)) * kept(key))
                .collect();
            let sum: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for key in 0..seen {
                let of_key = at(first_key + key);
                let dscore = p[key] * (dp[key] - sum);
                gradients[3][bucket(key) * heads + head] += dscore;
                for k in 0..size {
                    context[of_query + k] += p[key] * kept(key) * f64::from(given.values[of_key + k]);
                    gradients[0][of_query + k] += dscore * scale * f64::from(given.keys[of_key + k]);
                    gradients[1][of_key + k] += dscore * scale * f64::from(given.queries[of_query + k]);
                    gradients[2][of_key + k] += p[key] * kept(key) * f64::from(given.dout[of_query + k]);
                }
            }
        }
    }
    let [queries, keys, values, biases] = gradients;
    [context, log_sums, queries, keys, values, biases]
}

/// Columns of several matrices side by side.
fn side_by_side(parts: &[&[f32]], columns: usize) -> Vec<f32> {
    let rows = parts[0].len() / columns;
    let row = |row: usize| parts.iter().flat_map(move |part| part[row * columns..][..columns].to_vec());
    (0..rows).flat_map(row).collect()
}

/// Some columns of a matrix with so many, flat.
fn columns_of(x: &Tensor, pitch: usize, first: usize, columns: usize) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap().reshape(((), pitch)).unwrap();
    x.narrow(1, first, columns).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What the kernels give, in the order of [`by_definition`], turns taken one way or the other.
fn by_kernels(own: &Own, case: Case, given: &Given, dtype: DType, other_way_round: bool) -> [Vec<f32>; 6] {
    // SAFETY: the order is this thread's own.
    unsafe { host_take_turns(i32::from(other_way_round)) };
    let Case { heads, size, causal, to_others, biased, .. } = case;
    let columns = heads * size;
    let list = |numbers: Vec<u32>| Ok(tensor(&numbers));
    let of_type = |numbers: &[f32]| tensor(numbers).to_dtype(dtype).unwrap();
    let scale = 1.0 / (size as f32).sqrt();
    let shape =
        Shape { heads, size, scale, causal, side_by_side: !to_others, mask: case.mask().map(Mask::from) };
    let sequences = Sequences { queries: case.queries(), keys: case.keys(), places: &PLACES };
    let distances: Vec<u32> = (-200..200).map(Case::bucket).collect();
    let table = tensor(&given.table).reshape((COUNT, heads)).unwrap();
    let biases = Biases {
        by_distance: table.index_select(&tensor(&distances), 0).unwrap(),
        buckets: tensor(&distances),
        count: COUNT,
        before: 200,
    };
    let packed = Packed::new(sequences, shape, biased.then_some(biases), list).unwrap();
    let (queries, memory) = match to_others {
        true => (of_type(&given.queries), of_type(&side_by_side(&[&given.keys, &given.values], columns))),
        false => {
            let all = of_type(&side_by_side(&[&given.queries, &given.keys, &given.values], columns));
            (all.clone(), all)
        }
    };
    let [context, log_sums] = own.attention(&packed, [&queries, &memory], dtype).unwrap();
    let dout = of_type(&given.dout);
    let operands = Operands { queries: &queries, memory: &memory, dout: &dout, log_sums: &log_sums };
    let found = own.attention_backward(&packed, &operands, true).unwrap();
    let of_biases = own.bias_gradient(&packed, &operands, &found).unwrap();
    // SAFETY: as above.
    unsafe { host_take_turns(0) };
    let all = &found.queries;
    let parts = match &found.memory {
        Some(memory) => [
            columns_of(all, columns, 0, columns),
            columns_of(memory, 2 * columns, 0, columns),
            columns_of(memory, 2 * columns, columns, columns),
        ],
        None => [0, 1, 2].map(|part| columns_of(all, 3 * columns, part * columns, columns)),
    };
    let [queries, keys, values] = parts;
    let biases = of_biases.map_or(Vec::new(), |table| table.flatten_all().unwrap().to_vec1().unwrap());
    [columns_of(&context, columns, 0, columns), log_sums.to_vec1().unwrap(), queries, keys, values, biases]
}

fn apart(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    // The log-sum-exp of no scores is negative infinity.
    let of_some: Vec<(f64, f64)> =
        found.iter().map(|&x| f64::from(x)).zip(expected.iter().copied()).collect();
    assert!(of_some.iter().all(|(a, b)| a.is_finite() == b.is_finite()), "infinite");
    let of_some = || of_some.iter().copied().filter(|(_, b)| b.is_finite());
    let norm = |list: &mut dyn Iterator<Item = f64>| list.map(|x| x.powi(2)).sum::<f64>().sqrt();
    norm(&mut of_some().map(|(a, b)| a - b)) / norm(&mut of_some().map(|(_, b)| b))
}

fn holds(case: Case) {
    let columns = case.heads * case.size;
    let (rows, others) = (case.queries()[5] as usize, case.keys()[5] as usize);
    let [queries, dout] = [1, 2].map(|salt| values(rows * columns, salt));
    let [keys, of_keys] = [3, 4].map(|salt| values(others * columns, salt));
    let given = Given { queries, keys, values: of_keys, dout, table: values(COUNT * case.heads, 5) };
    let expected = by_definition(case, &given);
    // Numbers rounded to TF32 have eleven bits, and those of bf16 eight.
    for (precision, dtype, bound) in [
        (Precision::Fp32, DType::F32, 3e-5),
        (Precision::Tf32, DType::F32, 4e-3),
        (Precision::Bf16, DType::F32, 8e-3),
        (Precision::Bf16, DType::BF16, 1e-2),
    ] {
        let here = Own::new(&Device::Cpu).unwrap();
        let simulated = |order, blocks| Own::simulated(Simulated { order, blocks });
        // The text for the processor, and a GPU that is simulated.
        for [(own, other_way_round), (other, yet)] in
            [[(here.clone(), false), (here, true)], [(simulated(0, 65_536), false), (simulated(7, 2), false)]]
        {
            let by = |own: Own, turned: bool| {
                by_kernels(&own.in_precision(precision), case, &given, dtype, turned)
            };
            let (one, two) = (by(own, other_way_round), by(other, yet));
            let names = ["context", "log-sum-exps", "queries", "keys", "values", "biases"];
            for (number, name) in names.into_iter().enumerate() {
                if one[number].is_empty() && !case.biased {
                    continue;
                }
                let apart = apart(&one[number], &expected[number]);
                assert!(apart < bound, "{name} of {case:?}, {precision:?} of {dtype:?}: {apart:e}");
                let same = one[number].iter().zip(&two[number]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name} of {case:?}, {precision:?}: what threads do depends on their order");
            }
        }
    }
}

#[test]
fn attention_within_sequences_is_its_definition_whatever_the_order_of_threads() {
    for rows in [&LONG, &WHOLE, &SHORT] {
        for (heads, size) in [(3, 20), (2, 32), (2, 64), (1, 33)] {
            for probability in [None, Some(0.3)] {
                holds(Case {
                    rows,
                    heads,
                    size,
                    causal: false,
                    to_others: false,
                    biased: false,
                    probability,
                });
            }
        }
    }
}

#[test]
fn attention_of_decoders_and_to_other_sequences_is_its_definition() {
    for (heads, size) in [(3, 20), (1, 64)] {
        for (rows, causal, to_others) in
            [(&LONG, true, false), (&LONG, false, true), (&WHOLE, false, true), (&SHORT, false, true)]
        {
            holds(Case { rows, heads, size, causal, to_others, biased: false, probability: Some(0.3) });
        }
    }
}

#[test]
fn attention_with_biases_is_its_definition_and_so_is_their_gradient() {
    for (size, causal, to_others) in [(20, false, false), (64, true, false), (64, false, true)] {
        holds(Case { rows: &LONG, heads: 2, size, causal, to_others, biased: true, probability: Some(0.3) });
    }
}
