//! A warm step takes no memory for values: its buffers are placed in memory that
//! is there from the steps before. What it takes and gives back are small lists,
//! and the buffers into which the `gemm` crate packs parts of its operands.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use host_engine::backend::cpu::Cpu;
use host_engine::engine::Engine;
use host_engine::models::config::EncoderConfig;
use host_engine::program::value::Sizes;
use host_engine::train::settings::TrainingSettings;
use host_ir::task::HeadKind;
use support::{CLASSES, batch, blocks, methods, plans_of};

/// The system's allocator, which knows how much is in use, and was at most.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's; the sum is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that two threads need at most to pack parts of a product's operands.
const PACKED: usize = 768 << 10;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_step_allocates_no_working_memory() {
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 384, "vocab_size": 50, "max_position_embeddings": 128, "type_vocab_size": 2,
    });
    let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
    let kinds = ["everything", "biases", "low rank"];
    for (name, method) in methods().into_iter().filter(|(name, _)| kinds.contains(name)) {
        let plans = plans_of(config.clone(), HeadKind::Classification { classes: CLASSES }, method);
        let batch = batch(&[(0, 100), (1, 90), (2, 110), (3, 20)], 0);
        let working = plans.training().unwrap().working_bytes(&Sizes::of(&batch));
        let elements = blocks(&plans, 1);
        let mut engine = Engine::new(plans, elements, Box::new(Cpu::new(2).unwrap())).unwrap();
        let settings = TrainingSettings::default();
        let mut step = || {
            engine.step(std::slice::from_ref(&batch), &settings, 1e-4, 1).unwrap();
            engine.results().unwrap()
        };
        step();
        step();
        let before = LIVE.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        step();
        let (after, most) = (LIVE.load(Ordering::Relaxed), MOST.load(Ordering::Relaxed));
        assert!(working > 2 << 20, "{name}: the batch is too small to tell: {working}");
        assert!(after.abs_diff(before) < 1 << 10, "{name}: {before} bytes before, {after} after");
        assert!(most - before < PACKED, "{name}: {} bytes were taken", most - before);
    }
}
