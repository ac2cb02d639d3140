//! A benchmark of one cell: plain data that the command line and the session
//! share, as [`crate::cell`] is for training.

use serde::{Deserialize, Serialize};

use crate::cell::CellSpec;
use crate::runs::machine::Machine;

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkSpec {
    pub cell: CellSpec,
    /// Tokens of each sequence, special ones included; `None` takes the
    /// training data as they are.
    pub length: Option<usize>,
    /// Steps that are measured, after some that are not.
    pub steps: usize,
    pub warmup_steps: usize,
    /// Whether it is noted where a step's time goes. A device that computes by itself is
    /// waited for after each instruction then.
    pub profile: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub label: String,
    pub precision: String,
    pub device: String,
    pub threads: usize,
    pub trained_parameters: u64,
    /// Of an effective batch, on average.
    pub examples_per_step: f64,
    /// Rows of an effective batch, virtual tokens included, on average.
    pub tokens_per_step: f64,
    /// Optimizer steps an epoch has.
    pub steps_per_epoch: u64,
    /// Of each measured step, in their order; the mean of several where they are made one
    /// behind the other.
    pub step_seconds: Vec<f64>,
    /// Their median.
    pub seconds_per_step: f64,
    pub tokens_per_second: f64,
    pub examples_per_second: f64,
    /// The evaluation program's forward pass over the same batches.
    pub evaluation_tokens_per_second: f64,
    /// Floating-point operations of a step's matrix products, on average.
    pub product_operations_per_step: f64,
    /// Floating-point operations a second of large matrix products on the same
    /// threads, between further steps: the median.
    pub peak_operations_per_second: f64,
    /// The part of that peak that these steps reached, each beside the products before
    /// and after it, because the speed of a shared machine changes: the median.
    pub share_of_peak: f64,
    /// From the start of the process to the end of its first step.
    pub seconds_to_first_step: f64,
    /// What the whole process held at most.
    pub peak_memory_bytes: u64,
    /// What was computed beforehand.
    pub estimated_memory_bytes: u64,
    /// Seconds a step by kind of instruction, the longest first.
    pub profile: Vec<(String, f64)>,
    pub machine: Machine,
}
