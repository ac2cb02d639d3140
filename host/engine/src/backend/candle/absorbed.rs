//! Attention of one query a sequence without keys and values, composed over sequences
//! padded to the longest.

use candle_core::{D, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::attention::Padding;
use crate::program::absorb::{Absorbed, AbsorbedBackward};
use crate::program::build::Program;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

/// What both passes compute.
struct Parts {
    rows: Padding,
    /// [sequences, longest, inputs].
    x: Tensor,
    /// Projections by head, [heads, size, inputs].
    of_keys: Tensor,
    of_values: Tensor,
    /// The bias of the values, [heads, size].
    bias: Option<Tensor>,
    /// [sequences, heads, inputs].
    moved: Tensor,
    /// [sequences, heads, longest], and the factors of dropout.
    p: Tensor,
    mask: Option<Tensor>,
}

/// The first two axes, turned.
fn turned(x: &Tensor) -> Result<Tensor> {
    Ok(x.transpose(0, 1)?.contiguous()?)
}

impl Candle {
    /// A matrix [sequences, heads * size] by head, [heads, sequences, size].
    fn by_head(&self, program: &Program, value: ValueId, heads: usize) -> Result<Tensor> {
        let x = self.get(program, value)?;
        turned(&x.reshape((x.dim(0)?, heads, x.dim(1)? / heads))?)
    }

    fn absorbed_parts(&self, program: &Program, absorbed: &Absorbed) -> Result<Parts> {
        let (heads, inputs) = (absorbed.heads, program.value(absorbed.x).columns(&self.sizes));
        let hidden = program.value(absorbed.out).columns(&self.sizes);
        let rows = self.padded(&self.batch.starts, 1, inputs)?;
        let x = rows.pad(&self.get(program, absorbed.x)?)?.squeeze(1)?;
        let weight = self.weight(program, absorbed.weight)?.reshape((2, heads, hidden / heads, inputs))?;
        let (of_keys, of_values) = (weight.get(0)?, weight.get(1)?);
        let bias = absorbed.bias.map(|bias| -> Result<Tensor> {
            Ok(self.get(program, bias)?.reshape((2, heads, hidden / heads))?.get(1)?)
        });
        let queries = self.by_head(program, absorbed.queries, heads)?;
        let moved = (turned(&self.products.of(&queries, &of_keys)?)? * f64::from(absorbed.scale))?;
        let scores = self.products.of(&moved, &x.transpose(1, 2)?)?.broadcast_add(&rows.bias.squeeze(1)?)?;
        let exponentials = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let p = exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?;
        let mask = absorbed.dropout.map(|dropout| -> Result<Tensor> {
            let starts = (self.one_each(), self.batch.starts.as_slice());
            let factors = self.attention_factors(dropout, (&starts.0, starts.1), heads, [1, rows.longest])?;
            Ok(factors.squeeze(2)?)
        });
        let (bias, mask) = (bias.transpose()?, mask.transpose()?);
        Ok(Parts { rows, x, of_keys, of_values, bias, moved, p, mask })
    }

    pub(super) fn absorbed(&mut self, program: &Program, absorbed: &Absorbed) -> Result<()> {
        let Parts { x, of_values, bias, p, mask, .. } = self.absorbed_parts(program, absorbed)?;
        let dropped = mask.map_or(Ok(p.clone()), |mask| &p * mask)?;
        let means = turned(&self.products.of(&dropped, &x)?)?;
        let mut context = turned(&self.products.of(&means, &of_values.transpose(1, 2)?)?)?;
        if let Some(bias) = bias {
            let total = dropped.sum_keepdim(D::Minus1)?;
            context = (context + total.broadcast_mul(&bias.unsqueeze(0)?)?)?;
        }
        let sizes = program.value(absorbed.out).sizes(&self.sizes);
        self.set(program, absorbed.out, context.reshape(sizes)?, false)
    }

    pub(super) fn absorbed_backward(&mut self, program: &Program, backward: &AbsorbedBackward) -> Result<()> {
        let (absorbed, products) = (&backward.forward, self.products);
        let Parts { rows, x, of_keys, of_values, bias, moved, p, mask } =
            self.absorbed_parts(program, absorbed)?;
        let dout = self.by_head(program, backward.dout, absorbed.heads)?;
        let dmeans = turned(&products.of(&dout, &of_values)?)?;
        let mut dp = products.of(&dmeans, &x.transpose(1, 2)?)?;
        if let Some(bias) = bias {
            let of_total = dout.broadcast_mul(&bias.unsqueeze(1)?)?.sum_keepdim(D::Minus1)?;
            dp = dp.broadcast_add(&turned(&of_total)?)?;
        }
        let mut dropped = p.clone();
        if let Some(mask) = mask {
            (dp, dropped) = ((dp * &mask)?, (dropped * mask)?);
        }
        let inner = (&dp * &p)?.sum_keepdim(D::Minus1)?;
        let ds = (dp.broadcast_sub(&inner)? * p)?;
        if let Some((dx, adds)) = backward.dx {
            let of_means = products.of(&dropped.transpose(1, 2)?, &dmeans)?;
            let gradient = (of_means + products.of(&ds.transpose(1, 2)?, &moved)?)?;
            self.set(program, dx, rows.unpad(&gradient.unsqueeze(1)?)?, adds)?;
        }
        let Some(dqueries) = backward.dqueries else { return Ok(()) };
        let dmoved = turned(&products.of(&ds, &x)?)?;
        let gradient = turned(&products.of(&dmoved, &of_keys.transpose(1, 2)?)?)?;
        let sizes = program.value(dqueries).sizes(&self.sizes);
        self.set(program, dqueries, (gradient.reshape(sizes)? * f64::from(absorbed.scale))?, false)
    }
}
