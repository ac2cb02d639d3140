//! Golden files of PyTorch: checkpoints, batches and expected values of a case,
//! and how the engine is held against them.

use std::path::{Path, PathBuf};

use candle_core::Device;
use host_engine::backend::Backend;
use host_engine::backend::candle::Candle;
use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::device::Precision;
use host_engine::engine::{Engine, NamedTensor};
use host_engine::files::checkpoint::{Checkpoint, read_config};
use host_engine::init::{Weights, initial_blocks};
use host_engine::models::config::EncoderConfig;
use host_ir::record::Recorder;
use host_ir::task::{HeadKind, Outputs};

use super::{plans_present, second, second_in};

pub fn folder(family: &str) -> PathBuf {
    // The tests also run away from where they were compiled (tests/gpu).
    let root = std::env::var_os("HOST_TEST_ROOT").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    root.join("tests/golden").join(family)
}

/// All tensors of a golden file.
pub fn golden(family: &str, name: &str) -> Vec<NamedTensor> {
    let bytes = std::fs::read(folder(family).join(format!("{name}.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let elements =
            view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        NamedTensor { name, shape: view.shape().to_vec(), elements }
    });
    tensors.collect()
}

pub fn find<'a>(tensors: &'a [NamedTensor], name: &str) -> &'a NamedTensor {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

pub fn config(family: &str, checkpoint: &str) -> (Checkpoint, EncoderConfig) {
    let path = folder(family).join(checkpoint);
    let config = EncoderConfig::read(&read_config(&path).unwrap()).unwrap();
    (Checkpoint::open(&path, config.prefix()).unwrap(), config)
}

struct Sentences {
    ids: Vec<Vec<u32>>,
    labels: Vec<i32>,
}

