//! Memory that takes turns in copies from the host to a device, beside what the device
//! computes.
//!
//! A slot has memory of the host, which a device reads by itself, and memory of the
//! device. The host writes the one; the stream that copies brings it to the other; the
//! stream that computes takes it from there into an array of its own, between two of its
//! kernels. Each waits for what was before it:
//!
//! - the host, before it writes, for the end of the last copy out of the slot;
//! - the copy for the computing stream's last taking out of the slot, or for the
//!   allocation of its memory;
//! - the taking for the copy.
//!
//! So the copy waits for nothing that the device computes, but for what was begun so many
//! batches ago as there are slots. What the rest of a program sees is an array like others,
//! made on the one stream that uses it: no memory of a slot is seen outside, and how long
//! somebody keeps an array does not matter. All that anyone waits for was handed over
//! before, so that nobody waits for ever.

use crate::backend::BackendError;

type Result<T> = std::result::Result<T, BackendError>;

/// Slots of a ring. The host is so many batches ahead of the copies at most, which are
/// as many ahead of what is computed.
pub(super) const SLOTS: usize = 3;

/// Words that a slot has room for at least.
const LEAST: usize = 1 << 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Copying,
    Computing,
}

/// A device's two streams. What is handed over to a stream is done later, in its order;
/// only [`Streams::finish`] and [`Streams::write`] are done when they return.
pub(super) trait Streams {
    /// Memory of the host and of the device. Dropped, the former is gone at once, and the
    /// latter once the computing stream has done what was handed over before.
    type Memory;
    type Event;
    type Array;

    /// Memory of so many words, which the computing stream allocates.
    fn memory(&self, words: usize) -> Result<Self::Memory>;

    /// An event that has happened.
    fn event(&self) -> Result<Self::Event>;

    /// The event happens anew once the stream has done what was handed over before.
    fn record(&self, event: &Self::Event, stream: Stream) -> Result<()>;

    /// The stream goes on once the event, as it was recorded last, has happened.
    fn wait(&self, stream: Stream, event: &Self::Event) -> Result<()>;

    /// The host waits for the event, as it was recorded last.
    fn finish(&self, event: &Self::Event) -> Result<()>;

    /// Writes words to the host's memory.
    fn write(&self, memory: &mut Self::Memory, words: &[u32]) -> Result<()>;

    /// So many words from the host's memory to the device's, by the copying stream.
    fn copy_in(&self, memory: &mut Self::Memory, words: usize) -> Result<()>;

    /// So many words of the device's memory as an array, by the computing stream.
    fn copy_out(&self, memory: &Self::Memory, words: usize) -> Result<Self::Array>;
}

struct Slot<S: Streams> {
    memory: S::Memory,
    room: usize,
    /// The last copy out of the host's memory.
    copied: S::Event,
    /// The last use of the device's memory by the computing stream.
    taken: S::Event,
}

impl<S: Streams> Slot<S> {
    fn new(streams: &S, room: usize) -> Result<Slot<S>> {
        let memory = streams.memory(room)?;
        let (copied, taken) = (streams.event()?, streams.event()?);
        streams.record(&taken, Stream::Computing)?;
        Ok(Slot { memory, room, copied, taken })
    }

    /// The host has waited for `copied`. Where memory for the array ends, the slot is as
    /// it was but for words that nobody takes.
    fn bring(&mut self, streams: &S, words: &[u32]) -> Result<S::Array> {
        streams.write(&mut self.memory, words)?;
        streams.wait(Stream::Copying, &self.taken)?;
        streams.copy_in(&mut self.memory, words.len())?;
        streams.record(&self.copied, Stream::Copying)?;
        streams.wait(Stream::Computing, &self.copied)?;
        let array = streams.copy_out(&self.memory, words.len())?;
        streams.record(&self.taken, Stream::Computing)?;
        Ok(array)
    }
}

/// Slots that are used one after another.
pub(super) struct Ring<S: Streams> {
    streams: S,
    slots: [Option<Slot<S>>; SLOTS],
    turn: usize,
}

impl<S: Streams> Ring<S> {
    pub fn new(streams: S) -> Ring<S> {
        Ring { streams, slots: [const { None }; SLOTS], turn: 0 }
    }

    /// Words as an array of the computing stream.
    ///
    /// # Errors
    /// Memory that is not to be had; what the driver says. The ring can be used on.
    pub fn bring(&mut self, words: &[u32]) -> Result<S::Array> {
        let place = &mut self.slots[self.turn];
        self.turn = (self.turn + 1) % SLOTS;
        if let Some(slot) = place {
            self.streams.finish(&slot.copied)?;
        }
        // What is too small goes before more is asked for.
        let mut slot = match place.take().filter(|slot| slot.room >= words.len()) {
            Some(slot) => slot,
            None => Slot::new(&self.streams, words.len().next_power_of_two().max(LEAST))?,
        };
        let array = slot.bring(&self.streams, words);
        *place = Some(slot);
        array
    }
}

impl<S: Streams> Drop for Ring<S> {
    /// Memory of the host goes once nothing is copied out of it.
    fn drop(&mut self) {
        for slot in self.slots.iter().flatten() {
            // A device that does not answer copies no more, and nobody is there to be told.
            let _ = self.streams.finish(&slot.copied);
        }
    }
}

#[cfg(test)]
mod tests;
