//! Kernels of our own for CUDA, in place of the compositions that cost most
//! (`cuda/kernels.cu`), and cuBLAS called by ourselves. The kernels are compiled with the
//! program and carried in it.
//!
//! Before they are used on a card, each is held there against the same kernel
//! compiled for the processor. Tests run what a card runs on a GPU that is simulated
//! (`simulated.rs`), and hold it against the composition.

mod arrays;
mod attend;
mod attention;
mod check;
mod check_attention;
mod check_linear;
mod driver;
mod held;
mod joined;
mod kernels;
mod launch;
mod linear;
mod lookups;
mod low_rank;
mod numbers;
mod one_query;
mod optimizer;
mod pre_norm;
mod products;
mod recall;
mod run;
mod simulated;
mod sums;
#[cfg(test)]
mod timing;
mod update_products;
mod updates;

pub use check::checked;
pub use held::Held;
pub use launch::Own;
pub use simulated::Simulated;
