//! T5 and BART: against transformers and peft on the files that
//! tests/reference/t5.py, bart.py and decoder_heads.py write, both backends against
//! each other and against finite differences, and packing, which changes nothing.

mod support;

use std::sync::Arc;

use host_engine::backend::Backend;
use host_engine::backend::cpu::Cpu;
use host_engine::batch::{Batch, Target};
use host_engine::compile::Plans;
use host_engine::engine::{Engine, NamedTensor};
use host_engine::models::Architecture;
use host_engine::models::bart::BartConfig;
use host_engine::models::t5::T5Config;
use host_ir::random::Stream;
use host_ir::record::Recorder;
use host_ir::task::HeadKind;
use serde_json::json;
use support::conditional::{
    HEAD, OUTPUT_UPDATES, factors, golden_changed, golden_classes, golden_masked, golden_plans,
    golden_states, golden_tokens, masked, packed, reread,
};
use support::golden::{agree, golden};
use support::{Plan, blocks, counted, difference, low_rank, low_rank_named, plans_of, scaled_outputs};
use support::{squashed_outputs, train_role, weight_hook};

fn everything(recorder: &mut Recorder) {
    train_role(recorder, "all");
}

#[test]
fn t5_of_both_versions_agrees_with_transformers() {
    for name in ["relu", "gated"] {
        let (checkpoint, plans, batch) = golden_plans("t5", name, everything);
        agree(name, &plans, &checkpoint, &[], &batch, &golden("t5", name));
    }
}

#[test]
fn bart_agrees_with_transformers() {
    let (checkpoint, plans, batch) = golden_plans("bart", "checkpoint", everything);
    agree("bart", &plans, &checkpoint, &[], &batch, &golden("bart", "conditional"));
}

/// What AutoModelForMaskedLM makes of a BART, the padding that its decoder reads among it.
#[test]
fn bart_as_a_masked_language_model_agrees_with_transformers() {
    let (checkpoint, plans, batch) = golden_masked("bart", "checkpoint", everything);
    assert!(batch.target.ids.iter().filter(|&&id| id == 1).count() > 10);
    agree("masked", &plans, &checkpoint, &[], &batch, &golden("bart", "masked"));
}

/// The head for classes of sequences, of T5ForSequenceClassification and
/// BartForSequenceClassification.
#[test]
fn classes_of_sequences_agree_with_transformers() {
    for (family, name) in [("t5", "relu"), ("bart", "checkpoint")] {
        let (checkpoint, plans, batch) = golden_classes(family, name, everything);
        let expected = golden(family, "classification");
        let head = expected.iter().filter(|tensor| tensor.name.starts_with("classification_head."));
        let head: Vec<NamedTensor> = head.cloned().collect();
        assert_eq!(head.len(), 4);
        agree(family, &plans, &checkpoint, &head, &batch, &expected);
    }
}

/// The encoder alone, as T5ForTokenClassification has it.
#[test]
fn classes_of_tokens_agree_with_transformers() {
    let (checkpoint, plans, batch) = golden_tokens("t5", "gated", everything);
    let expected = golden("t5", "tokens");
    let head = expected.iter().filter(|tensor| tensor.name.starts_with("classifier."));
    let head: Vec<NamedTensor> = head.cloned().collect();
    assert!(plans.model.modules.iter().all(|module| !module.name.contains("decoder")));
    agree("tokens", &plans, &checkpoint, &head, &batch, &expected);
}

/// A head that a task makes stands over the encoder alone.
#[test]
fn heads_of_tasks_over_the_encoder_agree_with_pytorch() {
    for (family, name, prefix) in [("t5", "gated", "transformer."), ("bart", "checkpoint", "")] {
        let (checkpoint, plans, batch) = golden_states(family, name, everything);
        // Under a task's head T5 has the names of T5EncoderModel.
        let expected = golden(family, "tokens").into_iter().map(|tensor| {
            let name = tensor.name.replace(&format!("gradient.{prefix}"), "gradient.");
            NamedTensor { name, ..tensor }
        });
        let expected: Vec<NamedTensor> = expected.collect();
        let head = expected.iter().filter(|tensor| tensor.name.starts_with("classifier."));
        let head: Vec<NamedTensor> = head.cloned().collect();
        assert!(plans.model.modules.iter().all(|module| !module.name.contains("decoder")));
        agree("states", &plans, &checkpoint, &head, &batch, &expected);
    }
}

