//! The functions of the contract's `graph`.

use crate::graph::{Binary, Compare, Kind, NodeId, Op, Reduce, Scope, Unary};
use crate::record::{Answer, Handle, MOST_NODES, Phase, Recorder};
use crate::shape::{Dim, Shape};

/// The most elements that a constant, or an initial value, may have: 2^31.
const MOST_ELEMENTS: usize = 1 << 31;
const PLANS: [Phase; 2] = [Phase::MethodPlan, Phase::TaskPlan];

impl Recorder {
    /// Gives a node a number of its own.
    pub(super) fn give_node(&mut self, node: NodeId) -> u32 {
        self.give(Handle::Node(node))
    }

    /// `graph.shape`, in sizes as they go over the wire.
    pub fn shape(&self, value: u32) -> Answer<Vec<u32>> {
        let node = self.node("graph.shape", value)?;
        Ok(self.graph().shape(node).0.iter().map(|dim| dim.to_wire()).collect())
    }

    fn wire_shape(&self, function: &'static str, sizes: &[u32]) -> Answer<Shape> {
        let dims: Option<Vec<Dim>> = sizes.iter().map(|&size| Dim::from_wire(size)).collect();
        let shape = Shape(dims.ok_or_else(|| {
            self.wrong(function, format!("{function}: {sizes:?} has a size that the host never gave"))
        })?);
        match shape.rank() {
            0..=4 => Ok(shape),
            rank => {
                Err(self
                    .wrong(function, format!("{function}: {shape} has {rank} axes; there are up to four")))
            }
        }
    }

    /// The shape of a leaf: fixed, and not too large.
    fn leaf_shape(&self, function: &'static str, sizes: &[u32]) -> Answer<(Shape, usize)> {
        let shape = self.wire_shape(function, sizes)?;
        match shape.elements() {
            Some(elements) if elements <= MOST_ELEMENTS => Ok((shape, elements)),
            Some(_) => Err(self.wrong(function, format!("{function}: {shape} has more than 2^31 elements"))),
            None => Err(self.wrong(
                function,
                format!("{function}: {shape} has a symbolic axis, which a leaf cannot have"),
            )),
        }
    }

    fn room(&self, function: &'static str) -> Answer<()> {
        self.only_in(function, &PLANS)?;
        match self.graph().nodes.len() < MOST_NODES {
            true => Ok(()),
            false => Err(self.wrong(
                function,
                format!("{function}: the plan has {MOST_NODES} values already, which is the most"),
            )),
        }
    }

    fn leaf(&mut self, function: &'static str, op: Op, sizes: &[u32], kind: Kind) -> Answer<u32> {
        self.room(function)?;
        let (shape, _) = self.leaf_shape(function, sizes)?;
        let place = self.place.clone();
        let node = self.graph_mut().leaf(op, shape, kind, Scope::Plan, place);
        Ok(self.give_node(node))
    }

    /// `graph.scalar`.
    pub fn scalar(&mut self, value: f64) -> Answer<u32> {
        self.leaf("graph.scalar", Op::Full(value), &[], Kind::Real)
    }

    /// `graph.constant`.
    pub fn constant(&mut self, sizes: &[u32], values: &[f64]) -> Answer<u32> {
        self.counted("graph.constant", sizes, values.len())?;
        self.leaf("graph.constant", Op::Constant(values.into()), sizes, Kind::Real)
    }

    /// `graph.integers`.
    pub fn integers(&mut self, sizes: &[u32], values: &[i32]) -> Answer<u32> {
        self.counted("graph.integers", sizes, values.len())?;
        self.leaf("graph.integers", Op::Integers(values.into()), sizes, Kind::Integer)
    }

    fn counted(&self, function: &'static str, sizes: &[u32], values: usize) -> Answer<()> {
        match self.leaf_shape(function, sizes)? {
            (_, elements) if elements == values => Ok(()),
            (shape, elements) => Err(self.wrong(
                function,
                format!("{function}: {shape} has {elements} elements and {values} are given"),
            )),
        }
    }

    /// `graph.full`.
    pub fn full(&mut self, sizes: &[u32], value: f64) -> Answer<u32> {
        self.leaf("graph.full", Op::Full(value), sizes, Kind::Real)
    }

    /// `graph.eye`.
    pub fn eye(&mut self, size: u32) -> Answer<u32> {
        self.leaf("graph.eye", Op::Eye, &[size, size], Kind::Real)
    }

