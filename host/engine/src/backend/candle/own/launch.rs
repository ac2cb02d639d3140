//! Running a kernel: on a CUDA device its compiled code, on candle's CPU device the
//! same text compiled for the processor.

use std::sync::Arc;

use candle_core::cuda::cudarc::driver::{
    CudaModule, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PushKernelArg, sys,
};
use candle_core::cuda::cudarc::nvrtc::Ptx;
use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor};
use half::bf16;

use super::numbers::Numbers;
use crate::backend::BackendError;
use crate::device::Precision;

type Result<T> = std::result::Result<T, BackendError>;

/// The kernels for compute capabilities 8.0 and 9.0, and PTX for later ones.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Inputs and outputs of a kernel, as addresses; 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Arrays {
    inputs: [u64; 8],
    outputs: [u64; 4],
}

// SAFETY: plain numbers, as the kernels' structure of pointers is.
unsafe impl DeviceRepr for Arrays {}

/// A kernel by its name there, and the same for the processor.
pub struct Kernel<N: 'static> {
    pub name: &'static str,
    host: unsafe extern "C" fn(*const Arrays, *const N),
    /// Bytes of shared memory that a block has, where a block works on a row and not
    /// a warp.
    shared: Option<unsafe extern "C" fn() -> i64>,
}

impl<N> Kernel<N> {
    fn shared_bytes(&self) -> usize {
        // SAFETY: the function computes a constant.
        self.shared.map_or(0, |shared| unsafe { shared() } as usize)
    }
}

macro_rules! kernels {
    (@shared) => { None };
    (@shared $shared:ident) => { Some($shared) };
    ($($constant:ident $name:ident $host:ident $numbers:ident $(($shared:ident))?)*) => {
        unsafe extern "C" {
            $(fn $host(arrays: *const Arrays, numbers: *const super::numbers::$numbers);
            $(fn $shared() -> i64;)?)*
        }
        $(pub const $constant: Kernel<super::numbers::$numbers> = Kernel {
            name: stringify!($name),
            host: $host,
            shared: kernels!(@shared $($shared)?),
        };)*
    };
}

kernels! {
    ROW_DROPOUT row_dropout host_row_dropout RowDropout
    ATTENTION_FACTORS attention_factors host_attention_factors AttentionFactors
    LAYER_NORM layer_norm host_layer_norm Norm
    LAYER_NORM_BACKWARD layer_norm_backward host_layer_norm_backward Norm
    RECOVER recover host_recover Norm
    HALVES halves host_halves Halves
    ADD_BIAS add_bias host_add_bias AddBias
    ADD_DROPPED add_dropped host_add_dropped RowDropout
    ROW_SUMS row_sums host_row_sums RowSums
    SQUARES squares host_squares Squares
    ACTIVATE activate host_activate Activate
    ACTIVATE_BACKWARD activate_backward host_activate_backward Activate
    CROSS_ENTROPY cross_entropy host_cross_entropy CrossEntropy
    CROSS_ENTROPY_BACKWARD cross_entropy_backward host_cross_entropy_backward CrossEntropy
    ADAMW adamw host_adamw AdamW
    ATTENTION_32 attention_32 host_attention_32 Attention (host_attention_32_shared)
    ATTENTION_32_TF32 attention_32_tf32 host_attention_32_tf32 Attention (host_attention_32_tf32_shared)
    ATTENTION_64 attention_64 host_attention_64 Attention (host_attention_64_shared)
    ATTENTION_64_TF32 attention_64_tf32 host_attention_64_tf32 Attention (host_attention_64_tf32_shared)
    ATTENTION_QUERIES_32 attention_queries_32 host_attention_queries_32 Attention (host_attention_queries_32_shared)
    ATTENTION_QUERIES_32_TF32 attention_queries_32_tf32 host_attention_queries_32_tf32 Attention (host_attention_queries_32_tf32_shared)
    ATTENTION_QUERIES_64 attention_queries_64 host_attention_queries_64 Attention (host_attention_queries_64_shared)
    ATTENTION_QUERIES_64_TF32 attention_queries_64_tf32 host_attention_queries_64_tf32 Attention (host_attention_queries_64_tf32_shared)
    ATTENTION_KEYS_32 attention_keys_32 host_attention_keys_32 Attention (host_attention_keys_32_shared)
    ATTENTION_KEYS_32_TF32 attention_keys_32_tf32 host_attention_keys_32_tf32 Attention (host_attention_keys_32_tf32_shared)
    ATTENTION_KEYS_64 attention_keys_64 host_attention_keys_64 Attention (host_attention_keys_64_shared)
    ATTENTION_KEYS_64_TF32 attention_keys_64_tf32 host_attention_keys_64_tf32 Attention (host_attention_keys_64_tf32_shared)
}

