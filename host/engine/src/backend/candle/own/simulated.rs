//! Kernels as a GPU runs them, on a GPU that is simulated (`cuda/simulated.cpp`): lanes that
//! exchange numbers, tensor cores, barriers, and threads in an order of their own.

use std::ffi::{CStr, c_char, c_void};

use super::arrays::Arrays;
use super::launch::Instead;
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

/// A GPU that is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Simulated {
    /// In which order threads take turns: 0 as they are, 1 the other way round, and any
    /// other number shuffles them.
    pub order: u32,
    /// Blocks at most, of which each works on more.
    pub blocks: usize,
}

impl Instead for Simulated {
    unsafe fn run(
        &self,
        name: &'static str,
        [blocks, threads]: [usize; 2],
        arrays: &Arrays,
        numbers: *const c_void,
    ) -> Result<(), BackendError> {
        let blocks = blocks.min(self.blocks) as i64;
        // SAFETY: as the caller says; the name is as long as is said, and a sentence is
        // there as long as the program.
        let wrong = unsafe {
            let (start, length) = (name.as_ptr().cast(), name.len());
            let wrong = simulated_kernel(start, length, arrays, numbers, blocks, threads as i32, self.order);
            (!wrong.is_null()).then(|| CStr::from_ptr(wrong).to_string_lossy())
        };
        wrong.map_or(Ok(()), |wrong| Err(BackendError::Wrong(format!("{name}: {wrong}"))))
    }
}
