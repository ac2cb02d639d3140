//! The reverse pass: from the forward instructions of a program, the
//! instructions that compute the gradients of what trains, and nothing else.
//!
//! Nothing is kept for a value in which nobody wants a gradient, and outputs of
//! norms and activations are computed again where that is cheaper than to keep
//! them.

use std::collections::{BTreeMap, BTreeSet};

use host_ir::graph::Binary;

use crate::parameters::{Parameters, Part};
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

struct Reverse<'a> {
    program: &'a mut Program,
    parameters: &'a Parameters,
    /// The gradient of a value in working memory, once something was written.
    gradients: BTreeMap<ValueId, ValueId>,
    /// Outputs that were computed again.
    again: BTreeMap<ValueId, ValueId>,
    /// Elements of parameters, (block, first element), that got a gradient.
    reached: BTreeSet<(usize, usize)>,
}

impl Reverse<'_> {
    fn push(&mut self, instruction: Instruction) {
        self.program.backward.push(instruction);
    }

    fn wants(&self, value: ValueId) -> bool {
        self.program.value(value).wants_gradient
    }

    fn extents(&self, value: ValueId) -> Vec<Extent> {
        self.program.value(value).extents.clone()
    }

    fn working(&mut self, extents: Vec<Extent>) -> ValueId {
        self.program.add_value(extents, Storage::Working, false)
    }

    fn like(&mut self, value: ValueId) -> ValueId {
        let extents = self.extents(value);
        self.working(extents)
    }

    /// The value whose memory this one shares, through all in-place values.
    fn root(&self, mut value: ValueId) -> ValueId {
        while let Storage::InPlaceOf(other) = self.program.value(value).storage {
            // A value in place of one that wants no gradient cuts it (`detach`).
            value = other;
        }
        value
    }

    /// Where the gradient of a value is kept, and whether it has to be added to.
    fn target(&mut self, value: ValueId) -> (ValueId, bool) {
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
    fn gradient(&mut self, value: ValueId) -> Option<ValueId> {
        if !self.wants(value) {
            return None;
        }
        let root = self.root(value);
        let gradient = *self.gradients.get(&root)?;
        Some(self.shaped_like(gradient, value))
    }

    fn shaped_like(&mut self, gradient: ValueId, value: ValueId) -> ValueId {
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
    fn give(&mut self, value: ValueId, gradient: ValueId) {
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
    fn again(&mut self, value: ValueId, earlier: &[Instruction]) -> ValueId {
        if let Some(&known) = self.again.get(&value) {
            return known;
        }
        let maker = earlier.iter().rev().find_map(|instruction| match *instruction {
            Instruction::Norm { normalized, gain, shift, out, after, .. } if out == value => {
                Some((normalized, Some((gain, shift, after)), None))
            }
            Instruction::Activate { x, bias, out, activation } if out == value => {
                Some((x, None, Some((bias, activation))))
            }
            _ => None,
        });
        let copy = match maker {
            Some((normalized, Some((gain, shift, after)), _)) if self.kept(normalized) => {
                let out = self.like(value);
                self.push(Instruction::Recover { normalized, gain, shift, out, after });
                out
            }
            Some((x, _, Some((bias, activation)))) if self.kept(x) => {
                let out = self.like(value);
                self.push(Instruction::Activate { x, bias, out, activation });
                out
            }
            _ => value,
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
    fn trained_runs(&mut self, weight: ValueId) -> Vec<(usize, ValueId)> {
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

    fn is_parameter(&self, value: ValueId) -> bool {
        matches!(self.program.value(value).storage, Storage::Parameter { .. })
    }

    /// The gradient of a bias: sums over rows.
    fn bias_gradient(&mut self, dy: ValueId, bias: ValueId, first_column: usize) {
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
    fn whole_gradient(&mut self, value: Option<ValueId>) -> Option<ValueId> {
        let value = value.filter(|&value| self.wants(value))?;
        let (out, accumulate) = self.target(value);
        if !accumulate {
            self.push(Instruction::Fill { out, scalar: Scalar::Constant(0.0) });
        }
        Some(out)
    }

    fn step(&mut self, instruction: &Instruction, earlier: &[Instruction]) {
        match *instruction {
            Instruction::Embed { word, position, token_type, prompt, out } => {
                let Some(gradient) = self.gradient(out) else { return };
                let prompt = self.whole_gradient(prompt);
                let word = self.whole_gradient(Some(word));
                let position = self.whole_gradient(position);
                let token_type = self.whole_gradient(token_type);
                self.push(Instruction::EmbedBackward { gradient, word, position, token_type, prompt });
            }
            Instruction::Linear { x, weight, y, first_column } => {
                let Some(dy) = self.gradient(y) else { return };
                if self.wants(weight) && self.is_parameter(weight) {
                    let x = self.again(x, earlier);
                    for (first, dweight) in self.trained_runs(weight) {
                        let first_column = first_column + first;
                        self.push(Instruction::LinearWeightGradient {
                            dy,
                            x,
                            dweight,
                            first_column,
                            accumulate: true,
                        });
                    }
                } else if self.wants(weight) {
                    let x = self.again(x, earlier);
                    let (dweight, accumulate) = self.target(weight);
                    self.push(Instruction::LinearWeightGradient { dy, x, dweight, first_column, accumulate });
                }
                if self.wants(x) {
                    let (dx, accumulate) = self.target(x);
                    self.push(Instruction::LinearInputGradient { dy, weight, dx, first_column, accumulate });
                }
            }
            Instruction::AddBias { y, bias, first_column } => {
                if let Some(dy) = self.gradient(y) {
                    self.bias_gradient(dy, bias, first_column);
                }
            }
            Instruction::LowRank { x, a, b, hidden, y, first_column, scale, dropout } => {
                let Some(dy) = self.gradient(y) else { return };
                let da = self.whole_gradient(Some(a));
                let db = self.whole_gradient(Some(b));
                let read = da.is_some().then(|| self.again(x, earlier));
                let dx = self.wants(x).then(|| self.target(x));
                let dhidden = self.like(hidden);
                self.push(Instruction::LowRankBackward {
                    dy,
                    x: read,
                    a,
                    b,
                    hidden,
                    dhidden,
                    da,
                    db,
                    dx,
                    first_column,
                    scale,
                    dropout,
                });
            }
            Instruction::Norm {
                y,
                bias,
                residual,
                dropout,
                gain,
                shift,
                normalized,
                scale,
                out,
                after,
                ..
            } => {
                let Some(dout) = self.gradient(out) else { return };
                let residual = residual.filter(|&residual| self.wants(residual));
                let wants_y = self.wants(y) || bias.is_some_and(|bias| self.wants(bias));
                // The residual's gradient is written at its place where nothing
                // is there yet, else beside it and added.
                let dv = match residual {
                    Some(residual)
                        if !self.gradients.contains_key(&self.root(residual))
                            && !self.is_parameter(self.root(residual)) =>
                    {
                        self.target(residual).0
                    }
                    _ => self.like(y),
                };
                let dy = wants_y.then(|| self.like(y));
                let (dgain, dshift) = (self.whole_gradient(Some(gain)), self.whole_gradient(Some(shift)));
                let dbias = self.whole_gradient(bias);
                self.push(Instruction::NormBackward {
                    dout,
                    normalized,
                    scale,
                    gain,
                    dropout,
                    after,
                    dv,
                    dy,
                    dgain,
                    dshift,
                    dbias,
                });
                if let Some(residual) = residual
                    && self.gradients.get(&self.root(residual)) != Some(&dv)
                {
                    self.give(residual, dv);
                }
                if let (Some(dy), true) = (dy, self.wants(y)) {
                    let root = self.root(y);
                    match self.gradients.contains_key(&root) {
                        true => self.give(y, dy),
                        false => {
                            self.gradients.insert(root, dy);
                        }
                    }
                }
            }
            Instruction::Activate { x, bias, out, activation } => {
                let Some(dout) = self.gradient(out) else { return };
                let fresh = !self.gradients.contains_key(&self.root(x));
                // The gradient of the output has no other reader: it is
                // overwritten by that of the input.
                let extents = self.extents(x);
                let dx = self.program.add_value(extents, Storage::InPlaceOf(dout), false);
                self.push(Instruction::ActivateBackward { dout, x, bias, dx, activation });
                if let Some(bias) = bias {
                    self.bias_gradient(dx, bias, 0);
                }
                if self.wants(x) && fresh {
                    let root = self.root(x);
                    self.gradients.insert(root, dx);
                } else {
                    self.give(x, dx);
                }
            }
            Instruction::Attention { qkv, heads, out, log_sums, dropout } => {
                let Some(dout) = self.gradient(out) else { return };
                let dqkv = self.like(qkv);
                self.push(Instruction::AttentionBackward { dout, qkv, log_sums, out, heads, dqkv, dropout });
                self.hand_over(qkv, dqkv);
            }
            Instruction::TakeRows { x, out, choice } => {
                let (Some(dout), true) = (self.gradient(out), self.wants(x)) else { return };
                let (dx, accumulate) = self.target(x);
                self.push(Instruction::TakeRowsBackward { dout, dx, choice, accumulate });
            }
            Instruction::Dropout { x, out, dropout } => {
                let Some(dout) = self.gradient(out) else { return };
                let dx = self.like(x);
                self.push(Instruction::Dropout { x: dout, out: dx, dropout });
                self.hand_over(x, dx);
            }
            Instruction::CrossEntropy { logits, ref labels, losses, log_sums } => {
                let Some(dlosses) = self.gradient(losses) else { return };
                let dlogits = self.like(logits);
                let labels = labels.clone();
                self.push(Instruction::CrossEntropyBackward { logits, labels, log_sums, dlosses, dlogits });
                self.hand_over(logits, dlogits);
            }
            Instruction::Copy { x, out, .. } => {
                if let Some(dout) = self.gradient(out) {
                    self.give(x, dout);
                }
            }
            Instruction::Unary { function, x, out } => {
                let Some(dy) = self.gradient(out) else { return };
                let dx = self.like(x);
                self.push(Instruction::UnaryBackward { function, x, y: out, dy, dx });
                self.hand_over(x, dx);
            }
            Instruction::Affine { x, factor, out, .. } => {
                let Some(dy) = self.gradient(out) else { return };
                let dx = self.like(x);
                self.push(Instruction::Affine { x: dy, factor, offset: 0.0, out: dx });
                self.hand_over(x, dx);
            }
            Instruction::Power { x, exponent, out } => {
                let Some(dy) = self.gradient(out) else { return };
                let slope = self.like(x);
                self.push(Instruction::Power { x, exponent: exponent - 1.0, out: slope });
                let scaled = self.like(x);
                self.push(Instruction::Affine { x: slope, factor: exponent, offset: 0.0, out: scaled });
                let dx = self.like(x);
                self.push(Instruction::Binary { function: Binary::Multiply, a: scaled, b: dy, out: dx });
                self.hand_over(x, dx);
            }
            Instruction::Binary { function, a, b, out } => self.binary(function, a, b, out),
            Instruction::Fold { fold: Fold::Sum, x, out, .. } => {
                let Some(dy) = self.gradient(out) else { return };
                // Broadcasting the sum's gradient: 0 x + dy.
                let zeros = self.like(x);
                self.push(Instruction::Fill { out: zeros, scalar: Scalar::Constant(0.0) });
                let dx = self.like(x);
                self.push(Instruction::Binary { function: Binary::Add, a: zeros, b: dy, out: dx });
                self.hand_over(x, dx);
            }
            Instruction::Permute { x, ref axes, out } => {
                let Some(dy) = self.gradient(out) else { return };
                let mut back = vec![0; axes.len()];
                for (place, &axis) in axes.iter().enumerate() {
                    back[axis] = place;
                }
                let dx = self.like(x);
                self.push(Instruction::Permute { x: dy, axes: back, out: dx });
                self.hand_over(x, dx);
            }
            Instruction::CopyRange { x, out, axis, start, to, .. } => {
                let (Some(dy), true) = (self.gradient(out), self.wants(x)) else { return };
                let (dx, accumulate) = self.target(x);
                if !accumulate {
                    self.push(Instruction::Fill { out: dx, scalar: Scalar::Constant(0.0) });
                }
                self.push(Instruction::CopyRange {
                    x: dy,
                    out: dx,
                    axis,
                    start: to,
                    to: start,
                    accumulate: true,
                });
            }
            Instruction::Matmul { a, b, out, .. } => {
                let Some(dy) = self.gradient(out) else { return };
                if self.wants(a) {
                    let (da, accumulate) = self.target(a);
                    self.push(Instruction::Matmul {
                        a: dy,
                        b,
                        out: da,
                        transpose: (false, true),
                        accumulate,
                    });
                }
                if self.wants(b) {
                    let a = self.again(a, earlier);
                    let (db, accumulate) = self.target(b);
                    self.push(Instruction::Matmul {
                        a,
                        b: dy,
                        out: db,
                        transpose: (true, false),
                        accumulate,
                    });
                }
            }
            Instruction::Rows { table, ref indices, out } => {
                let (Some(dout), true) = (self.gradient(out), self.wants(table)) else { return };
                let (dtable, accumulate) = self.target(table);
                self.push(Instruction::RowsBackward { dout, indices: indices.clone(), dtable, accumulate });
            }
            // These make no gradient, or are made by the reverse pass itself.
            _ => {}
        }
    }

    /// Makes a fresh gradient that of a value, without a copy where it is the first.
    fn hand_over(&mut self, value: ValueId, gradient: ValueId) {
        if !self.wants(value) {
            return;
        }
        let root = self.root(value);
        let first = !self.gradients.contains_key(&root) && !self.is_parameter(root);
        match first {
            true => {
                let gradient = self.shaped_like(gradient, root);
                self.gradients.insert(root, gradient);
            }
            false => self.give(value, gradient),
        }
    }

    fn binary(&mut self, function: Binary, a: ValueId, b: ValueId, out: ValueId) {
        let Some(dy) = self.gradient(out) else { return };
        let product = |reverse: &mut Self, function, x, y| {
            let result = reverse.like(out);
            reverse.push(Instruction::Binary { function, a: x, b: y, out: result });
            result
        };
        match function {
            Binary::Add => {
                self.give(a, dy);
                self.give(b, dy);
            }
            Binary::Subtract => {
                self.give(a, dy);
                if self.wants(b) {
                    let negative = self.like(out);
                    self.push(Instruction::Affine { x: dy, factor: -1.0, offset: 0.0, out: negative });
                    self.give(b, negative);
                }
            }
            Binary::Multiply => {
                if self.wants(a) {
                    let da = product(self, Binary::Multiply, dy, b);
                    self.give(a, da);
                }
                if self.wants(b) {
                    let db = product(self, Binary::Multiply, dy, a);
                    self.give(b, db);
                }
            }
            Binary::Divide => {
                let quotient = product(self, Binary::Divide, dy, b);
                self.give(a, quotient);
                if self.wants(b) {
                    // d(a / b) / db = -(a / b) / b.
                    let scaled = product(self, Binary::Multiply, quotient, out);
                    let negative = self.like(out);
                    self.push(Instruction::Affine { x: scaled, factor: -1.0, offset: 0.0, out: negative });
                    self.give(b, negative);
                }
            }
            Binary::Maximum | Binary::Minimum => {
                let larger = function == Binary::Maximum;
                for (winner, first, second) in [(a, a, b), (b, b, a)] {
                    if self.wants(winner) {
                        let share = self.like(out);
                        self.push(Instruction::Winner { a: first, b: second, dy, out: share, larger });
                        self.give(winner, share);
                    }
                }
            }
        }
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
