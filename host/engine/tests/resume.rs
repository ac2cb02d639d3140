//! A training that is stopped goes on from its checkpoint, in another engine, to the bits
//! of one that was not.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use host_engine::backend::Backend;
use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::data::dataset::DatasetError;
use host_engine::engine::{Engine, NamedTensor};
use host_engine::train::checkpoint::{Attachment, Checkpoint, write};
use host_engine::train::settings::{SaveStrategy, Schedule, TrainingSettings};
use host_engine::train::state::TrainerState;
use host_engine::train::trainer::{Batches, Ending, EpochReport, Observer, StepReport, Wish, train};
use host_ir::task::HeadKind;
use support::{CLASSES, batch, blocks, plans, second, train_role};

const IDENTITY: &str = "model, data and settings";
const HEAD: HeadKind = HeadKind::Classification { classes: CLASSES };
/// Effective batches of an epoch.
const STEPS: u64 = 4;
/// What the evaluations of the epochs come to: the second is the best one.
const METRICS: [f64; 6] = [0.25, 0.75, 0.5, 0.625, 0.25, 1.0];

/// Two examples a step, others in each epoch and step.
struct Drawn {
    virtual_tokens: u32,
}

impl Batches for Drawn {
    fn steps_of_epoch(&mut self, _: u64) -> Result<u64, DatasetError> {
        Ok(STEPS)
    }

    fn effective_batch(
        &mut self,
        epoch: u64,
        number: u64,
        micro_batch: usize,
    ) -> Result<Vec<Batch>, DatasetError> {
        let first = (epoch * STEPS + number) as u32;
        let examples = [(2 * first, 3 + first % 5), (2 * first + 1, 7)];
        Ok(examples.chunks(micro_batch).map(|part| batch(part, self.virtual_tokens)).collect())
    }
}

/// Where a training is stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Never,
    /// After a step, counted from 1.
    Step(u64),
    /// In the evaluation after an epoch, counted from 1.
    Evaluation(u64),
}

/// All that can be seen of a training.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    /// Step, loss, norm and learning rate, as bits.
    steps: Vec<[u64; 4]>,
    /// Epoch, mean loss as bits, and whether it is the last.
    epochs: Vec<(u64, u64, bool)>,
    improved: Vec<(u64, Vec<NamedTensor>)>,
    messages: Vec<String>,
}

struct Watching<'a> {
    seen: Seen,
    place: Place,
    stopped: bool,
    file: &'a Path,
    /// What was saved, by its number of steps.
    saved: Vec<u64>,
}

impl Observer for Watching<'_> {
    fn step(&mut self, report: &StepReport) {
        let bits = [report.loss, report.gradient_norm, report.learning_rate].map(f64::to_bits);
        self.seen.steps.push([report.step, bits[0], bits[1], bits[2]]);
        self.stopped |= self.place == Place::Step(report.step);
    }

    fn impatient(&self) -> bool {
        // A device is told to read its results, as after a long time.
        matches!(self.place, Place::Step(_))
    }

    fn message(&mut self, sentence: String) {
        self.seen.messages.push(sentence);
    }

    fn wish(&self) -> Wish {
        if self.stopped { Wish::SaveAndStop } else { Wish::GoOn }
    }

    fn evaluate(&mut self, _: &mut Engine, report: &EpochReport) -> Result<Option<f64>, String> {
        if self.place == Place::Evaluation(report.epoch) {
            self.stopped = true;
            return Err("interrupted".into());
        }
        self.seen.epochs.push((report.epoch, report.loss.to_bits(), report.last));
        Ok(Some(METRICS[report.epoch as usize - 1]))
    }

    fn improved(&mut self, engine: &Engine, epoch: u64) -> Result<(), String> {
        self.seen.improved.push((epoch, engine.trained().unwrap()));
        Ok(())
    }

    fn save(&mut self, engine: &Engine, state: &TrainerState) -> Result<(), String> {
        // What the caller knows at that moment goes with it.
        let notes = serde_json::json!({ "messages": self.seen.messages, "steps": state.steps });
        let attachment = Attachment {
            name: "a".into(),
            bytes: 5,
            parts: Box::new([b"ab".to_vec(), b"cde".to_vec()].into_iter().map(Ok)),
        };
        write(self.file, IDENTITY, engine, state, notes, vec![attachment]).unwrap();
        self.saved.push(state.steps);
        Ok(())
    }
}

