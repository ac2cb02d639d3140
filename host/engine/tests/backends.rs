//! One program, two backends: our kernels and candle's operations agree on the
//! loss, on every gradient and on every output; gradients agree with finite
//! differences; packing, order, micro-batches and threads change nothing.

mod support;

use std::sync::Arc;

use candle_core::Device;
use host_engine::backend::Backend;
use host_engine::backend::candle::Candle;
use host_engine::backend::cpu::Cpu;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::engine::{Engine, NamedTensor};
use host_engine::models::config::EncoderConfig;
use host_engine::program::instruction::Instruction;
use host_ir::graph::Op;
use host_ir::task::HeadKind;
use proptest::prelude::*;
use support::{CLASSES, LENGTHS, batch, blocks, counted, difference, methods, plans, plans_of, second};

const HEADS: [HeadKind; 2] = [HeadKind::Classification { classes: CLASSES }, HeadKind::MaskedLanguageModel];

/// Models whose attention differs.
const MODELS: [fn() -> EncoderConfig; 2] = [support::config, support::deberta];

fn engine(plans: &Plans, backend: Box<dyn Backend>) -> Engine {
    Engine::new(plans.clone(), blocks(plans, 3), backend).unwrap()
}

fn cpu(plans: &Plans, threads: usize) -> Engine {
    engine(plans, Box::new(Cpu::new(threads).unwrap()))
}

fn packed(plans: &Plans, lengths: &[(u32, u32)]) -> Batch {
    batch(lengths, plans.method.virtual_tokens() as u32)
}

fn gradients(engine: &mut Engine, batches: &[Batch]) -> (f64, Vec<NamedTensor>) {
    let loss = engine.accumulate(batches, 11).unwrap();
    (loss, engine.gradients().unwrap())
}

#[test]
fn kernels_and_candle_agree_with_dropout() {
    let other = HeadKind::TokenClassification { classes: CLASSES };
    for (config, head) in
        MODELS.iter().flat_map(|config| HEADS.into_iter().chain([other]).map(move |head| (config(), head)))
    {
        for (name, method) in methods() {
            let plans = plans_of(config.clone(), head, method);
            let batch = packed(&plans, &LENGTHS);
            let mut ours = cpu(&plans, 2);
            let (loss, own) = gradients(&mut ours, std::slice::from_ref(&batch));
            let ours = ours.evaluate(&batch).unwrap();
            let mut others = vec![counted()];
            if cfg!(feature = "cuda") {
                // What the kernels that the second backend has there are in the place of.
                let composed = Candle::new(Device::Cpu);
                let copies = composed.copies();
                others.push((Box::new(composed), copies));
            }
            for (other, copies) in others {
                let mut theirs = engine(&plans, other);
                let (other_loss, other) = gradients(&mut theirs, std::slice::from_ref(&batch));
                assert!((loss - other_loss).abs() < 1e-5 * loss.abs(), "{name}: {loss} {other_loss}");
                let apart = difference(&own, &other);
                assert!(apart < 2e-4, "{name} on {head:?}: {apart:e}");
                let theirs = theirs.evaluate(&batch).unwrap();
                let outputs = theirs.outputs.iter().flatten().flatten();
                for (a, b) in ours.outputs.iter().flatten().flatten().zip(outputs) {
                    assert!((a - b).abs() < 1e-4, "{name}: {a} {b}");
                }
                assert_eq!(copies.alone(), 0, "{name} on {head:?}: a list was not foreseen");
            }
        }
    }
}

