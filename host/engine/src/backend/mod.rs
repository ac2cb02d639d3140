//! Backends: what runs a program. The unit of the trait is an instruction over
//! a packed batch; threads, slices and devices stay below it.

pub mod candle;
pub mod cpu;
pub mod timed;

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
    /// By which gradients are multiplied first (clipping).
    pub gradient_scale: f64,
}

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
    fn losses(&self) -> Result<Vec<f64>, BackendError>;

    /// Euclidean norm of all gradients together.
    fn gradient_norm(&self) -> Result<f64, BackendError>;

    /// Whether every element of a parameter's gradient is exactly zero.
    fn gradient_is_zero(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<bool, BackendError>;

    /// Updates a parameter and its state, and clears its gradient.
    fn update(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
    ) -> Result<(), BackendError>;

    /// Updates parameters, by block and place, each by its rule, and clears their
    /// gradients. Some devices do that in one pass.
    ///
    /// # Errors
    /// As [`Self::update`]; where memory ends, some may have been updated.
    fn update_all(
        &mut self,
        parameters: &Parameters,
        rules: &[(usize, usize, AdamW)],
    ) -> Result<(), BackendError> {
        update_each(self, parameters, rules)
    }

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
) -> Result<(), BackendError> {
    rules.iter().try_for_each(|(block, part, rule)| backend.update(parameters, *block, *part, rule))
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
