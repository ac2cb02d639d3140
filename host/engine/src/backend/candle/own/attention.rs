//! Attention within packed sequences, by kernels that work on tiles of 64 queries or
//! keys of a sequence.

use candle_core::{DType, Tensor};

use super::arrays::Made;
use super::kernels::{self, Kernel};
use super::launch::Own;
use super::numbers::{Attention, Mask};
use crate::backend::BackendError;
use crate::backend::candle::masks;
use crate::backend::candle::{ATTENTION_COLUMNS, Candle};
use crate::device::Precision;
use crate::program::build::Program;
use crate::program::instruction::Dropout;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

/// Rows of a tile.
const TILE: usize = 64;

/// The kernels for heads of so many columns at most, whose products of tiles are in a
/// precision: of the forward pass, and for the gradients of queries and of keys and values.
struct Kernels {
    columns: usize,
    precision: Precision,
    forward: Kernel<Attention>,
    queries: Kernel<Attention>,
    keys: Kernel<Attention>,
}

const KERNELS: [Kernels; 6] = [
    Kernels {
        columns: 32,
        precision: Precision::Fp32,
        forward: kernels::ATTENTION_32,
        queries: kernels::ATTENTION_QUERIES_32,
        keys: kernels::ATTENTION_KEYS_32,
    },
    Kernels {
        columns: 32,
        precision: Precision::Tf32,
        forward: kernels::ATTENTION_32_TF32,
        queries: kernels::ATTENTION_QUERIES_32_TF32,
        keys: kernels::ATTENTION_KEYS_32_TF32,
    },
    Kernels {
        columns: 32,
        precision: Precision::Bf16,
        forward: kernels::ATTENTION_32_BF16,
        queries: kernels::ATTENTION_QUERIES_32_BF16,
        keys: kernels::ATTENTION_KEYS_32_BF16,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Fp32,
        forward: kernels::ATTENTION_64,
        queries: kernels::ATTENTION_QUERIES_64,
        keys: kernels::ATTENTION_KEYS_64,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Tf32,
        forward: kernels::ATTENTION_64_TF32,
        queries: kernels::ATTENTION_QUERIES_64_TF32,
        keys: kernels::ATTENTION_KEYS_64_TF32,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Bf16,
        forward: kernels::ATTENTION_64_BF16,
        queries: kernels::ATTENTION_QUERIES_64_BF16,
        keys: kernels::ATTENTION_KEYS_64_BF16,
    },
];

/// The packing of a batch, on a device.
pub struct Packed {
    numbers: Attention,
    /// The sequence and the first row in it of each tile; first rows and places of
    /// sequences.
    tiles: Tensor,
    starts: Tensor,
    places: Tensor,
}

/// The sequence and the first row in it of each tile.
pub fn tiles(starts: &[u32]) -> Vec<u32> {
    let mut tiles = Vec::new();
    for (sequence, range) in starts.windows(2).enumerate() {
        for first in (0..range[1] - range[0]).step_by(TILE) {
            tiles.extend([sequence as u32, first]);
        }
    }
    tiles
}

impl Packed {
    /// `starts` [sequences + 1] are the first rows of the sequences, `places`
    /// `[sequences]` what their masks are drawn for; heads are of `size` columns. `list`
    /// puts a list on the device.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn new(
        (starts, places): (&[u32], &[u32]),
        [heads, size]: [usize; 2],
        mask: Option<Mask>,
        list: impl Fn(Vec<u32>) -> Result<Tensor>,
    ) -> Result<Packed> {
        let tiles = tiles(starts);
        let numbers = Attention {
            rows: (tiles.len() / 2 * heads) as i64,
            heads: heads as i64,
            size: size as i64,
            tokens: i64::from(starts.last().copied().unwrap_or(0)),
            mask: mask.unwrap_or_default(),
            scale: (1.0 / (size as f64).sqrt()) as f32,
            has_mask: i32::from(mask.is_some()),
        };
        let [starts, places] = [starts, places].map(|numbers| list(numbers.to_vec()));
        Ok(Packed { numbers, tiles: list(tiles)?, starts: starts?, places: places? })
    }

    /// The context, of a type, and a number for each row and head.
    fn made(&self, dtype: DType) -> [Made; 2] {
        let Attention { heads, size, tokens, .. } = self.numbers;
        [Made { count: (tokens * heads * size) as usize, dtype }, ((tokens * heads) as usize).into()]
    }
}

