//! Measuring a cell: some steps as training makes them, and nothing written. Batches are
//! prepared before, as training prepares them beside, and a device that computes by itself
//! is not waited for within several steps.

use std::ops::Range;
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

/// How often further steps are made, with products of large matrices before and after them.
const TIMES_BESIDE_THE_PEAK: usize = 5;

/// Steps at most that a device that computes by itself is given one behind the other.
const STEPS_TOGETHER: usize = 10;

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
    let mut engine = match spec.profile {
        true => prepared.timed_engine(cell, times.clone())?,
        false => prepared.engine(cell)?,
    };
    let prepared = prepared;
    let mut sampler = prepared.sampler(cell)?;
    let steps_per_epoch = sampler.steps_of_epoch(0)?;
    if steps_per_epoch == 0 {
        bail!("the training split gives no batch");
    }
    let mut effective = |steps: Range<usize>| {
        let batches = steps.map(|step| {
            let step = step as u64;
            sampler.effective_batch(step / steps_per_epoch, step % steps_per_epoch, micro_batch)
        });
        batches.collect::<Result<Vec<_>, _>>()
    };
    let together = if engine.waits() && !spec.profile { STEPS_TOGETHER.min(spec.steps) } else { 1 };
    let mut seconds_to_first_step = 0.0;
    let mut step_seconds = Vec::new();
    let mut batches: Vec<Batch> = Vec::new();
    let mut made = 0;
    while made < spec.warmup_steps + spec.steps {
        if made == spec.warmup_steps {
            times.clear();
        }
        let end = if made < spec.warmup_steps { spec.warmup_steps } else { spec.warmup_steps + spec.steps };
        // The first step is one alone, by which it is known how soon it comes.
        let steps = made..end.min(made + if made == 0 { 1 } else { together });
        let effective = effective(steps.clone())?;
        let seconds = make_steps(&mut engine, &effective, cell)
            .with_context(|| format!("{} cannot be measured", cell.title()))?;
        if made == 0 {
            seconds_to_first_step = started.elapsed().as_secs_f64();
        }
        if made >= spec.warmup_steps {
            step_seconds.extend(steps.clone().map(|_| seconds / steps.len() as f64));
            batches.extend(effective.into_iter().flatten());
        }
        made = steps.end;
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
    for _ in 0..TIMES_BESIDE_THE_PEAK {
        let effective = effective(made..made + together)?;
        made += together;
        let seconds = make_steps(&mut engine, &effective, cell)?;
        let before = reached[reached.len() - 1];
        let after = peak.operations_per_second()?;
        reached.push(after);
        let operations = operations(&engine.training_program().program, &effective.concat()) as f64;
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

/// Makes steps, and waits until the device is done with them; answers the seconds that takes.
fn make_steps(engine: &mut Engine, steps: &[Vec<Batch>], cell: &CellSpec) -> Result<f64, EngineError> {
    let start = Instant::now();
    for effective in steps {
        engine.step(effective, &cell.training, cell.training.learning_rate, cell.seed)?;
    }
    engine.results()?.iter().try_for_each(StepResult::check)?;
    Ok(start.elapsed().as_secs_f64())
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
