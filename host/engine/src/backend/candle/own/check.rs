//! The kernels on a GPU against the same text on the processor, at shapes that fill
//! no warp and no block, before a training relies on them.

use candle_core::{DType, Device, Tensor};

use super::arrays::Made;
use super::check_attention::attention;
use super::check_linear::linear;
use super::kernels::{self, Kernel};
use super::launch::Own;
use super::numbers::{Activate, AttentionFactors, CrossEntropy, Mask, Norm, Numbers, Packing, RowDropout};
use super::optimizer::Trained;
use crate::backend::candle::masks::Rows;
use crate::backend::{AdamW, BackendError};
use crate::kernels::dropout::{self, DropoutKey};

type Result<T> = std::result::Result<T, BackendError>;

pub(super) const ROWS: usize = 43;
pub(super) const COLUMNS: usize = 70;
/// Columns of rows that are longer than what a lane keeps of them.
const LONG: usize = 1064;
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
    if expected.elem_count() == 0 && found.elem_count() == 0 {
        // An output that is not wanted: CUDA converts no arrays without elements.
        return Ok(());
    }
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
    // Rows that are read one by one, by four and by eight, longer than a lane keeps, of each type.
    for (dtype, columns) in [DType::F32, DType::BF16]
        .into_iter()
        .flat_map(|dtype| [COLUMNS, 2 * COLUMNS, LONG].map(|columns| (dtype, columns)))
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
            let rest = [None, Some(&starts), Some(&places)];
            let inputs = [&[Some(&x), None, None, Some(&gain)][..], &rest].concat();
            pair.agree(&kernels::RMS_NORM, numbers, &inputs, [made, ROWS.into()])?;
            let inputs = [&[&x, &z, &scale, &gain].map(Some)[..], &rest].concat();
            pair.agree(&kernels::RMS_NORM_BACKWARD, numbers, &inputs, [made, more])?;
        }
        for activation in 0..5 {
            let numbers = Activate { rows, columns: columns as i64, activation };
            pair.agree(&kernels::ACTIVATE, numbers, &[Some(&x), Some(&bias)], [made])?;
            pair.agree(&kernels::ACTIVATE_BACKWARD, numbers, &[Some(&x), None, Some(&y)], [made])?;
            let (gated, count) = (Tensor::cat(&[&x, &y], 0)?, 2 * elements);
            pair.agree(&kernels::GATE, numbers, &[Some(&gated)], [made])?;
            let inputs = [Some(&gated), Some(&z)];
            pair.agree(&kernels::GATE_BACKWARD, numbers, &inputs, [Made { count, ..made }])?;
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
    attention(pair, mask)?;
    linear(pair, mask)?;
    updates(pair)
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
    use half::bf16;

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

    /// GELU and its slope of numbers of bf16, in double precision and rounded to bf16: the same
    /// number but where the exact one lies at the border of two, and in the tail a neighbour.
    #[test]
    fn gelu_of_bf16_is_its_definition_rounded() {
        let count = 8 * 1024;
        let values = (0..count).map(|index| (index as f32 - count as f32 / 2.0) / 512.0);
        let x = Tensor::from_vec(values.collect::<Vec<f32>>(), count, &Device::Cpu).unwrap();
        let x = x.to_dtype(DType::BF16).unwrap();
        let ones = x.ones_like().unwrap();
        let numbers = Activate { rows: 8, columns: 1024, activation: 0 };
        let made = Made { count, dtype: DType::BF16 };
        let cumulative = |x: f64| 0.5 * candle_core::cpu::erf::erfc_f64(-x * std::f64::consts::FRAC_1_SQRT_2);
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let exact: [&dyn Fn(f64) -> f64; 2] = [&|x| x * cumulative(x), &|x| cumulative(x) + x * density(x)];
        for own in [Own::new(&Device::Cpu).unwrap(), Own::simulated(Simulated { order: 7, blocks: 2 })] {
            let [out] = own.run(&kernels::ACTIVATE, numbers, &[Some(&x), None], [made]).unwrap();
            let inputs = [Some(&x), None, Some(&ones)];
            let [slopes] = own.run(&kernels::ACTIVATE_BACKWARD, numbers, &inputs, [made]).unwrap();
            for (found, exact) in [out, slopes].iter().zip(exact) {
                let (x, found) = (x.to_vec1::<bf16>().unwrap(), found.to_vec1::<bf16>().unwrap());
                let mut others = 0;
                for (x, found) in x.iter().map(|x| x.to_f64()).zip(found) {
                    let (exact, found) = (exact(x), found.to_f64());
                    others += usize::from(bf16::from_f64(exact).to_f64() != found && x.abs() < 3.0);
                    assert!((found - exact).abs() <= exact.abs() / 256.0 + 1e-6, "{x}: {found} {exact}");
                }
                assert!(others < count / 1000, "{others} of {count} are other numbers");
            }
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
