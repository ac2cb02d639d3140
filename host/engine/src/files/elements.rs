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

    /// Writes the elements that bytes stand for, as many as there is room for.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Elements::F64 => each(bytes, out, |bytes| f64::from_le_bytes(bytes) as f32),
            Elements::F32 => each(bytes, out, f32::from_le_bytes),
            Elements::F16 => each(bytes, out, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Elements::Bf16 => each(bytes, out, |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

fn each<const WIDTH: usize>(bytes: &[u8], out: &mut [f32], element: impl Fn([u8; WIDTH]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = element(bytes);
    }
}
