//! The heads of ELECTRA (Clark et al. 2020), as transformers' ElectraFor… classes
//! have them. BERTić is an ELECTRA.

use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::heads::{self, MaskedHead, PooledHead};
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::Activation;
use crate::program::value::ValueId;

pub const MASKED: MaskedHead = MaskedHead {
    dense: "generator_predictions.dense",
    norm: "generator_predictions.LayerNorm",
    decoder: Some("generator_lm_head"),
    bias: "generator_lm_head.bias",
};

/// Parameters of a head.
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
            if config.summary.projects {
                describer.linear("sequence_summary.summary", None, hidden, hidden, true);
            }
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
        // GELU in both, whatever the encoder's activation is.
        HeadKind::Classification { .. } => heads::classification(builder, config, x, Activation::Gelu),
        HeadKind::TokenClassification { .. } => heads::tokens(builder, config.classifier_dropout, x),
        HeadKind::MultipleChoice => {
            let summary = config.summary;
            let head = PooledHead {
                before: Some(summary.first_dropout),
                dense: summary.projects.then_some(("sequence_summary.summary", summary.activation)),
                after: summary.last_dropout,
                classifier: "classifier",
            };
            heads::pooled(builder, x, &head)
        }
        HeadKind::MaskedLanguageModel => heads::masked(builder, config, x, &MASKED, Activation::Gelu),
        HeadKind::SequenceToSequence => heads::no_decoder(config),
    }
}
