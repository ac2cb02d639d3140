//! Generated sequences against those of transformers' `generate`, on the files that
//! tests/reference/t5.py and bart.py write, on both backends and with a method.

mod support;

use host_engine::backend::Backend;
use host_engine::backend::cpu::Cpu;
use host_engine::engine::NamedTensor;
use host_engine::generate::generate;
use host_ir::record::Recorder;
use host_ir::task::{EarlyStopping, GenerationSettings, HeadKind};
use serde_json::Value;
use support::conditional::{OUTPUT_UPDATES, factors, golden_plans, updates};
use support::golden::{engine, folder};
use support::{Plan, counted};

/// Settings of `generate` by its names. Lengths that count the start token are made
/// ones that do not.
fn settings(json: &Value) -> GenerationSettings {
    let whole = |key: &str| json.get(key).and_then(Value::as_u64).map(|value| value as u32);
    GenerationSettings {
        max_new_tokens: whole("max_new_tokens").or(whole("max_length").map(|most| most - 1)).unwrap(),
        min_new_tokens: whole("min_new_tokens").or(whole("min_length").map(|least| least - 1)).unwrap_or(0),
        num_beams: whole("num_beams").unwrap(),
        length_penalty: json.get("length_penalty").and_then(Value::as_f64).unwrap_or(1.0),
        early_stopping: match json.get("early_stopping") {
            Some(Value::Bool(true)) => EarlyStopping::Yes,
            Some(Value::String(_)) => EarlyStopping::Never,
            _ => EarlyStopping::No,
        },
        no_repeat_ngram_size: whole("no_repeat_ngram_size").unwrap_or(0),
        forced_bos_token_id: whole("forced_bos_token_id"),
        forced_eos_token_id: whole("forced_eos_token_id"),
    }
}

fn check(family: &str, checkpoint: &str, name: &str, plan: Plan, start: &[NamedTensor]) {
    let text = std::fs::read_to_string(folder(family).join("generated.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let (weights, plans, batch) = golden_plans(family, checkpoint, plan);
    let (second, copies) = counted();
    let backends: [Box<dyn Backend>; 2] = [Box::new(Cpu::new(2).unwrap()), second];
    for backend in backends {
        let mut engine = engine(&plans, &weights, start, backend);
        for case in cases[name].as_array().unwrap() {
            let expected: Vec<Vec<u32>> = serde_json::from_value(case["sequences"].clone()).unwrap();
            let found = generate(&mut engine, &batch, &settings(&case["settings"])).unwrap();
            assert_eq!(found, expected, "{family} {name}, {}", case["settings"]);
        }
    }
    assert_eq!(copies.alone(), 0, "{family} {name}: a list was not foreseen");
}

#[test]
fn t5_says_what_it_says_in_transformers() {
    check("t5", "relu", "relu", |_| {}, &[]);
    check("t5", "gated", "gated", |_| {}, &[]);
}

#[test]
fn bart_says_what_it_says_in_transformers() {
    check("bart", "checkpoint", "checkpoint", |_| {}, &[]);
}

#[test]
fn a_model_with_low_rank_updates_says_what_it_says_in_peft() {
    let plan = |recorder: &mut Recorder| updates(recorder, &["q", "v"]);
    check("t5", "relu", "lora", plan, &factors("t5", "lora"));
    for (family, checkpoint, name, plan) in OUTPUT_UPDATES {
        check(family, checkpoint, name, plan, &factors(family, name));
    }
}

/// An example by itself, or among others, gives the same sequence.
#[test]
fn what_is_generated_does_not_depend_on_the_batch() {
    let (weights, plans, batch) = golden_plans("bart", "checkpoint", |_| {});
    let mut engine = engine(&plans, &weights, &[], Box::new(Cpu::new(1).unwrap()));
    let settings = GenerationSettings { max_new_tokens: 12, num_beams: 3, ..GenerationSettings::default() };
    let together = generate(&mut engine, &batch, &settings).unwrap();
    for (place, expected) in together.iter().enumerate() {
        let rows = batch.starts[place] as usize..batch.starts[place + 1] as usize;
        let mut alone = host_engine::batch::Batch {
            starts: vec![0, rows.len() as u32],
            ids: batch.ids[rows.clone()].to_vec(),
            positions: batch.positions[rows.clone()].to_vec(),
            token_types: vec![0; rows.len()],
            ..Default::default()
        };
        alone.places = vec![0];
        assert_eq!(&generate(&mut engine, &alone, &settings).unwrap()[0], expected);
    }
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let (weights, plans, batch) = golden_plans("bart", "checkpoint", |_| {});
    let mut bart = engine(&plans, &weights, &[], Box::new(Cpu::new(1).unwrap()));
    let settings = GenerationSettings { max_new_tokens: 31, ..GenerationSettings::default() };
    let error = generate(&mut bart, &batch, &settings).unwrap_err().to_string();
    assert_eq!(error, "31 tokens are to be generated, and the decoder has 30 positions");
    let plans = support::plans(HeadKind::Classification { classes: 3 }, |_| {});
    let blocks = support::blocks(&plans, 1);
    let mut bert = host_engine::engine::Engine::new(plans, blocks, Box::new(Cpu::new(1).unwrap())).unwrap();
    let error = generate(&mut bert, &batch, &settings).unwrap_err().to_string();
    assert_eq!(error, "bert has no decoder");
}
