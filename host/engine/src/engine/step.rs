//! Optimizer steps: the gradients of an effective batch, clipping and the update. What a
//! step came to stays where it was computed until it is asked for, so that a device
//! which computes by itself is not waited for in each step.

use super::{Engine, EngineError};
use crate::backend::{AdamW, BackendError, Number, Step, run};
use crate::batch::Batch;
use crate::parameters::Parameters;
use crate::program::value::Sizes;
use crate::train::settings::TrainingSettings;

/// What an optimizer step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// The number of the step, from 1.
    pub step: u64,
    /// The loss, before the update.
    pub loss: f64,
    /// Euclidean norm of the gradients, before clipping.
    pub gradient_norm: f64,
    /// Whether an update before it, with a learning rate above 0, has changed what trains.
    pub changed: bool,
}

impl StepResult {
    /// # Errors
    /// A loss or a norm that is no number.
    pub fn check(&self) -> Result<(), EngineError> {
        for (what, value) in [("loss", self.loss), ("norm of the gradients", self.gradient_norm)] {
            if !value.is_finite() {
                return Err(EngineError::NotFinite { what, step: self.step, value, changed: self.changed });
            }
        }
        Ok(())
    }
}

/// The sum of a loss's elements over a micro-batch, and its part in the step's loss: by
/// which it is multiplied and divided.
struct LossPart {
    sum: Number,
    factor: f64,
    divisor: f64,
}

/// A step whose numbers were not read yet.
pub(super) struct Unread {
    step: u64,
    changed: bool,
    losses: Vec<LossPart>,
    gradient_norm: Number,
    /// Parameters, by block and place, that had no gradient when numbers were read last,
    /// each with what is 0 where it has none.
    silent: Vec<((usize, usize), Number)>,
}

/// Memory that ends in the middle of an update leaves some parameters changed, so
/// that the step must not be made again.
fn in_update(error: EngineError) -> EngineError {
    match error {
        EngineError::Backend(error) if error.is_out_of_memory() => EngineError::Backend(BackendError::Wrong(
            format!("in the middle of an update, {error}: smaller batches leave more of it"),
        )),
        error => error,
    }
}

/// Block and place of every parameter that trains.
pub(super) fn trained_places(parameters: &Parameters) -> Vec<(usize, usize)> {
    let blocks = parameters.blocks.iter().enumerate();
    blocks
        .flat_map(|(block, content)| {
            let parts = content.parts.iter().enumerate().filter(|(_, part)| part.trained);
            parts.map(move |(place, _)| (block, place))
        })
        .collect()
}

impl Engine {
    /// Names of parameters that should train and whose gradient was exactly zero
    /// in every step that was read since the last call, unless nothing had changed before
    /// them; the count begins anew.
    pub fn take_silent(&mut self) -> Vec<String> {
        let blocks = &self.plans.parameters.blocks;
        let silent = std::mem::replace(&mut self.silent, trained_places(&self.plans.parameters));
        let looked = std::mem::take(&mut self.looked);
        let silent = silent.into_iter().filter(|_| looked);
        silent.map(|(block, place)| blocks[block].parts[place].name.clone()).collect()
    }

    /// Optimizer steps made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Whether a device computes by itself, which [`Self::results`] waits for.
    pub fn waits(&self) -> bool {
        self.backend.waits()
    }

    /// Runs forward and backward on the micro-batches of one effective batch,
    /// clips the gradients and updates what trains. [`Self::results`] says what it
    /// came to.
    ///
    /// # Errors
    /// Memory that is not to be had: gradients are cleared and nothing has
    /// changed, so that the step can be tried again with smaller micro-batches.
    /// A loss or a norm that is no number, where reading it waits for nothing: nothing
    /// has changed either.
    pub fn step(
        &mut self,
        micro_batches: &[Batch],
        settings: &TrainingSettings,
        learning_rate: f64,
        seed: u64,
    ) -> Result<(), EngineError> {
        let result = self.computed(micro_batches, settings, seed).and_then(|(step, scale)| {
            self.update(&scale, settings, learning_rate).map_err(in_update)?;
            self.unread.push(step);
            Ok(())
        });
        if result.is_err() {
            self.backend.clear_gradients()?;
        }
        result
    }

    /// What the steps since the last call came to, in their order. Waits for the device.
    ///
    /// # Errors
    /// Reading from the device.
    pub fn results(&mut self) -> Result<Vec<StepResult>, EngineError> {
        let steps = std::mem::take(&mut self.unread);
        self.read(&steps)
    }

    /// Adds up the gradients of an effective batch; answers its loss.
    ///
    /// # Errors
    /// Memory that is not to be had; a loss that is no number.
    pub fn accumulate(&mut self, micro_batches: &[Batch], seed: u64) -> Result<f64, EngineError> {
        let losses = self.losses(micro_batches, seed)?;
        let none = Number::Known(0.0);
        let (number, changed) = (self.updates + 1, self.changed);
        let step = Unread { step: number, changed, losses, gradient_norm: none, silent: Vec::new() };
        let result = self.read(&[step])?[0];
        result.check().map(|()| result.loss)
    }

