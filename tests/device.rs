//! Devices: the second backend trains what the first trains, and what a machine
//! or a build does not have is said in a sentence.

mod support;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[cfg(feature = "cuda")]
use host_engine as _; // candle calls the functions that stand there for CUDA's.
use serde_json::Value;
use support::{cells, experiment, fails, host, root, succeeds};

/// Losses and metrics of a cell, by what they are.
fn numbers(cell: &Value) -> Vec<(String, f64)> {
    let result = &cell["result"];
    let mut numbers = Vec::new();
    for epoch in result["epochs"].as_array().unwrap() {
        numbers.push((format!("train loss after {}", epoch["epoch"]), epoch["train_loss"].as_f64().unwrap()));
    }
    for split in result["metrics"].as_array().unwrap() {
        for (name, value) in split["metrics"].as_object().unwrap() {
            numbers.push((format!("{} {name}", split["split"]), value.as_f64().unwrap()));
        }
    }
    numbers
}

/// Held by a test as long as it computes on the device: one of them takes all of its
/// memory.
static DEVICE: Mutex<()> = Mutex::new(());

/// The device that is held against the CPU: candle's CPU device, unless
/// HOST_TEST_DEVICE names another (tests/gpu/run).
fn device() -> String {
    std::env::var("HOST_TEST_DEVICE").unwrap_or("candle-cpu".into())
}

/// Runs a config on our kernels and on the device: plugins, data, dropout, updates and
/// evaluation are the same, and so are the numbers, within rounding: losses to a share,
/// metrics to a number.
fn agrees_with_the_cpu(config: &Path, more: &[&str], methods: usize, precision: &str, within: [f64; 2]) {
    let _turn = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let second = device();
    let cells_on = |device: &str| {
        let out = folder.path().join(device);
        let arguments = ["run", config.to_str().unwrap(), "--device", device, "--out", out.to_str().unwrap()];
        let mut command = host(folder.path(), &arguments);
        command.args(more).args(["--precision", if device == second { precision } else { "fp32" }]);
        let (_, log) = succeeds(command);
        assert_eq!(log.contains(&format!("of memory on {second}, where")), device == second, "{log}");
        cells(&out)
    };
    let (ours, theirs) = (cells_on("cpu"), cells_on(&second));
    assert_eq!((ours.len(), theirs.len()), (methods, methods));
    for (_, first) in ours {
        let label = first["spec"]["label"].as_str().unwrap();
        let second = theirs.iter().find(|(_, cell)| cell["spec"]["label"] == label).unwrap();
        assert_eq!(second.1["spec"]["device"], device());
        assert_ne!(second.1["identity"], first["identity"], "another device is another cell");
        let (first, second) = (numbers(&first), numbers(&second.1));
        assert_eq!(first.len(), second.len(), "{label}");
        for ((name, first), (_, second)) in first.into_iter().zip(second) {
            let bound = if name.contains("loss") { within[0] * first.abs() } else { within[1] };
            assert!((first - second).abs() <= bound, "{label}, {name}: {first} and {second}");
        }
    }
}

/// Of five hundred sentences, two may lie on the border of two classes.
const FP32: [f64; 2] = [1e-4, 5e-3];

/// The quickstart, cut short.
#[test]
fn on_the_device_the_quickstart_trains_as_on_the_cpu() {
    let more = ["--set", "training.max_steps=12"];
    agrees_with_the_cpu(&root().join("configs/quickstart.toml"), &more, 4, "fp32", FP32);
}

/// The same in bf16: losses are a little off, and some sentences lie on the other side.
#[test]
fn on_the_device_the_quickstart_trains_in_bf16_as_in_fp32() {
    let more = ["--set", "training.max_steps=12"];
    agrees_with_the_cpu(&root().join("configs/quickstart.toml"), &more, 4, "bf16", [5e-3, 3e-2]);
}

/// SST-5, cut short, where HOST_TEST_DATA names the folder that has it.
#[test]
fn on_the_device_real_sentences_train_as_on_the_cpu() {
    let data = std::env::var_os("HOST_TEST_DATA").map(|folder| Path::new(&folder).join("sst5"));
    let Some(data) = data.filter(|folder| folder.is_dir()) else {
        println!("skipped: HOST_TEST_DATA has no folder sst5");
        return;
    };
    let data = format!("data.path={}", data.display());
    let more = ["--set", &data, "--set", "training.max_steps=20", "--method", "lora"];
    agrees_with_the_cpu(&root().join("configs/quickstart.toml"), &more, 1, "fp32", FP32);
}

/// Another process takes the GPU's memory in the middle of a training that does not keep it
/// between steps, and goes on with smaller micro-batches and the same effective batch.
#[cfg(feature = "cuda")]
#[test]
fn on_the_device_memory_that_ends_is_survived() {
    use candle_core::{DType, Device, Tensor};
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let Some(number) = device().strip_prefix("cuda:").and_then(|number| number.parse().ok()) else {
        println!("skipped: {} is no GPU of NVIDIA's", device());
        return;
    };
    let _turn = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let config = root().join("configs/quickstart.toml");
    let mut command = host(folder.path(), &["run", config.to_str().unwrap(), "--device", &device()]);
    command.args(["--method", "fft", "--set", "training.per_device_train_batch_size=1024"]);
    command.args(["--set", "methods.fft.training.num_train_epochs=200"]);
    command.env("HOST_MEMORY", "returned");
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let gpu = Device::new_cuda(number).unwrap();
    let (mut taken, mut said, mut log) = (Vec::new(), false, String::new());
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        log.extend([line.as_str(), "\n"]);
        if line.trim_start().starts_with("step ") && taken.is_empty() && !said {
            // All but a little, in pieces that become smaller.
            let mut bytes = 8usize << 30;
            while bytes > 16 << 20 {
                match Tensor::zeros(bytes, DType::U8, &gpu) {
                    Ok(piece) => taken.push(piece),
                    Err(_) => bytes /= 2,
                }
            }
            gpu.synchronize().unwrap();
        }
        if line.contains("going on with micro-batches of") {
            said = true;
            taken.clear();
            gpu.synchronize().unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "{log}");
    assert!(said, "memory has not run out\n{log}");
}

