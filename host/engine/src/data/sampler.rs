//! Effective batches of an epoch, as transformers' Trainer draws them: a seeded
//! uniform permutation, cut into batches; the last one may be smaller.

use std::cmp::Reverse;
use std::ops::Range;

use host_ir::random::Stream;

use crate::batch::Batch;
use crate::data::dataset::{Dataset, DatasetError, Noise};
use crate::train::memory::MICRO_BATCH_ROWS;
use crate::train::settings::TrainingSettings;
use crate::train::trainer::Batches;

/// How an effective batch is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Examples(usize),
    /// Rows, virtual ones included.
    Tokens(usize),
}

/// Draws the batches of a training.
pub struct Sampler<'a> {
    dataset: &'a Dataset,
    size: Size,
    /// Rows of a micro-batch at most.
    most_rows: usize,
    virtual_tokens: u32,
    noise: Option<Noise>,
    seed: u64,
    epoch: Option<u64>,
    /// The epoch's order, and the first of each effective batch of so many tokens
    /// in it. Four bytes an example are all that grows with the data.
    order: Vec<u32>,
    starts: Vec<u32>,
}

impl<'a> Sampler<'a> {
    pub fn new(
        dataset: &'a Dataset,
        settings: &TrainingSettings,
        virtual_tokens: u32,
        noise: Option<Noise>,
        seed: u64,
    ) -> Sampler<'a> {
        let examples = settings.per_device_train_batch_size * settings.gradient_accumulation_steps.max(1);
        let size = match settings.train_batch_tokens {
            Some(tokens) => Size::Tokens(tokens as usize),
            None => Size::Examples(examples.max(1) as usize),
        };
        Sampler {
            dataset,
            size,
            most_rows: MICRO_BATCH_ROWS,
            virtual_tokens,
            noise,
            seed,
            epoch: None,
            order: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// The same, with micro-batches of at most so many rows.
    #[must_use]
    pub fn with_rows(self, most_rows: usize) -> Sampler<'a> {
        Sampler { most_rows, ..self }
    }

    /// The most examples of an effective batch; of one of so many tokens, when all
    /// are as long as the longest.
    pub fn largest_batch(&self) -> usize {
        match self.size {
            Size::Examples(examples) => examples.min(self.dataset.len()),
            Size::Tokens(tokens) => {
                (tokens / self.dataset.largest(self.virtual_tokens as usize).1.max(1)).max(1)
            }
        }
    }

    /// The order of the examples in an epoch.
    ///
    /// # Errors
    /// Reading the data.
    pub fn order(&mut self, epoch: u64) -> Result<&[u32], DatasetError> {
        self.draw(epoch)?;
        Ok(&self.order)
    }

    fn draw(&mut self, epoch: u64) -> Result<(), DatasetError> {
        if self.epoch == Some(epoch) {
            return Ok(());
        }
        self.order.clear();
        self.order.extend(0..self.dataset.len() as u32);
        Stream::new(self.seed, &format!("order of epoch {epoch}")).shuffle(&mut self.order);
        self.starts.clear();
        if let Size::Tokens(most) = self.size {
            let mut rows = usize::MAX;
            for (place, &example) in self.order.iter().enumerate() {
                let (_, own) = self.dataset.size(example as usize, self.virtual_tokens as usize)?;
                if rows.saturating_add(own) > most {
                    self.starts.push(place as u32);
                    rows = 0;
                }
                rows += own;
            }
        }
        self.epoch = Some(epoch);
        Ok(())
    }

    /// The examples of an effective batch of the epoch that is drawn.
    fn examples(&self, number: usize) -> &[u32] {
        let (start, end) = match self.size {
            Size::Examples(examples) => (number * examples, (number + 1) * examples),
            Size::Tokens(_) => {
                let start =
                    |number: usize| self.starts.get(number).map_or(self.order.len(), |&start| start as usize);
                (start(number), start(number + 1))
            }
        };
        &self.order[start.min(self.order.len())..end.min(self.order.len())]
    }
}

