//! Matrix products by cuBLAS itself, where candle's own makes a new array of the
//! operands' type each time: operands lie in some columns of wider matrices or are read
//! across, they are fp32 or bf16, and the result, fp32 or, of operands of bf16, that too, is
//! at its place in some columns of a matrix, alone or added to what is there.

use candle_core::cuda::cudarc::cublas::{result::gemm_ex, sys};
use candle_core::cuda::gemm_reduced_precision_f32;
use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Tensor};
use gemm::{Parallelism, gemm};
use half::bf16;

use super::arrays::{address, place};
use crate::backend::BackendError;

/// A matrix in some columns of a row-major one, or what it is when read across.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// Contiguous, fp32 or bf16, with so many columns.
    pub array: &'a Tensor,
    pub pitch: usize,
    /// The first column that counts.
    pub first: usize,
    pub across: bool,
}

impl<'a> Side<'a> {
    /// All of a matrix.
    pub fn new(array: &'a Tensor, pitch: usize) -> Side<'a> {
        Side { array, pitch, first: 0, across: false }
    }

    /// From a column on.
    pub fn from(self, first: usize) -> Side<'a> {
        Side { first, ..self }
    }

    pub fn across(self) -> Side<'a> {
        Side { across: true, ..self }
    }
}

/// factor times the product of two matrices, of which the result has `rows` and `columns`,
/// over `inner` of their rows or columns.
pub struct Product<'a> {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub left: Side<'a>,
    pub right: Side<'a>,
    pub factor: f32,
    /// The result's matrix: its columns, the first one that is written, and whether what is
    /// there is added.
    pub pitch: usize,
    pub first: usize,
    pub accumulate: bool,
}

impl Product<'_> {
    /// Computes it into a contiguous array of fp32, or of bf16 where the operands are, which
    /// no other tensor has that is read later. Sums are in fp32, rounded at the end.
    ///
    /// # Errors
    /// Operands of two types; what cuBLAS says.
    pub fn write_to(&self, result: &Tensor) -> Result<(), BackendError> {
        if self.rows == 0 || self.columns == 0 {
            return Ok(());
        }
        let (left, right) = (self.left.array.dtype(), self.right.array.dtype());
        if left != right || (result.dtype() != DType::F32 && result.dtype() != left) {
            let sentence = format!("a product of {left:?} and {right:?} to {:?}", result.dtype());
            return Err(BackendError::Wrong(sentence));
        }
        Ok(result.inplace_op1(self)?)
    }

    /// It as a new array of fp32, flat.
    ///
    /// # Errors
    /// As [`Self::write_to`]; memory that is not to be had.
    pub fn made(&self) -> Result<Tensor, BackendError> {
        self.made_of(DType::F32)
    }

    /// It as a new array of a type, flat.
    ///
    /// # Errors
    /// As [`Self::made`].
    pub fn made_of(&self, dtype: DType) -> Result<Tensor, BackendError> {
        let count = self.rows * self.columns;
        // SAFETY: a product that adds nothing to what is there writes all of its result.
        let result = unsafe { Tensor::empty(count, dtype, self.left.array.device()) }?;
        let alone = Product { pitch: self.columns, first: 0, accumulate: false, ..*self };
        alone.write_to(&result)?;
        Ok(result)
    }
}

impl InplaceOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        if let CpuStorage::BF16(halves) = storage {
            let widened = halves.iter().map(|half| half.to_f32()).collect();
            let mut wide = CpuStorage::F32(widened);
            self.cpu_fwd(&mut wide, layout)?;
            let rounded = wide.as_slice::<f32>()?.iter().map(|&number| bf16::from_f32(number));
            halves.iter_mut().zip(rounded).for_each(|(half, number)| *half = number);
            return Ok(());
        }
        let CpuStorage::F32(result) = storage else { candle_core::bail!("a product of no numbers") };
        let result = &mut result[layout.start_offset() + self.first..];
        let values = |side: Side<'_>| -> candle_core::Result<Vec<f32>> {
            side.array.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
        };
        // Strides from column to column and from row to row.
        let strides = |side: Side<'_>| match side.across {
            true => (side.pitch as isize, 1),
            false => (1, side.pitch as isize),
        };
        let (left, right) = (values(self.left)?, values(self.right)?);
        let (left_strides, right_strides) = (strides(self.left), strides(self.right));
        // SAFETY: the matrices lie in these arrays, by their strides and sizes.
        unsafe {
            gemm(
                self.rows,
                self.columns,
                self.inner,
                result.as_mut_ptr(),
                1,
                self.pitch as isize,
                self.accumulate,
                left[self.left.first..].as_ptr(),
                left_strides.0,
                left_strides.1,
                right[self.right.first..].as_ptr(),
                right_strides.0,
                right_strides.1,
                1.0,
                self.factor,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        Ok(())
    }

    /// cuBLAS reads matrices down their columns: it finds the row-major ones across, and
    /// computes the result across from the operands in the other order.
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        use candle_core::backend::BackendStorage;

        let device = storage.device().clone();
        let stream = device.cuda_stream();
        let number = |count: usize| i32::try_from(count).map_err(candle_core::Error::wrap);
        let place_of = |side: Side<'_>| -> candle_core::Result<u64> {
            Ok(address(side.array, &stream)? + (side.first * side.array.dtype().size_in_bytes()) as u64)
        };
        let read = |side: Side<'_>| match side.across {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let (kind, compute) = match self.left.array.dtype() {
            DType::BF16 => (sys::cudaDataType_t::CUDA_R_16BF, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
            _ if gemm_reduced_precision_f32() => {
                (sys::cudaDataType_t::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32)
            }
            _ => (sys::cudaDataType_t::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
        };
        let (dtype, first) = (storage.dtype(), self.first * storage.dtype().size_in_bytes());
        let result = place(storage, layout, &stream)? + first as u64;
        let result_kind = match dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let beta = if self.accumulate { 1.0f32 } else { 0.0 };
        let (left, right) = (place_of(self.left)?, place_of(self.right)?);
        // SAFETY: the matrices lie in arrays that live as long as the work of the one
        // stream; sizes and pitches are theirs; the factors are read before the call ends.
        unsafe {
            gemm_ex(
                *device.cublas_handle().handle(),
                read(self.right),
                read(self.left),
                number(self.columns)?,
                number(self.rows)?,
                number(self.inner)?,
                (&raw const self.factor).cast(),
                right as *const _,
                kind,
                number(self.right.pitch)?,
                left as *const _,
                kind,
                number(self.left.pitch)?,
                (&raw const beta).cast(),
                result as *mut _,
                result_kind,
                number(self.pitch)?,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .map_err(|error| candle_core::Error::msg(format!("cuBLAS does not multiply: {error:?}")))
    }
}
