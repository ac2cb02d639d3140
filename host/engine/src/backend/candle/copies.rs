//! The way of a batch's lists to the device: one behind the other in one array, which is
//! copied at once, out of memory that takes turns (`ring.rs`). What is looked up are parts
//! of that array.
//!
//! A list that was not foreseen (`wanted.rs`) is copied alone, in its turn with what the
//! device computes: later, and as right.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
#[cfg(feature = "cuda")]
use crate::backend::candle::beside::Beside;
use crate::backend::candle::ring::{Ring, SLOTS, Stream, Streams};

type Result<T> = std::result::Result<T, BackendError>;

/// Bytes that CUDA's driver takes from ordinary memory at once, without waiting for what
/// the device still computes ("Asynchronous Concurrent Execution" in NVIDIA's
/// programming guide). A batch may have more rows.
const AT_ONCE: usize = 64 << 10;

/// Lists start at multiples of so many words, 256 bytes, as arrays of their own do.
const ALIGNMENT: usize = 64;

/// Lists in one array, each once.
#[derive(Debug, Default)]
pub(super) struct Layout {
    words: Vec<u32>,
    places: BTreeMap<Vec<u32>, Range<usize>>,
}

impl Layout {
    pub fn add(&mut self, list: Vec<u32>) {
        if list.is_empty() || self.places.contains_key(&list) {
            return;
        }
        let start = self.words.len().next_multiple_of(ALIGNMENT);
        self.words.resize(start, 0);
        self.words.extend(&list);
        self.places.insert(list, start..self.words.len());
    }

    pub fn extend(&mut self, lists: impl IntoIterator<Item = Vec<u32>>) {
        lists.into_iter().for_each(|list| self.add(list));
    }
}

/// What has gone to the device; shared with the backend that counts.
#[derive(Clone, Debug, Default)]
pub struct Copies(Arc<[AtomicU64; 2]>);

impl Copies {
    /// Copies of all the lists of a batch.
    pub fn of_batches(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Copies of a list alone, which was not foreseen.
    pub fn alone(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }
}

/// What brings words to a device.
pub(super) trait Bring {
    /// The words as an array of its own there.
    fn bring(&mut self, words: &[u32]) -> Result<Tensor>;
}

impl<S: Streams<Array = Tensor>> Bring for Ring<S> {
    fn bring(&mut self, words: &[u32]) -> Result<Tensor> {
        Ring::bring(self, words)
    }
}

/// The lists of a batch that are on the device.
pub(super) struct Lists {
    device: Device,
    ring: Box<dyn Bring>,
    known: BTreeMap<Vec<u32>, Tensor>,
    copies: Copies,
}

impl Lists {
    /// Copied in their turn with what the device computes.
    pub fn in_turn(device: &Device) -> Lists {
        Lists::by(device, Ring::new(InTurn(device.clone())))
    }

    pub fn by(device: &Device, ring: impl Bring + 'static) -> Lists {
        Lists {
            device: device.clone(),
            ring: Box::new(ring),
            known: BTreeMap::new(),
            copies: Copies::default(),
        }
    }

    pub fn copies(&self) -> Copies {
        self.copies.clone()
    }

    /// Forgets all lists.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// Brings lists, in place of all others.
    ///
    /// # Errors
    /// Memory that is not to be had; what the driver says.
    pub fn begin(&mut self, lists: Layout) -> Result<()> {
        self.known.clear();
        if lists.words.is_empty() {
            return Ok(());
        }
        let all = self.ring.bring(&lists.words)?;
        self.copies.0[0].fetch_add(1, Ordering::Relaxed);
        for (list, place) in lists.places {
            self.known.insert(list, all.narrow(0, place.start, place.len())?);
        }
        Ok(())
    }

    /// A list on the device, to which it is copied once a batch: layers ask for the same.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn list(&mut self, list: Vec<u32>) -> Result<Tensor> {
        if let Some(known) = self.known.get(&list) {
            return Ok(known.clone());
        }
        if list.is_empty() {
            return Ok(Tensor::zeros(0, DType::U32, &self.device)?);
        }
        let alone = in_parts(&list, &self.device)?;
        self.copies.0[1].fetch_add(1, Ordering::Relaxed);
        self.known.insert(list, alone.clone());
        Ok(alone)
    }

    /// Looks whether lists arrive as they are while the device has something else to do,
    /// of one length and of growing ones, more often than there are slots.
    ///
    /// # Errors
    /// Lists that do not; memory that is not to be had; what the driver says.
    pub fn checked(mut self) -> Result<Lists> {
        let mut busy = match self.device.is_cuda() {
            true => Some(Tensor::zeros((2048, 2048), DType::F32, &self.device)?),
            false => None,
        };
        let mut rounds = Vec::new();
        for round in 0..4 * SLOTS as u32 {
            busy = busy.map(|array| array.matmul(&array)).transpose()?;
            let mut lists = Layout::default();
            for length in [1, 700, (3000 * round).max(5)] {
                lists.add((0..length).map(|place| place.wrapping_mul(2_654_435_761) ^ round).collect());
            }
            self.begin(lists)?;
            rounds.push(std::mem::take(&mut self.known));
        }
        for (list, array) in rounds.into_iter().flatten() {
            if array.to_vec1::<u32>()? != list {
                return Err(BackendError::Wrong(
                    "a list that was copied to this device beside what it computes has arrived as another; \
                     HOST_COPIES=in-turn copies between what it computes"
                        .into(),
                ));
            }
        }
        Ok(self)
    }
}

