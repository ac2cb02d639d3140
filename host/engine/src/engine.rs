//! A model that trains: its programs, its parameters on a backend, and the
//! steps that change them.

use host_ir::task::Outputs;

use crate::backend::{AdamW, Backend, BackendError, Step, run};
use crate::batch::Batch;
use crate::compile::{Compiled, Plans};
use crate::parameters::Parameters;
use crate::program::build::CompileError;
use crate::program::value::{Extent, Sizes, Value};
use crate::train::settings::TrainingSettings;

/// Why a step or an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The loss or the norm of the gradients is no number any more.
    #[error("the {what} of step {step} is {value}; a lower learning rate, or warm-up, may help")]
    NotFinite { what: &'static str, step: u64, value: f64 },
}

/// A parameter with its elements, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub elements: Vec<f32>,
}

/// What an optimizer step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// The loss, before the update.
    pub loss: f64,
    /// Euclidean norm of the gradients, before clipping.
    pub gradient_norm: f64,
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

/// Memory that ends in the middle of an update leaves some parameters changed, so
/// that the step must not be made again.
fn in_update(error: EngineError) -> EngineError {
    match error {
        EngineError::Backend(error) if error.is_out_of_memory() => EngineError::Backend(BackendError::Wrong(
            format!("in the middle of an update, {error}: smaller batches leave more of it"),
        )),
        error => error,
    }
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
    /// Parameters, by block and place, that should train and have had no
    /// gradient but zeros since this was asked for last.
    silent: Vec<(usize, usize)>,
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
        Ok(Engine { plans, training, evaluation, generation: None, backend, updates: 0, silent })
    }

    /// Names of parameters that should train and whose gradient was exactly zero
    /// in every step since the last call; the count begins anew.
    pub fn take_silent(&mut self) -> Vec<String> {
        let blocks = &self.plans.parameters.blocks;
        let silent = std::mem::replace(&mut self.silent, trained_places(&self.plans.parameters));
        silent.into_iter().map(|(block, place)| blocks[block].parts[place].name.clone()).collect()
    }

    /// Optimizer steps made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The compiled program of a training step.
    pub fn training_program(&self) -> &Compiled {
        &self.training
    }

    /// Runs forward and backward on the micro-batches of one effective batch,
    /// clips the gradients and updates what trains.
    ///
    /// # Errors
    /// Memory that is not to be had: gradients are cleared and nothing has
    /// changed, so that the step can be tried again with smaller micro-batches.
    /// A loss or a norm that is no number: nothing has changed either.
    pub fn step(
        &mut self,
        micro_batches: &[Batch],
        settings: &TrainingSettings,
        learning_rate: f64,
        seed: u64,
    ) -> Result<StepResult, EngineError> {
        let result = self.accumulate(micro_batches, seed);
        let result = result.and_then(|loss| self.update(loss, settings, learning_rate).map_err(in_update));
        if result.is_err() {
            self.backend.clear_gradients()?;
        }
        result
    }

    /// Adds up the gradients of an effective batch; answers its loss.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn accumulate(&mut self, micro_batches: &[Batch], seed: u64) -> Result<f64, EngineError> {
        let program = &self.training.program;
        let counts: Vec<usize> = program
            .losses
            .iter()
            .map(|loss| {
                micro_batches.iter().map(|batch| program.value(loss.value).elements(&Sizes::of(batch))).sum()
            })
            .collect();
        let share = 1.0 / micro_batches.len().max(1) as f32;
        let step = Step {
            seed,
            number: self.updates,
            loss_weights: counts.iter().map(|&count| 1.0 / count.max(1) as f32).collect(),
            micro_batch_share: share,
        };
        let mut total = 0.0;
        for batch in micro_batches {
            run(self.backend.as_mut(), &self.training, batch, &step)?;
            for ((loss, sum), &count) in program.losses.iter().zip(self.backend.losses()?).zip(&counts) {
                total += if loss.once { sum * f64::from(share) } else { sum / count.max(1) as f64 };
            }
        }
        match total.is_finite() {
            true => Ok(total),
            false => Err(EngineError::NotFinite { what: "loss", step: self.updates + 1, value: total }),
        }
    }

    fn update(
        &mut self,
        loss: f64,
        settings: &TrainingSettings,
        learning_rate: f64,
    ) -> Result<StepResult, EngineError> {
        let gradient_norm = self.backend.gradient_norm()?;
        if !gradient_norm.is_finite() {
            return Err(EngineError::NotFinite {
                what: "norm of the gradients",
                step: self.updates + 1,
                value: gradient_norm,
            });
        }
        // torch.nn.utils.clip_grad_norm_ adds the same small number.
        let clipped = settings.max_grad_norm / (gradient_norm + 1e-6);
        let gradient_scale = if settings.max_grad_norm > 0.0 { clipped.min(1.0) } else { 1.0 };
        self.updates += 1;
        let parameters = self.plans.parameters.clone();
        let mut silent = Vec::new();
        for &(block, place) in &self.silent {
            if self.backend.gradient_is_zero(&parameters, block, place)? {
                silent.push((block, place));
            }
        }
        self.silent = silent;
        let mut rules = Vec::new();
        for (block, content) in parameters.blocks.iter().enumerate() {
            for (place, part) in content.parts.iter().enumerate().filter(|(_, part)| part.trained) {
                let decay =
                    part.weight_decay.unwrap_or(if part.decays { settings.weight_decay } else { 0.0 });
                // The head's rate follows the same schedule.
                let head_factor = match settings.head_learning_rate {
                    Some(rate) if part.head && settings.learning_rate > 0.0 => rate / settings.learning_rate,
                    _ => 1.0,
                };
                let rule = AdamW {
                    learning_rate: learning_rate * part.learning_rate * head_factor,
                    beta1: settings.adam_beta1,
                    beta2: settings.adam_beta2,
                    epsilon: settings.adam_epsilon,
                    weight_decay: decay,
                    update: self.updates,
                    gradient_scale,
                };
                rules.push((block, place, rule));
            }
        }
        self.backend.update_all(&parameters, &rules)?;
        Ok(StepResult { loss, gradient_norm })
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
            loss_sums: self.backend.losses()?,
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

/// Block and place of every parameter that trains.
fn trained_places(parameters: &Parameters) -> Vec<(usize, usize)> {
    let blocks = parameters.blocks.iter().enumerate();
    blocks
        .flat_map(|(block, content)| {
            let parts = content.parts.iter().enumerate().filter(|(_, part)| part.trained);
            parts.map(move |(place, _)| (block, place))
        })
        .collect()
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
