//! What a GPU is told, and the memory that it is asked for, on a machine without one: a driver
//! that computes nothing stands in for CUDA's (`tests/cuda/recorder.c`). What it counts is what
//! an H200's driver counted of the same programs.

#![cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::ffi::{CString, c_int};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

use candle_core::cuda::cudarc::driver::sys::CUDA_VERSION;
use host_engine::backend::candle::Candle;
use host_engine::batch::Batch;
use host_engine::compile::Plans;
use host_engine::device::{Device, Precision, Target};
use host_engine::engine::{Engine, EngineError};
use host_engine::generate::generate;
use host_engine::models::config::EncoderConfig;
use host_engine::train::memory::{LargestBatch, estimate};
use host_engine::train::settings::TrainingSettings;
use host_ir::record::Recorder;
use host_ir::task::{GenerationSettings, HeadKind};
use support::conditional::{golden_plans, packed};
use support::{
    CLASSES, LENGTHS, Plan, batch, blocks, config, deberta, low_rank_of, methods, plans_of, train_role,
};

const GPU: Device = Device::Cuda(0);

/// The driver, which is one of the process, for one test at a time.
fn driver() -> MutexGuard<'static, ()> {
    static DRIVER: OnceLock<Mutex<()>> = OnceLock::new();
    let driver = DRIVER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cuda/recorder.c");
        let cuda = library(folder.path(), "libcuda.so.1", &[source.to_str().unwrap()]);
        // The others are found behind names of their own, and have nothing but the first.
        let of_toolkit = |stem: &str| format!("{stem}.so.{}", CUDA_VERSION / 1000);
        for name in [of_toolkit("libcublas"), of_toolkit("libcublasLt"), "libcurand.so.10".into()] {
            library(folder.path(), &name, &["-Wl,--no-as-needed", &cuda]);
        }
        Mutex::new(())
    });
    let driver = driver.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    limit_memory(u64::MAX);
    driver
}

/// Compiles a library of this name and opens it, so that who asks for the name finds it; answers
/// its path.
fn library(folder: &Path, name: &str, of: &[&str]) -> String {
    let path = folder.join(name).to_str().unwrap().to_string();
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o", &path, &format!("-Wl,-soname,{name}")]).args(of);
    assert!(compiler.status().unwrap().success(), "{name}");
    let file = CString::new(path.clone()).unwrap();
    // SAFETY: what is opened was compiled here, and has no initialisers.
    let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    assert!(!handle.is_null(), "{name}");
    path
}

/// A number of 64 bits that the driver has under a name.
fn number(name: &str) -> *mut u64 {
    let name = CString::new(format!("recorded_{name}")).unwrap();
    // SAFETY: the name ends with a zero.
    let place = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!place.is_null(), "{name:?}");
    place.cast()
}

/// What the driver has counted under a name.
fn counted(name: &str) -> u64 {
    // SAFETY: the driver is open for good, and used by one test at a time.
    unsafe { number(name).read_volatile() }
}

/// Has arrays find so many bytes at most.
fn limit_memory(bytes: u64) {
    // SAFETY: as for reading.
    unsafe { number("limit").write_volatile(bytes) }
}

/// Bytes of arrays that have not ended.
fn used() -> u64 {
    count_anew();
    GPU.peak_memory()
}

/// Has the most memory that was used be counted anew.
fn count_anew() {
    // SAFETY: the driver's function of this name takes these, and reads none of the addresses.
    unsafe {
        type Set = extern "C" fn(*const u8, c_int, *const u64) -> c_int;
        let function = libc::dlsym(libc::RTLD_DEFAULT, c"cuMemPoolSetAttribute".as_ptr());
        assert!(!function.is_null());
        std::mem::transmute::<*mut libc::c_void, Set>(function)(std::ptr::null(), 8, std::ptr::null());
    }
}

fn candle(precision: Precision) -> Candle {
    let device = candle_core::Device::new_cuda(0).unwrap();
    let candle = Candle::with_unchecked_kernels(device).unwrap().in_precision(precision);
    candle.with_kept_memory(0).unwrap()
}

/// An engine as a training has it, with a second stream.
fn engine(plans: &Plans, precision: Precision) -> Engine {
    let candle = candle(precision).with_copies_beside().unwrap();
    Engine::new(plans.clone(), blocks(plans, 3), Box::new(candle)).unwrap()
}

fn settings() -> TrainingSettings {
    TrainingSettings::default()
}