impl Candle {
    /// The same backend, which copies the lists of a batch while it computes the one before,
    /// on a GPU of NVIDIA's, by a second stream.
    ///
    /// # Errors
    /// Lists that do not arrive as they are; what the driver says.
    pub fn with_copies_beside(self) -> Result<Candle> {
        let lists = match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Lists::by(&self.device, Ring::new(Beside::new(device)?)),
            device => Lists::in_turn(device),
        };
        Ok(Candle { lists: RefCell::new(lists.checked()?), ..self })
    }

    /// What has gone to the device for batches, now and later.
    pub fn copies(&self) -> Copies {
        self.lists.borrow().copies()
    }
}

/// Words on the device, one at least, in parts for which a driver does not wait.
fn in_parts(words: &[u32], device: &Device) -> Result<Tensor> {
    let parts = words.chunks(AT_ONCE / size_of::<u32>());
    let parts = parts.map(|part| Tensor::from_slice(part, part.len(), device));
    let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(match &parts[..] {
        [whole] => whole.clone(),
        parts => Tensor::cat(parts, 0)?,
    })
}

/// A device that has one stream, if any: each call is done, or in its turn, when it
/// returns, and there is nothing to wait for.
struct InTurn(Device);

impl Streams for InTurn {
    type Memory = Vec<u32>;
    type Event = ();
    type Array = Tensor;

    fn memory(&self, words: usize) -> Result<Vec<u32>> {
        Ok(vec![0; words])
    }

    fn event(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self, (): &(), _: Stream) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _: Stream, (): &()) -> Result<()> {
        Ok(())
    }

    fn finish(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn write(&self, memory: &mut Vec<u32>, words: &[u32]) -> Result<()> {
        memory[..words.len()].copy_from_slice(words);
        Ok(())
    }

    fn copy_in(&self, _: &mut Vec<u32>, _: usize) -> Result<()> {
        Ok(())
    }

    fn copy_out(&self, memory: &Vec<u32>, words: usize) -> Result<Tensor> {
        in_parts(&memory[..words], &self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_that_nobody_foresaw_arrives_whole_whatever_its_length() {
        let mut lists = Lists::in_turn(&Device::Cpu);
        for count in [0, 1, AT_ONCE / 4, AT_ONCE / 4 + 1, 3 * AT_ONCE / 4 + 5] {
            let list: Vec<u32> = (0..count as u32).rev().collect();
            assert_eq!(lists.list(list.clone()).unwrap().to_vec1::<u32>().unwrap(), list);
        }
        assert_eq!((lists.copies().of_batches(), lists.copies().alone()), (0, 4));
    }

    #[test]
    fn the_check_of_a_device_holds_where_copies_are_plain() {
        Lists::in_turn(&Device::Cpu).checked().unwrap();
    }

    /// Brings each word as the next number.
    struct Wrong(Ring<InTurn>);

    impl Bring for Wrong {
        fn bring(&mut self, words: &[u32]) -> Result<Tensor> {
            self.0.bring(&words.iter().map(|word| word.wrapping_add(1)).collect::<Vec<_>>())
        }
    }

    #[test]
    fn what_arrives_as_another_list_is_said() {
        let lists = Lists::by(&Device::Cpu, Wrong(Ring::new(InTurn(Device::Cpu))));
        let Err(error) = lists.checked() else { panic!("nothing was said") };
        assert!(error.to_string().contains("HOST_COPIES=in-turn"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Lists of several batches, also of those long gone, and lists that nobody foresaw.
        #[test]
        fn lists_arrive_as_they_are_and_stay(
            batches in prop::collection::vec(
                prop::collection::vec((0usize..3000, any::<u32>()), 0..6), 1..4 * SLOTS
            ),
            grows in any::<bool>(),
        ) {
            let mut lists = Lists::in_turn(&Device::Cpu);
            let mut seen = Vec::new();
            let mut foreseen = 0;
            for (number, batch) in batches.iter().enumerate() {
                let of = |&(length, salt): &(usize, u32)| -> Vec<u32> {
                    let length = if grows { length * (number + 1) } else { length };
                    (0..length as u32).map(|place| place.wrapping_mul(salt) ^ salt).collect()
                };
                let mut layout = Layout::default();
                // Twice the same is one list.
                layout.extend(batch.iter().chain(batch).map(of));
                foreseen += u64::from(!layout.words.is_empty());
                lists.begin(layout).unwrap();
                let before = lists.copies().alone();
                for list in batch.iter().map(of).filter(|list| !list.is_empty()) {
                    let array = lists.list(list.clone()).unwrap();
                    prop_assert_eq!(array.layout().start_offset() % ALIGNMENT, 0);
                    seen.push((list, array));
                }
                prop_assert_eq!(lists.copies().alone(), before);
                let other = vec![number as u32; 7];
                seen.push((other.clone(), lists.list(other).unwrap()));
            }
            prop_assert_eq!(lists.copies().of_batches(), foreseen);
            for (list, array) in seen {
                prop_assert_eq!(array.to_vec1::<u32>().unwrap(), list);
            }
        }
    }
}
