//! Effective batches of an epoch, as transformers' Trainer draws them: a seeded
//! uniform permutation, cut into batches; the last one may be smaller.

use host_ir::random::Stream;

use crate::batch::Batch;
use crate::data::dataset::{Dataset, DatasetError, Noise};
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
            virtual_tokens,
            noise,
            seed,
            epoch: None,
            order: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// The most examples of an effective batch; of one of so many tokens, when all
    /// are as long as the longest.
    pub fn largest_batch(&self) -> usize {
        match self.size {
            Size::Examples(examples) => examples.min(self.dataset.len()),
            Size::Tokens(tokens) => {
                (tokens / (self.dataset.longest() + self.virtual_tokens as usize).max(1)).max(1)
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
                let own = self.dataset.length(example as usize)? + self.virtual_tokens as usize;
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
        let examples = self.examples(number as usize).iter().map(|&example| example as usize);
        let placed: Vec<(usize, u32)> = examples.zip(0..).collect();
        let noise = self.noise.map(|noise| Noise { epoch: epoch + 1, ..noise });
        let mut batches = Vec::new();
        for part in placed.chunks(micro_batch.max(1)) {
            let mut batch = Batch::default();
            self.dataset.pack(part, self.virtual_tokens, noise.as_ref(), &mut batch)?;
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// Batches of an evaluation: examples by length, so that batches are even, at
/// most so many in one; and the examples of each batch.
///
/// # Errors
/// Reading the data.
pub fn evaluation_batches(dataset: &Dataset, size: usize) -> Result<Vec<Vec<usize>>, DatasetError> {
    let lengths = (0..dataset.len()).map(|example| dataset.length(example));
    let lengths = lengths.collect::<Result<Vec<usize>, DatasetError>>()?;
    let mut order: Vec<usize> = (0..dataset.len()).collect();
    order.sort_by_key(|&example| std::cmp::Reverse(lengths[example]));
    Ok(order.chunks(size.max(1)).map(<[usize]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::tests::dataset;

    fn settings(examples: u64, steps: u64, tokens: Option<u64>) -> TrainingSettings {
        TrainingSettings {
            per_device_train_batch_size: examples,
            gradient_accumulation_steps: steps,
            train_batch_tokens: tokens,
            ..TrainingSettings::default()
        }
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

    #[test]
    fn an_evaluation_takes_every_example_once() {
        let dataset = dataset(&[3, 9, 5, 7, 4]);
        let batches = evaluation_batches(&dataset, 2).unwrap();
        assert_eq!(batches, [vec![1, 3], vec![2, 4], vec![0]]);
    }
}
