//! What instructions name beside values: masks, functions, rows, integers and numbers
//! that are known when a step runs.

use std::sync::Arc;

/// One dropout of the program. Its mask is a function of the seed, the step,
/// this site and the element's place; it is never stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub site: u32,
    pub probability: f32,
}

/// Activation functions of feed-forward layers and heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Phi(x)`, exact.
    Gelu,
    /// Its approximation by tanh (Hendrycks and Gimpel 2016).
    GeluTanh,
    Relu,
    Silu,
    Tanh,
}

/// Which rows of the packed batch are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChoice {
    /// The first row of each sequence that is no virtual token: `[sequences]`.
    FirstToken,
    /// The virtual rows at the start of each sequence: `[virtual]`.
    Virtual,
    /// The rows that masked-language-model noise has chosen: `[masked]`.
    Masked,
    /// The first row of each word: `[words]`.
    Words,
    /// The last row of each sequence of the decoder: `[sequences]`.
    LastTarget,
    /// The rows of the decoder that should say what noise has masked: `[masked]`.
    MaskedTarget,
}

/// Where integers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integers {
    /// The gold labels of a field, `[sequences]`.
    Label(String),
    /// The same, `[examples]`.
    ExampleLabel(String),
    /// The tokens that stood at the chosen rows, `[masked]`.
    MaskedTokens,
    /// The tokens that the decoder should say, `[targets]`.
    TargetTokens,
    /// Constants of the plan.
    Constant(Arc<[i32]>),
    /// The numbers of a field, `[words]`.
    Words(String),
    /// The numbers of a field's spans by first word and further words, each plus
    /// one, and 0 elsewhere: `[words, width]`.
    Spans { field: String, width: usize },
}

/// Sums that fold axes away; others are made of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    Sum,
    /// The largest element; used to keep exponentials in range, without gradient.
    Maximum,
}

/// A number that is known when a step runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Constant(f32),
    /// The weight of an element of the loss with this number: one by the count
    /// of its elements in the effective batch.
    LossWeight(usize),
    /// The share of the effective batch's micro-batches that this one is.
    MicroBatchShare,
}