fn sentences() -> Sentences {
    let text = std::fs::read_to_string(folder("bert").join("batch.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = json["ids"].as_array().unwrap().iter();
    Sentences {
        ids: ids
            .map(|row| row.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect())
            .collect(),
        labels: json["labels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|label| label.as_i64().unwrap() as i32)
            .collect(),
    }
}

/// The sentences with these places, packed; with every third token chosen where
/// a masked language model wants it, as the script chooses.
pub fn packed(places: &[usize], virtual_tokens: u32, masked: bool) -> Batch {
    let sentences = sentences();
    let mut batch = Batch { starts: vec![0], virtual_tokens, ..Batch::default() };
    for (number, &place) in places.iter().enumerate() {
        let ids = &sentences.ids[place];
        batch.ids.extend(0..virtual_tokens);
        for (at, &id) in ids.iter().enumerate() {
            if masked && at > 0 && at < ids.len() - 1 && at % 3 == 1 {
                batch.masked_rows.push(batch.ids.len() as u32);
                batch.masked_tokens.push((id * 7 + 5) as i32 % 96);
            }
            batch.ids.push(id);
        }
        batch.positions.extend(0..virtual_tokens + ids.len() as u32);
        batch.starts.push(batch.ids.len() as u32);
        batch.places.push(number as u32);
    }
    batch.token_types = vec![0; batch.ids.len()];
    batch.labels.insert("label".into(), places.iter().map(|&place| sentences.labels[place]).collect());
    batch
}

pub fn backends() -> [Box<dyn Backend>; 3] {
    [Box::new(Cpu::new(1).unwrap()), Box::new(Cpu::new(2).unwrap()), second()]
}

pub fn engine(
    plans: &Plans,
    weights: &dyn Weights,
    start: &[NamedTensor],
    backend: Box<dyn Backend>,
) -> Engine {
    let blocks = initial_blocks(plans, weights, false, 0).unwrap();
    let mut engine = Engine::new(plans.clone(), blocks, backend).unwrap();
    engine.restore(start).unwrap();
    engine
}

pub fn norm(elements: &[f32]) -> f64 {
    elements.iter().map(|&element| f64::from(element) * f64::from(element)).sum::<f64>().sqrt()
}

/// A checkpoint with the tensors that a golden file has beside it.
struct Beside<'a> {
    checkpoint: &'a Checkpoint,
    own: &'a [NamedTensor],
}

impl Weights for Beside<'_> {
    fn load(&self, name: &str, shape: &[u32], elements: &mut [f32]) -> Result<bool, String> {
        let Some(tensor) = self.own.iter().find(|tensor| tensor.name == name) else {
            return self.checkpoint.load(name, shape, elements);
        };
        elements.copy_from_slice(&tensor.elements);
        Ok(true)
    }
}

/// Logits, losses and all gradients of a case: the norm of each difference is
/// below 1e-4 of the larger of the tensor's norm and 1e-5 of all gradients'.
pub fn check(
    case: (&str, &str),
    head: HeadKind,
    plan: fn(&mut Recorder),
    batch: &Batch,
    start_names: fn(&str) -> bool,
) {
    check_present(case, head, plan, batch, start_names, |checkpoint, name| checkpoint.has(name));
}

/// As [`check`], as if the tensors that the file brings were the checkpoint's, so that
/// nothing is new.
pub fn check_pretrained(
    case: (&str, &str),
    head: HeadKind,
    plan: fn(&mut Recorder),
    batch: &Batch,
    start_names: fn(&str) -> bool,
) {
    check_present(case, head, plan, batch, start_names, |_, _| true);
}

fn check_present(
    (family, name): (&str, &str),
    head: HeadKind,
    plan: fn(&mut Recorder),
    batch: &Batch,
    start_names: fn(&str) -> bool,
    present: fn(&Checkpoint, &str) -> bool,
) {
    let (checkpoint, config) = config(family, "checkpoint");
    // The files were made without dropout; that of ELECTRA's summary stands in config.json.
    let config = config.with_dropout(Some(0.0));
    let plans = plans_present(config, head, &|name| present(&checkpoint, name), plan);
    let expected = golden(family, name);
    let start: Vec<NamedTensor> =
        expected.iter().filter(|tensor| start_names(&tensor.name)).cloned().collect();
    let weights = Beside { checkpoint: &checkpoint, own: &start };
    agree(name, &plans, &weights, &start, batch, &expected);
}

/// Logits and losses of a batch.
fn evaluated(engine: &mut Engine, batch: &Batch) -> [Vec<f32>; 2] {
    let outputs = engine.evaluate(batch).unwrap().outputs;
    [0, 1].map(|place| outputs.iter().flat_map(|outputs: &Outputs| outputs[place].clone()).collect())
}

/// Logits, losses and all gradients of plans on every backend; and in bf16, where they
/// are a little off.
pub fn agree(
    name: &str,
    plans: &Plans,
    weights: &dyn Weights,
    start: &[NamedTensor],
    batch: &Batch,
    expected: &[NamedTensor],
) {
    for backend in backends() {
        let mut engine = engine(plans, weights, start, backend);
        let [logits, losses] = evaluated(&mut engine, batch);
        for (found, key) in [(logits, "logits"), (losses, "losses")] {
            let wanted = &find(expected, key).elements;
            assert_eq!(found.len(), wanted.len(), "{name}: {key}");
            let apart: Vec<f32> = found.iter().zip(wanted).map(|(a, b)| a - b).collect();
            assert!(
                norm(&apart) < 1e-5 * norm(wanted),
                "{name}: {key} are {:e} apart",
                norm(&apart) / norm(wanted)
            );
        }
        engine.accumulate(std::slice::from_ref(batch), 0).unwrap();
        let gradients = engine.gradients().unwrap();
        let all: Vec<f32> = gradients.iter().flat_map(|tensor| tensor.elements.clone()).collect();
        let global = norm(&all);
        let listed = expected.iter().filter(|tensor| tensor.name.starts_with("gradient.")).count();
        assert_eq!(gradients.len(), listed, "{name}: as many gradients as PyTorch has");
        for gradient in &gradients {
            let wanted = find(expected, &format!("gradient.{}", gradient.name));
            assert_eq!(gradient.shape, wanted.shape, "{}", gradient.name);
            let apart: Vec<f32> =
                gradient.elements.iter().zip(&wanted.elements).map(|(a, b)| a - b).collect();
            // A key's bias has no gradient in exact arithmetic, and none has that of
            // the keys of positions; both programs' rounding is what is left, to be
            // held against all gradients.
            let rounding = ["key.bias", "pos_key_proj.bias", "k_proj.bias"]
                .iter()
                .any(|end| gradient.name.ends_with(end));
            // What is added to every choice's logit changes no probability.
            let rounding = rounding || (name == "choice" && gradient.name == "classifier.bias");
            let floor = if rounding { 1e-2 } else { 1e-5 };
            let scale = norm(&wanted.elements).max(floor * global);
            assert!(
                norm(&apart) < 1e-4 * scale,
                "{name}: {} is {:e} apart",
                gradient.name,
                norm(&apart) / scale
            );
        }
    }
    agree_rounded(name, plans, weights, start, batch, expected);
}

/// In bf16, logits and all gradients as one vector are off by no more than twice what
/// products of rounded numbers alone make them, with numbers of eight bits.
fn agree_rounded(
    name: &str,
    plans: &Plans,
    weights: &dyn Weights,
    start: &[NamedTensor],
    batch: &Batch,
    expected: &[NamedTensor],
) {
    let shares = |backend: Box<dyn Backend>| {
        let mut engine = engine(plans, weights, start, backend);
        let [logits, _] = evaluated(&mut engine, batch);
        engine.accumulate(std::slice::from_ref(batch), 0).unwrap();
        let gradients = engine.gradients().unwrap();
        let wanted =
            |gradient: &NamedTensor| &find(expected, &format!("gradient.{}", gradient.name)).elements;
        let gradient = gradients.iter().flat_map(|gradient| gradient.elements.iter().zip(wanted(gradient)));
        let logits = logits.iter().zip(&find(expected, "logits").elements);
        let pairs: [Vec<(&f32, &f32)>; 2] = [logits.collect(), gradient.collect()];
        pairs.map(|pairs| {
            let (apart, wanted): (Vec<f32>, Vec<f32>) = pairs.into_iter().map(|(a, b)| (a - b, *b)).unzip();
            norm(&apart) / norm(&wanted)
        })
    };
    let products = Candle::new(Device::Cpu).in_precision(Precision::Bf16);
    let (products, found) = (shares(Box::new(products)), shares(second_in(Precision::Bf16)));
    for ((found, products), what) in found.into_iter().zip(products).zip(["logits", "gradients"]) {
        assert!(
            1e-5 < found && found < 2.0 * products,
            "{name}: {what} are {found:e} apart, and {products:e}"
        );
    }
}

pub const ALL: [usize; 5] = [0, 1, 2, 3, 4];