/// The loss moves along each parameter's gradient as the gradient says.
#[test]
fn gradients_agree_with_finite_differences() {
    for (config, head) in MODELS.iter().flat_map(|config| HEADS.map(|head| (config(), head))) {
        for (name, method) in methods() {
            if name == "weights" {
                continue; // Its norm is detached: the slope is another one.
            }
            let plans = plans_of(config.clone(), head, method);
            let batch = packed(&plans, &LENGTHS);
            let (_, gradients) = gradients(&mut cpu(&plans, 1), std::slice::from_ref(&batch));
            let start = cpu(&plans, 1).trained().unwrap();
            let global: f64 = gradients
                .iter()
                .flat_map(|tensor| &tensor.elements)
                .map(|&g| f64::from(g) * f64::from(g))
                .sum::<f64>()
                .sqrt();
            for (gradient, parameter) in gradients.iter().zip(&start) {
                let norm = gradient.elements.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
                if norm < 1e-3 * global {
                    continue; // Too small for the loss's precision.
                }
                let step = 2e-3;
                let loss_at = |sign: f64| {
                    let mut moved = parameter.clone();
                    for (element, &g) in moved.elements.iter_mut().zip(&gradient.elements) {
                        *element += (sign * step * f64::from(g) / norm) as f32;
                    }
                    let mut engine = cpu(&plans, 1);
                    engine.restore(&[moved]).unwrap();
                    engine.accumulate(std::slice::from_ref(&batch), 11).unwrap()
                };
                let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
                assert!(
                    (slope - norm).abs() < 0.02 * norm + 2e-4,
                    "{name} on {head:?}, {}: slope {slope}, norm {norm}",
                    gradient.name
                );
            }
        }
    }
}

#[test]
fn packing_order_and_micro_batches_change_nothing() {
    for config in MODELS {
        unchanged_by_packing(&plans_of(config(), HEADS[0], methods()[0].1));
    }
}

fn unchanged_by_packing(plans: &Plans) {
    let (loss, whole) = gradients(&mut cpu(plans, 1), &[packed(plans, &LENGTHS)]);
    let mut turned = LENGTHS;
    turned.reverse();
    let (other_loss, other) = gradients(&mut cpu(plans, 1), &[packed(plans, &turned)]);
    assert!((loss - other_loss).abs() < 1e-6);
    let apart = difference(&whole, &other);
    assert!(apart < 1e-5, "{apart:e}");
    let parts: Vec<Batch> = LENGTHS.chunks(2).map(|lengths| packed(plans, lengths)).collect();
    let (other_loss, other) = gradients(&mut cpu(plans, 1), &parts);
    assert!((loss - other_loss).abs() < 1e-6);
    let apart = difference(&whole, &other);
    assert!(apart < 1e-5, "{apart:e}");
}

#[test]
fn the_same_run_gives_the_same_bits_and_threads_agree() {
    for config in MODELS {
        let plans = plans_of(config(), HEADS[0], methods()[4].1);
        let batch = packed(&plans, &LENGTHS);
        let run = |threads| gradients(&mut cpu(&plans, threads), std::slice::from_ref(&batch));
        assert_eq!(run(2), run(2));
        assert!(difference(&run(1).1, &run(2).1) < 1e-5);
    }
}

/// A sequence of one token has none that is masked: the loss is of nothing.
#[test]
fn a_batch_without_masked_tokens_has_no_loss() {
    for method in ["everything", "biases", "low rank"] {
        let (_, method) = methods().into_iter().find(|(name, _)| *name == method).unwrap();
        let plans = plans(HeadKind::MaskedLanguageModel, method);
        let batch = packed(&plans, &[(0, 1)]);
        for backend in [cpu(&plans, 2), engine(&plans, second())].iter_mut() {
            let (loss, gradients) = gradients(backend, std::slice::from_ref(&batch));
            assert_eq!(loss, 0.0);
            assert!(gradients.iter().flat_map(|tensor| &tensor.elements).all(|&element| element == 0.0));
        }
    }
}

/// The gradient of logits is written over them, unless another loss has still to read
/// them.
#[test]
fn logits_serve_two_losses() {
    let with = |places: &[usize]| {
        let mut plans = plans(HEADS[0], methods()[0].1);
        let cross_entropy = plans.task.losses[0];
        let logits = plans.task.graph.node(cross_entropy).inputs[0];
        let task = Arc::make_mut(&mut plans.task);
        let squares = task.graph.apply(Op::Power(2.0), &[logits], None, None).unwrap();
        task.losses = places.iter().map(|&place| [cross_entropy, squares][place]).collect();
        plans
    };
    let in_place = |places: &[usize]| {
        let program = with(places).training().unwrap().program;
        let mut backward = program.backward.iter();
        backward.any(|instruction| {
            let Instruction::CrossEntropyBackward { logits, dlogits, .. } = *instruction else {
                return false;
            };
            program.root(logits) == program.root(dlogits)
        })
    };
    assert!(in_place(&[0]) && in_place(&[0, 1]) && !in_place(&[1, 0]));
    for backend in [|| Box::new(Cpu::new(1).unwrap()) as Box<dyn Backend>, second] {
        let gradients = |places: &[usize]| {
            let plans = with(places);
            gradients(&mut engine(&plans, backend()), &[packed(&plans, &LENGTHS)]).1
        };
        let mut apart = gradients(&[0]);
        for (sum, squares) in apart.iter_mut().zip(gradients(&[1])) {
            sum.elements.iter_mut().zip(squares.elements).for_each(|(sum, square)| *sum += square);
        }
        for together in [gradients(&[0, 1]), gradients(&[1, 0])] {
            assert!(difference(&apart, &together) < 1e-5);
        }
    }
}

