//! Elements of stored tensors as 32-bit floating-point numbers.

/// How the elements of a file are written, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    F64,
    F32,
    F16,
    Bf16,
}

impl Elements {
    /// Bytes of an element.
    pub fn width(self) -> usize {
        match self {
            Elements::F64 => 8,
            Elements::F32 => 4,
            Elements::F16 | Elements::Bf16 => 2,
        }
    }

    /// Adds the elements that bytes, a multiple of their width, stand for.
    pub fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Elements::F64 => {
                out.extend(bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32));
            }
            Elements::F32 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
            Elements::F16 => {
                let halves = bytes.as_chunks().0.iter();
                out.extend(halves.map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()));
            }
            Elements::Bf16 => {
                let halves = bytes.as_chunks().0.iter();
                out.extend(halves.map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()));
            }
        }
    }
}
