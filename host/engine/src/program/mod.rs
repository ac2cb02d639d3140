//! The static program: values, instructions, and the order in which they run.
//!
//! A program is made once for a model, a task and a method, forward and
//! backward, by [`build`] and [`backward`]; a backend runs it batch after
//! batch. Sizes that depend on the batch are symbols until then.

pub mod absorb;
pub mod access;
pub mod attend;
pub mod backward;
pub mod build;
mod choose;
pub mod cost;
pub mod halves;
pub mod hooks;
pub mod instruction;
pub mod layout;
pub mod lower;
pub mod narrow;
pub mod operand;
pub mod pre_norm;
pub mod queries;
pub mod relative;
mod rules;
pub mod slopes;
pub mod value;
pub mod virtuals;
