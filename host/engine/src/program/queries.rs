//! One query a sequence. Below a head that reads one row of each sequence, the last
//! attention is asked for the context of that row alone: it is given one query of each
//! sequence and all keys and values, and the other queries are not computed.

use std::ops::Range;

use crate::program::attend::Attend;
use crate::program::build::Program;
use crate::program::instruction::{Instruction, RowChoice};
use crate::program::narrow::take;
use crate::program::value::{Extent, Storage, ValueId};

/// Attention over queries, keys and values side by side, of which one row a sequence
/// is read.
#[derive(Clone, Copy)]
struct Found {
    qkv: ValueId,
    context: ValueId,
    /// The rows that are read.
    read: ValueId,
    hidden: usize,
}

/// What takes the place of the matrix that holds queries, keys and values.
#[derive(Clone, Copy)]
struct Apart {
    /// The rows of the projections' input that make queries.
    chosen: ValueId,
    queries: ValueId,
    memory: ValueId,
}

/// Rewrites the attention of which a head reads the first token of each sequence.
pub fn narrow_queries(program: &mut Program) {
    let found = (0..program.forward.len()).find_map(|place| find(program, place));
    if let Some((found, input)) = found {
        rewrite(program, found, input);
    }
}

/// The attention whose context these rows are taken of, and the input of its
/// projections, where each of them works on rows by itself and can be cut in two.
fn find(program: &Program, place: usize) -> Option<(Found, ValueId)> {
    let Instruction::TakeRows { x: context, out: read, choice: RowChoice::FirstToken } =
        program.forward[place]
    else {
        return None;
    };
    let touching = |value: ValueId| {
        let touches = move |instruction: &&Instruction| {
            instruction.accesses().iter().any(|(other, _)| program.root(*other) == program.root(value))
        };
        program.forward.iter().filter(touches)
    };
    let working = |value: ValueId| program.value(value).storage == Storage::Working;
    let kept = program.outputs.iter().any(|output| output.value == context);
    if kept || !working(context) || !working(read) || touching(context).count() != 2 {
        return None;
    }
    let attention = touching(context).next()?;
    let &Instruction::Attention { qkv, .. } = attention else { return None };
    let &[_, Extent::Fixed(hidden)] = program.value(context).extents.as_slice() else { return None };
    let mut inputs = Vec::new();
    for writer in touching(qkv).filter(|&instruction| instruction != attention) {
        let (written, input, columns) = projection(program, writer)?;
        let whole = columns.end <= hidden || columns.start >= hidden;
        if written != qkv || !working(qkv) || !(whole || divisible(program, writer)) {
            return None;
        }
        inputs.extend(input);
    }
    let input = *inputs.first()?;
    inputs.iter().all(|&other| other == input).then_some((Found { qkv, context, read, hidden }, input))
}

/// What an instruction writes, the rows that it reads for it, and which columns it writes,
/// where it is a part of a projection.
fn projection(
    program: &Program,
    instruction: &Instruction,
) -> Option<(ValueId, Option<ValueId>, Range<usize>)> {
    let outputs = |value: ValueId| match program.value(value).extents.first() {
        Some(&Extent::Fixed(outputs)) => outputs,
        _ => 0,
    };
    let (written, input, first_column, outputs) = match *instruction {
        Instruction::Linear { x, weight, y, first_column } => (y, Some(x), first_column, outputs(weight)),
        Instruction::AddBias { y, bias, first_column } => (y, None, first_column, outputs(bias)),
        Instruction::LowRank { x, b, y, first_column, .. } => (y, Some(x), first_column, outputs(b)),
        _ => return None,
    };
    Some((written, input, first_column..first_column + outputs))
}

/// Whether an instruction can be made two of fewer columns each: its parameter lies
/// row by row in a block.
fn divisible(program: &Program, instruction: &Instruction) -> bool {
    let parameter = match *instruction {
        Instruction::Linear { weight, .. } => weight,
        Instruction::AddBias { bias, .. } => bias,
        _ => return false,
    };
    matches!(program.value(parameter).storage, Storage::Parameter { .. })
}

