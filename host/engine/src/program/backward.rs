//! The reverse pass: from the forward instructions of a program, the
//! instructions that compute the gradients of what trains, and nothing else.
//!
//! Nothing is kept for a value in which nobody wants a gradient, and outputs of
//! norms and activations are computed again where that is cheaper than to keep
//! them.

use std::collections::{BTreeMap, BTreeSet};

use crate::parameters::{Parameters, Part};
use crate::program::access::Access;
use crate::program::build::{CompileError, Program};
use crate::program::instruction::{Fold, Instruction, Scalar};
use crate::program::value::{Extent, Storage, ValueId};

/// Adds the reverse pass to a program.
///
/// # Errors
/// A parameter that trains and on which no loss depends.
pub fn differentiate(program: &mut Program, parameters: &Parameters) -> Result<(), CompileError> {
    let mut reverse = Reverse {
        program,
        parameters,
        gradients: BTreeMap::new(),
        again: BTreeMap::new(),
        reached: BTreeSet::new(),
    };
    reverse.seed_losses();
    let forward = reverse.program.forward.clone();
    for (place, instruction) in forward.iter().enumerate().rev() {
        reverse.step(instruction, &forward[..place]);
    }
    reverse.check_reached()
}

pub(super) struct Reverse<'a> {
    pub(super) program: &'a mut Program,
    parameters: &'a Parameters,
    /// The gradient of a value in working memory, once something was written.
    pub(super) gradients: BTreeMap<ValueId, ValueId>,
    /// Outputs that were computed again.
    again: BTreeMap<ValueId, ValueId>,
    /// Elements of parameters, (block, first element), that got a gradient.
    reached: BTreeSet<(usize, usize)>,
}

