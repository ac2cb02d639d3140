//! Instructions of low-rank updates by products, where kernels do not compute them: where products
//! are not of bf16, and of high ranks.

use candle_core::Tensor;

use super::kernels::ADD_ROWS;
use super::launch::Own;
use super::linear::weight_gradient;
use super::low_rank::{Factor, Wide};
use super::numbers::RowDropout;
use super::products::{Product, Side};
use crate::backend::BackendError;
use crate::backend::candle::{Candle, masks};
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// Runs a low-rank update, added to its result.
    pub(super) fn run_by_products(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<()> {
        let Instruction::LowRank { x, a, b, hidden, y, first_column, scale, dropout } = *instruction else {
            return Ok(());
        };
        let ((rank, inputs), (outputs, _)) = (self.shape(program, a), self.shape(program, b));
        let (rows, pitch) = self.shape(program, y);
        let low = self.writable(program, hidden, true)?;
        let wide = Wide { rows, columns: inputs, first: 0, step: 0, pitch: inputs, rank };
        let of = Factor { array: a, across: false, scale: 1.0 };
        self.down_by_products(own, program, wide, (x, dropout), of, &low)?;
        let low = self.operand(own, program, hidden)?;
        let wide = Wide { rows, columns: outputs, first: first_column, step: 0, pitch, rank };
        let of = Factor { array: b, across: true, scale };
        self.up_by_products(own, program, wide, &low, of, (y, true, None))
    }

    /// Runs the gradients of a low-rank update.
    pub(super) fn run_backward_by_products(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<()> {
        let Instruction::LowRankBackward {
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
        } = *instruction
        else {
            return Ok(());
        };
        let ((rank, inputs), (outputs, _)) = (self.shape(program, a), self.shape(program, b));
        let (rows, pitch) = self.shape(program, dy);
        // SAFETY: all of it is written.
        let low = unsafe { Tensor::empty(rows * rank, self.products.operands(), &self.device) }?;
        let wide = Wide { rows, columns: outputs, first: first_column, step: 0, pitch, rank };
        let of = Factor { array: b, across: true, scale };
        self.down_by_products(own, program, wide, (dy, None), of, &low)?;
        if let Some(db) = db {
            let hidden = self.operand(own, program, hidden)?;
            let of = Factor { array: (), across: true, scale };
            let gradient = self.gradient_by_products(own, program, wide, (dy, None), &hidden, of)?;
            self.set(program, db, gradient, true)?;
        }
        let wide = Wide { rows, columns: inputs, first: 0, step: 0, pitch: inputs, rank };
        if let (Some(da), Some(x)) = (da, x) {
            let of = Factor { array: (), across: false, scale: 1.0 };
            let gradient = self.gradient_by_products(own, program, wide, (x, dropout), &low, of)?;
            self.set(program, da, gradient, true)?;
        }
        if let Some((dx, accumulate)) = dx {
            let of = Factor { array: a, across: false, scale: 1.0 };
            self.up_by_products(own, program, wide, &low, of, (dx, accumulate, dropout))?;
        }
        Ok(())
    }

    /// What a dropout leaves of columns of a value, times a factor read across.
    fn down_by_products(
        &self,
        own: &Own,
        program: &Program,
        wide: Wide,
        (x, dropout): (ValueId, Option<Dropout>),
        factor: Factor<ValueId>,
        low: &Tensor,
    ) -> Result<()> {
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

    /// Rows times a factor behind a dropout, into a value or added to it.
    fn up_by_products(
        &mut self,
        own: &Own,
        program: &Program,
        wide: Wide,
        low: &Tensor,
        factor: Factor<ValueId>,
        (out, adds, dropout): (ValueId, bool, Option<Dropout>),
    ) -> Result<()> {
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

    /// scale times rows, across, times what a dropout leaves of columns of a value; or that across.
    fn gradient_by_products(
        &self,
        own: &Own,
        program: &Program,
        wide: Wide,
        (x, dropout): (ValueId, Option<Dropout>),
        low: &Tensor,
        factor: Factor<()>,
    ) -> Result<Tensor> {
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
