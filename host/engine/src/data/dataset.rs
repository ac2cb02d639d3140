//! A split as tokens: compact columns, from which batches are packed.

use std::collections::BTreeMap;

use host_ir::random::Stream;
use host_ir::task::{Example, FieldType, Layout, Sequence};
use rayon::prelude::*;

use crate::batch::Batch;
use crate::text::{Encoded, Tokenizer};

/// Why examples cannot become input of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(pub String);

/// A tokenised split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The first token of each example, and their number.
    starts: Vec<u32>,
    ids: Vec<u32>,
    token_types: Vec<u8>,
    special: Vec<bool>,
    /// By label field, [examples]; -1 where there is none.
    labels: BTreeMap<String, Vec<i32>>,
    /// Examples whose text was longer than the model reads.
    pub cut: usize,
}

/// Masked-language-model noise (Devlin et al. 2019, section 3.1) and shifted
/// positions; a function of seed, epoch and example alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    pub seed: u64,
    pub epoch: u64,
    /// Share of the tokens that are chosen.
    pub probability: f64,
    /// The most places by which half of the sequences are shifted.
    pub shift: u32,
    /// Positions that the model has.
    pub positions: u32,
    pub mask_id: u32,
    pub vocabulary: u32,
}

impl Dataset {
    /// Tokenises examples, in parallel, in their order. `at_most` counts special
    /// tokens and no virtual ones.
    ///
    /// # Errors
    /// An example without a text that the sequence reads.
    pub fn new(
        examples: &[Example],
        sequence: &Sequence,
        layout: &Layout,
        tokenizer: &Tokenizer,
        at_most: usize,
    ) -> Result<Dataset, DatasetError> {
        let fields: Vec<usize> = sequence.texts.iter().filter_map(|name| layout.field(name)).collect();
        let encode = |example: &Example| -> Result<Encoded, DatasetError> {
            let mut texts = Vec::with_capacity(fields.len());
            for (&field, name) in fields.iter().zip(&sequence.texts) {
                let missing =
                    || DatasetError(format!("{}: the example has no text \"{name}\"", example.origin));
                texts.push(example.text(field).ok_or_else(missing)?);
            }
            tokenizer
                .encode(&texts, at_most)
                .map_err(|sentence| DatasetError(format!("{}: {sentence}", example.origin)))
        };
        let encoded: Vec<Encoded> = examples.par_iter().map(encode).collect::<Result<_, _>>()?;
        let mut dataset = Dataset { starts: vec![0], ..Dataset::default() };
        for example in encoded {
            dataset.cut += usize::from(example.cut);
            dataset.ids.extend(example.ids);
            dataset.token_types.extend(example.token_types.iter().map(|&segment| segment as u8));
            dataset.special.extend(example.special);
            dataset.starts.push(dataset.ids.len() as u32);
        }
        for (place, field) in layout.fields.iter().enumerate() {
            if matches!(field.kind, FieldType::Label(_)) {
                let labels =
                    examples.iter().map(|example| example.label(place).map_or(-1, |label| label as i32));
                dataset.labels.insert(field.name.clone(), labels.collect());
            }
        }
        Ok(dataset)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of an example.
    pub fn length(&self, example: usize) -> usize {
        (self.starts[example + 1] - self.starts[example]) as usize
    }

    /// Tokens of the longest example.
    pub fn longest(&self) -> usize {
        (0..self.len()).map(|example| self.length(example)).max().unwrap_or(0)
    }

    /// Tokens of all examples.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Labels of a field, -1 where there is none.
    pub fn labels(&self, field: &str) -> Option<&[i32]> {
        self.labels.get(field).map(Vec::as_slice)
    }

    /// Packs examples, given with their places in the effective batch, into a
    /// batch, whose memory is used again.
    pub fn pack(
        &self,
        examples: &[(usize, u32)],
        virtual_tokens: u32,
        noise: Option<&Noise>,
        batch: &mut Batch,
    ) {
        batch.starts.clear();
        batch.starts.push(0);
        batch.virtual_tokens = virtual_tokens;
        for column in [
            &mut batch.ids,
            &mut batch.token_types,
            &mut batch.positions,
            &mut batch.places,
            &mut batch.masked_rows,
        ] {
            column.clear();
        }
        batch.masked_tokens.clear();
        batch.labels.values_mut().for_each(Vec::clear);
        for &(example, place) in examples {
            let range = self.starts[example] as usize..self.starts[example + 1] as usize;
            let rows = virtual_tokens + range.len() as u32;
            let mut draw = noise.map(|noise| {
                (
                    noise,
                    Stream::new(noise.seed ^ host_ir::random::mix(noise.epoch), &format!("noise {example}")),
                )
            });
            let shift = draw.as_mut().map_or(0, |(noise, stream)| shift(noise, stream, rows));
            batch.ids.extend(0..virtual_tokens);
            batch.token_types.extend((0..virtual_tokens).map(|_| 0));
            batch.positions.extend((0..rows).map(|row| row + shift));
            for token in range {
                let mut id = self.ids[token];
                if let Some((noise, stream)) = &mut draw
                    && !self.special[token]
                    && stream.unit() < noise.probability
                {
                    batch.masked_rows.push(batch.ids.len() as u32);
                    batch.masked_tokens.push(id as i32);
                    id = match stream.unit() {
                        kind if kind < 0.8 => noise.mask_id,
                        kind if kind < 0.9 => stream.below(u64::from(noise.vocabulary)) as u32,
                        _ => id,
                    };
                }
                batch.ids.push(id);
                batch.token_types.push(u32::from(self.token_types[token]));
            }
            batch.starts.push(batch.ids.len() as u32);
            batch.places.push(place);
            for (field, labels) in &self.labels {
                if !batch.labels.contains_key(field) {
                    batch.labels.insert(field.clone(), Vec::new());
                }
                if let Some(column) = batch.labels.get_mut(field) {
                    column.push(labels[example]);
                }
            }
        }
    }
}

/// The places by which a sequence's positions are shifted: half of the
/// sequences, as far as the model's positions allow.
fn shift(noise: &Noise, stream: &mut Stream, rows: u32) -> u32 {
    let most = noise.shift.min(noise.positions.saturating_sub(rows));
    match most > 0 && stream.unit() < 0.5 {
        true => stream.below(u64::from(most) + 1) as u32,
        false => 0,
    }
}
