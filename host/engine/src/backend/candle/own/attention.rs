//! Attention within packed sequences, or from each to its one of another packing, by kernels
//! that work on tiles of 64 queries or keys of a sequence, or on a head of a whole sequence.

mod choice;

use candle_core::{DType, Tensor};

use super::arrays::Made;
use super::launch::Own;
use super::numbers::{Attention, BiasedAttention, Mask};
use super::sums::Summands;
use crate::backend::BackendError;

type Result<T> = std::result::Result<T, BackendError>;

/// Rows of a tile.
const TILE: usize = 64;

/// Buckets of a bias at most, of which a thread of a block has one each.
pub const BUCKETS: usize = 256;

/// What an attention is, whatever it reads.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub heads: usize,
    /// Columns of a head.
    pub size: usize,
    pub scale: f32,
    /// Whether a query sees no key behind its own place.
    pub causal: bool,
    /// Whether keys and values lie behind the queries, in one array.
    pub side_by_side: bool,
    pub mask: Option<Mask>,
}

/// The first rows of the sequences' queries and of their keys, with the ends of the last, and
/// what their masks are drawn for.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    pub queries: &'a [u32],
    pub keys: &'a [u32],
    pub places: &'a [u32],
}

/// What is added to scores by the distance from a query to a key, on a device.
pub struct Biases {
    /// [distances, heads], from the least one on.
    pub by_distance: Tensor,
    /// [distances]: the bucket of each, of so many.
    pub buckets: Tensor,
    pub count: usize,
    /// Distances below 0.
    pub before: usize,
}

/// The packing of a batch, on a device.
pub struct Packed {
    numbers: Attention,
    /// Rows of keys and values, sequences, and tiles of queries and of keys.
    memory: usize,
    sequences: usize,
    counts: [usize; 2],
    /// Queries or keys of a sequence at most.
    longest: usize,
    /// The sequence and the first row in it of each tile of queries, and of keys; first rows
    /// of queries and of keys, and places of sequences.
    tiles: [Tensor; 2],
    lists: [Tensor; 3],
    biases: Option<Biases>,
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

/// The rows of the longest sequence, by where each begins.
pub fn longest(starts: &[u32]) -> usize {
    starts.windows(2).map(|range| range[1] - range[0]).max().unwrap_or(0) as usize
}

/// What the gradients of an attention are made of.
pub struct Operands<'a> {
    pub queries: &'a Tensor,
    pub memory: &'a Tensor,
    pub dout: &'a Tensor,
    pub log_sums: &'a Tensor,
}

/// Gradients of an attention, flat.
pub struct Gradients {
    /// Of queries, or of queries, keys and values side by side.
    pub queries: Tensor,
    /// Of keys and values that are not there, where they are wanted.
    pub memory: Option<Tensor>,
    /// By query the sum over keys of a probability by its gradient, [heads, queries], of which
    /// the gradient of biases is made; none of kernels for whole sequences, which take no biases.
    pub inner: Option<Tensor>,
}

impl Packed {
    /// `list` puts a list on the device.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn new(
        of: Sequences<'_>,
        shape: Shape,
        biases: Option<Biases>,
        list: impl Fn(Vec<u32>) -> Result<Tensor>,
    ) -> Result<Packed> {
        let (Shape { heads, size, scale, causal, side_by_side, mask }, last) =
            (shape, |starts: &[u32]| starts.last().copied().unwrap_or(0));
        let tiles = [of.queries, of.keys].map(tiles);
        let counts = tiles.each_ref().map(|tiles| tiles.len() / 2);
        let columns = (heads * size) as i64;
        let numbers = Attention {
            rows: 0,
            heads: heads as i64,
            size: size as i64,
            queries: i64::from(last(of.queries)),
            query_pitch: if side_by_side { 3 * columns } else { columns },
            memory_pitch: if side_by_side { 3 * columns } else { 2 * columns },
            first_key: if side_by_side { columns } else { 0 },
            distances: biases.as_ref().map_or(0, |biases| biases.buckets.elem_count() as i64),
            before: biases.as_ref().map_or(0, |biases| biases.before as i64),
            mask: mask.unwrap_or_default(),
            scale,
            has_mask: i32::from(mask.is_some()),
            causal: i32::from(causal),
            unused: 0,
        };
        let [of_queries, of_keys] = tiles.map(&list);
        let [queries, keys, places] = [of.queries, of.keys, of.places].map(|numbers| list(numbers.to_vec()));
        Ok(Packed {
            numbers,
            memory: last(of.keys) as usize,
            sequences: of.places.len(),
            counts,
            longest: longest(of.queries).max(longest(of.keys)),
            tiles: [of_queries?, of_keys?],
            lists: [queries?, keys?, places?],
            biases,
        })
    }

    /// The numbers of kernels whose blocks have tiles of queries, or of keys.
    fn numbers(&self, of_keys: bool) -> Attention {
        Attention { rows: self.counts[usize::from(of_keys)] as i64 * self.numbers.heads, ..self.numbers }
    }

    /// The numbers of kernels whose blocks have a head of a sequence.
    fn numbers_of_whole(&self) -> Attention {
        Attention { rows: self.sequences as i64 * self.numbers.heads, ..self.numbers }
    }

    /// The inputs of these kernels, but for the last ones.
    fn inputs<'a>(&'a self, [queries, memory]: [&'a Tensor; 2], of_keys: bool) -> Vec<Option<&'a Tensor>> {
        let [query_starts, key_starts, places] = &self.lists;
        let tiles = &self.tiles[usize::from(of_keys)];
        let lists = [queries, memory, tiles, query_starts, key_starts, places].map(Some);
        [&lists[..], &[self.biases.as_ref().map(|biases| &biases.by_distance)]].concat()
    }

    /// The context, of a type, and a number for each query and head.
    fn made(&self, dtype: DType) -> [Made; 2] {
        let Attention { heads, size, queries, .. } = self.numbers;
        [Made { count: (queries * heads * size) as usize, dtype }, ((queries * heads) as usize).into()]
    }

    fn side_by_side(&self) -> bool {
        self.numbers.first_key > 0
    }

    fn by_place(&self) -> bool {
        self.numbers.causal != 0 || self.biases.is_some()
    }
}

