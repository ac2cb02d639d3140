//! The engine: a static program of the host's own operations, forward and
//! backward, compiled from a model, a task's plan and a method's plan.

pub mod backend;
pub mod batch;
pub mod compile;
pub mod data;
pub mod device;
pub mod engine;
pub mod files;
pub mod generate;
pub mod init;
pub mod kernels;
pub mod machine;
pub mod merge;
pub mod models;
pub mod parameters;
pub mod program;
pub mod text;
pub mod train;

/// Raised whenever the same plan, seed and data give other numbers than before, so
/// that a cell that an older program has finished is not taken for one of this.
pub const REVISION: u32 = 7;
