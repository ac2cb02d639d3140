//! The root mean square norm and the gate, by kernels of our own.

use candle_core::Tensor;

use super::arrays::Made;
use super::kernels::{GATE, GATE_BACKWARD, RMS_NORM, RMS_NORM_BACKWARD};
use super::launch::Own;
use super::numbers::Activate;
use super::sums::Summands;
use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// Runs an instruction of these; answers whether it is one.
    pub(super) fn run_pre_norm(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        let made = |value: ValueId| {
            let count = program.value(value).elements(&self.sizes);
            Made { count, dtype: self.stored(program.root(value)) }
        };
        match *instruction {
            Instruction::RmsNorm { x, gain, epsilon, scale, out, after } => {
                let numbers = self.norm(program, out, [None, after], epsilon);
                let [starts, places] = self.packing_arrays(&self.rows_of(program, out))?;
                let (x, gain) = (self.peek(program, x)?, self.peek(program, gain)?);
                let inputs = [Some(&x), None, None, Some(&gain), None, Some(&starts), Some(&places)];
                let outputs = [made(out), Made::from(numbers.rows as usize)];
                let [result, roots] = own.run(&RMS_NORM, numbers, &inputs, outputs)?;
                self.set(program, scale, roots, false)?;
                self.set(program, out, result, false)?;
            }
            Instruction::RmsNormBackward { dout, x, scale, gain, after, dx, dgain } => {
                let numbers = self.norm(program, dout, [None, after], 0.0);
                let [starts, places] = self.packing_arrays(&self.rows_of(program, dout))?;
                let [dout, x, scale, gain] = [dout, x, scale, gain].map(|value| self.peek(program, value));
                let (dout, x, scale, gain) = (dout?, x?, scale?, gain?);
                let inputs = [&dout, &x, &scale, &gain].map(Some);
                let inputs = [&inputs[..], &[None, Some(&starts), Some(&places)]].concat();
                let (rows, columns) = (numbers.rows as usize, numbers.columns as usize);
                let of_gain = Made::from(dgain.map_or(0, |_| rows * columns));
                let [gradient, of_gain] =
                    own.run(&RMS_NORM_BACKWARD, numbers, &inputs, [made(dx), of_gain])?;
                if let Some(dgain) = dgain {
                    let array = &of_gain;
                    let summands = Summands { array, factors: None, rows, pitch: columns, first: 0, columns };
                    self.set(program, dgain, own.column_sums(summands)?, true)?;
                }
                self.set(program, dx, gradient, false)?;
            }
            Instruction::Gate { x, out, activation } => {
                let numbers = self.gate(program, out, Activate::number(activation));
                let x = self.peek(program, x)?;
                let [result] = own.run(&GATE, numbers, &[Some(&x)], [made(out)])?;
                self.set(program, out, result, false)?;
            }
            Instruction::GateBackward { dout, x, dx, activation } => {
                let numbers = self.gate(program, dout, Activate::number(activation));
                let [x, dout]: [Tensor; 2] = [self.peek(program, x)?, self.peek(program, dout)?];
                let [gradient] = own.run(&GATE_BACKWARD, numbers, &[Some(&x), Some(&dout)], [made(dx)])?;
                self.set(program, dx, gradient, false)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The numbers of a gate whose result, or its gradient, is this value.
    fn gate(&self, program: &Program, out: ValueId, activation: i64) -> Activate {
        let (rows, columns) = self.shape(program, out);
        Activate { rows: rows as i64, columns: columns as i64, activation }
    }
}
