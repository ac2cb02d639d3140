//! The elements with which parameters start.

use host_ir::graph::NewParameterId;
use host_ir::interpret::{self, Leaves};
use host_ir::method::AnyParameter;
use host_ir::model::{ModelDescription, Parameter, ParameterId, Role};
use host_ir::random::Stream;
use rayon::prelude::*;

use crate::compile::Plans;
use crate::files::checkpoint::Checkpoint;
use crate::models::Architecture;

/// Why a parameter has no start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A sentence of the checkpoint about a tensor.
    #[error("{0}")]
    Checkpoint(String),
    /// The initial expression of a new parameter failed.
    #[error("the initial value of {name}: {sentence}")]
    Expression { name: String, sentence: String },
}

/// Elements by the names of transformers.
pub trait Weights: Sync {
    /// Writes the elements of a parameter to their place; false where there is no such
    /// tensor.
    ///
    /// # Errors
    /// A sentence about a tensor that is there and cannot be used.
    fn load(&self, name: &str, shape: &[u32], elements: &mut [f32]) -> Result<bool, String>;

    /// The end of a sentence that names the tensor that comes nearest.
    fn nearest(&self, _: &str) -> String {
        String::new()
    }
}

/// No weights at all: a model that starts at random.
pub struct Reinitialised;

impl Weights for Reinitialised {
    fn load(&self, _: &str, _: &[u32], _: &mut [f32]) -> Result<bool, String> {
        Ok(false)
    }
}

/// The elements of all blocks: from the weights where they are, at random from
/// the seed for what is new (normal with the config's `initializer_range`,
/// biases zero, norms one and zero, as transformers' `_init_weights`), and from
/// the plan's expressions for what the method adds.
///
/// # Errors
/// A tensor that is missing or of another shape, unless `may_be_missing`; an
/// expression that cannot be evaluated.
pub fn initial_blocks(
    plans: &Plans,
    weights: &dyn Weights,
    may_be_missing: bool,
    seed: u64,
) -> Result<Vec<Vec<f32>>, InitError> {
    let parameters = &plans.parameters;
    let mut blocks: Vec<Vec<f32>> = parameters.blocks.iter().map(|block| vec![0.0; block.elements]).collect();
    let mut of_blocks = vec![Vec::new(); blocks.len()];
    for place in 0..plans.model.parameters.len() as u32 {
        let (block, part) = parameters.find(AnyParameter::Base(ParameterId(place)));
        of_blocks[block].push((ParameterId(place), part.offset..part.offset + part.elements));
    }
    let started = blocks.par_iter_mut().zip(of_blocks).map(|(block, parts)| {
        parts.into_iter().try_for_each(|(id, place)| {
            start_base(plans, weights, may_be_missing, seed, id, &mut block[place])
        })
    });
    // The first error in the blocks' order, whichever thread found one first.
    started.collect::<Vec<_>>().into_iter().collect::<Result<(), _>>()?;
    for place in 0..plans.method.parameters.len() as u32 {
        let id = NewParameterId(place);
        let base = |id: ParameterId| {
            let (block, part) = parameters.find(AnyParameter::Base(id));
            blocks[block][part.offset..part.offset + part.elements].to_vec()
        };
        let name = plans.method.parameter(id).name.clone();
        let elements = interpret::initial_value(&plans.method, id, seed, &base);
        let elements = elements.map_err(|sentence| InitError::Expression { name, sentence })?;
        let (block, part) = parameters.find(AnyParameter::New(id));
        blocks[block][part.offset..part.offset + part.elements].copy_from_slice(&elements);
    }
    change_bases(plans, &mut blocks)?;
    Ok(blocks)
}

/// Whether a checkpoint has what the model needs of it, before any of it is read.
///
/// # Errors
/// A tensor that is missing or of another shape.
pub fn check(
    config: &dyn Architecture,
    model: &ModelDescription,
    checkpoint: &Checkpoint,
) -> Result<(), InitError> {
    for parameter in &model.parameters {
        let mut there = false;
        for name in std::iter::once(&parameter.name).chain(&config.aliases(&parameter.name)) {
            there |= checkpoint.fits(name, &parameter.shape).map_err(InitError::Checkpoint)?;
        }
        if !(there || may_be_new(parameter)) {
            return Err(missing(checkpoint, parameter));
        }
    }
    Ok(())
}

/// Whether a parameter may start without a tensor of the checkpoint.
fn may_be_new(parameter: &Parameter) -> bool {
    parameter.head || parameter.role == Role::Buffer
}

fn missing(weights: &dyn Weights, parameter: &Parameter) -> InitError {
    let nearest = weights.nearest(&parameter.name);
    InitError::Checkpoint(format!("the checkpoint has no tensor {}{nearest}", parameter.name))
}

