//! Golden files of models with a decoder: pairs of a source and a target, packed, and
//! sources alone with their classes.

use std::sync::Arc;

use host_engine::batch::{Batch, Target};
use host_engine::compile::Plans;
use host_engine::engine::NamedTensor;
use host_engine::files::checkpoint::{Checkpoint, read_config};
use host_engine::models::Architecture;
use host_engine::models::bart::BartConfig;
use host_engine::models::t5::T5Config;
use host_ir::record::Recorder;
use host_ir::task::HeadKind;

use super::golden::{folder, golden};
use super::{Plan, low_rank_named, method, own_head, plans_present};

pub const HEAD: HeadKind = HeadKind::SequenceToSequence;

/// Packs sources with their targets, given by the place of the pair.
pub fn packed(pairs: &[(u32, Vec<u32>, Vec<u32>)], config: &dyn Architecture, virtual_tokens: u32) -> Batch {
    let (first, decoder) = (config.first_position() as u32, config.decoder().unwrap());
    let mut batch = Batch { starts: vec![0], virtual_tokens, ..Batch::default() };
    batch.target.starts.push(0);
    for (place, source, target) in pairs {
        batch.ids.extend((0..virtual_tokens).chain(source.iter().copied()));
        batch.positions.extend((0..virtual_tokens + source.len() as u32).map(|row| first + row));
        batch.starts.push(batch.ids.len() as u32);
        batch.places.push(*place);
        batch.target.ids.push(decoder.start);
        batch.target.ids.extend(&target[..target.len() - 1]);
        batch.target.positions.extend((0..target.len() as u32).map(|row| decoder.first_position + row));
        batch.target.tokens.extend(target.iter().map(|&token| token as i32));
        batch.target.starts.push(batch.target.ids.len() as u32);
    }
    batch.token_types = vec![0; batch.ids.len()];
    batch
}

/// The sources and targets of a family's golden files.
fn golden_batch(family: &str, config: &dyn Architecture) -> Batch {
    let text = std::fs::read_to_string(folder(family).join("batch.json")).unwrap();
    let content: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = |key: &str| -> Vec<Vec<u32>> { serde_json::from_value(content[key].clone()).unwrap() };
    let pairs = rows("sources").into_iter().zip(rows("targets")).zip(0..);
    let pairs: Vec<_> = pairs.map(|((source, target), place)| (place, source, target)).collect();
    packed(&pairs, config, 0)
}

/// A batch whose decoder reads the sources once more, and no targets.
pub fn reread(mut batch: Batch, config: &dyn Architecture, labels: Vec<i32>) -> Batch {
    let decoder = config.decoder().unwrap();
    batch.reread(decoder.start, decoder.first_position);
    batch.labels.insert("label".into(), labels);
    batch
}

/// Low-rank updates of the output layer: family, checkpoint, golden file and plan. With
/// them others', but for BART's, whose biases would train.
pub const OUTPUT_UPDATES: [(&str, &str, &str, Plan); 3] = [
    ("t5", "relu", "lora_output_relu", |recorder| updates(recorder, &["v", "lm_head"])),
    ("t5", "gated", "lora_output_gated", |recorder| updates(recorder, &["v", "lm_head"])),
    ("bart", "checkpoint", "lora_output", |recorder| updates(recorder, &["lm_head"])),
];

/// Updates of peft's LoRA with r = 4 and lora_alpha = 8.
pub fn updates(recorder: &mut Recorder, names: &[&str]) {
    low_rank_named(recorder, names, 0.0, 2.0, ("lora_A", "lora_B"));
}

/// The factors that a golden file starts from.
pub fn factors(family: &str, name: &str) -> Vec<NamedTensor> {
    let tensors = golden(family, name).into_iter();
    tensors.filter(|tensor| tensor.name.contains("lora_") && !tensor.name.starts_with("gradient")).collect()
}

/// The sources with two tokens of three masked, but the first and the last of each.
pub fn masked(mut batch: Batch, stood_there: impl Fn(u32) -> u32) -> Batch {
    for range in batch.starts.windows(2) {
        let first = range[0] + batch.virtual_tokens;
        for row in (first + 1..range[1].saturating_sub(1)).filter(|row| !(row - first).is_multiple_of(3)) {
            let id = &mut batch.ids[row as usize];
            batch.masked_rows.push(row);
            batch.masked_tokens.push(stood_there(*id) as i32);
            *id = 4;
        }
    }
    batch
}

