//! The heads of ELECTRA (Clark et al. 2020), as ElectraForSequenceClassification
//! and ElectraForMaskedLM of transformers have them. BERTić is an ELECTRA.

use host_ir::model::Role;
use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::encoder::norm_parameters;
use crate::program::build::{Builder, CompileError, Pending};
use crate::program::instruction::{Activation, RowChoice};
use crate::program::value::ValueId;

/// Parameters of a head.
pub fn describe(describer: &mut Describer<'_>, config: &EncoderConfig, head: HeadKind) {
    let (hidden, embedded) = (config.hidden_size, config.embedding_size);
    match head {
        HeadKind::Classification { classes } => {
            describer.linear("classifier.dense", None, hidden, hidden, true);
            describer.linear("classifier.out_proj", None, hidden, classes as usize, true);
        }
        HeadKind::MaskedLanguageModel => {
            describer.norm("generator_predictions.LayerNorm", None, embedded, true);
            describer.linear("generator_predictions.dense", None, hidden, embedded, true);
            describer.parameter("generator_lm_head.bias".into(), &[config.vocabulary], Role::Bias, true);
        }
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
        HeadKind::Classification { .. } => {
            let first = builder.take_rows(x, RowChoice::FirstToken);
            let dropout = builder.dropout_site(config.classifier_dropout);
            let first = builder.dropped(first, dropout);
            let dense = builder.site("classifier.dense")?;
            let pending = builder.linear(dense, first)?;
            // GELU, whatever the encoder's activation is.
            let hidden = builder.activate(pending, Activation::Gelu);
            let dropout = builder.dropout_site(config.classifier_dropout);
            let hidden = builder.dropped(hidden, dropout);
            let out = builder.site("classifier.out_proj")?;
            let pending = builder.linear(out, hidden)?;
            Ok(builder.settle(pending))
        }
        HeadKind::MaskedLanguageModel => {
            let chosen = builder.take_rows(x, RowChoice::Masked);
            let dense = builder.site("generator_predictions.dense")?;
            let pending = builder.linear(dense, chosen)?;
            let activated = builder.activate(pending, Activation::Gelu);
            let norm = norm_parameters(builder, "generator_predictions.LayerNorm", config)?;
            let normed = builder.norm(Pending { y: activated, bias: None }, None, None, norm, None);
            let word = builder.named("electra.embeddings.word_embeddings.weight")?;
            let bias = builder.named("generator_lm_head.bias")?;
            let pending = builder.product(normed, word, Some(bias));
            Ok(builder.settle(pending))
        }
    }
}
