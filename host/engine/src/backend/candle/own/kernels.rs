//! The kernels by name (`cuda/kernels.cu`), for a GPU and for the processor.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;

use super::arrays::Arrays;
use crate::backend::BackendError;

/// Threads of a block: eight warps, each with a row of its own or a strip of one, or all with one.
const BLOCK: u32 = 256;
/// Those of a block whose warps have 64 rows of bf16 between them, as in `cuda/fragments.cuh`, or
/// which attends from one query, as in `cuda/one_query.cuh`.
const HALF_BLOCK: u32 = 128;
/// Warps that a multiprocessor holds at once.
const WARPS: usize = 64;

/// A kernel by its name there.
pub struct Kernel<N: 'static> {
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    numbers: PhantomData<fn(N)>,
}

/// What the text for the processor knows of a kernel, as in `cuda/lanes.cuh`.
#[repr(C)]
pub struct Known {
    name: *const c_char,
    shared_bytes: i64,
    strips: i64,
    run: unsafe extern "C" fn(*const Arrays, *const c_void),
    suffix: Option<unsafe extern "C" fn(*const Arrays, *const c_void) -> *const c_char>,
    next: *const Known,
}

unsafe extern "C" {
    fn host_kernel(name: *const c_char, length: usize) -> *const Known;
}

impl<N> Kernel<N> {
    /// What the text for the processor knows of it.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn known(&self) -> Result<&'static Known, BackendError> {
        // SAFETY: the name is as long as is said; what is known of kernels stays.
        let known = unsafe { host_kernel(self.name.as_ptr().cast(), self.name.len()).as_ref() };
        known.ok_or_else(|| BackendError::Wrong(format!("there is no kernel {}", self.name)))
    }
}

impl Known {
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes as usize
    }

    /// Blocks of so many threads for a kernel's rows: one for each where it shares memory, or else
    /// a warp for each, or for a strip of its columns where rows fill few of a GPU's
    /// multiprocessors and the kernel lets warps share them.
    pub fn blocks(&self, rows: usize, threads: u32, multiprocessors: usize) -> usize {
        if self.shared_bytes > 0 {
            return rows;
        }
        let strips = (multiprocessors * WARPS / rows.max(1)).clamp(1, self.strips as usize);
        (rows * strips).div_ceil(threads as usize / 32)
    }

    /// What the name of a GPU's kernel for these arrays and numbers ends in: where they lie says
    /// how they are read.
    ///
    /// # Safety
    /// The numbers are those of the kernel.
    pub unsafe fn suffix<N>(&self, arrays: &Arrays, numbers: &N) -> &'static str {
        let Some(suffix) = self.suffix else { return "" };
        // SAFETY: the function takes these two structures and reads no array; it gives a text of
        // the program.
        let text = unsafe { CStr::from_ptr(suffix(arrays, (&raw const *numbers).cast())) };
        text.to_str().unwrap_or_default()
    }

    /// Runs it on the processor.
    ///
    /// # Safety
    /// The arrays are as long as the numbers say, which are those of the kernel.
    pub unsafe fn run<N>(&self, arrays: &Arrays, numbers: &N) {
        // SAFETY: the kernel takes these two structures.
        unsafe { (self.run)(arrays, (&raw const *numbers).cast()) }
    }
}

macro_rules! kernels {
    (@threads) => { BLOCK };
    (@threads $threads:ident) => { $threads };
    ($($constant:ident $name:ident $numbers:ident $($threads:ident)?;)*) => {
        $(pub const $constant: Kernel<super::numbers::$numbers> = Kernel {
            name: stringify!($name),
            threads: kernels!(@threads $($threads)?),
            numbers: PhantomData,
        };)*

        #[cfg(test)]
        fn each_known() -> Vec<Result<&'static Known, BackendError>> {
            vec![$($constant.known()),*]
        }
    };
}

