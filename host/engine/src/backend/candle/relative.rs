//! Scores by relative positions, composed: products with all positions, of which
//! each score gathers its own.

use candle_core::Tensor;

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::attention::Padding;
use crate::backend::candle::products::Products;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::relative::{Buckets, Terms};

type Result<T> = std::result::Result<T, BackendError>;

/// [longest * longest]: the row of positions for a query's place and a key's.
pub(super) fn index(buckets: Buckets, longest: usize) -> Vec<u32> {
    let places = buckets.places(longest);
    let pairs = (0..longest).flat_map(|query| (0..longest).map(move |key| key + longest - 1 - query));
    pairs.map(|place| places[place]).collect()
}

/// Queries and keys of positions, and which of them each score wants.
pub struct Relative {
    /// [heads, rows, size].
    queries: Option<Tensor>,
    keys: Option<Tensor>,
    /// [longest, longest]: the row for a query's place and a key's.
    index: Tensor,
    products: Products,
}

impl Relative {
    /// Of `positions` [rows, parts * heads * size], for sequences up to a length.
    fn new(
        positions: &Tensor,
        (heads, size): (usize, usize),
        longest: usize,
        (buckets, terms): (Buckets, Terms),
        products: Products,
        list: impl Fn(Vec<u32>) -> Result<Tensor>,
    ) -> Result<Relative> {
        let (rows, hidden) = (positions.dim(0)?, heads * size);
        let part = |number: usize| -> Result<Tensor> {
            let part = positions.narrow(1, number * hidden, hidden)?.contiguous()?;
            Ok(part.reshape((rows, heads, size))?.transpose(0, 1)?.contiguous()?)
        };
        let before = usize::from(terms.position_to_content);
        Ok(Relative {
            queries: terms.position_to_content.then(|| part(0)).transpose()?,
            keys: terms.content_to_position.then(|| part(before)).transpose()?,
            index: list(index(buckets, longest))?.reshape((longest, longest))?,
            products,
        })
    }

    /// The row for each score of contents [sequences, heads, longest, size]; for
    /// keys, of each key by query.
    fn index_for(&self, contents: &Tensor, of_keys: bool) -> Result<Tensor> {
        let (sequences, heads, longest, _) = contents.dims4()?;
        let index = if of_keys { self.index.t()?.contiguous()? } else { self.index.clone() };
        Ok(index.broadcast_as((sequences, heads, longest, longest))?.contiguous()?)
    }

    /// Positions for each sequence of the contents, [sequences, heads, rows, size].
    fn for_each(positions: &Tensor, contents: &Tensor) -> Result<Tensor> {
        let (heads, rows, size) = positions.dims3()?;
        Ok(positions.broadcast_as((contents.dim(0)?, heads, rows, size))?.contiguous()?)
    }

    /// What contents give by positions, [sequences, heads, contents, longest].
    fn term(&self, contents: &Tensor, positions: &Tensor, of_keys: bool) -> Result<Tensor> {
        let positions = Self::for_each(positions, contents)?;
        let all = self.products.of(contents, &positions.transpose(2, 3)?)?;
        Ok(all.gather(&self.index_for(contents, of_keys)?, 3)?)
    }

    /// The further scores, [sequences, heads, queries, keys], before the scale.
    pub fn scores(&self, scores: Tensor, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let mut scores = scores;
        if let Some(keys) = &self.keys {
            scores = (scores + self.term(q, keys, false)?)?;
        }
        if let Some(queries) = &self.queries {
            scores = (scores + self.term(k, queries, true)?.transpose(2, 3)?)?;
        }
        Ok(scores)
    }

    /// The gradients of contents and of positions, [heads, rows, size], from the
    /// gradients of the contents' scores.
    fn back(
        &self,
        dscores: &Tensor,
        contents: &Tensor,
        positions: &Tensor,
        of_keys: bool,
    ) -> Result<(Tensor, Tensor)> {
        let positions = Self::for_each(positions, contents)?;
        let (sequences, heads, longest, _) = contents.dims4()?;
        let zeros =
            Tensor::zeros((sequences, heads, longest, positions.dim(2)?), dscores.dtype(), dscores.device())?;
        let all = zeros.scatter_add(&self.index_for(contents, of_keys)?, dscores, 3)?;
        let of_positions = self.products.of(&all.transpose(2, 3)?, contents)?.sum(0)?;
        Ok((self.products.of(&all, &positions)?, of_positions))
    }

