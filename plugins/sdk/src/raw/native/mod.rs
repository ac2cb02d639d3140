//! Anywhere but on wasm32: the host's own recorder, in this thread. Tables, one
//! line a function.

mod graph;
mod method;
mod results;
mod task;

pub use graph::*;
pub use method::*;
pub use results::*;
pub use task::*;
