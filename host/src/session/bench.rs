//! Measuring a cell: some steps as training makes them, and nothing written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host_engine::backend::timed::Times;
use host_engine::batch::Batch;
use host_engine::engine::{Engine, EngineError, StepResult};
use host_engine::program::build::Program;
use host_engine::program::cost::product_operations;
use host_engine::train::trainer::Batches;
use host_ir::task::SplitUse;

use crate::benchmark::{BenchmarkSpec, Measured};
use crate::cell::CellSpec;
use crate::runs::machine::Machine;
use crate::session::prepare::{Prepared, prepare};

/// Further steps, with products of large matrices before and after each.
const STEPS_BESIDE_THE_PEAK: usize = 5;

/// Prepares the cell, makes its steps and measures them. `started` is when the
/// process was.
pub fn measure(spec: &BenchmarkSpec, started: Instant) -> Result<Measured> {
    let cell = &spec.cell;
    let mut prepared = prepare(cell)?;
    if let Some(length) = spec.length {
        lengthen(&mut prepared, length)?;
    }
    let (micro_batch, memory) = prepared.micro_batch(cell)?;
    let times = Times::default();
    let mut engine = prepared.timed_engine(cell, times.clone())?;
    let prepared = prepared;
    let mut sampler = prepared.sampler(cell)?;
    let steps_per_epoch = sampler.steps_of_epoch(0)?;
    if steps_per_epoch == 0 {
        bail!("the training split gives no batch");
    }
    let mut effective = |step: usize| {
        let step = step as u64;
        sampler.effective_batch(step / steps_per_epoch, step % steps_per_epoch, micro_batch)
    };
    let mut seconds_to_first_step = 0.0;
    let mut step_seconds = Vec::new();
    let mut batches: Vec<Batch> = Vec::new();
    for step in 0..spec.warmup_steps + spec.steps {
        if step == spec.warmup_steps {
            times.clear();
        }
        let start = Instant::now();
        let effective = effective(step)?;
        make_step(&mut engine, &effective, cell)
            .with_context(|| format!("{} cannot be measured", cell.title()))?;
        if step == 0 {
            seconds_to_first_step = started.elapsed().as_secs_f64();
        }
        if step >= spec.warmup_steps {
            step_seconds.push(start.elapsed().as_secs_f64());
            batches.extend(effective);
        }
    }
    let steps = step_seconds.len().max(1) as f64;
    let per_step = |time: Duration| time.as_secs_f64() / steps;
    let profile = times.sorted().into_iter().map(|(kind, time)| (kind.to_string(), per_step(time))).collect();

    let measured_operations = operations(&engine.training_program().program, &batches);
    let (tokens, examples) = totals(&batches);
    let start = Instant::now();
    for batch in &batches {
        engine.evaluate(batch)?;
    }
    let evaluation = start.elapsed().as_secs_f64();
    // Before the matrices of the peak take memory of their own.
    let peak_memory_bytes = cell.device.peak_memory();
    let mut peak = cell.device.peak(cell.threads, cell.precision)?;
    let mut reached = vec![peak.operations_per_second()?];
    let mut shares = Vec::new();
    for step in (spec.warmup_steps + spec.steps..).take(STEPS_BESIDE_THE_PEAK) {
        let effective = effective(step)?;
        let start = Instant::now();
        make_step(&mut engine, &effective, cell)?;
        let seconds = start.elapsed().as_secs_f64();
        let before = reached[reached.len() - 1];
        let after = peak.operations_per_second()?;
        reached.push(after);
        let operations = operations(&engine.training_program().program, &effective) as f64;
        shares.push(operations / seconds / ((before + after) / 2.0));
    }
    let total: f64 = step_seconds.iter().sum();
    Ok(Measured {
        label: cell.label.clone(),
        precision: cell.precision.to_string(),
        device: cell.device.to_string(),
        threads: cell.threads,
        trained_parameters: prepared.plans.method.counts(&prepared.plans.model).trained as u64,
        examples_per_step: examples / steps,
        tokens_per_step: tokens / steps,
        steps_per_epoch,
        seconds_per_step: median(&step_seconds),
        tokens_per_second: tokens / total,
        examples_per_second: examples / total,
        evaluation_tokens_per_second: tokens / evaluation,
        product_operations_per_step: measured_operations as f64 / steps,
        peak_operations_per_second: median(&reached),
        share_of_peak: median(&shares),
        seconds_to_first_step,
        peak_memory_bytes,
        estimated_memory_bytes: memory.total(),
        step_seconds,
        profile,
        machine: Machine::this(),
    })
}

/// Makes a step, and waits until the device is done with it.
fn make_step(engine: &mut Engine, effective: &[Batch], cell: &CellSpec) -> Result<(), EngineError> {
    engine.step(effective, &cell.training, cell.training.learning_rate, cell.seed)?;
    engine.results()?.iter().try_for_each(StepResult::check)
}

/// Floating-point operations that the products of a training step make of batches.
fn operations(program: &Program, batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| product_operations(program, batch)).sum()
}

/// The middle one of some numbers, the higher of two.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Rows and examples of batches.
fn totals(batches: &[Batch]) -> (f64, f64) {
    let count = |of: fn(&Batch) -> usize| batches.iter().map(of).sum::<usize>() as f64;
    (count(Batch::rows), count(Batch::examples))
}

/// Brings every sequence of the training split to one length.
fn lengthen(prepared: &mut Prepared, length: usize) -> Result<()> {
    let most = prepared
        .plans
        .config
        .positions()
        .unwrap_or(usize::MAX)
        .saturating_sub(prepared.plans.method.virtual_tokens());
    if prepared.plans.task.reads_examples_alone() {
        bail!("--length cannot change documents of words; leave it out");
    }
    if length == 0 || length > most {
        bail!("a length of {length} tokens does not lie between 1 and the model's {most}");
    }
    for split in prepared.splits.iter_mut().filter(|split| split.usage == SplitUse::Train) {
        split.dataset = split.dataset.of_length(length)?;
    }
    Ok(())
}
