//! Copies by a second stream of CUDA's, beside the one that candle computes on.
//!
//! cudarc can keep the streams of a context apart by itself: each array then has two
//! events, and each kernel records and waits for those of all its arrays. That is switched
//! off here. It would cost a dozen calls of the driver a kernel, for memory that two
//! streams see in three places alone; and whoever reads `ring.rs` sees all that is waited
//! for. Every other array lives and ends on the computing stream. Switched off, an array
//! is made without its two events, too.

use std::sync::Arc;

use candle_core::cuda::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, PinnedHostSlice};
use candle_core::cuda::{CudaDevice, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{Storage, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::ring::{Stream, Streams};

type Result<T> = std::result::Result<T, BackendError>;

pub(super) struct Beside {
    device: CudaDevice,
    computing: Arc<CudaStream>,
    /// It does not wait for the default stream, as one made by default would.
    copying: Arc<CudaStream>,
}

impl Beside {
    /// A second stream on a device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &CudaDevice) -> Result<Beside> {
        let computing = device.cuda_stream();
        // SAFETY: all arrays of the device are made, used and freed on its one stream, but
        // for the memory of slots, for which a ring waits.
        unsafe { device.disable_event_tracking() };
        let copying = computing.context().new_stream().map_err(|error| {
            BackendError::Wrong(format!(
                "the driver makes no second stream ({error}); HOST_COPIES=in-turn copies without one"
            ))
        })?;
        Ok(Beside { device: device.clone(), computing, copying })
    }

    fn stream(&self, stream: Stream) -> &CudaStream {
        match stream {
            Stream::Copying => &self.copying,
            Stream::Computing => &self.computing,
        }
    }
}

pub(super) struct Memory {
    /// Pages that stay where they are, from which a device copies by itself.
    staged: PinnedHostSlice<u32>,
    there: CudaSlice<u32>,
}

impl Streams for Beside {
    type Memory = Memory;
    type Event = CudaEvent;
    type Array = Tensor;

    fn memory(&self, words: usize) -> Result<Memory> {
        let there = self.computing.alloc_zeros::<u32>(words).w()?;
        // SAFETY: words are written before they are copied. Ordinary pages (0), as the
        // processor caches them.
        let staged = unsafe { self.computing.context().alloc_pinned_with_flags::<u32>(words, 0) }.w()?;
        Ok(Memory { staged, there })
    }

    fn event(&self) -> Result<CudaEvent> {
        Ok(self.computing.context().new_event(None).w()?)
    }

    fn record(&self, event: &CudaEvent, stream: Stream) -> Result<()> {
        Ok(event.record(self.stream(stream)).w()?)
    }

    fn wait(&self, stream: Stream, event: &CudaEvent) -> Result<()> {
        Ok(self.stream(stream).wait(event).w()?)
    }

    fn finish(&self, event: &CudaEvent) -> Result<()> {
        Ok(event.synchronize().w()?)
    }

    fn write(&self, memory: &mut Memory, words: &[u32]) -> Result<()> {
        memory.staged.as_mut_slice().w()?[..words.len()].copy_from_slice(words);
        Ok(())
    }

    fn copy_in(&self, memory: &mut Memory, words: usize) -> Result<()> {
        let staged = &memory.staged.as_slice().w()?[..words];
        Ok(self.copying.memcpy_htod(staged, &mut memory.there).w()?)
    }

    fn copy_out(&self, memory: &Memory, words: usize) -> Result<Tensor> {
        // SAFETY: all of it is written by the copy.
        let mut array = unsafe { self.computing.alloc::<u32>(words) }.w()?;
        self.computing.memcpy_dtod(&memory.there.slice(..words), &mut array).w()?;
        let storage = CudaStorage::wrap_cuda_slice(array, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), words, BackpropOp::none(), false))
    }
}
