//! CUDA's libraries, opened when one of their functions is first called.
//!
//! A program that is linked to them does not start where they are not: on a login
//! node, say, or on a machine without a GPU. So the functions that candle calls are
//! defined here. Each jumps to the library's own function, once that is known; where
//! there is no library, it gives the error that the library gives without a GPU.
//! `cuda` looks for the libraries beforehand, so that nobody meets that error.
//!
//! The names are those that cudarc's own layers call, of every version of the
//! toolkit. What is missing here would be named by the linker.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use candle_core::cuda::cudarc::driver::sys::CUDA_VERSION;

/// A library, and what its functions answer where it is missing.
struct Library {
    stem: &'static str,
    /// Its interface's version; that of the toolkit's where it has none of its own.
    version: Option<u32>,
    missing: extern "C" fn() -> c_int,
    /// The loader's handle, or what it said.
    handle: OnceLock<Result<usize, String>>,
}

impl Library {
    const fn new(stem: &'static str, version: Option<u32>, missing: extern "C" fn() -> c_int) -> Library {
        Library { stem, version, missing, handle: OnceLock::new() }
    }

    /// `libcublas.so.13`
    fn name(&self) -> String {
        format!("{}.{}", self.stem, self.version.unwrap_or(CUDA_VERSION / 1000))
    }

    /// The library, opened for good the first time.
    fn open(&self) -> Result<*mut c_void, &str> {
        let opened = self.handle.get_or_init(|| load(&self.name()).map(|handle| handle as usize));
        opened.as_ref().map(|&handle| handle as *mut c_void).map_err(String::as_str)
    }
}

/// Opens a library; what the loader says is the error.
fn load(name: &str) -> Result<*mut c_void, String> {
    let name = CString::new(name).map_err(|error| error.to_string())?;
    // SAFETY: the names are those of CUDA's libraries, whose initialisers have no
    // effect on this process but their own.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: the loader's message is there until its next call, of which there is
    // none before it is copied.
    let message = unsafe { libc::dlerror() };
    Err(match message.is_null() {
        true => "the loader says nothing more".into(),
        // SAFETY: what is not null is a text that ends with a zero.
        false => unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned(),
    })
}

/// Answers with a library's code for an error.
extern "C" fn answer<const CODE: c_int>() -> c_int {
    CODE
}

/// CUDA_ERROR_NO_DEVICE, CUBLAS_STATUS_NOT_INITIALIZED (which is cublasLt's too),
/// CURAND_STATUS_INITIALIZATION_FAILED, NVRTC_ERROR_INTERNAL_ERROR.
static DRIVER: Library = Library::new("libcuda.so", Some(1), answer::<100>);
static CUBLAS: Library = Library::new("libcublas.so", None, answer::<1>);
static CUBLAS_LT: Library = Library::new("libcublasLt.so", None, answer::<1>);
static CURAND: Library = Library::new("libcurand.so", Some(10), answer::<203>);
static NVRTC: Library = Library::new("libnvrtc.so", None, answer::<11>);

/// Opens what a training needs. Kernels come compiled, so that nvrtc is not among it.
///
/// # Errors
/// The first library that is missing, what the loader says, and what brings it.
pub fn open() -> Result<(), (String, String, &'static str)> {
    let driver = "which the NVIDIA driver brings; without one there is no GPU to use";
    let toolkit = "which the CUDA toolkit of the build's version brings: load its module, or name its folder in \
                   LD_LIBRARY_PATH";
    for (library, from) in [(&DRIVER, driver), (&CUBLAS, toolkit), (&CUBLAS_LT, toolkit), (&CURAND, toolkit)]
    {
        library.open().map_err(|cause| (library.name(), cause.to_string(), from))?;
    }
    Ok(())
}

/// A function of a library. The assembly below knows that its address comes first.
#[repr(C)]
struct Function {
    /// Null until it is called.
    address: AtomicPtr<c_void>,
    /// Its name, which ends with a zero.
    name: &'static str,
    library: &'static Library,
}

impl Function {
    const fn new(name: &'static str, library: &'static Library) -> Function {
        Function { address: AtomicPtr::new(std::ptr::null_mut()), name, library }
    }
}

/// Looks a function up; answers its address or that of the library's answer. Why a
/// library cannot be opened says `open`, before anything is called; that one which is
/// there lacks a function is said here, because a code cannot tell it from another error.
extern "C" fn find(function: &Function) -> *const c_void {
    let found = match function.library.open() {
        Ok(handle) => {
            // SAFETY: the handle is the loader's, and the name ends with a zero.
            let found = unsafe { libc::dlsym(handle, function.name.as_ptr().cast::<c_char>()) };
            if found.is_null() {
                let (library, name) = (function.library.name(), function.name.trim_end_matches('\0'));
                // Without a place to say it the code alone has to do.
                let _ = writeln!(
                    io::stderr(),
                    "warning: {library} has no function {name}: it is of another version than this build's CUDA, \
                     and what needs the function fails"
                );
            }
            found
        }
        Err(_) => std::ptr::null_mut(),
    };
    let address = if found.is_null() { function.library.missing as *mut c_void } else { found };
    function.address.store(address, Ordering::Release);
    address
}

