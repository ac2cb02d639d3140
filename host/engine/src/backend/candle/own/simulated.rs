//! Kernels as a GPU runs them, on a GPU that is simulated (`cuda/simulated.cpp`): lanes that
//! exchange numbers, tensor cores, barriers, and threads in an order of their own.

use std::ffi::{CStr, c_char, c_void};

use super::arrays::Arrays;
use super::kernels::Kernel;
use super::numbers::Numbers;
use crate::backend::BackendError;

unsafe extern "C" {
    fn simulated_kernel(
        name: *const c_char,
        length: usize,
        arrays: *const Arrays,
        numbers: *const c_void,
        blocks: i64,
        threads: i32,
        order: u32,
    ) -> *const c_char;
}

/// The order in which threads take turns, and blocks at most, of which each works on more.
#[derive(Clone, Copy, Debug)]
pub struct Simulated {
    /// 0 as they are, 1 the other way round, and any other number shuffles them.
    pub order: u32,
    pub blocks: usize,
}

impl Simulated {
    /// Runs a kernel.
    ///
    /// # Errors
    /// What a GPU would not have done.
    pub fn run<N: Numbers>(
        self,
        kernel: &Kernel<N>,
        numbers: &N,
        arrays: &Arrays,
    ) -> Result<(), BackendError> {
        let rows = kernel.known()?.rows_of_block(kernel.threads);
        let blocks = numbers.rows().div_ceil(rows).min(self.blocks) as i64;
        // SAFETY: the kernel takes these two structures; the arrays are as long as the
        // numbers say; a sentence is there as long as the program.
        let wrong = unsafe {
            let (name, length) = (kernel.name.as_ptr().cast(), kernel.name.len());
            let numbers = (&raw const *numbers).cast();
            let wrong =
                simulated_kernel(name, length, arrays, numbers, blocks, kernel.threads as i32, self.order);
            (!wrong.is_null()).then(|| CStr::from_ptr(wrong).to_string_lossy())
        };
        wrong.map_or(Ok(()), |wrong| Err(BackendError::Wrong(format!("{}: {wrong}", kernel.name))))
    }
}
