//! How many rows a micro-batch has.

mod support;

use host_engine::device::Device;
use host_engine::models::config::EncoderConfig;
use host_engine::train::memory::{LargestBatch, MICRO_BATCH_ROWS, estimate, micro_batch_rows};
use host_ir::task::HeadKind;
use support::{CLASSES, methods, plans_of};

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
    let most_rows = micro_batch_rows(&training, &plans.parameters, &largest, device);
    let largest = LargestBatch { most_rows, ..largest };
    let working = estimate(&training, &plans.parameters, &largest, 128, Device::Cpu).working;
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
