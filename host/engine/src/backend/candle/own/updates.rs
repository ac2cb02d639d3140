//! Instructions of low-rank updates: by the kernels of `low_rank.rs` where products are of bf16,
//! elsewhere by products.

use candle_core::Tensor;

use super::kernels::ADD_ROWS;
use super::launch::Own;
use super::linear::weight_gradient;
use super::low_rank::{Dropped, Factor, RANKS, Update, Wide};
use super::numbers::{Packing, RowDropout};
use super::products::{Product, Side};
use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::masks;
use crate::backend::candle::products::Products;
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// Runs an instruction of a low-rank update; answers whether it is one.
    pub(super) fn run_low_rank(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        match *instruction {
            Instruction::LowRank { .. } => self.run_update(own, program, instruction, None)?,
            Instruction::LowRankBackward {
                dy,
                x,
                a,
                b,
                hidden,
                da,
                db,
                dx,
                first_column,
                scale,
                dropout,
                ..
            } => {
                let ((rank, inputs), (outputs, _)) = (self.shape(program, a), self.shape(program, b));
                let (rows, pitch) = self.shape(program, dy);
                // SAFETY: all of it is written.
                let low = unsafe { Tensor::empty(rows * rank, self.products.operands(), &self.device) }?;
                let wide = Wide { rows, columns: outputs, first: first_column, pitch, rank };
                let of = Factor { array: b, across: true, scale };
                self.low_rank_down(own, program, wide, (dy, None), of, &low)?;
                if let Some(db) = db {
                    let hidden = self.operand(own, program, hidden)?;
                    let of = Factor { array: (), across: true, scale };
                    let gradient = self.low_rank_gradient(own, program, wide, (dy, None), &hidden, of)?;
                    self.set(program, db, gradient, true)?;
                }
                let wide = Wide { rows, columns: inputs, first: 0, pitch: inputs, rank };
                if let (Some(da), Some(x)) = (da, x) {
                    let of = Factor { array: (), across: false, scale: 1.0 };
                    let gradient = self.low_rank_gradient(own, program, wide, (x, dropout), &low, of)?;
                    self.set(program, da, gradient, true)?;
                }
                if let Some((dx, accumulate)) = dx {
                    let of = Factor { array: a, across: false, scale: 1.0 };
                    self.low_rank_up(own, program, wide, &low, of, (dx, accumulate, dropout))?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Runs a low-rank update, added to its result; or in its place, together with a bias of
    /// its columns, where the result's array was made.
    pub(super) fn run_update(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
        bias: Option<&Tensor>,
    ) -> Result<()> {
        let Instruction::LowRank { x, a, b, hidden, y, first_column, scale, dropout } = *instruction else {
            return Ok(());
        };
        let ((rank, inputs), (outputs, _)) = (self.shape(program, a), self.shape(program, b));
        let (rows, pitch) = self.shape(program, y);
        let low = self.writable(program, hidden, true)?;
        let wide = Wide { rows, columns: inputs, first: 0, pitch: inputs, rank };
        let of = Factor { array: a, across: false, scale: 1.0 };
        self.low_rank_down(own, program, wide, (x, dropout), of, &low)?;
        let low = self.operand(own, program, hidden)?;
        let wide = Wide { rows, columns: outputs, first: first_column, pitch, rank };
        let of = Factor { array: b, across: true, scale };
        let Some(bias) = bias else {
            return self.low_rank_up(own, program, wide, &low, of, (y, true, None));
        };
        let array = self.weight(program, b)?;
        let result = self.writable(program, y, false)?;
        own.low_rank_up(
            wide,
            &low,
            None,
            of.of(&array),
            Update { out: &result, adds: false, bias: Some(bias) },
        )
    }

    /// Whether there are kernels for a rank, or else products.
    pub(super) fn by_kernels(&self, rank: usize) -> bool {
        self.products == Products::Bf16 && rank <= RANKS
    }

    /// By what a dropout of the rows of a value drops them.
    fn dropped(
        &self,
        program: &Program,
        value: ValueId,
        dropout: Option<Dropout>,
    ) -> Result<Option<Dropped>> {
        let Some(mask) = dropout.and_then(|dropout| masks::mask(&self.step, dropout)) else {
            return Ok(None);
        };
        let rows = self.rows_of(program, value);
        let (packing, lists) = (Packing::from(&rows), self.packing_arrays(&rows)?);
        Ok(Some(Dropped { mask: mask.into(), packing, lists }))
    }

    /// [`Own::low_rank_down`] of a value behind a dropout.
    fn low_rank_down(
        &self,
        own: &Own,
        program: &Program,
        wide: Wide,
        (x, dropout): (ValueId, Option<Dropout>),
        factor: Factor<ValueId>,
        low: &Tensor,
    ) -> Result<()> {
        if self.by_kernels(wide.rank) {
            let (array, dropped) = (self.weight(program, factor.array)?, self.dropped(program, x, dropout)?);
            return own.low_rank_down(
                wide,
                &self.peek(program, x)?,
                dropped.as_ref(),
                factor.of(&array),
                low,
            );
        }
        let input = self.dropped_operand(own, program, x, dropout)?;
        let array = self.operand(own, program, factor.array)?;
        let product = Product {
            rows: wide.rows,
            columns: wide.rank,
            inner: wide.columns,
            left: Side::new(&input, wide.pitch).from(wide.first),
            right: match factor.across {
                true => Side::new(&array, wide.rank),
                false => Side::new(&array, wide.columns).across(),
            },
            factor: factor.scale,
            pitch: wide.rank,
            first: 0,
            accumulate: false,
        };
        product.write_to(low)
    }

    /// [`Own::low_rank_up`] into a value, or added to it, behind a dropout.
    fn low_rank_up(
        &mut self,
        own: &Own,
        program: &Program,
        wide: Wide,
        low: &Tensor,
        factor: Factor<ValueId>,
        (out, adds, dropout): (ValueId, bool, Option<Dropout>),
    ) -> Result<()> {
        if self.by_kernels(wide.rank) {
            let (array, dropped) =
                (self.weight(program, factor.array)?, self.dropped(program, out, dropout)?);
            let out = self.writable(program, out, !adds)?;
            let update = Update { out: &out, adds, bias: None };
            return own.low_rank_up(wide, low, dropped.as_ref(), factor.of(&array), update);
        }
        let array = self.operand(own, program, factor.array)?;
        let product = Product {
            rows: wide.rows,
            columns: wide.columns,
            inner: wide.rank,
            left: Side::new(low, wide.rank),
            right: match factor.across {
                true => Side::new(&array, wide.rank).across(),
                false => Side::new(&array, wide.columns),
            },
            factor: factor.scale,
            pitch: wide.pitch,
            first: wide.first,
            accumulate: adds,
        };
        self.add_dropped(own, program, &product, out, dropout)
    }

    /// [`Own::low_rank_gradient`] of a value behind a dropout.
    fn low_rank_gradient(
        &self,
        own: &Own,
        program: &Program,
        wide: Wide,
        (x, dropout): (ValueId, Option<Dropout>),
        low: &Tensor,
        factor: Factor<()>,
    ) -> Result<Tensor> {
        if self.by_kernels(wide.rank) {
            let dropped = self.dropped(program, x, dropout)?;
            return own.low_rank_gradient(wide, &self.peek(program, x)?, dropped.as_ref(), low, factor);
        }
        let input = self.dropped_operand(own, program, x, dropout)?;
        let (low, input) = (Side::new(low, wide.rank), Side::new(&input, wide.pitch).from(wide.first));
        let product = match factor.across {
            true => weight_gradient([wide.columns, wide.rank, wide.rows], input.across(), low, factor.scale),
            false => weight_gradient([wide.rank, wide.columns, wide.rows], low.across(), input, factor.scale),
        };
        product.made()
    }

    /// Puts a product at a value's place, or adds it, behind a dropout.
    fn add_dropped(
        &mut self,
        own: &Own,
        program: &Program,
        product: &Product<'_>,
        out: ValueId,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        let mask = dropout.and_then(|dropout| masks::mask(&self.step, dropout));
        let (Some(mask), Some(dropout)) = (mask, dropout) else {
            return product.write_to(&self.writable(program, out, !product.accumulate)?);
        };
        let rows = self.rows_of(program, out);
        if !product.accumulate {
            let gradient = product.made_of(self.products.operands())?;
            let dropped = self.own_dropout(&gradient, dropout, &rows, product.columns)?;
            let dropped = dropped.ok_or_else(|| BackendError::Wrong("a dropout without its mask".into()))?;
            return self.set(program, out, dropped, false);
        }
        let numbers = RowDropout::with(product.rows, product.columns, mask, &rows);
        let [starts, places] = self.packing_arrays(&rows)?;
        let gradient = product.made_of(self.products.operands())?;
        let inputs = [&gradient, &starts, &places].map(Some);
        own.run_into(&ADD_ROWS, numbers, &inputs, &self.writable(program, out, false)?)
    }
}
