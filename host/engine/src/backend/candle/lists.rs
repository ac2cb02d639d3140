//! The lists of a batch on the device, and what is looked up by them: rows of tables and
//! rows of values.

use candle_core::{DType, Tensor};

use crate::backend::candle::Candle;
use crate::backend::{BackendError, no_labels};
use crate::program::build::Program;
use crate::program::instruction::{Instruction, Integers, RowChoice};
use crate::program::value::{Extent, ValueId};

type Result<T> = std::result::Result<T, BackendError>;

/// Which rows of the tables each row of a batch takes, and whether it is virtual.
#[derive(Default)]
pub(super) struct Lookup {
    pub is_virtual: Vec<bool>,
    pub words: Vec<u32>,
    pub prompt: Vec<u32>,
    pub positions: Vec<u32>,
    pub types: Vec<u32>,
}

impl Lookup {
    /// Which rows give the table of words no gradient.
    pub fn without_gradient(&self, padding: Option<u32>) -> Vec<bool> {
        let entries = self.is_virtual.iter().zip(&self.words);
        entries.map(|(&is_virtual, &word)| is_virtual || Some(word) == padding).collect()
    }
}

/// 1 where a flag is so, else 0.
pub(super) fn flags(flags: &[bool], of: bool) -> Vec<u32> {
    flags.iter().map(|&flag| u32::from(flag == of)).collect()
}

/// Rows that a program names.
pub(super) fn constants(indices: &[i32]) -> Vec<u32> {
    indices.iter().map(|&index| index as u32).collect()
}

impl Candle {
    /// # Errors
    /// What the batch lacks.
    pub(super) fn numbers(&self, integers: &Integers) -> Result<Vec<u32>> {
        Ok(match integers {
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
            Integers::Constant(values) => constants(values),
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
        })
    }

    pub(super) fn integers(&self, integers: &Integers) -> Result<Tensor> {
        self.indices(self.numbers(integers)?)
    }

    pub(super) fn chosen(&self, choice: RowChoice) -> Vec<u32> {
        match choice {
            RowChoice::FirstToken => {
                let starts = &self.batch.starts[..self.batch.sequences()];
                starts.iter().map(|start| start + self.batch.virtual_tokens).collect()
            }
            RowChoice::Virtual => self.batch.virtual_rows().collect(),
            RowChoice::Masked => self.batch.masked_rows.clone(),
            RowChoice::Words => self.batch.word_rows.clone(),
            RowChoice::LastTarget => self.batch.target.last_rows().collect(),
            RowChoice::MaskedTarget => self.batch.target.masked_rows.clone(),
        }
    }

    /// Which rows of the tables the rows of `value` take.
    pub(super) fn lookup(&self, program: &Program, value: ValueId) -> Lookup {
        let (batch, target) = (&self.batch, &self.batch.target);
        let rows = program.value(value).extents.first();
        if rows == Some(&Extent::Virtual) {
            // They look up nothing but the prompt.
            let prompt: Vec<u32> = batch.virtual_rows().map(|row| batch.ids[row as usize]).collect();
            return Lookup { is_virtual: vec![true; prompt.len()], prompt, ..Lookup::default() };
        }
        let decodes = rows == Some(&Extent::Targets);
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
        self.lists.borrow_mut().list(values)
    }

    /// [rows, 1]: 1 where a flag is so, else 0.
    fn indicator(&self, rows: &[bool], of: bool) -> Result<Tensor> {
        Ok(self.indices(flags(rows, of))?.to_dtype(DType::F32)?.reshape((rows.len(), 1))?)
    }

    /// Instructions that look up.
    pub(super) fn look_up(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        match *instruction {
            Instruction::Embed { word, factor, position, token_type, prompt, out, .. } => {
                let rows = self.lookup(program, out);
                let flags = rows.is_virtual;
                // What becomes bf16 is looked up in such tables.
                let rows_of = |table: ValueId, numbers: Vec<u32>| -> Result<Tensor> {
                    let table = match self.stored(program.root(out)) {
                        DType::BF16 => self.weight(program, table)?,
                        _ => self.get(program, table)?,
                    };
                    Ok(table.index_select(&self.indices(numbers)?, 0)?.to_dtype(DType::F32)?)
                };
                let mut sum = (rows_of(word, rows.words)? * f64::from(factor))?;
                if let Some(prompt) = prompt {
                    let prompt = rows_of(prompt, rows.prompt)?;
                    let words = sum.broadcast_mul(&self.indicator(&flags, false)?)?;
                    sum = (words + prompt.broadcast_mul(&self.indicator(&flags, true)?)?)?;
                }
                for (table, numbers) in [(position, rows.positions), (token_type, rows.types)] {
                    if let Some(table) = table {
                        sum = (sum + rows_of(table, numbers)?)?;
                    }
                }
                self.set(program, out, sum, false)
            }
            Instruction::EmbedBackward { gradient, word, factor, padding, position, token_type, prompt } => {
                let rows = self.lookup(program, gradient);
                let gradient = self.get(program, gradient)?;
                let words = match word {
                    Some(_) => {
                        let counted = self.indicator(&rows.without_gradient(padding), false)?;
                        Some((gradient.broadcast_mul(&counted)? * f64::from(factor))?)
                    }
                    None => None,
                };
                let virtuals = match prompt {
                    Some(_) => Some(gradient.broadcast_mul(&self.indicator(&rows.is_virtual, true)?)?),
                    None => None,
                };
                for (table, rows, numbers) in [
                    (word, words, rows.words),
                    (position, Some(gradient.clone()), rows.positions),
                    (token_type, Some(gradient.clone()), rows.types),
                    (prompt, virtuals, rows.prompt),
                ] {
                    if let (Some(table), Some(rows)) = (table, rows) {
                        let zeros = Tensor::zeros(
                            program.value(table).sizes(&self.sizes),
                            gradient.dtype(),
                            &self.device,
                        )?;
                        let sum = zeros.index_add(&self.indices(numbers)?, &rows, 0)?;
                        self.set(program, table, sum, true)?;
                    }
                }
                Ok(())
            }
            Instruction::TakeRows { x, out, choice } => {
                let rows = self.peek(program, x)?.index_select(&self.indices(self.chosen(choice))?, 0)?;
                self.set(program, out, rows, false)
            }
            Instruction::TakeRowsBackward { dout, dx, choice, accumulate } => {
                let zeros = Tensor::zeros(program.value(dx).sizes(&self.sizes), DType::F32, &self.device)?;
                let gradient =
                    zeros.index_add(&self.indices(self.chosen(choice))?, &self.get(program, dout)?, 0)?;
                self.set(program, dx, gradient, accumulate)
            }
            _ => self.norms(program, instruction),
        }
    }
}
