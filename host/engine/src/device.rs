//! Devices: what can run a program, and what of it this build and this machine
//! have.
//!
//! The CPU has kernels of our own. Every other device is candle's; its CPU device
//! among them, on which anybody can look at what a GPU would compute.

#[cfg(feature = "cuda")]
mod cuda;
mod environment;
mod peak;
mod precision;
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
mod stand_ins;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::backend::candle::{ATTENTION_COLUMNS, Candle};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, BackendError};
use crate::kernels::parallel::Threads;
use crate::machine;
use crate::train::memory::MICRO_BATCH_ROWS;

pub use environment::{copies_beside, keeps_memory};
pub use peak::Peak;
pub use precision::{Precision, Target};

/// What computes. Written `cpu`, `cuda`, `cuda:1`, `metal` or `candle-cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    Cpu,
    /// A GPU of NVIDIA's, by its number among those that the process sees.
    Cuda(usize),
    Metal,
    /// The second backend on candle's CPU device: slow, for comparison.
    CandleCpu,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cuda(number) => write!(f, "cuda:{number}"),
            other => f.write_str(other.kind()),
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Device, DeviceError> {
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "metal" => Ok(Device::Metal),
            "candle-cpu" => Ok(Device::CandleCpu),
            other => {
                let number = other.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                let unknown = || DeviceError(format!("there is no device \"{other}\"; {KNOWN}"));
                number.map(Device::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Device, DeviceError> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

const KNOWN: &str = "devices are \"cpu\", \"cuda\", \"cuda:1\", \"metal\" and \"candle-cpu\"";

/// Why a device cannot be used, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub device: Device,
    pub name: String,
    pub memory_bytes: u64,
    /// What no process has taken.
    pub free_bytes: u64,
    /// Major and minor number of its compute capability.
    pub capability: (u32, u32),
}

/// What this build and this machine have of CUDA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// The CUDA version, major and minor, up to which the driver goes, and that of
    /// the build.
    pub driver: (u32, u32),
    pub build: (u32, u32),
    pub gpus: Vec<Gpu>,
}

impl Device {
    /// The word without the number.
    pub fn kind(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal => "metal",
            Device::CandleCpu => "candle-cpu",
        }
    }

    /// A backend on the device. `threads` are those of our own kernels.
    ///
    /// # Errors
    /// A device that this build or this machine does not have; a precision in
    /// which it does not compute.
    pub fn backend(self, threads: usize, precision: Precision) -> Result<Box<dyn Backend>, DeviceError> {
        self.computes(precision)?;
        let wrong = |error: BackendError| match error.is_out_of_memory() {
            true => {
                DeviceError(format!("{self} has not the memory to begin with; other processes may hold it"))
            }
            false => DeviceError(format!("{self} cannot be used: {error}")),
        };
        let candle = |device: candle_core::Result<candle_core::Device>| match device {
            Ok(device) => Ok(Box::new(Candle::new(device).in_precision(precision)) as Box<dyn Backend>),
            Err(error) => Err(wrong(error.into())),
        };
        match self {
            Device::Cpu => Ok(Box::new(Cpu::new(threads).map_err(wrong)?)),
            Device::CandleCpu => candle(Ok(candle_core::Device::Cpu)),
            Device::Cuda(number) => {
                environment::check()?;
                let kernels = self.gpu()?.is_some_and(|gpu| gpu.kernels().is_ok());
                candle_core::cuda::set_gemm_reduced_precision_f32(precision == Precision::Tf32);
                let device = candle_core::Device::new_cuda(number).map_err(|error| wrong(error.into()))?;
                let backend = match kernels {
                    true => Candle::with_kernels(device),
                    false => Ok(Candle::new(device)),
                };
                let backend = match copies_beside() {
                    true => backend.and_then(Candle::with_copies_beside),
                    false => backend,
                };
                #[cfg(feature = "cuda")]
                let backend = match keeps_memory() {
                    true => backend.and_then(|backend| backend.with_kept_memory(number)),
                    false => backend,
                };
                Ok(Box::new(backend.map_err(wrong)?.in_precision(precision)))
            }
            Device::Metal => {
                metal()?;
                candle(candle_core::Device::new_metal(0))
            }
        }
    }

    /// # Errors
    /// A precision in which the device does not compute.
    pub fn computes(self, precision: Precision) -> Result<(), DeviceError> {
        match (precision, self) {
            (Precision::Fp32, _) | (Precision::Tf32, Device::Cuda(_)) => Ok(()),
            (Precision::Bf16, Device::Cpu) => Err(DeviceError(
                "the kernels for the CPU compute in fp32; bf16 is computed on cuda, metal and candle-cpu"
                    .into(),
            )),
            (Precision::Bf16, _) => Ok(()),
            (Precision::Tf32, other) => Err(DeviceError(format!(
                "tf32 is a format of NVIDIA's tensor cores, and the device is {other}, which computes in fp32"
            ))),
        }
    }

    /// What the driver says of a GPU; none of other devices.
    ///
    /// # Errors
    /// CUDA that cannot be used; a number that no GPU has.
    pub fn gpu(self) -> Result<Option<Gpu>, DeviceError> {
        let Device::Cuda(number) = self else { return Ok(None) };
        let gpus = cuda()?.gpus;
        let count = gpus.len();
        gpus.into_iter().nth(number).map(Some).ok_or_else(|| {
            let seen = std::env::var("CUDA_VISIBLE_DEVICES");
            let seen = seen.map_or(String::new(), |seen| format!(" (CUDA_VISIBLE_DEVICES is \"{seen}\")"));
            DeviceError(format!("there is no {self}: the driver shows {count} of them, from cuda:0 on{seen}"))
        })
    }

    /// Bytes of memory that a training on the device can take; `None` where that
    /// is not known.
    ///
    /// # Errors
    /// As [`Self::gpu`].
    pub fn available_memory(self) -> Result<Option<u64>, DeviceError> {
        match self {
            Device::Cpu | Device::CandleCpu => Ok(machine::available_memory()),
            Device::Cuda(_) => Ok(self.gpu()?.map(|gpu| gpu.free_bytes)),
            Device::Metal => Ok(None),
        }
    }

    /// Large matrix products, which show again and again what the device reaches.
    ///
    /// # Errors
    /// As [`Self::backend`].
    pub fn peak(self, threads: usize, precision: Precision) -> Result<Peak, DeviceError> {
        let candle = |device: candle_core::Result<candle_core::Device>| {
            device
                .map_err(BackendError::from)
                .and_then(|device| Peak::on_candle(device, precision.into()))
                .map_err(|error| DeviceError(format!("{self} cannot be measured: {error}")))
        };
        match self {
            Device::Cpu => {
                let threads = Threads::new(threads).map_err(|error| DeviceError(error.to_string()))?;
                Ok(Peak::on_threads(threads))
            }
            Device::CandleCpu => candle(Ok(candle_core::Device::Cpu)),
            Device::Cuda(number) => candle(candle_core::Device::new_cuda(number)),
            Device::Metal => candle(candle_core::Device::new_metal(0)),
        }
    }

    /// The most bytes that tensors have taken on a device with memory of its own, and
    /// else the most that this process has taken.
    pub fn peak_memory(self) -> u64 {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(number) = self
            && let Ok(bytes) = cuda::peak_memory(number)
        {
            return bytes;
        }
        machine::peak_memory()
    }

    /// Rows of a micro-batch at most, but for small models on a processor
    /// ([`micro_batch_rows`](crate::train::memory::micro_batch_rows)). A GPU needs many at
    /// a time; on a processor more make products little faster.
    pub fn micro_batch_rows(self) -> usize {
        match self {
            Device::Cpu | Device::CandleCpu => MICRO_BATCH_ROWS,
            Device::Metal => 8 * MICRO_BATCH_ROWS,
            Device::Cuda(_) => 32 * MICRO_BATCH_ROWS,
        }
    }

    /// Columns of a head up to which attention within sequences is computed by kernels of
    /// our own, which make no array of scores; 0 where there are none on the device.
    pub fn attention_columns(self) -> usize {
        match self.gpu() {
            Ok(Some(gpu)) if gpu.kernels().is_ok() => ATTENTION_COLUMNS,
            _ => 0,
        }
    }

    /// The device that a machine should be used with: the GPU that has the most
    /// free memory, else Metal's, else the CPU; and why, where there is something
    /// to say.
    pub fn automatic() -> (Device, Option<String>) {
        let cuda = cuda();
        if let Ok(Cuda { gpus, .. }) = &cuda
            && let Some(gpu) = gpus.iter().max_by_key(|gpu| gpu.free_bytes)
        {
            return (gpu.device, Some(format!("{} is used: {}", gpu.device, gpu.words())));
        }
        if metal().is_ok() {
            return (Device::Metal, Some("metal is used".into()));
        }
        let expected = cfg!(feature = "cuda") || Path::new("/dev/nvidiactl").exists();
        let why = match cuda {
            Err(DeviceError(sentence)) => sentence,
            Ok(_) => "the driver shows no GPU".into(),
        };
        (Device::Cpu, expected.then(|| format!("the CPU is used: {why}")))
    }
}

