//! Where a training is: what the rest of it depends on beside the engine, so that one
//! that was stopped can go on as if nothing had happened.

use serde::{Deserialize, Serialize};

use crate::engine::NamedTensor;
use crate::train::settings::TrainingSettings;

/// Where a training is. The order of the data and dropout are functions of the seed, the
/// epoch and the step: there is no state of a random generator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The epoch that runs, counted from 0, and how many of its effective batches are done.
    /// An epoch is over when it was evaluated.
    pub epoch: u64,
    pub batch: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// The most examples of a micro-batch, halved where memory did not suffice.
    pub micro_batch: usize,
    /// Sum of the losses of this epoch's steps.
    pub loss_sum: f64,
    /// The epoch of the best checkpoint, counted from 1.
    pub best_epoch: Option<u64>,
    /// The bits of its metric, which may be infinite.
    best_metric: Option<u64>,
    /// Evaluations since the best one.
    pub without_better: u64,
    /// Whether parameters without a gradient were told of.
    pub warned: bool,
    /// What had trained then, by name.
    #[serde(skip)]
    pub best: Vec<NamedTensor>,
}

impl TrainerState {
    /// The state before the first step, with micro-batches of at most so many examples.
    pub fn new(micro_batch: usize) -> TrainerState {
        TrainerState { micro_batch: micro_batch.max(1), ..TrainerState::default() }
    }

    /// The best metric so far; of an evaluation without one, negative infinity.
    pub fn best_metric(&self) -> Option<f64> {
        self.best_metric.map(f64::from_bits)
    }

    /// Whether what trains is the best checkpoint: nothing has changed since its evaluation.
    pub fn is_at_best(&self) -> bool {
        self.best_epoch.is_some() && self.without_better == 0 && self.batch == 0
    }

    /// Whether early stopping ends the training.
    pub fn patience_ends(&self, settings: &TrainingSettings) -> bool {
        settings.early_stopping_patience.is_some_and(|patience| self.without_better >= patience.max(1))
    }

    /// Whether there is nothing left to train, of so many steps in all.
    pub fn is_over(&self, settings: &TrainingSettings, steps: u64) -> bool {
        self.batch == 0 && (self.steps >= steps || self.patience_ends(settings))
    }

    /// Takes the metric of an epoch, counted from 1; answers whether it is the best so far.
    /// One that is undefined once one was defined is no better.
    pub(super) fn judge(&mut self, metric: Option<f64>, epoch: u64) -> bool {
        let better = match (metric, self.best_metric()) {
            (Some(metric), Some(known)) => metric > known,
            (None, Some(known)) => known == f64::NEG_INFINITY,
            (_, None) => true,
        };
        if better {
            self.best_metric = Some(metric.unwrap_or(f64::NEG_INFINITY).to_bits());
            self.best_epoch = Some(epoch);
            self.without_better = 0;
        } else {
            self.without_better += 1;
        }
        better
    }

    /// The epoch is over.
    pub(super) fn next_epoch(&mut self) {
        self.epoch += 1;
        self.batch = 0;
        self.loss_sum = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undefined_metric_is_better_than_nothing_and_than_no_number() {
        let mut state = TrainerState::new(0);
        assert_eq!((state.micro_batch, state.best_metric()), (1, None));
        let judged = [None, None, Some(-1.5), None, Some(-1.5), Some(0.25)];
        let better = [true, true, true, false, false, true];
        for ((epoch, metric), better) in (1..).zip(judged).zip(better) {
            assert_eq!(state.judge(metric, epoch), better, "{epoch}");
        }
        assert_eq!((state.best_epoch, state.best_metric(), state.without_better), (Some(6), Some(0.25), 0));
    }

    #[test]
    fn a_training_is_over_only_between_epochs() {
        let settings = TrainingSettings { early_stopping_patience: Some(2), ..Default::default() };
        let state = |batch, steps, without_better| TrainerState {
            batch,
            steps,
            without_better,
            ..TrainerState::default()
        };
        assert!(state(0, 6, 0).is_over(&settings, 6) && state(0, 3, 2).is_over(&settings, 6));
        assert!(!state(3, 6, 0).is_over(&settings, 6), "its last epoch is to be evaluated");
        assert!(!state(0, 3, 1).is_over(&settings, 6));
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let mut state = TrainerState { loss_sum: 0.1 + 0.2, steps: 7, ..TrainerState::new(8) };
        state.judge(None, 1);
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<TrainerState>(&json).unwrap(), state);
    }
}