/// Embeddings of words are multiplied by the root of their size, and their gradients
/// with them; the tied output is not.
#[test]
fn scaled_embeddings_agree_with_transformers() {
    let (checkpoint, config, batch) = golden_changed("bart", "scale_embedding", json!(true));
    let plans = plans_of(config, HEAD, |recorder| train_role(recorder, "embedding"));
    agree("scaled", &plans, &checkpoint, &[], &batch, &golden("bart", "scaled"));
}

/// peft's default targets for T5 are the queries and the values of all attentions.
#[test]
fn low_rank_updates_of_t5_agree_with_peft() {
    let (checkpoint, plans, batch) = golden_plans("t5", "relu", |recorder| {
        low_rank_named(recorder, &["q", "v"], 0.0, 2.0, ("lora_A", "lora_B"));
    });
    let expected = golden("t5", "lora");
    let start = factors("t5", "lora");
    agree("lora", &plans, &checkpoint, &start, &batch, &expected);
}

/// At the output layer too, whose weights are the word embeddings in T5 1.0 and BART: the
/// update is the output's alone. T5 1.0 scales what the layer reads, and BART adds a bias
/// to what it makes.
#[test]
fn low_rank_updates_of_the_output_layer_agree_with_peft() {
    for (family, checkpoint, name, plan) in OUTPUT_UPDATES {
        let (checkpoint, plans, batch) = golden_plans(family, checkpoint, plan);
        agree(name, &plans, &checkpoint, &factors(family, name), &batch, &golden(family, name));
    }
}

/// google-t5/t5-small, google/t5-v1_1-base, google/mt5-small and facebook/bart-base
/// have so many parameters in transformers, as models that say texts and with a head
/// for two classes (BART's for three), T5 also with one for nine classes of tokens.
#[test]
fn families_have_the_parameters_of_transformers() {
    let count = |plans: Plans| plans.method.counts(&plans.model).trained;
    let t5 = |more: serde_json::Value| {
        let mut json = json!({
            "model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
            "num_heads": 8, "relative_attention_num_buckets": 32, "feed_forward_proj": "relu",
        });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        [HEAD, HeadKind::Classification { classes: 2 }, HeadKind::TokenClassification { classes: 9 }]
            .map(|head| count(plans_of(T5Config::read(json.as_object().unwrap()).unwrap(), head, everything)))
    };
    assert_eq!(t5(json!({})), [60_506_624, 60_770_306, 35_335_433]);
    let base = json!({
        "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": false,
    });
    assert_eq!(t5(base), [247_577_856, 223_495_682, 109_635_465]);
    let multilingual = json!({
        "model_type": "mt5", "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false,
    });
    assert_eq!(t5(multilingual), [300_176_768, 172_383_106, 146_945_225]);
    let json = json!({
        "model_type": "bart", "vocab_size": 50265, "d_model": 768, "encoder_layers": 6, "decoder_layers": 6,
        "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072, "max_position_embeddings": 1024,
    });
    let bart = [HEAD, HeadKind::Classification { classes: 3 }]
        .map(|head| count(plans_of(BartConfig::read(json.as_object().unwrap()).unwrap(), head, everything)));
    assert_eq!(bart, [139_420_416, 140_013_315]);
}

fn small_t5(gated: bool) -> T5Config {
    let function = if gated { "gated-silu" } else { "gelu" };
    let json = json!({
        "model_type": "t5", "vocab_size": 50, "d_model": 24, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "dropout_rate": 0.1,
        "feed_forward_proj": function, "tie_word_embeddings": !gated, "classifier_dropout": 0.1,
    });
    T5Config::read(json.as_object().unwrap()).unwrap()
}

fn small_bart() -> BartConfig {
    let json = json!({
        "model_type": "bart", "vocab_size": 50, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 3, "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 30,
        "max_position_embeddings": 32, "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
        "classifier_dropout": 0.1,
    });
    BartConfig::read(json.as_object().unwrap()).unwrap()
}