fn settings() -> TrainingSettings {
    TrainingSettings {
        num_train_epochs: 6.0,
        learning_rate: 1e-2,
        head_learning_rate: Some(2e-2),
        weight_decay: 0.1,
        warmup_steps: Some(6),
        lr_scheduler_type: Schedule::Cosine,
        max_grad_norm: 0.5,
        early_stopping_patience: Some(3),
        ..TrainingSettings::default()
    }
}

fn engine(plans: &Plans, backend: Box<dyn Backend>) -> Engine {
    Engine::new(plans.clone(), blocks(plans, 3), backend).unwrap()
}

/// Trains on from a state, as far as the place.
fn go_on(
    plans: &Plans,
    engine: &mut Engine,
    settings: &TrainingSettings,
    state: &mut TrainerState,
    seen: Seen,
    place: Place,
    file: &Path,
) -> (Ending, Seen, Vec<u64>) {
    let mut watching = Watching { seen, place, stopped: false, file, saved: Vec::new() };
    let mut batches = Drawn { virtual_tokens: plans.method.virtual_tokens() as u32 };
    let ending = train(engine, &mut batches, settings, 7, state, &mut watching).unwrap();
    (ending, watching.seen, watching.saved)
}

/// A training that is not stopped, and what trains in the end.
fn straight(
    plans: &Plans,
    backend: Box<dyn Backend>,
    settings: &TrainingSettings,
) -> (Seen, Vec<NamedTensor>) {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(plans, backend);
    let mut state = TrainerState::new(1);
    let file = folder.path().join("checkpoint");
    let place = Place::Never;
    let (ending, seen, _) = go_on(plans, &mut engine, settings, &mut state, Seen::default(), place, &file);
    assert_eq!(ending, Ending::Done);
    (seen, engine.trained().unwrap())
}

/// Trains, stops at each of the places and goes on in another engine.
fn stopped(
    plans: &Plans,
    backend: fn() -> Box<dyn Backend>,
    settings: &TrainingSettings,
    places: &[Place],
) -> (Seen, Vec<NamedTensor>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoint");
    let (mut state, mut seen) = (TrainerState::new(1), Seen::default());
    let mut engine = engine(plans, backend());
    for place in places.iter().copied().chain([Place::Never]) {
        let (ending, now, saved) = go_on(plans, &mut engine, settings, &mut state, seen, place, &file);
        seen = now;
        if place == Place::Never {
            assert_eq!(ending, Ending::Done);
            break;
        }
        assert_eq!(ending, Ending::Stopped, "{place:?}");
        let checkpoint = Checkpoint::open(&file, IDENTITY).unwrap();
        assert_eq!(checkpoint.steps(), *saved.last().unwrap());
        // Nothing of the old engine but the file is left, and other elements are there first.
        let known = engine.optimizer_state();
        engine = Engine::new(plans.clone(), blocks(plans, 3), backend()).unwrap();
        checkpoint.check(&engine).unwrap();
        state = checkpoint.restore(&mut engine).unwrap();
        assert_eq!(engine.optimizer_state(), known, "{place:?}");
        assert_eq!(state.steps, checkpoint.steps());
    }
    (seen, engine.trained().unwrap())
}

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(2).unwrap())
}

const PLACES: [Place; 8] = [
    // The first learning rate is 0, and the warm-up is not over.
    Place::Step(1),
    Place::Step(3),
    // At the end of an epoch, before its evaluation and in it.
    Place::Step(STEPS),
    Place::Evaluation(2),
    // After the best one.
    Place::Step(2 * STEPS + 1),
    Place::Evaluation(3),
    Place::Step(4 * STEPS),
    Place::Evaluation(5),
];

