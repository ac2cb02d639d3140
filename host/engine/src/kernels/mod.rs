//! The CPU kernels: each operation of the engine, forward and backward, as a
//! function over slices. They know sizes and row boundaries, nothing of models
//! or programs.
//!
//! Matrices are row-major. The rows are the tokens of all sequences one after
//! another, without padding; `starts` gives the first row of each sequence and
//! the number of rows. Slices of a wrong length are errors of the caller and
//! panic; values are never judged, so NaN and infinity pass through.
//!
//! The same input, seed and thread count give the same bits. Kernels without a
//! matrix product give the same bits for any thread count, because each number
//! is computed by one thread in an order that does not depend on the cut.

pub mod absorbed;
pub mod activation;
pub mod adamw;
pub mod attend;
pub mod attention;
pub mod cross_entropy;
pub mod disentangled;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gate;
pub mod layer_norm;
pub mod low_rank;
pub mod matmul;
#[cfg(target_arch = "x86_64")]
mod panels;
pub mod parallel;
pub mod recall;
pub mod reduce;
pub mod relative;
pub mod rms_norm;
mod simd;
mod team;

#[cfg(test)]
mod reference;
