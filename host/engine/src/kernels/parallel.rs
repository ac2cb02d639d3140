//! Threads with static shares: what is cut where depends on sizes and on the
//! number of threads, never on timing, so that a run can be repeated bit by bit.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread::LocalKey;

use super::team::Team;

/// Elements below which a share of an element-wise kernel is not worth waking
/// another thread.
const MINIMUM_ELEMENTS: usize = 32 * 1024;

/// The threads of the kernels: the calling one and those of a team.
#[derive(Debug)]
pub struct Threads {
    team: Option<Team>,
    count: usize,
}

impl Threads {
    /// `count` threads in all, at least one; a single one needs no team.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn new(count: usize) -> std::io::Result<Threads> {
        let count = count.max(1);
        let team = if count > 1 { Some(Team::new(count - 1)?) } else { None };
        Ok(Threads { team, count })
    }

    /// Number of threads, the calling one included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Cuts `0..length` into at most one range a thread, none shorter than
    /// `minimum` where there is more than one, all but the last a multiple of
    /// `unit` long.
    pub fn ranges(
        &self,
        length: usize,
        minimum: usize,
        unit: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let units = length.div_ceil(unit);
        let parts = (length / minimum.max(1)).clamp(1, self.count).min(units.max(1));
        let cut = move |part: usize| (units * part / parts * unit).min(length);
        (0..parts).map(move |part| cut(part)..cut(part + 1)).filter(|range| !range.is_empty())
    }

    /// The ranges of `rows` rows of `width` elements for an element-wise kernel.
    pub fn row_ranges(&self, rows: usize, width: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        self.ranges(rows, MINIMUM_ELEMENTS.div_ceil(width.max(1)), 1)
    }

    /// The ranges of the columns for a kernel that goes down all `rows` rows;
    /// cut at whole vectors.
    pub fn column_ranges(&self, rows: usize, width: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        self.ranges(width, MINIMUM_ELEMENTS.div_ceil(rows.max(1)).max(16), 16)
    }

    /// Runs the tasks, the first on the calling thread, and waits for all.
    pub fn run<T: FnOnce() + Send>(&self, tasks: impl IntoIterator<Item = T>) {
        let tasks: Vec<_> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
        let run = |part: usize| {
            let task = tasks[part].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                task();
            }
        };
        match &self.team {
            Some(team) if tasks.len() > 1 => team.run(tasks.len(), &run),
            _ => (0..tasks.len()).for_each(run),
        }
    }
}

/// Cuts the first `length` elements off a slice, or all where fewer are left:
/// the last row of a strided matrix may end before its stride does.
pub(super) fn take<'a>(slice: &mut &'a mut [f32], length: usize) -> &'a mut [f32] {
    let length = length.min(slice.len());
    slice.split_off_mut(..length).unwrap_or_default()
}

/// A matrix into which several threads write at different places.
pub(super) struct SharedMatrix<'a> {
    pointer: *mut f32,
    length: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the matrix is an exclusive borrow of plain numbers; threads that use
// it together promise in each call of `row` or `pointer` to keep apart.
unsafe impl Send for SharedMatrix<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMatrix<'_> {}

