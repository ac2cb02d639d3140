//! Times of the kernels in BERT-base's shape, 16 sequences of 128 tokens, on two
//! threads: `cargo bench -p host-engine`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use host_engine::kernels::activation::{self, Activation};
use host_engine::kernels::attention::{self, Attention, Known, Results, Wanted, kept_places};
use host_engine::kernels::dropout::{DropoutKey, RowDropout};
use host_engine::kernels::layer_norm::{self, Affine};
use host_engine::kernels::low_rank::{self, LowRank};
use host_engine::kernels::matmul::{Matrix, MatrixMut, nn, nt, tn};
use host_engine::kernels::parallel::Threads;
use host_engine::kernels::{adamw, cross_entropy};

const SEQUENCES: usize = 16;
const LENGTH: usize = 128;
const ROWS: usize = SEQUENCES * LENGTH;
const HIDDEN: usize = 768;
const INTERMEDIATE: usize = 3072;
const HEADS: usize = 12;
const RANK: usize = 16;

fn threads() -> Threads {
    Threads::new(2).expect("two threads")
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|place| (place % 251) as f32 / 251.0 - 0.5).collect()
}

fn starts() -> Vec<u32> {
    (0..=SEQUENCES as u32).map(|sequence| sequence * LENGTH as u32).collect()
}

/// A floating-point operation an element stands for the throughput of products.
fn products(criterion: &mut Criterion) {
    let threads = threads();
    let mut group = criterion.benchmark_group("product");
    group.throughput(Throughput::Elements((2 * ROWS * HIDDEN * INTERMEDIATE) as u64));
    let (x, weight) = (values(ROWS * HIDDEN), values(INTERMEDIATE * HIDDEN));
    let (mut y, mut dx) = (values(ROWS * INTERMEDIATE), values(ROWS * HIDDEN));
    let mut dweight = values(INTERMEDIATE * HIDDEN);
    group.bench_function("linear", |bencher| {
        bencher.iter(|| {
            let y = MatrixMut::new(black_box(&mut y), INTERMEDIATE);
            let (x, weight) = (Matrix::new(&x, HIDDEN), Matrix::new(&weight, HIDDEN));
            nt(&threads, [ROWS, INTERMEDIATE, HIDDEN], 1.0, x, weight, 0.0, y);
        });
    });
    group.bench_function("input gradient", |bencher| {
        bencher.iter(|| {
            let dx = MatrixMut::new(black_box(&mut dx), HIDDEN);
            let (dy, weight) = (Matrix::new(&y, INTERMEDIATE), Matrix::new(&weight, HIDDEN));
            nn(&threads, [ROWS, HIDDEN, INTERMEDIATE], 1.0, dy, weight, 0.0, dx);
        });
    });
    group.bench_function("weight gradient", |bencher| {
        bencher.iter(|| {
            let dweight = MatrixMut::new(black_box(&mut dweight), HIDDEN);
            let (dy, x) = (Matrix::new(&y, INTERMEDIATE), Matrix::new(&x, HIDDEN));
            tn(&threads, [INTERMEDIATE, HIDDEN, ROWS], 1.0, dy, x, 0.0, dweight);
        });
    });
    group.finish();
}

fn low_rank(criterion: &mut Criterion) {
    let threads = threads();
    let (starts, places): (Vec<u32>, Vec<u32>) = (starts(), (0..SEQUENCES as u32).collect());
    let key = DropoutKey { seed: 1, step: 1, site: 1 };
    let (a, b) = (values(RANK * HIDDEN), values(HIDDEN * RANK));
    let dropout = RowDropout::new(key, 0.1, &starts, &places);
    let factors = LowRank { a: &a, b: &b, rank: RANK, inputs: HIDDEN, outputs: HIDDEN, scale: 2.0, dropout };
    let (x, dy) = (values(ROWS * HIDDEN), values(ROWS * HIDDEN));
    let (mut y, mut hidden, mut dhidden) = (values(ROWS * HIDDEN), values(ROWS * RANK), values(ROWS * RANK));
    let (mut da, mut db, mut dx) = (values(RANK * HIDDEN), values(HIDDEN * RANK), values(ROWS * HIDDEN));
    criterion.bench_function("low rank, forward", |bencher| {
        bencher.iter(|| {
            let y = MatrixMut::new(black_box(&mut y), HIDDEN);
            low_rank::forward(&threads, &mut hidden, y, Matrix::new(&x, HIDDEN), &factors);
        });
    });
    criterion.bench_function("low rank, backward", |bencher| {
        bencher.iter(|| {
            let gradients = low_rank::Gradients {
                a: Some(black_box(&mut da)),
                b: Some(&mut db),
                x: Some(MatrixMut::new(&mut dx, HIDDEN)),
            };
            let (dy, x) = (Matrix::new(&dy, HIDDEN), Matrix::new(&x, HIDDEN));
            low_rank::backward(&threads, gradients, &mut dhidden, dy, &hidden, x, &factors);
        });
    });
}

