//! Training a cell: the trainer's observer, which evaluates, keeps what is best
//! and tells the progress.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host_engine::engine::Engine;
use host_engine::train::state::TrainerState;
use host_engine::train::trainer::{self, Ending, EpochReport, Observer, StepReport, Wish};
use host_ir::method::Counts;
use host_ir::task::SplitUse;

use crate::cell::{BestMetric, CellResult, CellSpec, Confidence, EpochRecord, Interrupted, Progress, Step};
use crate::runs::confidence::Resamples;
use crate::session::checkpoint::{self, Begun, Notes};
use crate::session::evaluate::Evaluated;
use crate::session::predictions;
use crate::session::prepare::Prepared;
use crate::session::saved;
use crate::session::scores::Scores;

/// The longest time in which nothing is said of steps that are done.
const SILENCE: Duration = Duration::from_secs(10);

struct Watcher<'a> {
    prepared: &'a Prepared,
    spec: &'a CellSpec,
    identity: &'a str,
    directory: &'a Path,
    progress: &'a mut dyn Progress,
    best_metric: Option<BestMetric>,
    /// What a checkpoint keeps of what was told and measured; its parts are those before
    /// this one.
    notes: Notes,
    started: Instant,
    /// When a step was told of last.
    heard: Instant,
    /// Evaluating and saving, in this part.
    evaluating: Duration,
    steps_per_epoch: u64,
    steps: u64,
    /// Of the newest evaluation.
    evaluated: Vec<Evaluated>,
    /// Of the best checkpoint, for each split.
    best: Vec<Evaluated>,
    failure: Option<anyhow::Error>,
}

impl Watcher<'_> {
    fn evaluate_all(&mut self, engine: &mut Engine) -> Result<()> {
        self.evaluated.clear();
        for split in self.prepared.splits.iter().filter(|split| split.usage == SplitUse::Evaluate) {
            let evaluated = self.prepared.evaluate(engine, self.spec, &split.name, self.progress)?;
            self.evaluated.push(evaluated);
        }
        Ok(())
    }

    fn keep_best(&mut self, engine: &Engine) -> Result<()> {
        saved::write_adapter(self.directory, self.spec, engine)?;
        self.best = std::mem::take(&mut self.evaluated);
        self.best.iter().try_for_each(|evaluated| self.write_predictions(evaluated))
    }

    fn write_predictions(&self, evaluated: &Evaluated) -> Result<()> {
        let Evaluated { metrics, predictions, .. } = evaluated;
        let Some(split) = self.prepared.splits.iter().find(|split| split.name == metrics.split) else {
            return Ok(());
        };
        let layout = &self.prepared.task.layout;
        predictions::write(self.directory, layout, &split.name, &split.examples, predictions)
    }

    /// Writes a checkpoint; says so where it is why the training ends.
    fn write_checkpoint(&mut self, engine: &Engine, state: &TrainerState) -> Result<()> {
        let (start, interrupted) = (Instant::now(), self.progress.interrupted());
        self.progress.saved()?;
        let mut notes = self.notes.clone();
        notes.parts.steps.push(state.steps);
        notes.parts.training_seconds = self.training_seconds();
        notes.parts.evaluation_seconds = self.evaluation_seconds();
        notes.parts.peak_memory_bytes = notes.parts.peak_memory_bytes.max(self.spec.device.peak_memory());
        checkpoint::write(self.directory, self.identity, engine, state, &notes, &self.best)?;
        self.evaluating += start.elapsed();
        if interrupted {
            let path = checkpoint::path(self.directory);
            let (step, steps) = (state.steps, self.steps);
            self.progress.message(&format!("saved after step {step} of {steps}, in {}", path.display()))?;
        }
        Ok(())
    }

    /// Goes on from a checkpoint: what it has of the best epoch is what the directory has.
    /// Micro-batches stay as they were, whatever else would fit, so that the bits do.
    fn go_on(&mut self, engine: &mut Engine, begun: Begun, fits: usize) -> Result<TrainerState> {
        let mut state = begun.restore(engine)?;
        (self.notes, self.best) = (begun.notes, begun.best);
        self.best.iter().try_for_each(|evaluated| self.write_predictions(evaluated))?;
        let (step, steps) = (state.steps, self.steps);
        let path = checkpoint::path(self.directory);
        self.progress.message(&format!("goes on after step {step} of {steps}, from {}", path.display()))?;
        if fits < state.micro_batch {
            let before = state.micro_batch;
            self.said(format!(
                "memory does not suffice any more for micro-batches of {before} examples; {fits} are taken, and the effective batch stays"
            ))?;
            state.micro_batch = fits;
        }
        Ok(state)
    }

    /// Draws the groups of a split, keeps what was measured, and says where a
    /// method has learned nothing.
    fn confidence(&mut self, split: &str, scores: &Scores) -> Result<Confidence> {
        let (confidence, resamples) = scores.confidence(&self.prepared.task, split)?;
        saved::write_resamples(&Resamples::path(self.directory, split), &resamples)?;
        if let Some(label) = &confidence.constant {
            self.said(format!(
                "every example of {split} is predicted as \"{label}\": nothing has been learned, whatever the scores are"
            ))?;
        }
        Ok(confidence)
    }

    /// Tells a sentence that the user should read, and keeps it for the record.
    fn said(&mut self, sentence: String) -> Result<()> {
        let told = self.progress.message(&format!("warning: {sentence}"));
        self.notes.warnings.push(sentence);
        told
    }

    /// Keeps an error for the caller, and gives the trainer its sentence.
    fn kept<T>(&mut self, result: Result<T>) -> Result<T, String> {
        result.map_err(|error| {
            let sentence = format!("{error:#}");
            self.failure = Some(error);
            sentence
        })
    }

    /// Of all parts so far.
    fn training_seconds(&self) -> f64 {
        self.notes.parts.training_seconds + (self.started.elapsed() - self.evaluating).as_secs_f64()
    }

    /// Of all parts so far.
    fn evaluation_seconds(&self) -> f64 {
        self.notes.parts.evaluation_seconds + self.evaluating.as_secs_f64()
    }

    /// Evaluates after an epoch; answers the value by which the best is chosen.
    fn judge(&mut self, engine: &mut Engine, report: &EpochReport) -> Result<Option<f64>> {
        let start = Instant::now();
        let training_seconds = self.training_seconds();
        let done = self.evaluate_all(engine);
        self.evaluating += start.elapsed();
        done?;
        let value = self.best_metric.as_ref().and_then(|best| {
            let split = self.evaluated.iter().find(|evaluated| evaluated.metrics.split == best.split)?;
            let value = split.metrics.metrics.get(&best.name)?;
            Some(if best.higher_is_better { value } else { -value })
        });
        let known = self.notes.best_value.map(f64::from_bits);
        let better = known.is_none_or(|known| value.is_some_and(|value| value > known));
        if better {
            self.notes.best_value = value.map(f64::to_bits);
        }
        let record = EpochRecord {
            epoch: report.steps as f64 / self.steps_per_epoch.max(1) as f64,
            step: report.steps,
            train_loss: Some(report.loss),
            evaluations: self.evaluated.iter().map(|evaluated| evaluated.metrics.clone()).collect(),
            best: better,
            training_seconds,
        };
        self.progress.epoch(&record)?;
        self.notes.epochs.push(record);
        Ok(value)
    }
}

