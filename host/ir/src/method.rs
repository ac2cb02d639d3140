//! What a method decides: the plan that the engine compiles.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, NewParameterId, NodeId};
use crate::model::{ModelDescription, ParameterId, Role, SiteId};

/// A parameter that the method adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewParameter {
    /// Its full name: the site's name and its own, joined by a point.
    pub name: String,
    pub owner: Option<SiteId>,
    /// The expression for its initial value, whose shape it has.
    pub initial: NodeId,
    pub trained: bool,
}

/// What is said at a site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SitePlan {
    pub input: Option<NodeId>,
    pub output: Option<NodeId>,
    /// An output at the first and the last so many tokens only.
    pub output_at: Option<(NodeId, u32, u32)>,
    pub weight: Option<NodeId>,
    pub change_base: Option<NodeId>,
    pub merge_weight: Option<NodeId>,
    pub merge_bias: Option<NodeId>,
    /// Keys and values before those of the sequence.
    pub prefix: Option<(NodeId, NodeId)>,
}

/// How a parameter learns, where it differs from the run's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Factor of the run's learning rate.
    pub learning_rate: Option<f64>,
    /// Weight decay instead of the run's.
    pub weight_decay: Option<f64>,
}

/// A parameter of the model or a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AnyParameter {
    Base(ParameterId),
    New(NewParameterId),
}

/// All that a method says, over one [`Graph`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MethodPlan {
    pub graph: Graph,
    /// Base parameters that train. The head trains besides, unless `freeze_head`.
    pub trained: BTreeSet<ParameterId>,
    pub freeze_head: bool,
    pub parameters: Vec<NewParameter>,
    #[serde(with = "pairs")]
    pub sites: BTreeMap<SiteId, SitePlan>,
    /// Virtual tokens, [count, embedding size].
    pub prompt: Option<NodeId>,
    /// Terms of shape [] added to the loss.
    pub losses: Vec<NodeId>,
    #[serde(with = "pairs")]
    pub groups: BTreeMap<AnyParameter, Group>,
    /// Steps between two calls of the controller, and what it reads.
    pub controller: Option<(u32, Vec<NodeId>)>,
    /// Further tensors of the exported adapter.
    pub exports: Vec<(String, NodeId)>,
}

impl MethodPlan {
    pub fn parameter(&self, id: NewParameterId) -> &NewParameter {
        &self.parameters[id.0 as usize]
    }

    /// Number of elements of a new parameter.
    pub fn elements(&self, id: NewParameterId) -> usize {
        self.graph.shape(self.parameter(id).initial).elements().unwrap_or(0)
    }

    /// Whether a base parameter trains under this plan, the head included.
    pub fn trains(&self, model: &ModelDescription, id: ParameterId) -> bool {
        self.trained.contains(&id) || (model.parameter(id).head && !self.freeze_head)
    }

    /// Number of virtual tokens.
    pub fn virtual_tokens(&self) -> usize {
        let size = self.prompt.and_then(|node| self.graph.shape(node).0[0].fixed());
        size.unwrap_or(0)
    }

    /// What trains, is added and is there in all.
    pub fn counts(&self, model: &ModelDescription) -> Counts {
        let mut counts = Counts::default();
        let parameters = model.parameters.iter().enumerate();
        for (place, parameter) in parameters.filter(|(_, parameter)| parameter.role != Role::Buffer) {
            counts.total += parameter.elements();
            if self.trains(model, ParameterId(place as u32)) {
                counts.trained += parameter.elements();
            }
        }
        for (place, parameter) in self.parameters.iter().enumerate() {
            let elements = self.elements(NewParameterId(place as u32));
            counts.total += elements;
            counts.added += elements;
            if parameter.trained {
                counts.trained += elements;
            }
        }
        counts.sites = self.sites.len();
        counts
    }
}

/// Numbers of parameters (elements) and of sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Elements that train: of the base model, the head and new parameters.
    pub trained: usize,
    /// Elements of new parameters.
    pub added: usize,
    /// Elements in all.
    pub total: usize,
    /// Sites at which something is said.
    pub sites: usize,
}

/// Maps with keys that JSON cannot have, as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
