//! Each operation of the CPU kernels against PyTorch, forward and backward, at
//! odd shapes. tests/reference/operations.py writes the golden file; inputs are
//! drawn here as they are there.

use std::collections::BTreeMap;

use host_engine::kernels::activation::{self, Activation};
use host_engine::kernels::attention::{self, Attention, Known, kept_places};
use host_engine::kernels::embedding::{self, Lookup, Tables};
use host_engine::kernels::layer_norm::{self, Affine};
use host_engine::kernels::low_rank::{self, LowRank};
use host_engine::kernels::matmul::{Matrix, MatrixMut, nn, nt, tn};
use host_engine::kernels::parallel::Threads;
use host_engine::kernels::{adamw, cross_entropy, elementwise, reduce};
use host_ir::random::Stream;
use serde::Deserialize;

/// The most that a result may be apart, as a part of its norm.
const TOLERANCE: f64 = 3e-6;

#[derive(Deserialize)]
struct Case {
    operation: String,
    sizes: Vec<usize>,
    results: BTreeMap<String, Summary>,
}

/// What the golden file holds of a tensor.
#[derive(Deserialize)]
struct Summary {
    count: usize,
    norm: f64,
    /// Its product with a drawn vector.
    probe: f64,
    elements: Vec<f64>,
}

