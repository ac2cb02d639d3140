//! The kernels on a GPU against the same text on the processor, at shapes that fill
//! no warp and no block, before a training relies on them.

use candle_core::{DType, Device, Tensor};

use super::arrays::Made;
use super::attention::{Biases, Operands, Packed, Sequences, Shape};
use super::check_linear::linear;
use super::kernels::{self, Kernel};
use super::launch::Own;
use super::numbers::{
    Activate, AttentionFactors, CrossEntropy, Mask, Norm, Numbers, OneQuery, Packing, RowDropout,
};
use super::optimizer::Trained;
use crate::backend::candle::masks::Rows;
use crate::backend::{AdamW, BackendError};
use crate::device::Precision;
use crate::kernels::dropout::{self, DropoutKey};

type Result<T> = std::result::Result<T, BackendError>;

pub(super) const ROWS: usize = 43;
pub(super) const COLUMNS: usize = 70;
/// First rows of sequences, one of them of a single row.
pub(super) const STARTS: [u32; 5] = [0, 7, 8, 30, ROWS as u32];
pub(super) const PLACES: [u32; 4] = [3, 0, 9, 1];
/// Differences in what the two sides round, as shares of an array's largest element; masks
/// and indices differ by far more.
pub(super) const BOUND: f32 = 1e-5;
/// The same for products of numbers that are rounded to TF32, against products in fp32.
pub(super) const ROUNDED_BOUND: f32 = 5e-3;
/// And for what is rounded to bf16, where the next number is up to 2^-7 of it away, and
/// products of such numbers.
pub(super) const HALVES_BOUND: f32 = 2e-2;

/// Numbers of both signs, some of them large, another lot for each `salt`.
pub(super) fn values(count: usize, salt: usize) -> candle_core::Result<Tensor> {
    let value = |index: usize| ((index * 37 + salt * 101) as f32).sin() * (1.0 + (index % 5) as f32);
    Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), count, &Device::Cpu)
}

pub(super) fn integers(list: &[u32]) -> candle_core::Result<Tensor> {
    Tensor::from_slice(list, list.len(), &Device::Cpu)
}

/// The kernels on two devices.
pub(super) struct Pair<'a> {
    pub device: &'a Device,
    pub here: Own,
    pub reference: Own,
}

impl Pair<'_> {
    pub fn agree<N: Numbers + candle_core::cuda::cudarc::driver::DeviceRepr, const OUTPUTS: usize>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        outputs: [impl Into<Made>; OUTPUTS],
    ) -> Result<()> {
        let outputs = outputs.map(Into::into);
        let moved = inputs.iter().map(|input| input.map(|input| input.to_device(self.device)).transpose());
        let moved: Vec<Option<Tensor>> = moved.collect::<candle_core::Result<_>>()?;
        let moved: Vec<Option<&Tensor>> = moved.iter().map(Option::as_ref).collect();
        let found = self.here.run(kernel, numbers, &moved, outputs)?;
        let expected = self.reference.run(kernel, numbers, inputs, outputs)?;
        found.iter().zip(&expected).try_for_each(|(found, expected)| equal(kernel.name, found, expected))
    }
}

pub(super) fn equal(kernel: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    let bound = if expected.dtype() == DType::BF16 { HALVES_BOUND } else { BOUND };
    within(bound, kernel, found, expected)
}

pub(super) fn within(bound: f32, kernel: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    let [found, expected] = [found, expected].map(|x| x.to_dtype(DType::F32)?.to_vec1::<f32>());
    let (found, expected) = (found?, expected?);
    // Sums cancel, so that what is rounded is as large as the array and not the element.
    let most = |list: &mut dyn Iterator<Item = f32>| {
        list.fold(0.0, |most: f32, next| if next.is_nan() { f32::INFINITY } else { most.max(next.abs()) })
    };
    let largest = most(&mut expected.iter().copied()).max(f32::MIN_POSITIVE);
    let worst = most(&mut found.iter().zip(&expected).map(|(a, b)| (a - b) / largest));
    match worst <= bound {
        true => Ok(()),
        false => Err(BackendError::Wrong(format!(
            "the kernel {kernel} gives on this device what is {worst:e} of its largest number away from what it gives on \
             the processor; HOST_KERNELS=composed computes without such kernels"
        ))),
    }
}

