//! Memory of a training, computed before it starts.

use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::device::{Device, Precision, Target};
use crate::kernels::attention::most_kept_of_row;
use crate::parameters::Parameters;
use crate::program::cost::{composed_bytes, frozen_bytes, gradient_bytes};
use crate::program::value::Sizes;

/// Rows of a micro-batch. More make the products of a processor little faster and
/// take memory in proportion, so that larger batches are taken in parts; what is
/// longer by itself is a part of its own.
pub const MICRO_BATCH_ROWS: usize = 1024;

/// Working memory in bytes in which a micro-batch may have more rows: of a small model a
/// step spends a few percent on what each micro-batch costs whatever its rows.
const SMALL_WORKING: u64 = 192 << 20;

/// What a training needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// All parameters.
    pub parameters: u64,
    /// Both moments of AdamW of what trains, and on our own backend, which has them all the
    /// time, gradients.
    pub optimizer: u64,
    /// The copy of the best checkpoint, where it lies in the device's memory.
    pub checkpoint: u64,
    /// Working memory of the largest micro-batch, with gradients on the second backend, which
    /// makes them when values end.
    pub working: u64,
}

impl MemoryEstimate {
    /// Everything together.
    pub fn total(&self) -> u64 {
        self.parameters + self.optimizer + self.checkpoint + self.working
    }
}

/// The largest batches that data can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LargestBatch {
    pub examples: usize,
    /// Rows of the longest example, virtual ones included.
    pub rows: usize,
    /// The most pieces of an example.
    pub pieces: usize,
    /// Rows of the longest piece, virtual ones included.
    pub longest: usize,
    /// Tokens of the longest example that noise may choose.
    pub masked: usize,
    /// Rows of the decoder of the example that has the most.
    pub targets: usize,
    /// Words of the largest example, where expressions read words.
    pub words: usize,
    /// Rows of a micro-batch at most, as the device wants it.
    pub most_rows: usize,
}

impl LargestBatch {
    /// The sizes of so many of the longest examples, or of as many short ones as
    /// have the rows of a micro-batch.
    pub fn sizes(&self, examples: usize) -> Sizes {
        let tokens = (examples * self.rows).min(self.most_rows.max(self.rows));
        let masked = (examples * self.masked).min(tokens);
        let targets = (examples * self.targets).min(self.most_rows.max(self.targets));
        let examples = examples.min(tokens);
        let sequences = examples * self.pieces.max(1);
        let (longest, words) = (self.longest, self.words);
        let probabilities = tokens * most_kept_of_row(longest);
        // How many rows are virtual is not known here.
        Sizes {
            tokens,
            virtual_rows: tokens,
            sequences,
            examples,
            masked,
            targets,
            remembered: 0,
            longest,
            words,
            probabilities,
        }
    }
}

/// The sizes of a micro-batch of so many examples, as a device computes it.
fn sizes_on(target: Target, largest: &LargestBatch, micro_batch: usize) -> Sizes {
    let sizes = largest.sizes(micro_batch);
    match target.device {
        Device::Cpu => sizes,
        // The second backend computes them again.
        _ => Sizes { probabilities: 0, ..sizes },
    }
}

/// By value: whether it is stored in bf16 there.
fn halves_on(target: Target, compiled: &Compiled) -> Vec<bool> {
    match target.stores_halves() {
        true => compiled.halves.clone(),
        false => vec![false; compiled.program.values.len()],
    }
}

/// Working memory, with so many bytes of gradients at each instruction of the second backend.
fn working_bytes(
    compiled: &Compiled,
    sizes: &Sizes,
    halves: &[bool],
    target: Target,
    gradients: Option<Vec<usize>>,
) -> usize {
    if target.device == Device::Cpu {
        return compiled.working_bytes(sizes);
    }
    let mut beside = composed_bytes(&compiled.program, sizes, target.attention_columns, halves);
    for (beside, gradients) in beside.iter_mut().zip(gradients.unwrap_or_default()) {
        *beside += gradients;
    }
    compiled.bytes_of_arrays(sizes, halves, &beside)
}

/// The memory of a training on a device, with micro-batches of so many examples.
pub fn estimate(
    compiled: &Compiled,
    parameters: &Parameters,
    largest: &LargestBatch,
    micro_batch: usize,
    target: Target,
) -> MemoryEstimate {
    let program = &compiled.program;
    let sizes = sizes_on(target, largest, micro_batch);
    let halves = halves_on(target, compiled);
    let bytes = |elements: usize| (elements * size_of::<f32>()) as u64;
    let blocks = parameters.blocks.iter();
    let trained = bytes(blocks.clone().filter(|block| block.trains()).map(|block| block.elements).sum());
    let trains = |block: usize| parameters.blocks[block].trains();
    // An effective batch in parts has the gradients of the parts before.
    let in_parts = micro_batch < largest.examples || micro_batch * largest.rows > largest.most_rows;
    let gradients = gradient_bytes(program, &sizes, in_parts);
    MemoryEstimate {
        parameters: match target.precision {
            Precision::Bf16 => trained + frozen_bytes(program, &sizes, &halves, trains) as u64,
            Precision::Fp32 | Precision::Tf32 => bytes(blocks.map(|block| block.elements).sum()),
        },
        optimizer: match target.device {
            Device::Cpu => 3 * trained,
            _ => bytes(2 * parameters.trained_elements()),
        },
        checkpoint: match target.device {
            Device::Cpu | Device::CandleCpu | Device::Metal => bytes(parameters.trained_elements()),
            Device::Cuda(_) => 0,
        },
        working: working_bytes(compiled, &sizes, &halves, target, Some(gradients)) as u64,
    }
}

/// Rows of a micro-batch at most: as many as the device wants, and on a processor more
/// where they take little memory.
pub fn micro_batch_rows(compiled: &Compiled, largest: &LargestBatch, target: Target) -> usize {
    let most_rows = target.device.micro_batch_rows();
    if !matches!(target.device, Device::Cpu | Device::CandleCpu) {
        return most_rows;
    }
    let largest = LargestBatch { most_rows, ..*largest };
    let sizes = sizes_on(target, &largest, largest.examples);
    // Gradients do not grow with the rows.
    let working = working_bytes(compiled, &sizes, &halves_on(target, compiled), target, None);
    let (tokens, working) = (sizes.tokens as u64, working as u64);
    most_rows.max((tokens * SMALL_WORKING / working.max(1)) as usize)
}

/// The largest micro-batch, halved from the whole batch, for which memory
/// suffices; at least one example. `available` is what is left beside what the
/// process has taken already; parameters are counted as not yet taken.
pub fn micro_batch_that_fits(
    compiled: &Compiled,
    parameters: &Parameters,
    largest: &LargestBatch,
    available: u64,
    target: Target,
) -> usize {
    let mut micro_batch = largest.examples.max(1);
    let needs = |examples| estimate(compiled, parameters, largest, examples, target).total();
    while micro_batch > 1 && needs(micro_batch) > available {
        micro_batch = micro_batch.div_ceil(2);
    }
    micro_batch
}
