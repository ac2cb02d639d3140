//! The time of each kernel and product of a training step on a GPU, beside a copy and beside
//! large products, at BERT-base's shape: 64 sequences of 128 tokens in bf16. `tests/gpu/run
//! cuda:0 kernels` runs it; on candle's CPU device it only shows that it can be run.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::arrays::Made;
use super::attention::{Operands, Packed, Sequences, Shape};
use super::kernels as k;
use super::launch::Own;
use super::low_rank::{Dropped, Factor, Source, Update, Wide};
use super::numbers::{Activate, AddBias, Embed, Mask, Norm, OneQuery, Packing, RowDropout};
use super::products::{Product, Side};
use super::sums::Summands;
use crate::backend::BackendError;
use crate::backend::candle::masks::Rows;
use crate::device::{Peak, Precision};
use crate::kernels::dropout::{self, DropoutKey};

type Result<T> = std::result::Result<T, BackendError>;

const COLUMNS: usize = 768;
const INNER: usize = 3072;
const HEADS: usize = 12;
const RANK: usize = 16;
/// Tokens of a step, as what times are told of.
const STEP: usize = 64 * 128;

/// Sizes: tokens that are worked on, more than a cache holds, and how often each kernel runs.
struct Bench {
    device: Device,
    tokens: usize,
    repeats: usize,
    /// Bytes a second of a copy, read and written.
    copied: f64,
    /// Operations a second of large products.
    peak: f64,
}

impl Bench {
    /// Seconds of what is run, of a step's tokens.
    fn seconds(&self, run: &dyn Fn() -> Result<()>) -> Result<f64> {
        run()?;
        self.device.synchronize()?;
        let start = Instant::now();
        for _ in 0..self.repeats {
            run()?;
        }
        self.device.synchronize()?;
        let seconds = start.elapsed().as_secs_f64() / self.repeats as f64;
        Ok(seconds * STEP as f64 / self.tokens as f64)
    }

    /// Tells of a kernel that moves so many numbers of bf16 for each token.
    fn moves(&self, name: &str, numbers: usize, run: &dyn Fn() -> Result<()>) -> Result<()> {
        let seconds = self.seconds(run)?;
        let share = (2 * numbers * STEP) as f64 / seconds / self.copied;
        println!("{name:<44} {:8.1} us  {:4.0}% of a copy's speed", seconds * 1e6, share * 100.0);
        Ok(())
    }

    /// Tells of a launch of few rows, which are as many however many tokens there are.
    fn launches(&self, name: &str, run: &dyn Fn() -> Result<()>) -> Result<()> {
        let seconds = self.seconds(run)? * self.tokens as f64 / STEP as f64;
        println!("{name:<44} {:8.1} us", seconds * 1e6);
        Ok(())
    }

    /// Tells of what makes so many products and sums for each token.
    fn multiplies(&self, name: &str, operations: usize, run: &dyn Fn() -> Result<()>) -> Result<()> {
        let seconds = self.seconds(run)?;
        let share = (2 * operations * STEP) as f64 / seconds / self.peak;
        println!("{name:<44} {:8.1} us  {:4.0}% of large products", seconds * 1e6, share * 100.0);
        Ok(())
    }

    fn halves(&self, count: usize) -> Result<Tensor> {
        Ok(Tensor::randn(0.0f32, 1.0, count, &self.device)?.to_dtype(DType::BF16)?)
    }

    fn floats(&self, count: usize) -> Result<Tensor> {
        Ok(Tensor::randn(0.0f32, 1.0, count, &self.device)?)
    }

    fn list(&self, numbers: Vec<u32>) -> Result<Tensor> {
        let count = numbers.len();
        Ok(Tensor::from_vec(numbers, count, &self.device)?)
    }

    /// First rows of sequences of a length, and places.
    fn sequences(&self, length: usize) -> [Vec<u32>; 2] {
        let count = self.tokens / length;
        [(0..=count).map(|sequence| (sequence * length) as u32).collect(), (0..count as u32).collect()]
    }
}

fn mask() -> Mask {
    let key = DropoutKey { seed: 5, step: 3, site: 2 };
    dropout::Mask::new(key, 0.1).map(Mask::from).unwrap_or_default()
}

/// A product without its result.
fn product<'a>([rows, columns, inner]: [usize; 3], left: Side<'a>, right: Side<'a>) -> Product<'a> {
    Product { rows, columns, inner, left, right, factor: 1.0, pitch: columns, first: 0, accumulate: false }
}

