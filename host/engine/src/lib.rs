//! The engine: a static program of the host's own operations, forward and
//! backward, compiled from a model, a task's plan and a method's plan.

pub mod batch;
pub mod files;
mod nearest;
pub mod text;
pub mod train;
