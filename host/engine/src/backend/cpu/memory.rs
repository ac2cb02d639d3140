//! The memory of the CPU backend: one arena for working values, blocks of
//! parameters and gradients.

use std::marker::PhantomData;

use memmap2::MmapMut;

use crate::backend::BackendError;
use crate::compile::Compiled;
use crate::parameters::Parameters;
use crate::program::build::Program;
use crate::program::value::{Sizes, Storage, ValueId};

/// Times the memory of a first batch for which addresses are reserved, so that
/// longer batches seldom need another arena. What is never touched is never there.
const RESERVED: usize = 4;

/// Working memory in pages of its own: zeros until they are written, and not
/// there until they are touched.
#[derive(Default)]
struct Arena {
    pages: Option<MmapMut>,
}

impl Arena {
    /// Number of elements.
    fn len(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.len() / size_of::<f32>())
    }

    /// The first element, at the start of a page.
    fn start(&mut self) -> *mut f32 {
        self.pages.as_mut().map_or(std::ptr::NonNull::dangling().as_ptr(), |pages| pages.as_mut_ptr().cast())
    }

    fn elements(&self) -> &[f32] {
        let Some(pages) = &self.pages else { return &[] };
        // SAFETY: pages start at multiples of four, all their bytes are
        // initialised, and every pattern of bits is a number.
        unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len() / size_of::<f32>()) }
    }

    /// Makes room for so many elements; what was there is lost.
    fn grow(&mut self, elements: usize) -> Result<(), BackendError> {
        if elements <= self.len() {
            return Ok(());
        }
        // It goes first, so that old and new are never there together.
        self.pages = None;
        let bytes = elements * size_of::<f32>();
        let pages = MmapMut::map_anon(bytes.saturating_mul(RESERVED)).or_else(|_| MmapMut::map_anon(bytes));
        let pages = pages.map_err(|_| BackendError::OutOfMemory { bytes })?;
        // Large pages where the system has them; without, it is only slower.
        #[cfg(target_os = "linux")]
        pages.advise(memmap2::Advice::HugePage).ok();
        self.pages = Some(pages);
        Ok(())
    }
}

/// All memory of a cell on the CPU.
#[derive(Default)]
pub struct Memory {
    arena: Arena,
    pub parameters: Vec<Vec<f32>>,
    pub gradients: Vec<Vec<f32>>,
    /// Memory that outlives a run, by slot.
    pub kept: Vec<Vec<f32>>,
    /// First and second moments of AdamW, by block, of what trains.
    pub moments: Vec<[Vec<f32>; 2]>,
    /// By value: the first element in its storage, for the current batch.
    offsets: Vec<usize>,
    /// By value: the number of elements, for the current batch.
    lengths: Vec<usize>,
    pub sizes: Sizes,
}

/// Zeros, or an error where there is no memory for them.
fn zeros(count: usize) -> Result<Vec<f32>, BackendError> {
    let mut elements = Vec::new();
    let reserved = elements.try_reserve_exact(count);
    reserved.map_err(|_| BackendError::OutOfMemory { bytes: count * size_of::<f32>() })?;
    elements.resize(count, 0.0);
    Ok(elements)
}

impl Memory {
    /// Takes parameters, and makes room for the gradients and moments of those
    /// blocks that train.
    pub fn set_parameters(
        &mut self,
        parameters: &Parameters,
        blocks: Vec<Vec<f32>>,
    ) -> Result<(), BackendError> {
        self.gradients.clear();
        self.moments.clear();
        for block in &parameters.blocks {
            let count = if block.trains() { block.elements } else { 0 };
            self.gradients.push(zeros(count)?);
            self.moments.push([zeros(count)?, zeros(count)?]);
        }
        self.parameters = blocks;
        Ok(())
    }

