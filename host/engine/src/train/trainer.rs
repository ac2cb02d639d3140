//! The training loop, after transformers' Trainer: effective batches of a
//! seeded permutation, evaluation after each epoch, the best checkpoint kept.
//! While a step computes, another thread prepares the next batch. A device that computes
//! by itself is not waited for but where losses are told: after the first step of an
//! epoch, then every few steps, and before an evaluation.

use std::thread;

use crate::batch::Batch;
use crate::data::dataset::DatasetError;
use crate::engine::{Engine, EngineError, NamedTensor};
use crate::train::schedule::LearningRate;
use crate::train::settings::TrainingSettings;

/// Parameters without a gradient that a warning names.
const SILENT_NAMED: usize = 4;

/// Steps that are told of together where that waits for a device.
const TOLD_TOGETHER: usize = 10;

/// Where effective batches come from.
pub trait Batches: Send {
    /// Effective batches of an epoch, counted from 0. Batches of so many tokens
    /// may be more or fewer from one epoch to the next.
    ///
    /// # Errors
    /// Reading the data.
    fn steps_of_epoch(&mut self, epoch: u64) -> Result<u64, DatasetError>;

    /// The effective batch with this number of an epoch, both counted from 0,
    /// in micro-batches of at most so many examples.
    ///
    /// # Errors
    /// Reading the data.
    fn effective_batch(
        &mut self,
        epoch: u64,
        number: u64,
        micro_batch: usize,
    ) -> Result<Vec<Batch>, DatasetError>;
}

/// What a step came to, for progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included, and to do in all.
    pub step: u64,
    pub steps: u64,
    pub epoch: u64,
    pub loss: f64,
    pub gradient_norm: f64,
    pub learning_rate: f64,
    /// Rows of the effective batch.
    pub tokens: usize,
    /// Steps that are done as well, and told of right after this one.
    pub more: usize,
}

/// What an epoch came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: u64,
    /// Mean loss of the epoch's steps.
    pub loss: f64,
    pub steps: u64,
    /// Whether training ends here.
    pub last: bool,
}

/// What the trainer asks of the one who trains.
pub trait Observer {
    /// Each step, in order; several one after the other where a device is waited for
    /// only now and then.
    fn step(&mut self, report: &StepReport);

    /// Whether steps should be told of now, even where that waits for a device.
    fn impatient(&self) -> bool;

    /// Something that the user should know.
    fn message(&mut self, sentence: String);

    /// Whether to stop now, after the current step.
    fn stopped(&self) -> bool;

    /// Evaluates after an epoch. Answers the metric that chooses the best
    /// checkpoint as a number of which more is better, or `None` where there is
    /// nothing to evaluate.
    ///
    /// # Errors
    /// Any sentence; training ends with it.
    fn evaluate(&mut self, engine: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String>;

    /// Called when an epoch gave the best checkpoint so far.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    fn improved(&mut self, engine: &Engine, epoch: u64) -> Result<(), String>;
}

/// How a training ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ending {
    pub steps: u64,
    /// The epoch of the best checkpoint, from 1.
    pub best_epoch: Option<u64>,
    /// Examples of a micro-batch at the end.
    pub micro_batch: usize,
    /// Whether the observer stopped it.
    pub stopped: bool,
}

/// Why training ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// A loss or a norm that is no number, with its batch, both counted from 1.
    #[error("batch {batch} of epoch {epoch}: {error}")]
    NotFinite { epoch: u64, batch: u64, error: EngineError },
    #[error("{0}")]
    Observer(String),
    #[error("there is nothing to train on: no step in {0} epochs")]
    NoSteps(f64),
}

/// Optimizer steps of a training, as transformers' Trainer counts them.
pub fn total_steps(settings: &TrainingSettings, steps_per_epoch: u64) -> u64 {
    settings.max_steps.unwrap_or_else(|| (settings.num_train_epochs * steps_per_epoch as f64).ceil() as u64)
}

