//! Kernels of attention on a GPU against the same text on the processor.

use candle_core::{DType, Device, Tensor};

use super::arrays::Made;
use super::attention::{Biases, Operands, Packed, Sequences, Shape};
use super::check::{BOUND, HALVES_BOUND, PLACES, Pair, ROUNDED_BOUND, integers, values, within};
use super::kernels;
use super::launch::Own;
use super::numbers::{Mask, OneQuery, Recall};
use crate::backend::BackendError;
use crate::device::Precision;

type Result<T> = std::result::Result<T, BackendError>;

/// Holds every kernel of attention on one device against the same on the other.
pub(super) fn attention(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    attends(pair, mask)?;
    attends_from_one_query(pair, mask)?;
    recalls(pair)
}

/// Attention forward and backward, over sequences of one row, of less than a tile and of
/// more, with heads of a size that fills no tile either: within them, and from each to
/// another one, with scores by places and without; and over shorter ones, which blocks take whole.
fn attends(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    const QUERIES: [u32; 4] = [0, 1, 40, 171];
    const WHOLE: [u32; 4] = [0, 1, 40, 140];
    const SHORT: [u32; 4] = [0, 1, 40, 97];
    const KEYS: [u32; 4] = [0, 70, 75, 110];
    const COUNT: usize = 6;
    for (starts, heads, size, within_them, by_place) in [
        (&QUERIES, 2, 20, true, false),
        (&QUERIES, 1, 64, true, false),
        (&WHOLE, 2, 20, true, false),
        (&WHOLE, 1, 64, true, false),
        (&WHOLE, 2, 64, false, false),
        (&SHORT, 2, 20, true, false),
        (&SHORT, 1, 64, true, false),
        (&QUERIES, 2, 64, true, true),
        (&QUERIES, 2, 33, false, true),
    ] {
        let columns = heads * size;
        let keys = if within_them { starts } else { &KEYS };
        let (rows, memory_rows) = (starts[3] as usize, keys[3] as usize);
        // Of a size at which the scores' rounding is not magnified by much.
        let queries = (values(rows * columns * if within_them { 3 } else { 1 }, 30)? * 0.25)?;
        let memory = (values(memory_rows * 2 * columns, 32)? * 0.25)?;
        let dout = values(rows * columns, 31)?;
        // No sequence is longer than all of them together.
        let distances = rows + memory_rows - 1;
        let buckets: Vec<u32> = (0..distances as u32).map(|distance| distance * 7 % COUNT as u32).collect();
        let table = values(distances * heads, 33)?.reshape((distances, heads))?;
        for mask in [None, Some(mask)] {
            let results = |own: &Own, device: &Device, dtype: DType| -> Result<Vec<(&'static str, Tensor)>> {
                let list = |numbers: Vec<u32>| Ok(integers(&numbers)?.to_device(device)?);
                let (causal, side_by_side) = (within_them && by_place, within_them);
                let shape = Shape { heads, size, scale: 0.2, causal, side_by_side, mask };
                let biases = Biases {
                    by_distance: table.to_device(device)?,
                    buckets: integers(&buckets)?.to_device(device)?,
                    count: COUNT,
                    before: rows - 1,
                };
                let sequences = Sequences { queries: starts, keys, places: &PLACES[..3] };
                let packed = Packed::new(sequences, shape, by_place.then_some(biases), list)?;
                let [queries, memory, dout] =
                    [&queries, &memory, &dout].map(|x| x.to_dtype(dtype)?.to_device(device));
                let (queries, memory, dout) = (queries?, memory?, dout?);
                let memory = if within_them { &queries } else { &memory };
                let [context, log_sums] = own.attention(&packed, [&queries, memory], dtype)?;
                let operands = Operands { queries: &queries, memory, dout: &dout, log_sums: &log_sums };
                let found = own.attention_backward(&packed, &operands, true)?;
                let of_biases = own.bias_gradient(&packed, &operands, &found)?;
                let of_biases = of_biases.map(|table| table.flatten_all()).transpose()?;
                let (of_queries, of_keys) = match found.memory {
                    Some(memory) => (found.queries, memory),
                    None => {
                        let all = found.queries.reshape((rows, 3 * columns))?;
                        let part = |first: usize, parts: usize| {
                            all.narrow(1, first * columns, parts * columns)?.flatten_all()
                        };
                        (part(0, 1)?, part(1, 2)?)
                    }
                };
                let [forward, of_query, of_key, of_bias] = own.attention_names(&packed)?;
                let names = [forward, forward, of_query, of_key, of_bias];
                let tensors = [context, log_sums, of_queries, of_keys].into_iter().chain(of_biases);
                Ok(names.into_iter().zip(tensors).collect())
            };
            let expected = results(&pair.reference, &Device::Cpu, DType::F32)?;
            for (precision, dtype, bound) in [
                (Precision::Fp32, DType::F32, BOUND),
                (Precision::Tf32, DType::F32, ROUNDED_BOUND),
                (Precision::Bf16, DType::F32, HALVES_BOUND),
                (Precision::Bf16, DType::BF16, HALVES_BOUND),
            ] {
                let own = pair.here.clone().in_precision(precision);
                // A card with little shared memory takes some of them alone.
                if !own.attends(size, by_place)? || (by_place && !own.gives_bias_gradients()?) {
                    continue;
                }
                let found = results(&own, pair.device, dtype)?;
                for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                    within(bound, name, found, expected)?;
                }
            }
        }
    }
    Ok(())
}

