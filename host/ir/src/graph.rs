//! Expressions: nodes, their operations, and the one place where their shapes
//! are checked.
//!
//! An expression is over one sequence. A node without a symbolic axis whose
//! inputs are all parameters and constants is the same for every sequence; see
//! [`Scope`].

mod operation;

use std::fmt;
use std::sync::Arc;

pub use operation::{Binary, Compare, Op, Reduce, Unary};
use serde::{Deserialize, Serialize};

use crate::model::{ModelDescription, ParameterId};
use crate::shape::{Dim, Shape};

/// Integers of expressions are exact up to this one.
const MOST_INTEGER: u32 = 1 << 24;

/// A value, by its number in a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// A new parameter, by its number in [`crate::method::MethodPlan::parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NewParameterId(pub u32);

/// A sequence of the task, by its number in [`crate::task::TaskPlan::sequences`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SequenceId(pub u32);

/// Whether elements are real or whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Real,
    Integer,
}

/// For what a value is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Once: it depends on parameters and constants only.
    Plan,
    /// For each sequence, a piece of an example.
    Sequence,
    /// For each example, of all its pieces together.
    Example,
}

/// A place in the source of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A value: an operation on other values, with what is known of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub op: Op,
    pub inputs: Vec<NodeId>,
    pub shape: Shape,
    pub kind: Kind,
    pub scope: Scope,
    /// Whether it may stand only in an initial value.
    pub random: bool,
    pub place: Option<Place>,
}

/// Nodes in the order in which they were made; inputs stand before their users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    pub nodes: Vec<Node>,
}

/// Shape, kind and scope of a new node, or the sentence that refuses it.
type Checked = Result<(Shape, Kind), String>;

impl Graph {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn shape(&self, id: NodeId) -> &Shape {
        &self.node(id).shape
    }

    /// Adds a leaf, whose shape and kind the caller knows.
    pub fn leaf(&mut self, op: Op, shape: Shape, kind: Kind, scope: Scope, place: Option<Place>) -> NodeId {
        let random = matches!(op, Op::Uniform { .. } | Op::Normal { .. } | Op::Draw { .. });
        self.push(Node { op, inputs: Vec::new(), shape, kind, scope, random, place })
    }