/// Threads of a block: eight warps, each with a row of its own, or all with one.
const BLOCK: u32 = 256;
/// Blocks of a launch at most; beyond, each warp or block takes several rows.
const BLOCKS: usize = 65_536;

/// The kernels on a device.
#[derive(Clone)]
pub struct Own {
    /// None on candle's CPU device.
    cuda: Option<Cuda>,
    /// Whether tensor cores make the products of attention's tiles, of numbers rounded to
    /// TF32; else they are in fp32.
    pub tensor_cores: bool,
}

impl Own {
    /// The kernels, loaded on a device.
    ///
    /// # Errors
    /// A device that takes no kernels of CUDA.
    pub fn new(device: &Device) -> Result<Own> {
        let cuda = match device {
            Device::Cpu => None,
            Device::Cuda(device) => {
                let stream = device.cuda_stream();
                let module = stream.context().load_module(Ptx::from_binary(IMAGE.to_vec()));
                Some((module.map_err(|error| wrong("the kernels do not load", error))?, stream))
            }
            Device::Metal(_) => return Err(BackendError::Wrong("Metal takes no kernels of CUDA".into())),
        };
        Ok(Own { cuda, tensor_cores: false })
    }

    /// The same kernels, which compute in another precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Own {
        Own { tensor_cores: precision != Precision::Fp32, ..self }
    }

    /// Runs a kernel on inputs, floats or u32, some of which may be left out. Makes
    /// outputs of so many floats each, flat; of 0 for one that is not wanted.
    ///
    /// # Errors
    /// Memory that is not to be had; what the driver says.
    pub fn run<N: Numbers + DeviceRepr, const OUTPUTS: usize>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        outputs: [usize; OUTPUTS],
    ) -> Result<[Tensor; OUTPUTS]> {
        let inputs = inputs.iter().map(|input| input.map(Tensor::contiguous).transpose());
        let inputs: Vec<Option<Tensor>> = inputs.collect::<candle_core::Result<_>>()?;
        match &self.cuda {
            None => {
                let read: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
                on_cpu(kernel, numbers, &read, outputs)
            }
            Some(cuda) => {
                let device = inputs.iter().flatten().next().map(Tensor::device);
                let device = device.ok_or_else(|| BackendError::Wrong("a kernel without input".into()))?;
                // SAFETY: the kernel writes all elements of what it is given to write.
                let empty = |&count: &usize| unsafe { Tensor::empty(count, DType::F32, device) };
                let made = outputs.iter().map(empty).collect::<candle_core::Result<Vec<_>>>()?;
                let written: Vec<Option<&Tensor>> =
                    made.iter().map(|tensor| (tensor.elem_count() > 0).then_some(tensor)).collect();
                let read: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
                launch(cuda, kernel, numbers, &read, &written)?;
                Ok(made.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for")))
            }
        }
    }

    /// As [`Self::run`], on arrays that lie where the inputs say, which are contiguous.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_in_place<N: Numbers + DeviceRepr>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[&Tensor],
    ) -> Result<()> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        match &self.cuda {
            None => on_cpu(kernel, numbers, &inputs, []).map(|[]| ()),
            Some(cuda) => launch(cuda, kernel, numbers, &inputs, &[]),
        }
    }

    /// As [`Self::run`], whose only output is an array that there is, contiguous, of f32
    /// or bf16, and of no other tensor that is read later. Kernels add to it or write to it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_into<N: Numbers + DeviceRepr>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        into: &Tensor,
    ) -> Result<()> {
        let inputs = inputs.iter().map(|input| input.map(Tensor::contiguous).transpose());
        let inputs = inputs.collect::<candle_core::Result<Vec<Option<Tensor>>>>()?;
        let inputs = inputs.iter().map(Option::as_ref).collect();
        Ok(into.inplace_op1(&InPlace { own: self, kernel, numbers, inputs })?)
    }

    /// Whether the device has the shared memory that a kernel asks for.
    ///
    /// # Errors
    /// What the driver says.
    pub fn takes<N>(&self, kernel: &Kernel<N>) -> Result<bool> {
        let Some((_, stream)) = &self.cuda else { return Ok(true) };
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = stream.context().attribute(attribute).map_err(|error| wrong(kernel.name, error))?;
        Ok(kernel.shared_bytes() <= most as usize)
    }

    /// Whether this is a GPU, in whose memory arrays have addresses of their own.
    pub fn on_gpu(&self) -> bool {
        self.cuda.is_some()
    }

    /// The address of a contiguous tensor's first element on the GPU.
    ///
    /// # Errors
    /// A tensor that lies elsewhere.
    pub fn address(&self, tensor: &Tensor) -> Result<u64> {
        let Some((_, stream)) = &self.cuda else {
            return Err(BackendError::Wrong("the tensor is not on a GPU".into()));
        };
        Ok(address(tensor, stream)?)
    }
}

