//! Generation: a decoder says one token after another, with the keys and values of
//! what it has said kept, greedily or by a search with several beams, as
//! transformers' `generate` defines them.
//!
//! The encoder runs once. Each step runs one row for each sequence that is still
//! being said; what was said before is found by a list of rows, so that a beam that
//! goes on from another one copies nothing.

mod beams;
mod greedy;
mod processors;

use host_ir::task::GenerationSettings;
use rayon::prelude::*;

use crate::backend::BackendError;
use crate::batch::{Batch, Target};
use crate::engine::{Engine, EngineError};
use crate::kernels::cross_entropy::log_softmax;
use crate::models::Decoder;
use beams::Beams;
use greedy::Greedy;
use processors::Processors;

/// A sequence that is being said.
#[derive(Clone, Debug, Default)]
struct Running {
    /// The start token, and what was said.
    tokens: Vec<u32>,
    /// The rows of the memory in which its tokens stand.
    rows: Vec<u32>,
}

/// How the sequences of one example go on.
enum Search {
    Greedy(Greedy),
    Beams(Beams),
}

impl Search {
    fn running(&self) -> &[Running] {
        match self {
            Search::Greedy(greedy) => greedy.running(),
            Search::Beams(beams) => beams.running(),
        }
    }

    /// Notes in which row of the memory the last token of a sequence now stands.
    fn note_row(&mut self, place: usize, row: u32) {
        match self {
            Search::Greedy(greedy) => greedy.note_row(row),
            Search::Beams(beams) => beams.note_row(place, row),
        }
    }

    /// Goes on by the logits of each running sequence, [running, vocabulary].
    fn advance(&mut self, logits: &mut [f32], processors: &Processors) {
        match self {
            Search::Greedy(greedy) => greedy.advance(logits, processors),
            Search::Beams(beams) => beams.advance(logits, processors),
        }
    }

    fn finished(&self) -> bool {
        match self {
            Search::Greedy(greedy) => greedy.finished(),
            Search::Beams(beams) => beams.finished(),
        }
    }

    fn into_tokens(self) -> Vec<u32> {
        match self {
            Search::Greedy(greedy) => greedy.into_tokens(),
            Search::Beams(beams) => beams.into_tokens(),
        }
    }
}

/// Generates a sequence for each one of the batch: its tokens after the start token,
/// an end token included. The batch's own targets are not looked at.
///
/// # Errors
/// A model without a decoder; more tokens than the decoder has positions; memory
/// that is not to be had.
pub fn generate(
    engine: &mut Engine,
    batch: &Batch,
    settings: &GenerationSettings,
) -> Result<Vec<Vec<u32>>, EngineError> {
    let wrong = |sentence: String| EngineError::Backend(BackendError::Wrong(sentence));
    let config = engine.plans.config.clone();
    let decoder = config.decoder().ok_or_else(|| wrong(format!("{} has no decoder", config.name())))?;
    if let Some(positions) = decoder.positions.filter(|&most| settings.max_new_tokens as usize > most) {
        return Err(wrong(format!(
            "{} tokens are to be generated, and the decoder has {positions} positions",
            settings.max_new_tokens
        )));
    }
    let vocabulary = config.vocabulary();
    let processors = Processors::new(settings, decoder);
    let mut searches: Vec<Search> =
        (0..batch.sequences()).map(|_| started(settings, &processors, decoder)).collect();
    engine.encode(batch)?;
    let mut step = Batch { target: Target::default(), ..batch.clone() };
    while searches.iter().any(|search| !search.finished()) {
        next_rows(&mut searches, decoder, &mut step.target);
        let mut logits = engine.decode(&step)?;
        let parts = step.target.recall.as_ref().map_or(&[][..], |recall| &recall.source_starts);
        let mut rest = &mut logits[..];
        let mut work = Vec::with_capacity(searches.len());
        for (search, bounds) in searches.iter_mut().zip(parts.windows(2)) {
            let rows = (bounds[1] - bounds[0]) as usize;
            work.push((search, rest.split_off_mut(..rows * vocabulary).unwrap_or_default()));
        }
        work.into_par_iter().filter(|(_, logits)| !logits.is_empty()).for_each(|(search, logits)| {
            search.advance(logits, &processors);
        });
    }
    Ok(searches.into_iter().map(Search::into_tokens).collect())
}

fn started(settings: &GenerationSettings, processors: &Processors, decoder: &Decoder) -> Search {
    let start = Running { tokens: vec![decoder.start], rows: Vec::new() };
    match settings.num_beams {
        0 | 1 => Search::Greedy(Greedy::new(start, processors)),
        beams => Search::Beams(Beams::new(start, beams as usize, settings, processors)),
    }
}

/// The rows of the next step: the last token of each running sequence.
fn next_rows(searches: &mut [Search], decoder: &Decoder, target: &mut Target) {
    let mut recall = target.recall.take().unwrap_or_default();
    target.clear();
    target.starts.push(0);
    recall.source_starts.clear();
    recall.source_starts.push(0);
    recall.own.clear();
    recall.starts.clear();
    recall.starts.push(0);
    recall.rows.clear();
    for search in searches {
        let running = if search.finished() { 0 } else { search.running().len() };
        for place in 0..running {
            let row = recall.memory_rows;
            recall.memory_rows += 1;
            search.note_row(place, row);
            let Running { tokens, rows } = &search.running()[place];
            target.ids.push(tokens.last().copied().unwrap_or(decoder.start));
            target.positions.push(decoder.first_position + tokens.len() as u32 - 1);
            target.starts.push(target.ids.len() as u32);
            recall.own.push(row);
            recall.rows.extend(rows);
            recall.starts.push(recall.rows.len() as u32);
        }
        recall.source_starts.push(target.ids.len() as u32);
    }
    target.recall = Some(recall);
}

/// Logarithms of probabilities, row by row.
fn log_probabilities(logits: &mut [f32], rows: usize) {
    let vocabulary = logits.len() / rows.max(1);
    logits.par_chunks_exact_mut(vocabulary.max(1)).for_each(log_softmax);
}