impl Batches for Sampler<'_> {
    fn steps_of_epoch(&mut self, epoch: u64) -> Result<u64, DatasetError> {
        self.draw(epoch)?;
        Ok(match self.size {
            Size::Examples(examples) => self.order.len().div_ceil(examples) as u64,
            Size::Tokens(_) => self.starts.len() as u64,
        })
    }

    fn effective_batch(
        &mut self,
        epoch: u64,
        number: u64,
        micro_batch: usize,
    ) -> Result<Vec<Batch>, DatasetError> {
        self.draw(epoch)?;
        let (mut placed, mut rows, mut place) = (Vec::new(), Vec::new(), 0);
        for &example in self.examples(number as usize) {
            let example = example as usize;
            let (pieces, own) = self.dataset.size(example, self.virtual_tokens as usize)?;
            placed.push((example, place));
            rows.push(own);
            place += pieces as u32;
        }
        let noise = self.noise.map(|noise| Noise { epoch: epoch + 1, ..noise });
        let mut batches = Vec::new();
        for part in parts(&rows, micro_batch, self.most_rows) {
            let mut batch = Batch::default();
            self.dataset.pack(&placed[part], self.virtual_tokens, noise.as_ref(), &mut batch)?;
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// Cuts examples of so many rows into parts of at most so many examples and
/// rows, as even as their order allows. A longer example is a part by itself.
fn parts(rows: &[usize], examples: usize, most: usize) -> Vec<Range<usize>> {
    let total: usize = rows.iter().sum();
    let even = total.div_ceil(total.div_ceil(most).max(1));
    let longest = rows.iter().copied().max().unwrap_or(0);
    // A part ends before it is over what is even by more than an example.
    let most = most.min(even + longest);
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut in_part = 0;
    for (place, &own) in rows.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if part.len() < examples.max(1) && in_part + own <= most => {
                part.end += 1;
                in_part += own;
            }
            _ => {
                parts.push(place..place + 1);
                in_part = own;
            }
        }
    }
    parts
}

/// Batches of an evaluation. Four bytes an example and a batch are all that grows with
/// the data.
#[derive(Debug, Default)]
pub struct EvaluationBatches {
    order: Vec<u32>,
    /// The first of each batch in the order.
    starts: Vec<u32>,
}

impl EvaluationBatches {
    /// The examples of each batch.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let ends = self.starts.iter().skip(1).copied().chain([self.order.len() as u32]);
        self.starts.iter().zip(ends).map(|(&start, end)| &self.order[start as usize..end as usize])
    }
}

