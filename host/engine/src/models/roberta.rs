//! The heads of RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020) and
//! CamemBERT (Martin et al. 2020), as RobertaForSequenceClassification and
//! RobertaForMaskedLM of transformers have them. Their encoder is BERT's;
//! positions are counted from after the padding's.

use host_ir::model::Role;
use host_ir::task::HeadKind;

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::heads::{self, MaskedHead};
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::Activation;
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
        HeadKind::Classification { .. } => heads::classification(builder, config, x, Activation::Tanh),
        HeadKind::MaskedLanguageModel => {
            let head = MaskedHead {
                dense: "lm_head.dense",
                norm: "lm_head.layer_norm",
                // GELU, whatever the encoder's activation is.
                activation: Activation::Gelu,
                word: "roberta.embeddings.word_embeddings.weight",
                bias: "lm_head.bias",
            };
            heads::masked(builder, config, x, &head)
        }
    }
}
