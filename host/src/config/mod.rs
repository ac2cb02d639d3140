//! The configuration of a run: [`raw`] is what the file and the command line
//! say, with the place of every key; [`resolved`] is what is meant. Nothing
//! downstream parses.
//!
//! Relative paths in a config are relative to the current directory.

mod methods;
pub mod raw;
pub mod resolved;
mod source;
pub mod training;
pub mod write;

pub use raw::ConfigError;
pub use resolved::Config;
