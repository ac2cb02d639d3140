//! The learning rate over the steps of a training.

use crate::train::settings::{Schedule, TrainingSettings};

/// Learning rates by optimizer step, as transformers' `get_linear_schedule_with_warmup`,
/// `get_constant_schedule_with_warmup` and `get_cosine_schedule_with_warmup`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    peak: f64,
    schedule: Schedule,
    warmup: u64,
    steps: u64,
}

impl LearningRate {
    /// The rates of a training of so many optimizer steps.
    pub fn new(settings: &TrainingSettings, steps: u64) -> LearningRate {
        let by_ratio = (settings.warmup_ratio * steps as f64).ceil() as u64;
        let warmup = settings.warmup_steps.unwrap_or(by_ratio);
        LearningRate { peak: settings.learning_rate, schedule: settings.lr_scheduler_type, warmup, steps }
    }

    /// The rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup.max(1) as f64;
        }
        let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = (step - self.warmup) as f64 / span;
        self.peak
            * match self.schedule {
                Schedule::Linear => (1.0 - done).max(0.0),
                Schedule::Constant => 1.0,
                Schedule::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(schedule: Schedule, step: u64) -> f64 {
        let settings = TrainingSettings {
            learning_rate: 1.0,
            lr_scheduler_type: schedule,
            warmup_ratio: 0.095,
            ..Default::default()
        };
        LearningRate::new(&settings, 100).at(step)
    }

    #[test]
    fn warm_up_rises_from_zero_and_is_rounded_up() {
        assert_eq!(rate(Schedule::Linear, 0), 0.0);
        assert_eq!(rate(Schedule::Linear, 5), 0.5);
        assert_eq!(rate(Schedule::Constant, 10), 1.0);
    }

    #[test]
    fn rates_fall_as_their_names_say() {
        assert!((rate(Schedule::Linear, 55) - 0.5).abs() < 1e-12);
        assert!((rate(Schedule::Cosine, 55) - 0.5).abs() < 1e-12);
        assert_eq!(rate(Schedule::Constant, 99), 1.0);
        assert!(rate(Schedule::Linear, 99) > 0.0);
    }
}
