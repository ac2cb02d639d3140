//! Instructions of attention by the kernels of `attention.rs`.

use candle_core::Tensor;

use super::attention::{BUCKETS, Biases, Operands, Packed, Sequences, Shape, longest, tiles};
use super::launch::Own;
use super::numbers::Mask;
use crate::backend::BackendError;
use crate::backend::candle::copies::Layout;
use crate::backend::candle::{Candle, masks};
use crate::kernels::relative::Buckets;
use crate::program::attend::{Attend, AttendBackward};
use crate::program::build::Program;
use crate::program::instruction::Dropout;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

/// By distance from a query to a key, from the least on: its bucket.
fn by_distance(longest: [usize; 2], buckets: Buckets) -> Vec<u32> {
    let [queries, keys] = longest.map(|longest| longest as isize);
    (1 - queries..keys).map(|distance| buckets.of(distance) as u32).collect()
}

impl Candle {
    /// The mask of a dropout at this step, as kernels take it.
    pub(super) fn own_mask(&self, dropout: Option<Dropout>) -> Option<Mask> {
        dropout.and_then(|dropout| masks::mask(&self.step, dropout)).map(Mask::from)
    }

    /// The packing of the batch for attention of `heads` over a value's columns; none
    /// where there is no kernel for it.
    fn packed(
        &self,
        program: &Program,
        out: ValueId,
        heads: usize,
        dropout: Option<Dropout>,
    ) -> Result<Option<(Own, Packed)>> {
        let size = program.value(out).columns(&self.sizes) / heads;
        let Some(own) = self.own.clone() else { return Ok(None) };
        if !own.attends(size, false)? {
            return Ok(None);
        }
        let scale = (1.0 / (size as f64).sqrt()) as f32;
        let shape =
            Shape { heads, size, scale, causal: false, side_by_side: true, mask: self.own_mask(dropout) };
        let starts = self.batch.starts.as_slice();
        let sequences = Sequences { queries: starts, keys: starts, places: &self.batch.places };
        Ok(Some((own, Packed::new(sequences, shape, None, |list| self.indices(list))?)))
    }

    /// Attention within sequences by its kernel; answers whether there is one.
    pub(super) fn own_attention(
        &mut self,
        program: &Program,
        [qkv, out, log_sums]: [ValueId; 3],
        heads: usize,
        dropout: Option<Dropout>,
    ) -> Result<bool> {
        let Some((own, packed)) = self.packed(program, out, heads, dropout)? else { return Ok(false) };
        let qkv = self.peek(program, qkv)?;
        let [context, sums] = own.attention(&packed, [&qkv; 2], self.stored(out))?;
        self.set(program, log_sums, sums, false)?;
        self.set(program, out, context, false)?;
        Ok(true)
    }

    /// Its gradient, likewise.
    pub(super) fn own_attention_backward(
        &mut self,
        program: &Program,
        [dout, qkv, log_sums, dqkv]: [ValueId; 4],
        heads: usize,
        dropout: Option<Dropout>,
    ) -> Result<bool> {
        let Some((own, packed)) = self.packed(program, dout, heads, dropout)? else { return Ok(false) };
        let [dout, qkv, log_sums] = [dout, qkv, log_sums].map(|value| self.peek(program, value));
        let (dout, qkv, log_sums) = (dout?, qkv?, log_sums?);
        let operands = Operands { queries: &qkv, memory: &qkv, dout: &dout, log_sums: &log_sums };
        let gradient = own.attention_backward(&packed, &operands, false)?.queries;
        self.set_wanted_rows(program, dqkv, gradient.reshape(qkv.shape())?)?;
        Ok(true)
    }

    /// Whether kernels take an attention, but for that of one query a sequence, which has some
    /// of its own.
    pub(super) fn attends(&self, own: &Own, program: &Program, attend: &Attend) -> Result<bool> {
        let size = program.value(attend.out).columns(&self.sizes) / attend.heads;
        let few = match attend.bias {
            Some((_, buckets)) => buckets.count <= BUCKETS && own.gives_bias_gradients()?,
            None => true,
        };
        Ok(few && own.attends(size, attend.causal || attend.bias.is_some())?)
    }

