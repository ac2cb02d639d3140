//! A tiny BERT with random parameters, batches for it, and plans made through
//! the recorder as plugins make them.

#![allow(dead_code)] // Each test file uses a part of it.

pub mod conditional;
pub mod golden;

use std::sync::Arc;

use host_engine::backend::Backend;
use host_engine::backend::candle::{Candle, Copies};
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::device::{Device, Precision};
use host_engine::engine::NamedTensor;
use host_engine::models::config::EncoderConfig;
use host_engine::models::{self, Architecture};
use host_ir::graph::Binary;
use host_ir::method::MethodPlan;
use host_ir::model::ModelDescription;
use host_ir::random::Stream;
use host_ir::record::{Phase, Recorder};
use host_ir::settings::{Description, Values};
use host_ir::task::{FieldType, HeadKind, TaskPlan};

pub const CLASSES: u32 = 3;

/// The second backend, on the device that HOST_TEST_DEVICE names, else on candle's CPU
/// device. In a build with CUDA it has kernels of our own, there too.
pub fn second() -> Box<dyn Backend> {
    counted().0
}

/// The same, and what it copies for batches, which is counted on candle's CPU device.
pub fn counted() -> (Box<dyn Backend>, Copies) {
    counted_in(Precision::Fp32)
}

/// The second backend in a precision.
pub fn second_in(precision: Precision) -> Box<dyn Backend> {
    counted_in(precision).0
}

fn counted_in(precision: Precision) -> (Box<dyn Backend>, Copies) {
    match std::env::var("HOST_TEST_DEVICE") {
        Ok(name) => {
            let backend = name.parse::<Device>().unwrap().backend(1, precision).unwrap();
            (backend, Copies::default())
        }
        Err(_) => {
            let candle = Candle::simulated().in_precision(precision);
            let copies = candle.copies();
            (Box::new(candle), copies)
        }
    }
}

pub fn config() -> EncoderConfig {
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 32, "type_vocab_size": 2,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    });
    EncoderConfig::read(json.as_object().unwrap()).unwrap()
}

/// A tiny DeBERTa with buckets and shared projections, as DeBERTa-v3 has them.
pub fn deberta() -> EncoderConfig {
    let json = serde_json::json!({
        "model_type": "deberta-v2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 32, "type_vocab_size": 0,
        "relative_attention": true, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
        "share_att_key": true, "pos_att_type": "p2c|c2p", "position_biased_input": false,
        "pooler_dropout": 0.1,
    });
    EncoderConfig::read(json.as_object().unwrap()).unwrap()
}

pub fn describe(head: HeadKind) -> ModelDescription {
    models::describe(&config(), head, &|_| true)
}

/// Plans for a model of another config, whose checkpoint has all parameters.
pub fn plans_of(
    config: impl Architecture + Into<Arc<dyn Architecture>>,
    head: HeadKind,
    plan: impl FnOnce(&mut Recorder),
) -> Plans {
    plans_present(config, head, &|_| true, plan)
}

/// Plans for a model whose checkpoint has these parameters.
pub fn plans_present(
    config: impl Architecture + Into<Arc<dyn Architecture>>,
    head: HeadKind,
    present: &dyn Fn(&str) -> bool,
    plan: impl FnOnce(&mut Recorder),
) -> Plans {
    let model = models::describe(&config, head, present);
    let method = method(&model, plan);
    let task = task_of(&model, head);
    Plans::new(config, model, task, method)
}

/// Classification, or masked tokens, as a task plugin plans it.
pub fn task(head: HeadKind) -> TaskPlan {
    task_of(&describe(head), head)
}