impl Own {
    /// The kernels for heads of a size; none where it is too large for them.
    fn kernels(&self, size: usize) -> Option<&'static Kernels> {
        let fits = |kernels: &&Kernels| size <= kernels.columns && kernels.precision == self.precision;
        KERNELS.iter().find(fits)
    }

    /// The same, where there must be some.
    fn known(&self, packed: &Packed) -> Result<&'static Kernels> {
        let size = packed.numbers.size as usize;
        let none = || BackendError::Wrong(format!("no kernel takes heads of {size} columns"));
        self.kernels(size).ok_or_else(none)
    }

    /// Whether there are kernels for attention with heads of a size, forward and backward.
    ///
    /// # Errors
    /// What the driver says.
    pub fn attends(&self, size: usize) -> Result<bool> {
        let Some(kernels) = self.kernels(size) else { return Ok(false) };
        let Kernels { forward, queries, keys, .. } = kernels;
        Ok(self.takes(forward)? && self.takes(queries)? && self.takes(keys)?)
    }

    /// The names of those kernels: of the forward pass, and for the gradients of queries and
    /// of keys and values.
    pub fn attention_names(&self, size: usize) -> Option<[&'static str; 3]> {
        self.kernels(size).map(|kernels| [kernels.forward.name, kernels.queries.name, kernels.keys.name])
    }

    /// The context, [rows, heads * size], and the scores' log-sum-exp, [heads, rows], both
    /// flat, of queries, keys and values side by side. The context is of the type `of`.
    ///
    /// # Errors
    /// Heads that are too large; as [`Own::run`].
    pub fn attention(&self, packed: &Packed, qkv: &Tensor, of: DType) -> Result<[Tensor; 2]> {
        let kernels = self.known(packed)?;
        let inputs = [qkv, &packed.tiles, &packed.starts, &packed.places].map(Some);
        self.run(&kernels.forward, packed.numbers, &inputs, packed.made(of))
    }

    /// The gradient of queries, keys and values, flat, of their type. `log_sums` are those
    /// that [`Self::attention`] gives.
    ///
    /// # Errors
    /// As [`Self::attention`].
    pub fn attention_backward(
        &self,
        packed: &Packed,
        dout: &Tensor,
        qkv: &Tensor,
        log_sums: &Tensor,
    ) -> Result<Tensor> {
        let kernels = self.known(packed)?;
        let inputs = [qkv, &packed.tiles, &packed.starts, &packed.places, dout, log_sums].map(Some);
        let [context, of_rows] = packed.made(qkv.dtype());
        // Each kernel writes its columns.
        let all = Made { count: 3 * context.count, ..context };
        let [dqkv, inner] = self.run(&kernels.queries, packed.numbers, &inputs, [all, of_rows])?;
        let inputs = [&inputs[..], &[Some(&inner)]].concat();
        self.run_into(&kernels.keys, packed.numbers, &inputs, &dqkv)?;
        Ok(dqkv)
    }
}

impl Candle {
    /// The packing of the batch for attention of `heads` over a value's columns; none
    /// where there is no kernel for it.
    fn packed(
        &self,
        program: &Program,
        out: ValueId,
        heads: usize,
        dropout: Option<Dropout>,
    ) -> Result<Option<(Own, Packed)>> {
        let size = program.value(out).columns(&self.sizes) / heads;
        let Some(own) = self.own.clone() else { return Ok(None) };
        if !own.attends(size)? {
            return Ok(None);
        }
        let mask = dropout.and_then(|dropout| masks::mask(&self.step, dropout)).map(Mask::from);
        let sequences = (self.batch.starts.as_slice(), self.batch.places.as_slice());
        Ok(Some((own, Packed::new(sequences, [heads, size], mask, |list| self.indices(list))?)))
    }

    /// Attention by its kernel; answers whether there is one.
    pub(in crate::backend::candle) fn own_attention(
        &mut self,
        program: &Program,
        [qkv, out, log_sums]: [ValueId; 3],
        heads: usize,
        dropout: Option<Dropout>,
    ) -> Result<bool> {
        let Some((own, packed)) = self.packed(program, out, heads, dropout)? else { return Ok(false) };
        let [context, sums] = own.attention(&packed, &self.peek(program, qkv)?, self.stored(out))?;
        self.set(program, log_sums, sums, false)?;
        self.set(program, out, context, false)?;
        Ok(true)
    }

