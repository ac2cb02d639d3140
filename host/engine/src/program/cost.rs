//! What a program costs: floating-point operations of its matrix products, and what the second
//! backend takes beside its values.

use std::collections::BTreeMap;

use half::bf16;

use crate::batch::Batch;
use crate::program::absorb::{Absorbed, AbsorbedBackward};
use crate::program::attend::{Attend, AttendBackward};
use crate::program::build::Program;
use crate::program::halves::{Rounds, rounds};
use crate::program::instruction::Instruction;
use crate::program::value::{Extent, Sizes, Storage, ValueId};

/// Arrays of padded scores that the second backend has at one time in the backward pass
/// of attention, where it composes that of tensor operations: exponentials,
/// probabilities, a mask, and gradients of each.
const COMPOSED_SCORES: usize = 8;
/// Arrays of an instruction's largest value that it has at one time beside; one more in what
/// kernels of our own do elsewhere, as in GELU's gradient, and where values of bf16 are copied.
const COMPOSED_ARRAYS: usize = 4;
/// And beside kernels, in a low-rank update of values in fp32: what dropout leaves, and what is
/// added.
const LOW_RANK_ARRAYS: usize = 2;

/// Bytes that the second backend takes beside a program's values, by instruction.
/// Sequences are padded there to the longest. For heads of at most `own_columns` columns it has
/// kernels of attention, which make no array of scores, but not for scores by relative
/// positions; 0 says that it has no kernels at all. `halves` says by value whether it is stored
/// in bf16, as its kernels read and write it.
pub fn composed_bytes(program: &Program, sizes: &Sizes, own_columns: usize, halves: &[bool]) -> Vec<usize> {
    let scores = |heads: usize| COMPOSED_SCORES * sizes.sequences * heads * sizes.longest * sizes.longest;
    let elements = |value: ValueId| program.value(value).elements(sizes);
    let made = |value: ValueId| !matches!(program.value(value).storage, Storage::Parameter { .. });
    let largest = |instruction: &Instruction| {
        let values = instruction.accesses().into_iter().map(|(value, _)| value);
        values.filter(|&value| made(value)).map(elements).max().unwrap_or(0)
    };
    let taken = program.instructions().map(|instruction| {
        let padded = match *instruction {
            Instruction::Attention { heads, out: context, .. }
            | Instruction::AttentionBackward { heads, dout: context, .. } => {
                match program.value(context).columns(sizes) <= heads * own_columns {
                    true => 0,
                    false => scores(heads),
                }
            }
            Instruction::Disentangled { heads, .. } | Instruction::DisentangledBackward { heads, .. } => {
                scores(heads)
            }
            Instruction::Attend(attend)
            | Instruction::AttendBackward(AttendBackward { forward: attend, .. }) => {
                let small = program.value(attend.out).columns(sizes) <= attend.heads * own_columns;
                match attend.has_one_query(program) {
                    _ if small => 0,
                    true => scores(attend.heads) / sizes.longest.max(1),
                    false => scores(attend.heads),
                }
            }
            Instruction::Absorbed(absorbed)
            | Instruction::AbsorbedBackward(AbsorbedBackward { forward: absorbed, .. }) => {
                scores(absorbed.heads) / sizes.longest.max(1)
            }
            _ => 0,
        };
        let arrays = match rounds(program, instruction) {
            // In the place of one, or beside it. What a low-rank gradient sums up of pieces of rows is
            // as long as one only where rows are few: there are no more pieces than fill a device.
            Rounds::ByKernels(values) if padded == 0 && own_columns > 0 => {
                let halves = values.iter().flatten().all(|value| halves[value.0 as usize]);
                match *instruction {
                    Instruction::LowRank { .. } | Instruction::LowRankBackward { .. } if !halves => {
                        size_of::<f32>() * LOW_RANK_ARRAYS
                    }
                    // The gradient of a gain is summed up over an array in fp32.
                    Instruction::RmsNormBackward { dgain: Some(_), .. } => size_of::<f32>(),
                    _ if halves => size_of::<bf16>(),
                    _ => size_of::<f32>(),
                }
            }
            Rounds::ByCopies(values) => {
                let copies = values.iter().flatten().any(|value| halves[value.0 as usize]);
                size_of::<f32>() * (COMPOSED_ARRAYS + usize::from(copies))
            }
            Rounds::ByKernels(_) => size_of::<f32>() * (COMPOSED_ARRAYS + 1),
        };
        padded * size_of::<f32>() + arrays * largest(instruction)
    });
    taken.collect()
}

