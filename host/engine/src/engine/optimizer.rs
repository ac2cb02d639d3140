//! The optimizer's state, beside the parameters: what a checkpoint has to keep so that the
//! next step is the one that would have been made.

use serde::{Deserialize, Serialize};

use super::step::trained_places;
use super::{Engine, EngineError};

/// What an engine knows of its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizerState {
    /// Optimizer steps made.
    updates: u64,
    /// Whether one had a learning rate above 0.
    changed: bool,
    /// By block and place: parameters that have had no gradient in this epoch.
    silent: Vec<(usize, usize)>,
    /// Whether they were looked at in it after a change.
    looked: bool,
}

impl Engine {
    /// What is known of the steps whose results were read.
    pub fn optimizer_state(&self) -> OptimizerState {
        OptimizerState {
            updates: self.updates,
            changed: self.changed,
            silent: self.silent.clone(),
            looked: self.looked,
        }
    }

    /// Goes on from the steps of an engine of the same plans.
    pub fn set_optimizer_state(&mut self, state: OptimizerState) {
        let OptimizerState { updates, changed, mut silent, looked } = state;
        let trained = trained_places(&self.plans.parameters);
        silent.retain(|place| trained.contains(place));
        (self.updates, self.changed, self.silent, self.looked) = (updates, changed, silent, looked);
    }

    /// The first and the second moments of AdamW of a parameter that trains, by block and
    /// place, as many elements each as it has.
    ///
    /// # Errors
    /// Reading from the device.
    pub fn moments(&self, block: usize, place: usize) -> Result<[Vec<f32>; 2], EngineError> {
        Ok(self.backend.read_moments(&self.plans.parameters, block, place)?)
    }

    /// Puts moments in the place of a parameter's.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn set_moments(
        &mut self,
        block: usize,
        place: usize,
        moments: [Vec<f32>; 2],
    ) -> Result<(), EngineError> {
        Ok(self.backend.write_moments(&self.plans.parameters, block, place, moments)?)
    }
}