fn attention(criterion: &mut Criterion) {
    let threads = threads();
    let (starts, places): (Vec<u32>, Vec<u32>) = (starts(), (0..SEQUENCES as u32).collect());
    let head_dim = HIDDEN / HEADS;
    for (name, probability) in [("attention", 0.0), ("attention with dropout", 0.1)] {
        let key = DropoutKey { seed: 1, step: 1, site: 1 };
        let dropout = RowDropout::new(key, probability, &starts, &places);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let settings = Attention { starts: &starts, heads: HEADS, head_dim, scale, dropout };
        let (qkv, dout) = (values(ROWS * 3 * HIDDEN), values(ROWS * HIDDEN));
        let (mut out, mut log_sums) = (values(ROWS * HIDDEN), values(HEADS * ROWS));
        let mut kept = values(HEADS * kept_places(&starts).last().copied().unwrap_or(0));
        let mut dqkv = values(ROWS * 3 * HIDDEN);
        criterion.bench_function(&format!("{name}, forward"), |bencher| {
            bencher.iter(|| {
                let results = Results { ctx: black_box(&mut out), lse: &mut log_sums, kept: Some(&mut kept) };
                attention::forward(&threads, results, &qkv, &settings);
            });
        });
        criterion.bench_function(&format!("{name}, backward"), |bencher| {
            bencher.iter(|| {
                let known = Known { qkv: &qkv, lse: &log_sums, kept: Some(&kept) };
                let wanted = Wanted { dqkv: black_box(&mut dqkv), first_rows: None };
                attention::backward(&threads, wanted, &dout, known, &settings);
            });
        });
    }
}

fn by_row(criterion: &mut Criterion) {
    let threads = threads();
    let (starts, places): (Vec<u32>, Vec<u32>) = (starts(), (0..SEQUENCES as u32).collect());
    let [bias, gain, shift] = [values(HIDDEN), values(HIDDEN), values(HIDDEN)];
    let residual = values(ROWS * HIDDEN);
    let (mut normalized, mut out, mut rstd) = (values(ROWS * HIDDEN), values(ROWS * HIDDEN), values(ROWS));
    let key = DropoutKey { seed: 1, step: 1, site: 1 };
    criterion.bench_function("bias, dropout, residual and norm", |bencher| {
        bencher.iter(|| {
            let terms = layer_norm::Forward {
                bias: Some(&bias),
                dropout: RowDropout::new(key, 0.1, &starts, &places),
                residual: Some(&residual),
                affine: Affine { gain: &gain, shift: &shift },
                epsilon: 1e-12,
                dropout_after: None,
            };
            layer_norm::forward(&threads, black_box(&mut out), &mut normalized, &mut rstd, terms);
        });
    });
    let (x, bias) = (values(ROWS * INTERMEDIATE), values(INTERMEDIATE));
    let (mut out, mut d) = (values(x.len()), values(x.len()));
    criterion.bench_function("bias and GELU, forward", |bencher| {
        let gelu = Activation::Gelu;
        bencher.iter(|| {
            activation::activate(&threads, gelu, black_box(&mut out), &x, Some(&bias), INTERMEDIATE);
        });
    });
    criterion.bench_function("bias and GELU, backward", |bencher| {
        let gelu = Activation::Gelu;
        bencher.iter(|| {
            activation::backward(&threads, gelu, black_box(&mut d), &x, Some(&bias), INTERMEDIATE);
        });
    });
    let classes = 30522;
    let (logits, labels) = (values(64 * classes), vec![7; 64]);
    let (mut losses, mut log_sums) = (values(64), values(64));
    criterion.bench_function("cross-entropy of 64 tokens", |bencher| {
        bencher.iter(|| {
            cross_entropy::forward(&threads, black_box(&mut losses), &mut log_sums, &logits, &labels);
        });
    });
}

fn optimizer(criterion: &mut Criterion) {
    let threads = threads();
    let count = 1 << 22;
    let (mut parameter, gradient) = (values(count), values(count));
    let (mut first, mut second) = (values(count), vec![1.0; count]);
    let settings = adamw::AdamW {
        learning_rate: 1e-5,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        step: 10,
        gradient_scale: 1.0,
    };
    let mut group = criterion.benchmark_group("AdamW");
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("four million parameters", |bencher| {
        bencher.iter(|| {
            let parameter = black_box(&mut parameter);
            adamw::step(&threads, &settings, parameter, &gradient, &mut first, &mut second);
        });
    });
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20);
    targets = products, low_rank, attention, by_row, optimizer
}
criterion_main!(kernels);
