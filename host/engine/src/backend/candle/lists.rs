//! The lists of a batch on the device, and what is looked up by them: rows of tables and
//! rows of values.

use candle_core::{DType, Tensor, WithDType};

use crate::backend::candle::Candle;
use crate::backend::{BackendError, no_labels};
use crate::program::build::Program;
use crate::program::instruction::{Instruction, Integers, RowChoice};
use crate::program::value::{Extent, ValueId};

type Result<T> = std::result::Result<T, BackendError>;

/// Bytes that CUDA's driver takes from ordinary memory at once, without waiting for what
/// the device still computes ("Asynchronous Concurrent Execution" in NVIDIA's
/// programming guide). A batch may have more rows.
const AT_ONCE: usize = 64 << 10;

/// Which rows of the tables each row of a batch takes, and whether it is virtual.
#[derive(Default)]
struct Lookup {
    is_virtual: Vec<bool>,
    words: Vec<u32>,
    prompt: Vec<u32>,
    positions: Vec<u32>,
    types: Vec<u32>,
}

impl Candle {
    pub(super) fn integers(&self, integers: &Integers) -> Result<Tensor> {
        let values: Vec<u32> = match integers {
            Integers::Label(field) => {
                let labels = self.batch.labels.get(field).ok_or_else(|| no_labels(field))?;
                labels.iter().map(|&label| label as u32).collect()
            }
            Integers::ExampleLabel(field) => {
                let labels = self.batch.labels_of_examples(field).ok_or_else(|| no_labels(field))?;
                labels.iter().map(|&label| label as u32).collect()
            }
            Integers::MaskedTokens => self.batch.masked_tokens.iter().map(|&token| token as u32).collect(),
            Integers::TargetTokens => self.batch.target.tokens.iter().map(|&token| token as u32).collect(),
            Integers::Constant(values) => values.iter().map(|&value| value as u32).collect(),
            Integers::Words(field) => {
                let numbers = self.batch.word_numbers.get(field).ok_or_else(|| {
                    BackendError::Wrong(format!("the batch has no numbers of words of the field {field}"))
                })?;
                numbers.iter().map(|&number| number as u32).collect()
            }
            Integers::Spans { field, width } => {
                let numbers = self.batch.span_numbers(field, *width).ok_or_else(|| {
                    BackendError::Wrong(format!("the batch has no spans of the field {field}"))
                })?;
                numbers.iter().map(|&number| number as u32).collect()
            }
        };
        self.indices(values)
    }

    fn chosen(&self, choice: RowChoice) -> Result<Tensor> {
        let rows: Vec<u32> = match choice {
            RowChoice::FirstToken => {
                let starts = &self.batch.starts[..self.batch.sequences()];
                starts.iter().map(|start| start + self.batch.virtual_tokens).collect()
            }
            RowChoice::Masked => self.batch.masked_rows.clone(),
            RowChoice::Words => self.batch.word_rows.clone(),
            RowChoice::LastTarget => self.batch.target.last_rows().collect(),
            RowChoice::MaskedTarget => self.batch.target.masked_rows.clone(),
        };
        self.indices(rows)
    }

    /// Which rows of the tables the rows of `value` take.
    fn lookup(&self, program: &Program, value: ValueId) -> Lookup {
        let (batch, target) = (&self.batch, &self.batch.target);
        let decodes = program.value(value).extents.first() == Some(&Extent::Targets);
        let (starts, ids, virtual_tokens) = match decodes {
            true => (&target.starts, &target.ids, 0),
            false => (&batch.starts, &batch.ids, batch.virtual_tokens),
        };
        let mut lookup = Lookup {
            positions: if decodes { target.positions.clone() } else { batch.positions.clone() },
            types: if decodes { Vec::new() } else { batch.token_types.clone() },
            ..Lookup::default()
        };
        for range in starts.windows(2) {
            for row in range[0]..range[1] {
                let number = row - range[0];
                let is_virtual = number < virtual_tokens;
                lookup.is_virtual.push(is_virtual);
                lookup.prompt.push(if is_virtual { number } else { 0 });
                lookup.words.push(if is_virtual { 0 } else { ids[row as usize] });
            }
        }
        lookup
    }

