//! Building the forward part of a program: values, and one function for each
//! operation that models are made of.

use host_ir::graph::{Graph, NodeId, Place};
use host_ir::method::{AnyParameter, MethodPlan};
use host_ir::model::{ModelDescription, ParameterId, SiteId};
use host_ir::task::TaskPlan;

use crate::parameters::Parameters;
use crate::program::instruction::{Activation, Dropout, Instruction, Integers, RowChoice};
use crate::program::value::{Extent, Storage, Value, ValueId};

/// Why a plan cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A place in a plan that this engine cannot run.
    #[error("{}{what} is not supported by this host yet", place.as_ref().map_or(String::new(), |place| format!("{place}: ")))]
    Unsupported { what: String, place: Option<Place> },
    /// Something that trains and on which the loss does not depend.
    #[error("{name} should train, and the loss does not depend on it")]
    NoGradient { name: String },
    #[error("{0}")]
    Wrong(String),
}

/// A loss: the sum of a value's elements by their count.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    pub value: ValueId,
    /// Whether it is a term of the method, which counts once a batch.
    pub once: bool,
}

/// A value that is kept of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub value: ValueId,
}

/// A compiled program: forward alone (evaluation), or forward and backward.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub values: Vec<Value>,
    pub forward: Vec<Instruction>,
    pub backward: Vec<Instruction>,
    pub losses: Vec<Loss>,
    pub outputs: Vec<Output>,
}

impl Program {
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The value whose memory this one shares, through all in-place values.
    pub fn root(&self, mut value: ValueId) -> ValueId {
        while let Storage::InPlaceOf(other) = self.value(value).storage {
            value = other;
        }
        value
    }

    /// A new value.
    pub fn add_value(&mut self, extents: Vec<Extent>, storage: Storage, wants_gradient: bool) -> ValueId {
        self.values.push(Value { extents, storage, wants_gradient });
        ValueId(self.values.len() as u32 - 1)
    }

    /// All instructions in the order in which they run.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.forward.iter().chain(&self.backward)
    }
}

/// The result of a linear layer whose bias may still have to be added; the
/// operation that reads it adds it on the way.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub y: ValueId,
    pub bias: Option<ValueId>,
}

/// The parameters of a norm.
#[derive(Clone, Copy, Debug)]
pub struct NormParameters {
    pub gain: ValueId,
    pub shift: ValueId,
    pub epsilon: f32,
}

/// Which part of a model a program computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// All of it.
    Whole,
    /// The encoder, and of it what the steps of a generation read.
    Encode,
    /// One step of a generation.
    Decode,
}

/// Builds the forward part of a program.
pub struct Builder<'a> {
    pub model: &'a ModelDescription,
    pub method: &'a MethodPlan,
    pub task: &'a TaskPlan,
    pub parameters: &'a Parameters,
    /// Whether dropout is on.
    pub training: bool,
    pub program: Program,
    /// What the axis of tokens stands for in an expression.
    pub(super) rows: Extent,
    /// Which part of the model is built.
    pub purpose: Purpose,
    /// The values for which the program of a generation's step is run.
    pub logits: Option<ValueId>,
    dropouts: u32,
    /// Values of the method's expressions that are built already.
    pub(super) method_values: Vec<Option<ValueId>>,
    /// Values of the task's expressions that are built already.
    pub(super) task_values: Vec<Option<ValueId>>,
}

