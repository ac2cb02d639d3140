//! Values of a program: what they are stored in and how large they are.

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::kernels::attention::kept_places;
use crate::program::relative::Buckets;

/// A value, by its number in [`super::build::Program::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ValueId(pub u32);

/// The size of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    Fixed(usize),
    /// Rows of the packed batch, virtual ones included.
    Tokens,
    /// Virtual rows of the packed batch.
    Virtual,
    /// Sequences of the batch.
    Sequences,
    /// Examples of the batch, each of one sequence or more.
    Examples,
    /// Tokens that masked-language-model noise has chosen.
    Masked,
    /// So many times the rows of the packed batch.
    TokensTimes(usize),
    /// So many times the probabilities of attention that are kept of short sequences.
    ProbabilitiesTimes(usize),
    /// Rows of a table of relative positions that the longest sequence reaches.
    Reached(Buckets),
    /// Rows of the packed batch of the decoder.
    Targets,
    /// So many times the rows of the decoder.
    TargetsTimes(usize),
    /// Rows of the memory of a generation.
    Remembered,
    /// Words of the batch's only example.
    Words,
    /// So many thousandths of them, rounded up.
    Share(u32),
}

/// The sizes of a batch, by which symbols are resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub tokens: usize,
    /// Virtual rows of all sequences.
    pub virtual_rows: usize,
    pub sequences: usize,
    pub examples: usize,
    pub masked: usize,
    /// Rows of the longest sequence, virtual ones included.
    pub longest: usize,
    /// Rows of the decoder.
    pub targets: usize,
    /// Rows of the memory of a generation.
    pub remembered: usize,
    pub words: usize,
    /// Probabilities that a head of attention keeps.
    pub probabilities: usize,
}

impl Sizes {
    /// The sizes of a packed batch.
    pub fn of(batch: &Batch) -> Sizes {
        Sizes {
            tokens: batch.rows(),
            virtual_rows: batch.sequences() * batch.virtual_tokens as usize,
            sequences: batch.sequences(),
            examples: batch.examples(),
            masked: batch.masked_rows.len(),
            longest: batch.longest(),
            targets: batch.target.rows(),
            remembered: batch.target.recall.as_ref().map_or(0, |recall| recall.memory_rows as usize),
            words: batch.word_rows.len(),
            probabilities: kept_places(&batch.starts).last().map_or(0, |&end| end),
        }
    }

    /// An axis in elements.
    pub fn resolve(&self, extent: Extent) -> usize {
        match extent {
            Extent::Fixed(size) => size,
            Extent::Tokens => self.tokens,
            Extent::Virtual => self.virtual_rows,
            Extent::Sequences => self.sequences,
            Extent::Examples => self.examples,
            Extent::Masked => self.masked,
            Extent::TokensTimes(times) => self.tokens * times,
            Extent::ProbabilitiesTimes(times) => self.probabilities * times,
            Extent::Reached(buckets) => buckets.reached(self.longest).count(),
            Extent::Targets => self.targets,
            Extent::TargetsTimes(times) => self.targets * times,
            Extent::Remembered => self.remembered,
            Extent::Words => self.words,
            Extent::Share(thousandths) => (self.words * thousandths as usize).div_ceil(1000),
        }
    }
}

/// Where the elements of a value live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the batch's working memory, from its first writer to its last reader.
    Working,
    /// In the memory of another value, whose last reader is this one's writer.
    InPlaceOf(ValueId),
    /// A part of a block of parameters.
    Parameter { block: usize, offset: usize },
    /// In memory that outlives a run of the program, and that another program may read.
    Kept { slot: usize },
    /// The gradient of that part, which adds up over micro-batches.
    Gradient { block: usize, offset: usize },
}

/// A dense row-major array of 32-bit floating point numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub extents: Vec<Extent>,
    pub storage: Storage,
    /// Whether the loss has a gradient in it that somebody wants.
    pub wants_gradient: bool,
}

impl Value {
    /// Number of elements in a batch.
    pub fn elements(&self, sizes: &Sizes) -> usize {
        self.extents.iter().map(|&extent| sizes.resolve(extent)).product()
    }

    /// Size of the last axis; 1 of a single number.
    pub fn columns(&self, sizes: &Sizes) -> usize {
        self.extents.last().map_or(1, |&extent| sizes.resolve(extent))
    }

    /// Product of all axes but the last.
    pub fn rows(&self, sizes: &Sizes) -> usize {
        let leading = self.extents.split_last().map_or(&[][..], |(_, leading)| leading);
        leading.iter().map(|&extent| sizes.resolve(extent)).product()
    }

    /// The axes in elements.
    pub fn sizes(&self, sizes: &Sizes) -> Vec<usize> {
        self.extents.iter().map(|&extent| sizes.resolve(extent)).collect()
    }
}