/// An encoder with as many columns as a warp's kernels like, and values that are much larger
/// than the lists of a batch.
fn encoder(kind: &str) -> EncoderConfig {
    let json = serde_json::json!({
        "model_type": kind, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 1024, "vocab_size": 2000, "max_position_embeddings": 160, "type_vocab_size": 2,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "embedding_size": 256,
    });
    EncoderConfig::read(json.as_object().unwrap()).unwrap()
}

/// Methods as users have them, and their virtual tokens.
const USUAL: [(&str, u32, Plan); 4] = [
    ("fft", 0, |recorder| train_role(recorder, "all")),
    ("lora", 0, |recorder| {
        low_rank_of(recorder, &["query", "value"], 16, 0.1, 2.0, ("lora_A", "lora_B"));
    }),
    ("bitfit", 0, |recorder| train_role(recorder, "bias")),
    ("prompt tuning", 20, |recorder: &mut Recorder| {
        let initial = recorder.full(&[20, 256], 0.0).unwrap();
        let prompt = recorder.parameter(None, "prompt", initial, true).unwrap();
        recorder.prompt(prompt).unwrap();
    }),
];

/// Bytes with which a training is planned whose effective batches are so many such batches.
fn bytes_planned(plans: &Plans, batch: &Batch, target: Target, parts: usize) -> u64 {
    let longest = batch.starts.windows(2).map(|range| (range[1] - range[0]) as usize).max().unwrap_or(0);
    let largest = LargestBatch {
        examples: parts * batch.places.len(),
        rows: longest,
        pieces: 1,
        longest,
        masked: batch.masked_rows.len().div_ceil(batch.places.len()),
        targets: batch.target.ids.len().div_ceil(batch.places.len()),
        words: 0,
        most_rows: GPU.micro_batch_rows(),
    };
    let training = plans.training().unwrap();
    estimate(&training, &plans.parameters, &largest, batch.places.len(), target).total()
}

/// The plan as a share of what the training takes.
fn planned(plans: &Plans, batch: &Batch, precision: Precision, parts: usize) -> f64 {
    planned_by(candle(precision), plans, batch, Target::new(GPU, precision), parts)
}

/// The same of a backend, which is there for a target.
fn planned_by(candle: Candle, plans: &Plans, batch: &Batch, target: Target, parts: usize) -> f64 {
    let planned = bytes_planned(plans, batch, target, parts);
    // Without the second stream, whose slots for lists are as large for every model.
    let mut engine = Engine::new(plans.clone(), blocks(plans, 3), Box::new(candle)).unwrap();
    count_anew();
    for step in 0..3 {
        engine.step(&vec![batch.clone(); parts], &settings(), 1e-3, step).unwrap();
    }
    engine.results().unwrap();
    planned as f64 / GPU.peak_memory() as f64
}

/// So many sequences of a length.
fn alike(sequences: u32, length: u32) -> Vec<(u32, u32)> {
    (0..sequences).map(|place| (place, length)).collect()
}

/// Tells shares, and fails where some are outside of these bounds.
fn all_within(bounds: std::ops::Range<f64>, mut shares: Vec<(String, f64)>) {
    eprintln!("{shares:#?}");
    shares.retain(|(_, share)| !bounds.contains(share));
    assert!(shares.is_empty(), "outside of {bounds:?}: {shares:#?}");
}

const PRECISIONS: [Precision; 3] = [Precision::Bf16, Precision::Tf32, Precision::Fp32];

#[test]
fn a_training_takes_what_was_planned_and_not_much_less() {
    let _driver = driver();
    let mut shares = Vec::new();
    for (kind, parts) in [("bert", 1), ("bert", 3), ("electra", 1)] {
        for (name, virtual_tokens, plan) in USUAL {
            let plans = plans_of(encoder(kind), HeadKind::Classification { classes: CLASSES }, plan);
            let batch = batch(&alike(16, 100), virtual_tokens);
            for precision in PRECISIONS {
                let share = planned(&plans, &batch, precision, parts);
                shares.push((format!("{kind}, {name}, {precision}, {parts} parts"), share));
            }
        }
    }
    all_within(1.0..1.12, shares);
}

/// Without kernels of our own, for an older GPU, say.
#[test]
fn compositions_do_not_take_more_than_was_planned() {
    let _driver = driver();
    let mut shares = Vec::new();
    for (name, virtual_tokens, plan) in USUAL {
        let plans = plans_of(encoder("bert"), HeadKind::Classification { classes: CLASSES }, plan);
        for (examples, tokens) in [(16, 100), (200, 9), (3, 140)] {
            let batch = batch(&alike(examples, tokens), virtual_tokens);
            for precision in PRECISIONS {
                let device = candle_core::Device::new_cuda(0).unwrap();
                let candle = Candle::new(device).in_precision(precision);
                let target = Target { attention_columns: 0, ..Target::new(GPU, precision) };
                let share = planned_by(candle, &plans, &batch, target, 1);
                shares.push((format!("{name}, {precision}, {examples} x {tokens}"), share));
            }
        }
    }
    all_within(1.0..1.2, shares);
}