impl Reverse<'_> {
    pub(super) fn push(&mut self, instruction: Instruction) {
        self.program.backward.push(instruction);
    }

    pub(super) fn wants(&self, value: ValueId) -> bool {
        self.program.value(value).wants_gradient
    }

    pub(super) fn extents(&self, value: ValueId) -> Vec<Extent> {
        self.program.value(value).extents.clone()
    }

    fn working(&mut self, extents: Vec<Extent>) -> ValueId {
        self.program.add_value(extents, Storage::Working, false)
    }

    pub(super) fn like(&mut self, value: ValueId) -> ValueId {
        let extents = self.extents(value);
        self.working(extents)
    }

    /// The value whose memory this one shares: one in place of a value that wants no
    /// gradient cuts it (`detach`).
    pub(super) fn root(&self, value: ValueId) -> ValueId {
        self.program.root(value)
    }

    /// Where the gradient of a value is kept, and whether it has to be added to.
    pub(super) fn target(&mut self, value: ValueId) -> (ValueId, bool) {
        let root = self.root(value);
        if let Storage::Parameter { block, offset } = self.program.value(root).storage {
            self.reached.insert((block, offset));
            let extents = self.extents(value);
            let storage = Storage::Gradient { block, offset };
            return (self.program.add_value(extents, storage, false), true);
        }
        if let Some(&gradient) = self.gradients.get(&root) {
            return (self.shaped_like(gradient, value), true);
        }
        let gradient = self.like(root);
        self.gradients.insert(root, gradient);
        (self.shaped_like(gradient, value), false)
    }

    /// The gradient of a value, where there is one.
    pub(super) fn gradient(&mut self, value: ValueId) -> Option<ValueId> {
        if !self.wants(value) {
            return None;
        }
        let root = self.root(value);
        let gradient = *self.gradients.get(&root)?;
        Some(self.shaped_like(gradient, value))
    }

    pub(super) fn shaped_like(&mut self, gradient: ValueId, value: ValueId) -> ValueId {
        let extents = self.extents(value);
        match self.extents(gradient) == extents {
            true => gradient,
            false => self.program.add_value(extents, Storage::InPlaceOf(gradient), false),
        }
    }

    fn seed_losses(&mut self) {
        for (number, loss) in self.program.losses.clone().into_iter().enumerate() {
            if !self.wants(loss.value) {
                continue;
            }
            let (out, accumulate) = self.target(loss.value);
            let scalar = if loss.once { Scalar::MicroBatchShare } else { Scalar::LossWeight(number) };
            match accumulate {
                false => self.push(Instruction::Fill { out, scalar }),
                true => {
                    let seed = self.like(out);
                    self.push(Instruction::Fill { out: seed, scalar });
                    self.push(Instruction::Copy { x: seed, out, accumulate: true });
                }
            }
        }
    }

    /// Adds a finished gradient to that of a value.
    pub(super) fn give(&mut self, value: ValueId, gradient: ValueId) {
        if !self.wants(value) {
            return;
        }
        let (out, accumulate) = self.target(value);
        let same = self.extents(gradient) == self.extents(out);
        match same {
            true => self.push(Instruction::Copy { x: gradient, out, accumulate }),
            false => {
                // Broadcasting is undone by summing over the axes it added.
                let mut kept = self.extents(out);
                let rank = self.extents(gradient).len();
                while kept.len() < rank {
                    kept.insert(0, Extent::Fixed(1));
                }
                let view = self.program.add_value(kept, Storage::InPlaceOf(out), false);
                self.push(Instruction::Fold { fold: Fold::Sum, x: gradient, out: view, accumulate });
            }
        }
    }

    /// A value of the forward pass that is cheaper computed again than kept.
    pub(super) fn again(&mut self, value: ValueId, earlier: &[Instruction]) -> ValueId {
        if let Some(&known) = self.again.get(&value) {
            return known;
        }
        let makes = |instruction: &&Instruction| match **instruction {
            Instruction::Norm { out, .. }
            | Instruction::RmsNorm { out, .. }
            | Instruction::Activate { out, .. }
            | Instruction::Gate { out, .. }
            | Instruction::Dropout { out, .. } => out == value,
            _ => false,
        };
        let remade = match earlier.iter().rev().find(makes).cloned() {
            Some(Instruction::Norm { normalized, gain, shift, after, .. }) if self.kept(normalized) => {
                let out = self.like(value);
                Some(Instruction::Recover { normalized, gain, shift, out, after })
            }
            Some(Instruction::RmsNorm { x, gain, epsilon, scale, after, .. }) if self.kept(x) => {
                let (scale, out) = (self.like(scale), self.like(value));
                Some(Instruction::RmsNorm { x, gain, epsilon, scale, out, after })
            }
            Some(Instruction::Activate { x, bias, activation, .. }) if self.kept(x) => {
                Some(Instruction::Activate { x, bias, out: self.like(value), activation, slope: None })
            }
            Some(Instruction::Gate { x, activation, .. }) if self.kept(x) => {
                Some(Instruction::Gate { x, out: self.like(value), activation })
            }
            // Worth it where what was dropped from is made again too.
            Some(Instruction::Dropout { x, dropout, .. }) => match self.again(x, earlier) {
                same if same == x => None,
                x => Some(Instruction::Dropout { x, out: self.like(value), dropout }),
            },
            _ => None,
        };
        let copy = match remade {
            Some(instruction) => {
                let written = instruction.accesses().into_iter().rfind(|(_, how)| *how == Access::Write);
                self.push(instruction);
                written.map_or(value, |(out, _)| out)
            }
            None => value,
        };
        self.again.insert(value, copy);
        copy
    }

    /// Whether the reverse pass keeps a value anyway: its gradient is wanted.
    fn kept(&self, value: ValueId) -> bool {
        self.wants(value)
    }

    /// Trained parts of a parameter of which rows lie side by side, as runs of
    /// (first row, value of the gradient).
    pub(super) fn trained_runs(&mut self, weight: ValueId) -> Vec<(usize, ValueId)> {
        let value = self.program.value(weight).clone();
        let Storage::Parameter { block, offset } = value.storage else { return Vec::new() };
        let fixed = |extent: &Extent| if let Extent::Fixed(size) = extent { *size } else { 1 };
        let row: usize = value.extents[1..].iter().map(fixed).product();
        let rows = fixed(&value.extents[0]);
        let parts: Vec<Part> = self.parameters.blocks[block].parts.clone();
        let inside = |part: &&Part| {
            part.trained && part.offset >= offset && part.offset + part.elements <= offset + rows * row
        };
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for part in parts.iter().filter(inside) {
            self.reached.insert((block, part.offset));
            let (first, count) = ((part.offset - offset) / row, part.elements / row);
            match runs.last_mut() {
                Some((start, length)) if *start + *length == first => *length += count,
                _ => runs.push((first, count)),
            }
        }
        let mut values = Vec::new();
        for (first, count) in runs {
            let mut extents = value.extents.clone();
            extents[0] = Extent::Fixed(count);
            let storage = Storage::Gradient { block, offset: offset + first * row };
            values.push((first, self.program.add_value(extents, storage, false)));
        }
        values
    }

    pub(super) fn is_parameter(&self, value: ValueId) -> bool {
        matches!(self.program.value(value).storage, Storage::Parameter { .. })
    }

    /// Whether a value lives in working memory and for this step alone.
    pub(super) fn is_working(&self, value: ValueId) -> bool {
        let root = self.root(value);
        let kept = self.program.outputs.iter().any(|output| self.root(output.value) == root);
        !kept && self.program.value(root).storage == Storage::Working
    }

    /// The gradient of a bias: sums over rows.
    pub(super) fn bias_gradient(&mut self, dy: ValueId, bias: ValueId, first_column: usize) {
        if !self.wants(bias) {
            return;
        }
        if !self.is_parameter(bias) {
            let (dbias, accumulate) = self.target(bias);
            return self.push(Instruction::ColumnSums { dy, dbias, first_column, accumulate });
        }
        for (first, dbias) in self.trained_runs(bias) {
            self.push(Instruction::ColumnSums {
                dy,
                dbias,
                first_column: first_column + first,
                accumulate: true,
            });
        }
    }

    /// The gradient of a value that one instruction adds to whole: that of an
    /// expression starts at zero.
    pub(super) fn whole_gradient(&mut self, value: Option<ValueId>) -> Option<ValueId> {
        let value = value.filter(|&value| self.wants(value))?;
        let (out, accumulate) = self.target(value);
        if !accumulate {
            self.push(Instruction::Fill { out, scalar: Scalar::Constant(0.0) });
        }
        Some(out)
    }

    /// Has the attention at this place of the forward pass keep its probabilities.
    pub(super) fn keep_probabilities(&mut self, place: usize, heads: usize) -> ValueId {
        let value = self.program.add_value(vec![Extent::ProbabilitiesTimes(heads)], Storage::Working, false);
        if let Instruction::Attention { kept, .. } = &mut self.program.forward[place] {
            *kept = Some(value);
        }
        value
    }

    fn check_reached(&self) -> Result<(), CompileError> {
        for (block, part) in self.parameters.parts().filter(|(_, part)| part.trained) {
            let reached = self.reached.contains(&(block, part.offset));
            if !reached {
                return Err(CompileError::NoGradient { name: part.name.clone() });
            }
        }
        Ok(())
    }
}
