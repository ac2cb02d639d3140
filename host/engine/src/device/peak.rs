//! What a device of candle's reaches in matrix products.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::products::Products;

const REPEATS: usize = 8;

/// Floating-point operations a second of large square products, a multiplication and
/// an addition counted as two: the best of several.
///
/// # Errors
/// Memory that is not to be had.
pub fn operations_per_second(device: &Device, products: Products) -> Result<f64, BackendError> {
    let size = if device.is_cpu() { 256 } else { 8192 };
    let filled = |value: f32| -> Result<Tensor, BackendError> {
        products.operand(&Tensor::full(value, (size, size), device)?.to_dtype(DType::F32)?)
    };
    let (a, b) = (filled(0.5)?, filled(0.25)?);
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        device.synchronize()?;
        let start = Instant::now();
        let product = products.raw(&a, &b)?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        drop(product);
    }
    Ok(2.0 * (size as f64).powi(3) / best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_measured_in_each_precision() {
        for products in [Products::Fp32, Products::Bf16] {
            let peak = operations_per_second(&Device::Cpu, products).unwrap();
            assert!(peak.is_finite() && peak > 0.0);
        }
    }
}
