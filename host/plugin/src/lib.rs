//! The plugin room: loads, links and calls components under limits. It knows
//! wasmtime, and no tensor.

pub mod catalogue;
pub mod error;
mod imports;
pub mod limits;
pub mod plugin;
mod runtime;

pub use catalogue::{Catalogue, Entry, Origin};
pub use error::PluginError;
pub use limits::Limits;
pub use plugin::{Called, Kind, Plugin, Task};