/// Methods by name, with the names that the families have for their parts.
fn t5_methods() -> Vec<(&'static str, Plan)> {
    vec![
        ("everything", everything),
        ("low rank", |recorder| low_rank(recorder, &["q", "v", "wo"], 0.25)),
        ("weights", |recorder| weight_hook(recorder, &["k", "wo"])),
        ("scaled outputs", |recorder| scaled_outputs(recorder, &["k", "v", "o"])),
        ("prompt", prompt),
    ]
}

fn bart_methods() -> Vec<(&'static str, Plan)> {
    vec![
        ("everything", everything),
        ("biases", |recorder| train_role(recorder, "bias")),
        ("low rank", |recorder| low_rank(recorder, &["q_proj", "v_proj", "fc2"], 0.25)),
        ("low rank updates of the output layer", |recorder| low_rank(recorder, &["fc2", "lm_head"], 0.25)),
        ("scaled outputs", |recorder| scaled_outputs(recorder, &["k_proj", "v_proj", "fc1"])),
        ("an output layer that nobody may write over", |recorder| {
            squashed_outputs(recorder, &["lm_head", "fc1"])
        }),
        ("prompt", prompt),
    ]
}

fn prompt(recorder: &mut Recorder) {
    let initial = recorder.full(&[3, 24], 0.0).unwrap();
    let prompt = recorder.parameter(None, "prompt", initial, true).unwrap();
    recorder.prompt(prompt).unwrap();
}

/// A head for classes of sequences.
const CLASSES: HeadKind = HeadKind::Classification { classes: 3 };

/// A head for masked tokens.
const MASKED: HeadKind = HeadKind::MaskedLanguageModel;

/// A head for classes of tokens.
const TOKENS: HeadKind = HeadKind::TokenClassification { classes: 3 };

/// All small models with all methods, for texts and for classes.
fn all_plans() -> Vec<(String, Plans)> {
    let mut all = Vec::new();
    for gated in [false, true] {
        for (name, method) in t5_methods() {
            all.push((format!("{name} of T5, gated {gated}"), plans_of(small_t5(gated), HEAD, method)));
        }
    }
    for (name, method) in t5_methods() {
        all.push((format!("{name} of T5 for classes"), plans_of(small_t5(true), CLASSES, method)));
    }
    all.push(("everything of T5 for tokens".into(), plans_of(small_t5(false), TOKENS, everything)));
    for (name, method) in bart_methods() {
        all.push((format!("{name} of BART"), plans_of(small_bart(), HEAD, method)));
        all.push((format!("{name} of BART for classes"), plans_of(small_bart(), CLASSES, method)));
        all.push((format!("{name} of BART for masked tokens"), plans_of(small_bart(), MASKED, method)));
    }
    all
}

/// Pairs of so many tokens; a pair's content depends on its place alone. Of a model
/// that tells classes apart, the sources with their classes.
fn pairs(lengths: &[(u32, usize, usize)], plans: &Plans) -> Batch {
    let pairs: Vec<_> = lengths
        .iter()
        .map(|&(place, source, target)| {
            let mut stream = Stream::new(u64::from(place), "pair");
            let mut draw =
                |count: usize| -> Vec<u32> { (0..count).map(|_| stream.below(50) as u32).collect() };
            (place, draw(source), draw(target))
        })
        .collect();
    let batch = packed(&pairs, plans.config.as_ref(), plans.method.virtual_tokens() as u32);
    match plans.task.head {
        Some(HeadKind::Classification { classes }) => {
            let labels = lengths.iter().map(|(place, ..)| (place % classes) as i32).collect();
            reread(batch, plans.config.as_ref(), labels)
        }
        Some(HeadKind::TokenClassification { .. }) => Batch { target: Target::default(), ..batch },
        Some(HeadKind::MaskedLanguageModel) => {
            let mut batch = masked(batch, |id| (id * 7 + 5) % 50);
            let decoder = plans.config.decoder().unwrap();
            batch.read_masked(decoder.start, decoder.padding, decoder.first_position);
            batch
        }
        _ => batch,
    }
}

const LENGTHS: [(u32, usize, usize); 4] = [(0, 5, 7), (1, 1, 2), (2, 14, 1), (3, 6, 9)];

fn engine(plans: &Plans, backend: Box<dyn Backend>) -> Engine {
    Engine::new(plans.clone(), blocks(plans, 3), backend).unwrap()
}