/// Kernels of rows.
fn rows(bench: &Bench, own: &Own) -> Result<()> {
    let tokens = bench.tokens;
    let [starts, places] = bench.sequences(128);
    let packing = Packing::from(&Rows::Packed(starts.clone()));
    let (starts, places) = (bench.list(starts)?, bench.list(places)?);
    let (x, y) = (bench.halves(tokens * COLUMNS)?, bench.halves(tokens * COLUMNS)?);
    let (bias, gain) = (bench.floats(COLUMNS)?, bench.floats(COLUMNS)?);
    let scale = bench.floats(tokens)?.abs()?;
    let made = |columns: usize| Made { count: tokens * columns, dtype: DType::BF16 };
    let nothing = Made { count: 0, dtype: DType::BF16 };

    let plain = RowDropout::without(tokens, COLUMNS);
    bench.moves("rows as they are", 2 * COLUMNS, &|| {
        own.run(&k::ROW_DROPOUT, plain, &[Some(&x)], [made(COLUMNS)]).map(|_| ())
    })?;
    let dropping = RowDropout { mask: mask(), packing, has_mask: 1, ..plain };
    bench.moves("rows, dropped", 2 * COLUMNS, &|| {
        own.run(&k::ROW_DROPOUT, dropping, &[&x, &starts, &places].map(Some), [made(COLUMNS)]).map(|_| ())
    })?;
    let norm = Norm {
        rows: tokens as i64,
        columns: COLUMNS as i64,
        packing,
        before: mask(),
        after: Mask::default(),
        has_before: 1,
        has_after: 0,
        epsilon: 1e-12,
        unused: 0,
    };
    let inputs = [&x, &bias, &y, &gain, &bias, &starts, &places].map(Some);
    bench.moves("layer norm", 4 * COLUMNS, &|| {
        own.run(&k::LAYER_NORM, norm, &inputs, [made(COLUMNS), made(COLUMNS), tokens.into()]).map(|_| ())
    })?;
    let inputs = [Some(&x), Some(&y), Some(&scale), Some(&gain), None, Some(&starts), Some(&places)];
    bench.moves("layer norm, backward", 4 * COLUMNS, &|| {
        let outputs = [made(COLUMNS), made(COLUMNS), nothing];
        own.run(&k::LAYER_NORM_BACKWARD, norm, &inputs, outputs).map(|_| ())
    })?;
    let inputs = [Some(&x), None, None, Some(&gain), Some(&bias), Some(&starts), Some(&places)];
    bench.moves("recovered from what is normalized", 2 * COLUMNS, &|| {
        own.run(&k::RECOVER, Norm { has_before: 0, ..norm }, &inputs, [made(COLUMNS)]).map(|_| ())
    })?;
    let (wide, gradient) = (bench.halves(tokens * INNER)?, bench.halves(tokens * INNER)?);
    let wide_bias = bench.floats(INNER)?;
    let gelu = Activate { rows: tokens as i64, columns: INNER as i64, activation: 0 };
    bench.moves("GELU", 2 * INNER, &|| {
        own.run(&k::ACTIVATE, gelu, &[Some(&wide), Some(&wide_bias)], [made(INNER)]).map(|_| ())
    })?;
    bench.moves("GELU, backward in place", 3 * INNER, &|| {
        own.run_into(&k::ACTIVATE_BACKWARD, gelu, &[Some(&wide), Some(&wide_bias)], &gradient)
    })?;
    let put = AddBias { rows: tokens as i64, columns: INNER as i64, first: 0, pitch: INNER as i64, adds: 0 };
    bench.moves("bias, put", INNER, &|| own.run_into(&k::ADD_BIAS, put, &[Some(&wide_bias)], &gradient))?;
    bench.moves("bias, added", 2 * INNER, &|| {
        own.run_into(&k::ADD_BIAS, AddBias { adds: 1, ..put }, &[Some(&wide_bias)], &gradient)
    })?;
    let summands =
        Summands { array: &x, factors: None, rows: tokens, pitch: COLUMNS, first: 0, columns: COLUMNS };
    bench.moves("sums of columns", COLUMNS, &|| own.column_sums(summands).map(|_| ()))?;
    let tables = [bench.halves(30_522 * COLUMNS)?, bench.halves(512 * COLUMNS)?, bench.halves(2 * COLUMNS)?];
    let numbers = |of: usize| bench.list((0..tokens).map(|row| (row * 7919 % of) as u32).collect());
    let lists = [numbers(30_522)?, numbers(512)?, numbers(2)?];
    let inputs = [&tables[0], &tables[1], &tables[2]].map(Some);
    let inputs = [&inputs[..], &[None], &lists.each_ref().map(Some)[..]].concat();
    let embed = Embed { rows: tokens as i64, columns: COLUMNS as i64, factor: 1.0, unused: 0 };
    bench
        .moves("embeddings", 2 * COLUMNS, &|| own.run(&k::EMBED, embed, &inputs, [made(COLUMNS)]).map(|_| ()))
}

