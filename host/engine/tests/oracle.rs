//! The forward pass against candle_transformers' BERT, XLM-R (which is RoBERTa),
//! DeBERTa and T5, oracles that share no code with ours beyond the file. It has no
//! ELECTRA and no BART.

mod support;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config};
use candle_transformers::models::{debertav2, t5, xlm_roberta};
use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::engine::Engine;
use host_engine::files::checkpoint::{Checkpoint, read_config};
use host_engine::init::initial_blocks;
use host_engine::models::config::EncoderConfig;
use host_ir::task::HeadKind;
use support::conditional::{golden_plans, packed};
use support::golden::folder;
use support::{plans_of, train_role};

/// The tensors of a golden checkpoint, for candle's models.
fn variables(folder: &Path) -> VarBuilder<'static> {
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu).unwrap()
}

/// config.json as candle's models read it.
fn their_config<Config: serde::de::DeserializeOwned>(folder: &Path) -> Config {
    let mut config = read_config(folder).unwrap();
    // What older files say, and newer ones leave out.
    config.entry("position_embedding_type").or_insert("absolute".into());
    serde_json::from_value(config.into()).unwrap()
}

#[test]
fn logits_are_those_of_candle_transformers() {
    let folder = folder("bert").join("checkpoint");
    let variables = variables(&folder);
    let theirs: Config = their_config(&folder);
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

#[test]
fn robertas_logits_are_those_of_candle_transformers() {
    let folder = folder("roberta").join("checkpoint");
    let theirs = their_config(&folder);
    let model =
        xlm_roberta::XLMRobertaForSequenceClassification::new(5, &theirs, variables(&folder)).unwrap();
    check(&folder, 40, |ids, types| model.forward(ids, &ids.ones_like().unwrap(), types).unwrap());
}

/// Farther apart than the buckets tell single distances apart.
#[test]
fn debertas_logits_are_those_of_candle_transformers() {
    let folder = folder("deberta").join("checkpoint");
    let theirs: debertav2::Config = their_config(&folder);
    let deberta = variables(&folder).pp("deberta");
    let model = debertav2::DebertaV2SeqClassificationModel::load(deberta, &theirs, None).unwrap();
    check(&folder, 40, |ids, _| model.forward(ids, None, None).unwrap());
}

/// Farther apart in the encoder than its buckets tell single distances apart. In the
/// decoder candle_transformers puts distances into the encoder's buckets, which are
/// those of transformers for the first two tokens alone. Before a tied output it
/// multiplies by the root of the size of the states where transformers divides by it.
#[test]
fn t5s_logits_are_those_of_candle_transformers() {
    for name in ["relu", "gated"] {
        let folder = folder("t5").join(name);
        let theirs: t5::Config = their_config(&folder);
        let scale = if theirs.tie_word_embeddings { 1.0 / theirs.d_model as f32 } else { 1.0 };
        let mut model = t5::T5ForConditionalGeneration::load(variables(&folder), &theirs).unwrap();
        let (checkpoint, plans, _) = golden_plans("t5", name, |recorder| train_role(recorder, "all"));
        let mut engine = engine(plans, &checkpoint);
        for length in [1, 7, 40] {
            let source = ids(length);
            let batch = packed(&[(0, source.clone(), vec![17, 1])], engine.plans.config.as_ref(), 0);
            let found = engine.evaluate(&batch).unwrap().outputs.remove(0).remove(0);
            for said in 1..=2 {
                model.clear_kv_cache();
                let wanted = model.forward(&row(&source), &row(&batch.target.ids[..said])).unwrap();
                let wanted: Vec<f32> = wanted.flatten_all().unwrap().to_vec1().unwrap();
                let wanted: Vec<f32> = wanted.iter().map(|logit| scale * logit).collect();
                let found = &found[(said - 1) * wanted.len()..said * wanted.len()];
                agree(found, &wanted, &format!("{name}, {length} tokens, {said} said"));
            }
        }
    }
}

/// Tokens of a sequence of a length.
fn ids(length: u32) -> Vec<u32> {
    (0..length).map(|place| (place * 13 + 5) % 96).collect()
}

/// A batch of one sequence, [1, tokens].
fn row(values: &[u32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn engine(plans: Plans, checkpoint: &Checkpoint) -> Engine {
    let blocks = initial_blocks(&plans, checkpoint, false, 0).unwrap();
    Engine::new(plans, blocks, Box::new(Cpu::new(1).unwrap())).unwrap()
}

fn agree(found: &[f32], wanted: &[f32], case: &str) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{case}: {found} and {wanted}");
    }
}

/// Our logits of sequences up to a length against theirs, [1, classes].
fn check(folder: &Path, longest: u32, theirs: impl Fn(&Tensor, &Tensor) -> Tensor) {
    let config = EncoderConfig::read(&read_config(folder).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(folder, config.prefix()).unwrap();
    let (first, types) = (config.first_position as u32, config.token_types as u32);
    let plans = plans_of(config, HeadKind::Classification { classes: 5 }, |_| {});
    let mut engine = engine(plans, &checkpoint);
    for length in [1, 7, longest] {
        let ids = ids(length);
        let types: Vec<u32> = (0..length).map(|place| u32::from(types > 1 && place > 3)).collect();
        let wanted: Vec<f32> = theirs(&row(&ids), &row(&types)).flatten_all().unwrap().to_vec1().unwrap();
        let mut batch =
            Batch { starts: vec![0, length], ids, token_types: types, places: vec![0], ..Batch::default() };
        batch.positions = (0..length).map(|place| first + place).collect();
        batch.labels.insert("label".into(), vec![0]);
        let found = engine.evaluate(&batch).unwrap().outputs.remove(0).remove(0);
        agree(&found, &wanted, &format!("{length} tokens"));
    }
}
