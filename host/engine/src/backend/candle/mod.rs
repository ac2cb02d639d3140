//! The second backend: each instruction composed of candle's tensor
//! operations, without candle's tape. It runs on every device that candle has,
//! and on candle's CPU device it is the independent oracle of our kernels.

mod absorbed;
mod attend;
mod attention;
#[cfg(feature = "cuda")]
mod beside;
mod blocks;
mod choices;
mod copies;
mod execute;
mod expressions;
mod lists;
mod masks;
mod norms;
mod optimizer;
#[cfg(feature = "cuda")]
mod own;
pub mod products;
mod reads;
mod relative;
mod ring;
mod values;
mod wanted;

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

pub use crate::backend::candle::copies::Copies;
pub use crate::backend::candle::reads::Reads;

use crate::backend::candle::blocks::Blocks;
use crate::backend::candle::copies::Lists;
use crate::backend::candle::products::Products;
use crate::backend::{AdamW, Backend, BackendError, CLIP_EPSILON, Number, Step};
use crate::batch::Batch;
use crate::compile::Compiled;
#[cfg(feature = "cuda")]
use crate::device::KeptMemory;
use crate::device::Precision;
use crate::parameters::Parameters;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::{Sizes, ValueId};

impl From<candle_core::Error> for BackendError {
    fn from(error: candle_core::Error) -> BackendError {
        // The device's own error lies below layers of candle's, in words alone.
        let words = format!("{error:?}");
        let out = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];
        match out.iter().any(|name| words.contains(name)) {
            true => BackendError::DeviceOutOfMemory,
            false => BackendError::Wrong(format!("candle: {error}")),
        }
    }
}

/// The most columns of a head for which there are kernels of our own for attention
/// within sequences.
pub const ATTENTION_COLUMNS: usize = 64;

/// Runs programs on a device of candle's.
pub struct Candle {
    device: Device,
    products: Products,
    /// Kernels of our own, where they are used.
    #[cfg(feature = "cuda")]
    own: Option<own::Own>,
    blocks: Blocks,
    /// Gradients by block and first element, flat.
    gradients: BTreeMap<(usize, usize), Tensor>,
    /// Moments of AdamW by block and first element.
    moments: BTreeMap<(usize, usize), [Tensor; 2]>,
    /// By value that owns memory: what it holds now.
    values: Vec<Option<Tensor>>,
    /// By value: whether its array is of bf16.
    halves: Vec<bool>,
    /// What is known of these arrays, for kernels that write to them.
    #[cfg(feature = "cuda")]
    held: own::Held,
    /// By slot: what outlives a run.
    kept: BTreeMap<usize, Tensor>,
    batch: Batch,
    /// Lists of the batch that are on the device.
    lists: RefCell<Lists>,
    sizes: Sizes,
    step: Step,
    /// By loss: the sum of its elements so far, left on the device.
    losses: Vec<Option<Tensor>>,
    reads: Reads,
    /// Place of the next instruction, and the last use of each value.
    place: usize,
    last_use: Vec<usize>,
    /// Instructions from there on that were run with one before them.
    ahead: usize,
    /// What is kept of a GPU's memory; it ends after all arrays.
    #[cfg(feature = "cuda")]
    memory: Option<KeptMemory>,
}

impl Candle {
    /// A backend on a device, with the kernels of our own that this build has for it.
    ///
    /// # Errors
    /// A kernel that gives something else on the device than on the processor.
    pub fn with_kernels(device: Device) -> Result<Candle, BackendError> {
        Ok(Candle {
            #[cfg(feature = "cuda")]
            own: Some(own::checked(&device)?),
            ..Candle::new(device)
        })
    }

    /// The same without a look at what the kernels give: for a driver that keeps account of what
    /// it is told, and computes nothing.
    ///
    /// # Errors
    /// Kernels that are not to be loaded.
    #[cfg(feature = "cuda")]
    pub fn with_unchecked_kernels(device: Device) -> Result<Candle, BackendError> {
        Ok(Candle { own: Some(own::Own::new(&device)?), ..Candle::new(device) })
    }