/// Of tables that are large beside values: beside the gradient of one lie what is added to it and
/// the sum, of parts before, or of a head that shares it.
#[test]
fn gradients_that_are_added_to_are_planned_for() {
    let _driver = driver();
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 64, "vocab_size": 60_000, "max_position_embeddings": 32, "type_vocab_size": 2,
    });
    let mut shares = Vec::new();
    for head in [HeadKind::Classification { classes: CLASSES }, HeadKind::MaskedLanguageModel] {
        let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
        let plans = plans_of(config, head, USUAL[0].2);
        let batch = batch(&alike(4, 16), 0);
        for (precision, parts) in
            PRECISIONS.into_iter().flat_map(|precision| [(precision, 1), (precision, 3)])
        {
            let share = planned(&plans, &batch, precision, parts);
            shares.push((format!("{head:?}, {precision}, {parts} parts"), share));
        }
    }
    all_within(1.0..1.4, shares);
}

/// Of values that are large beside parameters, in which compositions of expressions, of heads
/// and of relative positions show.
#[test]
fn whatever_a_method_says_does_not_take_more_than_was_planned() {
    let _driver = driver();
    let mut shares = Vec::new();
    for head in [HeadKind::Classification { classes: CLASSES }, HeadKind::MaskedLanguageModel] {
        for (name, plan) in methods() {
            for (family, config) in [("bert", config()), ("deberta", deberta())] {
                let plans = plans_of(config, head, plan);
                let batch = batch(&alike(200, 24), plans.method.virtual_tokens() as u32);
                for precision in PRECISIONS {
                    let share = planned(&plans, &batch, precision, 1);
                    shares.push((format!("{family}, {head:?}, {name}, {precision}"), share));
                }
            }
        }
    }
    let updates: Plan =
        |recorder| low_rank_of(recorder, &["q", "v", "q_proj", "v_proj"], 4, 0.1, 2.0, ("A", "B"));
    for (family, checkpoint) in [("bart", "checkpoint"), ("t5", "gated"), ("t5", "relu")] {
        for (name, plan) in [("fft", methods()[0].1), ("lora", updates)] {
            let (_, plans, _) = golden_plans(family, checkpoint, plan);
            let ids = |count: u32| (0..count).map(|row| 5 + row * 7 % 80).collect::<Vec<u32>>();
            let pairs: Vec<_> = (0..150).map(|place| (place, ids(24), ids(16))).collect();
            let batch = packed(&pairs, plans.config.as_ref(), 0);
            for (precision, parts) in
                PRECISIONS.into_iter().flat_map(|precision| [(precision, 1), (precision, 2)])
            {
                let share = planned(&plans, &batch, precision, parts);
                shares.push((format!("{family}, {checkpoint}, {name}, {precision}, {parts} parts"), share));
            }
        }
    }
    all_within(1.0..1.4, shares);
}

/// Steps of 64 examples of BERT-base's shape, by the table in `host/engine/README.md`: what arrays
/// took of an H200's memory, in hundredths of a GiB, of examples of 128 and of 384 tokens.
#[test]
fn an_h200_was_asked_for_as_much() {
    let _driver = driver();
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512,
        "type_vocab_size": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    });
    let updates: Plan =
        |recorder| low_rank_of(recorder, &["query", "value"], 8, 0.0, 2.0, ("lora_A", "lora_B"));
    for (name, plan, hundredths) in
        [("lora", updates, [145, 392]), ("bitfit", USUAL[2].2, [144, 391]), ("fft", USUAL[0].2, [263, 536])]
    {
        let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
        let plans = plans_of(config, HeadKind::Classification { classes: 5 }, plan);
        let mut engine = engine(&plans, Precision::Bf16);
        for (tokens, hundredths) in [128, 384].into_iter().zip(hundredths) {
            let batch = batch(&alike(64, tokens), 0);
            count_anew();
            for step in 0..2 {
                engine.step(std::slice::from_ref(&batch), &settings(), 1e-3, step).unwrap();
            }
            let held = GPU.peak_memory() as f64;
            let found = (held / f64::from(1 << 30) * 100.0).round();
            assert_eq!(found, f64::from(hundredths), "{name}, {tokens} tokens");
            let planned = bytes_planned(&plans, &batch, Target::new(GPU, Precision::Bf16), 1) as f64;
            assert!((1.0..1.05).contains(&(planned / held)), "{name}: {planned} and {held}");
        }
    }
}

