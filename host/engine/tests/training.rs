//! The training loop on a tiny model: what it warns of, and how it ends.

mod support;

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use host_engine::backend::cpu::Cpu;
use host_engine::backend::{AdamW, Backend, BackendError, Step};
use host_engine::batch::Batch;
use host_engine::compile::{Compiled, Plans};
use host_engine::data::dataset::DatasetError;
use host_engine::engine::Engine;
use host_engine::parameters::Parameters;
use host_engine::program::build::Program;
use host_engine::program::instruction::Instruction;
use host_engine::program::value::ValueId;
use host_engine::train::settings::TrainingSettings;
use host_engine::train::trainer::{Batches, EpochReport, Observer, StepReport, TrainError, train};
use host_ir::task::HeadKind;
use support::{CLASSES, LENGTHS, batch, blocks, plans, train_role};

/// The same batch, three times an epoch. Tells which is asked for.
struct Same {
    batch: Batch,
    asked: Option<Sender<u64>>,
}

impl Batches for Same {
    fn steps_of_epoch(&mut self, _: u64) -> Result<u64, DatasetError> {
        Ok(3)
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
    saved: Vec<u64>,
}

impl Observer for Notes {
    fn step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
    }

    fn message(&mut self, sentence: String) {
        self.messages.push(sentence);
    }

    fn stopped(&self) -> bool {
        false
    }

    fn evaluate(&mut self, _: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String> {
        Ok(Some(-report.loss))
    }

    fn improved(&mut self, _: &Engine, epoch: u64) -> Result<(), String> {
        self.saved.push(epoch);
        Ok(())
    }
}

/// A device whose memory ends once: before an instruction, or before an update,
/// counted from the start. May do something before each batch.
struct Scarce {
    inner: Cpu,
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

    fn losses(&self) -> Result<Vec<f64>, BackendError> {
        self.inner.losses()
    }

    fn gradient_norm(&self) -> Result<f64, BackendError> {
        self.inner.gradient_norm()
    }

    fn gradient_is_zero(&self, all: &Parameters, block: usize, part: usize) -> Result<bool, BackendError> {
        self.inner.gradient_is_zero(all, block, part)
    }

    fn update(
        &mut self,
        all: &Parameters,
        block: usize,
        part: usize,
        rule: &AdamW,
    ) -> Result<(), BackendError> {
        match ends(&mut self.updates) {
            true => Err(BackendError::DeviceOutOfMemory),
            false => self.inner.update(all, block, part, rule),
        }
    }

    fn clear_gradients(&mut self) -> Result<(), BackendError> {
        self.inner.clear_gradients()
    }

    fn clear_state(&mut self) -> Result<(), BackendError> {
        self.inner.clear_state()
    }
}

fn same(plans: &Plans) -> Same {
    Same { batch: batch(&LENGTHS, plans.method.virtual_tokens() as u32), asked: None }
}

fn run(plans: &Plans, epochs: f64, learning_rate: f64) -> (Result<u64, TrainError>, Notes) {
    run_on(plans, Box::new(Cpu::new(1).unwrap()), epochs, learning_rate)
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
    let ending = train(&mut engine, &mut batches, &settings, 8, 1, &mut notes);
    (ending.map(|ending| ending.steps), notes)
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
    let (ending, notes) = run(&plans, 2.0, 1e-3);
    assert_eq!(ending.unwrap(), 6);
    assert_eq!(
        notes.messages,
        ["the gradient was exactly zero in the whole of epoch 1: idle; what trains there learns nothing"]
    );
}

#[test]
fn what_learns_is_not_warned_of() {
    for (name, method) in support::methods() {
        let (ending, notes) = run(&plans(HEAD, method), 1.0, 1e-3);
        assert_eq!((ending.unwrap(), notes.messages), (3, Vec::<String>::new()), "{name}");
    }
}

#[test]
fn a_loss_that_is_no_number_names_its_step_and_its_batch() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "all"));
    let (ending, notes) = run(&plans, 9.0, 1e38);
    let error = ending.unwrap_err().to_string();
    let steps = notes.losses.len() as u64;
    let place = format!("batch {} of epoch {}: the ", steps % 3 + 1, steps / 3 + 1);
    assert!(error.starts_with(&place), "{error}");
    assert!(error.contains(&format!(" of step {} is ", steps + 1)), "{error}");
    // What was saved before is what is left.
    assert_eq!(notes.saved.len() as u64, u64::from(steps >= 3));
}

/// A step in which memory ended is made again from the weights that it began
/// with: the losses are those of a training in which nothing happened. In the
/// middle of an update that would be too late.
#[test]
fn a_step_that_memory_ended_is_made_again_from_unchanged_weights() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "all"));
    let (_, whole) = run(&plans, 1.0, 1e-2);
    let scarce = |instructions, updates| {
        Box::new(Scarce { inner: Cpu::new(1).unwrap(), instructions, updates, before: None })
    };
    let in_a_step = plans.training().unwrap().program.instructions().count();
    // In the backward pass of the second step, when its first gradients are there.
    let (ending, notes) = run_on(&plans, scarce(Some(2 * in_a_step - 3), None), 1.0, 1e-2);
    assert_eq!(ending.unwrap(), 3);
    assert_eq!(notes.losses, whole.losses);
    assert_eq!(
        notes.messages,
        [
            "the device's memory does not suffice for the batch: going on with micro-batches of 4 examples; the effective \
          batch stays the same"
        ]
    );
    let (ending, notes) = run_on(&plans, scarce(None, Some(3)), 1.0, 1e-2);
    let error = ending.unwrap_err().to_string();
    assert!(error.starts_with("in the middle of an update, the device's memory does not suffice"), "{error}");
    assert!(notes.losses.is_empty() && notes.messages.is_empty());
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
        inner: Cpu::new(1).unwrap(),
        instructions: None,
        updates: None,
        before: Some(Box::new(before)),
    };
    let mut engine = Engine::new(plans.clone(), blocks(&plans, 3), Box::new(backend)).unwrap();
    let settings = TrainingSettings { num_train_epochs: 1.0, ..Default::default() };
    let mut batches = Same { asked: Some(asked), ..same(&plans) };
    let ending = train(&mut engine, &mut batches, &settings, 8, 1, &mut Notes::default()).unwrap();
    assert_eq!(ending.steps, 3);
}
