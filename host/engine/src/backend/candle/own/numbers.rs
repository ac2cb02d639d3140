//! What kernels are told besides their arrays: the structures of `cuda/kernels.cu`,
//! field by field.

use crate::backend::candle::masks::Rows;
use crate::kernels::dropout::Mask as DropoutMask;
use crate::program::instruction::Activation;

/// Low-rank updates at most that kernels work on together.
pub const UPDATES: usize = 3;

/// Numbers of a kernel, plain data for both sides.
///
/// # Safety
/// The type has the layout of the kernel's structure, and any bits are a value of it.
pub unsafe trait Numbers: Copy {
    /// Rows, each of which a warp works on, or several, or a block.
    fn rows(&self) -> usize;
}

/// A dropout's mask; nothing is dropped by the default, and nothing kept.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Mask {
    base: u64,
    threshold: u32,
    scale: f32,
}

impl From<DropoutMask> for Mask {
    fn from(mask: DropoutMask) -> Mask {
        let (base, threshold, scale) = mask.words();
        Mask { base, threshold, scale }
    }
}

/// To what rows belong; no sequences for those of a table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Packing {
    pub sequences: i64,
    pub shift: i64,
}

impl From<&Rows> for Packing {
    fn from(rows: &Rows) -> Packing {
        match rows {
            Rows::Packed(starts) => Packing { sequences: starts.len() as i64 - 1, shift: 0 },
            Rows::Table { first, .. } => Packing { sequences: 0, shift: i64::from(*first) },
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RowDropout {
    pub rows: i64,
    pub columns: i64,
    pub mask: Mask,
    pub packing: Packing,
    pub has_mask: i64,
}

impl RowDropout {
    /// Of so many rows and columns, without a mask.
    pub fn without(rows: usize, columns: usize) -> RowDropout {
        let (mask, packing) = (Mask::default(), Packing::default());
        RowDropout { rows: rows as i64, columns: columns as i64, mask, packing, has_mask: 0 }
    }

    /// Of so many rows and columns, by the packing of rows.
    pub fn with(rows: usize, columns: usize, mask: DropoutMask, of: &Rows) -> RowDropout {
        let without = RowDropout::without(rows, columns);
        RowDropout { mask: mask.into(), packing: Packing::from(of), has_mask: 1, ..without }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AttentionFactors {
    pub rows: i64,
    pub heads: i64,
    pub queries: i64,
    pub keys: i64,
    pub mask: Mask,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub rows: i64,
    pub columns: i64,
    pub packing: Packing,
    pub before: Mask,
    pub after: Mask,
    pub has_before: i32,
    pub has_after: i32,
    pub epsilon: f32,
    pub unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    pub rows: i64,
    pub columns: i64,
    pub factor: f32,
    pub unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Activate {
    pub rows: i64,
    pub columns: i64,
    pub activation: i64,
}

impl Activate {
    pub fn number(activation: Activation) -> i64 {
        match activation {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::Relu => 2,
            Activation::Silu => 3,
            Activation::Tanh => 4,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    pub rows: i64,
    pub columns: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub rows: i64,
    pub heads: i64,
    pub size: i64,
    pub queries: i64,
    pub query_pitch: i64,
    pub memory_pitch: i64,
    pub first_key: i64,
    pub distances: i64,
    pub before: i64,
    pub mask: Mask,
    pub scale: f32,
    pub has_mask: i32,
    pub causal: i32,
    pub unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BiasedAttention {
    pub rows: i64,
    pub buckets: i64,
    pub attention: Attention,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OneQuery {
    pub rows: i64,
    pub heads: i64,
    pub size: i64,
    pub mask: Mask,
    pub scale: f32,
    pub has_mask: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Recall {
    pub rows: i64,
    pub heads: i64,
    pub size: i64,
    pub scale: f32,
    pub unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AddBias {
    pub rows: i64,
    pub columns: i64,
    pub first: i64,
    pub pitch: i64,
    /// Whether to what is there, or in its place.
    pub adds: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LowRank {
    /// Blocks, those of updates that are worked on together side by side.
    pub rows: i64,
    pub updates: i64,
    pub step: i64,
    pub tokens: i64,
    pub columns: i64,
    pub first: i64,
    pub pitch: i64,
    pub rank: i64,
    pub masks: [Mask; UPDATES],
    pub packing: Packing,
    pub scale: f32,
    pub has_mask: i32,
    pub across: i32,
    pub adds: i32,
    pub recovers: i32,
    pub span: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RowSums {
    pub rows: i64,
    pub strips: i64,
    pub columns: i64,
    pub first: i64,
    pub pitch: i64,
    pub span: i64,
    pub total: i64,
    pub scale: f32,
    pub unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Squares {
    pub rows: i64,
    pub arrays: i64,
    pub piece: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub rows: i64,
    pub tensors: i64,
    pub piece: i64,
}

macro_rules! numbers {
    ($($name:ident)*) => { $(
        // SAFETY: the structure is that of the same name there, of numbers alone and
        // without a gap.
        unsafe impl Numbers for $name {
            fn rows(&self) -> usize {
                self.rows as usize
            }
        }

        // SAFETY: as above.
        unsafe impl candle_core::cuda::cudarc::driver::DeviceRepr for $name {}
    )* };
}

numbers! { RowDropout AttentionFactors Norm Embed Activate CrossEntropy Attention BiasedAttention OneQuery Recall AddBias LowRank RowSums Squares AdamW }
