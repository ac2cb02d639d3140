//! What a training computes in, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Device;

/// What numbers are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Fp32,
    /// Products of numbers rounded to 10 bits of mantissa, sums in fp32.
    Tf32,
    /// Products of numbers rounded to 7 bits of mantissa, sums in fp32; parameters that
    /// train, their updates and all else in fp32. Where there are kernels of our own, what
    /// goes from one of them to the next is rounded, too.
    Bf16,
}

/// A device, and how a training computes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub device: Device,
    pub precision: Precision,
    /// As [`Device::attention_columns`] says.
    pub attention_columns: usize,
}

impl Target {
    /// A training in a precision on a device of this machine.
    pub fn new(device: Device, precision: Precision) -> Target {
        Target { device, precision, attention_columns: device.attention_columns() }
    }

    /// Whether values that kernels of our own alone touch are stored in bf16.
    pub fn stores_halves(self) -> bool {
        self.precision == Precision::Bf16 && self.attention_columns > 0
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}