impl Observer for Watcher<'_> {
    fn step(&mut self, report: &StepReport) {
        self.notes.tokens += report.tokens as u64;
        let step = Step {
            step: report.step,
            steps: report.steps,
            loss: report.loss,
            learning_rate: report.learning_rate,
            tokens: report.tokens as u64,
            more: report.more as u64,
        };
        self.heard = Instant::now();
        if let Err(error) = self.progress.step(step) {
            self.failure = Some(error);
        }
    }

    fn impatient(&self) -> bool {
        self.heard.elapsed() >= SILENCE
    }

    fn message(&mut self, sentence: String) {
        if let Err(error) = self.progress.message(&sentence) {
            self.failure = Some(error);
        }
        self.notes.warnings.push(sentence);
    }

    fn wish(&self) -> Wish {
        match (&self.failure, self.progress.interrupted()) {
            (Some(_), _) => Wish::Stop,
            (None, true) => Wish::SaveAndStop,
            (None, false) => Wish::GoOn,
        }
    }

    fn evaluate(&mut self, engine: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String> {
        match self.judge(engine, report) {
            Err(error) if error.is::<Interrupted>() => Err(error.to_string()),
            judged => self.kept(judged),
        }
    }

    fn improved(&mut self, engine: &Engine, _: u64) -> Result<(), String> {
        let start = Instant::now();
        let done = self.keep_best(engine);
        self.kept(done)?;
        self.evaluating += start.elapsed();
        Ok(())
    }

    fn save(&mut self, engine: &Engine, state: &TrainerState) -> Result<(), String> {
        let done = self.write_checkpoint(engine, state);
        self.kept(done)
    }
}

