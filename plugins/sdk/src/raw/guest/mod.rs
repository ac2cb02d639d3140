//! On wasm32: the host's functions. Tables, one line a function.

mod graph;
mod method;
mod results;
mod task;

pub use graph::*;
pub use method::*;
pub use results::*;
pub use task::*;

use crate::bindings::method::peft::plugin::graph::Node;

fn node(id: u32) -> Node {
    Node { id }
}
