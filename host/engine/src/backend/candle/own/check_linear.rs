//! What linear layers are made of on a GPU, against the same on the processor.

use candle_core::cuda::gemm_reduced_precision_f32;
use candle_core::{DType, Device, Tensor};

use super::arrays::Made;
use super::check::{
    BOUND, COLUMNS, HALVES_BOUND, PLACES, Pair, ROUNDED_BOUND, ROWS, STARTS, equal, integers, values, within,
};
use super::kernels::{ADD_BIAS, ADD_ROWS, EMBED, Kernel, ROW_DROPOUT};
use super::launch::Own;
use super::low_rank::{Dropped, Factor, Source, Update, Wide};
use super::numbers::{AddBias, Embed, Mask, Numbers, Packing, RowDropout};
use super::products::{Product, Side};
use super::sums::{Groups, Summands};
use crate::backend::BackendError;
use crate::backend::candle::masks::Rows;

type Result<T> = std::result::Result<T, BackendError>;

impl Pair<'_> {
    /// Holds a kernel that writes to an array against the other one.
    fn agree_into<N: Numbers + candle_core::cuda::cudarc::driver::DeviceRepr>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        into: &Tensor,
    ) -> Result<()> {
        let on = |own: &Own, device: &Device| -> Result<Tensor> {
            let inputs = inputs.iter().map(|input| input.map(|input| input.to_device(device)).transpose());
            let inputs: Vec<Option<Tensor>> = inputs.collect::<candle_core::Result<_>>()?;
            let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            let into = into.copy()?.to_device(device)?;
            own.run_into(kernel, numbers, &inputs, &into)?;
            Ok(into)
        };
        equal(kernel.name, &on(&self.here, self.device)?, &on(&self.reference, &Device::Cpu)?)
    }

    /// Holds what is computed on both devices against one another.
    fn agree_on(&self, name: &str, compute: impl Fn(&Own, &Device) -> Result<Tensor>) -> Result<()> {
        let (found, expected) = (compute(&self.here, self.device)?, compute(&self.reference, &Device::Cpu)?);
        equal(name, &found, &expected)
    }
}

/// Operands, biases, sums and products.
///
/// # Errors
/// What gives something else on the device.
pub fn linear(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    let elements = ROWS * COLUMNS;
    let (starts, places) = (integers(&STARTS)?, integers(&PLACES)?);
    let packing = Packing::from(&Rows::Packed(STARTS.to_vec()));
    let [x, y] = [values(elements, 40)?, values(elements, 41)?];
    let halves = x.to_dtype(DType::BF16)?;
    // Rows that are read one by one, by four and by eight, of each type.
    for (rows, columns) in [(ROWS, COLUMNS), (ROWS / 2, 2 * COLUMNS), (37, 80)] {
        let list = integers(&(0..rows as u32).rev().collect::<Vec<_>>())?;
        for (from, into) in [(&y, &x), (&y, &halves), (&halves, &x), (&halves, &halves)] {
            for has_mask in [0, 1] {
                let numbers = RowDropout { mask, packing, has_mask, ..RowDropout::without(rows, columns) };
                let inputs = [from, &starts, &places].map(Some);
                pair.agree_into(&ROW_DROPOUT, numbers, &inputs, into)?;
                pair.agree_into(&ADD_ROWS, numbers, &inputs, into)?;
                pair.agree_into(&ADD_ROWS, numbers, &[&inputs[..], &[Some(&list)]].concat(), into)?;
            }
            let (rows, columns) = (rows as i64, columns as i64);
            for first in [7, 8] {
                for adds in [0, 1] {
                    let numbers = AddBias { rows, columns: 24, first, pitch: columns, adds };
                    pair.agree_into(&ADD_BIAS, numbers, &[Some(&values(24, 42)?)], into)?;
                }
            }
        }
    }
    sums(pair)?;
    embeds(pair)?;
    low_ranks(pair, mask)?;
    products(pair, &[x, y])
}