fn rewrite(program: &mut Program, found: Found, input: ValueId) {
    let Found { qkv, context, read, hidden } = found;
    let wanted = program.value(qkv).wants_gradient;
    let mut working = |rows: Extent, columns: usize| {
        program.add_value(vec![rows, Extent::Fixed(columns)], Storage::Working, wanted)
    };
    let (queries, memory) = (working(Extent::Sequences, hidden), working(Extent::Tokens, 2 * hidden));
    let mut apart = None;
    for instruction in std::mem::take(&mut program.forward) {
        let touches = |value: ValueId| instruction.accesses().iter().any(|(other, _)| *other == value);
        match instruction {
            Instruction::TakeRows { x, .. } if x == context => {}
            Instruction::Attention { qkv: read_by, heads, dropout, .. } if read_by == qkv => {
                let log_sums = vec![Extent::Fixed(heads), Extent::Sequences];
                let log_sums = program.add_value(log_sums, Storage::Working, false);
                program.forward.push(Instruction::Attend(Attend {
                    queries,
                    memory: Some(memory),
                    bias: None,
                    heads,
                    scale: 1.0 / ((hidden / heads) as f32).sqrt(),
                    causal: false,
                    out: read,
                    log_sums,
                    dropout,
                }));
            }
            _ if touches(qkv) => {
                let apart = *apart.get_or_insert_with(|| {
                    let chosen = take(program, input, RowChoice::FirstToken, Extent::Sequences);
                    Apart { chosen, queries, memory }
                });
                split(program, instruction, apart, hidden);
            }
            _ => program.forward.push(instruction),
        }
    }
}

/// Puts a part of the projections on the side of the queries, on that of keys and
/// values, or half on each.
fn split(program: &mut Program, instruction: Instruction, apart: Apart, hidden: usize) {
    let Some((_, _, columns)) = projection(program, &instruction) else { return };
    let before = columns.start..columns.end.min(hidden);
    let behind = columns.start.max(hidden)..columns.end;
    for (part, y, moved) in [(before, apart.queries, 0), (behind, apart.memory, hidden)] {
        if part.is_empty() {
            continue;
        }
        let rows = part.start - columns.start..part.end - columns.start;
        let mut half = instruction.clone();
        match &mut half {
            Instruction::Linear { x, weight, y: out, first_column } => {
                *weight = rows_of(program, *weight, rows);
                (*out, *first_column) = (y, part.start - moved);
                if y == apart.queries {
                    *x = apart.chosen;
                }
            }
            Instruction::AddBias { bias, y: out, first_column } => {
                *bias = rows_of(program, *bias, rows);
                (*out, *first_column) = (y, part.start - moved);
            }
            Instruction::LowRank { x, hidden: inner, y: out, first_column, .. } => {
                (*out, *first_column) = (y, part.start - moved);
                if y == apart.queries {
                    *x = apart.chosen;
                    program.values[inner.0 as usize].extents[0] = Extent::Sequences;
                }
            }
            _ => {}
        }
        program.forward.push(half);
    }
}

/// Rows of a parameter, as a value of their own where they are not all.
fn rows_of(program: &mut Program, parameter: ValueId, rows: Range<usize>) -> ValueId {
    let whole = program.value(parameter).clone();
    let fixed = |extent: &Extent| if let Extent::Fixed(size) = extent { *size } else { 1 };
    let row: usize = whole.extents[1..].iter().map(fixed).product();
    match whole.storage {
        Storage::Parameter { block, offset } if rows.len() < fixed(&whole.extents[0]) => {
            let mut extents = whole.extents;
            extents[0] = Extent::Fixed(rows.len());
            let storage = Storage::Parameter { block, offset: offset + rows.start * row };
            program.add_value(extents, storage, whole.wants_gradient)
        }
        _ => parameter,
    }
}
