use candle_core::{DType, Device};

use super::*;
use crate::backend::candle::masks;
use crate::backend::candle::own::kernels::ROW_DROPOUT;
use crate::backend::candle::own::numbers::RowDropout;
use crate::backend::candle::own::simulated::Simulated;
use crate::kernels::dropout::{self, DropoutKey};

unsafe extern "C" {
    fn host_take_turns(other_way_round: i32);
}

const HERE: Device = Device::Cpu;

fn values(count: usize, salt: usize, dtype: DType) -> Tensor {
    let value = |index: usize| ((index * 37 + salt * 101) as f32).sin() * (0.5 + (index % 5) as f32 / 4.0);
    let values: Vec<f32> = (0..count).map(value).collect();
    Tensor::from_vec(values, count, &HERE).unwrap().to_dtype(dtype).unwrap()
}

fn numbers_of(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What is computed by the text for the processor, and on a GPU that is simulated: of each,
/// the bits are the same whatever the order of threads.
fn whatever_the_order(compute: impl Fn(&Own) -> Tensor) -> [Vec<f32>; 2] {
    let here = [0, 1].map(|other_way_round| {
        // SAFETY: the order is this thread's own.
        unsafe { host_take_turns(other_way_round) };
        let found = numbers_of(&compute(&Own::new(&HERE).unwrap()));
        // SAFETY: as above.
        unsafe { host_take_turns(0) };
        found
    });
    let simulated = [(0, 65_536), (7, 2)]
        .map(|(order, blocks)| numbers_of(&compute(&Own::simulated(Simulated { order, blocks }))));
    [here, simulated].map(|[found, other]| {
        let bits = |list: &[f32]| list.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&found) == bits(&other), "what the threads do depends on their order");
        found
    })
}

/// By how much what was computed either way is apart from what is expected, as a share of
/// its norm.
fn apart(found: [Vec<f32>; 2], expected: &Tensor) -> f64 {
    let expected = numbers_of(expected);
    let norm = |list: &mut dyn Iterator<Item = f32>| list.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let apart = found.map(|found| {
        assert_eq!(found.len(), expected.len());
        norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
    });
    apart[0].max(apart[1])
}

/// Some columns of a matrix, by other kernels: what a dropout leaves of it.
fn left_of(own: &Own, x: &Tensor, wide: Wide, dropped: Option<&Dropped>) -> Tensor {
    let x = x.to_dtype(DType::F32).unwrap().reshape((wide.rows, wide.pitch)).unwrap();
    let x = x.narrow(1, wide.first, wide.columns).unwrap().contiguous().unwrap();
    let Some(dropped) = dropped else { return x };
    let without = RowDropout::without(wide.rows, wide.columns);
    let numbers = RowDropout { mask: dropped.masks[0], packing: dropped.packing, has_mask: 1, ..without };
    let inputs = [&x, &dropped.lists[0], &dropped.lists[1]].map(Some);
    let [left] = own.run(&ROW_DROPOUT, numbers, &inputs, [wide.rows * wide.columns]).unwrap();
    left.reshape((wide.rows, wide.columns)).unwrap()
}