/// Low-rank updates, of both kernels for ranks, of columns that are read eight at once and of
/// others: one, and two of the same columns or side by side.
fn low_ranks(pair: &Pair<'_>, mask: Mask) -> Result<()> {
    let rows = Rows::Packed(STARTS.to_vec());
    let packing = Packing::from(&rows);
    for (updates, dtype, wide) in [
        (1, DType::F32, Wide { rows: ROWS, columns: 61, first: 5, step: 0, pitch: COLUMNS, rank: 7 }),
        (2, DType::F32, Wide { rows: ROWS, columns: 30, first: 5, step: 33, pitch: COLUMNS, rank: 7 }),
        (2, DType::BF16, Wide { rows: ROWS, columns: 72, first: 8, step: 0, pitch: 96, rank: 16 }),
        (2, DType::BF16, Wide { rows: ROWS, columns: 72, first: 8, step: 80, pitch: 168, rank: 16 }),
        (1, DType::BF16, Wide { rows: ROWS, columns: 1000, first: 0, step: 0, pitch: 1000, rank: 12 }),
        (2, DType::BF16, Wide { rows: ROWS, columns: 300, first: 0, step: 0, pitch: 300, rank: 40 }),
        (1, DType::BF16, Wide { rows: ROWS, columns: 304, first: 0, step: 0, pitch: 304, rank: 64 }),
        (2, DType::F32, Wide { rows: ROWS, columns: 72, first: 8, step: 0, pitch: 96, rank: 16 }),
        (1, DType::F32, Wide { rows: ROWS, columns: 304, first: 0, step: 0, pitch: 304, rank: 64 }),
        (2, DType::BF16, Wide { rows: 8 * ROWS, columns: 72, first: 8, step: 80, pitch: 168, rank: 16 }),
    ] {
        let rows = wide.rows;
        for across in [false, true] {
            let on = |own: &Own, device: &Device| -> Result<[Tensor; 3]> {
                let array = |count: usize, salt: usize, dtype: DType| {
                    values(count, salt)?.to_dtype(dtype)?.to_device(device)
                };
                let each = |count: usize, salt: usize, dtype: DType| {
                    (0..updates)
                        .map(|update| array(count, salt + update, dtype))
                        .collect::<candle_core::Result<Vec<_>>>()
                };
                let lists = [integers(&STARTS)?.to_device(device)?, integers(&PLACES)?.to_device(device)?];
                let dropped = Dropped { masks: vec![mask; updates], packing, lists };
                let (x, out) = (array(rows * wide.pitch, 60, dtype)?, array(rows * wide.pitch, 61, dtype)?);
                let matrices = each(wide.rank * wide.columns, 62, DType::F32)?;
                let lows = each(rows * wide.rank, 64, DType::BF16)?;
                let biases = each(wide.columns, 66, DType::F32)?;
                let [matrices, lows, biases] =
                    [&matrices, &lows, &biases].map(|arrays| arrays.iter().collect::<Vec<&Tensor>>());
                let factors = Factor { array: &matrices[..], across, scale: 0.5 };
                let down = array(updates * rows * wide.rank, 68, dtype)?;
                own.low_rank_down(wide, &x, Some(&dropped), factors, &down)?;
                let biases = if across { &[][..] } else { &biases[..] };
                let update = Update { out: &out, adds: across, biases };
                own.low_rank_up(wide, &lows, Some(&dropped), factors, update)?;
                let of = Factor { array: (), across, scale: 0.5 };
                let vectors = [array(wide.columns, 69, DType::F32)?, array(wide.columns, 70, DType::F32)?];
                // As the gradient of a factor that is not read across may read its matrix.
                let recovered = (!across).then_some(vectors.each_ref());
                let source = Source { array: &x, recovered, dropped: Some(&dropped) };
                Ok([down, out, own.low_rank_gradient(wide, source, &lows, of)?])
            };
            let expected = on(&pair.reference, &Device::Cpu)?;
            // Blocks of many rows each, and of few.
            for here in
                [1, 1000].map(|multiprocessors| pair.here.clone().for_multiprocessors(multiprocessors))
            {
                let found = on(&here, pair.device)?;
                let names = ["low_rank_down", "low_rank_up", "low_rank_gradient"];
                for (name, (found, expected)) in names.into_iter().zip(found.iter().zip(&expected)) {
                    equal(name, found, expected)?;
                }
            }
        }
    }
    Ok(())
}

/// Rows of tables added up, of one type and of two, some of them a prompt's.
fn embeds(pair: &Pair<'_>) -> Result<()> {
    let numbers = |modulus: u32| (0..ROWS as u32).map(|row| row * 7 % modulus).collect::<Vec<u32>>();
    let lists = [numbers(31), numbers(9), numbers(2), numbers(5), numbers(2)].map(|list| integers(&list));
    let [words, positions, types, prompts, are_virtual] = lists;
    let lists = [&words?, &positions?, &types?, &prompts?, &are_virtual?];
    for (columns, of_tables, of_prompt) in [
        (COLUMNS, DType::F32, DType::F32),
        (2 * COLUMNS, DType::F32, DType::F32),
        (72, DType::BF16, DType::BF16),
        (72, DType::BF16, DType::F32),
    ] {
        let table = |rows: usize, salt: usize, dtype: DType| values(rows * columns, salt)?.to_dtype(dtype);
        let [words, positions, types] =
            [(31, 70), (9, 71), (2, 72)].map(|(rows, salt)| table(rows, salt, of_tables));
        let tables = [&words?, &positions?, &types?, &table(5, 73, of_prompt)?];
        let numbers = Embed { rows: ROWS as i64, columns: columns as i64, factor: 1.5, unused: 0 };
        let made = Made { count: ROWS * columns, dtype: of_tables };
        let all = [&tables[..], &lists[..]].concat();
        let inputs: Vec<Option<&Tensor>> = all.iter().copied().map(Some).collect();
        pair.agree(&EMBED, numbers, &inputs, [made])?;
        let words_alone = [Some(tables[0]), None, None, None, Some(lists[0])];
        pair.agree(&EMBED, numbers, &words_alone, [made])?;
    }
    Ok(())
}

