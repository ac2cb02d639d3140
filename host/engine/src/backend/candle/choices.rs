//! Instructions that choose: places, comparisons, and parts of tables by them.
//! Places are chosen on the host, which reads them anyway.

use candle_core::{DType, Tensor};
use host_ir::graph::Compare;

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::cpu::largest;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    pub(super) fn choose(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        match *instruction {
            Instruction::Integers { ref source, out } => {
                let sizes = program.value(out).sizes(&self.sizes);
                let integers = self.integers(source)?.to_dtype(DType::F32)?.reshape(sizes)?;
                self.set(program, out, integers, false)
            }
            Instruction::Shift { x, by, out } => {
                let x = self.get(program, x)?;
                let (rows, moved) = (x.dim(0)?, (by.unsigned_abs() as usize).min(x.dim(0)?));
                let gap = x.narrow(0, 0, moved)?.zeros_like()?;
                let y = match by < 0 {
                    true => Tensor::cat(&[&gap, &x.narrow(0, 0, rows - moved)?], 0)?,
                    false => Tensor::cat(&[&x.narrow(0, moved, rows - moved)?, &gap], 0)?,
                };
                self.set(program, out, y, false)
            }
            Instruction::Positions { out } => {
                let count = program.value(out).elements(&self.sizes);
                let places: Vec<f32> = (0..count).map(|place| place as f32).collect();
                self.set(program, out, Tensor::from_vec(places, count, &self.device)?, false)
            }
            Instruction::DivideWhole { x, divisor, remainder, out } => {
                let x = self.get(program, x)?;
                // Halves keep what is exact from falling below its whole number.
                let whole = ((&x + 0.5)? / f64::from(divisor))?.floor()?;
                let y = if remainder { (x - (whole * f64::from(divisor))?)? } else { whole };
                self.set(program, out, y, false)
            }
            Instruction::Compare { compare, a, b, out } => {
                let (a, b) = (self.get(program, a)?, self.get(program, b)?);
                let holds = match compare {
                    Compare::Equal => a.broadcast_eq(&b)?,
                    Compare::Less => a.broadcast_lt(&b)?,
                };
                self.set(program, out, holds.to_dtype(DType::F32)?, false)
            }
            Instruction::Largest { x, out } => {
                let x = self.elements(&self.get(program, x)?)?;
                let mut places = vec![0.0; program.value(out).elements(&self.sizes)];
                largest(&x, &mut places)?;
                let count = places.len();
                self.set(program, out, Tensor::from_vec(places, count, &self.device)?, false)
            }
            Instruction::ArgMax { x, axis, out } => {
                let places = self.get(program, x)?.argmax(axis)?.to_dtype(DType::F32)?;
                self.set(program, out, places, false)
            }
            Instruction::Gather { table, places, axes, out } => {
                let places = self.get(program, places)?.flatten_all()?.to_dtype(DType::U32)?;
                let sizes = self.counted(program, table, axes);
                let parts = self.get(program, table)?.reshape(sizes)?.index_select(&places, 0)?;
                let sizes = program.value(out).sizes(&self.sizes);
                self.set(program, out, parts.reshape(sizes)?, false)
            }
            Instruction::GatherBackward { dout, places, axes, dtable, accumulate } => {
                let places = self.get(program, places)?.flatten_all()?.to_dtype(DType::U32)?;
                let (count, width) = self.counted(program, dtable, axes);
                let gradient = self.get(program, dout)?.reshape((places.elem_count(), width))?;
                let zeros = Tensor::zeros((count, width), DType::F32, &self.device)?;
                let sizes = program.value(dtable).sizes(&self.sizes);
                let sum = zeros.index_add(&places, &gradient, 0)?.reshape(sizes)?;
                self.set(program, dtable, sum, accumulate)
            }
            _ => self.fine_grained(program, instruction),
        }
    }

    /// The number of parts of a table whose first axes are counted, and their elements.
    fn counted(&self, program: &Program, table: ValueId, axes: usize) -> (usize, usize) {
        let sizes = program.value(table).sizes(&self.sizes);
        (sizes[..axes].iter().product(), sizes[axes..].iter().product())
    }
}
