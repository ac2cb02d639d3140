//! Dropout masks for the composed operations: the same bits as the kernels'.

use candle_core::{Device, Tensor};

use crate::backend::{BackendError, Step};
use crate::kernels::dropout::{DropoutKey, Mask};
use crate::program::instruction::Dropout;

/// The mask of a dropout of the program at a step.
fn mask(step: &Step, dropout: Dropout) -> Option<Mask> {
    let key = DropoutKey { seed: step.seed, step: step.number, site: dropout.site };
    Mask::new(key, dropout.probability)
}

/// Factors by which rows are multiplied, [rows, columns]: 0 or 1 / (1 - p).
/// `starts` gives the first row of each sequence and the number of rows.
pub fn rows(
    step: &Step,
    dropout: Dropout,
    starts: &[u32],
    places: &[u32],
    columns: usize,
    device: &Device,
) -> Result<Tensor, BackendError> {
    let total = starts.last().copied().unwrap_or(0) as usize;
    let mut factors = vec![1.0; total * columns];
    if let Some(mask) = mask(step, dropout) {
        for (range, &place) in starts.windows(2).zip(places) {
            for row in range[0]..range[1] {
                let keep = mask.row(place, row - range[0]);
                let factors = &mut factors[row as usize * columns..][..columns];
                factors
                    .iter_mut()
                    .enumerate()
                    .for_each(|(column, factor)| *factor = keep.factor(column as u32));
            }
        }
    }
    Ok(Tensor::from_vec(factors, (total, columns), device)?)
}

/// As [`rows`], for so many rows of a table, of which the first has the number
/// `shift`.
pub fn of_table(
    step: &Step,
    dropout: Dropout,
    (count, shift): (usize, u32),
    columns: usize,
    device: &Device,
) -> Result<Tensor, BackendError> {
    let mut factors = vec![1.0; count * columns];
    if let Some(mask) = mask(step, dropout) {
        for (number, row) in factors.chunks_exact_mut(columns).enumerate() {
            let keep = mask.row(0, number as u32 + shift);
            row.iter_mut().enumerate().for_each(|(column, factor)| *factor = keep.factor(column as u32));
        }
    }
    Ok(Tensor::from_vec(factors, (count, columns), device)?)
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
) -> Result<Tensor, BackendError> {
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
