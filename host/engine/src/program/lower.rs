//! Lowering expressions of plans to instructions.
//!
//! An expression is over one sequence; here it runs on the packed rows of the
//! whole batch. A value with a leading symbolic axis becomes a matrix of all
//! rows; one of a sequence, or of an example, without such an axis gets the axis
//! of sequences, or of examples, in front; one of the plan stays as it is.

use host_ir::graph::{Binary, Compare, Kind, NodeId, Op, Reduce, Scope, Unary};
use host_ir::method::AnyParameter;
use host_ir::shape::Dim;

use crate::program::build::{Builder, CompileError};
use crate::program::instruction::{Fold, Instruction, Integers};
use crate::program::value::{Extent, Storage, ValueId};

/// Whether the first axis is that of sequences or of examples, which an
/// expression does not see.
fn leads(extents: &[Extent]) -> bool {
    matches!(extents.first(), Some(Extent::Sequences | Extent::Examples))
}

fn extent(dim: Dim) -> Extent {
    match dim {
        Dim::Fixed(size) => Extent::Fixed(size as usize),
        Dim::Tokens => Extent::Tokens,
        Dim::Masked => Extent::Masked,
        Dim::Targets => Extent::Targets,
        Dim::Words => Extent::Words,
        Dim::Share(thousandths) => Extent::Share(thousandths),
    }
}

/// What a plan's node is over, with its axes after lowering; `rows` is what the
/// axis of tokens stands for.
fn extents_of(scope: Scope, dims: &[Dim], rows: Extent, alone: bool) -> Option<Vec<Extent>> {
    if alone && scope == Scope::Example {
        // A batch is one example: its axes are the batch's, wherever they stand.
        return Some(dims.iter().map(|&dim| extent(dim)).collect());
    }
    let mut extents = Vec::with_capacity(dims.len() + 1);
    if dims.first().is_none_or(|dim| dim.fixed().is_some()) {
        match scope {
            Scope::Plan => {}
            Scope::Sequence => extents.push(Extent::Sequences),
            Scope::Example => extents.push(Extent::Examples),
        }
    }
    for (axis, dim) in dims.iter().enumerate() {
        extents.push(match (dim, axis) {
            (Dim::Fixed(size), _) => Extent::Fixed(*size as usize),
            (Dim::Tokens, 0) => rows,
            (Dim::Masked, 0) => Extent::Masked,
            (Dim::Targets, 0) => Extent::Targets,
            _ => return None,
        });
    }
    Some(extents)
}

