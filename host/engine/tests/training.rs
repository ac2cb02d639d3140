//! The training loop on a tiny model: what it warns of, and how it ends.

mod support;

use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::data::dataset::DatasetError;
use host_engine::engine::Engine;
use host_engine::train::settings::TrainingSettings;
use host_engine::train::trainer::{Batches, EpochReport, Observer, StepReport, TrainError, train};
use host_ir::task::HeadKind;
use support::{CLASSES, LENGTHS, batch, blocks, plans, train_role};

/// The same batch, three times an epoch.
struct Same(Batch);

impl Batches for Same {
    fn steps_of_epoch(&mut self, _: u64) -> Result<u64, DatasetError> {
        Ok(3)
    }

    fn effective_batch(&mut self, _: u64, _: u64, _: usize) -> Result<Vec<Batch>, DatasetError> {
        Ok(vec![self.0.clone()])
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

fn run(plans: &Plans, epochs: f64, learning_rate: f64) -> (Result<u64, TrainError>, Notes) {
    let mut engine = Engine::new(plans.clone(), blocks(plans, 3), Box::new(Cpu::new(1).unwrap())).unwrap();
    let settings = TrainingSettings {
        num_train_epochs: epochs,
        learning_rate,
        max_grad_norm: 0.0,
        ..Default::default()
    };
    let mut notes = Notes::default();
    let mut batches = Same(batch(&LENGTHS, plans.method.virtual_tokens() as u32));
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