fn task_of(model: &ModelDescription, head: HeadKind) -> TaskPlan {
    let mut recorder = Recorder::calling(Phase::Layout, Description::default(), Values::new());
    recorder.field("text", FieldType::Text).unwrap();
    recorder.field("summary", FieldType::Text).unwrap();
    recorder.field("choices", FieldType::Texts).unwrap();
    let names = (0..5).map(|class| class.to_string()).collect();
    recorder.field("label", FieldType::Label(names)).unwrap();
    recorder.phase = Phase::TaskPlan;
    recorder.model = Some(Arc::new(model.clone()));
    let sequence = recorder.sequence("text").unwrap();
    recorder.sequence_text(sequence, "text").unwrap();
    let (logits, labels) = match head {
        HeadKind::Classification { classes } => {
            (recorder.classification(sequence, classes).unwrap(), recorder.objective_label("label").unwrap())
        }
        HeadKind::MultipleChoice => {
            recorder.sequence_each(sequence, "choices").unwrap();
            (recorder.choice_head(sequence, CLASSES).unwrap(), recorder.objective_label("label").unwrap())
        }
        HeadKind::TokenClassification { classes } => {
            return squared(recorder, sequence, classes);
        }
        HeadKind::MaskedLanguageModel => {
            (recorder.masked_language_model(sequence).unwrap(), recorder.masked_tokens(sequence).unwrap())
        }
        HeadKind::SequenceToSequence => {
            recorder.target(sequence, "summary", 0).unwrap();
            (recorder.sequence_to_sequence(sequence).unwrap(), recorder.target_tokens(sequence).unwrap())
        }
    };
    let loss = recorder.cross_entropy(logits, labels).unwrap();
    recorder.objective_mean(loss).unwrap();
    recorder.declare_output("logits", logits).unwrap();
    recorder.declare_output("loss", loss).unwrap();
    recorder.task
}

/// Classes of tokens by a head of the task's own over the hidden states: a linear layer of
/// the name that transformers gives it.
pub fn own_head(model: &ModelDescription, classes: u32) -> TaskPlan {
    let mut recorder = Recorder::calling(Phase::Layout, Description::default(), Values::new());
    recorder.field("text", FieldType::Text).unwrap();
    recorder.phase = Phase::TaskPlan;
    recorder.model = Some(Arc::new(model.clone()));
    let sequence = recorder.sequence("text").unwrap();
    recorder.sequence_text(sequence, "text").unwrap();
    let states = recorder.hidden(sequence).unwrap();
    let size = model.facts["hidden_size"] as u32;
    let initial = recorder.normal(&[classes, size], 0.0, 0.02, None).unwrap();
    let weight = recorder.head_parameter("classifier.weight", initial).unwrap();
    let initial = recorder.constant(&[classes], &vec![0.0; classes as usize]).unwrap();
    let bias = recorder.head_parameter("classifier.bias", initial).unwrap();
    let weight = recorder.transpose(weight).unwrap();
    let product = recorder.matmul(states, weight).unwrap();
    let logits = recorder.binary(Binary::Add, product, bias).unwrap();
    squares(recorder, logits)
}

/// Token classification whose logits are squared for a loss, whatever the tokens'
/// labels would be.
fn squared(mut recorder: Recorder, sequence: u32, classes: u32) -> TaskPlan {
    let logits = recorder.token_classification(sequence, classes).unwrap();
    squares(recorder, logits)
}

fn squares(mut recorder: Recorder, logits: u32) -> TaskPlan {
    let loss = recorder.power(logits, 2.0).unwrap();
    recorder.objective_mean(loss).unwrap();
    recorder.declare_output("logits", logits).unwrap();
    recorder.declare_output("loss", loss).unwrap();
    recorder.task
}

/// A method's plan, made by calls of the recorder.
pub fn method(model: &ModelDescription, plan: impl FnOnce(&mut Recorder)) -> MethodPlan {
    let mut recorder = Recorder::calling(Phase::MethodPlan, Description::default(), Values::new());
    recorder.model = Some(Arc::new(model.clone()));
    plan(&mut recorder);
    recorder.method
}

pub fn train_role(recorder: &mut Recorder, role: &str) {
    for parameter in recorder.parameters(role).unwrap() {
        recorder.train(parameter).unwrap();
    }
}

/// Plans for a head with a method.
pub fn plans(head: HeadKind, plan: impl FnOnce(&mut Recorder)) -> Plans {
    let model = describe(head);
    let method = method(&model, plan);
    Plans::new(config(), model, task(head), method)
}

/// Random elements for all blocks: norms near one, the rest small.
pub fn blocks(plans: &Plans, seed: u64) -> Vec<Vec<f32>> {
    let mut stream = Stream::new(seed, "blocks");
    let mut blocks = Vec::new();
    for block in &plans.parameters.blocks {
        let mut elements = Vec::new();
        for part in &block.parts {
            let is_norm = part.name.to_lowercase().contains("norm") && part.name.ends_with("weight");
            let around = if is_norm { 1.0 } else { 0.0 };
            elements.extend((0..part.elements).map(|_| (around + 0.2 * stream.normal()) as f32));
        }
        blocks.push(elements);
    }
    blocks
}

