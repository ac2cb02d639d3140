//! BERT (Devlin et al. 2019), as transformers' BertModel,
//! BertForSequenceClassification and BertForMaskedLM compute it.

use host_ir::graph::Op;
use host_ir::model::{ModelDescription, Module, Parameter, ParameterId, Role, SiteId, SiteKind};
use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::program::build::{Builder, CompileError, NormParameters, Pending};
use crate::program::instruction::{Activation, Instruction, RowChoice};
use crate::program::value::{Extent, ValueId};

/// The prefix of base parameters in checkpoints with a head.
pub const PREFIX: &str = "bert.";

/// Makes the list of modules and parameters.
struct Describer<'a> {
    model: ModelDescription,
    present: &'a dyn Fn(&str) -> bool,
}

impl Describer<'_> {
    fn parameter(&mut self, name: String, shape: &[usize], role: Role, head: bool) -> ParameterId {
        let shape = shape.iter().map(|&size| size as u32).collect();
        self.model.parameters.push(Parameter { name, shape, role, head });
        ParameterId(self.model.parameters.len() as u32 - 1)
    }

    fn module(
        &mut self,
        name: &str,
        kind: SiteKind,
        layer: Option<u32>,
        sizes: (usize, usize),
        parameters: [Option<ParameterId>; 2],
        head: bool,
    ) {
        let [weight, bias] = parameters;
        let (inputs, outputs) = (sizes.0 as u32, sizes.1 as u32);
        self.model.modules.push(Module {
            name: name.into(),
            kind,
            layer,
            inputs,
            outputs,
            weight,
            bias,
            head,
        });
    }

    fn linear(&mut self, name: &str, layer: Option<u32>, inputs: usize, outputs: usize, head: bool) {
        let weight = self.parameter(format!("{name}.weight"), &[outputs, inputs], Role::Weight, head);
        let bias = self.parameter(format!("{name}.bias"), &[outputs], Role::Bias, head);
        self.module(name, SiteKind::Linear, layer, (inputs, outputs), [Some(weight), Some(bias)], head);
    }

    fn norm(&mut self, name: &str, layer: Option<u32>, size: usize, head: bool) {
        let weight = self.parameter(format!("{name}.weight"), &[size], Role::NormWeight, head);
        let bias = self.parameter(format!("{name}.bias"), &[size], Role::NormBias, head);
        self.module(name, SiteKind::Norm, layer, (size, size), [Some(weight), Some(bias)], head);
    }

    fn embedding(&mut self, name: &str, entries: usize, size: usize) -> ParameterId {
        let weight = self.parameter(format!("{name}.weight"), &[entries, size], Role::Embedding, false);
        self.module(name, SiteKind::Embedding, None, (entries, size), [Some(weight), None], false);
        weight
    }

    fn part(&mut self, name: &str, kind: SiteKind, layer: u32, size: usize) {
        self.module(name, kind, Some(layer), (size, size), [None, None], false);
    }
}