    /// `graph.uniform`.
    pub fn uniform(&mut self, sizes: &[u32], low: f64, high: f64, key: Option<String>) -> Answer<u32> {
        if !(low <= high && low.is_finite() && high.is_finite()) {
            return Err(self.wrong(
                "graph.uniform",
                format!("graph.uniform from {low} to {high}: the bounds must be finite and in order"),
            ));
        }
        self.leaf("graph.uniform", Op::Uniform { low, high, key }, sizes, Kind::Real)
    }

    /// `graph.normal`.
    pub fn normal(&mut self, sizes: &[u32], mean: f64, deviation: f64, key: Option<String>) -> Answer<u32> {
        if !(deviation >= 0.0 && deviation.is_finite() && mean.is_finite()) {
            return Err(self.wrong("graph.normal", format!("graph.normal of mean {mean} and deviation {deviation}: both must be finite, the deviation at least 0")));
        }
        self.leaf("graph.normal", Op::Normal { mean, deviation, key }, sizes, Kind::Real)
    }

    /// `graph.draw`.
    pub fn draw(&mut self, count: u32, bound: u32, key: Option<String>) -> Answer<u32> {
        if bound == 0 || bound > i32::MAX as u32 {
            return Err(
                self.wrong("graph.draw", format!("graph.draw below {bound}: there is no such number"))
            );
        }
        self.leaf("graph.draw", Op::Draw { bound, key }, &[count], Kind::Integer)
    }

    /// Any operation on values, by the name that errors give it.
    fn apply(&mut self, function: &'static str, op: Op, values: &[u32], shape: Option<Shape>) -> Answer<u32> {
        self.room(function)?;
        let inputs = values.iter().map(|&value| self.node(function, value)).collect::<Answer<Vec<_>>>()?;
        let place = self.place.clone();
        let made = self.graph_mut().apply(op, &inputs, shape, place);
        let node = made.map_err(|sentence| self.wrong(function, sentence))?;
        match self.graph().shape(node).rank() {
            0..=4 => Ok(self.give_node(node)),
            rank => Err(self.wrong(function, format!("{function} gives {rank} axes; there are up to four"))),
        }
    }

    /// Element-wise functions of one value.
    pub fn unary(&mut self, unary: Unary, value: u32) -> Answer<u32> {
        self.apply("graph", Op::Unary(unary), &[value], None)
    }

    /// Element-wise functions of two values.
    pub fn binary(&mut self, binary: Binary, a: u32, b: u32) -> Answer<u32> {
        self.apply("graph", Op::Binary(binary), &[a, b], None)
    }

    /// `graph.affine`.
    pub fn affine(&mut self, value: u32, factor: f64, offset: f64) -> Answer<u32> {
        if !(factor.is_finite() && offset.is_finite()) {
            return Err(self.wrong(
                "graph.affine",
                format!("graph.affine by {factor} and {offset}: both must be finite"),
            ));
        }
        self.apply("graph.affine", Op::Affine { factor, offset }, &[value], None)
    }

    /// `graph.power`.
    pub fn power(&mut self, value: u32, exponent: f64) -> Answer<u32> {
        self.apply("graph.power", Op::Power(exponent), &[value], None)
    }

    /// `graph.permute`.
    pub fn permute(&mut self, value: u32, axes: &[u32]) -> Answer<u32> {
        let axes = axes.iter().map(|&axis| axis as usize).collect();
        self.apply("graph.permute", Op::Permute(axes), &[value], None)
    }

    /// `graph.transpose`.
    pub fn transpose(&mut self, value: u32) -> Answer<u32> {
        let node = self.node("graph.transpose", value)?;
        let rank = self.graph().shape(node).rank();
        if rank < 2 {
            return Err(self.wrong(
                "graph.transpose",
                format!("transpose of {}: two axes are wanted", self.graph().shape(node)),
            ));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 1, rank - 2);
        self.apply("graph.transpose", Op::Permute(axes), &[value], None)
    }

    /// `graph.reshape`.
    pub fn reshape(&mut self, value: u32, sizes: &[u32]) -> Answer<u32> {
        let shape = self.wire_shape("graph.reshape", sizes)?;
        self.apply("graph.reshape", Op::Reshape, &[value], Some(shape))
    }

    /// An axis, which may be given from the end.
    fn axis(&self, function: &'static str, value: u32, axis: i32) -> Answer<usize> {
        let node = self.node(function, value)?;
        let shape = self.graph().shape(node);
        let rank = shape.rank() as i32;
        match axis {
            axis if (0..rank).contains(&axis) => Ok(axis as usize),
            axis if (-rank..0).contains(&axis) => Ok((axis + rank) as usize),
            _ => Err(self.wrong(function, format!("{function}: {shape} has no axis {axis}"))),
        }
    }

