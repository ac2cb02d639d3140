//! Metrics as the official scorers compute them: pure code, for `score` and
//! `measure` in a plugin and for any other program.

pub mod assignment;
pub mod confusion;
pub mod coreference;
pub mod porter;
pub mod rouge;

pub use confusion::Confusion;