#[test]
fn a_stopped_training_comes_to_the_same_bits() {
    // All parameters, a part of a fused block, dropout of the method's own, an added loss.
    let chosen = ["everything", "query biases", "low rank with dropout", "weights", "prompt above low rank"];
    let methods: Vec<_> = support::methods().into_iter().filter(|(name, _)| chosen.contains(name)).collect();
    assert_eq!(methods.len(), chosen.len());
    for (name, method) in methods {
        let plans = plans(HEAD, method);
        for backend in [cpu, second] {
            let wanted = straight(&plans, backend(), &settings());
            assert_eq!(wanted.0.steps.len(), 5 * STEPS as usize, "{name} stops early");
            assert_eq!(wanted.0.improved.len(), 2, "{name}");
            assert_eq!(wanted.1, wanted.0.improved[1].1, "{name}: the second is the best");
            for place in PLACES {
                assert!(stopped(&plans, backend, &settings(), &[place]) == wanted, "{name}: {place:?}");
            }
            assert!(stopped(&plans, backend, &settings(), &PLACES) == wanted, "{name}: everywhere");
        }
    }
}

/// What has had no gradient in an epoch is told of once, as if there had been no stop.
#[test]
fn what_had_no_gradient_is_kept_over_a_stop() {
    let plans = plans(HEAD, |recorder| {
        train_role(recorder, "bias");
        let start = recorder.full(&[4], 1.0).unwrap();
        let idle = recorder.parameter(None, "idle", start, true).unwrap();
        let nothing = recorder.affine(idle, 0.0, 0.0).unwrap();
        let nothing = recorder.reduce(host_ir::graph::Reduce::Sum, nothing, &[0], false).unwrap();
        recorder.add_loss(nothing).unwrap();
    });
    for backend in [cpu, second] {
        let wanted = straight(&plans, backend(), &settings());
        assert_eq!(wanted.0.messages.len(), 2, "{:?}", wanted.0.messages);
        assert!(
            wanted.0.messages[0].starts_with("the gradient was exactly zero in the whole of epoch 1: idle;")
        );
        let first = [Place::Step(STEPS - 1), Place::Step(STEPS), Place::Evaluation(1)];
        for place in first.into_iter().chain([Place::Step(2 * STEPS)]) {
            assert!(stopped(&plans, backend, &settings(), &[place]) == wanted, "{place:?}");
        }
    }
}

/// Where nothing is left to train, the best checkpoint is what the engine has.
#[test]
fn a_training_that_is_over_is_not_trained_again() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "bias"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoint");
    let mut first = engine(&plans, cpu());
    let mut state = TrainerState::new(1);
    let (_, wanted, saved) =
        go_on(&plans, &mut first, &settings(), &mut state, Seen::default(), Place::Never, &file);
    assert_eq!(saved, [4, 8, 12, 16, 20], "after each epoch");
    let mut second = engine(&plans, cpu());
    let mut state = Checkpoint::open(&file, IDENTITY).unwrap().restore(&mut second).unwrap();
    let (ending, seen, saved) =
        go_on(&plans, &mut second, &settings(), &mut state, wanted.clone(), Place::Never, &file);
    assert_eq!((ending, saved.len()), (Ending::Done, 0));
    assert!(seen == wanted && second.trained().unwrap() == first.trained().unwrap());
}

