//! The functions of the contract under plain names and with plain numbers for
//! handles, the same on both sides: the host's imports on wasm32, the recorder
//! of this thread anywhere else.

#[cfg(target_arch = "wasm32")]
mod guest;
#[cfg(not(target_arch = "wasm32"))]
mod native;

#[cfg(target_arch = "wasm32")]
pub use guest::*;
#[cfg(not(target_arch = "wasm32"))]
pub use native::*;

/// A list of names, or one regular expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub is_pattern: bool,
    pub values: Vec<String>,
}
