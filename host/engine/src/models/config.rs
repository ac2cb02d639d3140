//! What config.json says of a model.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::program::instruction::Activation;
use crate::program::relative::{Buckets, Terms};

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
    /// DeBERTa-v2 and v3.
    Deberta,
}

/// Families by `model_type`.
const FAMILIES: [(&str, Family); 6] = [
    ("bert", Family::Bert),
    ("electra", Family::Electra),
    ("roberta", Family::Roberta),
    ("xlm-roberta", Family::Roberta),
    ("camembert", Family::Roberta),
    ("deberta-v2", Family::Deberta),
];

/// Positions of a model that has no table of them.
const UNLIMITED: usize = u32::MAX as usize;

/// How ELECTRA's multiple-choice head sums a sequence up: a projection of its
/// first token (`summary_use_proj`), its activation, and dropout before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub projects: bool,
    pub activation: Option<Activation>,
    pub first_dropout: f64,
    pub last_dropout: f64,
}

/// What DeBERTa-v2 has beyond BERT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disentangled {
    pub buckets: Buckets,
    pub terms: Terms,
    /// `share_att_key`: positions have their keys and queries by the projections of
    /// the content.
    pub shared_projections: bool,
    /// `norm_rel_ebd`: the table of relative positions is normalised.
    pub normalised: bool,
    /// `position_biased_input`: absolute positions are added to the embeddings.
    pub absolute: bool,
    pub pooler_activation: Activation,
    pub pooler_dropout: f64,
    /// `legacy`: the masked-language-model head has the names of BERT's.
    pub legacy: bool,
}

/// Values of `model_type` of models with a decoder.
const DECODERS: [&str; 3] = ["t5", "mt5", "bart"];

/// Reads the keys of a config.json.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub &'a Map<String, Value>);

impl Keys<'_> {
    /// A whole number of at least 1.
    pub fn size(&self, key: &str) -> Result<usize, ConfigError> {
        match self.0.get(key) {
            Some(value) => match value.as_u64() {
                Some(size) if size > 0 => Ok(size as usize),
                _ => {
                    Err(ConfigError(format!("{key} is {value}, and a whole number of at least 1 is wanted")))
                }
            },
            None => Err(ConfigError(format!("there is no {key}"))),
        }
    }

    /// As [`Self::size`], of a key that may be absent or null.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.size(key),
        }
    }

    pub fn real(&self, key: &str, default: f64) -> f64 {
        self.0.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    /// The id of a token, which may be absent or null where there is a default.
    pub fn id(&self, key: &str, default: Option<u32>) -> Result<u32, ConfigError> {
        match (self.0.get(key), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (None, None) => Err(ConfigError(format!("there is no {key}"))),
            (Some(value), _) => {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                id.ok_or_else(|| ConfigError(format!("{key} is {value}, and the id of a token is wanted")))
            }
        }
    }

    /// The id of a token, where there is one.
    pub fn optional_id(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.id(key, None).map(Some),
        }
    }

    /// The ids of tokens: a list, or a single one.
    pub fn ids(&self, key: &str, default: u32) -> Result<Vec<u32>, ConfigError> {
        let Some(Value::Array(list)) = self.0.get(key) else { return Ok(vec![self.id(key, Some(default))?]) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = list.iter().map(id).collect::<Option<Vec<u32>>>();
        ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
            ConfigError(format!("{key} is {}, and ids of tokens are wanted", Value::from(list.clone())))
        })
    }

    pub fn text(&self, key: &str) -> Result<&str, ConfigError> {
        let text = self.0.get(key).and_then(Value::as_str);
        text.ok_or_else(|| ConfigError(format!("there is no {key}")))
    }

    /// All whole numbers of the file.
    pub fn facts(&self) -> BTreeMap<String, u64> {
        self.0.iter().filter_map(|(key, value)| Some((key.clone(), value.as_u64()?))).collect()
    }
}

impl Activation {
    /// The activation that a key names.
    pub(super) fn named(key: &str, name: &str) -> Result<Activation, ConfigError> {
        Ok(match name {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            other => {
                return Err(ConfigError(format!(
                    "{key} is \"{other}\"; there are gelu, gelu_new, relu, silu and tanh"
                )));
            }
        })
    }
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
    /// `tie_word_embeddings`: the masked-language-model head shares them.
    pub tied: bool,
    /// Of DeBERTa.
    pub disentangled: Option<Disentangled>,
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
            let known = FAMILIES.map(|(name, _)| name);
            let known = known.into_iter().chain(DECODERS).collect::<Vec<_>>().join(", ");
            return error(format!("model_type is \"{architecture}\"; this program has {known}"));
        };
        let keys = Keys(config);
        let size = |key: &str| keys.size(key);
        let real = |key: &str, default: f64| keys.real(key, default);
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
        let disentangled = match family {
            Family::Deberta => Some(disentangled(config, size("max_position_embeddings")?)?),
            _ => None,
        };
        let positions = match size("max_position_embeddings")?.checked_sub(first_position) {
            _ if disentangled.is_some_and(|disentangled| !disentangled.absolute) => UNLIMITED,
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
            token_types: match (family, config.get("type_vocab_size")) {
                (Family::Deberta, None) => 0,
                (Family::Deberta, Some(Value::Number(zero))) if zero.as_u64() == Some(0) => 0,
                _ => size("type_vocab_size")?,
            },
            activation,
            hidden_dropout,
            attention_dropout: real("attention_probs_dropout_prob", 0.1),
            classifier_dropout: match family {
                Family::Deberta => real("cls_dropout", hidden_dropout),
                _ => real("classifier_dropout", hidden_dropout),
            },
            summary: summary(config)?,
            tied: config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true),
            disentangled,
            norm_epsilon: real(
                "layer_norm_eps",
                match family {
                    Family::Roberta => 1e-5,
                    Family::Deberta => 1e-7,
                    Family::Bert | Family::Electra => 1e-12,
                },
            ),
            initializer_range: real("initializer_range", 0.02),
            padding,
            facts: keys.facts(),
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
            Family::Deberta => "deberta.",
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
            if let Some(disentangled) = &mut self.disentangled {
                disentangled.pooler_dropout = dropout;
            }
        }
        self
    }
}

