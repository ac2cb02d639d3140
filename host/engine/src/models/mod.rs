//! Model families: their parameters and sites by the names of transformers,
//! and their computation as parts of a program.

pub mod bert;
pub mod config;
