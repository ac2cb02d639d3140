//! What a build with CUDA finds on a machine: the driver, its libraries, the GPUs.

use std::ffi::{CStr, CString};

use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result, sys};

use super::{Cuda, Device, DeviceError, Gpu};

/// Libraries that the build calls, and what brings them. The names carry the
/// toolkit's major version.
fn libraries(major: u32) -> [(String, &'static str); 4] {
    let toolkit = "which the CUDA toolkit of the build's version brings: load its module, or name its folder in \
                   LD_LIBRARY_PATH";
    [
        ("libcuda.so.1".into(), "which the NVIDIA driver brings; without one there is no GPU to use"),
        (format!("libcublas.so.{major}"), toolkit),
        (format!("libcublasLt.so.{major}"), toolkit),
        ("libcurand.so.10".into(), toolkit),
    ]
}

/// What there is of CUDA.
///
/// # Errors
/// What is missing, and how to get it.
pub fn cuda() -> Result<Cuda, DeviceError> {
    let build = version(sys::CUDA_VERSION);
    for (name, from) in libraries(build.0) {
        load(&name).map_err(|cause| DeviceError(format!("{name} is missing ({cause}), {from}")))?;
    }
    let wrong = |error: DriverError| DeviceError(format!("CUDA's driver does not work: {error}"));
    let mut number = 0;
    // SAFETY: the call writes one number.
    unsafe { sys::cuDriverGetVersion(&mut number) }.result().map_err(wrong)?;
    let driver = version(number as u32);
    if driver < build {
        return Err(DeviceError(format!(
            "the driver goes up to CUDA {}.{} and this build needs {}.{}: a newer driver is needed, or a build with an \
             older toolkit",
            driver.0, driver.1, build.0, build.1
        )));
    }
    result::init().map_err(wrong)?;
    let count = result::device::get_count().map_err(wrong)?;
    let gpus = (0..count as usize).map(gpu).collect::<Result<_, _>>().map_err(wrong)?;
    Ok(Cuda { driver, build, gpus })
}

fn gpu(number: usize) -> Result<Gpu, DriverError> {
    let context = CudaContext::new(number)?;
    let (free, total) = context.mem_get_info()?;
    let (major, minor) = context.compute_capability()?;
    Ok(Gpu {
        device: Device::Cuda(number),
        name: context.name()?,
        memory_bytes: total as u64,
        free_bytes: free as u64,
        capability: (major as u32, minor as u32),
    })
}

/// 12040 is 12.4.
fn version(number: u32) -> (u32, u32) {
    (number / 1000, number % 1000 / 10)
}

/// Loads a library for good.
fn load(name: &str) -> Result<(), String> {
    let name = CString::new(name).map_err(|error| error.to_string())?;
    // SAFETY: the names are those of CUDA's libraries, whose initialisers have
    // no effect on this process but their own.
    if unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null() {
        // SAFETY: the loader's message is there until its next call, of which
        // there is none before it is copied.
        let message = unsafe { libc::dlerror() };
        let unsaid = || "the loader says nothing".to_string();
        // SAFETY: what is not null is a text that ends with a zero.
        return Err(match message.is_null() {
            true => unsaid(),
            false => unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned(),
        });
    }
    Ok(())
}