    /// `graph.slice`.
    pub fn slice(&mut self, value: u32, axis: i32, start: u32, length: u32) -> Answer<u32> {
        let axis = self.axis("graph.slice", value, axis)?;
        self.apply("graph.slice", Op::Slice { axis, start, length }, &[value], None)
    }

    /// `graph.concat`.
    pub fn concat(&mut self, values: &[u32], axis: i32) -> Answer<u32> {
        let Some(&first) = values.first() else {
            return Err(self.wrong("graph.concat", "concat of nothing"));
        };
        let axis = self.axis("graph.concat", first, axis)?;
        self.apply("graph.concat", Op::Concat { axis }, values, None)
    }

    /// `graph.matmul`.
    pub fn matmul(&mut self, a: u32, b: u32) -> Answer<u32> {
        self.apply("graph.matmul", Op::Matmul, &[a, b], None)
    }

    /// `graph.sum`, `mean`, `norm`, `deviation` and `log-sum-exp`.
    pub fn reduce(&mut self, reduce: Reduce, value: u32, axes: &[i32], keep: bool) -> Answer<u32> {
        let mut axes =
            axes.iter().map(|&axis| self.axis("graph", value, axis)).collect::<Answer<Vec<_>>>()?;
        axes.sort_unstable();
        axes.dedup();
        self.apply("graph", Op::Reduce { reduce, axes, keep }, &[value], None)
    }

    /// `graph.softmax`.
    pub fn softmax(&mut self, value: u32, axis: i32) -> Answer<u32> {
        let axis = self.axis("graph.softmax", value, axis)?;
        self.apply("graph.softmax", Op::Softmax { axis }, &[value], None)
    }

    /// `graph.log-softmax`.
    pub fn log_softmax(&mut self, value: u32, axis: i32) -> Answer<u32> {
        let axis = self.axis("graph.log-softmax", value, axis)?;
        self.apply("graph.log-softmax", Op::LogSoftmax { axis }, &[value], None)
    }

    /// `graph.rows`.
    pub fn rows(&mut self, table: u32, indices: u32) -> Answer<u32> {
        self.apply("graph.rows", Op::Rows, &[table, indices], None)
    }

    /// `graph.cross-entropy`.
    pub fn cross_entropy(&mut self, logits: u32, labels: u32) -> Answer<u32> {
        self.apply("graph.cross-entropy", Op::CrossEntropy, &[logits, labels], None)
    }

    /// `graph.detach`.
    pub fn detach(&mut self, value: u32) -> Answer<u32> {
        self.apply("graph.detach", Op::Detach, &[value], None)
    }

    /// `graph.dropout`.
    pub fn dropout(&mut self, value: u32, probability: f64) -> Answer<u32> {
        self.apply("graph.dropout", Op::Dropout(probability), &[value], None)
    }

    /// `graph.shift`.
    pub fn shift(&mut self, value: u32, by: i32) -> Answer<u32> {
        self.apply("graph.shift", Op::Shift { by }, &[value], None)
    }

    /// `graph.positions`.
    pub fn positions(&mut self, value: u32, axis: i32) -> Answer<u32> {
        let axis = self.axis("graph.positions", value, axis)?;
        self.apply("graph.positions", Op::Positions { axis }, &[value], None)
    }

    /// `graph.quotient`.
    pub fn quotient(&mut self, value: u32, divisor: u32) -> Answer<u32> {
        self.apply("graph.quotient", Op::Quotient(divisor), &[value], None)
    }

    /// `graph.remainder`.
    pub fn remainder(&mut self, value: u32, divisor: u32) -> Answer<u32> {
        self.apply("graph.remainder", Op::Remainder(divisor), &[value], None)
    }

    /// `graph.equal` and `less`.
    pub fn compare(&mut self, compare: Compare, a: u32, b: u32) -> Answer<u32> {
        self.apply("graph", Op::Compare(compare), &[a, b], None)
    }

    /// `graph.largest`.
    pub fn largest(&mut self, value: u32, thousandths: u32) -> Answer<u32> {
        self.apply("graph.largest", Op::Largest { thousandths }, &[value], None)
    }

    /// `graph.arg-max`.
    pub fn arg_max(&mut self, value: u32, axis: i32) -> Answer<u32> {
        let axis = self.axis("graph.arg-max", value, axis)?;
        self.apply("graph.arg-max", Op::ArgMax { axis }, &[value], None)
    }

    /// `graph.elements`.
    pub fn elements(&mut self, value: u32, places: u32) -> Answer<u32> {
        self.apply("graph.elements", Op::Elements, &[value, places], None)
    }

    /// `graph.training`.
    pub fn training(&mut self, training: u32, evaluation: u32) -> Answer<u32> {
        self.apply("graph.training", Op::Training, &[training, evaluation], None)
    }
}
