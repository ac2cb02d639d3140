//! What is read of a device. It computes by itself, behind the host that tells it what
//! to; each read waits until it has caught up, and is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use crate::backend::candle::Candle;
use crate::backend::{BackendError, Number};

/// How often a backend has waited for its device; shared with the backend that counts.
#[derive(Clone, Debug, Default)]
pub struct Reads(Arc<AtomicU64>);

impl Reads {
    /// Reads since the backend was made.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Candle {
    /// How often the device was waited for, now and later.
    pub fn reads(&self) -> Reads {
        self.reads.clone()
    }

    /// The elements of an array, once the device has computed them.
    pub(super) fn elements(&self, array: &Tensor) -> Result<Vec<f32>, BackendError> {
        self.reads.0.fetch_add(1, Ordering::Relaxed);
        Ok(array.flatten_all()?.to_vec1()?)
    }

    /// A number as an array without axes.
    pub(super) fn scalar(&self, number: &Number) -> Result<Tensor, BackendError> {
        match number {
            Number::Known(number) => Ok(Tensor::new(*number as f32, &self.device)?),
            Number::OnDevice(number) => Ok(number.clone()),
        }
    }

    /// Numbers, of which those on the device are read together.
    pub(super) fn read_numbers(&self, numbers: &[Number]) -> Result<Vec<f64>, BackendError> {
        let on_device = numbers.iter().filter_map(|number| match number {
            Number::OnDevice(number) => Some(number),
            Number::Known(_) => None,
        });
        let on_device: Vec<&Tensor> = on_device.collect();
        let mut read = match on_device.is_empty() {
            true => Vec::new(),
            false => self.elements(&Tensor::stack(&on_device, 0)?)?,
        }
        .into_iter();
        let known = numbers.iter().map(|number| match number {
            Number::Known(number) => *number,
            Number::OnDevice(_) => read.next().map_or(f64::NAN, f64::from),
        });
        Ok(known.collect())
    }
}