    /// The lists that these kernels take, backward or forward.
    pub(super) fn want_to_attend_by_tiles(&self, program: &Program, attend: &Attend, lists: &mut Layout) {
        let (queries, keys) = self.attend_starts(program, attend);
        if let Some((_, buckets)) = attend.bias {
            lists.add(by_distance([longest(&queries), longest(keys)], buckets));
        }
        lists.extend([tiles(&queries), tiles(keys)]);
        lists.extend([queries.to_vec(), keys.to_vec(), self.batch.places.clone()]);
    }

    /// The packing of an attention.
    fn packed_to_attend(&self, program: &Program, attend: &Attend) -> Result<Packed> {
        let (queries, keys) = self.attend_starts(program, attend);
        let biases = match attend.bias {
            Some((table, buckets)) => {
                let longest = [longest(&queries), longest(keys)];
                let list = self.indices(by_distance(longest, buckets))?;
                let by_distance = self.peek(program, table)?.index_select(&list, 0)?;
                let before = longest[0].saturating_sub(1);
                Some(Biases { by_distance, buckets: list, count: buckets.count, before })
            }
            None => None,
        };
        let shape = Shape {
            heads: attend.heads,
            size: program.value(attend.out).columns(&self.sizes) / attend.heads,
            scale: attend.scale,
            causal: attend.causal,
            side_by_side: attend.memory.is_none(),
            mask: self.own_mask(attend.dropout),
        };
        let sequences = Sequences { queries: &queries, keys, places: &self.batch.places };
        Packed::new(sequences, shape, biases, |list| self.indices(list))
    }

    /// Queries, and keys and values, as they are stored.
    fn attended(&self, program: &Program, attend: &Attend) -> Result<[Tensor; 2]> {
        let memory = attend.memory.unwrap_or(attend.queries);
        Ok([self.peek(program, attend.queries)?, self.peek(program, memory)?])
    }

    /// Attention of a decoder, to another sequence or with a bias, by its kernels; answers
    /// whether there are any.
    pub(super) fn own_attend_by_tiles(
        &mut self,
        own: &Own,
        program: &Program,
        attend: &Attend,
    ) -> Result<bool> {
        if !self.attends(own, program, attend)? {
            return Ok(false);
        }
        let packed = self.packed_to_attend(program, attend)?;
        let [queries, memory] = self.attended(program, attend)?;
        let [context, sums] = own.attention(&packed, [&queries, &memory], self.stored(attend.out))?;
        self.set(program, attend.log_sums, sums, false)?;
        self.set(program, attend.out, context, false)?;
        Ok(true)
    }

    /// Its gradients, likewise.
    pub(super) fn own_attend_backward_by_tiles(
        &mut self,
        own: &Own,
        program: &Program,
        backward: &AttendBackward,
    ) -> Result<bool> {
        let attend = &backward.forward;
        if !self.attends(own, program, attend)? {
            return Ok(false);
        }
        let packed = self.packed_to_attend(program, attend)?;
        let [queries, memory] = self.attended(program, attend)?;
        let (dout, log_sums) = (self.peek(program, backward.dout)?, self.peek(program, attend.log_sums)?);
        let operands = Operands { queries: &queries, memory: &memory, dout: &dout, log_sums: &log_sums };
        let gradients = own.attention_backward(&packed, &operands, backward.dmemory.is_some())?;
        if let Some(dbias) = backward.dbias
            && let Some(gradient) = own.bias_gradient(&packed, &operands, &gradients)?
        {
            self.set(program, dbias, gradient, true)?;
        }
        if let Some(dqueries) = backward.dqueries {
            self.set(program, dqueries, gradients.queries, false)?;
        }
        if let (Some(dmemory), Some(gradient)) = (backward.dmemory, gradients.memory) {
            self.set(program, dmemory, gradient, false)?;
        }
        Ok(true)
    }
}
