//! What a build with CUDA finds on a machine: the driver, its libraries, the GPUs and their
//! memory.

use std::sync::Arc;

use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result, sys};
use sys::CUmemPool_attribute as Attribute;

use super::{Cuda, Device, DeviceError, Gpu};

/// Opens CUDA's libraries, each of which may be missing.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn open() -> Result<(), DeviceError> {
    super::stand_ins::open()
        .map_err(|(name, cause, from)| DeviceError(format!("{name} is missing ({cause}), {from}")))
}

/// Elsewhere a program is linked to them, and does not start without.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn open() -> Result<(), DeviceError> {
    Ok(())
}

/// What there is of CUDA.
///
/// # Errors
/// What is missing, and how to get it.
pub fn cuda() -> Result<Cuda, DeviceError> {
    open()?;
    let build = version(sys::CUDA_VERSION);
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
    let count = match result::init() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
        started => started.and_then(|()| result::device::get_count()).map_err(wrong)?,
    };
    let gpus = (0..count as usize).map(gpu).collect::<Result<_, _>>().map_err(wrong)?;
    Ok(Cuda { driver, build, gpus })
}

fn gpu(number: usize) -> Result<Gpu, DriverError> {
    let context = CudaContext::new(number)?;
    let (free, total) = context.mem_get_info()?;
    let (major, minor) = context.compute_capability()?;
    // What this process keeps without using it is free to this process; of a GPU that has no pools
    // it keeps nothing.
    let of_pool = |attribute: Attribute| of_pool(&context, attribute).unwrap_or(0);
    let kept = of_pool(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
        .saturating_sub(of_pool(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT));
    Ok(Gpu {
        device: Device::Cuda(number),
        name: context.name()?,
        memory_bytes: total as u64,
        free_bytes: free as u64 + kept,
        capability: (major as u32, minor as u32),
    })
}

/// The most bytes that the process has had of the GPU's memory for arrays at one time.
/// What the context and cuBLAS take is not among it.
pub fn peak_memory(number: usize) -> Result<u64, DriverError> {
    of_pool(&*CudaContext::new(number)?, Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}

/// What the driver says of the pool that a GPU's arrays lie in.
fn of_pool(context: &CudaContext, attribute: Attribute) -> Result<u64, DriverError> {
    let mut number = 0u64;
    // SAFETY: the device is the context's, and the attribute is a number of 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut number).cast())?;
    }
    Ok(number)
}

/// The memory of a GPU's arrays, which the process keeps when they end. The driver would take
/// it back whenever it is waited for, and give it anew in the next step. What is kept goes
/// back when this is dropped.
pub struct KeptMemory(Arc<CudaContext>);

impl KeptMemory {
    /// Keeps memory of a GPU from now on; none of one whose arrays lie in no pool.
    ///
    /// # Errors
    /// What the driver says.
    pub fn of(number: usize) -> Result<Option<KeptMemory>, DriverError> {
        let context = CudaContext::new(number)?;
        let pools = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        if context.attribute(pools)? == 0 {
            return Ok(None);
        }
        let memory = KeptMemory(context);
        memory.keep(u64::MAX)?;
        Ok(Some(memory))
    }

    /// Waits for the GPU, and gives back what no array lies in.
    ///
    /// # Errors
    /// What the driver says.
    pub fn give_back(&self) -> Result<(), DriverError> {
        self.0.synchronize()?;
        // SAFETY: the pool is the device's own.
        unsafe { result::mem_pool::trim_to(result::device::get_default_mem_pool(self.0.cu_device())?, 0) }
    }

    /// Keeps so many bytes at most.
    fn keep(&self, mut bytes: u64) -> Result<(), DriverError> {
        let attribute = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is the context's, and the attribute is a number of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.0.cu_device())?;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut bytes).cast())
        }
    }
}

impl Drop for KeptMemory {
    fn drop(&mut self) {
        // A driver that fails here has failed before, where it was heard.
        let _ = self.keep(0).and_then(|()| self.give_back());
    }
}

/// 12040 is 12.4.
fn version(number: u32) -> (u32, u32) {
    (number / 1000, number % 1000 / 10)
}