impl Builder<'_> {
    /// The value of a node of the method's or the task's plan.
    pub fn expression(&mut self, of_task: bool, node: NodeId) -> Result<ValueId, CompileError> {
        // Inputs stand before their users, so going through all that is needed
        // in order needs no recursion, however deep the expression is.
        for id in self.graph(of_task).reachable(&[node]) {
            if self.built(of_task, id).is_none() && !self.only_integers(of_task, id) {
                let value = self.lower(of_task, id)?;
                self.remember(of_task, id, value);
            }
        }
        self.built(of_task, node).ok_or_else(|| self.unsupported("an expression of integers", of_task, node))
    }

    fn built(&self, of_task: bool, node: NodeId) -> Option<ValueId> {
        let values = if of_task { &self.task_values } else { &self.method_values };
        values[node.0 as usize]
    }

    /// Binds a node to a value of the model.
    pub fn remember(&mut self, of_task: bool, node: NodeId, value: ValueId) {
        let values = if of_task { &mut self.task_values } else { &mut self.method_values };
        values[node.0 as usize] = Some(value);
    }

    fn only_integers(&self, of_task: bool, node: NodeId) -> bool {
        let alone = of_task && self.task.reads_examples_alone();
        match self.graph(of_task).node(node).op {
            Op::Integers(_) => !alone,
            Op::Label(_) | Op::MaskedTokens(_) | Op::TargetTokens(_) | Op::Draw { .. } => true,
            _ => false,
        }
    }

    fn integers(&self, of_task: bool, node: NodeId) -> Result<Integers, CompileError> {
        match &self.graph(of_task).node(node).op {
            Op::Label(field) => Ok(Integers::Label(field.clone())),
            Op::MaskedTokens(_) => Ok(Integers::MaskedTokens),
            Op::TargetTokens(_) => Ok(Integers::TargetTokens),
            Op::Integers(values) => Ok(Integers::Constant(values.clone())),
            other => Err(self.unsupported(format!("integers made by {}", other.name()), of_task, node)),
        }
    }

    fn lower(&mut self, of_task: bool, id: NodeId) -> Result<ValueId, CompileError> {
        let graph = self.graph(of_task);
        let node = graph.node(id);
        let name = node.op.name();
        let alone = of_task && self.task.reads_examples_alone();
        let mut inputs = Vec::new();
        for &input in &node.inputs {
            if !self.only_integers(of_task, input) {
                inputs.push(self.built(of_task, input).ok_or_else(|| self.unsupported(name, of_task, id))?);
            }
        }
        let has = |rows: Extent| inputs.iter().any(|&value| self.extents(value).first() == Some(&rows));
        let rows = match (has(Extent::Tokens), has(Extent::Targets)) {
            (true, true) => {
                let what = "a value of the encoder's tokens together with one of the decoder's";
                return Err(self.unsupported(what, of_task, id));
            }
            (_, true) => Extent::Targets,
            _ => self.rows,
        };
        let Some(extents) = extents_of(node.scope, &node.shape.0, rows, alone) else {
            return Err(self.unsupported(format!("{name} with the shape {}", node.shape), of_task, id));
        };
        let lead = usize::from(leads(&extents));
        if node.kind == Kind::Integer && !alone {
            return Err(self.unsupported(
                format!("{name} of integers outside of a plan that reads words"),
                of_task,
                id,
            ));
        }
        match &node.op {
            Op::Base(parameter) => Ok(self.parameter(AnyParameter::Base(*parameter))),
            Op::New(parameter) => Ok(self.parameter(AnyParameter::New(*parameter))),
            Op::Head(place) => self.named(&self.task.parameters[*place as usize].name),
            Op::Constant(values) => {
                let out = self.working(extents, &[]);
                self.push(Instruction::Constant { out, values: values.clone() });
                Ok(out)
            }
            Op::Full(value) => {
                let out = self.working(extents, &[]);
                let scalar = crate::program::instruction::Scalar::Constant(*value as f32);
                self.push(Instruction::Fill { out, scalar });
                Ok(out)
            }
            Op::Eye => {
                let size = node.shape.0[0].fixed().unwrap_or(0);
                let values = (0..size * size).map(|place| f64::from(u8::from(place % (size + 1) == 0)));
                let values = values.collect::<Vec<_>>().into();
                let out = self.working(extents, &[]);
                self.push(Instruction::Constant { out, values });
                Ok(out)
            }
            Op::Unary(function) => Ok(self.unary(*function, inputs[0])),
            Op::Affine { factor, offset } => Ok(self.affine(inputs[0], *factor, *offset)),
            Op::Power(exponent) => {
                let out = self.working(extents, &inputs);
                self.push(Instruction::Power { x: inputs[0], exponent: *exponent as f32, out });
                Ok(out)
            }
            Op::Binary(function) => {
                let rank = node.shape.rank();
                let a = self.aligned(of_task, node.inputs[0], inputs[0], rank, lead, id)?;
                let b = self.aligned(of_task, node.inputs[1], inputs[1], rank, lead, id)?;
                let out = self.working(extents, &inputs);
                self.push(Instruction::Binary { function: *function, a, b, out });
                Ok(out)
            }
            Op::Permute(axes) => {
                let symbolic = node.scope != Scope::Plan && lead == 0 && !alone;
                if symbolic && axes[0] != 0 {
                    return Err(self.unsupported("moving the axis of tokens", of_task, id));
                }
                let axes = (0..lead).chain(axes.iter().map(|axis| axis + lead)).collect();
                let out = self.working(extents, &inputs);
                self.push(Instruction::Permute { x: inputs[0], axes, out });
                Ok(out)
            }
            Op::Reshape => Ok(self.view(inputs[0], extents)),
            Op::Slice { axis, start, .. } => {
                let out = self.working(extents, &inputs);
                let (axis, start) = (axis + lead, *start as usize);
                self.push(Instruction::CopyRange {
                    x: inputs[0],
                    out,
                    axis,
                    start,
                    to: 0,
                    accumulate: false,
                });
                Ok(out)
            }
            Op::Concat { axis } => {
                let out = self.working(extents, &inputs);
                let mut to = 0;
                for (&input, &value) in node.inputs.iter().zip(&inputs) {
                    self.push(Instruction::CopyRange {
                        x: value,
                        out,
                        axis: axis + lead,
                        start: 0,
                        to,
                        accumulate: false,
                    });
                    to += graph.shape(input).0[*axis].fixed().unwrap_or(0);
                }
                Ok(out)
            }
            Op::Matmul => self.lower_matmul(of_task, id, &inputs, extents),
            Op::Reduce { reduce, axes, keep } => {
                let symbolic = node.scope != Scope::Plan
                    && !alone
                    && graph.shape(node.inputs[0]).0.first().is_some_and(|dim| dim.fixed().is_none());
                let fixed = |axis: &usize| graph.shape(node.inputs[0]).0[*axis].fixed().is_some();
                let counts = matches!(reduce, Reduce::Mean | Reduce::Deviation);
                if (symbolic && axes.contains(&0)) || (counts && !axes.iter().all(fixed)) {
                    return Err(self.unsupported(format!("{name} over the axis of tokens"), of_task, id));
                }
                let lead = usize::from(leads(&self.extents(inputs[0])));
                let axes: Vec<usize> = axes.iter().map(|axis| axis + lead).collect();
                let kept = self.reduce(*reduce, inputs[0], &axes);
                Ok(if *keep { kept } else { self.view(kept, extents) })
            }
            Op::Softmax { axis } => self.lower_softmax(of_task, id, inputs[0], axis + lead, false),
            Op::LogSoftmax { axis } => self.lower_softmax(of_task, id, inputs[0], axis + lead, true),
            Op::Rows if inputs.len() == 2 => Ok(self.rows_at(inputs[0], inputs[1], extents)),
            Op::Rows => match self.integers(of_task, node.inputs[1])? {
                Integers::Constant(indices) if node.scope == Scope::Plan => {
                    let out = self.working(extents, &inputs);
                    self.push(Instruction::Rows { table: inputs[0], indices, out });
                    Ok(out)
                }
                _ => Err(self.unsupported("rows by integers that depend on the sequence", of_task, id)),
            },
            Op::CrossEntropy => {
                let labels = match (self.integers(of_task, node.inputs[1])?, node.scope) {
                    (Integers::Label(field), Scope::Example) => Integers::ExampleLabel(field),
                    (labels, _) => labels,
                };
                Ok(self.cross_entropy(inputs[0], labels))
            }
            Op::Detach => Ok(self.program.add_value(extents, Storage::InPlaceOf(inputs[0]), false)),
            Op::Dropout(probability) => {
                let by_row =
                    [self.rows, Extent::Targets, Extent::Words].map(Some).contains(&extents.first().copied());
                if !by_row && *probability > 0.0 {
                    return Err(self.unsupported(
                        "dropout of a value without an axis of tokens",
                        of_task,
                        id,
                    ));
                }
                let dropout = self.dropout_site(*probability);
                Ok(self.dropped(inputs[0], dropout))
            }
            Op::Training => Ok(inputs[usize::from(!self.training)]),
            Op::Integers(_) if alone => Ok(self.choose(graph, node, &inputs, extents)),
            Op::WordNumbers(_)
            | Op::SpanNumbers { .. }
            | Op::Shift { .. }
            | Op::Elements
            | Op::Positions { .. }
            | Op::Quotient(_)
            | Op::Remainder(_)
            | Op::Compare(_)
            | Op::Largest { .. }
            | Op::ArgMax { .. } => match alone {
                true => Ok(self.choose(graph, node, &inputs, extents)),
                false => {
                    Err(self.unsupported(format!("{name} outside of a plan that reads words"), of_task, id))
                }
            },
            Op::Uniform { .. }
            | Op::Normal { .. }
            | Op::Draw { .. }
            | Op::Integers(_)
            | Op::Label(_)
            | Op::MaskedTokens(_)
            | Op::TargetTokens(_) => {
                Err(self.unsupported(format!("{name} outside an initial value"), of_task, id))
            }
            Op::SiteInput(site) | Op::SiteOutput(site) => {
                let what = format!("the {name} of {} before it is computed", self.site_name(*site));
                Err(self.unsupported(what, of_task, id))
            }
            Op::WordStates(_)
            | Op::Hidden(_)
            | Op::ClassificationLogits(_)
            | Op::TokenLogits(_)
            | Op::ChoiceLogits(_)
            | Op::MaskedLogits(_)
            | Op::TargetLogits(_) => Err(self.unsupported(format!("{name} of this model"), of_task, id)),
        }
    }

    /// An input of a broadcast with unit axes after the axis of sequences or
    /// examples.
    fn aligned(
        &mut self,
        of_task: bool,
        node: NodeId,
        value: ValueId,
        rank: usize,
        lead: usize,
        user: NodeId,
    ) -> Result<ValueId, CompileError> {
        let extents = self.extents(value);
        let leading = leads(&extents);
        if leading && lead == 0 {
            return Err(self.unsupported("one value a sequence together with one a token", of_task, user));
        }
        let missing = rank - self.graph(of_task).shape(node).rank();
        if !leading || missing == 0 {
            return Ok(value);
        }
        let mut longer = vec![extents[0]];
        longer.extend(std::iter::repeat_n(Extent::Fixed(1), missing));
        longer.extend(&extents[1..]);
        Ok(self.view(value, longer))
    }

    fn lower_matmul(
        &mut self,
        of_task: bool,
        id: NodeId,
        inputs: &[ValueId],
        extents: Vec<Extent>,
    ) -> Result<ValueId, CompileError> {
        let (a, b) = (self.extents(inputs[0]), self.extents(inputs[1]));
        let fixed = |extents: &[Extent]| extents.iter().all(|extent| matches!(extent, Extent::Fixed(_)));
        // Rows by one matrix; or the same leading axes on both sides.
        let alone = of_task && self.task.reads_examples_alone();
        let by_matrix = b.len() == 2 && (fixed(&b) || alone);
        let batched = a.len() == b.len() && a[..a.len() - 2] == b[..b.len() - 2] && fixed(&a) && fixed(&b);
        if !by_matrix && !batched {
            return Err(self.unsupported("this product of values that depend on the sequence", of_task, id));
        }
        let out = self.working(extents, inputs);
        self.push(Instruction::Matmul {
            a: inputs[0],
            b: inputs[1],
            out,
            transpose: (false, false),
            accumulate: false,
        });
        Ok(out)
    }

    fn lower_softmax(
        &mut self,
        of_task: bool,
        id: NodeId,
        x: ValueId,
        axis: usize,
        log: bool,
    ) -> Result<ValueId, CompileError> {
        if [self.rows, Extent::Targets].contains(&self.extents(x)[axis]) {
            return Err(self.unsupported("a softmax over the axis of tokens", of_task, id));
        }
        let sum = self.reduce(Reduce::LogSumExp, x, &[axis]);
        let difference = self.binary(Binary::Subtract, x, sum);
        Ok(if log { difference } else { self.unary(Unary::Exp, difference) })
    }

    pub(super) fn unary(&mut self, function: Unary, x: ValueId) -> ValueId {
        let extents = self.extents(x);
        let out = self.working(extents, &[x]);
        self.push(Instruction::Unary { function, x, out });
        out
    }

    pub fn affine(&mut self, x: ValueId, factor: f64, offset: f64) -> ValueId {
        let extents = self.extents(x);
        let out = self.working(extents, &[x]);
        self.push(Instruction::Affine { x, factor: factor as f32, offset: offset as f32, out });
        out
    }

    /// Element-wise, where `a` has the shape of the result.
    fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> ValueId {
        let extents = self.extents(a);
        let out = self.working(extents, &[a, b]);
        self.push(Instruction::Binary { function, a, b, out });
        out
    }

    fn fold(&mut self, fold: Fold, x: ValueId, axes: &[usize]) -> ValueId {
        let mut extents = self.extents(x);
        for &axis in axes {
            extents[axis] = Extent::Fixed(1);
        }
        let out = match fold {
            Fold::Sum => self.working(extents, &[x]),
            Fold::Maximum => self.working(extents, &[]),
        };
        self.push(Instruction::Fold { fold, x, out, accumulate: false });
        out
    }

    /// A reduction whose axes stay with size 1, made of sums.
    fn reduce(&mut self, reduce: Reduce, x: ValueId, axes: &[usize]) -> ValueId {
        let extents = self.extents(x);
        let count: usize =
            axes.iter().map(|&axis| if let Extent::Fixed(size) = extents[axis] { size } else { 1 }).product();
        let share = 1.0 / count.max(1) as f64;
        match reduce {
            Reduce::Sum => self.fold(Fold::Sum, x, axes),
            Reduce::Mean => {
                let sum = self.fold(Fold::Sum, x, axes);
                self.affine(sum, share, 0.0)
            }
            Reduce::Norm => {
                let square = self.binary(Binary::Multiply, x, x);
                let sum = self.fold(Fold::Sum, square, axes);
                self.unary(Unary::Sqrt, sum)
            }
            Reduce::Deviation => {
                let mean = self.reduce(Reduce::Mean, x, axes);
                let difference = self.binary(Binary::Subtract, x, mean);
                let square = self.binary(Binary::Multiply, difference, difference);
                let mean = self.reduce(Reduce::Mean, square, axes);
                self.unary(Unary::Sqrt, mean)
            }
            Reduce::LogSumExp => {
                let maximum = self.fold(Fold::Maximum, x, axes);
                let difference = self.binary(Binary::Subtract, x, maximum);
                let exponential = self.unary(Unary::Exp, difference);
                let sum = self.fold(Fold::Sum, exponential, axes);
                let logarithm = self.unary(Unary::Log, sum);
                self.binary(Binary::Add, logarithm, maximum)
            }
            Reduce::Maximum => {
                let maximum = self.fold(Fold::Maximum, x, axes);
                let largest = self.working(extents, &[]);
                self.push(Instruction::Compare { compare: Compare::Equal, a: x, b: maximum, out: largest });
                let count = self.fold(Fold::Sum, largest, axes);
                let weight = self.binary(Binary::Divide, largest, count);
                let product = self.binary(Binary::Multiply, x, weight);
                self.fold(Fold::Sum, product, axes)
            }
        }
    }
}