/// Checkpoints that are written on the way change nothing.
#[test]
fn checkpoints_are_written_when_they_are_asked_for() {
    let plans = plans(HEAD, |recorder| train_role(recorder, "bias"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoint");
    for backend in [cpu, second] {
        let wanted = straight(&plans, backend(), &settings());
        let of = |save_strategy| {
            let settings = TrainingSettings { save_strategy, save_steps: 3, ..settings() };
            let mut engine = engine(&plans, backend());
            let mut state = TrainerState::new(1);
            let (_, seen, saved) =
                go_on(&plans, &mut engine, &settings, &mut state, Seen::default(), Place::Never, &file);
            assert!((seen, engine.trained().unwrap()) == wanted);
            saved
        };
        assert_eq!(of(SaveStrategy::No), [0; 0]);
        assert_eq!(of(SaveStrategy::Epoch), [4, 8, 12, 16, 20]);
        assert_eq!(of(SaveStrategy::Steps), [3, 6, 9, 12, 15, 18]);
    }
}

/// A checkpoint after a step, and where it is.
fn saved(plans: &Plans) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoint");
    let mut engine = engine(plans, cpu());
    let mut state = TrainerState::new(1);
    let place = Place::Step(2 * STEPS + 1);
    go_on(plans, &mut engine, &settings(), &mut state, Seen::default(), place, &file);
    (folder, file)
}

#[test]
fn what_is_no_whole_checkpoint_of_this_training_is_refused() {
    let plans_of = |role: &'static str| plans(HEAD, |recorder| train_role(recorder, role));
    let plans = plans_of("bias");
    let (folder, file) = saved(&plans);
    let bytes = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], identity: &str| {
        let path = folder.path().join("other");
        fs::write(&path, bytes).unwrap();
        match Checkpoint::open(&path, identity) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was opened"),
        }
    };
    for length in [0, 1, 31, 32, 33, bytes.len() / 2, bytes.len() - 1] {
        assert!(
            refused(&bytes[..length], IDENTITY).ends_with("the checkpoint is cut or damaged"),
            "{length}"
        );
    }
    for place in (0..bytes.len()).step_by(bytes.len() / 50) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        assert!(refused(&damaged, IDENTITY).ends_with("the checkpoint is cut or damaged"), "{place}");
    }
    assert!(refused(&bytes, "other settings").ends_with("the checkpoint is of another cell"));
    // Whole, and no checkpoint of this version.
    let with_digest = |content: &[u8]| [content, blake3::hash(content).as_bytes()].concat();
    for content in [&b""[..], b"\x02\0\0\0\0\0\0\0{}", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
        refused(&with_digest(content), IDENTITY);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains(r#"{\"format\":1,"#));
    let place = bytes.windows(12).position(|part| part == br#"\"format\":1"#).unwrap();
    let mut newer = bytes[..bytes.len() - 32].to_vec();
    newer[place + 11] = b'2';
    let sentence = refused(&with_digest(&newer), IDENTITY);
    assert!(sentence.ends_with("another version has written the checkpoint"), "{sentence}");
    // Another plan trains something else.
    let other = plans_of("norm");
    let checkpoint = Checkpoint::open(&file, IDENTITY).unwrap();
    checkpoint.check(&engine(&plans, cpu())).unwrap();
    let error = checkpoint.check(&engine(&other, cpu())).unwrap_err().to_string();
    assert!(error.contains("the checkpoint is of another plan, which has no such "), "{error}");
}

/// Any reader of the format takes it; of what is frozen nothing is in it.
#[test]
fn a_checkpoint_holds_what_trains_and_what_was_attached() {
    use std::io::Read;
    let plans = plans(HEAD, |recorder| train_role(recorder, "bias"));
    let (_folder, file) = saved(&plans);
    let bytes = fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kinds = ["parameter/", "first_moment/", "second_moment/", "best/"];
    let trained = plans.parameters.parts().filter(|(_, part)| part.trained);
    let mut names: Vec<String> =
        trained.flat_map(|(_, part)| kinds.map(|kind| format!("{kind}{}", part.name))).collect();
    names.extend(["attached/a".into(), "digest".into()]);
    names.sort();
    let mut found: Vec<String> = tensors.names().iter().map(|name| name.to_string()).collect();
    found.sort();
    assert_eq!(found, names);
    let checkpoint = Checkpoint::open(&file, IDENTITY).unwrap();
    assert_eq!(checkpoint.attachments().collect::<Vec<_>>(), ["a"]);
    let mut attached = String::new();
    checkpoint.attachment("a").unwrap().read_to_string(&mut attached).unwrap();
    assert_eq!(attached, "abcde");
    assert!(checkpoint.attachment("b").is_err());
    assert_eq!(checkpoint.caller()["steps"], 2 * STEPS + 1);
}