/// Bytes of the gradients of parameters that there are at each instruction: each is made when
/// something is first added to it, or all are `there` from the start. Beside one that is there
/// lie what is added to it, and the sum that takes its place.
pub fn gradient_bytes(program: &Program, sizes: &Sizes, there: bool) -> Vec<usize> {
    let touched = |instruction: &Instruction| {
        let accesses = instruction.accesses().into_iter();
        let gradients = accesses.filter_map(|(value, _)| match program.value(program.root(value)).storage {
            Storage::Gradient { block, offset } => {
                Some(((block, offset), size_of::<f32>() * program.value(value).elements(sizes)))
            }
            _ => None,
        });
        gradients.collect::<Vec<_>>()
    };
    let mut made = BTreeMap::new();
    if there {
        made.extend(program.instructions().flat_map(touched));
    }
    let mut bytes: usize = made.values().sum();
    let along = program.instructions().map(|instruction| {
        let mut beside = 0;
        for (place, length) in touched(instruction) {
            match made.insert(place, length) {
                Some(_) => beside += 2 * length,
                None => bytes += length,
            }
        }
        bytes + beside
    });
    along.collect()
}

/// Bytes of parameters that do not train, as the second backend brings them to a device
/// whose products are of bf16: those that programs read, in bf16 what products and
/// look-ups read, and the rest in fp32.
pub fn frozen_bytes(
    program: &Program,
    sizes: &Sizes,
    halves: &[bool],
    trains: impl Fn(usize) -> bool,
) -> usize {
    let mut parts = BTreeMap::new();
    for instruction in program.instructions() {
        let rounded: Vec<Option<ValueId>> = match *instruction {
            Instruction::Linear { weight, .. } | Instruction::LinearInputGradient { weight, .. } => {
                vec![Some(weight)]
            }
            Instruction::LowRank { a, b, .. } | Instruction::LowRankBackward { a, b, .. } => {
                vec![Some(a), Some(b)]
            }
            Instruction::Absorbed(absorbed)
            | Instruction::AbsorbedBackward(AbsorbedBackward { forward: absorbed, .. }) => {
                vec![Some(absorbed.weight)]
            }
            Instruction::Embed { word, position, token_type, prompt, out, .. } if halves[out.0 as usize] => {
                vec![Some(word), position, token_type, prompt]
            }
            _ => Vec::new(),
        };
        for (value, _) in instruction.accesses() {
            if let Storage::Parameter { block, offset } = program.value(value).storage
                && !trains(block)
            {
                let size = if rounded.contains(&Some(value)) { size_of::<bf16>() } else { size_of::<f32>() };
                let elements = program.value(value).elements(sizes);
                parts.insert((block, offset, elements, size), size * elements);
            }
        }
    }
    parts.values().sum()
}

