//! The heads of RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020) and
//! CamemBERT (Martin et al. 2020), as RobertaForSequenceClassification and
//! RobertaForMaskedLM of transformers have them. Their encoder is BERT's;
//! positions are counted from after the padding's.

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
    let hidden = config.hidden_size;
    match head {
        HeadKind::Classification { classes } => {
            describer.linear("classifier.dense", None, hidden, hidden, true);
            describer.linear("classifier.out_proj", None, hidden, classes as usize, true);
        }
        HeadKind::MaskedLanguageModel => {
            describer.parameter("lm_head.bias".into(), &[config.vocabulary], Role::Bias, true);
            describer.linear("lm_head.dense", None, hidden, hidden, true);
            describer.norm("lm_head.layer_norm", None, hidden, true);
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
            let hidden = builder.activate(pending, Activation::Tanh);
            let dropout = builder.dropout_site(config.classifier_dropout);
            let hidden = builder.dropped(hidden, dropout);
            let out = builder.site("classifier.out_proj")?;
            let pending = builder.linear(out, hidden)?;
            Ok(builder.settle(pending))
        }
        HeadKind::MaskedLanguageModel => {
            let chosen = builder.take_rows(x, RowChoice::Masked);
            let dense = builder.site("lm_head.dense")?;
            let pending = builder.linear(dense, chosen)?;
            // GELU, whatever the encoder's activation is.
            let activated = builder.activate(pending, Activation::Gelu);
            let norm = norm_parameters(builder, "lm_head.layer_norm", config)?;
            let normed = builder.norm(Pending { y: activated, bias: None }, None, None, norm, None);
            let word = builder.named("roberta.embeddings.word_embeddings.weight")?;
            let bias = builder.named("lm_head.bias")?;
            let pending = builder.product(normed, word, Some(bias));
            Ok(builder.settle(pending))
        }
    }
}
