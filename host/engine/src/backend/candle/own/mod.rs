//! Kernels of our own for CUDA, in place of the compositions that cost most
//! (`cuda/kernels.cu`), and cuBLAS called by ourselves. The kernels are compiled with the
//! program and carried in it.
//!
//! Before they are used on a card, each is held there against the same kernel
//! compiled for the processor; `cargo test --features cuda` holds that against the
//! composition. On candle's CPU device the latter runs too, for the tests.

mod arrays;
mod attention;
mod check;
mod check_linear;
mod held;
mod kernels;
mod launch;
mod linear;
mod lookups;
mod low_rank;
mod numbers;
mod one_query;
mod optimizer;
mod products;
mod run;
#[cfg(test)]
mod simulated;
mod sums;

pub use check::checked;
pub use held::Held;
pub use launch::Own;
