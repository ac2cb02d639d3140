//! What DeBERTa-v2 and v3 (He et al. 2021, 2023) have of their own: attention by
//! content and relative position, and the heads, as transformers' DebertaV2For…
//! classes have them. The rest of their encoder is BERT's.

use host_ir::task::HeadKind;

use crate::models::bert;
use crate::models::config::{Disentangled, EncoderConfig};
use crate::models::describe::Describer;
use crate::models::encoder::norm_parameters;
use crate::models::heads::{self, MaskedHead, PooledHead};
use crate::program::build::{Builder, CompileError, Pending};
use crate::program::value::{Extent, ValueId};

const TABLE: &str = "deberta.encoder.rel_embeddings";
const TABLE_NORM: &str = "deberta.encoder.LayerNorm";

/// Parameters of the table of relative positions, where the model has one.
pub(super) fn describe_table(describer: &mut Describer<'_>, config: &EncoderConfig) {
    let Some(disentangled) = config.disentangled else { return };
    describer.embedding(TABLE, 2 * disentangled.buckets.span(), config.hidden_size);
    if disentangled.normalised {
        describer.norm(TABLE_NORM, None, config.hidden_size, false);
    }
}

/// Modules of a layer that make queries and keys of positions and of nothing else.
pub(super) fn position_projections(config: &EncoderConfig) -> Vec<&'static str> {
    match config.disentangled {
        Some(disentangled) if !disentangled.shared_projections => {
            projections(&disentangled, ["pos_query_proj", "pos_key_proj"])
        }
        _ => Vec::new(),
    }
}

/// Of the modules that make queries and keys, those that the scores want.
fn projections(disentangled: &Disentangled, [query, key]: [&'static str; 2]) -> Vec<&'static str> {
    let terms = disentangled.terms;
    let wanted = [terms.position_to_content.then_some(query), terms.content_to_position.then_some(key)];
    wanted.into_iter().flatten().collect()
}

/// The rows of the table of relative positions that the batch reaches, normalised
/// if the model says so.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub(super) fn table(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
) -> Result<Option<ValueId>, CompileError> {
    let Some(disentangled) = config.disentangled else { return Ok(None) };
    let table = builder.named(&format!("{TABLE}.weight"))?;
    let rows = builder.reached_rows(table, disentangled.buckets);
    if !disentangled.normalised {
        return Ok(Some(rows));
    }
    let norm = norm_parameters(builder, TABLE_NORM, config)?;
    let normed = builder.norm(Pending { y: rows, bias: None }, None, None, norm, None);
    let extent = Extent::Reached(disentangled.buckets);
    builder.over_rows(extent, |builder| builder.replaced_output(TABLE_NORM, None, normed)).map(Some)
}

/// Attention of a layer over queries, keys and values side by side, with scores by
/// the table of relative positions.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub(super) fn attention(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    layer: &str,
    (qkv, table): (ValueId, ValueId),
) -> Result<ValueId, CompileError> {
    let Some(disentangled) = config.disentangled else {
        return Err(CompileError::Wrong(format!("{layer} has no relative positions")));
    };
    let names = match disentangled.shared_projections {
        true => projections(&disentangled, ["query_proj", "key_proj"]),
        false => position_projections(config),
    };
    let sites = names.iter().map(|name| builder.site(&format!("{layer}.attention.self.{name}")));
    let sites = sites.collect::<Result<Vec<_>, _>>()?;
    let dropout = builder.dropout_site(config.hidden_dropout);
    let table = builder.dropped(table, dropout);
    let extent = Extent::Reached(disentangled.buckets);
    let positions = builder.over_rows(extent, |builder| builder.linear_group(&sites, table))?;
    let dropout = builder.dropout_site(config.attention_dropout);
    let size = (config.heads, config.hidden_size);
    Ok(builder.disentangled((qkv, positions), size, disentangled.buckets, disentangled.terms, dropout))
}

/// The masked-language-model head: BERT's, or, where config.json says that it is not the
/// legacy one, DeBERTa's own, which multiplies by the word embeddings without a module.
pub fn masked(config: &EncoderConfig) -> MaskedHead {
    match config.disentangled.is_none_or(|disentangled| disentangled.legacy) {
        true => bert::MASKED,
        false => MaskedHead {
            dense: "lm_predictions.lm_head.dense",
            norm: "lm_predictions.lm_head.LayerNorm",
            decoder: None,
            bias: "lm_predictions.lm_head.bias",
        },
    }
}

/// Parameters of a head. The context pooler stands outside of the base model: it is
/// a part of the head.
pub fn describe(describer: &mut Describer<'_>, config: &EncoderConfig, head: HeadKind) {
    let hidden = config.hidden_size;
    let mut pooled = |classes: usize| {
        describer.linear("pooler.dense", None, hidden, hidden, true);
        describer.linear("classifier", None, hidden, classes, true);
    };
    match head {
        HeadKind::Classification { classes } => pooled(classes as usize),
        HeadKind::MultipleChoice => pooled(1),
        HeadKind::TokenClassification { classes } => {
            describer.linear("classifier", None, hidden, classes as usize, true);
        }
        HeadKind::MaskedLanguageModel => heads::describe_masked(describer, config, &masked(config)),
        // Refused when it is built.
        HeadKind::SequenceToSequence => {}
    }
}

/// Logits of a head over the last hidden states.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn build(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    head: HeadKind,
    x: ValueId,
) -> Result<ValueId, CompileError> {
    match head {
        HeadKind::Classification { .. } | HeadKind::MultipleChoice => {
            let pooler = config.disentangled.map(|own| (own.pooler_dropout, own.pooler_activation));
            let head = PooledHead {
                before: pooler.map(|(dropout, _)| dropout),
                dense: Some(("pooler.dense", pooler.map(|(_, activation)| activation))),
                after: config.classifier_dropout,
                classifier: "classifier",
            };
            heads::pooled(builder, x, &head)
        }
        // Not the classifier's dropout: transformers reads no cls_dropout here.
        HeadKind::TokenClassification { .. } => heads::tokens(builder, config.hidden_dropout, x),
        HeadKind::MaskedLanguageModel => {
            heads::masked(builder, config, x, &masked(config), config.activation)
        }
        HeadKind::SequenceToSequence => heads::no_decoder(config),
    }
}
