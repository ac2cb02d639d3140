//! Model families: their parameters and sites by the names of transformers,
//! and their computation as parts of a program.

pub mod bart;
pub mod bert;
pub mod config;
pub mod deberta;
pub mod decoder;
pub mod describe;
pub mod electra;
pub mod encoder;
mod heads;
pub mod roberta;
pub mod t5;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use host_ir::graph::Op;
use host_ir::model::{ModelDescription, Parameter, ParameterId};
use host_ir::task::HeadKind;
use serde_json::{Map, Value};

use crate::program::build::{Builder, CompileError};
use crate::program::value::Extent;
use config::{ConfigError, EncoderConfig, Family};
use describe::Describer;

/// What is asked of a model, by what its config.json says.
pub trait Architecture: fmt::Debug + Send + Sync {
    /// `model_type`.
    fn name(&self) -> &str;

    /// Whole numbers of the file, for plugins.
    fn facts(&self) -> &BTreeMap<String, u64>;

    /// Entries of the table of word embeddings.
    fn vocabulary(&self) -> usize;

    /// Positions that a sequence can have; `None` where there is no limit.
    fn positions(&self) -> Option<usize>;

    /// The position of a sequence's first token.
    fn first_position(&self) -> usize {
        0
    }

    /// Segments that the model tells apart.
    fn segments(&self) -> usize {
        1
    }

    /// Prefix of base parameters in checkpoints with this head, or with none.
    fn prefix(&self, head: Option<HeadKind>) -> &'static str;

    /// Further names under which a checkpoint may have a parameter: of modules that
    /// share it.
    fn aliases(&self, _parameter: &str) -> Vec<String> {
        Vec::new()
    }

    /// What a new weight is drawn from.
    fn start(&self, parameter: &Parameter) -> Start;

    /// What is known of the decoder; `None` of an encoder alone.
    fn decoder(&self) -> Option<&Decoder> {
        None
    }

    /// Replaces every dropout of the model.
    fn set_dropout(&mut self, probability: f64);

    /// Modules and parameters with a head, under the names of transformers.
    /// `present` says whether the checkpoint has a parameter.
    fn describe(&self, head: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription;

    /// Modules and parameters of the encoder without a head, for a task that makes its
    /// own over the hidden states.
    fn describe_headless(&self, present: &dyn Fn(&str) -> bool) -> ModelDescription;

    /// Parameters that one product reads together.
    fn fused(&self, model: &ModelDescription) -> Vec<Vec<ParameterId>>;

    /// Builds the model with the task's head, and binds the leaves of the task's
    /// plan to them.
    ///
    /// # Errors
    /// A head that the family lacks; a hook or an expression that this engine cannot
    /// run.
    fn build(&self, builder: &mut Builder<'_>) -> Result<(), CompileError>;
}

/// A normal distribution around zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    pub deviation: f64,
    /// The row of a table that starts at zero.
    pub zero_row: Option<usize>,
}

/// What a decoder reads before and after what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    /// `decoder_start_token_id`.
    pub start: u32,
    /// `eos_token_id`, of which there may be several.
    pub ends: Vec<u32>,
    /// `forced_bos_token_id` and `forced_eos_token_id`.
    pub forced_first: Option<u32>,
    pub forced_last: Option<u32>,
    /// `pad_token_id`, which it reads where nothing is to be known.
    pub padding: u32,
    /// The position of the first token.
    pub first_position: u32,
    /// Positions that a sequence can have; `None` where there is no limit.
    pub positions: Option<usize>,
}

/// The model that a config.json describes.
///
/// # Errors
/// A sentence about the key that is missing, of the wrong type, or has a value that
/// this engine does not have.
pub fn read(config: &Map<String, Value>) -> Result<Box<dyn Architecture>, ConfigError> {
    Ok(match config.get("model_type").and_then(Value::as_str) {
        Some("t5" | "mt5") => Box::new(t5::T5Config::read(config)?),
        Some("bart") => Box::new(bart::BartConfig::read(config)?),
        _ => Box::new(EncoderConfig::read(config)?),
    })
}

/// Modules and parameters of a model with a head, under the names of
/// transformers. `present` says whether the checkpoint has a parameter.
pub fn describe(
    config: &dyn Architecture,
    head: HeadKind,
    present: &dyn Fn(&str) -> bool,
) -> ModelDescription {
    config.describe(head, present)
}

impl From<EncoderConfig> for Arc<dyn Architecture> {
    fn from(config: EncoderConfig) -> Arc<dyn Architecture> {
        Arc::new(config)
    }
}

impl Architecture for EncoderConfig {
    fn name(&self) -> &str {
        &self.architecture
    }

    fn facts(&self) -> &BTreeMap<String, u64> {
        &self.facts
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn positions(&self) -> Option<usize> {
        Some(self.positions)
    }

    fn first_position(&self) -> usize {
        self.first_position
    }

    fn segments(&self) -> usize {
        self.token_types
    }

    fn prefix(&self, _: Option<HeadKind>) -> &'static str {
        EncoderConfig::prefix(self)
    }

    fn aliases(&self, parameter: &str) -> Vec<String> {
        let head = match self.family {
            Family::Bert => bert::MASKED,
            Family::Electra => electra::MASKED,
            Family::Roberta => roberta::MASKED,
            Family::Deberta => deberta::masked(self),
        };
        heads::aliases(&head, parameter)
    }

    fn start(&self, parameter: &Parameter) -> Start {
        let word = parameter.name.ends_with("embeddings.word_embeddings.weight");
        Start { deviation: self.initializer_range, zero_row: word.then_some(self.padding) }
    }

    fn set_dropout(&mut self, probability: f64) {
        *self = self.clone().with_dropout(Some(probability));
    }

    fn describe(&self, head: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        let mut describer = Describer { model: ModelDescription::default(), present };
        encoder::describe(&mut describer, self);
        match self.family {
            Family::Bert => bert::describe(&mut describer, self, head),
            Family::Electra => electra::describe(&mut describer, self, head),
            Family::Roberta => roberta::describe(&mut describer, self, head),
            Family::Deberta => deberta::describe(&mut describer, self, head),
        }
        describer.model
    }

    fn describe_headless(&self, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        let mut describer = Describer { model: ModelDescription::default(), present };
        encoder::describe(&mut describer, self);
        describer.model
    }

    fn fused(&self, model: &ModelDescription) -> Vec<Vec<ParameterId>> {
        encoder::fused(self, model)
    }

    fn build(&self, builder: &mut Builder<'_>) -> Result<(), CompileError> {
        let x = encoder::build(builder, self)?;
        heads::bind_states(builder, x);
        let Some(head) = builder.task.head else { return Ok(()) };
        let logits = match self.family {
            Family::Bert => bert::build(builder, self, head, x)?,
            Family::Electra => electra::build(builder, self, head, x)?,
            Family::Roberta => roberta::build(builder, self, head, x)?,
            Family::Deberta => deberta::build(builder, self, head, x)?,
        };
        let is_logits =
            |op: &Op| matches!(op, Op::ClassificationLogits(_) | Op::TokenLogits(_) | Op::MaskedLogits(_));
        for node in builder.task_leaves(is_logits) {
            builder.remember(true, node, logits);
        }
        // One number a piece, in their order, is a row of numbers an example.
        for node in builder.task_leaves(|op| matches!(op, Op::ChoiceLogits(_))) {
            let choices = builder.task.graph.shape(node).elements().unwrap_or(0);
            let row = builder.view(logits, vec![Extent::Examples, Extent::Fixed(choices)]);
            builder.remember(true, node, row);
        }
        Ok(())
    }
}