/// Modules and parameters under the names of transformers. `present` says
/// whether the checkpoint has a parameter: a pooler that it lacks is new, and
/// so a part of the head.
pub fn describe(config: &EncoderConfig, head: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription {
    let hidden = config.hidden_size;
    let mut describer = Describer { model: ModelDescription::default(), present };
    describer.model.architecture = config.architecture.clone();
    describer.model.facts = config.facts.clone();
    let word = describer.embedding("bert.embeddings.word_embeddings", config.vocabulary, hidden);
    describer.model.word_embeddings = Some(word);
    describer.embedding("bert.embeddings.position_embeddings", config.positions, hidden);
    describer.embedding("bert.embeddings.token_type_embeddings", config.token_types, hidden);
    describer.norm("bert.embeddings.LayerNorm", None, hidden, false);
    for number in 0..config.layers as u32 {
        let (layer, name) = (Some(number), format!("bert.encoder.layer.{number}"));
        for part in ["query", "key", "value"] {
            describer.linear(&format!("{name}.attention.self.{part}"), layer, hidden, hidden, false);
        }
        describer.linear(&format!("{name}.attention.output.dense"), layer, hidden, hidden, false);
        describer.part(&format!("{name}.attention"), SiteKind::Attention, number, hidden);
        describer.norm(&format!("{name}.attention.output.LayerNorm"), layer, hidden, false);
        describer.linear(
            &format!("{name}.intermediate.dense"),
            layer,
            hidden,
            config.intermediate_size,
            false,
        );
        describer.linear(&format!("{name}.output.dense"), layer, config.intermediate_size, hidden, false);
        describer.part(&format!("{name}.feed_forward"), SiteKind::FeedForward, number, hidden);
        describer.norm(&format!("{name}.output.LayerNorm"), layer, hidden, false);
        describer.part(&name, SiteKind::Block, number, hidden);
    }
    match head {
        HeadKind::Classification { classes } => {
            let new = !(describer.present)("bert.pooler.dense.weight");
            describer.linear("bert.pooler.dense", None, hidden, hidden, new);
            describer.linear("classifier", None, hidden, classes as usize, true);
        }
        HeadKind::MaskedLanguageModel => {
            describer.parameter("cls.predictions.bias".into(), &[config.vocabulary], Role::Bias, true);
            describer.linear("cls.predictions.transform.dense", None, hidden, hidden, true);
            describer.norm("cls.predictions.transform.LayerNorm", None, hidden, true);
        }
    }
    describer.model
}

/// Parameters that one product reads together.
pub fn fused(model: &ModelDescription) -> Vec<Vec<ParameterId>> {
    let mut groups = Vec::new();
    for layer in 0.. {
        let group = |kind: &str| -> Option<Vec<ParameterId>> {
            let name = |part: &str| format!("bert.encoder.layer.{layer}.attention.self.{part}.{kind}");
            ["query", "key", "value"].iter().map(|part| model.find_parameter(&name(part))).collect()
        };
        let (Some(weights), Some(biases)) = (group("weight"), group("bias")) else { return groups };
        groups.extend([weights, biases]);
    }
    groups
}

/// Builds the encoder and the head, and binds the plan's leaves to them.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn build(builder: &mut Builder<'_>, config: &EncoderConfig) -> Result<(), CompileError> {
    let mut x = embeddings(builder, config)?;
    for layer in 0..config.layers {
        x = block(builder, config, x, layer)?;
    }
    head(builder, config, x)
}

fn norm_parameters(
    builder: &mut Builder<'_>,
    name: &str,
    config: &EncoderConfig,
) -> Result<NormParameters, CompileError> {
    Ok(NormParameters {
        gain: builder.named(&format!("{name}.weight"))?,
        shift: builder.named(&format!("{name}.bias"))?,
        epsilon: config.norm_epsilon as f32,
    })
}

fn embeddings(builder: &mut Builder<'_>, config: &EncoderConfig) -> Result<ValueId, CompileError> {
    let word = builder.named("bert.embeddings.word_embeddings.weight")?;
    let position = builder.named("bert.embeddings.position_embeddings.weight")?;
    let token_type = builder.named("bert.embeddings.token_type_embeddings.weight")?;
    let prompt = builder.method.prompt.map(|node| builder.expression(false, node)).transpose()?;
    let inputs: Vec<ValueId> =
        [Some(word), Some(position), Some(token_type), prompt].into_iter().flatten().collect();
    let sum = builder.working(vec![Extent::Tokens, Extent::Fixed(config.hidden_size)], &inputs);
    builder.push(Instruction::Embed {
        word,
        position: Some(position),
        token_type: Some(token_type),
        prompt,
        out: sum,
    });
    let norm = norm_parameters(builder, "bert.embeddings.LayerNorm", config)?;
    let after = builder.dropout_site(config.hidden_dropout);
    let out = builder.norm(Pending { y: sum, bias: None }, None, None, norm, after);
    builder.replaced_output("bert.embeddings.LayerNorm", None, out)
}

