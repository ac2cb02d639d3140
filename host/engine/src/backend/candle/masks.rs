//! Dropout masks for the composed operations: the same bits as the kernels'.

use candle_core::{Device, Tensor};

use crate::backend::candle::Candle;
use crate::backend::{BackendError, Step};
use crate::kernels::dropout::{DropoutKey, Mask, RowMask};
use crate::program::build::Program;
use crate::program::instruction::Dropout;
use crate::program::value::{Extent, ValueId};

type Result<T> = std::result::Result<T, BackendError>;

/// The mask of a dropout of the program at a step.
pub(super) fn mask(step: &Step, dropout: Dropout) -> Option<Mask> {
    let key = DropoutKey { seed: step.seed, step: step.number, site: dropout.site };
    Mask::new(key, dropout.probability)
}

/// Which rows a dropout of rows is for.
pub enum Rows {
    /// Those of a packed batch, by the first row of each sequence and the number of
    /// rows.
    Packed(Vec<u32>),
    /// So many of a table, which belong to no sequence; the first has that number.
    Table { count: usize, first: u32 },
}

/// Factors by which rows are multiplied, [rows, columns]: 0 or 1 / (1 - p).
pub fn rows(
    step: &Step,
    dropout: Dropout,
    rows: &Rows,
    places: &[u32],
    columns: usize,
    device: &Device,
) -> Result<Tensor> {
    let total = match rows {
        Rows::Packed(starts) => starts.last().copied().unwrap_or(0) as usize,
        Rows::Table { count, .. } => *count,
    };
    let mut factors = vec![1.0; total * columns];
    if let Some(mask) = mask(step, dropout) {
        let mut write = |row: usize, keep: RowMask| {
            let factors = &mut factors[row * columns..][..columns];
            factors.iter_mut().zip(0..).for_each(|(factor, column)| *factor = keep.factor(column));
        };
        match rows {
            Rows::Packed(starts) => {
                for (range, &place) in starts.windows(2).zip(places) {
                    (range[0]..range[1]).for_each(|row| write(row as usize, mask.row(place, row - range[0])));
                }
            }
            Rows::Table { count, first } => {
                (0..*count).for_each(|row| write(row, mask.row(0, row as u32 + first)));
            }
        }
    }
    Ok(Tensor::from_vec(factors, (total, columns), device)?)
}

/// Factors of attention probabilities, [sequences, heads, longest queries, longest
/// keys], padded with zeros. The starts are those of the queries and of the keys.
pub fn attention(
    step: &Step,
    dropout: Dropout,
    (query_starts, key_starts): (&[u32], &[u32]),
    places: &[u32],
    heads: usize,
    [queries, keys]: [usize; 2],
    device: &Device,
) -> Result<Tensor> {
    let mut factors = vec![0.0; places.len() * heads * queries * keys];
    let Some(mask) = mask(step, dropout) else {
        factors.fill(1.0);
        return Ok(Tensor::from_vec(factors, (places.len(), heads, queries, keys), device)?);
    };
    for (sequence, &place) in places.iter().enumerate() {
        let length = |starts: &[u32]| starts[sequence + 1] - starts[sequence];
        for head in 0..heads {
            for query in 0..length(query_starts) {
                let keep = mask.query(place, head as u32, query);
                let row = ((sequence * heads + head) * queries + query as usize) * keys;
                let factors = &mut factors[row..row + length(key_starts) as usize];
                factors.iter_mut().enumerate().for_each(|(key, factor)| *factor = keep.factor(key as u32));
            }
        }
    }
    Ok(Tensor::from_vec(factors, (places.len(), heads, queries, keys), device)?)
}

impl Candle {
    /// To what the rows of a value belong, for the masks of dropout.
    pub(super) fn rows_of(&self, program: &Program, value: ValueId) -> Rows {
        let batch = &self.batch;
        match program.value(value).extents.first() {
            Some(&Extent::Reached(buckets)) => {
                let longest = batch.longest();
                Rows::Table { count: buckets.reached(longest).count(), first: buckets.shift(longest) }
            }
            Some(Extent::Sequences) => Rows::Packed((0..=batch.sequences() as u32).collect()),
            Some(Extent::Masked) => {
                let before = |start: &u32| batch.masked_rows.partition_point(|row| row < start) as u32;
                Rows::Packed(batch.starts.iter().map(before).collect())
            }
            Some(Extent::Virtual) => {
                let starts = 0..=batch.sequences() as u32;
                Rows::Packed(starts.map(|sequence| sequence * batch.virtual_tokens).collect())
            }
            Some(Extent::Targets) => Rows::Packed(batch.target.starts.clone()),
            Some(Extent::Words) => Rows::Packed(vec![0, batch.word_rows.len() as u32]),
            _ => Rows::Packed(batch.starts.clone()),
        }
    }

    /// What a dropout leaves of x, which has the rows and columns of the value.
    pub(super) fn masked(
        &self,
        program: &Program,
        x: Tensor,
        dropout: Option<Dropout>,
        value: ValueId,
    ) -> Result<Tensor> {
        let Some(dropout) = dropout else { return Ok(x) };
        let columns = program.value(value).columns(&self.sizes);
        let of = self.rows_of(program, value);
        #[cfg(feature = "cuda")]
        if let Some(dropped) = self.own_dropout(&x, dropout, &of, columns)? {
            return Ok(dropped);
        }
        Ok((x * rows(&self.step, dropout, &of, &self.batch.places, columns, &self.device)?)?)
    }

    pub(super) fn attention_mask(
        &self,
        dropout: Option<Dropout>,
        heads: usize,
        longest: usize,
    ) -> Result<Option<Tensor>> {
        let starts = (self.batch.starts.as_slice(), self.batch.starts.as_slice());
        dropout.map(|dropout| self.attention_factors(dropout, starts, heads, [longest; 2])).transpose()
    }

    /// Factors of attention's probabilities, [sequences, heads, queries, keys]; the starts
    /// are those of the queries and of the keys.
    pub(super) fn attention_factors(
        &self,
        dropout: Dropout,
        starts: (&[u32], &[u32]),
        heads: usize,
        longest: [usize; 2],
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(factors) = self.own_attention_factors(dropout, starts, heads, longest)? {
            return Ok(factors);
        }
        attention(&self.step, dropout, starts, &self.batch.places, heads, longest, &self.device)
    }
}
