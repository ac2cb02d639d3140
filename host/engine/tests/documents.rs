//! Expressions over whole documents: the graph of a coreference head, as its
//! plugin plans it, against PyTorch, on both backends. The plan is written by
//! the plugin's tests, the rest by tests/reference/coreference.py.

use std::path::{Path, PathBuf};

use candle_core::Device;
use host_engine::backend::Backend;
use host_engine::backend::candle::Candle;
use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::engine::{Engine, NamedTensor};
use host_engine::files::checkpoint::{Checkpoint, read_config};
use host_engine::init::initial_blocks;
use host_engine::models::Architecture;
use host_engine::models::config::EncoderConfig;
use host_ir::graph::Op;
use host_ir::method::MethodPlan;
use host_ir::model::ParameterId;
use host_ir::task::TaskPlan;
use serde::Deserialize;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// The document, and what PyTorch makes of it.
#[derive(Deserialize)]
struct Document {
    windows: Vec<Vec<u32>>,
    words: Vec<(u32, u32)>,
    sentence: Vec<i32>,
    speaker: Vec<i32>,
    genre: Vec<i32>,
    mentions: Vec<[u32; 3]>,
    loss: f64,
    places: Vec<f32>,
    antecedents: Vec<f32>,
    scores: Vec<Option<f32>>,
}

fn document() -> Document {
    let text = std::fs::read_to_string(golden().join("coreference/document.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn batch(document: &Document) -> Batch {
    let mut batch = Batch { starts: vec![0], ..Batch::default() };
    for (window, ids) in (0..).zip(&document.windows) {
        batch.ids.extend(ids);
        batch.positions.extend(0..ids.len() as u32);
        batch.token_types.extend(ids.iter().map(|_| 0));
        batch.starts.push(batch.ids.len() as u32);
        batch.places.push(window);
    }
    batch.example_starts = vec![0, document.windows.len() as u32];
    let row = |&(window, token): &(u32, u32)| batch.starts[window as usize] + token;
    batch.word_rows = document.words.iter().map(row).collect();
    batch.word_numbers.insert("sentence".into(), document.sentence.clone());
    batch.word_numbers.insert("speaker".into(), document.speaker.clone());
    batch.word_numbers.insert("genre".into(), document.genre.clone());
    batch.spans.insert("mentions".into(), document.mentions.clone());
    batch
}

/// The plugin's plan with another dropout.
fn plan(dropout: f64) -> TaskPlan {
    let text = std::fs::read_to_string(golden().join("coreference/plan.json")).unwrap();
    let mut plan: TaskPlan = serde_json::from_str(&text).unwrap();
    for node in &mut plan.graph.nodes {
        if let Op::Dropout(probability) = &mut node.op {
            *probability = dropout;
        }
    }
    plan
}

/// Everything trains.
fn engine(dropout: f64, start: &[NamedTensor], backend: Box<dyn Backend>) -> Engine {
    let folder = golden().join("bert/checkpoint");
    let config = EncoderConfig::read(&read_config(&folder).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&folder, config.prefix()).unwrap();
    let (plan, mut method) = (plan(dropout), MethodPlan::default());
    let mut model = config.describe_headless(&|name| checkpoint.has(name));
    plan.add_head_to(&mut model);
    method.trained.extend((0..model.parameters.len() as u32).map(ParameterId));
    let plans = Plans::new(config, model, plan, method);
    let blocks = initial_blocks(&plans, &checkpoint, false, 3).unwrap();
    let mut engine = Engine::new(plans, blocks, backend).unwrap();
    engine.restore(start).unwrap();
    engine
}

fn backends() -> [Box<dyn Backend>; 3] {
    [Box::new(Cpu::new(1).unwrap()), Box::new(Cpu::new(2).unwrap()), Box::new(Candle::new(Device::Cpu))]
}

fn norm(elements: impl IntoIterator<Item = f32>) -> f64 {
    elements.into_iter().map(|element| f64::from(element).powi(2)).sum::<f64>().sqrt()
}

/// The norm of each difference is below a share of the larger of the tensor's
/// norm and a hundredth of all gradients'.
fn agree(found: &[NamedTensor], wanted: &[NamedTensor], share: f64) {
    let whole = norm(wanted.iter().flat_map(|tensor| tensor.elements.iter().copied()));
    for tensor in wanted {
        let Some(found) = found.iter().find(|found| found.name == tensor.name) else {
            panic!("{} has no gradient", tensor.name)
        };
        let pairs = found.elements.iter().zip(&tensor.elements);
        let apart = norm(pairs.map(|(found, wanted)| found - wanted));
        let allowed = share * norm(tensor.elements.iter().copied()).max(0.01 * whole);
        assert!(apart <= allowed, "{}: {apart} apart, {allowed} allowed", tensor.name);
    }
}

#[test]
fn losses_links_and_gradients_are_those_of_pytorch() {
    let bytes = std::fs::read(golden().join("coreference/head.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (mut start, mut gradients) = (Vec::new(), Vec::new());
    for (name, view) in file.tensors() {
        let numbers = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let (shape, elements) = (view.shape().to_vec(), numbers.collect());
        match name.strip_prefix("gradient.") {
            Some(name) => gradients.push(NamedTensor { name: name.into(), shape, elements }),
            None => start.push(NamedTensor { name, shape, elements }),
        }
    }
    let document = document();
    let batch = batch(&document);
    for backend in backends() {
        let mut engine = engine(0.0, &start, backend);
        let outputs = engine.evaluate(&batch).unwrap().outputs.remove(0);
        assert_eq!(outputs[0], document.places);
        assert_eq!(outputs[1], document.antecedents);
        for (found, wanted) in outputs[2].iter().zip(&document.scores) {
            match wanted {
                Some(wanted) => assert!((found - wanted).abs() < 1e-4, "{found} and {wanted}"),
                None => assert!(*found < -1e8, "the first span has no antecedent"),
            }
        }
        let loss = engine.accumulate(std::slice::from_ref(&batch), 0).unwrap();
        assert!((loss - document.loss).abs() < 1e-4, "{loss} and {}", document.loss);
        agree(&engine.gradients().unwrap(), &gradients, 1e-4);
    }
}

/// With dropout, both backends draw the same masks.
#[test]
fn dropout_of_words_is_the_same_on_both_backends() {
    let batch = batch(&document());
    let gradients = backends().map(|backend| {
        let mut engine = engine(0.25, &[], backend);
        engine.accumulate(std::slice::from_ref(&batch), 11).unwrap();
        engine.gradients().unwrap()
    });
    agree(&gradients[1], &gradients[0], 1e-4);
    agree(&gradients[2], &gradients[0], 1e-3);
    let mut plain = engine(0.0, &[], Box::new(Cpu::new(1).unwrap()));
    plain.accumulate(std::slice::from_ref(&batch), 11).unwrap();
    let of = |tensors: &[NamedTensor]| {
        let found = tensors.iter().find(|tensor| tensor.name == "mentions.start.weight").unwrap();
        found.elements.clone()
    };
    assert_ne!(of(&plain.gradients().unwrap()), of(&gradients[0]), "the dropout does something");
}