/// A kernel that writes to an array that there is.
struct InPlace<'a, N: 'static> {
    own: &'a Own,
    kernel: &'a Kernel<N>,
    numbers: N,
    inputs: Vec<Option<&'a Tensor>>,
}

impl<N: Numbers + DeviceRepr> InplaceOp1 for InPlace<'_, N> {
    fn name(&self) -> &'static str {
        self.kernel.name
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let first = layout.start_offset();
        let place = match storage {
            CpuStorage::F32(elements) => elements[first..].as_mut_ptr() as u64,
            CpuStorage::BF16(elements) => elements[first..].as_mut_ptr() as u64,
            _ => candle_core::bail!("{}: an array of another kind", self.kernel.name),
        };
        call(self.kernel, self.numbers, &self.inputs, [place, 0, 0, 0]).map_err(candle_core::Error::msg)
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some(cuda) = &self.own.cuda else { candle_core::bail!("the kernels are not on the GPU") };
        let mut arrays = read(&self.inputs, &cuda.1)?;
        arrays.outputs[0] = place(storage, layout, &cuda.1)?;
        start(cuda, self.kernel, self.numbers, &arrays).map_err(candle_core::Error::msg)
    }
}

fn wrong(what: &str, error: impl std::fmt::Display) -> BackendError {
    BackendError::Wrong(format!("{what}: {error}"))
}

/// The address of a contiguous tensor's first element, f32, u32 or bf16, on a GPU. The work
/// of one stream is done in order, so that it may be used as long as the tensor is there.
pub fn address(tensor: &Tensor, stream: &CudaStream) -> candle_core::Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(cuda) = &*storage else { candle_core::bail!("a kernel's array is not on the GPU") };
    place(cuda, layout, stream)
}

/// As [`address`], of an array on a GPU.
pub fn place(storage: &CudaStorage, layout: &Layout, stream: &CudaStream) -> candle_core::Result<u64> {
    use candle_core::backend::BackendStorage;

    let dtype = storage.dtype();
    let start = match dtype {
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(stream).0,
        _ => storage.as_cuda_slice::<f32>()?.device_ptr(stream).0,
    };
    Ok(start + (layout.start_offset() * dtype.size_in_bytes()) as u64)
}