    /// A backend on candle's CPU device. The kernels of our own that this build has run on a
    /// GPU that is simulated there, threads in shuffled orders: it is slow, and for tests.
    pub fn simulated() -> Candle {
        Candle {
            #[cfg(feature = "cuda")]
            own: Some(own::Own::simulated(own::Simulated { order: 7, blocks: usize::MAX })),
            ..Candle::new(Device::Cpu)
        }
    }

    /// A backend on a device.
    pub fn new(device: Device) -> Candle {
        Candle {
            lists: RefCell::new(Lists::in_turn(&device)),
            blocks: Blocks::new(&device),
            device,
            products: Products::Fp32,
            #[cfg(feature = "cuda")]
            own: None,
            gradients: BTreeMap::new(),
            moments: BTreeMap::new(),
            values: Vec::new(),
            halves: Vec::new(),
            #[cfg(feature = "cuda")]
            held: own::Held::default(),
            kept: BTreeMap::new(),
            batch: Batch::default(),
            sizes: Sizes::default(),
            step: Step::default(),
            losses: Vec::new(),
            reads: Reads::default(),
            place: 0,
            last_use: Vec::new(),
            ahead: 0,
            #[cfg(feature = "cuda")]
            memory: None,
        }
    }

    /// The same backend, which keeps the memory that it has had of a GPU, its device.
    ///
    /// # Errors
    /// What the driver says.
    #[cfg(feature = "cuda")]
    pub fn with_kept_memory(self, gpu: usize) -> Result<Candle, BackendError> {
        let memory = KeptMemory::of(gpu).map_err(|error| {
            BackendError::Wrong(format!(
                "the driver keeps no memory ({error}); HOST_MEMORY=returned trains without"
            ))
        })?;
        Ok(Candle { memory, ..self })
    }

    /// The same backend, which computes in another precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Candle {
        Candle {
            products: precision.into(),
            #[cfg(feature = "cuda")]
            own: self.own.map(|own| own.in_precision(precision)),
            ..self
        }
    }
}

#[cfg(feature = "cuda")]
impl Candle {
    /// Where memory has ended: a step with smaller batches finds none that is kept in pieces of
    /// the sizes of this one.
    fn make_room(&mut self, error: &BackendError) {
        if let (true, Some(memory)) = (error.is_out_of_memory(), &self.memory) {
            self.values.fill(None);
            self.held.clear(self.values.len());
            // Where the driver fails here, it fails in the step that is made again.
            let _ = memory.give_back();
        }
    }
}

impl Backend for Candle {
    fn set_parameters(&mut self, parameters: &Parameters, blocks: Vec<Vec<f32>>) -> Result<(), BackendError> {
        self.gradients.clear();
        self.moments.clear();
        self.blocks.set(parameters, blocks, self.products == Products::Bf16)
    }

    fn read_block(&self, block: usize) -> Result<Vec<f32>, BackendError> {
        match self.blocks.with_host(block) {
            Some(elements) => Ok(elements.to_vec()),
            None => self.elements(&self.blocks.part(block, 0, self.blocks.elements(block))?),
        }
    }

    fn write_block(&mut self, block: usize, elements: &[f32]) -> Result<(), BackendError> {
        self.blocks.write(block, elements)
    }

    fn read_gradient(&self, block: usize) -> Result<Vec<f32>, BackendError> {
        let mut elements = vec![0.0; self.blocks.elements(block)];
        for (&(_, start), gradient) in self.gradients.range((block, 0)..(block + 1, 0)) {
            elements[start..start + gradient.elem_count()].copy_from_slice(&self.elements(gradient)?);
        }
        Ok(elements)
    }