fn cpu(plans: &Plans, threads: usize) -> Engine {
    engine(plans, Box::new(Cpu::new(threads).unwrap()))
}

fn gradients(engine: &mut Engine, batches: &[Batch]) -> (f64, Vec<NamedTensor>) {
    let loss = engine.accumulate(batches, 11).unwrap();
    (loss, engine.gradients().unwrap())
}

#[test]
fn kernels_and_candle_agree_with_dropout() {
    for (name, plans) in all_plans() {
        let batch = pairs(&LENGTHS, &plans);
        let (second, copies) = counted();
        let (mut ours, mut theirs) = (cpu(&plans, 2), engine(&plans, second));
        let (loss, own) = gradients(&mut ours, std::slice::from_ref(&batch));
        let (other_loss, other) = gradients(&mut theirs, std::slice::from_ref(&batch));
        assert!((loss - other_loss).abs() < 1e-5 * loss.abs(), "{name}: {loss} {other_loss}");
        let apart = difference(&own, &other);
        assert!(apart < 2e-4, "{name}: {apart:e}");
        let (ours, theirs) = (ours.evaluate(&batch).unwrap(), theirs.evaluate(&batch).unwrap());
        for (a, b) in ours.outputs.iter().flatten().flatten().zip(theirs.outputs.iter().flatten().flatten()) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{name}: {a} {b}");
        }
        assert_eq!(copies.alone(), 0, "{name}: a list was not foreseen");
    }
}

/// The loss moves along each parameter's gradient as the gradient says.
#[test]
fn gradients_agree_with_finite_differences() {
    // The norm of the weights' hook is detached: its slope is another one.
    for (name, plans) in all_plans().into_iter().filter(|(name, _)| !name.starts_with("weights")) {
        let batch = pairs(&LENGTHS, &plans);
        let mut engine = cpu(&plans, 1);
        let (_, gradients) = gradients(&mut engine, std::slice::from_ref(&batch));
        let start = engine.trained().unwrap();
        let norm = |tensor: &NamedTensor| -> f64 {
            tensor.elements.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
        };
        let global = gradients.iter().map(|tensor| norm(tensor).powi(2)).sum::<f64>().sqrt();
        for (gradient, parameter) in gradients.iter().zip(&start) {
            let own = norm(gradient);
            if own < 0.02 * global {
                continue; // Too small for the loss's precision.
            }
            let step = 1e-3;
            let mut loss_at = |sign: f64| {
                let mut moved = parameter.clone();
                for (element, &g) in moved.elements.iter_mut().zip(&gradient.elements) {
                    *element += (sign * step * f64::from(g) / own) as f32;
                }
                engine.restore(&[moved]).unwrap();
                engine.accumulate(std::slice::from_ref(&batch), 11).unwrap()
            };
            let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
            engine.restore(std::slice::from_ref(parameter)).unwrap();
            assert!(
                (slope - own).abs() < 0.03 * own + 1e-3,
                "{name}, {}: slope {slope}, norm {own}",
                gradient.name
            );
        }
    }
}

#[test]
fn packing_order_and_micro_batches_change_nothing() {
    for (name, plans) in [
        ("T5", plans_of(small_t5(true), HEAD, everything)),
        ("BART", plans_of(small_bart(), HEAD, everything)),
        ("BART for masked tokens", plans_of(small_bart(), MASKED, everything)),
        ("T5 for classes", plans_of(small_t5(true), CLASSES, everything)),
        ("BART for classes", plans_of(small_bart(), CLASSES, everything)),
    ] {
        let (loss, whole) = gradients(&mut cpu(&plans, 1), &[pairs(&LENGTHS, &plans)]);
        let mut turned = LENGTHS;
        turned.reverse();
        let parts: Vec<Batch> = LENGTHS.chunks(2).map(|lengths| pairs(lengths, &plans)).collect();
        for (threads, batches) in
            [(1, vec![pairs(&turned, &plans)]), (1, parts), (2, vec![pairs(&LENGTHS, &plans)])]
        {
            let (other_loss, other) = gradients(&mut cpu(&plans, threads), &batches);
            assert!((loss - other_loss).abs() < 1e-5 * loss, "{name}: {loss} {other_loss}");
            let apart = difference(&whole, &other);
            assert!(apart < 2e-5, "{name}: {apart:e}");
        }
    }
}