impl<'a> Builder<'a> {
    pub fn new(
        model: &'a ModelDescription,
        method: &'a MethodPlan,
        task: &'a TaskPlan,
        parameters: &'a Parameters,
        training: bool,
    ) -> Builder<'a> {
        Builder {
            model,
            method,
            task,
            parameters,
            training,
            program: Program::default(),
            rows: Extent::Tokens,
            purpose: Purpose::Whole,
            logits: None,
            dropouts: 0,
            method_values: vec![None; method.graph.nodes.len()],
            task_values: vec![None; task.graph.nodes.len()],
        }
    }

    /// A value in working memory that wants a gradient if any input does.
    pub fn working(&mut self, extents: Vec<Extent>, inputs: &[ValueId]) -> ValueId {
        let wants = self.wants(inputs);
        self.program.add_value(extents, Storage::Working, wants)
    }

    /// Whether any of the values wants a gradient.
    pub fn wants(&self, values: &[ValueId]) -> bool {
        values.iter().any(|&value| self.program.value(value).wants_gradient)
    }

    pub(super) fn extents(&self, value: ValueId) -> Vec<Extent> {
        self.program.value(value).extents.clone()
    }

    /// The same elements as another shape.
    pub fn view(&mut self, value: ValueId, extents: Vec<Extent>) -> ValueId {
        let wants = self.wants(&[value]);
        self.program.add_value(extents, Storage::InPlaceOf(value), wants)
    }

    pub fn push(&mut self, instruction: Instruction) {
        self.program.forward.push(instruction);
    }

    /// The value of a parameter.
    pub fn parameter(&mut self, parameter: AnyParameter) -> ValueId {
        let (block, part) = self.parameters.find(parameter);
        let extents = part.shape.iter().map(|&size| Extent::Fixed(size)).collect();
        let storage = Storage::Parameter { block, offset: part.offset };
        let trained = part.trained && self.training;
        self.parameter_value(extents, storage, trained)
    }

    /// Parameters that lie side by side, as one value: their first axes joined.
    pub fn joined_parameters(&mut self, ids: &[ParameterId]) -> ValueId {
        let (block, first) = self.parameters.find(AnyParameter::Base(ids[0]));
        let mut extents: Vec<Extent> = first.shape.iter().map(|&size| Extent::Fixed(size)).collect();
        let parts = ids.iter().map(|&id| self.parameters.find(AnyParameter::Base(id)).1);
        extents[0] = Extent::Fixed(parts.clone().map(|part| part.shape[0]).sum());
        let trained = self.training && parts.clone().any(|part| part.trained);
        let storage = Storage::Parameter { block, offset: first.offset };
        self.parameter_value(extents, storage, trained)
    }

    fn parameter_value(&mut self, extents: Vec<Extent>, storage: Storage, trained: bool) -> ValueId {
        let known =
            self.program.values.iter().position(|value| value.storage == storage && value.extents == extents);
        match known {
            Some(place) => ValueId(place as u32),
            None => self.program.add_value(extents, storage, trained),
        }
    }

    /// The parameter of the model with a name of transformers.
    pub fn named(&mut self, name: &str) -> Result<ValueId, CompileError> {
        let id = self.model.find_parameter(name);
        let id = id.ok_or_else(|| CompileError::Wrong(format!("the model has no parameter {name}")))?;
        Ok(self.parameter(AnyParameter::Base(id)))
    }

    /// A new dropout, where dropout is on and the probability is not 0.
    pub fn dropout_site(&mut self, probability: f64) -> Option<Dropout> {
        self.dropouts += 1;
        let site = self.dropouts;
        (self.training && probability > 0.0).then_some(Dropout { site, probability: probability as f32 })
    }

    /// x weight^T as it is, with the bias still to be added.
    pub fn product(&mut self, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> Pending {
        let mut extents = self.extents(x);
        if let (Some(last), Some(&outputs)) = (extents.last_mut(), self.program.value(weight).extents.first())
        {
            *last = outputs;
        }
        let inputs: Vec<ValueId> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
        let y = self.working(extents, &inputs);
        self.push(Instruction::Linear { x, weight, y, first_column: 0 });
        Pending { y, bias }
    }

    /// Adds the bias that is still to be added.
    pub fn settle(&mut self, pending: Pending) -> ValueId {
        if let Some(bias) = pending.bias {
            self.push(Instruction::AddBias { y: pending.y, bias, first_column: 0 });
        }
        pending.y
    }

    /// The value itself where it may be written over, else a copy of it.
    pub fn overwritable(&mut self, value: ValueId) -> ValueId {
        if self.read_by_nobody(value) {
            return value;
        }
        let extents = self.extents(value);
        let out = self.working(extents, &[value]);
        self.push(Instruction::Copy { x: value, out, accumulate: false });
        out
    }

    /// Whether nothing reads a value but what comes next: no expression and no earlier
    /// instruction, and the reverse rule of what wrote it does not either.
    fn read_by_nobody(&self, value: ValueId) -> bool {
        let root = self.program.root(value);
        let mut bound = [&self.method_values, &self.task_values].into_iter().flatten().flatten();
        let bound = bound.any(|&node| self.program.root(node) == root);
        let working = self.program.value(root).storage == Storage::Working;
        working && !bound && self.program.unread(value, &self.program.forward)
    }

    /// dropout(y + bias) + residual, normalised; then `after`.
    pub fn norm(
        &mut self,
        pending: Pending,
        residual: Option<ValueId>,
        dropout: Option<Dropout>,
        norm: NormParameters,
        after: Option<Dropout>,
    ) -> ValueId {
        let NormParameters { gain, shift, epsilon } = norm;
        let Pending { y, bias } = pending;
        let y = self.overwritable(y);
        let inputs: Vec<ValueId> =
            [Some(y), bias, residual, Some(gain), Some(shift)].into_iter().flatten().collect();
        let extents = self.extents(y);
        let wants = self.wants(&inputs);
        let normalized = self.program.add_value(extents.clone(), Storage::InPlaceOf(y), wants);
        let rows = extents[..extents.len() - 1].to_vec();
        let scale = self.program.add_value(rows, Storage::Working, false);
        let out = self.working(extents, &inputs);
        self.push(Instruction::Norm {
            y,
            bias,
            residual,
            dropout,
            gain,
            shift,
            epsilon,
            normalized,
            scale,
            out,
            after,
        });
        out
    }

    pub fn activate(&mut self, pending: Pending, activation: Activation) -> ValueId {
        let inputs: Vec<ValueId> = [Some(pending.y), pending.bias].into_iter().flatten().collect();
        let extents = self.extents(pending.y);
        let out = self.working(extents, &inputs);
        self.push(Instruction::Activate { x: pending.y, bias: pending.bias, out, activation, slope: None });
        out
    }

    /// Attention over queries, keys and values side by side.
    pub fn attention(
        &mut self,
        qkv: ValueId,
        heads: usize,
        size: usize,
        dropout: Option<Dropout>,
    ) -> ValueId {
        let out = self.working(vec![Extent::Tokens, Extent::Fixed(size)], &[qkv]);
        let log_sums = self.program.add_value(vec![Extent::TokensTimes(heads)], Storage::Working, false);
        self.push(Instruction::Attention { qkv, heads, out, log_sums, kept: None, dropout });
        out
    }

    /// Chosen rows of the packed batch.
    pub fn take_rows(&mut self, x: ValueId, choice: RowChoice) -> ValueId {
        let mut extents = self.extents(x);
        extents[0] = choice.taken();
        let out = self.working(extents, &[x]);
        self.push(Instruction::TakeRows { x, out, choice });
        out
    }

    /// The value with dropout, or the value itself where there is none.
    pub fn dropped(&mut self, x: ValueId, dropout: Option<Dropout>) -> ValueId {
        let Some(dropout) = dropout else { return x };
        let extents = self.extents(x);
        let out = self.working(extents, &[x]);
        self.push(Instruction::Dropout { x, out, dropout });
        out
    }

    /// Cross-entropy of each row.
    pub fn cross_entropy(&mut self, logits: ValueId, labels: Integers) -> ValueId {
        let extents = self.extents(logits);
        let rows = extents[..extents.len() - 1].to_vec();
        let losses = self.working(rows.clone(), &[logits]);
        let log_sums = self.working(rows, &[]);
        self.push(Instruction::CrossEntropy { logits, labels, losses, log_sums });
        losses
    }

    /// The graph of the method, or the one of the task.
    pub(super) fn graph(&self, of_task: bool) -> &'a Graph {
        if of_task { &self.task.graph } else { &self.method.graph }
    }

    pub(super) fn unsupported(&self, what: impl Into<String>, of_task: bool, node: NodeId) -> CompileError {
        let place = self.graph(of_task).node(node).place.clone();
        CompileError::Unsupported { what: what.into(), place }
    }

    /// The name of a site.
    pub fn site_name(&self, site: SiteId) -> &'a str {
        &self.model.module(site).name
    }
}
