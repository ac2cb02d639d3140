//! Attention over packed sequences, composed: rows are put into a padded array,
//! [sequences, heads, longest, size], and taken out again.

use candle_core::{D, DType, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::products::Products;
use crate::backend::candle::relative::Relative;

/// The lists that lead from packed rows to padded ones and back.
pub(super) struct Spread {
    sequences: usize,
    pub longest: usize,
    /// [sequences * longest]: the packed row, or the row of zeros after the last.
    into: Vec<u32>,
    /// `[rows]`: the padded row.
    back: Vec<u32>,
    /// [sequences * longest]: 1 where there is no key.
    hidden: Vec<u32>,
}

impl Spread {
    /// Of sequences whose first rows these are, with the number of all rows.
    pub fn of(starts: &[u32]) -> Spread {
        let sequences = starts.len().saturating_sub(1);
        let longest = starts.windows(2).map(|range| (range[1] - range[0]) as usize).max().unwrap_or(0);
        let rows = starts.last().copied().unwrap_or(0);
        let (mut into, mut back) = (vec![rows; sequences * longest], Vec::with_capacity(rows as usize));
        let mut hidden = vec![1; sequences * longest];
        for (sequence, range) in starts.windows(2).enumerate() {
            for row in range[0]..range[1] {
                let place = sequence * longest + (row - range[0]) as usize;
                into[place] = row;
                hidden[place] = 0;
                back.push(place as u32);
            }
        }
        Spread { sequences, longest, into, back, hidden }
    }

    pub fn lists(self) -> [Vec<u32>; 3] {
        [self.into, self.back, self.hidden]
    }
}

/// What is added to scores: a large negative number where a list has 1, and nothing where
/// it has 0.
pub(super) fn hiding(list: &Tensor) -> Result<Tensor, BackendError> {
    Ok((list.to_dtype(DType::F32)? * -1e30)?)
}

/// A packing, with the indices that lead from packed rows to padded ones and
/// back.
pub struct Padding {
    sequences: usize,
    pub longest: usize,
    heads: usize,
    size: usize,
    /// [sequences * longest]: the packed row, or the row of zeros after the last.
    into: Tensor,
    /// `[rows]`: the padded row.
    back: Tensor,
    /// [sequences, 1, 1, longest]: 0 where there is a key, else a large negative number.
    pub bias: Tensor,
    scale: f64,
    /// Scores by relative positions, where there are any.
    relative: Option<Relative>,
    products: Products,
}

impl Padding {
    /// `list` puts a list on the device.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn new(
        starts: &[u32],
        [heads, size]: [usize; 2],
        products: Products,
        list: impl Fn(Vec<u32>) -> Result<Tensor, BackendError>,
    ) -> Result<Padding, BackendError> {
        let Spread { sequences, longest, into, back, hidden } = Spread::of(starts);
        Ok(Padding {
            sequences,
            longest,
            heads,
            size,
            into: list(into)?,
            back: list(back)?,
            bias: hiding(&list(hidden)?)?.reshape((sequences, 1, 1, longest))?,
            scale: 1.0 / (size as f64).sqrt(),
            relative: None,
            products,
        })
    }

    /// Gives the scores further ones by relative positions, and another scale.
    pub fn by_positions(&mut self, relative: Relative, scale: f32) {
        self.relative = Some(relative);
        self.scale = f64::from(scale);
    }

    /// [rows, heads * size] to [sequences, heads, longest, size].
    pub(super) fn pad(&self, x: &Tensor) -> Result<Tensor, BackendError> {
        let columns = self.heads * self.size;
        let zeros = Tensor::zeros((1, columns), x.dtype(), x.device())?;
        let padded = Tensor::cat(&[x, &zeros], 0)?.index_select(&self.into, 0)?;
        let padded = padded.reshape((self.sequences, self.longest, self.heads, self.size))?;
        Ok(padded.transpose(1, 2)?.contiguous()?)
    }

    /// The log-sum-exp of padded scores, [sequences, heads, longest, 1], as [heads, rows].
    pub(super) fn unpad_sums(&self, sums: &Tensor) -> Result<Tensor, BackendError> {
        let rows = sums.squeeze(3)?.transpose(0, 1)?.contiguous()?;
        Ok(rows.reshape((self.heads, self.sequences * self.longest))?.index_select(&self.back, 1)?)
    }

    /// The way back.
    pub(super) fn unpad(&self, x: &Tensor) -> Result<Tensor, BackendError> {
        let rows = x.transpose(1, 2)?.contiguous()?;
        let rows = rows.reshape((self.sequences * self.longest, self.heads * self.size))?;
        Ok(rows.index_select(&self.back, 0)?)
    }

    /// Queries, keys and values, padded.
    fn parts(&self, qkv: &Tensor) -> Result<[Tensor; 3], BackendError> {
        let columns = self.heads * self.size;
        let part = |number: usize| self.pad(&qkv.narrow(1, number * columns, columns)?.contiguous()?);
        Ok([part(0)?, part(1)?, part(2)?])
    }

    fn probabilities(&self, q: &Tensor, k: &Tensor) -> Result<(Tensor, Tensor), BackendError> {
        let scores = self.products.of(q, &k.transpose(2, 3)?)?;
        let scores = match &self.relative {
            Some(relative) => relative.scores(scores, q, k)?,
            None => scores,
        };
        let scores = (scores * self.scale)?.broadcast_add(&self.bias)?;
        let maximum = scores.max_keepdim(D::Minus1)?;
        let exponentials = scores.broadcast_sub(&maximum)?.exp()?;
        let sum = exponentials.sum_keepdim(D::Minus1)?;
        let log_sums = (sum.log()? + maximum)?;
        Ok((exponentials.broadcast_div(&sum)?, log_sums))
    }

    /// The context, [rows, heads * size], and the scores' log-sum-exp.
    pub fn forward(&self, qkv: &Tensor, mask: Option<&Tensor>) -> Result<(Tensor, Tensor), BackendError> {
        let [q, k, v] = self.parts(qkv)?;
        let (mut p, log_sums) = self.probabilities(&q, &k)?;
        if let Some(mask) = mask {
            p = (p * mask)?;
        }
        Ok((self.unpad(&self.products.of(&p, &v)?)?, self.unpad_sums(&log_sums)?))
    }

    /// The gradient of queries, keys and values, [rows, 3 * heads * size], and that
    /// of positions.
    pub fn backward(
        &self,
        dout: &Tensor,
        qkv: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>), BackendError> {
        let [q, k, v] = self.parts(qkv)?;
        let dout = self.pad(dout)?;
        let (p, _) = self.probabilities(&q, &k)?;
        let dropped = mask.map_or(Ok(p.clone()), |mask| &p * mask)?;
        let dv = self.products.of(&dropped.transpose(2, 3)?, &dout)?;
        let mut dp = self.products.of(&dout, &v.transpose(2, 3)?)?;
        if let Some(mask) = mask {
            dp = (dp * mask)?;
        }
        let inner = (&dp * &p)?.sum_keepdim(D::Minus1)?;
        let ds = ((dp.broadcast_sub(&inner)? * p)? * self.scale)?;
        let mut dq = self.products.of(&ds, &k)?;
        let mut dk = self.products.of(&ds.transpose(2, 3)?, &q)?;
        let mut of_positions = None;
        if let Some(relative) = &self.relative {
            let [more_q, more_k, positions] = relative.backward(&ds, &q, &k)?;
            (dq, dk) = ((dq + more_q)?, (dk + more_k)?);
            of_positions = Some(positions);
        }
        Ok((Tensor::cat(&[self.unpad(&dq)?, self.unpad(&dk)?, self.unpad(&dv)?], 1)?, of_positions))
    }
}
