//! Attention of one query a sequence without keys and values, as calls of the kernel.

use crate::backend::cpu::context::Context;
use crate::kernels::absorbed::{self, Gradients, Results, Saved};
use crate::program::absorb::{Absorbed, AbsorbedBackward};

impl<'a> Context<'a> {
    fn absorbed_settings(&self, absorbed: &Absorbed) -> absorbed::Absorbed<'a> {
        let hidden = self.columns(absorbed.out);
        absorbed::Absorbed {
            starts: &self.batch.starts,
            heads: absorbed.heads,
            head_dim: hidden / absorbed.heads,
            inputs: self.columns(absorbed.x),
            scale: absorbed.scale,
            weight: self.read(absorbed.weight),
            value_bias: absorbed.bias.map(|bias| &self.read(bias)[hidden..]),
            dropout: self.mask(absorbed.dropout, absorbed.queries),
        }
    }

    pub(super) fn absorbed(&self, absorbed: &Absorbed) {
        let results = Results {
            ctx: self.write(absorbed.out),
            moved: self.write(absorbed.moved),
            probabilities: self.write(absorbed.probabilities),
            means: self.write(absorbed.means),
        };
        let (queries, x) = (self.read(absorbed.queries), self.read(absorbed.x));
        absorbed::forward(self.threads, results, queries, x, &self.absorbed_settings(absorbed));
    }

    pub(super) fn absorbed_backward(&self, backward: &AbsorbedBackward) {
        let Absorbed { x, moved, probabilities, .. } = backward.forward;
        let gradients = Gradients {
            queries: backward.dqueries.map(|dqueries| self.write(dqueries)),
            x: backward.dx.map(|(dx, adds)| (self.write(dx), adds)),
            means: self.write(backward.dmeans),
            moved: self.write(backward.dmoved),
        };
        let saved = Saved {
            dctx: self.read(backward.dout),
            x: self.read(x),
            moved: self.read(moved),
            probabilities: self.read(probabilities),
        };
        absorbed::backward(self.threads, gradients, saved, &self.absorbed_settings(&backward.forward));
    }
}
