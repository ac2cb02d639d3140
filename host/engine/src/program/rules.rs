//! The rules of the reverse pass: for each instruction of the forward pass, the
//! instructions that carry its output's gradient to its inputs.

use host_ir::graph::Binary;

use crate::program::backward::Reverse;
use crate::program::instruction::{Fold, Instruction, Scalar};
use crate::program::value::{Storage, ValueId};

impl Reverse<'_> {
    pub(super) fn step(&mut self, instruction: &Instruction, earlier: &[Instruction]) {
        match *instruction {
            Instruction::Embed { word, factor, padding, position, token_type, prompt, out } => {
                let Some(gradient) = self.gradient(out) else { return };
                let prompt = self.whole_gradient(prompt);
                let word = self.whole_gradient(Some(word));
                let position = self.whole_gradient(position);
                let token_type = self.whole_gradient(token_type);
                self.push(Instruction::EmbedBackward {
                    gradient,
                    word,
                    factor,
                    padding,
                    position,
                    token_type,
                    prompt,
                });
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
            Instruction::Activate { x, bias, out, activation, slope } => {
                let Some(dout) = self.gradient(out) else { return };
                let fresh = !self.gradients.contains_key(&self.root(x));
                // The gradient of the output has no other reader: it is
                // overwritten by that of the input.
                let extents = self.extents(x);
                let dx = self.program.add_value(extents, Storage::InPlaceOf(dout), false);
                self.push(Instruction::ActivateBackward { dout, x, bias, dx, activation, slope });
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
            Instruction::Attention { qkv, heads, out, log_sums, dropout, .. } => {
                let Some(dout) = self.gradient(out) else { return };
                let dqkv = self.like(qkv);
                let kept = self.keep_probabilities(earlier.len(), heads);
                self.push(Instruction::AttentionBackward { dout, qkv, log_sums, kept, heads, dqkv, dropout });
                self.hand_over(qkv, dqkv);
            }
            Instruction::Attend(attend) => self.attend(attend),
            Instruction::Absorbed(absorbed) => self.absorbed(absorbed),
            Instruction::RmsNorm { .. } => self.rms_norm(instruction),
            Instruction::Gate { .. } => self.gate(instruction),
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
                // Logits are large where classes are a vocabulary: their gradient is
                // written over them if nobody has still to read them.
                let dlogits = match self.is_working(logits) && self.program.unread(logits, earlier) {
                    true => {
                        let extents = self.extents(logits);
                        self.program.add_value(extents, Storage::InPlaceOf(logits), false)
                    }
                    false => self.like(logits),
                };
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
            Instruction::Gather { table, places, axes, out } => {
                let (Some(dout), true) = (self.gradient(out), self.wants(table)) else { return };
                let (dtable, accumulate) = self.target(table);
                self.push(Instruction::GatherBackward { dout, places, axes, dtable, accumulate });
            }
            Instruction::Shift { x, by, out } => {
                let Some(dy) = self.gradient(out) else { return };
                let dx = self.like(x);
                self.push(Instruction::Shift { x: dy, by: -by, out: dx });
                self.hand_over(x, dx);
            }
            // Others make no gradient, or are made by the reverse pass itself.
            _ => self.relative(instruction),
        }
    }

    /// Makes a fresh gradient that of a value, without a copy where it is the first.
    pub(super) fn hand_over(&mut self, value: ValueId, gradient: ValueId) {
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
}
