//! A backend that notes how long each kind of instruction takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{AdamW, Backend, BackendError, Number, Step};
use crate::batch::Batch;
use crate::compile::Compiled;
use crate::parameters::Parameters;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

/// Time by kind of instruction; shared with the backend that adds to it.
#[derive(Clone, Debug, Default)]
pub struct Times(Arc<Mutex<BTreeMap<&'static str, Duration>>>);

impl Times {
    /// Forgets what was noted.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What was noted, the longest first.
    pub fn sorted(&self) -> Vec<(&'static str, Duration)> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = times.iter().map(|(&kind, &time)| (kind, time)).collect();
        sorted.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
        sorted
    }

    fn note(&self, kind: &'static str, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += time;
    }
}

/// Another backend, with a clock beside it. A device that computes by itself is waited for
/// after each instruction, so that the times are its own; a step takes longer so.
pub struct Timed {
    inner: Box<dyn Backend>,
    times: Times,
}

impl Timed {
    pub fn new(inner: Box<dyn Backend>, times: Times) -> Timed {
        Timed { inner, times }
    }

    /// What the other backend makes, and how long it takes.
    fn noted<T>(
        &mut self,
        kind: &'static str,
        work: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let start = Instant::now();
        let made = work(&mut *self.inner)?;
        self.inner.finish()?;
        self.times.note(kind, start.elapsed());
        Ok(made)
    }
}

impl Backend for Timed {
    fn set_parameters(&mut self, parameters: &Parameters, blocks: Vec<Vec<f32>>) -> Result<(), BackendError> {
        self.inner.set_parameters(parameters, blocks)
    }

    fn read_block(&self, block: usize) -> Result<Vec<f32>, BackendError> {
        self.inner.read_block(block)
    }

    fn write_block(&mut self, block: usize, elements: &[f32]) -> Result<(), BackendError> {
        self.inner.write_block(block, elements)
    }

    fn read_gradient(&self, block: usize) -> Result<Vec<f32>, BackendError> {
        self.inner.read_gradient(block)
    }

    fn begin(&mut self, compiled: &Compiled, batch: &Batch, step: &Step) -> Result<(), BackendError> {
        self.noted("batch", |inner| inner.begin(compiled, batch, step))
    }

    fn execute(&mut self, program: &Program, instruction: &Instruction) -> Result<(), BackendError> {
        self.noted(instruction.into(), |inner| inner.execute(program, instruction))
    }

    fn read(&self, program: &Program, value: ValueId) -> Result<Vec<f32>, BackendError> {
        self.inner.read(program, value)
    }

    fn losses(&self) -> Result<Vec<Number>, BackendError> {
        self.inner.losses()
    }

    fn gradient_norm(&self) -> Result<Number, BackendError> {
        let start = Instant::now();
        let norm = self.inner.gradient_norm()?;
        self.inner.finish()?;
        self.times.note("gradient norm", start.elapsed());
        Ok(norm)
    }

    fn any_gradient(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<Number, BackendError> {
        self.inner.any_gradient(parameters, block, part)
    }

    fn clip(&self, norm: &Number, most: f64) -> Result<Number, BackendError> {
        self.inner.clip(norm, most)
    }

    fn waits(&self) -> bool {
        self.inner.waits()
    }

    fn finish(&self) -> Result<(), BackendError> {
        self.inner.finish()
    }

    fn numbers(&self, numbers: &[Number]) -> Result<Vec<f64>, BackendError> {
        self.inner.numbers(numbers)
    }

    fn update(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
        scale: &Number,
    ) -> Result<(), BackendError> {
        self.noted("AdamW", |inner| inner.update(parameters, block, part, rule, scale))
    }

    fn update_all(
        &mut self,
        parameters: &Parameters,
        rules: &[(usize, usize, AdamW)],
        scale: &Number,
    ) -> Result<(), BackendError> {
        self.noted("AdamW", |inner| inner.update_all(parameters, rules, scale))
    }

    fn read_moments(
        &self,
        parameters: &Parameters,
        block: usize,
        part: usize,
    ) -> Result<[Vec<f32>; 2], BackendError> {
        self.inner.read_moments(parameters, block, part)
    }

    fn write_moments(
        &mut self,
        parameters: &Parameters,
        block: usize,
        part: usize,
        moments: [Vec<f32>; 2],
    ) -> Result<(), BackendError> {
        self.inner.write_moments(parameters, block, part, moments)
    }

    fn clear_gradients(&mut self) -> Result<(), BackendError> {
        self.inner.clear_gradients()
    }

    fn clear_state(&mut self) -> Result<(), BackendError> {
        self.inner.clear_state()
    }
}