type Results = Vec<(&'static str, Vec<f32>)>;

fn drawn(name: &str, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(0, name);
    (0..count).map(|_| (2.0 * stream.unit() - 1.0) as f32).collect()
}

fn scaled(name: &str, count: usize, factor: f32) -> Vec<f32> {
    drawn(name, count).into_iter().map(|value| factor * value).collect()
}

fn zeros(count: usize) -> Vec<f32> {
    vec![0.0; count]
}

fn linear(threads: &Threads, sizes: &[usize]) -> Results {
    let &[rows, inputs, outputs] = sizes else { panic!("{sizes:?}") };
    let (x, weight) = (drawn("x", rows * inputs), drawn("weight", outputs * inputs));
    let (bias, dy) = (drawn("bias", outputs), drawn("dy", rows * outputs));
    let [x, weight] = [&x, &weight].map(|values| Matrix::new(values, inputs));
    let (mut y, mut dx) = (zeros(rows * outputs), zeros(rows * inputs));
    let (mut dweight, mut dbias) = (zeros(outputs * inputs), zeros(outputs));
    nt(threads, [rows, outputs, inputs], 1.0, x, weight, 0.0, MatrixMut::new(&mut y, outputs));
    elementwise::add_bias(threads, &mut y, &bias);
    let gradient = Matrix::new(&dy, outputs);
    nn(threads, [rows, inputs, outputs], 1.0, gradient, weight, 0.0, MatrixMut::new(&mut dx, inputs));
    tn(threads, [outputs, inputs, rows], 1.0, gradient, x, 0.0, MatrixMut::new(&mut dweight, inputs));
    reduce::column_sums(threads, &mut dbias, &dy, outputs);
    vec![("y", y), ("dx", dx), ("dweight", dweight), ("dbias", dbias)]
}

fn activated(threads: &Threads, function: Activation, sizes: &[usize]) -> Results {
    let &[rows, width] = sizes else { panic!("{sizes:?}") };
    let (x, bias) = (scaled("x", rows * width, 3.0), drawn("bias", width));
    let (mut out, mut dx) = (zeros(x.len()), drawn("dy", x.len()));
    activation::activate(threads, function, &mut out, &x, Some(&bias), width);
    activation::backward(threads, function, &mut dx, &x, Some(&bias), width);
    vec![("out", out), ("dx", dx)]
}

fn norm(threads: &Threads, sizes: &[usize]) -> Results {
    let &[rows, width] = sizes else { panic!("{sizes:?}") };
    let (mut normalized, residual) = (drawn("y", rows * width), drawn("residual", rows * width));
    let [bias, gain, shift] = ["bias", "gain", "shift"].map(|name| drawn(name, width));
    let terms = layer_norm::Forward {
        bias: Some(&bias),
        dropout: None,
        residual: Some(&residual),
        affine: Affine { gain: &gain, shift: &shift },
        epsilon: 1e-12,
        dropout_after: None,
    };
    let (mut out, mut rstd) = (zeros(rows * width), zeros(rows));
    layer_norm::forward(threads, &mut out, &mut normalized, &mut rstd, terms);
    let dout = drawn("dy", rows * width);
    let terms = layer_norm::Backward {
        dout: &dout,
        normalized: &normalized,
        rstd: &rstd,
        gain: &gain,
        dropout: None,
        dropout_after: None,
    };
    let (mut dv, mut dy) = (zeros(rows * width), zeros(rows * width));
    let [mut dgain, mut dshift, mut dbias] = [zeros(width), zeros(width), zeros(width)];
    let gradients =
        layer_norm::Gradients { gain: Some(&mut dgain), shift: Some(&mut dshift), bias: Some(&mut dbias) };
    layer_norm::backward(threads, &mut dv, Some(&mut dy), terms, gradients);
    vec![("out", out), ("dy", dy), ("dresidual", dv), ("dgain", dgain), ("dshift", dshift), ("dbias", dbias)]
}

fn attended(threads: &Threads, sizes: &[usize]) -> Results {
    let [heads, head_dim, lengths @ ..] = sizes else { panic!("{sizes:?}") };
    let mut starts = vec![0u32];
    starts.extend(lengths.iter().scan(0, |end, length| {
        *end += *length as u32;
        Some(*end)
    }));
    let (rows, hidden) = (lengths.iter().sum::<usize>(), heads * head_dim);
    let scale = 1.0 / (*head_dim as f32).sqrt();
    let attention = Attention { starts: &starts, heads: *heads, head_dim: *head_dim, scale, dropout: None };
    let (qkv, dout) = (drawn("qkv", rows * 3 * hidden), drawn("dy", rows * hidden));
    let (mut out, mut log_sums, mut dqkv) = (zeros(rows * hidden), zeros(heads * rows), zeros(qkv.len()));
    let mut kept = zeros(heads * kept_places(&starts).last().unwrap());
    let results = attention::Results { ctx: &mut out, lse: &mut log_sums, kept: Some(&mut kept) };
    attention::forward(threads, results, &qkv, &attention);
    let known = Known { qkv: &qkv, lse: &log_sums, kept: Some(&kept) };
    let wanted = attention::Wanted { dqkv: &mut dqkv, first_rows: None };
    attention::backward(threads, wanted, &dout, known, &attention);
    vec![("out", out), ("dqkv", dqkv)]
}

fn low_rank_update(threads: &Threads, sizes: &[usize]) -> Results {
    let &[rows, inputs, outputs, rank] = sizes else { panic!("{sizes:?}") };
    let (x, a, b) = (drawn("x", rows * inputs), drawn("a", rank * inputs), drawn("b", outputs * rank));
    let factors = LowRank { a: &a, b: &b, rank, inputs, outputs, scale: 1.5, dropout: None };
    let (mut y, dy) = (drawn("y", rows * outputs), drawn("dy", rows * outputs));
    let (mut hidden, mut dhidden) = (zeros(rows * rank), zeros(rows * rank));
    let input = Matrix::new(&x, inputs);
    low_rank::forward(threads, &mut hidden, MatrixMut::new(&mut y, outputs), input, &factors);
    let (mut da, mut db, mut dx) = (zeros(a.len()), zeros(b.len()), zeros(x.len()));
    let gradients =
        low_rank::Gradients { a: Some(&mut da), b: Some(&mut db), x: Some(MatrixMut::new(&mut dx, inputs)) };
    let dy = Matrix::new(&dy, outputs);
    low_rank::backward(threads, gradients, &mut dhidden, dy, &hidden, input, &factors);
    vec![("y", y), ("dx", dx), ("da", da), ("db", db)]
}

fn losses(threads: &Threads, sizes: &[usize]) -> Results {
    let &[rows, classes] = sizes else { panic!("{sizes:?}") };
    let (logits, weights) = (scaled("logits", rows * classes, 5.0), drawn("weights", rows));
    let labels: Vec<i32> = (0..rows).map(|row| ((7 * row + 3) % classes) as i32).collect();
    let (mut losses, mut log_sums, mut dlogits) = (zeros(rows), zeros(rows), zeros(logits.len()));
    cross_entropy::forward(threads, &mut losses, &mut log_sums, &logits, &labels);
    cross_entropy::backward(threads, &mut dlogits, Some(&logits), &log_sums, &labels, &weights);
    vec![("losses", losses), ("dlogits", dlogits)]
}

fn embedded(threads: &Threads, sizes: &[usize]) -> Results {
    let &[rows, width, words] = sizes else { panic!("{sizes:?}") };
    let tables = [("word", words), ("position", 513), ("token_type", 2)];
    let [word, position, token_type] = tables.map(|(name, entries)| drawn(name, entries * width));
    let ids: Vec<u32> = (0..rows as u32).map(|row| row * row % words as u32).collect();
    let positions: Vec<u32> = (0..rows as u32).collect();
    let types: Vec<u32> = (0..rows as u32).map(|row| row % 2).collect();
    let starts = [0, rows as u32];
    let lookup = Lookup {
        starts: &starts,
        virtual_tokens: 0,
        ids: &ids,
        positions: &positions,
        types: &types,
        factor: 1.0,
        padding: None,
    };
    let mut out = zeros(rows * width);
    let read =
        Tables { word: Some(&word), position: Some(&position), token_type: Some(&token_type), prompt: None };
    embedding::forward(threads, &mut out, lookup, read, width);
    let [mut dword, mut dposition, mut dtype] = tables.map(|(_, entries)| zeros(entries * width));
    let gradients = embedding::Gradients {
        word: Some(&mut dword),
        position: Some(&mut dposition),
        token_type: Some(&mut dtype),
        prompt: None,
    };
    embedding::backward(threads, gradients, &drawn("dy", rows * width), lookup, false, width);
    vec![("out", out), ("dword", dword), ("dposition", dposition), ("dtoken_type", dtype)]
}

fn stepped(threads: &Threads, sizes: &[usize]) -> Results {
    let &[count, decay] = sizes else { panic!("{sizes:?}") };
    let (mut parameter, mut first, mut second) = (drawn("parameter", count), zeros(count), zeros(count));
    for step in 0..3 {
        let settings = adamw::AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: decay as f64 / 10.0,
            step: step + 1,
            gradient_scale: 1.0,
        };
        let gradient = drawn(&format!("gradient {step}"), count);
        adamw::step(threads, &settings, &mut parameter, &gradient, &mut first, &mut second);
    }
    vec![("parameter", parameter)]
}

