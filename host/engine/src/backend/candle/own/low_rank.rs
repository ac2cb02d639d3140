//! The kernels of low-rank updates of linear layers, and of their gradients, which read a wide
//! matrix once and drop in registers (`cuda/low_rank.cuh`).

use candle_core::Tensor;

use super::kernels::{self, Kernel};
use super::launch::Own;
use super::numbers::{self, Mask, Packing};
use super::sums::Summands;
use crate::backend::BackendError;

type Result<T> = std::result::Result<T, BackendError>;

/// The highest rank that the kernels take, and for which those for few are.
pub const RANKS: usize = 64;
const FEW_RANKS: usize = 16;
/// Rows of a block of `low_rank_down` and `low_rank_up`, and of a piece of a gradient;
/// columns of a block of `low_rank_up`, and of a gradient; as in `cuda/low_rank.cuh`.
const DOWN_ROWS: usize = 32;
const UP_ROWS: usize = 64;
const GRADIENT_ROWS: usize = 256;
const UP_COLUMNS: usize = 256;
const GRADIENT_COLUMNS: usize = 64;

/// Some columns of a matrix of rows, and a rank.
#[derive(Clone, Copy)]
pub struct Wide {
    pub rows: usize,
    pub columns: usize,
    /// The first of them, and all columns of the matrix.
    pub first: usize,
    pub pitch: usize,
    pub rank: usize,
}

/// By what rows of a wide matrix are dropped, if they are: the mask, to what the rows belong,
/// and the lists of that (`Candle::packing_arrays`).
pub struct Dropped {
    pub mask: Mask,
    pub packing: Packing,
    pub lists: [Tensor; 2],
}

/// A factor: [columns, rank] where it is read across, or else [rank, columns].
#[derive(Clone, Copy)]
pub struct Factor<Array> {
    pub array: Array,
    pub across: bool,
    /// What products with it are multiplied by.
    pub scale: f32,
}

impl<Array> Factor<Array> {
    /// The same of an array.
    pub fn of<Other>(self, array: Other) -> Factor<Other> {
        Factor { array, across: self.across, scale: self.scale }
    }
}

/// Where rows times a factor go: into an array, or added to it, with a vector of the columns.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    pub out: &'a Tensor,
    pub adds: bool,
    pub bias: Option<&'a Tensor>,
}

impl Wide {
    fn numbers(&self, rows: usize, dropped: Option<&Dropped>) -> numbers::LowRank {
        numbers::LowRank {
            rows: rows as i64,
            tokens: self.rows as i64,
            columns: self.columns as i64,
            first: self.first as i64,
            pitch: self.pitch as i64,
            rank: self.rank as i64,
            mask: dropped.map(|dropped| dropped.mask).unwrap_or_default(),
            packing: dropped.map(|dropped| dropped.packing).unwrap_or_default(),
            scale: 1.0,
            has_mask: i32::from(dropped.is_some()),
            across: 0,
            adds: 0,
        }
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

/// The inputs of a kernel: an array, by what rows are dropped, and another array.
fn inputs<'a>(array: &'a Tensor, dropped: Option<&'a Dropped>, other: &'a Tensor) -> [Option<&'a Tensor>; 4] {
    let [starts, places] = dropped.map_or([None, None], |dropped| dropped.lists.each_ref().map(Some));
    [Some(array), starts, places, Some(other)]
}

impl Own {
    /// What a dropout leaves of columns of `x`, times a factor read across to [rows, rank],
    /// into an array of that size.
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn low_rank_down(
        &self,
        wide: Wide,
        x: &Tensor,
        dropped: Option<&Dropped>,
        factor: Factor<&Tensor>,
        low: &Tensor,
    ) -> Result<()> {
        let numbers = numbers::LowRank {
            scale: factor.scale,
            across: i32::from(factor.across),
            ..wide.numbers(wide.rows.div_ceil(DOWN_ROWS), dropped)
        };
        let kernel = wide.of(&kernels::LOW_RANK_DOWN_16, &kernels::LOW_RANK_DOWN_64);
        self.run_into(kernel, numbers, &inputs(x, dropped, factor.array), low)
    }

    /// What a dropout leaves of `low` [rows, rank] times a factor, and a bias, into columns of a
    /// matrix, or added to them.
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn low_rank_up(
        &self,
        wide: Wide,
        low: &Tensor,
        dropped: Option<&Dropped>,
        factor: Factor<&Tensor>,
        Update { out, adds, bias }: Update<'_>,
    ) -> Result<()> {
        let blocks = wide.rows.div_ceil(UP_ROWS) * wide.columns.div_ceil(UP_COLUMNS);
        let numbers = numbers::LowRank {
            scale: factor.scale,
            across: i32::from(factor.across),
            adds: i32::from(adds),
            ..wide.numbers(blocks, dropped)
        };
        let kernel = wide.of(&kernels::LOW_RANK_UP_16, &kernels::LOW_RANK_UP_64);
        let inputs = [&inputs(low, dropped, factor.array)[..], &[bias]].concat();
        self.run_into(kernel, numbers, &inputs, out)
    }

    /// scale times `low` [rows, rank], across, times what a dropout leaves of columns of `x`:
    /// flat, of [rank, columns], or across of [columns, rank].
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn low_rank_gradient(
        &self,
        wide: Wide,
        x: &Tensor,
        dropped: Option<&Dropped>,
        low: &Tensor,
        Factor { array: (), across, scale }: Factor<()>,
    ) -> Result<Tensor> {
        let elements = wide.rank * wide.columns;
        let pieces = wide.rows.div_ceil(GRADIENT_ROWS);
        let numbers = numbers::LowRank {
            scale,
            across: i32::from(across),
            ..wide.numbers(pieces * wide.columns.div_ceil(GRADIENT_COLUMNS), dropped)
        };
        let kernel = wide.of(&kernels::LOW_RANK_GRADIENT_16, &kernels::LOW_RANK_GRADIENT_64);
        let [sums] = self.run(kernel, numbers, &inputs(x, dropped, low), [pieces * elements])?;
        if pieces == 1 {
            return Ok(sums);
        }
        let (pitch, columns) = (elements, elements);
        self.column_sums(Summands { array: &sums, factors: None, rows: pieces, pitch, first: 0, columns })
    }
}

#[cfg(test)]
mod tests;
