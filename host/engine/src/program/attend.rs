//! Attention beyond an encoder's own: of a decoder to what it has said, to
//! another sequence, of one query a sequence, and with a bias by the distance.

use crate::kernels::relative::Buckets;
use crate::program::access::Access;
use crate::program::backward::Reverse;
use crate::program::build::{Builder, Program};
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::{Extent, Storage, ValueId};

/// Softmax attention (Vaswani et al. 2017, eq. 1) within each sequence of the
/// encoder or of the decoder, from each of the decoder to its one of the encoder, or
/// from one query of each sequence to all its keys: softmax(scale q k^T + bias) v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Queries, [rows, heads * size]; without a memory, queries, keys and values side
    /// by side, [rows, 3 * heads * size].
    pub queries: ValueId,
    /// Keys and values side by side, [rows, 2 * heads * size].
    pub memory: Option<ValueId>,
    /// A relative position bias, [buckets, heads].
    pub bias: Option<(ValueId, Buckets)>,
    pub heads: usize,
    pub scale: f32,
    /// Whether a query sees no key behind its own place.
    pub causal: bool,
    pub out: ValueId,
    /// The scores' log-sum-exp, [heads, rows].
    pub log_sums: ValueId,
    pub dropout: Option<Dropout>,
}

/// Gradients of [`Attend`]; probabilities are computed again. That of the bias is
/// added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendBackward {
    pub forward: Attend,
    pub dout: ValueId,
    /// Of queries, keys and values side by side where there is no memory.
    pub dqueries: Option<ValueId>,
    pub dmemory: Option<ValueId>,
    pub dbias: Option<ValueId>,
    /// Working memory of the bias' gradient, [sequences, heads * buckets].
    pub partial: Option<ValueId>,
}

/// Softmax attention of each row of the decoder to the rows of the memory that the
/// batch names for it; its own key and value are put there first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendRecalled {
    /// Queries, keys and values side by side, [rows, 3 * heads * size].
    pub qkv: ValueId,
    /// Keys and values of all steps, [remembered, 2 * heads * size].
    pub memory: ValueId,
    /// A relative position bias, [buckets, heads].
    pub bias: Option<(ValueId, Buckets)>,
    pub heads: usize,
    pub scale: f32,
    pub out: ValueId,
}

impl Attend {
    /// Whether each sequence has one query.
    pub fn has_one_query(&self, program: &Program) -> bool {
        program.value(self.queries).extents[0] == Extent::Sequences
    }

    /// The keys and values of the encoder's rows that one query a sequence sees all of,
    /// without a bias; none of any other attention.
    pub fn memory_of_one_query(&self, program: &Program) -> Option<ValueId> {
        let plain = self.has_one_query(program) && self.bias.is_none() && !self.causal;
        self.memory.filter(|&memory| plain && program.value(memory).extents[0] == Extent::Tokens)
    }

    /// All values that the instruction touches.
    pub fn accesses(&self) -> Vec<(ValueId, Access)> {
        let read = [Some(self.queries), self.memory, self.bias.map(|(table, _)| table)];
        let read = read.into_iter().flatten().map(|value| (value, Access::Read));
        read.chain([(self.out, Access::Write), (self.log_sums, Access::Write)]).collect()
    }
}

impl AttendBackward {
    /// All values that the instruction touches.
    pub fn accesses(&self) -> Vec<(ValueId, Access)> {
        let Attend { queries, memory, bias, log_sums, .. } = self.forward;
        let read = [Some(queries), memory, bias.map(|(table, _)| table), Some(log_sums), Some(self.dout)];
        let written = [self.dqueries, self.dmemory, self.partial];
        let lists = [(Access::Read, &read[..]), (Access::Write, &written), (Access::Update, &[self.dbias])];
        lists
            .into_iter()
            .flat_map(|(access, values)| values.iter().flatten().map(move |&value| (value, access)))
            .collect()
    }
}

/// What a model says of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub heads: usize,
    /// Size of all heads together.
    pub size: usize,
    pub scale: f32,
    pub causal: bool,
    pub dropout: Option<Dropout>,
}

impl Builder<'_> {
    /// Attention over queries, keys and values side by side, or over queries and the
    /// keys and values of a memory.
    pub fn attend(
        &mut self,
        queries: ValueId,
        memory: Option<ValueId>,
        bias: Option<(ValueId, Buckets)>,
        shape: AttentionShape,
    ) -> ValueId {
        let AttentionShape { heads, size, scale, causal, dropout } = shape;
        let rows = self.program.value(queries).extents[0];
        let inputs: Vec<ValueId> =
            [Some(queries), memory, bias.map(|(table, _)| table)].into_iter().flatten().collect();
        let out = self.working(vec![rows, Extent::Fixed(size)], &inputs);
        let rows_times_heads = match rows {
            Extent::Targets => Extent::TargetsTimes(heads),
            _ => Extent::TokensTimes(heads),
        };
        let log_sums = self.program.add_value(vec![rows_times_heads], Storage::Working, false);
        self.push(Instruction::Attend(Attend {
            queries,
            memory,
            bias,
            heads,
            scale,
            causal,
            out,
            log_sums,
            dropout,
        }));
        out
    }
}

impl Builder<'_> {
    /// Memory that outlives a run of the program.
    pub fn kept(&mut self, slot: usize, rows: Extent, columns: usize) -> ValueId {
        self.program.add_value(vec![rows, Extent::Fixed(columns)], Storage::Kept { slot }, false)
    }

    /// Puts a value of this program into memory that outlives it.
    pub fn keep(&mut self, value: ValueId, slot: usize) {
        let root = self.program.root(value);
        self.program.values[root.0 as usize].storage = Storage::Kept { slot };
    }

    /// Attention of each row of the decoder to all that its sequence has said.
    pub fn attend_recalled(
        &mut self,
        qkv: ValueId,
        memory: ValueId,
        bias: Option<(ValueId, Buckets)>,
        shape: AttentionShape,
    ) -> ValueId {
        let AttentionShape { heads, size, scale, .. } = shape;
        let out = self.working(vec![Extent::Targets, Extent::Fixed(size)], &[qkv]);
        self.push(Instruction::AttendRecalled(AttendRecalled { qkv, memory, bias, heads, scale, out }));
        out
    }
}

impl Reverse<'_> {
    /// The reverse rule of [`Attend`].
    pub(super) fn attend(&mut self, forward: Attend) {
        let Some(dout) = self.gradient(forward.out) else { return };
        let dqueries = self.wants(forward.queries).then(|| self.like(forward.queries));
        let dmemory = forward.memory.filter(|&memory| self.wants(memory)).map(|memory| self.like(memory));
        let dbias = self.whole_gradient(forward.bias.map(|(table, _)| table));
        let partial = dbias.and(forward.bias).map(|(_, buckets)| {
            let extents = vec![Extent::Sequences, Extent::Fixed(forward.heads * buckets.count)];
            self.program.add_value(extents, Storage::Working, false)
        });
        // Side by side, the gradient is written whole although nobody may want it.
        let dqueries = match (dqueries, forward.memory) {
            (None, None) => Some(self.like(forward.queries)),
            (dqueries, _) => dqueries,
        };
        self.push(Instruction::AttendBackward(AttendBackward {
            forward,
            dout,
            dqueries,
            dmemory,
            dbias,
            partial,
        }));
        if let Some(dqueries) = dqueries {
            self.hand_over(forward.queries, dqueries);
        }
        if let (Some(memory), Some(dmemory)) = (forward.memory, dmemory) {
            self.hand_over(memory, dmemory);
        }
    }
}