fn results(threads: &Threads, case: &Case) -> Results {
    let sizes = &case.sizes[..];
    match case.operation.as_str() {
        "linear" => linear(threads, sizes),
        "gelu" => activated(threads, Activation::Gelu, sizes),
        "gelu_new" => activated(threads, Activation::GeluNew, sizes),
        "relu" => activated(threads, Activation::Relu, sizes),
        "silu" => activated(threads, Activation::Silu, sizes),
        "tanh" => activated(threads, Activation::Tanh, sizes),
        "norm" => norm(threads, sizes),
        "attention" => attended(threads, sizes),
        "low_rank" => low_rank_update(threads, sizes),
        "cross_entropy" => losses(threads, sizes),
        "embedding" => embedded(threads, sizes),
        "adamw" => stepped(threads, sizes),
        other => panic!("the golden file has the operation {other}"),
    }
}

fn compare(what: &str, ours: &[f32], golden: &Summary) {
    assert_eq!(ours.len(), golden.count, "{what}");
    let wide: Vec<f64> = ours.iter().map(|&value| f64::from(value)).collect();
    let norm = wide.iter().map(|value| value * value).sum::<f64>().sqrt();
    let probe: f64 = wide.iter().zip(drawn("probe", ours.len())).map(|(a, b)| a * f64::from(b)).sum();
    // A gradient that is nothing but rounding (one token attends to itself alone)
    // has no norm to be a part of.
    let bound = TOLERANCE * golden.norm.max(1e-2);
    assert!((norm - golden.norm).abs() <= bound, "{what}: norm {norm}, not {}", golden.norm);
    assert!((probe - golden.probe).abs() <= bound, "{what}: product {probe}, not {}", golden.probe);
    let step = (wide.len() / 16).max(1);
    for (place, (value, expected)) in wide.iter().step_by(step).zip(&golden.elements).enumerate() {
        assert!(
            (value - expected).abs() <= bound,
            "{what}, element {}: {value}, not {expected}",
            place * step
        );
    }
}

#[test]
fn every_operation_agrees_with_pytorch() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/golden/operations.json")).unwrap();
    assert!(cases.len() > 30);
    for threads in [1, 2] {
        let threads = Threads::new(threads).unwrap();
        for case in &cases {
            let ours = results(&threads, case);
            assert_eq!(ours.len(), case.results.len(), "{}", case.operation);
            for (name, values) in ours {
                let what = format!("{} {:?}, {name}", case.operation, case.sizes);
                compare(&what, &values, &case.results[name]);
            }
        }
    }
}
