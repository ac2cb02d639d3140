//! The heads that families share but for names and an activation.

use host_ir::graph::Op;
use host_ir::model::{Role, SiteId, SiteKind};

use crate::models::config::EncoderConfig;
use crate::models::describe::Describer;
use crate::models::encoder::norm_parameters;
use crate::program::build::{Builder, CompileError, Pending};
use crate::program::instruction::{Activation, RowChoice};
use crate::program::value::{Extent, ValueId};

/// Binds the leaves of the task's plan that stand for the encoder's last states, of all
/// rows or of each word's first.
pub fn bind_states(builder: &mut Builder<'_>, x: ValueId) {
    for node in builder.task_leaves(|op| matches!(op, Op::Hidden(_))) {
        builder.remember(true, node, x);
    }
    for node in builder.task_leaves(|op| matches!(op, Op::WordStates(_))) {
        let words = builder.take_rows(x, RowChoice::Words);
        builder.remember(true, node, words);
    }
}

/// Parts of a masked-language-model head by their names.
pub struct MaskedHead {
    pub dense: &'static str,
    pub norm: &'static str,
    /// The layer that makes scores of words, whose weights are the word embeddings; none
    /// where transformers has no module for it.
    pub decoder: Option<&'static str>,
    /// Its bias, under the name that checkpoints have.
    pub bias: &'static str,
}

/// Modules and parameters of a masked-language-model head. What the checkpoint has is a
/// part of the model, with sites, which trains where a method says so; what it lacks is
/// new. The decoder is a site in both cases: its weights are the model's.
pub fn describe_masked(describer: &mut Describer<'_>, config: &EncoderConfig, head: &MaskedHead) {
    let new = !(describer.present)(&format!("{}.weight", head.dense));
    let next = |describer: &Describer<'_>| Some(SiteId(describer.model.modules.len() as u32));
    let dense = next(describer);
    describer.linear(head.dense, None, config.hidden_size, config.embedding_size, new);
    describer.norm(head.norm, None, config.embedding_size, new);
    let bias = describer.parameter(head.bias.into(), &[config.vocabulary], Role::Bias, new);
    // Without a module for the decoder, transformers takes the dense layer for the output
    // layer, and so does peft.
    describer.model.output_layer = if head.decoder.is_some() { next(describer) } else { dense };
    if let Some(decoder) = head.decoder {
        let parameters = [describer.model.word_embeddings, Some(bias)];
        let sizes = (config.embedding_size, config.vocabulary);
        describer.module(decoder, SiteKind::Linear, None, sizes, parameters, false);
    }
}

/// Further names under which a checkpoint may have a parameter of a model with this head:
/// those of the tied decoder's.
pub fn aliases(head: &MaskedHead, parameter: &str) -> Vec<String> {
    let kind = match parameter {
        _ if parameter.ends_with("embeddings.word_embeddings.weight") => "weight",
        _ if parameter == head.bias => "bias",
        _ => return Vec::new(),
    };
    head.decoder.iter().map(|decoder| format!("{decoder}.{kind}")).collect()
}

/// Dense, activation and norm of the masked tokens, then the tied decoder.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn masked(
    builder: &mut Builder<'_>,
    config: &EncoderConfig,
    x: ValueId,
    head: &MaskedHead,
    activation: Activation,
) -> Result<ValueId, CompileError> {
    if !config.tied {
        let sentence = "config.json has tie_word_embeddings = false; a masked-language-model head here shares \
                        the word embeddings";
        return Err(CompileError::Wrong(sentence.into()));
    }
    let chosen = builder.take_rows(x, RowChoice::Masked);
    builder.over_rows(Extent::Masked, |builder| {
        let dense = builder.site(head.dense)?;
        let pending = builder.linear(dense, chosen)?;
        let activated = builder.activate(pending, activation);
        let norm = norm_parameters(builder, head.norm, config)?;
        let normed = builder.norm(Pending { y: activated, bias: None }, None, None, norm, None);
        let normed = builder.replaced_output(head.norm, None, normed)?;
        let pending = match head.decoder {
            Some(decoder) => {
                let site = builder.site(decoder)?;
                builder.linear(site, normed)?
            }
            None => {
                let word = builder.named(&format!("{}embeddings.word_embeddings.weight", config.prefix()))?;
                let bias = builder.named(head.bias)?;
                builder.product(normed, word, Some(bias))
            }
        };
        Ok(builder.settle(pending))
    })
}

/// Parts of a head that reads one token of each sequence.
pub struct PooledHead<'a> {
    /// The probability of the dropout before the dense layer, where there is one.
    pub before: Option<f64>,
    /// A dense layer by its name, with what follows it.
    pub dense: Option<(&'a str, Option<Activation>)>,
    /// The probability of the dropout before the classifier.
    pub after: f64,
    pub classifier: &'a str,
}

/// Dropout, dense layer, activation, dropout and classifier of the first token of
/// each sequence, [sequences, classes].
///
/// # Errors
/// As [`masked`].
pub fn pooled(builder: &mut Builder<'_>, x: ValueId, head: &PooledHead<'_>) -> Result<ValueId, CompileError> {
    let first = builder.take_rows(x, RowChoice::FirstToken);
    layers(builder, first, head)
}

/// Dropout, dense layer, activation, dropout and classifier of rows that are chosen
/// already.
///
/// # Errors
/// As [`masked`].
pub fn layers(
    builder: &mut Builder<'_>,
    mut hidden: ValueId,
    head: &PooledHead<'_>,
) -> Result<ValueId, CompileError> {
    if let Some(probability) = head.before {
        let dropout = builder.dropout_site(probability);
        hidden = builder.dropped(hidden, dropout);
    }
    if let Some((name, activation)) = head.dense {
        let dense = builder.site(name)?;
        let pending = builder.linear(dense, hidden)?;
        hidden = match activation {
            Some(activation) => builder.activate(pending, activation),
            None => builder.settle(pending),
        };
    }
    let dropout = builder.dropout_site(head.after);
    hidden = builder.dropped(hidden, dropout);
    let classifier = builder.site(head.classifier)?;
    let pending = builder.linear(classifier, hidden)?;
    Ok(builder.settle(pending))
}

/// The error of a task that wants a decoder.
///
/// # Errors
/// Always.
pub fn no_decoder(config: &EncoderConfig) -> Result<ValueId, CompileError> {
    Err(CompileError::Wrong(format!(
        "a model of the kind {} has no decoder, which this task needs; T5 and BART have one",
        config.architecture
    )))
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
    let head = PooledHead {
        before: Some(config.classifier_dropout),
        dense: Some(("classifier.dense", Some(activation))),
        after: config.classifier_dropout,
        classifier: "classifier.out_proj",
    };
    pooled(builder, x, &head)
}

/// Dropout and `classifier` over each token, [tokens, classes]. Virtual tokens
/// have rows too.
///
/// # Errors
/// As [`masked`].
pub fn tokens(builder: &mut Builder<'_>, dropout: f64, x: ValueId) -> Result<ValueId, CompileError> {
    let dropout = builder.dropout_site(dropout);
    let hidden = builder.dropped(x, dropout);
    let classifier = builder.site("classifier")?;
    let pending = builder.linear(classifier, hidden)?;
    Ok(builder.settle(pending))
}