impl<'a> SharedMatrix<'a> {
    /// Rows start every `stride` elements of `values`.
    pub fn new(values: &'a mut [f32], stride: usize) -> SharedMatrix<'a> {
        SharedMatrix { pointer: values.as_mut_ptr(), length: values.len(), stride, borrow: PhantomData }
    }

    /// Elements `columns` of a row.
    ///
    /// # Safety
    /// While the slice lives, no other slice or pointer of this matrix is used
    /// for the same elements.
    #[allow(clippy::mut_from_ref)] // What the type is for; see Safety.
    #[inline(always)]
    pub unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        let start = row * self.stride + columns.start;
        let length = columns.end - columns.start;
        assert!(start + length <= self.length, "a row lies outside of its matrix");
        // SAFETY: inside the borrowed slice, and alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }

    /// A pointer to the element at `row` and `column`, from which `rows` rows
    /// of `columns` elements can be reached.
    pub fn pointer(&self, row: usize, column: usize, rows: usize, columns: usize) -> *mut f32 {
        let start = row * self.stride + column;
        let end = if rows == 0 || columns == 0 { start } else { start + (rows - 1) * self.stride + columns };
        assert!(end <= self.length, "a block lies outside of its matrix");
        // SAFETY: `start` is not behind the end of the borrowed slice.
        unsafe { self.pointer.add(start) }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends each of the `parts` a slice of so many elements of this thread's
/// scratch memory, which is kept between calls. The contents are left over from
/// earlier uses; each slice starts at a multiple of 64 bytes.
pub(super) fn with_scratch<const PARTS: usize, R>(
    parts: [usize; PARTS],
    work: impl FnOnce([&mut [f32]; PARTS]) -> R,
) -> R {
    lend(&SCRATCH, parts, work)
}

/// As `with_scratch`, of other memory: that of a product's packed operand, whose caller
/// may have scratch memory of its own.
#[inline(always)] // Into code for the vector instructions that were found.
pub(super) fn with_panel<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    lend(
        &PANEL,
        [length],
        #[inline(always)]
        |[panel]| work(panel),
    )
}

#[inline(always)]
fn lend<const PARTS: usize, R>(
    memory: &'static LocalKey<RefCell<Vec<f32>>>,
    parts: [usize; PARTS],
    work: impl FnOnce([&mut [f32]; PARTS]) -> R,
) -> R {
    let padded = parts.map(|length| length.next_multiple_of(16));
    let needed = padded.iter().sum::<usize>() + 16;
    // Taken out, so that a nested use gets memory of its own.
    let mut scratch = memory.take();
    if scratch.len() < needed {
        scratch.resize(needed, 0.0);
    }
    let offset = scratch.as_ptr().align_offset(64);
    let mut rest = &mut scratch[offset.min(16)..];
    let slices = std::array::from_fn(|part| {
        let slice = take(&mut rest, padded[part]);
        &mut slice[..parts[part]]
    });
    let result = work(slices);
    memory.set(scratch);
    result
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn ranges_cover_each_element_once() {
        for count in [1, 2, 3, 8] {
            let threads = Threads::new(count).unwrap();
            for (length, minimum, unit) in [(0, 1, 1), (1, 1, 1), (17, 4, 8), (1000, 1, 64), (1000, 400, 1)] {
                let ranges: Vec<_> = threads.ranges(length, minimum, unit).collect();
                let mut next = 0;
                for range in &ranges {
                    assert_eq!(range.start, next);
                    assert!(range.start % unit == 0);
                    next = range.end;
                }
                assert_eq!(next, length);
                assert!(ranges.len() <= count);
            }
        }
    }

    #[test]
    fn all_tasks_run_before_the_call_returns() {
        for count in [1, 2, 5] {
            let threads = Threads::new(count).unwrap();
            let sum = AtomicUsize::new(0);
            threads.run((1..=10).map(|number| {
                let sum = &sum;
                move || {
                    sum.fetch_add(number, Ordering::Relaxed);
                }
            }));
            assert_eq!(sum.load(Ordering::Relaxed), 55);
        }
    }

    #[test]
    fn scratch_is_aligned_disjoint_and_may_be_nested() {
        with_scratch([5, 33], |[first, second]| {
            assert_eq!((first.len(), second.len()), (5, 33));
            assert_eq!(second.as_ptr().align_offset(64), 0);
            first.fill(1.0);
            second.fill(2.0);
            with_scratch([64], |[inner]| inner.fill(3.0));
            assert!(first.iter().all(|&value| value == 1.0));
            assert!(second.iter().all(|&value| value == 2.0));
        });
    }
}
