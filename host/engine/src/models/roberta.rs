//! The heads of RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020) and
//! CamemBERT (Martin et al. 2020), as transformers' RobertaFor… classes have them.
//! Their encoder is BERT's; positions are counted from after the padding's.

use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::heads::{self, MaskedHead, PooledHead};
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::Activation;
use crate::program::value::ValueId;

pub const MASKED: MaskedHead = MaskedHead {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: Some("lm_head.decoder"),
    bias: "lm_head.bias",
};

/// Parameters of a head. A pooler that the checkpoint lacks is new, and so a
/// part of the head.
pub fn describe(describer: &mut Describer<'_>, config: &EncoderConfig, head: HeadKind) {
    let hidden = config.hidden_size;
    match head {
        HeadKind::Classification { classes } => {
            describer.linear("classifier.dense", None, hidden, hidden, true);
            describer.linear("classifier.out_proj", None, hidden, classes as usize, true);
        }
        HeadKind::TokenClassification { classes } => {
            describer.linear("classifier", None, hidden, classes as usize, true);
        }
        HeadKind::MultipleChoice => {
            let new = !(describer.present)("roberta.pooler.dense.weight");
            describer.linear("roberta.pooler.dense", None, hidden, hidden, new);
            describer.linear("classifier", None, hidden, 1, true);
        }
        HeadKind::MaskedLanguageModel => heads::describe_masked(describer, config, &MASKED),
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
        HeadKind::Classification { .. } => heads::classification(builder, config, x, Activation::Tanh),
        HeadKind::TokenClassification { .. } => heads::tokens(builder, config.classifier_dropout, x),
        HeadKind::MultipleChoice => {
            let head = PooledHead {
                before: None,
                dense: Some(("roberta.pooler.dense", Some(Activation::Tanh))),
                // Not the classifier's: transformers reads no classifier_dropout here.
                after: config.hidden_dropout,
                classifier: "classifier",
            };
            heads::pooled(builder, x, &head)
        }
        // GELU, whatever the encoder's activation is.
        HeadKind::MaskedLanguageModel => heads::masked(builder, config, x, &MASKED, Activation::Gelu),
        HeadKind::SequenceToSequence => heads::no_decoder(config),
    }
}