/// The activation that a key names; `None` where the key is absent or null.
fn activation(config: &Map<String, Value>, key: &str) -> Result<Option<Activation>, ConfigError> {
    Ok(Some(match config.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) => Activation::named(key, name)?,
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

fn disentangled(config: &Map<String, Value>, positions: usize) -> Result<Disentangled, ConfigError> {
    let flag = |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    // What is absent or below 1 is left to another key.
    let count = |key: &str| config.get(key).and_then(Value::as_i64).filter(|&count| count > 0);
    let refused = |what: &str| Err(ConfigError(format!("{what} is not supported")));
    if !flag("relative_attention", false) {
        return refused("a DeBERTa without relative_attention");
    }
    if let Some(size) = count("conv_kernel_size") {
        return refused(&format!("the convolution of conv_kernel_size {size}, as deberta-v2-xlarge has it,"));
    }
    let hidden = count("hidden_size");
    for key in ["embedding_size", "pooler_hidden_size", "attention_head_size"] {
        let wanted = match key {
            "attention_head_size" => {
                hidden.zip(count("num_attention_heads")).map(|(size, heads)| size / heads)
            }
            _ => hidden,
        };
        if let (Some(size), Some(wanted)) = (count(key), wanted)
            && size != wanted
        {
            return refused(&format!("{key} {size} in place of {wanted}"));
        }
    }
    let names: Vec<String> = match config.get("pos_att_type") {
        Some(Value::String(names)) => names.split('|').map(|name| name.trim().to_lowercase()).collect(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_lowercase).collect(),
        _ => Vec::new(),
    };
    let terms = Terms {
        content_to_position: names.iter().any(|name| name == "c2p"),
        position_to_content: names.iter().any(|name| name == "p2c"),
    };
    if terms.count() == 0 || terms.count() != names.len() as u64 {
        return Err(ConfigError(format!("pos_att_type is {names:?}; c2p, p2c or both are wanted")));
    }
    let most = count("max_relative_positions").unwrap_or(positions as i64);
    let norms = config.get("norm_rel_ebd").and_then(Value::as_str).unwrap_or("none");
    Ok(Disentangled {
        buckets: Buckets { buckets: count("position_buckets").unwrap_or(0) as u32, most: most as u32 },
        terms,
        shared_projections: flag("share_att_key", false),
        normalised: norms.split('|').any(|name| name.trim().eq_ignore_ascii_case("layer_norm")),
        absolute: flag("position_biased_input", true),
        pooler_activation: activation(config, "pooler_hidden_act")?.unwrap_or(Activation::Gelu),
        pooler_dropout: config.get("pooler_dropout").and_then(Value::as_f64).unwrap_or(0.0),
        legacy: flag("legacy", true),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(changes: Value) -> Result<EncoderConfig, ConfigError> {
        let mut config = json!({
            "model_type": "deberta-v2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 32, "type_vocab_size": 0,
            "relative_attention": true, "pos_att_type": "p2c|c2p",
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        EncoderConfig::read(config.as_object().unwrap())
    }

    #[test]
    fn debertas_keys_have_the_meaning_of_transformers() {
        let plain = read(json!({ "max_relative_positions": -1 })).unwrap();
        let own = plain.disentangled.unwrap();
        assert_eq!(own.buckets, Buckets { buckets: 0, most: 32 });
        assert!(!own.shared_projections && !own.normalised && own.absolute && own.legacy);
        assert_eq!((plain.positions, plain.token_types, plain.norm_epsilon), (32, 0, 1e-7));
        let relative = json!({
            "position_biased_input": false, "position_buckets": 8, "max_relative_positions": 512,
            "norm_rel_ebd": "none|Layer_Norm", "pos_att_type": ["c2p"], "cls_dropout": 0.25,
        });
        let relative = read(relative).unwrap();
        let own = relative.disentangled.unwrap();
        assert_eq!(own.buckets, Buckets { buckets: 8, most: 512 });
        assert!(own.normalised && own.terms.content_to_position && !own.terms.position_to_content);
        assert_eq!((relative.positions, relative.classifier_dropout), (UNLIMITED, 0.25));
    }

    #[test]
    fn what_is_not_there_is_refused_by_its_key() {
        for (changes, part) in [
            (json!({ "relative_attention": false }), "without relative_attention"),
            (json!({ "conv_kernel_size": 3 }), "conv_kernel_size 3"),
            (json!({ "embedding_size": 16 }), "embedding_size 16 in place of 24"),
            (json!({ "attention_head_size": 16 }), "attention_head_size 16 in place of 8"),
            (json!({ "pos_att_type": "p2p|c2p" }), "c2p, p2c or both"),
            (json!({ "pooler_hidden_act": "mish" }), "pooler_hidden_act is \"mish\""),
            (json!({ "summary_type": "mean" }), "summary_type is \"mean\""),
            (json!({ "model_type": "xlnet" }), "model_type is \"xlnet\""),
        ] {
            let error = read(changes).unwrap_err().to_string();
            assert!(error.starts_with("config.json: ") && error.contains(part), "{error}");
        }
    }
}
