//! Data: files to records, examples to packed batches.

pub mod dataset;
pub mod find;
pub mod kept;
pub mod reading;
pub mod records;
pub mod sampler;
pub mod store;
pub mod targets;
pub mod words;
