//! The forward pass against candle_transformers' BERT and DeBERTa, oracles that
//! share no code with ours beyond the file.

mod support;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config};
use candle_transformers::models::debertav2;
use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::engine::Engine;
use host_engine::files::checkpoint::{Checkpoint, read_config};
use host_engine::init::initial_blocks;
use host_engine::models::config::EncoderConfig;
use host_ir::task::HeadKind;
use support::plans_of;

#[test]
fn logits_are_those_of_candle_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/bert/checkpoint");
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let variables = VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu).unwrap();
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let theirs: Config = serde_json::from_str(&text).unwrap();
    let bert = BertModel::load(variables.pp("bert"), &theirs).unwrap();
    let linear = |name: &str, outputs: usize| {
        let variables = variables.pp(name);
        Linear::new(
            variables.get((outputs, 32), "weight").unwrap(),
            Some(variables.get(outputs, "bias").unwrap()),
        )
    };
    let (pooler, classifier) = (linear("bert.pooler.dense", 32), linear("classifier", 5));
    check(&folder, 40, |ids, types| {
        let hidden = bert.forward(ids, types, None).unwrap();
        let first = hidden.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        classifier.forward(&pooler.forward(&first).unwrap().tanh().unwrap()).unwrap()
    });
}

/// Farther apart than the buckets tell single distances apart.
#[test]
fn debertas_logits_are_those_of_candle_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/deberta/checkpoint");
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let variables = VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu).unwrap();
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let theirs: debertav2::Config = serde_json::from_str(&text).unwrap();
    let deberta = variables.pp("deberta");
    let model = debertav2::DebertaV2SeqClassificationModel::load(deberta, &theirs, None).unwrap();
    check(&folder, 40, |ids, _| model.forward(ids, None, None).unwrap());
}

/// Our logits of sequences up to a length against theirs, [1, classes].
fn check(folder: &Path, longest: u32, theirs: impl Fn(&Tensor, &Tensor) -> Tensor) {
    let config = EncoderConfig::read(&read_config(folder).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(folder, config.prefix()).unwrap();
    let plans = plans_of(config, HeadKind::Classification { classes: 5 }, |_| {});
    let blocks = initial_blocks(&plans, &checkpoint, false, 0).unwrap();
    let mut engine = Engine::new(plans, blocks, Box::new(Cpu::new(1).unwrap())).unwrap();
    for length in [1, 7, longest] {
        let ids: Vec<u32> = (0..length).map(|place| (place * 13 + 5) % 96).collect();
        let types: Vec<u32> = (0..length).map(|place| u32::from(place > 3)).collect();
        let tensor = |values: &[u32]| Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let wanted: Vec<f32> =
            theirs(&tensor(&ids), &tensor(&types)).flatten_all().unwrap().to_vec1().unwrap();
        let mut batch =
            Batch { starts: vec![0, length], ids, token_types: types, places: vec![0], ..Batch::default() };
        batch.positions = (0..length).collect();
        batch.labels.insert("label".into(), vec![0]);
        let found = engine.evaluate(&batch).unwrap().outputs.remove(0).remove(0);
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!(
                (found - wanted).abs() < 1e-4 * wanted.abs().max(1.0),
                "{length} tokens: {found} and {wanted}"
            );
        }
    }
}