/// The kernels on a device, after a look at each of them there.
///
/// # Errors
/// A kernel that does not run on the device, or gives something else there.
pub fn checked(device: &Device) -> Result<Own> {
    let pair = Pair { device, here: Own::new(device)?, reference: Own::new(&Device::Cpu)? };
    each_agrees(&pair)?;
    Ok(pair.here)
}

/// Holds every kernel on one device against the same on the other.
fn each_agrees(pair: &Pair<'_>) -> Result<()> {
    let key = DropoutKey { seed: 5, step: 3, site: 2 };
    let mask: Mask = dropout::Mask::new(key, 0.3).map(Mask::from).unwrap_or_default();
    let (rows, columns, elements) = (ROWS as i64, COLUMNS as i64, ROWS * COLUMNS);
    let (starts, places) = (integers(&STARTS)?, integers(&PLACES)?);
    let packings = [
        Packing::from(&Rows::Packed(STARTS.to_vec())),
        Packing::from(&Rows::Table { count: ROWS, first: 6 }),
    ];
    let (heads, longest) = (3, 22);
    let numbers =
        AttentionFactors { rows: 4 * heads * longest, heads, queries: longest, keys: longest, mask };
    let inputs = [&starts, &starts, &places].map(Some);
    pair.agree(&kernels::ATTENTION_FACTORS, numbers, &inputs, [(4 * heads * longest * longest) as usize])?;

    let scale = values(ROWS, 7)?.abs()?;
    // Rows that are read four at once, and rows that are not, of each type.
    for (dtype, columns) in [DType::F32, DType::BF16]
        .into_iter()
        .flat_map(|dtype| [COLUMNS, 2 * COLUMNS].map(|columns| (dtype, columns)))
    {
        let elements = ROWS * columns;
        let made = Made { count: elements, dtype };
        let [x, y, z] = [1, 2, 3].map(|salt| values(elements, salt)?.to_dtype(dtype));
        let (x, y, z) = (x?, y?, z?);
        for packing in packings {
            let numbers = RowDropout { rows, columns: columns as i64, mask, packing, has_mask: 1 };
            pair.agree(&kernels::ROW_DROPOUT, numbers, &[&x, &starts, &places].map(Some), [made])?;
        }
        let [bias, gain, shift] = [values(columns, 4)?, values(columns, 5)?, values(columns, 6)?];
        for has in [0, 1] {
            let numbers = Norm {
                rows,
                columns: columns as i64,
                packing: packings[0],
                before: mask,
                after: mask,
                has_before: has,
                has_after: has,
                epsilon: 1e-12,
                unused: 0,
            };
            let wanted = has == 1;
            let inputs = [Some(&x), wanted.then_some(&bias), wanted.then_some(&y), Some(&gain), Some(&shift)];
            let inputs = [&inputs[..], &[Some(&starts), Some(&places)]].concat();
            pair.agree(&kernels::LAYER_NORM, numbers, &inputs, [made, made, ROWS.into()])?;
            pair.agree(&kernels::RECOVER, numbers, &inputs, [made])?;
            let inputs = [Some(&x), Some(&z), Some(&scale), Some(&gain), None, Some(&starts), Some(&places)];
            let more = Made { count: if wanted { elements } else { 0 }, ..made };
            pair.agree(&kernels::LAYER_NORM_BACKWARD, numbers, &inputs, [made, more, more])?;
        }
        for activation in 0..5 {
            let numbers = Activate { rows, columns: columns as i64, activation };
            pair.agree(&kernels::ACTIVATE, numbers, &[Some(&x), Some(&bias)], [made])?;
            pair.agree(&kernels::ACTIVATE_BACKWARD, numbers, &[Some(&x), None, Some(&y)], [made])?;
        }
    }
    let x = values(elements, 1)?;
    let labels: Vec<u32> = (0..ROWS as u32).map(|row| row * 17 % COLUMNS as u32).collect();
    let labels = integers(&labels)?;
    let numbers = CrossEntropy { rows, columns };
    pair.agree(&kernels::CROSS_ENTROPY, numbers, &[Some(&x), Some(&labels)], [ROWS, ROWS])?;
    let log_sums = values(ROWS, 8)?.affine(0.0, 9.0)?;
    let inputs = [&x, &labels, &log_sums, &scale].map(Some);
    pair.agree(&kernels::CROSS_ENTROPY_BACKWARD, numbers, &inputs, [elements])?;
    attends(pair, mask)?;
    attends_from_one_query(pair, mask)?;
    linear(pair, mask)?;
    updates(pair)
}

