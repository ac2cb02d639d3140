//! Attention of a decoder, to another sequence, of one query a sequence, or with a
//! relative bias, composed over padded arrays.

use std::borrow::Cow;

use candle_core::{D, DType, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::attention::{Padding, hiding};
use crate::batch::Recall;
use crate::kernels::relative::Buckets;
use crate::program::attend::{Attend, AttendBackward, AttendRecalled};
use crate::program::build::Program;
use crate::program::value::{Extent, ValueId};

type Result<T> = std::result::Result<T, BackendError>;

/// What both passes compute: padded queries, keys and values, probabilities and
/// the mask of their dropout.
struct Parts {
    queries: Padding,
    keys: Padding,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
    log_sums: Tensor,
    mask: Option<Tensor>,
    /// [longest queries * longest keys]: the bucket of each pair.
    buckets: Option<Tensor>,
}

/// [queries * keys]: 1 where the key stands behind the query's place.
pub(super) fn behind(queries: usize, keys: usize) -> Vec<u32> {
    (0..queries * keys).map(|pair| u32::from(pair % keys > pair / keys)).collect()
}

/// [queries * keys]: the bucket of the distance from the query to the key.
pub(super) fn by_distance(queries: usize, keys: usize, buckets: Buckets) -> Vec<u32> {
    let distance = |pair: usize| (pair % keys) as isize - (pair / keys) as isize;
    (0..queries * keys).map(|pair| buckets.of(distance(pair)) as u32).collect()
}

/// What the rows of a generation's step attend to, each [rows * longest]: rows of the
/// memory, 1 where there is none, and the distance's bucket.
pub(super) struct Recalled {
    longest: usize,
    rows: Vec<u32>,
    hidden: Vec<u32>,
    buckets: Vec<u32>,
}

impl Recalled {
    pub fn lists(self) -> [Vec<u32>; 3] {
        [self.rows, self.hidden, self.buckets]
    }
}

/// Buckets are all 0 where scores have no bias by them.
pub(super) fn recalled(recall: &Recall, buckets_of: Option<Buckets>) -> Recalled {
    let longest = recall.starts.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap_or(0);
    let (mut rows, mut hidden, mut buckets) = (Vec::new(), Vec::new(), Vec::new());
    for bounds in recall.starts.windows(2) {
        let count = bounds[1] - bounds[0];
        for place in 0..longest {
            let seen = place < count;
            rows.push(if seen { recall.rows[(bounds[0] + place) as usize] } else { 0 });
            hidden.push(u32::from(!seen));
            let distance = place as isize + 1 - count as isize;
            buckets.push(buckets_of.map_or(0, |buckets| buckets.of(distance) as u32));
        }
    }
    Recalled { longest: longest as usize, rows, hidden, buckets }
}

impl Candle {
    /// The batch's step of a generation.
    pub(super) fn recall(&self) -> Result<Recall> {
        let recall = self.batch.target.recall.clone();
        recall.ok_or_else(|| BackendError::Wrong("the batch is no step of a generation".into()))
    }

    /// The packing of sequences whose first rows these are, padded.
    pub(super) fn padded(&self, starts: &[u32], heads: usize, size: usize) -> Result<Padding> {
        Padding::new(starts, [heads, size], self.products, |list| self.indices(list))
    }

    /// The first row of each sequence, of the encoder or of the decoder.
    fn starts(&self, program: &Program, value: ValueId) -> &[u32] {
        match program.value(value).extents.first() {
            Some(Extent::Targets) => &self.batch.target.starts,
            _ => &self.batch.starts,
        }
    }

    /// The first rows of sequences of one row each.
    pub(super) fn one_each(&self) -> Vec<u32> {
        (0..=self.sizes.sequences as u32).collect()
    }

    /// The first rows of the sequences of queries, and of those of keys.
    pub(super) fn attend_starts(&self, program: &Program, attend: &Attend) -> (Cow<'_, [u32]>, &[u32]) {
        let rows = |value: ValueId| program.value(value).extents[0];
        let query_starts = match (rows(attend.queries), attend.memory.map(rows)) {
            (Extent::Sequences, _) => return (self.one_each().into(), &self.batch.starts),
            (_, Some(Extent::Tokens)) => self.batch.target.source_starts(),
            _ => self.starts(program, attend.queries),
        };
        (query_starts.into(), self.starts(program, attend.memory.unwrap_or(attend.queries)))
    }

    fn parts(&self, program: &Program, attend: &Attend) -> Result<Parts> {
        let width = program.value(attend.out).columns(&self.sizes);
        let size = width / attend.heads;
        let (query_starts, key_starts) = self.attend_starts(program, attend);
        let starts = (&*query_starts, key_starts);
        let queries = self.padded(starts.0, attend.heads, size)?;
        let keys = self.padded(starts.1, attend.heads, size)?;
        let columns = |x: &Tensor, first: usize| x.narrow(1, first, width)?.contiguous();
        let x = self.get(program, attend.queries)?;
        let (memory, first) = match attend.memory {
            Some(memory) => (self.get(program, memory)?, 0),
            None => (x.clone(), width),
        };
        let q = queries.pad(&columns(&x, 0)?)?;
        let (k, v) = (keys.pad(&columns(&memory, first)?)?, keys.pad(&columns(&memory, first + width)?)?);
        let mut scores = (self.products.of(&q, &k.transpose(2, 3)?)? * f64::from(attend.scale))?;
        scores = scores.broadcast_add(&keys.bias)?;
        let (rows, places) = (queries.longest, keys.longest);
        if attend.causal {
            let hidden = self.indices(behind(rows, places))?.reshape((rows, places))?;
            scores = scores.broadcast_add(&hiding(&hidden)?)?;
        }
        let mut numbers = None;
        if let Some((table, buckets)) = attend.bias {
            let indices = self.indices(by_distance(rows, places, buckets))?;
            let bias = self.get(program, table)?.index_select(&indices, 0)?;
            let bias = bias.t()?.contiguous()?.reshape((attend.heads, rows, places))?;
            scores = scores.broadcast_add(&bias)?;
            numbers = Some(indices);
        }
        let maximum = scores.max_keepdim(D::Minus1)?;
        let exponentials = scores.broadcast_sub(&maximum)?.exp()?;
        let sum = exponentials.sum_keepdim(D::Minus1)?;
        let log_sums = (sum.log()? + maximum)?;
        let p = exponentials.broadcast_div(&sum)?;
        let factors = |dropout| self.attention_factors(dropout, starts, attend.heads, [rows, places]);
        let mask = attend.dropout.map(factors);
        Ok(Parts { queries, keys, q, k, v, p, log_sums, mask: mask.transpose()?, buckets: numbers })
    }

    pub(super) fn attend(&mut self, program: &Program, attend: &Attend) -> Result<()> {
        let parts = self.parts(program, attend)?;
        let p = match &parts.mask {
            Some(mask) => (&parts.p * mask)?,
            None => parts.p.clone(),
        };
        let context = parts.queries.unpad(&self.products.of(&p, &parts.v)?)?;
        let sums = parts.queries.unpad_sums(&parts.log_sums)?;
        self.set(program, attend.log_sums, sums.flatten_all()?, false)?;
        self.set(program, attend.out, context, false)
    }

    pub(super) fn attend_recalled(&mut self, program: &Program, attend: &AttendRecalled) -> Result<()> {
        let recall = self.recall()?;
        let width = program.value(attend.out).columns(&self.sizes);
        let (queries, size) = (recall.own.len(), width / attend.heads);
        let qkv = self.get(program, attend.qkv)?;
        let memory = self.get(program, attend.memory)?;
        // The new rows stand behind all others: rows are given in order.
        let first = recall.own.first().map_or(0, |&row| row as usize);
        let new = qkv.narrow(1, width, 2 * width)?.contiguous()?;
        let memory = Tensor::cat(&[&memory.narrow(0, 0, first)?, &new], 0)?;
        self.set(program, attend.memory, memory.clone(), false)?;
        let Recalled { longest, rows, hidden, buckets } =
            recalled(&recall, attend.bias.map(|(_, buckets)| buckets));
        let seen = memory.index_select(&self.indices(rows)?, 0)?;
        let heads = (queries, longest, attend.heads, size);
        let part = |first: usize| -> Result<Tensor> {
            let part = seen.narrow(1, first, width)?.contiguous()?.reshape(heads)?;
            Ok(part.transpose(1, 2)?.contiguous()?)
        };
        let (k, v) = (part(0)?, part(width)?);
        let q = qkv.narrow(1, 0, width)?.contiguous()?.reshape((queries, attend.heads, 1, size))?;
        let scores = (self.products.of(&q, &k.transpose(2, 3)?)? * f64::from(attend.scale))?;
        let hidden = self.indices(hidden)?.reshape((queries, 1, 1, longest))?;
        let mut scores = scores.broadcast_add(&hiding(&hidden)?)?;
        if let Some((table, _)) = attend.bias {
            let bias = self.get(program, table)?.index_select(&self.indices(buckets)?, 0)?;
            let bias = bias.reshape((queries, longest, attend.heads))?.transpose(1, 2)?.contiguous()?;
            scores = (scores + bias.unsqueeze(2)?)?;
        }
        let exponentials = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let p = exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?;
        let out = self.products.of(&p, &v)?.reshape((queries, width))?;
        self.set(program, attend.out, out, false)
    }

    pub(super) fn attend_backward(&mut self, program: &Program, backward: &AttendBackward) -> Result<()> {
        let (attend, products) = (&backward.forward, self.products);
        let Parts { queries, keys, q, k, v, p, mask, buckets, .. } = self.parts(program, attend)?;
        let dout = queries.pad(&self.get(program, backward.dout)?)?;
        let dropped = mask.as_ref().map_or(Ok(p.clone()), |mask| &p * mask)?;
        let dv = products.of(&dropped.transpose(2, 3)?, &dout)?;
        let mut dp = products.of(&dout, &v.transpose(2, 3)?)?;
        if let Some(mask) = &mask {
            dp = (dp * mask)?;
        }
        let inner = (&dp * &p)?.sum_keepdim(D::Minus1)?;
        let ds = (dp.broadcast_sub(&inner)? * &p)?;
        if let (Some(dbias), Some(buckets)) = (backward.dbias, buckets) {
            let by_pair = ds.sum(0)?.reshape((attend.heads, queries.longest * keys.longest))?;
            let zeros = Tensor::zeros(program.value(dbias).sizes(&self.sizes), DType::F32, &self.device)?;
            let table = zeros.index_add(&buckets, &by_pair.t()?.contiguous()?, 0)?;
            self.set(program, dbias, table, true)?;
        }
        let ds = (ds * f64::from(attend.scale))?;
        let dq = queries.unpad(&products.of(&ds, &k)?)?;
        let dk = keys.unpad(&products.of(&ds.transpose(2, 3)?, &q)?)?;
        let dv = keys.unpad(&dv)?;
        if attend.memory.is_none() {
            let joined = Tensor::cat(&[&dq, &dk, &dv], 1)?;
            return backward.dqueries.map_or(Ok(()), |dqkv| self.set(program, dqkv, joined, false));
        }
        if let Some(dqueries) = backward.dqueries {
            self.set(program, dqueries, dq, false)?;
        }
        match backward.dmemory {
            Some(dmemory) => self.set(program, dmemory, Tensor::cat(&[&dk, &dv], 1)?, false),
            None => Ok(()),
        }
    }
}
