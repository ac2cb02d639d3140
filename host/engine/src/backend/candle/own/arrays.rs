//! The arrays that a kernel is given, by their addresses and types.

use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::{CudaStream, DevicePtr, DeviceRepr};
use candle_core::{CpuStorage, CudaStorage, DType, Layout, Storage, Tensor};
use half::bf16;

/// Inputs of a kernel at most.
pub const INPUTS: usize = 12;

/// Inputs and outputs of a kernel, as addresses; 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrays {
    pub inputs: [u64; INPUTS],
    pub outputs: [u64; 4],
    /// Bits of those that hold bf16, outputs behind inputs.
    halves: u32,
    unused: u32,
}

impl Arrays {
    /// Notes the type of an array, by its number among inputs and outputs.
    pub fn note(&mut self, number: usize, dtype: DType) {
        if dtype == DType::BF16 {
            self.halves |= 1 << number;
        }
    }
}

/// An output that a kernel makes: its elements, and whether they are fp32 or bf16.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub count: usize,
    pub dtype: DType,
}

impl From<usize> for Made {
    fn from(count: usize) -> Made {
        Made { count, dtype: DType::F32 }
    }
}

// SAFETY: plain numbers, as the kernels' structure of pointers is.
unsafe impl DeviceRepr for Arrays {}

/// The address of a contiguous tensor's first element, f32, u32 or bf16, on a GPU. The work
/// of one stream is done in order, so that it may be used as long as the tensor is there.
pub fn address(tensor: &Tensor, stream: &CudaStream) -> candle_core::Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(cuda) = &*storage else { candle_core::bail!("a kernel's array is not on the GPU") };
    place(cuda, layout, stream)
}

/// As [`address`], of an array on a GPU.
pub fn place(storage: &CudaStorage, layout: &Layout, stream: &CudaStream) -> candle_core::Result<u64> {
    let dtype = storage.dtype();
    let start = match dtype {
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(stream).0,
        _ => storage.as_cuda_slice::<f32>()?.device_ptr(stream).0,
    };
    Ok(start + (layout.start_offset() * dtype.size_in_bytes()) as u64)
}

/// The addresses of inputs on a GPU.
pub fn read(inputs: &[Option<&Tensor>], stream: &CudaStream) -> candle_core::Result<Arrays> {
    let mut arrays = Arrays::default();
    for (number, tensor) in inputs.iter().enumerate() {
        if let Some(tensor) = tensor {
            arrays.inputs[number] = address(tensor, stream)?;
            arrays.note(number, tensor.dtype());
        }
    }
    Ok(arrays)
}

/// The address from an element on of an array on the processor, which is written to.
pub fn place_to_write(storage: &mut CpuStorage, first: usize) -> candle_core::Result<u64> {
    Ok(match storage {
        CpuStorage::F32(elements) => elements[first..].as_mut_ptr() as u64,
        CpuStorage::BF16(elements) => elements[first..].as_mut_ptr() as u64,
        _ => candle_core::bail!("a kernel writes to no array of this kind"),
    })
}

/// The address of the first element of an array on the processor.
pub fn place_here(storage: &CpuStorage, layout: &Layout) -> candle_core::Result<u64> {
    let first = layout.start_offset();
    Ok(match storage {
        CpuStorage::F32(elements) => elements[first..].as_ptr() as u64,
        CpuStorage::BF16(elements) => elements[first..].as_ptr() as u64,
        CpuStorage::U32(elements) => elements[first..].as_ptr() as u64,
        _ => candle_core::bail!("a kernel takes no array of this kind"),
    })
}