fn sums(pair: &Pair<'_>) -> Result<()> {
    const ROWS: usize = 300;
    // Columns that are read one by one, and by four.
    const PITCHES: [[usize; 3]; 2] = [[COLUMNS, 3, 60], [COLUMNS + 2, 8, 64]];
    let elements = ROWS * (COLUMNS + 2);
    let (x, y) = (values(elements, 45)?, values(elements, 46)?);
    let numbers: Vec<u32> = (0..ROWS as u32).map(|row| if row % 2 == 0 { 4 } else { row % 9 }).collect();
    let left_out: Vec<bool> = (0..ROWS).map(|row| row % 7 == 0).collect();
    let halves = [&x, &y].map(|array| array.to_dtype(DType::BF16));
    let [x_halves, y_halves] = halves;
    let (x_halves, y_halves) = (x_halves?, y_halves?);
    for [pitch, first, columns] in PITCHES {
        for (array, factors) in [
            (&x, None),
            (&x, Some(&y)),
            (&x_halves, None),
            (&x_halves, Some(&y_halves)),
            (&x, Some(&y_halves)),
        ] {
            pair.agree_on("row_sums", |own, device| {
                let array = array.to_device(device)?;
                let factors = factors.map(|factors| factors.to_device(device)).transpose()?;
                let factors = factors.as_ref();
                own.column_sums(Summands { array: &array, factors, rows: ROWS, pitch, first, columns })
            })?;
        }
        for array in [&x, &x_halves] {
            pair.agree_on("row_sums", |own, device| {
                let array = array.to_device(device)?;
                let lists = Groups::new(&numbers, &left_out).lists();
                let [order, pieces, groups, places] =
                    lists.map(|list| integers(&list).and_then(|list| list.to_device(device)));
                let summands =
                    Summands { array: &array, factors: None, rows: ROWS, pitch, first: 0, columns: pitch };
                own.grouped_sums(summands, &[order?, pieces?, groups?, places?], 3.0, 11)
            })?;
        }
    }
    pair.agree_on("squares", |own, device| {
        let arrays = [x.to_device(device)?, y.narrow(0, 0, 37)?.to_device(device)?];
        Ok(own.square_sum(&arrays, device)?.reshape(1)?)
    })
}

/// Products of matrices in some columns, read across or not, alone and added.
fn products(pair: &Pair<'_>, [x, y]: &[Tensor; 2]) -> Result<()> {
    let (rows, inner, columns) = (ROWS, 50, 21);
    for (dtype, of_result) in
        [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)]
    {
        // Numbers of bf16 are multiplied exactly; those of fp32 are rounded in tf32.
        let bound = match dtype {
            DType::F32 if gemm_reduced_precision_f32() && pair.here.on_gpu() => ROUNDED_BOUND,
            _ if of_result == DType::BF16 => HALVES_BOUND,
            _ => BOUND,
        };
        for (left_across, right_across, accumulate) in
            [(false, true, false), (false, false, true), (true, false, false), (true, true, true)]
        {
            let on = |device: &Device| -> Result<Tensor> {
                let [x, y] = [x, y].map(|array| array.to_dtype(dtype)?.to_device(device));
                let (x, y) = (x?, y?);
                // Across, a row of the array is a column of the matrix.
                let left = match left_across {
                    true => Side::new(&x, rows + 1).from(1).across(),
                    false => Side::new(&x, inner + 2).from(1),
                };
                let right = match right_across {
                    true => Side::new(&y, inner + 2).from(1).across(),
                    false => Side::new(&y, columns + 1).from(1),
                };
                let result = values(rows * 30, 47)?.to_dtype(of_result)?.to_device(device)?;
                let product = Product {
                    rows,
                    columns,
                    inner,
                    left,
                    right,
                    factor: 0.5,
                    pitch: 30,
                    first: 4,
                    accumulate,
                };
                product.write_to(&result)?;
                Ok(result)
            };
            within(bound, "of matrix products", &on(pair.device)?, &on(&Device::Cpu)?)?;
        }
    }
    Ok(())
}
