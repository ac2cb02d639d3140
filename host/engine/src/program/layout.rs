//! Memory: which values live when, and where in one arena they lie.
//!
//! Lifetimes are known once a program is; offsets depend on the sizes of the
//! batch and are assigned for each batch anew, which takes microseconds. The
//! arena grows to the largest batch and is never given back, so that a warm
//! step allocates nothing.

use crate::program::access::Access;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::{Sizes, Storage, ValueId};

/// Elements at which values start: a cache line.
const ALIGNMENT: usize = 16;

/// Lifetimes of the values of a program in its working memory.
#[derive(Clone, Debug, Default)]
pub struct Lifetimes {
    /// For each value, the one whose memory it shares.
    pub roots: Vec<ValueId>,
    /// By instruction: values of which it is the first to touch them.
    starts: Vec<Vec<ValueId>>,
    /// By instruction: values of which it is the last to touch them.
    ends: Vec<Vec<ValueId>>,
}

/// Takes away forward instructions of which nothing is read or kept.
pub fn prune(program: &mut Program) {
    let mut needed = vec![false; program.values.len()];
    let mut keep = vec![false; program.forward.len()];
    for output in &program.outputs {
        needed[program.root(output.value).0 as usize] = true;
    }
    for (value, needed) in program.values.iter().zip(&mut needed) {
        *needed |= matches!(value.storage, Storage::Kept { .. });
    }
    for (place, instruction) in program.forward.iter().enumerate().rev() {
        let accesses = instruction.accesses();
        let writes = |access: Access| access != Access::Read;
        let needs =
            accesses.iter().any(|&(value, access)| writes(access) && needed[program.root(value).0 as usize]);
        if needs || matches!(instruction, Instruction::SumLoss { .. }) {
            keep[place] = true;
            for (value, _) in accesses {
                needed[program.root(value).0 as usize] = true;
            }
        }
    }
    let mut keep = keep.into_iter();
    program.forward.retain(|_| keep.next().unwrap_or(true));
}

impl Lifetimes {
    /// The lifetimes of a program. Outputs live to the end.
    pub fn new(program: &Program) -> Lifetimes {
        let count = program.forward.len() + program.backward.len();
        let roots: Vec<ValueId> =
            (0..program.values.len() as u32).map(|place| program.root(ValueId(place))).collect();
        let mut range: Vec<Option<(usize, usize)>> = vec![None; program.values.len()];
        for (place, instruction) in program.instructions().enumerate() {
            for (value, _) in instruction.accesses() {
                let root = roots[value.0 as usize];
                if program.value(root).storage == Storage::Working {
                    let (first, _) = range[root.0 as usize].unwrap_or((place, place));
                    range[root.0 as usize] = Some((first, place));
                }
            }
        }
        for output in &program.outputs {
            let root = roots[output.value.0 as usize];
            if let Some(range) = &mut range[root.0 as usize] {
                range.1 = count.saturating_sub(1);
            }
        }
        let mut lifetimes =
            Lifetimes { roots, starts: vec![Vec::new(); count], ends: vec![Vec::new(); count] };
        for (place, range) in range.iter().enumerate() {
            if let Some((first, last)) = *range {
                lifetimes.starts[first].push(ValueId(place as u32));
                lifetimes.ends[last].push(ValueId(place as u32));
            }
        }
        lifetimes
    }

    /// Assigns an offset to each value that lives in working memory, for a
    /// batch of these sizes; the others keep theirs. Answers the size of the
    /// arena in elements.
    pub fn assign(&self, program: &Program, sizes: &Sizes, offsets: &mut Vec<usize>) -> usize {
        offsets.clear();
        offsets.resize(program.values.len(), usize::MAX);
        let length = |value: ValueId| program.value(value).elements(sizes).next_multiple_of(ALIGNMENT);
        let mut free = FreeList::default();
        for (starts, ends) in self.starts.iter().zip(&self.ends) {
            for &value in starts {
                offsets[value.0 as usize] = free.take(length(value));
            }
            for &value in ends {
                free.give(offsets[value.0 as usize], length(value));
            }
        }
        for place in 0..offsets.len() {
            offsets[place] = offsets[self.roots[place].0 as usize];
        }
        free.end
    }

    /// By instruction: the lengths of all values in working memory that live then, together.
    pub fn live(&self, length: impl Fn(ValueId) -> usize) -> Vec<usize> {
        let mut live = 0;
        let sum = |values: &[ValueId]| values.iter().map(|&value| length(value)).sum::<usize>();
        let along = self.starts.iter().zip(&self.ends).map(|(starts, ends)| {
            let now = live + sum(starts);
            live = now - sum(ends);
            now
        });
        along.collect()
    }
}

/// Free places of the arena, in order, never side by side.
#[derive(Debug, Default)]
struct FreeList {
    places: Vec<(usize, usize)>,
    end: usize,
}

impl FreeList {
    /// The smallest free place that fits, or one at the end.
    fn take(&mut self, length: usize) -> usize {
        if length == 0 {
            return 0;
        }
        let fitting = self.places.iter().enumerate().filter(|(_, (_, free))| *free >= length);
        if let Some((place, &(offset, free))) = fitting.min_by_key(|(_, (_, free))| *free) {
            match free == length {
                true => {
                    self.places.remove(place);
                }
                false => self.places[place] = (offset + length, free - length),
            }
            return offset;
        }
        // A free place that reaches the end is made longer.
        let start = match self.places.last() {
            Some(&(offset, free)) if offset + free == self.end => {
                self.places.pop();
                offset
            }
            _ => self.end,
        };
        self.end = start + length;
        start
    }

    fn give(&mut self, offset: usize, length: usize) {
        if length == 0 {
            return;
        }
        let place = self.places.partition_point(|&(other, _)| other < offset);
        self.places.insert(place, (offset, length));
        if let Some(&(next, free)) = self.places.get(place + 1)
            && offset + self.places[place].1 == next
        {
            self.places[place].1 += free;
            self.places.remove(place + 1);
        }
        if place > 0 && self.places[place - 1].0 + self.places[place - 1].1 == offset {
            self.places[place - 1].1 += self.places[place].1;
            self.places.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_places_join_and_are_taken_again() {
        let mut free = FreeList::default();
        let (a, b, c) = (free.take(32), free.take(16), free.take(64));
        assert_eq!((a, b, c, free.end), (0, 32, 48, 112));
        free.give(a, 32);
        free.give(b, 16);
        assert_eq!(free.places, vec![(0, 48)]);
        assert_eq!(free.take(40), 0);
        assert_eq!(free.take(40), 112);
        free.give(c, 64);
        assert_eq!(free.places, vec![(40, 72)]);
    }
}
