//! A model that trains: its programs, its parameters on a backend, the steps that
//! change them, and evaluation.

mod optimizer;
mod step;

use host_ir::task::Outputs;

pub use self::optimizer::OptimizerState;
pub use self::step::StepResult;
use self::step::{Unread, trained_places};
use crate::backend::{Backend, BackendError, Step, run};
use crate::batch::Batch;
use crate::compile::{Compiled, Plans};
use crate::program::build::CompileError;
use crate::program::value::{Extent, Sizes, Value};

/// Why a step or an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The loss or the norm of the gradients is no number any more, or never was one
    /// where no update has changed anything.
    #[error("the {what} of step {step} is {value}; {}", advice(*changed))]
    NotFinite { what: &'static str, step: u64, value: f64, changed: bool },
}

/// What helps against a number that is none.
fn advice(changed: bool) -> &'static str {
    match changed {
        true => "a lower learning rate, or warm-up, may help",
        false => {
            "nothing was changed before it, so that no learning rate helps: the weights of the checkpoint, the \
             start of what the method adds, or the precision are the cause"
        }
    }
}

/// A parameter with its elements, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub elements: Vec<f32>,
}

/// The outputs and losses of an evaluated batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Sums of each loss's elements.
    pub loss_sums: Vec<f64>,
    /// Elements of each loss.
    pub loss_counts: Vec<usize>,
    /// By example of the batch.
    pub outputs: Vec<Outputs>,
}

/// Programs and parameters of a cell on a backend.
pub struct Engine {
    pub plans: Plans,
    training: Compiled,
    evaluation: Compiled,
    /// The programs of a generation, once one was asked for.
    generation: Option<[Compiled; 2]>,
    backend: Box<dyn Backend>,
    updates: u64,
    /// Whether an update with a learning rate above 0 was made.
    changed: bool,
    /// Steps that were made and not read yet.
    unread: Vec<Unread>,
    /// Parameters, by block and place, that should train and have had no
    /// gradient but zeros since this was asked for last.
    silent: Vec<(usize, usize)>,
    /// Whether a step was read since then that came after a change: what starts at zero
    /// keeps others from a gradient until it has moved.
    looked: bool,
}

impl Engine {
    /// Compiles the plans and hands the parameters' elements, by block, to the
    /// backend.
    ///
    /// # Errors
    /// Plans that cannot be compiled; memory that is not to be had.
    pub fn new(
        plans: Plans,
        blocks: Vec<Vec<f32>>,
        mut backend: Box<dyn Backend>,
    ) -> Result<Engine, EngineError> {
        let (training, evaluation) = (plans.training()?, plans.evaluation()?);
        backend.set_parameters(&plans.parameters, blocks)?;
        let silent = trained_places(&plans.parameters);
        let unread = Vec::new();
        Ok(Engine {
            plans,
            training,
            evaluation,
            generation: None,
            backend,
            updates: 0,
            changed: false,
            unread,
            silent,
            looked: false,
        })
    }

    /// The compiled program of a training step.
    pub fn training_program(&self) -> &Compiled {
        &self.training
    }