    /// The gradients of a step, left on the device, and by what they are to be multiplied.
    fn computed(
        &mut self,
        micro_batches: &[Batch],
        settings: &TrainingSettings,
        seed: u64,
    ) -> Result<(Unread, Number), EngineError> {
        let losses = self.losses(micro_batches, seed)?;
        let gradient_norm = self.backend.gradient_norm()?;
        let parameters = &self.plans.parameters;
        let silent = self.silent.iter().map(|&(block, place)| {
            Ok(((block, place), self.backend.any_gradient(parameters, block, place)?))
        });
        let silent = silent.collect::<Result<_, BackendError>>()?;
        let scale = match settings.max_grad_norm > 0.0 {
            true => self.backend.clip(&gradient_norm, settings.max_grad_norm)?,
            false => Number::Known(1.0),
        };
        let (number, changed) = (self.updates + 1, self.changed);
        let step = Unread { step: number, changed, losses, gradient_norm, silent };
        if !self.backend.waits() {
            self.read(std::slice::from_ref(&step))?[0].check()?;
        }
        Ok((step, scale))
    }

    /// Runs the program on the micro-batches of an effective batch; answers the parts of
    /// its loss.
    fn losses(&mut self, micro_batches: &[Batch], seed: u64) -> Result<Vec<LossPart>, EngineError> {
        let program = &self.training.program;
        let counts: Vec<usize> = program
            .losses
            .iter()
            .map(|loss| {
                micro_batches.iter().map(|batch| program.value(loss.value).elements(&Sizes::of(batch))).sum()
            })
            .collect();
        let share = 1.0 / micro_batches.len().max(1) as f32;
        let step = Step {
            seed,
            number: self.updates,
            loss_weights: counts.iter().map(|&count| 1.0 / count.max(1) as f32).collect(),
            micro_batch_share: share,
        };
        let mut parts = Vec::new();
        for batch in micro_batches {
            run(self.backend.as_mut(), &self.training, batch, &step)?;
            for ((loss, sum), &count) in program.losses.iter().zip(self.backend.losses()?).zip(&counts) {
                parts.push(match loss.once {
                    true => LossPart { sum, factor: f64::from(share), divisor: 1.0 },
                    false => LossPart { sum, factor: 1.0, divisor: count.max(1) as f64 },
                });
            }
        }
        Ok(parts)
    }

    /// Reads the numbers of steps, together, and notes which parameters had a gradient.
    fn read(&mut self, steps: &[Unread]) -> Result<Vec<StepResult>, EngineError> {
        let mut numbers = Vec::new();
        for step in steps {
            numbers.extend(step.losses.iter().map(|part| part.sum.clone()));
            numbers.push(step.gradient_norm.clone());
            numbers.extend(step.silent.iter().map(|(_, number)| number.clone()));
        }
        let mut numbers = self.backend.numbers(&numbers)?.into_iter();
        let mut next = || numbers.next().unwrap_or(f64::NAN);
        let mut results = Vec::with_capacity(steps.len());
        for step in steps {
            let loss = step.losses.iter().map(|part| next() * part.factor / part.divisor).sum();
            let gradient_norm = next();
            let heard: Vec<_> =
                step.silent.iter().filter(|_| next() != 0.0).map(|&(place, _)| place).collect();
            self.silent.retain(|place| !heard.contains(place));
            self.looked |= step.changed && !step.silent.is_empty();
            results.push(StepResult { step: step.step, loss, gradient_norm, changed: step.changed });
        }
        Ok(results)
    }

    /// Updates what trains by its gradients, multiplied by a number.
    fn update(
        &mut self,
        scale: &Number,
        settings: &TrainingSettings,
        learning_rate: f64,
    ) -> Result<(), EngineError> {
        self.updates += 1;
        self.changed |= learning_rate > 0.0;
        let parameters = self.plans.parameters.clone();
        let mut rules = Vec::new();
        for (block, content) in parameters.blocks.iter().enumerate() {
            for (place, part) in content.parts.iter().enumerate().filter(|(_, part)| part.trained) {
                let decay =
                    part.weight_decay.unwrap_or(if part.decays { settings.weight_decay } else { 0.0 });
                // The head's rate follows the same schedule.
                let head_factor = match settings.head_learning_rate {
                    Some(rate) if part.head && settings.learning_rate > 0.0 => rate / settings.learning_rate,
                    _ => 1.0,
                };
                let rule = AdamW {
                    learning_rate: learning_rate * part.learning_rate * head_factor,
                    beta1: settings.adam_beta1,
                    beta2: settings.adam_beta2,
                    epsilon: settings.adam_epsilon,
                    weight_decay: decay,
                    update: self.updates,
                };
                rules.push((block, place, rule));
            }
        }
        Ok(self.backend.update_all(&parameters, &rules, scale)?)
    }
}