/// Attention forward and backward, over sequences of one row, of less than a tile and of
/// more, with heads of a size that fills no tile either: within them, and from each to
/// another one, with scores by places and without.
fn attends(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    const QUERIES: [u32; 4] = [0, 1, 40, 171];
    const KEYS: [u32; 4] = [0, 70, 75, 110];
    const COUNT: usize = 6;
    for (heads, size, within_them, by_place) in
        [(2, 20, true, false), (1, 64, true, false), (2, 64, true, true), (2, 33, false, true)]
    {
        if !pair.here.attends(size, by_place)? {
            continue;
        }
        let columns = heads * size;
        let keys = if within_them { &QUERIES } else { &KEYS };
        let (rows, memory_rows) = (QUERIES[3] as usize, keys[3] as usize);
        // Of a size at which the scores' rounding is not magnified by much.
        let queries = (values(rows * columns * if within_them { 3 } else { 1 }, 30)? * 0.25)?;
        let memory = (values(memory_rows * 2 * columns, 32)? * 0.25)?;
        let dout = values(rows * columns, 31)?;
        // No sequence is longer than all of them together.
        let distances = rows + memory_rows - 1;
        let buckets: Vec<u32> = (0..distances as u32).map(|distance| distance * 7 % COUNT as u32).collect();
        let table = values(distances * heads, 33)?.reshape((distances, heads))?;
        for mask in [None, Some(mask)] {
            let results = |own: &Own, device: &Device, dtype: DType| -> Result<Vec<Tensor>> {
                let list = |numbers: Vec<u32>| Ok(integers(&numbers)?.to_device(device)?);
                let (causal, side_by_side) = (within_them && by_place, within_them);
                let shape = Shape { heads, size, scale: 0.2, causal, side_by_side, mask };
                let biases = Biases {
                    by_distance: table.to_device(device)?,
                    buckets: integers(&buckets)?.to_device(device)?,
                    count: COUNT,
                    before: rows - 1,
                };
                let sequences = Sequences { queries: &QUERIES, keys, places: &PLACES[..3] };
                let packed = Packed::new(sequences, shape, by_place.then_some(biases), list)?;
                let [queries, memory, dout] =
                    [&queries, &memory, &dout].map(|x| x.to_dtype(dtype)?.to_device(device));
                let (queries, memory, dout) = (queries?, memory?, dout?);
                let memory = if within_them { &queries } else { &memory };
                let [context, log_sums] = own.attention(&packed, [&queries, memory], dtype)?;
                let operands = Operands { queries: &queries, memory, dout: &dout, log_sums: &log_sums };
                let found = own.attention_backward(&packed, &operands, true)?;
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
                let of_biases = own.bias_gradient(&packed, &operands, &found.inner)?;
                let of_biases = of_biases.map(|table| table.flatten_all()).transpose()?;
                Ok([context, log_sums, of_queries, of_keys].into_iter().chain(of_biases).collect())
            };
            let expected = results(&pair.reference, &Device::Cpu, DType::F32)?;
            for (precision, dtype, bound) in [
                (Precision::Fp32, DType::F32, BOUND),
                (Precision::Tf32, DType::F32, ROUNDED_BOUND),
                (Precision::Bf16, DType::F32, HALVES_BOUND),
                (Precision::Bf16, DType::BF16, HALVES_BOUND),
            ] {
                let own = pair.here.clone().in_precision(precision);
                let found = results(&own, pair.device, dtype)?;
                let [forward, queries, keys, biases] =
                    own.attention_names(size, by_place).unwrap_or_default();
                let names = [forward, forward, queries, keys, biases];
                for (name, (found, expected)) in names.into_iter().zip(found.iter().zip(&expected)) {
                    within(bound, name, found, expected)?;
                }
            }
        }
    }
    Ok(())
}

