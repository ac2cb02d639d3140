//! What config.json says of a model.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::program::instruction::Activation;

/// Why a config.json is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {0}")]
pub struct ConfigError(pub String);

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Bert,
    Electra,
    /// RoBERTa, and XLM-R and CamemBERT, which compute the same.
    Roberta,
}

/// Families by `model_type`.
const FAMILIES: [(&str, Family); 5] = [
    ("bert", Family::Bert),
    ("electra", Family::Electra),
    ("roberta", Family::Roberta),
    ("xlm-roberta", Family::Roberta),
    ("camembert", Family::Roberta),
];

/// How ELECTRA's multiple-choice head sums a sequence up: a projection of its
/// first token (`summary_use_proj`), its activation, and dropout before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub projects: bool,
    pub activation: Option<Activation>,
    pub first_dropout: f64,
    pub last_dropout: f64,
}

/// An encoder of the BERT kind.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    pub family: Family,
    /// `model_type`.
    pub architecture: String,
    pub hidden_size: usize,
    /// Size of the embeddings, where it may differ from that of hidden states.
    pub embedding_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    pub vocabulary: usize,
    /// Positions that a sequence can have.
    pub positions: usize,
    /// The position of a sequence's first token: RoBERTa counts from after the
    /// padding's.
    pub first_position: usize,
    pub token_types: usize,
    pub activation: Activation,
    pub hidden_dropout: f64,
    pub attention_dropout: f64,
    /// `classifier_dropout`, or that of the hidden states.
    pub classifier_dropout: f64,
    pub summary: Summary,
    pub norm_epsilon: f64,
    /// Deviation of new weights.
    pub initializer_range: f64,
    /// The id whose embedding starts at zero.
    pub padding: usize,
    /// Whole numbers of the file, for plugins.
    pub facts: BTreeMap<String, u64>,
}

impl EncoderConfig {
    /// Reads the parsed config.json.
    ///
    /// # Errors
    /// A sentence about the key that is missing, of the wrong type, or has a
    /// value that this engine does not have.
    pub fn read(config: &Map<String, Value>) -> Result<EncoderConfig, ConfigError> {
        let error = |sentence: String| Err(ConfigError(sentence));
        let Some(architecture) = config.get("model_type").and_then(Value::as_str) else {
            return error("there is no model_type".into());
        };
        let Some(&(_, family)) = FAMILIES.iter().find(|(name, _)| *name == architecture) else {
            let known = FAMILIES.map(|(name, _)| name).join(", ");
            return error(format!("model_type is \"{architecture}\"; this program has {known}"));
        };
        let size = |key: &str| match config.get(key) {
            Some(value) => match value.as_u64() {
                Some(size) if size > 0 => Ok(size as usize),
                _ => {
                    Err(ConfigError(format!("{key} is {value}, and a whole number of at least 1 is wanted")))
                }
            },
            None => Err(ConfigError(format!("there is no {key}"))),
        };
        let real = |key: &str, default: f64| config.get(key).and_then(Value::as_f64).unwrap_or(default);
        let activation = activation(config, "hidden_act")?.unwrap_or(Activation::Gelu);
        if let Some(kind) = config.get("position_embedding_type").and_then(Value::as_str)
            && kind != "absolute"
        {
            return error(format!(
                "position_embedding_type is \"{kind}\"; only absolute positions are supported"
            ));
        }
        let padding = real("pad_token_id", if family == Family::Roberta { 1.0 } else { 0.0 }) as usize;
        let first_position = if family == Family::Roberta { padding + 1 } else { 0 };
        let positions = match size("max_position_embeddings")?.checked_sub(first_position) {
            Some(positions @ 1..) => positions,
            _ => return error("max_position_embeddings leaves no position after the padding's".into()),
        };
        let hidden_dropout = real("hidden_dropout_prob", 0.1);
        let hidden_size = size("hidden_size")?;
        let read = EncoderConfig {
            family,
            architecture: architecture.into(),
            hidden_size,
            embedding_size: match (family, config.contains_key("embedding_size")) {
                (Family::Electra, true) => size("embedding_size")?,
                _ => hidden_size,
            },
            layers: size("num_hidden_layers")?,
            heads: size("num_attention_heads")?,
            intermediate_size: size("intermediate_size")?,
            vocabulary: size("vocab_size")?,
            positions,
            first_position,
            token_types: size("type_vocab_size")?,
            activation,
            hidden_dropout,
            attention_dropout: real("attention_probs_dropout_prob", 0.1),
            classifier_dropout: real("classifier_dropout", hidden_dropout),
            summary: summary(config)?,
            norm_epsilon: real("layer_norm_eps", if family == Family::Roberta { 1e-5 } else { 1e-12 }),
            initializer_range: real("initializer_range", 0.02),
            padding,
            facts: config.iter().filter_map(|(key, value)| Some((key.clone(), value.as_u64()?))).collect(),
        };
        match read.hidden_size.is_multiple_of(read.heads) {
            true => Ok(read),
            false => error(format!(
                "hidden_size {} is no multiple of num_attention_heads {}",
                read.hidden_size, read.heads
            )),
        }
    }

    /// Prefix of base parameters in checkpoints with a head.
    pub fn prefix(&self) -> &'static str {
        match self.family {
            Family::Bert => "bert.",
            Family::Electra => "electra.",
            Family::Roberta => "roberta.",
        }
    }

    /// Replaces every dropout of the base model.
    pub fn with_dropout(mut self, dropout: Option<f64>) -> EncoderConfig {
        if let Some(dropout) = dropout {
            self.hidden_dropout = dropout;
            self.attention_dropout = dropout;
            self.classifier_dropout = dropout;
            self.summary.first_dropout = dropout;
            self.summary.last_dropout = dropout;
        }
        self
    }
}

/// The activation that a key names; `None` where the key is absent or null.
fn activation(config: &Map<String, Value>, key: &str) -> Result<Option<Activation>, ConfigError> {
    Ok(Some(match config.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) => match name.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            other => {
                let sentence = format!("{key} is \"{other}\"; there are gelu, gelu_new, relu, silu and tanh");
                return Err(ConfigError(sentence));
            }
        },
        Some(other) => {
            return Err(ConfigError(format!("{key} is {other}, and the name of an activation is wanted")));
        }
    }))
}

fn summary(config: &Map<String, Value>) -> Result<Summary, ConfigError> {
    if let Some(kind) = config.get("summary_type").and_then(Value::as_str)
        && kind != "first"
    {
        let sentence = format!("summary_type is \"{kind}\"; only the first token can sum a sequence up");
        return Err(ConfigError(sentence));
    }
    let real = |key: &str, default: f64| config.get(key).and_then(Value::as_f64).unwrap_or(default);
    Ok(Summary {
        projects: config.get("summary_use_proj").and_then(Value::as_bool).unwrap_or(true),
        activation: match config.contains_key("summary_activation") {
            true => activation(config, "summary_activation")?,
            false => Some(Activation::Gelu),
        },
        first_dropout: real("summary_first_dropout", 0.0),
        last_dropout: real("summary_last_dropout", 0.1),
    })
}
