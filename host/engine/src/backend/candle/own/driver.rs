//! Kernels as the driver of a GPU knows them.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use candle_core::cuda::cudarc::driver::{CudaStream, DriverError, result, sys};

use super::arrays::Arrays;

type Result<T> = std::result::Result<T, DriverError>;

/// The compute capability from which on a kernel waits for the one before by itself.
const WAITS_BY_ITSELF: i32 = 9;

/// Kernels that are loaded on a GPU, and the stream that they run on.
pub struct Module {
    module: sys::CUmodule,
    stream: Arc<CudaStream>,
    /// Whether a kernel may be begun while the one before ends.
    early: bool,
    /// The device's multiprocessors, and bytes of shared memory that a block may have.
    pub multiprocessors: usize,
    pub shared_bytes: usize,
}

/// A kernel of a module.
#[derive(Clone, Copy)]
pub struct Function(sys::CUfunction);

// SAFETY: a driver's handles are of no thread.
unsafe impl Send for Module {}
unsafe impl Sync for Module {}
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

impl Module {
    /// Loads kernels for the stream's device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(image: &'static [u8], stream: Arc<CudaStream>) -> Result<Module> {
        let context = stream.context();
        context.bind_to_thread()?;
        use sys::CUdevice_attribute as Attribute;
        let early =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? >= WAITS_BY_ITSELF;
        let multiprocessors =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared_bytes =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        // SAFETY: the image is the compiler's, and says itself where it ends.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }?;
        Ok(Module { module, stream, early, multiprocessors, shared_bytes })
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// A kernel by its name, which may take so much shared memory.
    ///
    /// # Errors
    /// What the driver says.
    pub fn function(&self, name: &str, shared_bytes: usize) -> Result<Function> {
        let name = CString::new(name).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND))?;
        // SAFETY: the module is loaded as long as this lives.
        let function = unsafe { result::module::get_function(self.module, name) }?;
        if shared_bytes > 0 {
            // It may be more than 48 KiB.
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is the module's.
            unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }?;
        }
        Ok(Function(function))
    }

    /// Gives a kernel of so many blocks of threads to the stream. Where the GPU can, its blocks take
    /// their places while the last ones of the kernel before are at work: a kernel's first
    /// instruction waits until that one has ended (`cuda/instructions.cuh`).
    ///
    /// # Safety
    /// The kernel takes these two structures; arrays are as long as the numbers say, and end on the
    /// same stream.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn launch<N>(
        &self,
        Function(function): Function,
        [blocks, threads, shared_bytes]: [u32; 3],
        arrays: &Arrays,
        numbers: &N,
    ) -> Result<()> {
        self.stream.context().bind_to_thread()?;
        let mut early = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: Default::default(),
            value: sys::CUlaunchAttributeValue_union { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig_st {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(self.early),
        };
        let mut parameters: [*mut c_void; 2] =
            [(&raw const *arrays).cast_mut().cast(), (&raw const *numbers).cast_mut().cast()];
        // SAFETY: as the caller says; the driver copies the structures before it answers.
        unsafe {
            sys::cuLaunchKernelEx(&raw const config, function, parameters.as_mut_ptr(), ptr::null_mut())
        }
        .result()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: its functions are not called after it. A driver that says no has ended, and
            // the module with it.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}