/// Low-rank updates of queries and of values among queries, keys and values, and their
/// gradients, two at a time.
fn low_ranks(bench: &Bench, own: &Own) -> Result<()> {
    let tokens = bench.tokens;
    let [starts, places] = bench.sequences(128);
    let packing = Packing::from(&Rows::Packed(starts.clone()));
    let dropped = |updates: usize| -> Result<Dropped> {
        let lists = [bench.list(starts.clone())?, bench.list(places.clone())?];
        Ok(Dropped { masks: vec![mask(); updates], packing, lists })
    };
    let both = dropped(2)?;
    let x = bench.halves(tokens * COLUMNS)?;
    let qkv = bench.halves(tokens * 3 * COLUMNS)?;
    let low = bench.halves(2 * tokens * RANK)?;
    let (first, second) = (low.narrow(0, 0, tokens * RANK)?, low.narrow(0, tokens * RANK, tokens * RANK)?);
    let (array, bias) = (bench.floats(RANK * COLUMNS)?, bench.floats(COLUMNS)?);
    let wide = Wide { rows: tokens, columns: COLUMNS, first: 0, step: 0, pitch: COLUMNS, rank: RANK };
    let of_qkv = Wide { step: 2 * COLUMNS, pitch: 3 * COLUMNS, ..wide };
    let (lows, arrays) = ([&first, &second], [&array, &array]);
    let factors = |across: bool| Factor { array: &arrays[..], across, scale: 2.0 };
    bench.moves("low rank, rows by A", 2 * COLUMNS, &|| {
        own.low_rank_down(wide, &x, Some(&both), factors(false), &low)
    })?;
    let update = Update { out: &qkv, adds: false, biases: &[&bias, &bias] };
    bench.moves("low rank, biases and rows by B, put", 2 * COLUMNS, &|| {
        own.low_rank_up(of_qkv, &lows, None, factors(true), update)
    })?;
    bench.moves("low rank, gradients by B", 2 * COLUMNS, &|| {
        own.low_rank_down(of_qkv, &qkv, None, factors(true), &low)
    })?;
    let update = Update { out: &x, adds: true, biases: &[] };
    bench.moves("low rank, gradients by A, added", 2 * COLUMNS, &|| {
        own.low_rank_up(wide, &lows, Some(&both), factors(false), update)
    })?;
    let of = |across: bool| Factor { array: (), across, scale: 1.0 };
    let source = Source { array: &x, recovered: Some([&bias, &bias]), dropped: Some(&both) };
    bench.moves("low rank, gradients of A", 2 * COLUMNS, &|| {
        own.low_rank_gradient(wide, source, &lows, of(false)).map(|_| ())
    })?;
    bench.moves("low rank, gradients of B", 2 * COLUMNS, &|| {
        own.low_rank_gradient(of_qkv, Source::new(&qkv, None), &lows, of(true)).map(|_| ())
    })
}

/// Attention within sequences of two lengths, with dropout.
fn attention(bench: &Bench, own: &Own) -> Result<()> {
    let (qkv, dout) = (bench.halves(bench.tokens * 3 * COLUMNS)?, bench.halves(bench.tokens * COLUMNS)?);
    for length in [128, 384] {
        let [starts, places] = bench.sequences(length);
        let of = Sequences { queries: &starts, keys: &starts, places: &places };
        let size = COLUMNS / HEADS;
        let shape =
            Shape { heads: HEADS, size, scale: 0.125, causal: false, side_by_side: true, mask: Some(mask()) };
        let packed = Packed::new(of, shape, None, |list| bench.list(list))?;
        let [_, log_sums] = own.attention(&packed, [&qkv, &qkv], DType::BF16)?;
        let operands = Operands { queries: &qkv, memory: &qkv, dout: &dout, log_sums: &log_sums };
        let product = COLUMNS * length;
        bench.multiplies(&format!("attention, {length} tokens"), 2 * product, &|| {
            own.attention(&packed, [&qkv, &qkv], DType::BF16).map(|_| ())
        })?;
        bench.multiplies(&format!("attention, {length} tokens, backward"), 5 * product, &|| {
            own.attention_backward(&packed, &operands, true).map(|_| ())
        })?;
    }
    Ok(())
}

