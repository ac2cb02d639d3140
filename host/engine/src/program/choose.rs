//! Lowering of places and choices, in plans that read words. Integers are values
//! like others there, kept as real numbers without a gradient.

use host_ir::graph::{Graph, Node, Op};

use crate::program::build::Builder;
use crate::program::instruction::{Instruction, Integers};
use crate::program::value::{Extent, ValueId};

impl Builder<'_> {
    /// The value of a node that makes, compares or follows places.
    pub(super) fn choose(
        &mut self,
        graph: &Graph,
        node: &Node,
        inputs: &[ValueId],
        extents: Vec<Extent>,
    ) -> ValueId {
        let differentiable = matches!(node.op, Op::Shift { .. } | Op::Elements);
        let out = self.working(extents, if differentiable { &inputs[..1] } else { &[] });
        self.push(match &node.op {
            Op::Integers(values) => {
                Instruction::Constant { out, values: values.iter().map(|&value| f64::from(value)).collect() }
            }
            Op::WordNumbers(field) => Instruction::Integers { source: Integers::Words(field.clone()), out },
            Op::SpanNumbers { field, width } => Instruction::Integers {
                source: Integers::Spans { field: field.clone(), width: *width as usize },
                out,
            },
            Op::Shift { by } => Instruction::Shift { x: inputs[0], by: *by, out },
            Op::Elements => {
                let axes = graph.shape(node.inputs[0]).rank();
                Instruction::Gather { table: inputs[0], places: inputs[1], axes, out }
            }
            Op::Quotient(divisor) => {
                Instruction::DivideWhole { x: inputs[0], divisor: *divisor, remainder: false, out }
            }
            Op::Remainder(divisor) => {
                Instruction::DivideWhole { x: inputs[0], divisor: *divisor, remainder: true, out }
            }
            Op::Compare(compare) => {
                Instruction::Compare { compare: *compare, a: inputs[0], b: inputs[1], out }
            }
            Op::Largest { .. } => Instruction::Largest { x: inputs[0], out },
            Op::ArgMax { axis } => Instruction::ArgMax { x: inputs[0], axis: *axis, out },
            _ => Instruction::Positions { out },
        });
        out
    }

    /// Rows of a table by places.
    pub(super) fn rows_at(&mut self, table: ValueId, places: ValueId, extents: Vec<Extent>) -> ValueId {
        let out = self.working(extents, &[table]);
        self.push(Instruction::Gather { table, places, axes: 1, out });
        out
    }
}