impl Gpu {
    /// Whether kernels of our own are used.
    ///
    /// # Errors
    /// Why they are not.
    pub fn kernels(&self) -> Result<(), String> {
        let (major, minor) = self.capability;
        match environment::composes() {
            Some(why) => Err(why),
            None if self.capability < (8, 0) => {
                Err(format!("there are none for compute capability {major}.{minor}"))
            }
            None => Ok(()),
        }
    }

    /// `NVIDIA H100 80GB HBM3, compute capability 9.0, 78.5 of 79.2 GiB free`
    pub fn words(&self) -> String {
        let gibi = |bytes: u64| bytes as f64 / 1_073_741_824.0;
        let (major, minor) = self.capability;
        format!(
            "{}, compute capability {major}.{minor}, {:.1} of {:.1} GiB free",
            self.name,
            gibi(self.free_bytes),
            gibi(self.memory_bytes)
        )
    }
}

/// What there is of CUDA.
///
/// # Errors
/// What is missing, and how to get it.
#[cfg(not(feature = "cuda"))]
pub fn cuda() -> Result<Cuda, DeviceError> {
    Err(DeviceError(
        "this build has no CUDA; `cargo build --release --features cuda` makes one that has, where a CUDA toolkit is"
            .into(),
    ))
}

/// What there is of Apple's Metal.
///
/// # Errors
/// What is missing, and how to get it.
pub fn metal() -> Result<(), DeviceError> {
    let missing = match (cfg!(target_os = "macos"), cfg!(feature = "metal")) {
        (true, true) => return Ok(()),
        (true, false) => {
            "this build has no Metal; `cargo build --release --features metal` makes one that has"
        }
        (false, _) => "Metal is there on macOS alone",
    };
    Err(DeviceError(missing.into()))
}