impl Own {
    /// The context, [queries, heads * size], and the scores' log-sum-exp, [heads, queries],
    /// both flat, of queries, and of keys and values, which may be the same array. The context
    /// is of the type `of`.
    ///
    /// # Errors
    /// Heads that are too large; as [`Own::run`].
    pub fn attention(&self, packed: &Packed, of: [&Tensor; 2], dtype: DType) -> Result<[Tensor; 2]> {
        let (inputs, made) = (packed.inputs(of, false), packed.made(dtype));
        match self.whole(packed)? {
            Some(whole) => self.run(&whole.forward, packed.numbers_of_whole(), &inputs, made),
            None => self.run(&self.known(packed)?.forward, packed.numbers(false), &inputs, made),
        }
    }

    /// The gradients of queries, and of keys and values where those are wanted or lie beside
    /// them, of their types. The log-sum-exps are those that [`Self::attention`] gives.
    ///
    /// # Errors
    /// As [`Self::attention`].
    pub fn attention_backward(
        &self,
        packed: &Packed,
        operands: &Operands<'_>,
        wants_memory: bool,
    ) -> Result<Gradients> {
        let read = [operands.queries, operands.memory];
        let more = [operands.dout, operands.log_sums].map(Some);
        let inputs = [&packed.inputs(read, false)[..], &more].concat();
        let [context, of_rows] = packed.made(operands.queries.dtype());
        // Where all lies side by side, each kernel writes its columns.
        let parts = if packed.side_by_side() { 3 } else { 1 };
        let made = Made { count: parts * context.count, ..context };
        let wants_memory = wants_memory && !packed.side_by_side();
        let count = if wants_memory { packed.memory * packed.numbers.memory_pitch as usize } else { 0 };
        let made_of_memory = Made { count, dtype: operands.memory.dtype() };
        if let Some(whole) = self.whole(packed)? {
            let made = [made, made_of_memory];
            let [queries, memory] = self.run(&whole.gradients, packed.numbers_of_whole(), &inputs, made)?;
            return Ok(Gradients { queries, memory: wants_memory.then_some(memory), inner: None });
        }
        let kernels = self.known(packed)?;
        let [queries, inner] = self.run(&kernels.queries, packed.numbers(false), &inputs, [made, of_rows])?;
        let inputs = [&packed.inputs(read, true)[..], &more, &[Some(&inner)]].concat();
        let numbers = packed.numbers(true);
        let memory = match (packed.side_by_side(), wants_memory) {
            (true, _) => {
                self.run_into(&kernels.keys, numbers, &inputs, &queries)?;
                None
            }
            (false, true) => Some(self.run(&kernels.keys, numbers, &inputs, [made_of_memory])?),
            (false, false) => None,
        };
        Ok(Gradients { queries, memory: memory.map(|[memory]| memory), inner: Some(inner) })
    }

    /// The gradient of biases, [buckets, heads], where there are any. `found` is what
    /// [`Self::attention_backward`] gives.
    ///
    /// # Errors
    /// As [`Self::attention`].
    pub fn bias_gradient(
        &self,
        packed: &Packed,
        operands: &Operands<'_>,
        found: &Gradients,
    ) -> Result<Option<Tensor>> {
        let Some(Biases { buckets, count, .. }) = &packed.biases else { return Ok(None) };
        let Some(inner) = &found.inner else {
            return Err(BackendError::Wrong("of biases the kernels have kept no sums".into()));
        };
        let attention = packed.numbers(false);
        let numbers = BiasedAttention { rows: attention.rows, buckets: *count as i64, attention };
        let more = [operands.dout, operands.log_sums, inner, buckets].map(Some);
        let inputs = [&packed.inputs([operands.queries, operands.memory], false)[..], &more].concat();
        let (tiles, heads) = (packed.counts[0], attention.heads as usize);
        let [by_tile] = self.run(self.of_biases(), numbers, &inputs, [tiles * heads * count])?;
        let columns = heads * count;
        let summands =
            Summands { array: &by_tile, factors: None, rows: tiles, pitch: columns, first: 0, columns };
        Ok(Some(self.column_sums(summands)?.reshape((heads, *count))?.t()?.contiguous()?))
    }
}

#[cfg(test)]
#[path = "attention/tests.rs"]
mod tests;