/// Attention keeps the probabilities of short sequences for the backward pass: of all of
/// a batch, of some, of none.
#[test]
fn short_and_long_sequences_have_the_same_gradients_on_both_backends() {
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 20, "vocab_size": 50, "max_position_embeddings": 96, "type_vocab_size": 2,
    });
    let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
    let batches: [&[(u32, u32)]; 3] = [&[(0, 64), (1, 7)], &[(0, 65), (1, 64), (2, 3)], &[(0, 65), (1, 90)]];
    for (lengths, head) in batches.into_iter().flat_map(|lengths| HEADS.map(|head| (lengths, head))) {
        let plans = plans_of(config.clone(), head, methods()[0].1);
        let batch = packed(&plans, lengths);
        let (loss, ours) = gradients(&mut cpu(&plans, 2), std::slice::from_ref(&batch));
        let (other, theirs) = gradients(&mut engine(&plans, second()), std::slice::from_ref(&batch));
        assert!((loss - other).abs() < 1e-5 * loss.abs(), "{lengths:?}: {loss} {other}");
        let apart = difference(&ours, &theirs);
        assert!(apart < 2e-4, "{lengths:?} on {head:?}: {apart:e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the sizes: a token alone, one head, widths that fill no vector. Of a
    /// norm over fewer numbers hardly a gradient is left.
    #[test]
    fn any_shape_gives_the_same_on_both_backends(
        (heads, size) in (1u32..4, 5u32..14),
        intermediate in 1u32..70,
        layers in 1u32..3,
        lengths in prop::collection::vec(1u32..30, 1..5),
        masked in any::<bool>(),
        which in 0usize..3,
    ) {
        let json = serde_json::json!({
            "model_type": "bert", "hidden_size": heads * size, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": intermediate, "vocab_size": 50,
            "max_position_embeddings": 32, "type_vocab_size": 2,
        });
        let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
        let kinds = ["everything", "biases", "low rank"];
        let (_, method) = methods().into_iter().find(|(name, _)| *name == kinds[which]).unwrap();
        let plans = plans_of(config, HEADS[usize::from(masked)], method);
        let lengths: Vec<(u32, u32)> = (0..).zip(lengths).collect();
        let batch = packed(&plans, &lengths);
        let (our_loss, ours) = gradients(&mut cpu(&plans, 2), std::slice::from_ref(&batch));
        let mut candle = engine(&plans, second());
        let (loss, theirs) = gradients(&mut candle, std::slice::from_ref(&batch));
        prop_assert!((our_loss - loss).abs() < 1e-4 * loss.abs().max(1e-3), "{our_loss} and {loss}");
        difference(&ours, &theirs);
    }
}

/// A multiple choice of so many questions, from `first` on, each with a choice of
/// every length.
fn choices(first: u32, questions: u32) -> Batch {
    let pieces = first * CLASSES..(first + questions) * CLASSES;
    let lengths: Vec<(u32, u32)> = pieces.map(|place| (place, 2 + place * 5 % 7)).collect();
    let mut batch = batch(&lengths, 0);
    batch.example_starts = (0..=questions).map(|question| question * CLASSES).collect();
    let labels = (first..first + questions).map(|question| (question % CLASSES) as i32).collect();
    batch.example_labels.insert("label".into(), labels);
    batch
}

/// How questions are shared among micro-batches, and by which backend they are
/// computed, changes nothing but rounding, with dropout on.
#[test]
fn choices_are_made_within_an_example() {
    for (name, method) in methods() {
        let plans = plans(HeadKind::MultipleChoice, method);
        if plans.method.virtual_tokens() > 0 {
            continue; // The batches here have none.
        }
        let (whole, parts) = ([choices(0, 5)], [choices(0, 2), choices(2, 1), choices(3, 2)]);
        let (loss, own) = gradients(&mut cpu(&plans, 2), &whole);
        for mut other in [cpu(&plans, 1), engine(&plans, second())] {
            let (other_loss, gradients) = gradients(&mut other, &parts);
            assert!((loss - other_loss).abs() < 1e-5 * loss.abs(), "{name}: {loss} {other_loss}");
            difference(&own, &gradients);
        }
        let evaluation = cpu(&plans, 2).evaluate(&whole[0]).unwrap();
        assert_eq!(evaluation.outputs.len(), 5);
        assert!(evaluation.outputs.iter().all(|outputs| outputs[0].len() == CLASSES as usize));
        let mut torn = choices(0, 5);
        torn.example_starts[1] += 1;
        torn.example_starts.pop();
        torn.example_labels.get_mut("label").unwrap().pop();
        assert!(cpu(&plans, 1).evaluate(&torn).unwrap_err().to_string().contains("as many pieces"));
    }
}

/// In bf16 products are of rounded numbers, and with kernels of our own so are values
/// between them: gradients point where they did, a little off, and a training goes where
/// it went.
#[test]
fn bf16_differs_from_fp32_by_its_rounding() {
    use host_engine::device::Precision;
    use host_engine::train::settings::TrainingSettings;
    let backends: [fn() -> Box<dyn Backend>; 2] = [
        || Box::new(Candle::new(Device::Cpu).in_precision(Precision::Bf16)),
        || support::second_in(Precision::Bf16),
    ];
    for (config, backend) in MODELS.iter().flat_map(|config| backends.map(|backend| (config, backend))) {
        for (name, method) in methods() {
            let plans = plans_of(config(), HEADS[0], method);
            let batch = packed(&plans, &LENGTHS);
            let (mut full, mut rounded) = (cpu(&plans, 2), engine(&plans, backend()));
            let start = rounded.trained().unwrap();
            let (loss, own) = gradients(&mut full, std::slice::from_ref(&batch));
            let (other_loss, other) = gradients(&mut rounded, std::slice::from_ref(&batch));
            assert!((loss - other_loss).abs() < 1e-2 * loss, "{name}: {loss} and {other_loss}");
            let elements = |tensors: &[NamedTensor]| -> Vec<f64> {
                tensors
                    .iter()
                    .flat_map(|tensor| &tensor.elements)
                    .map(|&element| f64::from(element))
                    .collect()
            };
            let (own, other) = (elements(&own), elements(&other));
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let norms = (product(&own, &own) * product(&other, &other)).sqrt();
            let cosine = product(&own, &other) / norms;
            assert!(cosine > 0.9998, "{name}: {cosine}");
            assert!(own != other, "{name}: nothing was rounded");
            // Steps from weights that are kept in fp32: ones too small for bf16 count.
            let settings = TrainingSettings { weight_decay: 0.0, ..TrainingSettings::default() };
            for engine in [&mut full, &mut rounded] {
                engine.step(std::slice::from_ref(&batch), &settings, 1e-6, 11).unwrap();
            }
            let moved: Vec<f64> = elements(&rounded.trained().unwrap())
                .iter()
                .zip(elements(&start))
                .map(|(a, b)| a - b)
                .collect();
            let unmoved =
                moved.iter().zip(&other).filter(|&(&moved, &gradient)| gradient != 0.0 && moved == 0.0);
            let share = unmoved.count() as f64 / moved.len() as f64;
            assert!(share < 0.5, "{name}: {share} of what should train has not moved");
            // Frozen weights are rounded once, and once more where others take their place.
            let mut weights =
                rounded.tensors(|part| part.name.ends_with("intermediate.dense.weight")).unwrap();
            weights.iter_mut().for_each(|weight| weight.elements.fill(0.0));
            let before = rounded.evaluate(&batch).unwrap();
            rounded.restore(&weights).unwrap();
            assert_ne!(rounded.evaluate(&batch).unwrap(), before, "{name}");
        }
    }
}
