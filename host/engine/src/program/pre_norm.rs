//! What models are made of that normalise before their sublayers: the root mean
//! square norm, the sum with the residual, and gated feed-forward layers.

use crate::program::backward::Reverse;
use crate::program::build::{Builder, Pending};
use crate::program::instruction::{Activation, Dropout, Instruction};
use crate::program::value::{Extent, Storage, ValueId};

impl Builder<'_> {
    /// The root mean square norm over the last axis; then `after`.
    pub fn rms_norm(&mut self, x: ValueId, gain: ValueId, epsilon: f32, after: Option<Dropout>) -> ValueId {
        let extents = self.extents(x);
        let rows = extents[..extents.len() - 1].to_vec();
        let scale = self.program.add_value(rows, Storage::Working, false);
        let out = self.working(extents, &[x, gain]);
        self.push(Instruction::RmsNorm { x, gain, epsilon, scale, out, after });
        out
    }

    /// dropout(y + bias) + residual.
    pub fn residual(&mut self, pending: Pending, residual: ValueId, dropout: Option<Dropout>) -> ValueId {
        let y = self.settle(pending);
        let y = self.dropped(y, dropout);
        let out = self.overwritable(y);
        let wants = self.wants(&[out, residual]);
        self.program.values[out.0 as usize].wants_gradient |= wants;
        self.push(Instruction::Copy { x: residual, out, accumulate: true });
        out
    }

    /// activation(first half of the columns) * second half.
    pub fn gate(&mut self, x: ValueId, activation: Activation) -> ValueId {
        let mut extents = self.extents(x);
        if let Some(Extent::Fixed(width)) = extents.last_mut() {
            *width /= 2;
        }
        let out = self.working(extents, &[x]);
        self.push(Instruction::Gate { x, out, activation });
        out
    }
}

impl Reverse<'_> {
    /// The reverse rule of the root mean square norm.
    pub(super) fn rms_norm(&mut self, instruction: &Instruction) {
        let Instruction::RmsNorm { x, gain, scale, out, after, .. } = *instruction else { return };
        let Some(dout) = self.gradient(out) else { return };
        let dgain = self.whole_gradient(Some(gain));
        let dx = self.like(x);
        self.push(Instruction::RmsNormBackward { dout, x, scale, gain, after, dx, dgain });
        self.hand_over(x, dx);
    }

    /// The reverse rule of the gate.
    pub(super) fn gate(&mut self, instruction: &Instruction) {
        let Instruction::Gate { x, out, activation } = *instruction else { return };
        let Some(dout) = self.gradient(out) else { return };
        let dx = self.like(x);
        self.push(Instruction::GateBackward { dout, x, dx, activation });
        self.hand_over(x, dx);
    }
}
