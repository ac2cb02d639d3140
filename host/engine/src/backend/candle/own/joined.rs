//! A linear layer together with the low-rank updates and the bias that are added to it: these
//! are written first, and the product is added to them, by the one that reads it anyway. One
//! after the other, each would read and write all of the result once more.

use candle_core::Tensor;

use super::kernels::ADD_BIAS;
use super::launch::Own;
use super::linear::LinearProduct;
use super::numbers::AddBias;
use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

/// What comes behind a linear layer's product.
struct Added {
    low_ranks: Vec<Instruction>,
    bias: ValueId,
}

impl Candle {
    /// What the instructions behind this one add to its result, where a bias is the last of it.
    fn added(&self, program: &Program, result: ValueId) -> Option<Added> {
        let mut low_ranks = Vec::new();
        for instruction in program.instructions().skip(self.place + 1) {
            match *instruction {
                Instruction::LowRank { y, .. } if y == result => low_ranks.push(instruction.clone()),
                Instruction::AddBias { y, bias, first_column: 0 } if y == result => {
                    return Some(Added { low_ranks, bias });
                }
                _ => return None,
            }
        }
        None
    }

    /// Runs a linear layer's product and what is added to it; answers whether the instruction
    /// begins such a layer. The instructions that are done with it are counted in `ahead`.
    pub(super) fn run_joined(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        let Instruction::Linear { x, weight, y, first_column: 0 } = *instruction else { return Ok(false) };
        let Some(Added { low_ranks, bias }) = self.added(program, y) else { return Ok(false) };
        let (outputs, (rows, pitch)) = (self.shape(program, weight).0, self.shape(program, y));
        let bias = self.get(program, bias)?.flatten_all()?;
        if outputs != pitch || bias.elem_count() != pitch {
            return Ok(false);
        }
        let result = self.writable(program, y, true)?;
        // Kernels write the bias of the columns that they update.
        let by_kernels = match self.step_between(program, &low_ranks) {
            None => &[],
            Some(step) => {
                let mut biases = Vec::new();
                for low_rank in &low_ranks {
                    if let Instruction::LowRank { first_column, b, .. } = *low_rank {
                        biases.push(bias.narrow(0, first_column, self.shape(program, b).0)?);
                    }
                }
                let biases: Vec<&Tensor> = biases.iter().collect();
                self.run_updates(own, program, &low_ranks, step, &biases)?;
                &low_ranks[..]
            }
        };
        let mut rest = 0;
        for low_rank in by_kernels {
            if let Instruction::LowRank { first_column, b, .. } = *low_rank {
                put_bias(own, &bias, &result, (rows, pitch), rest..first_column)?;
                rest = first_column + self.shape(program, b).0;
            }
        }
        put_bias(own, &bias, &result, (rows, pitch), rest..pitch)?;
        for low_rank in &low_ranks[by_kernels.len()..] {
            self.run_low_rank(own, program, low_rank)?;
        }
        let product = LinearProduct { x, weight, y, first_column: 0, accumulate: true };
        self.multiply(own, program, &product, &result)?;
        self.ahead = low_ranks.len() + 1;
        Ok(true)
    }
}

/// Puts a bias into some columns of every row.
fn put_bias(
    own: &Own,
    bias: &Tensor,
    result: &Tensor,
    (rows, pitch): (usize, usize),
    columns: std::ops::Range<usize>,
) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    let numbers = AddBias {
        rows: rows as i64,
        columns: columns.len() as i64,
        first: columns.start as i64,
        pitch: pitch as i64,
        adds: 0,
    };
    own.run_into(&ADD_BIAS, numbers, &[Some(&bias.narrow(0, columns.start, columns.len())?)], result)
}