/// Writes the elements with which a parameter of the model starts to their place.
fn start_base(
    plans: &Plans,
    weights: &dyn Weights,
    may_be_missing: bool,
    seed: u64,
    id: ParameterId,
    elements: &mut [f32],
) -> Result<(), InitError> {
    let parameter = plans.model.parameter(id);
    if load(plans, weights, parameter, elements)? {
        return Ok(());
    }
    if !(may_be_missing || may_be_new(parameter)) {
        return Err(missing(weights, parameter));
    }
    match own_start(plans, &parameter.name, seed)? {
        Some(start) => elements.copy_from_slice(&start),
        None => fresh(plans, id, seed, elements),
    }
    Ok(())
}

/// Writes the elements of a parameter, under its name or that of a module that shares it,
/// to their place; false where there are none.
fn load(
    plans: &Plans,
    weights: &dyn Weights,
    parameter: &Parameter,
    elements: &mut [f32],
) -> Result<bool, InitError> {
    let aliases = plans.config.aliases(&parameter.name);
    for name in std::iter::once(&parameter.name).chain(&aliases) {
        if weights.load(name, &parameter.shape, elements).map_err(InitError::Checkpoint)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where parameters have their elements before base weights are changed.
struct Started<'a> {
    plans: &'a Plans,
    blocks: &'a [Vec<f32>],
}

impl Started<'_> {
    fn find(&self, parameter: AnyParameter) -> Vec<f32> {
        let (block, part) = self.plans.parameters.find(parameter);
        self.blocks[block][part.offset..part.offset + part.elements].to_vec()
    }
}

impl Leaves for Started<'_> {
    fn base(&self, id: ParameterId) -> Result<Vec<f32>, String> {
        Ok(self.find(AnyParameter::Base(id)))
    }

    fn added(&self, id: NewParameterId) -> Result<Vec<f32>, String> {
        Ok(self.find(AnyParameter::New(id)))
    }

    fn random(&self, _: usize, _: Option<&str>) -> Result<Stream, String> {
        Err("a changed base weight cannot be random".into())
    }
}

/// Changes base weights as the method says, all from the values before.
fn change_bases(plans: &Plans, blocks: &mut [Vec<f32>]) -> Result<(), InitError> {
    let mut changed = Vec::new();
    for (&site, plan) in &plans.method.sites {
        let module = plans.model.module(site);
        let (Some(node), Some(weight)) = (plan.change_base, module.weight) else { continue };
        let value = interpret::evaluate(&plans.method.graph, node, &Started { plans, blocks });
        let error = |sentence| InitError::Expression { name: format!("{}.weight", module.name), sentence };
        changed.push((weight, value.map_err(error)?.values));
    }
    for (weight, elements) in changed {
        let (block, part) = plans.parameters.find(AnyParameter::Base(weight));
        blocks[block][part.offset..part.offset + part.elements].copy_from_slice(&elements);
    }
    Ok(())
}

/// The leaves of the starts of a task's own head: random ones.
struct HeadStart<'a> {
    name: &'a str,
    seed: u64,
}

impl Leaves for HeadStart<'_> {
    fn base(&self, _: ParameterId) -> Result<Vec<f32>, String> {
        Err("the start of a head cannot be made of the model's weights".into())
    }

    fn added(&self, _: NewParameterId) -> Result<Vec<f32>, String> {
        Err("the start of a head cannot be made of a method's parameters".into())
    }

    fn random(&self, place: usize, key: Option<&str>) -> Result<Stream, String> {
        Ok(match key {
            Some(key) => Stream::new(self.seed, &format!("key {key}")),
            None => Stream::new(self.seed, &format!("head {} {place}", self.name)),
        })
    }
}

/// The start that the task gives a parameter of its own head.
fn own_start(plans: &Plans, name: &str, seed: u64) -> Result<Option<Vec<f32>>, InitError> {
    let Some(parameter) = plans.task.parameters.iter().find(|parameter| parameter.name == name) else {
        return Ok(None);
    };
    let value = interpret::evaluate(&plans.task.graph, parameter.initial, &HeadStart { name, seed });
    let error = |sentence| InitError::Expression { name: name.into(), sentence };
    Ok(Some(value.map_err(error)?.values))
}

/// Elements that a thread draws.
const DRAWN_AT_ONCE: usize = 1 << 16;

/// Draws a parameter of the model.
fn fresh(plans: &Plans, id: ParameterId, seed: u64, elements: &mut [f32]) {
    let parameter = plans.model.parameter(id);
    match parameter.role {
        Role::Bias | Role::NormBias | Role::Buffer => elements.fill(0.0),
        Role::NormWeight => elements.fill(1.0),
        Role::Weight | Role::Embedding => {
            let stream = Stream::new(seed, &parameter.name);
            let start = plans.config.start(parameter);
            elements.par_chunks_mut(DRAWN_AT_ONCE).enumerate().for_each(|(chunk, elements)| {
                let mut stream = stream.after(2 * (chunk * DRAWN_AT_ONCE) as u64);
                elements.fill_with(|| (stream.normal() * start.deviation) as f32);
            });
            if let Some(place) = start.zero_row {
                let row = parameter.shape[1] as usize;
                elements[place * row..][..row].fill(0.0);
            }
        }
    }
}
