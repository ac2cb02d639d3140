//! Packing examples into a batch, and the noise with which they are read.

use std::collections::BTreeMap;

use host_ir::random::Stream;

use crate::batch::Batch;
use crate::data::dataset::{Dataset, DatasetError};
use crate::text::Encoded;

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
    /// Packs examples, given with the places of their first sequences in the
    /// effective batch, into a batch, whose memory is used again.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn pack(
        &self,
        examples: &[(usize, u32)],
        virtual_tokens: u32,
        noise: Option<&Noise>,
        batch: &mut Batch,
    ) -> Result<(), DatasetError> {
        batch.virtual_tokens = virtual_tokens;
        for column in [
            &mut batch.starts,
            &mut batch.example_starts,
            &mut batch.ids,
            &mut batch.token_types,
            &mut batch.positions,
            &mut batch.places,
            &mut batch.masked_rows,
        ] {
            column.clear();
        }
        batch.starts.push(0);
        batch.masked_tokens.clear();
        batch.word_rows.clear();
        batch.labels.values_mut().chain(batch.example_labels.values_mut()).for_each(Vec::clear);
        // Where every example is one sequence, nothing says so.
        let pieces = self.most_pieces > 1;
        if pieces {
            batch.example_starts.push(0);
        }
        for &(example, place) in examples {
            let (encoded, labels) = self.example(example)?;
            let first_piece = batch.sequences();
            let mut draw = noise.map(|noise| {
                (
                    noise,
                    Stream::new(noise.seed ^ host_ir::random::mix(noise.epoch), &format!("noise {example}")),
                )
            });
            for (piece, place) in encoded.iter().zip(place..) {
                self.pack_sequence(piece, virtual_tokens, &mut draw, batch);
                batch.places.push(place);
                note(&mut batch.labels, &self.labels, &labels);
            }
            if pieces {
                batch.example_starts.push(batch.sequences() as u32);
                note(&mut batch.example_labels, &self.labels, &labels);
            }
            if self.words.most() > 0 {
                self.words.pack(example, first_piece, batch)?;
            }
        }
        match (&self.targets, &self.rereads) {
            (Some(targets), _) => {
                targets.pack(examples.iter().map(|&(example, _)| example), &mut batch.target)?;
            }
            (None, Some(decoder)) if self.of_masked => {
                batch.read_masked(decoder.start, decoder.padding, decoder.first_position);
            }
            (None, Some(decoder)) => batch.reread(decoder.start, decoder.first_position),
            (None, None) => batch.target.clear(),
        }
        Ok(())
    }

    fn pack_sequence(
        &self,
        tokens: &Encoded,
        virtual_tokens: u32,
        draw: &mut Option<(&Noise, Stream)>,
        batch: &mut Batch,
    ) {
        let rows = virtual_tokens + tokens.ids.len() as u32;
        let shift = draw.as_mut().map_or(0, |(noise, stream)| shift(noise, stream, rows));
        batch.ids.extend(0..virtual_tokens);
        batch.token_types.extend((0..virtual_tokens).map(|_| 0));
        batch.positions.extend((0..rows).map(|row| self.first_position + row + shift));
        for (token, &original) in tokens.ids.iter().enumerate() {
            let mut id = original;
            if let Some((noise, stream)) = draw
                && !tokens.special[token]
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
            batch.token_types.push(tokens.token_types[token]);
        }
        batch.starts.push(batch.ids.len() as u32);
    }
}

/// Adds a label to the column of each field.
fn note(columns: &mut BTreeMap<String, Vec<i32>>, fields: &[String], labels: &[i32]) {
    for (field, &label) in fields.iter().zip(labels) {
        match columns.get_mut(field) {
            Some(column) => column.push(label),
            None => {
                columns.insert(field.clone(), vec![label]);
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
