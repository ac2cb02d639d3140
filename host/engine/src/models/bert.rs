//! The heads of BERT (Devlin et al. 2019), as transformers' BertFor… classes have
//! them.

use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::heads::{self, MaskedHead, PooledHead};
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::Activation;
use crate::program::value::ValueId;

pub const MASKED: MaskedHead = MaskedHead {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder: Some("cls.predictions.decoder"),
    bias: "cls.predictions.bias",
};

/// Parameters of a head. A pooler that the checkpoint lacks is new, and so a
/// part of the head.
pub fn describe(describer: &mut Describer<'_>, config: &EncoderConfig, head: HeadKind) {
    let hidden = config.hidden_size;
    match head {
        HeadKind::Classification { classes } => {
            describe_pooled(describer, hidden, classes as usize);
        }
        HeadKind::MultipleChoice => describe_pooled(describer, hidden, 1),
        HeadKind::TokenClassification { classes } => {
            describer.linear("classifier", None, hidden, classes as usize, true);
        }
        HeadKind::MaskedLanguageModel => heads::describe_masked(describer, config, &MASKED),
        // Refused when it is built.
        HeadKind::SequenceToSequence => {}
    }
}

fn describe_pooled(describer: &mut Describer<'_>, hidden: usize, classes: usize) {
    let new = !(describer.present)("bert.pooler.dense.weight");
    describer.linear("bert.pooler.dense", None, hidden, hidden, new);
    describer.linear("classifier", None, hidden, classes, true);
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
            let head = PooledHead {
                before: None,
                dense: Some(("bert.pooler.dense", Some(Activation::Tanh))),
                after: config.classifier_dropout,
                classifier: "classifier",
            };
            heads::pooled(builder, x, &head)
        }
        HeadKind::TokenClassification { .. } => heads::tokens(builder, config.classifier_dropout, x),
        HeadKind::MaskedLanguageModel => heads::masked(builder, config, x, &MASKED, config.activation),
        HeadKind::SequenceToSequence => heads::no_decoder(config),
    }
}
