//! The trainer, after the conventions of transformers' Trainer.

pub mod checkpoint;
pub mod memory;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod trainer;
