//! Instructions of relative positions as calls of their kernels.

use crate::backend::cpu::context::Context;
use crate::kernels::disentangled::{self, Disentangled};
use crate::program::instruction::{Dropout, Instruction};
use crate::program::relative::{Buckets, Terms};
use crate::program::value::ValueId;

/// Where each score finds its position.
struct Places {
    rows: Vec<u32>,
    terms: Terms,
}

impl Context<'_> {
    pub(super) fn relative(&self, instruction: &Instruction) {
        match *instruction {
            Instruction::ReachedRows { table, out, buckets } => {
                let (width, highest) = (self.columns(out), buckets.reached(self.batch.longest()).highest);
                let table = self.read(table);
                for (row, out) in self.write(out).chunks_exact_mut(width).enumerate() {
                    out.copy_from_slice(&table[(highest - row) * width..][..width]);
                }
            }
            Instruction::ReachedRowsBackward { dout, dtable, buckets } => {
                let (width, highest) = (self.columns(dout), buckets.reached(self.batch.longest()).highest);
                let dtable = self.write(dtable);
                for (row, dout) in self.read(dout).chunks_exact(width).enumerate() {
                    let sums = &mut dtable[(highest - row) * width..][..width];
                    sums.iter_mut().zip(dout).for_each(|(sum, gradient)| *sum += gradient);
                }
            }
            Instruction::Disentangled { qkv, positions, heads, buckets, terms, out, log_sums, dropout } => {
                let places = self.places(buckets, terms);
                let settings = self.disentangled(qkv, heads, &places, dropout);
                let inputs = (self.read(qkv), self.read(positions));
                disentangled::forward(self.threads, self.write(out), self.write(log_sums), inputs, &settings);
            }
            Instruction::DisentangledBackward {
                dout,
                qkv,
                positions,
                log_sums,
                heads,
                buckets,
                terms,
                dqkv,
                dpositions,
                dropout,
            } => {
                let places = self.places(buckets, terms);
                let settings = self.disentangled(qkv, heads, &places, dropout);
                let gradients = (self.write(dqkv), dpositions.map(|dpositions| self.write(dpositions)));
                let inputs = (self.read(qkv), self.read(positions));
                let (dout, log_sums) = (self.read(dout), self.read(log_sums));
                disentangled::backward(self.threads, gradients, dout, inputs, log_sums, &settings);
            }
            _ => {}
        }
    }

    fn places(&self, buckets: Buckets, terms: Terms) -> Places {
        Places { rows: buckets.places(self.batch.longest()), terms }
    }

    fn disentangled<'b>(
        &'b self,
        qkv: ValueId,
        heads: usize,
        places: &'b Places,
        dropout: Option<Dropout>,
    ) -> Disentangled<'b> {
        let mut attention = self.attention(qkv, heads, dropout);
        attention.scale = places.terms.scale(attention.head_dim);
        let hidden = heads * attention.head_dim;
        let terms = places.terms;
        Disentangled {
            attention,
            rows: &places.rows,
            queries_from: terms.position_to_content.then_some(0),
            keys_from: terms.content_to_position.then_some(if terms.position_to_content {
                hidden
            } else {
                0
            }),
            stride: hidden * terms.count() as usize,
        }
    }
}