kernels! {
    ROW_DROPOUT row_dropout RowDropout;
    ATTENTION_FACTORS attention_factors AttentionFactors;
    LAYER_NORM layer_norm Norm;
    LAYER_NORM_BACKWARD layer_norm_backward Norm;
    RECOVER recover Norm;
    EMBED embed Embed;
    ADD_BIAS add_bias AddBias;
    ADD_ROWS add_rows RowDropout;
    ONE_QUERY one_query OneQuery HALF_BLOCK;
    ONE_QUERY_BACKWARD one_query_backward OneQuery HALF_BLOCK;
    REMEMBER remember Recall;
    RECALL recall Recall;
    RMS_NORM rms_norm Norm;
    RMS_NORM_BACKWARD rms_norm_backward Norm;
    GATE gate Activate;
    GATE_BACKWARD gate_backward Activate;
    LOW_RANK_DOWN_16 low_rank_down_16 LowRank HALF_BLOCK;
    LOW_RANK_DOWN_64 low_rank_down_64 LowRank HALF_BLOCK;
    LOW_RANK_UP_16 low_rank_up_16 LowRank HALF_BLOCK;
    LOW_RANK_UP_64 low_rank_up_64 LowRank HALF_BLOCK;
    LOW_RANK_GRADIENT_16 low_rank_gradient_16 LowRank HALF_BLOCK;
    LOW_RANK_GRADIENT_64 low_rank_gradient_64 LowRank HALF_BLOCK;
    ROW_SUMS row_sums RowSums;
    SQUARES squares Squares;
    ACTIVATE activate Activate;
    ACTIVATE_BACKWARD activate_backward Activate;
    CROSS_ENTROPY cross_entropy CrossEntropy;
    CROSS_ENTROPY_BACKWARD cross_entropy_backward CrossEntropy;
    ADAMW adamw AdamW;
    ATTENTION_32 attention_32 Attention;
    ATTENTION_32_TF32 attention_32_tf32 Attention;
    ATTENTION_32_BF16 attention_32_bf16 Attention HALF_BLOCK;
    ATTENTION_64 attention_64 Attention;
    ATTENTION_64_TF32 attention_64_tf32 Attention;
    ATTENTION_64_BF16 attention_64_bf16 Attention HALF_BLOCK;
    ATTENTION_64_PLACED attention_64_placed Attention;
    ATTENTION_64_PLACED_TF32 attention_64_placed_tf32 Attention;
    ATTENTION_64_PLACED_BF16 attention_64_placed_bf16 Attention HALF_BLOCK;
    ATTENTION_QUERIES_32 attention_queries_32 Attention;
    ATTENTION_QUERIES_32_TF32 attention_queries_32_tf32 Attention;
    ATTENTION_QUERIES_32_BF16 attention_queries_32_bf16 Attention HALF_BLOCK;
    ATTENTION_QUERIES_64 attention_queries_64 Attention;
    ATTENTION_QUERIES_64_TF32 attention_queries_64_tf32 Attention;
    ATTENTION_QUERIES_64_BF16 attention_queries_64_bf16 Attention HALF_BLOCK;
    ATTENTION_QUERIES_64_PLACED attention_queries_64_placed Attention;
    ATTENTION_QUERIES_64_PLACED_TF32 attention_queries_64_placed_tf32 Attention;
    ATTENTION_QUERIES_64_PLACED_BF16 attention_queries_64_placed_bf16 Attention HALF_BLOCK;
    ATTENTION_KEYS_32 attention_keys_32 Attention;
    ATTENTION_KEYS_32_TF32 attention_keys_32_tf32 Attention;
    ATTENTION_KEYS_32_BF16 attention_keys_32_bf16 Attention HALF_BLOCK;
    ATTENTION_KEYS_64 attention_keys_64 Attention;
    ATTENTION_KEYS_64_TF32 attention_keys_64_tf32 Attention;
    ATTENTION_KEYS_64_BF16 attention_keys_64_bf16 Attention HALF_BLOCK;
    ATTENTION_KEYS_64_PLACED attention_keys_64_placed Attention;
    ATTENTION_KEYS_64_PLACED_TF32 attention_keys_64_placed_tf32 Attention;
    ATTENTION_KEYS_64_PLACED_BF16 attention_keys_64_placed_bf16 Attention HALF_BLOCK;
    ATTENTION_WHOLE_64_32 attention_whole_64_32 Attention HALF_BLOCK;
    ATTENTION_WHOLE_64_64 attention_whole_64_64 Attention HALF_BLOCK;
    ATTENTION_WHOLE_128_32 attention_whole_128_32 Attention;
    ATTENTION_WHOLE_128_64 attention_whole_128_64 Attention;
    ATTENTION_WHOLE_GRADIENTS_64_32 attention_whole_gradients_64_32 Attention HALF_BLOCK;
    ATTENTION_WHOLE_GRADIENTS_64_64 attention_whole_gradients_64_64 Attention HALF_BLOCK;
    ATTENTION_WHOLE_GRADIENTS_128_32 attention_whole_gradients_128_32 Attention;
    ATTENTION_WHOLE_GRADIENTS_128_64 attention_whole_gradients_128_64 Attention;
    ATTENTION_BIASES_64 attention_biases_64 BiasedAttention;
    ATTENTION_BIASES_64_TF32 attention_biases_64_tf32 BiasedAttention;
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::arrays::INPUTS;
    use super::super::numbers::AddBias;
    use super::*;

    #[test]
    fn every_kernel_is_known_by_its_name() {
        for known in each_known() {
            known.unwrap();
        }
    }

    /// What is read at once depends on types, on where arrays begin and on what lies between
    /// rows: a GPU ends the program where it is not so.
    #[test]
    fn a_kernel_is_chosen_by_where_its_arrays_lie() {
        let suffix = |dtype: DType, [bias, matrix]: [u64; 2], [columns, first, pitch]: [i64; 3]| {
            let mut arrays = Arrays::default();
            (arrays.inputs[0], arrays.outputs[0]) = (bias, matrix);
            arrays.note(INPUTS, dtype);
            let numbers = AddBias { rows: 3, columns, first, pitch, adds: 1 };
            // SAFETY: these are the kernel's numbers; no array is read.
            unsafe { ADD_BIAS.known().unwrap().suffix(&arrays, &numbers) }
        };
        let at = [0x1000, 0x2000];
        for (dtype, at, numbers, expected) in [
            (DType::BF16, at, [24, 8, 64], "_EightHalves"),
            (DType::BF16, at, [24, 4, 64], "_FourNumbers"),
            (DType::BF16, at, [24, 8, 36], "_FourNumbers"),
            (DType::BF16, [0x1000, 0x2008], [24, 8, 64], "_FourNumbers"),
            (DType::BF16, [0x1000, 0x2004], [24, 8, 64], "_OneNumber"),
            (DType::BF16, [0x1004, 0x2000], [24, 8, 64], "_OneNumber"),
            (DType::F32, at, [24, 4, 36], "_FourFloats"),
            (DType::F32, [0x1000, 0x2008], [24, 4, 36], "_OneNumber"),
            (DType::F32, at, [24, 7, 64], "_OneNumber"),
        ] {
            assert_eq!(suffix(dtype, at, numbers), expected, "{dtype:?} at {at:x?}, {numbers:?}");
        }
        let mut mixed = Arrays::default();
        (mixed.inputs[0], mixed.outputs[0]) = (0x1000, 0x2000);
        mixed.note(0, DType::BF16);
        let numbers = AddBias { rows: 3, columns: 24, first: 8, pitch: 64, adds: 1 };
        // SAFETY: as above.
        assert_eq!(unsafe { ADD_BIAS.known().unwrap().suffix(&mixed, &numbers) }, "_FourNumbers");
        // A kernel that has no layouts has one name.
        // SAFETY: the kernel looks at no numbers.
        assert_eq!(unsafe { ADAMW.known().unwrap().suffix(&mixed, &()) }, "");
    }

    #[test]
    fn warps_share_rows_where_there_are_few() {
        let blocks = |rows| ACTIVATE.known().unwrap().blocks(rows, BLOCK, 132);
        assert_eq!([0, 1, 64, 4096, 8192, 8193].map(blocks), [0, 1, 64, 1024, 1024, 1025]);
        assert_eq!(ACTIVATE.known().unwrap().blocks(64, BLOCK, 1), 8);
        // A norm's rows are summed up, each by one warp; a block that shares memory has one.
        assert_eq!(LAYER_NORM.known().unwrap().blocks(64, BLOCK, 132), 8);
        assert_eq!(ONE_QUERY.known().unwrap().blocks(768, HALF_BLOCK, 132), 768);
    }
}