    /// Places the values of a program for a batch of these sizes. The arena
    /// grows where it has to.
    pub fn place(&mut self, compiled: &Compiled, sizes: Sizes) -> Result<(), BackendError> {
        let program = &compiled.program;
        let elements = compiled.lifetimes.assign(program, &sizes, &mut self.offsets);
        self.arena.grow(elements)?;
        self.lengths.clear();
        self.lengths.extend(program.values.iter().map(|value| value.elements(&sizes)));
        for (place, value) in program.values.iter().enumerate() {
            match value.storage {
                Storage::Parameter { offset, .. } | Storage::Gradient { offset, .. } => {
                    self.offsets[place] = offset;
                }
                Storage::Kept { .. } => self.offsets[place] = 0,
                Storage::Working | Storage::InPlaceOf(_) => {}
            }
        }
        for value in &program.values {
            if let Storage::Kept { slot } = value.storage {
                self.keep(slot, value.elements(&sizes))?;
            }
        }
        // Views of parameters and gradients start where those do.
        for place in 0..program.values.len() {
            let root = compiled.lifetimes.roots[place].0 as usize;
            self.offsets[place] = self.offsets[root];
        }
        self.sizes = sizes;
        Ok(())
    }

    /// Makes room in memory that outlives a run; what is there stays.
    fn keep(&mut self, slot: usize, elements: usize) -> Result<(), BackendError> {
        if self.kept.len() <= slot {
            self.kept.resize_with(slot + 1, Vec::new);
        }
        let kept = &mut self.kept[slot];
        let more = elements.saturating_sub(kept.len());
        let reserved = kept.try_reserve(more);
        reserved.map_err(|_| BackendError::OutOfMemory { bytes: elements * size_of::<f32>() })?;
        kept.resize(kept.len() + more, 0.0);
        Ok(())
    }

    /// A copy of a value in working memory.
    pub fn working(&self, value: ValueId, length: usize) -> Vec<f32> {
        let start = self.offsets[value.0 as usize];
        self.arena.elements()[start..start + length].to_vec()
    }
}

/// The values of a program as slices, several of them at a time.
pub struct Views<'a> {
    memory: *mut Memory,
    program: &'a Program,
    borrow: PhantomData<&'a mut Memory>,
}

impl<'a> Views<'a> {
    pub fn new(memory: &'a mut Memory, program: &'a Program) -> Views<'a> {
        Views { memory, program, borrow: PhantomData }
    }

    /// The start of a value and its length, inside its storage.
    fn place(&self, value: ValueId) -> (*mut f32, usize) {
        // SAFETY: `memory` is borrowed exclusively for as long as `self`. The
        // reference lives only here, and touches the vectors themselves, never
        // the elements to which slices were given out.
        let memory = unsafe { &mut *self.memory };
        let root = self.program.root(value);
        let (start, available) = match self.program.value(root).storage {
            Storage::Parameter { block, .. } => {
                (memory.parameters[block].as_mut_ptr(), memory.parameters[block].len())
            }
            Storage::Gradient { block, .. } => {
                (memory.gradients[block].as_mut_ptr(), memory.gradients[block].len())
            }
            Storage::Kept { slot } => (memory.kept[slot].as_mut_ptr(), memory.kept[slot].len()),
            Storage::Working | Storage::InPlaceOf(_) => (memory.arena.start(), memory.arena.len()),
        };
        let (offset, length) = (memory.offsets[value.0 as usize], memory.lengths[value.0 as usize]);
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= available),
            "a value lies outside its storage"
        );
        // SAFETY: the offset lies inside the storage, as asserted.
        (unsafe { start.add(offset) }, length)
    }

    /// The sizes of a value's axes in the current batch.
    pub fn sizes(&self, value: ValueId) -> Vec<usize> {
        // SAFETY: as in `place`.
        let sizes = unsafe { (*self.memory).sizes };
        self.program.value(value).sizes(&sizes)
    }

    /// Size of the last axis.
    pub fn columns(&self, value: ValueId) -> usize {
        // SAFETY: as in `place`.
        let sizes = unsafe { (*self.memory).sizes };
        self.program.value(value).columns(&sizes)
    }

    /// The elements of a value to read.
    pub fn read(&self, value: ValueId) -> &'a [f32] {
        let (start, length) = self.place(value);
        // SAFETY: the range lies inside its storage, which is initialised.
        // Values that live at the same time do not overlap unless one is in
        // place of the other (`Lifetimes::assign`), and no instruction reads a
        // value through this slice that it writes through another.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// The elements of a value to write. An instruction takes each value that
    /// it writes once, and reads none that shares its memory.
    #[allow(clippy::mut_from_ref)] // Values of one arena are written and read side by side.
    pub fn write(&self, value: ValueId) -> &'a mut [f32] {
        let (start, length) = self.place(value);
        // SAFETY: as for `read`; exclusive, because instructions take in-place
        // pairs through one slice only.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }
}