/// Floating-point operations of the matrix products of a batch, a multiplication
/// and an addition counted as two. Probabilities of attention that the backward
/// pass computes again are counted again; everything that is no product is not
/// counted.
pub fn product_operations(program: &Program, batch: &Batch) -> u64 {
    let sizes = Sizes::of(batch);
    let squares: u64 = batch.starts.windows(2).map(|range| u64::from(range[1] - range[0]).pow(2)).sum();
    let elements = |value: ValueId| program.value(value).elements(&sizes) as u64;
    let columns = |value: ValueId| program.value(value).columns(&sizes) as u64;
    let instructions = program.instructions();
    let operations = instructions.map(|instruction| match *instruction {
        Instruction::Linear { x, weight, .. } => 2 * rows(elements(x), columns(x)) * elements(weight),
        Instruction::LinearInputGradient { dx, weight, .. } => {
            2 * rows(elements(dx), columns(dx)) * elements(weight)
        }
        Instruction::LinearWeightGradient { x, dweight, .. } => {
            2 * rows(elements(x), columns(x)) * elements(dweight)
        }
        Instruction::LowRank { x, a, b, .. } => {
            2 * rows(elements(x), columns(x)) * (elements(a) + elements(b))
        }
        Instruction::LowRankBackward { a, b, hidden, da, db, dx, .. } => {
            let products = [
                elements(b),
                da.map_or(0, |_| elements(a)),
                db.map_or(0, |_| elements(b)),
                dx.map_or(0, |_| elements(a)),
            ];
            2 * rows(elements(hidden), columns(hidden)) * products.iter().sum::<u64>()
        }
        // Scores and their product with the values; backward, scores once more
        // and a product for each of four gradients.
        Instruction::Attention { out, .. } => 2 * 2 * squares * columns(out),
        Instruction::AttentionBackward { dout, dqkv, .. } => {
            let wanted = match program.value(dqkv).extents[0] {
                Extent::Virtual => batch.rows() as u64 * u64::from(batch.virtual_tokens),
                _ => squares,
            };
            2 * (2 * squares + 3 * wanted) * columns(dout)
        }
        // A product more for each term, of which at least as many elements are picked.
        Instruction::Disentangled { out, terms, .. } => 2 * (2 + terms.count()) * squares * columns(out),
        Instruction::DisentangledBackward { dout, terms, dpositions, .. } => {
            let products = 5 + terms.count() * if dpositions.is_some() { 3 } else { 2 };
            2 * products * squares * columns(dout)
        }
        Instruction::Attend(attend) => 2 * 2 * pairs(program, batch, &attend) * columns(attend.out),
        Instruction::AttendBackward(AttendBackward { forward, dmemory, .. }) => {
            let gradients = if forward.memory.is_some() && dmemory.is_none() { 3 } else { 5 };
            gradients * 2 * pairs(program, batch, &forward) * columns(forward.out)
        }
        // Both projections of one row a sequence, and two products of all rows a head.
        Instruction::Absorbed(Absorbed { weight, x, heads, .. }) => {
            2 * (batch.sequences() as u64 * elements(weight) + 2 * heads as u64 * elements(x))
        }
        Instruction::AbsorbedBackward(AbsorbedBackward {
            forward: Absorbed { weight, x, heads, .. },
            dx,
            ..
        }) => {
            let products = if dx.is_some() { 4 } else { 2 };
            2 * (batch.sequences() as u64 * elements(weight) + products * heads as u64 * elements(x))
        }
        Instruction::Matmul { a, out, transpose, .. } => {
            let extents = &program.value(a).extents;
            let inner = extents.len() - if transpose.0 { 2 } else { 1 };
            2 * elements(out) * sizes.resolve(extents[inner]) as u64
        }
        _ => 0,
    });
    operations.sum()
}

/// Pairs of a query and a key that an attention computes.
fn pairs(program: &Program, batch: &Batch, attend: &Attend) -> u64 {
    let starts = |value: ValueId| match program.value(value).extents.first() {
        Some(Extent::Targets) => &batch.target.starts,
        _ => &batch.starts,
    };
    if attend.has_one_query(program) {
        return batch.rows() as u64;
    }
    let lengths = |value: ValueId| starts(value).windows(2).map(|bounds| u64::from(bounds[1] - bounds[0]));
    let all = lengths(attend.queries).zip(lengths(attend.memory.unwrap_or(attend.queries)));
    all.map(|(queries, keys)| if attend.causal { queries * (queries + 1) / 2 } else { queries * keys }).sum()
}

fn rows(elements: u64, columns: u64) -> u64 {
    elements / columns.max(1)
}
