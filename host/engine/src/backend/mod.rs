//! Backends: what runs a program. The unit of the trait is an instruction over
//! a packed batch; threads, slices and devices stay below it.

pub mod candle;
pub mod cpu;
pub mod timed;

use candle_core::Tensor;

use crate::batch::Batch;
use crate::compile::Compiled;
use crate::parameters::Parameters;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::{Extent, Sizes, Storage, Value, ValueId};

/// Why a backend cannot run a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Working memory of this size is not to be had.
    #[error("{bytes} bytes of memory for the batch are not to be had")]
    OutOfMemory { bytes: usize },
    /// A device whose memory is its own has no more of it.
    #[error("the device's memory does not suffice for the batch")]
    DeviceOutOfMemory,
    #[error("{0}")]
    Wrong(String),
}

impl BackendError {
    /// Whether less at a time could work.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, BackendError::OutOfMemory { .. } | BackendError::DeviceOutOfMemory)
    }
}

/// What determines a micro-batch's computation besides the batch itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The seed of dropout.
    pub seed: u64,
    /// The optimizer step, by which masks change.
    pub number: u64,
    /// By loss: one by the number of its elements in the effective batch.
    pub loss_weights: Vec<f32>,
    /// The share of the effective batch's micro-batches that this one is.
    pub micro_batch_share: f32,
}

/// One AdamW update (Loshchilov and Hutter 2019, algorithm 2, as
/// torch.optim.AdamW computes it).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Updates made, this one included; from 1 on.
    pub update: u64,
}

/// A number that a backend has computed, or that its device is yet to compute.
#[derive(Clone, Debug)]
pub enum Number {
    Known(f64),
    /// An array without axes, on the device.
    OnDevice(Tensor),
}

impl Number {
    /// # Errors
    /// A number that is on a device.
    fn known(&self) -> Result<f64, BackendError> {
        match self {
            Number::Known(number) => Ok(*number),
            Number::OnDevice(_) => {
                Err(BackendError::Wrong("a number of another device cannot be read".into()))
            }
        }
    }
}

/// What is added to a norm by which is divided, as in torch.nn.utils.clip_grad_norm_.
pub const CLIP_EPSILON: f64 = 1e-6;

/// Runs programs on one device.
pub trait Backend {
    /// Takes the elements of all blocks, and makes room for the gradients and
    /// the optimizer's state of what trains.
    ///
    /// # Errors
    /// Memory that is not to be had.
    fn set_parameters(&mut self, parameters: &Parameters, blocks: Vec<Vec<f32>>) -> Result<(), BackendError>;

    /// A copy of a block's elements.
    fn read_block(&self, block: usize) -> Result<Vec<f32>, BackendError>;

    /// Other elements for a block.
    fn write_block(&mut self, block: usize, elements: &[f32]) -> Result<(), BackendError>;

    /// A copy of the gradients of a block; empty where nothing of it trains.
    fn read_gradient(&self, block: usize) -> Result<Vec<f32>, BackendError>;

    /// Makes room for a batch and takes its integers.
    ///
    /// # Errors
    /// Memory that is not to be had; ids outside their tables.
    fn begin(&mut self, compiled: &Compiled, batch: &Batch, step: &Step) -> Result<(), BackendError>;

    /// Runs one instruction of the program for which `begin` was called.
    fn execute(&mut self, program: &Program, instruction: &Instruction) -> Result<(), BackendError>;

    /// A copy of a value that lives to the end of the program.
    fn read(&self, program: &Program, value: ValueId) -> Result<Vec<f32>, BackendError>;

    /// Sums of each loss's elements since `begin`.
    fn losses(&self) -> Result<Vec<Number>, BackendError>;

    /// Euclidean norm of all gradients together.
    fn gradient_norm(&self) -> Result<Number, BackendError>;

    /// A number that is 0 where every element of a parameter's gradient is exactly
    /// zero, and only there.
    fn any_gradient(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<Number, BackendError>;

    /// By which gradients of a norm are multiplied so that it is at most `most`.
    fn clip(&self, norm: &Number, most: f64) -> Result<Number, BackendError> {
        Ok(Number::Known((most / (norm.known()? + CLIP_EPSILON)).min(1.0)))
    }

    /// Whether a device computes by itself, for which [`Self::numbers`] has to wait.
    fn waits(&self) -> bool {
        false
    }

    /// Waits until all is done that a device was given.
    ///
    /// # Errors
    /// What the device says of it.
    fn finish(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Numbers that this backend has given, read together.
    fn numbers(&self, numbers: &[Number]) -> Result<Vec<f64>, BackendError> {
        numbers.iter().map(Number::known).collect()
    }

    /// Updates a parameter and its state by its gradient, multiplied by `scale`, and
    /// clears the gradient.
    fn update(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
        scale: &Number,
    ) -> Result<(), BackendError>;

    /// Updates parameters, by block and place, each by its rule, and clears their
    /// gradients, which are multiplied by `scale` first. Some devices do that in one pass.
    ///
    /// # Errors
    /// As [`Self::update`]; where memory ends, some may have been updated.
    fn update_all(
        &mut self,
        parameters: &Parameters,
        rules: &[(usize, usize, AdamW)],
        scale: &Number,
    ) -> Result<(), BackendError> {
        update_each(self, parameters, rules, scale)
    }

    /// A copy of the first and the second moments of AdamW of a parameter that trains, as
    /// many elements each as it has; zeros before its first update.
    fn read_moments(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<[Vec<f32>; 2], BackendError>;

    /// Other moments for a parameter that trains, as many elements each as it has.
    ///
    /// # Errors
    /// Memory that is not to be had.
    fn write_moments(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        moments: [Vec<f32>; 2],
    ) -> Result<(), BackendError>;

    /// Clears all gradients.
    fn clear_gradients(&mut self) -> Result<(), BackendError>;

    /// Starts the optimizer's state anew.
    fn clear_state(&mut self) -> Result<(), BackendError>;
}

/// [`Backend::update_all`] by one [`Backend::update`] after the other.
fn update_each<B: Backend + ?Sized>(
    backend: &mut B,
    parameters: &Parameters,
    rules: &[(usize, usize, AdamW)],
    scale: &Number,
) -> Result<(), BackendError> {
    rules.iter().try_for_each(|(block, part, rule)| backend.update(parameters, *block, *part, rule, scale))
}

/// Refuses a batch whose examples have not as many pieces as a head chooses among.
fn check_pieces(program: &Program, batch: &Batch) -> Result<(), BackendError> {
    let sizes = Sizes::of(batch);
    let fits = |value: &Value| match (value.extents.first(), value.storage) {
        (Some(Extent::Examples), Storage::InPlaceOf(other)) => {
            value.elements(&sizes) == program.value(other).elements(&sizes)
        }
        _ => true,
    };
    match program.values.iter().all(fits) {
        true => Ok(()),
        false => {
            Err(BackendError::Wrong("an example has not as many pieces as its head chooses among".into()))
        }
    }
}

/// A label that the task's plan reads and the batch lacks.
fn no_labels(field: &str) -> BackendError {
    BackendError::Wrong(format!("the batch has no labels of the field {field}"))
}

/// Runs a whole program on a batch.
///
/// # Errors
/// As the backend's functions.
pub fn run(
    backend: &mut dyn Backend,
    compiled: &Compiled,
    batch: &Batch,
    step: &Step,
) -> Result<(), BackendError> {
    check_pieces(&compiled.program, batch)?;
    backend.begin(compiled, batch, step)?;
    for instruction in compiled.program.instructions() {
        backend.execute(&compiled.program, instruction)?;
    }
    Ok(())
}