/// What tensor cores are given of numbers, in fp32.
fn rounded(x: &Tensor) -> Tensor {
    x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

/// Matrices that fill no tile and no block, some columns of wider ones, and whole ones that
/// are read eight columns at once, some with more columns than a block has of a factor at a
/// time; ranks of both kernels.
const SHAPES: [Wide; 7] = [
    Wide { rows: 43, columns: 61, first: 5, step: 0, pitch: 70, rank: 3 },
    Wide { rows: 131, columns: 264, first: 8, step: 0, pitch: 280, rank: 16 },
    Wide { rows: 300, columns: 64, first: 0, step: 0, pitch: 64, rank: 8 },
    Wide { rows: 70, columns: 300, first: 0, step: 0, pitch: 300, rank: 17 },
    Wide { rows: 33, columns: 72, first: 16, step: 0, pitch: 96, rank: 64 },
    Wide { rows: 35, columns: 1000, first: 0, step: 0, pitch: 1000, rank: 12 },
    Wide { rows: 45, columns: 536, first: 0, step: 0, pitch: 544, rank: 32 },
];

fn each_case(check: impl Fn(&Own, Wide, DType, Option<&Dropped>, &str)) {
    let own = Own::new(&HERE).unwrap();
    let mask = dropout::Mask::new(DropoutKey { seed: 5, step: 3, site: 2 }, 0.3).unwrap();
    for wide in SHAPES {
        let starts = [0, 7, 8, 30, wide.rows as u32];
        let list = |list: &[u32]| Tensor::from_slice(list, list.len(), &HERE).unwrap();
        let rows = masks::Rows::Packed(starts.to_vec());
        let dropped = Dropped {
            masks: vec![mask.into()],
            packing: Packing::from(&rows),
            lists: [list(&starts), list(&[3, 0, 9, 1])],
        };
        for dtype in [DType::F32, DType::BF16] {
            for dropped in [None, Some(&dropped)] {
                let case = format!("rank {}, {dtype:?}, dropped: {}", wide.rank, dropped.is_some());
                check(&own, wide, dtype, dropped, &case);
            }
        }
    }
}

#[test]
fn rows_times_a_factor_are_the_product_of_what_is_left() {
    each_case(|own, wide, dtype, dropped, case| {
        let x = values(wide.rows * wide.pitch, 1, dtype);
        let left = rounded(&left_of(own, &x, wide, dropped));
        let array = values(wide.rank * wide.columns, 2, DType::F32);
        for across in [false, true] {
            let matrix = match across {
                true => array.reshape((wide.columns, wide.rank)).unwrap(),
                false => array.reshape((wide.rank, wide.columns)).unwrap().t().unwrap(),
            };
            let expected = (left.matmul(&rounded(&matrix.contiguous().unwrap())).unwrap() * 2.0).unwrap();
            for (of_result, bound) in [(DType::F32, 3e-6), (DType::BF16, 4e-3)] {
                let found = whatever_the_order(|own| {
                    let low = values(wide.rows * wide.rank, 3, of_result);
                    let factor = Factor { array: &[&array][..], across, scale: 2.0 };
                    own.low_rank_down(wide, &x, dropped, factor, &low).unwrap();
                    low
                });
                let apart = apart(found, &expected);
                assert!(apart < bound, "{case}, across: {across}: {apart:e}");
            }
        }
    });
}

#[test]
fn what_is_added_to_rows_is_dropped_and_leaves_other_columns() {
    each_case(|own, wide, dtype, dropped, case| {
        let low = values(wide.rows * wide.rank, 1, DType::BF16);
        let rows = rounded(&low).reshape((wide.rows, wide.rank)).unwrap();
        let array = values(wide.rank * wide.columns, 2, dtype);
        let there = values(wide.rows * wide.pitch, 3, dtype);
        for (across, adds) in [(false, false), (true, true), (false, true)] {
            let matrix = match across {
                true => array.reshape((wide.columns, wide.rank)).unwrap().t().unwrap(),
                false => array.reshape((wide.rank, wide.columns)).unwrap(),
            };
            let product = rows.matmul(&rounded(&matrix.contiguous().unwrap())).unwrap();
            let product = (product * 0.5).unwrap().flatten_all().unwrap();
            let narrow = Wide { first: 0, pitch: wide.columns, ..wide };
            let more = left_of(own, &product, narrow, dropped);
            let wide_there = there.to_dtype(DType::F32).unwrap().reshape((wide.rows, wide.pitch)).unwrap();
            let end = wide.first + wide.columns;
            let [before, part, behind] =
                [(0, wide.first), (wide.first, wide.columns), (end, wide.pitch - end)]
                    .map(|(first, columns)| wide_there.narrow(1, first, columns).unwrap());
            let bias = values(wide.columns, 4, DType::F32);
            let bias = (!across).then_some(&bias);
            let more = match bias {
                Some(bias) => more.broadcast_add(bias).unwrap(),
                None => more,
            };
            let part = if adds { (part + more).unwrap() } else { more };
            let expected = Tensor::cat(&[before, part, behind], 1).unwrap();
            let found = whatever_the_order(|own| {
                let out = there.copy().unwrap();
                let factor = Factor { array: &[&array][..], across, scale: 0.5 };
                let biases: Vec<&Tensor> = bias.into_iter().collect();
                let update = Update { out: &out, adds, biases: &biases };
                own.low_rank_up(wide, &[&low], dropped, factor, update).unwrap();
                out
            });
            let apart = apart(found, &expected);
            let bound = if dtype == DType::BF16 { 4e-3 } else { 1e-6 };
            assert!(apart < bound, "{case}, across: {across}, adds: {adds}: {apart:e}");
        }
    });
}

#[test]
fn a_factors_gradient_is_the_product_over_rows_of_what_is_left() {
    each_case(|own, wide, dtype, dropped, case| {
        let x = values(wide.rows * wide.pitch, 1, dtype);
        let low = values(wide.rows * wide.rank, 2, DType::BF16);
        let rows = rounded(&low).reshape((wide.rows, wide.rank)).unwrap().t().unwrap();
        let vectors = [3, 4].map(|salt| values(wide.columns, salt, DType::F32));
        for recovered in [None, Some(vectors.each_ref())] {
            let left = match recovered {
                Some([gain, shift]) => {
                    let part = Wide { first: 0, pitch: wide.columns, ..wide };
                    // Rounded once, as kernels do.
                    let [x, gain, shift] = [&left_of(own, &x, wide, None), gain, shift]
                        .map(|array| array.to_dtype(DType::F64).unwrap());
                    let x = x.broadcast_mul(&gain).unwrap().broadcast_add(&shift).unwrap();
                    left_of(own, &x.to_dtype(DType::F32).unwrap(), part, dropped)
                }
                None => left_of(own, &x, wide, dropped),
            };
            let product = (rows.contiguous().unwrap().matmul(&rounded(&left)).unwrap() * 0.5).unwrap();
            for across in [false, true] {
                let expected =
                    if across { product.t().unwrap().contiguous().unwrap() } else { product.clone() };
                let of = Factor { array: (), across, scale: 0.5 };
                let source = Source { array: &x, recovered, dropped };
                let found =
                    whatever_the_order(|own| own.low_rank_gradient(wide, source, &[&low], of).unwrap());
                let apart = apart(found, &expected);
                assert!(
                    apart < 1e-6,
                    "{case}, across: {across}, recovered: {}: {apart:e}",
                    recovered.is_some()
                );
            }
        }
    });
}

/// Updates that are worked on together come out as each by itself, to the bit: of other columns,
/// and of the same ones, with masks of their own; but that what is added to the same columns is
/// rounded once.
#[test]
fn updates_together_are_each_by_itself() {
    fn of<'a>(array: &'a [&'a Tensor], across: bool) -> Factor<&'a [&'a Tensor]> {
        Factor { array, across, scale: 0.5 }
    }
    let starts = [0, 7, 8, 30, 131];
    let list = |list: &[u32]| Tensor::from_slice(list, list.len(), &HERE).unwrap();
    let rows = masks::Rows::Packed(starts.to_vec());
    let dropped = |updates: std::ops::Range<u32>| Dropped {
        masks: updates
            .map(|site| dropout::Mask::new(DropoutKey { seed: 5, step: 3, site }, 0.3).unwrap().into())
            .collect(),
        packing: Packing::from(&rows),
        lists: [list(&starts), list(&[3, 0, 9, 1])],
    };
    let alone = |update: usize| dropped(update as u32..update as u32 + 1);
    for (count, dtype, wide) in [
        (2, DType::BF16, Wide { rows: 131, columns: 264, first: 8, step: 280, pitch: 560, rank: 16 }),
        (3, DType::BF16, Wide { rows: 131, columns: 72, first: 0, step: 72, pitch: 216, rank: 40 }),
        (3, DType::F32, Wide { rows: 131, columns: 21, first: 2, step: 23, pitch: 70, rank: 3 }),
        (2, DType::BF16, Wide { rows: 131, columns: 64, first: 0, step: 0, pitch: 64, rank: 8 }),
        (3, DType::BF16, Wide { rows: 131, columns: 264, first: 0, step: 0, pitch: 264, rank: 16 }),
        (3, DType::F32, Wide { rows: 131, columns: 21, first: 0, step: 0, pitch: 21, rank: 3 }),
        (2, DType::BF16, Wide { rows: 131, columns: 64, first: 0, step: 0, pitch: 64, rank: 20 }),
    ] {
        let one = |update: usize| Wide { first: wide.first + update * wide.step, ..wide };
        let all = dropped(0..count as u32);
        let x = values(wide.rows * wide.pitch, 1, dtype);
        let each = |elements: usize, salt: usize, dtype: DType| -> Vec<Tensor> {
            (0..count).map(|update| values(elements, salt + update, dtype)).collect()
        };
        let factors = each(wide.rank * wide.columns, 10, DType::F32);
        let lows = each(wide.rows * wide.rank, 20, DType::BF16);
        let biases = each(wide.columns, 30, DType::F32);
        let [factors, lows, biases] =
            [&factors, &lows, &biases].map(|all| all.iter().collect::<Vec<&Tensor>>());
        for own in [Own::new(&HERE).unwrap(), Own::simulated(Simulated { order: 7, blocks: 5 })] {
            // Pieces of rows are as many for all of them then as for each.
            let own = own.for_multiprocessors(1000);
            for across in [false, true] {
                let low = |updates: usize| values(updates * wide.rows * wide.rank, 40, DType::BF16);
                let together = low(count);
                own.low_rank_down(wide, &x, Some(&all), of(&factors, across), &together).unwrap();
                let by_itself = (0..count).flat_map(|update| {
                    let (low, factor) = (low(1), of(&factors[update..=update], across));
                    own.low_rank_down(one(update), &x, Some(&alone(update)), factor, &low).unwrap();
                    numbers_of(&low)
                });
                assert_eq!(numbers_of(&together), by_itself.collect::<Vec<f32>>());

                let without = Factor { array: (), across, scale: 0.5 };
                let sums = own.low_rank_gradient(wide, Source::new(&x, Some(&all)), &lows, without).unwrap();
                let by_itself = (0..count).flat_map(|update| {
                    let low = &lows[update..=update];
                    numbers_of(
                        &own.low_rank_gradient(
                            one(update),
                            Source::new(&x, Some(&alone(update))),
                            low,
                            without,
                        )
                        .unwrap(),
                    )
                });
                assert_eq!(numbers_of(&sums), by_itself.collect::<Vec<f32>>());

                let (out, other) = (x.copy().unwrap(), x.copy().unwrap());
                let update = Update { out: &out, adds: across, biases: &biases };
                own.low_rank_up(wide, &lows, Some(&all), of(&factors, across), update).unwrap();
                for update in 0..count {
                    let at = update..=update;
                    let adds = across || (wide.step == 0 && update > 0);
                    let to = Update { out: &other, adds, biases: &biases[at.clone()] };
                    let (low, factor) = (&lows[at.clone()], of(&factors[at], across));
                    own.low_rank_up(one(update), low, Some(&alone(update)), factor, to).unwrap();
                }
                if wide.step > 0 || wide.rank > FEW_RANKS {
                    assert!(numbers_of(&out) == numbers_of(&other), "{count} of rank {}", wide.rank);
                    continue;
                }
                // Added up before they are rounded, where each by itself takes a place.
                let each = (0..count).map(|update| {
                    let at = update..=update;
                    let one = Tensor::zeros(wide.rows * wide.columns, DType::F32, &HERE).unwrap();
                    let to = Update { out: &one, adds: false, biases: &biases[at.clone()] };
                    let (low, factor) = (&lows[at.clone()], of(&factors[at], across));
                    own.low_rank_up(wide, low, Some(&alone(update)), factor, to).unwrap();
                    one
                });
                let more = each.reduce(|sum, one| (sum + one).unwrap()).unwrap();
                let before = x.to_dtype(DType::F32).unwrap();
                let expected = if across { (before + more).unwrap() } else { more };
                let apart = apart([numbers_of(&out), numbers_of(&out)], &expected);
                let bound = if dtype == DType::BF16 { 2e-3 } else { 1e-6 };
                assert!(apart < bound, "{count} of rank {}, across: {across}: {apart:e}", wide.rank);
            }
        }
    }
}