    /// Losses and outputs of a batch, without dropout.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<Evaluation, EngineError> {
        let step = Step { loss_weights: vec![0.0; self.evaluation.program.losses.len()], ..Step::default() };
        run(self.backend.as_mut(), &self.evaluation, batch, &step)?;
        let program = &self.evaluation.program;
        let sizes = Sizes::of(batch);
        let mut evaluation = Evaluation {
            loss_sums: self.backend.numbers(&self.backend.losses()?)?,
            loss_counts: program
                .losses
                .iter()
                .map(|loss| program.value(loss.value).elements(&sizes))
                .collect(),
            outputs: vec![Outputs::default(); batch.examples()],
        };
        for output in &program.outputs {
            let elements = self.backend.read(program, output.value)?;
            if self.plans.task.reads_examples_alone() {
                evaluation.outputs[0].push(elements);
                continue;
            }
            let starts = example_starts(program.value(output.value), batch);
            let row = elements.len() / starts.last().copied().unwrap_or(0).max(1);
            for (outputs, range) in evaluation.outputs.iter_mut().zip(starts.windows(2)) {
                outputs.push(elements[range[0] * row..range[1] * row].to_vec());
            }
        }
        Ok(evaluation)
    }

    /// Runs the encoder on a batch, whose steps of a generation follow.
    ///
    /// # Errors
    /// A model without a decoder; memory that is not to be had.
    pub fn encode(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let [encode, _] = match &mut self.generation {
            Some(programs) => programs,
            none => none.insert(self.plans.generation()?),
        };
        Ok(run(self.backend.as_mut(), encode, batch, &Step::default())?)
    }

    /// Runs a step of a generation on the batch that was encoded, with the rows of the
    /// step as its target. Answers the logits, [rows, vocabulary].
    ///
    /// # Errors
    /// Nothing was encoded; memory that is not to be had.
    pub fn decode(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let Some([_, decode]) = &self.generation else {
            return Err(BackendError::Wrong("nothing was encoded before this step".into()).into());
        };
        run(self.backend.as_mut(), decode, batch, &Step::default())?;
        let output = decode.program.outputs.first().map(|output| output.value);
        Ok(output.map_or(Ok(Vec::new()), |value| self.backend.read(&decode.program, value))?)
    }

    /// Bytes of working memory of a training step on a batch of these sizes.
    pub fn working_bytes(&self, sizes: &Sizes) -> usize {
        self.training.working_bytes(sizes).max(self.evaluation.working_bytes(sizes))
    }

    /// What trains, with its elements: all that an adapter has to keep.
    ///
    /// # Errors
    /// Reading from the device.
    pub fn trained(&self) -> Result<Vec<NamedTensor>, EngineError> {
        self.tensors(|part| part.trained)
    }

    /// The elements of a block.
    ///
    /// # Errors
    /// Reading from the device.
    pub fn elements(&self, block: usize) -> Result<Vec<f32>, EngineError> {
        Ok(self.backend.read_block(block)?)
    }

    /// Puts other elements in the place of a block's, as many as it has.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn set_elements(&mut self, block: usize, elements: &[f32]) -> Result<(), EngineError> {
        Ok(self.backend.write_block(block, elements)?)
    }

    /// Parameters, with their elements, that are chosen.
    ///
    /// # Errors
    /// Reading from the device.
    pub fn tensors(
        &self,
        chosen: impl Fn(&crate::parameters::Part) -> bool,
    ) -> Result<Vec<NamedTensor>, EngineError> {
        let mut tensors = Vec::new();
        for (block, content) in self.plans.parameters.blocks.iter().enumerate() {
            if content.parts.iter().any(&chosen) {
                let elements = self.backend.read_block(block)?;
                for part in content.parts.iter().filter(|part| chosen(part)) {
                    tensors.push(NamedTensor {
                        name: part.name.clone(),
                        shape: part.shape.clone(),
                        elements: elements[part.offset..part.offset + part.elements].to_vec(),
                    });
                }
            }
        }
        Ok(tensors)
    }

    /// The gradients that have added up, by parameter.
    ///
    /// # Errors
    /// Reading from the device.
    pub fn gradients(&self) -> Result<Vec<NamedTensor>, EngineError> {
        let mut tensors = Vec::new();
        for (block, content) in
            self.plans.parameters.blocks.iter().enumerate().filter(|(_, content)| content.trains())
        {
            let elements = self.backend.read_gradient(block)?;
            for part in content.parts.iter().filter(|part| part.trained) {
                tensors.push(NamedTensor {
                    name: part.name.clone(),
                    shape: part.shape.clone(),
                    elements: elements[part.offset..part.offset + part.elements].to_vec(),
                });
            }
        }
        Ok(tensors)
    }

    /// Puts elements in the place of a parameter's; tensors of other names are
    /// an error.
    ///
    /// # Errors
    /// A name or a shape that no parameter has.
    pub fn restore(&mut self, tensors: &[NamedTensor]) -> Result<(), EngineError> {
        let parameters = self.plans.parameters.clone();
        for tensor in tensors {
            let found = parameters.parts().find(|(_, part)| part.name == tensor.name);
            let Some((block, part)) = found.filter(|(_, part)| part.shape == tensor.shape) else {
                let sentence = format!(
                    "the saved tensor {} {:?} fits no parameter of the plan",
                    tensor.name, tensor.shape
                );
                return Err(BackendError::Wrong(sentence).into());
            };
            let mut elements = self.backend.read_block(block)?;
            elements[part.offset..part.offset + part.elements].copy_from_slice(&tensor.elements);
            self.backend.write_block(block, &elements)?;
        }
        Ok(())
    }
}

/// The first row of each example in a value with a row for each token, of the
/// encoder or of the decoder, each masked token, each sequence or each example, and the number of its rows.
fn example_starts(value: &Value, batch: &Batch) -> Vec<usize> {
    let first_sequences = (0..=batch.examples()).map(|example| {
        if example == batch.examples() { batch.sequences() } else { batch.pieces(example).start }
    });
    match value.extents.first() {
        Some(Extent::Tokens) => first_sequences.map(|sequence| batch.starts[sequence] as usize).collect(),
        Some(Extent::Targets) => {
            first_sequences.map(|sequence| batch.target.starts[sequence] as usize).collect()
        }
        Some(Extent::Masked) => {
            let before = |start: u32| batch.masked_rows.partition_point(|&row| row < start);
            first_sequences.map(|sequence| before(batch.starts[sequence])).collect()
        }
        Some(Extent::Examples) => (0..=batch.examples()).collect(),
        _ => first_sequences.collect(),
    }
}