/// Trains a cell into its directory, or goes on where its checkpoint was written.
pub fn train(
    spec: &CellSpec,
    identity: &str,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<CellResult> {
    let mut prepared = super::prepare::prepare(spec)?;
    let summary = prepared.summary(spec)?;
    // Before the weights take some of the memory that is free.
    let (micro_batch, _) = prepared.micro_batch(spec)?;
    progress.start(&summary)?;
    saved::write_plan(directory, &prepared.plans.method)?;
    let mut engine = prepared.engine(spec)?;
    let prepared = prepared;
    let begun = match Begun::find(directory, identity, &engine, &prepared) {
        Ok(begun) => begun,
        Err(error) => {
            progress.message(&format!("warning: {error:#}; it is not used, and the cell is trained anew"))?;
            None
        }
    };
    let mut sampler = prepared.sampler(spec)?;
    let mut watcher = Watcher {
        prepared: &prepared,
        spec,
        identity,
        directory,
        progress,
        best_metric: prepared.best_metric(),
        notes: Notes { warnings: summary.warnings.clone(), ..Notes::default() },
        started: Instant::now(),
        heard: Instant::now(),
        evaluating: Duration::ZERO,
        steps_per_epoch: trainer::Batches::steps_of_epoch(&mut sampler, 0)?,
        steps: summary.steps,
        evaluated: Vec::new(),
        best: Vec::new(),
        failure: None,
    };
    let mut state = match begun {
        Some(begun) => watcher.go_on(&mut engine, begun, micro_batch)?,
        None => TrainerState::new(micro_batch),
    };
    watcher.progress.begin(state.steps, watcher.notes.parts.training_seconds)?;
    watcher.started = Instant::now();
    let ended =
        trainer::train(&mut engine, &mut sampler, &spec.training, spec.seed, &mut state, &mut watcher);
    let ended = watcher.failure.take().map_or(ended.map_err(anyhow::Error::from), Err);
    let ending = ended.with_context(|| match watcher.best.is_empty() {
        true => "training ended without a result".to_string(),
        false => format!("training ended early; the best checkpoint so far is in {}", directory.display()),
    })?;
    if ending == Ending::Stopped {
        bail!(Interrupted);
    }
    watcher.result(&mut engine, &state, summary.counts)
}

impl Watcher<'_> {
    /// Evaluates what is left to evaluate of the best checkpoint, and says what came of the
    /// cell.
    fn result(mut self, engine: &mut Engine, state: &TrainerState, counts: Counts) -> Result<CellResult> {
        if !self.notes.parts.steps.is_empty() {
            // What a killed process has written last may be of an epoch after its checkpoint.
            saved::write_adapter(self.directory, self.spec, engine)?;
        }
        let training_seconds = self.training_seconds();
        let (start, prepared) = (Instant::now(), self.prepared);
        let mut evaluated = Vec::new();
        for split in prepared.splits.iter().filter(|split| split.usage == SplitUse::Optional) {
            match prepared.evaluate(engine, self.spec, &split.name, self.progress) {
                Ok(of_split) => evaluated.push(of_split),
                Err(error) => {
                    self.evaluating += start.elapsed();
                    if error.is::<Interrupted>() {
                        self.write_checkpoint(engine, state)?;
                    }
                    return Err(error);
                }
            }
        }
        evaluated.iter().try_for_each(|of_split| self.write_predictions(of_split))?;
        evaluated.splice(0..0, std::mem::take(&mut self.best));
        let (mut metrics, mut confidence) = (Vec::new(), Vec::new());
        for of_split in evaluated {
            confidence.push(self.confidence(&of_split.metrics.split, &of_split.scores)?);
            metrics.push(of_split.metrics);
        }
        self.evaluating += start.elapsed();
        let order = prepared.evaluated();
        metrics.sort_by_key(|metrics| order.iter().position(|name| *name == metrics.split));
        let best_epoch = state.best_epoch.and_then(|epoch| self.notes.epochs.get(epoch as usize - 1));
        Ok(CellResult {
            counts,
            steps: state.steps,
            tokens: self.notes.tokens,
            training_seconds,
            evaluation_seconds: self.evaluation_seconds(),
            plugin_load_seconds: prepared.load_seconds,
            plugin_plan_seconds: prepared.plan_seconds,
            metrics,
            confidence,
            baseline: prepared.majority()?,
            best_metric: self.best_metric,
            best_epoch: best_epoch.map(|record| record.epoch),
            epochs: self.notes.epochs,
            warnings: self.notes.warnings,
            earlier: self.notes.parts,
        })
    }
}