    /// Its gradient, likewise.
    pub(in crate::backend::candle) fn own_attention_backward(
        &mut self,
        program: &Program,
        [dout, qkv, log_sums, dqkv]: [ValueId; 4],
        heads: usize,
        dropout: Option<Dropout>,
    ) -> Result<bool> {
        let Some((own, packed)) = self.packed(program, dout, heads, dropout)? else { return Ok(false) };
        let (gradient, values) = (self.peek(program, dout)?, self.peek(program, qkv)?);
        let log_sums = self.peek(program, log_sums)?;
        let gradient = own.attention_backward(&packed, &gradient, &values, &log_sums)?;
        self.set_wanted_rows(program, dqkv, gradient.reshape(values.shape())?)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::simulated::Simulated;
    use super::*;
    use crate::backend::candle::attention::Padding;
    use crate::backend::candle::products::Products;
    use crate::backend::{Step, candle::masks::attention as factors};

    unsafe extern "C" {
        fn host_take_turns(other_way_round: i32);
    }

    /// Sequences of one row, of less than a tile, of two tiles and of more.
    const STARTS: [u32; 6] = [0, 1, 38, 38 + 128, 38 + 128, 38 + 128 + 131];
    const PLACES: [u32; 5] = [4, 0, 7, 1, 2];

    fn values(count: usize, salt: usize) -> Tensor {
        let value =
            |index: usize| ((index * 29 + salt * 101) as f32).sin() * (0.5 + (index % 7) as f32 / 4.0);
        Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), count, &Device::Cpu).unwrap()
    }

    fn list(numbers: Vec<u32>) -> Result<Tensor> {
        Ok(Tensor::from_slice(&numbers, numbers.len(), &Device::Cpu)?)
    }

    fn apart(found: &Tensor, expected: &Tensor) -> f64 {
        let [found, expected] = [found, expected]
            .map(|x| x.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(found.len(), expected.len());
        let norm =
            |list: &mut dyn Iterator<Item = f32>| list.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        difference / norm(&mut expected.iter().copied())
    }

    /// Context, log-sum-exps and gradient by the kernels' text, turns taken one way or the
    /// other.
    fn by_kernels(
        own: &Own,
        packed: &Packed,
        [qkv, dout]: [&Tensor; 2],
        other_way_round: bool,
    ) -> [Tensor; 3] {
        // SAFETY: the order is this thread's own.
        unsafe { host_take_turns(i32::from(other_way_round)) };
        let [context, sums] = own.attention(packed, qkv, qkv.dtype()).unwrap();
        let gradient = own.attention_backward(packed, dout, qkv, &sums).unwrap();
        // SAFETY: as above.
        unsafe { host_take_turns(0) };
        [context, sums, gradient]
    }

    #[test]
    fn kernels_are_the_composition_whatever_the_order_of_threads() {
        let rows = *STARTS.last().unwrap() as usize;
        for (heads, size) in [(3, 20), (2, 32), (2, 64), (1, 33)] {
            let columns = heads * size;
            let qkv = values(rows * 3 * columns, size).reshape((rows, 3 * columns)).unwrap();
            let dout = values(rows * columns, size + 1).reshape((rows, columns)).unwrap();
            for probability in [None, Some(0.3)] {
                let dropout = probability.map(|probability| Dropout { probability, site: 3 });
                let step = Step::default();
                let mask = dropout.and_then(|dropout| masks::mask(&step, dropout)).map(Mask::from);
                let packed = Packed::new((&STARTS, &PLACES), [heads, size], mask, list).unwrap();
                let padding = Padding::new(&STARTS, [heads, size], Products::Fp32, list).unwrap();
                let longest = [padding.longest; 2];
                let mask = dropout.map(|dropout| {
                    factors(&step, dropout, (&STARTS, &STARTS), &PLACES, heads, longest, &Device::Cpu)
                        .unwrap()
                });
                let (context, sums) = padding.forward(&qkv, mask.as_ref()).unwrap();
                let (gradient, _) = padding.backward(&dout, &qkv, mask.as_ref()).unwrap();
                // Numbers rounded to TF32 have eleven bits, and those of bf16 eight.
                for (precision, dtype, bound) in [
                    (Precision::Fp32, DType::F32, 1e-5),
                    (Precision::Tf32, DType::F32, 1e-3),
                    (Precision::Bf16, DType::F32, 4e-3),
                    (Precision::Bf16, DType::BF16, 5e-3),
                ] {
                    let [qkv, dout] = [&qkv, &dout].map(|x| x.to_dtype(dtype).unwrap());
                    let case = format!("{heads} heads of {size}, {dropout:?}, {precision:?} of {dtype:?}");
                    let here = Own::new(&Device::Cpu).unwrap();
                    let simulated = |order, blocks| Own::simulated(Simulated { order, blocks });
                    // The text for the processor, and a GPU that is simulated.
                    for [(own, other_way_round), (other, yet)] in [
                        [(here.clone(), false), (here, true)],
                        [(simulated(0, 65_536), false), (simulated(7, 2), false)],
                    ] {
                        let by = |own: Own, turned: bool| {
                            by_kernels(&own.in_precision(precision), &packed, [&qkv, &dout], turned)
                        };
                        let found = by(own, other_way_round);
                        for (name, found, expected) in [
                            ("context", &found[0], &context),
                            ("log-sum-exps", &found[1], &sums),
                            ("gradient", &found[2], &gradient),
                        ] {
                            let apart = apart(found, expected);
                            assert!(apart < bound, "{name} of {case}: {apart:e}");
                        }
                        for (one, other) in found.iter().zip(&by(other, yet)) {
                            let [one, other] = [one, other]
                                .map(|x| x.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap());
                            let same = one.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
                            assert!(same, "{case}: what the threads do depends on their order");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn heads_too_large_for_a_tile_have_no_kernel() {
        let own = Own::new(&Device::Cpu).unwrap();
        assert!(own.attends(64).unwrap() && !own.attends(65).unwrap());
        let packed = Packed::new((&[0, 2], &[0]), [1, 65], None, list).unwrap();
        let wrong = own.attention(&packed, &values(2 * 3 * 65, 1), DType::F32).unwrap_err();
        assert!(wrong.to_string().contains("no kernel takes heads of 65 columns"), "{wrong}");
    }
}
