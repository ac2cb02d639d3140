//! The fine-grained instructions, of which expressions are made.

use candle_core::{D, Tensor};
use host_ir::graph::{Binary, Unary};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::execute::{sigmoid, slope};
use crate::backend::candle::lists::constants;
use crate::program::build::Program;
use crate::program::instruction::{Activation, Fold, Instruction};

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// The operations of expressions.
    pub(super) fn fine_grained(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        match *instruction {
            Instruction::Copy { x, out, accumulate } => {
                let x = self.get(program, x)?;
                self.set(program, out, x, accumulate)
            }
            Instruction::Unary { function, x, out } => {
                let x = self.get(program, x)?;
                let y = match function {
                    Unary::Exp => x.exp()?,
                    Unary::Log => x.log()?,
                    Unary::Sqrt => x.sqrt()?,
                    Unary::Abs => x.abs()?,
                    Unary::Tanh => x.tanh()?,
                    Unary::Sigmoid => sigmoid(&x)?,
                    Unary::Relu => x.relu()?,
                    Unary::Gelu => x.gelu_erf()?,
                    Unary::Silu => x.silu()?,
                };
                self.set(program, out, y, false)
            }
            Instruction::UnaryBackward { function, x, y, dy, dx } => {
                let (x, y, dy) = (self.get(program, x)?, self.get(program, y)?, self.get(program, dy)?);
                let slope = match function {
                    Unary::Exp => y,
                    Unary::Log => x.recip()?,
                    Unary::Sqrt => (y.recip()? * 0.5)?,
                    Unary::Abs => (x.gt(0.0)?.to_dtype(x.dtype())? - x.lt(0.0)?.to_dtype(x.dtype())?)?,
                    Unary::Tanh => (y.sqr()?.neg()? + 1.0)?,
                    Unary::Sigmoid => (&y * (y.neg()? + 1.0)?)?,
                    Unary::Relu => slope(Activation::Relu, &x)?,
                    Unary::Gelu => slope(Activation::Gelu, &x)?,
                    Unary::Silu => slope(Activation::Silu, &x)?,
                };
                self.set(program, dx, (dy * slope)?, false)
            }
            Instruction::Affine { x, factor, offset, out } => {
                let y = self.get(program, x)?.affine(f64::from(factor), f64::from(offset))?;
                self.set(program, out, y, false)
            }
            Instruction::Power { x, exponent, out } => {
                let y = self.get(program, x)?.powf(f64::from(exponent))?;
                self.set(program, out, y, false)
            }
            Instruction::Binary { function, a, b, out } => {
                let (a, b) = (self.get(program, a)?, self.get(program, b)?);
                let y = match function {
                    Binary::Add => a.broadcast_add(&b)?,
                    Binary::Subtract => a.broadcast_sub(&b)?,
                    Binary::Multiply => a.broadcast_mul(&b)?,
                    Binary::Divide => a.broadcast_div(&b)?,
                    Binary::Maximum => a.broadcast_maximum(&b)?,
                    Binary::Minimum => a.broadcast_minimum(&b)?,
                };
                self.set(program, out, y, false)
            }
            Instruction::Winner { a, b, dy, out, larger } => {
                let lead = self.get(program, a)?.broadcast_sub(&self.get(program, b)?)?;
                let lead = if larger { lead } else { lead.neg()? };
                let wins = lead.gt(0.0)?.to_dtype(lead.dtype())?;
                let equal = (lead.eq(0.0)?.to_dtype(lead.dtype())? * 0.5)?;
                let share = (self.get(program, dy)? * (wins + equal)?)?;
                self.set(program, out, share, false)
            }
            Instruction::Fold { fold, x, out, accumulate } => {
                let mut folded = self.get(program, x)?;
                let sizes = program.value(out).sizes(&self.sizes);
                for (axis, &size) in sizes.iter().enumerate() {
                    if size == 1 && folded.dim(axis)? != 1 {
                        folded = match fold {
                            Fold::Sum => folded.sum_keepdim(axis)?,
                            Fold::Maximum => folded.max_keepdim(axis)?,
                        };
                    }
                }
                self.set(program, out, folded, accumulate)
            }
            Instruction::Permute { x, ref axes, out } => {
                let y = self.get(program, x)?.permute(axes.clone())?.contiguous()?;
                self.set(program, out, y, false)
            }
            Instruction::CopyRange { x, out, axis, start, to, .. } => {
                let x = self.get(program, x)?;
                let sizes = program.value(out).sizes(&self.sizes);
                let length = (x.dim(axis)? - start).min(sizes[axis] - to);
                let part = x.narrow(axis, start, length)?.contiguous()?;
                let mut before = sizes.clone();
                before[axis] = to;
                let mut behind = sizes.clone();
                behind[axis] = sizes[axis] - to - length;
                let zeros = |sizes: Vec<usize>| Tensor::zeros(sizes, part.dtype(), &self.device);
                let whole = Tensor::cat(&[&zeros(before)?, &part, &zeros(behind)?], axis)?;
                // Ranges of one value are filled one after another.
                self.set(program, out, whole, true)
            }
            Instruction::Matmul { a, b, out, transpose, accumulate } => {
                let sizes = program.value(out).sizes(&self.sizes);
                let batched = sizes.len() > 2 && program.value(b).extents.len() == sizes.len();
                let product = matmul(&self.get(program, a)?, &self.get(program, b)?, transpose, batched)?;
                self.set(program, out, product.reshape(sizes)?, accumulate)
            }
            Instruction::Rows { table, ref indices, out } => {
                let indices = self.indices(constants(indices))?;
                let rows = self.get(program, table)?.index_select(&indices, 0)?;
                let sizes = program.value(out).sizes(&self.sizes);
                self.set(program, out, rows.reshape(sizes)?, false)
            }
            Instruction::RowsBackward { dout, ref indices, dtable, accumulate } => {
                let count = indices.len();
                let indices = self.indices(constants(indices))?;
                let sizes = program.value(dtable).sizes(&self.sizes);
                let mut rows = sizes.clone();
                rows[0] = count;
                let gradient = self.get(program, dout)?.reshape(rows)?;
                let zeros = Tensor::zeros(sizes, gradient.dtype(), &self.device)?;
                self.set(program, dtable, zeros.index_add(&indices, &gradient, 0)?, accumulate)
            }
            _ => Ok(()),
        }
    }
}

/// A product over the last two axes. Unless it is batched, leading axes of `a`
/// are further rows, which are summed over where `a` is transposed.
fn matmul(a: &Tensor, b: &Tensor, transpose: (bool, bool), batched: bool) -> Result<Tensor> {
    let shaped = |x: &Tensor| -> Result<Tensor> {
        let columns = x.dim(D::Minus1)?;
        Ok(if batched { x.clone() } else { x.reshape((x.elem_count() / columns.max(1), columns))? })
    };
    let (mut a, mut b) = (shaped(a)?, shaped(b)?);
    if transpose.0 {
        a = a.transpose(D::Minus2, D::Minus1)?.contiguous()?;
    }
    if transpose.1 {
        b = b.transpose(D::Minus2, D::Minus1)?.contiguous()?;
    }
    Ok(a.matmul(&b)?)
}
