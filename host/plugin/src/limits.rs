//! What a call of a plugin may take.

use std::time::Duration;

/// Limits of one call. The defaults leave room for guests written in an
/// interpreted language, which need hundreds of times what Rust needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Units of wasmtime's fuel, about an instruction each; deterministic.
    pub fuel: u64,
    /// Fuel for each byte that the host hands over, on top.
    pub fuel_per_byte: u64,
    /// Bytes of linear memory.
    pub memory: usize,
    /// Wall-clock time, the backstop behind the fuel.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            fuel: 5_000_000_000,
            fuel_per_byte: 100_000,
            memory: 1 << 30,
            time: Duration::from_secs(120),
        }
    }
}
