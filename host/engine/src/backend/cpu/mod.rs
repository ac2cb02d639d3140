//! The CPU backend: the kernels on slices of one arena.

mod absorbed;
mod attend;
mod choices;
mod context;
mod execute;
mod expressions;
mod memory;
mod relative;
mod tensor;

use crate::backend::{AdamW, Backend, BackendError, Number, Step};
use crate::batch::Batch;
use crate::compile::Compiled;
use crate::kernels::parallel::Threads;
use crate::kernels::{adamw, reduce};
use crate::parameters::Parameters;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::{Extent, Sizes, Storage, ValueId};
use memory::{Memory, Views};

pub use choices::largest;

/// Runs programs on the processor's cores.
pub struct Cpu {
    threads: Threads,
    memory: Memory,
    batch: Batch,
    /// By packing: the first row of each sequence in `[sequences]`, `[masked]` and
    /// `[virtual]`.
    sequence_starts: Vec<u32>,
    masked_starts: Vec<u32>,
    virtual_starts: Vec<u32>,
    /// The first token of each sequence that is no virtual one.
    first_tokens: Vec<u32>,
    /// The virtual rows of all sequences.
    virtual_rows: Vec<u32>,
    /// Words are those of one example: from none to all.
    word_starts: [u32; 2],
    /// The last row of each sequence of the decoder.
    last_targets: Vec<u32>,
    step: Step,
    losses: Vec<f64>,
}

impl Cpu {
    /// A backend of so many threads.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn new(threads: usize) -> Result<Cpu, BackendError> {
        let threads = Threads::new(threads)
            .map_err(|error| BackendError::Wrong(format!("{threads} threads cannot be started: {error}")))?;
        Ok(Cpu {
            threads,
            memory: Memory::default(),
            batch: Batch::default(),
            sequence_starts: Vec::new(),
            masked_starts: Vec::new(),
            virtual_starts: Vec::new(),
            first_tokens: Vec::new(),
            virtual_rows: Vec::new(),
            word_starts: [0; 2],
            last_targets: Vec::new(),
            step: Step::default(),
            losses: Vec::new(),
        })
    }

    /// Checks that every integer of the batch stands for an entry of its table.
    fn check(&self, program: &Program, batch: &Batch) -> Result<(), BackendError> {
        let entries = |value: ValueId| {
            program.value(value).extents.first().map_or(0, |&extent| Sizes::default().resolve(extent))
        };
        for instruction in &program.forward {
            let Instruction::Embed { word, position, token_type, prompt, out, .. } = *instruction else {
                continue;
            };
            let decodes = program.value(out).extents.first() == Some(&Extent::Targets);
            let (starts, ids, positions, real) = match decodes {
                true => (&batch.target.starts, &batch.target.ids, &batch.target.positions, 0),
                false => (&batch.starts, &batch.ids, &batch.positions, batch.virtual_tokens),
            };
            let vocabulary = entries(word) as u32;
            let words = starts.windows(2).flat_map(|range| (range[0] + real)..range[1]);
            let mut ids = words.map(|row| ids[row as usize]);
            if let Some(id) = ids.find(|&id| id >= vocabulary) {
                return Err(BackendError::Wrong(format!(
                    "the token id {id} lies outside the model's vocabulary of {vocabulary}"
                )));
            }
            let tables = [(position, positions, "position"), (token_type, &batch.token_types, "token type")];
            for (table, numbers, name) in tables {
                let Some(size) = table.map(entries) else { continue };
                if let Some(number) = numbers.iter().find(|&&number| number as usize >= size) {
                    return Err(BackendError::Wrong(format!(
                        "the {name} {number} lies outside the model's {size}"
                    )));
                }
            }
            if prompt.is_some_and(|prompt| entries(prompt) < real as usize) {
                return Err(BackendError::Wrong(format!(
                    "{real} virtual tokens are more than the prompt has"
                )));
            }
        }
        Ok(())
    }
}

impl Backend for Cpu {
    fn set_parameters(&mut self, parameters: &Parameters, blocks: Vec<Vec<f32>>) -> Result<(), BackendError> {
        self.memory.set_parameters(parameters, blocks)
    }

    fn read_block(&self, block: usize) -> Result<Vec<f32>, BackendError> {
        Ok(self.memory.parameters[block].clone())
    }

    fn write_block(&mut self, block: usize, elements: &[f32]) -> Result<(), BackendError> {
        self.memory.parameters[block].copy_from_slice(elements);
        Ok(())
    }

    fn read_gradient(&self, block: usize) -> Result<Vec<f32>, BackendError> {
        Ok(self.memory.gradients[block].clone())
    }

