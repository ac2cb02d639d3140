//! Under the feature `cuda`: kernels of our own, compiled, and placeholders for the
//! libraries that a CUDA program is linked to, whose functions `device/stand_ins.rs`
//! defines.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What cudarc and candle's kernels ask the linker for. Where a toolkit has the real
/// library it is found as well, and left out because nothing of it is called.
const LIBRARIES: [&str; 6] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc", "cudart"];

const KERNELS: &str = "cuda/kernels.cu";
/// The GPU that is simulated on the processor.
const SIMULATED: &str = "cuda/simulated.cpp";

/// What kernels are compiled for: code for compute capabilities 8.0 and 9.0, and PTX,
/// of which a driver makes code for later ones.
const ARCHITECTURES: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"];

/// Contraction would round products elsewhere than a GPU's order of instructions does, and
/// shared memory is read as other types than it is written.
const FOR_PROCESSOR: &str = "-fPIC,-ffp-contract=off,-fno-strict-aliasing";
/// An archive without a member.
const EMPTY: &str = "!<arch>\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(sentence) = run() {
        println!("cargo::error={sentence}");
    }
}

fn run() -> Result<(), String> {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo has not set OUT_DIR")?);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        for library in LIBRARIES {
            let path = out.join(format!("lib{library}.a"));
            std::fs::write(&path, EMPTY).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    println!("cargo::rerun-if-changed=cuda");
    let generated = ARCHITECTURES.iter().flat_map(|architecture| ["-gencode", architecture]);
    let arguments: Vec<&str> = ["-fatbin", "-std=c++17", "-O3"].into_iter().chain(generated).collect();
    nvcc(&[KERNELS], &arguments, &out.join("kernels.fatbin"))?;
    // The same text for the processor, for tests and for the look at a GPU's results; and what
    // a GPU runs, on one that is simulated, for tests alone.
    let arguments = ["-lib", "-x", "c++", "-std=c++17", "-O2", "-Xcompiler", FOR_PROCESSOR];
    nvcc(&[KERNELS], &arguments, &out.join("libhost_kernels.a"))?;
    let arguments = [&arguments[..], &["-DSIMULATED"]].concat();
    nvcc(&[KERNELS, SIMULATED], &arguments, &out.join("libsimulated_kernels.a"))?;
    for library in ["host_kernels", "simulated_kernels"] {
        println!("cargo::rustc-link-lib=static={library}");
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}

/// Compiles the kernels with the toolkit's compiler, which cudarc looks for in the
/// path as well.
fn nvcc(texts: &[&str], arguments: &[&str], to: &Path) -> Result<(), String> {
    let output = Command::new("nvcc").args(arguments).args(texts).arg("-o").arg(to).output();
    let output = output.map_err(|error| {
        format!("nvcc cannot be started ({error}); the feature cuda is built with a CUDA toolkit in PATH")
    })?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("{} does not compile: {}", texts.join(", "), String::from_utf8_lossy(&output.stderr)))
        }
    }
}
