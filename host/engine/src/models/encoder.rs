//! The encoder that BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), ELECTRA
//! (Clark et al. 2020) and, but for its attention, DeBERTa (He et al. 2021) share,
//! as transformers' BertModel, RobertaModel, ElectraModel and DebertaV2Model
//! compute it. ELECTRA's embeddings may be of another size than its hidden states.

use host_ir::method::AnyParameter;
use host_ir::model::{ModelDescription, ParameterId, SiteId, SiteKind};

use crate::models::config::{EncoderConfig, Family};
use crate::models::deberta;
use crate::models::describe::Describer;
use crate::program::build::{Builder, CompileError, NormParameters, Pending};
use crate::program::instruction::Instruction;
use crate::program::value::{Extent, ValueId};

/// Names of the modules that make queries, keys and values, within a layer.
fn projections(config: &EncoderConfig) -> [&'static str; 3] {
    match config.family {
        Family::Deberta => ["query_proj", "key_proj", "value_proj"],
        Family::Bert | Family::Electra | Family::Roberta => ["query", "key", "value"],
    }
}

/// Modules and parameters of the encoder, in the order of computation.
pub fn describe(describer: &mut Describer<'_>, config: &EncoderConfig) {
    let (hidden, embedded, prefix) = (config.hidden_size, config.embedding_size, config.prefix());
    describer.model.architecture = config.architecture.clone();
    describer.model.facts = config.facts.clone();
    let word =
        describer.embedding(&format!("{prefix}embeddings.word_embeddings"), config.vocabulary, embedded);
    describer.model.word_embeddings = Some(word);
    if config.disentangled.is_none_or(|disentangled| disentangled.absolute) {
        let positions = config.first_position + config.positions;
        describer.embedding(&format!("{prefix}embeddings.position_embeddings"), positions, embedded);
    }
    if config.token_types > 0 {
        let name = format!("{prefix}embeddings.token_type_embeddings");
        describer.embedding(&name, config.token_types, embedded);
    }
    describer.norm(&format!("{prefix}embeddings.LayerNorm"), None, embedded, false);
    if embedded != hidden {
        describer.linear(&format!("{prefix}embeddings_project"), None, embedded, hidden, false);
    }
    deberta::describe_table(describer, config);
    for number in 0..config.layers as u32 {
        let (layer, name) = (Some(number), format!("{prefix}encoder.layer.{number}"));
        for part in projections(config) {
            describer.linear(&format!("{name}.attention.self.{part}"), layer, hidden, hidden, false);
        }
        for part in deberta::position_projections(config) {
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
}

/// Parameters that one product reads together.
pub fn fused(config: &EncoderConfig, model: &ModelDescription) -> Vec<Vec<ParameterId>> {
    let mut groups = Vec::new();
    let of_positions = deberta::position_projections(config);
    for layer in 0..config.layers {
        for parts in [projections(config).as_slice(), &of_positions] {
            for kind in ["weight", "bias"] {
                let prefix = format!("{}encoder.layer.{layer}.attention.self", config.prefix());
                let ids =
                    parts.iter().filter_map(|part| model.find_parameter(&format!("{prefix}.{part}.{kind}")));
                groups.push(ids.collect());
            }
        }
    }
    groups.retain(|group: &Vec<ParameterId>| group.len() > 1);
    groups
}

/// Builds the encoder; answers its last hidden states, [tokens, hidden size].
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn build(builder: &mut Builder<'_>, config: &EncoderConfig) -> Result<ValueId, CompileError> {
    let mut x = embeddings(builder, config)?;
    let relative = deberta::table(builder, config)?;
    for layer in 0..config.layers {
        x = block(builder, config, (x, relative), layer)?;
    }
    Ok(x)
}

/// The parameters of a norm by its name.
///
/// # Errors
/// The model has no such norm.
pub fn norm_parameters(
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
    let prefix = config.prefix();
    let word = builder.named(&format!("{prefix}embeddings.word_embeddings.weight"))?;
    let mut table = |part: &str| {
        let id = builder.model.find_parameter(&format!("{prefix}embeddings.{part}_embeddings.weight"))?;
        Some(builder.parameter(AnyParameter::Base(id)))
    };
    let (position, token_type) = (table("position"), table("token_type"));
    let prompt = builder.method.prompt.map(|node| builder.expression(false, node)).transpose()?;
    let inputs: Vec<ValueId> = [Some(word), position, token_type, prompt].into_iter().flatten().collect();
    let sum = builder.working(vec![Extent::Tokens, Extent::Fixed(config.embedding_size)], &inputs);
    let padding = Some(config.padding as u32);
    builder.push(Instruction::Embed { word, factor: 1.0, padding, position, token_type, prompt, out: sum });
    let norm_name = format!("{prefix}embeddings.LayerNorm");
    let norm = norm_parameters(builder, &norm_name, config)?;
    let after = builder.dropout_site(config.hidden_dropout);
    let out = builder.norm(Pending { y: sum, bias: None }, None, None, norm, after);
    let out = builder.replaced_output(&norm_name, None, out)?;
    if config.embedding_size == config.hidden_size {
        return Ok(out);
    }
    let project = builder.site(&format!("{prefix}embeddings_project"))?;
    let pending = builder.linear(project, out)?;
    Ok(builder.settle(pending))
}

/// A layer over the tokens, and the table of relative positions where there is one.
fn block(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    (x, relative): (ValueId, Option<ValueId>),
    layer: usize,
) -> Result<ValueId, CompileError> {
    let name = format!("{}encoder.layer.{layer}", config.prefix());
    let site = |builder: &Builder<'_>, part: &str| builder.site(&format!("{name}.{part}"));
    let parts = projections(config).map(|part| site(builder, &format!("attention.self.{part}")));
    let [query, key, value] = parts;
    let sites: [SiteId; 3] = [query?, key?, value?];
    let qkv = builder.linear_group(&sites, x)?;
    let context = match relative {
        Some(table) => deberta::attention(builder, config, &name, (qkv, table))?,
        None => {
            let dropout = builder.dropout_site(config.attention_dropout);
            builder.attention(qkv, config.heads, config.hidden_size, dropout)
        }
    };
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
