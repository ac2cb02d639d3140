//! Model families: their parameters and sites by the names of transformers,
//! and their computation as parts of a program.

pub mod bert;
pub mod config;
pub mod deberta;
pub mod describe;
pub mod electra;
pub mod encoder;
mod heads;
pub mod roberta;

use host_ir::graph::Op;
use host_ir::model::{ModelDescription, ParameterId};
use host_ir::task::HeadKind;

use crate::program::build::{Builder, CompileError};
use config::{EncoderConfig, Family};
use describe::Describer;

/// Modules and parameters of a model with a head, under the names of
/// transformers. `present` says whether the checkpoint has a parameter.
pub fn describe(config: &EncoderConfig, head: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription {
    let mut describer = Describer { model: ModelDescription::default(), present };
    encoder::describe(&mut describer, config);
    match config.family {
        Family::Bert => bert::describe(&mut describer, config, head),
        Family::Electra => electra::describe(&mut describer, config, head),
        Family::Roberta => roberta::describe(&mut describer, config, head),
        Family::Deberta => deberta::describe(&mut describer, config, head),
    }
    describer.model
}

/// Parameters that one product reads together.
pub fn fused(config: &EncoderConfig, model: &ModelDescription) -> Vec<Vec<ParameterId>> {
    encoder::fused(config, model)
}

/// Builds the model with the task's head, and binds the leaves of the task's
/// plan to them.
///
/// # Errors
/// A hook or an expression that this engine cannot run.
pub fn build(builder: &mut Builder<'_>, config: &EncoderConfig) -> Result<(), CompileError> {
    let x = encoder::build(builder, config)?;
    for node in builder.task_leaves(|op| matches!(op, Op::Hidden(_))) {
        builder.remember(true, node, x);
    }
    let Some(head) = builder.task.head else { return Ok(()) };
    let logits = match config.family {
        Family::Bert => bert::build(builder, config, head, x)?,
        Family::Electra => electra::build(builder, config, head, x)?,
        Family::Roberta => roberta::build(builder, config, head, x)?,
        Family::Deberta => deberta::build(builder, config, head, x)?,
    };
    let is_logits = |op: &Op| {
        matches!(
            op,
            Op::ClassificationLogits(_) | Op::TokenLogits(_) | Op::ChoiceLogits(_) | Op::MaskedLogits(_)
        )
    };
    for node in builder.task_leaves(is_logits) {
        builder.remember(true, node, logits);
    }
    Ok(())
}
