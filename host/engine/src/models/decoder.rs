//! What families with a decoder share: attention of their layers, and the
//! language-model head.

use host_ir::graph::Op;
use host_ir::model::SiteId;
use host_ir::task::HeadKind;

use crate::kernels::relative::Buckets;
use crate::program::attend::AttentionShape;
use crate::program::build::{Builder, CompileError, Purpose};
use crate::program::value::{Extent, ValueId};

/// Which of the two stacks of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Encoder,
    Decoder,
}

impl Side {
    /// The name of the stack in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Side::Encoder => "encoder",
            Side::Decoder => "decoder",
        }
    }

    /// What its rows are.
    pub fn rows(self) -> Extent {
        match self {
            Side::Encoder => Extent::Tokens,
            Side::Decoder => Extent::Targets,
        }
    }
}

/// A relative position bias: its table and how distances fall into it.
pub type Bias = Option<(ValueId, Buckets)>;

/// Where a decoder's layers find what they attend to beside themselves.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The encoder's last hidden states.
    Hidden(ValueId),
    /// Keys and values that the encoder's program has kept.
    Kept,
}

/// The memory in which a layer's keys and values are kept: those of the encoder's
/// states, and those of what the decoder has said.
fn slot(layer: usize, said: bool) -> usize {
    2 * layer + usize::from(said)
}

/// Attention of a sequence to itself in a layer; the sites are those of the queries,
/// the keys and the values.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn self_attention(
    builder: &mut Builder<'_>,
    layer: usize,
    sites: [SiteId; 3],
    x: ValueId,
    bias: Bias,
    shape: AttentionShape,
) -> Result<ValueId, CompileError> {
    let qkv = builder.linear_group(&sites, x)?;
    Ok(match builder.purpose {
        Purpose::Decode => {
            let memory = builder.kept(slot(layer, true), Extent::Remembered, 2 * shape.size);
            builder.attend_recalled(qkv, memory, bias, shape)
        }
        Purpose::Whole | Purpose::Encode => builder.attend(qkv, None, bias, shape),
    })
}

/// Attention to what the encoder has made.
///
/// # Errors
/// As [`self_attention`].
pub fn cross_attention(
    builder: &mut Builder<'_>,
    layer: usize,
    [query, key, value]: [SiteId; 3],
    x: ValueId,
    source: Source,
    shape: AttentionShape,
) -> Result<ValueId, CompileError> {
    let pending = builder.linear(query, x)?;
    let queries = builder.settle(pending);
    let memory = match source {
        Source::Hidden(encoded) => builder.linear_group(&[key, value], encoded)?,
        Source::Kept => builder.kept(slot(layer, false), Extent::Tokens, 2 * shape.size),
    };
    Ok(builder.attend(queries, Some(memory), None, shape))
}

/// Keeps the keys and values of a layer's attention to the encoder.
///
/// # Errors
/// As [`self_attention`].
pub fn keep_encoded(
    builder: &mut Builder<'_>,
    layer: usize,
    [key, value]: [SiteId; 2],
    encoded: ValueId,
) -> Result<(), CompileError> {
    let memory = builder.linear_group(&[key, value], encoded)?;
    builder.keep(memory, slot(layer, false));
    Ok(())
}

/// Refuses the heads that a family with a decoder lacks.
///
/// # Errors
/// Any other head than sequence to sequence.
pub fn check_head(builder: &Builder<'_>) -> Result<(), CompileError> {
    match builder.task.head {
        None | Some(HeadKind::SequenceToSequence) => Ok(()),
        Some(_) => Err(CompileError::Wrong(format!(
            "a model of the kind {} has the head for sequence to sequence alone here",
            builder.model.architecture
        ))),
    }
}

/// Binds the leaves of the task's plan that stand for the logits.
pub fn bind_logits(builder: &mut Builder<'_>, logits: ValueId) {
    builder.logits = Some(logits);
    for node in builder.task_leaves(|op| matches!(op, Op::TargetLogits(_))) {
        builder.remember(true, node, logits);
    }
}
