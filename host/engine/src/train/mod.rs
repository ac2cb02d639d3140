//! The trainer, after the conventions of transformers' Trainer.

pub mod memory;
pub mod schedule;
pub mod settings;
pub mod trainer;