/// The plans of a masked language model, and the sources with two tokens of three masked,
/// as conditional.py does.
pub fn golden_masked(family: &str, checkpoint: &str, plan: Plan) -> (Checkpoint, Plans, Batch) {
    let (checkpoint, plans, batch) = golden_plans_of(family, checkpoint, HeadKind::MaskedLanguageModel, plan);
    let mut batch = masked(batch, |id| (id * 7 + 5) % 96);
    let decoder = plans.config.decoder().unwrap();
    batch.read_masked(decoder.start, decoder.padding, decoder.first_position);
    (checkpoint, plans, batch)
}

/// The plans of a family's golden checkpoint, and the checkpoint.
pub fn golden_plans(family: &str, checkpoint: &str, plan: Plan) -> (Checkpoint, Plans, Batch) {
    golden_plans_of(family, checkpoint, HEAD, plan)
}

/// The same with a head for five classes of sequences, and those that decoder_heads.py
/// has.
pub fn golden_classes(family: &str, checkpoint: &str, plan: Plan) -> (Checkpoint, Plans, Batch) {
    let head = HeadKind::Classification { classes: 5 };
    let (checkpoint, plans, batch) = golden_plans_of(family, checkpoint, head, plan);
    let batch = reread(batch, plans.config.as_ref(), vec![3, 0, 4, 1, 1]);
    (checkpoint, plans, batch)
}

/// The same with a head for five classes of tokens, which has no decoder.
pub fn golden_tokens(family: &str, checkpoint: &str, plan: Plan) -> (Checkpoint, Plans, Batch) {
    let head = HeadKind::TokenClassification { classes: 5 };
    let (checkpoint, plans, batch) = golden_plans_of(family, checkpoint, head, plan);
    (checkpoint, plans, Batch { target: Target::default(), ..batch })
}

/// The same classes by a head of the task's own over the encoder's states.
pub fn golden_states(family: &str, checkpoint: &str, plan: Plan) -> (Checkpoint, Plans, Batch) {
    let path = folder(family).join(checkpoint);
    let config: Arc<dyn Architecture> =
        Arc::from(host_engine::models::read(&read_config(&path).unwrap()).unwrap());
    let checkpoint = Checkpoint::open(&path, config.prefix(None)).unwrap();
    let mut model = config.describe_headless(&|name| checkpoint.has(name));
    let task = own_head(&model, 5);
    task.add_head_to(&mut model);
    let method = method(&model, plan);
    let batch = Batch { target: Target::default(), ..golden_batch(family, config.as_ref()) };
    (checkpoint, Plans::new(config, model, task, method), batch)
}

/// A batch of a family's golden checkpoint, and config.json with another key.
pub fn golden_changed(family: &str, key: &str, value: serde_json::Value) -> (Checkpoint, BartConfig, Batch) {
    let path = folder(family).join("checkpoint");
    let mut json = read_config(&path).unwrap();
    json.insert(key.into(), value);
    let config = BartConfig::read(&json).unwrap();
    let checkpoint = Checkpoint::open(&path, config.prefix(Some(HEAD))).unwrap();
    let batch = golden_batch(family, &config);
    (checkpoint, config, batch)
}

fn golden_plans_of(family: &str, checkpoint: &str, head: HeadKind, plan: Plan) -> (Checkpoint, Plans, Batch) {
    let path = folder(family).join(checkpoint);
    let json = read_config(&path).unwrap();
    let prefix = host_engine::models::read(&json).unwrap().prefix(Some(head));
    let checkpoint = Checkpoint::open(&path, prefix).unwrap();
    let present = |name: &str| checkpoint.has(name);
    let plans = match family {
        "t5" => plans_present(T5Config::read(&json).unwrap(), head, &present, plan),
        _ => plans_present(BartConfig::read(&json).unwrap(), head, &present, plan),
    };
    let batch = golden_batch(family, plans.config.as_ref());
    (checkpoint, plans, batch)
}
