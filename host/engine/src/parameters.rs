//! All parameters of a cell in blocks of memory, and how each of them learns.
//!
//! Parameters that one product reads together (query, key and value) lie side
//! by side in one block, so that they are one matrix to the program and three
//! parameters to everybody else.

use std::collections::BTreeMap;

use host_ir::graph::NewParameterId;
use host_ir::method::{AnyParameter, MethodPlan};
use host_ir::model::{ModelDescription, ParameterId, Role};

/// One parameter in its block.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub parameter: AnyParameter,
    /// Its full name.
    pub name: String,
    pub shape: Vec<usize>,
    /// The first element in the block.
    pub offset: usize,
    pub elements: usize,
    pub trained: bool,
    /// Whether it is the task's, which may have a learning rate of its own.
    pub head: bool,
    /// Factor of the run's learning rate.
    pub learning_rate: f64,
    /// Weight decay of its own; `None` takes the run's, where `decays`.
    pub weight_decay: Option<f64>,
    /// Whether the run's weight decay applies: not to biases and norms, as in
    /// transformers' Trainer.
    pub decays: bool,
}

/// Parameters side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    pub parts: Vec<Part>,
    pub elements: usize,
}

impl Block {
    /// Whether any of its parameters trains.
    pub fn trains(&self) -> bool {
        self.parts.iter().any(|part| part.trained)
    }
}

/// The blocks, and where each parameter stands in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    pub blocks: Vec<Block>,
    places: BTreeMap<AnyParameter, (usize, usize)>,
}

impl Parameters {
    /// Lays out the parameters of a model and a method. `fused` lists those
    /// that must lie side by side, in order.
    pub fn new(model: &ModelDescription, method: &MethodPlan, fused: &[Vec<ParameterId>]) -> Parameters {
        let mut parameters = Parameters::default();
        let mut grouped: BTreeMap<ParameterId, &[ParameterId]> = BTreeMap::new();
        for group in fused {
            grouped.extend(group.iter().map(|&id| (id, group.as_slice())));
        }
        for place in 0..model.parameters.len() as u32 {
            let id = ParameterId(place);
            let group = grouped.get(&id).copied().unwrap_or(std::slice::from_ref(&id));
            if group[0] == id {
                parameters.add(group.iter().map(|&id| base_part(model, method, id)).collect());
            }
        }
        for place in 0..method.parameters.len() as u32 {
            parameters.add(vec![new_part(method, NewParameterId(place))]);
        }
        parameters
    }

    fn add(&mut self, parts: Vec<Part>) {
        let mut block = Block::default();
        for mut part in parts {
            part.offset = block.elements;
            block.elements += part.elements;
            self.places.insert(part.parameter, (self.blocks.len(), block.parts.len()));
            block.parts.push(part);
        }
        self.blocks.push(block);
    }

    /// The block in which a parameter stands, and its part.
    pub fn find(&self, parameter: AnyParameter) -> (usize, &Part) {
        let (block, part) = self.places[&parameter];
        (block, &self.blocks[block].parts[part])
    }

    /// All parameters with their blocks, in the order of the blocks.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.blocks
            .iter()
            .enumerate()
            .flat_map(|(block, content)| content.parts.iter().map(move |part| (block, part)))
    }

    /// Elements that train.
    pub fn trained_elements(&self) -> usize {
        self.parts().filter(|(_, part)| part.trained).map(|(_, part)| part.elements).sum()
    }
}

fn base_part(model: &ModelDescription, method: &MethodPlan, id: ParameterId) -> Part {
    let parameter = model.parameter(id);
    let group = method.groups.get(&AnyParameter::Base(id)).copied().unwrap_or_default();
    Part {
        parameter: AnyParameter::Base(id),
        name: parameter.name.clone(),
        shape: parameter.shape.iter().map(|&size| size as usize).collect(),
        offset: 0,
        elements: parameter.elements(),
        trained: method.trains(model, id),
        head: parameter.head,
        learning_rate: group.learning_rate.unwrap_or(1.0),
        weight_decay: group.weight_decay,
        // A relative position bias is one by its name.
        decays: matches!(parameter.role, Role::Weight | Role::Embedding) && !parameter.name.contains("bias"),
    }
}

fn new_part(method: &MethodPlan, id: NewParameterId) -> Part {
    let parameter = method.parameter(id);
    let group = method.groups.get(&AnyParameter::New(id)).copied().unwrap_or_default();
    let shape = method.graph.shape(parameter.initial).sizes().unwrap_or_default();
    Part {
        parameter: AnyParameter::New(id),
        name: parameter.name.clone(),
        elements: shape.iter().product(),
        offset: 0,
        trained: parameter.trained,
        head: false,
        learning_rate: group.learning_rate.unwrap_or(1.0),
        weight_decay: group.weight_decay,
        // transformers' Trainer leaves out what is named a bias or a norm only.
        decays: !parameter.name.ends_with("bias"),
        shape,
    }
}
