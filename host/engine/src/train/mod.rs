//! The trainer, after the conventions of transformers' Trainer.

pub mod settings;