/// Trains, and leaves the engine with the best checkpoint.
///
/// # Errors
/// A step that cannot be made; a sentence of the observer.
pub fn train(
    engine: &mut Engine,
    batches: &mut dyn Batches,
    settings: &TrainingSettings,
    micro_batch: usize,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<Ending, TrainError> {
    let steps_per_epoch = batches.steps_of_epoch(0)?;
    let steps = total_steps(settings, steps_per_epoch);
    if steps == 0 || steps_per_epoch == 0 {
        return Err(TrainError::NoSteps(settings.num_train_epochs));
    }
    let rates = LearningRate::new(settings, steps);
    let mut ending = Ending { micro_batch: micro_batch.max(1), ..Ending::default() };
    let mut best: Option<(f64, Vec<NamedTensor>)> = None;
    let mut without_better = 0;
    let mut warned = false;
    let mut ahead = None;
    let mut untold = Vec::new();
    for epoch in 0.. {
        let mut loss_sum = 0.0;
        let first = ending.steps;
        let in_epoch = batches.steps_of_epoch(epoch)?.min(steps - ending.steps);
        for number in 0..in_epoch {
            let learning_rate = rates.at(ending.steps);
            let which = Which { epoch, number, micro_batch: ending.micro_batch };
            let more = number + 1 < in_epoch;
            let (tokens, micro_batch) = step(
                engine,
                (&mut *batches, &mut ahead),
                settings,
                (which, more),
                learning_rate,
                seed,
                observer,
            )?;
            ending.micro_batch = micro_batch;
            ending.steps += 1;
            untold.push(Untold { epoch, number, learning_rate, tokens });
            let stopped = observer.stopped();
            let together = if engine.waits() { TOLD_TOGETHER } else { 1 };
            if stopped || !more || number == 0 || untold.len() >= together || observer.impatient() {
                loss_sum += tell(engine, &mut untold, steps, observer)?;
            }
            if stopped || observer.stopped() {
                ending.stopped = true;
                return Ok(ending);
            }
        }
        let silent = engine.take_silent();
        if !silent.is_empty() && !warned {
            warn_of_silent(&silent, epoch + 1, observer);
            warned = true;
        }
        let done = ending.steps - first;
        let last = ending.steps >= steps;
        let report =
            EpochReport { epoch: epoch + 1, loss: loss_sum / done.max(1) as f64, steps: ending.steps, last };
        let metric = observer.evaluate(engine, &report).map_err(TrainError::Observer)?;
        // A metric that is undefined once it was defined is no better.
        let better = match (metric, &best) {
            (Some(metric), Some((known, _))) => metric > *known,
            (None, Some((known, _))) => *known == f64::NEG_INFINITY,
            (_, None) => true,
        };
        if better {
            best = Some((metric.unwrap_or(f64::NEG_INFINITY), engine.trained()?));
            ending.best_epoch = Some(report.epoch);
            without_better = 0;
            observer.improved(engine, report.epoch).map_err(TrainError::Observer)?;
        } else {
            without_better += 1;
        }
        let patience_ends =
            settings.early_stopping_patience.is_some_and(|patience| without_better >= patience.max(1));
        if last || patience_ends {
            if patience_ends && !last {
                observer
                    .message(format!("stopped early: {without_better} evaluations without a better metric"));
            }
            break;
        }
    }
    if let Some((_, tensors)) = best.filter(|_| without_better > 0) {
        engine.restore(&tensors)?;
    }
    Ok(ending)
}

/// An effective batch, by epoch, number and the most examples of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Which {
    epoch: u64,
    number: u64,
    micro_batch: usize,
}

/// A batch that was prepared while the step before it computed.
type Ahead = Option<(Which, Result<Vec<Batch>, DatasetError>)>;

/// A step that was made and not told of yet.
struct Untold {
    epoch: u64,
    number: u64,
    learning_rate: f64,
    tokens: usize,
}

/// Reads what steps came to, waiting for the device, and tells of them; answers the sum
/// of their losses.
fn tell(
    engine: &mut Engine,
    untold: &mut Vec<Untold>,
    steps: u64,
    observer: &mut dyn Observer,
) -> Result<f64, TrainError> {
    let mut loss_sum = 0.0;
    let mut more = untold.len();
    for (result, told) in engine.results()?.into_iter().zip(untold.drain(..)) {
        let Untold { epoch, number, learning_rate, tokens } = told;
        result.check().map_err(|error| not_finite(epoch, number, error))?;
        loss_sum += result.loss;
        more -= 1;
        observer.step(&StepReport {
            step: result.step,
            steps,
            epoch: epoch + 1,
            loss: result.loss,
            gradient_norm: result.gradient_norm,
            learning_rate,
            tokens,
            more,
        });
    }
    Ok(loss_sum)
}

/// What is no number, with its batch, both counted from 0.
fn not_finite(epoch: u64, number: u64, error: EngineError) -> TrainError {
    TrainError::NotFinite { epoch: epoch + 1, batch: number + 1, error }
}

/// One step; where memory runs out, again with micro-batches of half the size. Answers
/// the rows of its batch, and the most examples of a micro-batch. Meanwhile the next
/// batch is prepared, if there is to be `more`.
fn step(
    engine: &mut Engine,
    (batches, ahead): (&mut dyn Batches, &mut Ahead),
    settings: &TrainingSettings,
    (mut which, more): (Which, bool),
    learning_rate: f64,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<(usize, usize), TrainError> {
    loop {
        let Which { epoch, number, micro_batch } = which;
        let effective = match ahead.take() {
            Some((known, prepared)) if known == which => prepared?,
            _ => batches.effective_batch(epoch, number, micro_batch)?,
        };
        let tokens = effective.iter().map(Batch::rows).sum();
        let next = Which { number: number + 1, ..which };
        let result = thread::scope(|scope| {
            let preparing = match more {
                true => Some(scope.spawn(|| batches.effective_batch(epoch, next.number, micro_batch))),
                false => None,
            };
            let result = engine.step(&effective, settings, learning_rate, seed);
            let prepared = preparing
                .map(|preparing| preparing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            *ahead = prepared.map(|prepared| (next, prepared));
            result
        });
        match result {
            Ok(()) => return Ok((tokens, micro_batch)),
            Err(EngineError::Backend(error))
                if error.is_out_of_memory() && settings.auto_find_batch_size && micro_batch > 1 =>
            {
                which.micro_batch = micro_batch.div_ceil(2);
                observer.message(format!(
                    "{error}: going on with micro-batches of {} examples; the effective batch stays the same",
                    which.micro_batch
                ));
            }
            Err(error @ EngineError::NotFinite { .. }) => return Err(not_finite(epoch, number, error)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Says which parameters have had no gradient in an epoch.
fn warn_of_silent(silent: &[String], epoch: u64, observer: &mut dyn Observer) {
    let named = silent.iter().take(SILENT_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match silent.len().saturating_sub(SILENT_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    observer.message(format!(
        "the gradient was exactly zero in the whole of epoch {epoch}: {named}{more}; what trains there learns nothing"
    ));
}
