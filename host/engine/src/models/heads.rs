//! The heads that families share but for names and an activation.

use crate::models::config::EncoderConfig;
use crate::models::encoder::norm_parameters;
use crate::program::build::{Builder, CompileError, Pending};
use crate::program::instruction::{Activation, RowChoice};
use crate::program::value::ValueId;

/// Parts of a masked-language-model head by their names.
pub struct MaskedHead<'a> {
    pub dense: &'a str,
    pub norm: &'a str,
    pub activation: Activation,
    /// The word embeddings, to which the decoder is tied.
    pub word: &'a str,
    pub bias: &'a str,
}

/// Dense, activation and norm of the masked tokens, then the tied decoder.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn masked(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    x: ValueId,
    head: &MaskedHead<'_>,
) -> Result<ValueId, CompileError> {
    let chosen = builder.take_rows(x, RowChoice::Masked);
    let dense = builder.site(head.dense)?;
    let pending = builder.linear(dense, chosen)?;
    let activated = builder.activate(pending, head.activation);
    let norm = norm_parameters(builder, head.norm, config)?;
    let normed = builder.norm(Pending { y: activated, bias: None }, None, None, norm, None);
    let word = builder.named(head.word)?;
    let bias = builder.named(head.bias)?;
    let pending = builder.product(normed, word, Some(bias));
    Ok(builder.settle(pending))
}

/// `classifier.dense` and `classifier.out_proj` over the first token, with dropout
/// before each.
///
/// # Errors
/// As [`masked`].
pub fn classification(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    x: ValueId,
    activation: Activation,
) -> Result<ValueId, CompileError> {
    let first = builder.take_rows(x, RowChoice::FirstToken);
    let dropout = builder.dropout_site(config.classifier_dropout);
    let first = builder.dropped(first, dropout);
    let dense = builder.site("classifier.dense")?;
    let pending = builder.linear(dense, first)?;
    let hidden = builder.activate(pending, activation);
    let dropout = builder.dropout_site(config.classifier_dropout);
    let hidden = builder.dropped(hidden, dropout);
    let out = builder.site("classifier.out_proj")?;
    let pending = builder.linear(out, hidden)?;
    Ok(builder.settle(pending))
}