/// Attention of one query a sequence, with heads whose columns are read by eight, by four and one
/// by one, over one key, over a part of those that a block reads at once, and over more than those
/// whose probabilities it keeps.
fn attends_from_one_query(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    const STARTS: [u32; 5] = [0, 7, 8, 108, 1208];
    let (starts, places) = (integers(&STARTS)?, integers(&PLACES)?);
    for (heads, size, dtype, has_mask) in [
        (3, 20, DType::F32, 0),
        (3, 20, DType::BF16, 1),
        (1, 64, DType::F32, 1),
        (1, 64, DType::BF16, 1),
        (2, 33, DType::BF16, 0),
        (2, 33, DType::F32, 1),
    ] {
        let rows = PLACES.len() * heads;
        let numbers = OneQuery {
            rows: rows as i64,
            heads: heads as i64,
            size: size as i64,
            mask,
            scale: 0.05,
            has_mask,
        };
        // Of a size at which one key does not take all: what is left of its gradient then is
        // the difference of two sums that are rounded otherwise on a GPU.
        let [queries, dout] = [(values(rows * size, 50)? * 0.25)?, values(rows * size, 51)?];
        let memory = values(STARTS[4] as usize * 2 * heads * size, 52)?.to_dtype(dtype)?;
        let inputs = [&queries, &memory, &starts, &places];
        let outputs = [Made::from(rows * size), Made::from(rows)];
        pair.agree(&kernels::ONE_QUERY, numbers, &inputs.map(Some), outputs)?;
        let [_, log_sums] = pair.reference.run(&kernels::ONE_QUERY, numbers, &inputs.map(Some), outputs)?;
        let inputs = [&inputs[..], &[&dout, &log_sums]].concat();
        let inputs: Vec<Option<&Tensor>> = inputs.into_iter().map(Some).collect();
        let of_memory = Made { count: memory.elem_count(), dtype };
        let nothing = |made: Made| Made { count: 0, ..made };
        for outputs in [
            [Made::from(rows * size), of_memory],
            [Made::from(rows * size), nothing(of_memory)],
            [nothing(Made::from(rows * size)), of_memory],
        ] {
            pair.agree(&kernels::ONE_QUERY_BACKWARD, numbers, &inputs, outputs)?;
        }
    }
    Ok(())
}

/// Attention of rows to what is remembered, with a bias and without.
fn recalls(pair: &Pair<'_>) -> Result<()> {
    // Rows of the memory that each of three rows sees, its own the last.
    let (starts, rows) = (integers(&[0, 4, 5, 12])?, integers(&[0, 1, 3, 7, 8, 0, 1, 2, 4, 5, 6, 9])?);
    let own = integers(&[7, 8, 9])?;
    for (heads, size) in [(3, 20), (1, 64)] {
        for (dtype, biased) in [(DType::F32, false), (DType::F32, true), (DType::BF16, true)] {
            let columns = heads * size;
            let qkv = (values(3 * 3 * columns, 60)? * 0.25)?.to_dtype(dtype)?;
            let memory = values(10 * 2 * columns, 61)?;
            let biases = values(7 * heads, 62)?;
            let numbers = Recall { rows: 3, heads: heads as i64, size: size as i64, scale: 0.2, unused: 0 };
            let remembered = |kernels: &Own, device: &Device| -> Result<Tensor> {
                let (qkv, own) = (qkv.to_device(device)?, own.to_device(device)?);
                let memory = memory.to_device(device)?.copy()?;
                let inputs = [&qkv, &own].map(Some);
                kernels.run_into(&kernels::REMEMBER, numbers, &inputs, &memory)?;
                Ok(memory)
            };
            let found = remembered(&pair.here, pair.device)?.to_device(&Device::Cpu)?;
            let memory = remembered(&pair.reference, &Device::Cpu)?;
            within(BOUND, kernels::REMEMBER.name, &found, &memory)?;
            let inputs = [Some(&qkv), Some(&memory), Some(&starts), Some(&rows), biased.then_some(&biases)];
            let numbers = Recall { rows: 3 * heads as i64, ..numbers };
            pair.agree(&kernels::RECALL, numbers, &inputs, [Made { count: 3 * columns, dtype }])?;
        }
    }
    Ok(())
}