/// Batches of an evaluation: examples by length, so that batches are even, at
/// most so many in one, and no more rows than `most_rows`.
///
/// # Errors
/// Reading the data.
pub fn evaluation_batches(
    dataset: &Dataset,
    size: usize,
    virtual_tokens: usize,
    most_rows: usize,
) -> Result<EvaluationBatches, DatasetError> {
    let lengths = (0..dataset.len()).map(|example| Ok(dataset.size(example, virtual_tokens)?.1 as u32));
    let lengths = lengths.collect::<Result<Vec<u32>, DatasetError>>()?;
    let mut order: Vec<u32> = (0..dataset.len() as u32).collect();
    order.sort_unstable_by_key(|&example| (Reverse(lengths[example as usize]), example));
    let (mut starts, mut rows): (Vec<u32>, usize) = (Vec::new(), 0);
    for (place, &example) in (0..).zip(&order) {
        let own = lengths[example as usize] as usize;
        match starts.last() {
            Some(start) if ((place - start) as usize) < size.max(1) && rows + own <= most_rows => {
                rows += own;
            }
            _ => {
                starts.push(place);
                rows = own;
            }
        }
    }
    Ok(EvaluationBatches { order, starts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::tests::{dataset, pieces};

    fn settings(examples: u64, steps: u64, tokens: Option<u64>) -> TrainingSettings {
        TrainingSettings {
            per_device_train_batch_size: examples,
            gradient_accumulation_steps: steps,
            train_batch_tokens: tokens,
            ..TrainingSettings::default()
        }
    }

    fn evaluated(dataset: &Dataset, size: usize, virtual_tokens: usize) -> Vec<Vec<u32>> {
        let batches = evaluation_batches(dataset, size, virtual_tokens, MICRO_BATCH_ROWS).unwrap();
        batches.iter().map(<[u32]>::to_vec).collect()
    }

    /// Rows of each micro-batch of each effective batch of an epoch.
    fn rows(sampler: &mut Sampler<'_>, epoch: u64, micro_batch: usize) -> Vec<Vec<usize>> {
        (0..sampler.steps_of_epoch(epoch).unwrap())
            .map(|step| {
                let batches = sampler.effective_batch(epoch, step, micro_batch).unwrap();
                let places: Vec<u32> = batches.iter().flat_map(|batch| batch.places.clone()).collect();
                assert_eq!(places, (0..places.len() as u32).collect::<Vec<_>>());
                batches.iter().map(Batch::sequences).collect()
            })
            .collect()
    }

    #[test]
    fn an_epoch_is_a_permutation_in_batches() {
        let dataset = dataset(&[3; 21]);
        let mut sampler = Sampler::new(&dataset, &settings(4, 2, None), 0, None, 7);
        // 21 examples in effective batches of 4 * 2, these in parts of at most 3.
        assert_eq!(rows(&mut sampler, 0, 3), [vec![3, 3, 2], vec![3, 3, 2], vec![3, 2]]);
        let first = sampler.order(0).unwrap().to_vec();
        let second = sampler.order(1).unwrap().to_vec();
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..21).collect::<Vec<_>>());
        assert_ne!(first, second);
        assert_eq!(Sampler::new(&dataset, &settings(4, 2, None), 0, None, 7).order(0).unwrap(), first);
        assert_ne!(Sampler::new(&dataset, &settings(4, 2, None), 0, None, 8).order(0).unwrap(), first);
    }

    #[test]
    fn batches_of_tokens_hold_what_fits() {
        let lengths: Vec<usize> = (0..40).map(|example| 3 + example % 7).collect();
        let dataset = dataset(&lengths);
        // Two accumulated micro-batches do not make the effective batch larger.
        for steps in [1, 2] {
            let mut sampler = Sampler::new(&dataset, &settings(8, steps, Some(24)), 2, None, 7);
            let mut seen = 0;
            let mut before = None;
            for step in 0..sampler.steps_of_epoch(0).unwrap() {
                let batches = sampler.effective_batch(0, step, usize::MAX).unwrap();
                let first = batches[0].starts[1] as usize;
                assert!(batches[0].rows() <= 24);
                // The first of this batch did not fit into the one before.
                assert!(before.is_none_or(|rows: usize| rows + first > 24));
                before = Some(batches[0].rows());
                seen += batches[0].sequences();
            }
            assert_eq!(seen, lengths.len());
        }
        // What is longer than the limit is a batch by itself.
        let mut sampler = Sampler::new(&dataset, &settings(8, 1, Some(2)), 0, None, 7);
        assert_eq!(sampler.steps_of_epoch(0), Ok(40));
    }

    /// Batches count examples; the pieces of one are never apart, and their places
    /// do not depend on the micro-batches.
    #[test]
    fn pieces_of_an_example_stay_together() {
        let dataset = pieces(&[&[3, 4], &[5], &[3, 3, 4], &[9, 3], &[4]]);
        for micro_batch in [1, 2, 3] {
            let mut sampler = Sampler::new(&dataset, &settings(3, 1, None), 1, None, 7);
            assert_eq!(sampler.steps_of_epoch(0), Ok(2));
            for step in 0..2 {
                let batches = sampler.effective_batch(0, step, micro_batch).unwrap();
                assert!(batches.iter().all(|batch| batch.examples() <= micro_batch));
                let examples: usize = batches.iter().map(Batch::examples).sum();
                assert_eq!(examples, if step == 0 { 3 } else { 2 });
                let places: Vec<u32> = batches.iter().flat_map(|batch| batch.places.clone()).collect();
                assert_eq!(places, (0..places.len() as u32).collect::<Vec<_>>());
                let order = sampler.order(0).unwrap()[3 * step as usize..].iter();
                let wanted =
                    order.take(examples).map(|&example| dataset.size(example as usize, 1).unwrap().0);
                let found = batches
                    .iter()
                    .flat_map(|batch| (0..batch.examples()).map(|example| batch.pieces(example).len()));
                assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
            }
        }
        assert_eq!(evaluated(&dataset, 2, 1), [vec![3, 2], vec![0, 1], vec![4]]);
    }

    #[test]
    fn an_evaluation_takes_every_example_once() {
        let dataset = dataset(&[3, 9, 5, 7, 4]);
        assert_eq!(evaluated(&dataset, 2, 0), [vec![1, 3], vec![2, 4], vec![0]]);
        // Two do not fit into the rows of a micro-batch.
        let alone = [vec![1], vec![3], vec![2], vec![4], vec![0]];
        assert_eq!(evaluated(&dataset, 2, MICRO_BATCH_ROWS / 2), alone);
        assert!(evaluated(&Dataset::default(), 2, 0).is_empty());
    }

    #[test]
    fn parts_are_even_and_hold_what_they_may() {
        assert_eq!(parts(&[128; 16], 16, 1024), [0..8, 8..16]);
        assert_eq!(parts(&[148; 16], 16, 1024), [0..6, 6..12, 12..16]);
        assert_eq!(parts(&[10; 5], 2, 1024), [0..2, 2..4, 4..5]);
        assert_eq!(parts(&[2000, 10, 10], 16, 1024), [0..1, 1..3]);
        assert!(parts(&[], 4, 1024).is_empty());
        let rows: Vec<usize> = (0..100).map(|place| 5 + place * 37 % 61).collect();
        let parts = parts(&rows, 100, 256);
        assert!(parts.iter().all(|part| rows[part.clone()].iter().sum::<usize>() <= 256));
        assert_eq!(parts.iter().map(ExactSizeIterator::len).sum::<usize>(), 100);
    }
}
