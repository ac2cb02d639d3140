//! The heads of BERT (Devlin et al. 2019), as BertForSequenceClassification and
//! BertForMaskedLM of transformers have them.

use host_ir::model::Role;
use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::heads::{self, MaskedHead};
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::{Activation, RowChoice};
use crate::program::value::ValueId;

/// Parameters of a head. A pooler that the checkpoint lacks is new, and so a
/// part of the head.
pub fn describe(describer: &mut Describer<'_>, config: &EncoderConfig, head: HeadKind) {
    let hidden = config.hidden_size;
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
            let pooler = builder.site("bert.pooler.dense")?;
            let pending = builder.linear(pooler, first)?;
            let pooled = builder.activate(pending, Activation::Tanh);
            let dropout = builder.dropout_site(config.classifier_dropout);
            let pooled = builder.dropped(pooled, dropout);
            let classifier = builder.site("classifier")?;
            let pending = builder.linear(classifier, pooled)?;
            Ok(builder.settle(pending))
        }
        HeadKind::MaskedLanguageModel => {
            let head = MaskedHead {
                dense: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                activation: config.activation,
                word: "bert.embeddings.word_embeddings.weight",
                bias: "cls.predictions.bias",
            };
            heads::masked(builder, config, x, &head)
        }
    }
}
