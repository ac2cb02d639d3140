//! The engine against PyTorch: logits, losses and every gradient of a tiny BERT
//! as transformers and peft compute them, and fifty steps of training. The
//! files are written by tests/reference/bert.py.

mod support;

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
use host_engine::models::config::EncoderConfig;
use host_engine::train::schedule::LearningRate;
use host_engine::train::settings::TrainingSettings;
use host_ir::record::Recorder;
use host_ir::task::HeadKind;
use support::{low_rank_named, plans_of, train_role};

const CLASSIFICATION: HeadKind = HeadKind::Classification { classes: 5 };

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family)
}

/// All tensors of a golden file.
fn golden(family: &str, name: &str) -> Vec<NamedTensor> {
    let bytes = std::fs::read(folder(family).join(format!("{name}.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let elements =
            view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        NamedTensor { name, shape: view.shape().to_vec(), elements }
    });
    tensors.collect()
}

fn find<'a>(tensors: &'a [NamedTensor], name: &str) -> &'a NamedTensor {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

fn config(family: &str, checkpoint: &str) -> (Checkpoint, EncoderConfig) {
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
fn packed(places: &[usize], virtual_tokens: u32, masked: bool) -> Batch {
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

fn backends() -> [Box<dyn Backend>; 3] {
    [Box::new(Cpu::new(1).unwrap()), Box::new(Cpu::new(2).unwrap()), Box::new(Candle::new(Device::Cpu))]
}

fn engine(
    plans: &Plans,
    checkpoint: &Checkpoint,
    start: &[NamedTensor],
    backend: Box<dyn Backend>,
) -> Engine {
    let blocks = initial_blocks(plans, checkpoint, false, 0).unwrap();
    let mut engine = Engine::new(plans.clone(), blocks, backend).unwrap();
    engine.restore(start).unwrap();
    engine
}

fn norm(elements: &[f32]) -> f64 {
    elements.iter().map(|&element| f64::from(element) * f64::from(element)).sum::<f64>().sqrt()
}

/// Logits, losses and all gradients of a case: the norm of each difference is
/// below 1e-4 of the larger of the tensor's norm and 1e-5 of all gradients'.
fn check(
    (family, name): (&str, &str),
    head: HeadKind,
    plan: fn(&mut Recorder),
    batch: &Batch,
    start_names: fn(&str) -> bool,
) {
    let (checkpoint, config) = config(family, "checkpoint");
    let plans = plans_of(config, head, plan);
    let expected = golden(family, name);
    let start: Vec<NamedTensor> =
        expected.iter().filter(|tensor| start_names(&tensor.name)).cloned().collect();
    for backend in backends() {
        let mut engine = engine(&plans, &checkpoint, &start, backend);
        let evaluation = engine.evaluate(batch).unwrap();
        let logits: Vec<f32> = evaluation.outputs.iter().flat_map(|outputs| outputs[0].clone()).collect();
        let losses: Vec<f32> = evaluation.outputs.iter().flat_map(|outputs| outputs[1].clone()).collect();
        for (found, key) in [(logits, "logits"), (losses, "losses")] {
            let wanted = &find(&expected, key).elements;
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
            let wanted = find(&expected, &format!("gradient.{}", gradient.name));
            assert_eq!(gradient.shape, wanted.shape, "{}", gradient.name);
            let apart: Vec<f32> =
                gradient.elements.iter().zip(&wanted.elements).map(|(a, b)| a - b).collect();
            // A key's bias has no gradient in exact arithmetic; both programs'
            // rounding is what is left, to be held against all gradients.
            let floor = if gradient.name.ends_with("key.bias") { 1e-2 } else { 1e-5 };
            let scale = norm(&wanted.elements).max(floor * global);
            assert!(
                norm(&apart) < 1e-4 * scale,
                "{name}: {} is {:e} apart",
                gradient.name,
                norm(&apart) / scale
            );
        }
    }
}

const ALL: [usize; 5] = [0, 1, 2, 3, 4];

#[test]
fn full_fine_tuning_agrees_with_transformers() {
    check(
        ("bert", "classification"),
        CLASSIFICATION,
        |recorder| train_role(recorder, "all"),
        &packed(&ALL, 0, false),
        |_| false,
    );
}

#[test]
fn the_masked_language_model_agrees_with_transformers() {
    check(
        ("bert", "masked"),
        HeadKind::MaskedLanguageModel,
        |recorder| train_role(recorder, "all"),
        &packed(&ALL, 0, true),
        |name| name.starts_with("cls."),
    );
}

/// ELECTRA, with embeddings smaller than its hidden states.
#[test]
fn electra_agrees_with_transformers() {
    let all: fn(&mut Recorder) = |recorder| train_role(recorder, "all");
    check(("electra", "classification"), CLASSIFICATION, all, &packed(&ALL, 0, false), |_| false);
    let head = HeadKind::MaskedLanguageModel;
    check(("electra", "masked"), head, all, &packed(&ALL, 0, true), |name| name.starts_with("generator_"));
}

/// RoBERTa, with another norm's constant and positions that start at 2.
#[test]
fn roberta_agrees_with_transformers() {
    let all: fn(&mut Recorder) = |recorder| train_role(recorder, "all");
    let shifted = |masked: bool| {
        let mut batch = packed(&ALL, 0, masked);
        batch.positions.iter_mut().for_each(|position| *position += 2);
        batch
    };
    check(("roberta", "classification"), CLASSIFICATION, all, &shifted(false), |_| false);
    let head = HeadKind::MaskedLanguageModel;
    check(("roberta", "masked"), head, all, &shifted(true), |name| name.starts_with("lm_head."));
}

/// The file that torch.save writes holds the same tensors, bit for bit.
#[test]
fn pickled_weights_are_those_of_the_safetensors_file() {
    let plans = plans_of(config("roberta", "pickled").1, CLASSIFICATION, |_| {});
    let blocks = ["pickled", "checkpoint"]
        .map(|name| initial_blocks(&plans, &config("roberta", name).0, false, 0).unwrap());
    assert_eq!(blocks[0], blocks[1]);
}

/// What transformers has of them; XLM-R and CamemBERT differ from RoBERTa in
/// their sizes alone.
#[test]
fn families_of_roberta_have_the_parameters_of_transformers() {
    // roberta-base, xlm-roberta-base and EMBEDDIA/sloberta with two classes.
    let families = [
        ("roberta", 50265, 124_647_170),
        ("xlm-roberta", 250002, 278_045_186),
        ("camembert", 32005, 110_623_490),
    ];
    for (family, vocabulary, parameters) in families {
        let json = serde_json::json!({
            "model_type": family, "vocab_size": vocabulary, "hidden_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514,
            "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
        });
        let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
        assert_eq!((config.positions, config.first_position), (512, 2));
        let head = HeadKind::Classification { classes: 2 };
        let plans = plans_of(config, head, |recorder| train_role(recorder, "all"));
        assert_eq!(plans.method.counts(&plans.model).trained, parameters, "{family}");
    }
}

/// The parameters of BERTić (ELECTRA-base with a vocabulary of 32,000) that the
/// reference trains, with two classes.
#[test]
fn counts_are_those_of_the_reference() {
    let json = serde_json::json!({
        "model_type": "electra", "vocab_size": 32000, "embedding_size": 768, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "max_position_embeddings": 512, "type_vocab_size": 2,
    });
    let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
    let count = |plan: fn(&mut Recorder)| {
        let plans = plans_of(config.clone(), HeadKind::Classification { classes: 2 }, plan);
        plans.method.counts(&plans.model).trained
    };
    assert_eq!(count(|recorder| train_role(recorder, "all")), 110_618_882);
    let rank_4 = count(|recorder| low_rank_named(recorder, &["query", "value"], 0.1, 2.0, ("A", "B")));
    // Of rank 16 there are four times as many in the factors.
    let factors = 12 * 2 * 2 * 4 * 768;
    assert_eq!(rank_4 + 3 * factors, 1_200_386);
    let prompt = count(|recorder| {
        let start = recorder.full(&[20, 768], 0.0).unwrap();
        let prompt = recorder.parameter(None, "prompt", start, true).unwrap();
        recorder.prompt(prompt).unwrap();
    });
    assert_eq!(prompt, 607_490);
}

#[test]
fn virtual_tokens_agree_with_pytorch() {
    check(
        ("bert", "prompt"),
        CLASSIFICATION,
        |recorder| {
            let start = recorder.full(&[2, 32], 0.0).unwrap();
            let prompt = recorder.parameter(None, "prompt_embeddings", start, true).unwrap();
            recorder.prompt(prompt).unwrap();
        },
        &packed(&ALL, 2, false),
        |name| name == "prompt_embeddings",
    );
}

#[test]
fn low_rank_updates_agree_with_peft() {
    check(
        ("bert", "lora"),
        CLASSIFICATION,
        |recorder| low_rank_named(recorder, &["query", "value"], 0.0, 6.0 / 4.0, ("lora_A", "lora_B")),
        &packed(&ALL, 0, false),
        |name| name.starts_with("bert") && name.contains("lora_"),
    );
}

/// Names without prefix, gamma and beta, float16: the logits are those of the
/// float32 file to the precision of the weights.
#[test]
fn older_files_give_the_same_logits() {
    let (checkpoint, config) = config("bert", "older");
    let plans = plans_of(config, CLASSIFICATION, |_| {});
    let mut engine = engine(&plans, &checkpoint, &[], Box::new(Cpu::new(1).unwrap()));
    let evaluation = engine.evaluate(&packed(&ALL, 0, false)).unwrap();
    let found: Vec<f32> = evaluation.outputs.iter().flat_map(|outputs| outputs[0].clone()).collect();
    let expected = golden("bert", "classification");
    let wanted = &find(&expected, "logits").elements;
    let apart: Vec<f32> = found.iter().zip(wanted).map(|(a, b)| a - b).collect();
    assert!(norm(&apart) < 1e-2 * norm(wanted), "{:e}", norm(&apart) / norm(wanted));
}

/// Fifty steps of AdamW with clipping, decay and a linear schedule with
/// warm-up: losses follow PyTorch's to 1e-3, rates and norms exactly.
#[test]
fn training_follows_pytorch() {
    let text = std::fs::read_to_string(folder("bert").join("curve.json")).unwrap();
    let curve: serde_json::Value = serde_json::from_str(&text).unwrap();
    let at = |key: &str, step: usize| curve[key][step].as_f64().unwrap();
    let (checkpoint, config) = config("bert", "checkpoint");
    let plans = plans_of(config, CLASSIFICATION, |recorder| train_role(recorder, "all"));
    let settings = TrainingSettings {
        learning_rate: 1e-3,
        weight_decay: 0.01,
        warmup_steps: Some(5),
        ..TrainingSettings::default()
    };
    let rates = LearningRate::new(&settings, 50);
    let mut engine = engine(&plans, &checkpoint, &[], Box::new(Cpu::new(2).unwrap()));
    for step in 0..50 {
        let places: Vec<usize> = (0..3).map(|offset| (step + offset) % 5).collect();
        let rate = rates.at(step as u64);
        assert!((rate - at("rates", step)).abs() < 1e-12);
        let result = engine.step(&[packed(&places, 0, false)], &settings, rate, 0).unwrap();
        let wanted = at("losses", step);
        assert!(
            (result.loss - wanted).abs() < 1e-3 * wanted.max(0.1),
            "step {step}: {} and {wanted}",
            result.loss
        );
        let norm = at("norms", step);
        assert!(
            (result.gradient_norm - norm).abs() < 1e-2 * norm,
            "step {step}: norm {} and {norm}",
            result.gradient_norm
        );
    }
}
