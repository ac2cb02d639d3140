//! The training loop, after transformers' Trainer: effective batches of a
//! seeded permutation, evaluation after each epoch, the best checkpoint kept. All that it
//! knows beside the engine is a [`TrainerState`], with which a stopped one goes on.
//! While a step computes, another thread prepares the next batch. A device that computes
//! by itself is not waited for but where losses are told: after the first step of an
//! epoch, then every few steps, and before an evaluation.

use std::thread;

use crate::batch::Batch;
use crate::data::dataset::DatasetError;
use crate::engine::{Engine, EngineError};
use crate::train::schedule::LearningRate;
use crate::train::settings::{SaveStrategy, TrainingSettings};
use crate::train::state::TrainerState;

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

/// What the one who trains wants, after the current step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    GoOn,
    Stop,
    /// To go on from there another time.
    SaveAndStop,
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

    /// Whether to go on. Asked after each step, each evaluation and each epoch.
    fn wish(&self) -> Wish;

    /// Evaluates after an epoch. Answers the metric that chooses the best
    /// checkpoint as a number of which more is better, or `None` where there is
    /// nothing to evaluate. One that ends with an error while the wish is
    /// [`Wish::SaveAndStop`] is made again from its start another time.
    ///
    /// # Errors
    /// Any sentence; training ends with it.
    fn evaluate(&mut self, engine: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String>;

    /// Called when an epoch gave the best checkpoint so far.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    fn improved(&mut self, engine: &Engine, epoch: u64) -> Result<(), String>;

    /// Writes a checkpoint from which another engine can go on. All steps that were made
    /// have been told of.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    fn save(&mut self, engine: &Engine, state: &TrainerState) -> Result<(), String>;
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The engine has the best checkpoint.
    Done,
    /// The observer stopped it.
    Stopped,
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

/// Trains on from a state, and leaves the engine with the best checkpoint.
///
/// # Errors
/// A step that cannot be made; a sentence of the observer.
pub fn train(
    engine: &mut Engine,
    batches: &mut dyn Batches,
    settings: &TrainingSettings,
    seed: u64,
    state: &mut TrainerState,
    observer: &mut dyn Observer,
) -> Result<Ending, TrainError> {
    let steps_per_epoch = batches.steps_of_epoch(0)?;
    let steps = total_steps(settings, steps_per_epoch);
    if steps == 0 || steps_per_epoch == 0 {
        return Err(TrainError::NoSteps(settings.num_train_epochs));
    }
    while !state.is_over(settings, steps) {
        let steps_end = train_epoch(engine, batches, settings, (seed, steps), state, observer)?;
        if steps_end == Ending::Stopped
            || judge_epoch(engine, settings, steps, state, observer)? == Ending::Stopped
        {
            return Ok(Ending::Stopped);
        }
    }
    if state.without_better > 0 {
        engine.restore(&state.best)?;
    }
    Ok(Ending::Done)
}

/// Makes the steps of an epoch that are left, of so many steps in all.
fn train_epoch(
    engine: &mut Engine,
    batches: &mut dyn Batches,
    settings: &TrainingSettings,
    (seed, steps): (u64, u64),
    state: &mut TrainerState,
    observer: &mut dyn Observer,
) -> Result<Ending, TrainError> {
    let rates = LearningRate::new(settings, steps);
    let epoch = state.epoch;
    let first = state.steps - state.batch;
    let in_epoch = batches.steps_of_epoch(epoch)?.min(steps - first);
    let (mut ahead, mut untold) = (None, Vec::new());
    for number in state.batch..in_epoch {
        let learning_rate = rates.at(state.steps);
        let which = Which { epoch, number, micro_batch: state.micro_batch };
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
        state.micro_batch = micro_batch;
        state.steps += 1;
        state.batch += 1;
        untold.push(Untold { epoch, number, learning_rate, tokens });
        let save = settings.saves_after(state.steps);
        let together = if engine.waits() { TOLD_TOGETHER } else { 1 };
        if save
            || !more
            || number == 0
            || untold.len() >= together
            || observer.wish() != Wish::GoOn
            || observer.impatient()
        {
            state.loss_sum += tell(engine, &mut untold, steps, observer)?;
        }
        // Telling takes a moment: what is wished now may be something else.
        let told = untold.is_empty();
        match observer.wish() {
            Wish::GoOn if save => saved(engine, state, observer)?,
            Wish::SaveAndStop if told => return stop(engine, state, observer),
            Wish::Stop => return Ok(Ending::Stopped),
            Wish::GoOn | Wish::SaveAndStop => {}
        }
    }
    Ok(Ending::Done)
}

/// Evaluates after an epoch whose steps are done, and goes to the next one.
fn judge_epoch(
    engine: &mut Engine,
    settings: &TrainingSettings,
    steps: u64,
    state: &mut TrainerState,
    observer: &mut dyn Observer,
) -> Result<Ending, TrainError> {
    let epoch = state.epoch + 1;
    let silent = engine.take_silent();
    if !silent.is_empty() && !state.warned {
        warn_of_silent(&silent, epoch, observer);
        state.warned = true;
    }
    let last = state.steps >= steps;
    let report =
        EpochReport { epoch, loss: state.loss_sum / state.batch.max(1) as f64, steps: state.steps, last };
    let metric = match observer.evaluate(engine, &report) {
        Ok(metric) => metric,
        Err(_) if observer.wish() == Wish::SaveAndStop => return stop(engine, state, observer),
        Err(sentence) => return Err(TrainError::Observer(sentence)),
    };
    if state.judge(metric, epoch) {
        state.best = engine.trained()?;
        observer.improved(engine, epoch).map_err(TrainError::Observer)?;
    }
    state.next_epoch();
    if state.patience_ends(settings) && !last {
        let evaluations = state.without_better;
        observer.message(format!("stopped early: {evaluations} evaluations without a better metric"));
    }
    match observer.wish() {
        Wish::GoOn if settings.save_strategy == SaveStrategy::Epoch => saved(engine, state, observer)?,
        Wish::GoOn => {}
        Wish::SaveAndStop => return stop(engine, state, observer),
        Wish::Stop => return Ok(Ending::Stopped),
    }
    Ok(Ending::Done)
}

fn saved(engine: &Engine, state: &TrainerState, observer: &mut dyn Observer) -> Result<(), TrainError> {
    observer.save(engine, state).map_err(TrainError::Observer)
}

/// Saves, so that another training goes on from here.
fn stop(engine: &Engine, state: &TrainerState, observer: &mut dyn Observer) -> Result<Ending, TrainError> {
    saved(engine, state, observer).map(|()| Ending::Stopped)
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
