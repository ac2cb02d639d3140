//! The training loop on a tiny model: what it warns of, and how it ends.

mod support;

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use host_engine::backend::candle::{Candle, Reads};
use host_engine::backend::cpu::Cpu;
use host_engine::backend::{AdamW, Backend, BackendError, Number, Step};
use host_engine::batch::Batch;
use host_engine::compile::{Compiled, Plans};
use host_engine::data::dataset::DatasetError;
use host_engine::engine::Engine;
use host_engine::parameters::Parameters;
use host_engine::program::build::Program;
use host_engine::program::instruction::Instruction;
use host_engine::program::value::ValueId;
use host_engine::train::settings::TrainingSettings;
use host_engine::train::state::TrainerState;
use host_engine::train::trainer::{Batches, EpochReport, Observer, StepReport, TrainError, Wish, train};
use host_ir::task::HeadKind;
use support::{CLASSES, LENGTHS, batch, blocks, plans, second, train_role};

/// The same batch, some times an epoch. Tells which is asked for.
struct Same {
    batch: Batch,
    steps: u64,
    asked: Option<Sender<u64>>,
}

impl Batches for Same {
    fn steps_of_epoch(&mut self, _: u64) -> Result<u64, DatasetError> {
        Ok(self.steps)
    }

    fn effective_batch(&mut self, _: u64, number: u64, _: usize) -> Result<Vec<Batch>, DatasetError> {
        if let Some(asked) = &self.asked {
            asked.send(number).unwrap();
        }
        Ok(vec![self.batch.clone()])
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Notes {
    messages: Vec<String>,
    losses: Vec<f64>,
    norms: Vec<f64>,
    saved: Vec<u64>,
    /// What is read of the device, and how often it was when evaluations began.
    reads: Reads,
    before_evaluation: Vec<u64>,
}

impl Observer for Notes {
    fn step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
        self.norms.push(report.gradient_norm);
    }

    fn impatient(&self) -> bool {
        false
    }

    fn message(&mut self, sentence: String) {
        self.messages.push(sentence);
    }

    fn wish(&self) -> Wish {
        Wish::GoOn
    }

    fn evaluate(&mut self, _: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String> {
        self.before_evaluation.push(self.reads.count());
        Ok(Some(-report.loss))
    }

    fn improved(&mut self, _: &Engine, epoch: u64) -> Result<(), String> {
        self.saved.push(epoch);
        Ok(())
    }

    fn save(&mut self, _: &Engine, _: &TrainerState) -> Result<(), String> {
        Ok(())
    }
}

/// A device whose memory ends once: before an instruction, or before an update,
/// counted from the start. May do something before each batch.
struct Scarce {
    inner: Box<dyn Backend>,
    instructions: Option<usize>,
    updates: Option<usize>,
    before: Option<Box<dyn FnMut()>>,
}

/// Counts down; whether this was the last.
fn ends(left: &mut Option<usize>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            true
        }
        Some(count) => {
            *count -= 1;
            false
        }
        None => false,
    }
}