/// Keeps all arguments, has the function whose description is in r11 looked up, and
/// goes on in it. The stack is on a multiple of 16 at the call, as the System V
/// interface wants it: the caller's address and seven registers, then 128 bytes.
#[unsafe(naked)]
unsafe extern "C" fn first_call() {
    std::arch::naked_asm!(
        "push rbp",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 128",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "mov rdi, r11",
        "call {find}",
        "mov r11, rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 128",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rbp",
        "jmp r11",
        find = sym find,
    )
}

/// Defines functions of a library: each loads its address and jumps there, and the
/// first time looks it up.
macro_rules! stand_ins {
    ($library:ident: $($name:ident)*) => { $(
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)] // NVIDIA's names.
        unsafe extern "C" fn $name() {
            static FUNCTION: Function = Function::new(concat!(stringify!($name), "\0"), &$library);
            std::arch::naked_asm!(
                "lea r11, [rip + {function}]",
                "mov r10, [r11]",
                "test r10, r10",
                "jz {first_call}",
                "jmp r10",
                function = sym FUNCTION,
                first_call = sym first_call,
            )
        }
    )* };
}

stand_ins! { DRIVER:
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit
    cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit
    cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount
    cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2
    cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2
    cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery
    cuEventRecord cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute
    cuFuncSetAttribute cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphClone
    cuGraphDestroy cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload
    cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel
    cuLaunchKernelEx
    cuMemAdvise_v2 cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2
    cuMemFreeAsync cuMemFreeHost cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate
    cuMemPoolDestroy cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo
    cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2
    cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async cuMemsetD8_v2
    cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
    cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2
    cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

stand_ins! { CUBLAS:
    cublasCreate_v2 cublasDasum_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2
    cublasDgemv_v2 cublasGemmEx cublasGemmGroupedBatchedEx cublasGemmStridedBatchedEx
    cublasGetPointerMode_v2 cublasSasum_v2 cublasSetPointerMode_v2 cublasSetStream_v2
    cublasSgemmStridedBatched cublasSgemm_v2 cublasSgemv_v2
}

stand_ins! { CUBLAS_LT:
    cublasLtCreate cublasLtDestroy cublasLtLoggerOpenFile cublasLtLoggerSetLevel cublasLtMatmul
    cublasLtMatmulAlgoGetHeuristic cublasLtMatmulDescCreate cublasLtMatmulDescDestroy
    cublasLtMatmulDescSetAttribute cublasLtMatmulPreferenceCreate cublasLtMatmulPreferenceDestroy
    cublasLtMatmulPreferenceSetAttribute cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy
    cublasLtMatrixLayoutSetAttribute
}

stand_ins! { CURAND:
    curandCreateGenerator curandDestroyGenerator curandGenerate curandGenerateLogNormal
    curandGenerateLogNormalDouble curandGenerateLongLong curandGenerateNormal
    curandGenerateNormalDouble curandGeneratePoisson curandGenerateUniform
    curandGenerateUniformDouble curandSetGeneratorOffset curandSetPseudoRandomGeneratorSeed
    curandSetStream
}

stand_ins! { NVRTC:
    nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize
    nvrtcGetProgramLog nvrtcGetProgramLogSize
}

/// The runtime interface, which only candle's kernels for quantised models and for
/// mixtures of experts use. No model here is one, so that its functions refuse all:
/// cudaErrorStubLibrary. The first ones are called when a program starts.
macro_rules! refusals {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)] // NVIDIA's names.
        extern "C" fn $name() -> c_int {
            answer::<34>()
        }
    )* };
}

refusals! {
    __cudaRegisterFatBinary __cudaRegisterFatBinaryEnd __cudaUnregisterFatBinary __cudaRegisterFunction
    __cudaRegisterVar __cudaInitModule __cudaGetKernel __cudaLaunchKernel
    __cudaPushCallConfiguration __cudaPopCallConfiguration cudaLaunchKernel cudaLaunchKernelExC
    cudaMallocAsync cudaFreeAsync cudaMemsetAsync cudaGetDevice cudaGetLastError cudaFuncSetAttribute
}

#[cfg(test)]
mod tests {
    use super::*;

    static C: Library = Library::new("libc.so", Some(6), answer::<7>);
    static NOWHERE: Library = Library::new("libnowhere.so", Some(1), answer::<8>);

    #[test]
    fn what_a_library_lacks_gives_its_answer() {
        let known = Function::new("getpid\0", &C);
        // SAFETY: this is what the C library's getpid is.
        let getpid: extern "C" fn() -> c_int = unsafe { std::mem::transmute(find(&known)) };
        assert_eq!(getpid(), std::process::id() as c_int);
        for (library, code) in [(&C, 7), (&NOWHERE, 8)] {
            let unknown = Function::new("cublasOfAnotherDay\0", library);
            // SAFETY: the address is that of the library's answer.
            let answer: extern "C" fn() -> c_int = unsafe { std::mem::transmute(find(&unknown)) };
            assert_eq!(answer(), code);
        }
    }
}