/// Attention of one query a sequence, with heads that fill no warp and ones that do.
fn attends_from_one_query(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    let (starts, places) = (integers(&STARTS)?, integers(&PLACES)?);
    for (heads, size) in [(3, 20), (1, 64)] {
        for (dtype, has_mask) in [(DType::F32, 0), (DType::F32, 1), (DType::BF16, 1)] {
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
            let memory = values(ROWS * 2 * heads * size, 52)?.to_dtype(dtype)?;
            let inputs = [&queries, &memory, &starts, &places];
            let outputs = [Made::from(rows * size), Made::from(rows)];
            pair.agree(&kernels::ONE_QUERY, numbers, &inputs.map(Some), outputs)?;
            let [_, log_sums] =
                pair.reference.run(&kernels::ONE_QUERY, numbers, &inputs.map(Some), outputs)?;
            let inputs = [&inputs[..], &[&dout, &log_sums]].concat();
            let inputs: Vec<Option<&Tensor>> = inputs.into_iter().map(Some).collect();
            let outputs = [Made::from(rows * size), Made { count: memory.elem_count(), dtype }];
            pair.agree(&kernels::ONE_QUERY_BACKWARD, numbers, &inputs, outputs)?;
        }
    }
    Ok(())
}

/// One update of two tensors, one of which fills no piece and one more than one.
fn updates(pair: &Pair<'_>) -> Result<()> {
    let rule =
        AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, update: 3 };
    let scale = Tensor::new(0.5f32, &Device::Cpu)?;
    let trained = |device: &Device| -> Result<Vec<Trained>> {
        let one = |(count, salt): (usize, usize)| -> Result<Trained> {
            let array = |salt: usize| values(count, salt)?.to_device(device);
            let moments = [array(salt + 2)?, array(salt + 3)?.abs()?];
            Ok(Trained { parameter: array(salt)?, gradient: array(salt + 1)?, moments, rule })
        };
        [(2100, 10), (37, 20)].into_iter().map(one).collect()
    };
    let (mut found, mut expected) = (trained(pair.device)?, trained(&Device::Cpu)?);
    pair.here.update(&mut found, &scale.to_device(pair.device)?, pair.device)?;
    pair.reference.update(&mut expected, &scale, &Device::Cpu)?;
    for (found, expected) in found.iter().zip(&expected) {
        equal("adamw", &found.parameter, &expected.parameter)?;
        for (found, expected) in found.moments.iter().zip(&expected.moments) {
            equal("adamw", found, expected)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Simulated;
    use super::*;

    /// As on a GPU's first use, on one that is simulated: with a block for each row or tile,
    /// or three that go over all, and whatever the order of threads.
    #[test]
    fn what_a_gpu_runs_agrees_with_the_text_for_the_processor() {
        for (order, blocks) in [(0, 65_536), (1, 3), (7, 65_536)] {
            let here = Own::simulated(Simulated { order, blocks });
            let pair = Pair { device: &Device::Cpu, here, reference: Own::new(&Device::Cpu).unwrap() };
            each_agrees(&pair).unwrap();
        }
    }

    #[test]
    fn what_a_kernel_gives_differently_is_said() {
        let wrong = equal("layer_norm", &values(5, 1).unwrap(), &values(5, 2).unwrap()).unwrap_err();
        assert!(
            wrong.to_string().contains("the kernel layer_norm") && wrong.to_string().contains("HOST_KERNELS")
        );
        let no_number = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        assert!(equal("adamw", &no_number, &no_number).is_err());
    }
}
