//! The base model as plugins see it: modules and parameters by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What kind of site a module is; what can be read and said there follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    Linear,
    Embedding,
    Norm,
    Attention,
    FeedForward,
    Block,
}

impl SiteKind {
    /// All kinds with the names that the contract has for them.
    pub const NAMES: [(&'static str, SiteKind); 6] = [
        ("linear", SiteKind::Linear),
        ("embedding", SiteKind::Embedding),
        ("norm", SiteKind::Norm),
        ("attention", SiteKind::Attention),
        ("feed-forward", SiteKind::FeedForward),
        ("block", SiteKind::Block),
    ];

    /// The kind with a name of the contract.
    pub fn from_name(name: &str) -> Option<SiteKind> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// The name that the contract has for the kind.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The matrix of a linear module, [out, in].
    Weight,
    /// The bias of a linear module, or one that stands by itself.
    Bias,
    /// The gain of a norm.
    NormWeight,
    /// The shift of a norm.
    NormBias,
    /// A table of embeddings, [entries, size].
    Embedding,
    /// What a checkpoint holds and nobody trains.
    Buffer,
}

/// A parameter of the model, by its number in [`ModelDescription::parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ParameterId(pub u32);

/// A module with sites, by its number in [`ModelDescription::modules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SiteId(pub u32);

/// A parameter of the base model or of the head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name in transformers, e.g. `bert.encoder.layer.0.attention.self.query.weight`.
    pub name: String,
    pub shape: Vec<u32>,
    pub role: Role,
    /// Whether the task adds it: it then starts at random, trains and is saved
    /// with every method.
    pub head: bool,
}

impl Parameter {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().map(|&size| size as usize).product()
    }
}

/// A module at which a method can read or replace values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Its name in transformers.
    pub name: String,
    pub kind: SiteKind,
    /// The layer that it stands in, counted from 0.
    pub layer: Option<u32>,
    /// Size of the last axis of its input.
    pub inputs: u32,
    /// Size of the last axis of its output.
    pub outputs: u32,
    pub weight: Option<ParameterId>,
    pub bias: Option<ParameterId>,
    /// Whether it belongs to the head, where methods have no sites.
    pub head: bool,
}

/// The model: what it is called, its sizes, its modules in the order of
/// computation, its parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// `model_type` of config.json.
    pub architecture: String,
    /// Whole numbers of config.json.
    pub facts: BTreeMap<String, u64>,
    pub modules: Vec<Module>,
    pub parameters: Vec<Parameter>,
    /// The table of word embeddings.
    pub word_embeddings: Option<ParameterId>,
    /// The layer that makes scores of words, which `all-linear` leaves out.
    #[serde(default)]
    pub output_layer: Option<SiteId>,
}

impl ModelDescription {
    pub fn parameter(&self, id: ParameterId) -> &Parameter {
        &self.parameters[id.0 as usize]
    }

    pub fn module(&self, id: SiteId) -> &Module {
        &self.modules[id.0 as usize]
    }

    /// The parameter with a name.
    pub fn find_parameter(&self, name: &str) -> Option<ParameterId> {
        let place = self.parameters.iter().position(|parameter| parameter.name == name)?;
        Some(ParameterId(place as u32))
    }

    /// Sites of a kind that methods may use, in the order of computation.
    pub fn sites(&self, kind: SiteKind) -> Vec<SiteId> {
        self.modules
            .iter()
            .enumerate()
            .filter(|(_, module)| module.kind == kind && !module.head)
            .map(|(place, _)| SiteId(place as u32))
            .collect()
    }
}
