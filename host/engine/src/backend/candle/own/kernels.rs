//! The kernels by name (`cuda/kernels.cu`), for a GPU and for the processor.

use super::arrays::Arrays;

/// Threads of a block: eight warps, each with a row of its own, or all with one.
const BLOCK: u32 = 256;
/// Those of a block whose warps make products of bf16, as in `cuda/fragments.cuh`.
const HALF_BLOCK: u32 = 128;

/// A kernel by its name there, and the same for the processor.
pub struct Kernel<N: 'static> {
    pub name: &'static str,
    pub host: unsafe extern "C" fn(*const Arrays, *const N),
    /// Bytes of shared memory that a block has, where a block works on a row and not
    /// a warp.
    shared: Option<unsafe extern "C" fn() -> i64>,
    /// Threads of a block.
    pub threads: u32,
}

impl<N> Kernel<N> {
    /// Rows of a kernel's numbers that a block works on at a time.
    pub fn rows_of_block(&self) -> usize {
        if self.shared.is_some() { 1 } else { self.threads as usize / 32 }
    }

    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        // SAFETY: the function computes a constant.
        self.shared.map_or(0, |shared| unsafe { shared() } as usize)
    }
}

macro_rules! kernels {
    (@shared) => { None };
    (@shared $shared:ident) => { Some($shared) };
    (@threads) => { BLOCK };
    (@threads $threads:ident) => { $threads };
    ($($constant:ident $name:ident $host:ident $numbers:ident $(($shared:ident $($threads:ident)?))?)*) => {
        unsafe extern "C" {
            $(fn $host(arrays: *const Arrays, numbers: *const super::numbers::$numbers);
            $(fn $shared() -> i64;)?)*
        }
        $(pub const $constant: Kernel<super::numbers::$numbers> = Kernel {
            name: stringify!($name),
            host: $host,
            shared: kernels!(@shared $($shared)?),
            threads: kernels!(@threads $($($threads)?)?),
        };)*
    };
}

kernels! {
    ROW_DROPOUT row_dropout host_row_dropout RowDropout
    ATTENTION_FACTORS attention_factors host_attention_factors AttentionFactors
    LAYER_NORM layer_norm host_layer_norm Norm
    LAYER_NORM_BACKWARD layer_norm_backward host_layer_norm_backward Norm
    RECOVER recover host_recover Norm
    ADD_BIAS add_bias host_add_bias AddBias
    ADD_ROWS add_rows host_add_rows RowDropout
    ONE_QUERY one_query host_one_query OneQuery
    ONE_QUERY_BACKWARD one_query_backward host_one_query_backward OneQuery
    ROW_SUMS row_sums host_row_sums RowSums
    SQUARES squares host_squares Squares
    ACTIVATE activate host_activate Activate
    ACTIVATE_BACKWARD activate_backward host_activate_backward Activate
    CROSS_ENTROPY cross_entropy host_cross_entropy CrossEntropy
    CROSS_ENTROPY_BACKWARD cross_entropy_backward host_cross_entropy_backward CrossEntropy
    ADAMW adamw host_adamw AdamW
    ATTENTION_32 attention_32 host_attention_32 Attention (host_attention_32_shared)
    ATTENTION_32_TF32 attention_32_tf32 host_attention_32_tf32 Attention (host_attention_32_tf32_shared)
    ATTENTION_32_BF16 attention_32_bf16 host_attention_32_bf16 Attention (host_attention_32_bf16_shared HALF_BLOCK)
    ATTENTION_64 attention_64 host_attention_64 Attention (host_attention_64_shared)
    ATTENTION_64_TF32 attention_64_tf32 host_attention_64_tf32 Attention (host_attention_64_tf32_shared)
    ATTENTION_64_BF16 attention_64_bf16 host_attention_64_bf16 Attention (host_attention_64_bf16_shared HALF_BLOCK)
    ATTENTION_QUERIES_32 attention_queries_32 host_attention_queries_32 Attention (host_attention_queries_32_shared)
    ATTENTION_QUERIES_32_TF32 attention_queries_32_tf32 host_attention_queries_32_tf32 Attention (host_attention_queries_32_tf32_shared)
    ATTENTION_QUERIES_32_BF16 attention_queries_32_bf16 host_attention_queries_32_bf16 Attention (host_attention_queries_32_bf16_shared HALF_BLOCK)
    ATTENTION_QUERIES_64 attention_queries_64 host_attention_queries_64 Attention (host_attention_queries_64_shared)
    ATTENTION_QUERIES_64_TF32 attention_queries_64_tf32 host_attention_queries_64_tf32 Attention (host_attention_queries_64_tf32_shared)
    ATTENTION_QUERIES_64_BF16 attention_queries_64_bf16 host_attention_queries_64_bf16 Attention (host_attention_queries_64_bf16_shared HALF_BLOCK)
    ATTENTION_KEYS_32 attention_keys_32 host_attention_keys_32 Attention (host_attention_keys_32_shared)
    ATTENTION_KEYS_32_TF32 attention_keys_32_tf32 host_attention_keys_32_tf32 Attention (host_attention_keys_32_tf32_shared)
    ATTENTION_KEYS_32_BF16 attention_keys_32_bf16 host_attention_keys_32_bf16 Attention (host_attention_keys_32_bf16_shared HALF_BLOCK)
    ATTENTION_KEYS_64 attention_keys_64 host_attention_keys_64 Attention (host_attention_keys_64_shared)
    ATTENTION_KEYS_64_TF32 attention_keys_64_tf32 host_attention_keys_64_tf32 Attention (host_attention_keys_64_tf32_shared)
    ATTENTION_KEYS_64_BF16 attention_keys_64_bf16 host_attention_keys_64_bf16 Attention (host_attention_keys_64_bf16_shared HALF_BLOCK)
}
