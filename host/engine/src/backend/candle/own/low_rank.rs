//! The kernels of low-rank updates of linear layers, and of their gradients, which read a wide
//! matrix once and drop in registers (`cuda/low_rank.cuh`).

use candle_core::Tensor;

use super::kernels::{self, Kernel};
use super::launch::Own;
use super::numbers::{self, Mask, Packing, UPDATES};
use super::sums::Summands;
use crate::backend::BackendError;

type Result<T> = std::result::Result<T, BackendError>;

/// The highest rank that the kernels take, and for which those for few are.
pub const RANKS: usize = 64;
const FEW_RANKS: usize = 16;
/// Rows of a block of `low_rank_down`; columns of a block of `low_rank_up`, four warps with
/// `UP_COLUMNS` each, and of a gradient's; as in `cuda/low_rank_down.cuh` and beside it.
const DOWN_ROWS: usize = 32;
const UP_BLOCK_COLUMNS: usize = 256;
const GRADIENT_COLUMNS: usize = 64;
const UP_SPANS: Spans = Spans { step: 16, most: 64, around: 1 };
const GRADIENT_SPANS: Spans = Spans { step: 64, most: 512, around: 2 };

/// How many rows a block may take: as many as some steps have.
struct Spans {
    /// Rows of a step.
    step: usize,
    /// Rows of a block at most.
    most: usize,
    /// What a block takes beside its steps, in the time of one.
    around: usize,
}

/// Some columns of a matrix of rows, and a rank. Updates that are worked on together have as
/// many columns each, and the same rank.
#[derive(Clone, Copy)]
pub struct Wide {
    pub rows: usize,
    pub columns: usize,
    /// The first of them, by how much those of each further update lie behind, and all columns
    /// of the matrix.
    pub first: usize,
    pub step: usize,
    pub pitch: usize,
    pub rank: usize,
}

/// By what rows of a wide matrix are dropped, if they are: the mask of each update, to what the
/// rows belong, and the lists of that (`Candle::packing_arrays`).
pub struct Dropped {
    pub masks: Vec<Mask>,
    pub packing: Packing,
    pub lists: [Tensor; 2],
}

/// A wide matrix, how it is recovered where a norm has normalized it, by gain and shift of its
/// columns, and what drops of that.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub array: &'a Tensor,
    pub recovered: Option<[&'a Tensor; 2]>,
    pub dropped: Option<&'a Dropped>,
}

impl Dropped {
    /// What drops rows for one of the updates.
    fn only(&self, update: usize) -> Dropped {
        Dropped { masks: vec![self.masks[update]], packing: self.packing, lists: self.lists.clone() }
    }
}

impl<'a> Source<'a> {
    /// A matrix that needs not be recovered.
    pub fn new(array: &'a Tensor, dropped: Option<&'a Dropped>) -> Source<'a> {
        Source { array, recovered: None, dropped }
    }
}

/// A factor: [columns, rank] where it is read across, or else [rank, columns].
#[derive(Clone, Copy)]
pub struct Factor<Array> {
    pub array: Array,
    pub across: bool,
    /// What products with it are multiplied by.
    pub scale: f32,
}

/// The factors of updates that are worked on together.
type Factors<'a> = Factor<&'a [&'a Tensor]>;

/// Where rows times factors go: into an array, or added to it, with vectors of the columns, if
/// any.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    pub out: &'a Tensor,
    pub adds: bool,
    pub biases: &'a [&'a Tensor],
}

impl Wide {
    /// `rows` are the blocks of one update.
    fn numbers(&self, rows: usize, updates: usize, dropped: Option<&Dropped>) -> numbers::LowRank {
        let mut masks = [Mask::default(); UPDATES];
        if let Some(dropped) = dropped {
            masks[..updates].copy_from_slice(&dropped.masks);
        }
        numbers::LowRank {
            rows: (rows * updates) as i64,
            updates: updates as i64,
            step: self.step as i64,
            tokens: self.rows as i64,
            columns: self.columns as i64,
            first: self.first as i64,
            pitch: self.pitch as i64,
            rank: self.rank as i64,
            masks,
            packing: dropped.map(|dropped| dropped.packing).unwrap_or_default(),
            scale: 1.0,
            has_mask: i32::from(dropped.is_some()),
            across: 0,
            adds: 0,
            recovers: 0,
            span: 0,
        }
    }

    /// Blocks of the kernels for the rank that a multiprocessor has at once, as these ask for there.
    fn resident(&self) -> usize {
        if self.rank <= FEW_RANKS { 4 } else { 2 }
    }

    /// The kernel for the rank.
    fn of<'a>(
        &self,
        few: &'a Kernel<numbers::LowRank>,
        many: &'a Kernel<numbers::LowRank>,
    ) -> &'a Kernel<numbers::LowRank> {
        if self.rank <= FEW_RANKS { few } else { many }
    }
}