/// Sequences of these lengths, packed in this order; a sequence's content
/// depends on its place alone.
pub fn batch(lengths: &[(u32, u32)], virtual_tokens: u32) -> Batch {
    let mut batch = Batch { starts: vec![0], virtual_tokens, ..Batch::default() };
    let mut labels = Vec::new();
    for &(place, length) in lengths {
        let mut stream = Stream::new(u64::from(place), "sequence");
        for row in 0..virtual_tokens + length {
            batch.ids.push(if row < virtual_tokens { row } else { stream.below(50) as u32 });
            batch.token_types.push(u32::from(row > 4));
            batch.positions.push(row);
            if row >= virtual_tokens && (row - virtual_tokens) % 3 == 1 {
                batch.masked_rows.push(batch.ids.len() as u32 - 1);
                batch.masked_tokens.push(stream.below(50) as i32);
            }
        }
        batch.starts.push(batch.ids.len() as u32);
        batch.places.push(place);
        labels.push((place % CLASSES) as i32);
    }
    batch.labels.insert("label".into(), labels);
    batch
}

pub const LENGTHS: [(u32, u32); 5] = [(0, 5), (1, 1), (2, 12), (3, 3), (4, 8)];

/// What a method says, as calls of the recorder.
pub type Plan = fn(&mut Recorder);

/// Plans of many kinds, by name: all operations and hooks that methods use.
pub fn methods() -> Vec<(&'static str, Plan)> {
    vec![
        ("everything", |recorder| train_role(recorder, "all")),
        ("biases", |recorder| train_role(recorder, "bias")),
        ("query biases", |recorder| {
            for parameter in recorder.parameters_matching(r".*query(_proj)?\.(bias|weight)").unwrap() {
                recorder.train(parameter).unwrap();
            }
        }),
        ("low rank", |recorder| low_rank(recorder, &["query", "value", "output.dense"], 0.0)),
        ("low rank with dropout", |recorder| {
            low_rank(
                recorder,
                &["query", "value", "intermediate.dense", "pooler.dense", "predictions.decoder"],
                0.25,
            )
        }),
        ("weights", |recorder| {
            weight_hook(recorder, &["key", "intermediate.dense", "predictions.decoder"]);
        }),
        ("scaled outputs", |recorder| {
            scaled_outputs(recorder, &["key", "value", "output.dense", "transform.dense"]);
        }),
        ("outputs that nobody may write over", |recorder| {
            squashed_outputs(recorder, &["attention.output.dense", "output.dense", "predictions.decoder"]);
        }),
        ("prompt", |recorder| {
            let initial = recorder.full(&[4, 24], 0.0).unwrap();
            let prompt = recorder.parameter(None, "prompt", initial, true).unwrap();
            recorder.prompt(prompt).unwrap();
        }),
        ("prompt by an expression", |recorder| {
            let table = recorder.full(&[6, 8], 0.0).unwrap();
            let table = recorder.parameter(None, "table", table, true).unwrap();
            let up = recorder.full(&[8, 24], 0.0).unwrap();
            let up = recorder.parameter(None, "up", up, true).unwrap();
            let indices = recorder.integers(&[4], &[1, 3, 3, 5]).unwrap();
            let rows = recorder.rows(table, indices).unwrap();
            let rows = recorder.unary(host_ir::graph::Unary::Tanh, rows).unwrap();
            let prompt = recorder.matmul(rows, up).unwrap();
            recorder.prompt(prompt).unwrap();
        }),
        ("prompt above low rank", |recorder| {
            let initial = recorder.full(&[3, 24], 0.0).unwrap();
            let prompt = recorder.parameter(None, "prompt", initial, true).unwrap();
            recorder.prompt(prompt).unwrap();
            low_rank(recorder, &["query", "value"], 0.0);
        }),
    ]
}

fn targets(names: &[&str]) -> host_ir::record::NamesOrPattern {
    host_ir::record::NamesOrPattern::Names(names.iter().map(|name| name.to_string()).collect())
}

