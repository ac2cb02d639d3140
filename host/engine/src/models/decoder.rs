//! What families with a decoder share: the way through both stacks of layers,
//! attention of their layers, and the heads.

use host_ir::graph::Op;
use host_ir::model::{ModelDescription, ParameterId, SiteId, SiteKind};

use crate::kernels::relative::Buckets;
use crate::models::describe::Describer;
use crate::models::heads::{self, PooledHead};
use crate::program::attend::AttentionShape;
use crate::program::build::{Builder, CompileError, Pending, Purpose};
use crate::program::instruction::{Activation, Instruction, RowChoice};
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

/// What a family says of its two stacks of layers.
pub trait Stacks {
    /// Layers of a stack.
    fn layers(&self, side: Side) -> usize;

    /// The modules that make keys and values of the encoder's states for a layer of
    /// the decoder.
    ///
    /// # Errors
    /// The model has no such module.
    fn memory_sites(&self, builder: &Builder<'_>, layer: usize) -> Result<[SiteId; 2], CompileError>;

    /// The last hidden states of a stack, [rows of the stack, size]. A decoder attends
    /// to its source.
    ///
    /// # Errors
    /// A hook or an expression that this engine cannot run.
    fn stack(
        &self,
        builder: &mut Builder<'_>,
        side: Side,
        source: Option<Source>,
    ) -> Result<ValueId, CompileError>;
}

/// The decoder's last hidden states; `None` of the program that only encodes, which
/// keeps what the decoder's steps attend to.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn hidden(builder: &mut Builder<'_>, family: &impl Stacks) -> Result<Option<ValueId>, CompileError> {
    let source = match builder.purpose {
        Purpose::Decode => Source::Kept,
        Purpose::Whole => Source::Hidden(family.stack(builder, Side::Encoder, None)?),
        Purpose::Encode => {
            let encoded = family.stack(builder, Side::Encoder, None)?;
            for layer in 0..family.layers(Side::Decoder) {
                let sites = family.memory_sites(builder, layer)?;
                let memory = builder.linear_group(&sites, encoded)?;
                builder.keep(memory, slot(layer, false));
            }
            return Ok(None);
        }
    };
    family.stack(builder, Side::Decoder, Some(source)).map(Some)
}

/// The embeddings of a stack's tokens, [rows, size], those of words times a factor and
/// without a gradient of the padding's, with the method's virtual ones before the
/// encoder's.
///
/// # Errors
/// An expression that this engine cannot run.
pub fn embed(
    builder: &mut Builder<'_>,
    side: Side,
    (word, factor, padding): (ValueId, f64, Option<u32>),
    position: Option<ValueId>,
    size: usize,
) -> Result<ValueId, CompileError> {
    let prompt = match side {
        Side::Encoder => builder.method.prompt.map(|node| builder.expression(false, node)).transpose()?,
        Side::Decoder => None,
    };
    let inputs: Vec<ValueId> = [Some(word), position, prompt].into_iter().flatten().collect();
    let out = builder.working(vec![side.rows(), Extent::Fixed(size)], &inputs);
    let factor = factor as f32;
    builder.push(Instruction::Embed { word, factor, padding, position, token_type: None, prompt, out });
    Ok(out)
}

/// The sites of parts of a module.
///
/// # Errors
/// The model has no such module.
pub fn sites<const PARTS: usize>(
    builder: &Builder<'_>,
    name: &str,
    parts: [&str; PARTS],
) -> Result<[SiteId; PARTS], CompileError> {
    let mut sites = [SiteId(0); PARTS];
    for (site, part) in sites.iter_mut().zip(parts) {
        *site = builder.site(&format!("{name}.{part}"))?;
    }
    Ok(sites)
}

/// The parameters of parts of modules, of which one product reads all: weights by
/// weights and biases by biases, where the model has them.
pub fn side_by_side(
    model: &ModelDescription,
    modules: impl IntoIterator<Item = (String, &'static [&'static str])>,
) -> Vec<Vec<ParameterId>> {
    let mut groups = Vec::new();
    for (name, parts) in modules {
        for kind in ["weight", "bias"] {
            let ids = parts.iter().map(|part| model.find_parameter(&format!("{name}.{part}.{kind}")));
            groups.extend(ids.collect::<Option<Vec<_>>>());
        }
    }
    groups
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

/// The error of a head that a family lacks, with those that it has in words.
///
/// # Errors
/// Always.
pub fn no_head(builder: &Builder<'_>, heads: &str) -> Result<(), CompileError> {
    Err(CompileError::Wrong(format!(
        "a model of the kind {} has heads for {heads}, and none for what this task asks",
        builder.model.architecture
    )))
}

/// The name of the output layer.
const OUTPUT_LAYER: &str = "lm_head";
const DENSE: &str = "classification_head.dense";
const CLASSIFIER: &str = "classification_head.out_proj";

/// Parameters of the head for so many classes over states of a size.
pub fn describe_classification(describer: &mut Describer<'_>, size: usize, classes: u32) {
    describer.linear(DENSE, None, size, size, true);
    describer.linear(CLASSIFIER, None, size, classes as usize, true);
}

/// The head for classes of sequences over the decoder's last state of each: that at
/// the input's end, which the decoder reads once more. Binds the leaves of the task's
/// plan that stand for its logits, [sequences, classes].
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn classify(builder: &mut Builder<'_>, hidden: ValueId, dropout: f64) -> Result<(), CompileError> {
    let last = builder.take_rows(hidden, RowChoice::LastTarget);
    let head = PooledHead {
        before: Some(dropout),
        dense: Some((DENSE, Some(Activation::Tanh))),
        after: dropout,
        classifier: CLASSIFIER,
    };
    let logits = heads::layers(builder, last, &head)?;
    for node in builder.task_leaves(|op| matches!(op, Op::ClassificationLogits(_))) {
        builder.remember(true, node, logits);
    }
    Ok(())
}

/// The output layer, a site of its own whose weights the word embeddings may share: its
/// weight is one of these names, the first that the model has a parameter of.
pub fn describe_output(describer: &mut Describer<'_>, names: [&str; 2], sizes: (usize, usize)) {
    let weight = names.iter().find_map(|name| describer.model.find_parameter(name));
    describer.model.output_layer = Some(SiteId(describer.model.modules.len() as u32));
    describer.module(OUTPUT_LAYER, SiteKind::Linear, None, sizes, [weight, None], false);
}

/// The logits of hidden states, [rows, vocabulary].
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn logits(
    builder: &mut Builder<'_>,
    hidden: ValueId,
    bias: Option<ValueId>,
) -> Result<ValueId, CompileError> {
    let site = builder.site(OUTPUT_LAYER)?;
    let pending = match builder.program.value(hidden).extents[0] {
        Extent::Masked => builder.over_rows(Extent::Masked, |builder| builder.linear(site, hidden))?,
        _ => builder.linear(site, hidden)?,
    };
    let y = builder.settle(pending);
    Ok(match bias {
        Some(_) => {
            let y = builder.overwritable(y);
            builder.settle(Pending { y, bias })
        }
        None => y,
    })
}

/// Binds the leaves of the task's plan that stand for the logits of the target's
/// tokens, or of the masked ones.
pub fn bind_logits(builder: &mut Builder<'_>, logits: ValueId) {
    builder.logits = Some(logits);
    for node in builder.task_leaves(|op| matches!(op, Op::TargetLogits(_) | Op::MaskedLogits(_))) {
        builder.remember(true, node, logits);
    }
}