/// The inputs of a kernel: an array, by what rows are dropped, and further arrays of each update.
fn inputs<'a>(
    array: Option<&'a Tensor>,
    dropped: Option<&'a Dropped>,
    of_each: [&[&'a Tensor]; 3],
) -> Vec<Option<&'a Tensor>> {
    let [starts, places] = dropped.map_or([None, None], |dropped| dropped.lists.each_ref().map(Some));
    let of_each =
        of_each.into_iter().flat_map(|arrays| (0..UPDATES).map(|update| arrays.get(update).copied()));
    [array, starts, places].into_iter().chain(of_each).collect()
}

impl Own {
    /// Rows of a block with which all of them take the shortest time, where so many blocks have
    /// the same rows: a multiprocessor that has few blocks, or one more than others, is idle.
    fn span(&self, wide: Wide, side_by_side: usize, Spans { step, most, around }: Spans) -> usize {
        let at_once = self.multiprocessors * wide.resident();
        let steps = |&steps: &usize| {
            let blocks = wide.rows.div_ceil(steps * step) * side_by_side;
            blocks.div_ceil(at_once) * (steps + around)
        };
        (1..=most / step).rev().min_by_key(steps).unwrap_or(1) * step
    }

    /// What dropouts leave of columns of `x`, times the factor of each update read across, into an
    /// array [updates, rows, rank].
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn low_rank_down(
        &self,
        wide: Wide,
        x: &Tensor,
        dropped: Option<&Dropped>,
        factors: Factors<'_>,
        low: &Tensor,
    ) -> Result<()> {
        let numbers = numbers::LowRank {
            scale: factors.scale,
            across: i32::from(factors.across),
            ..wide.numbers(wide.rows.div_ceil(DOWN_ROWS), factors.array.len(), dropped)
        };
        let kernel = wide.of(&kernels::LOW_RANK_DOWN_16, &kernels::LOW_RANK_DOWN_64);
        self.run_into(kernel, numbers, &inputs(Some(x), dropped, [factors.array, &[], &[]]), low)
    }

    /// What dropouts leave of the rows [rows, rank] of each update times its factor, and biases,
    /// into columns of a matrix, or added to them. Updates have columns of their own, or all have
    /// the same and are added up.
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn low_rank_up(
        &self,
        wide: Wide,
        lows: &[&Tensor],
        dropped: Option<&Dropped>,
        factors: Factors<'_>,
        Update { out, adds, biases }: Update<'_>,
    ) -> Result<()> {
        let same_columns = wide.step == 0 && lows.len() > 1;
        if same_columns && wide.rank > FEW_RANKS {
            for (update, low) in lows.iter().enumerate() {
                let dropped = dropped.map(|dropped| dropped.only(update));
                let factor = Factor { array: &factors.array[update..=update], ..factors };
                let biases = biases.get(update..=update).unwrap_or_default();
                let to = Update { out, adds: adds || update > 0, biases };
                self.low_rank_up(wide, &[low], dropped.as_ref(), factor, to)?;
            }
            return Ok(());
        }
        let apart = if same_columns { 1 } else { lows.len() };
        let strips = wide.columns.div_ceil(UP_BLOCK_COLUMNS);
        let span = self.span(wide, strips * apart, UP_SPANS);
        let blocks = wide.rows.div_ceil(span) * strips;
        let numbers = numbers::LowRank {
            rows: (blocks * apart) as i64,
            scale: factors.scale,
            across: i32::from(factors.across),
            adds: i32::from(adds),
            span: span as i32,
            ..wide.numbers(blocks, lows.len(), dropped)
        };
        let kernel = wide.of(&kernels::LOW_RANK_UP_16, &kernels::LOW_RANK_UP_64);
        self.run_into(kernel, numbers, &inputs(None, dropped, [factors.array, lows, biases]), out)
    }

    /// scale times the rows [rows, rank] of each update, across, times what dropouts leave of
    /// columns of a matrix: flat, of [updates, rank, columns], or across of [updates, columns, rank].
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn low_rank_gradient(
        &self,
        wide: Wide,
        Source { array, recovered, dropped }: Source<'_>,
        lows: &[&Tensor],
        Factor { array: (), across, scale }: Factor<()>,
    ) -> Result<Tensor> {
        let elements = lows.len() * wide.rank * wide.columns;
        let strips = wide.columns.div_ceil(GRADIENT_COLUMNS);
        let span = self.span(wide, strips * lows.len(), GRADIENT_SPANS);
        let pieces = wide.rows.div_ceil(span);
        let numbers = numbers::LowRank {
            scale,
            across: i32::from(across),
            recovers: i32::from(recovered.is_some()),
            span: span as i32,
            ..wide.numbers(pieces * strips, lows.len(), dropped)
        };
        let kernel = wide.of(&kernels::LOW_RANK_GRADIENT_16, &kernels::LOW_RANK_GRADIENT_64);
        let [gain, shift] =
            recovered.as_ref().map_or([&[][..]; 2], |vectors| vectors.each_ref().map(std::slice::from_ref));
        let inputs = inputs(Some(array), dropped, [lows, gain, shift]);
        let [sums] = self.run(kernel, numbers, &inputs, [pieces * elements])?;
        if pieces == 1 {
            return Ok(sums);
        }
        let (pitch, columns) = (elements, elements);
        self.column_sums(Summands { array: &sums, factors: None, rows: pieces, pitch, first: 0, columns })
    }
}

#[cfg(test)]
mod tests;