#[test]
fn what_is_not_there_is_said() {
    let folder = experiment(|config| config);
    let plan =
        |more: &[&str]| host(folder.path(), &[&["plan", "experiment.toml", "--summary"], more].concat());
    let text = fails(plan(&["--device", "gpu"]), 2);
    assert!(text.contains("--device gpu: there is no device \"gpu\"; devices are"), "{text}");
    let text = fails(plan(&["--device", "cpu", "--precision", "bf16"]), 2);
    assert!(text.contains("--precision bf16: the kernels for the CPU compute in fp32"), "{text}");
    let text = fails(plan(&["--device", "cpu", "--precision", "tf32"]), 2);
    assert!(text.contains("--precision tf32: tf32 is a format of NVIDIA's tensor cores"), "{text}");
    // A number that no machine has so many GPUs for.
    let text = fails(plan(&["--device", "cuda:99"]), 1);
    assert!(text.contains("the device cuda:99 cannot be used"), "{text}");
    let named = match cfg!(feature = "cuda") {
        true => ["is missing", "the driver goes up to", "there is no cuda:99"]
            .iter()
            .any(|part| text.contains(part)),
        false => text.contains("this build has no CUDA; `cargo build --release --features cuda`"),
    };
    assert!(named, "{text}");
    if !cfg!(all(target_os = "macos", feature = "metal")) {
        assert!(fails(plan(&["--device", "metal"]), 1).contains("the device metal cannot be used"));
    }
}

#[test]
fn info_says_what_this_machine_and_this_build_have() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = host(folder.path(), &["info"]);
    command.env("HF_HOME", folder.path().join("hf")).env_remove("HF_HUB_CACHE").env("HF_HUB_OFFLINE", "1");
    command.env("SLURM_CPUS_PER_TASK", "3");
    let (text, _) = succeeds(command);
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("program").contains("host 0."), "{text}");
    assert!(line("threads").contains("3, what the batch job was given"), "{text}");
    assert!(line("hub's files").contains("hf/hub, offline: HF_HUB_OFFLINE is set"), "{text}");
    assert!(line("methods").contains("lora 0.") && line("tasks").contains("sst5 0."), "{text}");
    if !cfg!(feature = "cuda") {
        assert!(line("cuda").contains("this build has no CUDA"), "{text}");
        assert!(line("auto").ends_with("cpu; in fp32"), "{text}");
    }
}

/// Libraries by the names that the program looks for, with one function: a driver that
/// goes up to this version.
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
fn libraries(driver: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("library.c");
    let version = format!("int cuDriverGetVersion(int *number) {{ *number = {driver}; return 0; }}\n");
    std::fs::write(&source, version).unwrap();
    let toolkit = candle_core::cuda::cudarc::driver::sys::CUDA_VERSION / 1000;
    let first = folder.path().join("libcuda.so.1");
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&first, &source]);
    assert!(compiler.status().unwrap().success());
    for name in
        [format!("libcublas.so.{toolkit}"), format!("libcublasLt.so.{toolkit}"), "libcurand.so.10".into()]
    {
        std::fs::copy(&first, folder.path().join(name)).unwrap();
    }
    folder
}

/// A build with CUDA starts where there is none, uses the CPU and says why; what is
/// asked of CUDA names the library that is missing, or the driver that is too old.
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_build_with_cuda_starts_where_there_is_none() {
    let experiment = experiment(|config| config);
    let with = |folder: &Path, arguments: &[&str]| {
        let mut command = host(experiment.path(), arguments);
        command.env("LD_LIBRARY_PATH", folder);
        command
    };
    let plan = ["plan", "experiment.toml", "--summary"];
    let expect = |folder: &Path, sentence: &str| {
        let text = fails(with(folder, &[&plan[..], &["--device", "cuda"]].concat()), 1);
        assert!(text.contains(sentence), "{text}");
        let (_, log) = succeeds(with(folder, &plan));
        assert!(log.contains("device auto: the CPU is used: ") && log.contains(sentence), "{log}");
        let (text, _) = succeeds(with(folder, &["info"]));
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(sentence), "{text}");
    };
    let old = libraries(11_080);
    expect(old.path(), "the driver goes up to CUDA 11.8 and this build needs");
    // No library, which hides one that the machine may have.
    std::fs::write(old.path().join("libcurand.so.10"), "").unwrap();
    expect(old.path(), "libcurand.so.10 is missing");
    // A driver that knows no call but that for its version has no GPU to show.
    let none = libraries(99_000);
    let text = fails(with(none.path(), &[&plan[..], &["--device", "cuda"]].concat()), 1);
    assert!(text.contains("there is no cuda:0: the driver shows 0 of them"), "{text}");
    let (_, log) = succeeds(with(none.path(), &plan));
    assert!(log.contains("device auto: the CPU is used: the driver shows no GPU"), "{log}");
}