#[cfg(feature = "cuda")]
pub use cuda::{KeptMemory, cuda};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_as_they_are_read() {
        for text in ["cpu", "metal", "candle-cpu", "cuda:0", "cuda:3"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            assert!(text.parse::<Device>().unwrap_err().0.contains("devices are"), "{text}");
        }
    }

    #[test]
    fn what_a_device_does_not_compute_is_refused() {
        for device in [Device::Cpu, Device::CandleCpu, Device::Metal] {
            assert!(device.computes(Precision::Fp32).is_ok());
            assert!(device.computes(Precision::Tf32).unwrap_err().0.contains("tensor cores"));
            assert_eq!(device.computes(Precision::Bf16).is_err(), device == Device::Cpu);
        }
        assert!(Device::Cuda(1).computes(Precision::Tf32).is_ok());
    }

    /// A machine without a GPU is used with its CPU, and what is asked of CUDA ends
    /// with a sentence whether the build has it or not.
    #[test]
    fn what_is_missing_is_said() {
        let (device, why) = Device::automatic();
        match cuda() {
            Ok(cuda) if !cuda.gpus.is_empty() => assert_eq!(device.kind(), "cuda"),
            Ok(_) => assert!(Device::Cuda(0).gpu().unwrap_err().0.contains("there is no cuda:0")),
            Err(error) => {
                let named = match cfg!(feature = "cuda") {
                    true => why.is_some_and(|why| why.contains(&error.0)),
                    false => error.0.contains("--features cuda"),
                };
                assert!(named, "{error}");
                assert!(Device::Cuda(0).backend(1, Precision::Fp32).is_err());
            }
        }
    }
}
