//! Training a cell: the trainer's observer, which evaluates, keeps what is best
//! and tells the progress.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host_engine::engine::Engine;
use host_engine::train::trainer::{self, EpochReport, Observer, StepReport};
use host_ir::task::SplitUse;

use crate::cell::{BestMetric, CellResult, CellSpec, Confidence, EpochRecord, Progress, SplitMetrics, Step};
use crate::runs::confidence::Resamples;
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
    directory: &'a Path,
    progress: &'a mut dyn Progress,
    best_metric: Option<BestMetric>,
    best_value: Option<f64>,
    started: Instant,
    /// When a step was told of last.
    heard: Instant,
    evaluating: Duration,
    tokens: u64,
    steps_per_epoch: u64,
    /// Of the newest evaluation.
    evaluated: Vec<Evaluated>,
    /// Of the best checkpoint, for each split.
    best: Vec<(SplitMetrics, Scores)>,
    epochs: Vec<EpochRecord>,
    warnings: Vec<String>,
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

    fn save(&mut self, engine: &Engine) -> Result<()> {
        saved::write_adapter(self.directory, self.spec, engine)?;
        let evaluated = std::mem::take(&mut self.evaluated).into_iter();
        self.best = evaluated.map(|evaluated| self.keep(evaluated)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Writes the predictions of a split; what stays are its scores.
    fn keep(&self, evaluated: Evaluated) -> Result<(SplitMetrics, Scores)> {
        let Evaluated { metrics, predictions, scores } = evaluated;
        if let Some(split) = self.prepared.splits.iter().find(|split| split.name == metrics.split) {
            let layout = &self.prepared.task.layout;
            predictions::write(self.directory, layout, &split.name, &split.examples, &predictions)?;
        }
        Ok((metrics, scores))
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
        self.warnings.push(sentence);
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

    fn training_seconds(&self) -> f64 {
        (self.started.elapsed() - self.evaluating).as_secs_f64()
    }
}

impl Observer for Watcher<'_> {
    fn step(&mut self, report: &StepReport) {
        self.tokens += report.tokens as u64;
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
        self.warnings.push(sentence);
    }

    fn stopped(&self) -> bool {
        self.failure.is_some()
    }

    fn evaluate(&mut self, engine: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String> {
        let start = Instant::now();
        let training_seconds = self.training_seconds();
        let done = self.evaluate_all(engine);
        self.kept(done)?;
        self.evaluating += start.elapsed();
        let value = self.best_metric.as_ref().and_then(|best| {
            let split = self.evaluated.iter().find(|evaluated| evaluated.metrics.split == best.split)?;
            let value = split.metrics.metrics.get(&best.name)?;
            Some(if best.higher_is_better { value } else { -value })
        });
        let better = self.best_value.is_none_or(|known| value.is_some_and(|value| value > known));
        if better {
            self.best_value = value;
        }
        let record = EpochRecord {
            epoch: report.steps as f64 / self.steps_per_epoch.max(1) as f64,
            step: report.steps,
            train_loss: Some(report.loss),
            evaluations: self.evaluated.iter().map(|evaluated| evaluated.metrics.clone()).collect(),
            best: better,
            training_seconds,
        };
        let told = self.progress.epoch(&record);
        self.kept(told)?;
        self.epochs.push(record);
        Ok(value)
    }

    fn improved(&mut self, engine: &Engine, _: u64) -> Result<(), String> {
        let start = Instant::now();
        let done = self.save(engine);
        self.kept(done)?;
        self.evaluating += start.elapsed();
        Ok(())
    }
}

/// Trains a cell into its directory.
pub fn train(spec: &CellSpec, directory: &Path, progress: &mut dyn Progress) -> Result<CellResult> {
    let mut prepared = super::prepare::prepare(spec)?;
    let summary = prepared.summary(spec)?;
    let (micro_batch, _) = prepared.micro_batch(spec)?;
    progress.start(&summary)?;
    saved::write_plan(directory, &prepared.plans.method)?;
    let mut engine = prepared.engine(spec)?;
    let prepared = prepared;
    let mut sampler = prepared.sampler(spec)?;
    let mut watcher = Watcher {
        prepared: &prepared,
        spec,
        directory,
        progress,
        best_metric: prepared.best_metric(),
        best_value: None,
        started: Instant::now(),
        heard: Instant::now(),
        evaluating: Duration::ZERO,
        tokens: 0,
        steps_per_epoch: trainer::Batches::steps_of_epoch(&mut sampler, 0)?,
        evaluated: Vec::new(),
        best: Vec::new(),
        epochs: Vec::new(),
        warnings: summary.warnings.clone(),
        failure: None,
    };
    let ended =
        trainer::train(&mut engine, &mut sampler, &spec.training, micro_batch, spec.seed, &mut watcher);
    let ended = watcher.failure.take().map_or(ended.map_err(anyhow::Error::from), Err);
    let ending = ended.with_context(|| match watcher.best.is_empty() {
        true => "training ended without a result".to_string(),
        false => format!("training ended early; the best checkpoint so far is in {}", directory.display()),
    })?;
    let training_seconds = watcher.training_seconds();
    let start = Instant::now();
    for split in prepared.splits.iter().filter(|split| split.usage == SplitUse::Optional) {
        let evaluated = prepared.evaluate(&mut engine, spec, &split.name, watcher.progress)?;
        let kept = watcher.keep(evaluated)?;
        watcher.best.push(kept);
    }
    let (mut metrics, mut confidence) = (Vec::new(), Vec::new());
    for (of_split, scores) in std::mem::take(&mut watcher.best) {
        confidence.push(watcher.confidence(&of_split.split, &scores)?);
        metrics.push(of_split);
    }
    let order = prepared.evaluated();
    metrics.sort_by_key(|metrics| order.iter().position(|name| *name == metrics.split));
    let best_epoch =
        ending.best_epoch.and_then(|epoch| watcher.epochs.get(epoch as usize - 1)).map(|record| record.epoch);
    Ok(CellResult {
        counts: summary.counts,
        steps: ending.steps,
        tokens: watcher.tokens,
        training_seconds,
        evaluation_seconds: (watcher.evaluating + start.elapsed()).as_secs_f64(),
        plugin_load_seconds: prepared.load_seconds,
        plugin_plan_seconds: prepared.plan_seconds,
        metrics,
        confidence,
        baseline: prepared.majority()?,
        best_metric: watcher.best_metric,
        best_epoch,
        epochs: watcher.epochs,
        warnings: watcher.warnings,
    })
}
