//! Linear layers and their biases, by products that write where the
//! result belongs.

use candle_core::{DType, Tensor};

use super::arrays::Made;
use super::kernels::{ADD_BIAS, ROW_DROPOUT};
use super::launch::Own;
use super::numbers::{AddBias, RowDropout};
use super::products::{Product, Side};
use super::sums::Summands;
use crate::backend::BackendError;
use crate::backend::candle::products::Products;
use crate::backend::candle::{Candle, masks};
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::{Storage, ValueId};

type Result<T> = std::result::Result<T, BackendError>;

/// x times the rows of a weight, for columns of y from one on, alone or added to what is there.
pub(super) struct LinearProduct {
    pub x: ValueId,
    pub weight: ValueId,
    pub y: ValueId,
    pub first_column: usize,
    pub accumulate: bool,
}

impl Candle {
    /// Runs an instruction of a linear layer; answers whether it is one.
    pub(super) fn run_linear(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        match *instruction {
            Instruction::Linear { x, weight, y, first_column } => {
                let whole = self.shape(program, weight).0 == self.shape(program, y).1;
                let result = self.writable(program, y, whole)?;
                let product = LinearProduct { x, weight, y, first_column, accumulate: false };
                self.multiply(own, program, &product, &result)?;
            }
            Instruction::LinearInputGradient { dy, weight, dx, first_column, accumulate } => {
                let (outputs, inputs) = self.shape(program, weight);
                let (rows, pitch) = self.shape(program, dy);
                let (left, right) = (self.operand(own, program, dy)?, self.operand(own, program, weight)?);
                let product = Product {
                    rows,
                    columns: inputs,
                    inner: outputs,
                    left: Side::new(&left, pitch).from(first_column),
                    right: Side::new(&right, inputs),
                    factor: 1.0,
                    pitch: inputs,
                    first: 0,
                    accumulate,
                };
                product.write_to(&self.writable(program, dx, !accumulate)?)?;
            }
            Instruction::LinearWeightGradient { dy, x, dweight, first_column, accumulate } => {
                let (outputs, inputs) = self.shape(program, dweight);
                let (rows, pitch) = self.shape(program, dy);
                let (left, right) = (self.operand(own, program, dy)?, self.operand(own, program, x)?);
                let left = Side::new(&left, pitch).from(first_column).across();
                let product = weight_gradient([outputs, inputs, rows], left, Side::new(&right, inputs), 1.0);
                self.set(program, dweight, product.made()?, accumulate)?;
            }
            Instruction::AddBias { y, bias, first_column } => {
                let (rows, pitch) = self.shape(program, y);
                let bias = self.get(program, bias)?;
                let columns = bias.elem_count();
                let numbers = AddBias {
                    rows: rows as i64,
                    columns: columns as i64,
                    first: first_column as i64,
                    pitch: pitch as i64,
                    adds: 1,
                };
                own.run_into(&ADD_BIAS, numbers, &[Some(&bias)], &self.writable(program, y, false)?)?;
            }
            Instruction::ColumnSums { dy, dbias, first_column, accumulate } => {
                let (rows, pitch) = self.shape(program, dy);
                let columns = program.value(dbias).elements(&self.sizes);
                let array = self.peek(program, dy)?;
                let summands =
                    Summands { array: &array, factors: None, rows, pitch, first: first_column, columns };
                self.set(program, dbias, own.column_sums(summands)?, accumulate)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes a linear layer's product to where it belongs in the result's array.
    pub(super) fn multiply(
        &self,
        own: &Own,
        program: &Program,
        of: &LinearProduct,
        result: &Tensor,
    ) -> Result<()> {
        let ((rows, inputs), outputs) = (self.shape(program, of.x), self.shape(program, of.weight).0);
        let (left, right) = (self.operand(own, program, of.x)?, self.operand(own, program, of.weight)?);
        let product = Product {
            rows,
            columns: outputs,
            inner: inputs,
            left: Side::new(&left, inputs),
            right: Side::new(&right, inputs).across(),
            factor: 1.0,
            pitch: self.shape(program, of.y).1,
            first: of.first_column,
            accumulate: of.accumulate,
        };
        product.write_to(result)
    }

    /// Rows and columns of a value.
    pub(super) fn shape(&self, program: &Program, value: ValueId) -> (usize, usize) {
        let columns = program.value(value).columns(&self.sizes);
        (program.value(value).elements(&self.sizes) / columns.max(1), columns)
    }

    /// A value as products read it, contiguous. Working values that several products read
    /// one after the other are converted once.
    pub(super) fn operand(&self, own: &Own, program: &Program, value: ValueId) -> Result<Tensor> {
        if let Storage::Parameter { .. } = program.value(value).storage {
            let weight = self.weight(program, value)?;
            return self.as_operand(own, &weight, self.shape(program, value).1, None);
        }
        let root = program.root(value);
        if let Some(known) = self.held.operand(root) {
            return Ok(known);
        }
        let operand =
            self.as_operand(own, &self.peek(program, value)?, self.shape(program, value).1, None)?;
        if self.products == Products::Bf16 && self.stored(root) != DType::BF16 {
            self.held.keep_operand(root, operand.clone());
        }
        Ok(operand)
    }

    /// What a dropout of rows leaves of a value, as products read it.
    pub(super) fn dropped_operand(
        &self,
        own: &Own,
        program: &Program,
        value: ValueId,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let Some(dropout) = dropout.filter(|&dropout| masks::mask(&self.step, dropout).is_some()) else {
            return self.operand(own, program, value);
        };
        self.as_operand(
            own,
            &self.peek(program, value)?,
            self.shape(program, value).1,
            Some((value, dropout, program)),
        )
    }

    /// An array as products read it, behind a dropout of the rows of a value.
    fn as_operand(
        &self,
        own: &Own,
        x: &Tensor,
        columns: usize,
        dropout: Option<(ValueId, Dropout, &Program)>,
    ) -> Result<Tensor> {
        let dtype = self.products.operands();
        let mask = dropout.and_then(|(value, dropout, program)| {
            Some((self.rows_of(program, value), masks::mask(&self.step, dropout)?))
        });
        if mask.is_none() && x.dtype() == dtype {
            return Ok(x.contiguous()?);
        }
        let count = x.elem_count();
        let rows = count / columns.max(1);
        let (numbers, lists) = match &mask {
            Some((of, mask)) => (RowDropout::with(rows, columns, *mask, of), Some(self.packing_arrays(of)?)),
            None => (RowDropout::without(rows, columns), None),
        };
        let [starts, places] = lists.as_ref().map_or([None, None], |lists| lists.each_ref().map(Some));
        let [operand] =
            own.run(&ROW_DROPOUT, numbers, &[Some(x), starts, places], [Made { count, dtype }])?;
        Ok(operand)
    }

    /// The array of a value that is no parameter's and no gradient, to be written to: as it
    /// is, or whatever it is where all of it is written.
    pub(super) fn writable(&mut self, program: &Program, value: ValueId, whole: bool) -> Result<Tensor> {
        let root = program.root(value);
        let place = root.0 as usize;
        let (count, dtype) = (program.value(value).elements(&self.sizes), self.stored(root));
        // SAFETY: all of it is written.
        let unwritten = || unsafe { Tensor::empty(count, dtype, &self.device) };
        self.held.changed(root);
        match program.value(root).storage {
            Storage::Working | Storage::InPlaceOf(_) => {}
            Storage::Kept { slot } => {
                // Others may have read where it lies.
                let array = if whole { unwritten()? } else { self.remembered(slot, count)?.copy()? };
                self.kept.insert(slot, array.clone());
                return Ok(array);
            }
            Storage::Parameter { .. } | Storage::Gradient { .. } => {
                return Err(BackendError::Wrong(format!("value {} is not written to in place", value.0)));
            }
        }
        if self.held.alone(root)
            && let Some(held) = &self.values[place]
        {
            return Ok(held.clone());
        }
        let array = match &self.values[place] {
            _ if whole => unwritten()?,
            Some(held) => held.contiguous()?.copy()?,
            None => Tensor::zeros(count, dtype, &self.device)?,
        };
        self.values[place] = Some(array.clone());
        self.held.made(root);
        Ok(array)
    }
}

/// The product over rows that a weight's gradient is: sizes are its rows, its columns and
/// the rows.
pub(super) fn weight_gradient<'a>(
    [rows, columns, inner]: [usize; 3],
    left: Side<'a>,
    right: Side<'a>,
    factor: f32,
) -> Product<'a> {
    Product { rows, columns, inner, left, right, factor, pitch: columns, first: 0, accumulate: false }
}
