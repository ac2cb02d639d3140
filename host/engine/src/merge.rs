//! The model with its method merged into the weights.

use host_ir::graph::NewParameterId;
use host_ir::interpret::{Leaves, evaluate};
use host_ir::method::AnyParameter;
use host_ir::model::{Module, ParameterId};
use host_ir::random::Stream;

use crate::engine::{Engine, EngineError, NamedTensor};

/// Why a method cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("{0}")]
    Impossible(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

struct Trained<'a> {
    engine: &'a Engine,
    tensors: &'a [NamedTensor],
}

impl Trained<'_> {
    fn find(&self, parameter: AnyParameter) -> Result<Vec<f32>, String> {
        let (_, part) = self.engine.plans.parameters.find(parameter);
        let tensor = self.tensors.iter().find(|tensor| tensor.name == part.name);
        tensor.map(|tensor| tensor.elements.clone()).ok_or_else(|| format!("{} has no elements", part.name))
    }
}

impl Leaves for Trained<'_> {
    fn base(&self, id: ParameterId) -> Result<Vec<f32>, String> {
        self.find(AnyParameter::Base(id))
    }

    fn added(&self, id: NewParameterId) -> Result<Vec<f32>, String> {
        self.find(AnyParameter::New(id))
    }

    fn random(&self, _: usize, _: Option<&str>) -> Result<Stream, String> {
        Err("a merged weight cannot be random".into())
    }
}

/// The model's parameters, each with whether it belongs to the head; at sites
/// where the method says something, what it says that they merge into.
///
/// # Errors
/// A method with a prompt, with a site that it does not say how to merge, or with one
/// whose weight another module has too.
pub fn merged_tensors(engine: &Engine) -> Result<Vec<(bool, NamedTensor)>, MergeError> {
    let plans = &engine.plans;
    let impossible = |sentence: String| Err(MergeError::Impossible(sentence));
    if plans.method.prompt.is_some() {
        return impossible("a method with virtual tokens cannot be merged into the weights".into());
    }
    let all = engine.tensors(|_| true)?;
    let leaves = Trained { engine, tensors: &all };
    let mut merged = Vec::new();
    for (place, parameter) in plans.model.parameters.iter().enumerate() {
        let elements = leaves.base(ParameterId(place as u32)).map_err(MergeError::Impossible)?;
        let shape = parameter.shape.iter().map(|&size| size as usize).collect();
        merged.push((parameter.head, NamedTensor { name: parameter.name.clone(), shape, elements }));
    }
    for (&site, plan) in &plans.method.sites {
        let module = plans.model.module(site);
        let changed =
            plan.input.is_some() || plan.output.is_some() || plan.weight.is_some() || plan.prefix.is_some();
        let (Some(weight), Some(node)) = (module.weight, plan.merge_weight) else {
            if changed {
                return impossible(format!("the method does not say what {} merges into", module.name));
            }
            continue;
        };
        let shares = |other: &&Module| other.weight == Some(weight) && other.name != module.name;
        if let Some(other) = plans.model.modules.iter().find(shares) {
            return impossible(format!(
                "{} shares its weight with {}, which the method does not change; it cannot be merged into it",
                module.name, other.name
            ));
        }
        let value = evaluate(&plans.method.graph, node, &leaves);
        let value =
            value.map_err(|sentence| MergeError::Impossible(format!("{}: {sentence}", module.name)))?;
        merged[weight.0 as usize].1.elements = value.values;
        if let (Some(bias), Some(node)) = (module.bias, plan.merge_bias) {
            let value = evaluate(&plans.method.graph, node, &leaves).map_err(MergeError::Impossible)?;
            merged[bias.0 as usize].1.elements = value.values;
        }
    }
    Ok(merged)
}
