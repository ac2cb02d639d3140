//! The ring on two streams that go on in any order that their waits allow, as chance has
//! it. What takes its turn too early or too late is seen: words of another batch, memory
//! that is not there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

type Words = Rc<RefCell<Option<Vec<u32>>>>;

/// Words of the host and of the device; `None` where they are gone.
struct Memory {
    staged: Words,
    there: Words,
    device: Rc<Device>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.staged.take();
        let there = self.there.clone();
        self.device.hand_over(Stream::Computing, Work::Free(there));
    }
}

/// How often it was recorded, and how often that has come to pass.
#[derive(Default)]
struct Event {
    recorded: Cell<u64>,
    happened: Rc<Cell<u64>>,
}

enum Work {
    Allocate(Words, usize),
    Free(Words),
    CopyIn { staged: Words, there: Words, words: usize },
    CopyOut { there: Words, array: Words, words: usize },
    Record(Rc<Cell<u64>>, u64),
    Wait(Rc<Cell<u64>>, u64),
}

/// Two streams, and the chance by which one or the other goes on.
struct Device {
    queues: [RefCell<VecDeque<Work>>; 2],
    chance: Cell<u64>,
    /// What a device would not have done, or somebody waits for in vain.
    faults: Cell<usize>,
}

impl Device {
    fn hand_over(&self, stream: Stream, work: Work) {
        self.queues[stream as usize].borrow_mut().push_back(work);
        // Sometimes a stream keeps up with the host, sometimes it is far behind.
        while self.draw(3) == 0 {
            self.go_on(self.draw(2) as usize);
        }
    }

    fn draw(&self, below: u64) -> u64 {
        let next =
            self.chance.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.chance.set(next);
        (next >> 33) % below
    }

    /// Does what a stream has next, unless it has to wait; answers whether it did.
    fn go_on(&self, stream: usize) -> bool {
        let mut queue = self.queues[stream].borrow_mut();
        match queue.front() {
            None => return false,
            Some(Work::Wait(happened, wanted)) if happened.get() < *wanted => return false,
            Some(_) => {}
        }
        let done = match queue.pop_front().unwrap() {
            Work::Allocate(there, words) => there.replace(Some(vec![u32::MAX; words])).is_none(),
            Work::Free(there) => there.take().is_some(),
            Work::CopyIn { staged, there, words } => {
                match (staged.borrow().as_ref(), there.borrow_mut().as_mut()) {
                    (Some(staged), Some(there)) => {
                        there[..words].copy_from_slice(&staged[..words]);
                        true
                    }
                    _ => false,
                }
            }
            Work::CopyOut { there, array, words } => {
                let taken = there.borrow().as_ref().map(|there| there[..words].to_vec());
                array.replace(taken);
                array.borrow().is_some()
            }
            Work::Record(happened, number) => {
                happened.set(number);
                true
            }
            Work::Wait(..) => true,
        };
        self.faults.set(self.faults.get() + usize::from(!done));
        true
    }

    /// The host waits: both streams go on, in some order, until it is so.
    fn until(&self, holds: impl Fn() -> bool) {
        while !holds() {
            let first = self.draw(2) as usize;
            if !self.go_on(first) && !self.go_on(1 - first) {
                self.faults.set(self.faults.get() + 1);
                return;
            }
        }
    }
}

struct Later {
    device: Rc<Device>,
    /// One of so many asks for memory is refused.
    refuses: Option<u64>,
    /// Leaves out one of the three waits.
    careless: Option<usize>,
}

impl Later {
    fn asked(&self) -> Result<()> {
        match self.refuses {
            Some(one_of) if self.device.draw(one_of) == 0 => Err(BackendError::DeviceOutOfMemory),
            _ => Ok(()),
        }
    }
}

impl Streams for Later {
    type Memory = Memory;
    type Event = Event;
    type Array = Words;

    fn memory(&self, words: usize) -> Result<Memory> {
        self.asked()?;
        let there = Words::default();
        self.device.hand_over(Stream::Computing, Work::Allocate(there.clone(), words));
        let staged = Rc::new(RefCell::new(Some(vec![u32::MAX; words])));
        Ok(Memory { staged, there, device: self.device.clone() })
    }

    fn event(&self) -> Result<Event> {
        Ok(Event::default())
    }

    fn record(&self, event: &Event, stream: Stream) -> Result<()> {
        event.recorded.set(event.recorded.get() + 1);
        self.device.hand_over(stream, Work::Record(event.happened.clone(), event.recorded.get()));
        Ok(())
    }

    fn wait(&self, stream: Stream, event: &Event) -> Result<()> {
        if self.careless != Some(stream as usize) {
            self.device.hand_over(stream, Work::Wait(event.happened.clone(), event.recorded.get()));
        }
        Ok(())
    }

    fn finish(&self, event: &Event) -> Result<()> {
        if self.careless != Some(2) {
            self.device.until(|| event.happened.get() >= event.recorded.get());
        }
        Ok(())
    }

    fn write(&self, memory: &mut Memory, words: &[u32]) -> Result<()> {
        let mut staged = memory.staged.borrow_mut();
        staged.as_mut().unwrap()[..words.len()].copy_from_slice(words);
        Ok(())
    }

    fn copy_in(&self, memory: &mut Memory, words: usize) -> Result<()> {
        let (staged, there) = (memory.staged.clone(), memory.there.clone());
        self.device.hand_over(Stream::Copying, Work::CopyIn { staged, there, words });
        Ok(())
    }

    fn copy_out(&self, memory: &Memory, words: usize) -> Result<Words> {
        self.asked()?;
        let array = Words::default();
        let work = Work::CopyOut { there: memory.there.clone(), array: array.clone(), words };
        self.device.hand_over(Stream::Computing, work);
        Ok(array)
    }
}

/// Batches of such lengths through a ring; answers what went wrong and how many came to
/// something else, once the ring is gone and all is done.
fn through(lengths: &[usize], chance: u64, refuses: Option<u64>, careless: Option<usize>) -> usize {
    let device =
        Rc::new(Device { queues: Default::default(), chance: Cell::new(chance), faults: Cell::default() });
    let mut ring = Ring::new(Later { device: device.clone(), refuses, careless });
    let mut brought = Vec::new();
    for (number, &length) in lengths.iter().enumerate() {
        let words: Vec<u32> = (0..length as u32).map(|place| place ^ ((number as u32) << 20)).collect();
        match ring.bring(&words) {
            Ok(array) => brought.push((words, array)),
            Err(error) => assert_eq!(error, BackendError::DeviceOutOfMemory),
        }
    }
    drop(ring);
    device.until(|| device.queues.iter().all(|queue| queue.borrow().is_empty()));
    let others = brought.iter().filter(|(words, array)| array.borrow().as_ref() != Some(words)).count();
    device.faults.get() + others
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn words_arrive_whatever_the_order_of_the_streams(
        lengths in prop::collection::vec(prop_oneof![1usize..50, 1usize..3 * LEAST], 1..8 * SLOTS),
        chance in any::<u64>(),
        refuses in prop::option::of(2u64..6),
    ) {
        prop_assert_eq!(through(&lengths, chance, refuses, None), 0);
    }
}

/// Each of the waits is needed: without it some order of the streams gives other words.
#[test]
fn without_a_wait_something_else_arrives() {
    for careless in [Stream::Copying as usize, Stream::Computing as usize, 2] {
        let goes_wrong = |chance: u64| through(&[40; 30], chance, None, Some(careless)) > 0;
        assert!((0..200).any(goes_wrong), "wait {careless} is not needed");
    }
}
