//! What a device reaches in matrix products.

use std::time::Instant;

use candle_core::{Device, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::products::Products;
use crate::kernels::matmul::{Matrix, MatrixMut, nt};
use crate::kernels::parallel::Threads;

/// Products of a measurement, of which the fastest counts.
const REPEATS: usize = 4;
/// Rows and columns of the matrices, on our kernels, on candle's processor, whose
/// products in bf16 are slow, and on a GPU.
const ON_THREADS: usize = 1536;
const ON_CANDLE_CPU: usize = 256;
const ON_GPU: usize = 8192;

/// Square matrices that are multiplied to see what can be reached. Machines that are
/// shared, and cards that grow warm, do not reach the same at all times: a share of the
/// peak is a share of what was measured beside it.
pub struct Peak {
    size: usize,
    operands: Operands,
}

enum Operands {
    Threads { threads: Threads, a: Vec<f32>, b: Vec<f32>, c: Vec<f32> },
    Candle { device: Device, products: Products, a: Tensor, b: Tensor },
}

impl Peak {
    /// On our own kernels.
    pub(super) fn on_threads(threads: Threads) -> Peak {
        let filled = |value: f32| vec![value; ON_THREADS * ON_THREADS];
        let operands = Operands::Threads { threads, a: filled(0.5), b: filled(0.25), c: filled(0.0) };
        Peak { size: ON_THREADS, operands }
    }

    /// On a device of candle's.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub(crate) fn on_candle(device: Device, products: Products) -> Result<Peak, BackendError> {
        let size = if device.is_cpu() { ON_CANDLE_CPU } else { ON_GPU };
        // A card multiplies the same number again and again faster than those of a training.
        let drawn = || -> Result<Tensor, BackendError> {
            products.operand(&Tensor::randn(0.0f32, 1.0, (size, size), &device)?)
        };
        let (a, b) = (drawn()?, drawn()?);
        Ok(Peak { size, operands: Operands::Candle { device, products, a, b } })
    }

    /// Floating-point operations a second of some products now, a multiplication and an
    /// addition counted as two: the best of them.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn operations_per_second(&mut self) -> Result<f64, BackendError> {
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            best = best.min(self.seconds()?);
        }
        Ok(2.0 * (self.size as f64).powi(3) / best)
    }

    /// The time of one product.
    fn seconds(&mut self) -> Result<f64, BackendError> {
        let size = self.size;
        match &mut self.operands {
            Operands::Threads { threads, a, b, c } => {
                let start = Instant::now();
                let [a, b] = [a, b].map(|values| Matrix::new(values, size));
                nt(threads, [size; 3], 1.0, a, b, 0.0, MatrixMut::new(c, size));
                Ok(start.elapsed().as_secs_f64())
            }
            Operands::Candle { device, products, a, b } => {
                device.synchronize()?;
                let start = Instant::now();
                let product = products.raw(a, b)?;
                device.synchronize()?;
                let seconds = start.elapsed().as_secs_f64();
                drop(product);
                Ok(seconds)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_measured_again_and_again() {
        let on_candle = |products| Peak::on_candle(Device::Cpu, products).unwrap();
        let on_threads = Peak::on_threads(Threads::new(2).unwrap());
        for mut peak in [on_threads, on_candle(Products::Fp32), on_candle(Products::Bf16)] {
            for _ in 0..2 {
                let reached = peak.operations_per_second().unwrap();
                assert!(reached.is_finite() && reached > 0.0);
            }
        }
    }
}