/// Sites by BERT's names, as far as the model has them, or DeBERTa's for them.
pub fn select(recorder: &mut Recorder, names: &[&str]) -> Vec<u32> {
    let model = recorder.model.clone().unwrap();
    let known = |name: &String| {
        let named = |module: &str| module == name || module.ends_with(&format!(".{name}"));
        model.modules.iter().any(|module| !module.head && named(&module.name))
    };
    let names: Vec<String> =
        names.iter().flat_map(|name| [name.to_string(), format!("{name}_proj")]).filter(known).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    recorder.select("linear", &targets(&names), &targets(&[]), &[], &[]).unwrap()
}

pub fn low_rank(recorder: &mut Recorder, names: &[&str], dropout: f64) {
    low_rank_named(recorder, names, dropout, 1.5, ("A", "B"));
}

/// y + scale * (dropout(x) A^T) B^T with the bias trained.
pub fn low_rank_named(
    recorder: &mut Recorder,
    names: &[&str],
    dropout: f64,
    scale: f64,
    parameters: (&str, &str),
) {
    low_rank_of(recorder, names, 4, dropout, scale, parameters);
}

/// The same of a rank.
pub fn low_rank_of(
    recorder: &mut Recorder,
    names: &[&str],
    rank: u32,
    dropout: f64,
    scale: f64,
    (name_a, name_b): (&str, &str),
) {
    for site in select(recorder, names) {
        let (inputs, outputs) = (recorder.site_inputs(site).unwrap(), recorder.site_outputs(site).unwrap());
        let a = recorder.full(&[rank, inputs], 0.0).unwrap();
        let a = recorder.parameter(Some(site), name_a, a, true).unwrap();
        let b = recorder.full(&[outputs, rank], 0.0).unwrap();
        let b = recorder.parameter(Some(site), name_b, b, true).unwrap();
        let x = recorder.site_input(site).unwrap();
        let x = recorder.dropout(x, dropout).unwrap();
        let (a, b) = (recorder.transpose(a).unwrap(), recorder.transpose(b).unwrap());
        let low = recorder.matmul(x, a).unwrap();
        let delta = recorder.matmul(low, b).unwrap();
        let delta = recorder.affine(delta, scale, 0.0).unwrap();
        let y = recorder.site_output(site).unwrap();
        let sum = recorder.binary(Binary::Add, y, delta).unwrap();
        recorder.replace_output(site, sum).unwrap();
        if let Some(bias) = recorder.site_bias(site).unwrap() {
            recorder.train(bias).unwrap();
        }
    }
}

/// W' = m (W + B A) / |W + B A|, the norm detached (Liu et al. 2024, eq. 5),
/// with a term added to the loss.
pub fn weight_hook(recorder: &mut Recorder, names: &[&str]) {
    use host_ir::graph::{Binary, Reduce};
    for site in select(recorder, names) {
        let (inputs, outputs) = (recorder.site_inputs(site).unwrap(), recorder.site_outputs(site).unwrap());
        let a = recorder.full(&[2, inputs], 0.0).unwrap();
        let a = recorder.parameter(Some(site), "A", a, true).unwrap();
        let b = recorder.full(&[outputs, 2], 0.0).unwrap();
        let b = recorder.parameter(Some(site), "B", b, true).unwrap();
        let w = recorder.site_weight(site).unwrap();
        let product = recorder.matmul(b, a).unwrap();
        let w = recorder.binary(Binary::Add, w, product).unwrap();
        let norm = recorder.reduce(Reduce::Norm, w, &[1], true).unwrap();
        let detached = recorder.detach(norm).unwrap();
        let m = recorder.full(&[outputs, 1], 0.0).unwrap();
        let m = recorder.parameter(Some(site), "m", m, true).unwrap();
        let m = recorder.affine(m, 1.0, 1.0).unwrap();
        let scale = recorder.binary(Binary::Divide, m, detached).unwrap();
        let w = recorder.binary(Binary::Multiply, scale, w).unwrap();
        recorder.replace_weight(site, w).unwrap();
        let transposed = recorder.transpose(a).unwrap();
        let gram = recorder.matmul(a, transposed).unwrap();
        let eye = recorder.eye(2).unwrap();
        let difference = recorder.binary(Binary::Subtract, gram, eye).unwrap();
        let squares = recorder.power(difference, 2.0).unwrap();
        let sum = recorder.reduce(Reduce::Sum, squares, &[0, 1], false).unwrap();
        let term = recorder.affine(sum, 0.1, 0.0).unwrap();
        recorder.add_loss(term).unwrap();
    }
}

