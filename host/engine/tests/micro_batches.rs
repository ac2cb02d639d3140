//! How many rows a micro-batch has, and what memory it takes.

mod support;

use host_engine::device::{Device, Precision, Target};
use host_engine::models::config::EncoderConfig;
use host_engine::train::memory::{LargestBatch, MICRO_BATCH_ROWS, estimate, micro_batch_rows};
use host_ir::record::Recorder;
use host_ir::task::HeadKind;
use support::{CLASSES, low_rank_of, methods, plans_of};

/// Rows of a micro-batch of an encoder so wide, on a device, and the working memory that
/// they take on a processor, in MiB.
fn rows(hidden: usize, device: Device) -> (usize, u64) {
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 4 * hidden, "vocab_size": 50, "max_position_embeddings": 128,
        "type_vocab_size": 2,
    });
    let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
    let (_, method) = methods().into_iter().find(|(name, _)| *name == "low rank").unwrap();
    let plans = plans_of(config, HeadKind::Classification { classes: CLASSES }, method);
    let largest =
        LargestBatch { examples: 128, rows: 128, pieces: 1, longest: 128, ..LargestBatch::default() };
    let training = plans.training().unwrap();
    let on = |device: Device| Target::new(device, Precision::Fp32);
    let most_rows = micro_batch_rows(&training, &largest, on(device));
    let largest = LargestBatch { most_rows, ..largest };
    let working = estimate(&training, &plans.parameters, &largest, 128, on(Device::Cpu)).working;
    (most_rows, working >> 20)
}

#[test]
fn a_small_model_takes_more_rows_on_a_processor_and_no_more_memory_than_a_large_one() {
    let (small, working) = rows(192, Device::Cpu);
    assert!(small > 3 * MICRO_BATCH_ROWS && (180..=192).contains(&working), "{small} rows, {working} MiB");
    let (large, working) = rows(1536, Device::Cpu);
    assert!(large == MICRO_BATCH_ROWS && working > 192, "{large} rows, {working} MiB");
    // Compositions take more memory.
    let (composed, _) = rows(192, Device::CandleCpu);
    assert!(MICRO_BATCH_ROWS <= composed && composed < small, "{composed} of {small} rows");
    for device in [Device::Cuda(0), Device::Metal] {
        assert_eq!(rows(192, device).0, device.micro_batch_rows());
    }
}

/// The arrays of the peer, PyTorch 2.11 with transformers and peft, on an H200: a LoRA step of
/// BERT-base's shape in bf16, 64 examples of 128 tokens (`host/engine/README.md`).
const PEER_GIB: f64 = 3.06;

#[test]
fn in_bf16_a_step_is_planned_with_half_of_what_the_peer_takes() {
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512,
        "type_vocab_size": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    });
    let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
    // As `tests/reference/peer_speed.py` says it to peft.
    let lora: fn(&mut Recorder) = |recorder| {
        low_rank_of(recorder, &["query", "value"], 16, 0.1, 2.0, ("lora_A", "lora_B"));
    };
    let plans = plans_of(config, HeadKind::Classification { classes: CLASSES }, lora);
    let training = plans.training().unwrap();
    let most_rows = Device::Cuda(0).micro_batch_rows();
    let largest = LargestBatch {
        examples: 64,
        rows: 128,
        pieces: 1,
        longest: 128,
        most_rows,
        ..LargestBatch::default()
    };
    let planned = |precision: Precision, attention_columns: usize| {
        let target = Target { device: Device::Cuda(0), precision, attention_columns };
        estimate(&training, &plans.parameters, &largest, 64, target)
    };
    let (halves, whole) = (planned(Precision::Bf16, 64), planned(Precision::Tf32, 64));
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    assert!(gib(halves.total()) < PEER_GIB / 2.0, "{}", gib(halves.total()));
    // Gradients, and what norms and attention keep of each row, are fp32 either way.
    assert!(100 * halves.working < 51 * whole.working, "{} and {}", halves.working, whole.working);
    assert!(10 * halves.parameters < 6 * whole.parameters);
    // Without kernels of our own values are fp32, and weights come in bf16 all the same.
    let composed = planned(Precision::Bf16, 0);
    assert!(composed.working > whole.working && composed.parameters < whole.parameters);
}

/// An effective batch that has more rows than a device takes at a time comes in parts, the later of
/// which find the gradients of the earlier.
#[test]
fn parts_by_rows_are_planned_with_the_gradients_of_those_before() {
    let (_, everything) = methods().into_iter().find(|(name, _)| *name == "everything").unwrap();
    let plans = plans_of(support::config(), HeadKind::Classification { classes: CLASSES }, everything);
    let training = plans.training().unwrap();
    let working = |examples: usize| {
        let (rows, most_rows) = (8, 64);
        let largest =
            LargestBatch { examples, rows, pieces: 1, longest: rows, most_rows, ..LargestBatch::default() };
        let target = Target { device: Device::Cuda(0), precision: Precision::Fp32, attention_columns: 64 };
        estimate(&training, &plans.parameters, &largest, examples, target).working
    };
    let trained = (4 * plans.parameters.trained_elements()) as u64;
    let (whole, parts) = (working(8), working(9));
    assert!(parts > whole + trained / 2, "{whole} and {parts} bytes, {trained} of gradients");
}

/// What an expression reads or writes is fp32, whatever else touches it.
#[test]
fn what_expressions_touch_is_not_rounded() {
    use host_engine::program::instruction::Instruction;
    let mut expressions = 0;
    for (name, method) in methods() {
        let plans = plans_of(support::config(), HeadKind::Classification { classes: CLASSES }, method);
        let compiled = plans.training().unwrap();
        assert!(compiled.halves.contains(&true), "{name}: nothing is stored in bf16");
        for instruction in compiled.program.instructions() {
            let expression = matches!(
                instruction,
                Instruction::Binary { .. }
                    | Instruction::Unary { .. }
                    | Instruction::Matmul { .. }
                    | Instruction::Fold { .. }
            );
            if expression {
                expressions += 1;
                let rounded = |value| compiled.halves[compiled.program.root(value).0 as usize];
                assert!(!instruction.accesses().iter().any(|&(value, _)| rounded(value)), "{name}");
            }
        }
    }
    assert!(expressions > 20, "{expressions}");
}
