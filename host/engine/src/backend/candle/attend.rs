//! Attention of a decoder, to another sequence, or with a relative bias, composed
//! over padded arrays.

use candle_core::{D, DType, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::attention::Padding;
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

impl Candle {
    /// The first row of each sequence, of the encoder or of the decoder.
    fn starts(&self, program: &Program, value: ValueId) -> &[u32] {
        match program.value(value).extents.first() {
            Some(Extent::Targets) => &self.batch.target.starts,
            _ => &self.batch.starts,
        }
    }

    fn parts(&self, program: &Program, attend: &Attend) -> Result<Parts> {
        let width = program.value(attend.out).columns(&self.sizes);
        let size = width / attend.heads;
        let query_starts = match attend.memory.map(|memory| program.value(memory).extents[0]) {
            Some(Extent::Tokens) => self.batch.target.source_starts(),
            _ => self.starts(program, attend.queries),
        };
        let key_starts = self.starts(program, attend.memory.unwrap_or(attend.queries));
        let queries = Padding::new(query_starts, attend.heads, size, (&self.device, self.products))?;
        let keys = Padding::new(key_starts, attend.heads, size, (&self.device, self.products))?;
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
            let hidden = |pair: usize| if pair % places > pair / places { -1e30f32 } else { 0.0 };
            let hidden: Vec<f32> = (0..rows * places).map(hidden).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(hidden, (rows, places), &self.device)?)?;
        }
        let mut numbers = None;
        if let Some((table, buckets)) = attend.bias {
            let bucket = |pair: usize| {
                let distance = (pair % places) as isize - (pair / places) as isize;
                buckets.of(distance) as u32
            };
            let indices = self.indices((0..rows * places).map(bucket).collect())?;
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
        let starts = (query_starts, key_starts);
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
        let recall = self.batch.target.recall.clone();
        let recall =
            recall.ok_or_else(|| BackendError::Wrong("the batch is no step of a generation".into()))?;
        let width = program.value(attend.out).columns(&self.sizes);
        let (queries, size) = (recall.own.len(), width / attend.heads);
        let qkv = self.get(program, attend.qkv)?;
        let memory = self.get(program, attend.memory)?;
        // The new rows stand behind all others: rows are given in order.
        let first = recall.own.first().map_or(0, |&row| row as usize);
        let new = qkv.narrow(1, width, 2 * width)?.contiguous()?;
        let memory = Tensor::cat(&[&memory.narrow(0, 0, first)?, &new], 0)?;
        self.set(program, attend.memory, memory.clone(), false)?;
        let longest = recall.starts.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap_or(0);
        let (mut rows, mut hidden, mut buckets) = (Vec::new(), Vec::new(), Vec::new());
        for bounds in recall.starts.windows(2) {
            let count = bounds[1] - bounds[0];
            for place in 0..longest {
                let seen = place < count;
                rows.push(if seen { recall.rows[(bounds[0] + place) as usize] } else { 0 });
                hidden.push(if seen { 0.0f32 } else { -1e30 });
                let distance = place as isize + 1 - count as isize;
                buckets.push(attend.bias.map_or(0, |(_, buckets)| buckets.of(distance) as u32));
            }
        }
        let longest = longest as usize;
        let seen = memory.index_select(&self.indices(rows)?, 0)?;
        let heads = (queries, longest, attend.heads, size);
        let part = |first: usize| -> Result<Tensor> {
            let part = seen.narrow(1, first, width)?.contiguous()?.reshape(heads)?;
            Ok(part.transpose(1, 2)?.contiguous()?)
        };
        let (k, v) = (part(0)?, part(width)?);
        let q = qkv.narrow(1, 0, width)?.contiguous()?.reshape((queries, attend.heads, 1, size))?;
        let scores = (self.products.of(&q, &k.transpose(2, 3)?)? * f64::from(attend.scale))?;
        let hidden = Tensor::from_vec(hidden, (queries, 1, 1, longest), &self.device)?;
        let mut scores = scores.broadcast_add(&hidden)?;
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