impl Backend for Scarce {
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
        self.before.iter_mut().for_each(|before| before());
        self.inner.begin(compiled, batch, step)
    }

    fn execute(&mut self, program: &Program, instruction: &Instruction) -> Result<(), BackendError> {
        match ends(&mut self.instructions) {
            true => Err(BackendError::DeviceOutOfMemory),
            false => self.inner.execute(program, instruction),
        }
    }

    fn read(&self, program: &Program, value: ValueId) -> Result<Vec<f32>, BackendError> {
        self.inner.read(program, value)
    }

    fn losses(&self) -> Result<Vec<Number>, BackendError> {
        self.inner.losses()
    }

    fn gradient_norm(&self) -> Result<Number, BackendError> {
        self.inner.gradient_norm()
    }

    fn any_gradient(&self, all: &Parameters, block: usize, part: usize) -> Result<Number, BackendError> {
        self.inner.any_gradient(all, block, part)
    }

    fn clip(&self, norm: &Number, most: f64) -> Result<Number, BackendError> {
        self.inner.clip(norm, most)
    }

    fn waits(&self) -> bool {
        self.inner.waits()
    }

    fn numbers(&self, numbers: &[Number]) -> Result<Vec<f64>, BackendError> {
        self.inner.numbers(numbers)
    }

    fn update(
        &mut self,
        all: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
        scale: &Number,
    ) -> Result<(), BackendError> {
        match ends(&mut self.updates) {
            true => Err(BackendError::DeviceOutOfMemory),
            false => self.inner.update(all, block, part, rule, scale),
        }
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

fn same(plans: &Plans) -> Same {
    Same { batch: batch(&LENGTHS, plans.method.virtual_tokens() as u32), steps: 3, asked: None }
}

/// Both backends: one that is done when a call returns, and one that is waited for.
fn backends() -> [Box<dyn Backend>; 2] {
    [Box::new(Cpu::new(1).unwrap()), second()]
}

fn run_on(
    plans: &Plans,
    backend: Box<dyn Backend>,
    epochs: f64,
    learning_rate: f64,
) -> (Result<u64, TrainError>, Notes) {
    let mut engine = Engine::new(plans.clone(), blocks(plans, 3), backend).unwrap();
    let settings = TrainingSettings {
        num_train_epochs: epochs,
        learning_rate,
        max_grad_norm: 0.0,
        ..Default::default()
    };
    let mut notes = Notes::default();
    let mut batches = same(plans);
    let mut state = TrainerState::new(8);
    let ending = train(&mut engine, &mut batches, &settings, 1, &mut state, &mut notes);
    (ending.map(|_| state.steps), notes)
}

const HEAD: HeadKind = HeadKind::Classification { classes: CLASSES };

#[test]
fn what_gets_no_gradient_in_an_epoch_is_named_once() {
    // The loss depends on the parameter, and always by nothing.
    let plans = plans(HEAD, |recorder| {
        train_role(recorder, "bias");
        let start = recorder.full(&[4], 1.0).unwrap();
        let idle = recorder.parameter(None, "idle", start, true).unwrap();
        let nothing = recorder.affine(idle, 0.0, 0.0).unwrap();
        let nothing = recorder.reduce(host_ir::graph::Reduce::Sum, nothing, &[0], false).unwrap();
        recorder.add_loss(nothing).unwrap();
    });
    for backend in backends() {
        let (ending, notes) = run_on(&plans, backend, 2.0, 1e-3);
        assert_eq!(ending.unwrap(), 6);
        assert_eq!(
            notes.messages,
            ["the gradient was exactly zero in the whole of epoch 1: idle; what trains there learns nothing"]
        );
    }
}

#[test]
fn what_learns_is_not_warned_of() {
    for (name, method) in support::methods() {
        for backend in backends() {
            let (ending, notes) = run_on(&plans(HEAD, method), backend, 1.0, 1e-3);
            assert_eq!((ending.unwrap(), notes.messages), (3, Vec::<String>::new()), "{name}");
        }
    }
}

#[test]
fn a_loss_that_is_no_number_names_its_step_and_its_batch() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "all"));
    for backend in backends() {
        let (ending, notes) = run_on(&plans, backend, 9.0, 1e38);
        let error = ending.unwrap_err().to_string();
        let steps = notes.losses.len() as u64;
        let place = format!("batch {} of epoch {}: the ", steps % 3 + 1, steps / 3 + 1);
        assert!(error.starts_with(&place), "{error}");
        assert!(error.contains(&format!(" of step {} is ", steps + 1)), "{error}");
        assert!(notes.losses.iter().all(|loss| loss.is_finite()));
        // What was saved before is what is left.
        assert_eq!(notes.saved.len() as u64, steps / 3);
    }
}

/// A step in which memory ended is made again from the weights that it began
/// with: the losses are those of a training in which nothing happened. In the
/// middle of an update that would be too late.
#[test]
fn a_step_that_memory_ended_is_made_again_from_unchanged_weights() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "all"));
    let in_a_step = plans.training().unwrap().program.instructions().count();
    for place in 0..2 {
        let backend = || backends().into_iter().nth(place).unwrap();
        let scarce = |instructions, updates| {
            Box::new(Scarce { inner: backend(), instructions, updates, before: None })
        };
        let (_, whole) = run_on(&plans, scarce(None, None), 1.0, 1e-2);
        // In the backward pass of the third step, when its first gradients are there, and
        // the second may not be read yet.
        let (ending, notes) = run_on(&plans, scarce(Some(3 * in_a_step - 3), None), 1.0, 1e-2);
        assert_eq!(ending.unwrap(), 3);
        assert_eq!(notes.losses, whole.losses);
        assert_eq!(
            notes.messages,
            [
                "the device's memory does not suffice for the batch: going on with micro-batches of 4 examples; the \
              effective batch stays the same"
            ]
        );
        let (ending, notes) = run_on(&plans, scarce(None, Some(3)), 1.0, 1e-2);
        let error = ending.unwrap_err().to_string();
        assert!(
            error.starts_with("in the middle of an update, the device's memory does not suffice"),
            "{error}"
        );
        assert!(notes.losses.is_empty() && notes.messages.is_empty());
    }
}

