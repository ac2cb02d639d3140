//! Matrix products, and what numbers they are of.

use candle_core::{DType, Tensor};

use crate::backend::BackendError;
use crate::device::Precision;

/// How matrix products are computed. All else is in fp32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// In fp32, or in tf32 where the device is set to it.
    Fp32,
    /// Of numbers rounded to bf16; sums in fp32, which candle's own products round to bf16
    /// at the end, and those of `own/products.rs` do not.
    Bf16,
}

impl From<Precision> for Products {
    fn from(precision: Precision) -> Products {
        match precision {
            Precision::Fp32 | Precision::Tf32 => Products::Fp32,
            Precision::Bf16 => Products::Bf16,
        }
    }
}

impl Products {
    /// a b, over the last two axes. Operands are fp32, or what [`Self::operand`] made of
    /// them.
    ///
    /// # Errors
    /// Shapes that do not fit; memory that is not to be had.
    pub fn of(self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        if self == Products::Fp32 {
            return Ok(a.matmul(b)?);
        }
        Ok(self.raw(&self.operand(a)?, &self.operand(b)?)?.to_dtype(DType::F32)?)
    }

    /// a b of what [`Self::operand`] made, as it comes from the device.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn raw(self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        Ok(match self == Products::Bf16 && a.device().is_cpu() {
            // candle has no such product there: the same numbers are multiplied in fp32.
            true => a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16)?,
            false => a.matmul(b)?,
        })
    }

    /// What operands are of.
    pub fn operands(self) -> DType {
        match self {
            Products::Fp32 => DType::F32,
            Products::Bf16 => DType::BF16,
        }
    }

    /// A tensor as products take it.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn operand(self, x: &Tensor) -> Result<Tensor, BackendError> {
        Ok(x.to_dtype(self.operands())?)
    }
}