    fn begin(&mut self, compiled: &Compiled, batch: &Batch, step: &Step) -> Result<(), BackendError> {
        self.check(&compiled.program, batch)?;
        self.memory.place(compiled, Sizes::of(batch))?;
        self.batch.clone_from(batch);
        self.step.clone_from(step);
        let sequences = batch.sequences() as u32;
        self.sequence_starts.clear();
        self.sequence_starts.extend(0..=sequences);
        self.masked_starts.clear();
        let before = |start: &u32| batch.masked_rows.partition_point(|row| row < start) as u32;
        self.masked_starts.extend(batch.starts.iter().map(before));
        self.first_tokens.clear();
        let starts = &batch.starts[..sequences as usize];
        self.first_tokens.extend(starts.iter().map(|start| start + batch.virtual_tokens));
        self.virtual_rows.clear();
        self.virtual_rows.extend(batch.virtual_rows());
        self.virtual_starts.clear();
        self.virtual_starts.extend((0..=sequences).map(|sequence| sequence * batch.virtual_tokens));
        self.word_starts = [0, batch.word_rows.len() as u32];
        self.last_targets.clear();
        self.last_targets.extend(batch.target.last_rows());
        self.losses.clear();
        self.losses.resize(compiled.program.losses.len(), 0.0);
        Ok(())
    }

    fn execute(&mut self, program: &Program, instruction: &Instruction) -> Result<(), BackendError> {
        let views = Views::new(&mut self.memory, program);
        let context = context::Context {
            threads: &self.threads,
            views,
            program,
            batch: &self.batch,
            sequence_starts: &self.sequence_starts,
            masked_starts: &self.masked_starts,
            virtual_starts: &self.virtual_starts,
            first_tokens: &self.first_tokens,
            virtual_rows: &self.virtual_rows,
            word_starts: &self.word_starts,
            last_targets: &self.last_targets,
            step: &self.step,
        };
        context.execute(instruction, &mut self.losses)
    }

    fn read(&self, program: &Program, value: ValueId) -> Result<Vec<f32>, BackendError> {
        let root = program.root(value);
        let length = program.value(value).elements(&self.memory.sizes);
        Ok(match program.value(root).storage {
            Storage::Parameter { block, offset } => {
                self.memory.parameters[block][offset..offset + length].to_vec()
            }
            Storage::Gradient { block, offset } => {
                self.memory.gradients[block][offset..offset + length].to_vec()
            }
            Storage::Kept { slot } => self.memory.kept[slot][..length].to_vec(),
            Storage::Working | Storage::InPlaceOf(_) => self.memory.working(value, length),
        })
    }

    fn losses(&self) -> Result<Vec<Number>, BackendError> {
        Ok(self.losses.iter().copied().map(Number::Known).collect())
    }

    fn gradient_norm(&self) -> Result<Number, BackendError> {
        let squares =
            self.memory.gradients.iter().map(|gradient| reduce::squared_norm(&self.threads, gradient));
        Ok(Number::Known(squares.sum::<f64>().sqrt()))
    }

    fn any_gradient(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<Number, BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let gradient = &self.memory.gradients[block][part.offset..part.offset + part.elements];
        Ok(Number::Known(f64::from(u8::from(gradient.iter().any(|&element| element != 0.0)))))
    }

    fn update(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
        scale: &Number,
    ) -> Result<(), BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let range = part.offset..part.offset + part.elements;
        let settings = adamw::AdamW {
            learning_rate: rule.learning_rate,
            beta1: rule.beta1,
            beta2: rule.beta2,
            epsilon: rule.epsilon,
            weight_decay: rule.weight_decay,
            step: rule.update,
            gradient_scale: scale.known()?,
        };
        let [first, second] = &mut self.memory.moments[block];
        let gradient = &mut self.memory.gradients[block][range.clone()];
        let parameter = &mut self.memory.parameters[block][range.clone()];
        adamw::step(
            &self.threads,
            &settings,
            parameter,
            gradient,
            &mut first[range.clone()],
            &mut second[range],
        );
        gradient.fill(0.0);
        Ok(())
    }

    fn read_moments(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<[Vec<f32>; 2], BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let range = part.offset..part.offset + part.elements;
        Ok(self.memory.moments[block].each_ref().map(|moments| moments[range.clone()].to_vec()))
    }

    fn write_moments(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        moments: [Vec<f32>; 2],
    ) -> Result<(), BackendError> {
        let part = &parameters.blocks[block].parts[part];
        for (kept, moments) in self.memory.moments[block].iter_mut().zip(moments) {
            kept[part.offset..part.offset + part.elements].copy_from_slice(&moments);
        }
        Ok(())
    }

    fn clear_gradients(&mut self) -> Result<(), BackendError> {
        self.memory.gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
        Ok(())
    }

    fn clear_state(&mut self) -> Result<(), BackendError> {
        self.memory.moments.iter_mut().flatten().for_each(|moments| moments.fill(0.0));
        Ok(())
    }
}