    fn begin(&mut self, compiled: &Compiled, batch: &Batch, step: &Step) -> Result<(), BackendError> {
        let program = &compiled.program;
        self.values.clear();
        self.values.resize(program.values.len(), None);
        self.halves = self.stored_halves(compiled);
        #[cfg(feature = "cuda")]
        self.held.clear(program.values.len());
        if batch.target.recall.is_none() {
            // It was of a generation that has ended.
            self.kept.clear();
        }
        self.batch.clone_from(batch);
        self.lists.get_mut().clear();
        self.sizes = Sizes::of(batch);
        self.step.clone_from(step);
        self.losses = vec![None; program.losses.len()];
        self.place = 0;
        self.ahead = 0;
        self.last_use = vec![0; program.values.len()];
        for (place, instruction) in program.instructions().enumerate() {
            for (value, _) in instruction.accesses() {
                self.last_use[program.root(value).0 as usize] = place;
            }
        }
        for output in &program.outputs {
            self.last_use[program.root(output.value).0 as usize] = usize::MAX;
        }
        let wanted = self.wanted(program)?;
        let begun = self.lists.get_mut().begin(wanted);
        #[cfg(feature = "cuda")]
        let begun = begun.inspect_err(|error| self.make_room(error));
        begun
    }

    fn execute(&mut self, program: &Program, instruction: &Instruction) -> Result<(), BackendError> {
        let run = match self.works_on_nothing(program, instruction) {
            _ if self.ahead > 0 => {
                self.ahead -= 1;
                Ok(())
            }
            true => self.give_nothing(program, instruction),
            false => self.run(program, instruction),
        };
        #[cfg(feature = "cuda")]
        let run = run.inspect_err(|error| self.make_room(error));
        run?;
        for (value, _) in instruction.accesses() {
            let root = program.root(value);
            if self.last_use[root.0 as usize] <= self.place {
                self.values[root.0 as usize] = None;
                #[cfg(feature = "cuda")]
                self.held.replaced(root);
            }
        }
        self.place += 1;
        Ok(())
    }

    fn read(&self, program: &Program, value: ValueId) -> Result<Vec<f32>, BackendError> {
        self.elements(&self.get(program, value)?)
    }

    fn losses(&self) -> Result<Vec<Number>, BackendError> {
        let sum = |sum: &Option<Tensor>| sum.clone().map_or(Number::Known(0.0), Number::OnDevice);
        Ok(self.losses.iter().map(sum).collect())
    }

    fn gradient_norm(&self) -> Result<Number, BackendError> {
        self.norm_of_gradients()
    }

    fn any_gradient(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<Number, BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let gradient = self.gradient(block, part.offset, part.elements)?;
        // Without an array as long as the gradient.
        let (most, least) = (gradient.max_all()?.abs()?, gradient.min_all()?.abs()?);
        Ok(Number::OnDevice(most.maximum(&least)?))
    }

    fn clip(&self, norm: &Number, most: f64) -> Result<Number, BackendError> {
        let shrunk = ((self.scalar(norm)? + CLIP_EPSILON)?.recip()? * most)?;
        Ok(Number::OnDevice(shrunk.minimum(1.0)?))
    }

    fn waits(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<(), BackendError> {
        Ok(self.device.synchronize()?)
    }

    fn numbers(&self, numbers: &[Number]) -> Result<Vec<f64>, BackendError> {
        self.read_numbers(numbers)
    }

    fn update(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
        scale: &Number,
    ) -> Result<(), BackendError> {
        self.update_part(parameters, (block, part), rule, scale)
    }

    #[cfg(feature = "cuda")]
    fn update_all(
        &mut self,
        parameters: &Parameters,
        rules: &[(usize, usize, AdamW)],
        scale: &Number,
    ) -> Result<(), BackendError> {
        match self.own.clone() {
            Some(own) => self.update_at_once(&own, parameters, rules, scale),
            None => crate::backend::update_each(self, parameters, rules, scale),
        }
    }

    fn read_moments(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<[Vec<f32>; 2], BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let Some([first, second]) = self.moments.get(&(block, part.offset)) else {
            return Ok([vec![0.0; part.elements], vec![0.0; part.elements]]);
        };
        Ok([self.elements(first)?, self.elements(second)?])
    }

    fn write_moments(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        moments: [Vec<f32>; 2],
    ) -> Result<(), BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let [first, second] = moments.map(|moments| Tensor::from_vec(moments, part.elements, &self.device));
        self.moments.insert((block, part.offset), [first?, second?]);
        Ok(())
    }

    fn clear_gradients(&mut self) -> Result<(), BackendError> {
        self.gradients.clear();
        Ok(())
    }

    fn clear_state(&mut self) -> Result<(), BackendError> {
        self.moments.clear();
        Ok(())
    }
}