/// Two epochs of so many steps, the gradients clipped to a norm.
fn clipped(plans: &Plans, backend: Box<dyn Backend>, reads: Reads, steps: u64, most: f64) -> Notes {
    let mut engine = Engine::new(plans.clone(), blocks(plans, 3), backend).unwrap();
    let settings = TrainingSettings {
        num_train_epochs: 2.0,
        learning_rate: 1e-3,
        max_grad_norm: most,
        ..Default::default()
    };
    let mut notes = Notes { reads, ..Notes::default() };
    let mut batches = Same { steps, ..same(plans) };
    train(&mut engine, &mut batches, &settings, 1, &mut TrainerState::new(8), &mut notes).unwrap();
    notes
}

/// An epoch of twenty steps reads of its device after the first step, after ten more and
/// at its end, of each method, and comes to what the CPU comes to.
fn waits_only_where_losses_are_told(most: f64) {
    for (name, method) in support::methods() {
        let plans = plans(HEAD, method);
        let candle = Candle::simulated();
        let (reads, copies) = (candle.reads(), candle.copies());
        let told = clipped(&plans, Box::new(candle), reads.clone(), 20, most);
        assert_eq!(told.before_evaluation[0], 3, "{name}");
        // Between the first evaluation and the second epoch checkpoints are read.
        assert!(reads.count() > 6, "{name}");
        // The lists of a batch go together: two epochs of twenty steps and two evaluations.
        assert!(copies.of_batches() >= 40 && copies.alone() == 0, "{name}: {copies:?}");
        let [cpu, _] = backends();
        let ours = clipped(&plans, cpu, Reads::default(), 20, most);
        assert_eq!(told.losses.len(), 40);
        for (ours, told) in [(&ours.losses, &told.losses), (&ours.norms, &told.norms)] {
            for (ours, told) in ours.iter().zip(told) {
                assert!((ours - told).abs() < 1e-3 * ours.abs(), "{name} to {most}: {ours} and {told}");
            }
        }
    }
}

// Tests of their own, which run side by side.

#[test]
fn a_device_is_waited_for_only_where_losses_are_told() {
    waits_only_where_losses_are_told(0.0);
}

#[test]
fn a_device_is_not_waited_for_where_gradients_are_clipped() {
    waits_only_where_losses_are_told(1e-2);
}

#[test]
fn a_device_is_not_waited_for_where_gradients_would_be_clipped() {
    waits_only_where_losses_are_told(1e9);
}

/// A step that begins only once the batch after it is asked for: there is an end to that
/// only where another thread asks meanwhile.
#[test]
fn the_next_batch_is_prepared_while_a_step_computes() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "bias"));
    let (asked, questions) = channel();
    let mut step = 0;
    let before = move || {
        step += 1;
        // The last batch has none after it.
        let asked =
            || questions.recv_timeout(Duration::from_secs(60)).expect("nobody asks for the next batch");
        if step < 3 {
            while asked() < step {}
        }
    };
    let backend = Scarce {
        inner: Box::new(Cpu::new(1).unwrap()),
        instructions: None,
        updates: None,
        before: Some(Box::new(before)),
    };
    let mut engine = Engine::new(plans.clone(), blocks(&plans, 3), Box::new(backend)).unwrap();
    let settings = TrainingSettings { num_train_epochs: 1.0, ..Default::default() };
    let mut batches = Same { asked: Some(asked), ..same(&plans) };
    let mut state = TrainerState::new(8);
    train(&mut engine, &mut batches, &settings, 1, &mut state, &mut Notes::default()).unwrap();
    assert_eq!(state.steps, 3);
}