/// How often somebody waited for the device, or read of it.
fn waited() -> u64 {
    counted("waits") + counted("reads")
}

#[test]
fn a_step_waits_for_nothing_and_is_told_nothing_that_is_refused() {
    let _driver = driver();
    let head = HeadKind::Classification { classes: CLASSES };
    for (name, plan) in methods() {
        for (family, plans) in
            [("bert", plans_of(config(), head, plan)), ("deberta", plans_of(deberta(), head, plan))]
        {
            let batch: Batch = batch(&LENGTHS, plans.method.virtual_tokens() as u32);
            for precision in [Precision::Fp32, Precision::Bf16] {
                let mut engine = engine(&plans, precision);
                let mut step = |number| {
                    engine.step(std::slice::from_ref(&batch), &settings(), 1e-3, number).unwrap_or_else(
                        |error| {
                            panic!("{family}, {name}, {precision}: {error}");
                        },
                    );
                };
                step(0);
                let before = (waited(), counted("launches"), counted("products"));
                (1..5).for_each(&mut step);
                assert_eq!(waited(), before.0, "{family}, {name}, {precision}: how often a step waits");
                assert!(counted("launches") > before.1 && counted("products") > before.2);
            }
        }
    }
}

#[test]
fn a_generation_is_told_nothing_that_is_refused_and_leaves_no_memory() {
    let _driver = driver();
    for (family, checkpoint) in [("bart", "checkpoint"), ("t5", "gated")] {
        for precision in PRECISIONS {
            let (_, plans, batch) = golden_plans(family, checkpoint, |recorder| train_role(recorder, "all"));
            let mut engine = engine(&plans, precision);
            let mut generated = || {
                for num_beams in [1, 3] {
                    let settings =
                        GenerationSettings { max_new_tokens: 9, num_beams, ..GenerationSettings::default() };
                    let said = generate(&mut engine, &batch, &settings).unwrap();
                    assert_eq!(said.len(), batch.sequences());
                }
                engine.evaluate(&batch).unwrap();
                used()
            };
            // The first brings parameters.
            let (first, launches) = (generated(), counted("launches"));
            assert_eq!(generated(), first, "{family}, {precision}");
            assert!(counted("launches") > launches);
        }
    }
}

/// What nobody can see of a real card: that a step which found no memory has left none behind.
#[test]
fn where_memory_ends_a_step_is_made_again_in_parts() {
    let _driver = driver();
    let head = HeadKind::Classification { classes: CLASSES };
    for (name, virtual_tokens, plan) in USUAL {
        let plans = plans_of(encoder("bert"), head, plan);
        let (whole, half) = (batch(&alike(16, 100), virtual_tokens), batch(&alike(8, 100), virtual_tokens));
        let mut engine = engine(&plans, Precision::Bf16);
        assert_eq!(counted("kept"), u64::MAX, "a training keeps memory");
        let mut step = |batches: &[Batch]| {
            engine.step(batches, &settings(), 1e-3, 0)?;
            // What it came to lies on the device until it is read.
            engine.results()
        };
        step(std::slice::from_ref(&whole)).unwrap();
        count_anew();
        let between = GPU.peak_memory();
        step(std::slice::from_ref(&whole)).unwrap();
        let needed = GPU.peak_memory();
        assert_eq!(used(), between, "{name}: a step leaves no memory behind");

        // So little that it ends early, and so much that it ends late.
        for share in [0.1, 0.5, 0.9, 0.99] {
            let returns = counted("returns");
            limit_memory(between + ((needed - between) as f64 * share) as u64);
            let ended = step(std::slice::from_ref(&whole)).unwrap_err();
            limit_memory(u64::MAX);
            assert!(
                matches!(&ended, EngineError::Backend(error) if error.is_out_of_memory()),
                "{name}: {ended}"
            );
            assert!(counted("returns") > returns, "{name}: what was kept went back");
            assert!(used() <= between, "{name}, {share}: {} and {between} bytes", used());
        }
        // Half of the examples leave room for the gradients of the other half.
        limit_memory(needed);
        let made = step(&[half.clone(), half]);
        limit_memory(u64::MAX);
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        drop(engine);
        assert_eq!((counted("kept"), used()), (0, 0), "{name}");
    }
}