/// Attention of one query a sequence, with dropout, and what stands behind it: rows of fp32, one a
/// sequence.
fn one_query(bench: &Bench, own: &Own) -> Result<()> {
    let memory = bench.halves(bench.tokens * 2 * COLUMNS)?;
    for length in [128, 384] {
        let [starts, places] = bench.sequences(length);
        let sequences = places.len();
        let (starts, places) = (bench.list(starts)?, bench.list(places)?);
        let (queries, dout) = (bench.floats(sequences * COLUMNS)?, bench.floats(sequences * COLUMNS)?);
        let rows = sequences * HEADS;
        let numbers = OneQuery {
            rows: rows as i64,
            heads: HEADS as i64,
            size: (COLUMNS / HEADS) as i64,
            mask: mask(),
            scale: 0.125,
            has_mask: 1,
        };
        let inputs = [&queries, &memory, &starts, &places].map(Some);
        let outputs = [sequences * COLUMNS, rows];
        let [_, log_sums] = own.run(&k::ONE_QUERY, numbers, &inputs, outputs)?;
        bench.moves(&format!("attention of one query, {length} tokens"), 2 * COLUMNS, &|| {
            own.run(&k::ONE_QUERY, numbers, &inputs, outputs).map(|_| ())
        })?;
        let inputs = [&inputs[..], &[Some(&dout), Some(&log_sums)]].concat();
        let of_memory = Made { count: memory.elem_count(), dtype: DType::BF16 };
        let outputs = [Made::from(sequences * COLUMNS), of_memory];
        bench.moves(&format!("attention of one query, {length} tokens, backward"), 4 * COLUMNS, &|| {
            own.run(&k::ONE_QUERY_BACKWARD, numbers, &inputs, outputs).map(|_| ())
        })?;
    }
    let (x, gradient) = (bench.floats(64 * INNER)?, bench.floats(64 * INNER)?);
    let bias = bench.floats(INNER)?;
    let gelu = Activate { rows: 64, columns: INNER as i64, activation: 0 };
    bench.launches("GELU of 64 rows", &|| {
        own.run(&k::ACTIVATE, gelu, &[Some(&x), Some(&bias)], [64 * INNER]).map(|_| ())
    })?;
    bench.launches("GELU of 64 rows, backward in place", &|| {
        own.run_into(&k::ACTIVATE_BACKWARD, gelu, &[Some(&x), Some(&bias)], &gradient)
    })
}

/// The products of a block, forward and for the gradients of inputs.
fn products(bench: &Bench) -> Result<()> {
    for (name, outputs, inputs) in [
        ("queries, keys and values", 3 * COLUMNS, COLUMNS),
        ("attention's output", COLUMNS, COLUMNS),
        ("up", INNER, COLUMNS),
        ("down", COLUMNS, INNER),
    ] {
        let (x, dy) = (bench.halves(bench.tokens * inputs)?, bench.halves(bench.tokens * outputs)?);
        let weight = bench.halves(outputs * inputs)?;
        bench.multiplies(&format!("product, {name}"), outputs * inputs, &|| {
            let (left, right) = (Side::new(&x, inputs), Side::new(&weight, inputs).across());
            product([bench.tokens, outputs, inputs], left, right).made_of(DType::BF16).map(|_| ())
        })?;
        bench.multiplies(&format!("product, {name}, added"), outputs * inputs, &|| {
            let (left, right) = (Side::new(&x, inputs), Side::new(&weight, inputs).across());
            let alone = product([bench.tokens, outputs, inputs], left, right);
            Product { accumulate: true, ..alone }.write_to(&dy)
        })?;
        bench.multiplies(&format!("product, {name}, backward"), outputs * inputs, &|| {
            let (left, right) = (Side::new(&dy, outputs), Side::new(&weight, inputs));
            product([bench.tokens, inputs, outputs], left, right).made_of(DType::BF16).map(|_| ())
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "measures: tests/gpu/run runs it"]
fn kernels_beside_a_copy() {
    let name = std::env::var("HOST_TEST_DEVICE").unwrap_or("candle-cpu".into());
    let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    let device = number.map_or(Device::Cpu, |number| Device::new_cuda(number).unwrap());
    let _kept = number.map(|number| crate::device::KeptMemory::of(number).unwrap());
    let (tokens, repeats) = if number.is_some() { (4 * STEP, 20) } else { (384, 1) };
    let mut peak = Peak::on_candle(device.clone(), Precision::Bf16.into()).unwrap();
    let peak = peak.operations_per_second().unwrap();
    let own = Own::new(&device).unwrap().in_precision(Precision::Bf16);
    let mut bench = Bench { device, tokens, repeats, copied: 1.0, peak };
    let x = bench.halves(tokens * INNER).unwrap();
    let copy = bench.seconds(&|| x.copy().map(|_| ()).map_err(BackendError::from)).unwrap();
    bench.copied = (2 * 2 * INNER * STEP) as f64 / copy;
    println!("a copy: {:.2} TB/s; large products: {:.0} TFLOP/s", bench.copied / 1e12, peak / 1e12);
    println!("microseconds of {STEP} tokens, of {tokens} at a time:");
    for part in [rows, low_ranks, attention, one_query] {
        part(&bench, &own).unwrap();
    }
    products(&bench).unwrap();
}
