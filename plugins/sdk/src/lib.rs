//! What the author of a plugin depends on: a method or a task is a struct of
//! its settings and one trait, and `export!` or `export_task!` makes the
//! component.
//!
//! On wasm32 the functions of the contract are the host's. Anywhere else they
//! are the host's own recorder in this thread, so that an author's tests see
//! the plans, checks and sentences that users will see; see [`testing`].

pub mod conll;
pub mod generation;
pub mod kits;
pub mod method;
pub mod metrics;
pub mod node;
mod raw;
pub mod settings;
pub mod task;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod text;
pub mod words;

/// The plan as data, for tests that look into it.
#[cfg(not(target_arch = "wasm32"))]
pub use host_ir;

#[cfg(target_arch = "wasm32")]
pub mod bindings;

#[cfg(target_arch = "wasm32")]
pub mod guest;

/// What a method's file needs.
pub mod prelude {
    pub use crate::method::{Method, Model, Plan, Site};
    pub use crate::node::{
        Node, concat, constant, eye, full, kaiming_uniform, normal, ones, rows_of, sampled_rows, scalar,
        uniform, zeros,
    };
    pub use crate::settings::{Config, Patterns, Targets};
    pub use crate::{choice, config, export};
}

/// What a task's file needs.
pub mod task_prelude {
    pub use crate::generation::{Generated, Generation};
    pub use crate::kits::{Choice, Classification, Kit, MaskedTokens, Submission};
    pub use crate::settings::Config;
    pub use crate::task::{Container, Files, Record, Task};
    pub use crate::{choice, config, export_task};
}
