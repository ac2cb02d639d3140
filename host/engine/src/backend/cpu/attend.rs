//! Attention of a decoder, to another sequence, of one query a sequence, or with a
//! relative bias, as calls of the kernel.

use crate::backend::BackendError;
use crate::backend::cpu::context::Context;
use crate::kernels::attend::{self, Attention, BiasGradient, Gradients, Inputs, Saved};
use crate::kernels::recall::{self, Recalling};
use crate::kernels::relative::RelativeBias;
use crate::program::attend::{Attend, AttendBackward, AttendRecalled};
use crate::program::value::{Extent, ValueId};

impl<'a> Context<'a> {
    /// The first row of each sequence, of the encoder or of the decoder.
    fn starts(&self, value: ValueId) -> &'a [u32] {
        match self.program.value(value).extents.first() {
            Some(Extent::Targets) => &self.batch.target.starts,
            _ => &self.batch.starts,
        }
    }

    fn attend_settings(&self, attend: &Attend) -> Attention<'a> {
        let rows = |value: ValueId| self.program.value(value).extents[0];
        let query_starts = match (rows(attend.queries), attend.memory.map(rows)) {
            (Extent::Sequences, _) => self.sequence_starts,
            (_, Some(Extent::Tokens)) => self.batch.target.source_starts(),
            _ => self.starts(attend.queries),
        };
        Attention {
            query_starts,
            key_starts: self.starts(attend.memory.unwrap_or(attend.queries)),
            heads: attend.heads,
            head_dim: self.columns(attend.out) / attend.heads,
            scale: attend.scale,
            causal: attend.causal,
            bias: attend.bias.map(|(table, buckets)| RelativeBias { table: self.read(table), buckets }),
            dropout: self.mask(attend.dropout, attend.queries),
        }
    }

    fn attend_inputs(&self, attend: &Attend) -> Inputs<'a> {
        let queries = self.read(attend.queries);
        match attend.memory {
            Some(memory) => Inputs::Apart { queries, memory: self.read(memory) },
            None => Inputs::Joined(queries),
        }
    }

    pub(super) fn attend(&self, attend: &Attend) {
        let settings = self.attend_settings(attend);
        let (out, log_sums) = (self.write(attend.out), self.write(attend.log_sums));
        attend::forward(self.threads, out, log_sums, self.attend_inputs(attend), &settings);
    }

    pub(super) fn attend_recalled(&self, attend: &AttendRecalled) -> Result<(), BackendError> {
        let recall = self.batch.target.recall.as_ref();
        let recall =
            recall.ok_or_else(|| BackendError::Wrong("the batch is no step of a generation".into()))?;
        let recalling = Recalling {
            heads: attend.heads,
            head_dim: self.columns(attend.out) / attend.heads,
            scale: attend.scale,
            bias: attend.bias.map(|(table, buckets)| RelativeBias { table: self.read(table), buckets }),
            own: &recall.own,
            starts: &recall.starts,
            rows: &recall.rows,
        };
        let (out, memory) = (self.write(attend.out), self.write(attend.memory));
        recall::forward(self.threads, out, memory, self.read(attend.qkv), &recalling);
        Ok(())
    }

    pub(super) fn attend_backward(&self, backward: &AttendBackward) {
        let attend = &backward.forward;
        let settings = self.attend_settings(attend);
        let optional = |value: Option<ValueId>| value.map(|value| self.write(value));
        let (dqueries, dmemory) = (optional(backward.dqueries), optional(backward.dmemory));
        let gradients = match (attend.memory, dqueries) {
            (None, Some(dqkv)) => Gradients::Joined(dqkv),
            (_, queries) => Gradients::Apart { queries, memory: dmemory },
        };
        let bias = optional(backward.dbias).zip(optional(backward.partial));
        let bias = bias.map(|(table, partial)| BiasGradient { table, partial });
        let saved = Saved {
            dctx: self.read(backward.dout),
            inputs: self.attend_inputs(attend),
            lse: self.read(attend.log_sums),
        };
        attend::backward(self.threads, gradients, bias, saved, &settings);
    }
}