/// The addresses of inputs on a GPU.
fn read(inputs: &[Option<&Tensor>], stream: &CudaStream) -> candle_core::Result<Arrays> {
    let mut arrays = Arrays::default();
    for (place, tensor) in arrays.inputs.iter_mut().zip(inputs) {
        if let Some(tensor) = tensor {
            *place = address(tensor, stream)?;
        }
    }
    Ok(arrays)
}

type Cuda = (Arc<CudaModule>, Arc<CudaStream>);

fn launch<N: Numbers + DeviceRepr>(
    cuda: &Cuda,
    kernel: &Kernel<N>,
    numbers: N,
    inputs: &[Option<&Tensor>],
    outputs: &[Option<&Tensor>],
) -> Result<()> {
    let mut arrays = read(inputs, &cuda.1)?;
    for (place, tensor) in arrays.outputs.iter_mut().zip(outputs) {
        if let Some(tensor) = tensor {
            *place = address(tensor, &cuda.1)?;
        }
    }
    start(cuda, kernel, numbers, &arrays)
}

fn start<N: Numbers + DeviceRepr>(
    (module, stream): &Cuda,
    kernel: &Kernel<N>,
    numbers: N,
    arrays: &Arrays,
) -> Result<()> {
    let rows = if kernel.shared.is_some() { 1 } else { BLOCK as usize / 32 };
    let blocks = numbers.rows().div_ceil(rows).min(BLOCKS) as u32;
    if blocks == 0 {
        return Ok(());
    }
    let shared = kernel.shared_bytes();
    let launched = || -> std::result::Result<(), DriverError> {
        let function = module.load_function(kernel.name)?;
        if shared > 0 {
            // More than 48 KiB are asked for.
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32)?;
        }
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (BLOCK, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: the kernel takes these two structures; the arrays are as long as the
        // numbers say, and freed on the same stream.
        unsafe { stream.launch_builder(&function).arg(arrays).arg(&numbers).launch(config) }.map(|_| ())
    };
    launched().map_err(|error| wrong(kernel.name, error))
}

fn on_cpu<N: Numbers, const OUTPUTS: usize>(
    kernel: &Kernel<N>,
    numbers: N,
    inputs: &[Option<&Tensor>],
    outputs: [usize; OUTPUTS],
) -> Result<[Tensor; OUTPUTS]> {
    let mut made = outputs.map(|count| vec![0f32; count]);
    let mut places = [0; 4];
    for (place, elements) in places.iter_mut().zip(&mut made) {
        if !elements.is_empty() {
            *place = elements.as_mut_ptr() as u64;
        }
    }
    call(kernel, numbers, inputs, places)?;
    let tensor = |elements: Vec<f32>| {
        let count = elements.len();
        Tensor::from_vec(elements, count, &Device::Cpu)
    };
    let tensors = made.into_iter().map(tensor).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(tensors.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for")))
}

/// Calls the text for the processor; outputs are addresses.
fn call<N: Numbers>(
    kernel: &Kernel<N>,
    numbers: N,
    inputs: &[Option<&Tensor>],
    outputs: [u64; 4],
) -> Result<()> {
    let guards: Vec<_> = inputs.iter().map(|input| input.map(Tensor::storage_and_layout)).collect();
    let mut arrays = Arrays { outputs, ..Arrays::default() };
    for (place, guard) in arrays.inputs.iter_mut().zip(&guards) {
        let Some((storage, layout)) = guard else { continue };
        let address = match &**storage {
            Storage::Cpu(CpuStorage::F32(elements)) => elements[layout.start_offset()..].as_ptr() as u64,
            Storage::Cpu(CpuStorage::U32(elements)) => elements[layout.start_offset()..].as_ptr() as u64,
            _ => return Err(BackendError::Wrong(format!("{}: an array of another kind", kernel.name))),
        };
        *place = address;
    }
    // SAFETY: the kernel takes these two structures; the arrays are as long as the
    // numbers say.
    unsafe { (kernel.host)(&raw const arrays, &raw const numbers) };
    Ok(())
}