    /// Gradients of queries, keys, and positions [rows, parts * heads * size].
    pub fn backward(&self, dscores: &Tensor, q: &Tensor, k: &Tensor) -> Result<[Tensor; 3]> {
        let (mut dq, mut dk) = (q.zeros_like()?, k.zeros_like()?);
        let mut parts = Vec::new();
        if let Some(queries) = &self.queries {
            let (more, part) = self.back(&dscores.transpose(2, 3)?.contiguous()?, k, queries, true)?;
            dk = (dk + more)?;
            parts.push(part);
        }
        if let Some(keys) = &self.keys {
            let (more, part) = self.back(dscores, q, keys, false)?;
            dq = (dq + more)?;
            parts.push(part);
        }
        let flat = parts.iter().map(|part| {
            let (heads, rows, size) = part.dims3()?;
            part.transpose(0, 1)?.contiguous()?.reshape((rows, heads * size))
        });
        let parts = flat.collect::<candle_core::Result<Vec<_>>>()?;
        Ok([dq, dk, Tensor::cat(&parts, 1)?])
    }
}

impl Candle {
    pub(super) fn relative(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        match *instruction {
            Instruction::ReachedRows { table, out, buckets } => {
                let rows =
                    self.get(program, table)?.index_select(&self.indices(self.reached(buckets))?, 0)?;
                self.set(program, out, rows, false)
            }
            Instruction::ReachedRowsBackward { dout, dtable, buckets } => {
                let sizes = program.value(dtable).sizes(&self.sizes);
                let zeros = Tensor::zeros(sizes, candle_core::DType::F32, &self.device)?;
                let gradient =
                    zeros.index_add(&self.indices(self.reached(buckets))?, &self.get(program, dout)?, 0)?;
                self.set(program, dtable, gradient, true)
            }
            Instruction::Disentangled { qkv, positions, heads, buckets, terms, out, log_sums, dropout } => {
                let size = program.value(out).columns(&self.sizes) / heads;
                let padding =
                    self.padding(&self.get(program, positions)?, (heads, size), (buckets, terms))?;
                let mask = self.attention_mask(dropout, heads, padding.longest)?;
                let (context, sums) = padding.forward(&self.get(program, qkv)?, mask.as_ref())?;
                self.set(program, log_sums, sums.flatten_all()?, false)?;
                self.set(program, out, context, false)
            }
            Instruction::DisentangledBackward {
                dout,
                qkv,
                positions,
                heads,
                buckets,
                terms,
                dqkv,
                dpositions,
                dropout,
                ..
            } => {
                let size = program.value(dout).columns(&self.sizes) / heads;
                let padding =
                    self.padding(&self.get(program, positions)?, (heads, size), (buckets, terms))?;
                let mask = self.attention_mask(dropout, heads, padding.longest)?;
                let (dout, qkv) = (self.get(program, dout)?, self.get(program, qkv)?);
                let (gradient, of_positions) = padding.backward(&dout, &qkv, mask.as_ref())?;
                self.set(program, dqkv, gradient, false)?;
                match (dpositions, of_positions) {
                    (Some(dpositions), Some(gradient)) => self.set(program, dpositions, gradient, false),
                    _ => Ok(()),
                }
            }
            _ => self.choose(program, instruction),
        }
    }

    /// The batch's packing, with scores by positions.
    fn padding(
        &self,
        positions: &Tensor,
        (heads, size): (usize, usize),
        (buckets, terms): (Buckets, Terms),
    ) -> Result<Padding> {
        let mut padding = self.padded(&self.batch.starts, heads, size)?;
        let relative = Relative::new(
            positions,
            (heads, size),
            padding.longest,
            (buckets, terms),
            self.products,
            |list| self.indices(list),
        )?;
        padding.by_positions(relative, terms.scale(size));
        Ok(padding)
    }

    /// The rows of a table of relative positions that the batch reaches, in order.
    pub(super) fn reached(&self, buckets: Buckets) -> Vec<u32> {
        let reached = buckets.reached(self.batch.longest());
        (reached.lowest..=reached.highest).rev().map(|row| row as u32).collect()
    }
}