/// y' = of(y, s y), with s trained.
fn rescaled(recorder: &mut Recorder, names: &[&str], of: fn(&mut Recorder, u32, u32) -> u32) {
    for site in select(recorder, names) {
        let outputs = recorder.site_outputs(site).unwrap();
        let scale = recorder.full(&[outputs], 0.0).unwrap();
        let scale = recorder.parameter(Some(site), "scale", scale, true).unwrap();
        let y = recorder.site_output(site).unwrap();
        let product = recorder.binary(Binary::Multiply, y, scale).unwrap();
        let replaced = of(recorder, y, product);
        recorder.replace_output(site, replaced).unwrap();
    }
}

/// y' = y * l (Liu et al. 2022, eq. 3), and a bottleneck after feed-forward
/// layers, with several element-wise functions on the way.
pub fn scaled_outputs(recorder: &mut Recorder, names: &[&str]) {
    use host_ir::graph::{Binary, Unary};
    rescaled(recorder, names, |recorder, y, product| recorder.binary(Binary::Add, product, y).unwrap());
    for site in recorder.sites("feed-forward").unwrap() {
        let size = recorder.site_outputs(site).unwrap();
        let down = recorder.full(&[size, 6], 0.0).unwrap();
        let down = recorder.parameter(Some(site), "down", down, true).unwrap();
        let up = recorder.full(&[6, size], 0.0).unwrap();
        let up = recorder.parameter(Some(site), "up", up, true).unwrap();
        let h = recorder.site_output(site).unwrap();
        let low = recorder.matmul(h, down).unwrap();
        let low = recorder.unary(Unary::Gelu, low).unwrap();
        let gate = recorder.softmax(low, -1).unwrap();
        let low = recorder.binary(Binary::Multiply, low, gate).unwrap();
        let first = recorder.slice(low, 1, 0, 2).unwrap();
        let rest = recorder.slice(low, 1, 2, 4).unwrap();
        let rest = recorder.unary(Unary::Sigmoid, rest).unwrap();
        let joined = recorder.concat(&[rest, first], 1).unwrap();
        let joined = recorder.dropout(joined, 0.2).unwrap();
        let delta = recorder.matmul(joined, up).unwrap();
        let sum = recorder.binary(Binary::Add, h, delta).unwrap();
        recorder.replace_output(site, sum).unwrap();
    }
}

/// y' = tanh(s y), right before a norm: the reverse rule of tanh reads its result.
pub fn squashed_outputs(recorder: &mut Recorder, names: &[&str]) {
    use host_ir::graph::Unary;
    rescaled(recorder, names, |recorder, _, product| recorder.unary(Unary::Tanh, product).unwrap());
}

/// Largest difference of two lists of tensors by the larger of the tensor's
/// norm and a part of all norms together.
pub fn difference(a: &[NamedTensor], b: &[NamedTensor]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let all = norm(&mut a.iter().flat_map(|tensor| &tensor.elements).map(|&value| f64::from(value)));
    let mut largest = 0.0f64;
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        let own = norm(&mut a.elements.iter().map(|&value| f64::from(value)));
        let apart = norm(&mut a.elements.iter().zip(&b.elements).map(|(a, b)| f64::from(a - b)));
        // A key's bias has no gradient in exact arithmetic, and none has the bias of
        // the one logit that choices are made by: what is left of it is rounding, to
        // be held against all gradients.
        let is_key = ["key.bias", "k_proj.bias"].iter().any(|end| a.name.ends_with(end));
        let of_choices = a.name == "classifier.bias" && a.shape == [1];
        let floor = if is_key || of_choices { 1e-2 * all } else { 1e-5 * all };
        let relative = apart / own.max(floor).max(1e-30);
        assert!(relative < 1e-3, "{}: {relative:e} of norm {own:e}", a.name);
        largest = largest.max(relative);
    }
    largest
}
