//! The operations of the contract.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::{NewParameterId, SequenceId};
use crate::model::{ParameterId, SiteId};

/// Element-wise functions of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unary {
    Exp,
    Log,
    Sqrt,
    Abs,
    Tanh,
    Sigmoid,
    Relu,
    Gelu,
    Silu,
}

/// Element-wise functions of two values, broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Maximum,
    Minimum,
}

/// Reductions over axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    Sum,
    Mean,
    /// Euclidean norm.
    Norm,
    /// Standard deviation, divided by n.
    Deviation,
    LogSumExp,
    /// The largest element; equal ones share its gradient.
    Maximum,
}

/// Comparisons of two values, broadcast: 1 where they hold, else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    Equal,
    Less,
}

/// What a node does with its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Real numbers, row-major.
    Constant(Arc<[f64]>),
    Integers(Arc<[i32]>),
    Full(f64),
    Eye,
    Uniform {
        low: f64,
        high: f64,
        key: Option<String>,
    },
    Normal {
        mean: f64,
        deviation: f64,
        key: Option<String>,
    },
    /// Whole numbers below `bound`, without replacement as long as possible.
    Draw {
        bound: u32,
        key: Option<String>,
    },
    Base(ParameterId),
    New(NewParameterId),
    SiteInput(SiteId),
    SiteOutput(SiteId),
    Hidden(SequenceId),
    ClassificationLogits(SequenceId),
    TokenLogits(SequenceId),
    ChoiceLogits(SequenceId),
    MaskedLogits(SequenceId),
    MaskedTokens(SequenceId),
    TargetLogits(SequenceId),
    TargetTokens(SequenceId),
    /// The gold label of a field.
    Label(String),
    /// A parameter of the task's head, by its number in
    /// [`crate::task::TaskPlan::parameters`].
    Head(u32),
    /// The hidden states of the first token of each word of an example.
    WordStates(SequenceId),
    /// The numbers that a field gives the words of an example.
    WordNumbers(String),
    /// By first word and number of words less one: one more than the number that
    /// a field gives the span, 0 where it gives none.
    SpanNumbers {
        field: String,
        width: u32,
    },
    Unary(Unary),
    Binary(Binary),
    Affine {
        factor: f64,
        offset: f64,
    },
    Power(f64),
    Permute(Vec<usize>),
    Reshape,
    Slice {
        axis: usize,
        start: u32,
        length: u32,
    },
    Concat {
        axis: usize,
    },
    Matmul,
    Reduce {
        reduce: Reduce,
        axes: Vec<usize>,
        keep: bool,
    },
    Softmax {
        axis: usize,
    },
    LogSoftmax {
        axis: usize,
    },
    /// Rows of input 0 by the integers of input 1.
    Rows,
    CrossEntropy,
    Detach,
    Dropout(f64),
    /// Input 0 in training, input 1 in evaluation.
    Training,
    /// Row i is row i + `by` of the input, zero where there is none.
    Shift {
        by: i32,
    },
    /// The places along an axis, from 0.
    Positions {
        axis: usize,
    },
    /// Whole numbers divided by a constant: the whole part, or what remains.
    Quotient(u32),
    Remainder(u32),
    Compare(Compare),
    /// Row-major places, ascending, of the largest elements: so many thousandths
    /// of the first axis' size.
    Largest {
        thousandths: u32,
    },
    /// The first place along an axis that has the largest element.
    ArgMax {
        axis: usize,
    },
    /// Elements of input 0 at the row-major places of input 1.
    Elements,
}

impl Op {
    /// The name of the operation in the contract.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Constant(_) => "constant",
            Op::Integers(_) => "integers",
            Op::Full(_) => "full",
            Op::Eye => "eye",
            Op::Uniform { .. } => "uniform",
            Op::Normal { .. } => "normal",
            Op::Draw { .. } => "draw",
            Op::Base(_) | Op::New(_) | Op::Head(_) => "parameter",
            Op::SiteInput(_) => "input",
            Op::SiteOutput(_) => "output",
            Op::Hidden(_) => "hidden",
            Op::ClassificationLogits(_) => "classification",
            Op::TokenLogits(_) => "token-classification",
            Op::ChoiceLogits(_) => "choice",
            Op::MaskedLogits(_) => "masked-language-model",
            Op::MaskedTokens(_) => "masked-tokens",
            Op::TargetLogits(_) => "sequence-to-sequence",
            Op::TargetTokens(_) => "target-tokens",
            Op::Label(_) => "label",
            Op::WordStates(_) => "word-states",
            Op::WordNumbers(_) => "word-numbers",
            Op::SpanNumbers { .. } => "span-numbers",
            Op::Unary(unary) => match unary {
                Unary::Exp => "exp",
                Unary::Log => "log",
                Unary::Sqrt => "sqrt",
                Unary::Abs => "abs",
                Unary::Tanh => "tanh",
                Unary::Sigmoid => "sigmoid",
                Unary::Relu => "relu",
                Unary::Gelu => "gelu",
                Unary::Silu => "silu",
            },
            Op::Binary(binary) => match binary {
                Binary::Add => "add",
                Binary::Subtract => "subtract",
                Binary::Multiply => "multiply",
                Binary::Divide => "divide",
                Binary::Maximum => "maximum",
                Binary::Minimum => "minimum",
            },
            Op::Affine { .. } => "affine",
            Op::Power(_) => "power",
            Op::Permute(_) => "permute",
            Op::Reshape => "reshape",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Matmul => "matmul",
            Op::Reduce { reduce, .. } => match reduce {
                Reduce::Sum => "sum",
                Reduce::Mean => "mean",
                Reduce::Norm => "norm",
                Reduce::Deviation => "deviation",
                Reduce::LogSumExp => "log-sum-exp",
                Reduce::Maximum => "largest-over",
            },
            Op::Softmax { .. } => "softmax",
            Op::LogSoftmax { .. } => "log-softmax",
            Op::Rows => "rows",
            Op::CrossEntropy => "cross-entropy",
            Op::Detach => "detach",
            Op::Dropout(_) => "dropout",
            Op::Training => "training",
            Op::Shift { .. } => "shift",
            Op::Positions { .. } => "positions",
            Op::Quotient(_) => "quotient",
            Op::Remainder(_) => "remainder",
            Op::Compare(Compare::Equal) => "equal",
            Op::Compare(Compare::Less) => "less",
            Op::Largest { .. } => "largest",
            Op::ArgMax { .. } => "arg-max",
            Op::Elements => "elements",
        }
    }
}