    /// Adds an operation on values that are there. `shape` is the shape wanted
    /// of a reshape. The error is a sentence without the place.
    pub fn apply(
        &mut self,
        op: Op,
        inputs: &[NodeId],
        shape: Option<Shape>,
        place: Option<Place>,
    ) -> Result<NodeId, String> {
        let (shape, kind) = self.check(&op, inputs, shape)?;
        self.check_scopes(&op, inputs)?;
        let scope = inputs.iter().map(|&id| self.node(id).scope).max().unwrap_or(Scope::Plan);
        let random = inputs.iter().any(|&id| self.node(id).random);
        Ok(self.push(Node { op, inputs: inputs.to_vec(), shape, kind, scope, random, place }))
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// Legality of every operation in one table.
    fn check(&self, op: &Op, inputs: &[NodeId], wanted: Option<Shape>) -> Checked {
        let name = op.name();
        let shape = |place: usize| self.shape(inputs[place]);
        let real = |place: usize| match self.node(inputs[place]).kind {
            Kind::Real => Ok(()),
            Kind::Integer => {
                Err(format!("{name} wants real numbers and was given integers {}", shape(place)))
            }
        };
        for (place, &input) in inputs.iter().enumerate() {
            let integer = matches!(
                (op, place),
                (Op::Rows | Op::CrossEntropy | Op::Elements, 1) | (Op::Quotient(_) | Op::Remainder(_), 0)
            );
            let either = matches!(op, Op::Permute(_) | Op::Reshape | Op::Slice { .. } | Op::Concat { .. })
                || matches!(
                    op,
                    Op::Positions { .. }
                        | Op::Compare(_)
                        | Op::Elements
                        | Op::Shift { .. }
                        | Op::Binary(Binary::Add)
                );
            if integer {
                if self.node(input).kind != Kind::Integer {
                    return Err(format!("{name} wants integers and was given real numbers {}", shape(place)));
                }
            } else if !either {
                real(place)?;
            }
        }
        let kind = inputs.first().map_or(Kind::Real, |&id| self.node(id).kind);
        let same = |shape: &Shape| Ok((shape.clone(), kind));
        match op {
            Op::Unary(_) | Op::Affine { .. } | Op::Power(_) | Op::Detach => same(shape(0)),
            Op::Dropout(probability) if !(0.0..1.0).contains(probability) => {
                Err(format!("dropout of probability {probability}: it must be at least 0 and below 1"))
            }
            Op::Dropout(_) => same(shape(0)),
            Op::Binary(_) | Op::Compare(_) if self.node(inputs[0]).kind != self.node(inputs[1]).kind => {
                Err(format!("{name} of integers and real numbers"))
            }
            Op::Binary(_) | Op::Compare(_) => match shape(0).broadcast(shape(1)) {
                Some(result) => Ok((result, if matches!(op, Op::Binary(_)) { kind } else { Kind::Real })),
                None => Err(format!("{name} of {} and {}: the shapes do not broadcast", shape(0), shape(1))),
            },
            Op::Training if shape(0) == shape(1) => same(shape(0)),
            Op::Training => Err(format!("training of {} and {}: the shapes differ", shape(0), shape(1))),
            Op::Permute(axes) => {
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                if sorted != (0..shape(0).rank()).collect::<Vec<_>>() {
                    return Err(format!("permute of {} by {axes:?}: each axis is wanted once", shape(0)));
                }
                Ok((Shape(axes.iter().map(|&axis| shape(0).0[axis]).collect()), kind))
            }
            Op::Reshape => self.check_reshape(shape(0), wanted.unwrap_or_default(), kind),
            Op::Slice { axis, start, length } => {
                let mut result = shape(0).clone();
                let Dim::Fixed(size) = result.0[*axis] else {
                    return Err(format!(
                        "slice of {} along its axis {axis}, whose size is a symbol",
                        shape(0)
                    ));
                };
                if start.checked_add(*length).is_none_or(|end| end > size) {
                    return Err(format!(
                        "slice of {}: {length} places from {start} on axis {axis} of size {size}",
                        shape(0)
                    ));
                }
                result.0[*axis] = Dim::Fixed(*length);
                Ok((result, kind))
            }
            Op::Concat { axis } => self.check_concat(inputs, *axis, kind),
            Op::Matmul => check_matmul(shape(0), shape(1)),
            Op::Reduce { axes, keep, .. } => {
                let dims = shape(0).0.iter().enumerate();
                let kept = dims.filter_map(|(axis, &dim)| match axes.contains(&axis) {
                    false => Some(dim),
                    true => keep.then_some(Dim::Fixed(1)),
                });
                Ok((Shape(kept.collect()), Kind::Real))
            }
            Op::Softmax { .. } | Op::LogSoftmax { .. } => same(shape(0)),
            Op::Rows => {
                let Some((_, rest)) = shape(0).0.split_first() else {
                    return Err("rows of a single number".into());
                };
                let dims = shape(1).0.iter().chain(rest).copied().collect();
                Ok((Shape(dims), kind))
            }
            Op::CrossEntropy => match shape(0).0.split_last() {
                Some((_, rows)) if rows == shape(1).0 => Ok((shape(1).clone(), Kind::Real)),
                _ => Err(format!(
                    "cross-entropy of logits {} and labels {}: the labels must have the shape of the logits without its last axis",
                    shape(0),
                    shape(1)
                )),
            },
            Op::Quotient(divisor) | Op::Remainder(divisor) if !(1..=MOST_INTEGER).contains(divisor) => {
                Err(format!("{name} by {divisor}: 1 to {MOST_INTEGER} is wanted"))
            }
            Op::Quotient(_) | Op::Remainder(_) => same(shape(0)),
            Op::Shift { .. } if shape(0).rank() == 0 => Err("shift of a single number".into()),
            Op::Shift { .. } => same(shape(0)),
            Op::Positions { axis } => Ok((Shape(vec![shape(0).0[*axis]]), Kind::Integer)),
            Op::Largest { thousandths } => match shape(0).0.first() {
                Some(Dim::Words) if (1..=1000).contains(thousandths) => {
                    Ok((Shape(vec![Dim::Share(*thousandths)]), Kind::Integer))
                }
                _ => Err(format!(
                    "largest of {}, {thousandths} thousandths: a first axis of words and 1 to 1000 thousandths are wanted",
                    shape(0)
                )),
            },
            Op::ArgMax { axis } => {
                let mut result = shape(0).clone();
                result.0.remove(*axis);
                Ok((result, Kind::Integer))
            }
            Op::Elements => Ok((shape(1).clone(), kind)),
            _ => Err(format!("{name} is a leaf, not an operation on values")),
        }
    }

    /// A value of an example has no rows for its pieces. A label is that of the
    /// example and of each of its pieces.
    fn check_scopes(&self, op: &Op, inputs: &[NodeId]) -> Result<(), String> {
        let nodes = || inputs.iter().map(|&id| self.node(id));
        let of_example = nodes().any(|node| node.scope == Scope::Example);
        let of_piece = nodes().any(|node| node.scope == Scope::Sequence && !matches!(node.op, Op::Label(_)));
        match of_example && of_piece {
            true => Err(format!("{} of a value of a sequence and one of a whole example", op.name())),
            false => Ok(()),
        }
    }

    fn check_reshape(&self, from: &Shape, to: Shape, kind: Kind) -> Checked {
        let symbols =
            |shape: &Shape| shape.0.iter().copied().filter(|dim| dim.fixed().is_none()).collect::<Vec<_>>();
        let fixed = |shape: &Shape| shape.0.iter().filter_map(|dim| dim.fixed()).product::<usize>();
        let leading = |shape: &Shape| shape.0.iter().skip(1).all(|dim| dim.fixed().is_some());
        if symbols(from) != symbols(&to) || fixed(from) != fixed(&to) {
            return Err(format!("reshape of {from} to {to}: the numbers of elements differ"));
        }
        if !leading(&to) || (!symbols(from).is_empty() && !leading(from)) {
            return Err(format!("reshape of {from} to {to}: a symbolic axis must stay the first"));
        }
        Ok((to, kind))
    }

    fn check_concat(&self, inputs: &[NodeId], axis: usize, kind: Kind) -> Checked {
        let Some(&first) = inputs.first() else {
            return Err("concat of nothing".into());
        };
        let mut result = self.shape(first).clone();
        let mut length = 0;
        for &id in inputs {
            let shape = self.shape(id);
            let fits = shape.rank() == result.rank()
                && (0..shape.rank()).all(|other| other == axis || shape.0[other] == result.0[other])
                && self.node(id).kind == kind;
            let (true, Dim::Fixed(size)) = (fits, shape.0[axis]) else {
                return Err(format!("concat along axis {axis}: {shape} does not fit {}", self.shape(first)));
            };
            length += size;
        }
        result.0[axis] = Dim::Fixed(length);
        Ok((result, kind))
    }

    /// The leaf that stands for a base parameter's value.
    pub fn base_leaf(&mut self, model: &ModelDescription, id: ParameterId) -> NodeId {
        let shape = Shape::fixed(&model.parameter(id).shape);
        self.leaf(Op::Base(id), shape, Kind::Real, Scope::Plan, None)
    }

    /// All values on which `roots` depend, themselves included, in the order of
    /// the graph. Detached values count.
    pub fn reachable(&self, roots: &[NodeId]) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = roots.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut seen[id.0 as usize], true) {
                stack.extend(&self.node(id).inputs);
            }
        }
        (0..self.nodes.len()).filter(|&place| seen[place]).map(|place| NodeId(place as u32)).collect()
    }
}

fn check_matmul(a: &Shape, b: &Shape) -> Checked {
    let (ranks, wrong) = ((a.rank(), b.rank()), |why: String| Err(format!("matmul of {a} and {b}: {why}")));
    if ranks.0 < 2 || ranks.1 < 2 {
        return wrong("both must have two axes or more".into());
    }
    let (inner, other) = (a.0[ranks.0 - 1], b.0[ranks.1 - 2]);
    if inner != other {
        return wrong(format!("{inner} does not fit {other}"));
    }
    let leading = |shape: &Shape| Shape(shape.0[..shape.rank() - 2].to_vec());
    let Some(mut result) = leading(a).broadcast(&leading(b)) else {
        return wrong("the leading axes do not broadcast".into());
    };
    result.0.extend([a.0[ranks.0 - 2], b.0[ranks.1 - 1]]);
    Ok((result, Kind::Real))
}