    /// A list on the device, to which it is copied once a batch: layers ask for the same.
    pub(super) fn indices(&self, values: Vec<u32>) -> Result<Tensor> {
        if let Some(known) = self.lists.borrow().get(&values) {
            return Ok(known.clone());
        }
        let list = self.copied(&values)?;
        self.lists.borrow_mut().insert(values, list.clone());
        Ok(list)
    }

    /// A list on the device, in parts for which a driver does not wait.
    fn copied<T: WithDType>(&self, values: &[T]) -> Result<Tensor> {
        let parts = values.chunks(AT_ONCE / size_of::<T>());
        let parts = parts.map(|part| Tensor::from_slice(part, part.len(), &self.device));
        let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(match &parts[..] {
            [] => Tensor::zeros(0, T::DTYPE, &self.device)?,
            [whole] => whole.clone(),
            parts => Tensor::cat(parts, 0)?,
        })
    }

    /// [rows, 1]: 1 for virtual rows, or for the others.
    fn indicator(&self, flags: &[bool], of: bool) -> Result<Tensor> {
        let values: Vec<f32> = flags.iter().map(|&flag| f32::from(u8::from(flag == of))).collect();
        Ok(self.copied(&values)?.reshape((values.len(), 1))?)
    }

    /// Instructions that look up.
    pub(super) fn look_up(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        match *instruction {
            Instruction::Embed { word, factor, position, token_type, prompt, out, .. } => {
                let rows = self.lookup(program, out);
                let flags = rows.is_virtual;
                let words = self.get(program, word)?.index_select(&self.indices(rows.words)?, 0)?;
                let mut sum = (words * f64::from(factor))?;
                if let Some(prompt) = prompt {
                    let prompt = self.get(program, prompt)?.index_select(&self.indices(rows.prompt)?, 0)?;
                    let words = sum.broadcast_mul(&self.indicator(&flags, false)?)?;
                    sum = (words + prompt.broadcast_mul(&self.indicator(&flags, true)?)?)?;
                }
                for (table, numbers) in [(position, rows.positions), (token_type, rows.types)] {
                    if let Some(table) = table {
                        sum = (sum + self.get(program, table)?.index_select(&self.indices(numbers)?, 0)?)?;
                    }
                }
                self.set(program, out, sum, false)
            }
            Instruction::EmbedBackward { gradient, word, factor, padding, position, token_type, prompt } => {
                let rows = self.lookup(program, gradient);
                let gradient = self.get(program, gradient)?;
                let entries = rows.is_virtual.iter().zip(&rows.words);
                let without: Vec<bool> =
                    entries.map(|(&is_virtual, &word)| is_virtual || Some(word) == padding).collect();
                let words = gradient.broadcast_mul(&self.indicator(&without, false)?)?;
                let words = (words * f64::from(factor))?;
                let virtuals = gradient.broadcast_mul(&self.indicator(&rows.is_virtual, true)?)?;
                for (table, rows, numbers) in [
                    (word, &words, rows.words),
                    (position, &gradient, rows.positions),
                    (token_type, &gradient, rows.types),
                    (prompt, &virtuals, rows.prompt),
                ] {
                    if let Some(table) = table {
                        let zeros = Tensor::zeros(
                            program.value(table).sizes(&self.sizes),
                            gradient.dtype(),
                            &self.device,
                        )?;
                        let sum = zeros.index_add(&self.indices(numbers)?, rows, 0)?;
                        self.set(program, table, sum, true)?;
                    }
                }
                Ok(())
            }
            Instruction::TakeRows { x, out, choice } => {
                let rows = self.get(program, x)?.index_select(&self.chosen(choice)?, 0)?;
                self.set(program, out, rows, false)
            }
            Instruction::TakeRowsBackward { dout, dx, choice, accumulate } => {
                let zeros = Tensor::zeros(program.value(dx).sizes(&self.sizes), DType::F32, &self.device)?;
                let gradient = zeros.index_add(&self.chosen(choice)?, &self.get(program, dout)?, 0)?;
                self.set(program, dx, gradient, accumulate)
            }
            _ => self.norms(program, instruction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_arrives_whole_whatever_its_length() {
        let candle = Candle::new(candle_core::Device::Cpu);
        for count in [0, 1, AT_ONCE / 4, AT_ONCE / 4 + 1, 3 * AT_ONCE / 4 + 5] {
            let list: Vec<u32> = (0..count as u32).rev().collect();
            assert_eq!(candle.indices(list.clone()).unwrap().to_vec1::<u32>().unwrap(), list);
        }
    }
}