/// Nothing is computed for a frozen encoder, and no gradient of the output's weights
/// where they are frozen.
#[test]
fn nothing_is_computed_for_what_is_frozen() {
    use host_engine::program::instruction::Instruction;
    let plans = plans_of(small_t5(true), HEAD, |recorder| {
        for parameter in recorder.parameters_matching(r"decoder\.block\.1\..*wo\.weight").unwrap() {
            recorder.train(parameter).unwrap();
        }
    });
    let compiled = plans.training().unwrap();
    let count = |wanted: fn(&Instruction) -> bool| {
        compiled.program.backward.iter().filter(|instruction| wanted(instruction)).count()
    };
    assert_eq!(count(|instruction| matches!(instruction, Instruction::LinearWeightGradient { .. })), 1);
    assert_eq!(count(|instruction| matches!(instruction, Instruction::LinearInputGradient { .. })), 1);
    assert_eq!(count(|instruction| matches!(instruction, Instruction::AttendBackward(_))), 0);
}

/// Below a head for classes, what follows the last attention works on the last row of
/// each sequence alone.
#[test]
fn rows_that_no_head_reads_are_not_computed() {
    use host_engine::program::instruction::Instruction;
    use host_engine::program::value::{Extent, Storage};
    use host_ir::method::AnyParameter;
    for (plans, last) in [
        (
            plans_of(small_t5(true), CLASSES, everything),
            "transformer.decoder.block.1.layer.2.DenseReluDense.wo",
        ),
        (plans_of(small_bart(), CLASSES, everything), "model.decoder.layers.1.fc2"),
    ] {
        let program = plans.training().unwrap().program;
        let weight = plans.model.find_parameter(&format!("{last}.weight")).unwrap();
        let (block, part) = plans.parameters.find(AnyParameter::Base(weight));
        let storage = Storage::Parameter { block, offset: part.offset };
        let rows = program.forward.iter().find_map(|instruction| match *instruction {
            Instruction::Linear { weight, y, .. } if program.value(weight).storage == storage => {
                Some(program.value(y).extents[0])
            }
            _ => None,
        });
        assert_eq!(rows, Some(Extent::Sequences), "{last}");
    }
}

#[test]
fn what_a_model_lacks_is_refused() {
    let error = plans_of(support::config(), HEAD, |_| {}).training().unwrap_err().to_string();
    assert!(error.contains("bert has no decoder"), "{error}");
    let error = plans_of(small_t5(false), HeadKind::MaskedLanguageModel, |_| {}).training().unwrap_err();
    let wanted = "a model of the kind t5 has heads for texts and for classes of sequences and of tokens, and none for what this task asks";
    assert_eq!(error.to_string(), wanted);
    let error = plans_of(small_bart(), TOKENS, |_| {}).training().unwrap_err().to_string();
    assert!(
        error.contains("bart has heads for texts, masked tokens and classes of sequences, and none"),
        "{error}"
    );
    let refused = |key: &str, value: serde_json::Value| {
        let mut json = json!({
            "model_type": "bart", "vocab_size": 50, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 3, "decoder_attention_heads": 4, "encoder_ffn_dim": 20,
            "decoder_ffn_dim": 30, "max_position_embeddings": 32,
        });
        json[key] = value;
        BartConfig::read(json.as_object().unwrap()).unwrap_err().to_string()
    };
    assert_eq!(
        refused("decoder_attention_heads", json!(5)),
        "config.json: d_model 24 is no multiple of decoder_attention_heads 5"
    );
    assert!(refused("decoder_layerdrop", json!(0.1)).contains("decoder_layerdrop is 0.1"));
}

/// One trait object serves all families.
#[test]
fn families_are_told_apart_by_their_kind() {
    let config: Arc<dyn Architecture> = small_t5(true).into();
    assert_eq!((config.name(), config.positions(), config.vocabulary()), ("t5", None, 50));
    let config: Arc<dyn Architecture> = small_bart().into();
    assert_eq!((config.name(), config.positions(), config.first_position()), ("bart", Some(32), 2));
    let error = host_engine::models::read(json!({"model_type": "gpt"}).as_object().unwrap()).unwrap_err();
    assert!(error.to_string().contains(", t5, mt5, bart"), "{error}");
}