fn block(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    x: ValueId,
    layer: usize,
) -> Result<ValueId, CompileError> {
    let name = format!("bert.encoder.layer.{layer}");
    let site = |builder: &Builder<'_>, part: &str| builder.site(&format!("{name}.{part}"));
    let parts = ["query", "key", "value"].map(|part| site(builder, &format!("attention.self.{part}")));
    let [query, key, value] = parts;
    let sites: [SiteId; 3] = [query?, key?, value?];
    let qkv = builder.linear_group(&sites, x)?;
    let dropout = builder.dropout_site(config.attention_dropout);
    let context = builder.attention(qkv, config.heads, config.hidden_size, dropout);
    let dense = site(builder, "attention.output.dense")?;
    let pending = builder.linear(dense, context)?;
    let h = residual(builder, config, &format!("{name}.attention"), "output.LayerNorm", x, pending)?;
    let dense = site(builder, "intermediate.dense")?;
    let pending = builder.linear(dense, h)?;
    let activated = builder.activate(pending, config.activation);
    let dense = site(builder, "output.dense")?;
    let pending = builder.linear(dense, activated)?;
    let pending = builder.replaced_pending(&format!("{name}.feed_forward"), h, pending)?;
    let norm_name = format!("{name}.output.LayerNorm");
    let norm = norm_parameters(builder, &norm_name, config)?;
    let dropout = builder.dropout_site(config.hidden_dropout);
    let out = builder.norm(pending, Some(h), dropout, norm, None);
    let out = builder.replaced_output(&norm_name, None, out)?;
    builder.replaced_output(&name, Some(x), out)
}

/// The rest of a sublayer: its hooks, dropout, residual and norm.
fn residual(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    name: &str,
    norm: &str,
    x: ValueId,
    pending: Pending,
) -> Result<ValueId, CompileError> {
    let pending = builder.replaced_pending(name, x, pending)?;
    let norm_name = format!("{name}.{norm}");
    let norm = norm_parameters(builder, &norm_name, config)?;
    let dropout = builder.dropout_site(config.hidden_dropout);
    let out = builder.norm(pending, Some(x), dropout, norm, None);
    builder.replaced_output(&norm_name, None, out)
}

fn head(builder: &mut Builder<'_>, config: &EncoderConfig, x: ValueId) -> Result<(), CompileError> {
    for node in builder.task_leaves(|op| matches!(op, Op::Hidden(_))) {
        builder.remember(true, node, x);
    }
    match builder.task.head {
        Some(HeadKind::Classification { .. }) => {
            let first = builder.take_rows(x, RowChoice::FirstToken);
            let pooler = builder.site("bert.pooler.dense")?;
            let pending = builder.linear(pooler, first)?;
            let pooled = builder.activate(pending, Activation::Tanh);
            let dropout = builder.dropout_site(config.classifier_dropout);
            let pooled = builder.dropped(pooled, dropout);
            let classifier = builder.site("classifier")?;
            let pending = builder.linear(classifier, pooled)?;
            let logits = builder.settle(pending);
            for node in builder.task_leaves(|op| matches!(op, Op::ClassificationLogits(_))) {
                builder.remember(true, node, logits);
            }
        }
        Some(HeadKind::MaskedLanguageModel) => {
            let chosen = builder.take_rows(x, RowChoice::Masked);
            let transform = builder.site("cls.predictions.transform.dense")?;
            let pending = builder.linear(transform, chosen)?;
            let activated = builder.activate(pending, config.activation);
            let norm = norm_parameters(builder, "cls.predictions.transform.LayerNorm", config)?;
            let normed = builder.norm(Pending { y: activated, bias: None }, None, None, norm, None);
            let word = builder.named("bert.embeddings.word_embeddings.weight")?;
            let bias = builder.named("cls.predictions.bias")?;
            let pending = builder.product(normed, word, Some(bias));
            let logits = builder.settle(pending);
            for node in builder.task_leaves(|op| matches!(op, Op::MaskedLogits(_))) {
                builder.remember(true, node, logits);
            }
        }
        None => {}
    }
    Ok(())
}
