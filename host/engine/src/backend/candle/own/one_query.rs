//! Attention of one query a sequence, by kernels in which a block takes a head of a sequence.

use candle_core::Tensor;

use super::arrays::Made;
use super::kernels::{ONE_QUERY, ONE_QUERY_BACKWARD};
use super::launch::Own;
use super::numbers::OneQuery;
use crate::backend::BackendError;
use crate::backend::candle::{ATTENTION_COLUMNS, Candle};
use crate::program::attend::{Attend, AttendBackward};
use crate::program::build::Program;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// The numbers of an attention of one query a sequence, and its keys and values; none
    /// where there is no kernel for it.
    pub(super) fn one_query(&self, program: &Program, attend: &Attend) -> Option<(OneQuery, ValueId)> {
        let memory = attend.memory_of_one_query(program)?;
        let size = program.value(attend.out).columns(&self.sizes) / attend.heads;
        if size > ATTENTION_COLUMNS {
            return None;
        }
        let mask = self.own_mask(attend.dropout);
        let numbers = OneQuery {
            rows: (self.sizes.sequences * attend.heads) as i64,
            heads: attend.heads as i64,
            size: size as i64,
            mask: mask.unwrap_or_default(),
            scale: attend.scale,
            has_mask: i32::from(mask.is_some()),
        };
        Some((numbers, memory))
    }

    /// Queries, keys and values, first rows of sequences and their places.
    fn one_query_inputs(&self, program: &Program, [queries, memory]: [ValueId; 2]) -> Result<[Tensor; 4]> {
        Ok([
            self.peek(program, queries)?,
            self.peek(program, memory)?,
            self.indices(self.batch.starts.clone())?,
            self.indices(self.batch.places.clone())?,
        ])
    }

    fn made_for(&self, program: &Program, value: Option<ValueId>, otherwise: ValueId) -> Made {
        let count = value.map_or(0, |value| program.value(value).elements(&self.sizes));
        Made { count, dtype: self.stored(program.root(value.unwrap_or(otherwise))) }
    }

    /// The attention by its kernel; answers whether there is one.
    pub(super) fn own_attend_from_one(
        &mut self,
        own: &Own,
        program: &Program,
        attend: &Attend,
    ) -> Result<bool> {
        let Some((numbers, memory)) = self.one_query(program, attend) else { return Ok(false) };
        let inputs = self.one_query_inputs(program, [attend.queries, memory])?;
        let outputs = [attend.out, attend.log_sums].map(|value| self.made_for(program, Some(value), value));
        let [context, sums] = own.run(&ONE_QUERY, numbers, &inputs.each_ref().map(Some), outputs)?;
        self.set(program, attend.log_sums, sums, false)?;
        self.set(program, attend.out, context, false)?;
        Ok(true)
    }

    /// Its gradient, likewise.
    pub(super) fn own_attend_backward_from_one(
        &mut self,
        own: &Own,
        program: &Program,
        backward: &AttendBackward,
    ) -> Result<bool> {
        let attend = &backward.forward;
        let Some((numbers, memory)) = self.one_query(program, attend) else { return Ok(false) };
        let inputs = self.one_query_inputs(program, [attend.queries, memory])?;
        let (dout, log_sums) = (self.peek(program, backward.dout)?, self.peek(program, attend.log_sums)?);
        let inputs = [&inputs.each_ref()[..], &[&dout, &log_sums]].concat();
        let inputs: Vec<Option<&Tensor>> = inputs.into_iter().map(Some).collect();
        let wanted = [backward.dqueries, backward.dmemory];
        let outputs = wanted.map(|value| self.made_for(program, value, attend.queries));
        let made = own.run(&ONE_QUERY_BACKWARD, numbers, &inputs, outputs)?;
        for (value, gradient) in wanted.into_iter().zip(made) {
            if let Some(value) = value {
                self.set(program, value, gradient, false)?;
            }
        }
        Ok(true)
    }
}
